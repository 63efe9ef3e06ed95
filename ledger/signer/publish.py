"""Publish signed heads: a file for each journal, in a folder that somebody else copies.

    <folder>/<tenant's id>/tenant.jws          the heads of the tenant's own journal, one token per line, oldest first
    <folder>/<tenant's id>/<dataset's id>.jws  those of a dataset's journal

Lines are only added, and only if the journal still contains the newest published head. If it does not, that is reported
in the log and in the metrics, and the published heads stay. A thread publishes periodically after journals changed;
decisions never wait for it. Several processes may publish into one folder.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, Final, Literal
from uuid import UUID

from ledger.background import Background
from ledger.core import alerts
from ledger.core.alerting import Alert
from ledger.core.datasets import Dataset, Parent
from ledger.core.people import Tenant
from ledger.errors import JournalBroken
from ledger.signer.heads import Heads, SignedHead
from ledger.store import Reading, Store
from ledger.store.overview import BEGINNING
from ledger.verifier import jws
from ledger.verifier.heads import read
from ledger.verifier.jws import PublicKeys

GATHER_SECONDS: Final = 5.0
"""The time between rounds, after which changed journals are published."""
CHECK_SECONDS: Final = 300.0
"""How often all published heads are checked, even if nothing changed."""
LINE_BYTES_MAX: Final = 64 * 1024
TAILS_MAX: Final = 100_000
"""For how many journals the last published head is remembered; others are read again."""
CLOSE_SECONDS_MAX: Final = 20.0
"""How long the end of a process waits for a round, and then for the heads that are left."""
MOVED_PAGE: Final = 100
"""How many journals are published in one transaction."""
DATASETS_PAGE: Final = 500
JOURNALS_PAGE: Final = 1000
"""For how many journals one query reads where they end."""

Outcome = Literal["published", "contradicted", "failed"]

OnDifference = Callable[[tuple[UUID, UUID | None], int, str, int], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Tail:
    """The newest published head of a journal."""

    seq: int
    hash: str
    root: str


class Publisher:
    """Publish the heads of journals that changed."""

    def __init__(
        self,
        store: Store,
        heads: Heads,
        folder: Path,
        *,
        keys: PublicKeys,
        on_outcome: Callable[[Outcome], None],
        on_contradiction: Callable[[UUID, Alert], None] = lambda _tenant_id, _alert: None,
        on_difference: OnDifference = lambda _journal, _seq, _hash, _stored: None,
        gather_seconds: float = GATHER_SECONDS,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        """keys: verify the published heads. on_outcome: called with the outcome of each head;
        on_contradiction: called with an alert if a journal contradicts its head; on_difference: then with the journal's
        ids, the number and hash of the head, and how many entries are stored. None may raise or wait."""
        self._on_difference = on_difference
        self._store, self._heads, self._folder = store, heads, folder
        self._keys, self._on_outcome, self._on_contradiction = keys, on_outcome, on_contradiction
        self._tails: dict[Path, _Tail | None] = {}
        self._moved: set[tuple[UUID, UUID | None]] = set()
        self._lock = threading.Lock()
        self._background = Background(
            "heads",
            self._turn,
            every_seconds=check_seconds,
            gather_seconds=gather_seconds,
            is_due_at_start=True,
        )

    def start(self) -> None:
        self._background.start()

    def close(self) -> None:
        """Publish the journals that have moved, for a bounded time, and end the thread. What is left is published after
        the next start."""
        if self._background.close(seconds_max=CLOSE_SECONDS_MAX):
            self._publish_moved(until=time.monotonic() + CLOSE_SECONDS_MAX)

    def moved(self, tenant_id: UUID, dataset_ids: Iterable[UUID | None]) -> None:
        """Note that these journals of a tenant have new entries; None is its own. Returns at once; thread-safe."""
        with self._lock:
            self._moved.update((tenant_id, dataset_id) for dataset_id in dataset_ids)
        self._background.wake()

    def _turn(self, is_due: bool) -> None:
        """Check and publish what has changed since the last round and, when it is due, everything."""
        self._publish_moved()
        if is_due:
            self.round(self._differing())

    def _publish_moved(self, *, until: float | None = None) -> None:
        with self._lock:
            moved, self._moved = self._moved, set()
        for tenant_id, group in groupby(sorted(moved, key=str), key=lambda journal: journal[0]):
            dataset_ids = [dataset_id for _, dataset_id in group]
            for start in range(0, len(dataset_ids), MOVED_PAGE):
                if until is not None and time.monotonic() > until:
                    log.warning("not all heads were published before the end; the others are after the next start")
                    return
                try:
                    self._publish_some(tenant_id, dataset_ids[start : start + MOVED_PAGE])
                except Exception:
                    log.exception("the heads of tenant %s could not be published", tenant_id)
                    self._on_outcome("failed")

    def _publish_some(self, tenant_id: UUID, dataset_ids: Sequence[UUID | None]) -> None:
        """Publish some of a tenant's journals, all in one transaction."""
        folder = self._folder / str(tenant_id)
        for dataset_id in dataset_ids:  # first, because the database may only grow in between
            if (path := folder / f"{dataset_id or 'tenant'}.jws").exists():
                self._is_read(path)
        with self._store.reading(tenant_id) as reading:
            tenant = reading.tenants.current()
            datasets = reading.datasets.by_ids([dataset_id for dataset_id in dataset_ids if dataset_id is not None])
            if tenant is None:
                return
            if None in dataset_ids:
                self._one(reading, tenant, None, folder / "tenant.jws")
            for dataset in datasets:
                self._one(reading, tenant, dataset, folder / f"{dataset.id}.jws")

    def _differing(self) -> set[UUID]:
        """Return the tenants with a journal that ends elsewhere than its published head, or cannot be compared. One
        query reads many journals, so that unchanged ones cost almost nothing."""
        known = self._known()
        differing: set[UUID] = set()
        published: set[Path] = set()
        for tenant_id in known:
            for path in (self._folder / str(tenant_id)).glob("*.jws"):
                try:
                    self._remember(path)
                except (OSError, jws.SignatureInvalid):
                    differing.add(tenant_id)  # reported when that tenant is checked
                else:
                    published.add(path)
        after: tuple[UUID, UUID] | None = BEGINNING
        while after is not None:
            with self._store.overview() as overview:
                rows = overview.journals(after=after, limit=JOURNALS_PAGE)
            for row in rows:
                path = self._folder / str(row.tenant_id) / f"{row.dataset_id or 'tenant'}.jws"
                published.discard(path)
                tail = self._tails.get(path)
                is_same = row.seq == 0 if tail is None else (tail.seq, tail.hash) == (row.seq, row.head.hex())
                if row.tenant_id in known and not is_same:
                    differing.add(row.tenant_id)
            after = (rows[-1].tenant_id, rows[-1].dataset_id or BEGINNING[1]) if len(rows) == JOURNALS_PAGE else None
        return differing | {UUID(path.parent.name) for path in published}

    def _known(self) -> set[UUID]:
        """Return the tenants with published heads, from the folder: a server's role cannot list tenants."""
        try:
            names = [path.name for path in self._folder.iterdir() if path.is_dir()]
        except FileNotFoundError:
            return set()
        except OSError as error:
            log.error("the folder of published heads cannot be read: %s", error)
            self._on_outcome("failed")
            return set()
        return set(filter(None, map(_as_id, names)))

    def round(self, tenant_ids: Iterable[UUID]) -> None:
        """Check what was published for these tenants, and publish what is new. Raises nothing: a failure is logged, and
        retried when the tenant's journals change or all are checked."""
        for tenant_id in sorted(tenant_ids):
            try:
                self._publish(tenant_id)
            except Exception:
                log.exception("the heads of tenant %s could not be published", tenant_id)
                self._on_outcome("failed")

    # --- a tenant

    def _publish(self, tenant_id: UUID) -> None:
        # Read the published heads first: the database may only grow in between.
        folder = self._folder / str(tenant_id)
        left = {path for path in folder.glob("*.jws") if self._is_read(path)}
        with self._store.reading(tenant_id) as reading:
            if (tenant := reading.tenants.current()) is not None:
                self._one(reading, tenant, None, folder / "tenant.jws")
                left.discard(folder / "tenant.jws")
        after: str | None = None
        while tenant is not None and (page := self._page(tenant_id, after)):
            ids = [dataset.id for dataset in page]
            for start in range(0, len(ids), MOVED_PAGE):
                self._publish_some(tenant_id, ids[start : start + MOVED_PAGE])
            left -= {folder / f"{id_}.jws" for id_ in ids}
            after = page[-1].definition.name
        for path in left:
            self._contradicted(path, f"is missing, with the whole journal {path.stem}, of which heads were published")

    def _page(self, tenant_id: UUID, after: str | None) -> list[Dataset]:
        with self._store.reading(tenant_id) as reading:
            return reading.datasets.page(after=after, limit=DATASETS_PAGE, only=None)

    def _one(self, reading: Reading, tenant: Tenant, dataset: Dataset | None, path: Path) -> None:
        """Compare a journal with its newest published head, and publish its newest one."""
        seq, newest = (tenant.seq, tenant.head) if dataset is None else (dataset.seq, dataset.head)
        tail = self._tails.get(path)
        try:
            if tail is not None:
                self._demand(reading, tenant, dataset, tail, seq=seq, newest=newest)
            if seq > (0 if tail is None else tail.seq):
                self._append(path, self._heads.signed(reading, dataset, tenant=tenant))
        except JournalBroken as error:
            if tail is None or not self._is_accounted(reading, dataset, tail):
                self._contradicted(path, error.detail, dataset=dataset, seq=error.seq)
                if tail is not None:
                    self._on_difference((tenant.id, None if dataset is None else dataset.id), tail.seq, tail.hash, seq)
            elif seq > tail.seq:
                self._append(path, self._heads.signed(reading, dataset, tenant=tenant))
        except jws.SignatureInvalid as error:
            self._contradicted(path, error.detail, dataset=dataset)

    @staticmethod
    def _is_accounted(reading: Reading, dataset: Dataset | None, tail: _Tail) -> bool:
        """Return whether an entry states that what was published is lost, and accounts for it."""
        return dataset is not None and reading.journals.accounts_for(dataset.id, tail.seq, bytes.fromhex(tail.hash))

    def _demand(
        self, reading: Reading, tenant: Tenant, dataset: Dataset | None, tail: _Tail, *, seq: int, newest: bytes
    ) -> None:
        """Raise JournalBroken if the database does not contain what was published."""
        if seq < tail.seq:
            raise JournalBroken(f"is missing: a head of {tail.seq} entries was published", seq=seq + 1)
        if seq == tail.seq and newest.hex() == tail.hash:
            return
        view = self._heads.view(reading, dataset, tenant=tenant)
        if view.hash_of(tail.seq).hex() != tail.hash:
            raise JournalBroken("is not the one that a published head names", seq=tail.seq)
        if view.root(tail.seq).hex() != tail.root:
            raise JournalBroken("ends another history than the one of which a head was published", seq=tail.seq)

    def _contradicted(self, path: Path, detail: str, *, dataset: Dataset | None = None, seq: int = 1) -> None:
        log.critical("THE JOURNAL CONTRADICTS ITS PUBLISHED HEAD %s: %s", path, detail)
        self._on_outcome("contradicted")
        parent = None if dataset is None else Parent(dataset.id, dataset.definition.name)
        reason = detail.removeprefix(f"entry {seq}: ")
        self._on_contradiction(UUID(path.parent.name), alerts.mismatch(parent, seq=seq, reason=reason))

    # --- files

    def _is_read(self, path: Path) -> bool:
        """Remember the newest head in a file, if it is not known. Return whether there is one. A file that cannot be
        read is reported, and not changed."""
        try:
            return self._remember(path) is not None
        except jws.SignatureInvalid as error:
            self._contradicted(path, error.detail)
            return False

    def _remember(self, path: Path) -> _Tail | None:
        """Return the newest head in a file, which is read only once. Raises OSError and SignatureInvalid."""
        if len(self._tails) >= TAILS_MAX:
            self._tails.clear()
        if path not in self._tails:
            with _locked(path) as file:
                self._tails[path] = self._read(file, path)
        return self._tails[path]

    def _read(self, file: BinaryIO, path: Path) -> _Tail | None:
        """Return the newest head in a file. An incomplete last line, from a process that was killed, does not count."""
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2 * LINE_BYTES_MAX))
        lines = file.read().split(b"\n")
        if lines[-1]:
            file.truncate(size - len(lines[-1]))
        if len(lines) < 2:
            return None
        head = read(lines[-2].decode("ascii", errors="replace"), keys=self._keys, source=path.name)
        tenant_id, dataset_id = head.journal_id
        if (str(tenant_id), str(dataset_id or "tenant")) != (path.parent.name, path.stem):
            raise jws.SignatureInvalid("The head in this file is of another journal. Restore the file from a copy.")
        return _Tail(head.seq, head.hash, head.root)

    def _append(self, path: Path, head: SignedHead) -> None:
        """Add a line, unless another process has published this head or a newer one. Raises OSError."""
        _make_public(path.parent)
        with _locked(path) as file:
            tail = self._read(file, path)
            if tail is None or tail.seq < head["seq"]:
                file.write(f"{head['signature']}\n".encode("ascii"))
                file.flush()
                os.fsync(file.fileno())
                if tail is None:
                    _settle(path.parent)
                tail = _Tail(head["seq"], head["hash"], head["root"])
                self._on_outcome("published")
            self._tails[path] = tail


def _as_id(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read and append, and lock out other processes."""
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    with os.fdopen(opened, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(opened).st_size == 0:
            os.fchmod(opened, 0o644)
        yield file


def _make_public(folder: Path) -> None:
    """Create a folder that others may read, unlike the other files of this process: heads are for others to keep."""
    for path in (folder.parent, folder):
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o755)


def _settle(folder: Path) -> None:
    """Wait until the names in a folder, and its own name, are on disk."""
    for path in (folder, folder.parent):
        opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)

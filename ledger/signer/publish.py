"""Publishing signed heads: a file for each journal, in a folder that somebody else keeps too.

    <folder>/<tenant's id>/tenant.jws          the heads of the tenant's own journal, a token a line, oldest first
    <folder>/<tenant's id>/<dataset's id>.jws  those of a dataset's journal

A line is only ever added, and only where the journal still contains the newest head that stands there: a database that
says otherwise is reported, in the log and in the metrics, and what was published stays. A thread of its own does it,
now and then, once journals have moved; decisions never wait for it. Several processes may publish into one folder.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
"""How long journals may move before their heads are published: at most so often is there a round."""
CHECK_SECONDS: Final = 300.0
"""How often everything that was published is checked, whether or not anything moved."""
LINE_BYTES_MAX: Final = 64 * 1024
TAILS_MAX: Final = 100_000
"""Of how many journals it is remembered what was published last; beyond that it is read again."""
DATASETS_PAGE: Final = 500
JOURNALS_PAGE: Final = 1000
"""Of how many journals it is asked at once where they end."""

Outcome = Literal["published", "contradicted", "failed"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Tail:
    """The newest head that was published of a journal."""

    seq: int
    hash: str
    root: str


class Publisher:
    """Publishes the heads of the journals that it is told have moved."""

    def __init__(
        self,
        store: Store,
        heads: Heads,
        folder: Path,
        *,
        keys: PublicKeys,
        on_outcome: Callable[[Outcome], None],
        on_contradiction: Callable[[UUID, Alert], None] = lambda _tenant_id, _alert: None,
        gather_seconds: float = GATHER_SECONDS,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        """keys: by which published heads are read back. on_outcome: is told what became of each journal's head;
        on_contradiction: whose journal contradicts what was published, as an alert. Neither may raise or wait."""
        self._store, self._heads, self._folder = store, heads, folder
        self._keys, self._on_outcome, self._on_contradiction = keys, on_outcome, on_contradiction
        self._tails: dict[Path, _Tail | None] = {}
        self._moved: set[UUID] = set()
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
        """Ends the thread, and publishes what has moved."""
        if self._background.close():
            self._turn(False)

    def moved(self, tenant_id: UUID) -> None:
        """Some journal of this tenant has new entries. Returns at once; any thread may call it."""
        with self._lock:
            self._moved.add(tenant_id)
        self._background.wake()

    def _turn(self, is_due: bool) -> None:
        """What has moved since the last turn, and, when it is due, everything that was published."""
        with self._lock:
            moved, self._moved = self._moved, set()
        self.round(moved | self._differing() if is_due else moved)

    def _differing(self) -> set[UUID]:
        """The tenants of which something was published and a journal ends elsewhere now, or cannot be compared: found
        by a page of many journals at a time, so that those that did not move cost next to nothing."""
        known = self._known()
        differing: set[UUID] = set()
        published: set[Path] = set()
        for tenant_id in known:
            for path in (self._folder / str(tenant_id)).glob("*.jws"):
                try:
                    self._remember(path)
                except (OSError, jws.SignatureInvalid):
                    differing.add(tenant_id)  # which is reported once that tenant is looked at
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
        """The tenants of which something was published. A server's role cannot list tenants, nor has it to."""
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
        """Checks what was published of these tenants, and publishes what is new. Raises nothing: what fails is logged
        and tried again when the tenant's journals move next, or all are checked."""
        for tenant_id in sorted(tenant_ids):
            try:
                self._publish(tenant_id)
            except Exception:
                log.exception("the heads of tenant %s could not be published", tenant_id)
                self._on_outcome("failed")

    # --- a tenant

    def _publish(self, tenant_id: UUID) -> None:
        # First what was published, and then the database: which another process may have moved on in between, not back.
        folder = self._folder / str(tenant_id)
        left = {path for path in folder.glob("*.jws") if self._is_read(path)}
        with self._store.reading(tenant_id) as reading:
            if (tenant := reading.tenants.current()) is not None:
                self._one(reading, tenant, None, folder / "tenant.jws")
                left.discard(folder / "tenant.jws")
        after: str | None = None
        while tenant is not None and (page := self._page(tenant_id, after)):
            for dataset in page:
                with self._store.reading(tenant_id) as reading:
                    self._one(reading, tenant, dataset, folder / f"{dataset.id}.jws")
                left.discard(folder / f"{dataset.id}.jws")
            after = page[-1].definition.name
        for path in left:
            self._contradicted(path, f"is missing, with the whole journal {path.stem}, of which heads were published")

    def _page(self, tenant_id: UUID, after: str | None) -> list[Dataset]:
        with self._store.reading(tenant_id) as reading:
            return reading.datasets.page(after=after, limit=DATASETS_PAGE, only=None)

    def _one(self, reading: Reading, tenant: Tenant, dataset: Dataset | None, path: Path) -> None:
        """Holds a journal against its newest published head, and publishes its newest one."""
        seq, newest = (tenant.seq, tenant.head) if dataset is None else (dataset.seq, dataset.head)
        tail = self._tails.get(path)
        try:
            if tail is not None:
                self._demand(reading, tenant, dataset, tail, seq=seq, newest=newest)
            if seq > (0 if tail is None else tail.seq):
                self._append(path, self._heads.signed(reading, dataset, tenant=tenant))
        except JournalBroken as error:
            self._contradicted(path, error.detail, dataset=dataset, seq=error.seq)
        except jws.SignatureInvalid as error:
            self._contradicted(path, error.detail, dataset=dataset)

    def _demand(
        self, reading: Reading, tenant: Tenant, dataset: Dataset | None, tail: _Tail, *, seq: int, newest: bytes
    ) -> None:
        """Raises JournalBroken where the database does not contain what was published."""
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
        """Remembers the newest head in a file, if it is not known; whether there is one. Where none can be read, the
        file is reported, and stays as it is."""
        try:
            return self._remember(path) is not None
        except jws.SignatureInvalid as error:
            self._contradicted(path, error.detail)
            return False

    def _remember(self, path: Path) -> _Tail | None:
        """The newest head in a file, which is read the first time alone. Raises OSError and SignatureInvalid."""
        if len(self._tails) >= TAILS_MAX:
            self._tails.clear()
        if path not in self._tails:
            with _locked(path) as file:
                self._tails[path] = self._read(file, path)
        return self._tails[path]

    def _read(self, file: BinaryIO, path: Path) -> _Tail | None:
        """The newest head in a file; a line that was not finished, when a process was killed, was never published."""
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
            raise jws.SignatureInvalid("The head in this file is of another journal.")
        return _Tail(head.seq, head.hash, head.root)

    def _append(self, path: Path, head: SignedHead) -> None:
        """Adds a line, unless another process has published this head or a newer one. Raises OSError."""
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
    """A file to read and to add to, which no other process does meanwhile."""
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    with os.fdopen(opened, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(opened).st_size == 0:
            os.fchmod(opened, 0o644)
        yield file


def _make_public(folder: Path) -> None:
    """Makes a folder that others may read, whatever else this process keeps to itself: heads are for others to keep."""
    for path in (folder.parent, folder):
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o755)


def _settle(folder: Path) -> None:
    """Has the names in a folder, and its own, on disk."""
    for path in (folder, folder.parent):
        opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)

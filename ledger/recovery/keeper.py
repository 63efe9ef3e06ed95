"""Keep the newest head of every journal outside the database, and compare them at the start and from time to time.

Commits are gathered for a quarter of a second, and then written together: one transaction on a small file, whose size
is bounded and of which only what moved is written. Decisions never wait for it. If the server and its machine die at
once, the heads of the last quarter of a second are not in the file; a restore to an earlier point than that is noticed
all the same, because then the database has less than the file.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Final
from uuid import UUID

from ledger.background import Background
from ledger.core.entries import Entry
from ledger.recovery.file import HeadsFile
from ledger.recovery.known import Contradiction, End, Journal, Known
from ledger.store import Reading, Store
from ledger.store.overview import BEGINNING

GATHER_SECONDS: Final = 0.25
"""How long commits are gathered before their heads are written."""
CHECK_SECONDS: Final = 300.0
"""How often all kept heads are compared with the database, even if nothing happened."""
AGAIN_SECONDS: Final = 5.0
"""How often the contradicted journals are compared again, in case somebody put their entries back."""
PAGE: Final = 1000
CLOSE_SECONDS_MAX: Final = 10.0

log = logging.getLogger(__name__)


class Keeper:
    """Writes the file of kept heads, and compares it with the database."""

    def __init__(
        self, store: Store, known: Known, path: Path | None, *, gather_seconds: float = GATHER_SECONDS
    ) -> None:
        """path: the file; None keeps heads in memory only."""
        self._store, self._known = store, known
        self._file = None if path is None else HeadsFile(path)
        self._background = Background(
            "kept-heads", self._turn, every_seconds=AGAIN_SECONDS, gather_seconds=gather_seconds
        )
        self._turns_left = 0
        self._lock = threading.Lock()
        self._failure: str | None = None

    @property
    def failure(self) -> str | None:
        """Return why the newest heads could not be kept; None if they are."""
        return self._failure

    def start(self) -> None:
        """Read the kept heads, compare them with the database, and begin to keep."""
        if self._file is None:
            log.warning("no heads are kept outside the database: set LEDGER_KEPT_HEADS_FILE to a file on another disk")
        else:
            try:
                for journal, end in self._file.all():
                    self._known.load(journal, end)
            except (sqlite3.Error, OSError, ValueError) as error:
                self._failed(error)
        try:
            self.check()
        except Exception as error:  # the database is down: what was read is compared by each decision, and again soon
            log.error("the kept heads could not be compared with the database yet", exc_info=error)
            self._turns_left = 1
        self._background.start()

    def report(self) -> None:
        """Raise the alerts about what was found at the start, now that somebody takes them."""
        self._known.report()

    def close(self) -> None:
        """Keep what has moved, and end the thread."""
        if self._background.close(seconds_max=CLOSE_SECONDS_MAX):
            try:
                self._keep()
            except Exception as error:  # any error: the process ends all the same
                log.error("the newest heads could not be kept at the end", exc_info=error)

    def committed(self, tenant_id: UUID, entries: Iterable[Entry], *, is_of_tenant: bool) -> None:
        """Note what was committed. Returns at once. is_of_tenant: the tenant's own journal may have moved."""
        self._known.committed(tenant_id, entries)
        if is_of_tenant:
            self._known.moved_tenant(tenant_id)
        self._background.wake()

    def _turn(self, is_due: bool) -> None:
        if is_due:
            self._turns_left -= 1
            if self._turns_left <= 0:
                self.check()
            else:
                self._look_again()
        self._keep()

    def check(self) -> None:
        """Compare everything that is known with the database. Raises the store's error if it does not answer."""
        self._turns_left = int(CHECK_SECONDS / AGAIN_SECONDS)
        left = dict(self._kept())
        tenants: set[UUID] = set()
        new: list[tuple[Journal, End]] = []
        after: tuple[UUID, UUID] | None = BEGINNING
        while after is not None:
            with self._store.overview() as overview:
                rows = overview.journals(after=after, limit=PAGE)
            for row in rows:
                journal = (row.tenant_id, row.dataset_id)
                tenants.add(row.tenant_id)
                kept = left.pop(journal, None)
                if kept is None:
                    new.append((journal, End(row.seq, row.head, "")))
                elif (row.seq, row.head) != (kept.seq, kept.hash):
                    self._compare(journal, kept)
            after = (rows[-1].tenant_id, rows[-1].dataset_id or BEGINNING[1]) if len(rows) == PAGE else None
        for journal, kept in left.items():
            self._compare(journal, kept)  # in its tenant's own snapshot, since journals are made meanwhile
        if left and not any(journal[0] in tenants for journal in left) and self._file is not None:
            log.critical(
                "none of the tenants whose heads are in %s is in this database. If this is a new ledger, move the"
                " file away: mv %s %s.old",
                *[self._file.path] * 3,
            )
        for tenant_id, group in groupby(new, key=lambda item: item[0][0]):  # they come by tenant
            self._first_seen(tenant_id, dict(group))
        self._look_again()
        self._keep()

    def _kept(self) -> Iterable[tuple[Journal, End]]:
        """Return what is in the file, and what is known and not yet there; of each journal the latest."""
        ends = self._known.ends()
        if self._file is not None:
            try:
                for journal, end in self._file.all():
                    if journal not in ends or ends[journal].seq < end.seq:
                        ends[journal] = end
            except (sqlite3.Error, OSError, ValueError) as error:
                self._failed(error)
        return ends.items()

    def _first_seen(self, tenant_id: UUID, ends: Mapping[Journal, End]) -> None:
        """Note journals of which no head was kept before."""
        with self._store.reading(tenant_id) as reading:
            names = reading.datasets.names_of([journal[1] for journal in ends if journal[1] is not None])
        for journal, end in ends.items():
            self._known.settle(journal, end._replace(name="" if journal[1] is None else names.get(journal[1], "")))
        self._known.put_back(ends)

    def _look_again(self) -> None:
        for journal, found in self._known.contradicted.items():
            self._compare(journal, found.kept)
            if journal[1] is not None and found.stored is not None:
                with self._store.reading(journal[0]) as reading:
                    derived = reading.datasets.ids_derived_from(journal[1])
                for dataset_id in derived:
                    self._known.block((journal[0], dataset_id), because_of=journal)

    def _compare(self, journal: Journal, kept: End) -> End | None:
        """Compare one journal with a head that was kept of it. Return its end now, unless it is contradicted."""
        answers = self._known.answers(journal)  # before the snapshot, so that a later write-off is noticed
        with self._store.reading(journal[0]) as reading:
            now = _end(reading, journal, kept.name)
            if now is None:
                found = Contradiction(kept, None, is_tenant_gone=reading.tenants.current() is None)
            elif now.seq < kept.seq or _hash_at(reading, journal[1], kept.seq) != kept.hash:
                found = Contradiction(kept, now.seq)
            else:
                self._known.settle(journal, now, compared=kept)
                return now
            is_answered = journal[1] is not None and reading.journals.accounts_for(journal[1], kept.seq, kept.hash)
        if is_answered and now is not None:
            self._known.settle(journal, now, compared=kept)
            if self._file is not None:
                self._file.replace(journal, now)
            return now
        self._known.contradict(journal, found, answers=answers)
        return None

    def _keep(self) -> None:
        """Write the heads that moved. What cannot be written now is written later."""
        with self._lock:
            moved = self._known.take_moved()
            try:
                ends = [(journal, end) for journal, end in self._verified(moved) if end is not None]
                if self._file is not None:
                    self._file.keep(ends)
                self._failure = None
            except (sqlite3.Error, OSError) as error:
                self._known.put_back(moved)
                self._failed(error)
            except Exception:
                self._known.put_back(moved)
                raise

    def _verified(self, moved: dict[Journal, tuple[End | None, End | None]]) -> Iterable[tuple[Journal, End | None]]:
        for journal, (end, anchor) in sorted(moved.items(), key=lambda item: _order(item[0])):
            if journal[1] is None or anchor is not None:
                before = anchor or self._known.end_of(journal)
                yield journal, self._compare(journal, before or End(0, b"", ""))
            else:
                yield journal, end

    def _failed(self, error: Exception) -> None:
        where = "" if self._file is None else self._file.path
        if self._failure != str(error):
            log.error("the file of kept heads %s failed, so a restored backup may go unnoticed: %s", where, error)
        self._failure = str(error)


def contradiction_of(store: Store, journal: Journal, kept: End) -> Contradiction | None:
    """Return how a journal contradicts a head that was kept; None if it does not, or accounts for that."""
    with store.reading(journal[0]) as reading:
        now = _end(reading, journal, kept.name)
        if now is None:
            return Contradiction(kept, None)
        if now.seq >= kept.seq and _hash_at(reading, journal[1], kept.seq) == kept.hash:
            return None
        is_accounted = journal[1] is not None and reading.journals.accounts_for(journal[1], kept.seq, kept.hash)
        return None if is_accounted else Contradiction(kept, now.seq)


def _order(journal: Journal) -> tuple[UUID, str]:
    return journal[0], str(journal[1] or "")


def _end(reading: Reading, journal: Journal, name: str) -> End | None:
    """Return where a journal ends by its row; None if there is none."""
    if journal[1] is None:
        tenant = reading.tenants.current()
        return None if tenant is None else End(tenant.seq, tenant.head, "")
    row = reading.datasets.end(journal[1])
    return None if row is None else End(row[0], row[1], name)


def _hash_at(reading: Reading, dataset_id: UUID | None, seq: int) -> bytes | None:
    if seq == 0:
        return b""
    found = reading.journals.hashes(dataset_id, after=seq - 1, limit=1)
    return found[0][1] if found and found[0][0] == seq else None

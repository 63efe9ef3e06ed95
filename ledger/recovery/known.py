"""What a process knows of where journals end, and which of them the database contradicts.

The writer asks about each dataset whose row it has locked, before it decides: that takes a look into a dictionary, and
no statement. So a database that was put back under a running server is noticed by the next decision.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from ledger.core.commands import Change, Command, Register, SetBudget
from ledger.core.datasets import Dataset
from ledger.core.entries import Entry
from ledger.errors import JournalContradicted, LedgerError

JOURNALS_MAX: Final = 200_000
"""For how many journals a process remembers the end; of the others only the file of kept heads knows."""
SHOWN_MAX: Final = 20
"""The most contradicted journals that one answer lists."""

Journal = tuple[UUID, UUID | None]
"""A tenant's id and a dataset's; None is the tenant's own journal."""

log = logging.getLogger(__name__)


class End(NamedTuple):
    """Where a journal ended: the number and hash of an entry, and the dataset's name; '' for the tenant's own."""

    seq: int
    hash: bytes
    name: str


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A journal without an entry that was acknowledged. kept: that entry; stored: how many entries the database has;
    None if the journal is gone."""

    kept: End
    stored: int | None
    is_tenant_gone: bool = False

    @property
    def missing(self) -> str:
        """Return which entries are missing, or that they differ."""
        if self.stored is not None and self.stored >= self.kept.seq:
            return f"entry {self.kept.seq} is not the one that was acknowledged"
        first = (self.stored or 0) + 1
        if first == self.kept.seq:
            return f"entry {first} is missing"
        return f"entries {first} to {self.kept.seq} are missing"

    def error(self) -> JournalContradicted:
        """Return the error for a command on this dataset."""
        facts: dict[str, Any] = {
            "dataset": self.kept.name,
            "kept_seq": self.kept.seq,
            "kept_hash": self.kept.hash.hex(),
            "stored_seq": self.stored,
        }
        return JournalContradicted(
            f"The journal of {self.kept.name} is not the one that this ledger acknowledged: {self.missing}. Probably an"
            " older state of the database was restored. Nothing is decided on this dataset until a steward has put the"
            " entries back or written them off: see docs/how-to/backups.",
            **facts,
        )


class Known:
    """The ends of journals that this process has seen committed or found to hold. Any thread may call it."""

    def __init__(
        self, on_contradiction: Callable[[Journal, Contradiction], None] = lambda _journal, _what: None
    ) -> None:
        """on_contradiction: is called once for each contradiction. It may neither raise nor wait."""
        self._on_contradiction = on_contradiction
        self._lock = threading.Lock()
        self._ends: dict[Journal, End] = {}
        self._anchors: dict[Journal, End] = {}
        self._moved: set[Journal] = set()
        self._contradicted: dict[Journal, Contradiction] = {}
        self._derived: dict[Journal, Journal] = {}
        self._answers: Counter[Journal] = Counter()

    # --- what the writer asks and tells

    def refusals(
        self, tenant_id: UUID, datasets: Iterable[Dataset], commands: Mapping[int, Command]
    ) -> dict[int, LedgerError]:
        """Return an error for each command on which nothing may be decided. datasets: theirs, as they are locked."""
        stuck = self._stuck(tenant_id, datasets)
        if not self._contradicted:
            return {}
        errors = {index: self._refusal(tenant_id, command, stuck) for index, command in commands.items()}
        return {index: error for index, error in errors.items() if error is not None}

    def refusal_on(self, tenant_id: UUID, dataset_ids: Iterable[UUID]) -> JournalContradicted | None:
        """Return why nothing is decided on one of these datasets, by what is known already; None if nothing speaks
        against it. For answers that decide nothing, whose rows may be older than the newest decision."""
        if not self._contradicted:
            return None
        reasons = (self._reason((tenant_id, dataset_id)) for dataset_id in dataset_ids)
        return next((reason.error() for reason in reasons if reason is not None), None)

    def _stuck(self, tenant_id: UUID, datasets: Iterable[Dataset]) -> Mapping[UUID, JournalContradicted]:
        found: dict[UUID, JournalContradicted] = {}
        for dataset in datasets:
            journal = (tenant_id, dataset.id)
            end = self._ends.get(journal)
            if end is not None and (dataset.seq < end.seq or (dataset.seq == end.seq and dataset.head != end.hash)):
                self.contradict(journal, Contradiction(end, dataset.seq))
            if self._contradicted and (reason := self._reason(journal)) is not None:
                found[dataset.id] = reason.error()
        return found

    def _reason(self, journal: Journal) -> Contradiction | None:
        """Return the contradiction of a journal, or of one that it is derived from."""
        return self._contradicted.get(journal) or self._contradicted.get(self._derived.get(journal, journal))

    def _refusal(
        self, tenant_id: UUID, command: Command, stuck: Mapping[UUID, JournalContradicted]
    ) -> JournalContradicted | None:
        """Return the error for a command; None if it may be decided: a steward's new budget that accounts for the lost
        entries, and retirement, which lets nothing begin. stuck: an error for each dataset that is contradicted."""
        if isinstance(command, Register):
            gone = self._gone(tenant_id, command.definition.name)
            return None if gone is None else gone.error()
        if isinstance(command, Change) and command.only_retires:
            return None
        found = next((stuck[id_] for id_ in command.dataset_ids if id_ in stuck), None)
        if found is None or not isinstance(command, SetBudget) or command.lost is None:
            return found
        kept = self._contradicted.get((tenant_id, command.dataset_id))
        return (
            None
            if kept is not None and kept.stored is not None and command.lost.covers(kept.kept.seq, kept.kept.hash)
            else found
        )

    def _gone(self, tenant_id: UUID, name: str) -> Contradiction | None:
        """Return the contradiction of a dataset of this name whose whole journal is gone."""
        missing = [found for (tenant, _), found in self.contradicted.items() if tenant == tenant_id]
        return next((found for found in missing if found.stored is None and found.kept.name == name), None)

    def committed(self, tenant_id: UUID, entries: Iterable[Entry]) -> None:
        """Note entries that were committed, before anybody is told."""
        with self._lock:
            for entry in entries:
                journal = (tenant_id, entry.dataset_id)
                before, record = self._ends.get(journal), entry.record or {}
                if entry.kind == "budget-set" and "lost" in record and journal in self._contradicted:
                    self._answers[journal] += 1
                    # The file still has the head that this entry answers: it is compared once more.
                    self._anchors[journal] = self._contradicted.pop(journal).kept
                    self._forget_derived(journal)
                    self._put(journal, End(entry.seq, entry.hash, str(record["dataset"])))
                    self._moved.add(journal)
                    continue
                if before is not None and entry.seq <= before.seq:
                    continue
                name = before.name if before is not None else str(record.get("dataset", ""))
                if before is not None and entry.seq > before.seq + 1:
                    # Another process wrote in between: what was known before is looked up before it is forgotten.
                    self._anchors.setdefault(journal, before)
                self._put(journal, End(entry.seq, entry.hash, name))
                self._moved.add(journal)

    def moved_tenant(self, tenant_id: UUID) -> None:
        """Note that the tenant's own journal may have moved."""
        with self._lock:
            self._moved.add((tenant_id, None))

    # --- what the keeper does

    def load(self, journal: Journal, end: End) -> None:
        """Note an end from the file of kept heads, unless a later one is known."""
        with self._lock:
            before = self._ends.get(journal)
            if before is None or before.seq < end.seq:
                self._put(journal, end)

    def settle(self, journal: Journal, end: End, *, compared: End | None = None) -> None:
        """Note that the database has everything that was known of a journal, up to this end.

        compared: the head that it was found to have; None if none was known. A contradiction stays if it is about a
        later head: that an older one holds answers nothing.
        """
        with self._lock:
            found = self._contradicted.get(journal)
            if found is not None and (compared is None or compared.seq < found.kept.seq):
                return
            if self._contradicted.pop(journal, None) is not None:
                log.warning(
                    "the journal %s of tenant %s holds again, up to entry %d", _name(journal), journal[0], end.seq
                )
                self._ends.pop(journal, None)
                self._forget_derived(journal)
            self._anchors.pop(journal, None)
            before = self._ends.get(journal)
            if before is None or before.seq < end.seq:
                self._put(journal, end)

    def take_moved(self) -> dict[Journal, tuple[End | None, End | None]]:
        """Return the journals that moved since the last call, each with its newest end and an earlier one that is to be
        looked up first. One that is contradicted is not looked up: its end is what the database lacks, and whoever
        starts next must know it too."""
        with self._lock:
            moved, self._moved = self._moved, set()
            return {
                journal: (
                    self._ends.get(journal),
                    None if journal in self._contradicted else self._anchors.get(journal),
                )
                for journal in moved
            }

    def ends(self) -> dict[Journal, End]:
        """Return the latest end that is known of each journal, whether the database has it or not."""
        with self._lock:
            return self._ends | {journal: found.kept for journal, found in self._contradicted.items()}

    def answers(self, journal: Journal) -> int:
        """Return how often lost entries of a journal were written off."""
        return self._answers[journal]

    def put_back(self, journals: Iterable[Journal]) -> None:
        """Note that these still have to be looked at."""
        with self._lock:
            self._moved.update(journals)

    def end_of(self, journal: Journal) -> End | None:
        """Return what is known of a journal's end."""
        return self._ends.get(journal)

    def contradict(self, journal: Journal, what: Contradiction, *, answers: int | None = None) -> None:
        """Decide nothing more on a journal. answers: how often its lost entries had been written off when the journal
        was read; if they were again since then, this is out of date."""
        with self._lock:
            if answers not in (None, self._answers[journal]):
                return
            is_new = journal not in self._contradicted
            self._contradicted[journal] = what
        if is_new:
            log.critical(
                "THE DATABASE IS NOT WHAT THIS LEDGER ACKNOWLEDGED: journal %s of tenant %s: %s. Was an older state"
                " restored? Nothing is decided on it until a steward has put the entries back or written them off.",
                _name(journal),
                journal[0],
                what.missing,
            )
            self._on_contradiction(journal, what)

    def report(self) -> None:
        """Call `on_contradiction` for everything that is contradicted."""
        for journal, what in self.contradicted.items():
            self._on_contradiction(journal, what)

    def block(self, journal: Journal, *, because_of: Journal) -> None:
        """Decide nothing on a dataset that is derived from a contradicted one."""
        with self._lock:
            self._derived[journal] = because_of

    @property
    def contradicted(self) -> Mapping[Journal, Contradiction]:
        """Return all contradicted journals."""
        with self._lock:
            return dict(self._contradicted)

    def demand_signable(self, tenant_id: UUID, dataset_id: UUID | None) -> str | None:
        """Return why no head of a journal is signed; None if one may be."""
        found = self._contradicted.get((tenant_id, dataset_id))
        return None if found is None else f"contradicts the head that this ledger kept: {found.missing}"

    def _forget_derived(self, journal: Journal) -> None:
        self._derived = {at: of for at, of in self._derived.items() if of != journal}

    def _put(self, journal: Journal, end: End) -> None:
        self._ends[journal] = end
        while len(self._ends) > JOURNALS_MAX:
            self._ends.pop(next(iter(self._ends)))


def _name(journal: Journal) -> str:
    return "tenant" if journal[1] is None else str(journal[1])

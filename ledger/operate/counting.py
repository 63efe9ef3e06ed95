"""A dataset's days as its journal implies them, to compare with the rows that lists and charts use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ledger.core.daily import NOTHING, WHOLE, Day, Days, Place, left_ppm
from ledger.core.datasets import Dataset, Least
from ledger.core.entries import Entry
from ledger.core.journal import chain
from ledger.core.journal.replay import Replayed
from ledger.errors import JournalBroken
from ledger.store import Reading

PAGE: Final = 1000
LEAST_LIMITS_MAX: Final = 8
"""How many of the newest least limits are computed again: each takes as long as many entries."""
AGAIN: Final = "Count them again: privacy-ledger check --recount"


class Counting:
    """Counts the entries of a journal while it is replayed, as far as they are counted in the rows."""

    def __init__(self, reading: Reading, dataset: Dataset) -> None:
        self._reading, self._dataset = reading, dataset
        self._until = reading.days.counted_seq(dataset.id)
        self._days = Days(is_partitioned=dataset.definition.is_partitioned)
        self._found: dict[tuple[Place, int], Day] = {}

    def over(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yield the same entries. Each is counted after it was checked."""
        for entry in entries:
            yield entry
            if entry.seq <= self._until:
                record = chain.parse(entry.body)
                ended = self._days.read(seq=entry.seq, kind=entry.kind, at_us=entry.at_us, record=record)
                self._keep(ended)
        self._keep(self._days.open_day())

    def _keep(self, days: Iterable[Day]) -> None:
        self._found |= {(day.place, day.day): day for day in days}

    def demand_days(self, replayed: Replayed) -> None:
        """Compare the rows with what was counted. Raises JournalBroken."""
        dataset_id = self._dataset.id
        tally = self._reading.days.tallies([dataset_id]).get(dataset_id)
        if tally is None or tally.name != self._dataset.definition.name:
            raise JournalBroken(f"has no count of its days. {AGAIN}", seq=1)
        if tally.seq > replayed.seq:
            raise JournalBroken(f"is missing: {tally.seq} entries are counted by day", seq=replayed.seq + 1)
        after: tuple[str, str, int] | None = None
        least: list[Least] = []
        while page := self._reading.days.page(dataset_id, after=after, limit=PAGE):
            for day, of_day in page:
                if self._found.pop((day.place, day.day), None) != day:
                    raise JournalBroken(f"leaves another balance of a day than its row has. {AGAIN}", seq=day.seq)
                least += [] if of_day is None else [of_day]
            last = page[-1][0]
            after = (*last.place, last.day)
        for day in self._found.values():
            raise JournalBroken(f"leaves a day of which there is no row. {AGAIN}", seq=day.seq)
        self._demand_fullness(tally.left_ppm)
        _demand_least(least, replayed)

    def _demand_fullness(self, stored: int) -> None:
        """Compare how much is left. Before the first count it is what a new dataset has."""
        if self._until == 0:
            return
        if left_ppm(self._days.standing.get(WHOLE, NOTHING)) != stored:
            raise JournalBroken(f"leaves another part of the budget than its row has. {AGAIN}", seq=self._until)


def _demand_least(stored: list[Least], replayed: Replayed) -> None:
    for least in sorted(stored)[-LEAST_LIMITS_MAX:]:
        if replayed.charges.least_limit(least.seq) not in (None, least.amount):
            raise JournalBroken("leaves another least limit than its day has", seq=least.seq)

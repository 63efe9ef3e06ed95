"""Counting a dataset's journal day by day, in the background; and the newest entries that are not counted yet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from ledger.core.daily import NOTHING, WHOLE, Day, Days, Place, day_of, left_ppm
from ledger.core.datasets import Dataset
from ledger.store import Reading
from ledger.store.days import Tally

ENTRIES_AT_ONCE: Final = 1_000
TAIL_MAX: Final = 500
TAIL_OF_WHOLE_MAX: Final = 5_000
"""How many entries that are not counted yet an answer reads: with their balances; without, if one account counts."""
FOREVER: Final = 2**31
"""A day after all others."""


class Counted(NamedTuple):
    """The days that a pass found, up to entry `seq`, and how full the dataset is after it."""

    days: list[Day]
    seq: int
    left_ppm: int


class _Row(NamedTuple):
    seq: int
    kind: str
    at_us: int
    record: dict[str, Any]


def counted(reading: Reading, dataset: Dataset, tally: Tally, *, entries_max: int) -> Counted:
    """Return what the next entries of a journal are, day by day: at most this many, from the last counted one on."""
    until = min(dataset.seq, tally.seq + entries_max)
    is_partitioned = dataset.definition.is_partitioned
    if is_partitioned:
        newest = reading.days.newest(dataset.id, until=FOREVER)
    else:
        newest = {day.place: day for day in reading.days.whole(dataset.id, until=FOREVER)}
    standing = {place: day.balance for place, day in newest.items()}
    days = Days(is_partitioned=is_partitioned, standing=standing, last=newest.get(WHOLE), seq=tally.seq)
    has_parts = is_partitioned or bool(reading.datasets.projects([dataset.id]))
    rows = (
        _every(reading, dataset, tally.seq, until) if has_parts else _last_of_days(reading, dataset, tally.seq, until)
    )
    found: list[Day] = []
    for row in rows:
        found += days.read(seq=row.seq, kind=row.kind, at_us=row.at_us, record=row.record)
    found += days.open_day()
    return Counted(found, days.seq, left_ppm(days.standing.get(WHOLE, NOTHING)))


def _every(reading: Reading, dataset: Dataset, after: int, until: int) -> Iterator[_Row]:
    """Yield entries in full."""
    while page := reading.journals.plain(dataset.id, after=after, until=until, limit=ENTRIES_AT_ONCE):
        for entry in page:
            # Amounts are texts of digits. No other number is used, so none need be exact: a tenth of the time.
            yield _Row(entry.seq, entry.kind, entry.at_us, json.loads(entry.body))
        after = page[-1].seq


def _last_of_days(reading: Reading, dataset: Dataset, after: int, until: int) -> Iterator[_Row]:
    """Yield entries, of which only the last of each day is read in full: each states the one account that counts."""
    while page := reading.journals.kinds(dataset.id, after=after, until=until, limit=ENTRIES_AT_ONCE):
        following = [*page[1:], None]
        for (seq, kind, at_us), then in zip(page, following, strict=True):
            is_last = then is None or day_of(then[2]) != day_of(at_us)
            entry = reading.journals.at(dataset.id, seq) if is_last else None
            yield _Row(seq, kind, at_us, {} if entry is None else json.loads(entry.body))
        after = page[-1][0]


def fresh(reading: Reading, dataset: Dataset, place: Place, *, counted_seq: int) -> list[Day] | None:
    """Return the days of one account by the entries that are not counted yet; None if these are too many."""
    is_partitioned = dataset.definition.is_partitioned
    if counted_seq == dataset.seq:
        return []
    has_parts = place != WHOLE or is_partitioned or bool(reading.datasets.projects([dataset.id]))
    most = TAIL_MAX if has_parts else TAIL_OF_WHOLE_MAX
    if dataset.seq - counted_seq > most or (is_partitioned and place == WHOLE):
        return None
    last = next(iter(reading.days.whole(dataset.id, until=FOREVER)), None)
    standing = {} if last is None else {WHOLE: last.balance}
    days = Days(is_partitioned=False, standing=standing, last=last, seq=counted_seq)
    rows = (_every if has_parts else _last_of_days)(reading, dataset, counted_seq, dataset.seq)
    found: list[Day] = []
    for row in rows:
        found += days.read(seq=row.seq, kind=row.kind, at_us=row.at_us, record=row.record)
    return [day for day in [*found, *days.open_day()] if day.place == place]

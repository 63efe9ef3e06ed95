"""The days of all datasets, how full each is, and when its budget runs out: prepared in the background, for lists and
charts. A pass reads the entries that are new, and nothing else.

The lookout asks once a minute which tenants changed. Each tick then counts up to ENTRIES_AT_ONCE entries of their
datasets; the others follow in the next ticks. Forecasts are made again at most once an hour.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final
from uuid import UUID

from ledger.core.forecast import DAY_US
from ledger.service.daily import counted
from ledger.service.forecasts import outlooks
from ledger.service.writer import Writer
from ledger.store import Reading, Store, Writing
from ledger.store.days import Tally

EVERY_US: Final = 60 * 1_000_000
FORECAST_US: Final = 3_600 * 1_000_000
DATASETS_AT_ONCE: Final = 100
FORECASTS_AT_ONCE: Final = 16
"""For how many datasets one statement reads the runs."""
FORECASTS_OF_TICK: Final = 160
ENTRIES_AT_ONCE: Final = 50_000
"""After how many entries a tick begins no other journal, and how many of one journal a pass counts."""
UNREADABLE: Final = (KeyError, TypeError, ValueError, AttributeError, RecursionError)
"""What is raised for an entry that the ledger cannot have written."""
WRITE_SECONDS_MAX: Final = 60.0
_FIRST: Final = UUID(int=0)

log = logging.getLogger(__name__)


class Tallies:
    """Counts the journals of the tenants that changed."""

    def __init__(self, store: Store, writer: Writer) -> None:
        self._store, self._writer = store, writer
        self.forget()

    def forget(self) -> None:
        """Begin again: another process looks now."""
        self._seen: dict[UUID, int] = {}
        self._queue: dict[UUID, None] = {}
        self._forecast_at_us: dict[UUID, int] = {}
        self._forecast_us: dict[UUID, int] = {}
        self._asked_us: int | None = None

    def is_due(self, now_us: int) -> bool:
        """Return whether it is time to ask which tenants changed."""
        return self._asked_us is None or now_us - self._asked_us >= EVERY_US

    def want(self, positions: Mapping[UUID, int], *, now_us: int) -> None:
        """Queue the tenants that changed since the last time."""
        self._asked_us = now_us
        for tenant_id, position in positions.items():
            if self._seen.get(tenant_id) != position:
                self._queue[tenant_id] = None
                last_us = self._forecast_us.get(tenant_id, 0)
                self._forecast_at_us[tenant_id] = max(now_us, last_us + FORECAST_US)
        self._seen = dict(positions)

    def tick(self, *, now_us: int, is_closing: Callable[[], bool]) -> None:
        """Count as much as a tick may. Without a tenant in the queue this runs no statement."""
        left = ENTRIES_AT_ONCE
        for tenant_id in list(self._queue):
            if left <= 0 or is_closing():
                return
            left = self._guarded(tenant_id, partial(self._count, tenant_id, left, is_closing), left)
        most = FORECASTS_OF_TICK
        for tenant_id in [id_ for id_, at_us in self._forecast_at_us.items() if at_us <= now_us]:
            if most <= 0 or is_closing():
                return
            most = self._guarded(tenant_id, partial(self._foresee, tenant_id, most, now_us), most)

    def _guarded(self, tenant_id: UUID, work: Callable[[], int], left: int) -> int:
        try:
            return work()
        except Exception as error:  # an error of one tenant must not stop the others
            log.error("the days of tenant %s could not be counted", tenant_id, exc_info=error)
            self._queue.pop(tenant_id, None)
            self._forecast_at_us.pop(tenant_id, None)
            return left - 1

    def _count(self, tenant_id: UUID, left: int, is_closing: Callable[[], bool]) -> int:
        """Count journals of a tenant, which leaves the queue once all are up to date. Return how many entries the tick
        has left."""
        after = _FIRST
        while True:
            with self._store.reading(tenant_id) as reading:
                behind = reading.days.behind(after=after, limit=DATASETS_AT_ONCE)
            for tally in behind:
                if left <= 0 or is_closing():
                    return left
                left -= self._advance(tenant_id, tally, left)
            if len(behind) < DATASETS_AT_ONCE:
                break
            after = behind[-1].dataset_id
        if left > 0:
            self._queue.pop(tenant_id, None)
        return left

    def _advance(self, tenant_id: UUID, tally: Tally, entries_max: int) -> int:
        """Count the next entries of a dataset. Return how many."""
        with self._store.reading(tenant_id) as reading:
            (dataset,) = reading.datasets.by_names([tally.name])
            try:
                found = counted(reading, dataset, tally, entries_max=entries_max)
            except UNREADABLE as error:  # `check` shows what is wrong
                log.warning("entry after %s of dataset %s cannot be read: %r", tally.seq, dataset.id, error)
                return 1

        def work(writing: Writing) -> bool:
            return writing.days.advance(dataset.id, found.days, after=tally.seq, seq=found.seq, left_ppm=found.left_ppm)

        self._writer.run(tenant_id, work).result(WRITE_SECONDS_MAX)
        return found.seq - tally.seq

    def _foresee(self, tenant_id: UUID, most: int, now_us: int) -> int:
        """Make forecasts of a tenant's datasets, which is done once none is old. Return how many the tick has left."""
        after, has_ends = _FIRST, False
        while most > 0:
            with self._store.reading(tenant_id) as reading:
                old = reading.days.unforeseen(
                    hour_us=now_us - FORECAST_US, day_us=now_us - DAY_US, after=after, limit=FORECASTS_AT_ONCE
                )
                found = _forecasts(reading, old, now_us=now_us) if old else []
            if found:
                self._writer.run(tenant_id, _keeping(found, now_us)).result(WRITE_SECONDS_MAX)
            most -= max(len(old), 1)
            has_ends |= any(ends_us is not None for _, _, ends_us in found)
            if len(old) < FORECASTS_AT_ONCE:
                self._forecast_us[tenant_id] = now_us
                del self._forecast_at_us[tenant_id]
                if has_ends:  # with time, a budget lasts longer although nothing happens
                    self._forecast_at_us[tenant_id] = now_us + DAY_US
                break
            after = old[-1].dataset_id
        return most


_Forecasts = list[tuple[UUID, int, int | None]]
"""A dataset, the length of its journal, and when its first budget runs out."""


def _forecasts(reading: Reading, old: Iterable[Tally], *, now_us: int) -> _Forecasts:
    datasets = reading.datasets.by_names([tally.name for tally in old])
    budgeted = [dataset for dataset in datasets if dataset.limit is not None]
    made: _Forecasts = [(dataset.id, dataset.seq, None) for dataset in datasets if dataset.limit is None]
    for dataset, accounts in outlooks(reading, budgeted, now_us=now_us):
        ends = [outlook.forecast.lasts_until_us for outlook in accounts]
        made.append((dataset.id, dataset.seq, min((end for end in ends if end is not None), default=None)))
    return made


def _keeping(found: _Forecasts, now_us: int) -> Callable[[Writing], None]:
    def work(writing: Writing) -> None:
        for dataset_id, seq, ends_us in found:
            writing.days.foresee(dataset_id, seq=seq, at_us=now_us, ends_us=ends_us)

    return work

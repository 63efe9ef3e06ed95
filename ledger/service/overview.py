"""All datasets of a tenant at a glance, the fullest first, and what waits for somebody.

One page takes the same number of statements whatever the number of datasets and runs: what lists are ordered by, and
what was refused, is counted in the background (`ledger.service.daily`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from ledger.core.amounts import timestamp
from ledger.core.daily import day_of
from ledger.core.datasets import Balance, Dataset
from ledger.core.forecast import DAY_US
from ledger.core.people import Actor
from ledger.service import pages
from ledger.service.portions import of_balance
from ledger.service.shapes.overview import DatasetAtAGlance, OverviewShown, Waiting
from ledger.store import Reading, Store
from ledger.store.days import Tail, Tally

COUNTED_MAX: Final = 1_000
"""How many overdue runs, proposals and alerts are counted at most."""
DATASETS_MAX: Final = 100
DAYS: Final = 7
"""In how many days, today included, decisions and alerts are counted."""


class Overview:
    """Shows a tenant's datasets at a glance."""

    def __init__(self, *, store: Store) -> None:
        self._store = store

    def page(self, actor: Actor, *, limit: int, cursor: str | None) -> OverviewShown:
        """Return the datasets that the actor sees, the fullest first; those without a budget of their own last."""
        after = pages.after_fullness(cursor)
        with self._store.reading(actor.tenant_id) as reading:
            now_us = reading.now_us()
            rows = reading.days.fullest(after=after, limit=limit + 1, only=actor.datasets)
            tallies, following = pages.cut(rows, limit=limit, position=lambda row: (row.left_ppm, row.name))
            waiting = _Waiting(reading, actor, now_us)
            items = _items(reading, tallies, waiting, now_us)
        return OverviewShown(
            at=timestamp(now_us),
            days=DAYS,
            overdue=_sum(waiting.overdue),
            proposals=_sum(waiting.proposals),
            alerts=_sum(waiting.alerts),
            items=items,
            next=following,
        )


class _Waiting:
    """What waits, by dataset: overdue runs, open proposals, alerts of the last days."""

    def __init__(self, reading: Reading, actor: Actor, now_us: int) -> None:
        since_us = _since_us(now_us)
        overdue = reading.days.overdue(now_us=now_us, limit=COUNTED_MAX)
        proposed = reading.days.proposed(now_us=now_us, limit=COUNTED_MAX)
        alerted = reading.days.alerted(since_us=since_us, limit=COUNTED_MAX)
        seen = None
        if actor.datasets is not None:
            seen = {row.id for row in reading.datasets.by_names(sorted(actor.datasets))}
        self.overdue, self.proposals = _seen(overdue, seen), _seen(proposed, seen)
        self.alerts = _seen(alerted, seen)


def _seen(counts: Mapping[UUID | None, int] | Mapping[UUID, int], seen: set[UUID] | None) -> dict[UUID | None, int]:
    return {id_: count for id_, count in counts.items() if seen is None or id_ in seen}


def _sum(counts: Mapping[UUID | None, int]) -> Waiting:
    count = sum(counts.values())
    return Waiting(count=count, has_more=count >= COUNTED_MAX)


def _since_us(now_us: int) -> int:
    return (day_of(now_us) - DAYS + 1) * DAY_US


def _items(reading: Reading, tallies: Sequence[Tally], waiting: _Waiting, now_us: int) -> list[DatasetAtAGlance]:
    ids = [tally.dataset_id for tally in tallies]
    datasets = {row.id: row for row in reading.datasets.by_names([tally.name for tally in tallies])}
    since_us = _since_us(now_us)
    balances = reading.days.balances(ids)
    wholes = _wholes(reading, [tally for tally in tallies if datasets[tally.dataset_id].definition.is_partitioned])
    counted = reading.days.decisions(ids, since=day_of(since_us), until=day_of(now_us))
    behind = [(tally.dataset_id, tally.seq) for tally in tallies if tally.seq < datasets[tally.dataset_id].seq]
    tails = reading.days.tails(behind, since_us=since_us)
    items = []
    for tally in tallies:
        dataset = datasets[tally.dataset_id]
        balance = wholes.get(dataset.id, balances.get(dataset.id))
        decisions = [counted.get(dataset.id, Tail(0, 0)), tails.get(dataset.id, Tail(0, 0))]
        items.append(_item(dataset, tally, balance, decisions, waiting))
    return items


def _wholes(reading: Reading, partitioned: Sequence[Tally]) -> dict[UUID, Balance]:
    """Return the balances of datasets with partitions, as last counted; of those that never were, as they are now."""
    counted = reading.days.newest_wholes([tally.dataset_id for tally in partitioned if tally.seq])
    never = [tally.dataset_id for tally in partitioned if not tally.seq]
    balances = reading.accounts.balances(never) if never else {}
    now = {id_: balances[id_, None] for id_ in never if (id_, None) in balances}
    return now | {id_: day.balance for id_, day in counted.items()}


def _item(
    dataset: Dataset, tally: Tally, balance: Balance | None, decisions: Sequence[Tail], waiting: _Waiting
) -> DatasetAtAGlance:
    is_partitioned, id_ = dataset.definition.is_partitioned, dataset.id
    return DatasetAtAGlance(
        name=dataset.definition.name,
        title=dataset.title,
        state=dataset.state,
        budget=dataset.budget,
        is_partitioned=is_partitioned,
        derived_from=[parent.name for parent in dataset.definition.derived_from],
        percent=None if balance is None or dataset.limit is None else of_balance(balance),
        lasts_until=None if tally.ends_us is None else timestamp(tally.ends_us),
        forecast_at=None if tally.forecast_us == 0 else timestamp(tally.forecast_us),
        approvals=sum(part.approvals for part in decisions),
        refusals=sum(part.refusals for part in decisions),
        overdue=waiting.overdue.get(id_, 0),
        proposals=waiting.proposals.get(id_, 0),
        alerts=waiting.alerts.get(id_, 0),
        seq=dataset.seq,
        behind=dataset.seq - tally.seq,
    )

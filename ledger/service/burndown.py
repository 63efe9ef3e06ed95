"""What was spent and held of a budget over time, from the days that the background counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, Final, Literal, NamedTuple

from ledger.accounting.budgets import report_deltas
from ledger.accounting.display import Point, show_amount, show_epsilons
from ledger.core.amounts import Amount, timestamp
from ledger.core.daily import WHOLE, Day, Place, day_of
from ledger.core.datasets import Balance, Dataset, Least
from ledger.core.forecast import DAY_US
from ledger.errors import InvalidRequest
from ledger.service.balances import balance_shown
from ledger.service.daily import fresh
from ledger.service.portions import of_balance
from ledger.service.shapes.datasets import BurndownPoint, BurndownShown, EpsilonTaken
from ledger.store import Reading

By = Literal["day", "week", "month"]
POINTS_MAX: Final = 400
DAYS_MAX: Final = 12_000
POINTS: Final = 90
"""How many points there are if no start is given."""
_EPOCH: Final = date(1970, 1, 1)


class _Period(NamedTuple):
    """From the first day to the last, in days since 1970."""

    first: int
    last: int


class _Row(NamedTuple):
    day: Day
    least: Least | None


def burndown(
    reading: Reading,
    dataset: Dataset,
    *,
    by: By,
    partition: str | None,
    project: str | None,
    since_us: int | None,
    until_us: int | None,
) -> BurndownShown:
    """Return a dataset's balance at the end of each day, week or month, with the limits that were in force. since_us:
    the point with this time is the first; until_us: the point with the time before this is the last. Raises
    InvalidRequest."""
    budget = _budget(reading, dataset, partition=partition, project=project)
    place = Place(project or "", partition or "")
    until_us = min(reading.now_us(), until_us or 2**62)
    periods = _periods(dataset, by, since_us=since_us, until_us=until_us)
    counted_seq = reading.days.counted_seq(dataset.id)
    newest = fresh(reading, dataset, place, counted_seq=counted_seq)
    rows = _rows(reading, dataset, place, periods, newest or []) if periods else []
    points = list(_points(dataset, periods, rows))
    epsilons = show_epsilons(_epsilons_of(dataset, budget, points))
    return BurndownShown(
        dataset=dataset.definition.name,
        partition=partition,
        project=project,
        by=by,
        costing=dataset.costing,
        ceiling=None if dataset.definition.ceiling is None else show_amount(dataset.definition.ceiling),
        seq=dataset.seq,
        behind=dataset.seq - counted_seq if newest is None else 0,
        points=[_shown(dataset, budget, place, point, epsilons) for point in points],
    )


def _budget(
    reading: Reading, dataset: Dataset, *, partition: str | None, project: str | None
) -> Mapping[str, Any] | None:
    """Return the budget whose deltas are used. Raises InvalidRequest."""
    if partition is not None and not dataset.definition.is_partitioned:
        raise InvalidRequest("partition: this dataset has no partitions; leave it out", field="partition")
    if project is None:
        return dataset.budget
    shares = reading.datasets.projects([dataset.id], [project])
    if not shares:
        name = dataset.definition.name
        raise InvalidRequest(
            f"project: {project!r} has no share of {name}; `privacy-ledger dataset show {name}` lists those that have",
            field="project",
        )
    return shares[0].budget


# --- periods ---------------------------------------------------------------------------------------------------------


def _periods(dataset: Dataset, by: By, *, since_us: int | None, until_us: int) -> list[_Period]:
    """Return the periods from the one with `since_us` to the one before `until_us`, none before the dataset's."""
    last = day_of(until_us - 1)
    created = day_of(dataset.created_us)
    wanted = _back(by, last, POINTS - 1) if since_us is None else day_of(since_us)
    start = _first_of(by, max(wanted, created))
    if last - start > DAYS_MAX:
        raise InvalidRequest(f"since: at most {DAYS_MAX:,} days are in one answer; begin later", field="since")
    periods: list[_Period] = []
    while start <= last:
        following = _next(by, start)
        periods.append(_Period(start, min(following - 1, last)))
        start = following
    if len(periods) > POINTS_MAX:
        raise InvalidRequest(
            f"since: {len(periods):,} points; an answer has at most {POINTS_MAX}. Begin later, or use by=month",
            field="since",
        )
    return periods


def _first_of(by: By, day: int) -> int:
    on = _EPOCH + timedelta(days=day)
    if by == "week":
        return day - on.weekday()
    return day - (on.day - 1) if by == "month" else day


def _next(by: By, start: int) -> int:
    if by != "month":
        return start + (7 if by == "week" else 1)
    return _first_of("month", start + 31)


def _back(by: By, day: int, count: int) -> int:
    start = _first_of(by, day)
    for _ in range(count):
        start = _first_of(by, start - 1)
    return start


# --- points ----------------------------------------------------------------------------------------------------------


class _Point(NamedTuple):
    """A period with what stands at its end. taken: what its epsilon is of; None if that is not known."""

    period: _Period
    day: Day
    taken: Amount | None
    approvals: int
    refusals: int


def _rows(
    reading: Reading, dataset: Dataset, place: Place, periods: Sequence[_Period], newest: Sequence[Day]
) -> list[_Row]:
    """Return the days of an account from the newest before the periods on, oldest first."""
    since, until = periods[0].first, periods[-1].last
    rows = {row[0].day: _Row(*row) for row in reading.days.of_place(dataset.id, place, since=since, until=until)}
    for day in newest:
        if day.day <= until:
            known = rows.get(day.day)
            rows[day.day] = _Row(day, None if known is None else known.least)
    return [rows[day] for day in sorted(rows)]


def _points(dataset: Dataset, periods: Sequence[_Period], rows: Sequence[_Row]) -> Iterator[_Point]:
    at = 0
    standing: _Row | None = None
    for period in periods:
        approvals = refusals = 0
        while at < len(rows) and rows[at].day.day <= period.last:
            standing = rows[at]
            if standing.day.day >= period.first:
                approvals += standing.day.approvals
                refusals += standing.day.refusals
            at += 1
        if standing is not None:
            yield _Point(period, standing.day, _taken(dataset, standing), approvals, refusals)


def _taken(dataset: Dataset, row: _Row) -> Amount | None:
    if dataset.costing == "standalone":
        return row.day.balance.spent + row.day.balance.held
    known, newest = row.least, dataset.least
    if row.day.place != WHOLE:
        return None
    if newest is not None and (0 if known is None else known.seq) < newest.seq <= row.day.seq:
        known = newest
    return None if known is None else known.amount


def _epsilons_of(dataset: Dataset, budget: Mapping[str, Any] | None, points: Sequence[_Point]) -> Iterator[Point]:
    if dataset.limit is None:
        return
    for at_delta in report_deltas(dict(budget or {})):
        for point in points:
            yield point.day.balance.limit, at_delta
            if point.taken is not None:
                yield point.taken, at_delta


def _shown(
    dataset: Dataset,
    budget: Mapping[str, Any] | None,
    place: Place,
    point: _Point,
    epsilons: Mapping[Point, float | None],
) -> BurndownPoint:
    balance: Balance | None = None if dataset.limit is None else point.day.balance
    deltas = report_deltas(dict(budget or {})) if balance is not None else ()
    is_whole = place == WHOLE
    return BurndownPoint(
        start=(_EPOCH + timedelta(days=point.period.first)).isoformat(),
        until=timestamp((point.period.last + 1) * DAY_US),
        seq=point.day.seq,
        balance=None if balance is None else balance_shown(balance),
        percent=None if balance is None else of_balance(balance),
        epsilon=[
            EpsilonTaken(
                delta=at_delta,
                taken=None if point.taken is None else epsilons[point.taken, at_delta],
                limit=epsilons[point.day.balance.limit, at_delta],
            )
            for at_delta in deltas
        ],
        approvals=point.approvals if is_whole else None,
        refusals=point.refusals if is_whole else None,
    )

"""Datasets day by day, and how full they are: prepared in the background from the journals, never by a decision."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import Row, and_, case, delete, func, or_, select, tuple_, union_all, update

from ledger.core.daily import MILLION, NO_BUDGET_PPM, WHOLE, Day, Place, day_of
from ledger.core.datasets import Balance, Definition, Least
from ledger.store.columns import NOBODY
from ledger.store.repository import Repository
from ledger.store.rows import account_of, amount_of, amount_row
from ledger.store.tables import accounts, alerts, datasets, days, entries, places, proposals, runs, tallies

_PARTS: Final = ("limit", "spent", "held", "remaining")
_CHANGED: Final = tuple(f"{part}_{quantity}" for part in _PARTS for quantity in ("mu_sq_pico", "delta_atto"))
TAIL_MAX: Final = 200
"""How many entries of a dataset that are not counted yet `tails` looks at."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How much of a dataset's journal is counted, and how full the dataset was then.

    seq: the last entry that is counted. left_ppm: which part of the budget was left, in millionths. forecast_seq,
    forecast_us: of the newest forecast; ends_us: when the first budget runs out by it, None if none does.
    """

    dataset_id: UUID
    name: str
    seq: int
    left_ppm: int
    forecast_seq: int
    forecast_us: int
    ends_us: int | None


class Tail(NamedTuple):
    """What a dataset's entries after its tally are: how many runs were approved and refused."""

    approvals: int
    refusals: int


class DayReader(Repository):
    """Reads what was counted."""

    def tallies(self, dataset_ids: Collection[UUID]) -> dict[UUID, Tally]:
        """Return the tallies of these datasets."""
        query = select(tallies).where(tallies.c.tenant_id == self.tenant_id, tallies.c.dataset_id.in_(dataset_ids))
        return {row.dataset_id: _tally_of(row) for row in self.connection.execute(query)}

    def counted_seq(self, dataset_id: UUID) -> int:
        """Return the last entry of a dataset's journal that is counted; 0 if none is."""
        query = select(tallies.c.seq).where(tallies.c.tenant_id == self.tenant_id, tallies.c.dataset_id == dataset_id)
        return int(self.connection.execute(query).scalar() or 0)

    def fullest(self, *, after: tuple[int, str] | None, limit: int, only: frozenset[str] | None) -> list[Tally]:
        """Return the tallies of datasets, the fullest first, and by name if they are equally full; those without a
        budget last. only: of those names, or None for all."""
        query = select(tallies).where(tallies.c.tenant_id == self.tenant_id)
        if after is not None:
            types = [tallies.c.left_ppm.type, tallies.c.name.type]
            query = query.where(tuple_(tallies.c.left_ppm, tallies.c.name) > tuple_(*after, types=types))
        if only is not None:
            ids = select(datasets.c.id).where(datasets.c.tenant_id == self.tenant_id, datasets.c.name.in_(sorted(only)))
            query = query.where(tallies.c.dataset_id.in_(ids))
        rows = self.connection.execute(query.order_by(tallies.c.left_ppm, tallies.c.name).limit(limit))
        return [_tally_of(row) for row in rows]

    def behind(self, *, after: UUID, limit: int) -> list[Tally]:
        """Return the tallies of datasets whose journal has entries that are not counted, by id, the first after
        `after`."""
        return self._stale(tallies.c.seq < datasets.c.seq, after=after, limit=limit)

    def unforeseen(self, *, hour_us: int, day_us: int, after: UUID, limit: int) -> list[Tally]:
        """Return in the same way the tallies of datasets whose forecast was made before `hour_us` and changed since, or
        before `day_us` and has an end."""
        is_changed = and_(tallies.c.forecast_seq < datasets.c.seq, tallies.c.forecast_us <= hour_us)
        is_aged = and_(tallies.c.ends_us.is_not(None), tallies.c.forecast_us <= day_us)
        return self._stale(or_(is_changed, is_aged), after=after, limit=limit)

    def _stale(self, condition: Any, *, after: UUID, limit: int) -> list[Tally]:
        query = (
            select(tallies)
            .join(datasets, and_(datasets.c.tenant_id == tallies.c.tenant_id, datasets.c.id == tallies.c.dataset_id))
            .where(tallies.c.tenant_id == self.tenant_id, datasets.c.tenant_id == self.tenant_id, condition)
            .where(tallies.c.dataset_id > after)
            .order_by(tallies.c.dataset_id)
            .limit(limit)
        )
        return [_tally_of(row) for row in self.connection.execute(query)]

    def of_place(self, dataset_id: UUID, place: Place, *, since: int, until: int) -> list[tuple[Day, Least | None]]:
        """Return the days of one account, from the first to the last, and before these the newest one that is earlier;
        each with the least limit that was stored on it."""
        mine = self._mine(dataset_id, place)
        earlier = select(func.max(days.c.day)).where(*mine, days.c.day < since).scalar_subquery()
        is_in = or_(days.c.day.between(since, until), days.c.day == earlier)
        rows = self.connection.execute(select(days).where(*mine, is_in).order_by(days.c.day))
        return [(_day_of(row), _least_of(row)) for row in rows]

    def newest(self, dataset_id: UUID, *, until: int) -> dict[Place, Day]:
        """Return the newest day of each account of a dataset that is not later than this day."""
        newest = days.alias("newest")
        last = (
            select(func.max(newest.c.day))
            .where(
                newest.c.tenant_id == accounts.c.tenant_id,
                newest.c.dataset_id == accounts.c.dataset_id,
                newest.c.project == accounts.c.project,
                newest.c.partition == accounts.c.partition,
                newest.c.day <= until,
            )
            .correlate(accounts)
            .scalar_subquery()
        )
        query = (
            select(days)
            .select_from(accounts)
            .join(
                days,
                and_(
                    days.c.tenant_id == accounts.c.tenant_id,
                    days.c.dataset_id == accounts.c.dataset_id,
                    days.c.project == accounts.c.project,
                    days.c.partition == accounts.c.partition,
                    days.c.day == last,
                ),
            )
            .where(accounts.c.tenant_id == self.tenant_id, accounts.c.dataset_id == dataset_id)
            .where(accounts.c.principal_id == NOBODY)
        )
        found = [_day_of(row) for row in self.connection.execute(query)]
        return {day.place: day for day in [*self.whole(dataset_id, until=until), *found]}

    def whole(self, dataset_id: UUID, *, until: int) -> list[Day]:
        """Return the newest day of the dataset as a whole that is not later than this day, if there is one."""
        query = select(days).where(*self._mine(dataset_id, WHOLE), days.c.day <= until)
        rows = self.connection.execute(query.order_by(days.c.day.desc()).limit(1))
        return [_day_of(row) for row in rows]

    def balances(self, dataset_ids: Collection[UUID]) -> dict[UUID, Balance]:
        """Return the balances now of those of these datasets that have one account of their own."""
        query = (
            select(accounts)
            .where(accounts.c.tenant_id == self.tenant_id, accounts.c.dataset_id.in_(dataset_ids))
            .where(accounts.c.project == "", accounts.c.principal_id == NOBODY, accounts.c.partition == "")
        )
        found = [account_of(row) for row in self.connection.execute(query)]
        return {
            account.key.dataset_id: Balance(account.limit, account.spent, account.held, account.remaining)
            for account in found
        }

    def newest_wholes(self, dataset_ids: Collection[UUID]) -> dict[UUID, Day]:
        """Return the newest day of each of these datasets as a whole."""
        newest = [
            select(select(days).where(*self._mine(id_, WHOLE)).order_by(days.c.day.desc()).limit(1).subquery())
            for id_ in dataset_ids
        ]
        rows = self.connection.execute(union_all(*newest)) if newest else ()
        return {row.dataset_id: _day_of(row) for row in rows}

    def decisions(self, dataset_ids: Collection[UUID], *, since: int, until: int) -> dict[UUID, Tail]:
        """Return how many runs of each of these datasets were approved and refused on these days, as counted."""
        query = (
            select(days.c.dataset_id, func.sum(days.c.approvals), func.sum(days.c.refusals))
            .where(days.c.tenant_id == self.tenant_id, days.c.dataset_id.in_(dataset_ids))
            .where(days.c.project == "", days.c.partition == "", days.c.day.between(since, until))
            .group_by(days.c.dataset_id)
        )
        return {row[0]: Tail(int(row[1]), int(row[2])) for row in self.connection.execute(query)}

    def tails(self, behind: Collection[tuple[UUID, int]], *, since_us: int) -> dict[UUID, Tail]:
        """Return the same of the entries that are not counted yet: for each dataset and its last counted entry, the
        first TAIL_MAX after that, none earlier than this time."""
        ranges = [
            select(entries.c.dataset_id, entries.c.kind)
            .where(entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == dataset_id)
            .where(entries.c.seq.between(seq + 1, seq + TAIL_MAX), entries.c.at_us >= since_us)
            for dataset_id, seq in behind
        ]
        if not ranges:
            return {}
        after = union_all(*ranges).subquery()
        counts = (func.sum(case((after.c.kind == kind, 1), else_=0)) for kind in ("run-approved", "run-refused"))
        query = select(after.c.dataset_id, *counts).group_by(after.c.dataset_id)
        return {row[0]: Tail(int(row[1]), int(row[2])) for row in self.connection.execute(query)}

    def page(
        self, dataset_id: UUID, *, after: tuple[str, str, int] | None, limit: int
    ) -> list[tuple[Day, Least | None]]:
        """Return all days of a dataset, in the order of their keys. after: a project, a partition and a day."""
        parts = (days.c.project, days.c.partition, days.c.day)
        query = select(days).where(days.c.tenant_id == self.tenant_id, days.c.dataset_id == dataset_id)
        if after is not None:
            query = query.where(tuple_(*parts) > tuple_(*after, types=[part.type for part in parts]))
        rows = self.connection.execute(query.order_by(*parts).limit(limit))
        return [(_day_of(row), _least_of(row)) for row in rows]

    def _mine(self, dataset_id: UUID, place: Place) -> list[Any]:
        return [
            days.c.tenant_id == self.tenant_id,
            days.c.dataset_id == dataset_id,
            days.c.project == place.project,
            days.c.partition == place.partition,
        ]

    def overdue(self, *, now_us: int, limit: int) -> dict[UUID, int]:
        """Return how many of the `limit` runs that are overdue longest touch each dataset. They are read along the
        index of due times."""
        late = select(runs.c.id).where(runs.c.tenant_id == self.tenant_id, runs.c.due_us < now_us)
        ids = self.connection.execute(late.order_by(runs.c.due_us).limit(limit)).scalars().all()
        if not ids:
            return {}
        query = (
            select(places.c.dataset_id, func.count())
            .where(places.c.tenant_id == self.tenant_id, places.c.run_id.in_(ids))
            .group_by(places.c.dataset_id)
        )
        return {row[0]: row[1] for row in self.connection.execute(query)}

    def proposed(self, *, now_us: int, limit: int) -> dict[UUID, int]:
        """Return how many of the `limit` open proposals that lapse first are about each dataset."""
        waiting = (
            select(proposals.c.dataset_id)
            .where(proposals.c.tenant_id == self.tenant_id, proposals.c.state == "open")
            .where(proposals.c.expires_us > now_us)
            .order_by(proposals.c.expires_us)
            .limit(limit)
            .subquery()
        )
        query = select(waiting.c.dataset_id, func.count()).group_by(waiting.c.dataset_id)
        return {row[0]: row[1] for row in self.connection.execute(query)}

    def alerted(self, *, since_us: int, limit: int) -> dict[UUID | None, int]:
        """Return how many of the `limit` newest alerts since then are about each dataset; None: about none."""
        newest = (
            select(alerts.c.dataset_id)
            .where(alerts.c.tenant_id == self.tenant_id, alerts.c.at_us >= since_us)
            .order_by(alerts.c.at_us.desc(), alerts.c.id.desc())
            .limit(limit)
            .subquery()
        )
        query = select(newest.c.dataset_id, func.count()).group_by(newest.c.dataset_id)
        return {row[0]: row[1] for row in self.connection.execute(query)}


class DayWriter(DayReader):
    """Keeps what was counted."""

    def open(self, definition: Definition, *, has_budget: bool) -> None:
        """Add the tally of a new dataset, of which nothing is counted."""
        row = {
            "dataset_id": definition.id,
            "name": definition.name,
            "seq": 0,
            "left_ppm": MILLION if has_budget else NO_BUDGET_PPM,
            "forecast_seq": 0,
            "forecast_us": 0,
        }
        self._add_rows(tallies, [row])

    def advance(self, dataset_id: UUID, found: Sequence[Day], *, after: int, seq: int, left_ppm: int) -> bool:
        """Keep the days up to entry `seq`, if `after` is the last entry that was counted; return whether it was."""
        mine = (tallies.c.tenant_id == self.tenant_id, tallies.c.dataset_id == dataset_id, tallies.c.seq == after)
        moved = self.connection.execute(update(tallies).where(*mine).values(seq=seq, left_ppm=left_ppm))
        if moved.rowcount != 1:
            return False
        self._keep(dataset_id, found)
        return True

    def _keep(self, dataset_id: UUID, found: Sequence[Day]) -> None:
        statement = self._insert(days)
        changed = (*_CHANGED, "seq", "approvals", "refusals")
        statement = statement.on_conflict_do_update(
            index_elements=["tenant_id", "dataset_id", "project", "partition", "day"],
            set_={name: statement.excluded[name] for name in changed},
        )
        rows = [{"tenant_id": self.tenant_id, "dataset_id": dataset_id, **_row_of(day)} for day in found]
        if rows:
            self.connection.execute(statement, rows)

    def clear(self) -> None:
        """Remove all days of the tenant's datasets, and count none: as the owner of the database only."""
        self.connection.execute(delete(days).where(days.c.tenant_id == self.tenant_id))
        self.connection.execute(update(tallies).where(tallies.c.tenant_id == self.tenant_id).values(seq=0))

    def foresee(self, dataset_id: UUID, *, seq: int, at_us: int, ends_us: int | None) -> None:
        """Keep when the first budget of a dataset runs out, by a forecast that counts the journal up to `seq`."""
        mine = (tallies.c.tenant_id == self.tenant_id, tallies.c.dataset_id == dataset_id)
        values = {"forecast_seq": seq, "forecast_us": at_us, "ends_us": ends_us}
        self.connection.execute(update(tallies).where(*mine).values(values))

    def keep_least(self, dataset_id: UUID, least: Least) -> None:
        """Keep a least limit on the day of its entry, if that day is counted."""
        day = (
            select(entries.c.at_us)
            .where(entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == dataset_id)
            .where(entries.c.seq == least.seq)
        )
        at_us = self.connection.execute(day).scalar()
        if at_us is None or least.amount is None:
            return
        mine = (*self._mine(dataset_id, WHOLE), days.c.day == day_of(at_us))
        row = {"least_seq": least.seq, **amount_row("least", least.amount)}
        self.connection.execute(update(days).where(*mine).values(row))


def _row_of(day: Day) -> dict[str, Any]:
    balance = day.balance
    return {
        "project": day.place.project,
        "partition": day.place.partition,
        "day": day.day,
        "seq": day.seq,
        **amount_row("limit", balance.limit),
        **amount_row("spent", balance.spent),
        **amount_row("held", balance.held),
        **amount_row("remaining", balance.remaining),
        "approvals": day.approvals,
        "refusals": day.refusals,
    }


def _day_of(row: Row[Any]) -> Day:
    balance = Balance(*(amount_of(row, part) for part in _PARTS))
    return Day(Place(row.project, row.partition), row.day, row.seq, balance, row.approvals, row.refusals)


def _least_of(row: Row[Any]) -> Least | None:
    return None if row.least_seq is None else Least(row.least_seq, amount_of(row, "least"))


def _tally_of(row: Row[Any]) -> Tally:
    return Tally(row.dataset_id, row.name, row.seq, row.left_ppm, row.forecast_seq, row.forecast_us, row.ends_us)

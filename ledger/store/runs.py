"""Runs, and the places where they were decided."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    bindparam,
    not_,
    or_,
    select,
    tuple_,
    union_all,
    update,
)

from ledger.core.amounts import Amount
from ledger.core.books import Books
from ledger.core.datasets import Parent
from ledger.core.runs import Run, RunStateName
from ledger.store.repository import Repository, among
from ledger.store.rows import run_of, run_row
from ledger.store.tables import claims, datasets, entries, places, runs

_BY_ID: Final = {
    is_one: select(runs).where(runs.c.tenant_id == bindparam("tenant"), among(runs.c.id, "ids", is_one=is_one))
    for is_one in (False, True)
}
_ENTERED: Final = and_(
    entries.c.tenant_id == places.c.tenant_id,
    entries.c.dataset_id == places.c.dataset_id,
    entries.c.seq == places.c.seq,
)
"""The entry by which a run was decided in a dataset."""
_MOVE: Final = update(runs).where(runs.c.tenant_id == bindparam("tenant"), runs.c.id == bindparam("run"))


class Decided(NamedTuple):
    """Where a run was decided: the dataset, and number and hash of the entry."""

    dataset_id: UUID
    dataset: str
    seq: int
    hash: bytes


class Approved(NamedTuple):
    """A run that a dataset approved, with the text of the entry that did. cost: as `Run.cost`."""

    id: UUID
    created_us: int
    state: RunStateName
    cost: Amount | None
    body: str


SCANNED_MAX: Final = 12_000
"""How many runs one page looks at: filters that no index knows may find few or none among a tenant's millions."""
Position = tuple[int, UUID]
"""The time and the id of a run, by which lists are ordered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """A filter of runs: each part that is given must hold. within: limits them to datasets of these names."""

    dataset_id: UUID | None = None
    state: str | None = None
    project: str | None = None
    due_before_us: int | None = None
    not_due_before_us: int | None = None
    principal_id: UUID | None = None
    since_us: int | None = None
    until_us: int | None = None
    within: frozenset[str] | None = None

    def is_sparse(self, dataset_id: UUID | None) -> bool:
        """Return whether a part of it is in no index along which the runs of a dataset, or all, are read."""
        of_index = self.principal_id if dataset_id is None else self.project
        return any(part is not None for part in (self.state, self.due_before_us, self.not_due_before_us, of_index))


def position_of(run: Run) -> Position:
    """Return the place of a run in a list."""
    return run.created_us, run.id


class RunReader(Repository):
    """Reads runs."""

    def by_id(self, ids: Sequence[UUID]) -> dict[UUID, Run]:
        is_one = len(ids) == 1
        rows = self.connection.execute(
            _BY_ID[is_one], {"tenant": self.tenant_id, "ids": ids[0] if is_one else ids}
        ).all()
        return {row.id: run_of(row) for row in rows}

    def ids_between(self, first: UUID, last: UUID, *, limit: int, principal_id: UUID | None = None) -> list[UUID]:
        """Return the ids of runs from the first to the last; principal_id: only of runs that it asked for."""
        of_principal = () if principal_id is None else (runs.c.principal_id == principal_id,)
        return self._ids_between(runs, first, last, *of_principal, limit=limit)

    def of_key(self, principal_id: UUID, key: str) -> UUID | None:
        """Return the run that a principal asked for with an idempotency key."""
        mine = (claims.c.tenant_id == self.tenant_id, claims.c.principal_id == principal_id, claims.c.key == key)
        return self.connection.execute(select(claims.c.run_id).where(*mine)).scalar()

    def page(self, sought: Sought, *, after: Position | None, limit: int) -> tuple[list[Run], Position | None]:
        """Return runs, newest first, that satisfy a filter: at most `limit`. Also return where the search ended, if it
        ended before all runs were looked at: it looks at SCANNED_MAX at most, however few of them are found.

        Each dataset's newest are read separately, along an index, and merged.
        """
        if sought.within is None:
            return self._page(sought, sought.dataset_id, after, limit)
        pages = [
            self._page(sought, each, after, limit)
            for each in self._ids(sought.within)
            if sought.dataset_id in (None, each)
        ]
        newest = {run.id: run for page, _ in pages for run in page}
        end = max((end for _, end in pages if end is not None), default=None)
        found = sorted(newest.values(), key=position_of, reverse=True)[:limit]
        return [run for run in found if end is None or position_of(run) >= end], end

    def _ids(self, names: frozenset[str]) -> list[UUID]:
        query = select(datasets.c.id).where(datasets.c.tenant_id == self.tenant_id, datasets.c.name.in_(sorted(names)))
        return list(self.connection.execute(query).scalars())

    def _page(
        self, sought: Sought, dataset_id: UUID | None, after: Position | None, limit: int
    ) -> tuple[list[Run], Position | None]:
        """Return the same for one dataset, or for all."""
        if dataset_id is None:
            walked, created_us, run_id = runs, runs.c.created_us, runs.c.id
            along = [runs.c.tenant_id == self.tenant_id]
            if sought.project is not None:
                along.append(runs.c.project == sought.project)
        else:
            # In the order of that dataset's places, so that a page is a walk along its index.
            walked, created_us, run_id = places, places.c.created_us, places.c.run_id
            along = [places.c.tenant_id == self.tenant_id, places.c.dataset_id == dataset_id]
            if sought.principal_id is not None:
                along.append(places.c.principal_id == sought.principal_id)
        place = tuple_(created_us, run_id)
        types = [created_us.type, run_id.type]
        if after is not None:
            along.append(place < tuple_(*after, types=types))
        along += [] if sought.since_us is None else [created_us >= sought.since_us]
        along += [] if sought.until_us is None else [created_us < sought.until_us]
        newest_first = created_us.desc(), run_id.desc()
        end = (
            self._end(select(created_us, run_id).where(*along).order_by(*newest_first))
            if sought.is_sparse(dataset_id)
            else None
        )
        if end is not None:
            along.append(place >= tuple_(*end, types=types))
        query = select(runs).where(*along, *_conditions(sought), runs.c.tenant_id == self.tenant_id)
        if walked is places:
            query = query.join(places, and_(places.c.tenant_id == runs.c.tenant_id, places.c.run_id == runs.c.id))
        rows = self.connection.execute(query.order_by(*newest_first).limit(limit))
        return [run_of(row) for row in rows], end

    def _end(self, walk: Select[Any]) -> Position | None:
        """Return the place of the last of the SCANNED_MAX first rows; None if there are fewer."""
        row = self.connection.execute(walk.offset(SCANNED_MAX - 1).limit(1)).one_or_none()
        return None if row is None else (row[0], row[1])

    def places(self, run_ids: Sequence[UUID]) -> dict[UUID, list[tuple[str, int]]]:
        """Return for each of these runs the datasets that it touches, by name, each with the number of the entry there
        that decided it, in the order in which answers name them."""
        query = (
            select(places.c.run_id, datasets.c.name, places.c.seq)
            .join(datasets, and_(datasets.c.tenant_id == places.c.tenant_id, datasets.c.id == places.c.dataset_id))
            .where(places.c.tenant_id == self.tenant_id, places.c.run_id.in_(run_ids))
            .order_by(places.c.position)
        )
        found: dict[UUID, list[tuple[str, int]]] = {run_id: [] for run_id in run_ids}
        for row in self.connection.execute(query):
            found[row.run_id].append((row.name, row.seq))
        return found

    def decided(self, run_ids: Sequence[UUID]) -> dict[UUID, list[Decided]]:
        """Return where these runs were decided, in the order in which answers name the datasets."""
        query = (
            select(places.c.run_id, places.c.dataset_id, datasets.c.name, places.c.seq, entries.c.hash)
            .join(datasets, and_(datasets.c.tenant_id == places.c.tenant_id, datasets.c.id == places.c.dataset_id))
            .join(entries, _ENTERED)
            .where(places.c.tenant_id == self.tenant_id, places.c.run_id.in_(run_ids))
            .order_by(places.c.position)
        )
        found: dict[UUID, list[Decided]] = {run_id: [] for run_id in run_ids}
        for row in self.connection.execute(query):
            found[row.run_id].append(Decided(row.dataset_id, row.name, row.seq, bytes(row.hash)))
        return found

    def place_page(
        self, dataset_id: UUID, *, after: tuple[int, UUID] | None, limit: int
    ) -> list[tuple[UUID, int, UUID, int]]:
        """Return where runs were decided in a dataset, oldest first: run, seq, principal, and time. after: a time and a
        run."""
        parts = (places.c.created_us, places.c.run_id)
        query = select(places.c.run_id, places.c.seq, places.c.principal_id, places.c.created_us).where(
            places.c.tenant_id == self.tenant_id, places.c.dataset_id == dataset_id
        )
        if after is not None:
            query = query.where(tuple_(*parts) > tuple_(*after, types=[part.type for part in parts]))
        rows = self.connection.execute(query.order_by(*parts).limit(limit))
        return [(row.run_id, row.seq, row.principal_id, row.created_us) for row in rows]

    def unplaced(self) -> UUID | None:
        """Return a run that has a row and was decided in no dataset. There must be none."""
        placed = select(places.c.run_id).where(places.c.tenant_id == self.tenant_id, places.c.run_id == runs.c.id)
        query = select(runs.c.id).where(runs.c.tenant_id == self.tenant_id, not_(placed.exists())).limit(1)
        run_id: UUID | None = self.connection.execute(query).scalar()
        return run_id

    def due(self, run_ids: Sequence[UUID], *, until_us: int) -> list[tuple[Run, Parent, int]]:
        """Return those of these runs that are due before then, the first due first: each once for every dataset that it
        touches, with that dataset and the number of the entry there that decided it."""
        query = (
            select(runs, places.c.dataset_id, places.c.seq, datasets.c.name)
            .join(places, and_(places.c.tenant_id == runs.c.tenant_id, places.c.run_id == runs.c.id))
            .join(datasets, and_(datasets.c.tenant_id == places.c.tenant_id, datasets.c.id == places.c.dataset_id))
            .where(runs.c.tenant_id == self.tenant_id, runs.c.id.in_(run_ids), runs.c.due_us < until_us)
            .order_by(runs.c.due_us, runs.c.id, places.c.dataset_id)
        )
        rows = self.connection.execute(query) if run_ids else ()
        return [(run_of(row), Parent(row.dataset_id, row.name), row.seq) for row in rows]

    def reported(self, dataset_ids: Sequence[UUID]) -> dict[UUID, frozenset[UUID]]:
        """Return for each of these datasets the runs whose reported numbers wait for a steward."""
        query = (
            select(places.c.dataset_id, places.c.run_id)
            .join(runs, and_(runs.c.tenant_id == places.c.tenant_id, runs.c.id == places.c.run_id))
            .where(places.c.tenant_id == self.tenant_id, places.c.dataset_id.in_(dataset_ids))
            .where(runs.c.state == "started", runs.c.due_us.is_not(None), runs.c.reported_us.is_not(None))
        )
        waiting: dict[UUID, frozenset[UUID]] = {}
        for row in self.connection.execute(query):
            waiting[row.dataset_id] = waiting.get(row.dataset_id, frozenset()) | {row.run_id}
        return waiting

    def approved_since(self, dataset_ids: Sequence[UUID], *, since_us: int, limit: int) -> dict[UUID, list[Approved]]:
        """Return the runs that each of these datasets approved since then, the newest `limit` of each, newest first.
        One statement for all."""
        newest = [self._approved(dataset_id, since_us=since_us, limit=limit) for dataset_id in dataset_ids]
        approved: dict[UUID, list[Approved]] = {dataset_id: [] for dataset_id in dataset_ids}
        for dataset_id, run_id, created_us, state, mu, delta, body in (
            self.connection.execute(union_all(*newest)) if newest else ()
        ):
            cost = None if mu is None else Amount(mu, delta)
            approved[dataset_id].append(Approved(run_id, created_us, state, cost, body))
        for found in approved.values():
            found.sort(key=lambda one: (one.created_us, one.id), reverse=True)
        return approved

    def _approved(self, dataset_id: UUID, *, since_us: int, limit: int) -> Select[Any]:
        query = (
            select(
                entries.c.dataset_id,
                runs.c.id,
                runs.c.created_us,
                runs.c.state,
                runs.c.mu_sq_pico,
                runs.c.delta_atto,
                entries.c.body,
            )
            .select_from(places)
            .join(runs, and_(runs.c.tenant_id == places.c.tenant_id, runs.c.id == places.c.run_id))
            .join(entries, _ENTERED)
            .where(places.c.tenant_id == self.tenant_id, places.c.dataset_id == dataset_id)
            .where(places.c.created_us >= since_us, runs.c.state != "refused", entries.c.kind != "run-entered")
            .order_by(places.c.created_us.desc(), places.c.run_id.desc())
            .limit(limit)
        )
        return select(query.subquery())

    def newest_times(self, dataset_id: UUID, principal_id: UUID, *, limit: int) -> tuple[int, ...]:
        """Return when a principal's newest runs on a dataset were decided, oldest first."""
        newest = (
            select(places.c.created_us)
            .where(places.c.tenant_id == self.tenant_id, places.c.dataset_id == dataset_id)
            .where(places.c.principal_id == principal_id)
            .order_by(places.c.created_us.desc())
            .limit(limit)
        )
        return tuple(reversed(self.connection.execute(newest).scalars().all()))

    def newest_refusals(self, principal_id: UUID, *, limit: int) -> tuple[int, ...]:
        """Return when a principal's newest runs were refused, oldest first."""
        newest = (
            select(runs.c.created_us)
            .where(runs.c.tenant_id == self.tenant_id, runs.c.principal_id == principal_id, runs.c.state == "refused")
            .order_by(runs.c.created_us.desc())
            .limit(limit)
        )
        return tuple(reversed(self.connection.execute(newest).scalars().all()))


class RunWriter(RunReader):
    """Saves the runs that a decision changed."""

    def save(self, before: Books, after: Books) -> None:
        """Write the runs that are new, with their places, or have another state."""
        self._add([run for key, run in after.runs.items() if key not in before.runs])
        self._move([run for key, run in after.runs.items() if key in before.runs and run != before.runs[key]])

    def _add(self, new: Sequence[Run]) -> None:
        self._add_rows(runs, [run_row(run) for run in new])
        rows = [
            {
                "run_id": run.id,
                "dataset_id": place.dataset_id,
                "seq": place.seq,
                "principal_id": run.principal_id,
                "created_us": run.created_us,
                "position": position,
            }
            for run in new
            for position, place in enumerate(run.places)
        ]
        self._add_rows(places, rows)

    def _move(self, moved: Sequence[Run]) -> None:
        rows = [
            {
                "tenant": self.tenant_id,
                "run": run.id,
                "state": run.state,
                "started_us": run.started_us,
                "ended_us": run.ended_us,
                "due_us": run.due_us,
                "reported_us": run.reported_us,
                "corrections": run.corrections,
            }
            for run in moved
        ]
        if rows:
            self.connection.execute(_MOVE, rows)


def _conditions(sought: Sought) -> Iterator[ColumnElement[bool]]:
    """Return the conditions on the row of a run."""
    for column, value in (
        (runs.c.state, sought.state),
        (runs.c.project, sought.project),
        (runs.c.principal_id, sought.principal_id),
    ):
        if value is not None:
            yield column == value
    yield from _due_between(sought.not_due_before_us, sought.due_before_us)


def _due_between(from_us: int | None, until_us: int | None) -> Iterator[ColumnElement[bool]]:
    """Return the condition: due before the one time, and not before the other. Without a due time it is never due."""
    if until_us is not None:
        yield runs.c.due_us < until_us
    if from_us is not None:
        yield or_(runs.c.due_us.is_(None), runs.c.due_us >= from_us)

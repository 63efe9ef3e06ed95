"""Changes that wait for a second person, or did."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, insert, not_, select, tuple_, update

from ledger.core.books import Books
from ledger.core.datasets import Parent
from ledger.core.journal import chain
from ledger.core.people import Proposal
from ledger.store.repository import Repository
from ledger.store.rows import proposal_of
from ledger.store.runs import Position
from ledger.store.sizes import PAGE_BYTES_MAX, byte_length, fitting
from ledger.store.tables import datasets, proposals

SCANNED_MAX: Final = 20_000
"""How many proposals one page of runs looks at, most of which can be about other changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoughtRuns:
    """A filter of runs that no steward has approved. state: open, expired or refused; None for each of these."""

    state: str | None = None
    principal_id: UUID | None = None
    since_us: int | None = None
    until_us: int | None = None

    def conditions(self, now_us: int) -> list[ColumnElement[bool]]:
        """Return what rows must satisfy."""
        conditions = [proposals.c.kind == "run", proposals.c.state != "approved"]
        if self.state is not None:
            conditions.append(proposals.c.state == ("open" if self.state == "expired" else self.state))
        if self.state in ("open", "expired"):
            is_late = proposals.c.expires_us <= now_us
            conditions.append(is_late if self.state == "expired" else not_(is_late))
        if self.principal_id is not None:
            conditions.append(proposals.c.principal_id == self.principal_id)
        return conditions


class ProposalReader(Repository):
    """Reads proposals."""

    def by_id(self, proposal_id: UUID) -> Proposal | None:
        query = select(proposals).where(proposals.c.tenant_id == self.tenant_id, proposals.c.id == proposal_id)
        row = self.connection.execute(query).one_or_none()
        return None if row is None else proposal_of(row)

    def ids_between(self, first: UUID, last: UUID, *, limit: int) -> list[UUID]:
        """Return the ids of proposals from the first to the last."""
        return self._ids_between(proposals, first, last, limit=limit)

    def about_runs(self, dataset_ids: Collection[UUID], run_ids: Collection[UUID]) -> list[Proposal]:
        """Return the proposals about these runs, oldest first. dataset_ids: the datasets that the runs touch."""
        query = select(proposals).where(
            proposals.c.tenant_id == self.tenant_id,
            proposals.c.dataset_id.in_(dataset_ids),
            proposals.c.run_id.in_(run_ids),
        )
        rows = self.connection.execute(query).all() if run_ids else ()
        return sorted(map(proposal_of, rows), key=lambda proposal: (proposal.created_us, proposal.id))

    def page(self, *, after: tuple[int, UUID] | None, limit: int, state: str | None, now_us: int) -> list[Proposal]:
        """Return proposals, newest first; `expired` is an open one whose time is over."""
        query = select(proposals).where(proposals.c.tenant_id == self.tenant_id)
        if after is not None:
            types = [proposals.c.created_us.type, proposals.c.id.type]
            query = query.where(tuple_(proposals.c.created_us, proposals.c.id) < tuple_(*after, types=types))
        if state is not None:
            query = query.where(proposals.c.state == ("open" if state == "expired" else state))
        if state in ("open", "expired"):
            is_late = proposals.c.expires_us <= now_us
            query = query.where(is_late if state == "expired" else not_(is_late))
        newest_first = query.order_by(proposals.c.created_us.desc(), proposals.c.id.desc()).limit(limit)
        return [proposal_of(row) for row in self.connection.execute(newest_first)]

    def undecided(
        self, sought: SoughtRuns, *, now_us: int, after: Position | None, limit: int
    ) -> tuple[list[Proposal], Position | None]:
        """Return runs that no steward has approved, newest first: at most `limit`, and as many as fit in one page. Also
        return where the search ended, if there may be more: it looks at SCANNED_MAX proposals at most."""
        parts = (proposals.c.created_us, proposals.c.id)
        place, types = tuple_(*parts), [part.type for part in parts]
        along = [proposals.c.tenant_id == self.tenant_id]
        along += [] if after is None else [place < tuple_(*after, types=types)]
        along += [] if sought.since_us is None else [parts[0] >= sought.since_us]
        along += [] if sought.until_us is None else [parts[0] < sought.until_us]
        newest_first = parts[0].desc(), parts[1].desc()
        walk = select(*parts).where(*along).order_by(*newest_first).offset(SCANNED_MAX - 1).limit(1)
        row = self.connection.execute(walk).one_or_none()
        end = None if row is None else (row[0], row[1])
        if end is not None:
            along.append(place >= tuple_(*end, types=types))
        size = byte_length(self.connection, proposals.c.body)
        query = select(*parts, size.label("size")).where(*along, *sought.conditions(now_us))
        rows = self.connection.execute(query.order_by(*newest_first).limit(limit + 1)).all()
        kept = list(fitting(((row.id, row.size) for row in rows[:limit]), PAGE_BYTES_MAX))
        if len(kept) < len(rows):
            last = rows[len(kept) - 1]
            end = (last.created_us, last.id)
        mine = (proposals.c.tenant_id == self.tenant_id, proposals.c.id.in_(kept))
        bodies = self.connection.execute(select(proposals).where(*mine).order_by(*newest_first)) if kept else ()
        return [proposal_of(row) for row in bodies], end

    def still_open(self, ids: Collection[UUID]) -> list[tuple[Proposal, Parent]]:
        """Return those of these proposals that are open, each with its dataset."""
        query = (
            select(proposals, datasets.c.name.label("dataset"))
            .join(datasets, (datasets.c.tenant_id == proposals.c.tenant_id) & (datasets.c.id == proposals.c.dataset_id))
            .where(proposals.c.tenant_id == self.tenant_id, proposals.c.id.in_(ids), proposals.c.state == "open")
        )
        rows = self.connection.execute(query).all() if ids else ()
        return [(proposal_of(row), Parent(row.dataset_id, row.dataset)) for row in rows]

    def open_on(self, dataset_ids: Collection[UUID]) -> list[Proposal]:
        """Return the open proposals on these datasets."""
        query = select(proposals).where(
            proposals.c.tenant_id == self.tenant_id,
            proposals.c.dataset_id.in_(dataset_ids),
            proposals.c.state == "open",
        )
        return [proposal_of(row) for row in self.connection.execute(query)]

    def ids(self, dataset_id: UUID) -> set[UUID]:
        """Return the proposals whose rows belong to this dataset."""
        query = select(proposals.c.id).where(
            proposals.c.tenant_id == self.tenant_id, proposals.c.dataset_id == dataset_id
        )
        return set(self.connection.execute(query).scalars())


class ProposalWriter(ProposalReader):
    """Saves the proposals that a decision changed."""

    def save(self, before: Books, after: Books) -> None:
        """Write the proposals that are new or were answered."""
        old = before.proposals
        self._add([proposal for id_, proposal in after.proposals.items() if id_ not in old])
        for id_, proposal in after.proposals.items():
            if id_ in old and proposal != old[id_]:
                mine = (proposals.c.tenant_id == self.tenant_id, proposals.c.id == id_)
                self.connection.execute(update(proposals).where(*mine), {"state": proposal.state})

    def _add(self, new: Sequence[Proposal]) -> None:
        rows = [
            {
                "tenant_id": self.tenant_id,
                "id": proposal.id,
                "kind": proposal.kind,
                "dataset_id": proposal.dataset_id,
                "run_id": proposal.run_id,
                "principal_id": proposal.principal_id,
                "body": chain.canonical(proposal.body),
                "state": proposal.state,
                "created_us": proposal.created_us,
                "expires_us": proposal.expires_us,
            }
            for proposal in new
        ]
        if rows:
            self.connection.execute(insert(proposals), rows)

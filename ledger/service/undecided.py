"""Runs that wait for a steward, or were not approved: how they are found, listed and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from ledger.core.amounts import Amount
from ledger.core.datasets import Dataset, Definition
from ledger.core.people import Actor, Proposal
from ledger.service import portions, waiting
from ledger.service.run_details import proposal_of_run
from ledger.service.run_filters import Filters
from ledger.service.shapes.runs import RunInFull, RunPage, RunShown
from ledger.service.two_people import answered
from ledger.store import Reading
from ledger.store.proposals import SoughtRuns
from ledger.store.runs import Position

LOOKED_AT_MAX: Final = 1_000
"""How many of them one page reads for a filter of their texts."""


class Listed(NamedTuple):
    """A run of a list, and its place in it."""

    at: Position
    shown: RunShown


def page(
    reading: Reading,
    actor: Actor,
    filters: Filters,
    *,
    within: Definition | None,
    after: Position | None,
    limit: int,
) -> tuple[list[Listed], Position | None]:
    """Return runs that no steward has approved and that satisfy a filter, newest first: at most `limit`, and as many as
    fit in one page. Also return where the search ended, if there may be more. within: the filter's dataset."""
    now_us = reading.now_us()
    sought = _sought(actor, filters)
    if sought is None:
        return [], None
    count = LOOKED_AT_MAX if filters.reads_texts or filters.project or within is not None else limit
    rows, end = reading.proposals.undecided(sought, now_us=now_us, after=after, limit=count)
    datasets = _Datasets.of(reading, rows)
    found: list[Proposal] = []
    for proposal in rows:
        if len(found) == limit:
            end = _at(found[-1])
            break
        if waiting.sees(actor, proposal) and _holds(filters, proposal, datasets, within):
            found.append(proposal)
    return [Listed(_at(proposal), _shown(actor, proposal, datasets, now_us)) for proposal in found], end


def in_full(reading: Reading, actor: Actor, proposal: Proposal) -> RunInFull:
    """Return one of them, as it is shown."""
    now_us = reading.now_us()
    answer = answered(reading, [proposal]).get(str(proposal.id))
    shown = _shown(actor, proposal, _Datasets.of(reading, [proposal]), now_us)
    proposals = [proposal_of_run(proposal, answer, now_us)]
    return {**shown, "refused_by": None, "refused_by_count": None, "runs_left": None, "proposals": proposals}


def of_id(reading: Reading, actor: Actor, run_id: UUID | None) -> RunPage:
    """Return a page with one of them, if the actor sees it."""
    proposal = None if run_id is None else waiting.find(reading, run_id)
    if proposal is None or proposal.state == "approved" or not waiting.sees(actor, proposal):
        return RunPage(items=[], next=None)
    return RunPage(items=[_shown(actor, proposal, _Datasets.of(reading, [proposal]), reading.now_us())], next=None)


def merged(
    listed: Sequence[Listed], ends: Sequence[Position | None], *, limit: int
) -> tuple[list[RunShown], Position | None]:
    """Return what several searches found, newest first, as far as all of them went; and where the list ended."""
    end = max((end for end in ends if end is not None), default=None)
    newest = sorted((one for one in listed if end is None or one.at >= end), key=lambda one: one.at, reverse=True)
    if len(newest) > limit:
        end = newest[limit - 1].at
    return [one.shown for one in newest[:limit]], end


def _at(proposal: Proposal) -> Position:
    return proposal.created_us, proposal.id


def _sought(actor: Actor, filters: Filters) -> SoughtRuns | None:
    """Return the part of a filter that rows decide; None if no run of these can satisfy it."""
    own = None if actor.datasets is None else actor.principal_id
    if filters.is_overdue or (None not in (filters.principal, own) and filters.principal != own):
        return None
    if filters.state not in (None, "waiting", "expired", "refused"):
        return None
    return SoughtRuns(
        state=None if filters.state is None else "open" if filters.state == "waiting" else filters.state,
        principal_id=filters.principal or own,
        since_us=filters.since_us,
        until_us=filters.until_us,
    )


def _holds(filters: Filters, proposal: Proposal, datasets: _Datasets, within: Definition | None) -> bool:
    facts = proposal.body["request"]
    return (
        (within is None or within.id in datasets.touched(proposal))
        and filters.project in (None, facts.get("project"))
        and filters.holds_request(proposal.body["by"]["name"], facts["request"])
    )


class _Datasets(NamedTuple):
    """The datasets that the requests of runs name, by name, and those that these are derived from, by id."""

    named: Mapping[str, Dataset]
    origins: Mapping[UUID, Dataset]

    @classmethod
    def of(cls, reading: Reading, proposals: Sequence[Proposal]) -> _Datasets:
        names = sorted({name for proposal in proposals for name in waiting.names_of(proposal)})
        named = {found.definition.name: found for found in reading.datasets.by_names(names)} if names else {}
        ids = {id_ for found in named.values() for id_ in found.definition.ancestors}
        above = [found.name for found in reading.datasets.definitions(ids=sorted(ids))] if ids else []
        origins = {found.definition.id: found for found in reading.datasets.by_names(above)} if above else {}
        return cls(named, origins)

    def touched(self, proposal: Proposal) -> dict[UUID, Dataset]:
        """Return every dataset that a run would charge."""
        touched: dict[UUID, Dataset] = {}
        for name in waiting.names_of(proposal):
            if (found := self.named.get(name)) is not None:
                touched[found.definition.id] = found
                ids = found.definition.ancestors
                touched |= {id_: self.origins[id_] for id_ in ids if id_ in self.origins}
        return touched


def _shown(actor: Actor, proposal: Proposal, datasets: _Datasets, now_us: int) -> RunShown:
    """Return a run as lists show it. Its percent is of the least budget that the actor sees; it has the epsilon of the
    run by itself only if its cost is that."""
    shown, facts = waiting.shown(proposal, now_us), proposal.body["request"]
    touched = [one for one in datasets.touched(proposal).values() if actor.sees(one.definition.name)]
    cost = Amount.from_facts(facts["cost"])
    part = portions.taken(cost, [portions.Room(one.limit, one.limit) for one in touched if one.limit is not None])
    shown["percent"], shown["percent_of_delta"] = part["percent"], part["percent_of_delta"]
    if "delta" not in facts:
        deltas = portions.deltas_of(one.budget for one in touched)
        shown["epsilon"] = portions.epsilons_of([cost], deltas)[cost]
    return shown

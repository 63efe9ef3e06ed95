"""Proposals: find, approve, refuse, show."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from ledger.core.amounts import timestamp
from ledger.core.people import Actor, Proposal
from ledger.errors import NotFound, ProposalState
from ledger.service.catalogue import demand_sight
from ledger.service.use_cases import UseCases
from ledger.store import Reading


def found(served: UseCases, caller: Actor, proposal_id: UUID) -> dict[str, Any]:
    """A proposal as GET shows it. Raises NotFound."""
    proposal, name = look_up(served, caller, proposal_id)
    with served.store.reading(caller.tenant_id) as reading:
        return shown(proposal, name, now_us=reading.now_us())


def look_up(served: UseCases, caller: Actor, proposal_id: UUID, *, is_open: bool = False) -> tuple[Proposal, str]:
    """A proposal and the name of its dataset. Raises NotFound."""
    with served.store.reading(caller.tenant_id) as reading:
        proposal = reading.proposals.by_id(proposal_id)
        if proposal is None:
            raise NotFound("There is no such proposal.")
        name = names_of_datasets(reading, [proposal])[proposal.dataset_id]
    try:
        demand_sight(caller, name)
    except NotFound:
        raise NotFound("There is no such proposal.") from None
    if is_open and proposal.state != "open":
        raise ProposalState(f"The proposal is {proposal.state}.", state=proposal.state)
    return proposal, name


def names_of_datasets(reading: Reading, proposals: list[Proposal]) -> dict[UUID, str]:
    """The names of the datasets that the proposals are about."""
    definitions = reading.datasets.definitions(ids={proposal.dataset_id for proposal in proposals})
    return {definition.id: definition.name for definition in definitions}


def shown(proposal: Proposal, dataset: str, *, now_us: int) -> dict[str, Any]:
    """A proposal in an answer."""
    is_late = proposal.state == "open" and proposal.expires_us <= now_us
    return {
        "id": str(proposal.id),
        "what": proposal.kind,
        "dataset": dataset,
        "run": None if proposal.run_id is None else str(proposal.run_id),
        "proposes": proposal.body["request"],
        "proposed_by": proposal.body["by"],
        "state": "expired" if is_late else proposal.state,
        "created_at": timestamp(proposal.created_us),
        "approve_by": timestamp(proposal.expires_us),
    }

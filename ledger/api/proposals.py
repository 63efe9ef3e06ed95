"""What takes two people: what one steward proposed, and a second one approves or refuses."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from ledger.api import pages
from ledger.api.done import carried_out
from ledger.api.gate import Reader, Steward
from ledger.api.problems import Json
from ledger.api.routing import Route
from ledger.api.schemas.datasets import DatasetShown
from ledger.api.schemas.tenants import ProposalPage, ProposalShown, ProposalStateShown
from ledger.api.services import services
from ledger.core.amounts import Amount
from ledger.core.commands import Change, RefuseProposal, SetBudget
from ledger.core.people import Actor, Consent
from ledger.errors import Forbidden
from ledger.service.proposals import found, look_up, names_of_datasets, shown
from ledger.service.requests.tenants import Refusal
from ledger.service.shapes.runs import RunMoved

router = APIRouter(prefix="/v1/proposals", route_class=Route, tags=["proposals"])

_DONE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": DatasetShown | RunMoved, "description": "What was proposed is done: the dataset, or the run."}
}


@router.get("", responses={200: {"model": ProposalPage}}, response_model=None)
def list_proposals(
    caller: Reader,
    request: Request,
    state: Annotated[ProposalStateShown | None, Query()] = None,
    limit: pages.Limit = 100,
    cursor: pages.Cursor = None,
) -> Response:
    """List proposals, newest first. One that nobody answered within a day has expired."""
    _demand_whole(caller)
    with services(request).store.reading(caller.tenant_id) as reading:
        now_us = reading.now_us()
        found = reading.proposal_page(after=pages.after_run(cursor), limit=limit + 1, state=state, now_us=now_us)
        names = names_of_datasets(reading, found)
    place = lambda proposal: [proposal.created_us, str(proposal.id)]  # noqa: E731 (two of a kind)
    show = lambda proposal: shown(proposal, names[proposal.dataset_id], now_us=now_us)  # noqa: E731
    return Json(pages.page(found, limit=limit, show=show, place=place))


@router.get("/{id}", responses={200: {"model": ProposalShown}}, response_model=None)
def show_proposal(id: UUID, caller: Reader, request: Request) -> Response:  # noqa: A002 (the contract's name)
    """Show a proposal: what is asked, by whom, and until when it can be approved."""
    return Json(found(services(request), caller, id))


@router.post("/{id}/approve", responses=_DONE, response_model=None)
async def approve(id: UUID, caller: Steward, request: Request) -> Response:  # noqa: A002 (the contract's name)
    """Approve what another steward proposed: it is done now, if it still can be."""
    served = services(request)
    proposal, name = await asyncio.to_thread(look_up, served, caller, id, is_open=True)
    said = proposal.body["request"]
    consent = Consent(proposal.id, is_second=True)
    if proposal.run_id is not None:
        answer, _ = await served.runs.void(caller, proposal.run_id, body=said["request"], consent=consent)
        return Json(answer)
    if proposal.kind == "budget":
        limit = Amount.of(said["limit"])
        command: SetBudget | Change = SetBudget(
            caller, proposal.dataset_id, said["budget"], limit, said["reason"], consent
        )
    else:
        command = Change(
            caller,
            proposal.dataset_id,
            said.get("state"),
            said.get("title"),
            said.get("description"),
            said.get("reason"),
            consent,
        )
    return await carried_out(served, command, name)


@router.post("/{id}/refuse", responses={200: {"model": ProposalShown}}, response_model=None)
async def refuse(
    id: UUID,  # noqa: A002 (the contract's name)
    body: Refusal,
    caller: Steward,
    request: Request,
) -> Response:
    """Refuse what another steward proposed."""
    served = services(request)
    proposal, _ = await asyncio.to_thread(look_up, served, caller, id, is_open=True)
    if proposal.run_id is not None:
        await served.runs.refuse_void(caller, proposal.run_id, proposal_id=proposal.id, reason=body.reason)
    else:
        command = RefuseProposal(caller, proposal.id, (proposal.dataset_id,), body.reason)
        await asyncio.wrap_future(served.writer.submit(caller.tenant_id, command))
    return Json(await asyncio.to_thread(found, served, caller, id))


def _demand_whole(caller: Actor) -> None:
    if caller.datasets is not None:
        raise Forbidden("A key limited to datasets shows a proposal by its id, and lists none.")

"""Changes that need two people: one steward proposes, and a second one approves or refuses."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from ledger.api import pages
from ledger.api.gate import Reader, Steward
from ledger.api.paths import AnyId
from ledger.api.problems import Json
from ledger.api.routing import Route
from ledger.api.services import services
from ledger.service.requests.tenants import Approval, Refusal
from ledger.service.shapes.datasets import DatasetShown
from ledger.service.shapes.runs import RunCorrected, RunInFull, RunMoved
from ledger.service.shapes.tenants import ProposalPage, ProposalShown, ProposalStateShown

router = APIRouter(prefix="/v1/proposals", route_class=Route, tags=["proposals"])

_DONE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "model": DatasetShown | RunMoved | RunCorrected | RunInFull,
        "description": "The proposed change was made: the dataset, or the run. A run that waited was decided.",
    }
}


@router.get("", responses={200: {"model": ProposalPage}}, response_model=None)
def list_proposals(
    caller: Reader,
    request: Request,
    state: Annotated[ProposalStateShown | None, Query()] = None,
    limit: pages.Limit = 100,
    cursor: pages.Cursor = None,
) -> Response:
    """List proposals, newest first. A proposal that nobody answered within a day has expired."""
    return Json(services(request).proposals.page(caller, state=state, limit=limit, cursor=cursor))


@router.get("/{id}", responses={200: {"model": ProposalShown}}, response_model=None)
async def show_proposal(id: AnyId, caller: Reader, request: Request) -> Response:  # noqa: A002 (the contract's name)
    """Show a proposal: the change, who proposed it, and until when it can be approved."""
    proposals = services(request).proposals
    return Json(await run_in_threadpool(proposals.show, caller, await proposals.found(caller, id)))


@router.post("/{id}/approve", responses=_DONE, response_model=None)
async def approve(
    id: AnyId,  # noqa: A002 (the contract's name)
    caller: Steward,
    request: Request,
    body: Approval | None = None,
) -> Response:
    """Approve what another person proposed. The change is made now, if it is still possible; a run that waits is
    decided now, against what is left."""
    proposals = services(request).proposals
    reason = None if body is None else body.reason
    return Json(await proposals.approve(caller, await proposals.found(caller, id), reason=reason))


@router.post("/{id}/refuse", responses={200: {"model": ProposalShown}}, response_model=None)
async def refuse(
    id: AnyId,  # noqa: A002 (the contract's name)
    body: Refusal,
    caller: Steward,
    request: Request,
) -> Response:
    """Refuse what another steward proposed."""
    proposals = services(request).proposals
    return Json(await proposals.refuse(caller, await proposals.found(caller, id), reason=body.reason))

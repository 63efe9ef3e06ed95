"""Runs: ask, start, settle, void, show, list."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Body, Header, Query, Request, Response

from ledger.api import pages
from ledger.api.gate import Ender, Reader, Requester, Route
from ledger.api.problems import Json, of_error
from ledger.api.schemas import Problem, RunApproved, RunMoved, RunPage, RunRefused, RunShown
from ledger.api.services import services
from ledger.errors import IdempotencyKeyMissing
from ledger.model import RunStateName
from ledger.runs import DatasetName, RunRequest, SettleRequest, VoidRequest, absent

router = APIRouter(prefix="/v1/runs", route_class=Route, tags=["runs"])

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_EXAMPLES: Final[dict[str, Any]] = {
    "mnist": {
        "summary": "60 epochs of DP-SGD on MNIST",
        "value": {
            "datasets": ["mnist"],
            "mechanism": {
                "type": "dpsgd",
                "noise_multiplier": 1.1,
                "sampling": "poisson",
                "dataset_size": 60000,
                "batch_size": 256,
                "epochs": 60,
            },
            "purpose": "baseline",
        },
    },
    "release": {
        "summary": "One noisy count",
        "value": {"datasets": ["mnist"], "mechanism": {"type": "gaussian", "noise_multiplier": 5}},
    },
}
_SETTLED: Final[dict[str, Any]] = {
    "planned": {
        "summary": "All that was planned",
        "value": {"stop": "planned", "evidence": {"log": "s3://training/2026-11-20"}},
    }
}
_VOIDED: Final[dict[str, Any]] = {
    "unused": {"summary": "Never started", "value": {"reason": "The job was cancelled before it read the data."}}
}
_REFUSED: Final[dict[int | str, dict[str, Any]]] = {
    409: {
        "model": RunRefused | Problem,
        "description": "`budget-exceeded`: it does not fit; what would is in `fits`. Or the dataset is not active.",
    }
}


@router.post("", status_code=201, responses={201: {"model": RunApproved}, **_REFUSED}, response_model=None)
async def ask(
    body: Annotated[RunRequest, Body(openapi_examples=_EXAMPLES)],
    caller: Requester,
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(description="Required: 1-255 visible ASCII characters, one key for each run you mean to ask for."),
    ] = None,
) -> Response:
    """Ask for approval of a run, before it touches data. The same key and body get the same answer, for ever."""
    if idempotency_key is None or not _KEY.fullmatch(idempotency_key):
        raise IdempotencyKeyMissing(field="Idempotency-Key")
    answer = await services(request).runs.ask(caller, key=idempotency_key, request=body, body=await request.json())
    headers = {"Idempotent-Replayed": "true"} if answer.is_replayed else {}
    if answer.refusal is not None:
        return of_error(answer.refusal, headers=headers)
    return Json(answer.body, status_code=201, headers=headers)


@router.post("/{id}/start", responses={200: {"model": RunMoved}}, response_model=None)
async def start(id: UUID, caller: Requester, request: Request) -> Response:  # noqa: A002 (the contract's name)
    """Say that the run now touches the data. Not possible after `start_by`."""
    return Json(await services(request).runs.start(caller, id))


@router.post("/{id}/settle", responses={200: {"model": RunMoved}}, response_model=None)
async def settle(
    id: UUID,  # noqa: A002 (the contract's name)
    caller: Requester,
    request: Request,
    body: Annotated[SettleRequest | None, Body(openapi_examples=_SETTLED)] = None,
) -> Response:
    """Charge a started run for what it executed: in this version, all that was planned."""
    said = {} if body is None else await request.json()
    return Json(await services(request).runs.settle(caller, id, request=body or SettleRequest(), body=said))


@router.post("/{id}/void", responses={200: {"model": RunMoved}}, response_model=None)
async def void(
    id: UUID,  # noqa: A002 (the contract's name)
    body: Annotated[VoidRequest, Body(openapi_examples=_VOIDED)],
    caller: Ender,
    request: Request,
) -> Response:
    """Say that no output of the run was ever seen: nothing is charged. Once started, that is a steward's word."""
    return Json(await services(request).runs.void(caller, id, body=body.model_dump()))


@router.get("", responses={200: {"model": RunPage}}, response_model=None)
def list_runs(
    caller: Reader,
    request: Request,
    dataset: Annotated[DatasetName | None, Query()] = None,
    state: Annotated[RunStateName | None, Query()] = None,
    overdue: Annotated[
        bool | None, Query(description="Not started by `start_by`, or not settled by `settle_by`.")
    ] = None,
    _project: Annotated[None, absent("projects are"), Query(alias="project", include_in_schema=False)] = None,
    limit: pages.Limit = 100,
    cursor: pages.Cursor = None,
) -> Response:
    """List the runs that the key sees, newest first."""
    found = services(request).runs.page(
        caller, after=pages.after_run(cursor), limit=limit + 1, dataset=dataset, state=state, is_overdue=overdue
    )
    place = lambda pair: [pair[0].created_us, str(pair[0].id)]  # noqa: E731 (two of a kind with the one beside it)
    return Json(pages.page(found, limit=limit, show=lambda pair: pair[1], place=place))


@router.get("/{id}", responses={200: {"model": RunShown}}, response_model=None)
def show_run(id: UUID, caller: Reader, request: Request) -> Response:  # noqa: A002 (the contract's name)
    """Show a run: what was asked, what was decided, what came of it."""
    return Json(services(request).runs.show(caller, id))

"""Runs: ask, start, settle, void, show, list."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final
from uuid import UUID, uuid4

from fastapi import APIRouter, Body, Depends, Header, Query, Request, Response
from pydantic import StringConstraints
from starlette.concurrency import run_in_threadpool

from ledger.api import observe, pages
from ledger.api.batches import KEY, ask_for_all
from ledger.api.done import PROPOSED, answered
from ledger.api.gate import Ender, Reader, Requester, Steward
from ledger.api.paths import AnyId
from ledger.api.problems import Json, of_error
from ledger.api.routing import Route, aside, sent
from ledger.api.schemas.common import Problem
from ledger.api.schemas.problems import Batched, BatchWasRefused, RunOverran, RunRefused
from ledger.api.services import Served, served, services
from ledger.core.amounts import microseconds
from ledger.core.people import Actor, Consent
from ledger.core.runs import RunStateShown
from ledger.errors import BudgetExceeded, IdempotencyKeyMissing
from ledger.mistakes import VISIBLE_PATTERN
from ledger.service.asked import Item
from ledger.service.requests.fields import DatasetName, ProjectName, When
from ledger.service.requests.runs import (
    ConfirmRequest,
    CorrectionRequest,
    CorrectRequest,
    NewBatch,
    ProgressRequest,
    RunRequest,
    SettleRequest,
    StartRequest,
    VoidRequest,
    as_kept,
)
from ledger.service.run_filters import LABELS_MAX, Filters, labels_of
from ledger.service.shapes.runs import (
    Attestation,
    ProgressShown,
    ReceiptShown,
    RunApproved,
    RunCorrected,
    RunInFull,
    RunMoved,
    RunPage,
    RunStarted,
)

router = APIRouter(prefix="/v1/runs", route_class=Route, tags=["runs"])

_REPLAYED: Final = {"Idempotent-Replayed": "true"}
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
# Optional for FastAPI, so that its lack is answered by a code of its own.
_IDEMPOTENCY_KEY: Final[dict[str, Any]] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": "1 to 255 visible ASCII characters; a new key for each run.",
    "schema": {"type": "string", "pattern": f"^{KEY.pattern}$"},
}
_SETTLED: Final[dict[str, Any]] = {
    "planned": {
        "summary": "Everything that was planned",
        "value": {"stop": "planned", "evidence": {"log": "s3://training/2026-11-20"}},
    }
}
_STARTED: Final[dict[str, Any]] = {
    "mine": {"summary": "With a token of this process", "value": {"token": "0d5b2f0e-6a3c-4b57-9d0f-6a1a4d7f3c21"}}
}
_PROGRESS: Final[dict[str, Any]] = {"half": {"summary": "Half of it", "value": {"steps": 7031}}}
_VOIDED: Final[dict[str, Any]] = {
    "unused": {"summary": "Never started", "value": {"reason": "The job was cancelled before it read the data."}}
}
_CONFIRMED: Final[dict[str, Any]] = {
    "resumed": {"summary": "It is right", "value": {"reason": "The job looped over a weekend; the log has every step."}}
}
_CORRECTED: Final[dict[str, Any]] = {
    "slip": {"summary": "It was a slip", "value": {"steps": 9000, "reason": "Samples were reported in place of steps."}}
}
_AMENDED: Final[dict[str, Any]] = {
    "rho": {
        "summary": "A quarter of the right rho was declared",
        "value": {
            "mechanism": {"type": "zcdp", "rho": 0.08},
            "reason": "The job's rho was declared for each of four queries, and charged once.",
            "decided_by_output": False,
            "evidence": {"review": "privacy team, 2026-11-30"},
        },
    }
}
_REFUSED: Final[dict[int | str, dict[str, Any]]] = {
    409: {
        "model": RunRefused | Problem,
        "description": "`budget-exceeded`: the run does not fit; `fits` lists what would. Or the dataset is inactive.",
    }
}
_OVERRAN: Final[dict[int | str, dict[str, Any]]] = {
    409: {
        "model": RunOverran | Problem,
        "description": (
            "`overrun`: more was executed than fits; it is charged, and its datasets are frozen. If no budget"
            " there could cover it, `state` is `started`, and a steward must confirm or correct the number. Or"
            " the state of the run does not allow it."
        ),
    }
}
_BATCHES: Final[dict[str, Any]] = {
    "sweep": {
        "summary": "Two trials, both or none",
        "value": {
            "runs": [
                {**_EXAMPLES["release"]["value"], "idempotency_key": "trial-1"},
                {**_EXAMPLES["release"]["value"], "idempotency_key": "trial-2"},
            ],
            "atomic": True,
        },
    },
    "many": {
        "summary": "As many trials as fit, in this order",
        "value": {
            "runs": [{**_EXAMPLES["release"]["value"], "idempotency_key": f"trial-{number}"} for number in range(3, 6)],
            "as_many_as_fit": True,
        },
    },
}


@router.post(
    "",
    status_code=201,
    responses={201: {"model": RunApproved}, **_REFUSED},
    response_model=None,
    openapi_extra={"parameters": [_IDEMPOTENCY_KEY]},
)
async def ask(
    body: Annotated[RunRequest, Body(openapi_examples=_EXAMPLES)],
    caller: Requester,
    request: Request,
    idempotency_key: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Ask for approval of a run, before it touches data. The same key and body always get the same answer."""
    size = len(await request.body())
    return await ask_for(served(request), caller, body, as_kept(sent(request), body), key=idempotency_key, size=size)


async def ask_for(
    served: Served,
    caller: Actor,
    request: RunRequest,
    sent: Any,
    *,
    key: str | None,
    size: int,
    text: str | None = None,
    kind: str | None = None,
) -> Response:
    """Return the answer to a request for a run. Arguments as in `Item`."""
    if key is None or not KEY.fullmatch(key):
        raise IdempotencyKeyMissing(field="Idempotency-Key")
    answer = await served.services.runs.asking.ask(caller, Item(key, request, sent, size, text, kind))
    observe.decided(served.metrics, [answer])
    headers = _REPLAYED if answer.is_replayed else {}
    if isinstance(answer.decision, BudgetExceeded):
        return await aside(served, caller, partial(of_error, answer.decision, headers=headers), size=answer.size)
    shown = partial(Json, answer.decision, status_code=201, headers=headers)
    return await aside(served, caller, shown, size=answer.size)


@router.post(
    "/batch",
    responses={
        200: {"model": Batched, "description": "The outcome of each run, in order."},
        409: {"model": BatchWasRefused, "description": "`batch-refused`: not every run can be approved, so none was."},
    },
    response_model=None,
)
async def ask_batch(
    body: Annotated[NewBatch, Body(openapi_examples=_BATCHES)], caller: Requester, request: Request
) -> Response:
    """Ask for up to 1000 runs at once: each on its own, all or none, or as many as fit together."""
    return await ask_for_all(served(request), caller, sent(request)["runs"], body)


@router.post("/{id}/start", responses={200: {"model": RunStarted}}, response_model=None)
async def start(
    id: AnyId,  # noqa: A002 (the contract's name)
    caller: Requester,
    request: Request,
    body: Annotated[StartRequest | None, Body(openapi_examples=_STARTED)] = None,
) -> Response:
    """Start the run: it may now touch the data. Not possible after `start_by`. A job may begin with its `receipt` until
    `begin_by`. The same `token` always gets the same answer, and another one `run-state`: one process starts a run."""
    return await start_run(served(request), caller, await _run(request, caller, id), body)


async def start_run(served: Served, caller: Actor, run: UUID, request: StartRequest | None) -> Response:
    """Return the answer to the start of a run, which shows whether it was started before."""
    token = None if request is None else request.token
    answer, is_replayed = await served.services.runs.start(caller, run, token=token)
    return Json(answer, headers=_REPLAYED if is_replayed else {})


@router.post("/{id}/settle", responses={200: {"model": RunMoved}, **_OVERRAN}, response_model=None)
async def settle(
    id: AnyId,  # noqa: A002 (the contract's name)
    caller: Requester,
    request: Request,
    body: Annotated[SettleRequest | None, Body(openapi_examples=_SETTLED)] = None,
) -> Response:
    """Settle a started run: charge what it executed, and return the rest if that is sound."""
    requested = {} if body is None else sent(request)
    return Json(
        await services(request).runs.settle(
            caller, await _run(request, caller, id), request=body or SettleRequest(), body=requested
        )
    )


@router.put("/{id}/progress", responses={200: {"model": ProgressShown}}, response_model=None)
async def note_progress(
    id: AnyId,  # noqa: A002 (the contract's name)
    body: Annotated[ProgressRequest, Body(openapi_examples=_PROGRESS)],
    caller: Requester,
    request: Request,
) -> Response:
    """Report how far the job of a started run has come. The newest report is kept, as evidence if the job dies; nothing
    is charged by it, and the number never falls."""
    run = await _run(request, caller, id)
    return Json(await services(request).runs.note_progress(caller, run, steps=body.steps, reporter=body.reporter))


@router.post("/{id}/confirm", responses={200: {"model": RunMoved}}, response_model=None)
async def confirm(
    id: AnyId,  # noqa: A002 (the contract's name)
    body: Annotated[ConfirmRequest, Body(openapi_examples=_CONFIRMED)],
    caller: Steward,
    request: Request,
) -> Response:
    """Confirm that a run executed what it reported, although no budget there covers it: it is charged as an overrun."""
    return Json(await services(request).runs.confirm(caller, await _run(request, caller, id), reason=body.reason))


@router.post("/{id}/correct", responses={200: {"model": RunMoved}, **PROPOSED}, response_model=None)
async def correct(
    id: AnyId,  # noqa: A002 (the contract's name)
    body: Annotated[CorrectRequest, Body(openapi_examples=_CORRECTED)],
    caller: Steward,
    request: Request,
) -> Response:
    """Settle a run for what it really executed, in place of a reported number that no budget there covers."""
    consent, stated = Consent(uuid4()), sent(request)
    return answered(
        await services(request).runs.correct(
            caller, await _run(request, caller, id), request=body, body=stated, consent=consent
        )
    )


@router.post("/{id}/correction", responses={200: {"model": RunCorrected}, **PROPOSED}, response_model=None)
async def amend(
    id: AnyId,  # noqa: A002 (the contract's name)
    body: Annotated[CorrectionRequest, Body(openapi_examples=_AMENDED)],
    caller: Steward,
    request: Request,
) -> Response:
    """Correct what a settled run was declared as: it is charged for what it really was. If that does not fit, its
    datasets are overdrawn and frozen. Giving back always takes a second steward."""
    consent, stated = Consent(uuid4()), sent(request)
    return answered(
        await services(request).runs.amend(
            caller, await _run(request, caller, id), request=body, body=stated, consent=consent
        )
    )


@router.post("/{id}/void", responses={200: {"model": RunMoved}, **PROPOSED}, response_model=None)
async def void(
    id: AnyId,  # noqa: A002 (the contract's name)
    body: Annotated[VoidRequest, Body(openapi_examples=_VOIDED)],
    caller: Ender,
    request: Request,
) -> Response:
    """Void a run: you state that nobody saw any output of it, and nothing is charged. A started run takes a steward."""
    consent = Consent(uuid4())
    stated = body.model_dump(exclude_none=True)
    return answered(
        await services(request).runs.void(caller, await _run(request, caller, id), body=stated, consent=consent)
    )


class RunQuery:
    """The filters of a list of runs, from the query (a dependency)."""

    def __init__(
        self,
        dataset: Annotated[DatasetName | None, Query()] = None,
        state: Annotated[
            RunStateShown | None,
            Query(description="waiting: for a steward. expired: no steward approved it in time. refused: by either."),
        ] = None,
        overdue: Annotated[
            bool | None, Query(description="The run was not started by `start_by`, or not settled by `settle_by`.")
        ] = None,
        project: Annotated[ProjectName | None, Query()] = None,
        label: Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=320)]] | None,
            Query(
                max_length=LABELS_MAX, description="`name=value`, or `name` for any value. Each one given must hold."
            ),
        ] = None,
        purpose: Annotated[
            str | None, Query(min_length=1, max_length=255, description="A part of the purpose, in any case.")
        ] = None,
        person: Annotated[
            str | None,
            Query(min_length=1, max_length=255, description="Who asked: a principal's id, or its name at that time."),
        ] = None,
        mechanism: Annotated[
            str | None, Query(pattern="^[a-z0-9_]{1,63}$", description="The type of the mechanism, such as `dpsgd`.")
        ] = None,
        since: Annotated[
            When | None, Query(description="Asked then or later: an RFC 3339 time, or a date, from 00:00 UTC on.")
        ] = None,
        until: Annotated[
            When | None, Query(description="Asked before: an RFC 3339 time, or a date, until 00:00 UTC.")
        ] = None,
        key: Annotated[
            str | None,
            Query(
                min_length=1,
                max_length=255,
                pattern=VISIBLE_PATTERN,
                description="Your own run with this idempotency key. No other filters.",
            ),
        ] = None,
    ) -> None:
        self.filters = Filters(
            dataset=dataset,
            state=state,
            project=project,
            is_overdue=overdue,
            labels=labels_of(label or ()),
            purpose=purpose,
            person=person,
            mechanism=mechanism,
            since_us=None if since is None else microseconds(since),
            until_us=None if until is None else microseconds(until),
            key=key,
        )


@router.get("", responses={200: {"model": RunPage}}, response_model=None)
async def list_runs(
    caller: Reader,
    request: Request,
    query: Annotated[RunQuery, Depends()],
    limit: pages.Limit = 100,
    cursor: pages.Cursor = None,
) -> Response:
    """List the runs that the key sees, newest first.

    A page looks at a bounded number of runs. If few of them satisfy the filters, it has fewer items than `limit`, or
    none, and a `next`.
    """
    page = partial(services(request).runs.page, caller, query.filters, limit=limit, cursor=cursor)
    if query.filters.reads_texts:  # that takes a while, so tenants take turns
        return Json(await aside(served(request), caller, page, size=None))
    return Json(await run_in_threadpool(page))


@router.get("/{id}", responses={200: {"model": RunInFull}}, response_model=None)
async def show_run(id: AnyId, caller: Reader, request: Request) -> Response:  # noqa: A002 (the contract's name)
    """Show a run: the request, the decision with its reasons, and what happened to it."""
    return Json(await services(request).runs.show(caller, await _run(request, caller, id)))


@router.get("/{id}/receipt", responses={200: {"model": ReceiptShown}}, response_model=None)
async def show_receipt(id: AnyId, caller: Reader, request: Request) -> Response:  # noqa: A002 (the contract's name)
    """Renew the receipt of a run's start, or before that of its approval. A refused or ended run gets `run-state`."""
    run = await _run(request, caller, id)
    return Json(await run_in_threadpool(services(request).runs.receipt, caller, run))


@router.get("/{id}/attestation", responses={200: {"model": Attestation}}, response_model=None)
async def show_attestation(id: AnyId, caller: Reader, request: Request) -> Response:  # noqa: A002 (the contract's name)
    """Sign a statement about the files that a settled run produced, with its cost: in-toto in a DSSE envelope. A run
    that is not settled, or was settled without `models`, gets `run-state`."""
    run = await _run(request, caller, id)
    return Json(await run_in_threadpool(services(request).attestations.of, caller, run))


async def _run(request: Request, caller: Actor, text: str) -> UUID:
    """Return the run that a path names, and note its whole id for the log."""
    found = await services(request).runs.found(caller, text)
    request.path_params["id"] = str(found)
    return found

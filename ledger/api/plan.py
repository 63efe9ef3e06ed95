"""Plans: whether a run would fit, what it would leave, and how much of it would fit."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Request, Response

from ledger.api.gate import Reader
from ledger.api.problems import Json
from ledger.api.routing import Route, aside, sent
from ledger.api.services import served, services
from ledger.service.planned_runs import PlanRuns
from ledger.service.planner import PlanRequest
from ledger.service.shapes.accountant import Planned, PlannedRuns

router = APIRouter(prefix="/v1", route_class=Route, tags=["accountant"])

_LINE_BYTES: Final = 400
"""The approximate size of a dataset or a binding account in an answer."""
_SGD: Final = {"type": "dpsgd", "noise_multiplier": 1.1, "sampling": "poisson"}
_EXAMPLES: Final[dict[str, Any]] = {
    "noise": {
        "summary": "The least noise for 60 epochs in the remaining budget",
        "value": {
            "datasets": ["mnist"],
            "mechanism": {**_SGD, "dataset_size": 60000, "batch_size": 256, "epochs": 60},
            "solve_for": "noise_multiplier",
        },
    },
    "steps": {
        "summary": "The most steps with this noise",
        "value": {
            "datasets": ["mnist"],
            "mechanism": {**_SGD, "sample_rate": 0.00426667, "steps": 14062},
            "solve_for": "steps",
        },
    },
    "budget": {
        "summary": "The least noise for a budget that no dataset has yet",
        "value": {
            "budget": {"epsilon": 2, "at_delta": 1e-5},
            "mechanism": {**_SGD, "dataset_size": 60000, "batch_size": 256, "epochs": 60},
            "solve_for": "noise_multiplier",
        },
    },
    "share": {
        "summary": "The least noise for a tenth of what is left",
        "value": {
            "datasets": ["mnist"],
            "mechanism": {"type": "gaussian", "noise_multiplier": 5},
            "at_most_percent": 10,
            "solve_for": "noise_multiplier",
        },
    },
    "release": {
        "summary": "Does one more noisy count fit?",
        "value": {"datasets": ["mnist"], "mechanism": {"type": "gaussian", "noise_multiplier": 5}},
    },
}


@router.post("/plan", responses={200: {"model": Planned}}, response_model=None)
async def plan(
    body: Annotated[PlanRequest, Body(openapi_examples=_EXAMPLES)], caller: Reader, request: Request
) -> Response:
    """Work out whether a run would fit now, what it would leave, and how much of it would fit. Nothing is recorded."""
    planned = await services(request).planner.plan(caller, body)
    lines = len(planned["datasets"]) + len(planned["binding"])
    return await aside(served(request), caller, partial(Json, planned), size=_LINE_BYTES * lines)


@router.post("/plan/runs", responses={200: {"model": PlannedRuns}}, response_model=None)
async def plan_runs(body: PlanRuns, caller: Reader, request: Request) -> Response:
    """Work out which of several runs would fit, asked for one after another, and what they would leave. Nothing is
    recorded."""
    return Json(await services(request).runs_planner.plan(caller, body, sent(request)["runs"]))

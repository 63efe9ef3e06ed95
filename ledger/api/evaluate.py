"""The accountant alone: no dataset, nothing recorded."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ledger.api.gate import Reader
from ledger.api.problems import Json
from ledger.api.routing import Route
from ledger.api.services import services
from ledger.service import evaluation
from ledger.service.requests.accountant import Evaluation
from ledger.service.shapes.accountant import Evaluated

router = APIRouter(prefix="/v1", route_class=Route, tags=["accountant"])


@router.post("/evaluate", responses={200: {"model": Evaluated}}, response_model=None)
async def evaluate(body: Evaluation, caller: Reader, request: Request) -> Response:
    """Work out what a mechanism costs, and what epsilon that is at each delta asked for.

    A certificate trades mu for delta; `frontier` shows at what rate.
    """
    return Json(await evaluation.evaluate(services(request).certificates, caller, body))

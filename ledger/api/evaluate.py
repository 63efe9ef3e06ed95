"""The accountant alone: no dataset is involved, and nothing is recorded."""

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
    """Work out what a mechanism costs, and the epsilon of that cost at each requested delta.

    A certificate can trade mu for delta; `frontier` lists the alternatives.
    """
    return Json(await evaluation.evaluate(services(request).certificates, caller, body))

"""The accountant alone: no dataset, nothing recorded."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from ledger.accounting import ACCOUNTANT, costs
from ledger.accounting.cost import Cost, root
from ledger.accounting.display import show_epsilon
from ledger.accounting.terms import Terms
from ledger.api.gate import Reader
from ledger.api.problems import Json
from ledger.api.routing import Route
from ledger.api.schemas.accountant import Evaluated
from ledger.api.services import services
from ledger.service.requests.accountant import Evaluation

router = APIRouter(prefix="/v1", route_class=Route, tags=["accountant"])

REPORT_DELTAS: Final = (1e-5, 1e-6)
DELTA: Final = Decimal("1e-8")
"""The share of a delta budget that a certificate gets when nothing is said."""


@router.post("/evaluate", responses={200: {"model": Evaluated}}, response_model=None)
async def evaluate(body: Evaluation, caller: Reader, request: Request) -> Response:
    """Work out what a mechanism costs, and what epsilon that is at each delta asked for.

    A certificate trades mu for delta; `frontier` shows at what rate.
    """
    certificates = services(request).certificates
    delta = DELTA if body.delta is None else body.delta
    terms = Terms(bound=body.bound, adjacency=body.adjacency, delta=delta)
    cost = await certificates.cost(caller.tenant_id, body.mechanism, terms)
    more: dict[str, Any] = {}
    if costs.needs_certificate(body.mechanism, bound=body.bound):
        pairs = await certificates.frontier(caller.tenant_id, body.mechanism, adjacency=body.adjacency)
        more["frontier"] = [{"delta": delta, "mu": mu} for delta, mu in pairs if math.isfinite(mu)]
    return Json(await run_in_threadpool(_answer, body, cost) | more)


def _answer(body: Evaluation, cost: Cost) -> dict[str, Any]:
    # A delta of many nines reads as the double 1, which is none.
    asked = [min(float(delta), math.nextafter(1, 0)) for delta in body.report_deltas or ()]
    return {
        "cost": shown(cost),
        "epsilon": [{"delta": delta, "value": _epsilon(cost, delta)} for delta in asked or REPORT_DELTAS],
        "bound": body.bound,
        "adjacency": body.adjacency,
        "is_estimate": body.bound == "clt",
        "method": cost.method,
        "assumptions": cost.assumptions,
        "accountant": ACCOUNTANT,
    }


def shown(cost: Cost) -> dict[str, Any]:
    """A cost with the double before rounding; the integers are null where no balance could hold them."""
    facts: dict[str, Any] = dict(cost.amount.facts()) if cost.is_holdable else {"mu_sq_pico": None, "delta_atto": None}
    return {"mu": cost.mu, "delta": cost.delta, **facts}


def _epsilon(cost: Cost, at_delta: float) -> float | None:
    if cost.delta >= 1:  # as a double; what was declared is below 1
        return None
    # mu may be a double below the true value; the bound of mu² is not.
    upper = math.nextafter(max(cost.mu, root(cost.mu_sq)), math.inf) if cost.mu_sq else 0.0
    return show_epsilon(mu=upper, delta=float(Fraction(cost.delta)), at_delta=at_delta)

"""From a request to its cost."""

from __future__ import annotations

from typing import Any, Final

from ledger.accounting import ACCOUNTANT, amounts, mechanisms
from ledger.accounting.costs import Cost
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.settling import Charge, Stop
from ledger.core.entries import Record
from ledger.core.runs import Excess
from ledger.errors import InvalidRequest
from ledger.service.requests.runs import SettleRequest

FITS_COSTS_MAX: Final = 40
"""How many certificates are computed to say what would have fitted: a number, so that it comes out alike every time."""


def recorded_segments(decision: Record) -> int:
    """The number of segments that an approval records."""
    return int(decision["segments"]["count"]) if "segments" in decision else 1


def segments_of(mechanism: AnyMechanism, count: int, cost: Cost, *, whole: Cost) -> dict[str, Any]:
    """What is recorded of a run in segments: how long each is and costs, and what the run would cost in one piece."""
    each = amounts.charge(mu_sq=cost.mu_sq / count, nats=cost.nats / count)
    steps = mechanisms.segment_steps(mechanism, count)
    return {"count": count, "steps": steps, "cost": each.facts(), "unsegmented": whole.amount.facts()}


def excess(charged: Charge, decision: Record) -> Excess | None:
    """The part of a charge beyond what was approved, if any."""
    found = charged.excess
    if found is None:
        return None
    share = {name: decision[name] for name in ("delta",) if name in decision}
    costing = {"method": found.method, "assumptions": found.assumptions, "accountant": ACCOUNTANT, **share}
    return Excess(charged.excess_steps, found.amount, costing)


def executed(mechanism: AnyMechanism, segments: int, request: SettleRequest) -> tuple[int | None, Stop]:
    """The steps and the stop to record. Raises InvalidRequest, naming the field."""
    planned = mechanisms.planned_steps(mechanism, segments)
    if planned is None:
        if request.steps is not None:
            raise InvalidRequest("steps: this mechanism has none; leave it out", field="steps")
        return None, request.stop or "planned"
    lowest, _ = planned
    if request.steps is None:
        _, steps = mechanisms.planned_steps(mechanism) or planned
    else:
        steps = request.steps
    stop: Stop = request.stop or ("planned" if steps >= lowest else "data_dependent")
    if stop == "planned" and steps < lowest:
        raise InvalidRequest(
            f"stop: {lowest} were planned, so {steps} is not all that was planned; say data_dependent, or"
            " data_independent where that is true",
            field="stop",
        )
    return steps, stop

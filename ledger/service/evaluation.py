"""The accountant alone: what a mechanism costs, without a dataset or a record."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Final

from ledger.accounting import ACCOUNTANT, costs, mechanisms
from ledger.accounting.cost import Cost, root
from ledger.accounting.display import AmountShown, show_epsilon
from ledger.accounting.terms import Terms
from ledger.core.people import Actor
from ledger.service import sizes
from ledger.service.certificates import Certificates
from ledger.service.requests.accountant import Evaluation
from ledger.service.shapes.accountant import Certified, Evaluated
from ledger.service.shapes.common import EpsilonShown
from ledger.service.turns import Urgency

REPORT_DELTAS: Final = (1e-5, 1e-6)
DELTA: Final = Decimal("1e-8")
"""The largest share of a delta budget that a certificate gets by default."""
SHARES_OF_A_DELTA: Final = 100
"""By default a certificate takes this part of the least delta at which epsilon is requested."""
SHARE_OF_HEAVY_TAILED: Final = Fraction(3, 10)
"""At each such delta epsilon is also read off the certificate of this part of it, for mechanisms that cost far more at
a hundredth."""


async def evaluate(certificates: Certificates, actor: Actor, request: Evaluation) -> Evaluated:
    """Return a mechanism's cost and its epsilon at each delta; for a certificate also the costs at other shares of
    delta.

    Raises the same as `Certificates.cost`.
    """
    mechanisms.demand_sized(request.mechanism)
    # If epsilon is requested at a delta, a certificate may not use up all of it.
    least = min(request.report_deltas or (DELTA * SHARES_OF_A_DELTA,)) / SHARES_OF_A_DELTA
    delta = min(DELTA, least) if request.delta is None else request.delta
    terms = Terms(bound=request.bound, adjacency=request.adjacency, delta=delta)
    cost = await certificates.cost(actor.tenant_id, request.mechanism, terms, urgency=Urgency.ADVICE)
    pairs: list[tuple[float, float]] | None = None
    also: list[Fraction] = []
    if costs.needs_certificate(request.mechanism, bound=request.bound):
        if request.delta is None and request.mechanism.is_heavy_tailed:
            also = [SHARE_OF_HEAVY_TAILED * Fraction(delta) for delta in _deltas(request)]
        pairs = await certificates.frontier(actor.tenant_id, request.mechanism, adjacency=request.adjacency, also=also)
    answer = await asyncio.to_thread(_answer, request, cost, (pairs or [])[-len(also) :] if also else [])
    for name, value in sizes.facts_alone(request.mechanism).items():
        answer[name] = value  # type: ignore[literal-required]
    if pairs is not None:
        shown = pairs[: len(pairs) - len(also)]
        answer["frontier"] = [Certified(delta=delta, mu=mu) for delta, mu in shown if math.isfinite(mu)]
    return answer


def _deltas(request: Evaluation) -> list[float]:
    # A delta of many nines becomes the double 1, which is not a valid delta.
    return [min(float(delta), math.nextafter(1, 0)) for delta in request.report_deltas or REPORT_DELTAS]


def _answer(request: Evaluation, cost: Cost, others: Sequence[tuple[float, float]]) -> Evaluated:
    """Return the answer. others: (delta, mu) of the same mechanism at other shares, by which epsilon may be less."""
    return Evaluated(
        cost=_show_cost(cost),
        epsilon=[_shown_at(request, cost, others, at) for at in _deltas(request)],
        bound=request.bound,
        adjacency=request.adjacency,
        is_estimate=request.bound == "clt",
        method=cost.method,
        assumptions=list(cost.assumptions),
        accountant=ACCOUNTANT,
    )


def _shown_at(request: Evaluation, cost: Cost, others: Sequence[tuple[float, float]], at_delta: float) -> EpsilonShown:
    """Return epsilon at a delta, or why none holds there."""
    value = _least_epsilon(cost, others, at_delta)
    if value is not None:
        return EpsilonShown(delta=at_delta, value=value)
    if cost.delta < at_delta:
        return EpsilonShown(delta=at_delta, value=None, why="The cost is too large for an epsilon to be represented.")
    remedy = (
        "or leave out `delta`, the share of the certificate, for one that fits"
        if request.delta is not None and costs.needs_certificate(request.mechanism, bound=request.bound)
        else "or declare a mechanism with a smaller delta of its own"
    )
    why = f"The run's own delta, {cost.delta:.6g}, is not below {at_delta:.6g}. Ask at a larger delta, {remedy}."
    return EpsilonShown(delta=at_delta, value=None, why=why)


def _show_cost(cost: Cost) -> AmountShown:
    """Return a cost with the double before rounding; the integers are null if no balance could hold them."""
    amount = cost.amount if cost.is_holdable else None
    return AmountShown(
        mu=cost.mu,
        delta=cost.delta,
        mu_sq_pico=None if amount is None else str(amount.mu_sq_pico),
        delta_atto=None if amount is None else str(amount.delta_atto),
    )


def _least_epsilon(cost: Cost, others: Sequence[tuple[float, float]], at_delta: float) -> float | None:
    """Return the least epsilon that the cost, or one of the others, proves: each holds for the whole run."""
    known = [_epsilon(cost, at_delta)]
    known += [
        show_epsilon(mu=math.nextafter(mu, math.inf), delta=delta, at_delta=at_delta)
        for delta, mu in others
        if delta < at_delta
    ]
    return min((epsilon for epsilon in known if epsilon is not None), default=None)


def _epsilon(cost: Cost, at_delta: float) -> float | None:
    if cost.delta >= 1:  # as a double; the declared value is below 1
        return None
    # mu may be a double below the true value; the bound on mu² is not.
    upper = math.nextafter(max(cost.mu, root(cost.mu_sq)), math.inf) if cost.mu_sq else 0.0
    return show_epsilon(mu=upper, delta=float(Fraction(cost.delta)), at_delta=at_delta)

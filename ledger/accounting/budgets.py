"""The budget that a steward declares, and the limit that follows from it.

A budget is fixed in advance and converted once. It is either mu and delta, unchanged, or an (epsilon, at_delta) target
with a share `slack` of at_delta set aside for the deltas of single runs.
"""

from __future__ import annotations

import sys
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, ConfigDict

from ledger.accounting import amounts, disclosure, gdp
from ledger.accounting.numbers import Positive, Probability, Share
from ledger.core.amounts import Amount
from ledger.core.datasets import Bound
from ledger.errors import InvalidRequest

MU_MAX: Final = 1000
DELTA_MAX: Final = Decimal("0.1")
AT_DELTA_MAX: Final = Decimal("0.5")
REPORT_DELTA: Final = 1e-5
"""The delta at which the epsilon of a budget of mu is shown first."""
USUAL_DELTAS: Final = (REPORT_DELTA, 1e-6)
EPSILON_WEAK: Final = 20
"""Above this epsilon a budget protects weakly: at its own delta, or by its mu at REPORT_DELTA."""
DELTA_WEAK: Final = Fraction(1, 100)
"""Above this delta a limit protects weakly, whatever its epsilon: the delta is a chance that everything comes out."""
SLACK: Final[dict[Bound, Decimal]] = {"certified": Decimal("0.1"), "clt": Decimal(0)}


class MuBudget(BaseModel):
    """A limit as mu and delta, the ledger's own units."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    mu: Positive
    delta: Share | None = None


class EpsilonBudget(BaseModel):
    """A limit as (epsilon, delta)-DP."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    epsilon: Positive
    at_delta: Probability
    slack: Share | None = None


Budget = MuBudget | EpsilonBudget


def limit_of(budget: Budget, *, bound: Bound) -> Amount:
    """Return the limit of a budget, rounded down.

    Raises InvalidRequest, naming the field, if the budget is too large or rounds down to nothing.
    """
    if isinstance(budget, MuBudget):
        mu_field, mu_sq, delta = "budget.mu", Fraction(budget.mu) ** 2, _mu_budget_delta(budget, bound)
    else:
        slack = SLACK[bound] if budget.slack is None else budget.slack
        mu_field, delta = "budget.epsilon", Fraction(slack) * Fraction(budget.at_delta)
        mu_sq = _largest_mu(budget, delta) ** 2
    if mu_sq > MU_MAX**2:
        raise _invalid(mu_field, f"allows a mu of more than {MU_MAX}, which protects nobody")
    if delta > DELTA_MAX:
        if isinstance(budget, MuBudget):
            raise _invalid("budget.delta", f"is above {DELTA_MAX}")
        raise _invalid("budget.at_delta", f"times slack, the share for the deltas of runs, is above {DELTA_MAX}")
    limit = amounts.limit(mu_sq=mu_sq, nats=amounts.nats(delta, towards="down"))
    if limit.mu_sq_pico == 0:
        raise _invalid(mu_field, "is so small that it rounds down to nothing")
    return limit


def _mu_budget_delta(budget: MuBudget, bound: Bound) -> Fraction:
    if budget.delta is None and bound == "certified":
        raise _invalid(
            "budget.delta",
            "is required under bound certified, because a subsampled run has no certificate without it; 1e-6 is usual",
        )
    return Fraction(budget.delta or 0)


def _largest_mu(budget: EpsilonBudget, delta: Fraction) -> Fraction:
    """Return the largest mu with delta + (1 - delta)·delta_mu(epsilon) <= at_delta, rounded down."""
    if budget.epsilon > MU_MAX**2:
        raise _invalid("budget.epsilon", f"allows a mu of more than {MU_MAX}, which protects nobody")
    if budget.at_delta > AT_DELTA_MAX:
        raise _invalid("budget.at_delta", f"is above {AT_DELTA_MAX}")
    # Solved exactly for delta_mu(epsilon), so that nothing cancels when delta is close to at_delta.
    target = (Fraction(budget.at_delta) - delta) / (1 - delta)
    if target < sys.float_info.min:  # below it doubles lose digits, and the error bound no longer holds
        raise _invalid("budget.slack", "leaves next to nothing of at_delta")
    mu = float(gdp.mu_for_epsilon(epsilon=float(budget.epsilon), at_delta=float(target), delta=0.0))
    # Reading epsilon and the target as doubles moves mu by less than four units of 2^-53 while at_delta <= 1/2.
    return amounts.inward(mu, gdp.MU_FOR_EPSILON_RELATIVE_ERROR + 2.0**-51)


def _invalid(field: str, detail: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {detail}", field=field)


def report_deltas(budget: dict[str, Any]) -> list[float]:
    """Return the deltas at which a dataset's epsilon is shown: that of its budget, or the usual ones.

    No epsilon holds at a delta below the budget's own, and little is left for one at the same: if no usual one is
    larger, the first is ten times that.
    """
    if "at_delta" in budget:
        return [float(budget["at_delta"])]
    own = float(budget.get("delta") or 0)
    usual = [delta for delta in USUAL_DELTAS if delta >= own]
    return usual if own < REPORT_DELTA else [min(10 * own, float(AT_DELTA_MAX)), *usual]


class Epsilon(NamedTuple):
    """An epsilon at a delta; None for infinity."""

    value: float | None
    at_delta: float

    @property
    def is_weak(self) -> bool:
        """Return whether it protects weakly."""
        return self.value is None or self.value > EPSILON_WEAK


def epsilon_shown(budget: dict[str, Any], limit: Amount) -> Epsilon:
    """Return the epsilon of a budget at its own delta or, if it is of mu, that of its limit at the first delta at which
    it is shown, rounded up."""
    at_delta = report_deltas(budget)[0]
    if "epsilon" in budget:
        return Epsilon(float(budget["epsilon"]), at_delta)
    return Epsilon(disclosure.epsilons([limit], at_delta=at_delta)[0], at_delta)


def epsilon_judged(budget: dict[str, Any], limit: Amount) -> Epsilon:
    """Return the epsilon by which a budget is judged, rounded up: the one that is shown; or, if that is at a large
    delta which hides a large mu, that of the limit at REPORT_DELTA."""
    shown = epsilon_shown(budget, limit)
    if shown.is_weak or shown.at_delta <= REPORT_DELTA:
        return shown
    of_mu = disclosure.epsilons([Amount(limit.mu_sq_pico, 0)], at_delta=REPORT_DELTA)[0]
    is_large = limit.delta_atto > amounts.nats(DELTA_WEAK, towards="down") * amounts.ATTO
    if of_mu is not None and of_mu <= EPSILON_WEAK and not is_large:
        return shown
    return Epsilon(disclosure.epsilons([limit], at_delta=REPORT_DELTA)[0], REPORT_DELTA)

"""What an amount means for the people in the data: epsilon at a delta, and the success of an attacker.

These numbers are for reports, never for a decision. Amounts come in lists, because a report has many accounts and the
functions of `gdp` take arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from ledger.accounting import amounts, gdp
from ledger.core.amounts import Amount

FALSE_POSITIVE_RATES: Final = (0.001, 0.01, 0.05)
"""The rates at which attacks are usually reported (Carlini et al., IEEE S&P 2022)."""
BASE_RATES: Final = (0.1, 0.5)
"""How often somebody guesses a property of a person right without any output, for examples."""
TYPE_I_ERRORS: Final = (0.0, 0.001, 0.002, 0.005, *(step / 100 for step in range(1, 101)))
DELTAS: Final = tuple(float(f"{lead}e-{power}") for power in range(10, 1, -1) for lead in (1, 2, 5))
_DELTA_MAX: Final = 1.0 - 2.0**-53


def _points(spent: Sequence[Amount]) -> tuple[Any, Any]:
    """Return mu and delta, each of shape (n,). The delta of an extreme overrun rounds to 1, and is cut below it."""
    mu = [amounts.mu_of(amount) for amount in spent]
    delta = [min(amounts.delta_of(amount), _DELTA_MAX) for amount in spent]
    return mu, delta


def epsilons(spent: Sequence[Amount], *, at_delta: float) -> list[float | None]:
    """Return the epsilon of each amount at this delta, rounded up; None if no epsilon holds.

    Source: Dong, Roth & Su 2022, Cor. 2.13, inverted.
    """
    if not spent:
        return []
    mu, delta = _points(spent)
    values = gdp.epsilon_upper(mu=mu, delta=delta, at_delta=at_delta).tolist()
    return [value if math.isfinite(value) else None for value in values]


def epsilon_curve(amount: Amount) -> list[float | None]:
    """Return the epsilon of one amount at each of DELTAS, rounded up; None if none holds. Source: as `epsilons`."""
    mu, delta = _points([amount])
    values = gdp.epsilon_upper(mu=mu[0], delta=delta[0], at_delta=_array(DELTAS)).tolist()
    return [value if math.isfinite(value) else None for value in values]


def true_positive_rates(spent: Sequence[Amount], *, false_positive_rate: float) -> list[float]:
    """Return the best true-positive rate of a membership attack on each amount at this false-positive rate.

    It is never less than the false-positive rate, which guessing reaches.

    Source: Dong, Roth & Su 2022, section 2.3.
    """
    if not spent:
        return []
    mu, delta = _points(spent)
    rates = gdp.true_positive_rate(mu=mu, delta=delta, false_positive_rate=false_positive_rate).tolist()
    return [max(rate, false_positive_rate) for rate in rates]


def guessing_rates(spent: Sequence[Amount], *, base_rate: float) -> list[float]:
    """Return how often, at most, an attacker guesses a property of a person right, who is right at the base rate
    without any output. It is never less than that.

    Let f be the trade-off between the outputs with the person's data and those of a run without it (or with other data
    in its place, as the adjacency has it). Of the latter the property is independent, so each guess is right with the
    base rate b at most. The event "the guess is right" has probability b there, so with the person's data it has
    1 - f(b) at most, by the definition of f; averaging over persons keeps that, because f is convex. This is the true-
    positive rate at the false-positive rate b.
    """
    return true_positive_rates(spent, false_positive_rate=base_rate)


def advantages(spent: Sequence[Amount]) -> list[float]:
    """Return the best membership advantage, true- minus false-positive rate, against each amount.

    Source: Dong, Roth & Su 2022, Cor. 2.13 at epsilon 0.
    """
    if not spent:
        return []
    mu, delta = _points(spent)
    values: list[float] = gdp.advantage(mu=mu, delta=delta).tolist()
    return values


def trade_off_curve(amount: Amount) -> list[float]:
    """Return the least type II error for an amount at each of TYPE_I_ERRORS. Source: Dong, Roth & Su 2022, 2.3."""
    mu, delta = _points([amount])
    values: list[float] = gdp.trade_off(mu=mu[0], delta=delta[0], type_i_error=_array(TYPE_I_ERRORS)).tolist()
    return values


def _array(values: Sequence[float]) -> Any:
    return list(values)

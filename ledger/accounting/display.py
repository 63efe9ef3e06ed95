"""Amounts and epsilons as a person reads them."""

from __future__ import annotations

import math
from typing import Annotated, Final

from pydantic import Field, StringConstraints
from typing_extensions import TypedDict

from ledger.accounting import amounts, gdp
from ledger.core.amounts import ZERO, Amount

PLAIN: Final = {"mu": amounts.mu_of, "delta": amounts.delta_of}

Digits = Annotated[str, StringConstraints(pattern=r"^-?[0-9]+$")]


class AmountShown(TypedDict):  # noqa: D101 (a docstring would stand in the OpenAPI document)
    mu: float
    delta: float
    mu_sq_pico: Annotated[Digits | None, Field(description="Units of 1e-12 of mu²; null where it cannot be held.")]
    delta_atto: Annotated[Digits | None, Field(description="Units of 1e-18 of -log(1 - delta).")]


def show_amount(amount: Amount) -> AmountShown:
    """An amount in an answer: mu and delta as doubles for reading, the exact integers beside them as strings.

    What is left after an overrun can be below zero: the digits say so, the doubles end at 0.
    """
    nonnegative = amount.most(ZERO)
    return AmountShown(
        mu=amounts.mu_of(nonnegative),
        delta=amounts.delta_of(nonnegative),
        mu_sq_pico=str(amount.mu_sq_pico),
        delta_atto=str(amount.delta_atto),
    )


def show_epsilon(*, mu: float, delta: float, at_delta: float) -> float | None:
    """Epsilon for display, rounded up; None for infinity, which JSON does not have."""
    value = float(gdp.epsilon_upper(mu=mu, delta=delta, at_delta=at_delta))
    return value if math.isfinite(value) else None

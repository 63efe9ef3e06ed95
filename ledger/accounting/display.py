"""Amounts and epsilons as a person reads them."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from ledger.accounting import amounts, gdp
from ledger.core.amounts import ZERO, Amount

PLAIN: Final = {"mu": amounts.mu_of, "delta": amounts.delta_of}


def show_amount(amount: Amount) -> dict[str, Any]:
    """An amount in an answer: mu and delta as doubles for reading, the exact integers beside them as strings.

    What is left after an overrun can be below zero: the digits say so, the doubles end at 0.
    """
    held = amount.most(ZERO)
    return {"mu": amounts.mu_of(held), "delta": amounts.delta_of(held), **amount.facts()}


def show_epsilon(*, mu: float, delta: float, at_delta: float) -> float | None:
    """Epsilon for display, rounded up; None for infinity, which JSON does not have."""
    value = float(gdp.epsilon_upper(mu=mu, delta=delta, at_delta=at_delta))
    return value if math.isfinite(value) else None


def plain(value: Any) -> Any:
    """For an answer's encoder: an exact decimal as the double nearest to it."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Amount):
        return show_amount(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in an answer")

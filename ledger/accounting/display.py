"""Amounts and epsilons for a person to read."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from typing import Annotated, Final

from cachetools import LRUCache
from pydantic import Field, StringConstraints
from typing_extensions import TypedDict

from ledger.accounting import amounts, disclosure, gdp
from ledger.core.amounts import ZERO, Amount

PLAIN: Final = {"mu": amounts.mu_of, "delta": amounts.delta_of}

EPSILONS_MAX: Final = 65_536
"""How many epsilons are cached."""
Point = tuple[Amount, float]
"""An amount, and the delta at which its epsilon is shown."""

Digits = Annotated[str, StringConstraints(pattern=r"^-?[0-9]+$")]


class AmountShown(TypedDict):  # noqa: D101 (a docstring would be in the OpenAPI document)
    mu: float
    delta: float
    mu_sq_pico: Annotated[Digits | None, Field(description="Units of 1e-12 of mu²; null where it cannot be held.")]
    delta_atto: Annotated[Digits | None, Field(description="Units of 1e-18 of -log(1 - delta).")]


def show_amount(amount: Amount) -> AmountShown:
    """Return an amount for an answer: mu and delta as doubles for reading, and the exact integers as strings.

    The amount that remains after an overrun can be below zero: then the digits are negative, and the doubles 0.
    """
    nonnegative = amount.most(ZERO)
    return AmountShown(
        mu=amounts.mu_of(nonnegative),
        delta=amounts.delta_of(nonnegative),
        mu_sq_pico=str(amount.mu_sq_pico),
        delta_atto=str(amount.delta_atto),
    )


def show_epsilon(*, mu: float, delta: float, at_delta: float) -> float | None:
    """Return epsilon for display, rounded up; None for infinity, which JSON does not have."""
    value = float(gdp.epsilon_upper(mu=mu, delta=delta, at_delta=at_delta))
    return value if math.isfinite(value) else None


_remembered: LRUCache[Point, float | None] = LRUCache(EPSILONS_MAX)
_lock = threading.Lock()


def show_epsilons(points: Iterable[Point]) -> dict[Point, float | None]:
    """Return the epsilon of each amount at its delta, as `show_epsilon` does.

    Epsilons that are not cached are computed in one call for each delta: a call costs as much as many of its elements.
    """
    wanted = set(points)
    with _lock:
        known = {point: _remembered[point] for point in wanted if point in _remembered}
    missing: dict[float, list[Amount]] = {}
    for amount, at_delta in wanted.difference(known):
        missing.setdefault(at_delta, []).append(amount)
    for at_delta, of_delta in missing.items():
        values = disclosure.epsilons(of_delta, at_delta=at_delta)
        computed = {(amount, at_delta): value for amount, value in zip(of_delta, values, strict=True)}
        with _lock:
            _remembered.update(computed)
        known |= computed
    return known

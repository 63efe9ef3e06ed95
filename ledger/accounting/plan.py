"""The inverse of `mechanisms.cost`: what of a mechanism would fit in what is left.

Costs are monotone in every parameter that is varied here, so a bisection over the values that may be named (integers
to 10^12, or decimals of six digits) finds the last one that fits: their neighbours are 5e-13 of mu apart at least, far
more than the rounding of a cost. It decides on the very cost that an approval would charge, so what it names does fit,
and the next value does not.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from ledger.accounting.mechanisms import AnyMechanism, Composed, DpSgd, cost
from ledger.accounting.numbers import COUNT_MAX, MODERATE
from ledger.errors import InvalidMechanism
from ledger.model import Adjacency, Amount, Bound

_PER_DECADE: Final = 900_000
"""Decimals of six digits are numbered in order: number 0 is 1, and each power of ten holds 900,000 of them."""

_MORE_IS_LESS: Final = frozenset({"noise_multiplier"})
_RESIZABLE: Final = ("noise_multiplier", "steps", "epochs", "count", "epsilon", "mu")


def fits(mechanism: AnyMechanism, *, bound: Bound, adjacency: Adjacency, remaining: Amount) -> dict[str, int | Decimal]:
    """For each parameter that alone could make the run fit in `remaining`, the value that is nearest to what was asked.

    Counts are integers; other parameters have six significant digits, rounded to the side that fits. A parameter for
    which no value fits is left out, and so is one that the request does not have.
    """
    if isinstance(mechanism, Composed):
        return {}

    def holds(field: str, value: int | Decimal) -> bool:
        declared = {**mechanism.model_dump(exclude_none=True), field: value}
        try:
            resized = type(mechanism)(**declared)
            found = cost(resized, bound=bound, adjacency=adjacency)
        except (InvalidMechanism, ValueError):
            return False
        return not found.amount.exceeds(remaining)

    asked = mechanism.model_dump(exclude_none=True)
    found: dict[str, int | Decimal] = {}
    for field in (field for field in _RESIZABLE if field in asked):
        least = _one_step(mechanism) if isinstance(mechanism, DpSgd) and field == "epochs" else _number(MODERATE[0])
        value = _nearest(field, asked[field], least, lambda value, field=field: holds(field, value))  # type: ignore[misc]
        if value is not None:
            found[field] = value
    return found


def _one_step(mechanism: DpSgd) -> int:
    """The number of the least epochs that may be declared."""
    number = _number(Decimal(mechanism.rate.numerator) / mechanism.rate.denominator)
    return number if Fraction(_decimal(number)) >= mechanism.rate else number + 1


def _nearest(field: str, asked: Any, least: int, holds: Callable[[int | Decimal], bool]) -> int | Decimal | None:
    if isinstance(asked, int):
        return _last(holds, 1, min(asked, COUNT_MAX))
    if field in _MORE_IS_LESS:
        number = _last(lambda number: holds(_decimal(-number)), -_number(MODERATE[1]), -_number(asked))
        return None if number is None else _decimal(-number)
    number = _last(lambda number: holds(_decimal(number)), least, _number(asked))
    return None if number is None else _decimal(number)


def _last(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """The largest integer in [low, high] for which `holds`, which is true up to some point and false after it."""
    if not holds(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _decimal(number: int) -> Decimal:
    """The decimal of six digits with this number."""
    decade, place = divmod(number, _PER_DECADE)
    return (Decimal(place + 100_000) * Decimal(10) ** (decade - 5)).normalize()


def _number(value: Decimal) -> int:
    """The number of the largest decimal of six digits that is at most `value`."""
    # By its digits: arithmetic on decimals would round one of more than 28 digits, and could round it up.
    leading = "".join(map(str, value.as_tuple().digits[:6]))
    return value.adjusted() * _PER_DECADE + int(leading.ljust(6, "0")) - 100_000

"""What the tests of declared costs and limits draw from: random decimals, and their exact values in mpmath."""

from __future__ import annotations

from decimal import Context, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import mpmath as mp

if TYPE_CHECKING:
    import random


def decimal(rng: random.Random, low: str, high: str) -> Decimal:
    """A decimal in [low, high], uniform in its logarithm, of anything from 1 to 60 digits."""
    least, most = Decimal(low), Decimal(high)
    exponent = rng.uniform(float(least.log10()), float(most.log10()))
    digits = rng.choice([1, 2, 3, 6, 17, 60])
    # 10^exponent in a double has 15 good digits; those that follow are drawn.
    leading = Decimal(10) ** Decimal(exponent)
    mantissa = f"{leading:.15e}".split("e")[0] + "".join(rng.choices("0123456789", k=45))
    drawn = Context(prec=digits).create_decimal(f"{mantissa[: 2 + digits]}e{leading.adjusted()}")
    return min(max(drawn, least), most)


def one_step(batch_size: int, dataset_size: int) -> Decimal:
    """The least number of epochs that are a step: batch_size/dataset_size, rounded up in the thirtieth place."""
    return Decimal(f"{-(-batch_size * 10**30 // dataset_size)}e-30")


def real(value: Decimal | Fraction | int) -> Any:
    """The value in mpmath, as exactly as its precision allows."""
    exact = Fraction(value)
    return mp.mpf(exact.numerator) / exact.denominator


def normal_cdf(x: Any) -> Any:
    """Phi, by its definition through erfc."""
    return mp.erfc(-x / mp.sqrt(2)) / 2

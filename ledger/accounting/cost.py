"""A cost: an approximate GDP pair (mu, delta), kept as mu² and -log(1 - delta), with its assumptions.

In the two coordinates composition is addition (Dong, Roth & Su 2022, Cor. 3.3, and Thm. 3.2 for f_{0,delta}).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from typing import Final

from ledger.accounting import amounts, closed_forms
from ledger.core.amounts import Amount

MU_MAX: Final = 3000
"""Beyond about this mu, mu² · 10¹² does not fit a signed 64-bit integer. No budget is near it."""
ROUNDING: Final = 2.0**-53
TERMS_MAX: Final = 100
"""The most terms that are summed exactly; unlike denominators multiply."""
_FINE: Final = 10**30


class Precision(IntEnum):
    """How closely two machines agree on a mu²; a larger one is looser.

    EXACT: rational in what was declared. CLOSED_FORM: a formula in doubles. CERTIFICATE: a search or an FFT.
    """

    EXACT = 0
    CLOSED_FORM = 1
    CERTIFICATE = 2


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a run.

    mu: the double before rounding, for display.
    mu_sq, nats: upper bounds of mu² and -log(1 - delta); exact if they are rational in what was declared.
    method: how the cost was computed. assumptions: sentences that must be true for it.
    """

    mu: float
    mu_sq: Fraction
    nats: Fraction
    method: str
    assumptions: tuple[str, ...]

    @property
    def delta(self) -> float:
        # Beyond 1000 nats delta is 1 in doubles, and the fraction may be too large for one.
        return abs(math.expm1(-float(min(self.nats, Fraction(1000)))))

    @property
    def amount(self) -> Amount:
        """Return it in integers, rounded up. If `is_holdable` is false, it is still right, but can exceed 64 bits."""
        return amounts.charge(mu_sq=self.mu_sq, nats=self.nats)

    @property
    def is_holdable(self) -> bool:
        return self.mu_sq <= MU_MAX**2 and self.amount.fits_int64


# --- assumptions that several mechanisms share -----------------------------------------------------------------------

RUN: Final = ("the mechanism is applied to, and clipped by, the dataset's privacy unit",)
NOISE: Final = (
    "noise is drawn from a secure generator with secret seeds, and counted as real arithmetic",
    "one receipt covers one execution; every step executed counts, repeated ones included",
)
SGD: Final = (
    *RUN,
    "noise_multiplier is the noise's standard deviation on the sum of clipped gradients, over the clip norm",
    "noise is added once per logical step; the divisor is a fixed public number, never the realised batch size",
    *NOISE,
)


# --- costs of two kinds ----------------------------------------------------------------------------------------------


def rational(mu_sq: Fraction, method: str, assumptions: tuple[str, ...]) -> Cost:
    """Return a cost whose mu² is rational in what was declared: it stays exact."""
    return Cost(root(mu_sq), mu_sq, Fraction(0), method, assumptions)


def summed(terms: Sequence[Fraction]) -> Fraction:
    """Return the sum of terms of 0 or more: exact, or each `rounded_up` if there are many."""
    if len(terms) <= TERMS_MAX:
        return sum(terms, Fraction(0))
    return Fraction(sum(map(_fine, terms)), _FINE)


def rounded_up(value: Fraction) -> Fraction:
    """Return the least multiple of 1e-30 that is not below a value, so that sums of many of them stay short."""
    return Fraction(_fine(value), _FINE)


def _fine(value: Fraction) -> int:
    return -(-value.numerator * _FINE // value.denominator)


def repeated(once: float, count: int, method: str) -> Cost:
    """Return the cost of `count` releases whose mu comes from `closed_forms`, of a parameter that was read as a double.

    once: that mu. It grows at most in proportion to the parameter, so that reading adds one unit of 2^-53.
    """
    upper = amounts.outward(once, closed_forms.RELATIVE_ERROR + 2 * ROUNDING)
    return Cost(once * math.sqrt(count), count * upper**2, Fraction(0), method, (*RUN, *NOISE))


def root(square: Fraction) -> float:
    """Return the square root as a double, without overflow on the way; off by at most an ulp."""
    shift = (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    scaled = square / Fraction(4) ** shift
    try:
        return math.ldexp(math.sqrt(scaled), shift)
    except OverflowError:
        return math.inf

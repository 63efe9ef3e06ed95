"""From quantities to integer amounts, always against the spender: a cost is rounded up, a limit down.

mu² and -log(1 - delta) arrive here as exact fractions, or as fractions that were already moved outward by the error
bound of the function that computed them. What remains is one ceiling or one floor. Because amounts are integers, their
sums are exact, in any order and on every database.
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from typing import Final, Literal

from ledger.core.amounts import Amount

PICO: Final = 10**12
ATTO: Final = 10**18
_PRECISION: Final = 80
_ULP: Final = Fraction(1, 10 ** (_PRECISION - 2))


def charge(*, mu_sq: Fraction, nats: Fraction) -> Amount:
    """Return the amount of a cost, rounded up. mu_sq: mu², dimensionless; nats: -log(1 - delta)."""
    return Amount(math.ceil(mu_sq * PICO), math.ceil(nats * ATTO))


def limit(*, mu_sq: Fraction, nats: Fraction) -> Amount:
    """Return the amount of a limit, rounded down. mu_sq: mu², dimensionless; nats: -log(1 - delta)."""
    return Amount(math.floor(mu_sq * PICO), math.floor(nats * ATTO))


def nats(delta: Fraction, *, towards: Literal["up", "down"]) -> Fraction:
    """Return -log(1 - delta), rounded outward. delta: in [0, 1). Relative error below 3e-40.

    Raises ValueError if delta is outside its range.
    """
    if not 0 <= delta < 1:
        raise ValueError("delta must be at least 0 and less than 1")
    if delta == 0:
        return Fraction(0)
    if delta < Fraction(1, 10**40):
        # delta <= -log(1-delta) <= delta/(1-delta) < delta (1 + 2e-40). Powers of ten below keep sums of these cheap.
        return delta if towards == "down" else delta * (1 + Fraction(2, 10**40))
    # The quotient is rounded to the safe side, Decimal.ln to the nearest; _ULP is more than that rounding.
    context = Context(prec=_PRECISION, rounding=ROUND_FLOOR if towards == "up" else ROUND_CEILING)
    left = context.divide(Decimal((1 - delta).numerator), Decimal((1 - delta).denominator))
    value = -Fraction(context.ln(left))
    return value * (1 + _ULP) if towards == "up" else value * (1 - _ULP)


def outward(value: float, relative_error: float) -> Fraction:
    """Return an upper bound of a positive quantity that was computed as `value` with at most this relative error."""
    return Fraction(value) * (1 + Fraction(relative_error) * Fraction(65, 64))


def inward(value: float, relative_error: float) -> Fraction:
    """Return a lower bound of a positive quantity that was computed as `value` with at most this relative error."""
    return Fraction(value) * (1 - Fraction(relative_error) * Fraction(65, 64))


def mu_of(amount: Amount) -> float:
    """Return mu for display: the root of the exact integer; infinite if it is larger than any double."""
    pico = amount.mu_sq_pico
    if pico < 2**200:
        return math.sqrt(pico) / 1e6
    try:
        return float(math.isqrt(pico) // 10**6)
    except OverflowError:
        return math.inf


def delta_of(amount: Amount) -> float:
    """Return delta for display, in [0, 1]."""
    # Beyond 1000 nats delta is 1 in doubles, and the integer may be too large for one.
    return abs(math.expm1(-min(amount.delta_atto, 1000 * ATTO) / 1e18))

"""The allowed values of a parameter, numbered so that a larger number costs more.

Counts are integers to 10^12; other parameters are decimals of six digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from ledger.accounting.numbers import COUNT_MAX, MODERATE

_PER_DECADE: Final = 900_000
"""Decimals of six digits are numbered in order: the number of 1 is 0, and each power of ten has 900,000 of them."""

_Coordinate = tuple[Callable[[float], float], Callable[[float], float]]
"""A function in which the logarithm of a cost is nearly a line of slope 1, and its inverse."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The values of one parameter, in order of what they cost.

    low, high: the numbers of the first and the last value. value_of: from a number to its value. number_of: from a
    value to the last number that costs no more. coordinate, inverse: see `_Coordinate`.
    """

    low: int
    high: int
    value_of: Callable[[int], int | Decimal]
    number_of: Callable[[Any], int]
    coordinate: Callable[[float], float]
    inverse: Callable[[float], float]

    @property
    def first(self) -> float:
        """Return the coordinate of the value that costs least."""
        return self.coordinate(float(self.value_of(self.low)))

    @property
    def last(self) -> float:
        """Return the coordinate of the value that costs most."""
        return self.coordinate(float(self.value_of(self.high)))

    def floor(self, x: float) -> int:
        """Return the last number whose coordinate is at most `x`, or a neighbour of it; within low and high."""
        if x <= self.first:
            return self.low
        if x >= self.last:
            return self.high
        return max(self.low, min(self.high, self.number_of(self.inverse(x))))


def axis_of(parameter: str, *, least_count: int) -> Axis:
    """Return the usual axis of a parameter; a mechanism can have another one. least_count: of steps or releases.

    mu² grows with the steps and releases, with rho, and with the squares of epsilon, mu, a sample rate and 1/noise.
    """
    match parameter:
        case "steps" | "count":
            return Axis(least_count, COUNT_MAX, int, math.floor, *_power(1))
        case "noise_multiplier":
            return _noise(_power(-2))
        case "rho":
            return decimals(1)
        case "sample_rate":
            return decimals(2, most=Decimal(1))
        case _:
            return decimals(2)


def decimals(power: int, *, least: Fraction = Fraction(MODERATE[0]), most: Decimal = MODERATE[1]) -> Axis:
    """Return the decimals from `least` to `most`, for a cost that grows with this power of them."""
    return Axis(_number_up(least), _number(most), _decimal, _rising, *_power(power))


def _noise(coordinate: _Coordinate) -> Axis:
    least, most = _number(MODERATE[0]), _number(MODERATE[1])
    return Axis(-most, -least, lambda number: _decimal(-number), _falling, *coordinate)


def _power(exponent: int) -> _Coordinate:
    """Return the coordinate of a cost that grows with this power of the parameter, and its inverse."""
    return lambda value: exponent * math.log(value), lambda x: math.exp(x / exponent)


def _line_of_noise(s: float) -> float:
    """Return log(e^(1/s²) - 1): mu² of subsampled DP-SGD grows about as its exponential does (Bu et al. 2020, Cor. 2).

    Below a noise multiplier of 0.2 no amplification is left, and it grows as log(1/s²).
    """
    square = s**-2
    if square > _SQUARE_MAX:
        return _LINE_MAX + math.log(square / _SQUARE_MAX)
    return math.log(math.expm1(square))


def _noise_of_line(x: float) -> float:
    if x > _LINE_MAX:
        return 1 / math.sqrt(_SQUARE_MAX * math.exp(x - _LINE_MAX))
    return 1 / math.sqrt(math.log1p(math.exp(x)))


_SQUARE_MAX: Final = 25.0
_LINE_MAX: Final = math.log(math.expm1(_SQUARE_MAX))


def _rising(value: Decimal | float) -> int:
    return _number(Decimal(value))


def _falling(value: Decimal | float) -> int:
    number = _number(Decimal(value))
    return -number if _decimal(number) == value else -number - 1


def _decimal(number: int) -> Decimal:
    """Return the decimal of six digits with this number."""
    decade, offset = divmod(number, _PER_DECADE)
    return (Decimal(offset + 100_000) * Decimal(10) ** (decade - 5)).normalize()


def _number(value: Decimal) -> int:
    """Return the number of the largest decimal of six digits that is at most `value`."""
    # From its digits: arithmetic would round a decimal of more than 28 digits, possibly up.
    leading = "".join(map(str, value.as_tuple().digits[:6]))
    return value.adjusted() * _PER_DECADE + int(leading.ljust(6, "0")) - 100_000


def _number_up(least: Fraction) -> int:
    """Return the number of the least decimal of six digits that is at least `least`."""
    number = _number(Decimal(least.numerator) / least.denominator)
    return number if Fraction(_decimal(number)) >= least else number + 1


SUBSAMPLED_NOISE: Final = _noise((_line_of_noise, _noise_of_line))
"""The noise of DP-SGD that is amplified by sampling."""


def scale_of_noise(noise: float) -> Axis:
    """Return the axis of a factor on the noise of DP-SGD that is amplified by sampling. noise: with the factor 1."""
    return _noise((lambda scale: _line_of_noise(scale * noise), lambda x: _noise_of_line(x) / noise))

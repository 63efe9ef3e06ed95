"""Amounts and times, in integers.

Amounts are exact integers. `mu_sq_pico` counts units of 1e-12 of mu², `delta_atto` units of 1e-18 of -log(1 - delta):
in these coordinates Gaussian differential privacy composes by plain addition. Times are integer microseconds since
1970 UTC (`_us`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

INT64_MAX: Final = 2**63 - 1
DIGITS_MAX: Final = 4300
"""The most digits of an amount, its sign included; beyond it Python writes no decimal text."""
_INTEGER: Final = re.compile("0|-?[1-9][0-9]*")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 (UTC, whose offset `timestamp` writes as Z)

PERCENT_DIGITS: Final = 4
"""The significant digits of a percent."""
_TIMES_MAX: Final = 10**298
"""A percent of more than this many times the whole has no value, because it may be larger than any double."""
_USUAL: Final = 0.01
_PLACES: Final = ((0.1, 5), (1, 4), (10, 3), (100, 2), (1000, 1))
"""The places after the point of percents from _USUAL on, up to each of these."""

Quantity = Literal["mu", "delta"]


def timestamp(us: int) -> str:
    """Return microseconds since 1970 as RFC 3339 UTC, always with six decimals, so that text order is time order."""
    return (_NAIVE_EPOCH + timedelta(microseconds=us)).isoformat(timespec="microseconds") + "Z"


def microseconds(moment: datetime) -> int:
    """Return the inverse of `timestamp`, for an aware datetime."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Amount:
    """A point of the (mu², -log(1-delta)) plane, in integer units. Sums are exact."""

    mu_sq_pico: int
    delta_atto: int

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.mu_sq_pico + other.mu_sq_pico, self.delta_atto + other.delta_atto)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.mu_sq_pico - other.mu_sq_pico, self.delta_atto - other.delta_atto)

    def is_within(self, other: Amount) -> bool:
        """Return whether this amount exceeds the other in no quantity."""
        return self.mu_sq_pico <= other.mu_sq_pico and self.delta_atto <= other.delta_atto

    def exceeds(self, other: Amount) -> list[Quantity]:
        """Return the quantities in which this amount is larger than `other`."""
        if self.is_within(other):
            return []
        pairs: tuple[tuple[Quantity, int, int], ...] = (
            ("mu", self.mu_sq_pico, other.mu_sq_pico),
            ("delta", self.delta_atto, other.delta_atto),
        )
        return [name for name, mine, theirs in pairs if mine > theirs]

    @property
    def saturated(self) -> Amount:
        """Return the same amount, cut off at 64-bit integers: the most that a balance can state."""
        return Amount(min(self.mu_sq_pico, INT64_MAX), min(self.delta_atto, INT64_MAX))

    def least(self, other: Amount) -> Amount:
        """Return the smaller of the two, in each quantity by itself."""
        return Amount(min(self.mu_sq_pico, other.mu_sq_pico), min(self.delta_atto, other.delta_atto))

    def most(self, other: Amount) -> Amount:
        """Return the larger of the two, in each quantity by itself."""
        return Amount(max(self.mu_sq_pico, other.mu_sq_pico), max(self.delta_atto, other.delta_atto))

    @property
    def fits_int64(self) -> bool:
        return 0 <= self.mu_sq_pico <= INT64_MAX and 0 <= self.delta_atto <= INT64_MAX

    def facts(self) -> dict[str, str]:
        """Return the form in a record: strings of decimal digits, because numbers can exceed 2^53."""
        return {"mu_sq_pico": str(self.mu_sq_pico), "delta_atto": str(self.delta_atto)}

    @classmethod
    def from_facts(cls, facts: Mapping[str, str]) -> Amount:
        """Return the inverse of `facts`.

        Raises ValueError for a text that `facts` never writes, such as 0_1000, 007 or another script's digits, and
        KeyError if a quantity is missing.
        """
        if len(facts) != 2:
            raise ValueError("an amount must have exactly mu_sq_pico and delta_atto")
        return cls(integer(facts["mu_sq_pico"]), integer(facts["delta_atto"]))


def integer(text: object) -> int:
    """Return an integer as a record writes it. Raises ValueError for any other text."""
    if not isinstance(text, str) or len(text) > DIGITS_MAX or not _INTEGER.fullmatch(text):
        raise ValueError(f"an amount must be an integer written in ASCII digits, not {str(text)[:40]!r}")
    return int(text)


ZERO = Amount(0, 0)


def percent_of(part: int, whole: int, *, up: bool) -> float | None:
    """Return which percent of a limit an amount is, with PERCENT_DIGITS digits; None of a limit of zero, and beyond
    10^300.

    up: rounded up, for what was spent or is asked for; otherwise down, for what is left. Percents are of mu² or of
    delta in nats, which add up.
    """
    if whole <= 0 or abs(part) >= whole * _TIMES_MAX:
        return None
    if part == 0:
        return 0.0
    places = _places(part, whole)
    numerator, denominator = (part * 10 ** (2 + places), whole) if places > -2 else (part, whole * 10 ** (-2 - places))
    rounded = -(-numerator // denominator) if up else numerator // denominator
    return rounded / 10**places if places >= 0 else float(rounded * 10**-places)


def _places(part: int, whole: int) -> int:
    """Return how many places after the point a percent has."""
    value = 100 * abs(part) / whole
    if value >= _USUAL:  # a logarithm takes four times as long
        for below, places in _PLACES:
            if value < below:
                return places
    return PERCENT_DIGITS - 3 - math.floor(math.log10(abs(part)) - math.log10(whole))

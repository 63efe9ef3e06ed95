"""Numbers as written: a JSON number is the decimal in the text, not the nearest double.

The types here are for Pydantic fields. They reject other types (a string, true), numbers that are not finite, and more
digits or larger exponents than any cost needs, so that exact arithmetic on them stays fast.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

DIGITS_MAX: Final = 60
MODERATE: Final = (Decimal("1e-12"), Decimal("1e12"))
"""The least and the largest noise, epsilon, mu and sample rate."""
COEFFICIENT_MIN: Final = Decimal("1e-30")
DELTA_EXPONENT_MIN: Final = -300
"""The least and the largest delta."""
COUNT_MAX: Final = 10**12


def exact(value: Any) -> Decimal:
    """Return the decimal that was written. A float (from Python code, never from JSON) counts as its shortest repr.

    Raises PydanticCustomError if it is no number, not finite, too long or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise PydanticCustomError("number", "must be a number")
    # A subclass of float, such as NumPy's, can have a repr of its own.
    number = Decimal(float.__repr__(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite():
        raise PydanticCustomError("number", "must be a finite number")
    if len(number.as_tuple().digits) > DIGITS_MAX:
        raise PydanticCustomError("number", "has more than 60 digits")
    if number and not DELTA_EXPONENT_MIN <= number.adjusted() <= MODERATE[1].adjusted():
        raise PydanticCustomError("number", "is out of range")
    return number


def _positive(number: Decimal) -> Decimal:
    if number <= 0:
        raise PydanticCustomError("number", "must be greater than 0")
    return number


def _moderate(number: Decimal) -> Decimal:
    if not MODERATE[0] <= number <= MODERATE[1]:
        raise PydanticCustomError("number", "is out of range: must be between 1e-12 and 1e12")
    return number


def _not_negative(number: Decimal) -> Decimal:
    if number < 0:
        raise PydanticCustomError("number", "must not be negative")
    return number


def _sized(number: Decimal) -> Decimal:
    if number and not COEFFICIENT_MIN <= abs(number) <= MODERATE[1]:
        raise PydanticCustomError("number", "is out of range: must be 0, or between 1e-30 and 1e12 in size")
    return number


def _at_most_one(number: Decimal) -> Decimal:
    if number > 1:
        raise PydanticCustomError("number", "must be at most 1")
    return number


def _below_one(number: Decimal) -> Decimal:
    if number >= 1:
        raise PydanticCustomError("number", "must be less than 1")
    return number


def _schema(**bounds: float) -> WithJsonSchema:
    return WithJsonSchema({"type": "number", **bounds})


_Exact = Annotated[Decimal, BeforeValidator(exact)]
Positive = Annotated[_Exact, AfterValidator(_positive), AfterValidator(_moderate), _schema(minimum=1e-12, maximum=1e12)]
Coefficient = Annotated[_Exact, AfterValidator(_sized), _schema(minimum=-1e12, maximum=1e12)]
"""Of any sign, or 0."""
Rate = Annotated[
    _Exact,
    AfterValidator(_positive),
    AfterValidator(_at_most_one),
    AfterValidator(_moderate),
    _schema(minimum=1e-12, maximum=1),
]
Probability = Annotated[
    _Exact, AfterValidator(_positive), AfterValidator(_below_one), _schema(minimum=1e-300, exclusiveMaximum=1)
]
Share = Annotated[
    _Exact, AfterValidator(_not_negative), AfterValidator(_below_one), _schema(minimum=0, exclusiveMaximum=1)
]
Count = Annotated[int, Field(strict=True, ge=1, le=COUNT_MAX)]

"""`ledger.accounting.numbers`: a number is the decimal that was written, or it is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from ledger.accounting.numbers import Count, Positive, Probability, Rate, Share, exact

POSITIVE, RATE, PROBABILITY, SHARE, COUNT = (
    TypeAdapter[Any](kind) for kind in (Positive, Rate, Probability, Share, Count)
)
SIXTY_NINES = Decimal("0." + "9" * 60)


def written(text: str) -> Any:
    """A JSON number as a body's parser hands it on."""
    return json.loads(text, parse_float=Decimal)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.1", Fraction(11, 10)),
        ("0.1", Fraction(1, 10)),
        ("1.10", Fraction(11, 10)),
        ("0.00426667", Fraction(426667, 10**8)),
        ("14062", Fraction(14062)),
        ("1e-300", Fraction(1, 10**300)),
        ("9.99e12", Fraction(9_990_000_000_000)),
        ("-2.5E-3", Fraction(-1, 400)),
        ("0", Fraction(0)),
        ("-0.0", Fraction(0)),
        ("0." + "9" * 60, 1 - Fraction(1, 10**60)),
        ("1" * 13 + "." + "1" * 47, Fraction(int("1" * 60), 10**47)),
    ],
)
def test_a_number_is_the_decimal_that_was_written(text: str, value: Fraction) -> None:
    """Goal: no digit is lost or added on the way in. Method: compare with the fraction that the text denotes."""
    assert Fraction(exact(written(text))) == value


def test_a_double_counts_as_its_shortest_decimal(tries: Callable[[int, int], int]) -> None:
    """Goal: 1.1 in Python code is 11/10, whatever kind of float holds it. Method: random decimals of up to 15 digits,
    through a double and through NumPy's, which has a repr of its own."""
    rng = random.Random(1)
    for _ in range(tries(1_000, 20_000)):
        text = f"{rng.randrange(1, 10**15)}e{rng.randint(-60, -15)}"
        assert Fraction(exact(float(text))) == Fraction(text)
        assert exact(np.float64(text)) == exact(float(text))


@pytest.mark.parametrize("value", [True, False, "1.1", "", None, [], {}, 1 + 0j, Fraction(1, 2), b"1"])
def test_what_is_no_number_is_refused(value: Any) -> None:
    """Goal: nothing is turned into a number. Method: values that Python, or lenient validation, would convert."""
    with pytest.raises(PydanticCustomError, match="must be a number"):
        exact(value)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), float("-inf"), *map(Decimal, ("NaN", "-NaN", "sNaN", "Infinity", "-Infinity"))],
)
def test_what_is_not_finite_is_refused(value: Any) -> None:
    """Goal: NaN and infinities stop here. Method: all kinds of both, quiet and signalling."""
    with pytest.raises(PydanticCustomError, match="must be a finite number"):
        exact(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Decimal("1" * 61), "more than 60 digits"),
        (Decimal("0." + "9" * 61), "more than 60 digits"),
        (Decimal("1." + "0" * 60), "more than 60 digits"),
        pytest.param(10**5_000, "more than 60 digits", id="5001 digits"),
        (Decimal("1e13"), "out of range"),
        (Decimal("-1e13"), "out of range"),
        (Decimal("9.99e-301"), "out of range"),
        (Decimal("1e999999"), "out of range"),
        (Decimal("1e-999999"), "out of range"),
        (10**13, "out of range"),
        (5e-324, "out of range"),
    ],
)
def test_digits_and_exponents_are_bounded(value: Any, message: str) -> None:
    """Goal: exact arithmetic stays cheap. Method: one digit, or one power of ten, beyond each bound."""
    with pytest.raises(PydanticCustomError, match=message):
        exact(value)


@pytest.mark.parametrize("text", ["0e-999999999", "0e999999999", "-0e-400"])
def test_a_zero_has_no_size(text: str) -> None:
    """Goal: the exponent of a zero costs nothing. Method: enormous ones; the fraction is 0 at once."""
    assert Fraction(SHARE.validate_python(Decimal(text))) == 0


BOUNDS = [
    (POSITIVE, ["1e-12", "1", "1e12", "999999999999.5"], ["0", "-1", "9.99e-13", "1.000001e12", "1e-300"]),
    (RATE, ["1e-12", "0.5", "1", "1.0"], ["0", "-0.5", "1.000001", "9.99e-13"]),
    (PROBABILITY, ["1e-300", "0.5", str(SIXTY_NINES)], ["0", "-1e-5", "1", "1.0", "9e-301"]),
    (SHARE, ["0", "0.0", "1e-300", str(SIXTY_NINES)], ["-1e-300", "1", "2", "9e-301"]),
]


@pytest.mark.parametrize(("adapter", "good", "bad"), BOUNDS)
def test_each_kind_of_number_has_its_bounds(adapter: TypeAdapter[Any], good: list[str], bad: list[str]) -> None:
    """Goal: each kind takes its whole range and no more. Method: values on both sides of each bound."""
    for text in good:
        assert adapter.validate_python(Decimal(text)) == Decimal(text)
    for text in bad:
        with pytest.raises(ValidationError):
            adapter.validate_python(Decimal(text))


@pytest.mark.parametrize(
    ("adapter", "text", "message"),
    [
        (POSITIVE, "0", "must be greater than 0"),
        (POSITIVE, "-1", "must be greater than 0"),
        (POSITIVE, "1e-13", "must be between 1e-12 and 1e12"),
        (RATE, "1.5", "must be at most 1"),
        (PROBABILITY, "1", "must be less than 1"),
        (SHARE, "-0.1", "must not be negative"),
    ],
)
def test_a_refusal_says_what_would_do(adapter: TypeAdapter[Any], text: str, message: str) -> None:
    """Goal: the message helps whoever sent the number. Method: its words."""
    with pytest.raises(ValidationError, match=message):
        adapter.validate_python(Decimal(text))


def test_counts_are_whole_numbers_written_as_such() -> None:
    """Goal: 1 to 10^12, and nothing that merely equals one of them. Method: the bounds, and what converts to int."""
    for value in (1, 10**12):
        assert COUNT.validate_python(value) == value
    wrong: list[Any] = [0, -1, 10**12 + 1, 10**5_000, Decimal(5), 5.0, True, "5", None]
    for other in wrong:
        with pytest.raises(ValidationError):
            COUNT.validate_python(other)

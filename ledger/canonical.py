"""Canonical bytes of JSON: what is hashed and signed, here and by a verifier.

Canonical form, version 1: UTF-8; object members sorted by name in code point order, no member twice, no white space;
strings escaped only where JSON demands it (`"`, `\\`, and control characters: \\b \\t \\n \\f \\r, others as \\u00xx);
numbers as their exact decimal value in positional notation, without an exponent, a plus sign, leading or trailing
zeros. The same value therefore always gives the same bytes, and a number keeps every digit that was written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final, NoReturn

EXPONENT_MAX: Final = 400
"""How many places before or after its point a number may have. No number that a server accepts has more."""
NUMBER_LENGTH_MAX: Final = 2 * EXPONENT_MAX + 2
"""The longest written number, with all its places."""

_PLAIN: Final = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode
_quote: Final[Callable[[str], str]] = json.encoder.encode_basestring


def canonical(value: Any) -> str:
    """Return the canonical JSON text of `value`: None, bool, int, Decimal, str, lists (or tuples) and mappings.

    Raises TypeError for anything else. A float is not allowed in a record: its digits are not the ones that were
    written.
    """
    encode = _ENCODERS.get(type(value))
    return _other(value) if encode is None else encode(value)


def canonical_plain(value: Any) -> str:
    """Return `canonical(value)` of a value whose numbers are all integers, in a fraction of the time.

    It writes a float, which `canonical` rejects: only for what was canonical already, or is made of texts.
    """
    return _PLAIN(value)


def canonical_with(value: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    """Return the canonical JSON text of an object. texts: that of some of its members' values, if already made."""
    items = [f"{_quote(name)}:{texts[name] if name in texts else canonical(value[name])}" for name in sorted(value)]
    return "{" + ",".join(items) + "}"


def _object(value: Mapping[str, Any]) -> str:
    return "{" + ",".join([f"{_quote(name)}:{canonical(value[name])}" for name in sorted(value)]) + "}"


def _array(value: list[Any] | tuple[Any, ...]) -> str:
    return "[" + ",".join([canonical(item) for item in value]) + "]"


def _other(value: Any) -> str:
    """Return the canonical JSON of a subtype of one of the types above."""
    match value:
        case str():
            return _quote(value)
        case int():
            return int.__repr__(value)
        case Decimal():
            return _positional(value)
        case list() | tuple():
            return _array(value)
        case Mapping():
            return _object(value)
        case _:
            raise TypeError(f"{type(value).__name__} has no canonical form")


def _positional(number: Decimal) -> str:
    if not number.is_finite():
        raise TypeError("only finite numbers have a canonical form")
    text = f"{number:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


_ENCODERS: Final[Mapping[type, Callable[[Any], str]]] = {
    str: _quote,
    int: int.__repr__,
    bool: lambda value: "true" if value else "false",
    type(None): lambda _value: "null",
    Decimal: _positional,
    dict: _object,
    list: _array,
    tuple: _array,
}


def parse(text: str) -> Any:
    """Return the value of a JSON text, with every number that is not an integer as an exact Decimal.

    Raises ValueError for an extreme number: the digits of 1e999999999 would fill the memory.
    """
    return _DECODER.decode(text)


def parse_canonical(text: str) -> Any:
    """Return the value that `canonical` wrote. Raises ValueError for any other text of the same value."""
    value = _POSITIONAL.decode(text)
    if canonical(value) != text:
        raise ValueError("is not in canonical form")
    return value


def _integer(text: str) -> int:
    if len(text) > NUMBER_LENGTH_MAX:
        raise ValueError(f"a number has more than {NUMBER_LENGTH_MAX} characters")
    return int(text)


def _decimal(text: str) -> Decimal:
    if len(text) > NUMBER_LENGTH_MAX:
        raise ValueError(f"a number has more than {NUMBER_LENGTH_MAX} characters")
    number = Decimal(text)
    if abs(number.adjusted()) > EXPONENT_MAX:
        raise ValueError(f"a number is not between 1e-{EXPONENT_MAX} and 1e{EXPONENT_MAX}")
    return number


def _fraction(text: str) -> Decimal:
    if "e" in text or "E" in text:  # many numbers of a few characters each would take a hundred times their size
        raise ValueError("a number is written with an exponent")
    return _decimal(text)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_int=_integer, parse_float=_decimal, parse_constant=_no_number)
_POSITIONAL: Final = json.JSONDecoder(parse_int=_integer, parse_float=_fraction, parse_constant=_no_number)


def digest(text: str) -> bytes:
    """Return the SHA-256 of the text's UTF-8 bytes: 32 bytes."""
    return hashlib.sha256(text.encode()).digest()

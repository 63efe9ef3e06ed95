"""Canonical bytes of JSON: what is hashed and signed, here and by whoever checks it.

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
from typing import Any, Final

_quote: Final[Callable[[str], str]] = json.encoder.encode_basestring


def canonical(value: Any) -> str:
    """The canonical JSON text of `value`, made of None, bool, int, Decimal, str, lists (or tuples) and mappings.

    Raises TypeError on anything else: a float has no place in a record, since its digits are not what was written.
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return _quote(value)
        case int():
            return str(value)
        case Decimal():
            return _positional(value)
        case list() | tuple():
            return "[" + ",".join(map(canonical, value)) + "]"
        case Mapping():
            return "{" + ",".join(f"{_quote(key)}:{canonical(value[key])}" for key in sorted(value)) + "}"
        case _:
            raise TypeError(f"{type(value).__name__} has no canonical form")


def _positional(number: Decimal) -> str:
    if not number.is_finite():
        raise TypeError("only finite numbers have a canonical form")
    text = f"{number:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def parse(text: str) -> Any:
    """What `canonical` wrote, with every number that is not an integer as an exact Decimal."""
    return json.loads(text, parse_float=Decimal)


def digest(text: str) -> bytes:
    """SHA-256 of the text's UTF-8 bytes: 32 bytes."""
    return hashlib.sha256(text.encode()).digest()

"""JSON outside of records: the answers of the API and the contents of reports. `canonical` is for what is hashed or
signed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from ledger.canonical import canonical, parse

JsonObject = Mapping[str, Any]
"""An object of a document or of a journal's entry, as it was read."""


def _encoder(default: Callable[[Any], Any] | None = None) -> Callable[[Any], str]:
    return json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=default).encode


def rounding_encoder(convert: Callable[[Any], Any]) -> Callable[[Any], str]:
    """Return an encoder that writes a decimal as the double nearest to it, and a UUID as text.

    convert: turns a value of any other type into JSON's own types, or raises TypeError. The encoder raises ValueError
    for NaN and infinities, which JSON does not have.
    """

    def default(value: Any) -> Any:
        match value:
            case Decimal():
                return float(value)
            case UUID():
                return str(value)
            case _:
                return convert(value)

    return _encoder(default)


class Encoded(str):
    """Text that is JSON already."""

    __slots__ = ()


def encode(value: Any) -> str:
    """Return the JSON of None, bools, strings, integers, exact decimals, finite doubles, lists and mappings.

    Members keep their order. Raises TypeError for anything else, and for NaN and infinities, which JSON does not have.
    """
    if isinstance(value, Encoded):
        return value
    try:
        return _without_decimals(value)
    except ValueError:
        raise TypeError("only finite numbers have a place in JSON") from None
    except TypeError:  # it contains a decimal, whose digits this encoder would lose
        return _with_decimals(value)


_without_decimals: Final = _encoder()


def _with_decimals(value: Any) -> str:
    match value:
        case Mapping():
            members = (f"{_without_decimals(name)}:{encode(item)}" for name, item in value.items())
            return "{" + ",".join(members) + "}"
        case list() | tuple():
            return "[" + ",".join(map(encode, value)) + "]"
        case Decimal():
            return canonical(value)
        case _:
            raise TypeError(f"{type(value).__name__} has no place in JSON")


def decode(text: str) -> Any:
    """Return the value that `encode` wrote, with every number that is not an integer as an exact Decimal."""
    return parse(text)

"""Values as JSON: members in the order in which they were put, numbers with every digit that was written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from ledger.core.journal import chain

JsonObject = Mapping[str, Any]
"""An object of the document or of a journal's entry, as it was read."""


class Encoded(str):
    """What is JSON already."""

    __slots__ = ()


def encode(value: Any) -> str:
    """The JSON of None, bools, strings, integers, decimals, finite doubles, lists and mappings of these.

    Raises TypeError on anything else, and on what is not finite, which JSON does not have.
    """
    if isinstance(value, Encoded):
        return value
    try:
        return _fast(value)
    except ValueError:
        raise TypeError("only finite numbers have a place in a report") from None
    except TypeError:  # a decimal somewhere in it, which has digits that this encoder does not know
        return _with_decimals(value)


_fast: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _with_decimals(value: Any) -> str:
    match value:
        case Mapping():
            return "{" + ",".join(f"{_fast(name)}:{encode(item)}" for name, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ",".join(map(encode, value)) + "]"
        case Decimal():
            return chain.canonical(value)
        case _:
            raise TypeError(f"{type(value).__name__} has no place in a report")


def decode(text: str) -> Any:
    """What `encode` wrote, with every number that is not an integer as an exact Decimal."""
    return chain.parse(text)

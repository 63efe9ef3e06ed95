"""Values as JSON: members in the order in which they were put, numbers with every digit that was written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from ledger import journal


class Encoded(str):
    """What is JSON already."""

    __slots__ = ()


def encode(value: Any) -> str:
    """The JSON of None, bools, strings, integers, decimals, finite doubles, lists and mappings of these.

    Raises TypeError on anything else, and on what is not finite, which JSON does not have.
    """
    match value:
        case Encoded():
            return value
        case str():
            return json.dumps(value, ensure_ascii=False)
        case Mapping():
            return "{" + ",".join(f"{encode(name)}:{encode(item)}" for name, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ",".join(map(encode, value)) + "]"
        case float():
            if not math.isfinite(value):
                raise TypeError("only finite numbers have a place in a report")
            return repr(value)
        case None | bool() | int() | Decimal():
            return journal.canonical(value)
        case _:
            raise TypeError(f"{type(value).__name__} has no place in a report")


def decode(text: str) -> Any:
    """What `encode` wrote, with every number that is not an integer as an exact Decimal."""
    return journal.parse(text)

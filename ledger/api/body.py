"""JSON as this ledger reads it.

Numbers stay the decimals that were written. This module rejects duplicate members, NUL characters, halves of surrogate
pairs, extreme numbers and deep nesting, and names their path. Each would otherwise fail later in its own way: the last
duplicate wins, the driver fails, the digits of 1e999999999 fill the memory, the parser's stack overflows.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from ledger.errors import InvalidJson, InvalidMechanism, InvalidRequest

DEPTH_MAX: Final = 16
NUMBER_LENGTH_MAX: Final = 400
EXPONENT_MAX: Final = 400
_UNFIT: Final = re.compile("[\x00\ud800-\udfff]")


class _Twice:
    """A placeholder for an object with a duplicate member, until its path is known."""

    def __init__(self, name: str) -> None:
        self.name = name


def _members(pairs: list[tuple[str, Any]]) -> Any:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            return _Twice(name)
        members[name] = value
    return members


def _integer(text: str) -> int | Decimal:
    # Python refuses to read integers with thousands of digits; here they count as numbers out of range.
    return int(text) if len(text) <= NUMBER_LENGTH_MAX else Decimal("Infinity")


def _decimal(text: str) -> Decimal:
    try:
        number = Decimal(text) if len(text) <= NUMBER_LENGTH_MAX else Decimal("Infinity")
    except InvalidOperation:
        return Decimal("Infinity")
    # A zero counts too: 0e-999999999 has a thousand million digits.
    return number if abs(number.adjusted()) <= EXPONENT_MAX else Decimal("Infinity")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_integer, parse_float=_decimal, parse_constant=Decimal
)


def parse(raw: bytes) -> Any:
    """Return the value of a JSON body. Raises InvalidJson or InvalidRequest, naming the path."""
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidJson(f"The body is not UTF-8: byte {error.start} is not valid.") from None
    except json.JSONDecodeError as error:
        raise InvalidJson(f"The body is not JSON: {error.msg}, line {error.lineno} column {error.colno}.") from None
    except RecursionError:
        raise InvalidJson(f"The body is nested deeper than {DEPTH_MAX} levels.") from None
    _check(value, (), DEPTH_MAX)
    return value


def _check(value: Any, path: tuple[str, ...], depth: int) -> None:
    if isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, Decimal) and not value.is_finite():
        raise _invalid(path, "must be a finite number with at most 400 digits, between 1e-400 and 1e400")
    elif isinstance(value, _Twice):
        raise _invalid((*path, value.name), "appears twice in the same object; remove one", InvalidJson)
    elif isinstance(value, dict | list):
        if depth == 0:
            raise _invalid(path[:3], f"is nested deeper than {DEPTH_MAX} levels", InvalidJson)
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(name, str):
                _check_text(name, path)
            _check(item, (*path, str(name)), depth - 1)


def _check_text(text: str, path: tuple[str, ...]) -> None:
    if found := _UNFIT.search(text):
        what = "a NUL character" if found.group() == "\x00" else "half of a surrogate pair"
        raise _invalid(path, f"contains {what}, which cannot be stored; remove it")


def _invalid(path: tuple[str, ...], detail: str, kind: type[InvalidRequest] | None = None) -> InvalidRequest:
    within = path[2:] if path[:1] == ("runs",) else path  # in a batch
    kind = kind or (InvalidMechanism if within[:1] == ("mechanism",) else InvalidRequest)
    field = ".".join(path).encode("utf-8", "backslashreplace").decode() or "body"
    return kind(f"{field[:200]}: {detail}", field=field[:200])

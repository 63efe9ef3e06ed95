"""Encode the body of a request: JSON with exact decimals.

The ledger reads a number as the decimal that is written. A float is sent as its shortest decimal, as Python prints it,
and a Decimal with all its digits. A number of another library is sent as the float of the same value: NumPy's float32
1.1 is 1.100000023841858. A value without an exact decimal is rejected here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from numbers import Integral
from typing import Any

from ledger.errors import InvalidMechanism, InvalidRequest


def encode(value: Any, *path: str) -> str:
    """Return the JSON of a value. Raises InvalidRequest or InvalidMechanism that names the field with a bad value."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value)
        case Integral():  # NumPy's integers too
            return int.__repr__(int(value))
        case float():  # NumPy's doubles too, whose repr is not a number
            return _finite(float.__repr__(value), path, is_finite=math.isfinite(value))
        case Decimal():
            return _finite(str(value), path, is_finite=value.is_finite())
        case datetime():
            return json.dumps(value.isoformat())
        case timedelta():
            seconds, rest = divmod(value, timedelta(seconds=1))
            return json.dumps(f"PT{seconds}.{rest.microseconds:06}S" if rest else f"PT{seconds}S")
        case Mapping():
            return f"{{{','.join(_member(name, item, path) for name, item in value.items())}}}"
        case list() | tuple():
            return f"[{','.join(encode(item, *path, str(index)) for index, item in enumerate(value))}]"
        case _ if callable(to_json := getattr(value, "to_json", None)):
            return encode(to_json(), *path)
        case _:
            return encode(_plain(value, path), *path)


def _plain(value: Any, path: tuple[str, ...]) -> bool | int | float:
    """Return the value of a number of another library, such as NumPy's float32 or a tensor of one number. Raises
    InvalidRequest if it is no number that Python's numbers hold exactly."""
    try:
        item = value.item() if callable(getattr(value, "item", None)) else value
        if isinstance(item, bool | int | float):
            return item
        if float(item) == item:
            return float(item)
    except Exception:  # noqa: S110 (whatever a library raises for what is no number)
        pass
    raise _unfit(path, f"JSON has no {type(value).__name__}. Convert it to a number, a text or a list")


def _member(name: Any, item: Any, path: tuple[str, ...]) -> str:
    if not isinstance(name, str):
        raise _unfit(path, f"the name of a member must be a str, not a {type(name).__name__}")
    return f"{json.dumps(name)}:{encode(item, *path, name)}"


def _finite(text: str, path: tuple[str, ...], *, is_finite: bool) -> str:
    if not is_finite:
        raise _unfit(path, "must be a finite number")
    return text


def _unfit(path: tuple[str, ...], detail: str) -> InvalidRequest:
    field = ".".join(path) or "body"
    in_run = path[2:] if path[:1] == ("runs",) else path
    kind = InvalidMechanism if in_run[:1] == ("mechanism",) else InvalidRequest
    return kind(f"{field}: {detail}", field=field)

"""The one text of a value, and amounts, for independent_verifier.py."""

import json
import re
from typing import Any

QUANTITIES = ("mu_sq_pico", "delta_atto")
INT64_MAX = 2**63 - 1


class Number(str):
    """A number that is no integer, as it is written."""

    __slots__ = ()


def fraction(text: str) -> Number:
    """The text of a number, if it has no exponent and no zeros too many."""
    if len(text) > 802 or not re.fullmatch(r"-?(0|[1-9][0-9]*)[.][0-9]*[1-9]", text, re.ASCII):
        raise ValueError("a number in another form")
    return Number(text)


def integer(text: str) -> int:
    """An integer that is not too long."""
    if len(text) > 802:
        raise ValueError("a number in another form")
    return int(text)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which no member stands twice."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a member stands twice")
    return dict(pairs)


def load(text: str) -> Any:
    """A JSON text."""
    decoder = json.JSONDecoder(object_pairs_hook=once, parse_float=fraction, parse_int=integer, parse_constant=fraction)
    return decoder.decode(text)


def canonical(value: Any) -> str:
    """The one text of a value."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{canonical(name)}:{canonical(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def amount(stated: dict[str, str]) -> list[int]:
    """Mu and delta, as integers."""
    if sorted(stated) != sorted(QUANTITIES):
        raise ValueError("an amount with other members")
    for text in stated.values():
        if len(text) > 4300 or not re.fullmatch("0|-?[1-9][0-9]*", text, re.ASCII):
            raise ValueError("an amount in another form")
    return [int(stated[quantity]) for quantity in QUANTITIES]


def whole(text: str) -> int:
    """An integer."""
    return amount({"mu_sq_pico": text, "delta_atto": "0"})[0]


def limit_of(stated: dict[str, str]) -> list[int]:
    """An amount that an account can have as its limit."""
    found = amount(stated)
    if not all(0 <= value <= INT64_MAX for value in found):
        raise ValueError("a limit that no account can have")
    return found


# --- arithmetic ------------------------------------------------------------------------------------------------------


def add(one: list[int], other: list[int], sign: int = 1) -> list[int]:
    """The sum, or the difference."""
    return [a + sign * b for a, b in zip(one, other, strict=True)]


def exceeds(one: list[int], other: list[int]) -> bool:
    """Whether one is more, in either quantity."""
    return any(a > b for a, b in zip(one, other, strict=True))


def left(account: dict[str, list[int]]) -> list[int]:
    """What is left of the limit."""
    return add(add(account["limit"], account["spent"], -1), account["held"], -1)


def over(account: dict[str, list[int]]) -> list[int]:
    """By how much more is spent and held than the limit."""
    return [max(0, -value) for value in left(account)]


def fresh(limit: list[int]) -> dict[str, list[int]]:
    """An account with nothing in it."""
    return {"limit": limit, "spent": [0, 0], "held": [0, 0], "overdrawn": [0, 0]}

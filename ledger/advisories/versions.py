"""Compare versions as package registries write them.

Only the numbers of a release count: `1.6.0rc1`, `1.6.0.post1` and `1.6.0+cu126` are 1.6.0. A pre-release usually has
the fault of its release, and a repaired build does not say so in its number.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Final

LENGTH_MAX: Final = 64
_RELEASE: Final = re.compile(r"\s*[vV]?(?:\d+!)?(\d{1,9}(?:\.\d{1,9}){0,7})(?![\d])")
_CLAUSE: Final = re.compile(r"(==|!=|<=|>=|<|>)\s*(\d{1,9}(?:\.\d{1,9}){0,7})")
_COMPARE: Final[Mapping[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def release(version: str) -> tuple[int, ...] | None:
    """Return the numbers of a version, without zeros at their end; None if it does not begin with a number."""
    found = _RELEASE.match(version) if len(version) <= LENGTH_MAX else None
    return None if found is None else _numbers(found[1])


def satisfies(version: tuple[int, ...], specifier: str) -> bool:
    """Return whether the numbers of a version satisfy all clauses of a specifier, such as `>=1.0,<1.6`; `*` is any.

    Raises ValueError if the specifier is not one.
    """
    if specifier.strip() == "*":
        return True
    return all(_holds(version, clause.strip()) for clause in specifier.split(","))


def _holds(version: tuple[int, ...], clause: str) -> bool:
    found = _CLAUSE.fullmatch(clause)
    if found is None:
        raise ValueError(f"{clause!r} is no clause of a specifier. Write *, or such as >=1.0,<1.6")
    return _COMPARE[found[1]](version, _numbers(found[2]))


def _numbers(text: str) -> tuple[int, ...]:
    numbers = [int(number) for number in text.split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)

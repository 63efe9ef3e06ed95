"""Ids in requests: a whole id, or the beginning of one that no other has.

A caller types what a person can copy: eight characters of an id are enough if no other id that the caller sees begins
with them. If others do, nothing is done, and the answer lists them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

from ledger.errors import InvalidRequest, NotFound
from ledger.mistakes import ID_PATTERN

PREFIX_LENGTH_MIN: Final = 8
CANDIDATES_MAX: Final = 20
"""How many ids an answer lists that begin alike."""
_DIGITS: Final = 32
_ID: Final = re.compile(ID_PATTERN)


def whole(text: str) -> UUID | None:
    """Return the id that a text is; None if it is the beginning of one. Raises InvalidRequest."""
    if not _ID.fullmatch(text):
        raise InvalidRequest(
            f"id: {text[:64]!r} is not an id. Send a whole id, or its first {PREFIX_LENGTH_MIN} characters or more.",
            field="id",
        )
    digits = text.replace("-", "")
    return UUID(digits) if len(digits) == _DIGITS else None


def sought(text: str, between: Callable[[UUID, UUID], Sequence[UUID]], missing: NotFound) -> UUID:
    """Return the id that a text is, or the only one that begins with it.

    between: finds those that the caller sees from one id to another, CANDIDATES_MAX + 1 of them at most. Raises
    `missing` if there is none, and InvalidRequest if there are several: it lists up to CANDIDATES_MAX.
    """
    if (id_ := whole(text)) is not None:
        return id_
    ends = bounds(text)
    return _only(text, [] if ends is None else between(*ends), missing)


def bounds(text: str) -> tuple[UUID, UUID] | None:
    """Return the first and the last id that begin with a text; None if it is longer than an id."""
    digits = text.replace("-", "")
    if len(digits) > _DIGITS:
        return None
    return UUID(digits.ljust(_DIGITS, "0")), UUID(digits.ljust(_DIGITS, "f"))


def _only(text: str, found: Sequence[UUID], missing: NotFound) -> UUID:
    """Return the only id among these, which all begin with a text. Raises as `sought`."""
    if not found:
        raise missing
    if len(found) == 1:
        return found[0]
    listed = [str(id_) for id_ in found[:CANDIDATES_MAX]]
    count = f"more than {CANDIDATES_MAX}" if len(found) > CANDIDATES_MAX else str(len(found))
    raise InvalidRequest(
        f"id: {text!r} is the beginning of {count} ids: {', '.join(listed)}. Send more characters. Nothing was done.",
        field="id",
        ids=listed,
        is_all=len(found) <= CANDIDATES_MAX,
    )

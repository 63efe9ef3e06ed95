"""Pages of lists, and cursors. A cursor is opaque: it marks where the page before ended."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

from ledger.errors import InvalidRequest

T = TypeVar("T")


def cut(rows: Sequence[T], *, limit: int, position: Callable[[T], Any]) -> tuple[Sequence[T], str | None]:
    """Return at most `limit` of the rows, and the cursor of the next page if there are more rows than that.

    position: the place of a row in the order of the list, as JSON.
    """
    page = rows[:limit]
    return page, cursor_at(position(page[-1])) if len(rows) > limit else None


def cursor_at(position: Any) -> str:
    """Return the cursor of the page after that position."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def _decode(cursor: str | None, read: Callable[[Any], T]) -> T | None:
    if cursor is None:
        return None
    try:
        return read(json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))))
    except (ValueError, TypeError, LookupError, RecursionError):
        raise InvalidRequest(
            "cursor: is not valid; send the `next` of the page before, unchanged", field="cursor"
        ) from None


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isascii() or "\x00" in value:
        raise ValueError("not a name")
    return value


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError("not a number of an entry")
    return value


def after_name(cursor: str | None) -> str | None:
    """Return the name at which the page before ended. This and the next four raise InvalidRequest."""
    return _decode(cursor, _text)


def after_seq(cursor: str | None) -> int:
    """Return the number of the entry at which the page before ended, or 0."""
    return _decode(cursor, _number) or 0


def after_id(cursor: str | None) -> UUID | None:
    """Return the id at which the page before ended."""
    return _decode(cursor, lambda value: UUID(_text(value)))


def after_moment(cursor: str | None) -> tuple[int, UUID] | None:
    """Return the time and the id at which the page before ended."""
    return _decode(cursor, lambda value: (_number(value[0]), UUID(_text(value[1]))))


def after_fullness(cursor: str | None) -> tuple[int, str] | None:
    """Return the fullness and the name at which the page before ended."""
    return _decode(cursor, lambda value: (_signed(value[0]), _text(value[1])))


def _signed(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**62) < value < 2**62:
        raise ValueError("not a part of a budget")
    return value

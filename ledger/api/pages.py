"""Lists, limits and cursors. A cursor is opaque: it says where the page before ended."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Protocol, TypeVar
from uuid import UUID

from fastapi import Query, Response

from ledger.core.journal import chain
from ledger.errors import InvalidRequest

LIMIT_MAX: Final = 1000
CURSOR_LENGTH_MAX: Final = 500

Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="How many items to answer with at most.")]
Cursor = Annotated[str | None, Query(max_length=CURSOR_LENGTH_MAX, description="`next` of the page before.")]

T = TypeVar("T")


def page(found: Sequence[T], *, limit: int, show: Callable[[T], Any], place: Callable[[T], Any]) -> dict[str, Any]:
    """One page of at most `limit` of what was found; `found` has one more where there is another page."""
    shown = found[:limit]
    more = len(found) > limit
    return {"items": [show(item) for item in shown], "next": _encode(place(shown[-1])) if more else None}


def cut(rows: Sequence[T], *, limit: int, last: Callable[[T], Any]) -> tuple[Sequence[T], str | None]:
    """At most `limit` of the rows, of which there is one more if another page follows, and the cursor of that page.

    last: what a cursor says of the last row of a page.
    """
    page = rows[:limit]
    return page, _encode(last(page[-1])) if len(rows) > limit else None


class _Hashed(Protocol):
    """An entry of any journal."""

    @property
    def seq(self) -> int: ...

    @property
    def body(self) -> str: ...

    @property
    def hash(self) -> bytes: ...


def of_entries(found: Sequence[_Hashed], *, limit: int) -> Response:
    """One page of a journal. Entries stand in it byte for byte as they were hashed, so it is put together as text."""
    around = page(found, limit=limit, show=_entry, place=lambda entry: entry.seq)
    items = ",".join(around["items"])
    text = f'{{"items":[{items}],"next":{chain.canonical(around["next"])}}}'
    return Response(text.encode(), media_type="application/json")


def _entry(entry: _Hashed) -> str:
    return f'{{"seq":{entry.seq},"hash":"{entry.hash.hex()}","entry":{entry.body}}}'


def _encode(place: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def _decode(cursor: str | None, read: Callable[[Any], T]) -> T | None:
    if cursor is None:
        return None
    try:
        return read(json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))))
    except (ValueError, TypeError, LookupError, RecursionError):
        raise InvalidRequest("cursor: is not one that this ledger gave", field="cursor") from None


def _text(place: Any) -> str:
    if not isinstance(place, str) or not place.isascii() or "\x00" in place:
        raise ValueError("not a name")
    return place


def _number(place: Any) -> int:
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < 2**63:
        raise ValueError("not a number of an entry")
    return place


def after_name(cursor: str | None) -> str | None:
    """The name that the page before ended with. This and the next three raise InvalidRequest."""
    return _decode(cursor, _text)


def after_seq(cursor: str | None) -> int:
    """The number of the entry that the page before ended with, or 0."""
    return _decode(cursor, _number) or 0


def after_id(cursor: str | None) -> UUID | None:
    """The id that the page before ended with."""
    return _decode(cursor, lambda place: UUID(_text(place)))


def after_run(cursor: str | None) -> tuple[int, UUID] | None:
    """When the run that the page before ended with was decided, and its id."""
    return _decode(cursor, lambda place: (_number(place[0]), UUID(_text(place[1]))))

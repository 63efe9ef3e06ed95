"""What the calls of every journal share, a dataset's or the tenant's own: parameters, entries and exports as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final

from fastapi import Query, Request, Response

from ledger.access.roles import Caller
from ledger.api.streams import Streamed, streams
from ledger.core.entries import Entry, TenantEntry
from ledger.core.journal import chain

EXPORTED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"application/jsonl": {}}, "description": "JSON Lines: a header, the entries, the signed head."}
}

Seq = Annotated[int, Query(ge=1, le=2**63 - 1, description="The number of the entry.")]
Size = Annotated[
    int | None,
    Query(
        ge=1, le=2**63 - 1, description="The number of entries to prove against, counted from the first; default: all."
    ),
]
From = Annotated[
    int, Query(alias="from", ge=1, le=2**63 - 1, description="The number of entries in the older journal.")
]
To = Annotated[
    int | None, Query(ge=1, le=2**63 - 1, description="The number of entries in the newer journal; default: all.")
]


def entries(page: tuple[Sequence[Entry | TenantEntry], str | None]) -> Response:
    """Return one page of a journal. It is put together as text, so entries stay byte for byte as they were hashed."""
    rows, following = page
    items = ",".join(map(_entry, rows))
    text = f'{{"items":[{items}],"next":{chain.canonical(following)}}}'
    return Response(text.encode(), media_type="application/json")


def _entry(entry: Entry | TenantEntry) -> str:
    request = entry.request if isinstance(entry, Entry) else None
    request_member = "" if request is None else f',"request":{request}'
    return f'{{"seq":{entry.seq},"hash":"{entry.hash.hex()}","entry":{entry.body}{request_member}}}'


def export(lines: Iterator[str], request: Request, caller: Caller) -> Response:
    """Return a whole journal, sent while it is read."""
    return Streamed(lines, room=streams(request), caller=caller, media_type="application/jsonl")

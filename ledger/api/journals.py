"""What the calls of any journal share, a dataset's or the tenant's own: parameters, and entries and exports as text."""

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
    int | None, Query(ge=1, le=2**63 - 1, description="Among how many entries it is, from the first on; all of them.")
]
From = Annotated[int, Query(alias="from", ge=1, le=2**63 - 1, description="How many entries there were.")]
To = Annotated[int | None, Query(ge=1, le=2**63 - 1, description="How many there were later; all there are now.")]


def entries(page: tuple[Sequence[Entry | TenantEntry], str | None]) -> Response:
    """One page of a journal. Entries stand in it byte for byte as they were hashed, so it is put together as text."""
    rows, following = page
    items = ",".join(map(_entry, rows))
    text = f'{{"items":[{items}],"next":{chain.canonical(following)}}}'
    return Response(text.encode(), media_type="application/json")


def _entry(entry: Entry | TenantEntry) -> str:
    request = entry.request if isinstance(entry, Entry) else None
    beside = "" if request is None else f',"request":{request}'
    return f'{{"seq":{entry.seq},"hash":"{entry.hash.hex()}","entry":{entry.body}{beside}}}'


def export(lines: Iterator[str], request: Request, caller: Caller) -> Response:
    """A whole journal, sent while it is read."""
    return Streamed(lines, room=streams(request), caller=caller, media_type="application/jsonl")

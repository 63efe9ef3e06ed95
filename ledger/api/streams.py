"""Long answers, as many at once as their callers' shares allow: exports, sent while they are made, and reports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

import anyio
import anyio.to_thread
from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ledger.access.roles import Caller
from ledger.api.limits import Shares
from ledger.settings import Settings

THREADS_MAX: Final = 4
"""That make the pieces of all of them. They take turns by pieces, and take none of the threads that decisions need."""
RETRY_AFTER_SECONDS: Final = 5


class Streams:
    """The room of a process for long answers: exports, which its threads make, and reports, which others make."""

    def __init__(self, settings: Settings) -> None:
        self.sent = Shares(
            "reports and exports",
            total=settings.streams_max,
            per_tenant=settings.streams_per_tenant_max,
            per_key=settings.streams_per_key_max,
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
        self.reports = Shares(
            "reports",
            total=settings.reports_at_once,
            per_tenant=max(1, settings.reports_at_once // 2),
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
        self.threads = anyio.CapacityLimiter(THREADS_MAX)


def streams(request: Request) -> Streams:
    """The room of the application that got this request."""
    found: Streams = request.app.state.streams
    return found


class Streamed(StreamingResponse):
    """Sends pieces while they are made, with a share of the room for as long as that takes."""

    def __init__(
        self,
        pieces: Iterator[str],
        *,
        room: Streams,
        caller: Caller,
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(_made(pieces, room.threads), media_type=media_type, headers=headers)
        self._room, self._caller = room, caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._room.sent.one(self._caller):
            await super().__call__(scope, receive, send)


async def _made(pieces: Iterator[str], threads: anyio.CapacityLimiter) -> AsyncIterator[str]:
    """The pieces, each made by one of these threads, and only once the one before it was taken."""
    while (piece := await anyio.to_thread.run_sync(next, pieces, None, limiter=threads)) is not None:
        yield piece

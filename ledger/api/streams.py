"""Long answers, limited by the shares of their callers: exports, sent while they are made, and reports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.to_thread
from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ledger.access.roles import Caller
from ledger.api.limits import Buckets, Shares, seconds
from ledger.core.people import Actor
from ledger.errors import Overloaded
from ledger.settings import Settings

THREADS_MAX: Final = 4
"""The threads that make the pieces of all exports in turns. Decisions never wait for them."""
RETRY_AFTER_SECONDS: Final = 5
WAITING_REPORTS_MAX: Final = 8
"""How many reports wait for a place, each tenant's share of the places at most."""
ABANDONED_MAX: Final = 4
"""How many reports callers of a tenant may leave one after another while they are made: each ends a process, and the
next report starts one, which takes a second of processor time."""
ABANDONED_PER_SECOND: Final = 0.2


@dataclass(slots=True)
class Making:
    """Whether a report is being made. If it still is when its share is given back, its caller left it."""

    is_under_way: bool = False


class Streams:
    """Room of a process for long answers: exports, which its threads make, and reports, which other processes make."""

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
            total=settings.reports_at_once + WAITING_REPORTS_MAX,
            per_tenant=max(1, settings.reports_at_once // 2),
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
        self.abandoned = Buckets(per_second=ABANDONED_PER_SECOND, burst=ABANDONED_MAX)
        self.threads = anyio.CapacityLimiter(THREADS_MAX)

    @contextmanager
    def report(self, caller: Actor) -> Iterator[Making]:
        """Hold a report's share of the room. Raises Overloaded, also if the tenant's callers left too many reports."""
        wait = self.abandoned.wait_of(caller.tenant_id)
        if wait > 0:
            raise Overloaded(
                f"Callers of this tenant left {ABANDONED_MAX} reports before they were made. Try again after"
                f" {seconds(wait)} s, and wait for the answer.",
                retry_after_seconds=seconds(wait),
            )
        making = Making()
        with self.sent.one(caller), self.reports.one(caller):
            yield making
        if making.is_under_way:
            self.abandoned.take(caller.tenant_id)


def streams(request: Request) -> Streams:
    """Return the room of the application that got this request."""
    found: Streams = request.app.state.streams
    return found


class Streamed(StreamingResponse):
    """Sends pieces while they are made, and holds a share of the room meanwhile."""

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
    """Yield the pieces; a thread makes each one only after the piece before it was taken."""
    while (piece := await anyio.to_thread.run_sync(next, pieces, None, limiter=threads)) is not None:
        yield piece

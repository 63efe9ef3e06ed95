"""Send many requests at once, and measure each, as bytes over bare streams: a client library would be the slowest part.

A request is complete HTTP/1.1, made by `Target.request`. Connections are kept, and each waits for its answer before it
sends the next request.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import ssl
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

from ledger.client.errors import Unreachable
from ledger.errors import Conflict

_PORTS: Final = {"http": 80, "https": 443}


class UnexpectedAnswer(Conflict):
    """The server did not do what was asked, so nothing can be measured."""

    code = "unexpected-answer"

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"The server answered with status {status}: {body.decode(errors='replace')}", status=status)


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and the key of who asks."""

    url: str
    key: str

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Return a request. One with a body is JSON and has a new idempotency key."""
        lines = [
            f"{method} {urlsplit(self.url).path.rstrip('/')}{path} HTTP/1.1",
            f"Host: {urlsplit(self.url).netloc}",
            f"Authorization: Bearer {self.key}",
        ]
        if body is not None:
            lines += [
                "Content-Type: application/json",
                f"Idempotency-Key: {uuid4().hex}",
            ]
        if method != "GET":
            lines.append(f"Content-Length: {len(body or b'')}")
        return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


@dataclass(slots=True)
class Connection:
    """A connection to a server, which opens at the first request and again after the server closed it."""

    target: Target
    _stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = field(default=None, init=False)

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Return the status and the body of the answer."""
        reader, writer = self._stream or await self._open()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = next((line for line in head.splitlines() if line.startswith(b"content-length:")), b":0")
        body = await reader.readexactly(int(length.split(b":")[1]))
        if b"\r\nconnection: close" in head:
            await self.close()
        return int(head.split(b" ", 2)[1]), body

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        url = urlsplit(self.target.url)
        context = ssl.create_default_context() if url.scheme == "https" else None
        self._stream = await asyncio.open_connection(url.hostname, url.port or _PORTS[url.scheme], ssl=context)
        return self._stream

    async def close(self) -> None:
        """Close the connection."""
        if self._stream is not None:
            self._stream[1].close()
            with contextlib.suppress(OSError):
                await self._stream[1].wait_closed()
            self._stream = None


@dataclass(frozen=True, slots=True)
class Measured:
    """How long a number of requests took: all of them together, and each."""

    seconds: float
    times_ms: list[float]

    @property
    def rate(self) -> float:
        """Return how many were answered each second."""
        return len(self.times_ms) / self.seconds

    def percentile_ms(self, percent: int) -> float:
        """Return the time that this percentage of the requests did not exceed."""
        if len(self.times_ms) < 2:
            return sum(self.times_ms)
        return statistics.quantiles(self.times_ms, n=100, method="inclusive")[percent - 1]


async def measure(
    target: Target,
    requests: Iterator[bytes],
    *,
    connections: int,
    seconds: float = math.inf,
    on_body: Callable[[bytes], object] = len,
) -> Measured:
    """Send requests over this many connections until there are no more or the time is over, and measure each.

    on_body: called with the body of each answer. Raises UnexpectedAnswer for a status that is not 2xx,
    and Unreachable if there is no answer.
    """
    times_ms: list[float] = []
    begun = time.perf_counter()

    async def work() -> None:
        connection = Connection(target)
        try:
            while (sent := time.perf_counter()) < begun + seconds and (content := next(requests, None)) is not None:
                status, body = await connection.send(content)
                times_ms.append(1000 * (time.perf_counter() - sent))
                if not 200 <= status < 300:
                    raise UnexpectedAnswer(status, body)
                on_body(body)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Unreachable(f"{target.url} ended a connection without an answer.", url=target.url) from error
        finally:
            await connection.close()

    await asyncio.gather(*(work() for _ in range(connections)))
    return Measured(time.perf_counter() - begun, times_ms)

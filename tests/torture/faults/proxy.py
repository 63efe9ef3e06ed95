"""A proxy between clients and servers, which drops, delays and repeats what it is told to, and balances.

    python -m tests.torture.faults.proxy < LINES

It prints its port. Each line of JSON on its input changes how it behaves (`Manners`); after each it prints what it has
done so far. It sends requests to servers that are ready, if it asks for that, and keeps connections to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.torture.faults.servers import is_ready
from tests.torture.wire import Stream

READY_EVERY_SECONDS: Final = 0.2
UPSTREAM_SECONDS_MAX: Final = 30.0
NOBODY: Final = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}"


@dataclass(frozen=True, slots=True)
class Manners:
    """How it behaves: probabilities for each request."""

    upstreams: Sequence[int] = ()
    """The servers' ports."""
    drop_request: float = 0.0
    drop_answer: float = 0.0
    delay: float = 0.0
    delay_seconds_max: float = 0.0
    duplicate: float = 0.0
    asks_ready: bool = False
    """Whether it sends requests only to servers whose `/readyz` is true, as balancers do."""


@dataclass(slots=True)
class Proxy:
    """Its state."""

    random: random.Random
    manners: Manners = field(default_factory=Manners)
    done: Counter[str] = field(default_factory=Counter)
    ready: set[int] = field(default_factory=set)
    idle: dict[int, list[Stream]] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what one client sends, until it ends or an answer is dropped."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            while answer := await self._answer(await message(reader)):
                writer.write(answer)
                await writer.drain()
        writer.transport.abort()

    async def _answer(self, content: bytes) -> bytes | None:
        """What the client is to receive for a request; None to cut its connection."""
        manners, dice = self.manners, self.random
        self.done["requests"] += 1
        if self._happens(manners.drop_request, "dropped requests"):
            return None
        if self._happens(manners.delay, "delayed"):
            await asyncio.sleep(dice.random() * manners.delay_seconds_max)
        may_repeat = b"\r\nX-Once: 1\r\n" not in content
        if may_repeat and self._happens(manners.duplicate, "duplicated"):
            answers = await asyncio.gather(self._passed(content), self._passed(content))
            answer = next(filter(None, answers), None)
        else:
            answer = await self._passed(content)
        return None if self._happens(manners.drop_answer, "dropped answers") else answer

    def _happens(self, probability: float, name: str) -> bool:
        happens = self.random.random() < probability
        self.done[name] += happens
        return happens

    async def _passed(self, content: bytes) -> bytes | None:
        """What a server answers; None if it does not."""
        ports = [port for port in self.manners.upstreams if port in self.ready or not self.manners.asks_ready]
        self.random.shuffle(ports)
        for port in ports:
            try:
                stream = await self._connection(port)
            except OSError:
                continue
            return await self._exchanged(port, stream, content)
        self.done["nobody"] += 1
        return NOBODY

    async def _connection(self, port: int) -> Stream:
        while kept := self.idle.get(port, []):
            stream = kept.pop()
            if not stream[0].at_eof() and not stream[1].is_closing():
                return stream
        return await asyncio.open_connection("127.0.0.1", port)

    async def _exchanged(self, port: int, stream: Stream, content: bytes) -> bytes | None:
        try:
            async with asyncio.timeout(UPSTREAM_SECONDS_MAX):
                stream[1].write(content)
                answer = await message(stream[0])
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            self.done["broken upstream"] += 1
            stream[1].transport.abort()
            return None
        if b"\r\nconnection: close" in answer.partition(b"\r\n\r\n")[0].lower():
            stream[1].close()
            # What the server asks of this connection is not what the client's is.
            return _kept(answer)
        self.idle.setdefault(port, []).append(stream)
        return answer

    async def look(self) -> None:
        """Know which servers are ready, until this is cancelled."""
        while True:
            for port in self.manners.upstreams if self.manners.asks_ready else ():
                if await is_ready(port):
                    self.ready.add(port)
                else:
                    self.ready.discard(port)
                    for _, writer in self.idle.pop(port, []):
                        writer.close()
            await asyncio.sleep(READY_EVERY_SECONDS)


def _kept(answer: bytes) -> bytes:
    """The answer without the line by which the server closes its own connection."""
    head, end, body = answer.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join(lines) + end + body


async def message(reader: asyncio.StreamReader) -> bytes:
    """A whole request or answer, as bytes. Raises IncompleteReadError."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return head + await reader.readexactly(int(value))
        if name.lower() == b"transfer-encoding":
            return head + await _chunks(reader)
    return head


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    pieces = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        pieces += line + await reader.readexactly(int(line, 16) + 2)
        if int(line, 16) == 0:
            return pieces


async def main() -> None:
    """Serve until the input ends."""
    proxy = Proxy(random.Random(sys.argv[1]))
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=1 << 22)
    looking = asyncio.create_task(proxy.look())
    print(server.sockets[0].getsockname()[1], flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        told: dict[str, Any] = json.loads(line)
        proxy.manners = Manners(**told) if told else proxy.manners
        print(json.dumps(proxy.done), flush=True)
    looking.cancel()


if __name__ == "__main__":
    asyncio.run(main())

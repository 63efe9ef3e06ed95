"""HTTP/1.1 as bytes over a bare stream: a client library would be the slowest part, and be measured in its place."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import urlsplit

PIECE_BYTES: Final = 64 * 1024
CUT: Final = 0
"""Stands for the status of a request whose connection ended without an answer."""

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def request(
    method: str, path: str, *lines: str, key: str | None = None, body: Any = None, raw: bytes | None = None
) -> bytes:
    """A whole request. body: is sent as JSON; raw: as it is."""
    content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
    return head(method, path, f"Content-Length: {len(content)}", *lines, key=key) + content


def head(method: str, path: str, *lines: str, key: str | None = None) -> bytes:
    """A request's line and headers."""
    signed = [f"Authorization: Bearer {key}"] if key is not None else []
    given = [f"{method} {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *signed, *lines]
    return "".join(f"{line}\r\n" for line in [*given, ""]).encode()


class Wire:
    """Connections to one server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._place = (str(parts.hostname), parts.port or 80)
        self._open: Stream | None = None

    async def connect(self, *, receive_bytes: int | None = None) -> Stream:
        """A new connection. receive_bytes: what the system holds of what is not read."""
        if receive_bytes is None:
            return await asyncio.open_connection(*self._place)
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, self._place)
        return await asyncio.open_connection(sock=connection, limit=receive_bytes)

    @contextlib.asynccontextmanager
    async def connected(self, *, receive_bytes: int | None = None) -> AsyncIterator[Stream]:
        """A new connection, for a while."""
        stream = await self.connect(receive_bytes=receive_bytes)
        try:
            yield stream
        finally:
            stream[1].transport.abort()

    async def ask(self, content: bytes) -> tuple[int, bytes]:
        """The status of the answer and its body, over one connection that is kept. 0 if the connection ended first."""
        if self._open is None:
            self._open = await self.connect()
        reader, writer = self._open
        try:
            writer.write(content)
            status, body, is_last = await answer(reader)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return CUT, b""
        except BaseException:
            self.close()
            raise
        if is_last:
            self.close()
        return status, body

    def close(self) -> None:
        """End the connection that is kept."""
        if self._open is not None:
            self._open[1].transport.abort()
            self._open = None


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """The status of an answer, its body, and whether the connection ends with it. Raises IncompleteReadError."""
    first = (await reader.readuntil(b"\r\n\r\n")).lower()
    lines = first.split(b"\r\n")
    fields = dict(line.split(b": ", 1) for line in lines[1:] if line)
    if b"chunked" in fields.get(b"transfer-encoding", b""):
        body = b"".join([piece async for piece in _chunks(reader)])
    else:
        body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
    return int(lines[0].split(b" ", 2)[1]), body, fields.get(b"connection") == b"close"


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)

"""A request and its answer, whose head goes out together with the first piece of its body."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

_WITHOUT_BODY = frozenset({204, 304})


class Cycle(RequestResponseCycle):
    """uvicorn's, with one write for a short answer in place of two, and one check of the head in place of two for each
    header."""

    _head = b""

    async def send(self, message: Any) -> None:
        """Send a part of the answer, as ASGI has it. Raises RuntimeError for a part that does not fit."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if self.response_complete:
            raise RuntimeError("the answer was complete already")
        if not self.response_started:
            self._begin(message["status"], message.get("headers", ()))
        else:
            self._go_on(message.get("body", b""), is_last=not message.get("more_body", False))

    def _begin(self, status: int, headers: Any) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        lines = [STATUS_LINE[status]]
        is_closing = False
        for name, value in (*self.default_headers, *headers):
            lines.append(b"%b: %b\r\n" % (name, value))
            if name == b"content-length":
                self.expected_content_length, self.chunked_encoding = int(value), False
            elif name == b"connection":
                is_closing = value == b"close"
        if is_closing:
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close\r\n")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in _WITHOUT_BODY:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        head = b"".join(lines)
        if not head.count(b"\r") == head.count(b"\n") == len(lines):
            raise RuntimeError("a header has a line break")
        self._head = head + b"\r\n"

    def _go_on(self, body: Any, *, is_last: bool) -> None:
        head, self._head = self._head, b""
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
            piece = head
        elif self.chunked_encoding:
            framed = (b"%x\r\n" % len(body), body, b"\r\n") if body else ()
            piece = b"".join((head, *framed, b"0\r\n\r\n" if is_last else b""))
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("the body is longer than its Content-Length")
            piece = b"".join((head, body)) if head else body
        if piece:
            self.transport.write(piece)
        if is_last:
            if self.expected_content_length:
                raise RuntimeError("the body is shorter than its Content-Length")
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()

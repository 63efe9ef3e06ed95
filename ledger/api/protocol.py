"""HTTP/1.1 over llhttp, with limits on size and time, and answers that arrive.

uvicorn waits without limit: for the rest of a request, for a client to read its answer, for a connection to close. A
few thousand idle connections would use up every file that the process may open. uvicorn also closes a connection whose
request it did not read to the end; the client's system takes that for a fault and discards the answer. And llhttp, its
parser, bounds nothing: it collects a header of any length.

Of uvicorn this module uses how it makes and ends a protocol, and the `flow` and `cycle` of a connection.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Literal
from urllib.parse import unquote

import httptools
from uvicorn._types import HTTPScope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ledger.api.cycle import Cycle
from ledger.api.metrics import Metrics
from ledger.settings import Settings

HEAD_BYTES_MAX: Final = 32 * 1024
"""The limit for the request line and headers together, and for what comes between two pieces of a body. A token can
have thousands."""
PIECE_BYTES: Final = 2 * 1024
"""How much is parsed at once: the requests in it are held in memory at the same time, however small they are."""
UNSENT_BYTES_MAX: Final = 64 * 1024
STRANGERS_AT_ONCE_MAX: Final = 8
"""On how many connections without a caller requests are read before the loop serves the others."""
ENDED_AT_ONCE_MAX: Final = 64
"""For how many connections that ended the loop does what is left to do before it serves the others."""
LINE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of what came on connections that wait for their turn."""
_HEALTH: Final = b"GET /healthz "
"""Who asks this waits for no stranger: a process that is held to be dead is started again."""
_NOTSENT_LOWAT: Final = {"linux": 25, "darwin": 0x201}.get(sys.platform)  # socket has it from Python 3.12 on
STATE: Final = "connections"
"""The name under which an application gives its `Connections` to the protocol, in the state of its lifespan."""

Reason = Literal["head", "body", "rest", "closing", "sending", "crowded"]
"""Why a connection was cut: a request's head or body was late; the rest of a request that was answered early was too
much or too slow; the client did not read the answer, or did not close; or there were too many connections."""
REASONS: Final[tuple[Reason, ...]] = ("head", "body", "rest", "closing", "sending", "crowded")


class _MalformedError(Exception):
    """A request that llhttp would take and this server does not."""


class Connections:
    """What the connections of a process share: the limits of the settings, and the open connections."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        metrics.watch_connections(self, REASONS)
        # The other files that the process may open are for the database.
        self._max = min(settings.connections_max, resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 // 4)
        self._open: set[Patient] = set()
        self._strangers: dict[Patient, None] = {}
        self._line = deque[tuple[Patient, bytes]]()
        self._line_bytes = self._begun = 0
        self._ended = deque[Callable[[], None]]()
        self.is_draining = False

    def drain(self) -> None:
        """Close each connection with its next answer, because the process is about to end."""
        self.is_draining = True
        for connection in list(self._open):
            connection.close_with_answer()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Patient) -> None:
        """Add a connection. If there are too many, cut the oldest one without a recognised caller; so unknown callers,
        however many, take no connection from known ones."""
        self._open.add(connection)
        self._strangers[connection] = None
        while len(self._open) > self._max:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            if oldest is connection or not oldest.is_recognised:
                self._open.discard(oldest)
                oldest.cut("crowded")

    def remove(self, connection: Patient) -> None:
        """Remove a connection."""
        self._open.discard(connection)
        self._strangers.pop(connection, None)

    def end(self, loop: asyncio.AbstractEventLoop, rest: Callable[[], None]) -> None:
        """Do what is left to do for a connection that ended, when its turn comes: thousands can end at once."""
        if not self._ended:
            loop.call_soon(self._end, loop)
        self._ended.append(rest)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        turn = [self._ended.popleft() for _ in range(min(ENDED_AT_ONCE_MAX, len(self._ended)))]
        if self._ended:
            loop.call_soon(self._end, loop)
        for rest in turn:
            rest()

    def admits(self, connection: Patient, data: bytes) -> bool:
        """Return whether a connection on which nobody was recognised yet may go on now.

        If a few did already since the loop last looked for events, it goes on when its turn comes: a thousand at once
        would keep callers waiting.
        """
        if self._line or self._begun >= STRANGERS_AT_ONCE_MAX:
            if self._line_bytes + len(data) > LINE_BYTES_MAX:
                connection.cut("crowded")
            else:
                self._line.append((connection, data))
                self._line_bytes += len(data)
            return False
        if not self._begun:
            connection.loop.call_soon(self._go_on, connection.loop)
        self._begun += 1
        return True

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        self._begun = min(STRANGERS_AT_ONCE_MAX, len(self._line))
        if self._begun:
            loop.call_soon(self._go_on, loop)
        for connection, data in [self._line.popleft() for _ in range(self._begun)]:
            self._line_bytes -= len(data)
            connection.go_on(data)


class _Transport(asyncio.Transport):
    """A connection's transport. The protocol decides when `close` really closes it."""

    def __init__(self, inner: asyncio.Transport, close: Callable[[], None]) -> None:
        super().__init__()
        self._inner, self._close = inner, close
        self.is_ending = False

    def close(self) -> None:
        if not self.is_ending:
            self.is_ending = True
            self._close()

    def is_closing(self) -> bool:
        return self.is_ending or self._inner.is_closing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.is_ending:
            self._inner.write(data)

    def pause_reading(self) -> None:
        if not self.is_ending:
            self._inner.pause_reading()

    def resume_reading(self) -> None:
        self._inner.resume_reading()

    def abort(self) -> None:
        self.is_ending = True
        self._inner.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._inner.get_extra_info(name, default)


class Patient(HttpToolsProtocol):
    """Reads requests and sends answers within the limits of `Connections`, and closes so that an answer arrives.

    The rest of a request that was answered early is read and discarded, up to a number of bytes and seconds. Then the
    connection goes on, or closes: first this side alone, so that the client can read its answer and close too.
    """

    transport: _Transport
    pipeline: deque[tuple[RequestResponseCycle, Any]]
    _inner: asyncio.Transport

    def __init__(
        self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._shared: Connections = app_state[STATE]
        self._bounds = self._shared.settings
        self._awaited: Reason | Literal["idle"] | None = None
        self._due, self._unsent, self._thrown_away = 0.0, 0, 0
        self._timer: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        # What is parsed: whether a request's head is complete and its end is not, and the bytes since something was.
        self._has_head = self._is_broken = False
        self._undecided_bytes = 0
        self._unparsed = b""

    @property
    def is_recognised(self) -> bool:
        """Return whether the newest request on this connection is a recognised caller's."""
        scope: HTTPScope | None = self.scope
        return scope is not None and "caller" in scope["state"]

    def cut(self, reason: Reason) -> None:
        """End the connection at once, with everything in progress on it."""
        if not self._inner.is_closing():
            self._shared.metrics.cut(reason)
        self.transport.abort()

    # --- events ------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._inner = transport
        if hasattr(transport, "max_size"):
            transport.max_size = UNSENT_BYTES_MAX  # of one read: more waits in the socket until somebody asks for it
        connected = transport.get_extra_info("socket")
        if _NOTSENT_LOWAT is not None and connected is not None and connected.family != socket.AF_UNIX:
            # What a client does not take waits here, where it can be counted, and not by megabytes in the system.
            connected.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, UNSENT_BYTES_MAX)
        super().connection_made(_Transport(transport, self._close))
        self._await("head")
        self._shared.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport.is_ending = True
        self._await(None)
        self._shared.remove(self)
        self._shared.end(self.loop, partial(self._lose, exc))

    def _lose(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flows()
        for cycle, _ in self.pipeline:
            cycle.disconnected = True
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.is_recognised or data.startswith(_HEALTH) or self._shared.admits(self, data):
            self._receive(data)
        else:
            self._inner.pause_reading()

    def go_on(self, data: bytes) -> None:
        """Receive the data that waited."""
        if not self._inner.is_closing():
            self._inner.resume_reading()
            self._receive(data)

    def _receive(self, data: bytes) -> None:
        if self._awaited in ("rest", "closing"):
            self._thrown_away += len(data)
            if self._thrown_away > self._bounds.discard_bytes_max:
                self.cut("rest")
        self._unparsed += data
        self._go_on()

    def _go_on(self) -> None:
        """Parse what came, as far as a request that waits for the answer to the one before it."""
        data, self._unparsed = self._unparsed, b""
        for start in range(0, len(data), PIECE_BYTES):
            if self.transport.is_closing():
                return
            if self.pipeline or self._is_broken:
                self._unparsed = b"" if self._is_broken else data[start:]
                break
            self._parse(data[start : start + PIECE_BYTES])
        if self.transport.is_closing():
            return
        self._await(self._awaits())
        if self.pipeline or (self._awaited == "body" and self.cycle.body):
            self.flow.pause_reading()  # until the application asks for more, as `receive` does

    def _parse(self, piece: bytes) -> None:
        self._undecided_bytes += len(piece)
        try:
            while piece:
                try:
                    self.parser.feed_data(piece)
                    break
                except httptools.HttpParserUpgrade as upgrade:
                    piece = piece[upgrade.args[0] :]  # to no other protocol: what follows is a request as well
        except httptools.HttpParserError:
            self._refuse()
            return
        if self._undecided_bytes > HEAD_BYTES_MAX:
            self._refuse()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            self._go_on()
        elif self._is_broken:
            self._refuse()
        elif self._has_head or self._undecided_bytes:
            self._await(self._awaits())
        else:
            self._await("idle")

    def _refuse(self) -> None:
        """Answer that this is no request, and end the connection; first come the answers to the requests before it."""
        cycle: RequestResponseCycle | None = self.cycle
        is_answered = cycle is None or cycle.response_complete
        if not is_answered and not self._has_head:
            self._is_broken = True  # what is no request comes after this one
            return
        if self.pipeline:
            self.pipeline.popleft()
            self._is_broken = True
            return
        if (is_answered and not self._has_head) or not (is_answered or cycle is None or cycle.response_started):
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")
        else:
            self.transport.close()  # there was an answer already, or half of one
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # nothing more is sent, and a wait for the body ends
            cycle.message_event.set()

    def close_with_answer(self) -> None:
        """Close the connection with the answer that is being made, and announce that in it. If its head has gone out
        already, the next answer does that."""
        cycle: RequestResponseCycle | None = self.cycle
        for each in (*([] if cycle is None else [cycle]), *(waiting for waiting, _ in self.pipeline)):
            if not each.response_started:
                each.keep_alive = False

    def shutdown(self) -> None:
        if self.transport.is_ending:
            self._inner.abort()
        else:
            super().shutdown()

    # --- what the parser finds ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._undecided_bytes = self._undecided_bytes or 1  # behind the end of another request, in the same piece

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:  # after a body come only trailers, which nobody reads
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._undecided_bytes = 0
        method, version = self.parser.get_method().decode("ascii"), self.parser.get_http_version()
        _demand_form(self.headers, method, version)
        try:
            url = httptools.parse_url(self.url)
        except httptools.HttpParserInvalidURLError:
            raise _MalformedError from None
        raw_path = url.path
        if raw_path is None:
            raise _MalformedError
        path = raw_path.decode("ascii")
        scope = self.scope
        scope["method"], scope["http_version"] = method, version
        scope["path"] = self.root_path + (unquote(path) if "%" in path else path)
        scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        scope["query_string"] = url.query or b""
        before: RequestResponseCycle | None = self.cycle
        self._has_head = True
        self.cycle = Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and not self._shared.is_draining and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        self._undecided_bytes = 0
        if not self.cycle.response_complete:
            self.cycle.body += body
            self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._has_head, self._undecided_bytes = False, 0
        if not self.cycle.response_complete:
            self.cycle.more_body = False
            self.cycle.message_event.set()

    # --- what is waited for ------------------------------------------------------------------------------------------

    def _awaits(self) -> Reason | None:
        """Return what the client owes."""
        if self.pipeline or self._is_broken:
            return None
        cycle: RequestResponseCycle | None = self.cycle
        if self._has_head:
            return "rest" if self.cycle.response_complete else "body"
        return "head" if cycle is None or cycle.response_complete else None

    def _await(self, reason: Reason | Literal["idle"] | None) -> None:
        """Set the deadline for what is awaited. If it is the same as before, the old deadline stays."""
        if reason == self._awaited and reason != "idle":
            return
        self._awaited, self._thrown_away = reason, 0
        if reason is None:
            return
        self._unsent = self._inner.get_write_buffer_size()
        self._due = self.loop.time() + self._seconds_of(reason)
        # A timer that ends too early looks again, so that not every request sets one.
        if self._timer is None or self._timer.when() > self._due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_at(self._due, self._look)

    def _seconds_of(self, reason: Reason | Literal["idle"]) -> float:
        seconds = {
            "head": self._bounds.head_seconds_max,
            "body": self._bounds.body_seconds_max,
            "idle": self.timeout_keep_alive,
        }
        return float(seconds.get(reason, self._bounds.discard_seconds_max))

    def _look(self) -> None:
        self._timer = None
        reason = self._awaited
        if reason is None:
            return
        if self.loop.time() < self._due:
            self._timer = self.loop.call_at(self._due, self._look)
        elif reason == "idle":
            self.transport.close()
        elif reason == "closing" and self._took(self._unsent, self._bounds.discard_seconds_max):
            self._await(None)
            self._await(reason)  # the end of the answer is on its way
        else:
            self.cut(reason)

    def _close(self) -> None:
        """End the connection when the client has its answer, and has closed its side if it may still be sending."""
        is_sending = self._has_head or bool(self._undecided_bytes or self._unparsed)
        self._await("closing")
        if is_sending and self._inner.can_write_eof():
            self._inner.write_eof()
            self._inner.resume_reading()
        else:
            self._inner.close()

    # --- sending -----------------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_progress()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._flows()

    def _watch_progress(self) -> None:
        before = self._inner.get_write_buffer_size()
        self._stalled = self.loop.call_later(self._bounds.send_seconds_max, self._demand_progress, before)

    def _demand_progress(self, before: int) -> None:
        if self._took(before, self._bounds.send_seconds_max):
            self._watch_progress()
        else:
            self.cut("sending")

    def _took(self, before: int, seconds: int) -> bool:
        """Return whether the client read enough of the data that waited for it that many seconds ago."""
        taken = before - self._inner.get_write_buffer_size()
        return bool(taken >= seconds * self._bounds.send_bytes_per_second_min)

    def _flows(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


def _demand_form(headers: list[tuple[bytes, bytes]], method: str, version: str) -> None:
    """Raise _MalformedError for what another server in between could read in another way: no Host or two, a coding of
    the body that is not `chunked` alone, a tunnel, another version."""
    hosts = sum(name == b"host" for name, _ in headers)
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if version not in ("1.0", "1.1") or hosts > 1 or (hosts == 0 and version != "1.0") or method == "CONNECT":
        raise _MalformedError
    if codings and (len(codings) > 1 or codings[0].lower() != b"chunked" or version == "1.0"):
        raise _MalformedError

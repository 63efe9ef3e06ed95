"""HTTP/1.1 as uvicorn speaks it, with an end to patience.

uvicorn waits for ever for the rest of a request, so that a few thousand connections that say nothing, or a byte a
minute, would take every file that the process may open.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

REQUEST_SECONDS_MAX: Final = 30.0
"""How long a whole request may take to come in, from its connection's begin or its own first byte."""
CONNECTIONS_MAX: Final = min(4000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 // 4)
"""Of a process; the rest of its files are for the database."""
HEAD_BYTES_MAX: Final = 32 * 1024
"""Of a request's line and headers together, and never more than twice as much; a token can have a few thousand."""


class Patient(H11Protocol):
    """Closes a connection whose request does not come in in time, and any beyond `CONNECTIONS_MAX`."""

    seconds_max = REQUEST_SECONDS_MAX
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_MAX:
            transport.abort()
        else:
            self._wait()

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and not self._is_whole():
            self._wait()  # a request begins on a connection that was kept alive
        # In pieces, since h11 looks at a head's length only when one piece does not hold all of it.
        for start in range(0, len(data), HEAD_BYTES_MAX):
            if not self.transport.is_closing():
                super().data_received(data[start : start + HEAD_BYTES_MAX])
        if self._is_whole():
            self._rest()

    def on_response_complete(self) -> None:
        # A request that was answered before it came in whole (too large, no key) is not waited for any longer.
        self._rest()
        super().on_response_complete()
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.more_body and not cycle.response_complete:
            self._wait()  # the next one had come along, if not all of it

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def _is_whole(self) -> bool:
        """Whether the request that is being served came in with its body."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.more_body and not cycle.response_complete

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(self.seconds_max, self._give_up)

    def _rest(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()

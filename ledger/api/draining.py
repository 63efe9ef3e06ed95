"""Stop without breaking an answer: first tell balancers and clients, serve on for a while, and only then end.

uvicorn stops to listen as soon as it gets a signal. Here the signal reaches it later. Meanwhile /readyz is 503, and
each answer closes its connection, so that clients go elsewhere with their next request.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger(__name__)


class Draining:
    """Whether this process is about to end."""

    def __init__(self, seconds: float, on_begin: Callable[[], None]) -> None:
        """seconds: how long it still serves after a first signal; a second one ends that. on_begin: is called once."""
        self._seconds, self._on_begin = seconds, on_begin
        self.has_begun = False

    def begin(self) -> None:
        """Note that the process is about to end."""
        if not self.has_begun:
            self.has_begun = True
            self._on_begin()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take the signals that end the process, for a while, from the server, and pass them on later."""
        if threading.current_thread() is not threading.main_thread():
            yield  # where nobody gets signals
            return
        loop, count = asyncio.get_running_loop(), itertools.count()
        before = {number: signal.getsignal(number) for number in _SIGNALS}

        def take(number: int, frame: FrameType | None) -> None:
            is_first = next(count) == 0
            pass_on: Any = before[signal.Signals(number)]
            loop.call_soon_threadsafe(self.begin)
            if is_first and self._seconds > 0:
                log.info("serving for %g more seconds, and then ending", self._seconds)
                loop.call_soon_threadsafe(loop.call_later, self._seconds, _call, pass_on, number, frame)
            else:
                _call(pass_on, number, frame)

        for number in _SIGNALS:
            signal.signal(number, take)
        try:
            yield
        finally:
            for number, handler in before.items():
                if signal.getsignal(number) is take:
                    signal.signal(number, handler)


def _call(handler: Any, number: int, frame: FrameType | None) -> None:
    if callable(handler):
        handler(number, frame)

"""A background loop: a thread that works when it is woken, and at regular intervals."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

CLOSE_SECONDS_MAX: Final = 90.0
"""How long the end of a process waits for a turn that is running."""

log = logging.getLogger(__name__)


class Background:
    """Calls `turn` when it is woken, and every `every_seconds`; then with True, because everything is due.

    A turn that raises is logged, and the next one comes all the same. gather_seconds: how long to wait after it was
    woken, so that one turn serves several events. is_due_at_start: whether the first turn comes at once.
    """

    def __init__(
        self,
        name: str,
        turn: Callable[[bool], object],
        *,
        every_seconds: float,
        gather_seconds: float = 0.0,
        is_due_at_start: bool = False,
    ) -> None:
        self.every_seconds = every_seconds
        self._name, self._turn, self._gather_seconds = name, turn, gather_seconds
        self._first_seconds = 0.0 if is_due_at_start else every_seconds
        self._woken, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, name=f"ledger-{name}", daemon=True)

    @property
    def is_closing(self) -> bool:
        """Return whether a long turn should stop early."""
        return self._closing.is_set()

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Make a turn come soon. Returns at once; any thread may call it."""
        self._woken.set()

    def stop(self) -> None:
        """Stop further turns. Returns at once."""
        self._closing.set()
        self._woken.set()

    def close(self, *, seconds_max: float = CLOSE_SECONDS_MAX) -> bool:
        """Stop, and wait until the running turn has ended. Return whether it has; if not, that is logged."""
        self.stop()
        if self._thread.ident is not None:
            self._thread.join(seconds_max)
        if is_alive := self._thread.is_alive():
            log.error("%s did not end within %g seconds", self._name, seconds_max)
        return not is_alive

    def _serve(self) -> None:
        due = time.monotonic() + self._first_seconds
        while True:
            if self._woken.wait(max(0.0, due - time.monotonic())):
                self._closing.wait(self._gather_seconds)
            if self.is_closing:
                return
            self._woken.clear()
            is_due = time.monotonic() >= due
            if is_due:
                due = time.monotonic() + self.every_seconds
            try:
                self._turn(is_due)
            except Exception as error:  # any error: the next turn may succeed
                log.error("a turn of %s failed", self._name, exc_info=error)

"""How late the event loop is, and what keeps it from being late. Whatever holds it keeps every caller waiting."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

EVERY_SECONDS: Final = 0.01
"""Between two looks: what holds the loop for less may not be seen."""
SWITCH_SECONDS: Final = 0.0005
"""How long a thread that works keeps the loop's thread, or the writer's, from going on. Python's own is ten times this,
and each statement of a decision waits for it again."""


class Lag:
    """The longest time that a timer of the event loop was late since somebody last asked."""

    def __init__(self) -> None:
        self._longest_seconds = 0.0

    def take(self) -> float:
        """Return the longest lag in seconds, and begin again. Any thread may ask."""
        longest, self._longest_seconds = self._longest_seconds, 0.0
        return longest

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look at the running loop for a while."""
        loop = asyncio.get_running_loop()
        timer: asyncio.Handle

        def look(due: float) -> None:
            nonlocal timer
            now = loop.time()
            self._longest_seconds = max(self._longest_seconds, now - due)
            timer = loop.call_at(now + EVERY_SECONDS, look, now + EVERY_SECONDS)

        timer = loop.call_soon(look, loop.time())
        try:
            yield
        finally:
            timer.cancel()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the rest of the process from holding up its event loop: threads that work give way soon, and a full garbage
    collection, during which nobody is served, does not look at what has been there since the start."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before)

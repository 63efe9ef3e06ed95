"""How late the event loop is, and what keeps it from being late. Whatever holds it keeps every caller waiting."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

EVERY_SECONDS: Final = 0.01
"""Between two looks: what holds the loop for less may not be seen."""
SWITCH_SECONDS: Final = 0.0001
"""How long a thread that works keeps the loop's thread, or the writer's, from going on. Python's own is fifty times
this, and each statement of a decision waits for it again."""


THRESHOLDS: Final = (10_000, 5, 100)
"""How much is made before garbage is collected; Python's own are (700, 10, 10). One large body is not enough for a full
collection."""
FREEZE_AFTER_SECONDS: Final = (1, 5, 30, 120)
"""When what was made since the start, as the first requests need it, is taken out of garbage collections."""
COLLECTION_SECONDS_MAX: Final = 0.005
"""After a full collection that took longer, what survived it is taken out of later ones, a bounded number of times:
cycles that become garbage afterwards stay in memory."""
FREEZES_MAX: Final = 16


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


class _Collections:
    """Keeps full garbage collections short."""

    def __init__(self) -> None:
        self._begun_at, self._freezes_left = 0.0, FREEZES_MAX

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        """Look at the beginning and the end of a collection."""
        if info["generation"] < _OLDEST:
            return
        if phase == "start":
            self._begun_at = time.perf_counter()
        elif self._freezes_left and time.perf_counter() - self._begun_at > COLLECTION_SECONDS_MAX:
            self._freezes_left -= 1
            gc.freeze()


_OLDEST: Final = 2


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the rest of the process from holding up its event loop: threads that work give way soon, and a full garbage
    collection, during which nobody is served, does not look at what is there for good."""
    before, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(*THRESHOLDS)
    gc.freeze()
    loop, collections = asyncio.get_running_loop(), _Collections()
    timers = [loop.call_later(seconds, gc.freeze) for seconds in FREEZE_AFTER_SECONDS]
    gc.callbacks.append(collections)
    try:
        yield
    finally:
        gc.callbacks.remove(collections)
        for timer in timers:
            timer.cancel()
        gc.unfreeze()
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(before)

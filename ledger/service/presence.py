"""Whether the caller of the current request is still there, for code that waits on its behalf."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class CallerLeftError(Exception):
    """The caller has gone, so nobody reads the answer."""


class _Presence:
    def __init__(self, until_left: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._until_left = until_left
        self._left: asyncio.Task[None] | None = None

    @property
    def left(self) -> asyncio.Task[None]:
        # Only code that waits asks, so that all other requests cost nothing.
        if self._left is None:
            self._left = asyncio.ensure_future(self._until_left())
        return self._left

    def end(self) -> None:
        if self._left is not None:
            self._left.cancel()


_presence: ContextVar[_Presence | None] = ContextVar("presence", default=None)


@contextmanager
def watched(until_left: Callable[[], Coroutine[Any, Any, None]]) -> Iterator[None]:
    """Mark what runs within as work for a caller. until_left: returns when that caller has gone."""
    presence = _Presence(until_left)
    token = _presence.set(presence)
    try:
        yield
    finally:
        _presence.reset(token)
        presence.end()


def left() -> asyncio.Task[None] | None:
    """Return a task that ends when the caller has gone; None if there is no caller to watch."""
    presence = _presence.get()
    return None if presence is None else presence.left

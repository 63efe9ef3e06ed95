"""Futures that a thread answers: of threads that wait, and of coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

AnyFuture = Future[Any] | asyncio.Future[Any]
_Answers = Sequence[tuple[asyncio.Future[Any], Any]]


def begins(future: AnyFuture) -> bool:
    """Return whether somebody still waits. From here on a thread's future can no longer be cancelled, and the
    answer to a coroutine that was cancelled is dropped."""
    if isinstance(future, asyncio.Future):
        return not future.cancelled()
    return future.set_running_or_notify_cancel()


def deliver(answers: Sequence[tuple[AnyFuture, Any]]) -> None:
    """Give everybody who waits their answer, an exception or a result; those on an event loop all at once, since each
    waking of a loop costs as much as an answer."""
    on_loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for future, answer in answers:
        if isinstance(future, asyncio.Future):
            on_loops.setdefault(future.get_loop(), []).append((future, answer))
        else:
            _set(future, answer)
    for loop, some in on_loops.items():
        with suppress(RuntimeError):  # the loop has ended, and who waited with it
            loop.call_soon_threadsafe(_set_all, some)


def _set_all(answers: _Answers) -> None:
    for future, answer in answers:
        if not future.done():
            _set(future, answer)


def _set(future: AnyFuture, answer: Any) -> None:
    if isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)

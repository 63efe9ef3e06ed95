"""End long computations: at a moment of the monotonic clock, or as soon as the caller stops.

The caller sets the limit with `until`; every loop that could take long calls `check`. The exceptions are not errors of
the ledger, so that no caller on the way takes one for an unknown cost and charges another: no amount ever depends on
how long it took.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Event
from time import monotonic


class Expired(Exception):
    """A computation took longer than it may."""


class Stopped(Exception):
    """The caller stopped, so the computation ends."""


@dataclass(frozen=True, slots=True)
class _Limit:
    at_seconds: float
    stop: Event


_limit: ContextVar[_Limit | None] = ContextVar("limit", default=None)


@contextmanager
def until(at_seconds: float, stop: Event) -> Iterator[None]:
    """End what runs within this context at its next `check` after this moment of `time.monotonic`, or when `stop` is
    set."""
    token = _limit.set(_Limit(at_seconds, stop))
    try:
        yield
    finally:
        _limit.reset(token)


def check() -> None:
    """Raise Stopped or Expired if the computation must end. Without a limit it never raises."""
    limit = _limit.get()
    if limit is None:
        return
    if limit.stop.is_set():
        raise Stopped
    if monotonic() >= limit.at_seconds:
        raise Expired

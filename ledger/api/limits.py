"""How often: token buckets for keys, a narrow lane for callers that are not known yet, and a bound on all together.

Everything counts in this process alone, in memory that is bounded, and decides without waiting.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Hashable
from contextlib import asynccontextmanager
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

from cachetools import LRUCache
from starlette.types import ASGIApp, Receive, Scope, Send

from ledger.api.problems import of_error
from ledger.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BUCKETS_MAX: Final = 10_000
RECOGNISED_AT_ONCE_MAX: Final = 4
WAITING_MAX: Final = 64


class Buckets:
    """A token bucket for each of many: `burst` at once, and then `per_second`.

    Whoever was not seen for longest is forgotten when there are too many, which fills their bucket again.
    """

    def __init__(
        self, *, per_second: float, burst: int, size: int = BUCKETS_MAX, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._buckets = LRUCache[Hashable, tuple[float, float]](size)

    def wait_of(self, who: Hashable) -> float:
        """The seconds until there is a token; 0 where there is one."""
        return max(0.0, (1 - self._left(who)) / self._per_second)

    def take(self, who: Hashable) -> None:
        """Takes a token, where there is one."""
        self._buckets[who] = (max(0.0, self._left(who) - 1), self._clock())

    def _left(self, who: Hashable) -> float:
        left, at = self._buckets.get(who, (self._burst, 0.0))
        return min(float(self._burst), left + (self._clock() - at) * self._per_second)


def seconds(wait: float) -> int:
    """A wait as Retry-After says it."""
    return max(1, math.ceil(wait))


def neighbourhood(address: str) -> str:
    """What stands for a client's address: all of IPv4, and of IPv6 the half that a network is given, not the half that
    its every machine may choose."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:64]
    return f"{IPv6Address(int(parsed) >> 64 << 64)}/64" if isinstance(parsed, IPv6Address) else str(parsed)


class Lane:
    """A few at a time, and a bounded number who wait. Belongs to one event loop."""

    def __init__(self, *, at_once: int = RECOGNISED_AT_ONCE_MAX, waiting_max: int = WAITING_MAX) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._free = at_once + waiting_max

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a turn. Raises Overloaded where too many do."""
        if self._free <= 0:
            raise Overloaded("Too many callers wait to be recognised.")
        self._free -= 1
        try:
            async with self._turns:
                yield
        finally:
            self._free += 1


class Crowd:
    """Answers 503 to a call of /v1 while `requests_max` are being served, so that what waits in memory is bounded.

    Whether the process lives can be asked all the same.
    """

    def __init__(self, app: ASGIApp, *, requests_max: int) -> None:
        self.app, self._free = app, requests_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1"):
            await self.app(scope, receive, send)
        elif self._free <= 0:
            await of_error(Overloaded("Too many requests are being served."))(scope, receive, send)
        else:
            self._free -= 1
            try:
                await self.app(scope, receive, send)
            finally:
                self._free += 1

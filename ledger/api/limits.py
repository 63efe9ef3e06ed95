"""Limits: token buckets for keys, narrow lanes for unknown callers, and shares of a process's room for each tenant.

Everything counts in this process only, in bounded memory, and decides without waiting.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import Final, Generic, TypeVar

import anyio
import anyio.to_thread
from cachetools import LRUCache
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger.access.roles import Caller, Operator
from ledger.api.problems import of_error
from ledger.errors import Overloaded

BUCKETS_MAX: Final = 10_000
RECOGNISED_AT_ONCE_MAX: Final = 4
WAITING_MAX: Final = 64
PIECE_BYTES_MAX: Final = 64 * 1024
_ALL: Final = "all"
T = TypeVar("T")


class Buckets:
    """A token bucket for each key: `burst` requests at once, then `per_second`.

    When there are too many buckets, the one unused for longest is forgotten, which fills it again.
    """

    def __init__(
        self, *, per_second: float, burst: int, size: int = BUCKETS_MAX, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._buckets = LRUCache[Hashable, tuple[float, float]](size)

    def wait_of(self, who: Hashable) -> float:
        """Return the seconds until a token is available; 0 if one is."""
        return max(0.0, (1 - self._left(who)) / self._per_second)

    def take(self, who: Hashable) -> None:
        """Take a token, if one is available."""
        self._buckets[who] = (max(0.0, self._left(who) - 1), self._clock())

    def _left(self, who: Hashable) -> float:
        left, at = self._buckets.get(who, (self._burst, 0.0))
        return min(float(self._burst), left + (self._clock() - at) * self._per_second)


def seconds(wait: float) -> int:
    """Return a wait in the form of Retry-After."""
    return max(1, math.ceil(wait))


def neighbourhood(address: str) -> str:
    """Return the key of a client's address: all of an IPv4 address; of an IPv6 address the network's half, because
    every machine can choose the other half."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:64]
    return f"{IPv6Address(int(parsed) >> 64 << 64)}/64" if isinstance(parsed, IPv6Address) else str(parsed)


class Lane:
    """Lets a few callers through at a time, and a bounded number wait. Belongs to one event loop."""

    def __init__(self, *, at_once: int = RECOGNISED_AT_ONCE_MAX, waiting_max: int = WAITING_MAX) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._free = at_once + waiting_max

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn. Raises Overloaded if too many wait."""
        if self._free <= 0:
            raise Overloaded("Too many callers are waiting to be recognised. Try again later.")
        self._free -= 1
        try:
            async with self._turns:
                yield
        finally:
            self._free += 1


class Shares:
    """A bounded amount of room, of which no tenant and no key can take everything. Any thread may use it.

    unit: what is counted, as it reads after a number. per_key: None lets a key take all that its tenant may.
    """

    def __init__(
        self, unit: str, *, total: int, per_tenant: int, per_key: int | None = None, retry_after_seconds: int = 1
    ) -> None:
        self._unit, self._retry_after_seconds = unit, retry_after_seconds
        self._total, self._per_tenant = total, per_tenant
        self._per_key = per_tenant if per_key is None else per_key
        self._taken = Counter[Hashable]()
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """Return how much is taken by all callers together."""
        return self._taken[_ALL]

    def take(self, caller: Caller, amount: int = 1) -> None:
        """Take room. Raises Overloaded if there is not enough for this caller."""
        tenant, key = _shares_of(caller)
        taken = self._taken
        with self._lock:
            for who, bound, whose in (
                (_ALL, self._total, "all callers together"),
                (tenant, self._per_tenant, "one tenant"),
                (key, self._per_key, "one key"),
            ):
                if taken[who] + amount > bound:
                    raise Overloaded(
                        (
                            f"The server is busy: one process allows {bound} {self._unit} at once for {whose}. Try"
                            f" again after {self._retry_after_seconds} s."
                        ),
                        retry_after_seconds=self._retry_after_seconds,
                    )
            for who in (_ALL, tenant, key):
                taken[who] += amount

    def give(self, caller: Caller, amount: int = 1) -> None:
        """Give back room that was taken."""
        taken = self._taken
        with self._lock:
            for who in (_ALL, *_shares_of(caller)):
                taken[who] -= amount
                if not taken[who]:
                    del taken[who]

    @contextmanager
    def one(self, caller: Caller) -> Iterator[None]:
        """Take one unit for the duration of the block. Raises Overloaded."""
        self.take(caller)
        try:
            yield
        finally:
            self.give(caller)


def _shares_of(caller: Caller) -> tuple[Hashable, Hashable]:
    """Return under what a caller's tenant and key are counted."""
    return ("tenant", None if isinstance(caller, Operator) else caller.tenant_id), ("key", caller.key_id)


class Crowd:
    """Answers 503 to a recognised caller while too many requests are served, so that memory stays bounded.

    Unknown callers do not count here: they are answered after the request's head, or wait in a `Lane` of their own.
    """

    def __init__(self, app: ASGIApp, *, requests: Shares) -> None:
        self.app, self._requests = app, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = caller_of(scope)
        if caller is None:
            await self.app(scope, receive, send)
            return
        try:
            self._requests.take(caller)
        except Overloaded as error:
            await of_error(error)(scope, receive, send)
            return
        try:
            await self.app(scope, receive, partial(in_pieces, send))
        finally:
            self._requests.give(caller)


async def in_pieces(send: Send, message: Message) -> None:
    """Send a large answer in pieces, so that a request counts as served until the client has taken most of it."""
    body = memoryview(message.get("body", b""))
    while len(body) > PIECE_BYTES_MAX:
        await send({"type": message["type"], "body": body[:PIECE_BYTES_MAX], "more_body": True})
        body = body[PIECE_BYTES_MAX:]
        message = {**message, "body": body}
    await send(message)


def caller_of(scope: Scope) -> Caller | None:
    """Return the recognised caller of this request, or None."""
    caller: Caller | None = scope.get("state", {}).get("caller")
    return caller


class Together(Generic[T]):
    """Work that one thread does at a time; callers who ask while it runs get the same answer."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work, self._thread = work, anyio.CapacityLimiter(1)
        self._under_way: asyncio.Task[T] | None = None

    async def ask(self) -> T:
        """Return the answer of the work that is running, or else of new work."""
        if self._under_way is None or self._under_way.done():
            self._under_way = asyncio.create_task(anyio.to_thread.run_sync(self._work, limiter=self._thread))
        return await asyncio.shield(self._under_way)

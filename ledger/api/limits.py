"""How often and how much: token buckets for keys, narrow lanes for callers that are not known yet, and shares of a
process's room, of which no tenant takes all.

Everything counts in this process alone, in memory that is bounded, and decides without waiting.
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


class Shares:
    """Room for so much at once, of which no tenant and no key takes all. Any thread may ask.

    unit: what is counted, as it stands after a number. per_key: None is that a key may take all that its tenant may.
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
        """How much is taken, by all together."""
        return self._taken[_ALL]

    def take(self, caller: Caller, amount: int = 1) -> None:
        """Takes room. Raises Overloaded if there is not so much for this caller."""
        with self._lock:
            for who, whose, bound in self._bounds(caller):
                if self._taken[who] + amount > bound:
                    raise Overloaded(
                        f"There is no room for this request: {bound} {self._unit} at once is the limit of a process for"
                        f" {whose}. Try again after {self._retry_after_seconds} s.",
                        retry_after_seconds=self._retry_after_seconds,
                    )
            for who, _, _ in self._bounds(caller):
                self._taken[who] += amount

    def give(self, caller: Caller, amount: int = 1) -> None:
        """Gives back what was taken."""
        with self._lock:
            for who, _, _ in self._bounds(caller):
                self._taken[who] -= amount
                if not self._taken[who]:
                    del self._taken[who]

    @contextmanager
    def one(self, caller: Caller) -> Iterator[None]:
        """Takes one, for a while. Raises Overloaded."""
        self.take(caller)
        try:
            yield
        finally:
            self.give(caller)

    def _bounds(self, caller: Caller) -> tuple[tuple[Hashable, str, int], ...]:
        tenant = None if isinstance(caller, Operator) else caller.tenant_id
        return (
            (_ALL, "all callers together", self._total),
            (("tenant", tenant), "one tenant", self._per_tenant),
            (("key", caller.key_id), "one key", self._per_key),
        )


class Crowd:
    """Answers 503 to a recognised caller while too many are served, so that what waits in memory is bounded.

    Strangers are not in it: they are answered from their request's head, or wait in a `Lane` of their own.
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
            await self.app(scope, receive, partial(_in_pieces, send))
        finally:
            self._requests.give(caller)


async def _in_pieces(send: Send, message: Message) -> None:
    """Sends a large answer piece by piece: so a request is being served until the client has taken most of it."""
    body = memoryview(message.get("body", b""))
    while len(body) > PIECE_BYTES_MAX:
        await send({"type": message["type"], "body": body[:PIECE_BYTES_MAX], "more_body": True})
        body = body[PIECE_BYTES_MAX:]
        message = {**message, "body": body}
    await send(message)


def caller_of(scope: Scope) -> Caller | None:
    """Who was recognised on this request, if anybody was."""
    caller: Caller | None = scope.get("state", {}).get("caller")
    return caller


class Together(Generic[T]):
    """Work that one thread does at a time, apart from the threads of requests: who asks meanwhile gets that answer."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work, self._thread = work, anyio.CapacityLimiter(1)
        self._under_way: asyncio.Task[T] | None = None

    async def ask(self) -> T:
        """The answer of the work that is under way, or else of new work."""
        if self._under_way is None or self._under_way.done():
            self._under_way = asyncio.create_task(anyio.to_thread.run_sync(self._work, limiter=self._thread))
        return await asyncio.shield(self._under_way)

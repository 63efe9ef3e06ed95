"""One computation for all callers who need the same value: remembered values, and running searches.

A search ends when nobody waits for it any more. A wait that took too long counts as ended, except for a decision:
the caller must repeat the request for a run, so the computation is still needed, and is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar
from uuid import UUID

from cachetools import LRUCache

from ledger.errors import Overloaded, TooLarge
from ledger.service import presence
from ledger.service.presence import CallerLeftError
from ledger.service.turns import Job, Turns, Urgency, stopped

COMPUTATION_SECONDS_MAX: Final = 60
"""The time limit of one certificate. It takes a few seconds at most; one that takes longer would not end."""

T = TypeVar("T")
Key = tuple[UUID, bytes]


class Begun(Protocol[T]):
    """Takes its turn for some work, and waits for it."""

    async def __call__(
        self,
        tenant_id: UUID,
        work: Callable[[], T],
        *,
        then: Callable[[T], None] | None = None,
        limit_seconds: float = COMPUTATION_SECONDS_MAX,
    ) -> T:
        """Return the result of the work. Arguments and errors as for `Turns.submit`."""


class _Flight(Generic[T]):
    """A search, its waiters, and its job once it has one."""

    def __init__(self, urgency: Urgency) -> None:
        self.urgency = urgency
        self.waiting = 0
        self.is_kept = False
        self.job: Job[T] | None = None
        self.task: asyncio.Task[T]


class Flights(Generic[T]):
    """Values by key, of which the least recently used are dropped, and the running searches, one for each key.

    Belongs to one event loop, so nothing here is locked.
    """

    def __init__(self, size: int, turns: Turns, *, seconds_max: float) -> None:
        self._seconds_max, self._turns = seconds_max, turns
        self._values = LRUCache[Key, T](size)
        self._flights: dict[Key, _Flight[T]] = {}

    async def get(
        self, key: Key, find: Callable[[Begun[T]], Coroutine[Any, Any, T]], *, urgency: Urgency = Urgency.DECISION
    ) -> T:
        """Return the value of a key; if it is not known, compute it with `find`.

        Raises what `find` raises, TooLarge or Overloaded if it takes too long, and CallerLeftError.
        """
        if key in self._values:
            return self._values[key]
        left = presence.left()
        if left is not None and left.done():
            raise CallerLeftError
        flight = self._flights.get(key) or self._begin(key, find, urgency)
        self._hasten(flight, urgency)
        flight.waiting += 1
        try:
            ends = {flight.task} if left is None else {flight.task, left}
            await asyncio.wait(ends, timeout=self._seconds_max, return_when=asyncio.FIRST_COMPLETED)
            if not flight.task.done():
                if left is not None and left.done():
                    raise CallerLeftError
                raise self._late(flight, urgency)
        finally:
            flight.waiting -= 1
            if not (flight.waiting or flight.is_kept or flight.task.done()):
                self._drop(key, flight)
        if flight.task.cancelled():
            raise stopped()
        return flight.task.result()

    def _begin(self, key: Key, find: Callable[[Begun[T]], Coroutine[Any, Any, T]], urgency: Urgency) -> _Flight[T]:
        flight = _Flight[T](urgency)
        flight.task = asyncio.ensure_future(find(partial(self._begun, flight)))
        self._flights[key] = flight
        flight.task.add_done_callback(partial(self._landed, key, flight))
        return flight

    async def _begun(
        self,
        flight: _Flight[T],
        tenant_id: UUID,
        work: Callable[[], T],
        *,
        then: Callable[[T], None] | None = None,
        limit_seconds: float = COMPUTATION_SECONDS_MAX,
    ) -> T:
        flight.job = self._turns.submit(tenant_id, work, then=then, urgency=flight.urgency, limit_seconds=limit_seconds)
        return await asyncio.wrap_future(flight.job.answer)

    def _hasten(self, flight: _Flight[T], urgency: Urgency) -> None:
        flight.urgency = min(flight.urgency, urgency)
        if flight.job is not None:
            self._turns.promote(flight.job, urgency)

    def _drop(self, key: Key, flight: _Flight[T]) -> None:
        """End a search that nobody waits for: the next caller starts a new one."""
        if self._flights.get(key) is flight:
            del self._flights[key]
        if flight.job is not None:
            self._turns.drop(flight.job)
        flight.task.cancel()

    def _landed(self, key: Key, flight: _Flight[T], task: asyncio.Task[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if task.cancelled() or task.exception() is not None:
            return  # retrieved here because nobody may be left to do so, which asyncio would complain about
        self._values[key] = task.result()

    def _late(self, flight: _Flight[T], urgency: Urgency) -> TooLarge | Overloaded:
        if flight.job is None or not flight.job.is_running:
            return Overloaded(
                "Too many costs are waiting to be computed. Try again after `retry_after_seconds`.",
                retry_after_seconds=5,
            )
        flight.is_kept |= urgency is Urgency.DECISION
        hint = "it is still being computed and will be kept: ask again later" if flight.is_kept else "ask again later"
        return TooLarge(
            (
                f"mechanism: computing its certificate takes longer than {self._seconds_max:g} seconds; {hint}, or"
                " declare less in one run"
            ),
            field="mechanism",
            seconds_max=self._seconds_max,
        )

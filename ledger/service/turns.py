"""A few threads that all tenants share in turns: however much one tenant asks for, the others do not wait for it.

Free threads take waiting jobs by urgency, then by tenant, one job of each in turn, then by age. A tenant has at most
one job of an urgency in the threads, and advice never has all of them. So a decision waits for at most one job of
another tenant, and never for its own tenant's advice. A job that takes long moves to a slow place, if one is free, and
its own place is free for another job: so nobody waits long behind a few long jobs. A job that nobody waits for any more
is dropped.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from enum import IntEnum
from time import monotonic
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from ledger.accounting import deadline
from ledger.errors import Overloaded, TooLarge

WAITING_MAX: Final = 1024
WAITING_OF_TENANT_MAX: Final = 16
"""The most jobs that may wait or run: in total, and of one tenant for each urgency."""
RUNNING_OF_TENANT_MAX: Final = 1
"""The most threads that a tenant may have at once, for each urgency."""
SLOW_SECONDS: Final = 2.0
"""A job that has run for so long moves to a slow place."""

T = TypeVar("T")


class Urgency(IntEnum):
    """What goes first. DECISION: a run waits for it, to begin or to end. ADVICE: somebody would like to know."""

    DECISION = 0
    ADVICE = 1


class Job(Generic[T]):
    """Work that waits for its turn, or has it. answer: its result."""

    def __init__(
        self,
        tenant_id: UUID,
        urgency: Urgency,
        work: Callable[[], T],
        then: Callable[[T], None] | None,
        limit_seconds: float,
    ) -> None:
        self.tenant_id, self.urgency = tenant_id, urgency
        self.answer: Future[T] = Future()
        self.stop = threading.Event()
        self.limit_seconds = limit_seconds
        self.begun_at = 0.0
        self._work, self._then = work, then

    @property
    def is_running(self) -> bool:
        """Return whether the job has its turn."""
        return self.answer.running()

    def run(self, on_done: Callable[[float], None]) -> None:
        """Do the work, answer, and only then pass the result on."""
        if not self.answer.set_running_or_notify_cancel():
            return
        try:
            value = self._timed(on_done)
        except BaseException as error:
            self.answer.set_exception(error)
            return
        self.answer.set_result(value)
        if self._then is not None:
            self._then(value)

    def _timed(self, on_done: Callable[[float], None]) -> T:
        begun = time.perf_counter()
        try:
            with deadline.until(monotonic() + self.limit_seconds, self.stop):
                return self._work()
        except deadline.Expired as error:
            raise TooLarge(
                (
                    f"mechanism: computing its certificate takes longer than {self.limit_seconds:g} seconds;"
                    " declare less in one run"
                ),
                field="mechanism",
                seconds_max=self.limit_seconds,
            ) from error
        except deadline.Stopped as error:
            raise stopped() from error
        finally:
            on_done(time.perf_counter() - begun)


def stopped() -> Overloaded:
    """Return the error for work that was not finished."""
    return Overloaded("The ledger is shutting down. Try again in a moment.", retry_after_seconds=5)


class Turns:
    """Threads, and the jobs that wait for them, by urgency and tenant."""

    def __init__(
        self,
        *,
        threads: int,
        name: str,
        slow: int = 0,
        of_tenant_max: int | None = None,
        on_done: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        """slow: how many slow places there are, each with one more thread. of_tenant_max: how many jobs of a tenant may
        wait or run. on_done: is called for each job with the seconds it took."""
        self._on_done = on_done
        self._places, self._slow_places = threads, slow
        self._of_tenant_max = of_tenant_max or WAITING_OF_TENANT_MAX
        self._advised_max = max(threads - 1, 1)
        self._changed = threading.Condition()
        self._queues: dict[Urgency, OrderedDict[UUID, deque[Job[Any]]]] = {kind: OrderedDict() for kind in Urgency}
        self._running: set[Job[Any]] = set()
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}_{number}", daemon=True)
            for number in range(threads + slow)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        tenant_id: UUID,
        work: Callable[[], T],
        *,
        urgency: Urgency,
        limit_seconds: float,
        then: Callable[[T], None] | None = None,
    ) -> Job[T]:
        """Queue the work. then: is called with its result, after it was answered.

        The answer is TooLarge if the work takes longer than its limit, and Overloaded if the threads end before that.
        Raises Overloaded if too much waits.
        """
        job = Job(tenant_id, urgency, work, then, limit_seconds)
        with self._changed:
            if self._is_closed:
                raise stopped()
            own = self._waiting()
            if own.total() >= WAITING_MAX or own[tenant_id, urgency] >= self._of_tenant_max:
                raise Overloaded(
                    "Too many costs are waiting to be computed. Try again after `retry_after_seconds`.",
                    retry_after_seconds=5,
                )
            self._enqueue(job)
            self._changed.notify()
        return job

    def promote(self, job: Job[Any], urgency: Urgency) -> None:
        """Raise a job's urgency: somebody with a higher urgency waits for it."""
        with self._changed:
            if urgency < job.urgency and self._withdraw(job):
                job.urgency = urgency
                self._enqueue(job)
                self._changed.notify()

    def drop(self, job: Job[Any]) -> None:
        """Drop a job that nobody waits for any more: it never gets its turn, or ends at its next `deadline.check`."""
        with self._changed:
            self._withdraw(job)
            job.stop.set()
        job.answer.cancel()  # does nothing to a job that runs

    def close(self) -> None:
        """End the threads, and running jobs at their next `deadline.check`. Waiting ones are answered Overloaded."""
        with self._changed:
            self._is_closed = True
            for job in self._running:
                job.stop.set()
            left = [job for queues in self._queues.values() for queue in queues.values() for job in queue]
            for queues in self._queues.values():
                queues.clear()
            self._changed.notify_all()
        for job in left:
            if job.answer.set_running_or_notify_cancel():
                job.answer.set_exception(stopped())
        for thread in self._threads:
            thread.join()

    @property
    def waiting(self) -> int:
        """Return how many jobs wait or run."""
        with self._changed:
            return self._waiting().total()

    # --- inside the lock

    def _waiting(self) -> Counter[tuple[UUID, Urgency]]:
        counts = Counter((job.tenant_id, job.urgency) for job in self._running)
        for urgency, queues in self._queues.items():
            for tenant_id, queue in queues.items():
                counts[tenant_id, urgency] += len(queue)
        return counts

    def _enqueue(self, job: Job[Any]) -> None:
        self._queues[job.urgency].setdefault(job.tenant_id, deque()).append(job)

    def _withdraw(self, job: Job[Any]) -> bool:
        """Take a job out of its queue. Return False if it is in none."""
        queues = self._queues[job.urgency]
        queue = queues.get(job.tenant_id, deque())
        if job not in queue:
            return False
        queue.remove(job)
        if not queue:
            del queues[job.tenant_id]
        return True

    def _in_places(self) -> list[Job[Any]]:
        """Return the running jobs that are in no slow place. Decisions get slow places first, then who began first."""
        slow = [job for job in self._running if monotonic() - job.begun_at >= SLOW_SECONDS]
        moved = set(sorted(slow, key=lambda job: (job.urgency, job.begun_at))[: self._slow_places])
        return [job for job in self._running if job not in moved]

    def _next(self) -> Job[Any] | None:
        """Take out the job whose turn it is, if one may begin now."""
        in_places = self._in_places()
        if len(in_places) >= self._places:
            return None
        running = Counter((job.tenant_id, job.urgency) for job in self._running)
        advised = sum(job.urgency is Urgency.ADVICE for job in in_places)
        for urgency, queues in self._queues.items():
            if urgency is Urgency.ADVICE and advised >= self._advised_max:
                continue
            for tenant_id, queue in queues.items():
                if running[tenant_id, urgency] < RUNNING_OF_TENANT_MAX:
                    job = queue.popleft()
                    del queues[tenant_id]
                    if queue:
                        queues[tenant_id] = queue  # behind all others
                    return job
        return None

    def _seconds_to_next(self) -> float | None:
        """Return when a job moves to a slow place next, for which another one may wait; None: never."""
        if not self._slow_places or not any(self._queues.values()):
            return None
        now = monotonic()
        left = [job.begun_at + SLOW_SECONDS - now for job in self._running if now - job.begun_at < SLOW_SECONDS]
        return min(left, default=None)

    def _serve(self) -> None:
        while True:
            with self._changed:
                while (job := self._next()) is None:
                    if self._is_closed:
                        return
                    self._changed.wait(self._seconds_to_next())
                job.begun_at = monotonic()
                self._running.add(job)
                self._changed.notify()  # what waits still may begin when this job moves to a slow place
            try:
                job.run(self._on_done)
            finally:
                with self._changed:
                    self._running.discard(job)
                    self._changed.notify_all()

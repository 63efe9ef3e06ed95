"""Certified costs that are dear to compute: in memory, in the database, or worked out beside the event loop.

A cost is a function of what was declared alone, so it is computed once: the process remembers it, the table
`certificates` keeps it for other processes and the next start, and requests for the same parameters share one
computation. Everything is a tenant's own, memory included, so that no tenant learns from an answer's speed what another
one trains. Computations run in a few threads behind a bounded queue; what does not fit into it is answered 503.

This is a cache and no record. A row that is lost, cannot be read or cannot be written costs time and nothing else.

What it means to trust a row: whoever can write to the database could put a lower cost there, and later runs with the
same parameters would be charged it. That is why a journal entry carries the mechanism, bound, adjacency, delta and
accountant beside the cost: whoever computes the cost anew from the entry finds the difference, with no row of this
table. Emptying the table is always safe.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from functools import partial
from time import monotonic
from typing import Any, Final, Generic, Protocol, TypeVar
from uuid import UUID

from cachetools import LRUCache

from ledger.accounting import ACCOUNTANT, amounts, costs, deadline
from ledger.accounting.cost import Cost
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.datasets import Adjacency
from ledger.core.journal import chain
from ledger.errors import Overloaded, TooLarge
from ledger.store import Store

log = logging.getLogger(__name__)

THREADS: Final = 2
WAITING_MAX: Final = 64
WAITING_OF_TENANT_MAX: Final = 16
"""How many computations may wait or run, of everybody's and of one tenant's."""
COMPUTATION_SECONDS_MAX: Final = 60
"""How long one certificate may take; it takes a few seconds at most, so that what takes longer would never end."""
INVERSION_SECONDS_MAX: Final = 600
"""How long a search may take that computes many of them."""
COSTS_MAX: Final = 4096
RESULTS_MAX: Final = 1024
ROWS_OF_TENANT_MAX: Final = 10_000
RUNS_OF_A_LIMIT: Final = 100
"""A run that names no delta takes this part of the limit's."""

T = TypeVar("T")
Key = tuple[UUID, bytes]
_Begun = Callable[[Future[T]], Awaitable[T]]
"""Waits for a computation, and lets those who wait for it know whether its turn has come."""


class Compute(Protocol):
    """What works a cost out: `costs.cost`."""

    def __call__(self, mechanism: AnyMechanism, terms: Terms, /) -> Cost: ...


class Certificates:
    """Costs of mechanisms, from wherever they come soonest. Its coroutines belong to one event loop."""

    def __init__(
        self,
        store: Store,
        *,
        seconds_max: float,
        threads: int = THREADS,
        rows_max: int = ROWS_OF_TENANT_MAX,
        compute: Compute = costs.cost,
        on_computed: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        """on_computed: is told of each computation how many seconds it took."""
        self._store, self._rows_max, self._compute = store, rows_max, compute
        self._pool = _Pool(threads=threads, on_computed=on_computed)
        self._costs = _Flights[Cost](COSTS_MAX, seconds_max=seconds_max)
        self._results = _Flights[Any](RESULTS_MAX, seconds_max=seconds_max)

    def close(self) -> None:
        """Ends the threads, and what runs in them at its next `deadline.check`; those that wait are dropped."""
        self._pool.close()

    @property
    def waiting(self) -> int:
        """How many computations wait for their turn or run."""
        return self._pool.waiting

    async def cost(self, tenant_id: UUID, mechanism: AnyMechanism, terms: Terms) -> Cost:
        """What `costs.cost` says. However many segments there are, they are alike: one certificate is computed.

        Raises InvalidRequest and TooLarge as that does, TooLarge also when the computation outlasts the wait (it goes
        on, and its result is kept) or takes longer than any may, and Overloaded where it does not get its turn.
        """
        if not costs.needs_certificate(mechanism, bound=terms.bound):
            return self._compute(mechanism, terms)
        work = partial(self._compute, mechanism, terms)
        key = tenant_id, digest_of(mechanism, terms)

        async def find(begun: _Begun[Cost]) -> Cost:
            row = await asyncio.to_thread(self._look_up, key)
            if row is not None:
                return row
            return await begun(self._pool.submit(tenant_id, work, then=partial(self._keep, key)))

        return await self._costs.get(key, find)

    async def frontier(
        self, tenant_id: UUID, mechanism: AnyMechanism, *, adjacency: Adjacency
    ) -> list[tuple[float, float]]:
        """Pairs (delta, mu), each a certificate of the mechanism; none where it needs none. Raises as `cost` does."""
        compute = partial(costs.frontier, mechanism, bound="certified", adjacency=adjacency)
        facts = {"frontier": mechanism.model_dump(exclude_none=True), "adjacency": adjacency}
        return await self.beside(tenant_id, compute, key=facts)

    async def beside(
        self,
        tenant_id: UUID,
        compute: Callable[[], T],
        *,
        key: Mapping[str, Any],
        limit_seconds: float = COMPUTATION_SECONDS_MAX,
    ) -> T:
        """Runs what computes certificates as `cost` does: in the same threads, once for all who ask.

        limit_seconds: how long the computation may take. key: what tells it from any other, in the terms of
        `journal.canonical`. The process remembers the result. Raises what `compute` does, and TooLarge and Overloaded
        as `cost` does.
        """

        async def find(begun: _Begun[T]) -> T:
            return await begun(self._pool.submit(tenant_id, compute, limit_seconds=limit_seconds))

        digest = chain.digest(chain.canonical({"accountant": ACCOUNTANT, **key}))
        result: T = await self._results.get((tenant_id, digest), find)
        return result

    # --- the database

    def _look_up(self, key: Key) -> Cost | None:
        tenant_id, digest = key
        try:
            with self._store.reading(tenant_id) as reading:
                body = reading.certificates.body(digest)
            return None if body is None else read(body)
        except Exception as error:  # whatever is wrong with a cache, the cost can be computed
            log.warning("the certificate %s could not be read: %s", digest.hex(), error)
            return None

    def _keep(self, key: Key, cost: Cost) -> None:
        tenant_id, digest = key
        try:
            body = written(cost)
            with self._store.writing(tenant_id) as writing:
                writing.certificates.keep(digest, body, now_us=writing.now_us(), rows_max=self._rows_max)
        except Exception as error:  # the request that it was computed for has its answer already
            log.warning("the certificate %s was not kept: %s", digest.hex(), error)


def share_of(limit: Amount) -> Decimal:
    """The delta of a run that names none: a hundredth of the limit's, to six digits, such that a hundred of them fit.

    Where a hundredth is less than the least that can be charged, that; 0 where the limit leaves no room for it.
    """
    if 0 < limit.delta_atto < RUNS_OF_A_LIMIT:
        return Context(prec=6, rounding=ROUND_FLOOR).plus(_delta(1)).normalize()
    hundredth = Context(prec=6).divide(_delta(limit.delta_atto), Decimal(RUNS_OF_A_LIMIT))
    # A charge is rounded up to a whole 1e-18, a limit down.
    most = Context(prec=6, rounding=ROUND_FLOOR).plus(_delta(limit.delta_atto // RUNS_OF_A_LIMIT))
    return min(hundredth, most).normalize()


def _delta(atto: int) -> Decimal:
    """1 - exp(-atto·1e-18), to sixty digits."""
    exact = Context(prec=60)
    return exact.subtract(Decimal(1), exact.exp(exact.divide(Decimal(-atto), Decimal(amounts.ATTO))))


# --- keys and rows ---------------------------------------------------------------------------------------------------


def digest_of(mechanism: AnyMechanism, terms: Terms) -> bytes:
    """What a cost is kept under: SHA-256 of all that it depends on. Numbers of one value (1.10 and 1.1) are alike."""
    facts = terms.facts()
    facts["accountant"], facts["mechanism"] = ACCOUNTANT, mechanism.model_dump(exclude_none=True)
    return chain.digest(chain.canonical(facts))


def written(cost: Cost) -> str:
    """A cost as canonical JSON, with mu as the double's shortest decimal, and mu² and nats as exact fractions.

    Raises ValueError where a fraction has more digits than Python writes.
    """
    return chain.canonical(
        {
            "mu": Decimal(repr(cost.mu)),
            "mu_sq": _ratio(cost.mu_sq),
            "nats": _ratio(cost.nats),
            "method": cost.method,
            "assumptions": cost.assumptions,
        }
    )


def read(body: str) -> Cost:
    """What `written` wrote. Raises ValueError, KeyError or TypeError on anything else."""
    row: dict[str, Any] = chain.parse(body)
    mu, mu_sq, nats = float(row["mu"]), Fraction(row["mu_sq"]), Fraction(row["nats"])
    if not (math.isfinite(mu) and mu >= 0 and mu_sq >= 0 and nats >= 0):
        raise ValueError("a cost is finite and not negative")
    cost = Cost(mu, mu_sq, nats, str(row["method"]), tuple(map(str, row["assumptions"])))
    if written(cost) != body:  # any other type, form or member
        raise ValueError("is not a cost in canonical form")
    return cost


def _ratio(value: Fraction) -> str:
    return f"{value.numerator}/{value.denominator}"


# --- one computation for all who ask ---------------------------------------------------------------------------------


class _Flights(Generic[T]):
    """Values by key, of which the least recently used go, and the searches that are under way, one for each key.

    Belongs to one event loop, which is why nothing here is locked.
    """

    def __init__(self, size: int, *, seconds_max: float) -> None:
        self._seconds_max = seconds_max
        self._values = LRUCache[Key, T](size)
        self._flights: dict[Key, asyncio.Task[T]] = {}
        self._jobs: dict[Key, Future[T]] = {}

    async def get(self, key: Key, find: Callable[[_Begun[T]], Coroutine[Any, Any, T]]) -> T:
        """The value of a key, by `find` where it is not known. Raises what `find` does, TooLarge or Overloaded."""
        if key in self._values:
            return self._values[key]
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.ensure_future(find(partial(self._begun, key)))
            self._flights[key] = flight
            flight.add_done_callback(partial(self._landed, key))
        # Neither a wait that ends nor a client that goes away ends the search, which others may be waiting for.
        await asyncio.wait({flight}, timeout=self._seconds_max)
        if not flight.done():
            raise self._late(key)
        if flight.cancelled():
            raise Overloaded("The ledger is shutting down.", retry_after_seconds=5)
        return flight.result()

    async def _begun(self, key: Key, job: Future[T]) -> T:
        self._jobs[key] = job
        return await asyncio.wrap_future(job)

    def _landed(self, key: Key, flight: asyncio.Task[T]) -> None:
        del self._flights[key]
        self._jobs.pop(key, None)
        if flight.cancelled() or flight.exception() is not None:
            return  # asked for here, since nobody may be left to ask, which asyncio would complain about
        self._values[key] = flight.result()

    def _late(self, key: Key) -> TooLarge | Overloaded:
        job = self._jobs.get(key)
        if job is None or not job.running():
            return Overloaded("Too many certificates are waiting to be computed.", retry_after_seconds=5)
        return TooLarge(
            f"mechanism: its certificate takes longer than {self._seconds_max:g} seconds; it is still being computed,"
            " and kept, so ask again later, or declare less in one run",
            field="mechanism",
            seconds_max=self._seconds_max,
        )


class _Pool:
    """A few threads behind a bounded queue. No tenant can fill all of it."""

    def __init__(self, *, threads: int, on_computed: Callable[[float], None]) -> None:
        self._on_computed = on_computed
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="ledger-certificates")
        self._lock = threading.Lock()
        self._waiting: Counter[UUID] = Counter()
        self._stopping = threading.Event()

    @property
    def waiting(self) -> int:
        with self._lock:
            return self._waiting.total()

    def submit(
        self,
        tenant_id: UUID,
        work: Callable[[], T],
        *,
        then: Callable[[T], None] | None = None,
        limit_seconds: float = COMPUTATION_SECONDS_MAX,
    ) -> Future[T]:
        """Runs `work`, answers, and only then runs `then` with its result. Raises Overloaded when the queue is full.

        The answer is TooLarge where the work takes longer than its limit, and Overloaded where the pool is closed.
        """
        with self._lock:
            if self._waiting.total() >= WAITING_MAX or self._waiting[tenant_id] >= WAITING_OF_TENANT_MAX:
                raise Overloaded("Too many certificates are waiting to be computed.", retry_after_seconds=5)
            self._waiting[tenant_id] += 1
        job: Future[T] = Future()
        try:
            turn = self._threads.submit(_do, job, partial(self._timed, work, limit_seconds), then)
        except RuntimeError as error:  # after `close`
            self._ended(tenant_id, job, job)
            raise Overloaded("The ledger is shutting down.", retry_after_seconds=5) from error
        turn.add_done_callback(partial(self._ended, tenant_id, job))
        return job

    def close(self) -> None:
        self._stopping.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _timed(self, work: Callable[[], T], limit_seconds: float) -> T:
        begun = time.perf_counter()
        try:
            with deadline.until(monotonic() + limit_seconds, self._stopping):
                return work()
        except deadline.Expired as error:
            raise TooLarge(
                f"mechanism: computing its certificate takes longer than {limit_seconds:g} seconds; declare less in one"
                " run",
                field="mechanism",
                seconds_max=limit_seconds,
            ) from error
        except deadline.Stopped as error:
            raise Overloaded("The ledger is shutting down.", retry_after_seconds=5) from error
        finally:
            self._on_computed(time.perf_counter() - begun)

    def _ended(self, tenant_id: UUID, job: Future[Any], _turn: Future[Any]) -> None:
        job.cancel()  # it is done, unless its turn never came
        with self._lock:
            self._waiting[tenant_id] -= 1
            self._waiting += Counter()  # drops the tenants that have none


def _do(job: Future[T], work: Callable[[], T], then: Callable[[T], None] | None) -> None:
    if not job.set_running_or_notify_cancel():
        return
    try:
        value = work()
    except BaseException as error:
        job.set_exception(error)
        return
    job.set_result(value)
    if then is not None:
        then(value)

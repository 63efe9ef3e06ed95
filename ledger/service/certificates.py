"""Certified costs that take long to compute: from memory, from the database, or computed next to the event loop.

A cost depends only on what was declared, so it is computed once: the process remembers it, the table `certificates`
stores it for other processes and restarts, and requests for the same parameters share one computation. Everything
belongs to one tenant, memory included, so that no tenant learns from an answer's speed what another one trains.
Computations take turns in a few processes, behind a bounded queue; beyond it the answer is 503. Small ones run in a
thread of the server, because handing them over would take longer.

This is a cache, not a record. A row that is lost, unreadable or not written costs time and nothing else.

Trusting a row has a consequence: anyone who can write to the database could store a lower cost, and later runs with the
same parameters would be charged it. That is why a journal entry has the mechanism, bound, adjacency, delta and
accountant next to the cost: recomputing the cost from the entry finds the difference, without any row of this table.
Emptying the table is always safe.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from functools import partial
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from ledger.accounting import ACCOUNTANT, amounts, certificate, costs, numeric
from ledger.accounting.cost import Cost
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.datasets import Adjacency
from ledger.core.journal import chain
from ledger.service.apart import Apart
from ledger.service.curves import Curves
from ledger.service.flights import COMPUTATION_SECONDS_MAX, Begun, Flights
from ledger.service.turns import Turns, Urgency
from ledger.store import Store

log = logging.getLogger(__name__)

AT_ONCE: Final = 2
WEIGHT_ON_LOOP_MAX: Final = 1
"""The most work that is done at once on the event loop: one closed form."""
WEIGHT_IN_THREAD_MAX: Final = 50
"""The most work that is done in a thread of the server: some milliseconds. More is handed to a process."""
INVERSION_SECONDS_MAX: Final = 600
"""The time limit, in seconds, of a search that computes many of them."""
COSTS_MAX: Final = 4096
RESULTS_MAX: Final = 1024
ROWS_OF_TENANT_MAX: Final = 10_000
RUNS_OF_A_LIMIT: Final = 100
"""A run that names no delta takes this part of the limit's delta."""

T = TypeVar("T")
Key = tuple[UUID, bytes]


class Compute(Protocol):
    """Computes a cost: `costs.cost`."""

    def __call__(self, mechanism: AnyMechanism, terms: Terms, /) -> Cost: ...


class Certificates:
    """Costs of mechanisms, from the fastest source. Its coroutines belong to one event loop."""

    def __init__(
        self,
        store: Store,
        *,
        seconds_max: float,
        at_once: int = AT_ONCE,
        apart: Apart | None = None,
        rows_max: int = ROWS_OF_TENANT_MAX,
        compute: Compute = costs.cost,
        on_computed: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        """at_once: how many computations run at once; half as many again while some take long, if in processes.

        apart: the processes, which `close` ends; None: they run in threads. compute: what computes a cost; for
        processes, a function that can be imported. on_computed: is called after each computation with the seconds it
        took.
        """
        self._store, self._rows_max, self._compute, self._apart = store, rows_max, compute, apart
        slow = 0 if apart is None else (at_once + 1) // 2
        self._turns = Turns(threads=at_once, slow=slow, name="ledger-certificates", on_done=on_computed)
        self._costs = Flights[Cost](COSTS_MAX, self._turns, seconds_max=seconds_max)
        self._results = Flights[Any](RESULTS_MAX, self._turns, seconds_max=seconds_max)
        self._curves = Curves()

    def close(self) -> None:
        """End the threads and processes, and with them the running computations; waiting ones are dropped."""
        self._turns.close()
        if self._apart is not None:
            self._apart.close()

    @property
    def waiting(self) -> int:
        """Return how many computations wait or run."""
        return self._turns.waiting

    @property
    def processes(self) -> int:
        """Return how many processes compute, or wait for the next computation."""
        return 0 if self._apart is None else self._apart.processes

    async def cost(
        self, tenant_id: UUID, mechanism: AnyMechanism, terms: Terms, *, urgency: Urgency = Urgency.DECISION
    ) -> Cost:
        """Return what `costs.cost` returns. Segments are equal, so one certificate is enough for any number of them.

        Raises InvalidRequest and TooLarge as that does. Raises TooLarge also if the computation outlasts the wait (for
        a decision it goes on, and its result is kept) or takes longer than the limit; Overloaded if it gets no turn;
        and CallerLeftError.
        """
        is_kept = costs.needs_certificate(mechanism, bound=terms.bound)
        is_light = costs.weight(mechanism, bound=terms.bound) <= WEIGHT_ON_LOOP_MAX
        # The first number of a process imports what works numbers out, which takes a second.
        if not is_kept and is_light and numeric.is_ready():
            return self._compute(mechanism, terms)
        key = tenant_id, digest_of(mechanism, terms)
        compute = partial(self._compute, mechanism, terms)
        work = self._handed(tenant_id, compute) if is_heavy(mechanism, terms) else compute

        async def find(begun: Begun[Cost]) -> Cost:
            if not is_kept:
                return await begun(tenant_id, work)
            row = await asyncio.to_thread(self._look_up, key)
            return row if row is not None else await begun(tenant_id, work, then=partial(self._keep, key))

        return await self._costs.get(key, find, urgency=urgency)

    async def frontier(
        self, tenant_id: UUID, mechanism: AnyMechanism, *, adjacency: Adjacency, also: Sequence[Fraction] = ()
    ) -> list[tuple[float, float]]:
        """Return pairs (delta, mu), each a certificate of the mechanism; none if it needs none. also: more deltas.
        Raises the same as `cost`."""
        compute = partial(costs.frontier, mechanism, bound="certified", adjacency=adjacency, also=tuple(also))
        facts: dict[str, Any] = {"frontier": mechanism.model_dump(exclude_none=True), "adjacency": adjacency}
        facts |= {"also": [_ratio(delta) for delta in also]} if also else {}
        return await self.beside(tenant_id, compute, key=facts)

    async def beside(
        self,
        tenant_id: UUID,
        compute: Callable[[], T],
        *,
        key: Mapping[str, Any],
        limit_seconds: float = COMPUTATION_SECONDS_MAX,
        urgency: Urgency = Urgency.ADVICE,
    ) -> T:
        """Run a computation of certificates as `cost` does: in the same processes, once for all callers.

        compute: a function that can be imported, with arguments that can be pickled, as its result can. limit_seconds:
        the time limit of the computation. key: identifies it, as canonical JSON values. The server remembers the
        result. Raises the LedgerError that `compute` raises, and TooLarge, Overloaded and CallerLeftError as `cost`
        does.
        """
        work = self._handed(tenant_id, compute)

        async def find(begun: Begun[T]) -> T:
            return await begun(tenant_id, work, limit_seconds=limit_seconds)

        digest = chain.digest(chain.canonical({"accountant": ACCOUNTANT, **key}))
        result: T = await self._results.get((tenant_id, digest), find, urgency=urgency)
        return result

    def _handed(self, tenant_id: UUID, compute: Callable[[], T]) -> Callable[[], T]:
        """Return the work, for a process or a thread that has access to the tenant's curves."""
        if self._apart is not None:
            return partial(self._apart.run, tenant_id, compute)

        def work() -> T:
            with certificate.keeping(self._curves.of(tenant_id)):
                return compute()

        return work

    # --- the database

    def _look_up(self, key: Key) -> Cost | None:
        tenant_id, digest = key
        try:
            with self._store.reading(tenant_id) as reading:
                body = reading.certificates.body(digest)
            return None if body is None else read(body)
        except Exception as error:  # any fault of a cache: the cost can be computed
            log.warning("the certificate %s could not be read: %s", digest.hex(), error)
            return None

    def _keep(self, key: Key, cost: Cost) -> None:
        tenant_id, digest = key
        try:
            body = written(cost)
            with self._store.writing(tenant_id) as writing:
                writing.certificates.keep(digest, body, now_us=writing.now_us(), rows_max=self._rows_max)
        except Exception as error:  # the request that needed it has its answer already
            log.warning("the certificate %s was not stored: %s", digest.hex(), error)


def is_heavy(mechanism: AnyMechanism, terms: Terms) -> bool:
    """Return whether a cost is too much work for a thread of the server."""
    is_certificate = costs.needs_certificate(mechanism, bound=terms.bound)
    return is_certificate or costs.weight(mechanism, bound=terms.bound) > WEIGHT_IN_THREAD_MAX


def share_of(limit: Amount) -> Decimal:
    """Return the delta of a run that names none: a hundredth of the limit's, to six digits, so that a hundred of them
    fit.

    If that is less than the least chargeable delta, return the least; return 0 if the limit has no room for it.
    """
    if 0 < limit.delta_atto < RUNS_OF_A_LIMIT:
        return Context(prec=6, rounding=ROUND_FLOOR).plus(delta_of(1)).normalize()
    hundredth = Context(prec=6).divide(delta_of(limit.delta_atto), Decimal(RUNS_OF_A_LIMIT))
    # A charge is rounded up to a whole 1e-18, a limit down.
    most = Context(prec=6, rounding=ROUND_FLOOR).plus(delta_of(limit.delta_atto // RUNS_OF_A_LIMIT))
    return min(hundredth, most).normalize()


def delta_of(atto: int) -> Decimal:
    """Return 1 - exp(-atto·1e-18), to sixty digits."""
    exact = Context(prec=60)
    return exact.subtract(Decimal(1), exact.exp(exact.divide(Decimal(-atto), Decimal(amounts.ATTO))))


# --- keys and rows ---------------------------------------------------------------------------------------------------


def digest_of(mechanism: AnyMechanism, terms: Terms) -> bytes:
    """Return the digest under which a cost is stored: SHA-256 of all that it depends on. 1.10 and 1.1 give the same
    one."""
    facts = terms.facts()
    facts["accountant"], facts["mechanism"] = ACCOUNTANT, mechanism.model_dump(exclude_none=True)
    return chain.digest(chain.canonical(facts))


def written(cost: Cost) -> str:
    """Return a cost as canonical JSON, with mu as the double's shortest decimal, and mu² and nats as exact fractions.

    Raises ValueError if a fraction has more digits than Python writes.
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
    """Return the cost that `written` wrote. Raises ValueError, KeyError or TypeError for anything else."""
    row: dict[str, Any] = chain.parse(body)
    mu, mu_sq, nats = float(row["mu"]), Fraction(row["mu_sq"]), Fraction(row["nats"])
    if not (math.isfinite(mu) and mu >= 0 and mu_sq >= 0 and nats >= 0):
        raise ValueError("a cost must be finite and not negative")
    cost = Cost(mu, mu_sq, nats, str(row["method"]), tuple(map(str, row["assumptions"])))
    if written(cost) != body:  # any other type, form or member
        raise ValueError("is not a cost in canonical form")
    return cost


def _ratio(value: Fraction) -> str:
    return f"{value.numerator}/{value.denominator}"

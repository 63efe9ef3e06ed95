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
from collections.abc import Callable, Mapping
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
from ledger.service.curves import Curves
from ledger.service.flights import COMPUTATION_SECONDS_MAX, Begun, Flights
from ledger.service.turns import Turns, Urgency
from ledger.store import Store

log = logging.getLogger(__name__)

THREADS: Final = 2
WEIGHT_ON_LOOP_MAX: Final = 1
"""What a cost may weigh that is worked out at once: one closed form."""
INVERSION_SECONDS_MAX: Final = 600
"""How long a search may take that computes many of them."""
COSTS_MAX: Final = 4096
RESULTS_MAX: Final = 1024
ROWS_OF_TENANT_MAX: Final = 10_000
RUNS_OF_A_LIMIT: Final = 100
"""A run that names no delta takes this part of the limit's."""

T = TypeVar("T")
Key = tuple[UUID, bytes]


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
        self._turns = Turns(threads=threads, name="ledger-certificates", on_done=on_computed)
        self._costs = Flights[Cost](COSTS_MAX, self._turns, seconds_max=seconds_max)
        self._results = Flights[Any](RESULTS_MAX, self._turns, seconds_max=seconds_max)
        self._curves = Curves()

    def close(self) -> None:
        """Ends the threads, and what runs in them at its next `deadline.check`; those that wait are dropped."""
        self._turns.close()

    @property
    def waiting(self) -> int:
        """How many computations wait for their turn or run."""
        return self._turns.waiting

    async def cost(
        self, tenant_id: UUID, mechanism: AnyMechanism, terms: Terms, *, urgency: Urgency = Urgency.DECISION
    ) -> Cost:
        """What `costs.cost` says. However many segments there are, they are alike: one certificate is computed.

        Raises InvalidRequest and TooLarge as that does, TooLarge also when the computation outlasts the wait (a
        decision's goes on, and its result is kept) or takes longer than any may, Overloaded where it does not get its
        turn, and CallerLeftError.
        """
        is_kept = costs.needs_certificate(mechanism, bound=terms.bound)
        is_light = costs.weight(mechanism, bound=terms.bound) <= WEIGHT_ON_LOOP_MAX
        # The first number of a process imports what works numbers out, which takes a second.
        if not is_kept and is_light and numeric.is_ready():
            return self._compute(mechanism, terms)
        key = tenant_id, digest_of(mechanism, terms)
        work = self._keeping(tenant_id, partial(self._compute, mechanism, terms))

        async def find(begun: Begun[Cost]) -> Cost:
            if not is_kept:
                return await begun(tenant_id, work)
            row = await asyncio.to_thread(self._look_up, key)
            return row if row is not None else await begun(tenant_id, work, then=partial(self._keep, key))

        return await self._costs.get(key, find, urgency=urgency)

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
        urgency: Urgency = Urgency.ADVICE,
    ) -> T:
        """Runs what computes certificates as `cost` does: in the same threads, once for all who ask.

        limit_seconds: how long the computation may take. key: what tells it from any other, in the terms of
        `journal.canonical`. The process remembers the result. Raises what `compute` does, and TooLarge, Overloaded and
        CallerLeftError as `cost` does.
        """
        work = self._keeping(tenant_id, compute)

        async def find(begun: Begun[T]) -> T:
            return await begun(tenant_id, work, limit_seconds=limit_seconds)

        digest = chain.digest(chain.canonical({"accountant": ACCOUNTANT, **key}))
        result: T = await self._results.get((tenant_id, digest), find, urgency=urgency)
        return result

    def _keeping(self, tenant_id: UUID, compute: Callable[[], T]) -> Callable[[], T]:
        """The work, with the tenant's curves at hand."""

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

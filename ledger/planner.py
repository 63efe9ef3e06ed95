"""What would happen if a run were asked for now, and how much would fit. Nothing is recorded.

A plan is made of the same costs and the same arithmetic as a decision, on the balance as it is when it is read; whoever
asks for the run afterwards may find that another came in between.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from ledger.accounting import ACCOUNTANT, amounts, mechanisms, plan
from ledger.accounting.mechanisms import AnyMechanism, Cost, Mechanism
from ledger.accounting.numbers import Probability
from ledger.accounting.plan import Solution
from ledger.certificates import Certificates, share_of
from ledger.errors import TooLarge
from ledger.model import Account, Actor, Adjacency, Amount, Bound, Dataset
from ledger.runs import FITS_COSTS_MAX, Datasets, demand_sight, no_dataset, show_amount
from ledger.store import Store

SECONDS_MAX: Final = 20.0
"""How long may be computed for one plan. A client waits for 30 seconds unless it is told otherwise."""

Solvable = Literal["noise_multiplier", "steps", "epochs", "sample_rate", "count", "epsilon", "rho", "mu", "runs"]


class PlanRequest(BaseModel):
    """A run that might be asked for, and what to solve for."""

    model_config = ConfigDict(extra="forbid", strict=True)
    datasets: Datasets
    mechanism: Mechanism
    delta: Annotated[
        Probability | None,
        Field(
            description="The run's share of the delta budget, for a certificate; a hundredth of the dataset's limit "
            "when left out. Where the cost needs no certificate it makes no difference."
        ),
    ] = None
    solve_for: Annotated[
        Solvable | None,
        Field(
            description="Find the least noise_multiplier, or the most of another parameter, that fits what is left; "
            "`steps` means `epochs` where the mechanism says epochs, `runs` is how many of exactly this run."
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class _Question:
    """All that the inverse of a cost depends on."""

    mechanism: AnyMechanism
    bound: Bound
    adjacency: Adjacency
    delta: Decimal | None
    remaining: Amount
    solve_for: str | None
    is_fit: bool

    def facts(self) -> dict[str, Any]:
        """What tells this question from any other."""
        return {
            "plan": self.mechanism.model_dump(exclude_none=True),
            "bound": self.bound,
            "adjacency": self.adjacency,
            "delta": self.delta,
            "remaining": self.remaining.facts(),
            "solve_for": self.solve_for,
        }


@dataclass(frozen=True, slots=True)
class _Inverse:
    """What would fit, and what was solved for."""

    would_fit: dict[str, Solution]
    solution: Solution | None


class Planner:
    """Makes plans. Its coroutines belong to one event loop."""

    def __init__(
        self, store: Store, certificates: Certificates, *, clock_seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._certificates, self._clock_seconds = store, certificates, clock_seconds

    async def plan(self, actor: Actor, request: PlanRequest) -> dict[str, Any]:
        """What a run would cost and leave now, and how much of it would fit.

        Raises NotFound, InvalidMechanism, InvalidRequest where the mechanism has no such parameter, TooLarge where it
        takes too long, and Overloaded where it does not get its turn.
        """
        dataset, account = await asyncio.to_thread(self._found, actor, request.datasets[0])
        solve_for = None if request.solve_for is None else plan.parameter(request.mechanism, request.solve_for)
        definition = dataset.definition
        is_dear = mechanisms.needs_certificate(request.mechanism, bound=definition.bound)
        delta = (request.delta or share_of(account.limit)) if is_dear else None
        cost = await self._certificates.cost(
            actor.tenant_id,
            request.mechanism,
            bound=definition.bound,
            adjacency=definition.adjacency,
            delta=delta or Decimal(0),
        )
        is_fit = not cost.amount.exceeds(account.remaining)
        question = _Question(
            request.mechanism, definition.bound, definition.adjacency, delta, account.remaining, solve_for, is_fit
        )
        work = partial(_invert, question, self._clock_seconds)
        if is_fit and solve_for is None:
            found = _Inverse({}, None)
        elif is_dear:
            found = await self._certificates.beside(actor.tenant_id, work, of=question.facts())
        else:
            found = await asyncio.to_thread(work)
        return _answer(dataset, account, cost, delta, found)

    def _found(self, actor: Actor, name: str) -> tuple[Dataset, Account]:
        demand_sight(actor, name)
        with self._store.reading(actor.tenant_id) as reading:
            found = reading.dataset(name)
        if found is None:
            raise no_dataset(name)
        return found


def _invert(question: _Question, clock_seconds: Callable[[], float]) -> _Inverse:
    until = clock_seconds() + SECONDS_MAX
    costs = itertools.count(1)

    def is_late() -> bool:
        return clock_seconds() >= until

    def is_late_for_a_refusal() -> bool:
        if is_late():
            raise TooLarge(
                f"mechanism: this plan takes longer than {SECONDS_MAX:g} seconds; ask about a smaller mechanism",
                field="mechanism",
                seconds_max=SECONDS_MAX,
            )
        # As many as a refusal computes, so that it names the same.
        return question.delta is not None and next(costs) > FITS_COSTS_MAX

    within: dict[str, Any] = {
        "bound": question.bound,
        "adjacency": question.adjacency,
        "remaining": question.remaining,
        "delta": question.delta or Decimal(0),
    }
    would_fit = {}
    if not question.is_fit:
        would_fit = plan.nearest(question.mechanism, **within, is_late=is_late_for_a_refusal)
    solution = None
    if question.solve_for is not None:
        # What does not fit is too much, so that what would fit is also the most that fits.
        solution = would_fit.get(question.solve_for) or plan.solve(
            question.mechanism, solve_for=question.solve_for, **within, is_late=is_late
        )
    return _Inverse(would_fit, solution)


def _answer(dataset: Dataset, account: Account, cost: Cost, delta: Decimal | None, found: _Inverse) -> dict[str, Any]:
    definition, remaining = dataset.definition, account.remaining
    exceeded = cost.amount.exceeds(remaining)
    plain = {"mu": amounts.mu_of, "delta": amounts.delta_of}
    return {
        "fits": not exceeded,
        "cost": show_amount(cost.amount),
        "bound": definition.bound,
        "method": cost.method,
        "assumptions": cost.assumptions,
        "accountant": ACCOUNTANT,
        "is_estimate": definition.bound == "clt",
        "delta": delta,
        "datasets": [
            {
                "name": definition.name,
                "state": dataset.state,
                "limit": show_amount(account.limit),
                "remaining": show_amount(remaining),
                "after": None if exceeded else show_amount(remaining - cost.amount),
            }
        ],
        "binding": [
            {
                "name": definition.name,
                "quantity": quantity,
                "requested": plain[quantity](cost.amount),
                "remaining": plain[quantity](remaining),
                "limit": plain[quantity](account.limit),
            }
            for quantity in exceeded
        ],
        "would_fit": {field: solution.value for field, solution in found.would_fit.items()},
        "solution": _solution(found.solution),
    }


def _solution(found: Solution | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"solve_for": found.solve_for, "value": found.value, "cost": show_amount(found.amount)}

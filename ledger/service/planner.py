"""What would happen if a run were asked for now, and how much would fit. Nothing is recorded.

A plan uses the same costs and the same arithmetic as a decision, on the current balance. Another run may come in
between before the caller asks.

A key that is limited to datasets is charged for the ancestors of these, and learns their names. It learns what remains
there from answers about its own runs, which are recorded, but not from plans, which are not.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial, reduce
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from ledger.accounting import ACCOUNTANT, plan
from ledger.accounting.cost import Cost
from ledger.accounting.display import show_amount, show_epsilons
from ledger.accounting.mechanisms import SOLVABLE, Mechanism
from ledger.accounting.numbers import Probability
from ledger.accounting.plan import Solution
from ledger.core.amounts import ZERO, Amount
from ledger.core.books import Books
from ledger.core.datasets import Account, Dataset
from ledger.core.decision.filter import guaranteed
from ledger.core.decision.group import read_sets_of_uses
from ledger.core.decision.runs import charged_accounts, demand_project_share
from ledger.core.people import Actor
from ledger.service import answers, catalogue, delta_left, portions, sizes
from ledger.service.bindings import bindings
from ledger.service.catalogue import Catalogue, Resolved
from ledger.service.certificates import is_heavy
from ledger.service.costing import Costed, Costing, left_in
from ledger.service.inverting import Inverse, Question, invert
from ledger.service.portions import Room
from ledger.service.requests.fields import ProjectName, Strict
from ledger.service.requests.runs import SEGMENTS_MAX, Datasets, SizeDiffers
from ledger.service.shapes.accountant import EpsilonsOfPlan, Planned, PlannedBinding, PlannedOn
from ledger.service.shapes.accountant import Solution as SolutionShown
from ledger.service.shapes.runs import Binding
from ledger.service.turns import Urgency
from ledger.store import Store

if TYPE_CHECKING:
    Solvable = str
else:
    Solvable = Literal[(*SOLVABLE, "runs")]


class PlanRequest(Strict):
    """A run that might be asked for, and what to solve for."""

    datasets: Datasets
    mechanism: Mechanism
    delta: Annotated[
        Probability | None,
        Field(
            description=(
                "The share of the delta budget that the run's certificate may use; default: the cheapest of"
                " the least limit times 10^-k. Has no effect if the cost needs no certificate."
            )
        ),
    ] = None
    segments: Annotated[int | None, Field(ge=1, le=SEGMENTS_MAX)] = None
    project: ProjectName | None = None
    size_differs: SizeDiffers = None
    solve_for: Annotated[
        Solvable | None,
        Field(
            description=(
                "Find the least noise_multiplier or noise_scale, or the largest value of another parameter, that"
                " fits in what remains. `steps` means `epochs` if the mechanism has epochs; `runs` means how many of"
                " exactly this run."
            )
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a run would be decided on, as it is now: the accounts that it would charge, by dataset."""

    resolved: Resolved
    books: Books
    charged: dict[UUID, list[Account]]

    @property
    def remaining(self) -> Amount:
        """Return the least that remains in any of them."""
        left = answers.least_remaining(account for accounts in self.charged.values() for account in accounts)
        return ZERO if left is None else left

    @property
    def rooms(self) -> list[Room]:
        """Return the rooms of all of them."""
        return portions.rooms_of(account for accounts in self.charged.values() for account in accounts)

    @property
    def deltas(self) -> tuple[float, ...]:
        """Return the deltas at which epsilons are shown: those of the budgets."""
        return portions.deltas_of(self.books.datasets[id_].budget for id_ in self.charged)

    @property
    def left(self) -> int:
        """Return the least mu² that is left in an account that carries a guarantee, in units of 1e-12."""
        accounts = guaranteed(account for accounts in self.charged.values() for account in accounts)
        return min((account.remaining.mu_sq_pico for account in accounts), default=0)


@dataclass(frozen=True, slots=True)
class _Charge:
    """What an approval would charge now: beside what is left, if the datasets cost runs so."""

    cost: Cost
    amount: Amount
    needed: Amount
    is_fit: bool

    @classmethod
    def of(cls, costed: Costed, seen: _Seen) -> _Charge:
        """Return what a run would be charged."""
        alone, table = costed.cost.amount, costed.table
        if table is None:
            return cls(costed.cost, alone, alone, is_fit=not alone.exceeds(seen.remaining))
        index = table.best(seen.left)
        amount = alone if index is None else Amount(table.costs[index], alone.delta_atto)
        is_fit = index is not None and not amount.exceeds(seen.remaining)
        return cls(costed.cost, amount, Amount(table.least_needed, alone.delta_atto), is_fit)


class Planner:
    """Makes plans. Its coroutines belong to one event loop."""

    def __init__(
        self,
        store: Store,
        catalogue: Catalogue,
        costing: Costing,
        *,
        clock_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._catalogue, self._costing = store, catalogue, costing
        self._clock_seconds = clock_seconds

    async def plan(self, actor: Actor, request: PlanRequest) -> Planned:
        """Return what a run would cost and leave now, and how much of it would fit.

        Raises NotFound, UnitMismatch, InvalidMechanism, InvalidRequest if the mechanism has no such parameter, TooLarge
        if it takes too long, and Overloaded if it gets no turn.
        """
        catalogue.demand_project_of_key(actor, request.project)
        resolved = await self._catalogue.resolve(actor, request.datasets)
        mechanism, _ = sizes.completed(request.mechanism, request.mechanism.model_dump(exclude_none=True), resolved)
        request = request.model_copy(update={"mechanism": mechanism})
        solve_for = None if request.solve_for is None else plan.parameter(request.mechanism, request.solve_for)
        seen = await asyncio.to_thread(self._see, actor, resolved, request.project)
        costed = await self._costing.cost(actor, resolved, request, urgency=Urgency.ADVICE)
        charge, is_dear = _Charge.of(costed, seen), costed.delta is not None
        is_fit = charge.is_fit
        asked = costed.question
        left = None if asked is None else left_in(asked.situation, asked.shares)
        question = Question(request.mechanism, costed.terms, seen.remaining, solve_for, is_fit, is_dear, left)
        inverse = Inverse({}, None)
        if not is_fit or solve_for is not None:
            inverting = partial(invert, question, self._clock_seconds)
            key = question.facts()
            is_long = is_dear or is_heavy(request.mechanism, costed.terms)
            inverse = await self._costing.invert(actor.tenant_id, inverting, is_dear=is_long, key=key)
        # One line for each account, of which there can be thousands.
        answer = await asyncio.to_thread(_answer, actor, seen, charge, costed.delta, inverse)
        sees_all = all(actor.sees(definition.name) for definition in resolved.definitions.values())
        if sees_all:
            taken = portions.taken(charge.amount, seen.rooms)
            answer["percent"], answer["percent_of_delta"] = taken["percent"], taken["percent_of_delta"]
            answer["runs_left"] = portions.runs_left(costed.cost.amount, costed.table, seen.rooms)
        _warn(answer, actor, seen, sizes.facts_of(mechanism, resolved), charge.amount)
        if inverse.as_one is not None:
            one = inverse.as_one
            answer["as_one"] = answers.as_one(one.mechanism, one.runs, one.amount)
        segments = costed.segments()
        if segments is not None:
            answer["segments"] = answers.show_segments(segments, charge.amount)
        if costed.table is not None:
            answer["alone"] = show_amount(costed.cost.amount)
            if sees_all:
                answer["shares"] = answers.shares_of(charge.amount, costed.table)
        return answer

    def _see(self, actor: Actor, resolved: Resolved, project: str | None) -> _Seen:
        read_sets = read_sets_of_uses(resolved.uses, project=project, principal_id=actor.principal_id)
        with self._store.reading(actor.tenant_id) as reading:
            books = reading.books.read(read_sets)
        demand_project_share(books, resolved.uses, project)
        charged = {
            use.dataset_id: charged_accounts(books, use, project=project, principal_id=actor.principal_id)
            for use in resolved.uses
        }
        return _Seen(resolved, books, charged)


def _answer(actor: Actor, seen: _Seen, charge: _Charge, delta: Decimal | None, inverse: Inverse) -> Planned:
    is_fit, cost = charge.is_fit, charge.cost
    names = {id_: definition.name for id_, definition in seen.resolved.definitions.items()}
    datasets = [
        _planned_on(names[id_], seen.books.datasets[id_], accounts if actor.sees(names[id_]) else (), charge)
        for id_, accounts in seen.charged.items()
    ]
    binding = [
        _planned_binding(actor, item)
        for id_, accounts in seen.charged.items()
        for item in bindings(names[id_], accounts, charge.amount, charge.needed)
        if not is_fit
    ]
    return Planned(
        fits=is_fit,
        percent=None,
        percent_of_delta=None,
        epsilon=portions.epsilons_of([cost.amount], seen.deltas)[cost.amount],
        cost=show_amount(charge.amount),
        bound=seen.resolved.bound,
        method=cost.method,
        assumptions=list(cost.assumptions),
        accountant=ACCOUNTANT,
        is_estimate=seen.resolved.bound == "clt",
        delta=None if delta is None else float(delta),
        datasets=datasets,
        binding=binding,
        would_fit={field: _number(solution.value) for field, solution in inverse.would_fit.items()},
        solution=_solution(inverse.solution),
    )


def _warn(answer: Planned, actor: Actor, seen: _Seen, drawn: Mapping[str, Any], cost: Amount) -> None:
    """Add the expected batch and the warnings to a plan: of a run's batches, and of the delta that it would leave."""
    if "expected_batch" in drawn:
        answer["expected_batch"] = drawn["expected_batch"]
    names = {id_: definition.name for id_, definition in seen.resolved.definitions.items()}
    about_delta = [
        text
        for id_, accounts in seen.charged.items()
        if actor.sees(names[id_]) and answer["fits"]
        for used in ([(one.key, one.limit, one.spent + one.held + cost) for one in accounts],)
        for text in delta_left.of_accounts(names[id_], used)
    ]
    warnings = [*drawn.get("warnings", ()), *about_delta[: delta_left.WARNINGS_MAX]]
    if warnings:
        answer["warnings"] = warnings


def _planned_binding(actor: Actor, binding: Binding) -> PlannedBinding:
    """Return what binds, without its numbers if the caller does not see the dataset."""
    planned = PlannedBinding(**binding)
    if not actor.sees(binding["name"]):
        planned["remaining"] = planned["limit"] = None
        planned["percent_requested"] = planned["percent_remaining"] = None
    return planned


def _planned_on(name: str, dataset: Dataset, accounts: Sequence[Account], charge: _Charge) -> PlannedOn:
    """Return the tightest of a dataset's accounts, before and after; nothing for a dataset that the caller does not
    see, or whose runs are charged to others only."""
    remaining = answers.least_remaining(accounts)
    if remaining is None:
        return PlannedOn(name=name, state=dataset.state, limit=None, remaining=None, after=None)
    limit = reduce(Amount.least, (account.limit for account in accounts))
    after = remaining - charge.amount if charge.is_fit else None
    rooms = portions.rooms_of(accounts)
    then = portions.percents(None, [room._replace(left=room.left - charge.amount) for room in rooms])
    return PlannedOn(
        name=name,
        state=dataset.state,
        **portions.percents(charge.amount, rooms),
        percent_after=then["percent_left"] if charge.is_fit else None,
        percent_of_delta_after=then["percent_of_delta_left"] if charge.is_fit else None,
        epsilon=_epsilons(dataset, limit, remaining, after),
        limit=show_amount(limit),
        remaining=show_amount(remaining),
        after=None if after is None else show_amount(after),
    )


def _epsilons(dataset: Dataset, limit: Amount, remaining: Amount, after: Amount | None) -> list[EpsilonsOfPlan]:
    """Return the epsilon of a limit, and of what is left of it before and after a run, each by itself."""
    deltas = portions.deltas_of([dataset.budget])
    amounts = {"limit": limit, "remaining": remaining.most(ZERO), "after": None if after is None else after.most(ZERO)}
    known = show_epsilons((amount, delta) for amount in amounts.values() if amount is not None for delta in deltas)
    declared = float((dataset.budget or {}).get("epsilon", math.inf))

    def at(name: str, delta: float) -> float | None:
        amount = amounts[name]
        value = None if amount is None else known[amount, delta]
        # The limit was rounded down from the declared epsilon, so its true epsilon is no more.
        return None if value is None else min(value, declared)

    return [
        EpsilonsOfPlan(
            delta=delta, limit=at("limit", delta), remaining=at("remaining", delta), after=at("after", delta)
        )
        for delta in deltas
    ]


def _solution(solution: Solution | None) -> SolutionShown | None:
    if solution is None:
        return None
    return SolutionShown(solve_for=solution.solve_for, value=_number(solution.value), cost=show_amount(solution.amount))


def _number(value: int | Decimal) -> int | float:
    """Return a parameter as answers show it: an exact decimal becomes the double nearest to it."""
    return value if isinstance(value, int) else float(value)

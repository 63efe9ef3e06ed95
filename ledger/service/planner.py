"""What would happen if a run were asked for now, and how much would fit. Nothing is recorded.

A plan uses the same costs and the same arithmetic as a decision, on the current balance. Another run may come in
between before the caller asks.

A key that is limited to datasets is charged for the ancestors of these, and learns their names. It learns what remains
there from answers about its own runs, which are recorded, but not from plans, which are not.

A plan on a budget instead of datasets is a plan on a dataset that was just registered with that budget.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import partial, reduce
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import Field, model_validator

from ledger.accounting import ACCOUNTANT, mechanisms, plan
from ledger.accounting.budgets import Budget, limit_of
from ledger.accounting.cost import Cost
from ledger.accounting.display import show_amount, show_epsilons
from ledger.accounting.mechanisms import SOLVABLE, Mechanism
from ledger.accounting.numbers import Positive, Probability
from ledger.accounting.plan import Solution
from ledger.core.amounts import ZERO, Amount
from ledger.core.books import Books
from ledger.core.datasets import DEFAULT_COSTING, Account, AccountKey, Adjacency, Bound, Dataset, Definition
from ledger.core.decision.filter import guaranteed, is_residual
from ledger.core.decision.group import read_sets_of_uses
from ledger.core.decision.runs import charged_accounts, demand_project_share
from ledger.core.decision.waiting import waits_for
from ledger.core.people import Actor
from ledger.core.runs import Use
from ledger.recovery.known import Known
from ledger.service import answers, attack, catalogue, delta_left, portions, sizes
from ledger.service.bindings import bindings
from ledger.service.catalogue import Catalogue, Resolved
from ledger.service.certificates import is_heavy
from ledger.service.costing import Costed, Costing, left_in
from ledger.service.inverting import Inverse, Question, invert
from ledger.service.portions import Room
from ledger.service.requests.fields import ABOUT_ADJACENCY, AnyBudget, ProjectName, Strict, field_error
from ledger.service.requests.runs import SEGMENTS_MAX, Datasets, SizeDiffers
from ledger.service.shapes.accountant import AtMost, EpsilonsOfPlan, Planned, PlannedBinding, PlannedOn
from ledger.service.shapes.accountant import Solution as SolutionShown
from ledger.service.shapes.runs import Binding
from ledger.service.tables import Situation
from ledger.service.turns import Urgency
from ledger.store import Store

NEW: Final = "a new dataset"
"""What answers call the dataset of a plan on a budget. No dataset can have this name."""

if TYPE_CHECKING:
    Solvable = str
else:
    Solvable = Literal[(*SOLVABLE, "runs")]


class PlanRequest(Strict):
    """A run that might be asked for, and what to solve for: on datasets, or on a budget that no dataset has yet."""

    datasets: Datasets | None = None
    budget: Annotated[
        AnyBudget | None,
        Field(
            description="In place of `datasets`: plan as on a new dataset with this budget, which nothing was spent of."
        ),
    ] = None
    bound: Annotated[Bound | None, Field(description="With `budget` only. Default: `certified`.")] = None
    adjacency: Annotated[
        Adjacency | None, Field(description=f"With `budget` only. Default: `add_or_remove_one`. {ABOUT_ADJACENCY}")
    ] = None
    at_most_percent: Annotated[
        Positive | None,
        Field(
            le=100,
            description="The run may take at most this part of what is left now, in percent, of mu² and of delta.",
        ),
    ] = None
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

    @model_validator(mode="after")
    def _on_one(self) -> PlanRequest:
        if (self.datasets is None) == (self.budget is None):
            raise field_error("datasets", "name datasets, or give a `budget` in place of them; one of the two")
        of_budget, of_datasets = ("bound", "adjacency"), ("project", "size_differs")
        for name in of_budget if self.budget is None else of_datasets:
            if getattr(self, name) is not None:
                with_it = "datasets" if self.budget is None else "a budget"
                raise field_error(name, f"must be left out of a plan on {with_it}")
        return self


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a run would be decided on, as it is now: the accounts that it would charge, by dataset.

    at_most_percent: the part of what is left that the run may take. is_new: whether it is a budget that no dataset has.
    """

    resolved: Resolved
    books: Books
    charged: dict[UUID, list[Account]]
    at_most_percent: Decimal | None = None
    is_new: bool = False

    @property
    def every(self) -> list[Account]:
        """Return all of the accounts."""
        return [account for accounts in self.charged.values() for account in accounts]

    @property
    def remaining(self) -> Amount:
        """Return the most that the run may take: the least that remains in any of the accounts, or a part of it."""
        left, most = answers.least_remaining(self.every), self.at_most
        if left is None:
            return ZERO
        return left if most is None else left.least(most)

    @property
    def at_most(self) -> Amount | None:
        """Return the part that was asked for of what is left in accounts that carry a guarantee, rounded down."""
        left = answers.least_remaining(guaranteed(self.every))
        if self.at_most_percent is None or left is None:
            return None
        part = Fraction(self.at_most_percent) / 100
        return Amount(*(math.floor(digits * part) for digits in (left.mu_sq_pico, left.delta_atto)))

    def situation(self) -> Situation:
        """Return what the cost of a certified run depends on."""
        charged = [id_ for id_, accounts in self.charged.items() if guaranteed(accounts)]
        now = Situation.of(self.every, is_residual=is_residual(self.books, charged))
        return replace(now, room=now.room._replace(remaining=self.remaining))

    def shows(self, actor: Actor, name: str) -> bool:
        """Return whether the actor may see the numbers of a dataset."""
        return self.is_new or actor.sees(name)

    def waits_for(self, cost: Amount | None) -> list[str]:
        """Return the datasets whose stewards must approve a run of this cost first, although it fits; none if it does
        not fit."""
        return [] if cost is None else waits_for(self.books, self.charged, cost)

    @property
    def rooms(self) -> list[Room]:
        """Return the rooms of all of them."""
        return portions.rooms_of(self.every)

    @property
    def deltas(self) -> tuple[float, ...]:
        """Return the deltas at which epsilons are shown: those of the budgets."""
        return portions.deltas_of(self.books.datasets[id_].budget for id_ in self.charged)

    @property
    def left(self) -> int:
        """Return the least mu² that is left in an account that carries a guarantee, in units of 1e-12."""
        return min((account.remaining.mu_sq_pico for account in guaranteed(self.every)), default=0)


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
        known: Known,
        clock_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._catalogue, self._costing, self._known = store, catalogue, costing, known
        self._clock_seconds = clock_seconds

    async def plan(self, actor: Actor, request: PlanRequest) -> Planned:
        """Return what a run would cost and leave now, and how much of it would fit.

        Raises NotFound, UnitMismatch, InvalidMechanism, InvalidRequest if the mechanism has no such parameter, TooLarge
        if it takes too long, Overloaded if it gets no turn, and JournalContradicted.
        """
        request, seen = await self._seen(actor, request)
        resolved, mechanism = seen.resolved, request.mechanism
        solve_for = None if request.solve_for is None else plan.parameter(mechanism, request.solve_for)
        costed = await self._costing.cost(actor, resolved, request, urgency=Urgency.ADVICE, situation=seen.situation)
        charge, is_dear = _Charge.of(costed, seen), costed.delta is not None
        is_fit = charge.is_fit
        asked = costed.question
        left = None if asked is None else left_in(asked.situation, asked.shares)
        question = Question(mechanism, costed.terms, seen.remaining, solve_for, is_fit, is_dear, left)
        inverse = Inverse({}, None)
        if not is_fit or solve_for is not None:
            inverting = partial(invert, question, self._clock_seconds)
            key = question.facts()
            is_long = is_dear or is_heavy(mechanism, costed.terms)
            inverse = await self._costing.invert(actor.tenant_id, inverting, is_dear=is_long, key=key)
        # One line for each account, of which there can be thousands.
        answer = await asyncio.to_thread(_answer, actor, seen, charge, costed.delta, inverse)
        sees_all = all(seen.shows(actor, definition.name) for definition in resolved.definitions.values())
        if seen.at_most_percent is not None and seen.at_most is not None and sees_all:
            answer["at_most"] = AtMost(percent=float(seen.at_most_percent), amount=show_amount(seen.at_most))
        if sees_all:
            taken = portions.taken(charge.amount, seen.rooms)
            answer["percent"], answer["percent_of_delta"] = taken["percent"], taken["percent_of_delta"]
            answer["runs_left"] = portions.runs_left(costed.cost.amount, costed.table, seen.rooms)
        _warn(answer, actor, seen, sizes.facts_of(mechanism, resolved), charge.amount)
        if inverse.as_one is not None:
            one = inverse.as_one
            answer["as_one"] = answers.as_one(one.mechanism, one.runs, one.amount, rooms=seen.rooms if sees_all else ())
            answer["as_one"]["waits"] = bool(seen.waits_for(one.amount))
        segments = costed.segments()
        if segments is not None:
            answer["segments"] = answers.show_segments(segments, charge.amount)
        if costed.table is not None:
            answer["alone"] = show_amount(costed.cost.amount)
            if sees_all:
                answer["shares"] = answers.shares_of(charge.amount, costed.table)
        return answer

    async def _seen(self, actor: Actor, request: PlanRequest) -> tuple[PlanRequest, _Seen]:
        """Return a plan with the number of units that its mechanism lacks, and what it would be decided on."""
        if request.budget is not None:
            mechanisms.demand_sized(request.mechanism)
            return request, _new(request, request.budget)
        catalogue.demand_project_of_key(actor, request.project)
        resolved = await self._catalogue.resolve(actor, request.datasets or ())
        mechanism, _ = sizes.completed(request.mechanism, request.mechanism.model_dump(exclude_none=True), resolved)
        seen = await asyncio.to_thread(self._see, actor, resolved, request.project)
        request = request.model_copy(update={"mechanism": mechanism})
        return request, replace(seen, at_most_percent=request.at_most_percent)

    def _see(self, actor: Actor, resolved: Resolved, project: str | None) -> _Seen:
        read_sets = read_sets_of_uses(resolved.uses, project=project, principal_id=actor.principal_id)
        if (refusal := self._known.refusal_on(actor.tenant_id, read_sets)) is not None:
            raise refusal
        with self._store.reading(actor.tenant_id) as reading:
            books = reading.books.read(read_sets)
        demand_project_share(books, resolved.uses, project)
        charged = {
            use.dataset_id: charged_accounts(books, use, project=project, principal_id=actor.principal_id)
            for use in resolved.uses
        }
        return _Seen(resolved, books, charged)


def _new(request: PlanRequest, budget: Budget) -> _Seen:
    """Return what a run would be decided on, on a dataset that was just registered with this budget."""
    bound, adjacency = request.bound or "certified", request.adjacency or "add_or_remove_one"
    limit, id_ = limit_of(budget, bound=bound), UUID(int=0)
    definition = Definition(id_, NEW, "record", adjacency, bound, None)
    declared, costing = budget.model_dump(exclude_none=True), DEFAULT_COSTING[bound]
    dataset = Dataset(definition, "", "", declared, limit, "active", 1, b"", costing=costing)
    key = AccountKey(id_)
    account = Account(key, limit)
    resolved = Resolved((Use(id_, (), (NEW,)),), {id_: definition}, bound, adjacency)
    books = Books(datasets={id_: dataset}, accounts={key: account})
    return _Seen(resolved, books, {id_: [account]}, request.at_most_percent, is_new=True)


def _answer(actor: Actor, seen: _Seen, charge: _Charge, delta: Decimal | None, inverse: Inverse) -> Planned:
    is_fit, cost = charge.is_fit, charge.cost
    names = {id_: definition.name for id_, definition in seen.resolved.definitions.items()}
    datasets = [
        _planned_on(names[id_], seen.books.datasets[id_], accounts if seen.shows(actor, names[id_]) else (), charge)
        for id_, accounts in seen.charged.items()
    ]
    binding = [
        _planned_binding(item, is_seen=seen.shows(actor, item["name"]))
        for id_, accounts in seen.charged.items()
        for item in bindings(names[id_], accounts, charge.amount, charge.needed)
        if not is_fit
    ]
    waiting = seen.waits_for(charge.amount if is_fit else None)
    would_fit = inverse.would_fit
    would_wait = [field for field, solution in would_fit.items() if seen.waits_for(solution.amount)]
    return Planned(
        fits=is_fit,
        waits=bool(waiting),
        waits_for=waiting,
        percent=None,
        percent_of_delta=None,
        epsilon=portions.epsilons_of([cost.amount], seen.deltas)[cost.amount],
        cost=show_amount(charge.amount),
        attack=attack.on(cost.amount),
        bound=seen.resolved.bound,
        method=cost.method,
        assumptions=list(cost.assumptions),
        accountant=ACCOUNTANT,
        is_estimate=seen.resolved.bound == "clt",
        delta=None if delta is None else float(delta),
        datasets=datasets,
        binding=binding,
        would_fit={field: _number(solution.value) for field, solution in would_fit.items()},
        would_wait=would_wait,
        solution=_solution(inverse.solution, seen, charge),
    )


def _warn(answer: Planned, actor: Actor, seen: _Seen, drawn: Mapping[str, Any], cost: Amount) -> None:
    """Add the expected batch and the warnings to a plan: of a run's batches, and of the delta that it would leave."""
    if "expected_batch" in drawn:
        answer["expected_batch"] = drawn["expected_batch"]
    names = {id_: definition.name for id_, definition in seen.resolved.definitions.items()}
    about_delta = [
        text
        for id_, accounts in seen.charged.items()
        if seen.shows(actor, names[id_]) and answer["fits"]
        for used in ([(one.key, one.limit, one.spent + one.held + cost) for one in accounts],)
        for text in delta_left.of_accounts(names[id_], used)
    ]
    warnings = [*drawn.get("warnings", ()), *about_delta[: delta_left.WARNINGS_MAX]]
    if warnings:
        answer["warnings"] = warnings


def _planned_binding(binding: Binding, *, is_seen: bool) -> PlannedBinding:
    """Return what binds, without its numbers if the caller does not see the dataset."""
    planned = PlannedBinding(**binding)
    if not is_seen:
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


def _solution(solution: Solution | None, seen: _Seen, charge: _Charge) -> SolutionShown | None:
    if solution is None:
        return None
    # For `runs`, each waits by itself.
    of_one = charge.amount if solution.solve_for == "runs" else solution.amount
    return SolutionShown(
        solve_for=solution.solve_for,
        value=_number(solution.value),
        cost=show_amount(solution.amount),
        waits=bool(seen.waits_for(of_one)),
    )


def _number(value: int | Decimal) -> int | float:
    """Return a parameter as answers show it: an exact decimal becomes the double nearest to it."""
    return value if isinstance(value, int) else float(value)

"""The decision, against a model written independently of it in exact fractions."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.core.amounts import Amount
from ledger.core.books import Books
from ledger.core.commands import (
    AddPartitions,
    Ask,
    Batch,
    Change,
    SetBudget,
    SetFairUse,
    SetProject,
    Settle,
    Start,
    Void,
)
from ledger.core.datasets import AccountKey, FairUse
from ledger.core.decision.group import Batched, Unrecorded, decide
from ledger.core.decision.posting import Repeat
from ledger.core.runs import Excess, Use
from tests.kit.books import ALONE, NOW_US, actor, add_dataset, ask, use
from tests.kit.trials import trials

Real = tuple[Fraction, Fraction]
Where = tuple[int, str | None, str | UUID | None]
"""An account, as the model names it: dataset, partition, and nobody, a project or a principal."""


def real(amount: Amount) -> Real:
    """mu² and nats as real numbers."""
    return Fraction(amount.mu_sq_pico, 10**12), Fraction(amount.delta_atto, 10**18)


def above(one: Real, other: Real) -> bool:
    """Whether it is more in either quantity."""
    return one[0] > other[0] or one[1] > other[1]


def plus(one: Real, other: Real) -> Real:
    """The sum, each quantity for itself."""
    return one[0] + other[0], one[1] + other[1]


@dataclass
class Ran:
    """A run: its state, what it costs or was charged, and where."""

    state: str
    cost: Real
    at: list[Where]
    charged: Real = (Fraction(0), Fraction(0))


@dataclass
class Model:
    """What a ledger is, said once more: real numbers of mu² and nats, and a few rules. A balance is kept nowhere; it is
    the sum over the runs."""

    limits: dict[int, Real]
    partitions: dict[int, list[str]]
    states: dict[int, str] = field(default_factory=lambda: dict.fromkeys((1, 2, 3, 4), "active"))
    projects: dict[tuple[int, str], Real] = field(default_factory=dict)
    fair: dict[int, Real] = field(default_factory=dict)
    runs: dict[UUID, Ran] = field(default_factory=dict)

    def committed(self, where: Where) -> Real:
        """What is spent and held there; a principal's account counts holds alone."""
        total: Real = (Fraction(0), Fraction(0))
        for ran in self.runs.values():
            if where in ran.at and ran.state in ("held", "started"):
                total = plus(total, ran.cost)
            elif where in ran.at and ran.state == "settled" and not isinstance(where[2], UUID):
                total = plus(total, ran.charged)
        return total

    def limit(self, where: Where) -> Real:
        """The limit of an account as it is now."""
        dataset, _, holder = where
        if holder is None:
            return self.limits[dataset]
        return self.projects[dataset, holder] if isinstance(holder, str) else self.fair[dataset]

    def fits(self, where: Where, cost: Real) -> bool:
        have, limit = self.committed(where), self.limit(where)
        if isinstance(where[2], UUID):
            # Who holds more than a lowered limit allows may hold no more, and is not told to hold less.
            limit = max(limit[0], have[0]), max(limit[1], have[1])
        return not above(plus(have, cost), limit)

    def places(self, asked: Ask) -> list[Where] | str:
        """The accounts that a run charges, or the error."""
        found: list[Where] = []
        for each in asked.uses:
            number = each.dataset_id.int
            scopes: Sequence[str | None] = (None,)
            if number in self.partitions:
                scopes = self.partitions[number] if each.partitions is None else each.partitions
                if not scopes:
                    return "invalid-request"
                if not set(scopes) <= set(self.partitions[number]):
                    return "not-found"
            for scope in scopes:
                found += [(number, scope, None)] if number in self.limits else []
                if asked.project is not None and (number, asked.project) in self.projects:
                    found.append((number, scope, asked.project))
                found += [(number, scope, asked.actor.principal_id)] if number in self.fair else []
        return found

    # --- one command after another, each as the code or kind that comes of it

    def asked(self, asked: Ask) -> str:
        if any(self.states[each.dataset_id.int] != "active" for each in asked.uses):
            return "dataset-frozen"
        if asked.project is not None:
            named = {name for each in asked.uses for name in each.via}
            have = {
                name
                for each in asked.uses
                if (each.dataset_id.int, asked.project) in self.projects
                for name in each.via
            }
            if named != have:
                return "not-found"
        places = self.places(asked)
        if isinstance(places, str):
            return places
        fits = all(self.fits(where, real(asked.cost)) for where in places)
        self.runs[asked.run_id] = Ran("held" if fits else "refused", real(asked.cost), places)
        return "run-approved" if fits else "run-refused"

    def most(self, asks: Sequence[Ask]) -> list[str]:
        """As many as fit: one after another, if each can be decided; the others leave nothing."""
        before, found = copy.deepcopy(self.runs), [self.asked(each) for each in asks]
        errors = set(found) - {"run-approved", "run-refused"}
        if errors:  # each as it stands by itself
            self.runs, alone = before, list[str]()
            for each in asks:
                alone.append(self.asked(each))
                self.runs.pop(each.run_id, None)
            return [{"run-approved": "batch-refused", "run-refused": "unrecorded"}.get(each, each) for each in alone]
        for each, came in zip(asks, found, strict=True):
            if came == "run-refused":
                del self.runs[each.run_id]
        return [{"run-refused": "unrecorded"}.get(each, each) for each in found]

    def batched(self, asks: Sequence[Ask], *, is_atomic: bool) -> list[str]:
        before = copy.deepcopy(self.runs)
        found = [self.asked(each) for each in asks]
        if not is_atomic or set(found) == {"run-approved"}:
            return found
        self.runs = before
        return [{"run-approved": "batch-refused", "run-refused": "unrecorded"}.get(each, each) for each in found]

    def moved(self, run: UUID, what: str, charged: Real, excess: Real | None) -> str:
        ran = self.runs.get(run)
        if ran is None:
            return "not-found"
        done = {"start": "started", "settle": "settled", "void": "voided"}[what]
        if ran.state == done:
            return f"run-{done}"
        if ran.state not in {"start": ("held",), "settle": ("started",), "void": ("held", "started")}[what]:
            return "run-state"
        if what == "start" and any(self.states[dataset] != "active" for dataset, *_ in ran.at):
            return "dataset-frozen"
        if what == "settle":
            ran.state, ran.charged = "settled", charged
            if excess is not None:
                self.overran(ran, excess)
        ran.state = done
        return f"run-{done}"

    def overran(self, ran: Ran, excess: Real) -> None:
        """What was executed beyond the plan is asked for like a new run, and charged whatever the answer."""
        beyond = {where[0] for where in ran.at if not isinstance(where[2], UUID) and not self.fits(where, excess)}
        for dataset in beyond:
            if self.states[dataset] != "retired":
                self.states[dataset] = "frozen"
        ran.charged = plus(ran.charged, excess)

    def over(self, where: Where) -> Real:
        """By how much an account is overdrawn; a principal's never is."""
        if isinstance(where[2], UUID):
            return Fraction(0), Fraction(0)
        have, limit = self.committed(where), self.limit(where)
        return max(have[0] - limit[0], Fraction(0)), max(have[1] - limit[1], Fraction(0))

    def everywhere(self, dataset: int, holder: str | None) -> set[Where]:
        """The accounts of a budget that something was ever charged to."""
        at = {where for ran in self.runs.values() for where in ran.at}
        return {where for where in at if where[0] == dataset and where[2] == holder}

    def lowered(self, dataset: int, holder: str | None, limit: Real) -> bool:
        """Whether the new limit holds all that is committed."""
        return not any(above(self.committed(where), limit) for where in self.everywhere(dataset, holder))


USES: list[tuple[Use, ...]] = [
    (use(1),),
    (use(2, None),),
    (use(2, ["a"]),),
    (use(2, ["b", "a"]),),
    (use(1), use(2, ["c"])),
    (use(1), use(2, None)),
    (use(3), use(2, None, via=3)),
    (use(3), use(2, ["b"], via=3)),
    (use(4), use(1, via=4)),
    (use(4), use(3), use(1, via=4), use(2, ["a"], via=3)),
]
"""What a run can be asked for: dataset 1 is whole, 2 has partitions, 3 comes from 2 and has no budget of its own, 4
comes from 1 and has one."""
WHO = [actor("requester", 1), actor("requester", 2)]
ADMIN = actor("admin", 3)
whats = [
    *["ask"] * 6,
    *["start", "settle", "settle"] * 2,
    *["settle less", "settle more", "void", "batch", "all or none", "budget", "project", "fair use", "freeze", "thaw"],
    "thaw",
    "partition",
    "as many as fit",
]
amounts = st.builds(Amount, st.integers(0, 400), st.integers(0, 400)) | st.builds(
    Amount, st.integers(0, 10**17), st.integers(0, 10**17)
)
steps = st.lists(st.tuples(st.sampled_from(whats), amounts, st.integers(0, 10**6)), max_size=50)


class Play:
    """Turns a script into commands, with what the model says of each."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.asked: list[Ask] = []

    def ask(self, amount: Amount, pick: int) -> Ask:
        made = ask(
            *USES[pick % len(USES)],
            cost=amount,
            who=WHO[pick // 16 % 2],
            project="p" if pick // 32 % 3 == 0 else None,
        )
        self.asked.append(made)
        return made

    def command(self, what: str, amount: Amount, pick: int) -> tuple[Any, Any]:  # noqa: C901 (one case each)
        number = pick % 4 + 1
        model, id_ = self.model, UUID(int=number)
        match what:
            case "ask":
                asked = self.ask(amount, pick)
                return asked, model.asked(asked)
            case "batch" | "all or none":
                asks = tuple(self.ask(amount, pick + step) for step in range(0, 3 * 7, 7))
                is_atomic = what == "all or none"
                return Batch(WHO[0], asks, is_atomic), model.batched(asks, is_atomic=is_atomic)
            case "as many as fit":
                asks = tuple(self.ask(amount, pick + step) for step in range(0, 3 * 7, 7))
                return Batch(WHO[0], asks, is_atomic=False, takes_most=True), model.most(asks)
            case "budget":
                if number not in model.limits:
                    return SetBudget(ADMIN, id_, {}, amount, "r", ALONE), "invalid-request"
                is_right = model.lowered(number, None, real(amount))
                if is_right:
                    model.limits[number] = real(amount)
                return SetBudget(ADMIN, id_, {}, amount, "r", ALONE), "budget-set" if is_right else "budget-below-spent"
            case "project":
                is_right = model.lowered(number, "p", real(amount))
                if is_right:
                    model.projects[number, "p"] = real(amount)
                command = SetProject(ADMIN, id_, "p", {}, amount, None, ALONE)
                return command, "project-set" if is_right else "budget-below-spent"
            case "fair use":
                if pick // 4 % 4 == 0:
                    model.fair.pop(number, None)
                    return SetFairUse(ADMIN, id_, FairUse(None, None, None), "r", ALONE), "fair-use-set"
                model.fair[number] = real(amount)
                return SetFairUse(ADMIN, id_, FairUse({}, amount, None), "r", ALONE), "fair-use-set"
            case "freeze" | "thaw":
                state: Any = "frozen" if what == "freeze" else "active"
                model.states[number] = state
                return Change(ADMIN, id_, state, None, None, "r", ALONE), "dataset-changed"
            case "partition":
                name = "abcdef"[pick % 6]
                command_ = AddPartitions(ADMIN, UUID(int=2), (name,), ALONE)
                if name in model.partitions[2]:
                    return command_, "name-taken"
                model.partitions[2].append(name)
                return command_, "partitions-added"
            case _:
                return self.move(what, amount, pick)

    def move(self, what: str, amount: Amount, pick: int) -> tuple[Any, str]:
        """Something is done with a run that was asked for."""
        asked = self.asked[pick % len(self.asked)] if self.asked else ask(1, cost=amount)
        ran = self.model.runs.get(asked.run_id)
        at: dict[UUID, tuple[AccountKey, ...]] = {each.dataset_id: () for each in asked.uses}
        for dataset, partition, holder in ran.at if ran is not None else ():
            project, principal = (holder, None) if isinstance(holder, str) else (None, holder)
            key = AccountKey(UUID(int=dataset), partition, project, principal)
            at[key.dataset_id] = (*at[key.dataset_id], key)
        if what == "start":
            # The dataset that has no account of its own counts too.
            states = {each.dataset_id.int: self.model.states[each.dataset_id.int] for each in asked.uses}
            is_ready = ran is not None and ran.state == "held"
            if is_ready and set(states.values()) != {"active"}:
                return Start(ADMIN, asked.run_id, at), "dataset-frozen"
            return Start(ADMIN, asked.run_id, at), self.model.moved(asked.run_id, "start", real(amount), None)
        if what == "void":
            command = Void(ADMIN, asked.run_id, at, body={"reason": "r"}, consent=ALONE)
            return command, self.model.moved(asked.run_id, "void", real(amount), None)
        charged = asked.cost.least(amount) if what == "settle less" else asked.cost
        excess = amount if what == "settle more" else None
        settle = Settle(
            ADMIN,
            asked.run_id,
            at,
            body={},
            steps=None,
            stop="planned",
            charged=charged,
            excess=None if excess is None else Excess(1, excess, {}),
        )
        told = self.model.moved(asked.run_id, "settle", real(charged), None if excess is None else real(excess))
        return settle, told


def said(outcome: Any) -> Any:
    """An outcome as the model says it."""
    match outcome:
        case tuple():
            (kind,) = {draft.kind for draft in outcome}
            return kind
        case Repeat():
            return outcome.kind
        case Unrecorded():
            return "unrecorded"
        case Batched():
            return [said(each) for each in outcome.outcomes]
        case _:
            return outcome.code


@settings(max_examples=trials(100, 300), deadline=None)
@given(amounts, amounts, steps, st.integers(1, 8))
def test_decisions_are_those_of_a_model_in_fractions(one: Amount, two: Amount, script: list[Any], group: int) -> None:
    """Goal: approvals, refusals, balances and states are right whatever is asked in whatever order and grouping: of
    whole datasets and partitions, derived ones, projects and principals, alone, together, in batches and overrun.
    Method: random scripts, cut into groups, against a model in exact real numbers that knows no integers and keeps no
    balance."""
    books = Books()
    add_dataset(books, 1, one)
    add_dataset(books, 2, two, partitions=["a", "b"])
    add_dataset(books, 3, None)
    add_dataset(books, 4, two)
    model = Model({1: real(one), 2: real(two), 4: real(two)}, {2: ["a", "b"]})
    play = Play(model)
    commands, expected = zip(*[play.command(*step) for step in script], strict=True) if script else ((), ())
    for begin in range(0, len(commands), group):
        books, outcomes = decide(books, commands[begin : begin + group], now_us=NOW_US)
        assert [said(outcome) for outcome in outcomes] == list(expected[begin : begin + group])
    for key, account in books.accounts.items():
        where = (key.dataset_id.int, key.partition, key.project or key.principal_id)
        assert real(account.spent + account.held) == model.committed(where), key
        if key.principal_id is None:
            assert real(account.limit) == model.limit(where)
        assert real(account.overdrawn) == model.over(where)
    there = {(key.dataset_id.int, key.partition, key.project or key.principal_id) for key in books.accounts}
    assert {where for ran in model.runs.values() for where in ran.at} <= there
    assert {run.id: run.state for run in books.runs.values()} == {run: ran.state for run, ran in model.runs.items()}
    assert {dataset.id.int: dataset.state for dataset in books.datasets.values()} == model.states


def test_the_scripts_reach_every_outcome() -> None:
    """Goal: the test above is not empty. Method: count what came of the same kind of script over many seeds."""

    rng, seen = random.Random(5), set[str]()
    for _ in range(60):
        model = Model(
            {1: real(Amount(900, 900)), 2: real(Amount(700, 700)), 4: real(Amount(500, 500))}, {2: ["a", "b"]}
        )
        play = Play(model)
        for _ in range(60):
            amount = Amount(rng.randrange(400), rng.randrange(400))
            _, told = play.command(rng.choice(whats), amount, rng.randrange(10**6))
            seen |= set(told) if isinstance(told, list) else {told}
    assert seen == {
        *("run-approved", "run-refused", "run-started", "run-settled", "run-voided", "run-state"),
        *("dataset-changed", "dataset-frozen", "budget-set", "budget-below-spent", "project-set", "fair-use-set"),
        *("partitions-added", "name-taken", "not-found", "invalid-request", "batch-refused", "unrecorded"),
    }

"""What the ledger promises of budgets, said once more from the written contract alone, and in exact fractions.

It shares nothing with the ledger, and works the other way round: it keeps no balance, but adds up every account anew
from all runs that ever touched it, so that nothing can get lost or be counted twice on the way. It is told what is
asked, says what must be answered, and carries that out. Where the contract leaves open which of several errors comes
first, it names them all.
"""

from __future__ import annotations

import copy
import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

from tests.kit.budget_costs import (
    MOST,
    STEPPED,
    ZERO,
    Amount,
    Json,
    Quantity,
    charge,
    is_shuffled,
    limit_of,
    per_epoch,
    planned,
    price,
)

# --- what is sent and shown -------------------------------------------------------------------------------------------


def gaussian(noise: float = 5, count: int = 1) -> Json:
    """Releases with Gaussian noise; one with noise multiplier 5 costs 4e10 units."""
    return {"type": "gaussian", "noise_multiplier": noise, "count": count}


def derived(*parents: str) -> list[Json]:
    """What says that a dataset is derived."""
    return [{"name": parent, "unit_preserving": True} for parent in parents]


def read_amount(shown: Json) -> Amount:
    """The exact integers of an amount in an answer."""
    return Amount(int(shown["mu_sq_pico"]), int(shown["delta_atto"]))


def read_balance(shown: Json | None) -> dict[str, Amount] | None:
    """The exact integers of a balance in an answer."""
    if shown is None:
        return None
    return {part: read_amount(shown[part]) for part in ("limit", "spent", "held", "remaining")}


def read_shown(shown: Json) -> dict[str, Any]:
    """A dataset's answer in the form of `Model.shown`."""
    parts = shown["partitions"]
    return {
        "balance": read_balance(shown["balance"]),
        "partitions": None if parts is None else {part["name"]: read_balance(part["balance"]) for part in parts},
        "projects": {project["name"]: read_balance(project["balance"]) for project in shown["projects"]},
    }


# --- what is kept ----------------------------------------------------------------------------------------------------


class Account(NamedTuple):
    """Where a budget is counted: of a dataset, or one of its partitions, and of nobody, a project or a principal."""

    dataset: str
    partition: str | None = None
    project: str | None = None
    principal: str | None = None


@dataclass
class Dataset:
    """A dataset as the model knows it. `partitions` is None where there never are any."""

    name: str
    bound: str
    adjacency: str
    unit: str
    parents: tuple[str, ...] = ()
    budget: Json | None = None
    ceiling: Json | None = None
    partitions: list[str] | None = None
    state: str = "active"
    projects: dict[str, Json] = field(default_factory=dict)
    fair_use: Json | None = None
    runs_per_hour: int | None = None
    seq: int = 1

    @property
    def scopes(self) -> list[str | None]:
        """The whole, or every partition."""
        return [None] if self.partitions is None else [*self.partitions]


@dataclass
class Run:
    """A run that was decided on. `accounts` are those that it was charged to, for good."""

    owner: str
    datasets: tuple[str, ...]
    accounts: tuple[Account, ...]
    cost: Amount
    mechanism: Json
    adjacency: str
    segments: int
    state: str
    charged: Amount = ZERO
    said: dict[str, Json] = field(default_factory=dict)
    """The bodies of what was done with it, by call."""
    id: str = ""
    is_reported: bool = False
    """Whether it said that it executed more than any budget could cover."""

    @property
    def one_segment(self) -> tuple[int, tuple[Fraction, Fraction]]:
        """The steps and the price of one segment."""
        steps = math.ceil(math.ceil(planned(self.mechanism) or 0) / self.segments)
        return steps, price(self.mechanism, self.adjacency, steps)

    def of_segments(self, count: int) -> Amount:
        """The cost of so many segments, rounded once."""
        mu_sq, of_delta = self.one_segment[1]
        return charge((count * mu_sq, count * of_delta))

    @property
    def declared(self) -> Amount:
        """The cost of all that it declares."""
        return charge(price(self.mechanism, self.adjacency)) if self.segments == 1 else self.of_segments(self.segments)

    def executed(self, steps: int) -> Amount:
        """The cost of so many steps as they were executed: segments restart, so a unit takes part in each anew."""
        if self.segments == 1:
            return charge(price(self.mechanism, self.adjacency, steps))
        whole, rest = divmod(steps, self.one_segment[0])
        parts = [*[self.one_segment[1]] * whole, *([price(self.mechanism, self.adjacency, rest)] if rest else [])]
        return charge((sum((p[0] for p in parts), Fraction(0)), sum((p[1] for p in parts), Fraction(0))))

    @property
    def steps_max(self) -> int:
        """The most steps that are as planned."""
        if self.segments > 1:
            return self.segments * self.one_segment[0]
        return math.ceil(planned(self.mechanism) or 0)


# --- what is answered ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """An error that may be answered, the facts that it names, and its field."""

    status: int
    code: str
    facts: frozenset[str] = frozenset()
    field: str | None = None


@dataclass(frozen=True)
class Binding:
    """An account in which a run does not fit."""

    account: Account
    quantity: Quantity
    requested: int
    remaining: int
    limit: int


@dataclass(frozen=True)
class OnDataset:
    """What the answer to a run says of one dataset."""

    name: str
    seq: int
    remaining: Amount | None


@dataclass
class Expected:
    """What must be answered: one of `problems`, or `status` with what goes with it."""

    status: int = 200
    problems: frozenset[Problem] = frozenset()
    replay_of: str | None = None
    """The idempotency key, or the call, whose first answer is repeated."""
    run: Run | None = None
    binding: frozenset[Binding] | None = None
    left: Amount = ZERO
    """What remains, in each quantity for itself, of all the accounts that a refused run would have been charged to."""
    datasets: tuple[OnDataset, ...] = ()
    overrun: tuple[int, Amount] | None = None
    frozen: frozenset[str] = frozenset()
    overdrawn: frozenset[tuple[Account, Quantity]] = frozenset()
    items: list[Expected] | None = None
    touched: frozenset[str] = frozenset()

    @property
    def is_fine(self) -> bool:
        return not self.problems


def wrong(*problems: Problem) -> Expected:
    """One of these errors, and nothing happens."""
    return Expected(problems=frozenset(problems))


FORBIDDEN = Problem(403, "forbidden")
REUSED = Problem(422, "idempotency-key-reused")
RUN_STATE = Problem(409, "run-state", frozenset({"state"}))
FROZEN = Problem(409, "dataset-frozen", frozenset({"dataset", "state"}))
REFUSED = Problem(409, "batch-refused")


def canonical(body: Any) -> str:
    """The same for bodies that are the same."""
    return json.dumps(body, sort_keys=True)


@dataclass
class Resolved:
    """What a request comes to: the datasets that it touches, named ones first, and the partitions of each."""

    datasets: tuple[str, ...] = ()
    partitions: dict[str, list[str]] = field(default_factory=dict)
    problems: set[Problem] = field(default_factory=set)


def own_key(who: str, key: str) -> str:
    """An idempotency key as its principal's own."""
    return f"{who}: {key}"


class Model:
    """The ledger of one tenant. Principals are `name: role`."""

    def __init__(self, principals: Mapping[str, str]) -> None:
        self.roles = dict(principals)
        self.datasets: dict[str, Dataset] = {}
        self.runs: list[Run] = []
        self.keys: dict[str, tuple[str, str, str, Run]] = {}
        """By `own_key`: whose it is, the idempotency key, its body, and the run that was decided on."""

    # --- balances

    def closure(self, name: str) -> list[str]:
        """A dataset and all its ancestors."""
        found = [name]
        for one in found:
            found.extend(parent for parent in self.datasets[one].parents if parent not in found)
        return found

    def roots(self, name: str) -> set[str]:
        return {one for one in self.closure(name) if not self.datasets[one].parents}

    def spent(self, account: Account) -> Amount:
        """The sum of all that was ever charged there; what a principal holds is never spent."""
        if account.principal is not None:
            return ZERO
        charged = (run.charged for run in self.runs if account in run.accounts)
        return functools.reduce(Amount.plus, charged, ZERO).least(MOST)

    def held(self, account: Account) -> Amount:
        """The sum of all that is reserved there."""
        reserved = (run.cost for run in self.runs if run.state in ("held", "started") and account in run.accounts)
        return functools.reduce(Amount.plus, reserved, ZERO)

    def limit(self, account: Account) -> Amount:
        """What may be spent and held there; of a principal, at least what it holds already."""
        dataset = self.datasets[account.dataset]
        if account.principal is not None:
            return limit_of(dataset.fair_use or {"mu": 0}).most(self.held(account))
        if account.project is not None:
            return limit_of(dataset.projects[account.project])
        return limit_of(dataset.budget or {"mu": 0})

    def used(self, account: Account) -> Amount:
        return self.spent(account).plus(self.held(account))

    def remaining(self, account: Account) -> Amount:
        return self.limit(account).minus(self.used(account))

    def overdrawn(self, account: Account) -> Amount:
        return self.used(account).minus(self.limit(account)).most(ZERO)

    def balance(self, accounts: Sequence[Account], limit: Amount) -> dict[str, Amount]:
        """What several accounts of one budget come to: the most that is spent and held, the least that remains."""
        return {
            "limit": limit,
            "spent": functools.reduce(Amount.most, map(self.spent, accounts), ZERO),
            "held": functools.reduce(Amount.most, map(self.held, accounts), ZERO),
            "remaining": functools.reduce(Amount.least, map(self.remaining, accounts), limit),
        }

    def base_accounts(self, dataset: Dataset) -> list[Account]:
        return [] if dataset.budget is None else [Account(dataset.name, scope) for scope in dataset.scopes]

    def shown(self, name: str) -> dict[str, Any]:
        """The balances that a dataset's answer has: its own, of its partitions, and of its projects."""
        dataset = self.datasets[name]
        own = self.base_accounts(dataset)
        parts = None
        if dataset.partitions is not None:
            parts = {a.partition: self.balance([a], self.limit(a)) for a in own}
        projects = {
            project: self.balance([Account(name, scope, project) for scope in dataset.scopes], limit_of(budget))
            for project, budget in dataset.projects.items()
        }
        budget = None if dataset.budget is None else self.balance(own, limit_of(dataset.budget))
        return {"balance": budget, "partitions": parts, "projects": projects}

    def accounts(self, name: str) -> Iterator[Account]:
        """The accounts of a dataset that something is, or can be, counted in; principals' apart."""
        dataset = self.datasets[name]
        yield from self.base_accounts(dataset)
        yield from (Account(name, scope, project) for scope in dataset.scopes for project in dataset.projects)

    # --- what a steward does

    def may_manage(self, who: str) -> bool:
        return self.roles[who] in ("admin", "steward")

    def register(self, who: str, body: Json) -> Expected:
        """Registers a dataset, a root or a derived one."""
        if not self.may_manage(who):
            return wrong(FORBIDDEN)
        parents = [parent["name"] for parent in body.get("derived_from", [])]
        problems = {Problem(409, "name-taken")} if body["name"] in self.datasets else set()
        problems |= self._wrong_budget(body, is_root=not parents)
        if any(parent not in self.datasets or parent == body["name"] for parent in parents):
            problems.add(Problem(422, "invalid-request", field="derived_from"))
        elif parents:
            problems |= self._wrong_parents(body, parents)
        if problems:
            return wrong(*problems)
        first = self.datasets[parents[0]] if parents else None
        self.datasets[body["name"]] = Dataset(
            name=body["name"],
            bound=body.get("bound") or (first.bound if first else "certified"),
            adjacency=body.get("adjacency") or (first.adjacency if first else ""),
            unit=body.get("privacy_unit") or (first.unit if first else ""),
            parents=tuple(dict.fromkeys(parents)),
            budget=body.get("budget"),
            ceiling=body.get("ceiling"),
            partitions=None if body.get("partitions") is None else [*body["partitions"]],
        )
        return Expected(201, touched=frozenset({body["name"]}))

    def _wrong_budget(self, body: Json, *, is_root: bool) -> set[Problem]:
        if body.get("budget") is None:
            return {Problem(422, "invalid-request", field="budget")} if is_root else set()
        if self._passes(body["budget"], body.get("ceiling")):
            return {Problem(422, "invalid-request", field="budget")}
        return set()

    def _passes(self, budget: Json, ceiling: Json | None) -> bool:
        return ceiling is not None and bool(limit_of(budget).above(limit_of(ceiling)))

    def _wrong_parents(self, body: Json, parents: Sequence[str]) -> set[Problem]:
        problems = set()
        if not all(parent.get("unit_preserving") is True for parent in body["derived_from"]):
            problems.add(Problem(422, "invalid-request"))
        if body.get("partitions") is not None:
            problems.add(Problem(422, "invalid-request"))
        found = [self.datasets[parent] for parent in parents]
        terms = {(parent.bound, parent.adjacency, parent.unit) for parent in found}
        first = found[0]
        said = {
            (
                body.get("bound", first.bound),
                body.get("adjacency", first.adjacency),
                body.get("privacy_unit", first.unit),
            )
        }
        if len(terms | said) > 1:
            problems.add(Problem(409, "unit-mismatch"))
        return problems

    def set_state(self, who: str, name: str, state: str) -> Expected:
        """Freezes, thaws or retires."""
        if not self.may_manage(who):
            return wrong(FORBIDDEN)
        dataset = self.datasets[name]
        if dataset.state == "retired":
            return wrong(FROZEN)
        waits = any(run.is_reported and run.state == "started" and name in run.datasets for run in self.runs)
        if state == "active" and waits:
            return wrong(FROZEN)
        dataset.state = state
        return self._noted(dataset)

    def set_budget(self, who: str, name: str, budget: Json) -> Expected:
        """Sets a dataset's limit, and that of every partition."""
        if not self.may_manage(who):
            return wrong(FORBIDDEN)
        dataset = self.datasets[name]
        problems = set()
        if dataset.budget is None or self._passes(budget, dataset.ceiling):
            problems.add(Problem(422, "invalid-request", field="budget"))
        if any(self.used(account).above(limit_of(budget)) for account in self.base_accounts(dataset)):
            problems.add(Problem(409, "budget-below-spent"))
        if problems:
            return wrong(*problems)
        dataset.budget = budget
        return self._noted(dataset)

    def set_project(self, who: str, name: str, project: str, budget: Json) -> Expected:
        """Sets a project's share."""
        if not self.may_manage(who):
            return wrong(FORBIDDEN)
        dataset = self.datasets[name]
        accounts = [Account(name, scope, project) for scope in dataset.scopes]
        if any(self.used(account).above(limit_of(budget)) for account in accounts):
            return wrong(Problem(409, "budget-below-spent"))
        dataset.projects[project] = budget
        return self._noted(dataset)

    def set_fair_use(self, who: str, name: str, held: Json | None, runs_per_hour: int | None = None) -> Expected:
        """Sets what one principal may have."""
        if not self.may_manage(who):
            return wrong(FORBIDDEN)
        dataset = self.datasets[name]
        dataset.fair_use, dataset.runs_per_hour = held, runs_per_hour
        return self._noted(dataset)

    def add_partitions(self, who: str, name: str, names: Sequence[str], *, disjoint: bool = True) -> Expected:
        """Adds partitions."""
        if not self.may_manage(who):
            return wrong(FORBIDDEN)
        dataset = self.datasets[name]
        problems = set()
        if dataset.partitions is None:
            problems.add(Problem(409, "partitions-closed"))
        elif set(names) & set(dataset.partitions):
            problems.add(Problem(409, "name-taken"))
        if dataset.state == "retired":
            problems.add(FROZEN)
        if not disjoint or len(set(names)) < len(names):
            problems.add(Problem(422, "invalid-request"))
        if problems or dataset.partitions is None:
            return wrong(*problems)
        dataset.partitions.extend(names)
        return replaced(self._noted(dataset), status=201)

    def _noted(self, dataset: Dataset) -> Expected:
        dataset.seq += 1
        return Expected(touched=frozenset({dataset.name}))

    # --- asking for runs

    def resolve(self, body: Json) -> Resolved:
        """What a request for a run names, and all that is wrong with it."""
        uses = [{"name": use} if isinstance(use, str) else use for use in body["datasets"]]
        found = Resolved()
        if any(use["name"] not in self.datasets for use in uses):
            found.problems.add(Problem(404, "not-found"))
            uses = [use for use in uses if use["name"] in self.datasets]
        named = [use["name"] for use in uses]
        if len({(d.bound, d.adjacency, d.unit) for d in map(self.datasets.__getitem__, named)}) > 1:
            found.problems.add(Problem(409, "unit-mismatch"))
        reached = [root for use in uses for root in self.roots(use["name"])]
        if len(set(reached)) < len(reached):
            found.problems.add(Problem(422, "invalid-request", frozenset({"root", "via"}), field="datasets"))
        for use in uses:
            self._resolve_partitions(use, found)
        project = body.get("project")
        if project is not None:
            for name in named:
                if not any(project in self.datasets[one].projects for one in self.closure(name)):
                    found.problems.add(Problem(404, "not-found", frozenset({"project"})))
        others = sorted({one for name in named for one in self.closure(name)} - set(named))
        found.datasets = (*dict.fromkeys(named), *others)
        if any(self.datasets[name].state != "active" for name in found.datasets):
            found.problems.add(FROZEN)
        return found

    def _resolve_partitions(self, use: Json, found: Resolved) -> None:
        parted = [name for name in self.closure(use["name"]) if self.datasets[name].partitions is not None]
        chosen = use.get("partitions")
        if chosen is not None and (not parted or not chosen):
            found.problems.add(Problem(422, "invalid-request"))
        for name in parted:
            there = self.datasets[name].partitions or []
            if chosen and set(chosen) - set(there):
                found.problems.add(Problem(404, "not-found", frozenset({"partition"})))
            if not there:
                found.problems.add(Problem(422, "invalid-request"))
            found.partitions[name] = [*there] if chosen is None else [*chosen]

    def charged_accounts(self, who: str, resolved: Resolved, project: str | None) -> list[Account]:
        """All the accounts that a run is charged to, or none."""
        found = []
        for name in resolved.datasets:
            dataset = self.datasets[name]
            scopes: Sequence[str | None] = resolved.partitions.get(name, [None])
            if dataset.budget is not None:
                found += [Account(name, scope) for scope in scopes]
            if project in dataset.projects:
                found += [Account(name, scope, project) for scope in scopes]
            if dataset.fair_use is not None:
                found += [Account(name, scope, principal=who) for scope in scopes]
        return found

    def ask(self, who: str, key: str, body: Json) -> Expected:
        """Asks for a run under an idempotency key."""
        if self.roles[who] not in ("admin", "requester"):
            return wrong(FORBIDDEN)
        bound = self.keys.get(own_key(who, key))
        if bound is not None and bound[2] == canonical(body):
            return Expected(
                replay_of=own_key(who, key), run=bound[3], status=409 if bound[3].state == "refused" else 201
            )
        resolved = self.resolve(body)
        problems = resolved.problems | self._wrong_run(body) | self._wrong_segments(body)
        if bound is not None:
            return wrong(REUSED, *problems)
        if self._is_limited(who, resolved):
            problems.add(Problem(429, "rate-limited"))
        if problems:
            return wrong(*problems)
        answer = self._decided(who, body, resolved)
        assert answer.run is not None
        self.runs.append(answer.run)
        self.keys[own_key(who, key)] = who, key, canonical(body), answer.run
        for name in answer.run.datasets:
            self.datasets[name].seq += 1
        answer.datasets = tuple(self._on_dataset(name, answer.run) for name in answer.run.datasets)
        return answer

    def _wrong_run(self, body: Json) -> set[Problem]:
        """What is wrong with a body whatever the datasets are."""
        mechanism = body["mechanism"]
        return {Problem(422, "invalid-mechanism")} if mechanism.get("noise_multiplier") == 0 else set()

    def _wrong_segments(self, body: Json) -> set[Problem]:
        if body.get("segments", 1) > 1 and body["mechanism"]["type"] not in STEPPED:
            return {Problem(422, "invalid-request", field="segments")}
        return set()

    def _is_limited(self, who: str, resolved: Resolved) -> bool:
        for name in resolved.datasets:
            most = self.datasets[name].runs_per_hour
            decided = sum(run.owner == who and name in run.datasets for run in self.runs)
            if most is not None and decided >= most:
                return True
        return False

    def _decided(self, who: str, body: Json, resolved: Resolved) -> Expected:
        """Approves or refuses, and records neither."""
        mechanism, segments = body["mechanism"], body.get("segments", 1)
        adjacency = self.datasets[resolved.datasets[0]].adjacency
        accounts = tuple(self.charged_accounts(who, resolved, body.get("project")))
        run = Run(who, resolved.datasets, accounts, ZERO, mechanism, adjacency, segments, "held")
        run.cost = run.declared
        binding = frozenset(
            Binding(account, quantity, *(getattr(amount, quantity) for amount in (run.cost, left, limit)))
            for account in accounts
            for left, limit in [(self.remaining(account), self.limit(account))]
            for quantity in run.cost.above(left)
        )
        if binding:
            run.state, run.accounts = "refused", ()
            left = functools.reduce(Amount.least, map(self.remaining, accounts))
            return Expected(409, run=run, binding=binding, left=left, touched=frozenset(run.datasets))
        return Expected(201, run=run, touched=frozenset(run.datasets))

    def _on_dataset(self, name: str, run: Run) -> OnDataset:
        left = [self.remaining(account) for account in run.accounts if account.dataset == name]
        return OnDataset(name, self.datasets[name].seq, functools.reduce(Amount.least, left) if left else None)

    def batch(self, who: str, items: Sequence[Json], *, is_atomic: bool) -> Expected:
        """Asks for several runs, one after another."""
        if self.roles[who] not in ("admin", "requester"):
            return wrong(FORBIDDEN)
        asked = [item["idempotency_key"] for item in items]
        invalid = [problem for item in items for problem in self._wrong_run(item) if problem.status == 422]
        if len(set(asked)) < len(asked) or (is_atomic and invalid):
            return wrong(*(Problem(422, code) for code in ("invalid-request", "invalid-mechanism")))
        before = copy.deepcopy(self.__dict__) if is_atomic else {}
        answers = []
        for key, item in zip(asked, items, strict=True):
            is_new = own_key(who, key) not in self.keys
            answer = self.ask(who, key, {name: value for name, value in item.items() if name != "idempotency_key"})
            if is_atomic and is_new and answer.binding is not None:
                del self.keys[own_key(who, key)]  # a refusal in an atomic batch is none: nothing is recorded
                self.runs.pop()
            answers.append(answer)
        if not is_atomic or all(answer.is_fine and answer.status == 201 for answer in answers):
            return Expected(items=answers, touched=frozenset().union(*(answer.touched for answer in answers)))
        self.__dict__.update(before)
        return Expected(409, problems=frozenset({REFUSED}), items=answers)

    # --- what is done with a run

    def start(self, who: str, run: Run) -> Expected:
        """Now it touches the data."""
        problems = self._not_theirs(who, run)
        if run.state == "started" and not problems:
            return Expected(replay_of="start", run=run)
        if run.state != "held":
            problems.add(RUN_STATE)
        elif any(self.datasets[name].state != "active" for name in run.datasets):
            problems.add(FROZEN)
        if problems:
            return wrong(*problems)
        run.state = "started"
        return self._moved(run)

    def void(self, who: str, run: Run, body: Json) -> Expected:
        """No output was ever seen."""
        problems = set()
        if run.state == "voided" and run.said["void"] == body:
            return Expected(replay_of="void", run=run, problems=frozenset(self._not_theirs(who, run, is_void=True)))
        if run.state not in ("held", "started"):
            problems.add(RUN_STATE)
        problems |= self._not_theirs(who, run, is_void=True)
        if self.roles[who] == "requester" and run.state != "held":
            problems.add(FORBIDDEN)
        if problems:
            return wrong(*problems)
        run.state = "voided"
        run.said["void"] = body
        return self._moved(run)

    def _not_theirs(self, who: str, run: Run, *, is_void: bool = False) -> set[Problem]:
        if self.roles[who] == "admin" or (is_void and self.roles[who] == "steward") or run.owner == who:
            return set()
        return {FORBIDDEN}

    def _moved(self, run: Run) -> Expected:
        for name in run.datasets:
            self.datasets[name].seq += 1
        return Expected(run=run, touched=frozenset(run.datasets))

    def settle(self, who: str, run: Run, body: Json) -> Expected:
        """Charges what was executed."""
        problems = self._not_theirs(who, run)
        if run.said.get("settle") == body and (run.state == "settled" or run.is_reported) and not problems:
            return Expected(replay_of="settle", run=run)
        if run.state != "started" or run.is_reported:
            problems.add(RUN_STATE)
        steps, stop = body.get("steps"), body.get("stop")
        declared = planned(run.mechanism)
        fewer = steps if steps is not None and declared is not None and steps < math.floor(declared) else None
        if (steps is not None and declared is None) or (fewer is not None and stop == "planned"):
            problems.add(Problem(422, "invalid-request"))
        if problems:
            return wrong(*problems)
        run.said["settle"] = body
        more = 0 if steps is None else steps - run.steps_max
        if more > 0 and self._is_beyond_limits(run, self.excess(run, more)):
            return self._report(run, more)
        run.state = "settled"
        run.charged = run.cost if fewer is None else self._charge(run, fewer, stop)
        return self._moved(run) if more <= 0 else self._overrun(run, more)

    def _is_beyond_limits(self, run: Run, cost: Amount) -> bool:
        """Whether no budget of one of its accounts could cover it."""
        return any(cost.above(self.limit(account)) for account in run.accounts if account.principal is None)

    def _report(self, run: Run, steps: int) -> Expected:
        """Nothing is charged, and every dataset that it touches waits for a steward."""
        run.is_reported = True
        answer = self._moved(run)
        answer.status, answer.overrun = 409, (steps, self.excess(run, steps))
        answer.overdrawn, answer.frozen = frozenset(), frozenset(run.datasets)
        for name in run.datasets:
            if self.datasets[name].state == "active":
                self.datasets[name].state = "frozen"
        return answer

    def _charge(self, run: Run, steps: int, stop: str | None) -> Amount:
        """For fewer steps than planned. Everything but correlated noise is additive by release, or by epoch."""
        if stop == "data_independent" or run.mechanism["type"] != "matrix_factorization":
            executed = run.executed(max(steps, 1))
            return executed if not executed.above(run.cost) else run.cost
        if run.segments > 1:
            return run.of_segments(max(math.ceil(Fraction(steps, run.one_segment[0])), 1))
        return run.cost

    def excess(self, run: Run, steps: int) -> Amount:
        """What so many steps beyond the plan cost, as a run of their own."""
        if is_shuffled(run.mechanism):
            length = per_epoch(run.mechanism)
            # Where an epoch ends is only known if all have the same number of steps.
            is_whole = run.mechanism.get("dataset_size", 0) % run.mechanism.get("batch_size", 1) == 0
            is_within = not is_whole or run.steps_max % length > 0
            epochs = math.ceil(Fraction(steps, length)) + is_within
            return charge(price(run.mechanism, run.adjacency, epochs * length))
        if run.mechanism["type"] == "matrix_factorization":
            length, (mu_sq, of_delta) = run.one_segment
            restarts = math.ceil(Fraction(steps, length))
            return charge((restarts * mu_sq, restarts * of_delta))
        return charge(price(run.mechanism, run.adjacency, steps))

    def _overrun(self, run: Run, steps: int) -> Expected:
        """Charges more than was approved; what does not fit freezes the datasets where it does not."""
        cost = self.excess(run, steps)
        lasting = [account for account in run.accounts if account.principal is None]
        fits = not any(cost.above(self.remaining(account)) for account in lasting)
        run.charged = run.charged.plus(cost)
        answer = self._moved(run)
        answer.overrun = steps, cost
        if fits:
            return answer
        over = [(account, self.overdrawn(account)) for account in lasting]
        answer.overdrawn = frozenset((account, quantity) for account, by in over for quantity in by.above(ZERO))
        answer.frozen = frozenset(account.dataset for account, _ in answer.overdrawn)
        answer.status = 409
        for name in answer.frozen:
            if self.datasets[name].state == "active":
                self.datasets[name].state = "frozen"
        return answer


def replaced(answer: Expected, *, status: int) -> Expected:
    """The same with another status."""
    answer.status = status
    return answer

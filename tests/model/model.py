"""The ledger of one tenant as its documentation has it: what is answered, what is written, what is left.

It shares no code with the ledger. An operation returns what must be answered, or raises `Refused` with every error that
may be, since the documentation does not say which of several faults comes first.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.model.prices import NOTHING, Amount, Json, Plan, limit_of, repeated, rests_on_size

Key = tuple[str | None, str | None, str | None]
"""Of an account in its dataset: partition, project, principal."""
Over = dict[tuple[str, Key, str], Sequence[int]]
"""By dataset, account and quantity, all in which something does not fit: what was requested, what remained, limit."""
OWN: Final[Key] = (None, None, None)
FULL: Final = Amount(2**63 - 1, 2**63 - 1)
"""A sum that passes it stays there (export.md, "An entry")."""
TERMS: Final = ("privacy_unit", "adjacency", "bound")
INVALID: Final = dict.fromkeys(("invalid-request", "invalid-mechanism", "idempotency-key-reused"), 422)
OTHERS: Final = {"idempotency-key-missing": 400, "forbidden": 403, "not-found": 404, "too-large": 413}
STATUS: Final = {**INVALID, **OTHERS, "rate-limited": 429}
"""Of an error, by its code; 409 of all others."""
ROLES: Final = {"start": ["requester"], "settle": ["requester"], "void": ["requester", "steward"]}
"""Who may make a call, beside an admin (README.md, "Calls"); stewards all others."""
TAKES_TWO: Final = ["budget", "correction", "fair-use", "partitions", "project", "thaw", "void"]
"""The calls that a second steward has to approve if they loosen a budget."""
AGAIN: Final = {"start": ["started"], "settle": ["started", "settled"], "void": ["voided"]}
"""The states of a run in which a call that was made before has its first answer again; `settled` for all others."""


class Refused(Exception):
    """One of these errors is answered, and nothing happens."""

    def __init__(self, *codes: str) -> None:
        self.problems = {(STATUS.get(code, 409), code) for code in codes}


def demand(**faults: object) -> None:
    """Raises the errors whose fault is there."""
    if codes := [name.replace("_", "-") for name, fault in faults.items() if fault]:
        raise Refused(*codes)


def joined(amounts: Iterable[Amount], how: Callable[[Any, Any], Any]) -> Amount | None:
    """The least or the most in each quantity for itself; None of none."""
    listed = [*amounts]
    return functools.reduce(lambda one, other: one.join(other, how), listed) if listed else None


@dataclass(frozen=True)
class Person:
    """A principal with its key, which can be limited to datasets or projects."""

    name: str
    role: str
    id: str
    datasets: tuple[str, ...] | None = None
    projects: tuple[str, ...] | None = None

    def sees(self, dataset: str) -> bool:
        return self.datasets is None or dataset in self.datasets

    def demand_role(self, *roles: str) -> None:
        demand(forbidden=self.role not in ("admin", *roles))


@dataclass
class Account:
    """export.md, "Accounts"."""

    limit: Amount
    spent: Amount = NOTHING
    held: Amount = NOTHING
    overdrawn: Amount = NOTHING

    @property
    def remaining(self) -> Amount:
        return self.limit - self.spent - self.held


@dataclass(eq=False)
class Dataset:
    """A dataset, its budgets (its own, under None, and those of projects), its accounts and its journal."""

    name: str
    terms: tuple[Any, ...]
    parents: list[str]
    is_partitioned: bool
    ceiling: Amount | None
    state: str = "active"
    budgets: dict[str | None, Json] = field(default_factory=dict)
    fair_use: Json = field(default_factory=lambda: {"held": None, "runs_per_hour": None})
    accounts: dict[Key, Account] = field(default_factory=dict)
    journal: list[Json] = field(default_factory=list)

    def keys(self, project: str | None = None) -> list[Key]:
        """The accounts that there are of a budget."""
        return [key for key in self.accounts if key[1:] == (project, None)]

    @property
    def scopes(self) -> list[Any]:
        """The partitions; the whole if it is not partitioned."""
        return [key[0] for key in self.keys()] if self.is_partitioned else [None]

    def balance(self, keys: Sequence[Key], project: str | None = None) -> Json:
        """Several accounts of one budget as one: the most of each part, and the least that remains ("Partitions")."""
        new = Account(limit_of(self.budgets[project]))
        accounts = [self.accounts.get(key, new) for key in keys] or [new]
        most = {part: joined((getattr(own, part) for own in accounts), max) for part in ("spent", "held")}
        return {"limit": new.limit, **most, "remaining": joined((own.remaining for own in accounts), min)}

    def share(self, project: str) -> Json:
        """What a project has of it."""
        keys = [(scope, project, None) for scope in self.scopes]
        return {"name": project, "budget": self.budgets[project], "balance": self.balance(keys, project)}


@dataclass(eq=False)
class Run:
    """A run that was decided on, with the accounts that it charges for good."""

    owner: Person
    body: Json
    adjacency: str
    charges: dict[str, list[Key]]
    via: dict[str, list[str]]  # by dataset, through which of the names in the request it was reached
    state: str = "held"
    waits: bool = False  # for a steward, having reported a number that no budget could cover
    charged: Amount = NOTHING
    sent: dict[str, Json | None] = field(default_factory=dict)  # by call, what was sent
    first: dict[str, Json] = field(default_factory=dict)  # and what was answered first
    id: str = ""

    @functools.cached_property
    def plan(self) -> Plan:
        return Plan(self.body["mechanism"], self.adjacency, self.body.get("segments", 1))

    @property
    def receipt_state(self) -> str | None:
        """Which receipt it has: of its start, or before that of its approval; none if it was refused or has ended."""
        return self.state if self.state in ("held", "started") and not self.waits else None

    def receipt(self, state: str) -> Json:
        """What a receipt says (receipts.md), beside tenant, digest and entries."""
        body = {"v": 2, "type": "receipt", "run": self, "state": state, "decision": "approved", "cost": self.plan.cost}
        project = {"project": self.body["project"]} if "project" in self.body else {}
        return {**body, **project, "datasets": [{"name": name, **self.permitted(name)} for name in self.charges]}

    def permitted(self, name: str) -> Json:
        """The partitions charged in a dataset or, if it has none, in all that was reached by the same name."""
        charged = {other: {key[0] for key in keys} - {None} for other, keys in self.charges.items()}
        reached = [parts for other, parts in charged.items() if parts and {*self.via[other]} & {*self.via[name]}]
        reached = [charged[name]] if charged[name] else reached
        return {"partitions": sorted(set.intersection(*reached))} if reached else {}


@dataclass(eq=False)
class Proposal:
    """What one steward proposed, for another to approve or refuse: a call on a dataset or a run."""

    by: Person
    what: str
    on: Dataset | Run
    body: Json
    state: str = "open"
    id: str = ""

    @property
    def datasets(self) -> list[str]:
        return [*self.on.charges] if isinstance(self.on, Run) else [self.on.name]


@dataclass
class Answer:
    """What must be answered: at least this body, or `first` again, letter by letter."""

    status: int
    body: Json = field(default_factory=dict)
    run: Run | None = None
    call: str = "ask"  # under which a run's answer is kept
    proposal: Proposal | None = None
    first: Json | None = None
    over: Over = field(default_factory=dict)
    left: Amount | None = None  # in each quantity for itself, of all the accounts that a refused run was to charge
    results: list[Answer | Refused] = field(default_factory=list)


class Model:
    """One tenant, with all that is done in it. `journal` is its own, of keys and the policy."""

    def __init__(self, journal: list[Json]) -> None:
        self.journal, self.second_steward = journal, False
        self.datasets: dict[str, Dataset] = {}
        self.runs: list[Run] = []
        self.keys: dict[tuple[str, str], Run] = {}
        self.proposals: list[Proposal] = []
        self.second: Proposal | None = None  # while it is approved

    # --- what is written and shown

    def write(self, own: Dataset, kind: str, who: Person, facts: Json, keys: Sequence[Key] = ()) -> None:
        """An entry with the balances that it touches, as they are by now (export.md, "Kinds"). After an overrun
        `overdrawn` is exactly what is beyond the limit, otherwise never more than before."""
        for account in (own.accounts[key] for key in keys):
            beyond = NOTHING.join(NOTHING - account.remaining, max)
            is_overrun = kind == "run-settled" and "overrun" in facts
            account.overdrawn = beyond if is_overrun else beyond.join(account.overdrawn, min)
        accounts = {key: copy.copy(own.accounts[key]) for key in {*keys, OWN} & own.accounts.keys()}
        entry = {"v": 4, "seq": len(own.journal) + 1, "kind": kind, "dataset": own.name, "actor": who}
        consent = {"proposal": {"id": self.second, "by": self.second.by}} if self.second else {}
        own.journal.append({**entry, **facts, **consent, "accounts": accounts})

    def changed(self, own: Dataset, kind: str, who: Person, facts: Json, keys: Sequence[Key] = ()) -> Answer:
        """A dataset of which something was written."""
        self.write(own, kind, who, facts, keys)
        return Answer(200, self.shown(own))

    def reached(self, name: str) -> list[str]:
        """A dataset and all that it is derived from."""
        reached = [name]
        for other in reached:
            reached.extend(parent for parent in self.datasets[other].parents if parent not in reached)
        return reached

    def shown(self, own: Dataset) -> Json:
        """A dataset with its partitions and projects."""
        budget, keys = own.budgets.get(None), own.keys()
        body = {"name": own.name, "state": own.state, "seq": len(own.journal), "budget": budget, "ceiling": own.ceiling}
        body |= {"balance": budget and own.balance(keys), "derived_from": [{"name": p} for p in own.parents]}
        body |= {"roots": sorted(other for other in self.reached(own.name) if not self.datasets[other].parents)}
        body |= {"partition_count": len(keys)} if own.is_partitioned else {}
        body |= {"partitions": [{"name": key[0], "balance": own.balance([key])} for key in sorted(keys) if key[0]]}
        body |= {"projects": [own.share(project) for project in sorted(filter(None, own.budgets))]}
        return {**body, "fair_use": own.fair_use if any(own.fair_use.values()) else None}

    def moved(self, run: Run) -> Json:
        """A run with its cost, and what is left of all that it charges in each dataset."""
        rows: list[Json] = [{"name": name, "seq": len(self.datasets[name].journal)} for name in run.charges]
        for row in rows:
            amounts = [own.remaining for name, _, own in self.charged(run) if name == row["name"]]
            row["remaining"] = joined(amounts, min)
        return {"id": run, "state": run.state, "cost": run.plan.cost, "datasets": rows}

    def charged(self, run: Run) -> list[tuple[str, Key, Account]]:
        """All that a run charges, by dataset."""
        return [(name, key, self.datasets[name].accounts[key]) for name, keys in run.charges.items() for key in keys]

    # --- calls on datasets and on runs: export.md, "What takes two people"

    def perform(self, who: Person, call: str, on: str | Dataset | Run, body: Any) -> Answer:
        """A call is a generator: it first yields whether it loosens a budget, what a proposal of it would state, and
        what is wrong with it; then it is done, and yields its answer."""
        who.demand_role(*ROLES.get(call, ["steward"]))
        if isinstance(on, str):
            demand(not_found=on not in self.datasets or not who.sees(on))
            on = self.datasets[on]
        run, is_anothers = (on if isinstance(on, Run) else None), False
        if run:
            demand(not_found=who.datasets is not None and who != run.owner)
            is_anothers = who.role == "requester" and who != run.owner
            is_again = run.sent.get(call, run) == body and run.state in AGAIN.get(call, ["settled"])
            if is_again and not is_anothers and not self.second:
                return Answer(run.first[call].get("status", 200), run=run, call=call, first=run.first[call])
        doing = getattr(self, call.replace("-", "_"))(who, on, body)
        loosens, proposes, faults = next(doing)
        is_alone = self.second is not None and self.second.by == who
        demand(**{**faults, "forbidden": is_anothers or is_alone or faults.get("forbidden")})
        if loosens and self.second_steward and not self.second:
            return self.propose(Proposal(who, call, on, body), proposes)
        answer: Answer = next(doing)
        answer.call = call
        if run:
            run.sent[call] = body
        return answer

    def propose(self, new: Proposal, proposes: Json) -> Answer:
        """Another steward has to approve; of a run there is one open proposal of a kind."""
        still = [old for old in self.proposals if old.state == "open" and old.datasets[0] == new.datasets[0]]
        run = new.on if isinstance(new.on, Run) else None
        if again := [old for old in still if run and (old.on, old.what) == (run, new.what)]:
            return Answer(202, {"proposal": {"id": again[0]}})
        demand(too_large=len(still) >= 100 or sum(old.by == new.by for old in still) >= 20)
        self.proposals.append(new)
        facts = {"proposal": new, "what": new.what, "proposes": proposes, **({"about_run": run} if run else {})}
        for name in new.datasets:
            self.write(self.datasets[name], "change-proposed", new.by, facts)
        shown = {"what": new.what, "dataset": new.datasets[0], "proposes": proposes, "state": "open", "run": run}
        return Answer(202, {"proposal": shown}, proposal=new)

    def answer(self, who: Person, proposal: Proposal, reason: str | None = None) -> Answer:
        """Another principal refuses, for a reason; or approves, and it is done, if it still can be."""
        who.demand_role("steward")
        demand(not_found=not who.sees(proposal.datasets[0]))
        demand(proposal_state=proposal.state != "open")
        if reason is not None:
            demand(forbidden=proposal.by == who)
            proposal.state, facts = "refused", {"proposal": proposal, "what": proposal.what, "reason": reason}
            for name in proposal.datasets:
                self.write(self.datasets[name], "proposal-refused", who, facts)
            return Answer(200, {"state": "refused", "what": proposal.what})
        self.second = proposal
        try:
            answer = self.perform(who, proposal.what, proposal.on, proposal.body)
        finally:
            self.second = None
        proposal.state = "approved"
        return Answer(200, self.shown(proposal.on)) if isinstance(proposal.on, Dataset) else answer

    def set_policy(self, who: Person, body: Json) -> Answer:
        """Whether what loosens a budget takes a second steward."""
        who.demand_role()
        self.second_steward = body["second_steward"]
        guards = {"guards": TAKES_TWO} if self.second_steward else {}
        self.journal.append({"kind": "policy-set", "actor": who, **body, **guards})
        return Answer(200, {"second_steward": self.second_steward})

    # --- datasets: docs/how-to/

    def register(self, who: Person, body: Json) -> Answer:
        """A root with a budget, or a derived dataset, which has the terms of what it comes from."""
        who.demand_role("steward")
        name, origins, is_partitioned = body["name"], body.get("derived_from", []), "partitions" in body
        limit, ceiling = (limit_of(body[what]) if body.get(what) else None for what in ("budget", "ceiling"))
        parents = [o["name"] for o in origins if o["unit_preserving"] and o["name"] in self.datasets]
        known = [self.datasets[parent].terms for parent in parents]
        terms = tuple(map(body.get, TERMS, known[0] if known else ("", "", "certified")))
        is_wrong = len(parents) < len(origins) or (origins and is_partitioned) or not (origins or limit)
        is_wrong = is_wrong or bool(limit and ceiling and limit.exceeds(ceiling))
        demand(name_taken=name in self.datasets, invalid_request=is_wrong, unit_mismatch={*known} - {terms})
        self.datasets[name] = own = Dataset(name, terms, parents, is_partitioned, ceiling)
        own.budgets |= {None: body["budget"]} if limit else {}
        own.accounts = {(part, None, None): Account(limit) for part in body.get("partitions", [None]) if limit}
        facts: Json = {"title": "", "description": "", "size": None, "state": "active", "budget": body.get("budget")}
        facts |= {"is_partitioned": is_partitioned, "limit": limit, "derived_from": origins}
        facts |= {"ceiling": body["ceiling"], "ceiling_limit": ceiling} if ceiling else {}
        facts |= dict(zip(TERMS, terms, strict=True))
        return Answer(201, self.changed(own, "dataset-registered", who, facts, own.keys()).body)

    def thaw(self, who: Person, own: Dataset, body: Json) -> Iterator[Any]:
        """Another state. Retired stays retired; thawing what is overdrawn takes two."""
        before, state = own.state, body["state"]
        waits = state == "active" and any(run.waits and own.name in run.charges for run in self.runs)
        is_over = any(account.overdrawn != NOTHING for account in own.accounts.values())
        is_fixed = waits or (before == "retired" != state)
        yield (before, state) == ("frozen", "active") and is_over, body, {"dataset_frozen": is_fixed}
        own.state = state
        yield self.changed(own, "dataset-changed", who, body)

    def budget(self, who: Person, own: Dataset, body: Json) -> Iterator[Any]:
        """A new limit of all accounts of a budget or of a project's share: never below what is spent and held."""
        project, limit, old = body.get("project"), limit_of(body["budget"]), own.budgets.get(body.get("project"))
        keys, before = own.keys(project), limit_of(old) if old else None
        facts, is_more = {**body, "limit": limit, "limit_before": before}, before is None or limit.exceeds(before)
        is_above = not project and (before is None or (own.ceiling and limit.exceeds(own.ceiling)))
        is_below = any((own.accounts[key].limit - own.accounts[key].remaining).exceeds(limit) for key in keys)
        yield is_more, facts, {"invalid_request": is_above, "budget_below_spent": is_below}
        own.budgets[project] = body["budget"]
        for key in keys:
            own.accounts[key].limit = limit
        answer = self.changed(own, "project-set" if project else "budget-set", who, facts, keys)
        yield Answer(200, {"dataset": own.name, **own.share(project)}) if project else answer

    project = budget

    def partitions(self, who: Person, own: Dataset, body: Json) -> Iterator[Any]:
        """Partitions with the dataset's limit; only if it was registered with some, perhaps none."""
        names, is_wrong = {*body["names"]}, not body["disjoint"] or len({*body["names"]}) < len(body["names"])
        faults = {"partitions_closed": not own.is_partitioned, "dataset_frozen": own.state == "retired"}
        yield True, body, {**faults, "name_taken": names & {*own.scopes}, "invalid_request": is_wrong}
        limit, keys = limit_of(own.budgets[None]), [(partition, None, None) for partition in body["names"]]
        own.accounts |= {key: Account(limit) for key in keys}
        self.write(own, "partitions-added", who, {**body, "limit": limit}, keys)
        yield Answer(201, {"items": [{"name": key[0], "balance": own.balance([key])} for key in keys]})

    def fair_use(self, who: Person, own: Dataset, body: Json) -> Iterator[Any]:
        """What one principal may hold, from the next run on, and how many runs it may ask for in an hour."""
        new = {"held": body["held"], "runs_per_hour": body["runs_per_hour"]}
        held, held_before = (limit_of(use["held"]) if use["held"] else None for use in (new, own.fair_use))
        rate, rate_before = new["runs_per_hour"], own.fair_use["runs_per_hour"]
        is_more = held_before is not None and (held is None or bool(held.exceeds(held_before)))
        is_more |= rate_before is not None and (rate is None or rate > rate_before)
        facts = {"fair_use": {**new, "limit": held}, "reason": body["reason"]}
        yield is_more, facts, {}
        own.fair_use = new
        yield self.changed(own, "fair-use-set", who, facts)

    # --- asking for runs: docs/explanation/decision.md

    def ask(self, who: Person, key: str, body: Json) -> Answer:
        """Decides on a run: every account has to have room for it, in both quantities, or none is charged."""
        who.demand_role("requester")
        bound = self.keys.get((who.id, key))
        if bound is not None and bound.body == body:
            return Answer(409 if bound.state == "refused" else 201, run=bound, first=bound.first["ask"])
        run = self.requested(who, body, {"idempotency_key_reused": bound})
        self.keys[who.id, key] = run
        self.runs.append(run)
        plan, charged, over = run.plan, self.charged(run), Over()
        for name, on, own in charged:
            for quantity in plan.cost.exceeds(own.remaining):
                over[name, on, quantity] = [getattr(part, quantity) for part in (plan.cost, own.remaining, own.limit)]
        run.state, left = "refused" if over else "held", joined((own.remaining for *_, own in charged), min)
        for *_, own in charged if not over else []:
            own.held += plan.cost
        facts = {"run": run, "request": body, "cost": plan.cost, "idempotency_key": key, "adjacency": run.adjacency}
        facts |= {"project": body["project"]} if "project" in body else {}
        segments = {"count": plan.segments, "steps": plan.length, "cost": plan.segment.up()}
        segments["unsegmented"] = Plan(body["mechanism"], run.adjacency).cost
        about = {"segments": segments} if plan.segments > 1 else {}
        for name, keys in run.charges.items():
            mine, others = {q for n, _, q in over if n == name}, sorted({n for n, *_ in over if n != name})
            if name != next(iter(run.charges)):  # the journal that has the request names all others, these one if any
                others = [] if mine else others[:1]
            refusal = {"binding": sorted(mine, reverse=True), "binding_elsewhere": others} if over else {}
            facts |= {**about, **refusal, "via": run.via[name], "bound": self.datasets[name].terms[2]}
            self.write(self.datasets[name], "run-refused" if over else "run-approved", who, facts, keys)
        if over:
            return Answer(409, {"code": "budget-exceeded"}, run, over=over, left=left)
        return Answer(201, {**self.moved(run), **about, "decision": "approved"}, run)

    def requested(self, who: Person, body: Json, faults: Json) -> Run:
        """The run that a request comes to, not decided yet. Raises whatever is wrong with it."""
        mechanism, project, segments = body["mechanism"], body.get("project"), body.get("segments", 1)
        uses = dict((u, None) if isinstance(u, str) else (u["name"], u.get("partitions")) for u in body["datasets"])
        is_wrong = len(uses) < len(body["datasets"]) or segments > max(Plan(mechanism, "").fewest, 1)
        is_noiseless = mechanism.get("noise_multiplier") == 0
        faults["forbidden"] = who.projects is not None and project not in who.projects
        if any(name not in self.datasets or not who.sees(name) for name in uses):
            demand(**faults, not_found=True, invalid_request=is_wrong, invalid_mechanism=is_noiseless)
        reached = {name: self.reached(name) for name in uses}
        others = {other for names in reached.values() for other in names} - {*uses}
        on = {name: self.datasets[name] for name in [*uses, *sorted(others)]}
        via = {name: [use for use in uses if name in reached[use]] for name in on}
        scopes = {name: sorted((own.is_partitioned and uses[via[name][0]]) or own.scopes) for name, own in on.items()}
        is_wrong |= any(not own.scopes or (not own.parents and len(via[name]) > 1) for name, own in on.items())
        is_wrong |= any(uses[use] and not any(on[name].is_partitioned for name in reached[use]) for use in uses)
        is_unknown = any({*scopes[name]} - {*own.scopes} for name, own in on.items())
        is_unknown |= not all(any(project in on[name].budgets for name in reached[use]) for use in uses if project)
        # Replacing a unit of what a dataset is derived from can change how many units it has.
        is_sizeless = any(on[use].terms[1] == "replace_one" and on[use].parents for use in uses)
        faults |= {"not_found": is_unknown, "unit_mismatch": len({on[use].terms for use in uses}) > 1}
        faults |= {"dataset_frozen": any(own.state != "active" for own in on.values())}
        faults |= {"rate_limited": any(self.is_limited(who, own) for own in on.values()), "invalid_request": is_wrong}
        demand(**faults, invalid_mechanism=is_noiseless or (is_sizeless and rests_on_size(mechanism)))
        charges = {name: self.opened(who, own, scopes[name], project) for name, own in on.items()}
        return Run(who, body, next(iter(on.values())).terms[1], charges, via)

    def is_limited(self, who: Person, own: Dataset) -> bool:
        """docs/how-to/, "Fair use"; a test does not last an hour."""
        most = own.fair_use["runs_per_hour"]
        return most is not None and sum(run.owner == who and own.name in run.charges for run in self.runs) >= most

    @staticmethod
    def opened(who: Person, own: Dataset, scopes: list[str | None], project: str | None) -> list[Key]:
        """export.md, "Which accounts a run charges". One that is charged first begins with the limit alone."""
        budgets: dict[Any, Json | None] = {(holder, None): own.budgets.get(holder) for holder in (None, project)}
        keys: list[Key] = []
        for holder, budget in {**budgets, (None, who.id): own.fair_use["held"]}.items():
            for key in [(scope, *holder) for scope in scopes if budget]:
                limit = limit_of(budget or {})
                account = own.accounts.setdefault(key, Account(limit))
                account.limit = limit.join(account.held, max) if key[2] else limit
                keys.append(key)
        return keys

    def batch(self, who: Person, items: list[Json], is_atomic: bool) -> Answer:
        """docs/how-to/, "Batches": each for itself, or all or none."""
        who.demand_role("requester")
        asked = {item["idempotency_key"]: {k: v for k, v in item.items() if k != "idempotency_key"} for item in items}
        is_noiseless = any(body["mechanism"].get("noise_multiplier") == 0 for body in asked.values())
        demand(invalid_request=len(asked) < len(items), invalid_mechanism=is_atomic and is_noiseless)
        before = {name: (copy.deepcopy(own.accounts), [*own.journal]) for name, own in self.datasets.items()}
        runs, keys, results = [*self.runs], dict(self.keys), list[Answer | Refused]()
        for key, body in asked.items():
            try:
                results.append(self.ask(who, key, body))
            except Refused as refused:
                results.append(refused)
        if not is_atomic or all(isinstance(result, Answer) and result.status == 201 for result in results):
            return Answer(200, results=results)
        self.runs, self.keys = runs, keys
        for name, (accounts, journal) in before.items():
            self.datasets[name].accounts, self.datasets[name].journal = accounts, journal
        for number, result in enumerate(results):
            if isinstance(result, Answer) and result.first is None:  # nothing came of it
                undone = Answer(409, result.body, over=result.over)
                results[number] = undone if result.over else Refused("batch-refused")
        return Answer(409, {"code": "batch-refused"}, results=results)

    # --- what becomes of a run: accounting.md, "Settling"

    def advance(self, who: Person, run: Run, kind: str, facts: Json, frozen: Sequence[str] = ()) -> Answer:
        """The run's next entries. A dataset in which an overrun does not fit is frozen."""
        run.waits, run.state = kind == "reported", run.state if kind == "reported" else kind
        for name, keys in run.charges.items():
            own, is_frozen = self.datasets[name], name in frozen
            own.state = "frozen" if is_frozen and own.state == "active" else own.state
            state = {"state": own.state} if is_frozen else {}
            self.write(own, f"run-{kind}", who, {"run": run, **facts, **state}, keys)
        told: Json = {part: facts[part] for part in ("charged", "returned", "overrun") if part in facts}
        if "overrun" in told:
            told["overrun"] = {part: told["overrun"][part] for part in ("steps", "repeated", "cost", "fits")}
        if not frozen:
            return Answer(200, {**self.moved(run), **told}, run)
        over: Over = {(n, key, q): () for n, key, own in self.charged(run) for q in own.overdrawn.exceeds(NOTHING)}
        return Answer(409, {"code": "overrun", "overrun": told["overrun"], "frozen": frozen}, run, over=over)

    def start(self, who: Person, run: Run, body: Json) -> Iterator[Any]:
        """From now on it touches the data."""
        is_frozen = any(self.datasets[name].state != "active" for name in run.charges)
        yield False, {}, {"run_state": run.state != "held", "dataset_frozen": is_frozen}
        yield self.advance(who, run, "started", {})

    def settle(self, who: Person, run: Run, body: Json) -> Iterator[Any]:
        """Charges what was executed, and gives back the rest if that is sound."""
        facts, is_wrong = self.executed(run, body)
        yield False, {}, {"run_state": run.state != "started" or run.waits, "invalid_request": is_wrong}
        _, overrun = run.plan.settled(facts["steps"], facts["stop"], facts.get("restarts"))
        excess = overrun["cost"] if overrun else NOTHING
        beyond = {name for name, key, own in self.charged(run) if not key[2] and excess.exceeds(own.limit)}
        if not beyond:
            yield self.settled(who, run, facts)
        facts.pop("restarts", None)
        about: Json = {"fits": False, "frozen": sorted(run.charges), "beyond_limits": sorted(beyond)}
        yield self.advance(who, run, "reported", {**facts, "overrun": {**(overrun or {}), **about}}, about["frozen"])

    def confirm(self, who: Person, run: Run, body: Json) -> Iterator[Any]:
        """A steward's word that a run executed what it reported."""
        return self.ruled(who, run, body, run.sent.get("settle") or {}, "confirmed")

    def correction(self, who: Person, run: Run, body: Json) -> Iterator[Any]:
        """Another number in place of the one that was reported."""
        return self.ruled(who, run, body, body, "corrected")

    def ruled(self, who: Person, run: Run, body: Json, number: Json, says: str) -> Iterator[Any]:
        """A steward is answered the same, whether it fits or not."""
        facts, is_wrong = self.executed(run, number)
        ruling = {"request": body, "report": says, "reason": body["reason"]}
        yield says == "corrected", ruling, {"run_state": not run.waits, "invalid_request": is_wrong}
        answer = self.settled(who, run, {**facts, **ruling})
        yield Answer(200, {"state": "settled", **{k: v for k, v in answer.body.items() if k == "overrun"}}, run)

    @staticmethod
    def executed(run: Run, body: Json) -> tuple[Json, object]:
        """What an entry says of what was executed, and whether it cannot have been."""
        plan, steps, restarts = run.plan, body.get("steps"), body.get("restarts")
        steps = plan.most + repeated(restarts) if steps is None and plan.has_steps else steps
        reached = (steps or 0) - repeated(restarts)
        is_short = plan.has_steps and reached < plan.fewest
        is_wrong = is_short and body.get("stop") == "planned"
        is_wrong |= not plan.has_steps and (steps, restarts) != (None, None)
        stop = body.get("stop") or ("data_dependent" if is_short else "planned")
        facts: Json = {"request": body, "steps": steps, "stop": stop}
        facts |= {} if restarts is None else {"restarts": restarts}
        return facts, is_wrong or any(restart["to_step"] > reached for restart in restarts or [])

    def settled(self, who: Person, run: Run, facts: Json) -> Answer:
        """An overrun is charged all the same; a dataset is frozen if it did not fit there once the run was settled."""
        charged, overrun = run.plan.settled(facts["steps"], facts["stop"], facts.get("restarts"))
        frozen = self.spend(run, charged, overrun["cost"] if overrun else NOTHING)
        facts |= {"charged": run.charged, "returned": run.plan.cost - charged}
        facts |= {"overrun": {**overrun, "fits": not frozen, "frozen": frozen}} if overrun else {}
        return self.advance(who, run, "settled", facts, frozen)

    def spend(self, run: Run, charged: Amount, excess: Amount) -> list[str]:
        """What was held is given back, and what is charged is spent, except a principal's. Returns the datasets in
        which the excess does not fit then."""
        run.charged, frozen = charged + excess, set()
        for name, key, own in self.charged(run):
            own.held -= run.plan.cost
            if not key[2]:
                own.spent = (own.spent + charged).join(FULL, min)
                frozen |= {name} if excess != NOTHING and excess.exceeds(own.remaining) else set()
                own.spent = (own.spent + excess).join(FULL, min)
        return sorted(frozen)

    def void(self, who: Person, run: Run, body: Json) -> Iterator[Any]:
        """No output was ever seen: before the start that is the requester's word, afterwards a steward's."""
        is_started = run.state == "started"
        is_late = is_started and who.role == "requester"
        yield is_started, {"request": body}, {"run_state": run.state not in ("held", "started"), "forbidden": is_late}
        self.spend(run, NOTHING, NOTHING)
        yield self.advance(who, run, "voided", {"request": body, "returned": run.plan.cost})

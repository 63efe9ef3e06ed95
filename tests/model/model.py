"""The rules of one tenant's ledger, as its documentation has them: what is decided, charged and written.

It shares no code with the ledger. A call returns what must be answered, or raises `Refused` with every error that is
possible, since the documentation does not state which of several faults comes first. `compare` has how it is shown.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.model.prices import NOTHING, Amount, Json, Plan, both, ceiling, limit_of, repeated, rests_on_size

Key = tuple[str | None, str | None, str | None]
"""Of an account in its dataset: partition, project, principal."""
Over = dict[tuple[str, Key, str], Sequence[int]]
"""By dataset, account and quantity that do not fit: what was requested, what remained, limit."""
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
"""The calls that a second steward must approve if they loosen a budget."""
AGAIN: Final = {"start": ["started"], "settle": ["started", "settled"], "void": ["voided"]}
"""The states of a run in which a repeated call has its first answer again; `settled` for all others."""


class Refused(Exception):
    """One of these errors is answered, and nothing happens."""

    def __init__(self, *codes: str) -> None:
        self.problems = {(STATUS.get(code, 409), code) for code in codes}


def demand(**faults: object) -> None:
    """Raise the errors whose fault is there."""
    if codes := [name.replace("_", "-") for name, fault in faults.items() if fault]:
        raise Refused(*codes)


def known(**facts: Any) -> Json:
    """Return the facts that are not None."""
    return {name: fact for name, fact in facts.items() if fact is not None}


@dataclass(frozen=True)
class Person:
    """A principal with its key, which can be limited to datasets or projects."""

    name: str
    role: str
    id: str
    datasets: tuple[str, ...] | None = None
    projects: tuple[str, ...] | None = None

    def sees(self, *datasets: str) -> bool:
        return self.datasets is None or {*datasets} <= {*self.datasets}

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
        """Return the accounts of a budget."""
        return [key for key in self.accounts if key[1:] == (project, None)]

    @property
    def scopes(self) -> list[Any]:
        """The partitions; the whole if it is not partitioned."""
        return [key[0] for key in self.keys()] if self.is_partitioned else [None]


@dataclass(eq=False)
class Run:
    """A run that was decided on, with the accounts that it charges permanently."""

    owner: Person
    body: Json
    adjacency: str
    charges: dict[str, list[Key]]
    via: dict[str, list[str]]  # by dataset, the names in the request that lead to it
    state: str = "held"
    corrections: int = 0
    waits: bool = False  # for a steward, having reported a number that no budget could cover
    charged: Amount = NOTHING
    sent: dict[str, Json | None] = field(default_factory=dict)  # by call, what was sent
    first: dict[str, Json] = field(default_factory=dict)  # and what was answered first
    id: str = ""

    @functools.cached_property
    def plan(self) -> Plan:
        return Plan(self.body["mechanism"], self.adjacency, self.body.get("segments", 1))


@dataclass(eq=False)
class Proposal:
    """A call on a dataset or a run that one steward proposed, for another to approve or refuse."""

    by: Person
    what: str
    on: Dataset | Run
    body: Json
    proposes: Json
    state: str = "open"
    id: str = ""

    @property
    def datasets(self) -> list[str]:
        return [*self.on.charges] if isinstance(self.on, Run) else [self.on.name]


@dataclass
class Answer:
    """What must be answered: at least this body, and what is shown of `on`; or `first` again, letter by letter."""

    status: int
    on: Dataset | Run | Proposal | None = None
    body: Json = field(default_factory=dict)
    entries: list[Json] = field(default_factory=list)  # that a run's call wrote
    call: str = "ask"  # under which a run's answer is kept
    first: Json | None = None
    over: Over = field(default_factory=dict)
    left: Amount | None = None  # in each quantity by itself, of all accounts that a refused run was to charge
    results: list[Answer | Refused] = field(default_factory=list)


class Model:
    """One tenant, with all that is done in it. `journal` is its own, of keys and the policy."""

    def __init__(self, journal: list[Json]) -> None:
        self.journal, self.second_steward = journal, False
        self.datasets, self.runs, self.proposals = dict[str, Dataset](), list[Run](), list[Proposal]()
        self.keys: dict[tuple[str, str], Run] = {}
        self.second: Proposal | None = None  # while it is approved

    def write(self, own: Dataset, kind: str, who: Person, facts: Json, keys: Sequence[Key] = ()) -> Json:
        """Write an entry with the balances that it touches, as they are by now (export.md, "Kinds").

        After an overrun `overdrawn` is exactly what is beyond the limit, otherwise never more than before.
        """
        for account in (own.accounts[key] for key in keys):
            beyond = both(max, NOTHING, NOTHING - account.remaining)
            is_overrun = "overrun" in facts if kind == "run-settled" else facts.get("late", NOTHING) != NOTHING
            account.overdrawn = beyond if is_overrun else both(min, beyond, account.overdrawn)
        accounts = {key: copy.copy(own.accounts[key]) for key in {*keys, OWN} & own.accounts.keys()}
        entry = {"v": 5, "seq": len(own.journal) + 1, "kind": kind, "dataset": own.name, "actor": who}
        consent = {"proposal": {"id": self.second, "by": self.second.by}} if self.second else {}
        own.journal.append({**entry, **facts, **consent, "accounts": accounts})
        return own.journal[-1]

    def reached(self, name: str) -> list[str]:
        """Return a dataset and all that it is derived from."""
        reached = [name]
        for other in reached:
            reached.extend(parent for parent in self.datasets[other].parents if parent not in reached)
        return reached

    def charged(self, run: Run) -> list[tuple[str, Key, Account]]:
        """Return all that a run charges, by dataset."""
        return [(name, key, self.datasets[name].accounts[key]) for name, keys in run.charges.items() for key in keys]

    # --- calls on datasets and on runs: export.md, "What takes two people"

    def perform(self, who: Person, call: str, on: str | Dataset | Run, body: Any) -> Answer:
        """Do a call. It is a generator: it first yields whether it loosens a budget, what a proposal of it would state,
        and what is wrong with it; then it is done, and yields its answer."""
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
                return Answer(run.first[call].get("status", 200), run, call=call, first=run.first[call])
        doing = getattr(self, call.replace("-", "_"))(who, on, body)
        loosens, proposes, faults = next(doing)
        is_alone = self.second is not None and self.second.by == who
        demand(**{**faults, "forbidden": is_anothers or is_alone or faults.get("forbidden")})
        if loosens and (self.second_steward or loosens == "always") and not self.second:
            what = "correction" if call == "amend" else call
            return self.propose(Proposal(who, what, on, body, proposes), run)
        answer: Answer = next(doing)
        answer.call = call
        if run:
            run.sent[call] = body
        return answer

    def propose(self, new: Proposal, run: Run | None) -> Answer:
        """Another steward must approve; of a run there is one open proposal of a kind."""
        still = [old for old in self.proposals if old.state == "open" and old.datasets[0] == new.datasets[0]]
        number = new.proposes.get("number")
        same = [old for old in still if run and (old.on, old.what) == (run, new.what)]
        if again := [old for old in same if old.proposes.get("number") == number]:
            return Answer(202, again[0])
        demand(too_large=len(still) >= 100 or sum(old.by == new.by for old in still) >= 20)
        self.proposals.append(new)
        facts = {"proposal": new, "what": new.what, "proposes": new.proposes, **known(about_run=run)}
        for name in new.datasets:
            self.write(self.datasets[name], "change-proposed", new.by, facts)
        return Answer(202, new)

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
            return Answer(200, body={"state": "refused", "what": proposal.what})
        self.second = proposal
        try:
            call = "amend" if "number" in proposal.proposes else proposal.what
            answer = self.perform(who, call, proposal.on, proposal.body)
        finally:
            self.second = None
        proposal.state = "approved"
        return Answer(200, proposal.on) if isinstance(proposal.on, Dataset) else answer

    def set_policy(self, who: Person, body: Json) -> Answer:
        """Set whether what loosens a budget takes a second steward."""
        who.demand_role()
        self.second_steward = body["second_steward"]
        guards = {"guards": TAKES_TWO} if self.second_steward else {}
        self.journal.append({"kind": "policy-set", "actor": who, **body, **guards})
        return Answer(200, body={"second_steward": self.second_steward})

    # --- datasets: docs/how-to/

    def register(self, who: Person, body: Json) -> Answer:
        """Register a root with a budget, or a derived dataset, which has the terms of what it comes from."""
        who.demand_role("steward")
        name, origins, is_partitioned = body["name"], body.get("derived_from", []), "partitions" in body
        limit, most = (limit_of(body[what]) if body.get(what) else None for what in ("budget", "ceiling"))
        parents = [o["name"] for o in origins if o["unit_preserving"] and o["name"] in self.datasets]
        theirs = [self.datasets[parent].terms for parent in parents]
        terms = tuple(map(body.get, TERMS, theirs[0] if theirs else ("", "", "certified")))
        is_wrong = len(parents) < len(origins) or (origins and is_partitioned) or not (origins or limit)
        is_wrong = is_wrong or bool(limit and most and limit.exceeds(most))
        demand(name_taken=name in self.datasets, invalid_request=is_wrong, unit_mismatch={*theirs} - {terms})
        self.datasets[name] = own = Dataset(name, terms, parents, is_partitioned, most)
        own.budgets |= {None: body["budget"]} if limit else {}
        own.accounts = {(part, None, None): Account(limit) for part in body.get("partitions", [None]) if limit}
        facts: Json = {"title": "", "description": "", "size": None, "state": "active", "budget": body.get("budget")}
        facts |= {"is_partitioned": is_partitioned, "limit": limit, "derived_from": origins, "costing": "standalone"}
        facts |= {**dict(zip(TERMS, terms, strict=True)), **known(ceiling=body.get("ceiling"), ceiling_limit=most)}
        self.write(own, "dataset-registered", who, facts, own.keys())
        return Answer(201, own)

    def thaw(self, who: Person, own: Dataset, body: Json) -> Iterator[Any]:
        """Set another state. Retired stays retired; thawing what is overdrawn takes two."""
        before, state = own.state, body["state"]
        waits = state == "active" and any(run.waits and own.name in run.charges for run in self.runs)
        is_over = any(account.overdrawn != NOTHING for account in own.accounts.values())
        is_fixed = waits or (before == "retired" != state)
        yield (before, state) == ("frozen", "active") and is_over, body, {"dataset_frozen": is_fixed}
        own.state = state
        self.write(own, "dataset-changed", who, body)
        yield Answer(200, own)

    def budget(self, who: Person, own: Dataset, body: Json) -> Iterator[Any]:
        """Set the limit of all accounts of a budget or of a project's share: never below what is spent and held."""
        project, limit, old = body.get("project"), limit_of(body["budget"]), own.budgets.get(body.get("project"))
        keys, before = own.keys(project), limit_of(old) if old else None
        facts, is_more = {**body, "limit": limit, "limit_before": before}, before is None or limit.exceeds(before)
        is_above = not project and (before is None or (own.ceiling and limit.exceeds(own.ceiling)))
        is_below = any((own.accounts[key].limit - own.accounts[key].remaining).exceeds(limit) for key in keys)
        yield is_more, facts, {"invalid_request": is_above, "budget_below_spent": is_below}
        own.budgets[project] = body["budget"]
        for key in keys:
            own.accounts[key].limit = limit
        self.write(own, "project-set" if project else "budget-set", who, facts, keys)
        yield Answer(200, own, known(project=project))

    project = budget

    def partitions(self, who: Person, own: Dataset, body: Json) -> Iterator[Any]:
        """Add partitions with the dataset's limit, if it was registered with some, perhaps none."""
        names, keys = {*body["names"]}, [(partition, None, None) for partition in body["names"]]
        faults = {
            "invalid_request": not body["disjoint"] or len(names) < len(keys),
            "name_taken": names & {*own.scopes},
        }
        yield (
            True,
            body,
            {"partitions_closed": not own.is_partitioned, "dataset_frozen": own.state == "retired", **faults},
        )
        limit = limit_of(own.budgets[None])
        own.accounts |= {key: Account(limit) for key in keys}
        self.write(own, "partitions-added", who, {**body, "limit": limit}, keys)
        yield Answer(201, own, {"names": body["names"]})

    def fair_use(self, who: Person, own: Dataset, body: Json) -> Iterator[Any]:
        """Limit what one principal may hold, from the next run on, and how many runs it may ask for in an hour."""
        new = {"held": body["held"], "runs_per_hour": body["runs_per_hour"]}
        held, held_before = (limit_of(use["held"]) if use["held"] else None for use in (new, own.fair_use))
        rate, rate_before = new["runs_per_hour"], own.fair_use["runs_per_hour"]
        is_more = held_before is not None and (held is None or bool(held.exceeds(held_before)))
        is_more |= rate_before is not None and (rate is None or rate > rate_before)
        yield is_more, (facts := {"fair_use": {**new, "limit": held}, "reason": body["reason"]}), {}
        own.fair_use = new
        self.write(own, "fair-use-set", who, facts)
        yield Answer(200, own)

    # --- asking for runs: docs/explanation/decision.md

    def ask(self, who: Person, key: str, body: Json) -> Answer:
        """Decide on a run: every account must have room for it, in both quantities, or none is charged."""
        who.demand_role("requester")
        bound = self.keys.get((who.id, key))
        if bound is not None and bound.body == body:
            return Answer(409 if bound.state == "refused" else 201, bound, first=bound.first["ask"])
        self.keys[who.id, key] = run = self.requested(who, body, {"idempotency_key_reused": bound})
        self.runs.append(run)
        plan, charged, over = run.plan, self.charged(run), Over()
        for name, on, own in charged:
            for quantity in plan.cost.exceeds(own.remaining):
                over[name, on, quantity] = [getattr(part, quantity) for part in (plan.cost, own.remaining, own.limit)]
        run.state, left = "refused" if over else "held", both(min, *(own.remaining for *_, own in charged))
        for *_, own in charged if not over else []:
            own.held += plan.cost
        segments = {"count": plan.segments, "steps": plan.length, "cost": ceiling(plan.segment)}
        segments["unsegmented"] = Plan(body["mechanism"], run.adjacency).cost
        about = known(segments=segments if plan.segments > 1 else None)
        facts = {"run": run, "request": body, "cost": plan.cost, "idempotency_key": key, "adjacency": run.adjacency}
        facts, entries = {**facts, **about, **known(project=body.get("project"))}, []
        for name, keys in run.charges.items():
            mine, others = {q for n, _, q in over if n == name}, sorted({n for n, *_ in over if n != name})
            if name != next(iter(run.charges)):  # the journal that has the request names all others, these one if any
                others = [] if mine else others[:1]
            refusal = {"binding": sorted(mine, reverse=True), "binding_elsewhere": others} if over else {}
            facts |= {**refusal, "via": run.via[name], "bound": self.datasets[name].terms[2]}
            kind = "run-refused" if over else "run-approved"
            entries.append(self.write(self.datasets[name], kind, who, facts, keys))
        if over:
            return Answer(409, run, {"code": "budget-exceeded"}, over=over, left=left)
        return Answer(201, run, {**about, "decision": "approved"}, entries)

    def requested(self, who: Person, body: Json, faults: Json) -> Run:
        """Return the run of a request, not decided yet. Raise whatever is wrong with it."""
        mechanism, project, segments = body["mechanism"], body.get("project"), body.get("segments", 1)
        uses = dict((u, None) if isinstance(u, str) else (u["name"], u.get("partitions")) for u in body["datasets"])
        is_wrong = len(uses) < len(body["datasets"]) or segments > max(Plan(mechanism, "").fewest, 1)
        is_noiseless = mechanism.get("noise_multiplier") == 0
        faults["forbidden"] = who.projects is not None and project not in who.projects
        if not uses.keys() <= self.datasets.keys() or not who.sees(*uses):
            demand(**faults, not_found=True, invalid_request=is_wrong, invalid_mechanism=is_noiseless)
        reached = {name: self.reached(name) for name in uses}
        names = [*uses, *sorted({*itertools.chain(*reached.values())} - {*uses})]
        on = {name: self.datasets[name] for name in names}
        via = {name: [use for use in uses if name in reached[use]] for name in on}
        scopes = {name: sorted((own.is_partitioned and uses[via[name][0]]) or own.scopes) for name, own in on.items()}
        is_wrong |= any(not own.scopes or (not own.parents and len(via[name]) > 1) for name, own in on.items())
        is_wrong |= any(uses[use] and not any(on[name].is_partitioned for name in reached[use]) for use in uses)
        is_unknown = any({*scopes[name]} - {*own.scopes} for name, own in on.items())
        is_unknown |= not all(any(project in on[name].budgets for name in reached[use]) for use in uses if project)
        # Only by adding or removing a unit the number was no public one in the first place.
        is_sizeless = any(on[use].terms[1] != "add_or_remove_one" and on[use].parents for use in uses)
        faults |= {"not_found": is_unknown, "unit_mismatch": len({on[use].terms for use in uses}) > 1}
        faults |= {"dataset_frozen": any(own.state != "active" for own in on.values())}
        asked = {name: sum(run.owner == who and name in run.charges for run in self.runs) for name in on}
        rates = {name: own.fair_use["runs_per_hour"] for name, own in on.items()}  # a test does not last an hour
        is_often = any(rate is not None and asked[name] >= rate for name, rate in rates.items())
        faults |= {"rate_limited": is_often, "invalid_request": is_wrong}
        demand(**faults, invalid_mechanism=is_noiseless or (is_sizeless and rests_on_size(mechanism)))
        charges = {name: self.opened(who, own, scopes[name], project) for name, own in on.items()}
        return Run(who, body, on[names[0]].terms[1], charges, via)

    @staticmethod
    def opened(who: Person, own: Dataset, scopes: list[str | None], project: str | None) -> list[Key]:
        """export.md, "Which accounts a run charges". One that is charged first begins with the limit alone."""
        budgets: dict[Any, Json | None] = {(holder, None): own.budgets.get(holder) for holder in (None, project)}
        limits = {
            holder: limit_of(use) for holder, use in {**budgets, (None, who.id): own.fair_use["held"]}.items() if use
        }
        keys = [(scope, *holder) for holder in limits for scope in scopes]
        for key in keys:
            limit = limits[key[1:]]
            account = own.accounts.setdefault(key, Account(limit))
            account.limit = both(max, limit, account.held) if key[2] else limit
        return keys

    def batch(self, who: Person, items: list[Json], mode: str) -> Answer:
        """docs/how-to/, "Batches": each on its own, all or none ("atomic"), or as many as fit ("most")."""
        who.demand_role("requester")
        asked = {item["idempotency_key"]: {k: v for k, v in item.items() if k != "idempotency_key"} for item in items}
        is_noiseless = any(body["mechanism"].get("noise_multiplier") == 0 for body in asked.values())
        demand(invalid_request=len(asked) < len(items), invalid_mechanism=mode != "each" and is_noiseless)
        if mode == "most":
            return Answer(200, results=self.most(who, asked))
        before, results = self.saved(), list[Answer | Refused]()
        for key, body in asked.items():
            try:
                results.append(self.ask(who, key, body))
            except Refused as refused:
                results.append(refused)
        if mode == "each" or all(isinstance(result, Answer) and result.status == 201 for result in results):
            return Answer(200, results=results)
        self.restore(before)
        return Answer(409, body={"code": "batch-refused"}, results=[self.undone(result) for result in results])

    @staticmethod
    def undone(result: Answer | Refused) -> Answer | Refused:
        """Return what is answered about a run that leaves nothing."""
        if isinstance(result, Refused) or result.first is not None:
            return result
        undone = Answer(409, body=result.body, over=result.over)
        return undone if result.over else Refused("batch-refused")

    def most(self, who: Person, asked: dict[str, Json]) -> list[Answer | Refused]:
        """Approve the runs that fit one after another; none, if one was decided before or cannot be decided."""
        before, approved, errors = self.saved(), dict[str, Answer | Refused](), dict[str, Refused]()
        is_whole = not any((who.id, key) in self.keys for key in asked)
        for key, body in asked.items() if is_whole else ():
            saved = self.saved()
            try:
                answer = self.ask(who, key, body)
            except Refused as error:
                errors[key] = error
                continue
            if answer.over:
                self.restore(saved)
            else:
                approved[key] = answer
        if errors:
            self.restore(before)
            approved = {}
        return [approved.get(key) or errors.get(key) or self.alone(who, key, body) for key, body in asked.items()]

    def alone(self, who: Person, key: str, body: Json) -> Answer | Refused:
        """Return how a run stands by itself, and leave nothing of it."""
        before = self.saved()
        try:
            result = self.undone(self.ask(who, key, body))
        except Refused as error:
            return error
        self.restore(before)
        return result

    def saved(self) -> Any:
        """Return what runs change."""
        own = {name: (copy.deepcopy(one.accounts), [*one.journal]) for name, one in self.datasets.items()}
        return [*self.runs], dict(self.keys), own

    def restore(self, saved: Any) -> None:
        """Undo what was asked for since; what is saved serves once."""
        self.runs, self.keys, own = saved
        for name, (accounts, journal) in own.items():
            self.datasets[name].accounts, self.datasets[name].journal = accounts, journal

    # --- what becomes of a run: accounting.md, "Settling"

    def advance(self, who: Person, run: Run, kind: str, facts: Json, frozen: Iterable[str] = ()) -> Answer:
        """Write the run's next entries. A dataset in which an overrun does not fit is frozen."""
        run.waits, run.state, entries = kind == "reported", run.state if kind == "reported" else kind, []
        for name, keys in run.charges.items():
            own = self.datasets[name]
            if name in frozen:
                own.state = "frozen" if own.state == "active" else own.state
            state = {"state": own.state} if name in frozen else {}
            entries.append(self.write(own, f"run-{kind}", who, {"run": run, **facts, **state}, keys))
        body: Json = {part: facts[part] for part in ("charged", "returned", "overrun") if part in facts}
        if "overrun" in body:
            body["overrun"] = {part: body["overrun"][part] for part in ("steps", "repeated", "cost", "fits")}
        if not frozen:
            return Answer(200, run, body, entries)
        over: Over = {(n, key, q): () for n, key, own in self.charged(run) for q in own.overdrawn.exceeds(NOTHING)}
        return Answer(409, run, {"code": "overrun", "overrun": body["overrun"], "frozen": frozen}, over=over)

    def start(self, who: Person, run: Run, body: Json) -> Iterator[Any]:
        """From now on it touches the data, by the process with this token (docs/how-to/restarts.md)."""
        is_frozen = any(self.datasets[name].state != "active" for name in run.charges)
        yield False, {}, {"run_state": run.state != "held", "dataset_frozen": is_frozen}
        own = hashlib.sha256(body["token"].encode()).hexdigest() if body else None
        yield self.advance(who, run, "started", known(token_sha256=own))

    def settle(self, who: Person, run: Run, body: Json) -> Iterator[Any]:
        """Charge what was executed, and give back the rest if that is sound."""
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

    def ruled(self, report: str, who: Person, run: Run, body: Json) -> Iterator[Any]:
        """A steward confirms what a run reported, or states another number. It is answered alike if it does not fit."""
        facts, is_wrong = self.executed(run, body if report == "corrected" else run.sent.get("settle") or {})
        ruling = {"request": body, "report": report, "reason": body["reason"]}
        yield report == "corrected", ruling, {"run_state": not run.waits, "invalid_request": is_wrong}
        answer = self.settled(who, run, {**facts, **ruling})
        yield Answer(200, run, {"state": "settled", **known(overrun=answer.body.get("overrun"))})

    confirm = functools.partialmethod(ruled, "confirmed")
    correction = functools.partialmethod(ruled, "corrected")

    @staticmethod
    def executed(run: Run, body: Json) -> tuple[Json, object]:
        """Return what an entry has about what was executed, and whether it is impossible."""
        plan, steps, restarts = run.plan, body.get("steps"), body.get("restarts")
        steps = plan.most + repeated(restarts) if steps is None and plan.has_steps else steps
        reached = (steps or 0) - repeated(restarts)
        is_short = plan.has_steps and reached < plan.fewest
        is_wrong = is_short and body.get("stop") == "planned"
        is_wrong |= not plan.has_steps and (steps, restarts) != (None, None)
        is_wrong |= any(restart["to_step"] > reached for restart in restarts or [])
        stop = body.get("stop") or ("data_dependent" if is_short else "planned")
        return {"request": body, "steps": steps, "stop": stop, **known(restarts=restarts)}, is_wrong

    def settled(self, who: Person, run: Run, facts: Json) -> Answer:
        """Charge an overrun too; a dataset is frozen if it did not fit there once the run was settled."""
        charged, overrun = run.plan.settled(facts["steps"], facts["stop"], facts.get("restarts"))
        frozen = self.spend(run, charged, overrun["cost"] if overrun else NOTHING)
        facts |= {"charged": run.charged, "returned": run.plan.cost - charged}
        facts |= {"overrun": {**overrun, "fits": not frozen, "frozen": frozen}} if overrun else {}
        return self.advance(who, run, "settled", facts, frozen)

    def spend(self, run: Run, charged: Amount, excess: Amount) -> list[str]:
        """Give back what was held, and spend what is charged, except of a principal. Return the datasets in which the
        excess does not fit then."""
        run.charged, frozen = charged + excess, set()
        for name, key, own in self.charged(run):
            own.held -= run.plan.cost
            if not key[2]:
                own.spent = both(min, own.spent + charged, FULL)
                frozen |= {name} if excess.exceeds(own.remaining) and excess != NOTHING else set()
                own.spent = both(min, own.spent + excess, FULL)
        return sorted(frozen)

    def amend(self, who: Person, run: Run, body: Json) -> Iterator[Any]:
        """A settled run was another mechanism: what it costs more is charged, or all of it if an output decided that.
        Giving back takes two people and somebody's word. It is refused if a proposal rests on an earlier charge."""
        cost = Plan(body["mechanism"], run.adjacency).cost
        old, number = NOTHING if body["decided_by_output"] else run.charged, run.corrections + 1
        late = both(max, cost - old, NOTHING)
        returned = both(max, old - cost, NOTHING) if late == NOTHING else NOTHING
        spent = [own.spent for _, key, own in self.charged(run) if not key[2]]
        is_full = returned != NOTHING and any(FULL.mu in (each.mu, each.delta) for each in spent)
        lowers = {"lowers": True} if returned != NOTHING else {}
        is_stale = self.second is not None and self.second.proposes["number"] != number
        faults: Json = {"run_state": run.state != "settled" or is_full, "proposal_state": is_stale}
        faults |= {"invalid_request": lowers and "on_word_of" not in body}
        yield "always" if lowers else True, {"request": body, "number": number, **lowers}, faults
        frozen, before = set(), run.charged
        run.charged, run.corrections = before + late - returned, number
        for name, key, own in self.charged(run):
            if not key[2]:
                is_over = late != NOTHING and (own.overdrawn != NOTHING or late.exceeds(own.remaining))
                frozen |= {name} if is_over else set()
                own.spent = both(min, own.spent + late, FULL) - returned
        facts = {
            "run": run,
            "request": body,
            "number": number,
            "replaces": not body["decided_by_output"],
            "before": before,
        }
        facts |= {"cost": cost, "charged": run.charged, "late": late, "returned": returned, "fits": not frozen}
        facts |= {"frozen": sorted(frozen), **known(project=run.body.get("project"))}
        for name, keys in run.charges.items():
            own_set = self.datasets[name]
            own_set.state = "frozen" if name in frozen and own_set.state == "active" else own_set.state
            state = {"state": own_set.state} if name in frozen else {}
            self.write(own_set, "run-corrected", who, {**facts, **state}, keys)
        yield Answer(200, run, {name: facts[name] for name in ("number", "replaces", "fits", "frozen")})

    def void(self, who: Person, run: Run, body: Json) -> Iterator[Any]:
        """No output was ever seen: before the start the requester states that, afterwards a steward."""
        is_started = run.state == "started"
        is_late = is_started and who.role == "requester"
        yield is_started, {"request": body}, {"run_state": run.state not in ("held", "started"), "forbidden": is_late}
        self.spend(run, NOTHING, NOTHING)
        yield self.advance(who, run, "voided", {"request": body, "returned": run.plan.cost})

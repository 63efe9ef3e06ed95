"""What stewards and admins do with datasets, budgets and proposals, and what is written of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tests.model import views
from tests.model.books import (
    ANSWERED,
    BELOW,
    CLOSED,
    FORBIDDEN,
    FROZEN,
    INVALID,
    MISMATCH,
    OWN,
    TAKEN,
    TOO_LARGE,
    UNKNOWN,
    Answer,
    Dataset,
    Key,
    Person,
    Problem,
    Proposal,
    Refused,
    Run,
    demand,
)
from tests.model.prices import NOTHING, Amount, Json, limit_of

TAKES_TWO: Final = ["budget", "correction", "fair-use", "partitions", "project", "thaw", "void"]


class Stewards:
    """One tenant, with what stewards and admins do. `journal` is its own, of keys and the policy."""

    def __init__(self, journal: list[Json]) -> None:
        self.datasets: dict[str, Dataset] = {}
        self.runs: list[Run] = []
        self.keys: dict[tuple[str, str], tuple[Person, Json, Run]] = {}
        self.proposals: list[Proposal] = []
        self.journal = journal
        self.second_steward = False

    def write(self, name: str, kind: str, who: Person, facts: Json, keys: Iterable[Key] = ()) -> None:
        """An entry with the balances that it touches, as they are by now (docs/reference/export.md, "Kinds")."""
        dataset, keys = self.datasets[name], list(keys)
        for key in keys:
            dataset.accounts[key].settle_overdrawn(kind == "run-settled" and "overrun" in facts)
        accounts = {key: dataset.accounts[key].json() for key in {*keys, OWN} & dataset.accounts.keys()}
        entry = {"v": 3, "seq": len(dataset.journal) + 1, "kind": kind, "dataset": name, "actor": who.actor()}
        dataset.journal.append({**entry, **facts, "accounts": accounts})

    @staticmethod
    def demand_role(who: Person, *roles: str) -> None:
        """README.md, "Calls": an admin may do everything."""
        demand((FORBIDDEN, who.role not in ("admin", *roles)))

    def _managed(self, who: Person, name: str) -> Dataset:
        """A dataset that a steward changes."""
        self.demand_role(who, "steward")
        demand((UNKNOWN, name not in self.datasets or not who.sees(name)))
        return self.datasets[name]

    def _changed(self, name: str, kind: str, who: Person, facts: Json, keys: Iterable[Key] = ()) -> Answer:
        self.write(name, kind, who, facts, keys)
        return Answer(200, views.dataset(self.datasets, name))

    # --- two people: docs/reference/export.md, "What takes two people"

    def guarded(self, loosens: bool, proposal: Proposal, facts: Json) -> Answer:
        """Only proposes what loosens a budget, if the policy asks for a second steward; does everything else."""
        proposal.check()
        if not (self.second_steward and loosens):
            return proposal.do(proposal.by, {})
        run, names = proposal.run, proposal.datasets
        still = [old for old in self.proposals if old.state == "open" and old.datasets[0] == names[0]]
        again = [old for old in still if run is not None and (old.run, old.what) == (run, proposal.what)]
        if again:
            return Answer(202, {"proposal": {"id": again[0]}})
        demand((TOO_LARGE, len(still) >= 100 or sum(old.by.id == proposal.by.id for old in still) >= 20))
        self.proposals.append(proposal)
        about = {"proposal": proposal, "what": proposal.what, "proposes": facts, **({"about_run": run} if run else {})}
        for name in names:
            self.write(name, "change-proposed", proposal.by, about)
        body = {"what": proposal.what, "dataset": names[0], "proposes": facts, "state": "open", "run": run}
        return Answer(202, {"proposal": body}, proposal=proposal)

    def approve(self, who: Person, proposal: Proposal) -> Answer:
        """Another principal approves, and it is done, if it still can be."""
        problems = self._open(who, proposal)
        try:
            proposal.check()
        except Refused as refused:
            problems += [(problem, True) for problem in refused.problems]
        demand(*problems)
        proposal.state = "approved"
        answer = proposal.do(who, {"proposal": {"id": proposal, "by": proposal.by.actor()}})
        return answer if proposal.run else Answer(200, views.dataset(self.datasets, proposal.datasets[0]))

    def refuse(self, who: Person, proposal: Proposal, reason: str) -> Answer:
        """Another principal refuses."""
        demand(*self._open(who, proposal))
        proposal.state = "refused"
        for name in proposal.datasets:
            self.write(name, "proposal-refused", who, {"proposal": proposal, "what": proposal.what, "reason": reason})
        return Answer(200, {"state": "refused", "what": proposal.what})

    def _open(self, who: Person, proposal: Proposal) -> list[tuple[Problem, object]]:
        self._managed(who, proposal.datasets[0])
        demand((ANSWERED, proposal.state != "open"))
        return [(FORBIDDEN, proposal.by.id == who.id)]

    def set_policy(self, who: Person, body: Json) -> Answer:
        """Whether what loosens a budget takes a second steward."""
        self.demand_role(who)
        self.second_steward = body["second_steward"]
        guards = {"guards": TAKES_TWO} if self.second_steward else {}
        self.journal.append({"kind": "policy-set", "actor": who.actor(), **body, **guards})
        return Answer(200, {"second_steward": self.second_steward})

    # --- datasets: docs/how-to

    def register(self, who: Person, body: Json) -> Answer:
        """A root with a budget, or a derived dataset, which has the terms of what it comes from."""
        self.demand_role(who, "steward")
        name, parents = body["name"], [parent["name"] for parent in body.get("derived_from", [])]
        limit, ceiling = (limit_of(body[what]) if body.get(what) else None for what in ("budget", "ceiling"))
        known = [self.datasets[parent].terms for parent in parents if parent in self.datasets]
        unit, adjacency, bound = known[0] if known else ("", "", "certified")
        terms = (body.get("privacy_unit", unit), body.get("adjacency", adjacency), body.get("bound", bound))
        is_partitioned = "partitions" in body
        demand(
            (TAKEN, name in self.datasets),
            (INVALID, len(known) < len(parents) or (parents and is_partitioned) or not (parents or limit)),
            (INVALID, limit and ceiling and limit.exceeds(ceiling)),
            (INVALID, not all(parent["unit_preserving"] for parent in body.get("derived_from", []))),
            (MISMATCH, known and {*known} != {terms}),
        )
        self.datasets[name] = dataset = Dataset(
            name, terms, tuple(parents), is_partitioned, body.get("budget"), ceiling
        )
        for partition in body.get("partitions", [None]) if limit else []:
            dataset.open((partition, None, None), limit or NOTHING)
        facts: Json = {"title": "", "description": "", "size": None, "budget": dataset.budget, "state": "active"}
        facts |= dict(zip(("privacy_unit", "adjacency", "bound"), terms, strict=True))
        facts |= {"limit": limit and limit.json(), "is_partitioned": is_partitioned}
        facts |= {"ceiling": body["ceiling"], "ceiling_limit": ceiling.json()} if ceiling else {}
        facts["derived_from"] = [{"name": parent, "unit_preserving": True} for parent in parents]
        answer = self._changed(name, "dataset-registered", who, facts, dataset.base)
        return Answer(201, answer.body)

    def change_state(self, who: Person, name: str, body: Json) -> Answer:
        """Freezes, thaws, retires. Retired stays retired; thawing what is overdrawn takes two."""
        dataset = self._managed(who, name)

        def check() -> None:
            waits = any(run.waits and name in run.charges for run in self.runs)
            demand((FROZEN, dataset.state == "retired" and body["state"] != "retired"))
            demand((FROZEN, body["state"] == "active" and waits))

        def do(actor: Person, consent: Json) -> Answer:
            dataset.state = body["state"]
            return self._changed(name, "dataset-changed", actor, {**body, **consent})

        is_overdrawn = any(balance.overdrawn != NOTHING for balance in dataset.accounts.values())
        is_thaw = (dataset.state, body["state"]) == ("frozen", "active")
        return self.guarded(is_thaw and is_overdrawn, Proposal("thaw", who, [name], check, do), body)

    def set_budget(self, who: Person, name: str, body: Json) -> Answer:
        """A new limit of all base accounts: never below what is spent and held, nor above the ceiling."""
        dataset, limit = self._managed(who, name), limit_of(body["budget"])

        def facts() -> Json:
            return {**body, "limit": limit.json(), "limit_before": limit_of(dataset.budget or {}).json()}

        def check() -> None:
            is_above = dataset.ceiling is not None and limit.exceeds(dataset.ceiling)
            demand((INVALID, dataset.budget is None or is_above), (BELOW, dataset.crowded(dataset.base, limit)))

        def do(actor: Person, consent: Json) -> Answer:
            entry, dataset.budget = facts(), body["budget"]
            dataset.relimit(dataset.base, limit)
            return self._changed(name, "budget-set", actor, {**entry, **consent}, dataset.base)

        check()
        is_raise = bool(limit.exceeds(limit_of(dataset.budget or {})))
        return self.guarded(is_raise, Proposal("budget", who, [name], check, do), facts())

    def add_partitions(self, who: Person, name: str, body: Json) -> Answer:
        """Partitions with the dataset's limit; only if it was registered with some, perhaps none."""
        dataset, names = self._managed(who, name), body["names"]

        def check() -> None:
            demand(
                (CLOSED, not dataset.is_partitioned),
                (TAKEN, {*names} & {*dataset.scopes}),
                (FROZEN, dataset.state == "retired"),
                (INVALID, not body["disjoint"] or len({*names}) < len(names)),
            )

        def do(actor: Person, consent: Json) -> Answer:
            limit = limit_of(dataset.budget or {})
            new = [dataset.open((partition, None, None), limit) for partition in names]
            self.write(name, "partitions-added", actor, {**body, "limit": limit.json(), **consent}, new)
            balances = [{"name": key[0], "balance": views.fullest(dataset, [key], dataset.budget or {})} for key in new]
            return Answer(201, {"items": balances})

        return self.guarded(True, Proposal("partitions", who, [name], check, do), body)

    def set_project(self, who: Person, name: str, project: str, body: Json) -> Answer:
        """A project's share: a limit of the accounts that it has by now, and of those to come."""
        dataset, limit = self._managed(who, name), limit_of(body["budget"])

        def before() -> Amount | None:
            return limit_of(dataset.projects[project]) if project in dataset.projects else None

        def facts() -> Json:
            was = before()
            return {"project": project, **body, "limit": limit.json(), "limit_before": was and was.json()}

        def check() -> list[Key]:
            keys = [key for key in dataset.accounts if key[1] == project]
            demand((BELOW, dataset.crowded(keys, limit)))
            return keys

        def do(actor: Person, consent: Json) -> Answer:
            keys, entry = check(), facts()
            dataset.projects[project] = body["budget"]
            dataset.relimit(keys, limit)
            self.write(name, "project-set", actor, {**entry, **consent}, keys)
            return Answer(200, {"dataset": name, **views.share(dataset, project)})

        was = before()
        is_more = was is None or bool(limit.exceeds(was))
        return self.guarded(is_more, Proposal("project", who, [name], check, do), facts())

    def set_fair_use(self, who: Person, name: str, body: Json) -> Answer:
        """What one principal may hold, from the next run on, and how many runs it may ask for in an hour."""
        dataset, before = self._managed(who, name), self.datasets[name].fair_use
        stated = {"held": body["held"], "runs_per_hour": body["runs_per_hour"]}
        limit, limit_before = (limit_of(use["held"]) if use["held"] else None for use in (stated, before))
        facts = {"fair_use": {**stated, "limit": limit and limit.json()}, "reason": body["reason"]}

        def do(actor: Person, consent: Json) -> Answer:
            dataset.fair_use = stated
            return self._changed(name, "fair-use-set", actor, {**facts, **consent})

        rate, rate_before = stated["runs_per_hour"], before["runs_per_hour"]
        is_more = limit_before is not None and (limit is None or bool(limit.exceeds(limit_before)))
        is_more |= rate_before is not None and (rate is None or rate > rate_before)
        return self.guarded(is_more, Proposal("fair-use", who, [name], lambda: None, do), facts)

"""Random operations on a ledger over HTTP, each of them compared with the model."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, get_args

from ledger.core.datasets import Adjacency
from ledger.verifier import verify
from tests.kit.driver import Ledger
from tests.model import evidence
from tests.model.compare import (
    Receipts,
    answered,
    check_fits,
    comparable,
    demand_within,
    difference,
    parts_of,
    plain,
    receipt_state,
    resolved,
    shown,
)
from tests.model.draws import BUDGETS, LARGE, SHARES, Draw, derived, gaussian
from tests.model.model import FULL, Answer, Key, Model, Person, Proposal, Refused, Run
from tests.model.prices import NOTHING, Json, Plan, both

REASON: Final = {"reason": "for the test"}
FACTS: Final = {"run-state": {"state"}, "dataset-frozen": {"dataset", "state"}, "invalid-mechanism": {"field"}}
"""What an error says besides."""
STEPS_MAX: Final = 10**12
"""The most that a settlement can say."""


def _place(on: Json) -> tuple[str, Key]:
    """The dataset and the account that an error names."""
    return on["name"], (on.get("partition"), on.get("project"), on.get("principal"))


def _as_first(answer: Json) -> Json:
    """An answer that is given again: only the delta that epsilon is shown at may be another budget's since."""
    return {name: member for name, member in answer.items() if name != "epsilon"}


class Walk:
    """One tenant, driven at random by several people."""

    def __init__(self, admin: Ledger, tenant: str, seed: int, counts: Counter[str]) -> None:
        self.draw, self.seed, self.counts, self.admin = Draw(seed), seed, counts, admin
        self.jwks = admin.get("/.well-known/jwks.json").json()
        self.receipts = Receipts(self.jwks)
        self.people: dict[str, Person] = {}
        self.ledgers: dict[str, Ledger] = {}
        self.key_ids: dict[str, str] = {}
        self.journal: list[Json] = [{"kind": "tenant-made", "name": tenant}]
        self._join("admin", "admin", admin)
        for name, role in {"sue": "steward", "sam": "steward", "ada": "requester", "bo": "requester"}.items():
            self._hire(name, role)
        self._hire("aud", "auditor")
        self.model = Model(self.journal)
        self.log: list[str] = []
        self.asked: list[tuple[str, str, Json]] = []

    def _note(self, entry: Json) -> None:
        """The tenant's own journal gets an entry: export.md, "The tenant's own journal"."""
        self.journal.append({**entry, "actor": self.people["admin"]})

    def _hire(self, name: str, role: str, **limits: Any) -> str:
        made = self.admin.post("/v1/keys", {"name": name, "role": role, **limits})
        assert made.status_code == 201, made.text
        entry = {"kind": "key-made", "name": name, "key_role": role, "datasets": None, "projects": None, **limits}
        self._note(entry)
        self._join(name, role, self.admin.with_key(made.json()["secret"]), **limits)
        self.key_ids[name] = str(made.json()["id"])
        return self.key_ids[name]

    def _join(self, name: str, role: str, ledger: Ledger, **limits: Any) -> None:
        me = ledger.get("/v1/me").json()
        lists = {what: tuple(names) for what, names in limits.items()}
        self.people[name] = Person(me["name"], role, me["principal"], **lists)
        self.ledgers[name] = ledger
        if name == "admin":
            self.journal.append({"kind": "key-made", "name": me["name"], "key_role": role})

    # --- one operation

    def step(
        self, kind: str, who: str, method: str, path: str, body: Any, act: Callable[[Person], Answer], key: str = ""
    ) -> Any:
        """Does it in the model and over HTTP, and compares what is answered."""
        expected: Answer | Refused
        try:
            expected = act(self.people[who])
        except Refused as refused:
            expected = refused
        headers = {"Idempotency-Key": key} if key else {}
        rest = {} if body is None else {"json": body}
        response = self.ledgers[who].request(method, path, headers=headers, **rest)
        answer = response.json()
        self.log.append(
            f"{who}: {method} {path} {json.dumps(body)} {key} -> {response.status_code} {response.text[:300]}"
        )
        self.counts[f"{kind}: {response.status_code} {answer.get('code', '')}".strip()] += 1
        self.check(expected, response.status_code, answer)
        if path == "/v1/runs":
            is_again = isinstance(expected, Answer) and expected.first is not None
            assert response.headers.get("idempotent-replayed") == ("true" if is_again else None)
        return answer

    def check(self, expected: Answer | Refused, status: int, answer: Json) -> None:
        """The answer is one that the model allows."""
        if isinstance(expected, Refused):
            assert (status, answer.get("code")) in expected.problems, (status, answer, expected.problems)
            assert FACTS.get(answer["code"], frozenset()) <= answer.keys(), answer
            return
        assert status == expected.status, (status, answer, expected.status, expected.body)
        if expected.first is not None:
            assert _as_first(answer) == _as_first(expected.first)
            self.counts["the first answer again"] += 1
            return
        if isinstance(expected.on, Proposal):
            expected.on.id = expected.on.id or answer["proposal"]["id"]
        if isinstance(expected.on, Run):
            self._check_run(expected.on, answer, expected.call)
            if expected.left is not None:
                check_fits(expected.on, expected.left, answer["fits"])
        if expected.over:
            self._check_over(expected, answer)
        body = answered(self.model, expected)
        demand_within(resolved(body), evidence.exact(json.dumps({**answer, **parts_of(answer)})))
        if expected.results:
            for mine, result in zip(expected.results, answer["results"], strict=True):
                self.check(mine, result["status"], result["run"] if "run" in result else result["problem"])
                assert result["replayed"] == (isinstance(mine, Answer) and mine.first is not None)

    def _check_run(self, run: Run, answer: Json, call: str) -> None:
        run.id = run.id or answer.get("id") or answer.get("run", "")
        run.first[call] = answer
        if "receipt" in answer:
            self.receipts.check(run, run.state, answer["receipt"])
            self.counts[f"receipt: {run.state}"] += 1

    def _check_over(self, expected: Answer, answer: Json) -> None:
        """An error names exactly the accounts in which a run does not fit; if it was refused, by how much."""
        actual = {(*_place(on), on["quantity"]): on for on in answer["datasets"]}
        assert len(actual) == len(answer["datasets"])
        assert actual.keys() == expected.over.keys()
        for place, amounts in expected.over.items():
            for name, units in zip(("requested", "remaining", "limit"), amounts, strict=False):
                shown = actual[place][name]
                assert math.isclose(shown, plain(place[2], units), rel_tol=1e-9, abs_tol=1e-300), (name, place, units)

    # --- choosing

    def run_steps(self, count: int) -> None:
        """So many random operations; what went wrong is shown with what came before it."""
        try:
            if not self.model.datasets:
                self.begin()
            for _ in range(count):
                self.operate()
            self.check_all()
        except Exception as error:
            raise AssertionError(f"seed {self.seed}\n" + "\n".join([*self.log[-12:], repr(error)])) from error

    def begin(self) -> None:
        """A plain root, one with partitions, a copy of the one, and a join of both."""
        terms = {"privacy_unit": "record", "adjacency": self.draw.choice(get_args(Adjacency))}
        terms["bound"] = self.draw.choice(["certified", "clt"])
        self.terms = terms
        for name, more in (("plain", {}), ("parted", {"partitions": ["a", "b"]})):
            self.register("sue", {"name": name, **terms, "budget": self.draw.choice(BUDGETS[:8]), **more})
        self.register("sue", {"name": "copy", "derived_from": derived("plain"), "budget": {"mu": 0.8, "delta": 1e-6}})
        self.register("sue", {"name": "join", "derived_from": derived("plain", "parted")})
        for name in ("wide", "side"):
            self.register("sue", {"name": name, **terms, "budget": self.draw.choice(LARGE)})
        self.half_shared()
        self.fitting_batch()
        self.capped()
        self.lowered()
        self.stopped()
        self.reordered()
        self.beyond_share()
        self.corrected()
        self.amended()
        self.own_proposal()
        self._hire("lim", "requester", datasets=["copy", "plain"])
        self._hire("pia", "requester", projects=["x"])
        self.policy()

    # --- what random operations seldom reach, on datasets where nothing else is in the way

    def half_shared(self) -> None:
        """A run for a project that has a share of one of two datasets, then of both."""
        for name in ("wide", "side"):
            self._share(name, "y")
            for names in (["wide", "side"], ["side", "wide"]):
                body = {"datasets": names, "mechanism": gaussian(10), "project": "y"}
                self._ask("half shared", "ada", f"k{len(self.asked)}", body)

    def fitting_batch(self) -> None:
        """An atomic batch of which every run fits."""
        bodies = [{"datasets": ["side"], "mechanism": gaussian(10, self.draw.randint(1, 3))} for _ in range(3)]
        self._batch("ada", [{**body, "idempotency_key": f"fits{n}"} for n, body in enumerate(bodies)], "atomic")

    def capped(self) -> None:
        """A budget above the ceiling, and one below it."""
        budget, most = {"mu": 1, "delta": 1e-6}, {"mu": 1.5, "delta": 1e-6}
        self.register("sue", {"name": "capped", **self.terms, "budget": budget, "ceiling": most})
        for mu in (2, 1.5):
            body = {"budget": {"mu": mu, "delta": 1e-6}, **REASON}
            self._change("capped", "budget", "sue", "capped", "PUT", "/v1/datasets/capped/budget", body)

    def lowered(self) -> None:
        """Fair use that is lowered below what somebody holds, and then ends."""
        for held in ({"mu": 0.3, "delta": 0}, {"mu": 0.2, "delta": 0}, None):
            body = {"held": held, "runs_per_hour": None, **REASON}
            self._change("fair use", "fair-use", "sue", "wide", "PUT", "/v1/datasets/wide/fair-use", body)
            for _ in range(2 if held else 0):
                self._ask("lowered", "bo", f"k{len(self.asked)}", {"datasets": ["wide"], "mechanism": gaussian(5)})

    def stopped(self) -> None:
        """Correlated noise that stops within its second segment of three."""
        for stop in ("data_dependent", "data_independent"):
            mechanism = self.draw.factorization(noise=12, steps=9)
            run = self._started({"datasets": ["side"], "mechanism": mechanism, "segments": 3})
            self._on_run("settle", run, {"steps": self.draw.randint(4, 5), "stop": stop}, "ada", kind="stopped")

    def reordered(self) -> None:
        """Steps of correlated noise that are run again after new orders, whole and in segments."""
        for segments in (1, 2):
            mechanism = self.draw.factorization(noise=12, steps=self.draw.randint(6, 12))
            body = {"datasets": ["side"], "mechanism": mechanism, "segments": segments}
            run = self._started({name: member for name, member in body.items() if member != 1})
            ends = sorted(self.draw.randint(1, mechanism["steps"]) for _ in range(3))
            restarts = [
                {"from_step": self.draw.randint(max(end - 3, 1), end), "to_step": end, "new_batches": is_new}
                for end, is_new in zip(ends, (True, self.draw.random() < 0.5, False), strict=True)
            ]
            steps = mechanism["steps"] + sum(again["to_step"] - again["from_step"] + 1 for again in restarts)
            self._on_run("settle", run, {"steps": steps, "restarts": restarts}, "ada", kind="reordered")

    def beyond_share(self) -> None:
        """An overrun that does not fit in what remains of a project's share, but in its limit and in the dataset."""
        self._share("wide", "x")
        mechanism = gaussian(self.draw.choice([5, 8]))
        run = self._started({"datasets": ["wide"], "mechanism": mechanism, "project": "x"})
        share = self.model.datasets["wide"].accounts[None, "x", None]
        self._on_run("settle", run, {"steps": 1 + share.limit.mu // run.plan.cost.mu}, "ada", kind="beyond a share")

    def corrected(self) -> None:
        """A number of steps that no budget could cover, and a steward's in its place; then the dataset is thawed."""
        run = self._started({"datasets": ["side"], "mechanism": gaussian(10, 3)})
        self._on_run("settle", run, {"steps": STEPS_MAX}, "ada", kind="overrun")
        self._on_run("correction", run, {**REASON, "steps": self.draw.randint(1, 5)}, "sue", kind="correct")
        self._set_state("side", "active", "sue")

    def amended(self) -> None:
        """A settled run was less noise than declared, and then more: what is given back takes two."""
        run = self._started({"datasets": ["side"], "mechanism": gaussian(10)})
        self._on_run("settle", run, None, "ada")
        self._amend(run, "sue", gaussian(8))
        self._amend(run, "sue", gaussian(20), on_word_of="the job's log")
        for who in ("sue", "sam"):
            self._approve(who, self.model.proposals[-1])

    def _amend(self, run: Run, who: str, mechanism: Json, *, is_chosen: bool = False, **more: str) -> None:
        body = {**REASON, "mechanism": mechanism, "decided_by_output": is_chosen, **more}
        self._on_run("amend", run, body, who)

    def own_proposal(self) -> None:
        """A proposal that its own steward cannot approve, and another one can."""
        self._policy("admin", True)
        body = {"budget": {"mu": 3.25, "delta": 1e-5}, **REASON}
        self._change("budget", "budget", "sue", "side", "PUT", "/v1/datasets/side/budget", body)
        for who in ("sue", "sam"):
            self._approve(who, self.model.proposals[-1])

    def _share(self, name: str, project: str) -> None:
        body, path = {"budget": self.draw.choice(SHARES)}, f"/v1/datasets/{name}/projects/{project}"
        self._change("project", "project", "sue", name, "PUT", path, body, project=project)

    def _started(self, body: Json) -> Run:
        self._ask("ask", "ada", f"k{len(self.asked)}", body)
        run = self.model.runs[-1]
        self._on_run("start", run, None, "ada")
        return run

    def operate(self) -> None:
        """One operation."""
        weights: dict[Callable[[], None], int] = {
            self.ask: 28,
            self.ask_again: 6,
            self.batch: 5,
            self.start: 14,
            self.settle: 11,
            self.overrun: 6,
            self.rule: 9,
            self.amend: 7,
            self.void: 9,
            self.repeat: 5,
            self.set_budget: 7,
            self.change_state: 3,
            self.thaw: 9,
            self.add_partitions: 6,
            self.set_project: 4,
            self.set_fair_use: 2,
            self.register_any: 3,
            self.policy: 1,
            self.answer_proposal: 8,
            self.show_receipt: 4,
            self.nothing: 2,
            self.turn_keys: 1,
        }
        before = {name: len(dataset.keys()) for name, dataset in self.model.datasets.items()}
        self.draw.choices([*weights], [*weights.values()])[0]()
        held = {name for run in self.model.runs if run.state == "held" for name in run.charges}
        grown = [name for name, count in before.items() if len(self.model.datasets[name].keys()) > count]
        self.counts["partitions added beside held runs"] += len(held.intersection(grown))

    def names(self, *, is_active: bool = True) -> list[str]:
        """Datasets; those on which a run could be approved."""
        names = [*self.model.datasets]
        states = {name: {self.model.datasets[other].state for other in self.ancestry(name)} for name in names}
        return [name for name in names if states[name] == {"active"} or not is_active] or ["plain"]

    def ancestry(self, name: str) -> list[str]:
        return self.model.reached(name)

    def roots(self, name: str) -> list[str]:
        return [other for other in self.ancestry(name) if not self.model.datasets[other].parents]

    def steward(self) -> str:
        return self.draw.choice(["sue"] * 5 + ["sam"] * 3 + ["admin", "ada", "aud"])

    def requester(self) -> str:
        return self.draw.choice(["ada"] * 12 + ["bo"] * 10 + ["lim"] * 3 + ["pia"] * 2 + ["admin", "sue", "aud"])

    def seldom(self) -> bool:
        return self.draw.random() < 0.12

    # --- datasets

    def register(self, who: str, body: Json) -> None:
        """Register a dataset whose costs add up in any order; costs beside what is left have tests of their own."""
        body = {**body, "costing": "standalone"}
        self.step("register", who, "POST", "/v1/datasets", body, lambda person: self.model.register(person, body))

    def register_any(self) -> None:
        """Another root, another derived dataset, or one that cannot be."""
        name, some = f"d{len(self.model.datasets)}", self.draw.choice(self.names(is_active=False))
        root: Json = {"name": name, **self.terms, "budget": self.draw.choice(BUDGETS)}
        bodies: list[Json] = [
            {**root, "ceiling": self.draw.choice(BUDGETS)},
            {**root, "partitions": self.draw.choice([[], ["a"], ["a", "b", "c"]])},
            {"name": name, "derived_from": derived(*self.draw.sample([*self.model.datasets], 2))},
            {"name": name, "derived_from": derived(some), "budget": self.draw.choice(BUDGETS)},
        ]
        wrong: list[Json] = [
            {**root, "name": some},
            {**root, "adjacency": "replace_one", "privacy_unit": "user"},
            {"name": name, "derived_from": derived(some, "nobody")},
            {"name": name, "derived_from": derived(some), "privacy_unit": "household"},
            {"name": name, "derived_from": derived(some), "partitions": ["a"]},
            {"name": name, "derived_from": derived(name)},
            {"name": name, "derived_from": [{"name": some, "unit_preserving": False}]},
            {**root, "budget": None},
            {**root, "budget": {"mu": 2, "delta": 1e-6}, "ceiling": {"mu": 1, "delta": 1e-6}},
        ]
        if len(self.model.datasets) < 12 or self.seldom():
            self.register(self.steward(), self.draw.choice(wrong if self.draw.random() < 0.4 else bodies))
        else:
            self.ask()

    def set_budget(self) -> None:
        name, who = self.draw.choice(self.names(is_active=False)), self.steward()
        is_over = any(own.overdrawn != NOTHING for own in self.model.datasets[name].accounts.values())
        body = {"budget": self.draw.choice(LARGE if is_over else BUDGETS), **REASON}
        self._change("budget", "budget", who, name, "PUT", f"/v1/datasets/{name}/budget", body)

    def change_state(self) -> None:
        """Freezes or retires; seldom what the others need."""
        later = [name for name in self.model.datasets if name.startswith("d")]
        state = "retired" if later and self.seldom() else "frozen"
        self._set_state(self.draw.choice(later if state == "retired" else self.names(is_active=False)), state)

    def thaw(self) -> None:
        """Thaws something."""
        frozen = [name for name, dataset in self.model.datasets.items() if dataset.state == "frozen"]
        if not frozen:
            return self.ask()
        over = [n for n in frozen if any(own.overdrawn != NOTHING for own in self.model.datasets[n].accounts.values())]
        return self._set_state(self.draw.choice(over or frozen), "active")

    def _set_state(self, name: str, state: str, who: str = "") -> None:
        body = {"state": state, **REASON}
        self._change(state, "thaw", who or self.steward(), name, "PATCH", f"/v1/datasets/{name}", body)

    def _change(self, kind: str, call: str, who: str, name: str, method: str, path: str, body: Json, **on: str) -> None:
        self.step(kind, who, method, path, body, lambda person: self.model.perform(person, call, name, {**on, **body}))

    def add_partitions(self) -> None:
        parted = [name for name, dataset in self.model.datasets.items() if dataset.is_partitioned]
        name = self.draw.choice([*self.model.datasets] if self.seldom() else ["parted", *parted])
        fresh = f"p{len(self.model.datasets[name].scopes)}"
        names = self.draw.choice([[fresh], [fresh], [fresh, f"{fresh}.1"], ["a", fresh]])
        body, path = {"names": names, "disjoint": not self.seldom()}, f"/v1/datasets/{name}/partitions"
        self._change("partitions", "partitions", self.steward(), name, "POST", path, body)

    def set_project(self) -> None:
        name, project = self.draw.choice(["plain", "parted", *self.names(is_active=False)]), self.draw.choice("xxy")
        who = self.steward()
        body, path = {"budget": self.draw.choice(SHARES)}, f"/v1/datasets/{name}/projects/{project}"
        self._change("project", "project", who, name, "PUT", path, body, project=project)

    def set_fair_use(self) -> None:
        name, who = self.draw.choice(self.names(is_active=False)), self.steward()
        rate = self.draw.choice([3, 8, 30]) if self.seldom() else None
        body = {"held": self.draw.choice([None, *SHARES, *BUDGETS]), "runs_per_hour": rate, **REASON}
        self._change("fair use", "fair-use", who, name, "PUT", f"/v1/datasets/{name}/fair-use", body)

    def policy(self) -> None:
        self._policy("sue" if self.seldom() else "admin", self.draw.random() < 0.5)

    def _policy(self, who: str, takes_two: bool) -> None:
        body = {"second_steward": takes_two, **REASON}
        self.step("policy", who, "PUT", "/v1/policy", body, lambda person: self.model.set_policy(person, body))

    def answer_proposal(self) -> None:
        """Approves or refuses, mostly what is open, and mostly as somebody else."""
        proposals = [old for old in self.model.proposals if old.state == "open" or self.seldom()]
        if not proposals:
            return self.ask()
        proposal = self.draw.choice(proposals[-3:])
        others = [name for name in ("sue", "sam", "admin") if self.people[name] != proposal.by]
        same = next(name for name, person in self.people.items() if person == proposal.by)
        who = self.draw.choice([*others * 3, same, same, "ada"])
        if self.draw.random() < 0.7:
            return self._approve(who, proposal)
        reason = "the board has not agreed"
        act: Callable[[Person], Answer] = lambda person: self.model.answer(person, proposal, reason)  # noqa: E731
        self.step("refuse", who, "POST", f"/v1/proposals/{proposal.id}/refuse", {"reason": reason}, act)
        return None

    def _approve(self, who: str, proposal: Proposal) -> None:
        act: Callable[[Person], Answer] = lambda person: self.model.answer(person, proposal)  # noqa: E731
        self.step("approve", who, "POST", f"/v1/proposals/{proposal.id}/approve", None, act)

    def turn_keys(self) -> None:
        """A key is made and revoked, and that of somebody else is rotated: only an admin may."""
        path = f"/v1/keys/{self._hire(f'guest-{len(self.journal)}', 'requester')}"
        assert self.ledgers["sue"].delete(path).status_code == 403
        assert self.admin.delete(path).status_code == 204
        self._note({"kind": "key-revoked", "revokes": path.removeprefix("/v1/keys/")})
        assert self.ledgers.popitem()[1].get("/v1/me").status_code == 401
        self.people.popitem()
        who = self.draw.choice(["ada", "bo", "sue"])
        rotated = self.admin.post(f"/v1/keys/{self.key_ids[who]}/rotate").json()
        self._note({"kind": "key-rotated", "made": rotated["id"], "rotates": self.key_ids[who], "name": who})
        self.ledgers[who], self.key_ids[who] = self.admin.with_key(rotated["secret"]), rotated["id"]
        self.counts["keys made, revoked and rotated"] += 1

    def nothing(self) -> None:
        """What names nothing, or says nothing that can be done."""
        nobody = "00000000-0000-0000-0000-000000000001"
        budget, run = {"budget": {"mu": 1, "delta": 0}}, {"datasets": ["plain"], "mechanism": gaussian()}
        calls: list[tuple[str, str, Any, str]] = [
            ("PUT", "/v1/datasets/nothing/budget", {**budget, **REASON}, "not-found"),
            ("PATCH", "/v1/datasets/nothing", {"state": "frozen", **REASON}, "not-found"),
            ("POST", f"/v1/runs/{nobody}/start", None, "not-found"),
            ("POST", f"/v1/runs/{nobody}/void", REASON, "not-found"),
            ("POST", f"/v1/proposals/{nobody}/approve", None, "not-found"),
            ("PUT", "/v1/datasets/plain/budget", budget, "invalid-request"),
            ("PATCH", "/v1/datasets/plain", {"state": "melted", **REASON}, "invalid-request"),
            ("POST", "/v1/runs", {**run, "mechanism": {"type": "magic"}}, "invalid-mechanism"),
            ("POST", "/v1/runs", run, "idempotency-key-missing"),
        ]
        method, path, body, code = self.draw.choice(calls)
        key = "k" if code == "invalid-mechanism" else ""
        self.step("nothing", "admin", method, path, body, lambda _: self._refuse(code), key)
        hidden = self.ledgers["lim"].get("/v1/datasets/parted")
        assert (hidden.status_code, hidden.json()["code"]) == (404, "not-found")

    @staticmethod
    def _refuse(code: str) -> Answer:
        raise Refused(code)

    # --- runs

    def body(self, who: str) -> Json:
        """A request for a run, mostly one that its key allows."""
        active = [name for name in self.names() if self.people[who].sees(name)] or ["plain"]
        names = self.draw.sample(active, min(self.draw.choice([1, 1, 1, 2, 2, 3]), len(active)))
        if self.seldom():
            names = [self.draw.choice([*self.model.datasets])]
        if not self.seldom():
            names = self._apart(names)
        mechanism = self.draw.mechanism(self.model.datasets[names[0]].terms[2])
        body: Json = {"datasets": [self._use(name) for name in names], "mechanism": mechanism}
        projects = [
            project
            for project in "xy"
            if all(any(project in self.model.datasets[o].budgets for o in self.ancestry(n)) for n in names)
        ]
        if projects and (who == "pia" or self.draw.random() < 0.4):
            body["project"] = self.draw.choice(projects)
        elif self.draw.random() < 0.03:
            body["project"] = "nobody"
        plan = Plan(mechanism, "")
        if self.draw.random() < 0.25 and (self.seldom() or (plan.has_steps and plan.fewest > 1)):
            body["segments"] = self.draw.randint(2, 3)
        if self.draw.random() < 0.03:
            return {**body, **self.draw.choice([{"mechanism": gaussian(0)}, {"datasets": ["nothing"]}])}
        return body

    def _apart(self, names: Sequence[str]) -> list[str]:
        """Of these, those that one run can use together."""
        kept: list[str] = []
        for name in names:
            others = [self.model.datasets[other].terms for other in kept]
            roots = {root for other in kept for root in self.roots(other)}
            if set(others) <= {self.model.datasets[name].terms} and not roots & {*self.roots(name)}:
                kept.append(name)
        return kept

    def _use(self, name: str) -> str | Json:
        scopes = [
            {scope for scope in self.model.datasets[other].scopes if scope is not None}
            for other in self.ancestry(name)
            if self.model.datasets[other].is_partitioned
        ]
        common = sorted(set.intersection(*scopes)) if scopes else []
        if self.draw.random() < 0.02:
            return {"name": name, "partitions": ["nowhere"]}
        if not common or self.draw.random() < 0.5:
            return name
        return {"name": name, "partitions": self.draw.sample(common, self.draw.randint(1, len(common)))}

    def ask(self) -> None:
        who = self.requester()
        self._ask("ask", who, f"k{len(self.asked)}", self.body(who))

    def _ask(self, kind: str, who: str, key: str, body: Json) -> None:
        self.asked.append((who, key, body))
        self.step(kind, who, "POST", "/v1/runs", body, lambda person: self.model.ask(person, key, body), key)

    def ask_again(self) -> None:
        """Under a key that was used before: the same, another body, or somebody else."""
        if not self.asked:
            return self.ask()
        who, key, body = self.draw.choice(self.asked)
        change = self.draw.choice(["same", "same", "same", "body", "who"])
        if change == "body":
            body = {**body, "purpose": "another"}
        if change == "who":
            who = "bo" if who == "ada" else "ada"
        return self._ask("ask again", who, key, body)

    def batch(self) -> None:
        """Several runs at once, some of which were asked for before."""
        who, chance = self.requester(), self.draw.random()
        mode = "atomic" if chance < 0.4 else "most" if chance < 0.7 else "each"
        items = [
            {**self.body(who), "idempotency_key": f"k{len(self.asked)}.{n}"} for n in range(self.draw.randint(1, 4))
        ]
        mine = [(key, body) for name, key, body in self.asked if name == who]
        if mine and self.draw.random() < 0.3:
            key, body = self.draw.choice(mine)
            items.append({**body, "idempotency_key": key})
        if self.draw.random() < 0.04:
            items.append(items[0])
        self._batch(who, items, mode)

    def _batch(self, who: str, items: list[Json], mode: str) -> None:
        for item in items:
            body = {name: value for name, value in item.items() if name != "idempotency_key"}
            self.asked.append((who, item["idempotency_key"], body))
        sent = {"runs": items, "atomic": mode == "atomic", "as_many_as_fit": mode == "most"}
        act: Callable[[Person], Answer] = lambda person: self.model.batch(person, items, mode)  # noqa: E731
        self.step("batch" if mode == "each" else f"batch, {mode}", who, "POST", "/v1/runs/batch", sent, act)

    def _some_run(self, *states: str) -> Run | None:
        """A run in one of these states, mostly a late one that nobody proposed to void."""
        runs = [run for run in self.model.runs if run.state in states]
        if not self.seldom():
            proposed = {old.on for old in self.model.proposals if old.state == "open"}
            runs = [run for run in runs if run not in proposed] or runs
        return self.draw.choice(runs[-12:]) if runs else None

    def _someone(self, run: Run) -> str:
        """Mostly whose run it is."""
        owner = next(name for name, person in self.people.items() if person == run.owner)
        return self.draw.choice([*self.people]) if self.seldom() else owner

    def _on_run(self, call: str, run: Run, body: Json | None, who: str | None = None, kind: str = "") -> None:
        path = {"correction": "correct", "amend": "correction"}.get(call, call)
        act: Callable[[Person], Answer] = lambda person: self.model.perform(person, call, run, body or {})  # noqa: E731
        self.step(kind or call, who or self._someone(run), "POST", f"/v1/runs/{run.id}/{path}", body, act)

    def start(self) -> None:
        held = [run for run in self.model.runs if run.state == "held"][-12:]
        ready = [run for run in held if {self.model.datasets[name].state for name in run.charges} == {"active"}]
        if not held:
            return self.ask()
        run = self.draw.choice(held if self.seldom() else ready or held)
        is_late = any(
            len(self.model.datasets[name].scopes) > len({key[0] for key in keys}) for name, keys in run.charges.items()
        )
        # Every second run is started with a token.
        self._on_run("start", run, {"token": "mine"} if self.model.runs.index(run) % 2 else None)
        self.counts["starts beside partitions that were not charged"] += is_late and run.state == "started"
        return None

    def settle(self) -> None:
        """As planned, fewer steps, for every reason there is."""
        if (run := self._some_run("started")) is None:
            return self.start()
        body: Json = {}
        if run.plan.has_steps and self.draw.random() < 0.8:
            body["steps"] = self.draw.randint(0, run.plan.steps_max)
            stop = self.draw.choice([None, "data_dependent", "data_independent", "planned"])
            body |= {"stop": stop} if stop is not None else {}
            body |= self._restarts(body["steps"])
        elif self.seldom():
            body["steps"] = 1
        if self.seldom():
            body["evidence"] = {"log": "x", "loss": 0.125}
        return self._on_run("settle", run, body or self.draw.choice([{}, None]))

    def overrun(self) -> None:
        """More steps than planned, by little or by very much."""
        run = self._some_run("started")
        if run is None or not run.plan.has_steps:
            return self.settle()
        is_rational = "epsilon" not in run.body["mechanism"]
        more = self.draw.choice([1, 2, 3, 9, 30])
        if is_rational and self.draw.random() < 0.25:
            more = self.draw.choice([60, 100, 10**12 if self.seldom() else 10**4])
        stop = self.draw.choice([{}, {}, {"stop": "data_dependent"}, {"stop": "planned"}])
        steps = min(run.plan.steps_max + more, STEPS_MAX)
        restarts: Json = {"restarts": []} if self.draw.random() < 0.9 else {}
        if steps < 1000:
            restarts = self._restarts(steps) or restarts
        return self._on_run("settle", run, {"steps": steps, **stop, **restarts}, kind="overrun")

    def _restarts(self, steps: int) -> Json:
        """What is said of restarts, after so many steps: mostly what can have been."""
        if self.draw.random() < 0.6:
            return {}
        restarts: list[Json] = []
        reached = steps
        for _ in range(self.draw.randint(0, 3)):
            first = self.draw.randint(1, max(reached, 1))
            last = self.draw.randint(
                first - 1, max(reached, 1) if self.seldom() else max((first + reached) // 2, first - 1)
            )
            reached -= last - first + 1
            restarts.append({"from_step": first, "to_step": last, "new_batches": self.draw.random() < 0.4})
        if not self.seldom():
            restarts = [restart for restart in restarts if restart["to_step"] <= reached]
        self.counts["settled with restarts"] += bool(restarts)
        return {"restarts": restarts}

    def rule(self) -> None:
        """What a steward says of a number that no budget could cover; seldom of another run."""
        waiting = [run for run in self.model.runs if run.waits]
        if not waiting and not (self.model.runs and self.seldom()):
            return self.overrun()
        run = self.draw.choice(waiting[-3:] or self.model.runs[-12:])
        if self.counts["confirm: 200"] <= self.counts["correct: 200"]:
            return self._on_run("confirm", run, REASON, self.steward())
        steps = {} if not run.plan.has_steps else {"steps": self.draw.randint(1, run.plan.steps_max + 2)}
        return self._on_run("correction", run, {**REASON, **steps}, self.steward(), kind="correct")

    def amend(self) -> None:
        """A settled run was another mechanism; seldom one that is not settled."""
        if (run := self._some_run("started" if self.seldom() else "settled")) is None:
            return self.settle()
        mechanism = gaussian(self.draw.choice([3, 5, 8, 10, 20, 40]), self.draw.randint(1, 4))
        word = {"on_word_of": "the job's log"} if self.draw.random() < 0.8 else {}
        return self._amend(run, self.steward(), mechanism, is_chosen=self.draw.random() < 0.3, **word)

    def void(self) -> None:
        """Held, by who asked; started, by a steward."""
        run = self._some_run("started") or self._some_run("held")
        if self.draw.random() < 0.4 or run is None:
            run = self._some_run("held")
        if run is None:
            return self.ask()
        return self._on_run("void", run, REASON, self.steward() if run.state == "started" else None)

    def repeat(self) -> None:
        """A call that was made before, with the same body or another; or one that the state does not allow."""
        if (run := self._some_run("started", "settled", "voided", "refused")) is None:
            return self.ask()
        done = [call for call in ("start", "settle", "void") if call in run.first]
        call = self.draw.choice(done if done and not self.seldom() else ["start", "settle", "void"])
        number = self.model.runs.index(run)
        body = None if call == "start" and number % 4 != 1 else run.sent.get(call)
        if call != "start" and (body is None or self.seldom()):
            body = {"reason": "another"} if call == "void" else {"evidence": {"other": 1}}
        who = self.steward() if call == "void" and run.owner.role == "requester" else None
        return self._on_run(call, run, body, who, kind="repeat")

    def show_receipt(self) -> None:
        """The receipt of a run, as anyone who sees it can have it."""
        run = self._some_run("held", "started", "settled", "voided", "refused")
        if run is None:
            return self.ask()
        who = self.draw.choice(["ada", "aud", "sue"])
        response = self.ledgers[who].get(f"/v1/runs/{run.id}/receipt")
        self.counts[f"show receipt: {response.status_code}"] += 1
        state = receipt_state(run)
        if state is None:
            assert (response.status_code, response.json().get("code")) == (409, "run-state")
            return None
        answer = response.json()
        assert (response.status_code, answer["run"], answer["state"]) == (200, run.id, state)
        self.receipts.check(run, state, answer["receipt"])
        assert answer["begin_by"] >= run.first.get("start", {}).get("begin_by", "")
        return None

    # --- the whole

    def check_all(self) -> None:
        """Every balance, run, proposal, entry and receipt."""
        self.check_sums()
        journals = {}
        for name, dataset in self.model.datasets.items():
            answer = self.admin.get(f"/v1/datasets/{name}").json()
            demand_within(
                resolved(shown(self.model, dataset)),
                {**evidence.exact(json.dumps(answer)), **parts_of(answer)},
            )
            export = self.admin.get(f"/v1/datasets/{name}/export").text
            journals[name] = evidence.journal(export, self.jwks)
            assert verify.verify(export.splitlines(keepends=True)).journal.seq == len(dataset.journal)
            assert len(journals[name].entries) == len(dataset.journal)
            for mine, theirs in zip(dataset.journal, journals[name].entries, strict=True):
                actual, expected = comparable(theirs), resolved(mine)
                assert actual == expected, difference(actual, expected)
            self.counts["entries compared"] += len(dataset.journal)
        own = evidence.journal(self.admin.get("/v1/export").text, self.jwks)
        demand_within(resolved(self.model.journal), own.entries)
        self.check_runs()
        partitions = {n: {s for s in d.scopes if s is not None} for n, d in self.model.datasets.items()}
        self.receipts.check_entries(journals, partitions)

    def ask_all_again(self) -> None:
        """Every key, in the end, still has its first answer."""
        names = {person: name for name, person in self.people.items()}
        for (_, key), run in [*self.model.keys.items()]:
            self._ask("in the end", names[run.owner], key, run.body)

    def check_sums(self) -> None:
        """The model against itself: every account added up anew from all runs that ever touched it."""
        for name, dataset in self.model.datasets.items():
            for key, balance in dataset.accounts.items():
                runs = [run for run in self.model.runs if key in run.charges.get(name, ()) and run.state != "refused"]
                held = sum((run.plan.cost for run in runs if run.state in ("held", "started")), NOTHING)
                spent = sum((run.charged for run in runs), NOTHING) if key[2] is None else NOTHING
                assert (balance.held, balance.spent) == (held, both(min, spent, FULL)), (name, key)

    def check_runs(self) -> None:
        """The lists of runs and of proposals."""
        page = evidence.exact(self.admin.get("/v1/runs", limit=1000).text)
        assert page["next"] is None
        actual = {run["id"]: run for run in page["items"]}
        assert set(actual) == {run.id for run in self.model.runs}
        for run in self.model.runs:
            settled = {"settled": {"charged": run.charged}} if run.state == "settled" and not run.corrections else {}
            expected = {"state": run.state, "cost": run.plan.cost, "request": run.body, **settled}
            demand_within(resolved(expected), actual[run.id])
        proposals = self.admin.get("/v1/proposals", limit=1000).json()["items"]
        assert {p["id"]: p["state"] for p in proposals} == {p.id: p.state for p in self.model.proposals}

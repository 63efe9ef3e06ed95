"""The whole budget model over HTTP, against a model that was written from the contract alone.

Hypothesis draws sequences of everything that changes or asks about a budget, interleaved, retried and said by the
wrong people. After every step the answer and the exact balances are the model's; after every sequence the journals
replay to them, the database holds up to an audit, and every key asked again gives its first answer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from ledger.access import keys
from ledger.core.amounts import Amount as LedgersAmount
from ledger.core.journal import chain, replay
from ledger.operate.check import check_journals
from ledger.verifier import verify
from tests.conftest import KINDS, Templates
from tests.kit import budget_costs
from tests.kit.budget_costs import INT64_MAX, Amount, Json, charge
from tests.kit.budget_model import (
    Account,
    Expected,
    Model,
    Run,
    derived,
    gaussian,
    own_key,
    read_amount,
    read_balance,
    read_shown,
)
from tests.kit.drawn import BUDGETS, MECHANISMS, OFTEN, PARTITIONS, PRINCIPALS, SELDOM, SHARES, SHUFFLED
from tests.kit.driver import Ledger
from tests.kit.sites import Sites

EXAMPLES = 4
DATASETS_MAX = 9
NO_FAIR_USE: Json = {"held": None, "runs_per_hour": None}


# --- the ledger that is driven ---------------------------------------------------------------------------------------


def units(own: Amount) -> LedgersAmount:
    """An amount of the model as the ledger has it."""
    return LedgersAmount(own.mu, own.delta)


def plain(quantity: str, units: int) -> float:
    """mu or delta of an exact integer, as an answer shows it; below zero it is shown as 0."""
    return math.sqrt(max(units, 0)) / 1e6 if quantity == "mu" else -math.expm1(-max(units, 0) / 1e18)


class Budgets(RuleBasedStateMachine):
    """Drives the API and the model side by side."""

    sites: ClassVar[Sites]

    def __init__(self) -> None:
        super().__init__()
        self.admin, self.settings = self.sites.tenant()
        self.ledgers = {
            name: self.admin if role == "admin" else self._principal(name, role) for name, role in PRINCIPALS.items()
        }
        self.model = Model(PRINCIPALS)
        self.first: dict[str, tuple[int, Any]] = {}
        """The first answer of every key that was bound, and of every call on a run."""
        self.asked: dict[str, tuple[str, Json]] = {}
        """Who asked under each key that was tried, and for what."""
        self.known = {self._principal_id(ledger): name for name, ledger in self.ledgers.items()}
        """The names of principals by their ids."""
        self.numbers = itertools.count()
        self.is_sound = True

    def _principal(self, name: str, role: str) -> Ledger:
        made = self.admin.post("/v1/keys", {"name": name, "role": role})
        assert made.status_code == 201, made.text
        return self.admin.with_key(made.json()["secret"])

    def _principal_id(self, ledger: Ledger) -> str:
        """No answer tells it: it is read where the server reads it."""
        with ledger.client.app.state.services.store.reading(keys.tenant_of(ledger.key)) as reading:
            return str(reading.keys.by_digest(keys.digest_of(ledger.key)).principal_id)

    # --- calling, and what must come of it

    def call(self, who: str, method: str, path: str, body: Any = None, key: str | None = None) -> Any:
        """Sends a request."""
        headers = {} if key is None else {"Idempotency-Key": key}
        rest = {} if body is None else {"json": body}
        answer = self.ledgers[who].request(method, path, headers=headers, **rest)
        note(f"{who}: {method} {path} {json.dumps(body)} {key or ''}\n    -> {answer.status_code} {answer.text[:300]}")
        assert answer.status_code < 500
        return answer

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """A step that goes wrong ends the example: what follows from it says nothing more."""
        self.is_sound = False
        yield
        self.is_sound = True
        self.sites.did[what] += 1

    def check(self, expected: Expected, answer: Any, place: str) -> None:
        """The answer is the one expected. `place` is the key or the call by which a retry is known."""
        self.check_item(expected, answer.status_code, answer.json(), place)
        if expected.replay_of is None:
            self.check_balances(*expected.touched)

    def check_item(self, expected: Expected, status: int, body: Json, place: str) -> None:
        if expected.problems:
            self.check_problem(expected, status, body)
        elif expected.replay_of is not None:
            assert (status, body) == self.first[place]
        else:
            assert status == expected.status, body
            if expected.run is not None:
                self.check_run(expected, expected.run, body)
                self.first[place] = status, body

    def check_problem(self, expected: Expected, status: int, body: Json) -> None:
        """It is one of the errors that may be answered, with its facts."""
        assert status >= 400, (body, expected.problems)
        found = [problem for problem in expected.problems if (problem.status, problem.code) == (status, body["code"])]
        assert found, (body, expected.problems)
        assert any(problem.facts <= set(body) for problem in found), body
        assert any(problem.field is None or body["field"].startswith(problem.field) for problem in found), body

    def check_run(self, expected: Expected, run: Run, body: Json) -> None:
        """What an answer says of a run."""
        if expected.binding is not None:
            self.check_refusal(expected, body)
            self.check_fits(expected, run, body["fits"])
            run.id = body["run"]
        elif expected.status == 201:
            run.id = body["id"]
            assert (body["state"], body["decision"]) == ("held", "approved")
            assert read_amount(body["cost"]) == run.cost
            shown = [
                (on["name"], on["seq"], on["remaining"] and read_amount(on["remaining"])) for on in body["datasets"]
            ]
            assert shown == [(on.name, on.seq, on.remaining) for on in expected.datasets]
            if run.segments > 1:
                steps, one = run.one_segment
                assert (body["segments"]["count"], body["segments"]["steps"]) == (run.segments, steps)
                assert read_amount(body["segments"]["cost"]) == charge(one)
        elif run.state in ("settled", "voided") or expected.overrun is not None:
            self.check_end(expected, run, body)
        else:
            assert (body["id"], body["state"]) == (run.id, run.state)

    def check_refusal(self, expected: Expected, body: Json) -> None:
        """The accounts that bind are exactly the model's, with their numbers."""
        assert body["code"] == "budget-exceeded"
        items = [self._binding(item) for item in body["datasets"]]
        assert len(set(items)) == len(items)
        binding = {(*b.account, b.quantity): b for b in expected.binding or ()}
        assert set(items) == set(binding)
        for name, item in zip(items, body["datasets"], strict=True):
            for part in ("requested", "remaining", "limit"):
                own = getattr(binding[name], part)
                assert item[part] == pytest.approx(plain(item["quantity"], own), rel=1e-9, abs=1e-300), (part, item)

    def check_fits(self, expected: Expected, run: Run, fits: Json) -> None:
        """Each value that is said to fit does, and the next one does not; nothing is said where nothing fits."""
        mechanism = run.mechanism
        if mechanism["type"] in ("approximate_dp", "gdp", "composed"):
            return  # no number of steps, or a cost that is not rational

        def does_fit(name: str, value: Fraction | int) -> bool:
            resized = dataclasses.replace(run, mechanism={**mechanism, name: value})
            return not resized.declared.above(expected.left)

        for name, value in fits.items():
            exact = budget_costs.fraction(value)
            unit = Fraction(10) ** (math.floor(math.log10(value)) - 5) if name in ("noise_multiplier", "epochs") else 1
            assert does_fit(name, exact), (name, value)
            assert not does_fit(name, exact - unit if name == "noise_multiplier" else exact + unit), (name, value)
        for name, value in {"noise_multiplier": 10**12, "steps": 1, "count": 1}.items():
            if name in mechanism and name not in fits and run.segments == 1:
                assert not does_fit(name, value), (name, fits)

    def _binding(self, item: Json) -> tuple[Any, ...]:
        """Which account and quantity it is; of a principal, the one who asked."""
        principal = item.get("principal")
        named = None if principal is None else self.known[str(principal)]
        return item["name"], item.get("partition"), item.get("project"), named, item["quantity"]

    def check_end(self, expected: Expected, run: Run, body: Json) -> None:
        """The answer of settle and void."""
        if expected.status == 409:
            assert (body["code"], body["run"], body["state"]) == ("overrun", run.id, run.state)
            assert set(body["frozen"]) == expected.frozen
            assert {self._binding(item) for item in body["datasets"]} == {
                (*account, quantity) for account, quantity in expected.overdrawn
            }
        else:
            assert (body["id"], body["state"]) == (run.id, run.state)
        if run.state == "voided":
            assert read_amount(body["returned"]) == run.cost
            return
        if run.state == "settled" and max(run.charged) < INT64_MAX:
            assert read_amount(body["charged"]) == run.charged
        if expected.overrun is not None:
            steps, cost = expected.overrun
            assert (body["overrun"]["steps"], body["overrun"]["fits"]) == (steps, expected.status == 200)
            if max(cost) < INT64_MAX:
                assert read_amount(body["overrun"]["cost"]) == cost

    def check_balances(self, *names: str) -> None:
        """What the API shows of these datasets is exactly what the model says."""
        for name in names:
            shown = self.ledgers["steward"].get(f"/v1/datasets/{name}").json()
            dataset, expected = self.model.datasets[name], self.model.shown(name)
            assert (shown["state"], shown["seq"]) == (dataset.state, dataset.seq), name
            assert read_shown(shown) == expected, name
            if dataset.partitions is not None:
                assert [part["name"] for part in shown["partitions"]] == sorted(dataset.partitions)
                assert shown["partition_count"] == len(dataset.partitions)
            assert {p["name"]: p["budget"] for p in shown["projects"]} == dataset.projects
            assert shown["budget"] == dataset.budget
            assert (shown["fair_use"] or NO_FAIR_USE) == {
                "held": dataset.fair_use,
                "runs_per_hour": dataset.runs_per_hour,
            }
            ceiling = None if dataset.ceiling is None else budget_costs.limit_of(dataset.ceiling)
            assert (shown["ceiling"] and read_amount(shown["ceiling"])) == ceiling
            assert [parent["name"] for parent in shown["derived_from"]] == [*dataset.parents]
            assert set(shown["roots"]) == self.model.roots(name)

    # --- registering

    def new_name(self) -> str:
        return f"d{next(self.numbers)}"

    def register(self, body: Json, who: str = "steward") -> None:
        """Registers a dataset with both."""
        with self.step("register"):
            answer = self.call(who, "POST", "/v1/datasets", body)
            self.check(self.model.register(who, body), answer, "")

    @initialize(data=st.data())
    def something_to_begin_with(self, data: st.DataObject) -> None:
        """A plain root, one with partitions, and a join of both, alike in their terms."""
        terms = self._terms(data)
        for name, more in (("plain", {}), ("parted", {"partitions": ["a", "b"]})):
            self.register({"name": name, **terms, "budget": data.draw(st.sampled_from(BUDGETS[:8])), **more})
        self.register({"name": "join", "derived_from": derived("plain", "parted")})

    def _terms(self, data: st.DataObject) -> Json:
        return {
            "privacy_unit": data.draw(st.sampled_from(["record"] * 7 + ["user"])),
            "adjacency": data.draw(st.sampled_from(["add_or_remove_one"] * 3 + ["replace_one"])),
            "bound": data.draw(st.sampled_from(["certified", "certified", "clt"])),
        }

    def _has_room(self) -> bool:
        return len(self.model.datasets) < DATASETS_MAX

    @precondition(_has_room)
    @rule(data=st.data(), kind=st.sampled_from(["root", "root", "derived", "derived", "derived", "wrong"]))
    def register_another(self, data: st.DataObject, kind: str) -> None:
        """Another dataset."""
        match kind:
            case "root":
                self.register_root(data)
            case "derived":
                self.register_derived(data)
            case _:
                self.register_wrongly(data)

    def register_root(self, data: st.DataObject) -> None:
        """A root, mostly on the terms of the first."""
        first = next(iter(self.model.datasets.values()))
        alike = {"privacy_unit": first.unit, "adjacency": first.adjacency, "bound": first.bound}
        body = {"name": self.new_name(), **(alike if data.draw(OFTEN) else self._terms(data))}
        body |= {"budget": data.draw(st.sampled_from(BUDGETS)), "partitions": data.draw(st.sampled_from(PARTITIONS))}
        if data.draw(SELDOM):
            body["ceiling"] = data.draw(st.sampled_from(BUDGETS))
        self.register(body)

    def register_derived(self, data: st.DataObject) -> None:
        """A dataset derived from one or two others, with a tighter limit or without."""
        parents = data.draw(st.lists(self.names(), min_size=1, max_size=2, unique=True))
        if data.draw(OFTEN):
            parents = self._compatible(parents)
        body: Json = {"name": self.new_name(), "derived_from": derived(*parents)}
        if data.draw(st.booleans()):
            body["budget"] = data.draw(st.sampled_from(BUDGETS))
            if data.draw(SELDOM):
                body["ceiling"] = data.draw(st.sampled_from(BUDGETS))
        if data.draw(SELDOM):
            body |= self._terms(data)
        self.register(body)

    def register_wrongly(self, data: st.DataObject) -> None:
        """Registrations that are refused."""
        some = data.draw(self.names())
        root = {"privacy_unit": "record", "adjacency": "add_or_remove_one", "bound": "clt", "budget": {"mu": 1}}
        name = self.new_name()
        bodies: dict[str, Json] = {
            "taken": {"name": some, **root},
            "parent": {"name": name, "derived_from": derived(some, "nobody")},
            "itself": {"name": name, "derived_from": derived(name)},
            "unsound": {"name": name, "derived_from": [{"name": some, "unit_preserving": False}]},
            "parts": {"name": name, "derived_from": derived(some), "partitions": ["a"]},
            "unlimited": {"name": name, **root, "budget": None},
            "who": {"name": name, **root},
        }
        what = data.draw(st.sampled_from([*bodies]))
        self.register(bodies[what], who="ada" if what == "who" else "steward")

    def names(self) -> st.SearchStrategy[str]:
        return st.sampled_from([*self.model.datasets])

    # --- what a steward does

    @rule(data=st.data(), what=st.sampled_from(["project", "partitions", "budget", "fair use", "project", "state"]))
    def manage(self, data: st.DataObject, what: str) -> None:
        """What a steward changes, now and then said by somebody who may not."""
        who = data.draw(st.sampled_from(["steward"] * 6 + ["boss", "ada"]))
        match what:
            case "project":
                self.set_project(data, who)
            case "partitions":
                self.add_partitions(data, who)
            case "budget":
                self.set_budget(data, who)
            case "fair use":
                self.set_fair_use(data, who)
            case _:
                self.freeze(data)

    def add_partitions(self, data: st.DataObject, who: str) -> None:
        """Partitions, new ones and others."""
        parted = [name for name, dataset in self.model.datasets.items() if dataset.partitions is not None]
        name = data.draw(st.sampled_from(parted if data.draw(OFTEN) else [*self.model.datasets]))
        names = data.draw(st.lists(st.sampled_from("cdeab"), min_size=1, max_size=3, unique=data.draw(OFTEN)))
        disjoint = data.draw(OFTEN)
        with self.step("partitions"):
            expected = self.model.add_partitions(who, name, names, disjoint=disjoint)
            body = {"names": names, "disjoint": disjoint}
            answer = self.call(who, "POST", f"/v1/datasets/{name}/partitions", body)
            self.check(expected, answer, "")
            if expected.is_fine:
                shown = {part["name"]: read_balance(part["balance"]) for part in answer.json()["items"]}
                balances = self.model.shown(name)["partitions"]
                assert shown == {part: balances[part] for part in names}

    def _living(self) -> st.SearchStrategy[str]:
        return st.sampled_from([name for name, d in self.model.datasets.items() if d.state != "retired"] or ["plain"])

    def set_project(self, data: st.DataObject, who: str) -> None:
        """A project's share: put, raised and lowered."""
        name, budget = data.draw(self._living()), data.draw(st.sampled_from(SHARES))
        project = data.draw(st.sampled_from("xxy"))
        with self.step("project"):
            expected = self.model.set_project(who, name, project, budget)
            answer = self.call(who, "PUT", f"/v1/datasets/{name}/projects/{project}", {"budget": budget})
            self.check(expected, answer, "")
            if expected.is_fine:
                shown = answer.json()
                assert (shown["name"], shown["dataset"], shown["budget"]) == (project, name, budget)
                assert read_balance(shown["balance"]) == self.model.shown(name)["projects"][project]

    def set_budget(self, data: st.DataObject, who: str) -> None:
        """Limits raised and lowered."""
        name, budget = data.draw(self._living()), data.draw(st.sampled_from(BUDGETS))
        with self.step("budget"):
            expected = self.model.set_budget(who, name, budget)
            body = {"budget": budget, "reason": "agreed"}
            self.check(expected, self.call(who, "PUT", f"/v1/datasets/{name}/budget", body), "")

    def set_fair_use(self, data: st.DataObject, who: str) -> None:
        """What one principal may hold, set and removed."""
        name, held = data.draw(self._living()), data.draw(st.sampled_from([None, *BUDGETS]))
        rate_max = data.draw(st.integers(2, 8)) if data.draw(SELDOM) else None
        with self.step("fair use"):
            expected = self.model.set_fair_use(who, name, held, rate_max)
            body = {"held": held, "runs_per_hour": rate_max, "reason": "fairness"}
            self.check(expected, self.call(who, "PUT", f"/v1/datasets/{name}/fair-use", body), "")

    def freeze(self, data: st.DataObject) -> None:
        """Freezes a dataset, or retires one that others do not need."""
        later = [name for name in self.model.datasets if name.startswith("d")]
        if len(later) > 0 and data.draw(SELDOM):
            self._set_state(data.draw(st.sampled_from(later)), "retired")
        else:
            self._set_state(data.draw(self.names()), "frozen")

    @precondition(lambda self: any(d.state == "frozen" for d in self.model.datasets.values()))
    @rule()
    def thaw_all(self) -> None:
        """Thaws what was frozen."""
        for name, dataset in self.model.datasets.items():
            if dataset.state == "frozen":
                self._set_state(name, "active")

    def _set_state(self, name: str, state: str) -> None:
        with self.step(state):
            expected = self.model.set_state("steward", name, state)
            body = {"state": state, "reason": "a look"}
            self.check(expected, self.call("steward", "PATCH", f"/v1/datasets/{name}", body), "")

    # --- asking

    def draw_run(self, data: st.DataObject) -> Json:
        """The body of a request for a run."""
        chosen = self._active() if data.draw(OFTEN) else self.names()
        names = data.draw(st.lists(chosen, min_size=1, max_size=3, unique=True))
        if data.draw(OFTEN):
            names = self._compatible(names)
        uses: list[Any] = [self._use(data, name) for name in names]
        mechanism = data.draw(MECHANISMS)
        if mechanism.get("sample_rate") == 1 and any(self.model.datasets[name].bound == "clt" for name in names):
            mechanism = {**mechanism, "sampling": "shuffle"}
        body: Json = {"datasets": uses, "mechanism": mechanism}
        projects = sorted({p for name in names for one in self.model.closure(name) for p in self._projects(one)})
        if len(projects) > 0 and data.draw(st.booleans()):
            body["project"] = data.draw(st.sampled_from(projects) if data.draw(OFTEN) else st.just("nobody"))
        if data.draw(st.sampled_from([False, False, True])):
            self._in_segments(data, body)
        return body

    def _active(self) -> st.SearchStrategy[str]:
        """Datasets on which a run could be approved."""
        found = [
            name
            for name in self.model.datasets
            if all(self.model.datasets[one].state == "active" for one in self.model.closure(name))
        ]
        return st.sampled_from(found or ["plain"])

    def _projects(self, name: str) -> list[str]:
        return [*self.model.datasets[name].projects]

    def _compatible(self, names: list[str]) -> list[str]:
        """Of these, those that a run can use together."""
        found: list[str] = []
        for name in names:
            dataset = self.model.datasets[name]
            others = [self.model.datasets[other] for other in found]
            alike = all(
                (d.bound, d.adjacency, d.unit) == (dataset.bound, dataset.adjacency, dataset.unit) for d in others
            )
            if alike and not any(self.model.roots(name) & self.model.roots(other) for other in found):
                found.append(name)
        return found

    def _use(self, data: st.DataObject, name: str) -> Any:
        parted = [d.partitions for d in map(self.model.datasets.__getitem__, self.model.closure(name)) if d.partitions]
        if not data.draw(st.booleans()):
            return name
        if not parted or data.draw(SELDOM):
            return {"name": name} if data.draw(OFTEN) else {"name": name, "partitions": ["zzz"]}
        common = sorted(set(parted[0]).intersection(*parted[1:])) or ["zzz"]
        return {"name": name, "partitions": data.draw(st.lists(st.sampled_from(common), min_size=1, unique=True))}

    def _in_segments(self, data: st.DataObject, body: Json) -> None:
        """Segments of what can have them; those of shuffled batches are whole epochs."""
        count = data.draw(st.integers(2, 3))
        mechanism = body["mechanism"]
        if budget_costs.is_shuffled(mechanism):
            epochs = data.draw(st.integers(1, 2))
            steps = count * epochs * 4
            body["mechanism"] = {
                **SHUFFLED,
                "noise_multiplier": mechanism["noise_multiplier"],
                "sample_rate": 0.25,
                "steps": steps,
            }
        elif mechanism["type"] in budget_costs.STEPPED and (budget_costs.planned(mechanism) or 0) < count:
            return
        body["segments"] = count

    def ask(self, who: str, key: str, body: Json) -> None:
        """Asks for a run of both."""
        with self.step("ask"):
            expected = self.model.ask(who, key, body)
            answer = self.call(who, "POST", "/v1/runs", body, key)
            self.asked.setdefault(key, (who, body))
            self.sites.did[f"ask {answer.status_code} {answer.json().get('code', '')}"] += 1
            self.check(expected, answer, own_key(who, key))
            assert answer.headers.get("idempotent-replayed") == (None if expected.replay_of is None else "true")

    REQUESTERS: ClassVar[st.SearchStrategy[str]] = st.sampled_from(["ada"] * 6 + ["bo"] * 5 + ["boss", "steward"])

    @rule(data=st.data(), who=REQUESTERS)
    def ask_for_a_run(self, data: st.DataObject, who: str) -> None:
        """A run of one of the requesters."""
        self.ask(who, f"k{next(self.numbers)}", self.draw_run(data))

    @rule(data=st.data(), who=REQUESTERS, ends=st.booleans())
    def ask_and_start(self, data: st.DataObject, who: str, ends: bool) -> None:
        """A run that is started at once, where it is approved, and may be settled too."""
        key = f"k{next(self.numbers)}"
        self.ask(who, key, self.draw_run(data))
        if own_key(who, key) in self.model.keys and self.model.runs[-1].state == "held":
            number = len(self.model.runs) - 1
            self.on_run("start", who, number, None)
            if ends and self.model.runs[number].state == "started":
                self.on_run("settle", who, number, self.draw_end(data, number))

    @rule(data=st.data(), who=REQUESTERS, noise=st.sampled_from([5, 4, 2.5]))
    def ask_for_the_simplest(self, data: st.DataObject, who: str, noise: float) -> None:
        """A release on one dataset, which fills budgets to the brim."""
        self.ask(who, f"k{next(self.numbers)}", {"datasets": [data.draw(self._active())], "mechanism": gaussian(noise)})

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), change=st.sampled_from(["same"] * 5 + ["body", "who"]))
    def ask_again(self, data: st.DataObject, change: str) -> None:
        """A key that was used before: with the same body, another one, or by somebody else."""
        key = data.draw(st.sampled_from([*self.asked]))
        who, body = self.asked[key]
        if change == "body":
            body = {**body, "purpose": "another"}
        if change == "who":
            who = "bo" if who == "ada" else "ada"
        self.ask(who, key, body)

    @rule(
        data=st.data(),
        who=REQUESTERS,
        is_atomic=st.booleans(),
        count=st.integers(1, 4),
        what=st.sampled_from(["new"] * 6 + ["twice", "invalid"]),
    )
    def ask_for_a_batch(self, data: st.DataObject, who: str, is_atomic: bool, count: int, what: str) -> None:
        """Several runs at once, some of which were asked for before."""
        items = [{**self.draw_run(data), "idempotency_key": f"k{next(self.numbers)}"} for _ in range(count)]
        mine = [key for key, (owner, _) in self.asked.items() if owner == who]
        if len(mine) > 0 and data.draw(st.booleans()):
            key = data.draw(st.sampled_from(mine))
            changed = {"purpose": "another"} if data.draw(SELDOM) else {}
            items.insert(data.draw(st.integers(0, count)), {**self.asked[key][1], **changed, "idempotency_key": key})
        if what == "twice":
            items.append(items[0])
        if what == "invalid":
            items[-1] = {**items[-1], "mechanism": gaussian(0)}
        self.batch(who, items, is_atomic=is_atomic)

    def batch(self, who: str, items: list[Json], *, is_atomic: bool) -> None:
        """Asks for several runs of both."""
        with self.step(f"batch {'atomic' if is_atomic else 'apart'}"):
            known = set(self.model.keys)
            expected = self.model.batch(who, items, is_atomic=is_atomic)
            answer = self.call(who, "POST", "/v1/runs/batch", {"runs": items, "atomic": is_atomic})
            self.sites.did[f"batch {answer.status_code}"] += 1
            for item in items:
                key = item["idempotency_key"]
                body = {name: value for name, value in item.items() if name != "idempotency_key"}
                self.asked.setdefault(key, (who, body))
            self.check_batch(expected, answer, [own_key(who, item["idempotency_key"]) for item in items], known)

    def check_batch(self, expected: Expected, answer: Any, keys: list[str], known: set[str]) -> None:
        body = answer.json()
        if expected.problems:
            self.check_problem(expected, answer.status_code, body)
        else:
            assert answer.status_code == 200, body
        if expected.items is not None:
            assert len(body["results"]) == len(expected.items)
            for key, one, result in zip(keys, expected.items, body["results"], strict=True):
                note(f"        {key}: {str(result)[:400]}")
                if expected.problems:
                    self.check_spoilt(one, result)
                else:
                    self.check_result(one, result, key)
                    assert result["replayed"] == (key in known and not one.problems), result
        self.check_balances(*(expected.touched or self.model.datasets))

    def check_result(self, expected: Expected, result: Json, key: str) -> None:
        """One of the answers of a batch whose runs were decided on."""
        self.check_item(expected, result["status"], result["run" if "run" in result else "problem"], key)

    def check_spoilt(self, expected: Expected, result: Json) -> None:
        """One of the answers of an atomic batch that came to nothing."""
        if expected.replay_of is not None:
            return
        if expected.problems:
            self.check_problem(expected, result["status"], result["problem"])
        elif expected.binding is not None:
            assert result["status"] == 409
            assert "run" not in result["problem"]
            self.check_refusal(expected, result["problem"])
        else:
            assert (result["status"], result["problem"]["code"]) == (409, "batch-refused")

    # --- what is done with runs

    def on_run(self, call: str, who: str, number: int, body: Json | None) -> None:
        """Starts, settles or voids a run of both."""
        run = self.model.runs[number]
        with self.step(call):
            match call:
                case "start":
                    expected = self.model.start(who, run)
                case "settle":
                    expected = self.model.settle(who, run, body or {})
                case _:
                    expected = self.model.void(who, run, body or {})
            if expected.overrun is not None:
                self.sites.did[f"overrun {expected.status}"] += 1
            answer = self.call(who, "POST", f"/v1/runs/{run.id}/{call}", body)
            place = f"{call} {number}"
            self.check(expected, answer, place)
            if not expected.problems and expected.replay_of is None:
                self.first[place] = answer.status_code, answer.json()

    def _runs(self, *states: str) -> list[int]:
        return [number for number, run in enumerate(self.model.runs) if run.state in states]

    @precondition(lambda self: self._runs("held"))
    @rule(data=st.data(), theirs=OFTEN)
    def start(self, data: st.DataObject, theirs: bool) -> None:
        """A held run is started."""
        number = data.draw(st.sampled_from(self._runs("held")))
        self.on_run("start", self._who(data, number, theirs), number, None)

    def _who(self, data: st.DataObject, number: int, theirs: bool) -> str:
        return self.model.runs[number].owner if theirs else data.draw(st.sampled_from(["steward", "ada", "bo", "boss"]))

    @precondition(lambda self: self._runs("started"))
    @rule(data=st.data(), theirs=OFTEN)
    def settle(self, data: st.DataObject, theirs: bool) -> None:
        """A started run has ended, as planned or before."""
        number = data.draw(st.sampled_from(self._runs("started")))
        self.on_run("settle", self._who(data, number, theirs), number, self.draw_end(data, number))

    @precondition(lambda self: self._runs("started"))
    @rule(data=st.data(), over=st.sampled_from([1, 4, 30, 100, 10**7, 10**11]))
    def settle_late(self, data: st.DataObject, over: int) -> None:
        """A started run has gone on for longer than planned."""
        number = data.draw(st.sampled_from(self._runs("started")))
        run = self.model.runs[number]
        is_rational = run.mechanism["type"] != "approximate_dp"
        if budget_costs.planned(run.mechanism) is not None and (is_rational or over <= 4):
            stop = data.draw(st.sampled_from([{}, {}, {"stop": "data_dependent"}, {"stop": "planned"}]))
            self.on_run("settle", run.owner, number, {"steps": run.steps_max + over, **stop})

    def draw_end(self, data: st.DataObject, number: int) -> Json | None:
        """The body of a settlement for no more than planned."""
        run = self.model.runs[number]
        body: Json = {}
        if budget_costs.planned(run.mechanism) is not None and data.draw(OFTEN):
            body["steps"] = data.draw(st.integers(0, run.steps_max))
            stop = data.draw(st.sampled_from([None, "data_dependent", "data_independent", "planned"]))
            if stop is not None:
                body["stop"] = stop
        if data.draw(SELDOM):
            body["evidence"] = {"log": "x"}
        return body or data.draw(st.sampled_from([{}, None]))

    @precondition(lambda self: self._runs("held", "started"))
    @rule(data=st.data(), theirs=st.booleans())
    def void(self, data: st.DataObject, theirs: bool) -> None:
        """No output was ever seen."""
        number = data.draw(st.sampled_from(self._runs("held", "started")))
        self.on_run("void", self._who(data, number, theirs), number, {"reason": "unused"})

    @precondition(lambda self: self._runs("refused", "settled", "voided", "started"))
    @rule(data=st.data(), how=st.sampled_from(["same", "same", "same", "other", "wrong"]))
    def say_again(self, data: st.DataObject, how: str) -> None:
        """A call on a run is repeated, with the same body or another one, or made where it cannot be."""
        number = data.draw(st.sampled_from(self._runs("refused", "settled", "voided", "started")))
        run = self.model.runs[number]
        done = [call for call in ("start", "settle", "void") if f"{call} {number}" in self.first]
        calls = done if done and how != "wrong" else ["start", "settle", "void"]
        call = data.draw(st.sampled_from(calls))
        body = run.said.get(call)
        if call != "start" and (how == "other" or body is None):
            body = {"reason": "another"} if call == "void" else {"evidence": {"other": 1}}
        is_theirs = call != "void" or self.model.roles[run.owner] != "requester"
        self.on_run(call, run.owner if is_theirs else "steward", number, body)

    # --- the end

    def teardown(self) -> None:
        """The balances, the journals, the runs and the answers of every key, once more and from all sides."""
        if not self.is_sound:
            return
        self.check_balances(*self.model.datasets)
        self.check_runs()
        for place, (who, key, body, _) in self.model.keys.items():
            again = self.call(who, "POST", "/v1/runs", json.loads(body), key)
            assert (again.status_code, again.json()) == self.first[place]
            assert again.headers["idempotent-replayed"] == "true"
        self.check_balances(*self.model.datasets)
        for name in self.model.datasets:
            self.check_journal(name)
        assert [found for found in check_journals(self.settings) if found["error"] is not None] == []

    def check_runs(self) -> None:
        """The list of runs has every decision, with its state and cost."""
        shown = {run["id"]: run for run in self.admin.get("/v1/runs", limit=1000).json()["items"]}
        assert {run.id: run.state for run in self.model.runs} == {id_: run["state"] for id_, run in shown.items()}
        for run in self.model.runs:
            assert read_amount(shown[run.id]["cost"]) == run.cost
            if run.state == "settled" and max(run.charged) < INT64_MAX:
                assert read_amount(shown[run.id]["settled"]["charged"]) == run.charged

    def check_journal(self, name: str) -> None:
        """The journal, read over HTTP, adds up to the model's accounts."""
        text = self.admin.get(f"/v1/datasets/{name}/entries", limit=1000).text
        items = chain.parse(text)["items"]
        entries = [(chain.canonical(item["entry"]), bytes.fromhex(item["hash"])) for item in items]
        first = items[0]["entry"]
        replayed = replay.replay(entries, tenant_id=UUID(first["tenant"]), dataset_id=UUID(first["dataset_id"]))
        export = self.admin.get(f"/v1/datasets/{name}/export").text
        assert verify.verify(export.splitlines(keepends=True)).journal == replayed
        dataset = self.model.datasets[name]
        assert (replayed.seq, replayed.state) == (dataset.seq, dataset.state)
        seen = set()
        for key, account in replayed.accounts.items():
            principal = None if key.principal_id is None else self.known[str(key.principal_id)]
            mine = Account(name, key.partition, key.project, principal)
            seen.add(mine)
            if principal is None:
                assert account.limit == units(self.model.limit(mine)), mine
                assert account.overdrawn == units(self.model.overdrawn(mine)), mine
            if principal is None or dataset.fair_use is not None:
                assert account.spent == units(self.model.spent(mine)), mine
                assert account.held == units(self.model.held(mine)), mine
        for mine in self.model.accounts(name):
            assert mine in seen or (mine.project is not None and self.model.used(mine) == (0, 0)), mine


@pytest.mark.parametrize("kind", KINDS)
def test_budgets_follow_the_model(kind: str, templates: Templates, tmp_path: Path, tries: Any) -> None:
    """Goal: whatever is asked, in whatever order and however often, is answered and counted as the contract has it.

    Method: random sequences, each for a tenant of its own, against the model.
    """
    print(kind)
    examples = tries(EXAMPLES, 400)
    # Shrinking takes minutes, which an ordinary run does not have.
    phases = [Phase.generate, *([Phase.shrink] if examples > EXAMPLES else [])]
    chosen = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        database=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    with Sites(kind, templates, tmp_path) as sites:
        machine = type("BudgetsHere", (Budgets,), {"sites": sites})
        run_state_machine_as_test(seed(zlib.crc32(kind.encode()))(machine), settings=chosen)
        print(dict(sorted(sites.did.items())))

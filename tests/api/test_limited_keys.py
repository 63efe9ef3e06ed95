"""What a key that is limited to datasets learns of others: nothing, from any call of the OpenAPI document.

A tenant in which every text and every name that such a key may not see has a marker in it, and every id is known. Each
call is made by such a key of each role, and its whole answer is searched. A call that is new in the document is made
too, and fails here until it is said what it takes.
"""

from __future__ import annotations

import functools
import itertools
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from ledger.api.app import create_app
from ledger.settings import Settings
from tests.kit.driver import MNIST, RELEASE, WEAK, Ledger
from tests.kit.scene import REASON, ok

MARK: Final = "zqhidden"
"""Stands in everything that is hidden."""
SEEN: Final = ("open", "open.parts")
ROLES: Final = ("admin", "steward", "requester", "auditor")
BIG: Final = {"mu": 1000, "delta": 1e-3}
NOTES: Final[dict[str, Any]] = {
    "purpose": f"{MARK} purpose",
    "labels": {f"{MARK}-label": f"{MARK} value"},
    "code": {"repository": f"{MARK}-repository", "commit": f"{MARK}-commit"},
}
SAID: Final = {"reason": f"{MARK} reason"}
GAUSSIAN: Final = RELEASE["mechanism"]


@dataclass(slots=True)
class Scene:
    """The tenant, a key of each role that is limited to two of its datasets, what these may ask for by name, and the
    ids that none of them may see."""

    admin: Ledger
    clients: dict[str, Ledger] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    """On what the keys see and on what they do not."""
    proposals: list[str] = field(default_factory=list)
    hidden_ids: set[str] = field(default_factory=set)

    def ask(self, by: Ledger, *datasets: Any, **more: Any) -> str:
        """A run under a marked key, approved or refused; its id."""
        body = {"datasets": list(datasets), "mechanism": GAUSSIAN, **NOTES, **more}
        answer = by.post("/v1/runs", body, Idempotency_Key=f"{MARK}-{uuid.uuid4().hex}")
        assert answer.status_code in (201, 409), answer.text
        return str(answer.json()["id" if answer.is_success else "run"])

    def moved(self, run: str, *paths: tuple[str, Any]) -> str:
        """The run after these calls."""
        for path, body in paths:
            answer = self.admin.post(f"/v1/runs/{run}/{path}", body)
            assert answer.status_code in (200, 202, 409), answer.text
        return run


@pytest.fixture
def scene(ledger: Ledger) -> Scene:
    """One of everything that a key could see of a dataset that it does not see, and of what it does."""
    made = Scene(ledger)
    texts = {"title": f"{MARK} title", "description": f"{MARK} description", "budget": BIG, "bound": "certified"}
    for name in SEEN:
        parts = {"partitions": ["a", "b"]} if name.endswith("parts") else {}
        ledger.register(name=name, budget=BIG, bound="certified", **parts)
    for name in (f"{MARK}-a", f"{MARK}-b"):
        ledger.register(name=name, **texts)
    origin = [{"name": "open", "unit_preserving": True}]
    ok(ledger.post("/v1/datasets", {"name": f"{MARK}-child", "derived_from": origin, "title": f"{MARK} title"}))
    hidden = f"{MARK}-a"
    for name, project in (("open", "shared"), (hidden, "shared"), (hidden, f"{MARK}-project")):
        ok(ledger.put(f"/v1/datasets/{name}/projects/{project}", {"budget": {"mu": 900, "delta": 9e-4}}))
    both, child = ("open", hidden), (f"{MARK}-child",)
    model = {"name": f"{MARK} model", "sha256": "0" * 64, "size": 1}
    settled = ("settle", {"evidence": {f"{MARK}-evidence": f"{MARK} value"}, "models": [model]})
    for datasets in (both, child):
        made.runs.append(made.ask(ledger, *datasets))
        made.runs.append(made.moved(made.ask(ledger, *datasets), ("start", None), settled))
        made.runs.append(made.moved(made.ask(ledger, *datasets), ("void", SAID)))
        made.runs.append(made.ask(ledger, *datasets, mechanism={"type": "gaussian", "noise_multiplier": 1e-4}))
    made.runs.append(made.ask(ledger, *both, project="shared"))
    tight = f"{MARK}-tight"
    ledger.register(name=tight, **{**texts, "budget": {"mu": 0.1, "delta": 1e-6}})
    made.runs.append(made.ask(ledger, "open", tight))  # refused by what is hidden alone
    alone = made.ask(ledger, hidden, project=f"{MARK}-project")
    made.runs += waiting(made, texts)
    ok(ledger.put("/v1/policy", {"second_steward": True, "reason": "for the test"}))
    pending = made.moved(made.ask(ledger, *both), ("start", None), ("void", SAID))
    over = made.moved(made.ask(ledger, *both), ("start", None), ("settle", {"steps": 10**9}))  # freezes both
    made.runs += [over, pending]
    ok(ledger.put("/v1/datasets/open/budget", {"budget": {"mu": 1000, "delta": 2e-3}, **REASON, **WEAK}))
    ok(ledger.put(f"/v1/datasets/{hidden}/budget", {"budget": {"mu": 1000, "delta": 2e-3}, **SAID, **WEAK}))
    ok(ledger.patch(f"/v1/datasets/{hidden}", {"title": f"{MARK} anew", **SAID}))
    listed = ok(ledger.get("/v1/proposals"))["items"]
    made.proposals = [item["id"] for item in listed if item["dataset"] != hidden]
    made.hidden_ids = {alone, *(item["id"] for item in listed if item["dataset"] == hidden)}
    for name in [item["name"] for item in ok(ledger.get("/v1/datasets"))["items"] if MARK in item["name"]]:
        (first,) = ok(ledger.get(f"/v1/datasets/{name}/entries", limit=1))["items"]
        made.hidden_ids.add(first["entry"]["dataset_id"])
    made.clients = {role: ledger.as_(role, datasets=list(SEEN)) for role in ROLES}
    assert len(made.hidden_ids) == 8
    return made


def waiting(made: Scene, texts: Mapping[str, Any]) -> list[str]:
    """Runs that waited for a steward: approved, refused, and still waiting, whichever dataset they name first, one of
    them on what is derived from a dataset that the keys see."""
    waits, leaf = f"{MARK}-waits", f"{MARK}-leaf"
    made.admin.register(name=waits, **texts)
    origin = [{"name": "open", "unit_preserving": True}]
    ok(made.admin.post("/v1/datasets", {"name": leaf, "derived_from": origin, "budget": BIG, **WEAK}))
    for name in (waits, leaf):
        ok(made.admin.put(f"/v1/datasets/{name}/fair-use", {"waits_above_percent": 0, **SAID}))
    steward = made.admin.as_("steward")
    runs = []
    for datasets in (("open", waits), (waits, "open"), (leaf,)):
        for answer in ("approve", "refuse", None):
            run = made.ask(made.admin, *datasets)
            if answer is not None:
                assert made.admin.get(f"/v1/proposals/{run}").json()["state"] == "open"
                ok(steward.post(f"/v1/proposals/{run}/{answer}", SAID))
            runs.append(run)
    return runs


# --- every call ------------------------------------------------------------------------------------------------------


def values_of(scene: Scene, role: str) -> dict[str, list[str]]:
    """What a path's parameters are tried with, by what they name."""
    own = scene.clients[role].ask(GAUSSIAN, datasets=["open.parts"])
    return {
        "datasets.name": list(SEEN),
        "projects.project": ["shared"],
        "datasets.project": ["shared"],
        "runs.id": [*scene.runs, *([own.json()["id"]] if own.is_success else [])],
        "proposals.id": scene.proposals,
        "keys.id": [str(uuid.UUID(int=1))],
    }


BODIES: Final[Mapping[str, Any]] = {
    "POST /v1/tenants": {"name": "another"},
    "POST /v1/keys": {"name": "k", "role": "auditor"},
    "POST /v1/keys/{id}/rotate": None,
    "PUT /v1/policy": {"second_steward": False, **REASON},
    "PUT /v1/alerting": {"forecast_days": 60, **REASON},
    "POST /v1/datasets": {**MNIST, "name": "new"},
    "PATCH /v1/datasets/{name}": {"title": "t"},
    "PUT /v1/datasets/{name}/budget": {"budget": {"mu": 999, "delta": 1e-3}, **REASON},
    "POST /v1/datasets/{name}/partitions": {"names": ["new"], "disjoint": True},
    "POST /v1/datasets/{name}/past-runs": {"runs": [{"mechanism": GAUSSIAN}], "idempotency_key": "k", **REASON},
    "PUT /v1/datasets/{name}/projects/{project}": {"budget": {"mu": 800, "delta": 1e-4}},
    "PUT /v1/datasets/{name}/fair-use": {"held": BIG, **REASON},
    "POST /v1/proposals/{id}/approve": REASON,
    "POST /v1/proposals/{id}/refuse": REASON,
    "POST /v1/runs": {"datasets": ["open.parts"], "mechanism": GAUSSIAN},
    "POST /v1/runs/batch": {
        "runs": [{"datasets": [name], "mechanism": GAUSSIAN, "idempotency_key": f"batch-{name}"} for name in SEEN]
    },
    "POST /v1/runs/{id}/start": {"token": "t"},
    "PUT /v1/runs/{id}/progress": {"steps": 1},
    "POST /v1/runs/{id}/settle": {"steps": 1},
    "POST /v1/runs/{id}/void": REASON,
    "POST /v1/runs/{id}/confirm": REASON,
    "POST /v1/runs/{id}/correct": {"steps": 1, **REASON},
    "POST /v1/runs/{id}/correction": {"mechanism": GAUSSIAN, "decided_by_output": False, **REASON},
    "POST /v1/evaluate": {"mechanism": GAUSSIAN, "datasets": ["open"]},
    "POST /v1/plan": {"datasets": ["open"], "mechanism": GAUSSIAN},
    "POST /v1/plan/runs": {"runs": [{"datasets": ["open"], "mechanism": GAUSSIAN}]},
}
QUERIES: Final[Mapping[str, list[Any]]] = {
    "seq": [1],
    "from": [1],
    "size": [None],
    "to": [None],
    "limit": [1000],
    "cursor": [None],
    "state": [None],
    "overdue": [None],
    "dataset": [None, "open"],
    "project": [None, "shared"],
    "kind": [None],
    "format": [None, "json", "csv", "html"],
    "at_delta": [None],
    "label": [None, f"{MARK}-label"],
    "purpose": [None, MARK],
    "person": [None, "admin"],
    "mechanism": [None],
    "since": [None],
    "until": [None],
    "made_on": [None],
    "contact": [None],
    "key": [None],
    "at": [None, "2100-01-01"],
    "by": ["person", "label"],
    "partition": [None, "a"],
}
"""By parameter; None leaves one out. One that is not here fails."""


@functools.cache
def document() -> dict[tuple[str, str], dict[str, Any]]:
    """Every call of the OpenAPI document."""
    paths = create_app(Settings()).openapi()["paths"]
    return {(method.upper(), path): call for path, methods in paths.items() for method, call in methods.items()}


def targets(path: str, values: Mapping[str, list[str]]) -> Iterator[str]:
    """The paths of a call, to each thing that it is tried with."""
    parts = path.split("/")
    choices = [
        values[f"{parts[at - 1] if at > 2 and not parts[at - 1].startswith('{') else ''}.{part[1:-1]}"]
        if part.startswith("{")
        else [part]
        for at, part in enumerate(parts)
    ]
    return ("/".join(chosen) for chosen in itertools.product(*choices))


def queries(call: dict[str, Any], path: str) -> Iterator[dict[str, Any]]:
    """Each combination of parameters that a call is tried with."""
    names = [item["name"] for item in call.get("parameters", ()) if item["in"] == "query"]
    is_period = "report" in path
    choices = [[None] if is_period and name in ("from", "to") else QUERIES[name] for name in names]
    for chosen in itertools.product(*choices):
        yield {name: value for name, value in zip(names, chosen, strict=True) if value is not None}


def leaks(scene: Scene, answer: Any) -> list[str]:
    """Where in an answer stands what is hidden."""
    text = answer.text + json.dumps(dict(answer.headers))
    found = [text[max(0, at - 60) : at + 40] for at in range(len(text)) if text.startswith(MARK, at)]
    return found + [id_ for id_ in scene.hidden_ids if id_ in text]


@pytest.mark.parametrize("role", ROLES)
def test_no_call_shows_a_limited_key_what_is_hidden(scene: Scene, role: str) -> None:
    """Goal: a limited key learns no name, id, purpose, label, evidence, reason or idempotency key of what is hidden.
    Method: every call of the document, with everything that it can be about; the whole answer is searched."""
    by, values = scene.clients[role], values_of(scene, role)
    wrong: list[tuple[str, str, int, list[str]]] = []
    done = 0
    for (method, path), call in document().items():
        name = f"{method} {path}"
        assert ("requestBody" in call) <= (name in BODIES), f"{name}: say in BODIES what it takes"
        for target, params in itertools.product(list(targets(path, values)), list(queries(call, path))):
            more = {"json": BODIES[name]} if BODIES.get(name) is not None else {}
            headers = {"Idempotency-Key": uuid.uuid4().hex}
            answer = by.request(method, target, params=params, headers=headers, **more)
            assert answer.status_code < 500, (name, params, answer.text)
            done += answer.is_success
            if found := leaks(scene, answer):
                wrong.append((name, target, answer.status_code, found[:5]))
    assert not wrong, "\n".join(map(str, wrong))
    assert done > 20


def test_what_is_hidden_is_there(scene: Scene) -> None:
    """Goal: the search would find it. Method: the same search, in what a key without limits is answered."""
    paths = ("/v1/datasets/open/entries", "/v1/datasets/open/report", "/v1/runs", "/v1/proposals", "/v1/alerts")
    for path in paths:
        answer = scene.admin.get(path)
        assert answer.is_success
        assert leaks(scene, answer), path


# --- plans -----------------------------------------------------------------------------------------------------------


def texts(value: Any) -> Iterator[str]:
    """Every text in an answer, its members' names left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts(item)


@pytest.mark.parametrize("role", ROLES)
def test_a_plan_shows_the_name_alone_of_a_hidden_root(ledger: Ledger, role: str) -> None:
    """Goal: of what a dataset is derived from, a plan shows the name to a key that does not see it, and nothing else.
    Method: a root with marked texts, a marked project and a marked run, and another dataset that is derived from it;
    plans by a key that sees one of these, with everything that a plan can be asked to solve for."""
    marked = {"title": f"{MARK} title", "description": f"{MARK} description"}
    ledger.register(name="root", bound="certified", budget={"mu": 2, "delta": 1e-5}, **marked)
    for name in ("leaf", f"{MARK}-leaf"):
        derived = {"name": name, "derived_from": [{"name": "root", "unit_preserving": True}], "budget": BIG, **WEAK}
        ok(ledger.post("/v1/datasets", derived))
    ok(ledger.put(f"/v1/datasets/root/projects/{MARK}-project", {"budget": {"mu": 1, "delta": 1e-6}}))
    run = ok(ledger.ask(key=f"{MARK}-key", datasets=["root"], project=f"{MARK}-project", **NOTES))["id"]
    (first,) = ok(ledger.get("/v1/datasets/root/entries", limit=1))["items"]
    hidden = {MARK, run, first["entry"]["dataset_id"]}
    by = ledger.as_(role, datasets=["leaf"])
    assert by.get("/v1/datasets/root").status_code == 404
    solved = 0
    for multiplier, solve_for in itertools.product((20, 0.1), (None, "noise_multiplier", "count", "runs")):
        mechanism = {"type": "gaussian", "noise_multiplier": multiplier, "count": 2}
        answer = by.post("/v1/plan", {"datasets": ["leaf"], "mechanism": mechanism, "solve_for": solve_for})
        planned = ok(answer)
        text = answer.text + json.dumps(dict(answer.headers))
        assert not [secret for secret in hidden if secret in text], answer.text
        leaf, root = planned["datasets"]
        assert leaf["remaining"] is not None
        assert {name for name, value in root.items() if value is not None} == {"name", "state"}
        assert all(item["remaining"] is item["limit"] is None for item in planned["binding"] if item["name"] == "root")
        rest = {name: value for name, value in planned.items() if name not in ("datasets", "binding")}
        assert "root" not in set(texts(rest))
        assert planned["fits"] == (multiplier == 20)
        solved += planned["solution"] is not None
    assert solved == 4  # without noise enough, no number of runs fits

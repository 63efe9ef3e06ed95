"""Every error is a problem of RFC 9457 with a code of the contract, and says enough to go on with."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import sentinel

import pytest
from sqlalchemy import text

from ledger.access.keys import tenant_of
from ledger.api.problems import STATUS
from ledger.recovery.known import End
from ledger.settings import Settings
from tests.conftest import Templates
from tests.kit.driver import MNIST, RELEASE, Ledger, past_the_ledger

SECRET = "the sky over Kiel"


@pytest.fixture
def here(templates: Templates, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger on SQLite alone, for what does not depend on the database."""
    with templates.clone("sqlite", tmp_path) as settings, Ledger.open(settings) as opened:
        yield opened


def problem_of(answer: Any, code: str) -> dict[str, Any]:
    """The problem that an answer is: the members of RFC 9457, and a code with its status."""
    problem: dict[str, Any] = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["code"] == code, problem
    assert problem["status"] == answer.status_code == STATUS[code]
    assert problem["type"] == f"urn:privacy-ledger:problem:{code}"
    assert problem["title"]
    assert problem["detail"]
    return problem


# --- one request for each code ---------------------------------------------------------------------------------------


def _spent(ledger: Ledger, name: str) -> None:
    for _ in range(25):
        assert ledger.ask(datasets=[name]).status_code == 201


def _budget_exceeded(ledger: Ledger, name: str) -> Any:
    _spent(ledger, name)
    return ledger.ask(datasets=[name])


def _budget_below_spent(ledger: Ledger, name: str) -> Any:
    _spent(ledger, name)
    return ledger.put(f"/v1/datasets/{name}/budget", {"budget": {"mu": 0.5}, "reason": "less"})


def _dataset_frozen(ledger: Ledger, name: str) -> Any:
    ledger.patch(f"/v1/datasets/{name}", {"state": "frozen", "reason": "review"})
    return ledger.ask(datasets=[name])


def _run_state(ledger: Ledger, name: str) -> Any:
    return ledger.post(f"/v1/runs/{ledger.ask(datasets=[name]).json()['id']}/settle", {})


def _reused(ledger: Ledger, name: str) -> Any:
    ledger.ask(datasets=[name], key="k")
    return ledger.ask({"type": "gaussian", "noise_multiplier": 6}, datasets=[name], key="k")


def _closed(ledger: Ledger, name: str) -> Any:
    ledger.client.app.state.services.writer.close()
    return ledger.ask(datasets=[name])


def _contradicted(ledger: Ledger, name: str) -> Any:
    """A head that is not the newest entry's, as the server's role can write one."""
    store = ledger.client.app.state.services.store
    with store.writing(tenant_of(ledger.key)) as writing:
        wrong = {"head": bytes(32), "name": name}
        writing.connection.execute(text("UPDATE datasets SET head = :head WHERE name = :name"), wrong)
    return ledger.get(f"/v1/datasets/{name}/head")


def _broken(ledger: Ledger, name: str) -> Any:
    ledger.client.app.state.services = sentinel.services
    return ledger.get(f"/v1/datasets/{name}")


def _overrun(ledger: Ledger, name: str) -> Any:
    run = ledger.ask(datasets=[name]).json()["id"]
    ledger.post(f"/v1/runs/{run}/start")
    return ledger.post(f"/v1/runs/{run}/settle", {"steps": 26})


def _batch_refused(ledger: Ledger, name: str) -> Any:
    runs = [{**RELEASE, "datasets": [name], "idempotency_key": f"batch-{number}"} for number in range(26)]
    return ledger.post("/v1/runs/batch", {"runs": runs, "atomic": True})


def _unit_mismatch(ledger: Ledger, name: str) -> Any:
    ledger.register(name="people", privacy_unit="user")
    return ledger.ask(datasets=[name, "people"])


def _rate_limited(ledger: Ledger, name: str) -> Any:
    ledger.put(f"/v1/datasets/{name}/fair-use", {"runs_per_hour": 1, "reason": "r"})
    ledger.ask(datasets=[name])
    return ledger.ask(datasets=[name])


def _proposal_state(ledger: Ledger, name: str) -> Any:
    ledger.put("/v1/policy", {"second_steward": True, "reason": "r"})
    raised = ledger.put(f"/v1/datasets/{name}/budget", {"budget": {"mu": 2}, "reason": "more"})
    ledger.put("/v1/policy", {"second_steward": False, "reason": "r"})
    path = f"/v1/proposals/{raised.json()['proposal']['id']}/refuse"
    second = ledger.as_("steward")
    second.post(path, {"reason": "no"})
    return second.post(path, {"reason": "no"})


def _run_waits(ledger: Ledger, name: str) -> Any:
    ledger.put(f"/v1/datasets/{name}/fair-use", {"waits_above_percent": 1, "reason": "r"})
    return ledger.ask(datasets=[name])


def _behind(ledger: Ledger, name: str) -> Any:
    """Ask on a dataset of which this process knows an entry that the database does not have."""
    services = ledger.client.app.state.services
    with services.store.reading(tenant_of(ledger.key)) as reading:
        dataset = reading.datasets.by_name(name)
    end = End(dataset.seq + 1, bytes(32), name)
    services.known.load((tenant_of(ledger.key), dataset.id), end)
    return ledger.ask(datasets=[name])


PRODUCED: dict[str, Callable[[Ledger, str], Any]] = {
    "unauthenticated": lambda ledger, _name: ledger.client.get("/v1/datasets"),
    "forbidden": lambda ledger, _name: ledger.as_("auditor").post("/v1/datasets", {**MNIST, "name": "x"}),
    "not-found": lambda ledger, _name: ledger.get("/v1/datasets/nothing"),
    "method-not-allowed": lambda ledger, name: ledger.delete(f"/v1/datasets/{name}"),
    "budget-exceeded": _budget_exceeded,
    "run-waits": _run_waits,
    "budget-below-spent": _budget_below_spent,
    "dataset-frozen": _dataset_frozen,
    "run-state": _run_state,
    "overrun": _overrun,
    "batch-refused": _batch_refused,
    "unit-mismatch": _unit_mismatch,
    "partitions-closed": lambda ledger, name: ledger.post(
        f"/v1/datasets/{name}/partitions", {"names": ["a"], "disjoint": True}
    ),
    "proposal-state": _proposal_state,
    "rate-limited": _rate_limited,
    "journal-contradicted": _behind,
    "name-taken": lambda ledger, name: ledger.post("/v1/datasets", {**MNIST, "name": name}),
    "too-large": lambda ledger, _name: ledger.post("/v1/evaluate", {"mechanism": "x" * 2_000_000}),
    "unsupported-media-type": lambda ledger, _name: ledger.request("POST", "/v1/evaluate", content=b"mu=1"),
    "invalid-request": lambda ledger, _name: ledger.post("/v1/datasets", {"name": "x"}),
    "invalid-mechanism": lambda ledger, _name: ledger.post("/v1/evaluate", {"mechanism": {"type": "magic"}}),
    "idempotency-key-reused": _reused,
    "idempotency-key-missing": lambda ledger, _name: ledger.post("/v1/runs", RELEASE),
    "invalid-json": lambda ledger, _name: ledger.request(
        "POST", "/v1/evaluate", content=b"{", headers={"Content-Type": "application/json"}
    ),
    # From here on the application is of no more use.
    "overloaded": _closed,
    "internal": _broken,
    "journal-broken": _contradicted,
}
FACTS: dict[str, set[str]] = {
    "forbidden": {"role"},
    "not-found": {"dataset"},
    "budget-exceeded": {"run", "datasets", "fits"},
    "budget-below-spent": {"dataset", "quantities", "limit", "spent", "held"},
    "dataset-frozen": {"dataset", "state"},
    "run-state": {"state"},
    "overrun": {"run", "state", "cost", "charged", "overrun", "frozen", "datasets"},
    "batch-refused": {"results"},
    "unit-mismatch": {"what", "datasets"},
    "partitions-closed": {"dataset"},
    "proposal-state": {"state"},
    "rate-limited": {"dataset", "runs_per_hour"},
    "name-taken": {"name"},
    "too-large": {"bytes_max"},
    "invalid-request": {"field", "errors"},
    "invalid-mechanism": {"field", "errors"},
    "idempotency-key-missing": {"field"},
}


def test_every_code_has_its_request() -> None:
    """Goal: no code of this version goes untested. Method: compare the table of statuses with the table of requests."""
    assert set(PRODUCED) == set(STATUS)


def test_codes(ledger: Ledger) -> None:
    """Goal: each code comes with its status, the members of RFC 9457 and its facts. Method: a request for each."""
    for code, produce in PRODUCED.items():
        ledger.register(name=code)
        answer = produce(ledger, code)
        problem = problem_of(answer, code)
        assert FACTS.get(code, set()) <= set(problem)
        assert ("www-authenticate" in answer.headers) == (code == "unauthenticated")
        assert ("retry-after" in answer.headers) == (code in ("overloaded", "rate-limited"))
        assert ("allow" in answer.headers) == (code == "method-not-allowed")
        if code == "overloaded":
            break
    problem_of(PRODUCED["internal"](ledger, "x"), "internal")


# --- the framework's own errors --------------------------------------------------------------------------------------


def test_unknown_paths(here: Ledger) -> None:
    """Goal: a path that leads nowhere is a problem too. Method: ask for some, in /v1 and outside."""
    for path in (
        "/v1",
        "/v1/",
        "/v1/nothing",
        "/nothing",
        "/v2/datasets",
        "/v1/datasets/",
        "//v1/datasets",
        "/V1/runs",
    ):
        problem_of(here.get(path), "not-found")
    for path in ("/nothing", "/v2/datasets", "/favicon.ico"):
        problem_of(here.client.get(path), "not-found")
    for path in ("/v1", "/v1/nothing", "/v1/datasets/"):
        problem_of(here.client.get(path), "unauthenticated")


METHODS: dict[str, set[str]] = {
    "/healthz": {"GET"},
    "/v1/datasets": {"GET", "POST"},
    "/v1/datasets/mnist": {"GET", "PATCH"},
    "/v1/datasets/mnist/budget": {"PUT"},
    "/v1/datasets/mnist/entries": {"GET"},
    "/v1/datasets/mnist/fair-use": {"PUT"},
    "/v1/datasets/mnist/partitions": {"GET", "POST"},
    "/v1/datasets/mnist/projects/ranking": {"PUT"},
    "/v1/runs/batch": {"GET", "POST"},
    "/metrics": {"GET"},
    "/v1/me": {"GET"},
    "/v1/entries": {"GET"},
    "/v1/alerts": {"GET"},
    "/v1/alerting": {"GET", "PUT"},
    "/v1/alerting/test": {"POST"},
    "/v1/datasets/mnist/forecast": {"GET"},
    "/v1/policy": {"GET", "PUT"},
    "/v1/proposals": {"GET"},
    f"/v1/proposals/{uuid.UUID(int=1)}": {"GET"},
    f"/v1/proposals/{uuid.UUID(int=1)}/approve": {"POST"},
    "/v1/keys": {"GET", "POST"},
    f"/v1/keys/{uuid.UUID(int=1)}": {"DELETE"},
    f"/v1/keys/{uuid.UUID(int=1)}/rotate": {"POST"},
    "/v1/runs": {"GET", "POST"},
    f"/v1/runs/{uuid.UUID(int=1)}": {"GET"},
    f"/v1/runs/{uuid.UUID(int=1)}/start": {"POST"},
    "/v1/tenants": {"POST"},
    "/v1/evaluate": {"POST"},
    "/v1/plan": {"POST"},
}


@pytest.mark.parametrize(("path", "methods"), METHODS.items(), ids=METHODS)
def test_methods(here: Ledger, path: str, methods: set[str]) -> None:
    """Goal: a wrong method is told every right one. Method: send all others, HEAD, OPTIONS and unheard-of ones too."""
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"} - methods:
        answer = here.request(method, path)
        problem_of(answer, "method-not-allowed")
        assert set(answer.headers["allow"].split(", ")) == methods
    head = here.request("HEAD", path)
    assert head.status_code == 405
    assert set(head.headers["allow"].split(", ")) == methods


def test_root_leads_to_the_pages(here: Ledger) -> None:
    """Goal: whoever opens the server's address can sign in, or read about it. Method: follow / without a key."""
    answer = here.client.get("/", follow_redirects=True)
    assert answer.status_code == 200
    assert "<h1>Sign in</h1>" in answer.text
    assert 'href="/docs/guide/"' in answer.text


# --- failures inside -------------------------------------------------------------------------------------------------


class _Failing:
    """Stands where a service would, and fails with a text that nobody outside may read."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{SECRET}: {name}")


@pytest.mark.parametrize(
    "service", ["datasets", "proposals", "tenants", "keys", "alerts", "journals", "runs", "keyring"]
)
def test_failures_say_nothing_of_themselves(
    here: Ledger, service: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: a fault inside is logged, and tells the outside nothing. Method: put a failing service into each place."""
    here.register()
    state = here.client.app.state
    assert here.get("/v1/datasets").status_code == 200
    broken = {
        name: _Failing() if name == service else getattr(state.services, name)
        for name in (field.name for field in dataclasses.fields(state.services))
    }
    monkeypatch.setattr(state, "services", type(state.services)(**broken))
    calls: dict[str, Callable[[], Any]] = {
        "datasets": lambda: here.put("/v1/datasets/mnist/budget", {"budget": {"mu": 2}, "reason": "more"}),
        "proposals": lambda: here.get("/v1/proposals"),
        "tenants": lambda: here.get("/v1/me"),
        "keys": lambda: here.get("/v1/keys"),
        "alerts": lambda: here.get("/v1/alerts"),
        "journals": lambda: here.get("/v1/datasets/mnist/head"),
        "runs": here.ask,
        "keyring": lambda: here.get("/v1/datasets"),
    }
    answer = calls[service]()
    problem_of(answer, "internal")
    assert SECRET not in answer.text + str(answer.headers)
    assert "RuntimeError" not in answer.text
    assert SECRET in caplog.text


def test_a_missing_table_is_internal(ledger: Ledger, database: Settings) -> None:
    """Goal: a database's own error goes into the log alone. Method: take a table away, then read and write it."""
    ledger.register()
    engine = past_the_ledger(database)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE accounts RENAME TO elsewhere"))
    engine.dispose()
    for answer in (ledger.get("/v1/datasets/mnist"), ledger.ask(), ledger.post("/v1/datasets", {**MNIST, "name": "b"})):
        problem_of(answer, "internal")
        assert "accounts" not in answer.text
        assert "SELECT" not in answer.text.upper().replace("SELECTED", "")


# --- messages --------------------------------------------------------------------------------------------------------

DPSGD: dict[str, Any] = {"type": "dpsgd", "noise_multiplier": 1.1, "sampling": "shuffle"}

SAID: dict[str, tuple[dict[str, Any], str, str]] = {
    "no type": ({"noise_multiplier": 1}, "mechanism.type", "required"),
    "unknown type": ({"type": "dp-sgd"}, "mechanism.type", "'dpsgd'"),
    "no noise": ({"type": "gaussian"}, "mechanism.noise_multiplier", "required"),
    "no noise at all": ({"type": "gaussian", "noise_multiplier": 0}, "mechanism.noise_multiplier", "greater than 0"),
    "a text": ({"type": "gaussian", "noise_multiplier": "1.1"}, "mechanism.noise_multiplier", "must be a number"),
    "sigma": ({"type": "gaussian", "noise_multiplier": 1, "sigma": 1}, "mechanism.sigma", "is not a field"),
    "sigma again": (
        {"type": "gaussian", "noise_multiplier": 1, "sigma": 1},
        "mechanism.sigma",
        "declare noise_multiplier",
    ),
    "a known type": ({"type": "Discrete-Laplace"}, "mechanism.type", "laplace charges too little"),
    "another loader": (
        {**DPSGD, "sampling": "balls_in_bins", "sample_rate": 0.1, "steps": 1},
        "mechanism.sampling",
        "What comes nearest: if each unit is in exactly one batch of each epoch, declare shuffle",
    ),
    "rate above one": ({**DPSGD, "sample_rate": 256, "steps": 1}, "mechanism.sample_rate", "at most 1"),
    "half a form": ({**DPSGD, "sample_rate": 0.1}, "mechanism", "sample_rate and steps"),
    "two forms": ({**DPSGD, "sample_rate": 0.1, "steps": 1, "epochs": 1}, "mechanism", "nothing of both"),
    "a batch too large": (
        {**DPSGD, "dataset_size": 10, "batch_size": 11, "epochs": 1},
        "mechanism",
        "batch_size must be at most dataset_size",
    ),
    "no evidence": ({"type": "gdp", "mu": 1}, "mechanism.evidence", "required"),
}


@pytest.mark.parametrize("what", SAID)
def test_messages_help(here: Ledger, what: str) -> None:
    """Goal: an error says what to write instead. Method: common slips, each with words that its message must have."""
    mechanism, field, words = SAID[what]
    problem = problem_of(here.post("/v1/evaluate", {"mechanism": mechanism}), "invalid-mechanism")
    assert problem["field"] == field
    assert problem["detail"].startswith(f"{field}: ")
    assert words in problem["detail"]


def test_all_errors_at_once(here: Ledger) -> None:
    """Goal: a form with three mistakes is corrected in one go. Method: read `errors`, cut off at 20."""
    body = {"name": "B", "privacy_unit": "", "adjacency": "none", "budget": {"epsilon": 1}}
    problem = problem_of(here.post("/v1/datasets", body), "invalid-request")
    assert [item["field"] for item in problem["errors"]] == ["name", "privacy_unit", "adjacency", "budget.at_delta"]
    many = problem_of(here.post("/v1/datasets", {f"f{number}": 1 for number in range(1000)}), "invalid-request")
    assert [item["message"] for item in many["errors"]] == ["has 1001 errors, too many to list"]
    fewer = problem_of(here.post("/v1/datasets", {f"f{number}": 1 for number in range(900)}), "invalid-request")
    assert len(fewer["errors"]) == 20

"""Errors name what was meant, what is in the way, and what to call next."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ledger.client.errors import of_response
from ledger.errors import IdempotencyKeyReused
from tests.conftest import Templates
from tests.kit.driver import Ledger


@pytest.fixture
def here(templates: Templates, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger on SQLite alone, for what does not depend on the database."""
    with templates.clone("sqlite", tmp_path) as settings, Ledger.open(settings) as opened:
        yield opened


# --- datasets --------------------------------------------------------------------------------------------------------


def test_the_dataset_that_was_meant(ledger: Ledger) -> None:
    """Goal: a slip in a dataset's name is answered with the name, in every call that takes one. Method: one slip in
    each; a name that is like no other gets no suggestion."""
    ledger.register(name="mnist")
    ledger.register(name="clicks-2026")
    answers = [
        ledger.get("/v1/datasets/minst"),
        ledger.get("/v1/datasets/minst/head"),
        ledger.ask(datasets=["minst"]),
        ledger.ask(datasets=["clicks-2026", "minst"]),
        ledger.post("/v1/plan", {"datasets": ["minst"], "mechanism": {"type": "gaussian", "noise_multiplier": 5}}),
        ledger.put("/v1/datasets/minst/budget", {"budget": {"mu": 1}, "reason": "r"}),
    ]
    for answer in answers:
        problem = answer.json()
        assert (problem["code"], problem["dataset"]) == ("not-found", "minst"), problem
        assert problem["did_you_mean"] == "mnist"
        assert "Did you mean mnist? GET /v1/datasets lists those" in problem["detail"]
    assert "did_you_mean" not in ledger.get("/v1/datasets/zzz").json()
    fields = (
        ledger.post("/v1/keys", {"name": "k", "role": "auditor", "datasets": ["minst"]}),
        ledger.post("/v1/datasets", {"name": "d", "derived_from": [{"name": "minst", "unit_preserving": True}]}),
    )
    for answer in fields:
        problem = answer.json()
        assert (problem["code"], problem["did_you_mean"]) == ("invalid-request", "mnist"), problem
        assert problem["detail"].endswith("Did you mean mnist?")


def test_no_dataset_is_suggested_that_a_key_does_not_see(here: Ledger) -> None:
    """Goal: a limited key learns of no other dataset. Method: names like those that it sees and does not see, which
    exist or not; the answers are alike but for the name."""
    here.register(name="mnist")
    here.register(name="salaries")
    limited = here.as_("requester", datasets=["mnist"])
    assert limited.get("/v1/datasets/minst").json()["did_you_mean"] == "mnist"
    hidden, absent = limited.get("/v1/datasets/salaries").json(), limited.get("/v1/datasets/salariez").json()
    assert "did_you_mean" not in hidden | absent
    assert hidden["detail"].replace("salaries", "salariez") == absent["detail"]


def test_many_datasets_are_looked_through_up_to_a_bound(here: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a suggestion reads a bounded number of names, and still finds those that begin alike. Method: a bound of
    two, with more datasets before the one that is meant."""
    for name in ("a", "b", "c", "mnist"):
        here.register(name=name)
    monkeypatch.setattr("ledger.service.datasets.NAMES_MAX", 2)
    assert here.get("/v1/datasets/mnits").json()["did_you_mean"] == "mnist"
    assert "did_you_mean" not in here.get("/v1/datasets/xmnist").json()


# --- queries ---------------------------------------------------------------------------------------------------------


def test_unknown_query_parameters(here: Ledger) -> None:
    """Goal: a filter that would have no effect is an error. Method: misspelt ones, and one where no call has any."""
    here.register()
    problem = here.get("/v1/runs", datset="mnist").json()
    assert (problem["code"], problem["field"]) == ("invalid-request", "datset")
    assert problem["detail"] == "datset: is not a query parameter of this call. Did you mean dataset?"
    assert "Possible: cursor, dataset, key, label, limit, mechanism" in here.get("/v1/runs", zzz=1).json()["detail"]
    assert here.get("/v1/datasets/mnist", verbose=1).json()["detail"] == (
        "verbose: is not a query parameter of this call. This call has none. Remove it."
    )
    assert here.get("/v1/runs", dataset="mnist", limit=1).status_code == 200


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_s_state_names_the_next_call(here: Ledger) -> None:
    """Goal: every `run-state` names the calls that the run allows now, and they work. Method: each state, each wrong
    call; then what is named."""
    here.register()

    def wrong(run: str, call: str, body: Any = None) -> dict[str, Any]:
        problem: dict[str, Any] = here.post(f"/v1/runs/{run}/{call}", body).json()
        assert (problem["code"], problem["run"]) == ("run-state", run), problem
        assert run in problem["detail"]
        for named in problem["next"]:
            assert f"POST /v1/runs/{run}/{named} " in problem["detail"]
        return problem

    run = here.ask().json()["id"]
    assert wrong(run, "settle", {})["next"] == ["start", "void"]
    assert here.post(f"/v1/runs/{run}/start").status_code == 200
    assert wrong(run, "confirm", {"reason": "r"})["next"] == ["settle", "void"]
    assert here.post(f"/v1/runs/{run}/settle", {"steps": 1}).status_code == 200
    ended = wrong(run, "void", {"reason": "r"})
    assert ended["next"] == ["correction"]
    assert "ask for a new run: POST /v1/runs" in ended["detail"]
    again = here.post(f"/v1/runs/{run}/settle", {"steps": 0}).json()
    assert f"GET /v1/runs/{run} shows" in again["detail"]
    assert "ask for a new run" in here.get(f"/v1/runs/{run}/receipt").json()["detail"]


def test_an_idempotency_key_names_its_run(ledger: Ledger) -> None:
    """Goal: a key that was used for another request is answered with its run and what differs. Method: alone, and in a
    batch; the run that is named has the first request."""
    ledger.register()
    first = ledger.ask(key="k", labels={"a": "b"}, purpose="p").json()["id"]
    other = {"type": "gaussian", "noise_multiplier": 6}
    problem = ledger.ask(other, key="k", labels={"a": "c"}).json()
    assert (problem["code"], problem["run"]) == ("idempotency-key-reused", first)
    assert problem["differs"] == ["labels.a", "mechanism.noise_multiplier", "purpose"]
    assert (
        f"stands for run {first}, whose request differs in labels.a, mechanism.noise_multiplier, purpose."
        in (problem["detail"])
    )
    batch = [{"datasets": ["mnist"], "mechanism": other, "idempotency_key": key} for key in ("k", "new")]
    reused, new = ledger.post("/v1/runs/batch", {"runs": batch}).json()["results"]
    assert new["status"] == 201
    assert (reused["problem"]["code"], reused["problem"]["run"]) == ("idempotency-key-reused", first)
    assert reused["problem"]["differs"] == ["labels", "mechanism.noise_multiplier", "purpose"]


def test_a_key_of_somebody_else_names_nothing(here: Ledger) -> None:
    """Goal: a key names only its own principal's run. Method: another principal uses the same key."""
    here.register()
    here.ask(key="k")
    other = here.as_("requester")
    assert other.ask({"type": "gaussian", "noise_multiplier": 6}, key="k").status_code == 201


# --- labels ----------------------------------------------------------------------------------------------------------


def test_scalar_labels_become_texts(ledger: Ledger) -> None:
    """Goal: numbers and booleans among labels are kept as texts, exactly as written, alone and in a batch; the same
    request in either form is the same. Method: read them back, repeat as texts; other types are rejected."""
    ledger.register()
    sent = {"lr": 0.1, "small": 1e-5, "seed": 7, "amp": True, "name": "x"}
    kept = {"lr": "0.1", "small": "0.00001", "seed": "7", "amp": "true", "name": "x"}
    run = ledger.ask(key="k", labels=sent).json()["id"]
    assert ledger.get(f"/v1/runs/{run}").json()["request"]["labels"] == kept
    assert ledger.ask(key="k", labels=kept).json()["id"] == run
    assert ledger.ask(key="k", labels=sent).json()["id"] == run
    item = {"datasets": ["mnist"], "mechanism": {"type": "gaussian", "noise_multiplier": 5}, "labels": sent}
    results = ledger.post("/v1/runs/batch", {"runs": [{**item, "idempotency_key": "b"}]}).json()["results"]
    assert ledger.get(f"/v1/runs/{results[0]['run']['id']}").json()["request"]["labels"] == kept
    wrong: Any
    for wrong in (None, [], {}, {"a": 1}):
        problem = ledger.ask(labels={"x": wrong}).json()
        assert problem["detail"] == "labels.x: must be a text, a number, true or false"


# --- budgets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [{"mu": 0.5}, {"mu": 0.39}])
def test_a_budget_below_what_is_spent_is_answered_in_numbers(here: Ledger, budget: dict[str, Any]) -> None:
    """Goal: the answer has the limit that would be enough, and it is. Method: set the limit that is named, and one just
    below it."""
    here.register()
    for _ in range(7):
        assert here.ask().status_code == 201
    problem = here.put("/v1/datasets/mnist/budget", {"budget": budget, "reason": "less"}).json()
    assert problem["code"] == "budget-below-spent"
    words = problem["detail"].rpartition("mu: ")[2]
    least, limit = words.removesuffix(".").split(" is spent and held, and the new limit is ")
    assert Decimal(limit) == Decimal(str(budget["mu"]))
    assert problem["least"]["mu"] == pytest.approx(7**0.5 / 5)
    for mu, status in ((Decimal(least) - Decimal("1e-5"), 409), (Decimal(least), 200)):
        changed = here.put("/v1/datasets/mnist/budget", {"budget": {"mu": float(mu)}, "reason": "less"})
        assert changed.status_code == status, changed.text


def test_the_client_keeps_what_an_error_names(here: Ledger) -> None:
    """Goal: programs read the same facts. Method: the client's exception for a reused key."""
    here.register()
    run = here.ask(key="k").json()["id"]
    error = of_response(here.ask(key="k", purpose="other"), url="http://x")
    assert isinstance(error, IdempotencyKeyReused)
    assert error.facts == {"run": run, "differs": ["purpose"]}

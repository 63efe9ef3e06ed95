"""Runs that wait for a steward, over HTTP: asked for, shown, approved, refused, expired, and asked for again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, event, text

from ledger.access.keys import tenant_of
from ledger.core.decision.two_people import DAY_US
from ledger.operate.check import check_journals
from ledger.settings import Settings
from ledger.store import Store, engine_for, proposals
from ledger.verifier.verify import verify
from tests.kit import independent_verifier
from tests.kit.driver import Ledger
from tests.kit.scene import REASON, ok

LARGE = {"type": "gaussian", "noise_multiplier": 2}
"""Mu 0.5: a quarter of a limit of mu 1."""
SMALL = {"type": "gaussian", "noise_multiplier": 5}


@pytest.fixture
def waiting(ledger: Ledger) -> tuple[Ledger, Ledger, Ledger]:
    """Whoever asks, a steward, and an admin; a run above a tenth of the limit waits."""
    ledger.register(costing="standalone")
    fair_use = {"waits_above_percent": 10, **REASON}
    shown = ok(ledger.put("/v1/datasets/mnist/fair-use", fair_use))["fair_use"]
    assert shown == {"held": None, "runs_per_hour": None, "waits_above_percent": 10}
    return ledger.as_("requester"), ledger.as_("steward"), ledger


def waits(asker: Ledger, key: str, mechanism: dict[str, Any] | None = None) -> str:
    """The id of a run that waits."""
    answer = asker.ask(mechanism or LARGE, key=key)
    assert (answer.status_code, answer.json()["code"]) == (409, "run-waits"), answer.text
    assert answer.json()["proposal"] == answer.json()["run"]
    assert answer.json()["waits_for"] == ["mnist"]
    return str(answer.json()["run"])


def _expire(database: Settings, admin: Ledger, run: str) -> None:
    """Move the day of a run that waits into the past."""
    store = Store(engine_for(database.owner_url))
    with store.writing(tenant_of(admin.key)) as writing:
        moved = text(
            "UPDATE proposals SET created_us = created_us - :day, expires_us = expires_us - :day WHERE id = :id"
        )
        writing.connection.execute(moved, {"day": DAY_US, "id": run})
    store.close()


@contextmanager
def counted_statements() -> Iterator[list[str]]:
    """The statements that are sent meanwhile."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def test_a_run_waits_and_is_approved(waiting: tuple[Ledger, Ledger, Ledger], database: Settings) -> None:
    """Goal: one key, one run, one outcome: it waits and holds nothing, is shown, is approved by another person, and the
    same request then gets its receipt. Method: every step, with its answers; the check of the whole database."""
    asker, steward, admin = waiting
    assert ok(asker.ask(SMALL, key="small"))["state"] == "held"
    before = admin.balance()
    run = waits(asker, "large")
    assert waits(asker, "large") == run
    assert admin.balance() == before
    shown = ok(asker.get(f"/v1/runs/{run[:8]}"))
    assert (shown["state"], shown["decision"], shown["cost"]["mu"]) == ("waiting", "waiting", 0.5)
    assert shown["proposals"][0]["state"] == "open"
    (listed,) = ok(steward.get("/v1/proposals", state="open"))["items"]
    assert (listed["id"], listed["what"], listed["run"]) == (run, "run", run)
    for call in ("start", "void"):
        answer = asker.post(f"/v1/runs/{run}/{call}", REASON if call == "void" else None)
        assert (answer.json()["code"], answer.json()["state"]) == ("run-state", "waiting")
    own = admin.ask(LARGE, key="own").json()["run"]
    assert admin.post(f"/v1/proposals/{own}/approve").json()["code"] == "forbidden"
    done = ok(steward.post(f"/v1/proposals/{run[:8]}/approve", {"reason": "agreed"}))
    assert (done["id"], done["state"], done["decision"]) == (run, "held", "approved")
    assert done["asked_by"]["role"] == "requester"
    assert done["proposal"]["approved_by"]["role"] == "steward"
    assert done["proposal"]["reason"] == "agreed"
    answer = asker.ask(LARGE, key="large")
    assert ok(answer)["id"] == run
    assert answer.headers["Idempotent-Replayed"] == "true"
    assert answer.json()["receipt"]
    assert ok(steward.get(f"/v1/proposals/{run}"))["answered_reason"] == "agreed"
    assert admin.balance()["held"][0] == before["held"][0] + 25 * 10**10
    ok(asker.post(f"/v1/runs/{run}/start"))
    ok(asker.post(f"/v1/runs/{run}/settle"))
    assert [result["error"] for result in check_journals(database)] == [None, None]
    alerts = {alert["event"]["proposal"] for alert in ok(admin.get("/v1/alerts", kind="proposal"))["items"]}
    assert alerts == {run, own}


def test_an_approved_run_may_not_fit_any_more(waiting: tuple[Ledger, Ledger, Ledger]) -> None:
    """Goal: what is left then decides. Method: four runs of a quarter each fit one by one; a fifth waited with them."""
    asker, steward, _ = waiting
    runs = [waits(asker, f"large-{number}") for number in range(5)]
    decisions = [ok(steward.post(f"/v1/proposals/{run}/approve", REASON))["decision"] for run in runs]
    assert decisions == ["approved"] * 4 + ["refused"]
    refused = asker.ask(LARGE, key="large-4").json()
    assert (refused["code"], refused["run"]) == ("budget-exceeded", runs[4])
    shown = ok(asker.get(f"/v1/runs/{runs[4]}"))
    assert (shown["state"], shown["refused_by"][0]["quantity"]) == ("refused", "mu")


def test_a_run_is_refused_by_a_steward_or_expires(waiting: tuple[Ledger, Ledger, Ledger], database: Settings) -> None:
    """Goal: whoever asked learns who refused and why, or that nobody answered; the key stays used. Method: one of
    each; the second by moving its day into the past."""
    asker, steward, admin = waiting
    refused, expired = waits(asker, "refused"), waits(asker, "expired")
    ok(steward.post(f"/v1/proposals/{refused}/refuse", {"reason": "Use less."}))
    _expire(database, admin, expired)
    answer = asker.ask(LARGE, key="refused").json()
    assert (answer["code"], answer["state"], answer["run"]) == ("proposal-state", "refused", refused)
    assert "refused it: Use less." in answer["detail"]
    late = asker.ask(LARGE, key="expired").json()
    assert (late["code"], late["state"]) == ("proposal-state", "expired")
    assert [ok(asker.get(f"/v1/runs/{run}"))["state"] for run in (refused, expired)] == ["refused", "expired"]
    assert steward.post(f"/v1/proposals/{expired}/approve").json()["code"] == "proposal-state"


def test_a_batch_does_not_wait(waiting: tuple[Ledger, Ledger, Ledger]) -> None:
    """Goal: a batch is decided at once, and a key that waits is named in it. Method: a run that would wait, on its own
    and all or none; then one that waits already."""
    asker, _, _ = waiting
    runs = [
        {"datasets": ["mnist"], "mechanism": mechanism, "idempotency_key": key}
        for mechanism, key in ((SMALL, "a"), (LARGE, "b"))
    ]
    body = asker.post("/v1/runs/batch", {"runs": runs, "atomic": True}).json()
    assert [result["problem"]["code"] for result in body["results"]] == ["batch-refused", "forbidden"]
    results = ok(asker.post("/v1/runs/batch", {"runs": runs, "atomic": False}))["results"]
    assert [result["status"] for result in results] == [201, 403]
    assert "Ask for it by itself" in results[1]["problem"]["detail"]
    run = waits(asker, "b")
    results = ok(asker.post("/v1/runs/batch", {"runs": runs, "atomic": False}))["results"]
    assert (results[1]["problem"]["code"], results[1]["problem"]["run"]) == ("run-waits", run)
    for atomic in (True, False):  # its key, for another request
        other = [{**runs[1], "mechanism": SMALL}]
        (result,) = asker.post("/v1/runs/batch", {"runs": other, "atomic": atomic}).json()["results"]
        assert (result["problem"]["code"], result["problem"]["run"]) == ("idempotency-key-reused", run)


def test_a_limited_key_learns_nothing_of_a_run_that_waits(waiting: tuple[Ledger, Ledger, Ledger]) -> None:
    """Goal: a run that waits is as hidden as any. Method: another's, and one that names a dataset that the key does not
    see; for the show, the beginning of an id, and the proposal."""
    asker, _, admin = waiting
    admin.register(name="other", costing="standalone")
    body = {"datasets": ["other", "mnist"], "mechanism": LARGE}
    run = asker.post("/v1/runs", body, Idempotency_Key=str(uuid4())).json()["run"]
    limited, steward = (admin.as_(role, datasets=["mnist"]) for role in ("requester", "steward"))
    for path in (f"/v1/runs/{run}", f"/v1/runs/{run[:8]}", f"/v1/proposals/{run}"):
        for caller in (limited, steward):
            assert caller.get(path).status_code == 404, path
    assert steward.post(f"/v1/proposals/{run}/approve").status_code == 404
    (change,) = [item for item in ok(admin.get("/v1/datasets/mnist/history"))["items"] if item["run"] == run]
    assert change["what"] == f"proposed: run {run}, which waits for a steward"
    assert all(item["run"] != run for item in ok(steward.get("/v1/datasets/mnist/history"))["items"])


def test_a_journal_holds_with_a_run_that_waits_and_samples(ledger: Ledger, database: Settings) -> None:
    """Goal: what a run records of its batches is in its proposal too, shown to the steward, and both verifiers know it.
    Method: a run that lacks its size, with a warning; approved and refused; the check of the database, the export."""
    ledger.register(budget={"epsilon": 3, "at_delta": 1e-5})
    ok(ledger.put("/v1/datasets/mnist/fair-use", {"waits_above_percent": 1, **REASON}))
    asker, steward = ledger.as_("requester"), ledger.as_("steward")
    mechanism = {"type": "dpsgd", "noise_multiplier": 9, "sampling": "poisson", "batch_size": 9000, "epochs": 20}
    approved, refused = waits(asker, "a", mechanism), waits(asker, "b", mechanism)
    for run in (approved, refused):
        shown = ok(steward.get(f"/v1/runs/{run}"))
        assert shown["expected_batch"] == {"size": 9000, "units": 60_000}
        assert "15 % of the units" in shown["warnings"][0]
    done = ok(steward.post(f"/v1/proposals/{approved}/approve"))
    assert done["expected_batch"] == {"size": 9000, "units": 60_000}
    ok(steward.post(f"/v1/proposals/{refused}/refuse", REASON))
    assert [result["error"] for result in check_journals(database)] == [None, None]
    lines = ledger.get("/v1/datasets/mnist/export").text.splitlines()
    assert verify(lines).journal.seq == independent_verifier.verify(lines)[0]


def test_a_steward_of_some_datasets_approves_what_waits_for_these(ledger: Ledger) -> None:
    """Goal: a key that is limited to datasets decides what waits for these, and learns the outcome; it decides nothing
    for a dataset that it does not see. Method: a run on a derived dataset, which waits for its origin."""
    ledger.register(costing="standalone")
    ok(ledger.post("/v1/datasets", {"name": "view", "derived_from": [{"name": "mnist", "unit_preserving": True}]}))
    ok(ledger.put("/v1/datasets/mnist/fair-use", {"waits_above_percent": 10, **REASON}))
    asker = ledger.as_("requester")
    run = asker.ask(LARGE, datasets=["view"], key="view").json()["run"]
    of_view = ledger.as_("steward", datasets=["view"])
    for call in ("approve", "refuse"):
        answer = of_view.post(f"/v1/proposals/{run}/{call}", REASON)
        assert (answer.json()["code"], "mnist" in answer.json()["detail"]) == ("forbidden", True)
    assert ok(asker.get(f"/v1/runs/{run}"))["state"] == "waiting"
    own = waits(asker, "own")
    done = ok(ledger.as_("steward", datasets=["mnist"]).post(f"/v1/proposals/{own}/approve", REASON))
    assert (done["id"], done["decision"]) == (own, "approved")
    of_both = ledger.as_("steward", datasets=["mnist", "view"])
    assert ok(of_both.post(f"/v1/proposals/{run}/approve", REASON))["decision"] == "approved"


def test_a_residual_run_waits_by_what_it_costs_beside_what_is_left(ledger: Ledger) -> None:
    """Goal: what is compared is what would be charged. Method: certified runs on a dataset with residual costs wait
    together and are approved one after another; each is charged what a plan of that moment says."""
    ledger.register(budget={"epsilon": 3, "at_delta": 1e-5})
    ok(ledger.put("/v1/datasets/mnist/fair-use", {"waits_above_percent": 1, **REASON}))
    asker, steward = ledger.as_("requester"), ledger.as_("steward")
    mechanism = {"type": "dpsgd", "noise_multiplier": 1.5, "sampling": "poisson", "sample_rate": 0.01, "steps": 2000}
    runs = [waits(asker, key, mechanism) for key in "abcdefgh"]
    decisions = []
    for run in runs:
        planned = ok(asker.post("/v1/plan", {"datasets": ["mnist"], "mechanism": mechanism}))
        done = ok(steward.post(f"/v1/proposals/{run}/approve", REASON))
        assert (done["decision"] == "approved") == planned["fits"]
        if planned["fits"]:
            assert done["cost"] == planned["cost"]
        decisions.append(done["decision"])
    assert decisions == sorted(decisions)
    assert {"approved", "refused"} == set(decisions)


def test_a_plan_states_that_a_run_would_wait(waiting: tuple[Ledger, Ledger, Ledger]) -> None:
    """Goal: whoever plans learns that an approval takes a steward. Method: plans at both sides of a tenth of the
    limit, of solved values and of what would fit; each is then asked for, and does what its plan states."""
    asker, _, _ = waiting

    def planned(mechanism: dict[str, Any], **more: Any) -> Any:
        return ok(asker.post("/v1/plan", {"datasets": ["mnist"], "mechanism": mechanism, **more}))

    at_most, above = ({"type": "gaussian", "noise_multiplier": noise} for noise in (3.1623, 3.1622))
    plans = [planned(mechanism) for mechanism in (at_most, above)]
    assert [(plan["fits"], plan["waits"], plan["waits_for"]) for plan in plans] == [
        (True, False, []),
        (True, True, ["mnist"]),
    ]
    solved = planned(LARGE, solve_for="noise_multiplier")["solution"]
    assert solved["waits"]
    waits(asker, "solved", {**LARGE, "noise_multiplier": solved["value"]})
    counted = [planned(mechanism, solve_for="runs")["solution"] for mechanism in (at_most, above)]
    assert [(one["value"] > 1, one["waits"]) for one in counted] == [(True, False), (True, True)]
    refused = planned({"type": "gaussian", "noise_multiplier": 0.5})
    assert (refused["fits"], refused["waits"], refused["would_wait"]) == (False, False, ["noise_multiplier"])
    waits(asker, "would-fit", {**LARGE, **refused["would_fit"]})
    waits(asker, "above", above)
    assert ok(asker.ask(at_most, key="at-most"))["state"] == "held"
    on_new = {"budget": {"mu": 1, "delta": 1e-6}, "mechanism": LARGE}
    assert ok(asker.post("/v1/plan", on_new))["waits"] is False


def test_a_plan_states_that_runs_declared_as_one_would_wait(ledger: Ledger) -> None:
    """Goal: "as one run" is no way past the steward. Method: small runs that do not wait, which as one do."""
    ledger.register(budget={"epsilon": 10, "at_delta": 1e-5}, bound="certified")
    ok(ledger.put("/v1/datasets/mnist/fair-use", {"waits_above_percent": 50, **REASON}))
    mechanism = {
        "type": "dpsgd",
        "noise_multiplier": 0.7,
        "sampling": "poisson",
        "sample_rate": 0.004266666666666667,
        "steps": 235,
    }
    body = {"datasets": ["mnist"], "mechanism": mechanism, "delta": 1e-9, "solve_for": "runs"}
    planned = ok(ledger.post("/v1/plan", body))
    assert (planned["waits"], planned["solution"]["waits"], planned["as_one"]["waits"]) == (False, False, True)
    one = {**mechanism, "steps": planned["as_one"]["value"]}
    assert ledger.ask(one, key="one", delta=1e-9).json()["code"] == "run-waits"


def _listed(by: Ledger, **filters: Any) -> list[str]:
    return [item["id"] for item in _pages(by, **filters)]


def _pages(by: Ledger, **filters: Any) -> list[dict[str, Any]]:
    """All pages of a list of runs."""
    items: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    for _ in range(100):
        page = ok(by.get("/v1/runs", **filters, **cursor))
        items += page["items"]
        if page["next"] is None:
            return items
        cursor = {"cursor": page["next"]}
    raise AssertionError("the list does not end")


def test_runs_that_wait_are_listed(waiting: tuple[Ledger, Ledger, Ledger], database: Settings) -> None:
    """Goal: a list of runs has those that wait, expired or were refused by a steward, each once and in its place, by
    every filter. Method: all kinds mixed, read in pages of one to five; each filter beside the runs that satisfy it."""
    asker, steward, admin = waiting
    named = {"purpose": "Yearly count", "labels": {"sweep": "7"}}
    held = ok(asker.ask(SMALL, key="small", **named))["id"]
    runs = [
        asker.ask(LARGE, key=f"large-{number}", **(named if number % 2 else {})).json()["run"] for number in range(5)
    ]
    second = ok(asker.ask(SMALL, key="small-2"))["id"]
    theirs = admin.ask(LARGE, key="theirs").json()["run"]
    approved = ok(steward.post(f"/v1/proposals/{runs[0]}/approve"))["id"]
    ok(steward.post(f"/v1/proposals/{runs[1]}/refuse", REASON))
    _expire(database, admin, runs[2])
    newest_first = [approved, theirs, second, runs[4], runs[3], runs[1], held, runs[2]]  # a day older
    for limit in range(1, 6):
        assert _listed(admin, limit=limit) == newest_first
    assert _listed(asker, limit=3) == newest_first
    assert [(item["state"], item["decision"]) for item in _pages(admin)] == [
        ("held", "approved"),
        ("waiting", "waiting"),
        ("held", "approved"),
        ("waiting", "waiting"),
        ("waiting", "waiting"),
        ("refused", "refused"),
        ("held", "approved"),
        ("expired", "refused"),
    ]
    waiting_now = [theirs, runs[4], runs[3]]
    for filters, found in (
        ({"state": "waiting"}, waiting_now),
        ({"state": "waiting", "limit": 1}, waiting_now),
        ({"state": "expired"}, [runs[2]]),
        ({"state": "refused"}, [runs[1]]),
        ({"state": "held"}, [approved, second, held]),
        ({"overdue": True}, []),
        ({"overdue": False, "state": "waiting"}, waiting_now),
        ({"purpose": "YEARLY"}, [runs[3], runs[1], held]),
        ({"purpose": "YEARLY", "limit": 1}, [runs[3], runs[1], held]),
        ({"label": "sweep=7", "state": "waiting"}, [runs[3]]),
        ({"label": "sweep=8"}, []),
        ({"mechanism": "gaussian", "state": "waiting"}, waiting_now),
        ({"mechanism": "laplace"}, []),
        ({"person": "admin"}, [theirs]),
        ({"person": ok(admin.get(f"/v1/runs/{theirs}"))["asked_by"]["principal"]}, [theirs]),
        ({"project": "planning"}, []),
        ({"dataset": "mnist", "state": "waiting"}, waiting_now),
        ({"since": "2100-01-01T00:00:00Z"}, []),
        ({"until": "2020-01-01T00:00:00Z"}, []),
        ({"since": "2020-01-01T00:00:00Z", "state": "waiting"}, waiting_now),
    ):
        assert _listed(admin, **filters) == found, filters
    assert _listed(asker, key="large-4") == [runs[4]]
    assert _listed(asker, key="large-0") == [approved]
    (item,) = _pages(asker, key="large-4")
    assert (item["percent"], item["cost"]["mu"]) == (25, 0.5)
    assert item.items() <= ok(asker.get(f"/v1/runs/{runs[4]}")).items()


def test_lists_find_what_waits_by_every_dataset_that_it_would_charge(ledger: Ledger) -> None:
    """Goal: a filter by a dataset finds what waits to be charged there, and a limited key lists its own alone.
    Method: a run on a derived dataset; keys limited to it, to its origin, and to both."""
    ledger.register(costing="standalone")
    ledger.register(name="other", costing="standalone")
    ok(ledger.post("/v1/datasets", {"name": "view", "derived_from": [{"name": "mnist", "unit_preserving": True}]}))
    ok(ledger.put("/v1/datasets/mnist/fair-use", {"waits_above_percent": 10, **REASON}))
    keys = [ledger.as_("requester", datasets=names) for names in (["view"], ["mnist"], ["mnist", "view"])]
    runs = [key.ask(LARGE, datasets=["view"], key="view").json().get("run") for key in keys]
    assert [run is not None for run in runs] == [True, False, True]
    of_both = [runs[2], runs[0]]
    assert [_listed(ledger, dataset=name) for name in ("view", "mnist", "other")] == [of_both, of_both, []]
    assert [_listed(key) for key in keys] == [[runs[0]], [], [runs[2]]]
    assert [_listed(keys[2], dataset=name) for name in ("view", "mnist")] == [[runs[2]], [runs[2]]]
    assert _pages(keys[0])[0]["percent"] is None
    assert _pages(keys[2])[0]["percent"] == 25


def test_a_page_of_what_waits_takes_a_fixed_number_of_statements(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: a page costs no more statements the more runs wait, and ends when it has looked at enough. Method: count
    those of a list of one and of twelve; a scan of three proposals a page."""
    ledger.register(costing="standalone")
    ok(ledger.put("/v1/datasets/mnist/fair-use", {"waits_above_percent": 10, **REASON}))
    runs: list[str] = []
    counts = []
    asker = ledger.as_("requester")
    for number in range(12):
        runs.insert(0, waits(asker, f"large-{number}"))
        sent = []
        for _ in range(3):  # the background sends statements of its own now and then
            with counted_statements() as statements:
                assert _listed(ledger, state="waiting") == runs
            sent.append(len(statements))
        counts.append(min(sent))
    assert set(counts) == {counts[0]}
    assert 1 < counts[0] < 15
    monkeypatch.setattr(proposals, "SCANNED_MAX", 3)
    assert _listed(ledger, state="waiting", purpose="nothing like it") == []
    assert _listed(ledger, state="waiting") == runs

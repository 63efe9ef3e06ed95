"""Fair use over HTTP: what one principal may hold, and how often it may ask."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text

from ledger.settings import Settings
from ledger.store import Store
from tests.kit.driver import RELEASE, Ledger, past_the_ledger
from tests.kit.parts import ONCE, approved, demand_in_order, derive, error, gaussian, held, kinds, parted, started

PATH = "/v1/datasets/mnist/fair-use"


WHOSE = "the fair-use share of mnist, which limits what one principal may hold at a time"


def test_what_one_principal_may_hold(ledger: Ledger, store: Store) -> None:
    """Goal: it binds each principal for itself, the admin too; settling and voiding give room again; the refusal says
    whose. Method: room for three releases each, in a budget of 25."""
    shown = ledger.register()
    assert shown["fair_use"] is None
    answer = ledger.put(PATH, {"held": {"mu": 0.3464101615137755}, "reason": "fair"})
    limits = {"held": {"mu": 0.3464101615137755}, "runs_per_hour": None, "waits_above_percent": None}
    assert answer.json()["fair_use"] == limits
    mine, theirs = ledger.as_("requester"), ledger.as_("requester")
    for who in (mine, theirs, ledger):
        runs = [approved(who, "mnist") for _ in range(3)]
        assert runs[2]["datasets"][0]["account"] == WHOSE
        answer = who.ask()
        assert f"does not fit in {WHOSE}" in answer.json()["detail"]
        assert "comes back when your own runs are settled or voided" in answer.json()["detail"]
        (item,) = answer.json()["datasets"]
        assert (item["name"], item["quantity"]) == ("mnist", "mu")
        assert item["principal"] == who.get(f"/v1/runs/{runs[0]['id']}").json()["asked_by"]["principal"]
        who.post(f"/v1/runs/{runs[0]['id']}/start")
        assert who.post(f"/v1/runs/{runs[0]['id']}/settle").status_code == 200
        who.post(f"/v1/runs/{runs[1]['id']}/void", {"reason": "r"})
        for _ in range(2):
            approved(who, "mnist")
        assert who.ask().status_code == 409
    assert (held(ledger, "mnist"), ledger.balance()["spent"][0]) == (9 * ONCE, 3 * ONCE)
    demand_in_order(ledger, store)


def test_a_lower_limit_refuses_nobody_in_retrospect(ledger: Ledger, store: Store) -> None:
    """Goal: what is held stays held, may be started and settled, and no more is approved until it has shrunk; taking
    the limit away lets all be used again. Method: two limits and none."""
    ledger.register()
    ledger.put(PATH, {"held": {"mu": 0.4}, "reason": "r"})
    runs = [approved(ledger, "mnist")["id"] for _ in range(4)]
    assert ledger.put(PATH, {"held": {"mu": 0.2}, "reason": "less"}).status_code == 200
    assert ledger.ask().status_code == 409
    for number, run in enumerate(runs):
        assert ledger.post(f"/v1/runs/{run}/start").status_code == 200
        assert ledger.post(f"/v1/runs/{run}/settle").status_code == 200
        assert ledger.ask(key=f"after-{number}").status_code == (201 if number == 3 else 409)
    cleared = ledger.put(PATH, {"held": None, "runs_per_hour": None, "reason": "enough"})
    assert cleared.json()["fair_use"] is None
    for _ in range(20):
        approved(ledger, "mnist")
    assert ledger.ask().status_code == 409
    demand_in_order(ledger, store)


def test_fair_use_holds_in_partitions_and_of_roots(ledger: Ledger, store: Store) -> None:
    """Goal: a run counts against the fair use of each dataset that it reaches, partition by partition."""
    parted(ledger, "a", "b")
    derive(ledger, "copy", "clicks")
    ledger.put("/v1/datasets/clicks/fair-use", {"held": {"mu": 0.2}, "reason": "r"})
    approved(ledger, {"name": "copy", "partitions": ["a"]})
    (item,) = ledger.ask(datasets=["copy"]).json()["datasets"]
    assert (item["name"], item["partition"], "principal" in item) == ("clicks", "a", True)
    run = started(ledger, {"name": "copy", "partitions": ["b"]})
    ledger.post(f"/v1/runs/{run}/settle", {"steps": 2})
    approved(ledger, {"name": "copy", "partitions": ["b"]})
    demand_in_order(ledger, store)


def test_runs_per_hour(ledger: Ledger, database: Settings) -> None:
    """Goal: decided runs count, refused ones too, of one principal, on what they name or reach; too many are 429 with
    Retry-After, leave no entry and bind no key; an hour later there is room. Method: the runs' time is moved in the
    database."""
    ledger.register()
    derive(ledger, "copy", "mnist")
    assert ledger.put(PATH, {"runs_per_hour": 3, "reason": "r"}).json()["fair_use"]["runs_per_hour"] == 3
    asked = [ledger.ask(datasets=["copy"]), ledger.ask(gaussian(0.1)), ledger.ask()]
    assert [answer.status_code for answer in asked] == [201, 409, 201]
    before = kinds(ledger, "mnist"), kinds(ledger, "copy")
    for dataset in ("mnist", "copy"):
        late = ledger.ask(datasets=[dataset], key=f"late-{dataset}")
        assert error(late)[:2] == (429, "rate-limited")
        assert 3590 <= int(late.headers["retry-after"]) <= 3601
        again_at = re.search("You can ask again at (.{19}Z)", late.json()["detail"])
        assert again_at is not None
        seconds = (datetime.fromisoformat(again_at[1]) - datetime.now(UTC)).total_seconds()
        assert 3500 <= seconds <= 3601
        assert (late.json()["dataset"], late.json()["runs_per_hour"]) == ("mnist", 3)
    assert ledger.ask(key="late-mnist", purpose="another body").status_code == 429
    items = [{**RELEASE, "idempotency_key": "in-a-batch"}]
    (result,) = ledger.post("/v1/runs/batch", {"runs": items}).json()["results"]
    assert (result["status"], result["problem"]["code"]) == (429, "rate-limited")
    assert (kinds(ledger, "mnist"), kinds(ledger, "copy")) == before
    assert ledger.as_("requester").ask().status_code == 201
    engine = past_the_ledger(database)
    with engine.execution_options(writing=True).begin() as connection:
        connection.execute(text("UPDATE places SET created_us = created_us - 3600000000"))
    engine.dispose()
    again = ledger.ask(key="late-mnist", purpose="another body")
    assert (again.status_code, again.headers.get("idempotent-replayed")) == (201, None)
    replayed = ledger.ask(key="late-mnist", purpose="another body")
    assert replayed.headers["idempotent-replayed"] == "true"


def test_a_repeated_key_is_not_limited(ledger: Ledger) -> None:
    """Goal: the same request gets its answer for ever, however many runs came since."""
    ledger.register()
    ledger.put(PATH, {"runs_per_hour": 1, "reason": "r"})
    first = ledger.ask(key="k")
    assert ledger.ask().status_code == 429
    assert ledger.ask(key="k").json() == first.json()


def test_who_may_set_it_and_how(ledger: Ledger) -> None:
    """Goal: a steward's call, with a reason. Method: other roles, and bodies that are wrong."""
    ledger.register()
    good: dict[str, Any] = {"held": {"mu": 0.2}, "runs_per_hour": 5, "reason": "r"}
    for role, status in (("steward", 200), ("requester", 403), ("auditor", 403)):
        assert ledger.as_(role).put(PATH, good).status_code == status
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"runs_per_hour": 0}, "runs_per_hour"),
        ({"runs_per_hour": 1.5}, "runs_per_hour"),
        ({"held": {"mu": -1}}, "held.mu"),
        ({"held": 1}, "held"),
        ({"reason": None}, "reason"),
    ]
    for change, field in wrong:
        assert error(ledger.put(PATH, {**good, **change})) == (422, "invalid-request", field), change
    assert kinds(ledger, "mnist") == ["dataset-registered", "fair-use-set"]

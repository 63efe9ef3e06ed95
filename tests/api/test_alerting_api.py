"""Alerts over HTTP and on the command line: what is listed, what is set, what is estimated, and who sees it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from ledger.operate.check import check_journals
from ledger.settings import Settings
from tests.kit.driver import MNIST, Ledger, Terminal, past_the_ledger
from tests.kit.scene import another_tenant, ok

HALF = {"type": "gaussian", "noise_multiplier": 1.4}
"""Takes a little more than half of mu 1."""
WEBHOOK = "https://hooks.example.org/services/a-secret?token=another"


@pytest.fixture
def hooked(database: Settings) -> Iterator[Ledger]:
    """A ledger whose operator allows a host, that nobody is at."""
    settings = database.model_copy(update={"webhook_hosts": ("hooks.example.org",), "watch_seconds": 3600})
    with Ledger.open(settings) as opened:
        yield opened


def told(ledger: Ledger, **filters: Any) -> list[tuple[str, str | None]]:
    """The kinds of alerts and their datasets, newest first."""
    items = ok(ledger.get("/v1/alerts", **filters))["items"]
    return [(item["kind"], item["event"].get("dataset", {}).get("name")) for item in items]


# --- listing ---------------------------------------------------------------------------------------------------------


def test_decisions_are_listed_with_what_they_raise(ledger: Ledger) -> None:
    """Goal: what happened can be read without any webhook. Method: half a budget, refusals, an overrun that freezes;
    each event names its entry, in which the same stands."""
    ledger.register()
    run = ok(ledger.ask(HALF))["id"]
    for _ in range(3):
        assert ledger.ask(HALF).status_code == 409
    ok(ledger.post(f"/v1/runs/{run}/start"))
    assert ledger.post(f"/v1/runs/{run}/settle", {"steps": 9}).json()["code"] == "overrun"
    items = ok(ledger.get("/v1/alerts"))["items"]
    by_kind = {item["kind"]: item["event"] for item in items}
    assert sorted(by_kind) == ["frozen", "overrun", "refusals", "threshold"]
    assert [item["event"]["percent"] for item in items if item["kind"] == "threshold"].count(50) == 1
    entries = {item["seq"]: item["entry"] for item in ok(ledger.get("/v1/datasets/mnist/entries"))["items"]}
    kinds = {"threshold": "run-approved", "refusals": "run-refused", "overrun": "run-reported"}
    kinds["frozen"] = "run-reported"
    for kind, event in by_kind.items():
        entry = entries[event["seq"]]
        assert (entry["kind"], entry["at"], entry["run"]) == (kinds[kind], event["at"], event["run"])
    assert {item["delivery"]["state"] for item in items} == {"none"}
    assert ledger.client.get("/metrics").text.count('ledger_alerts_total{kind="overrun"} 1.0') == 1


def test_pages_and_filters(ledger: Ledger) -> None:
    """Goal: a page at a time, newest first, each alert once; by kind, dataset and state. Method: two datasets; a cursor
    through all of it; what no filter allows is 400 or 404."""
    for name in ("a", "b"):
        ok(ledger.post("/v1/datasets", {**MNIST, "name": name}))
        ok(ledger.ask(HALF, datasets=[name]))
        ok(ledger.patch(f"/v1/datasets/{name}", {"state": "frozen", "reason": "r"}))
    whole = told(ledger)
    assert sorted(whole) == [("frozen", "a"), ("frozen", "b"), ("threshold", "a"), ("threshold", "b")]
    assert whole[0] == ("frozen", "b")
    paged, cursor = [], None
    while True:
        page = ok(ledger.get("/v1/alerts", limit=1, **({} if cursor is None else {"cursor": cursor})))
        paged += [(item["kind"], item["event"]["dataset"]["name"]) for item in page["items"]]
        if (cursor := page["next"]) is None:
            break
    assert paged == whole
    assert told(ledger, kind="frozen", dataset="a") == [("frozen", "a")]
    assert told(ledger, state="delivered") == []
    assert ledger.get("/v1/alerts", kind="nothing").status_code == 422
    assert ledger.get("/v1/alerts", dataset="c").status_code == 404


def test_who_sees_which_alerts(ledger: Ledger) -> None:
    """Goal: a limited key sees its datasets' alerts, another tenant none. Method: an alert of each of two datasets and
    one of none."""
    for name in ("a", "b"):
        ok(ledger.post("/v1/datasets", {**MNIST, "name": name}))
        ok(ledger.ask(HALF, datasets=[name]))
    ok(ledger.post("/v1/alerting/test"))
    limited = ledger.as_("auditor", datasets=["a"])
    assert len(told(ledger)) == 3
    assert told(limited) == told(limited, dataset="a") == [("threshold", "a")]
    assert limited.get("/v1/alerts", dataset="b").status_code == 404
    assert limited.get("/v1/datasets/b/forecast").status_code == 404
    other = another_tenant(ledger)
    assert told(other) == []
    assert other.get("/v1/alerts", dataset="a").status_code == 404


# --- setting ---------------------------------------------------------------------------------------------------------

DEFAULTS = {
    "thresholds": [50, 80, 90, 95, 100],
    "refusals_in_a_row": 3,
    "forecast_days": 30,
    "webhook": None,
    "heads": False,
}


def test_what_is_left_out_stays(hooked: Ledger, database: Settings) -> None:
    """Goal: a change changes what it names; it is in the tenant's own journal with its reason, and the row is what the
    journal says; the URL's secret is nowhere. Method: one change after another, and what can be read anywhere."""
    assert ok(hooked.get("/v1/alerting")) == DEFAULTS
    shown = {"host": "hooks.example.org", "sha256": hashlib.sha256(WEBHOOK.encode()).hexdigest()}
    changes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"thresholds": [75]}, {"thresholds": [75]}),
        ({"refusals_in_a_row": None, "forecast_days": 7}, {"refusals_in_a_row": None, "forecast_days": 7}),
        ({"webhook": WEBHOOK}, {"webhook": shown}),
        ({"heads": True}, {"heads": True}),
        ({"thresholds": []}, {"thresholds": []}),
        ({}, {}),
    ]
    now: dict[str, Any] = dict(DEFAULTS)
    for change, becomes in changes:
        now |= becomes
        assert ok(hooked.put("/v1/alerting", {**change, "reason": "because"})) == now
        assert ok(hooked.get("/v1/alerting")) == now
        assert [result["error"] for result in check_journals(database)] == [None]
    entry = ok(hooked.get("/v1/entries"))["items"][-1]["entry"]
    assert {name: entry[name] for name in DEFAULTS} == now
    assert (entry["kind"], entry["reason"]) == ("alerting-set", "because")
    for path in ("/v1/export", "/v1/entries", "/v1/alerting", "/v1/alerts"):
        assert "secret" not in hooked.get(path).text
    assert ok(hooked.put("/v1/alerting", {"webhook": None, "reason": "r"}))["webhook"] is None


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"webhook": "http://hooks.example.org/"}, "webhook"),
    ({"webhook": "https://elsewhere.example/"}, "webhook"),
    ({"webhook": ""}, "webhook"),
    ({"thresholds": [80, 50]}, "thresholds"),
    ({"thresholds": [50, 50]}, "thresholds"),
    ({"thresholds": [0]}, "thresholds.0"),
    ({"thresholds": [101]}, "thresholds.0"),
    ({"thresholds": None}, "thresholds"),
    ({"thresholds": list(range(1, 22))}, "thresholds"),
    ({"refusals_in_a_row": 0}, "refusals_in_a_row"),
    ({"refusals_in_a_row": 101}, "refusals_in_a_row"),
    ({"refusals_in_a_row": True}, "refusals_in_a_row"),
    ({"forecast_days": 0}, "forecast_days"),
    ({"forecast_days": 2.5}, "forecast_days"),
    ({"thresholds": [50], "reason": None}, "reason"),
    ({"forecast": 3}, "forecast"),
]


def test_what_cannot_be_set(hooked: Ledger) -> None:
    """Goal: an error names the field, and nothing changes. Method: each of them."""
    for change, field in WRONG:
        answer = hooked.put("/v1/alerting", {"reason": "r", **change})
        assert (answer.status_code, answer.json()["field"]) == (422, field), change
    assert ok(hooked.get("/v1/alerting")) == DEFAULTS


def test_without_allowed_hosts_there_are_no_webhooks(ledger: Ledger) -> None:
    """Goal: off unless the operator says otherwise. Method: set one where no host is allowed."""
    answer = ledger.put("/v1/alerting", {"webhook": WEBHOOK, "reason": "r"})
    assert (answer.status_code, "webhooks are off" in answer.json()["detail"]) == (422, True)
    assert ok(ledger.post("/v1/alerting/test"))["delivery"]["state"] == "none"


def test_alerting_that_the_journal_does_not_tell_of_is_found(ledger: Ledger, database: Settings) -> None:
    """Goal: who has the database cannot turn alerts off, or send them elsewhere, unseen. Method: rows that say another
    thing, before and after the journal says one."""
    silent = json.dumps({**DEFAULTS, "thresholds": [], "refusals_in_a_row": None, "forecast_days": None})
    engine = past_the_ledger(database)
    for _ in range(2):
        before = [result["error"] for result in check_journals(database)]
        with engine.execution_options(writing=True).begin() as connection:
            was = connection.execute(text("SELECT alerting FROM tenants")).scalar()
            connection.execute(text("UPDATE tenants SET alerting = :said"), {"said": silent})
        assert ["another alerting" in str(result["error"]) for result in check_journals(database)] == [True]
        with engine.execution_options(writing=True).begin() as connection:
            connection.execute(text("UPDATE tenants SET alerting = :said"), {"said": was})
        assert before == [None]
        ok(ledger.put("/v1/alerting", {"forecast_days": 9, "reason": "r"}))
    engine.dispose()


# --- the forecast ----------------------------------------------------------------------------------------------------


def test_a_forecast_counts_what_is_held_and_charged(ledger: Ledger) -> None:
    """Goal: a voided run does not count, a settled one with what it was charged, others with what they hold.

    Method: four runs of four steps; one voided, one that stopped after one step by a rule that does not look at data;
    what is spent is by the exact integers of their costs, and the days are the stated estimator's, by hand.
    """
    ledger.register(budget={"mu": 4})
    four = {"type": "gaussian", "noise_multiplier": 2, "count": 4}
    runs = [ok(ledger.ask(four))["id"] for _ in range(4)]
    ok(ledger.post(f"/v1/runs/{runs[0]}/void", {"reason": "r"}))
    ok(ledger.post(f"/v1/runs/{runs[1]}/start"))
    settled = ok(ledger.post(f"/v1/runs/{runs[1]}/settle", {"steps": 1, "stop": "data_independent"}))
    (account,) = ok(ledger.get("/v1/datasets/mnist/forecast"))["accounts"]
    cost = int(ok(ledger.get(f"/v1/runs/{runs[2]}"))["cost"]["mu_sq_pico"])
    charged = int(settled["charged"]["mu_sq_pico"])
    assert 0 < charged < cost
    spent, remaining = (int(account[part]["mu_sq_pico"]) for part in ("spent", "remaining"))
    assert spent == 2 * cost + charged
    assert remaining == 16 * 10**12 - spent
    assert (account["runs"], account["is_enough"], account["quantity"]) == (3, True, "mu")
    # All of it within a moment, which counts as a day.
    assert account["days_left"] == remaining // spent == 6


def test_a_forecast_tells_partitions_and_projects_apart(ledger: Ledger) -> None:
    """Goal: each account by itself, the first to end first; those that nothing was charged to do not end.

    Method: three runs on one partition, of a project with half the budget; none on the other.
    """
    ledger.register(partitions=["a", "b"])
    ok(ledger.put("/v1/datasets/mnist/projects/ranking", {"budget": {"mu": 0.8}}))
    for _ in range(3):
        ok(ledger.ask(datasets=[{"name": "mnist", "partitions": ["a"]}], project="ranking"))
    found = ok(ledger.get("/v1/datasets/mnist/forecast"))
    names = [(account["partition"], account["project"]) for account in found["accounts"]]
    assert names == [("a", "ranking"), ("a", None)]
    assert found["accounts"][0]["days_left"] < found["accounts"][1]["days_left"]
    assert (found["is_estimate"], found["accounts_count"], found["window_days"]) == (True, 2, 28)


def test_a_forecast_of_nothing(ledger: Ledger) -> None:
    """Goal: too little says so. Method: a new dataset, and one with no budget of its own."""
    ledger.register()
    ok(ledger.post("/v1/datasets", {"name": "copy", "derived_from": [{"name": "mnist", "unit_preserving": True}]}))
    (account,) = ok(ledger.get("/v1/datasets/mnist/forecast"))["accounts"]
    assert (account["is_enough"], account["lasts_until"], account["runs"]) == (False, None, 0)
    assert ok(ledger.get("/v1/datasets/copy/forecast"))["accounts"] == []
    assert ledger.get("/v1/datasets/nothing/forecast").status_code == 404


# --- the command line ------------------------------------------------------------------------------------------------


def test_a_terminal(terminal: Terminal) -> None:
    """Goal: a steward reads what happened, sets what is told of, and asks how long it lasts. Method: all commands."""
    assert "No alerts" in terminal("alerts").err
    terminal("dataset create mnist --mu 1 --bound clt")
    for _ in range(3):
        terminal("request mnist --type gaussian --noise-multiplier 2.2")
    listed = terminal("alerts --dataset mnist")
    assert re.search(r"threshold\s+mnist\s+50 % of the budget spent and held\s+not sent", listed.out)
    assert terminal("alerts --kind frozen --json").json == {"items": [], "more": False}
    terminal("dataset freeze mnist --reason 'under review'")
    assert "frozen: under review" in terminal("alerts --limit 1").out
    assert "only listed" in terminal("alerting test").out
    assert re.search(r"refusals in a row\s+3\s", terminal("alerting show").out)
    changed = terminal("alerting set --threshold 75 --threshold 60 --forecast-days 0 --reason quiet --json").json
    assert changed == {**DEFAULTS, "thresholds": [60, 75], "forecast_days": None}
    assert terminal("alerting set --threshold 0 --reason quiet --json").json["thresholds"] == []
    refused = terminal("alerting set --webhook https://hooks.example.org/ --reason r")
    assert (refused.status, "webhooks are off" in refused.err) == (2, True)
    assert terminal("alerting set --webhook https://a.example/ --no-webhook --reason r").status == 2
    assert "never" in terminal("alerting show").out
    said = terminal("forecast mnist").out
    assert "An estimate" in said
    assert re.search(r"the dataset\s+3\s+\d\S*\s+\d\S*\s+0\.\d+\s+0\.\d+\s+20\d\d-", said)
    assert terminal("forecast mnist --json").json["accounts"][0]["runs"] == 3
    assert terminal("forecast nothing").status == 5

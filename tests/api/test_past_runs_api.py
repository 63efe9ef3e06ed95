"""Past runs over HTTP: a preview, what is charged and kept, and what everything that shows a run tells of them."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, Final

import jsonschema
import pytest

from ledger.recompute.work import recompute
from ledger.settings import Settings
from tests.api.test_corrections_api import demand_consistent, gaussian, mu_sq
from tests.kit.driver import Ledger

SCHEMA: Final = json.loads(resources.files("ledger").joinpath("report/schema.json").read_text())
PATH: Final = "/v1/datasets/mnist/past-runs"
DPSGD: Final = {
    "type": "dpsgd",
    "sampling": "poisson",
    "noise_multiplier": 1.1,
    "sample_rate": 0.004,
    "steps": 500,
}


def past(*runs: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A request to enter past runs."""
    return {"runs": list(runs), "reason": "the team's notes", "idempotency_key": "notes", **more}


def test_a_preview_is_what_is_entered_and_the_same_again_is_free(ledger: Ledger, database: Settings) -> None:
    """Goal: a preview shows what each run costs and what is left, and records nothing; entering charges that, once,
    however often it is sent; more runs with the same key add only those. Method: by hand, in mu squared."""
    ledger.register(bound="clt", budget={"mu": 1, "delta": 1e-6})
    first = {"mechanism": gaussian(5), "purpose": "a table", "ran_at": "2025-03-01", "library": "numpy"}
    second = {"mechanism": {"type": "gdp", "mu": 0.1, "delta": 1e-8, "evidence": "a paper"}}
    preview = ledger.post(PATH, past(first, second, preview=True)).json()
    assert (preview["preview"], [run["id"] for run in preview["runs"]]) == (True, [None, None])
    assert [run["cost"]["mu"] ** 2 for run in preview["runs"]] == pytest.approx([0.04, 0.01])
    assert [run["percent"] for run in preview["runs"]] == pytest.approx([4, 1], abs=0.01)
    assert preview["cost"]["mu"] ** 2 == pytest.approx(0.05)
    (left,) = preview["datasets"]
    assert (left["remaining"]["mu"], left["after"]["mu"] ** 2) == pytest.approx((1, 0.95))
    assert mu_sq(ledger) == 0
    assert ledger.get("/v1/runs").json()["items"] == []
    entered = ledger.post(PATH, past(first, second)).json()
    assert {**entered["runs"][0], "id": None} == preview["runs"][0]
    assert (entered["preview"], entered["datasets"]) == (False, preview["datasets"])
    assert mu_sq(ledger) == pytest.approx(0.05)
    again = ledger.post(PATH, past(first, second)).json()
    assert [run["replayed"] for run in again["runs"]] == [True, True]
    assert [run["id"] for run in again["runs"]] == [run["id"] for run in entered["runs"]]
    assert (again["cost"]["mu"], again["cost"]["delta"]) == (0, 0)
    more = ledger.post(PATH, past(first, second, first, preview=True)).json()
    assert [run["replayed"] for run in more["runs"]] == [True, True, False]
    other = ledger.post(PATH, past(second, first))
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    assert mu_sq(ledger) == pytest.approx(0.05)
    demand_consistent(ledger, database)


def test_it_is_shown_as_declared_wherever_runs_are(ledger: Ledger, database: Settings) -> None:
    """Goal: nobody takes a past run for one that the ledger observed. Method: the run, the list, the history, spending,
    the balance, the report in each form; no receipt and no attestation."""
    ledger.register(bound="clt", budget={"mu": 1, "delta": 1e-6})
    stated = {"mechanism": gaussian(5), "purpose": "a table", "version": "2.1", "evidence": {"log": "s3://x"}}
    (entered,) = ledger.post(PATH, past(stated)).json()["runs"]
    assert (entered["declared"], entered["fits"]) == ("not observed", True)
    shown = ledger.get(f"/v1/runs/{entered['id']}").json()
    assert (shown["state"], shown["decision"], shown["asked_by"]["role"]) == ("settled", "entered", "admin")
    assert shown["request"]["past"] == {"reason": "the team's notes", "version": "2.1", "evidence": {"log": "s3://x"}}
    assert shown["percent_charged"] == pytest.approx(4, abs=0.01)
    (listed,) = ledger.get("/v1/runs", dataset="mnist", state="settled", purpose="table").json()["items"]
    assert (listed["id"], listed["decision"]) == (entered["id"], "entered")
    (change,) = [
        one for one in ledger.get("/v1/datasets/mnist/history").json()["items"] if one["kind"] == "run-entered"
    ]
    assert "entered (declared, not observed): charged mu 0.2" in change["what"]
    (group,) = ledger.get("/v1/datasets/mnist/spending", by="person").json()["groups"]
    assert group["runs"] == 1
    report = ledger.get("/v1/datasets/mnist/report").json()
    jsonschema.validate(report, SCHEMA)
    totals = report["datasets"][0]["totals"]
    assert (totals["entered"], totals["approved"], totals["settled"], totals["runs"]) == (1, 0, 0, 1)
    assert report["runs"][0]["state"] == "entered"
    assert report["runs"][0]["charged"]["mu"] == pytest.approx(0.2)
    html = ledger.get("/v1/datasets/mnist/report", format="html").text
    assert "1 past runs entered, declared and not observed" in html
    for call in ("receipt", "attestation"):
        assert ledger.get(f"/v1/runs/{entered['id']}/{call}").json()["code"] == "run-state"
    assert "did not observe it" in ledger.get(f"/v1/runs/{entered['id']}/attestation").json()["detail"]
    demand_consistent(ledger, database)


def test_more_than_fits_is_charged_and_freezes(ledger: Ledger, database: Settings) -> None:
    """Goal: what was spent is never refused. Method: more than the budget, previewed and entered; then more, while it
    is frozen."""
    ledger.register(bound="clt", budget={"mu": 1, "delta": 1e-6})
    preview = ledger.post(PATH, past({"mechanism": gaussian(0.5)}, preview=True)).json()
    assert (preview["frozen"], preview["runs"][0]["fits"]) == (["mnist"], False)
    assert ledger.get("/v1/datasets/mnist").json()["state"] == "active"
    entered = ledger.post(PATH, past({"mechanism": gaussian(0.5)})).json()
    assert (entered["frozen"], entered["datasets"][0]["percent_left"]) == (["mnist"], 0)
    assert ledger.get("/v1/datasets/mnist").json()["state"] == "frozen"
    assert ledger.post(PATH, past({"mechanism": gaussian(5)}, idempotency_key="more")).status_code == 200
    assert mu_sq(ledger) == pytest.approx(4.04)
    refused = ledger.ask(gaussian(9), key="k", datasets=["mnist"])
    assert refused.json()["code"] == "dataset-frozen"
    demand_consistent(ledger, database)


def test_a_certificate_uses_the_share_that_was_fixed(ledger: Ledger, database: Settings) -> None:
    """Goal: nobody chooses the delta of what was executed before. Method: a training run on a certified dataset after
    its budget was raised: a hundredth of the delta of its registration."""
    ledger.register(bound="certified", budget={"mu": 1, "delta": 1e-6})
    ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 1, "delta": 1e-5}, "reason": "more"})
    (entered,) = ledger.post(PATH, past({"mechanism": DPSGD})).json()["runs"]
    assert entered["cost"]["delta"] == pytest.approx(1e-8, rel=1e-3)
    assert 0 < entered["cost"]["mu"] < 1
    recomputed = recompute(ledger.get("/v1/datasets/mnist/export").text.splitlines())
    assert (recomputed.is_as_recorded, recomputed.counts["exact"] + recomputed.counts["within"]) == (True, 1)
    assert [opinion.runs for opinion in recomputed.opinions or ()] == [1]
    demand_consistent(ledger, database)


def test_it_is_corrected_as_any_run(ledger: Ledger, database: Settings) -> None:
    """Goal: upwards by one person, downwards by two. Method: both, of one past run."""
    ledger.register(bound="clt", budget={"mu": 1, "delta": 1e-6})
    (entered,) = ledger.post(PATH, past({"mechanism": gaussian(5)})).json()["runs"]
    path = f"/v1/runs/{entered['id']}/correction"
    body = {"reason": "the log", "decided_by_output": False}
    assert ledger.post(path, {**body, "mechanism": gaussian(4)}).json()["charged"]["mu"] ** 2 == pytest.approx(1 / 16)
    lower = ledger.post(path, {**body, "mechanism": gaussian(8), "on_word_of": "Ada"})
    assert lower.status_code == 202
    assert mu_sq(ledger) == pytest.approx(1 / 16)
    approve = f"/v1/proposals/{lower.json()['proposal']['id']}/approve"
    assert ledger.post(approve).status_code == 403
    assert ledger.as_("steward").post(approve, {"reason": "seen"}).is_success
    assert mu_sq(ledger) == pytest.approx(1 / 64)
    demand_consistent(ledger, database)


def test_all_or_none_and_each_mistake_names_its_run(ledger: Ledger) -> None:
    """Goal: one wrong run keeps all out. Method: mistakes of form and of what the mechanism is on this dataset."""
    ledger.register(bound="clt", budget={"mu": 1, "delta": 1e-6})
    good = {"mechanism": gaussian(5)}
    for wrong, field in (
        ({"mechanism": {"type": "gaussian", "noise_multiplier": -1}}, "runs.1.mechanism.noise_multiplier"),
        ({"mechanism": gaussian(5), "partitions": ["a"]}, None),
        ({"mechanism": gaussian(5), "ran_at": "yesterday"}, "runs.1.ran_at"),
        ({"mechanism": gaussian(5), "evidence": {"log": "x" * 5000}}, "runs.1"),
        ({"mechanism": gaussian(5), "cost": 1}, "runs.1.cost"),
    ):
        answer = ledger.post(PATH, past(good, wrong))
        assert answer.status_code in (404, 422), answer.text
        assert field is None or answer.json()["field"] == field, answer.text
    assert mu_sq(ledger) == 0
    for role in ("requester", "auditor"):
        assert ledger.as_(role).post(PATH, past(good)).status_code == 403
    assert ledger.post("/v1/datasets/other/past-runs", past(good)).status_code == 404


def test_origins_and_partitions_are_charged(ledger: Ledger, database: Settings) -> None:
    """Goal: a past run on a derived dataset charges what it is derived from; of a partitioned one those named. Method:
    the balances."""
    ledger.register(bound="clt", budget={"mu": 1, "delta": 1e-6}, partitions=["a", "b"])
    made = ledger.post("/v1/datasets", {"name": "part", "derived_from": [{"name": "mnist", "unit_preserving": True}]})
    assert made.is_success, made.text
    one = ledger.post(PATH, past({"mechanism": gaussian(5), "partitions": ["a"]}))
    assert one.is_success, one.text
    both = ledger.post("/v1/datasets/part/past-runs", past({"mechanism": gaussian(10)}, idempotency_key="k"))
    assert both.is_success, both.text
    spent = {
        part["name"]: part["balance"]["spent"]["mu"] ** 2
        for part in ledger.get("/v1/datasets/mnist/partitions").json()["items"]
    }
    assert spent == pytest.approx({"a": 0.05, "b": 0.01})
    for name in ("mnist", "part"):
        demand_consistent(ledger, database, name)

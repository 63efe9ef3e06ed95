"""Plans of several runs at once: what fits in which order, and what is left."""

from __future__ import annotations

from tests.kit.driver import Ledger
from tests.kit.scene import REASON, ok

SMALL = {"datasets": ["mnist"], "mechanism": {"type": "gaussian", "noise_multiplier": 5}}
LARGE = {"datasets": ["mnist"], "mechanism": {"type": "gaussian", "noise_multiplier": 1.25}}
"""0.04 and 0.64 of a limit of mu 1, in mu²."""


def test_a_plan_of_several_runs_is_what_asking_for_them_does(ledger: Ledger) -> None:
    """Goal: a plan says what asking in this order would do, records nothing, and names an order in which more fit.
    Method: a large run before small ones and a second large one; then the same runs are asked for."""
    ledger.register(costing="standalone")
    before = ledger.balance(), ok(ledger.get("/v1/datasets/mnist"))["seq"]
    runs = [LARGE, LARGE, *[SMALL] * 10]
    planned = ok(ledger.post("/v1/plan/runs", {"runs": runs}))
    assert (ledger.balance(), ok(ledger.get("/v1/datasets/mnist"))["seq"]) == before
    assert planned["runs"][1]["code"] == "budget-exceeded"
    assert planned["datasets"][0]["remaining"]["mu"] == 1
    asked = [ledger.post("/v1/runs", run, Idempotency_Key=f"k{index}").status_code for index, run in enumerate(runs)]
    assert [run["fits"] for run in planned["runs"]] == [status == 201 for status in asked]
    assert planned["fitting"] == 10
    assert planned["datasets"][0]["after"]["mu_sq_pico"] == str(10**12 - ledger.balance()["held"][0])
    assert planned["datasets"][0]["percent_left"] == 0


def test_the_cheapest_first_may_fit_more(ledger: Ledger) -> None:
    """Goal: `order` is one that holds. Method: runs of 0.64, 0.64 and four of 0.16; in the order given three fit, and
    the cheapest first four; planned in that order, all of them fit."""
    ledger.register(costing="standalone")
    quarter = {**SMALL, "mechanism": {"type": "gaussian", "noise_multiplier": 2.5}}
    runs = [LARGE, LARGE, *[quarter] * 4]
    planned = ok(ledger.post("/v1/plan/runs", {"runs": runs}))
    assert (planned["fitting"], planned["order"]) == (3, [2, 3, 4, 5])
    ordered = ok(ledger.post("/v1/plan/runs", {"runs": [runs[index] for index in planned["order"]]}))
    assert (ordered["fitting"], ordered["order"]) == (4, None)


def test_a_plan_names_what_waits_and_what_cannot_be_asked_for(ledger: Ledger) -> None:
    """Goal: each run has its own outcome. Method: one that waits for a steward, one of a dataset that there is not, a
    frozen one; and too many."""
    ledger.register(costing="standalone")
    ledger.register(name="cold", costing="standalone")
    ok(ledger.put("/v1/datasets/mnist/fair-use", {"waits_above_percent": 10, **REASON}))
    ok(ledger.patch("/v1/datasets/cold", {"state": "frozen", **REASON}))
    runs = [LARGE, {**SMALL, "datasets": ["gone"]}, {**SMALL, "datasets": ["cold"]}, SMALL]
    planned = ok(ledger.post("/v1/plan/runs", {"runs": runs}))
    assert [run["code"] for run in planned["runs"]] == ["run-waits", "not-found", "dataset-frozen", None]
    assert planned["runs"][0]["waits"]
    assert ok(ledger.get("/v1/proposals"))["items"] == []
    assert ledger.post("/v1/plan/runs", {"runs": [SMALL] * 1001}).status_code == 422

"""Costs beside what is left, over HTTP: many small runs fit, the answers say so, and the journal verifies."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import update

from ledger.accounting import costs, gdp, mechanisms
from ledger.accounting.terms import Terms
from ledger.alerting.least import LeastLimits
from ledger.cli import recomputing, show
from ledger.client.errors import of_response
from ledger.core.amounts import Amount
from ledger.operate.check import check_journals
from ledger.recompute import LeastLimit, recompute
from ledger.settings import Settings
from ledger.store.tables import datasets
from ledger.verifier import verify
from tests.kit.driver import Ledger, past_the_ledger
from tests.kit.scene import ok

ROUND = {
    "type": "dpsgd",
    "noise_multiplier": 0.7,
    "sampling": "poisson",
    "sample_rate": 0.004266666666666667,
    "steps": 235,
}
EIGHT = {"epsilon": 8, "at_delta": 1e-5}


def register(ledger: Ledger, name: str, **rest: Any) -> None:
    """A certified dataset of (8, 1e-5)."""
    body = {"name": name, "privacy_unit": "record", "adjacency": "add_or_remove_one", "budget": EIGHT, **rest}
    assert ledger.post("/v1/datasets", body).status_code == 201


def test_forty_five_rounds_fit(ledger: Ledger) -> None:
    """Goal: 45 rounds that all fit together are approved one by one, of which each alone would take 12 % of the budget,
    and standalone costs admit 8. Method: T2-21 of the reports; both ways of costing; the journal replays."""
    register(ledger, "rounds")
    register(ledger, "alone", costing="standalone")
    answers = [ledger.ask(datasets=["rounds"], mechanism=ROUND) for _ in range(45)]
    assert {answer.status_code for answer in answers} == {201}
    first, last = answers[0].json(), answers[-1].json()
    assert float(first["alone"]["mu_sq_pico"]) > 7 * float(first["cost"]["mu_sq_pico"])
    assert 0.30e12 < float(first["alone"]["mu_sq_pico"]) < 0.37e12
    assert float(last["cost"]["mu_sq_pico"]) > float(first["cost"]["mu_sq_pico"])
    counted = [ledger.ask(datasets=["alone"], mechanism=ROUND).status_code for _ in range(9)]
    assert counted == [201] * 8 + [409]
    longest = [
        max(map(len, ledger.get(f"/v1/datasets/{name}/export").text.splitlines()[1:-1])) for name in ("rounds", "alone")
    ]
    assert longest[0] <= longest[1] + 300


def test_the_least_limit_of_forty_five_rounds_is_shown(
    ledger: Ledger, database: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    """Goal: an indication of what was released is shown to the reader of a dataset, well below the limit, an auditor
    computes the same from an export, and `check` finds another one. Method: 45 rounds, of which some are voided; the
    background's own step; a row that is changed behind the ledger's back."""
    register(ledger, "rounds")
    answers = [ledger.ask(datasets=["rounds"], mechanism=ROUND) for _ in range(45)]
    for answer in answers[::9]:
        body = {"reason": "not needed", "data_independent": True}
        assert ledger.post(f"/v1/runs/{answer.json()['id']}/void", body).status_code == 200
    assert ledger.get("/v1/datasets/rounds").json()["least_limit"] is None
    look(ledger)
    shown = ledger.get("/v1/datasets/rounds").json()
    least, balance = shown["least_limit"], shown["balance"]
    assert least["seq"] == shown["seq"]
    held, limit = int(balance["held"]["mu_sq_pico"]), int(balance["limit"]["mu_sq_pico"])
    assert held < int(least["amount"]["mu_sq_pico"]) < 0.9 * limit
    (at_delta,) = least["epsilon"]
    assert at_delta["delta"] == 1e-5
    assert 7 < at_delta["epsilon"] < 7.5
    exported = ledger.get("/v1/datasets/rounds/export").text.splitlines(keepends=True)
    verified = verify.verify(exported)
    assert isinstance(verified, verify.Verified)
    computed = verified.journal.least_limit
    assert computed == Amount(int(least["amount"]["mu_sq_pico"]), int(least["amount"]["delta_atto"]))
    recomputed = recompute(exported, with_exact=False, with_opinion=False)
    assert recomputed.least_limit == LeastLimit(computed, ((1e-5, at_delta["epsilon"]),))
    assert least_in_a_terminal(capfd, lambda: show.datasets.dataset(shown)) == "epsilon 7.4085 at delta 1e-05"
    assert least_in_a_terminal(capfd, lambda: show.evidence.verified(verified, is_vouched=True)) == "mu 1.5602"
    assert least_in_a_terminal(capfd, lambda: recomputing.show_result(recomputed)) == "epsilon 7.4085 at delta 1e-05"
    assert recomputing.facts(recomputed)["least_limit"]["epsilon"] == least["epsilon"]
    assert show.evidence.verified_facts(verified, is_vouched=True)["least_limit"] == computed.facts()
    assert [result["error"] for result in check_journals(database)] == [None, None]
    engine = past_the_ledger(database)
    with engine.begin() as connection:
        connection.execute(update(datasets).values(least_mu_sq_pico=datasets.c.least_mu_sq_pico - 1))
    engine.dispose()
    errors = [result["error"] for result in check_journals(database) if result["dataset"] == "rounds"]
    assert errors == [f"entry {least['seq']}: leaves another least limit than the dataset's row has"]


def test_a_batch_is_costed_at_one_level_and_gives_back_in_any_order(ledger: Ledger) -> None:
    """Goal: an atomic batch is charged at one level beside what is left after all of it, and each of its runs gives
    back in any order; asked for each on its own the first ones would keep their charge. Method: 30 rounds that use most
    of a budget, voided from the first to the last; the journal verifies."""
    for name, is_atomic in (("apart", False), ("whole", True)):
        register(ledger, name)
        runs = [{"idempotency_key": f"{name}-{number}", "datasets": [name], "mechanism": ROUND} for number in range(30)]
        results = ok(ledger.post("/v1/runs/batch", {"runs": runs, "atomic": is_atomic}))["results"]
        costs = {result["run"]["cost"]["mu_sq_pico"] for result in results}
        assert (len(costs) == 1) == is_atomic
        voids = [ok(ledger.post(f"/v1/runs/{result['run']['id']}/void", {"reason": "r"})) for result in results]
        assert any("kept" in void for void in voids) != is_atomic
        exported = ledger.get(f"/v1/datasets/{name}/export").text.splitlines(keepends=True)
        assert isinstance(verify.verify(exported), verify.Verified)


def test_as_many_as_fit_give_back_in_any_order(ledger: Ledger) -> None:
    """Goal: as many rounds as fit at one level are approved and give all back in any order; the plan and all or none
    name the same number; the same request approves no more, although others fit by themselves. Method: 100 rounds, a
    plan, all or none, as many as fit, the same once more, voids from the first to the last; the journal verifies."""
    register(ledger, "many")
    bodies = [{"datasets": ["many"], "mechanism": ROUND} for _ in range(100)]
    runs = [{**body, "idempotency_key": f"trial-{number}"} for number, body in enumerate(bodies)]
    planned = ok(ledger.post("/v1/plan/runs", {"runs": bodies, "as_many_as_fit": True}))
    refused = ledger.post("/v1/runs/batch", {"runs": runs, "atomic": True}).json()
    first = ok(ledger.post("/v1/runs/batch", {"runs": runs, "as_many_as_fit": True}))
    approved = [result["run"] for result in first["results"] if result["status"] == 201]
    assert first["approved"] == len(approved) == refused["fitting"] == planned["fitting"]
    assert [result["status"] for result in first["results"]] == [201] * len(approved) + [409] * (100 - len(approved))
    assert [run["fits"] for run in planned["runs"]] == [result["status"] == 201 for result in first["results"]]
    assert {run["code"] for run in planned["runs"]} == {None, "batch-refused"}
    assert len({run["cost"]["mu_sq_pico"] for run in approved}) == 1
    again = ok(ledger.post("/v1/runs/batch", {"runs": runs, "as_many_as_fit": True}))
    assert [result["replayed"] for result in again["results"]] == [
        result["status"] == 201 for result in again["results"]
    ]
    assert [result.get("run") for result in again["results"]] == [result.get("run") for result in first["results"]]
    assert {result["problem"]["code"] for result in again["results"][len(approved) :]} == {"batch-refused"}
    # At one level fewer fit than one after another: that is what giving back in any order costs.
    assert 25 < len(approved) < 50
    voids = [ok(ledger.post(f"/v1/runs/{run['id']}/void", {"reason": "r"})) for run in approved]
    assert not any("kept" in void for void in voids)
    exported = ledger.get("/v1/datasets/many/export").text.splitlines(keepends=True)
    assert isinstance(verify.verify(exported), verify.Verified)


def test_a_hundred_and_one_runs_do_not_run_out_of_delta(ledger: Ledger) -> None:
    """Goal: a dataset does not end after a hundred runs by its delta. Method: T2-22 of the reports."""
    register(ledger, "daily", budget={"epsilon": 3, "at_delta": 1e-5})
    daily = {"type": "dpsgd", "noise_multiplier": 1.1, "sampling": "poisson", "sample_rate": 0.004, "steps": 15}
    answers = [ledger.ask(datasets=["daily"], mechanism=daily) for _ in range(101)]
    assert {answer.status_code for answer in answers} == {201}
    left = ledger.get("/v1/datasets/daily").json()["balance"]["remaining"]
    assert float(left["delta"]) > 0


def test_a_plan_is_what_asking_comes_to(ledger: Ledger) -> None:
    """Goal: a plan names the cost beside what is left, and how many such runs fit. Method: ask as
    often as that, and once more."""
    register(ledger, "rounds")
    planned = ledger.post("/v1/plan", {"datasets": ["rounds"], "mechanism": ROUND, "solve_for": "runs"}).json()
    first = ledger.ask(datasets=["rounds"], mechanism=ROUND).json()
    for name in ("cost", "alone", "shares"):
        assert planned[name] == first[name], name
    most = planned["solution"]["value"]
    answers = [ledger.ask(datasets=["rounds"], mechanism=ROUND) for _ in range(most)]
    assert [answer.status_code for answer in answers] == [201] * (most - 1) + [409]
    refused = answers[-1].json()
    assert refused["code"] == "budget-exceeded"
    assert refused["datasets"][0]["requested"] > refused["datasets"][0]["remaining"]
    one = refused["as_one"]
    assert (one["runs"], one["solve_for"], one["value"]) == (most + 1, "steps", (most + 1) * 235)
    held = ok(ledger.get("/v1/datasets/rounds"))["balance"]["held"]
    assert one["charged"]["mu_sq_pico"] == held["mu_sq_pico"]
    alone = mechanisms.parse({**ROUND, "steps": one["value"]})
    terms = Terms(bound="certified", adjacency="add_or_remove_one", delta=Decimal(str(refused["delta"])))
    assert int(one["cost"]["mu_sq_pico"]) == costs.cost(alone, terms).amount.mu_sq_pico
    assert int(one["cost"]["mu_sq_pico"]) < int(one["charged"]["mu_sq_pico"])
    error = of_response(httpx.Response(409, content=answers[-1].content), url="")
    assert f"{most} equal runs before it" in str(error)
    limit = int(ok(ledger.get("/v1/datasets/rounds"))["balance"]["limit"]["mu_sq_pico"])
    for part, name in (("percent", "cost"), ("percent_charged", "charged")):
        exact = Fraction(100 * int(one[name]["mu_sq_pico"]), limit)
        assert exact <= Fraction(one[part]) <= exact * Fraction(1001, 1000)
        assert f"{one[part]:.4g} % of the budget, mu" in str(error)
    assert [shown["delta"] for shown in one["epsilon"]] == [1e-5]
    exact_cost = int(one["cost"]["mu_sq_pico"]), int(one["cost"]["delta_atto"])
    alone_at = gdp.epsilon(mu=math.sqrt(exact_cost[0]) / 1e6, delta=exact_cost[1] / 1e18, at_delta=1e-5)
    assert one["epsilon"][0]["value"] == pytest.approx(alone_at, rel=1e-4)
    assert planned["as_one"]["percent"] < 100


@pytest.mark.parametrize("delta", [None, 1e-8])
def test_what_a_refusal_suggests_is_approved(ledger: Ledger, delta: float | None) -> None:
    """Goal: a refusal, and a plan, name what is approved next, at the share of delta that it then takes, and one step
    more is not. Method: rounds that leave a third; then far too many steps; the steps that are named, and one more."""
    register(ledger, "rounds")
    named: dict[str, Any] = {} if delta is None else {"delta": delta}
    for _ in range(36):
        assert ledger.ask(datasets=["rounds"], mechanism=ROUND, **named).status_code == 201
    long = {**ROUND, "steps": 30_000}
    refused = ledger.ask(datasets=["rounds"], mechanism=long, **named).json()
    steps = refused["fits"]["steps"]
    planned = ok(ledger.post("/v1/plan", {"datasets": ["rounds"], "mechanism": long, **named}))
    assert planned["would_fit"] == refused["fits"]
    answers = [
        ledger.ask(datasets=["rounds"], mechanism={**ROUND, "steps": count}, **named) for count in (steps + 1, steps)
    ]
    assert [answer.status_code for answer in answers] == [409, 201]


def test_a_plan_does_not_show_the_share_of_a_hidden_budget(ledger: Ledger) -> None:
    """Goal: a key that is limited to a derived dataset does not learn the budget of its original from a plan. Method:
    the same plan by two keys."""
    register(ledger, "original")
    ok(ledger.post("/v1/datasets", {"name": "copy", "derived_from": [{"name": "original", "unit_preserving": True}]}))
    hired = ledger.as_("requester", datasets=["copy"])
    body = {"datasets": ["copy"], "mechanism": ROUND}
    plans = [ok(by.post("/v1/plan", body)) for by in (ledger, hired)]
    assert ["shares" in plan for plan in plans] == [True, False]
    assert plans[0]["alone"] == plans[1]["alone"]


def test_what_later_runs_rest_on_is_kept(ledger: Ledger) -> None:
    """Goal: of a dataset that is nearly used up, a void without a statement gives nothing back and says for which
    dataset; with it everything; and so for an early stop. Method: runs until the first refusal; then recompute the
    export, verify it, and compare the rows with the journal."""
    register(ledger, "busy")
    runs: list[dict[str, Any]] = []
    while (answer := ledger.ask(datasets=["busy"], mechanism=ROUND)).status_code == 201:
        runs.append(answer.json())
    assert answer.status_code == 409
    for run in runs[:2]:
        assert ledger.post(f"/v1/runs/{run['id']}/start").status_code == 200
    kept = ledger.post(f"/v1/runs/{runs[2]['id']}/void", {"reason": "a crash"}).json()
    assert (kept["returned"]["mu_sq_pico"], kept["kept"], kept["kept_for"]) == ("0", runs[2]["cost"], ["busy"])
    body = {"reason": "the queue was deleted", "data_independent": True}
    given = ledger.post(f"/v1/runs/{runs[3]['id']}/void", body).json()
    assert (given["returned"], "kept" in given) == (runs[3]["cost"], False)
    stopped = ledger.post(f"/v1/runs/{runs[0]['id']}/settle", {"steps": 100, "stop": "data_independent"}).json()
    charged, cost = (int(amount["mu_sq_pico"]) for amount in (stopped["charged"], runs[0]["cost"]))
    assert cost / 4 < charged < cost / 2
    whole = ledger.post(f"/v1/runs/{runs[1]['id']}/settle", {"steps": 100, "stop": "data_dependent"}).json()
    assert whole["charged"] == runs[1]["cost"]
    demand_right(ledger, "busy")


def test_an_ordinary_overrun_fits_in_the_reserve(ledger: Ledger, database: Settings) -> None:
    """Goal: four steps more of a run fit, at little cost, because each approval behind it left a reserve; four whole
    plans more do not, and freeze the dataset. Method: thirty runs, two of which overran."""
    register(ledger, "busy")
    runs = [ledger.ask(datasets=["busy"], mechanism=ROUND).json()["id"] for _ in range(30)]
    for run in (runs[0], runs[20]):
        assert ledger.post(f"/v1/runs/{run}/start").status_code == 200
    little = {"steps": 239, "stop": "data_independent", "restarts": []}
    settled = ledger.post(f"/v1/runs/{runs[0]}/settle", little)
    assert settled.status_code == 200, settled.text
    overrun = settled.json()["overrun"]
    assert overrun["fits"]
    assert int(overrun["cost"]["mu_sq_pico"]) < 10**11
    much = {"steps": 1175, "stop": "data_independent", "restarts": []}
    refused = ledger.post(f"/v1/runs/{runs[20]}/settle", much)
    assert (refused.status_code, refused.json()["code"], refused.json()["frozen"]) == (409, "overrun", ["busy"])
    demand_right(ledger, "busy")
    assert [result["error"] for result in check_journals(database)] == [None, None]


def test_a_dataset_is_switched_on_record(ledger: Ledger) -> None:
    """Goal: an older dataset keeps costs that add up until a steward switches it, once, with a reason, while nothing is
    held. Method: PATCH before and after; a run before and one after; an estimate cannot be switched."""
    register(ledger, "older", costing="standalone")
    register(ledger, "estimate", bound="clt")
    assert ledger.get("/v1/datasets/estimate").json()["costing"] == "standalone"
    before = ledger.ask(datasets=["older"], mechanism=ROUND).json()
    switch = {"costing": "residual", "reason": "many short runs from here on"}
    held = ledger.patch("/v1/datasets/older", switch)
    assert (held.status_code, held.json()["field"]) == (422, "costing"), held.text
    assert ledger.post(f"/v1/runs/{before['id']}/void", {"reason": "first try"}).status_code == 200
    assert ledger.patch("/v1/datasets/older", switch).json()["costing"] == "residual"
    after = ledger.ask(datasets=["older"], mechanism=ROUND).json()
    assert "alone" not in before
    assert 4 * int(after["cost"]["mu_sq_pico"]) < int(after["alone"]["mu_sq_pico"])
    for name in ("older", "estimate"):
        assert ledger.patch(f"/v1/datasets/{name}", switch).status_code == 422
    demand_right(ledger, "older")


def test_there_is_no_way_back_to_costs_that_add_up(ledger: Ledger) -> None:
    """Goal: whoever asks for standalone costs again learns why not, and what to do."""
    register(ledger, "rounds")
    refused = ledger.patch("/v1/datasets/rounds", {"costing": "standalone", "reason": "r"})
    assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (422, "invalid-request", "costing")
    for part in ("residual only", "never does", "Register a new dataset with costing standalone"):
        assert part in refused.json()["detail"]
    other = ledger.patch("/v1/datasets/rounds", {"costing": "other", "reason": "r"})
    assert (other.status_code, other.json()["field"]) == (422, "costing")


def test_a_share_without_a_budget_is_switched(ledger: Ledger) -> None:
    """Goal: a derived dataset without a budget is switched for its projects' shares, while nothing is held there, as
    the database knows it. Method: a run that is held in a share, and in one of two partitions."""
    register(ledger, "root", partitions=["a", "b"])
    parents = [{"name": "root", "unit_preserving": True}]
    ok(ledger.post("/v1/datasets", {"name": "copy", "derived_from": parents, "costing": "standalone"}))
    switch = {"costing": "residual", "reason": "many short runs"}
    nothing = ledger.patch("/v1/datasets/copy", switch)
    assert (nothing.status_code, nothing.json()["field"]) == (422, "costing")
    ok(ledger.put("/v1/datasets/copy/projects/p", {"budget": {"epsilon": 8, "at_delta": 1e-5}}))
    asked: dict[str, Any] = {"datasets": ["copy"], "mechanism": ROUND, "project": "p"}
    before = ledger.ask(**asked).json()
    assert "alone" not in before
    held = ledger.patch("/v1/datasets/copy", switch)
    assert (held.status_code, held.json()["field"]) == (422, "costing"), held.text
    ok(ledger.post(f"/v1/runs/{before['id']}/void", {"reason": "r"}))
    assert ok(ledger.patch("/v1/datasets/copy", switch))["costing"] == "residual"
    assert "alone" in ledger.ask(**asked).json()
    demand_right(ledger, "copy")


def test_an_overrun_that_fits_only_since_a_raise_says_so(ledger: Ledger) -> None:
    """Goal: an overrun of a run that was approved before a raise freezes the dataset if less was left then, though
    nothing is overdrawn: the answer says what binds. Method: a run, others that use up the limit, a raise, and much
    more executed than planned."""
    register(ledger, "rounds")
    run = ledger.ask(datasets=["rounds"], mechanism=ROUND).json()["id"]
    ok(ledger.post(f"/v1/runs/{run}/start"))
    assert ledger.ask(datasets=["rounds"], mechanism={"type": "gaussian", "noise_multiplier": 0.65}).status_code == 201
    ok(ledger.put("/v1/datasets/rounds/budget", {"budget": {"epsilon": 20, "at_delta": 1e-5}, "reason": "more"}))
    more = {"steps": 1175, "stop": "data_independent", "restarts": []}
    answer = ledger.post(f"/v1/runs/{run}/settle", more)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["frozen"]) == (409, "overrun", ["rounds"])
    assert (problem["before_raise"], problem["datasets"]) == (["rounds"], [])
    assert "raised after the run was approved" in problem["detail"]
    error = of_response(httpx.Response(answer.status_code, content=answer.content), url="")
    assert "more than was left when the limit was raised" in str(error)
    assert ok(ledger.patch("/v1/datasets/rounds", {"state": "active", "reason": "seen"}))["state"] == "active"
    demand_right(ledger, "rounds")


def demand_right(ledger: Ledger, name: str) -> None:
    """Verify an export, and recompute every cost, charge and table of it."""
    exported = ledger.get(f"/v1/datasets/{name}/export").text.splitlines(keepends=True)
    assert isinstance(verify.verify(exported), verify.Verified)
    recomputed = recompute(exported, with_exact=False, with_opinion=False)
    assert not recomputed.differences
    assert {name for name, count in recomputed.counts.items() if count} <= {"exact", "within"}


def least_in_a_terminal(capfd: pytest.CaptureFixture[str], display: Callable[[], None]) -> str:
    """What a command prints of the least limit, up to the first comma or parenthesis."""
    capfd.readouterr()
    display()
    printed = " ".join(capfd.readouterr().out.split())
    return re.split(r"least limit:? ", printed)[1].partition(",")[0].partition(";")[0].partition(" (")[0]


def look(ledger: Ledger) -> None:
    """Compute least limits now, as the background does once an hour."""
    services = ledger.client.app.state.services
    limits = LeastLimits(services.store, services.writer)
    limits.want(UUID(ledger.get("/v1/me").json()["tenant"]["id"]))
    limits.tick(is_closing=lambda: False)

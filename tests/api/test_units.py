"""Answers in the reader's units: the percent of a budget first, which adds up, then epsilon, then mu."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from ledger.cli import show
from ledger.core.amounts import ZERO, Amount, percent_of
from ledger.core.residual import LEVELS, Residual, equal_runs
from tests.accounting import oracle
from tests.kit.driver import Ledger, Terminal
from tests.kit.parts import derive
from tests.kit.scene import ok


def gaussian(noise_multiplier: float, **more: Any) -> dict[str, Any]:
    """Releases with this noise."""
    return {"type": "gaussian", "noise_multiplier": noise_multiplier, **more}


EPSILON_3 = {"bound": "certified", "costing": "standalone", "budget": {"epsilon": 3, "at_delta": 1e-5}}


def test_percents_never_flatter(tries: Callable[[int, int], int]) -> None:
    """Goal: what is taken is never shown as less, what is left never as more, by four digits at most a thousandth off.
    Method: random fractions in exact arithmetic; what is below zero; a limit of zero."""
    draw = random.Random(21)
    for _ in range(tries(3_000, 300_000)):
        whole, part = (draw.randrange(1, 10 ** draw.randrange(1, 20)) for _ in range(2))
        part *= draw.choice((1, 1, 1, -1))
        true = Fraction(100 * part, whole)
        above, below = (percent_of(part, whole, up=up) for up in (True, False))
        assert above is not None
        assert below is not None
        assert Fraction(repr(below)) <= true <= Fraction(repr(above))
        assert Fraction(above) - Fraction(below) <= abs(true) * Fraction(12, 10_000)
        assert len(Decimal(repr(above)).normalize().as_tuple().digits) <= 5
    assert percent_of(0, 7, up=True) == 0
    assert percent_of(5, 0, up=True) is None
    assert percent_of(10**298 - 1, 1, up=True) == 1e300
    assert percent_of(10**400, 3, up=True) is None


def test_equal_runs_are_counted_as_they_are_approved(tries: Callable[[int, int], int]) -> None:
    """Goal: the count of equal runs is that of approvals one after another. Method: random tables and amounts; approve
    by the filter's rule until nothing fits."""
    draw = random.Random(22)
    for _ in range(tries(60, 5_000)):
        base = draw.randrange(10_000, 10**7)
        costs = sorted((draw.randrange(1 + base // 40, 1 + base // 3) for _ in LEVELS), reverse=True)
        table = draw.choice((None, Residual(base, tuple(costs))))
        remaining = Amount(draw.randrange(base), draw.choice((-1, draw.randrange(1000), 10**9)))
        cost = Amount(costs[0], draw.randrange(0, 40))
        left, count, charged = remaining, 0, ZERO
        while True:
            index = 0 if table is None else table.best(left.mu_sq_pico)
            amount = cost if table is None or index is None else Amount(costs[index], cost.delta_atto)
            if index is None or amount.exceeds(left) or ZERO.exceeds(left):
                break
            left, count, charged = left - amount, count + 1, charged + amount
        counted = equal_runs(cost, table, left=remaining.mu_sq_pico, remaining=remaining, most=10**6)
        assert counted == (count, charged)


def test_an_approval_in_percent_and_epsilon(ledger: Ledger) -> None:
    """Goal: an approval states the percent of the budget that it takes and leaves, the epsilon of the run by itself at
    the budget's delta, and how many more fit; a repeat, GET and the list state the same. Method: a budget of epsilon 3;
    exact fractions and mpmath; ask until one is refused."""
    shown = ledger.register(**EPSILON_3)
    limit = int(shown["balance"]["limit"]["mu_sq_pico"])
    answer = ok(ledger.ask(gaussian(3), key="one"))
    cost = int(answer["cost"]["mu_sq_pico"])
    assert answer["percent"] == pytest.approx(100 * cost / limit, rel=1e-3)
    assert Fraction(repr(answer["percent"])) >= Fraction(100 * cost, limit)
    (on,) = answer["datasets"]
    assert on["percent"] == answer["percent"]
    assert on["percent_left"] == pytest.approx(100 - 100 * cost / limit, abs=0.1)
    assert Fraction(repr(on["percent_left"])) <= 100 - Fraction(100 * cost, limit)
    (epsilon,) = answer["epsilon"]
    assert epsilon["delta"] == 1e-5
    assert epsilon["value"] == pytest.approx(
        float(oracle.epsilon(answer["cost"]["mu"], answer["cost"]["delta"], 1e-5)), rel=1e-9
    )
    assert answer["runs_left"] == limit // cost - 1
    assert ok(ledger.ask(gaussian(3), key="one")) == answer
    for seen in (ok(ledger.get(f"/v1/runs/{answer['id']}")), ok(ledger.get("/v1/runs"))["items"][0]):
        assert (seen["percent"], seen["epsilon"]) == (answer["percent"], answer["epsilon"])
    left = answer["runs_left"]
    for number in range(left):
        answer = ok(ledger.ask(gaussian(3), key=f"n{number}"))
        assert answer["runs_left"] == left - number - 1
    refusal = ledger.ask(gaussian(3), key="beyond").json()
    assert (refusal["code"], refusal["runs_left"], refusal["epsilon"]) == ("budget-exceeded", 0, [epsilon])
    (binding,) = refusal["datasets"]
    assert binding["percent_requested"] == on["percent"] > binding["percent_remaining"]
    shown_run = ok(ledger.get(f"/v1/runs/{refusal['run']}"))
    assert shown_run["runs_left"] == 0
    assert shown_run["refused_by"][0]["percent_remaining"] == binding["percent_remaining"]


def test_the_end_of_a_run_in_percent(ledger: Ledger) -> None:
    """Goal: a settled run states the percent that it was charged, a voided one none. Method: half of a run's releases;
    a void; what is spent of the dataset, of which the parts add up."""
    ledger.register(**EPSILON_3)
    one, other = (ok(ledger.ask(gaussian(9, count=4), key=key)) for key in ("one", "other"))
    ok(ledger.post(f"/v1/runs/{one['id']}/start"))
    settled = ok(ledger.post(f"/v1/runs/{one['id']}/settle", {"steps": 2, "stop": "data_independent"}))
    assert settled["percent"] == pytest.approx(one["percent"] / 2, rel=1e-3)
    assert ok(ledger.post(f"/v1/runs/{other['id']}/void", {"reason": "unused"}))["percent"] == 0
    assert ok(ledger.get(f"/v1/runs/{one['id']}"))["percent_charged"] == settled["percent"]
    dataset = ok(ledger.get("/v1/datasets/mnist"))
    assert dataset["percent"]["spent"] == settled["percent"]
    assert dataset["percent"]["held"] == 0
    assert dataset["percent"]["spent"] + dataset["percent"]["remaining"] == pytest.approx(100, abs=0.02)
    (epsilon,) = dataset["epsilon"]
    assert epsilon["limit"] == pytest.approx(3, rel=1e-11)
    assert epsilon["spent"] < epsilon["remaining"] < 3
    assert ok(ledger.get("/v1/datasets/mnist/balance", seq=1))["percent"]["remaining"] == 100


def test_a_plan_in_percent_and_epsilon(ledger: Ledger) -> None:
    """Goal: a plan states what a run takes, leaves and has by itself, and how many fit: as many as `solve_for` finds.
    Method: standalone and residual; what does not fit; what a limited key does not see."""
    ledger.register(**EPSILON_3)
    ledger.register(name="rounds", bound="certified", budget={"epsilon": 3, "at_delta": 1e-5})
    for key, (name, mechanism) in enumerate((("mnist", gaussian(3)), ("rounds", gaussian(9)), ("rounds", gaussian(3)))):
        asked = {"datasets": [name], "mechanism": mechanism, "solve_for": "runs"}
        planned = ok(ledger.post("/v1/plan", asked))
        assert planned["runs_left"] == planned["solution"]["value"] > 0
        (on,) = planned["datasets"]
        assert on["percent_left"] == 100
        assert on["percent"] == planned["percent"] > 0
        assert on["percent_after"] == pytest.approx(100 - on["percent"], abs=0.1)
        (epsilon,) = on["epsilon"]
        assert epsilon["limit"] == epsilon["remaining"] == pytest.approx(3, rel=1e-11)
        assert epsilon["limit"] <= 3
        assert 0 < epsilon["after"] < 3
        approved = ok(ledger.ask(mechanism, datasets=[name], key=f"key-{key}"))
        assert approved["percent"] == planned["percent"]
        assert approved["epsilon"] == planned["epsilon"]
        assert approved["runs_left"] == planned["runs_left"] - 1
        ok(ledger.post(f"/v1/runs/{approved['id']}/void", {"reason": "a try"}))
    body = {"mechanism": gaussian(3)}
    refused = ok(ledger.post("/v1/plan", {"datasets": ["mnist"], "mechanism": gaussian(0.5)}))
    assert (refused["fits"], refused["runs_left"], refused["datasets"][0]["percent_after"]) == (False, 0, None)
    assert refused["binding"][0]["percent_requested"] > 100 >= refused["binding"][0]["percent_remaining"]
    ok(derive(ledger, "copy", "mnist"))
    hidden = ok(ledger.as_("requester", datasets=["copy"]).post("/v1/plan", {**body, "datasets": ["copy"]}))
    assert (hidden["percent"], hidden.get("runs_left")) == (None, None)
    assert all(item.get("percent_left") is None for item in hidden["datasets"])


def test_a_batch_states_the_same(ledger: Ledger) -> None:
    """Goal: the runs of a batch have the same units as a run by itself. Method: equal runs either way."""
    ledger.register(**EPSILON_3)
    runs = [{"datasets": ["mnist"], "mechanism": gaussian(9), "idempotency_key": key} for key in "ab"]
    results = ok(ledger.post("/v1/runs/batch", {"runs": runs}))["results"]
    alone = ok(ledger.ask(gaussian(9), key="c"))
    assert [result["run"]["percent"] for result in results] == [alone["percent"]] * 2
    assert [result["run"]["epsilon"] for result in results] == [alone["epsilon"]] * 2
    assert [result["run"]["runs_left"] - alone["runs_left"] for result in results] == [2, 1]


def test_a_budget_of_mu_has_its_epsilon_at_a_usual_delta(ledger: Ledger) -> None:
    """Goal: a dataset that was registered by mu shows its epsilon and the delta of that; a delta at which one holds.
    Method: budgets below and above the usual delta, against mpmath."""
    for name, budget, at_delta in (
        ("usual", {"mu": 1}, 1e-5),
        ("wide", {"mu": 1, "delta": 2e-5}, 2e-4),
    ):
        shown = ledger.register(name=name, bound="certified", costing="standalone", budget={"delta": 0, **budget})
        first = shown["epsilon"][0]
        assert first["delta"] == pytest.approx(at_delta)

        assert first["limit"] == pytest.approx(
            float(oracle.epsilon(1.0, float(budget.get("delta", 0)), first["delta"])), rel=1e-6
        )
        assert ok(ledger.ask(gaussian(9), datasets=[name], key=name))["epsilon"][0]["delta"] == first["delta"]


def test_units_in_a_terminal(terminal: Terminal) -> None:
    """Goal: the issue's own example is answered in percent first, then epsilon, then mu, with the line that explains;
    no command answers in mu alone. Method: a budget of epsilon 3, and what every command prints of it."""
    terminal("dataset create images --epsilon 3 --at-delta 1e-5 --costing standalone")
    explained = "Percents add up; epsilon and mu do not."
    plan = terminal("plan images --type gaussian --noise-multiplier 3").out
    approved = terminal("request images --type gaussian --noise-multiplier 3 --key one").out
    shown = terminal(f"run show {approved.split()[2]}").out
    for answer in (plan, approved, shown):
        assert re.search(r"cost +21\.72 % of the budget *\n +epsilon 1\.2711 at delta 1e-05, of this run by", answer)
        assert re.search(r"itself\s+mu 0\.33334, delta 0", answer)
    assert re.search(r"left +100 %, epsilon 3 at delta 1e-05, mu 0\.71536", plan)
    assert re.search(r"after +78\.28 %, epsilon 2\.6124 at delta 1e-05, mu 0\.63295", plan)
    assert re.search(r"left +78\.28 %, mu 0\.63295 of images", approved)
    assert "runs like this left  4" in plan  # with this one
    assert "runs like this left  3" in approved
    assert "runs like this left  3" in shown
    dataset = terminal("dataset show images").out
    assert "epsilon 3 at delta 1e-05, mu 0.71536" in dataset
    assert re.search(r"held +21\.72 +1\.2711 +0\.33334", dataset)
    assert re.search(r"remaining +78\.28 +2\.6124 +0\.63295", dataset)
    assert re.search(r"images +active +certified +78\.28 +3 at 1e-05 +0\.63295 +0\.71536", terminal("dataset list").out)
    assert re.search(r"gaussian +21\.72 +1\.2711 +0\.33334", terminal("runs").out)
    refused = terminal("request images --type gaussian --noise-multiplier 1 --key two").err
    assert "This run by itself: epsilon 4.3772 at delta 1e-05" in refused
    assert re.search(r"images +mu +195\.5 +78\.28 +1 +0\.63295 +0\.71536", refused)
    past = terminal("dataset show images --at-seq 1").out
    assert re.search(r"remaining +100 +3 +0\.71536", past)
    assert re.search(r"the dataset +1 +21\.72 +78\.28", terminal("forecast images").out)
    for answer in (plan, approved, refused, dataset, past):
        assert explained in answer


def test_spent_of_a_residual_budget_is_the_least_limit(terminal: Terminal) -> None:
    """Goal: with residual costs the epsilon of a share of the limit is not shown as what was spent; the least limit is,
    as an indication. Method: a dataset before its least limit was computed, and as it is shown after."""
    made = terminal("dataset create rounds --epsilon 3 --at-delta 1e-5 --json").out
    for key in ("one", "two"):
        terminal(f"request rounds --type gaussian --noise-multiplier 9 --key {key} --json")
    runs = [run["id"] for run in terminal("runs --json").json["items"]]
    for command in ("start", "settle"):
        terminal(f"{command} {runs[0]}")
    shown = terminal("dataset show rounds").out
    assert re.search(r"spent +2\.\d+ +- +0\.11112", shown)
    assert re.search(r"held +2\.\d+ +- +0\.11112", shown)
    assert "its epsilon is the least limit" in shown
    least = {"seq": 1, "amount": json.loads(made)["balance"]["limit"], "epsilon": [{"delta": 1e-5, "epsilon": 0.41232}]}
    item: Any = {**json.loads(made), "least_limit": least}
    with show.console.out.capture() as printed:
        show.datasets.dataset(item)
    assert (
        "spent, as the least limit: epsilon 0.41232 at delta 1e-05, up to entry 1 of 1; an indication" in printed.get()
    )


@pytest.mark.parametrize(
    ("value", "above", "below"),
    [
        (0.123451, "0.12346", "0.12345"),
        (2.9999999999974, "3", "3"),
        (0.0, "0", "0"),
        (1234567.0, "1.2346e+06", "1.2345e+06"),
    ],
)
def test_numbers_are_rounded_against_the_spender(value: float, above: str, below: str) -> None:
    """Goal: what is spent is rounded up, what is left is rounded down, and doubles that stand for few digits are shown
    as these. Method: some of each."""
    assert (show.console.up(value), show.console.down(value)) == (above, below)

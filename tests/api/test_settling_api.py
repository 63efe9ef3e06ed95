"""Segments, runs that end otherwise than planned, and runs that overran, over HTTP."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ledger.accounting import ACCOUNTANT
from ledger.core.amounts import INT64_MAX
from ledger.store import Store
from tests.kit.driver import Ledger
from tests.kit.parts import (
    ONCE,
    approved,
    cost_of,
    demand_in_order,
    derive,
    error,
    gaussian,
    held,
    kinds,
    of_partitions,
    parted,
    started,
)

SGD: dict[str, Any] = {"type": "dpsgd", "noise_multiplier": 2, "sampling": "poisson", "sample_rate": 0.01, "steps": 100}
ROOM: dict[str, Any] = {"bound": "certified", "costing": "standalone", "budget": {"mu": 100, "delta": 0.01}}


def mu_sq(shown: dict[str, Any]) -> int:
    """Of an amount in an answer."""
    return int(shown["mu_sq_pico"])


def clt(steps: int) -> float:
    """SGD's mu² for so many steps, in units of 1e-12: p²T(exp(1/sigma²) - 1) (Bu, Dong, Long & Su 2020, Theorem 5)."""
    rate, noise = float(SGD["sample_rate"]), float(SGD["noise_multiplier"])
    return 1e12 * rate**2 * steps * math.expm1(1 / noise**2)


def settled(ledger: Ledger, run: str, **body: Any) -> dict[str, Any]:
    """Settles a run."""
    answer = ledger.post(f"/v1/runs/{run}/settle", body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


# --- each mechanism, each stop ---------------------------------------------------------------------------------------

ADDITIVE: list[dict[str, Any]] = [
    gaussian(count=12),
    {"type": "laplace", "noise_multiplier": 7, "count": 12},
    {"type": "pure_dp", "epsilon": 0.1, "count": 12},
    {"type": "approximate_dp", "epsilon": 0.1, "delta": 1e-8, "count": 12},
]
WHOLE: list[dict[str, Any]] = [
    {**SGD, "steps": 12},
    {"type": "matrix_factorization", "noise_multiplier": 9, "strategy": "tree", "steps": 12}
    | {"participations": 1, "completion": "none"},
    {"type": "matrix_factorization", "noise_multiplier": 9, "strategy": "toeplitz", "coefficients": [1, -0.5]}
    | {"steps": 12, "sampling": "cyclic_poisson", "sample_rate": 0.1},
]


@pytest.mark.parametrize("mechanism", [*ADDITIVE, *WHOLE], ids=lambda each: each.get("sampling") or each["type"])
def test_what_an_early_stop_is_charged(ledger: Ledger, store: Store, mechanism: dict[str, Any]) -> None:
    """Goal: a sequence of releases pays for those that were made, whatever stopped it; DP-SGD and correlated noise
    pay for less only where nothing that is secret had a say. Method: settle a run of twelve for each stop, and compare
    with what the accountant says of a run that was declared so short."""
    ledger.register(**ROOM)
    field = "count" if "count" in mechanism else "steps"
    short = {**mechanism, field: 5}
    body = {"mechanism": short, "delta": 1e-5}
    five = ledger.post("/v1/evaluate", body).json()["cost"]
    ends: list[tuple[dict[str, Any], str]] = [
        ({"steps": 12}, "all"),
        ({"stop": "planned"}, "all"),
        ({}, "all"),
        ({"steps": 5}, "five" if mechanism in ADDITIVE else "all"),
        ({"steps": 5, "stop": "data_dependent"}, "five" if mechanism in ADDITIVE else "all"),
        ({"steps": 5, "stop": "data_independent"}, "five"),
    ]
    for said, expected in ends:
        run = started(ledger, "mnist", mechanism=mechanism, delta=1e-5)
        answer = settled(ledger, run, **said)
        charged, cost = answer["charged"], answer["cost"]
        wanted = five if expected == "five" else cost
        assert (charged["mu_sq_pico"], charged["delta_atto"]) == (wanted["mu_sq_pico"], wanted["delta_atto"]), said
        assert mu_sq(charged) + mu_sq(answer["returned"]) == mu_sq(cost) > mu_sq(five)
        shown = ledger.get(f"/v1/runs/{run}").json()["settled"]
        assert shown["steps"] == said.get("steps", 12)
        assert shown["stop"] == said.get("stop", "planned" if said.get("steps", 12) == 12 else "data_dependent")
    assert held(ledger, "mnist") == 0
    demand_in_order(ledger, store)


@pytest.mark.parametrize(
    "mechanism",
    [
        {"type": "gdp", "mu": 0.1, "evidence": "Theorem 3"},
        {"type": "zcdp", "rho": 0.01},
        {"type": "composed", "parts": [gaussian(), gaussian(7)]},
    ],
    ids=lambda each: each["type"],
)
def test_a_mechanism_without_steps_is_charged_as_approved(ledger: Ledger, mechanism: dict[str, Any]) -> None:
    """Goal: where no number says how far it came, a run has no steps to settle for, and no segments."""
    ledger.register(**ROOM)
    run = started(ledger, "mnist", mechanism=mechanism)
    for steps in (0, 1, 5):
        answer = ledger.post(f"/v1/runs/{run}/settle", {"steps": steps})
        assert error(answer) == (422, "invalid-request", "steps")
    answer = settled(ledger, run)
    assert answer["charged"] == answer["cost"]
    assert error(ledger.ask(mechanism, segments=2)) == (422, "invalid-request", "segments")


def test_a_started_run_that_did_nothing_pays_for_one(ledger: Ledger) -> None:
    """Goal: a run that was started may have done part of a step. Method: zero steps of four."""
    ledger.register()
    for stop in ("data_dependent", "data_independent"):
        run = started(ledger, "mnist", mechanism=gaussian(count=4))
        assert mu_sq(settled(ledger, run, steps=0, stop=stop)["charged"]) == ONCE
    assert error(ledger.post(f"/v1/runs/{started(ledger, 'mnist')}/settle", {"steps": 0, "stop": "planned"})) == (
        422,
        "invalid-request",
        "stop",
    )


# --- segments --------------------------------------------------------------------------------------------------------


def test_segments_cost_what_their_whole_costs_where_that_adds_up(ledger: Ledger) -> None:
    """Goal: under clt the squares add up, so segments cost nothing but their rounding: k pieces of ceil(T/k) steps.
    Method: the published formula, for a division that leaves a rest and one that does not."""
    ledger.register(budget={"mu": 10})
    for count, steps in ((4, 25), (3, 34), (7, 15), (100, 1)):
        shown = approved(ledger, "mnist", mechanism=SGD, segments=count)
        said = shown["segments"]
        assert (said["count"], said["steps"]) == (count, steps)
        # The formula's double is good to far less than a unit here; what is charged is rounded up from the exact value.
        assert mu_sq(said["cost"]) == math.ceil(clt(steps))
        assert mu_sq(shown["cost"]) == math.ceil(clt(count * steps))
        assert mu_sq(said["unsegmented"]) == math.ceil(clt(100))
        assert ledger.get(f"/v1/runs/{shown['id']}").json()["segments"] == said
    assert "segments" not in approved(ledger, "mnist", mechanism=SGD)
    for count in (0, 101, 1001):
        assert error(ledger.ask(SGD, segments=count)) == (422, "invalid-request", "segments")


def test_segments_of_a_certified_run(ledger: Ledger, store: Store) -> None:
    """Goal: a certificate is for all its steps, so pieces cost more, and each may be the last. Method: each piece costs
    what the accountant says of so many steps at its part of delta; the run, stopped by what it saw in its second piece,
    pays for two, and unsegmented for all."""
    ledger.register(**ROOM)
    shown = approved(ledger, "mnist", mechanism=SGD, segments=4, delta=4e-6)
    piece = ledger.post("/v1/evaluate", {"mechanism": {**SGD, "steps": 25}, "delta": 1e-6}).json()["cost"]
    whole = ledger.post("/v1/evaluate", {"mechanism": SGD, "delta": 4e-6}).json()["cost"]
    said = shown["segments"]
    assert (said["cost"]["mu_sq_pico"], said["cost"]["delta_atto"]) == (piece["mu_sq_pico"], piece["delta_atto"])
    assert said["unsegmented"]["mu_sq_pico"] == whole["mu_sq_pico"]
    assert 4 * mu_sq(piece) - 4 <= mu_sq(shown["cost"]) <= 4 * mu_sq(piece)
    for steps, pieces in ((1, 1), (25, 1), (26, 2), (50, 2), (75, 3), (76, 4), (100, 4)):
        run = started(ledger, "mnist", mechanism=SGD, segments=4, delta=4e-6)
        charged = mu_sq(settled(ledger, run, steps=steps)["charged"])
        assert pieces * (mu_sq(piece) - 1) <= charged <= pieces * mu_sq(piece), steps
    whole_run = started(ledger, "mnist", mechanism=SGD, delta=4e-6)
    answer = settled(ledger, whole_run, steps=26)
    assert answer["charged"] == answer["cost"]
    demand_in_order(ledger, store)


def test_a_refused_run_in_segments_names_what_fits_in_segments(ledger: Ledger) -> None:
    """Goal: `fits` is of the same division. Method: each of its values is asked for, and one step beyond it."""
    ledger.register(budget={"mu": 0.05})
    refused = ledger.ask(SGD, segments=4)
    assert refused.status_code == 409
    fits = refused.json()["fits"]
    assert {"noise_multiplier", "steps"} <= set(fits)
    assert ledger.post("/v1/plan", {"datasets": ["mnist"], "mechanism": SGD, "segments": 4}).json()["would_fit"] == fits
    beyond = ledger.ask({**SGD, "steps": fits["steps"] + 4}, segments=4)
    assert beyond.status_code == 409
    assert ledger.ask({**SGD, "steps": fits["steps"]}, segments=4).status_code == 201


# --- overruns --------------------------------------------------------------------------------------------------------


def test_an_overrun_that_fits(ledger: Ledger, store: Store) -> None:
    """Goal: more than planned is charged as a run of its own; where it fits, that is all, and it is shown."""
    ledger.register()
    run = started(ledger, "mnist", mechanism=gaussian(count=2))
    answer = settled(ledger, run, steps=5)
    assert mu_sq(answer["charged"]) == 5 * ONCE
    over = answer["overrun"]
    assert (over["steps"], mu_sq(over["cost"]), over["fits"]) == (3, 3 * ONCE, True)
    assert ledger.get(f"/v1/runs/{run}").json()["settled"]["overrun"] == over
    assert settled(ledger, run, steps=5) == answer
    assert error(ledger.post(f"/v1/runs/{run}/settle", {"steps": 6}))[:2] == (409, "run-state")
    assert ledger.balance()["spent"] == (5 * ONCE, 0)
    assert ledger.get("/v1/datasets/mnist").json()["state"] == "active"
    demand_in_order(ledger, store)


def test_an_overrun_that_does_not_fit(ledger: Ledger, store: Store) -> None:
    """Goal: it is recorded as it was, the datasets that it overdraws are frozen and told, the same call gets the same
    answer, and a steward thaws; nothing fits until the limit covers it. Method: on two datasets, one with room."""
    ledger.register()
    ledger.register(name="large", budget={"mu": 9})
    run = started(ledger, "mnist", "large", mechanism=gaussian(count=20))
    first = ledger.post(f"/v1/runs/{run}/settle", {"steps": 26})
    told = first.json()
    assert error(first)[:2] == (409, "overrun")
    assert (told["run"], told["state"], told["frozen"]) == (run, "settled", ["mnist"])
    assert (told["overrun"]["steps"], told["overrun"]["fits"]) == (6, False)
    assert mu_sq(told["charged"]) == 26 * ONCE
    (item,) = told["datasets"]
    assert (item["name"], item["quantity"], item["limit"]) == ("mnist", "mu", 1)
    assert item["overdrawn"] == pytest.approx(math.sqrt(ONCE / 1e12), rel=1e-9)
    assert item["spent"] == pytest.approx(math.sqrt(26 * ONCE / 1e12), rel=1e-9)
    again = ledger.post(f"/v1/runs/{run}/settle", {"steps": 26})
    assert (again.status_code, again.json()) == (409, told)
    assert ledger.get(f"/v1/runs/{run}").json()["settled"]["overrun"]["fits"] is False
    remaining = ledger.get("/v1/datasets/mnist").json()["balance"]["remaining"]
    assert remaining == {"mu": 0, "delta": 0, "mu_sq_pico": str(-ONCE), "delta_atto": "0"}
    assert error(ledger.ask())[:2] == (409, "dataset-frozen")
    assert ledger.ask(datasets=["large"]).status_code == 201
    assert ledger.patch("/v1/datasets/mnist", {"state": "active", "reason": "seen"}).status_code == 200
    refused = ledger.ask(gaussian(10_000)).json()
    assert (refused["code"], refused["datasets"][0]["remaining"], refused["fits"]) == ("budget-exceeded", 0, {})
    lower = ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 1.01}, "reason": "r"})
    assert error(lower)[:2] == (409, "budget-below-spent")
    assert ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 1.04}, "reason": "r"}).status_code == 200
    assert ledger.ask().status_code == 201
    demand_in_order(ledger, store)


def test_an_overrun_reaches_roots_partitions_and_projects(ledger: Ledger, store: Store) -> None:
    """Goal: each account that was charged is drawn down, and the answer names each that is overdrawn. Method: a run of
    a project on a copy of a partitioned dataset, one of whose partitions is fuller."""
    parted(ledger, "a", "b")
    derive(ledger, "copy", "clicks")
    ledger.put("/v1/datasets/clicks/projects/p", {"budget": {"mu": 0.8}})
    for _ in range(20):
        approved(ledger, {"name": "clicks", "partitions": ["b"]})
    run = started(ledger, "copy", mechanism=gaussian(count=2), project="p")
    told = ledger.post(f"/v1/runs/{run}/settle", {"steps": 17}).json()
    assert (told["code"], told["frozen"]) == ("overrun", ["clicks"])
    overdrawn = {(item["name"], item.get("partition"), item.get("project")) for item in told["datasets"]}
    assert overdrawn == {("clicks", "b", None), ("clicks", "a", "p"), ("clicks", "b", "p")}
    assert of_partitions(ledger, part="remaining") == {"a": 8 * ONCE, "b": -12 * ONCE}
    assert kinds(ledger, "copy")[-1] == "run-settled"
    assert error(ledger.ask(datasets=["copy"]))[:2] == (409, "dataset-frozen")
    demand_in_order(ledger, store)


def test_an_overrun_past_64_bits(ledger: Ledger, store: Store) -> None:
    """Goal: whatever was executed is recorded: a balance ends at 2^63 - 1, the entry says all of it, and the ledger
    goes on. Method: a great many releases with little noise, confirmed, twice."""
    ledger.register(budget={"mu": 1000})
    loud = gaussian(0.01)
    runs = [started(ledger, "mnist", mechanism=loud) for _ in range(2)]
    for run in runs:
        assert ledger.post(f"/v1/runs/{run}/settle", {"steps": 10**9}).json()["state"] == "started"
        answer = ledger.post(f"/v1/runs/{run}/confirm", {"reason": "the log has every step"})
        assert mu_sq(answer.json()["charged"]) == cost_of(0.01, 10**9)
    assert ledger.balance()["spent"] == (INT64_MAX, 0)
    assert mu_sq(ledger.get("/v1/datasets/mnist").json()["balance"]["remaining"]) == 10**18 - INT64_MAX
    assert ledger.get("/v1/datasets/mnist/export").status_code == 200
    demand_in_order(ledger, store)


@pytest.mark.parametrize(
    ("mechanism", "segments", "steps", "declared"),
    [
        (SGD, None, 150, {**SGD, "steps": 50}),
        (
            {"type": "laplace", "noise_multiplier": 7, "count": 3},
            None,
            8,
            {"type": "laplace", "noise_multiplier": 7, "count": 5},
        ),
        (SGD, 3, 112, {**SGD, "steps": 10}),
    ],
    ids=["dpsgd", "laplace", "segments"],
)
def test_what_an_overrun_costs(
    ledger: Ledger, mechanism: dict[str, Any], segments: int | None, steps: int, declared: dict[str, Any]
) -> None:
    """Goal: the excess that nothing secret decided is a run of its own, at the run's delta, never the difference of two
    certificates. Method: what the accountant says of a run of so many steps; with segments what was reserved is not
    yet excess."""
    ledger.register(**ROOM)
    more = {} if segments is None else {"segments": segments}
    run = started(ledger, "mnist", mechanism=mechanism, delta=1e-6, **more)
    answer = settled(ledger, run, steps=steps, stop="data_independent", restarts=[])
    alone = ledger.post("/v1/evaluate", {"mechanism": declared, "delta": 1e-6}).json()["cost"]
    assert answer["overrun"]["cost"]["mu_sq_pico"] == alone["mu_sq_pico"]
    assert mu_sq(answer["charged"]) == mu_sq(answer["cost"]) + mu_sq(alone)
    assert mu_sq(answer["returned"]) == 0


def test_an_overrun_of_correlated_noise_starts_again(ledger: Ledger) -> None:
    """Goal: a matrix factorization has no step beyond its plan: each begun is the whole strategy once more."""
    ledger.register(**ROOM)
    for steps, again in ((17, 1), (32, 1), (33, 2)):
        run = started(ledger, "mnist", mechanism={**WHOLE[1], "steps": 16})
        answer = settled(ledger, run, steps=steps, restarts=[])
        assert mu_sq(answer["overrun"]["cost"]) == again * mu_sq(answer["cost"])


def test_an_overrun_that_outputs_may_have_decided_is_whole_plans(ledger: Ledger) -> None:
    """Goal: as many plans, or segments, as the excess begins. Method: against what was approved, to the unit."""
    ledger.register(**ROOM)
    for segments, steps, plans, parts in ((None, 101, 1, 1), (None, 301, 3, 1), (4, 101, 1, 4), (4, 130, 2, 4)):
        more = {} if segments is None else {"segments": segments}
        run = started(ledger, "mnist", mechanism=SGD, delta=1e-6, **more)
        answer = settled(ledger, run, steps=steps, restarts=[])
        assert mu_sq(answer["overrun"]["cost"]) == -(-plans * mu_sq(answer["cost"]) // parts)
        assert (answer["overrun"]["steps"], answer["overrun"]["repeated"]) == (steps - 100, 0)


# --- restarts --------------------------------------------------------------------------------------------------------

SHUFFLED: dict[str, Any] = {**SGD, "sampling": "shuffle", "sample_rate": 0.1}


def test_repeated_steps_are_charged_and_shown(ledger: Ledger, store: Store) -> None:
    """Goal: what was run again is charged besides, recorded as it was said, and answered alike ever after. Method: a
    shuffled run of ten epochs, of which a stretch in two of them was run again, and a new order."""
    ledger.register(**ROOM)
    restarts = [
        {"from_step": 5, "to_step": 14, "new_batches": False},
        {"from_step": 96, "to_step": 95, "new_batches": True},
    ]
    run = started(ledger, "mnist", mechanism=SHUFFLED)
    body = {"steps": 110, "restarts": restarts}
    answer = settled(ledger, run, **body)
    assert mu_sq(answer["charged"]) == (10 + 2 + 1) * 10**12 // 4
    assert mu_sq(answer["returned"]) == 0
    assert (answer["overrun"]["steps"], answer["overrun"]["repeated"]) == (10, 10)
    assert (answer["restarts"], "assumptions" in answer) == (restarts, False)
    shown = ledger.get(f"/v1/runs/{run}").json()["settled"]
    assert (shown["steps"], shown["restarts"], shown["stop"]) == (110, restarts, "planned")
    assert settled(ledger, run, **body) == answer
    entry = ledger.get("/v1/datasets/mnist/entries").json()["items"][-1]["entry"]
    assert (entry["restarts"], entry["accountant"]) == (restarts, ACCOUNTANT)
    demand_in_order(ledger, store)


def test_steps_that_are_left_out_are_all_that_was_planned_and_repeated(ledger: Ledger) -> None:
    """Goal: restarts alone are enough to settle by. Method: with and without the number."""
    ledger.register(**ROOM)
    restarts = [{"from_step": 41, "to_step": 60, "new_batches": False}]
    runs = [started(ledger, "mnist", mechanism=SHUFFLED) for _ in range(2)]
    told = [settled(ledger, runs[0], restarts=restarts), settled(ledger, runs[1], restarts=restarts, steps=120)]
    assert told[0]["charged"] == told[1]["charged"]
    assert [ledger.get(f"/v1/runs/{run}").json()["settled"]["steps"] for run in runs] == [120, 120]


def test_what_nobody_said_of_restarts(ledger: Ledger) -> None:
    """Goal: within the plan the record says that none is assumed, and nothing else changes; beyond it every step but
    one may have been repeated; releases count whatever they were. Method: with no word, and with an empty list."""
    ledger.register(**ROOM)
    answers = {}
    for name, body in (("silent", {}), ("none", {"restarts": []}), ("beyond", {"steps": 101})):
        run = started(ledger, "mnist", mechanism=SHUFFLED)
        answers[name] = settled(ledger, run, **body)
        assert ledger.get(f"/v1/runs/{run}").json()["settled"].get("assumptions") == answers[name].get("assumptions")
    assert answers["silent"]["charged"] == answers["none"]["charged"] == answers["none"]["cost"]
    (assumed,) = answers["silent"]["assumptions"]
    assert "it is assumed that no step was run again" in assumed
    assert "assumptions" not in answers["none"]
    assert mu_sq(answers["beyond"]["charged"]) == (10 + 100) * 10**12 // 4
    assert answers["beyond"]["overrun"]["repeated"] is None
    releases = settled(ledger, started(ledger, "mnist", mechanism=gaussian(count=3)), steps=5)
    assert (mu_sq(releases["charged"]), "assumptions" in releases) == (5 * ONCE, False)


@pytest.mark.parametrize(
    ("restarts", "field"),
    [
        ([{"from_step": 0, "to_step": 3, "new_batches": False}], "restarts.0.from_step"),
        ([{"from_step": 5, "to_step": 3, "new_batches": False}], "restarts.0"),
        ([{"from_step": 5, "to_step": 6}], "restarts.0.new_batches"),
        ([{"from_step": 5, "to_step": 6, "new_batches": "no"}], "restarts.0.new_batches"),
        ([{"from_step": 5, "to_step": 6, "new_batches": False, "why": 1}], "restarts.0.why"),
        ([{"from_step": 1, "to_step": 1, "new_batches": False}] * 1001, "restarts"),
        ([{"from_step": 1, "to_step": 2, "new_batches": False}, {"from_step": 90, "to_step": 99}], "restarts.1"),
        ([{"from_step": 1, "to_step": 60, "new_batches": False}], "restarts.0.to_step"),
    ],
)
def test_restarts_that_cannot_have_been(ledger: Ledger, restarts: Any, field: str) -> None:
    """Goal: a stretch has an order, lies within what was reached, and a list an end; the field is named. Method: one
    hundred steps executed."""
    ledger.register(**ROOM)
    run = started(ledger, "mnist", mechanism=SHUFFLED)
    status, code, named = error(ledger.post(f"/v1/runs/{run}/settle", {"steps": 100, "restarts": restarts}))
    assert (status, code) == (422, "invalid-request")
    assert str(named).startswith(field)
    assert ledger.get(f"/v1/runs/{run}").json()["state"] == "started"


def test_a_mechanism_without_steps_has_no_restarts(ledger: Ledger) -> None:
    """Goal: the field is named, also of an empty list."""
    ledger.register(**ROOM)
    run = started(ledger, "mnist", mechanism={"type": "gdp", "mu": 0.1, "evidence": "Theorem 3"})
    assert error(ledger.post(f"/v1/runs/{run}/settle", {"restarts": []})) == (422, "invalid-request", "restarts")

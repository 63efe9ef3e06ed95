"""The registered number of units beside the stated one, the expected size of batches, and warnings, over HTTP."""

from __future__ import annotations

from typing import Any, Final

import pytest

from ledger.core.journal import chain
from ledger.verifier.verify import verify
from tests.kit import independent_verifier
from tests.kit.driver import MNIST, Ledger

EPOCHS: Final[dict[str, Any]] = {
    "type": "dpsgd",
    "noise_multiplier": 4,
    "sampling": "shuffle",
    "batch_size": 300,
    "epochs": 2,
}
"""Charged in closed form, so that a test takes no certificate."""
BY_RATE: Final[dict[str, Any]] = {"type": "dpsgd", "noise_multiplier": 8, "sampling": "poisson", "steps": 20}
SCHEDULE: Final[dict[str, Any]] = {"type": "dpsgd_schedule", "sampling": "poisson"}
FIELD: Final = "mechanism.dataset_size"


def stating(size: int, **changes: Any) -> dict[str, Any]:
    """A training of two epochs that states this number of units."""
    return {**EPOCHS, "dataset_size": size, **changes}


def refusal(answer: Any) -> tuple[str, int | None, int | None]:
    """The field, the stated and the registered size of a problem."""
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid-mechanism"), answer.text
    return problem["field"], problem.get("stated"), problem.get("registered")


def journal(ledger: Ledger, name: str = "mnist") -> list[Any]:
    """The entries of a dataset, from its export, which both verifiers accept."""
    lines = ledger.get(f"/v1/datasets/{name}/export").text.splitlines()
    found = [chain.parse(line)["entry"] for line in lines if line.startswith('{"seq"')]
    assert verify(lines).journal.seq == independent_verifier.verify(lines)[0] == len(found)
    return found


def entry_of(ledger: Ledger, run: str) -> Any:
    """The entry that decided a run."""
    return next(entry for entry in journal(ledger) if entry.get("run") == run and "request" in entry)


# --- the stated size beside the registered one ------------------------------------------------------------------------


def test_a_size_that_differs_needs_a_reason_everywhere(ledger: Ledger) -> None:
    """Goal: more or less than 5 % apart from the registered size, a run, a batch and a plan are rejected with both
    numbers, inside composed mechanisms too; within 5 %, or with a reason that is recorded, they are not. Method: just
    within and just beyond, on 60,000 units."""
    ledger.register(budget={"mu": 5})
    for size in (6_000_000, 63_001, 56_999):
        answer = ledger.ask(stating(size))
        assert refusal(answer) == (FIELD, size, 60_000)
        assert "size_differs" in answer.json()["detail"]
        plan = {"datasets": ["mnist"], "mechanism": stating(size)}
        assert refusal(ledger.post("/v1/plan", plan)) == (FIELD, size, 60_000)
        assert ledger.post("/v1/plan", {**plan, "size_differs": "a subset"}).status_code == 200
        composed = {"type": "composed", "parts": [{"type": "gaussian", "noise_multiplier": 9}, stating(size)]}
        assert refusal(ledger.ask(composed)) == ("mechanism.parts.1.dataset_size", size, 60_000)
    for size in (63_000, 57_000):
        assert ledger.ask(stating(size)).status_code == 201
    reason = "the sampler draws from a copy with duplicates"
    run = {"datasets": ["mnist"], "mechanism": stating(6_000_000)}
    batch = [{**run, "idempotency_key": "bare"}, {**run, "idempotency_key": "explained", "size_differs": reason}]
    bare, explained = ledger.post("/v1/runs/batch", {"runs": batch}).json()["results"]
    assert (bare["status"], bare["problem"]["field"], explained["status"]) == (422, FIELD, 201)
    single = ledger.ask(stating(6_000_000), size_differs=reason)
    for run_id in (explained["run"]["id"], single.json()["id"]):
        assert ledger.get(f"/v1/runs/{run_id}").json()["request"]["size_differs"] == reason
        assert entry_of(ledger, run_id)["request"]["size_differs"] == reason


def test_a_report_has_the_reason(ledger: Ledger) -> None:
    """Goal: whoever reads a report learns that a run states another number of units, and why. Method: the JSON and the
    HTML of one."""
    ledger.register(budget={"mu": 5})
    assert ledger.ask(stating(1_000), size_differs="only the reviews of March").status_code == 201
    (run,) = ledger.get("/v1/datasets/mnist/report").json()["runs"]
    assert run["size_differs"] == "only the reviews of March"
    page = ledger.get("/v1/datasets/mnist/report", format="html").text
    assert "the number of units differs from the registered one: only the reviews of March" in page


def test_a_reason_for_one_run_excuses_no_other(ledger: Ledger) -> None:
    """Goal: what is remembered of a kind of run lets none without a reason pass. Method: both, in both orders."""
    ledger.register(budget={"mu": 5})
    assert ledger.ask(stating(1_000), size_differs="a subset").status_code == 201
    assert refusal(ledger.ask(stating(1_000))) == (FIELD, 1_000, 60_000)
    assert ledger.ask(stating(1_000), size_differs="a subset").status_code == 201


def test_a_least_size_and_records_are_compared_too(ledger: Ledger) -> None:
    """Goal: a lower bound above the registered size is rejected, one far below is not; with k records of a unit, up
    to k times as many are not. Method: each, just beyond, in a plan."""
    ledger.register(bound="certified", budget={"mu": 5, "delta": 1e-6})

    def planned(mechanism: dict[str, Any]) -> Any:
        return ledger.post("/v1/plan", {"datasets": ["mnist"], "mechanism": mechanism})

    fixed = {**BY_RATE, "steps": 1, "sampling": "fixed_size", "sample_rate": 0.01}
    too_large = planned({**fixed, "dataset_size_min": 63_001})
    assert refusal(too_large) == ("mechanism.dataset_size_min", 63_001, 60_000)
    assert planned({**fixed, "dataset_size_min": 100}).status_code == 200
    users = {"type": "dpsgd", "noise_multiplier": 30, "sampling": "poisson", "batch_size": 300, "epochs": 0.01}
    assert planned({**users, "max_examples_per_user": 2, "dataset_size": 120_000}).status_code == 200
    beyond = planned({**users, "max_examples_per_user": 2, "dataset_size": 126_001})
    assert refusal(beyond) == (FIELD, 126_001, 120_000)


# --- the size that is not stated --------------------------------------------------------------------------------------


def test_a_size_that_is_left_out_is_the_registered_one(ledger: Ledger) -> None:
    """Goal: a run that states no size costs the same as one that states the registered one, is recorded with it, and is
    the same request under its key; in a batch, a plan and a composed mechanism too. Method: one of each."""
    ledger.register(budget={"mu": 5})
    stated = ledger.ask(stating(60_000), key="once").json()
    left_out = ledger.ask(EPOCHS, key="again")
    assert (left_out.status_code, left_out.json()["cost"]) == (201, stated["cost"])
    assert entry_of(ledger, left_out.json()["id"])["request"]["mechanism"] == stating(60_000)
    same = ledger.ask(EPOCHS, key="once")
    assert (same.json(), same.headers["Idempotent-Replayed"]) == (stated, "true")
    assert ledger.ask(stating(60_000), key="again").json() == left_out.json()
    assert ledger.ask(stating(60_001), key="again").json()["code"] == "idempotency-key-reused"
    composed = {"type": "composed", "parts": [EPOCHS, {"type": "gaussian", "noise_multiplier": 9}]}
    runs = [
        {"datasets": ["mnist"], "mechanism": mechanism, "idempotency_key": key}
        for key, mechanism in (("a", EPOCHS), ("b", EPOCHS), ("c", composed))
    ]
    results = [result["run"] for result in ledger.post("/v1/runs/batch", {"runs": runs}).json()["results"]]
    assert [run["cost"] for run in results[:2]] == [stated["cost"]] * 2
    assert entry_of(ledger, results[2]["id"])["request"]["mechanism"]["parts"][0] == stating(60_000)
    plan = ledger.post("/v1/plan", {"datasets": ["mnist"], "mechanism": EPOCHS, "solve_for": "epochs"})
    assert plan.json()["cost"] == stated["cost"]


@pytest.mark.parametrize(
    ("changes", "uses", "hint"),
    [
        ({"size": None}, ["mnist"], "registered without a size"),
        ({}, ["mnist", "fashion"], "units in common"),
        ({"partitions": ["2025", "2026"]}, [{"name": "mnist", "partitions": ["2025"]}], "a part of mnist"),
    ],
)
def test_a_size_that_nobody_knows_must_be_stated(
    ledger: Ledger, changes: dict[str, Any], uses: list[Any], hint: str
) -> None:
    """Goal: without a registered number that is that of the run, the field is named, with why. Method: no size, two
    datasets, a part of one; and the accountant alone, which has no dataset."""
    ledger.register(**changes)
    ledger.register(name="fashion")
    for answer in (
        ledger.ask(EPOCHS, datasets=uses),
        ledger.post("/v1/plan", {"datasets": uses, "mechanism": EPOCHS}),
    ):
        assert refusal(answer)[0] == FIELD
        assert hint in answer.json()["detail"]
    assert refusal(ledger.post("/v1/evaluate", {"mechanism": EPOCHS}))[0] == FIELD


def test_parts_and_several_datasets_have_bounds(ledger: Ledger) -> None:
    """Goal: a part is at most the whole; several datasets have between the largest and the sum, if all sizes are
    known; a derived one without a size has at most its root's. Method: just within and just beyond."""
    ledger.register(partitions=["2025", "2026"], budget={"mu": 9})
    ledger.register(name="small", size=10_000, budget={"mu": 9})
    ledger.register(name="unknown", size=None, budget={"mu": 9})
    derived = {"name": "half", "derived_from": [{"name": "small", "unit_preserving": True}]}
    assert ledger.post("/v1/datasets", derived).status_code == 201
    part = [{"name": "mnist", "partitions": ["2025"]}]
    for uses, within, beyond in (
        (part, (1, 63_000), 63_001),
        (["mnist", "small"], (57_000, 73_500), 73_501),
        (["mnist", "small"], (60_000, 70_000), 56_999),
        (["mnist", "unknown"], (57_000, 10**9), 56_999),
        (["half"], (1, 10_500), 10_501),
    ):
        for size in within:
            mechanism = stating(size, batch_size=1, noise_multiplier=50)
            assert ledger.ask(mechanism, datasets=uses).status_code == 201, (uses, size)
        answer = ledger.ask(stating(beyond, batch_size=1), datasets=uses)
        assert refusal(answer)[1] == beyond, uses


def test_a_job_can_be_settled_by_the_registered_size(ledger: Ledger) -> None:
    """Goal: the planned steps of a run that states no size are those of the registered one. Method: settle one step
    less, which is not everything, and then all."""
    ledger.register(size=300, budget={"mu": 5})
    run = ledger.ask({**EPOCHS, "batch_size": 100}).json()["id"]
    assert ledger.post(f"/v1/runs/{run}/start").status_code == 200
    fewer = ledger.post(f"/v1/runs/{run}/settle", {"steps": 5, "stop": "planned"})
    assert fewer.json()["field"] == "stop"
    assert ledger.post(f"/v1/runs/{run}/settle", {"steps": 6}).json()["state"] == "settled"


# --- expected batches and warnings ------------------------------------------------------------------------------------


def test_every_poisson_run_shows_its_expected_batch(ledger: Ledger) -> None:
    """Goal: an approval, a plan, an evaluation, a list and the entry have rate times size, of a schedule the least and
    the most; other batches and unknown sizes have none. Method: one of each, against the product."""
    ledger.register(budget={"mu": 9})
    ledger.register(name="unknown", size=None, budget={"mu": 9})
    approved = ledger.ask({**BY_RATE, "sample_rate": 0.00426667}).json()
    assert approved["expected_batch"] == {"size": 256, "units": 60_000}
    assert ledger.get(f"/v1/runs/{approved['id']}").json()["expected_batch"] == approved["expected_batch"]
    assert int(entry_of(ledger, approved["id"])["expected_batch"]["units"]) == 60_000
    phases = [{"noise_multiplier": 8, "sample_rate": rate, "steps": 5} for rate in (0.004, 0.008)]
    plan = {"datasets": ["mnist"], "mechanism": {**SCHEDULE, "phases": phases}}
    assert ledger.post("/v1/plan", plan).json()["expected_batch"] == {"size": 480, "least": 240, "units": 60_000}
    evaluation = {"bound": "clt", "mechanism": {**EPOCHS, "sampling": "poisson", "dataset_size": 5_000}}
    assert ledger.post("/v1/evaluate", evaluation).json()["expected_batch"] == {"size": 300, "units": 5_000}
    for mechanism, uses in (
        (EPOCHS, ["mnist"]),
        ({**BY_RATE, "sample_rate": 0.01}, ["unknown"]),
        ({"type": "gaussian", "noise_multiplier": 9}, ["mnist"]),
    ):
        answer = ledger.ask(mechanism, datasets=uses).json()
        assert answer["decision"] == "approved"
        assert not {"expected_batch", "warnings"} & answer.keys()


def test_a_rate_that_looks_like_a_percentage_is_warned_of(ledger: Ledger) -> None:
    """Goal: 40 % where 0.4 % was meant, and less than one unit in a batch, are warned of in approvals, refusals, plans
    and evaluations, with the rate that may be meant; a usual rate is not. Method: one of each; a hundred parts of a
    composed mechanism have few warnings."""
    ledger.register(budget={"mu": 5})
    (warning,) = ledger.ask({**BY_RATE, "sample_rate": 0.4}).json()["warnings"]
    assert "40 % of the units on average, 24000 of 60000" in warning
    assert "If 0.4 % was meant, the sample rate is 0.004." in warning
    (small,) = ledger.ask({**BY_RATE, "sample_rate": 0.00001}).json()["warnings"]
    assert "0.6 of 60000 units" in small
    refused = ledger.ask({**BY_RATE, "sample_rate": 0.4, "noise_multiplier": 0.2})
    assert (refused.status_code, len(refused.json()["warnings"])) == (409, 1)
    evaluated = ledger.post("/v1/evaluate", {"bound": "clt", "mechanism": {**BY_RATE, "sample_rate": 0.4}}).json()
    assert "40 %" in evaluated["warnings"][0]
    for usual in (0.01, 1):
        assert "warnings" not in ledger.ask({**BY_RATE, "noise_multiplier": 30, "sample_rate": usual}).json()
    parts = [{**BY_RATE, "sample_rate": 0.1 + step / 1000} for step in range(100)]
    plan = {"datasets": ["mnist"], "mechanism": {"type": "composed", "parts": parts}}
    assert len(ledger.post("/v1/plan", plan).json()["warnings"]) == 4


def test_delta_that_runs_out_before_mu_is_warned_of(ledger: Ledger) -> None:
    """Goal: from half of the delta on, if that is a larger part than of mu², answers, the dataset and the forecast say
    so, and how many such runs fit; before, and if mu runs out first, nothing does. Method: releases with a delta of a
    tenth of the limit, then noise that uses up mu."""
    ledger.register(bound="certified", budget={"mu": 1, "delta": 9.9e-6}, costing="standalone")
    release = {"type": "approximate_dp", "epsilon": 0.001, "delta": 1e-6}
    answers = [ledger.ask(release).json() for _ in range(6)]
    assert [("warnings" in answer) for answer in answers] == [False] * 4 + [True] * 2
    (text,) = answers[5]["warnings"]
    assert text.startswith("The delta of mnist runs out before mu: 60 % of delta is spent or held, and 0 % of mu².")
    assert "that fit: 3" in text
    shown = ledger.get("/v1/datasets/mnist").json()["warnings"]
    forecast = ledger.get("/v1/datasets/mnist/forecast").json()["warnings"]
    assert shown == forecast
    assert shown[0].startswith("The delta of mnist runs out before mu: 60 %")
    plan = ledger.post("/v1/plan", {"datasets": ["mnist"], "mechanism": release}).json()
    assert "70 % of delta" in plan["warnings"][0]
    assert ledger.ask({"type": "gaussian", "noise_multiplier": 1.2}).status_code == 201
    assert "warnings" not in ledger.get("/v1/datasets/mnist").json()


def test_entries_of_before_verify_and_replay(ledger: Ledger) -> None:
    """Goal: the new members are optional: a journal whose entries have them, and one without them, verify by both
    verifiers. Method: the export of each."""
    ledger.register(budget={"mu": 5})
    ledger.register(name="bare", size=None, budget={"mu": 5})
    assert "warnings" in ledger.ask({**BY_RATE, "sample_rate": 0.4}).json()
    assert "expected_batch" not in ledger.ask({**BY_RATE, "sample_rate": 0.01}, datasets=["bare"]).json()
    with_members, without = (journal(ledger, name)[-1] for name in (MNIST["name"], "bare"))
    assert {"expected_batch", "warnings"} <= with_members.keys()
    assert not {"expected_batch", "warnings"} & without.keys()

"""Cases that were reported from outside, replayed as they were sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.kit.driver import Ledger

_REPORTS: Final = Path(__file__).parents[1] / "cases" / "reports"


def replay(ledger: Ledger, name: str) -> list[Any]:
    """The answers to the steps of a report, in order."""
    steps = json.loads((_REPORTS / name).read_text(encoding="utf-8"))["steps"]
    answers: list[Any] = []
    last = ""
    for number, step in enumerate(steps):
        method, path = step["call"].replace("{last}", last).split()
        headers = {"Idempotency-Key": f"step-{number}"} if path == "/v1/runs" else {}
        answers.append(ledger.request(method, path, json=step["body"], headers=headers))
        last = answers[-1].json()["id"] if path == "/v1/runs" and answers[-1].is_success else last
    return answers


def test_a_very_small_delta_makes_no_cliff(ledger: Ledger) -> None:
    """Goal: with a delta limit of 1e-16 a run costs mu 0.00846, whether it names a share or not, and at a share of
    1e-18 epsilon is 0.07 and not 530. Method: T2-34 of the reports."""
    registered, unnamed, named, at_least, above = replay(ledger, "T2-34-very-small-delta.json")
    assert registered.status_code == 201
    for run in (unnamed, named):
        assert (run.status_code, run.json()["method"]) == (201, "pld-poisson"), run.text
    assert unnamed.json()["alone"]["mu"] == pytest.approx(0.00846, abs=1e-5)
    assert named.json()["alone"]["mu"] == pytest.approx(0.00846, abs=1e-5)
    for evaluated in (at_least, above):
        (point,) = evaluated.json()["epsilon"]
        assert 0.069 < point["value"] < 0.0704


@pytest.mark.parametrize("at_delta", [1e-17, 1e-18])
def test_a_delta_that_rounds_to_nothing_is_explained(ledger: Ledger, at_delta: float) -> None:
    """Goal: with the least delta that is counted a run is approved by its certificate; with less, which is none, the
    dataset warns, and the refusal names delta as the remedy. Method: a training that fits only with amplification."""
    made = ledger.register(bound="certified", budget={"epsilon": 1, "at_delta": at_delta}, size=None)
    mechanism = {"type": "dpsgd", "noise_multiplier": 4, "sampling": "poisson", "sample_rate": 0.00033, "steps": 100}
    answer = ledger.ask(mechanism)
    if at_delta == 1e-17:
        assert (answer.status_code, answer.json()["method"]) == (201, "pld-poisson")
        assert "warnings" not in made
        assert "runs out before mu" in answer.json()["warnings"][0]
        return
    assert "less than 1e-18 of delta" in made["warnings"][0]
    assert answer.status_code == 409
    assert "larger at_delta or slack" in answer.json()["warnings"][0]


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        ({"mechanism": {"type": "gaussian", "noise_multiplier": 4, "count": 2}}, None),
        ({"mechanism": {"type": "dpsgd", "noise_multiplier": 4, "sampling": "poisson", "sample_rate": 0.01}}, None),
        (
            {
                "mechanism": {"type": "dpsgd", "noise_multiplier": 4, "sampling": "poisson", "sample_rate": 0.01},
                "delta": 1e-8,
            },
            "leave out `delta`",
        ),
        ({"mechanism": {"type": "approximate_dp", "epsilon": 1, "delta": 1e-8}}, "smaller delta of its own"),
    ],
)
def test_an_epsilon_at_a_small_delta_holds_or_says_why_not(
    ledger: Ledger, body: dict[str, Any], hint: str | None
) -> None:
    """Goal: at 1e-9 a share of delta that fits is chosen; if a share is named, or the mechanism has a delta of its own,
    that is not below it, the answer says so and what to do. Method: one of each."""
    mechanism = body["mechanism"]
    steps = {"steps": 10} if mechanism["type"] == "dpsgd" else {}
    answer = ledger.post("/v1/evaluate", {**body, "mechanism": mechanism | steps, "report_deltas": [1e-9]})
    (point,) = answer.json()["epsilon"]
    if hint is None:
        assert point["value"] > 0
        assert "why" not in point
    else:
        assert point["value"] is None
        assert "1e-08, is not below 1e-09" in point["why"]
        assert hint in point["why"]


def test_a_budget_by_mu_shows_epsilon_where_one_holds(ledger: Ledger) -> None:
    """Goal: no dataset shows an epsilon that does not hold because of its own delta. Method: budgets by mu with more
    and more delta."""
    for number, delta in enumerate((1e-7, 1e-6, 1e-5, 0.09)):
        shown = ledger.register(name=f"by-mu-{number}", bound="certified", budget={"mu": 1, "delta": delta})
        assert shown["epsilon"]
        assert all(point["limit"] is not None and point["delta"] >= delta for point in shown["epsilon"])


def test_what_was_declared_too_low_is_put_right(ledger: Ledger) -> None:
    """Goal: a steward records, with evidence, that a settled run cost more than what it declared, although that does
    not fit: the account is overdrawn and the dataset frozen, as by an overrun. Method: T2-26 of the reports, and a
    correction of its first run to four times the rho, which is what the report's reason says."""
    registered, low, _, settled, voided, other, refused, *_ = replay(ledger, "T2-26-correct-a-settled-run.json")
    assert registered.status_code == 201
    assert (voided.status_code, voided.json()["code"], voided.json()["next"]) == (409, "run-state", ["correction"])
    assert (other.status_code, refused.status_code) == (201, 409)
    run, charged = low.json()["id"], settled.json()["charged"]["mu"]
    body: dict[str, Any] = {
        "mechanism": {"type": "zcdp", "rho": 0.08},
        "reason": "a quarter of the right rho was declared",
    }
    body |= {"decided_by_output": False, "evidence": {"review": "2026-11-30"}}
    corrected = ledger.post(f"/v1/runs/{run}/correction", body)
    assert corrected.status_code == 200, corrected.text
    answer = corrected.json()
    assert (answer["fits"], answer["frozen"], answer["number"]) == (False, ["topk"], 1)
    assert answer["before"]["mu"] == pytest.approx(charged)
    assert answer["charged"]["mu"] == answer["cost"]["mu"] > 2 * charged * 0.99
    assert answer["late"]["mu"] ** 2 == pytest.approx(answer["charged"]["mu"] ** 2 - charged**2)
    topk = ledger.get("/v1/datasets/topk").json()
    assert topk["state"] == "frozen"
    assert [one["name"] for one in answer["overdrawn"]] == ["topk"]
    again = ledger.post(f"/v1/runs/{run}/correction", body)
    assert (again.status_code, again.json()) == (200, answer)
    shown = ledger.get(f"/v1/runs/{run}").json()
    assert shown["settled"]["charged"]["mu"] == pytest.approx(charged)
    (listed,) = shown["corrections"]
    assert (listed["reason"], listed["charged"]) == (body["reason"], answer["charged"])
    receipt = ledger.get(f"/v1/runs/{run}/receipt").json()
    assert (receipt["code"], receipt["corrections"]) == ("run-state", 1)
    assert "A correction followed" in receipt["detail"]


def test_a_composed_run_counts_once_among_those_sampled_alike(ledger: Ledger) -> None:
    """Goal: the report counts runs, and not their parts, by how they draw batches. Method: one run of two parts."""
    ledger.register(bound="certified", budget={"epsilon": 8, "at_delta": 1e-5})
    part = {"type": "dpsgd", "noise_multiplier": 2, "sampling": "poisson", "sample_rate": 0.01}
    composed = {"type": "composed", "parts": [{**part, "steps": 10}, {**part, "steps": 20}]}
    assert ledger.ask(composed).status_code == 201
    assumed = ledger.get("/v1/datasets/mnist/report").json()["assumptions"]
    (sampled,) = [one["sentence"] for one in assumed if one["about"] == "sampling"]
    assert sampled.startswith("1 run declared Poisson sampling")

"""Costs beside what is left, over HTTP: many small runs fit, the answers say so, and the journal verifies."""

from __future__ import annotations

from typing import Any

from tests.kit.driver import Ledger

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

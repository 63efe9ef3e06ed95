"""Costs beside what is left, over HTTP: many small runs fit, the answers say so, and the journal verifies."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update

from ledger.alerting.least import LeastLimits
from ledger.cli import recomputing, show
from ledger.core.amounts import Amount
from ledger.operate.check import check_journals
from ledger.recompute import LeastLimit, recompute
from ledger.settings import Settings
from ledger.store.tables import datasets
from ledger.verifier import verify
from tests.kit.driver import Ledger, past_the_ledger

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

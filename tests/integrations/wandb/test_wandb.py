"""Weights & Biases, offline: the summary and the receipt of a run, read back from the file that it would upload."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import wandb

from ledger.client import Ledger, Run
from ledger.client.trackers import log_to_wandb
from ledger.errors import InvalidRequest
from tests.integrations.scene import demand_numbers, demand_refused, demand_texts, trained


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, _here: None) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def test_a_run_is_logged_at_start_and_when_settled(ledger: Ledger, dataset: str) -> None:
    """Goal: the summary has the plan while it trains and the charge afterwards; the receipt is an artifact."""

    def log(run: Run) -> None:
        log_to_wandb(run, ledger=ledger)
        demand_texts(dict(active.summary), run, state="started")
        demand_numbers(dict(active.summary), steps=None)

    with wandb.init(project="tests", dir=".") as active:
        run = trained(ledger, dataset, log, steps=3)
        demand_texts(dict(active.summary), run, state="settled")
        demand_numbers(dict(active.summary), steps=3)
    wandb.teardown()  # writes what is not written yet
    (kept,) = Path("wandb").glob("offline-run-*/*.wandb")
    raw = kept.read_bytes()
    assert f"receipt-{run.id}".encode() in raw
    assert b"privacy_ledger/charged_mu" in raw


def test_what_cannot_be_logged(ledger: Ledger, dataset: str, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: without an active run there is an error with what to do; a refused run logs nothing; if the tracker's run
    is finished first, the run is settled all the same, with a warning."""
    with pytest.raises(InvalidRequest, match="no run of Weights & Biases is active"):
        trained(ledger, dataset, log_to_wandb)
    with wandb.init(project="tests", dir=".") as active:
        demand_refused(ledger, dataset, partial(log_to_wandb, ledger=ledger))
        assert not [name for name in dict(active.summary) if name.startswith("privacy_ledger")]

    def log(run: Run) -> None:
        log_to_wandb(run)
        wandb.finish()

    wandb.init(project="tests", dir=".")
    run = trained(ledger, dataset, log)
    assert ledger.run_info(run.id)["state"] == "settled"
    assert "Afterwards a function in at_end failed" in caplog.text

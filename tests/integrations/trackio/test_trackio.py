"""Trackio: the values and the receipt of a run, read back from its database."""

from __future__ import annotations

import json
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trackio

from ledger.client import Ledger, Run
from ledger.client.trackers import log_to_trackio
from ledger.errors import InvalidRequest
from tests.integrations.scene import demand_numbers, demand_refused, demand_texts, trained

PROJECT = "tests"


def logged(project: str = PROJECT) -> list[dict[str, Any]]:
    """What was logged in a project, one mapping for each call."""
    (file,) = Path(trackio.utils.TRACKIO_DIR).glob(f"{project}.db")
    with sqlite3.connect(file) as connection:
        return [json.loads(row[0]) for row in connection.execute("SELECT metrics FROM metrics ORDER BY id")]


def test_a_run_is_logged_at_start_and_when_settled(ledger: Ledger, dataset: str) -> None:
    """Goal: the first values are the plan, the last the charge; the receipt is an artifact, byte by byte."""
    trackio.init(project=PROJECT, name=dataset, config={"epochs": 1})
    run = trained(ledger, dataset, partial(log_to_trackio, ledger=ledger), steps=2)
    artifact = trackio.use_artifact(f"receipt-{run.id}:latest")
    assert Path(artifact.download(), "receipt.jwt").read_text() == run.receipt
    trackio.finish()
    first, last = logged()
    demand_texts(first, run, state="started")
    demand_numbers(first, steps=None)
    demand_texts(last, run, state="settled")
    demand_numbers(last, steps=2)


def test_what_cannot_be_logged(ledger: Ledger, dataset: str) -> None:
    """Goal: without an active run there is an error with what to do, and a refused run logs nothing."""
    with pytest.raises(InvalidRequest, match="no run of Trackio is active"):
        trained(ledger, dataset, log_to_trackio)
    trackio.init(project="refused", name=dataset)

    def log(run: Run) -> None:
        log_to_trackio(run, ledger=ledger)

    demand_refused(ledger, dataset, log)
    trackio.log({"loss": 1})
    trackio.finish()
    assert logged("refused") == [{"loss": 1}]

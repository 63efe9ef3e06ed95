"""MLflow: tags, metrics and the receipt of a run, in a store that is a database."""

from __future__ import annotations

from functools import partial

import mlflow
import pytest

from ledger.client import Gaussian, Ledger, Run
from ledger.client.trackers import log_to_mlflow
from ledger.errors import InvalidRequest
from tests.integrations.scene import demand_numbers, demand_refused, demand_texts, trained


@pytest.fixture(autouse=True)
def _store(_here: None) -> None:
    mlflow.set_tracking_uri("sqlite:///mlflow.db")


def test_a_run_is_logged_at_start_and_when_settled(ledger: Ledger, dataset: str) -> None:
    """Goal: MLflow's run has the plan while it trains and the charge afterwards, and the whole receipt, byte by byte.
    Method: an early stop; MLflow's client reads all of it back."""
    client = mlflow.MlflowClient()

    def log(run: Run) -> None:
        log_to_mlflow(run, ledger=ledger)
        data = client.get_run(active.info.run_id).data
        demand_texts(data.tags, run, state="started")
        demand_numbers(data.metrics, steps=None)

    with mlflow.start_run() as active:
        run = trained(ledger, dataset, log, steps=2)
    data = client.get_run(active.info.run_id).data
    demand_texts(data.tags, run, state="settled")
    demand_numbers(data.metrics, steps=2)
    assert mlflow.artifacts.load_text(f"{active.info.artifact_uri}/privacy_ledger/receipt.jwt") == run.receipt


def test_mlflows_run_may_end_first(ledger: Ledger, dataset: str) -> None:
    """Goal: the settlement reaches a run of MLflow that has ended, and no other one that is active by then."""
    with ledger.run(datasets=[dataset], mechanism=Gaussian(noise_multiplier=30)) as run:
        with mlflow.start_run() as first:
            log_to_mlflow(run)
            run.step()
        other = mlflow.start_run()
    mlflow.end_run()
    client = mlflow.MlflowClient()
    assert client.get_run(first.info.run_id).data.tags["privacy_ledger/state"] == "settled"
    assert "privacy_ledger/run" not in client.get_run(other.info.run_id).data.tags


def test_what_cannot_be_logged(ledger: Ledger, dataset: str) -> None:
    """Goal: without an active run there is an error with what to do, and a refused run logs nothing."""
    with pytest.raises(InvalidRequest, match="no MLflow run is active"):
        trained(ledger, dataset, log_to_mlflow)
    with mlflow.start_run() as active:
        demand_refused(ledger, dataset, partial(log_to_mlflow, ledger=ledger))
    assert "privacy_ledger/run" not in mlflow.MlflowClient().get_run(active.info.run_id).data.tags


def test_the_tracker_never_fails_a_finished_run(ledger: Ledger, dataset: str, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: a tracker that is gone at the end costs a warning. Method: MLflow's run is deleted while it trains."""

    def log(run: Run) -> None:
        log_to_mlflow(run)
        mlflow.delete_run(active.info.run_id)

    active = mlflow.start_run()
    run = trained(ledger, dataset, log)
    mlflow.MlflowClient().restore_run(active.info.run_id)
    mlflow.end_run()
    assert ledger.run_info(run.id)["state"] == "settled"
    assert "Afterwards a function in at_end failed" in caplog.text

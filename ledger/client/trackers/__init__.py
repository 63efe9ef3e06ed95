"""Put a run's id, cost, decision and receipt on the run of an experiment tracker: MLflow, Weights & Biases, Trackio.

    with mlflow.start_run(), ledger.run(datasets=["mnist"], mechanism=mechanism) as run:
        log_to_mlflow(run)
        train(run)

One line does it: it logs what is known at the start, and again what is known when the run is settled. It imports the
tracker's library when it is called. What is unknown, pending or infinite is left out: it is never logged as 0.

    facts    what is logged, as texts and finite numbers
    linked   log now, and again when the run has ended
    mlflow, wandb, trackio: one tracker each
"""

from ledger.client.trackers.mlflow import log_to_mlflow
from ledger.client.trackers.trackio import log_to_trackio
from ledger.client.trackers.wandb import log_to_wandb

__all__ = ["log_to_mlflow", "log_to_trackio", "log_to_wandb"]

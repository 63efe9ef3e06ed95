"""MLflow: tags, metrics and an artifact.

MLflow cuts a tag after 8,000 characters and logs a warning, so the receipt is an artifact, and its digest a tag. A
database stores an infinite metric as 1.8e308, so only finite numbers are logged.
"""

from __future__ import annotations

import importlib

from ledger.client.runs import Run
from ledger.client.trackers.facts import PREFIX, Asked, Facts
from ledger.client.trackers.linked import RECEIPT_FILE, link, loaded
from ledger.errors import InvalidRequest


def log_to_mlflow(run: Run, *, ledger: Asked | None = None, run_id: str | None = None) -> None:
    """Log a run to MLflow: texts as tags, numbers as metrics, the receipt as an artifact; again when it has ended.

    ledger: a client, to log the percent of the budget and epsilon too. run_id: of MLflow's run; default: the active
    one. Raises Misconfigured if MLflow is missing, and InvalidRequest if no run is active.
    """
    mlflow = loaded(lambda: importlib.import_module("mlflow"), package="mlflow")
    active = mlflow.active_run()
    if run_id is None and active is None:
        raise InvalidRequest(
            "run_id: no MLflow run is active. Begin one around this: with mlflow.start_run(): …", field="run_id"
        )
    target, client = run_id or active.info.run_id, mlflow.MlflowClient()

    def log(facts: Facts) -> None:
        for name, text in facts.texts.items():
            client.set_tag(target, name, text)
        for name, number in facts.numbers.items():
            client.log_metric(target, name, number)
        if facts.receipt is not None:
            client.log_text(target, facts.receipt, f"{PREFIX}{RECEIPT_FILE}")

    link(run, ledger, log)

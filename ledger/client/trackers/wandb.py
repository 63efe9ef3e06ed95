"""Weights & Biases: the summary of the run, and an artifact."""

from __future__ import annotations

import importlib
from typing import Any

from ledger.client.runs import Run
from ledger.client.trackers.facts import Asked, Facts
from ledger.client.trackers.linked import RECEIPT_FILE, link, loaded
from ledger.errors import InvalidRequest


def log_to_wandb(run: Run, *, ledger: Asked | None = None, wandb_run: Any = None) -> None:
    """Log a run to Weights & Biases: texts and numbers in the summary, the receipt as an artifact; again when it has
    ended, so let that be before `wandb.finish()`.

    ledger: a client, to log the percent of the budget and epsilon too. wandb_run: default: the active run. Raises
    Misconfigured if wandb is missing, and InvalidRequest if no run is active.
    """
    wandb = loaded(lambda: importlib.import_module("wandb"), package="wandb")
    target = wandb_run if wandb_run is not None else wandb.run
    if target is None:
        raise InvalidRequest(
            "wandb_run: no run of Weights & Biases is active. Begin one before this: wandb.init(…)", field="wandb_run"
        )
    is_first = True

    def log(facts: Facts) -> None:
        nonlocal is_first
        target.summary.update({**facts.texts, **facts.numbers})
        if facts.receipt is not None and is_first:
            artifact = wandb.Artifact(f"receipt-{run.id}", type="privacy-ledger-receipt")
            with artifact.new_file(RECEIPT_FILE) as file:
                file.write(facts.receipt)
            target.log_artifact(artifact)
        is_first = False

    link(run, ledger, log)

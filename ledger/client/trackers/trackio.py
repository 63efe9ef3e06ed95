"""Trackio: values of the run, and an artifact.

Trackio stores the configuration of a run with its first values; what is added later is lost. So all is
logged as values.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

from ledger.client.runs import Run
from ledger.client.trackers.facts import Asked, Facts
from ledger.client.trackers.linked import RECEIPT_FILE, link, loaded
from ledger.errors import InvalidRequest


def log_to_trackio(run: Run, *, ledger: Asked | None = None, trackio_run: Any = None) -> None:
    """Log a run to Trackio: texts and numbers as values, the receipt as an artifact; again when it has ended.

    ledger: a client, to log the percent of the budget and epsilon too. trackio_run: what `trackio.init` returned;
    default: the active run. Raises Misconfigured if trackio is missing, and InvalidRequest if no run is active.
    """
    trackio = loaded(lambda: importlib.import_module("trackio"), package="trackio")
    target = trackio_run if trackio_run is not None else trackio.context_vars.current_run.get()
    if target is None:
        raise InvalidRequest(
            "trackio_run: no run of Trackio is active. Begin one before this: trackio.init(…)", field="trackio_run"
        )
    is_first = True

    def log(facts: Facts) -> None:
        nonlocal is_first
        target.log({**facts.texts, **facts.numbers})
        if facts.receipt is not None and is_first:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, RECEIPT_FILE)
                file.write_text(facts.receipt)
                target.log_artifact(file, name=f"receipt-{run.id}", type="privacy-ledger-receipt")
        is_first = False

    link(run, ledger, log)

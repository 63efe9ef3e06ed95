"""Ray Tune: a trainable whose every training is an approved run.

Ray starts a failed trial again, in another process, and reports the last attempt alone. Each attempt here has a run of
its own, which counts the steps of that attempt.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ledger.client.runs import Run
from ledger.client.trackers.linked import loaded

if TYPE_CHECKING:
    from ledger.client.sweeps.sweep import Sweep


def trainable(sweep: Sweep, train: Callable[[dict[str, Any], Run], Any]) -> Callable[[dict[str, Any]], Any]:
    """Return the trainable. Arguments: `Sweep.trainable`. Raises Misconfigured if ray is missing."""
    loaded(lambda: importlib.import_module("ray.tune"), package="'ray[tune]'")

    def trained(config: dict[str, Any]) -> Any:
        from ray import tune  # in the worker

        with sweep.trial(sweep.number_of(tune.get_context().get_trial_id())) as run:
            return train(config, run)

    return trained

"""Optuna: an objective whose every training is an approved run.

Optuna's retries copy the user attributes of the trial that failed, so nothing is kept there. The number of a trial is
how many trials of the study before it are no retries; a retry is an attempt of the trial that failed first.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from ledger.client.runs import Run
from ledger.client.sweeps.trials import NotApproved
from ledger.client.trackers.linked import loaded

if TYPE_CHECKING:
    from ledger.client.sweeps.sweep import Sweep

_FAILED: Final = "failed_trial"
"""Where Optuna's retry callback writes which trial failed first, in what it calls system attributes."""
_HISTORY: Final = "retry_history"


def objective(sweep: Sweep, train: Callable[[Any, Run], Any], *, first: int) -> Callable[[Any], Any]:
    """Return the objective. Arguments: `Sweep.objective`. Raises Misconfigured if optuna is missing."""
    optuna = loaded(lambda: importlib.import_module("optuna"), package="optuna")

    def trained(trial: Any) -> Any:
        number, attempt = place_of(trial.study.get_trials(deepcopy=False), trial.number)
        training = sweep.trial(number - first, attempt=attempt, ends=(optuna.TrialPruned,))
        try:
            run = training.__enter__()
        except NotApproved as error:
            with suppress(RuntimeError):  # a trial that was asked for by study.ask()
                trial.study.stop()
            raise optuna.TrialPruned(str(error)) from error
        try:
            value = train(trial, run)
        except BaseException as error:
            training.__exit__(type(error), error, error.__traceback__)
            raise
        training.__exit__(None, None, None)
        return value

    return trained


def place_of(trials: Sequence[Any], number: int) -> tuple[int, int]:
    """Return which trial of a study that is without its retries, and which attempt, from 0 on."""
    facts = trials[number].system_attrs
    before = trials[: facts.get(_FAILED, number)]
    return sum(_FAILED not in one.system_attrs for one in before), len(facts.get(_HISTORY, ()))

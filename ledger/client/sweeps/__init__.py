"""Many trainings that are approved together: trials of a search, each with its retries, and each settled.

    with ledger.sweep("lr-search", datasets=["mnist"], mechanism=mechanism, trials=200, failures=1) as sweep:
        study.optimize(sweep.objective(train), n_trials=len(sweep))

Each training is a run of its own, whose idempotency key is the sweep's name, the trial's number and the attempt. All
are asked for before the first one begins, retries too. What was not needed gives back in any order.

    sweep     the trials of a sweep, and which run each training has
    trials    the context manager around one training
    optuna    an objective for Optuna
    ray       a trainable for Ray Tune
    sklearn   estimators of scikit-learn, of which each fit is a run
"""

from ledger.client.sweeps.sklearn import count_fits, uncharged
from ledger.client.sweeps.sweep import Sweep
from ledger.client.sweeps.trials import NotApproved

__all__ = ["NotApproved", "Sweep", "count_fits", "uncharged"]

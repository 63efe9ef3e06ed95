#!/usr/bin/env bash
# optuna 5.0.0, seen on 2026-11-30: a retried trial has the user attributes of the trial that failed.
#
# Believed: a user attribute states something about its own trial, so that a sum over trials counts each value once.
# Happens: RetryFailedTrialCallback copies the attributes into the new trial. What the failed trial noted, such as the
# privacy budget that it spent until it broke off, is in both.
# Who is hurt: anyone who adds up costs of trials from user attributes: retries are counted again.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optuna==5.0.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import optuna
from optuna.storages import RetryFailedTrialCallback
from optuna.trial import TrialState

optuna.logging.set_verbosity(optuna.logging.CRITICAL)
retry = RetryFailedTrialCallback(max_retry=1)
noted = []


def objective(trial):
    if trial.number == 0:
        trial.set_user_attr("epsilon", 1.0)
        noted.append(1.0)
        raise RuntimeError("the node was lost")
    return 0.0


def after(study, trial):
    # A storage calls it for trials whose process died; here the trial failed in this process.
    if trial.state is TrialState.FAIL:
        retry(study, trial)


study = optuna.create_study()
study.optimize(objective, n_trials=2, catch=(RuntimeError,), callbacks=[after])
for trial in study.trials:
    print(f"trial {trial.number}: {trial.state.name}, {trial.user_attrs}")
added = sum(trial.user_attrs.get("epsilon", 0) for trial in study.trials)
print(f"noted {sum(noted)}, added up over trials {added}")
assert added == 2 * sum(noted) == 2.0
print("still so")
PYTHON

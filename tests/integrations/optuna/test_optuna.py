"""Optuna: every training of a study is an approved run, pruned, failed and retried ones too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials

from ledger.client import Gaussian, Ledger, Run

RELEASES = Gaussian(noise_multiplier=60, count=10)
UNIT = 277_777_778
"""mu² of one of these releases, in units of 1e-12, rounded up."""


def charged(ledger: Ledger, run_id: str) -> int:
    """What a run was charged, in units of 1e-12 of mu²."""
    return int(ledger.run_info(run_id)["settled"]["charged"]["mu_sq_pico"])


def states(ledger: Ledger, dataset: str) -> Counter[str]:
    """How many runs are in which state."""
    return Counter(run["state"] for run in ledger.runs(dataset=dataset))


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_pruned_and_failed_trials_are_charged_for_what_they_executed(ledger: Ledger, dataset: str) -> None:
    """Goal: a limit of trials limits trainings; each is charged for the steps that it counted, whatever became of it.
    Method: a study asks for nine trials of a sweep of six; every third is pruned after two steps, one fails after
    three; an independent count of the executed steps."""
    executed: dict[int, int] = {}

    def train(trial: optuna.Trial, run: Run) -> float:
        executed[trial.number] = 0
        trial.set_user_attr("spent", 1)  # it is nobody's business here
        for step in range(10):
            run.step()
            executed[trial.number] += 1
            if trial.number % 3 == 0 and step == 1:
                raise optuna.TrialPruned
            if trial.number == 4 and step == 2:
                raise ArithmeticError("a loss that is not a number")
        return float(trial.suggest_float("x", 0, 1))

    with ledger.sweep(f"s-{dataset[:20]}", datasets=[dataset], mechanism=RELEASES, trials=6) as sweep:
        study = optuna.create_study()
        study.optimize(sweep.objective(train), n_trials=9, catch=ArithmeticError)
        runs = [sweep.runs_of(number)[0] for number in range(6)]
    assert executed == {0: 2, 1: 10, 2: 10, 3: 2, 4: 3, 5: 10}
    # A failed training may have begun a step more.
    steps = {**executed, 4: 4}
    for number, run_id in enumerate(runs):
        assert 0 <= charged(ledger, run_id) - UNIT * (steps[number] - 1) <= UNIT, number
    assert states(ledger, dataset) == {"settled": 6}
    assert study.trials[6].state is optuna.trial.TrialState.PRUNED
    assert len(study.trials) == 7  # the study was stopped


def test_several_threads_never_share_a_run(ledger: Ledger, dataset: str) -> None:
    """Goal: with n_jobs each training has its own run. Method: the ids that the trainings saw."""
    seen: list[str] = []

    def train(trial: optuna.Trial, run: Run) -> float:
        run.step(10)
        seen.append(run.id)
        return float(trial.number)

    with ledger.sweep(f"s-{dataset[:20]}", datasets=[dataset], mechanism=RELEASES, trials=8) as sweep:
        optuna.create_study().optimize(sweep.objective(train), n_trials=8, n_jobs=3)
    assert len(seen) == len(set(seen)) == 8
    assert states(ledger, dataset) == {"settled": 8}


def test_ask_and_tell(ledger: Ledger, dataset: str) -> None:
    """Goal: without an objective a trial trains by its number. Method: two trials, and one that is not approved."""
    with ledger.sweep(f"s-{dataset[:20]}", datasets=[dataset], mechanism=RELEASES, trials=2) as sweep:
        study = optuna.create_study()
        for _ in range(2):
            trial = study.ask()
            with sweep.trial(trial.number) as run:
                run.step(10)
            study.tell(trial, 0.5)
        with pytest.raises(optuna.TrialPruned):
            sweep.objective(lambda _trial, _run: 1.0)(study.ask())
    assert states(ledger, dataset) == {"settled": 2}


WORKER = """
import os, signal, sys
import optuna
from ledger.client import Gaussian, Ledger

name, dataset, failures, kill_at = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
storage = optuna.storages.RDBStorage(
    "sqlite:///study.db", heartbeat_interval=1, grace_period=1,
    heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=failures),
)
study = optuna.create_study(storage=storage, study_name="s", load_if_exists=True)
done = open("executed", "a")

def train(trial, run):
    for step in range(10):
        run.step()
        done.write(f"{run.id}\\n")
        done.flush()
        if trial.number == kill_at and step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
    return 1.0

with Ledger() as ledger, ledger.sweep(
    name, datasets=[dataset], mechanism=Gaussian(noise_multiplier=60, count=10), trials=4, failures=failures
) as sweep:
    study.optimize(sweep.objective(train), n_trials=4 if kill_at >= 0 else 3)
print("over")
"""


def test_a_killed_study_goes_on_with_its_retries(ledger: Ledger, dataset: str, tmp_path: Path) -> None:
    """Goal: a worker that is killed within a trial, and started again, trains the trial's next attempt under a run of
    its own, and every training is settled, for at least what it executed; nothing depends on user attributes, which
    Optuna copies. Method: SIGKILL in trial 1; Optuna fails it by its missing heartbeat and asks for a retry."""
    name, state = f"k-{dataset[:20]}", {"LEDGER_STATE_DIR": str(tmp_path / "state")}

    def work(kill_at: int) -> subprocess.CompletedProcess[str]:
        words: list[str] = [name, dataset, "1", str(kill_at)]
        command = [sys.executable, "-c", WORKER, *words]
        return subprocess.run(command, env={**os.environ, **state}, capture_output=True, text=True, check=False)

    assert work(1).returncode == -9
    retried = RetryHeartbeatStaleTrialCallback(max_retry=1)
    watching = {"heartbeat_interval": 1, "grace_period": 1, "heartbeat_stale_trial_callback": retried}
    study = optuna.load_study(storage=RDBStorage("sqlite:///study.db", **watching), study_name="s")
    while not any("retry_history" in trial.system_attrs for trial in study.trials):
        fail_stale_trials(study)
    ended = work(-1)
    assert ended.stdout == "over\n", ended.stderr
    executed = Counter((tmp_path / "executed").read_text().split())
    assert sorted(executed.values()) == [5, 10, 10, 10, 10]
    for run_id, steps in executed.items():
        assert charged(ledger, run_id) >= (UNIT - 1) * steps
    assert states(ledger, dataset) == {"settled": 5, "voided": 3}

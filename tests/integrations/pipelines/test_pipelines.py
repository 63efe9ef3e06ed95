"""Hydra and Metaflow: every job and every attempt of a task is an approved run, found by the sweep's name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ledger.client import Gaussian, Ledger
from ledger.client.sweeps import Sweep

RELEASES = Gaussian(noise_multiplier=60, count=8)
UNIT = 277_777_778
"""mu² of one of these releases, in units of 1e-12, rounded up."""

HYDRA = """
import os
import hydra
from hydra.core.hydra_config import HydraConfig
from ledger.client import Gaussian, Ledger

@hydra.main(config_path=None, config_name=None, version_base=None)
def job(config):
    with Ledger() as ledger:
        name, dataset = os.environ["SEARCH"], os.environ["DATASET"]
        sweep = ledger.sweep(name, datasets=[dataset], mechanism=Gaussian(noise_multiplier=60, count=8), trials=4)
        with sweep.trial(HydraConfig.get().job.num) as run, open(os.environ["EXECUTED"], "a") as log:
            for step in range(8):
                run.step()
                log.write(f"{run.id}\\n")
                if config.x == 2 and step == 2:
                    raise ArithmeticError("not a number")

job()
"""

METAFLOW = """
import os
from metaflow import FlowSpec, current, retry, step
from ledger.client import Gaussian, Ledger

def search(ledger):
    name, dataset = os.environ["SEARCH"], os.environ["DATASET"]
    mechanism = Gaussian(noise_multiplier=60, count=8)
    return ledger.sweep(name, datasets=[dataset], mechanism=mechanism, trials=3, failures=1)

class Search(FlowSpec):
    @step
    def start(self):
        self.rates = [1, 2, 3]
        self.next(self.train, foreach="rates")

    @retry(times=1, minutes_between_retries=0)
    @step
    def train(self):
        with Ledger() as ledger, search(ledger).trial(self.index) as run, open(os.environ["EXECUTED"], "a") as log:
            for step in range(8):
                run.step()
                log.write(f"{run.id}\\n")
                if self.input == 2 and step == 2 and current.retry_count == 0:
                    raise ArithmeticError("not a number")
        self.next(self.join)

    @step
    def join(self, inputs):
        with Ledger() as ledger:
            search(ledger).finish()
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    Search()
"""


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the jobs read."""
    own = {
        "EXECUTED": tmp_path / "executed",
        "LEDGER_STATE_DIR": tmp_path / "state",
        "METAFLOW_HOME": tmp_path / "home",
    }
    for name, value in {**own, "SEARCH": f"s-{dataset[:20]}", "DATASET": dataset, "USER": "somebody"}.items():
        monkeypatch.setenv(name, str(value))


def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A program that ran to its end."""
    Path("program.py").write_text(program)
    return subprocess.run([sys.executable, "program.py", *words], capture_output=True, text=True, check=False)


def demand_charged(ledger: Ledger, dataset: str, executed: Counter[str], **states: int) -> None:
    """Every run that executed is settled, for at least what it executed, and the runs are in these states."""
    for run_id, steps in executed.items():
        charged = int(ledger.run_info(run_id)["settled"]["charged"]["mu_sq_pico"])
        assert (UNIT - 1) * steps <= charged <= UNIT * (steps + 1)
    assert Counter(run["state"] for run in ledger.runs(dataset=dataset)) == states


def test_each_job_of_a_multirun_is_a_run(ledger: Ledger, dataset: str) -> None:
    """Goal: a multirun of which one job fails is charged for all its jobs, each for what it executed. Method: three
    jobs, the second fails after three steps; an independent count; then the sweep is finished."""
    done = run(HYDRA, "-m", "+x=1,2,3")
    assert done.returncode == 1
    assert "not a number" in done.stderr
    executed = Counter(Path(os.environ["EXECUTED"]).read_text().split())
    assert sorted(executed.values()) == [3, 8, 8]
    again: Sweep = ledger.sweep(os.environ["SEARCH"], datasets=[dataset], mechanism=RELEASES, trials=4)
    assert again.finish() == {"settled": [], "voided": [*again.runs_of(3)], "started": []}
    demand_charged(ledger, dataset, executed, settled=3, voided=1)


def test_each_attempt_of_a_task_is_a_run(ledger: Ledger, dataset: str) -> None:
    """Goal: a task that Metaflow retries is charged for each attempt. Method: the second of three tasks fails at first,
    after three steps; an independent count; the step that joins finishes the sweep."""
    done = run(METAFLOW, "run", "--max-workers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    executed = Counter(Path(os.environ["EXECUTED"]).read_text().split())
    assert sorted(executed.values()) == [3, 8, 8, 8]
    demand_charged(ledger, dataset, executed, settled=4, voided=2)

"""Ray Tune: every attempt of a trial is an approved run, in Ray's own processes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune

from ledger.client import Gaussian, Ledger, Run

RELEASES = Gaussian(noise_multiplier=60, count=8)
UNIT = 277_777_778
"""mu² of one of these releases, in units of 1e-12, rounded up."""


@pytest.fixture(autouse=True)
def _cluster(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster on this machine, whose workers have this environment."""
    monkeypatch.setenv("LEDGER_STATE_DIR", str(tmp_path_factory.mktemp("state")))
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "0")
    given = {name: value for name, value in os.environ.items() if name.startswith("LEDGER_") or name == "PYTHONPATH"}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": given})
    yield
    ray.shutdown()


def states(ledger: Ledger, dataset: str) -> Counter[str]:
    """How many runs are in which state."""
    return Counter(run["state"] for run in ledger.runs(dataset=dataset))


def fitted(sweep: Any, train: Any, executed: Path, *, samples: int, failures: int = 0) -> Any:
    """The results of Ray's search."""
    return tune.Tuner(
        tune.with_resources(sweep.trainable(train), {"cpu": 1}),
        param_space={"x": tune.uniform(0, 1), "executed": str(executed)},
        tune_config=tune.TuneConfig(num_samples=samples, max_concurrent_trials=2),
        run_config=tune.RunConfig(
            storage_path=str(executed.parent / "ray"),
            failure_config=tune.FailureConfig(max_failures=failures),
            verbose=0,
        ),
    ).fit()


def test_each_attempt_is_charged_for_what_it_executed(ledger: Ledger, dataset: str, tmp_path: Path) -> None:
    """Goal: a trial that Ray starts again is charged for each attempt, although Ray reports the last one alone; also if
    its process is killed. Method: every first attempt fails after three steps, of one trial by SIGKILL; the executed
    steps are counted in a file."""

    def train(config: dict[str, Any], run: Run) -> dict[str, float]:
        import os
        import signal
        from pathlib import Path

        from ray import tune

        name = tune.get_context().get_trial_id()
        mark = Path(config["executed"]).with_name(f"mark-{name}")
        is_first = not mark.exists()
        is_killed = is_first and not any(mark.parent.glob("mark-*"))
        mark.touch()
        with Path(config["executed"]).open("a") as log:
            for step in range(8):
                run.step()
                log.write(f"{run.id}\n")
                log.flush()
                if is_first and step == 2:
                    if is_killed:
                        os.kill(os.getpid(), signal.SIGKILL)
                    raise ArithmeticError("not a number")
        return {"loss": config["x"]}

    executed = tmp_path / "executed"
    with ledger.sweep(
        f"s-{dataset[:20]}", datasets=[dataset], mechanism=RELEASES, trials=3, failures=1, as_many_as_fit=True
    ) as sweep:
        results = fitted(sweep, train, executed, samples=3, failures=1)
    assert [result.error for result in results] == [None] * 3
    steps = Counter(executed.read_text().split())
    assert sorted(steps.values()) == [3, 3, 3, 8, 8, 8]
    for run_id, count in steps.items():
        settled = ledger.run_info(run_id)["settled"]
        assert int(settled["charged"]["mu_sq_pico"]) >= (UNIT - 1) * count
    assert states(ledger, dataset) == {"settled": 6}


def test_a_trial_that_is_not_approved_does_not_train(ledger: Ledger, dataset: str, tmp_path: Path) -> None:
    """Goal: of five trials that Ray starts, only the two that were approved train. Method: an independent count."""

    def train(config: dict[str, Any], run: Run) -> dict[str, float]:
        run.step(8)
        with Path(config["executed"]).open("a") as log:
            log.write(f"{run.id}\n")
        return {"loss": config["x"]}

    executed = tmp_path / "executed"
    with ledger.sweep(f"s-{dataset[:20]}", datasets=[dataset], mechanism=RELEASES, trials=2) as sweep:
        results = fitted(sweep, train, executed, samples=5)
    errors = [str(result.error) for result in results if result.error is not None]
    assert len(errors) == 3
    assert all("NotApproved" in error for error in errors)
    assert len(set(executed.read_text().split())) == 2
    assert states(ledger, dataset) == {"settled": 2}

"""Sweeps: many trainings that are approved together, and each settled, whatever happens to their processes."""

from __future__ import annotations

import copy
import os
import pickle
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ledger
from ledger.client import BatchRefused, Gaussian, Run
from ledger.client import Ledger as Client
from ledger.client.sweeps import NotApproved, Sweep, uncharged
from ledger.client.sweeps.optuna import place_of
from ledger.client.sweeps.sklearn import charged
from ledger.errors import InvalidRequest
from ledger.settings import Settings
from tests.kit.driver import MNIST, first_keys, serve_here

RELEASES = Gaussian(noise_multiplier=50, count=20)
"""Costs mu² 0.008, a twentieth of it for each release."""
UNIT = 4 * 10**8
THIRTY_SEVEN = {"mu": 0.545}
"""A budget of mu² 0.297, into which 37 of these fit."""


class Stopped(Exception):
    """A trial ends here."""


def stop_after(run: Run, steps: int) -> None:
    """Execute a few steps of a trial, which then ends."""
    run.step(steps)
    raise Stopped


def open_sweep(client: Client, **more: Any) -> Sweep:
    """A sweep of 200 trials on a dataset that takes 37 runs."""
    return client.sweep("search", **{"datasets": ["small"], "mechanism": RELEASES, "trials": 200, **more})


@pytest.fixture
def small(client: Client) -> str:
    """The name of a dataset that takes 37 runs."""
    client.register(**{**MNIST, "name": "small", "budget": THIRTY_SEVEN})
    return "small"


def states(client: Client) -> Counter[str]:
    """How many runs are in which state."""
    return Counter(run["state"] for run in client.runs(dataset="small"))


def spent(client: Client) -> int:
    """What was spent of mu², in units of 1e-12; nothing is held any more."""
    balance = client.dataset("small")["balance"]
    assert int(balance["held"]["mu_sq_pico"]) == 0
    return int(balance["spent"]["mu_sq_pico"])


def test_thirty_seven_of_two_hundred(client: Client, small: str) -> None:
    """Goal: all or none approves nothing and names how many trials fit; as many as fit approves exactly those; no other
    training begins; what is not begun is given back at the end. Method: two trials train, one is stopped early."""
    with pytest.raises(BatchRefused) as refused:
        open_sweep(client)
    assert refused.value.facts["trials_fitting"] == 37
    assert not states(client)
    with open_sweep(client, as_many_as_fit=True) as sweep:
        assert (sweep.approved, len(sweep)) == (list(range(37)), 37)
        assert states(client) == {"held": 37}
        with sweep.trial(0) as run:
            run.step(20)
        for number, ends in ((1, [Stopped]), (2, [])):
            with pytest.raises(Stopped), sweep.trial(number, ends=ends) as run:
                stop_after(run, 5)
        for number in (0, 37, 199, -1):
            with pytest.raises(NotApproved), sweep.trial(number):
                raise AssertionError("it trains")
    assert states(client) == {"settled": 3, "voided": 34}
    # The third may have begun a release that it did not count.
    assert spent(client) == UNIT * (20 + 5 + 6)
    with pytest.raises(NotApproved), open_sweep(client, as_many_as_fit=True).trial(5):
        raise AssertionError("a sweep that is over trains")


def test_retries_are_reserved_and_settled_by_attempts(client: Client, small: str) -> None:
    """Goal: each trial has a run for each attempt; a trial that does not fit with all of them is not approved. Method:
    18 of 37 runs with two each; a trial fails once, another fails twice."""
    with open_sweep(client, failures=1, as_many_as_fit=True) as sweep:
        assert len(sweep) == 18
        assert {len(sweep.runs_of(number)) for number in sweep.approved} == {2}
        assert states(client) == {"held": 36, "voided": 1}
        for number, fails in ((0, 1), (1, 2)):
            for attempt in range(2):
                try:
                    with sweep.trial(number) as run:
                        run.step(20 if attempt >= fails else 3)
                        if attempt < fails:
                            raise Stopped
                except Stopped:
                    continue
            with pytest.raises(NotApproved, match="2 that were approved"), sweep.trial(number):
                raise AssertionError("it trains")
        with pytest.raises(NotApproved), sweep.trial(0, attempt=2):
            raise AssertionError("it trains")
    assert spent(client) == UNIT * (20 + 4 + 4 + 4)
    assert states(client) == {"settled": 4, "voided": 33}


def test_mechanisms_of_their_own(client: Client, small: str) -> None:
    """Goal: each trial may have its own mechanism, and those that do not fit are left out, whatever their number."""
    large = Gaussian(noise_multiplier=1)
    with open_sweep(client, mechanism=[RELEASES, large, RELEASES], trials=None, as_many_as_fit=True) as sweep:
        assert sweep.approved == [0, 2]
        with sweep.trial(2) as run:
            assert run.planned_steps == 20
    with pytest.raises(BatchRefused, match="fits"):
        client.sweep("large", datasets=["small"], mechanism=large, trials=3, as_many_as_fit=True)


def test_wrong_sweeps(client: Client, small: str) -> None:
    """Goal: each mistake names its field; the name of another sweep is not taken over."""
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"trials": None}, "trials"),
        ({"trials": 0}, "trials"),
        ({"trials": 501, "failures": 1}, "trials"),
        ({"failures": -1}, "trials"),
        ({"mechanism": [RELEASES], "trials": 2}, "trials"),
    ]
    for more, field in wrong:
        with pytest.raises(InvalidRequest) as error:
            open_sweep(client, **more)
        assert error.value.facts["field"] == field
    with pytest.raises(InvalidRequest, match="name: 'a b'"):
        client.sweep("a b", datasets=["small"], mechanism=RELEASES, trials=1)
    open_sweep(client, trials=2)
    for mode in (True, False):
        with pytest.raises(InvalidRequest, match="asked for before"):
            open_sweep(client, trials=2, mechanism=Gaussian(noise_multiplier=60), as_many_as_fit=mode)


def test_trials_that_another_library_names(client: Client, small: str) -> None:
    """Goal: a name has one number, also for a process that got the sweep by pickle; no more names than trials have one.
    Method: names in any order, and a copy."""
    sweep = open_sweep(client, trials=3)
    assert [sweep.number_of(name) for name in ("b", "a", "b", "c")] == [0, 1, 0, 2]
    with pytest.raises(NotApproved):
        sweep.number_of("d")
    os.environ.update(LEDGER_URL="http://127.0.0.1:9", LEDGER_KEY="pbl_other")
    try:
        again = pickle.loads(pickle.dumps(sweep))  # noqa: S301 (our own)
    finally:
        del os.environ["LEDGER_URL"], os.environ["LEDGER_KEY"]
    assert b"pbl_" not in pickle.dumps(sweep)
    assert (again.number_of("a"), again.approved) == (1, sweep.approved)


class Estimator:
    """What scikit-learn's estimators are to a search: parameters, and a fit."""

    def __init__(self, *, scale: float = 1) -> None:
        self.scale, self.fits = scale, 0

    def get_params(self, *, deep: bool = True) -> dict[str, Any]:
        return {"scale": self.scale}

    def fit(self, data: Any) -> Estimator:
        self.fits += 1
        return self

    def fit_transform(self, data: Any) -> Any:
        return self.fit(data)


def test_each_fit_of_a_clone_is_charged(client: Client, small: str) -> None:
    """Goal: a copy of the estimator, as a search makes it, is charged for each fit; a fit within a fit counts once; one
    that is not approved does not happen. Method: three approved fits, and five tried."""
    sweep = open_sweep(client, trials=3)
    estimator = charged(sweep, Estimator(scale=3))
    clones = [type(estimator)(**copy.deepcopy(estimator.get_params())) for _ in range(3)]
    clones[0].fit(None)
    clones[0].fit(None)
    clones[1].fit_transform(None)
    for method in ("fit", "fit_transform"):
        with pytest.raises(NotApproved):
            getattr(clones[2], method)(None)
    assert [clone.fits for clone in clones] == [2, 1, 0]
    plain = uncharged(clones[0])
    assert (type(plain), plain.scale, plain.fits) == (Estimator, 3, 2)
    assert states(client) == {"settled": 3}
    for call, value in ((uncharged, plain), (lambda one: charged(sweep, one), estimator)):
        with pytest.raises(InvalidRequest):
            call(value)


def test_the_place_of_an_optuna_trial() -> None:
    """Goal: retries take numbers of the study, and none of the sweep's. Method: trial 1 fails twice and 3 once; the
    retries are trials 2, 4 and 5 of the study."""
    histories: list[list[int]] = [[], [], [1], [], [1, 2], [3], []]
    attributes = [{"failed_trial": each[0], "retry_history": each} if each else {} for each in histories]
    trials = [SimpleNamespace(system_attrs=each) for each in attributes]
    places = [place_of(trials, number) for number in range(7)]
    assert places == [(0, 0), (1, 0), (1, 1), (2, 0), (1, 2), (2, 1), (3, 0)]


SEARCH = """
import hashlib, os, sys
from ledger.client import Gaussian, Ledger
from ledger.client.sweeps import NotApproved

folder, failures = sys.argv[1], int(sys.argv[2])
with Ledger() as ledger, ledger.sweep(
    "killed", datasets=["small"], mechanism=Gaussian(noise_multiplier=50, count=20), trials=200, failures=failures,
    as_many_as_fit=True,
) as sweep:
    print(len(sweep), flush=True)
    for number in range(200):
        try:
            with sweep.trial(number) as run:
                log = os.open(f"{folder}/{number}-{run.id}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                for _ in range(20):
                    run.step()
                    os.write(log, b".")
                    hashlib.pbkdf2_hmac("sha256", b"", b"", 4000)
        except NotApproved:
            continue
print("over", flush=True)
"""


@pytest.mark.parametrize("failures", [0, 1])
def test_a_sweep_that_is_killed_and_started_again(
    database: Settings, tmp_path: Path, failures: int, tries: Callable[[int, int], int]
) -> None:
    """Goal: of 200 trials exactly those that fit are approved, none trains without approval, and at the end each is
    settled, for at least what its process executed. Method: real processes that are killed at random points, until one
    ends; each writes a byte for each release."""
    chance, key = random.Random(37), first_keys(database).admin_key
    done = tmp_path / "done"
    done.mkdir()
    with serve_here(database.model_copy(update={"watch_seconds": 3600})) as url, Client(url, key) as client:
        client.register(**{**MNIST, "name": "small", "budget": THIRTY_SEVEN})
        for _ in range(tries(3, 12)):
            process = search(url, key, done, failures)
            before, more = files_in(done), chance.randint(1, 8)
            wait_for(process, lambda before=before, more=more: files_in(done) >= before + more)  # type: ignore[misc]
            process.kill()
            process.communicate()
        assert "started" in states(client)
        last = search(url, key, done, failures)
        printed, errors = last.communicate(timeout=120)
        assert printed.split() == [str(37 // (failures + 1)), "over"], errors
        runs = {run["id"]: run for run in client.runs(dataset="small")}
        executed = {path.name.partition("-")[2]: path.stat().st_size for path in done.iterdir()}
        numbers = {int(path.name.partition("-")[0]) for path in done.iterdir()}
        assert numbers <= set(range(37 // (failures + 1)))
        assert len(runs) == 37
        assert {run["state"] for run in runs.values()} <= {"settled", "voided"}
        for run_id, steps in executed.items():
            info = client.run_info(run_id)
            assert info["state"] == "settled"
            assert UNIT * steps <= int(info["settled"]["charged"]["mu_sq_pico"]) <= UNIT * 20
        if failures:
            # Whatever was killed was made again, as often as was reserved.
            whole = Counter(path.name.partition("-")[0] for path in done.iterdir() if path.stat().st_size == 20)
            assert len(whole) == 18
        assert spent(client) == sum(
            int(client.run_info(run_id)["settled"]["charged"]["mu_sq_pico"])
            for run_id, run in runs.items()
            if run["state"] == "settled"
        )


UNCOUNTED = """
import sys
from ledger.client import Gaussian, Ledger

with Ledger() as ledger, ledger.sweep(
    "silent", datasets=["small"], mechanism=Gaussian(noise_multiplier=50, count=20), trials=2
) as sweep, sweep.trial(0):
    print("trains", flush=True)
    sys.stdin.read()
"""


def test_a_killed_training_that_counted_nothing_is_charged_in_full(database: Settings, tmp_path: Path) -> None:
    """Goal: without a count it is not known what was executed, so the whole plan counts. Method: a process is killed
    within a training that never calls `run.step`; another one finishes the sweep."""
    key = first_keys(database).admin_key
    with serve_here(database.model_copy(update={"watch_seconds": 3600})) as url, Client(url, key) as client:
        client.register(**{**MNIST, "name": "small", "budget": THIRTY_SEVEN})
        process = search(url, key, tmp_path, 0, program=UNCOUNTED)
        assert process.stdout is not None
        assert process.stdout.readline() == "trains\n"
        alive = client.sweep("silent", datasets=["small"], mechanism=RELEASES, trials=2)
        assert states(client) == {"started": 1, "held": 1}  # its process lives
        with pytest.raises(NotApproved), alive.trial(0):
            raise AssertionError("it trains beside the other process")
        process.kill()
        process.communicate()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("socket.gethostname", lambda: "another-host")  # it shares the folder, and maybe no locks
            assert alive.settle_lost() == []
        assert alive.finish() == {
            "settled": [*alive.runs_of(0)],
            "voided": [*alive.runs_of(1)],
            "started": [],
        }
        assert spent(client) == UNIT * 20


def search(url: str, key: str, folder: Path, failures: int, program: str = SEARCH) -> subprocess.Popen[str]:
    """A process that searches. It does not know how long it lives."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
    given = {"LEDGER_URL": url, "LEDGER_KEY": key, "LEDGER_STATE_DIR": os.environ["LEDGER_STATE_DIR"]}
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder), str(failures)],
        env={**mine, "PYTHONPATH": str(Path(ledger.__file__).parent.parent), **given},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def files_in(folder: Path) -> int:
    """How many trainings began."""
    return len(list(folder.iterdir()))


def wait_for(process: subprocess.Popen[str], happens: Callable[[], bool]) -> None:
    """Wait until something happens or the process ends, for a bounded time."""
    end = time.monotonic() + 120
    while process.poll() is None and not happens():
        assert time.monotonic() < end, "it did not happen"

"""Training processes that are really killed, whose network is really cut, and that really are several.

Each is a Python process of its own, which talks to a server over TCP and writes a byte to a file for each step that it
executes. What the ledger has at the end is compared with these bytes.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ledger
from ledger.client import Ledger as Client
from ledger.settings import Settings
from tests.kit.driver import MNIST, first_keys, serve_here
from tests.kit.lines import Line, line_to

PLANNED = 60
UNIT = 4 * 10**8
"""mu² of a release with noise multiplier 50, in units of 1e-12."""

TRAIN = """
import hashlib, os, sys
from ledger.client import Gaussian, Ledger, LedgerError, PlanExceeded

log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
print("began", flush=True)
try:
    with Ledger() as ledger:
        with ledger.run(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=50, count=60)) as run:
            print(run.id, flush=True)
            for _ in range(60):
                run.step()
                os.write(log, b".")
                hashlib.pbkdf2_hmac("sha256", b"", b"", 4000)
except PlanExceeded:
    print("the plan ends")
print("saved", flush=True)
"""

TOGETHER = """
import os, pathlib, sys, time
from ledger.client import Gaussian, Ledger

folder, rank, size = pathlib.Path(sys.argv[1]), os.environ["RANK"], int(os.environ["WORLD_SIZE"])
with Ledger() as ledger, ledger.run(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=50, count=3)) as run:
    (folder / f"entered-{rank}").write_text(run.id)
    while len(list(folder.glob("entered-*"))) < size:  # as the first collective operation does
        time.sleep(0.01)
    for _ in range(3):
        run.step()
print(run.id, run.settled is not None)
"""


@pytest.fixture
def key(database: Settings) -> str:
    """The admin's key."""
    return first_keys(database).admin_key


@pytest.fixture
def line(database: Settings, key: str) -> Iterator[Line]:
    """A line to a server with the dataset `mnist`."""
    with serve_here(database.model_copy(update={"watch_seconds": 3600})) as url, line_to(url) as line:
        with Client(url, key) as client:
            client.register(**MNIST)
        yield line


def started(program: str, line: Line, key: str, *words: str, **environ: str) -> subprocess.Popen[str]:
    """A process that trains. It does not know how long it lives."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
    return subprocess.Popen(
        [sys.executable, "-c", program, *words],
        env={
            **mine,
            "PYTHONPATH": str(Path(ledger.__file__).parent.parent),
            "LEDGER_URL": line.url,
            "LEDGER_KEY": key,
            "LEDGER_STATE_DIR": os.environ["LEDGER_STATE_DIR"],
            **environ,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def size_of(file: Path) -> int:
    """How many bytes a file has; none if it is not there."""
    return file.stat().st_size if file.exists() else 0


def wait_for(process: subprocess.Popen[str], happens: Callable[[], bool]) -> None:
    """Wait until something happens or the process ends, for a bounded time."""
    end = time.monotonic() + 60
    while process.poll() is None and not happens():
        assert time.monotonic() < end, "it did not happen"


def test_whatever_kills_a_job_it_is_charged_for_what_it_executed(
    line: Line, key: str, tmp_path: Path, tries: Callable[[int, int], int]
) -> None:
    """Goal: after restarts the ledger's state is what was executed, under the sound rule: never less, and never more
    than was written down ahead. Method: processes killed at random points of the start and of the training, whose
    line is cut at random, until one ends; then what it left is sent. Each release is charged by itself."""
    chance = random.Random(22)
    spent = 0
    for number in range(tries(1, 30)):
        log = tmp_path / f"executed-{number}"
        for _ in range(chance.randint(1, 2)):
            process = started(TRAIN, line, key, str(log))
            assert process.stdout is not None
            point = chance.choice(["start", "training", "training"])
            if point == "start":
                line.loses_answers = chance.random() < 0.5
                process.stdout.readline()
                begin = time.monotonic()
                delay = chance.uniform(0, 0.6)
                wait_for(process, lambda begin=begin, delay=delay: time.monotonic() > begin + delay)  # type: ignore[misc]
            else:
                goal = size_of(log) + chance.randint(1, 20)
                wait_for(process, lambda log=log, goal=goal: size_of(log) >= goal)  # type: ignore[misc]
            process.kill()
            process.communicate()
            line.mend()
        last = started(TRAIN, line, key, str(log))
        before = size_of(log)
        wait_for(last, lambda log=log, before=before: size_of(log) > before)  # type: ignore[misc]
        is_cut = number % 2 == 0
        if is_cut:
            line.cut()
        out, err = last.communicate(timeout=60)
        assert out.endswith("saved\n"), err
        line.mend()
        with Client(line.url, key) as client:
            if is_cut and "is kept on disk" in err:
                assert [sent["outcome"][:7] for sent in client.settle_pending()["sent"]] == ["settled"]
            (run,) = [item for item in client.runs(state="settled") if item["id"] == out.split()[1]]
            executed, charged = size_of(log), run["settled"]["steps"]
            assert executed <= charged <= PLANNED
            assert int(run["settled"]["charged"]["mu_sq_pico"]) == charged * UNIT
            spent += charged * UNIT
            balance = client.dataset("mnist")["balance"]
            assert (int(balance["spent"]["mu_sq_pico"]), int(balance["held"]["mu_sq_pico"])) == (spent, 0)
            # Begun again from scratch, it has the whole plan to go through, and ends where that was executed.
            assert charged == PLANNED
            if number % 5 == 4:
                client.set_budget("mnist", budget={"mu": 1000, "delta": 1e-6}, reason="for more of these")


def test_processes_that_train_together_ask_once(line: Line, key: str, tmp_path: Path) -> None:
    """Goal: under torchrun one process asks and settles, and the others train under its run. Method: three processes,
    the first of them last."""
    world = {"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none"}
    waiting = [started(TOGETHER, line, key, str(tmp_path), RANK=str(rank), **world) for rank in (2, 1)]
    assert waiting[0].stderr is not None
    assert "Process 2 of 3 waits until process 0 has started the run." in waiting[0].stderr.readline()
    ranks = [*waiting, started(TOGETHER, line, key, str(tmp_path), RANK="0", **world)]
    said = [process.communicate(timeout=60) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0, 0], said
    with Client(line.url, key) as client:
        (run,) = client.runs()
        assert (run["state"], run["settled"]["steps"]) == ("settled", 3)
    assert [out.split() for out, _ in said] == [[run["id"], "False"], [run["id"], "False"], [run["id"], "True"]]


def test_the_client_is_small_and_quick(tmp_path: Path) -> None:
    """Goal: `import ledger.client` loads nothing of the server, nor httpx, filelock and platformdirs before they are
    needed."""
    program = "import sys, ledger.client; print(*sys.modules)"
    environ = {**os.environ, "PYTHONPATH": str(Path(ledger.__file__).parent.parent)}
    loaded = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    modules = set(loaded.stdout.split())
    assert "ledger.client.scopes" in modules
    heavy = {"httpx", "filelock", "platformdirs", "sqlalchemy", "pydantic", "numpy", "typer", "rich", "jwt"}
    assert not modules & heavy

"""Opacus: how a training ends, what a later process goes on with, and what is recorded for the list of known faults.

Goal of all: whatever ends a training, the ledger charges what was executed, and nothing is raised out of one that is
over. A run of the integration is cleared of every known fault of Opacus, by facts.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

for _name in ("torch", "opacus", "sklearn"):
    pytest.importorskip(_name, reason=f"{_name} is not installed: see `make test` about requirements-training.lock")

import torch
from torch.utils.data import DataLoader

import ledger
from ledger.advisories import Advisory, advisories, recorded, touched
from ledger.client import Ledger as Client
from ledger.client import Unreachable
from ledger.client.opacus import NotCovered
from ledger.client.opacus.evidence import RULED_OUT, RULED_OUT_BY_DRAWS
from ledger.service.requests.fields import NOTES_BYTES_MAX
from tests.conftest import Templates
from tests.kit.clients import Faults, connect, died
from tests.kit.driver import Ledger, Terminal, first_keys, serve_here
from tests.kit.lines import Line, line_to
from tests.kit.opacus_scene import DIGITS, Executed, Made, make

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
LIBRARIES = {one.library for one in advisories()}
OF_OPACUS = [one for one in advisories() if one.library in ("opacus", "torch")]

TRAIN = """
import os, sys, warnings
warnings.simplefilter("ignore")
import torch
from opacus import PrivacyEngine
from torch.utils.data import DataLoader, TensorDataset
from ledger.client.opacus import attach

torch.manual_seed(7)
torch.set_num_threads(1)
data = TensorDataset(torch.zeros(200, 4), torch.zeros(200, dtype=torch.long))
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
engine = PrivacyEngine(accountant="rdp")
training = attach(engine, dataset="digits", epochs=1, nominal_size=200)
model, optimizer, loader = engine.make_private(
    module=model, optimizer=optimizer, data_loader=DataLoader(data, batch_size=10),
    noise_multiplier=2.0, max_grad_norm=1.0,
)
print(training.run.id, flush=True)
batches = iter(loader)
for batch, _ in zip(batches, range(int(sys.stdin.readline()))):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()
print("trained", flush=True)
sys.stdin.readline()
print("saved", flush=True)
"""


@pytest.fixture
def line(templates: Templates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """A line to a server with the dataset `digits`; the environment leads to it."""
    with templates.clone("sqlite", tmp_path, is_begun=False) as settings:
        key = first_keys(settings).admin_key
        quiet = settings.model_copy(update={"watch_seconds": 3600})
        with serve_here(quiet) as url, line_to(url) as line, Client(url, key) as client:
            client.register(
                name="digits",
                privacy_unit="record",
                adjacency="add_or_remove_one",
                bound="certified",
                budget={"mu": 2, "delta": 1e-5},
            )
            monkeypatch.setenv("LEDGER_URL", line.url)
            monkeypatch.setenv("LEDGER_KEY", key)
            monkeypatch.setenv("PYTHONPATH", str(Path(ledger.__file__).parent.parent))
            yield line


def training(steps: int, file: Path) -> subprocess.Popen[str]:
    """A process that trains so many steps and then waits for a line of its input."""
    file.write_text(TRAIN)
    process = subprocess.Popen(
        [sys.executable, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ),
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(f"{steps}\n")
    process.stdin.flush()
    return process


def read(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_killed_begun_again_and_left_alone_by_the_ledger(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Goal: a killed training is found again by the same script, without a key or a count; the ledger that is gone at
    the end, of a script that never calls finish(), does not end it with an error; and `settle --pending` settles for
    what both executed. Method: two real processes, a kill, a line that is cut, and the command line."""
    file = tmp_path / "train.py"
    first = training(5, file)
    run = read(first)
    assert read(first) == "trained"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = training(7, file)
    assert read(second) == run
    assert read(second) == "trained"
    line.cut()
    out, err = second.communicate("\n", timeout=60)
    assert (second.returncode, out) == (0, "saved\n"), err
    assert "The settlement is kept on disk" in err
    line.mend()
    terminal = Terminal(monkeypatch, capfd)
    assert terminal("settle --pending").status == 0
    shown = terminal(f"run show {run} --json").json
    settled = shown["settled"]
    # 5 executed, at most 7 of them and two more written down ahead, 7 executed; one more may have begun.
    assert shown["state"] == "settled"
    assert 5 + 7 <= settled["steps"] <= 20
    assert len(settled["restarts"]) == 1
    assert settled["evidence"]["opacus"]["resumed"] is True
    assert settled["evidence"]["opacus"]["steps"] == 7
    assert "got noise" not in json.dumps(settled["evidence"])
    answer = terminal("advisories digits --json").json
    assert (answer["read"], answer["items"], answer["not_recorded"]) == (1, [], 0)


def test_a_ledger_that_is_gone_at_the_end(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: finish() raises nothing out of a finished training, keeps the settlement once, and sends it later."""
    faults = Faults()
    ledger.register(name="digits", size=None, bound="certified", budget={"mu": 30, "delta": 1e-3})
    with connect(ledger, faults) as client:
        made = make(client, batch_size=300)
        batches = iter(made.loader)
        for _ in range(4):
            made.step(next(batches))
        faults.script = ["refuse"] * 100
        made.training.finish()
        sent = len(faults.seen)
        made.training.finish()
        assert len(faults.seen) == sent
        assert (made.training.run.is_pending, made.training.run.settled) == (True, None)
        assert "kept on disk" in caplog.text
        faults.script = []
        (outcome,) = client.settle_pending()["sent"]
        assert outcome["run"] == made.training.run.id
        settled = client.run_info(made.training.run.id)["settled"]
        assert (settled["steps"], settled["evidence"]["opacus"]["steps"]) == (4, 4)


def test_a_shorter_training_says_what_can_be_done(opacus_client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: one that stops early is charged in full, with a way out that `attach` has: it takes no segments."""
    trained(opacus_client)
    assert "stopped after 2 of 6 steps and is charged in full" in caplog.text
    assert "attach one for each part of it" in caplog.text
    assert "segments" not in caplog.text


def test_offline_and_unreachable_starts_fail_soon(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, executed: Executed
) -> None:
    """Goal: without a ledger nothing is trained: offline at once, unreachable after few waits, each of which is
    logged as a warning."""
    faults = Faults(["refuse"] * 100)
    with connect(ledger, faults) as client:
        with pytest.raises(Unreachable):
            make(client)
        waits = [record for record in caplog.records if "Again in" in record.getMessage()]
        assert len(waits) == len(faults.seen) - 1 <= 3
        assert {record.levelname for record in waits} == {"WARNING"}
    monkeypatch.setenv("LEDGER_OFFLINE", "1")
    with connect(ledger, faults) as client, pytest.raises(Unreachable, match="LEDGER_OFFLINE"):
        make(client)
    assert not executed.batches


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Executed:
    """What is really drawn and added in this test."""
    return Executed.watch(monkeypatch)


def test_shuffled_epochs_that_go_on(opacus_client: Client) -> None:
    """Goal: a shuffled loader never goes on within a pass, so a restart that leaves out the steps of a begun one is
    refused, and the passes that were ended before count. Method: 3 passes of 6 batches, killed in the second; the
    refusal leaves the run as it was."""
    plan: dict[str, Any] = {
        "dataset": "public",
        "epochs": 3,
        "batch_size": 300,
        "private": {"poisson_sampling": False},
        "idempotency_key": "shuffled",
    }
    made = make(opacus_client, **plan)
    made.epoch()
    batches = iter(made.loader)
    for _ in range(2):
        made.step(next(batches))
    died(made.training.run)
    atexit.unregister(made.training._end)
    statements: tuple[Any, ...] = ([], None)
    for unstated in statements:
        with pytest.raises(NotCovered, match=r"'from_step': 7, 'to_step': 8, 'new_batches': True"):
            make(opacus_client, **plan, steps_done=8, restarts=unstated)
    assert opacus_client.run_info(made.training.run.id)["state"] == "started"
    restarts = [{"from_step": 7, "to_step": 8, "new_batches": True}]
    again = make(opacus_client, **plan, steps_done=8, restarts=restarts)
    assert again.training.run.id == made.training.run.id
    for _ in range(2):
        next(iter(again.loader))
        again.training.discard()
    with pytest.raises(NotCovered, match="Pass 4 over the shuffled batches is beyond the 3 epochs"):
        next(iter(again.loader))
    again.training.finish()


def trained(client: Client, **plan: Any) -> dict[str, Any]:
    """The settled run of a training with two steps."""
    made: Made = make(client, batch_size=300, **plan)
    batches = iter(made.loader)
    for _ in range(2):
        made.step(next(batches))
    made.training.finish()
    return client.run_info(made.training.run.id)


def found(run: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """The advisories about Opacus that touch a run, each with what the run does not record."""
    record = recorded(run, known=LIBRARIES)
    assert {"opacus", "torch"} <= record.libraries.keys()
    hits = {one.id: touched(one, record) for one in OF_OPACUS}
    return {name: hit.unrecorded for name, hit in hits.items() if hit is not None}


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"private": {"loss_reduction": "sum", "clipping": "per_layer", "max_grad_norm": [1.0, 1.0]}},
        {"private": {"grad_sample_mode": "ghost"}},
        {"draws_per_step": 2},
        {"dataset": "public", "private": {"poisson_sampling": False}},
        {"noise_schedule": [(2.0, 3), (1.5, 3)]},
    ],
)
def test_a_run_is_cleared_of_known_faults(opacus_client: Client, plan: dict[str, Any]) -> None:
    """Goal: `privacy-ledger advisories` clears what `attach` trained of every known fault, and leaves a third of
    what the evidence of a settlement may have to its caller. Method: each kind of training that it covers."""
    run = trained(opacus_client, **plan)
    assert found(run) == {}
    assert len(json.dumps(run["settled"]["evidence"]).encode()) <= NOTES_BYTES_MAX - 1_400


def test_what_was_not_checked_is_not_cleared(opacus_client: Client) -> None:
    """Goal: where somebody put another loader around the sampler, what needs the draw of each step is not cleared
    unless an option states it; and without the options nothing that was not checked is."""
    made = make(opacus_client, batch_size=300)
    made.epoch(DataLoader(DIGITS, batch_sampler=made.loader.batch_sampler))
    made.training.finish()
    run = opacus_client.run_info(made.training.run.id)
    assert found(run) == {
        "opacus-float16-skipped-steps": ("precision",),
        "opacus-left-over-gradients": ("batch_memory_manager", "left_epoch_early"),
    }
    run["settled"]["evidence"]["opacus"]["options"] = {}
    assert found(run).keys() == {one.id for one in OF_OPACUS if one.id in RULED_OUT_BY_DRAWS}


def test_every_fault_of_opacus_was_decided() -> None:
    """Goal: an advisory about Opacus that is new makes somebody decide whether `attach` checks it."""
    known: dict[str, Advisory] = {one.id: one for one in OF_OPACUS}
    assert sorted((*RULED_OUT, *RULED_OUT_BY_DRAWS)) == sorted(known)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tests run beside each other, and a matrix of digits is small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

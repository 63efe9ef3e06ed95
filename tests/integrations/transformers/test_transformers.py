"""Trainer of transformers: the run that is asked for is what it executes, counted at the sampler and the noise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from opacus import PrivacyEngine
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainerCallback

from ledger.client import BudgetExceeded, Ledger
from ledger.client.transformers import LedgerCallback, NotCovered
from tests.integrations.printed import demand_true
from tests.integrations.transformers.scene import SIZE, Cancer, Linear, asked, private, trainer
from tests.kit.opacus_scene import Executed

pytestmark = pytest.mark.filterwarnings("ignore")
torch.set_num_threads(1)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Executed:
    """What is really drawn and added in this test."""
    return Executed.watch(monkeypatch)


PLANS: dict[str, tuple[dict[str, Any], int]] = {
    "epochs": ({"num_train_epochs": 2}, 12),
    "part": ({"num_train_epochs": 1.4}, 9),
    "steps": ({"max_steps": 8}, 8),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", PLANS)
def test_what_is_asked_is_what_is_executed(
    ledger: Ledger, records: str, executed: Executed, tmp_path: Path, name: str, workers: int
) -> None:
    """Goal: epochs and steps of the Trainer give the steps that it makes. Method: counts of draws and noise."""
    options, steps = PLANS[name]
    one = trainer(tmp_path, dataloader_num_workers=workers, **options)
    callback = private(ledger, records, one)
    one.train()
    mechanism = asked(ledger, callback)
    assert (mechanism["steps"], mechanism["sampling"], mechanism["noise_multiplier"]) == (steps, "poisson", 2.0)
    assert one.state.global_step == steps
    assert len(executed.noises) == 2 * steps
    assert {std for std, _ in executed.noises} == {2.0}
    assert set(executed.rates) == {1 / 6}
    assert one.model.sizes == executed.batches[:steps]
    info = ledger.run_info(callback.training.run.id)
    assert (info["state"], info["settled"]["steps"]) == ("settled", steps)
    evidence = info["settled"]["evidence"]["opacus"]
    assert evidence["libraries"]["transformers"].startswith("5.24.")
    assert evidence["differences"] == []
    assert not any(hasattr(parameter, "grad_sample") for parameter in one.model.parameters())


def test_empty_draws_have_noise(ledger: Ledger, records: str, executed: Executed, tmp_path: Path) -> None:
    """Goal: an empty draw is a step with noise, though a model of transformers takes no empty batch."""
    one = trainer(tmp_path, data=Cancer(4), per_device_train_batch_size=1, num_train_epochs=1)
    callback = private(ledger, records, one, nominal_size=40)
    one.train()
    assert executed.batches.count(0) > 5
    assert one.model.sizes == [size for size in executed.batches if size]
    assert (one.state.global_step, len(executed.noises)) == (40, 2 * 40)
    assert callback.training.differences() == []


def test_a_trainer_forgets_no_gradient(ledger: Ledger, records: str, executed: Executed, tmp_path: Path) -> None:
    """Goal: the objects of make_private alone fail in a Trainer at the second step, which is why the callback drops the
    gradients; and a second `train` of the same Trainer is another run with an optimizer of its own."""
    one = trainer(tmp_path, max_steps=3)
    _, optimizer, loader = PrivacyEngine().make_private(
        module=one.model,
        optimizer=torch.optim.SGD(one.model.parameters(), lr=0.1),
        data_loader=DataLoader(Cancer(), batch_size=100),
        noise_multiplier=2.0,
        max_grad_norm=1.0,
        wrap_model=False,
    )
    one.optimizer, one.get_train_dataloader = optimizer, lambda: loader
    with pytest.raises(ValueError, match="not compatible with grad accumulation"):
        one.train()
    assert len(executed.noises) == 2
    executed.noises.clear()
    other = trainer(tmp_path, max_steps=3)
    callback = private(ledger, records, other)
    other.train()
    first = callback.training.run.id
    other.train()
    assert callback.training.run.id != first
    assert len(executed.noises) == 2 * 6


def test_a_refused_training_uses_no_data(ledger: Ledger, records: str, executed: Executed, tmp_path: Path) -> None:
    """Goal: what does not fit draws nothing."""
    tiny = f"tiny-{records}"
    budget = {"mu": 1e-3, "delta": 1e-6}
    ledger.register(name=tiny, privacy_unit="record", adjacency="add_or_remove_one", budget=budget)
    one = trainer(tmp_path, max_steps=3)
    private(ledger, tiny, one)
    with pytest.raises(BudgetExceeded):
        one.train()
    assert not executed.batches
    assert not one.model.sizes


class Rows(Linear):
    """Treats each five values as if they were a record."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(5, 2)

    def forward(self, values: Any, labels: Any = None) -> dict[str, Any]:
        """Return the loss over six rows for each record."""
        rows = values.reshape(-1, 5)
        return {"loss": torch.nn.functional.cross_entropy(self.layer(rows), labels.repeat_interleave(6))}


class Tokens(Linear):
    """Has a label for each of several positions of a record."""

    def forward(self, values: Any, labels: Any = None) -> dict[str, Any]:
        """Return a mean over the positions of the batch."""
        logits = self.layer(values[:, None].expand(-1, 3, -1))
        return {"loss": torch.nn.functional.cross_entropy(logits.reshape(-1, 2), labels.reshape(-1))}


class Labels(Cancer):
    """Records with three labels."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = super().__getitem__(index)
        return {**record, "labels": [record["labels"]] * 3}


class Stream(IterableDataset[Any]):
    """A stream of records."""

    def __iter__(self) -> Any:
        return iter(Cancer())


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "accumulation": ({"gradient_accumulation_steps": 2}, {}, "joins draws in one step"),
    "batch size": ({"auto_find_batch_size": True}, {}, "begins again with smaller batches"),
    "smoothing": ({"label_smoothing_factor": 0.1}, {}, "label_smoothing_factor"),
    "rows": ({"model": Rows()}, {}, r"rows, and \d+ records were drawn"),
    "tokens": ({"model": Tokens(), "data": Labels()}, {}, "compute_loss_func=mean_of_records"),
    "stream": ({"data": Stream()}, {}, "IterableDataset"),
    "no size": ({}, {"nominal_size": None}, "nominal_size"),
    "seed": ({}, {"private": {"noise_generator": torch.Generator()}}, "noise_generator"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(ledger: Ledger, records: str, executed: Executed, tmp_path: Path, name: str) -> None:
    """Goal: what nothing covers is refused before any noise, and leaves nothing behind."""
    of_trainer, options, message = REFUSED[name]
    one = trainer(tmp_path, **{"max_steps": 3, **of_trainer})
    private(ledger, records, one, **options)
    with pytest.raises(NotCovered, match=message):
        one.train()
    assert not executed.noises
    assert not any(run["state"] == "started" for run in ledger.runs(dataset=records))


def test_a_callback_that_is_not_added(ledger: Ledger, records: str, tmp_path: Path) -> None:
    """Goal: without its hooks nothing is trained."""
    one = trainer(tmp_path, max_steps=3)
    LedgerCallback(one, dataset=records, noise_multiplier=2.0, max_grad_norm=1.0, ledger=ledger)
    with pytest.raises(NotCovered, match="not added"):
        one.train()


class Replacing(TrainerCallback):
    """Replaces the optimizer when the training has begun."""

    def __init__(self, one: Any) -> None:
        self.one = one

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Make a plain one."""
        self.one.optimizer = torch.optim.SGD(self.one.model.parameters(), lr=1.0)


def test_an_optimizer_that_is_replaced(ledger: Ledger, records: str, executed: Executed, tmp_path: Path) -> None:
    """Goal: an optimizer without noise makes no step."""
    one = trainer(tmp_path, max_steps=3)
    private(ledger, records, one)
    one.add_callback(Replacing(one))
    before = one.model.layer.weight.detach().clone()
    with pytest.raises(NotCovered, match="SGD is about to step"):
        one.train()
    assert not executed.noises
    assert torch.equal(before, one.model.layer.weight)


def test_a_training_that_ended_goes_on(ledger: Ledger, records: str, tmp_path: Path) -> None:
    """Goal: after a settled run, a training from its checkpoint asks for the steps left, and one seed repeats no noise.
    Method: three steps, then three; all noise is compared. The Trainer's own history would begin again."""
    made: list[torch.Tensor] = []
    normal = torch.normal

    def kept(*given: Any, **named: Any) -> Any:
        made.append(normal(*given, **named))
        return made[-1]

    options = {"save_strategy": "steps", "save_steps": 3, "seed": 7}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "normal", kept)
        one = trainer(tmp_path, max_steps=3, **options)
        first = private(ledger, records, one)
        one.train()
        other = trainer(tmp_path, max_steps=6, **options)
        second = private(ledger, records, other)
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert other.state.global_step == 6
    assert first.training.run.id != second.training.run.id
    assert [asked(ledger, callback)["steps"] for callback in (first, second)] == [3, 3]
    assert len(made) == 2 * 6
    assert len({tuple(noise.flatten()[:2].tolist()) for noise in made}) == 2 * 6


TRAIN = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from transformers import TrainerCallback
from ledger.client import Ledger
from tests.integrations.transformers.scene import private, trainer

class Slow(TrainerCallback):
    def on_save(self, args, state, control, **named):
        print(state.global_step, flush=True)
        if state.global_step == int(sys.argv[2]):
            sys.stdin.readline()

with Ledger() as ledger:
    one = trainer(Path("kept"), max_steps=60, save_strategy="steps", save_steps=1)
    callback = private(ledger, sys.argv[1], one)
    one.add_callback(Slow())
    one.train(resume_from_checkpoint=sys.argv[3] if sys.argv[3:] else None)
print("end", callback.training.run.id, callback.training.steps, flush=True)
"""


def test_killed_and_gone_on_with(ledger: Ledger, records: str, tmp_path: Path) -> None:
    """Goal: after SIGKILL, a training from a checkpoint goes on with the open run, and stops at the end of the plan.
    Method: two real processes; the first is killed after seven of 60 steps, the second begins after the fifth."""
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    environment = {**os.environ, "LEDGER_STATE_DIR": str(tmp_path / "state")}
    common: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment, "text": True}
    first = subprocess.Popen([sys.executable, script, records, "7"], **common)
    assert first.stdout is not None
    for line in first.stdout:
        if line.strip() == "7":
            break
    first.send_signal(signal.SIGKILL)
    first.communicate()
    (run,) = ledger.runs(dataset=records)
    assert run["state"] == "started"
    second = subprocess.run(
        [sys.executable, script, records, "99", "kept/checkpoint-5"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=200,
    )
    *steps, end = [line for line in second.stdout.splitlines() if line.split(" ")[0].isdigit() or "end" in line]
    assert end == f"end {run['id']} 60"
    # The first had executed 7, and had written down 14 at most: blocks of 2, 4 and 8 steps.
    assert steps[0] == "6"
    assert 60 - 14 <= len(steps) <= 60 - 7
    settled = ledger.run_info(run["id"])["settled"]
    assert settled["steps"] == 60
    assert len(settled["restarts"]) == 1


def test_shuffled_batches(ledger: Ledger, public: str, executed: Executed, tmp_path: Path) -> None:
    """Goal: shuffled batches, as tools around a Trainer draw them, are asked for as shuffled epochs, not as Poisson."""
    one = trainer(tmp_path, num_train_epochs=2)
    callback = private(ledger, public, one, nominal_size=None, private={"poisson_sampling": False})
    one.train()
    size = {"dataset_size": SIZE, "batch_size": 100, "epochs": 2}
    assert asked(ledger, callback) == {"type": "dpsgd", "sampling": "shuffle", "noise_multiplier": 2.0, **size}
    assert len(executed.noises) == 2 * 12


def test_the_page_is_true(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    """Goal: the example of the page runs as written, and prints what it says."""
    demand_true("how-to/transformers.md", "tumours", ledger, capsys)

"""PyTorch Lightning: the run that is asked for is what the Trainer executes, counted at the sampler and the noise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
from torch.utils.data import DataLoader

from ledger.client import BudgetExceeded, Ledger
from ledger.client.lightning import LedgerCallback, NotCovered
from tests.integrations.printed import demand_true
from tests.kit.opacus_scene import DIGITS, SIZE, Executed

pytestmark = pytest.mark.filterwarnings("ignore")
torch.set_num_threads(1)


class Digits(LightningModule):
    """A linear model of digits. sizes: of the batches that it saw; None stands for a step that the hook skips."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.sizes: list[int] = []

    def training_step(self, batch: Any, _index: int) -> Any:
        """Return the loss."""
        self.sizes.append(len(batch[0]))
        return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        """Return one optimizer with a scheduler, as most modules do."""
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def loader(batch_size: int = 300, **options: Any) -> DataLoader[Any]:
    """The digits in batches: six of 300."""
    return DataLoader(DIGITS, batch_size=batch_size, shuffle=True, **options)


def private(ledger: Ledger, dataset: str, **options: Any) -> LedgerCallback:
    """The one line."""
    given = {"noise_multiplier": 2.0, "max_grad_norm": 1.0, "nominal_size": SIZE, **options}
    return LedgerCallback(dataset=dataset, ledger=ledger, **given)


def trainer(callback: Any, *more: Any, **options: Any) -> Trainer:
    """A Trainer on the processor that shows and saves nothing of its own."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    saved = any(isinstance(one, ModelCheckpoint) for one in more)
    return Trainer(callbacks=[callback, *more], enable_checkpointing=saved, **{**quiet, **options})


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Executed:
    """What is really drawn and added in this test."""
    return Executed.watch(monkeypatch)


def asked(ledger: Ledger, callback: LedgerCallback) -> dict[str, Any]:
    """The mechanism in the journal's request of the run of a fit."""
    mechanism: dict[str, Any] = ledger.run_info(callback.training.run.id)["request"]["mechanism"]
    return mechanism


PLANS: dict[str, tuple[dict[str, Any], int]] = {
    "epochs": ({"max_epochs": 2}, 12),
    "steps": ({"max_steps": 8}, 8),
    "both": ({"max_epochs": 3, "max_steps": 14}, 14),
    "limit": ({"max_epochs": 2, "limit_train_batches": 4}, 8),
    "share": ({"max_epochs": 2, "limit_train_batches": 0.5}, 6),
    "once": ({"fast_dev_run": True}, 1),
}


@pytest.mark.parametrize("name", PLANS)
def test_what_is_asked_is_what_is_executed(ledger: Ledger, records: str, executed: Executed, name: str) -> None:
    """Goal: epochs, steps and limits of the Trainer give the steps that it makes. Method: counts of draws and noise."""
    options, steps = PLANS[name]
    callback, model = private(ledger, records), Digits()
    trainer(callback, **options).fit(model, loader())
    mechanism = asked(ledger, callback)
    assert (mechanism["steps"], mechanism["sampling"], mechanism["noise_multiplier"]) == (steps, "poisson", 2.0)
    assert len(executed.noises) == 2 * steps
    assert {std for std, _ in executed.noises} == {2.0}
    assert set(executed.rates) == {1 / 6}
    assert model.sizes == executed.batches[:steps]
    info = ledger.run_info(callback.training.run.id)
    assert (info["state"], info["settled"]["steps"]) == ("settled", steps)
    evidence = info["settled"]["evidence"]["opacus"]
    assert evidence["libraries"]["lightning"].startswith("2.6.")
    assert evidence["differences"] == []
    assert "lightning-resume-repeats-noise" in evidence["rules_out"]
    assert not any(hasattr(parameter, "grad_sample") for parameter in model.parameters())


@pytest.mark.parametrize("workers", [0, 1])
def test_parts_of_a_batch_are_one_step(ledger: Ledger, records: str, executed: Executed, workers: int) -> None:
    """Goal: with batches that are split for memory, an epoch has six draws, whatever Opacus estimates as the number of
    parts and Lightning counts as global_step."""
    callback, model = private(ledger, records, max_physical_batch_size=100), Digits()
    fitting = trainer(callback, max_epochs=2)
    fitting.fit(model, loader(num_workers=workers))
    assert asked(ledger, callback)["steps"] == len(executed.batches) == callback.training.noised == 12
    assert len(executed.noises) == 2 * 12
    assert fitting.global_step == len(model.sizes) > 12 * 3
    assert sum(model.sizes) == sum(executed.batches)
    assert max(model.sizes) <= 100
    assert callback.training.differences() == []


def test_shuffled_batches(ledger: Ledger, public: str, executed: Executed) -> None:
    """Goal: shuffled epochs are asked for as such."""
    callback = private(ledger, public, nominal_size=None, private={"poisson_sampling": False})
    trainer(callback, max_epochs=2).fit(Digits(), loader())
    size = {"dataset_size": SIZE, "batch_size": 300, "epochs": 2}
    assert asked(ledger, callback) == {"type": "dpsgd", "sampling": "shuffle", "noise_multiplier": 2.0, **size}
    assert len(executed.noises) == 2 * 12


def test_a_refused_fit_uses_no_data(ledger: Ledger, records: str, executed: Executed) -> None:
    """Goal: what does not fit draws nothing, and leaves the module as it was."""
    model, tiny = Digits(), f"tiny-{records}"
    ledger.register(name=tiny, privacy_unit="record", adjacency="add_or_remove_one", budget={"mu": 1e-3, "delta": 1e-6})
    with pytest.raises(BudgetExceeded):
        trainer(private(ledger, tiny), max_epochs=2).fit(model, loader())
    assert not executed.batches
    assert not model.sizes
    trainer(private(ledger, records), max_steps=1).fit(model, loader())
    assert len(executed.noises) == 2


class Accumulating(Digits):
    """Steps by itself."""

    automatic_optimization = False


class Skipping(Digits):
    """Returns no loss for its second batch, as for one that is empty or not a number."""

    def training_step(self, batch: Any, index: int) -> Any:
        """Return the loss, or nothing."""
        return None if index == 1 else super().training_step(batch, index)


class Rows(Digits):
    """Treats each row of pixels as if it were a record."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 10)

    def training_step(self, batch: Any, index: int) -> Any:
        """Return a loss over eight rows for each image."""
        rows = batch[0].reshape(-1, 8)
        return torch.nn.functional.cross_entropy(self.layer(rows), batch[1].repeat_interleave(8))


REFUSED: dict[str, tuple[type[Digits], dict[str, Any], dict[str, Any], str]] = {
    "accumulation": (Digits, {}, {"max_epochs": 1, "accumulate_grad_batches": 2}, "joins draws in one step"),
    "clip": (Digits, {}, {"max_epochs": 1, "gradient_clip_val": 1.0}, "it does nothing"),
    "overfit": (Digits, {}, {"max_epochs": 1, "overfit_batches": 2}, "overfit_batches"),
    "endless": (Digits, {}, {"max_epochs": -1}, "give no number of steps"),
    "parts and steps": (Digits, {"max_physical_batch_size": 100}, {"max_steps": 5}, "Use max_epochs alone"),
    "16 bits": (Digits, {}, {"max_epochs": 1, "precision": "bf16-true"}, "Keep the parameters in float32"),
    "manual": (Accumulating, {}, {"max_epochs": 1}, "automatic_optimization=False"),
    "no size": (Digits, {"nominal_size": None}, {"max_epochs": 1}, "nominal_size"),
    "seed": (Digits, {"private": {"noise_generator": torch.Generator()}}, {"max_epochs": 1}, "noise_generator"),
    "finder": (Digits, {}, {"max_epochs": 1}, "their trials are not asked for"),
    "streams": (Digits, {}, {"max_epochs": 1}, "Use one torch.utils.data.DataLoader"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_before_the_start(ledger: Ledger, records: str, executed: Executed, name: str) -> None:
    """Goal: what nothing covers is refused before any data is used."""
    kind, options, of_trainer, message = REFUSED[name]
    more = [LearningRateFinder()] if name == "finder" else []
    data: Any = {"one": loader(), "two": loader()} if name == "streams" else loader()
    with pytest.raises(NotCovered, match=message):
        trainer(private(ledger, records, **options), *more, **of_trainer).fit(kind(), data)
    assert not executed.noises


def test_a_ghost_needs_its_own_loss(ledger: Ledger, records: str) -> None:
    """Goal: ghost clipping replaces the criterion, which a Trainer never calls."""
    with pytest.raises(NotCovered, match="needs a loss of its own"):
        private(ledger, records, private={"grad_sample_mode": "ghost"})


def test_a_batch_without_a_loss(ledger: Ledger, records: str, executed: Executed) -> None:
    """Goal: a step for which training_step returns nothing is none that Lightning leaves out in silence."""
    callback = private(ledger, records)
    with pytest.raises(Exception, match="grad"):
        trainer(callback, max_epochs=1).fit(Skipping(), loader())
    assert len(executed.noises) == 2
    assert ledger.run_info(callback.training.run.id)["settled"]["steps"] >= 2


def test_records_that_become_rows(ledger: Ledger, records: str, executed: Executed) -> None:
    """Goal: a model whose layers see eight rows of each record would clip each row: refused before the noise."""
    with pytest.raises(NotCovered, match=r"rows, and \d+ records were drawn"):
        trainer(private(ledger, records), max_epochs=1).fit(Rows(), loader())
    assert not executed.noises


class Replacing(Digits):
    """Replaces the optimizer when the training has begun."""

    def on_train_batch_start(self, _batch: Any, index: int) -> None:
        """Make a plain one."""
        if index == 0:
            self.trainer.strategy.optimizers = [torch.optim.SGD(self.parameters(), lr=1.0)]


def test_an_optimizer_that_is_replaced(ledger: Ledger, records: str, executed: Executed) -> None:
    """Goal: an optimizer without noise makes no step. Method: the module replaces it before its first batch."""
    with pytest.raises(NotCovered, match="SGD is about to step: it took the place"):
        trainer(private(ledger, records), max_epochs=1).fit(Replacing(), loader())
    assert not executed.noises


def saved(folder: Path) -> ModelCheckpoint:
    """Save after each step."""
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)


def test_a_training_that_ended_goes_on(ledger: Ledger, records: str, executed: Executed, tmp_path: Path) -> None:
    """Goal: after a settled run, a fit from its checkpoint asks for the steps left; and a fixed seed repeats neither
    noise nor draws, as it does in Lightning. Method: three steps, then three, with one seed; all noise is compared."""
    made: list[torch.Tensor] = []
    normal = torch.normal

    def kept(*given: Any, **named: Any) -> Any:
        made.append(normal(*given, **named))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "normal", kept)
        seed_everything(7)
        first = private(ledger, records)
        trainer(first, saved(tmp_path), max_steps=3).fit(Digits(), loader())
        seed_everything(7)
        second = private(ledger, records)
        fitting = trainer(second, max_steps=6)
        fitting.fit(Digits(), loader(), ckpt_path=tmp_path / "step=3.ckpt")
    assert fitting.global_step == 6
    assert first.training.run.id != second.training.run.id
    assert [asked(ledger, one)["steps"] for one in (first, second)] == [3, 3]
    assert len(made) == len(executed.noises) == 2 * 6
    assert len({tuple(noise.flatten()[:5].tolist()) for noise in made}) == 2 * 6
    third = private(ledger, records)
    with pytest.raises(NotCovered, match="none is left"):
        trainer(third, max_steps=3).fit(Digits(), loader(), ckpt_path=tmp_path / "step=3.ckpt")


def test_an_early_stop_and_more_fits(
    ledger: Ledger, records: str, executed: Executed, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: a fit that stops early says what can be done, and another fit with the same callback is another run."""
    callback, model = private(ledger, records), Digits()
    fitting = trainer(callback, max_epochs=3)
    model.on_train_epoch_end = lambda: setattr(fitting, "should_stop", True)
    fitting.fit(model, loader())
    run = callback.training.run.id
    assert "stopped after 6 of 18 steps and is charged in full" in caplog.text
    assert "fit it in parts" in caplog.text
    again = trainer(callback, max_epochs=4)
    again.fit(model, loader())
    assert callback.training.run.id != run
    assert asked(ledger, callback)["steps"] == 4 * 6 - 6
    assert len(executed.noises) == 2 * (6 + 18)


TRAIN = """
import sys, warnings
warnings.simplefilter("ignore")
from tests.integrations.lightning.test_lightning import Digits, loader, private, saved, trainer
from ledger.client import Ledger

class Slow(Digits):
    def on_train_batch_end(self, *_):
        print(self.trainer.global_step, flush=True)
        if len(self.sizes) == int(sys.argv[2]):
            sys.stdin.readline()

with Ledger() as ledger:
    callback = private(ledger, sys.argv[1])
    fitting = trainer(callback, saved("kept"), max_epochs=2)
    fitting.fit(Slow(), loader(60), ckpt_path=sys.argv[3] if sys.argv[3:] else None)
print("end", callback.training.run.id, callback.training.steps, flush=True)
"""


def test_killed_and_gone_on_with(ledger: Ledger, records: str, tmp_path: Path) -> None:
    """Goal: after SIGKILL, a fit from a checkpoint goes on with the open run, whatever the command line is then: what
    the killed process executed counts, and the fit stops at the end of the plan. Method: two real processes; the first
    is killed after seven of 60 steps, and the second begins again after the fifth."""
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    environment = {**os.environ, "LEDGER_STATE_DIR": str(tmp_path / "state"), "PYTHONPATH": os.environ["PYTHONPATH"]}
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
        [sys.executable, script, records, "99", "kept/step=5.ckpt"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    *steps, end = second.stdout.split("\n")[:-1]
    assert end == f"end {run['id']} 60"
    # The first had executed 7, and had written down 14 at most: blocks of 2, 4 and 8 steps.
    assert steps[0] == "6"
    assert 60 - 14 <= len(steps) <= 60 - 7
    settled = ledger.run_info(run["id"])["settled"]
    assert settled["steps"] == 60
    assert len(settled["restarts"]) == 1


def test_the_page_is_true(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    """Goal: the example of the page runs as written, and prints what it says."""
    demand_true("how-to/lightning.md", "digits", ledger, capsys)

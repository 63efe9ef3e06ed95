"""PyTorch Lightning: one callback makes a training private with Opacus, asks for it, and counts each step.

    from ledger.client.lightning import LedgerCallback

    private = LedgerCallback(dataset="digits", noise_multiplier=1.1, max_grad_norm=1.0, nominal_size=1_800)
    Trainer(max_epochs=5, callbacks=[private]).fit(model, loader)

It needs Lightning 2.6 and Opacus 1.6: `pip install 'privacy-ledger[lightning]'`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import lightning
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from opacus.utils.batch_memory_manager import wrap_data_loader

from ledger.client.ledgers import Ledger
from ledger.client.opacus import NotCovered, Training
from ledger.client.opacus.plan import Trainer
from ledger.client.opacus.trainers import Private, demand_version

__all__ = ["LedgerCallback", "NotCovered"]

VERSION: Final = "2.6"
"""The minor version of Lightning whose loops this was written for."""
LIBRARY: Final = Trainer(
    libraries={"lightning": lightning.__version__},
    rules_out=("lightning-resume-repeats-noise",),
    checked=("Lightning steps with the private optimizer on the private loader",),
    assumed=("nothing logged from training batches is shown or steers the training",),
    if_shorter=(
        "If a training may stop early, fit it in parts: one Trainer(max_epochs=…) for each, with the ckpt_path of the"
        " one before. What was not asked for is not charged."
    ),
)


class LedgerCallback(Callback):
    """Make a training private with Opacus, ask the ledger for what it really does, and count each step.

    dataset: the dataset's name in the ledger, or several. noise_multiplier, max_grad_norm: as for Opacus. Epochs and
    steps are those of the Trainer. nominal_size: a public number of records, required under add_or_remove_one.
    max_examples_per_user: the most records of one privacy unit, required if the unit is no record. rows_per_record: as
    for `attach`. max_physical_batch_size: split larger batches for memory; a step stays one draw. private: other
    arguments of `make_private`. secure_mode: as for PrivacyEngine. ledger: default Ledger(). options: for `Ledger.run`.

    `fit` raises BudgetExceeded before any data is used if the run does not fit, and NotCovered, with what to change, if
    the training would do something that is not accounted for. It settles the run. A fit that goes on from a checkpoint
    goes on with its run if that is open, and stops after the steps that are left; otherwise it asks for the steps left.

    >>> private = LedgerCallback(dataset="digits", noise_multiplier=1.1, max_grad_norm=1.0, nominal_size=1_800)
    >>> Trainer(max_epochs=5, callbacks=[private]).fit(model, loader)
    >>> private.training.run.settled["state"]
    'settled'
    """

    def __init__(
        self,
        *,
        dataset: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
        noise_multiplier: float,
        max_grad_norm: float | Sequence[float],
        nominal_size: int | None = None,
        max_examples_per_user: int | None = None,
        rows_per_record: int = 1,
        max_physical_batch_size: int | None = None,
        private: Mapping[str, Any] | None = None,
        secure_mode: bool = False,
        ledger: Ledger | None = None,
        **options: Any,
    ) -> None:
        demand_version("lightning", lightning.__version__, VERSION)
        self._private = Private(
            dataset=dataset,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            nominal_size=nominal_size,
            max_examples_per_user=max_examples_per_user,
            rows_per_record=rows_per_record,
            private=private,
            secure_mode=secure_mode,
            ledger=ledger,
            options=options,
        )
        self._physical = max_physical_batch_size

    @property
    def training(self) -> Training:
        """Return the training of the last fit: its run, mechanism and steps."""
        return self._private.training

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Raise NotCovered for callbacks that train before this one is asked."""
        if any(isinstance(one, LearningRateFinder | BatchSizeFinder) for one in trainer.callbacks):
            raise NotCovered(
                "LearningRateFinder and BatchSizeFinder train on the data, and their trials are not asked for. Leave"
                " them out, or let them train on public data."
            )

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Ask, and put the private optimizer and loader in the place of those of the script."""
        _demand_trainer(trainer, pl_module, is_split=self._physical is not None)
        source = trainer.fit_loop._data_source  # noqa: SLF001 (Lightning has no public name for it)
        self._private.begin(
            pl_module,
            trainer.optimizers[0],
            source.dataloader(),
            steps_of=lambda batches: _steps(trainer, batches),
            trainer=LIBRARY,
        )
        trainer.strategy.optimizers = [self._private.optimizer]
        self._loader = self._private.loader
        if self._physical is not None:
            self._loader = _split(self._private.loader, self._physical, self._private.optimizer)
            # Without a length, Lightning takes a batch ahead to find the last one.
            self._private.training.takes_ahead()
        self._source = source.instance
        source.instance = self._loader

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Raise NotCovered if the batch is of another loader."""
        if trainer.train_dataloader is not self._loader:
            raise NotCovered(
                "The loader of the Trainer was replaced after the training was made private. Leave out what does that."
            )

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Raise NotCovered if another optimizer is about to step."""
        if optimizer is not self._private.optimizer:
            raise NotCovered(
                f"A {type(optimizer).__name__} is about to step: it took the place of the private optimizer, and its"
                " step would have no noise. Leave out what replaced it."
            )

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop the training after the last approved step."""
        if self._private.is_complete:
            trainer.should_stop = True

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Settle the run."""
        self._end(trainer, None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Settle the run, in doubt for more."""
        self._end(trainer, exception)

    def _end(self, trainer: Any, error: BaseException | None) -> None:
        if hasattr(self, "_source"):
            trainer.fit_loop._data_source.instance = self._source  # noqa: SLF001
            del self._source
        self._private.finish(error)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds: the run, and how many steps the model has."""
        return self._private.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what a checkpoint holds."""
        self._private.load(state_dict)


def _demand_trainer(trainer: Any, module: Any, *, is_split: bool) -> None:
    """Raise NotCovered for settings of the Trainer that nothing covers, or that do not do what they promise."""
    if trainer.world_size > 1:
        raise NotCovered(
            f"The Trainer uses {trainer.world_size} processes, and the distributed sampler of Opacus leaves out empty"
            " draws, without noise and without a count. Use Trainer(devices=1, num_nodes=1)."
        )
    if not module.automatic_optimization or len(trainer.optimizers) != 1:
        raise NotCovered(
            f"The module has {len(trainer.optimizers)} optimizers and automatic_optimization="
            f"{module.automatic_optimization}. Return one optimizer from configure_optimizers, and let Lightning step."
        )
    if trainer.accumulate_grad_batches != 1:
        raise NotCovered(
            f"accumulate_grad_batches={trainer.accumulate_grad_batches} joins draws in one step, and a record can be in"
            " each of them. Use a larger batch_size, and LedgerCallback(max_physical_batch_size=…) for memory."
        )
    if trainer.gradient_clip_val:
        raise NotCovered(
            f"gradient_clip_val={trainer.gradient_clip_val} clips the gradient of the whole batch, which Opacus then"
            " replaces: it does nothing. Leave it out; max_grad_norm clips each record."
        )
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        raise NotCovered(
            f"precision={trainer.precision!r} scales the loss, and leaves out a step in which a record overflows. Use"
            " precision='bf16-mixed'."
        )
    if trainer.overfit_batches:
        raise NotCovered("overfit_batches takes other batches than were drawn. Leave it out.")
    if is_split and (trainer.limit_train_batches != 1.0 or trainer.max_steps != -1):
        raise NotCovered(
            "With max_physical_batch_size, Lightning counts the parts of a batch as its steps, and max_steps and"
            " limit_train_batches would end within one. Use max_epochs alone."
        )


def _steps(trainer: Any, batches: int) -> int:
    """Return how many steps a fit makes from scratch, if a pass over its loader has this many batches."""
    limit = trainer.limit_train_batches
    each = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    epochs, steps = trainer.fit_loop.max_epochs, trainer.max_steps
    ends = [each * epochs] if epochs not in (None, -1) else []
    ends += [steps] if steps != -1 else []
    end = int(min(ends, default=0))
    if end < 1:
        raise NotCovered(
            f"max_epochs={epochs}, max_steps={steps} and limit_train_batches={limit} give no number of steps. Give"
            " Trainer(max_epochs=…) or max_steps, at least 1."
        )
    return end


def _split(loader: Any, size: int, optimizer: Any) -> Any:
    """Return a loader of parts that Opacus joins again to one step for each draw. It has no length: Opacus estimates
    one, by which an epoch would end within a batch."""
    parts = wrap_data_loader(data_loader=loader, max_batch_size=size, optimizer=optimizer)
    parts.__class__ = type("Parts", (type(parts),), {"__len__": _no_length})
    return parts


def _no_length(_loader: Any) -> int:
    raise TypeError("how many parts the batches have is known only when they are drawn")

"""Hugging Face Trainer and TRL: one callback makes a training private with Opacus, asks for it, and counts each step.

    from ledger.client.transformers import LedgerCallback

    trainer = Trainer(model=model, args=args, train_dataset=dataset)
    trainer.add_callback(LedgerCallback(trainer, dataset="reviews", noise_multiplier=1.1, max_grad_norm=1.0))
    trainer.train()

It needs transformers 5.24 and Opacus 1.6: `pip install 'privacy-ledger[transformers]'`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from ledger.client.ledgers import Ledger
from ledger.client.opacus import NotCovered, Training
from ledger.client.opacus.plan import Trainer
from ledger.client.opacus.trainers import Private, demand_version

__all__ = ["LedgerCallback", "NotCovered", "mean_of_records"]

VERSION: Final = "5.24"
"""The minor version of transformers whose loop this was written for."""
TRL_VERSION: Final = "1.16"
TRL_ROWS: Final = {"SFTTrainer": 1, "DPOTrainer": 2}
"""The trainers of TRL that are known, and how many rows the model sees of each record."""
DPO_LOSSES: Final = frozenset({"sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust"})
"""Those in which a pair depends on no other pair of its batch."""
STATE: Final = "privacy_ledger.json"
"""The file in each checkpoint that names its run and its steps."""
IF_SHORTER: Final = (
    "If a training may stop early, train in parts: max_steps for each, with resume_from_checkpoint of the one before."
    " What was not asked for is not charged."
)


def mean_of_records(outputs: Any, labels: Any, **_beside: Any) -> Any:
    """Return the mean over the records of a batch of each one's mean over its tokens: a `compute_loss_func`.

    The Trainer's own loss divides by the tokens of the whole batch, so that a record changes the weight of all others,
    and no clip norm bounds what it moves. outputs: of a causal language model, with `logits` of records × positions ×
    vocabulary. labels: records × positions, -100 for positions without a loss; each is predicted from those before it.
    """
    logits, targets = outputs.logits[:, :-1].transpose(1, 2), labels[:, 1:]
    losses = torch.nn.functional.cross_entropy(logits.float(), targets, ignore_index=-100, reduction="none")
    return (losses.sum(dim=1) / (targets != -100).sum(dim=1).clamp(min=1)).mean()


class LedgerCallback(TrainerCallback):
    """Make the trainings of a Trainer private with Opacus, ask the ledger for what they do, and count each step.

    trainer: a Trainer of transformers, or SFTTrainer or DPOTrainer of TRL; epochs, steps and batch size are its own.
    dataset: the dataset's name in the ledger, or several. noise_multiplier, max_grad_norm: as for Opacus.
    nominal_size: a public number of records, required under add_or_remove_one. max_examples_per_user: the most records
    of one privacy unit, required if the unit is no record. rows_per_record: as for `attach`; DPOTrainer's 2 is known,
    since a preference pair is two rows, and is asked for with half of the noise. private: other arguments of
    `make_private`. secure_mode: as for PrivacyEngine. ledger: default Ledger(). options: for `Ledger.run`.

    `train` raises BudgetExceeded before any data is used if the run does not fit, and NotCovered, with what to change,
    if it would do something that is not accounted for. It settles the run. With `resume_from_checkpoint` it goes on
    with the run of the checkpoint if that is open, and stops after the steps left; otherwise it asks for those left.

    >>> private = LedgerCallback(trainer, dataset="digits", noise_multiplier=1.1, max_grad_norm=1.0, nominal_size=1_800)
    >>> trainer.add_callback(private)
    >>> trainer.train()
    >>> private.training.run.settled["state"]
    'settled'
    """

    def __init__(
        self,
        trainer: Any,
        *,
        dataset: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
        noise_multiplier: float,
        max_grad_norm: float | Sequence[float],
        nominal_size: int | None = None,
        max_examples_per_user: int | None = None,
        rows_per_record: int | None = None,
        private: Mapping[str, Any] | None = None,
        secure_mode: bool = False,
        ledger: Ledger | None = None,
        **options: Any,
    ) -> None:
        demand_version("transformers", transformers.__version__, VERSION)
        self._trainer = trainer
        self._library, known_rows = _library_of(trainer)
        self._private = Private(
            dataset=dataset,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            nominal_size=nominal_size,
            max_examples_per_user=max_examples_per_user,
            rows_per_record=known_rows if rows_per_record is None else rows_per_record,
            private=private,
            secure_mode=secure_mode,
            ledger=ledger,
            options=options,
        )
        self._loop, self._loader = trainer._inner_training_loop, trainer.get_train_dataloader  # noqa: SLF001
        self._step = trainer.training_step
        # What `train` calls has public names for batches and steps, and none for the loop between them.
        trainer._inner_training_loop = self._train  # noqa: SLF001
        trainer.get_train_dataloader, trainer.training_step = self._private_loader, self._private_step

    @property
    def training(self) -> Training:
        """Return the training of the last `train`: its run, mechanism and steps."""
        return self._private.training

    # --- the loop

    def _train(self, *given: Any, resume_from_checkpoint: str | None = None, **named: Any) -> Any:
        """Train, and settle the run whatever ends it."""
        trainer = self._trainer
        _demand_trainer(trainer)
        if all(one is not self for one in trainer.callback_handler.callbacks):
            raise NotCovered("The callback was made for this Trainer and not added. Call trainer.add_callback(…).")
        optimizer, skip = trainer.optimizer, trainer.args.ignore_data_skip
        # Draws have no order in which a later process could skip those before.
        trainer.args.ignore_data_skip = True
        self._private.load(_state_in(resume_from_checkpoint))
        error: BaseException | None = None
        try:
            return self._loop(*given, resume_from_checkpoint=resume_from_checkpoint, **named)
        except BaseException as raised:
            error = raised
            raise
        finally:
            trainer.args.ignore_data_skip, trainer.optimizer = skip, optimizer
            self._private.finish(error)

    def _private_loader(self) -> Any:
        """Ask, and return the private loader in the place of the Trainer's."""
        trainer = self._trainer
        given: Any = self._loader()
        if not isinstance(given, DataLoader):
            raise NotCovered(f"The training data comes from a {type(given).__name__}. Use a dataset with an index.")
        plain: Any = DataLoader(
            given.dataset,
            batch_size=trainer._train_batch_size,  # noqa: SLF001
            shuffle=not isinstance(given.dataset, torch.utils.data.IterableDataset),
            collate_fn=given.collate_fn,
            num_workers=given.num_workers,
            pin_memory=given.pin_memory,
            drop_last=trainer.args.dataloader_drop_last,
        )
        trainer.create_optimizer()
        self._private.begin(
            trainer.model, trainer.optimizer, plain, steps_of=lambda n: _steps(trainer.args, n), trainer=self._library
        )
        trainer.optimizer, loader = self._private.optimizer, self._private.loader
        loader.collate_fn = _collate_with_empty(given.collate_fn, given.dataset)
        return loader

    def _private_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Make the Trainer's step of a batch; that of an empty one has no gradients, and will have its noise."""
        labels = inputs.get("labels")
        is_of_tokens = labels is not None and labels.dim() > 1 and not labels.is_floating_point()
        if is_of_tokens and self._trainer.compute_loss_func is not mean_of_records:
            raise NotCovered(
                "The loss is a mean over the tokens of the batch, so that each record changes the weight of all others,"
                " and clipping bounds nothing. Give the Trainer compute_loss_func=mean_of_records, from"
                " ledger.client.transformers."
            )
        if not all(len(value) for value in inputs.values() if torch.is_tensor(value)):
            for parameter in self._private.optimizer.params:
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
            return torch.zeros((), device=self._trainer.args.device)
        return self._step(model, inputs, num_items_in_batch)

    # --- what the Trainer calls

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Raise NotCovered if another optimizer is about to step."""
        stepping = getattr(self._trainer.optimizer, "optimizer", self._trainer.optimizer)
        if stepping is not self._private.optimizer:
            raise NotCovered(
                f"A {type(stepping).__name__} is about to step: it took the place of the private optimizer, and its"
                " step would have no noise. Leave out what replaced it."
            )

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Drop the gradients of the records, which the Trainer's own model.zero_grad() leaves."""
        self._private.optimizer.zero_grad()

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Stop the training after the last approved step."""
        if self._private.is_complete:
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Write the run and the steps into the checkpoint."""
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        if folder.is_dir():
            (folder / STATE).write_text(json.dumps(self._private.state()), encoding="utf-8")


def _state_in(checkpoint: str | None) -> Mapping[str, Any]:
    """Return what a checkpoint holds; nothing if there is none, or if it was not made with this callback."""
    file = None if checkpoint is None else Path(checkpoint, STATE)
    if file is None or not file.is_file():
        return {}
    state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return state


def _library_of(trainer: Any) -> tuple[Trainer, int]:
    """Return what is recorded of a trainer, and how many rows it makes of each record. Raises NotCovered."""
    libraries, rows = {"transformers": transformers.__version__}, 1
    rules_out: tuple[str, ...] = ("transformers-resume-history", "transformers-token-mean")
    base = next((one for one in type(trainer).__mro__ if one.__module__.startswith("trl.")), None)
    if base is not None:
        import trl

        demand_version("trl", trl.__version__, TRL_VERSION)
        if base.__name__ not in TRL_ROWS:
            raise NotCovered(
                f"{base.__name__} of TRL is not known here: how many rows a record has in it, and which records a row"
                f" depends on. Known are {', '.join(TRL_ROWS)}."
            )
        rows = TRL_ROWS[base.__name__]
        libraries["trl"] = trl.__version__
        rules_out += ("trl-packing", "trl-preference-pairs")
    library = Trainer(
        libraries=libraries,
        rules_out=rules_out,
        checked=(
            f"{type(trainer).__name__} steps with the private optimizer on the private loader",
            "no packing, and no mean over the tokens of a batch",
        ),
        assumed=("nothing logged from training batches is shown or steers the training",),
        if_shorter=IF_SHORTER,
    )
    return library, rows


def _demand_trainer(trainer: Any) -> None:
    """Raise NotCovered for settings of a Trainer that nothing covers."""
    args, config = trainer.args, getattr(trainer.model, "config", None)
    refused: tuple[tuple[bool, str], ...] = (
        (
            args.gradient_accumulation_steps != 1,
            f"gradient_accumulation_steps={args.gradient_accumulation_steps} joins draws in one step, and a record can"
            " be in each of them. Use a larger per_device_train_batch_size and 1.",
        ),
        (
            args.world_size > 1 or args.n_gpu > 1 or bool(args.deepspeed or args.fsdp),
            f"Training in several processes or on several devices (world_size={args.world_size}, n_gpu={args.n_gpu}):"
            " the distributed sampler of Opacus leaves out empty draws. Use one process and one device.",
        ),
        (
            bool(args.fp16),
            "fp16=True scales the loss, and leaves out a step in which a record overflows. Use bf16=True.",
        ),
        (
            bool(args.gradient_checkpointing),
            "gradient_checkpointing=True, which is TRL's default, computes activations a second time, and Opacus' hooks"
            " lose the gradients of the records. Use gradient_checkpointing=False.",
        ),
        (
            bool(args.auto_find_batch_size),
            "auto_find_batch_size=True begins again with smaller batches. Give per_device_train_batch_size.",
        ),
        (
            bool(getattr(args, "packing", False) or getattr(trainer, "padding_free", False)),
            "packing and padding_free join records in rows and cut them, so that clipping a row bounds nothing about a"
            " record. Use packing=False, padding_free=False.",
        ),
        (
            bool(getattr(config, "output_router_logits", False)) or bool(getattr(trainer, "aux_loss_enabled", False)),
            "The auxiliary loss of a mixture of experts is one over the whole batch: no record's part of it is bounded."
            " Set output_router_logits=False.",
        ),
        (
            bool(args.label_smoothing_factor) and trainer.compute_loss_func is not mean_of_records,
            f"label_smoothing_factor={args.label_smoothing_factor} takes the mean over the labels of the batch that"
            " count. Leave it out.",
        ),
    )
    for is_refused, text in refused:
        if is_refused:
            raise NotCovered(text)
    losses = set(getattr(trainer, "loss_types", ())) - DPO_LOSSES
    if losses:
        raise NotCovered(
            f"loss_type={', '.join(sorted(losses))}: not known to be free of what other pairs of a batch are. Use one"
            f" of {', '.join(sorted(DPO_LOSSES))}."
        )


def _steps(args: Any, batches: int) -> int:
    """Return how many steps a Trainer makes from scratch, if a pass over its loader has this many batches."""
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * batches)
    if steps < 1:
        raise NotCovered(
            f"num_train_epochs={args.num_train_epochs} and max_steps={args.max_steps} give no step. Give"
            " TrainingArguments(num_train_epochs=…) or max_steps, at least 1."
        )
    return int(steps)


def _collate_with_empty(collate: Callable[[list[Any]], Any], dataset: Any) -> Callable[[list[Any]], Any]:
    """Return a function that collates an empty draw too: to what a batch has, with no rows."""

    def collated(records: list[Any]) -> Any:
        if records:
            return collate(records)
        return {name: value[:0] for name, value in collate([dataset[0]]).items() if torch.is_tensor(value)}

    return collated

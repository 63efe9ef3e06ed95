"""What the callbacks of trainers share: they make a training private with Opacus, ask for it, and settle it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from opacus import PrivacyEngine
from torch.utils.data import DataLoader

from ledger.client.attached import NotCovered
from ledger.client.ledgers import Ledger
from ledger.client.opacus.plan import Earlier, Plan, Trainer
from ledger.client.opacus.training import Training, demand_options, named

RUN, STEPS = "run", "steps"
"""What a checkpoint holds of a training."""


class Private:
    """A training that a callback makes private: the arguments of the callback, and what was made of them.

    training: that of the last fit. optimizer, loader: what `make_private` made for it. steps: how many the model has
    behind it, those of its checkpoint included.
    """

    training: Training
    optimizer: Any
    loader: Any

    def __init__(
        self,
        *,
        dataset: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
        noise_multiplier: float,
        max_grad_norm: float | Sequence[float],
        nominal_size: int | None,
        max_examples_per_user: int | None,
        rows_per_record: int,
        private: Mapping[str, Any] | None,
        secure_mode: bool,
        ledger: Ledger | None,
        options: dict[str, Any],
    ) -> None:
        demand_options(options)
        self.given = {"noise_multiplier": noise_multiplier, "max_grad_norm": max_grad_norm, **(private or {})}
        if "ghost" in str(self.given.get("grad_sample_mode")):
            raise NotCovered(
                "grad_sample_mode='ghost' needs a loss of its own, which the trainer does not call. Leave it out."
            )
        self._datasets, self._ledger, self._options, self._is_secure = named(dataset), ledger, options, secure_mode
        self._plan = Plan(
            steps_of=lambda batches: batches,
            nominal_size=nominal_size,
            max_examples_per_user=max_examples_per_user,
            rows_per_record=rows_per_record,
        )
        self._before, self._earlier = 0, ""
        self._hooks: Any = None
        self._is_begun = False

    def begin(
        self, module: Any, optimizer: Any, loader: Any, *, steps_of: Callable[[int], int], trainer: Trainer
    ) -> None:
        """Make model, optimizer and loader private. Raises BudgetExceeded, NotCovered, LedgerError.

        steps_of: how many steps the model will have at the end, from the batches of a pass over the private loader.
        """
        if not isinstance(loader, DataLoader):
            raise NotCovered(
                f"The training data comes from a {type(loader).__name__}. Use one torch.utils.data.DataLoader."
            )
        self.finish()
        earlier = Earlier(run=self._earlier, steps=self._before) if self._earlier else None
        plan = replace(self._plan, steps_of=steps_of)
        training = Training(plan, self._datasets, self._ledger, self._options, trainer=trainer, earlier=earlier)
        engine = PrivacyEngine(secure_mode=self._is_secure)
        training.wrap(engine)
        self._hooks, self.optimizer, self.loader = engine.make_private(
            module=module, optimizer=optimizer, data_loader=loader, wrap_model=False, **self.given
        )
        self.training, self._is_begun = training, True

    @property
    def steps(self) -> int:
        """Return how many steps the model has behind it."""
        return self._before + (self.training.noised if self._is_begun else 0)

    @property
    def is_complete(self) -> bool:
        """Return whether every approved step was executed, here or by earlier processes, and the last one is whole."""
        return self.training.steps >= (self.training.run.planned_steps or 0) and self.training.is_between_steps

    def finish(self, error: BaseException | None = None) -> None:
        """Settle the run of the last fit, if there is one, and take the hooks off the model. Can be repeated."""
        if not self._is_begun:
            return
        self._before, self._earlier, self._is_begun = self.steps, self.training.run.id, False
        try:
            self.training.finish(error)
        finally:
            self._hooks.cleanup()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {RUN: self.training.run.id if self._is_begun else self._earlier, STEPS: self.steps}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take what a checkpoint held."""
        self._earlier, self._before = str(state.get(RUN) or ""), int(state.get(STEPS) or 0)


def demand_version(name: str, installed: str, known: str) -> None:
    """Refuse other versions of a trainer than the minor one whose source was read. Raises NotCovered."""
    if not installed.startswith(f"{known}."):
        raise NotCovered(
            f"{name} {installed} is installed. Version {known} is known here; others call the optimizer and the loader"
            f" in other ways. Install it: pip install '{name}=={known}.*'"
        )

"""fastDP: ask for the shuffled epochs that a training really makes, and count each step before it is executed.

    from ledger.client.fastdp import attach

    engine.attach(optimizer)
    training = attach(engine, optimizer, loader, dataset="digits", epochs=5)
    …                                                # your loop, over `loader`
    training.finish()

fastDP adds noise in its hooks and draws no batches: its accountants assume Poisson samples, and the script's loader
shuffles. It is on no package index; this was written for the source of version 2.0.0, with the checks of Opacus' part:
`pip install 'privacy-ledger[opacus]'`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final

import torch

from ledger.client.attached import NotCovered
from ledger.client.calls import get
from ledger.client.ledgers import Ledger
from ledger.client.mechanisms import DPSGD
from ledger.client.opacus.checks import demand_loader
from ledger.client.opacus.training import IF_EXCEEDED, demand_options, named
from ledger.client.runs import Run

__all__ = ["NotCovered", "Training", "attach"]

log = logging.getLogger("ledger.client.fastdp")
VERSION: Final = "2.0.0"
CLIPPING: Final = frozenset({"automatic", "Abadi"})
"""The functions that bound what a record adds by the clip norm."""


def attach(
    engine: Any,
    optimizer: Any,
    loader: Any,
    *,
    dataset: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
    epochs: int,
    ledger: Ledger | None = None,
    **options: Any,
) -> Training:
    """Ask the ledger for a training with fastDP, and count its steps. The loop must take its batches from `loader`.

    engine: a PrivacyEngine of fastDP that is attached to the optimizer. loader: a plain DataLoader, shuffled or not.
    dataset: the dataset's name in the ledger, or several; its unit is a record, and not under add_or_remove_one, where
    all shuffled batches differ without one record. epochs: passes over the loader. options: for `Ledger.run`.

    Raises BudgetExceeded if the run does not fit, and NotCovered if the training would do something that is not
    accounted for. `optimizer.step()` raises NotCovered or PlanExceeded before a step that was not approved.

    >>> training = attach(engine, optimizer, loader, dataset="digits", epochs=5)
    >>> training.run.planned_steps
    145
    """
    demand_options(options)
    _demand_engine(engine, optimizer)
    demand_loader(loader, is_poisson=False)
    names = named(dataset)
    owned = Ledger() if ledger is None else ledger
    try:
        for one in names:
            _demand_dataset(owned, one if isinstance(one, str) else str(one["name"]))
        return Training(engine, optimizer, loader, owned, names, epochs, options, is_owner=ledger is None)
    except BaseException:
        if ledger is None:
            owned.close()
        raise


class Training:
    """A training with fastDP: its run, and what is counted. steps: those of this process that got their noise."""

    run: Run

    def __init__(
        self,
        engine: Any,
        optimizer: Any,
        loader: Any,
        ledger: Ledger,
        datasets: list[Any],
        epochs: int,
        options: dict[str, Any],
        *,
        is_owner: bool,
    ) -> None:
        self._engine, self._optimizer, self._loader, self._epochs = engine, optimizer, loader, epochs
        self.mechanism = DPSGD(
            noise_multiplier=float(engine.noise_multiplier),
            sampling="shuffle",
            dataset_size=len(loader.dataset),
            batch_size=min(loader.batch_size, len(loader.dataset)),
            epochs=epochs,
        )
        self._noise = float(engine.noise_multiplier) * float(engine.max_grad_norm)
        self._scope = ledger.run(datasets=datasets, mechanism=self.mechanism, **options)
        self.run = self._scope.__enter__()
        self._close = ledger.close if is_owner else lambda: None
        self.steps = self._passes = self._batches = 0
        self._seed: int | None = None
        self._is_over = False
        try:
            self._passes, rest = divmod(self.run.steps, len(loader))
            if rest:
                raise NotCovered(
                    f"Earlier processes ended within a pass, after step {self.run.steps}. A loader begins each pass"
                    " with a new order. Ask for a new run: idempotency_key=…"
                )
        except BaseException:
            self._scope.let_go()
            raise
        self.run.if_exceeded = IF_EXCEEDED
        self.run.evidence["fastdp"] = {
            "libraries": {"fastdp": VERSION, "torch": torch.__version__},
            "options": {"sampler": type(loader.sampler).__name__, "steps_from": "counted", "fixed_seed": False},
            "checked": ["shuffled batches", "one step for each batch", "noise of each parameter", "seeds of the noise"],
            "rules_out": ["fastdp-assumes-poisson"],
        }
        self._step = optimizer.step
        optimizer.step = self._counted
        loader.__class__ = type("Watched", (type(loader),), {"__iter__": self._batches_of(type(loader))})

    def _batches_of(self, plain: Any) -> Any:
        def batches(loader: Any) -> Iterator[Any]:
            if self._passes >= self._epochs:
                raise NotCovered(
                    f"Pass {self._passes + 1} over the loader is beyond the {self._epochs} epochs that were approved."
                    " End the loop there, or attach with more epochs."
                )
            self._passes, self._batches = self._passes + 1, 0
            return self._taken(plain.__iter__(loader))

        return batches

    def _taken(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            if self._batches:
                raise NotCovered("A batch was taken, and no step was made for the last one. Make one for each batch.")
            self._batches += 1
            # The hooks take their noise from the generator that scripts seed. Nobody may know or repeat that.
            torch.seed()
            self._seed = self._seeds()
            yield batch

    def _seeds(self) -> int:
        is_on_gpu = any(parameter.device.type == "cuda" for _, parameter in self._engine.named_params)
        return torch.cuda.initial_seed() if is_on_gpu else int(torch.initial_seed())

    def _counted(self, *args: Any, **options: Any) -> Any:
        """Count a step, or raise NotCovered or PlanExceeded before it."""
        if self._is_over:
            raise NotCovered("The run is settled: finish() was called. Attach a new training, and do not step here.")
        if not self._batches:
            raise NotCovered("The batch of this step was not taken from the loader, or was used in a step before.")
        if self._seed != self._seeds():
            raise NotCovered(
                "The generator was seeded after the batch was taken, so that the noise can be known or comes again."
                " Seed before the loop only."
            )
        parameters = [parameter for _, parameter in self._engine.named_params]
        if not all(parameter.noise >= self._noise * (1 - 1e-9) for parameter in parameters):
            raise NotCovered(f"A parameter has less noise than the approved {self._noise:g}. Leave it as it is.")
        if not all(hasattr(parameter, "private_grad") for parameter in parameters):
            names = [name for name, one in self._engine.named_params if not hasattr(one, "private_grad")]
            raise NotCovered(
                f"{', '.join(names[:3])}: no private gradient. fastDP would leave them out from here on. Set"
                " requires_grad=False for layers that it does not support, and call backward() before each step."
            )
        self.run.step()
        result = self._step(*args, **options)
        self._batches, self.steps = 0, self.steps + 1
        return result

    def finish(self, error: BaseException | None = None) -> None:
        """Settle the run, and log one line if what was executed differs from what was approved or fastDP counted."""
        if self._is_over:
            return
        self._is_over = True
        found = []
        if self.run.steps != self.run.planned_steps:
            found.append(f"{self.run.steps} of {self.run.planned_steps} approved steps were executed")
        if self._engine.steps != self.steps:
            found.append(f"fastDP counted {self._engine.steps} steps, and {self.steps} were executed here")
        found.append("fastDP's epsilon assumes Poisson samples, and the batches were shuffled")
        self.run.evidence["fastdp"] |= {"steps": self.steps, "differences": found}
        try:
            self._scope.__exit__(None if error is None else type(error), error, None)
        finally:
            log.warning("Run %s: %s.", self.run.id, "; ".join(found))
            self._close()

    def __enter__(self) -> Training:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.finish(error)


def _demand_engine(engine: Any, optimizer: Any) -> None:
    """Raise NotCovered for another engine than the one whose source was read."""
    module = type(engine).__module__
    version = getattr(sys.modules.get("fastDP"), "__version__", None)
    if module != "fastDP.privacy_engine" or version != VERSION:
        raise NotCovered(
            f"The engine is {module}.{type(engine).__name__}, of fastDP {version}. Known is fastDP.PrivacyEngine of"
            f" {VERSION}, in one process."
        )
    if not hasattr(optimizer, "privacy_engine") or optimizer.privacy_engine is not engine:
        raise NotCovered("The engine is not attached to this optimizer. Before: engine.attach(optimizer)")
    if engine.clipping_fn not in CLIPPING:
        raise NotCovered(f"clipping_fn={engine.clipping_fn!r}. Known are {', '.join(sorted(CLIPPING))}.")
    if not engine.noise_multiplier > 0:
        raise NotCovered(f"noise_multiplier={engine.noise_multiplier} adds no noise. Give a number above 0.")


def _demand_dataset(ledger: Ledger, name: str) -> None:
    """Raise NotCovered for a dataset whose terms say more than shuffled batches of records keep."""
    terms = ledger._answer_soon(get("datasets", name))  # noqa: SLF001 (both are the client)
    if terms["privacy_unit"] != "record" or terms["adjacency"] == "add_or_remove_one":
        raise NotCovered(
            f"{name} has the privacy unit {terms['privacy_unit']!r} under {terms['adjacency']}. fastDP clips records,"
            " and without one record all shuffled batches differ. Register the records with --adjacency zero_out."
        )

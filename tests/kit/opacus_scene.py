"""Training with Opacus for tests: digits, a small model, and an independent count of what is executed.

Imported by tests that have checked that Opacus can be imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from opacus import PrivacyEngine
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from ledger.client import Ledger as Client
from ledger.client.opacus import Training, attach

SIZE = 1_797
_PIXELS, _LABELS = load_digits(return_X_y=True)
DIGITS = TensorDataset(torch.tensor(_PIXELS / 16, dtype=torch.float32), torch.tensor(_LABELS))
CRITERION = torch.nn.CrossEntropyLoss()


@dataclass
class Executed:
    """What the sampler and the noise generator really did, seen at their own functions.

    batches: the size of each draw. rates: what each was compared with. noises: (standard deviation, generator) of each
    call of torch.normal.
    """

    batches: list[int] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    noises: list[tuple[float, Any]] = field(default_factory=list)

    @classmethod
    def watch(cls, patch: pytest.MonkeyPatch) -> Executed:
        """Count from here on."""
        seen = cls()
        draw, normal = UniformWithReplacementSampler.__iter__, torch.normal

        def counted(sampler: Any) -> Iterator[Any]:
            for indices in draw(sampler):
                seen.batches.append(len(indices))
                seen.rates.append(sampler.sample_rate)
                yield indices

        def noise(*given: Any, **named: Any) -> Any:
            seen.noises.append((float(named["std"]), named["generator"]))
            return normal(*given, **named)

        patch.setattr(UniformWithReplacementSampler, "__iter__", counted)
        patch.setattr(torch, "normal", noise)
        return seen


@dataclass
class Made:
    """An attached training and what `make_private` returned."""

    training: Training
    engine: Any
    model: Any
    optimizer: Any
    loader: Any
    criterion: Any

    def step(self, batch: Any, *, backward: Callable[[Any], Any] = lambda loss: loss.backward()) -> None:
        """One step on a batch, as every script has it."""
        self.optimizer.zero_grad()
        backward(self.criterion(self.model(batch[0]), batch[1]))
        self.optimizer.step()

    def epoch(self, loader: Any = None) -> int:
        """Pass over a loader, and return how many batches there were."""
        count = 0
        for batch in self.loader if loader is None else loader:
            self.step(batch)
            count += 1
        return count


def make(
    client: Client,
    *,
    dataset: str = "digits",
    data: Any = DIGITS,
    batch_size: int = 64,
    source: Any = None,
    engine: Any = None,
    private: dict[str, Any] | None = None,
    module: Any = None,
    **plan: Any,
) -> Made:
    """Attach, and make a linear model private. plan: for `attach`; private: for `make_private`."""
    engine = PrivacyEngine(accountant="rdp") if engine is None else engine
    if not plan.keys() & {"epochs", "steps", "noise_schedule"}:
        plan["epochs"] = 1
    if dataset == "digits":
        plan.setdefault("nominal_size", SIZE)
    training = attach(engine, dataset=dataset, ledger=client, **plan)
    return private_of(training, engine, data=data, batch_size=batch_size, source=source, private=private, module=module)


def private_of(
    training: Training,
    engine: Any,
    *,
    data: Any = DIGITS,
    batch_size: int = 64,
    source: Any = None,
    private: dict[str, Any] | None = None,
    module: Any = None,
) -> Made:
    """Make a model private with an engine that is attached."""
    module = torch.nn.Linear(64, 10) if module is None else module
    given = {"noise_multiplier": 2.0, "max_grad_norm": 1.0, "criterion": CRITERION, **(private or {})}
    source = DataLoader(data, batch_size=batch_size, shuffle=True) if source is None else source
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    made = engine.make_private(module=module, optimizer=optimizer, data_loader=source, **given)
    criterion = made[2] if len(made) == 4 else CRITERION
    return Made(training, engine, made[0], made[1], made[-1], criterion)

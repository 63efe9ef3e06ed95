"""Trainers of transformers on data that ships with scikit-learn, on the processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_breast_cancer
from torch.utils.data import Dataset
from transformers import GPT2Config, PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments

from ledger.client import Ledger
from ledger.client.transformers import LedgerCallback

_VALUES, _LABELS = load_breast_cancer(return_X_y=True)
_SCALED = torch.tensor((_VALUES - _VALUES.mean(0)) / _VALUES.std(0), dtype=torch.float32)
SIZE = len(_SCALED)
"""569 records."""


class Cancer(Dataset[Any]):
    """The records as a Trainer takes them."""

    def __init__(self, size: int = SIZE) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.size:
            raise IndexError(index)
        return {"values": _SCALED[index], "labels": int(_LABELS[index])}


class Linear(PreTrainedModel):
    """A linear classifier as a model of transformers. sizes: of the batches that it saw."""

    config_class = PretrainedConfig

    def __init__(self) -> None:
        super().__init__(PretrainedConfig())
        self.layer = torch.nn.Linear(30, 2)
        self.sizes: list[int] = []
        self.post_init()

    def forward(self, values: Any, labels: Any = None) -> dict[str, Any]:
        """Return the loss and the logits."""
        self.sizes.append(len(values))
        logits = self.layer(values)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def arguments(folder: Path, **options: Any) -> dict[str, Any]:
    """What every training here has: batches of 100, so that six are an epoch, and nothing shown."""
    quiet: dict[str, Any] = {
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "use_cpu": True,
        "logging_steps": 1_000,
    }
    return {"output_dir": str(folder), "per_device_train_batch_size": 100, **quiet, **options}


def trainer(folder: Path, *, model: Any = None, data: Any = None, **options: Any) -> Trainer:
    """A Trainer of a linear classifier."""
    model = Linear() if model is None else model
    data = Cancer() if data is None else data
    return Trainer(model=model, args=TrainingArguments(**arguments(folder, **options)), train_dataset=data)


def private(ledger: Ledger, dataset: str, one: Any, **options: Any) -> LedgerCallback:
    """The one line."""
    given = {"noise_multiplier": 2.0, "max_grad_norm": 1.0, "nominal_size": SIZE, **options}
    callback = LedgerCallback(one, dataset=dataset, ledger=ledger, **given)
    one.add_callback(callback)
    return callback


def asked(ledger: Ledger, callback: LedgerCallback) -> dict[str, Any]:
    """The mechanism in the journal's request of the run of a training."""
    mechanism: dict[str, Any] = ledger.run_info(callback.training.run.id)["request"]["mechanism"]
    return mechanism


def small() -> GPT2Config:
    """The configuration of a language model of 40 tokens with random weights."""
    return GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)

"""What each client of the jobs in test_nvflare.py executes: some steps of softmax regression on its own digits."""

from __future__ import annotations

from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.executor import Executor
from sklearn.datasets import load_digits


class Digits(Executor):
    """Trains on the digits whose number has this client's number as its rest. breaks: the client that returns NaN."""

    def __init__(self, clients: int = 6, breaks: str = "") -> None:
        super().__init__()
        self.clients, self.breaks = clients, breaks

    def execute(self, task_name: str, shareable: Any, fl_ctx: Any, abort_signal: Any) -> Any:
        """Return the weights after training."""
        name = fl_ctx.get_identity_name()
        number = int(name.rpartition("-")[2]) - 1
        pixels, labels = load_digits(return_X_y=True)
        pixels, labels = (pixels / 16)[number :: self.clients], labels[number :: self.clients]
        weights = np.array(from_shareable(shareable).data["numpy_key"], dtype=np.float64)
        for _ in range(5):
            scores = pixels @ weights
            chances = np.exp(scores - scores.max(axis=1, keepdims=True))
            chances /= chances.sum(axis=1, keepdims=True)
            chances[np.arange(len(labels)), labels] -= 1
            weights = weights - 2.0 * pixels.T @ chances / len(labels)
        if name == self.breaks:
            weights[:] = np.nan
        changed = weights.astype(np.float32)
        return DXO(
            data_kind=DataKind.WEIGHTS, data={"numpy_key": changed}, meta={"NUM_STEPS_CURRENT_ROUND": 1 + number}
        ).to_shareable()

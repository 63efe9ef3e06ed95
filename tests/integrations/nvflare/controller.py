"""The controller of the jobs in test_nvflare.py: ours, with each draw of noise and of clients written down."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ledger.client.nvflare import BudgetedFedAvg


class _Recorded:
    """A generator of NumPy whose normal samples are written down."""

    def __init__(self, generator: Any, file: Path) -> None:
        self._generator, self._file = generator, file

    def normal(self, loc: float, scale: float, size: Any) -> Any:
        """Draw, and write down the deviation that was asked for and the one of the sample."""
        values = self._generator.normal(loc, scale, size)
        with self._file.open("a") as file:
            file.write(json.dumps({"scale": scale, "std": float(values.std()), "first": float(values.flat[0])}) + "\n")
        return values


class RecordedFedAvg(BudgetedFedAvg):
    """folder: where `noise.jsonl` and `clients.jsonl` are written. dies_at: the round in which its process dies."""

    def __init__(self, *args: Any, folder: str, dies_at: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.folder, self.dies_at = folder, dies_at
        self._drawn = 0

    def run(self) -> None:
        """Run with a NumPy whose new generators write down what they draw."""
        made, file = np.random.default_rng, Path(self.folder) / "noise.jsonl"
        np.random.default_rng = lambda *seed: _Recorded(made(*seed), file)  # type: ignore[assignment]
        super().run()

    def sample_clients(self, num_clients: int | None = None) -> list[str]:
        """Draw, write it down, and die if it is time."""
        clients = super().sample_clients(num_clients)
        with (Path(self.folder) / "clients.jsonl").open("a") as file:
            file.write(json.dumps(clients) + "\n")
        self._drawn += 1
        if self._drawn == self.dies_at:
            os._exit(7)
        return clients

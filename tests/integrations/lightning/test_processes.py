"""Two processes that train together with torchrun and gloo: one asks, and Opacus' draws in several are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ledger.client import Ledger

HEAD = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()

def report(**facts):
    with open(f"{sys.argv[2]}/{rank}.json", "w") as file:
        json.dump(facts, file)
    # Threads of gloo that are left end the process with an error.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""

TOGETHER = """
from ledger.client import Gaussian, Ledger
with Ledger() as ledger, ledger.run(datasets=[sys.argv[1]], mechanism=Gaussian(noise_multiplier=20, count=4)) as run:
    for _ in range(4):
        run.step()
        total = torch.ones(1)
        torch.distributed.all_reduce(total)
report(run=run.id, rank=run.rank, steps=run.steps, total=int(total), is_settled=run.settled is not None)
"""

OPACUS = """
from opacus import PrivacyEngine
from opacus.distributed import DifferentiallyPrivateDistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from ledger.client.opacus import NotCovered, attach

data = TensorDataset(torch.randn(8, 4), torch.zeros(8, dtype=torch.long))
is_attached = sys.argv[3] == "attached"
model = DifferentiallyPrivateDistributedDataParallel(torch.nn.Linear(4, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
engine = PrivacyEngine()
if is_attached:
    attach(engine, dataset=sys.argv[1], epochs=1, nominal_size=8)
try:
    model, optimizer, loader = engine.make_private(
        module=model, optimizer=optimizer, data_loader=DataLoader(data, batch_size=1), noise_multiplier=2.0,
        max_grad_norm=1.0,
    )
except NotCovered as refused:
    report(refused=str(refused))
    sys.exit()
torch.manual_seed(rank)
batches = 0
for values, labels in loader:
    batches += 1
report(promised=len(loader), batches=batches)
"""


def torchrun(folder: Path, body: str, *given: str) -> list[dict[str, Any]]:
    """What two processes report."""
    script = folder / "train.py"
    script.write_text(HEAD + body)
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        script,
    ]
    environment = {**os.environ, "LEDGER_STATE_DIR": str(folder / "state"), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, given[0], folder, *given[1:]], env=environment, check=True, timeout=300)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_one_process_asks_for_all(ledger: Ledger, dataset: str, tmp_path: Path) -> None:
    """Goal: one process asks and settles, the other waits for its run; both train, and it is charged once."""
    first, second = torchrun(tmp_path, TOGETHER, dataset)
    (run,) = ledger.runs(dataset=dataset)
    assert (run["state"], run["id"]) == ("settled", first["run"])
    assert first == {"run": run["id"], "rank": 0, "steps": 4, "total": 2, "is_settled": True}
    assert second == {"run": run["id"], "rank": 1, "steps": 4, "total": 2, "is_settled": False}


@pytest.mark.parametrize("is_attached", [True, False])
def test_draws_of_several_processes(ledger: Ledger, records: str, tmp_path: Path, is_attached: bool) -> None:
    """Goal: the draws of Opacus in two processes leave out empty ones, so `attach` refuses in both, and nothing is
    asked for. Method: the real sampler in two processes, with and without `attach`."""
    reports = torchrun(tmp_path, OPACUS, records, "attached" if is_attached else "alone")
    assert not list(ledger.runs(dataset=records))
    if is_attached:
        assert all("leaves out empty draws" in report["refused"] for report in reports)
    else:
        assert all(report["batches"] < report["promised"] for report in reports)

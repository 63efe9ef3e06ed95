#!/usr/bin/env bash
# opacus 1.6.0 with torch 2.13.0, seen on 2026-11-30: a scheduler of the clip norm takes away noise.
#
# Believed: ExponentialGradClip(optimizer, gamma=0.5) halves the norm to which gradients are clipped, and with it the noise; the
# noise multiplier stays what the accountant records.
# Happens: with grad_sample_mode="ghost", or clipping="per_layer", gradients are clipped to the old norm, which these keep in a
# place of their own, and the noise is for the new one. The history still has noise multiplier 1.
# Who is hurt: anyone who lowers the clip norm with ghost or per-layer clipping. After four halvings the real noise multiplier is 1/16.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 opacus==1.6.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from opacus import PrivacyEngine
from opacus.schedulers import ExponentialGradClip
from torch.utils.data import DataLoader, TensorDataset

STEPS = 5
# One record, far above every clip norm: the clipped sum is as long as the norm to which it was clipped.
ONE = TensorDataset(torch.ones(1, 5), torch.zeros(1, dtype=torch.long))


def train(norm, **options):
    """Return the norm of the clipped sum over the noise that was for it, after STEPS - 1 halvings, and the history."""
    model = torch.nn.Linear(5, 2)
    engine = PrivacyEngine(accountant="rdp")
    made = engine.make_private(
        module=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0), data_loader=DataLoader(ONE, batch_size=1),
        criterion=torch.nn.CrossEntropyLoss(), noise_multiplier=1.0, max_grad_norm=norm, **options,
    )
    model, optimizer = made[0], made[1]
    criterion = made[2] if len(made) == 4 else torch.nn.CrossEntropyLoss()
    scheduler = ExponentialGradClip(optimizer, gamma=0.5)
    for _ in range(STEPS):
        optimizer.zero_grad()
        criterion(1e3 * model(ONE.tensors[0]) + torch.tensor([-1e6, 1e6]), ONE.tensors[1]).backward()
        optimizer.step()
        summed = torch.cat([p.summed_grad.reshape(-1) for p in optimizer.params]).norm().item()
        moved = summed / (optimizer.noise_multiplier * optimizer.max_grad_norm)
        scheduler.step()
    return moved, engine.accountant.history


for name, norm, options in (
    ("hooks, flat", 1.0, {}),
    ("ghost", 1.0, {"grad_sample_mode": "ghost"}),
    ("per_layer", [0.6, 0.8], {"clipping": "per_layer"}),
):
    moved, history = train(norm, **options)
    print(f"{name}: recorded noise multiplier {history[0][0]}, real one {1 / moved:.4f} after {STEPS - 1} halvings")
    assert [entry[0] for entry in history] == [1.0]
    assert abs(moved - (1 if name == "hooks, flat" else 2 ** (STEPS - 1))) < 0.01
print("still so")
PYTHON

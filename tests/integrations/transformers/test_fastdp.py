"""fastDP: shuffled epochs are asked for, whatever its accountants assume. It is on no package index: this runs if its
source is in PYTHONPATH."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

pytest.importorskip("fastDP", reason="fastDP is on no package index; put its source into PYTHONPATH")

from fastDP import PrivacyEngine

from ledger.client import Ledger
from ledger.client.fastdp import NotCovered, Training, attach
from tests.kit.opacus_scene import DIGITS, SIZE

pytestmark = pytest.mark.filterwarnings("ignore")


def made(ledger: Ledger, dataset: str, **options: Any) -> tuple[Training, Any, Any, Any]:
    """An attached training of two epochs of six batches, with model, optimizer and loader."""
    model = torch.nn.Sequential(torch.nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader: Any = DataLoader(DIGITS, batch_size=300, shuffle=True)
    given = {"clipping_fn": "Abadi", "noise_multiplier": 2.0, "target_delta": 1e-5, **options}
    engine = PrivacyEngine(model, batch_size=300, sample_size=SIZE, epochs=2, **given)
    engine.attach(optimizer)
    return attach(engine, optimizer, loader, dataset=dataset, epochs=2, ledger=ledger), model, optimizer, loader


def step(model: Any, optimizer: Any, batch: Any) -> None:
    """One step on a batch."""
    torch.nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()
    optimizer.zero_grad()


def test_what_is_asked_is_what_is_executed(
    ledger: Ledger, public: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: the shuffled epochs are asked for, and each step has its noise. Method: the noise at torch.normal."""
    noises: list[float] = []
    normal = torch.normal

    def counted(*given: Any, **named: Any) -> Any:
        noises.append(float(named["std"]))
        return normal(*given, **named)

    monkeypatch.setattr(torch, "normal", counted)
    training, model, optimizer, loader = made(ledger, public)
    for _ in range(2):
        torch.manual_seed(7)
        for batch in loader:
            step(model, optimizer, batch)
    with pytest.raises(NotCovered, match="Pass 3"):
        next(iter(loader))
    training.finish()
    assert noises == [2.0] * 2 * 12
    info = ledger.run_info(training.run.id)
    size = {"dataset_size": SIZE, "batch_size": 300, "epochs": 2}
    asked = {"type": "dpsgd", "sampling": "shuffle", "noise_multiplier": 2.0, **size}
    assert info["request"]["mechanism"] == asked
    assert (info["state"], info["settled"]["steps"], training.steps) == ("settled", 12, 12)
    assert "assumes Poisson samples, and the batches were shuffled" in caplog.text


def test_what_is_refused(ledger: Ledger, public: str, records: str) -> None:
    """Goal: what nothing covers is refused before the step."""
    with pytest.raises(NotCovered, match="zero_out"):
        made(ledger, records)
    with pytest.raises(NotCovered, match="clipping_fn='global'"):
        made(ledger, public, clipping_fn="global")
    training, model, optimizer, loader = made(ledger, public)
    batches = iter(loader)
    step(model, optimizer, next(batches))
    with pytest.raises(NotCovered, match="used in a step before"):
        optimizer.step()
    batch = next(batches)
    with pytest.raises(NotCovered, match="no private gradient"):
        optimizer.step()
    torch.manual_seed(7)
    with pytest.raises(NotCovered, match="seeded after the batch"):
        step(model, optimizer, batch)
    with pytest.raises(NotCovered, match="no step was made for the last one"):
        next(batches)
    training.finish()
    assert training.steps == 1
    with pytest.raises(NotCovered, match=r"finish\(\) was called"):
        optimizer.step()

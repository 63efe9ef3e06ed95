"""What the callbacks of trainers share: a training from a checkpoint goes on with its run, or asks for the steps left.

Goal of all: no step of a training is executed that no run covers, whatever it begins from, and none is asked for twice.
Method: a loop as a trainer has it; that of each real trainer is in tests/integrations.
"""

from __future__ import annotations

import atexit
from typing import Any

import pytest

for _name in ("torch", "opacus", "sklearn"):
    pytest.importorskip(_name, reason=f"{_name} is not installed: see `make test` about requirements-training.lock")

import torch
from torch.utils.data import DataLoader

from ledger.client import BudgetExceeded
from ledger.client import Ledger as Client
from ledger.client.opacus import NotCovered
from ledger.client.opacus.plan import Trainer
from ledger.client.opacus.trainers import Private, demand_version
from tests.kit.clients import died
from tests.kit.opacus_scene import CRITERION, DIGITS, SIZE, Executed

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
LIBRARY = Trainer(
    libraries={"loops": "1.0"}, rules_out=("a-fault",), checked=("the loop",), if_shorter="Loop in parts."
)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Executed:
    """What is really drawn and added in this test."""
    return Executed.watch(monkeypatch)


def private(client: Client, dataset: str = "digits", **given: Any) -> Private:
    """The arguments of a callback."""
    mixed = {"nominal_size": SIZE, "private": None, **given}
    names = ("nominal_size", "max_examples_per_user", "rows_per_record", "private")
    of_private = {name: mixed.pop(name, 1 if name == "rows_per_record" else None) for name in names}
    return Private(
        dataset=dataset,
        noise_multiplier=2.0,
        max_grad_norm=1.0,
        secure_mode=False,
        ledger=client,
        options=mixed,
        **of_private,
    )


def begun(one: Private, steps: int, *, batch_size: int = 300) -> Any:
    """Begin a training of so many steps, and return the model."""
    model = torch.nn.Linear(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(DIGITS, batch_size=batch_size, shuffle=True)
    one.begin(model, optimizer, loader, steps_of=lambda _batches: steps, trainer=LIBRARY)
    return model


def trained(one: Private, steps: int, *, most: int = 1_000) -> int:
    """Train until the run is complete, or for so many steps. Return how many were made."""
    model, made = begun(one, steps), 0
    while made < most and not one.is_complete:
        for images, labels in one.loader:
            one.optimizer.zero_grad()
            CRITERION(model(images), labels).backward()
            one.optimizer.step()
            made += 1
            if made == most or one.is_complete:
                break
    return made


def of(client: Client, one: Private) -> Any:
    """The run of the last training."""
    return client.run_info(one.training.run.id)


def test_a_settled_run_is_followed_by_another(opacus_client: Client, executed: Executed) -> None:
    """Goal: what a checkpoint has is not asked for again; a training that has nothing left is refused."""
    first = private(opacus_client)
    assert trained(first, 7) == 7
    first.finish()
    first.finish()
    settled = of(opacus_client, first)
    evidence = settled["settled"]["evidence"]["opacus"]
    assert (settled["state"], evidence["libraries"]["loops"], evidence["differences"]) == ("settled", "1.0", [])
    assert "a-fault" in evidence["rules_out"]
    assert "the loop" in evidence["checked"]
    second = private(opacus_client)
    second.load(first.state())
    assert trained(second, 10) == 3
    second.finish()
    assert of(opacus_client, second)["request"]["mechanism"]["steps"] == 3
    assert second.state() == {"run": second.training.run.id, "steps": 10}
    assert len(executed.noises) == 2 * 10
    third = private(opacus_client)
    third.load(second.state())
    with pytest.raises(NotCovered, match="has 10 steps, and the training ends after 10: none is left"):
        begun(third, 10)


def test_an_open_run_is_gone_on_with(opacus_client: Client, executed: Executed) -> None:
    """Goal: a checkpoint of a killed training goes on with its run, for the steps left of it; one that does something
    else is refused, with what to do, and after that asks for a run of the steps left."""
    first = private(opacus_client, idempotency_key="an-open-run")
    assert trained(first, 12, most=7) == 7
    state = first.state()
    died(first.training.run)
    atexit.unregister(first.training._end)
    other = private(opacus_client)
    other.load({**state, "steps": 5})
    with pytest.raises(NotCovered, match=rf"still open and was approved for .*privacy-ledger settle {state['run']}"):
        begun(other, 13)
    second = private(opacus_client, steps_done=8)
    second.load({**state, "steps": 5})
    assert trained(second, 12) == 4
    second.finish()
    run = of(opacus_client, second)
    assert (run["id"], run["settled"]["steps"], run["state"]) == (state["run"], 12, "settled")
    assert second.state() == {"run": state["run"], "steps": 9}
    assert len(executed.noises) == 2 * (7 + 4)
    other = private(opacus_client)
    other.load({**state, "steps": 5})
    assert trained(other, 13) == 8
    other.finish()


def test_a_training_that_stops_early(opacus_client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: the way out is that of the trainer, and the next training of the same object is another run."""
    one = private(opacus_client)
    trained(one, 6, most=2)
    run = one.training.run.id
    trained(one, 6)
    assert "stopped after 2 of 6 steps and is charged in full" in caplog.text
    assert "Loop in parts." in caplog.text
    one.finish()
    assert of(opacus_client, one)["request"]["mechanism"]["steps"] == 4
    assert one.training.run.id != run


def test_what_is_refused(opacus_client: Client, executed: Executed) -> None:
    """Goal: a training that is refused leaves no hook on the model, and asks for nothing it could not do."""
    with pytest.raises(BudgetExceeded):
        begun(private(opacus_client, "tiny"), 6)
    with pytest.raises(NotCovered, match="comes from a list"):
        private(opacus_client).begin(None, None, [1, 2], steps_of=lambda _: 1, trainer=LIBRARY)
    with pytest.raises(NotCovered, match="needs a loss of its own"):
        private(opacus_client, private={"grad_sample_mode": "ghost"})
    with pytest.raises(TypeError, match="takes no segments"):
        private(opacus_client, segments=2)
    with pytest.raises(ValueError, match="nominal_size: 0"):
        private(opacus_client, nominal_size=0)
    with pytest.raises(NotCovered, match=r"loops 2\.1 is installed.*loops==2\.0\.\*"):
        demand_version("loops", "2.1", "2.0")
    assert not executed.batches


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    """Tests run beside each other, and a matrix of digits is small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

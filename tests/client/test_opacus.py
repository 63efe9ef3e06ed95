"""Opacus: the run that is asked for is the mechanism that is executed.

Goal of all: an independent count of draws, rates and noise, taken at the sampler's and the generator's own functions in
real training, agrees with what the ledger approved and charged. The tests share one ledger, and ask for separate runs.
"""

from __future__ import annotations

import atexit
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from dp_accounting.pld import privacy_loss_distribution

for _name in ("torch", "opacus", "sklearn"):
    pytest.importorskip(_name, reason=f"{_name} is not installed: see `make test` about requirements-training.lock")

import numpy as np
import torch
from opacus import PrivacyEngine
from opacus.schedulers import ExponentialNoise
from opacus.utils.batch_memory_manager import BatchMemoryManager
from torch.utils.data import DataLoader, Subset

from ledger.client import BudgetExceeded, PlanExceeded
from ledger.client import Ledger as Client
from ledger.client.opacus import NotCovered, attach
from ledger.client.opacus.checks import drawn_rate
from tests.kit.clients import died
from tests.kit.opacus_scene import DIGITS, SIZE, Executed, make, private_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Executed:
    """What is really drawn and added in this test."""
    return Executed.watch(monkeypatch)


def of(client: Client, training: Any) -> dict[str, Any]:
    """The mechanism in the journal's request of a training's run."""
    mechanism: dict[str, Any] = client.run_info(training.run.id)["request"]["mechanism"]
    return mechanism


def test_what_is_asked_is_what_is_executed(opacus_client: Client, executed: Executed) -> None:
    """Goal: 1,797 records in batches of 64 are 29 draws an epoch at 1/29, not 28.08 at 64/1,797."""
    made = make(opacus_client, epochs=3, purpose="a baseline")
    assert sum(made.epoch() for _ in range(3)) == 87
    with pytest.raises(PlanExceeded, match="Step 88") as beyond:
        made.epoch()
    # `attach` refuses allow_overrun, so it is no way out here.
    assert "attach another training" in str(beyond.value)
    assert "allow_overrun" not in str(beyond.value)
    made.training.finish()
    info = opacus_client.run_info(made.training.run.id)
    asked = info["request"]["mechanism"]
    assert (asked["steps"], asked["sampling"], asked["noise_multiplier"]) == (87, "poisson", 2.0)
    assert set(executed.rates) == {1 / 29}
    # The draw of the step beyond the plan was made, and its noise was not.
    assert (len(executed.batches), len(executed.noises)) == (88, 2 * 87)
    assert {std for std, _ in executed.noises} == {2.0}
    assert Decimal(str(asked["sample_rate"])) - Decimal(1) / 29 < Decimal("1e-7")
    assert sum(executed.batches) == pytest.approx(88 * SIZE / 29, abs=5 * math.sqrt(88 * SIZE / 29))
    assert info["state"] == "settled"
    assert info["settled"]["steps"] == 87
    evidence = info["settled"]["evidence"]["opacus"]
    assert evidence["libraries"]["opacus"].startswith("1.6.")
    assert (evidence["steps"], evidence["differences"]) == (87, [])


@pytest.mark.parametrize("rate", [1e-7, 1 / 3_000_000, 1e-3 + 1e-9, 1 / 93, 1 / 29, 1.0])
def test_the_rate_is_that_of_the_generator(rate: float) -> None:
    """Goal: torch.rand has 24 bits, so that a rate of 1e-7 draws 1.19e-7. Method: all of its values near the rate,
    compared as the sampler compares them, counted exactly."""
    unit = 2**24
    near = max(0, round(rate * unit) - 5)
    values = torch.arange(near, min(near + 10, unit), dtype=torch.float32) / unit
    below = near + int((values < rate).sum())
    assert drawn_rate(rate) >= Decimal(below) / unit
    assert drawn_rate(rate) <= Decimal(below) / unit * (1 + Decimal("1e-8"))


def test_a_rate_that_opacus_loses(opacus_client: Client, executed: Executed, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: of 93 batches, make_private makes 92 draws at 1/93 and records 1/92. The ledger asks for what is drawn, and
    one line explains the difference."""
    made = make(opacus_client, dataset="public", data=Subset(DIGITS, range(930)), batch_size=10)
    assert made.epoch() == 92
    made.training.finish()
    asked = of(opacus_client, made.training)
    assert asked["steps"] == len(executed.batches) == 92
    assert set(executed.rates) == {1 / 93}
    assert 0 <= Decimal(str(asked["sample_rate"])) - Decimal(1) / 93 < Decimal("1e-7")
    assert [entry[1] for entry in made.engine.accountant.history] == [1 / 92]
    (line,) = [record.getMessage() for record in caplog.records if "Opacus' accountant" in record.getMessage()]
    assert "recorded the sample rate 0.0108696, and the sampler drew at 0.0107527" in line


@pytest.mark.parametrize("batches", [93, 99, 105, 117, 123, 186])
def test_a_nominal_size_loses_no_step(opacus_client: Client, batches: int) -> None:
    """Goal: with a public number of records, rate, steps and divisor follow from it alone, and Opacus records them."""
    made = make(opacus_client, nominal_size=batches * 10, data=Subset(DIGITS, range(200)), batch_size=10)
    asked = of(opacus_client, made.training)
    assert (asked["steps"], len(made.loader), made.loader.batch_sampler.sample_rate) == (batches, batches, 1 / batches)
    assert made.optimizer.expected_batch_size == int(batches * 10 * (1 / batches))
    made.step(next(iter(made.loader)))
    assert made.engine.accountant.history == [(2.0, 1 / batches, 1)]
    made.training.finish()


def test_shuffled_batches_are_asked_for_as_such(
    opacus_client: Client, executed: Executed, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: poisson_sampling=False asks for shuffled epochs, whatever Opacus records; a pass too many stops."""
    made = make(opacus_client, dataset="public", epochs=2, private={"poisson_sampling": False})
    for _ in range(2):
        for index, batch in enumerate(made.loader):
            if index == 3:
                break
            made.step(batch)
    # Four steps remain of the plan by number, but no pass: a record would be in a third batch.
    with pytest.raises(NotCovered, match="Pass 3"):
        made.epoch()
    made.training.finish()
    asked = of(opacus_client, made.training)
    size = {"dataset_size": SIZE, "batch_size": 64, "epochs": 2}
    assert asked == {"type": "dpsgd", "sampling": "shuffle", "noise_multiplier": 2.0, **size}
    assert len(executed.noises) == 2 * 6
    assert "recorded Poisson samples, and the batches were shuffled" in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_parts_of_a_batch_are_one_step(opacus_client: Client, executed: Executed, workers: int) -> None:
    """Goal: BatchMemoryManager's parts are not counted, its batches are; also if workers fetch batches ahead."""
    source = DataLoader(DIGITS, batch_size=300, shuffle=True, num_workers=workers)
    made = make(opacus_client, source=source)
    with BatchMemoryManager(data_loader=made.loader, max_physical_batch_size=100, optimizer=made.optimizer) as parts:
        pieces = made.epoch(parts)
    made.training.finish()
    assert pieces > 6
    assert of(opacus_client, made.training)["steps"] == made.training.steps == len(executed.batches) == 6
    assert len(executed.noises) == 2 * 6


def test_joined_draws_are_priced_as_two_records(opacus_client: Client, executed: Executed) -> None:
    """Goal: a step that joins two draws is asked for as one in which each unit has two records, each drawn by itself.
    Method: what a Trainer's callback does; the price of the issue's example against dp-accounting's."""
    made = make(opacus_client, draws_per_step=2)
    batches = iter(made.loader)
    for batch in batches:
        made.optimizer.signal_skip_step(do_skip=True)
        made.step(batch)
        made.step(next(batches, batch)) if made.training.steps < 14 else made.optimizer.step()
        if made.training.steps == 14:
            break
    made.training.finish()
    asked = of(opacus_client, made.training)
    assert (asked["steps"], asked["max_examples_per_user"], len(executed.noises)) == (15, 2, 2 * 14)
    step = {"type": "dpsgd", "sampling": "poisson", "noise_multiplier": 1, "sample_rate": 0.25, "steps": 10}
    recorded, doubled, priced = (
        opacus_client.evaluate(mechanism={**step, **change}, report_deltas=[1e-5])["epsilon"][0]["value"]
        for change in ({}, {"sample_rate": 0.5}, {"max_examples_per_user": 2})
    )
    # A record is in none, one or both of two independent draws at 1/4: the sum moves by 0, C or 2C.
    mixture = privacy_loss_distribution.from_mixture_gaussian_mechanism(
        1, [0, 1, 2], [9 / 16, 6 / 16, 1 / 16], value_discretization_interval=1e-2
    )
    truth = mixture.self_compose(10).get_epsilon_for_delta(1e-5)
    assert recorded < doubled < truth == pytest.approx(13.7, abs=0.1)
    assert truth <= priced < 1.15 * truth


def test_a_schedule_of_noise(opacus_client: Client, executed: Executed) -> None:
    """Goal: a scheduler's noise is asked for before the first step; a step with less than its phase stops."""
    made = make(opacus_client, noise_schedule=[(2.0, 29), (1.8, 29)])
    scheduler = ExponentialNoise(made.optimizer, gamma=0.9)
    made.epoch()
    scheduler.step()
    made.epoch()
    scheduler.step()
    made.training.finish()
    assert {round(std, 9) for std, _ in executed.noises} == {2.0, 1.8}
    phases = of(opacus_client, made.training)["phases"]
    assert [phase["steps"] for phase in phases] == [29, 29]
    assert all(
        0 <= real - float(phase["noise_multiplier"]) < 1e-8 for real, phase in zip((2, 1.8), phases, strict=True)
    )

    made = make(opacus_client, noise_schedule=[(2.0, 3), (1.8, 26)])
    scheduler = ExponentialNoise(made.optimizer, gamma=0.8)
    batches = iter(made.loader)
    made.step(next(batches))
    scheduler.step()
    with pytest.raises(NotCovered, match=r"noise multiplier 1\.6, and 2 is approved"):
        made.step(next(batches))
    made.training.finish()


def test_seeds_repeat_nothing(opacus_client: Client, executed: Executed) -> None:
    """Goal: after a restart with the same fixed seed, as a trainer's resume has it, noise and draws are other ones.
    Method: what Opacus alone repeats, beside what an attached training does."""

    def noise_of(attached: bool) -> torch.Tensor:
        torch.manual_seed(7)
        engine = PrivacyEngine(accountant="rdp")
        if attached:
            made = make(opacus_client, engine=engine)
        else:
            made = private_of(attach(PrivacyEngine(), dataset="digits", epochs=1, ledger=opacus_client), engine)
        made.step(next(iter(made.loader)))
        made.training.finish()
        return made.model._module.weight.detach().clone()

    assert torch.equal(noise_of(attached=False), noise_of(attached=False))
    draws = executed.batches[:]
    assert draws[0] == draws[1]
    assert not torch.equal(noise_of(attached=True), noise_of(attached=True))
    assert all(generator is not None for _, generator in executed.noises[-4:])
    assert executed.noises[-1][1].initial_seed() not in (7, torch.Generator().initial_seed())


def test_a_resumed_training_goes_on_counting(opacus_client: Client, executed: Executed) -> None:
    """Goal: after a restart Opacus' history begins again, the ledger's count does not. Method: one key, two engines."""
    made = make(opacus_client, idempotency_key="resumed")
    batches = iter(made.loader)
    for _ in range(10):
        made.step(next(batches))
    made.training.run.step()  # counted, and then the process was killed
    atexit.unregister(made.training._end)
    died(made.training.run)
    again = make(opacus_client, idempotency_key="resumed", steps_done=made.training.steps)
    assert again.training.run.is_resumed
    batches = iter(again.loader)
    for _ in range(18):
        again.step(next(batches))
    with pytest.raises(PlanExceeded, match="Step 30"):
        again.step(next(batches))
    again.training.finish()
    assert opacus_client.run_info(again.training.run.id)["state"] == "settled"
    assert again.training.differences() == []
    assert sum(entry[2] for entry in again.engine.accountant.history) == 18


def test_a_refusal_comes_before_the_data(opacus_client: Client, executed: Executed) -> None:
    """Goal: what does not fit is refused by make_private, before a batch is drawn, with what would fit."""
    engine, module = PrivacyEngine(accountant="rdp"), torch.nn.Linear(64, 10)
    training = attach(engine, dataset="tiny", epochs=1, nominal_size=SIZE, ledger=opacus_client)
    with pytest.raises(NotCovered, match="no run yet"):
        _ = training.run
    with pytest.raises(BudgetExceeded) as refused:
        private_of(training, engine, module=module)
    assert "noise_multiplier" in refused.value.fits
    assert not executed.batches
    # The same model, with as much noise as fits.
    made = private_of(
        training, engine, module=module, private={"noise_multiplier": refused.value.fits["noise_multiplier"]}
    )
    made.step(next(iter(made.loader)))
    training.finish()
    assert len(executed.noises) == 2


def test_a_training_that_is_left_is_settled(opacus_client: Client) -> None:
    """Goal: an exception in the loop settles the run, and `with` passes it on; finish() can be called again."""
    with pytest.raises(ZeroDivisionError), make(opacus_client).training as training:
        raise ZeroDivisionError
    training.finish()
    assert opacus_client.run_info(training.run.id)["state"] == "settled"
    made = make(opacus_client)
    made.training._end()
    assert opacus_client.run_info(made.training.run.id)["state"] == "settled"


def test_a_loader_that_was_rebuilt(opacus_client: Client, executed: Executed) -> None:
    """Goal: a trainer that puts its own loader around the sampler, as accelerate does, is counted by draws, and the run
    records that."""
    made = make(opacus_client, batch_size=300, private={"noise_multiplier": np.float32(2.5)})
    given = {"batch_sampler": made.loader.batch_sampler, "collate_fn": made.loader.collate_fn}
    assert made.epoch(DataLoader(DIGITS, **given)) == 6
    made.training.finish()
    assert made.training.differences() == ["the loader was rebuilt by somebody: 6 draws and 6 steps"]
    assert {std for std, _ in executed.noises} == {2.5}


@pytest.mark.parametrize("mode", ["hooks", "ew", "functorch", "ghost"])
def test_every_way_to_gradients(opacus_client: Client, executed: Executed, mode: str) -> None:
    """Goal: steps are counted and have their noise in every grad_sample_mode."""
    made = make(opacus_client, private={"grad_sample_mode": mode})
    batches = iter(made.loader)
    for _ in range(2):
        made.step(next(batches))
    made.training.finish()
    assert (made.training.noised, len(executed.noises)) == (2, 4)


def test_clipping_by_layer_has_the_noise_of_all_layers(opacus_client: Client, executed: Executed) -> None:
    """Goal: norms of 3 and 4 move the sum by 5 at most, and the noise is for that."""
    made = make(opacus_client, private={"clipping": "per_layer", "max_grad_norm": [3.0, 4.0]})
    made.step(next(iter(made.loader)))
    made.training.finish()
    assert [std for std, _ in executed.noises] == pytest.approx([2.0 * 5, 2.0 * 5])


def test_a_sum_has_no_divisor(opacus_client: Client) -> None:
    """Goal: loss_reduction="sum" divides by nothing, so that no divisor is recorded."""
    made = make(opacus_client, private={"loss_reduction": "sum"})
    assert made.training.run.evidence["opacus"]["options"]["divisor"] == "none"
    made.training.finish()


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tests run beside each other, and a matrix of digits is small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

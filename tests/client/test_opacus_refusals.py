"""Opacus: what is not accounted for is refused, with what to change, before it is executed.

Goal of all: each valid use of Opacus that its own accountant reports wrongly stops here, or is asked for as what it is.
Method: that use, in real training, beside an independent count of the noise that was made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

for _name in ("torch", "opacus", "sklearn"):
    pytest.importorskip(_name, reason=f"{_name} is not installed: see `make test` about requirements-training.lock")

import opacus
import torch
from opacus import PrivacyEngine
from opacus.accountants import create_accountant
from opacus.distributed import DifferentiallyPrivateDistributedDataParallel
from opacus.schedulers import ExponentialGradClip, ExponentialNoise
from opacus.utils.batch_memory_manager import BatchMemoryManager
from opacus.utils.uniform_sampler import DistributedUniformWithReplacementSampler
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ledger.client import BudgetExceeded
from ledger.client import Ledger as Client
from ledger.client.opacus import LedgerAccountant, NotCovered, attach
from ledger.client.opacus.checks import drawn_rate
from tests.kit.opacus_scene import CRITERION, DIGITS, SIZE, Executed, Made, make, private_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Executed:
    """What is really drawn and added in this test."""
    return Executed.watch(monkeypatch)


@pytest.fixture
def made(opacus_client: Client) -> Iterator[Made]:
    """A training that is attached, with six steps of 300 records, and is finished."""
    one = make(opacus_client, batch_size=300)
    yield one
    one.training.finish()


class Stream(IterableDataset[Any]):
    """A stream of digits."""

    def __iter__(self) -> Iterator[Any]:
        return (DIGITS[index] for index in range(SIZE))

    def __len__(self) -> int:
        return SIZE


def sampled(sampler: Any) -> DataLoader[Any]:
    """A loader with this sampler."""
    return DataLoader(DIGITS, batch_size=64, sampler=sampler)


SOURCES: dict[str, tuple[Callable[[], Any], str]] = {
    "stream": (lambda: DataLoader(Stream(), batch_size=64), "IterableDataset yields a stream"),
    "subset": (lambda: sampled(SubsetRandomSampler(range(200))), r"Subset\(dataset, indices\)"),
    "weights": (lambda: sampled(WeightedRandomSampler([1.0] * SIZE, SIZE)), "WeightedRandomSampler.*Weights"),
    "replacement": (lambda: sampled(RandomSampler(DIGITS, replacement=True)), "replacement=True"),
    "fewer": (lambda: sampled(RandomSampler(DIGITS, num_samples=640)), "num_samples"),
    "no batches": (lambda: DataLoader(DIGITS, batch_size=None), "batch_size="),
    "own batches": (lambda: DataLoader(DIGITS, batch_sampler=[[0, 1], [2]]), "batch sampler of its own, list"),
    "copies": (lambda: DataLoader(Subset(DIGITS, [0, 1, 1]), batch_size=2), "index more than once"),
    "twice": (lambda: DataLoader(ConcatDataset([DIGITS, DIGITS]), batch_size=64), "dataset more than once"),
}


@pytest.mark.parametrize("poisson", [True, False])
@pytest.mark.parametrize("name", SOURCES)
def test_loaders(opacus_client: Client, name: str, poisson: bool) -> None:
    """Loaders whose draws make_private replaces, or accounts for as what they are not."""
    source, message = SOURCES[name]
    with pytest.raises(NotCovered, match=message):
        make(opacus_client, dataset="public", source=source(), private={"poisson_sampling": poisson})


def test_a_part_of_the_data_is_a_subset(opacus_client: Client, executed: Executed) -> None:
    """What the refusal of a SubsetRandomSampler advises draws no held-out record."""
    made = make(opacus_client, dataset="public", data=Subset(DIGITS, range(200)), batch_size=20)
    assert made.epoch() == 10
    made.training.finish()
    assert made.loader.batch_sampler.num_samples == 200
    assert sum(executed.batches) < 200 * 2


ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "no noise": ({"noise_multiplier": 0.0}, "noise_multiplier: 0.0"),
    "seed": ({"noise_generator": torch.Generator()}, "anyone who knows its seed"),
    "random": ({"rand_on_empty": True}, "twice the clip norm"),
    "adaptive": (
        {
            "clipping": "adaptive",
            "target_unclipped_quantile": 0.5,
            "clipbound_learning_rate": 0.2,
            "max_clipbound": 10,
            "min_clipbound": 0.1,
            "unclipped_num_std": 20.0,
        },
        "true size of the batch",
    ),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(opacus_client: Client, name: str) -> None:
    """Arguments of make_private that nothing covers."""
    private, message = ARGUMENTS[name]
    with pytest.raises(NotCovered, match=message):
        make(opacus_client, private=private)


@pytest.mark.filterwarnings("ignore:GDP accounting")
def test_engines(opacus_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The accountant gdp gives no bound, and other versions of Opacus do other things."""
    with pytest.raises(NotCovered, match='accountant="gdp"'):
        make(opacus_client, engine=PrivacyEngine(accountant="gdp"))
    monkeypatch.setattr(opacus, "__version__", "1.5.4")
    with pytest.raises(NotCovered, match=r"Opacus 1\.5\.4 is installed.*opacus==1\.6\.\*"):
        make(opacus_client)


def test_the_number_of_records_is_not_published(opacus_client: Client) -> None:
    """Under add_or_remove_one, make_private's divisor, rate and steps follow from what is protected."""
    with pytest.raises(NotCovered, match=r"number of records of digits is protected.*nominal_size"):
        make(opacus_client, nominal_size=None)
    with pytest.raises(NotCovered, match=r"poisson_sampling=False.*zero_out"):
        make(opacus_client, private={"poisson_sampling": False})
    # Two neighbours, of 1,792 and 1,793 records, for which Opacus has 28 and 29 batches.
    sizes = []
    for size in (1_792, 1_793):
        made = make(opacus_client, nominal_size=1_800, data=Subset(DIGITS, range(size)))
        sizes.append((made.training.mechanism, made.optimizer.expected_batch_size, len(made.loader)))
        made.training.finish()
    assert sizes[0] == sizes[1]
    assert (sizes[0][1], sizes[0][2]) == (1_800 // 29, 29)


def test_people_with_several_records(opacus_client: Client) -> None:
    """If the unit is no record, the caller says how many records one has, and each costs."""
    with pytest.raises(NotCovered, match=r"privacy unit of users is 'user'.*max_examples_per_user"):
        make(opacus_client, dataset="users")
    pairs = make(opacus_client, dataset="users", max_examples_per_user=2)
    assert opacus_client.run_info(pairs.training.run.id)["request"]["mechanism"]["max_examples_per_user"] == 2
    assert "each unit has at most 2 records" in pairs.training.run.evidence["opacus"]["assumed"]
    pairs.training.finish()
    with pytest.raises(NotCovered, match="Shuffled batches with several records"):
        make(opacus_client, dataset="users", max_examples_per_user=2, private={"poisson_sampling": False})


def test_signals_that_join_draws(made: Made, executed: Executed) -> None:
    """A callback that accumulates by signal_skip_step joins two draws, which Opacus records as one."""
    with pytest.raises(NotCovered, match=r"joins two draws.*BatchMemoryManager"):
        made.optimizer.signal_skip_step(do_skip=True)
    made.optimizer.signal_skip_step(do_skip=False)
    made.step(next(iter(made.loader)))
    assert (made.training.steps, len(executed.noises)) == (1, 2)


def test_more_draws_than_were_asked_for(opacus_client: Client, executed: Executed) -> None:
    """With draws_per_step=2, three are refused, however the loop gets its batches."""
    made = make(opacus_client, draws_per_step=2)
    batches = iter(made.loader)
    for _ in range(1):
        made.optimizer.signal_skip_step(do_skip=True)
        made.step(next(batches))
    made.optimizer.signal_skip_step(do_skip=True)
    with pytest.raises(NotCovered, match="join more than 2 draws"):
        made.step(next(batches))
    with pytest.raises(NotCovered, match="Batch 3 was taken"):
        next(batches)
    assert not executed.noises
    with (
        pytest.raises(NotCovered, match="without BatchMemoryManager"),
        BatchMemoryManager(data_loader=made.loader, max_physical_batch_size=10, optimizer=made.optimizer) as parts,
    ):
        made.epoch(parts)
    made.training.finish()


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_gradients_of_two_draws(opacus_client: Client, executed: Executed, mode: str) -> None:
    """Two backward passes before a step: Opacus raises with hooks, and loses the first with ghost clipping."""
    made = make(opacus_client, private={"grad_sample_mode": mode})
    batches = iter(made.loader)
    first = next(batches)
    made.criterion(made.model(first[0]), first[1]).backward()
    with pytest.raises(NotCovered, match="no step was made for the last one"):
        next(batches)
    made.training.finish()
    assert not executed.noises


def test_gradients_of_two_shuffled_batches(opacus_client: Client, executed: Executed) -> None:
    """Shuffled batches can be accumulated in Opacus; with another loader around the sampler, the step refuses."""
    made = make(opacus_client, dataset="public", private={"poisson_sampling": False})
    other = iter(DataLoader(DIGITS, batch_sampler=made.loader.batch_sampler))
    for _ in range(2):
        images, labels = next(other)
        CRITERION(made.model(images), labels).backward()
    with pytest.raises(NotCovered, match="several batches were accumulated"):
        made.optimizer.step()
    made.training.finish()
    assert not executed.noises


def test_batches_that_are_left_out(made: Made, executed: Executed) -> None:
    """A batch without a step has no noise: `continue` for an empty one, or for a loss that is not a number."""
    batches = iter(made.loader)
    made.step(next(batches))
    next(batches)
    with pytest.raises(NotCovered, match="one step for each batch, also for an empty one"):
        next(batches)
    assert len(executed.noises) == 2


def test_batches_of_another_loader(made: Made, executed: Executed) -> None:
    """The script's own loader draws nothing, and a batch is used for one step only."""
    other = next(iter(DataLoader(DIGITS, batch_size=64)))
    with pytest.raises(NotCovered, match="not drawn by the loader that make_private returned"):
        made.step(other)
    batches = iter(made.loader)
    batch = next(batches)
    made.step(batch)
    with pytest.raises(NotCovered, match="used in a step before"):
        made.step(batch)
    assert len(executed.noises) == 2


def test_a_rest_of_a_split_batch(made: Made, executed: Executed) -> None:
    """After an early break, the rest of a split batch joins the next pass in Opacus. It is refused, until dropped."""
    with BatchMemoryManager(data_loader=made.loader, max_physical_batch_size=100, optimizer=made.optimizer) as parts:
        for batch in parts:
            made.step(batch)
            break
        assert not made.training.is_between_steps
        with pytest.raises(NotCovered, match="left within a batch"):
            made.epoch(parts)
        made.training.discard()
        assert made.training.is_between_steps
        made.optimizer.zero_grad()
        assert all(parameter.summed_grad is None for parameter in made.optimizer.params)
        made.epoch(parts)
    assert len(executed.noises) == 2 * made.training.noised == 2 * 6


def test_a_part_that_is_left_out(made: Made) -> None:
    """The parts of a batch and Opacus' signals stay together."""
    with (
        pytest.raises(NotCovered, match=r"optimizer\.step\(\) was not called for it"),
        BatchMemoryManager(data_loader=made.loader, max_physical_batch_size=100, optimizer=made.optimizer) as parts,
    ):
        for _ in parts:
            pass


def test_noise_that_falls(made: Made, executed: Executed) -> None:
    """Less noise than approved, from a scheduler or by hand, stops before the step; more is executed."""
    batches = iter(made.loader)
    for noise in (2.0, 2.5):
        made.optimizer.noise_multiplier = noise
        made.step(next(batches))
    batch = next(batches)
    for noise in (0.0, float("nan"), 1.9999):
        made.optimizer.noise_multiplier = noise
        with pytest.raises(NotCovered, match="2 is approved"):
            made.step(batch)
    made.optimizer.noise_multiplier = 2.0
    scheduler = ExponentialNoise(made.optimizer, gamma=0.99)
    scheduler.step()
    with pytest.raises(NotCovered, match="noise_schedule"):
        made.step(batch)
    assert [std for std, _ in executed.noises] == [2.0, 2.0, 2.5, 2.5]


CLIPPED: list[tuple[str, dict[str, Any]]] = [
    ("ghost", {"grad_sample_mode": "ghost"}),
    ("per_layer", {"clipping": "per_layer", "max_grad_norm": [1.0, 1.0]}),
]


@pytest.mark.parametrize(("name", "private"), CLIPPED)
def test_a_clip_norm_that_falls(opacus_client: Client, executed: Executed, name: str, private: dict[str, Any]) -> None:
    """With ghost and per-layer clipping, a scheduler of the clip norm takes away noise and does not clip to less."""
    made = make(opacus_client, private=private)
    scheduler = ExponentialGradClip(made.optimizer, gamma=0.5)
    batches = iter(made.loader)
    made.step(next(batches))
    scheduler.step()
    with pytest.raises(NotCovered, match="changes only the noise"):
        made.step(next(batches))
    made.training.finish()
    assert len(executed.noises) == 2


def test_a_clip_norm_with_hooks(made: Made, executed: Executed) -> None:
    """With hooks the clip norm may change between steps, and not between the parts of one."""
    scheduler = ExponentialGradClip(made.optimizer, gamma=0.5)
    with BatchMemoryManager(data_loader=made.loader, max_physical_batch_size=200, optimizer=made.optimizer) as parts:
        pieces = iter(parts)
        while not made.training.steps:
            made.step(next(pieces))
        scheduler.step()
        made.step(next(pieces))
        scheduler.step()
        with pytest.raises(NotCovered, match=r"clip norm changed from 0\.5 to 0\.25 within a step"):
            made.step(next(pieces))
    assert [std for std, _ in executed.noises] == [2.0, 2.0]


def test_objects_that_are_changed(made: Made, executed: Executed) -> None:
    """Seeds, rate and divisor stay as they were approved."""
    batches = iter(made.loader)
    made.step(next(batches))
    batch = next(batches)
    for owner, name, value, message in (
        (made.optimizer, "generator", torch.Generator(), "generator of the noise"),
        (made.loader.batch_sampler, "generator", torch.Generator(), "generator of the noise"),
        (made.loader.batch_sampler, "sample_rate", 0.5, r"draws at 0\.5 now"),
        (made.optimizer, "expected_batch_size", 17, "public divisor is 299"),
    ):
        before = getattr(owner, name)
        setattr(owner, name, value)
        with pytest.raises(NotCovered, match=message):
            made.step(batch)
        setattr(owner, name, before)
    made.step(batch)
    assert len(executed.noises) == 4


def test_another_default_type(made: Made) -> None:
    """A draw with bfloat16's bits has another rate than was read."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        with pytest.raises(NotCovered, match=r"torch\.bfloat16 now, and was torch\.float32"):
            next(iter(made.loader))
        with pytest.raises(NotCovered, match="too coarse"):
            drawn_rate(0.1)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_step_after_the_end(opacus_client: Client, executed: Executed) -> None:
    """What is settled is not gone on with, although steps of the plan are left."""
    made = make(opacus_client)
    batches = iter(made.loader)
    made.step(next(batches))
    made.training.finish()
    with pytest.raises(NotCovered, match=r"finish\(\) was called"):
        made.step(next(batches))
    assert len(executed.noises) == 2


def test_a_loss_scaler(made: Made, executed: Executed) -> None:
    """A float16 scaler leaves out the step in which a record overflows. Its first step is refused."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    images, labels = next(iter(made.loader))
    scaler.scale(CRITERION(made.model(images), labels)).backward()
    with pytest.raises(NotCovered, match=r"GradScaler, float16.*bfloat16"):
        scaler.step(made.optimizer)
    assert not executed.noises


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_parameters_of_16_bits(opacus_client: Client, kind: torch.dtype) -> None:
    """Sums and noise of 16 bits are rounded by more than the clip norm covers."""
    with pytest.raises(NotCovered, match="Keep the parameters in float32"):
        make(opacus_client, module=torch.nn.Linear(64, 10).to(kind))


def test_several_processes(opacus_client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Opacus' distributed sampler drops empty draws. Method: gloo with one process, which draws as one of many does."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(NotCovered, match="several processes"):
        make(opacus_client)
    monkeypatch.delenv("WORLD_SIZE")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        drawn = DistributedUniformWithReplacementSampler(total_size=8, sample_rate=1 / 40)
        assert len(list(drawn)) < len(drawn) == 40
        with pytest.raises(NotCovered, match="leaves out empty draws"):
            make(opacus_client, module=DifferentiallyPrivateDistributedDataParallel(torch.nn.Linear(64, 10)))
    finally:
        torch.distributed.destroy_process_group()


def test_empty_draws_are_steps(opacus_client: Client, executed: Executed) -> None:
    """In one process an empty draw has its noise, and counts."""
    made = make(opacus_client, nominal_size=40, data=Subset(DIGITS, range(4)), batch_size=1)
    assert made.epoch() == 40
    made.training.finish()
    assert executed.batches.count(0) > 5
    assert len(executed.noises) == 2 * 40


def test_a_second_model(made: Made, opacus_client: Client) -> None:
    """Another model or optimizer on the same data is another run, and has another engine."""
    with pytest.raises(NotCovered, match="another run"):
        private_of(made.training, made.engine)
    with pytest.raises(NotCovered, match="attached to this engine already"):
        attach(made.engine, dataset="digits", epochs=1, ledger=opacus_client)


class Parts(torch.nn.Module):
    """Sees each image as so many rows."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows, self.layer = rows, torch.nn.Linear(64 // rows, 10)

    def forward(self, images: Any) -> Any:
        """Return the mean of the rows' logits for each image."""
        rows = self.layer(images.reshape(-1, 64 // self.rows))
        return rows.reshape(-1, self.rows, 10).mean(1)


@pytest.mark.parametrize("parts", [None, 50])
def test_records_that_become_rows(opacus_client: Client, executed: Executed, parts: int | None) -> None:
    """Each row is clipped by itself, so a record that the model sees as two moves the sum by two clip norms: refused,
    or asked for with half of the noise. Method: the rows that Opacus clips, with and without splitting for memory."""

    def trained(made: Made) -> int:
        if parts is None:
            return made.epoch()
        with BatchMemoryManager(
            data_loader=made.loader, max_physical_batch_size=parts, optimizer=made.optimizer
        ) as pieces:
            return made.epoch(pieces)

    made = make(opacus_client, module=Parts(2), batch_size=300)
    with pytest.raises(NotCovered, match=r"gradients of \d+ rows, and \d+ records were drawn"):
        trained(made)
    made.training.finish()
    assert not executed.noises
    made = make(opacus_client, module=Parts(2), batch_size=300, rows_per_record=2)
    trained(made)
    made.training.finish()
    assert {std for std, _ in executed.noises} == {2.0}
    asked = opacus_client.run_info(made.training.run.id)["request"]["mechanism"]
    assert (asked["noise_multiplier"], asked["steps"], made.training.noised) == (1.0, 6, 6)
    three = make(opacus_client, module=Parts(1), rows_per_record=3, private={"noise_multiplier": 1.0})
    noise = opacus_client.run_info(three.training.run.id)["request"]["mechanism"]["noise_multiplier"]
    three.training.finish()
    assert 0 < 1 / 3 - noise < 1e-11


def test_rows_that_join_records(opacus_client: Client, executed: Executed) -> None:
    """A row that several records share is no record's: what packing does."""

    def packed(records: list[Any]) -> Any:
        images, labels = torch.stack([one for one, _ in records]), torch.tensor([label for _, label in records])
        half = len(records) // 2
        return images[:half] + images[half : 2 * half], labels[:half]

    made = make(opacus_client, source=DataLoader(DIGITS, batch_size=300, shuffle=True, collate_fn=packed))
    with pytest.raises(NotCovered, match="shares a row with others"):
        made.epoch()
    made.training.finish()
    assert not executed.noises


def test_secure_mode_keeps_its_generator(opacus_client: Client, executed: Executed) -> None:
    """The generator of secure_mode is not replaced. Its noise is four draws of half the weight: checked by the sum."""
    engine = PrivacyEngine(accountant="rdp")
    engine.secure_mode, engine.secure_rng = True, torch.Generator()  # as torchcsprng would make it
    made = make(opacus_client, engine=engine)
    assert made.optimizer.generator is made.loader.batch_sampler.generator is engine.secure_rng
    made.step(next(iter(made.loader)))
    made.training.finish()
    assert len(executed.noises) == 2 * 5
    assert made.training.run.evidence["opacus"]["options"]["secure_mode"] is True


# --- accountant="ledger"


def trainer(passes: int = 1, **private: Any) -> tuple[Any, Any]:
    """A trainer that makes its own engine and knows nothing of the ledger. Returns the engine and the optimizer."""
    engine = PrivacyEngine(accountant="ledger")
    module = torch.nn.Linear(64, 10)
    optimizer: Any = torch.optim.SGD(module.parameters(), lr=0.1)
    source = DataLoader(DIGITS, batch_size=300)
    given = {"module": module, "optimizer": optimizer, "data_loader": source, "max_grad_norm": 1.0, **private}
    make_private = engine.make_private_with_epsilon if "target_epsilon" in given else engine.make_private
    model, optimizer, loader = make_private(**given)
    for _ in range(passes):
        for images, labels in loader:
            optimizer.zero_grad()
            CRITERION(model(images), labels).backward()
            optimizer.step()
    return engine, optimizer


def test_the_accountant_stops_without_a_run(executed: Executed) -> None:
    """PrivacyEngine(accountant="ledger") without an attached run trains nothing, and is only computed with."""
    with pytest.raises(NotCovered, match="trains only within a run"):
        trainer(noise_multiplier=2.0)
    accountant = create_accountant("ledger")
    with pytest.raises(NotCovered, match="not counted by a run"):
        accountant.step(noise_multiplier=2.0, sample_rate=0.1)
    accountant.history = [(2.0, 0.1, 10)]
    known = create_accountant("prv")
    known.history = accountant.history
    assert accountant.get_epsilon(1e-5) == known.get_epsilon(1e-5)
    assert not executed.noises


def test_the_accountant_reaches_trainers(opacus_client: Client, executed: Executed) -> None:
    """A trainer that makes its own engine asks, counts and stops; a search for the noise spends nothing."""
    runs = len(list(opacus_client.runs(dataset="digits")))
    with attach(dataset="digits", epochs=2, nominal_size=SIZE, ledger=opacus_client) as training:
        with pytest.raises(NotCovered, match="is attached already"):
            attach(dataset="digits", epochs=1, ledger=opacus_client)
        engine, _ = trainer(2, target_epsilon=2.0, target_delta=1e-5, epochs=2, epsilon_tolerance=0.5)
    assert isinstance(engine.accountant, LedgerAccountant)
    assert len(list(opacus_client.runs(dataset="digits"))) == runs + 1
    assert (training.noised, len(executed.noises)) == (12, 2 * 12)
    assert engine.accountant.history == [(executed.noises[0][0], 1 / 6, 12)]
    assert training.differences() == []
    # Nothing is left of it: the next engine has no run.
    with pytest.raises(NotCovered, match="trains only within a run"):
        trainer(noise_multiplier=2.0)


def test_the_accountant_compares(opacus_client: Client, executed: Executed) -> None:
    """A step by another optimizer than make_private returned is stopped before the update."""
    with attach(dataset="digits", epochs=2, nominal_size=SIZE, ledger=opacus_client):
        engine, optimizer = trainer(noise_multiplier=2.0)
        with pytest.raises(NotCovered, match="another one than make_private returned"):
            optimizer.step_hook(optimizer)
        assert engine.accountant.history == [(2.0, 1 / 6, 6)]


def test_a_refused_trainer(opacus_client: Client, executed: Executed) -> None:
    """A trainer whose run does not fit draws nothing, and the run is not begun."""
    with pytest.raises(BudgetExceeded), attach(dataset="tiny", epochs=1, nominal_size=SIZE, ledger=opacus_client):
        trainer(noise_multiplier=2.0)
    assert not executed.batches


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({}, "give one of epochs, steps and noise_schedule, not none"),
        ({"epochs": 1, "steps": 3}, "not epochs and steps"),
        ({"epochs": 0}, "epochs: 0"),
        ({"epochs": 1.5}, "epochs: 1.5"),
        ({"noise_schedule": [(1.0, 3)], "draws_per_step": 2}, "no known cost"),
        ({"noise_schedule": [(0.0, 3)]}, "above 0"),
        ({"epochs": 1, "segments": 3}, "takes no segments"),
        ({"epochs": 1, "allow_overrun": True}, "takes no allow_overrun"),
    ],
)
def test_plans(plan: dict[str, Any], message: str) -> None:
    """A plan that says nothing, or two things, is an error of the call."""
    with pytest.raises((ValueError, TypeError), match=message):
        attach(PrivacyEngine(), dataset="digits", **plan)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tests run beside each other, and a matrix of digits is small."""
    before = torch.get_num_threads()
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, before)
        torch.set_num_threads(1)
        yield

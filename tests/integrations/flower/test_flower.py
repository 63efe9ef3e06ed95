"""Flower's strategies with central noise, trained for real on scikit-learn's digits by real ClientApps.

The clients run in this process: a Grid hands each message to the ClientApp, and its reply back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedMedian,
    FedProx,
)
from flwr.supercore import differential_privacy
from flwr.supercore.privacy_accounting import NeighboringRelation, PrivacyConfig, SamplingMethod
from flwr.supercore.privacy_accounting.rdp_accountant import RdpAccountant
from flwr.supercore.task_identity import TaskIdentity
from sklearn.datasets import load_digits

from ledger.client import BudgetExceeded, Ledger, PlanExceeded
from ledger.client.flower import BudgetedStrategy, NotCovered
from ledger.client.mechanisms import declared
from tests.integrations.pages import executed

PIXELS, LABELS = load_digits(return_X_y=True)
PIXELS = (PIXELS / 16).astype(np.float32)
CLIENTS, DRAWN, NOISE, CLIP = 60, 20, 1.5, 0.8
Change = Callable[[int, RecordDict], RecordDict | None]


def weights_of(arrays: ArrayRecord) -> np.ndarray:
    """The one array of a model."""
    return arrays.to_numpy_ndarrays()[0]


def trained_at_client(number: int, weights: np.ndarray) -> np.ndarray:
    """Some steps of softmax regression on a client's own digits."""
    pixels, labels = PIXELS[number::CLIENTS], LABELS[number::CLIENTS]
    for _ in range(5):
        scores = pixels @ weights
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        chances[np.arange(len(labels)), labels] -= 1
        weights = weights - 2.0 * pixels.T @ chances / len(labels)
    return weights.astype(np.float32)


class LocalGrid(Grid):
    """A grid whose nodes are ClientApps in this process. change: what a client's reply is replaced by."""

    def __init__(self, *, mods: list[Any] | None = None, change: Change = lambda _, content: content) -> None:
        self.app = ClientApp(mods=mods)
        self.change = change
        self.sent: list[list[int]] = []
        self.kinds: list[str] = []
        self.nodes = [101 + number for number in range(CLIENTS)]

        @self.app.train()
        def train(message: Message, _context: Context) -> Message:
            number = message.metadata.dst_node_id - 101
            arrays = ArrayRecord([trained_at_client(number, weights_of(message.content["arrays"]))])
            metrics = MetricRecord({"num-examples": 30, "loss": 1.0})
            return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

        @self.app.evaluate()
        def evaluate(message: Message, _context: Context) -> Message:
            metrics = MetricRecord({"num-examples": 30, "accuracy": 0.5})
            return Message(RecordDict({"metrics": metrics}), reply_to=message)

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any:
        return None

    def create_message(self, *args: Any, **given: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return self.nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        messages = list(messages)
        if messages:
            self.kinds.append(messages[0].metadata.message_type)
        if self.kinds and self.kinds[-1] == "train" and messages:
            self.sent.append(sorted(message.metadata.dst_node_id for message in messages))
        replies = []
        for message in messages:
            context = Context(
                run_id=1, node_id=message.metadata.dst_node_id, node_config={}, state=RecordDict(), run_config={}
            )
            reply = self.app(message, context)
            content = self.change(message.metadata.dst_node_id - 101, reply.content)
            if content is not None:
                replies.append(reply)
        return replies


def registered(ledger: Ledger, adjacency: str = "zero_out", *, epsilon: float = 15, unit: str = "user") -> str:
    """The name of a new dataset."""
    name = f"phones-{uuid4().hex}"
    budget = {"epsilon": epsilon, "at_delta": 1e-5}
    ledger.register(name=name, privacy_unit=unit, adjacency=adjacency, bound="certified", budget=budget)
    return name


def fedavg(**given: Any) -> FedAvg:
    """A strategy that draws as many clients as the noise is for."""
    return FedAvg(fraction_train=DRAWN / CLIENTS, min_train_nodes=DRAWN, min_available_nodes=CLIENTS, **given)


def server_side(inner: Any = None, **given: Any) -> DifferentialPrivacyServerSideFixedClipping:
    """The strategy of most tests."""
    return DifferentialPrivacyServerSideFixedClipping(inner or fedavg(), NOISE, CLIP, DRAWN, **given)


def initial() -> ArrayRecord:
    """A model of zeros."""
    return ArrayRecord([np.zeros((64, 10), dtype=np.float32)])


@pytest.fixture(autouse=True)
def _task() -> None:
    """Messages name the task of their process, as the SuperLink would set it."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1


@pytest.fixture
def noises(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, np.ndarray]]:
    """An independent count: the deviation and the values of each normal sample that NumPy makes."""
    seen: list[tuple[float, np.ndarray]] = []
    original = np.random.normal

    def counted(loc: float, scale: float, size: Any = None) -> Any:
        values = original(loc, scale, size)
        seen.append((float(scale), np.array(values)))
        return values

    monkeypatch.setattr(differential_privacy.np.random, "normal", counted)
    return seen


@pytest.mark.parametrize("is_client_side", [False, True])
def test_rounds(ledger: Ledger, noises: list[tuple[float, np.ndarray]], is_client_side: bool) -> None:
    """Goal: what is asked for is what is executed: as many rounds, clients and noise; metrics of clients, which have no
    noise, are dropped, and clients are not asked to evaluate."""
    kind = DifferentialPrivacyClientSideFixedClipping if is_client_side else DifferentialPrivacyServerSideFixedClipping
    strategy = BudgetedStrategy(kind(fedavg(), NOISE, CLIP, DRAWN), dataset=registered(ledger), population=CLIENTS)
    grid = LocalGrid(mods=[fixedclipping_mod] if is_client_side else None)
    result = strategy.start(grid, initial(), num_rounds=8)
    training = strategy.training
    assert training.mechanism is not None
    asked = declared(training.mechanism)
    assert (asked["type"], asked["sampling"], asked["steps"]) == ("dpsgd", "fixed_size", 8)
    assert float(asked["noise_multiplier"]) == NOISE
    assert DRAWN / CLIENTS <= float(asked["sample_rate"]) < DRAWN / CLIENTS + 1e-9
    assert [len(set(nodes)) for nodes in grid.sent] == [DRAWN] * 8
    assert len({tuple(nodes) for nodes in grid.sent}) == 8
    assert [scale for scale, _ in noises] == [pytest.approx(NOISE * CLIP / DRAWN)] * 8
    assert set(grid.kinds) == {"train"}
    assert not result.train_metrics_clientapp
    info = ledger.run_info(training.run.id)
    assert info["state"] == "settled"
    assert training.run.settled is not None
    assert training.run.settled["charged"]["mu_sq_pico"] == training.run.cost["mu_sq_pico"]
    evidence = info["settled"]["evidence"]["flower"]
    assert (evidence["rounds"], evidence["released"], evidence["differences"]) == (8, 8, [])
    assert evidence["libraries"]["flwr"] == "1.42.0"
    accuracy = np.mean(np.argmax(PIXELS @ weights_of(result.arrays), axis=1) == LABELS)
    assert accuracy > 0.4


@pytest.mark.parametrize(
    ("adjacency", "unit", "population", "noise"),
    [
        ("zero_out", "user", None, NOISE),
        ("replace_one", "user", None, NOISE / 2),
        ("add_or_remove_one", "user", None, NOISE / 2),
        ("zero_out", "record", None, NOISE / 2),
        ("replace_one", "user", DRAWN, NOISE / 2),
    ],
)
def test_without_amplification(ledger: Ledger, adjacency: str, unit: str, population: int | None, noise: float) -> None:
    """Goal: without a population, each round is one Gaussian release with the noise over the real sensitivity: two clip
    norms if another client takes the place, or if a record changes the update of its client. Flower's own accountant,
    bound to the same strategy, counts as many releases and finds no more than the ledger charges."""
    accountant = (
        RdpAccountant(
            PrivacyConfig(
                target_delta=1e-5,
                population_size=CLIENTS,
                neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
                sampling_method=SamplingMethod.NO_AMPLIFICATION,
            )
        )
        if adjacency == "zero_out" and unit == "user"
        else None
    )
    inner = server_side(accountant=accountant)
    strategy = BudgetedStrategy(inner, dataset=registered(ledger, adjacency, unit=unit), population=population)
    strategy.start(LocalGrid(), initial(), num_rounds=2)
    training = strategy.training
    assert training.mechanism is not None
    asked = declared(training.mechanism)
    assert (asked["type"], asked["count"]) == ("gaussian", 2)
    assert float(asked["noise_multiplier"]) == noise
    if accountant is not None:
        spent = accountant.get_privacy_spent()
        assert spent.num_releases == 2
        mu = training.run.cost["mu"]
        assert mu == pytest.approx(2**0.5 / NOISE, rel=1e-9)
    assert ledger.run_info(training.run.id)["settled"]["evidence"]["flower"]["differences"] == []


def test_records_are_not_amplified_by_clients(ledger: Ledger) -> None:
    """Goal: a draw of clients is no draw of records: a population with records as units is refused."""
    strategy = BudgetedStrategy(server_side(), dataset=registered(ledger, unit="record"), population=CLIENTS)
    with pytest.raises(NotCovered, match="Leave out population"):
        strategy.start(LocalGrid(), initial(), num_rounds=2)


def different_weights(number: int, content: RecordDict) -> RecordDict:
    """A reply whose weight some clients make a hundred times that of others."""
    content["metrics"]["num-examples"] = 1_000 if number % 7 == 0 else 10
    return content


def test_weights_must_be_equal(ledger: Ledger, noises: list[tuple[float, np.ndarray]]) -> None:
    """Goal: FedAvg's weights by examples are refused before anything is released, or set equal. Method: with one client
    of ten times the examples the real sensitivity is its weight; with equal_weights each client moves the mean by at
    most C/n, computed from the replies."""
    strategy = BudgetedStrategy(server_side(), dataset=registered(ledger), population=CLIENTS)
    with pytest.raises(NotCovered, match="equal_weights=True"):
        strategy.start(LocalGrid(change=different_weights), initial(), num_rounds=2)
    assert noises == []
    assert ledger.run_info(strategy.training.run.id)["state"] == "settled"

    strategy = BudgetedStrategy(server_side(), dataset=registered(ledger), population=CLIENTS, equal_weights=True)
    grid = LocalGrid(change=different_weights)
    result = strategy.start(grid, initial(), num_rounds=1)
    updates = [trained_at_client(node - 101, np.zeros((64, 10))) for node in grid.sent[0]]
    mean = np.mean([one * min(1, CLIP / np.linalg.norm(one)) for one in updates], axis=0)
    assert np.allclose(weights_of(result.arrays), mean + noises[0][1], atol=1e-6)


def test_missing_clients_release_nothing(ledger: Ledger, noises: list[tuple[float, np.ndarray]]) -> None:
    """Goal: if fewer clients answer, the mean of fewer would have too little noise: the round counts and releases
    nothing."""
    strategy = BudgetedStrategy(server_side(), dataset=registered(ledger), population=CLIENTS)
    dropped: list[int] = []

    def drop(number: int, content: RecordDict) -> RecordDict | None:
        if not dropped:
            dropped.append(number)
            return None
        return content

    strategy.start(LocalGrid(change=drop), initial(), num_rounds=3)
    assert len(noises) == 2
    assert (strategy.training.run.steps, strategy.training.noised, strategy.training.skipped) == (3, 2, 1)


def broken(number: int, content: RecordDict) -> RecordDict:
    """A reply with a NaN, or without an update."""
    values = weights_of(content["arrays"]).copy()
    if number % 3 == 0:
        values[0, 0] = np.nan
    elif number % 3 == 1:
        values[:] = 0
    content["arrays"] = ArrayRecord([values])
    return content


def test_updates_that_are_not_numbers(ledger: Ledger) -> None:
    """Goal: an update that is not finite, or zero, cannot spoil the mean or stop the server: both depend on a client's
    data. Alone, Flower raises ZeroDivisionError for the one, and passes the other on."""
    strategy = BudgetedStrategy(server_side(), dataset=registered(ledger), population=CLIENTS)
    result = strategy.start(LocalGrid(change=broken), initial(), num_rounds=1)
    assert np.isfinite(weights_of(result.arrays)).all()
    assert strategy.training.noised == 1
    with pytest.raises(ZeroDivisionError):
        differential_privacy.clip_inputs_inplace([np.zeros(3)], 1.0)


def test_client_side_clipping_is_checked(ledger: Ledger) -> None:
    """Goal: without the mod that clips at the clients, a round is refused before it is released."""
    inner = DifferentialPrivacyClientSideFixedClipping(fedavg(), NOISE, 0.01, DRAWN)
    strategy = BudgetedStrategy(inner, dataset=registered(ledger), population=CLIENTS)
    with pytest.raises(NotCovered, match="fixedclipping_mod"):
        strategy.start(LocalGrid(), initial(), num_rounds=1)


def test_seeds_of_the_script_do_not_matter(ledger: Ledger, noises: list[tuple[float, np.ndarray]]) -> None:
    """Goal: a script that seeds Python and NumPy, as for the split of its data, gets other noise and clients each time,
    and its own sequences go on as without rounds."""
    drawn = []
    for _ in range(2):
        random.seed(7)
        np.random.seed(7)
        grid = LocalGrid()
        BudgetedStrategy(server_side(), dataset=registered(ledger), population=CLIENTS).start(grid, initial(), 1)
        drawn.append((grid.sent[0], random.random(), np.random.random()))
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1:] == drawn[1][1:]
    assert not np.array_equal(noises[0][1], noises[1][1])


def test_a_run_that_does_not_fit_sends_nothing(ledger: Ledger) -> None:
    """Goal: BudgetExceeded comes before the first round, with what fits."""
    strategy = BudgetedStrategy(server_side(), dataset=registered(ledger, epsilon=1))
    grid = LocalGrid()
    with pytest.raises(BudgetExceeded) as refused:
        strategy.start(grid, initial(), num_rounds=50)
    assert refused.value.fits
    assert grid.sent == []


def test_a_restarted_server_goes_on(ledger: Ledger) -> None:
    """Goal: a server that is killed in a round and started again has the same run, executes the rounds that are left,
    and then halts. Method: end the first process's part as a kill leaves it: nothing settled, its file unlocked."""
    dataset, key = registered(ledger), uuid4().hex
    first = BudgetedStrategy(server_side(), dataset=dataset, population=CLIENTS, idempotency_key=key)
    grid = LocalGrid()
    config = ConfigRecord()
    first._ask(5)
    for number in (1, 2):
        replies = grid.send_and_receive(first.configure_train(number, initial(), config, grid))
        first.aggregate_train(number, replies)
    first.training.let_go()

    second = BudgetedStrategy(server_side(), dataset=dataset, population=CLIENTS, idempotency_key=key)
    again = LocalGrid()
    second.start(again, initial(), num_rounds=5)
    assert second.training.run.id == first.training.run.id
    assert 2 <= 5 - len(again.sent) <= 3  # a round that was written down before the kill counts
    info = ledger.run_info(first.training.run.id)
    assert info["state"] == "settled"
    assert info["settled"]["steps"] == 5


def test_one_mean_of_a_round(ledger: Ledger, noises: list[tuple[float, np.ndarray]]) -> None:
    """Goal: the replies of a round, which is charged once, are released once: two means with different noise are two
    releases. Method: a loop of one's own that aggregates them twice."""
    strategy = BudgetedStrategy(server_side(), dataset=registered(ledger), population=CLIENTS, rounds=2)
    grid, config = LocalGrid(), ConfigRecord()
    replies = list(grid.send_and_receive(strategy.configure_train(1, initial(), config, grid)))
    assert strategy.aggregate_train(1, replies)[0] is not None
    assert strategy.aggregate_train(1, replies) == (None, None)
    assert (len(noises), strategy.training.noised, strategy.training.skipped) == (1, 1, 1)
    strategy.finish()


def test_beyond_the_plan(ledger: Ledger) -> None:
    """Goal: a loop of one's own is stopped before a round beyond its plan, and after it is settled."""
    strategy = BudgetedStrategy(server_side(), dataset=registered(ledger), population=CLIENTS, rounds=1)
    grid, config = LocalGrid(), ConfigRecord()
    strategy.aggregate_train(1, grid.send_and_receive(strategy.configure_train(1, initial(), config, grid)))
    with pytest.raises(PlanExceeded):
        strategy.configure_train(2, initial(), config, grid)
    strategy.finish()
    with pytest.raises(NotCovered, match="settled"):
        strategy.configure_train(2, initial(), config, grid)
    with pytest.raises(NotCovered, match="rounds="):
        BudgetedStrategy(server_side(), dataset="x").configure_train(1, initial(), config, grid)


def test_refused_strategies() -> None:
    """Goal: strategies whose mean nobody has bounded are refused with what to use."""
    adaptive = DifferentialPrivacyServerSideAdaptiveClipping(fedavg(), 1.0, DRAWN, clipped_count_stddev=5)
    for inner, text in (
        (fedavg(), "adds no noise"),
        (adaptive, "sensitivity 1 as one of 1/2"),
        (server_side(FedMedian()), "does not aggregate as FedAvg"),
        (server_side(FedAdam()), "does not aggregate as FedAvg"),
    ):
        with pytest.raises(NotCovered, match=text):
            BudgetedStrategy(inner, dataset="x")
    BudgetedStrategy(server_side(FedProx(proximal_mu=0.1)), dataset="x")
    once = server_side()
    BudgetedStrategy(once, dataset="x")
    with pytest.raises(NotCovered, match="already"):
        BudgetedStrategy(once, dataset="x")


def test_refused_rounds(ledger: Ledger) -> None:
    """Goal: other numbers than approved, fewer clients than the population, other draws than the noise is for, and
    arrays of whole numbers are refused before a message is sent."""
    grid, config = LocalGrid(), ConfigRecord()

    def made(inner: Any = None, **given: Any) -> BudgetedStrategy:
        return BudgetedStrategy(inner or server_side(), dataset=registered(ledger), rounds=3, **given)

    strategy = made()
    strategy.configure_train(1, initial(), config, grid)
    strategy.strategy.noise_multiplier = 0.1
    with pytest.raises(NotCovered, match="changed after"):
        strategy.configure_train(2, initial(), config, grid)
    with pytest.raises(NotCovered, match="population of 61"):
        made(population=CLIENTS + 1).configure_train(1, initial(), config, grid)
    with pytest.raises(NotCovered, match="sends 30 messages"):
        made(server_side(FedAvg(fraction_train=0.5))).configure_train(1, initial(), config, grid)
    whole = ArrayRecord([np.zeros(3, dtype=np.int64)])
    with pytest.raises(NotCovered, match="int64"):
        made().configure_train(1, whole, config, grid)


def test_published_metrics(ledger: Ledger) -> None:
    """Goal: if the caller states that metrics may be published, they are, and that is recorded as assumed."""
    strategy = BudgetedStrategy(server_side(), dataset=registered(ledger), publish_metrics=True)
    grid = LocalGrid()
    result = strategy.start(grid, initial(), num_rounds=1)
    assert set(grid.kinds) == {"train", "evaluate"}
    assert result.evaluate_metrics_clientapp[1]["accuracy"] == pytest.approx(0.5)
    evidence = ledger.run_info(strategy.training.run.id)["settled"]["evidence"]["flower"]
    assert "metrics of clients are not personal" in evidence["assumed"]


def test_the_page(ledger: Ledger) -> None:
    """Goal: the ServerApp of the page trains with the one line that is added."""
    saved: list[ArrayRecord] = []
    dataset = registered(ledger)
    names = executed("flower.md", dataset=dataset, name="phones", given={"first_model": initial, "save": saved.append})
    grid = LocalGrid()
    grid.nodes = list(range(101, 201))
    names["main"](grid, None)
    assert len(grid.sent) == 30
    assert len(saved) == 1
    (run,) = ledger.runs(dataset=dataset)
    assert run["state"] == "settled"

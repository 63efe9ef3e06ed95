"""JAX Privacy's execution plans, trained for real on scikit-learn's digits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_privacy import batch_selection, noise_addition
from jax_privacy.batch_selection import PartitionType
from jax_privacy.experimental import accounting, execution_plan
from jax_privacy.experimental.execution_plan import BandMFExecutionPlanConfig
from sklearn.datasets import load_digits

from ledger.client import BudgetExceeded, Ledger
from ledger.client.dp_events import from_dp_event
from ledger.client.jax_privacy import NotCovered, Training, attach
from ledger.client.mechanisms import declared
from tests.integrations.pages import executed

PIXELS, LABELS = load_digits(return_X_y=True)
PIXELS, LABELS = np.asarray(PIXELS / 16, dtype=np.float32), np.asarray(LABELS)
SIZE = len(LABELS)
RELATIONS = {
    "add_or_remove_one": dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    "replace_one": dp_accounting.NeighboringRelation.REPLACE_ONE,
    "zero_out": dp_accounting.NeighboringRelation.REPLACE_SPECIAL,
}


def registered(ledger: Ledger, adjacency: str, *, epsilon: float = 8, unit: str = "record") -> str:
    """The name of a new dataset."""
    name = f"digits-{uuid4().hex}"
    budget = {"epsilon": epsilon, "at_delta": 1e-5}
    ledger.register(name=name, privacy_unit=unit, adjacency=adjacency, bound="certified", budget=budget)
    return name


def config_of(adjacency: str, **fields: Any) -> BandMFExecutionPlanConfig:
    """A config of a plan that is made for this adjacency; by default Poisson sampling with 20 steps."""
    given = {
        "strategy": np.array([1.0]),
        "iterations": 20,
        "noise_multiplier": 1.1,
        "epsilon": None,
        "delta": None,
        "sampling_prob": 0.05,
        "partition_type": PartitionType.INDEPENDENT,
        "accountant": dp_accounting.pld.PLDAccountant(RELATIONS[adjacency]),
    } | fields
    if "truncated_batch_size" in fields:
        given["partition_type"] = PartitionType.EQUAL_SPLIT
    return BandMFExecutionPlanConfig(**given)


def loss(params: Any, pixels: Any, labels: Any) -> Any:
    """The mean cross entropy of softmax regression."""
    logits = pixels @ params["w"] + params["b"]
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(labels.shape[0]), labels])


def zeros() -> dict[str, Any]:
    """Its first parameters."""
    return {"w": jnp.zeros((64, 10)), "b": jnp.zeros(10)}


def trained(plan: Any, *, after: Callable[[int], object] = lambda _: None, rate: float = 0.5, sgd: int = 64) -> Any:
    """A usual loop over a plan: jitted, padded batches, one update for each. Return the parameters."""
    params = zeros()
    state = plan.noise_addition_transform.init(params)
    gradients = plan.clipped_grad(loss, batch_argnums=(1, 2))

    @jax.jit
    def step(params: Any, state: Any, pixels: Any, labels: Any, is_padding: Any) -> Any:
        sums = gradients(params, pixels, labels, is_padding_example=is_padding)
        noisy, state = plan.noise_addition_transform.update(sums, state)
        return jax.tree.map(lambda one, change: one - rate / sgd * change, params, noisy), state

    for number, indices in enumerate(plan.batch_selection_strategy.batch_iterator(SIZE)):
        padded = batch_selection.pad_to_multiple_of(np.asarray(indices), 512)
        padded = np.full(512, -1) if padded.size == 0 else padded
        params, state = step(params, state, PIXELS[padded], LABELS[padded], padded < 0)
        after(number)
    return params


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An independent count: the batches that NumPy draws, and the noise that JAX draws with its deviation."""
    found = SimpleNamespace(sizes=[], stddevs=[], noises=[])
    original, noise = batch_selection.CyclicPoissonSampling.batch_iterator, noise_addition._iid_normal_noise

    def counted(self: Any, *args: Any, **given: Any) -> Any:
        if type(self) is not batch_selection.CyclicPoissonSampling:
            yield from original(self, *args, **given)
            return
        for batch in original(self, *args, **given):
            found.sizes.append(len(batch))
            found.batches = [*getattr(found, "batches", []), np.asarray(batch)]
            yield batch

    def noised(key: Any, tree: Any, stddev: Any, dtype: Any = None) -> Any:
        found.stddevs.append(float(stddev))
        drawn = noise(key, tree, stddev, dtype)
        jax.experimental.io_callback(lambda value: found.noises.append(np.asarray(value)), None, drawn["w"])
        return drawn

    monkeypatch.setattr(batch_selection.CyclicPoissonSampling, "batch_iterator", counted)
    monkeypatch.setattr(noise_addition, "_iid_normal_noise", noised)
    return found


def asked_for(training: Training) -> dict[str, Any]:
    """The mechanism that was asked for, with floats."""
    assert training.mechanism is not None
    facts = declared(training.mechanism)
    return {name: float(value) if isinstance(value, Decimal) else value for name, value in facts.items()}


def demand_settled(training: Training, ledger: Ledger, *, steps: int) -> dict[str, Any]:
    """The run is settled for these steps, in full. Return its evidence."""
    info = ledger.run_info(training.run.id)
    assert info["state"] == "settled"
    assert training.run.settled is not None
    assert training.run.steps == steps
    assert training.run.settled["charged"]["mu_sq_pico"] == training.run.cost["mu_sq_pico"]
    evidence: dict[str, Any] = info["settled"]["evidence"]["jax_privacy"]
    assert evidence["libraries"]["jax-privacy"] == "2.0.0"
    assert evidence["steps"] == steps
    return evidence


@pytest.mark.parametrize("adjacency", ["add_or_remove_one", "zero_out", "replace_one"])
def test_poisson(ledger: Ledger, seen: SimpleNamespace, adjacency: str) -> None:
    """Goal: one band is asked for as Poisson DP-SGD with the noise over the clip norm, and executed so. Method: count
    draws and their sizes, and estimate the deviation of the noise, in the functions that make them."""
    config = config_of(adjacency, l2_clip_norm=0.5, rescale_to_unit_norm=False)
    training = attach(config, dataset=registered(ledger, adjacency, epsilon=20))
    params = trained(config.plan)
    training.finish()
    doubled = 2 if adjacency == "replace_one" else 1
    asked = asked_for(training)
    assert asked == {
        "type": "dpsgd",
        "sampling": "poisson",
        "noise_multiplier": pytest.approx(1.1 * doubled, rel=2e-6),
        "sample_rate": pytest.approx(0.05),
        "steps": 20,
    }
    assert float(asked["noise_multiplier"]) <= 1.1 * doubled
    assert len(seen.sizes) == len(seen.noises) == 20
    assert abs(np.mean(seen.sizes) - 0.05 * SIZE) < 5 * math.sqrt(SIZE * 0.05 * 0.95 / 20)
    assert seen.stddevs == [pytest.approx(1.1 * doubled * 0.5)] * len(seen.stddevs)
    # 20 times 640 normal numbers: their deviation is within 4 % with overwhelming probability.
    assert np.std(np.stack(seen.noises)) == pytest.approx(1.1 * doubled * 0.5, rel=0.04)
    assert len({noise.tobytes() for noise in seen.noises}) == 20
    accuracy = np.mean(np.argmax(PIXELS @ params["w"] + params["b"], axis=1) == LABELS)
    assert accuracy > 0.3
    evidence = demand_settled(training, ledger, steps=20)
    assert evidence["differences"] == []
    if adjacency == "zero_out":
        demand_above(ledger, training, config.plan.dp_event, RELATIONS[adjacency])


def demand_above(ledger: Ledger, training: Training, event: Any, relation: Any) -> None:
    """The ledger's epsilon of this run is not below dp-accounting's of the event, and near it."""
    accountant = dp_accounting.pld.PLDAccountant(relation)
    accountant.compose(event)
    delta = training.run.epsilon[0]["delta"]
    own = float(training.run.epsilon[0]["value"])
    theirs = accountant.get_epsilon(float(delta))
    assert theirs * 0.999 <= own <= theirs * 1.6 + 0.05


def test_truncated(ledger: Ledger, seen: SimpleNamespace) -> None:
    """Goal: a cap on the batch is asked for with its number of units, and batches are cut; another number of units is
    refused."""
    config = config_of("zero_out", truncated_batch_size=80, num_examples=SIZE)
    training = attach(config, dataset=registered(ledger, "zero_out", epsilon=20))
    assert asked_for(training) == {
        "type": "dpsgd",
        "sampling": "poisson",
        "noise_multiplier": pytest.approx(1.1),
        "sample_rate": pytest.approx(0.05),
        "steps": 20,
        "dataset_size": SIZE,
        "truncated_batch_size": 80,
    }
    with pytest.raises(NotCovered, match="Give both the same number"):
        next(config.plan.batch_selection_strategy.batch_iterator(SIZE - 1))
    trained(config.plan)
    training.finish()
    assert len(seen.sizes) == 20
    assert max(seen.sizes) == 80
    evidence = demand_settled(training, ledger, steps=20)
    assert evidence["differences"] == []
    with pytest.raises(NotCovered, match="use num_bands=1"):
        attach(
            config_of("zero_out", strategy=np.array([1, 0.5]), truncated_batch_size=80, num_examples=SIZE), dataset="x"
        )


def test_cyclic_poisson(ledger: Ledger, seen: SimpleNamespace) -> None:
    """Goal: groups without correlated noise are asked for as such, and no example is in two groups."""
    config = config_of("add_or_remove_one", strategy=np.array([2.0, 0, 0, 0]), sampling_prob=0.2)
    training = attach(config, dataset=registered(ledger, "add_or_remove_one"))
    trained(config.plan)
    training.finish()
    assert asked_for(training) == {
        "type": "matrix_factorization",
        "noise_multiplier": pytest.approx(1.1),
        "strategy": "identity",
        "separation": 4,
        "steps": 20,
        "sampling": "cyclic_poisson",
        "sample_rate": pytest.approx(0.2),
    }
    groups = [set(np.concatenate(seen.batches[at::4])) for at in range(4)]
    assert sum(map(len, groups)) == len(set.union(*groups))
    demand_settled(training, ledger, steps=20)
    demand_above(ledger, training, config.plan.dp_event, RELATIONS["add_or_remove_one"])


@pytest.mark.parametrize("normalizes", [False, True])
def test_banded(ledger: Ledger, seen: SimpleNamespace, normalizes: bool) -> None:
    """Goal: BandMF is asked for by the ratio of noise to sensitivity that it really has; with column_normalize that is
    1.12 where the event of the plan states 2, and the difference is recorded. Method: build the matrix C^-1 of the plan
    from its noise, and compute the sensitivity of C from it."""
    strategy = np.array([0.5, 0.25])
    config = config_of(
        "add_or_remove_one", strategy=strategy, sampling_prob=0.1, noise_multiplier=2.0, column_normalize=normalizes
    )
    dataset = registered(ledger, "add_or_remove_one")
    training = attach(config, dataset=dataset)
    released: list[Any] = []
    original = config.plan.noise_addition_transform
    trained(config.plan, after=lambda _: released.append(None))
    training.finish()
    assert len(released) == len(seen.noises) == 20
    # The noise of a run of the same plan, given units: C^-1 column by column.
    inverse = noising_matrix(config, 20)
    strategy_matrix = np.linalg.inv(inverse)
    norm = np.linalg.norm(strategy_matrix, axis=0).max()
    ratio = seen.stddevs[0] / norm
    assert ratio == pytest.approx(2 * np.linalg.norm(strategy) if normalizes else 2, rel=1e-5)
    asked = asked_for(training)
    effective = asked["noise_multiplier"] / np.linalg.norm(asked["coefficients"])
    assert effective == pytest.approx(ratio, rel=1e-5)
    assert effective <= ratio * (1 + 1e-6)
    differences = demand_settled(training, ledger, steps=20)["differences"]
    assert [f"{2:.6g} over" in text for text in differences] == ([True] if normalizes else [])
    assert original is config.plan.noise_addition_transform
    if normalizes:
        mechanism = from_dp_event(config.plan.dp_event, adjacency="add_or_remove_one")
        claimed = ledger.evaluate(mechanism=mechanism, adjacency="add_or_remove_one")["cost"]["mu"]
        assert training.run.cost["mu"] > 1.6 * claimed


def noising_matrix(config: Any, steps: int) -> np.ndarray:
    """C^-1, which the plan multiplies independent noise with."""
    from jax_privacy.matrix_factorization import toeplitz

    stream = toeplitz.inverse_as_streaming_matrix(
        jnp.asarray(config.strategy), config.iterations if config.column_normalize else None
    )
    return np.asarray(stream.materialize(steps), dtype=float)


def test_optimized_strategy(ledger: Ledger) -> None:
    """Goal: the default, optimized strategy with calibrated noise is asked for near the epsilon that it was made for,
    and never below dp-accounting's."""
    config = BandMFExecutionPlanConfig.default(
        num_bands=4,
        iterations=40,
        strategy_optimization_steps=20,
        epsilon=2.0,
        delta=1e-5,
        sampling_prob=0.2,
        partition_type=PartitionType.INDEPENDENT,
        accountant=dp_accounting.pld.PLDAccountant(RELATIONS["add_or_remove_one"]),
    )
    training = attach(config, dataset=registered(ledger, "add_or_remove_one"))
    trained(config.plan)
    training.finish()
    assert demand_settled(training, ledger, steps=40)["differences"] == []
    demand_above(ledger, training, config.plan.dp_event, RELATIONS["add_or_remove_one"])


def test_replace_one_is_not_halved(ledger: Ledger) -> None:
    """Goal: the event of fixed-size batches costs under replace_one what twice the clip norm costs. Method: a batch of
    all records is one Gaussian of sensitivity 2; RdpAccountant returns the epsilon of sensitivity 1 for it."""
    event = accounting.fixed_dpsgd_event(2.0, 1, dataset_size=100, batch_size=100)
    mechanism = from_dp_event(event, adjacency="replace_one")
    answer = ledger.evaluate(mechanism=mechanism, adjacency="replace_one", report_deltas=[1e-5])
    own = float(answer["epsilon"][0]["value"])
    accountants = {}
    for name, kind, one in (
        ("pld", dp_accounting.pld.PLDAccountant, dp_accounting.GaussianDpEvent(2.0)),
        ("rdp", dp_accounting.rdp.RdpAccountant, event),
    ):
        accountant = kind(neighboring_relation=RELATIONS["replace_one"])
        accountant.compose(one)
        accountants[name] = accountant.get_epsilon(1e-5)
    assert own >= accountants["pld"] * 0.999
    assert accountants["rdp"] < 0.6 * own


def test_a_run_that_does_not_fit_draws_nothing(ledger: Ledger, seen: SimpleNamespace) -> None:
    """Goal: BudgetExceeded comes from attach, with what fits, and the config has no plan."""
    config = config_of("zero_out", noise_multiplier=0.5)
    with pytest.raises(BudgetExceeded) as refused:
        attach(config, dataset=registered(ledger, "zero_out", epsilon=1))
    assert refused.value.fits["noise_multiplier"] > 0.5
    assert "plan" not in vars(config)
    assert seen.sizes == []


def test_the_plan_ends(ledger: Ledger, seen: SimpleNamespace) -> None:
    """Goal: a loop over several iterators ends after the approved steps, and after finish nothing is drawn."""
    config = config_of("zero_out")
    training = attach(config, dataset=registered(ledger, "zero_out", epsilon=20))
    plan = config.plan
    trained(plan)
    assert list(plan.batch_selection_strategy.batch_iterator(SIZE)) == []
    assert len(seen.noises) == 20
    training.finish()
    assert training.run.steps == 20
    demand_settled(training, ledger, steps=20)


def test_noise_must_follow_each_draw(ledger: Ledger) -> None:
    """Goal: a batch that is left out, or a noise state that is used twice, is refused before the next draw; the run is
    charged for what was drawn."""
    config = config_of("zero_out")
    training = attach(config, dataset=registered(ledger, "zero_out", epsilon=20))
    batches = config.plan.batch_selection_strategy.batch_iterator(SIZE)
    next(batches)
    with pytest.raises(NotCovered, match="1 batches were drawn, and 0 updates got noise"):
        next(batches)
    training.finish(RuntimeError("stopped"))
    assert ledger.run_info(training.run.id)["state"] == "settled"

    config = config_of("zero_out")
    training = attach(config, dataset=registered(ledger, "zero_out", epsilon=20))
    plan = config.plan
    with pytest.raises(NotCovered, match=r"before plan\.clipped_grad was used"):
        plan.noise_addition_transform.update(zeros(), plan.noise_addition_transform.init(zeros()))
    plan.clipped_grad(loss, batch_argnums=(1, 2))
    state = plan.noise_addition_transform.init(zeros())
    batches = plan.batch_selection_strategy.batch_iterator(SIZE)
    for _ in range(2):
        next(batches)
        plan.noise_addition_transform.update(zeros(), state)
    with pytest.raises(NotCovered, match="used the key of an earlier noise state"):
        next(batches)
    with pytest.raises(NotCovered, match="used the key of an earlier noise state"):
        training.finish()
    assert "a key of the noise was used again" in demand_settled_partly(training, ledger)["differences"]


def demand_settled_partly(training: Training, ledger: Ledger) -> dict[str, Any]:
    """The evidence of a settled run."""
    info = ledger.run_info(training.run.id)
    assert info["state"] == "settled"
    evidence: dict[str, Any] = info["settled"]["evidence"]["jax_privacy"]
    return evidence


def test_noise_is_seeded_by_the_system(ledger: Ledger, seen: SimpleNamespace) -> None:
    """Goal: a script that seeds NumPy, which seeds the library's noise, gets other noise and draws each time."""
    for _ in range(2):
        np.random.seed(0)
        config = config_of("zero_out", iterations=2)
        with attach(config, dataset=registered(ledger, "zero_out", epsilon=20)):
            trained(config.plan)
    assert len({noise.tobytes() for noise in seen.noises}) == 4
    assert not any(np.array_equal(seen.batches[at], seen.batches[at + 2]) for at in range(2))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"noise_seed": 7}, "Leave it out"),
        ({"noise_multiplier": 0.0}, "adds no noise"),
        ({"dtype": np.float16}, "Use float32"),
        ({"l2_clip_norm": math.inf}, "bounds nothing"),
        ({"l2_clip_norm": 0.0}, "bounds nothing"),
    ],
)
def test_refused_configs(ledger: Ledger, fields: dict[str, Any], text: str) -> None:
    """Goal: what is not accounted for is refused with what to change, and nothing is asked for."""
    dataset = registered(ledger, "zero_out")
    with pytest.raises(NotCovered, match=text):
        attach(config_of("zero_out", **fields), dataset=dataset)
    assert list(ledger.runs(dataset=dataset)) == []


def test_refused_relations_and_units(ledger: Ledger) -> None:
    """Goal: a plan for other neighbours, groups that depend on the number of records, and units of unknown size are
    refused."""
    added, users = registered(ledger, "add_or_remove_one"), registered(ledger, "add_or_remove_one", unit="user")
    with pytest.raises(NotCovered, match="Make it for add_or_remove_one"):
        attach(config_of("zero_out"), dataset=added)
    with pytest.raises(NotCovered, match="max_examples_per_user"):
        attach(config_of("add_or_remove_one"), dataset=users)
    with pytest.raises(NotCovered, match="UserSelectionStrategy"):
        attach(config_of("add_or_remove_one", strategy=np.array([1, 0.5])), dataset=users, max_examples_per_user=3)
    config = config_of("add_or_remove_one", noise_multiplier=8.0)
    training = attach(config, dataset=users, max_examples_per_user=3)
    assert asked_for(training)["max_examples_per_user"] == 3
    training.finish()


def test_refused_objects(ledger: Ledger) -> None:
    """Goal: a plan instead of its config, one that was read before, and the Keras API are refused by name."""
    config = config_of("zero_out")
    plan = config.plan
    with pytest.raises(NotCovered, match="takes the config"):
        attach(plan, dataset="x")
    with pytest.raises(NotCovered, match="Attach first"):
        attach(config, dataset="x")
    keras = type("DPKerasConfig", (), {})()
    with pytest.raises(NotCovered, match=r"batch_size \* gradient_accumulation_steps"):
        attach(keras, dataset="x")
    with pytest.raises(NotCovered, match="no plan that is known"):
        attach(object(), dataset="x")


def test_refused_uses(ledger: Ledger) -> None:
    """Goal: a second start of correlated noise or of groups, init within jit, gradients that are not safe, and sums of
    16 bits are refused."""
    config = config_of("zero_out", strategy=np.array([1, 0.5]), noise_multiplier=4.0)
    training = attach(config, dataset=registered(ledger, "zero_out"))
    plan = config.plan
    with pytest.raises(NotCovered, match="nan_safe"):
        plan.clipped_grad(loss, nan_safe=False)
    plan.clipped_grad(loss, batch_argnums=(1, 2))
    with pytest.raises(NotCovered, match="outside"):
        jax.jit(plan.noise_addition_transform.init)(zeros())
    state = plan.noise_addition_transform.init(zeros())
    with pytest.raises(NotCovered, match="begins again"):
        plan.noise_addition_transform.init(zeros())
    with pytest.raises(NotCovered, match="float16"):
        plan.noise_addition_transform.update(jax.tree.map(lambda one: one.astype(jnp.float16), zeros()), state)
    next(plan.batch_selection_strategy.batch_iterator(SIZE))
    with pytest.raises(NotCovered, match="Take all 20 batches"):
        next(plan.batch_selection_strategy.batch_iterator(SIZE))
    training.finish(RuntimeError("stopped"))


def test_users(ledger: Ledger, seen: SimpleNamespace) -> None:
    """Goal: UserSelectionStrategy around the plan's sampler draws users through the counted iterator."""
    config = config_of("zero_out", sampling_prob=0.1, iterations=3)
    training = attach(config, dataset=registered(ledger, "zero_out", epsilon=20, unit="user"), max_examples_per_user=1)
    plan = config.plan
    gradients = plan.clipped_grad(loss, batch_argnums=(1, 2), keep_batch_dim=False)
    users = np.arange(SIZE) // 3
    params = zeros()
    state = plan.noise_addition_transform.init(params)
    chosen = batch_selection.UserSelectionStrategy(plan.batch_selection_strategy, 3)
    for rows in chosen.batch_iterator(users):
        sums = gradients(params, PIXELS[rows], LABELS[rows])
        noisy, state = plan.noise_addition_transform.update(sums, state)
        params = jax.tree.map(lambda one, change: one - 0.01 * change, params, noisy)
    training.finish()
    assert len(seen.sizes) == len(seen.noises) == 3
    assert abs(np.mean(seen.sizes) - 0.1 * SIZE / 3) < 25
    demand_settled(training, ledger, steps=3)


def test_goes_on_after_a_restart(ledger: Ledger, seen: SimpleNamespace) -> None:
    """Goal: independent noise goes on under the same run, and steps of both processes count together; correlated noise
    is refused, since groups and noise are lost. Method: a key of its own, and a run that is let go of in the middle."""
    dataset, key = registered(ledger, "zero_out", epsilon=20), uuid4().hex
    config = config_of("zero_out")
    first = attach(config, dataset=dataset, idempotency_key=key, ledger=ledger)
    with pytest.raises(StopAsyncIteration):
        trained(config.plan, after=lambda number: stop(number, 7))
    first.let_go()
    config = config_of("zero_out")
    second = attach(config, dataset=dataset, idempotency_key=key, steps_done=8, ledger=ledger)
    assert second.run.id == first.run.id
    assert second.run.is_resumed
    trained(config.plan)
    second.finish()
    assert second.noised == 12
    assert len(seen.noises) == 20
    assert second.run.settled is not None

    dataset, key = registered(ledger, "zero_out", epsilon=20), uuid4().hex
    fields = {"strategy": np.array([1, 0.5]), "noise_multiplier": 4.0}
    config = config_of("zero_out", **fields)
    banded = attach(config, dataset=dataset, idempotency_key=key, ledger=ledger)
    banded.let_go()
    with pytest.raises(NotCovered, match="groups and correlated noise are lost"):
        attach(
            config_of("zero_out", **fields),
            dataset=dataset,
            idempotency_key=key,
            steps_done=0,
            restarts=[],
            ledger=ledger,
        )


def stop(number: int, last: int) -> None:
    """Leave a loop as an error does."""
    if number == last:
        raise StopAsyncIteration


def test_the_page(ledger: Ledger, seen: SimpleNamespace) -> None:
    """Goal: the script of the page asks with three lines, trains, and is settled."""
    names = executed("jax-privacy-training.md", lines=3, dataset=registered(ledger, "zero_out"))
    training = names["training"]
    assert isinstance(training, Training)
    assert len(seen.sizes) == len(seen.noises) == training.run.steps == 60
    assert ledger.run_info(training.run.id)["state"] == "settled"


def test_only_the_known_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the repository's head, whose modules differ, is refused by its version."""
    monkeypatch.setattr("importlib.metadata.version", lambda _: "2.1.0")
    with pytest.raises(NotCovered, match=r"jax-privacy==2\.0"):
        attach(config_of("zero_out"), dataset="x")


def test_fields_of_the_config_are_all_known() -> None:
    """Goal: a new field of the config, which could change what is executed, does not go unnoticed."""
    names = {field.name for field in dataclasses.fields(execution_plan.BandMFExecutionPlanConfig)}
    assert names == {
        *("iterations", "strategy", "epsilon", "delta", "noise_multiplier", "l2_clip_norm", "rescale_to_unit_norm"),
        *("normalize_by", "sampling_prob", "truncated_batch_size", "num_examples", "partition_type", "dtype"),
        *("column_normalize", "accountant", "noise_seed"),
    }

"""TensorFlow Privacy's optimizers, trained for real on scikit-learn's digits."""

from __future__ import annotations

import math
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import tensorflow as tf
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from sklearn.datasets import load_digits
from tensorflow_privacy import DPKerasSGDOptimizer, VectorizedDPKerasSGDOptimizer
from tensorflow_privacy.privacy.dp_query import gaussian_query

from ledger.client import BudgetExceeded, Ledger
from ledger.client.mechanisms import declared
from ledger.client.tensorflow_privacy import NotCovered, Training, attach
from tests.integrations.pages import executed

PIXELS, LABELS = load_digits(return_X_y=True)
PIXELS = (PIXELS / 16).astype(np.float32)
SIZE, BATCH, STEPS, NOISE, CLIP = len(LABELS), 90, 15, 1.3, 0.7


def registered(ledger: Ledger, adjacency: str = "zero_out", *, epsilon: float = 15, unit: str = "record") -> str:
    """The name of a new dataset."""
    name = f"digits-{uuid4().hex}"
    budget = {"epsilon": epsilon, "at_delta": 1e-5}
    ledger.register(name=name, privacy_unit=unit, adjacency=adjacency, bound="certified", budget=budget)
    return name


def optimizer_of(**given: Any) -> Any:
    """An optimizer that clips each record."""
    return DPKerasSGDOptimizer(
        **{"l2_norm_clip": CLIP, "noise_multiplier": NOISE, "num_microbatches": None, "learning_rate": 1.0, **given}
    )


def model_of(optimizer: Any, *, reduction: str = "none", **given: Any) -> Any:
    """Softmax regression."""
    model = tf.keras.Sequential([tf.keras.layers.Dense(10, input_shape=(64,), kernel_initializer="zeros")])
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    model.compile(optimizer=optimizer, loss=loss, **given)
    return model


def attached(client: Ledger, optimizer: Any, **given: Any) -> Training:
    """A training on a new dataset."""
    terms = {"dataset": registered(client), "size": SIZE, "batch_size": BATCH, "steps": STEPS}
    return attach(optimizer, **{**terms, **given})


@pytest.fixture
def noises(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """An independent count: each noise, as it is executed, from the generator of TensorFlow."""
    seen: list[np.ndarray] = []
    original = tf.random_normal_initializer

    def recorded(mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> Any:
        inner = original(mean, stddev, seed)

        def draw(shape: Any, *args: Any, **given: Any) -> Any:
            values = inner(shape, *args, **given)
            tf.py_function(lambda value: seen.append(value.numpy()), [values], [])
            return values

        return draw

    monkeypatch.setattr(gaussian_query.tf, "random_normal_initializer", recorded)
    return seen


@pytest.mark.parametrize("adjacency", ["zero_out", "replace_one"])
def test_training(ledger: Ledger, noises: list[np.ndarray], adjacency: str) -> None:
    """Goal: what is asked for is what is executed: Poisson draws at the rate, cut to one size, and the noise of the
    optimizer at each step. Method: count the noise where TensorFlow makes it, and the weights that the model gets."""
    optimizer = optimizer_of()
    training = attached(ledger, optimizer, dataset=registered(ledger, adjacency))
    sizes: list[int] = []
    draw = training.draw

    def seen(generator: Any) -> tuple[Any, Any]:
        indices, weights = draw(generator)
        drawn = indices[weights > 0]
        assert len(set(drawn)) == len(drawn)
        sizes.append(len(drawn))
        return indices, weights

    training.draw = seen  # type: ignore[method-assign]
    model = model_of(optimizer)
    training.fit(model, PIXELS, LABELS, verbose=0)
    assert training.mechanism is not None
    asked = declared(training.mechanism)
    capacity = math.ceil(BATCH + 6 * math.sqrt(BATCH))
    assert (asked["type"], asked["sampling"], asked["steps"]) == ("dpsgd", "poisson", STEPS)
    assert (asked["dataset_size"], asked["truncated_batch_size"]) == (SIZE, capacity)
    assert NOISE * (1 - 1e-5) <= float(asked["noise_multiplier"]) <= NOISE * (1 + 1e-7)
    assert BATCH / SIZE <= float(asked["sample_rate"]) < BATCH / SIZE + 1e-9
    kernels = [one for one in noises if one.shape == (64, 10)]
    assert len(kernels) == STEPS
    assert np.std(np.stack(kernels)) == pytest.approx(NOISE * CLIP, rel=0.04)
    assert len({one.tobytes() for one in kernels}) == STEPS
    assert len(sizes) >= STEPS
    assert max(sizes) <= capacity
    assert abs(np.mean(sizes) - BATCH) < 5 * math.sqrt(BATCH / STEPS)
    accuracy = np.mean(np.argmax(model(PIXELS).numpy(), axis=1) == LABELS)
    assert accuracy > 0.3
    info = ledger.run_info(training.run.id)
    assert (info["state"], info["settled"]["steps"]) == ("settled", STEPS)
    evidence = info["settled"]["evidence"]["tensorflow_privacy"]
    assert (evidence["steps"], evidence["differences"]) == (STEPS, [])
    assert evidence["libraries"] == {"tensorflow-privacy": "0.9.0", "tensorflow": tf.__version__}
    if adjacency == "zero_out":
        accountant = PLDAccountant()
        sampled = dp_event.PoissonSampledDpEvent(BATCH / SIZE, dp_event.GaussianDpEvent(NOISE))
        accountant.compose(dp_event.SelfComposedDpEvent(sampled, STEPS))
        own = training.run.epsilon[0]
        # Without the cap, which is hardly ever reached, and under add_or_remove_one, which costs the same here.
        theirs = accountant.get_epsilon(float(own["delta"]))
        assert theirs * 0.999 <= float(own["value"]) <= theirs * 1.6 + 0.05


def test_a_small_capacity_cuts(ledger: Ledger) -> None:
    """Goal: a capacity below the mean cuts batches, is declared, and costs more."""
    optimizer = optimizer_of(noise_multiplier=4.0)
    training = attached(ledger, optimizer, capacity=60, steps=3)
    plain = attached(ledger, optimizer_of(noise_multiplier=4.0), steps=3)
    assert training.run.cost["mu"] > plain.run.cost["mu"]
    training.fit(model_of(optimizer), PIXELS, LABELS, verbose=0)
    assert training.run.steps == 3
    plain.finish()


def test_a_run_that_does_not_fit(ledger: Ledger) -> None:
    """Goal: BudgetExceeded comes from attach, with what fits."""
    # What would fit is searched among batches that may be cut, which a busy machine takes a while for.
    with Ledger(timeout=200) as patient, pytest.raises(BudgetExceeded) as refused:
        attached(
            patient,
            optimizer_of(noise_multiplier=0.4),
            dataset=registered(ledger, epsilon=1),
            ledger=patient,
        )
    assert refused.value.fits


def test_noise_is_not_that_of_a_seed(ledger: Ledger, noises: list[np.ndarray]) -> None:
    """Goal: a script that seeds everything gets other noise and other draws each time."""
    for _ in range(2):
        tf.keras.utils.set_random_seed(5)
        optimizer = optimizer_of()
        attached(ledger, optimizer, steps=2).fit(model_of(optimizer), PIXELS, LABELS, verbose=0)
    assert len({one.tobytes() for one in noises if one.shape == (64, 10)}) == 4


def test_a_record_that_is_no_number(ledger: Ledger) -> None:
    """Goal: a record with NaN cannot spoil the model, which would show that it was drawn."""
    optimizer = optimizer_of()
    pixels = PIXELS.copy()
    pixels[::3] = np.nan
    model = model_of(optimizer)
    attached(ledger, optimizer, steps=3).fit(model, pixels, LABELS, verbose=0)
    assert np.isfinite(model.get_weights()[0]).all()


def test_noise_that_changes(ledger: Ledger) -> None:
    """Goal: less noise than was approved stops the training before the next step, and what was executed is charged."""
    optimizer = optimizer_of()
    training = attached(ledger, optimizer, steps=5)

    class Lowers(tf.keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            optimizer._global_state = optimizer._global_state._replace(stddev=0.01)

    with pytest.raises(NotCovered, match="changed"):
        training.fit(model_of(optimizer, run_eagerly=True), PIXELS, LABELS, verbose=0, callbacks=[Lowers()])
    info = ledger.run_info(training.run.id)
    assert (info["state"], info["settled"]["steps"]) == ("settled", 2)  # one executed, and in doubt one more


def test_refused_optimizers(ledger: Ledger) -> None:
    """Goal: microbatches, accumulated draws, no noise and unknown optimizers are refused with what to change."""
    for optimizer, text in (
        (optimizer_of(num_microbatches=10), "twice the"),
        (optimizer_of(gradient_accumulation_steps=4), "joins several draws"),
        (optimizer_of(noise_multiplier=0.0), "adds no noise"),
        (tf.keras.optimizers.SGD(), "no optimizer whose noise is known"),
        (VectorizedDPKerasSGDOptimizer(CLIP, NOISE, learning_rate=1.0), "Vectorized"),
    ):
        with pytest.raises(NotCovered, match=text):
            attached(ledger, optimizer)
    optimizer = optimizer_of()
    training = attached(ledger, optimizer)
    with pytest.raises(NotCovered, match="already"):
        attached(ledger, optimizer)
    training.finish()


def test_refused_terms(ledger: Ledger) -> None:
    """Goal: a protected number of records and other units are refused."""
    with pytest.raises(NotCovered, match="zero_out"):
        attached(ledger, optimizer_of(), dataset=registered(ledger, "add_or_remove_one"))
    with pytest.raises(NotCovered, match="privacy unit"):
        attached(ledger, optimizer_of(), dataset=registered(ledger, unit="user"))


def test_refused_models(ledger: Ledger) -> None:
    """Goal: what is not clipped by record, or computed from several, is refused before a step."""
    optimizer = optimizer_of()
    training = attached(ledger, optimizer)
    normalized = tf.keras.Sequential([tf.keras.layers.BatchNormalization(input_shape=(64,)), tf.keras.layers.Dense(10)])
    normalized.compile(optimizer=optimizer, loss=tf.keras.losses.SparseCategoricalCrossentropy(reduction="none"))
    for model, text in (
        (model_of(optimizer, reduction="sum_over_batch_size"), 'reduction "none"'),
        (model_of(optimizer_of()), "another optimizer"),
        (model_of(optimizer, steps_per_execution=3), "Leave it at 1"),
        (normalized, "LayerNormalization"),
    ):
        with pytest.raises(NotCovered, match=text):
            training.fit(model, PIXELS, LABELS)
    with pytest.raises(NotCovered, match="1000 records"):
        training.fit(model_of(optimizer), PIXELS[:1000], LABELS[:1000])
    with pytest.raises(TypeError, match="epochs"):
        training.fit(model_of(optimizer), PIXELS, LABELS, epochs=3)
    assert training.run.steps == 0
    training.finish()
    with pytest.raises(NotCovered, match="settled"):
        training.fit(model_of(optimizer), PIXELS, LABELS)


def test_the_page(ledger: Ledger) -> None:
    """Goal: the script of the page asks with three lines, trains, and is settled."""
    training = executed("tensorflow-privacy.md", lines=3, dataset=registered(ledger))["training"]
    assert isinstance(training, Training)
    assert training.noised == training.run.steps == 60
    assert ledger.run_info(training.run.id)["state"] == "settled"

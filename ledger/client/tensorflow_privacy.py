"""TensorFlow Privacy: draw the batches that are accounted for, ask for them, and count each step.

    from ledger.client.tensorflow_privacy import attach                                      # 1

    optimizer = DPKerasSGDOptimizer(l2_norm_clip=1.0, noise_multiplier=1.1, learning_rate=0.5)
    model.compile(optimizer=optimizer, loss=SparseCategoricalCrossentropy(reduction="none"))
    training = attach(optimizer, dataset="digits", size=1_797, batch_size=64, steps=140)      # 2: asks here
    training.fit(model, pixels, labels)                                                      # 3: for model.fit

TensorFlow Privacy draws nothing: `model.fit` shuffles, and epsilon is computed as if it had sampled. So this draws
Poisson batches, fills each up to one size with examples of weight 0, and cuts larger ones, which is declared too.

TensorFlow Privacy 0.9 needs TensorFlow 2.15 and Python 3.11 or older, in an environment of its own:
`pip install tensorflow-privacy==0.9.0 tensorflow==2.15.1`.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any, Final

from ledger.client.attached import (
    Attached,
    NotCovered,
    demand_records,
    demand_version,
    rounded_down,
    seeded_by_system,
    whole,
)
from ledger.client.ledgers import Ledger
from ledger.client.mechanisms import DPSGD

VERSION: Final = "0.9"
TENSORFLOW: Final = "2.15"
RULED_OUT: Final = ("tensorflow-privacy-microbatches", "tensorflow-privacy-shuffled-as-poisson")
DEVIATIONS: Final = 6
"""How many standard deviations above its mean a batch is cut, by default: about one of 10^9 is."""
_PLAIN: Final = "tensorflow_privacy.privacy.optimizers.dp_optimizer_keras"
"""Where the optimizers are made that give each record, and each sum, to their query."""
_UP: Final = Context(prec=10, rounding=ROUND_CEILING)

__all__ = ["NotCovered", "Training", "attach"]


def attach(
    optimizer: Any,
    *,
    dataset: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
    size: int,
    batch_size: int,
    steps: int,
    capacity: int | None = None,
    ledger: Ledger | None = None,
    **options: Any,
) -> Training:
    """Ask the ledger for Poisson batches with the noise of this optimizer, and return what draws and counts them.

    optimizer: a DPKeras…Optimizer that clips each record by itself. dataset: the dataset's name in the ledger, or
    several. size: the public number of records. batch_size: how many a batch has on average; steps: how many batches.
    capacity: to how many a batch is filled up or cut; default the mean and six standard deviations. ledger: default
    Ledger(). options: for `Ledger.run`: purpose, project, idempotency_key, steps_done, …

    Raises BudgetExceeded if the run does not fit, and NotCovered, with what to change, for what is not accounted for.

    >>> training = attach(optimizer, dataset="digits", size=1_797, batch_size=64, steps=140)
    >>> training.run.planned_steps
    140
    """
    for name, value in (("size", size), ("batch_size", batch_size), ("steps", steps)):
        whole(value, name)
    if batch_size > size:
        raise ValueError(f"batch_size: {batch_size} is more than the {size} records")
    library = demand_version("tensorflow_privacy", "tensorflow-privacy", VERSION)
    tensorflow = demand_version("tensorflow", "tensorflow", TENSORFLOW)
    noise, clip = _demand_optimizer(optimizer)
    if capacity is None:
        capacity = min(size, math.ceil(batch_size + DEVIATIONS * math.sqrt(batch_size)))
    training = Training(optimizer, size, batch_size, whole(capacity, "capacity"), dataset, ledger, options)
    terms = training.terms()
    demand_records(terms, None, "TensorFlow Privacy draws and clips each record")
    if terms["adjacency"] == "add_or_remove_one":
        raise NotCovered(
            f"The number of records of {terms['name']} is protected (add_or_remove_one), and the rate and the cost of a"
            " batch that is cut follow from it. Register the dataset with --adjacency zero_out: it is public then."
        )
    mechanism = DPSGD(
        noise_multiplier=rounded_down(noise),
        sample_rate=_UP.divide(Decimal(batch_size), Decimal(size)),
        steps=steps,
        dataset_size=size,
        truncated_batch_size=capacity,
    )
    facts = {
        "libraries": {"tensorflow-privacy": library, "tensorflow": tensorflow},
        "options": {
            "optimizer": type(optimizer).__name__,
            "poisson_sampling": True,
            "truncated_batch_size": capacity,
            "divisor": capacity,
            "microbatch_size": 1,
            "l2_norm_clip": clip,
            "gradient_accumulation_steps": 1,
            "rate_from": "sampler",
            "steps_from": "counted",
            "fixed_seed": False,
        },
        "checked": [
            "Poisson draws, of the operating system, filled up or cut to one size",
            "noise of the approved deviation, executed, once for each step",
            "each record is clipped by itself, and what is no number has no effect",
        ],
        "assumed": [
            "the number of records is public",
            "the gradient of a record depends on no other record of its batch",
            "metrics of training batches are not published",
        ],
    }
    training.begin(mechanism, facts)
    training.watch()
    return training


class Training(Attached):
    """A training with an optimizer of TensorFlow Privacy.

    draws: batches that were drawn, of which some may never be used. noised: steps that got noise when they were
    executed.
    """

    name = "tensorflow_privacy"

    def __init__(
        self,
        optimizer: Any,
        size: int,
        batch_size: int,
        capacity: int,
        dataset: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
        ledger: Ledger | None,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(dataset, ledger, options)
        self.optimizer, self.size, self.capacity = optimizer, size, capacity
        self._rate = batch_size / size
        self.draws = self.noised = 0
        self._deviations: set[float] = set()
        self._approved = _noise_of(optimizer)

    def watch(self) -> None:
        """Let the optimizer report each noise that is executed, with its deviation, and leave out what is no number."""
        tensorflow = importlib.import_module("tensorflow")
        query = self.optimizer._dp_sum_query  # noqa: SLF001 (it has no public name)
        inner, clipped = query.get_noised_result, query.preprocess_record

        def finite(gradients: Any) -> Any:
            return tensorflow.nest.map_structure(
                lambda one: tensorflow.where(tensorflow.math.is_finite(one), one, tensorflow.zeros_like(one)), gradients
            )

        @functools.wraps(clipped)
        def preprocess(params: Any, record: Any) -> Any:
            return finite(clipped(params, finite(record)))

        @functools.wraps(inner)
        def noised(sample: Any, state: Any) -> Any:
            tensorflow.py_function(self._on_noise, [state.stddev, state.l2_norm_clip], [])
            return inner(sample, state)

        query.get_noised_result, query.preprocess_record = noised, preprocess

    def _on_noise(self, deviation: Any, clip: Any) -> None:
        self.noised += 1
        self._deviations.add(float(deviation) / float(clip))

    # --- batches

    def draw(self, generator: Any) -> tuple[Any, Any]:
        """Return the indices of a batch of `capacity`, and their weights: 1 for each drawn record, 0 for filling."""
        numpy = importlib.import_module("numpy")
        drawn = numpy.flatnonzero(generator.random(self.size) < self._rate)
        if len(drawn) > self.capacity:
            drawn = generator.choice(drawn, self.capacity, replace=False)
        self.draws += 1
        indices, weights = numpy.zeros(self.capacity, dtype=int), numpy.zeros(self.capacity, dtype=numpy.float32)
        indices[: len(drawn)], weights[: len(drawn)] = drawn, 1
        return indices, weights

    def fit(self, model: Any, x: Any, y: Any, **given: Any) -> Any:
        """Train for the steps that are left, settle the run, and return what `model.fit` does.

        model: compiled with the attached optimizer, and a loss that has one value for each record (reduction "none").
        x, y: arrays of `size` records. given: for `model.fit`: callbacks, verbose, validation_data.

        Raises NotCovered for another model, loss or number of records, and for a step that got no noise.
        """
        refused = given.keys() & {"batch_size", "epochs", "steps_per_epoch", "shuffle", "sample_weight", "class_weight"}
        if refused:
            raise TypeError(f"fit() takes no {', '.join(sorted(refused))}: attach() has asked for what is executed")
        self._demand_model(model, x, y)
        callbacks = [*given.pop("callbacks", ()), _callback(self)]
        if self.steps_left < 1:
            raise NotCovered(f"Run {self.run.id} has no steps left. Ask for a new run.")
        # A seed that the script set would make the noise known, and repeat it after a restart.
        importlib.import_module("tensorflow").random.set_seed(None)
        with self:
            return model.fit(_sequence(self, x, y), epochs=1, shuffle=False, callbacks=callbacks, workers=0, **given)

    def _demand_model(self, model: Any, x: Any, y: Any) -> None:
        if self.is_over:
            raise NotCovered("The run is settled. Attach a new training.")
        if model.optimizer is not self.optimizer:
            raise NotCovered("The model is compiled with another optimizer. Compile it with the one that is attached.")
        if len(x) != self.size or len(y) != self.size:
            raise NotCovered(f"There are {len(x)} records, and {self.size} were asked for. Attach with size={len(x)}.")
        losses = model.loss if isinstance(model.loss, list) else [model.loss]
        if any(getattr(loss, "reduction", None) != "none" for loss in losses):
            raise NotCovered(
                "The loss is a mean over the batch, so that nothing is clipped by record. Compile the model with a loss"
                ' object of reduction "none": tf.keras.losses.SparseCategoricalCrossentropy(reduction="none").'
            )
        normalizers = [layer.name for layer in model.submodules if type(layer).__name__.endswith("BatchNormalization")]
        if normalizers:
            raise NotCovered(
                f"The layer {normalizers[0]!r} computes with all records of a batch, and keeps what has no noise. Use"
                " LayerNormalization or GroupNormalization."
            )
        if int(model._steps_per_execution.numpy()) != 1:  # noqa: SLF001 (it has no public name)
            raise NotCovered("steps_per_execution: several steps are executed and counted as one. Leave it at 1.")
        if model.losses:
            raise NotCovered("The model has a regularization loss, which is added to each record's. Leave it out.")

    def before_step(self) -> None:
        """Count a step. Raises PlanExceeded beyond the plan, and NotCovered if the last one got no noise."""
        if self.noised != self.run.steps_here:
            raise NotCovered(
                f"{self.run.steps_here} steps were executed, and {self.noised} got noise. Do not use this model."
            )
        least = self._approved[0] * (1 - 1e-5)
        if any(one < least for one in self._deviations) or _noise_of(self.optimizer) != self._approved:
            raise NotCovered("The noise or the clip norm of the optimizer changed. Leave both as at attach().")
        self.run.step()

    # --- the end

    def differences(self) -> list[str]:
        """Return how what was executed differs from what was approved."""
        found = super().differences()
        if self.noised != self.run.steps_here:
            found.append(f"{self.run.steps_here} steps were counted and {self.noised} got noise")
        return found

    def at_end(self) -> dict[str, Any]:
        return {"steps": self.noised, "rules_out": sorted(RULED_OUT)}


def _demand_optimizer(optimizer: Any) -> tuple[float, float]:
    """Return noise multiplier and clip norm of an optimizer, or refuse it. Raises NotCovered."""
    name = type(optimizer).__name__
    query = getattr(optimizer, "_dp_sum_query", None)
    made_in = getattr(getattr(type(optimizer), "_compute_gradients", None), "__module__", None)
    if made_in != _PLAIN or type(query).__name__ != "GaussianSumQuery":
        raise NotCovered(
            f"{name} is no optimizer whose noise is known here. Use DPKerasSGDOptimizer or another DPKeras…Optimizer of"
            " tensorflow_privacy, not a Vectorized or Sparse one, and no tree aggregation."
        )
    if "get_noised_result" in vars(query):
        raise NotCovered("A training is attached to this optimizer already. Make a new one for each run.")
    if optimizer._num_microbatches is not None:  # noqa: SLF001
        raise NotCovered(
            "num_microbatches: gradients are clipped as the mean of a microbatch, so that a record moves it by twice"
            " the clip norm. Leave it out: then each record is clipped by itself."
        )
    if optimizer.gradient_accumulation_steps != 1:
        raise NotCovered(
            "gradient_accumulation_steps: the optimizer joins several draws in one update. Leave it at 1, with a larger"
            " batch_size."
        )
    noise, clip = _noise_of(optimizer)
    if not 0 < clip < math.inf:
        raise NotCovered(f"l2_norm_clip: {clip!r} bounds nothing. Give a number above 0.")
    return noise, clip


def _noise_of(optimizer: Any) -> tuple[float, float]:
    """Return what the state of the optimizer adds: noise over the clip norm, and the clip norm."""
    state = optimizer._global_state  # noqa: SLF001
    clip = float(state.l2_norm_clip)
    return (float(state.stddev) / clip if clip else 0.0), clip


def _callback(training: Training) -> Any:
    """Return a callback of Keras that counts each step before it is executed."""
    keras = importlib.import_module("tensorflow").keras

    def on_train_batch_begin(_self: Any, _batch: int, _logs: Any = None) -> None:
        training.before_step()

    return type("Counting", (keras.callbacks.Callback,), {"on_train_batch_begin": on_train_batch_begin})()


def _sequence(training: Training, x: Any, y: Any) -> Any:
    """Return a sequence of Keras with the batches that are left, each drawn when it is asked for."""
    keras, numpy = importlib.import_module("tensorflow").keras, importlib.import_module("numpy")
    generator, steps = numpy.random.default_rng(seeded_by_system(8)), training.steps_left

    def item(_self: Any, _index: int) -> Any:
        indices, weights = training.draw(generator)
        parts = [numpy.array(numpy.asarray(part)[indices]) for part in (x, y)]
        for part in parts:
            part[weights == 0] = 0
        return *parts, weights

    members = {"__len__": lambda _self: steps, "__getitem__": item}
    return type("Draws", (keras.utils.Sequence,), members)()

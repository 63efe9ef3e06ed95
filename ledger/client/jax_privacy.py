"""JAX Privacy: ask for what an execution plan really does, count each draw, and stop what was not approved.

    from ledger.client.jax_privacy import attach                          # 1

    config = BandMFExecutionPlanConfig.default(num_bands=1, iterations=300, noise_multiplier=1.1, …)
    training = attach(config, dataset="digits")  # 2: asks here: BudgetExceeded before any data is used
    plan = config.plan                           # your loop, unchanged
    …
    training.finish()                            # 3

It needs JAX Privacy 2.0, which needs Python 3.12: `pip install 'privacy-ledger[jax-privacy]'`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from ledger.client.attached import (
    Attached,
    NotCovered,
    demand_adjacency,
    demand_records,
    demand_version,
    rounded_down,
    seeded_by_system,
    whole,
)
from ledger.client.dp_events import from_dp_event
from ledger.client.dp_events.relations import adjacency_of
from ledger.client.ledgers import Ledger
from ledger.client.mechanisms import DPSGD, AnyMechanism, MatrixFactorization, declared
from ledger.client.runs import Run
from ledger.errors import LedgerError

VERSION: Final = "2.0"
"""The version of JAX Privacy whose source this was written for. The repository's head has other modules."""
PLANS: Final = "jax_privacy.experimental.execution_plan"
RULED_OUT: Final = (
    "jax-privacy-batch-size-schedule",
    "jax-privacy-bandmf-column-normalize",
    "jax-privacy-fixed-size-half",
    "jax-privacy-keras-accumulation",
    "jax-privacy-keras-assumes-poisson",
    "jax-privacy-keras-steps",
)
"""The advisories whose code a plan does not use, or whose number is read from the object that adds the noise."""
TOLERANCE: Final = 1e-5
"""The relative difference to the library's own event that is rounding, and is not reported."""

__all__ = ["NotCovered", "Training", "attach"]


def attach(
    config: Any,
    *,
    dataset: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
    max_examples_per_user: int | None = None,
    ledger: Ledger | None = None,
    **options: Any,
) -> Training:
    """Ask the ledger for what the plan of this config really does, and put a plan that is counted into `config.plan`.

    config: a BandMFExecutionPlanConfig. With one band it is Poisson sampling, with a truncated_batch_size truncated;
    with more bands cyclic Poisson sampling with correlated noise. dataset: its name in the ledger, or several.
    max_examples_per_user: how many of the drawn indices one privacy unit has at most, required if the unit is no
    record; 1 with UserSelectionStrategy. ledger: default Ledger(). options: for `Ledger.run`: purpose, project,
    idempotency_key, steps_done, …

    Raises BudgetExceeded if the run does not fit, and NotCovered, with what to change, if the plan does something that
    is not accounted for. The plan's batch iterator raises NotCovered before a draw if the last one did not get its
    noise once, and ends after the approved steps.

    >>> training = attach(config, dataset="digits")
    >>> training.run.planned_steps
    300
    """
    if max_examples_per_user is not None:
        whole(max_examples_per_user, "max_examples_per_user")
    library = demand_version("jax_privacy", "jax-privacy", VERSION)
    _demand_config(config)
    training = Training(config, dataset, ledger, options)
    training.ask(library, max_examples_per_user)
    return training


class Training(Attached):
    """A training that runs an execution plan.

    draws: batches that were drawn. noised: updates that got noise, counted when they were executed.
    """

    name = "jax_privacy"

    def __init__(
        self,
        config: Any,
        dataset: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
        ledger: Ledger | None,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(dataset, ledger, options)
        self.config = config
        self.draws = self.noised = self.iterators = self.starts = self.clipped = 0
        self._key: tuple[int, ...] | None = None
        self._wrong: str | None = None
        self._ratio = 0.0

    # --- the beginning

    def ask(self, library: str, max_examples_per_user: int | None) -> None:
        """Build the plan, ask for what it does, and put it into the config."""
        config, terms = self.config, self.terms()
        stated = adjacency_of(config.accountant.neighboring_relation)
        adjacency = demand_adjacency(terms, stated, "The accountant of this config")
        demand_records(terms, max_examples_per_user, "an execution plan draws and clips each index")
        _demand_groups(config, adjacency)
        plan, stddev, make = _built(config)
        bound = float(plan.clipped_grad(_nothing).l2_norm_bound)
        self._ratio = _ratio(config, stddev, bound)
        mechanism = _mechanism(config, stddev / bound, self._ratio, max_examples_per_user)
        self.begin(mechanism, self._facts(library, adjacency, max_examples_per_user))
        watched = dataclasses.replace(
            plan,
            clipped_grad=self._watched_clipping(plan.clipped_grad),
            batch_selection_strategy=_watched_sampler(plan.batch_selection_strategy, self),
            noise_addition_transform=self._watched_noise(plan.noise_addition_transform, make),
        )
        vars(config)["plan"] = watched

    def _demand_run(self, run: Run) -> None:
        if _bands(self.config) > 1 and run.is_resumed:
            raise NotCovered(
                f"Run {run.id} was begun by another process, whose groups and correlated noise are lost: with new ones"
                " a record is in other steps than was approved. Settle it for what it executed, and attach with a new"
                f" idempotency_key: privacy-ledger settle {run.id} --steps N"
            )

    def _facts(self, library: str, adjacency: str, records: int | None) -> dict[str, Any]:
        """Return what is recorded: nothing that depends on protected data, and about 1,500 bytes."""
        config = self.config
        libraries = {"jax-privacy": library}
        for name in ("jax", "dp_accounting"):
            with contextlib.suppress(AttributeError):
                libraries[name] = str(importlib.import_module(name).__version__)
        return {
            "libraries": libraries,
            "options": {
                "plan": type(config).__name__,
                "sampler": "CyclicPoissonSampling",
                "num_bands": _bands(config),
                "column_normalize": bool(config.column_normalize),
                "truncated_batch_size": config.truncated_batch_size or 0,
                "partition_type": config.partition_type.name,
                "neighboring_relation": adjacency,
                "rate_from": "sampler",
                "steps_from": "counted",
                "noise_from": "the standard deviation of the privatizer over the norm of the clipped gradients",
                "gradient_accumulation_steps": 1,
                "batch_size_scale_schedule": False,
                "fixed_seed": False,
            },
            "checked": [
                "noise over the norm that the strategy really has",
                "one draw of noise, executed, for each draw of a batch, with no key twice",
                "noise, draws and groups seeded by the operating system",
                "gradients are clipped with nan_safe, and sums and noise have 32 bits or more",
            ],
            "assumed": [
                "what gets noise is the sum of plan.clipped_grad, unscaled, over the drawn batch",
                "each unit has at most " + ("one drawn index" if records in (None, 1) else f"{records} drawn indices"),
                "the gradient of an index depends on no other index of its batch",
                "values, norms and aux of single examples are not published",
            ],
        }

    # --- what is watched

    def _watched_clipping(self, clipped_grad: Any) -> Any:
        @functools.wraps(clipped_grad)
        def watched(*args: Any, **given: Any) -> Any:
            if not given.get("nan_safe", True):
                raise NotCovered(
                    "nan_safe=False lets a record whose gradient is not a number through unclipped. Leave it out."
                )
            self.clipped += 1
            return clipped_grad(*args, **given)

        return watched

    def batches(self, sampler: Any, num_examples: int) -> Iterator[Any]:
        """Yield the batches of the plan's sampler, each counted before it is returned. End after the approved steps.

        The operating system seeds the draws, whatever the caller gave: a known seed shows who is in a batch.
        """
        config = self.config
        if config.truncated_batch_size is not None and num_examples != config.num_examples:
            raise NotCovered(
                f"batch_iterator({num_examples}): the cost of a truncated batch was asked for {config.num_examples}"
                " units (num_examples of the config), and depends on them. Give both the same number."
            )
        if self.iterators and _bands(config) > 1:
            raise NotCovered(
                "batch_iterator was called before: a second one divides the examples in new groups, so that one is in"
                f" steps fewer than {_bands(config)} apart. Take all {config.iterations} batches from one iterator."
            )
        self.iterators += 1
        drawn = sampler.batch_iterator(num_examples, _generator())
        while self.steps_left > 0:
            self._demand_noised()
            batch = next(drawn, None)
            if batch is None:
                return
            self.run.step()
            self.draws += 1
            yield batch

    def _demand_noised(self) -> None:
        """Wait for the last update, and raise NotCovered unless each draw so far got noise once."""
        importlib.import_module("jax").effects_barrier()
        if self.is_over:
            raise NotCovered("The run is settled: finish() was called. Attach a new training, and do not draw here.")
        if self._wrong is not None:
            raise NotCovered(self._wrong)
        if self.noised != self.draws:
            raise NotCovered(
                f"{self.draws} batches were drawn, and {self.noised} updates got noise. Call"
                " plan.noise_addition_transform.update once for each batch, also for an empty one, and on one device; a"
                " batch that is left out is not protected, and one that is joined with another can have a record twice."
            )

    def _watched_noise(self, transform: Any, make: Any) -> Any:
        """Return the transform, with keys of the operating system, whose updates are counted when they are executed."""
        jax = importlib.import_module("jax")
        callback = importlib.import_module("jax.experimental").io_callback

        def init(params: Any) -> Any:
            if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(params)):
                raise NotCovered(
                    "plan.noise_addition_transform.init is called within jit: its key becomes a constant, and the same"
                    " noise comes each time. Call it outside."
                )
            if self.starts and _bands(self.config) > 1:
                raise NotCovered(
                    "plan.noise_addition_transform.init was called before: correlated noise that begins again protects"
                    " less than was approved. Keep the state that update returns."
                )
            self.starts += 1
            self._key = None
            return make().init(params)

        def update(sums: Any, state: Any, params: Any = None) -> Any:
            if not self.clipped:
                raise NotCovered(
                    "update got sums before plan.clipped_grad was used: noise protects only what it clipped. Clip with"
                    " plan.clipped_grad(loss)."
                )
            kinds = {leaf.dtype for leaf in jax.tree.leaves(sums)}
            if small := sorted(str(kind) for kind in kinds if kind.itemsize < 4):
                raise NotCovered(
                    f"Sums of {', '.join(small)} are rounded by more than the clip norm covers. Use float32: dtype of"
                    " the config, and of the parameters."
                )
            noisy, after = transform.update(sums, state, params)
            callback(self._on_noise, None, jax.random.key_data(state[0]), jax.random.key_data(after[0]))
            return noisy, after

        return type(transform)(init, update)

    def _on_noise(self, key: Any, after: Any) -> None:
        """Count an update that was executed. Its key must be the one that the last update left."""
        used = tuple(int(word) for word in key.ravel())
        if self._key not in (None, used):
            self._wrong = (
                f"Update {self.noised + 1} used the key of an earlier noise state, so that noise is repeated or its"
                " correlation broken: do not use its model. Give each update the state that the last one returned."
            )
        self._key = tuple(int(word) for word in after.ravel())
        self.noised += 1

    # --- the end

    def finish(self, error: BaseException | None = None) -> None:
        """Settle the run, as `Attached.finish`. Raises NotCovered, after that, if an update repeated noise or a draw
        got none: the model is not protected as approved."""
        is_first = self._scope is not None
        if is_first:
            importlib.import_module("jax").effects_barrier()
        super().finish(error)
        if is_first and error is None and self._wrong is not None:
            raise NotCovered(self._wrong)

    def differences(self) -> list[str]:
        """Return how what was executed differs from what was approved, and from the event of the plan."""
        found = super().differences()
        if self.noised != self.draws:
            found.append(f"{self.draws} batches were drawn and {self.noised} updates got noise")
        if self._wrong is not None:
            found.append("a key of the noise was used again")
        return found + self._of_event()

    def _of_event(self) -> list[str]:
        """Return how `plan.dp_event` differs from what was executed, over the bound of one value."""
        config = self.config
        relation = adjacency_of(config.accountant.neighboring_relation)
        try:
            stated = declared(from_dp_event(config.plan.dp_event, adjacency=relation))
        except LedgerError as error:
            return [f"the event of the plan has no cost here: {error.detail}"]
        found = []
        # The library multiplies its noise multiplier with the sensitivity, which is twice the bound under replace_one.
        noise = float(stated["noise_multiplier"])
        doubled = 2 if relation == "replace_one" and stated["type"] == "dpsgd" else 1
        if abs(noise * doubled / self._ratio - 1) > TOLERANCE:
            found.append(
                f"plan.dp_event states noise {noise * doubled:.6g} over the clip norm and the strategy's, and"
                f" {self._ratio:.6g} was added"
            )
        rounds = math.ceil(config.iterations / _bands(config))
        if (steps := stated.get("steps", stated.get("count"))) != rounds:
            found.append(f"plan.dp_event states {steps} rounds, and the plan has {rounds}")
        return found

    def at_end(self) -> dict[str, Any]:
        return {"steps": self.noised, "rules_out": sorted(RULED_OUT)}


def _watched_sampler(sampler: Any, training: Training) -> Any:
    """Return a sampler of the same class and fields whose batches are counted."""

    def batch_iterator(_self: Any, num_examples: int, *_rng: Any, **_given: Any) -> Iterator[Any]:
        return training.batches(sampler, num_examples)

    watched = type(f"Watched{type(sampler).__name__}", (type(sampler),), {"batch_iterator": batch_iterator})
    return watched(**{field.name: getattr(sampler, field.name) for field in dataclasses.fields(sampler)})


# --- what is read, and what is refused before the start


def _demand_config(config: Any) -> None:
    """Refuse what is no config of a plan, and options that nothing here covers. Raises NotCovered."""
    kind = type(config).__name__
    if kind == "DPKerasConfig":
        raise NotCovered(
            "DPKerasConfig: the Keras API checks epsilon without gradient accumulation, counts train_steps in two ways,"
            " and does not sample by default. Train with an execution plan:"
            " BandMFExecutionPlanConfig.default(num_bands=1, iterations=…). Or declare dpsgd with the rate of"
            " batch_size * gradient_accumulation_steps: Ledger.run."
        )
    if kind == "DPExecutionPlan":
        raise NotCovered(
            "attach takes the config, which shows how noise is scaled, and not its plan: attach(config, …), and then"
            " config.plan."
        )
    if type(config) is not importlib.import_module(PLANS).BandMFExecutionPlanConfig:
        raise NotCovered(f"{kind} is no plan that is known here. Use BandMFExecutionPlanConfig of {PLANS}.")
    if "plan" in vars(config):
        raise NotCovered(
            "config.plan was read before attach, and its parts are not counted. Attach first, and a config once:"
            " dataclasses.replace(config) is a new one."
        )
    if config.noise_seed is not None:
        raise NotCovered(
            "noise_seed: anyone who knows it can take the noise off, and after a restart it repeats the noise of"
            " earlier steps. Leave it out: attach seeds the noise from the operating system."
        )
    if not 0 < config.l2_clip_norm < math.inf:
        raise NotCovered(f"l2_clip_norm: {config.l2_clip_norm!r} bounds nothing. Give a number above 0.")
    numpy = importlib.import_module("numpy")
    if numpy.dtype(config.dtype).itemsize < 4:
        raise NotCovered(f"dtype: sums and noise of {config.dtype} are rounded too much. Use float32.")
    if _bands(config) > 1 and config.truncated_batch_size is not None:
        raise NotCovered(
            "truncated_batch_size with more than one band: no cost is known here of groups whose batches are cut. Leave"
            " out truncated_batch_size, or use num_bands=1."
        )


def _demand_groups(config: Any, adjacency: str) -> None:
    if _bands(config) > 1 and adjacency == "add_or_remove_one" and config.partition_type.name != "INDEPENDENT":
        raise NotCovered(
            "partition_type EQUAL_SPLIT divides by the number of examples, so that under add_or_remove_one one more of"
            " them moves others to another group. Use partition_type=PartitionType.INDEPENDENT."
        )


def _bands(config: Any) -> int:
    return len(config.strategy)


def _coefficients(config: Any) -> list[float]:
    return [float(one) for one in config.strategy]


def _built(config: Any) -> tuple[Any, float, Any]:
    """Return the plan of a config, the standard deviation that its privatizer got, and what makes such a privatizer
    with a new key of the operating system."""
    module = importlib.import_module(PLANS)
    addition, kind = module.noise_addition, importlib.import_module("numpy").dtype(config.dtype).type
    original, seen = addition.matrix_factorization_privatizer, []

    @functools.wraps(original)
    def recorded(noising_matrix: Any, **given: Any) -> Any:
        stddev = float(given["stddev"])
        seen.append(min(stddev, float(kind(stddev))))  # as it is multiplied with the noise
        made.append(lambda: original(noising_matrix, **{**given, "prng_key": _key()}))
        return made[-1]()

    made: list[Any] = []
    addition.matrix_factorization_privatizer = recorded
    try:
        plan = config.plan
    finally:
        addition.matrix_factorization_privatizer = original
        vars(config).pop("plan", None)
    if len(seen) != 1:
        raise NotCovered(f"The plan made {len(seen)} sources of noise, and one is known here.")
    return plan, seen[0], made[0]


def _ratio(config: Any, stddev: float, bound: float) -> float:
    """Return the noise over the clip norm and the largest column norm that the strategy really has."""
    norm = 1.0 if config.column_normalize else math.hypot(*_coefficients(config))
    return stddev / (bound * norm)


def _mechanism(config: Any, scaled: float, ratio: float, records: int | None) -> AnyMechanism:
    """Return what the plan does. scaled: its noise over the clip norm; ratio: also over the strategy's norm."""
    rate, steps = Decimal(repr(float(config.sampling_prob))), int(config.iterations)
    if _bands(config) == 1:
        cap, many = config.truncated_batch_size, records if records != 1 else None
        return DPSGD(
            noise_multiplier=rounded_down(ratio),
            sample_rate=rate,
            steps=steps,
            dataset_size=None if cap is None else config.num_examples,
            truncated_batch_size=cap,
            max_examples_per_user=many,
        )
    if records not in (None, 1):
        raise NotCovered(
            "Several indices of a unit are in different groups, and no cost is known of that. Draw units: wrap"
            " plan.batch_selection_strategy in UserSelectionStrategy, and attach with max_examples_per_user=1."
        )
    coefficients = _coefficients(config)
    drawn: dict[str, Any] = {"steps": steps, "sampling": "cyclic_poisson", "sample_rate": rate}
    if not any(coefficients[1:]):
        return MatrixFactorization(
            noise_multiplier=rounded_down(ratio), strategy="identity", separation=len(coefficients), **drawn
        )
    if config.column_normalize:
        # Every column has norm 1 then. So have these, but for the last ones, which are shorter.
        coefficients, scaled = _of_norm_one(coefficients), ratio
    return MatrixFactorization(
        noise_multiplier=rounded_down(scaled), strategy="toeplitz", coefficients=coefficients, **drawn
    )


def _of_norm_one(coefficients: list[float]) -> list[float]:
    """Return the coefficients scaled to a norm of 1, or a little more."""
    norm = math.hypot(*coefficients)
    scaled = [one / norm for one in coefficients]
    while sum(Fraction(repr(one)) ** 2 for one in scaled) < 1:
        scaled = [one * (1 + 2.0**-50) for one in scaled]
    return scaled


def _generator() -> Any:
    """Return a generator of NumPy that the operating system seeds."""
    return importlib.import_module("numpy").random.default_rng()


def _key() -> Any:
    """Return a key of JAX made of as many bits of the operating system as its kind has."""
    jax, numpy = (importlib.import_module(name) for name in ("jax", "numpy"))
    words = jax.random.key_data(jax.random.key(0)).size
    return jax.random.wrap_key_data(numpy.array(seeded_by_system(words), dtype=numpy.uint32))


def _nothing() -> None:
    """Return nothing: only the bound of a function that clips is asked for."""

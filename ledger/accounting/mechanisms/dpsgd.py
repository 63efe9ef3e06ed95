"""DP-SGD."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from itertools import permutations
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from ledger.accounting import amounts, axes, certificate, certify, clt, levels
from ledger.accounting.axes import Axis
from ledger.accounting.cost import ROUNDING, SGD, Cost, Precision, rational, summed
from ledger.accounting.mechanisms.base import BaseMechanism, Drawn, StatedSize
from ledger.accounting.mechanisms.batches import NAMES, Batches, Sampled, demand_known
from ledger.accounting.mixtures import RECORDS_MAX
from ledger.accounting.numbers import COUNT_MAX, Count, Positive, Rate
from ledger.accounting.pairs import Parts
from ledger.accounting.pld import Pair
from ledger.accounting.restarts import Division, Repeats, Restart, epochs_touched, repeated
from ledger.accounting.terms import Terms
from ledger.core.datasets import Adjacency, Bound
from ledger.errors import InvalidMechanism

FORMS: Final = (
    "give either sample_rate and steps, or dataset_size, batch_size and epochs, and nothing of both; dataset_size goes "
    "with sample_rate and steps only beside truncated_batch_size"
)
_FALLBACK: Final = "no amplification by sampling is claimed: each step counts as one release without sampling"
_GROUPS: Final = "-groups"
_ESTIMATE: Final = "an estimate by the central limit theorem, not a guarantee: the true cost can be higher"
_WEIGHT: Final = 300
_SHUFFLED: Final = (
    "every unit is in exactly one batch of each epoch, the first step begins one, and every step has full noise",
    "removing a unit or its data leaves its place in the batch empty; no amplification by shuffling is claimed",
)
_AS_DECLARED: Final = (
    "no more epochs are begun than were declared, whether their last, partial batches are kept or dropped"
)


class DpSgd(BaseMechanism):
    """DP-SGD: a sum of per-unit gradients clipped to norm C, with Gaussian noise of `noise_multiplier`·C on it."""

    methods: ClassVar = {
        "shuffle": Precision.EXACT,
        "fallback": Precision.EXACT,
        "clt-poisson": Precision.CLOSED_FORM,
        "clt-fixed-size": Precision.CLOSED_FORM,
        # Parts of a composed mechanism are certified together: their ways to draw batches, in the order of the parts.
        **{
            f"pld-{'-'.join(names)}{groups}": Precision.CERTIFICATE
            for count in range(1, len(NAMES) + 1)
            for names in permutations(NAMES, count)
            for groups in ("", _GROUPS)
        },
    }
    solvable: ClassVar = ("noise_multiplier", "steps", "epochs", "sample_rate")
    # A smaller batch is a different training, not a part of this one.
    unsuggested: ClassVar = frozenset({"sample_rate"})
    is_training: ClassVar = True

    type: Literal["dpsgd"]
    noise_multiplier: Positive
    sampling: Sampled
    sample_rate: Rate | None = None
    steps: Count | None = None
    dataset_size: Count | None = None
    batch_size: Count | None = None
    epochs: Positive | None = None
    truncated_batch_size: Count | None = None
    max_examples_per_user: Annotated[int, Field(strict=True, ge=1, le=RECORDS_MAX)] | None = None
    dataset_size_min: Count | None = None

    @model_validator(mode="after")
    def _one_form(self) -> DpSgd:
        by_rate = (self.sample_rate, self.steps)
        # A cap on the batch needs the number of units in either form. Without it, it is that of the dataset.
        size = None if any(by_rate) and self.truncated_batch_size is not None else self.dataset_size
        by_epochs = (self.batch_size, self.epochs)
        if all(by_rate) == all(by_epochs) or (any(by_rate) and any((*by_epochs, size))):
            raise PydanticCustomError("form", FORMS)
        if self.dataset_size and self.batch_size and self.batch_size > self.dataset_size:
            raise PydanticCustomError("form", "batch_size must be at most dataset_size")
        if not self.lacks_size and self.exact_steps < 1:
            # As planned is up to the next whole step, which would go far beyond what was charged.
            raise PydanticCustomError("form", "epochs must be at least batch_size/dataset_size, which is one step")
        demand_known(self)
        return self

    @property
    def batches(self) -> Batches:
        """Return how its batches are drawn."""
        return Batches(self)

    def resting_on_size(self, path: str) -> list[str]:
        return [f"{path}.{self.batches.field}"] if self.batches.are_resting_on_size else []

    # --- the number of units

    @property
    def lacks_size(self) -> bool:
        is_needed = self.batch_size is not None or self.truncated_batch_size is not None
        return is_needed and self.dataset_size is None

    def stated_sizes(self, path: str) -> list[StatedSize]:
        each = self.max_examples_per_user or 1
        stated = [("dataset_size", self.dataset_size), ("dataset_size_min", self.dataset_size_min)]
        return [
            StatedSize(f"{path}.{name}", size, each, is_least=name == "dataset_size_min")
            for name, size in stated
            if size is not None
        ]

    def drawn(self, path: str) -> list[Drawn]:
        if self.sampling != "poisson":
            return []
        field = f"{path}.{'batch_size' if self.sample_rate is None else 'sample_rate'}"
        return [Drawn(field, self.rate, self.rate, self.dataset_size, self.max_examples_per_user or 1)]

    # --- steps

    @property
    def rate(self) -> Fraction:
        """Return the expected share of the units in a batch: sample_rate, or batch_size/dataset_size. Raises ValueError
        if it `lacks_size`."""
        if self.sample_rate is not None:
            return Fraction(self.sample_rate)
        if self.batch_size is None or self.dataset_size is None:
            raise ValueError("batches of an unknown number of units")
        return Fraction(self.batch_size, self.dataset_size)

    @property
    def exact_steps(self) -> Fraction:
        """Return the steps of the published formula: epochs·dataset_size/batch_size, which need not be an integer."""
        if self.steps is not None:
            return Fraction(self.steps)
        return Fraction(self.epochs or 1) / self.rate

    @property
    def steps_of_epoch(self) -> int:
        """Return the least steps that an epoch of shuffled batches has: a partial last one may be dropped."""
        return math.floor(1 / self.rate)

    @property
    def whole_steps(self) -> int:
        """Return its steps, the last one counted as whole."""
        return math.ceil(self.exact_steps)

    @property
    def declared_steps(self) -> tuple[int, int] | None:
        if self._is_by_shuffled_epochs:
            # The last, partial batch of an epoch is dropped or kept.
            epochs = Fraction(self.epochs or 1)
            fewest = min(math.ceil(epochs * self.steps_of_epoch), math.floor(self.exact_steps))
            return fewest, math.ceil(epochs * math.ceil(1 / self.rate))
        return math.floor(self.exact_steps), math.ceil(self.exact_steps)

    def resized(self, steps: int) -> Self:
        return self.model_copy(update={"steps": steps, "epochs": None})

    def restartable(self, steps: int) -> int:
        # Each segment restarts with a new order, so that it has whole epochs.
        return self._epochs(steps) * self.steps_of_epoch if self.is_shuffled else steps

    def segment(self, segments: int) -> Self:
        if self._is_by_shuffled_epochs:
            return self.model_copy(update={"epochs": Decimal(-(-self._begun_epochs // segments))})
        return super().segment(segments)

    @property
    def is_shuffled(self) -> bool:
        """Return whether its batches are parts of a random order."""
        return self.sampling == "shuffle"

    @property
    def _is_by_shuffled_epochs(self) -> bool:
        """Return whether it declares epochs of shuffled batches, and not steps."""
        return self.is_shuffled and self.epochs is not None

    @property
    def _begun_epochs(self) -> int:
        """Return the epochs of shuffled batches that it begins: as declared, else the most that its steps can touch."""
        return self._epochs(self.whole_steps) if self.epochs is None else math.ceil(self.epochs)

    def _epochs(self, steps: int) -> int:
        return -(-steps // self.steps_of_epoch)

    # --- cost

    def cost(self, terms: Terms, *, path: str) -> Cost:
        if self.is_shuffled:
            return self._shuffle_cost(terms.adjacency)
        if terms.bound == "certified":
            return certified([(path, self)], terms)
        return self._estimate(terms.adjacency, path=path)

    def needs_certificate(self, bound: Bound) -> bool:
        return bound == "certified" and not self.is_shuffled

    def weight(self, bound: Bound) -> int:
        return _WEIGHT if self.needs_certificate(bound) else 1

    def _shuffle_cost(self, adjacency: Adjacency) -> Cost:
        # Each unit is in one batch of an epoch, so an epoch is one Gaussian release of it, and a random order is a
        # mixture of fixed ones: (sqrt(k)/s, 0) for k epochs touched, by joint convexity; no amplification is claimed
        # (Chua et al. 2024 show how far shuffling can be from Poisson sampling). k is the number of declared epochs,
        # however many steps they have; if steps are declared, an epoch has floor(N/B) of them or more.
        factor = self.batches.release_sq(adjacency)
        mu_sq = factor * self._begun_epochs / Fraction(self.noise_multiplier) ** 2
        declared = (_AS_DECLARED,) if self._is_by_shuffled_epochs else ()
        return rational(mu_sq, "shuffle", (*SGD, *_SHUFFLED, *declared))

    def _estimate(self, adjacency: Adjacency, *, path: str) -> Cost:
        self.batches.refuse_estimate(path)
        s, q, steps = float(self.noise_multiplier), float(self.rate), float(self.exact_steps)
        is_poisson = self.sampling == "poisson"
        # In a Poisson batch a unit without data is like one that is not there; else it is one that is replaced.
        like = adjacency
        if adjacency == "zero_out":
            like = "add_or_remove_one" if is_poisson else "replace_one"
        # Reading s, q and T as doubles moves mu by less than (1.06 + 4/s²) + 1 + 1/2 units of 2^-53: d ln mu / d ln s
        # is above -(1.06 + s^-2), for fixed size under replace_one, which takes s/2 for s, above -(1.06 + 4/s²).
        reading = (3 + 4 / s**2) * ROUNDING
        if is_poisson:
            mu = float(clt.mu_poisson(noise_multiplier=s, sample_rate=q, steps=steps, adjacency=like))
            error = float(clt.mu_poisson_relative_error(noise_multiplier=s))
            method = "clt-poisson"
        else:
            mu = float(clt.mu_fixed_size(noise_multiplier=s, sample_rate=q, steps=steps, adjacency=like))
            error = float(clt.mu_fixed_size_relative_error(noise_multiplier=s, adjacency=like))
            method = "clt-fixed-size"
        if not math.isfinite(mu):
            field = f"{path}.noise_multiplier"
            raise InvalidMechanism(f"{field}: the cost is too large to be represented; use more noise", field=field)
        mu_sq = amounts.outward(mu, error + reading) ** 2
        return Cost(mu, mu_sq, Fraction(0), method, (_ESTIMATE, *SGD, self.batches.assumption(adjacency)))

    # --- certificates

    def pair(self, adjacency: Adjacency, *, path: str) -> Pair | None:
        """Return the dominating pair of one step, rounded so that it costs no less; None if sampling hides nothing."""
        return self.batches.pair(Fraction(self.noise_multiplier), adjacency, path=path)

    def frontier(self, terms: Terms, deltas: Sequence[Fraction]) -> list[tuple[float, float]]:
        if self.pair(terms.adjacency, path="mechanism") is None or self.whole_steps == 1:
            return super().frontier(terms, deltas)
        mus = along([("mechanism", self)], terms, deltas)
        return [(float(delta), mu) for delta, (mu, _) in zip(deltas, mus, strict=True)]

    @property
    def is_heavy_tailed(self) -> bool:
        # A batch that is cut is rare, and shows a unit twice as well.
        return self.truncated_batch_size is not None

    def exact_parts(self, terms: Terms) -> Parts:
        if self.is_shuffled:
            return Parts(self._shuffle_cost(terms.adjacency).mu_sq)
        is_convention = self.batches.name == "fixed-size" and self.dataset_size_min is None
        if terms.bound == "clt" and is_convention and terms.adjacency == "add_or_remove_one":
            # No pair is known: `certified` raises, and `clt` gives an estimate.
            estimate = self._estimate(terms.adjacency, path="mechanism")
            return Parts(estimate.mu_sq, envelopes=frozenset({self.type}), is_bound=False)
        pair = self.pair(terms.adjacency, path="mechanism")
        if pair is None:
            return Parts(fallback([self], terms.adjacency).mu_sq)
        return Parts(sources=Counter({pair: self.whole_steps}))

    # --- settling

    def is_additive(self, method: str) -> bool:
        # By joint convexity a step is at most one Gaussian release, and so is an epoch that has each unit once.
        return self.is_shuffled or method == "fallback"

    def additive_cost(self, terms: Terms) -> Cost:
        # Not the least cost: a certificate is for all its steps together.
        return self._shuffle_cost(terms.adjacency) if self.is_shuffled else fallback([self], terms.adjacency)

    def overrun(self, planned: int, steps: int, *, method: str, is_fixed: bool) -> Self | None:
        if not self.is_shuffled:
            # A certificate is for a number of steps fixed before the first one; else only whole runs are mechanisms.
            return self.resized(steps) if is_fixed or method == "fallback" else None
        if self._is_by_shuffled_epochs:
            # A run that goes on may already have begun more epochs than declared: so all that this number of steps
            # can touch, less those that the plan was charged for.
            epochs = self._epochs(planned + steps) - -(-planned // math.ceil(1 / self.rate))
            return self.resized(max(epochs, self._epochs(steps)) * self.steps_of_epoch)
        # A unit can be in a batch of the epoch that the excess begins within, and in one of each that it begins.
        epochs = self._epochs(steps) + (planned % self.steps_of_epoch > 0)
        return self.resized(epochs * self.steps_of_epoch)

    def has_releases(self, method: str) -> bool:
        return method == "fallback"

    def repeats(self, restarts: Sequence[Restart], adjacency: Adjacency, division: Division) -> Repeats:
        once = self._again(adjacency)
        if self.is_shuffled:
            return Repeats(mu_sq=once * sum(self._epochs_again(restart, division) for restart in restarts))
        # A repeated step with a new batch is a further step. One with the same batch is a release without sampling,
        # given everything released before: the unit is then in the batch with another probability than the sample
        # rate. Where it takes the place of another one, compare a batch without the unit with that in which it replaces
        # a random other one: the centres are still at most 2C apart.
        new = sum(restart.steps for restart in restarts if restart.new_batches)
        return Repeats(steps=new, mu_sq=once * (repeated(restarts) - new))

    def worst_repeats(self, steps: int, adjacency: Adjacency) -> Repeats:
        return Repeats(mu_sq=self._again(adjacency) * steps)

    def _again(self, adjacency: Adjacency) -> Fraction:
        """Return the mu² of a step that is repeated with the same batch."""
        return self.batches.again_sq(adjacency) / Fraction(self.noise_multiplier) ** 2

    def _epochs_again(self, restart: Restart, division: Division) -> int:
        """Return how many more batches a unit can be in than one in each epoch.

        That is one for each epoch of the repeated steps, and at least one after a new order, in which the unit can come
        again in the epoch that was interrupted.
        """
        if self._is_by_shuffled_epochs:
            # Segments of declared epochs end with an epoch, however many steps it has.
            readings = [[(restart.from_step, restart.to_step, 1)]]
        else:
            # Beyond the plan the last segment goes on, or more segments follow.
            readings = [division.stretches(restart), replace(division, segments=COUNT_MAX).stretches(restart)]
        lengths = (self.steps_of_epoch, math.ceil(1 / self.rate))
        epochs = [
            sum(
                count * max(epochs_touched(first, last, length) for length in lengths) for first, last, count in reading
            )
            for reading in readings
        ]
        return max(*epochs, int(restart.new_batches))

    # --- solving

    def axis(self, parameter: str, *, segments: int) -> Axis:
        if parameter == "noise_multiplier" and not self.is_shuffled:
            return axes.SUBSAMPLED_NOISE
        if parameter == "epochs":
            return axes.decimals(1, least=segments * self.rate)
        return super().axis(parameter, segments=segments)


# --- several of them together ----------------------------------------------------------------------------------------


def certified(runs: Sequence[tuple[str, DpSgd]], terms: Terms) -> Cost:
    """Return the certificate of several DP-SGD parts together, each with its path, or the fallback if that is less."""
    steps = _steps(runs, terms)
    plain = fallback([run for _, run in runs], terms.adjacency)
    delta = Fraction(terms.delta)
    share = certify.at_most(delta)
    if steps is None or share < certify.DELTA_MIN:
        return plain
    ((mu, groups),) = certificate.certified(steps, [share], is_alone=terms.is_composed_alone)
    if not math.isfinite(mu) or Fraction(mu) ** 2 >= plain.mu_sq:
        return plain
    method = "pld-" + "-".join(dict.fromkeys(run.batches.name for _, run in runs))
    assumptions = _assumptions([run for _, run in runs], terms.adjacency)
    if groups > 1:
        method += _GROUPS
    return Cost(mu, Fraction(mu) ** 2, amounts.nats(delta, towards="up"), method, assumptions)


def along(runs: Sequence[tuple[str, DpSgd]], terms: Terms, deltas: Sequence[Fraction]) -> list[tuple[float, bool]]:
    """Return a mu of several DP-SGD parts together at each of these shares of delta, and whether each is `is_whole`."""
    plain = fallback([run for _, run in runs], terms.adjacency).mu
    steps = _steps(runs, terms)
    if steps is None:
        return [(plain, False) for _ in deltas]
    found = certificate.certified(steps, [certify.at_most(delta) for delta in deltas])
    return [(min(mu, plain), mu < plain and groups == 1) for mu, groups in found]


def is_whole(cost: Cost) -> bool:
    """Return whether a cost is a certificate of all steps at once; no sum of certificates of their parts is less."""
    return cost.method.startswith("pld-") and not cost.method.endswith(_GROUPS)


def _steps(runs: Sequence[tuple[str, DpSgd]], terms: Terms) -> list[certify.Steps] | None:
    """Return the steps to compose, equal ones together; None if sampling hides nothing in some part."""
    counts: Counter[Pair] = Counter()
    for path, run in runs:
        pair = run.pair(terms.adjacency, path=path)
        if pair is None:
            return None
        counts[pair] += run.whole_steps
    return [certify.Steps(pair, count) for pair, count in levels.of_many(counts).items()]


def fallback(runs: Sequence[DpSgd], adjacency: Adjacency) -> Cost:
    """Return the cost of DP-SGD without amplification by sampling: exact, and the sum over its steps."""
    # Without sampling a step is one Gaussian release, by joint convexity.
    mu_sq = summed(
        [run.batches.release_sq(adjacency) * run.whole_steps / Fraction(run.noise_multiplier) ** 2 for run in runs]
    )
    return rational(mu_sq, "fallback", (*_assumptions(runs, adjacency), _FALLBACK))


def _assumptions(runs: Sequence[DpSgd], adjacency: Adjacency) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*SGD, *(run.batches.assumption(adjacency) for run in runs))))

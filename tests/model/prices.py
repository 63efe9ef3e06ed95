"""What mechanisms cost and what budgets allow, in exact fractions, from accounting.md alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import mpmath

Json = dict[str, Any]
BY_RELEASE: Final = ("gaussian", "pure_dp", "approximate_dp")


@dataclass(frozen=True, slots=True)
class Amount:
    """In units of 1e-12 of mu² and of 1e-18 of -log(1 - delta), which add up: accounting.md, "The currency"."""

    mu: Fraction | int = 0
    delta: Fraction | int = 0

    def join(self, other: Amount, how: Callable[[Any, Any], Any]) -> Amount:
        return Amount(how(self.mu, other.mu), how(self.delta, other.delta))

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.mu + other.mu, self.delta + other.delta)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.mu - other.mu, self.delta - other.delta)

    def times(self, count: Fraction | int) -> Amount:
        return Amount(count * self.mu, count * self.delta)

    def up(self) -> Amount:
        return Amount(math.ceil(self.mu), math.ceil(self.delta))

    def exceeds(self, other: Amount) -> list[str]:
        return [name for name in ("mu", "delta") if getattr(self, name) > getattr(other, name)]

    def capped(self, most: Amount) -> Amount:
        """One or the other, for both quantities."""
        return most if self.exceeds(most) else self


NOTHING: Final = Amount()


def written(number: float | Fraction) -> Fraction:
    """A number in a request is the decimal that was written."""
    return Fraction(str(number))


def _digits(compute: Callable[[Any], Any], number: float) -> Fraction:
    """A transcendental function to 50 digits."""
    with mpmath.workdps(60):
        exact = written(number)
        return Fraction(mpmath.nstr(compute(mpmath.mpf(exact.numerator) / exact.denominator), 50, strip_zeros=False))


@functools.cache
def pure_mu_sq(epsilon: float) -> Fraction:
    """mu² of pure DP, mu = -2 Phi^-1(1/(1 + e^epsilon)), by -Phi^-1(p) = sqrt(2) erfinv(1 - 2p)."""
    return _digits(lambda x: 8 * mpmath.erfinv(mpmath.tanh(x / 2)) ** 2, epsilon)


@functools.cache
def _amount(mu_sq: Fraction, delta: float = 0) -> Amount:
    return Amount(mu_sq * 10**12, _digits(lambda x: -mpmath.log1p(-x), delta) * 10**18)


def limit_of(budget: Json) -> Amount:
    """The limit of a budget in mu and delta is rounded down."""
    exact = _amount(written(budget["mu"]) ** 2, budget.get("delta", 0))
    return Amount(math.floor(exact.mu), math.floor(exact.delta))


def rests_on_size(mechanism: Json) -> bool:
    """Whether its batches rest on a public number of units ("Derived datasets")."""
    return mechanism.get("sampling") in ("fixed_size", "shuffle") or any(map(rests_on_size, mechanism.get("parts", [])))


def repeated(restarts: list[Json] | None) -> int:
    """How many steps were run again."""
    return sum(restart["to_step"] - restart["from_step"] + 1 for restart in restarts or [])


class Plan:
    """A mechanism in so many segments: "Two bounds, never mixed" and "Segments".

    fewest, most: the steps that count as all that were planned, by whole batches alone or with the partial ones of
    epochs. epoch, long_epoch: their steps, likewise. epochs: of a segment, if they were declared. length: its steps.
    """

    def __init__(self, mechanism: Json, adjacency: str, segments: int = 1) -> None:
        self.mechanism, self.adjacency, self.segments = mechanism, adjacency, segments
        self.is_matrix = mechanism["type"] == "matrix_factorization"
        self.is_shuffled = mechanism.get("sampling") == "shuffle"
        self.is_by_step = mechanism["type"] in BY_RELEASE or mechanism.get("sampling") == "poisson"
        self.has_steps = mechanism["type"] in BY_RELEASE or not mechanism.keys().isdisjoint({"steps", "epochs"})
        self.fewest = self.most = int(mechanism.get("steps") or mechanism.get("count") or 1)
        self.epoch = self.long_epoch = 1
        self.epochs = -(-math.ceil(written(mechanism.get("epochs", 0))) // segments)
        if self.is_shuffled:
            names = ("dataset_size", "batch_size", "sample_rate", "epochs")
            size, batch, rate, epochs = (written(mechanism.get(name, 1)) for name in names)
            batches = size / batch / rate
            self.epoch, self.long_epoch = math.floor(batches), math.ceil(batches)
            if self.epochs:
                self.fewest = min(math.ceil(epochs * self.epoch), math.floor(epochs * batches))
                self.most = math.ceil(epochs * self.long_epoch)
        self.length = -(-self.most // segments)
        if self.is_shuffled and segments > 1:  # whole epochs
            self.length = self.epochs * self.long_epoch or -(-self.length // self.epoch) * self.epoch
        self.steps_max = segments * self.length

    @functools.cached_property
    def release(self) -> Amount:
        """The cost of one release, epoch or participation."""
        declared = self.mechanism
        if "parts" in declared:
            return functools.reduce(Amount.__add__, (Plan(part, self.adjacency).segment for part in declared["parts"]))
        if "noise_multiplier" not in declared:
            mu_sq = written(declared["mu"]) ** 2 if "mu" in declared else pure_mu_sq(declared["epsilon"])
            return _amount(mu_sq, declared.get("delta", 0))
        factor = 4 if self.adjacency == "replace_one" and declared["type"] != "gaussian" else 1
        return _amount(factor * (written(declared.get("sensitivity", 1)) / written(declared["noise_multiplier"])) ** 2)

    def after(self, steps: int) -> Amount:
        """The cost of so many steps: of one unit's releases, at most."""
        if not self.is_matrix:
            return self.release.times(-(-steps // self.epoch))
        separated = -(-steps // self.mechanism.get("separation", 1))  # "identity": each participation is a release
        return self.release.times(min(self.mechanism.get("participations", 1), separated))

    @property
    def segment(self) -> Amount:
        return self.release.times(self.epochs) if self.epochs else self.after(self.length)

    @functools.cached_property
    def cost(self) -> Amount:
        """That of k runs of one segment, rounded up."""
        return self.segment.times(self.segments).up()

    # --- "Settling", and "Steps that were run again"

    def settled(self, steps: Any, stop: str, restarts: list[Json] | None) -> tuple[Amount, Json | None]:
        """What so many steps are charged, repeated ones included; and the overrun, if there was one."""
        if not self.has_steps:
            return self.cost, None
        again = 0 if self.is_by_step else repeated(restarts)
        reached = steps - again
        charged = self._within(max(reached, 1), stop) if reached < self.fewest and stop != "planned" else self.cost
        beyond = max(reached - self.steps_max, 0)
        if restarts is None and beyond and not self.is_by_step:
            return charged, {"steps": beyond, "repeated": None, "cost": self._beside(self._unstated(steps, beyond))}
        excess = self._beside(self._beyond(beyond) + self._again(restarts or []))
        return charged, {"steps": beyond + again, "repeated": again, "cost": excess} if excess != NOTHING else None

    def _within(self, steps: int, stop: str) -> Amount:
        """Fewer steps than planned: by release, by segment, or all; never more than was approved."""
        if not self.is_matrix:
            return self.after(steps).up().capped(self.cost)
        share, (whole, rest) = self.cost.times(Fraction(1, self.segments)), divmod(steps, self.length)
        if stop == "data_dependent":
            return share.times(whole + (rest > 0)).up()
        return share.times(whole).up() + self.after(rest).up().capped(share.up())

    def _beside(self, count: int) -> Amount:
        """So many segments as approved, or epochs, or releases, beside what was planned."""
        return (self.cost.times(Fraction(count, self.segments)) if self.is_matrix else self.release.times(count)).up()

    def _beyond(self, steps: int) -> int:
        """The segments, epochs or releases of so many new steps beyond the plan."""
        if self.is_matrix or not steps:
            return -(-steps // self.length)
        begun, most = -(-steps // self.epoch), -(-(self.steps_max + steps) // self.epoch)
        if self.epochs:  # all that can have been touched, less what the plan was charged for
            return max(most - -(-self.steps_max // self.long_epoch), begun)
        return begun + (self.steps_max % self.epoch > 0)  # one more if the excess begins within one

    def _again(self, restarts: list[Json]) -> int:
        """The segments or epochs of repeated steps, beside the releases that these are anyway."""
        total, orders = 0, 1
        for restart in restarts:
            stretch, is_new = range(restart["from_step"] - 1, restart["to_step"]), restart["new_batches"]
            if self.is_matrix:
                touched = len({step // self.length for step in stretch}) or 1
                total += touched * (orders**2 * bool(stretch) + ((orders + 1) ** 2 - orders**2) * is_new)
                orders += is_new
            elif self.is_shuffled:
                total += max(self._epochs_of(stretch), is_new)
        return total

    def _epochs_of(self, steps: range) -> int:
        """The epochs that steps are in, by the longest and by the shortest, counted from the start of each segment;
        beyond the plan the last segment goes on, or there are more. Declared epochs go on through segments."""
        most = 0
        for last in [0] if self.epochs else [self.segments - 1, steps.stop]:
            parts: dict[int, list[int]] = {}
            for step in steps:
                part = min(step // self.length, last)
                parts.setdefault(part, []).append(step - part * self.length)
            lengths = self.epoch, self.long_epoch
            most = max(most, sum(max(len({step // n for step in part}) for n in lengths) for part in parts.values()))
        return most

    def _unstated(self, steps: int, beyond: int) -> int:
        """The worst that may have been if nobody said what was repeated: all steps but one, or some of those beyond."""
        if self.is_matrix:  # 2² + 3² + … + steps² strategies, one for each repeated step
            return steps * (steps + 1) * (2 * steps + 1) // 6 - 1
        new = (1, (beyond - 1) // self.length * self.length + 1, beyond)
        return max(steps - 1, *(self._beyond(some) + beyond - some for some in new))

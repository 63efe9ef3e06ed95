"""What mechanisms cost and what budgets allow, in exact fractions, from accounting.md alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
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

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.mu + other.mu, self.delta + other.delta)

    def __mul__(self, count: Fraction | int) -> Amount:
        return Amount(count * self.mu, count * self.delta)

    def __sub__(self, other: Amount) -> Amount:
        return self + other * -1

    def exceeds(self, other: Amount) -> list[str]:
        return [name for name in ("mu", "delta") if getattr(self, name) > getattr(other, name)]


def both(how: Callable[[Iterable[Any]], Any], *amounts: Amount) -> Amount:
    """Combine amounts, each quantity on its own."""
    return Amount(how([amount.mu for amount in amounts]), how([amount.delta for amount in amounts]))


NOTHING: Final = Amount()
ceiling: Final = functools.partial(both, lambda parts: math.ceil(*parts))


def written(number: float | Fraction) -> Fraction:
    """Return the decimal that was written in a request."""
    return Fraction(str(number))


def _digits(compute: Callable[[Any], Any], number: float) -> Fraction:
    """Return a transcendental function to 50 digits."""
    with mpmath.workdps(60):
        exact = written(number)
        return Fraction(mpmath.nstr(compute(mpmath.mpf(exact.numerator) / exact.denominator), 50, strip_zeros=False))


@functools.cache
def pure_mu_sq(epsilon: float) -> Fraction:
    """Return mu² of pure DP, mu = -2 Phi^-1(1/(1 + e^epsilon)), by -Phi^-1(p) = sqrt(2) erfinv(1 - 2p)."""
    return _digits(lambda x: 8 * mpmath.erfinv(mpmath.tanh(x / 2)) ** 2, epsilon)


@functools.cache
def _amount(mu_sq: Fraction, delta: float = 0) -> Amount:
    return Amount(mu_sq * 10**12, _digits(lambda x: -mpmath.log1p(-x), delta) * 10**18)


def limit_of(budget: Json) -> Amount:
    """Return the limit of a budget in mu and delta, rounded down."""
    return both(lambda exact: math.floor(*exact), _amount(written(budget["mu"]) ** 2, budget.get("delta", 0)))


def rests_on_size(mechanism: Json) -> bool:
    """Return whether its batches rest on a public number of units ("Derived datasets")."""
    return mechanism.get("sampling") in ("fixed_size", "shuffle") or any(map(rests_on_size, mechanism.get("parts", [])))


def repeated(restarts: list[Json] | None) -> int:
    """Return how many steps were run again."""
    return sum(restart["to_step"] - restart["from_step"] + 1 for restart in restarts or [])


def parts(steps: Fraction | int, length: int) -> int:
    """Return how many parts of a length hold the steps."""
    return -(-math.ceil(steps) // length)


class Plan:
    """A mechanism in several segments: "Two bounds, never mixed" and "Segments".

    fewest, most: the range of steps that counts as the whole plan, by whole batches alone or with the partial ones of
    epochs. epoch, long_epoch: their steps, likewise. epochs: of a segment, if they were declared. length: its steps.
    """

    def __init__(self, mechanism: Json, adjacency: str, segments: int = 1) -> None:
        self.mechanism, self.adjacency, self.segments = mechanism, adjacency, segments
        self.is_matrix, is_release = mechanism["type"] == "matrix_factorization", mechanism["type"] in BY_RELEASE
        self.is_shuffled = mechanism.get("sampling") == "shuffle"
        self.is_by_step = is_release or mechanism.get("sampling") == "poisson"
        self.has_steps = is_release or bool(mechanism.keys() & {"steps", "epochs"})
        names = ("dataset_size", "batch_size", "sample_rate", "epochs")
        size, batch, rate, epochs = (written(mechanism.get(name, 1)) for name in names)
        batches = size / batch / rate if self.is_shuffled else Fraction(1)
        self.epoch, self.long_epoch = math.floor(batches), math.ceil(batches)
        self.epochs = parts(epochs, segments) if "epochs" in mechanism else 0
        self.fewest = self.most = int(mechanism.get("steps") or mechanism.get("count") or 1)
        if self.epochs:
            self.fewest = min(math.ceil(epochs * self.epoch), math.floor(epochs * batches))
            self.most = math.ceil(epochs * self.long_epoch)
        self.length = parts(self.most, segments)
        if self.is_shuffled and segments > 1:  # whole epochs
            self.length = self.epochs * self.long_epoch or parts(self.length, self.epoch) * self.epoch
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
        """Return the cost of the first steps; of strategy "identity", each participation is a release."""
        most, separation = (self.mechanism.get(name, 1) for name in ("participations", "separation"))
        return self.release * (min(most, parts(steps, separation)) if self.is_matrix else parts(steps, self.epoch))

    @property
    def segment(self) -> Amount:
        return self.release * self.epochs if self.epochs else self.after(self.length)

    @functools.cached_property
    def cost(self) -> Amount:
        """The cost of k runs of one segment, rounded up."""
        return ceiling(self.segment * self.segments)

    # --- "Settling", and "Steps that were run again"

    def settled(self, steps: Any, stop: str, restarts: list[Json] | None) -> tuple[Amount, Json | None]:
        """Return the charge of all steps, repeated ones included; and the overrun, if there was one."""
        if not self.has_steps:
            return self.cost, None
        again = 0 if self.is_by_step else repeated(restarts)
        reached = steps - again
        charged = self._within(max(reached, 1), stop) if reached < self.fewest and stop != "planned" else self.cost
        beyond = max(reached - self.steps_max, 0)
        is_known = restarts is not None or self.is_by_step or not beyond
        more = self._beyond(beyond) + self._again(restarts or []) if is_known else self._unstated(steps, beyond)
        # Segments as approved, or else epochs or releases.
        cost = ceiling(self.cost * Fraction(more, self.segments) if self.is_matrix else self.release * more)
        overrun = {"steps": beyond + again, "repeated": again if is_known else None, "cost": cost}
        return charged, overrun if more else None

    def _within(self, steps: int, stop: str) -> Amount:
        """Return the charge of fewer steps: by release, by segment, or all; never more than was approved."""
        share, (whole, rest) = self.cost * Fraction(1, self.segments), divmod(steps, self.length)
        if not self.is_matrix:
            share, whole, rest = self.cost, 0, steps
        elif stop == "data_dependent":
            return ceiling(share * parts(steps, self.length))
        last = self.after(rest)
        last = share if last.exceeds(share) else last  # one or the other, for both quantities
        return ceiling(share * whole + last)

    def _beyond(self, steps: int) -> int:
        """Return the segments, epochs or releases of new steps beyond the plan."""
        if self.is_matrix or not steps:
            return parts(steps, self.length)
        begun, most = parts(steps, self.epoch), parts(self.steps_max + steps, self.epoch)
        if self.epochs:  # all that can have been touched, less what the plan was charged for
            return max(most - parts(self.steps_max, self.long_epoch), begun)
        return begun + (self.steps_max % self.epoch > 0)  # one more if the excess begins within one

    def _again(self, restarts: list[Json]) -> int:
        """Return the segments or epochs of repeated steps, beside the releases that these are anyway."""
        total, orders = 0, 1
        for restart in restarts if self.is_matrix or self.is_shuffled else []:
            stretch, is_new = range(restart["from_step"] - 1, restart["to_step"]), restart["new_batches"]
            if self.is_matrix:
                touched = len({step // self.length for step in stretch}) or 1
                total += touched * (orders**2 * bool(stretch) + (2 * orders + 1) * is_new)
                orders += is_new
            else:
                # Beyond the plan the last segment goes on, or more follow. Declared epochs go on through segments.
                lasts = [0] if self.epochs else [self.segments - 1, stretch.stop]
                total += max(is_new, *(self._epochs_of(stretch, last) for last in lasts))
        return total

    def _epochs_of(self, steps: range, last: int) -> int:
        """Return the epochs that steps are in, by the longest and by the shortest, from the start of their segment."""
        places = [(step, min(step // self.length, last)) for step in steps]
        epochs = [
            {(part, (step - part * self.length) // n) for step, part in places} for n in {self.epoch, self.long_epoch}
        ]
        return sum(max(len([1 for at, _ in each if at == part]) for each in epochs) for part in {p for _, p in places})

    def _unstated(self, steps: int, beyond: int) -> int:
        """Return the worst case of unstated restarts: all steps but one were repeated, or some beyond the plan."""
        if self.is_matrix:  # 2² + 3² + … + steps² strategies, one for each repeated step
            return steps * (steps + 1) * (2 * steps + 1) // 6 - 1
        new = (1, (beyond - 1) // self.length * self.length + 1, beyond)
        return max(steps - 1, *(self._beyond(some) + beyond - some for some in new))

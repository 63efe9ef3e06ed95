"""What mechanisms cost and what budgets allow, in exact fractions, from docs/explanation/accounting.md alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import mpmath

Json = dict[str, Any]
Terms = tuple[Json, str, int, "Amount"]
"""Of a run: mechanism, adjacency, segments, and what was approved."""
DIGITS: Final = 50
LARGEST: Final = 2**63 - 1
"""A sum that passes it stays there (docs/reference/export.md, "An entry")."""


@dataclass(frozen=True, slots=True)
class Amount:
    """Units of 1e-12 of mu² and of 1e-18 of -log(1 - delta): docs/explanation/accounting.md, "The currency"."""

    mu: int = 0
    delta: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.mu + other.mu, self.delta + other.delta)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.mu - other.mu, self.delta - other.delta)

    def least(self, other: Amount) -> Amount:
        return Amount(min(self.mu, other.mu), min(self.delta, other.delta))

    def most(self, other: Amount) -> Amount:
        return Amount(max(self.mu, other.mu), max(self.delta, other.delta))

    def part(self, share: Fraction) -> Amount:
        """A share of it, rounded up as costs are."""
        return Amount(math.ceil(share * self.mu), math.ceil(share * self.delta))

    def exceeds(self, other: Amount) -> list[str]:
        """The quantities in which it is more."""
        return [name for name in ("mu", "delta") if getattr(self, name) > getattr(other, name)]

    def json(self) -> Json:
        return {"mu_sq_pico": str(self.mu), "delta_atto": str(self.delta)}


NOTHING: Final = Amount()
FULL: Final = Amount(LARGEST, LARGEST)


@dataclass(frozen=True, slots=True)
class Price:
    """A cost before it is rounded: mu² and -log(1 - delta), which add up under composition."""

    mu_sq: Fraction = Fraction(0)
    nats: Fraction = Fraction(0)

    def __add__(self, other: Price) -> Price:
        return Price(self.mu_sq + other.mu_sq, self.nats + other.nats)

    def times(self, count: int | Fraction) -> Price:
        return Price(count * self.mu_sq, count * self.nats)

    def rounded(self) -> Amount:
        """A cost is rounded up."""
        return Amount(math.ceil(self.mu_sq * 10**12), math.ceil(self.nats * 10**18))


def written(number: float | Fraction) -> Fraction:
    """A number in a request is the decimal that was written."""
    return Fraction(str(number))


def _digits(compute: Callable[[], Any]) -> Fraction:
    """A transcendental number to 50 digits."""
    with mpmath.workdps(DIGITS + 10):
        return Fraction(mpmath.nstr(compute(), DIGITS, strip_zeros=False))


@functools.cache
def nats(delta: float) -> Fraction:
    """-log(1 - delta)."""
    exact = written(delta)
    return _digits(lambda: -mpmath.log1p(-mpmath.mpf(exact.numerator) / exact.denominator)) if exact else Fraction(0)


@functools.cache
def pure_mu_sq(epsilon: float) -> Fraction:
    """mu² of pure DP, mu = -2 Phi^-1(1/(1 + e^epsilon)), by -Phi^-1(p) = sqrt(2) erfinv(1 - 2p)."""
    exact = written(epsilon)
    return _digits(lambda: 8 * mpmath.erfinv(mpmath.tanh(mpmath.mpf(exact.numerator) / exact.denominator / 2)) ** 2)


def limit_of(budget: Json) -> Amount:
    """The limit of a budget in mu and delta is rounded down."""
    return Amount(math.floor(written(budget["mu"]) ** 2 * 10**12), math.floor(nats(budget.get("delta", 0)) * 10**18))


# --- mechanisms: docs/explanation/accounting.md, the table of "Two bounds, never mixed" -------------------------------

BY_RELEASE: Final = ("gaussian", "pure_dp", "approximate_dp")


def is_shuffled(mechanism: Json) -> bool:
    """Whether it counts by epochs of shuffled batches."""
    return bool(mechanism.get("sampling") == "shuffle")


def rests_on_size(mechanism: Json) -> bool:
    """Whether its batches rest on a public number of units ("Derived datasets")."""
    return mechanism.get("sampling") in ("fixed_size", "shuffle") or any(map(rests_on_size, mechanism.get("parts", [])))


def is_additive(mechanism: Json) -> bool:
    """Whether it may end after any release or epoch ("Settling", by release); full batches have no amplification."""
    return mechanism["type"] in BY_RELEASE or mechanism["type"] == "dpsgd"


def planned(mechanism: Json) -> tuple[int, int] | None:
    """The steps or releases that count as all that were planned: a part of a step counts either way."""
    if mechanism["type"] in BY_RELEASE:
        steps = Fraction(mechanism.get("count", 1))
    elif "epochs" in mechanism and is_shuffled(mechanism):
        # With the partial batch of each epoch, or without.
        epochs = written(mechanism["epochs"])
        steps = epochs * mechanism["dataset_size"] / mechanism["batch_size"]
        fewest = min(math.ceil(epochs * epoch_steps(mechanism)), math.floor(steps))
        return fewest, math.ceil(epochs * long_epoch_steps(mechanism))
    elif "epochs" in mechanism:
        steps = written(mechanism["epochs"]) * mechanism["dataset_size"] / mechanism["batch_size"]
    elif "steps" in mechanism:
        steps = Fraction(mechanism["steps"])
    else:
        return None
    return math.floor(steps), math.ceil(steps)


def epoch_steps(mechanism: Json) -> int:
    """floor(1/q): an epoch can be as short as its whole batches."""
    if "sample_rate" in mechanism:
        return math.floor(1 / written(mechanism["sample_rate"]))
    return int(mechanism["dataset_size"] // mechanism["batch_size"])


def long_epoch_steps(mechanism: Json) -> int:
    """ceil(1/q): with the batch that is not whole."""
    if "sample_rate" in mechanism:
        return math.ceil(1 / written(mechanism["sample_rate"]))
    return -(-int(mechanism["dataset_size"]) // int(mechanism["batch_size"]))


def segment_epochs(mechanism: Json, segments: int) -> int:
    """Of epochs that were declared."""
    return -(-math.ceil(written(mechanism["epochs"])) // segments)


def segment_steps(mechanism: Json, segments: int) -> int:
    """ceil(T/k) steps; shuffle segments are whole epochs ("Segments")."""
    if segments > 1 and is_shuffled(mechanism) and "epochs" in mechanism:
        return segment_epochs(mechanism, segments) * long_epoch_steps(mechanism)
    steps = -(-(planned(mechanism) or (0, 0))[1] // segments)
    if segments > 1 and is_shuffled(mechanism):
        return -(-steps // epoch_steps(mechanism)) * epoch_steps(mechanism)
    return steps


def price(mechanism: Json, adjacency: str, steps: int | None = None) -> Price:
    """What so many steps or releases cost; all that are declared if `steps` is left out."""
    if mechanism["type"] == "composed":
        return functools.reduce(Price.__add__, (price(part, adjacency) for part in mechanism["parts"]))
    if mechanism["type"] == "gdp":
        return Price(written(mechanism["mu"]) ** 2, nats(mechanism.get("delta", 0)))
    count = steps if steps is not None else (planned(mechanism) or (1, 1))[1]
    if steps is None and is_shuffled(mechanism) and "epochs" in mechanism:
        count = segment_epochs(mechanism, 1) * epoch_steps(mechanism)  # as many epochs as were declared
    if mechanism["type"] in ("pure_dp", "approximate_dp"):
        return Price(pure_mu_sq(mechanism["epsilon"]), nats(mechanism.get("delta", 0))).times(count)
    return Price(_releases(mechanism, count) / written(mechanism["noise_multiplier"]) ** 2).times(
        4 if adjacency == "replace_one" and mechanism["type"] != "gaussian" else 1
    )


def _releases(mechanism: Json, steps: int) -> Fraction:
    """How many Gaussian releases of sensitivity 1 so many steps are, at most, for one unit."""
    if is_shuffled(mechanism):
        return Fraction(-(-steps // epoch_steps(mechanism)))
    if "sensitivity" in mechanism:
        return written(mechanism["sensitivity"]) ** 2
    if mechanism["type"] == "matrix_factorization":  # strategy "identity": each participation is a release of its own
        return Fraction(min(mechanism.get("participations", 1), -(-steps // mechanism.get("separation", 1))))
    return Fraction(steps)


def segmented(mechanism: Json, adjacency: str, segments: int) -> Price:
    """The cost of a run in k segments: that of k runs of one segment's steps."""
    return one_segment(mechanism, adjacency, segments).times(segments)


def one_segment(mechanism: Json, adjacency: str, segments: int) -> Price:
    """The cost of one of k segments."""
    if segments == 1:
        return price(mechanism, adjacency)
    if is_shuffled(mechanism) and "epochs" in mechanism:
        return price(mechanism, adjacency, segment_epochs(mechanism, segments) * epoch_steps(mechanism))
    return price(mechanism, adjacency, segment_steps(mechanism, segments))


# --- "Settling", and "Steps that were run again" ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bill:
    """What a settlement comes to. excess: of so many steps besides, of which so many were run again."""

    charged: Amount
    excess: Amount | None = None
    steps: int = 0
    repeated: int | None = 0


def repeated(restarts: list[Json] | None) -> int:
    """How many steps were run again."""
    return sum(restart["to_step"] - restart["from_step"] + 1 for restart in restarts or [])


def settled(run: Terms, steps: int, stop: str, restarts: list[Json] | None) -> Bill:
    """What is charged for so many steps of a run, repeated ones included."""
    mechanism, _, segments, approved = run
    is_by_step = mechanism["type"] in BY_RELEASE or mechanism.get("sampling") == "poisson"
    again = 0 if is_by_step else repeated(restarts)
    reached, fewest = steps - again, (planned(mechanism) or (0, 0))[0]
    charged = _within(run, max(reached, 1), stop) if reached < fewest and stop != "planned" else approved
    beyond = max(reached - steps_most(mechanism, segments), 0)
    if restarts is None and beyond and not is_by_step:
        return Bill(charged, _unstated(run, steps, beyond), beyond, None)
    excess = _beside(run, _beyond(mechanism, segments, beyond) + _again(mechanism, segments, restarts or []))
    return Bill(charged, None if excess == NOTHING else excess, beyond + again, again)


def steps_most(mechanism: Json, segments: int) -> int:
    """The most steps that are as planned: to the end of the last segment."""
    return segments * segment_steps(mechanism, segments)


def _within(run: Terms, steps: int, stop: str) -> Amount:
    """Fewer steps than planned: by release, by segment, or all; never more than was approved."""
    mechanism, adjacency, segments, approved = run
    if is_additive(mechanism):
        return _capped(price(mechanism, adjacency, steps).rounded(), approved)
    whole, rest = divmod(steps, segment_steps(mechanism, segments))
    if stop == "data_dependent":
        return approved.part(Fraction(whole + (rest > 0), segments))
    begun = approved.part(Fraction(whole, segments))
    return begun + _capped(price(mechanism, adjacency, rest).rounded(), approved.part(Fraction(1, segments)))


def _capped(cost: Amount, most: Amount) -> Amount:
    """One or the other, for both quantities."""
    return most if cost.exceeds(most) else cost


def _beside(run: Terms, count: int) -> Amount:
    """So many segments as approved, or epochs, or releases, beside what was planned."""
    mechanism, adjacency, segments, approved = run
    if mechanism["type"] == "matrix_factorization":
        return approved.part(Fraction(count, segments))
    return price(mechanism, adjacency, 1).times(count).rounded()


def _beyond(mechanism: Json, segments: int, steps: int) -> int:
    """The segments, epochs or releases of so many new steps beyond the plan."""
    length = segment_steps(mechanism, segments)
    if mechanism["type"] == "matrix_factorization":
        return -(-steps // length)
    if not is_shuffled(mechanism) or not steps:
        return steps
    epoch, plan = epoch_steps(mechanism), segments * length
    if "epochs" in mechanism:  # all that can have been touched, less what the plan was charged for
        return max(-(-(plan + steps) // epoch) - -(-plan // long_epoch_steps(mechanism)), -(-steps // epoch))
    return -(-steps // epoch) + (plan % epoch > 0)  # one more if the excess begins within one


def _again(mechanism: Json, segments: int, restarts: list[Json]) -> int:
    """The segments or epochs of repeated steps, beside the releases that these are anyway."""
    length, total, orders = segment_steps(mechanism, segments), 0, 1
    for restart in restarts:
        stretch, is_new = range(restart["from_step"] - 1, restart["to_step"]), restart["new_batches"]
        if mechanism["type"] == "matrix_factorization":
            touched = len({step // length for step in stretch}) or 1
            total += touched * (orders**2 * bool(stretch) + ((orders + 1) ** 2 - orders**2) * is_new)
            orders += is_new
        elif is_shuffled(mechanism):
            total += max(_epochs_of(mechanism, segments, stretch), is_new)
    return total


def _epochs_of(mechanism: Json, segments: int, steps: range) -> int:
    """The epochs that steps are in, by the longest and by the shortest; beyond the plan the last segment goes on, or
    there are more."""
    lengths = (epoch_steps(mechanism), long_epoch_steps(mechanism))
    if "epochs" in mechanism:
        return max(len({step // length for step in steps}) for length in lengths)
    size, most = segment_steps(mechanism, segments), 0
    for last in (segments - 1, math.inf):
        parts: dict[int, list[int]] = {}
        for step in steps:
            part = int(min(step // size, last))
            parts.setdefault(part, []).append(step - part * size)
        touched = [max(len({step // length for step in part}) for length in lengths) for part in parts.values()]
        most = max(most, sum(touched))
    return most


def _unstated(run: Terms, steps: int, beyond: int) -> Amount:
    """The worst of all that may have been where nobody said what was repeated: all steps but one, or some of those
    beyond the plan."""
    mechanism, _, segments, _ = run
    if mechanism["type"] == "matrix_factorization":  # 2² + 3² + … + steps² strategies, one for each repeated step
        return _beside(run, steps * (steps + 1) * (2 * steps + 1) // 6 - 1)
    length = segment_steps(mechanism, segments)
    new = (1, (beyond - 1) // length * length + 1, beyond)
    return _beside(run, max(steps - 1, *(_beyond(mechanism, segments, some) + beyond - some for some in new)))

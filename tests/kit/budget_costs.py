"""Costs and limits in integers, worked out once more from the written contract alone, in exact fractions."""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import mpmath

PICO, ATTO = 10**12, 10**18
INT64_MAX = 2**63 - 1
STEPPED = ("gaussian", "approximate_dp", "dpsgd", "matrix_factorization")
MARGIN = Fraction(1, 50)
"""How far a cost that is not rational stays away from the next integer, so that nobody's rounding error matters."""

Json = dict[str, Any]


class Amount(NamedTuple):
    """Units of 1e-12 of mu², and of 1e-18 of -log(1 - delta)."""

    mu: int
    delta: int

    def plus(self, other: Amount) -> Amount:
        return Amount(self.mu + other.mu, self.delta + other.delta)

    def minus(self, other: Amount) -> Amount:
        return Amount(self.mu - other.mu, self.delta - other.delta)

    def least(self, other: Amount) -> Amount:
        return Amount(min(self.mu, other.mu), min(self.delta, other.delta))

    def most(self, other: Amount) -> Amount:
        return Amount(max(self.mu, other.mu), max(self.delta, other.delta))

    def above(self, other: Amount) -> list[Quantity]:
        """The quantities in which it is more."""
        found: list[Quantity] = []
        if self.mu > other.mu:
            found.append("mu")
        if self.delta > other.delta:
            found.append("delta")
        return found


Quantity = Literal["mu", "delta"]
ZERO = Amount(0, 0)
MOST = Amount(INT64_MAX, INT64_MAX)


def fraction(number: float) -> Fraction:
    """The decimal that is written for a number."""
    return Fraction(str(number))


@functools.cache
def nats(delta: Fraction) -> Fraction:
    """-log(1 - delta), to 60 decimals."""
    if delta == 0:
        return Fraction(0)
    with mpmath.workdps(90):
        value = -mpmath.log(1 - mpmath.mpf(delta.numerator) / delta.denominator)
        return Fraction(int(mpmath.floor(value * mpmath.mpf(10) ** 60)), 10**60)


@functools.cache
def pure_mu_sq(epsilon: Fraction) -> Fraction:
    """(2 Phi^-1(1/(1+e^epsilon)))², to 60 decimals: 8 erfinv(tanh(epsilon/2))², as Phi^-1(p) = sqrt(2) erfinv(2p-1)."""
    with mpmath.workdps(90):
        root = mpmath.erfinv(mpmath.tanh(mpmath.mpf(epsilon.numerator) / epsilon.denominator / 2))
        return Fraction(int(mpmath.floor(8 * root**2 * mpmath.mpf(10) ** 60)), 10**60)


def charge(price: tuple[Fraction, Fraction]) -> Amount:
    """A cost in integers: up."""
    return Amount(math.ceil(price[0] * PICO), math.ceil(price[1] * ATTO))


def limit_of(budget: Json) -> Amount:
    """The limit of a budget in mu and delta: down."""
    delta = nats(fraction(budget.get("delta", 0)))
    return Amount(math.floor(fraction(budget["mu"]) ** 2 * PICO), math.floor(delta * ATTO))


def planned(mechanism: Json) -> Fraction | None:
    """The steps, or releases, that a mechanism declares."""
    if mechanism["type"] in ("gaussian", "approximate_dp"):
        return Fraction(mechanism.get("count", 1))
    if mechanism["type"] == "matrix_factorization":
        return Fraction(mechanism["steps"])
    if mechanism["type"] == "dpsgd":
        if "steps" in mechanism:
            return Fraction(mechanism["steps"])
        return fraction(mechanism["epochs"]) * Fraction(mechanism["dataset_size"], mechanism["batch_size"])
    return None


def per_epoch(mechanism: Json) -> int:
    """The least number of steps that an epoch has: floor(N/B)."""
    if "sample_rate" in mechanism:
        return math.floor(1 / fraction(mechanism["sample_rate"]))
    return int(mechanism["dataset_size"] // mechanism["batch_size"])


def longest_epoch(mechanism: Json) -> int:
    """The most steps that an epoch has: ceil(N/B)."""
    return -(-int(mechanism["dataset_size"]) // int(mechanism["batch_size"]))


def are_epochs_declared(mechanism: Json) -> bool:
    """Whether it says how many epochs of shuffled batches there are, and not how many steps."""
    return is_shuffled(mechanism) and "epochs" in mechanism


def planned_range(mechanism: Json) -> tuple[int, int] | None:
    """The steps that count as all that it declares."""
    steps = planned(mechanism)
    if steps is None or not are_epochs_declared(mechanism):
        return None if steps is None else (math.floor(steps), math.ceil(steps))
    epochs = fraction(mechanism["epochs"])
    return min(math.ceil(epochs * per_epoch(mechanism)), math.floor(steps)), math.ceil(
        epochs * longest_epoch(mechanism)
    )


def is_shuffled(mechanism: Json) -> bool:
    """Whether it is DP-SGD over shuffled batches, which counts by epochs."""
    return (mechanism["type"], mechanism.get("sampling")) == ("dpsgd", "shuffle")


def price(mechanism: Json, adjacency: str, steps: int | None = None) -> tuple[Fraction, Fraction]:
    """mu² and nats of so many steps of a mechanism; of all that it declares where they are left out."""
    declared = planned(mechanism)
    if steps is None and declared is not None:
        steps = math.ceil(declared)
        if are_epochs_declared(mechanism):
            steps = math.ceil(fraction(mechanism["epochs"])) * per_epoch(mechanism)
    count = Fraction(steps or 0)
    factor = 4 if adjacency == "replace_one" else 1
    noise = Fraction(1) if "noise_multiplier" not in mechanism else 1 / fraction(mechanism["noise_multiplier"]) ** 2
    match mechanism["type"]:
        case "gaussian":
            return count * noise, Fraction(0)
        case "approximate_dp":
            mu_sq = count * pure_mu_sq(fraction(mechanism["epsilon"]))
            if not MARGIN < mu_sq * PICO % 1 < 1 - MARGIN:
                raise ValueError("epsilon puts the cost too close to an integer")
            return mu_sq, count * nats(fraction(mechanism["delta"]))
        case "gdp":
            return fraction(mechanism["mu"]) ** 2, nats(fraction(mechanism.get("delta", 0)))
        case "dpsgd" if is_shuffled(mechanism):
            return factor * math.ceil(count / per_epoch(mechanism)) * noise, Fraction(0)
        case "dpsgd" if mechanism["sampling"] == "poisson" and mechanism.get("sample_rate") == 1:
            return factor * count * noise, Fraction(0)  # nothing is hidden by sampling: the fallback
        case "matrix_factorization" if mechanism["strategy"] == "identity":
            most = math.ceil(count / mechanism.get("separation", 1))
            return factor * min(most, mechanism.get("participations", 1)) * noise, Fraction(0)
        case "composed":
            parts = [price(part, adjacency) for part in mechanism["parts"]]
            return sum((part[0] for part in parts), Fraction(0)), sum((part[1] for part in parts), Fraction(0))
        case _:
            raise ValueError(f"the model has no exact cost of {mechanism}")

"""Small mechanisms whose privacy is known exactly, and what they cost beside what is left, by brute force.

A mechanism is a pair of distributions of its output, without and with one unit. Its losses ln(P/Q) are multiples of
`STEP`, so that any sequence of such mechanisms has its losses on the same lattice. It shares nothing with the product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Values = NDArray[np.floating[Any]]
STEP: Final = 0.1
"""Between neighbouring losses."""
EPSILONS: Final = STEP / 2 * np.arange(-260, 261)
"""Where a cost is held to what it must dominate."""
PICO: Final = 10**12
_TOLERANCE: Final = 1e-12
"""What a delta may be above what dominates it; a game is held to a hundred times as much."""


@dataclass(frozen=True)
class Pair:
    """The masses of P and Q at each loss, as a multiple of `STEP`; sure: what P has where Q has none; never: Q's."""

    losses: tuple[int, ...]
    p: tuple[float, ...]
    q: tuple[float, ...]
    sure: float = 0.0
    never: float = 0.0

    @property
    def swapped(self) -> Pair:
        """The same mechanism, with the unit and without it."""
        return Pair(tuple(-loss for loss in self.losses), self.q, self.p, self.never, self.sure)


def pair_of(masses: Mapping[int, float], *, sure: float = 0.0) -> Pair:
    """The pair with these masses of P at these losses; Q has what follows from them, and the rest where P has none."""
    losses = tuple(masses)
    p = tuple(masses[loss] * (1 - sure) for loss in losses)
    q = tuple(mass * math.exp(-loss * STEP) for loss, mass in zip(losses, p, strict=True))
    if abs(sum(p) + sure - 1) > 1e-9 or sum(q) > 1 + 1e-9:
        raise ValueError("the masses are no pair of distributions")
    return Pair(losses, p, q, sure, max(0.0, 1 - sum(q)))


def three_points(loss: int, rare: float, *, sure: float = 0.0) -> Pair:
    """Mostly it shows nothing; with probability `rare` it shows which of the two, as far as the loss goes."""
    other = rare * math.exp(-loss * STEP)
    return pair_of({loss: rare, 0: 1 - rare - other, -loss: other}, sure=sure)


def randomized_response(loss: int) -> Pair:
    """One bit, flipped so that its loss is this."""
    right = 1 / (1 + math.exp(-loss * STEP))
    return pair_of({loss: right, -loss: 1 - right})


def uneven(loss: int, rare: float) -> Pair:
    """With probability `rare` it shows that the unit is there, as far as the loss goes; otherwise hardly anything."""
    excess, down = rare * -math.expm1(-loss * STEP), -1
    while excess / math.expm1(-down * STEP) > 1 - rare:
        down -= 1
    low = excess / math.expm1(-down * STEP)
    return pair_of({loss: rare, down: low, 0: 1 - rare - low})


@cache
def gaussian(mu_sq: float) -> Pair:
    """Gaussian noise, rounded so that it is a little less private at each epsilon between those of the lattice."""
    most = math.ceil((mu_sq / 2 + 7 * math.sqrt(mu_sq)) / STEP)
    at = np.arange(0, most + 1)
    x, delta = np.exp(at * STEP), divergence(math.sqrt(mu_sq), at * STEP)
    behind = np.append((delta[:-1] - delta[1:]) / np.diff(x), 0.0)
    q = np.maximum(behind[:-1] - behind[1:], 0)
    p = q * x[1:]
    both = float(delta[-1])
    whole = (*q[::-1].tolist(), 1 - float(p.sum() + q.sum()) - both, *p.tolist())
    return Pair(tuple(range(-most, most + 1)), whole, whole[::-1], both, both)


def divergence(mu: float, epsilons: Values) -> Values:
    """The delta of Gaussian noise at each epsilon."""
    delta: Values
    if mu == 0:
        delta = np.maximum(0, 1 - np.exp(epsilons))
        return delta
    delta = ndtr(mu / 2 - epsilons / mu) - np.exp(epsilons) * ndtr(-mu / 2 - epsilons / mu)
    return delta


def promised(mu_sq: float, delta: float, epsilons: Values) -> Values:
    """The delta of "show everything with probability delta, and otherwise Gaussian noise"."""
    return delta + (1 - delta) * divergence(math.sqrt(mu_sq), epsilons)


def beside(pair: Pair, r: float) -> Values:
    """The delta of the mechanism together with Gaussian noise of mu² r, at each of `EPSILONS`."""
    total = np.full(EPSILONS.shape, pair.sure)
    for loss, mass in zip(pair.losses, pair.p, strict=True):
        total = total + mass * divergence(math.sqrt(r), EPSILONS - loss * STEP)
    return total


@cache
def cost(pair: Pair, r_pico: int, delta: float = 0.0) -> int:
    """What the mechanism costs beside r, in units of 1e-12: the least that dominates in both orders, rounded up."""
    r = r_pico / PICO
    true = [beside(one, r) for one in (pair, pair.swapped)]

    def dominates(amount: float) -> bool:
        bound = promised(r + amount, delta, EPSILONS) + _TOLERANCE
        return all(bool(np.all(curve <= bound)) for curve in true)

    low, high = 0.0, 1.0
    while not dominates(high):
        high *= 2
        if high > 1e4:
            raise ValueError("no Gaussian noise is as bad as this mechanism")
    while high - low > 1e-7 * high and high > 1e-10:
        middle = (low + high) / 2
        low, high = (low, middle) if dominates(middle) else (middle, high)
    return max(1, math.ceil(high * PICO * (1 + 1e-6)))


def executed(pair: Pair, after: Values, losses: Values) -> Values:
    """What somebody can tell who runs the mechanism first and then goes on: `after` is what it is worth at each loss so
    far, for a mass of one of Q."""
    reach = max(abs(loss) for loss in pair.losses)
    above = np.exp(losses[-1] + STEP * np.arange(1, reach + 1)) - 1
    wide = np.concatenate([np.zeros(reach), after, above])
    kernel = np.zeros(2 * reach + 1)
    kernel[[loss + reach for loss in pair.losses]] = pair.q
    worth: Values = np.convolve(wide, kernel[::-1], mode="valid") + pair.sure * np.exp(losses)
    return worth


def told_by_gaussian(mu_sq: float, losses: Values) -> Values:
    """What Gaussian noise is worth as the last thing, at each loss so far."""
    told: Values
    if mu_sq <= 0:
        told = np.maximum(np.exp(losses) - 1, 0)
        return told
    mu = math.sqrt(mu_sq)
    told = np.maximum(np.exp(losses) * ndtr(mu / 2 + losses / mu) - ndtr(-mu / 2 + losses / mu), 0)
    return told

"""What is known of batches without `ledger.accounting`: tiny datasets whose batches are listed one by one, and many
steps by dp-accounting.

    listed         a step's output under a dataset on the line: the probability and the sum of every batch
    divergences    the hockey-stick divergences of two such outputs, by quadrature
    Composed       many steps by dp-accounting's privacy loss distributions, from below and from above
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.privacy_accountant import NeighboringRelation
from numpy.typing import NDArray
from scipy import stats

FloatArray = NDArray[np.float64]
Output = dict[float, float]
"""The probability of each sum of gradients in a batch."""

_POINTS = 20_001
_ATOMS_MAX = 20_000
_ATOMS_OF_ALL = 60_000
_NEGLIGIBLE = 1e-30


# --- batches, one by one ---------------------------------------------------------------------------------------------


def listed(gradients: Sequence[float], batches: Iterator[tuple[tuple[int, ...], Fraction]]) -> Output:
    """The probability of each sum, of batches given by their members and probability."""
    sums: defaultdict[float, float] = defaultdict(float)
    for members, probability in batches:
        sums[round(sum(gradients[member] for member in members), 12)] += float(probability)
    assert math.isclose(sum(sums.values()), 1)
    return dict(sums)


def poisson(size: int, rate: Fraction, *, cap: int) -> Iterator[tuple[tuple[int, ...], Fraction]]:
    """Every Poisson sample, and of one that is larger than the cap every part of that size."""
    for count in range(size + 1):
        for sample in itertools.combinations(range(size), count):
            probability = rate**count * (1 - rate) ** (size - count)
            parts = [*itertools.combinations(sample, cap)] if count > cap else [sample]
            for part in parts:
                yield part, probability / len(parts)


def fixed_size(size: int, batch: int) -> Iterator[tuple[tuple[int, ...], Fraction]]:
    """Every batch of a size."""
    batches = [*itertools.combinations(range(size), batch)]
    for members in batches:
        yield members, Fraction(1, len(batches))


def divergences(p: Output, q: Output, *, noise: float, losses: Sequence[float]) -> list[float]:
    """The hockey-stick divergence of two outputs with Gaussian noise at e^loss, for each loss: by the midpoints."""
    ends = [*p, *q]
    low, high = min(ends) - 9 * noise, max(ends) + 9 * noise
    width = (high - low) / _POINTS
    z = low + width * (np.arange(_POINTS) + 0.5)

    def density(output: Output) -> FloatArray:
        found = np.zeros_like(z)
        for centre, probability in output.items():
            found += probability * np.exp(-(((z - centre) / noise) ** 2) / 2)
        return found / (noise * math.sqrt(2 * math.pi))

    one, other = density(p), density(q)
    return [float(np.maximum(one - math.exp(loss) * other, 0).sum() * width) for loss in losses]


# --- many steps, by dp-accounting ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Composed:
    """Equal steps. parts: (probability, the function that makes a distribution, its arguments) of what a step is.

    mu: about that of all steps; by it the widths of the grids are chosen. width_min: of a grid that is slow to make.
    """

    parts: list[tuple[float, Any, dict[str, Any]]]
    steps: int
    mu: float
    width_min: float = 0.0

    @cached_property
    def from_below(self) -> Any:
        """Losses rounded down. Half a cell is lost in each step, on average."""
        width = max(0.1 * self.mu / self.steps, self.mu * 16 / _ATOMS_OF_ALL, 1 / _ATOMS_MAX, self.width_min)
        return self._made(width, pessimistic_estimate=False, use_connect_dots=False)

    @cached_property
    def from_above(self) -> Any:
        """Losses put on a grid so that they dominate."""
        width = max(
            0.02 * self.mu / math.sqrt(self.steps), self.mu * 16 / _ATOMS_OF_ALL, 1 / _ATOMS_MAX, self.width_min
        )
        return self._made(width, pessimistic_estimate=True, use_connect_dots=True)

    def _made(self, width: float, **how: Any) -> Any:
        one = None
        total = 0.0
        for probability, make, arguments in self.parts:
            part = make(**arguments, value_discretization_interval=width, **how)
            total += probability
            one = part if one is None else part.compute_mixture(one, probability / total)
        assert one is not None
        return one if self.steps == 1 else one.self_compose(self.steps)

    def leaked_by_records(self, epsilons: FloatArray) -> FloatArray:
        """The same of records, forward, by a plain transform: dp-accounting's mixtures, rounded down, are no bound."""
        ((_, _, given),) = self.parts
        noise, counts, weights = given["standard_deviation"], given["sensitivities"], given["sampling_probs"]
        z, dz = np.linspace(-10, 10 + counts[-1] / noise, 400_001, retstep=True)
        p = sum(weight * stats.norm.pdf(z - count / noise) for count, weight in zip(counts, weights, strict=True))
        losses = np.log(p) - stats.norm.logpdf(z)
        width = max(0.02 * self.mu / self.steps, 1.01 * self.steps * float(np.ptp(losses)) / 2**20)
        index = np.floor(losses / width).astype(int)
        length = 2**20
        masses = np.bincount(index - index[0], weights=np.asarray(p) * dz)
        if masses.size > length:
            return np.zeros(epsilons.size)
        composed = np.fft.irfft(np.fft.rfft(masses, length) ** self.steps, length)
        # The window begins where the sum is next to never: what wraps around is left out.
        at = width * (np.arange(length) + self.steps * int(index[0]))
        if self.steps * masses.size > length:
            return np.zeros(epsilons.size)
        found = [float(np.maximum(composed, 0)[at > e] @ -np.expm1(e - at[at > e])) for e in epsilons]
        return np.asarray(found) * (1 - 1e-6) - 1e-12 * self.steps

    def leaked(self, epsilons: FloatArray) -> FloatArray:
        """Delta at these epsilons, from below, in the worse order."""
        found = np.asarray(self.from_below.get_delta_for_epsilon([*epsilons]))
        # 1e-15 of each distribution counts as infinite in both estimates, and transforms round.
        return found * (1 - 1e-9) - 4e-15 - 2e-15 * self.steps * len(self.parts)


def sampled(noise: float, rate: float, *, is_replaced: bool) -> tuple[Any, dict[str, Any]]:
    """A unit that is sampled or not."""
    relation = NeighboringRelation.REPLACE_ONE if is_replaced else NeighboringRelation.ADD_OR_REMOVE_ONE
    return pld.from_gaussian_mechanism, {
        "standard_deviation": noise,
        "sampling_prob": rate,
        "neighboring_relation": relation,
    }


def truncated(noise: float, rate: float, *, size: int, cap: int, is_replaced: bool) -> list[tuple[float, Any, Any]]:
    """A step whose batch is cut, with `size` units: as TruncatedSubsampledGaussianDpEvent of dp-accounting has it."""
    cut = float(stats.binom.sf(cap - 1, size - 1, rate))
    if cut < _NEGLIGIBLE:
        return [(1.0, *sampled(noise, rate, is_replaced=is_replaced))]
    within = min(float(stats.binom.sf(cap, size, rate)) * cap / size / cut, 1.0)
    parts = [(1 - cut, *sampled(noise, rate, is_replaced=is_replaced))] if cut < 1 else []
    return [*parts, (cut, *sampled(noise / 2, within, is_replaced=True))]


def records(noise: float, rate: float, most: int) -> list[tuple[float, Any, Any]]:
    """A user of whom each record is sampled by itself."""
    counts = [count for count in range(most + 1) if stats.binom.pmf(count, most, rate) > _NEGLIGIBLE]
    arguments = {
        "standard_deviation": noise,
        "sensitivities": [float(count) for count in counts],
        "sampling_probs": [float(stats.binom.pmf(count, most, rate)) for count in counts],
    }
    return [(1.0, pld.from_mixture_gaussian_mechanism, arguments)]

"""The least residual cost, from below, without `ledger.accounting`: by tests of P^T x N(0,1) against Q^T x N(sqrt r,1).

Each release's privacy loss is rounded to a lattice, sums of them are composed by FFT, P and Q each by themselves, and a
test says P where that sum and the loss of the Gaussian come to epsilon or more together. Whatever the lattice, and also
where sums wrap around, that is a test, and what it finds is a lower bound of the divergence at epsilon. What rounding
could have added is taken off.

A cost c is too low if the divergence is above d + (1-d) delta_sqrt(r+c)(epsilon): by bisection on c, at many epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft, special

from tests.accounting.oracle_curves import FloatArray, Step

LENGTH = 2**15
CELLS_PER_DEVIATION = 20
_DEVIATIONS = 40
_BISECTIONS = 40
_BLOCK_SHARE = 0.06


@dataclass(frozen=True)
class Laplace:
    """One release with Laplace noise; theta: sensitivity over scale."""

    theta: float

    def spread(self) -> float:
        """The standard deviation of the loss, about."""
        return min(self.theta, 2.0)

    def lattice(self, width: float) -> Lattice:
        """Atoms at both ends, and e^((l - theta)/2)/4 between them."""
        last = round(self.theta / width)
        edges = np.clip(width * (np.arange(-last, last) + 0.5), -self.theta, self.theta)
        ends = np.concatenate(([-self.theta], edges, [self.theta]))
        p = np.exp((ends[1:] - self.theta) / 2) * -np.expm1((ends[:-1] - ends[1:]) / 2) / 2
        q = p[::-1].copy()
        p[0], p[-1] = p[0] + math.exp(-self.theta) / 2, p[-1] + 0.5
        q[0], q[-1] = q[0] + 0.5, q[-1] + math.exp(-self.theta) / 2
        return Lattice(width, -last, p, q)


@dataclass(frozen=True)
class Answer:
    """One k-ary randomized response."""

    epsilon: float
    categories: int = 2

    def spread(self) -> float:
        """The standard deviation of the loss, about."""
        return self.epsilon

    def lattice(self, width: float) -> Lattice:
        """Three atoms."""
        other = 1 / (math.exp(self.epsilon) + self.categories - 1)
        last = max(round(self.epsilon / width), 1)
        p = np.zeros(2 * last + 1)
        p[0], p[last], p[-1] = other, (self.categories - 2) * other, math.exp(self.epsilon) * other
        return Lattice(width, -last, p, p[::-1].copy())


@dataclass(frozen=True)
class Sampled:
    """One step of subsampled DP-SGD. share: what its ends may have."""

    step: Step
    share: float

    def _points(self) -> tuple[FloatArray, FloatArray]:
        reach = float(-special.ndtri(self.share)) + self.step.d
        z = np.linspace(-reach, reach, 20_001)
        return z, self.step.losses(z)

    def spread(self) -> float:
        """The standard deviation of the loss, about."""
        z, losses = self._points()
        weights = np.exp(-z * z / 2)
        weights /= weights.sum()
        return float(math.sqrt((weights * (losses - (weights * losses).sum()) ** 2).sum()))

    def lattice(self, width: float) -> Lattice:
        """The probabilities of the cells, by the tails of the step."""
        z, losses = self._points()
        first, last = round(float(losses[0]) / width), round(float(losses[-1]) / width)
        edges = np.interp(width * (np.arange(first, last) + 0.5), losses, z)
        tails = self.step.tails(np.concatenate(([-np.inf], edges, [np.inf])))
        p = np.where(tails[2][1:] < 0.5, np.diff(tails[2]), -np.diff(tails[0]))
        q = np.where(tails[3][1:] < 0.5, np.diff(tails[3]), -np.diff(tails[1]))
        if self.step.kind != "symmetrised":
            return Lattice(width, first, p, q)
        # Losses above 0 of the removal pair, their mirror image, and the rest at 0, where P and Q are alike.
        positive = np.arange(first, last + 1) > 0
        p, q = p[positive], q[positive]
        rest = np.array([1 - p.sum() - q.sum()])
        return Lattice(width, -p.size, np.concatenate((q[::-1], rest, p)), np.concatenate((p[::-1], rest, q)))


Release = Laplace | Answer | Sampled


@dataclass(frozen=True)
class Lattice:
    """Losses rounded to multiples of `width`, from `first` on. p, q: their probabilities, of shape (n,)."""

    width: float
    first: float
    p: FloatArray
    q: FloatArray

    @property
    def values(self) -> FloatArray:
        """The rounded losses, of shape (n,)."""
        return self.width * (self.first + np.arange(self.p.size, dtype=np.float64))

    def reversed(self) -> Lattice:
        """The pair in the other order."""
        return Lattice(self.width, -(self.first + self.p.size - 1), self.q[::-1], self.p[::-1])

    def coarser(self, width: float) -> Lattice:
        """With neighbouring losses taken for their mean, as long as they are closer than this."""
        count = max(int(width / self.width), 1)
        pad = (0, -self.p.size % count)
        p, q = (np.pad(masses, pad).reshape(-1, count).sum(axis=1) for masses in (self.p, self.q))
        return Lattice(self.width * count, (self.first + (count - 1) / 2) / count, p, q)


@dataclass(frozen=True)
class Run:
    """Releases, each so many times, and Gaussian ones of mu² together."""

    releases: tuple[tuple[Release, int], ...]
    mu_sq: float = 0.0

    @property
    def count(self) -> int:
        """All releases that are not Gaussian."""
        return sum(count for _, count in self.releases)

    def lattice(self) -> Lattice:
        """All of them together."""
        spread = math.sqrt(sum(count * release.spread() ** 2 for release, count in self.releases))
        least = min(release.spread() for release, _ in self.releases)
        width = max(least / CELLS_PER_DEVIATION, spread * _DEVIATIONS / LENGTH)
        lattices = [(release.lattice(width), count) for release, count in self.releases]
        if self.count == 1:
            return lattices[0][0]
        spectra = [np.ones(LENGTH // 2 + 1, dtype=np.complex128) for _ in range(2)]
        for lattice, count in lattices:
            for order, masses in enumerate((lattice.p, lattice.q)):
                folded = np.zeros(LENGTH)
                np.add.at(folded, (round(lattice.first) + np.arange(masses.size)) % LENGTH, masses)
                spectra[order] *= fft.rfft(folded) ** count
        mean = sum(count * float(one.values @ (one.p + one.q)) / 2 for one, count in lattices) / width
        first = round(mean) - LENGTH // 2
        p, q = (np.roll(np.maximum(fft.irfft(spectrum, LENGTH), 0.0), -(first % LENGTH)) for spectrum in spectra)
        return Lattice(width, first, p, q)


def least_costs(run: Run, levels: Sequence[float], delta: float, *, points: int = 40) -> list[float]:
    """For each level a c that no valid one is below: the worst over many epsilon, in both orders."""
    lattice = run.lattice()
    kept = (lattice.p > 1e-18) | (lattice.q > 1e-18)
    low, high = int(np.argmax(kept)), kept.size - int(np.argmax(kept[::-1]))
    lattice = Lattice(lattice.width, lattice.first + low, lattice.p[low:high], lattice.q[low:high])
    rounding = 0.0 if run.count == 1 else 1e-16 * run.count
    orders = (lattice, lattice.reversed())
    return [max(_least(order, run.mu_sq, level, delta, points, rounding) for order in orders) for level in levels]


def _least(lattice: Lattice, mu_sq: float, level: float, delta: float, points: int, rounding: float) -> float:
    r = level + mu_sq
    square = float((lattice.q * lattice.values**2).sum())
    lattice = lattice.coarser(_BLOCK_SHARE * math.sqrt(min(r, square)))
    widest = math.sqrt(float((lattice.p * lattice.values**2).sum()) + r + r * r / 4)
    # As far as there is anything to be seen.
    ends = r / 2 + widest * np.array([4.0, 6.0, 8.0, 11.0, 15.0, 20.0, 30.0, 45.0])
    seen = _divergence(lattice, r, ends, rounding) > max(delta / 4, 1e-13)
    end = ends[min(int(seen.sum()), ends.size - 1)]
    epsilon = np.linspace(0.0, end, points)
    divergence = _divergence(lattice, r, epsilon, rounding)
    best = _asked(divergence, epsilon, level, delta)
    # Once more about where it binds.
    at = int(np.argmax(best))
    finer = np.linspace(epsilon[max(at - 1, 0)], epsilon[min(at + 1, points - 1)], 12)
    return float(max(best.max(), _asked(_divergence(lattice, r, finer, rounding), finer, level, delta).max()))


def _divergence(lattice: Lattice, r: float, epsilon: FloatArray, rounding: float) -> FloatArray:
    """What the test finds at each epsilon, less what rounding could have added."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        away = epsilon[:, np.newaxis] - lattice.values
        m = math.sqrt(r)
        p = special.ndtr(m / 2 - away / m) if r > 0 else (away <= 0).astype(float)
        q = special.ndtr(-m / 2 - away / m) if r > 0 else p
        return (
            p @ lattice.p - np.exp(epsilon) * (q @ lattice.q) * (1 + 1e-13) - 1e-15 - rounding * (1 + np.exp(epsilon))
        )


def _gaussian(m: FloatArray, epsilon: FloatArray) -> FloatArray:
    return special.ndtr(m / 2 - epsilon / m) - np.exp(epsilon + special.log_ndtr(-m / 2 - epsilon / m))


def _asked(divergence: FloatArray, epsilon: FloatArray, level: float, delta: float) -> FloatArray:
    """The least c at each epsilon, from below; 0 where any will do."""
    target = (divergence - delta) / (1 - delta)
    low, high = np.full(target.shape, -60.0), np.full(target.shape, 8.0)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        # Where two terms cancel the comparison is in favour of the cost.
        enough = _gaussian(np.sqrt(level + np.exp(middle)), epsilon) * (1 + 1e-12) + 1e-16 >= target
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(low > -59.0, np.exp(low), 0.0)

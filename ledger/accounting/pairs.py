"""The parts of a mechanism for exact composition: the dominating pairs of its releases, each on a grid.

DP-SGD has the pair of one step, in `pld`. The pairs here are those whose losses have atoms.

*Losses.* With theta = 1/noise_multiplier the Laplace loss has the density e^((l-theta)/2)/4 between -theta and theta
under P, and atoms of 1/2 and e^-theta/2 at its ends; that of randomised response has atoms alone, at +-epsilon. As in
`pld` both masses of a cell [l, l+h] are kept by splitting them on its ends, hi = (P - e^l Q)/(1 - e^-h), which here is
an expm1, so that nothing cancels. All these pairs equal their reverse.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

from ledger.accounting import closed_forms
from ledger.accounting.gdp import UNIT_ROUNDOFF
from ledger.accounting.numeric import FloatArray, np, special
from ledger.accounting.pld import Losses


class Source(Protocol):
    """A dominating pair of one release or step. Equal ones are composed together, so it can be hashed."""

    @property
    def is_one_sided(self) -> bool:
        """Return whether it differs from its reverse."""

    def on_grid(self, width: float, share: float) -> Losses:
        """Return its privacy loss distribution on the multiples of `width`. share: of its mass that may be left out."""

    def spread(self, share: float) -> tuple[float, float]:
        """Return the approximate variance of its loss, and the range: a width is chosen by them."""

    @property
    def mu(self) -> float:
        """Return the mu that it costs alone, from above."""

    def __hash__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class LaplaceNoise:
    """One release with Laplace noise; theta: sensitivity over scale."""

    theta: float

    @property
    def is_one_sided(self) -> bool:
        return False

    def on_grid(self, width: float, share: float) -> Losses:
        return _laplace(self.theta, width)

    @property
    def mu(self) -> float:
        return float(closed_forms.mu_laplace(theta=self.theta)) * (1 + 2 * closed_forms.RELATIVE_ERROR)

    def spread(self, share: float) -> tuple[float, float]:
        return spread_on_grid(self, self.theta)


@dataclass(frozen=True, slots=True)
class Response:
    """One release of an epsilon-DP mechanism: randomised response dominates it."""

    epsilon: float

    @property
    def is_one_sided(self) -> bool:
        return False

    def on_grid(self, width: float, share: float) -> Losses:
        large, small = special.expit(self.epsilon), special.expit(-self.epsilon)
        return atoms_on_grid([(self.epsilon, float(large)), (-self.epsilon, float(small))], width)

    @property
    def mu(self) -> float:
        return float(closed_forms.mu_pure_dp(epsilon=self.epsilon)) * (1 + 2 * closed_forms.RELATIVE_ERROR)

    def spread(self, share: float) -> tuple[float, float]:
        return spread_on_grid(self, self.epsilon)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of some mechanisms together.

    mu_sq: of all Gaussian parts. nats: -log(1 - delta) of the parts that reveal everything with probability delta.
    sources: the other pairs, and how often each occurs. envelopes: the types of mechanisms that are in mu_sq and nats
    only as an upper bound. is_bound: false if a part is only an estimate, and so the whole.
    """

    mu_sq: Fraction = Fraction(0)
    nats: Fraction = Fraction(0)
    sources: Counter[Source] = field(default_factory=Counter)
    envelopes: frozenset[str] = frozenset()
    is_bound: bool = True

    def times(self, count: int) -> Parts:
        """Return the parts of `count` of them."""
        sources = Counter({source: count * number for source, number in self.sources.items()})
        return Parts(count * self.mu_sq, count * self.nats, sources, self.envelopes, self.is_bound)


def together(all_parts: Iterable[Parts]) -> Parts:
    """Return the parts of several mechanisms together."""
    mu_sq, nats, sources, envelopes, is_bound = Fraction(0), Fraction(0), Counter[Source](), frozenset[str](), True
    for part in all_parts:
        mu_sq, nats = mu_sq + part.mu_sq, nats + part.nats
        sources.update(part.sources)
        envelopes |= part.envelopes
        is_bound = is_bound and part.is_bound
    return Parts(mu_sq, nats, sources, envelopes, is_bound)


# --- grids -----------------------------------------------------------------------------------------------------------


def _blank(extreme: float, width: float) -> tuple[int, FloatArray, float]:
    """Return a grid from beyond -extreme to beyond extreme: its first index, its masses, and their relative error."""
    last = math.ceil(extreme / width) + 1
    return -last, np.zeros(2 * last + 1), (128 + 8 * (extreme + 2 * width)) * UNIT_ROUNDOFF


def _put(masses: FloatArray, first: int, width: float, atom: tuple[float, float]) -> None:
    """Split an atom (loss, mass under P) on the two points beside it, with the same masses under P and Q."""
    loss, mass = atom
    below = math.floor(loss / width)
    share = min(max(math.expm1(below * width - loss) / math.expm1(-width), 0.0), 1.0)
    masses[below - first] += mass * (1 - share)
    masses[below - first + 1] += mass * share


def atoms_on_grid(atoms: Sequence[tuple[float, float]], width: float) -> Losses:
    """Return the distribution of a loss with these atoms (loss, mass under P), on the multiples of `width`."""
    first, masses, error = _blank(max(abs(loss) for loss, _ in atoms), width)
    for atom in atoms:
        _put(masses, first, width, atom)
    # A split's share cancels if an atom is close to a grid point: it is then that of an atom moved by a rounding.
    return Losses(width, first, masses, (0.0, 0.0), error)


def _laplace(theta: float, width: float) -> Losses:
    first, masses, error = _blank(theta, width)
    grid = width * np.arange(first, first + masses.size, dtype=np.float64)
    low, high = np.clip(grid[:-1], -theta, theta), np.clip(grid[1:], -theta, theta)
    # P = e^((b-theta)/2) (1-x)/2 and P - e^l Q = -P expm1(l - (a+b)/2), with a, b the cell's ends and x = e^((a-b)/2).
    total = -np.exp((high - theta) / 2) * np.expm1((low - high) / 2) / 2
    upper = np.clip(total * np.expm1(grid[:-1] - (low + high) / 2) / math.expm1(-width), 0.0, total)
    masses[:-1] += total - upper
    masses[1:] += upper
    _put(masses, first, width, (theta, 0.5))
    _put(masses, first, width, (-theta, math.exp(-theta) / 2))
    return Losses(width, first, masses, (0.0, 0.0), error)


def spread_on_grid(source: Source, extreme: float) -> tuple[float, float]:
    """Return the spread of a loss between -extreme and extreme, from a grid of it."""
    grid = source.on_grid(extreme / 64, 0.0)
    mean = float(grid.masses @ grid.values)
    return float(grid.masses @ grid.values**2) - mean**2, float(np.ptp(grid.values))

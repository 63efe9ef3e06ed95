"""The composition of runs by the best non-adaptive accounting: for information, never for a decision.

The ledger decides by a filter, adding up mu² and -log(1 - delta), because a run can be chosen by the outputs of earlier
ones. For runs that were all fixed in advance more is known: their dominating pairs can be composed exactly, and epsilon
read off that curve. Deciding on it would be invalid (docs/explanation/accounting.md, "Tempting, and wrong"). The result
is still an upper bound, computed like the certificates: `pld` puts losses on a grid so that they dominate,
`composition` composes them with every error bounded, and epsilon is read off the bounds.

Each mechanism's module has its parts (`exact_parts`), in the terms of `pairs`: G_mu itself, whose squares add up in
fractions; the pair of one step or release; or, if no pair is known, the charge itself, its envelope.

*Reading epsilon off.* With S_i = P(L >= l_i) and A_i = Q(L >= l_i) the hockey-stick divergence is S_i - e^eps A_i for
eps between l_(i-1) and l_i. An upper bound of S_i and a lower one of A_i make an upper bound of that, so that every eps
in the interval at which it falls to the target is enough. The least over i is taken, and the larger of the two orders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ledger.accounting import composition, deadline, gdp
from ledger.accounting.composition import Part, Tilt, Vertices
from ledger.accounting.cost import root
from ledger.accounting.gdp import UNIT_ROUNDOFF
from ledger.accounting.numeric import FloatArray, np
from ledger.accounting.pairs import Parts, Source
from ledger.accounting.pld import Subsampled

SOURCES_MAX: Final = 64
"""The most different mechanisms in one composition; each needs a transform of its own."""
COUNT_MAX: Final = 10**10
"""The most steps and releases in one composition: beyond, only rounding would be left."""
MU_MAX: Final = 28
"""The largest mu of the Gaussian part: beyond, tails would be below the least double, as in `certify`."""

_CELLS_PER_DEVIATION: Final = 12
_CELLS_OF_TOTAL: Final = 2000
"""Cells for each deviation of one step's loss, and of the total loss: whichever cells are smaller."""
_ATOMS_MAX: Final = 2**18
_LENGTH_MAX: Final = 2**21
_OUTSIDE_LOG: Final = 32.0
"""The mass that wraps around is e^-32 of the tilted mass; rounding leaves about e^-33."""
_MISSING_SHARE: Final = 2.0**-12
_SAMPLES: Final = 4096
_DOUBLINGS: Final = 40
_BISECTIONS: Final = 64


# --- epsilon ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Composition:
    """The epsilon of a composition at each requested delta, rounded up.

    epsilons: None if none is resolved, infinity if there is none. method: `gaussian`, in closed form; `composed`; or
    `too-large` if it was not computed.
    """

    epsilons: tuple[float | None, ...]
    method: Literal["gaussian", "composed", "too-large"]


def epsilons(parts: Parts, at_deltas: Sequence[float]) -> Composition:
    """Return an upper bound of the least epsilon at each delta in (0, 1), for runs that were fixed in advance."""
    mu = root(parts.mu_sq) * (1 + 4 * UNIT_ROUNDOFF)
    nats = float(parts.nats) * (1 + 4 * UNIT_ROUNDOFF)
    shown = -math.expm1(-nats) * (1 + 16 * UNIT_ROUNDOFF)
    if not parts.sources:
        upper = [float(gdp.epsilon_upper(mu=mu, delta=min(shown, 1 - 2**-53), at_delta=at)) for at in at_deltas]
        return Composition(tuple(upper), "gaussian")
    if len(parts.sources) > SOURCES_MAX or parts.sources.total() > COUNT_MAX:
        return Composition((None,) * len(at_deltas), "too-large")
    sources = dict(parts.sources)
    if mu > 0:
        sources[Subsampled("removal", mu, 1.0)] = 1
    return Composition(tuple(_epsilon(sources, at, shown, mu) for at in at_deltas), "composed")


def _epsilon(sources: dict[Source, int], at_delta: float, shown: float, mu: float) -> float | None:
    # (f_{0,shown} (x) f) has the curve shown + (1 - shown) H, so that H may be this much, rounded down.
    target = (at_delta - shown) / (1 - shown) * (1 - 8 * UNIT_ROUNDOFF)
    if target <= 0:
        return math.inf
    if mu > MU_MAX:
        return None
    orders = (False, True) if any(source.is_one_sided for source in sources) else (False,)
    epsilons = [_one_order(sources, target, is_reversed=order) for order in orders]
    return None if any(value is None for value in epsilons) else max(value for value in epsilons if value is not None)


def _one_order(sources: dict[Source, int], target: float, *, is_reversed: bool) -> float | None:
    """Return epsilon for the pairs in one order; None if it does not resolve."""
    share = max(target * _MISSING_SHARE / (2 * sum(sources.values())), 1e-290)
    width = _width(sources, share)
    for _ in range(2):
        deadline.check()
        grids = [(source.on_grid(width, share), count) for source, count in sources.items()]
        parts = [Part(grid.reversed() if is_reversed else grid, count) for grid, count in grids]
        tilt = _tilt(parts, target, _Rough(parts))
        length = (tilt.window[1] - tilt.window[0]) / width
        if length <= _LENGTH_MAX:
            break
        width *= 1.1 * length / _LENGTH_MAX
    else:
        return None
    bounds = composition.vertices(parts, tilt)
    if bounds is composition.unresolved():
        return None
    first = math.ceil(tilt.serves[0] / width)
    return _read_off(bounds, width * np.arange(first, first + bounds.tail.size, dtype=np.float64), target)


def _read_off(bounds: Vertices, losses: FloatArray, target: float) -> float | None:
    """Return the least epsilon at which the hockey-stick divergence is within the target. losses: of shape (n,)."""
    tail = bounds.tail * (1 + 8 * UNIT_ROUNDOFF)
    other = bounds.other * (1 - 8 * UNIT_ROUNDOFF)
    with np.errstate(over="ignore", invalid="ignore"):
        divergence = tail - np.exp(losses) * (1 - (4 + 2 * losses) * UNIT_ROUNDOFF) * other
    within = np.flatnonzero(divergence <= target)
    if not within.size:
        return None
    index = int(within[0])
    loss = float(losses[index])
    if index == 0 or other[index] <= 0 or tail[index] <= target:
        return loss if index or loss > 0 else 0.0
    # The divergence is linear in e^eps between grid points.
    between = math.log((float(tail[index]) - target) / float(other[index]))
    between += (16 + 4 * abs(between)) * UNIT_ROUNDOFF
    return min(max(between, float(losses[index - 1])), loss)


# --- grids -----------------------------------------------------------------------------------------------------------


def _width(sources: dict[Source, int], share: float) -> float:
    """Return the width of a cell: splitting adds a variance of about its square over six for each step."""
    spreads = [(*source.spread(share), count) for source, count in sources.items()]
    total = math.sqrt(sum(variance * count for variance, _, count in spreads))
    steps = math.sqrt(sum(sources.values()))
    width = total / max(_CELLS_PER_DEVIATION * steps, _CELLS_OF_TOTAL)
    return max(width, max(extent for _, extent, _ in spreads) / _ATOMS_MAX)


class _Rough:
    """The approximate logarithm of the moment generating function of the loss of all steps, to make plans with."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = []
        for part in parts:
            masses, values = part.losses.masses, part.losses.values
            block = -(-masses.size // _SAMPLES)
            starts = np.arange(0, masses.size, block)
            sums = np.add.reduceat(masses, starts)
            kept = sums > 0
            means = np.add.reduceat(masses * values, starts)[kept] / sums[kept]
            self._parts.append((part.steps, np.log(sums[kept]), means))

    def at(self, exponent: float) -> tuple[float, float, float]:
        """Return log M, and the mean and variance of the tilted loss."""
        sums = np.zeros(3)
        for count, logarithms, values in self._parts:
            terms = logarithms + exponent * values
            shift = terms.max()
            tilted = np.exp(terms - shift)
            total = tilted.sum()
            mean = tilted @ values / total
            sums += count * np.array([shift + math.log(total), mean, max(tilted @ values**2 / total - mean**2, 0.0)])
        return float(sums[0]), float(sums[1]), float(sums[2])


def _tilt(parts: Sequence[Part], target: float, rough: _Rough) -> Tilt:
    """Return the tilt at whose mean the tail falls to about the target, and a window that holds its mass."""
    width = parts[0].losses.width
    exponent = _exponent(rough, target, width)
    log_moment, mean, variance = rough.at(exponent)
    deviation = max(math.sqrt(variance), width)
    beside = np.geomspace(0.05, 60.0, 36) / deviation
    highs = [(rough.at(exponent + step)[0] - log_moment + _OUTSIDE_LOG) / step for step in beside]
    lows = [-(rough.at(exponent - step)[0] - log_moment + _OUTSIDE_LOG) / step for step in beside]
    up, down = int(np.argmin(highs)), int(np.argmax(lows))
    high = max(highs[up], mean + 2 * deviation)
    low = min(lows[down], mean - 2 * deviation)
    return Tilt(exponent, (low, high), (max(low, 0.0), high), (float(beside[down]), float(beside[up])))


def _exponent(rough: _Rough, target: float, width: float) -> float:
    """Return the exponent at which the tail at the tilted mean falls to about the target.

    The logarithm of that tail is about log M(a) - a K'(a).
    If most of the mass is at the largest loss, it is the largest with which the tilted mass still covers a few cells.
    """
    goal = math.log(target)
    low, high = 0.0, 1 / math.sqrt(max(rough.at(0.0)[2], width**2))
    for _ in range(_DOUBLINGS):
        deadline.check()
        log_moment, mean, variance = rough.at(high)
        if log_moment - high * mean <= goal or variance < (4 * width) ** 2:
            break
        high *= 2
    for _ in range(_BISECTIONS):
        deadline.check()
        if high - low <= 1e-3 * high:
            break
        middle = (low + high) / 2
        log_moment, mean, variance = rough.at(middle)
        is_beyond = log_moment - middle * mean <= goal or variance < (4 * width) ** 2
        low, high = (low, middle) if is_beyond else (middle, high)
    return high

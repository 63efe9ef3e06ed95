"""What runs amount to together at the best non-adaptive accounting: for information, and never for a decision.

The ledger decides by a filter, adding up mu² and -log(1 - delta), because runs may be chosen by what earlier ones
showed. For runs that were all fixed beforehand more is known: their dominating pairs can be composed exactly, and
epsilon read off that curve. Deciding on it would be invalid (docs/accounting.md, "Tempting, and wrong"). What stands
here is an upper bound all the same, by the means of the certificates: `pld` puts losses on a grid so that they
dominate, `composition` composes them with every error bounded, and epsilon is read off the bounds.

The dominating pair of each mechanism (`parts_of`):

    gaussian, shuffled batches, correlated noise, no amplification   G_mu itself: their squares add up, in fractions
    dpsgd, poisson or fixed_size                                     the pair of one step, as in `pld`
    laplace                                                          Lap(0,1) against Lap(theta,1)
    pure_dp                                                          randomised response (Kairouz, Oh & Viswanath 2015)
    approximate_dp                                                   the same, and its delta apart: f_{eps,delta} is
                                                                     f_{0,delta} (x) f_{eps,0} (Dong, Roth & Su 2022)
    zcdp, gdp                                                        none is known but what was charged: its envelope

*Losses of these two.* With theta = 1/noise_multiplier the Laplace loss has the density e^((l-theta)/2)/4 between -theta
and theta under P, and atoms of 1/2 and e^-theta/2 at its ends; that of randomised response has atoms alone, at
+-epsilon. As in `pld` both masses of a cell [l, l+h] are kept by splitting them on its ends, hi = (P - e^l Q)/(1 -
e^-h), which here is an expm1 and nothing cancels. Both mechanisms are the same seen from either side.

*Reading epsilon off.* With S_i = P(L >= l_i) and A_i = Q(L >= l_i) the hockey-stick divergence is S_i - e^eps A_i for
eps between l_(i-1) and l_i. An upper bound of S_i and a lower one of A_i make an upper bound of that, so that every eps
in the interval at which it falls to the target is enough; the least over i is taken, and the larger of the two orders.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, Literal, assert_never

import numpy as np
from scipy import special

from ledger.accounting import amounts, certify, composition, costs, gdp
from ledger.accounting.composition import Part, Tilt, Vertices
from ledger.accounting.gdp import UNIT_ROUNDOFF, FloatArray
from ledger.accounting.mechanisms import (
    AnyMechanism,
    ApproximateDp,
    Composed,
    DpSgd,
    Gaussian,
    Gdp,
    Laplace,
    MatrixFactorization,
    PureDp,
    ZCdp,
)
from ledger.accounting.pld import Losses, Pair, on_grid
from ledger.core.datasets import Adjacency, Bound

SOURCES_MAX: Final = 64
"""Different mechanisms in one composition; each takes a transform of its own."""
COUNT_MAX: Final = 10**10
"""Steps and releases in one composition: beyond, rounding would be all that is left."""
MU_MAX: Final = 28
"""Of the Gaussian part: beyond, tails would be below the least double, as in `certify`."""

_CELLS_PER_DEVIATION: Final = 12
_CELLS_OF_TOTAL: Final = 2000
"""Cells to a deviation of one step's loss, and of the loss of all: whichever are smaller."""
_ATOMS_MAX: Final = 2**18
_LENGTH_MAX: Final = 2**21
_OUTSIDE_LOG: Final = 32.0
"""What wraps around is e^-32 of the tilted mass, where rounding leaves e^-33 or so."""
_MISSING_SHARE: Final = 2.0**-12
_SAMPLES: Final = 4096
_DOUBLINGS: Final = 40


# --- what mechanisms are made of -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LaplaceNoise:
    """One release with Laplace noise; theta: sensitivity over scale."""

    theta: float


@dataclass(frozen=True, slots=True)
class Response:
    """One release of an epsilon-DP mechanism: randomised response dominates it."""

    epsilon: float


Source = Pair | LaplaceNoise | Response


@dataclass(frozen=True, slots=True)
class Parts:
    """What some mechanisms together are made of.

    mu_sq: of all that is Gaussian. nats: -log(1 - delta) of what shows everything with probability delta. sources: the
    other pairs, and how often each. envelopes: the types of mechanisms that are in mu_sq and nats only as an upper
    bound. is_bound: false where a part is only an estimate, so that the whole is no more.
    """

    mu_sq: Fraction = Fraction(0)
    nats: Fraction = Fraction(0)
    sources: Counter[Source] = field(default_factory=Counter)
    envelopes: frozenset[str] = frozenset()
    is_bound: bool = True

    def times(self, count: int) -> Parts:
        """So many of it."""
        sources = Counter({source: count * number for source, number in self.sources.items()})
        return Parts(count * self.mu_sq, count * self.nats, sources, self.envelopes, self.is_bound)


def together(all_parts: Iterable[Parts]) -> Parts:
    """Several of them at once."""
    mu_sq, nats, sources, envelopes, is_bound = Fraction(0), Fraction(0), Counter[Source](), frozenset[str](), True
    for part in all_parts:
        mu_sq, nats = mu_sq + part.mu_sq, nats + part.nats
        sources.update(part.sources)
        envelopes |= part.envelopes
        is_bound = is_bound and part.is_bound
    return Parts(mu_sq, nats, sources, envelopes, is_bound)


def parts_of(mechanism: AnyMechanism, *, bound: Bound, adjacency: Adjacency) -> Parts:
    """What a mechanism is made of. Numbers are read as the doubles that cost no less.

    bound: only matters where no pair is known, which `certified` refuses and `clt` estimates. Raises as `costs.cost`.
    """
    match mechanism:
        case DpSgd():
            return _dpsgd(mechanism, bound=bound, adjacency=adjacency)
        case Gaussian() | MatrixFactorization():
            return Parts(costs.cost(mechanism, bound="certified", adjacency=adjacency).mu_sq)
        case Laplace():
            noise = LaplaceNoise(certify.at_least(1 / Fraction(mechanism.noise_multiplier)))
            return Parts(sources=Counter({noise: mechanism.count}))
        case PureDp():
            return Parts(sources=Counter({Response(certify.at_least(Fraction(mechanism.epsilon))): mechanism.count}))
        case ApproximateDp():
            shown = mechanism.count * amounts.nats(Fraction(mechanism.delta), towards="up")
            response = Response(certify.at_least(Fraction(mechanism.epsilon)))
            return Parts(nats=shown, sources=Counter({response: mechanism.count}))
        case ZCdp() | Gdp():
            found = costs.cost(mechanism, bound="certified", adjacency=adjacency)
            return Parts(found.mu_sq, found.nats, envelopes=frozenset({mechanism.type}))
        case Composed():
            return together(parts_of(part, bound=bound, adjacency=adjacency) for part in mechanism.parts)
        case _:
            assert_never(mechanism)


def _dpsgd(mechanism: DpSgd, *, bound: Bound, adjacency: Adjacency) -> Parts:
    if mechanism.sampling == "shuffle":
        return Parts(costs.cost(mechanism, bound=bound, adjacency=adjacency).mu_sq)
    if mechanism.sampling == "fixed_size" and adjacency == "add_or_remove_one":
        # No pair is known; `certified` says so, and what `clt` says is an estimate.
        estimate = costs.cost(mechanism, bound=bound, adjacency=adjacency)
        return Parts(estimate.mu_sq, envelopes=frozenset({mechanism.type}), is_bound=False)
    noise, rate = certify.at_most(Fraction(mechanism.noise_multiplier)), certify.at_least(mechanism.rate)
    if rate >= 1 or noise < certify.NOISE_MULTIPLIER_MIN:
        return Parts(costs.fallback(mechanism, adjacency=adjacency).mu_sq)
    pair = certify.pair_for(
        noise_multiplier=noise,
        sample_rate=rate,
        adjacency=adjacency,
        sampling="poisson" if mechanism.sampling == "poisson" else "fixed_size",
    )
    return Parts(sources=Counter({pair: math.ceil(mechanism.exact_steps)}))


# --- epsilon ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Composition:
    """Epsilon of a composition at each delta that was asked for, from above; None where none is resolved, infinity
    where there is none. method: `gaussian`, in closed form, or `composed`; `too-large` where it was not worked out."""

    epsilons: tuple[float | None, ...]
    method: Literal["gaussian", "composed", "too-large"]


def epsilons(parts: Parts, at_deltas: Sequence[float]) -> Composition:
    """The least epsilon at each of these deltas, each in (0, 1), from above: for runs that were fixed beforehand."""
    mu = costs.root(parts.mu_sq) * (1 + 4 * UNIT_ROUNDOFF)
    nats = float(parts.nats) * (1 + 4 * UNIT_ROUNDOFF)
    shown = -math.expm1(-nats) * (1 + 16 * UNIT_ROUNDOFF)
    if not parts.sources:
        found = [float(gdp.epsilon_upper(mu=mu, delta=min(shown, 1 - 2**-53), at_delta=at)) for at in at_deltas]
        return Composition(tuple(found), "gaussian")
    if len(parts.sources) > SOURCES_MAX or parts.sources.total() > COUNT_MAX:
        return Composition((None,) * len(at_deltas), "too-large")
    sources = dict(parts.sources)
    if mu > 0:
        sources[_Normal("removal", mu, 1.0)] = 1
    return Composition(tuple(_epsilon(sources, at, shown, mu) for at in at_deltas), "composed")


def _epsilon(sources: dict[Source, int], at_delta: float, shown: float, mu: float) -> float | None:
    # (f_{0,shown} (x) f) has the curve shown + (1 - shown) H, so that H may be this much, rounded down.
    target = (at_delta - shown) / (1 - shown) * (1 - 8 * UNIT_ROUNDOFF)
    if target <= 0:
        return math.inf
    if mu > MU_MAX:
        return None
    is_one_sided = any(isinstance(source, Pair) and source.kind == "removal" and source.rate < 1 for source in sources)
    found = [_one_order(sources, target, is_reversed=order) for order in ((False, True) if is_one_sided else (False,))]
    return None if any(value is None for value in found) else max(value for value in found if value is not None)


def _one_order(sources: dict[Source, int], target: float, *, is_reversed: bool) -> float | None:
    """Epsilon for the pairs in one order. None where nothing resolves."""
    share = max(target * _MISSING_SHARE / (2 * sum(sources.values())), 1e-290)
    width = _width(sources, share)
    for _ in range(2):
        grids = [(_losses(source, width, share), count) for source, count in sources.items()]
        parts = [Part(grid.reversed() if is_reversed else grid, count) for grid, count in grids]
        tilt = _tilt(parts, target, _Rough(parts))
        length = (tilt.window[1] - tilt.window[0]) / width
        if length <= _LENGTH_MAX:
            break
        width *= 1.1 * length / _LENGTH_MAX
    else:
        return None
    bounds = composition.vertices(parts, tilt)
    if bounds is composition.UNRESOLVED:
        return None
    first = math.ceil(tilt.serves[0] / width)
    return _read_off(bounds, width * np.arange(first, first + bounds.tail.size, dtype=np.float64), target)


def _read_off(bounds: Vertices, losses: FloatArray, target: float) -> float | None:
    """The least epsilon at which the hockey-stick divergence is within the target. losses: of shape (n,)."""
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


class _Normal(Pair):
    """G_mu as a pair of `pld`: N(d,1) against N(0,1), nothing sampled."""

    __slots__ = ()

    def densities(self, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        scale = 1 / math.sqrt(2 * math.pi)
        return np.exp(-((z - self.distance) ** 2) / 2) * scale, np.exp(-z * z / 2) * scale

    def losses(self, z: FloatArray) -> FloatArray:
        return self.distance * (z - self.distance / 2)

    def points(self, losses: FloatArray) -> FloatArray:
        return losses / self.distance + self.distance / 2

    def _above(self, z: float) -> float:
        return float(special.ndtr(self.distance - z)) * (1 + 2**-20)


def _losses(source: Source, width: float, share: float) -> Losses:
    """A source's privacy loss distribution on the multiples of `width`."""
    match source:
        case Pair():
            return on_grid(source, width=width, span=source.span(share))
        case LaplaceNoise():
            return _laplace(source.theta, width)
        case Response():
            large, small = special.expit(source.epsilon), special.expit(-source.epsilon)
            return _atoms([(source.epsilon, float(large)), (-source.epsilon, float(small))], width)
        case _:
            assert_never(source)


def _blank(extreme: float, width: float) -> tuple[int, FloatArray, float]:
    """A grid from beyond -extreme to beyond extreme: its first index, its masses, and what they are off by."""
    last = math.ceil(extreme / width) + 1
    return -last, np.zeros(2 * last + 1), (128 + 8 * (extreme + 2 * width)) * UNIT_ROUNDOFF


def _put(masses: FloatArray, first: int, width: float, atom: tuple[float, float]) -> None:
    """Splits an atom (loss, mass under P) on the two points beside it, so that P and Q keep theirs."""
    loss, mass = atom
    below = math.floor(loss / width)
    share = min(max(math.expm1(below * width - loss) / math.expm1(-width), 0.0), 1.0)
    masses[below - first] += mass * (1 - share)
    masses[below - first + 1] += mass * share


def _atoms(atoms: Sequence[tuple[float, float]], width: float) -> Losses:
    first, masses, error = _blank(max(abs(loss) for loss, _ in atoms), width)
    for atom in atoms:
        _put(masses, first, width, atom)
    # A split's share cancels where an atom is beside a grid point: it is then that of an atom moved by a rounding.
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


def _spread(source: Source, share: float) -> tuple[float, float]:
    """A loss's variance, approximately, and its range: what a width is chosen by."""
    match source:
        case Pair():
            low, high = source.span(share)
            z = np.linspace(*source.span(1e-9), _SAMPLES)
            weights, losses = source.densities(z)[0], source.losses(z)
            weights = weights / weights.sum()
            if source.kind == "symmetrised":
                losses = np.where(losses > 0, losses, 0.0)
            variance = float(weights @ losses**2 - (weights @ losses) ** 2)
            return variance, float(np.ptp(source.losses(np.array([low, high]))))
        case LaplaceNoise() | Response():
            grid = _losses(source, (source.theta if isinstance(source, LaplaceNoise) else source.epsilon) / 64, share)
            mean = float(grid.masses @ grid.values)
            return float(grid.masses @ grid.values**2) - mean**2, float(np.ptp(grid.values))
        case _:
            assert_never(source)


def _width(sources: dict[Source, int], share: float) -> float:
    """How wide a cell is: splitting adds a variance of about its square over six for each step."""
    spreads = [(*_spread(source, share), count) for source, count in sources.items()]
    total = math.sqrt(sum(variance * count for variance, _, count in spreads))
    steps = math.sqrt(sum(sources.values()))
    width = total / max(_CELLS_PER_DEVIATION * steps, _CELLS_OF_TOTAL)
    return max(width, max(extent for _, extent, _ in spreads) / _ATOMS_MAX)


class _Rough:
    """The logarithm of the moment generating function of the loss of all steps, approximately: what plans are made
    by."""

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
        """log M, and the mean and variance of the tilted loss."""
        found = np.zeros(3)
        for count, logarithms, values in self._parts:
            terms = logarithms + exponent * values
            shift = terms.max()
            tilted = np.exp(terms - shift)
            total = tilted.sum()
            mean = tilted @ values / total
            found += count * np.array([shift + math.log(total), mean, max(tilted @ values**2 / total - mean**2, 0.0)])
        return float(found[0]), float(found[1]), float(found[2])


def _tilt(parts: Sequence[Part], target: float, rough: _Rough) -> Tilt:
    """The tilt whose mean lies where the tail falls to the target, about, and a window that holds its mass."""
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
    """Where log M(a) - a K'(a), the logarithm of the tail at the tilted mean, about, falls to that of the target; where
    most is at the largest loss, the most with which a few cells hold the tilted mass."""
    wanted = math.log(target)
    low, high = 0.0, 1 / math.sqrt(max(rough.at(0.0)[2], width**2))
    for _ in range(_DOUBLINGS):
        log_moment, mean, variance = rough.at(high)
        if log_moment - high * mean <= wanted or variance < (4 * width) ** 2:
            break
        high *= 2
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        log_moment, mean, variance = rough.at(middle)
        is_beyond = log_moment - middle * mean <= wanted or variance < (4 * width) ** 2
        low, high = (low, middle) if is_beyond else (middle, high)
    return high

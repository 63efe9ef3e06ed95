"""Pairs made of more than two Gaussians: several records of one user, and pairs of which a public event picks one.

*Records.* A user has at most k records. Each is in a batch by itself, with probability q, and moves the sum by up to d
standard deviations. With p_j = C(k,j) q^j (1-q)^(k-j) the pair

    P = sum over j of p_j N(jd, 1)      Q = N(0, 1)      in both orders

dominates (Charles et al. 2024, arXiv 2407.07737; Choquette-Choo et al. 2024, arXiv 2310.15526, Cor. 4.7, for vectors).
Our derivation: for records that move the sum by vectors, P is a mixture of N(u_i, I), and

    H_alpha = E[(sum over i of p_i exp(u_i.W - |u_i|^2/2) - alpha)_+],      W ~ N(0, I)

is a convex function of a sum. As in `pld` it grows with every u_i.u_j at given lengths, so that all point one way, and
then with every length. For d_j the means on the line, the loss increases, P - alpha Q is positive beyond some z, and
the derivative of H_alpha by d_j is p_j phi(z - d_j) >= 0: moving a mean up, or mass to a larger mean, costs no less. So
fewer records, and shorter ones, are dominated, and so is P with some means merged into the largest of them, which is
how many records are kept fast. The mass of means beyond the last one counts as `missing`.

*Weights* come from their ratios, each within 6 u with the product, from the largest on, and are divided by their sum,
so that a weight is off by (16 n + 64) u for n means at most.

*Points* are found by Newton's method from a table. Whichever points are used, the masses between them are right, and
the split is exact for a Q whose density is moved by as much as the losses at the points are off. That is measured, and
added to the relative error together with the rounding of a loss: a sum of positive terms, each within (4 c z + 8) u,
c its mean, weights apart.

*Revealed.* If a public event, which the unit's data does not influence, picks the pair of a step, then the step has
that pair with the probability of the event: its losses are those of the pairs, mixed. Mass that is moved from one pair
to one that dominates it costs no less. A pair with next to no weight counts as `missing`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Final

from ledger.accounting.gdp import UNIT_ROUNDOFF
from ledger.accounting.numeric import FloatArray, NDArray, np, special
from ledger.accounting.pld import LinePair, Losses, Pair

RECORDS_MAX: Final = 10_000
_FARTHEST: Final = 45.0
"""Beyond this many deviations from all means there is less than the least mass that a span leaves out."""
_DENSITY: Final = 1 / math.sqrt(2 * math.pi)
_MEANS_MAX: Final = 48
_NEAR: Final = 32
"""Means near the expected number of records keep closer together than those in the tails."""
_TABLE: Final = 2**14
_NEWTON_STEPS: Final = 2
_CHUNK: Final = 2**14


@functools.lru_cache(maxsize=256)
def _line(records: int, rate: float, distance: float, beyond_max: float) -> Means:
    """Return the pair with a binomial number of records, without means of less weight, and no more than are fast."""
    below, above = np.arange(records, dtype=np.float64), np.arange(1, records + 1, dtype=np.float64)
    mode = min(math.floor((records + 1) * rate), records)
    with np.errstate(under="ignore", divide="ignore", over="ignore"):
        ratios = (records - below) / above * (rate / (1 - rate))
        up, down = np.cumprod(ratios[mode:]), np.cumprod(1 / ratios[:mode][::-1])[::-1]
    weights = np.concatenate((down, [1.0], up))
    weights /= weights.sum()
    tails = np.cumsum(weights[::-1])[::-1]
    last = int(np.flatnonzero(tails > beyond_max)[-1])
    # What underflowed is far below 1e-290.
    beyond = (0.0 if last == records else float(tails[last + 1]) * (1 + 2**-20)) + 1e-290
    ends = _ends(records * rate, math.sqrt(records * rate * (1 - rate)), last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    merged = np.add.reduceat(weights[: last + 1], starts)
    kept = merged > 0
    means = tuple((ends[kept] * distance).tolist())
    return Means(means, tuple(merged[kept].tolist()), beyond, (16 * (last + 1) + 64) * UNIT_ROUNDOFF)


def _ends(mean: float, deviation: float, last: int) -> NDArray[np.int64]:
    """Return the numbers of records, the last of each group, into which the others are merged."""
    if last < _MEANS_MAX:
        return np.arange(last + 1, dtype=np.int64)
    near = np.linspace(max(mean - 8 * deviation, 0.0), min(mean + 8 * deviation, last), _NEAR)
    far = np.linspace(0.0, last, _MEANS_MAX - _NEAR)
    ends: NDArray[np.int64] = np.unique(np.append(np.ceil(np.concatenate((near, far))), (0, last)).astype(np.int64))
    return ends


@dataclass(frozen=True, slots=True)
class Records(Pair):
    """The pair of a user with up to `records` records, each sampled with probability `rate`, in (0, 1).

    distance: by how many standard deviations of the noise one record moves the mean.
    """

    distance: float
    rate: float
    records: int

    @property
    def mu(self) -> float:
        return self.records * self.distance

    @property
    def is_one_sided(self) -> bool:
        return True

    @property
    def least_rate(self) -> float:
        return self.rate

    @property
    def largest_reversed(self) -> float:
        # The loss is never below log (1-q)^k, and merging means makes it no less.
        return -self.records * math.log1p(-self.rate)

    def line(self, share: float) -> Means:
        # A power of ten, so that few are worked out.
        return _line(self.records, self.rate, self.distance, 10.0 ** math.floor(math.log10(share / 8)))

    def on_grid(self, width: float, share: float) -> Losses:
        return self.line(share).on_grid(width, share)

    def spread(self, share: float) -> tuple[float, float]:
        return self.line(share).spread(share)

    def extent(self, share: float) -> float:
        return self.line(share).extent(share)

    def sketch(self, share: float, *, is_reversed: bool) -> tuple[FloatArray, FloatArray]:
        return self.line(share).sketch(share, is_reversed=is_reversed)


@dataclass(frozen=True, slots=True)
class Means(LinePair):
    """A mixture of N(m, 1) over rising means m from 0 on, against N(0, 1).

    beyond: the weight of means that are left out. error: the relative error of a weight.
    """

    means: tuple[float, ...]
    weights: tuple[float, ...]
    beyond: float
    error: float

    @property
    def mu(self) -> float:
        return self.means[-1]

    @property
    def is_one_sided(self) -> bool:
        return True

    @property
    def least_rate(self) -> float:
        return 1 - self.weights[0]

    @property
    def largest_reversed(self) -> float:
        return -math.log(self.weights[0]) if self.means[0] == 0 else math.inf

    @property
    def reach(self) -> float:
        return self.means[-1]

    @property
    def steepest(self) -> float:
        return 1 + self.reach

    def densities(self, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        p = np.zeros_like(z)
        for weight, mean in zip(self.weights, self.means, strict=True):
            p += weight * np.exp(-((z - mean) ** 2) / 2)
        return p * _DENSITY, np.exp(-z * z / 2) * _DENSITY

    def losses(self, z: FloatArray) -> FloatArray:
        return self._with_slope(np.asarray(z, dtype=np.float64))[0]

    def _with_slope(self, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the losses at these points, and their slopes."""
        # Where all exponents are small the sum of changes keeps its digits, else the largest exponent is taken out.
        means, weights = np.array(self.means), np.array(self.weights)
        halves = means * means / 2
        flat = z.reshape(-1)
        losses, slopes = np.empty_like(flat), np.empty_like(flat)
        for start in range(0, flat.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            exponents = np.multiply.outer(flat[part], means) - halves
            shift = np.maximum(exponents.max(axis=1), 0.0)
            small = shift < 1
            terms = np.exp(exponents - shift[:, np.newaxis])
            total = terms @ weights
            slopes[part] = (terms @ (weights * means)) / total
            changes = np.expm1(np.minimum(exponents[small], 1.0)) @ weights
            found = np.log(total) + shift
            found[small] = np.log1p(changes)
            losses[part] = found
        return losses.reshape(z.shape), slopes.reshape(z.shape)

    def points(self, losses: FloatArray) -> FloatArray:
        # The table's ends are beyond every span, to which points are cut.
        z = np.linspace(-_FARTHEST, self.reach + _FARTHEST, _TABLE)
        table = np.maximum.accumulate(self.losses(z))
        at = np.clip(np.searchsorted(table, losses), 1, _TABLE - 1)
        points = np.clip(np.interp(losses, table, z), z[0], z[-1])
        inside = (losses > table[0]) & (losses < table[-1])
        low, high = z[at - 1][inside], z[at][inside]
        found, goal = points[inside], losses[inside]
        for _ in range(_NEWTON_STEPS):
            value, slope = self._with_slope(found)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                step = (goal - value) / slope
            found = np.clip(np.where(np.isfinite(step), found + step, found), low, high)
        points[inside] = found
        return np.maximum.accumulate(points)

    def more_error(self, points: FloatArray, losses: FloatArray, span: tuple[float, float]) -> float:
        inside = (points > span[0]) & (points < span[1])
        off = np.abs(self.losses(points[inside]) - losses[inside])
        farthest = float(np.abs(points).max(initial=0.0)) + self.reach
        rounding = (8 * self.reach * farthest + 4 * float(np.abs(losses).max(initial=0.0)) + 64) * UNIT_ROUNDOFF
        return 2 * (float(off.max(initial=0.0)) + rounding + self.error)

    def span(self, share: float) -> tuple[float, float]:
        low, high = 0.0, self.reach + float(-special.ndtri(share)) + 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if self._above(middle) <= share else (middle, high)
        return float(special.ndtri(share)) - 2**-20, high

    def _above(self, z: float) -> float:
        above = sum(
            weight * float(special.ndtr(mean - z)) for weight, mean in zip(self.weights, self.means, strict=True)
        )
        return max(above, float(special.ndtr(-z))) * (1 + 2**-20)

    def missing(self, span: tuple[float, float]) -> float:
        below = float(special.ndtr(span[0])) * (1 + 2**-20)
        return 2 * max(below, self._above(span[1])) + self.beyond

    def at_zero(self, beside: float) -> float:
        raise NotImplementedError("its losses are not mirrored")


@dataclass(frozen=True, slots=True)
class Revealed(Pair):
    """One of some pairs, by a public event.

    parts: the pairs with their probabilities. beyond: the probability of others, which count as `missing`. All add up
    to 1.
    """

    parts: tuple[tuple[float, Pair], ...]
    beyond: float = 0.0

    def without(self, weight_max: float) -> Revealed:
        """Return it without the parts that have at most this probability each."""
        kept = tuple((weight, pair) for weight, pair in self.parts if weight > weight_max)
        rare = sum(weight for weight, _ in self.parts if weight <= weight_max)
        return Revealed(kept, self.beyond + rare * (1 + 2**-20))

    @property
    def mu(self) -> float:
        return max(pair.mu for _, pair in self.parts)

    @property
    def is_one_sided(self) -> bool:
        return any(pair.is_one_sided for _, pair in self.parts)

    @property
    def least_rate(self) -> float:
        return min(pair.least_rate for _, pair in self.parts)

    @property
    def largest_reversed(self) -> float:
        return max(pair.largest_reversed for _, pair in self.parts)

    def lines(self, share: float) -> tuple[list[tuple[float, LinePair]], float]:
        """Return the parts whose probability is not far below a share, and the probability of the others."""
        kept = [(weight, pair.line(share)) for weight, pair in self.parts if weight > share / 8]
        rare = sum(weight for weight, _ in self.parts if weight <= share / 8)
        return kept, self.beyond + rare * (1 + 2**-20)

    def on_grid(self, width: float, share: float) -> Losses:
        kept, beyond = self.lines(share)
        grids = [(weight, pair.on_grid(width, share)) for weight, pair in kept]
        first = min(grid.first for _, grid in grids)
        masses = np.zeros(max(grid.first + grid.masses.size for _, grid in grids) - first)
        missing = np.full(2, beyond)
        for weight, grid in grids:
            start = grid.first - first
            masses[start : start + grid.masses.size] += weight * grid.masses
            missing += weight * np.array(grid.missing) * (1 + 2**-20)
        error = max(grid.relative_error for _, grid in grids) + (4 + 2 * len(grids)) * UNIT_ROUNDOFF
        return Losses(width, first, masses, (float(missing[0]), float(missing[1])), error)

    def spread(self, share: float) -> tuple[float, float]:
        weights, losses = self.sketch(1e-9, is_reversed=False)
        weights = weights / weights.sum()
        return float(weights @ losses**2 - (weights @ losses) ** 2), self.extent(share)

    def extent(self, share: float) -> float:
        return max(pair.extent(share) for _, pair in self.lines(share)[0])

    def line(self, share: float) -> LinePair:  # noqa: ARG002 (the interface's)
        raise TypeError("a pair that a public event picks is none on the line")

    def sketch(self, share: float, *, is_reversed: bool) -> tuple[FloatArray, FloatArray]:
        sketches = [(weight, pair.sketch(share, is_reversed=is_reversed)) for weight, pair in self.lines(share)[0]]
        weights = [weight * found[0] for weight, found in sketches]
        return np.concatenate(weights), np.concatenate([found[1] for _, found in sketches])

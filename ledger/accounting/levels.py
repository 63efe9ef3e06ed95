"""Levels of a schedule of noise and sample rates: many pairs, each of which is dominated by a mixture of a few.

*Mixtures.* For a pair at distance d and rate q let H_alpha be its hockey-stick divergence, alpha > 0. If at every alpha
H_alpha is at most the sum of w_c H_alpha(pair c), with w_c >= 0 and sum 1, then the mixture of the pairs c that also
shows which of them was drawn dominates it: that sum is the mixture's divergence, and its privacy loss distribution
is the mixture of theirs. Dominating pairs compose (Zhu, Dong & Wang 2022, Thm. 10), so each level can have a mixture of
its own. Here the pairs c are the corners of a cell of a grid in (d, q). The weights are linear in q and in tau =
erf(mu/sqrt 8), mu = `Pair.mu` without sampling; what is lost is of the second order in the size of the cells.

*In q* H is convex: P of removal, and P and Q of the antipodal pair, are affine in q, and a divergence is jointly
convex. The symmetrised H_alpha is that of removal for alpha >= 1, and for less it is 1 - alpha + alpha H_(1/alpha).

*In tau* H is convex: our derivation. tau is the total variation of N(0,1) and N(mu,1). Let u = log d, and phi the
density of N(0,1).

- N(d,1) against N(0,1), alpha = e^a: dH/du = d phi(d/2 - a/d), and d2H/du2 = (1 - d^2/4 + a^2/d^2) dH/du. tau is H at
  a = 0, so that in tau only a^2/d^2 is left of the bracket, which is not negative. Removal at rate q is q times H at
  1 + (alpha-1)/q if that is positive, and else constant in d; symmetrised as above.
- Antipodal: H is the maximum over z of F = (1-q)(1-alpha) U(z) + q U(z-d) - alpha q U(z+d), with U the tail of N(0,1).
  At the z that attains it, with A = phi(z-d), B = alpha phi(z+d) and m = (A-B)/(A+B), F_zz = -q d (A+B), dH/du =
  q d (A+B), and d2H/du2 = (1 - d^2 + (z - d m/2)^2 + 3 d^2 m^2/4) dH/du. For tau = 2 Phi(d) - 1 it is
  (1 - d^2) dtau/du. So in tau two squares are left of the bracket.

H grows with d, as less noise can be made more, and with q, as a unit can be left out of a batch at random. So weights
can be rounded towards the worse corner; they are multiples of 1/64, so that fewer different mixtures remain.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, cast

from ledger.accounting.numeric import FloatArray, NDArray, np, special
from ledger.accounting.pairs import Source
from ledger.accounting.pld import Subsampled

DISTINCT_MAX: Final = 16
"""At most this many levels are composed as they are."""
APART_MAX: Final = 100
"""At most this many pairs of the parts of a composed mechanism are composed as they are."""
NODES_MAX: Final = 24
"""The most corners of cells."""
_CELL: Final = 0.3
"""The size of a cell: its excess is about an eighth of the square of this, as a part of the variance of the loss."""
_COARSER: Final = 1.25
_WEIGHTS: Final = 64
_SAMPLES: Final = 512

S = TypeVar("S", bound=Source)


class Level(Subsampled):
    """The pair of one step of a schedule. It may be composed as a mixture of others, if there are many of them."""

    __slots__ = ()

    @classmethod
    def of(cls, pair: S) -> S | Level:
        """Return a pair as a level, or the pair itself if it is not of a kind that the module proves mixtures of."""
        return cls(pair.kind, pair.distance, pair.rate) if isinstance(pair, Subsampled) else pair


def of_many(counts: Counter[S]) -> Counter[S]:
    """Return the pairs with their numbers; those of steps are levels of one schedule if there are very many."""
    if len(counts) <= APART_MAX:
        return counts
    merged: Counter[S] = Counter()
    for pair, count in counts.items():
        merged[cast("S", Level.of(pair))] += count
    return merged


@dataclass(frozen=True, slots=True)
class Mixing:
    """Steps as mixtures of nodes. corners: the nodes of each mixture, and weights: what they weigh, both of shape
    (mixtures, 4). counts: how many steps are of each mixture, of shape (mixtures,)."""

    corners: NDArray[np.int64]
    weights: FloatArray
    counts: FloatArray


@dataclass(frozen=True, slots=True)
class Blend(Generic[S]):
    """Steps as mixtures of a few pairs.

    nodes: the pairs, and about how many steps are of each, rounded up. tops: pairs that are no better than what they
    stand for, with the number of steps. mixing: None if the nodes are the steps.
    """

    nodes: list[tuple[S | Level, int]]
    tops: list[tuple[S | Level, int]]
    mixing: Mixing | None = None


def blend(steps: Sequence[tuple[S, int]]) -> Blend[S]:
    """Return steps, pairs with their numbers, as mixtures of a few pairs if there are many levels among them."""
    kinds: dict[str, list[tuple[Level, int]]] = {}
    others: list[tuple[S, int]] = []
    for pair, count in steps:
        if isinstance(pair, Level):
            kinds.setdefault(pair.kind, []).append((pair, count))
        else:
            others.append((pair, count))
    if sum(map(len, kinds.values())) <= DISTINCT_MAX:
        return Blend(list(steps), list(steps))
    grids = [_Grid.of(levels) for levels in kinds.values()]
    return _together(grids, others)


@dataclass(frozen=True, slots=True)
class _Grid:
    """The cells for levels of one kind, and the levels in them.

    kind, distances, rates: of the nodes, in rising order. index: the lower corner on each of the two axes, of shape
    (2, n). upper: the weight of the upper corner, of shape (2, n). counts: how many steps are there, of shape (n,).
    """

    kind: str
    distances: FloatArray
    rates: FloatArray
    index: NDArray[np.int64]
    upper: FloatArray
    counts: FloatArray

    @classmethod
    def of(cls, levels: Sequence[tuple[Level, int]]) -> _Grid:
        """Return the finest grid without too many nodes."""
        distance = np.array([level.distance for level, _ in levels])
        rate = np.array([level.rate for level, _ in levels])
        counts = np.array([count for _, count in levels], dtype=np.float64)
        scale = levels[0][0].mu / levels[0][0].distance / math.sqrt(8)
        size = _CELL
        while True:
            distances, rates = _nodes(distance, size, steep=1.0), _nodes(rate, size, steep=0.0)
            axes = (_placed(distance, distances, scale), _placed(rate, rates, None))
            grid = cls(levels[0][0].kind, distances, rates, *_merged(axes, counts))
            if grid.size <= NODES_MAX:
                return grid
            size *= _COARSER

    def corners(self) -> tuple[NDArray[np.int64], FloatArray]:
        """Return the four corners of each level, numbered along the rates first, and their weights: shape (n, 4)."""
        columns, weights = [], []
        for up, right in ((0, 0), (1, 0), (0, 1), (1, 1)):
            weight = np.where(up, self.upper[0], 1 - self.upper[0]) * np.where(right, self.upper[1], 1 - self.upper[1])
            columns.append((self.index[0] + up) * (self.rates.size + 1) + self.index[1] + right)
            weights.append(weight)
        # A corner without weight may lie beyond the grid: one that has some stands for it.
        other = np.select([weight > 0 for weight in weights], columns)
        table = [np.where(weight > 0, column, other) for column, weight in zip(columns, weights, strict=True)]
        return np.stack(table, axis=1), np.stack(weights, axis=1)

    @property
    def size(self) -> int:
        """Return the number of nodes in use."""
        return int(np.unique(self.corners()[0]).size)

    def pair(self, number: int) -> Level:
        """Return the pair of a node."""
        row, column = divmod(number, self.rates.size + 1)
        return Level(self.kind, float(self.distances[row]), float(self.rates[column]))  # type: ignore[arg-type]


def _together(grids: Sequence[_Grid], others: Sequence[tuple[S, int]]) -> Blend[S]:
    nodes: list[tuple[S | Level, int]] = []
    tops: list[tuple[S | Level, int]] = []
    tables, weights, counts = [], [], []
    for grid in grids:
        corners, weight = grid.corners()
        used, place = np.unique(corners, return_inverse=True)
        totals = np.bincount(place.reshape(-1), weights=(weight * grid.counts[:, np.newaxis]).reshape(-1))
        pairs = [grid.pair(int(node)) for node in used]
        tables.append(place.reshape(corners.shape) + len(nodes))
        worst = np.where(weight > 0, corners, -1).max(axis=1)
        tops += [(grid.pair(int(node)), int(count)) for node, count in zip(worst, grid.counts, strict=True)]
        nodes += [(pair, math.ceil(total)) for pair, total in zip(pairs, totals, strict=True)]
        weights.append(weight)
        counts.append(grid.counts)
    for pair, count in others:
        tables.append(np.full((1, 4), len(nodes)))
        weights.append(np.array([[1.0, 0.0, 0.0, 0.0]]))
        counts.append(np.array([float(count)]))
        nodes.append((pair, count))
        tops.append((pair, count))
    return Blend(nodes, tops, Mixing(np.concatenate(tables), np.concatenate(weights), np.concatenate(counts)))


def _merged(
    axes: Sequence[tuple[NDArray[np.int64], FloatArray]], counts: FloatArray
) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
    """Return places in cells, equal ones together: their indices and weights, of shape (2, n), and counts, (n,)."""
    places = np.stack([index for index, _ in axes] + [(upper * _WEIGHTS).astype(np.int64) for _, upper in axes])
    sizes = tuple(int(row.max()) + 1 for row in places)
    keys, which = np.unique(np.ravel_multi_index(tuple(places), sizes), return_inverse=True)
    rows: NDArray[np.int64] = np.stack(np.unravel_index(keys, sizes)).astype(np.int64)
    return rows[:2], rows[2:] / _WEIGHTS, np.bincount(which, weights=counts).astype(np.float64)


def _nodes(values: FloatArray, size: float, *, steep: float) -> FloatArray:
    """Return the ends of cells from the least to the largest value, or the values themselves if they are fewer.

    steep: 1 if the variance of the loss grows as exp(x^2) - 1 in the value x; 0 if as x^2. A cell has this size where a
    curvature is constant: sqrt(v''/v) is about sqrt(2)/x + 2 x, or sqrt(2)/x.
    """
    distinct = np.unique(values)
    low, high = float(distinct[0]), float(distinct[-1])
    points = np.geomspace(low, high, _SAMPLES)
    evenly = math.sqrt(2) * np.log(points) + steep * points**2
    cells = math.ceil((evenly[-1] - evenly[0]) / size)
    if distinct.size <= cells + 1:
        return distinct
    between = np.interp(np.linspace(evenly[0], evenly[-1], cells + 1)[1:-1], evenly, points)
    return np.concatenate(([low], between[(between > low) & (between < high)], [high]))


def _placed(values: FloatArray, nodes: FloatArray, scale: float | None) -> tuple[NDArray[np.int64], FloatArray]:
    """Return the lower node of each value, and the weight of the one above, rounded up; both of shape (n,).

    scale: of distances, from which it makes arguments of erf; None for rates.
    """
    index = np.searchsorted(nodes, values, side="right") - 1
    low, high = nodes[index], nodes[np.minimum(index + 1, nodes.size - 1)]
    if scale is None:
        part, whole, size = values - low, high - low, high
    else:
        # Above 1 the differences of erf are those of erfc, which keep their digits there.
        ends = [value * scale for value in (low, values, high)]
        near, far = ([function(end) for end in ends] for function in (special.erf, special.erfc))
        is_near = ends[0] < 1
        part = np.where(is_near, near[1] - near[0], far[0] - far[1])
        whole = np.where(is_near, near[2] - near[0], far[0] - far[2])
        size = np.where(is_near, near[2], far[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        # Up by more than the error of the values, each of which is within a few units of its size.
        weight = part / whole * (1 + 2.0**-30) + 2.0**-46 * size / whole
        weight = np.where(np.isfinite(weight), weight, 1.0)
    weight = np.minimum(np.ceil(weight * _WEIGHTS) / _WEIGHTS, 1.0)
    return index, np.where(values == low, 0.0, weight)

"""The trade-off function of one step, on a grid that is refined at the cells that bind: no FFT is needed.

The points are those of the line; of pairs that a public event picks from, they are losses, which all pairs share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.accounting import deadline
from ledger.accounting.composition import Vertices, running, running_error
from ledger.accounting.gdp import UNIT_ROUNDOFF
from ledger.accounting.mixtures import Revealed
from ledger.accounting.numeric import FloatArray, NDArray, np
from ledger.accounting.pld import LinePair, Pair, split

_EDGES: Final = 1024
_EDGES_MAX: Final = 50_000
_REFINEMENTS_MAX: Final = 64
"""Each round cuts the cells that bind into eight, so that 64 rounds cut any cell below the resolution of doubles."""

if TYPE_CHECKING:
    _OnEdges = Callable[[FloatArray], tuple[Vertices, NDArray[np.int64]]]
    """From edges to the vertices at losses >= 0, and the indices of their edges."""


def single(pair: Pair, delta: float, *, is_reversed: bool) -> Vertices:
    """Return the vertices of one step of a pair, for this delta."""
    # A single step can have a wide grid.
    share = max(delta * 2.0**-30, 1e-290)
    if isinstance(pair, Revealed):
        return _revealed(pair, share, delta, is_reversed=is_reversed)
    return _on_line(pair.line(share), share, delta, is_reversed=is_reversed)


def _refined(
    edges: FloatArray, delta: float, on_edges: _OnEdges, rising: Callable[[FloatArray], FloatArray]
) -> Vertices:
    """Return the vertices on edges that are made finer at the cells that bind. rising: puts edges in order."""
    bounds, index = on_edges(edges)
    before, tolerance = math.inf, 1e-2
    for _ in range(_REFINEMENTS_MAX):
        deadline.check()
        values = bounds.values(delta)
        best = float(values.max(initial=-math.inf))
        if best <= 0 or math.isnan(best) or (before - best <= 1e-9 * best and tolerance < 1e-6):
            break
        before, tolerance = best, max(tolerance / 8, 1e-7)
        binding = index[values >= best * (1 - tolerance)]
        cells = np.unique(np.clip(np.concatenate((binding - 1, binding)), 0, edges.size - 2))
        steps = np.arange(1, 8) / 8
        finer = edges[cells, np.newaxis] + np.diff(edges)[cells, np.newaxis] * steps
        refined = rising(np.concatenate((edges, finer.reshape(-1))))
        # If no loss rises between the edges that bind, no grid of doubles is better.
        if refined.size == edges.size:
            break
        edges = refined
        bounds, index = on_edges(edges)
        if edges.size >= _EDGES_MAX:
            break
    return bounds


# --- a pair on the line ----------------------------------------------------------------------------------------------


def _on_line(pair: LinePair, share: float, delta: float, *, is_reversed: bool) -> Vertices:
    span = pair.span(share)
    middle = pair.points(np.zeros(1))

    def rising(edges: FloatArray) -> FloatArray:
        """Return the edges in order, without those at which doubles show no larger loss than at the edge before."""
        edges = np.unique(edges)
        losses = np.maximum.accumulate(pair.losses(edges))
        ordered: FloatArray = edges[np.append(True, np.diff(losses) > 0)]
        return ordered

    def on_edges(edges: FloatArray) -> tuple[Vertices, NDArray[np.int64]]:
        return _on_edges(pair, edges, float(middle[0]), span, is_reversed=is_reversed)

    return _refined(rising(np.concatenate((np.linspace(*span, _EDGES), middle))), delta, on_edges, rising)


def _on_edges(
    pair: LinePair, edges: FloatArray, middle: float, span: tuple[float, float], *, is_reversed: bool
) -> tuple[Vertices, NDArray[np.int64]]:
    """Return the vertices at losses >= 0 of one step on a grid of any points, and the indices of their edges."""
    losses = np.where(edges == middle, 0.0, pair.losses(edges))
    lower, upper = split(pair, edges, losses)
    masses = np.zeros(edges.size)
    masses[:-1] += lower
    masses[1:] += upper
    others = masses * np.exp(-losses)
    # The relative error of a cell's masses is that of a density at its outer end, see `pld`.
    outer = np.maximum(np.abs(np.append(edges[0], edges[:-1])), np.abs(np.append(edges[1:], edges[-1])))
    errors = (8 * (outer + pair.reach) ** 2 + 8 * np.abs(losses) + 32) * UNIT_ROUNDOFF
    errors += pair.more_error(np.full(1, middle), np.zeros(1), span)
    grid = _Grid(losses, masses, others, errors, pair.missing(span), is_mirrored=pair.is_mirrored)
    if pair.is_mirrored:
        # Loss 0 has the mass that neither side has above it, see `pld`.
        zero = int(np.flatnonzero(losses >= 0)[0])
        masses[zero] = pair.at_zero(float(lower[zero]))
        others[zero] = masses[zero]
    return _vertices(grid, is_reversed=is_reversed)


# --- one of several pairs, by a public event -------------------------------------------------------------------------


def _revealed(pair: Revealed, share: float, delta: float, *, is_reversed: bool) -> Vertices:
    lines, beyond = pair.lines(share)
    ends = [line.losses(np.linspace(*line.span(share), _EDGES)) for _, line in lines]
    farthest = max(float(np.abs(losses).max()) for losses in ends) * (1 + 2**-20) + 2**-20

    def rising(edges: FloatArray) -> FloatArray:
        """Return the edges in order, with their mirror images."""
        sizes: FloatArray = np.unique(np.append(np.abs(edges), 0.0))
        return np.concatenate((-sizes[:0:-1], sizes))

    def on_edges(edges: FloatArray) -> tuple[Vertices, NDArray[np.int64]]:
        masses, error, missing = np.zeros(edges.size), 0.0, beyond
        for weight, line in lines:
            found, more, lost = _masses(line, edges, share)
            masses += weight * found
            error, missing = max(error, more), missing + weight * lost
        errors = np.full(edges.size, error + (8 + 2 * len(lines)) * UNIT_ROUNDOFF)
        grid = _Grid(edges, masses, masses * np.exp(-edges), errors, missing * (1 + 2**-20))
        return _vertices(grid, is_reversed=is_reversed)

    return _refined(rising(np.append(np.concatenate(ends), farthest)), delta, on_edges, rising)


def _masses(pair: LinePair, losses: FloatArray, share: float) -> tuple[FloatArray, float, float]:
    """Return the masses of P at these losses, which are beside their mirror images; their relative error, and what is
    missing. Losses are beyond those of the span on either side."""
    span = pair.span(share)
    zero = losses.size // 2
    kept = losses[zero:] if pair.is_mirrored else losses
    points = np.clip(pair.points(kept), *span)
    lower, upper = split(pair, points, kept)
    masses = np.append(lower, 0.0)
    masses[1:] += upper
    if pair.is_mirrored:
        masses[0] = pair.at_zero(float(lower[0]))
        masses = np.concatenate(((masses * np.exp(-kept))[:0:-1], masses))
    farthest = max(-span[0], span[1]) + pair.reach
    error = (8 * farthest**2 + 8 * float(losses[-1]) + 32) * UNIT_ROUNDOFF + pair.more_error(points, kept, span)
    return masses, error, pair.missing(span)


# --- vertices --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Grid:
    """The masses of P and of Q at rising losses, with the relative error of each; each of shape (n,).

    missing: mass of P, or Q, elsewhere. is_mirrored: the masses below 0 are not given.
    """

    losses: FloatArray
    masses: FloatArray
    others: FloatArray
    errors: FloatArray
    missing: float
    is_mirrored: bool = False


def _vertices(grid: _Grid, *, is_reversed: bool) -> tuple[Vertices, NDArray[np.int64]]:
    """Return the vertices at losses >= 0, and the indices of their losses."""
    losses, masses, others, errors = grid.losses, grid.masses, grid.others, grid.errors
    at = np.flatnonzero(losses <= 0 if is_reversed else losses >= 0)
    if is_reversed:
        masses, others, errors, at = others[::-1], masses[::-1], errors[::-1], at[::-1]
        index = losses.size - 1 - at
    else:
        index = at
    summing = running_error(losses.size)
    tail = running((masses * (1 + errors))[::-1])[::-1][index] * (1 + summing) + grid.missing
    other = running((others * (1 - errors))[::-1])[::-1][index] * (1 - summing)
    # If S is near 1, the mass below keeps the digits; symmetrised, P has below loss 0 what Q has above it.
    kept = masses * (1 - errors)
    below = 0.0
    if grid.is_mirrored:
        kept[: at[0]] = 0.0
        below = float(other[1]) if other.size > 1 else 0.0
    before = (below + np.append(0.0, running(kept)[:-1])[index] * (1 - summing)) * (1 - UNIT_ROUNDOFF)
    rest = np.maximum(1 - np.minimum(tail, 1.0), before)
    served = -losses[at] if is_reversed else losses[at]
    return Vertices(np.minimum(tail, 1.0), rest, other, served), at

"""The hockey-stick divergence of a pair at some points, from above, and what smoothing it by a Gaussian takes.

For a pair (P, Q) with privacy loss L, D(l) = E max(0, 1 - e^(l-L)) under P is its divergence at epsilon l. It falls,
and as a function of e^l it is convex. So between two points it lies below the chord in e^l: values at a few points,
from above, bound it everywhere (Doroshenko et al. 2022, "connect the dots"). Beyond the last point it is at most the
value there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.accounting.gdp import UNIT_ROUNDOFF
from ledger.accounting.numeric import FloatArray, np, special
from ledger.accounting.pld import Losses

if TYPE_CHECKING:
    from ledger.accounting.composition import Vertices

_FALL: Final = 0.12
"""The logarithm of D falls by about so much between two points that are kept, or less."""
_WIDTH: Final = 0.12
"""They are at most so far apart, or little more, in units of the mu with the same total variation, or of a third of the
loss if that is more."""
_VERTICES_MAX: Final = 2**15
"""Of a stretch of vertices no more than twice as many are looked at."""


@dataclass(frozen=True, slots=True)
class Profile:
    """D at these losses, from above: both of shape (n,), the losses rising from 0 and the values falling."""

    losses: FloatArray
    values: FloatArray

    @property
    def size(self) -> int:
        """Return the bytes of the arrays."""
        return self.losses.nbytes + self.values.nbytes

    def until(self, value: float) -> Profile:
        """Return its beginning, up to the first point at or below a value."""
        low = np.flatnonzero(self.values <= value)
        last = int(low[0]) + 1 if low.size else self.losses.size
        return Profile(self.losses[:last], self.values[:last])


def profile_of(parts: Sequence[Vertices], *, end: float = math.inf) -> Profile:
    """Return the divergence of vertices, which are given in stretches of rising losses. end: the largest loss, if one
    is known and not reached."""
    points = sorted((_divergences(part) for part in parts if part.tail.size), key=lambda pair: float(pair[0][0]))
    if points:
        losses, values = (np.concatenate(arrays) for arrays in zip(*points, strict=True))
    else:
        losses, values = np.zeros(1), np.ones(1)
    # Neighbouring stretches can overlap by a rounding.
    if (np.diff(losses) < 0).any():
        order = np.argsort(losses, kind="stable")
        losses, values = losses[order], values[order]
    profile = _bounded(losses, values)
    if math.isfinite(end) and end > profile.losses[-1]:
        return Profile(np.append(profile.losses, end), np.append(profile.values, 0.0))
    return profile


def _divergences(part: Vertices) -> tuple[FloatArray, FloatArray]:
    """Return losses of some of the vertices, the first and the last among them, and the divergence at each."""
    index = np.arange(0, part.tail.size, max(part.tail.size // _VERTICES_MAX, 1))
    index = np.append(index, part.tail.size - 1) if index[-1] < part.tail.size - 1 else index
    losses, tail, other = part.losses(index), part.tail[index], part.other[index]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        # An upper bound of S and a lower one of A make an upper bound of S - e^l A.
        below = np.exp(losses)
        below *= other
        below *= 1 - (16 + 2 * losses) * UNIT_ROUNDOFF
        values = tail * (1 + 8 * UNIT_ROUNDOFF)
        values -= np.where(other > 0, below, 0.0)
    return losses, values


def profile_of_losses(losses: Losses) -> Profile:
    """Return the divergence of a privacy loss distribution on a grid."""
    masses, grid = losses.masses, losses.values
    at = np.flatnonzero(grid >= 0)
    error = losses.relative_error + (2 * masses.size + 32 + 4 * float(grid[-1])) * UNIT_ROUNDOFF
    # D falls by what lies above a point, times the width in e^l: sums of positive numbers.
    above = np.cumsum((masses * np.exp(-grid))[::-1])[::-1]
    falls = np.append(above[1:] * np.exp(grid[:-1]) * math.expm1(losses.width), 0.0)
    values = np.cumsum(falls[::-1])[::-1] * (1 + 2 * error) + max(losses.missing)
    return _bounded(grid[at], values[at])


def _bounded(losses: FloatArray, values: FloatArray) -> Profile:
    """Return some of the values from above, in order: falling, from loss 0 on, and no more of them than are of use."""
    values = np.minimum.accumulate(np.clip(np.nan_to_num(values, nan=1.0), 0.0, 1.0))
    if losses[0] > 0:
        # As a function of e^l, D falls with slope -1 at most.
        first = min(1.0, float(values[0]) + math.expm1(float(losses[0])) * (1 + 2**-40))
        losses, values = np.append(0.0, losses), np.append(first, values)
    variation = min(float(values[0]), 1 - 2.0**-50)
    scale = 2 * math.sqrt(2) * float(special.erfinv(variation))
    with np.errstate(divide="ignore"):
        falls = -np.diff(np.log(np.maximum(values, 1e-320)))
    widths = _WIDTH * np.maximum(max(scale, 1e-290), losses[:-1] / 3)
    kept_apart = np.maximum(falls / _FALL, np.diff(losses) / widths)
    steps = np.floor(np.append(0.0, np.cumsum(kept_apart)))
    kept = np.append(0, np.flatnonzero(np.diff(steps) > 0) + 1)
    if kept[-1] != losses.size - 1:
        kept = np.append(kept, losses.size - 1)
    return Profile(losses[kept], values[kept])

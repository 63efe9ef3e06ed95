"""Privacy loss distributions of one step of subsampled DP-SGD, on a grid, dominating the exact ones.

A *pair* (P, Q) dominates a mechanism when its trade-off function lies below that of every pair of neighbouring
datasets; its privacy loss is L = log(dP/dQ) under P. Pairs here are in units of the noise's standard deviation, with d
the distance by which a unit moves the mean:

    removal       P = (1-q) N(0,1) + q N(d,1)    Q = N(0,1)                      Poisson, add_or_remove_one, d = 1/s
    antipodal     P = (1-q) N(0,1) + q N(d,1)    Q = (1-q) N(0,1) + q N(-d,1)    Poisson, replace_one, d = 1/s
    symmetrised   the pair whose trade-off function is C_q(G_d)                  fixed size, replace_one, d = 2/s

`sampling` has the pairs of each way to draw batches, and why they dominate; `mixtures` has those with more points.

*Symmetrised*: with f_q the trade-off function of the removal pair, C_q(G_d) = min(f_q, f_q^-1)**. The convex hull keeps
the removal pair's losses above 0, their mirror image below 0, and puts the rest of the mass on loss 0.

*The grid.* Losses are put on the multiples of h. Both masses (P_k, Q_k) of the losses between two neighbours are kept
by splitting them on the two ends: a mean-preserving spread of e^-L under P, which makes a pair that dominates
(Blackwell), in every composition (Doroshenko et al. 2022 show that it is the best on that grid). The mass outside the
grid's span is left out, and accounted for as `missing`.

*Rounding.* With u = 2^-53 and z the largest argument of a density, a density is within (4 z^2 + 16) u of itself, and
the quadrature within 1 u: Gauss and Legendre's rule with four nodes on panels on which the exponents of the integrand
vary by 1/32 at most, so that on the ellipse with half-axes 128 times the panel's it stays below e^6 times its middle
value, an error of 64/15 e^6 255^-8. A fraction of the split is (e^L - e^l) / (e^h - 1), with e^L rounded within
(|l| + 8) u of itself: it is the exact split for losses moved by that much. So the computed masses are those of a pair
whose densities differ from the exact ones by factors within 1 +- `Losses.relative_error`.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final, Literal

from ledger.accounting import deadline
from ledger.accounting.gdp import UNIT_ROUNDOFF
from ledger.accounting.numeric import FloatArray, NDArray, np, special

_PANELS_PER_UNIT: Final = 32
_CHUNK: Final = 2**16
_SAMPLES: Final = 4096
_SKETCHED: Final = 300
_DENSITY: Final = 1 / math.sqrt(2 * math.pi)


class Pair(ABC):
    """A dominating pair of one step. Equal ones are composed together, so it can be hashed. Subclasses are frozen."""

    __slots__ = ()

    @property
    @abstractmethod
    def mu(self) -> float:
        """Return the mu of the pair without subsampling, which dominates this one."""

    @property
    @abstractmethod
    def is_one_sided(self) -> bool:
        """Return whether it differs from its reverse."""

    @property
    @abstractmethod
    def least_rate(self) -> float:
        """Return the least rate of sampling in it: what is far below usual rates has a coarser grid."""

    @property
    @abstractmethod
    def largest_reversed(self) -> float:
        """Return the largest loss of its reverse, infinity if there is none."""

    @abstractmethod
    def line(self, share: float) -> LinePair:
        """Return it as distributions on the line, or one that dominates it. share: of its mass that may be left out."""

    @abstractmethod
    def on_grid(self, width: float, share: float) -> Losses:
        """Return its privacy loss distribution on the multiples of `width`. share: of its mass that may be left out."""

    @abstractmethod
    def spread(self, share: float) -> tuple[float, float]:
        """Return the approximate variance of its loss, and the range: a width is chosen by them."""

    @abstractmethod
    def extent(self, share: float) -> float:
        """Return the range of its losses."""

    @abstractmethod
    def sketch(self, share: float, *, is_reversed: bool) -> tuple[FloatArray, FloatArray]:
        """Return approximate weights at some losses, to make plans with; each of shape (n,)."""


class LinePair(Pair):
    """A pair of distributions on the line, with a loss that increases."""

    __slots__ = ()

    @property
    @abstractmethod
    def reach(self) -> float:
        """Return how far from 0 a component of P has its mean, at most."""

    @property
    def steepest(self) -> float:
        """Return by how much the slope of a density's exponent can exceed |z|."""
        return 1 + 2 * self.reach

    @property
    def is_mirrored(self) -> bool:
        """Return whether its losses below 0 are those above 0, mirrored, see the module."""
        return False

    @abstractmethod
    def densities(self, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return (p, q) at these points."""

    @abstractmethod
    def losses(self, z: FloatArray) -> FloatArray:
        """Return log(p/q) at these points; it increases."""

    @abstractmethod
    def points(self, losses: FloatArray) -> FloatArray:
        """Return the points with these losses: the inverse of `losses`; -inf for losses below all of them."""

    @abstractmethod
    def more_error(self, points: FloatArray, losses: FloatArray, span: tuple[float, float]) -> float:
        """Return what is added to the relative error of the masses between these points, see `mixtures`.

        points: those within a span are what `points` returned for these losses, the others were cut to its ends.
        """

    @abstractmethod
    def span(self, share: float) -> tuple[float, float]:
        """Return the points beyond which, on either side, neither P nor Q has more than `share` of its mass."""

    @abstractmethod
    def missing(self, span: tuple[float, float]) -> float:
        """Return the most mass that P, or Q, has outside a span."""

    @abstractmethod
    def at_zero(self, beside: float) -> float:
        """Return the mass at loss 0 of a pair that `is_mirrored`. beside: what the cells next to 0 put there."""

    # --- as a source of an exact composition, see `pairs`

    def line(self, share: float) -> LinePair:  # noqa: ARG002 (the interface's)
        return self

    def on_grid(self, width: float, share: float) -> Losses:
        return on_grid(self, width=width, span=self.span(share))

    def spread(self, share: float) -> tuple[float, float]:
        low, high = self.span(share)
        z = np.linspace(*self.span(1e-9), _SAMPLES)
        weights, losses = self.densities(z)[0], self.losses(z)
        weights = weights / weights.sum()
        if self.is_mirrored:
            losses = np.where(losses > 0, losses, 0.0)
        variance = float(weights @ losses**2 - (weights @ losses) ** 2)
        return variance, float(np.ptp(self.losses(np.array([low, high]))))

    def extent(self, share: float) -> float:
        low, high = self.losses(np.array(self.span(share)))
        return float(high - low)

    def sketch(self, share: float, *, is_reversed: bool) -> tuple[FloatArray, FloatArray]:
        z = np.linspace(*self.span(share), _SKETCHED)
        p, q = self.densities(z)
        values = self.losses(z)
        if self.is_mirrored:
            above = values > 0
            weights = np.concatenate((p[above], q[above])) * (z[1] - z[0])
            values = np.concatenate((values[above], -values[above], [0.0]))
            return np.concatenate((weights, [max(1 - weights.sum(), 0.0)])), values
        return (q if is_reversed else p) * (z[1] - z[0]), -values if is_reversed else values


@dataclass(frozen=True, slots=True)
class Subsampled(LinePair):
    """The pair of one unit that is sampled or not, as the module describes it.

    distance: by how many standard deviations of the noise a unit moves the mean. rate: the probability q of sampling
    it, in (0, 1].
    """

    kind: Literal["removal", "antipodal", "symmetrised"]
    distance: float
    rate: float

    @property
    def mu(self) -> float:
        return 2 * self.distance if self.kind == "antipodal" else self.distance

    @property
    def is_one_sided(self) -> bool:
        return self.kind == "removal" and self.rate < 1

    @property
    def least_rate(self) -> float:
        return self.rate

    @property
    def largest_reversed(self) -> float:
        return -math.log1p(-self.rate) if self.is_one_sided else math.inf

    @property
    def reach(self) -> float:
        return self.distance

    @property
    def is_mirrored(self) -> bool:
        return self.kind == "symmetrised"

    def densities(self, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return (p, q) at these points; those of the removal pair if the pair is symmetrised."""
        d, rate = self.distance, self.rate
        centre = np.exp(-z * z / 2)
        p = (1 - rate) * centre + rate * np.exp(-((z - d) ** 2) / 2)
        if self.kind != "antipodal":
            return p * _DENSITY, centre * _DENSITY
        q = (1 - rate) * centre + rate * np.exp(-((z + d) ** 2) / 2)
        return p * _DENSITY, q * _DENSITY

    def losses(self, z: FloatArray) -> FloatArray:
        up = self._shifted(z)
        return up - self._shifted(-z) if self.kind == "antipodal" else up

    def _shifted(self, z: FloatArray) -> FloatArray:
        """Return log(1 - q + q exp(d z - d^2/2))."""
        exponent = self.distance * (z - self.distance / 2)
        if self.rate == 1:
            return exponent
        return np.where(
            exponent < 1,
            np.log1p(self.rate * np.expm1(np.minimum(exponent, 1))),
            np.logaddexp(math.log1p(-self.rate), math.log(self.rate) + exponent),
        )

    def points(self, losses: FloatArray) -> FloatArray:
        d, rate = self.distance, self.rate
        if rate == 1:
            return losses / self.mu + (0.0 if self.kind == "antipodal" else d / 2)
        if self.kind == "antipodal":
            # With y = exp(d z) and v = y e^(-l/2): v - 1/v = 2 (1-q) e^(d^2/2) sinh(l/2) / q.
            return (losses / 2 + np.arcsinh((1 - rate) * math.exp(d * d / 2) * np.sinh(losses / 2) / rate)) / d
        with np.errstate(divide="ignore", over="ignore"):
            excess = np.exp(losses) - (1 - rate) if rate > 0.5 else np.expm1(losses) + rate
            ratio = np.where(losses < 500, np.log(np.maximum(excess, 0) / rate), losses - math.log(rate))
        return ratio / d + d / 2

    def more_error(self, points: FloatArray, losses: FloatArray, span: tuple[float, float]) -> float:  # noqa: ARG002
        # Points are in closed form, and the weights are those that are declared.
        return 0.0

    def span(self, share: float) -> tuple[float, float]:
        low, high = 0.0, self.distance + float(-special.ndtri(share)) + 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if self._above(middle) <= share else (middle, high)
        return (-high if self.kind == "antipodal" else float(special.ndtri(share)) - 2**-20), high

    def _above(self, z: float) -> float:
        return float((1 - self.rate) * special.ndtr(-z) + self.rate * special.ndtr(self.distance - z)) * (1 + 2**-20)

    def missing(self, span: tuple[float, float]) -> float:
        below = self._above(-span[0]) if self.kind == "antipodal" else float(special.ndtr(span[0])) * (1 + 2**-20)
        # Symmetrised, the mass above is below as well.
        return 2 * max(below, self._above(span[1]))

    def at_zero(self, beside: float) -> float:
        # P(L <= 0) - Q(L > 0) of the removal pair, whose loss is 0 at z = d/2; and the mass that cells next to 0 put
        # there.
        return float((1 - self.rate) * special.erf(self.distance / math.sqrt(8)) + 2 * beside)


@dataclass(frozen=True, slots=True)
class Losses:
    """A privacy loss distribution on the points (first + j) * width.

    masses: those of P, of shape (n,); Q has masses * e^-loss. missing: the most mass that P, or Q, has elsewhere.
    relative_error: see the module.
    """

    width: float
    first: int
    masses: FloatArray
    missing: tuple[float, float]
    relative_error: float

    @property
    def values(self) -> FloatArray:
        """Return the losses, of shape (n,)."""
        return self.width * np.arange(self.first, self.first + self.masses.size, dtype=np.float64)

    def reversed(self) -> Losses:
        """Return the same pair in the other order, (Q, P)."""
        values = self.values
        masses = (self.masses * np.exp(-values))[::-1]
        last = self.first + self.masses.size - 1
        extreme = float(np.abs(values).max(initial=0.0))
        return Losses(
            self.width,
            -last,
            np.ascontiguousarray(masses),
            self.missing[::-1],
            self.relative_error + (4 + 2 * extreme) * UNIT_ROUNDOFF,
        )


def _panels(edges: FloatArray, *, steepest: float) -> tuple[NDArray[np.intp], FloatArray, FloatArray]:
    """Cut the intervals between edges into panels on which an exponent with slope |z| + `steepest` varies little.

    Returns the index of each panel's interval, its lower end and its width, each of shape (panels,).
    """
    lower, width = edges[:-1], np.diff(edges)
    slope = steepest + np.maximum(np.abs(lower), np.abs(edges[1:]))
    panels = np.maximum(np.ceil(width * slope * _PANELS_PER_UNIT), 1).astype(np.intp)
    cell = np.repeat(np.arange(width.size), panels)
    if cell.size == width.size:
        return cell, lower, width
    within = np.arange(cell.size) - np.repeat(np.cumsum(panels) - panels, panels)
    panel_width = (width / panels)[cell]
    return cell, lower[cell] + panel_width * within, panel_width


@functools.cache
def _quadrature() -> tuple[FloatArray, FloatArray]:
    """Return nodes and weights of a Gauss-Legendre rule on [-1/2, 1/2]."""
    nodes, weights = special.roots_legendre(4)
    return nodes / 2, weights / 2


def split(pair: LinePair, edges: FloatArray, losses: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the mass of P between neighbouring points, split on the losses at its lower and its upper end.

    edges, losses: increasing, of shape (n + 1,); the losses are those at the edges, or below and above them at the two
    outer ones, which may lie within a cell of the grid. Returns two arrays of shape (n,).
    """
    cell, panel_lower, panel_width = _panels(edges, steepest=pair.steepest)
    total = np.zeros_like(panel_width)
    raised = np.zeros_like(panel_width)
    floor = np.exp(losses[:-1])[cell]
    for node, weight in zip(*_quadrature(), strict=True):
        p, q = pair.densities(panel_lower + panel_width * (0.5 + node))
        total += weight * p
        raised += weight * (p - floor * q)
    total *= panel_width
    raised *= panel_width
    if cell.size > losses.size - 1:
        total = np.bincount(cell, weights=total, minlength=losses.size - 1).astype(np.float64)
        raised = np.bincount(cell, weights=raised, minlength=losses.size - 1).astype(np.float64)
    # P_k = lo + hi and Q_k = lo e^-l + hi e^-(l+h), solved for hi: (P_k - e^l Q_k) / (1 - e^-h).
    upper = np.clip(raised / -np.expm1(-np.diff(losses)), 0.0, total)
    return total - upper, upper


def on_grid(pair: LinePair, *, width: float, span: tuple[float, float]) -> Losses:
    """Return one step's privacy loss distribution on the multiples of `width`. span: the ends of the points."""
    low, high = span
    first = -1 if pair.is_mirrored else math.floor(float(pair.losses(np.array(low))) / width) - 1
    last = math.ceil(float(pair.losses(np.array(high))) / width) + 1
    losses = width * np.arange(first, last + 1, dtype=np.float64)
    masses = np.zeros(losses.size)
    at_zero, moved = 0.0, 0.0
    for start in range(0, losses.size - 1, _CHUNK):
        deadline.check()
        part = slice(start, min(start + _CHUNK + 1, losses.size))
        points = np.clip(pair.points(losses[part]), low, high)
        moved = max(moved, pair.more_error(points, losses[part], span))
        lower, upper = split(pair, points, losses[part])
        masses[part][:-1] += lower
        masses[part][1:] += upper
        if start == 0:
            at_zero = float(lower[min(1, lower.size - 1)])
    farthest = max(-low, high) + pair.reach
    error = (4 * farthest**2 + 2 * float(np.abs(losses).max()) + 32) * UNIT_ROUNDOFF + moved
    missing = pair.missing(span)
    if not pair.is_mirrored:
        return Losses(width, first, masses, (missing, missing), error)
    # Index 1 is loss 0 here. Mirrored, P has below 0 what Q has above it.
    above = masses[2:]
    below = (above * np.exp(-losses[2:]))[::-1]
    middle = pair.at_zero(at_zero)
    return Losses(width, -above.size, np.concatenate((below, [middle], above)), (missing, missing), error)

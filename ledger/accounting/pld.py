"""Privacy loss distributions of one step of subsampled DP-SGD, on a grid, dominating the exact ones.

A *pair* (P, Q) dominates a mechanism when its trade-off function lies below that of every pair of neighbouring
datasets; its privacy loss is L = log(dP/dQ) under P. Pairs here are in units of the noise's standard deviation, with d
the distance by which a unit moves the mean:

    removal       P = (1-q) N(0,1) + q N(d,1)    Q = N(0,1)                      Poisson, add_or_remove_one, d = 1/s
    antipodal     P = (1-q) N(0,1) + q N(d,1)    Q = (1-q) N(0,1) + q N(-d,1)    Poisson, replace_one, d = 1/s
    symmetrised   the pair whose trade-off function is C_q(G_d)                  fixed size, replace_one, d = 2/s

*Removal*: Zhu, Dong & Wang 2022 (AISTATS), Thm. 11; adding a unit is the same pair in the other order, and `Losses.
reversed` is its loss. Under composition each order dominates its own direction, and since the target f_{0,delta} (x)
G_mu is its own inverse, one pair seen from both ends covers both.

*Symmetrised*: Dong, Roth & Su 2022, Thm. 4.2: with q = B/N, batches of B drawn without replacement make of an f-DP
mechanism a C_q(f)-DP one, C_q(f) = min(f_q, f_q^-1)** with f_q = q f + (1-q) Id. Replacing a unit moves the sum of
clipped gradients by 2C, so f = G_{2/s}. f_q is the trade-off function of the removal pair with d = 2/s; the convex hull
keeps its losses above 0, their mirror image below 0, and puts the rest of the mass on loss 0.

*Antipodal* is our own proof. Given the other units of the batch, the two datasets' outputs are (1-q) N(0,I) + q N(u,I)
and (1-q) N(0,I) + q N(v,I) with |u|, |v| <= d, and a mixture over batches is covered by joint convexity. For alpha >= 1
and c = (alpha-1)(1-q)/q the hockey-stick divergence is

    H_alpha = q * integral of [phi_u - c phi_0 - alpha phi_v]_+ = q E[(1 - X - Y)_+],
    X = c exp(a.W - |a|^2/2),  Y = alpha exp(b.W - |b|^2/2),  W ~ N(0,I),  a = -u,  b = v - u.

(1 - x - y)_+ is convex in the sum, hence supermodular in (x, y), so that for given |a|, |b| its expectation grows with
the covariance a.b of the two Gaussian exponents (Mueller & Scarsini 2000; Slepian) and is largest when a and b point
the same way. Then X and Y are comonotone; each grows in convex order with |a|, |b| at a fixed mean, and sums of
comonotone variables keep that order (Dhaene et al. 2002, Thm. 7). So it is largest at |a| = d, |b| = 2d in the same
direction: u = -v, of length d, the antipodal pair. For alpha < 1 swap P and Q. The tests check it by quadrature.

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
from dataclasses import dataclass
from typing import Final, Literal

from ledger.accounting import deadline
from ledger.accounting.gdp import UNIT_ROUNDOFF
from ledger.accounting.numeric import FloatArray, NDArray, np, special

_PANELS_PER_UNIT: Final = 32
_CHUNK: Final = 2**16
_SAMPLES: Final = 4096
_DENSITY: Final = 1 / math.sqrt(2 * math.pi)


@dataclass(frozen=True, slots=True)
class Pair:
    """A dominating pair, as the module describes it.

    distance: by how many standard deviations of the noise a unit moves the mean. rate: the probability q of sampling
    it, in (0, 1).
    """

    kind: Literal["removal", "antipodal", "symmetrised"]
    distance: float
    rate: float

    @property
    def mu(self) -> float:
        """Return the mu of the pair without subsampling, which dominates this one."""
        return 2 * self.distance if self.kind == "antipodal" else self.distance

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
        """Return log(p/q) at these points; it increases."""
        up = self._shifted(z)
        return up - self._shifted(-z) if self.kind == "antipodal" else up

    def _shifted(self, z: FloatArray) -> FloatArray:
        """Return log(1 - q + q exp(d z - d^2/2))."""
        exponent = self.distance * (z - self.distance / 2)
        return np.where(
            exponent < 1,
            np.log1p(self.rate * np.expm1(np.minimum(exponent, 1))),
            np.logaddexp(math.log1p(-self.rate), math.log(self.rate) + exponent),
        )

    def points(self, losses: FloatArray) -> FloatArray:
        """Return the points with these losses: the inverse of `losses`; -inf for losses below all of them."""
        d, rate = self.distance, self.rate
        if self.kind == "antipodal":
            # With y = exp(d z) and v = y e^(-l/2): v - 1/v = 2 (1-q) e^(d^2/2) sinh(l/2) / q.
            return (losses / 2 + np.arcsinh((1 - rate) * math.exp(d * d / 2) * np.sinh(losses / 2) / rate)) / d
        with np.errstate(divide="ignore", over="ignore"):
            excess = np.exp(losses) - (1 - rate) if rate > 0.5 else np.expm1(losses) + rate
            ratio = np.where(losses < 500, np.log(np.maximum(excess, 0) / rate), losses - math.log(rate))
        return ratio / d + d / 2

    def span(self, share: float) -> tuple[float, float]:
        """Return the points beyond which, on either side, neither P nor Q has more than `share` of its mass."""
        low, high = 0.0, self.distance + float(-special.ndtri(share)) + 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if self._above(middle) <= share else (middle, high)
        return (-high if self.kind == "antipodal" else float(special.ndtri(share)) - 2**-20), high

    def _above(self, z: float) -> float:
        return float((1 - self.rate) * special.ndtr(-z) + self.rate * special.ndtr(self.distance - z)) * (1 + 2**-20)

    def missing(self, span: tuple[float, float]) -> float:
        """Return the most mass that P, or Q, has outside a span."""
        below = self._above(-span[0]) if self.kind == "antipodal" else float(special.ndtr(span[0])) * (1 + 2**-20)
        # Symmetrised, the mass above is below as well.
        return 2 * max(below, self._above(span[1]))

    # --- as a source of an exact composition, see `pairs`

    @property
    def is_one_sided(self) -> bool:
        """Return whether it differs from its reverse."""
        return self.kind == "removal" and self.rate < 1

    def on_grid(self, width: float, share: float) -> Losses:
        """Return its privacy loss distribution on the multiples of `width`. share: of its mass that may be left out."""
        return on_grid(self, width=width, span=self.span(share))

    def spread(self, share: float) -> tuple[float, float]:
        """Return the approximate variance of its loss, and the range: a width is chosen by them."""
        low, high = self.span(share)
        z = np.linspace(*self.span(1e-9), _SAMPLES)
        weights, losses = self.densities(z)[0], self.losses(z)
        weights = weights / weights.sum()
        if self.kind == "symmetrised":
            losses = np.where(losses > 0, losses, 0.0)
        variance = float(weights @ losses**2 - (weights @ losses) ** 2)
        return variance, float(np.ptp(self.losses(np.array([low, high]))))


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


def split(pair: Pair, edges: FloatArray, losses: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the mass of P between neighbouring points, split on the losses at its lower and its upper end.

    edges, losses: increasing, of shape (n + 1,); the losses are those at the edges, or below and above them at the two
    outer ones, which may lie within a cell of the grid. Returns two arrays of shape (n,).
    """
    cell, panel_lower, panel_width = _panels(edges, steepest=1 + 2 * pair.distance)
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


def on_grid(pair: Pair, *, width: float, span: tuple[float, float]) -> Losses:
    """Return one step's privacy loss distribution on the multiples of `width`. span: the ends of the points."""
    low, high = span
    first = -1 if pair.kind == "symmetrised" else math.floor(float(pair.losses(np.array(low))) / width) - 1
    last = math.ceil(float(pair.losses(np.array(high))) / width) + 1
    losses = width * np.arange(first, last + 1, dtype=np.float64)
    masses = np.zeros(losses.size)
    at_zero = 0.0
    for start in range(0, losses.size - 1, _CHUNK):
        deadline.check()
        part = slice(start, min(start + _CHUNK + 1, losses.size))
        lower, upper = split(pair, np.clip(pair.points(losses[part]), low, high), losses[part])
        masses[part][:-1] += lower
        masses[part][1:] += upper
        if start == 0:
            at_zero = float(lower[min(1, lower.size - 1)])
    farthest = max(-low, high) + pair.distance
    error = (4 * farthest**2 + 2 * float(np.abs(losses).max()) + 32) * UNIT_ROUNDOFF
    missing = pair.missing(span)
    if pair.kind != "symmetrised":
        return Losses(width, first, masses, (missing, missing), error)
    # Index 1 is loss 0 here. Mirrored, P has below 0 what Q has above it.
    above = masses[2:]
    below = (above * np.exp(-losses[2:]))[::-1]
    # P(L <= 0) - Q(L > 0) of the removal pair, whose loss is 0 at z = d/2; and the mass that cells next to 0 put there.
    middle = (1 - pair.rate) * special.erf(pair.distance / math.sqrt(8)) + 2 * at_zero
    return Losses(width, -above.size, np.concatenate((below, [middle], above)), (missing, missing), error)

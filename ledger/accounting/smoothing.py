"""What a run costs beside Gaussian noise that is still to come: the least c, by the divergence of both together.

*What is asked.* For a pair (P, Q), a delta d and r > 0 the least c for which

    T(P x N(0,1), Q x N(sqrt r, 1)) >= f_{0,d} (x) G_sqrt(r+c).

Both sides are given by their divergences, D_r on the left and d + (1-d) delta_sqrt(r+c) on the right, and the question
is D_r <= d + (1-d) delta_sqrt(r+c) at every real epsilon (Dong, Roth & Su 2022, Prop. 2.12), that is, at all from 0 on
in both orders.

*Excess.* Let E(l) = D(l) - max(0, 1 - e^l) be what the run's divergence is above that of nothing at all; from below 0
it is e^l times the divergence of the other order at -l. With the density N(.; 0, v) of a normal distribution of
variance v let K_v(e) = e^(-v/8) N(e; 0, v). Smoothing by Gaussian losses, which have mean r/2 and variance r under P,
and d/dv delta_sqrt(v)(e) = e^(e/2) K_v(e) / 2 give

    e^(-e/2) (D_r(e) - delta_sqrt(r)(e)) = K_r(e) F(e/r),
    e^(-e/2) (delta_sqrt(r+c)(e) - delta_sqrt(r)(e)) = K_r(e) G(e/r),

    F(s) = integral over all l of e^(-l/2) E(l) e^(s l - l^2/2r),
    G(s) = 1/2 integral over y in [0, b] of e^(s^2 y/2) w(y),

with b = r c/(r+c) and w(y) = (1 - y/r)^(-3/2) e^(-(y/8)/(1 - y/r)). Add
H(s) = d e^(-e/2) (1 - delta_sqrt(r+c)(e)) / K_r(e)
and the question is F <= G + H at all s, with the two orders of the pair on the two sides of 0, where G and H are even.
Nothing here cancels: F and G are of the size of c, and a small c is as exact as a large one.

*From some s to all of them.* Between two points, h apart, log F lies below its chord: F is a Laplace transform. The
second derivative of log G is a mean of y, and the variance of s y, over y in [0, b] with the density e^(s^2 y/2) w(y).
So it is at most k = b + s^2 b^2/4; and b + 2 s^2/t^2 with t = s^2/2 - (1 + c/r)^2/8 > 0, since the density falls from
b downwards at a rate of t or more, as (log w)' >= -(1 + c/r)^2/8, so that the mean of (b - y)^2 is at most 2/t^2.
That of log H is at most r: 1 - delta_m(e) is the distribution function of a normal variable less an exponential one,
and so log-concave. For any weight v, G + H >= (G/v)^v (H/(1-v))^(1-v). So F <= G + H between two points if at both

    log F <= v log(G/v) + (1-v) log(H/(1-v)) - (v k + (1-v) r) h^2/8.

*And beyond the last.* D_r falls, so D_r <= d at a point is enough. Or, with losses up to M, and F <= G at a point where
the slope of log G is M or more: that of log F is never above M, and that of log G rises.

*Computed.* E is bounded by chords in e^l between points (`profiles`), where the divergence is missing + (1 - missing)
times that of a pair without infinite losses; missing is taken from d. A cell of width 2 t is integrated by Gauss and
Legendre's rule with n nodes, which errs by at most 32/15 rho^-2n/(1 - rho^-2) times the cell's width times the largest
value on the ellipse with half-axes t a and t b', a, b' = (rho +- 1/rho)/2. With a slope g of the exponent at the middle
that is, over the mean in the cell, e^(g t (1+a) + t^2 (1+b'^2)/2r) for the exponential, which has the curvature -1/r,
and 2 + (1+a) e^(t (1+a)) for the chord, whose mean is half its largest value or more. The best rho is taken.
G is integrated in the same way with 16 nodes while b (s^2/2 + 1) <= 20 and c <= r/2, where rho = 4 gives 1e-12;
else it is the difference of two closed forms, less their rounding.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ledger.accounting import deadline, gdp
from ledger.accounting.gdp import UNIT_ROUNDOFF
from ledger.accounting.numeric import FloatArray, np, special
from ledger.accounting.profiles import Profile

_GRID_TOLERANCE: Final = 6e-3
_MARGIN: Final = 1e-3
_NEGLIGIBLE: Final = 2.0**-10
"""The part of delta that losses beyond the last point may take."""
_ROUNDS: Final = 12
_EXTENSIONS: Final = 40
_ROOT_STEPS: Final = 30
_BINDING: Final = 8
_FALLS: Final = (2.0**-5, 2.0**-12, 2.0**-24, 2.0**-48)
"""A c is looked for above the first of these parts of what the run costs at the level before, then above the others."""
MU_SQ_MAX: Final = 64.0
"""Runs that cost more alone than this are not worth a table."""
_REACH: Final = 40.0
"""Levels below this part of a run's own cost cost it in full."""
_ROUNDING: Final = 2.0**-36
_RULES: Final = (3, 5, 8, 12)
"""Nodes in a cell: the fewest of these that err by little."""
_QUADRATURE_ERROR: Final = 2e-4
_ELLIPSES: Final = (3.0, 4.0, 6.0, 9.0, 14.0, 22.0, 40.0, 80.0)


@dataclass(frozen=True, slots=True)
class Smoothed:
    """The excess of a pair, by points and the divergence at each; in two orders, or in one if both are the same.

    missing: the probability of an infinite loss. top: the largest other loss. reach: half the widest cell; slope: the
    largest of half a cell's width times its largest loss. kept: nodes that were worked out.
    """

    cells: tuple[tuple[FloatArray, FloatArray], ...]
    missing: float
    top: float
    reach: float
    slope: float
    kept: dict[int, tuple[FloatArray, FloatArray]]

    def log_transforms(self, s: FloatArray, r: float) -> FloatArray:
        """Return log F from above at each s >= 0, the larger of both orders. Shape (n,)."""
        # The rule errs most at the largest s.
        slope = (float(s.max()) + 0.5) * self.reach + self.slope / r
        count, error = _rule_for(slope, self.reach, r)
        nodes, logs = self.nodes(count)
        weighted = logs - nodes * nodes / (2 * r)
        transforms = _log_sums(np.multiply.outer(s, nodes) + weighted)
        if len(self.cells) > 1:
            transforms = np.maximum(transforms, _log_sums(np.multiply.outer(-s, nodes) + weighted))
        size = float(s.max()) * self.top + self.top * self.top / (2 * r)
        return transforms + (math.log1p(error) + _rounding(size))

    def nodes(self, count: int) -> tuple[FloatArray, FloatArray]:
        """Return this many nodes in each cell, and the logarithms of their weights: both orders, on the sides of 0."""
        if count not in self.kept:
            forward, backward = (_nodes(*cells, count) for cells in (self.cells[0], self.cells[-1]))
            self.kept[count] = np.append(forward[0], -backward[0]), np.append(forward[1], backward[1])
        return self.kept[count]


def _log_sums(exponents: FloatArray) -> FloatArray:
    """Return the logarithm of the sum of the exponentials of each row."""
    shift = exponents.max(axis=1)
    exponents -= shift[:, np.newaxis]
    sums: FloatArray = shift + np.log(np.exp(exponents, out=exponents).sum(axis=1))
    return sums


def _rounding(size: float) -> float:
    """Return what a logarithm may be off by, if the numbers that it was added up from are of this size at most."""
    return _ROUNDING + 64 * UNIT_ROUNDOFF * size


def _rule_for(slope: float, reach: float, r: float) -> tuple[int, float]:
    """Return the rule with the fewest nodes that errs by little, and its error: as for `_quadrature_error`."""
    for nodes in _RULES[:-1]:
        error = _quadrature_error(slope, reach, r, nodes)
        if error <= _QUADRATURE_ERROR:
            return nodes, error
    return _RULES[-1], _quadrature_error(slope, reach, r, _RULES[-1])


def _quadrature_error(slope: float, reach: float, r: float, nodes: int) -> float:
    """Return the relative error of the rule in a cell: the least bound over some ellipses, from the formula above.

    slope: what the exponent changes by over half the cell, at most. reach: half the cell's width.
    """
    least = math.inf
    for rho in _ELLIPSES:
        a, b = (rho + 1 / rho) / 2, (rho - 1 / rho) / 2
        exponents = slope * (1 + a) + reach * reach / r * (1 + b * b) / 2
        chord = math.log(2 + (1 + a) * math.exp(min(reach * (1 + a), 600.0)))
        least = min(least, exponents + chord + math.log(32 / 15 / (1 - rho**-2)) - 2 * nodes * math.log(rho))
    return math.exp(min(least, 700.0))


def smoothed(profiles: tuple[Profile, ...], delta: float) -> Smoothed | None:
    """Return the excess of a pair for a delta; None if its infinite losses alone take more than delta."""
    cut = [profile.until(delta * _NEGLIGIBLE) for profile in profiles]
    missing = max(float(profile.values[-1]) for profile in cut)
    if missing > delta or (missing == delta and delta > 0):
        return None
    cells, reach, slope = [], 0.0, 0.0
    for profile in cut:
        values = np.maximum(profile.values - missing, 0.0) / (1 - missing) * (1 + 8 * UNIT_ROUNDOFF)
        cells.append((profile.losses, values))
        half = np.diff(profile.losses) / 2
        reach = max(reach, float(half.max(initial=0.0)))
        slope = max(slope, float((half * profile.losses[1:]).max(initial=0.0)))
    top = max(float(profile.losses[-1]) for profile in cut)
    return Smoothed(tuple(cells), missing, top, reach, slope, {})


@functools.cache
def _rule(nodes: int) -> tuple[FloatArray, FloatArray]:
    """Return nodes and weights of a Gauss-Legendre rule on [0, 1]."""
    points, weights = special.roots_legendre(nodes)
    return (points + 1) / 2, weights / 2


def _nodes(losses: FloatArray, values: FloatArray, count: int) -> tuple[FloatArray, FloatArray]:
    """Return nodes within the cells and the logarithms of their weights, times e^(-l/2) D(l) by its chord in e^l."""
    points, weights = _rule(count)
    width = np.diff(losses)[:, np.newaxis]
    nodes = losses[:-1, np.newaxis] + width * points
    share = np.expm1(width * points) / np.expm1(width)
    chords = values[:-1, np.newaxis] * (1 - share) + values[1:, np.newaxis] * share
    with np.errstate(divide="ignore"):
        logs = np.log(width * weights * chords) - nodes / 2
    kept = np.isfinite(logs)
    return nodes[kept], logs[kept]


# --- the right-hand side ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Target:
    """G and H at some s for r, c and d, from below."""

    log_gaussian: FloatArray
    log_shown: FloatArray

    @property
    def log_sum(self) -> FloatArray:
        return np.logaddexp(self.log_gaussian, self.log_shown)


def _target(s: FloatArray, r: float, c: float, log_delta: float) -> _Target:
    with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):
        return _Target(_log_gaussian(s, r, c), _log_shown(s, r, c, log_delta))


def _log_gaussian(s: FloatArray, r: float, c: float) -> FloatArray:
    b = r * c / (r + c)
    exponents = b * (s * s / 2 + 1)
    smooth = (exponents <= 20) & (c <= r / 2)
    result = np.full(s.shape, -math.inf)
    if smooth.any():
        points, weights = _rule(16)
        y = b * points
        rest = 1 - y / r
        density = b / 2 * weights * rest**-1.5 * np.exp(-y / 8 / rest)
        sums = (np.exp(np.multiply.outer(s[smooth] ** 2 / 2, y)) * density).sum(axis=1)
        result[smooth] = np.log(sums) - _ROUNDING
    if not smooth.all():
        result[~smooth] = _log_difference(s[~smooth], r, c)
    return result


def _log_difference(s: FloatArray, r: float, c: float) -> FloatArray:
    """Return log G by the two divergences themselves."""
    near, far = _tails(s * r, r), _tails(s * r, r + c)
    growth = s * s * (r * c / (r + c)) / 2 - c / 8
    # In units of the larger of both; Mills' ratios are within 10 u of themselves.
    shift = np.maximum(growth, 0.0)
    errors = 64 * UNIT_ROUNDOFF * (1 + s * s * r + r + c)
    upper = np.exp(growth - shift) * (far[0] - far[1] - errors * (far[0] + far[1]))
    lower = np.exp(-shift) * (near[0] - near[1] + errors * (near[0] + near[1]))
    difference = upper - lower
    return np.where(difference > 0, shift + np.log(math.sqrt(r) * np.maximum(difference, 0.0)) - _ROUNDING, -math.inf)


def _tails(epsilon: FloatArray, v: float) -> tuple[FloatArray, FloatArray]:
    """Return Mills' ratios at epsilon/m -+ m/2 for m^2 = v."""
    m = math.sqrt(v)
    return gdp.mills(epsilon / m - m / 2), gdp.mills(epsilon / m + m / 2)


def _log_shown(s: FloatArray, r: float, c: float, log_delta: float) -> FloatArray:
    """Return log H."""
    if log_delta == -math.inf:
        return np.full(s.shape, -math.inf)
    epsilon = s * r
    m = math.sqrt(r + c)
    a = epsilon / m - m / 2
    # 1 - delta_m(e) = phi(a) (R(-a) + R(b)); where a is large it is 1 - phi(a) (R(a) - R(b)).
    density = -a * a / 2 - math.log(2 * math.pi) / 2
    below = density + np.log(gdp.mills(-np.minimum(a, 1.0)) + gdp.mills(a + m))
    above = np.log1p(-np.exp(density) * (gdp.mills(np.maximum(a, -1.0)) - gdp.mills(np.maximum(a, -1.0) + m)))
    kept = np.where(a < 1, below, above)
    log_kernel = -r / 8 - epsilon * s / 2 - math.log(2 * math.pi * r) / 2
    return log_delta + kept - epsilon / 2 - log_kernel - _rounding(float(s.max()) ** 2 * r + r + c)


# --- the least c -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Points:
    """Some s, rising from 0, with log F at each. bound_slope: whether the last one is where slopes end the proof."""

    s: FloatArray
    transforms: FloatArray


def least_cost(excess: Smoothed, *, r: float, delta: float, most: float) -> float:
    """Return a c, from above, that is at most `most`, itself valid.

    r: of the Gaussian noise, at least 0. delta: that of the run, in [0, 1).
    """
    if not 0 < most <= MU_SQ_MAX or r * _REACH < most:
        return most
    shown = (delta - excess.missing) / (1 - excess.missing) * (1 - 8 * UNIT_ROUNDOFF)
    if not any(values.any() for _, values in excess.cells):
        return 0.0
    log_delta = math.log(shown) if shown > 0 else -math.inf
    end = _end(excess, r, shown, most) if shown > 0 else _slope_end(excess, r, most)
    if end is None:
        return most
    points = _on_grid(excess, r, most, end)
    c = most
    for fall in _FALLS:
        least, above = most * fall, c
        c = _root(points, r, log_delta, least, above)
        if c > least:
            break
    for _ in range(_ROUNDS):
        deadline.check()
        if c >= most:
            return most
        bad = _failing(points, r, c, log_delta)
        if not bad.any() and (shown > 0 or _ends(points, excess.top, r, c)):
            return c
        if bad.any():
            middles = (points.s[:-1][bad] + points.s[1:][bad]) / 2
            points = _merged(points, _Points(middles, excess.log_transforms(middles, r)))
            c = _root(points, r, log_delta, c, most)
        else:
            beyond = points.s[-1:] * 1.5
            points = _merged(points, _Points(beyond, excess.log_transforms(beyond, r)))
            c = _root(points, r, log_delta, c, most)
    return most


def least_costs(excess: Smoothed, at: Sequence[float], *, delta: float, standalone: float) -> list[float]:
    """Return `least_cost` at each of some rising levels: never rising, and at most `standalone`."""
    found, most = [], standalone
    for r in at:
        most = least_cost(excess, r=r, delta=delta, most=most)
        found.append(most)
    return found


def _end(excess: Smoothed, r: float, shown: float, most: float) -> float | None:
    """Return an s from which on D_r <= delta."""
    # delta_m(e) <= Phi(-a) with a = e/m - m/2.
    m = math.sqrt(r + most)
    epsilon = max(m * (m / 2 - float(special.ndtri(min(shown / 4, 0.5)))), m / 8)
    for _ in range(_EXTENSIONS):
        s = np.array([epsilon / r])
        log_kernel = -r / 8 - epsilon * epsilon / (2 * r) - math.log(2 * math.pi * r) / 2
        log_excess = float(excess.log_transforms(s, r)[0]) + epsilon / 2 + log_kernel
        log_excess += _rounding(epsilon * epsilon / r + r)
        total = float(gdp.delta(mu=math.sqrt(r), epsilon=epsilon)) + math.exp(min(log_excess, 0.0))
        if total * (1 + _ROUNDING) <= shown:
            return float(s[0])
        epsilon = 1.1 * epsilon + 0.01 * math.sqrt(r)
    return None


def _slope_end(excess: Smoothed, r: float, most: float) -> float:
    """Return an s at which the slope of log G is probably beyond the largest loss."""
    return 2.5 * excess.top * (r + most) / (r * most)


def _ends(points: _Points, top: float, r: float, c: float) -> bool:
    """Return whether slopes end the proof at the last point."""
    last = points.s[-2:]
    with np.errstate(all="ignore"):
        logs = _log_gaussian(last, r, c)
    slope = (logs[1] - logs[0] - 4 * _ROUNDING) / (last[1] - last[0])
    return bool(slope >= top)


def _on_grid(excess: Smoothed, r: float, c: float, end: float) -> _Points:
    """Return points as close as the second derivative of log G asks for."""
    fine = np.linspace(0.0, end, 200)
    density = np.sqrt(_curvature(fine, r, c) / (8 * _GRID_TOLERANCE)) + 12 / end
    count = np.append(0.0, np.cumsum(density * np.diff(fine)))
    s = np.interp(np.linspace(0.0, count[-1], math.ceil(count[-1]) + 1), count, fine)
    return _Points(s, excess.log_transforms(s, r))


def _failing(points: _Points, r: float, c: float, log_delta: float) -> Any:
    """Between which neighbours F <= G + H is not shown; of shape (n - 1,)."""
    target = _target(points.s, r, c, log_delta)
    log_sum = target.log_sum
    with np.errstate(all="ignore"):
        part = np.exp(target.log_gaussian - log_sum)
    weight = (part[:-1] + part[1:]) / 2
    weight = np.where(weight > 1 - 1e-6, 1.0, np.where(weight < 1e-6, 0.0, weight))
    curvature = weight * _curvature(points.s, r, c) + (1 - weight) * r
    loss = curvature * np.diff(points.s) ** 2 / 8 * (1 + _ROUNDING)
    fails = np.zeros(weight.shape, dtype=bool)
    for side in (slice(None, -1), slice(1, None)):
        bound = _weighted(target.log_gaussian[side], weight) + _weighted(target.log_shown[side], 1 - weight)
        fails |= ~(points.transforms[side] <= bound - loss - _ROUNDING)
    return fails


def _curvature(s: FloatArray, r: float, c: float) -> FloatArray:
    """Return what the second derivative of log G is at most, between neighbours; of shape (n - 1,)."""
    b = r * c / (r + c)
    fall = s[:-1] ** 2 / 2 - (1 + c / r) ** 2 / 8
    with np.errstate(all="ignore"):
        near_end = np.where(fall > 0, 2 * s[:-1] ** 2 / fall**2, math.inf)
    curvature: FloatArray = b + np.minimum(s[1:] ** 2 * b * b / 4, near_end)
    return curvature


def _weighted(logs: FloatArray, weight: FloatArray) -> FloatArray:
    """Return v log(x/v); 0 for v = 0."""
    with np.errstate(all="ignore"):
        return np.where(weight > 0, weight * (logs - np.log(weight)), 0.0)


def _merged(one: _Points, other: _Points) -> _Points:
    s = np.concatenate((one.s, other.s))
    order = np.argsort(s)
    return _Points(s[order], np.concatenate((one.transforms, other.transforms))[order])


def _root(points: _Points, r: float, log_delta: float, least: float, most: float) -> float:
    """Return a c from `least` on, above 0, at which all points hold with a margin, or `most`."""
    s, transforms = points.s, points.transforms

    def lacking(log_c: float) -> FloatArray:
        return transforms - _target(s, r, math.exp(log_c), log_delta).log_sum + 2 * _MARGIN

    low, high = math.log(least), math.log(most)
    below = lacking(low)
    if below.max() <= _MARGIN:
        return least
    above = lacking(high)
    if above.max() > _MARGIN:
        return most
    # Those that can bind at the root are few; what is left out is looked at again by the final check.
    kept = np.union1d(np.argsort(below)[-_BINDING:], np.argsort(above)[-_BINDING:])
    s, transforms = s[kept], transforms[kept]
    value_low, value_high = float(below.max()), float(above.max())
    for _ in range(_ROOT_STEPS):
        if value_high > -_MARGIN or high - low < _MARGIN / 4:
            break
        share = value_low / (value_low - value_high)
        middle = low + (high - low) * min(max(share, 0.03), 0.97)
        value = float(lacking(middle).max())
        if value > _MARGIN:
            low, value_low = middle, value
        else:
            high, value_high = middle, value
    return math.exp(high)

"""What is known of subsampled Gaussian steps without `ledger.accounting`: exact for one step, from below for many.

    Step          one step's pair of distributions, by its definition: exact tails, the exact (eps, delta) curve and the
                  exact least mu, in mpmath or from the tails of SciPy that do not cancel
    score_mu      for many steps, a mu that no certificate may be below: any test of P^T against Q^T is a proof of that.
                  The test used rounds each step's privacy loss to a lattice and adds up, which is nearly the best one
    optimistic    dp-accounting's optimistic curve, whose losses are rounded down
    prv           prv-accountant's lower bounds on epsilon

Everything is in units of the noise's standard deviation: a unit moves the mean by d.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import mpmath as mp
import numpy as np
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.privacy_accountant import NeighboringRelation
from numpy.typing import NDArray
from prv_accountant import PoissonSubsampledGaussianMechanism, PRVAccountant
from scipy import fft, special

from tests.accounting import oracle

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Kind = Literal["removal", "antipodal", "symmetrised"]

DIGITS = 120
_DENSE, _ZOOMS = 20_001, 12
_CELLS_PER_DEVIATION = 12
_LENGTH_MAX = 2**19
_POINTS_MAX = 30_000


@dataclass(frozen=True)
class Step:
    """One step. removal: (1-q) N(0) + q N(d) against N(0). antipodal: the same against (1-q) N(0) + q N(-d).

    symmetrised: both orders of the removal pair at once, whose (eps, delta) curve is the larger of their two.
    """

    kind: Kind
    d: float
    q: float

    def tails(self, z: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """P and Q above these points, and P and Q below them."""
        d, q = self.d, self.q
        far = -d if self.kind == "antipodal" else 0.0
        return (
            (1 - q) * special.ndtr(-z) + q * special.ndtr(d - z),
            (1 - q) * special.ndtr(-z) + q * special.ndtr(far - z),
            (1 - q) * special.ndtr(z) + q * special.ndtr(z - d),
            (1 - q) * special.ndtr(z) + q * special.ndtr(z - far),
        )

    def exact_tails(self, z: Any) -> tuple[Any, Any]:
        """P and Q above z, in mpmath."""
        d, q = oracle.exact(self.d), oracle.exact(self.q)
        far = -d if self.kind == "antipodal" else mp.mpf(0)
        p = (1 - q) * oracle.normal_cdf(-z) + q * oracle.normal_cdf(d - z)
        return p, (1 - q) * oracle.normal_cdf(-z) + q * oracle.normal_cdf(far - z)

    def losses(self, z: FloatArray) -> FloatArray:
        """log(p/q), which grows with z."""

        def shifted(sign: int) -> FloatArray:
            with np.errstate(divide="ignore"):
                return np.logaddexp(np.log1p(-self.q), math.log(self.q) + sign * self.d * z - self.d**2 / 2)

        return shifted(1) - shifted(-1) if self.kind == "antipodal" else shifted(1)

    def _point(self, epsilon: Any) -> Any:
        """Where p = e^epsilon q, in closed form; -inf where p is everywhere larger."""
        d, q, e = oracle.exact(self.d), oracle.exact(self.q), mp.exp(epsilon)
        if self.kind == "antipodal":
            # p/q = e: with y = e^(d z) and c = q e^(-d^2/2),  c y^2 + (1-q)(1-e) y - e c = 0.
            c, b = q * mp.exp(-d * d / 2), (1 - q) * (1 - e)
            return mp.log((-b + mp.sqrt(b * b + 4 * c * c * e)) / (2 * c)) / d
        excess = e - 1 + q
        return mp.log(excess / q) / d + d / 2 if excess > 0 else mp.mpf("-inf")

    def delta(self, epsilon_float: float) -> tuple[Any, Any]:
        """The hockey-stick divergences at e^epsilon of (P, Q) and of (Q, P), in mpmath; any real epsilon."""
        with mp.workdps(DIGITS):
            epsilon = oracle.exact(epsilon_float)
            p, q = self.exact_tails(self._point(epsilon))
            forward = p - mp.exp(epsilon) * q
            p, q = self.exact_tails(self._point(-epsilon))
            backward = (1 - q) - mp.exp(epsilon) * (1 - p)
            if self.kind == "symmetrised":
                forward = backward = max(forward, backward)
            return forward, backward

    def asked(self, z: FloatArray, delta: float) -> FloatArray:
        """The mu that the test "above z" asks for at a delta, -inf where it asks for none."""
        return _asked(self.tails(z), delta)

    def least_mu(self, delta: float) -> float:
        """The least mu of one step, from below, to about 1e-12: of a dense search over tests, refined, then in mpmath.

        Of the symmetrised pair too: a convex curve lies under the smaller of two trade-off functions when it lies under
        both, and the second is the mirror image of the first, as the target is of itself.
        """
        reach = float(-special.ndtri(delta)) + self.d + 1
        z = np.linspace(-reach, reach, _DENSE)
        for _ in range(_ZOOMS):
            best = int(np.argmax(self.asked(z, delta)))
            z = np.linspace(z[max(best - 1, 0)], z[min(best + 1, z.size - 1)], 101)
        values = self.asked(z, delta)
        return self._confirmed(float(z[int(np.argmax(values))]), delta, float(values.max()))

    def _confirmed(self, z: float, delta_float: float, near: float) -> float:
        """What this test asks for, in mpmath: a quantile is Newton's from the one in floating point."""
        if not near > 0:
            return 0.0
        with mp.workdps(DIGITS):
            p, q = self.exact_tails(oracle.exact(z))
            delta = oracle.exact(delta_float)
            level, other = (p - delta) / (1 - delta), q / (1 - delta)
            return float(quantile(level) - quantile(other))


def quantile(level: Any) -> Any:
    """Phi^-1 in mpmath, by Newton's method from the one in floating point."""
    tail = min(level, 1 - level)
    x = mp.mpf(float(special.ndtri(float(tail))))
    for _ in range(4):
        x -= (oracle.normal_cdf(x) - tail) / mp.npdf(x)
    return x if level == tail else -x


def _asked(tails: tuple[FloatArray, FloatArray, FloatArray, FloatArray], delta: float) -> FloatArray:
    above, other, below, other_below = tails
    kept = 1 - delta
    with np.errstate(invalid="ignore", divide="ignore"):
        upper = np.where(above < 0.5, special.ndtri((above - delta) / kept), -special.ndtri(below / kept))
        lower = np.where(other < 0.5, special.ndtri(other / kept), -special.ndtri((other_below - delta) / kept))
        return np.where((above > delta) & (other_below > delta), upper - lower, -np.inf)


# --- many steps: a test of our own -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lattice:
    """What is released of a step: its loss rounded to a multiple of `width`. p, q: their probabilities, shape (n,)."""

    width: float
    first: int
    p: FloatArray
    q: FloatArray

    @property
    def values(self) -> FloatArray:
        return self.width * np.arange(self.first, self.first + self.p.size, dtype=np.float64)

    def reversed(self) -> _Lattice:
        """The pair in the other order."""
        return replace(self, first=-(self.first + self.p.size - 1), p=self.q[::-1], q=self.p[::-1])


def _lattice(step: Step, *, steps: int, delta: float, cells_max: int) -> _Lattice:
    # What lies further out, where neither has more than delta over all steps, is one cell.
    share = delta / steps
    reach = float(-special.ndtri(share)) + step.d
    z = np.linspace(-reach, reach, 20_001)
    p_above, q_above, p_below, q_below = step.tails(z)
    kept = z[(np.maximum(p_above, q_above) > share) & (np.maximum(p_below, q_below) > share)]
    # Cells begin where the loss is an odd multiple of width/2; a table of the loss is inverted well enough, since
    # whichever points are used the test is a test.
    z = np.linspace(kept[0], kept[-1], 200_001)
    losses = step.losses(z)
    weights = np.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    deviation = math.sqrt(float(weights @ (losses - float(weights @ losses)) ** 2))
    width = max(deviation / _CELLS_PER_DEVIATION, float(losses[-1] - losses[0]) / cells_max)
    first, last = round(float(losses[0]) / width), round(float(losses[-1]) / width)
    edges = np.interp(width * (np.arange(first, last) + 0.5), losses, z)
    tails = step.tails(np.concatenate(([-np.inf], edges, [np.inf])))
    # From the tail that does not cancel.
    p = np.where(tails[2][1:] < 0.5, np.diff(tails[2]), -np.diff(tails[0]))
    q = np.where(tails[3][1:] < 0.5, np.diff(tails[3]), -np.diff(tails[1]))
    if step.kind != "symmetrised":
        return _Lattice(width, first, p, q)
    # Losses above 0 of the removal pair, their mirror image, and the rest at 0, where P and Q are alike.
    positive = np.arange(first, last + 1) > 0
    p, q = p[positive], q[positive]
    rest = np.array([1 - p.sum() - q.sum()])
    return _Lattice(width, -p.size, np.concatenate((q[::-1], rest, p)), np.concatenate((p[::-1], rest, q)))


def _moments(masses: FloatArray, values: FloatArray, exponents: FloatArray) -> tuple[FloatArray, FloatArray]:
    """log of the moment generating function, and its derivative, at these exponents."""
    kept = masses > 0
    logs, values = np.log(masses[kept]), values[kept]
    found = np.empty((2, exponents.size))
    for index, exponent in enumerate(exponents):
        terms = logs + exponent * values
        shift = terms.max()
        tilted = np.exp(terms - shift)
        total = tilted.sum()
        found[:, index] = shift + math.log(total), tilted @ values / total
    return found[0], found[1]


def _coarse(lattice: _Lattice, masses: FloatArray) -> tuple[FloatArray, FloatArray]:
    """About a thousand points in place of many, close together around 0: what tilts and windows are chosen by."""
    farther = np.unique(np.geomspace(256, 2**17, 300).round().astype(np.int64))
    index = np.concatenate((-farther[::-1], np.arange(-255, 256), farther)) - lattice.first
    starts = np.unique(np.clip(index, 0, masses.size - 1))
    totals = np.add.reduceat(masses, starts)
    places = np.add.reduceat(masses * lattice.values, starts)
    kept = totals > 0
    return totals[kept], places[kept] / totals[kept]


@dataclass(frozen=True)
class _Tail:
    """A tail of a sum of values, and what rounding and wrapping can have added to it at most."""

    value: FloatArray
    error: FloatArray


def _window(lattice: _Lattice, tilted: FloatArray, *, steps: int) -> tuple[int, int, float]:
    """(start, length, what lies outside): where the sum of tilted values is, by Chernoff's bound.

    The exponents of the bound are chosen on a coarse copy; the bound itself is of the values as they are.
    """
    totals, places = _coarse(lattice, tilted)
    mean = float(totals @ places)
    spread = math.sqrt(float(totals @ (places - mean) ** 2) * steps) + lattice.width
    exponents = np.geomspace(0.1, 40, 32) / spread
    highs = (steps * _moments(totals, places, exponents)[0] + 38) / exponents
    lows = -(steps * _moments(totals, places, -exponents)[0] + 38) / exponents
    chosen = np.array([exponents[int(np.argmin(highs))], -exponents[int(np.argmax(lows))]])
    low = max(float(lows.max()), steps * float(lattice.values[0]))
    high = min(float(highs.min()), steps * float(lattice.values[-1]))
    start = math.floor(low / lattice.width) - 16
    length = fft.next_fast_len(math.ceil(high / lattice.width) + 16 - start, real=True)
    if length > _LENGTH_MAX:
        return start, length, 1.0
    beyond = steps * _moments(tilted, lattice.values, chosen)[0]
    beyond -= chosen * lattice.width * np.array([start + length, start - 1])
    # Where the window ends with the sum itself, nothing is beyond.
    is_beyond = np.array([start + length <= steps * (lattice.first + tilted.size - 1), start > steps * lattice.first])
    return start, length, float(np.exp(np.minimum(beyond, 0.0)) @ is_beyond)


def _tail(lattice: _Lattice, masses: FloatArray, *, steps: int, tilt: float, at: IntArray) -> _Tail | None:
    """P(sum of `steps` values >= at * width), at whole numbers near the tilted mean; None where it takes too long."""
    values = lattice.values
    log_moment, mean = (float(found[0]) for found in _moments(masses, values, np.array([tilt])))
    with np.errstate(under="ignore"):
        tilted = masses * np.exp(tilt * values - log_moment)
    start, length, outside = _window(lattice, tilted, steps=steps)
    if length > _LENGTH_MAX:
        return None
    centre = round(mean / lattice.width)
    index = np.arange(lattice.first, lattice.first + masses.size) - centre
    with np.errstate(under="ignore"):
        powers = fft.rfft(np.bincount(index % length, weights=tilted, minlength=length)) ** steps
    composed = np.roll(fft.irfft(powers, length), -((start - steps * centre) % length))
    # Each frequency errs by a few u, which the power magnifies by the steps.
    noise = 2e-15 * (steps + math.log2(length)) * 2 * float(np.abs(powers).sum()) / length
    place, anchor = lattice.width * (start + np.arange(length)), steps * mean
    logs = -tilt * (place - anchor)
    shift = steps * log_moment - tilt * anchor
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp(np.minimum(logs, 600))
        scale = math.exp(max(min(shift, 600), -700))
    sums, errors = np.cumsum((weights * composed)[::-1])[::-1], np.cumsum(weights[::-1])[::-1] * noise
    chosen = np.clip(at - start, 0, length - 1)
    # Outside the window, and where numbers would not fit into a double, nothing is known.
    known = (at >= start) & (at < start + length) & (logs[chosen] < 600) & (abs(shift) < 600)
    return _Tail(sums[chosen] * scale, np.where(known, (errors[chosen] + outside * weights[chosen]) * scale, np.inf))


def _tilts(totals: FloatArray, places: FloatArray, *, steps: int, far: FloatArray) -> FloatArray:
    """The tilts that lead so many deviations out, by Chernoff's bound; bisected, all at once."""
    low, high = np.full(far.size, -40.0), np.full(far.size, 20.0)
    for _ in range(30):
        middle = (low + high) / 2
        logs, means = _moments(totals, places, np.exp(middle))
        short = 2 * steps * (np.exp(middle) * means - logs) < far**2
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return np.where(far > 0, np.exp(low), 0.0)


def _one_order(lattice: _Lattice, *, steps: int, delta: float) -> float | None:
    """The largest mu that a test "sum of the values >= t" asks for; None where one takes too long."""
    totals, places = _coarse(lattice, lattice.p)
    spread = math.sqrt(float(totals @ (places - totals @ places) ** 2) * steps) + lattice.width
    most = math.sqrt(-2 * math.log(delta))
    best = -math.inf
    for tilt in _tilts(totals, places, steps=steps, far=np.linspace(0, most, max(6, math.ceil(1.5 * most)))):
        beside = _moments(totals, places, tilt + np.array([-0.01, 0, 0.01]) / spread)[1] * steps
        middle, deviation = beside[1], math.sqrt(max(float(beside[2] - beside[0]) / 0.02 * spread, 0.0))
        around = np.linspace(middle - 1.5 * deviation, middle + 1.5 * deviation, 400) / lattice.width
        at = np.unique(np.round(around).astype(np.int64))
        first = _tail(lattice, lattice.p, steps=steps, tilt=tilt, at=at)
        second = _tail(lattice, lattice.q, steps=steps, tilt=tilt + 1, at=at)
        if first is None or second is None:
            return None
        above, other = first.value - first.error, np.maximum(second.value + second.error, 1e-300)
        best = max(best, float(_asked((above, other, 1 - above, 1 - other), delta).max()))
    return best


def score_mu(step: Step, *, steps: int, delta: float) -> float | None:
    """A mu that every certificate of these steps must reach; below 0 where delta covers them; None where all take long.

    Any lattice gives a proof, and the best is taken: a fine one where the sum is nearly normal, coarse ones where it is
    made by a few rare large losses, and a fine one would be too long.
    """
    reached: list[float] = []
    for cells_max in (2**15, 2**13, 2**11, 2**8):
        lattice = _lattice(step, steps=steps, delta=delta, cells_max=cells_max)
        orders = [lattice, lattice.reversed()] if step.kind == "removal" else [lattice]
        found = [_one_order(order, steps=steps, delta=delta) for order in orders]
        reached += [mu for mu in found if mu is not None]
        if None not in found and lattice.p.size < cells_max / 2:
            break
    return max(reached, default=None)


# --- many steps: the libraries of others -----------------------------------------------------------------------------


def _deviation(step: Step) -> float:
    """That of the privacy loss of a step, about: from above where it is more than 1."""
    move = 2 * math.sinh(step.d**2) if step.kind == "antipodal" else math.expm1(step.d**2)
    return step.q * math.sqrt(move)


def _reach(step: Step) -> float:
    """How far apart the losses of a step lie, about."""
    ends = step.losses(np.array([-9.0 - step.d, 9.0 + step.d]))
    return float(ends[1] - ends[0])


def optimistic(step: Step, *, steps: int, epsilons: FloatArray) -> list[FloatArray] | None:
    """The (eps, delta) curve from below in each order, by dp-accounting; None where it takes too many points.

    Its losses are rounded down, by half an interval on average in each step. A result is given where all steps together
    lose no more than a fifth of a standard deviation by that.
    """
    share = _deviation(step) / math.sqrt(steps)
    # What is composed spans about 16 standard deviations, and is read point by point.
    width = max(0.02 * share, _reach(step) / _POINTS_MAX, 16 * share * steps / (4 * _POINTS_MAX))
    if step.kind == "symmetrised" or width > 0.4 * share or share * steps > 10:
        return None
    relation = NeighboringRelation.REPLACE_ONE if step.kind == "antipodal" else NeighboringRelation.ADD_OR_REMOVE_ONE
    one = privacy_loss_distribution.from_gaussian_mechanism(
        1 / step.d,
        sampling_prob=step.q,
        pessimistic_estimate=False,
        use_connect_dots=False,
        value_discretization_interval=width,
        neighboring_relation=relation,
    )
    composed = one.self_compose(steps)
    # Composed masses are off by the rounding of an FFT, and by the 1e-15 that it counts as infinite in both estimates.
    slack = 4e-15 + 2e-15 * steps
    orders = [composed._pmf_remove] if step.kind == "antipodal" else [composed._pmf_remove, composed._pmf_add]
    return [np.asarray(order.get_delta_for_epsilon(list(epsilons))) * (1 - 1e-9) - slack for order in orders]


def prv(step: Step, *, steps: int, at_deltas: list[float]) -> list[float] | None:
    """Lower bounds of epsilon at these deltas, of the removal pair, by prv-accountant; None where it does not tell."""
    total = _deviation(step) * math.sqrt(steps)
    epsilon_error, delta_error = 0.01 * total, 1e-9
    points = 2 * (4 + 8 * total) * math.sqrt(steps / 2 * math.log(12 / delta_error)) / epsilon_error
    if step.kind != "removal" or points > 10 * _POINTS_MAX or total > 5:
        return None
    mechanism = PoissonSubsampledGaussianMechanism(step.q, 1 / step.d)
    with np.errstate(all="ignore"):
        try:
            accountant = PRVAccountant(mechanism, epsilon_error, delta_error, max_self_compositions=steps)
            composed = accountant.compute_composition(steps)
            return [float(composed.compute_epsilon(at, delta_error, epsilon_error)[0]) for at in at_deltas]
        except RuntimeError:
            # It checks its own grid, and says so where that is too coarse for a few rare large losses.
            return None

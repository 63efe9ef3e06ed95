"""Certified costs of subsampled DP-SGD: for a share delta of the budget, a mu that is proved.

`Curve` is a lower bound of the trade-off function of some steps; `Curve.mu(delta)` is the certificate, at any number of
deltas. `certificate` divides steps into groups, and keeps curves. `pld` puts the exact losses on a grid; `composition`
composes them, and adds every error. The choices made here (the grid's width, tilts, windows) decide how tight and how
fast a certificate is. It is valid whatever they are.

A single step needs no FFT: `single` refines the grid at the cells that bind. If no plan resolves, the fallback
(sqrt(T)/s, 0), or (2 sqrt(T)/s, 0) under replace_one, is a certificate too: sampling only post-processes (joint
convexity), so the pair without sampling dominates a step.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from ledger.accounting import deadline
from ledger.accounting.blending import vertices
from ledger.accounting.composition import Part, Tilt, Vertices, unresolved
from ledger.accounting.gdp import UNIT_ROUNDOFF
from ledger.accounting.levels import Mixing, blend
from ledger.accounting.mixtures import Revealed
from ledger.accounting.numeric import FloatArray, NDArray, np, special
from ledger.accounting.pld import Losses, Pair
from ledger.accounting.profiles import Profile, profile_of
from ledger.accounting.sampling import Cap as Cap
from ledger.accounting.sampling import Sampling as Sampling
from ledger.accounting.sampling import pair_for as pair_for
from ledger.accounting.single import single

NOISE_MULTIPLIER_MIN: Final = 0.1
"""With less noise than this, sampling hides next to nothing, and densities leave the range of doubles."""
DELTA_MIN: Final = 1e-100
"""A smaller share of delta counts as none. Tilting resolves tails far below it, but slowly."""
LENGTH_MAX: Final = 2**21
LENGTHS_MAX: Final = 3 * 2**20
ATOMS_MAX: Final = 2**20
"""The longest transform, all transforms together, and the most points of one step's grid: about a second, 300 MB."""

_WIDTHS_PER_DEVIATION: Final = 12
_MISSING_SHARE: Final = 2.0**-10
"""The part of delta that losses beyond the grid can use."""
_SLACK_LOG: Final = 13.0
"""The mass that wraps around a window is planned to be e^-13 of the least tail it serves, and of the certificate."""
_RESOLVED_LOG: Final = 14.0
"""A tilt serves losses at which rounding is at most e^14 times that at its mean, which is about e^-27."""
_USUAL: Final = (10**7, 1e-7)
_UNUSUAL_SHARE: Final = 1 / 16
"""Beyond this number of steps, or below this rate, grids are a sixteenth as long: nobody trains like that, but anyone
can request it."""
_LARGE: Final = 4
"""A plan is large if its length is within this factor of the longest transform."""
_one_at_a_time: Final = threading.Lock()
_CANDIDATES: Final = 5
_SECTIONS: Final = 16
_ROUNDS: Final = 4
_TILTS: Final = 64
_MEAN_MAX: Final = 14.0
"""No plan is made if loss 0 is more deviations than this below the mean, that is, for mu beyond about 28: tails of Q
would be below the least double."""
_ATTEMPTS: Final = 2


@dataclass(frozen=True, slots=True)
class Steps:
    """`count` steps of one pair."""

    pair: Pair
    count: int


@dataclass(frozen=True, slots=True)
class Bounded:
    """The part of a trade-off function at which S, the tail under P, is at most `tail`; no loss is above `loss`."""

    tail: float
    loss: float

    def mu(self, _delta: float) -> float:
        """Return an upper bound of the mu that it needs, at any delta."""
        # A >= s e^-loss, and Phi^-1(s) - Phi^-1(s e^-loss) grows with s, since Phi/phi grows with its argument.
        upper, lower = special.ndtri(self.tail), special.ndtri(self.tail * math.exp(-self.loss))
        return float(upper - lower + 16 * UNIT_ROUNDOFF * (2 + abs(upper) + abs(lower)))


@dataclass(frozen=True, slots=True)
class Curve:
    """A lower bound of the trade-off function of a composition, for deltas down to `delta_min`.

    orders: its sides in both orders of the pair, or in the one where both are the same.
    """

    orders: tuple[tuple[Vertices | Bounded, ...], ...]
    delta_min: float

    @property
    def size(self) -> int:
        """Return the approximate size in bytes."""
        return sum(side.size for order in self.orders for side in order if isinstance(side, Vertices))

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """Return its divergence in each of the orders."""
        return tuple(_profile(order) for order in self.orders)

    def mu(self, delta: float) -> float:
        """Return the certificate: an upper bound of the least mu. 0 if delta alone covers it, inf if nothing resolves.

        Raises ValueError if delta is below delta_min.
        """
        if delta < self.delta_min:
            raise ValueError(f"delta must be at least {self.delta_min}, got {delta}")
        return max([0.0, *(side.mu(delta) for order in self.orders for side in order)])


def curve(steps: Sequence[Steps], *, delta_min: float, spend: Callable[[int], None] = lambda _points: None) -> Curve:
    """Return the trade-off function of these steps together, all of the same adjacency.

    delta_min: the least delta of any later call of `Curve.mu`, above 0. spend: called with the number of points before
    they are transformed; it may raise.
    """
    orders = (False, True) if any(part.pair.is_one_sided for part in steps) else (False,)
    if len(steps) == 1 and steps[0].count == 1:
        sides = [single(steps[0].pair, delta_min, is_reversed=order) for order in orders]
        return Curve(tuple((side,) for side in sides), delta_min)
    share = _share(sum(part.count for part in steps), delta_min)
    blended = blend([(part.pair, part.count) for part in steps])
    steps, tops = ([Steps(pair, count) for pair, count in pairs] for pairs in (blended.nodes, blended.tops))
    for attempt in range(_ATTEMPTS):
        deadline.check()
        log_tail = math.log(delta_min) - 1 - 3 * attempt
        plans = [_Plan(steps, share=share, log_tail=log_tail, is_reversed=order) for order in orders]
        if not all(plan.tilts for plan in plans):
            break
        spend(sum(plan.points for plan in plans) * len(steps))
        # Two large transforms at a time would take twice the memory.
        is_large = any(plan.width < _LARGE * plan.width_min for plan in plans)
        with _one_at_a_time if is_large else contextlib.nullcontext():
            forward, *backward = _sides(steps, plans, share, blended.mixing)
        if forward[-1].tail.size and forward[-1].tail[-1] <= delta_min:
            closed = [tuple(_closed(side, tops, delta_min)) for side in backward]
            return Curve((tuple(forward), *closed), delta_min)
        del forward, backward
    return Curve(((unresolved(),),), delta_min)


def _closed(side: Sequence[Vertices], steps: Sequence[Steps], delta: float) -> list[Vertices | Bounded]:
    """Return the reversed order, with the unresolved part covered by the largest possible loss, if there is one.

    Otherwise the last vertex is one that no mu satisfies at a delta below the last tail.
    """
    # If few steps reach the largest loss, the tail ends at a jump there, and beyond it there is only noise.
    largest = sum(part.count * part.pair.largest_reversed for part in steps) * (1 + 2**-40)
    closed: list[Vertices | Bounded] = []
    last, loss = 1.0, 0.0
    for part in side:
        bad = np.flatnonzero(np.isposinf(part.values(delta)))
        good = int(bad[0]) if bad.size else part.tail.size
        closed.append(Vertices(part.tail[:good], part.rest[:good], part.other[:good], part.points))
        if good:
            last, loss = float(part.tail[good - 1]), float(part.losses(np.array([good - 1]))[0])
        if bad.size:
            break
    if last <= delta:
        return closed
    if math.isfinite(largest):
        return [*closed, Bounded(last, largest)]
    return [*closed, Vertices(np.array([last]), np.zeros(1), np.zeros(1), np.array([loss]))]


def _profile(order: Sequence[Vertices | Bounded]) -> Profile:
    """Return the divergence in one order, which ends at the largest loss if that is what covers the rest."""
    ends = [side.loss for side in order if isinstance(side, Bounded)]
    return profile_of([side for side in order if isinstance(side, Vertices)], end=ends[0] if ends else math.inf)


def _sides(steps: Sequence[Steps], plans: Sequence[_Plan], share: float, mixing: Mixing | None) -> list[list[Vertices]]:
    """Return the vertices of each plan, by tilt. mixing: of the steps, if they are mixtures."""
    sides, width, grids = dict[bool, list[Vertices]](), 0.0, list[Losses]()
    for plan in sorted(plans, key=lambda plan: plan.width):
        least = max(plan.width, plan.width_min)
        # The two orders share a grid if the finer one is not much slower.
        if not grids or least > 2 * width:
            width = least
            grids = [part.pair.on_grid(width, share) for part in steps]
        parts = [
            Part(grid.reversed() if plan.is_reversed else grid, part.count)
            for grid, part in zip(grids, steps, strict=True)
        ]
        sides[plan.is_reversed] = [vertices(parts, tilt, mixing) for tilt in plan.tilts]
    return [sides[plan.is_reversed] for plan in plans]


def _share(count: int, delta: float) -> float:
    """Return how much of its mass a step's grid may leave out on either side."""
    return max(delta * _MISSING_SHARE / (2 * count), 1e-290)


def without_rare(steps: Sequence[Steps], delta: float) -> list[Steps] | None:
    """Return the steps without events so rare that all together have at most this probability; None if there are none.

    A transform resolves tails that a rare event lifts far above the others' only down to its rounding.
    """
    revealed = [part for part in steps if isinstance(part.pair, Revealed)]
    events = sum(len(part.pair.parts) for part in revealed if isinstance(part.pair, Revealed))
    kept = [
        replace(part, pair=part.pair.without(delta / (events * part.count)))
        if isinstance(part.pair, Revealed)
        else part
        for part in steps
    ]
    return kept if kept != list(steps) else None


# --- what to compute --------------------------------------------------------------------------------------------------


class _Moments:
    """The approximate logarithm of the moment generating function of the loss, from which plans are made."""

    def __init__(self, steps: Sequence[Steps], share: float, *, is_reversed: bool) -> None:
        self._parts = []
        self.top = 0.0
        """The largest possible loss of all steps together."""
        for part in steps:
            weights, values = part.pair.sketch(share, is_reversed=is_reversed)
            self.top += part.count * float(values.max())
            with np.errstate(divide="ignore"):
                self._parts.append((part.count, np.log(weights), values))

    def at(self, exponents: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return log M, and the mean and variance of the tilted loss; each of shape (n,), as the exponents."""
        results = np.zeros((3, exponents.size))
        for count, logarithms, values in self._parts:
            terms = logarithms + exponents[:, np.newaxis] * values
            shift = terms.max(axis=1)
            tilted = np.exp(terms - shift[:, np.newaxis])
            total = tilted.sum(axis=1)
            mean = tilted @ values / total
            variance = np.maximum(tilted @ values**2 / total - mean**2, 0.0)
            results += count * np.array([shift + np.log(total), mean, variance])
        return results[0], results[1], results[2]


class _Plan:
    """Tilts and windows for one order of the pairs, and the grid's width that they need."""

    def __init__(self, steps: Sequence[Steps], *, share: float, log_tail: float, is_reversed: bool) -> None:
        self.is_reversed = is_reversed
        self._moments = _Moments(steps, share, is_reversed=is_reversed)
        self._count = sum(part.count for part in steps)
        self.tilts: tuple[Tilt, ...] = ()
        self.width = math.inf
        usual = self._count <= _USUAL[0] and min(part.pair.least_rate for part in steps) >= _USUAL[1]
        self._share = 1.0 if usual else _UNUSUAL_SHARE
        self.width_min = max(part.pair.extent(share) for part in steps) / (self._share * ATOMS_MAX)
        deviation = math.sqrt(float(self._moments.at(np.zeros(1))[2][0]))
        centre = self._centre()
        if deviation > 0 and -centre * deviation < _MEAN_MAX:
            self._fill(deviation, centre, log_tail)

    @property
    def points(self) -> int:
        """Return how many points its transforms have for each part."""
        width = max(self.width, self.width_min)
        return sum(math.ceil((tilt.window[1] - tilt.window[0]) / width) for tilt in self.tilts)

    def _centre(self) -> float:
        """Return the tilt whose mean is 0: between -1 and 0, because the tilt of -1 has the mean under Q."""
        low, high = -1.0, 0.0
        for _ in range(_ROUNDS):
            exponents = np.linspace(low, high, _SECTIONS + 1)
            index = int(np.searchsorted(self._moments.at(exponents)[1], 0.0))
            low, high = float(exponents[max(index - 1, 0)]), float(exponents[min(index, _SECTIONS)])
        return low

    def _last(self, log_tail: float, deviation: float) -> float:
        """Return the tilt at whose mean the tail falls to e^log_tail, approximately."""
        low, high = 0.0, 2.0**_SECTIONS / deviation
        exponents = np.concatenate(([low], high / 2.0 ** np.arange(2 * _SECTIONS, -1, -1)))
        for _ in range(_ROUNDS):
            logs, means, variances = self._moments.at(exponents)
            # Chernoff's bound is larger than the tail by about this factor of the saddle-point approximation.
            factor = np.log(np.maximum(exponents * np.sqrt(variances * 2 * math.pi), 1.0))
            fallen = logs - exponents * means - factor <= log_tail
            index = int(np.argmax(fallen)) if fallen.any() else exponents.size - 1
            low, high = float(exponents[max(index - 1, 0)]), float(exponents[index])
            exponents = np.linspace(low, high, _SECTIONS + 1)
        return high

    def _fill(self, deviation: float, centre: float, log_tail: float) -> None:
        below, above = np.linspace(centre, 0.0, _TILTS), np.linspace(0.0, self._last(log_tail, deviation), _TILTS)
        exponents = np.concatenate((below, above[1:]))
        logs, means, variances = self._moments.at(exponents)
        mean, end = float(means[_TILTS - 1]), float(means[-1])
        resolution = math.log(min(deviation, 1.0))
        resolved = max(_RESOLVED_LOG + resolution / 2, 4.0)
        chosen = []
        start = 0.0
        if -logs[0] > resolved:
            # No upward tilt serves loss 0: losses below the mean have their own tilts.
            chosen += _stretches(exponents, logs, means, np.arange(_TILTS), 0.0, mean, resolved)
            start = mean
        chosen += _stretches(exponents, logs, means, np.arange(_TILTS - 1, exponents.size), start, end, resolved)
        tilts = [self._tilt(exponents, variances, stretch, resolution) for stretch in chosen]
        # A split adds a variance of at most width^2/6 for each step.
        least = min(deviation**2, *(float(variances[stretch.tilts].min()) for stretch in chosen))
        self.width = math.sqrt(least / self._count) / _WIDTHS_PER_DEVIATION
        # The last tilt serves the rest: the mass beyond its window is negligible.
        low, high = tilts[-1].window
        top = self._moments.top + 2 * self._count * max(self.width, self.width_min)
        # A few steps can reach the largest possible loss, with a probability that drops to 0 only there.
        high = max(high, top) if top - high < high - low else high
        tilts[-1] = replace(tilts[-1], window=(low, high), serves=(tilts[-1].serves[0], high))
        self.tilts = tuple(tilts)
        windows = [tilt.window[1] - tilt.window[0] for tilt in tilts]
        self.width_min = max(
            self.width_min, max(windows) / (self._share * LENGTH_MAX), sum(windows) / (self._share * LENGTHS_MAX)
        )

    def _tilt(self, exponents: FloatArray, variances: FloatArray, stretch: _Stretch, resolution: float) -> Tilt:
        """Return the tilt with the shortest window among those that can serve a stretch."""
        tilts = []
        for index, divergence in zip(stretch.tilts, stretch.divergences, strict=True):
            exponent = float(exponents[index])
            log_outside = float(divergence) + _SLACK_LOG - resolution
            beside = np.geomspace(0.05, 12.0, 40) / math.sqrt(variances[index])
            log_moment = self._moments.at(np.array([exponent]))[0][0]
            highs = (self._moments.at(exponent + beside)[0] - log_moment + log_outside) / beside
            lows = -(self._moments.at(exponent - beside)[0] - log_moment + log_outside) / beside
            up, down = int(np.argmin(highs)), int(np.argmax(lows))
            window = (min(float(lows[down]), stretch.low), max(float(highs[up]), stretch.high))
            tilts.append(Tilt(exponent, window, (stretch.low, stretch.high), (float(beside[down]), float(beside[up]))))
        return min(tilts, key=lambda tilt: tilt.window[1] - tilt.window[0])


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Losses from low to high, and the tilts that could serve them.

    tilts: of shape (n,). divergences: how much worse than the best one each is at most, of shape (n,).
    """

    low: float
    high: float
    tilts: NDArray[np.int64]
    divergences: FloatArray


def _stretches(
    exponents: FloatArray,
    logs: FloatArray,
    means: FloatArray,
    usable: NDArray[np.int64],
    start: float,
    end: float,
    resolved: float,
) -> list[_Stretch]:
    """Cut the losses from start to end into stretches, each served by one of the usable tilts.

    exponents, logs, means: tilts in order, the logarithms of their moments and their means, of shape (n,).
    resolved: how much worse than the best tilt's a tilt's bound on the tail may be.
    """

    def divergence(loss: float) -> FloatArray:
        bounds = logs - exponents * loss
        worse: FloatArray = bounds[usable] - bounds.min()
        return worse

    stretches: list[_Stretch] = []
    at = start
    # Each stretch ends at a later mean, or at the end.
    for _ in range(usable.size + 1):
        deadline.check()
        here = divergence(at)
        ahead = np.append(means[usable][means[usable] > at], end)
        ahead = ahead[ahead <= end]
        farthest = int(np.flatnonzero(here <= max(resolved, float(here.min()))).max())
        reached = [loss for loss in ahead if divergence(float(loss))[farthest] <= resolved]
        high = float(max(reached, default=ahead[0]))
        worst = np.maximum(here, divergence(high))
        able = np.flatnonzero(worst <= max(resolved, float(worst.min())))
        able = able[:: max(able.size // _CANDIDATES, 1)]
        stretches.append(_Stretch(at, high, usable[able], worst[able]))
        at = high
        if not at < end:
            break
    return stretches


# --- certificates -----------------------------------------------------------------------------------------------------


def at_most(value: Fraction) -> float:
    """Return the largest double that is not above a number of 0 or more."""
    nearest = float(value)
    return nearest if Fraction(nearest) <= value else math.nextafter(nearest, 0)


def at_least(value: Fraction) -> float:
    """Return the least double that is not below a number."""
    nearest = float(value)
    return nearest if Fraction(nearest) >= value else math.nextafter(nearest, math.inf)

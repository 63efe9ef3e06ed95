"""What was executed, and what that leaks at least, without `ledger.accounting`.

    attempts       how a job that was restarted went: by simulation, step by step
    batches        of Poisson or fixed-size sampling: how often each batch that was drawn was used
    shuffled       of shuffled epochs: the most releases that one unit can be in, by counting
    factorized     of a matrix factorization: the largest squared norm that one unit can move, from the matrix itself
    cycled         of cyclic Poisson sampling: what one unit moves in each release that it is drawn for, from the matrix
    leaks          the (eps, delta) curve of many steps, from below: by the probabilities of one family of events

A batch that is used m times, each time with fresh noise, is one step with the distance times the root of m: whether the
unit is in the batch is decided once, and given that, the mean of the releases tells all that they tell.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal, special

from tests.accounting.oracle_curves import FloatArray, Step

ComplexArray = NDArray[np.complex128]

_LENGTH = 2**15
_ROUNDING = 2e-15
_BELOW = 1e-13


# --- how it went -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attempt:
    """The steps from `first` to `last` in order; with batches drawn anew, or in an order of its own, where is_new."""

    first: int
    last: int
    is_new: bool


@dataclass(frozen=True)
class History:
    """A job that got to the step `progress`, in one attempt or more."""

    progress: int
    attempts: tuple[Attempt, ...]

    @property
    def restarts(self) -> list[tuple[int, int, bool]]:
        """Of each restart, the steps that were run again (none where the last is before the first), and is_new."""
        stretches, done = [], 0
        for attempt in self.attempts:
            if attempt is not self.attempts[0]:
                stretches.append((attempt.first, min(attempt.last, done), attempt.is_new))
            done = max(done, attempt.last)
        return stretches

    @property
    def steps(self) -> int:
        """All that were executed."""
        return sum(attempt.last - attempt.first + 1 for attempt in self.attempts)

    def within(self, first: int, last: int) -> History:
        """What was done of the steps from `first` to `last`, which are the first ones of a segment of their own."""
        clipped = [(max(a.first, first), min(a.last, last), a.is_new) for a in self.attempts]
        kept = [(low - first + 1, high - first + 1, is_new) for low, high, is_new in clipped if low <= high]
        attempts = tuple(Attempt(low, high, is_new and place > 0) for place, (low, high, is_new) in enumerate(kept))
        return History(max((attempt.last for attempt in attempts), default=0), attempts)


def straight(steps: int) -> History:
    """A job that was never restarted."""
    return History(steps, (Attempt(1, steps, False),))


def interrupted(rng: random.Random, progress: int, restarts: int) -> History:
    """A job that broke off so many times, and began again somewhere before, or where it was."""
    attempts, first, done = [], 1, 0
    for number in range(restarts + 1):
        last = progress if number == restarts else rng.randint(max(first - 1, 1), progress)
        attempts.append(Attempt(first, last, number > 0 and rng.random() < 0.5))
        done = max(done, last)
        # Mostly a checkpoint that is not long ago.
        back = rng.choice([0, 1, rng.randint(0, 5), rng.randint(0, done)])
        first = max(1, min(last, done) + 1 - back)
    return History(progress, tuple(attempts))


def batches(history: History) -> Counter[int]:
    """How many batches were used once, twice, and so on."""
    used: dict[int, list[int]] = {}
    for attempt in history.attempts:
        for step in range(attempt.first, attempt.last + 1):
            drawn = used.setdefault(step, [])
            if attempt.is_new or not drawn:
                drawn.append(0)
            drawn[-1] += 1
    return Counter(times for drawn in used.values() for times in drawn)


def shuffled(history: History, *, epoch: int, segment: int) -> int:
    """The most releases that one unit can be in: in each order of an epoch it has one place, whichever is worst.

    epoch: its steps. segment: the steps of one; each begins an order of its own.
    """
    orders: dict[int, int] = {}
    passed: Counter[tuple[int, int, int, int]] = Counter()
    for number, attempt in enumerate(history.attempts):
        for step in range(attempt.first, attempt.last + 1):
            part, within = divmod(step - 1, segment)
            key = part * history.progress + within // epoch
            if attempt.is_new or key not in orders:
                orders[key] = number
            passed[part, within // epoch, orders[key], within % epoch] += 1
    worst: Counter[tuple[int, int, int]] = Counter()
    for (part, index, order, _), times in passed.items():
        worst[part, index, order] = max(worst[part, index, order], times)
    return sum(worst.values())


def patterns(steps: int, *, participations: int, separation: int) -> Iterator[FloatArray]:
    """All the steps that one unit can take part in, as rows of zeros and ones."""
    for count in range(1, participations + 1):
        for chosen in itertools.combinations(range(steps), count):
            if all(after - before >= separation for before, after in itertools.pairwise(chosen)):
                yield np.isin(np.arange(steps), chosen).astype(float)


def factorized(
    history: History, rows: Sequence[FloatArray], *, allowed: Sequence[FloatArray], rng: random.Random
) -> float:
    """The largest squared norm of what one unit moves in all rows that were released, over what it takes part in.

    rows: by step, the rows of the strategy that are released at it. allowed: what a unit can take part in.
    Where orders were drawn anew, combinations are drawn at random.
    """
    count = 1 + sum(attempt.is_new for attempt in history.attempts)
    tries = itertools.product(allowed) if count == 1 else (rng.choices(allowed, k=count) for _ in range(150))
    return max(_moved(history, rows, list(chosen)) for chosen in tries)


def cycled(history: History, column: Sequence[float], *, groups: int, group: int) -> list[float]:
    """Of each draw of a unit that is in a group, what it moves in all rows that were released with it: one column of a
    banded Toeplitz matrix, whose rows are released again where they are run again."""
    drawn: dict[int, list[float]] = {}
    for attempt in history.attempts:
        for row in range(attempt.first - 1, attempt.last):
            for step in range(max(row - len(column) + 1, 0), row + 1):
                if step % groups != group:
                    continue
                draws = drawn.setdefault(step, [])
                if step == row and (attempt.is_new or not draws):
                    draws.append(0.0)
                draws[-1] += column[row - step] ** 2
    return [round(math.sqrt(square), 12) for draws in drawn.values() for square in draws]


def _moved(history: History, rows: Sequence[FloatArray], chosen: list[FloatArray]) -> float:
    current, total = chosen[0], 0.0
    for attempt in history.attempts:
        if attempt.is_new:
            chosen = chosen[1:]
            current = np.where(np.arange(current.size) < attempt.first - 1, current, chosen[0])
        released = rows[attempt.first - 1 : attempt.last]
        total += sum(float(((block @ current) ** 2).sum()) for block in released)
    return total


# --- strategies, as matrices -----------------------------------------------------------------------------------------


def strategy_rows(
    strategy: str, steps: int, *, bandwidth: int | None = None, is_completed: bool = False
) -> list[FloatArray]:
    """By step, the rows of the strategy's matrix that are released at it.

    bandwidth: of `sqrt`. is_completed: at the last step of a `tree`, up to the next power of two.
    """
    if strategy == "tree":
        return _tree_rows(steps, 1 << (steps - 1).bit_length() if is_completed else steps)
    coefficients = square_roots(steps) if strategy == "sqrt" else [1.0] + [0.0] * (steps - 1)
    kept = np.array(
        [value if bandwidth is None or index < bandwidth else 0.0 for index, value in enumerate(coefficients)]
    )
    matrix = [[kept[row - column] if row >= column else 0.0 for column in range(steps)] for row in range(steps)]
    return [np.array([row]) for row in matrix]


def square_roots(count: int) -> list[float]:
    """The first coefficients of the square root of the matrix of running sums."""
    coefficients = [1.0]
    for index in range(1, count):
        coefficients.append(coefficients[-1] * (2 * index - 1) / (2 * index))
    return coefficients


def _tree_rows(steps: int, leaves: int) -> list[FloatArray]:
    released: list[list[FloatArray]] = [[] for _ in range(steps)]
    width = 1
    while width <= leaves:
        for first in range(0, leaves - width + 1, width):
            under = (np.arange(steps) >= first) & (np.arange(steps) < first + width)
            if under.any():
                released[min(first + width, steps) - 1].append(under.astype(float))
        width *= 2
    return [np.array(block) if block else np.zeros((0, steps)) for block in released]


# --- what it leaks ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """So many of a step; in the other order of its pair where is_reversed."""

    step: Step
    count: int
    is_reversed: bool = False


@dataclass(frozen=True)
class _Cells:
    """One step, of which only the cell of its loss is kept. tilted: at least q e^loss, where the loss is the cell's."""

    first: int
    p: FloatArray
    tilted: FloatArray

    def transform(self, masses: FloatArray) -> ComplexArray:
        index = (self.first + np.arange(masses.size)) % _LENGTH
        return fft.rfft(np.bincount(index, weights=masses, minlength=_LENGTH))


def _line(part: Part) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Points, their losses in the pair's own order, and their probability under the first of it."""
    step = part.step
    reach = 7.5 + step.d
    z = np.linspace(-reach, reach, 8001)
    with np.errstate(divide="ignore"):
        losses = step.losses(z)
    p_above, q_above, *_ = step.tails(z)
    above = q_above if part.is_reversed else p_above
    return z, losses, -np.diff(above, append=0.0)


def _moments(part: Part) -> tuple[float, float]:
    """Variance and range of the loss of one step, about."""
    _, losses, weights = _line(part)
    losses = -losses if part.is_reversed else losses
    mean = float(weights @ losses) / float(weights.sum())
    return float(weights @ (losses - mean) ** 2), float(np.ptp(losses))


def _cells(part: Part, width: float) -> _Cells:
    z, losses, _ = _line(part)
    first, last = round(float(losses[0]) / width), round(float(losses[-1]) / width)
    edges = np.interp(width * (np.arange(first, last) + 0.5), losses, z)
    above, other, below, other_below = part.step.tails(np.concatenate(([-np.inf], edges, [np.inf])))
    p = np.where(below[1:] < 0.5, np.diff(below), -np.diff(above))
    q = np.where(other_below[1:] < 0.5, np.diff(other_below), -np.diff(other))
    if part.is_reversed:
        first, p, q = -last, q[::-1], p[::-1]
    values = width * (first + np.arange(p.size))
    with np.errstate(over="ignore", invalid="ignore"):
        tilted = np.where((q > 1e-280) & (values < 600), q * np.exp(values), p * math.exp(width))
    return _Cells(first, p, tilted)


def leaks(parts: Sequence[Part], epsilons: FloatArray) -> FloatArray:
    """At these epsilons, a delta that the parts together leak at least.

    Of each step its loss is kept, rounded to a multiple of one width, and the events are that the sum of these is
    large: a lower bound, whatever the width. P of an event is that of the composed cells, less what comes from below
    the window by wrapping; Q that of the cells weighted with e^loss, so that no small number is the difference of large
    ones, and wrapping only adds to it.
    """
    moments = [(part.count, *_moments(part)) for part in parts]
    spread = math.sqrt(sum(n * v for n, v, _ in moments))
    longest = max(reach for *_, reach in moments)
    steps = sum(part.count for part in parts)
    width = max(spread / (40 * math.sqrt(steps)), (22 * spread + longest) / _LENGTH, longest / (_LENGTH / 2))
    cells = [_cells(part, width) for part in parts]
    start, below = _start(parts, cells, width, spread)
    p, p_noise = _composed(parts, [one.transform(one.p) for one in cells], start)
    q, q_noise = _composed(parts, [one.transform(one.tilted) for one in cells], start)
    above = np.cumsum(p[::-1])[::-1] - p_noise * np.arange(_LENGTH, 0, -1) - below
    # By cell t, the sum over k >= t of q_k e^(values_t - values_k).
    decayed = signal.lfilter([1.0], [1.0, -math.exp(-width)], (np.maximum(q, 0.0) + q_noise)[::-1])[::-1]
    best = np.zeros(epsilons.size)
    for offset in (-0.3, -0.1, 0.0, 0.1, 0.3):
        at = np.clip(np.round((epsilons + offset * spread) / width).astype(int) - start, 0, _LENGTH - 1)
        with np.errstate(over="ignore"):
            best = np.maximum(best, above[at] - decayed[at] * np.exp(epsilons - width * (start + at)))
    return best


def _composed(parts: Sequence[Part], transforms: Sequence[ComplexArray], start: int) -> tuple[FloatArray, float]:
    """The masses of the sum from `start` on, once round; and by how much each can be off."""
    product = np.ones(_LENGTH // 2 + 1, dtype=np.complex128)
    for part, transform in zip(parts, transforms, strict=True):
        product *= transform**part.count
    steps = sum(part.count for part in parts)
    noise = _ROUNDING * (steps + math.log2(_LENGTH)) * 2 * float(np.abs(product).sum()) / _LENGTH
    return np.roll(fft.irfft(product, _LENGTH), -(start % _LENGTH)), noise


def _start(parts: Sequence[Part], cells: Sequence[_Cells], width: float, spread: float) -> tuple[int, float]:
    """Where a window begins, and how probable a sum below it is at most under P, by Chernoff's bound."""
    starts = []
    for exponent in np.geomspace(0.3, 30, 12) / spread:
        log_moment = 0.0
        for part, one in zip(parts, cells, strict=True):
            terms = np.log(np.maximum(one.p, 1e-300)) - exponent * width * (one.first + np.arange(one.p.size))
            log_moment += part.count * float(special.logsumexp(terms))
        starts.append(math.floor((math.log(_BELOW) - log_moment) / (exponent * width)))
    return max(starts), _BELOW


def asked(leaked: FloatArray, *, delta: float, epsilons: FloatArray) -> float:
    """The least mu by which (mu, delta) promises no less: delta + (1 - delta) delta_mu(epsilon) at every epsilon."""
    target = (leaked - delta) / (1 - delta)
    low, high = np.zeros(epsilons.size), np.full(epsilons.size, 200.0)
    for _ in range(60):
        mu = (low + high) / 2
        with np.errstate(under="ignore"):
            lower = np.exp(epsilons + special.log_ndtr(-mu / 2 - epsilons / mu))
        is_short = special.ndtr(mu / 2 - epsilons / mu) - lower < target
        low, high = np.where(is_short, mu, low), np.where(is_short, high, mu)
    return float(low.max())

"""The trade-off function of many steps: privacy loss distributions composed by FFT, with every error bounded.

*Tilting.* Mass p_j at loss l_j becomes p_j e^(a l_j) / M(a), also a distribution. From its T-fold composition y, that
of p is M(a)^T e^(-a l) y. An FFT's error is absolute; under the tilt whose mean is l it is relative to the tail at l,
however small. Each tilt of a plan serves the losses for which its error is still small compared with the tail.

*The transform.* With z = FFT(p) and T steps, z^T magnifies the error of z by T. So z - 1 is transformed instead, twice
summed by parts: for w the n-th root of unity to the k-th power and J the losses' index, from its rounded mean on,

    E w^J - 1 = (w - 1) E J + (w - 1)^2 sum_m G_m w^m,    G_m = E (J-1-m)_+ for m >= 0,  E (1-m-J)_+ 1[J<0] for m < 0

where all G are positive and add up to g = E J(J-1)/2. An FFT of G errs by at most c u g, c = 6 (log2 n + 2) for a
transform in passes of radix 2 to 5, which rounds each input less than 6 log2(radix) times on its way to any output;
lengths are even with no prime factor above 5, so that there are no other passes. So E w^J - 1 errs by
|w-1|^2 (c + r) u g + (8 + h) |w-1| u E|J| only, with r for the sums of sums (`running`) and h = ceil(log2 n) + 1 for
that of n products (`halved_sum`). If z^T is not negligible, |w-1|^2 g is about 1/T: what T magnifies does not grow
with T.

*From there.* Z = exp(sum T log1p(z-1)) errs by |Z| expm1(x), x the sum of T times the error over |z|, plus rounding of
the exponent; the inverse FFT by c u times the mean of |Z|. The mass that the transform of length n wraps around is at
most the tilted mass outside its window, omega, by Chernoff's bound. Together each y_j errs by less than `noise`, and
sums of it by `noise` times the weights plus omega times the largest. S, the tail under P, is moved up and A, the tail
under Q, down; relative errors of the masses enter T-fold.

*The certificate.* S_i = P(L >= l_i) and A_i = Q(L >= l_i) are the vertices (A_i, 1 - S_i) of the trade-off function,
which is linear between them. f_{0,delta} (x) G_mu is convex and decreasing: if it lies below at the vertices, it lies
below everywhere. That also holds for vertices with S too large and A too small. Losses below 0 are those above 0 of the
pair in the other order. Hence (Dong, Roth & Su 2022, Def. 2.3 and sec. 3)

    mu = max over l_i >= 0 with S_i > delta of  Phi^-1((S_i - delta)/(1 - delta)) - Phi^-1(A_i/(1 - delta)),

taken from the tails that do not cancel. If S never falls to delta, there is no certificate. One composition serves
every delta.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.accounting import deadline
from ledger.accounting.gdp import UNIT_ROUNDOFF
from ledger.accounting.numeric import FloatArray, NDArray, fft, np, special
from ledger.accounting.pld import Losses

_BLOCK: Final = 16
_CHUNK: Final = 2**16
_BLOCK_ROOT_MIN: Final = 32
_PLAIN_STEPS_MAX: Final = 4096
ERROR_MAX: Final = 0.25
_WEIGHT_LOG_MAX: Final = 600.0
"""Larger weights are cut: rounding alone, times e^600, already makes the bounds 1 and 0."""


@dataclass(frozen=True, slots=True)
class Part:
    """A step's privacy loss distribution, and how many of these steps there are."""

    losses: Losses
    steps: int


@dataclass(frozen=True, slots=True)
class Tilt:
    """A tilt, its window of losses, and the losses for which it is used; `beside` are the exponents of its bounds."""

    exponent: float
    window: tuple[float, float]
    serves: tuple[float, float]
    beside: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Vertices:
    """Bounds at losses >= 0: of S from above, of 1 - S and of A from below; each of shape (n,).

    points: the losses, of shape (n,), or the first one, as a multiple of the width of their grid, and that width.
    """

    tail: FloatArray
    rest: FloatArray
    other: FloatArray
    points: FloatArray | tuple[int, float]

    def losses(self, index: NDArray[np.int64]) -> FloatArray:
        """Return the losses of some vertices, of the shape of the index."""
        if not isinstance(self.points, tuple):
            return self.points[index]
        first, width = self.points
        losses: FloatArray = width * (first + index).astype(np.float64)
        return losses

    @property
    def size(self) -> int:
        """Return the size of the arrays in bytes, except those of the losses, of which one step alone has an array."""
        return self.tail.nbytes + self.rest.nbytes + self.other.nbytes

    def values(self, delta: float) -> FloatArray:
        """Return the mu that each vertex needs; -inf for a vertex that needs none. Shape (n,)."""
        return _asked(self.tail, self.rest, self.other, delta)

    def mu(self, delta: float) -> float:
        """Return the least mu for these vertices at a delta; -inf if none binds."""
        if not self.tail.size:
            return -math.inf
        short = -self.tail.size % _BLOCK
        tails = np.pad(self.tail, (0, short)).reshape(-1, _BLOCK)
        rests = np.pad(self.rest, (0, short), constant_values=1.0).reshape(-1, _BLOCK)
        others = np.pad(self.other, (0, short), constant_values=1.0).reshape(-1, _BLOCK)
        # A block of vertices needs no more than its largest tail would with its smallest other tail.
        bounds = _asked(tails.max(axis=1), rests.min(axis=1), others.min(axis=1), delta)
        top = int(np.argmax(bounds))
        best = float(_asked(tails[top], rests[top], others[top], delta).max())
        above = bounds > best
        return max(best, float(_asked(tails[above], rests[above], others[above], delta).max(initial=-math.inf)))


@functools.cache
def unresolved() -> Vertices:
    """Return a vertex that no mu satisfies; always the same object."""
    return Vertices(np.ones(1), np.zeros(1), np.zeros(1), (0, 1.0))


def _asked(tail: FloatArray, rest: FloatArray, other: FloatArray, delta: float) -> FloatArray:
    kept = 1.0 - delta
    with np.errstate(invalid="ignore"):
        level = np.clip((tail - delta) / kept, 0.0, 1.0)
        upper = np.where(level < 0.5, special.ndtri(level), -special.ndtri(np.minimum(rest / kept, 1.0)))
        # Near 1 the quantile has few digits, and rounding in 1 - x matters: so it is rounded down.
        part = other / kept * (1 - 4 * UNIT_ROUNDOFF)
        lower = special.ndtri(np.minimum(part, 1.0))
        # The error of ndtri is a few units of its value or of 1, whichever is more.
        asked = upper - lower + 16 * UNIT_ROUNDOFF * (2 + np.abs(upper) + np.abs(lower))
    # f_{0,delta} is 0 from 1 - delta on, so such a vertex needs no mu; no mu satisfies one without another tail.
    # A vertex that is no number binds too.
    binds = ~((tail <= delta) | (part >= 1))
    return np.where(binds, np.where(np.isnan(asked), math.inf, asked), -math.inf)


def log_moment(losses: Losses, exponent: float) -> float:
    """Return log M(a), the logarithm of the sum of p_j e^(a l_j)."""
    values = exponent * losses.values
    shift = float(values.max())
    with np.errstate(under="ignore"):
        total = float(np.sum(losses.masses * np.exp(values - shift)))
        if total < 1e-280:
            with np.errstate(divide="ignore"):
                logarithms = np.log(losses.masses) + values
            shift = float(logarithms.max())
            total = float(np.sum(np.exp(logarithms - shift)))
    return shift + math.log(total)


def running(values: FloatArray) -> FloatArray:
    """Return the sums of the first 1, 2, … of these positive values, by blocks: relative error 2 (sqrt(n) + 32) u."""
    root = max(math.isqrt(values.size), _BLOCK_ROOT_MIN)
    rows = -(-values.size // root)
    padded = np.zeros(rows * root)
    padded[: values.size] = values
    table = padded.reshape(rows, root)
    np.cumsum(table, axis=1, out=table)
    table[1:] += np.cumsum(table[:-1, -1])[:, np.newaxis]
    return table.reshape(-1)[: values.size]


def running_error(size: int) -> float:
    """Return a bound on the relative error of `running` sums of this many values."""
    return 2 * (math.sqrt(size) + _BLOCK_ROOT_MIN) * UNIT_ROUNDOFF


def halved_sum(values: FloatArray) -> float:
    """Return the sum, by adding one half to the other repeatedly.

    Its error is at most `halved_sum_error` u times the sum of absolute values.
    """
    size = 1 << max(values.size - 1, 0).bit_length()
    sums = np.zeros(size)
    sums[: values.size] = values
    while sums.size > 1:
        sums = sums[: sums.size // 2] + sums[sums.size // 2 :]
    return float(sums[0])


def halved_sum_error(size: int) -> int:
    """Return a bound on the error of a `halved_sum` of this many products, in u.

    It has one u for each halving, and one for rounding each product.
    """
    return max(size - 1, 0).bit_length() + 1


def smooth_length(least: int) -> int:
    """Return the least even length from this on with no prime factor above 5, see the module."""
    return 2 * fft.next_fast_len(-(-least // 2), real=True)


def _fft_error(length: int) -> float:
    return 6 * (math.log2(length) + 2) * UNIT_ROUNDOFF


def _tilted(losses: Losses, exponent: float, log_moment: float) -> FloatArray:
    with np.errstate(under="ignore"):
        if abs(exponent) * losses.width * losses.masses.size < 600:
            return losses.masses * np.exp(exponent * losses.values - log_moment)
        with np.errstate(divide="ignore"):
            return np.exp(np.log(losses.masses) + exponent * losses.values - log_moment)


@dataclass(frozen=True, slots=True)
class Characteristic:
    """The characteristic function of tilted losses less 1, at the frequencies 0 to n/2, and a bound of its error.

    The losses count from index `centre` on.
    """

    change: NDArray[np.complex128]
    error: FloatArray
    centre: int


def _folded(values: FloatArray, first: int, length: int) -> FloatArray:
    """Return values at the indices from `first` on, added up modulo a length."""
    start = first % length
    rows = -(-(start + values.size) // length)
    padded = np.zeros(rows * length)
    padded[start : start + values.size] = values
    if rows == 1:
        return padded
    return np.asarray(padded.reshape(rows, length).sum(axis=0))


def characteristic(
    losses: Losses, *, steps: int, exponent: float, log_moment: float, length: int, centre: int | None = None
) -> Characteristic:
    """Return the transform of one step. log_moment: as `log_moment` returns. centre: by default the rounded mean."""
    masses = _tilted(losses, exponent, log_moment)
    masses /= masses.sum()
    index = np.arange(losses.first, losses.first + masses.size)
    centre = round(float(masses @ index)) if centre is None else centre
    index -= centre
    spread = float(masses @ np.abs(index))
    origin = int(np.searchsorted(index, 0))
    sums = np.zeros(masses.size + 2)
    # For m >= 0: the sum over i >= m+2 of P(J >= i); for m < 0: the sum over i <= m of P(J <= i).
    above = running(running(masses[origin + 1 :][::-1]))[::-1]
    below = running(running(masses[:origin]))
    sums[origin : origin + max(above.size - 1, 0)] = above[1:]
    sums[:origin] = below
    mean = halved_sum(masses * index)
    change, chord = _changes(sums, origin, mean, length)
    error = chord**2
    error *= (_fft_error(length) + 2 * running_error(sums.size) + 16 * UNIT_ROUNDOFF) * float(sums.sum())
    chord *= (8 + halved_sum_error(index.size)) * UNIT_ROUNDOFF * spread
    error += chord
    del chord, sums
    size = np.abs(change)
    size *= 8 * UNIT_ROUNDOFF
    error += size
    del size
    if steps <= _PLAIN_STEPS_MAX:
        # Few steps magnify little: if z - 1 is not small, the plain transform, of total mass 1, errs by less.
        plain = _fft_error(length) + (8 + masses.size / length) * UNIT_ROUNDOFF
        worse = error > plain
        change[worse] = fft.rfft(_folded(masses, int(index[0]), length))[worse] - 1
        error[worse] = plain
    return Characteristic(change, error, centre)


def _changes(sums: FloatArray, origin: int, mean: float, length: int) -> tuple[NDArray[np.complex128], FloatArray]:
    """Return E w^J - 1 from the sums of sums, and |w - 1|. The arrays, the largest ones, are reused here and below."""
    angle = np.arange(length // 2 + 1, dtype=np.float64)
    angle *= np.pi
    angle /= length
    sine = np.sin(angle)
    # w - 1 = -2 sin(angle) (sin(angle) + i cos(angle)), w = e^(-2 i angle)
    step = np.empty(sine.size, dtype=np.complex128)
    np.multiply(-2, sine, out=step.real)
    np.multiply(step.real, np.cos(angle, out=angle), out=step.imag)
    step.real *= sine
    change = fft.rfft(_folded(sums, -origin, length))
    np.multiply(step, change, out=change)
    change += mean
    np.multiply(step, change, out=change)
    sine *= 2
    return change, sine


def to_logarithms(change: NDArray[np.complex128], error: FloatArray) -> None:
    """Replace z - 1 by log z, in place, and its error by that of the logarithm. Arrays of any shape."""
    size = np.abs(1 + change)
    logarithm = np.empty_like(change)
    near = np.abs(change) < 0.5
    with np.errstate(divide="ignore"):
        logarithm[near] = _log1p(change[near])
        logarithm[~near] = np.log(1 + change[~near])
        # If the error is of the size of z, z^T is bounded by three times that error, to the power T.
        relative = np.where(error < size / 2, -np.log1p(-np.minimum(error / np.maximum(size, 1e-300), 0.5)), math.inf)
    change[:] = np.where(np.isfinite(relative), logarithm, np.log(3 * np.maximum(error, 1e-300)))
    error[:] = np.where(np.isfinite(relative), relative, math.log(3))


def _log1p(change: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Return log(1 + x) for |x| < 1/2, each part within a few units of |x|."""
    real, imaginary = change.real, change.imag
    return np.asarray(
        0.5 * np.log1p(2 * real + real * real + imaginary * imaginary) + 1j * np.arctan2(imaginary, 1 + real)
    )


def outside(moments: Callable[[float], float], tilt: Tilt, total: float, window: tuple[float, float]) -> float:
    """Return the tilted mass outside a window, by Chernoff's bound on either side.

    moments: the logarithm of all steps' moment at an exponent. total: that of the tilt.
    """
    down, up = tilt.beside
    above = moments(tilt.exponent + up) - total - up * window[1]
    below = moments(tilt.exponent - down) - total + down * window[0]
    return math.exp(min(above, 0.0)) + math.exp(min(below, 0.0))


def _log_moments(parts: Sequence[Part], exponent: float) -> float:
    return sum(part.steps * log_moment(part.losses, exponent) for part in parts)


@dataclass(frozen=True, slots=True)
class Composed:
    """The tilted composition on the losses (first + j) * width, each mass within `noise`, and `outside` elsewhere."""

    first: int
    masses: FloatArray
    noise: float
    outside: float
    log_moment: float


def span_of(tilt: Tilt, width: float) -> tuple[int, int]:
    """Return the first index of a tilt's window, and the length of its transform."""
    low = math.floor(tilt.window[0] / width)
    return low, smooth_length(math.ceil(tilt.window[1] / width) - low + 2)


def _composed(parts: Sequence[Part], tilt: Tilt) -> Composed:
    width = parts[0].losses.width
    low, length = span_of(tilt, width)
    total: NDArray[np.complex128] = np.zeros(length // 2 + 1, dtype=np.complex128)
    error = np.zeros(length // 2 + 1)
    centre, moment = 0, 0.0
    for part in parts:
        deadline.check()
        once = log_moment(part.losses, tilt.exponent)
        one = characteristic(part.losses, steps=part.steps, exponent=tilt.exponent, log_moment=once, length=length)
        for start in range(0, one.change.size, _CHUNK):
            deadline.check()
            to_logarithms(one.change[start : start + _CHUNK], one.error[start : start + _CHUNK])
        # The last term: rounding of the logarithm, of the product and of the sum, and then of the exponential.
        rounding = np.abs(one.change)
        rounding *= 8 * UNIT_ROUNDOFF
        rounding += one.error
        rounding *= part.steps
        error += rounding
        np.multiply(part.steps, one.change, out=one.change)
        total += one.change
        centre += part.steps * one.centre
        moment += part.steps * once
        del one, rounding
    powers, errors = powers_of(total, error)
    del total, error
    omega = outside(lambda exponent: _log_moments(parts, exponent), tilt, moment, (low * width, (low + length) * width))
    return inverted(powers, errors, low=low, length=length, centre=centre, log_moment=moment, outside=omega)


def powers_of(total: NDArray[np.complex128], error: FloatArray) -> tuple[NDArray[np.complex128], FloatArray]:
    """Return exp of these logarithms, and the error of that; both in place."""
    with np.errstate(under="ignore", over="ignore"):
        powers = np.exp(total, out=total)
        size = np.abs(powers)
        # |Z| and its error are at most |z|^T plus that, which is at most 1 + error.
        error += 16 * UNIT_ROUNDOFF
        errors = np.expm1(np.minimum(error, 700, out=error), out=error)
        errors *= size
        errors[size == 0] = 0.0
    return powers, errors


def inverted(
    powers: NDArray[np.complex128],
    errors: FloatArray,
    *,
    low: int,
    length: int,
    centre: int,
    log_moment: float,
    outside: float,
) -> Composed:
    """Return the composition with this transform, each value of which is within its error."""
    size = np.abs(powers)
    spectral = float(errors[0] + errors[-1] + 2 * errors[1:-1].sum()) / length
    mean = float(size[0] + size[-1] + 2 * size[1:-1].sum()) / length
    noise = (spectral + _fft_error(length) * mean) * (1 + 2**-20) + 1e-290
    del size
    masses = fft.irfft(powers, length, overwrite_x=True)
    np.maximum(masses, 0.0, out=masses)
    # Index `centre` is at 0 of the transform; the window begins at `low`.
    masses = np.roll(masses, -((low - centre) % length))
    return Composed(low, masses, noise, outside, log_moment)


def vertices(parts: Sequence[Part], tilt: Tilt) -> Vertices:
    """Return bounds at the losses >= 0 that a tilt serves. All parts share one width."""
    deadline.check()
    error = sum(2 * part.steps * relative_error_of_step(part.losses, tilt) for part in parts)
    if error > ERROR_MAX:
        return unresolved()
    missing = sum(part.steps * part.losses.missing[0] for part in parts)
    return bounds(_composed(parts, tilt), tilt, parts[0].losses.width, steps_error=error, missing=missing)


def bounds(composed: Composed, tilt: Tilt, width: float, *, steps_error: float, missing: float) -> Vertices:
    """Return bounds at the losses >= 0 that a tilt serves.

    steps_error: the logarithm of 1 plus the relative error of all steps' masses and moments. missing: their mass that
    is not on the grid.
    """
    size = composed.masses.size
    first = min(max(math.ceil(tilt.serves[0] / width) - composed.first, 0), size)
    last = min(max(math.floor(tilt.serves[1] / width) - composed.first + 1, first), size)
    relative = _relative_error(composed, tilt, width, steps_error)
    if relative > 2 * ERROR_MAX:
        return unresolved()
    missing = min(missing, 1.0)
    # Q: from above, where weights fall with the loss.
    other = _bound_above(composed, tilt.exponent + 1, width, first, last, -relative)
    if tilt.exponent >= 0:
        tail = np.minimum(_bound_above(composed, tilt.exponent, width, first, last, relative) + missing, 1.0)
        rest = 1.0 - tail
    else:
        # Below the mean S is near 1, so that 1 - S must keep its digits.
        rest = _bound_below(composed, tilt.exponent, width, first, last, -relative)
        tail = np.minimum(1.0 - rest + UNIT_ROUNDOFF, 1.0)
    return Vertices(tail, rest, other, (composed.first + first, width))


def _weights(composed: Composed, exponent: float, width: float, first: int, last: int) -> FloatArray:
    """Return the factors that undo the tilt, for the masses from `first` to `last`."""
    values = np.arange(composed.first + first, composed.first + last, dtype=np.float64)
    values *= width
    values *= exponent
    np.subtract(composed.log_moment, values, out=values)
    with np.errstate(under="ignore"):
        return np.exp(np.minimum(values, _WEIGHT_LOG_MAX, out=values), out=values)


def _bound_above(
    composed: Composed, exponent: float, width: float, first: int, last: int, relative: float
) -> FloatArray:
    """Return the mass at and above each loss: an upper bound if the relative error is positive, else a lower one."""
    weights = _weights(composed, exponent, width, first, composed.masses.size)
    kept = last - first
    bound = running((composed.masses[first:] * weights)[::-1])[::-1][:kept].copy()
    bound *= 1 + relative
    # Rounding of each mass, and the wrapped mass, which weighs most if it lands lowest.
    error = running(weights[::-1])[::-1][:kept] * composed.noise
    error += composed.outside * weights[:kept]
    error *= math.copysign(1 + abs(relative), relative)
    bound += error
    return np.maximum(bound, 0.0, out=bound)


def _bound_below(
    composed: Composed, exponent: float, width: float, first: int, last: int, relative: float
) -> FloatArray:
    """Return a lower bound of the mass below each loss, for weights that grow with the loss."""
    weights = _weights(composed, exponent, width, 0, last)
    mass = np.append(0.0, running(composed.masses[:last] * weights)[:-1])
    error = (np.append(0.0, running(weights)[:-1]) * composed.noise + composed.outside * weights) * (1 - relative)
    return np.maximum(mass * (1 + relative) - error, 0.0)[first:].copy()


def relative_error_of_step(losses: Losses, tilt: Tilt) -> float:
    """Return half of the relative error of one step's masses and moment under a tilt, about."""
    reach = losses.width * max(abs(losses.first), abs(losses.first + losses.masses.size))
    summing = (math.log2(losses.masses.size) + 128) * UNIT_ROUNDOFF
    return losses.relative_error + (4 * abs(tilt.exponent) * reach + 16) * UNIT_ROUNDOFF + summing


def _relative_error(composed: Composed, tilt: Tilt, width: float, steps_error: float) -> float:
    """Return the relative error of masses, moments and weights, over all steps."""
    size = composed.masses.size
    edge = max(abs(composed.first), abs(composed.first + size)) * width
    weights = (4 * (abs(tilt.exponent) + 1) * edge + 4 * abs(composed.log_moment) + 16) * UNIT_ROUNDOFF
    return math.expm1(min(weights + running_error(size) + steps_error, 700.0))

"""Approximate Gaussian differential privacy: its (epsilon, delta) curve, its inverses, and what an attacker gains.

A mechanism is (mu, delta)-approximate GDP when its trade-off function is at least f_{0,delta} (x) G_mu, that is, when
its (epsilon, delta) curve lies under `delta + (1 - delta) * delta_mu(epsilon)`, where

    delta_mu(epsilon) = Phi(-epsilon/mu + mu/2) - e^epsilon Phi(-epsilon/mu - mu/2)

(Dong, Roth & Su, "Gaussian differential privacy", JRSS-B 2022, Cor. 2.13). How it is evaluated: with c = epsilon/mu,
a = c - mu/2, b = c + mu/2, the density phi and Mills' ratio R(x) = Phi(-x)/phi(x) = sqrt(pi/2) erfcx(x/sqrt(2)), the
identity e^epsilon phi(b) = phi(a) gives

    delta_mu(epsilon) = phi(a) (R(a) - R(b)),        1 - delta_mu(epsilon) = phi(a) (R(-a) + R(b)),

in which nothing overflows and no tail is lost. Everything is vectorised: arguments broadcast, and scalars give a
`numpy.float64`. Error bounds are stated in u = 2^-53, for the doubles that were passed in. They presume that exp, log,
expm1, log1p, erf, erfc, erfcx and ndtri are within 16 u each; the worst of them, erfcx, was seen at 9 u.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, cast

from ledger.accounting.numeric import ArrayLike, FloatArray, Real, np, special

if TYPE_CHECKING:
    from collections.abc import Callable


UNIT_ROUNDOFF: Final = 2.0**-53
# `epsilon` is within this many u * (epsilon + mu + mu^2/2) = u * mu * (1 + b). A relative error e of R moves epsilon by
# e (R(+-a) + R(b))/R(b) where R is taken twice (mu * max(1, c) > 1, or delta_mu > 1/2): at most 2.2 e mu (1 + b), over
# all mu and c. From the series it is e c mu R(c)/R(b) <= 1.5 e epsilon. e is 18 u; a and the logarithms add 8 u.
EPSILON_ERROR_FACTOR: Final = 64
# In the same way log mu moves by e (R(+-a) + R(b))/mu <= 2.9 e, from the series by e c R(c) < e; a, the logarithms and
# the exponential add 24 u.
MU_FOR_EPSILON_RELATIVE_ERROR: Final = 96 * UNIT_ROUNDOFF

_SQRT_HALF: Final = math.sqrt(0.5)
_SQRT_HALF_PI: Final = math.sqrt(math.pi / 2)
_SQRT_TWO_PI: Final = math.sqrt(2 * math.pi)
_LOG_SQRT_TWO_PI: Final = math.log(2 * math.pi) / 2
_OPEN_STEPS_MAX: Final = 32
_BISECTIONS_MAX: Final = 64

# (value, first derivative, second derivative) of a function at a point.
_Jet = tuple[FloatArray, FloatArray, FloatArray]


def checked(name: str, value: ArrayLike, *, domain: str, holds: Callable[[FloatArray], Any]) -> FloatArray:
    """`value` as a float64 array; ValueError, naming the argument, unless `holds` is true of every element."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be {domain}, got {value!r}") from error
    if not np.all(holds(array)):
        raise ValueError(f"{name} must be {domain}, got {value!r}")
    return array


def _checked_mu(value: ArrayLike) -> FloatArray:
    return checked("mu", value, domain="0 or more", holds=lambda mu: mu >= 0)


def _checked_delta(name: str, value: ArrayLike) -> FloatArray:
    return checked(name, value, domain="at least 0 and less than 1", holds=lambda delta: (delta >= 0) & (delta < 1))


def _checked_rate(name: str, value: ArrayLike) -> FloatArray:
    return checked(name, value, domain="between 0 and 1", holds=lambda rate: (rate >= 0) & (rate <= 1))


def mills(x: FloatArray) -> FloatArray:
    """Mills' ratio Phi(-x)/phi(x), within 10 u of itself for x >= -1; overflows below -38."""
    return _SQRT_HALF_PI * special.erfcx(x * _SQRT_HALF)


def _mean_mills_descent(*, centre: FloatArray, mu: FloatArray) -> FloatArray:
    """(R(centre - mu/2) - R(centre + mu/2)) / mu, for centre >= 0, mu > 0 and centre - mu/2 >= -1.

    The difference cancels when mu is small. R(x) is the integral over t > 0 of exp(-x t - t^2/2), so that with
    y_n = (-1)^n R^(n)(centre) / n! the quotient is y_1 + y_3 (mu/2)^2 + y_5 (mu/2)^4 + ..., all terms positive, where
    y_1 = 1 - centre y_0 and n y_n = y_(n-2) - centre y_(n-1). With mu * max(1, centre) <= 1 the first term left out is
    below u/100, and what the recurrence magnifies in it, relative to y_1, no more than the error of y_1 itself, which
    is about centre^2 times that of R: what rounding centre does to phi(a). Beyond, the plain difference loses less.
    """
    near = mu * np.maximum(centre, 1.0) <= 1.0
    quotient = (mills(centre - mu / 2) - mills(centre + mu / 2)) / mu
    if not near.any():
        return quotient
    c = np.where(near, centre, 0.0)
    half_width_sq = np.where(near, mu / 2, 0.0) ** 2
    before = mills(c)
    last = 1.0 - c * before
    series, power = last, np.ones_like(last)
    for n in range(2, 22):
        before, last = last, (before - c * last) / n
        if n % 2:
            power = power * half_width_sq
            series = series + power * last
    return np.where(near, series, quotient)


def delta(*, mu: Real | float, epsilon: Real | float) -> Real:
    """delta_mu(epsilon): the least delta for which a mu-GDP pair is (epsilon, delta)-DP, for every real epsilon.

    Shapes broadcast; no units. Infinite arguments give the limits (mu = inf is the pair that can be told apart: 1).
    Relative error below u * (32 + 16 c (1 + |a|)) with c = |epsilon|/mu and a = c - mu/2, which is the effect of
    rounding the inputs, down to results of 1e-300. ValueError: mu below 0, or a NaN.
    Source: Dong, Roth & Su 2022, Cor. 2.13; delta_0(epsilon) = max(0, 1 - e^epsilon).
    """
    mu_array, epsilon_array = np.broadcast_arrays(
        _checked_mu(mu),
        checked("epsilon", epsilon, domain="a real number", holds=lambda value: ~np.isnan(value)),
    )
    with np.errstate(all="ignore"):
        # mu = 0 and mu = inf are filled in at the end.
        width = np.where((mu_array > 0) & np.isfinite(mu_array), mu_array, 1.0)
        magnitude = np.abs(epsilon_array)
        # Beyond a = 40 the result is below the least double; the clip keeps centre * R(centre) from being inf * 0.
        centre = np.minimum(magnitude / width, width / 2 + 40.0)
        a = centre - width / 2
        density = np.exp(-a * a / 2) / _SQRT_TWO_PI
        # Dong, Roth & Su 2022, Cor. 2.13, in Mills' ratios; from the other side where it is near 1.
        right = width * density * _mean_mills_descent(centre=centre, mu=width)
        left = 1.0 - density * (mills(-a) + mills(centre + width / 2))
        curve = np.where(a >= -1.0, right, left)
        curve = np.where(mu_array == 0, 0.0, np.where(mu_array == np.inf, 1.0, curve))
        # G_mu is its own inverse, so the pair may be swapped: delta(-e) = 1 - e^-e + e^-e delta(e).
        mirrored = -np.expm1(-magnitude) + np.exp(-magnitude) * curve
        result: Any = np.where(epsilon_array >= 0, curve, mirrored)
    return cast("Real", result[()])


def _close(*, size: FloatArray, length: FloatArray) -> FloatArray:
    """A step after which a third-order method is exact: small against the function's own `length`, or mere rounding."""
    return 2.0**-26 * length + 8 * UNIT_ROUNDOFF * size


def _root(
    jet: Callable[[FloatArray], _Jet], *, lower: FloatArray, upper: FloatArray, start: FloatArray, close: FloatArray
) -> FloatArray:
    """The zero of a decreasing function in [lower, upper], element by element; a step of at most `close` is the last.

    Steps go to the zero of the osculating parabola (Cauchy's method, third order; exact for the Gaussian tail) while
    it lies within the bracket, else to the bracket's middle; after a fixed number only the middle is taken, so that
    the number of evaluations is bounded whatever happens. A finished element no longer moves: the result for one
    element does not depend on its neighbours.
    """
    x = start
    # The brackets are tight: a root on the edge must not be fenced off by the rounding of the edge or of a step.
    lower, upper = lower - 0.125, upper + 0.125
    finished = np.zeros(x.shape, dtype=bool)
    for iteration in range(_OPEN_STEPS_MAX + _BISECTIONS_MAX):
        value, slope, curvature = jet(x)
        lower = np.where(value > 0, np.maximum(lower, x), lower)
        upper = np.where(value <= 0, np.minimum(upper, x), upper)
        discriminant = slope * slope - 2 * value * curvature
        step = -2 * value / (slope - np.where(discriminant > 0, np.sqrt(np.maximum(discriminant, 0)), -slope))
        settled = np.abs(step) <= close
        candidate = x + step
        trusted = settled | ((candidate >= lower) & (candidate <= upper) & (iteration < _OPEN_STEPS_MAX))
        x = np.where(finished, x, np.where(trusted, candidate, lower + (upper - lower) / 2))
        finished |= settled
        if finished.all():
            break
    return x


def _shortfall_jet(*, mu: FloatArray, centre: FloatArray, target: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(log delta_mu - log target, mean Mills descent) at epsilon = mu * centre, without underflow."""
    descent = _mean_mills_descent(centre=centre, mu=mu)
    a = centre - mu / 2
    logarithm = np.log(descent * np.maximum(mu, 1.0)) - np.log(target / np.minimum(mu, 1.0))
    return logarithm - a * a / 2 - _LOG_SQRT_TWO_PI, descent


def _excess_jet(*, mu: FloatArray, centre: FloatArray, target: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(log(1 - delta_mu) - log target, R(-a) + R(b)) at epsilon = mu * centre."""
    a = centre - mu / 2
    ratios = mills(-a) + mills(centre + mu / 2)
    return np.log(ratios) - np.log(target) - a * a / 2 - _LOG_SQRT_TWO_PI, ratios


def _holds_at_zero(*, mu: FloatArray, target: FloatArray, complement: FloatArray) -> Any:
    """Whether delta_mu(0) <= target, read from the side that keeps its digits; `complement` is 1 - target."""
    # Dong, Roth & Su 2022, Cor. 2.13 at epsilon 0: delta_mu(0) = 2 Phi(mu/2) - 1 = erf(mu / (2 sqrt(2))).
    argument = mu / 2 * _SQRT_HALF
    return np.where(target <= 0.5, special.erf(argument) <= target, special.erfc(argument) >= complement)


def _gaussian_target(*, delta: FloatArray, at_delta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(t, 1 - t) with t = (at_delta - delta)/(1 - delta), what delta_mu may be; each within 2 u.

    The differences do not cancel: a floating-point subtraction rounds the exact difference of its operands.
    """
    return (at_delta - delta) / (1.0 - delta), (1.0 - at_delta) / (1.0 - delta)


def _centre_from_shortfall(*, mu: FloatArray, target: FloatArray) -> FloatArray:
    """epsilon/mu where delta_mu(epsilon) = target, for target <= 1/2 and below delta_mu(0). log delta_mu is concave."""

    def jet(centre: FloatArray) -> _Jet:
        value, descent = _shortfall_jet(mu=mu, centre=centre, target=target)
        ratio = mills(centre + mu / 2)
        # delta_mu' = -e^epsilon Phi(-b) = -phi(a) R(b) and delta_mu'' = phi(a) (1 - mu R(b)) / mu, over delta_mu.
        slope = -ratio / descent
        return value, slope, (1 - mu * ratio) / descent - slope * slope

    # delta_mu <= Phi(-a), and <= mu phi(a) where a >= 0 (the integral over mu of phi(a)); delta_mu > 1/2 at a = -1.
    highest = np.minimum(-special.ndtri(target), np.sqrt(np.maximum(-2 * np.log(target / mu * _SQRT_TWO_PI), 0.0)))
    upper = highest + mu / 2
    return _root(
        jet,
        lower=np.maximum(mu / 2 - 1.0, 0.0),
        upper=upper,
        start=upper,
        close=_close(size=upper, length=highest + 1.0),
    )


def _centre_from_excess(*, mu: FloatArray, complement: FloatArray) -> FloatArray:
    """epsilon/mu where 1 - delta_mu(epsilon) = complement, for complement < 1/2. -log(1 - delta_mu) is convex."""

    def jet(centre: FloatArray) -> _Jet:
        value, ratios = _excess_jet(mu=mu, centre=centre, target=complement)
        ratio = mills(centre + mu / 2)
        slope = -mu * ratio / ratios
        return -value, slope, mu * (1 - mu * ratio) / ratios + slope * slope

    # Phi(a) <= 1 - delta_mu <= 2 Phi(a), because R(b) <= R(-a).
    lower = np.maximum(mu / 2 + special.ndtri(complement / 2), 0.0)
    upper = mu / 2 + special.ndtri(complement)
    return _root(jet, lower=lower, upper=upper, start=lower, close=_close(size=upper, length=np.ones_like(mu)))


def epsilon(*, mu: Real | float, delta: Real | float, at_delta: Real | float) -> Real:
    """Return the least epsilon >= 0 with delta + (1 - delta) * delta_mu(epsilon) <= at_delta.

    0 where that holds at 0; infinity where it holds nowhere: at_delta < delta, at_delta = delta with mu > 0 (whose
    curve is positive everywhere, while that of mu = 0 is 0 from epsilon 0 on), or mu infinite. Shapes broadcast.

    The absolute error is below EPSILON_ERROR_FACTOR * u * (epsilon + mu + mu^2/2): relative 2e-14 wherever epsilon is
    of the size of mu and of mu^2/2, as it is at the usual at_delta. As at_delta comes near delta + (1 - delta) *
    delta_mu(0), epsilon goes to 0 and only the absolute error stays small: no more can be had from rounded inputs.
    ValueError: mu below 0, delta or at_delta outside [0, 1), or a NaN.
    Source: Dong, Roth & Su 2022, Cor. 2.13, and f_{0,delta} (x) G_mu of their section 3, inverted.
    """
    mu_array, delta_array, at_array = np.broadcast_arrays(
        _checked_mu(mu), _checked_delta("delta", delta), _checked_delta("at_delta", at_delta)
    )
    # at_delta = delta is enough for mu = 0, whose curve is 0 from epsilon 0 on.
    reachable = np.where(mu_array == 0, at_array >= delta_array, (at_array > delta_array) & np.isfinite(mu_array))
    result: Any = np.where(reachable, 0.0, np.inf)
    with np.errstate(all="ignore"):
        target, complement = _gaussian_target(delta=delta_array, at_delta=at_array)
        positive = reachable & ~_holds_at_zero(mu=mu_array, target=target, complement=complement)
        low = positive & (target <= 0.5)
        if low.any():
            mu_low = mu_array[low]
            result[low] = mu_low * _centre_from_shortfall(mu=mu_low, target=target[low])
        high = positive & (target > 0.5)
        if high.any():
            mu_high = mu_array[high]
            result[high] = mu_high * _centre_from_excess(mu=mu_high, complement=complement[high])
        # A root within rounding of 0 may come out on the other side of it.
        result = np.maximum(result, 0.0)
    return cast("Real", result[()])


def epsilon_upper(*, mu: Real | float, delta: Real | float, at_delta: Real | float) -> Real:
    """`epsilon`, rounded up by its error bound: never below the true value, and what is displayed.

    Where epsilon is 0 beyond doubt it stays 0. Shapes, errors and source as for `epsilon`.
    """
    mu_array, delta_array, at_array = np.broadcast_arrays(
        _checked_mu(mu), _checked_delta("delta", delta), _checked_delta("at_delta", at_delta)
    )
    nearest = np.asarray(epsilon(mu=mu_array, delta=delta_array, at_delta=at_array))
    with np.errstate(all="ignore"):
        target, complement = _gaussian_target(delta=delta_array, at_delta=at_array)
        # delta_mu(0) moves by at least its own error when mu grows by this much.
        grown = mu_array * (1.0 + EPSILON_ERROR_FACTOR * UNIT_ROUNDOFF)
        certainly_zero = (nearest == 0) & (
            (mu_array == 0) | _holds_at_zero(mu=grown, target=target, complement=complement)
        )
        error = EPSILON_ERROR_FACTOR * UNIT_ROUNDOFF * (nearest + mu_array + mu_array * mu_array / 2)
        result: Any = np.where(certainly_zero, 0.0, nearest + error)
    return cast("Real", result[()])


def _mu_from_shortfall(*, epsilon: FloatArray, target: FloatArray) -> FloatArray:
    """mu where delta_mu(epsilon) = target <= 1/2, solved for log(mu / lowest). log delta_mu is concave in mu."""
    # delta_mu <= mu phi(0); delta_mu <= Phi(-a) means epsilon/mu - mu/2 <= z; delta_mu > 1/2 at a = -1.
    z, root = -special.ndtri(target), math.sqrt(2) * np.sqrt(epsilon)
    by_tail = np.where(epsilon > 0, 2 * (epsilon / (z + np.hypot(z, root))), 0.0)
    lowest = np.maximum(target * _SQRT_TWO_PI, by_tail)
    highest = 1.0 + np.hypot(1.0, root)

    def jet(logarithm: FloatArray) -> _Jet:
        mu = lowest * np.exp(logarithm)
        centre = epsilon / mu
        value, descent = _shortfall_jet(mu=mu, centre=centre, target=target)
        # The derivative of delta_mu by mu is phi(a), and that of log phi(a) by log mu is a b.
        slope = 1 / descent
        return -value, -slope, slope * slope - slope * (1 + centre * centre - mu * mu / 4)

    zero = np.zeros_like(lowest)
    logarithm = _root(
        jet,
        lower=zero,
        upper=np.log(highest / lowest),
        start=zero,
        close=_close(size=np.ones_like(lowest), length=1 / (1.0 + highest)),
    )
    return lowest * np.exp(logarithm)


def _mu_from_excess(*, epsilon: FloatArray, complement: FloatArray) -> FloatArray:
    """mu where 1 - delta_mu(epsilon) = complement < 1/2, solved for log(mu / lowest)."""
    # Phi(a) <= 1 - delta_mu <= 2 Phi(a), and mu = -a + sqrt(a^2 + 2 epsilon).
    a_high, a_low = special.ndtri(complement), special.ndtri(complement / 2)
    root = math.sqrt(2) * np.sqrt(epsilon)
    lowest, highest = np.hypot(a_high, root) - a_high, np.hypot(a_low, root) - a_low

    def jet(logarithm: FloatArray) -> _Jet:
        mu = lowest * np.exp(logarithm)
        centre = epsilon / mu
        value, ratios = _excess_jet(mu=mu, centre=centre, target=complement)
        slope = -mu / ratios
        return value, slope, slope * (1 + centre * centre - mu * mu / 4) - slope * slope

    zero = np.zeros_like(lowest)
    logarithm = _root(
        jet,
        lower=zero,
        upper=np.log(highest / lowest),
        start=zero,
        close=_close(size=np.ones_like(lowest), length=1 / (1.0 + highest)),
    )
    return lowest * np.exp(logarithm)


def mu_for_epsilon(*, epsilon: Real | float, delta: Real | float, at_delta: Real | float) -> Real:
    """Return the largest mu with delta + (1 - delta) * delta_mu(epsilon) <= at_delta: a budget's limit, to the nearest.

    Shapes broadcast. Relative error below MU_FOR_EPSILON_RELATIVE_ERROR; mu moves by no more, relatively, than epsilon
    or the room at_delta - delta does. ValueError: epsilon below 0 or infinite, delta or at_delta outside [0, 1),
    at_delta not above delta (no mu but 0 would do), or a NaN.
    Source: Dong, Roth & Su 2022, Cor. 2.13, inverted; delta_mu(epsilon) grows with mu.
    """
    epsilon_array, delta_array, at_array = np.broadcast_arrays(
        checked("epsilon", epsilon, domain="0 or more, and finite", holds=lambda e: (e >= 0) & np.isfinite(e)),
        _checked_delta("delta", delta),
        _checked_delta("at_delta", at_delta),
    )
    if not np.all(at_array > delta_array):
        raise ValueError(f"at_delta must be above delta, got {at_delta!r} and {delta!r}")
    result: Any = np.empty(epsilon_array.shape)
    with np.errstate(all="ignore"):
        target, complement = _gaussian_target(delta=delta_array, at_delta=at_array)
        low = target <= 0.5
        if low.any():
            result[low] = _mu_from_shortfall(epsilon=epsilon_array[low], target=target[low])
        high = ~low
        if high.any():
            result[high] = _mu_from_excess(epsilon=epsilon_array[high], complement=complement[high])
    return cast("Real", result[()])


def _gaussian_power(*, mu: FloatArray, level: FloatArray, level_complement: FloatArray, sign: int) -> FloatArray:
    """Phi(sign * (Phi^-1(level) + mu)): the power (sign 1) or type II error (sign -1) of the best test at a level."""
    quantile = np.where(level <= 0.5, special.ndtri(level), -special.ndtri(level_complement))
    # Dong, Roth & Su 2022, section 2.3: G_mu(alpha) = Phi(Phi^-1(1 - alpha) - mu). With mu infinite the power is 1.
    return special.ndtr(sign * np.where(mu == np.inf, np.inf, quantile + mu))


def trade_off(*, mu: Real | float, delta: Real | float, type_i_error: Real | float) -> Real:
    """Return the least type II error of a test at this type I error: the trade-off function of f_{0,delta} (x) G_mu.

    Shapes broadcast; all rates in [0, 1]. 0 where type_i_error >= 1 - delta. Relative error, down to results of 1e-300,
    below u * (32 + 16 (|x| + mu)^2), x the normal quantile of type_i_error / (1 - delta).
    ValueError: mu below 0, delta outside [0, 1), type_i_error outside [0, 1], or a NaN.
    Source: Dong, Roth & Su 2022, section 2.3 for G_mu; (x) f_{0,delta} shrinks both axes by 1 - delta.
    """
    mu_array, delta_array, alpha = np.broadcast_arrays(
        _checked_mu(mu), _checked_delta("delta", delta), _checked_rate("type_i_error", type_i_error)
    )
    with np.errstate(all="ignore"):
        kept = 1.0 - delta_array
        # Both ends of [0, 1 - delta] keep their digits: 1 - alpha is exact where it cancels.
        rest = np.where(alpha < 0.5, kept - alpha, (1.0 - alpha) - delta_array)
        level, level_complement = np.minimum(alpha / kept, 1.0), np.maximum(rest / kept, 0.0)
        # (f_{0,delta} (x) f)(alpha) = (1 - delta) f(alpha / (1 - delta)), 0 beyond 1 - delta.
        curve = kept * _gaussian_power(mu=mu_array, level=level, level_complement=level_complement, sign=-1)
        result: Any = np.where(rest <= 0, 0.0, curve)
    return cast("Real", result[()])


def true_positive_rate(*, mu: Real | float, delta: Real | float, false_positive_rate: Real | float) -> Real:
    """Return the best true-positive rate of a membership attack at this false-positive rate: 1 - trade_off, accurately.

    delta + (1 - delta) * Phi(Phi^-1(false_positive_rate / (1 - delta)) + mu), at most 1. Shapes broadcast; all rates in
    [0, 1]. Relative error below u * (32 + 16 (|x| + mu)^2), x the normal quantile of the rate over 1 - delta.
    ValueError: mu below 0, delta outside [0, 1), false_positive_rate outside [0, 1], or a NaN.
    Source: Dong, Roth & Su 2022, section 2.3, as for `trade_off`.
    """
    mu_array, delta_array, alpha = np.broadcast_arrays(
        _checked_mu(mu), _checked_delta("delta", delta), _checked_rate("false_positive_rate", false_positive_rate)
    )
    with np.errstate(all="ignore"):
        kept = 1.0 - delta_array
        rest = np.where(alpha < 0.5, kept - alpha, (1.0 - alpha) - delta_array)
        level, level_complement = np.minimum(alpha / kept, 1.0), np.maximum(rest / kept, 0.0)
        power = _gaussian_power(mu=mu_array, level=level, level_complement=level_complement, sign=1)
        # The view is revealed with probability delta, which a test uses at no cost in false positives.
        result: Any = np.where(rest <= 0, 1.0, np.minimum(delta_array + kept * power, 1.0))
    return cast("Real", result[()])


def advantage(*, mu: Real | float, delta: Real | float) -> Real:
    """Return the best membership advantage, true- minus false-positive rate: the total variation of f_{0,delta} (x)
    G_mu.

    delta + (1 - delta) * (2 Phi(mu/2) - 1). Shapes broadcast; in [0, 1]; relative error below 16 u.
    ValueError: mu below 0, delta outside [0, 1), or a NaN.
    Source: Dong, Roth & Su 2022, Cor. 2.13 at epsilon 0, where delta_mu is the total variation.
    """
    mu_array, delta_array = np.broadcast_arrays(_checked_mu(mu), _checked_delta("delta", delta))
    result: Any = delta_array + (1.0 - delta_array) * special.erf(mu_array / 2 * _SQRT_HALF)
    return cast("Real", result[()])


def compose(*, mu: ArrayLike, delta: ArrayLike) -> tuple[np.float64 | FloatArray, np.float64 | FloatArray]:
    """(mu, delta) of the composition of the mechanisms along the last axis: for display; the ledger adds integers.

    `mu` and `delta` broadcast against each other to at least one dimension; of shape (..., n) they give shape (...). No
    overflow or underflow on the way. Relative error below (n + 8) u each. No mechanism at all composes to (0, 0).
    ValueError: mu below 0, delta outside [0, 1), a NaN, or no axis to compose over.
    Source: Dong, Roth & Su 2022, Cor. 3.3 for mu; delta because 1 - delta multiplies under (x).
    """
    mu_array, delta_array = np.broadcast_arrays(_checked_mu(mu), _checked_delta("delta", delta))
    if mu_array.ndim == 0:
        raise ValueError("mu and delta must have an axis to compose over")
    with np.errstate(all="ignore"):
        # A power of two scales exactly, so that squares neither overflow nor vanish.
        _, exponent = np.frexp(mu_array.max(axis=-1, initial=0.0))
        scaled = np.ldexp(mu_array, -exponent[..., np.newaxis])
        # Dong, Roth & Su 2022, Cor. 3.3
        mu_composed = np.ldexp(np.sqrt(np.sum(scaled * scaled, axis=-1)), exponent)
        delta_composed = 0.0 - np.expm1(np.sum(np.log1p(-delta_array), axis=-1))
    return mu_composed[()], delta_composed[()]

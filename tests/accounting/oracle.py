"""Independent values at 50 digits and more: the definitions, as written in the literature, in mpmath.

Nothing here is shared with `ledger.accounting`, and nothing is clever: Phi is erfc, delta_mu is the difference of two
Phi at a precision that outlasts the cancellation, and every inverse is a bracketed root whose sign change is verified.
Arguments are converted exactly, so that errors measured against these values are those of the code alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mpmath as mp

from tests.kit.trials import trials

if TYPE_CHECKING:
    from collections.abc import Callable

DIGITS = 50
# LEDGER_PROVE=1 runs thirty times as many random cases.
PROOF = trials(1, 30)
_CASES = json.loads((Path(__file__).parents[1] / "cases" / "gdp_reference.json").read_text(encoding="utf-8"))
REFERENCE: dict[str, dict[str, Any]] = {case["id"]: case for case in _CASES["cases"]}


def exact(value: float) -> Any:
    """A double as an mpmath number, without rounding."""
    return mp.mpf(float(value))


def relative_error(value: float, truth: Any) -> float:
    """|value - truth| / |truth|, 0 where both are 0."""
    with mp.workdps(DIGITS):
        return 0.0 if exact(value) == truth else float(abs(exact(value) - truth) / abs(truth))


def normal_cdf(x: Any) -> Any:
    """Phi."""
    return mp.erfc(-x / mp.sqrt(2)) / 2


def _lasting(terms: Callable[[], tuple[Any, Any]]) -> Any:
    """The difference of two terms, with DIGITS digits left after cancellation."""
    digits = DIGITS + 25
    while True:
        with mp.workdps(digits):
            first, second = terms()
            difference = first - second
            lost = mp.log10(max(abs(first), abs(second)) / abs(difference)) if difference else digits
        if lost + DIGITS <= digits:
            return difference
        digits *= 2


def delta(mu: Any, epsilon: Any) -> Any:
    """Phi(-epsilon/mu + mu/2) - e^epsilon Phi(-epsilon/mu - mu/2), for mu > 0."""

    def terms() -> tuple[Any, Any]:
        return normal_cdf(-epsilon / mu + mu / 2), mp.exp(epsilon) * normal_cdf(-epsilon / mu - mu / 2)

    return _lasting(terms)


def room(delta_float: float, at_delta: float) -> Any:
    """(at_delta - delta) / (1 - delta): what is left for delta_mu."""
    with mp.workdps(DIGITS + 25):
        return (exact(at_delta) - exact(delta_float)) / (1 - exact(delta_float))


def _verified_root(function: Callable[[Any], Any], low: Any, high: Any) -> Any:
    """The root of a monotone function between two positive points of opposite sign, to 45 digits."""
    with mp.workdps(DIGITS + 25):
        # mpmath's tolerances are absolute, so both axes are brought to size 1.
        height = abs(function(low))
        share = mp.findroot(
            lambda x: function(x * high) / height,
            (low / high, mp.mpf(1)),
            solver="anderson",
            tol=mp.mpf(10) ** -DIGITS,
            maxsteps=200,
            verify=False,
        )
        nudge = mp.mpf(10) ** (5 - DIGITS)
        if function(share * high * (1 - nudge)) * function(share * high * (1 + nudge)) > 0:
            raise ArithmeticError(f"no sign change at {share * high}")
        return share * high


def _logit_delta(mu: Any, epsilon: Any) -> Any:
    """log(delta_mu / (1 - delta_mu)): close to a parabola at both ends, which is what a root finder likes."""
    complement = normal_cdf(epsilon / mu - mu / 2) + mp.exp(epsilon) * normal_cdf(-epsilon / mu - mu / 2)
    return mp.log(delta(mu, epsilon)) - mp.log(complement)


def epsilon(mu_float: float, delta_float: float, at_delta: float) -> Any:
    """The least epsilon >= 0 with delta + (1 - delta) delta_mu(epsilon) <= at_delta; mu > 0, at_delta > delta."""
    target = room(delta_float, at_delta)
    with mp.workdps(DIGITS + 25):
        mu = exact(mu_float)
        if delta(mu, mp.mpf(0)) <= target:
            return mp.mpf(0)
        low, high = mp.mpf(0), mu * (1 + mu / 2)
        while delta(mu, high) > target:
            low, high = high, 2 * high
        while low == 0 and delta(mu, high / 2) <= target:
            high /= 2
        goal = mp.log(target) - mp.log(1 - target)
        return _verified_root(lambda e: _logit_delta(mu, e) - goal, low or high / 2, high)


def mu_for_epsilon(epsilon_float: float, delta_float: float, at_delta: float) -> Any:
    """The largest mu with delta + (1 - delta) delta_mu(epsilon) <= at_delta, for at_delta > delta."""
    target = room(delta_float, at_delta)
    with mp.workdps(DIGITS + 25):
        eps = exact(epsilon_float)
        high = 1 + mp.sqrt(eps)
        while delta(high, eps) < target:
            high *= 2
        low = high / 2
        while delta(low, eps) > target:
            low /= 2
        goal = mp.log(target) - mp.log(1 - target)
        return _verified_root(lambda mu: _logit_delta(mu, eps) - goal, low, 2 * low)


def mu_poisson(noise_multiplier: float, sample_rate: float, steps: float, *, replace_one: bool) -> Any:
    """q sqrt(T (e^(s^-2) - 1)), or 2 q sqrt(T sinh(s^-2))."""
    with mp.workdps(DIGITS + 60):
        s, q, t = exact(noise_multiplier), exact(sample_rate), exact(steps)
        return 2 * q * mp.sqrt(t * mp.sinh(s**-2)) if replace_one else q * mp.sqrt(t * (mp.exp(s**-2) - 1))


def mu_fixed_size(noise_multiplier: float, sample_rate: float, steps: float, *, replace_one: bool) -> Any:
    """sqrt(2) q sqrt(T) sqrt(e^(s^-2) Phi(1.5/s) + 3 Phi(-0.5/s) - 2), at s/2 under replace_one."""
    with mp.workdps(DIGITS + 60):
        s, q, t = exact(noise_multiplier), exact(sample_rate), exact(steps)
        s = s / 2 if replace_one else s
        half = mp.mpf(1) / 2
        return mp.sqrt(2 * t) * q * mp.sqrt(mp.exp(s**-2) * normal_cdf(3 * half / s) + 3 * normal_cdf(-half / s) - 2)


def mu_at_fixed_point(fixed_point: Callable[[], Any], near: float) -> Any:
    """-2 Phi^-1(p): the root of Phi(-mu/2) = p, from a float near it. `fixed_point` is evaluated at full precision."""
    with mp.workdps(DIGITS + 25):
        p, start = fixed_point(), exact(near)
        # log Phi(-mu/2) is smooth and decreasing; 1e-9 is far more than a right double is off.
        width = mp.mpf("1e-9")
        log_p = mp.log(p)
        return _verified_root(lambda mu: mp.log(normal_cdf(-mu / 2)) - log_p, start * (1 - width), start * (1 + width))


def trade_off(mu_float: float, delta_float: float, alpha: float) -> tuple[Any, Any, float]:
    """(type II error, power, Phi^-1(alpha/(1 - delta))) of f_{0,delta} (x) G_mu, for 0 < alpha < 1 - delta."""
    with mp.workdps(DIGITS + 25):
        mu, delta_exact = exact(mu_float), exact(delta_float)
        level = exact(alpha) / (1 - delta_exact)
        tail = min(level, 1 - level)
        log_tail = mp.log(tail)
        lower = mp.findroot(lambda x: mp.log(normal_cdf(x)) - log_tail, -mp.sqrt(-2 * log_tail))
        quantile = lower if level <= tail else -lower
        kept = 1 - delta_exact
        return kept * normal_cdf(-quantile - mu), delta_exact + kept * normal_cdf(quantile + mu), float(quantile)

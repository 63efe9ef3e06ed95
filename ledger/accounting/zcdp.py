"""zCDP as approximate GDP: the least mu that covers every rho-zCDP mechanism, verified separately for each rho.

P and Q are rho-zCDP when D_a(P||Q) <= rho a and D_a(Q||P) <= rho a for all a > 1 (Bun & Steinke 2016); at a = 1, the
Kullback-Leibler divergence, it follows by continuity. A test with type I error x and power y makes of (P, Q) a pair of
coins, so by data processing those inequalities hold of Bern(y) and Bern(x). Let y(x) be the largest y they allow. The
coins themselves are rho-zCDP, so 1 - y(x) is the trade-off function of all rho-zCDP pairs together: no bound is better.
The inequalities stay the same under (x, y) -> (1-y, 1-x). Hence 1 - y(x) is its own inverse, like G_mu, and
x <= p is enough, where p = 1 - y(p) is the fixed point.

*The fixed point.* With l = log((1-p)/p) and r = a - 1/2, D_a(Bern(1-p)||Bern(p)) <= rho a is the same as

    log cosh(l r) - log cosh(l/2) <= rho (r^2 - 1/4).

log cosh(sqrt(b)) is concave in b, so the order a = 1 binds first: l tanh(l/2) = rho. Randomised response with
epsilon = l is therefore rho-zCDP, exactly; it needs mu = mu_pure(l), G_mu's value at that fixed point, and no valid mu
can be less (1.256, 1.284, 1.384 times sqrt(2 rho) for rho = 0.05, 0.5, 2; from sqrt(pi/2) to 2 times over all rho).

*That it suffices* away from the fixed point, up to a factor 1 + 2^-22 on l, is not taken from a proof for all rho, but
verified by `_covers`, with rounding, for the rho in hand. With x = Phi(-t) and p = Phi(-m), the points t >= m are cut
into cells. F(x, y) = y^a x^(1-a) + (1-y)^a (1-x)^(1-a) <= exp(rho a (a-1)) has a convex left side, each term of which
lies above its tangents: for *any* a > 1 and any positive R, S (R = y/x and S = (1-y)/(1-x) where they touch)

    a R^(a-1) y - (a-1) R^a x  +  a S^(a-1) (1-y) - (a-1) S^a (1-x)  <=  exp(rho a (a-1)),

a line above y(x), valid whatever its parameters: those may come from a search that proves nothing. In the
limit a = 1 it is  y log(R/S) - (R - S) x + 1 + log S - S <= rho.  The power of G_mu is concave in x, so that a line
below it at both ends of a cell is below it throughout. The line of the first cell is the tangent of order 1 in the
fixed point; there it meets G_mu by definition, and nothing is computed. Beyond the last cell F >= y^a x^(1-a) with
a = sqrt(-log x / rho) gives k(s) >= k(t) - sqrt(rho) for y = Phi(-s) and k(t) = sqrt(-log Phi(-t)). k is convex: with
the hazard h = phi(t)/Phi(-t) that says -2 log Phi(-t) >= h/(h-t), where both sides vanish at -infinity and the left
grows faster because h >= (3t + sqrt(t^2 + 8))/4 (Sampford 1953). So t - s falls with t: its last point bounds it.

*delta.* If f >= G_mu has the fixed point p = Phi(-mu/2), then f >= f_{0,delta} (x) G_nu with Phi(-nu/2) = p/(1-delta),
and no nu can be less. For in units of p the latter is K_n(v) = Phi(z - 2n)/Phi(-n) with n = nu/2, Phi(-z) = v Phi(-n);
by d/dn, K_n grows with n when Mills' ratio has R(n) <= (R(z) + R(2n - z))/2, and R is convex. (If p/(1-delta) > 1/2,
the total variation 1 - 2p is below delta, and nu = 0.) In terms of l: e^l becomes e^l (1-delta) - delta.

Errors are stated in u = 2^-53; exp, expm1, log1p and tanh are presumed within 16 u of themselves, log_ndtr
within 16 u below 0 and, where its argument is rounded on the way, within 128 u up to 6 (the worst seen are 5 and 70).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Final

from ledger.accounting import deadline
from ledger.accounting.closed_forms import RELATIVE_ERROR, mu_pure_dp
from ledger.accounting.gdp import UNIT_ROUNDOFF
from ledger.accounting.numeric import FloatArray, np, special

RHO_RANGE: Final = (1e-12, 1e6)
"""mu goes up to 2828 in it; no amount of the ledger holds more than 3037."""
SLACKS: Final = tuple(2.0**-exponent for exponent in range(22, -1, -1))
"""Relative increases of l to try until G_mu is verified; mu then grows by no more. The first serves every rho."""

# Ends of the cells, as t - m: geometric, since the margin grows with the square of the distance.
_CELLS: Final = 64
_NEAREST, _FARTHEST = 3e-4, 2.0
# The search for good lines: orders tried, in two rounds, and bisections for the power that each order allows.
_ORDERS: Final = 40
_ORDERS_BETWEEN: Final = 16
_BISECTIONS: Final = 24


@dataclass(frozen=True, slots=True)
class _Lines:
    """Lines above y(x), by their parameters (a, R, S): a - 1, log R and -log S, all 0 or more; shape (cells,)."""

    order_less_one: FloatArray
    up: FloatArray
    down: FloatArray


def mu_zcdp(*, rho: float, delta: float) -> float:
    """Return the least mu for which every rho-zCDP mechanism is (mu, delta)-approximate GDP, rounded up.

    The result is never below the true value, and above it by at most a relative 6e-7 if delta is at most half of
    tanh(l/2), the total variation that rho allows. As delta comes near all of it, mu falls to 0, and only the absolute
    error stays small. mu grows with rho and falls with delta: to round safely, round rho up and delta down. It takes a
    few milliseconds. Raises ValueError if rho is outside RHO_RANGE or delta outside [0, 1), or for a NaN.
    Source: this module's docstring; our derivation.
    """
    if not RHO_RANGE[0] <= rho <= RHO_RANGE[1]:
        raise ValueError(f"rho must be between {RHO_RANGE[0]:g} and {RHO_RANGE[1]:g}, got {rho!r}")
    if not 0 <= delta < 1:
        raise ValueError(f"delta must be at least 0 and less than 1, got {delta!r}")
    loss = _loss_at_fixed_point(rho)
    loss *= 1 + _slack(loss)
    # 1 - delta has a relative error below u, and is at most twice `kept` if the result is positive.
    kept = (1 - delta) - delta * math.exp(-loss)
    if kept <= 0:
        return 0.0
    log_kept = math.log(kept)
    remaining = loss + log_kept + 64 * UNIT_ROUNDOFF * (1 + loss + abs(log_kept))
    if remaining <= 0:
        return 0.0
    return float(mu_pure_dp(epsilon=remaining)) * (1 + RELATIVE_ERROR + 2 * UNIT_ROUNDOFF)


def _loss_at_fixed_point(rho: float) -> float:
    """Return l with l tanh(l/2) = rho, rounded up; relative error below 96 u."""
    # l tanh(l/2) is at most l and at most l^2/2, so the root lies above both of these.
    loss = max(rho, math.sqrt(2 * rho))
    for _ in range(64):
        share = math.tanh(loss / 2)
        step = (loss * share - rho) / (share + loss * (1 - share * share) / 2)
        loss -= step
        if abs(step) <= 8 * UNIT_ROUNDOFF * loss:
            break
    # l tanh(l/2) is computed within 18 u, and grows at least in proportion to l.
    loss *= 1 + 64 * UNIT_ROUNDOFF
    if loss * math.tanh(loss / 2) * (1 - 24 * UNIT_ROUNDOFF) < rho:
        raise ArithmeticError(f"no fixed point could be verified for rho {rho!r}")
    return loss


def _slack(loss: float) -> float:
    """Return the first of SLACKS with which G_mu is verified to lie under all trade-off functions of a fixed point."""
    with np.errstate(all="ignore"):
        # Rounded towards the exact rho of this l, which is not below the requested rho.
        rho = loss * math.tanh(loss / 2) * (1 + 24 * UNIT_ROUNDOFF)
        mu = float(mu_pure_dp(epsilon=loss))
        ends = mu / 2 + np.geomspace(_NEAREST, _FARTHEST, _CELLS)
        lines = _search(ends[:-1], loss=loss, rho=rho, mu=mu)
        log_powers = _log_powers(lines, ends, rho=rho)
        for slack in SLACKS:
            least = float(mu_pure_dp(epsilon=loss * (1 + slack))) * (1 - RELATIVE_ERROR - 4 * UNIT_ROUNDOFF)
            if _covers(least, log_powers, ends):
                return slack
    raise ArithmeticError(f"no mu could be verified for a loss of {loss!r}")


def _covers(mu: float, log_powers: FloatArray, ends: FloatArray) -> bool:
    """Return whether G_mu surely allows these powers, of shape (any, cells), at these ends of cells."""
    # Beyond 6 the allowed power is taken as Phi(6), so that a bound of 1, or a NaN, is never allowed.
    argument = np.minimum(mu - ends - 2 * UNIT_ROUNDOFF * (mu + ends), 6.0)
    return bool(np.all(log_powers <= special.log_ndtr(argument) * (1 + 128 * UNIT_ROUNDOFF)))


def _log_powers(lines: _Lines, ends: FloatArray, *, rho: float) -> FloatArray:
    """Return upper bounds of log y(Phi(-t)) at the ends t of the cells, of shape (2, cells).

    They come from the line on the right, which ends there, and from that on the left, which begins there; for the last
    end, from the single term of the tail.
    """
    log_levels = special.log_ndtr(-ends)
    leaving = _log_bound(lines, log_levels, rho=rho)
    beginning = _log_bound(_Lines(lines.order_less_one[1:], lines.up[1:], lines.down[1:]), log_levels[:-1], rho=rho)
    tail, root_rho = math.sqrt(-float(log_levels[-1])), math.sqrt(rho)
    # The error of k(t), the larger one, is within 18 u; an order above 1 needs k(t) > sqrt(rho).
    least = tail - root_rho - 24 * UNIT_ROUNDOFF * tail
    return np.stack((leaving, np.append(beginning, -least * least if least > 0 else 0.0)))


def _log_bound(lines: _Lines, log_levels: FloatArray, *, rho: float) -> FloatArray:
    """Return the logarithm of the power that each line allows at x, from log x, rounded up.

    With k = a - 1, b = log R, g = -log S, both sides divided by k R^k:

        y a (1 - e^(-k(b+g)))/k  <=  x R (1 - e^(-a(b+g))) + e^(-kb) ((e^(rho a k) - 1)/k + (1 - S^k (1 + k - k S))/k)

    in which every difference is an expm1, and all terms are 0 or more. Only the last cancels: its error is below
    40 u g. All else is relative: 22 u on the left; (36 + 18 |log x| + b) u and (40 + 4 rho a k + 2 k b) u on the right;
    4 u for the sum, and for the logarithm 16 u of itself, which is at most |log x| + b + rho a k + k b and some units.
    """
    k, b, g = lines.order_less_one, lines.up, lines.down
    a, divisor = 1 + k, np.where(k > 0, k, 1.0)
    left = a * np.where(k > 0, -np.expm1(-k * (b + g)) / divisor, b + g)
    slope = np.exp(b + log_levels) * -np.expm1(-a * (b + g))
    exponent = rho * a * k
    # For a large exponent e^z - 1 = e^z (1 - e^-z), and e^z goes together with e^(-kb).
    small = exponent < 1
    moment = np.where(small, np.expm1(np.where(small, exponent, 0)), -np.expm1(-exponent))
    ours = np.exp(np.where(small, 0, exponent) - k * b) * np.where(k > 0, moment / divisor, rho)
    fallen = -np.expm1(-g)
    rest = np.where(k > 0, -np.expm1(np.log1p(k * fallen) - k * g) / divisor, g - fallen) + 40 * UNIT_ROUNDOFF * g
    bound: FloatArray = np.log((slope + ours + np.exp(-k * b) * rest) / left)
    return bound + 48 * UNIT_ROUNDOFF * (2 - log_levels + b + exponent + k * b)


def _search(t: FloatArray, *, loss: float, rho: float, mu: float) -> _Lines:
    """Return lines that nearly touch y(x) at the fixed point and at all but the last of these t. It proves nothing."""
    # In the tail the best order is sqrt(-log x / rho); towards the fixed point it falls to 1.
    highest = 1.5 * np.sqrt(-special.log_ndtr(-t) / rho)
    ratios = np.geomspace(1e-4 / (1 + 5 * math.sqrt(rho)), 1, _ORDERS)[:, np.newaxis]
    best = _binding(t, highest * ratios, rho=rho, mu=mu)[1]
    between = np.geomspace(ratios[0] / ratios[1], ratios[1] / ratios[0], _ORDERS_BETWEEN)
    shift, best = _binding(t, best * between, rho=rho, mu=mu)
    up, down = _log_ratios(t, shift)
    return _Lines(np.append(0.0, best), np.append(loss, up), np.append(loss, down))


def _binding(t: FloatArray, k: FloatArray, *, rho: float, mu: float) -> tuple[FloatArray, FloatArray]:
    """Return `_largest_shift`, and the order that limits it."""
    shift = _largest_shift(t, k, rho=rho, mu=mu)
    at = _excess(t, shift, k, rho=rho).argmax(axis=0)
    return shift, np.take_along_axis(k, at[np.newaxis], axis=0)[0]


def _largest_shift(t: FloatArray, k: FloatArray, *, rho: float, mu: float) -> FloatArray:
    """Return about the largest t - s for which these orders 1 + k allow y = Phi(-s) at x = Phi(-t)."""
    low, high = np.zeros_like(t), np.full_like(t, 1.1 * mu)
    for _ in range(_BISECTIONS):
        deadline.check()
        middle = (low + high) / 2
        is_allowed = (_excess(t, middle, k, rho=rho) <= 0).all(axis=0)
        low, high = np.where(is_allowed, middle, low), np.where(is_allowed, high, middle)
    return high


def _excess(t: FloatArray, shift: FloatArray, k: FloatArray, *, rho: float) -> FloatArray:
    """Return D_a(Bern(y)||Bern(x)) - rho a at a = 1 + k, in the shape of k; x = Phi(-t), y = Phi(shift - t)."""
    up, down = _log_ratios(t, shift)
    log_power, log_rest = special.log_ndtr(shift - t), special.log_ndtr(t - shift)
    excess: FloatArray = np.logaddexp(log_power + k * up, log_rest - k * down) / k - rho * (1 + k)
    return excess


@functools.cache
def _quadrature() -> tuple[FloatArray, FloatArray]:
    """Return nodes and weights of a Gauss-Legendre rule on [-1/2, 1/2]."""
    nodes, weights = special.roots_legendre(6)
    return nodes / 2, weights / 2


def _log_ratios(t: FloatArray, shift: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return log(y/x) and log((1-x)/(1-y)), for a small shift as integrals of the hazards, which keep the digits."""
    s = t - shift
    up, down = special.log_ndtr(-s) - special.log_ndtr(-t), special.log_ndtr(t) - special.log_ndtr(s)
    rule_nodes, rule_weights = _quadrature()
    nodes = t + (rule_nodes[:, np.newaxis] - 0.5) * shift
    weights = rule_weights[:, np.newaxis] * shift * math.sqrt(2 / math.pi)
    is_small = shift < 0.25
    rising = (weights / special.erfcx(nodes / math.sqrt(2))).sum(axis=0)
    falling = (weights / special.erfcx(-nodes / math.sqrt(2))).sum(axis=0)
    return np.where(is_small, rising, up), np.where(is_small, falling, down)

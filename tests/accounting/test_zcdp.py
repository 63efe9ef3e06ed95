"""`ledger.accounting.zcdp` against its definition in mpmath, and against mechanisms whose rho is known exactly."""

from __future__ import annotations

import math
import tracemalloc
from typing import TYPE_CHECKING, Any

import mpmath as mp
import numpy as np
import pytest
from scipy import special

from ledger.accounting import gdp, zcdp
from tests.accounting import oracle

if TYPE_CHECKING:
    from collections.abc import Callable

RHOS = [1e-6, 0.05, 0.5, 2.0, 30.0]


def root(function: Callable[[Any], Any], low: Any, high: Any) -> Any:
    """The root between two points of opposite sign. What comes of it is compared from both sides."""
    return mp.findroot(function, (low, high), solver="anderson", tol=mp.mpf(10) ** -mp.mp.dps, verify=False)


def loss_at_fixed_point(rho: float) -> Any:
    """l with l tanh(l/2) = rho, to 40 digits."""
    high = oracle.exact(rho) + mp.sqrt(2 * oracle.exact(rho))
    return root(lambda loss: loss * mp.tanh(loss / 2) / rho - 1, high / 2, high)


def quantile(p: Any) -> Any:
    """Phi^-1(p), for 0 < p < 1."""
    if p > mp.mpf(1) / 2:
        return -quantile(1 - p)
    log_p = mp.log(p)
    return root(lambda z: mp.log(oracle.normal_cdf(z)) / log_p - 1, -mp.sqrt(-2 * log_p) - 1, mp.mpf(1))


def least_mu(rho: float, delta: float) -> Any:
    """-2 Phi^-1(p/(1-delta)) at the fixed point p: what randomised response alone asks for."""
    with mp.workdps(oracle.DIGITS):
        p = 1 / (1 + mp.exp(loss_at_fixed_point(rho)))
        level = p / (1 - oracle.exact(delta))
        return -2 * quantile(level) if 2 * level < 1 else mp.mpf(0)


def is_allowed(t: Any, s: Any, rho: float, orders: list[Any]) -> bool:
    """Whether both Renyi divergences between two coins, of probabilities Phi(-t) and Phi(-s), are at most rho a at all
    these orders, 1 among them."""
    x, y = [(oracle.normal_cdf(-z), oracle.normal_cdf(z)) for z in (t, s)]
    for p, q in ((y, x), (x, y)):
        losses = [mp.log(p[side] / q[side]) for side in (0, 1)]
        if mp.fdot(p, losses) > rho:
            return False
        for a in orders:
            if mp.log(mp.fdot(p, [mp.exp((a - 1) * loss) for loss in losses])) > rho * a * (a - 1):
                return False
    return True


def sampled(rho: float, deltas: list[float]) -> list[Any]:
    """sup over a grid of x of Phi^-1((y-delta)/(1-delta)) - Phi^-1(x/(1-delta)), y from 48 orders, for each delta."""
    with mp.workdps(30):
        mu = least_mu(rho, 0.0)
        orders = [1 + mp.mpf(10) ** (-4 + mp.mpf(i) / 10) * (1 + 1 / mp.sqrt(rho)) for i in range(48)]
        best = [mp.mpf(0)] * len(deltas)
        for distance in (-0.3, -0.01, 0, 0.001, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2, 3, 5, 8):
            t = mu / 2 + mp.mpf(distance)
            x = oracle.normal_cdf(-t)
            low, high = mp.mpf(0), 2 * mu
            for _ in range(26):
                middle = (low + high) / 2
                if is_allowed(t, t - middle, rho, orders):
                    low = middle
                else:
                    high = middle
            y = oracle.normal_cdf(low - t)
            for at, delta in enumerate(deltas):
                kept = 1 - oracle.exact(delta)
                if y > delta and x < kept:
                    best[at] = max(best[at], quantile((y - delta) / kept) - quantile(x / kept))
        return best


@pytest.mark.parametrize("rho", RHOS)
def test_it_is_the_supremum_of_its_definition(rho: float) -> None:
    """Goal: never below what two coins ask for, and hardly above it. Method: bisection for the largest power under 49
    orders in both directions, in mpmath, on both sides of the fixed point and far into the tail; deltas up to half of
    the total variation."""
    total_variation = math.tanh(float(loss_at_fixed_point(rho)) / 2)
    deltas = [0.0, 1e-9, 1e-6 * total_variation, 1e-2 * total_variation, 0.5 * total_variation]
    for delta, truth in zip(deltas, sampled(rho, deltas), strict=True):
        value = zcdp.mu_zcdp(rho=rho, delta=delta)
        assert truth <= oracle.exact(value) <= truth * (1 + 6e-7), (rho, delta)


def test_the_first_slack_serves_every_rho(tries: Callable[[int, int], int]) -> None:
    """Goal: over the whole domain the verified mu is within 2^-22 of what randomised response asks for, at delta 0 and
    at half of the total variation. Method: random rho, the ends, against mpmath."""
    generator = np.random.default_rng(20160504)
    random = 10 ** generator.uniform(-12, 6, tries(60, 3_000))
    for rho in (*zcdp.RHO_RANGE, 1.0, *random):
        total_variation = math.tanh(float(loss_at_fixed_point(float(rho))) / 2)
        for delta in (0.0, total_variation / 2):
            truth = least_mu(float(rho), delta)
            assert truth <= oracle.exact(zcdp.mu_zcdp(rho=rho, delta=delta)) <= truth * (1 + 6e-7), (rho, delta)


@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 0.5, 1.0, 3.0, 20.0])
def test_randomised_response(epsilon: float) -> None:
    """Goal: sound for a mechanism whose rho is known, which sqrt(2 rho) is not.

    Method: rho = epsilon tanh(epsilon/2) is the supremum of D_a/a over orders in mpmath; the certificate's trade-off
    function against its own at the kink and the end, between which its own is straight.
    """
    with mp.workdps(oracle.DIGITS):
        p = 1 / (1 + mp.exp(oracle.exact(epsilon)))
        exact = oracle.exact(epsilon) * mp.tanh(oracle.exact(epsilon) / 2)
        for exponent in range(-12, 13):
            k = mp.mpf(10) ** (mp.mpf(exponent) / 2)
            moment = (1 - p) * mp.exp(k * epsilon) + p * mp.exp(-k * epsilon)
            assert mp.log(moment) / k <= exact * (1 + k)
    rho, kink = math.nextafter(float(exact), math.inf), float(p)
    for delta in (0.0, 1e-12, 1e-5, 0.1):
        mu = zcdp.mu_zcdp(rho=rho, delta=delta)
        assert gdp.trade_off(mu=mu, delta=delta, type_i_error=kink) <= kink
        assert gdp.trade_off(mu=mu, delta=delta, type_i_error=0.0) <= 1.0
    assert gdp.trade_off(mu=math.sqrt(2 * rho), delta=0.0, type_i_error=kink) > kink * (1 + 1e-9)


def vertices(p: Any, q: Any) -> tuple[Any, Any]:
    """Where the trade-off function of two distributions on the same atoms bends: (type I errors, type II errors)."""
    order = np.argsort(-(np.log(p) - np.log(q)))
    return np.append(0.0, np.cumsum(q[order])), np.append(np.cumsum(p[order][::-1])[::-1], 0.0)


def assert_sound(p: Any, q: Any, rho: float) -> None:
    """The certificate's trade-off function lies under that of the pair, both ways: at its vertices, as it is convex."""
    for delta in (0.0, 1e-6, 1e-2):
        mu = zcdp.mu_zcdp(rho=rho, delta=delta)
        for pair in ((p, q), (q, p)):
            type_i, type_ii = vertices(*pair)
            allowed = gdp.trade_off(mu=mu, delta=delta, type_i_error=np.minimum(type_i, 1.0))
            assert np.all(allowed <= type_ii * (1 + 1e-12) + 1e-14), (rho, delta)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 3.0, 20.0])
def test_gaussian_noise_continuous_and_discrete(sigma: float) -> None:
    """Goal: sound for Gaussian noise, rho = 1/(2 sigma^2), and for its discrete kin, of the same rho (Canonne, Kamath &
    Steinke 2020). Method: mu is at least sqrt(2 rho); the discrete trade-off function by tail sums."""
    rho = 1 / (2 * sigma**2)
    assert zcdp.mu_zcdp(rho=rho, delta=0.0) >= math.sqrt(2 * rho)
    points = np.arange(-int(12 * sigma) - 3, int(12 * sigma) + 5)
    p, q = np.exp(-((points - 1) ** 2) * rho), np.exp(-(points**2) * rho)
    assert_sound(p / p.sum(), q / q.sum(), rho)


def test_random_mechanisms(tries: Callable[[int, int], int]) -> None:
    """Goal: sound for pairs of no particular shape. Method: random pairs on two to eight atoms, near and far apart; rho
    is the largest D_a/a over 700 orders, with a share for what lies between them."""
    generator = np.random.default_rng(20160505)
    k = np.concatenate(([1e-6], np.geomspace(1e-4, 1e5, 700)))[:, np.newaxis]
    for _ in range(tries(80, 5_000)):
        size = int(generator.integers(2, 9))
        q = generator.dirichlet(np.full(size, generator.uniform(0.2, 3))) + 1e-12
        p = q * np.exp(10 ** generator.uniform(-3, 1) * generator.normal(size=size))
        p, q = p / p.sum(), q / q.sum()
        loss = np.log(p) - np.log(q)
        both = [
            special.logsumexp(k * sign * loss, axis=1, b=base) / (k[:, 0] * (1 + k[:, 0]))
            for sign, base in ((1, p), (-1, q))
        ]
        rho = float(np.max(both)) * 1.001
        if rho >= zcdp.RHO_RANGE[0]:
            assert_sound(p, q, rho)


def test_it_grows_with_rho_and_falls_with_delta() -> None:
    """Goal: no search can be led astray. Method: fine grids; steps far smaller than the tolerance included."""
    for rhos in (np.geomspace(*zcdp.RHO_RANGE, 200), 0.5 * (1 + np.arange(50) * 1e-9)):
        values = [zcdp.mu_zcdp(rho=float(rho), delta=1e-8) for rho in rhos]
        assert np.all(np.diff(values) >= -1e-14 * np.array(values[1:]))
    for rho in (1e-8, 0.5, 40.0):
        deltas = np.concatenate(([0.0], np.geomspace(1e-300, 1e-6, 50), np.geomspace(1e-6, 0.999999, 100)))
        values = [zcdp.mu_zcdp(rho=rho, delta=float(delta)) for delta in deltas]
        assert np.all(np.diff(values) <= 1e-15)


def test_a_line_is_a_bound_whatever_its_parameters(tries: Callable[[int, int], int]) -> None:
    """Goal: `_log_bound` is at or above the line that its parameters stand for, by no more than its stated error.
    Method: random parameters, far from any optimum too; the line as the module states it, in mpmath."""
    generator = np.random.default_rng(20160506)
    count = tries(60, 10_000)
    k = np.where(generator.random(count) < 0.1, 0.0, 10 ** generator.uniform(-8, 6, count))
    up = 10 ** generator.uniform(-6, 3, count) / (1 + k)
    down = 10 ** generator.uniform(-6, 3, count) / (1 + k)
    log_x, rho = -(10 ** generator.uniform(-0.5, 3, count)), 10 ** generator.uniform(-12, 0, count)
    with mp.workdps(80):
        for row in zip(k, up, down, log_x, rho, strict=True):
            order_less_one, b, g, level, budget = (oracle.exact(value) for value in row)
            x, R, S, a = mp.exp(level), mp.exp(b), mp.exp(-g), 1 + order_less_one
            if a == 1:
                line = ((R - S) * x + budget - 1 - mp.log(S) + S) / (b + g)
            else:
                constant = mp.exp(budget * a * (a - 1)) - a * S ** (a - 1) + (a - 1) * S**a
                line = ((a - 1) * (R**a - S**a) * x + constant) / (a * (R ** (a - 1) - S ** (a - 1)))
            lines = zcdp._Lines(*(np.array([value]) for value in row[:3]))
            with np.errstate(all="ignore"):
                bound = float(zcdp._log_bound(lines, np.array([row[3]]), rho=float(row[4]))[0])
            if math.isfinite(bound):
                size = 2 - row[3] + row[1] + row[4] * row[0] * (1 + row[0]) + row[0] * row[1]
                cancelled = 40 * oracle.exact(row[2]) * mp.exp(-order_less_one * b) / (line * (b + g))
                within = 2 * (48 * size + float(min(cancelled * (1 + a * (b + g)), mp.mpf("1e300")))) * 2.0**-53
                assert mp.log(line) <= bound <= mp.log(line) + within, row


def test_log_ndtr_is_as_good_as_presumed(tries: Callable[[int, int], int]) -> None:
    """Goal: SciPy's log Phi is within the presumed error where it is used. Method: random points, at 50 digits."""
    generator = np.random.default_rng(20160507)
    count = tries(40, 5_000)
    for low, high, units in ((-1_420, -40, 16), (-40, -2, 16), (-2, 0, 16), (0, 3, 128), (3, 6, 128)):
        points = generator.uniform(low, high, count)
        for point, value in zip(points, special.log_ndtr(points), strict=True):
            with mp.workdps(oracle.DIGITS):
                truth = mp.log(oracle.normal_cdf(oracle.exact(point)))
            assert oracle.relative_error(float(value), truth) < units * gdp.UNIT_ROUNDOFF, point


def test_what_cannot_be_verified_is_not_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: too few cells cost more, and are an error where no slack makes up for them. Method: four cells."""
    fine = zcdp.mu_zcdp(rho=0.5, delta=0.0)
    monkeypatch.setattr(zcdp, "_CELLS", 4)
    assert fine * (1 + 1e-4) < zcdp.mu_zcdp(rho=0.5, delta=0.0) < 2 * fine
    monkeypatch.setattr(zcdp, "SLACKS", zcdp.SLACKS[:1])
    with pytest.raises(ArithmeticError, match="no mu could be verified"):
        zcdp.mu_zcdp(rho=0.5, delta=0.0)


def test_the_domain_and_the_ends() -> None:
    """Goal: bad arguments are named; delta can cover all. Method: call it so, and trace what it allocates."""
    for rho in (0.0, -1.0, 0.9e-12, 1.1e6, math.inf, math.nan):
        with pytest.raises(ValueError, match="rho must be"):
            zcdp.mu_zcdp(rho=rho, delta=0.0)
    for delta in (-1e-300, 1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="delta must be"):
            zcdp.mu_zcdp(rho=0.5, delta=delta)
    total_variation = math.tanh(float(loss_at_fixed_point(0.5)) / 2)
    assert zcdp.mu_zcdp(rho=0.5, delta=total_variation * (1 + 1e-6)) == 0
    assert 0 < zcdp.mu_zcdp(rho=0.5, delta=total_variation * (1 - 1e-6)) < 1e-5
    assert zcdp.mu_zcdp(rho=zcdp.RHO_RANGE[0], delta=1 - 2**-53) == 0
    tracemalloc.start()
    zcdp.mu_zcdp(rho=0.5, delta=1e-8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000

"""`sampling`, `mixtures`, `binomial`: the pairs of a step, beside listed batches and beside dp-accounting."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Final

import mpmath as mp
import numpy as np
import pytest

from ledger.accounting import binomial, certificate, certify, exact, gdp, mixtures
from ledger.accounting.mixtures import Records, Revealed
from ledger.accounting.pairs import Parts
from ledger.accounting.pld import Losses, Pair, Subsampled
from ledger.accounting.sampling import Cap, pair_for
from ledger.core.datasets import Adjacency
from tests.accounting import oracle_sampling
from tests.accounting.oracle_sampling import Composed, Output, divergences, fixed_size, listed, poisson

ADJACENCIES: Final[tuple[Adjacency, ...]] = ("add_or_remove_one", "replace_one", "zero_out")
QUADRATURE_ERROR: Final = 3e-7
LOSSES: Final = (0.0, 0.003, 0.03, 0.2, 0.7, 1.5, 3.0)


def _log_uniform(rng: random.Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


# --- one step, beside all its batches ---------------------------------------------------------------------------------


def proved(losses: Losses, at: float) -> float:
    """The divergence of a distribution of losses at a loss, from its definition."""
    above = losses.values > at
    return float(losses.masses[above] @ -np.expm1(at - losses.values[above])) + max(losses.missing)


def dominated(pair: Pair, p: Output, q: Output, noise: float) -> float:
    """Checks that a pair dominates two outputs, in both orders; the largest part of a bound that was reached."""
    grid = pair.on_grid(pair.extent(1e-12) / 4_000, 1e-12)
    closest = 0.0
    for losses, outputs in ((grid, (p, q)), (grid.reversed(), (q, p))):
        for at, told in zip(LOSSES, divergences(*outputs, noise=noise, losses=LOSSES), strict=True):
            most = proved(losses, at)
            assert told <= most + QUADRATURE_ERROR, (pair, at, told, most)
            closest = max(closest, told / most if most > 1e-3 else 0.0)
    return closest


def _gradients(rng: random.Random, count: int) -> list[float]:
    """Clipped gradients on the line: all alike and of full length, where a counterexample would be, or any."""
    kind = rng.random()
    if kind < 0.5:
        return [rng.choice([-1.0, 1.0])] * count
    return [rng.choice([-1.0, 1.0, 0.0, rng.uniform(-1, 1)]) for _ in range(count)]


def _units(rng: random.Random, others: Sequence[float], adjacency: Adjacency) -> tuple[float, float]:
    """The unit and what replaces it: often opposite to the others, and like them."""
    if adjacency == "zero_out":
        return rng.choice([-1.0, 1.0, rng.uniform(-1, 1)]), 0.0
    if rng.random() < 0.5 and others:
        return -others[0], others[0]
    return rng.choice([-1.0, 1.0, rng.uniform(-1, 1)]), rng.choice([-1.0, 1.0, rng.uniform(-1, 1)])


def test_no_batch_that_is_cut_tells_more(tries: Callable[[int, int], int]) -> None:
    """Goal: the pair of a truncated step dominates it, for both neighbours of a dataset. Method: random small datasets,
    every sample and every part that it may be cut to, listed; the divergences by quadrature, in both orders."""
    rng, closest = random.Random(1), 0.0
    for _ in range(tries(25, 600)):
        adjacency = rng.choice(ADJACENCIES)
        size, noise = rng.randint(1, 6), _log_uniform(rng, 0.4, 4)
        cap, rate = rng.randint(1, size), Fraction(rng.randint(1, 19), 20)
        pair = pair_for(
            noise_multiplier=noise,
            sample_rate=float(rate),
            adjacency=adjacency,
            sampling="poisson",
            cap=Cap(cap, size),
        )
        # Of the two neighbours the larger one has `size` units, or one more.
        larger = size + (adjacency == "add_or_remove_one" and rng.random() < 0.5)
        others = _gradients(rng, larger - 1)
        unit, other = _units(rng, others, adjacency)
        p = listed([*others, unit], poisson(larger, rate, cap=cap))
        if adjacency == "add_or_remove_one":
            q = listed(others, poisson(larger - 1, rate, cap=cap))
        else:
            q = listed([*others, other], poisson(larger, rate, cap=cap))
        closest = max(closest, dominated(pair, p, q, noise))
    assert closest > 0.6


def test_no_added_unit_tells_more_of_a_fixed_size(tries: Callable[[int, int], int]) -> None:
    """Goal: the pair of fixed-size batches dominates adding a unit to at least N_min others, and emptying one. Method:
    random small datasets, every batch listed; the worst is reached."""
    rng, closest = random.Random(2), 0.0
    for _ in range(tries(25, 600)):
        adjacency: Adjacency = rng.choice(["add_or_remove_one", "zero_out"])
        least, noise = rng.randint(2, 7), _log_uniform(rng, 0.4, 4)
        batch = rng.randint(1, least - 1)
        pair = pair_for(
            noise_multiplier=noise,
            sample_rate=batch / least,
            adjacency=adjacency,
            sampling="fixed_size",
            is_least_size_public=True,
        )
        # The smaller of the two has at least the least size, or, where the size is public, exactly that.
        larger = least + (rng.randint(0, 2) if adjacency == "add_or_remove_one" else 0)
        others = _gradients(rng, larger - 1)
        unit, _ = _units(rng, others, adjacency)
        p = listed([*others, unit], fixed_size(larger, batch))
        empty = [*others, 0.0] if adjacency == "zero_out" else others
        q = listed(empty, fixed_size(len(empty), batch))
        closest = max(closest, dominated(pair, p, q, noise))
    assert closest > 0.9


def test_no_user_with_fewer_records_tells_more(tries: Callable[[int, int], int]) -> None:
    """Goal: the pair of k records dominates users with at most k, of any clipped gradients. Method: their batches
    listed, without the other users, whose batch is independent."""
    rng, closest = random.Random(3), 0.0
    for _ in range(tries(25, 600)):
        most, noise, rate = rng.randint(1, 6), _log_uniform(rng, 0.6, 5), Fraction(rng.randint(1, 19), 20)
        pair = pair_for(
            noise_multiplier=noise, sample_rate=float(rate), adjacency="zero_out", sampling="poisson", records=most
        )
        count = rng.choice([most, rng.randint(1, most)])
        user = _gradients(rng, count)
        p = listed(user, poisson(count, rate, cap=count))
        closest = max(closest, dominated(pair, p, {0.0: 1.0}, noise))
    assert closest > 0.9


# --- many steps, beside dp-accounting --------------------------------------------------------------------------------


def _truncated(rng: random.Random) -> tuple[Pair, list[tuple[float, Any, Any]]]:
    noise, adjacency = _log_uniform(rng, 0.6, 6), rng.choice(ADJACENCIES)
    size = round(_log_uniform(rng, 20, 1e7))
    rate = _log_uniform(rng, max(3e-5, 1 / size), 0.5)
    mean, deviation = size * rate, math.sqrt(size * rate * (1 - rate))
    cap = min(max(round(mean + deviation * rng.uniform(-1, 9)), 1), size)
    pair = pair_for(
        noise_multiplier=noise, sample_rate=rate, adjacency=adjacency, sampling="poisson", cap=Cap(cap, size)
    )
    of = size + (adjacency == "add_or_remove_one" and rng.random() < 0.5)
    is_replaced = adjacency == "replace_one"
    return pair, oracle_sampling.truncated(noise, rate, size=of, cap=cap, is_replaced=is_replaced)


def _records(rng: random.Random) -> tuple[Pair, list[tuple[float, Any, Any]]]:
    most, rate = round(_log_uniform(rng, 1, 60)), _log_uniform(rng, 1e-4, 0.4)
    noise = _log_uniform(rng, 0.8, 4) * max(1.0, math.sqrt(most * rate) + 0.5 * most * rate)
    pair = pair_for(
        noise_multiplier=noise,
        sample_rate=rate,
        adjacency=rng.choice(["add_or_remove_one", "zero_out"]),
        sampling="poisson",
        records=most,
    )
    return pair, oracle_sampling.records(noise, rate, most)


def _fixed_size(rng: random.Random) -> tuple[Pair, list[tuple[float, Any, Any]]]:
    noise, rate = _log_uniform(rng, 0.8, 12), _log_uniform(rng, 1e-4, 0.5)
    pair = pair_for(
        noise_multiplier=noise,
        sample_rate=rate,
        adjacency="add_or_remove_one",
        sampling="fixed_size",
        is_least_size_public=True,
    )
    return pair, [(1.0, *oracle_sampling.sampled(noise / 2, rate, is_replaced=False))]


@pytest.mark.parametrize(("draw", "seed"), [(_truncated, 4), (_records, 5), (_fixed_size, 6)])
def test_no_certificate_is_below_dp_accounting(
    draw: Callable[[random.Random], tuple[Pair, list[tuple[float, Any, Any]]]],
    seed: int,
    tries: Callable[[int, int], int],
) -> None:
    """Goal: certificates and exact compositions are not below what many steps leak, one step included, and not far
    above. Method: random runs beside dp-accounting's distributions: losses rounded down must be allowed at 13 epsilon,
    and epsilon at ten times delta is compared with the one that it proves from above."""
    rng, margins, ratios, seconds = random.Random(seed), list[float](), list[float](), list[float]()
    for number in range(1, tries(4, 381)):
        pair, parts = draw(rng)
        steps = 1 if number % 8 == 0 else round(_log_uniform(rng, 2, 1_000))
        delta = _log_uniform(rng, 1e-9, 1e-5)
        start = time.process_time()
        ((mu, groups),) = certificate.certified([certify.Steps(pair, steps)], [delta])
        seconds.append(time.process_time() - start)
        if not 1e-3 < mu < 12:
            continue
        # Each point of a mixture of Gaussians is searched for.
        width_min = mu / 100 if draw is _records else 0.0
        composed = Composed(parts, steps, mu / math.sqrt(groups), width_min)
        epsilons = mu * np.linspace(0, 5, 13) + mu * mu / 2 * np.linspace(0, 1, 13)
        allowed = delta + (1 - delta) * np.asarray(gdp.delta(mu=mu, epsilon=epsilons))
        leaked = composed.leaked_by_records(epsilons) if draw is _records else composed.leaked(epsilons)
        assert np.all(leaked <= allowed * (1 + 1e-9)), (pair, steps, delta, mu)
        margins.append(float((allowed / np.maximum(leaked, 1e-300)).min()))
        (ours,) = exact.epsilons(Parts(sources=Counter({pair: steps})), [10 * delta]).epsilons
        if ours is None:
            continue  # not resolved: for information alone
        if draw is not _records:
            assert ours >= composed.from_below.get_epsilon_for_delta(10 * delta * (1 + 1e-9) + 1e-11) * (1 - 1e-9)
        theirs = composed.from_above.get_epsilon_for_delta(10 * delta)
        ratios.append(ours / theirs if theirs > 1e-6 else 1.0)
    print(f"{draw.__name__}: {len(margins)} compared; what is allowed over what leaks, at least {min(margins):.6f}")
    print(f"exact epsilon over dp-accounting's: median {statistics.median(ratios):.4f}, at most {max(ratios):.4f}")
    print(
        f"processor ms of a certificate: median {1000 * statistics.median(seconds):.0f}, most {1000 * max(seconds):.0f}"
    )
    assert len(ratios) >= 0.9 * len(margins)
    assert statistics.median(ratios) < 1.03
    assert min(margins) < 3


@pytest.mark.parametrize(
    ("cap", "least", "most"), [(160, 1.9230, 1.9300), (128, 4.9338, 4.9400), (256, 0.5169, 0.5180)]
)
def test_a_published_cap(cap: int, least: float, most: float) -> None:
    """Goal: epsilon of a training with a cap is the one that dp-accounting has, and not that without a cap. Method: its
    values for 59,904 units, and the exact composition."""
    pair = pair_for(
        noise_multiplier=1.0,
        sample_rate=128 / 59_904,
        adjacency="add_or_remove_one",
        sampling="poisson",
        cap=Cap(cap, 59_904),
    )
    (epsilon,) = exact.epsilons(Parts(sources=Counter({pair: 2340})), [1e-5]).epsilons
    assert epsilon is not None
    assert least <= epsilon <= most


# --- what the bounds rest on ------------------------------------------------------------------------------------------


def _tail(count: int, trials: int, rate: float) -> Any:
    """Pr[Bin(trials, rate) >= count] by the continued fraction of the incomplete beta function (DLMF 8.17.22)."""
    with mp.workdps(60):
        a, b, x = mp.mpf(count), mp.mpf(trials - count + 1), mp.mpf(rate)
        is_upper = x >= (a + 1) / (a + b + 2)
        if is_upper:
            a, b, x = b, a, 1 - x
        # Lentz's method.
        c, d, m = mp.mpf(1), 1 / (1 - (a + b) * x / (a + 1)), 0
        fraction, change = d, mp.mpf(0)
        while abs(change - 1) > mp.mpf(10) ** -30:
            m += 1
            for term in (
                m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
            ):
                d, c = 1 / (1 + term * d), 1 + term / c
                change = c * d
                fraction *= change
        logarithm = mp.loggamma(a + b) - mp.loggamma(a) - mp.loggamma(b) + a * mp.log(x) + b * mp.log(1 - x)
        found = mp.exp(logarithm) * fraction / a
        return 1 - found if is_upper else found


def test_tails_are_bounded_outward(tries: Callable[[int, int], int]) -> None:
    """Goal: a tail is between its bounds, which are close. Method: small ones in fractions, others to 10^12 trials in
    mpmath at 60 digits, from far below the mean to 30 deviations above it."""
    rng, worst = random.Random(7), 0.0
    for number in range(tries(60, 4_000)):
        if number % 3 == 0:
            trials, rate = rng.randint(1, 30), rng.uniform(0.01, 0.99)
            count, q = rng.randint(0, trials + 1), Fraction(rate)
            whole = sum(
                math.comb(trials, k) * q**k * (1 - q) ** (trials - k) for k in range(count, trials + 1)
            ) + Fraction(0)
            truth = mp.mpf(whole.numerator) / whole.denominator
        else:
            trials = round(_log_uniform(rng, 10, 1e12))
            rate = _log_uniform(rng, 1 / trials, 0.9)
            deviation = math.sqrt(trials * rate * (1 - rate))
            count = min(max(round(trials * rate + rng.uniform(-12, 30) * deviation), 1), trials)
            truth = _tail(count, trials, rate)
        least, most = binomial.tail(count, trials, rate)
        assert least <= truth <= most
        if truth > 1e-290:
            found = (least + most) / 2
            worst = max(worst, float(abs(found - truth) / truth) if 0 < most < 1 else 0.0)
            assert most - least <= truth * (3e-7 + 10 * count * 2.0**-53)
    print(f"a tail is off by {worst:.1e} of itself, at most")
    assert worst < binomial._MARGIN / 30


def test_what_merging_leaves_dominates(tries: Callable[[int, int], int]) -> None:
    """Goal: merged means have all the weight, each moved up, and not far. Method: weights of many records, and sums of
    the binomial distribution in fractions."""
    rng = random.Random(8)
    for _ in range(tries(20, 300)):
        most, share = round(_log_uniform(rng, 1, 3_000)), 10.0 ** -rng.randint(10, 100)
        rate = float(f"{min(_log_uniform(rng, 1e-4, 0.9), 20 / most if rng.random() < 0.5 else 0.9):.3g}")
        line = Records(0.01, rate, most).line(share)
        assert len(line.means) <= 2 * mixtures._MEANS_MAX
        assert line.means[0] == 0 or Fraction(1 - Fraction(rate)) ** most < Fraction(1, 10**300)
        assert math.isclose(sum(line.weights), 1, rel_tol=1e-9)
        # At or above every mean there is no less than before.
        total = 0.0
        for mean, weight in reversed(list(zip(line.means, line.weights, strict=True))):
            total += weight
            below = max((m for m in line.means if m < mean), default=-0.01)
            truth = float(_tail(round(below / 0.01) + 1, most, rate)) if below >= 0 else 1.0
            assert total + line.beyond >= truth * (1 - 1e-9)


def test_one_record_is_poisson() -> None:
    """Goal: a user with one record is a unit of plain Poisson sampling. Method: certificates of both."""
    for steps in (1, 7, 2_000):
        one = Records(1 / 1.1, 0.01, 1)
        plain = Subsampled("removal", 1 / 1.1, 0.01)
        ((a, _),), ((b, _),) = (certificate.certified([certify.Steps(pair, steps)], [1e-7]) for pair in (one, plain))
        assert a == pytest.approx(b, rel=1e-6)


def test_more_records_cost_more() -> None:
    """Goal: the cost grows with the records, up to the most that are allowed, within reach. Method: certificates."""
    mus = []
    for most in (1, 2, 5, 20, 300, 10_000):
        ((mu, _),) = certificate.certified([certify.Steps(Records(1 / 300, 0.01, most), 50)], [1e-7])
        mus.append(mu)
    assert mus == sorted(mus)
    assert mus[-1] < 10_000 / 300 * math.sqrt(50)


@pytest.mark.parametrize("adjacency", ADJACENCIES)
def test_a_cap_that_is_never_reached_changes_nothing(adjacency: Adjacency) -> None:
    """Goal: with a cap beyond the dataset a step is plain Poisson; with a cap that is next to never reached it costs as
    much, to the last digits. Method: the pair, and certificates with the cap 40 deviations away, and nearer."""
    usual: dict[str, Any] = {"noise_multiplier": 1.2, "sample_rate": 0.01, "adjacency": adjacency}
    plain = pair_for(**usual, sampling="poisson")
    assert pair_for(**usual, sampling="poisson", cap=Cap(10_002, 10_000)) == plain
    ((least, _),) = certificate.certified([certify.Steps(plain, 500)], [1e-8])
    before = math.inf
    for cap in (115, 130, 150, 180, 220, 300, 600):
        pair = pair_for(**usual, sampling="poisson", cap=Cap(cap, 10_000))
        assert isinstance(pair, Revealed)
        ((mu, _),) = certificate.certified([certify.Steps(pair, 500)], [1e-8])
        assert least * (1 - 1e-5) <= mu <= before * (1 + 1e-5)
        before = mu
    assert before <= least * (1 + 1e-5)


@pytest.mark.parametrize("adjacency", ADJACENCIES)
def test_one_step_of_a_cap_is_nearly_what_the_grid_of_many_says(adjacency: Adjacency) -> None:
    """Goal: one step, which has its own grid, agrees with a transform of many. Method: exact epsilon of one step by
    both, at deltas where the cut binds and where it does not."""
    pair = pair_for(noise_multiplier=0.9, sample_rate=0.05, adjacency=adjacency, sampling="poisson", cap=Cap(60, 1_000))
    for at_delta in (1e-2, 1e-3, 1e-5):
        ((mu, _),) = certificate.certified([certify.Steps(pair, 1)], [at_delta / 2])
        upper = float(gdp.epsilon_upper(mu=mu, delta=at_delta / 2, at_delta=at_delta))
        (epsilon,) = exact.epsilons(Parts(sources=Counter({pair: 1})), [at_delta]).epsilons
        assert epsilon is not None
        # Of one step the Gaussian envelope is no less than its exact epsilon.
        assert epsilon * (1 - 1e-3) - 1e-4 <= upper


def test_what_no_pair_is_known_of() -> None:
    """Goal: no number where none is proved. Method: each such combination is refused."""
    usual: dict[str, Any] = {"noise_multiplier": 1.0, "sample_rate": 0.1}
    for unknown in (
        {"sampling": "fixed_size", "adjacency": "add_or_remove_one"},
        {"sampling": "poisson", "adjacency": "replace_one", "records": 2},
        {"sampling": "poisson", "adjacency": "zero_out", "records": 2, "cap": Cap(10, 100)},
        {"sampling": "poisson", "adjacency": "zero_out", "records": mixtures.RECORDS_MAX + 1},
        {"sampling": "fixed_size", "adjacency": "zero_out", "records": 2},
        {"sampling": "fixed_size", "adjacency": "replace_one", "cap": Cap(10, 100)},
    ):
        with pytest.raises(ValueError, match="no dominating pair"):
            pair_for(**usual, **unknown)

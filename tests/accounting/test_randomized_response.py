"""k-ary randomized response against its definition in mpmath: the least mu that covers it, and its compositions."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import mpmath as mp
import numpy as np
import pytest

from ledger.accounting import amounts, closed_forms, costs, exact, gdp, mechanisms
from ledger.accounting.mechanisms.randomized_response import CATEGORIES_MAX, RELATIVE_ERROR, least_mu
from ledger.accounting.terms import Terms
from ledger.errors import InvalidMechanism
from ledger.recompute.opinion import pieces_of, their_epsilon

TERMS = Terms(bound="certified", adjacency="replace_one")
CATEGORIES = (2, 3, 4, 10, 1000, CATEGORIES_MAX)


def declaration(epsilon: Any, categories: int, count: int = 1) -> dict[str, Any]:
    """The mechanism as it is declared."""
    return {"type": "randomized_response", "epsilon": epsilon, "categories": categories, "count": count}


def tail_point(log_tail: Any) -> Any:
    """h with log Phi(-h) = log_tail, by Newton's method in mpmath from below, where it cannot overshoot."""
    h = mp.sqrt(max(-2 * log_tail - 2 * mp.log(2), mp.mpf(0)))
    for _ in range(100):
        tail = mp.erfc(h / mp.sqrt(2)) / 2
        step = (mp.log(tail) - log_tail) * tail / mp.npdf(h)
        h += step
        if abs(step) < mp.mpf(10) ** -48 * (1 + h):
            return h
    raise AssertionError(log_tail)


def exact_mu(epsilon: float, categories: int) -> Any:
    """Phi^-1(p) - Phi^-1(q), at the working precision."""
    e = mp.mpf(epsilon)
    log_other = -(e + mp.log1p((categories - 1) * mp.exp(-e)))
    log_kept = e + log_other
    if log_kept < mp.log(0.5):
        return tail_point(log_other) - tail_point(log_kept)
    return tail_point(log_other) + tail_point(log_other + mp.log(categories - 1))


def probabilities(epsilon: float, categories: int) -> tuple[Any, Any]:
    """Of the unit's own answer, and of each other one."""
    total = mp.exp(mp.mpf(epsilon)) + categories - 1
    return mp.exp(mp.mpf(epsilon)) / total, 1 / total


def test_the_least_mu_is_right_to_its_stated_error(tries: Callable[[int, int], int]) -> None:
    """Goal: what is charged is never below the exact value, and above it by no more than is stated. Method: the formula
    in mpmath at 50 digits, for random epsilon from 1e-12 to 1e3, and any number of categories."""
    rng = random.Random(61)
    with mp.workdps(65):
        for _ in range(tries(150, 10_000)):
            epsilon = 10 ** (rng.uniform(-12, 3) if rng.random() < 0.5 else rng.uniform(-1, 1.5))
            categories = rng.choice([*CATEGORIES, rng.randint(2, CATEGORIES_MAX)])
            truth = exact_mu(epsilon, categories)
            assert abs(least_mu(epsilon=epsilon, categories=categories) - truth) <= RELATIVE_ERROR * truth
            count = rng.randint(1, 1000)
            cost = costs.cost(mechanisms.parse(declaration(epsilon, categories, count)), TERMS)
            charged = mp.mpf(cost.mu_sq.numerator) / cost.mu_sq.denominator
            assert count * truth**2 <= charged <= count * truth**2 * (1 + 8 * RELATIVE_ERROR)
            assert cost.amount == amounts.charge(mu_sq=cost.mu_sq, nats=Fraction(0))


@pytest.mark.parametrize("categories", CATEGORIES)
@pytest.mark.parametrize("epsilon", [0.01, 0.4999, 0.5, 1.0, 5.0, 30.0])
def test_no_less_would_cover_it(epsilon: float, categories: int) -> None:
    """Goal: it is the least mu. Method: by the definition, at 50 digits: the (eps, delta) curve of G_mu is nowhere
    below the mechanism's and touches it, and that of a mu less by a millionth is below it there."""
    with mp.workdps(70):
        kept, other = probabilities(epsilon, categories)
        mu = exact_mu(epsilon, categories)

        def spare(mu: Any, at: Any) -> Any:
            covered = mp.ncdf(mu / 2 - at / mu) - mp.exp(at) * mp.ncdf(-mu / 2 - at / mu)
            divergence = max(kept - mp.exp(at) * other, 0) + (categories - 2) * max(other - mp.exp(at) * other, 0)
            return covered - divergence

        # G_mu has the slope -e^at in the corner (q, 1 - p) for this at: there its curve touches the mechanism's.
        corner = mu * (mu / 2 - mp.sqrt(2) * mp.erfinv(2 * kept - 1))
        assert -(mp.mpf(10) ** -40) <= corner <= epsilon
        assert min(spare(mu, at) for at in mp.linspace(0, mp.mpf(epsilon), 200)) >= -(mp.mpf(10) ** -40)
        assert abs(spare(mu, corner)) <= mp.mpf(10) ** -40
        assert spare(mu * (1 - mp.mpf("1e-6")), corner) < 0


def test_two_categories_cost_what_pure_dp_does_and_more_cost_less() -> None:
    """Goal: Warner's answer is the worst epsilon-DP mechanism, and every further category lowers the cost."""
    for epsilon in (Decimal("1e-9"), Decimal("0.1"), Decimal(1), Decimal(8), Decimal("1e12")):
        mus = [costs.cost(mechanisms.parse(declaration(epsilon, k)), TERMS).mu for k in CATEGORIES]
        assert mus[0] == pytest.approx(float(closed_forms.mu_pure_dp(epsilon=float(epsilon))), rel=1e-13)
        assert mus == sorted(mus, reverse=True)
        assert mus[0] > mus[-1] or epsilon > 100
    one = costs.cost(mechanisms.parse(declaration(1, 10)), TERMS)
    assert 0.51 < one.mu / float(closed_forms.mu_pure_dp(epsilon=1.0)) < 0.52


def divergence(epsilon: float, categories: int, count: int, at: float) -> Any:
    """The hockey-stick divergence of so many answers, by adding up all sequences of losses."""
    kept, other = probabilities(epsilon, categories)
    losses = [
        (epsilon, kept, other),
        (0.0, (categories - 2) * other, (categories - 2) * other),
        (-epsilon, other, kept),
    ]
    total = mp.mpf(0)
    for answers in itertools.product(losses, repeat=count):
        p, q = (mp.fprod(answer[index] for answer in answers) for index in (1, 2))
        total += max(p - mp.exp(mp.mpf(at)) * q, mp.mpf(0))
    return total


@pytest.mark.parametrize(("epsilon", "categories", "count"), [(1.0, 2, 5), (0.7, 3, 6), (1.0, 10, 6), (2.0, 1000, 4)])
def test_its_exact_composition(epsilon: float, categories: int, count: int) -> None:
    """Goal: epsilon of several answers is never below the truth, and hardly above it. Method: all sequences of answers,
    added up at 50 digits; dp-accounting's numbers, from below and from above."""
    mechanism = mechanisms.parse(declaration(epsilon, categories, count))
    for delta in (1e-2, 1e-5):
        (found,) = exact.epsilons(mechanism.exact_parts(TERMS), (delta,)).epsilons
        assert found is not None
        pieces = pieces_of(mechanism, "replace_one")
        assert pieces is not None
        lower = their_epsilon(pieces, delta * (1 + 1e-9) + 1e-14, interval=1e-4, is_upper=False)
        upper = their_epsilon(pieces, delta, interval=1e-4, is_upper=True)
        assert lower * (1 - 1e-9) <= found <= upper * 1.01 + 1e-3
        with mp.workdps(50):
            assert divergence(epsilon, categories, count, found) <= delta
            assert found < 1e-3 or divergence(epsilon, categories, count, found * 0.999) > delta * (1 - 1e-2)


def test_its_grid_keeps_both_masses() -> None:
    """Goal: what is put on a grid dominates. Method: P and Q both sum to one, and the divergence of the grid is no less
    than the exact one at any point."""
    (source,) = mechanisms.parse(declaration(1.3, 7)).exact_parts(TERMS).sources
    grid = source.on_grid(0.01, 1e-9)
    assert float(grid.masses.sum()) == pytest.approx(1, abs=1e-14)
    assert float((grid.masses * np.exp(-grid.values)).sum()) == pytest.approx(1, abs=1e-14)
    for at in np.linspace(0, 1.29, 40):
        ours = float((grid.masses * np.maximum(1 - np.exp(at - grid.values), 0)).sum())
        assert ours >= float(divergence(1.3, 7, 1, float(at))) * (1 - 1e-12)


def test_it_settles_by_answer_and_refuses_one_category() -> None:
    """Goal: fewer answers are charged as such; what has one category or a fraction of one is named."""
    mechanism = mechanisms.parse(declaration(1, 3, 10))
    assert mechanism.is_additive("randomized-response")
    assert mechanism.resized(4) == mechanisms.parse(declaration(1, 3, 4))
    assert mechanisms.planned_steps(mechanism) == (10, 10)
    for wrong in (1, 0, CATEGORIES_MAX + 1, Decimal("2.5"), "3", True):
        with pytest.raises(InvalidMechanism) as raised:
            mechanisms.parse(declaration(1, 3) | {"categories": wrong})
        assert raised.value.field == "mechanism.categories"


def test_the_charge_covers_the_curve() -> None:
    """Goal: the very numbers that are charged cover the mechanism. Method: the ledger's own (eps, delta) curve against
    the definition."""
    for categories in CATEGORIES:
        cost = costs.cost(mechanisms.parse(declaration(1, categories)), TERMS)
        mu = float(amounts.mu_of(cost.amount))
        for at in np.linspace(0.01, 1, 25):
            promised = float(gdp.delta(mu=mu, epsilon=float(at)))
            assert promised >= float(divergence(1.0, categories, 1, float(at))) * (1 - 1e-12)

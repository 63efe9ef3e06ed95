"""`ledger.accounting.strategies` against all patterns in exact fractions, and against mpmath for longer runs."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import mpmath as mp
import numpy as np
import pytest

from ledger.accounting import strategies
from ledger.accounting.gdp import UNIT_ROUNDOFF
from tests.accounting import oracle

if TYPE_CHECKING:
    from collections.abc import Callable

PARTICIPATIONS, SEPARATIONS, BANDWIDTHS = (1, 2, 3, 4, 9), (1, 2, 3, 4, 5), (None, 1, 2, 3, 5)


def matrix(strategy: str, steps: int, bandwidth: int | None) -> list[list[Fraction]]:
    """C, as its description has it."""
    if strategy == "identity":
        return [[Fraction(int(row == column)) for column in range(steps)] for row in range(steps)]
    if strategy == "tree":
        nodes = [(j * 2**level, (j + 1) * 2**level) for level in range(steps) for j in range(steps // 2**level)]
        return [[Fraction(int(first <= column < end)) for column in range(steps)] for first, end in nodes]
    kept = steps if bandwidth is None else bandwidth
    return [
        [
            Fraction(math.comb(2 * j, j), 4**j) if 0 <= (j := row - column) < kept else Fraction(0)
            for column in range(steps)
        ]
        for row in range(steps)
    ]


def sensitivities(
    strategy: str, steps: int, bandwidth: int | None = None, *, released: int | None = None
) -> dict[tuple[int, int], Fraction]:
    """sens^2 by (participations, separation): the largest sum of |(C^T C)_ij| over every pattern there is.

    released: the steps that release something, where that is more than those with gradients.
    """
    columns = list(zip(*matrix(strategy, released or steps, bandwidth), strict=True))[:steps]
    gram = [[abs(sum(a * b for a, b in zip(left, right, strict=True))) for right in columns] for left in columns]
    best: dict[tuple[int, int], Fraction] = {}
    for size in range(1, steps + 1):
        for pattern in itertools.combinations(range(steps), size):
            gap = min((b - a for a, b in itertools.pairwise(pattern)), default=steps)
            total = sum((gram[i][j] for i in pattern for j in pattern), Fraction(0))
            best[size, gap] = max(best.get((size, gap), Fraction(0)), total)
    return {
        (k, b): max(total for (size, gap), total in best.items() if (size <= k and gap >= b) or size == 1)
        for k in PARTICIPATIONS
        for b in SEPARATIONS
    }


def allowed_error(steps: int) -> Fraction:
    """What sqrt may be above the exact value, relatively."""
    return Fraction(12 * (steps + 10) * UNIT_ROUNDOFF)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_every_pattern_of_short_runs(steps: int) -> None:
    """Goal: identity is exact; tree is a bound, and exact where it says so; sqrt is a bound within its error, whatever
    the bandwidth. Method: C written out, every pattern tried, in fractions."""
    loosest = Fraction(1)
    for (k, b), truth in sensitivities("identity", steps).items():
        assert strategies.sensitivity_sq(strategy="identity", steps=steps, participations=k, separation=b) == truth
    for (k, b), truth in sensitivities("tree", steps).items():
        value = strategies.sensitivity_sq(strategy="tree", steps=steps, participations=k, separation=b)
        assert value == truth if k == 1 or b in (1, 2, 4) else value >= truth, (k, b)
        loosest = max(loosest, value / truth)
    assert loosest < Fraction(3, 2)
    for width in BANDWIDTHS:
        for (k, b), truth in sensitivities("sqrt", steps, width).items():
            value = strategies.sensitivity_sq(
                strategy="sqrt", steps=steps, participations=k, separation=b, bandwidth=width
            )
            assert truth <= value <= truth * (1 + allowed_error(steps)), (k, b, width)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 6, 7, 8, 9, 11])
def test_every_pattern_of_completed_trees(steps: int) -> None:
    """Goal: completed, a tree is a bound, exact for one participation, and where it is complete by itself what it was.
    Method: the tree over the next power of two written out, the columns of the steps with gradients, every pattern."""
    released = next(2**level for level in itertools.count() if 2**level >= steps)
    loosest = Fraction(1)
    for (k, b), truth in sensitivities("tree", steps, released=released).items():
        declared: dict[str, Any] = {"strategy": "tree", "steps": steps, "participations": k, "separation": b}
        value = strategies.sensitivity_sq(**declared, is_completed=True)
        plain = strategies.sensitivity_sq(**declared)
        assert value == truth if k == 1 else value >= truth, (k, b)
        assert value == plain if released == steps else value > plain
        loosest = max(loosest, value / truth)
    assert loosest < 2
    with pytest.raises(ValueError, match="completion belongs to the strategy tree"):
        strategies.sensitivity_sq(strategy="sqrt", steps=steps, is_completed=True)


@pytest.mark.parametrize(
    ("steps", "k", "b", "width"),
    [(1_000, 1, 1, None), (1_000, 1_000, 1, None), (1_500, 7, 200, None), (1_500, 5, 13, 40), (2_000, 31, 64, 64)],
)
def test_longer_runs_of_sqrt(steps: int, k: int, b: int, width: int | None) -> None:
    """Goal: the bound holds, and its error, where rounding adds up. Method: the norm of the worst pattern in mpmath."""
    with mp.workdps(oracle.DIGITS):
        coefficients = [mp.mpf(1)]
        for j in range(1, width or steps):
            coefficients.append(coefficients[-1] * (2 * j - 1) / (2 * j))
        rows = [mp.mpf(0)] * steps
        for column in range(k):
            for j, coefficient in enumerate(coefficients[: max(0, steps - column * b)]):
                rows[column * b + j] += coefficient
        truth = mp.fsum(row**2 for row in rows)
        value = strategies.sensitivity_sq(strategy="sqrt", steps=steps, participations=k, separation=b, bandwidth=width)
        error = mp.mpf(value.numerator) / value.denominator / truth - 1
        assert 0 <= error <= mp.mpf(allowed_error(steps).numerator) / allowed_error(steps).denominator


def test_the_longest_run_of_sqrt() -> None:
    """Goal: no more steps, and those in reach are right. Method: at 10^6 steps, once, the squared coefficients sum to
    (log n + gamma + 4 log 2)/pi + O(1/n); at every step, A 1 is the sum of the square root's columns twice over."""
    longest = strategies.SQRT_STEPS_MAX
    once = float(strategies.sensitivity_sq(strategy="sqrt", steps=longest))
    assert once == pytest.approx((math.log(longest) + np.euler_gamma + 4 * math.log(2)) / math.pi, rel=1e-6)
    # The sum of the first t coefficients is 2 t binom(2t, t)/4^t, whose square is 4 t/pi (1 - 1/(4 t) + ...).
    always = float(strategies.sensitivity_sq(strategy="sqrt", steps=longest, participations=longest))
    assert always == pytest.approx(4 / math.pi * longest * (longest + 1) / 2, rel=1e-6)
    with pytest.raises(ValueError, match="steps must be at most 1000000"):
        strategies.sensitivity_sq(strategy="sqrt", steps=longest + 1)


def test_one_participation_in_a_tree_is_the_literature_s() -> None:
    """Goal: the same tree as elsewhere: ceil(log2(n + 1)) levels (Kairouz et al. 2021, and dp-accounting), far beyond
    the runs that anyone makes. Method: the formula, in integers."""
    for steps in (1, 2, 3, 4, 7, 8, 9, 1_000, 2**40 - 1, 2**40, 10**12):
        levels = next(level for level in itertools.count() if 2**level >= steps + 1)
        assert strategies.sensitivity_sq(strategy="tree", steps=steps) == levels


def test_it_grows_with_steps_and_participations_and_falls_with_separation(tries: Callable[[int, int], int]) -> None:
    """Goal: who declares more pays no less. Method: random declarations and their neighbours; sqrt within its error."""
    generator = np.random.default_rng(20230601)
    for _ in range(tries(200, 20_000)):
        steps, k, b = (int(2 ** generator.uniform(0, limit)) for limit in (9, 7, 6))
        declared: dict[str, Any] = {"steps": steps, "participations": k, "separation": b}
        more = (
            {"steps": steps + int(generator.integers(1, 20))},
            {"participations": k + int(generator.integers(1, 5))},
            {"separation": max(1, b - int(generator.integers(1, 5)))},
        )
        for strategy in ("identity", "tree", "sqrt"):
            width = int(generator.integers(1, 100)) if strategy == "sqrt" and generator.random() < 0.5 else None
            spared = 1 - allowed_error(steps + 20) if strategy == "sqrt" else Fraction(1)
            value = strategies.sensitivity_sq(strategy=strategy, bandwidth=width, **declared)
            for change in more:
                larger = strategies.sensitivity_sq(strategy=strategy, bandwidth=width, **(declared | change))
                assert larger >= value * spared, (strategy, width, declared, change)


def test_bad_arguments_are_named() -> None:
    """Goal: each wrong argument is said. Method: call it so."""
    for name in ("steps", "participations", "separation", "bandwidth"):
        arguments: dict[str, Any] = {"strategy": "sqrt", "steps": 5, name: 0}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            strategies.sensitivity_sq(**arguments)
    for strategy in ("identity", "tree"):
        with pytest.raises(ValueError, match="bandwidth belongs to the strategy sqrt"):
            strategies.sensitivity_sq(strategy=strategy, steps=5, bandwidth=2)

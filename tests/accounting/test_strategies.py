"""`ledger.accounting.strategies` against all patterns in exact fractions, and against mpmath for longer runs."""

from __future__ import annotations

import functools
import itertools
import math
import random
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import mpmath as mp
import numpy as np
import pytest

from ledger.accounting import strategies
from ledger.accounting.gdp import UNIT_ROUNDOFF
from ledger.accounting.strategies import Shape
from tests.accounting import oracle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PARTICIPATIONS, SEPARATIONS, BANDWIDTHS = (1, 2, 3, 4, 9), (1, 2, 3, 4, 5), (None, 1, 2, 3, 5)
IDENTITY, TREE, SQRT = Shape(strategy="identity"), Shape(strategy="tree"), Shape(strategy="sqrt")
SEED = 12128


def first_column(shape: Shape, steps: int) -> list[Fraction]:
    """The first column of a Toeplitz strategy, as its description has it."""
    roots = [Fraction(math.comb(2 * j, j), 4**j) for j in range(steps)]
    match shape.strategy:
        case "sqrt":
            kept = steps if shape.bandwidth is None else shape.bandwidth
            return [root if j < kept else Fraction(0) for j, root in enumerate(roots)]
        case "banded_inverse_sqrt":
            inverse = inverted(roots)
            return inverted([one if j < (shape.bandwidth or steps) else Fraction(0) for j, one in enumerate(inverse)])
        case "blt":
            buffers = [
                (Fraction(scale), Fraction(decay)) for scale, decay in zip(shape.scales, shape.decays, strict=True)
            ]
            later = [sum((s * d ** (t - 1) for s, d in buffers), Fraction(0)) for t in range(1, steps)]
            return [Fraction(1), *later]
        case _:
            declared = [Fraction(one) for one in shape.coefficients[:steps]]
            return declared + [Fraction(0)] * (steps - len(declared))


def inverted(column: Sequence[Fraction]) -> list[Fraction]:
    """The first column of the inverse of a lower triangular Toeplitz matrix whose diagonal is 1, row by row."""
    inverse: list[Fraction] = []
    for row in range(len(column)):
        known = sum((column[row - j] * inverse[j] for j in range(row)), Fraction(0))
        inverse.append((1 if row == 0 else 0) - known)
    return inverse


def matrix(shape: Shape, steps: int) -> list[list[Fraction]]:
    """C, as its description has it."""
    if shape.strategy == "identity":
        return [[Fraction(int(row == column)) for column in range(steps)] for row in range(steps)]
    if shape.strategy == "tree":
        nodes = [(j * 2**level, (j + 1) * 2**level) for level in range(steps) for j in range(steps // 2**level)]
        return [[Fraction(int(first <= column < end)) for column in range(steps)] for first, end in nodes]
    first = first_column(shape, steps)
    return [[first[row - column] if column <= row else Fraction(0) for column in range(steps)] for row in range(steps)]


def sensitivities(shape: Shape, steps: int, *, released: int | None = None) -> dict[tuple[int, int], Fraction]:
    """sens^2 by (participations, separation): the largest sum of |(C^T C)_ij| over every pattern there is.

    released: the steps that release something, where that is more than those with gradients.
    """
    columns = list(zip(*matrix(shape, released or steps), strict=True))[:steps]
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
    for (k, b), truth in sensitivities(IDENTITY, steps).items():
        assert strategies.sensitivity_sq(IDENTITY, steps=steps, participations=k, separation=b) == truth
    for (k, b), truth in sensitivities(TREE, steps).items():
        value = strategies.sensitivity_sq(TREE, steps=steps, participations=k, separation=b)
        assert value == truth if k == 1 or b in (1, 2, 4) else value >= truth, (k, b)
        loosest = max(loosest, value / truth)
    assert loosest < Fraction(3, 2)
    for width in BANDWIDTHS:
        shape = Shape(strategy="sqrt", bandwidth=width)
        for (k, b), truth in sensitivities(shape, steps).items():
            value = strategies.sensitivity_sq(shape, steps=steps, participations=k, separation=b)
            assert truth <= value <= truth * (1 + allowed_error(steps)), (k, b, width)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 6, 7, 8, 9, 11])
def test_every_pattern_of_completed_trees(steps: int) -> None:
    """Goal: completed, a tree is a bound, exact for one participation, and where it is complete by itself what it was.
    Method: the tree over the next power of two written out, the columns of the steps with gradients, every pattern."""
    released = next(2**level for level in itertools.count() if 2**level >= steps)
    loosest = Fraction(1)
    completed = Shape(strategy="tree", is_completed=True)
    for (k, b), truth in sensitivities(TREE, steps, released=released).items():
        value = strategies.sensitivity_sq(completed, steps=steps, participations=k, separation=b)
        plain = strategies.sensitivity_sq(TREE, steps=steps, participations=k, separation=b)
        assert value == truth if k == 1 else value >= truth, (k, b)
        assert value == plain if released == steps else value > plain
        loosest = max(loosest, value / truth)
    assert loosest < 2
    with pytest.raises(ValueError, match="completion belongs to the strategy tree"):
        strategies.sensitivity_sq(Shape(strategy="sqrt", is_completed=True), steps=steps)


def drawn(rng: random.Random) -> Shape:
    """A Toeplitz strategy whose parameters are declared: coefficients of any sign and order, or falling; or buffers."""
    kind = rng.choice(["toeplitz", "falling", "blt", "banded_inverse_sqrt"])
    digits = functools.partial(lambda low, high: Decimal(f"{rng.uniform(low, high):.4f}"))
    match kind:
        case "toeplitz":
            return Shape(strategy="toeplitz", coefficients=[digits(-1.5, 1.5) for _ in range(rng.randint(1, 9))])
        case "falling":
            column = sorted((digits(0, 1) for _ in range(rng.randint(1, 9))), reverse=True)
            return Shape(strategy="toeplitz", coefficients=column)
        case "blt":
            buffers = rng.randint(1, 3)
            scales = [digits(0.01, 0.6) for _ in range(buffers)]
            return Shape(strategy="blt", scales=scales, decays=[digits(0.05, 1) for _ in range(buffers)])
        case _:
            return Shape(strategy="banded_inverse_sqrt", bandwidth=rng.randint(1, 9))


def test_every_pattern_of_declared_strategies(tries: Callable[[int, int], int]) -> None:
    """Goal: no declared coefficients, buffers or bandwidths are charged too little, whatever their signs and order;
    what never rises from a positive start, and what does not meet, is charged what it is, and the rest not much more.

    Method: C written out, every pattern tried, in fractions.
    """
    rng = random.Random(SEED)
    ratios, margins = list[Fraction](), list[Fraction]()
    for _ in range(tries(12, 1_300)):
        shape, steps = drawn(rng), rng.randint(1, 8)
        column = first_column(shape, steps)
        is_falling = all(0 <= b <= a for a, b in itertools.pairwise([*column, Fraction(0)]))
        for (k, b), truth in sensitivities(shape, steps).items():
            value = strategies.sensitivity_sq(shape, steps=steps, participations=k, separation=b)
            assert value >= truth, (shape, steps, k, b)
            is_apart = k == 1 or len(shape.coefficients or column) <= b
            if shape.strategy == "toeplitz" and is_apart:
                assert value == truth
            elif is_falling or is_apart:
                assert value <= truth * (1 + Fraction(1000 * UNIT_ROUNDOFF))
                margins.append(value / truth - 1)
            else:
                ratios.append(value / truth)
    print(f"worst margin {float(min(margins)):.2e}, median of envelopes {float(sorted(ratios)[len(ratios) // 2]):.4f}")
    assert sorted(ratios)[len(ratios) // 2] < Fraction(3, 2)


def test_a_strategy_s_longest_column_is_a_column_of_it(tries: Callable[[int, int], int]) -> None:
    """Goal: one participation is the largest column norm, which amplification divides the noise by. Method: NumPy's
    norms of C, dense."""
    rng = random.Random(SEED + 1)
    for _ in range(tries(20, 400)):
        shape, steps = drawn(rng), rng.randint(1, 40)
        dense = np.array([[float(entry) for entry in row] for row in matrix(shape, steps)])
        value = strategies.sensitivity_sq(shape, steps=steps)
        assert float(value) == pytest.approx(float(np.diag(dense.T @ dense).max()), rel=1e-12)


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
        value = strategies.sensitivity_sq(
            Shape(strategy="sqrt", bandwidth=width), steps=steps, participations=k, separation=b
        )
        error = relative_excess(value, coefficients, steps=steps, k=k, b=b)
        assert 0 <= error <= mp.mpf(allowed_error(steps).numerator) / allowed_error(steps).denominator


def relative_excess(value: Fraction, column: Sequence[Any], *, steps: int, k: int, b: int) -> Any:
    """By how much a value is above the squared norm of the sum of k columns, b apart, in mpmath."""
    entries = [*column, *[mp.mpf(0)] * (steps - len(column))]
    rows = list[Any]()
    for row, entry in enumerate(entries):
        begun, ended = row - b, row - k * b
        rows.append(entry + (rows[begun] if begun >= 0 else 0) - (entries[ended] if ended >= 0 else 0))
    truth = mp.fsum(row**2 for row in rows)
    return mp.mpf(value.numerator) / value.denominator / truth - 1


@pytest.mark.parametrize(("steps", "k", "b"), [(1_500, 1, 1), (1_500, 7, 200), (800, 800, 1)])
def test_longer_runs_of_buffers_and_inverses(steps: int, k: int, b: int) -> None:
    """Goal: the bound holds where rounding adds up, entries become negligible, and columns are long; and its error.
    Method: the recursions in mpmath at 50 digits."""
    buffers = [("0.2", "0.9991"), ("0.15", "0.97"), ("0.1", "0.5")]
    with mp.workdps(oracle.DIGITS):
        column = [mp.mpf(1)]
        column += [mp.fsum(mp.mpf(s) * mp.mpf(d) ** (t - 1) for s, d in buffers) for t in range(1, steps)]
        shape = Shape(strategy="blt", scales=[Decimal(s) for s, _ in buffers], decays=[Decimal(d) for _, d in buffers])
        value = strategies.sensitivity_sq(shape, steps=steps, participations=k, separation=b)
        assert 0 <= relative_excess(value, column, steps=steps, k=k, b=b) <= 1e-11
        for width in (2, 5, 20):
            column = [mp.mpf(1)]
            factors = [mp.binomial(2 * j, j) / mp.mpf(4) ** j / (2 * j - 1) for j in range(width)]
            for t in range(1, steps):
                column.append(mp.fsum(factors[j] * column[t - j] for j in range(1, min(width - 1, t) + 1)))
            inverse = Shape(strategy="banded_inverse_sqrt", bandwidth=width)
            value = strategies.sensitivity_sq(inverse, steps=steps, participations=k, separation=b)
            assert 0 <= relative_excess(value, column, steps=steps, k=k, b=b) <= 1e-9, width


def test_the_longest_run_of_sqrt() -> None:
    """Goal: no more steps, and those in reach are right. Method: at 10^6 steps, once, the squared coefficients sum to
    (log n + gamma + 4 log 2)/pi + O(1/n); at every step, A 1 is the sum of the square root's columns twice over."""
    longest = strategies.SQRT_STEPS_MAX
    once = float(strategies.sensitivity_sq(SQRT, steps=longest))
    assert once == pytest.approx((math.log(longest) + np.euler_gamma + 4 * math.log(2)) / math.pi, rel=1e-6)
    # The sum of the first t coefficients is 2 t binom(2t, t)/4^t, whose square is 4 t/pi (1 - 1/(4 t) + ...).
    always = float(strategies.sensitivity_sq(SQRT, steps=longest, participations=longest))
    assert always == pytest.approx(4 / math.pi * longest * (longest + 1) / 2, rel=1e-6)
    with pytest.raises(ValueError, match="steps must be at most 1000000"):
        strategies.sensitivity_sq(SQRT, steps=longest + 1)


def test_the_longest_runs_of_the_others() -> None:
    """Goal: 10^6 steps are in reach, and right. Method: one buffer without decay is a step up to its scale; an inverse
    with two coefficients is a geometric series; declared coefficients that do not meet add up."""
    longest = strategies.SQRT_STEPS_MAX
    flat = Shape(strategy="blt", scales=[Decimal("0.5")], decays=[Decimal(1)])
    assert float(strategies.sensitivity_sq(flat, steps=longest)) == pytest.approx(1 + (longest - 1) / 4, rel=1e-8)
    halves = Shape(strategy="banded_inverse_sqrt", bandwidth=2)
    assert float(strategies.sensitivity_sq(halves, steps=longest)) == pytest.approx(4 / 3, rel=1e-9)
    pair = Shape(strategy="toeplitz", coefficients=[Decimal(1), Decimal("-0.5")])
    assert strategies.sensitivity_sq(pair, steps=longest, participations=longest, separation=2) == Fraction(5, 4) * (
        longest // 2
    )
    widest = Shape(strategy="banded_inverse_sqrt", bandwidth=strategies.INVERSE_BANDWIDTH_MAX + 1)
    with pytest.raises(ValueError, match="bandwidth must be at most 4096"):
        strategies.sensitivity_sq(widest, steps=longest)
    assert strategies.sensitivity_sq(widest, steps=4_000) == strategies.sensitivity_sq(SQRT, steps=4_000)


def test_one_participation_in_a_tree_is_the_literature_s() -> None:
    """Goal: the same tree as elsewhere: ceil(log2(n + 1)) levels (Kairouz et al. 2021, and dp-accounting), far beyond
    the runs that anyone makes. Method: the formula, in integers."""
    for steps in (1, 2, 3, 4, 7, 8, 9, 1_000, 2**40 - 1, 2**40, 10**12):
        levels = next(level for level in itertools.count() if 2**level >= steps + 1)
        assert strategies.sensitivity_sq(TREE, steps=steps) == levels


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
        width = int(generator.integers(1, 100)) if generator.random() < 0.5 else None
        for shape in (IDENTITY, TREE, Shape(strategy="sqrt", bandwidth=width)):
            spared = 1 - allowed_error(steps + 20) if shape.strategy == "sqrt" else Fraction(1)
            value = strategies.sensitivity_sq(shape, **declared)
            for change in more:
                larger = strategies.sensitivity_sq(shape, **(declared | change))
                assert larger >= value * spared, (shape, declared, change)


def test_bad_arguments_are_named() -> None:
    """Goal: each wrong argument is said. Method: call it so."""
    for name in ("steps", "participations", "separation"):
        arguments: dict[str, Any] = {"steps": 5, name: 0}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            strategies.sensitivity_sq(SQRT, **arguments)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"strategy": "sqrt", "bandwidth": 0}, "bandwidth must be at least 1, got 0"),
        ({"strategy": "identity", "bandwidth": 2}, "bandwidth belongs to the strategies sqrt"),
        ({"strategy": "tree", "bandwidth": 2}, "bandwidth belongs to the strategies sqrt"),
        ({"strategy": "sqrt", "coefficients": [Decimal(1)]}, "coefficients belong to the strategy toeplitz"),
        ({"strategy": "toeplitz"}, "coefficients belong to the strategy toeplitz, which needs at least one"),
        ({"strategy": "blt"}, "scales and decays belong to the strategy blt"),
        ({"strategy": "blt", "scales": [Decimal(1)]}, "as many of both"),
        ({"strategy": "tree", "scales": [Decimal(1)], "decays": [Decimal(1)]}, "scales and decays belong"),
    ]
    for declared, message in wrong:
        with pytest.raises(ValueError, match=message):
            strategies.sensitivity_sq(Shape(**declared), steps=5)

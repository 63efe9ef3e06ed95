"""Sensitivity of the usual strategies of the matrix mechanism for running sums of gradients (DP-FTRL).

With the lower triangular matrix A of ones and a factorization A = B C, the release is B (C G + Z): the rows of G are
the clipped gradients, one for each step, Z is Gaussian noise, and C, the strategy, decides what a unit's presence can
change. A unit takes part in a *pattern* of steps: at most `participations` of them, any two at least `separation`
apart, all fixed in advance. With vector-valued gradients it moves C G by at most sens clip norms, where

    sens^2 = max over patterns of the sum over i and j in the pattern of |(C^T C)_ij|

(Choquette-Choo, McMahan, Rush & Thakurta 2023; that gradients may depend on what was released before, Denisov, McMahan,
Rush, Smith & Thakurta 2022). Here no entry of C is negative, so the sum is |C 1_pattern|^2, and one more step in the
pattern never lowers it: only patterns of k = min(participations, ceil(steps / separation)) steps matter.

    identity   C = I: noise of its own at each step.
    tree       A row of C for every node of the binary tree over the steps, the sum of the leaves under it: the nodes
               are the intervals [j 2^l, (j+1) 2^l) that end by the last step (Kairouz et al. 2021). If the number of
               steps is no power of two, nodes that reach beyond the last step are never released, and so are no rows.
               Completed, the tree goes on to the next power of two: its last steps have no gradient, but release the
               nodes above real ones. How nodes are then combined (Honaker's estimate) is part of B.
    sqrt       The lower triangular Toeplitz matrix with coefficients f_j = binom(2j, j) / 4^j, whose square is A
               (Fichtenberger, Henzinger & Upadhyay 2023); with a bandwidth, only the first coefficients, as many as it
               states: the banded square root (Kalinin & Lampert 2024).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final, Literal, assert_never

from ledger.accounting import amounts, deadline
from ledger.accounting.gdp import UNIT_ROUNDOFF
from ledger.accounting.numeric import FloatArray, np

Strategy = Literal["identity", "tree", "sqrt"]

SQRT_STEPS_MAX: Final = 10**6
"""Memory and time of `sqrt` grow with the number of steps: 40 MB and a tenth of a second here."""


def sensitivity_sq(
    *,
    strategy: Strategy,
    steps: int,
    participations: int = 1,
    separation: int = 1,
    bandwidth: int | None = None,
    is_completed: bool = False,
) -> Fraction:
    """Return an upper bound of sens^2, in squared clip norms, as the module describes it.

    identity: exact. tree: exact for one participation, and if the separation is a power of two. sqrt: above the
    exact value by a relative 12 (steps + 10) u at most, u = 2^-53. Grows with steps and participations and falls with
    the separation, for sqrt within that error. `bandwidth` counts coefficients; None means all. `is_completed`: the
    tree goes on to the next power of two.
    Raises ValueError for an argument below 1, a bandwidth without sqrt, completion without tree, or more than
    SQRT_STEPS_MAX steps with sqrt. Source: this module's docstring.
    """
    given = {"steps": steps, "participations": participations, "separation": separation, "bandwidth": bandwidth}
    for name, value in given.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value!r}")
    if bandwidth is not None and strategy != "sqrt":
        raise ValueError(f"bandwidth belongs to the strategy sqrt, not to {strategy}")
    if is_completed and strategy != "tree":
        raise ValueError(f"completion belongs to the strategy tree, not to {strategy}")
    pattern_length = min(participations, _ceil_div(steps, separation))
    match strategy:
        case "identity":
            return Fraction(pattern_length)
        case "tree":
            # The steps that complete the tree have no gradient, and so are in no pattern.
            released = 1 << (steps - 1).bit_length() if is_completed else steps
            return Fraction(_tree(steps=released, pattern_length=pattern_length, separation=separation))
        case "sqrt":
            if steps > SQRT_STEPS_MAX:
                raise ValueError(f"steps must be at most {SQRT_STEPS_MAX} for the strategy sqrt, got {steps!r}")
            width = steps if bandwidth is None else min(bandwidth, steps)
            return _sqrt(steps=steps, pattern_length=pattern_length, separation=separation, bandwidth=width)
        case _:
            assert_never(strategy)


def _ceil_div(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


def _tree(*, steps: int, pattern_length: int, separation: int) -> int:
    """Return a bound on the sum over nodes of the squared number of the pattern's steps under a node, level by level.

    A node of width 2^l has at most m = min(k, ceil(2^l / b)) of them, and the nodes of a level, which lie side by side
    over n' = 2^l floor(n / 2^l) steps, at most k' = min(k, ceil(n' / b)) together. Moving one from a node with fewer to
    a node with more raises the sum of squares, so that it is largest with floor(k' / m) nodes full and one with the
    rest. If b is a power of two, or k = 1, the pattern 0, b, 2b, ... reaches that at every level.
    """
    total = 0
    for level in range(steps.bit_length()):
        under_node = min(pattern_length, _ceil_div(2**level, separation))
        under_level = min(pattern_length, _ceil_div(steps >> level << level, separation))
        full, rest = divmod(under_level, under_node)
        total += full * under_node**2 + rest**2
    return total


def _sqrt(*, steps: int, pattern_length: int, separation: int, bandwidth: int) -> Fraction:
    """Return the squared norm of the sum of the k columns 0, b, 2b, ..., moved outward by its rounding.

    No pattern is worse: for i <= j, (C^T C)_ij is the sum over s < n - j of f_s f_(s+j-i). As the coefficients are
    non-negative and never rise (a cut to 0 included), it falls, or stays, when j grows at the same j - i, and when
    j - i grows at the same j. The c-th step of a pattern is at (c-1) b or later, and lies (c-a) b or more after the
    a-th, so that each entry is at most that of the pattern 0, b, 2b, ... (Kalinin & Lampert 2024).

    Rounding: f_j is a product of 2 j rounded numbers, within 2 j u; a window's sum has at most 2 log2(k) + 2 additions
    of non-negative numbers above each other; squaring doubles both and adds u; the sum of n squares adds n u.
    """
    index = np.arange(1.0, bandwidth)
    # All entries beyond the last column's band are 0.
    length = min(steps, (pattern_length - 1) * separation + bandwidth)
    column = np.zeros(length)
    column[0] = 1.0
    # binom(2j, j)/4^j = binom(2j-2, j-1)/4^(j-1) * (2j - 1)/(2j)
    np.cumprod((index - 0.5) / index, out=column[1:bandwidth])
    together = _shifted_sum(column, count=pattern_length, gap=separation)
    value = float(np.sum(together * together))
    roundings = 4 * bandwidth + 4 * pattern_length.bit_length() + length + 8
    return amounts.outward(value, roundings * UNIT_ROUNDOFF)


def _shifted_sum(column: FloatArray, *, count: int, gap: int) -> FloatArray:
    """Return the sum of `count` copies of the column, shifted down by 0, gap, 2 gap, ... and cut at its end.

    By doubling: in O(length log(count)), and without differences, which could lose digits.
    """
    total, offset = np.zeros_like(column), 0
    doubled, reach = column, gap
    for _ in range(count.bit_length()):
        deadline.check()
        if count % 2:
            total[offset:] += doubled[: column.size - offset]
            offset += reach
        count //= 2
        # Further copies begin beyond the end.
        if offset >= column.size:
            break
        if reach < column.size:
            following = doubled.copy()
            following[reach:] += doubled[:-reach]
            doubled = following
        reach *= 2
    return total

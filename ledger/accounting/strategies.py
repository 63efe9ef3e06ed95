"""Sensitivity of the usual strategies of the matrix mechanism for running sums of gradients (DP-FTRL).

With the lower triangular matrix A of ones and a factorization A = B C, the release is B (C G + Z): the rows of G are
the clipped gradients, one for each step, Z is Gaussian noise, and C, the strategy, decides what a unit's presence can
change. A unit takes part in a *pattern* of steps: at most `participations` of them, any two at least `separation`
apart, all fixed in advance. With vector-valued gradients it moves C G by at most sens clip norms, where

    sens^2 = max over patterns of the sum over i and j in the pattern of |(C^T C)_ij|

(Choquette-Choo, McMahan, Rush & Thakurta 2023; that gradients may depend on what was released before, Denisov, McMahan,
Rush, Smith & Thakurta 2022). Where no entry of C is negative, the sum is |C 1_pattern|^2, and one more step in the
pattern never lowers it: only patterns of k = min(participations, ceil(steps / separation)) steps matter.

    identity   C = I: noise of its own at each step.
    tree       A row of C for every node of the binary tree over the steps, the sum of the leaves under it: the nodes
               are the intervals [j 2^l, (j+1) 2^l) that end by the last step (Kairouz et al. 2021). If the number of
               steps is no power of two, nodes that reach beyond the last step are never released, and so are no rows.
               Completed, the tree goes on to the next power of two: its last steps have no gradient, but release the
               nodes above real ones. How nodes are then combined (Honaker's estimate) is part of B.

The others are lower triangular Toeplitz matrices, C_ij = c_(i-j):

    sqrt       c_j = f_j = binom(2j, j) / 4^j, whose square is A (Fichtenberger, Henzinger & Upadhyay 2023); with a
               bandwidth, only the first coefficients, as many as it states: the banded square root (Kalinin & Lampert
               2024).
    banded_inverse_sqrt   The inverse of a banded matrix: C^-1 has the first p coefficients of A^(-1/2), which are 1 and
               -g_j, g_j = f_j / (2j - 1), and C is its inverse (Kalinin et al., arXiv 2505.12128): c_0 = 1 and c_t
               is the sum over 0 < j < p of g_j c_(t-j).
    blt        A buffered linear Toeplitz matrix (McMahan, Xu & Zhang, arXiv 2408.08868): c_0 = 1 and c_t = the sum over
               the buffers of scale decay^(t-1). Scales are positive and decays at most 1.
    toeplitz   As many coefficients as are declared, of any sign: c_t = 0 beyond them.

*The worst pattern of a Toeplitz strategy.* If the c_t are not negative and never rise, it is 0, b, 2b, ...: for i <= j,
(C^T C)_ij is the sum over s < n - j of c_s c_(s+j-i), which falls, or stays, when j grows at the same j - i, and when
j - i grows at the same j. The a-th step of a pattern is at (a-1) b or later, and lies (a-e) b or more after the e-th,
so that each entry is at most that of the pattern 0, b, 2b, ... (Kalinin & Lampert 2024, arXiv 2405.13763, Thm. 2).
Otherwise:

- If k is 1, or there are no more coefficients than the separation, no two columns of a pattern meet, and sens^2 is the
  sum of their squared norms, whatever the signs. Columns further left have more of the coefficients: 0, b, 2b, ...
- Else the coefficients are replaced by their envelope, e_t = max over s >= t of |c_s|. |(C^T C)_ij| is at most
  (E^T E)_ij, entry by entry, and the e_t never rise: an upper bound.

Those of sqrt fall, cut to 0 or not. Those of blt fall from c_1 on, so that only c_0 < c_1 needs the envelope. Those of
banded_inverse_sqrt never rise (our derivation): let R(x) be the polynomial 1 - sum g_j x^j, whose partial sums s_t are
f_t up to t = p - 1, and stay there. (1 - x) / R(x) is the inverse of the power series of the s_t, which are positive
with ratios s_(t+1) / s_t that never fall, (2t+1)/(2t+2) and then 1. By Kaluza's theorem (1928) all coefficients of
that inverse but the first are at most 0, and they are the differences c_t - c_(t-1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final, Literal, assert_never

from ledger.accounting import amounts, deadline
from ledger.accounting.gdp import UNIT_ROUNDOFF
from ledger.accounting.numeric import FloatArray, np

Strategy = Literal["identity", "tree", "sqrt", "banded_inverse_sqrt", "blt", "toeplitz"]

SQRT_STEPS_MAX: Final = 10**6
"""Memory and time of Toeplitz strategies grow with the number of steps: 40 MB and a tenth of a second here."""
INVERSE_BANDWIDTH_MAX: Final = 4096
"""The most coefficients of `banded_inverse_sqrt`, unless they are all: those of C take half a second here."""

_NEGLIGIBLE: Final = 2.0**-60
_ROWS: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A strategy. bandwidth: how many coefficients of `sqrt`, or of the inverse in `banded_inverse_sqrt`; None means
    all. is_completed: a tree goes on to the next power of two. coefficients: of `toeplitz`. scales, decays: of `blt`.
    """

    strategy: Strategy
    bandwidth: int | None = None
    is_completed: bool = False
    coefficients: Sequence[Decimal] = ()
    scales: Sequence[Decimal] = ()
    decays: Sequence[Decimal] = ()

    @property
    def bands(self) -> int | None:
        """Return b if C is lower triangular with C_ij = 0 for i - j >= b; None if it has no such form, or b is the
        number of steps."""
        match self.strategy:
            case "identity":
                return 1
            case "sqrt":
                return self.bandwidth
            case "toeplitz":
                return len(self.coefficients)
            case _:
                return None


def sensitivity_sq(shape: Shape, *, steps: int, participations: int = 1, separation: int = 1) -> Fraction:
    """Return an upper bound of sens^2, in squared clip norms, as the module describes it.

    identity: exact. tree: exact for one participation, and if the separation is a power of two. toeplitz: exact for one
    participation, and if there are no more coefficients than the separation; else, as the other Toeplitz strategies,
    within a relative error, of which sqrt has 12 (steps + 10) u at most, u = 2^-53, where no envelope is needed. Grows
    with steps and participations and falls with the separation, within that error.
    Raises ValueError for an argument below 1, for a bandwidth, a completion, coefficients, scales or decays of another
    strategy, and if there are too many steps or coefficients to compute with. Source: this module's docstring.
    """
    _check(shape, steps=steps, participations=participations, separation=separation)
    length = min(participations, _ceil_div(steps, separation))
    pattern = _Pattern(steps, length, separation)
    match shape.strategy:
        case "identity":
            return Fraction(length)
        case "tree":
            # The steps that complete the tree have no gradient, and so are in no pattern.
            released = 1 << (steps - 1).bit_length() if shape.is_completed else steps
            return Fraction(_tree(steps=released, pattern_length=length, separation=separation))
        case "sqrt":
            width = steps if shape.bandwidth is None else min(shape.bandwidth, steps)
            return _together(_sqrt(width), pattern)
        case "banded_inverse_sqrt":
            return _together(_inverse(min(shape.bandwidth or steps, steps), steps), pattern)
        case "blt":
            return _together(_buffered(shape, steps, is_alone=length == 1), pattern)
        case "toeplitz":
            return _declared(shape.coefficients[:steps], pattern)
        case _:
            assert_never(shape.strategy)


def _check(shape: Shape, **counts: int) -> None:
    for name, value in {**counts, "bandwidth": 1 if shape.bandwidth is None else shape.bandwidth}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value!r}")
    strategy = shape.strategy
    if shape.bandwidth is not None and strategy not in ("sqrt", "banded_inverse_sqrt"):
        raise ValueError(f"bandwidth belongs to the strategies sqrt and banded_inverse_sqrt, not to {strategy}")
    if shape.is_completed and strategy != "tree":
        raise ValueError(f"completion belongs to the strategy tree, not to {strategy}")
    if bool(shape.coefficients) != (strategy == "toeplitz"):
        raise ValueError("coefficients belong to the strategy toeplitz, which needs at least one")
    if not len(shape.scales) == len(shape.decays) or bool(shape.scales) != (strategy == "blt"):
        raise ValueError("scales and decays belong to the strategy blt, which needs at least one, and as many of both")
    if strategy not in ("identity", "tree") and counts["steps"] > SQRT_STEPS_MAX:
        raise ValueError(f"steps must be at most {SQRT_STEPS_MAX} for the strategy {strategy}, got {counts['steps']!r}")
    if strategy == "banded_inverse_sqrt" and INVERSE_BANDWIDTH_MAX < (shape.bandwidth or 0) < counts["steps"]:
        raise ValueError(f"bandwidth must be at most {INVERSE_BANDWIDTH_MAX} for the strategy {strategy}")


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


# --- Toeplitz strategies ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pattern:
    """The pattern 0, b, 2b, ...: of `length` steps, `separation` apart."""

    steps: int
    length: int
    separation: int


@dataclass(frozen=True, slots=True)
class _Column:
    """The first column of a Toeplitz strategy, down to its last entry that is not 0: shape (n,), none negative.

    roundings: no entry is below its exact value by more than this many relative errors of u = 2^-53.
    """

    entries: FloatArray
    roundings: int


def _together(first: _Column, pattern: _Pattern) -> Fraction:
    """Return the squared norm of the sum of the k columns 0, b, 2b, ..., moved outward by its rounding.

    Rounding, beside that of the entries: a window's sum has at most 2 log2(k) + 2 additions of non-negative numbers
    above each other; squaring doubles both and adds u; the sum of n squares adds n u. The first entry is not
    negligible, so that underflow elsewhere is less than one of them.
    """
    width = first.entries.size
    # All entries beyond the last column's band are 0.
    length = min(pattern.steps, (pattern.length - 1) * pattern.separation + width)
    column = np.zeros(length)
    column[:width] = first.entries
    together = _shifted_sum(column, count=pattern.length, gap=pattern.separation)
    value = float(np.sum(together * together))
    roundings = 2 * first.roundings + 4 * pattern.length.bit_length() + length + 8
    return amounts.outward(value, roundings * UNIT_ROUNDOFF)


def _sqrt(width: int) -> _Column:
    """Return the first column of the square root of A: f_j is a product of 2 j rounded numbers, within 2 j u."""
    index = np.arange(1.0, width)
    column = np.zeros(width)
    column[0] = 1.0
    # binom(2j, j)/4^j = binom(2j-2, j-1)/4^(j-1) * (2j - 1)/(2j)
    np.cumprod((index - 0.5) / index, out=column[1:])
    return _Column(column, 2 * width)


def _inverse(width: int, steps: int) -> _Column:
    """Return the first column of the inverse of the Toeplitz matrix of 1, -g_1, ..., -g_(p-1).

    Up to t = p - 1 it is that of the square root. From there on each entry is a sum of p - 1 products of rounded
    numbers, none negative, within (3 p + 2) u of that of exact g_j, in whatever order they are added, and errors of
    earlier entries add up along the recursion at most. As entries never rise, those behind a negligible one are
    replaced by it.
    """
    first = _sqrt(width)
    if width >= steps:
        return first
    entries = np.zeros(steps)
    entries[:width] = first.entries
    # g_j = f_j / (2j - 1), from the last to the first.
    factors = np.ascontiguousarray((first.entries[1:] / (2 * np.arange(1.0, width) - 1))[::-1])
    last = steps
    for row in range(width, steps):
        if row % _ROWS == 0:
            deadline.check()
        entries[row] = factors @ entries[row - width + 1 : row]
        if entries[row] < _NEGLIGIBLE:
            last = row
            break
    entries[last:] = entries[min(last, steps - 1)]
    return _Column(entries, 2 * width + (last - width + 1) * (3 * width + 2))


def _buffered(shape: Shape, steps: int, *, is_alone: bool) -> _Column:
    """Return the first column of a buffered linear Toeplitz matrix, or its envelope unless its columns do not meet.

    A power of a rounded decay is within 2 t u; scales, their product with it, and the sum over m buffers add m + 2.
    """
    column = np.zeros(steps)
    column[0] = 1.0
    for scale, decay in zip(shape.scales, shape.decays, strict=True):
        deadline.check()
        powers = np.full(steps - 1, float(decay))
        powers[:1] = 1.0
        column[1:] += float(scale) * np.cumprod(powers)
    if not is_alone and steps > 1:
        column[0] = max(1.0, float(sum(map(Fraction, shape.scales))))
    return _Column(column, 2 * steps + len(shape.scales) + 2)


def _declared(coefficients: Sequence[Decimal], pattern: _Pattern) -> Fraction:
    """Return sens^2 of declared coefficients: exact if the columns of a pattern do not meet, else of their envelope."""
    if pattern.length == 1 or len(coefficients) <= pattern.separation:
        # Only the last column can be cut.
        left = pattern.steps - (pattern.length - 1) * pattern.separation
        return (pattern.length - 1) * _squares(coefficients) + _squares(coefficients[:left])
    sizes = np.array([abs(float(coefficient)) for coefficient in coefficients])
    return _together(_Column(np.maximum.accumulate(sizes[::-1])[::-1], 1), pattern)


def _squares(numbers: Sequence[Decimal]) -> Fraction:
    """Return the sum of their squares, exactly."""
    # Over one denominator: adding fractions would reduce each sum.
    ratios = [number.as_integer_ratio() for number in numbers]
    common = math.lcm(*(denominator for _, denominator in ratios))
    return Fraction(sum((numerator * (common // denominator)) ** 2 for numerator, denominator in ratios), common**2)


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

"""The inverse of `costs.cost`: the largest mechanism that would fit in what is left.

The values that may be named for a parameter (integers to 10^12, or decimals of six digits) are numbered so that a
larger number costs more, and what is looked for is the last number that fits. The search keeps a bracket of two
numbers, of which one was costed and fits, and the other was costed and does not, until they are neighbours: what is
named does fit, and the next value does not, by the very costs that an approval would charge, also where a certificate
is monotone only up to numerical noise. A cost can be dear, so the bracket is cut at a secant's root, in coordinates in
which most costs are nearly a straight line. Where that does not help it is halved, so the number of costs is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Final

from ledger.accounting import beside, deadline
from ledger.accounting.amounts import ATTO, PICO
from ledger.accounting.axes import Axis
from ledger.accounting.cost import Cost
from ledger.accounting.costs import cost
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.numbers import COUNT_MAX
from ledger.accounting.terms import Terms
from ledger.core.amounts import ZERO, Amount
from ledger.core.residual import Residual
from ledger.errors import InvalidRequest, TooLarge

SLACK: Final = 12
"""How many more costs than a bisection a search may compute; it usually needs far fewer."""

_STRIDE_MAX: Final = 64
"""How far a search goes in strides before it drops the line."""


@dataclass(frozen=True, slots=True)
class Solution:
    """The value of a parameter that uses up what is left, and its charge.

    solve_for: the parameter, as the mechanism names it. amount: of all runs together, where it is `runs`.
    """

    solve_for: str
    value: int | Decimal
    amount: Amount


@dataclass(frozen=True, slots=True)
class Left:
    """What is left in the accounts that carry a guarantee, where runs are costed beside it: mu², in units of 1e-12.
    base: of the levels."""

    base: int
    mu_sq_pico: int


def _never() -> bool:
    return False


def fits(
    mechanism: AnyMechanism,
    terms: Terms,
    *,
    remaining: Amount,
    left: Left | None = None,
    is_late: Callable[[], bool] = _never,
) -> dict[str, int | Decimal]:
    """For each parameter that alone could make the run fit in `remaining`, the value that is nearest to what was asked.

    Counts are integers; other parameters have six significant digits, rounded to the side that fits. A parameter for
    which no value fits is left out, and so is one that the request does not have, and one that was not found when
    `is_late`, which is asked before each cost, says so. terms: the run's; what is named has as many segments. left:
    where runs are costed beside what is left.
    """
    solutions = nearest(mechanism, terms, remaining=remaining, left=left, is_late=is_late)
    return {field: solution.value for field, solution in solutions.items()}


def nearest(
    mechanism: AnyMechanism,
    terms: Terms,
    *,
    remaining: Amount,
    left: Left | None = None,
    is_late: Callable[[], bool] = _never,
) -> dict[str, Solution]:
    """Return the values of `fits`, each with its charge."""
    search = _Search(mechanism, terms, remaining=remaining, left=left, is_late=is_late)
    declared = mechanism.model_dump(exclude_none=True)
    solutions: dict[str, Solution] = {}
    for field in mechanism.solvable:
        if field in mechanism.unsuggested or field not in declared:
            continue
        try:
            solution = search.solve(field, is_upwards=False)
        except _LateError:
            break
        if solution is not None:
            solutions[field] = solution
    return solutions


def solve(
    mechanism: AnyMechanism,
    terms: Terms,
    *,
    solve_for: str,
    remaining: Amount,
    left: Left | None = None,
    is_late: Callable[[], bool] = _never,
) -> Solution | None:
    """Return the least `noise_multiplier`, or the most of another parameter, that fits: less or more than requested.

    solve_for: as `parameter` takes it. None if no value fits. terms, is_late: as for `fits`; each run has its delta.
    Raises InvalidRequest if the mechanism has no such parameter, TooLarge if time was up, and for `runs` what
    `cost` raises.
    """
    field = parameter(mechanism, solve_for)
    if field == "runs":
        return _runs(_price(mechanism, terms, left), remaining)
    search = _Search(mechanism, terms, remaining=remaining, left=left, is_late=is_late)
    try:
        return search.solve(field, is_upwards=True)
    except _LateError:
        raise TooLarge(
            f"solve_for: solving for {field} takes longer than the ledger allows; ask about a smaller mechanism",
            field="solve_for",
            solve_for=field,
        ) from None


def parameter(mechanism: AnyMechanism, solve_for: str) -> str:
    """Return what `solve_for` means for a mechanism: one of its parameters, or `runs`: how many such runs in a row.

    `steps` of a mechanism that said epochs are its epochs. Raises InvalidRequest if it has no such parameter.
    """
    asked = mechanism.model_dump(exclude_none=True)
    field = "epochs" if solve_for == "steps" and "epochs" in asked else solve_for
    if field != "runs" and (field not in asked or field not in mechanism.solvable):
        raise InvalidRequest(
            f"solve_for: a mechanism that is declared so has no {field} to solve for", field="solve_for"
        )
    return field


@dataclass(frozen=True, slots=True)
class _Price:
    """What a mechanism costs: by itself, or where a table is given beside what is left, if it fits there."""

    cost: Cost
    table: Residual | None = None
    left: int = 0

    @property
    def amount(self) -> Amount:
        """Return what an approval charges."""
        amount = self.cost.amount
        index = None if self.table is None else self.table.best(self.left)
        return amount if self.table is None or index is None else Amount(self.table.costs[index], amount.delta_atto)

    @property
    def needed(self) -> Fraction:
        """Return how much mu² must be left for it, in units of 1e-12."""
        return self.cost.mu_sq * PICO if self.table is None else Fraction(self.table.least_needed)

    def does_fit(self, remaining: Amount) -> bool:
        """Return whether an approval would find that it fits."""
        is_left = self.table is None or self.table.best(self.left) is not None
        return is_left and not self.amount.exceeds(remaining)


def _price(mechanism: AnyMechanism, terms: Terms, left: Left | None) -> _Price:
    alone = cost(mechanism, terms)
    if left is None:
        return _Price(alone)
    return _Price(alone, beside.table(mechanism, terms, left.base, alone), left.mu_sq_pico)


def _runs(once: _Price, remaining: Amount) -> Solution | None:
    """Return how many runs fit, one after another: as long as the same level fits they cost the same."""
    count, charged = 0, ZERO
    while count < COUNT_MAX and once.does_fit(remaining):
        amount = once.amount
        pairs = [(remaining.mu_sq_pico, amount.mu_sq_pico), (remaining.delta_atto, amount.delta_atto)]
        if once.table is not None:
            needed = once.table.needed(once.table.costs.index(amount.mu_sq_pico))
            pairs.append((once.left - needed + amount.mu_sq_pico, amount.mu_sq_pico))
        more = min(COUNT_MAX - count, *(has // each for has, each in pairs if each))
        all_of_them = Amount(amount.mu_sq_pico * more, amount.delta_atto * more)
        count, charged, remaining = count + more, charged + all_of_them, remaining - all_of_them
        once = replace(once, left=once.left - all_of_them.mu_sq_pico)
    return Solution("runs", count, charged) if count else None


# --- the search ------------------------------------------------------------------------------------------------------


class _LateError(Exception):
    """Time was up before the search ended."""


class _Search:
    """Looks for the last value of a parameter that fits. What was asked for is costed once, for all of them."""

    def __init__(
        self,
        mechanism: AnyMechanism,
        terms: Terms,
        *,
        remaining: Amount,
        left: Left | None,
        is_late: Callable[[], bool],
    ) -> None:
        self._mechanism, self._terms, self._remaining, self._is_late = mechanism, terms, remaining, is_late
        self._left = left
        self._declared = mechanism.model_dump(exclude_none=True)
        self._asked: tuple[_Price | None] | None = None

    def solve(self, field: str, *, is_upwards: bool) -> Solution | None:
        """The last value that fits: of all that may be declared, or of those that cost no more than what was asked."""
        if ZERO.exceeds(self._remaining):
            return None
        asked = self._declared[field]
        axis = self._mechanism.axis(field, segments=self._terms.segments)
        if self._asked is None:
            self._asked = (self._cost(field, asked),)
        (best,) = self._asked
        bracket = _Bracket(axis)
        number = axis.number_of(asked)
        bracket.learn(number if axis.value_of(number) == asked else None, asked, self._margins(best))
        if not is_upwards:
            bracket.above = min(bracket.above, number + 1)
        while (tried := bracket.next()) is not None:
            value = axis.value_of(tried)
            charged = self._cost(field, value)
            bracket.learn(tried, value, self._margins(charged))
            best = charged if bracket.below == tried else best
        if bracket.below < axis.low or best is None:
            return None
        return Solution(field, axis.value_of(bracket.below), best.amount)

    def _cost(self, field: str, value: int | Decimal) -> _Price | None:
        """Return the charge; None if there is no such mechanism or its cost is not known."""
        deadline.check()
        if self._is_late():
            raise _LateError
        try:
            resized = type(self._mechanism)(**{**self._declared, field: value})
            return _price(resized, self._terms, self._left)
        except (InvalidRequest, TooLarge, ValueError):
            return None

    def _margins(self, price: _Price | None) -> _Margins:
        if price is None:
            return _Margins(False, math.inf, math.inf)
        mu = _log_ratio(price.needed, self._remaining.mu_sq_pico if self._left is None else self._left.mu_sq_pico)
        if self._left is not None:
            mu = max(mu, _log_ratio(Fraction(price.amount.mu_sq_pico), self._remaining.mu_sq_pico))
        delta = _log_ratio(price.cost.nats * ATTO, self._remaining.delta_atto)
        return _Margins(price.does_fit(self._remaining), mu, delta)


@dataclass(frozen=True, slots=True)
class _Margins:
    """Return whether a cost fits, as an approval decides, and the logarithms of its shares of what is left."""

    does_fit: bool
    mu: float
    delta: float


def _log_ratio(charged: Fraction, left: int) -> float:
    if charged <= 0:
        return -math.inf if left >= 0 else math.inf
    if left <= 0:
        return math.inf
    ratio = charged / left
    if Fraction(1, 2) < ratio < 2:
        return math.log1p(float(ratio - 1))
    # Of integers, so that nothing overflows on the way.
    return math.log(ratio.numerator) - math.log(ratio.denominator)


class _Bracket:
    """Two numbers between which the last one that fits lies, and which number to try next.

    below, above: `below` fits and `above` does not, as far as was tried; at first they stand just outside of what may
    be declared. They are the answer when they are neighbours.
    """

    def __init__(self, axis: Axis) -> None:
        self._axis = axis
        self.below, self.above = axis.low - 1, axis.high + 1
        self._tries = (self.above - self.below).bit_length() + SLACK
        self._lines = (_Line(), _Line())
        self._stride = 1
        self._is_wall = False

    def learn(self, number: int | None, value: int | Decimal, margins: _Margins) -> None:
        """What was found at a value, which has a number unless it has too many digits."""
        x = self._axis.coordinate(float(value))
        for line, margin in zip(self._lines, (margins.mu, margins.delta), strict=True):
            line.learn(x, margin)
        if number is not None and margins.does_fit:
            self.below = max(self.below, number)
        elif number is not None:
            self.above = min(self.above, number)
            # No line leads to where there is no cost at all.
            self._is_wall = math.isinf(margins.mu)

    def next(self) -> int | None:
        """The number to try next; None where the two are neighbours."""
        if self.above - self.below <= 1:
            return None
        self._tries -= 1
        # However it is chosen, what is left afterwards can still be halved to the end in the tries that are left.
        reach = 1 << self._tries
        return max(self.above - reach, min(self.below + reach, self._choice()))

    def _choice(self) -> int:
        root = min(line.root() for line in self._lines)
        # Beyond an end that was tried and said otherwise, the line is wrong: a certificate costs suddenly less, or a
        # delta, where it begins or ends to be better than what it is charged without.
        is_beyond_low = root < self._axis.first and self.below >= self._axis.low
        is_beyond_high = root > self._axis.last and self.above <= self._axis.high
        if is_beyond_low or is_beyond_high:
            return self._middle()
        number = self._axis.floor(root)
        # The root is in the cell next to an end: that end's neighbour settles it. Where it does not, go on from there
        # in strides that double, since the line was not as straight as it looked.
        if number in (self.below - 1, self.below):
            return self._beside(self.below + self._stride)
        if number in (self.above - 1, self.above) and not self._is_wall:
            return self._beside(self.above - self._stride)
        if self.below < number < self.above:
            self._stride = 1
            return number
        return self._middle()

    def _beside(self, number: int) -> int:
        self._stride *= 2
        is_near = self._stride <= _STRIDE_MAX and self.below < number < self.above
        return number if is_near else self._middle()

    def _middle(self) -> int:
        """Half way in the coordinate, where most costs grow evenly; or between the numbers."""
        ends = (max(self.below, self._axis.low), min(self.above, self._axis.high))
        low, high = (self._axis.coordinate(float(self._axis.value_of(number))) for number in ends)
        number = self._axis.floor((low + high) / 2)
        return number if self.below < number < self.above else (self.below + self.above) // 2


class _Line:
    """How the share of one quantity grows, as far as it was seen."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []
        self._is_nothing = False

    def learn(self, x: float, margin: float) -> None:
        """The margin that was found at a coordinate."""
        self._is_nothing |= margin == -math.inf
        if math.isfinite(margin):
            self._points.append((x, margin))

    def root(self) -> float:
        """Where the line through the two points nearest to the root, or through one with slope 1, meets it.

        Two points between which the cost seems to fall show nothing but noise, and are passed over.
        """
        if not self._points:  # no share of nothing, or no cost: if anything fits, then the least
            return math.inf if self._is_nothing else -math.inf
        (x, margin), *others = sorted(self._points, key=lambda point: abs(point[1]))
        slopes = [(other - margin) / (at - x) for at, other in others if at != x]
        if not slopes:
            return x - margin
        rising = [slope for slope in slopes if slope > 0]
        if not rising:  # flat: the parameter changes nothing here, so look at the end
            return -math.inf if margin > 0 else math.inf
        return x - margin / rising[0]

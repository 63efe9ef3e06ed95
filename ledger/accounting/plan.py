"""The inverse of `costs.cost`: the largest mechanism that would fit in the remaining budget.

The allowed values of a parameter (integers to 10^12, or decimals of six digits) are numbered so that a larger number
costs more. The search finds the last number that fits. It keeps a bracket of two numbers, one whose cost was computed
and fits, and one whose cost was computed and does not fit, until they are neighbours. So the returned value fits, and
the next value does not, by the same costs that an approval would charge, even if a certificate is monotone only up to
numerical noise. If an approval takes the cheapest of several shares of delta, one share is searched, and the end of the
search is looked at with all of them: as long as the next value fits at another share, the search goes on there.

A cost can be slow to compute, so the bracket is cut at a secant's root, in coordinates in which most costs are nearly a
straight line. If that does not help, it is halved, so that the number of costs is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Final

from ledger.accounting import beside, certificate, deadline
from ledger.accounting.amounts import ATTO, PICO
from ledger.accounting.axes import Axis
from ledger.accounting.cost import Cost
from ledger.accounting.costs import cost
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.numbers import COUNT_MAX
from ledger.accounting.shares import Room, choose
from ledger.accounting.terms import Terms
from ledger.core.amounts import ZERO, Amount
from ledger.core.residual import Residual, equal_runs
from ledger.errors import InvalidRequest, TooLarge

SLACK: Final = 12
"""How many more costs than a bisection a search can compute; it usually needs far fewer."""

RUNS_CHOSEN_MAX: Final = 10_000
"""Up to how many runs are counted that each take another share of delta."""

_STRIDE_MAX: Final = 64
"""How far a search goes in strides before it drops the line."""


@dataclass(frozen=True, slots=True)
class Solution:
    """The value of a parameter that uses up the remaining budget, and its charge.

    solve_for: the parameter, as the mechanism names it. amount: of all runs together, if it is `runs`.
    """

    solve_for: str
    value: int | Decimal
    amount: Amount


@dataclass(frozen=True, slots=True)
class Left:
    """What is left in the accounts that carry a guarantee, where runs are costed beside it: mu², in units of 1e-12.
    base: of the levels. shares: of delta, from large to small, of which an approval takes the cheapest, in place of
    the terms'."""

    base: int
    mu_sq_pico: int
    shares: tuple[Decimal, ...]


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
    """Return, for each parameter that alone could make the run fit in `remaining`, the value nearest to the request.

    Counts are integers; other parameters have six significant digits, rounded to the side that fits. A parameter is
    left out if no value of it fits, if the request does not have it, or if its value was not found before `is_late`,
    which is called before each cost, returned true. terms: of the run; the values are for as many segments. left: if
    runs are costed beside what is left.
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

    solve_for: as for `parameter`. None if no value fits. terms, is_late: as for `fits`; each run has the delta of the
    terms, or takes the cheapest share of `left`; up to `RUNS_CHOSEN_MAX` of such runs are counted. Raises
    InvalidRequest if the mechanism has no parameter of this name, TooLarge if time was up, and for `runs` also as
    `cost` does.
    """
    field = parameter(mechanism, solve_for)
    if field == "runs":
        return _runs(mechanism, terms, left, remaining)
    search = _Search(mechanism, terms, remaining=remaining, left=left, is_late=is_late)
    try:
        return search.solve(field, is_upwards=True)
    except _LateError:
        raise TooLarge(
            f"solve_for: solving for {field} takes longer than the ledger allows; ask about a smaller mechanism",
            field="solve_for",
            solve_for=field,
        ) from None


def charged(mechanism: AnyMechanism, terms: Terms, *, remaining: Amount, left: Left | None = None) -> Amount | None:
    """Return what an approval of a mechanism would charge; None if it does not fit. Raises as `costs.cost`."""
    if left is None:
        price = _Price(cost(mechanism, terms))
    else:
        price, _ = _Offers(terms, left, remaining).chosen(mechanism)
    return price.amount if price.does_fit(remaining) else None


def parameter(mechanism: AnyMechanism, solve_for: str) -> str:
    """Return the parameter that `solve_for` means for a mechanism, or `runs`: the number of equal runs in a row.

    `steps` of a mechanism declared in epochs are its epochs. Raises InvalidRequest if the mechanism has no parameter of
    this name.
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


class _Offers:
    """Offers beside what is left, each computed once, at the levels that fit there."""

    def __init__(self, terms: Terms, left: Left, remaining: Amount) -> None:
        self._terms, self._left, self._room = terms, left, Room(left.mu_sq_pico, remaining)
        self._known: dict[tuple[str, int], beside.Offer] = {}

    def at(self, mechanism: AnyMechanism, share: int) -> beside.Offer:
        """Return the offer to a mechanism at a share of delta, by its number. Raises as `costs.cost`."""
        key = mechanism.model_dump_json(exclude_none=True), share
        if key not in self._known:
            deadline.check()
            left = self._left
            self._known[key] = beside.offer(mechanism, self._terms, left.shares[share], left.base, left=left.mu_sq_pico)
        return self._known[key]

    def price_at(self, mechanism: AnyMechanism, share: int) -> _Price:
        """Return what a mechanism costs at a share of delta."""
        offer = self.at(mechanism, share)
        return _Price(offer.cost, offer.table, self._left.mu_sq_pico)

    def chosen(self, mechanism: AnyMechanism, first: int | None = None) -> tuple[_Price, int]:
        """Return what a mechanism costs at the share that an approval takes, and the number of that share. first: as
        for `choosing`."""
        with certificate.keeping_here():
            share = choose(partial(self.at, mechanism), len(self._left.shares), self._room, first=first).number
        return self.price_at(mechanism, share), share


def _runs(mechanism: AnyMechanism, terms: Terms, left: Left | None, remaining: Amount) -> Solution | None:
    """Return how many runs fit, one after another."""
    if left is None:
        return _equal_runs(_Price(cost(mechanism, terms)), remaining)
    if len(left.shares) == 1:
        return _equal_runs(_Offers(terms, left, remaining).price_at(mechanism, 0), remaining)
    return _chosen_runs(mechanism, terms, left, remaining)


def _chosen_runs(mechanism: AnyMechanism, terms: Terms, left: Left, remaining: Amount) -> Solution | None:
    """Return how many runs fit that each take the share of delta that is cheapest then; at most `RUNS_CHOSEN_MAX`."""
    offer_at = partial(_Offers(terms, left, remaining).at, mechanism)
    room, charged, share = Room(left.mu_sq_pico, remaining), ZERO, None
    for count in range(RUNS_CHOSEN_MAX):
        share, offer = choose(offer_at, len(left.shares), room, first=share)
        price = _Price(offer.cost, offer.table, room.left)
        if not price.does_fit(room.remaining):
            return Solution("runs", count, charged) if count else None
        amount = price.amount
        room, charged = Room(room.left - amount.mu_sq_pico, room.remaining - amount), charged + amount
    return Solution("runs", RUNS_CHOSEN_MAX, charged)


def _equal_runs(once: _Price, remaining: Amount) -> Solution | None:
    """Return how many runs fit at one share of delta: as long as the same level fits they cost the same."""
    alone = once.cost.amount
    count, charged = equal_runs(alone, once.table, left=once.left, remaining=remaining, most=COUNT_MAX)
    return Solution("runs", count, charged) if count else None


# --- the search ------------------------------------------------------------------------------------------------------


class _LateError(Exception):
    """Time was up before the search ended."""


class _Search:
    """A search for the last value of a parameter that fits. The requested cost is computed once for all parameters."""

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
        self._offers = None if left is None else _Offers(terms, left, remaining)
        self._shares = () if left is None else left.shares
        self._share = self._shares.index(terms.delta) if terms.delta in self._shares else 0
        self._declared = mechanism.model_dump(exclude_none=True)
        self._asked: tuple[_Price | None, int] | None = None

    def solve(self, field: str, *, is_upwards: bool) -> Solution | None:
        """Return the last value that fits: of all allowed values, or of those that cost no more than the request."""
        if ZERO.exceeds(self._remaining):
            return None
        asked = self._declared[field]
        axis = self._mechanism.axis(field, segments=self._terms.segments)
        if self._asked is None:
            self._asked = self._chosen(field, asked), self._share
        best, self._share = self._asked
        number = axis.number_of(asked)
        highest = axis.high if is_upwards else min(axis.high, number)
        bracket = _Bracket(axis)
        bracket.learn(number if axis.value_of(number) == asked else None, asked, self._margins(best))
        bracket.above = min(bracket.above, highest + 1)
        best = self._narrowed(field, axis, bracket, best)
        while len(self._shares) > 1 and bracket.above <= highest:
            # At another share of delta, which an approval would take, the next value may fit.
            value = axis.value_of(bracket.above)
            beyond = self._chosen(field, value)
            if beyond is None or not beyond.does_fit(self._remaining):
                break
            further = _Bracket(axis)
            further.below, further.above = bracket.above, highest + 1
            further.learn(bracket.above, value, self._margins(beyond))
            best, bracket = self._narrowed(field, axis, further, beyond), further
        if bracket.below < axis.low or best is None:
            return None
        value = axis.value_of(bracket.below)
        if len(self._shares) > 1:
            best = self._chosen(field, value)
            if best is None or not best.does_fit(self._remaining):
                return None
        return Solution(field, value, best.amount)

    def _narrowed(self, field: str, axis: Axis, bracket: _Bracket, best: _Price | None) -> _Price | None:
        """Narrow the bracket down to neighbours, at the current share of delta, and return the charge at the lower one.
        best: that of the lower end so far."""
        while (tried := bracket.next()) is not None:
            value = axis.value_of(tried)
            charged = self._cost(field, value)
            bracket.learn(tried, value, self._margins(charged))
            best = charged if bracket.below == tried else best
        return best

    def _cost(self, field: str, value: int | Decimal) -> _Price | None:
        """Return the charge at the current share; None if the value is not allowed or its cost is not known."""
        resized = self._resized(field, value)
        try:
            if resized is None:
                return None
            if self._offers is None:
                return _Price(cost(resized, self._terms))
            return self._offers.price_at(resized, self._share)
        except (InvalidRequest, TooLarge, ValueError):
            return None

    def _chosen(self, field: str, value: int | Decimal) -> _Price | None:
        """Return the charge at the share that an approval takes, which becomes the current one."""
        if self._offers is None or len(self._shares) == 1:
            return self._cost(field, value)
        resized = self._resized(field, value)
        try:
            if resized is None:
                return None
            price, self._share = self._offers.chosen(resized, self._share)
        except (InvalidRequest, TooLarge, ValueError):
            return None
        return price

    def _resized(self, field: str, value: int | Decimal) -> AnyMechanism | None:
        """Return the mechanism with another value; None if that is not allowed. Raises _LateError if time is up."""
        deadline.check()
        if self._is_late():
            raise _LateError
        try:
            return type(self._mechanism)(**{**self._declared, field: value})
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
    """Whether a cost fits, as an approval decides, and the logarithms of its shares of the remaining budget."""

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
    # From integers, so that nothing overflows on the way.
    return math.log(ratio.numerator) - math.log(ratio.denominator)


class _Bracket:
    """Two numbers between which the last one that fits lies, and which number to try next.

    below, above: `below` fits and `above` does not, if they were tried; at first they are just outside of the allowed
    values. The search ends when they are neighbours.
    """

    def __init__(self, axis: Axis) -> None:
        self._axis = axis
        self.below, self.above = axis.low - 1, axis.high + 1
        self._tries = (self.above - self.below).bit_length() + SLACK
        self._lines = (_Line(), _Line())
        self._stride = 1
        self._is_wall = False

    def learn(self, number: int | None, value: int | Decimal, margins: _Margins) -> None:
        """Narrow the bracket by a value that was tried. number: None if the value has too many digits for one."""
        x = self._axis.coordinate(float(value))
        for line, margin in zip(self._lines, (margins.mu, margins.delta), strict=True):
            line.learn(x, margin)
        if number is not None and margins.does_fit:
            self.below = max(self.below, number)
        elif number is not None:
            self.above = min(self.above, number)
            # A value without a cost is no point of the line.
            self._is_wall = math.isinf(margins.mu)

    def next(self) -> int | None:
        """Return the number to try next; None if the two are neighbours."""
        if self.above - self.below <= 1:
            return None
        self._tries -= 1
        # Whatever the choice, the remaining tries must be enough to halve the remaining bracket to the end.
        reach = 1 << self._tries
        return max(self.above - reach, min(self.below + reach, self._choice()))

    def _choice(self) -> int:
        root = min(line.root() for line in self._lines)
        # If its root is beyond an end that was tried, the line is wrong: a certificate costs suddenly less, or a
        # delta, where it begins or ends to be better than what it is charged without.
        is_beyond_low = root < self._axis.first and self.below >= self._axis.low
        is_beyond_high = root > self._axis.last and self.above <= self._axis.high
        if is_beyond_low or is_beyond_high:
            return self._middle()
        number = self._axis.floor(root)
        # If the root is in the cell next to an end, trying that end's neighbour decides. If it does not, go on from
        # there in strides that double, because the line was not as straight as it looked.
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
        """Return the middle in the coordinate, in which most costs grow evenly, or between the numbers."""
        ends = (max(self.below, self._axis.low), min(self.above, self._axis.high))
        low, high = (self._axis.coordinate(float(self._axis.value_of(number))) for number in ends)
        number = self._axis.floor((low + high) / 2)
        return number if self.below < number < self.above else (self.below + self.above) // 2


class _Line:
    """How the share of one quantity grows, from the points tried so far."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []
        self._is_nothing = False

    def learn(self, x: float, margin: float) -> None:
        """Add the margin at a coordinate."""
        self._is_nothing |= margin == -math.inf
        if math.isfinite(margin):
            self._points.append((x, margin))

    def root(self) -> float:
        """Return the root of the line through the two points nearest to it, or through one point with slope 1.

        Two points between which the cost seems to fall show only noise, and are skipped.
        """
        if not self._points:  # without a cost in this quantity nothing is limited; else only the least can fit
            return math.inf if self._is_nothing else -math.inf
        (x, margin), *others = sorted(self._points, key=lambda point: abs(point[1]))
        slopes = [(other - margin) / (at - x) for at, other in others if at != x]
        if not slopes:
            return x - margin
        rising = [slope for slope in slopes if slope > 0]
        if not rising:  # flat: the parameter changes nothing here, so try the end
            return -math.inf if margin > 0 else math.inf
        return x - margin / rising[0]

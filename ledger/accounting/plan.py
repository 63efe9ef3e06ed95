"""The inverse of `costs.cost`: what of a mechanism would fit in what is left.

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
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from ledger.accounting.amounts import ATTO, PICO
from ledger.accounting.costs import Cost, cost
from ledger.accounting.mechanisms import AnyMechanism, Composed, DpSgd
from ledger.accounting.numbers import COUNT_MAX, MODERATE
from ledger.core.amounts import ZERO, Amount
from ledger.core.datasets import Adjacency, Bound
from ledger.errors import InvalidRequest, TooLarge

SLACK: Final = 12
"""How many more costs than a bisection needs a search may take, in which it tries to do with far fewer."""

_STRIDE_MAX: Final = 64
"""How far a search goes in strides before it takes the line for wrong."""

_PER_DECADE: Final = 900_000
"""Decimals of six digits are numbered in order: number 0 is 1, and each power of ten holds 900,000 of them."""

_RESIZABLE: Final = ("noise_multiplier", "steps", "epochs", "count", "epsilon", "rho", "mu")
"""What a refusal names. `sample_rate` is not among them: a smaller batch is another training, not less of this one."""

_SOLVABLE: Final = (*_RESIZABLE, "sample_rate")


@dataclass(frozen=True, slots=True)
class Solution:
    """The value of a parameter that uses up what is left, and what that would be charged.

    solve_for: the parameter, as the mechanism names it. amount: of all runs together, where it is `runs`.
    """

    solve_for: str
    value: int | Decimal
    amount: Amount


def _never() -> bool:
    return False


def fits(
    mechanism: AnyMechanism,
    *,
    bound: Bound,
    adjacency: Adjacency,
    remaining: Amount,
    delta: Fraction | Decimal = Fraction(0),
    segments: int = 1,
    is_late: Callable[[], bool] = _never,
) -> dict[str, int | Decimal]:
    """For each parameter that alone could make the run fit in `remaining`, the value that is nearest to what was asked.

    Counts are integers; other parameters have six significant digits, rounded to the side that fits. A parameter for
    which no value fits is left out, and so is one that the request does not have, and one that was not found when
    `is_late`, which is asked before each cost, says so. delta, segments: the run's, as `cost` has them; what is named
    has as many segments.
    """
    found = nearest(
        mechanism,
        bound=bound,
        adjacency=adjacency,
        remaining=remaining,
        delta=delta,
        segments=segments,
        is_late=is_late,
    )
    return {field: solution.value for field, solution in found.items()}


def nearest(
    mechanism: AnyMechanism,
    *,
    bound: Bound,
    adjacency: Adjacency,
    remaining: Amount,
    delta: Fraction | Decimal = Fraction(0),
    segments: int = 1,
    is_late: Callable[[], bool] = _never,
) -> dict[str, Solution]:
    """What `fits` names, with what each would be charged."""
    if isinstance(mechanism, Composed):
        return {}
    search = _Search(mechanism, _Terms(bound, adjacency, delta, segments), remaining=remaining, is_late=is_late)
    found: dict[str, Solution] = {}
    for field in (field for field in _RESIZABLE if field in mechanism.model_dump(exclude_none=True)):
        try:
            solution = search.solve(field, is_upwards=False)
        except _LateError:
            break
        if solution is not None:
            found[field] = solution
    return found


def solve(
    mechanism: AnyMechanism,
    *,
    solve_for: str,
    bound: Bound,
    adjacency: Adjacency,
    remaining: Amount,
    delta: Fraction | Decimal = Fraction(0),
    segments: int = 1,
    is_late: Callable[[], bool] = _never,
) -> Solution | None:
    """The least `noise_multiplier`, or the most of another parameter, that fits: less or more than was asked.

    solve_for: as `parameter` takes it. None where no value fits. delta, segments, is_late: as for `fits`; each run has
    its delta.
    Raises InvalidRequest where the mechanism has no such parameter, TooLarge where time was up, and for `runs` what
    `cost` raises.
    """
    field = parameter(mechanism, solve_for)
    if field == "runs":
        return _runs(_Terms(bound, adjacency, delta, segments).cost(mechanism).amount, remaining)
    search = _Search(mechanism, _Terms(bound, adjacency, delta, segments), remaining=remaining, is_late=is_late)
    try:
        return search.solve(field, is_upwards=True)
    except _LateError:
        raise TooLarge(
            f"solve_for: solving for {field} takes longer than the ledger allows; ask about a smaller mechanism",
            field="solve_for",
            solve_for=field,
        ) from None


def parameter(mechanism: AnyMechanism, solve_for: str) -> str:
    """What `solve_for` means for a mechanism: one of its parameters, or `runs`, how many of exactly it in a row.

    `steps` of a mechanism that said epochs are its epochs. Raises InvalidRequest where it has no such parameter.
    """
    asked = mechanism.model_dump(exclude_none=True)
    field = "epochs" if solve_for == "steps" and "epochs" in asked else solve_for
    if field != "runs" and (field not in asked or field not in _SOLVABLE):
        raise InvalidRequest(
            f"solve_for: a mechanism that is declared so has no {field} to solve for", field="solve_for"
        )
    return field


def _runs(once: Amount, remaining: Amount) -> Solution | None:
    if once.exceeds(remaining):
        return None
    pairs = ((remaining.mu_sq_pico, once.mu_sq_pico), (remaining.delta_atto, once.delta_atto))
    count = min(COUNT_MAX, *(left // each for left, each in pairs if each))
    return Solution("runs", count, Amount(once.mu_sq_pico * count, once.delta_atto * count))


# --- the search ------------------------------------------------------------------------------------------------------


class _LateError(Exception):
    """Time was up before the search ended."""


@dataclass(frozen=True, slots=True)
class _Terms:
    """What each cost is asked under."""

    bound: Bound
    adjacency: Adjacency
    delta: Fraction | Decimal
    segments: int

    def cost(self, mechanism: AnyMechanism) -> Cost:
        return cost(mechanism, bound=self.bound, adjacency=self.adjacency, delta=self.delta, segments=self.segments)


class _Search:
    """Looks for the last value of a parameter that fits. What was asked for is costed once, for all of them."""

    def __init__(
        self,
        mechanism: AnyMechanism,
        terms: _Terms,
        *,
        remaining: Amount,
        is_late: Callable[[], bool],
    ) -> None:
        self._mechanism, self._terms, self._remaining, self._is_late = mechanism, terms, remaining, is_late
        self._declared = mechanism.model_dump(exclude_none=True)
        self._asked: tuple[Cost | None] | None = None

    def solve(self, field: str, *, is_upwards: bool) -> Solution | None:
        """The last value that fits: of all that may be declared, or of those that cost no more than what was asked."""
        if ZERO.exceeds(self._remaining):
            return None
        asked = self._declared[field]
        axis = _axis(self._mechanism, field, segments=self._terms.segments)
        if self._asked is None:
            self._asked = (self._cost(field, asked),)
        (found,) = self._asked
        bracket = _Bracket(axis)
        number = axis.number_of(asked)
        bracket.learn(number if axis.value_of(number) == asked else None, asked, self._margins(found))
        if not is_upwards:
            bracket.above = min(bracket.above, number + 1)
        while (tried := bracket.next()) is not None:
            value = axis.value_of(tried)
            charged = self._cost(field, value)
            bracket.learn(tried, value, self._margins(charged))
            found = charged if bracket.below == tried else found
        if bracket.below < axis.low or found is None:
            return None
        return Solution(field, axis.value_of(bracket.below), found.amount)

    def _cost(self, field: str, value: int | Decimal) -> Cost | None:
        """What would be charged; None where there is no such mechanism, or its cost cannot be had."""
        if self._is_late():
            raise _LateError
        try:
            resized = type(self._mechanism)(**{**self._declared, field: value})
            return self._terms.cost(resized)
        except (InvalidRequest, TooLarge, ValueError):
            return None

    def _margins(self, found: Cost | None) -> _Margins:
        if found is None:
            return _Margins(False, math.inf, math.inf)
        return _Margins(
            not found.amount.exceeds(self._remaining),
            _log_ratio(found.mu_sq * PICO, self._remaining.mu_sq_pico),
            _log_ratio(found.nats * ATTO, self._remaining.delta_atto),
        )


@dataclass(frozen=True, slots=True)
class _Margins:
    """Whether a cost fits, as an approval would decide it, and the logarithms of its shares of what is left."""

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

    def __init__(self, axis: _Axis) -> None:
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
        slopes = [(other - margin) / (place - x) for place, other in others if place != x]
        if not slopes:
            return x - margin
        rising = [slope for slope in slopes if slope > 0]
        if not rising:  # flat: the parameter changes nothing here, so look at the end
            return -math.inf if margin > 0 else math.inf
        return x - margin / rising[0]


# --- the values that may be named ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Axis:
    """The values of one parameter, in order of what they cost.

    low, high: the numbers of the first and the last. value_of, number_of: from a number to its value and back, to the
    last one that costs no more. coordinate: in which the logarithm of the cost is nearly a line of slope 1.
    """

    low: int
    high: int
    value_of: Callable[[int], int | Decimal]
    number_of: Callable[[Any], int]
    coordinate: Callable[[float], float]
    inverse: Callable[[float], float]

    @property
    def first(self) -> float:
        """The coordinate of the value that costs least."""
        return self.coordinate(float(self.value_of(self.low)))

    @property
    def last(self) -> float:
        """The coordinate of the value that costs most."""
        return self.coordinate(float(self.value_of(self.high)))

    def floor(self, x: float) -> int:
        """The last number whose coordinate is at most `x`, give or take one; within the ends."""
        if x <= self.first:
            return self.low
        if x >= self.last:
            return self.high
        return max(self.low, min(self.high, self.number_of(self.inverse(x))))


def _axis(mechanism: AnyMechanism, field: str, *, segments: int) -> _Axis:
    match field:
        case "steps" | "count":
            return _Axis(segments, COUNT_MAX, int, math.floor, *_power(1))
        case "noise_multiplier":
            is_subsampled = isinstance(mechanism, DpSgd) and mechanism.sampling != "shuffle"
            line = (_line_of_noise, _noise_of_line) if is_subsampled else _power(-2)
            least, most = _number(MODERATE[0]), _number(MODERATE[1])
            return _Axis(-most, -least, lambda number: _decimal(-number), _falling, *line)
        case "epochs" if isinstance(mechanism, DpSgd):
            return _Axis(_least_epochs(mechanism, steps=segments), _number(MODERATE[1]), _decimal, _rising, *_power(1))
        case "sample_rate":
            return _Axis(_number(MODERATE[0]), _number(Decimal(1)), _decimal, _rising, *_power(2))
        case _:
            power = 1 if field == "rho" else 2
            return _Axis(_number(MODERATE[0]), _number(MODERATE[1]), _decimal, _rising, *_power(power))


def _power(exponent: int) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """The coordinate of a cost that grows with this power of the parameter."""
    return lambda value: exponent * math.log(value), lambda x: math.exp(x / exponent)


def _line_of_noise(s: float) -> float:
    """log(e^(1/s²) - 1): mu² of subsampled DP-SGD grows about as its exponential does (Bu et al. 2020, Cor. 2).

    Below a noise multiplier of 0.2, where no amplification is left, it goes on as log(1/s²).
    """
    square = s**-2
    if square > _SQUARE_MAX:
        return _LINE_MAX + math.log(square / _SQUARE_MAX)
    return math.log(math.expm1(square))


def _noise_of_line(x: float) -> float:
    if x > _LINE_MAX:
        return 1 / math.sqrt(_SQUARE_MAX * math.exp(x - _LINE_MAX))
    return 1 / math.sqrt(math.log1p(math.exp(x)))


_SQUARE_MAX: Final = 25.0
_LINE_MAX: Final = math.log(math.expm1(_SQUARE_MAX))


def _rising(value: Decimal | float) -> int:
    return _number(Decimal(value))


def _falling(value: Decimal | float) -> int:
    number = _number(Decimal(value))
    return -number if _decimal(number) == value else -number - 1


def _least_epochs(mechanism: DpSgd, *, steps: int) -> int:
    """The number of the least epochs that are so many steps."""
    least = steps * mechanism.rate
    number = _number(Decimal(least.numerator) / least.denominator)
    return number if Fraction(_decimal(number)) >= least else number + 1


def _decimal(number: int) -> Decimal:
    """The decimal of six digits with this number."""
    decade, place = divmod(number, _PER_DECADE)
    return (Decimal(place + 100_000) * Decimal(10) ** (decade - 5)).normalize()


def _number(value: Decimal) -> int:
    """The number of the largest decimal of six digits that is at most `value`."""
    # By its digits: arithmetic on decimals would round one of more than 28 digits, and could round it up.
    leading = "".join(map(str, value.as_tuple().digits[:6]))
    return value.adjusted() * _PER_DECADE + int(leading.ljust(6, "0")) - 100_000

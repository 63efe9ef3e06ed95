"""A proved mu for a share of delta: one composition serves every share.

A curve is composed for the least share of its rung, so that every later share on that rung uses the same curve.
`keeping` sets where curves are kept between two requests. The cost of a share does not depend on whether its curve was
kept. A single step needs no composition: its grid is refined for its share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from fractions import Fraction
from typing import Final, Protocol

from ledger.accounting import certify, deadline
from ledger.accounting.certify import DELTA_MIN, Curve, Steps, at_most
from ledger.accounting.gdp import UNIT_ROUNDOFF
from ledger.errors import TooLarge

GROUPS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
"""The numbers of equal groups to try if one certificate for all steps does not resolve."""
RUNGS: Final = (*(at_most(Fraction(1, 10**power)) for power in (15, 30, 60)), DELTA_MIN)
"""The smallest shares of delta that curves are composed for."""
_RARE: Final = 2.0**-6
"""The part of delta that events may take that are too rare to be resolved."""
_KEPT_WITHOUT_RARE: Final = 4
POINTS_MAX: Final = 50_000_000
"""The most points that may be transformed for one certificate, as predicted: ten million take 2.5 seconds."""

Key = tuple[tuple[Steps, ...], float]


class Certificate:
    """A mu for each of several deltas: of all steps together or, if that does not resolve, of equal groups of them.

    Groups compose, each with its part of delta: k times -log(1 - delta/k) is at most -log(1 - delta).
    """

    def __init__(self, steps: Sequence[Steps], *, delta_min: float, points_max: float = math.inf) -> None:
        """Prepare without composing yet.

        delta_min: the least delta of any later call of `mu`, above 0. points_max: as `POINTS_MAX`, for all groups.
        """
        self._steps, self._delta_min = steps, delta_min
        self._points_left = points_max
        self._points_max = points_max
        self._curves: dict[int, Curve] = {}
        self._without_rare: dict[tuple[int, float], Curve] = {}

    @property
    def size(self) -> int:
        """Return the size of its curves in bytes."""
        return sum(curve.size for curve in (*self._curves.values(), *self._without_rare.values()))

    def mu(self, delta: float) -> tuple[float, int]:
        """Return an upper bound of the least mu at a delta, and the number of groups; infinity if none resolves.

        Raises TooLarge if that needs too many points.
        """
        most = max(part.count for part in self._steps)
        for count in GROUPS:
            deadline.check()
            if count > most:
                break
            share = at_most(Fraction(delta) / count)
            if share < DELTA_MIN:
                break
            mu = self._resolved(count, share).mu(share)
            if math.isfinite(mu):
                return (mu, 1) if count == 1 else (mu * math.sqrt(count) * (1 + 4 * UNIT_ROUNDOFF), count)
        return math.inf, 1

    def whole(self, delta: float) -> Curve:
        """Return the trade-off function of all steps together, for a delta. Raises TooLarge if that needs too many
        points."""
        return self._resolved(1, delta)

    def _resolved(self, count: int, delta: float) -> Curve:
        """Return the curve of a group; if it does not resolve at a delta, the one at which rare events count as lost.

        That takes a part of this delta.
        """
        curve = self._curve(count)
        if math.isfinite(curve.mu(delta)):
            return curve
        common = certify.without_rare(self._group(count), delta * _RARE)
        if common is None:
            return curve
        key = count, delta
        if key not in self._without_rare:
            found = certify.curve(common, delta_min=delta, spend=self._spend)
            while len(self._without_rare) >= _KEPT_WITHOUT_RARE:
                self._without_rare.pop(next(iter(self._without_rare)))
            self._without_rare[key] = found
        return self._without_rare[key]

    def _group(self, count: int) -> list[Steps]:
        return [Steps(part.pair, -(-part.count // count)) for part in self._steps]

    def _curve(self, count: int) -> Curve:
        if count not in self._curves:
            group = self._group(count)
            delta_min = max(at_most(Fraction(self._delta_min) / count), DELTA_MIN)
            self._curves[count] = certify.curve(group, delta_min=delta_min, spend=self._spend)
        return self._curves[count]

    def _spend(self, points: int) -> None:
        self._points_left -= points
        if self._points_left < 0:
            predicted = int(self._points_max - self._points_left)
            raise TooLarge(
                f"mechanism: its certificate is predicted to transform {predicted} points, and the ledger transforms at"
                f" most {self._points_max:.0f} for one; declare fewer different parts in one run",
                field="mechanism",
                predicted=predicted,
                limit=int(self._points_max),
            )


class Keeper(Protocol):
    """Where certificates are kept between two requests."""

    def get(self, key: Key) -> Certificate | None:
        """Return the certificate that is kept under this key, or None."""

    def put(self, key: Key, certificate: Certificate) -> None:
        """Keep a certificate, as long as there is room."""


_keeper: ContextVar[Keeper | None] = ContextVar("keeper", default=None)


@contextmanager
def keeping(keeper: Keeper) -> Iterator[None]:
    """Reuse kept curves within this context, and keep new ones."""
    token = _keeper.set(keeper)
    try:
        yield
    finally:
        _keeper.reset(token)


class _Here:
    """Keeps everything, for one computation."""

    def __init__(self) -> None:
        self._kept: dict[Key, Certificate] = {}

    def get(self, key: Key) -> Certificate | None:
        return self._kept.get(key)

    def put(self, key: Key, certificate: Certificate) -> None:
        self._kept[key] = certificate


@contextmanager
def keeping_here() -> Iterator[None]:
    """Within this context, compose each curve once: as `keeping` says, or for as long as the context lasts."""
    if _keeper.get() is not None:
        yield
        return
    with keeping(_Here()):
        yield


def certified(steps: Sequence[Steps], deltas: Sequence[float], *, is_alone: bool = False) -> list[tuple[float, int]]:
    """Return a mu at each of these deltas, and the number of groups, as `Certificate.mu` does.

    is_alone: compose for each delta separately, as accountants before gdp-4 did.
    """
    if is_alone or sum(part.count for part in steps) == 1:
        return [Certificate(steps, delta_min=delta).mu(delta) for delta in deltas]
    by_rung = {rung: _of_rung(steps, rung) for rung in sorted({_rung(delta) for delta in deltas})}
    found = [by_rung[_rung(delta)].mu(delta) for delta in deltas]
    keeper = _keeper.get()
    if keeper is not None:
        for rung, certificate in by_rung.items():
            keeper.put((tuple(steps), rung), certificate)
    return found


def whole(steps: Sequence[Steps], delta: float) -> Curve:
    """Return the trade-off function of all steps together, for this delta and others above it."""
    if sum(part.count for part in steps) == 1:
        return Certificate(steps, delta_min=delta).whole(delta)
    rung = _rung(delta)
    certificate, keeper = _of_rung(steps, rung), _keeper.get()
    curve = certificate.whole(delta)
    if keeper is not None:
        keeper.put((tuple(steps), rung), certificate)
    return curve


def _rung(delta: float) -> float:
    return next(rung for rung in RUNGS if rung <= delta)


def _of_rung(steps: Sequence[Steps], rung: float) -> Certificate:
    keeper = _keeper.get()
    kept = None if keeper is None else keeper.get((tuple(steps), rung))
    return kept or Certificate(steps, delta_min=rung, points_max=POINTS_MAX)

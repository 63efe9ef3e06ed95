"""Residual costs: what a run costs beside what is left of a budget when it is approved.

    levels(limit)                            the 16 levels r of a limit: `GRID`, in units of 1e-12 of mu², rounded up
    residual_costs(mechanism, terms, at)     c at each of these levels, in the same unit, rounded up
    shares(limit_delta)                      the shares of delta that are offered, by their k: limit delta x 10^-k
    cheapest_share(charges, left)            the k whose charge is the least part of what is left
    choose_share(mechanism, terms, at, left, limit_delta)    the same k, by a few costs at single levels

For a run with dominating pair (P, Q) and share of delta d, c(r) is the least c, or a little more, with

    T(P x N(0,1), Q x N(sqrt r, 1)) >= f_{0,d} (x) G_sqrt(r+c)      in both orders of the pair.

c(0) is at most the run's certificate, as `costs.cost` gives it. c falls as r rises, and is at least one unit. With
segments it is the table of one of them, with its part of delta. The delta that a run is charged is that of
`costs.cost` at any r.

*What a table is made of.* A run's parts are composed one after another, each at the level that the ones before it have
reached: if T1 (x) G_sqrt(r) >= f_{0,d} (x) G_sqrt(r+c1) and T2 (x) G_sqrt(r+c1) >= G_sqrt(r+c1+c2), then c1 + c2 is
valid at r for both. Gaussian parts and bounds in mu cost the same at every level; subsampled steps have the curve of
their certificate; repeated releases of one kind are climbed release by release, by a table of one release. Where only
mu is known (zCDP, stated costs, fallbacks, `clt`), mu² is c at every r: G_mu (x) G_sqrt(r) = G_sqrt(r + mu²).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from ledger.accounting import amounts, certificate, certify, costs, deadline, profiles, smoothing
from ledger.accounting.amounts import PICO
from ledger.accounting.cost import Cost
from ledger.accounting.mechanisms import AnyMechanism, segment
from ledger.accounting.pairs import Parts, Source
from ledger.accounting.pld import Pair
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.residual import LEVELS, PARTS

GRID: Final = tuple(Fraction(part, PARTS) for part in LEVELS)
"""The levels, as parts of the limit."""
SHARE_POWERS: Final = (1, 2, 3, 4, 5, 6, 7, 8)
"""A run's share of delta is a limit's times 10^-k for one of these k."""

_RUNGS_OF_RELEASES: Final = 24
_SOURCE_CELLS: Final = 64
_UP: Final = 1 + 2.0**-40


def levels(limit_mu_sq_pico: int) -> tuple[int, ...]:
    """Return the levels r of a limit, one for each part of `GRID`, rising from 0."""
    return tuple(math.ceil(part * limit_mu_sq_pico) for part in GRID)


def residual_costs(mechanism: AnyMechanism, terms: Terms, at: Sequence[int]) -> tuple[int, ...]:
    """Return c at each of these levels, which rise from 0, all in units of 1e-12 of mu².

    terms: as of `costs.cost`; with segments, c is that of one of them. Raises as `costs.cost` does.
    """
    with certificate.keeping_here():
        one = segment(mechanism, terms.segments) if terms.segments > 1 else mechanism
        once = replace(terms, delta=Fraction(terms.delta) / terms.segments, segments=1)
        cost = costs.cost(one, once)
        standalone = max(cost.amount.mu_sq_pico, 1)
        climbed = _climbed(one, once, cost, at)
    table = []
    for c in climbed:
        standalone = min(standalone, max(math.ceil(Fraction(c) * PICO), 1))
        table.append(standalone)
    return tuple(table)


def shares(limit_delta: Fraction) -> dict[int, Fraction]:
    """Return the shares of a limit's delta that are offered, by k; those that are too small for a certificate not."""
    offered = {k: limit_delta / 10**k for k in SHARE_POWERS}
    return {k: share for k, share in offered.items() if share >= certify.DELTA_MIN}


def cheapest_share(charges: Mapping[int, Amount], left: Amount) -> int | None:
    """Return the k whose charge, at the level that fits, has the least larger part of what is left; None if none fits.

    charges: what the run would be charged by k. Of equal ones the smallest share of delta is taken.
    """
    parts = {k: _part_of(charge, left) for k, charge in charges.items()}
    fitting = {k: part for k, part in parts.items() if part <= 1}
    return min(fitting, key=lambda k: (fitting[k], -k)) if fitting else None


def choose_share(
    mechanism: AnyMechanism, terms: Terms, at: Sequence[int], left: Amount, limit_delta: Fraction
) -> int | None:
    """Return the k whose charge, at the largest of these levels that fits, is the least part of what is left; None if
    none fits.

    terms: without a delta. A smaller share costs more mu², so that k is between the last one at which delta is the
    larger part and the first one at which mu² is: these are found by bisection. A single level costs a few
    milliseconds, and all shares have one composition. Raises as `costs.cost` does.
    """
    offered = shares(limit_delta)
    kept: dict[int, Amount | None] = {}

    def is_mu_larger(k: int) -> bool:
        kept[k] = charge = _charge(mechanism, replace(terms, delta=offered[k]), at, left)
        # What does not fit in mu² needs more delta.
        return charge is None or charge.mu_sq_pico * left.delta_atto >= charge.delta_atto * left.mu_sq_pico

    powers = sorted(offered)
    with certificate.keeping_here():
        bisect_left(powers, 1, key=lambda k: int(is_mu_larger(k)))
    return cheapest_share({k: charge for k, charge in kept.items() if charge is not None}, left)


def _charge(mechanism: AnyMechanism, terms: Terms, at: Sequence[int], left: Amount) -> Amount | None:
    """Return what the run is charged at the largest level that fits in the mu² left, with its segments; None if none
    fits."""
    for level in reversed(at):
        if level >= left.mu_sq_pico > 0:
            continue
        (c,) = residual_costs(mechanism, terms, (level,))
        if level + terms.segments * c <= left.mu_sq_pico:
            return Amount(terms.segments * c, costs.cost(mechanism, terms).amount.delta_atto)
    return None


def _part_of(charge: Amount, left: Amount) -> Fraction:
    """Return the larger part of mu² and of delta; 2 if nothing is left of a requested quantity."""
    pairs = ((charge.mu_sq_pico, left.mu_sq_pico), (charge.delta_atto, left.delta_atto))
    return max(Fraction(asked, has) if has > 0 else Fraction(2 * (asked > 0)) for asked, has in pairs)


# --- tables ----------------------------------------------------------------------------------------------------------


def _climbed(mechanism: AnyMechanism, terms: Terms, cost: Cost, at: Sequence[int]) -> list[float | Fraction]:
    """Return c at each level, by composing the mechanism's parts."""
    standalone = [cost.mu_sq for _ in at]
    if terms.bound != "certified":
        return list(standalone)
    parts = mechanism.exact_parts(terms)
    sampled = {source: count for source, count in parts.sources.items() if isinstance(source, Pair)}
    others = Counter({source: count for source, count in parts.sources.items() if source not in sampled})
    curve = _Steps.of(sampled, terms, cost, parts) if sampled else None
    if (sampled and curve is None) or not parts.sources:
        return list(standalone)
    # A level is read as a double that is not above it: c stays valid at every higher one.
    reached = [certify.at_most(Fraction(level, PICO) + parts.mu_sq) for level in at]
    bases = [Fraction(level, PICO) for level in at]
    totals = [parts.mu_sq for _ in at]
    if curve is not None:
        found = curve.costs(reached)
        totals = [total + Fraction(c) for total, c in zip(totals, found, strict=True)]
    for source, count in others.items():
        deadline.check()
        reached = [certify.at_most(base + total) for base, total in zip(bases, totals, strict=True)]
        found = _Releases.of(source, reached, count).costs(reached, count)
        totals = [total + Fraction(c) for total, c in zip(totals, found, strict=True)]
    return list(totals)


@dataclass(frozen=True, slots=True)
class _Steps:
    """Subsampled steps together, at a share of delta."""

    excess: smoothing.Smoothed
    mu_sq: float
    delta: float

    @classmethod
    def of(cls, sampled: Mapping[Pair, int], terms: Terms, cost: Cost, parts: Parts) -> _Steps | None:
        """Return them; None if what the run is charged is no certificate of all of them at once."""
        share = certify.at_most(Fraction(terms.delta))
        if share < certify.DELTA_MIN or cost.nats - parts.nats < amounts.nats(Fraction(terms.delta), towards="up"):
            return None
        curve = certificate.whole([certify.Steps(pair, count) for pair, count in sampled.items()], share)
        mu = curve.mu(share)
        excess = smoothing.smoothed(curve.profiles, share) if math.isfinite(mu) else None
        return None if excess is None else cls(excess, mu * mu * _UP, share)

    def costs(self, at: Sequence[float]) -> list[float]:
        """Return c at each level, rising."""
        return smoothing.least_costs(self.excess, at, delta=self.delta, standalone=self.mu_sq)


@dataclass(frozen=True, slots=True)
class _Releases:
    """One release of a kind, by its cost at rising levels, the first of which is 0."""

    levels: list[float]
    found: list[float]

    @classmethod
    def of(cls, source: Source, at: Sequence[float], count: int) -> _Releases:
        """Return its table, with levels where releases one after another are going to be."""
        alone = source.mu**2 * _UP
        if alone > smoothing.MU_SQ_MAX:
            return cls([0.0], [alone])
        variance, extent = source.spread(0.0)
        losses = source.on_grid(max(extent / 2, math.sqrt(variance)) / _SOURCE_CELLS, 0.0)
        profile = profiles.profile_of_losses(losses)
        excess = smoothing.smoothed((profile,), 0.0)
        top = at[-1] + min(count, 10**6) * alone
        spread = [alone / 8 * (8 * top / alone) ** (k / _RUNGS_OF_RELEASES) for k in range(_RUNGS_OF_RELEASES + 1)]
        rungs = sorted({0.0, *at, *(spread if count > 1 else ())})
        if excess is None:
            return cls([0.0], [alone])
        return cls(rungs, smoothing.least_costs(excess, rungs, delta=0.0, standalone=alone))

    def costs(self, at: Sequence[float], count: int) -> list[float]:
        """Return c of this many releases at each of these levels: each adds its cost at the level that it finds."""
        return [self._sum(level, count) for level in at]

    def _sum(self, start: float, count: int) -> float:
        # Kept apart from the level, beside which a small sum would be lost.
        total, left = 0.0, count
        while left:
            floor = (start + total) * (1 - 2.0**-40) if total else start
            place = bisect_right(self.levels, floor) - 1
            c = self.found[place]
            # A little beyond the next level, so that rounding leaves no doubt that it is reached.
            beyond = self.levels[place + 1] * (1 + 2.0**-38) if place + 1 < len(self.levels) else math.inf
            climbs = left
            if c > 0 and math.isfinite(beyond):
                climbs = min(left, max(math.ceil((beyond - start - total) / c), 1))
            total, left = total + climbs * c, left - climbs
        return total * _UP

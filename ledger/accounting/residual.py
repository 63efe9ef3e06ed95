"""Residual costs: what a run costs beside what is left of a budget when it is approved.

    residual_costs(mechanism, terms, at)     c at each of these levels r, in units of 1e-12 of mu², rounded up

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
from bisect import bisect_right
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

_RUNGS_OF_RELEASES: Final = 24
_SOURCE_CELLS: Final = 64
_UP: Final = 1 + 2.0**-40


def residual_costs(
    mechanism: AnyMechanism, terms: Terms, at: Sequence[int], *, cost: Cost | None = None
) -> tuple[int, ...]:
    """Return c at each of these levels, which rise from 0, all in units of 1e-12 of mu².

    terms: as of `costs.cost`; with segments, c is that of one of them. cost: what `costs.cost` returns for it, if that
    is known. Raises as `costs.cost` does.
    """
    with certificate.keeping_here():
        one = segment(mechanism, terms.segments) if terms.segments > 1 else mechanism
        once = replace(terms, delta=Fraction(terms.delta) / terms.segments, segments=1)
        cost = costs.cost(one, once) if cost is None else cost
        standalone = max(cost.amount.mu_sq_pico, 1)
        climbed = _climbed(one, once, cost, at)
    table = []
    for c in climbed:
        standalone = min(standalone, max(math.ceil(Fraction(c) * PICO), 1))
        table.append(standalone)
    return tuple(table)


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

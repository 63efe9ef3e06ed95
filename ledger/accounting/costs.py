"""Compute the `Cost` of a declared mechanism.

`Terms.bound` chooses between a guarantee (`certified`) and the central-limit estimate of DP-SGD (`clt`). Each
mechanism's own cost is in its module. Segments are added here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Final

from ledger.accounting.cost import Cost, root
from ledger.accounting.mechanisms import AnyMechanism, segment
from ledger.accounting.terms import Terms
from ledger.core.datasets import Adjacency, Bound
from ledger.errors import InvalidMechanism

_RESTARTED: Final = (
    "each segment restarts with fresh randomness, noise and sampling alike, and shares none with another"
)
_FRONTIER: Final = tuple(Fraction(1, 10**exponent) for exponent in range(4, 16))


def needs_certificate(mechanism: AnyMechanism, *, bound: Bound) -> bool:
    """Return whether its cost is a certificate: slow to compute, and usually dependent on the run's share of delta."""
    return mechanism.needs_certificate(bound)


def weight(mechanism: AnyMechanism, *, bound: Bound) -> int:
    """Return how much work its cost is, predicted from the declaration, in closed forms of one release.

    A certificate weighs as one of a usual training; its real work is bounded by `certificate.POINTS_MAX`.
    """
    return mechanism.weight(bound)


def cost(mechanism: AnyMechanism, terms: Terms) -> Cost:
    """Return the cost of a mechanism under a dataset's bound and adjacency.

    Raises InvalidMechanism if no cost is known, or if it is larger than any double, and InvalidRequest
    if the mechanism cannot be divided into this many segments.
    """
    if terms.segments == 1:
        return mechanism.cost(terms, path="mechanism")
    one = segment(mechanism, terms.segments)
    # -log(1 - x) is convex and 0 at 0, so that k times -log(1 - delta/k) is at most -log(1 - delta).
    once = replace(terms, delta=Fraction(terms.delta) / terms.segments, segments=1)
    return _restarted(one.cost(once, path="mechanism"), terms.segments)


def _restarted(one: Cost, count: int) -> Cost:
    """Return the cost of `count` segments with fresh randomness: mu² and nats add up (Dong, Roth & Su 2022)."""
    mu_sq = count * one.mu_sq
    mu = root(mu_sq)
    if not math.isfinite(mu):
        raise InvalidMechanism(
            "mechanism: the cost of its segments together is too large to be represented; use more noise",
            field="mechanism",
        )
    return Cost(mu, mu_sq, count * one.nats, one.method, (*one.assumptions, _RESTARTED))


def frontier(
    mechanism: AnyMechanism, *, bound: Bound, adjacency: Adjacency, also: Sequence[Fraction] = ()
) -> list[tuple[float, float]]:
    """Return (delta, mu) for the shares of delta from 1e-4 down to 1e-15; empty if its cost is no certificate.

    also: more shares, whose points follow. Raises as `cost` does.
    """
    if bound != "certified" or not mechanism.needs_certificate(bound):
        return []
    return mechanism.frontier(Terms(bound=bound, adjacency=adjacency), (*_FRONTIER, *also))

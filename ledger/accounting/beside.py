"""A run's table: what it costs beside each level of a base, for the decision, at one share of delta or at several. A
process that computes imports this module."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from ledger.accounting import certificate, costs, residual
from ledger.accounting.cost import Cost
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.terms import Terms
from ledger.core.residual import Residual, levels


def table(mechanism: AnyMechanism, terms: Terms, base: int, cost: Cost, *, left: int | None = None) -> Residual:
    """Return the costs of a run, of all its segments together, in units of 1e-12 of mu².

    base: the least limit, in the same units. cost: the run's by itself, which is the first of them. left: what is left,
    if the levels that do not fit in it, whatever the run costs, are to be left out. Raises what `costs.cost` raises.
    """
    alone, grid = max(cost.amount.mu_sq_pico, 1), levels(base)
    if left is not None:
        reserve = Residual(base, ()).reserve
        grid = (grid[0], *(level for level in grid[1:] if level + reserve < left))
    at = residual.residual_costs(mechanism, terms, grid, cost=cost if terms.segments == 1 else None)
    return Residual(base, (alone, *(min(alone, terms.segments * c) for c in at[1:])))


class Offer(NamedTuple):
    """What a run costs at one share of delta: by itself, and beside what is left; None if that is the same."""

    delta: Decimal
    cost: Cost
    table: Residual | None


def offer(mechanism: AnyMechanism, terms: Terms, share: Decimal, base: int, *, left: int | None = None) -> Offer:
    """Return what a run costs at a share of delta. left: as for `table`. Raises what `costs.cost` raises."""
    terms = replace(terms, delta=share)
    with certificate.keeping_here():
        cost = costs.cost(mechanism, terms)
        priced = table(mechanism, terms, base, cost, left=left)
    return Offer(share, cost, priced if priced.costs[-1] < priced.costs[0] else None)

"""A run's table: what it costs beside each level of a base, for the decision."""

from __future__ import annotations

from ledger.accounting import residual
from ledger.accounting.cost import Cost
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.terms import Terms
from ledger.core.residual import Residual, levels


def table(mechanism: AnyMechanism, terms: Terms, base: int, cost: Cost) -> Residual:
    """Return the costs of a run, of all its segments together, in units of 1e-12 of mu².

    base: the least limit, in the same units. cost: the run's by itself, which is the first of them. Raises what
    `costs.cost` raises.
    """
    alone = max(cost.amount.mu_sq_pico, 1)
    at = residual.residual_costs(mechanism, terms, levels(base))
    return Residual(base, (alone, *(min(alone, terms.segments * c) for c in at[1:])))

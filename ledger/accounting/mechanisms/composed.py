"""Several mechanisms on the same data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Annotated, Final, Literal

from pydantic import Field

from ledger.accounting import pairs
from ledger.accounting.cost import Cost, Precision
from ledger.accounting.mechanisms.base import BaseMechanism
from ledger.accounting.mechanisms.dpsgd import DpSgd, along, certified
from ledger.accounting.mechanisms.registry import Simple
from ledger.accounting.pairs import Parts
from ledger.accounting.terms import Terms
from ledger.core.datasets import Bound
from ledger.errors import InvalidMechanism

PARTS_MAX: Final = 100
_METHOD: Final = "composed: "


class Composed(BaseMechanism):
    """Several mechanisms on the same data, all fixed at approval."""

    type: Literal["composed"]
    parts: Annotated[list[Simple], Field(min_length=1, max_length=PARTS_MAX)]

    def cost(self, terms: Terms, *, path: str) -> Cost:
        parts = [(f"{path}.parts.{index}", part) for index, part in enumerate(self.parts)]
        sampled = [(at, part) for at, part in parts if isinstance(part, DpSgd) and part.needs_certificate(terms.bound)]
        # Each has an equal share of delta; together these shares come to less than the whole.
        shared = replace(terms, delta=Fraction(terms.delta) / max(len(sampled), 1))
        # Equal parts have one certificate, which is dear.
        first = {part: at for at, part in reversed(parts)}
        each = {part: part.cost(shared, path=at) for part, at in first.items()}
        apart = _added([each[part] for _, part in parts])
        if len(sampled) < 2:
            return apart
        rest = [part.cost(shared, path=at) for at, part in parts if (at, part) not in sampled]
        together = _added([*rest, certified(sampled, terms)])
        return min(together, apart, key=lambda cost: (cost.mu_sq, cost.nats))

    def frontier(self, terms: Terms, deltas: Sequence[Fraction]) -> list[tuple[float, float]]:
        # What a cost is, from one composition of all sampled parts, and one of each, for all deltas.
        parts = [(f"mechanism.parts.{index}", part) for index, part in enumerate(self.parts)]
        sampled = [(at, part) for at, part in parts if isinstance(part, DpSgd) and part.needs_certificate(terms.bound)]
        if not sampled:
            return []
        rest = math.hypot(*(part.cost(terms, path=at).mu for at, part in parts if (at, part) not in sampled))
        shares = [delta / len(sampled) for delta in deltas]
        each = {part: part.frontier(terms, shares) for part in {part for _, part in sampled}}
        apart = [math.hypot(*(each[part][index][1] for _, part in sampled)) for index in range(len(deltas))]
        together = [mu for _, mu in along(sampled, terms, deltas)] if len(sampled) > 1 else apart
        least = [min(pair) for pair in zip(apart, together, strict=True)]
        return [(float(delta), math.hypot(mu, rest)) for delta, mu in zip(deltas, least, strict=True)]

    def needs_certificate(self, bound: Bound) -> bool:
        return any(part.needs_certificate(bound) for part in self.parts)

    def exact_parts(self, terms: Terms) -> Parts:
        return pairs.together(part.exact_parts(terms) for part in self.parts)

    def resting_on_size(self, path: str) -> list[str]:
        return [at for index, part in enumerate(self.parts) for at in part.resting_on_size(f"{path}.parts.{index}")]

    def precision(self, method: str) -> Precision:
        # Parts are named after their methods alone, so the loosest of them counts for all.
        names = method.removeprefix(_METHOD).split(", ")
        return max(
            (part.precision(name) for part in self.parts for name in names if name in part.methods),
            default=Precision.EXACT,
        )


def _added(costs: Sequence[Cost]) -> Cost:
    mu_sq = sum((cost.mu_sq for cost in costs), Fraction(0))
    mu = math.hypot(*(cost.mu for cost in costs))
    if not math.isfinite(mu):
        raise InvalidMechanism("mechanism.parts: their cost together is beyond any number", field="mechanism.parts")
    assumptions = tuple(dict.fromkeys(text for cost in costs for text in cost.assumptions))
    methods = ", ".join(dict.fromkeys(cost.method for cost in costs))
    return Cost(mu, mu_sq, sum((cost.nats for cost in costs), Fraction(0)), f"{_METHOD}{methods}", assumptions)

"""The terms of a cost: all that it depends on except the mechanism."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, cast

from ledger.core.datasets import Adjacency, Bound

_ALONE: Final = frozenset({"gdp-1", "gdp-2", "gdp-3"})
"""The accountants that composed again for every share of delta."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """All that a cost depends on except the mechanism.

    bound, adjacency: the dataset's. delta: the run's share of the delta budget, at least 0 and below 1; only a
    certificate uses it. segments: if more than 1, the cost is that of this number of runs of a part of the steps each,
    see `mechanisms.segment_steps`. is_composed_alone: every certificate has a composition of its own, as before
    accountant gdp-4; records of that time are recomputed in this way.
    """

    bound: Bound
    adjacency: Adjacency
    delta: Fraction | Decimal = Fraction(0)
    segments: int = 1
    is_composed_alone: bool = False

    @classmethod
    def of(cls, decision: Mapping[str, Any]) -> Terms:
        """Return the terms that an approval or a refusal records."""
        return cls(
            bound=cast("Bound", decision["bound"]),
            adjacency=cast("Adjacency", decision["adjacency"]),
            delta=Decimal(decision.get("delta", 0)),
            segments=int(decision["segments"]["count"]) if "segments" in decision else 1,
            is_composed_alone=decision.get("accountant") in _ALONE,
        )

    def facts(self) -> dict[str, Any]:
        """Return what distinguishes these terms from others, for `journal.canonical`; delta 1.10 equals 1.1."""
        delta = Fraction(self.delta)
        facts: dict[str, Any] = {
            "bound": self.bound,
            "adjacency": self.adjacency,
            "delta": f"{delta.numerator}/{delta.denominator}",
        }
        # Left out if there is one segment, because certificates kept before there were segments have no such key.
        if self.segments > 1:
            facts["segments"] = self.segments
        if self.is_composed_alone:
            facts["is_composed_alone"] = True
        return facts

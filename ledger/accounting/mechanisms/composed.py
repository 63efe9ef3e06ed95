"""Several mechanisms on the same data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from ledger.accounting import levels, pairs
from ledger.accounting.cost import Cost, Precision
from ledger.accounting.mechanisms.base import BaseMechanism, Drawn, StatedSize
from ledger.accounting.mechanisms.dpsgd import DpSgd, along, certified, is_whole
from ledger.accounting.mechanisms.registry import Simple, SimpleMechanism
from ledger.accounting.pairs import Parts
from ledger.accounting.terms import Terms
from ledger.core.datasets import Bound
from ledger.errors import InvalidMechanism

PARTS_MAX: Final = 1_000
OTHERS_MAX: Final = 100
"""The most parts that are not DP-SGD with plain batches: those are levels of a schedule, and cost little together."""
_METHOD: Final = "composed: "


class Composed(BaseMechanism):
    """Several mechanisms on the same data, all fixed at approval."""

    type: Literal["composed"]
    parts: Annotated[list[Simple], Field(min_length=1, max_length=PARTS_MAX)]

    @field_validator("parts")
    @classmethod
    def _bounded(cls, parts: list[Simple]) -> list[Simple]:
        others = sum(not (isinstance(part, DpSgd) and part.batches.are_estimated) for part in parts)
        if others > OTHERS_MAX:
            raise PydanticCustomError(
                "form",
                "has {others} parts other than dpsgd with plain batches, and at most {most} are allowed; give equal "
                "parts as one with more steps or a larger count, or request several runs",
                {"others": others, "most": OTHERS_MAX},
            )
        return parts

    def cost(self, terms: Terms, *, path: str) -> Cost:
        sampled, others = self._by_kind(terms, path)
        if not sampled:
            return _added(_each(others, terms))
        if len(sampled) == 1:
            return _added(_each(self._paths(path), terms))
        together = certified(sampled, terms)
        whole = _added([*_each(others, terms), together])
        # Certificates of single parts cost no less than one of all parts together; of many they take too long.
        if (is_whole(together) and not terms.is_composed_alone) or self._has_many(sampled):
            return whole
        # Each has an equal share of delta; the sum of their nats is below that of the whole.
        shared = replace(terms, delta=Fraction(terms.delta) / len(sampled))
        apart = _added(_each(self._paths(path), shared))
        return min(whole, apart, key=lambda cost: (cost.mu_sq, cost.nats))

    def frontier(self, terms: Terms, deltas: Sequence[Fraction]) -> list[tuple[float, float]]:
        sampled, others = self._by_kind(terms, "mechanism")
        if not sampled:
            return []
        rest = math.hypot(*(cost.mu for cost in _each(others, terms)))
        together = along(sampled, terms, deltas)
        least = [mu for mu, _ in together]
        if not all(whole for _, whole in together) and not self._has_many(sampled):
            shares = [delta / len(sampled) for delta in deltas]
            counts = Counter(part for _, part in sampled)
            each = {part: part.frontier(terms, shares) for part in counts}
            for index in range(len(deltas)):
                square = sum(count * each[part][index][1] ** 2 for part, count in counts.items())
                least[index] = min(least[index], math.sqrt(square))
        return [(float(delta), math.hypot(mu, rest)) for delta, mu in zip(deltas, least, strict=True)]

    @staticmethod
    def _has_many(sampled: Sequence[tuple[str, DpSgd]]) -> bool:
        return len({part for _, part in sampled}) > levels.APART_MAX

    def _paths(self, path: str) -> list[tuple[str, SimpleMechanism]]:
        return [(f"{path}.parts.{index}", part) for index, part in enumerate(self.parts)]

    def _by_kind(self, terms: Terms, path: str) -> tuple[list[tuple[str, DpSgd]], list[tuple[str, SimpleMechanism]]]:
        """Return the parts that are certified together, and the others, each with its path."""
        sampled: list[tuple[str, DpSgd]] = []
        others: list[tuple[str, SimpleMechanism]] = []
        for at, part in self._paths(path):
            runs = _certified_as(part, terms.bound, at)
            sampled += [(at, run) for run in runs]
            if not runs:
                others.append((at, part))
        return sampled, others

    def needs_certificate(self, bound: Bound) -> bool:
        return any(part.needs_certificate(bound) for part in self.parts)

    def weight(self, bound: Bound) -> int:
        return 1 + sum(part.weight(bound) for part in set(self.parts))

    @property
    def is_heavy_tailed(self) -> bool:
        return any(part.is_heavy_tailed for part in self.parts)

    def exact_parts(self, terms: Terms) -> Parts:
        parts = pairs.together(part.exact_parts(terms) for part in self.parts)
        return replace(parts, sources=levels.of_many(parts.sources))

    def resting_on_size(self, path: str) -> list[str]:
        return [at for index, part in enumerate(self.parts) for at in part.resting_on_size(f"{path}.parts.{index}")]

    @property
    def lacks_size(self) -> bool:
        return any(part.lacks_size for part in self.parts)

    def stated_sizes(self, path: str) -> list[StatedSize]:
        return [size for at, part in self._paths(path) for size in part.stated_sizes(at)]

    def drawn(self, path: str) -> list[Drawn]:
        return [drawn for at, part in self._paths(path) for drawn in part.drawn(at)]

    def precision(self, method: str) -> Precision:
        # Parts are named after their methods alone, so the loosest of them counts for all.
        names = method.removeprefix(_METHOD).split(", ")
        return max(
            (part.precision(name) for part in self.parts for name in names if name in part.methods),
            default=Precision.EXACT,
        )


def _certified_as(part: SimpleMechanism, bound: Bound, path: str) -> tuple[DpSgd, ...]:
    if isinstance(part, DpSgd):
        return (part,) if part.needs_certificate(bound) else ()
    return part.certified_as(bound, path)


def _each(parts: Sequence[tuple[str, SimpleMechanism]], terms: Terms) -> list[Cost]:
    """Return the cost of every part by itself; equal parts are computed once."""
    costs: dict[SimpleMechanism, Cost] = {}
    for at, part in parts:
        if part not in costs:
            costs[part] = part.cost(terms, path=at)
    return [costs[part] for _, part in parts]


def _added(costs: Sequence[Cost]) -> Cost:
    mu_sq = sum((cost.mu_sq for cost in costs), Fraction(0))
    mu = math.hypot(*(cost.mu for cost in costs))
    if not math.isfinite(mu):
        raise InvalidMechanism(
            "mechanism.parts: their cost together is too large to be represented; use more noise",
            field="mechanism.parts",
        )
    assumptions = tuple(dict.fromkeys(text for cost in costs for text in cost.assumptions))
    methods = ", ".join(dict.fromkeys(cost.method for cost in costs))
    return Cost(mu, mu_sq, sum((cost.nats for cost in costs), Fraction(0)), f"{_METHOD}{methods}", assumptions)

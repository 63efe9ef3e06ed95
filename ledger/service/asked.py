"""What is asked of the ledger for a run, and what commands then have of its cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.journal.chain import canonical as canonical
from ledger.core.residual import Residual
from ledger.service import sizes
from ledger.service.catalogue import Resolved
from ledger.service.costing import Costed, Question
from ledger.service.requests.runs import RunRequest
from ledger.service.tables import Situation


@dataclass(frozen=True, slots=True)
class Item:
    """A run that is asked for: its key, what was asked, and the JSON of that. size: its bytes, where they are known.
    text: its canonical JSON, where that was made; equal texts are of equal requests. kind: that of what decides where
    it runs and what it costs, where that was made."""

    key: str
    request: RunRequest
    body: Mapping[str, Any]
    size: int | None = None
    text: str | None = None
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """What is recorded of how batches are drawn, and the canonical JSON of each member."""

    facts: Mapping[str, Any]
    texts: Mapping[str, str]

    @classmethod
    def of(cls, mechanism: AnyMechanism, resolved: Resolved) -> Drawn:
        """Return it for a mechanism on datasets."""
        facts = sizes.facts_of(mechanism, resolved)
        return cls(facts, {name: canonical(value) for name, value in facts.items()})


Key = tuple[str, Terms, tuple[Decimal, ...], Situation | None]
"""What a cost depends on: the canonical JSON of its mechanism, its terms, and what is left."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What runs of a batch ask that are alike, before they are costed. key: what their cost depends on. asked: such a
    run, with the number of units if it lacked one. drawn: what is recorded of how its batches are drawn."""

    resolved: Resolved
    question: Question
    key: Key
    asked: Item
    drawn: Drawn


@dataclass(frozen=True, slots=True)
class Priced:
    """A cost, as commands have it: the amount, how it came about, and the canonical JSON of some of that."""

    cost: Amount
    facts: Mapping[str, Any]
    texts: Mapping[str, str]
    table: Residual | None = None

    @classmethod
    def of(cls, costed: Costed) -> Priced:
        """Return a cost as commands have it."""
        facts = costed.facts()
        texts = {"assumptions": canonical(facts["assumptions"])}
        if costed.table is None:  # with a table it is decided what the run costs
            texts["cost"] = canonical(costed.cost.amount.facts())
        return cls(costed.cost.amount, facts, texts, costed.table)

    def beside(self, drawn: Drawn) -> Priced:
        """Return the same, with what is recorded of how batches are drawn."""
        if not drawn.facts:
            return self
        return replace(self, facts={**self.facts, **drawn.facts}, texts={**self.texts, **drawn.texts})

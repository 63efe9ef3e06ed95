"""A cost that was proved elsewhere."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import ClassVar, Literal

from ledger.accounting import amounts
from ledger.accounting.cost import RUN, Cost, Precision, rational
from ledger.accounting.mechanisms.base import BaseMechanism, Evidence
from ledger.accounting.numbers import Positive, Share
from ledger.accounting.terms import Terms


class Gdp(BaseMechanism):
    """A cost in (mu, delta) that was proved elsewhere; `evidence` names the source."""

    methods: ClassVar = {"stated": Precision.EXACT}
    solvable: ClassVar = ("mu",)

    type: Literal["gdp"]
    mu: Positive
    delta: Share = Decimal(0)
    evidence: Evidence

    def cost(self, terms: Terms, *, path: str) -> Cost:
        proved = (*RUN, "the stated (mu, delta) was proved elsewhere, as the evidence says")
        stated = rational(Fraction(self.mu) ** 2, "stated", proved)
        return replace(stated, nats=amounts.nats(Fraction(self.delta), towards="up"))

"""Any mechanism that satisfies epsilon-DP."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import ClassVar, Literal

from ledger.accounting import certify, closed_forms
from ledger.accounting.cost import Cost, Precision, repeated
from ledger.accounting.mechanisms.base import Releases
from ledger.accounting.numbers import Count, Positive
from ledger.accounting.pairs import Parts, Response
from ledger.accounting.terms import Terms


class PureDp(Releases):
    """Any epsilon-DP mechanism, `count` times."""

    methods: ClassVar = {"pure-dp-fixed-point": Precision.CLOSED_FORM}
    solvable: ClassVar = ("count", "epsilon")

    type: Literal["pure_dp"]
    epsilon: Positive
    count: Count = 1

    def cost(self, terms: Terms, *, path: str) -> Cost:
        once = float(closed_forms.mu_pure_dp(epsilon=float(self.epsilon)))
        return repeated(once, self.count, "pure-dp-fixed-point")

    def exact_parts(self, terms: Terms) -> Parts:
        # Randomised response on one bit dominates every one of them (Kairouz, Oh & Viswanath 2015).
        return Parts(sources=Counter({Response(certify.at_least(Fraction(self.epsilon))): self.count}))

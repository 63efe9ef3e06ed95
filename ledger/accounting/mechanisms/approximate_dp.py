"""Any mechanism that satisfies (epsilon, delta)-DP."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from typing import ClassVar, Literal

from ledger.accounting import amounts, certify, closed_forms
from ledger.accounting.cost import Cost, Precision, repeated
from ledger.accounting.mechanisms.base import Releases
from ledger.accounting.numbers import Count, Positive, Probability
from ledger.accounting.pairs import Parts, Response
from ledger.accounting.terms import Terms


class ApproximateDp(Releases):
    """Any (epsilon, delta)-DP mechanism, `count` times."""

    methods: ClassVar = {"approximate-dp": Precision.CLOSED_FORM}
    solvable: ClassVar = ("count", "epsilon")

    type: Literal["approximate_dp"]
    epsilon: Positive
    delta: Probability
    count: Count = 1

    def cost(self, terms: Terms, *, path: str) -> Cost:
        once = float(closed_forms.mu_pure_dp(epsilon=float(self.epsilon)))
        # f_{eps,delta} = f_{0,delta} (x) f_{eps,0} (Dong, Roth & Su 2022, Prop. 2.5 and sec. 3).
        return replace(repeated(once, self.count, "approximate-dp"), nats=self._nats())

    def exact_parts(self, terms: Terms) -> Parts:
        response = Response(certify.at_least(Fraction(self.epsilon)))
        return Parts(nats=self._nats(), sources=Counter({response: self.count}))

    def _nats(self) -> Fraction:
        return self.count * amounts.nats(Fraction(self.delta), towards="up")

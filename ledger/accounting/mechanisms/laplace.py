"""The Laplace mechanism."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import ClassVar, Literal

from ledger.accounting import certify, closed_forms
from ledger.accounting.cost import Cost, Precision, repeated
from ledger.accounting.mechanisms.base import Releases
from ledger.accounting.numbers import Count, Positive
from ledger.accounting.pairs import LaplaceNoise, Parts
from ledger.accounting.terms import Terms


class Laplace(Releases):
    """The Laplace mechanism, `count` times; `noise_multiplier` is the scale over the L1 sensitivity."""

    methods: ClassVar = {"laplace-fixed-point": Precision.CLOSED_FORM}
    solvable: ClassVar = ("noise_multiplier", "count")

    type: Literal["laplace"]
    noise_multiplier: Positive
    count: Count = 1

    def cost(self, terms: Terms, *, path: str) -> Cost:
        theta = float(1 / Fraction(self.noise_multiplier))
        return repeated(float(closed_forms.mu_laplace(theta=theta)), self.count, "laplace-fixed-point")

    def exact_parts(self, terms: Terms) -> Parts:
        noise = LaplaceNoise(certify.at_least(1 / Fraction(self.noise_multiplier)))
        return Parts(sources=Counter({noise: self.count}))

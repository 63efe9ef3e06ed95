"""The Gaussian mechanism."""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar, Literal

from ledger.accounting.cost import NOISE, RUN, Cost, Precision, rational
from ledger.accounting.mechanisms.base import Releases
from ledger.accounting.numbers import Count, Positive
from ledger.accounting.pairs import Parts
from ledger.accounting.terms import Terms


class Gaussian(Releases):
    """The Gaussian mechanism, `count` times; `noise_multiplier` is the standard deviation over the L2 sensitivity."""

    methods: ClassVar = {"gaussian": Precision.EXACT}
    solvable: ClassVar = ("noise_multiplier", "count")

    type: Literal["gaussian"]
    noise_multiplier: Positive
    count: Count = 1

    def cost(self, terms: Terms, *, path: str) -> Cost:
        # N(0, s²) against N(1, s²) is G_{1/s} (Dong, Roth & Su 2022, Thm. 2.7); n of them compose to sqrt(n)/s.
        return rational(self.count / Fraction(self.noise_multiplier) ** 2, "gaussian", (*RUN, *NOISE))

    def exact_parts(self, terms: Terms) -> Parts:
        return Parts(self.cost(terms, path="mechanism").mu_sq)

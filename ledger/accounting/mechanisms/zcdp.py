"""Any mechanism that satisfies rho-zero-concentrated DP."""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar, Final, Literal

from ledger.accounting import certify, zcdp
from ledger.accounting.cost import NOISE, RUN, Cost, Precision
from ledger.accounting.mechanisms.base import BaseMechanism
from ledger.accounting.numbers import Positive
from ledger.accounting.terms import Terms
from ledger.core.datasets import Bound
from ledger.errors import InvalidMechanism

_WEIGHT: Final = 100


class ZCdp(BaseMechanism):
    """Any mechanism that satisfies rho-zero-concentrated DP."""

    methods: ClassVar = {"zcdp-renyi": Precision.CERTIFICATE}
    solvable: ClassVar = ("rho",)

    type: Literal["zcdp"]
    rho: Positive

    def cost(self, terms: Terms, *, path: str) -> Cost:
        rho = certify.at_least(Fraction(self.rho))
        if rho > zcdp.RHO_RANGE[1]:
            field = f"{path}.rho"
            raise InvalidMechanism(
                f"{field}: is certified up to {zcdp.RHO_RANGE[1]:g}, which is more than any account holds; less charges"
                " too little, so use more noise",
                field=field,
            )
        # A share of delta of a size that budgets have would lower mu by less than a thousandth.
        mu = zcdp.mu_zcdp(rho=rho, delta=0.0)
        satisfied = "the mechanism satisfies rho-zCDP under the dataset's adjacency, in both directions"
        return Cost(mu, Fraction(mu) ** 2, Fraction(0), "zcdp-renyi", (*RUN, *NOISE, satisfied))

    def weight(self, bound: Bound) -> int:
        return _WEIGHT

"""All mechanisms except `composed`, which is made of these."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ledger.accounting.mechanisms.approximate_dp import ApproximateDp
from ledger.accounting.mechanisms.dpsgd import DpSgd
from ledger.accounting.mechanisms.dpsgd_schedule import DpSgdSchedule
from ledger.accounting.mechanisms.gaussian import Gaussian
from ledger.accounting.mechanisms.gdp import Gdp
from ledger.accounting.mechanisms.laplace import Laplace
from ledger.accounting.mechanisms.matrix_factorization import MatrixFactorization
from ledger.accounting.mechanisms.pure_dp import PureDp
from ledger.accounting.mechanisms.randomized_response import RandomizedResponse
from ledger.accounting.mechanisms.zcdp import ZCdp

SimpleMechanism = (
    DpSgd
    | DpSgdSchedule
    | Gaussian
    | Laplace
    | PureDp
    | ApproximateDp
    | RandomizedResponse
    | ZCdp
    | Gdp
    | MatrixFactorization
)
Simple = Annotated[SimpleMechanism, Field(discriminator="type")]

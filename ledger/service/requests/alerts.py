"""Requests about which alerts a tenant gets."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from ledger.service.requests.fields import LongText, Strict


def _rising(values: list[int]) -> list[int]:
    if any(one >= other for one, other in pairwise(values)):
        raise PydanticCustomError("rising", "must be in rising order, each only once")
    return values


class NewAlerting(Strict):
    thresholds: Annotated[
        list[Annotated[int, Field(ge=1, le=100)]],
        Field(default_factory=list, max_length=20, description="Percent, in rising order; an empty list means never."),
        AfterValidator(_rising),
    ]
    refusals_in_a_row: Annotated[int, Field(ge=1, le=100)] | None = None
    forecast_days: Annotated[int, Field(ge=1, le=3650)] | None = None
    webhook: Annotated[str | None, Field(max_length=2000, description="A URL. The operator must allow its host.")] = (
        None
    )
    heads: Annotated[
        bool, Field(description="Whether the webhook also gets the journals' heads, to be kept outside the ledger.")
    ] = False
    reason: LongText

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"forecast_days": 60, "reason": "Procurement takes two months."}},
    )

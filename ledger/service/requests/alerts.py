"""Requests about what a tenant is told of."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from ledger.service.requests.fields import LongText, Strict


def _rising(values: list[int]) -> list[int]:
    if any(one >= other for one, other in pairwise(values)):
        raise PydanticCustomError("rising", "must rise from each to the next")
    return values


class NewAlerting(Strict):
    thresholds: Annotated[
        list[Annotated[int, Field(ge=1, le=100)]],
        Field(default_factory=list, max_length=20, description="Percent, rising; none is never."),
        AfterValidator(_rising),
    ]
    refusals_in_a_row: Annotated[int, Field(ge=1, le=100)] | None = None
    forecast_days: Annotated[int, Field(ge=1, le=3650)] | None = None
    webhook: Annotated[
        str | None, Field(max_length=2000, description="A URL, whose host the operator has to allow.")
    ] = None
    heads: Annotated[bool, Field(description="Whether the webhook gets the journals' heads too, for keeping.")] = False
    reason: LongText

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"forecast_days": 60, "reason": "Procurement takes two months."}},
    )

"""What the shapes of answers share."""

from __future__ import annotations

from typing import Annotated, Final, NotRequired
from uuid import UUID

from pydantic import AfterValidator, Field, WithJsonSchema
from typing_extensions import TypedDict

from ledger.accounting.display import AmountShown

__all__ = ["AmountShown", "EpsilonShown", "Id"]


NO_EPSILON: Final = "null: no epsilon holds, because the delta of the amount is not below this delta."


def _checked_id(value: str) -> str:
    UUID(value)
    return value


Id = Annotated[str, AfterValidator(_checked_id), WithJsonSchema({"type": "string", "format": "uuid"})]
"""A UUID in JSON."""


class EpsilonShown(TypedDict):
    delta: float
    value: Annotated[float | None, Field(description=NO_EPSILON)]
    why: NotRequired[Annotated[str, Field(description="Why no epsilon holds, if `value` is null.")]]

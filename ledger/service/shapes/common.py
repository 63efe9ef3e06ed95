"""What the shapes of answers share."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, Field, WithJsonSchema
from typing_extensions import TypedDict

from ledger.accounting.display import AmountShown

__all__ = ["AmountShown", "EpsilonShown", "Id"]


def _checked_id(value: str) -> str:
    UUID(value)
    return value


Id = Annotated[str, AfterValidator(_checked_id), WithJsonSchema({"type": "string", "format": "uuid"})]
"""A UUID in JSON."""


class EpsilonShown(TypedDict):
    delta: float
    value: Annotated[float | None, Field(description="null is infinity")]

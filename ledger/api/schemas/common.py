"""The shapes that answers share, for the OpenAPI document.

Answers are built as plain dictionaries; the models of answers here describe them, and a test holds the two together.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
)

# --- answers ---------------------------------------------------------------------------------------------------------


class Problem(BaseModel):
    """RFC 9457. Facts that belong to the code stand beside these members."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    code: str
    detail: str
    field: str | None = None
    request_id: Annotated[str | None, Field(description="Of a fault: what the log knows the request by.")] = None


Digits = Annotated[str, StringConstraints(pattern=r"^-?[0-9]+$")]


class AmountShown(BaseModel):
    mu: float
    delta: float
    mu_sq_pico: Annotated[Digits | None, Field(description="Units of 1e-12 of mu²; null where it cannot be held.")]
    delta_atto: Annotated[Digits | None, Field(description="Units of 1e-18 of -log(1 - delta).")]


class EpsilonShown(BaseModel):
    delta: float
    value: Annotated[float | None, Field(description="null is infinity")]


class Health(BaseModel):
    status: Literal["ok"]

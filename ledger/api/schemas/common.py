"""Answers that are HTTP's alone: problems, and whether the process is well."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
)


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


class Health(BaseModel):
    status: Literal["ok"]

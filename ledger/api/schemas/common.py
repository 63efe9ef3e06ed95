"""What HTTP alone answers with: problems, and whether the process is well."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict


# PEP 728, which Pydantic knows and mypy does not yet.
class Problem(TypedDict, extra_items=Any):  # type: ignore[call-arg]
    """RFC 9457. Facts that belong to the code stand beside these members."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    field: NotRequired[str | None]
    request_id: NotRequired[Annotated[str | None, Field(description="Of a fault: what the log knows the request by.")]]


# No docstring: OpenAPI would show it as a description.
class Health(TypedDict):
    status: Literal["ok"]

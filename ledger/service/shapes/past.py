"""What the ledger returns for past runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from ledger.service.shapes.accountant import PlannedTogether
from ledger.service.shapes.common import AmountShown, EpsilonAlone, Percent, PercentOfDelta


class PastRunShown(TypedDict):
    id: Annotated[str | None, Field(description="null in a preview, if the run was not entered before.")]
    declared: Annotated[Literal["not observed"], Field(description="A steward's statement: the ledger saw nothing.")]
    replayed: Annotated[bool, Field(description="It was entered before with the same key, and is not charged again.")]
    purpose: str | None
    ran_at: str | None
    mechanism: dict[str, Any]
    cost: AmountShown
    percent: Percent
    percent_of_delta: PercentOfDelta
    epsilon: EpsilonAlone
    method: str
    fits: Annotated[bool, Field(description="Whether it fits in what was left. It is charged in either case.")]
    frozen: Annotated[list[str], Field(description="The datasets that it overdraws, which are frozen.")]


class PastRunsShown(TypedDict):
    preview: Annotated[bool, Field(description="Whether nothing was recorded.")]
    runs: Annotated[list[PastRunShown], Field(description="In the order in which they were sent.")]
    cost: Annotated[AmountShown, Field(description="Of those that are charged now, together.")]
    percent: Percent
    percent_of_delta: PercentOfDelta
    datasets: Annotated[list[PlannedTogether], Field(description="What was left before, and is left after.")]
    frozen: Annotated[list[str], Field(description="The datasets that they overdraw, which are frozen.")]

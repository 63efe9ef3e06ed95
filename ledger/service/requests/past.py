"""Requests to enter past runs: what was spent before there was a ledger."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from ledger.accounting.mechanisms import Mechanism
from ledger.mistakes import VISIBLE_PATTERN
from ledger.service.requests.fields import (
    NOTES_BYTES_MAX,
    LongText,
    PartitionName,
    ShortText,
    Strict,
    When,
    demand_short,
    distinct,
)
from ledger.service.requests.runs import SizeDiffers

RUNS_MAX: Final = 1_000
"""The most past runs of one request, all of which are entered in one transaction."""


class PastRun(Strict):
    """A run that was executed before there was a ledger. It is declared, and was not observed."""

    mechanism: Annotated[Mechanism, Field(description="Everything that the run did, as one mechanism.")]
    purpose: LongText | None = None
    ran_at: Annotated[When | None, Field(description="When it ran, as far as that is known.")] = None
    partitions: (
        Annotated[
            list[PartitionName],
            Field(min_length=1, max_length=4096, json_schema_extra={"uniqueItems": True}),
            AfterValidator(distinct),
        ]
        | None
    ) = None
    library: Annotated[ShortText | None, Field(description="What made its noise, such as `opacus`.")] = None
    version: Annotated[ShortText | None, Field(description="The version of that library.")] = None
    size_differs: SizeDiffers = None
    evidence: Annotated[
        dict[str, Any] | None,
        Field(description=f"Anything that shows what was run, at most {NOTES_BYTES_MAX} bytes of JSON."),
    ] = None

    @model_validator(mode="after")
    def _is_short(self) -> PastRun:
        demand_short({"purpose": self.purpose, "evidence": self.evidence})
        return self


class PastRuns(Strict):
    """Past runs of a dataset, to be entered together."""

    runs: Annotated[list[PastRun], Field(min_length=1, max_length=RUNS_MAX)]
    reason: Annotated[LongText, Field(description="How you know of these runs.")]
    idempotency_key: Annotated[
        Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=VISIBLE_PATTERN)],
        Field(description="Of all of them together. The same runs again, with the same key, are charged once."),
    ]
    preview: Annotated[
        bool, Field(description="Only show what each would cost and what would be left. Nothing is recorded.")
    ] = False

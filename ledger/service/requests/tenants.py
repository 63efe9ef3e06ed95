"""Requests about tenants, keys, the policy and proposals."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import ConfigDict, Field, model_validator

from ledger.core.people import Role
from ledger.service.requests.fields import (
    DatasetName,
    LongText,
    Moment,
    Overlap,
    ProjectName,
    ShortText,
    Strict,
    field_error,
)


class NewTenant(Strict):
    name: ShortText

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": {"name": "acme"}})


class NewKey(Strict):
    name: ShortText
    role: Role
    datasets: Annotated[list[DatasetName], Field(min_length=1, max_length=1000)] | None = None
    projects: Annotated[
        list[ProjectName] | None,
        Field(min_length=1, max_length=1000, description="For a requester: every run must name one of these projects."),
    ] = None
    expires_at: Moment | None = None

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"name": "training-ci", "role": "requester"}}
    )

    @model_validator(mode="after")
    def _projects_of_requesters(self) -> NewKey:
        if self.projects is not None and self.role != "requester":
            raise field_error("projects", "may be set for the role requester only")
        return self


class Rotation(Strict):
    overlap: Annotated[
        Overlap, Field(description="How long the old key works after the new one is made; default: P1D.")
    ] = timedelta(days=1)

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": {"overlap": "PT1H"}})


class NewPolicy(Strict):
    second_steward: bool
    reason: LongText

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"second_steward": True, "reason": "Agreed with the data protection officer."}},
    )


class Approval(Strict):
    reason: Annotated[LongText | None, Field(description="Why it is approved, for the record.")] = None

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"reason": "Agreed in the board of 12 October."}}
    )


class Refusal(Strict):
    reason: LongText

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"reason": "The board has not agreed."}}
    )

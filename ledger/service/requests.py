"""Requests that callers send, checked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from ledger.accounting.budgets import Budget, EpsilonBudget, MuBudget
from ledger.accounting.mechanisms import Mechanism
from ledger.accounting.numbers import Count, Probability
from ledger.core.datasets import Adjacency, Bound, DatasetState
from ledger.core.people import Role
from ledger.service.shapes import (
    DatasetName,
    LongText,
    Overlap,
    PartitionName,
    ProjectName,
    ShortText,
    Strict,
    distinct,
)

Title = Annotated[str, StringConstraints(max_length=255)]
Description = Annotated[str, StringConstraints(max_length=10_000)]


def _budget(value: Any) -> Any:
    """Chooses the form by its fields, so that an error speaks of the form that was meant."""
    if not isinstance(value, dict):
        raise PydanticCustomError("budget", 'must be an object: {"epsilon", "at_delta"} or {"mu", "delta"}')
    return (MuBudget if "mu" in value else EpsilonBudget).model_validate(value)


AnyBudget = Annotated[Budget, BeforeValidator(_budget)]


def _moment(value: Any) -> Any:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or "T" not in value.upper():
        raise PydanticCustomError("moment", "must be an RFC 3339 time with its offset, such as 2030-01-01T00:00:00Z")
    try:
        moment = datetime.fromisoformat(value.upper())
        return moment if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise PydanticCustomError("moment", "must be an RFC 3339 time, such as 2030-01-01T00:00:00Z") from None


Moment = Annotated[AwareDatetime, BeforeValidator(_moment)]
"""A time as RFC 3339 has it, with its offset."""


class NewTenant(Strict):
    name: ShortText

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": {"name": "acme"}})


class NewKey(Strict):
    name: ShortText
    role: Role
    datasets: Annotated[list[DatasetName], Field(min_length=1, max_length=1000)] | None = None
    projects: Annotated[
        list[ProjectName] | None,
        Field(min_length=1, max_length=1000, description="Of a requester: it has to name one of these."),
    ] = None
    expires_at: Moment | None = None

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"name": "training-ci", "role": "requester"}}
    )

    @model_validator(mode="after")
    def _projects_of_requesters(self) -> NewKey:
        if self.projects is not None and self.role != "requester":
            raise _about("projects", "limit a requester; another role reaches beyond any project")
        return self


class DerivedFrom(Strict):
    """A dataset that this one is a copy, filter or join of."""

    name: DatasetName
    unit_preserving: Annotated[
        Literal[True],
        Field(
            description="Your word that one privacy unit of that dataset changes only its own rows here, and that the "
            "rows of one unit are clipped and sampled together."
        ),
    ]


Partitions = Annotated[
    list[PartitionName], Field(max_length=1000, json_schema_extra={"uniqueItems": True}), AfterValidator(distinct)
]


class NewDataset(Strict):
    name: DatasetName
    title: Title = ""
    description: Description = ""
    privacy_unit: Annotated[
        ShortText | None, Field(description="What one neighbouring dataset lacks; that of the roots, where derived.")
    ] = None
    adjacency: Annotated[Adjacency | None, Field(description="That of the roots, where derived.")] = None
    size: Annotated[Count | None, Field(description="A public, nominal figure.")] = None
    bound: Annotated[
        Bound | None, Field(description="`certified` when left out, or that of the roots, where derived.")
    ] = None
    budget: Annotated[
        AnyBudget | None, Field(description="May be left out of a derived dataset alone, whose runs charge its roots.")
    ] = None
    derived_from: Annotated[list[DerivedFrom], Field(max_length=100)] | None = None
    partitions: Annotated[
        Partitions | None,
        Field(description="Names of parts such that no privacy unit is in two, which is your word; null: none, ever."),
    ] = None
    ceiling: Annotated[AnyBudget | None, Field(description="A limit that no later budget may pass.")] = None

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "example": {
                "name": "mnist",
                "title": "MNIST, training half",
                "privacy_unit": "record",
                "adjacency": "add_or_remove_one",
                "size": 60000,
                "bound": "clt",
                "budget": {"epsilon": 3.0, "at_delta": 1e-5},
            }
        },
    )

    @model_validator(mode="after")
    def _whole(self) -> NewDataset:
        if self.derived_from:
            if self.partitions is not None:
                raise _about("partitions", "a derived dataset has those of what it is derived from")
            if self.ceiling is not None and self.budget is None:
                raise _about("ceiling", "belongs to a budget")
            if any(parent.name == self.name for parent in self.derived_from):
                raise _about("derived_from", "names the dataset itself")
            if len({parent.name for parent in self.derived_from}) < len(self.derived_from):
                raise _about("derived_from", "names a dataset twice")
            return self
        for field in ("privacy_unit", "adjacency", "budget"):
            if getattr(self, field) is None:
                missing = InitErrorDetails(type="missing", loc=(field,), input=None)
                raise ValidationError.from_exception_data("dataset", [missing])
        return self


def _about(field: str, message: str) -> ValidationError:
    """What is wrong with a field in the light of others."""
    error = PydanticCustomError("dataset", "{message}", {"message": message})
    return ValidationError.from_exception_data("dataset", [InitErrorDetails(type=error, loc=(field,), input=None)])


class NewPartitions(Strict):
    names: Annotated[Partitions, Field(min_length=1)]
    disjoint: Annotated[Literal[True], Field(description="Your word that no privacy unit is in two partitions.")]

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"names": ["2026-11"], "disjoint": True}},
    )


class ProjectShare(Strict):
    budget: AnyBudget
    reason: LongText | None = None

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"budget": {"mu": 0.5, "delta": 1e-6}}}
    )


class NewFairUse(Strict):
    held: Annotated[
        AnyBudget | None, Field(description="What one principal's runs may hold at once; null: as much as there is.")
    ] = None
    runs_per_hour: Annotated[int | None, Field(ge=1, le=100_000, description="null: as many as they like.")] = None
    reason: LongText

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "example": {
                "held": {"mu": 0.2, "delta": 1e-7},
                "runs_per_hour": 100,
                "reason": "So that one sweep leaves something for the others.",
            }
        },
    )


class NewBatch(Strict):
    runs: Annotated[
        list[dict[str, Any]],
        Field(
            min_length=1,
            max_length=1000,
            description="Each as for `POST /v1/runs`, with its `idempotency_key` beside the other fields.",
        ),
    ]
    atomic: Annotated[bool, Field(description="All of them or none.")] = False


class DatasetChange(Strict):
    """At least one of state, title and description; a change of state gives its reason."""

    state: DatasetState | None = None
    title: Title | None = None
    description: Description | None = None
    reason: LongText | None = None

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"state": "frozen", "reason": "Under review since two records came twice."}},
    )

    @model_validator(mode="after")
    def _says_something(self) -> DatasetChange:
        if self.state is None and self.title is None and self.description is None:
            raise PydanticCustomError("change", "give at least one of state, title and description")
        if self.state is not None and self.reason is None:
            missing = InitErrorDetails(type="missing", loc=("reason",), input=None)
            raise ValidationError.from_exception_data("change", [missing])
        return self


class NewBudget(Strict):
    budget: AnyBudget
    reason: LongText

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "example": {"budget": {"epsilon": 5.0, "at_delta": 1e-5}, "reason": "Agreed by the review board in March."}
        },
    )


class Evaluation(Strict):
    mechanism: Mechanism
    bound: Bound = "certified"
    adjacency: Adjacency = "add_or_remove_one"
    delta: Annotated[
        Probability | None,
        Field(description="The share of a delta budget that a certificate may use; 1e-8 when left out."),
    ] = None
    report_deltas: Annotated[list[Probability], Field(min_length=1, max_length=20)] | None = None

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "example": {
                "bound": "clt",
                "mechanism": {
                    "type": "dpsgd",
                    "noise_multiplier": 1.1,
                    "sampling": "poisson",
                    "dataset_size": 60000,
                    "batch_size": 256,
                    "epochs": 60,
                },
            }
        },
    )


class NewPolicy(Strict):
    second_steward: bool
    reason: LongText

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"second_steward": True, "reason": "Agreed with the data protection officer."}},
    )


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


class Rotation(Strict):
    overlap: Annotated[
        Overlap, Field(description="How long the old key works beside the new one: P1D when left out.")
    ] = timedelta(days=1)

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": {"overlap": "PT1H"}})


class Refusal(Strict):
    reason: LongText

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"reason": "The board has not agreed."}}
    )

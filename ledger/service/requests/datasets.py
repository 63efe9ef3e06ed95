"""Requests about datasets, their budgets and their parts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from ledger.accounting.numbers import Count
from ledger.core.datasets import Adjacency, Bound, DatasetState
from ledger.core.residual import Costing
from ledger.service.requests.fields import (
    ABOUT_ADJACENCY,
    AnyBudget,
    DatasetName,
    LongText,
    PartitionName,
    ShortText,
    Strict,
    distinct,
    field_error,
)

Title = Annotated[str, StringConstraints(max_length=255)]
Description = Annotated[str, StringConstraints(max_length=10_000)]


class DerivedFrom(Strict):
    """A dataset that this one is a copy, filter or join of."""

    name: DatasetName
    unit_preserving: Annotated[
        Literal[True],
        Field(
            description=(
                "Your statement that one privacy unit of that dataset changes only its own rows here, and that"
                " the rows of one unit are clipped and sampled together."
            )
        ),
    ]


Partitions = Annotated[
    list[PartitionName], Field(max_length=1000, json_schema_extra={"uniqueItems": True}), AfterValidator(distinct)
]


AcceptsWeakProtection = Annotated[
    Literal[True] | None,
    Field(
        description="Your statement that weak protection is acceptable; required for a budget of more than epsilon 20."
        " The journal keeps it."
    ),
]


class NewDataset(Strict):
    name: DatasetName
    title: Title = ""
    description: Description = ""
    privacy_unit: Annotated[
        ShortText | None,
        Field(description="What one neighbouring dataset lacks; a derived dataset takes it from its roots."),
    ] = None
    adjacency: Annotated[
        Adjacency | None, Field(description=f"{ABOUT_ADJACENCY} A derived dataset takes it from its roots.")
    ] = None
    size: Annotated[Count | None, Field(description="A public, nominal figure.")] = None
    bound: Annotated[
        Bound | None, Field(description="Default: `certified`; a derived dataset takes it from its roots.")
    ] = None
    budget: Annotated[
        AnyBudget | None,
        Field(
            description="Required unless the dataset is derived: runs of a derived dataset are charged to its roots."
        ),
    ] = None
    derived_from: Annotated[list[DerivedFrom], Field(max_length=100)] | None = None
    partitions: Annotated[
        Partitions | None,
        Field(
            description=(
                "Names of parts. You state that no privacy unit is in two of them. null: the dataset never has"
                " partitions."
            )
        ),
    ] = None
    ceiling: Annotated[AnyBudget | None, Field(description="A limit that no later budget may exceed.")] = None
    costing: Annotated[
        Costing | None,
        Field(
            description=(
                "`residual`: a certified run is costed beside what is left of the budget, so that many more runs fit."
                " `standalone`: each run is costed by itself, and costs add up in any order. Default: `residual` if"
                " `bound` is `certified`."
            )
        ),
    ] = None

    accepts_weak_protection: AcceptsWeakProtection = None

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
                "bound": "certified",
                "budget": {"epsilon": 3.0, "at_delta": 1e-5},
            }
        },
    )

    @model_validator(mode="after")
    def _whole(self) -> NewDataset:
        if self.derived_from:
            if self.partitions is not None:
                raise field_error(
                    "partitions",
                    ("must be left out: a derived dataset has the partitions of the datasets that it is derived from"),
                )
            if self.ceiling is not None and self.budget is None:
                raise field_error("ceiling", "needs a budget")
            if any(parent.name == self.name for parent in self.derived_from):
                raise field_error("derived_from", "must not name the dataset itself")
            if len({parent.name for parent in self.derived_from}) < len(self.derived_from):
                raise field_error("derived_from", "must not name a dataset twice")
            return self
        for field in ("privacy_unit", "adjacency", "budget"):
            if getattr(self, field) is None:
                missing = InitErrorDetails(type="missing", loc=(field,), input=None)
                raise ValidationError.from_exception_data("dataset", [missing])
        return self


def _not_back(costing: Any) -> Any:
    """Say why there is no way back to costs that add up."""
    if costing == "standalone":
        raise PydanticCustomError(
            "costing",
            "a dataset can be changed to residual only. With standalone, what is spent bounds what was released; what"
            " was charged beside what is left never does. Register a new dataset with costing standalone",
        )
    return costing


class DatasetChange(Strict):
    """At least one of state, title, description and costing; a change of state or costing needs a reason."""

    state: DatasetState | None = None
    title: Title | None = None
    description: Description | None = None
    costing: Annotated[
        Literal["residual"] | None,
        BeforeValidator(_not_back),
        Field(description="From now on, cost certified runs beside what is left. This cannot be undone."),
    ] = None
    reason: LongText | None = None

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"state": "frozen", "reason": "Under review since two records came twice."}},
    )

    @model_validator(mode="after")
    def _says_something(self) -> DatasetChange:
        if all(value is None for value in (self.state, self.title, self.description, self.costing)):
            raise PydanticCustomError("change", "give at least one of state, title, description and costing")
        if (self.state is not None or self.costing is not None) and self.reason is None:
            missing = InitErrorDetails(type="missing", loc=("reason",), input=None)
            raise ValidationError.from_exception_data("change", [missing])
        return self


class LostEntries(Strict):
    seq: Annotated[int, Field(ge=1, description="The last entry that was lost: `kept_seq` of the error.")]
    hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="Its hash: `kept_hash` of the error.")]
    receipts: Annotated[
        list[Annotated[str, Field(max_length=64 * 1024)]],
        Field(max_length=1000, description="The receipts of all runs that were approved in the lost entries."),
    ]


class NewBudget(Strict):
    budget: AnyBudget
    reason: LongText
    accepts_weak_protection: AcceptsWeakProtection = None
    lost: Annotated[
        LostEntries | None,
        Field(description="Entries that a restore lost; the budget is lower by the cost of their runs."),
    ] = None

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "example": {"budget": {"epsilon": 5.0, "at_delta": 1e-5}, "reason": "Agreed by the review board in March."}
        },
    )


class NewPartitions(Strict):
    names: Annotated[Partitions, Field(min_length=1)]
    disjoint: Annotated[Literal[True], Field(description="Your statement that no privacy unit is in two partitions.")]
    reason: LongText | None = None

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
        AnyBudget | None, Field(description="The most that the runs of one principal may hold at once; null: no limit.")
    ] = None
    runs_per_hour: Annotated[int | None, Field(ge=1, le=100_000, description="null: no limit.")] = None
    waits_above_percent: Annotated[
        int | None,
        Field(
            ge=0,
            le=99,
            description="A run that asks for more of a limit, in percent of mu² or delta, waits for a steward; null:"
            " none does.",
        ),
    ] = None
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

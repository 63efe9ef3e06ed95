"""Datasets, partitions and projects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from ledger.core.datasets import Adjacency, Bound, DatasetState
from ledger.service.shapes.common import AmountShown


class BalanceShown(TypedDict):
    limit: AmountShown
    spent: AmountShown
    held: AmountShown
    remaining: AmountShown


class EpsilonOfBudget(TypedDict):
    delta: float
    spent: Annotated[float | None, Field(description="null is infinity")]
    limit: Annotated[float | None, Field(description="null is infinity")]


class Counted(TypedDict):
    """A budget, or a part of one: what is left of it, and what that is as epsilon."""

    balance: BalanceShown
    epsilon: list[EpsilonOfBudget]


class PartitionShown(Counted):
    name: str


class ProjectOfDataset(Counted):
    name: str
    budget: Mapping[str, Any]


class ProjectShown(ProjectOfDataset):
    dataset: str


class ParentShown(TypedDict):
    name: str
    unit_preserving: Literal[True]


class FairUseShown(TypedDict):
    held: Mapping[str, Any] | None
    runs_per_hour: int | None


class DatasetShown(TypedDict):
    name: str
    title: str
    description: str
    privacy_unit: str
    adjacency: Adjacency
    size: int | None
    bound: Bound
    is_estimate: bool
    budget: Annotated[Mapping[str, Any] | None, Field(description="null: its runs charge what it is derived from.")]
    ceiling: AmountShown | None
    derived_from: list[ParentShown]
    roots: Annotated[list[str], Field(description="Where it comes from in the end; itself, if from nowhere.")]
    state: DatasetState
    balance: Annotated[
        BalanceShown | None, Field(description="Of partitions the fullest counts, in each quantity for itself.")
    ]
    epsilon: list[EpsilonOfBudget]
    partitions: Annotated[
        list[PartitionShown] | None,
        Field(description="null: none, ever. The first thousand by name; in a list of datasets none."),
    ]
    partition_count: int | None
    projects: list[ProjectOfDataset]
    fair_use: FairUseShown | None
    seq: int
    created_at: str


class PartitionPage(TypedDict):
    items: list[PartitionShown]
    next: str | None


class DatasetPage(TypedDict):
    items: list[DatasetShown]
    next: str | None

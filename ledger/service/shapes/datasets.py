"""Datasets, partitions and projects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ledger.core.datasets import Adjacency, Bound, DatasetState
from ledger.core.residual import Costing
from ledger.service.shapes.common import NO_EPSILON, AmountShown, Id, PercentsShown


class BalanceShown(TypedDict):
    limit: AmountShown
    spent: AmountShown
    held: AmountShown
    remaining: AmountShown


class EpsilonOfBudget(TypedDict):
    delta: float
    spent: Annotated[
        float | None,
        Field(
            description=f"{NO_EPSILON} With residual costs, of a share of the budget: no bound on what was released."
        ),
    ]
    limit: Annotated[float | None, Field(description=NO_EPSILON)]
    held: NotRequired[Annotated[float | None, Field(description="By itself. null: see `limit`.")]]
    remaining: NotRequired[
        Annotated[
            float | None,
            Field(description="By itself: about the largest that one run could still have. null: see `limit`."),
        ]
    ]


class EpsilonAt(TypedDict):
    delta: float
    epsilon: Annotated[float | None, Field(description=NO_EPSILON)]


class LeastLimitShown(TypedDict):
    seq: Annotated[int, Field(description="The number of the last entry that it counts.")]
    amount: AmountShown
    epsilon: list[EpsilonAt]


class Counted(TypedDict):
    """A budget, or a part of one: what remains of it, and the epsilon of that."""

    balance: BalanceShown
    percent: NotRequired[PercentsShown]
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
    waits_above_percent: Annotated[
        int | None, Field(description="A run that asks for more of a limit, in percent, waits for a steward.")
    ]


class DatasetShown(TypedDict):
    name: str
    title: str
    description: str
    privacy_unit: str
    adjacency: Adjacency
    size: int | None
    bound: Bound
    costing: Annotated[
        Costing, Field(description="`residual`: certified runs are costed beside what is left of the budget.")
    ]
    is_estimate: bool
    budget: Annotated[
        Mapping[str, Any] | None,
        Field(description="null: its runs are charged to the datasets that it is derived from."),
    ]
    ceiling: AmountShown | None
    derived_from: list[ParentShown]
    roots: Annotated[
        list[str], Field(description="The datasets that it is derived from in the end; itself if it is not derived.")
    ]
    state: DatasetState
    balance: Annotated[
        BalanceShown | None, Field(description="With partitions, the fullest one counts, for each quantity by itself.")
    ]
    percent: NotRequired[PercentsShown | None]
    epsilon: list[EpsilonOfBudget]
    least_limit: Annotated[
        LeastLimitShown | None,
        Field(
            description="The least limit under which the same entries would have been approved: an indication. It"
            " bounds what was released only if the runs were fixed in advance; the guarantee is the limit that was"
            " fixed in advance. With partitions, the most that one of them needs. Computed in the background; null:"
            " not yet, or costs are not residual, or the journal is too long."
        ),
    ]
    partitions: Annotated[
        list[PartitionShown] | None,
        Field(description="null: never any. The first thousand by name; none in a list of datasets."),
    ]
    partition_count: int | None
    projects: list[ProjectOfDataset]
    fair_use: FairUseShown | None
    warnings: NotRequired[
        Annotated[list[str], Field(description="Which delta runs out before mu does. Left out if none.")]
    ]
    seq: int
    created_at: str


class ChangeShown(TypedDict):
    seq: int
    at: str
    kind: str
    what: Annotated[str, Field(description="What was changed, in words. The entry has it in full.")]
    by: Annotated[
        Mapping[str, Any] | None,
        Field(description="Who changed it, or approved the change; null for what another's run caused."),
    ]
    reason: str | None
    run: Annotated[Id | None, Field(description="The run that froze it, or that the change is about.")]
    proposal: Id | None
    proposed_by: Annotated[Mapping[str, Any] | None, Field(description="null: it took one person.")]
    proposed_at: str | None
    hash: str


class ChangePage(TypedDict):
    items: list[ChangeShown]
    next: str | None


class BalanceAt(TypedDict):
    dataset: str
    seq: int
    at: Annotated[str, Field(description="When the entry `seq` was written.")]
    budget: Annotated[Mapping[str, Any] | None, Field(description="The budget that was in force.")]
    costing: NotRequired[Annotated[Costing, Field(description="How its runs are costed now.")]]
    balance: Annotated[
        BalanceShown | None, Field(description="With partitions, the fullest one counts, for each quantity by itself.")
    ]
    percent: NotRequired[PercentsShown | None]
    epsilon: list[EpsilonOfBudget]
    partition_count: int | None


class EpsilonTaken(TypedDict):
    delta: float
    taken: Annotated[
        float | None,
        Field(
            description="Of what was spent and held together. With residual costs, of the least limit that was kept"
            " that day: see `least_limit` of a dataset. null: not known, or no epsilon holds."
        ),
    ]
    limit: Annotated[float | None, Field(description=NO_EPSILON)]


class BurndownPoint(TypedDict):
    start: Annotated[str, Field(description="The first day, such as `2026-10-01`; days are UTC.")]
    until: Annotated[str, Field(description="When the point ends, a time that is no longer in it.")]
    seq: Annotated[int, Field(description="The newest entry that it counts.")]
    balance: Annotated[BalanceShown | None, Field(description="At the end; null without a budget of its own.")]
    percent: PercentsShown | None
    epsilon: list[EpsilonTaken]
    approvals: Annotated[int | None, Field(description="Runs approved meanwhile; null for a partition or project.")]
    refusals: int | None


class BurndownShown(TypedDict):
    dataset: str
    partition: str | None
    project: str | None
    by: Literal["day", "week", "month"]
    costing: Costing
    ceiling: AmountShown | None
    seq: int
    behind: Annotated[
        int,
        Field(description="How many of the newest entries no point counts yet. They follow within minutes."),
    ]
    points: Annotated[list[BurndownPoint], Field(description="Oldest first, from the first day of the dataset on.")]


class SpendingPart(TypedDict):
    runs: int
    spent: AmountShown
    held: AmountShown
    percent: Annotated[
        float | None, Field(description="Of the budget, by mu², which adds up; null if the limit is zero.")
    ]
    percent_of_delta: float | None


class SpendingGroup(SpendingPart):
    name: Annotated[
        str | None, Field(description="The person, project, month (`2026-10`) or value; null: without one.")
    ]
    principal: Annotated[Id | None, Field(description="If the group is a person.")]


class SpendingShown(TypedDict):
    dataset: str
    partition: str | None
    by: Literal["person", "project", "month", "label"]
    label: str | None
    seq: int
    limit: AmountShown
    groups: Annotated[list[SpendingGroup], Field(description="The largest first, up to a hundred.")]
    rest: Annotated[SpendingPart | None, Field(description="The other groups together; null if there are none.")]
    rest_count: int
    earlier: Annotated[
        SpendingPart | None,
        Field(description="What runs took that were approved before entry `since_seq`, not divided; null: nothing."),
    ]
    since_seq: int
    total: Annotated[SpendingPart, Field(description="The balance: exactly the sum of the rows above.")]


class PartitionPage(TypedDict):
    items: list[PartitionShown]
    next: str | None


class DatasetPage(TypedDict):
    items: list[DatasetShown]
    next: str | None

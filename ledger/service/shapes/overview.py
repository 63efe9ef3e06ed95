"""A tenant's datasets at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from ledger.core.datasets import DatasetState
from ledger.service.shapes.common import PercentsShown


class Waiting(TypedDict):
    count: int
    has_more: Annotated[bool, Field(description="Whether only the first thousand were counted.")]


class DatasetAtAGlance(TypedDict):
    name: str
    title: str
    state: DatasetState
    budget: Mapping[str, Any] | None
    is_partitioned: bool
    derived_from: list[str]
    percent: Annotated[
        PercentsShown | None,
        Field(description="null without a budget of its own. With partitions, of the fullest one, as last counted."),
    ]
    lasts_until: Annotated[
        str | None,
        Field(description="When the first of its budgets runs out, by an estimate; null: none does, or not known yet."),
    ]
    forecast_at: Annotated[str | None, Field(description="When that was estimated.")]
    approvals: Annotated[int, Field(description="Runs approved in the last `days`, of the whole dataset.")]
    refusals: int
    overdue: Annotated[int, Field(description="Runs not started or settled in time.")]
    proposals: Annotated[int, Field(description="Proposals that wait for a second person.")]
    alerts: Annotated[int, Field(description="Alerts of the last `days`.")]
    seq: int
    behind: Annotated[
        int,
        Field(description="How many of its newest entries the order of this list does not count yet."),
    ]


class OverviewShown(TypedDict):
    at: str
    days: Annotated[int, Field(description="How many days back decisions and alerts are counted, today included.")]
    overdue: Waiting
    proposals: Waiting
    alerts: Waiting
    items: Annotated[list[DatasetAtAGlance], Field(description="The fullest first.")]
    next: str | None

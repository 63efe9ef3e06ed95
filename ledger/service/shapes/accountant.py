"""Evaluations and plans, as answers show them."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ledger.core.amounts import Quantity
from ledger.core.datasets import Adjacency, Bound, DatasetState
from ledger.service.shapes.common import AmountShown, EpsilonShown, Id
from ledger.service.shapes.runs import Alone, AsOne, Batches, SegmentsShown, Shares, Used, Warnings


# Few docstrings here: OpenAPI shows them as descriptions.
class PlannedOn(TypedDict):
    name: str
    state: DatasetState
    limit: AmountShown | None
    remaining: Annotated[
        AmountShown | None,
        Field(
            description=(
                "The least of the accounts charged there; null if nothing is charged there, and for a dataset"
                " that the key does not see but from which one that it sees is derived."
            )
        ),
    ]
    after: Annotated[AmountShown | None, Field(description="What the run would leave; null if it does not fit.")]


class PlannedBinding(TypedDict):
    name: str
    partition: NotRequired[str | None]
    project: NotRequired[str | None]
    principal: NotRequired[Id | None]
    quantity: Quantity
    requested: float
    remaining: Annotated[
        float | None, Field(description="null for a dataset that the key does not see, as is `limit`.")
    ]
    limit: float | None


class Solution(TypedDict):
    solve_for: str
    value: int | float
    cost: Annotated[AmountShown, Field(description="The charge for this value; for all `runs` together.")]


class Planned(TypedDict):
    fits: bool
    cost: AmountShown
    bound: Bound
    method: str
    assumptions: list[str]
    accountant: str
    is_estimate: bool
    delta: Used
    datasets: list[PlannedOn]
    binding: Annotated[
        list[PlannedBinding], Field(description="The quantities that a refusal would name; empty if the run fits.")
    ]
    would_fit: Annotated[
        dict[str, float], Field(description="Each value alone would make the run fit; empty if it fits already.")
    ]
    solution: Annotated[
        Solution | None, Field(description="For `solve_for`; null if no value fits, or nothing was asked.")
    ]
    as_one: NotRequired[
        Annotated[AsOne, Field(description="For `solve_for: runs`: how many of them fit declared as one longer run.")]
    ]
    segments: NotRequired[SegmentsShown | None]
    alone: NotRequired[Alone]
    shares: NotRequired[Shares]
    expected_batch: NotRequired[Batches]
    warnings: NotRequired[Warnings]


class Certified(TypedDict):
    """A point on the line along which a certificate trades mu for delta."""

    delta: float
    mu: float


class Evaluated(TypedDict):
    cost: AmountShown
    epsilon: list[EpsilonShown]
    bound: Bound
    adjacency: Adjacency
    is_estimate: bool
    method: str
    assumptions: list[str]
    accountant: str
    expected_batch: NotRequired[Batches]
    warnings: NotRequired[Warnings]
    frontier: NotRequired[
        Annotated[
            list[Certified] | None,
            Field(description="If the cost is a certificate: the costs for other shares of the delta budget."),
        ]
    ]

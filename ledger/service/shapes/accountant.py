"""Evaluations and plans, as answers give them."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ledger.core.amounts import Quantity
from ledger.core.datasets import Adjacency, Bound, DatasetState
from ledger.service.shapes.common import AmountShown, EpsilonShown, Id
from ledger.service.shapes.runs import SegmentsShown, Used


# Few docstrings here: OpenAPI shows them as descriptions.
class PlannedOn(TypedDict):
    name: str
    state: DatasetState
    limit: AmountShown | None
    remaining: Annotated[
        AmountShown | None,
        Field(
            description="Of all that it charges there the least; null where it charges nothing, and of a dataset that "
            "the key does not see, from which one that it sees is derived."
        ),
    ]
    after: Annotated[AmountShown | None, Field(description="What the run would leave; null where it does not fit.")]


class PlannedBinding(TypedDict):
    name: str
    partition: NotRequired[str | None]
    project: NotRequired[str | None]
    principal: NotRequired[Id | None]
    quantity: Quantity
    requested: float
    remaining: Annotated[float | None, Field(description="Null of a dataset that the key does not see; so is `limit`.")]
    limit: float | None


class Solution(TypedDict):
    solve_for: str
    value: int | float
    cost: Annotated[AmountShown, Field(description="What this value would be charged; of all `runs` together.")]


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
    binding: Annotated[list[PlannedBinding], Field(description="What a refusal would say; empty where the run fits.")]
    would_fit: Annotated[
        dict[str, float], Field(description="Each value alone would make the run fit; empty where it does as it is.")
    ]
    solution: Annotated[
        Solution | None, Field(description="For `solve_for`; null where no value fits, or nothing was asked.")
    ]
    segments: NotRequired[SegmentsShown | None]


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
    frontier: NotRequired[
        Annotated[
            list[Certified] | None,
            Field(
                description="Where the cost is a certificate: what it would be for other shares of the delta budget."
            ),
        ]
    ]

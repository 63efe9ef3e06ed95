"""Evaluations and plans, as answers show them."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ledger.core.amounts import Quantity
from ledger.core.datasets import Adjacency, Bound, DatasetState
from ledger.service.shapes.common import (
    AmountShown,
    EpsilonAlone,
    EpsilonShown,
    Id,
    Percent,
    PercentOfBudget,
    PercentOfDelta,
    RunsLeft,
)
from ledger.service.shapes.runs import (
    Alone,
    AsOne,
    Batches,
    PercentRemaining,
    PercentRequested,
    SegmentsShown,
    Shares,
    Used,
    Warnings,
)


# Few docstrings here: OpenAPI shows them as descriptions.
class EpsilonsOfPlan(TypedDict):
    delta: float
    limit: Annotated[float | None, Field(description="null is infinity, here and below.")]
    remaining: Annotated[float | None, Field(description="Of what is left by itself. Epsilons do not add up.")]
    after: Annotated[float | None, Field(description="Of what the run would leave; null too if it does not fit.")]


class PlannedOn(PercentOfBudget):
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
    percent_after: NotRequired[
        Annotated[float | None, Field(description="What the run would leave, in percent; rounded down.")]
    ]
    percent_of_delta_after: NotRequired[float | None]
    epsilon: NotRequired[list[EpsilonsOfPlan]]


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
    percent_requested: NotRequired[PercentRequested]
    percent_remaining: NotRequired[PercentRemaining]


class Solution(TypedDict):
    solve_for: str
    value: int | float
    cost: Annotated[AmountShown, Field(description="The charge for this value; for all `runs` together.")]
    waits: Annotated[bool, Field(description="A run of this value, or each of `runs`, would wait for a steward.")]


class AtMost(TypedDict):
    percent: float
    amount: Annotated[AmountShown, Field(description="The most that the run may take of what is left.")]


class AttackShown(TypedDict):
    """How well an attacker who knows all other records tells who is in the data, by what the run releases."""

    wrong_percent: Annotated[
        float, Field(description="Of those who are not in the data: whom the attacker takes for one.")
    ]
    found_percent: Annotated[
        float, Field(description="Of those who are in the data: whom the attacker then finds at most, rounded up.")
    ]


class Planned(TypedDict):
    fits: bool
    waits: Annotated[
        bool, Field(description="It fits, but asks for so much of a limit that it would wait for a steward first.")
    ]
    waits_for: Annotated[list[str], Field(description="The datasets whose stewards it would wait for.")]
    percent: NotRequired[Percent]
    percent_of_delta: NotRequired[PercentOfDelta]
    epsilon: NotRequired[EpsilonAlone]
    cost: AmountShown
    attack: Annotated[
        AttackShown,
        Field(
            description="Against the run by itself. Every attack is bounded by this, whatever the attacker computes."
        ),
    ]
    at_most: NotRequired[
        Annotated[AtMost, Field(description="For `at_most_percent`. A run that takes more may fit in what is left.")]
    ]
    runs_left: NotRequired[RunsLeft]
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
    would_wait: Annotated[
        list[str], Field(description="Those of `would_fit` with which the run would still wait for a steward.")
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


class PlannedRun(TypedDict):
    fits: bool
    waits: Annotated[bool, Field(description="It would wait for a steward first. It is not counted in what is left.")]
    cost: AmountShown | None
    code: Annotated[str | None, Field(description="The code of the refusal or of the error; null if it fits.")]
    detail: str | None


class PlannedTogether(TypedDict):
    name: str
    remaining: Annotated[AmountShown | None, Field(description="Before the runs: the least of the accounts charged.")]
    after: Annotated[AmountShown | None, Field(description="After the runs that fit.")]
    percent_left: Annotated[float | None, Field(description="After them, of mu², which adds up; rounded down.")]


class PlannedRuns(TypedDict):
    runs: Annotated[list[PlannedRun], Field(description="In the order in which they were sent.")]
    fitting: int
    order: Annotated[
        list[int] | None,
        Field(description="Positions, from 0, of the runs that fit if the cheapest come first; null if not more fit."),
    ]
    datasets: list[PlannedTogether]


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

"""Problems with more members than others, and batches, which contain answers and problems."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ledger.api.schemas.common import Problem
from ledger.service.shapes.common import AmountShown, EpsilonAlone, Id, RunsLeft
from ledger.service.shapes.runs import Batches, Binding, Overdrawn, OverrunShown, RunApproved, Used, Warnings


# Few docstrings here: OpenAPI shows them as descriptions.
class RunRefused(Problem):
    run: Id
    datasets: list[Binding]
    fits: Annotated[dict[str, float], Field(description="Each value alone would make the run fit.")]
    seq: int
    delta: NotRequired[Used]
    project: NotRequired[str | None]
    epsilon: NotRequired[EpsilonAlone]
    runs_left: NotRequired[RunsLeft]
    expected_batch: NotRequired[Batches]
    warnings: NotRequired[Warnings]


class BatchResult(TypedDict):
    status: int
    replayed: bool
    run: NotRequired[RunApproved | None]
    problem: NotRequired[
        Annotated[Problem | None, Field(description="The same as for one run; a certified cost may have no `fits`.")]
    ]


class Batched(TypedDict):
    results: list[BatchResult]
    approved: Annotated[int, Field(description="How many of the runs are approved, those of earlier requests too.")]


class BatchWasRefused(Problem):
    results: list[BatchResult]
    fitting: Annotated[
        int,
        Field(description="How many would be approved with `as_many_as_fit`; 0 if a run cannot be decided at all."),
    ]


class RunOverran(Problem):
    """More was executed than fits. It is charged all the same; but if no budget there could cover it, the run stays
    started and held in full until a steward confirms or corrects the number."""

    run: Id
    state: Literal["settled", "started"]
    cost: AmountShown
    percent: NotRequired[
        Annotated[float | None, Field(description="What the run was charged in all, in percent of the least budget.")]
    ]
    charged: NotRequired[Annotated[AmountShown | None, Field(description="Left out while the run is still started.")]]
    overrun: OverrunShown
    frozen: Annotated[list[str], Field(description="The datasets that wait for a steward now.")]
    datasets: list[Overdrawn]
    at: str

"""Runs as they are answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from ledger.api.schemas.common import Problem
from ledger.core.datasets import Adjacency, Bound
from ledger.core.runs import RunStateName
from ledger.service.shapes.common import AmountShown


class RunOnDataset(BaseModel):
    name: str
    seq: int
    remaining: Annotated[
        AmountShown | None, Field(description="Of all that it charges there the least; null where it charges nothing.")
    ]


class SegmentsShown(BaseModel):
    """A run that may stop after any of its pieces."""

    count: int
    steps: int
    cost: Annotated[AmountShown, Field(description="Of each.")]
    unsegmented: Annotated[AmountShown, Field(description="What the run would cost in one piece.")]


Used = Annotated[float | None, Field(description="The run's share of the delta budget, where a certificate used one.")]
Receipt = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$",
        description="The signed decision: a compact JWS (EdDSA), to be checked with `/.well-known/jwks.json`.",
    ),
]


class RunApproved(BaseModel):
    id: UUID
    state: Literal["held"]
    decision: Literal["approved"]
    cost: AmountShown
    datasets: list[RunOnDataset]
    receipt: Receipt
    start_by: str
    bound: Bound
    method: str
    assumptions: list[str]
    accountant: str
    delta: Used = None
    project: str | None = None
    segments: SegmentsShown | None = None


class Binding(BaseModel):
    name: str
    partition: str | None = None
    project: str | None = None
    principal: UUID | None = None
    quantity: Literal["mu", "delta"]
    requested: float
    remaining: float
    limit: float


class RunRefused(Problem):
    run: UUID
    datasets: list[Binding]
    fits: Annotated[dict[str, float], Field(description="Each value alone would make the run fit.")]
    seq: int
    delta: Used = None
    project: str | None = None


class BatchResult(BaseModel):
    status: int
    replayed: bool
    run: RunApproved | None = None
    problem: Annotated[
        Problem | None, Field(description="As for one run; `fits` may be missing of a certified cost.")
    ] = None


class Batched(BaseModel):
    results: list[BatchResult]


class BatchWasRefused(Problem):
    results: list[BatchResult]


class OverrunShown(BaseModel):
    """What was executed beyond the plan, charged as a run of its own."""

    steps: int
    cost: AmountShown
    fits: bool
    method: str


class Overdrawn(BaseModel):
    name: str
    partition: str | None = None
    project: str | None = None
    quantity: Literal["mu", "delta"]
    limit: float
    spent: float
    held: float
    overdrawn: float


class RunOverran(Problem):
    """More was executed than fits. It is charged all the same."""

    run: UUID
    state: Literal["settled"]
    cost: AmountShown
    charged: AmountShown
    overrun: OverrunShown
    frozen: Annotated[list[str], Field(description="The datasets that wait for a steward now.")]
    datasets: list[Overdrawn]
    at: str


class RunMoved(BaseModel):
    id: UUID
    state: RunStateName
    cost: AmountShown
    datasets: list[RunOnDataset]
    at: str
    charged: AmountShown | None = None
    returned: AmountShown | None = None
    overrun: OverrunShown | None = None
    settle_by: str | None = None


class RunStarted(RunMoved):
    """A run that may touch its data now. Only this receipt says so."""

    receipt: Receipt


class ReceiptShown(BaseModel):
    run: UUID
    state: Annotated[Literal["held", "started"], Field(description="Only `started` lets a job train.")]
    receipt: Receipt


class RunEvent(BaseModel):
    """What became of a run: when it was started, settled or voided, by whom, and what was said."""

    at: str
    by: dict[str, Any]
    seq: int
    settle_by: str | None = None
    steps: int | None = None
    stop: str | None = None
    evidence: dict[str, Any] | None = None
    reason: str | None = None
    charged: AmountShown | None = None
    returned: AmountShown | None = None
    overrun: OverrunShown | None = None


class RunShown(BaseModel):
    id: UUID
    state: RunStateName
    decision: Literal["approved", "refused"]
    is_overdue: bool
    cost: AmountShown
    datasets: list[dict[str, Any]]
    request: dict[str, Any]
    project: str | None
    idempotency_key: str
    asked_by: dict[str, Any]
    bound: Bound
    adjacency: Adjacency
    method: str
    assumptions: list[str]
    accountant: str
    delta: Used = None
    segments: SegmentsShown | None = None
    created_at: str
    start_by: str | None
    started: RunEvent | None = None
    settled: RunEvent | None = None
    voided: RunEvent | None = None


class RunPage(BaseModel):
    items: list[RunShown]
    next: str | None

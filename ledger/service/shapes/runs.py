"""Runs, as answers show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ledger.core.amounts import Quantity
from ledger.core.datasets import Adjacency, Bound
from ledger.core.people import ProposalKind
from ledger.core.runs import RunStateName
from ledger.service.shapes.common import AmountShown, Id


# Few docstrings here: OpenAPI shows them as descriptions.
class RunOnDataset(TypedDict):
    name: str
    seq: int
    remaining: Annotated[
        AmountShown | None,
        Field(description="The least of the accounts charged there; null if nothing is charged there."),
    ]


class SegmentsShown(TypedDict):
    """A run that may stop after any of its pieces."""

    count: int
    steps: int
    cost: Annotated[AmountShown, Field(description="The cost of each piece.")]
    unsegmented: Annotated[AmountShown, Field(description="The cost of the run in one piece.")]


Used = Annotated[float | None, Field(description="The run's share of the delta budget, if a certificate used one.")]
BeginBy = Annotated[
    str, Field(description="The time until which a job may begin with this receipt. Reading the receipt renews it.")
]
Receipt = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$",
        description="The signed decision: a compact JWS (EdDSA). Check it with `/.well-known/jwks.json`.",
    ),
]


Alone = Annotated[
    AmountShown | None,
    Field(description="What the run would cost by itself; `cost` is what it costs beside what was left."),
]


class SharesShown(TypedDict):
    cost: Annotated[float, Field(description="Of mu squared, beside what was left.")]
    alone: Annotated[float, Field(description="Of mu squared, by itself.")]


Shares = Annotated[SharesShown | None, Field(description="Which part of the least budget the run takes.")]
Kept = Annotated[
    AmountShown | None,
    Field(description="What is not given back, since less was left in the datasets `kept_for` than the run rests on."),
]


class ExpectedBatch(TypedDict):
    size: Annotated[float, Field(description="How many units a Poisson batch has on average: sample rate times units.")]
    least: NotRequired[Annotated[float, Field(description="The same at the least sample rate, if steps differ.")]]
    units: Annotated[int, Field(description="How many units the batches are drawn from.")]


Batches = Annotated[ExpectedBatch, Field(description="Left out if the number of units is not known.")]
Warnings = Annotated[
    list[str], Field(description="What looks like a slip, or runs out soon. It decides nothing. Left out if empty.")
]


class RunApproved(TypedDict):
    id: Id
    state: Literal["held"]
    decision: Literal["approved"]
    cost: AmountShown
    alone: NotRequired[Alone]
    shares: NotRequired[Shares]
    datasets: list[RunOnDataset]
    receipt: Receipt
    start_by: str
    bound: Bound
    method: str
    assumptions: list[str]
    accountant: str
    delta: NotRequired[Used]
    project: NotRequired[str | None]
    segments: NotRequired[SegmentsShown | None]
    expected_batch: NotRequired[Batches]
    warnings: NotRequired[Warnings]


class Binding(TypedDict):
    name: str
    partition: NotRequired[str | None]
    project: NotRequired[str | None]
    principal: NotRequired[Id | None]
    quantity: Quantity
    requested: float
    remaining: float
    limit: float


class RestartShown(TypedDict):
    from_step: int
    to_step: int
    new_batches: bool


class OverrunShown(TypedDict):
    """What was executed beyond the plan, or repeated, charged as a run of its own."""

    steps: int
    repeated: Annotated[
        int | None,
        Field(description="How many of them were repeated with the same units; null if that is not known."),
    ]
    cost: AmountShown
    fits: bool
    method: str


Stated = Annotated[list[RestartShown], Field(description="The restarts that were stated when it was settled, if any.")]
Assumed = Annotated[list[str], Field(description="What the charge assumes, in addition to the approval's assumptions.")]


class AsOne(TypedDict):
    """Equal runs as one run of all their steps."""

    runs: Annotated[int, Field(description="How many runs it stands for.")]
    solve_for: Annotated[str, Field(description="The parameter that makes it as long: steps or epochs.")]
    value: int | float
    cost: Annotated[
        AmountShown, Field(description="What that one run costs by itself; in a plan, what it would cost now.")
    ]
    charged: NotRequired[Annotated[AmountShown, Field(description="What the runs before were charged one by one.")]]


class Overdrawn(TypedDict):
    name: str
    partition: NotRequired[str | None]
    project: NotRequired[str | None]
    quantity: Quantity
    limit: float
    spent: float
    held: float
    overdrawn: float


class RunMoved(TypedDict):
    id: Id
    state: RunStateName
    cost: AmountShown
    datasets: list[RunOnDataset]
    at: str
    charged: NotRequired[AmountShown | None]
    returned: NotRequired[AmountShown | None]
    kept: NotRequired[Kept]
    kept_for: NotRequired[list[str]]
    overrun: NotRequired[OverrunShown | None]
    restarts: NotRequired[Stated]
    assumptions: NotRequired[Assumed]
    settle_by: NotRequired[str | None]


class RunStarted(RunMoved):
    """A run that may touch its data now. Only this receipt proves that."""

    begin_by: BeginBy
    receipt: Receipt


class ReceiptShown(TypedDict):
    run: Id
    state: Annotated[Literal["held", "started"], Field(description="Train only if it is `started`.")]
    begin_by: BeginBy
    receipt: Receipt


class Seconded(TypedDict):
    """The proposal of a change that a second steward approved: `by` proposed it."""

    id: Id
    by: dict[str, Any]
    at: str


class RunEvent(TypedDict):
    """What happened to a run: when and by whom it was started, reported, settled or voided, and the request."""

    at: str
    by: dict[str, Any]
    seq: int
    hash: Annotated[str, Field(description="The hash of the entry. The receipt of a start names that of `started`.")]
    proposal: NotRequired[Seconded | None]
    settle_by: NotRequired[str | None]
    steps: NotRequired[int | None]
    stop: NotRequired[str | None]
    evidence: NotRequired[dict[str, Any] | None]
    reason: NotRequired[str | None]
    charged: NotRequired[AmountShown | None]
    returned: NotRequired[AmountShown | None]
    kept: NotRequired[Kept]
    kept_for: NotRequired[list[str]]
    overrun: NotRequired[OverrunShown | None]
    restarts: NotRequired[Stated]
    assumptions: NotRequired[Assumed]
    report: NotRequired[
        Annotated[
            Literal["confirmed", "corrected"] | None,
            Field(description="What a steward decided about the reported number."),
        ]
    ]


class RunShown(TypedDict):
    id: Id
    state: RunStateName
    decision: Literal["approved", "refused"]
    is_overdue: bool
    cost: AmountShown
    alone: NotRequired[Alone]
    shares: NotRequired[Shares]
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
    delta: NotRequired[Used]
    segments: NotRequired[SegmentsShown | None]
    expected_batch: NotRequired[Batches]
    warnings: NotRequired[Warnings]
    created_at: str
    start_by: str | None
    started: NotRequired[RunEvent | None]
    reported: NotRequired[RunEvent | None]
    settled: NotRequired[RunEvent | None]
    voided: NotRequired[RunEvent | None]


class EpsilonsOfRefusal(TypedDict):
    """The epsilon of what was requested, of what was left and of the limit, at one delta; null: no epsilon holds,
    because its delta is not below this delta."""

    delta: float
    requested: float | None
    remaining: float | None
    limit: float | None


class RefusedBy(TypedDict):
    name: str
    partition: NotRequired[str | None]
    project: NotRequired[str | None]
    principal: NotRequired[Id | None]
    quantity: Quantity
    requested: float
    remaining: Annotated[
        float | None, Field(description="null for a dataset that the key does not see, as are those below.")
    ]
    limit: float | None
    share_requested: Annotated[
        float | None, Field(description="The part of the limit that was requested: of mu², which adds up, or of delta.")
    ]
    share_remaining: float | None
    epsilon: list[EpsilonsOfRefusal]


class RunProposalShown(TypedDict):
    """A change of the run that one steward proposed: a void or a correction."""

    id: Id
    what: ProposalKind
    by: Mapping[str, Any]
    at: str
    state: Literal["open", "approved", "refused", "expired"]
    approve_by: str


class RunInFull(RunShown):
    refused_by: Annotated[
        list[RefusedBy] | None,
        Field(description="Why it was refused: every account that bound, up to a hundred; null if it was approved."),
    ]
    refused_by_count: Annotated[int | None, Field(description="How many accounts bound; null if it was approved.")]
    proposals: Annotated[list[RunProposalShown], Field(description="What stewards proposed about it, oldest first.")]


class RunPage(TypedDict):
    items: list[RunShown]
    next: str | None

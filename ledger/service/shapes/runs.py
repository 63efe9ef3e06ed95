"""Runs, as answers show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ledger.core.amounts import Quantity
from ledger.core.datasets import Adjacency, Bound
from ledger.core.people import ProposalKind
from ledger.core.runs import RunStateName, RunStateShown
from ledger.service.shapes.common import (
    AmountShown,
    EpsilonAlone,
    Id,
    Percent,
    PercentOfBudget,
    PercentOfDelta,
    RunsLeft,
)


# Few docstrings here: OpenAPI shows them as descriptions.
class RunOnDataset(PercentOfBudget):
    name: str
    seq: int
    remaining: Annotated[
        AmountShown | None,
        Field(description="The least of the accounts charged there; null if nothing is charged there."),
    ]
    account: NotRequired[
        Annotated[str, Field(description="Which account has least mu left, unless it is the dataset's own.")]
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
    percent: NotRequired[Percent]
    percent_of_delta: NotRequired[PercentOfDelta]
    epsilon: NotRequired[EpsilonAlone]
    cost: AmountShown
    alone: NotRequired[Alone]
    shares: NotRequired[Shares]
    datasets: list[RunOnDataset]
    runs_left: NotRequired[RunsLeft]
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


PercentRequested = Annotated[
    float | None,
    Field(description="What is asked for, in percent of the limit, of mu² or of delta, which add up; rounded up."),
]
PercentRemaining = Annotated[float | None, Field(description="What is left, in percent of the limit; rounded down.")]


class Binding(TypedDict):
    name: str
    partition: NotRequired[str | None]
    project: NotRequired[str | None]
    principal: NotRequired[Id | None]
    quantity: Quantity
    requested: float
    remaining: float
    limit: float
    percent_requested: NotRequired[PercentRequested]
    percent_remaining: NotRequired[PercentRemaining]


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


class ModelShown(TypedDict):
    name: str
    sha256: str
    size: Annotated[int, Field(description="In bytes.")]


Models = Annotated[
    list[ModelShown], Field(description="The files that it produced, as stated when it was settled, if any were.")
]
Stated = Annotated[list[RestartShown], Field(description="The restarts that were stated when it was settled, if any.")]
Assumed = Annotated[list[str], Field(description="What the charge assumes, in addition to the approval's assumptions.")]


class AsOne(TypedDict):
    """Equal runs as one run of all their steps."""

    runs: Annotated[int, Field(description="How many runs it stands for.")]
    solve_for: Annotated[str, Field(description="The parameter that makes it as long: steps or epochs.")]
    value: int | float
    percent: NotRequired[Percent]
    percent_charged: NotRequired[
        Annotated[float | None, Field(description="What the runs before were charged, in percent of the least budget.")]
    ]
    epsilon: NotRequired[EpsilonAlone]
    cost: Annotated[
        AmountShown, Field(description="What that one run costs by itself; in a plan, what it would cost now.")
    ]
    charged: NotRequired[Annotated[AmountShown, Field(description="What the runs before were charged one by one.")]]
    waits: NotRequired[Annotated[bool, Field(description="In a plan: that one run would wait for a steward.")]]


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
    percent: NotRequired[
        Annotated[
            float | None,
            Field(description="Of the budget: what the run holds, or was charged or keeps once it has ended."),
        ]
    ]
    percent_of_delta: NotRequired[PercentOfDelta]
    cost: AmountShown
    datasets: list[RunOnDataset]
    at: str
    charged: NotRequired[AmountShown | None]
    returned: NotRequired[AmountShown | None]
    kept: NotRequired[Kept]
    kept_for: NotRequired[list[str]]
    overrun: NotRequired[OverrunShown | None]
    restarts: NotRequired[Stated]
    models: NotRequired[Models]
    assumptions: NotRequired[Assumed]
    settle_by: NotRequired[str | None]


class RunCorrected(TypedDict):
    """A settled run that was declared wrong, and what it is charged now."""

    id: Id
    state: Literal["settled"]
    number: Annotated[int, Field(description="Which correction of the run this is, from 1.")]
    replaces: Annotated[
        bool,
        Field(description="Whether the true mechanism takes the place of the declared one; otherwise both count."),
    ]
    before: Annotated[AmountShown, Field(description="What the run was charged until then.")]
    cost: Annotated[AmountShown, Field(description="What the true mechanism costs.")]
    charged: Annotated[AmountShown, Field(description="What the run is charged now.")]
    late: Annotated[AmountShown, Field(description="What was charged in addition.")]
    returned: Annotated[AmountShown, Field(description="What was given back.")]
    fits: Annotated[bool, Field(description="false: the datasets `frozen` are overdrawn, and frozen for a steward.")]
    frozen: list[str]
    overdrawn: list[Overdrawn]
    datasets: list[RunOnDataset]
    method: str
    assumptions: list[str]
    delta: NotRequired[Used]
    at: str


class RunStarted(RunMoved):
    """A run that may touch its data now. Only this receipt proves that."""

    begin_by: BeginBy
    receipt: Receipt


class ReceiptShown(TypedDict):
    run: Id
    state: Annotated[Literal["held", "started"], Field(description="Train only if it is `started`.")]
    begin_by: BeginBy
    receipt: Receipt


class AttestationSignature(TypedDict):
    keyid: Annotated[str, Field(description="The `kid` of a key of /.well-known/jwks.json.")]
    sig: Annotated[str, Field(description="The Ed25519 signature, in base64.")]


class Attestation(TypedDict):
    """A DSSE envelope."""

    payloadType: Annotated[str, Field(description="`application/vnd.in-toto+json`.")]
    payload: Annotated[str, Field(description="An in-toto statement v1 as JSON, in base64.")]
    signatures: list[AttestationSignature]


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
    token_sha256: NotRequired[
        Annotated[str | None, Field(description="Of the token of the process that started it, if it sent one.")]
    ]
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
    models: NotRequired[Models]
    assumptions: NotRequired[Assumed]
    report: NotRequired[
        Annotated[
            Literal["confirmed", "corrected"] | None,
            Field(description="What a steward decided about the reported number."),
        ]
    ]


class CorrectionShown(TypedDict):
    """A correction of a run after it was settled: what it really was, who stated that, and what changed."""

    number: int
    at: str
    by: dict[str, Any]
    seq: int
    hash: str
    proposal: NotRequired[Seconded | None]
    mechanism: dict[str, Any]
    reason: str
    decided_by_output: bool
    on_word_of: NotRequired[str | None]
    advisory: NotRequired[str | None]
    evidence: NotRequired[dict[str, Any] | None]
    method: str
    before: AmountShown
    cost: AmountShown
    charged: AmountShown
    late: AmountShown
    returned: AmountShown
    fits: bool
    frozen: list[str]


class ProgressShown(TypedDict):
    """What the job of a run reported last. It is evidence: nothing is charged by it."""

    steps: Annotated[int, Field(description="How many steps counted as executed then.")]
    at: str
    reporter: Annotated[str | None, Field(description="Which place reported it, as it was sent.")]


class SecondedShown(TypedDict):
    """Who approved a run that waited for a steward, when it was asked for, and why it was approved."""

    id: Id
    by: Mapping[str, Any]
    at: str
    approved_by: Mapping[str, Any]
    reason: NotRequired[str | None]


class RunShown(TypedDict):
    id: Id
    state: Annotated[
        RunStateShown,
        Field(description="waiting: for a steward. expired: no steward approved it in time."),
    ]
    decision: Annotated[
        Literal["approved", "refused", "waiting", "entered"],
        Field(description="entered: a past run that a steward entered. It is declared, and was not observed."),
    ]
    is_overdue: bool
    percent: NotRequired[Percent]
    percent_of_delta: NotRequired[PercentOfDelta]
    percent_charged: NotRequired[
        Annotated[float | None, Field(description="What it was charged or keeps, in percent, once it has ended.")]
    ]
    epsilon: NotRequired[EpsilonAlone]
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
    proposal: NotRequired[SecondedShown | None]
    started: NotRequired[RunEvent | None]
    progress: NotRequired[ProgressShown | None]
    reported: NotRequired[RunEvent | None]
    settled: NotRequired[RunEvent | None]
    voided: NotRequired[RunEvent | None]
    corrections: NotRequired[Annotated[list[CorrectionShown], Field(description="Oldest first. Left out if none.")]]


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
    percent_requested: NotRequired[PercentRequested]
    percent_remaining: NotRequired[PercentRemaining]
    share_requested: Annotated[
        float | None, Field(description="The part of the limit that was requested: of mu², which adds up, or of delta.")
    ]
    share_remaining: float | None
    epsilon: list[EpsilonsOfRefusal]


class RunProposalShown(TypedDict):
    """A change of the run that one steward proposed: a void or a correction; or the run itself, which waits."""

    id: Id
    what: ProposalKind
    by: Mapping[str, Any]
    at: str
    state: Literal["open", "approved", "refused", "expired"]
    approve_by: str
    answered_by: NotRequired[Mapping[str, Any] | None]
    answered_at: NotRequired[str | None]
    answered_reason: NotRequired[str | None]


class RunInFull(RunShown):
    refused_by: Annotated[
        list[RefusedBy] | None,
        Field(description="Why it was refused: every account that bound, up to a hundred; null if it was approved."),
    ]
    refused_by_count: Annotated[int | None, Field(description="How many accounts bound; null if it was approved.")]
    runs_left: NotRequired[RunsLeft]
    proposals: Annotated[list[RunProposalShown], Field(description="What stewards proposed about it, oldest first.")]


class RunPage(TypedDict):
    items: list[RunShown]
    next: str | None

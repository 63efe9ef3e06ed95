"""The shapes of requests and answers, for checking what comes in and for the OpenAPI document.

Answers are built as plain dictionaries; the models of answers here describe them, and a test holds the two together.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from ledger.accounting.budgets import Budget, EpsilonBudget, MuBudget
from ledger.accounting.mechanisms import Mechanism
from ledger.accounting.numbers import Count, Probability
from ledger.core.amounts import (
    Adjacency,
    AlertKind,
    Bound,
    DatasetState,
    DeliveryState,
    ProposalKind,
    Quantity,
    Role,
    RunStateName,
)
from ledger.service.shapes import (
    DatasetName,
    LongText,
    Overlap,
    PartitionName,
    ProjectName,
    ShortText,
    Strict,
    distinct,
)

Title = Annotated[str, StringConstraints(max_length=255)]
Description = Annotated[str, StringConstraints(max_length=10_000)]


# --- requests --------------------------------------------------------------------------------------------------------


def _budget(value: Any) -> Any:
    """Chooses the form by its fields, so that an error speaks of the form that was meant."""
    if not isinstance(value, dict):
        raise PydanticCustomError("budget", 'must be an object: {"epsilon", "at_delta"} or {"mu", "delta"}')
    return (MuBudget if "mu" in value else EpsilonBudget).model_validate(value)


AnyBudget = Annotated[Budget, BeforeValidator(_budget)]


def _moment(value: Any) -> Any:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or "T" not in value.upper():
        raise PydanticCustomError("moment", "must be an RFC 3339 time with its offset, such as 2030-01-01T00:00:00Z")
    try:
        moment = datetime.fromisoformat(value.upper())
        return moment if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise PydanticCustomError("moment", "must be an RFC 3339 time, such as 2030-01-01T00:00:00Z") from None


Moment = Annotated[AwareDatetime, BeforeValidator(_moment)]
"""A time as RFC 3339 has it, with its offset."""


class NewTenant(Strict):
    name: ShortText

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": {"name": "acme"}})


class NewKey(Strict):
    name: ShortText
    role: Role
    datasets: Annotated[list[DatasetName], Field(min_length=1, max_length=1000)] | None = None
    projects: Annotated[
        list[ProjectName] | None,
        Field(min_length=1, max_length=1000, description="Of a requester: it has to name one of these."),
    ] = None
    expires_at: Moment | None = None

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"name": "training-ci", "role": "requester"}}
    )

    @model_validator(mode="after")
    def _projects_of_requesters(self) -> NewKey:
        if self.projects is not None and self.role != "requester":
            raise _about("projects", "limit a requester; another role reaches beyond any project")
        return self


class DerivedFrom(Strict):
    """A dataset that this one is a copy, filter or join of."""

    name: DatasetName
    unit_preserving: Annotated[
        Literal[True],
        Field(
            description="Your word that one privacy unit of that dataset changes only its own rows here, and that the "
            "rows of one unit are clipped and sampled together."
        ),
    ]


Partitions = Annotated[
    list[PartitionName], Field(max_length=1000, json_schema_extra={"uniqueItems": True}), AfterValidator(distinct)
]


class NewDataset(Strict):
    name: DatasetName
    title: Title = ""
    description: Description = ""
    privacy_unit: Annotated[
        ShortText | None, Field(description="What one neighbouring dataset lacks; that of the roots, where derived.")
    ] = None
    adjacency: Annotated[Adjacency | None, Field(description="That of the roots, where derived.")] = None
    size: Annotated[Count | None, Field(description="A public, nominal figure.")] = None
    bound: Annotated[
        Bound | None, Field(description="`certified` when left out, or that of the roots, where derived.")
    ] = None
    budget: Annotated[
        AnyBudget | None, Field(description="May be left out of a derived dataset alone, whose runs charge its roots.")
    ] = None
    derived_from: Annotated[list[DerivedFrom], Field(max_length=100)] | None = None
    partitions: Annotated[
        Partitions | None,
        Field(description="Names of parts such that no privacy unit is in two, which is your word; null: none, ever."),
    ] = None
    ceiling: Annotated[AnyBudget | None, Field(description="A limit that no later budget may pass.")] = None

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "example": {
                "name": "mnist",
                "title": "MNIST, training half",
                "privacy_unit": "record",
                "adjacency": "add_or_remove_one",
                "size": 60000,
                "bound": "clt",
                "budget": {"epsilon": 3.0, "at_delta": 1e-5},
            }
        },
    )

    @model_validator(mode="after")
    def _whole(self) -> NewDataset:
        if self.derived_from:
            if self.partitions is not None:
                raise _about("partitions", "a derived dataset has those of what it is derived from")
            if self.ceiling is not None and self.budget is None:
                raise _about("ceiling", "belongs to a budget")
            if any(parent.name == self.name for parent in self.derived_from):
                raise _about("derived_from", "names the dataset itself")
            if len({parent.name for parent in self.derived_from}) < len(self.derived_from):
                raise _about("derived_from", "names a dataset twice")
            return self
        for field in ("privacy_unit", "adjacency", "budget"):
            if getattr(self, field) is None:
                missing = InitErrorDetails(type="missing", loc=(field,), input=None)
                raise ValidationError.from_exception_data("dataset", [missing])
        return self


def _about(field: str, message: str) -> ValidationError:
    """What is wrong with a field in the light of others."""
    error = PydanticCustomError("dataset", "{message}", {"message": message})
    return ValidationError.from_exception_data("dataset", [InitErrorDetails(type=error, loc=(field,), input=None)])


class NewPartitions(Strict):
    names: Annotated[Partitions, Field(min_length=1)]
    disjoint: Annotated[Literal[True], Field(description="Your word that no privacy unit is in two partitions.")]

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"names": ["2026-11"], "disjoint": True}},
    )


class ProjectShare(Strict):
    budget: AnyBudget
    reason: LongText | None = None

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"budget": {"mu": 0.5, "delta": 1e-6}}}
    )


class NewFairUse(Strict):
    held: Annotated[
        AnyBudget | None, Field(description="What one principal's runs may hold at once; null: as much as there is.")
    ] = None
    runs_per_hour: Annotated[int | None, Field(ge=1, le=100_000, description="null: as many as they like.")] = None
    reason: LongText

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "example": {
                "held": {"mu": 0.2, "delta": 1e-7},
                "runs_per_hour": 100,
                "reason": "So that one sweep leaves something for the others.",
            }
        },
    )


class NewBatch(Strict):
    runs: Annotated[
        list[dict[str, Any]],
        Field(
            min_length=1,
            max_length=1000,
            description="Each as for `POST /v1/runs`, with its `idempotency_key` beside the other fields.",
        ),
    ]
    atomic: Annotated[bool, Field(description="All of them or none.")] = False


class DatasetChange(Strict):
    """At least one of state, title and description; a change of state gives its reason."""

    state: DatasetState | None = None
    title: Title | None = None
    description: Description | None = None
    reason: LongText | None = None

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"state": "frozen", "reason": "Under review since two records came twice."}},
    )

    @model_validator(mode="after")
    def _says_something(self) -> DatasetChange:
        if self.state is None and self.title is None and self.description is None:
            raise PydanticCustomError("change", "give at least one of state, title and description")
        if self.state is not None and self.reason is None:
            missing = InitErrorDetails(type="missing", loc=("reason",), input=None)
            raise ValidationError.from_exception_data("change", [missing])
        return self


class NewBudget(Strict):
    budget: AnyBudget
    reason: LongText

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "example": {"budget": {"epsilon": 5.0, "at_delta": 1e-5}, "reason": "Agreed by the review board in March."}
        },
    )


class Evaluation(Strict):
    mechanism: Mechanism
    bound: Bound = "certified"
    adjacency: Adjacency = "add_or_remove_one"
    delta: Annotated[
        Probability | None,
        Field(description="The share of a delta budget that a certificate may use; 1e-8 when left out."),
    ] = None
    report_deltas: Annotated[list[Probability], Field(min_length=1, max_length=20)] | None = None

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "example": {
                "bound": "clt",
                "mechanism": {
                    "type": "dpsgd",
                    "noise_multiplier": 1.1,
                    "sampling": "poisson",
                    "dataset_size": 60000,
                    "batch_size": 256,
                    "epochs": 60,
                },
            }
        },
    )


# --- answers ---------------------------------------------------------------------------------------------------------


class Problem(BaseModel):
    """RFC 9457. Facts that belong to the code stand beside these members."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    code: str
    detail: str
    field: str | None = None
    request_id: Annotated[str | None, Field(description="Of a fault: what the log knows the request by.")] = None


Digits = Annotated[str, StringConstraints(pattern=r"^-?[0-9]+$")]


class AmountShown(BaseModel):
    mu: float
    delta: float
    mu_sq_pico: Annotated[Digits | None, Field(description="Units of 1e-12 of mu²; null where it cannot be held.")]
    delta_atto: Annotated[Digits | None, Field(description="Units of 1e-18 of -log(1 - delta).")]


class TenantShown(BaseModel):
    id: UUID
    name: str


class SecretShown(BaseModel):
    """A new key. Its secret is shown this once and kept nowhere."""

    id: UUID
    role: Role
    secret: str
    name: str | None = None
    datasets: list[str] | None = None
    projects: list[str] | None = None
    principal: UUID | None = None
    created_at: str | None = None
    expires_at: str | None = None
    revoked_at: str | None = None
    last_used_at: str | None = None


class Me(BaseModel):
    """Whom the ledger takes the caller for."""

    role: Role | Literal["operator"]
    tenant: TenantShown | None = None
    principal: UUID | None = None
    name: str | None = None
    datasets: list[str] | None = None
    projects: list[str] | None = None
    expires_at: str | None = None


class PolicyShown(BaseModel):
    second_steward: Annotated[
        bool,
        Field(
            description="Whether raising a budget, thawing an overdrawn dataset and voiding a started run take a "
            "second steward within a day."
        ),
    ]


class NewPolicy(Strict):
    second_steward: bool
    reason: LongText

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"second_steward": True, "reason": "Agreed with the data protection officer."}},
    )


class WebhookShown(BaseModel):
    """Where alerts go. The rest of the URL may be a secret, and is not shown."""

    host: str
    sha256: Annotated[str, Field(description="Of the whole URL.")]


class AlertingShown(BaseModel):
    thresholds: Annotated[list[int], Field(description="Percent of an account's budget, spent and held together.")]
    refusals_in_a_row: Annotated[int | None, Field(description="Of one dataset; null is never.")]
    forecast_days: Annotated[int | None, Field(description="Below how many days left; null is never.")]
    webhook: WebhookShown | None
    heads: Annotated[bool, Field(description="Whether the webhook gets the journals' heads too, for keeping.")]


def _rising(values: list[int]) -> list[int]:
    if any(one >= other for one, other in pairwise(values)):
        raise PydanticCustomError("rising", "must rise from each to the next")
    return values


class NewAlerting(Strict):
    thresholds: Annotated[
        list[Annotated[int, Field(ge=1, le=100)]],
        Field(default_factory=list, max_length=20, description="Percent, rising; none is never."),
        AfterValidator(_rising),
    ]
    refusals_in_a_row: Annotated[int, Field(ge=1, le=100)] | None = None
    forecast_days: Annotated[int, Field(ge=1, le=3650)] | None = None
    webhook: Annotated[
        str | None, Field(max_length=2000, description="A URL, whose host the operator has to allow.")
    ] = None
    heads: Annotated[bool, Field(description="Whether the webhook gets the journals' heads too, for keeping.")] = False
    reason: LongText

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"forecast_days": 60, "reason": "Procurement takes two months."}},
    )


class Delivery(BaseModel):
    state: Annotated[
        DeliveryState,
        Field(description="none: there was no webhook. failed: it was tried as often as it is ever tried."),
    ]
    tries: int
    failure: Annotated[str | None, Field(description="Why the last try failed.")]
    next_try_at: str | None
    delivered_at: str | None


class AlertShown(BaseModel):
    id: UUID
    kind: AlertKind
    at: str
    event: Annotated[dict[str, Any], Field(description="As it is signed and sent; docs/alerts.md has the members.")]
    delivery: Delivery


class AlertPage(BaseModel):
    items: list[AlertShown]
    next: str | None


class Rotation(Strict):
    overlap: Annotated[
        Overlap, Field(description="How long the old key works beside the new one: P1D when left out.")
    ] = timedelta(days=1)

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": {"overlap": "PT1H"}})


class Refusal(Strict):
    reason: LongText

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"reason": "The board has not agreed."}}
    )


ProposalStateShown = Literal["open", "approved", "refused", "expired"]


class ProposalShown(BaseModel):
    id: UUID
    what: ProposalKind
    dataset: str
    run: UUID | None
    proposes: dict[str, Any]
    proposed_by: dict[str, Any]
    state: ProposalStateShown
    created_at: str
    approve_by: str


class Proposed(BaseModel):
    """It takes a second steward: nothing is changed yet."""

    proposal: ProposalShown


class ProposalPage(BaseModel):
    items: list[ProposalShown]
    next: str | None


class NewTenantShown(BaseModel):
    tenant: TenantShown
    key: SecretShown


class KeyShown(BaseModel):
    id: UUID
    name: str
    role: Role
    datasets: list[str] | None
    projects: list[str] | None
    principal: UUID
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: Annotated[str | None, Field(description="To the minute: it is not written at every request.")]


class AccountForecast(BaseModel):
    partition: str | None
    project: str | None
    since: Annotated[str, Field(description="Where the time begins that the estimate looks at.")]
    runs: Annotated[int, Field(description="How many runs were approved since.")]
    spent: Annotated[AmountShown, Field(description="What those runs hold and were charged.")]
    remaining: AmountShown
    is_enough: Annotated[bool, Field(description="Whether that is enough to say anything.")]
    lasts_until: Annotated[
        str | None, Field(description="Null where nothing can be said, or it lasts for a hundred years or more.")
    ]
    days_left: int | None
    quantity: Annotated[Quantity | None, Field(description="What is used up first.")]


class ForecastShown(BaseModel):
    """An estimate, by the rate of the last weeks. It decides nothing."""

    dataset: str
    at: str
    is_estimate: Literal[True]
    window_days: int
    accounts: Annotated[list[AccountForecast], Field(description="Those that end first, at most 100.")]
    accounts_count: int


class BalanceShown(BaseModel):
    limit: AmountShown
    spent: AmountShown
    held: AmountShown
    remaining: AmountShown


class EpsilonOfBudget(BaseModel):
    delta: float
    spent: Annotated[float | None, Field(description="null is infinity")]
    limit: Annotated[float | None, Field(description="null is infinity")]


class Counted(BaseModel):
    """A budget, or a part of one: what is left of it, and what that is as epsilon."""

    balance: BalanceShown
    epsilon: list[EpsilonOfBudget]


class PartitionShown(Counted):
    name: str


class ProjectOfDataset(Counted):
    name: str
    budget: dict[str, Any]


class ProjectShown(ProjectOfDataset):
    dataset: str


class ParentShown(BaseModel):
    name: str
    unit_preserving: Literal[True]


class FairUseShown(BaseModel):
    held: dict[str, Any] | None
    runs_per_hour: int | None


class DatasetShown(BaseModel):
    name: str
    title: str
    description: str
    privacy_unit: str
    adjacency: Adjacency
    size: int | None
    bound: Bound
    is_estimate: bool
    budget: Annotated[dict[str, Any] | None, Field(description="null: its runs charge what it is derived from.")]
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


class PartitionPage(BaseModel):
    items: list[PartitionShown]
    next: str | None


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


class PlannedOn(BaseModel):
    name: str
    state: DatasetState
    limit: AmountShown | None
    remaining: Annotated[
        AmountShown | None, Field(description="Of all that it charges there the least; null where it charges nothing.")
    ]
    after: Annotated[AmountShown | None, Field(description="What the run would leave; null where it does not fit.")]


class Solution(BaseModel):
    solve_for: str
    value: int | float
    cost: Annotated[AmountShown, Field(description="What this value would be charged; of all `runs` together.")]


class Planned(BaseModel):
    fits: bool
    cost: AmountShown
    bound: Bound
    method: str
    assumptions: list[str]
    accountant: str
    is_estimate: bool
    delta: Used
    datasets: list[PlannedOn]
    binding: Annotated[list[Binding], Field(description="What a refusal would say; empty where the run fits.")]
    would_fit: Annotated[
        dict[str, float], Field(description="Each value alone would make the run fit; empty where it does as it is.")
    ]
    solution: Annotated[
        Solution | None, Field(description="For `solve_for`; null where no value fits, or nothing was asked.")
    ]
    segments: SegmentsShown | None = None


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


class EpsilonShown(BaseModel):
    delta: float
    value: Annotated[float | None, Field(description="null is infinity")]


class Certified(BaseModel):
    """A point on the line along which a certificate trades mu for delta."""

    delta: float
    mu: float


class Evaluated(BaseModel):
    cost: AmountShown
    epsilon: list[EpsilonShown]
    bound: Bound
    adjacency: Adjacency
    is_estimate: bool
    method: str
    assumptions: list[str]
    accountant: str
    frontier: Annotated[
        list[Certified] | None,
        Field(description="Where the cost is a certificate: what it would be for other shares of the delta budget."),
    ] = None


class EntryShown(BaseModel):
    seq: int
    hash: str
    entry: Annotated[
        dict[str, Any], Field(description="The entry, byte for byte in its canonical form: `hash` is its SHA-256.")
    ]


class SignedHead(BaseModel):
    seq: int
    hash: str
    root: str = Field(description="The Merkle root over the hashes of all entries, RFC 9162.")
    signature: str = Field(description="All of that as a compact JWS, by a key of /.well-known/jwks.json.")


class TenantHead(SignedHead):
    tenant: str


class Head(SignedHead):
    dataset: str


class _Inclusion(BaseModel):
    kind: Literal["inclusion"]
    seq: int
    hash: str = Field(description="The entry's hash, the data of the leaf `seq - 1`.")
    size: int
    root: str = Field(description="Over the first `size` entries.")
    path: list[str] = Field(description="The inclusion proof of RFC 9162, 2.1.3.")
    head: SignedHead


class InclusionProof(_Inclusion):
    dataset: str


class TenantInclusionProof(_Inclusion):
    tenant: str


class _Consistency(BaseModel):
    kind: Literal["consistency"]
    from_: int = Field(alias="from")
    from_root: str = Field(description="Over the first `from` entries.")
    to: int
    root: str = Field(description="Over the first `to` entries.")
    path: list[str] = Field(description="The consistency proof of RFC 9162, 2.1.4.")
    head: SignedHead


class ConsistencyProof(_Consistency):
    dataset: str


class TenantConsistencyProof(_Consistency):
    tenant: str


class KeyPage(BaseModel):
    items: list[KeyShown]
    next: str | None


class DatasetPage(BaseModel):
    items: list[DatasetShown]
    next: str | None


class RunPage(BaseModel):
    items: list[RunShown]
    next: str | None


class EntryPage(BaseModel):
    items: list[EntryShown]
    next: str | None


class PublicKey(BaseModel):
    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: str
    kid: Annotated[str, Field(description="The key's thumbprint by RFC 7638.")]
    use: Literal["sig"]
    alg: Literal["EdDSA"]


class KeySet(BaseModel):
    """A JWK set: the key that is signed with now, then those before it."""

    keys: list[PublicKey]


class Health(BaseModel):
    status: Literal["ok"]

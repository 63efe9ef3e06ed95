"""The nouns of the ledger, as frozen values: amounts, accounts, datasets, runs, and what is asked of them.

Amounts are exact integers. `mu_sq_pico` counts units of 1e-12 of mu², `delta_atto` units of 1e-18 of -log(1 - delta):
in these coordinates Gaussian differential privacy composes by plain addition. Times are integer microseconds since
1970 UTC (`_us`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

INT64_MAX: Final = 2**63 - 1
NO_HASH: Final = bytes(32)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Adjacency = Literal["add_or_remove_one", "replace_one"]
Bound = Literal["certified", "clt"]
DatasetState = Literal["active", "frozen", "retired"]
RunStateName = Literal["held", "started", "settled", "voided", "refused"]
Role = Literal["admin", "steward", "requester", "auditor"]
Quantity = Literal["mu", "delta"]
ProposalKind = Literal["budget", "thaw", "void"]
ProposalState = Literal["open", "approved", "refused"]
AlertKind = Literal["threshold", "refusals", "overrun", "frozen", "overdue", "mismatch", "forecast", "head", "test"]
DeliveryState = Literal["pending", "delivered", "failed", "none"]


def timestamp(us: int) -> str:
    """Microseconds since 1970 as RFC 3339 UTC, always with six decimals, so that text order is time order."""
    return (_EPOCH + timedelta(microseconds=us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def microseconds(moment: datetime) -> int:
    """The inverse of `timestamp`, for an aware datetime."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Amount:
    """A point of the (mu², -log(1-delta)) plane, in integer units. Sums are exact."""

    mu_sq_pico: int
    delta_atto: int

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.mu_sq_pico + other.mu_sq_pico, self.delta_atto + other.delta_atto)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.mu_sq_pico - other.mu_sq_pico, self.delta_atto - other.delta_atto)

    def exceeds(self, other: Amount) -> list[Quantity]:
        """The quantities in which this amount is larger than `other`."""
        pairs: tuple[tuple[Quantity, int, int], ...] = (
            ("mu", self.mu_sq_pico, other.mu_sq_pico),
            ("delta", self.delta_atto, other.delta_atto),
        )
        return [name for name, mine, theirs in pairs if mine > theirs]

    @property
    def saturated(self) -> Amount:
        """The same, where a 64-bit integer ends at most: what a balance can say of more than that."""
        return Amount(min(self.mu_sq_pico, INT64_MAX), min(self.delta_atto, INT64_MAX))

    def least(self, other: Amount) -> Amount:
        """The smaller of the two, in each quantity for itself."""
        return Amount(min(self.mu_sq_pico, other.mu_sq_pico), min(self.delta_atto, other.delta_atto))

    def most(self, other: Amount) -> Amount:
        """The larger of the two, in each quantity for itself."""
        return Amount(max(self.mu_sq_pico, other.mu_sq_pico), max(self.delta_atto, other.delta_atto))

    @property
    def fits_int64(self) -> bool:
        return 0 <= self.mu_sq_pico <= INT64_MAX and 0 <= self.delta_atto <= INT64_MAX

    def facts(self) -> dict[str, str]:
        """As it stands in a record: strings of decimal digits, since it can pass 2^53."""
        return {"mu_sq_pico": str(self.mu_sq_pico), "delta_atto": str(self.delta_atto)}

    @classmethod
    def of(cls, facts: Mapping[str, str]) -> Amount:
        """The inverse of `facts`."""
        return cls(int(facts["mu_sq_pico"]), int(facts["delta_atto"]))


ZERO = Amount(0, 0)


class AccountKey(NamedTuple):
    """Which account of a dataset: of one partition or of the whole, and of nobody, a project or a principal."""

    dataset_id: UUID
    partition: str | None = None
    project: str | None = None
    principal_id: UUID | None = None

    @property
    def is_base(self) -> bool:
        """Whether it is what the dataset's own budget is counted in."""
        return self.project is None and self.principal_id is None

    def facts(self) -> dict[str, str]:
        """What tells it from the others of its dataset, as it stands in an answer."""
        named = {"partition": self.partition, "project": self.project, "principal": self.principal_id}
        return {name: str(value) for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Account:
    """Where a budget is counted: `spent + held <= limit + overdrawn`, in both quantities, always.

    A principal's account limits what is held and never spent: settling a run gives its hold back there.
    """

    key: AccountKey
    limit: Amount
    spent: Amount = ZERO
    held: Amount = ZERO
    overdrawn: Amount = ZERO

    @property
    def remaining(self) -> Amount:
        return self.limit - self.spent - self.held

    def facts(self) -> dict[str, dict[str, str]]:
        """The balance as it stands in a record."""
        parts = {"limit": self.limit, "spent": self.spent, "held": self.held, "overdrawn": self.overdrawn}
        return {name: amount.facts() for name, amount in parts.items()}


@dataclass(frozen=True, slots=True)
class Balance:
    """What several accounts of one budget come to: disjoint partitions compose in parallel, so the most counts.

    Every field is taken in each quantity for itself: the most that is spent and held, the least that remains.
    """

    limit: Amount
    spent: Amount
    held: Amount
    remaining: Amount


class Parent(NamedTuple):
    """A dataset that another one is derived from."""

    id: UUID
    name: str


@dataclass(frozen=True, slots=True)
class Definition:
    """What a dataset is. It never changes once registered, so it can be remembered without asking again.

    derived_from: the datasets that it is a copy, filter or join of. ancestors: those, and theirs, and so on.
    has_budget: a dataset without one is derived, and counts in its ancestors' accounts alone.
    ceiling: no limit may pass it, ever.
    """

    id: UUID
    name: str
    privacy_unit: str
    adjacency: Adjacency
    bound: Bound
    size: int | None
    is_partitioned: bool = False
    has_budget: bool = True
    ceiling: Amount | None = None
    derived_from: tuple[Parent, ...] = ()
    ancestors: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class FairUse:
    """What one principal may have of a dataset: hold at most so much at once, and ask for so many runs an hour."""

    budget: Mapping[str, Any] | None
    held: Amount | None
    runs_per_hour: int | None

    def facts(self) -> dict[str, Any]:
        """As it stands in a record."""
        return {
            "held": self.budget,
            "runs_per_hour": self.runs_per_hour,
            "limit": None if self.held is None else self.held.facts(),
        }


NO_FAIR_USE: Final = FairUse(None, None, None)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset with what does change; `seq` and `head` are its journal's newest number and hash.

    limit: that of its own account, or of each of its partitions; None where it has no budget.
    """

    definition: Definition
    title: str
    description: str
    budget: Mapping[str, Any] | None
    limit: Amount | None
    state: DatasetState
    seq: int
    head: bytes
    fair_use: FairUse = NO_FAIR_USE
    created_us: int = 0

    @property
    def id(self) -> UUID:
        return self.definition.id


@dataclass(frozen=True, slots=True)
class Project:
    """A team's share of a dataset's budget: the limit of each of its accounts there."""

    dataset_id: UUID
    name: str
    budget: Mapping[str, Any]
    limit: Amount


class Place(NamedTuple):
    """Where in a dataset's journal a run was decided."""

    dataset_id: UUID
    seq: int


@dataclass(frozen=True, slots=True)
class Run:
    """What of a run can change, or decides what may happen to it. The rest stands in its journal entries.

    places: one for each dataset that it touches; known when it is decided, and not read again.
    """

    id: UUID
    principal_id: UUID
    state: RunStateName
    cost: Amount | None
    created_us: int
    project: str | None = None
    started_us: int | None = None
    ended_us: int | None = None
    due_us: int | None = None
    places: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class Alerting:
    """What a tenant wants to be told of.

    thresholds: percent of a budget, rising. refusals_in_a_row: of one dataset; None is never. forecast_days: below how
    many days of budget left; None is never. webhook: where to; None is nowhere, and alerts are only listed. heads:
    whether the webhook is to keep the journals' heads too.
    """

    thresholds: tuple[int, ...] = (50, 80, 90, 95, 100)
    refusals_in_a_row: int | None = 3
    forecast_days: int | None = 30
    webhook: str | None = None
    heads: bool = False

    def facts(self) -> dict[str, Any]:
        """As it stands in its row."""
        return {
            "thresholds": list(self.thresholds),
            "refusals_in_a_row": self.refusals_in_a_row,
            "forecast_days": self.forecast_days,
            "webhook": self.webhook,
            "heads": self.heads,
        }


DEFAULT_ALERTING: Final = Alerting()


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that a tenant is told of, once under each `key`. `facts` are what its kind says besides.

    seq: of the entry that it tells of, in the dataset's journal.
    """

    kind: AlertKind
    key: tuple[str, ...]
    facts: Mapping[str, Any]
    dataset: Parent | None = None
    run_id: UUID | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class KeptAlert:
    """An alert as it is kept: the event, canonical JSON, and how far it came. next_us: when it is tried again."""

    id: UUID
    kind: AlertKind
    at_us: int
    body: str
    state: DeliveryState
    attempts: int
    next_us: int | None
    delivered_us: int | None
    failure: str | None


@dataclass(frozen=True, slots=True)
class Tenant:
    """An organisation. `seq` and `head` are its own journal's newest number and hash.

    second_steward: whether what loosens a budget takes a second person.
    """

    id: UUID
    name: str
    second_steward: bool
    seq: int
    head: bytes
    alerting: Alerting = DEFAULT_ALERTING


@dataclass(frozen=True, slots=True)
class TenantEntry:
    """An entry of a tenant's own journal: of keys, roles and policies."""

    seq: int
    kind: str
    at_us: int
    body: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: a key, and the principal that it stands for. `datasets` limits what it sees; None is no limit.

    projects: it can ask for runs of these alone. expires_us: of a token, which has no row that says so.
    """

    tenant_id: UUID
    key_id: UUID
    principal_id: UUID
    name: str
    role: Role
    datasets: frozenset[str] | None = None
    projects: frozenset[str] | None = None
    expires_us: int | None = None

    @property
    def is_key(self) -> bool:
        """Whether it is a key of this ledger, and not a token that somebody else issued."""
        return self.expires_us is None

    def facts(self) -> dict[str, Any]:
        return {"key": str(self.key_id), "principal": str(self.principal_id), "name": self.name, "role": self.role}


# What can be asked. Each command that succeeds leaves exactly one entry in the journal of each dataset that it touches.


@dataclass(frozen=True, slots=True)
class Claim:
    """An idempotency key, whose it is, and the digest of the body it stands for."""

    key: str
    digest: bytes


class Consent(NamedTuple):
    """The second person of what takes two.

    proposal_id: under which it is proposed, if it takes two; or which proposal this approves, where `is_second`.
    """

    proposal_id: UUID
    is_second: bool = False


@dataclass(frozen=True, slots=True)
class Register:
    """A steward registers a dataset. `ceiling` is as declared; the definition has the limit that it means."""

    actor: Actor
    definition: Definition
    title: str
    description: str
    budget: Mapping[str, Any] | None
    limit: Amount | None
    ceiling: Mapping[str, Any] | None = None
    partitions: tuple[str, ...] = ()

    @property
    def dataset_ids(self) -> tuple[UUID, ...]:
        return (self.definition.id,)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What one steward asked for, and another one has to approve before it is done.

    body: what it takes to do it. by: the actor who asked, as the journal has it.
    """

    id: UUID
    kind: ProposalKind
    dataset_id: UUID
    run_id: UUID | None
    principal_id: UUID
    body: Mapping[str, Any]
    state: ProposalState
    created_us: int
    expires_us: int


@dataclass(frozen=True, slots=True)
class _OnDataset:
    """What a steward does to one dataset."""

    actor: Actor
    dataset_id: UUID

    @property
    def dataset_ids(self) -> tuple[UUID, ...]:
        return (self.dataset_id,)


@dataclass(frozen=True, slots=True)
class Change(_OnDataset):
    """A steward changes a dataset's state, title or description; None leaves one as it is."""

    state: DatasetState | None
    title: str | None
    description: str | None
    reason: str | None
    consent: Consent


@dataclass(frozen=True, slots=True)
class SetBudget(_OnDataset):
    """A steward sets a new limit, of every partition too."""

    budget: Mapping[str, Any]
    limit: Amount
    reason: str
    consent: Consent


@dataclass(frozen=True, slots=True)
class AddPartitions(_OnDataset):
    """A steward adds partitions, and affirms that no privacy unit lies in two."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetProject(_OnDataset):
    """A steward sets a project's share."""

    project: str
    budget: Mapping[str, Any]
    limit: Amount
    reason: str | None


@dataclass(frozen=True, slots=True)
class SetFairUse(_OnDataset):
    """A steward sets what one principal may have."""

    fair_use: FairUse
    reason: str


@dataclass(frozen=True, slots=True)
class Use:
    """A dataset that a run touches.

    partitions: the names, or None for all that there are when it is decided; empty where the dataset has none.
    via: the named datasets by which it is reached; its own name where it is named itself.
    """

    dataset_id: UUID
    partitions: tuple[str, ...] | None
    via: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """A run asks for approval. `request` is recorded as it was sent, `costing` says how the cost was worked out."""

    actor: Actor
    run_id: UUID
    claim: Claim
    uses: tuple[Use, ...]
    project: str | None
    cost: Amount
    request: Mapping[str, Any]
    costing: Mapping[str, Any]
    valid_for_us: int

    @property
    def dataset_ids(self) -> tuple[UUID, ...]:
        return tuple(use.dataset_id for use in self.uses)


@dataclass(frozen=True, slots=True)
class Batch:
    """Several runs ask together, one after another; `is_atomic` is all or none.

    is_spoilt: one of the whole batch, which is not among `asks`, cannot be approved.
    """

    actor: Actor
    asks: tuple[Ask, ...]
    is_atomic: bool
    is_spoilt: bool = False

    @property
    def dataset_ids(self) -> tuple[UUID, ...]:
        return tuple(dict.fromkeys(dataset_id for ask in self.asks for dataset_id in ask.dataset_ids))


@dataclass(frozen=True, slots=True)
class _OnRun:
    """What is done with an approved run. `charges` are its accounts, by dataset, as its approval recorded them."""

    actor: Actor
    run_id: UUID
    charges: Mapping[UUID, tuple[AccountKey, ...]]

    @property
    def dataset_ids(self) -> tuple[UUID, ...]:
        return tuple(self.charges)


@dataclass(frozen=True, slots=True)
class Start(_OnRun):
    """A held run now touches the data."""


@dataclass(frozen=True, slots=True)
class Excess:
    """What was executed beyond the plan, costed as a run of its own."""

    steps: int
    cost: Amount
    costing: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Settle(_OnRun):
    """A started run has ended. `body` is what was sent, `steps` and `stop` what is recorded of how far it came.

    charged: for what was executed of the plan; never more than was approved.
    """

    body: Mapping[str, Any]
    steps: int | None
    stop: str
    charged: Amount
    excess: Excess | None = None


@dataclass(frozen=True, slots=True)
class Void(_OnRun):
    """No output of a run was ever seen. `body` says why."""

    body: Mapping[str, Any]
    consent: Consent


@dataclass(frozen=True, slots=True)
class RefuseProposal:
    """A second steward says no."""

    actor: Actor
    proposal_id: UUID
    dataset_ids: tuple[UUID, ...]
    reason: str


OnRun = Start | Settle | Void
Single = Register | Change | SetBudget | AddPartitions | SetProject | SetFairUse | Ask | OnRun | RefuseProposal
Command = Single | Batch


@dataclass(frozen=True, slots=True)
class Draft:
    """A journal entry before it is sealed: everything but the hash that ties it to the one before."""

    dataset_id: UUID
    dataset: str
    seq: int
    kind: str
    actor: Mapping[str, Any]
    facts: Mapping[str, Any]
    run_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A sealed journal entry: `body` is its canonical JSON, `hash` the SHA-256 of that text's UTF-8 bytes."""

    dataset_id: UUID
    seq: int
    kind: str
    at_us: int
    run_id: UUID | None
    body: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class Books:
    """The locked rows that a group of commands is decided on, and what they become.

    partitions: the names of a dataset's partitions, complete where a command asks for all of them.
    projects: by dataset and name. recent: when a principal's newest runs on a dataset were decided, oldest first.
    proposals: those that are asked about, and the open ones of a dataset. overdrawn: the datasets with an account that
    is. takes_two: the tenant's policy. alerting: what it wants to be told of.
    """

    datasets: dict[UUID, Dataset] = field(default_factory=dict)
    accounts: dict[AccountKey, Account] = field(default_factory=dict)
    runs: dict[UUID, Run] = field(default_factory=dict)
    partitions: dict[UUID, tuple[str, ...]] = field(default_factory=dict)
    projects: dict[tuple[UUID, str], Project] = field(default_factory=dict)
    recent: dict[tuple[UUID, UUID], tuple[int, ...]] = field(default_factory=dict)
    proposals: dict[UUID, Proposal] = field(default_factory=dict)
    overdrawn: frozenset[UUID] = frozenset()
    takes_two: bool = False
    alerting: Alerting = DEFAULT_ALERTING

    def copy(self) -> Books:
        """Books of their own, for a decision that may come to nothing."""
        return Books(
            dict(self.datasets),
            dict(self.accounts),
            dict(self.runs),
            dict(self.partitions),
            dict(self.projects),
            dict(self.recent),
            dict(self.proposals),
            self.overdrawn,
            self.takes_two,
            self.alerting,
        )


@dataclass(slots=True)
class Wanted:
    """What of a dataset a group of commands has to see, beside the account that it has as a whole.

    partitions: the names, or None for all. projects, principals: whose accounts, in each of those partitions.
    is_every_project: what every project's share is, to know how many there are. is_guarded: whether what is asked can
    take a second person.
    """

    partitions: set[str] | None = field(default_factory=set)
    projects: set[str] = field(default_factory=set)
    principals: set[UUID] = field(default_factory=set)
    is_every_project: bool = False
    is_guarded: bool = False

    def add_partitions(self, names: Sequence[str] | None) -> None:
        """These too; None is all."""
        if names is None:
            self.partitions = None
        elif self.partitions is not None:
            self.partitions.update(names)

"""The nouns of the ledger, as frozen values: amounts, accounts, datasets, runs, and what is asked of them.

Amounts are exact integers. `mu_sq_pico` counts units of 1e-12 of mu², `delta_atto` units of 1e-18 of -log(1 - delta):
in these coordinates Gaussian differential privacy composes by plain addition. Times are integer microseconds since
1970 UTC (`_us`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
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


@dataclass(frozen=True, slots=True)
class Account:
    """Where a budget is counted: `spent + held <= limit + overdrawn`, in both quantities, always."""

    id: UUID
    dataset_id: UUID
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
class Definition:
    """What a dataset is. It never changes once registered, so it can be remembered without asking again."""

    id: UUID
    name: str
    privacy_unit: str
    adjacency: Adjacency
    bound: Bound
    size: int | None


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset with what does change; `seq` and `head` are its journal's newest number and hash."""

    definition: Definition
    title: str
    description: str
    budget: Mapping[str, Any]
    state: DatasetState
    seq: int
    head: bytes
    created_us: int = 0

    @property
    def id(self) -> UUID:
        return self.definition.id


@dataclass(frozen=True, slots=True)
class Run:
    """What of a run can change, or decides what may happen to it. The rest stands in its journal entries."""

    id: UUID
    dataset_id: UUID
    principal_id: UUID
    state: RunStateName
    seq: int
    cost: Amount | None
    created_us: int
    started_us: int | None = None
    ended_us: int | None = None
    due_us: int | None = None


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: a key, and the principal that it stands for. `datasets` limits what it sees; None is no limit."""

    tenant_id: UUID
    key_id: UUID
    principal_id: UUID
    name: str
    role: Role
    datasets: frozenset[str] | None = None

    def facts(self) -> dict[str, Any]:
        return {"key": str(self.key_id), "principal": str(self.principal_id), "name": self.name, "role": self.role}


# What can be asked of a dataset's journal. Each command that succeeds leaves exactly one entry.


@dataclass(frozen=True, slots=True)
class Claim:
    """An idempotency key, whose it is, and the digest of the body it stands for."""

    key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Register:
    """A steward registers a dataset."""

    actor: Actor
    definition: Definition
    account_id: UUID
    title: str
    description: str
    budget: Mapping[str, Any]
    limit: Amount

    @property
    def dataset_id(self) -> UUID:
        return self.definition.id


@dataclass(frozen=True, slots=True)
class Change:
    """A steward changes a dataset's state, title or description; None leaves one as it is."""

    actor: Actor
    dataset_id: UUID
    state: DatasetState | None
    title: str | None
    description: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class SetBudget:
    """A steward sets a new limit."""

    actor: Actor
    dataset_id: UUID
    budget: Mapping[str, Any]
    limit: Amount
    reason: str


@dataclass(frozen=True, slots=True)
class Ask:
    """A run asks for approval. `request` is recorded as it was sent, `costing` says how the cost was worked out."""

    actor: Actor
    dataset_id: UUID
    run_id: UUID
    claim: Claim
    cost: Amount
    request: Mapping[str, Any]
    costing: Mapping[str, Any]
    valid_for_us: int


@dataclass(frozen=True, slots=True)
class Start:
    """A held run now touches the data."""

    actor: Actor
    dataset_id: UUID
    run_id: UUID


@dataclass(frozen=True, slots=True)
class Settle:
    """A started run has ended. `body` is what was sent, `steps` and `stop` what is recorded of how far it came."""

    actor: Actor
    dataset_id: UUID
    run_id: UUID
    body: Mapping[str, Any]
    steps: int | None
    stop: str


@dataclass(frozen=True, slots=True)
class Void:
    """No output of a run was ever seen. `body` says why."""

    actor: Actor
    dataset_id: UUID
    run_id: UUID
    body: Mapping[str, Any]


Command = Register | Change | SetBudget | Ask | Start | Settle | Void


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
    """The locked rows that a group of commands is decided on, and what they become."""

    datasets: dict[UUID, Dataset] = field(default_factory=dict)
    accounts: dict[UUID, Account] = field(default_factory=dict)
    runs: dict[UUID, Run] = field(default_factory=dict)

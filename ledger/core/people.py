"""Tenants, keys, actors and proposals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args
from uuid import UUID

from ledger.core.alerting import DEFAULT_ALERTING, Alerting

Role = Literal["admin", "steward", "requester", "auditor"]
ProposalKind = Literal["budget", "thaw", "void", "partitions", "project", "fair-use", "correction"]
GUARDED: Final = frozenset(get_args(ProposalKind))
"""What a policy of a second steward takes two people for."""
ProposalState = Literal["open", "approved", "refused"]


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

    def sees(self, dataset: str) -> bool:
        """Whether the dataset of this name is one that the key is for."""
        return self.datasets is None or dataset in self.datasets

    def facts(self) -> dict[str, Any]:
        return {"key": str(self.key_id), "principal": str(self.principal_id), "name": self.name, "role": self.role}


class Consent(NamedTuple):
    """The second person of what takes two.

    proposal_id: under which it is proposed, if it takes two; or which proposal this approves, where `is_second`.
    """

    proposal_id: UUID
    is_second: bool = False


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
class Key:
    """A key as it is kept: everything but its secret."""

    id: UUID
    principal_id: UUID
    name: str
    role: Role
    datasets: tuple[str, ...] | None
    created_us: int
    expires_us: int | None
    revoked_us: int | None
    projects: tuple[str, ...] | None = None
    last_used_us: int | None = None

    def is_live(self, now_us: int) -> bool:
        return self.revoked_us is None and (self.expires_us is None or self.expires_us > now_us)

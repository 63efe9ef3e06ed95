"""Tenants, keys, actors and proposals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args
from uuid import UUID

from ledger.core.alerting import DEFAULT_ALERTING, Alerting

Role = Literal["admin", "steward", "requester", "auditor"]
ProposalKind = Literal["budget", "thaw", "void", "partitions", "project", "fair-use", "correction", "run"]
GUARDED: Final = frozenset(get_args(ProposalKind)) - {"run"}
"""The changes for which a tenant's policy can require a second steward. A dataset's fair use lets runs wait for one."""
ProposalState = Literal["open", "approved", "refused"]


@dataclass(frozen=True, slots=True)
class Tenant:
    """An organisation. `seq` and `head` are its own journal's newest number and hash.

    second_steward: whether changes that loosen a budget need a second person.
    """

    id: UUID
    name: str
    second_steward: bool
    seq: int
    head: bytes
    alerting: Alerting = DEFAULT_ALERTING


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: a key, and the principal that it stands for. `datasets` limits what it sees; None means no limit.

    projects: the only ones that it can ask for runs of; None means no limit. expires_us: for a token, which has no row.
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
        """Return whether it is a key of this ledger, and not a token of an issuer."""
        return self.expires_us is None

    def sees(self, dataset: str) -> bool:
        """Return whether the key may see the dataset of this name."""
        return self.datasets is None or dataset in self.datasets

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], *, tenant_id: UUID) -> Actor:
        """Return the actor that an entry states, without the limits of its key."""
        return cls(tenant_id, UUID(facts["key"]), UUID(facts["principal"]), facts["name"], facts["role"])

    def facts(self) -> dict[str, Any]:
        return {"key": str(self.key_id), "principal": str(self.principal_id), "name": self.name, "role": self.role}


class Consent(NamedTuple):
    """The second person of a change that needs two.

    proposal_id: the id to propose it under, if it needs two; or the proposal that this approves, if `is_second`.
    reason: why the second person approves it.
    """

    proposal_id: UUID
    is_second: bool = False
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """What one steward asked for, and another one must approve before it is done.

    body: everything needed to do it. by: the actor who asked, in the form of the journal.
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
    """A key as it is stored: everything but its secret."""

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

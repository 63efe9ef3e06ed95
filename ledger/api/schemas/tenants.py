"""Tenants, keys, policies and proposals as they are answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from ledger.core.people import ProposalKind, Role


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


class KeyPage(BaseModel):
    items: list[KeyShown]
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

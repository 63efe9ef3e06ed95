"""Tenants, keys, the policy and proposals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ledger.core.people import ProposalKind, Role
from ledger.service.shapes.common import Id


class TenantShown(TypedDict):
    id: Id
    name: str


class SecretShown(TypedDict):
    """A new key. Its secret is shown only this once, and is not stored."""

    id: Id
    role: Role
    secret: str
    name: NotRequired[str | None]
    datasets: NotRequired[list[str] | None]
    projects: NotRequired[list[str] | None]
    principal: NotRequired[Id | None]
    created_at: NotRequired[str | None]
    expires_at: NotRequired[str | None]
    revoked_at: NotRequired[str | None]
    last_used_at: NotRequired[str | None]


class Me(TypedDict):
    """Who the caller is to the ledger."""

    role: Role | Literal["operator"]
    tenant: NotRequired[TenantShown | None]
    principal: NotRequired[Id | None]
    name: NotRequired[str | None]
    datasets: NotRequired[list[str] | None]
    projects: NotRequired[list[str] | None]
    expires_at: NotRequired[str | None]


class PolicyShown(TypedDict):
    second_steward: Annotated[
        bool,
        Field(
            description=(
                "Whether a second steward must approve, within a day: raising a budget, a project's share or what"
                " one principal may have; adding partitions; thawing an overdrawn dataset; voiding a started run;"
                " and correcting what a run reported."
            )
        ),
    ]


ProposalStateShown = Literal["open", "approved", "refused", "expired"]


class ProposalShown(TypedDict):
    id: Id
    what: ProposalKind
    dataset: str
    run: Id | None
    proposes: Mapping[str, Any]
    proposed_by: Mapping[str, Any]
    state: ProposalStateShown
    created_at: str
    approve_by: str
    answered_by: Annotated[Mapping[str, Any] | None, Field(description="Who approved or refused it; null: nobody yet.")]
    answered_at: str | None
    answered_reason: str | None


class Proposed(TypedDict):
    """The change needs a second steward: nothing is changed yet."""

    proposal: ProposalShown


class ProposalPage(TypedDict):
    items: list[ProposalShown]
    next: str | None


class NewTenantShown(TypedDict):
    tenant: TenantShown
    key: SecretShown


class KeyShown(TypedDict):
    id: Id
    name: str
    role: Role
    datasets: list[str] | None
    projects: list[str] | None
    principal: Id
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: Annotated[
        str | None, Field(description="Accurate to the minute: it is not written at every request.")
    ]


class KeyPage(TypedDict):
    items: list[KeyShown]
    next: str | None

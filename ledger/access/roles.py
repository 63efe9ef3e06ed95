"""Roles, and what each may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from ledger.core.people import Actor, Role
from ledger.errors import Forbidden


@dataclass(frozen=True, slots=True)
class Operator:
    """Who runs the service: makes tenants, and sees nothing of theirs."""

    key_id: UUID


Caller = Actor | Operator


def demand_whole(actor: Actor) -> None:
    """Raises Forbidden where a key that is limited to datasets asks for what is of all of them."""
    if actor.datasets is not None:
        raise Forbidden("A key limited to datasets does not see what is the whole tenant's.")


def demand_raw(actor: Actor) -> None:
    """Raises Forbidden where a key that is limited to datasets asks for entries as they were hashed: of a run that uses
    several datasets they name the others, and what was said of the run."""
    if actor.datasets is not None:
        raise Forbidden(
            "A key limited to datasets does not read raw entries, which name other datasets. GET /v1/runs and the "
            "reports show what of them it may see; an export takes a key without that limit."
        )


ALLOWED: Final[dict[str, frozenset[Role]]] = {
    "manage keys": frozenset({"admin"}),
    "register datasets": frozenset({"admin", "steward"}),
    "manage datasets": frozenset({"admin", "steward"}),
    "set alerts": frozenset({"admin", "steward"}),
    "read the journal": frozenset({"admin", "steward", "auditor"}),
    "ask for runs": frozenset({"admin", "requester"}),
    "end runs": frozenset({"admin", "steward", "requester"}),
    "read": frozenset({"admin", "steward", "requester", "auditor"}),
}
"""Which roles may do what. Whose run it is, and which datasets a key sees, is decided where these are looked up."""
TENANT_WIDE: Final = frozenset({"manage keys", "register datasets", "set alerts"})
"""What reaches beyond any list of datasets or projects: a limited key may not do it, or it could free itself."""


def may(actor: Actor, action: str) -> bool:
    """Whether the actor's role, and the limits of its key, allow this at all."""
    is_limited = actor.datasets is not None or actor.projects is not None
    return actor.role in ALLOWED[action] and not (is_limited and action in TENANT_WIDE)

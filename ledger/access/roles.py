"""Roles, and what each may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from ledger.core.people import Actor, Role
from ledger.errors import Forbidden


@dataclass(frozen=True, slots=True)
class Operator:
    """The operator of the service: makes tenants, and sees nothing of theirs."""

    key_id: UUID


Caller = Actor | Operator


def demand_whole(actor: Actor) -> None:
    """Raise Forbidden if a key that is limited to datasets asks for what belongs to the whole tenant."""
    if actor.datasets is not None:
        raise Forbidden(
            "This key is limited to datasets; this call is about the whole tenant. Use a key without that limit."
        )


def demand_raw(actor: Actor) -> None:
    """Raise Forbidden if a key that is limited to datasets asks for entries as they were hashed. The entry of a run
    names all its datasets, and has its whole request."""
    if actor.datasets is not None:
        raise Forbidden(
            "This key is limited to datasets, and raw entries name other datasets. Use GET /v1/runs or a"
            " report, which show what your key may see, or a key without that limit."
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
"""Which roles may do what. Later checks decide about the run's principal and the datasets that a key sees."""
TENANT_WIDE: Final = frozenset({"manage keys", "register datasets", "set alerts"})
"""Actions on more than a list of datasets or projects. A limited key may not do them: it could lift its own limits."""


def may(actor: Actor, action: str) -> bool:
    """Return whether the actor's role, and the limits of its key, allow this action at all."""
    is_limited = actor.datasets is not None or actor.projects is not None
    return actor.role in ALLOWED[action] and not (is_limited and action in TENANT_WIDE)


def demand(caller: Caller, action: str) -> Actor:
    """Return the caller if they may do this. Raises Forbidden."""
    if isinstance(caller, Operator):
        raise Forbidden(
            "The operator's key only makes tenants; it cannot read or change what belongs to a tenant. Use a key of the"
            " tenant."
        )
    if not may(caller, action):
        who = (
            f"The role {caller.role}"
            if caller.role not in ALLOWED[action]
            else "A key that is limited to datasets or projects"
        )
        raise Forbidden(f"{who} may not {action}. Ask an admin of your tenant for a key that may.", role=caller.role)
    return caller

"""Who may do what: the roles that may write an entry of each kind. Replay checks whose run it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ledger.core.journal.chain import Demand

_STEWARDS: Final = frozenset({"admin", "steward"})
_ASKERS: Final = frozenset({"admin", "requester"})
_OPERATORS: Final = frozenset({"admin", "operator"})

_MAY: Final[Mapping[str, frozenset[str]]] = {
    "run-approved": _ASKERS,
    "run-refused": _ASKERS,
    "run-started": _ASKERS,
    "run-reported": _ASKERS,
    "run-settled": _STEWARDS | _ASKERS,
    "run-voided": _STEWARDS | _ASKERS,
    "tenant-made": frozenset({"operator"}),
    "key-made": _OPERATORS,
    "key-rotated": frozenset({"admin"}),
    "key-revoked": frozenset({"admin"}),
    "policy-set": frozenset({"admin"}),
}
"""Every other kind needs a steward."""


def demand_role(entry: Mapping[str, Any], demand: Demand) -> None:
    """Check that the actor's role may do what the entry records."""
    role = entry["actor"]["role"]
    is_asked = entry["kind"] == "change-proposed" and entry.get("what") == "run"
    demand(
        role in (_ASKERS if is_asked else _MAY.get(entry["kind"], _STEWARDS)),
        f"was made by a {role}, whose role does not allow it",
    )


def demand_owner(actor: Mapping[str, Any], principal: str, demand: Demand) -> None:
    """Check that the actor asked for the run, or is an admin."""
    demand(is_owner(actor, principal), "was made by a principal other than the one that asked for the run")


def is_owner(actor: Mapping[str, Any], principal: str) -> bool:
    """Return whether the run is the actor's own, or an admin acts."""
    return bool(actor["role"] == "admin" or actor["principal"] == principal)


def is_steward(actor: Mapping[str, Any]) -> bool:
    """Return whether the actor's role manages datasets."""
    return actor["role"] in _STEWARDS

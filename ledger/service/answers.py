"""From journal entries to answers.

Every answer about a run is made from its entries, so that the same request under the same idempotency key gets the same
answer for ever, and what a user was told is what an auditor reads. A run has one entry in the journal of each dataset
that it touches; they differ in what they say of that dataset alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, Final

from ledger.accounting.display import PLAIN, show_amount
from ledger.core.amounts import (
    ZERO,
    Amount,
    Quantity,
    timestamp,
)
from ledger.core.datasets import Account
from ledger.core.journal import chain
from ledger.core.runs import Run
from ledger.errors import BudgetExceeded, Overrun, RunState

Said = Mapping[str, Any]
"""What an entry says, parsed."""

_COSTED: Final = ("bound", "method", "assumptions", "accountant", "delta")
"""How a cost came about. `delta`, the run's share, is there where a certificate made use of it."""


# --- accounts --------------------------------------------------------------------------------------------------------


def least_remaining(accounts: Iterable[Account]) -> Amount | None:
    """What is left for one who charges all of these; None of none."""
    found = [account.remaining for account in accounts]
    return reduce(Amount.least, found) if found else None


def bindings(dataset: str, accounts: Iterable[Account], cost: Amount) -> list[dict[str, Any]]:
    """What of these accounts a cost does not fit in, and by how much."""
    return [
        {
            "name": dataset,
            **account.key.facts(),
            "quantity": quantity,
            "requested": PLAIN[quantity](cost),
            "remaining": PLAIN[quantity](account.remaining.most(ZERO)),
            "limit": PLAIN[quantity](account.limit),
        }
        for account in accounts
        for quantity in cost.exceeds(account.remaining)
    ]


def in_order(entries: Iterable[Said]) -> list[Said]:
    """A run's entries of one kind: of the datasets that it names as it names them, then of those they come from."""
    found = list(entries)
    if not found:
        return found
    named = [use if isinstance(use, str) else use["name"] for use in found[0]["request"].get("datasets", ())]
    places = {name: place for place, name in enumerate(named)}
    return sorted(found, key=lambda entry: (places.get(entry["dataset"], len(places)), entry["dataset"]))


def _where(entries: Iterable[Said]) -> list[dict[str, Any]]:
    found = []
    for entry in entries:
        left = least_remaining(chain.accounts_of(entry).values())
        found.append(
            {"name": entry["dataset"], "seq": entry["seq"], "remaining": None if left is None else show_amount(left)}
        )
    return found


# --- decisions -------------------------------------------------------------------------------------------------------


def _costed(decision: Said) -> dict[str, Any]:
    shown = {name: decision[name] for name in _COSTED if name in decision}
    if "segments" in decision:
        shown["segments"] = show_segments(decision["segments"])
    return shown


def show_segments(said: Said) -> dict[str, Any]:
    """The segments of a run, with the cost of one, and what the run would cost without any."""
    return {
        "count": said["count"],
        "steps": said["steps"],
        "cost": show_amount(Amount.from_facts(said["cost"])),
        "unsegmented": show_amount(Amount.from_facts(said["unsegmented"])),
    }


def approved(decisions: Sequence[Said]) -> dict[str, Any]:
    """The answer to a run that was approved."""
    first = decisions[0]
    return {
        "id": first["run"],
        "state": "held",
        "decision": "approved",
        "cost": show_amount(Amount.from_facts(first["cost"])),
        "datasets": _where(decisions),
        "start_by": first["start_by"],
        **({"project": first["project"]} if "project" in first else {}),
        **_costed(first),
    }


def refused(decisions: Sequence[Said], *, fits: Mapping[str, Any] | None) -> BudgetExceeded:
    """The answer to a run that was refused: every account that binds. `fits` is left out where it was not computed."""
    first = decisions[0]
    cost = Amount.from_facts(first["cost"])
    binding = [
        item for entry in decisions for item in bindings(entry["dataset"], chain.accounts_of(entry).values(), cost)
    ]
    shown = {name: first[name] for name in ("run", "delta", "project") if name in first}
    if fits is not None:
        shown["fits"] = fits
    return BudgetExceeded(**shown, datasets=binding, seq=first["seq"])


def remaining_of(decisions: Sequence[Said]) -> Amount:
    """The least that was left of any account that a run was to charge."""
    left = least_remaining(account for entry in decisions for account in chain.accounts_of(entry).values())
    if left is None:
        raise ArithmeticError("a run that charges no account")
    return left


# --- what became of a run --------------------------------------------------------------------------------------------


def moved(decision: Said, entries: Sequence[Said]) -> dict[str, Any]:
    """The answer to start, settle and void. Raises Overrun where more was executed than fits."""
    first = entries[0]
    shown = {
        "id": first["run"],
        "state": first["kind"].removeprefix("run-"),
        "cost": show_amount(Amount.from_facts(decision["cost"])),
        "datasets": _where(entries),
        "at": first["at"],
        **_ended(first),
    }
    if "settle_by" in first:
        shown["settle_by"] = first["settle_by"]
    if "overrun" in first and not first["overrun"]["fits"]:
        raise _overrun(shown, first, entries)
    return shown


def _ended(entry: Said) -> dict[str, Any]:
    shown: dict[str, Any] = {
        name: show_amount(Amount.from_facts(entry[name])) for name in ("charged", "returned") if name in entry
    }
    if "overrun" in entry:
        said = entry["overrun"]
        shown["overrun"] = {
            "steps": said["steps"],
            "cost": show_amount(Amount.from_facts(said["cost"])),
            "fits": said["fits"],
            "method": said["method"],
        }
    return shown


def _overrun(shown: dict[str, Any], first: Said, entries: Sequence[Said]) -> Overrun:
    overdrawn = [
        {
            "name": entry["dataset"],
            **account.key.facts(),
            "quantity": quantity,
            **{part: PLAIN[quantity](getattr(account, part)) for part in ("limit", "spent", "held", "overdrawn")},
        }
        for entry in entries
        for account in chain.accounts_of(entry).values()
        for quantity in _overdrawn(account)
    ]
    about = {name: shown[name] for name in ("state", "cost", "charged", "overrun", "at")}
    return Overrun(run=first["run"], **about, frozen=first["overrun"]["frozen"], datasets=overdrawn)


def _overdrawn(account: Account) -> list[Quantity]:
    return account.overdrawn.exceeds(ZERO)


def repeated(entries: Iterable[Said], kind: str, body: Mapping[str, Any]) -> list[Said]:
    """The entries that a repeated command already left, if it was the same command. Raises RunState."""
    found = [entry for entry in entries if entry["kind"] == kind]
    if found[0].get("request", {}) != body:
        state = kind.removeprefix("run-")
        raise RunState(f"The run is already {state}, with another body.", state=state)
    return found


def decisions_of(entries: Iterable[Said]) -> list[Said]:
    """The entries by which a run was approved or refused, in the order in which answers name its datasets."""
    return in_order(entry for entry in entries if entry["kind"] in ("run-approved", "run-refused"))


def describe(run: Run, entries: Sequence[Said], *, now_us: int) -> dict[str, Any]:
    """A run as GET shows it: what was asked and decided, and what came of it."""
    decisions = decisions_of(entries)
    decision = decisions[0]
    shown: dict[str, Any] = {
        "id": str(run.id),
        "state": run.state,
        "decision": "refused" if run.state == "refused" else "approved",
        "is_overdue": run.due_us is not None and run.due_us < now_us,
        "cost": show_amount(Amount.from_facts(decision["cost"])),
        "datasets": [{"name": entry["dataset"], "seq": entry["seq"]} for entry in decisions],
        "request": decision["request"],
        "project": run.project,
        "idempotency_key": decision["idempotency_key"],
        "asked_by": decision["actor"],
        "adjacency": decision["adjacency"],
        **_costed(decision),
        "created_at": timestamp(run.created_us),
        "start_by": decision.get("start_by"),
    }
    later = {entry["kind"]: entry for entry in entries if entry["dataset"] == decision["dataset"]}
    for kind in ("run-started", "run-settled", "run-voided"):
        if kind in later:
            shown[kind.removeprefix("run-")] = _event(later[kind])
    return shown


def _event(entry: Said) -> dict[str, Any]:
    return {
        "at": entry["at"],
        "by": entry["actor"],
        "seq": entry["seq"],
        **entry.get("request", {}),
        **{name: entry[name] for name in ("steps", "stop", "settle_by") if entry.get(name) is not None},
        **_ended(entry),
    }

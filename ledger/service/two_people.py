"""Outcomes of changes that may need two people, and how answers show a proposal."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

from ledger.core.amounts import microseconds, timestamp
from ledger.core.journal import chain
from ledger.core.people import Proposal
from ledger.service.shapes.tenants import ProposalShown, ProposalStateShown, Proposed
from ledger.store import Reading

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """The answer to a change: its result or, if it needs a second person, the proposal."""

    answer: T | Proposed
    is_done: bool


def proposed(entry: Mapping[str, Any]) -> Proposed:
    """Return the answer to a change that is only proposed, from the entry that proposes it."""
    proposal = Proposal(
        id=UUID(entry["proposal"]),
        kind=entry["what"],
        dataset_id=UUID(entry["dataset_id"]),
        run_id=UUID(entry["about_run"]) if "about_run" in entry else None,
        principal_id=UUID(entry["actor"]["principal"]),
        body={"request": entry["proposes"], "by": entry["actor"]},
        state="open",
        created_us=_us(entry["at"]),
        expires_us=_us(entry["approve_by"]),
    )
    return Proposed(proposal=proposal_shown(proposal, entry["dataset"], now_us=proposal.created_us))


def proposed_before(proposal: Proposal, dataset: str) -> Proposed:
    """Return the same answer again, for a caller who asks for what is proposed already."""
    return Proposed(proposal=proposal_shown(proposal, dataset, now_us=proposal.created_us))


def _us(moment: str) -> int:
    return microseconds(datetime.fromisoformat(moment))


def state_of(proposal: Proposal, *, now_us: int) -> ProposalStateShown:
    """Return the state of a proposal as answers show it: an open one whose time is over has expired."""
    is_late = proposal.state == "open" and proposal.expires_us <= now_us
    return "expired" if is_late else proposal.state


class Answered(NamedTuple):
    """Who approved or refused a proposal, when and why."""

    by: Mapping[str, Any]
    at: str
    reason: str | None


def answered(reading: Reading, proposals: Collection[Proposal]) -> dict[str, Answered]:
    """Return who approved or refused each of these proposals, by its id."""
    closed = [proposal for proposal in proposals if proposal.state != "open"]
    if not closed:
        return {}
    entries = reading.journals.answering(
        {proposal.dataset_id for proposal in closed},
        {proposal.run_id for proposal in closed if proposal.run_id is not None},
        since_us=min(proposal.created_us for proposal in closed),
        until_us=max(proposal.expires_us for proposal in closed),
    )
    found = {}
    for record in (chain.parse(entry.body) for entry in entries):
        proposal = record.get("proposal")
        if isinstance(proposal, str):
            found[proposal] = Answered(record["actor"], record["at"], record["reason"])
        elif proposal is not None:
            by = proposal.get("approved_by", record["actor"])
            found[proposal["id"]] = Answered(by, record["at"], proposal.get("reason"))
    return found


def proposal_shown(proposal: Proposal, dataset: str, *, now_us: int, answered: Answered | None = None) -> ProposalShown:
    """Return a proposal as answers show it. dataset: the name of the dataset that it is about."""
    answered_reason = None if answered is None else answered.reason
    return ProposalShown(
        id=str(proposal.id),
        what=proposal.kind,
        dataset=dataset,
        run=None if proposal.run_id is None else str(proposal.run_id),
        proposes=proposal.body["request"],
        proposed_by=proposal.body["by"],
        state=state_of(proposal, now_us=now_us),
        created_at=timestamp(proposal.created_us),
        approve_by=timestamp(proposal.expires_us),
        answered_by=None if answered is None else answered.by,
        answered_at=None if answered is None else answered.at,
        answered_reason=answered_reason,
    )

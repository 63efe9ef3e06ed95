"""Changes that need a second person: propose, approve, refuse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from ledger.core.amounts import timestamp
from ledger.core.books import Books
from ledger.core.commands import RefuseProposal
from ledger.core.decision.posting import HOUR_US, Drafts, Posting, Repeat, write
from ledger.core.people import Actor, Consent, Proposal, ProposalKind
from ledger.errors import Forbidden, ProposalState, TooLarge

DAY_US: Final = 24 * HOUR_US
"""The time in which a second person must approve a change that needs two."""
PROPOSALS_MAX: Final = 100
"""The most open proposals of one dataset."""
PROPOSALS_OF_ONE_MAX: Final = 20
"""The most of these by one principal, so that nobody keeps others from proposing."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """A change for which a tenant's policy can require a second person.

    is_loosening: whether the change is of that kind at all. body: the facts of its entry. postings: in which journals.
    is_always: it needs a second person whatever the policy is.
    """

    kind: ProposalKind
    is_loosening: bool
    body: Mapping[str, Any]
    actor: Actor
    consent: Consent
    postings: Sequence[Posting]
    run_id: UUID | None = None
    is_always: bool = False


def propose_first(books: Books, guarded: Guarded, now_us: int) -> Drafts | Repeat | None:
    """Return the entries that propose a change that still needs a second person, or None. A run has one open proposal
    of a kind: asking again returns it."""
    if guarded.consent.is_second or not (guarded.is_always or (guarded.is_loosening and books.takes_two)):
        return None
    open_proposals = [
        proposal for proposal in books.proposals.values() if proposal.state == "open" and proposal.expires_us > now_us
    ]
    for proposal in open_proposals:
        # A correction rests on those before it, so the same one of later is another proposal.
        is_same = (proposal.run_id, proposal.kind) == (guarded.run_id, guarded.kind)
        if guarded.run_id is not None and is_same and _number(proposal.body["request"]) == _number(guarded.body):
            return Repeat(guarded.run_id, "change-proposed", {}, proposal)
    return propose(books, guarded, now_us)


def _number(body: Mapping[str, Any]) -> int | None:
    """Return which correction of a settled run is proposed; None if something else is."""
    return body.get("number")


def propose(books: Books, guarded: Guarded, now_us: int) -> Drafts:
    """Return the entries that propose a change. Raises TooLarge if too many proposals are open."""
    dataset_id = guarded.postings[0].dataset.id
    _demand_room(
        [
            proposal
            for proposal in books.proposals.values()
            if proposal.state == "open" and proposal.expires_us > now_us and proposal.dataset_id == dataset_id
        ],
        guarded.actor,
    )
    proposal = Proposal(
        id=guarded.consent.proposal_id,
        kind=guarded.kind,
        dataset_id=dataset_id,
        run_id=guarded.run_id,
        principal_id=guarded.actor.principal_id,
        body={"request": guarded.body, "by": guarded.actor.facts()},
        state="open",
        created_us=now_us,
        expires_us=now_us + DAY_US,
    )
    books.proposals[proposal.id] = proposal
    facts = {
        "proposal": str(proposal.id),
        "what": proposal.kind,
        "proposes": guarded.body,
        "approve_by": timestamp(proposal.expires_us),
        **({"about_run": str(guarded.run_id)} if guarded.run_id is not None else {}),
    }
    return write(books, guarded.postings, guarded.actor, "change-proposed", facts)


def _demand_room(open_proposals: Sequence[Proposal], actor: Actor) -> None:
    """Raise TooLarge if a dataset has its most open proposals, or one principal has its most there."""
    own = sum(proposal.principal_id == actor.principal_id for proposal in open_proposals)
    for count, most, whose in (
        (len(open_proposals), PROPOSALS_MAX, ""),
        (own, PROPOSALS_OF_ONE_MAX, " by one principal"),
    ):
        if count >= most:
            raise TooLarge(
                f"A dataset may have at most {most} open proposals{whose}. Approve or refuse one first.",
                proposals_max=most,
            )


def seconded(books: Books, guarded: Guarded, now_us: int) -> dict[str, Any]:
    """Return what the entry states of the proposer, if it was proposed. Raises Forbidden if they are one person."""
    if not guarded.consent.is_second:
        return {}
    proposal = answered(books, guarded.consent.proposal_id, guarded.actor, now_us)
    if (proposal.kind, proposal.dataset_id, proposal.run_id) != (
        guarded.kind,
        guarded.postings[0].dataset.id,
        guarded.run_id,
    ):
        raise ArithmeticError(f"proposal {proposal.id} is about another change")
    reason = guarded.consent.reason
    return {
        "proposal": {
            "id": str(proposal.id),
            "by": proposal.body["by"],
            "at": timestamp(proposal.created_us),
            **({"reason": reason} if reason is not None else {}),
        }
    }


def answered(books: Books, proposal_id: UUID, actor: Actor, now_us: int) -> Proposal:
    """Return an open proposal, which another person approves: it is open no more. Raises ProposalState and
    Forbidden."""
    proposal = _open_proposal(books, proposal_id, actor, now_us)
    books.proposals[proposal.id] = replace(proposal, state="approved")
    return proposal


def _open_proposal(books: Books, proposal_id: UUID, actor: Actor, now_us: int) -> Proposal:
    proposal = books.proposals.get(proposal_id)
    if proposal is None:  # only open proposals are read
        raise ProposalState()
    if proposal.state != "open" or proposal.expires_us <= now_us:
        state = proposal.state if proposal.state != "open" else "expired"
        raise ProposalState(f"The proposal is {state}. To make the change, propose it again.", state=state)
    if proposal.principal_id == actor.principal_id:
        raise Forbidden("You proposed this change. A second person must approve or refuse it.")
    return proposal


def refuse_proposal(books: Books, command: RefuseProposal, now_us: int) -> Drafts:
    """Refuse an open proposal."""
    proposal = _open_proposal(books, command.proposal_id, command.actor, now_us)
    books.proposals[proposal.id] = replace(proposal, state="refused")
    postings = [Posting(books.datasets[dataset_id]) for dataset_id in command.dataset_ids]
    facts = {"proposal": str(proposal.id), "what": proposal.kind, "reason": command.reason}
    return write(books, postings, command.actor, "proposal-refused", facts)

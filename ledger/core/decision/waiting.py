"""Runs that wait for a steward, because they ask for more of a limit than a dataset lets anyone have alone.

A run that waits has a proposal of its own id, and holds nothing. When a steward approves it, it is decided afresh,
against what is left then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from ledger.core.amounts import Amount, timestamp
from ledger.core.books import Books
from ledger.core.commands import Ask
from ledger.core.datasets import Account
from ledger.core.decision.posting import Drafts, Posting
from ledger.core.decision.two_people import Guarded, answered, propose
from ledger.core.people import Consent
from ledger.errors import Forbidden


def waits_for(books: Books, charged: Mapping[UUID, Sequence[Account]], cost: Amount) -> list[str]:
    """Return the names of the datasets of which a run asks for more than it may have without a steward, sorted."""
    return sorted(
        books.datasets[dataset_id].definition.name
        for dataset_id, accounts in charged.items()
        if (percent := books.datasets[dataset_id].fair_use.waits_above_percent) is not None
        and any(_is_above(cost, account.limit, percent) for account in accounts if account.key.principal_id is None)
    )


def _is_above(cost: Amount, limit: Amount, percent: int) -> bool:
    """Return whether a cost is more than a part of a limit, in either quantity. A principal's limit does not count: it
    is on what is held at a time."""
    return 100 * cost.mu_sq_pico > percent * limit.mu_sq_pico or 100 * cost.delta_atto > percent * limit.delta_atto


def propose_run(books: Books, command: Ask, cost: Amount, names: Sequence[str], now_us: int) -> Drafts:
    """Return the entries of a run that waits for a steward. names: the datasets whose policy it waits for. Raises
    TooLarge if too many proposals are open."""
    facts = {
        "request": command.request,
        "cost": cost.facts(),
        "idempotency_key": command.claim.key,
        "waits_for": list(names),
        **({"project": command.project} if command.project is not None else {}),
        **command.costing,
    }
    postings = [Posting(books.datasets[use.dataset_id]) for use in command.uses]
    # The run's own id, so that the person who asked for it can name the proposal.
    consent = Consent(command.run_id)
    guarded = Guarded("run", True, facts, command.actor, consent, postings, command.run_id)
    return propose(books, guarded, now_us)


def must_be_alone(names: Sequence[str]) -> Forbidden:
    """Return the error for a run of a batch that would wait for a steward."""
    return Forbidden(
        f"The run asks for so much of a limit of {', '.join(names)} that it waits for a steward, and a run of a batch"
        " cannot wait. Ask for it by itself: POST /v1/runs.",
        waits_for=list(names),
    )


def approved_by(books: Books, command: Ask, now_us: int) -> dict[str, Any]:
    """Return what the entry of a run that waited states of its proposal, which this answers; nothing for a run that did
    not wait. Raises ProposalState, and Forbidden for the person who asked for the run."""
    second = command.second
    if second is None:
        return {}
    proposal = answered(books, command.run_id, second.actor, now_us)
    if (proposal.kind, proposal.run_id) != ("run", command.run_id):
        raise ArithmeticError(f"proposal {proposal.id} is about another change")
    return {
        "proposal": {
            "id": str(proposal.id),
            "by": proposal.body["by"],
            "at": timestamp(proposal.created_us),
            "approved_by": second.actor.facts(),
            **({"reason": second.reason} if second.reason is not None else {}),
        }
    }

"""Runs that wait for a steward, or did and were not approved in time: how answers show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn
from uuid import UUID

from ledger.accounting.display import show_amount
from ledger.core.amounts import Amount, timestamp
from ledger.core.entries import Record
from ledger.core.people import Actor, Proposal
from ledger.errors import LedgerError, NotFound, ProposalState, RunState, RunWaits
from ledger.service import answers
from ledger.service.shapes.runs import RunShown
from ledger.service.two_people import Answered, answered, proposed, state_of
from ledger.store import Reading, Store

_TO_DO = "A steward approves it with: privacy-ledger proposal approve {} --reason …. Until then it holds nothing."


def find(reading: Reading, run_id: UUID) -> Proposal | None:
    """Return the proposal of a run that waits for a steward, or did; None if there is none."""
    proposal = reading.proposals.by_id(run_id)
    return proposal if proposal is not None and proposal.kind == "run" else None


def sees(actor: Actor, proposal: Proposal) -> bool:
    """Return whether the actor sees a run that waits. A key limited to datasets sees its own that name no others."""
    if actor.datasets is None:
        return True
    return proposal.principal_id == actor.principal_id and names_of(proposal).keys() <= actor.datasets


def names_of(proposal: Proposal) -> dict[str, int]:
    """Return the datasets that the request of a run that waits names, in order."""
    return answers.named([{"kind": "run-approved", "request": proposal.body["request"]["request"]}])


def just_proposed(entry: Record) -> RunWaits:
    """Return the answer to a run that waits from now on, by the entry that proposes it."""
    shown = proposed(entry)["proposal"]
    return _waits(shown["id"], shown["proposes"]["waits_for"], shown["approve_by"])


def _waits(run: str, names: Sequence[str], approve_by: str) -> RunWaits:
    return RunWaits(
        f"Run {run} waits for a steward until {approve_by[:19]}Z: it asks for more of {', '.join(names)} than one may"
        f" have alone. {_TO_DO.format(run[:8])} Then repeat this request with the same Idempotency-Key.",
        run=run,
        proposal=run,
        waits_for=list(names),
        approve_by=approve_by,
    )


def outcome(store: Store, tenant_id: UUID, run_id: UUID) -> LedgerError:
    """Return the answer to a run that was asked for before, and is not decided: it waits, or was not approved."""
    with store.reading(tenant_id) as reading:
        proposal = find(reading, run_id)
        if proposal is None:
            return NotFound("No run has this id, or your key may not see it.")
        state = state_of(proposal, now_us=reading.now_us())
        answer = answered(reading, [proposal]).get(str(proposal.id))
    approve_by = timestamp(proposal.expires_us)
    if state == "open":
        return _waits(str(run_id), proposal.body["request"]["waits_for"], approve_by)
    return ProposalState(
        f"{_ended(run_id, state, answer, approve_by)} To ask again, use a new Idempotency-Key.",
        run=str(run_id),
        state=state,
    )


def _ended(run_id: UUID, state: str, answer: Answered | None, approve_by: str) -> str:
    if answer is not None:
        why = "" if answer.reason is None else f": {answer.reason.rstrip('.')}"
        return f"Run {run_id} waited for a steward, and {answer.by['name']} refused it{why}."
    return f"Run {run_id} waited for a steward, and nobody approved it by {approve_by[:19]}Z ({state})."


def between(reading: Reading, actor: Actor, first: UUID, last: UUID, *, limit: int) -> list[UUID]:
    """Return the runs from the first id to the last that wait for a steward, or did, and that the actor sees."""
    found = (find(reading, id_) for id_ in reading.proposals.ids_between(first, last, limit=limit))
    return [proposal.id for proposal in found if proposal is not None and sees(actor, proposal)]


def demand_decided(reading: Reading, actor: Actor, run_id: UUID) -> None:
    """Raise RunState if the run waits for a steward, or did and was not approved: it cannot be started or ended."""
    proposal = find(reading, run_id)
    if proposal is not None and sees(actor, proposal):
        _raise_undecided(proposal, state_of(proposal, now_us=reading.now_us()))


def _raise_undecided(proposal: Proposal, state: str) -> NoReturn:
    what = _TO_DO.format(str(proposal.id)[:8]) if state == "open" else "Ask for a new run: POST /v1/runs."
    raise RunState(
        f"Run {proposal.id} waits for a steward ({state}), and was not approved. {what}",
        run=str(proposal.id),
        state="waiting" if state == "open" else state,
        next=[],
    )


def shown(proposal: Proposal, now_us: int) -> RunShown:
    """Return a run that was not decided, as lists of runs show it: all that is known of it is its proposal."""
    facts = proposal.body["request"]
    state = state_of(proposal, now_us=now_us)
    whole = RunShown(
        id=str(proposal.id),
        state="waiting" if state == "open" else "expired" if state == "expired" else "refused",
        decision="waiting" if state == "open" else "refused",
        is_overdue=False,
        cost=show_amount(Amount.from_facts(facts["cost"])),
        datasets=[{"name": name, "seq": None} for name in names_of(proposal)],
        request=facts["request"],
        project=facts.get("project"),
        idempotency_key=facts["idempotency_key"],
        asked_by=proposal.body["by"],
        bound=facts["bound"],
        adjacency=facts["adjacency"],
        method=facts["method"],
        assumptions=facts["assumptions"],
        accountant=facts["accountant"],
        created_at=timestamp(proposal.created_us),
        start_by=None,
    )
    if "expected_batch" in facts:
        whole["expected_batch"] = facts["expected_batch"]
    if "warnings" in facts:
        whole["warnings"] = facts["warnings"]
    return whole

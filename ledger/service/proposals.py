"""Proposals: show, approve, refuse."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from uuid import UUID

from ledger.core.commands import RefuseProposal
from ledger.core.decision.datasets import proposed_command
from ledger.core.people import Actor, Consent, Proposal
from ledger.errors import Forbidden, NotFound, ProposalState
from ledger.service import answers, ids, pages, waiting
from ledger.service.catalogue import demand_sight
from ledger.service.datasets import Datasets
from ledger.service.requests.runs import CorrectionRequest, CorrectRequest
from ledger.service.runs import Runs
from ledger.service.shapes.datasets import DatasetShown
from ledger.service.shapes.runs import RunCorrected, RunInFull, RunMoved
from ledger.service.shapes.tenants import ProposalPage, ProposalShown, ProposalStateShown, Proposed
from ledger.service.transactions import submit
from ledger.service.two_people import answered as answered_by
from ledger.service.two_people import proposal_shown
from ledger.service.writer import Writer
from ledger.signer.receipts import ParsedEntry
from ledger.store import Reading, Store


class Proposals:
    """Shows what one steward proposed, and makes or drops the change when a second one approves or refuses."""

    def __init__(self, *, store: Store, writer: Writer, datasets: Datasets, runs: Runs) -> None:
        self._store, self._writer, self._datasets, self._runs = store, writer, datasets, runs

    async def found(self, actor: Actor, text: str) -> UUID:
        """Return the id of a proposal: a whole one as it is, or the only one that the actor sees and that begins with
        a text. Raises NotFound, and InvalidRequest if there are several."""
        whole = ids.whole(text)
        return await asyncio.to_thread(self.find, actor, text) if whole is None else whole

    def find(self, actor: Actor, text: str) -> UUID:
        """Return the same, in a thread."""

        def between(first: UUID, last: UUID) -> Sequence[UUID]:
            with self._store.reading(actor.tenant_id) as reading:
                found = reading.proposals.ids_between(first, last, limit=ids.CANDIDATES_MAX + 1)
                return [id_ for id_ in found if _is_seen(reading, actor, id_)]

        return ids.sought(text, between, _no_proposal())

    def show(self, actor: Actor, proposal_id: UUID) -> ProposalShown:
        """Return a proposal. Raises NotFound."""
        with self._store.reading(actor.tenant_id) as reading:
            proposal, dataset = _find(reading, actor, proposal_id)
            answered = answered_by(reading, [proposal])
            return proposal_shown(proposal, dataset, now_us=reading.now_us(), answered=answered.get(str(proposal.id)))

    def page(self, actor: Actor, *, state: ProposalStateShown | None, limit: int, cursor: str | None) -> ProposalPage:
        """Return proposals, newest first. Raises Forbidden for a key that is limited to datasets."""
        if actor.datasets is not None:
            raise Forbidden(
                "A key that is limited to datasets cannot list proposals. Read one by its id: GET /v1/proposals/ID."
            )
        after = pages.after_moment(cursor)
        with self._store.reading(actor.tenant_id) as reading:
            now_us = reading.now_us()
            rows = reading.proposals.page(after=after, limit=limit + 1, state=state, now_us=now_us)
            names = _dataset_names(reading, rows)
            answered = answered_by(reading, rows[:limit])
        proposals, following = pages.cut(rows, limit=limit, position=lambda row: [row.created_us, str(row.id)])
        items = [
            proposal_shown(proposal, names[proposal.dataset_id], now_us=now_us, answered=answered.get(str(proposal.id)))
            for proposal in proposals
        ]
        return ProposalPage(items=items, next=following)

    async def approve(
        self, actor: Actor, proposal_id: UUID, *, reason: str | None = None
    ) -> DatasetShown | RunMoved | RunCorrected | RunInFull | Proposed:
        """Make the change that another steward proposed, or decide the run that waits. Return the dataset or the run.

        reason: why it is approved, for the record. Raises NotFound, ProposalState, Forbidden for the proposer, and what
        the change itself raises.
        """
        proposal, dataset = await asyncio.to_thread(self._open, actor, proposal_id)
        if proposal.kind == "run":
            await self._runs.asking.second(actor, proposal, reason=reason)
            return await self._runs.approved(actor, proposal.id)
        if proposal.run_id is not None:
            return await self._approve_on_run(actor, proposal, proposal.run_id, reason)
        return (await self._datasets.apply(proposed_command(proposal, actor, reason), dataset)).answer

    async def _approve_on_run(
        self, actor: Actor, proposal: Proposal, run_id: UUID, reason: str | None
    ) -> RunMoved | RunCorrected | Proposed:
        body, consent = proposal.body["request"]["request"], Consent(proposal.id, is_second=True, reason=reason)
        if proposal.kind == "void":
            return (await self._runs.void(actor, run_id, body=body, consent=consent)).answer
        if "number" in proposal.body["request"]:
            amendment = CorrectionRequest.model_validate(body)
            return (await self._runs.amend(actor, run_id, request=amendment, body=body, consent=consent)).answer
        request = CorrectRequest.model_validate(body)
        return (await self._runs.correct(actor, run_id, request=request, body=body, consent=consent)).answer

    async def refuse(self, actor: Actor, proposal_id: UUID, *, reason: str) -> ProposalShown:
        """Refuse what another steward proposed. Raises NotFound, ProposalState and Forbidden."""
        proposal, _ = await asyncio.to_thread(self._open, actor, proposal_id)
        if proposal.kind == "run":
            dataset_ids = await self._runs.asking.datasets_of(actor, proposal)
            await submit(self._writer, RefuseProposal(actor, proposal.id, dataset_ids, reason))
        elif proposal.run_id is not None:
            await self._runs.refuse_on_run(actor, proposal.run_id, proposal_id=proposal.id, reason=reason)
        else:
            await submit(self._writer, RefuseProposal(actor, proposal.id, (proposal.dataset_id,), reason))
        return await asyncio.to_thread(self.show, actor, proposal_id)

    def _open(self, actor: Actor, proposal_id: UUID) -> tuple[Proposal, str]:
        """Return an open proposal, and the name of its dataset. Raises NotFound, ProposalState, and Forbidden for a run
        that waits for a dataset that the actor does not see."""
        with self._store.reading(actor.tenant_id) as reading:
            proposal, dataset = _find(reading, actor, proposal_id)
        if proposal.state != "open":
            raise ProposalState(
                f"The proposal is {proposal.state}. To make the change, propose it again.", state=proposal.state
            )
        hidden = [name for name in proposal.body["request"].get("waits_for", ()) if not actor.sees(name)]
        if hidden:
            raise Forbidden(f"The run waits for a steward of {', '.join(hidden)}, which your key does not see.")
        return proposal, dataset


def _find(reading: Reading, actor: Actor, proposal_id: UUID) -> tuple[Proposal, str]:
    """Return a proposal and the name of its dataset. Raises NotFound."""
    proposal = reading.proposals.by_id(proposal_id)
    if proposal is None:
        raise _no_proposal()
    name = _dataset_names(reading, [proposal])[proposal.dataset_id]
    try:
        demand_sight(actor, name)
    except NotFound:
        raise _no_proposal() from None
    if proposal.kind == "run":
        if actor.datasets is not None and not waiting.names_of(proposal).keys() <= actor.datasets:
            raise _no_proposal()  # as below
    elif proposal.run_id is not None and actor.datasets is not None:
        sealed = reading.journals.first_entries([proposal.run_id])[proposal.run_id]
        if not answers.named(map(ParsedEntry.parse, sealed)).keys() <= actor.datasets:
            raise _no_proposal()  # its facts about the run include the other datasets too
    return proposal, name


def _is_seen(reading: Reading, actor: Actor, proposal_id: UUID) -> bool:
    try:
        _find(reading, actor, proposal_id)
    except NotFound:
        return False
    return True


def _dataset_names(reading: Reading, proposals: Collection[Proposal]) -> dict[UUID, str]:
    definitions = reading.datasets.definitions(ids={proposal.dataset_id for proposal in proposals})
    return {definition.id: definition.name for definition in definitions}


def _no_proposal() -> NotFound:
    return NotFound("No proposal has this id, or your key may not see it.")

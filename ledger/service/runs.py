"""The way of a request for a run: resolve, cost, submit; after the commit the receipt, or what would have fitted."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID, uuid4

from ledger.accounting import mechanisms
from ledger.accounting.settling import Charge
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount, timestamp
from ledger.core.commands import (
    Ask,
    Batch,
    Claim,
    OnRun,
    RefuseProposal,
    Ruling,
    Settle,
    Start,
    Void,
)
from ledger.core.datasets import AccountKey
from ledger.core.decision.group import Unrecorded
from ledger.core.decision.posting import Repeat
from ledger.core.entries import Record
from ledger.core.journal import chain
from ledger.core.people import Actor, Consent
from ledger.core.runs import BEGIN_WITHIN_US, REFUSALS_PER_HOUR, Run
from ledger.errors import (
    BudgetExceeded,
    Forbidden,
    LedgerError,
    NotFound,
    Overloaded,
    RunState,
    TooLarge,
)
from ledger.service import answers, pages
from ledger.service.catalogue import Catalogue, demand_project_of_key, find_definition
from ledger.service.costing import Costing, Execution, excess, executed, settled_costing
from ledger.service.requests.runs import CorrectRequest, RunRequest, SettleRequest
from ledger.service.shapes.runs import ReceiptShown, RunApproved, RunMoved, RunPage, RunShown, RunStarted
from ledger.service.two_people import Outcome, proposed, proposed_before
from ledger.service.writer import Result, Results, Writer
from ledger.signer.keyfile import Signer
from ledger.signer.receipts import ParsedEntry, Receipts, begin_by, renewed
from ledger.store import Reading, Store

FITS_OF_BATCH_MAX: Final = 10
"""For how many of a batch's refusals that need certificates it is said at all."""
COSTED_AT_ONCE_MAX: Final = 8
"""How many of a batch's costs are worked out at the same time, so that others get their turn."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run's decision is answered with."""

    decision: RunApproved | BudgetExceeded
    is_replayed: bool

    @property
    def is_refused(self) -> bool:
        return isinstance(self.decision, BudgetExceeded)


@dataclass(frozen=True, slots=True)
class Item:
    """One run of a batch: its key, what was asked, and the JSON of that."""

    key: str
    request: RunRequest
    body: Mapping[str, Any]


class Runs:
    """Asks for runs, starts, settles and voids them, and shows them. begin_within_us: how long a job may begin by a
    receipt. refusals_per_hour: how many refusals of one principal are recorded within an hour."""

    def __init__(
        self,
        store: Store,
        writer: Writer,
        catalogue: Catalogue,
        costing: Costing,
        signer: Signer,
        *,
        begin_within_us: int = BEGIN_WITHIN_US,
        refusals_per_hour: int = REFUSALS_PER_HOUR,
    ) -> None:
        self._store, self._writer, self._catalogue, self._costing = store, writer, catalogue, costing
        self._begin_within_us, self._refusals_per_hour = begin_within_us, refusals_per_hour
        self._receipts = Receipts(signer, self._tenant_name)

    # --- asking

    async def ask(self, actor: Actor, item: Item) -> Answer:
        """Asks for approval of a run. Raises LedgerError; a refusal is an Answer."""
        command = await self._prepared(actor, item)
        result = await asyncio.wrap_future(self._writer.submit(actor.tenant_id, command))
        is_replayed = isinstance(result, Repeat)
        if isinstance(result, Repeat):
            before = await asyncio.to_thread(self._entries, actor.tenant_id, [result.run_id])
            decisions = answers.decisions_of(before[result.run_id])
        else:
            decisions = answers.in_order(ParsedEntry.parse(entry) for entry in result)
        if _is_approved(decisions):
            receipt = await self._receipt(actor.tenant_id, decisions, decisions)
            return Answer(answers.approved(decisions, receipt=receipt), is_replayed)
        fits = await self._fits(actor, decisions)
        return Answer(answers.refused(decisions, fits=fits), is_replayed)

    async def ask_batch(
        self, actor: Actor, items: Sequence[Item | LedgerError], *, is_atomic: bool
    ) -> tuple[list[Answer | LedgerError], bool]:
        """Asks for several runs in one transaction: what came of each, in order, and whether all were refused.

        An item that is an error already stays one. is_atomic: all are approved, or nothing is recorded.
        """
        turns = asyncio.Semaphore(COSTED_AT_ONCE_MAX)

        async def prepared(item: Item | LedgerError) -> Ask | LedgerError:
            if isinstance(item, LedgerError):
                return item
            async with turns:
                try:
                    return await self._prepared(actor, item)
                except LedgerError as error:
                    return error

        commands = await asyncio.gather(*map(prepared, items))
        asks = tuple(command for command in commands if isinstance(command, Ask))
        batch = Batch(actor, asks, is_atomic, is_spoilt=len(asks) < len(commands))
        decided: Results = await asyncio.wrap_future(self._writer.submit_batch(actor.tenant_id, batch)) if asks else ()
        decided_answers = iter(await self._answers(actor, decided))
        results = [next(decided_answers) if isinstance(command, Ask) else command for command in commands]
        is_refused = is_atomic and any(isinstance(result, LedgerError) or result.is_refused for result in results)
        return results, is_refused

    async def _prepared(self, actor: Actor, item: Item) -> Ask:
        """The command that asks for a run, with its cost. Raises LedgerError."""
        request = item.request
        demand_project_of_key(actor, request.project)
        resolved = await self._catalogue.resolve(actor, request.datasets)
        costed = await self._costing.cost(actor, resolved, request)
        return Ask(
            actor=actor,
            run_id=uuid4(),
            claim=Claim(item.key, chain.digest(chain.canonical(item.body))),
            uses=resolved.uses,
            project=request.project,
            cost=costed.cost.amount,
            request=item.body,
            costing=costed.facts(),
            valid_for_us=request.valid_for // timedelta(microseconds=1),
            begin_within_us=self._begin_within_us,
            refusals_per_hour=self._refusals_per_hour,
        )

    async def _answers(self, actor: Actor, decided: Results) -> list[Answer | LedgerError]:
        """The answers to the runs of a batch, in order."""
        repeats = [result.run_id for result in decided if isinstance(result, Repeat)]
        before = await asyncio.to_thread(self._entries, actor.tenant_id, repeats) if repeats else {}
        decisions = [_decisions(result, before) for result in decided]
        receipts = await asyncio.to_thread(self._receipts_of, actor.tenant_id, decisions)
        dear = itertools.count(1)
        results: list[Answer | LedgerError] = []
        for result, entries, receipt in zip(decided, decisions, receipts, strict=True):
            is_replayed = isinstance(result, Repeat)
            if isinstance(result, LedgerError):
                results.append(result)
            elif receipt is not None:
                results.append(Answer(answers.approved(entries, receipt=receipt), is_replayed))
            else:
                is_free = "delta" not in entries[0]
                has_fits = not isinstance(result, Unrecorded) and (is_free or next(dear) <= FITS_OF_BATCH_MAX)
                fits = await self._fits(actor, entries) if has_fits else None
                results.append(Answer(answers.refused(entries, fits=fits), is_replayed))
        return results

    async def _fits(self, actor: Actor, decisions: Sequence[Record]) -> dict[str, Any]:
        """What would have fitted: a function of what is recorded, so worked out after the commit, and again alike."""
        try:
            return await self._costing.fits(actor.tenant_id, decisions)
        except TooLarge as error:
            # The refusal is on record, and the work goes on: with the same key the whole answer can be had.
            raise Overloaded("The run was refused; what would fit is still being computed.") from error

    # --- what changes a run

    async def start(self, actor: Actor, run_id: UUID) -> RunStarted:
        """Says that the run now touches the data."""
        _, decisions = await asyncio.to_thread(self._run, actor, run_id)
        entries = await self._entered(Start(actor, run_id, _charges(decisions), self._begin_within_us), decisions)
        receipt = await self._receipt(actor.tenant_id, decisions, entries)
        return RunStarted(**answers.moved(decisions[0], entries), begin_by=begin_by(entries[0]), receipt=receipt)

    async def settle(self, actor: Actor, run_id: UUID, *, request: SettleRequest, body: Mapping[str, Any]) -> RunMoved:
        """Settles a run for what it executed, as far as that is sound. Raises Overrun where that was more than fits."""
        run, decisions = await asyncio.to_thread(self._run, actor, run_id)
        command = await self._settling(actor, run, decisions, request=request, body=body)
        return answers.moved(decisions[0], await self._entered(command, decisions))

    async def confirm(self, actor: Actor, run_id: UUID, *, reason: str) -> RunMoved:
        """Charge a run for the number that it reported, which no budget covers. Raises RunState where none waits."""
        run, decisions = await asyncio.to_thread(self._run, actor, run_id)
        reported = await asyncio.to_thread(self._reported, actor, run)
        command = await self._settling(actor, run, decisions, request=reported, body={"reason": reason})
        command = replace(command, ruling=Ruling("confirmed", reason, Consent(uuid4())))
        return answers.ended(decisions[0], await self._entered(command, decisions))

    async def correct(
        self, actor: Actor, run_id: UUID, *, request: CorrectRequest, body: Mapping[str, Any], consent: Consent
    ) -> Outcome[RunMoved]:
        """Settle a run for another number than it reported, which can take a second person."""
        run, decisions = await asyncio.to_thread(self._run, actor, run_id)
        command = await self._settling(actor, run, decisions, request=request, body=body)
        return await self._guarded(replace(command, ruling=Ruling("corrected", request.reason, consent)), decisions)

    async def _settling(
        self,
        actor: Actor,
        run: Run,
        decisions: Sequence[Record],
        *,
        request: SettleRequest,
        body: Mapping[str, Any],
    ) -> Settle:
        """The command that settles a run for what it executed, with what that is charged."""
        decision = decisions[0]
        if run.cost is None:
            charged, execution = Charge(Amount(0, 0)), Execution(None, "planned")  # refused, it cannot be settled
        else:
            mechanism = mechanisms.recorded(decision["request"]["mechanism"])
            execution = executed(mechanism, Terms.of(decision).segments, request)
            # One that was settled already repeats its answer; nothing needs to be computed for that.
            is_new = run.state != "settled"
            charged = Charge(run.cost)
            if is_new:
                charged = await self._costing.charge(actor.tenant_id, run.cost, decision, execution)
        return Settle(
            actor,
            run.id,
            _charges(decisions),
            body=body,
            steps=execution.steps,
            stop=execution.stop,
            charged=charged.charged,
            excess=excess(charged, decision),
            costing=settled_costing(charged, execution),
        )

    def _reported(self, actor: Actor, run: Run) -> SettleRequest:
        """What a run reported, as it was sent. Raises RunState where it reported nothing that a steward has to see."""
        for entry in self._entries(actor.tenant_id, [run.id]).get(run.id, ()):
            if entry["kind"] == "run-reported" and "request" in entry:
                return SettleRequest.model_validate(entry["request"])
        raise RunState("No number of this run waits for a steward.", state=run.state)

    async def void(self, actor: Actor, run_id: UUID, *, body: Mapping[str, Any], consent: Consent) -> Outcome[RunMoved]:
        """Say that no output of the run was ever seen. A started run can take a second person."""
        _, decisions = await asyncio.to_thread(self._run, actor, run_id)
        command = Void(actor, run_id, _charges(decisions), body=body, consent=consent)
        return await self._guarded(command, decisions)

    async def _guarded(self, command: Void | Settle, decisions: Sequence[Record]) -> Outcome[RunMoved]:
        """What came of a command that can take two people, or its proposal."""
        result = await asyncio.wrap_future(self._writer.submit(command.actor.tenant_id, command))
        if isinstance(result, Repeat) and (proposal := result.proposal) is not None:
            names = {UUID(entry["dataset_id"]): entry["dataset"] for entry in decisions}
            return Outcome(proposed_before(proposal, names[proposal.dataset_id]), is_done=False)
        entries = await self._entries_of(command, result, decisions)
        if entries[0]["kind"] == "change-proposed":
            return Outcome(proposed(entries[0]), is_done=False)
        return Outcome(answers.ended(decisions[0], entries), is_done=True)

    async def refuse_on_run(self, actor: Actor, run_id: UUID, *, proposal_id: UUID, reason: str) -> None:
        """Says no to what somebody else proposed."""
        _, decisions = await asyncio.to_thread(self._run, actor, run_id)
        command = RefuseProposal(actor, proposal_id, tuple(_charges(decisions)), reason)
        await asyncio.wrap_future(self._writer.submit(actor.tenant_id, command))

    async def _entered(self, command: OnRun, decisions: Sequence[Record]) -> list[Record]:
        """The entries that a command leaves, or left before, in the order of the decision's."""
        result = await asyncio.wrap_future(self._writer.submit(command.actor.tenant_id, command))
        return await self._entries_of(command, result, decisions)

    async def _entries_of(self, command: OnRun, result: Result, decisions: Sequence[Record]) -> list[Record]:
        if isinstance(result, Repeat):
            before = await asyncio.to_thread(self._entries, command.actor.tenant_id, [result.run_id])
            entries = answers.repeated(before[result.run_id], result.kind, result.body)
        else:
            entries = [ParsedEntry.parse(entry) for entry in result]
        return _as_decided(entries, decisions)

    # --- what shows runs

    def show(self, actor: Actor, run_id: UUID) -> RunShown:
        """One run, in full."""
        with self._store.reading(actor.tenant_id) as reading:
            run = reading.runs.by_id([run_id]).get(run_id)
            shown = [] if run is None else _shown(reading, actor, [run])
            if not shown or shown[0] is None:
                raise _no_run()
            return shown[0]

    def receipt(self, actor: Actor, run_id: UUID) -> ReceiptShown:
        """The receipt of a run's start or, before that, of its approval, renewed: good from now on, as long as one is.

        Raises RunState if the run was refused or has ended: no job may begin by it.
        """
        with self._store.reading(actor.tenant_id) as reading:
            run = reading.runs.by_id([run_id]).get(run_id)
            entries = _parsed(reading, [run_id])[run_id] if run is not None else []
            now_us = reading.now_us()
        if run is None or not _sees(actor, entries, run):
            raise _no_run()
        if run.is_reported:
            raise RunState("The run has ended: a steward has to look at the number that it reported.", state=run.state)
        if run.state not in ("held", "started"):
            raise _no_receipt(run)
        decisions = answers.decisions_of(entries)
        started = _as_decided([entry for entry in entries if entry["kind"] == "run-started"], decisions)
        latest = started or decisions
        until = renewed(latest[0], timestamp(now_us + self._begin_within_us))
        receipt = self._receipts.sign(decisions, latest, tenant_id=actor.tenant_id, until=until)
        return ReceiptShown(run=str(run_id), state="started" if started else "held", begin_by=until, receipt=receipt)

    def page(
        self,
        actor: Actor,
        *,
        limit: int,
        cursor: str | None,
        dataset: str | None,
        state: str | None,
        project: str | None,
        is_overdue: bool | None,
    ) -> RunPage:
        """Runs that the caller may see, newest first: as many as `limit`, and as there is room for. Raises NotFound for
        the dataset."""
        after = pages.after_moment(cursor)
        limited = actor.datasets is not None
        with self._store.reading(actor.tenant_id) as reading:
            now_us = reading.now_us()
            rows = reading.runs.page(
                after=after,
                limit=limit + 1,
                dataset_id=None if dataset is None else find_definition(reading, actor, dataset).id,
                state=state,
                project=project,
                due_before_us=now_us if is_overdue else None,
                not_due_before_us=now_us if is_overdue is False else None,
                principal_id=actor.principal_id if limited else None,
                within=actor.datasets,
            )
            shown = _shown(reading, actor, rows[:limit])
        _, following = pages.cut(rows, limit=len(shown), position=lambda run: [run.created_us, str(run.id)])
        return RunPage(items=[run for run in shown if run is not None], next=following)

    # --- looking things up

    def _run(self, actor: Actor, run_id: UUID) -> tuple[Run, list[Record]]:
        """A run and the entries that decided it."""
        with self._store.reading(actor.tenant_id) as reading:
            run = reading.runs.by_id([run_id]).get(run_id)
            entries = _parsed(reading, [run_id])[run_id] if run is not None else []
        if run is None or not _sees(actor, entries, run):
            raise _no_run()
        if actor.role == "requester" and run.principal_id != actor.principal_id:
            raise Forbidden("Only the principal that asked for a run may do that.")
        return run, answers.decisions_of(entries)

    # --- receipts

    async def _receipt(self, tenant_id: UUID, decisions: Sequence[Record], entries: Sequence[Record]) -> str:
        sign = partial(self._receipts.sign, decisions, entries, tenant_id=tenant_id)
        # A thread costs more than a signature; the first one of a tenant reads its name from the database.
        return sign() if self._receipts.knows(tenant_id) else await asyncio.to_thread(sign)

    def _receipts_of(self, tenant_id: UUID, decided: Sequence[Sequence[Record]]) -> list[str | None]:
        """The receipt of each run that was approved; None for the others."""
        return [
            self._receipts.sign(decisions, decisions, tenant_id=tenant_id) if _is_approved(decisions) else None
            for decisions in decided
        ]

    def _tenant_name(self, tenant_id: UUID) -> str:
        with self._store.reading(tenant_id) as reading:
            tenant = reading.tenants.current()
        if tenant is None:
            raise NotFound("There is no such tenant.")
        return tenant.name

    def _entries(self, tenant_id: UUID, run_ids: Sequence[UUID]) -> dict[UUID, list[Record]]:
        with self._store.reading(tenant_id) as reading:
            return _parsed(reading, run_ids)


def _shown(reading: Reading, actor: Actor, runs: Sequence[Run]) -> list[RunShown | None]:
    """The first of these runs, as many as there is room for; None for one that the caller may not see."""
    sealed = reading.journals.first_entries([run.id for run in runs])
    shown, now_us = runs[: len(sealed)], reading.now_us()
    places = reading.runs.places([run.id for run in shown])
    entries = {run_id: [ParsedEntry.parse(entry) for entry in mine] for run_id, mine in sealed.items()}
    return [
        answers.describe(run, entries[run.id], places[run.id], now_us=now_us)
        if _sees(actor, entries[run.id], run)
        else None
        for run in shown
    ]


def _parsed(reading: Reading, run_ids: Sequence[UUID]) -> dict[UUID, list[Record]]:
    sealed = reading.journals.run_entries(run_ids)
    return {run_id: [ParsedEntry.parse(entry) for entry in entries] for run_id, entries in sealed.items()}


def _decisions(result: Result | Unrecorded | LedgerError, before: Mapping[UUID, Sequence[Record]]) -> list[Record]:
    """The entries that decide a run, as answers name its datasets; none of an error."""
    match result:
        case LedgerError():
            return []
        case Repeat():
            return answers.decisions_of(before[result.run_id])
        case Unrecorded():
            return answers.in_order(
                {
                    **draft.facts,
                    "kind": draft.kind,
                    "dataset": draft.dataset,
                    "dataset_id": str(draft.dataset_id),
                    "seq": None,
                }
                for draft in result.drafts
            )
        case _:
            return answers.in_order(ParsedEntry.parse(entry) for entry in result)


def _is_approved(decisions: Sequence[Record]) -> bool:
    return bool(decisions) and decisions[0]["kind"] == "run-approved"


def _as_decided(entries: Sequence[Record], decisions: Sequence[Record]) -> list[Record]:
    """Entries of a run in the order in which its decision names the datasets."""
    order = {entry["dataset"]: rank for rank, entry in enumerate(decisions)}
    return sorted(entries, key=lambda entry: order[entry["dataset"]])


def _no_receipt(run: Run) -> RunState:
    return RunState(
        f"Run {run.id} is {run.state}. Only a held or started run has a receipt, so that no job begins after it ended. "
        "To use the data again, ask for a new run.",
        state=run.state,
    )


def _no_run() -> NotFound:
    return NotFound("There is no such run.")


def _sees(actor: Actor, entries: Sequence[Record], run: Run) -> bool:
    """A key limited to datasets sees its own runs that name no others."""
    if actor.datasets is None:
        return True
    return run.principal_id == actor.principal_id and answers.named(entries).keys() <= actor.datasets


def _charges(decisions: Sequence[Record]) -> dict[UUID, tuple[AccountKey, ...]]:
    """The accounts that a run charges, by dataset, as its approval recorded them."""
    return {UUID(entry["dataset_id"]): tuple(chain.accounts_of(entry)) for entry in decisions}

"""What happens to a run after it was asked for, and how it is shown. `asking` asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

from ledger.accounting import mechanisms
from ledger.accounting.settling import Charge
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount, timestamp
from ledger.core.commands import (
    OnRun,
    RefuseProposal,
    Ruling,
    Settle,
    Start,
    Void,
)
from ledger.core.datasets import AccountKey
from ledger.core.decision.of_run import run_state
from ledger.core.decision.posting import Repeat
from ledger.core.entries import Record
from ledger.core.journal import chain
from ledger.core.people import Actor, Consent
from ledger.core.runs import BEGIN_WITHIN_US, REFUSALS_PER_HOUR, Run
from ledger.errors import (
    Forbidden,
    InvalidRequest,
    NotFound,
    RunState,
)
from ledger.service import answers, endings, ids, pages, run_details, run_search, undecided, waiting
from ledger.service.aside import Aside
from ledger.service.asking import Asking, parsed, size_of
from ledger.service.catalogue import Catalogue, find_definition
from ledger.service.corrections import Corrections
from ledger.service.costing import (
    Costing,
    Execution,
    excess,
    executed,
    models_of,
    settled_costing,
)
from ledger.service.decided import Decided
from ledger.service.gathered import Gathered
from ledger.service.history import History
from ledger.service.requests.runs import CorrectionRequest, CorrectRequest, SettleRequest
from ledger.service.run_filters import Filters
from ledger.service.seen import Seen, all_entered, described
from ledger.service.shapes.runs import (
    ProgressShown,
    ReceiptShown,
    RunCorrected,
    RunInFull,
    RunMoved,
    RunPage,
    RunStarted,
)
from ledger.service.two_people import Outcome, proposed, proposed_before
from ledger.service.writer import Result, Writer
from ledger.signer.keyfile import Signer
from ledger.signer.receipts import ParsedEntry, Receipts, begin_by, renewed
from ledger.store import Reading, Store
from ledger.store.runs import position_of


class Runs:
    """Starts, settles, voids and shows runs.

    begin_within_us: how long a job may begin with a receipt. refusals_per_hour: how many refusals of one principal are
    recorded within an hour.
    """

    def __init__(
        self,
        store: Store,
        writer: Writer,
        catalogue: Catalogue,
        costing: Costing,
        signer: Signer,
        aside: Aside,
        *,
        begin_within_us: int = BEGIN_WITHIN_US,
        refusals_per_hour: int = REFUSALS_PER_HOUR,
    ) -> None:
        self._store, self._writer, self._costing = store, writer, costing
        self._aside, self._begin_within_us = aside, begin_within_us
        self._receipts = Receipts(signer, self._tenant_name)
        self._decided = Decided()
        self._history = History(store=store)
        self._shown = Gathered(self._read_shown)
        self._corrections = Corrections(store, writer, catalogue, costing)
        self.asking = Asking(
            store,
            writer,
            catalogue,
            costing,
            self._receipts,
            aside,
            self._decided,
            begin_within_us=begin_within_us,
            refusals_per_hour=refusals_per_hour,
        )

    # --- what changes a run

    async def start(self, actor: Actor, run_id: UUID, *, token: str | None) -> tuple[RunStarted, bool]:
        """Start a run: it may now touch the data. Return the answer, and whether the run was started before.

        token: of the process that starts it. Raises RunState if a process with another one started it.
        """
        _, decisions = await self._approved(actor, run_id)
        own = None if token is None else sha256(token.encode()).hexdigest()
        command = Start(actor, run_id, _charges(decisions), self._begin_within_us, own)
        result = await self._history.explaining(actor, self._writer.decide(actor.tenant_id, command))
        entries = await self._entries_of(command, result, decisions)
        if isinstance(result, Repeat):
            endings.demand_own_start(entries[0], own)
        receipt = await self._receipt(actor.tenant_id, decisions, entries)
        moved = endings.moved(decisions[0], entries)
        return RunStarted(**moved, begin_by=begin_by(entries[0]), receipt=receipt), isinstance(result, Repeat)

    async def settle(self, actor: Actor, run_id: UUID, *, request: SettleRequest, body: Mapping[str, Any]) -> RunMoved:
        """Settle a run for what it executed. Less than planned is returned only if that is sound. Raises Overrun for
        more than fits."""
        run, decisions = await self._approved(actor, run_id)
        command = await self._settling(actor, run, decisions, request=request, body=body)
        return endings.moved(decisions[0], await self._entered(command, decisions))

    async def note_progress(self, actor: Actor, run_id: UUID, *, steps: int, reporter: str | None) -> ProgressShown:
        """Keep how far the job of a started run has come, in place of what it reported before. Raises RunState."""
        await self._approved(actor, run_id)

        def note() -> ProgressShown:
            with self._store.writing(actor.tenant_id) as writing:
                now_us = writing.now_us()
                known = writing.progress.note(run_id, steps, now_us=now_us, reporter=reporter)
                if known is None:
                    run = writing.runs.by_id([run_id])[run_id]
                    raise run_state(run, "Only a started run has progress.")
            return ProgressShown(steps=known, at=timestamp(now_us), reporter=reporter)

        return await asyncio.to_thread(note)

    async def confirm(self, actor: Actor, run_id: UUID, *, reason: str) -> RunMoved:
        """Charge a run the number that it reported, which no budget covers. Raises RunState if none waits."""
        run, decisions = await asyncio.to_thread(self._run, actor, run_id)
        reported = await asyncio.to_thread(self._reported, actor, run)
        command = await self._settling(actor, run, decisions, request=reported, body={"reason": reason})
        command = replace(command, ruling=Ruling("confirmed", reason, Consent(uuid4())))
        return endings.ended(decisions[0], await self._entered(command, decisions))

    async def correct(
        self, actor: Actor, run_id: UUID, *, request: CorrectRequest, body: Mapping[str, Any], consent: Consent
    ) -> Outcome[RunMoved]:
        """Settle a run for another number than it reported, which may need a second person."""
        run, decisions = await asyncio.to_thread(self._run, actor, run_id)
        command = await self._settling(actor, run, decisions, request=request, body=body)
        return await self._guarded(replace(command, ruling=Ruling("corrected", request.reason, consent)), decisions)

    async def amend(
        self, actor: Actor, run_id: UUID, *, request: CorrectionRequest, body: Mapping[str, Any], consent: Consent
    ) -> Outcome[RunCorrected]:
        """Correct what a settled run was declared as. Giving back takes a second person, everything by the policy."""
        run, entries = await asyncio.to_thread(self._whole, actor, run_id)
        return await self._corrections.correct(actor, run, entries, request=request, body=body, consent=consent)

    def _whole(self, actor: Actor, run_id: UUID) -> tuple[Run, list[Record]]:
        with self._store.reading(actor.tenant_id) as reading:
            return self.seen(reading, actor, run_id)

    async def _settling(
        self,
        actor: Actor,
        run: Run,
        decisions: Sequence[Record],
        *,
        request: SettleRequest,
        body: Mapping[str, Any],
    ) -> Settle:
        """Return the command that settles a run for what it executed, with the charge."""
        decision = decisions[0]
        if run.cost is None:
            charged, execution = Charge(Amount(0, 0)), Execution(None, "planned")  # refused, so it cannot be settled
        else:
            mechanism = mechanisms.recorded(decision["request"]["mechanism"])
            execution = executed(mechanism, Terms.of(decision).segments, request)
            # A settled run repeats its answer; nothing needs to be computed for that.
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
            costing={**settled_costing(charged, execution), **models_of(request)},
            places={UUID(entry["dataset_id"]): entry["seq"] for entry in decisions},
        )

    def _reported(self, actor: Actor, run: Run) -> SettleRequest:
        """Return what a run reported, as it was sent. Raises RunState if no reported number waits for a steward."""
        for entry in self._entries(actor.tenant_id, [run.id]).get(run.id, ()):
            if entry["kind"] == "run-reported" and "request" in entry:
                return SettleRequest.model_validate(entry["request"])
        raise run_state(run, "It has no reported number that waits for a steward.")

    async def void(self, actor: Actor, run_id: UUID, *, body: Mapping[str, Any], consent: Consent) -> Outcome[RunMoved]:
        """Void a run: nobody saw any output of it. A started run may need a second person."""
        _, decisions = await self._approved(actor, run_id)
        is_independent = body.get("data_independent") is True
        command = Void(actor, run_id, _charges(decisions), body=body, consent=consent, is_independent=is_independent)
        return await self._guarded(command, decisions)

    async def _guarded(self, command: Void | Settle, decisions: Sequence[Record]) -> Outcome[RunMoved]:
        """Return the outcome of a command that may need two people, or its proposal."""
        result = await self._writer.decide(command.actor.tenant_id, command)
        if isinstance(result, Repeat) and (proposal := result.proposal) is not None:
            names = {UUID(entry["dataset_id"]): entry["dataset"] for entry in decisions}
            return Outcome(proposed_before(proposal, names[proposal.dataset_id]), is_done=False)
        entries = await self._entries_of(command, result, decisions)
        if entries[0]["kind"] == "change-proposed":
            return Outcome(proposed(entries[0]), is_done=False)
        return Outcome(endings.ended(decisions[0], entries), is_done=True)

    async def refuse_on_run(self, actor: Actor, run_id: UUID, *, proposal_id: UUID, reason: str) -> None:
        """Refuse what another steward proposed."""
        _, decisions = await asyncio.to_thread(self._run, actor, run_id)
        command = RefuseProposal(actor, proposal_id, tuple(_charges(decisions)), reason)
        await self._writer.decide(actor.tenant_id, command)

    async def _entered(self, command: OnRun, decisions: Sequence[Record]) -> list[Record]:
        """Return the entries that a command leaves, or left before, in the order of the decision's entries."""
        deciding = self._writer.decide(command.actor.tenant_id, command)
        result = await self._history.explaining(command.actor, deciding)
        return await self._entries_of(command, result, decisions)

    async def _entries_of(self, command: OnRun, result: Result, decisions: Sequence[Record]) -> list[Record]:
        tenant_id = command.actor.tenant_id
        if isinstance(result, Repeat):
            before = await asyncio.to_thread(self._entries, tenant_id, [result.run_id])
            entries = endings.repeated(before[result.run_id], result.kind, result.body)
        else:

            def read() -> list[Record]:
                return [ParsedEntry.parse(entry) for entry in result]

            entries = await self._aside.run(tenant_id, read, size=size_of(result))
        return answers.as_decided(entries, decisions)

    # --- what shows runs

    async def found(self, actor: Actor, text: str) -> UUID:
        """Return the id of a run: a whole one as it is, or the only one that the actor sees and that begins with a
        text. Raises NotFound, and InvalidRequest if there are several."""
        whole = ids.whole(text)
        return await asyncio.to_thread(self.find, actor, text) if whole is None else whole

    def find(self, actor: Actor, text: str) -> UUID:
        """Return the same, in a thread."""

        def between(first: UUID, last: UUID) -> Sequence[UUID]:
            is_limited = actor.datasets is not None
            own = actor.principal_id if is_limited else None
            with self._store.reading(actor.tenant_id) as reading:
                found = reading.runs.ids_between(first, last, limit=ids.CANDIDATES_MAX + 1, principal_id=own)
                undecided = waiting.between(reading, actor, first, last, limit=ids.CANDIDATES_MAX + 1)
                if is_limited:
                    seen = {run.id for run, entries in all_entered(reading, found) if _sees(actor, entries, run)}
                    found = [id_ for id_ in found if id_ in seen]
                return list(dict.fromkeys([*found, *undecided]))

        return ids.sought(text, between, _no_run())

    async def show(self, actor: Actor, run_id: UUID) -> RunInFull:
        """Return one run, in full."""
        seen = await self._shown.ask(actor.tenant_id, run_id)
        if seen is None and (shown := await asyncio.to_thread(self._waiting, actor, run_id)) is not None:
            return shown
        if seen is None or not _sees(actor, seen[0].entries, seen[0].run):
            raise _no_run()
        return run_details.for_actor(actor, seen[1])

    async def approved(self, actor: Actor, run_id: UUID) -> RunInFull:
        """Return a run that waited, to the steward who approved it just now, of whom it need not be."""
        seen = await self._shown.ask(actor.tenant_id, run_id)
        if seen is None:
            raise _no_run()
        return run_details.for_actor(actor, seen[1])

    def _waiting(self, actor: Actor, run_id: UUID) -> RunInFull | None:
        with self._store.reading(actor.tenant_id) as reading:
            proposal = waiting.find(reading, run_id)
            if proposal is None or not waiting.sees(actor, proposal):
                return None
            return undecided.in_full(reading, actor, proposal)

    def _read_shown(self, tenant_id: UUID, run_ids: Sequence[UUID]) -> dict[UUID, tuple[Seen, RunInFull]]:
        """Return those of these runs that there are, as they are shown."""
        with self._store.reading(tenant_id) as reading:
            entered = all_entered(reading, run_ids)
            decided = reading.runs.decided([run.id for run, _ in entered])
            places = {id_: [(place.dataset, place.seq) for place in found] for id_, found in decided.items()}
            seen = described(reading, entered, places)
            shown = run_details.in_full(reading, [(one.run, one.shown) for one in seen], decided)
        return {one.run.id: (one, shown[one.run.id]) for one in seen}

    def seen(self, reading: Reading, actor: Actor, run_id: UUID) -> tuple[Run, list[Record]]:
        """Return a run and all its entries. Raises NotFound if there is none, or the actor does not see it."""
        run = reading.runs.by_id([run_id]).get(run_id)
        entries = parsed(reading, [run_id])[run_id] if run is not None else []
        if run is None or not _sees(actor, entries, run):
            raise _no_run()
        return run, entries

    async def fits(self, actor: Actor, run_id: UUID) -> Mapping[str, Any]:
        """Return each parameter of a refused run's mechanism with the value that alone would have made it fit; none for
        a run that was not refused, or whose datasets the actor does not all see. Raises NotFound, TooLarge and
        Overloaded."""
        decisions = await asyncio.to_thread(self._refused, actor, run_id)
        return {} if decisions is None else await self._costing.fits(actor.tenant_id, decisions)

    def _refused(self, actor: Actor, run_id: UUID) -> Sequence[Record] | None:
        with self._store.reading(actor.tenant_id) as reading:
            run, entries = self.seen(reading, actor, run_id)
        decisions = answers.decisions_of(entries)
        sees_all = all(actor.sees(entry["dataset"]) for entry in decisions)
        return decisions if run.state == "refused" and sees_all else None

    def receipt(self, actor: Actor, run_id: UUID) -> ReceiptShown:
        """Return the renewed receipt of a run's start or, before that, of its approval.

        Raises RunState if the run was refused or has ended: it must not begin a job any more.
        """
        with self._store.reading(actor.tenant_id) as reading:
            run, entries = self.seen(reading, actor, run_id)
            now_us = reading.now_us()
        if run.is_reported:
            raise run_state(run, "It reported a number that a steward must confirm or correct, and has no receipt.")
        if run.state not in ("held", "started"):
            raise _no_receipt(run)
        decisions = answers.decisions_of(entries)
        started = answers.in_order_of(entries, "started", decisions)
        latest = started or decisions
        until = renewed(latest[0], timestamp(now_us + self._begin_within_us))
        receipt = self._receipts.sign(decisions, latest, tenant_id=actor.tenant_id, until=until)
        return ReceiptShown(run=str(run_id), state="started" if started else "held", begin_by=until, receipt=receipt)

    def page(self, actor: Actor, filters: Filters, *, limit: int, cursor: str | None) -> RunPage:
        """Return runs that the caller may see, newest first: at most `limit`, and as many as fit in one page.

        Raises NotFound for the dataset.
        """
        after = pages.after_moment(cursor)
        with self._store.reading(actor.tenant_id) as reading:
            if filters.key is not None:
                return _of_key(reading, actor, filters)
            within = None if filters.dataset is None else find_definition(reading, actor, filters.dataset)
            sought = run_search.sought_by(reading, actor, filters, within)
            walked, end = (
                ([], None) if sought is None else run_search.walk(reading, sought, filters, after=after, limit=limit)
            )
            listed = [
                undecided.Listed(position_of(one.run), one.shown)
                for one in described(reading, walked)
                if _sees(actor, one.entries, one.run)
            ]
            others, others_end = undecided.page(reading, actor, filters, within=within, after=after, limit=limit)
        items, end = undecided.merged([*listed, *others], [end, others_end], limit=limit)
        return RunPage(items=items, next=None if end is None else pages.cursor_at([end[0], str(end[1])]))

    # --- look-ups

    async def _approved(self, actor: Actor, run_id: UUID) -> tuple[Run, Sequence[Record]]:
        """Return a run that was approved, and the entries that decided it; the run may be in a later state by now."""
        known = self._decided.get(actor.tenant_id, run_id)
        if known is None:
            return await asyncio.to_thread(self._run, actor, run_id)
        _demand_own(actor, known.run, known.decisions)
        return known.run, known.decisions

    def _run(self, actor: Actor, run_id: UUID) -> tuple[Run, Sequence[Record]]:
        """Return a run and the entries that decided it."""
        with self._store.reading(actor.tenant_id) as reading:
            run = reading.runs.by_id([run_id]).get(run_id)
            entries = parsed(reading, [run_id])[run_id] if run is not None else []
            if run is None:
                waiting.demand_decided(reading, actor, run_id)
        if run is None:
            raise _no_run()
        _demand_own(actor, run, entries)
        return run, answers.decisions_of(entries)

    # --- receipts

    async def _receipt(self, tenant_id: UUID, decisions: Sequence[Record], entries: Sequence[Record]) -> str:
        sign = partial(self._receipts.sign, decisions, entries, tenant_id=tenant_id)
        # A thread costs more than a signature; the first signature of a tenant reads its name from the database.
        return sign() if self._receipts.knows(tenant_id) else await asyncio.to_thread(sign)

    def _tenant_name(self, tenant_id: UUID) -> str:
        with self._store.reading(tenant_id) as reading:
            tenant = reading.tenants.current()
        if tenant is None:
            raise NotFound("This tenant does not exist any more.")
        return tenant.name

    def _entries(self, tenant_id: UUID, run_ids: Sequence[UUID]) -> dict[UUID, list[Record]]:
        with self._store.reading(tenant_id) as reading:
            return parsed(reading, run_ids)


def _of_key(reading: Reading, actor: Actor, filters: Filters) -> RunPage:
    """Return the actor's own run that has an idempotency key, if there is one and it satisfies the other filters."""
    if filters != Filters(key=filters.key):
        raise InvalidRequest("key: names one run at most. Leave the other filters out.", field="key")
    found = reading.runs.of_key(actor.principal_id, filters.key or "")
    seen = described(reading, all_entered(reading, [] if found is None else [found]))
    if not seen:
        return undecided.of_id(reading, actor, found)
    return RunPage(items=[one.shown for one in seen if _sees(actor, one.entries, one.run)], next=None)


def _demand_own(actor: Actor, run: Run, entries: Sequence[Record]) -> None:
    """Raise NotFound if the actor may not see a run, and Forbidden if only its own principal or an admin may change
    it."""
    if not _sees(actor, entries, run):
        raise _no_run()
    if actor.role == "requester" and run.principal_id != actor.principal_id:
        raise Forbidden("Only the principal that asked for the run, or an admin, may do this.")


def _no_receipt(run: Run) -> RunState:
    followed = f" A correction followed: GET /v1/runs/{run.id} shows what it is charged now." if run.corrections else ""
    corrections = {"corrections": run.corrections} if run.corrections else {}
    return run_state(run, f"Only held and started runs have a receipt.{followed}", **corrections)


def _no_run() -> NotFound:
    return NotFound("No run has this id, or your key may not see it.")


def _sees(actor: Actor, entries: Sequence[Record], run: Run) -> bool:
    """Return whether the actor sees a run. A key limited to datasets sees its own runs that name no others."""
    if actor.datasets is None:
        return True
    return run.principal_id == actor.principal_id and answers.named(entries).keys() <= actor.datasets


def _charges(decisions: Sequence[Record]) -> dict[UUID, tuple[AccountKey, ...]]:
    """Return the accounts that a run charges, by dataset, as its approval recorded them."""
    return {UUID(entry["dataset_id"]): tuple(chain.accounts_of(entry)) for entry in decisions}

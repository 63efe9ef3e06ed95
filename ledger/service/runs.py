"""The way of a request for a run: resolve, cost, submit; after the commit the receipt, or what would have fitted."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Final
from uuid import UUID, uuid4

from ledger.accounting import ACCOUNTANT, costs, mechanisms, plan, settling
from ledger.accounting.costs import Cost
from ledger.accounting.settling import Charge, Stop
from ledger.core.amounts import Amount
from ledger.core.commands import (
    Ask,
    Batch,
    Claim,
    OnRun,
    RefuseProposal,
    Settle,
    Start,
    Void,
)
from ledger.core.datasets import AccountKey
from ledger.core.decision.group import Unrecorded, wanted_uses
from ledger.core.decision.posting import Repeat
from ledger.core.journal import chain
from ledger.core.people import Actor, Consent
from ledger.core.runs import Run, Use
from ledger.errors import (
    BudgetExceeded,
    Forbidden,
    LedgerError,
    NotFound,
    Overloaded,
    RunState,
    TooLarge,
)
from ledger.service import answers
from ledger.service.answers import Said
from ledger.service.catalogue import Catalogue, Resolved, demand_project, find
from ledger.service.certificates import Certificates, share_of
from ledger.service.costing import FITS_COSTS_MAX, excess, executed, recorded_segments, segments_of
from ledger.service.shapes import RunRequest, SettleRequest
from ledger.service.writer import Results, Writer
from ledger.signer.keyfile import Signer
from ledger.signer.receipts import ParsedEntry, Receipts
from ledger.store import Reading, Store

FITS_OF_BATCH_MAX: Final = 10
"""For how many of a batch's refusals that need certificates it is said at all."""
COSTED_AT_ONCE_MAX: Final = 8
"""How many of a batch's costs are worked out at the same time, so that others get their turn."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run's decision is answered with; `refusal` where it was refused."""

    body: dict[str, Any]
    is_replayed: bool
    refusal: BudgetExceeded | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One run of a batch: its key, what was asked, and the JSON of that."""

    key: str
    request: RunRequest
    body: Mapping[str, Any]


class Runs:
    """Asks for runs, starts, settles and voids them, and shows them."""

    def __init__(
        self, store: Store, writer: Writer, catalogue: Catalogue, certificates: Certificates, signer: Signer
    ) -> None:
        self._store, self._writer, self._catalogue, self._certificates = store, writer, catalogue, certificates
        self._receipts = Receipts(signer, self._tenant_name)

    # --- asking

    async def ask(self, actor: Actor, item: Item) -> Answer:
        """Asks for approval of a run. Raises LedgerError; a refusal is an Answer."""
        command = await self._prepared(actor, item)
        result = await asyncio.wrap_future(self._writer.submit(actor.tenant_id, command))
        if isinstance(result, Repeat):
            before = await asyncio.to_thread(self._entries, actor.tenant_id, [result.run_id])
            decisions = answers.decisions_of(before[result.run_id])
        else:
            decisions = answers.in_order(ParsedEntry.of(entry) for entry in result)
        answer = await self._answer(actor, decisions, is_replayed=isinstance(result, Repeat))
        if answer.refusal is None:
            answer.body["receipt"] = await self._receipt(actor.tenant_id, decisions, decisions)
        return answer

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
        results = iter(await self._answers(actor, decided))
        found = [next(results) if isinstance(command, Ask) else command for command in commands]
        is_refused = is_atomic and any(isinstance(each, LedgerError) or each.refusal for each in found)
        return found, is_refused

    async def _prepared(self, actor: Actor, item: Item) -> Ask:
        """The command that asks for a run, with its cost. Raises LedgerError."""
        request = item.request
        demand_project(actor, request.project)
        resolved = await self._catalogue.resolve(actor, request.datasets)
        cost, costing = await self._costed(actor, resolved, request)
        return Ask(
            actor=actor,
            run_id=uuid4(),
            claim=Claim(item.key, chain.digest(chain.canonical(item.body))),
            uses=resolved.uses,
            project=request.project,
            cost=cost,
            request=item.body,
            costing=costing,
            valid_for_us=request.valid_for // timedelta(microseconds=1),
        )

    async def _costed(self, actor: Actor, resolved: Resolved, request: RunRequest) -> tuple[Amount, dict[str, Any]]:
        """What the run costs, and how that was worked out, for the record."""
        bound, adjacency, count = resolved.bound, resolved.adjacency, request.segments or 1
        share = None
        if costs.needs_certificate(request.mechanism, bound=bound):
            share = request.delta or await asyncio.to_thread(self.share, actor, resolved.uses, request.project)
        work = partial(
            self._certificates.cost,
            actor.tenant_id,
            request.mechanism,
            bound=bound,
            adjacency=adjacency,
            delta=share or Decimal(0),
        )
        cost: Cost = await work(segments=count)
        costing = {
            "bound": bound,
            "adjacency": adjacency,
            "method": cost.method,
            "assumptions": cost.assumptions,
            "accountant": ACCOUNTANT,
            **({} if share is None else {"delta": share}),
        }
        if count > 1:
            costing["segments"] = segments_of(request.mechanism, count, cost, whole=await work())
        return cost.amount, costing

    def share(self, actor: Actor, uses: Sequence[Use], project: str | None) -> Decimal:
        """The delta of a run that names none, by the least limit, as it now is, of the accounts that it charges."""
        of = wanted_uses(
            [Use(use.dataset_id, (), use.via) for use in uses], project=project, principal_id=actor.principal_id
        )
        with self._store.reading(actor.tenant_id) as reading:
            books = reading.books(of)
        limits = [dataset.limit for dataset in books.datasets.values()]
        limits += [dataset.fair_use.held for dataset in books.datasets.values()]
        limits += [share.limit for share in books.projects.values()]
        least = min((limit.delta_atto for limit in limits if limit is not None), default=0)
        return share_of(Amount(0, least))

    async def _answers(self, actor: Actor, decided: Results) -> list[Answer | LedgerError]:
        repeats = [result.run_id for result in decided if isinstance(result, Repeat)]
        before = await asyncio.to_thread(self._entries, actor.tenant_id, repeats) if repeats else {}
        dear_left = itertools.count(1)
        found: list[Answer | LedgerError] = []
        approved: list[tuple[Answer, Sequence[Said]]] = []
        for result in decided:
            match result:
                case LedgerError():
                    found.append(result)
                    continue
                case Repeat():
                    decisions = answers.decisions_of(before[result.run_id])
                case Unrecorded():
                    decisions = answers.in_order(
                        {**draft.facts, "dataset": draft.dataset, "dataset_id": str(draft.dataset_id), "seq": None}
                        for draft in result.drafts
                    )
                    found.append(Answer({}, False, answers.refused(decisions, fits=None)))
                    continue
                case _:
                    decisions = answers.in_order(ParsedEntry.of(entry) for entry in result)
            is_refused = decisions[0]["kind"] == "run-refused"
            with_fits = not is_refused or "delta" not in decisions[0] or next(dear_left) <= FITS_OF_BATCH_MAX
            replayed = isinstance(result, Repeat)
            found.append(answer := await self._answer(actor, decisions, is_replayed=replayed, with_fits=with_fits))
            if answer.refusal is None:
                approved.append((answer, decisions))
        await asyncio.to_thread(self._sign_all, actor.tenant_id, approved)
        return found

    async def _answer(
        self, actor: Actor, decisions: Sequence[Said], *, is_replayed: bool, with_fits: bool = True
    ) -> Answer:
        if decisions[0]["kind"] == "run-approved":
            return Answer(answers.approved(decisions), is_replayed)
        fits = await self._fits(actor, decisions) if with_fits else None
        return Answer({}, is_replayed, answers.refused(decisions, fits=fits))

    async def _fits(self, actor: Actor, decisions: Sequence[Said]) -> dict[str, Any]:
        """What would have fitted: a function of what is recorded, so worked out after the commit, and again alike."""
        work = partial(_fitting, decisions)
        if "delta" not in decisions[0]:
            return await asyncio.to_thread(work)
        try:
            return await self._certificates.beside(actor.tenant_id, work, of={"fits": decisions[0]["run"]})
        except TooLarge as error:
            # The refusal is on record, and the work goes on: with the same key the whole answer can be had.
            raise Overloaded("The run was refused; what would fit is still being computed.") from error

    # --- what changes a run

    async def start(self, actor: Actor, run_id: UUID) -> dict[str, Any]:
        """Says that the run now touches the data."""
        _, decisions = await asyncio.to_thread(self._run, actor, run_id)
        entries = await self._entered(Start(actor, run_id, _charges(decisions)), decisions)
        receipt = await self._receipt(actor.tenant_id, decisions, entries)
        return {**answers.moved(decisions[0], entries), "receipt": receipt}

    async def settle(
        self, actor: Actor, run_id: UUID, *, request: SettleRequest, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Settles a run for what it executed, as far as that is sound. Raises Overrun where that was more than fits."""
        run, decisions = await asyncio.to_thread(self._run, actor, run_id)
        decision = decisions[0]
        if run.cost is None:
            charged, steps, stop = Charge(Amount(0, 0)), None, "planned"  # it was refused, and cannot be settled
        else:
            mechanism = mechanisms.parse(decision["request"]["mechanism"])
            steps, stop = executed(mechanism, recorded_segments(decision), request)
            # One that was settled already repeats its answer; nothing needs to be computed for that.
            is_new = run.state != "settled"
            charged = await self._charge(actor, run.cost, decision, steps, stop) if is_new else Charge(run.cost)
        command = Settle(
            actor,
            run_id,
            _charges(decisions),
            body=body,
            steps=steps,
            stop=stop,
            charged=charged.charged,
            excess=excess(charged, decision),
        )
        return answers.moved(decision, await self._entered(command, decisions))

    async def _charge(self, actor: Actor, cost: Amount, decision: Said, steps: int | None, stop: Stop) -> Charge:
        mechanism = mechanisms.parse(decision["request"]["mechanism"])
        segments, method = recorded_segments(decision), decision["method"]
        work = partial(
            settling.charge,
            mechanism,
            bound=decision["bound"],
            adjacency=decision["adjacency"],
            delta=Decimal(decision.get("delta", 0)),
            segments=segments,
            approved=cost,
            method=method,
            steps=steps,
            stop=stop,
        )
        is_dear = settling.is_dear(
            mechanism, bound=decision["bound"], segments=segments, method=method, steps=steps, stop=stop
        )
        if not is_dear:
            return work()
        of = {"settle": decision["run"], "steps": steps, "stop": stop}
        return await self._certificates.beside(actor.tenant_id, work, of=of)

    async def void(
        self, actor: Actor, run_id: UUID, *, body: Mapping[str, Any], consent: Consent
    ) -> tuple[dict[str, Any], bool]:
        """Says that no output of the run was ever seen: the answer, and whether that is done or only proposed."""
        _, decisions = await asyncio.to_thread(self._run, actor, run_id)
        entries = await self._entered(Void(actor, run_id, _charges(decisions), body=body, consent=consent), decisions)
        if entries[0]["kind"] == "change-proposed":
            return answers.proposed(entries[0]), False
        return answers.moved(decisions[0], entries), True

    async def refuse_void(self, actor: Actor, run_id: UUID, *, proposal_id: UUID, reason: str) -> None:
        """Says no to what somebody else proposed."""
        _, decisions = await asyncio.to_thread(self._run, actor, run_id)
        command = RefuseProposal(actor, proposal_id, tuple(_charges(decisions)), reason)
        await asyncio.wrap_future(self._writer.submit(actor.tenant_id, command))

    async def _entered(self, command: OnRun, decisions: Sequence[Said]) -> list[Said]:
        """The entries that a command leaves, or left before, in the order of the decision's."""
        result = await asyncio.wrap_future(self._writer.submit(command.actor.tenant_id, command))
        if isinstance(result, Repeat):
            before = await asyncio.to_thread(self._entries, command.actor.tenant_id, [result.run_id])
            entries = answers.repeated(before[result.run_id], result.kind, result.body)
        else:
            entries = [ParsedEntry.of(entry) for entry in result]
        return _as_decided(entries, decisions)

    # --- what shows runs

    def show(self, actor: Actor, run_id: UUID) -> dict[str, Any]:
        """One run, in full."""
        with self._store.reading(actor.tenant_id) as reading:
            run = reading.runs_by_id([run_id]).get(run_id)
            entries = _parsed(reading, [run_id])[run_id] if run is not None else []
            if run is None or not _sees(actor, entries, run):
                raise _no_run()
            return answers.describe(run, entries, now_us=reading.now_us())

    def receipt(self, actor: Actor, run_id: UUID) -> dict[str, Any]:
        """The receipt of a run's start, also once it is settled; before that, of its approval.

        Raises RunState where there is none: it was refused, or an answer said that it is void.
        """
        with self._store.reading(actor.tenant_id) as reading:
            run = reading.runs_by_id([run_id]).get(run_id)
            entries = _parsed(reading, [run_id])[run_id] if run is not None else []
        if run is None or not _sees(actor, entries, run):
            raise _no_run()
        if run.state in ("refused", "voided"):
            raise RunState(f"The run is {run.state}: there is no receipt that lets anything begin.", state=run.state)
        decisions = answers.decisions_of(entries)
        started = _as_decided([entry for entry in entries if entry["kind"] == "run-started"], decisions)
        receipt = self._receipts.sign(decisions, started or decisions, tenant_id=actor.tenant_id)
        return {"run": str(run_id), "state": "started" if started else "held", "receipt": receipt}

    def page(
        self,
        actor: Actor,
        *,
        after: tuple[int, UUID] | None,
        limit: int,
        dataset: str | None,
        state: str | None,
        project: str | None,
        is_overdue: bool | None,
    ) -> list[tuple[Run, dict[str, Any]]]:
        """Runs that the caller may see, newest first."""
        limited = actor.datasets is not None
        with self._store.reading(actor.tenant_id) as reading:
            now_us = reading.now_us()
            found = reading.run_page(
                after=after,
                limit=limit,
                dataset_id=None if dataset is None else find(reading, actor, dataset).id,
                state=state,
                project=project,
                due_before_us=now_us if is_overdue else None,
                not_due_before_us=now_us if is_overdue is False else None,
                principal_id=actor.principal_id if limited else None,
                within=actor.datasets,
            )
            entries = _parsed(reading, [run.id for run in found])
        return [(run, answers.describe(run, entries[run.id], now_us=now_us)) for run in found]

    # --- looking things up

    def _run(self, actor: Actor, run_id: UUID) -> tuple[Run, list[Said]]:
        """A run and the entries that decided it."""
        with self._store.reading(actor.tenant_id) as reading:
            run = reading.runs_by_id([run_id]).get(run_id)
            entries = _parsed(reading, [run_id])[run_id] if run is not None else []
        if run is None or not _sees(actor, entries, run):
            raise _no_run()
        if actor.role == "requester" and run.principal_id != actor.principal_id:
            raise Forbidden("Only the principal that asked for a run may do that.")
        return run, answers.decisions_of(entries)

    # --- receipts

    async def _receipt(self, tenant_id: UUID, decisions: Sequence[Said], entries: Sequence[Said]) -> str:
        work = partial(self._receipts.sign, decisions, entries, tenant_id=tenant_id)
        # A thread costs more than a signature; the first one of a tenant reads its name from the database.
        return work() if self._receipts.knows(tenant_id) else await asyncio.to_thread(work)

    def _sign_all(self, tenant_id: UUID, approved: Sequence[tuple[Answer, Sequence[Said]]]) -> None:
        for answer, decisions in approved:
            answer.body["receipt"] = self._receipts.sign(decisions, decisions, tenant_id=tenant_id)

    def _tenant_name(self, tenant_id: UUID) -> str:
        with self._store.reading(tenant_id) as reading:
            tenant = reading.tenant()
        if tenant is None:
            raise NotFound("There is no such tenant.")
        return tenant.name

    def _entries(self, tenant_id: UUID, run_ids: Sequence[UUID]) -> dict[UUID, list[Said]]:
        with self._store.reading(tenant_id) as reading:
            return _parsed(reading, run_ids)


def _parsed(reading: Reading, run_ids: Sequence[UUID]) -> dict[UUID, list[Said]]:
    found = reading.entries_of_runs(run_ids)
    return {run_id: [ParsedEntry.of(entry) for entry in entries] for run_id, entries in found.items()}


def _as_decided(entries: Sequence[Said], decisions: Sequence[Said]) -> list[Said]:
    """Entries of a run in the order in which its decision names the datasets."""
    order = {entry["dataset"]: place for place, entry in enumerate(decisions)}
    return sorted(entries, key=lambda entry: order[entry["dataset"]])


def _no_run() -> NotFound:
    return NotFound("There is no such run.")


def _sees(actor: Actor, entries: Sequence[Said], run: Run) -> bool:
    """A key limited to datasets sees, of their runs, its own."""
    if actor.datasets is None:
        return True
    return run.principal_id == actor.principal_id and any(entry["dataset"] in actor.datasets for entry in entries)


def _charges(decisions: Sequence[Said]) -> dict[UUID, tuple[AccountKey, ...]]:
    """The accounts that a run charges, by dataset, as its approval recorded them."""
    return {UUID(entry["dataset_id"]): tuple(chain.accounts_of(entry)) for entry in decisions}


def _fitting(decisions: Sequence[Said]) -> dict[str, Any]:
    first = decisions[0]
    within: dict[str, Any] = {
        "bound": first["bound"],
        "adjacency": first["adjacency"],
        "remaining": answers.remaining_of(decisions),
        "segments": recorded_segments(first),
    }
    mechanism = mechanisms.parse(first["request"]["mechanism"])
    if "delta" not in first:
        return plan.fits(mechanism, **within)
    made = itertools.count(1)
    return plan.fits(mechanism, **within, delta=first["delta"], is_late=lambda: next(made) > FITS_COSTS_MAX)

"""Asks for runs: resolve, cost, submit; after the commit, sign the receipt or find what would have fitted."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache, partial
from typing import Any, Final
from uuid import UUID, uuid4

from cachetools import LRUCache

from ledger.core.amounts import Amount
from ledger.core.commands import Ask, Batch, Claim, Second
from ledger.core.decision.group import Unrecorded
from ledger.core.decision.posting import Repeat
from ledger.core.entries import Record
from ledger.core.journal.chain import digest
from ledger.core.people import Actor, Proposal
from ledger.core.runs import BEGIN_WITHIN_US, REFUSALS_PER_HOUR, Run
from ledger.errors import BudgetExceeded, IdempotencyKeyReused, LedgerError, Overloaded, TooLarge
from ledger.service import answers, reused, sizes, waiting
from ledger.service.aside import Aside
from ledger.service.asked import Asked, Drawn, Item, Key, Priced, canonical
from ledger.service.catalogue import Catalogue, Resolved, demand_project_of_key, demand_sight
from ledger.service.costing import Costing, Question, demand_weight
from ledger.service.decided import Approved, Decided
from ledger.service.epsilons import Epsilons
from ledger.service.history import History
from ledger.service.requests.runs import RunRequest
from ledger.service.shapes.common import EpsilonShown
from ledger.service.shapes.runs import RunApproved
from ledger.service.writer import Result, Results, Writer
from ledger.signer.receipts import ParsedEntry, Receipts
from ledger.store import Reading, Store

FITS_OF_BATCH_MAX: Final = 10
"""For at most this many refusals of a batch that need certificates, the answer has what would have fitted."""
KINDS_MAX: Final = 4_096
"""Of how many kinds of runs the costs are remembered."""
COSTED_AT_ONCE_MAX: Final = 8
"""The most costs of a batch that are computed at once, so that others get their turn."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a run's decision. size: the bytes of its entries, if known."""

    decision: RunApproved | BudgetExceeded
    is_replayed: bool
    size: int | None = None

    @property
    def is_refused(self) -> bool:
        return isinstance(self.decision, BudgetExceeded)

    @property
    def is_recorded(self) -> bool:
        """Return whether the decision has an entry; a refusal in a batch may have none."""
        return not isinstance(self.decision, BudgetExceeded) or "run" in self.decision.facts


@dataclass(frozen=True, slots=True)
class _Known:
    """What runs of one kind touch and cost, if that depends on nothing that changes."""

    resolved: Resolved
    priced: Priced


@dataclass(frozen=True, slots=True)
class _Decided:
    """The entries that decide a run, the answer if it was approved, and its epsilon by itself."""

    decisions: list[Record]
    is_replayed: bool
    approved: RunApproved | None
    epsilon: list[EpsilonShown]


class Asking:
    """Asks for runs. Its coroutines belong to one event loop. Arguments as for `Runs`."""

    def __init__(
        self,
        store: Store,
        writer: Writer,
        catalogue: Catalogue,
        costing: Costing,
        receipts: Receipts,
        aside: Aside,
        decided: Decided,
        *,
        begin_within_us: int = BEGIN_WITHIN_US,
        refusals_per_hour: int = REFUSALS_PER_HOUR,
    ) -> None:
        self._store, self._writer, self._catalogue, self._costing = store, writer, catalogue, costing
        self._history = History(store=store)
        self._receipts, self._aside, self._remembered = receipts, aside, decided
        self._begin_within_us, self._refusals_per_hour = begin_within_us, refusals_per_hour
        self._kinds = LRUCache[tuple[UUID, str], _Known](KINDS_MAX)
        self._epsilons = Epsilons(store)
        self._drawn = LRUCache[tuple[UUID, str], Drawn](KINDS_MAX)

    async def ask(self, actor: Actor, item: Item) -> Answer:
        """Ask for approval of a run. Raises LedgerError; a refusal is an Answer."""
        demand_project_of_key(actor, item.request.project)
        if item.request.mechanism.lacks_size:
            item = _completed(item, await self._catalogue.resolve(actor, item.request.datasets))
        text = await self._aside.run(actor.tenant_id, partial(_text_of, item), size=item.size)
        known = await self._known_of(actor, item)
        command = self._command(actor, item, known.resolved, text, known.priced)
        try:
            result = await self._history.explaining(actor, self._writer.decide(actor.tenant_id, command))
        except IdempotencyKeyReused as error:
            entries = await asyncio.to_thread(self._entries, actor.tenant_id, [UUID(error.facts["run"])])
            raise reused.described(error, item.body, entries[UUID(error.facts["run"])]) from None
        if not isinstance(result, Repeat) and result[0].kind == "change-proposed":
            raise waiting.just_proposed(ParsedEntry.parse(result[0]))
        repeated = [result.run_id] if isinstance(result, Repeat) else []
        before = await asyncio.to_thread(self._entries, actor.tenant_id, repeated) if repeated else {}
        if isinstance(result, Repeat) and not before[result.run_id]:
            raise await asyncio.to_thread(waiting.outcome, self._store, actor.tenant_id, result.run_id)
        epsilon = await self._epsilon_of(actor.tenant_id, command, result, before)
        is_little = self._receipts.knows(actor.tenant_id) and not repeated
        size = size_of(result) if is_little else None
        decided = await self._aside.run(
            actor.tenant_id, partial(self._decided, actor.tenant_id, result, before, epsilon), size=size
        )
        if decided.approved is not None:
            self._remember(actor, command, result, decided.decisions)
            return Answer(decided.approved, decided.is_replayed, size)
        fits = await self._fits(actor, decided.decisions)
        as_one = await self._costing.as_one(actor.tenant_id, decided.decisions)
        refused = partial(answers.refused, decided.decisions, fits=fits, as_one=as_one, epsilon=epsilon)
        return Answer(await self._aside.run(actor.tenant_id, refused, size=size), decided.is_replayed, size)

    async def _epsilon_of(
        self,
        tenant_id: UUID,
        command: Ask,
        result: Result | Unrecorded | LedgerError,
        before: Mapping[UUID, Sequence[Record]],
    ) -> list[EpsilonShown]:
        """Return the epsilon of a run by itself."""
        return await self._epsilons.of_run(tenant_id, *_costed(command, result, before))

    async def second(self, actor: Actor, proposal: Proposal, *, reason: str | None) -> None:
        """Decide a run that waited for a steward, who approves it: afresh, against what is left now. It may be refused,
        as any run. Raises ProposalState, DatasetFrozen, and Forbidden for the person who asked for it."""
        facts, asker = proposal.body["request"], _asker(actor.tenant_id, proposal)
        request = RunRequest.model_validate(facts["request"])
        item = Item(facts["idempotency_key"], request, facts["request"])
        known = await self._known_of(asker, item)
        command = self._command(asker, item, known.resolved, _text_of(item), known.priced)
        command = replace(command, run_id=proposal.id, second=Second(actor, reason))
        await self._history.explaining(actor, self._writer.decide(actor.tenant_id, command))

    async def datasets_of(self, actor: Actor, proposal: Proposal) -> tuple[UUID, ...]:
        """Return the datasets that a run touches which waits for a steward."""
        asker = _asker(actor.tenant_id, proposal)
        request = RunRequest.model_validate(proposal.body["request"]["request"])
        resolved = await self._catalogue.resolve(asker, request.datasets)
        return tuple(use.dataset_id for use in resolved.uses)

    async def _known_of(self, actor: Actor, item: Item) -> _Known:
        """Return what a run touches and costs. What was worked out before is remembered, but for certificates, which
        are remembered elsewhere."""
        key = None if item.kind is None else (actor.tenant_id, item.kind)
        known = None if key is None else self._kinds.get(key)
        if known is not None:
            for use in item.request.datasets:
                demand_sight(actor, use.name)
            return known
        resolved = await self._catalogue.resolve(actor, item.request.datasets)
        costed = await self._costing.cost(actor, resolved, item.request)
        drawn = None if key is None else self._drawn.get(key)
        if drawn is None:
            drawn = Drawn.of(item.request.mechanism, resolved)
        if key is not None:
            self._drawn[key] = drawn
        known = _Known(resolved, Priced.of(costed).beside(drawn))
        if key is not None and costed.delta is None:
            self._kinds[key] = known
        return known

    def _remember(
        self, actor: Actor, command: Ask, result: Result | Unrecorded | LedgerError, decisions: Sequence[Record]
    ) -> None:
        """Remember a run that was approved now, for what happens to it next."""
        if isinstance(result, tuple):
            at_us, cost = result[0].at_us, Amount.from_facts(decisions[0]["cost"])
            run = Run(command.run_id, actor.principal_id, "held", cost, at_us, project=command.project)
            self._remembered.add(actor.tenant_id, Approved(run, decisions, size_of(result) or 0))

    async def ask_batch(
        self, actor: Actor, items: Sequence[Item | LedgerError], *, is_atomic: bool = False, takes_most: bool = False
    ) -> tuple[list[Answer | LedgerError], bool]:
        """Ask for several runs in one transaction. Return each outcome, in order, and whether all were refused.

        An item that is an error already stays one. is_atomic: all are approved, or nothing is recorded. takes_most: as
        many as fit together are approved, and the others are not recorded. Raises TooLarge if their costs together take
        too much work.
        """
        commands = await self.commands_of(actor, items)
        asks = tuple(command for command in commands if isinstance(command, Ask))
        batch = Batch(actor, asks, is_atomic, is_spoilt=len(asks) < len(commands), takes_most=takes_most)
        decided: Results = await asyncio.wrap_future(self._writer.submit_batch(actor.tenant_id, batch)) if asks else ()
        decided_answers = iter(await self._history.explained(actor, await self._answers(actor, asks, decided)))
        results = [next(decided_answers) if isinstance(command, Ask) else command for command in commands]
        is_refused = is_atomic and any(isinstance(result, LedgerError) or result.is_refused for result in results)
        return results, is_refused

    async def commands_of(self, actor: Actor, items: Sequence[Item | LedgerError]) -> list[Ask | LedgerError]:
        """Return the commands that ask for these runs, with their costs, or the error of a run that cannot be asked
        for. Raises TooLarge as `ask_batch`."""
        questions = await self._aside.run(actor.tenant_id, partial(self._questions, actor, items), size=None)
        prices = await self._prices(actor, {one.key: one.question for one in questions if isinstance(one, Asked)})
        commanded = partial(self._commands, actor, items, questions, prices)
        return await self._aside.run(actor.tenant_id, commanded, size=None)

    async def _prices(self, actor: Actor, questions: Mapping[Key, Question]) -> Mapping[Key, Priced | LedgerError]:
        """Return the cost of each question, a few computed at the same time."""
        prices: dict[Key, Priced | LedgerError] = {}
        left = iter(questions.items())

        async def price_some() -> None:
            for key, question in left:
                try:
                    prices[key] = Priced.of(await self._costing.work_out(actor.tenant_id, question))
                except LedgerError as error:
                    prices[key] = error
                await asyncio.sleep(0)  # what is remembered takes no time, and others get their turn all the same

        await asyncio.gather(*(price_some() for _ in range(min(COSTED_AT_ONCE_MAX, len(questions)))))
        return prices

    def _questions(self, actor: Actor, items: Sequence[Item | LedgerError]) -> list[Asked | LedgerError]:
        """Return what the costs of a batch's runs depend on; equal requests share it. Raises TooLarge."""
        asked: dict[str | int, Asked | LedgerError] = {}
        keys = [_text_of(item) if isinstance(item, Item) else index for index, item in enumerate(items)]
        for key, item in zip(keys, items, strict=True):
            if key not in asked:
                asked[key] = self._asked(actor, item) if isinstance(item, Item) else item
        demand_weight(one.question for one in asked.values() if isinstance(one, Asked))
        return [asked[key] for key in keys]

    def _asked(self, actor: Actor, item: Item) -> Asked | LedgerError:
        try:
            demand_project_of_key(actor, item.request.project)
            resolved = self._catalogue.resolve_now(actor, item.request.datasets)
            item = _completed(item, resolved)
            question = self._costing.question(actor, resolved, item.request)
        except LedgerError as error:
            return error
        key = canonical(item.body["mechanism"]), question.terms, question.shares, question.situation
        return Asked(resolved, question, key, item, Drawn.of(question.mechanism, resolved))

    def _commands(
        self,
        actor: Actor,
        items: Sequence[Item | LedgerError],
        questions: Sequence[Asked | LedgerError],
        prices: Mapping[Key, Priced | LedgerError],
    ) -> list[Ask | LedgerError]:
        """Return the commands of a batch's runs, in order, or the error of a run that cannot be asked for."""
        commands: list[Ask | LedgerError] = []
        recorded: dict[int, Priced] = {}
        for item, asked in zip(items, questions, strict=True):
            priced = asked if isinstance(asked, LedgerError) else prices[asked.key]
            if isinstance(item, Item) and isinstance(asked, Asked) and isinstance(priced, Priced):
                priced = recorded.setdefault(id(asked), priced.beside(asked.drawn))
                whole = replace(asked.asked, key=item.key)  # equal requests were completed once
                commands.append(self._command(actor, whole, asked.resolved, _text_of(whole), priced))
            elif isinstance(priced, LedgerError):
                commands.append(priced)
        return commands

    def _command(self, actor: Actor, item: Item, resolved: Resolved, text: str, priced: Priced) -> Ask:
        """Return the command that asks for a run, with its cost. text: the canonical JSON of what was asked."""
        request = item.request
        return Ask(
            actor=actor,
            run_id=uuid4(),
            claim=Claim(item.key, digest(text)),
            uses=resolved.uses,
            project=request.project,
            cost=priced.cost,
            request=item.body,
            costing=priced.facts,
            valid_for_us=request.valid_for // timedelta(microseconds=1),
            begin_within_us=self._begin_within_us,
            refusals_per_hour=self._refusals_per_hour,
            texts={**priced.texts, "request": text, "actor": _text_of_actor(actor)},
            residual=priced.table,
        )

    def _decided(
        self,
        tenant_id: UUID,
        result: Result | Unrecorded | LedgerError,
        before: Mapping[UUID, Sequence[Record]],
        epsilon: list[EpsilonShown],
    ) -> _Decided:
        decisions = _decisions(result, before)
        approved = None
        if _is_approved(decisions):
            receipt = self._receipts.sign(decisions, decisions, tenant_id=tenant_id)
            approved = answers.approved(decisions, receipt=receipt, epsilon=epsilon)
        return _Decided(decisions, isinstance(result, Repeat), approved, epsilon)

    async def _answers(self, actor: Actor, asks: Sequence[Ask], results: Results) -> list[Answer | LedgerError]:
        """Return the answers to the runs of a batch, in order."""

        def decide() -> tuple[Results, list[_Decided]]:
            repeats = [run_id for result in results if (run_id := _repeats(result)) is not None]
            before = self._entries(actor.tenant_id, repeats) if repeats else {}
            named = tuple(self._named(actor, ask, result, before) for ask, result in zip(asks, results, strict=True))
            epsilons = self._epsilons.of_runs(
                actor.tenant_id, [_costed(*pair, before) for pair in zip(asks, named, strict=True)]
            )
            decided = [
                self._decided(actor.tenant_id, result, before, epsilon)
                for result, epsilon in zip(named, epsilons, strict=True)
            ]
            return named, decided

        results, all_decided = await self._aside.run(actor.tenant_id, decide, size=None)
        dear = itertools.count(1)
        answered: list[Answer | LedgerError] = []
        for result, decided in zip(results, all_decided, strict=True):
            if isinstance(result, LedgerError):
                answered.append(result)
            elif decided.approved is not None:
                answered.append(Answer(decided.approved, decided.is_replayed))
            else:
                is_free = "delta" not in decided.decisions[0]
                has_fits = not isinstance(result, Unrecorded) and (is_free or next(dear) <= FITS_OF_BATCH_MAX)
                fits = await self._fits(actor, decided.decisions) if has_fits else None
                refusal = partial(answers.refused, decided.decisions, fits=fits, epsilon=decided.epsilon)
                answered.append(Answer(await self._aside.run(actor.tenant_id, refusal, size=None), decided.is_replayed))
        return answered

    def _named(
        self,
        actor: Actor,
        ask: Ask,
        result: Result | Unrecorded | LedgerError,
        before: Mapping[UUID, Sequence[Record]],
    ) -> Result | Unrecorded | LedgerError:
        """Return the result of a batch's run, with what its key stands for if that was used before."""
        if isinstance(result, IdempotencyKeyReused):
            return reused.described(result, ask.request, before[UUID(result.facts["run"])])
        if isinstance(result, Repeat) and not before[result.run_id]:
            return waiting.outcome(self._store, actor.tenant_id, result.run_id)
        return result

    async def _fits(self, actor: Actor, decisions: Sequence[Record]) -> dict[str, Any]:
        """Return what would have fitted. It depends only on what is recorded, so it is computed after the commit, and
        repeatable."""
        try:
            return await self._costing.fits(actor.tenant_id, decisions)
        except TooLarge as error:
            # The refusal is recorded, and the computation goes on: the same key gets the whole answer later.
            raise Overloaded(
                "The run was refused; what would fit is still being computed. Repeat the request with the same"
                " Idempotency-Key."
            ) from error

    def _entries(self, tenant_id: UUID, run_ids: Sequence[UUID]) -> dict[UUID, list[Record]]:
        with self._store.reading(tenant_id) as reading:
            return parsed(reading, run_ids)


def _asker(tenant_id: UUID, proposal: Proposal) -> Actor:
    """Return who asked for a run that waits. What the key may see was decided then."""
    by = proposal.body["by"]
    return Actor(tenant_id, UUID(by["key"]), UUID(by["principal"]), by["name"], by["role"])


def parsed(reading: Reading, run_ids: Sequence[UUID]) -> dict[UUID, list[Record]]:
    """Return the entries of these runs, by run."""
    sealed = reading.journals.run_entries(run_ids)
    return {run_id: [ParsedEntry.parse(entry) for entry in entries] for run_id, entries in sealed.items()}


def _costed(
    ask: Ask, result: Result | Unrecorded | LedgerError, before: Mapping[UUID, Sequence[Record]]
) -> tuple[Amount, tuple[UUID, ...]]:
    """Return what a run costs by itself, and the datasets that it charges; if it was decided before, the cost of
    then."""
    cost = ask.cost
    # A key that was used for another request may stand for a run that waits, of which no decision is known.
    if isinstance(result, Repeat):
        cost = answers.alone(answers.decisions_of(before[result.run_id])[0])
    return cost, tuple([use.dataset_id for use in ask.uses])


def _repeats(result: Result | Unrecorded | LedgerError) -> UUID | None:
    """Return the run that was decided before, with this request or with another one."""
    if isinstance(result, IdempotencyKeyReused):
        return UUID(result.facts["run"])
    return result.run_id if isinstance(result, Repeat) else None


def _decisions(result: Result | Unrecorded | LedgerError, before: Mapping[UUID, Sequence[Record]]) -> list[Record]:
    """Return the entries that decide a run, in the order in which answers name datasets; none for an error."""
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
            return answers.in_order(map(ParsedEntry.parse, result))


def kind_of(body: Mapping[str, Any]) -> str:
    """Return the canonical JSON of what decides which datasets a run touches and what it costs."""
    is_explained = body.get("size_differs") is not None
    return canonical([body["datasets"], body["mechanism"], body.get("segments"), is_explained])


def _completed(item: Item, resolved: Resolved) -> Item:
    """Return a run with the number of units that its mechanism lacks, as it is recorded. Raises InvalidMechanism."""
    request = item.request
    if not request.mechanism.lacks_size:
        return item
    mechanism, written = sizes.completed(request.mechanism, item.body["mechanism"], resolved)
    body = {**item.body, "mechanism": written}
    return replace(
        item, request=request.model_copy(update={"mechanism": mechanism}), body=body, text=canonical(body), kind=None
    )


@lru_cache(maxsize=1024)
def _text_of_actor(actor: Actor) -> str:
    return canonical(actor.facts())


def _text_of(item: Item) -> str:
    return canonical(item.body) if item.text is None else item.text


def size_of(result: Result) -> int | None:
    """Return the bytes of what was recorded, if it was recorded now."""
    return None if isinstance(result, Repeat) else sum(len(entry.body) for entry in result)


def _is_approved(decisions: Sequence[Record]) -> bool:
    return bool(decisions) and decisions[0]["kind"] == "run-approved"

"""Past runs: what was spent before there was a ledger, from the request to the entries, and a preview of that.

One person enters them, since that only raises what is spent. Lowering it later is a correction, and takes two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any
from uuid import UUID

from ledger.accounting import costs
from ledger.accounting.display import show_amount
from ledger.core.amounts import ZERO, Amount
from ledger.core.books import Books
from ledger.core.commands import Ask, Batch
from ledger.core.decision.group import Batched, decide, read_sets
from ledger.core.decision.posting import Drafts, Repeat
from ledger.core.entries import Record
from ledger.core.people import Actor
from ledger.errors import BatchRefused, InvalidMechanism, InvalidRequest, LedgerError, TooLarge
from ledger.service import answers, portions, waiting
from ledger.service.asked import Item
from ledger.service.asking import Asking, parsed
from ledger.service.catalogue import Catalogue
from ledger.service.corrections import fixed_share
from ledger.service.planned_runs import together_of
from ledger.service.requests.past import PastRun, PastRuns
from ledger.service.requests.runs import DatasetUse, RunRequest
from ledger.service.shapes.past import PastRunShown, PastRunsShown
from ledger.service.writer import Result, Writer
from ledger.signer.receipts import ParsedEntry
from ledger.store import Store

_OF_PAST = ("ran_at", "library", "version", "evidence")


@dataclass(frozen=True, slots=True)
class _Entered:
    """A past run: its id once it has one, and its entries. is_before: it was entered before with the same key."""

    run_id: UUID | None
    entries: Sequence[Record]
    is_before: bool = False

    @property
    def cost(self) -> Amount:
        return Amount.from_facts(self.entries[0]["cost"])

    @property
    def rooms(self) -> list[portions.Room]:
        return [room for entry in self.entries for room in portions.rooms_in(entry)]


class PastRunsService:
    """Enters past runs. Its coroutines belong to one event loop."""

    def __init__(self, store: Store, writer: Writer, catalogue: Catalogue, asking: Asking) -> None:
        self._store, self._writer, self._catalogue, self._asking = store, writer, catalogue, asking

    async def enter(
        self, actor: Actor, name: str, request: PastRuns, sent: Sequence[Mapping[str, Any]]
    ) -> PastRunsShown:
        """Enter all past runs of a dataset, or none; or show what would be charged. sent: the runs as they were sent.

        Raises NotFound, InvalidMechanism and InvalidRequest naming the run, and IdempotencyKeyReused if the key stands
        for other runs.
        """
        items = [await self._item(actor, name, request, index, body) for index, body in enumerate(sent)]
        commands = await self._asking.commands_of(actor, items)
        asks = [replace(command, is_past=True) for command in _all_of(commands)]
        before = await asyncio.to_thread(self._books, actor, asks)
        if request.preview:
            after, entered = await asyncio.to_thread(self._preview, actor, asks, before)
        else:
            entered = await self._enter(actor, asks)
            after = await asyncio.to_thread(self._books, actor, asks)
        return await asyncio.to_thread(_shown, actor, request, before, after, entered)

    async def _item(self, actor: Actor, name: str, request: PastRuns, index: int, body: Mapping[str, Any]) -> Item:
        run = request.runs[index]
        uses = [DatasetUse(name=name, partitions=run.partitions)]
        delta = None
        resolved = await self._catalogue.resolve(actor, uses)
        if costs.needs_certificate(run.mechanism, bound=resolved.bound):
            delta = await asyncio.to_thread(fixed_share, self._store, actor.tenant_id, resolved)
        asked = RunRequest(
            datasets=uses, mechanism=run.mechanism, delta=delta, purpose=run.purpose, size_differs=run.size_differs
        )
        return Item(f"{request.idempotency_key}:{index + 1}", asked, _kept(name, run, request, body))

    def _books(self, actor: Actor, asks: Sequence[Ask]) -> Books:
        with self._store.reading(actor.tenant_id) as reading:
            return reading.books.read(read_sets(asks))

    def _preview(self, actor: Actor, asks: Sequence[Ask], books: Books) -> tuple[Books, list[_Entered]]:
        """Return the books as they would be, and each run as it would be entered."""
        with self._store.reading(actor.tenant_id) as reading:
            now_us = reading.now_us()
            known = {ask.run_id: reading.runs.of_key(actor.principal_id, ask.claim.key) for ask in asks}
            entries = parsed(reading, [run_id for run_id in known.values() if run_id is not None])
        new = tuple(ask for ask in asks if known[ask.run_id] is None)
        after, (batched,) = decide(books, [Batch(actor, new, is_atomic=True)], now_us=now_us)
        outcomes = iter(batched.outcomes if isinstance(batched, Batched) else ())
        entered: list[_Entered] = []
        for ask in asks:
            before = known[ask.run_id]
            if before is not None:
                entered.append(_Entered(before, answers.decisions_of(entries[before]), is_before=True))
                continue
            outcome = next(outcomes)
            if not isinstance(outcome, tuple):
                raise outcome if isinstance(outcome, LedgerError) else ArithmeticError("a past run is never refused")
            entered.append(_Entered(None, _records(outcome)))
        return after, entered

    async def _enter(self, actor: Actor, asks: Sequence[Ask]) -> list[_Entered]:
        batch = Batch(actor, tuple(asks), is_atomic=True)
        results = await asyncio.wrap_future(self._writer.submit_batch(actor.tenant_id, batch))
        errors = [(index, result) for index, result in enumerate(results) if isinstance(result, LedgerError)]
        for index, error in sorted(errors, key=lambda pair: isinstance(pair[1], BatchRefused)):
            raise _within(error, index)
        repeats = [result.run_id for result in results if isinstance(result, Repeat)]
        before = await asyncio.to_thread(self._entries, actor, repeats)
        return [self._entered(actor, result, before) for result in results]

    def _entered(self, actor: Actor, result: Any, before: Mapping[UUID, Sequence[Record]]) -> _Entered:
        if isinstance(result, Repeat):
            if not before[result.run_id]:
                raise waiting.outcome(self._store, actor.tenant_id, result.run_id)
            return _Entered(result.run_id, answers.decisions_of(before[result.run_id]), is_before=True)
        entries = answers.in_order(map(ParsedEntry.parse, _sealed(result)))
        return _Entered(UUID(entries[0]["run"]), entries)

    def _entries(self, actor: Actor, run_ids: Sequence[UUID]) -> dict[UUID, list[Record]]:
        if not run_ids:
            return {}
        with self._store.reading(actor.tenant_id) as reading:
            return parsed(reading, run_ids)


def _sealed(result: Result) -> Any:
    if not isinstance(result, tuple):
        raise ArithmeticError("a past run is never refused")
    return result


def _kept(name: str, run: PastRun, request: PastRuns, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the journal keeps of a past run, in the form of a run's request."""
    stated = {field: body[field] for field in _OF_PAST if body.get(field) is not None}
    explained = {field: body[field] for field in ("purpose", "size_differs") if body.get(field) is not None}
    use = name if run.partitions is None else {"name": name, "partitions": run.partitions}
    past = {"reason": request.reason, **stated}
    return {"datasets": [use], "mechanism": body["mechanism"], **explained, "past": past}


def _all_of(commands: Iterable[Ask | LedgerError]) -> list[Ask]:
    """Return the commands. Raises the first error, naming its run."""
    asks: list[Ask] = []
    for index, command in enumerate(commands):
        if isinstance(command, LedgerError):
            raise _within(command, index)
        asks.append(command)
    return asks


def _within(error: LedgerError, index: int) -> LedgerError:
    """Return the error of one run, with its field named from the request on."""
    if type(error) not in (InvalidMechanism, InvalidRequest, TooLarge) or "field" not in error.facts:
        return error
    facts = {**error.facts, "field": f"runs.{index}.{error.facts['field']}"}
    return type(error)(f"runs.{index}.{error.detail}", **facts)


def _records(drafts: Drafts) -> list[Record]:
    """Return what would be entered, in the form of entries."""
    return answers.in_order(
        {**draft.facts, "kind": draft.kind, "dataset": draft.dataset, "dataset_id": str(draft.dataset_id), "seq": None}
        for draft in drafts
    )


def _shown(actor: Actor, request: PastRuns, before: Books, after: Books, entered: Sequence[_Entered]) -> PastRunsShown:
    new = [one for one in entered if not one.is_before]
    cost = reduce(Amount.__add__, (one.cost for one in new), ZERO)
    deltas = portions.deltas_of(dataset.budget for dataset in before.datasets.values())
    epsilons = portions.epsilons_of({one.cost for one in entered}, deltas)
    rooms = [room for one in entered for room in one.rooms]
    return PastRunsShown(
        preview=request.preview,
        runs=[_run(run, one, epsilons[one.cost]) for run, one in zip(request.runs, entered, strict=True)],
        cost=show_amount(cost),
        **portions.taken(cost, rooms),
        datasets=[together_of(actor, before, after, id_) for id_ in before.datasets],
        frozen=sorted({name for one in new for name in one.entries[0]["frozen"]}),
    )


def _run(run: PastRun, one: _Entered, epsilon: Any) -> PastRunShown:
    first = next(entry for entry in one.entries if "request" in entry)
    return PastRunShown(
        id=None if one.run_id is None else str(one.run_id),
        declared="not observed",
        replayed=one.is_before,
        purpose=run.purpose,
        ran_at=None if run.ran_at is None else first["request"]["past"]["ran_at"],
        mechanism=first["request"]["mechanism"],
        cost=show_amount(one.cost),
        **portions.taken(one.cost, one.rooms),
        epsilon=epsilon,
        method=first["method"],
        fits=first["fits"],
        frozen=first["frozen"],
    )

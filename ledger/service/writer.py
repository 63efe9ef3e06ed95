"""The writer: a queue for each tenant, groups of commands, one transaction for each group, and then the answers.

This is the only place that commits a decision. A group is one tenant's, and within a process a tenant is served by one
thread at a time, so a busy dataset's row is locked once for a whole group instead of being fought over. The steps of a
group's transaction, in this order in every process (so that two of them cannot wait for each other in a circle):

1. claim the idempotency keys and the names of new datasets, each sorted; a key used before gets the same answer;
2. lock the datasets, own and roots, sorted by id, and read the accounts and the runs that the commands are about;
3. read the time, and check that the callers' keys are still valid;
4. decide, seal the entries, write, put alerts into the outbox, commit;
5. answer.

Queues are bounded, tenants are served in turn. A transaction that lost a race (40001, 40P01) is tried again a bounded
number of times. When a commit's answer is lost with the connection, the journal shows whether it happened. Any other
database error of a group is narrowed down by running its commands one by one.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from ledger.core.alerting import Alert, AlertKind
from ledger.core.alerts import raised, refused_datasets
from ledger.core.books import Books
from ledger.core.commands import Ask, Batch, Command, OnRun, Register, Single, caller_of
from ledger.core.decision.group import Batched, Unrecorded, askers, decide, read_sets
from ledger.core.decision.posting import Drafts, Repeat
from ledger.core.entries import Draft, Entry
from ledger.core.journal import chain
from ledger.core.people import Actor
from ledger.errors import IdempotencyKeyReused, Internal, LedgerError, NameTaken, Overloaded, Unauthenticated
from ledger.recovery.known import Known
from ledger.service.health import Health
from ledger.service.replies import AnyFuture, begins, deliver
from ledger.store import DAMAGED, Key, OwnKey, Store, Writing, failure_kind

log = logging.getLogger(__name__)

TRIES: Final = 6
RETRY_WAIT_SECONDS: Final = 0.02

T = TypeVar("T")
F = TypeVar("F", bound=AnyFuture)
Entries = tuple[Entry, ...]
Result = Entries | Repeat
"""The answer to a command that succeeded: the entries it left, or those it repeats."""
Results = tuple[Result | Unrecorded | LedgerError, ...]
"""The answer to a batch, run by run."""
_Answer = Result | Results | LedgerError
OnCommit = Callable[[UUID, Sequence[AlertKind], Sequence[Entry], bool], None]


@dataclass(slots=True)
class _Item:
    """One queued command, or one piece of `work` that needs a transaction of its own."""

    future: AnyFuture
    command: Command | None = None
    work: Callable[[Writing], Any] | None = None

    @property
    def keys(self) -> set[OwnKey]:
        return {_key(ask) for ask in _asks(self.command)}

    @property
    def weight(self) -> int:
        """Return how many commands it counts for."""
        return len(self.command.asks) if isinstance(self.command, Batch) else 1


@dataclass(slots=True)
class _Queue:
    items: deque[_Item] = field(default_factory=deque)
    weight: int = 0
    is_served: bool = False


class Writer:
    """Takes commands from any thread; answers through futures, after the commit."""

    def __init__(
        self,
        store: Store,
        *,
        threads: int,
        queue_max: int,
        group_max: int,
        on_group: Callable[[int, float], None] = lambda _size, _seconds: None,
        on_commit: OnCommit = lambda _tenant_id, _kinds, _entries, _is_work: None,
        known: Known | None = None,
    ) -> None:
        """on_group: is called for each group, after it is answered, with its number of commands and the seconds it
        took. on_commit: after each commit, before its answers, with its tenant, the kinds of the alerts that it raised,
        its entries, and whether it was work. Neither may raise or block. known: where journals end."""
        self._store, self._on_group, self._on_commit, self._known = store, on_group, on_commit, known or Known()
        self.health = Health()
        self._queue_max, self._group_max = queue_max, group_max
        self._changed = threading.Condition()
        self._queues: dict[UUID, _Queue] = {}
        self._turns: deque[UUID] = deque()
        self._waiting = 0
        self._is_closing = self._is_broken = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"ledger-writer-{number}", daemon=True)
            for number in range(threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Finish what is queued, then end the threads."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def is_alive(self) -> bool:
        """Return whether every writer thread runs. The process does not recover from one that died."""
        return not self._is_broken and all(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """Return how many commands wait for a decision."""
        return self._waiting

    async def decide(self, tenant_id: UUID, command: Single) -> Result:
        """Queue a command and return its `Result`. Raises LedgerError. The event loop is woken once for a group."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        return await self._put(tenant_id, future, command=command)

    def submit(self, tenant_id: UUID, command: Single) -> Future[Result]:
        """Queue a command. The future holds its `Result`, or raises a LedgerError. Raises Overloaded if full."""
        return self._put(tenant_id, Future[Result](), command=command)

    def submit_batch(self, tenant_id: UUID, batch: Batch) -> Future[Results]:
        """Queue runs that are decided in one transaction. The future holds their outcomes, in order."""
        return self._put(tenant_id, Future[Results](), command=batch)

    def run(self, tenant_id: UUID, work: Callable[[Writing], T]) -> Future[T]:
        """Queue work that is not a journal command (keys, tenants), for a transaction of its own."""
        return self._put(tenant_id, Future[T](), work=work)

    def tell(self, tenant_id: UUID, found: Sequence[Alert]) -> Future[int]:
        """Queue alerts that no decision raises, for a transaction of their own. The future holds how many are new."""

        def work(writing: Writing) -> int:
            writing.outbox.add(found, now_us=writing.now_us())
            return len(writing.outbox.added)

        return self.run(tenant_id, work)

    def _put(self, tenant_id: UUID, future: F, **what: Any) -> F:
        item = _Item(future, **what)
        with self._changed:
            if self.health.is_damaged:
                raise Overloaded(DAMAGED, retry_after_seconds=60)
            if self._is_closing or not self.is_alive:
                raise Overloaded("The ledger is shutting down, or its writer failed.", retry_after_seconds=5)
            queue = self._queues.setdefault(tenant_id, _Queue())
            # A batch may be larger than a queue, so an empty queue always accepts one.
            is_full = queue.items and queue.weight + item.weight > self._queue_max
            if is_full or (self._waiting and self._waiting + item.weight > 4 * self._queue_max):
                raise Overloaded("Too many requests are waiting to be decided. Try again after `retry_after_seconds`.")
            queue.items.append(item)
            queue.weight += item.weight
            self._waiting += item.weight
            if not queue.is_served and len(queue.items) == 1:
                self._turns.append(tenant_id)
                self._changed.notify()
        return future

    # --- the threads

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._turns:
                    if self._is_closing:
                        return
                    self._changed.wait()
                tenant_id = self._turns.popleft()
                group = self._take(tenant_id)
            try:
                self._answer(tenant_id, group)
            except BaseException:
                # Only a fault other than a database error gets here. Nobody may wait for a thread that is gone.
                with self._changed:
                    self._is_broken = True
                    self._fail([*group, *self._drain(tenant_id)])
                raise
            with self._changed:
                self._give_back(tenant_id)

    def _take(self, tenant_id: UUID) -> list[_Item]:
        """Return a tenant's next group. It has no key twice: the second request must find the first one done."""
        queue = self._queues[tenant_id]
        queue.is_served = True
        group: list[_Item] = []
        keys: set[OwnKey] = set()
        weight = 0
        while queue.items:
            item = queue.items[0]
            is_full = weight + item.weight > self._group_max
            if group and (is_full or item.work is not None or not keys.isdisjoint(item.keys)):
                break
            queue.items.popleft()
            queue.weight -= item.weight
            self._waiting -= item.weight
            if begins(item.future):  # a request whose client has gone before its turn is dropped
                group.append(item)
                weight += item.weight
                keys |= item.keys
            if item.work is not None:
                break
        return group

    def _give_back(self, tenant_id: UUID) -> None:
        queue = self._queues[tenant_id]
        queue.is_served = False
        if queue.items:
            self._turns.append(tenant_id)
            self._changed.notify()
        else:
            del self._queues[tenant_id]

    def _drain(self, tenant_id: UUID) -> list[_Item]:
        queue = self._queues.pop(tenant_id)
        self._waiting -= queue.weight
        return [item for item in queue.items if begins(item.future)]

    @staticmethod
    def _fail(items: Sequence[_Item]) -> None:
        deliver([(item.future, Internal()) for item in items if not item.future.done()])

    # --- a group

    def _answer(self, tenant_id: UUID, group: Sequence[_Item]) -> None:
        if not group:
            return
        begun = time.perf_counter()
        told: list[AlertKind] = []
        try:
            answers = self._with_retries(tenant_id, group, told)
        except Exception as error:
            if len(group) > 1 and failure_kind(error) == "other":
                for item in group:
                    self._answer(tenant_id, [item])
                return
            self.health.failed(failure_kind(error))
            answers = [_as_ledger_error(error)] * len(group)
        else:  # outside of what is retried: this group is committed
            self.health.committed()
            self._on_commit(tenant_id, told, list(_sealed(answers)), group[0].work is not None)
        deliver(list(zip([item.future for item in group], answers, strict=True)))
        self._on_group(sum(item.weight for item in group), time.perf_counter() - begun)

    def _with_retries(self, tenant_id: UUID, group: Sequence[_Item], told: list[AlertKind]) -> list[Any]:
        """Return the answers to a committed group; add to `told` the kinds of alerts that it raised."""
        for attempt in range(1, TRIES + 1):
            answers: list[Any] = []
            told.clear()
            try:
                self._transact(tenant_id, group, answers, told)
                return answers
            except SQLAlchemyError as error:
                kind = failure_kind(error)
                if kind == "unavailable" and self._was_committed(tenant_id, answers):
                    return answers
                if attempt == TRIES or kind != "retry":
                    raise
            time.sleep(RETRY_WAIT_SECONDS * attempt * random.random())  # noqa: S311 (no secret: it spreads retries)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _was_committed(self, tenant_id: UUID, answers: Sequence[Any]) -> bool:
        """Return whether a transaction whose connection was lost did commit: one of its entries proves it for all."""
        sealed = next(_sealed(answers), None)
        try:
            with self._store.reading(tenant_id) as reading:
                return sealed is not None and reading.journals.has(sealed)
        except SQLAlchemyError:
            return False

    def _transact(self, tenant_id: UUID, group: Sequence[_Item], answers: list[Any], told: list[AlertKind]) -> None:
        """Run one transaction for the group. `answers` gets each item's answer before the commit is tried, and `told`
        the kinds of alerts that it raised."""
        with self._store.writing(tenant_id) as writing:
            if group[0].work is not None:
                answers.append(group[0].work(writing))
            else:
                commands = [item.command for item in group if item.command is not None]
                answers.extend(_decide_group(writing, commands, self._known, self.health))
            told.extend(writing.outbox.added)


def _asks(command: Command | None) -> tuple[Ask, ...]:
    match command:
        case Ask(second=None):
            return (command,)
        case Batch():
            return command.asks
        case _:
            return ()


def _key(ask: Ask) -> OwnKey:
    return OwnKey(ask.actor.principal_id, ask.claim.key)


def _sealed(answers: Iterable[Any]) -> Iterator[Entry]:
    """Return the entries among answers, those of batches too."""
    for answer in answers:
        if isinstance(answer, Entry):
            yield answer
        elif isinstance(answer, tuple):
            yield from _sealed(answer)


# --- everything between BEGIN and COMMIT -----------------------------------------------------------------------------


def _decide_group(writing: Writing, commands: Sequence[Command], known: Known, health: Health) -> list[_Answer]:
    answers: dict[int, _Answer] = {}
    claimed = _Claimed(writing, [ask for command in commands for ask in _asks(command)])
    named = writing.datasets.claim_names([command for command in commands if isinstance(command, Register)])
    for index, command in enumerate(commands):
        if isinstance(command, Ask) and (repeated := claimed.repeated(command)) is not None:
            answers[index] = repeated
        elif isinstance(command, Register) and command.definition.id not in named:
            answers[index] = NameTaken(name=command.definition.name)

    open_ = {index: claimed.rest(command) for index, command in enumerate(commands) if index not in answers}
    runs = [command.run_id for command in open_.values() if isinstance(command, OnRun)]
    books = writing.books.lock(read_sets(open_.values()), runs)
    key_ids = sorted({caller.key_id for command in commands if (caller := caller_of(command)).is_key})
    clock_us, newest_us, keys = writing.times_and_keys(books.datasets, key_ids)
    # A journal's times never go back, whatever is done to the clock.
    now_us = max(clock_us, newest_us)
    health.saw(clock_us, newest_us)
    dead = known.refusals(writing.tenant_id, books.datasets.values(), open_)
    answers |= (dead := {**dead, **_refuse_dead_keys(keys, commands, clock_us)})

    open_ = {index: command for index, command in open_.items() if index not in dead}
    after, outcomes = decide(books, list(open_.values()), now_us=now_us)
    if after.refusals:  # only now, because most groups have no refusals: how many those principals had before
        most = askers(open_.values())
        books.refusals.update((who, writing.runs.newest_refusals(who, limit=most[who])) for who in after.refusals)
        after, outcomes = decide(books, list(open_.values()), now_us=now_us)
    sealing = _Sealing(writing, books, now_us)
    for index, outcome in zip(open_, outcomes, strict=True):
        match outcome:
            case Batched():
                decided = iter([sealing.answer(each) for each in outcome.outcomes])
                answers[index] = tuple(claimed.repeated(ask) or next(decided) for ask in _asks(commands[index]))
            case Repeat() | LedgerError():
                answers[index] = outcome
            case _:
                answers[index] = sealing.seal(outcome)
    sealing.write(after)
    ordered = [answers[index] for index in range(len(commands))]
    for command, answer in zip(commands, ordered, strict=True):
        if isinstance(command, Register) and command.definition.id in named and isinstance(answer, LedgerError):
            raise answer  # its row must go with the transaction; the rest of the group runs again without it
    claimed.let_go(commands, ordered)
    return ordered


class _Claimed:
    """The idempotency keys of a group: the new ones, and the earlier outcomes of the others."""

    def __init__(self, writing: Writing, asks: Sequence[Ask]) -> None:
        self._writing = writing
        self._taken = writing.claims.claim({ask.run_id: (ask.actor, ask.claim) for ask in asks})
        before = [claimed.run_id for claimed in self._taken.values()]
        runs = writing.runs.by_id(before).values() if before else ()
        self._unapproved = set(before) - {run.id for run in runs if run.state != "refused"}

    def repeated(self, ask: Ask) -> Repeat | LedgerError | None:
        """Return the answer to a request whose key was used before; None if the key is new."""
        claimed = self._taken.get(_key(ask))
        if claimed is None:
            return None
        same = claimed.digest == ask.claim.digest
        return Repeat(claimed.run_id, "decision", {}) if same else IdempotencyKeyReused(run=str(claimed.run_id))

    def rest(self, command: Command) -> Command:
        """Return the command without those runs of a batch that were decided before."""
        if not isinstance(command, Batch):
            return command
        before = {ask.run_id: self.repeated(ask) for ask in command.asks}
        spoilt = any(
            isinstance(one, LedgerError) or (one is not None and (command.takes_most or one.run_id in self._unapproved))
            for one in before.values()
        )
        asks = tuple(ask for ask in command.asks if before[ask.run_id] is None)
        return replace(command, asks=asks, is_spoilt=command.is_spoilt or spoilt)

    def let_go(self, commands: Sequence[Command], answers: Sequence[_Answer]) -> None:
        """Release the keys of requests that left nothing."""
        unbound: list[OwnKey] = []
        for command, answer in zip(commands, answers, strict=True):
            asks = _asks(command)
            of_each: Sequence[Any] = [answer] * len(asks)
            if isinstance(command, Batch) and isinstance(answer, tuple):
                of_each = answer
            for ask, one in zip(asks, of_each, strict=True):
                if isinstance(one, LedgerError | Unrecorded) and _key(ask) not in self._taken:
                    unbound.append(_key(ask))
        self._writing.claims.release(unbound)


class _Sealing:
    """Seals drafts in order, and writes the entries and the changed rows."""

    def __init__(self, writing: Writing, before: Books, now_us: int) -> None:
        self._writing, self._before, self._now_us = writing, before, now_us
        self._heads = {dataset.id: dataset.head for dataset in before.datasets.values()}
        self._entries: list[Entry] = []
        self._drafts: list[Draft] = []

    def seal(self, drafts: Drafts) -> Entries:
        sealed: list[Entry] = []
        for draft in drafts:
            prev = self._heads[draft.dataset_id]
            entry = chain.seal(draft, tenant_id=self._writing.tenant_id, prev=prev, at_us=self._now_us)
            self._heads[draft.dataset_id] = entry.hash
            sealed.append(entry)
        self._entries += sealed
        self._drafts += drafts
        return tuple(sealed)

    def answer(self, outcome: Drafts | Unrecorded | LedgerError) -> Entries | Unrecorded | LedgerError:
        return outcome if isinstance(outcome, Unrecorded | LedgerError) else self.seal(outcome)

    def write(self, after: Books) -> None:
        self._writing.journals.append(self._entries)
        self._writing.books.save(self._before, after, self._heads)
        self._tell()

    def _tell(self) -> None:
        """Write the alerts, in the same transaction as the entries, so that neither exists without the other. Without
        alerts this sends no statement."""
        alerting, datasets = self._before.alerting, self._before.datasets
        refused = {
            id_: self._writing.journals.refusals_in_a_row(
                id_, before=datasets[id_].seq + 1, limit=alerting.refusals_in_a_row or 0
            )
            for id_ in refused_datasets(alerting, self._drafts)
        }
        if found := raised(self._before, self._drafts, refused):
            self._writing.outbox.add(found, now_us=self._now_us)


def _refuse_dead_keys(keys: Mapping[UUID, Key], commands: Sequence[Command], now_us: int) -> Mapping[int, LedgerError]:
    """Refuse commands whose key was revoked after the request came in, while it waited.

    A token has no row: it ends by its own time only.
    """
    return {
        index: Unauthenticated("This key was revoked or has expired. Ask an admin of your tenant for a new one.")
        for index, command in enumerate(commands)
        if not _is_live(caller := caller_of(command), keys.get(caller.key_id), now_us)
    }


def _is_live(actor: Actor, key: Key | None, now_us: int) -> bool:
    if actor.expires_us is not None:
        return actor.expires_us > now_us
    return key is not None and key.is_live(now_us)


def _as_ledger_error(error: Exception) -> LedgerError:
    if isinstance(error, LedgerError):
        return error
    if failure_kind(error) == "damaged":
        log.critical("the database is damaged: %s", error)
        return Overloaded(DAMAGED, retry_after_seconds=60)
    if failure_kind(error) in ("unavailable", "retry"):
        log.warning("the database did not answer: %s", error)
        return Overloaded("The database did not answer in time. Repeat the request with the same Idempotency-Key.")
    log.error("a decision failed", exc_info=error)
    return Internal()

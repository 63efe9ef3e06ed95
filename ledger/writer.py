"""The writer: a queue for each tenant, groups of commands, one transaction for a group, and then the answers.

This is the only place that commits a decision. A group is one tenant's, and within a process a tenant is served by one
thread at a time, so a busy dataset's row is locked once for a whole group instead of being fought over. The steps of a
group's transaction, in this order in every process (so that two of them cannot wait for each other in a circle):

1. claim the idempotency keys and the names of new datasets, each sorted; a key that is taken is answered as before;
2. lock the datasets, sorted by id, and read their accounts and the runs that are named;
3. take the time, and check that the keys of those who ask are still good;
4. decide, seal the entries, write, commit;
5. answer.

Queues are bounded, tenants are served in turn. A transaction that lost a race (40001, 40P01) is tried again a bounded
number of times. When a commit's answer is lost with the connection, the journal says whether it happened. Any other
database error of a group is narrowed down by running its commands one by one.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from ledger import journal
from ledger.decide import Outcome, Repeat, decide
from ledger.errors import (
    IdempotencyKeyReused,
    Internal,
    LedgerError,
    NameTaken,
    Overloaded,
    Unauthenticated,
)
from ledger.model import Ask, Books, Command, Draft, Entry, Register, Settle, Start, Void
from ledger.store import Claimed, Store, Writing, failure_kind

log = logging.getLogger(__name__)

TRIES: Final = 6
RETRY_WAIT_SECONDS: Final = 0.02

T = TypeVar("T")
Result = Entry | Repeat
"""What a command that succeeded is answered with: the entry it left, or the one it repeats."""


@dataclass(slots=True)
class _Item:
    """One command on its way, or one piece of `work` that wants a transaction of its own."""

    future: Future[Any]
    command: Command | None = None
    work: Callable[[Writing], Any] | None = None

    @property
    def key(self) -> str | None:
        return self.command.claim.key if isinstance(self.command, Ask) else None


@dataclass(slots=True)
class _Queue:
    items: deque[_Item] = field(default_factory=deque)
    is_served: bool = False


class Writer:
    """Takes commands from any thread; answers through futures, after the commit."""

    def __init__(self, store: Store, *, threads: int, queue_max: int, group_max: int) -> None:
        self._store = store
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
        """Finishes what is queued, then ends the threads."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether every writer thread runs. One that died is a fault that this process does not recover from."""
        return not self._is_broken and all(thread.is_alive() for thread in self._threads)

    def submit(self, tenant_id: UUID, command: Command) -> Future[Result]:
        """Queues a command. The future holds its `Result`, or raises a LedgerError. Raises Overloaded when full."""
        return self._put(tenant_id, _Item(Future(), command=command))

    def run(self, tenant_id: UUID, work: Callable[[Writing], T]) -> Future[T]:
        """Queues work that is no journal command (keys, tenants), for a transaction of its own."""
        return self._put(tenant_id, _Item(Future(), work=work))

    def _put(self, tenant_id: UUID, item: _Item) -> Future[Any]:
        with self._changed:
            if self._is_closing or not self.is_alive:
                raise Overloaded("The ledger is shutting down or not well.", retry_after_seconds=5)
            queue = self._queues.setdefault(tenant_id, _Queue())
            if len(queue.items) >= self._queue_max or self._waiting >= 4 * self._queue_max:
                raise Overloaded("Too many requests are waiting to be decided.")
            queue.items.append(item)
            self._waiting += 1
            if not queue.is_served and len(queue.items) == 1:
                self._turns.append(tenant_id)
                self._changed.notify()
        return item.future

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
                # Only a fault beyond any database error gets here. Nobody may wait for ever on a thread that is gone.
                with self._changed:
                    self._is_broken = True
                    self._fail([*group, *self._drain(tenant_id)])
                raise
            with self._changed:
                self._give_back(tenant_id)

    def _take(self, tenant_id: UUID) -> list[_Item]:
        """The next group of a tenant. Two requests under one key never share it: the second finds the first done."""
        queue = self._queues[tenant_id]
        queue.is_served = True
        group: list[_Item] = []
        keys: set[str] = set()
        while queue.items and len(group) < self._group_max:
            item = queue.items[0]
            if item.key in keys or (item.work is not None and group):
                break
            queue.items.popleft()
            self._waiting -= 1
            # A request whose client went away before its turn is dropped; from here on it can no longer be cancelled.
            if item.future.set_running_or_notify_cancel():
                group.append(item)
            if item.key is not None:
                keys.add(item.key)
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
        waiting = self._queues.pop(tenant_id).items
        self._waiting -= len(waiting)
        return [item for item in waiting if item.future.set_running_or_notify_cancel()]

    @staticmethod
    def _fail(items: Sequence[_Item]) -> None:
        for item in items:
            if not item.future.done():
                item.future.set_exception(Internal())

    # --- a group

    def _answer(self, tenant_id: UUID, group: Sequence[_Item]) -> None:
        if not group:
            return
        try:
            answers = self._with_retries(tenant_id, group)
        except Exception as error:
            if len(group) > 1 and failure_kind(error) == "other":
                for item in group:
                    self._answer(tenant_id, [item])
                return
            answers = [_as_ledger_error(error)] * len(group)
        for item, answer in zip(group, answers, strict=True):
            if isinstance(answer, LedgerError):
                item.future.set_exception(answer)
            else:
                item.future.set_result(answer)

    def _with_retries(self, tenant_id: UUID, group: Sequence[_Item]) -> list[Any]:
        for attempt in range(1, TRIES + 1):
            answers: list[Any] = []
            try:
                self._transact(tenant_id, group, answers)
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
        """Whether a transaction whose connection was lost did commit: one of its entries tells for all of them."""
        sealed = [answer for answer in answers if isinstance(answer, Entry)]
        try:
            with self._store.reading(tenant_id) as reading:
                return bool(sealed) and reading.has_entry(sealed[0])
        except SQLAlchemyError:
            return False

    def _transact(self, tenant_id: UUID, group: Sequence[_Item], answers: list[Any]) -> None:
        """One transaction for the group; each item's answer is in `answers` before the commit is tried."""
        with self._store.writing(tenant_id) as writing:
            if group[0].work is not None:
                answers.append(group[0].work(writing))
            else:
                answers.extend(_decide_group(writing, [item.command for item in group if item.command is not None]))


def _decide_group(writing: Writing, commands: Sequence[Command]) -> list[Result | LedgerError]:
    """Everything between BEGIN and COMMIT."""
    answers: dict[int, Result | LedgerError] = {}
    asks = {command.run_id: (command.actor, command.claim) for command in commands if isinstance(command, Ask)}
    taken = writing.claim(asks)
    named = writing.claim_names([command for command in commands if isinstance(command, Register)])
    for index, command in enumerate(commands):
        if isinstance(command, Ask) and command.claim.key in taken:
            answers[index] = _repeat(command, taken[command.claim.key])
        elif isinstance(command, Register) and command.dataset_id not in named:
            answers[index] = NameTaken(name=command.definition.name)

    books = writing.lock(
        sorted({command.dataset_id for index, command in enumerate(commands) if index not in answers}),
        [command.run_id for command in commands if isinstance(command, Start | Settle | Void)],
    )
    now_us = writing.now_us()
    answers |= _refuse_dead_keys(writing, commands, now_us)

    open_ = {index: command for index, command in enumerate(commands) if index not in answers}
    after, outcomes = decide(books, list(open_.values()), now_us=now_us)
    answers |= _write(writing, books, after, dict(zip(open_, outcomes, strict=True)), now_us)
    _let_go(writing, commands, answers, taken, named)
    return [answers[index] for index in range(len(commands))]


def _refuse_dead_keys(writing: Writing, commands: Sequence[Command], now_us: int) -> dict[int, Result | LedgerError]:
    """The key was looked at when the request came in; it may have been revoked while the request waited."""
    keys = writing.keys_by_id(sorted({command.actor.key_id for command in commands}))
    return {
        index: Unauthenticated("This key was revoked or has expired.")
        for index, command in enumerate(commands)
        if command.actor.key_id not in keys or not keys[command.actor.key_id].is_live(now_us)
    }


def _let_go(
    writing: Writing,
    commands: Sequence[Command],
    answers: dict[int, Result | LedgerError],
    taken: Container[str],
    named: Container[UUID],
) -> None:
    """Undoes the claims of requests that came to nothing."""
    unbound = []
    for index, command in enumerate(commands):
        answer = answers[index]
        if isinstance(answer, LedgerError):
            if isinstance(command, Ask) and command.claim.key not in taken:
                unbound.append(command.claim.key)
            if isinstance(command, Register) and command.dataset_id in named:
                raise answer  # its row must go with the transaction; the rest of the group is run again without it
    writing.unclaim(unbound)


def _repeat(command: Ask, claimed: Claimed) -> Repeat | LedgerError:
    same = (claimed.principal_id, claimed.digest) == (command.actor.principal_id, command.claim.digest)
    return Repeat(claimed.run_id, "decision", {}) if same else IdempotencyKeyReused()


def _write(
    writing: Writing, before: Books, after: Books, outcomes: dict[int, Outcome], now_us: int
) -> dict[int, Result | LedgerError]:
    """Seals the drafts in order, appends them, saves the rows that changed."""
    heads = {dataset.id: dataset.head for dataset in before.datasets.values()}
    answers: dict[int, Result | LedgerError] = {}
    entries: list[Entry] = []
    for index, outcome in outcomes.items():
        if isinstance(outcome, Draft):
            prev = heads[outcome.dataset_id]
            entry = journal.seal(outcome, tenant_id=writing.tenant_id, prev=prev, at_us=now_us)
            heads[outcome.dataset_id] = entry.hash
            entries.append(entry)
            answers[index] = entry
        else:
            answers[index] = outcome
    writing.append(entries)
    writing.save(before, after, heads)
    return answers


def _as_ledger_error(error: Exception) -> LedgerError:
    if isinstance(error, LedgerError):
        return error
    if failure_kind(error) in ("unavailable", "retry"):
        log.warning("the database did not answer: %s", error)
        return Overloaded("The database did not answer in time.")
    log.error("a decision failed", exc_info=error)
    return Internal()

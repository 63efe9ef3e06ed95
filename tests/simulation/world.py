"""Two server processes on one SQLite file, whose every step is chosen by a seed; and a count of what went wrong.

A step is a request, a transaction of one process, the end of a process, or a jump of the clock. A transaction can fail
before each of its statements, before its COMMIT, and after it, where the answer is lost. The file is a real SQLite
database, and the writer, the decision and the store are the product's own; only threads are left out.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from ledger.core.amounts import Amount
from ledger.core.commands import Ask, Claim
from ledger.core.decision.posting import Repeat
from ledger.core.entries import Entry
from ledger.core.journal import chain
from ledger.core.journal.replay import replay
from ledger.core.people import Actor
from ledger.core.runs import Use
from ledger.errors import JournalBroken, LedgerError
from ledger.recovery.known import Known
from ledger.service.writer import Writer
from ledger.store import Store, Writing, engine_for
from tests.kit.books import COSTING, TERMS

STEPS = 60
LIMIT = 40


class Faults:
    """Makes one boundary of the next transaction fail; counts boundaries: statements, COMMIT, and what is after it."""

    def __init__(self, engine: Any) -> None:
        self.left: int | None = None
        self.is_lost_answer = False
        event.listen(engine, "before_cursor_execute", self._statement)
        event.listen(engine, "commit", self._commit)
        do_commit: Callable[[Any], None] = engine.dialect.do_commit

        def commit_and_lose(connection: Any) -> None:
            do_commit(connection)
            if self.is_lost_answer:
                self.is_lost_answer = False
                raise _failure()

        engine.dialect.do_commit = commit_and_lose

    def arm(self, rng: random.Random) -> None:
        """Choose whether the next transaction fails, and where."""
        self.left = self.left_at(rng)
        self.is_lost_answer = self.left is None and rng.random() < 0.15

    @staticmethod
    def left_at(rng: random.Random) -> int | None:
        return rng.randrange(12) if rng.random() < 0.3 else None

    def disarm(self) -> None:
        """Let everything succeed."""
        self.left, self.is_lost_answer = None, False

    def _statement(self, *_given: Any) -> None:
        self._pass()

    def _commit(self, _connection: Any) -> None:
        self._pass()

    def _pass(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise _failure()


def _failure() -> OperationalError:
    """What the driver raises on a full or failing disk."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    return OperationalError("a statement", {}, error)


@dataclass(slots=True)
class Request:
    """A request under an idempotency key, and what its caller was answered: a kind and a run, or nothing yet."""

    command: Ask
    sent: int
    future: Future[Any]
    answer: tuple[str, UUID, int] | None = None
    answered: int = 0


@dataclass(slots=True)
class World:
    """One simulated ledger."""

    seed: int
    folder: Path
    actor: Actor
    dataset: UUID
    template: Path
    rng: random.Random = field(init=False)
    requests: list[Request] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    step: int = 0
    shift_us: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def run(self, patch: Callable[[Writer], None] = lambda _writer: None) -> Counter[str]:
        """Take all steps, heal, ask again about everything unknown, and count what is wrong."""
        file = self.folder / f"{self.seed}.db"
        shutil.copyfile(self.template, file)
        store = Store(engine_for(f"sqlite:///{file}"))
        faults, plain = Faults(store.engine), Writing.times_and_keys

        def shifted(writing: Writing, *given: Any) -> Any:
            clock_us, newest_us, keys = plain(writing, *given)
            return clock_us + self.shift_us, newest_us, keys

        def process() -> Writer:
            writer = Writer(store, threads=0, queue_max=1000, group_max=8, known=Known())
            patch(writer)
            return writer

        Writing.times_and_keys = shifted  # type: ignore[method-assign,assignment]
        try:
            writers = [process(), process()]
            for self.step in range(1, STEPS + 1):
                at = self.rng.randrange(2)
                match self.rng.choices(("ask", "serve", "end", "jump"), (10, 8, 1, 1))[0]:
                    case "ask":
                        self._ask(writers[at])
                    case "serve":
                        faults.arm(self.rng)
                        self._serve(writers[at])
                        faults.disarm()
                    case "end":
                        writers[at] = process()
                    case _:
                        self.shift_us = self.rng.randrange(-86_400, 86_400) * 1_000_000
                self._collect()
            self._heal(writers[0])
            self._judge(store)
        finally:
            Writing.times_and_keys = plain  # type: ignore[method-assign]
            store.close()
            for each in self.folder.glob(f"{self.seed}.db*"):
                each.unlink()
        return self.counts

    # --- steps

    def _ask(self, writer: Writer) -> None:
        """Send a new request, or one of before again, as a client does that got no answer."""
        if self.requests and self.rng.random() < 0.4:
            before = self.rng.choice(self.requests).command
            claim, cost = before.claim, before.cost
        else:
            claim, cost = Claim(f"key-{len(self.requests)}", bytes(32)), Amount(self.rng.randrange(1, 6), 0)
        run_id = UUID(int=self.rng.getrandbits(128), version=4)
        use = Use(self.dataset, (), ("data",))
        request = {"datasets": ["data"], "valid_for": "PT1000000S"}
        command = Ask(self.actor, run_id, claim, (use,), None, cost, request, COSTING | TERMS, valid_for_us=10**12)
        self.requests.append(Request(command, self.step, writer.submit(self.actor.tenant_id, command)))

    def _serve(self, writer: Writer) -> None:
        if writer._turns:
            with writer._changed:
                tenant_id = writer._turns.popleft()
                group = writer._take(tenant_id)
            writer._answer(tenant_id, group)
            with writer._changed:
                writer._give_back(tenant_id)

    def _collect(self) -> None:
        for request in self.requests:
            if request.answer is None and request.future.done() and request.future.exception() is None:
                request.answer, request.answered = _outcome(request.future.result()), self.step

    def _heal(self, writer: Writer) -> None:
        self.step += 1
        while writer._turns:
            self._serve(writer)
        self._collect()
        for before in list({request.command.claim.key: request for request in self.requests}.values()):
            again = Request(before.command, self.step, writer.submit(self.actor.tenant_id, before.command))
            self.requests.append(again)
            while writer._turns:
                self._serve(writer)
        self._collect()
        if any(request.answer is None for request in self.requests[-1:]):
            self.counts["broken"] += 1

    # --- what is wrong

    def _judge(self, store: Store) -> None:
        with store.reading(self.actor.tenant_id) as reading:
            entries = reading.journals.page(self.dataset, after=0, limit=100_000)
        try:
            sealed = [entry.sealed for entry in entries]
            replayed = replay(sealed, tenant_id=self.actor.tenant_id, dataset_id=self.dataset)
        except JournalBroken:
            self.counts["broken"] += 1
            return
        (account,) = replayed.accounts.values()
        self.counts["overspent"] += (account.spent + account.held).mu_sq_pico > LIMIT
        decided = {entry.run_id: entry for entry in entries if entry.kind in ("run-approved", "run-refused")}
        keys = Counter(chain.parse(entry.body)["idempotency_key"] for entry in decided.values())
        self.counts["doubled"] += sum(count > 1 for count in keys.values())
        self.counts["phantom"] += sum(key not in {each.command.claim.key for each in self.requests} for key in keys)
        first: dict[str, tuple[str, UUID]] = {}
        for request in self.requests:
            if request.answer is None:
                continue
            kind, run_id, seq = request.answer
            entry = decided.get(run_id)
            self.counts["lost"] += entry is None
            self.counts["changed"] += entry is not None and bool(kind) and entry.kind != kind
            before = first.setdefault(request.command.claim.key, (kind, run_id))
            self.counts["changed"] += before[1] != run_id
            self.counts["disordered"] += bool(seq) and any(
                earlier.answer is not None and earlier.answered < request.sent and earlier.answer[2] > seq
                for earlier in self.requests
            )


def _outcome(result: tuple[Entry, ...] | Repeat | LedgerError) -> tuple[str, UUID, int]:
    """Return the kind and run of an answer, and its number; a repeated answer has no number of its own."""
    if isinstance(result, Repeat):
        return "", result.run_id, 0
    assert isinstance(result, tuple)
    (entry,) = result
    assert entry.run_id is not None
    return entry.kind, entry.run_id, entry.seq

"""What a decision takes, counted: statements, ways to the database, signatures, parses, bytes. Never seconds.

A change that adds one of these to every approval fails here, and has to say why it is worth that.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import Engine, event, text

from ledger.api import body, calls
from ledger.core.commands import Ask, Batch, Claim, Single, Start, Void
from ledger.core.datasets import AccountKey
from ledger.core.entries import Entry
from ledger.core.journal import chain
from ledger.core.people import Consent
from ledger.service import asking
from ledger.service.gathered import Gathered
from ledger.service.turns import Turns
from ledger.settings import Settings
from ledger.store import engine_for
from ledger.verifier import jws
from tests.kit.driver import Ledger
from tests.service.test_writer import SECONDS, Desk

GROUP = (
    *("BEGIN", "INSERT claims", "SELECT datasets", "SELECT accounts", "SELECT times and keys", "INSERT entries"),
    *("UPDATE datasets", "UPDATE accounts", "INSERT runs", "INSERT places"),
)
"""The statements of a group of approvals, whatever their number."""
MOVE = (
    *("BEGIN", "SELECT datasets", "SELECT accounts", "SELECT runs", "SELECT times and keys", "INSERT entries"),
    *("UPDATE datasets",),
)
"""Those of a group that starts runs."""
ENTRY_BYTES_MAX = 1300
"""Of an approval on one dataset, with the request and the assumptions of one release."""


@pytest.fixture
def desk(database: Settings) -> Iterator[Desk]:
    """A writer with one thread."""
    made = Desk(database)
    yield made
    made.close()


@contextmanager
def _statements() -> Iterator[list[str]]:
    """The statements that are sent meanwhile, in short."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, _parameters: Any, _context: Any, _is_many: bool) -> None:
        sent.append(_in_short(statement))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def _in_short(statement: str) -> str:
    words = statement.split()
    if words[0] == "BEGIN":
        return "BEGIN"
    if words[0] == "SELECT":
        if "newest_us" in statement:
            return "SELECT times and keys"
        return f"SELECT {words[1].partition('.')[0]}"
    return f"{words[0]} {words[2] if words[0] == 'INSERT' else words[1]}"


def _approved(desk: Desk, *commands: Ask) -> None:
    batch = Batch(desk.actor, commands, is_atomic=False)
    for entries in desk.writer.submit_batch(desk.actor.tenant_id, batch).result(SECONDS):
        assert isinstance(entries, tuple)
        assert [entry.kind for entry in entries] == ["run-approved"]


def _entry(desk: Desk, command: Single) -> Entry:
    """The one entry that a command leaves."""
    result = desk.writer.submit(desk.actor.tenant_id, command).result(SECONDS)
    assert isinstance(result, tuple)
    (entry,) = result
    return entry


@pytest.mark.parametrize("count", [1, 40])
def test_the_statements_of_a_group(desk: Desk, count: int) -> None:
    """Goal: a group takes ten statements and a commit, however many runs it has. Method: groups of one and of many."""
    with _statements() as sent:
        _approved(desk, *(desk.command() for _ in range(count)))
    assert tuple(sent) == GROUP


def test_the_statements_of_what_becomes_of_runs(desk: Desk) -> None:
    """Goal: a start changes no account, and a void no more than one. Method: one of each."""
    (started,), (voided,) = desk.ask().result(SECONDS), desk.ask().result(SECONDS)
    charges = {desk.dataset: (AccountKey(desk.dataset),)}
    with _statements() as sent:
        desk.writer.submit(desk.actor.tenant_id, Start(desk.actor, started.run_id, charges)).result(SECONDS)
    assert tuple(sent) == (*MOVE, "UPDATE runs")
    command = Void(desk.actor, voided.run_id, charges, body={"reason": "never begun"}, consent=Consent(uuid4()))
    with _statements() as sent:
        desk.writer.submit(desk.actor.tenant_id, command).result(SECONDS)
    assert Counter(sent) - Counter((*MOVE, "UPDATE runs")) == Counter(
        # What can take a second person reads the policy, what is overdrawn, and what is proposed.
        {"SELECT tenants": 1, "SELECT accounts": 1, "SELECT proposals": 1, "UPDATE accounts": 1}
    )


def test_every_statement_is_one_way_to_the_database(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: neither a ping nor a BEGIN of its own goes before a transaction. Method: what the driver is told to send
    for one approval."""
    if desk.store.engine.dialect.name != "postgresql":
        pytest.skip("SQLite is in this process")
    _approved(desk, desk.command())
    told: list[str] = []
    for kind, name in ((psycopg.Cursor, "execute"), (psycopg.Cursor, "executemany"), (psycopg.Connection, "commit")):
        told_before = getattr(kind, name)

        def tell(self: Any, *args: Any, _name: str = name, _before: Any = told_before, **rest: Any) -> Any:
            told.append(_name)
            return _before(self, *args, **rest)

        monkeypatch.setattr(kind, name, tell)
    sent: list[bytes] = []
    command = psycopg.Connection._exec_command

    def own(self: Any, statement: Any, *args: Any, **rest: Any) -> Any:
        sent.append(statement)
        return command(self, statement, *args, **rest)

    monkeypatch.setattr(psycopg.Connection, "_exec_command", own)
    _approved(desk, desk.command())
    assert Counter(told) == {"execute": len(GROUP), "commit": 1}
    assert sent == [b"COMMIT"]


def test_a_connection_that_was_lost_meanwhile_is_replaced(desk: Desk, database: Settings) -> None:
    """Goal: a database that was started again is noticed by nobody, though nothing asks beforehand whether it is there.

    Method: end every connection of the writer's role from the database's side; read again, and decide again.
    """
    if desk.store.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has no connections")
    _approved(desk, desk.command())
    other = engine_for(database.database_url.get_secret_value())
    with other.begin() as connection:
        ended = connection.execute(
            text(
                "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
            )
        )
        assert ended.scalar_one() >= 1
    other.dispose()
    assert desk.replay().seq == 2
    _approved(desk, desk.command())
    assert desk.replay().seq == 3


def test_what_an_approval_takes(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: an approval is signed once, its entry is not parsed and of so many bytes, and its request is read and made
    canonical once, and not at all if the same was asked before. Method: count each while two runs are approved."""
    ledger.register(budget={"mu": 3})
    assert ledger.ask(key="warm").status_code == 201
    counts: Counter[str] = Counter()
    sign, parse, canonical = jws.sign, chain.parse, chain.canonical

    def count_sign(*args: Any, **rest: Any) -> str:
        counts["signatures"] += 1
        return sign(*args, **rest)

    def count_parse(body: str) -> Any:
        counts["parses"] += "run-approved" in body
        return parse(body)

    def count_canonical(value: Any) -> str:
        counts["requests"] += isinstance(value, dict) and "datasets" in value and "mechanism" in value
        return canonical(value)

    def count_read(raw: bytes) -> Any:
        counts["bodies"] += 1
        return read(raw)

    read = body.parse
    monkeypatch.setattr("ledger.signer.keyfile.sign", count_sign)
    monkeypatch.setattr(chain, "parse", count_parse)
    monkeypatch.setattr(asking, "canonical", count_canonical)
    monkeypatch.setattr(calls, "canonical", count_canonical)
    monkeypatch.setattr(body, "parse", count_read)
    assert ledger.ask(key="counted", purpose="counted").status_code == 201
    assert counts == {"signatures": 1, "parses": 0, "requests": 1, "bodies": 1}
    counts.clear()
    assert ledger.ask(key="again", purpose="counted").status_code == 201
    assert counts == {"signatures": 1, "parses": 0}
    monkeypatch.undo()
    *_, newest, _ = map(json.loads, ledger.get("/v1/datasets/mnist/export").text.splitlines())
    assert newest["entry"]["kind"] == "run-approved"
    assert len(chain.canonical(newest["entry"])) < ENTRY_BYTES_MAX


def test_the_threads_that_a_run_crosses(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: whoever asks, starts and settles waits for the writer's thread and for no other, and what shows a run takes
    one. Method: count what is handed to threads, after a first run of the same kind."""
    ledger.register(budget={"mu": 3})
    _whole_run(ledger, "warm")
    handed: list[str] = []
    real, turns = asyncio.to_thread, Turns.submit

    async def to_thread(work: Any, /, *args: Any, **rest: Any) -> Any:
        handed.append(work.__qualname__)
        return await real(work, *args, **rest)

    def submit(self: Turns, *args: Any, **rest: Any) -> Any:
        handed.append("turn")
        return turns(self, *args, **rest)

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    monkeypatch.setattr(Turns, "submit", submit)
    run = _whole_run(ledger, "counted")
    assert handed == []
    assert ledger.get(f"/v1/runs/{run}").json()["state"] == "settled"
    assert handed == ["Runs._read_shown"]
    assert ledger.get("/v1/datasets/mnist").json()["seq"] == 7
    assert handed == ["Runs._read_shown", "Datasets._read_shown"]


def _whole_run(ledger: Ledger, key: str) -> str:
    run: str = ledger.ask(key=key).json()["id"]
    assert ledger.post(f"/v1/runs/{run}/start").status_code == 200
    assert ledger.post(f"/v1/runs/{run}/settle", {"stop": "planned"}).json()["state"] == "settled"
    return run


def test_who_asks_together_is_read_together(desk: Desk) -> None:
    """Goal: sixty who ask for runs while a transaction reads take one more of them, and none is answered from what was
    read before it asked. Method: count the transactions; a read that hangs while the others ask."""
    reads: list[list[int]] = []
    begun, go = threading.Event(), threading.Event()

    def read(_tenant_id: UUID, keys: Sequence[int]) -> dict[int, int]:
        reads.append(list(keys))
        begun.set()
        assert go.wait(SECONDS)
        return {key: len(reads) for key in keys if key != 7}

    async def ask() -> list[int | None]:
        gathered, tenant = Gathered(read), desk.actor.tenant_id
        first = asyncio.ensure_future(gathered.ask(tenant, 0))
        assert await asyncio.to_thread(begun.wait, SECONDS)
        others = [asyncio.ensure_future(gathered.ask(tenant, number)) for number in range(60)]
        others.append(asyncio.ensure_future(gathered.ask(tenant, 0)))
        await asyncio.sleep(0)
        others[5].cancel()
        go.set()
        return [await first, *await asyncio.gather(*others[:5], *others[6:])]

    assert asyncio.run(ask()) == [1, *[2] * 6, None, *[2] * 53]
    assert reads == [[0], list(range(60))]


def test_an_entry_says_what_its_command_said(desk: Desk) -> None:
    """Goal: what is made canonical beforehand is what stands in the entry. Method: a command with and without those
    texts; the bytes of both entries but for what differs between any two."""
    command = desk.command()
    plain = _entry(desk, command)
    texts = {name: chain.canonical(value) for name, value in command.costing.items()}
    texts |= {"request": chain.canonical(command.request), "actor": chain.canonical(desk.actor.facts())}
    again = Ask(
        *(desk.actor, uuid4(), Claim(str(uuid4()), bytes(32)), command.uses, None, command.cost),
        *(command.request, command.costing),
        valid_for_us=command.valid_for_us,
        texts=texts,
    )
    made = _entry(desk, again)
    one, other = chain.parse(plain.body), chain.parse(made.body)
    assert one.keys() == other.keys()
    for name in (*texts, "v", "tenant", "kind", "cost"):
        assert one[name] == other[name], name
    assert chain.canonical(other) == made.body
    assert desk.replay().seq == 3

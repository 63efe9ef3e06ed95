"""The writer: groups, bounds, failures. Locks are held and connections are lost for real."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future, wait
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, make_url, select, text
from sqlalchemy.exc import OperationalError

from ledger.access import keys
from ledger.core.amounts import Amount
from ledger.core.books import ReadSet
from ledger.core.commands import (
    Ask,
    Claim,
    Register,
    SetBudget,
)
from ledger.core.datasets import AccountKey, Definition
from ledger.core.decision.posting import Repeat
from ledger.core.journal.replay import Replayed, replay
from ledger.core.people import Actor, Key
from ledger.core.runs import Use
from ledger.errors import IdempotencyKeyReused, Internal, LedgerError, NameTaken, Overloaded
from ledger.service.writer import Writer
from ledger.settings import Settings
from ledger.store import Reading, Store, Writing, engine_for
from ledger.store.tables import datasets
from ledger.verifier.verify import verify
from tests.kit.books import ALONE, COSTING, TERMS
from tests.kit.driver import Ledger, first_keys

SECONDS = 60


class Desk:
    """A writer over a real database, with a tenant, its admin and a dataset of limit 1000."""

    def __init__(self, settings: Settings, **bounds: Any) -> None:
        self.store = Store(engine_for(settings.database_url.get_secret_value()))
        self.writer = Writer(self.store, **{"threads": 1, "queue_max": 1000, "group_max": 64, **bounds})
        caller = keys.Keyring(self.store).recognise(first_keys(settings).admin_key)
        assert isinstance(caller, Actor)
        self.actor = caller
        self.writer.start()
        self.dataset = self.register("data").result(SECONDS)[0].dataset_id

    def register(self, name: str) -> Future[Any]:
        definition = Definition(uuid4(), name, "record", "add_or_remove_one", "clt", None)
        command = Register(self.actor, definition, "", "", {"mu": 1}, Amount(1000, 1000))
        return self.writer.submit(self.actor.tenant_id, command)

    def command(self, cost: int = 1, *, key: str | None = None, dataset: UUID | None = None, digest: int = 0) -> Ask:
        claim = Claim(key or str(uuid4()), bytes([digest]) * 32)
        where = dataset or self.dataset
        use = Use(where, (), ("data",))
        request = {"datasets": ["data"], "valid_for": "PT1000000S"}
        costing = COSTING | TERMS
        return Ask(self.actor, uuid4(), claim, (use,), None, Amount(cost, 0), request, costing, valid_for_us=10**12)

    def ask(self, cost: int = 1, **rest: Any) -> Future[Any]:
        return self.writer.submit(self.actor.tenant_id, self.command(cost, **rest))

    def replay(self, dataset: UUID | None = None) -> Replayed:
        where = dataset or self.dataset
        with self.store.reading(self.actor.tenant_id) as reading:
            entries = reading.journals.page(where, after=0, limit=100_000)
        found = [(entry.body, entry.hash) for entry in entries]
        return replay(found, tenant_id=self.actor.tenant_id, dataset_id=where)

    @contextlib.contextmanager
    def holding(self, dataset: UUID | None = None) -> Iterator[None]:
        """Holds the dataset's lock (on SQLite: the file's) from another connection, so that the writer has to wait."""
        with self.store.writing(self.actor.tenant_id) as other:
            other.books.lock({dataset or self.dataset: ReadSet()}, [])
            yield

    def close(self) -> None:
        self.writer.close()
        self.store.close()


def kind(future: Future[Any]) -> str:
    """Of the one entry that a command left."""
    (entry,) = future.result(SECONDS)
    found: str = entry.kind
    return found


@pytest.fixture
def desk(database: Settings) -> Iterator[Desk]:
    """A writer with one thread."""
    made = Desk(database)
    yield made
    made.close()


def test_everything_submitted_is_answered_and_recorded(desk: Desk) -> None:
    """Goal: exact counts through grouping. Method: 1,500 requests from 8 threads, of which exactly 1,000 fit."""
    futures: list[Future[Any]] = []
    lock = threading.Lock()

    def client() -> None:
        for _ in range(3):
            mine = [desk.ask() for _ in range(62)]
            with lock:
                futures.extend(mine)
            wait(mine, SECONDS)

    threads = [threading.Thread(target=client) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kinds = [kind(future) for future in futures]
    assert len(kinds) == 1488
    assert kinds.count("run-approved") == 1000
    assert kinds.count("run-refused") == 488
    replayed = desk.replay()
    assert replayed.seq == 1 + 1488
    assert replayed.accounts[AccountKey(desk.dataset)].held == Amount(1000, 0)


def test_waiting_requests_are_decided_in_one_transaction(desk: Desk) -> None:
    """Goal: a busy dataset is locked once for a group. Method: count COMMITs while 60 requests wait for one lock."""
    commits: list[int] = []
    event.listen(desk.store.engine, "commit", lambda _connection: commits.append(1))
    with desk.holding():
        futures = [desk.ask() for _ in range(60)]
    assert {kind(future) for future in futures} == {"run-approved"}
    # The holder's own commit, the request that was taken alone before the others came, and the group.
    assert len(commits) <= 4


def test_a_full_queue_is_refused_at_once_and_recovers(database: Settings) -> None:
    """Goal: what waits is bounded. Method: the lock is held while more is asked for than the queue holds."""
    desk = Desk(database, queue_max=10, group_max=5)
    try:
        accepted: list[Future[Any]] = []
        with desk.holding():
            with pytest.raises(Overloaded) as caught:
                accepted.extend(desk.ask() for _ in range(40))
            assert caught.value.retry_after_seconds >= 1
            assert 10 <= len(accepted) <= 15, "the queue, and one group in hand"
        assert all(kind(future) == "run-approved" for future in accepted)
        assert kind(desk.ask()) == "run-approved"
        assert desk.replay().seq == 1 + len(accepted) + 1
    finally:
        desk.close()


def test_a_client_that_goes_away_harms_nobody(desk: Desk) -> None:
    """Goal: a cancelled request is not decided, its neighbours are, and the writer lives."""
    with desk.holding():
        # One occupies the writer, so that those after it are still waiting when they are cancelled.
        first = desk.ask()
        while not first.running():
            os.sched_yield()
        gone = [desk.ask() for _ in range(5)]
        stays = [desk.ask() for _ in range(5)]
        assert all(future.cancel() for future in gone)
    assert all(kind(future) == "run-approved" for future in [first, *stays])
    for future in gone:
        with pytest.raises(CancelledError):
            future.result()
    assert desk.writer.is_alive
    assert desk.replay().seq == 1 + 6


def test_one_bad_command_does_not_spoil_its_group(desk: Desk) -> None:
    """Goal: a database error is narrowed down to the command that causes it. Method: a limit that a CHECK refuses."""
    bad = SetBudget(desk.actor, desk.dataset, {"mu": 1}, Amount(10**18 + 1, 0), "beyond what the schema allows", ALONE)
    with desk.holding():
        futures = [desk.ask(), desk.writer.submit(desk.actor.tenant_id, bad), desk.ask(), desk.ask()]
    with pytest.raises(Internal):
        futures[1].result(SECONDS)
    assert [kind(futures[at]) for at in (0, 2, 3)] == ["run-approved"] * 3
    assert desk.replay().seq == 4


def test_one_key_has_one_outcome_even_within_a_group(desk: Desk) -> None:
    """Goal: a key stands for one request. Method: the same key and body four times at once, and once another body."""
    with desk.holding():
        futures = [desk.ask(5, key="k") for _ in range(4)]
        other = desk.ask(5, key="k", digest=1)
    results = [future.result(SECONDS) for future in futures]
    entries = [result for result in results if isinstance(result, tuple)]
    assert len(entries) == 1
    repeats = [result for result in results if isinstance(result, Repeat)]
    assert [repeat.run_id for repeat in repeats] == [entries[0][0].run_id] * 3
    with pytest.raises(IdempotencyKeyReused):
        other.result(SECONDS)
    assert desk.replay().seq == 2


def test_a_key_whose_request_came_to_nothing_is_free_again(desk: Desk) -> None:
    """Goal: only an approval or a refusal binds a key. Method: an unknown dataset first, then a real one."""
    with pytest.raises(LedgerError, match="no such dataset"):
        desk.ask(key="k", dataset=uuid4()).result(SECONDS)
    assert kind(desk.ask(key="k", digest=2)) == "run-approved"


def test_a_name_is_taken_once_even_within_a_group(desk: Desk) -> None:
    """Goal: of several registrations of one name one wins, and the losers leave nothing."""
    with desk.holding():
        futures = [desk.register("new") for _ in range(4)]
    outcomes = [future.exception(SECONDS) for future in futures]
    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, NameTaken) for outcome in outcomes) == 3
    with desk.store.reading(desk.actor.tenant_id) as reading:
        assert reading.connection.execute(select(datasets.c.name, datasets.c.seq)).all() == [("data", 1), ("new", 1)]


def test_tenants_are_served_in_turn(database: Settings) -> None:
    """Goal: a tenant with a long queue does not keep another waiting. Method: the order in which answers come."""
    desk = Desk(database, group_max=10)
    try:
        other = uuid4()
        order: list[str] = []
        with desk.holding():
            crowd = [desk.ask() for _ in range(200)]
            for future in crowd:
                future.add_done_callback(lambda _future: order.append("crowd"))
            single = desk.writer.run(other, lambda writing: writing.now_us())
            single.add_done_callback(lambda _future: order.append("single"))
        wait([*crowd, single], SECONDS)
        assert order.index("single") <= 30, "at most the groups already in hand come before it"
    finally:
        desk.close()


def test_a_thread_that_dies_is_noticed_and_leaves_nobody_waiting(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: /readyz fails, and requests get an answer. Method: a fault that no handler expects, in the thread."""
    ledger.register()
    writer = ledger.client.app.state.services.writer
    assert ledger.client.get("/readyz").status_code == 200
    uncaught: list[object] = []
    monkeypatch.setattr(threading, "excepthook", uncaught.append)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "_transact", die)
    assert ledger.ask().status_code == 500
    ready = ledger.client.get("/readyz")
    assert (ready.status_code, ready.json()["code"]) == (503, "overloaded")
    later = ledger.ask()
    assert later.status_code == 503
    assert int(later.headers["retry-after"]) >= 1
    assert ledger.client.get("/healthz").status_code == 200


def test_a_deadlock_is_tried_again(postgresql: Settings) -> None:
    """Goal: 40P01 is not the client's business. Method: a real deadlock, in which the writer's transaction is chosen:
    another session holds the second dataset and asks for the first one while the writer holds that and waits."""
    desk = Desk(postgresql)
    try:
        second = desk.register("second").result(SECONDS)[0].dataset_id
        low, high = sorted([desk.dataset, second])
        seen: list[str] = []

        @event.listens_for(desk.store.engine, "handle_error")
        def _note(context: Any) -> None:
            if threading.current_thread().name.startswith("ledger-writer"):
                seen.append(context.original_exception.sqlstate)

        tries = 0
        while "40P01" not in seen and tries < 10:
            # Which of two sessions PostgreSQL ends is a matter of when each began to wait.
            tries += 1
            futures: list[Future[Any]] = []
            with contextlib.suppress(OperationalError), desk.store.writing(desk.actor.tenant_id) as other:
                _deadlock(desk, other, low, high, futures)
            assert [kind(future) for future in futures] == ["run-approved"] * 4
        assert "40P01" in seen
        assert [desk.replay(id_).seq for id_ in (low, high)] == [1 + 2 * tries] * 2
    finally:
        desk.close()


def _deadlock(desk: Desk, other: Writing, low: UUID, high: UUID, futures: list[Future[Any]]) -> None:
    """Adds four requests whose group locks `low` and waits for `high`, which `other` has while it waits for `low`."""
    other.books.lock({high: ReadSet()}, [])
    pid = other.connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with desk.holding(low):
        # The first is taken alone and waits; those behind it make one group that wants both.
        futures.extend(desk.ask(dataset=dataset) for dataset in (low, high, low, high))
    with desk.store.engine.connect() as watch:
        while not watch.execute(_BLOCKED_BY, {"pid": pid}).scalar():
            watch.rollback()
    other.books.lock({low: ReadSet()}, [])


_BLOCKED_BY = text("SELECT count(*) FROM pg_stat_activity WHERE :pid = ANY(pg_blocking_pids(pid))")


@pytest.mark.parametrize("committed", [True, False])
def test_a_commit_whose_answer_is_lost_is_looked_up(postgresql: Settings, committed: bool) -> None:
    """Goal: no approval is lost or made twice with the connection. Method: the connection is closed around COMMIT, once
    after the server has done it and once before."""
    desk = Desk(postgresql)
    try:
        lost: list[int] = []

        @event.listens_for(desk.store.engine, "commit")
        def _lose(connection: Any) -> None:
            if threading.current_thread().name.startswith("ledger-writer") and not lost:
                lost.append(1)
                driver = connection.connection.driver_connection
                if committed:
                    driver.commit()
                driver.close()

        future = desk.ask(7, key="k")
        if committed:
            assert kind(future) == "run-approved"
        else:
            with pytest.raises(Overloaded):
                future.result(SECONDS)
        assert lost
        again = desk.ask(7, key="k").result(SECONDS)
        assert isinstance(again, Repeat if committed else tuple)
        assert desk.replay().seq == 2
    finally:
        desk.close()


def test_a_database_that_does_not_answer_is_a_503(postgresql: Settings) -> None:
    """Goal: an outage is no fault of the request. Method: every connection is ended, and new ones are not allowed."""
    with Ledger.open(postgresql) as ledger:
        ledger.register()
        url = make_url(postgresql.owner_url)
        owner = engine_for(url.set(database="postgres").render_as_string(hide_password=False))
        with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS false'))
            ledger.client.app.state.services.store.engine.dispose()
            answers = [ledger.ask(key="k"), ledger.client.get("/readyz"), ledger.get("/v1/datasets/mnist")]
            assert [answer.status_code for answer in answers] == [503] * 3
            assert all("retry-after" in answer.headers for answer in answers)
            connection.execute(text(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS true'))
        owner.dispose()
        assert ledger.client.get("/readyz").status_code == 200
        assert ledger.ask(key="k").status_code == 201


def test_closing_finishes_what_is_queued(database: Settings) -> None:
    """Goal: an orderly shutdown loses nothing. Method: close while requests wait, then read the journal."""
    desk = Desk(database)
    with desk.holding():
        futures = [desk.ask() for _ in range(50)]
        closing = threading.Thread(target=desk.writer.close)
        closing.start()
    closing.join(SECONDS)
    assert all(kind(future) == "run-approved" for future in futures)
    with pytest.raises(Overloaded):
        desk.ask()
    assert desk.replay().seq == 51
    desk.store.close()


def test_a_clock_that_goes_back(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the times of a journal never go back, whatever is done to the database's clock. Method: the clock an hour
    ahead, and then right again; entries of a dataset and of the tenant, which hold and stand in order."""
    ledger.register()
    clock, times_and_keys = Reading.now_us, Writing.times_and_keys

    def ahead(self: Writing, dataset_ids: Iterable[UUID], key_ids: Iterable[UUID]) -> tuple[int, int, dict[UUID, Key]]:
        clock_us, newest_us, keys = times_and_keys(self, dataset_ids, key_ids)
        return clock_us + 3_600_000_000, newest_us, keys

    with monkeypatch.context() as patched:
        patched.setattr(Reading, "now_us", lambda self: clock(self) + 3_600_000_000)
        patched.setattr(Writing, "times_and_keys", ahead)
        assert ledger.ask(key="ahead").status_code == 201
        key = ledger.post("/v1/keys", {"name": "k", "role": "auditor"})
        assert key.status_code == 201
    assert ledger.ask(key="behind").status_code == 201
    assert ledger.post("/v1/keys", {"name": "l", "role": "auditor"}).status_code == 201
    for path in ("/v1/datasets/mnist/export", "/v1/export"):
        lines = ledger.get(path).text.split("\n")[:-1]
        verify(lines)
        times = [json.loads(line)["entry"]["at"] for line in lines[1:-1]]
        assert times == sorted(times)
        assert times[-1] == times[-2]

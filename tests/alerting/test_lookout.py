"""Who looks, at whom, and how few questions that takes. Counted, with a clock that a test sets."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, event, insert

from ledger.alerting import lookout as lookout_module
from ledger.alerting.lookout import HOURLY_US, LAPSE_US, LEASE_SECONDS_MIN, TENANTS_AT_ONCE, Lookout
from ledger.core.alerting import Alerting
from ledger.core.amounts import Amount
from ledger.core.commands import RefuseProposal, SetBudget
from ledger.core.forecast import DAY_US, HISTORY_US
from ledger.core.people import Consent
from ledger.errors import Overloaded
from ledger.service.forecasts import outlooks
from ledger.settings import Settings
from ledger.signer.heads import Heads
from ledger.store import Reading, Snapshot, Writing
from ledger.store.overview import BEGINNING
from ledger.store.tables import datasets, entries, tenants
from tests.alerting.test_courier import SECONDS, Post, kinds
from tests.kit.driver import past_the_ledger

QUERIES_MAX = 6
"""Of a tick that finds nothing: the time, the lease, what is late, what lapses, what does not hold, what waits."""
OF_TENANT = "tenants.second_steward"
"""Stands in one statement of each look at a tenant."""
TICK_SECONDS = 30


@pytest.fixture
def post(database: Settings) -> Iterator[Post]:
    """Without a webhook."""
    made = Post(database, None)
    yield made
    made.desk.close()


def lookout(post: Post) -> Lookout:
    """As one process has it."""
    return Lookout(
        post.desk.store,
        post.desk.writer,
        every_seconds=TICK_SECONDS,
        signed_head=Heads(post.desk.store, post.signer).signed,
        clock=lambda snapshot: Snapshot.now_us(snapshot) + post.later_us,
    )


@contextmanager
def counted(post: Post, *, only: str = "") -> Iterator[list[str]]:
    """The statements of this thread's that contain a text. Whose a transaction is, is no question."""
    statements: list[str] = []
    thread = threading.get_ident()

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        is_ours = threading.get_ident() == thread and not statement.startswith(("SET LOCAL", "BEGIN"))
        if is_ours and only in statement:
            statements.append(statement)

    event.listen(post.desk.store.engine, "before_cursor_execute", note)
    yield statements
    event.remove(post.desk.store.engine, "before_cursor_execute", note)


def add_quiet_tenants(settings: Settings, count: int) -> list[UUID]:
    """Tenants with a dataset each, of one entry, put there behind the ledger's back since they are so many."""
    ids = [uuid4() for _ in range(count)]
    hash_ = hashlib.sha256(b"{}").digest()
    own = [
        {"tenant_id": id_, "name": f"quiet-{id_}", "second_steward": 0, "seq": 0, "head": bytes(32), "created_us": 1}
        for id_ in ids
    ]
    data = [
        {
            "tenant_id": id_,
            "id": id_,
            "name": "data",
            "title": "",
            "description": "",
            "privacy_unit": "record",
            "adjacency": "replace_one",
            "bound": "clt",
            "is_partitioned": 0,
            "state": "active",
            "seq": 1,
            "head": hash_,
            "created_us": 1,
        }
        for id_ in ids
    ]
    journal = [
        {"tenant_id": id_, "dataset_id": id_, "seq": 1, "kind": "k", "at_us": 1, "body": "{}", "hash": hash_}
        for id_ in ids
    ]
    engine = past_the_ledger(settings)
    with engine.execution_options(writing=True).begin() as connection:
        for table, rows in ((tenants, own), (datasets, data), (entries, journal)):
            connection.execute(insert(table), rows)
    engine.dispose()
    return ids


# --- how few questions -----------------------------------------------------------------------------------------------


def test_a_thousand_quiet_tenants_take_six_questions(database: Settings, tries: Callable[[int, int], int]) -> None:
    """Goal: a tick costs what moved and not who there is. Method: count the statements of a tick with one tenant and
    with a thousand more, or a sample of them, once each was looked at once; and of an hourly one."""
    post = Post(database, None)
    eye = lookout(post)
    eye.tick()
    with counted(post) as alone:
        eye.tick()
    quiet = tries(300, 1_000)
    add_quiet_tenants(database, quiet)
    for _ in range(1 + quiet // TENANTS_AT_ONCE):
        post.pass_time(HOURLY_US)
        eye.tick()
    with counted(post) as among_many:
        eye.tick()
    post.pass_time(HOURLY_US)
    with counted(post) as hourly:
        eye.tick()
    assert len(alone) == len(among_many) == QUERIES_MAX
    assert len(hourly) == QUERIES_MAX + 1
    post.desk.ask().result(SECONDS)
    post.pass_time(HOURLY_US)
    with counted(post, only=OF_TENANT) as looked_at:
        eye.tick()
    assert len(looked_at) == 1, "the tenant that moved, and no other"
    post.desk.close()


def test_a_first_look_is_spread_over_ticks(database: Settings) -> None:
    """Goal: a process that begins to look does not look at everyone at once. Method: more tenants than a tick takes,
    and how many transactions each tick reads tenants in."""
    post = Post(database, None)
    add_quiet_tenants(database, TENANTS_AT_ONCE + 5)
    eye = lookout(post)
    looked = []
    for _ in range(3):
        with counted(post, only=OF_TENANT) as statements:
            eye.tick()
        looked.append(len(statements))
    assert looked == [TENANTS_AT_ONCE, 6, 0]
    post.desk.close()


def test_forecasts_of_many_datasets_take_as_many_statements(post: Post) -> None:
    """Goal: forecasts are made in batches, and come to the same. Method: the statements for one dataset and for five
    that were all charged and settled in part; each estimate against that of the dataset alone."""
    desk = post.desk
    ids = [desk.dataset, *(desk.register(f"more-{n}").result(SECONDS)[0].dataset_id for n in range(4))]
    for place, id_ in enumerate(ids):
        for _ in range(place + 1):
            desk.ask(place + 2, dataset=id_).result(SECONDS)
    with desk.store.reading(post.tenant_id) as reading:
        rows = reading.datasets.page(after=None, limit=10, only=None)
        now_us = Reading.now_us(reading)
        with counted(post) as of_one:
            alone = [outlooks(reading, [row], now_us=now_us)[0][1] for row in rows[:1]]
        with counted(post) as of_all:
            together = outlooks(reading, rows, now_us=now_us)
        alone += [outlooks(reading, [row], now_us=now_us)[0][1] for row in rows[1:]]
    assert len(rows) == 5
    assert len(of_all) == len(of_one)
    assert [accounts for _, accounts in together] == alone
    assert sorted(accounts[0].forecast.runs for _, accounts in together) == [1, 2, 3, 4, 5]


# --- who looks -------------------------------------------------------------------------------------------------------


def test_one_of_two_processes_looks(post: Post) -> None:
    """Goal: one process looks for all, another one once it has ended, whether it said so or not. Method: two on one
    database, and what each asks; a lease that runs out by the database's time, and one that is given back."""
    first, second = lookout(post), lookout(post)

    def asked(eye: Lookout) -> int:
        with counted(post) as statements:
            eye.tick()
        return len(statements)

    def held(eye: Lookout) -> bool:
        return asked(eye) > 2

    assert (held(first), held(second), held(first)) == (True, False, True)
    post.pass_time((max(LEASE_SECONDS_MIN, 3 * TICK_SECONDS) - 1) * 1_000_000)
    assert not held(second)
    post.pass_time(30 * 1_000_000)
    assert held(second), "the first one has not renewed its lease in time"
    assert not held(first)
    second.close()
    assert held(first), "the lease was given back"
    second.close()
    assert held(first), "nobody ends another's lease"


def test_two_at_the_same_time_are_not_both_let_in(database: Settings) -> None:
    """Goal: a lease that is free is had by one. Method: eight threads that take it at once, several times."""
    post = Post(database, None)
    eyes = [lookout(post) for _ in range(8)]
    for _ in range(5):
        post.pass_time(10**9)
        gate, got = threading.Barrier(8), list[bool]()

        def take(eye: Lookout, gate: threading.Barrier = gate, got: list[bool] = got) -> None:
            gate.wait(SECONDS)
            got.append(eye._held() is not None)

        threads = [threading.Thread(target=take, args=(eye,)) for eye in eyes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert sorted(got) == [False] * 7 + [True]
    post.desk.close()


def test_who_takes_over_tells_nothing_twice_and_misses_nothing(post: Post) -> None:
    """Goal: what one process told, another does not tell again; what neither has seen, it finds. Method: a run that is
    late, told by the first; another one that is late when the second takes over."""
    first, second = lookout(post), lookout(post)
    post.desk.ask().result(SECONDS)
    post.pass_time(2 * 10**12)
    first.tick()
    assert kinds(post) == ["overdue"]
    post.desk.ask().result(SECONDS)
    post.pass_time(2 * 10**12)
    second.tick()
    second.tick()
    assert kinds(post) == ["overdue", "overdue"]


# --- proposals -------------------------------------------------------------------------------------------------------


def test_a_proposal_is_told_of_when_it_waits_and_before_it_lapses(post: Post) -> None:
    """Goal: whoever can approve learns of a proposal at once, and again before its time is over; never of one that was
    answered or is over. Method: three proposals; one is refused; hours pass, and then the day."""
    desk, eye = post.desk, lookout(post)
    second = replace(desk.actor, principal_id=uuid4())

    def work(writing: Writing) -> None:
        writing.tenants.set_policy(second_steward=True)

    desk.writer.run(post.tenant_id, work).result(SECONDS)
    ids = [uuid4() for _ in range(3)]
    for number, id_ in enumerate(ids):
        more = Amount(10**15 + number, 10**18 - 1)
        budget = SetBudget(desk.actor, desk.dataset, {"mu": 2}, more, "more", Consent(id_))
        desk.writer.submit(post.tenant_id, budget).result(SECONDS)
    waiting = [json.loads(alert.body) for alert in post.kept(kind="proposal")]
    assert {told["proposal"] for told in waiting} == set(map(str, ids))
    assert {(told["what"], told["by"]["name"]) for told in waiting} == {("budget", desk.actor.name)}
    refusal = RefuseProposal(second, ids[0], (desk.dataset,), "no")
    desk.writer.submit(post.tenant_id, refusal).result(SECONDS)
    eye.tick()
    assert post.kept(kind="lapsing") == []
    post.pass_time(DAY_US - LAPSE_US + HOURLY_US)
    for _ in range(2):
        eye.tick()
        lapsing = [json.loads(alert.body) for alert in post.kept(kind="lapsing")]
        assert {told["proposal"] for told in lapsing} == set(map(str, ids[1:]))
        assert {told["approve_by"] for told in lapsing} <= {told["approve_by"] for told in waiting}
    post.pass_time(DAY_US)
    fresh = lookout(post)
    fresh._holder = eye._holder
    fresh.tick()
    assert len(post.kept(kind="lapsing")) == 2


# --- what moved, exactly ---------------------------------------------------------------------------------------------


def test_a_commit_that_lands_late_is_seen(postgresql: Settings) -> None:
    """Goal: no entry is missed because it was decided before a look and committed after it. Method: two runs whose
    commits wait while the lookout looks, at a time when the one is due and a forecast is; then they land. On SQLite
    nobody looks while another one commits."""
    post = Post(postgresql, None)
    post.desk.ask(200).result(SECONDS)
    post.desk.ask(200).result(SECONDS)
    eye = lookout(post)
    eye.tick()
    reached, release = threading.Event(), threading.Event()

    def wait(_connection: Connection) -> None:
        if threading.current_thread().name.startswith("ledger-writer"):
            reached.set()
            release.wait(SECONDS)

    event.listen(post.desk.store.engine, "commit", wait)
    late = post.desk.ask(200)
    assert reached.wait(SECONDS)
    post.pass_time(10**12 + HOURLY_US)
    before = [run.run_id for run in all_late(post)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lookout, "_look", lambda *_: set())  # it tells nobody: the writer waits
        eye._hourly_us = None
        eye.tick()
    release.set()
    (entry,) = late.result(SECONDS)
    assert entry.run_id not in before
    assert entry.run_id in {run.run_id for run in all_late(post)}
    eye.tick()
    post.pass_time(HOURLY_US)
    eye.tick()
    told = {alert.kind for alert in post.kept()}
    assert {"overdue", "forecast"} <= told
    assert str(entry.run_id) in {json.loads(alert.body)["run"] for alert in post.kept(kind="overdue")}
    post.desk.close()


def all_late(post: Post) -> list[Any]:
    """Every run that is due, of whoever."""
    with post.desk.store.overview() as overview:
        now_us = Snapshot.now_us(overview) + post.later_us
        return overview.late_runs(after=(0, BEGINNING[1]), until_us=now_us, limit=100)


def test_a_forecast_that_time_alone_changes(post: Post) -> None:
    """Goal: what no entry tells of is told of in time. Method: one run, which is too little to forecast from until it
    is seven days old; and the reminder in the next week. Between them nothing is read."""
    eye = lookout(post)
    post.desk.ask(900).result(SECONDS)
    eye.tick()
    assert "forecast" not in kinds(post)
    post.pass_time(DAY_US)
    with counted(post, only="JOIN runs") as read:
        eye.tick()
    assert read == []
    post.pass_time(HISTORY_US - DAY_US)
    eye.tick()
    assert kinds(post).count("forecast") == 1
    post.pass_time(2 * HOURLY_US)
    with counted(post, only="JOIN runs") as read:
        eye.tick()
    post.pass_time(HISTORY_US)
    eye.tick()
    assert (read, kinds(post).count("forecast")) == ([], 2)


def test_other_wishes_are_another_forecast(post: Post) -> None:
    """Goal: whoever asks to be told earlier is told by the next look, though no dataset moved. Method: 1 day, and then
    ten years."""
    for _ in range(3):
        post.desk.ask(1).result(SECONDS)
    post.set_alerting(Alerting(forecast_days=1))
    eye = lookout(post)
    eye.tick()
    assert "forecast" not in kinds(post)
    post.set_alerting(Alerting(forecast_days=3650))
    post.pass_time(HOURLY_US)
    eye.tick()
    assert "forecast" in kinds(post)


def test_tenants_that_never_called_are_looked_at(database: Settings) -> None:
    """Goal: whoever decided something, any process looks at it. Method: a journal that was cut off, of a tenant that
    this process has never heard of, among others."""
    post = Post(database, None)
    ids = add_quiet_tenants(database, 7)
    engine = past_the_ledger(database)
    with engine.execution_options(writing=True).begin() as connection:
        connection.execute(datasets.update().where(datasets.c.tenant_id == ids[3]).values(seq=2))
    engine.dispose()
    lookout(post).tick()
    for id_ in ids:
        with post.desk.store.reading(id_) as reading:
            found = [alert.kind for alert in reading.outbox.page(after=None, limit=10)]
        assert found == (["mismatch"] if id_ == ids[3] else [])
    post.desk.close()


def test_journals_are_checked_in_turn(database: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: however many journals there are, a tick checks so many, and each has its turn. Method: three at a time of
    twelve and more, each broken by itself in turn."""
    monkeypatch.setattr(lookout_module, "JOURNALS_AT_ONCE", 3)
    post = Post(database, None)
    ids = add_quiet_tenants(database, 5)
    eye = lookout(post)
    engine = past_the_ledger(database)
    with engine.execution_options(writing=True).begin() as connection:
        connection.execute(datasets.update().where(datasets.c.tenant_id.in_(ids)).values(head=bytes(32)))
    engine.dispose()
    ticks = 1 + (2 * 6) // 3
    for _ in range(ticks):
        eye.tick()
    told = 0
    for id_ in ids:
        with post.desk.store.reading(id_) as reading:
            told += len(reading.outbox.page(after=None, limit=10))
    assert told == 5
    post.desk.close()


def test_one_tenants_trouble_is_looked_at_again(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what could not be told now is told by the next tick. Method: a writer that is full, once for each reason
    there is to look."""
    for _ in range(3):
        post.desk.ask(300).result(SECONDS)
    eye = lookout(post)

    def full(*_: Any) -> None:
        raise Overloaded("for the test")

    post.pass_time(2 * 10**12)
    tell: Callable[..., Any] = post.desk.writer.tell
    monkeypatch.setattr(post.desk.writer, "tell", full)
    eye.tick()
    assert not {"overdue", "forecast"} & set(kinds(post))
    monkeypatch.setattr(post.desk.writer, "tell", tell)
    eye.tick()
    assert kinds(post).count("overdue") == 3
    assert "forecast" in kinds(post)

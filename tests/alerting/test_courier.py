"""The outbox and its courier, with a receiver that listens for real. The clock is one that a test sets."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import queue
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import event, text

from ledger.alerting import courier as courier_module
from ledger.alerting import watch
from ledger.alerting.courier import ANSWER_BYTES_MAX, BATCH, FIRST_WAIT_US, LEASE_US, TRIES, Courier, Hosts
from ledger.core.alerting import Alerting, KeptAlert
from ledger.core.alerts import mismatch, trial
from ledger.core.commands import Settle, Start
from ledger.core.datasets import Parent
from ledger.errors import JournalBroken, LedgerError
from ledger.settings import Settings
from ledger.signer.heads import Heads
from ledger.signer.keyfile import Signer
from ledger.store import Reading, Writing
from ledger.store.journals import JournalWriter
from ledger.store.outbox import OutboxWriter
from ledger.store.repository import Repository
from ledger.verifier import jws
from ledger.verifier.jws import SigningKey
from tests.kit.driver import Ledger, free_port, past_the_ledger
from tests.kit.scene import ok
from tests.service.test_writer import Desk

SECONDS = 60
ACTOR = {"name": "somebody"}


class Receiver:
    """A webhook on the loopback. It answers as it is told to, one answer after another and then 204."""

    def __init__(self) -> None:
        self.got: queue.Queue[tuple[str, dict[str, str], bytes]] = queue.Queue()
        self.answers: queue.Queue[Any] = queue.Queue()
        self.release = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.put((self.path, dict(self.headers), body))
                with contextlib.suppress(OSError):  # whoever sent it may have gone
                    receiver.answer(self, 204 if receiver.answers.empty() else receiver.answers.get())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.place = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.place}/hook/secret-in-the-path?token=secret"
        self.thread = threading.Thread(target=partial(self.server.serve_forever, 0.02), daemon=True)
        self.thread.start()

    def answer(self, handler: BaseHTTPRequestHandler, said: Any) -> None:
        if said == "hang":
            self.release.wait(SECONDS)
            return
        handler.send_response(200 if said == "endless" else said)
        if said in (301, 302, 307, 308):
            handler.send_header("Location", f"http://{self.place}/elsewhere")
        handler.end_headers()
        if said == "endless":
            while not self.release.is_set():
                handler.wfile.write(b"x" * 65536)

    def events(self) -> list[dict[str, Any]]:
        """What came so far, in order, as JSON; and forgets it."""
        found = []
        while not self.got.empty():
            found.append(json.loads(self.got.get()[2]))
        return found

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that takes everything."""
    made = Receiver()
    yield made
    made.close()


class Post:
    """A ledger's store and writer with one tenant, a webhook, and as many couriers as a test wants."""

    def __init__(self, settings: Settings, url: str | None, *hosts: str) -> None:
        self.desk = Desk(settings)
        self.tenant_id = self.desk.actor.tenant_id
        self.signer = Signer(SigningKey.generate())
        self.hosts = Hosts(hosts)
        self.later_us = 0
        self.outcomes: list[str] = []
        if url is not None:
            self.set_alerting(Alerting(webhook=url))

    def set_alerting(self, alerting: Alerting) -> None:
        """With its entry in the tenant's journal, as the service does it."""

        def work(writing: Writing) -> None:
            writing.tenants.set_alerting(alerting)
            writing.journals.note("alerting-set", ACTOR, {"reason": "r"}, now_us=Reading.now_us(writing))

        self.desk.writer.run(self.tenant_id, work).result(SECONDS)

    def courier(self) -> Courier:
        return Courier(
            self.desk.store,
            self.desk.writer,
            self.signer,
            hosts=self.hosts,
            every_seconds=3600,
            signed_head=Heads(self.desk.store, self.signer).signed,
            clock=lambda reading: Reading.now_us(reading) + self.later_us,
            on_delivery=self.outcomes.append,
        )

    def tell(self, count: int = 1) -> None:
        alerts = [trial(uuid.uuid4(), by=ACTOR) for _ in range(count)]
        assert self.desk.writer.tell(self.tenant_id, alerts).result(SECONDS) == count

    def deliver(self) -> None:
        for delivery in self.courier().deliver([self.tenant_id]):
            delivery.result(SECONDS)

    def kept(self, **filters: Any) -> list[KeptAlert]:
        with self.desk.store.reading(self.tenant_id) as reading:
            return reading.outbox.page(after=None, limit=1000, **filters)

    def one(self) -> KeptAlert:
        (found,) = self.kept()
        return found

    def pass_time(self, us: int) -> None:
        self.later_us += us


@pytest.fixture
def post(database: Settings, receiver: Receiver) -> Iterator[Post]:
    """With a receiver that is allowed."""
    made = Post(database, receiver.url, receiver.place)
    yield made
    made.desk.close()


# --- what arrives ----------------------------------------------------------------------------------------------------


def raw(text_: str) -> bytes:
    """Base64url."""
    return base64.urlsafe_b64decode(text_ + "=" * (-len(text_) % 4))


def verified(body: dict[str, Any], jwks: dict[str, Any]) -> Any:
    """The event that a receiver believes: by `cryptography` and the published keys, as docs/how-to/alerts.md says."""
    header, payload, signature = body["signature"].split(".")
    said = json.loads(raw(header))
    assert said["typ"] == "privacy-ledger-alert+jws"
    assert said["alg"] == "EdDSA"
    (x,) = [key["x"] for key in jwks["keys"] if key["kid"] == said["kid"]]
    Ed25519PublicKey.from_public_bytes(raw(x)).verify(raw(signature), f"{header}.{payload}".encode())
    return json.loads(raw(payload))


def test_an_alert_arrives_signed(database: Settings, receiver: Receiver) -> None:
    """Goal: from a decision to a receiver that trusts nothing but the published keys.

    Method: the application as it is served; a run that passes 50 %; what arrives verified by another library, and not
    verified any more once a byte of it is another.
    """
    settings = database.model_copy(update={"webhook_hosts": (receiver.place,)})
    with Ledger.open(settings) as ledger:
        ok(ledger.put("/v1/alerting", {"webhook": receiver.url, "reason": "r"}))
        ledger.register()
        run = ok(ledger.ask({"type": "gaussian", "noise_multiplier": 1.4}))
        path, headers, body = receiver.got.get(timeout=SECONDS)
        said, jwks = json.loads(body), ledger.client.get("/.well-known/jwks.json").json()
        (shown,) = ok(ledger.get("/v1/alerts"))["items"]
        me = ok(ledger.get("/v1/me"))
    assert verified(said, jwks) == said["alert"] == shown["event"]
    assert said["alert"]["kind"] == "threshold"
    assert (said["alert"]["run"], said["alert"]["seq"]) == (run["id"], 2)
    assert said["alert"]["tenant"] == me["tenant"]
    assert headers["Idempotency-Key"] == said["alert"]["id"] == shown["id"]
    assert headers["Content-Type"] == "application/json"
    assert path == "/hook/secret-in-the-path?token=secret"
    header, payload, signature = said["signature"].split(".")
    for forged in (f"{header}.{payload[:-2]}AA.{signature}", f"{header}.{payload}.{'A' * len(signature)}"):
        with pytest.raises(InvalidSignature):
            verified({"signature": forged}, jwks)


def test_what_is_delivered_is_delivered_once(post: Post, receiver: Receiver) -> None:
    """Goal: nothing is sent again that was taken. Method: more than a batch, by two couriers one after the other."""
    post.tell(BATCH + 3)
    post.deliver()
    post.pass_time(LEASE_US + 1)
    post.deliver()
    arrived = [said["alert"]["id"] for said in receiver.events()]
    assert len(arrived) == len(set(arrived)) == BATCH + 3
    assert {(alert.state, alert.attempts, alert.next_us) for alert in post.kept()} == {("delivered", 1, None)}
    assert post.outcomes == ["delivered"] * (BATCH + 3)


def test_several_couriers_deliver_once(post: Post, receiver: Receiver) -> None:
    """Goal: processes share an outbox. Method: 40 alerts and four couriers at the same time."""
    post.tell(40)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(post.deliver) for _ in range(4)]:
            done.result(SECONDS)
    arrived = [said["alert"]["id"] for said in receiver.events()]
    assert sorted(arrived) == sorted(str(alert.id) for alert in post.kept(state="delivered"))
    assert len(set(arrived)) == 40


# --- what fails ------------------------------------------------------------------------------------------------------


def test_a_failure_is_tried_again_later_and_later(post: Post, receiver: Receiver) -> None:
    """Goal: after 500 it is tried again, after twice as long each time, and given up after so many.

    Method: a receiver that always fails; the clock moved to just before and after the next try.
    """
    post.tell()
    waits: list[int] = []
    for attempt in range(1, TRIES + 1):
        receiver.answers.put(500 + attempt % 4)
        post.deliver()
        alert = post.one()
        assert (alert.attempts, alert.failure) == (attempt, f"status {500 + attempt % 4}")
        if alert.next_us is None:
            break
        with post.desk.store.reading(post.tenant_id) as reading:
            wait_us = alert.next_us - Reading.now_us(reading) - post.later_us
        waits.append(wait_us)
        post.pass_time(wait_us - 5_000_000)
        post.deliver()
        assert post.one().attempts == attempt
        post.pass_time(10_000_000)
    assert (post.one().state, post.one().attempts) == ("failed", TRIES)
    assert len(receiver.events()) == TRIES
    assert post.outcomes == [*["retried"] * (TRIES - 1), "failed"]
    for place, wait_us in enumerate(waits):
        assert 0.75 < wait_us / (FIRST_WAIT_US * 2**place) < 1.25
    assert 1.5 < sum(waits) / 86_400_000_000 < 3
    post.pass_time(10**15)
    post.deliver()
    assert receiver.events() == []


def test_the_same_is_sent_each_time(post: Post, receiver: Receiver) -> None:
    """Goal: a receiver can tell a second time by the id, and the signature is of the same bytes. Method: fail once."""
    post.tell()
    receiver.answers.put(503)
    for _ in range(2):
        post.deliver()
        post.pass_time(2 * FIRST_WAIT_US)
    first, second = receiver.events()
    assert first == second
    assert post.one().state == "delivered"


def test_a_receiver_that_does_not_answer(post: Post, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: it is given so much time and no more, and tried again. Method: it hangs; the next time it does not."""
    monkeypatch.setattr(courier_module, "POST_SECONDS_MAX", 0.2)
    post.tell()
    receiver.answers.put("hang")
    post.deliver()
    assert (post.one().state, post.one().failure) == ("pending", "timeout")
    receiver.release.set()
    post.pass_time(2 * FIRST_WAIT_US)
    monkeypatch.undo()
    post.deliver()
    assert post.one().state == "delivered"


def test_nobody_listens(database: Settings) -> None:
    """Goal: a receiver that is down is tried again. Method: a port that nobody listens on."""
    place = f"127.0.0.1:{free_port()}"
    post = Post(database, f"http://{place}/", place)
    post.tell()
    post.deliver()
    assert (post.one().state, post.one().failure) == ("pending", "unreachable (ConnectError)")
    post.desk.close()


def test_one_failure_stops_a_batch_and_counts_for_one(post: Post, receiver: Receiver) -> None:
    """Goal: a receiver that is down is not sent everything in vain. Method: of three the first one fails; the others
    were not tried, and all arrive later."""
    post.tell(3)
    receiver.answers.put(500)
    post.deliver()
    assert sorted(alert.attempts for alert in post.kept()) == [0, 0, 1]
    post.pass_time(2 * FIRST_WAIT_US)
    post.deliver()
    assert len({said["alert"]["id"] for said in receiver.events()}) == 3
    assert {alert.state for alert in post.kept()} == {"delivered"}


def test_a_process_that_dies_while_it_sends(post: Post, receiver: Receiver) -> None:
    """Goal: at least once. Method: a lease that nobody ends, as of a process that was killed; then its time runs out.
    Whoever comes back with an old lease changes nothing."""
    post.tell()

    def lease(writing: Writing) -> list[KeptAlert]:
        now_us = Reading.now_us(writing)
        return writing.outbox.lease(now_us=now_us, until_us=now_us + LEASE_US, limit=BATCH)

    (leased,) = post.desk.writer.run(post.tenant_id, lease).result(SECONDS)
    post.deliver()
    assert receiver.events() == []
    post.pass_time(LEASE_US + 1)
    post.deliver()
    assert len(receiver.events()) == 1
    assert (post.one().state, post.one().attempts) == ("delivered", 2)

    def late(writing: Writing) -> bool:
        return writing.outbox.record(leased, state="failed", attempts=1, failure="late")

    assert post.desk.writer.run(post.tenant_id, late).result(SECONDS) is False
    assert post.one().state == "delivered"


def test_a_last_try_that_was_cut_off(post: Post, receiver: Receiver) -> None:
    """Goal: tries are bounded also where processes die. Method: as many leases that nobody ends as there are tries."""
    post.tell()

    def lease(writing: Writing) -> int:
        now_us = Reading.now_us(writing) + post.later_us
        return len(writing.outbox.lease(now_us=now_us, until_us=now_us + LEASE_US, limit=BATCH))

    for _ in range(TRIES):
        assert post.desk.writer.run(post.tenant_id, lease).result(SECONDS) == 1
        post.pass_time(LEASE_US + 1)
    post.deliver()
    assert (post.one().state, post.one().attempts) == ("failed", TRIES)
    assert receiver.events() == []


def test_closing_breaks_off_and_gives_back(post: Post, receiver: Receiver) -> None:
    """Goal: a server ends at once, and loses nothing. Method: close while a receiver hangs; then another one sends."""
    post.tell(2)
    receiver.answers.put("hang")
    courier = post.courier()
    courier.start()
    courier.added(post.tenant_id)
    receiver.got.get(timeout=SECONDS)
    courier.close()
    assert {(alert.state, alert.attempts) for alert in post.kept()} == {("pending", 0)}
    receiver.release.set()
    post.deliver()
    assert {alert.state for alert in post.kept()} == {"delivered"}


# --- where to --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hosts", "url", "is_allowed"),
    [
        ("hooks.example.org", "https://hooks.example.org/a?b=c", True),
        ("hooks.example.org", "https://HOOKS.example.org:443/", True),
        ("hooks.example.org:8443", "https://hooks.example.org:8443/", True),
        ("127.0.0.1:9000", "http://127.0.0.1:9000/", True),
        ("localhost:9000", "http://localhost:9000/", True),
        ("[::1]:9000", "http://[::1]:9000/", True),
        ("", "https://hooks.example.org/", False),
        ("hooks.example.org", "http://hooks.example.org/", False),
        ("hooks.example.org", "https://hooks.example.org:8443/", False),
        ("hooks.example.org:8443", "https://hooks.example.org/", False),
        ("hooks.example.org", "https://hooks.example.org.evil.example/", False),
        ("hooks.example.org", "https://evil.hooks.example.org/", False),
        ("hooks.example.org", "https://somebody@hooks.example.org/", False),
        ("hooks.example.org", "https://evil.example/#hooks.example.org", False),
        ("hooks.example.org", "https://evil.example\\@hooks.example.org/", False),
        ("hooks.example.org", "ftp://hooks.example.org/", False),
        ("hooks.example.org", "https:///", False),
        ("hooks.example.org", "//hooks.example.org/", False),
        ("hooks.example.org", "https://hooks.example.org/a b", False),
        ("hooks.example.org", "https://hooks.example.org/\n", False),
        ("hooks.example.org", "https://hooks.example.org/ä", False),
        ("hooks.example.org", "https://hooks.example.org/" + "a" * 2000, False),
        ("hooks.example.org", "http://127.0.0.1/", False),
        ("hooks.example.org", "https://169.254.169.254/latest", False),
        ("hooks.example.org", "https://[::1", False),
    ],
)
def test_where_a_webhook_may_lead(hosts: str, url: str, is_allowed: bool) -> None:
    """Goal: where the operator says, encrypted, and nowhere else. Method: what is like an allowed URL."""
    allowed = Settings.model_validate({"webhook_hosts": hosts}).webhook_hosts
    assert (Hosts(allowed).objection(url) is None) == is_allowed


def test_a_redirection_is_not_followed(post: Post, receiver: Receiver) -> None:
    """Goal: an allowed host cannot send it elsewhere. Method: redirect, to a place that would say."""
    post.tell()
    for said in (301, 302, 307, 308):
        receiver.answers.put(said)
        post.deliver()
        (path, _, _) = receiver.got.get(timeout=SECONDS)
        assert path.startswith("/hook")
        assert receiver.got.empty()
        assert post.one().failure == f"status {said}"
        post.pass_time(10**10)


def test_an_answer_without_end(post: Post, receiver: Receiver) -> None:
    """Goal: no more is read than a bound. Method: a receiver that goes on for ever; it took the alert."""
    assert ANSWER_BYTES_MAX < 10**6
    post.tell()
    receiver.answers.put("endless")
    post.deliver()
    assert post.one().state == "delivered"


def test_a_host_that_is_no_longer_allowed(post: Post, receiver: Receiver) -> None:
    """Goal: what the operator takes back holds at once. Method: other hosts, and none, for a webhook that is set."""
    post.tell()
    post.hosts = Hosts(("hooks.example.org",))
    post.deliver()
    assert (post.one().state, post.one().failure) == ("pending", "its host is not allowed")
    post.hosts = Hosts(())
    post.pass_time(10**12)
    post.deliver()
    assert post.one().attempts == 1
    assert receiver.events() == []


def test_without_a_webhook_alerts_are_listed_alone(post: Post, receiver: Receiver) -> None:
    """Goal: turning a webhook off leaves nothing that would be sent later. Method: off while one waits, and one more;
    both stay listed, and neither is sent when there is one again."""
    post.tell()
    post.desk.writer.run(post.tenant_id, lambda writing: writing.tenants.set_alerting(Alerting())).result(SECONDS)
    post.tell()
    on = Alerting(webhook=receiver.url)
    post.desk.writer.run(post.tenant_id, lambda writing: writing.tenants.set_alerting(on)).result(SECONDS)
    post.deliver()
    assert receiver.events() == []
    assert [alert.state for alert in post.kept()] == ["none", "none"]


def test_urls_stay_out_of_the_log(post: Post, receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: what may be a secret in a URL is in no line and no row. Method: a failure, with every logger heard as it is
    when served."""
    post.tell()
    receiver.answers.put(500)
    with caplog.at_level(logging.INFO, "ledger"):
        post.deliver()
    said = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("ledger"))
    assert receiver.place in said
    assert "secret" not in said
    assert "secret" not in str(post.one())


# --- the outbox ------------------------------------------------------------------------------------------------------


def counts(desk: Desk) -> tuple[int, int]:
    """How many entries and alerts there are."""
    with desk.store.reading(desk.actor.tenant_id) as reading:
        return (
            len(reading.journals.page(desk.dataset, after=0, limit=100)),
            len(reading.outbox.page(after=None, limit=100)),
        )


def test_a_decision_and_its_alert_are_one_transaction(post: Post) -> None:
    """Goal: neither is there without the other. Method: a commit that fails, a write that fails after the alert and one
    before it; then the same run as it should be."""
    desk = post.desk
    desk.ask(499).result(SECONDS)
    before = counts(desk)
    assert before == (2, 0)

    def fail(*_: object) -> None:
        raise ArithmeticError("for the test")

    event.listen(desk.store.engine, "commit", fail)
    with pytest.raises(LedgerError):
        desk.ask(1).result(SECONDS)
    event.remove(desk.store.engine, "commit", fail)
    assert counts(desk) == before
    for repository, method in ((OutboxWriter, "add"), (JournalWriter, "append")):
        with pytest.MonkeyPatch.context() as patch:
            whole = getattr(repository, method)

            def does_and_fails(self: Repository, *given: Any, _whole: Any = whole, **named: Any) -> None:
                _whole(self, *given, **named)
                raise ArithmeticError("for the test")

            patch.setattr(repository, method, does_and_fails)
            with pytest.raises(LedgerError):
                desk.ask(1).result(SECONDS)
        assert counts(desk) == before
    desk.ask(1).result(SECONDS)
    assert counts(desk) == (3, 1)


def test_nothing_to_tell_asks_the_database_nothing(post: Post) -> None:
    """Goal: an approval costs no statement more. Method: count those of an approval that passes nothing, with alerts of
    every kind on and with none; and of one that does."""
    desk = post.desk
    statements: list[str] = []
    event.listen(
        desk.store.engine, "before_cursor_execute", lambda _c, _cu, statement, *_: statements.append(statement)
    )

    def spoken(cost: int) -> list[str]:
        statements.clear()
        desk.ask(cost).result(SECONDS)
        return list(statements)

    spoken(1)
    quiet = spoken(1)
    loud = spoken(600)
    off = Alerting(thresholds=(), refusals_in_a_row=None, forecast_days=None)
    desk.writer.run(post.tenant_id, lambda writing: writing.tenants.set_alerting(off)).result(SECONDS)
    assert quiet == spoken(1)
    assert not any("INTO alerts" in statement for statement in quiet)
    assert len(loud) == len(quiet) + 2
    assert [alert.kind for alert in post.kept()] == ["threshold"]


def test_refusals_are_counted_across_groups(post: Post) -> None:
    """Goal: what came before a group counts, by the journal. Method: refusals one by one, an approval between."""
    for cost in (2000, 2000, 1, 2000, 2000, 2000, 2000, 2000):
        post.desk.ask(cost).result(SECONDS)
    assert [(alert.kind, json.loads(alert.body)["seq"]) for alert in post.kept()] == [("refusals", 1 + 6)]


# --- rounds ----------------------------------------------------------------------------------------------------------


def go_round(courier: Courier) -> None:
    """A round, to the end of what it has delivered."""
    for delivery in courier.round():
        delivery.result(SECONDS)


def kinds(post: Post) -> list[str]:
    """What was told of, oldest first."""
    return [alert.kind for alert in reversed(post.kept())]


def test_late_runs_are_found_once(post: Post, receiver: Receiver) -> None:
    """Goal: a hold that was not started, and a run that was not settled, in time. Method: one of each, the clock moved
    past one due time and then the other; rounds of this process and of another."""
    desk, now = post.desk, post.courier()
    started, held = desk.command(), desk.command()
    for command in (started, held):
        desk.writer.submit(post.tenant_id, command).result(SECONDS)
    charges = {desk.dataset: tuple(key for key in desk.replay().accounts)}
    desk.writer.submit(post.tenant_id, Start(desk.actor, started.run_id, charges)).result(SECONDS)
    go_round(now)
    assert kinds(post) == []
    post.pass_time(2 * 10**12)
    for each in (now, now, post.courier()):
        go_round(each)
    assert kinds(post) == ["overdue"]
    assert json.loads(post.one().body)["run"] == str(held.run_id)
    post.pass_time(31 * 86_400_000_000)
    go_round(now)
    assert kinds(post) == ["overdue", "overdue"]
    settle = Settle(desk.actor, started.run_id, charges, {}, None, "planned", started.cost)
    desk.writer.submit(post.tenant_id, settle).result(SECONDS)
    post.pass_time(31 * 86_400_000_000)
    go_round(now)
    assert {said["alert"]["state"] for said in receiver.events()} == {"held", "started"}
    assert kinds(post) == ["overdue", "overdue"]


TAMPERINGS = {
    "cut off": (
        "DELETE FROM places WHERE seq = (SELECT max(seq) FROM entries)",
        "DELETE FROM entries WHERE seq = (SELECT max(seq) FROM entries)",
    ),
    "written over": ("UPDATE entries SET body = body || ' ' WHERE seq = 3",),
    "another hash": ("UPDATE datasets SET head = (SELECT hash FROM entries WHERE seq = 2)",),
    "put back": ("UPDATE datasets SET seq = 2",),
}


@pytest.mark.parametrize("how", TAMPERINGS)
def test_a_journal_that_does_not_hold_is_found(database: Settings, how: str) -> None:
    """Goal: soon after somebody with the database changed a journal's end, this is told of, by number. Method: each
    change behind the ledger's back; a round before tells of nothing, two rounds after tell once."""
    post = Post(database, None)
    post.desk.ask().result(SECONDS)
    post.desk.ask().result(SECONDS)
    courier = post.courier()
    go_round(courier)
    assert kinds(post) == []
    engine = past_the_ledger(database)
    with engine.execution_options(writing=True).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("ALTER TABLE entries DISABLE TRIGGER USER")
        else:
            for trigger in ("entries_no_update", "entries_no_delete"):
                connection.exec_driver_sql(f"DROP TRIGGER {trigger}")
        for statement in TAMPERINGS[how]:
            connection.execute(text(statement))
    engine.dispose()
    go_round(courier)
    go_round(courier)
    assert kinds(post) == ["mismatch"]
    assert json.loads(post.one().body)["seq"] == 3
    post.desk.close()


def test_the_hook_for_what_others_find(post: Post) -> None:
    """Goal: whoever finds a head that does not hold can say so. Method: the same finding twice, and of the tenant's own
    journal."""
    found = mismatch(Parent(post.desk.dataset, "data"), seq=7, reason="the head of yesterday is not in it")
    for new in (1, 0):
        assert post.desk.writer.tell(post.tenant_id, [found]).result(SECONDS) == new
    assert post.desk.writer.tell(post.tenant_id, [mismatch(None, seq=1, reason="r")]).result(SECONDS) == 1
    said = [json.loads(alert.body) for alert in post.kept(dataset_id=post.desk.dataset)]
    assert [(each["seq"], each["dataset"]["name"], each["reason"]) for each in said] == [
        (7, "data", "the head of yesterday is not in it")
    ]


def test_a_budget_that_will_not_last(post: Post) -> None:
    """Goal: the round forecasts. Method: three runs that take 3 of 1000, and then three that take 600 at once."""
    courier = post.courier()
    for _ in range(3):
        post.desk.ask(1).result(SECONDS)
    go_round(courier)
    assert kinds(post) == []
    for _ in range(3):
        post.desk.ask(200).result(SECONDS)
    go_round(courier)
    assert "forecast" not in kinds(post)  # an hour has not passed
    post.pass_time(3_600_000_000)
    go_round(courier)
    said = json.loads(next(alert.body for alert in post.kept() if alert.kind == "forecast"))
    assert (said["runs"], said["days_left"], said["quantity"]) == (6, 0, "mu")


def test_heads_are_sent_for_keeping(post: Post, receiver: Receiver) -> None:
    """Goal: a head that is kept elsewhere, once an hour where the journal moved, for those who ask. Method: rounds with
    and without time and entries between them; what is sent is what the rows say, signed as a head."""
    courier = post.courier()

    def sent() -> list[tuple[str | None, int, str]]:
        go_round(courier)
        said = [each["alert"] for each in receiver.events()]
        assert {each["kind"] for each in said} <= {"head"}
        for each in said:
            signed = jws.read(each["signature"], keys=post.signer.public_keys(), typ=jws.HEAD)
            assert {part: signed[part] for part in ("seq", "hash", "root")} == {
                part: each[part] for part in ("seq", "hash", "root")
            }
            assert signed.get("dataset") == each.get("dataset")
        return [(each.get("dataset", {}).get("name"), each["seq"], each["hash"]) for each in said]

    assert sent() == []
    post.set_alerting(Alerting(thresholds=(), forecast_days=None, webhook=receiver.url, heads=True))
    assert sent() == []
    post.pass_time(3_600_000_000)
    first = sent()
    assert {name for name, _, _ in first} == {None, "data"}
    assert ("data", 1, post.desk.replay().head.hex()) in first
    for _ in range(3):
        post.desk.ask().result(SECONDS)
    assert sent() == []
    post.pass_time(3_600_000_000)
    assert sent() == [("data", 4, post.desk.replay().head.hex())]
    post.pass_time(3_600_000_000)
    assert sent() == []


def test_a_journal_that_no_head_is_said_of(post: Post, receiver: Receiver) -> None:
    """Goal: whoever finds, on the way to a head, that a journal does not hold, has that told. Method: a signer of heads
    that refuses; once, however often."""

    def refuses(_reading: Reading, _dataset: Any) -> dict[str, Any]:
        raise JournalBroken("is not the one that stood there before", seq=1)

    on = Alerting(forecast_days=None, webhook=receiver.url, heads=True)
    post.desk.writer.run(post.tenant_id, lambda writing: writing.tenants.set_alerting(on)).result(SECONDS)
    courier = Courier(
        post.desk.store,
        post.desk.writer,
        post.signer,
        hosts=post.hosts,
        every_seconds=3600,
        clock=lambda reading: Reading.now_us(reading) + post.later_us,
        signed_head=refuses,
    )
    for _ in range(2):
        go_round(courier)
        post.pass_time(3_600_000_000)
    assert kinds(post) == ["mismatch", "mismatch"]  # of the dataset's journal and of the tenant's own


def test_old_alerts_make_room(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: an outbox does not grow for ever. Method: a bound of five, and eight alerts."""
    post.tell(8)
    newest = [alert.id for alert in post.kept()[:5]]
    monkeypatch.setattr(watch, "ALERTS_MAX", 5)
    courier = post.courier()
    courier.added(post.tenant_id)
    go_round(courier)
    assert [alert.id for alert in post.kept()] == newest

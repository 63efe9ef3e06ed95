"""Deliveries of different tenants do not wait for one another: places, turns, and receivers that are slow for real."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait

import pytest

from ledger.alerting import courier as courier_module
from ledger.alerting.courier import AT_ONCE, BATCH, Courier
from ledger.alerting.turns import WAITING_MAX, Turns
from ledger.core.alerting import Alerting
from ledger.core.alerts import trial
from ledger.service.tenants import add_tenant
from ledger.settings import Settings
from tests.alerting.test_courier import ACTOR, SECONDS, Post, Receiver

TENANTS = [uuid.UUID(int=number) for number in range(1, 200)]


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """What serves turns: it notes each, and holds those that are to hang until it is told to go on."""

    def __init__(self, *hanging: uuid.UUID, more: int = 0) -> None:
        self.hanging, self.more = set(hanging), Counter(dict.fromkeys(TENANTS, more))
        self.begun: list[uuid.UUID] = []
        self.arrived, self.go_on = threading.Semaphore(0), threading.Event()
        self.lock = threading.Lock()
        self.under_way: set[uuid.UUID] = set()
        self.most = 0
        self.met_itself = False
        self.before_end: Callable[[uuid.UUID], None] = lambda _: None

    def __call__(self, tenant_id: uuid.UUID) -> bool:
        with self.lock:
            self.met_itself |= tenant_id in self.under_way
            self.begun.append(tenant_id)
            self.under_way.add(tenant_id)
            self.most = max(self.most, len(self.under_way))
        if tenant_id in self.hanging:
            self.arrived.release()
            self.go_on.wait(SECONDS)
        self.before_end(tenant_id)
        with self.lock:
            self.under_way.discard(tenant_id)
            self.more[tenant_id] -= 1
            return self.more[tenant_id] >= 0


def turns(desk: Desk, clock: Callable[[], float] = lambda: 0.0, *, at_once: int = 4) -> Turns:
    """Turns at this desk, half of the places for the slow."""
    return Turns(desk, at_once=at_once, slow_at_once=at_once // 2, slow_seconds=1, clock=clock)


def ended(deliveries: list[Future[None]]) -> None:
    """Waits for all of these."""
    assert not wait(deliveries, SECONDS).not_done


def test_one_that_hangs_keeps_no_other_waiting() -> None:
    """Goal: as long as there is a place, everybody else is served. Method: all places but one hang; 100 others."""
    desk = Desk(*TENANTS[:3])
    one = turns(desk)
    hung = [one.want(tenant) for tenant in TENANTS[:3]]
    assert all(desk.arrived.acquire(timeout=SECONDS) for _ in hung)
    ended([one.want(tenant) for tenant in TENANTS[3:103]])
    assert not any(delivery.done() for delivery in hung)
    desk.go_on.set()
    ended(hung)
    assert Counter(desk.begun) == Counter(TENANTS[:103])
    assert (desk.most <= 4, desk.met_itself) == (True, False)


def test_who_is_slow_has_some_of_the_places_alone() -> None:
    """Goal: however many receivers are slow, the others have places. Method: ten were slow once, by the clock; all of
    them hang, two at once; others are served; once they are quick, they may have all places again."""
    clock, slow = Clock(), TENANTS[:10]
    desk = Desk()
    one = turns(desk, clock)

    def pass_time(tenant: uuid.UUID) -> None:
        clock.now += 2 if tenant in slow else 0

    desk.before_end = pass_time
    for tenant in slow:
        ended([one.want(tenant)])
    desk.hanging |= set(slow)
    hung = [one.want(tenant) for tenant in slow]
    assert all(desk.arrived.acquire(timeout=SECONDS) for _ in range(2))
    ended([one.want(tenant) for tenant in TENANTS[10:60]])
    assert not desk.arrived.acquire(blocking=False)
    assert desk.under_way <= set(slow)
    assert len(desk.under_way) == 2
    desk.go_on.set()
    desk.before_end = lambda _: None
    ended(hung)
    desk.go_on.clear()
    hung = [one.want(tenant) for tenant in slow[:4]]
    assert all(desk.arrived.acquire(timeout=SECONDS) for _ in range(8 + 4))
    desk.go_on.set()
    ended(hung)


def test_turns_are_taken_in_order() -> None:
    """Goal: who has much gets one turn, and then the others theirs. Method: one place; two tenants want five turns."""
    desk = Desk(TENANTS[0], more=0)
    desk.more.update({TENANTS[1]: 4, TENANTS[2]: 4})
    one = turns(desk, at_once=1)
    first = one.want(TENANTS[0])
    assert desk.arrived.acquire(timeout=SECONDS)
    rest = [one.want(tenant) for tenant in TENANTS[1:4]]
    assert one.want(TENANTS[1]) is rest[0]
    desk.go_on.set()
    ended([first, *rest])
    assert desk.begun == [TENANTS[0], *TENANTS[1:4], *[TENANTS[1], TENANTS[2]] * 4]


def test_what_comes_during_a_turn_has_another() -> None:
    """Goal: an alert that is added while its tenant is served is not forgotten. Method: wanted again meanwhile."""
    desk = Desk(TENANTS[0])
    one = turns(desk)
    first = one.want(TENANTS[0])
    assert desk.arrived.acquire(timeout=SECONDS)
    assert one.want(TENANTS[0]) is first
    desk.go_on.set()
    ended([first])
    assert desk.begun == [TENANTS[0]] * 2


def test_an_error_ends_the_turns_of_its_tenant_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Goal: it is logged, and all others go on."""
    desk = Desk()

    def fail(tenant: uuid.UUID) -> None:
        if tenant == TENANTS[0]:
            raise OSError("broken")

    desk.before_end = fail
    one = turns(desk, at_once=1)
    ended([one.want(tenant) for tenant in TENANTS[:3]])
    assert desk.begun == TENANTS[:3]
    assert str(TENANTS[0]) in caplog.text


def test_who_waits_is_bounded_and_nobody_waits_after_the_end() -> None:
    """Goal: memory is bounded, and a process ends. Method: one place that hangs, as many as may wait and one more."""
    desk = Desk(TENANTS[0])
    one = turns(desk, at_once=1)
    first = one.want(TENANTS[0])
    assert desk.arrived.acquire(timeout=SECONDS)
    waiting = [one.want(uuid.UUID(int=10**6 + number)) for number in range(WAITING_MAX + 1)]
    assert [delivery.cancelled() for delivery in waiting].count(True) == 1
    closing = threading.Thread(target=one.close, kwargs={"seconds_max": SECONDS})
    desk.before_end = lambda _: None
    closing.start()
    with pytest.raises(CancelledError):
        waiting[0].result(SECONDS)
    desk.go_on.set()
    closing.join(SECONDS)
    ended([first])
    assert desk.begun == [TENANTS[0]]
    assert one.want(TENANTS[1]).cancelled()


# --- for real --------------------------------------------------------------------------------------------------------


def test_a_receiver_that_hangs_delays_no_other_tenant(database: Settings) -> None:
    """Goal: what is due of one tenant arrives while another's receiver hangs, and what has come of it is written down
    at once. Method: two tenants, two receivers; the one hangs until the other's alerts are on record as delivered."""
    slow, quick = Receiver(), Receiver()
    post = Post(database, slow.url, slow.place, quick.place)
    desk, other = post.desk, uuid.uuid4()
    with desk.store.writing(other) as writing:
        add_tenant(writing, "other", by=ACTOR, now_us=writing.now_us())
        writing.tenants.set_alerting(Alerting(webhook=quick.url))
    for tenant_id in (post.tenant_id, other):
        alerts = [trial(uuid.uuid4(), by=ACTOR) for _ in range(2 * BATCH)]
        assert desk.writer.tell(tenant_id, alerts).result(SECONDS) == 2 * BATCH

    def came_of(tenant_id: uuid.UUID) -> set[tuple[str, int]]:
        with desk.store.reading(tenant_id) as reading:
            return {(alert.state, alert.attempts) for alert in reading.outbox.page(after=None, limit=100)}

    slow.answers.put("hang")
    courier = post.courier()
    hung, delivered = courier.deliver([post.tenant_id, other])
    slow.got.get(timeout=SECONDS)
    delivered.result(SECONDS)
    assert came_of(other) == {("delivered", 1)}
    assert len(quick.events()) == 2 * BATCH
    assert not hung.done()
    courier.close()
    assert came_of(post.tenant_id) == {("pending", 0)}
    for receiver in (slow, quick):
        receiver.close()
    desk.close()


def test_a_turn_has_an_end(database: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a receiver that is slow and takes everything has its place for a turn's time and no longer; what was not
    tried is tried in the next turn, and counts as not tried. Method: turns of no time; how often the client is made."""
    monkeypatch.setattr(courier_module, "TURN_SECONDS_MAX", 0)
    receiver = Receiver()
    post = Post(database, receiver.url, receiver.place)
    post.tell(5)
    turns_taken: list[int] = []
    send = Courier._send

    async def counted(self: Courier, bag: courier_module._Bag) -> None:
        await send(self, bag)
        turns_taken.append(len(bag.failures))

    monkeypatch.setattr(Courier, "_send", counted)
    post.deliver()
    assert turns_taken == [1] * 5
    assert {(alert.state, alert.attempts) for alert in post.kept()} == {("delivered", 1)}
    assert len(receiver.events()) == 5
    receiver.close()
    post.desk.close()


def test_places_are_bounded() -> None:
    """Goal: so many threads send at once and no more. Method: ten times as many tenants, all of whom hang."""
    desk = Desk(*TENANTS[: 10 * AT_ONCE])
    one = turns(desk, at_once=AT_ONCE)
    hung = [one.want(tenant) for tenant in TENANTS[: 10 * AT_ONCE]]
    assert all(desk.arrived.acquire(timeout=SECONDS) for _ in range(AT_ONCE))
    assert [thread.name for thread in threading.enumerate()].count("ledger-delivery") == AT_ONCE
    desk.go_on.set()
    ended(hung)
    assert desk.most == AT_ONCE

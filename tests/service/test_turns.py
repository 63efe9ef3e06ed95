"""Turns by tenant: whose job is next, what waits, and what is dropped. All counted, on threads that are held."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from ledger.accounting import deadline
from ledger.errors import Overloaded
from ledger.service import presence, turns
from ledger.service.flights import Flights
from ledger.service.presence import CallerLeftError
from ledger.service.turns import Job, Turns, Urgency
from tests.kit.accountant import WAIT_SECONDS_MAX
from tests.kit.databases import until

ACME, BETA, GAMMA, DELTA = UUID(int=0xA), UUID(int=0xB), UUID(int=0xC), UUID(int=0xD)
DECISION, ADVICE = Urgency.DECISION, Urgency.ADVICE


class Scene:
    """Threads, and jobs that write down that they have begun."""

    def __init__(self, threads: int, slow: int = 0) -> None:
        self.turns = Turns(threads=threads, slow=slow, name="turns")
        self.begun: list[str] = []
        self.changed = threading.Condition()

    def put(self, tenant: UUID, name: str, urgency: Urgency = DECISION, *, until: threading.Event | None = None) -> Any:
        """A job, which is held until an event."""

        def work() -> str:
            with self.changed:
                self.begun.append(name)
                self.changed.notify_all()
            while until is not None and not until.wait(0.001):
                deadline.check()
            return name

        return self.turns.submit(tenant, work, urgency=urgency, limit_seconds=WAIT_SECONDS_MAX)

    def wait_for(self, count: int) -> list[str]:
        """The names of so many jobs that have begun."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.begun) >= count, WAIT_SECONDS_MAX)
            return list(self.begun)


@pytest.fixture
def scene() -> Iterator[Callable[..., Scene]]:
    """A maker of scenes, whose threads end."""
    made: list[Scene] = []

    def make(threads: int, **more: int) -> Scene:
        made.append(Scene(threads, **more))
        return made[-1]

    yield make
    for one in made:
        one.turns.close()


def all_of(jobs: list[Job[str]]) -> None:
    """Waits for all of them."""
    for job in jobs:
        job.answer.result(WAIT_SECONDS_MAX)


def test_tenants_take_turns_and_decisions_go_first(scene: Callable[[int], Scene]) -> None:
    """Goal: however much one tenant asks for, another one's next job is at most one turn away, and no advice goes
    before a decision. Method: one thread, held; then the order in which what waits begins."""
    one, held = scene(1), threading.Event()
    jobs = [one.put(GAMMA, "held", until=held)]
    one.wait_for(1)
    jobs += [one.put(ACME, f"acme asks {number}", ADVICE) for number in range(3)]
    jobs += [one.put(ACME, f"acme {number}") for number in range(4)]
    jobs += [one.put(BETA, f"beta {number}") for number in range(2)]
    jobs += [one.put(BETA, "beta asks", ADVICE)]
    waiting = {(ACME, DECISION): 4, (ACME, ADVICE): 3, (BETA, DECISION): 2, (BETA, ADVICE): 1, (GAMMA, DECISION): 1}
    assert one.turns._waiting() == waiting
    held.set()
    all_of(jobs)
    assert one.begun[1:] == [
        *("acme 0", "beta 0", "acme 1", "beta 1", "acme 2", "acme 3"),
        *("acme asks 0", "beta asks", "acme asks 1", "acme asks 2"),
    ]
    until(lambda: one.turns.waiting == 0)


def test_a_tenant_has_one_thread_and_advice_never_all(scene: Callable[[int], Scene]) -> None:
    """Goal: a decision waits neither for its own tenant's advice nor for four tenants' evaluations.

    Method: hold whatever begins, of two threads; ask for advice of two tenants, and then for decisions.
    """
    two, held = scene(2), threading.Event()
    jobs = [two.put(tenant, "advice", ADVICE, until=held) for tenant in (ACME, ACME, BETA)]
    two.wait_for(1)
    jobs.append(two.put(ACME, "a decision", until=held))
    assert two.wait_for(2) == ["advice", "a decision"]
    jobs.append(two.put(ACME, "another", until=held))
    held.set()
    all_of(jobs)
    assert sorted(two.begun) == ["a decision", "advice", "advice", "advice", "another"]


def test_decisions_of_two_tenants_run_at_once(scene: Callable[[int], Scene]) -> None:
    """Goal: a tenant's second decision leaves a thread to another tenant. Method: hold all; who begins."""
    two, held = scene(2), threading.Event()
    jobs = [two.put(ACME, "first", until=held), two.put(ACME, "second", until=held)]
    two.wait_for(1)
    jobs.append(two.put(BETA, "beta", until=held))
    assert two.wait_for(2) == ["first", "beta"]
    held.set()
    all_of(jobs)


def test_who_takes_long_makes_room(scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: two tenants with long jobs do not keep out a third, and what runs is bounded all the same.

    Method: two threads and a slow place, and jobs that take long from the beginning; who begins while all are held.
    """
    monkeypatch.setattr(turns, "SLOW_SECONDS", 0.0)
    two, held = scene(2, slow=1), threading.Event()
    jobs = [two.put(tenant, tenant.hex[-1], until=held) for tenant in (ACME, BETA)]
    two.wait_for(2)
    jobs.append(two.put(GAMMA, "c", until=held))
    assert sorted(two.wait_for(3)) == ["a", "b", "c"]
    jobs.append(two.put(DELTA, "d", until=held))
    with two.turns._changed:
        assert two.turns._next() is None
    held.set()
    all_of(jobs)
    assert two.begun[3:] == ["d"]


def test_decisions_have_slow_places_first(scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: long advice makes room for advice, but a long decision takes its slow place, so that advice still leaves a
    thread to decisions. Method: two threads and a slow place; long advice, more of it, decisions; who begins."""
    monkeypatch.setattr(turns, "SLOW_SECONDS", 0.0)
    two, held = scene(2, slow=1), threading.Event()
    jobs = [two.put(tenant, f"{tenant.hex[-1]} asks", ADVICE, until=held) for tenant in (ACME, BETA, GAMMA)]
    assert two.wait_for(2) == ["a asks", "b asks"]
    jobs.append(two.put(DELTA, "d", until=held))
    assert two.wait_for(3)[2:] == ["d"]
    with two.turns._changed:
        assert [job.urgency for job in two.turns._in_places()] == [ADVICE, ADVICE]
        assert two.turns._next() is None
    held.set()
    all_of(jobs)
    assert two.begun[3:] == ["c asks"]


def test_a_job_begins_when_another_becomes_slow(scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: nobody has to come or go for a waiting job to begin. Method: one thread and a slow place, whose job takes
    long after a moment; one that was put before that."""
    monkeypatch.setattr(turns, "SLOW_SECONDS", 0.2)
    one, held = scene(1, slow=1), threading.Event()
    jobs = [one.put(ACME, "first", until=held), one.put(BETA, "second", until=held)]
    assert one.wait_for(2) == ["first", "second"]
    held.set()
    all_of(jobs)


def test_what_waits_is_bounded_for_each_tenant_and_urgency(
    scene: Callable[[int], Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: who fills the queue with advice is refused more of it, and nobody else is, nor its own decisions."""
    monkeypatch.setattr(turns, "WAITING_OF_TENANT_MAX", 2)
    one, held = scene(1), threading.Event()
    jobs = [one.put(ACME, "advice", ADVICE, until=held) for _ in range(2)]
    with pytest.raises(Overloaded):
        one.put(ACME, "advice", ADVICE)
    jobs += [one.put(BETA, "beta", ADVICE), one.put(ACME, "decision")]
    held.set()
    all_of(jobs)


def test_what_nobody_waits_for_is_dropped(scene: Callable[[int], Scene]) -> None:
    """Goal: dropped, a job that waits never begins, and one that runs ends at its next look at the deadline."""
    one, held = scene(1), threading.Event()
    running, waiting, last = one.put(ACME, "running", until=held), one.put(BETA, "waiting"), one.put(GAMMA, "last")
    one.wait_for(1)
    one.turns.drop(waiting)
    one.turns.drop(running)
    last.answer.result(WAIT_SECONDS_MAX)
    assert one.begun == ["running", "last"]
    assert not held.is_set()
    assert isinstance(running.answer.exception(WAIT_SECONDS_MAX), Overloaded)
    assert waiting.answer.cancelled()


# --- who waits -------------------------------------------------------------------------------------------------------


def test_a_search_ends_with_the_last_who_waits(scene: Callable[[int], Scene]) -> None:
    """Goal: a computation goes on while anybody waits for it, and no longer.

    Method: two callers for one search, of which one after the other leaves; then who asks anew begins anew.
    """
    one, held = scene(1), threading.Event()
    flights = Flights[str](10, one.turns, seconds_max=WAIT_SECONDS_MAX)

    async def find(begun: Any) -> str:
        def work() -> str:
            return str(one_held())

        return str(await begun(ACME, work))

    def one_held() -> str:
        with one.changed:
            one.begun.append("search")
            one.changed.notify_all()
        while not held.wait(0.001):
            deadline.check()
        return "found"

    async def asked(left: asyncio.Event) -> str:
        with presence.watched(partial(_until, left)):
            return await flights.get((ACME, b"key"), find, urgency=ADVICE)

    async def leave() -> None:
        gone = [asyncio.Event(), asyncio.Event()]
        both = [asyncio.ensure_future(asked(left)) for left in gone]
        await asyncio.to_thread(one.wait_for, 1)
        gone[0].set()
        with pytest.raises(CallerLeftError):
            await both[0]
        assert one.turns.waiting == 1
        gone[1].set()
        with pytest.raises(CallerLeftError):
            await both[1]
        await asyncio.to_thread(one.put(BETA, "after").answer.result, WAIT_SECONDS_MAX)
        held.set()
        assert await asked(asyncio.Event()) == "found"

    asyncio.run(leave())
    assert one.begun == ["search", "after", "search"]


def test_a_late_decision_is_kept_and_late_advice_is_not(scene: Callable[[int], Scene]) -> None:
    """Goal: who asks for a run is told to come again, and finds the result; an evaluation that is too late ends."""
    two, held = scene(2), threading.Event()
    flights = Flights[str](10, two.turns, seconds_max=1.0)

    def find(name: str) -> Any:
        async def search(begun: Any) -> str:
            def work() -> str:
                with two.changed:
                    two.begun.append(name)
                    two.changed.notify_all()
                while not held.wait(0.001):
                    deadline.check()
                return name

            return str(await begun(ACME, work))

        return search

    async def late() -> list[Any]:
        asked = [flights.get((ACME, kind.name.encode()), find(kind.name), urgency=kind) for kind in Urgency]
        told = await asyncio.gather(*asked, return_exceptions=True)
        held.set()
        kept = await flights.get((ACME, b"DECISION"), find("anew"))
        again = await flights.get((ACME, b"ADVICE"), find("anew"), urgency=ADVICE)
        return [*("kept" in str(error) for error in told), kept, again]

    assert asyncio.run(late()) == [True, False, "DECISION", "anew"]


async def _until(event: asyncio.Event) -> None:
    await event.wait()

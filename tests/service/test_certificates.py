"""The cache of certified costs: where a cost comes from, how often it is computed, and what happens when that fails.

Costs are worked out here by a stand-in for the accountant, so that a test can count its calls and hold it half way;
everything else, the database above all, is what serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
from collections.abc import Callable, Coroutine, Iterator
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, select, text

from ledger.accounting import amounts, deadline, mechanisms, numeric
from ledger.accounting.cost import Cost
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.errors import InvalidMechanism, Overloaded, TooLarge
from ledger.service import certificates as certificates_module
from ledger.service import turns
from ledger.service.certificates import (
    Certificates,
    Compute,
    digest_of,
    read,
    share_of,
    written,
)
from ledger.service.flights import COMPUTATION_SECONDS_MAX
from ledger.settings import Settings
from ledger.store import Store, engine_for, engines, tables
from tests.kit.accountant import ANY_TERMS, DPSGD, GAUSSIAN, WAIT_SECONDS_MAX, Accountant, dpsgd, held
from tests.kit.databases import until
from tests.kit.driver import past_the_ledger

ACME, BETA = UUID(int=0xA), UUID(int=0xB)
BEGIN_SECONDS_MAX = 1.0


class Caches:
    """Makes caches on one store, with tenants, and ends their threads."""

    def __init__(self, store: Store) -> None:
        self.store = store
        for tenant_id in (ACME, BETA):
            with store.writing(tenant_id) as writing:
                writing.tenants.add(str(tenant_id), now_us=1)
        self._opened: list[Certificates] = []

    def open(self, accountant: Compute, *, seconds_max: float = WAIT_SECONDS_MAX, **rest: Any) -> Certificates:
        made = Certificates(self.store, seconds_max=seconds_max, compute=accountant, **rest)
        self._opened.append(made)
        return made

    def close(self) -> None:
        for made in self._opened:
            made.close()

    def rows(self, tenant_id: UUID = ACME) -> list[tuple[bytes, str]]:
        """The rows of a tenant, oldest first."""
        wanted = select(tables.certificates).where(tables.certificates.c.tenant_id == tenant_id)
        with self.store.reading(tenant_id) as reading:
            found = reading.connection.execute(wanted.order_by(tables.certificates.c.created_us))
            return [(row.digest, row.body) for row in found]


@pytest.fixture
def caches(store: Store) -> Iterator[Caches]:
    """A maker of caches on a fresh database of each kind."""
    made = Caches(store)
    yield made
    made.close()


def cost(cache: Certificates, mechanism: AnyMechanism, *, tenant: UUID = ACME, delta: str = "1e-8", **rest: Any) -> Any:
    """The coroutine that asks a cache."""
    facts: dict[str, Any] = {"bound": "certified", "adjacency": "replace_one", **rest}
    return cache.cost(tenant, mechanism, Terms(delta=Decimal(delta), **facts))


def together(*asked: Coroutine[Any, Any, Any]) -> list[Any]:
    """What each was answered, or the error it met."""

    async def gather() -> list[Any]:
        return list(await asyncio.gather(*asked, return_exceptions=True))

    return asyncio.run(gather())


# --- what is kept, and under which key -------------------------------------------------------------------------------


def test_equal_parameters_have_equal_keys_and_no_others() -> None:
    """Goal: 1.10 finds what 1.1 was computed for, and nothing else does.

    Method: other ways to write the same parameters, then a change of each that a cost depends on.
    """
    facts: dict[str, Any] = {"bound": "certified", "adjacency": "replace_one", "delta": Decimal("1e-8")}
    plain = digest_of(dpsgd(), Terms(**facts))
    assert digest_of(dpsgd(noise_multiplier=Decimal("1.10"), sample_rate=Decimal("1e-2")), Terms(**facts)) == plain
    assert digest_of(dpsgd(dataset_size=None), Terms(**facts | {"delta": Fraction(1, 10**8)})) == plain
    changed = [
        digest_of(dpsgd(noise_multiplier=Decimal("1.1000000000000000000001")), Terms(**facts)),
        digest_of(dpsgd(steps=1001), Terms(**facts)),
        digest_of(dpsgd(sampling="fixed_size"), Terms(**facts)),
        digest_of(mechanisms.parse({"type": "composed", "parts": [DPSGD]}), Terms(**facts)),
        digest_of(dpsgd(), Terms(**facts | {"bound": "clt"})),
        digest_of(dpsgd(), Terms(**facts | {"adjacency": "add_or_remove_one"})),
        digest_of(dpsgd(), Terms(**facts | {"delta": Decimal("1.1e-8")})),
        digest_of(dpsgd(), Terms(**facts, segments=2)),
        digest_of(dpsgd(), Terms(**facts, segments=3)),
    ]
    assert digest_of(dpsgd(), Terms(**facts, segments=1)) == plain
    # Resized by epochs, it is like nothing that can be declared: sizes with steps.
    by_epochs = mechanisms.parse(
        {"type": "dpsgd", "noise_multiplier": 1.1, "sampling": "poisson"}
        | {"dataset_size": 100, "batch_size": 1, "epochs": 10}
    )
    changed += [digest_of(mechanism, Terms(**facts)) for mechanism in (by_epochs, by_epochs.resized(1000))]
    changed.append(digest_of(by_epochs.resized(999), Terms(**facts)))
    assert digest_of(dpsgd(steps=7).resized(1000), Terms(**facts)) == plain
    assert len({plain, *changed}) == len(changed) + 1


def test_another_accountant_has_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: after an upgrade that changes costs, no old cost is found. Method: change the accountant's name."""
    facts: dict[str, Any] = {"bound": "certified", "adjacency": "replace_one", "delta": 0}
    before = digest_of(dpsgd(), Terms(**facts))
    monkeypatch.setattr(certificates_module, "ACCOUNTANT", "another")
    assert digest_of(dpsgd(), Terms(**facts)) != before


def test_a_cost_survives_being_written(tries: Callable[[int, int], int]) -> None:
    """Goal: a cost that was read is the cost that was written, to the last bit. Method: random costs, extremes too."""
    rng = random.Random(1)
    for trial in range(tries(500, 20_000)):
        mu = [0.0, 5e-324, 1e308, 0.1][trial] if trial < 4 else rng.expovariate(1) * 10 ** rng.randint(-12, 3)
        mu_sq = Fraction(rng.getrandbits(rng.randint(1, 900)), 1 + rng.getrandbits(rng.randint(1, 900)))
        nats = Fraction(rng.getrandbits(200), 10 ** rng.randint(60, 300))
        made = Cost(mu, mu_sq, nats, f"pld-{trial}", ("ä “quoted” \\ text", "")[: trial % 3])
        assert read(written(made)) == made


BROKEN = (
    "",
    "{",
    "[]",
    "null",
    "{}",
    '{"mu":0.3}',
    '{"assumptions":[],"method":"m","mu":0.3,"mu_sq":"1/0","nats":"0/1"}',
    '{"assumptions":[],"method":"m","mu":0.3,"mu_sq":"-1/9","nats":"0/1"}',
    '{"assumptions":[],"method":"m","mu":0.3,"mu_sq":"1/9","nats":"-1/9"}',
    '{"assumptions":[],"method":"m","mu":-0.3,"mu_sq":"1/9","nats":"0/1"}',
    '{"assumptions":[],"method":"m","mu":1e999,"mu_sq":"1/9","nats":"0/1"}',
    '{"assumptions":[],"method":"m","mu":NaN,"mu_sq":"1/9","nats":"0/1"}',
    '{"assumptions":[],"method":"m","mu":0.3,"mu_sq":0.09,"nats":"0/1"}',
    '{"assumptions":[1],"method":"m","mu":0.3,"mu_sq":"1/9","nats":"0/1"}',
    '{"assumptions":"ab","method":"m","mu":0.3,"mu_sq":"1/9","nats":"0/1"}',
    '{"assumptions":[],"method":7,"mu":0.3,"mu_sq":"1/9","nats":"0/1"}',
    '{"assumptions":[],"method":"m","mu":0.3,"mu_sq":"2/18","nats":"0/1"}',
    '{"assumptions":[],"method":"m","more":1,"mu":0.3,"mu_sq":"1/9","nats":"0/1"}',
)


def test_what_is_no_cost_is_not_read_as_one() -> None:
    """Goal: half a row, or somebody else's, never becomes a cost. Method: rows that are wrong in one place each."""
    assert read('{"assumptions":[],"method":"m","mu":0.3,"mu_sq":"1/9","nats":"0/1"}').mu_sq == Fraction(1, 9)
    for body in BROKEN:
        with pytest.raises((ValueError, KeyError, TypeError, ArithmeticError)):
            read(body)


# --- from where it comes ---------------------------------------------------------------------------------------------


def test_memory_then_the_database_then_the_accountant(caches: Caches) -> None:
    """Goal: a cost is computed once, for this process, for others and for the next start; each tenant for itself.

    Method: count the calls as the same cost is asked for again, by another cache on the same database, and by another
    tenant.
    """
    accountant = Accountant()
    first = caches.open(accountant)
    (found,) = together(cost(first, dpsgd()))
    assert (found.method, found.nats) == ("a stand-in", amounts.nats(Fraction(1, 10**8), towards="up"))
    assert together(cost(first, dpsgd(noise_multiplier=Decimal("1.10")))) == [found]
    first.close()
    assert [read(body) for _, body in caches.rows()] == [found]
    second = caches.open(accountant)
    assert together(cost(second, dpsgd())) == [found]
    assert len(accountant.calls) == 1
    assert together(cost(second, dpsgd(), tenant=BETA)) == [found]
    assert len(accountant.calls) == 2
    together(cost(second, dpsgd(), delta="1e-9"), cost(second, dpsgd(), adjacency="add_or_remove_one"))
    assert len(accountant.calls) == 4


def test_a_cheap_cost_is_worked_out_at_once(caches: Caches) -> None:
    """Goal: who needs no certificate pays nothing for those who do. Method: the thread, and the rows afterwards."""
    numeric.special.ndtr(0.0)  # imports SciPy, which the first closed form of a process waits for in a thread
    accountant = Accountant()
    cache = caches.open(accountant)
    together(
        cost(cache, mechanisms.parse(GAUSSIAN)),
        cost(cache, dpsgd(), bound="clt"),
        cost(cache, dpsgd(sampling="shuffle")),
    )
    assert accountant.calls == [threading.main_thread().name] * 3
    cache.close()
    assert caches.rows() == []


def test_segments_are_one_computation(caches: Caches) -> None:
    """Goal: k segments are computed and kept as one cost, apart from the run without them. Method: count the calls."""
    accountant = Accountant()
    cache = caches.open(accountant)
    together(cost(cache, dpsgd(), segments=4), cost(cache, dpsgd(), segments=4), cost(cache, dpsgd(), segments=1))
    together(cost(cache, dpsgd()), cost(cache, dpsgd(), segments=4))
    assert len(accountant.calls) == 2
    assert sorted(accountant.segments) == [1, 4]
    cache.close()
    assert len(caches.rows()) == 2


def test_computing_does_not_hold_the_event_loop(caches: Caches) -> None:
    """Goal: while a certificate is computed, everything else goes on. Method: answer a cheap one meanwhile."""
    accountant = Accountant()
    cache = caches.open(accountant)

    async def meanwhile() -> None:
        accountant.go_on.clear()
        dear = asyncio.ensure_future(cost(cache, dpsgd()))
        await asyncio.to_thread(accountant.begun.acquire)
        ticks = [await asyncio.sleep(0, tick) for tick in range(100)]
        assert not dear.done()
        assert len(ticks) == 100
        accountant.go_on.set()
        assert (await dear).mu == 0.3

    asyncio.run(meanwhile())
    assert accountant.calls[0].startswith("ledger-certificates")


def test_requests_for_the_same_share_one_computation(caches: Caches) -> None:
    """Goal: a hundred jobs that start together cost one computation. Method: hold it until all of them have asked."""
    accountant = Accountant()
    cache = caches.open(accountant)

    async def all_at_once() -> list[Any]:
        accountant.go_on.clear()
        asked = [asyncio.ensure_future(cost(cache, dpsgd())) for _ in range(100)]
        await asyncio.to_thread(accountant.begun.acquire)
        asked += [asyncio.ensure_future(cost(cache, dpsgd())) for _ in range(100)]
        asked[0].cancel()  # whose client went away; the others are answered all the same
        accountant.go_on.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    gone, *answers = asyncio.run(all_at_once())
    assert isinstance(gone, asyncio.CancelledError)
    assert len(answers) == 199
    assert {answer.mu for answer in answers} == {0.3}
    assert len(accountant.calls) == 1


def test_memory_is_bounded(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what was used least recently is forgotten. Method: room for two; a third pushes the older one out."""
    monkeypatch.setattr(certificates_module, "COSTS_MAX", 2)
    accountant = Accountant()
    cache = caches.open(accountant, rows_max=0)  # so that nothing is found in the database

    async def in_turn(*steps: int) -> int:
        for number in steps:
            await cost(cache, dpsgd(steps=number))
        return len(accountant.calls)

    assert asyncio.run(in_turn(1, 2, 1, 3, 1)) == 3
    assert asyncio.run(in_turn(2)) == 4


# --- the database is a help and no more ------------------------------------------------------------------------------


def test_a_row_that_cannot_be_read_is_computed_anew(caches: Caches, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: a damaged cache costs time and nothing else, and heals. Method: rows wrong in one place each."""
    digest = digest_of(dpsgd(), Terms(bound="certified", adjacency="replace_one", delta=Decimal("1e-8")))
    for count, body in enumerate(BROKEN, start=1):
        with caches.store.writing(ACME) as writing:
            writing.certificates.keep(digest, body, now_us=count, rows_max=10)
        accountant = Accountant()
        cache = caches.open(accountant)
        (found,) = together(cost(cache, dpsgd()))
        cache.close()
        assert (found.mu, len(accountant.calls)) == (0.3, 1)
        assert [read(kept) for _, kept in caches.rows()] == [found]
        assert caplog.text.count("could not be read") == count


def test_without_its_table_it_only_computes(
    caches: Caches, database: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: no failure of the cache's reading or writing fails a request. Method: take its table away."""
    owner = past_the_ledger(database)
    with owner.execution_options(writing=True).begin() as connection:
        connection.execute(text("DROP TABLE certificates"))
    owner.dispose()
    accountant = Accountant()
    cache = caches.open(accountant)
    (found,) = together(cost(cache, dpsgd()))
    assert found.mu == 0.3
    cache.close()
    assert "could not be read" in caplog.text
    assert "was not stored" in caplog.text


def test_whoever_holds_the_database_does_not_hold_an_answer(
    database: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: an answer waits for no write of the cache. Method: another transaction has the row, or all of SQLite."""
    monkeypatch.setattr(engines, "SQLITE_BUSY_SECONDS", 0.1)
    monkeypatch.setattr(engines, "TIMEOUTS", "SET LOCAL lock_timeout = '100ms'")
    store = Store(engine_for(database.database_url.get_secret_value()))
    caches = Caches(store)
    cache = caches.open(Accountant())
    digest = digest_of(dpsgd(), Terms(bound="certified", adjacency="replace_one", delta=Decimal("1e-8")))
    with store.writing(ACME) as other:
        other.connection.execute(
            insert(tables.certificates), {"tenant_id": ACME, "digest": digest, "body": "", "created_us": 1}
        )
        (found,) = together(cost(cache, dpsgd()))
        assert found.mu == 0.3
        cache.close()
    store.close()
    assert "was not stored" in caplog.text


def test_rows_are_bounded_by_tenant(caches: Caches) -> None:
    """Goal: a tenant's oldest rows go, and no other tenant's. Method: room for three, seven costs, one of Beta's."""
    cache = caches.open(Accountant(), rows_max=3, at_once=1)
    together(cost(cache, dpsgd(), tenant=BETA))
    for steps in range(1, 8):
        together(cost(cache, dpsgd(steps=steps)))
    cache.close()
    facts: dict[str, Any] = {"bound": "certified", "adjacency": "replace_one", "delta": Decimal("1e-8")}
    kept = {digest for digest, _ in caches.rows()}
    assert len(kept) == 3
    # SQLite's clock has milliseconds, so that of neighbours either may be the older one.
    assert kept <= {digest_of(dpsgd(steps=steps), Terms(**facts)) for steps in range(1, 8)}
    assert len(caches.rows(BETA)) == 1


def test_the_oldest_rows_go_first(caches: Caches) -> None:
    """Goal: "oldest" is by the time of writing. Method: rows with times out of order, and the same one again."""
    with caches.store.writing(ACME) as writing:
        for now_us in (5, 1, 4, 2, 3, 5):
            writing.certificates.keep(bytes([now_us]) * 32, str(now_us), now_us=now_us, rows_max=3)
    assert [body for _, body in caches.rows()] == ["3", "4", "5"]


# --- limits ----------------------------------------------------------------------------------------------------------


async def begun(accountant: Accountant, cache: Certificates) -> asyncio.Future[Cost]:
    """A question whose computation has begun. It is asked again if this machine took longer to begin than it waits."""
    while True:
        asked: asyncio.Future[Cost] = asyncio.ensure_future(cost(cache, dpsgd()))
        if await asyncio.to_thread(accountant.begun.acquire, timeout=BEGIN_SECONDS_MAX):
            return asked
        with contextlib.suppress(TooLarge, Overloaded):
            await asked


def test_a_wait_ends_and_the_computation_goes_on(caches: Caches) -> None:
    """Goal: nobody waits for ever, and what was begun is there for who asks again.

    Method: hold the computation beyond a short wait; then let it go on, and ask again.
    """
    accountant = Accountant()
    cache = caches.open(accountant, seconds_max=0.05)

    async def twice() -> Any:
        with held(accountant):
            first = await begun(accountant, cache)
            with pytest.raises(TooLarge, match=r"mechanism: .* longer than 0\.05 seconds") as late:
                await cost(cache, dpsgd())
            assert late.value.facts == {"field": "mechanism", "seconds_max": 0.05}
            with pytest.raises((TooLarge, Overloaded)):  # the other, where this machine took long to begin
                await first
        while True:
            with_result = await asyncio.gather(cost(cache, dpsgd()), return_exceptions=True)
            if not isinstance(with_result[0], TooLarge):
                return with_result[0]

    assert asyncio.run(twice()).mu == 0.3
    assert len(accountant.calls) == 1


def test_who_does_not_get_a_turn_is_told_to_come_back(caches: Caches) -> None:
    """Goal: a queue is not taken for a mechanism that is too large. Method: one thread, held by another mechanism."""
    accountant = Accountant()
    cache = caches.open(accountant, seconds_max=0.05, at_once=1)

    async def second() -> object:
        first = await begun(accountant, cache)
        return list(await asyncio.gather(first, cost(cache, dpsgd(steps=7)), return_exceptions=True))[1]

    with held(accountant):
        assert isinstance(asyncio.run(second()), Overloaded)


def test_the_queue_is_bounded_for_each_tenant_and_for_all(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: no tenant keeps the others out. Method: Acme fills what it may, and is refused; Beta is served until
    everybody is refused; once all is done there is room again."""
    monkeypatch.setattr(turns, "WAITING_OF_TENANT_MAX", 3)
    monkeypatch.setattr(turns, "WAITING_MAX", 5)
    accountant = Accountant()
    cache = caches.open(accountant, at_once=1)

    def ask(tenant: UUID, number: int) -> Coroutine[Any, Any, Cost]:
        work = partial(accountant, dpsgd(), ANY_TERMS)
        return cache.beside(tenant, work, key={"steps": number})

    async def fill(count: int) -> list[Any]:
        order = [ACME] * 5 + [BETA] * count
        with held(accountant):
            asked = [asyncio.ensure_future(ask(tenant, number)) for number, tenant in enumerate(order)]
            refused = {3, 4, *range(7, len(order))}
            await asyncio.wait([asked[number] for number in refused], timeout=WAIT_SECONDS_MAX)
            assert {number for number, future in enumerate(asked) if future.done()} == refused
        return await asyncio.gather(*asked, return_exceptions=True)

    kinds = [type(answer) for answer in asyncio.run(fill(4))]
    assert kinds == [Cost] * 3 + [Overloaded] * 2 + [Cost] * 2 + [Overloaded] * 2
    together(cache.beside(BETA, int, key={"last": True}))  # the only thread has left all of that behind it
    assert [type(answer) for answer in together(*(ask(ACME, number) for number in (11, 12, 13)))] == [Cost] * 3


def test_an_error_reaches_all_who_wait_and_is_not_kept(caches: Caches) -> None:
    """Goal: an error is everyone's, and the next request tries again. Method: fail while two wait, then do not."""
    accountant = Accountant()
    accountant.error = InvalidMechanism("mechanism.steps: no", field="mechanism.steps")
    cache = caches.open(accountant)

    async def both() -> list[Any]:
        return await asyncio.gather(*(cost(cache, dpsgd()) for _ in range(2)), return_exceptions=True)

    assert [type(error) for error in asyncio.run(both())] == [InvalidMechanism] * 2
    assert len(accountant.calls) == 1
    accountant.error = None
    assert asyncio.run(both())[1].mu == 0.3
    cache.close()
    assert len(caches.rows()) == 1


def test_closing_ends_what_waits(caches: Caches) -> None:
    """Goal: a server that stops finishes what it computes, and lets nobody hang. Method: one computed, one waiting."""
    accountant = Accountant()
    cache = caches.open(accountant, at_once=1)

    def ask(number: int) -> Coroutine[Any, Any, Cost]:
        return cache.beside(ACME, partial(accountant, dpsgd(), ANY_TERMS), key={"number": number})

    async def stop() -> list[Any]:
        with held(accountant):
            first, second = (asyncio.ensure_future(ask(number)) for number in (1, 2))
            await asyncio.to_thread(accountant.begun.acquire)
            closing = asyncio.ensure_future(asyncio.to_thread(cache.close))
            await asyncio.wait({second}, timeout=WAIT_SECONDS_MAX)
        await closing
        return list(await asyncio.gather(first, second, ask(3), return_exceptions=True))

    done, *refused = asyncio.run(stop())
    assert done.mu == 0.3
    assert [type(error) for error in refused] == [Overloaded, Overloaded]


def endless(begun: threading.Event) -> Callable[[AnyMechanism, Terms], Cost]:
    """An accountant that never comes to an end by itself."""

    def compute(_mechanism: AnyMechanism, _terms: Terms) -> Cost:
        while True:
            begun.set()
            deadline.check()

    return compute


def test_closing_ends_what_never_would(caches: Caches) -> None:
    """Goal: shutdown does not wait for what has no end. Method: plant it, close, and look at its answer."""
    begun = threading.Event()
    cache = Certificates(caches.store, seconds_max=WAIT_SECONDS_MAX, compute=endless(begun))

    async def ask_and_close() -> Any:
        asking = asyncio.ensure_future(cost(cache, dpsgd()))
        assert await asyncio.to_thread(begun.wait, WAIT_SECONDS_MAX)
        await asyncio.to_thread(cache.close)
        return (await asyncio.gather(asking, return_exceptions=True))[0]

    told = asyncio.run(ask_and_close())
    assert isinstance(told, Overloaded)
    assert "shutting down" in str(told)


def test_a_deadline_ends_what_never_would(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a computation without an end is given up, and its thread is free for the next one.

    Method: plant one for the only thread, with a clock that a second passes on whenever it is looked at, so that it is
    turns that are counted and not seconds; then ask for what does not come to the accountant.
    """
    clock = itertools.count()
    monkeypatch.setattr(deadline, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(turns, "monotonic", lambda: float(next(clock)))
    cache = caches.open(endless(threading.Event()), at_once=1)
    (told,) = together(cost(cache, dpsgd()))
    assert isinstance(told, TooLarge)
    assert f"longer than {COMPUTATION_SECONDS_MAX} seconds" in str(told)
    assert next(clock) <= COMPUTATION_SECONDS_MAX + 3
    assert together(cache.beside(ACME, lambda: 7, key={"is": "free"})) == [7]
    until(lambda: cache.waiting == 0)


def test_other_work_runs_beside(caches: Caches) -> None:
    """Goal: what needs many certificates has the same threads, once for all who ask, and is remembered by its facts."""
    cache = caches.open(Accountant())
    ran: list[str] = []

    def work() -> str:
        ran.append(threading.current_thread().name)
        return "done"

    async def thrice() -> list[str]:
        same = [cache.beside(ACME, work, key={"fits": "a", "at": Decimal(at)}) for at in ("1.0", "1", "1.00")]
        return await asyncio.gather(*same)

    assert asyncio.run(thrice()) == ["done"] * 3
    assert asyncio.run(cache.beside(BETA, work, key={"fits": "a", "at": 1})) == "done"
    assert len(ran) == 2
    assert all(name.startswith("ledger-certificates") for name in ran)


# --- the share of a run that names none ------------------------------------------------------------------------------


def test_a_share_is_a_hundredth_and_a_hundred_fit(tries: Callable[[int, int], int]) -> None:
    """Goal: a run that names no delta takes a hundredth of the limit's, and a hundred such runs fit.

    Method: round limits, tiny ones, random ones; the charge of each share, in the integers that are compared.
    """

    def limit(delta: Fraction) -> Amount:
        return amounts.limit(mu_sq=Fraction(1), nats=amounts.nats(delta, towards="down"))

    for power in range(1, 8):
        assert share_of(limit(Fraction(1, 10**power))) == Decimal(10) ** -(power + 2)
    assert share_of(limit(Fraction(1, 10**8))) == Decimal("9.99999e-11")  # 1e-10 is charged a 1e-18 too much
    least = Decimal("9.99999e-19")  # which is charged one whole 1e-18
    assert [share_of(Amount(1, atto)) for atto in (0, 1, 99)] == [0, least, least]
    assert amounts.charge(mu_sq=Fraction(0), nats=amounts.nats(Fraction(least), towards="up")).delta_atto == 1
    rng = random.Random(2)
    random_ones = [Amount(1, rng.randint(100, 10 ** rng.randint(2, 17))) for _ in range(tries(1000, 50_000))]
    for known in [*(Amount(1, atto) for atto in range(100, 1000)), *random_ones]:
        share = share_of(known)
        charged = amounts.charge(mu_sq=Fraction(0), nats=amounts.nats(Fraction(share), towards="up"))
        assert 0 < share < Decimal("0.01")
        assert len(share.as_tuple().digits) <= 6
        assert 100 * charged.delta_atto <= known.delta_atto
        # At most a digit of six and a unit of the last integer away from the hundredth.
        assert float(share) >= amounts.delta_of(known) / 100 * (1 - 2e-5) - 1e-18

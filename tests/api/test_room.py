"""How much of a process its callers take at once: requests, bytes of bodies, reports; and what strangers never take."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from ledger.access import keys
from ledger.access.keys import Keyring
from ledger.access.roles import Caller
from ledger.api.app import create_app
from ledger.api.limits import Buckets, Shares, Together
from ledger.api.metrics import Metrics
from ledger.api.middleware import Bodies, Recognise, Recogniser
from ledger.core.people import Actor
from ledger.errors import Overloaded, TooLarge
from ledger.settings import Settings
from ledger.store import Store, engine_for
from tests.conftest import Templates
from tests.kit.driver import Ledger, first_keys
from tests.kit.scene import another_tenant, somebody


@pytest.fixture
def settings(templates: Templates, tmp_path: Path) -> Iterator[Settings]:
    """A database on SQLite alone, for what does not depend on the database."""
    with templates.clone("sqlite", tmp_path) as found:
        yield found


def test_nobody_takes_all(tries: Callable[[int, int], int]) -> None:
    """Goal: no tenant and no key has more than its bound, nor have all together; what fits is never refused, and what
    is given back is there again. Method: takes and gives at random, against plain sums."""
    random_ = random.Random(1)
    shares = Shares("bytes", total=100, per_tenant=60, per_key=25)
    callers = [somebody(tenant=tenant, key=key) for tenant in range(4) for key in range(4)]
    taken: list[tuple[Actor, int]] = []
    reasons = Counter[str]()
    for _ in range(tries(5000, 100_000)):
        if taken and random_.random() < 0.45:
            caller, amount = taken.pop(random_.randrange(len(taken)))
            shares.give(caller, amount)
            continue
        caller, amount = random_.choice(callers), random_.randrange(1, 20)
        of_all = sum(held for _, held in taken) + amount
        of_tenant = sum(held for other, held in taken if other.tenant_id == caller.tenant_id) + amount
        of_key = sum(held for other, held in taken if other.key_id == caller.key_id) + amount
        try:
            shares.take(caller, amount)
        except Overloaded:
            assert of_all > 100 or of_tenant > 60 or of_key > 25
            reasons["all" if of_all > 100 else "tenant" if of_tenant > 60 else "key"] += 1
        else:
            assert (of_all <= 100, of_tenant <= 60, of_key <= 25) == (True, True, True)
            taken.append((caller, amount))
        assert shares.taken == sum(held for _, held in taken)
    assert set(reasons) == {"all", "tenant", "key"}
    for caller, amount in taken:
        shares.give(caller, amount)
    assert (shares.taken, len(shares._taken)) == (0, 0)  # nothing is kept of whoever holds nothing


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_bytes_are_counted_while_they_pass(piece: int) -> None:
    """Goal: at no time are more bytes held than may be, whatever the pieces; who is beyond it is refused, and all is
    given back. Method: thirty bodies at once, whose pieces come in turn, to an application that reads them."""
    bound, size, most = 10_000, 3_000, 0
    held = Shares("bytes of bodies", total=bound, per_tenant=bound)
    outcomes = Counter[str]()

    async def reads(_scope: Scope, receive: Receive, _send: Send) -> None:
        nonlocal most
        whole = 0
        while (await receive())["more_body"]:
            whole += piece
            most = max(most, held.taken)

    async def body() -> Message:
        await asyncio.sleep(0)  # lets the others on
        left = sizes[asyncio.current_task()]
        sizes[asyncio.current_task()] -= piece
        return {"type": "http.request", "body": b"x" * min(piece, left), "more_body": left > piece}

    async def one(number: int) -> None:
        sizes[asyncio.current_task()] = size if number else 4_001
        scope = {"type": "http", "headers": [], "state": {"caller": somebody(key=number)}}
        try:
            await Bodies(reads, bytes_max=4_000, held=held)(scope, body, _nowhere)
            outcomes["read"] += 1
        except (Overloaded, TooLarge) as refused:
            outcomes[refused.code] += 1

    async def all_of_them() -> None:
        await asyncio.gather(*map(one, range(30)))

    sizes: dict[Any, int] = {}
    asyncio.run(all_of_them())
    assert bound / 2 < most <= bound
    assert held.taken == 0
    assert outcomes["read"] > 0 < outcomes["overloaded"]
    assert outcomes.total() == 30


async def _nowhere(_message: Message) -> None:
    raise AssertionError("nothing is to be sent")


@contextlib.contextmanager
def _hanging(client: TestClient) -> Iterator[tuple[threading.Semaphore, threading.Event]]:
    """Lists of datasets hang: what is released for each that began, and what lets them go."""
    datasets: Any = client.app.state.services.datasets  # type: ignore[attr-defined]
    page, began, go = datasets.page, threading.Semaphore(0), threading.Event()

    def slowly(*given: Any, **rest: Any) -> Any:
        began.release()
        assert go.wait(60)
        return page(*given, **rest)

    datasets.page = slowly
    try:
        yield began, go
    finally:
        go.set()
        datasets.page = page


@pytest.mark.parametrize(("bounds", "whose"), [((2, 2), "all callers together"), ((4, 2), "one tenant")])
def test_a_crowd_is_turned_away(settings: Settings, bounds: tuple[int, int], whose: str) -> None:
    """Goal: what waits in memory is bounded, no tenant takes it all, and one can still ask how the process does.

    Method: two calls that hang, where two are allowed in all or two to a tenant; one more of that tenant, and one of
    another tenant. A stranger is refused as ever, and never counted.
    """
    first = first_keys(settings)
    bound = {"requests_max": bounds[0], "requests_per_tenant_max": bounds[1]}
    with TestClient(create_app(settings.model_copy(update=bound))) as client, ThreadPoolExecutor(2) as pool:
        ledger = Ledger(client, first.admin_key, operator_key=first.operator_key)
        other = another_tenant(ledger)
        with _hanging(client) as (began, go):
            asked = [pool.submit(ledger.get, "/v1/datasets") for _ in range(2)]
            assert all(began.acquire(timeout=30) for _ in asked)
            assert "ledger_requests_serving 2.0" in client.get("/metrics").text
            answer = ledger.get("/v1/keys")
            assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
            assert whose in answer.json()["detail"]
            assert answer.headers["retry-after"] == "1"
            assert other.get("/v1/keys").status_code == (503 if bounds[0] == 2 else 200)
            assert {client.get("/v1/keys").status_code for _ in range(5)} == {401}
            assert {client.get(path).status_code for path in ("/healthz", "/metrics", "/readyz")} == {200}
            go.set()
            assert {each.result().status_code for each in asked} == {200}
        assert ledger.get("/v1/keys").status_code == 200
        assert "ledger_requests_serving 0.0" in client.get("/metrics").text


def test_what_anyone_may_ask_takes_no_thread(settings: Settings) -> None:
    """Goal: whether the process lives, and all else that takes no key, is answered while every thread is taken. Method:
    somebody else holds all threads of requests; each such call, and a call without a key."""
    first_keys(settings)
    with TestClient(create_app(settings)) as client:
        assert client.portal is not None

        async def take_all() -> int:
            threads = anyio.to_thread.current_default_thread_limiter()
            for _ in range(int(threads.available_tokens)):
                threads.acquire_on_behalf_of_nowait(object())
            return int(threads.available_tokens)

        assert client.portal.call(take_all) == 0
        open_to_all = ("/healthz", "/readyz", "/metrics", "/.well-known/jwks.json", "/openapi.json", "/docs")
        for path in (*open_to_all, "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/docs/favicon.png"):
            assert client.get(path).status_code == 200, path
        assert client.get("/", follow_redirects=False).status_code == 303
        assert client.get("/nothing").status_code == 404
        assert {client.post("/v1/runs", content=b"{").status_code, client.get("/v1/nothing").status_code} == {401}


def test_requests_of_one_key_take_one_look_up(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a caller of many requests takes no look-ups from others. Method: nobody is remembered, and look-ups of one
    key hang; of a hundred requests one looks, another key goes on, and all have that one's answer."""
    monkeypatch.setattr(keys, "CACHE_SECONDS", 0)
    first = first_keys(settings)
    store = Store(engine_for(settings.database_url.get_secret_value()))
    keyring, looks, go = Keyring(store), Counter[str](), threading.Event()
    recognise, recognised = keyring.recognise, Counter[str]()

    def slowly(secret: str) -> Caller:
        looks[secret] += 1
        if secret == first.admin_key and looks[secret] > 1:
            assert go.wait(60)
        return recognise(secret)

    monkeypatch.setattr(keyring, "recognise", slowly)

    async def reached(scope: Scope, _receive: Receive, _send: Send) -> None:
        recognised[str(scope["state"]["caller"].key_id)] += 1

    async def asked() -> None:
        failures = Buckets(per_second=1, burst=1)
        recogniser = Recogniser(
            keyring=lambda: keyring, metrics=Metrics(), rate=None, failures=failures, requests_max=1
        )
        door = Recognise(reached, recogniser=recogniser)

        async def ask(key: str) -> None:
            headers = [(b"authorization", f"Bearer {key}".encode())]
            await door({"type": "http", "path": "/v1/me", "headers": headers}, _nothing, _nowhere)

        await ask(first.admin_key)
        await ask(first.operator_key)
        many = [asyncio.ensure_future(ask(first.admin_key)) for _ in range(100)]
        await asyncio.sleep(0)
        for _ in range(30):
            await ask(first.operator_key)
        assert not any(each.done() for each in many)
        go.set()
        await asyncio.gather(*many)

    asyncio.run(asked())
    store.close()
    assert looks == {first.admin_key: 2, first.operator_key: 31}
    assert sorted(recognised.values()) == [31, 101]


async def _nothing() -> Message:
    raise AssertionError("nothing is to be read")


def test_who_asks_together_has_one_answer() -> None:
    """Goal: however many ask whether the process can work, one thread looks. Method: a hundred who ask while one look
    hangs, and one more afterwards; the looks are counted. One who goes away takes nobody's answer along."""
    looks, go = itertools.count(), threading.Event()

    def look() -> int:
        assert go.wait(60)
        return next(looks)

    async def ask() -> list[int]:
        together = Together(look)
        asked = [asyncio.ensure_future(together.ask()) for _ in range(100)]
        await asyncio.sleep(0)
        asked[0].cancel()
        go.set()
        return [*await asyncio.gather(*asked[1:]), await together.ask()]

    assert asyncio.run(ask()) == [0] * 99 + [1]

"""What holds up the event loop: that it is seen, and what is done against it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop
from fastapi.testclient import TestClient
from pydantic import TypeAdapter

from ledger.api import lag
from ledger.api.app import create_app
from ledger.api.lag import EVERY_SECONDS, SWITCH_SECONDS, THRESHOLDS
from ledger.api.metrics import Metrics
from ledger.api.protocol import ENDED_AT_ONCE_MAX, LINE_BYTES_MAX, STRANGERS_AT_ONCE_MAX, Connections
from ledger.api.routing import MISTAKES_MAX
from ledger.settings import Settings
from tests.api.test_metrics import value
from tests.conftest import Templates
from tests.kit.driver import RELEASE, Ledger, first_keys


@pytest.fixture
def here(templates: Templates, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger on SQLite alone, for what does not depend on the database."""
    with templates.clone("sqlite", tmp_path) as settings, Ledger.open(settings) as opened:
        yield opened


def test_what_holds_the_loop_is_seen(here: Ledger) -> None:
    """Goal: the lag of the event loop is the longest since it was last read. Method: something holds the loop for a
    while, which is read once."""
    held_seconds = 0.2

    async def hold() -> None:
        end = time.monotonic() + held_seconds
        while time.monotonic() < end:
            pass

    value(here, "ledger_loop_lag_seconds")
    here.client.portal.call(hold)
    assert value(here, "ledger_loop_lag_seconds") >= held_seconds - EVERY_SECONDS
    lags = [value(here, "ledger_loop_lag_seconds") for _ in range(20)]
    assert min(lags) < held_seconds - EVERY_SECONDS


def test_the_rest_of_the_process_gives_way(templates: Templates, tmp_path: Path) -> None:
    """Goal: while it serves, no collection looks at what was there at the start, full ones are rare, and threads give
    way soon; afterwards all is as before. Method: what a collection looks at, and the settings of Python."""
    before = sys.getswitchinterval(), gc.get_freeze_count()
    rarely, watching = gc.get_threshold(), list(gc.callbacks)
    with templates.clone("sqlite", tmp_path) as settings, Ledger.open(settings):
        assert gc.get_freeze_count() > before[1] + 10_000
        assert len(gc.get_objects()) < gc.get_freeze_count()
        assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
        assert gc.get_threshold() == THRESHOLDS
    assert (gc.get_threshold(), gc.callbacks) == (rarely, watching)
    assert (sys.getswitchinterval(), gc.get_freeze_count()) == (before[0], 0)


def test_a_long_collection_is_the_last_of_its_kind(
    templates: Templates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: what survives a full collection that took long is not looked at again, so often and no more often.

    Method: every full collection takes too long; the objects that later ones look at, with two such times.
    """
    monkeypatch.setattr(lag, "COLLECTION_SECONDS_MAX", 0.0)
    monkeypatch.setattr(lag, "FREEZES_MAX", 2)
    with templates.clone("sqlite", tmp_path) as settings, Ledger.open(settings):
        looked_at: list[int] = []
        kept = []
        for _ in range(3):
            kept.append([[number] for number in range(20_000)])
            gc.collect(1)
            looked_at.append(len(gc.get_objects()))
            gc.collect()
            looked_at.append(len(gc.get_objects()))
    before, after = looked_at[::2], looked_at[1::2]
    assert min(before) > 20_000
    assert max(after[:2]) < 10_000
    assert after[2] > 20_000


def test_nothing_is_built_for_the_first_requests(
    templates: Templates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: routes and the validators of bodies are built when the application starts, and none while it serves.

    Method: a new application; the validators that are made at its start, and by its first requests: one that is
    answered, one that is invalid, one without a body.
    """
    built: list[Any] = []
    make = TypeAdapter.__init__

    def counted(adapter: Any, annotation: Any, *args: Any, **named: Any) -> None:
        built.append(annotation)
        make(adapter, annotation, *args, **named)

    monkeypatch.setattr(TypeAdapter, "__init__", counted)
    with templates.clone("sqlite", tmp_path) as settings:
        key = {"Authorization": f"Bearer {first_keys(settings).admin_key}"}
        with TestClient(create_app(settings)) as client:
            assert len(built) > 100
            built.clear()
            body = {"mechanism": {"type": "zcdp", "rho": 0.1}}
            assert client.post("/v1/evaluate", json=body, headers=key).status_code == 200
            assert client.post("/v1/plan", json={}, headers=key).status_code == 422
            assert client.get("/v1/datasets", headers=key).status_code == 200
        assert built == []


def test_mistakes_without_number_are_counted_alone(here: Ledger) -> None:
    """Goal: of a body with very many mistakes no list is made, which would hold up all threads; the answer has their
    number. Method: as many unknown fields as are listed, and one more."""
    listed = {**RELEASE, **{f"field-{number}": number for number in range(MISTAKES_MAX)}}
    counted = {**listed, "one-more": 1}
    first, second = (here.ask(**body) for body in (listed, counted))
    assert (first.status_code, second.status_code) == (422, 422)
    assert first.json()["field"] == "field-0"
    assert len(first.json()["errors"]) == 20
    assert second.json()["field"] == "body"
    assert second.json()["detail"] == f"body: has {MISTAKES_MAX + 1} errors, too many to list"


class Waiting:
    """A connection on which something came, and which notes in which turn of the loop it goes on."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self._crowd, self._number = crowd, number
        self.loop = asyncio.get_running_loop()

    def go_on(self, data: bytes) -> None:
        assert len(data) == self._crowd.size
        self._crowd.gone_on.append((self._crowd.turn, self._number))

    def cut(self, reason: str) -> None:
        assert reason == "crowded"
        self._crowd.cut.append(self._number)


class Crowd:
    """Connections of strangers, and the turns that the loop has taken."""

    def __init__(self, size: int) -> None:
        self.turn, self.size = 0, size
        self.gone_on: list[tuple[int, int]] = []
        self.cut: list[int] = []

    async def arrive(self, count: int) -> None:
        """Something comes on so many connections in one turn of the loop, which then takes as many more."""
        connections, loop = Connections(Settings(), Metrics()), asyncio.get_running_loop()

        def tick() -> None:
            self.turn += 1
            loop.call_soon(tick)

        tick()
        for number in range(count):
            waiting: Any = Waiting(self, number)
            if connections.admits(waiting, bytes(self.size)):
                waiting.go_on(bytes(self.size))
        for _ in range(count):  # a turn each
            await asyncio.sleep(0)


def test_strangers_go_on_a_few_at_a_time() -> None:
    """Goal: between two looks of the loop for events, requests of a few strangers are read, however many came at once;
    those go on in their order, and none is forgotten. Method: 100 in one turn, and the turn in which each goes on."""
    crowd = Crowd(size=10)
    asyncio.run(crowd.arrive(100))
    assert not crowd.cut
    assert [number for _, number in crowd.gone_on] == list(range(100))
    turns = [len(list(group)) for _, group in itertools.groupby(crowd.gone_on, key=lambda one: one[0])]
    assert max(turns) == STRANGERS_AT_ONCE_MAX
    assert len(turns) == -(-100 // STRANGERS_AT_ONCE_MAX)


def test_what_waits_of_strangers_is_bounded() -> None:
    """Goal: strangers that wait for their turn hold so many bytes and no more. Method: many that each sent a megabyte;
    which are cut, and which go on."""
    size = 2**20
    crowd = Crowd(size)
    asyncio.run(crowd.arrive(100))
    assert len(crowd.gone_on) == STRANGERS_AT_ONCE_MAX + LINE_BYTES_MAX // size
    assert len(crowd.cut) == 100 - len(crowd.gone_on)


def test_connections_end_a_few_at_a_time() -> None:
    """Goal: thousands of connections that end at once hold up nobody, and none is forgotten. Method: 300 in one turn of
    the loop and 10 while those are ended, and the turn in which what is left of each is done."""
    done: list[tuple[int, int]] = []
    turn = 0

    def end(number: int) -> None:
        done.append((turn, number))

    async def scene() -> None:
        nonlocal turn
        connections, loop = Connections(Settings(), Metrics()), asyncio.get_running_loop()
        for number in range(300):
            connections.end(loop, partial(end, number))
        assert not done
        for turn in range(1, 20):
            await asyncio.sleep(0)
            if turn == 2:
                for number in range(300, 310):
                    connections.end(loop, partial(end, number))

    asyncio.run(scene())
    assert [number for _, number in done] == list(range(310))
    assert max(Counter(turn for turn, _ in done).values()) == ENDED_AT_ONCE_MAX


def test_connections_begin_one_at_a_time() -> None:
    """Goal: in one turn of the loop that serves, few connections begin, however many came at once. Method: 200 that
    connect before the loop looks, and the turn in which each is accepted."""
    count, begun, turn = 200, list[int](), 0

    async def scene() -> None:
        nonlocal turn
        loop, all_begun = asyncio.get_running_loop(), asyncio.Event()

        class Noted(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                begun.append(turn)
                transport.close()
                if len(begun) == count:
                    all_begun.set()

        def tick() -> None:
            nonlocal turn
            turn += 1
            loop.call_soon(tick)

        server = await loop.create_server(Noted, "127.0.0.1", 0, backlog=count)
        with contextlib.ExitStack() as opened:
            for _ in range(count):  # the system connects them; the loop does not run meanwhile
                opened.enter_context(socket.create_connection(server.sockets[0].getsockname()))
            tick()
            await asyncio.wait_for(all_begun.wait(), 60)
        server.close()

    uvloop.run(scene())
    assert max(Counter(begun).values()) <= 2

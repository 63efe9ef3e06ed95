"""Reports are made outside the process that decides, few at once, and for nobody who has gone. Counted, not timed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import FastAPI
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from starlette.requests import ClientDisconnect

from ledger.access.keys import tenant_of
from ledger.api import problems, streams
from ledger.errors import Internal, Overloaded
from ledger.report import forms, pool, process, reader
from ledger.report.forms import Form
from ledger.report.pool import Pool
from ledger.report.reader import Extent
from ledger.report.source import Question
from ledger.service import journals
from ledger.settings import Settings
from ledger.store import Store, engine_for
from tests.kit.driver import RELEASE, Ledger, application, first_keys
from tests.kit.scene import another_tenant, ok
from tests.kit.trials import trials

SECONDS = 110
FORMS: tuple[Form, ...] = ("json", "html", "pdf", "csv")


class Caller:
    """Calls the application as a server does, and reads as slowly as it wants, or leaves."""

    def __init__(self, app: FastAPI, key: str, path: str, query: str = "") -> None:
        self.app, self.key, self.path, self.query = app, key, path, query
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.body = b""
        self.begun, self.gone, self.may_read = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def call(self) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": self.query.encode(),
            "root_path": "",
            "headers": [(b"host", b"ledger"), (b"authorization", f"Bearer {self.key}".encode())],
            "client": ("127.0.0.1", 1),
            "server": ("ledger", 80),
        }
        asked = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> Any:
            if (first := next(asked, None)) is not None:
                return first
            await self.gone.wait()
            return {"type": "http.disconnect"}

        await self.app(scope, receive, cast("Callable[[Any], Awaitable[None]]", self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        self.begun.set()
        await self.may_read.wait()
        self.body += message.get("body", b"")

    async def read(self) -> bytes:
        self.may_read.set()
        await self.call()
        return self.body


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[FastAPI, Pool]]:
    """The application with what runs beside it."""
    app = application(settings)
    async with app.router.lifespan_context(app):
        yield app, app.state.services.reports


def furnished(settings: Settings, *, runs: int) -> str:
    """A dataset with so many runs, of long purposes so that the report does not fit in a pipe. An admin's key."""
    with Ledger.open(settings) as ledger:
        fill(ledger, runs=runs)
        return ledger.key


def fill(ledger: Ledger, *, runs: int) -> None:
    """The dataset of `furnished`, in a ledger that is open."""
    ledger.register(budget={"mu": 100})
    body = [{**RELEASE, "purpose": f"{n} " + "p" * 900, "idempotency_key": f"k-{n}"} for n in range(runs)]
    answer = ok(ledger.post("/v1/runs/batch", {"runs": body}))
    assert {item["status"] for item in answer["results"]} == {201}


PATH = "/v1/datasets/mnist/report"


def extent_of(settings: Settings, key: str) -> Extent:
    """The report on the dataset, with heads that nobody signed."""
    store = Store(engine_for(settings.database_url.get_secret_value()))
    question = Question("dataset", tenant_of(key), "acme", dataset="mnist")
    found = reader.extent(store, question, signed_head=reader.unsigned)
    store.close()
    return found


# --- what is made ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kinds", "runs"), [(("json", "csv"), 120), (("html", "pdf"), 8)])
def test_another_process_makes_the_same_bytes(database: Settings, kinds: tuple[Form, ...], runs: int) -> None:
    """Goal: where a report is made makes no difference, byte for byte. Method: each form from a process, one after
    another, and made here; JSON and CSV go through more than a pipe holds."""
    key = furnished(database, runs=runs)
    extent = extent_of(database, key)
    store = Store(engine_for(database.database_url.get_secret_value()))

    async def made() -> dict[Form, bytes]:
        makers = Pool(database.database_url.get_secret_value(), at_once=2)
        found = {form: b"".join([piece async for piece in makers.pieces(extent, form)]) for form in kinds}
        assert makers.processes == 1, "one process made them all"
        await makers.close()
        assert makers.processes == 0
        return found

    found = asyncio.run(made())
    for form in kinds:
        assert found[form] == b"".join(forms.pieces(reader.report(store, extent), form)), form
    if "json" in kinds:
        assert len(found["json"]) > 3 * process.FRAME_BYTES_MAX
    store.close()


# --- how many --------------------------------------------------------------------------------------------------------


def test_so_many_are_made_at_once(database: Settings) -> None:
    """Goal: beyond a few at once the answer is 503, there are never more processes than that, and when one is done
    another is made. Method: as many slow readers of one tenant as it has places, which are half of all, one more, and
    one after them."""
    key = furnished(database, runs=200)
    at_once = 2

    async def scene() -> None:
        # Half of the places are one tenant's.
        async with running(database.model_copy(update={"reports_at_once": 2 * at_once})) as (app, makers):
            assert makers.processes == 0, "none before a report is asked for"
            slow = [Caller(app, key, PATH) for _ in range(at_once)]
            calls = [asyncio.ensure_future(caller.call()) for caller in slow]
            await asyncio.wait_for(asyncio.gather(*(caller.begun.wait() for caller in slow)), SECONDS)
            assert makers.processes == at_once
            for form in FORMS:
                refused = Caller(app, key, PATH, f"format={form}")
                assert b'"code":"overloaded"' in await refused.read()
                assert (refused.status, refused.headers["retry-after"]) == (503, str(pool.RETRY_AFTER_SECONDS))
            assert makers.processes == at_once
            for caller in slow:
                caller.may_read.set()
            await asyncio.wait_for(asyncio.gather(*calls), SECONDS)
            assert {(caller.status, caller.body) for caller in slow} == {(200, slow[0].body)}
            assert makers.processes == pool.IDLE_MAX
            another = Caller(app, key, PATH)
            assert await another.read() == slow[0].body
        assert makers.processes == 0, "the end of the server is theirs"

    asyncio.run(scene())


def test_who_finds_no_place_waits_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: two tenants that are reading take a third one's report only some time. Method: both places taken; two more
    that wait, and get theirs in their order as the first ones are given back; and a wait that is over."""
    order: list[str] = []

    async def scene() -> None:
        makers = Pool("sqlite://", at_once=2)
        has, given = ({name: asyncio.Event() for name in "abcd"} for _ in range(2))

        async def make(name: str) -> None:
            async with makers.place():
                order.append(name)
                has[name].set()
                await given[name].wait()

        calls = {name: asyncio.ensure_future(make(name)) for name in "abcd"}
        for expected, ended in (("ab", "b"), ("abc", "a"), ("abcd", "c")):
            await has[expected[-1]].wait()
            assert "".join(order) == expected
            given[ended].set()
            await calls[ended]
        monkeypatch.setattr(pool, "WAIT_SECONDS_MAX", 0)
        async with makers.place():
            with pytest.raises(Overloaded):
                async with makers.place():
                    order.append("e")
        given["d"].set()
        await calls["d"]

    asyncio.run(asyncio.wait_for(scene(), SECONDS))
    assert "".join(order) == "abcd"


def test_the_loop_starts_no_process(database: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: nobody waits while a process is started. Method: the threads that start those of two reports at once."""
    key = furnished(database, runs=1)
    extent, start = extent_of(database, key), pool.start
    by: list[int] = []

    def noted() -> subprocess.Popen[bytes]:
        by.append(threading.get_ident())
        return start()

    async def scene() -> None:
        makers = Pool(database.database_url.get_secret_value(), at_once=2)

        async def made() -> bytes:
            return b"".join([piece async for piece in makers.pieces(extent, "csv")])

        first, second = await asyncio.gather(made(), made())
        assert first == second != b""
        await makers.close()

    monkeypatch.setattr(pool, "start", noted)
    asyncio.run(scene())
    assert len(by) == 2
    assert threading.get_ident() not in by


# --- for nobody ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS if trials(0, 1) else ("json", "pdf"))
def test_a_report_ends_with_its_caller(database: Settings, form: Form) -> None:
    """Goal: nothing is read or made for a caller that left. Method: one that leaves at the first bytes, and one that
    leaves before there are any; the process that made it is dead when the call ends, and the place is free."""
    # Texts that do not fit in a pipe; a page is made whole before its first bytes, and takes long.
    key = furnished(database, runs=200 if form in ("json", "csv") else 10)

    async def scene() -> None:
        async with running(database.model_copy(update={"reports_at_once": 1})) as (app, makers):
            caller = Caller(app, key, PATH, f"format={form}")
            call = asyncio.ensure_future(caller.call())
            await asyncio.wait_for(caller.begun.wait(), SECONDS)
            (maker,) = [*makers._busy, *makers._idle]
            caller.gone.set()
            await asyncio.wait_for(call, SECONDS)
            assert makers.processes == 0
            assert await asyncio.wait_for(maker.ended(), SECONDS) == -9
            early = Caller(app, key, PATH, f"format={form}")
            early.gone.set()
            early.may_read.set()
            with contextlib.suppress(ClientDisconnect):
                await asyncio.wait_for(early.call(), SECONDS)
            assert early.status in (None, problems.DISCONNECTED)
            assert makers.processes == 0
            whole = Caller(app, key, PATH, f"format={form}")
            assert len(await whole.read()) > 1000
            assert whole.status == 200

    asyncio.run(scene())


def test_a_tenant_leaves_few_reports(database: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: who asks for reports and leaves starts few processes, and keeps nobody else from a report. Method: one
    report that is left, where one may be; then reports of the same tenant, and one of another; the processes that were
    started."""
    with Ledger.open(database) as ledger:
        fill(ledger, runs=200)
        key, other = ledger.key, another_tenant(ledger).key
    starts: list[int] = []
    start = pool.start

    def noted() -> subprocess.Popen[bytes]:
        starts.append(1)
        return start()

    async def scene() -> None:
        async with running(database.model_copy(update={"reports_at_once": 4})) as (app, _):
            leaving = Caller(app, key, PATH)
            call = asyncio.ensure_future(leaving.call())
            await asyncio.wait_for(leaving.begun.wait(), SECONDS)
            leaving.gone.set()
            await asyncio.wait_for(call, SECONDS)
            for _ in range(3):
                again = Caller(app, key, PATH)
                assert b"left 1 reports" in await again.read()
                assert (again.status, 0 < int(again.headers["retry-after"]) <= 5) == (503, True)
            assert len(starts) == 1
            elsewhere = Caller(app, other, "/v1/report")
            await elsewhere.read()
            assert (elsewhere.status, len(starts)) == (200, 2)

    monkeypatch.setattr(streams, "ABANDONED_MAX", 1)
    monkeypatch.setattr(pool, "start", noted)
    asyncio.run(scene())


def test_an_export_ends_with_its_caller(database: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: of a journal no more is read than the page that is being read when the caller leaves. Method: pages of two
    entries of a journal of 200; the statements that read entries once the caller has gone."""
    key = furnished(database, runs=200)
    monkeypatch.setattr(journals, "EXPORT_PAGE", 2)

    async def scene() -> None:
        async with running(database) as (app, _):
            read: list[str] = []
            event.listen(
                app.state.services.store.engine,
                "before_cursor_execute",
                lambda _c, _cu, statement, *_: read.append(statement) if "FROM entries" in statement else None,
            )
            caller = Caller(app, key, "/v1/datasets/mnist/export")
            call = asyncio.ensure_future(caller.call())
            await asyncio.wait_for(caller.begun.wait(), SECONDS)
            before = len(read)
            caller.gone.set()
            await asyncio.wait_for(call, SECONDS)
            assert len(read) - before <= 1
            assert len(read) < 5

    asyncio.run(scene())


def test_a_process_ends_with_who_started_it(database: Settings) -> None:
    """Goal: a server that is killed leaves no process that goes on. Method: one that was given a job and nobody reads;
    the end of its standard input alone."""
    key = furnished(database, runs=200)
    command = [sys.executable, "-P", "-m", process.__name__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as maker:
        assert maker.stdin is not None
        assert maker.stdout is not None
        maker.stdin.write(process.job(database.database_url.get_secret_value(), extent_of(database, key), "json"))
        maker.stdin.flush()
        kind, _ = process.HEADER.unpack(maker.stdout.read(process.HEADER.size))
        assert kind == process.DATA
        maker.stdin.close()
        assert maker.wait(SECONDS) == 0


# --- what it may -----------------------------------------------------------------------------------------------------


def shown(pid: int) -> bytes:
    """What the system shows others of a process: its environment and its arguments."""
    files = [Path(f"/proc/{pid}/{name}") for name in ("environ", "cmdline")]
    return b"".join(file.read_bytes() for file in files if file.exists())


@pytest.mark.starts_report_processes
def test_what_a_process_is_given(database: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a process that makes reports gives way to others, has none of the server's secrets in its environment, and
    no password among its arguments. Method: what the system says of it."""
    key = furnished(database, runs=200)
    monkeypatch.setenv("LEDGER_SIGNING_KEY", "secret")
    url = database.database_url.get_secret_value()

    async def scene() -> None:
        makers = Pool(url, at_once=1)
        pieces = makers.pieces(extent_of(database, key), "json")
        assert await anext(pieces)
        (maker,) = makers._busy
        assert os.getpriority(os.PRIO_PROCESS, maker.pid) >= process.NICENESS
        seen = await asyncio.to_thread(shown, maker.pid)
        assert b"LEDGER_" not in seen
        assert url.encode() not in seen
        await pieces.aclose()
        await makers.close()

    asyncio.run(scene())


def test_a_database_that_can_only_be_read(database: Settings) -> None:
    """Goal: whatever goes wrong while a report is made, nothing is written. Method: a writing transaction."""
    store = Store(engine_for(database.database_url.get_secret_value(), is_read_only=True))
    key = furnished(database, runs=1)
    with store.reading(tenant_of(key)) as reading:
        assert reading.tenants.current() is not None
    for statement in ("DELETE FROM alerts", "UPDATE leases SET until_us = 1"):
        with pytest.raises(DBAPIError, match=r"read-?only"), store.engine.begin() as connection:
            connection.execute(text(statement))
    store.close()


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.starts_report_processes
def test_what_goes_wrong_is_a_problem(database: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a fault in the process is answered as one in this process is. Method: a database that is not there, a job
    that is none, a process that dies; and after each of them a report."""
    key = furnished(database, runs=1)

    async def scene() -> None:
        async with running(database) as (app, makers):

            async def answer() -> tuple[int | None, bytes]:
                caller = Caller(app, key, PATH)
                body = await caller.read()
                return caller.status, body

            nowhere = "sqlite:////nowhere/at/all.db" if database.is_sqlite else "postgresql://nobody@127.0.0.1:1/none"
            with monkeypatch.context() as patch:
                patch.setattr(makers, "_url", nowhere)
                status, body = await answer()
                assert (status, b'"code":"overloaded"' in body) == (503, True), body
            assert (await answer())[0] == 200
            with monkeypatch.context() as patch:
                patch.setattr(process, "job", lambda *_: b"no job\n")
                status, body = await answer()
                assert (status, b'"code":"internal"' in body) == (500, True), body
            assert (await answer())[0] == 200
            (maker,) = makers._idle
            maker.kill()
            await maker.ended()
            assert (await answer())[0] == 200
            missing = Caller(app, key, "/v1/datasets/none/report")
            assert b'"code":"not-found"' in await missing.read()
            assert missing.status == 404

    asyncio.run(scene())


def test_a_process_that_dies_in_the_middle(database: Settings) -> None:
    """Goal: half a report never looks like a whole one. Method: kill the process after the first piece."""
    key = furnished(database, runs=300)

    async def scene() -> None:
        makers = Pool(database.database_url.get_secret_value(), at_once=1)
        pieces = makers.pieces(extent_of(database, key), "json")
        assert await anext(pieces)
        (maker,) = makers._busy
        maker.kill()
        with pytest.raises(Internal):
            async for _ in pieces:
                pass
        assert makers.processes == 0
        await makers.close()

    asyncio.run(scene())


def test_first_keys_are_not_needed(database: Settings) -> None:
    """Goal: a report of a tenant that nothing was decided for. Method: a new ledger."""
    key = first_keys(database).admin_key

    async def scene() -> None:
        async with running(database) as (app, _):
            assert b'"kept":true' in await Caller(app, key, "/v1/report").read()

    asyncio.run(scene())

"""The ledger through a real PgBouncer in transaction mode, which lends a connection for one transaction.

Goal: nothing rests on what a connection keeps between transactions: no prepared statement, no timeout, no tenant.
Method: two connections to the database serve many requests at once; the same with one, on which two tenants take turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from ledger.operate import deploy
from ledger.operate.check import check_journals
from ledger.settings import Settings
from ledger.store import Store, engine_for
from tests.kit.databases import Databases
from tests.kit.doors import ACME
from tests.kit.driver import Ledger
from tests.kit.pooler import pooled, program
from tests.kit.scene import REASON, ok

REQUESTS = 60
WANTED = {"lock_timeout": "10s", "statement_timeout": "30s", "idle_in_transaction_session_timeout": "1min"}


@pytest.fixture
def direct(databases: Databases, tmp_path: Path) -> Iterator[Settings]:
    """A migrated PostgreSQL database."""
    if databases.kind == "sqlite":
        pytest.skip("a pooler stands before PostgreSQL")
    program()
    with databases.templates.clone(databases.kind, tmp_path) as settings:
        yield settings


def test_many_requests_share_few_connections(direct: Settings) -> None:
    """Goal: whatever process answers, it knows all that it is asked. Method: ask, start and settle from many threads,
    beyond the number of repetitions after which the driver prepares a statement; then verify the journals."""
    with ExitStack() as stack:
        settings = stack.enter_context(pooled(direct, connections=2))
        deploy.migrate(settings)
        ledger = stack.enter_context(Ledger.open(settings))
        ledger.register(budget={"mu": 100, "delta": 1e-4})

        def live(_number: int) -> None:
            run = ok(ledger.ask())["id"]
            ok(ledger.post(f"/v1/runs/{run}/start"))
            ok(ledger.get("/v1/datasets/mnist"))
            ok(ledger.post(f"/v1/runs/{run}/settle"))

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(live, range(REQUESTS)))
        assert len(ok(ledger.get("/v1/runs?state=settled"))["items"]) == REQUESTS
        voided = ok(ledger.ask())["id"]
        ok(ledger.post(f"/v1/runs/{voided}/void", REASON))
    assert {result["error"] for result in check_journals(direct)} == {None}


def test_every_transaction_has_its_timeouts(direct: Settings) -> None:
    """Goal: no transaction waits for ever behind a pooler. Method: read the settings in each kind of transaction."""
    with pooled(direct, connections=1) as settings, closing(_store(settings)) as store:
        with store.reading(ACME) as reading:
            assert _timeouts(reading.connection) == WANTED
        with store.writing(ACME) as writing:
            assert _timeouts(writing.connection) == WANTED
        with store.engine.begin() as connection:
            assert _timeouts(connection) == WANTED


def test_a_lent_connection_keeps_nothing(direct: Settings) -> None:
    """Goal: the next transaction on a connection is not this tenant's. Method: a pool of one; a client of its own."""
    with pooled(direct, connections=1) as settings, closing(_store(settings)) as store:
        with store.reading(ACME) as reading:
            mine = reading.connection.execute(text("SELECT pg_backend_pid()")).scalar()
        url = store.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as other:
            assert other.execute("SELECT pg_backend_pid()").fetchone() == (mine,)
            assert other.execute("SELECT current_setting('app.tenant_id', true)").fetchone() in ((None,), ("",))
            assert other.execute("SELECT count(*) FROM keys").fetchone() == (0,)


def test_a_reader_of_reports_cannot_write(direct: Settings) -> None:
    """Goal: read-only holds without a setting of the connection. Method: write in each kind of transaction."""
    with pooled(direct, connections=1) as settings:
        engine = engine_for(settings.database_url.get_secret_value(), is_read_only=True)
        with closing(Store(engine)) as store:
            change = text("UPDATE keys SET name = name")
            with pytest.raises(DBAPIError, match="read-only"), store.writing(ACME) as writing:
                writing.connection.execute(change)
            with pytest.raises(DBAPIError, match="read-only"), store.engine.begin() as connection:
                connection.execute(change)


@pytest.mark.parametrize("prepares", [None, True, False])
def test_statements_are_prepared_where_the_process_stays(direct: Settings, prepares: bool | None) -> None:
    """Goal: a connection of one's own keeps prepared statements; a lent one has none. Method: repeat one, and count."""
    with pooled(direct, connections=1) as lent:
        for settings, is_direct in ((direct, True), (lent, False)):
            engine = engine_for(settings.database_url.get_secret_value(), prepares=prepares)
            with closing(Store(engine)) as store, store.reading(ACME) as reading:
                for number in range(10):
                    reading.connection.execute(
                        text("SELECT count(*) FROM runs WHERE created_us = :number"), {"number": number}
                    )
                known = reading.connection.execute(text("SELECT count(*) FROM pg_prepared_statements")).scalar()
            assert bool(known) is (is_direct if prepares is None else prepares)


def _store(settings: Settings) -> Store:
    return Store(engine_for(settings.database_url.get_secret_value()))


def _timeouts(connection: Connection) -> dict[str, str]:
    rows = connection.execute(text("SELECT name, current_setting(name) FROM pg_settings WHERE name LIKE '%timeout'"))
    return {name: value for name, value in rows if name in WANTED}

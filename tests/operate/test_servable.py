"""`privacy-ledger serve` uses a PostgreSQL that keeps tenants apart and what was committed, and no other."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import make_url

from ledger.errors import Misconfigured
from ledger.operate import deploy
from ledger.settings import Settings
from tests.conftest import SERVER_ROLE, Templates
from tests.kit import forked, postgres
from tests.kit.driver import Ledger, environment, first_keys, free_port, serve_command

SECONDS_MAX = 60
LAX = ("fsync", "full_page_writes", "synchronous_commit")
MISUSED = 2
"""The exit status of bad usage, which is what a server that cannot be relied on is."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A server with its durability on, and a migrated database of its own on it."""

    server: postgres.Server
    settings: Settings

    def __call__(self, *statements: str | sql.Composed) -> None:
        """Says something as the superuser."""
        database = make_url(self.settings.owner_url).database
        url = make_url(self.server.admin_url).set(drivername="postgresql", database=database)
        with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode() if isinstance(statement, str) else statement)

    def as_role(self, url: str) -> Settings:
        """The same database, served with this URL's user."""
        user = make_url(url)
        ours = make_url(self.settings.owner_url).set(username=user.username, password=user.password)
        return self.settings.model_copy(update={"database_url": SecretStr(ours.render_as_string(hide_password=False))})

    def shows(self, name: str, settings: Settings) -> str:
        """A setting as the server's role meets it."""
        url = make_url(settings.database_url.get_secret_value()).set(drivername="postgresql")
        with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
            row = connection.execute(f"SHOW {name}".encode()).fetchone()
        return str(row and row[0])

    @contextmanager
    def changed(self, make: str, undo: str, *, name: str, settings: Settings) -> Iterator[None]:
        """A setting that is off meanwhile; a reload takes its moment."""
        self(make, "SELECT pg_reload_conf()")
        try:
            until(lambda: self.shows(name, settings) == "off")
            yield
        finally:
            self(undo, "SELECT pg_reload_conf()")
            until(lambda: self.shows(name, settings) == "on")


def until(happens: Callable[[], bool]) -> None:
    """Asks again and again, for a bounded time."""
    end = time.monotonic() + SECONDS_MAX
    while not happens():
        assert time.monotonic() < end, "it did not happen"


@pytest.fixture(scope="module", params=["wheel"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """One for all tests here, each of which leaves it as it was."""
    options = {name: value for name, value in postgres.OPTIONS.items() if name not in LAX}
    with postgres.from_binaries(postgres.binaries(request.param), options) as server:
        settings = Templates.settings(postgres.create_database(server, "ledger"))
        deploy.migrate(settings)
        yield Cluster(server, settings)


def refused(settings: Settings, folder: Path) -> str:
    """What `serve` says when it does not: on standard error, with the exit status that is documented, and no traceback.

    It is the command itself, in a process of its own, and it ends by itself.
    """
    command = ["ledger", "serve", "--port", str(free_port())]
    told = forked.run(command, folder, environment(settings), seconds_max=SECONDS_MAX)
    assert told.returncode == MISUSED, told.stdout + told.stderr
    assert told.stdout == ""
    assert "Traceback" not in told.stderr
    for url in (settings.database_url, settings.owner_database_url):
        password = make_url(url.get_secret_value()).password if url is not None else None
        assert password
        assert password not in told.stderr
    return told.stderr


def test_it_serves_where_all_is_right(cluster: Cluster, tmp_path: Path) -> None:
    """Goal: the role that `migrate` makes, on a durable server, is served with. Method: the command; ask for a run."""
    key = first_keys(cluster.settings).admin_key
    command = [sys.executable, "-m", "ledger", "serve"]
    assert [cluster.shows(name, cluster.settings) for name in LAX] == ["on"] * len(LAX)
    with serve_command(command, tmp_path, environment(cluster.settings)) as served, served.client() as client:
        ledger = Ledger(client, key)
        ledger.register()
        assert ledger.ask().status_code == 201
        assert client.get("/readyz").status_code == 200


def test_it_refuses_a_superuser(cluster: Cluster, tmp_path: Path) -> None:
    """Goal: no role that row-level security does not hold for, and the message says what to do instead."""
    said = refused(cluster.as_role(cluster.server.admin_url), tmp_path)
    assert "'postgres' is a superuser" in said
    for needed in ("LEDGER_OWNER_DATABASE_URL", "LEDGER_DATABASE_URL", "privacy-ledger migrate"):
        assert needed in said


def test_it_refuses_the_owner(cluster: Cluster, tmp_path: Path) -> None:
    """Goal: who serves cannot lift what keeps tenants apart. Method: the owner's own URL."""
    said = refused(cluster.as_role(cluster.server.owner_url), tmp_path)
    assert f"'{postgres.OWNER}' owns the tables" in said
    assert "privacy-ledger migrate" in said


@pytest.mark.parametrize("inherits", ["INHERIT", "NOINHERIT"])
@pytest.mark.parametrize(("of", "said_of_it"), [(postgres.OWNER, "owns the tables"), ("postgres", "is a superuser")])
def test_it_refuses_a_member_of_such_a_role(
    cluster: Cluster, tmp_path: Path, inherits: str, of: str, said_of_it: str
) -> None:
    """Goal: nor a role that can become one of those. Method: a member, and one that would have to say SET ROLE."""
    create = sql.SQL("CREATE ROLE member LOGIN {} PASSWORD {}")
    cluster(create.format(sql.SQL(inherits), sql.Literal("a secret of its own")), f"GRANT {of} TO member")
    url = make_url(cluster.server.owner_url).set(username="member", password="a secret of its own")
    settings = cluster.as_role(url.render_as_string(hide_password=False))
    try:
        deploy.migrate(settings)  # which lets it in, as it would any other
        said = refused(settings, tmp_path)
    finally:
        cluster("DROP OWNED BY member", "DROP ROLE member")
    assert f"'member' {said_of_it}" in said


def test_it_refuses_a_role_that_bypasses_row_security(cluster: Cluster, tmp_path: Path) -> None:
    """Goal: BYPASSRLS is as good as a superuser's. Method: give it to the server's role, and take it away again."""
    cluster(f"ALTER ROLE {SERVER_ROLE} BYPASSRLS")
    try:
        said = refused(cluster.settings, tmp_path)
    finally:
        cluster(f"ALTER ROLE {SERVER_ROLE} NOBYPASSRLS")
    assert f"'{SERVER_ROLE}' bypasses row-level security" in said
    assert "privacy-ledger migrate" in said


@pytest.mark.parametrize("name", LAX)
def test_it_refuses_a_server_that_may_forget(cluster: Cluster, tmp_path: Path, name: str) -> None:
    """Goal: what is approved is on disk. Method: each setting off for the whole server; the message turns it on."""
    make, undo = f"ALTER SYSTEM SET {name} = off", f"ALTER SYSTEM RESET {name}"
    with cluster.changed(make, undo, name=name, settings=cluster.settings):
        said = refused(cluster.settings, tmp_path)
        assert f"{name} = off" in said
        remedy = f"ALTER SYSTEM SET {name} = on"
        assert remedy in said
        cluster(remedy, "SELECT pg_reload_conf()")
        until(lambda: cluster.shows(name, cluster.settings) == "on")
        deploy.demand_servable(cluster.settings)


@pytest.mark.parametrize("whose", ["ROLE {role}", "DATABASE {database}", "ROLE {role} IN DATABASE {database}"])
def test_it_refuses_a_role_that_may_forget(cluster: Cluster, tmp_path: Path, whose: str) -> None:
    """Goal: the same where it is off for the server's role, or its database, alone; turning it on for the whole server
    would change nothing, and what the message says does."""
    database = make_url(cluster.settings.owner_url).database
    where = whose.format(role=SERVER_ROLE, database=database)
    make, undo = f"ALTER {where} SET synchronous_commit = off", f"ALTER {where} RESET synchronous_commit"
    with cluster.changed(make, undo, name="synchronous_commit", settings=cluster.settings):
        said = refused(cluster.settings, tmp_path)
        assert "synchronous_commit = off" in said
        assert f"{undo};" in said
        assert "ALTER SYSTEM" not in said
    deploy.demand_servable(cluster.settings)


def test_several_faults_are_told_at_once(cluster: Cluster, tmp_path: Path) -> None:
    """Goal: nobody is sent back three times. Method: everything off; one message names all of it."""
    names = ("fsync", "full_page_writes")
    cluster(*(f"ALTER SYSTEM SET {name} = off" for name in names), "SELECT pg_reload_conf()")
    try:
        until(lambda: {cluster.shows(name, cluster.settings) for name in names} == {"off"})
        said = refused(cluster.settings, tmp_path)
    finally:
        cluster(*(f"ALTER SYSTEM RESET {name}" for name in names), "SELECT pg_reload_conf()")
        until(lambda: {cluster.shows(name, cluster.settings) for name in names} == {"on"})
    for name in names:
        assert f"ALTER SYSTEM SET {name} = on" in said


def test_migrating_does_not_take_a_servable_role(cluster: Cluster) -> None:
    """Goal: only serving is refused; `migrate` and `init` are the owner's. Method: migrate by the owner's URL alone."""
    alone = Settings(database_url=SecretStr(cluster.settings.owner_url))
    assert deploy.migrate(alone) == deploy.newest_revision()
    with pytest.raises(Misconfigured, match="owns the tables"):
        deploy.demand_servable(alone)

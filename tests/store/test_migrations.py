"""The migrations make what `ledger.store.tables` declares, once, whoever runs them, and let the server's role in."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
import uuid
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import make_url

import ledger
from ledger.errors import Misconfigured, NotFound
from ledger.operate import deploy
from ledger.settings import Settings
from ledger.store import engine_for, engines, guards, tables
from tests.conftest import KINDS, SERVER_ROLE, Templates
from tests.kit import postgres
from tests.kit.driver import environment, free_port

ROOT = Path(ledger.__file__).parent.parent
WAIT_SECONDS_MAX = 30
MIGRATE = """
import ledger
from ledger import settings
from ledger.operate import deploy
print(ledger.__file__, deploy.migrate(settings.load()))
"""
"""For a process of its own: says which ledger it is and where the schema is then."""


# --- databases -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where databases of one kind are made."""

    kind: str
    templates: Templates
    folder: Path

    @property
    def server(self) -> postgres.Server:
        return self.templates.server(self.kind)

    @contextlib.contextmanager
    def empty(self) -> Iterator[Settings]:
        """Settings that lead to a database with nothing in it."""
        name = f"test_{uuid.uuid4().hex}"
        if self.kind == "sqlite":
            yield Settings(database_url=SecretStr(f"sqlite:///{self.folder / name}.db"))
            return
        url = postgres.create_database(self.server, name)
        try:
            yield self.templates.settings(url)
        finally:
            postgres.drop_database(self.server, name)

    @contextlib.contextmanager
    def declared(self) -> Iterator[Settings]:
        """A database made from the declared schema, and nothing but it."""
        with self.empty() as settings:
            engine = engine_for(settings.owner_url)
            tables.metadata.create_all(engine)
            engine.dispose()
            if self.kind != "sqlite":
                with owned(settings) as connection:
                    connection.execute(f"GRANT USAGE ON SCHEMA public TO {SERVER_ROLE}".encode())
                    for table, privileges in guards.GRANTS.items():
                        if table in tables.metadata.tables:
                            connection.execute(f"GRANT {privileges} ON {table} TO {SERVER_ROLE}".encode())
                    for function in guards.FUNCTION_GRANTS:
                        connection.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {SERVER_ROLE}".encode())
            yield settings

    def superuser(self, settings: Settings) -> contextlib.closing[psycopg.Connection]:
        """A superuser's connection to a database; the test is skipped where a given server's URL names none."""
        admin = make_url(self.server.admin_url).set(database=make_url(settings.owner_url).database)
        connection = connected(admin.render_as_string(hide_password=False))
        if connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() != (True,):
            connection.close()
            pytest.skip("the given server's URL names no superuser")
        return contextlib.closing(connection)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, templates: Templates, tmp_path: Path) -> Place:
    """A place for databases of each kind."""
    return Place(request.param, templates, tmp_path)


@pytest.fixture(params=postgres.chosen())
def cluster(request: pytest.FixtureRequest, templates: Templates, tmp_path: Path) -> Place:
    """The same on PostgreSQL alone."""
    return Place(request.param, templates, tmp_path)


def connected(url: str) -> psycopg.Connection:
    """A connection by a URL as SQLAlchemy writes it; each statement is its own transaction."""
    return psycopg.connect(
        autocommit=True, connect_timeout=10, **make_url(url).translate_connect_args(database="dbname", username="user")
    )


def owned(settings: Settings) -> contextlib.closing[psycopg.Connection]:
    """The owner's connection to a PostgreSQL database."""
    return contextlib.closing(connected(settings.owner_url))


def served(settings: Settings) -> contextlib.closing[psycopg.Connection]:
    """The server's connection to a PostgreSQL database."""
    return contextlib.closing(connected(settings.database_url.get_secret_value()))


def file_of(settings: Settings) -> str:
    """The file of an SQLite database."""
    return str(make_url(settings.owner_url).database)


def change(settings: Settings, *statements: str) -> None:
    """Runs statements as the owner, and commits them."""
    if settings.is_sqlite:
        with contextlib.closing(sqlite3.connect(file_of(settings), isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)
    else:
        with owned(settings) as connection:
            for statement in statements:
                connection.execute(statement.encode())


def ask(settings: Settings, question: str) -> list[tuple[Any, ...]]:
    """What the owner is answered."""
    if settings.is_sqlite:
        with contextlib.closing(sqlite3.connect(file_of(settings))) as connection:
            return connection.execute(question).fetchall()
    with owned(settings) as connection:
        return connection.execute(question.encode()).fetchall()


def until(happens: Callable[[], bool]) -> None:
    """Asks again and again, for a bounded time."""
    end = time.monotonic() + WAIT_SECONDS_MAX
    while not happens():
        assert time.monotonic() < end, "it did not happen"


# --- the catalogue ---------------------------------------------------------------------------------------------------

# Everything is in one schema; nothing that these find belongs to PostgreSQL itself. Each gives names and definitions.
POSTGRESQL_CATALOGUE = {
    "relation": """
        SELECT c.relname, concat_ws(' ', 'kind', c.relkind, c.relpersistence, 'owner', c.relowner::regrole,
               'row security', c.relrowsecurity, c.relforcerowsecurity, 'options', c.reloptions::text,
               'acl', ARRAY(SELECT unnest(c.relacl)::text ORDER BY 1)::text)
        FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace""",
    "column": """
        SELECT c.relname || '.' || a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod),
               CASE WHEN a.attnotnull THEN 'NOT NULL' END, 'default', pg_get_expr(d.adbin, d.adrelid),
               'generated', a.attgenerated, a.attidentity, 'collation', a.attcollation::regcollation,
               'acl', ARRAY(SELECT unnest(a.attacl)::text ORDER BY 1)::text)
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind <> 'i' AND a.attnum > 0 AND NOT a.attisdropped""",
    "constraint": """
        SELECT conrelid::regclass || '.' || conname,
               concat_ws(' ', pg_get_constraintdef(oid), 'validated', convalidated, 'deferrable', condeferrable)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace""",
    "index": """
        SELECT i.indexrelid::regclass::text, concat_ws(' ', pg_get_indexdef(i.indexrelid), 'valid', i.indisvalid)
        FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relnamespace = 'public'::regnamespace""",
    "trigger": """
        SELECT t.tgrelid::regclass || '.' || t.tgname,
               concat_ws(' ', pg_get_triggerdef(t.oid), 'enabled', t.tgenabled)
        FROM pg_trigger t WHERE NOT t.tgisinternal""",
    "internal triggers": """
        SELECT t.tgrelid::regclass::text, count(*) || ' enabled ' || string_agg(DISTINCT t.tgenabled::text, '')
        FROM pg_trigger t WHERE t.tgisinternal GROUP BY 1""",
    "function": """
        SELECT p.oid::regprocedure::text, concat_ws(' ', pg_get_functiondef(p.oid), 'owner', p.proowner::regrole,
               'acl', ARRAY(SELECT unnest(p.proacl)::text ORDER BY 1)::text)
        FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace""",
    "policy": "SELECT tablename || '.' || policyname, p::text FROM pg_policies p",
    "rule": "SELECT tablename || '.' || rulename, definition FROM pg_rules WHERE schemaname = 'public'",
    "type": """
        SELECT typname, typtype::text FROM pg_type
        WHERE typnamespace = 'public'::regnamespace AND typtype NOT IN ('c', 'b')""",
    "schema": """
        SELECT nspname, concat_ws(' ', nspowner::regrole, ARRAY(SELECT unnest(nspacl)::text ORDER BY 1)::text)
        FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'""",
}


def catalogue(settings: Settings) -> dict[str, str]:
    """Everything in a database by its name, as the database describes it; except what Alembic keeps for itself."""
    found = _sqlite_catalogue(settings) if settings.is_sqlite else _postgresql_catalogue(settings)
    return {name: definition for name, definition in found.items() if "alembic_version" not in name}


def _postgresql_catalogue(settings: Settings) -> dict[str, str]:
    with owned(settings) as connection:
        return {
            f"{what} {name}": definition
            for what, question in POSTGRESQL_CATALOGUE.items()
            for name, definition in connection.execute(question.encode()).fetchall()
        }


def _sqlite_catalogue(settings: Settings) -> dict[str, str]:
    """SQLite keeps the statements: a table's is taken apart, since the order of its parts means nothing."""
    found: dict[str, str] = {}
    for kind, name, definition in ask(settings, "SELECT type, name, sql FROM sqlite_master"):
        spaced = " ".join((definition or "made by a key").split())
        opens, closes = spaced.find("("), spaced.rfind(")")
        if kind == "table":
            found |= {f"in table {name}: {part}": "" for part in split(spaced[opens + 1 : closes])}
            spaced = f"{spaced[:opens]}(…){spaced[closes + 1 :]}"
        found[f"{kind} {name}"] = spaced
    for table, strict, without_rowid in ask(
        settings, "SELECT name, strict, wr FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite%'"
    ):
        found[f"strict, without rowid {table}"] = f"{strict} {without_rowid}"
    for table, *key in ask(
        settings,
        """SELECT t.name, f."table", f."from", f."to", f.on_update, f.on_delete
           FROM sqlite_master t, pragma_foreign_key_list(t.name) f WHERE t.type = 'table'""",
    ):
        found[f"foreign key {table} {key}"] = ""
    return found


def split(listed: str) -> list[str]:
    """The parts of a list, at the commas that stand in no parentheses."""
    parts, depth = [""], 0
    for sign in listed:
        depth += (sign == "(") - (sign == ")")
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts]


def difference(migrated: Settings, declared: Settings) -> str:
    """What is only in one of two databases, or not the same in both, line by line; empty when they are alike."""
    sides = [
        [line for name, text in sorted(catalogue(side).items()) for line in f"{name} = {text}".splitlines()]
        for side in (migrated, declared)
    ]
    return "\n".join(difflib.unified_diff(sides[0], sides[1], "migrated", "declared", lineterm="", n=0))


def test_migrations_make_the_declared_schema(place: Place) -> None:
    """Goal: a migrated database is the declared one, down to triggers, checks, owners and privileges.

    Method: make one by each way, and compare what the databases' own catalogues say of them.
    """
    with place.empty() as migrated, place.declared() as declared:
        deploy.migrate(migrated)
        assert difference(migrated, declared) == ""
        described = catalogue(declared)
    for table in tables.metadata.tables.values():
        assert any(name.endswith(f" {table.name}") for name in described)
        for part in (*table.constraints, *table.indexes):
            assert any(str(getattr(part, "name", None)) in name for name in described), part


CHANGES = {
    "sqlite": {
        "DROP TRIGGER entries_no_delete": "trigger entries_no_delete",
        "DROP INDEX runs_newest": "index runs_newest",
        "ALTER TABLE keys ADD COLUMN more TEXT": "more TEXT",
        "ALTER TABLE runs RENAME COLUMN due_us TO later_us": "later_us",
        "CREATE TABLE more (id INTEGER)": "table more",
        "CREATE VIEW seen AS SELECT 1": "view seen",
        "UPDATE sqlite_master SET sql = replace(sql, 'STRICT', '') WHERE name = 'runs'": "rowid runs",
        "UPDATE sqlite_master SET sql = replace(sql, 'mu_sq_pico >= 0', 'mu_sq_pico >= 1')": "mu_sq_pico >= 1",
        "UPDATE sqlite_master SET sql = replace(sql, 'digest BLOB NOT NULL', 'digest BLOB')": "digest BLOB",
        "UPDATE sqlite_master SET sql = replace(sql, ' REFERENCES ', ' REFERENCES x')": "xentries",
        "UPDATE sqlite_master SET sql = replace(sql, 'max(seq)', 'min(seq)')": "min(seq)",
    },
    "postgresql": {
        "DROP TRIGGER entries_keep_all ON entries": "trigger entries.entries_keep_all",
        "ALTER TABLE entries ENABLE TRIGGER entries_keep": "enabled O",
        "ALTER TABLE entries DISABLE TRIGGER entries_next": "enabled D",
        "CREATE OR REPLACE FUNCTION entries_keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'": "OLD",
        "ALTER FUNCTION entries_next() SECURITY DEFINER": "SECURITY DEFINER",
        "ALTER TABLE accounts DROP CONSTRAINT accounts_delta_atto_within_limit": "accounts_delta_atto_within_limit",
        "ALTER TABLE places ALTER CONSTRAINT places_entry_fkey DEFERRABLE": "DEFERRABLE",
        "ALTER TABLE places DROP CONSTRAINT places_entry_fkey": "internal triggers places",
        "DROP INDEX runs_newest": "runs_newest",
        "ALTER TABLE keys ALTER digest DROP NOT NULL": "column keys.digest",
        "ALTER TABLE keys ALTER name SET DEFAULT ''": "column keys.name",
        "ALTER TABLE runs ALTER due_us TYPE integer": "column runs.due_us",
        "ALTER TABLE runs DISABLE ROW LEVEL SECURITY": "relation runs",
        "ALTER TABLE accounts NO FORCE ROW LEVEL SECURITY": "relation accounts",
        "DROP POLICY places_tenant ON places": "policy places.places_tenant",
        "CREATE POLICY everyone ON runs USING (true)": "policy runs.everyone",
        f"GRANT DELETE ON entries TO {SERVER_ROLE}": "relation entries",
        f"GRANT UPDATE (bound) ON datasets TO {SERVER_ROLE}": "column datasets.bound",
        f"REVOKE SELECT ON keys FROM {SERVER_ROLE}": "relation keys",
        "GRANT SELECT ON keys TO PUBLIC": "relation keys",
        "CREATE SEQUENCE more": "relation more",
        "CREATE VIEW seen AS SELECT 1": "relation seen",
        "CREATE RULE more AS ON DELETE TO entries DO INSTEAD NOTHING": "rule entries.more",
        "CREATE TYPE more AS ENUM ('a')": "type more",
        "CREATE SCHEMA more": "schema more",
    },
}


def test_the_comparison_sees_every_change(place: Place) -> None:
    """Goal: the test above can fail. Method: change one thing in a migrated database at a time, and read its name."""
    with place.declared() as declared, place.templates.clone(place.kind, place.folder) as migrated:
        for statement, named in CHANGES["sqlite" if place.kind == "sqlite" else "postgresql"].items():
            before = difference(migrated, declared).splitlines()
            change(migrated, *(["PRAGMA writable_schema = ON"] if "sqlite_master" in statement else []), statement)
            seen = [line for line in difference(migrated, declared).splitlines() if line not in before]
            assert any(named in line for line in seen), (statement, seen)


# --- migrating -------------------------------------------------------------------------------------------------------


def test_migrating_again_changes_nothing(place: Place) -> None:
    """Goal: `migrate` can be run at every start. Method: twice, with a row in between, and compare all there is."""
    with place.empty() as settings:
        first = deploy.migrate(settings)
        deploy.initialise(settings, tenant="acme")
        before = catalogue(settings)
        assert deploy.migrate(settings) == first == deploy.newest_revision()
        assert catalogue(settings) == before
        assert ask(settings, "SELECT name FROM tenants") == [("acme",)]
        assert ask(settings, "SELECT version_num FROM alembic_version") == [(first,)]
        deploy.demand_migrated(settings)


def a_tenant(settings: Settings, revision: str) -> list[str]:
    """Statements that put a tenant into a database at an older revision."""
    id_ = uuid.uuid4()
    if revision < "0004":
        return [f"INSERT INTO tenants VALUES ('{id_}', 'acme', 1)"]
    head = "zeroblob(32)" if settings.is_sqlite else "decode(repeat('00', 32), 'hex')"
    row = (
        "INSERT INTO tenants (tenant_id, name, second_steward, seq, head, created_us)"
        f" VALUES ('{id_}', 'acme', 0, 0, {head}, 1)"
    )
    # From here on row-level security holds for the owner too.
    return [row] if settings.is_sqlite else [f"SELECT set_config('app.tenant_id', '{id_}', false)", row]


def test_every_older_version_is_brought_up(place: Place) -> None:
    """Goal: whoever upgrades keeps the rows and gets the declared schema. Method: begin at each older revision."""
    revisions = [script.revision for script in ScriptDirectory.from_config(deploy._config()).walk_revisions()]
    assert revisions[0] == deploy.newest_revision()
    for older in revisions[1:]:
        with place.empty() as settings, place.declared() as declared:
            engine = engine_for(settings.owner_url)
            with engine.execution_options(writing=True).begin() as connection:
                config = deploy._config()
                config.attributes["connection"] = connection
                command.upgrade(config, older)
            engine.dispose()
            change(settings, *a_tenant(settings, older))
            assert "`privacy-ledger migrate`" in misconfigured(partial(deploy.demand_migrated, settings))
            assert deploy.migrate(settings) == revisions[0]
            assert difference(settings, declared) == ""
            assert ask(settings, "SELECT name FROM tenants") == [("acme",)]


def test_of_many_that_migrate_at_once_all_succeed(place: Place) -> None:
    """Goal: replicas that start together all find a migrated database.

    Method: four threads migrate one empty database at the same moment, on SQLite three times over, since nothing shows
    there that they met; on PostgreSQL once, when all of them are seen to wait for the lock.
    """
    for _ in range(3 if place.kind == "sqlite" else 1):
        with place.empty() as settings, place.declared() as declared:
            newest = deploy.newest_revision()
            assert migrated_by_four(settings) == [newest] * 4
            assert difference(settings, declared) == ""
            assert ask(settings, "SELECT version_num FROM alembic_version") == [(newest,)]


def migrated_by_four(settings: Settings) -> list[str]:
    """What four threads are answered that begin together."""
    together = threading.Barrier(4)

    def migrate() -> str:
        together.wait(WAIT_SECONDS_MAX)
        return deploy.migrate(settings)

    with ThreadPoolExecutor(4) as pool, contextlib.ExitStack() as held:
        if not settings.is_sqlite:
            lock = held.enter_context(owned(settings))
            lock.execute("SELECT pg_advisory_lock(%s)", [deploy._LOCK_ID])
        migrating = [pool.submit(migrate) for _ in range(4)]
        if not settings.is_sqlite:
            until(lambda: waiting_for_advisory_locks(settings) == 4)
        held.close()
        return [done.result(timeout=WAIT_SECONDS_MAX) for done in migrating]


def waiting_for_advisory_locks(settings: Settings) -> int:
    """How many sessions wait for an advisory lock of this database."""
    question = """SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
    return int(ask(settings, question)[0][0])


def test_two_processes_migrate_at_once(place: Place) -> None:
    """Goal: the same between processes. Method: two of them on one empty database, and what they print and leave."""
    with place.empty() as settings, place.declared() as declared:
        running = [
            subprocess.Popen(
                [sys.executable, "-c", MIGRATE],
                env=environment(settings),
                cwd=place.folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for _ in range(2)
        ]
        printed = [process.communicate(timeout=60)[0] for process in running]
        assert [process.returncode for process in running] == [0, 0], printed
        assert printed == [f"{ledger.__file__} {deploy.newest_revision()}\n"] * 2
        assert difference(settings, declared) == ""


def test_a_migration_that_cannot_have_its_lock_gives_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a deployment does not hang behind another one.

    Method: hold the lock, shorten the wait, and look at the clock; on PostgreSQL also with a lock on a table.
    """
    monkeypatch.setattr(deploy, "_LOCK_TIMEOUT_MS", 100)
    monkeypatch.setattr(engines, "SQLITE_BUSY_SECONDS", 0.1)
    with place.templates.clone(place.kind, place.folder) as settings:
        change(settings, "UPDATE alembic_version SET version_num = version_num")
        if place.kind == "sqlite":
            with contextlib.closing(sqlite3.connect(file_of(settings), isolation_level=None)) as file:
                file.execute("BEGIN IMMEDIATE")
                gives_up(settings, "locked")
        else:
            for hold in (f"SELECT pg_advisory_xact_lock({deploy._LOCK_ID})", "LOCK TABLE alembic_version"):
                with owned(settings) as other, other.transaction():
                    other.execute(hold.encode())
                    gives_up(settings, "lock timeout")
        assert deploy.migrate(settings) == deploy.newest_revision()


def gives_up(settings: Settings, why: str) -> None:
    """Migrating fails for this reason, in far less than the ten seconds that any other statement may wait."""
    begun = time.monotonic()
    with pytest.raises(Misconfigured, match=why):
        deploy.migrate(settings)
    assert time.monotonic() - begun < 8


def test_a_migration_that_fails_leaves_nothing(place: Place) -> None:
    """Goal: no half schema. Method: have the last table's name taken; nothing before it stays, and then it works."""
    with place.empty() as settings:
        change(settings, "CREATE TABLE claims (id integer)")
        before = catalogue(settings)
        with pytest.raises(Misconfigured, match=r"claims.*already exists"):
            deploy.migrate(settings)
        assert catalogue(settings) == before
        change(settings, "DROP TABLE claims")
        assert deploy.migrate(settings) == deploy.newest_revision()


# --- what stands in the way ------------------------------------------------------------------------------------------

SECRET = "s3cret-of-nobody"


def misconfigured(task: Callable[[], object], *hidden: str) -> str:
    """The message of the Misconfigured that a task raises; neither it nor its causes show what is hidden."""
    with pytest.raises(Misconfigured) as raised:
        task()
    shown = "".join(traceback.format_exception(raised.value, limit=0))
    assert not [secret for secret in hidden if secret in shown]
    return raised.value.detail


def at(url: str, owner_url: str | None = None) -> Settings:
    """Settings that lead to a database by its URLs."""
    return Settings(database_url=SecretStr(url), owner_database_url=SecretStr(owner_url) if owner_url else None)


TASKS: dict[str, Callable[[Settings], object]] = {
    "migrate": deploy.migrate,
    "initialise": lambda settings: deploy.initialise(settings, tenant="acme"),
    "reset_admin": lambda settings: deploy.reset_admin(settings, tenant="acme"),
    "demand_migrated": deploy.demand_migrated,
}


@pytest.mark.parametrize("task", TASKS)
def test_a_database_that_is_not_there(task: str, tmp_path: Path) -> None:
    """Goal: who cannot reach the database reads why, and nobody reads the password.

    Method: a port where nobody listens, a folder that is not there, and URLs that are none, or lead to another product
    or to a database that ends with its connection.
    """
    port = free_port()
    refused = misconfigured(partial(TASKS[task], at(f"postgresql://ledger:{SECRET}@127.0.0.1:{port}/ledger")), SECRET)
    assert str(port) in refused
    assert "refused" in refused
    assert "unable to open" in misconfigured(partial(TASKS[task], at(f"sqlite:///{tmp_path}/missing/ledger.db")))
    for url in (
        f"ledger:{SECRET}@127.0.0.1/ledger",
        f"postgresql://ledger:{SECRET}@127.0.0.1:port/ledger",
        f"postgresql://ledger:{SECRET}@{SECRET}@127.0.0.1/ledger",
        f"mysql://ledger:{SECRET}@127.0.0.1/ledger",
        f"nonsense://ledger:{SECRET}@127.0.0.1/ledger",
        "sqlite://",
        "sqlite:///:memory:",
    ):
        message = misconfigured(partial(TASKS[task], at(url)), SECRET)
        assert "LEDGER_DATABASE_URL" in message
        assert "postgresql://" in message


def test_a_server_url_that_is_none(cluster: Place) -> None:
    """Goal: the owner's right URL does not hide the server's wrong one. Method: migrate with such a pair."""
    with cluster.empty() as settings:
        wrong = at(f"postgresql://ledger:{SECRET}@127.0.0.1:port/x", settings.owner_url)
        assert "LEDGER_DATABASE_URL" in misconfigured(partial(deploy.migrate, wrong), SECRET)
        assert ask(settings, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_a_wrong_password(cluster: Place) -> None:
    """Goal: it is said, and not shown. Method: the server's role and the owner with another password."""
    with cluster.templates.clone(cluster.kind, cluster.folder) as settings:
        for task in TASKS.values():
            url = make_url(settings.owner_url).set(password=SECRET).render_as_string(hide_password=False)
            assert "password authentication failed" in misconfigured(partial(task, at(url)), SECRET)


def test_a_database_that_was_not_migrated(place: Place) -> None:
    """Goal: a server that starts too early says what to do. Method: with nothing there, and with an older version."""
    with place.empty() as settings:
        password = make_url(settings.database_url.get_secret_value()).password or SECRET
        owners = make_url(settings.owner_url).password or SECRET
        for task in ("initialise", "reset_admin", "demand_migrated"):
            message = misconfigured(partial(TASKS[task], settings), password, owners)
            assert "`privacy-ledger migrate`" in message
        deploy.migrate(settings)
        deploy.demand_migrated(settings)
        change(settings, "UPDATE alembic_version SET version_num = '0000'")
        older = misconfigured(partial(deploy.demand_migrated, settings), password, owners)
        assert "0000" in older
        assert deploy.newest_revision() in older
        assert "`privacy-ledger migrate`" in older
        change(settings, "DELETE FROM alembic_version")
        assert "`privacy-ledger migrate`" in misconfigured(partial(deploy.demand_migrated, settings), password, owners)


def test_a_database_of_a_newer_version(database: Settings) -> None:
    """Goal: going back a version is refused with a reason. Method: put in a revision that this one does not know."""
    change(database, "UPDATE alembic_version SET version_num = '9999'")
    for task in (deploy.migrate, deploy.demand_migrated):
        assert "9999" in misconfigured(partial(task, database))
    assert "newer" in misconfigured(partial(deploy.migrate, database))


def test_an_admin_of_no_tenant(database: Settings) -> None:
    """Goal: a mistyped tenant is no trouble with the database. Method: reset the admin of one that is not there."""
    with pytest.raises(NotFound, match="nobody"):
        deploy.reset_admin(database, tenant="nobody")


# --- the server's role -----------------------------------------------------------------------------------------------


def granted() -> tuple[set[tuple[str, str]], set[tuple[str, str, str]]]:
    """`tables.GRANTS`, as tables with privileges, and columns with theirs."""
    whole, columns = set(), set()
    for table, privileges in guards.GRANTS.items():
        for privilege, listed in re.findall(r"(\w+)(?: \(([^)]*)\))?", privileges):
            if listed:
                columns |= {(table, column.strip(), privilege) for column in listed.split(",")}
            else:
                whole.add((table, privilege))
    return whole, columns


def held_by_server(settings: Settings) -> tuple[set[tuple[str, str]], set[tuple[str, str, str]]]:
    """The same, as the catalogue has it for the server's role and for everybody."""
    role = f"grantee IN (0, '{SERVER_ROLE}'::regrole)"
    of_tables = f"""SELECT relname, privilege_type FROM pg_class, aclexplode(relacl)
                    WHERE relnamespace = 'public'::regnamespace AND {role}"""
    of_columns = f"""SELECT relname, attname, privilege_type FROM pg_attribute, aclexplode(attacl), pg_class c
                     WHERE attrelid = c.oid AND relnamespace = 'public'::regnamespace AND {role}"""
    whole, columns = ask(settings, of_tables), ask(settings, of_columns)
    return {(table, what) for table, what in whole}, {(table, column, what) for table, column, what in columns}


def test_the_servers_role_has_what_is_granted_and_no_more(postgresql: Settings) -> None:
    """Goal: the role that serves can do what serving needs.

    Method: compare the catalogue's privileges, its attributes, what it owns and what it belongs to with what is
    declared, and every privilege that PostgreSQL says it has in effect, by whatever way.
    """
    assert held_by_server(postgresql) == granted()
    assert {table for table, _ in granted()[0]} == {*tables.metadata.tables, "alembic_version"}
    attributes = "rolsuper, rolbypassrls, rolcreatedb, rolcreaterole, rolreplication, rolcanlogin"
    assert ask(postgresql, f"SELECT {attributes} FROM pg_roles WHERE rolname = '{SERVER_ROLE}'") == [
        (False, False, False, False, False, True)
    ]
    role = f"'{SERVER_ROLE}'::regrole"
    assert ask(postgresql, f"SELECT * FROM pg_shdepend WHERE refobjid = {role} AND deptype = 'o'") == []
    assert ask(postgresql, f"SELECT * FROM pg_auth_members WHERE member = {role}") == []
    for privilege in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"):
        effective = f"""SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
                        AND has_table_privilege({role}, oid, '{privilege}')"""
        assert {table for (table,) in ask(postgresql, effective)} == {
            table for table, granted_privilege in granted()[0] if granted_privilege == privilege
        }, privilege
    assert ask(postgresql, f"SELECT has_schema_privilege({role}, 'public', 'CREATE')") == [(False,)]
    assert ask(postgresql, f"SELECT has_database_privilege({role}, current_database(), 'CREATE')") == [(False,)]


FORBIDDEN = (
    "ALTER TABLE entries DISABLE TRIGGER ALL",
    "ALTER TABLE entries DISABLE TRIGGER entries_keep",
    "ALTER TABLE accounts DROP CONSTRAINT accounts_mu_sq_pico_within_limit",
    "ALTER TABLE datasets ADD more text",
    "ALTER TABLE runs DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE claims OWNER TO CURRENT_USER",
    "ALTER FUNCTION entries_keep() SECURITY DEFINER",
    "CREATE OR REPLACE FUNCTION webhook_tenants() RETURNS SETOF uuid LANGUAGE sql"
    " AS 'SELECT tenant_id FROM public.tenants'",
    "CREATE OR REPLACE FUNCTION entries_keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'",
    "DROP TRIGGER entries_keep ON entries",
    "DROP FUNCTION entries_keep() CASCADE",
    "DROP INDEX runs_newest",
    "CREATE TRIGGER more BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION entries_keep()",
    "CREATE RULE more AS ON INSERT TO entries DO INSTEAD NOTHING",
    "CREATE TABLE public.more (id integer)",
    "CREATE SCHEMA more",
    "CREATE ROLE more",
    "SET session_replication_role = replica",
    "SET ROLE {owner}",
    "SET SESSION AUTHORIZATION {owner}",
    "GRANT {owner} TO CURRENT_USER",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "ALTER ROLE CURRENT_USER BYPASSRLS",
    "UPDATE entries SET body = 'forged'",
    "DELETE FROM entries",
    "TRUNCATE entries, runs",
    "UPDATE datasets SET bound = 'clt'",
    "UPDATE datasets SET adjacency = 'replace_one'",
    "UPDATE datasets SET privacy_unit = 'user'",
    "UPDATE datasets SET name = 'another'",
    "UPDATE datasets SET size = 1",
    "UPDATE keys SET role = 'admin'",
    "UPDATE keys SET datasets = NULL",
    "UPDATE keys SET projects = NULL",
    "UPDATE keys SET principal_id = tenant_id",
    "UPDATE tenants SET name = 'another'",
    "DELETE FROM proposals",
    "UPDATE proposals SET principal_id = tenant_id",
    "ALTER TABLE keys DISABLE ROW LEVEL SECURITY",
    "DROP POLICY keys_tenant ON keys",
    "UPDATE runs SET mu_sq_pico = 0",
    "UPDATE datasets SET is_partitioned = 1",
    "UPDATE datasets SET ceiling_mu_sq_pico = 1000",
    "UPDATE lineage SET position = NULL",
    "DELETE FROM lineage",
    "DELETE FROM projects",
    "DELETE FROM accounts",
    "UPDATE accounts SET partition = 'another'",
    "UPDATE places SET seq = 1",
    "INSERT INTO operator_keys SELECT * FROM operator_keys",
    "UPDATE operator_keys SET revoked_us = NULL",
    "DELETE FROM operator_keys",
    "UPDATE alembic_version SET version_num = '9999'",
    "COPY entries TO PROGRAM 'true'",
    "SELECT rolpassword FROM pg_authid",
)


def test_the_servers_role_is_refused_everything_else(cluster: Place) -> None:
    """Goal: a faulty or taken-over server cannot change the rules, the past, or what a dataset is.

    Method: try that as the server's role, and UPDATE of every column, DELETE, TRUNCATE and DROP of every table besides;
    exactly what is not granted is refused for want of privilege.
    """
    whole, columns = granted()
    with cluster.templates.clone(cluster.kind, cluster.folder) as settings, served(settings) as connection:

        def is_refused(statement: str) -> bool:
            with connection.transaction(force_rollback=True):
                try:
                    connection.execute(statement.encode())
                except psycopg.errors.InsufficientPrivilege:
                    return True
                return False

        owner = make_url(settings.owner_url).username
        allowed = [statement for statement in FORBIDDEN if not is_refused(statement.format(owner=owner))]
        for table in tables.metadata.tables.values():
            for column in table.columns:
                may = (table.name, "UPDATE") in whole or (table.name, column.name, "UPDATE") in columns
                if is_refused(f"UPDATE {table.name} SET {column.name} = NULL") == may:
                    allowed.append(str(column))
            if is_refused(f"DELETE FROM {table.name}") == ((table.name, "DELETE") in whole):
                allowed.append(f"DELETE {table.name}")
            allowed += [
                f"{verb} {table.name}"
                for verb in ("TRUNCATE", "DROP TABLE")
                if not is_refused(f"{verb} {table.name} CASCADE")
            ]
        assert allowed == []


@contextlib.contextmanager
def new_role(place: Place, name: str) -> Iterator[str]:
    """The name of a role that is not there yet, and is gone in the end. Databases it is let into end before."""
    with contextlib.closing(connected(place.server.admin_url)) as connection:
        try:
            yield name
        finally:
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


def with_role(settings: Settings, role: str, password: str | None) -> Settings:
    """The same database, served by another role."""
    url = make_url(settings.owner_url).set(username=role, password=password)
    if password is None:
        url = url._replace(password=None)
    return at(url.render_as_string(hide_password=False), settings.owner_url)


@pytest.mark.parametrize(
    ("role", "password"),
    [("server_{}", "plain"), ('Sërver "{}" %s {{x}} \'', "it's %(a)s :b \\ @/:?#[] “ü” {}"), ("server_{}", "x" * 200)],
)
def test_a_role_that_migrate_made_can_serve(cluster: Place, role: str, password: str) -> None:
    """Goal: any name and password will do. Method: migrate with odd ones, log in by them, and be checked as server."""
    with new_role(cluster, role.format(uuid.uuid4().hex)) as name, cluster.empty() as empty:
        settings = with_role(empty, name, password)
        for _ in range(2):
            deploy.migrate(settings)
        deploy.demand_migrated(settings)
        with served(settings) as connection:
            assert connection.execute("SELECT current_user").fetchone() == (name,)
        attributes = "rolsuper, rolbypassrls, rolcreatedb, rolcreaterole, rolreplication"
        with owned(settings) as connection:
            found = connection.execute(
                f"SELECT {attributes} FROM pg_roles WHERE rolname = %s".encode(), [name]
            ).fetchone()
        assert found == (False,) * 5


@pytest.mark.parametrize("made_elsewhere", [False, True])
def test_the_password_is_neither_kept_nor_said_in_plain_text(cluster: Place, made_elsewhere: bool) -> None:
    """Goal: no log, no view of running statements and no catalogue has it.

    Method: make the role in a transaction, so that `migrate` waits with its statement in a superuser's sight, and read
    it there. When that transaction is undone, `migrate` makes the role, with a verifier for a password; when it is
    committed, `migrate` says so and leaves nothing, and the next one takes the role as it is.
    """
    with (
        new_role(cluster, f"server_{uuid.uuid4().hex}") as role,
        cluster.empty() as empty,
        cluster.superuser(empty) as watcher,
        owned(empty) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        settings = with_role(empty, role, SECRET)

        def waiting() -> str:
            question = "SELECT query FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
            return "".join(query for (query,) in watcher.execute(question, [other.info.backend_pid]).fetchall())

        with other.transaction(force_rollback=not made_elsewhere):
            other.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
            migrating = pool.submit(deploy.migrate, settings)
            until(lambda: waiting() != "")
            statement = waiting()
        assert "CREATE ROLE" in statement
        assert "SCRAM-SHA-256$" in statement
        assert SECRET not in statement
        if made_elsewhere:
            assert "pg_authid_rolname_index" in misconfigured(
                lambda: migrating.result(timeout=WAIT_SECONDS_MAX), SECRET
            )
            assert ask(empty, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
            assert deploy.migrate(settings) == deploy.newest_revision()
        assert migrating.exception(timeout=WAIT_SECONDS_MAX) is None or made_elsewhere
        kept = watcher.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [role]).fetchone()
        assert kept is not None
        verifier = re.compile(r"SCRAM-SHA-256\$\d+:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+")
        assert kept == (None,) if made_elsewhere else verifier.fullmatch(kept[0])
        may = "SELECT has_table_privilege(%s, 'entries', 'INSERT')"
        assert watcher.execute(may, [role]).fetchone() == (True,)


def test_a_missing_role_without_a_password(cluster: Place) -> None:
    """Goal: no role is made that anybody could log in as. Method: a URL without password; nothing at all is made."""
    with new_role(cluster, f"server_{uuid.uuid4().hex}") as role, cluster.empty() as empty:
        message = misconfigured(partial(deploy.migrate, with_role(empty, role, None)))
        assert "LEDGER_DATABASE_URL" in message
        assert "password" in message
        assert ask(empty, f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'") == []
        assert ask(empty, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_an_owner_who_may_not_make_roles(cluster: Place) -> None:
    """Goal: it is said, as Misconfigured. Method: an owner without CREATEROLE, and a server's role that is missing."""
    owner, role = f"owner_{uuid.uuid4().hex}", f"server_{uuid.uuid4().hex}"
    with new_role(cluster, owner), cluster.empty() as empty, cluster.superuser(empty) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(owner), SECRET))
        database = sql.Identifier(str(make_url(empty.owner_url).database))
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, sql.Identifier(owner)))
        weak = make_url(empty.owner_url).set(username=owner, password=SECRET).render_as_string(hide_password=False)
        settings = with_role(at(weak, weak), role, SECRET + "-2")
        assert "permission denied to create role" in misconfigured(partial(deploy.migrate, settings), SECRET)
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


def test_migrating_takes_back_what_was_granted_besides(postgresql: Settings) -> None:
    """Goal: privileges are those declared, whatever somebody added. Method: add some, take one, and migrate again."""
    change(
        postgresql,
        f"GRANT ALL ON entries, operator_keys TO {SERVER_ROLE}",
        f"GRANT UPDATE (bound, name) ON datasets TO {SERVER_ROLE}",
        f"REVOKE INSERT ON runs FROM {SERVER_ROLE}",
    )
    assert held_by_server(postgresql) != granted()
    deploy.migrate(postgresql)
    assert held_by_server(postgresql) == granted()


def test_one_role_for_everything(cluster: Place) -> None:
    """Goal: a ledger whose owner serves needs no second role. Method: migrate with one URL, and with it given twice."""
    with cluster.empty() as settings:
        for owner_url in (None, settings.owner_url):
            one = at(settings.owner_url, owner_url)
            deploy.migrate(one)
            deploy.demand_migrated(one)
        assert held_by_server(settings) == (set(), set())


# --- the wheel -------------------------------------------------------------------------------------------------------


def test_a_wheel_brings_the_migrations(tmp_path: Path) -> None:
    """Goal: an installed ledger can migrate where there is no checkout.

    Method: build the wheel without network, look into it, unpack it to a folder with an odd name, and migrate there.
    """
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "100% wheel"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(installed)
    wanted = {path.name for path in (ROOT / "migrations" / "versions").glob("*.py")}
    assert wanted
    prefix = "ledger/_migrations/versions/"
    assert {name.removeprefix(prefix) for name in names if name.startswith(prefix)} == wanted
    assert "ledger/_migrations/env.py" in names
    assert {name.split("/")[0] for name in names} == {"ledger", f"privacy_ledger-{ledger.__version__}.dist-info"}
    settings = at(f"sqlite:///{tmp_path / 'ledger.db'}")
    told = subprocess.run(
        [sys.executable, "-c", MIGRATE],
        cwd=tmp_path,
        env=environment(settings) | {"PYTHONPATH": os.fspath(installed)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout == f"{installed / 'ledger' / '__init__.py'} {deploy.newest_revision()}\n"
    deploy.demand_migrated(settings)

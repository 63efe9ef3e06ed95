"""The migrations make what `ledger.store.tables` declares, once, whoever runs them."""

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
import uuid
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import make_url

import ledger
from ledger.errors import Misconfigured, NotFound
from ledger.operate import deploy
from ledger.settings import Settings
from ledger.store import engine_for, engines, tables
from tests.conftest import SERVER_ROLE
from tests.kit.databases import (
    SECRET,
    WAIT_SECONDS_MAX,
    Databases,
    ask,
    at,
    change,
    file_of,
    misconfigured,
    owned,
    try_to_open,
    until,
)
from tests.kit.driver import environment, free_port

QUANTITIES = ("mu_sq_pico", "delta_atto")
ACCOUNT_PARTS = ("limit", "spent", "held", "overdrawn")
ROOT = Path(ledger.__file__).parent.parent
MIGRATE = """
import ledger
from ledger import settings
from ledger.operate import deploy
print(ledger.__file__, deploy.migrate(settings.load()))
"""
"""For a process of its own: says which ledger it is and where the schema is then."""


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
    schema = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_stat%'"
    for kind, name, definition in ask(settings, schema):
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


def test_migrations_make_the_declared_schema(databases: Databases) -> None:
    """Goal: a migrated database is the declared one, down to triggers, checks, owners and privileges.

    Method: make one by each way, and compare what the databases' own catalogues say of them.
    """
    with databases.empty() as migrated, databases.declared() as declared:
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


def test_the_comparison_sees_every_change(databases: Databases) -> None:
    """Goal: the test above can fail. Method: change one thing in a migrated database at a time, and read its name."""
    with databases.declared() as declared, databases.templates.clone(databases.kind, databases.folder) as migrated:
        for statement, named in CHANGES["sqlite" if databases.kind == "sqlite" else "postgresql"].items():
            before = difference(migrated, declared).splitlines()
            change(migrated, *(["PRAGMA writable_schema = ON"] if "sqlite_master" in statement else []), statement)
            seen = [line for line in difference(migrated, declared).splitlines() if line not in before]
            assert any(named in line for line in seen), (statement, seen)


# --- migrating -------------------------------------------------------------------------------------------------------


def test_migrating_again_changes_nothing(databases: Databases) -> None:
    """Goal: `migrate` can be run at every start. Method: twice, with a row in between, and compare all there is."""
    with databases.empty() as settings:
        first = deploy.migrate(settings)
        deploy.initialise(settings, tenant="acme")
        before = catalogue(settings)
        assert deploy.migrate(settings) == first == deploy.newest_revision()
        assert catalogue(settings) == before
        assert ask(settings, "SELECT name FROM tenants") == [("acme",)]
        assert ask(settings, "SELECT version_num FROM alembic_version") == [(first,)]
        try_to_open(settings)


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


def test_every_older_version_is_brought_up(databases: Databases) -> None:
    """Goal: whoever upgrades keeps the rows and gets the declared schema. Method: begin at each older revision."""
    revisions = [script.revision for script in ScriptDirectory.from_config(deploy._config()).walk_revisions()]
    assert revisions[0] == deploy.newest_revision()
    for older in revisions[1:]:
        with databases.empty() as settings, databases.declared() as declared:
            at_revision(settings, older)
            change(settings, *a_tenant(settings, older))
            assert "privacy-ledger migrate" in misconfigured(partial(try_to_open, settings))
            assert deploy.migrate(settings) == revisions[0]
            assert difference(settings, declared) == ""
            assert ask(settings, "SELECT name FROM tenants") == [("acme",)]


def test_claims_become_their_principals_own(databases: Databases) -> None:
    """Goal: a key that was claimed before stays claimed, by who claimed it, and proposals stay what they are. Method:
    at revision 0005 a claim and a proposal; afterwards the same rows, and room for another principal's key."""
    with databases.empty() as settings:
        at_revision(settings, "0005")
        tenant = a_tenant(settings, "0005")
        id_, dataset, one, two, run = (str(uuid.uuid4()) for _ in range(5))
        tenant = [line.replace(re.findall("[0-9a-f-]{36}", tenant[-1])[0], id_) for line in tenant]
        digest = "zeroblob(32)" if settings.is_sqlite else "decode(repeat('00', 32), 'hex')"
        change(
            settings,
            *tenant,
            "INSERT INTO datasets (tenant_id, id, name, title, description, privacy_unit, adjacency, bound,"
            " is_partitioned, state, seq, head, created_us)"
            f" VALUES ('{id_}', '{dataset}', 'd', '', '', 'u', 'replace_one', 'clt', 0, 'active', 1, {digest}, 1)",
            "INSERT INTO claims (tenant_id, key, principal_id, digest, run_id)"
            f" VALUES ('{id_}', 'nightly', '{one}', {digest}, '{run}')",
            "INSERT INTO proposals (tenant_id, id, kind, dataset_id, run_id, principal_id, body, state, created_us,"
            f" expires_us) VALUES ('{id_}', '{run}', 'void', '{dataset}', '{run}', '{one}', '{{}}', 'open', 1, 2)",
        )
        deploy.migrate(settings)
        mine = () if settings.is_sqlite else (f"SELECT set_config('app.tenant_id', '{id_}', false)",)
        change(
            settings,
            *mine,
            "INSERT INTO claims (tenant_id, key, principal_id, digest, run_id)"
            f" VALUES ('{id_}', 'nightly', '{two}', {digest}, '{dataset}')",
            f"UPDATE proposals SET kind = 'correction' WHERE tenant_id = '{id_}' AND state = 'open' AND expires_us = 2",
        )
        with owned(settings) if not settings.is_sqlite else sqlite3.connect(file_of(settings)) as connection:
            for statement in mine:
                connection.execute(statement)
            rows = connection.execute("SELECT principal_id, run_id FROM claims WHERE key = 'nightly'").fetchall()
            kinds = connection.execute("SELECT kind FROM proposals").fetchall()
        assert {(str(principal), str(of)) for principal, of in rows} == {(one, run), (two, dataset)}
        assert kinds == [("correction",)]


def test_datasets_stay_what_they_are_when_a_third_adjacency_comes(databases: Databases) -> None:
    """Goal: datasets keep every value and all that refers to them, and then one can be `zero_out`, and none anything
    else. Method: at revision 0011 a root with a copy, an account and all columns; the same rows afterwards; three
    more, of which the last is rejected."""
    tenant, root, copy = (str(uuid.uuid4()) for _ in range(3))
    amounts = ", ".join(f"{part}_{quantity}" for part in ("ceiling", "limit", "least") for quantity in QUANTITIES)
    columns = (
        "tenant_id, id, name, title, description, privacy_unit, adjacency, bound, size, is_partitioned, budget,"
        f" fair_use, state, seq, head, created_us, costing, least_seq, {amounts}"
    )

    with databases.empty() as settings:
        at_revision(settings, "0011")
        digest = "zeroblob(32)" if settings.is_sqlite else "decode(repeat('00', 32), 'hex')"

        def dataset(id_: str, name: str, adjacency: str) -> str:
            return (
                f"INSERT INTO datasets ({columns}) VALUES ('{tenant}', '{id_}', '{name}', 't', 'd', 'u', '{adjacency}',"
                f" 'certified', 7, 0, '{{}}', '{{}}', 'frozen', 0, {digest}, 2, 'residual', 3, 9, 8, 7, 6, 5, 4)"
            )

        accounts = ", ".join(f"{part}_{quantity}" for part in ACCOUNT_PARTS for quantity in QUANTITIES)
        mine = [] if settings.is_sqlite else [f"SELECT set_config('app.tenant_id', '{tenant}', false)"]
        change(
            settings,
            *mine,
            "INSERT INTO tenants (tenant_id, name, second_steward, seq, head, created_us)"
            f" VALUES ('{tenant}', 'acme', 0, 0, {digest}, 1)",
            dataset(root, "root", "add_or_remove_one"),
            dataset(copy, "copy", "replace_one"),
            "INSERT INTO lineage (tenant_id, dataset_id, ancestor_id, position)"
            f" VALUES ('{tenant}', '{copy}', '{root}', 0)",
            f"INSERT INTO accounts (tenant_id, dataset_id, partition, project, principal_id, {accounts})"
            f" VALUES ('{tenant}', '{root}', '', '', '{uuid.UUID(int=0)}', 7, 6, 0, 0, 0, 0, 0, 0)",
        )
        question = f"SELECT {columns} FROM datasets ORDER BY name"
        before = asked_as(settings, mine, question)
        assert len(before) == 2
        deploy.migrate(settings)
        assert asked_as(settings, mine, question) == before
        change(settings, *mine, dataset(str(uuid.uuid4()), "zeroed", "zero_out"))
        with pytest.raises((sqlite3.IntegrityError, psycopg.errors.CheckViolation), match="datasets_adjacency"):
            change(settings, *mine, dataset(str(uuid.uuid4()), "odd", "replace_special"))
        if settings.is_sqlite:
            assert ask(settings, "PRAGMA foreign_key_check") == []
        with pytest.raises((sqlite3.IntegrityError, psycopg.errors.ForeignKeyViolation)):
            change(settings, "PRAGMA foreign_keys = ON" if settings.is_sqlite else mine[0], "DELETE FROM datasets")


def asked_as(settings: Settings, mine: list[str], question: str) -> list[tuple[Any, ...]]:
    """What a tenant sees."""
    with owned(settings) if not settings.is_sqlite else sqlite3.connect(file_of(settings)) as connection:
        for statement in mine:
            connection.execute(statement)
        return connection.execute(question).fetchall()


def at_revision(settings: Settings, revision: str) -> None:
    """Bring an empty database to an older revision."""
    engine = engine_for(settings.owner_url)
    with engine.execution_options(writing=True).begin() as connection:
        config = deploy._config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def test_of_many_that_migrate_at_once_all_succeed(databases: Databases) -> None:
    """Goal: replicas that start together all find a migrated database.

    Method: four threads migrate one empty database at the same moment, on SQLite three times over, since nothing shows
    there that they met; on PostgreSQL once, when all of them are seen to wait for the lock.
    """
    for _ in range(3 if databases.kind == "sqlite" else 1):
        with databases.empty() as settings, databases.declared() as declared:
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


def test_two_processes_migrate_at_once(databases: Databases) -> None:
    """Goal: the same between processes. Method: two of them on one empty database, and what they print and leave."""
    with databases.empty() as settings, databases.declared() as declared:
        running = [
            subprocess.Popen(
                [sys.executable, "-c", MIGRATE],
                env=environment(settings),
                cwd=databases.folder,
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


def test_a_migration_that_cannot_have_its_lock_gives_up(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a deployment does not hang behind another one.

    Method: hold the lock, shorten the wait, and look at the clock; on PostgreSQL also with a lock on a table.
    """
    monkeypatch.setattr(deploy, "_LOCK_TIMEOUT_MS", 100)
    monkeypatch.setattr(engines, "SQLITE_BUSY_SECONDS", 0.1)
    with databases.templates.clone(databases.kind, databases.folder) as settings:
        change(settings, "UPDATE alembic_version SET version_num = version_num")
        if databases.kind == "sqlite":
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


def test_a_migration_that_fails_leaves_nothing(databases: Databases) -> None:
    """Goal: no half schema. Method: have the last table's name taken; nothing before it stays, and then it works."""
    with databases.empty() as settings:
        change(settings, "CREATE TABLE claims (id integer)")
        before = catalogue(settings)
        with pytest.raises(Misconfigured, match=r"claims.*already exists"):
            deploy.migrate(settings)
        assert catalogue(settings) == before
        change(settings, "DROP TABLE claims")
        assert deploy.migrate(settings) == deploy.newest_revision()


# --- what stands in the way ------------------------------------------------------------------------------------------

TASKS: dict[str, Callable[[Settings], object]] = {
    "migrate": deploy.migrate,
    "initialise": lambda settings: deploy.initialise(settings, tenant="acme"),
    "reset_admin": lambda settings: deploy.reset_admin(settings, tenant="acme"),
    "open": try_to_open,
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


def test_a_server_url_that_is_none(cluster: Databases) -> None:
    """Goal: the owner's right URL does not hide the server's wrong one. Method: migrate with such a pair."""
    with cluster.empty() as settings:
        wrong = at(f"postgresql://ledger:{SECRET}@127.0.0.1:port/x", settings.owner_url)
        assert "LEDGER_DATABASE_URL" in misconfigured(partial(deploy.migrate, wrong), SECRET)
        assert ask(settings, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_a_wrong_password(cluster: Databases) -> None:
    """Goal: it is said, and not shown. Method: the server's role and the owner with another password."""
    with cluster.templates.clone(cluster.kind, cluster.folder) as settings:
        for task in TASKS.values():
            url = make_url(settings.owner_url).set(password=SECRET).render_as_string(hide_password=False)
            assert "password authentication failed" in misconfigured(partial(task, at(url)), SECRET)


def test_a_database_that_was_not_migrated(databases: Databases) -> None:
    """Goal: a server that starts too early says what to do. Method: with nothing there, and with an older version."""
    with databases.empty() as settings:
        password = make_url(settings.database_url.get_secret_value()).password or SECRET
        owners = make_url(settings.owner_url).password or SECRET
        for task in ("initialise", "reset_admin", "open"):
            message = misconfigured(partial(TASKS[task], settings), password, owners)
            assert "privacy-ledger migrate" in message
        deploy.migrate(settings)
        try_to_open(settings)
        change(settings, "UPDATE alembic_version SET version_num = '0000'")
        older = misconfigured(partial(try_to_open, settings), password, owners)
        assert "0000" in older
        assert deploy.newest_revision() in older
        assert "privacy-ledger migrate" in older
        change(settings, "DELETE FROM alembic_version")
        assert "privacy-ledger migrate" in misconfigured(partial(try_to_open, settings), password, owners)


def test_a_database_of_a_newer_version(database: Settings) -> None:
    """Goal: going back a version is refused with a reason. Method: put in a revision that this one does not know."""
    change(database, "UPDATE alembic_version SET version_num = '9999'")
    for task in (deploy.migrate, try_to_open):
        assert "9999" in misconfigured(partial(task, database))
    assert "newer" in misconfigured(partial(deploy.migrate, database))


def test_an_admin_of_no_tenant(database: Settings) -> None:
    """Goal: a mistyped tenant is no trouble with the database. Method: reset the admin of one that is not there."""
    with pytest.raises(NotFound, match="nobody"):
        deploy.reset_admin(database, tenant="nobody")


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
    try_to_open(settings)

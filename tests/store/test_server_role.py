"""Migrating lets the server's role in: with what it needs, and with no more."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from ledger.operate import deploy
from ledger.settings import Settings
from ledger.store import guards, tables
from tests.conftest import SERVER_ROLE
from tests.kit.databases import (
    SECRET,
    WAIT_SECONDS_MAX,
    Databases,
    ask,
    at,
    change,
    connected,
    misconfigured,
    owned,
    served,
    try_to_open,
    until,
)


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
    'CREATE OR REPLACE FUNCTION watched_positions() RETURNS TABLE (tenant_id uuid, "position" bigint) LANGUAGE sql'
    " AS 'SELECT tenant_id, seq FROM public.tenants'",
    "ALTER FUNCTION watched_positions() SECURITY INVOKER",
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


def test_the_servers_role_is_refused_everything_else(cluster: Databases) -> None:
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
def new_role(databases: Databases, name: str) -> Iterator[str]:
    """The name of a role that is not there yet, and is gone in the end. Databases it is let into end before."""
    with contextlib.closing(connected(databases.server.admin_url)) as connection:
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
def test_a_role_that_migrate_made_can_serve(cluster: Databases, role: str, password: str) -> None:
    """Goal: any name and password will do. Method: migrate with odd ones, log in by them, and be checked as server."""
    with new_role(cluster, role.format(uuid.uuid4().hex)) as name, cluster.empty() as empty:
        settings = with_role(empty, name, password)
        for _ in range(2):
            deploy.migrate(settings)
        try_to_open(settings)
        with served(settings) as connection:
            assert connection.execute("SELECT current_user").fetchone() == (name,)
        attributes = "rolsuper, rolbypassrls, rolcreatedb, rolcreaterole, rolreplication"
        with owned(settings) as connection:
            found = connection.execute(
                f"SELECT {attributes} FROM pg_roles WHERE rolname = %s".encode(), [name]
            ).fetchone()
        assert found == (False,) * 5


@pytest.mark.parametrize("made_elsewhere", [False, True])
def test_the_password_is_neither_kept_nor_said_in_plain_text(cluster: Databases, made_elsewhere: bool) -> None:
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


def test_a_missing_role_without_a_password(cluster: Databases) -> None:
    """Goal: no role is made that anybody could log in as. Method: a URL without password; nothing at all is made."""
    with new_role(cluster, f"server_{uuid.uuid4().hex}") as role, cluster.empty() as empty:
        message = misconfigured(partial(deploy.migrate, with_role(empty, role, None)))
        assert "LEDGER_DATABASE_URL" in message
        assert "password" in message
        assert ask(empty, f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'") == []
        assert ask(empty, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_an_owner_who_may_not_make_roles(cluster: Databases) -> None:
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


def test_one_role_for_everything(cluster: Databases) -> None:
    """Goal: a ledger whose owner serves needs no second role. Method: migrate with one URL, and with it given twice."""
    with cluster.empty() as settings:
        for owner_url in (None, settings.owner_url):
            one = at(settings.owner_url, owner_url)
            deploy.migrate(one)
            try_to_open(one)
        assert held_by_server(settings) == (set(), set())

"""PostgreSQL's row-level security alone keeps tenants apart, whatever a statement forgets.

Every statement here is plain SQL, and none has a predicate of the application's. Which tables there are, and what the
server's role may do to them, is read from the catalogue, so that a new one is tested too.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url
from sqlalchemy.exc import IntegrityError

from ledger.access.keys import tenant_of
from ledger.errors import Misconfigured
from ledger.operate import deploy
from ledger.settings import Settings
from ledger.store import Store, engine_for, watching
from ledger.store.overview import BEGINNING
from ledger.store.tables import metadata
from tests.conftest import SERVER_ROLE, Templates
from tests.kit import postgres
from tests.kit.days import count_some
from tests.kit.driver import Ledger
from tests.kit.scene import another_tenant, furnished

MINE = "(tenant_id = (NULLIF(current_setting('app.tenant_id'::text, true), ''::text))::uuid)"
"""The one condition, as PostgreSQL writes it."""
OF_TENANTS = """
    SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE a.attname = 'tenant_id' AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND c.relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema')"""
"""Tables and views that have a tenant's id."""
UNPROTECTED = f"""
    {OF_TENANTS} AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (
          SELECT FROM pg_policies p WHERE (p.schemaname, p.tablename) = (c.relnamespace::regnamespace::text, c.relname)
            AND p.permissive = 'PERMISSIVE' AND p.cmd = 'ALL' AND p.roles = '{{public}}'
            AND p.qual = %(mine)s AND p.with_check = %(mine)s))"""
"""Those of them that row-level security does not keep."""
TABLES = sorted(table.name for table in metadata.tables.values() if "tenant_id" in table.columns)
JOURNALS = ("entries", "tenant_entries")
ACTIONS = ("INSERT", "UPDATE", "DELETE")


@dataclass(frozen=True, slots=True)
class Site:
    """A database in which two tenants have a row, at least, in every table."""

    settings: Settings
    mine: UUID
    theirs: UUID

    def open(self, url: str) -> contextlib.closing[psycopg.Connection]:
        """A connection of the server's role or the owner's, on which no tenant is said."""
        plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        return contextlib.closing(psycopg.connect(plain, connect_timeout=10))

    @property
    def server_url(self) -> str:
        return self.settings.database_url.get_secret_value()

    @contextlib.contextmanager
    def as_tenant(self, connection: psycopg.Connection, tenant: UUID | str | None) -> Iterator[psycopg.Cursor]:
        """A transaction that says whose it is, or does not, and comes to nothing."""
        with connection.transaction(force_rollback=True), connection.cursor() as cursor:
            if tenant is not None:
                cursor.execute("SELECT set_config('app.tenant_id', %s, true)", [str(tenant)])
            yield cursor


@pytest.fixture(scope="module", params=postgres.chosen())
def site(
    request: pytest.FixtureRequest, templates: Templates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Both tenants, filled through the API, once: no test here commits anything."""
    with templates.clone(request.param, tmp_path_factory.mktemp("site")) as settings:
        with Ledger.open(settings) as ledger:
            other = another_tenant(ledger)
            furnished(ledger)
            furnished(other)
        while count_some(settings, random.Random(0), passes=1, entries_max=1_000):
            pass
        yield Site(settings, tenant_of(ledger.key), tenant_of(other.key))


def done(cursor: psycopg.Cursor, statement: str, *names: str, **values: Any) -> str:
    """What comes of a statement, whose names and values are put in: the rows it touched, or why it may not."""
    composed = sql.SQL(statement).format(*map(sql.Identifier, names))
    try:
        with cursor.connection.transaction():
            cursor.execute(composed, values)
    except psycopg.Error as error:
        if "row-level security" in str(error):
            return "row-level security"
        if "permission denied" in str(error):
            return "no right"
        return f"{error.sqlstate}"
    return str(cursor.rowcount)


def rows(cursor: psycopg.Cursor, table: str) -> list[dict[str, Any]]:
    """All that a plain SELECT shows, by the primary key: of a journal, its first entry comes first."""
    key = [column.name for column in metadata.tables[table].primary_key.columns]
    order = sql.SQL(", ").join(map(sql.Identifier, key))
    cursor.execute(sql.SQL("SELECT * FROM {} ORDER BY {}").format(sql.Identifier(table), order))
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def may(cursor: psycopg.Cursor, action: str, table: str) -> list[str]:
    """The columns with which the role may do this to a table."""
    cursor.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %(table)s::regclass AND attnum > 0 AND NOT attisdropped"
        " AND CASE %(action)s WHEN 'DELETE' THEN has_table_privilege(%(table)s, 'DELETE')"
        " ELSE has_column_privilege(%(table)s, attname, %(action)s) END ORDER BY attnum",
        {"table": table, "action": action},
    )
    return [row[0] for row in cursor.fetchall()]


def inserted(cursor: psycopg.Cursor, table: str, row: dict[str, Any]) -> str:
    """What comes of putting this row in."""
    names = list(row)
    places = ", ".join(f"%({name})s" for name in names)
    return done(cursor, f"INSERT INTO {{}} ({', '.join('{}' for _ in names)}) VALUES ({places})", table, *names, **row)


# --- the catalogue ---------------------------------------------------------------------------------------------------


def test_every_table_of_tenants_is_protected(site: Site) -> None:
    """Goal: no table or view of tenants without its policy, now or later. Method: the catalogue, and that the question
    finds one table of each way to get it wrong."""
    wrong = {
        "bare": [],
        "enabled": ["ENABLE ROW LEVEL SECURITY"],
        "forced": ["ENABLE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY"],
    }
    with site.open(site.settings.owner_url) as owner, owner.transaction(force_rollback=True):
        assert sorted(row[0] for row in owner.execute(OF_TENANTS).fetchall()) == TABLES
        assert owner.execute(UNPROTECTED, {"mine": MINE}).fetchall() == []
        for name, steps in wrong.items():
            owner.execute(sql.SQL("CREATE TABLE {} (tenant_id uuid NOT NULL)").format(sql.Identifier(name)))
            for step in steps:
                owner.execute(sql.SQL("ALTER TABLE {} ").format(sql.Identifier(name)) + sql.SQL(step))
        owner.execute("CREATE POLICY lax ON forced USING (true) WITH CHECK (true)")
        owner.execute("CREATE VIEW seen AS SELECT tenant_id FROM keys")
        found = sorted(row[0] for row in owner.execute(UNPROTECTED, {"mine": MINE}).fetchall())
        assert found == ["bare", "enabled", "forced", "seen"]


def test_no_other_policy_lets_anyone_in(site: Site) -> None:
    """Goal: policies are added up, so that one more would open a table. Method: all that there are; those that are not
    as the others show the owner, and no other role, the tenants' names, and rows inside of functions that watch or that
    tell keys."""
    question = "SELECT tablename, policyname, cmd, roles::text FROM pg_policies ORDER BY 1, 2"
    with site.open(site.settings.owner_url) as owner:
        policies = owner.execute(question).fetchall()
        role = owner.info.user
    plain = [(table, f"{table}_tenant", "ALL", "{public}") for table in TABLES]
    to_owner = [
        ("keys", "keys_owner"),
        ("tenants", "tenants_owner"),
        *((table, f"{table}_watched") for table in watching.WATCHED),
    ]
    assert policies == sorted([*plain, *((*name, "SELECT", f"{{{role}}}") for name in to_owner)])


# --- with a tenant ---------------------------------------------------------------------------------------------------


def test_a_tenant_sees_its_own_rows_alone(site: Site) -> None:
    """Goal: SELECT shows no other's rows, and all of one's own. Method: every table, as each of two tenants; both have
    rows in all of them."""
    with site.open(site.server_url) as server:
        for tenant in (site.mine, site.theirs):
            with site.as_tenant(server, tenant) as cursor:
                for table in TABLES:
                    assert {row["tenant_id"] for row in rows(cursor, table)} == {tenant}, table


def test_a_tenant_adds_no_rows_for_another(site: Site) -> None:
    """Goal: INSERT makes no row of another tenant's. Method: in every table a row that the other has; under its own
    tenant the same statement fails because the row is there already, so that nothing else stood in its way."""
    with site.open(site.server_url) as server:
        for table in TABLES:
            with site.as_tenant(server, site.theirs) as cursor:
                row = rows(cursor, table)[0]
                assert set(may(cursor, "INSERT", table)) == set(row), table
                # Of an entry the trigger says so, and not the key.
                assert inserted(cursor, table, row) == ("23001" if table in JOURNALS else "23505"), table
            with site.as_tenant(server, site.mine) as cursor:
                assert inserted(cursor, table, row) == "row-level security", table


def test_a_tenant_changes_and_removes_no_rows_of_another(site: Site) -> None:
    """Goal: UPDATE and DELETE reach one's own rows alone. Method: every column that the server may change, and every
    table that it may delete from, with no WHERE at all and with the other tenant's id in it."""
    changed, removed = set(), set()
    with site.open(site.server_url) as server:
        for table in TABLES:
            with site.as_tenant(server, site.theirs) as cursor:
                before = rows(cursor, table)
            with site.as_tenant(server, site.mine) as cursor:
                count = str(len(rows(cursor, table)))
                for column in may(cursor, "UPDATE", table):
                    assert done(cursor, "UPDATE {} SET {} = {}", table, column, column) == count
                    where = "UPDATE {} SET {} = {} WHERE tenant_id = %(theirs)s"
                    assert done(cursor, where, table, column, column, theirs=site.theirs) == "0"
                    changed.add(table)
                deleted = "DELETE FROM {} WHERE tenant_id = %(theirs)s"
                if may(cursor, "DELETE", table):
                    assert done(cursor, deleted, table, theirs=site.theirs) == "0"
                    assert done(cursor, "DELETE FROM {}", table) == count
                    removed.add(table)
                else:
                    assert done(cursor, "DELETE FROM {}", table) == "no right"
                # Still in the transaction that did all of it.
                cursor.execute("SELECT set_config('app.tenant_id', %s, true)", [str(site.theirs)])
                assert rows(cursor, table) == before
    assert changed == {
        "tenants",
        "keys",
        "datasets",
        "projects",
        "accounts",
        "runs",
        "proposals",
        "alerts",
        "progress",
        "sessions",
        "tallies",
        "days",
    }
    assert removed == {"claims", "certificates", "alerts", "sessions"}


def test_nobody_moves_a_row_to_another_tenant(site: Site) -> None:
    """Goal: a row's tenant never changes. Method: set it; the server has no right to, and the owner, who has, is
    stopped by the policy, or before it by what keeps a journal."""
    statement = "UPDATE {} SET tenant_id = %(theirs)s"
    for url, stopped in ((site.server_url, {"no right"}), (site.settings.owner_url, {"row-level security", "23001"})):
        with site.open(url) as connection:
            for table in TABLES:
                with site.as_tenant(connection, site.mine) as cursor:
                    assert done(cursor, statement, table, theirs=site.theirs) in stopped, table


def test_the_owner_is_subject_to_it_too(site: Site) -> None:
    """Goal: migrations and `init` cannot touch another tenant's rows by mistake. Method: what was tried as the server's
    role, as the owner of the tables; of tenants it sees the names and can change none."""
    with site.open(site.settings.owner_url) as owner:
        for table in TABLES:
            with site.as_tenant(owner, site.theirs) as cursor:
                row = next(row for row in rows(cursor, table) if row["tenant_id"] == site.theirs)
            with site.as_tenant(owner, site.mine) as cursor:
                seen = {row["tenant_id"] for row in rows(cursor, table)}
                assert seen == ({site.mine, site.theirs} if table == "tenants" else {site.mine}), table
                assert inserted(cursor, table, row) == "row-level security"
                assert done(cursor, "DELETE FROM {} WHERE tenant_id = %(theirs)s", table, theirs=site.theirs) == "0"
                column = next(name for name in row if name != "tenant_id")
                where = "UPDATE {} SET {} = {} WHERE tenant_id = %(theirs)s"
                assert done(cursor, where, table, column, column, theirs=site.theirs) == "0"


# --- with none -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [None, ""], ids=["never said", "empty"])
@pytest.mark.parametrize("role", ["server", "owner"])
def test_with_no_tenant_there_is_nothing(site: Site, said: str | None, role: str) -> None:
    """Goal: a statement that forgets its tenant sees and writes nothing. Method: all four of them, on every table,
    where the setting was never made and where it is what is left of one; as the server and as the owner."""
    with site.open(site.server_url) as server, site.as_tenant(server, site.mine) as cursor:
        known = {table: rows(cursor, table)[0] for table in TABLES}
    with site.open(site.server_url if role == "server" else site.settings.owner_url) as connection:
        for table, row in known.items():
            with site.as_tenant(connection, said) as cursor:
                assert len(rows(cursor, table)) == (2 if (role, table) == ("owner", "tenants") else 0), table
                assert inserted(cursor, table, row) == "row-level security"
                for column in may(cursor, "UPDATE", table):
                    assert done(cursor, "UPDATE {} SET {} = {}", table, column, column) == "0"
                assert done(cursor, "DELETE FROM {}", table) == ("0" if may(cursor, "DELETE", table) else "no right")


def test_a_tenant_that_is_none_is_an_error(site: Site) -> None:
    """Goal: what is no UUID is not taken for one. Method: text that is none, and SQL."""
    with site.open(site.server_url) as server:
        for said in ("acme", f"{site.mine}' OR true --", "%"):
            with site.as_tenant(server, said) as cursor:
                assert done(cursor, "SELECT * FROM {}", "keys") == "22P02"  # invalid_text_representation
    with (
        contextlib.closing(Store(engine_for(site.server_url))) as store,
        pytest.raises(TypeError),
        store.reading(f"{site.mine}"),  # type: ignore[arg-type]
    ):
        pass


# --- connections that are used again ---------------------------------------------------------------------------------


def test_nothing_of_a_tenant_is_left_on_a_connection(site: Site) -> None:
    """Goal: the next transaction of a pooled connection is nobody's. Method: a pool of one; after reading, after
    writing and after a transaction that failed, the same connection knows no tenant and shows none of its rows."""
    store = Store(engine_for(site.server_url, pool_size=1))

    def left() -> tuple[int, str | None, int]:
        with store.engine.begin() as connection:
            pid, said = connection.exec_driver_sql(
                "SELECT pg_backend_pid(), current_setting('app.tenant_id', true)"
            ).one()
            counts = [connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one() for table in TABLES]
            return pid, said, sum(counts)

    pid, _, _ = left()
    with store.reading(site.mine) as reading:
        assert reading.tenants.current() is not None
        assert len(reading.keys.page(after=None, limit=10)) > 1
    assert left() == (pid, "", 0)
    with store.writing(site.theirs) as writing:
        assert writing.tenants.current() is not None
    assert left() == (pid, "", 0)
    with pytest.raises(IntegrityError), store.writing(site.mine) as writing:
        writing.connection.exec_driver_sql("INSERT INTO keys SELECT * FROM keys")
    assert left() == (pid, "", 0)
    with store.reading(site.theirs) as reading:
        tenant = reading.tenants.current()
    assert tenant is not None
    assert tenant.id == site.theirs
    store.close()


# --- no way round it -------------------------------------------------------------------------------------------------


def test_the_functions_that_watch_tell_of_no_contents(site: Site) -> None:
    """Goal: what one process asks of all tenants opens nothing else. Method: every function that the server's role may
    call returns ids, numbers, hashes and times; after it, in the same transaction, and with its setting made by hand,
    neither the server's role nor a caller of the function sees a row; the owner sees none without it."""
    types = {"uuid", "bigint", "boolean", "bytea"}
    columns = {column.split()[1] for _, _, returns in watching.FUNCTIONS.values() for column in returns.split(", ")}
    assert columns <= types
    store = Store(engine_for(site.server_url))
    with store.overview() as overview:
        assert {site.mine, site.theirs} <= set(overview.positions())
        assert len(overview.journals(after=BEGINNING, limit=100)) > 2
        assert overview.ends(after=BEGINNING, limit=100).broken == frozenset()
        for said in ("", "on"):
            overview.connection.exec_driver_sql(f"SET LOCAL {watching.SETTING} = '{said}'")
            for table in TABLES:
                count = overview.connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()
                assert count == 0, (said, table)
    store.close()
    with site.open(site.settings.owner_url) as owner, site.as_tenant(owner, None) as cursor:
        cursor.execute("SELECT * FROM watched_positions()")
        for table in watching.WATCHED:
            assert rows(cursor, table) == [], table


def test_the_server_cannot_turn_it_off(site: Site) -> None:
    """Goal: the server's role cannot lift it. Method: whatever could, tried as that role."""
    owner = make_url(site.settings.owner_url).username
    attempts = [
        "ALTER TABLE keys DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE keys NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY keys_tenant ON keys",
        "CREATE POLICY all_of_it ON keys USING (true)",
        "ALTER TABLE keys OWNER TO CURRENT_USER",
        "ALTER TABLE entries DISABLE TRIGGER ALL",
        "TRUNCATE keys",
        "TRUNCATE entries",
        f"SET ROLE {owner}",
        f"SET SESSION AUTHORIZATION {owner}",
        "ALTER ROLE CURRENT_USER BYPASSRLS",
        f"GRANT {owner} TO CURRENT_USER",
        "SET session_replication_role = replica",
        "CREATE TABLE public.mine (id integer)",
        "CREATE FUNCTION public.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    ]
    with site.open(site.server_url) as server:
        for attempt in attempts:
            with (
                pytest.raises(psycopg.errors.InsufficientPrivilege),
                site.as_tenant(server, site.mine) as cursor,
            ):
                cursor.execute(attempt.encode())
        with site.as_tenant(server, site.mine) as cursor:
            cursor.execute("SET LOCAL row_security = off")
            # It makes PostgreSQL say so instead of leaving rows out; it shows none of them.
            assert done(cursor, "SELECT * FROM {}", "keys") == "row-level security"


def test_the_server_cannot_list_tenants(site: Site) -> None:
    """Goal: with the server's role nobody learns who the tenants are: their names. Method: ask as `check` does."""
    store = Store(engine_for(site.server_url))
    assert store.tenants() == []
    with pytest.raises(Misconfigured, match="LEDGER_OWNER_DATABASE_URL"):
        deploy.tenants_of(store)
    store.close()
    owner = Store(engine_for(site.settings.owner_url))
    assert {id_ for id_, _ in deploy.tenants_of(owner)} == {site.mine, site.theirs}
    owner.close()
    assert make_url(site.server_url).username == SERVER_ROLE != make_url(site.settings.owner_url).username

"""Set up a ledger: the schema, the server's role on PostgreSQL, the first keys.

Migrations live in `migrations/` (in a wheel: `ledger/_migrations`). They run under a lock that lets one process migrate
at a time, with a limit on how long it waits for the lock and for the tables.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

import psycopg
from psycopg import sql
from sqlalchemy import URL, Connection, Engine, make_url, select, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ledger.access import keys
from ledger.access.sessions import make_link
from ledger.errors import DatabaseUnusable, Misconfigured, NotFound
from ledger.service.keys import add_admin
from ledger.service.tenants import add_tenant
from ledger.settings import Settings
from ledger.store import Store, Writing, engine_for, statistics
from ledger.store.guards import FUNCTION_GRANTS, GRANTS
from ledger.store.tables import operator_keys

if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger(__name__)

_LOCK_ID: Final = 0x70626C5F6D696772
"""The advisory lock that migrations hold on PostgreSQL. Any constant does; this one is the text 'pbl_migr'."""

_LOCK_TIMEOUT_MS: Final = 15_000
AT_THE_DATABASE: Final = {"name": "at the database", "role": "operator"}
"""The actor of `init` and `init --reset-admin`: anyone who has the database's URL."""
_REVISION: Final = re.compile(r'^revision = "(\w+)"$', re.MULTILINE)
_DOWN_REVISION: Final = re.compile(r'^down_revision = "(\w+)"$', re.MULTILINE)
_UNUSABLE: Final = "The database cannot be used: {}\nRun first: privacy-ledger migrate"


def _migrations() -> Path:
    package = Path(__file__).parents[1]
    packed = package / "_migrations"
    return packed if packed.is_dir() else package.parent / "migrations"


def _config() -> Config:
    from alembic.config import Config  # here alone: a server that runs needs nothing of it

    config = Config()
    config.set_main_option("script_location", str(_migrations()).replace("%", "%%"))  # a ConfigParser's value
    return config


def newest_revision() -> str:
    """Return the schema's version that this code needs: that of the newest migration.

    Every start of a server needs it, so it is read from the files: Alembic is imported only to migrate.
    Raises Misconfigured if the migrations are missing.
    """
    texts = [path.read_text(encoding="utf-8") for path in (_migrations() / "versions").glob("*.py")]
    revisions = {match[1] for text in texts if (match := _REVISION.search(text))}
    newest = revisions - {match[1] for text in texts if (match := _DOWN_REVISION.search(text))}
    if len(newest) != 1:
        raise Misconfigured("This installation has no migrations. Install privacy-ledger again.")
    return str(newest.pop())


def migrate(settings: Settings) -> str:
    """Bring the schema to the newest revision, grant the server's role its rights, and return the revision.

    Raises Misconfigured if the database cannot be reached, is busy for too long, or rejects a statement.
    """
    from alembic import command
    from alembic.util import CommandError

    refused = "The database could not be migrated: {}"
    with _opened(settings.owner_url, failure=refused) as store, _alone(store.engine) as connection:
        config = _config()
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise DatabaseUnusable(
                f"A newer version of privacy-ledger migrated this database. Use that version. ({error})"
            ) from error
        if store.engine.dialect.name == "postgresql":
            _let_server_in(connection, settings)
        else:
            statistics.tell_planner(connection)
    return newest_revision()


def bring_up_to_date(settings: Settings) -> None:
    """Migrate as `migrate` does, if the schema is not the newest; otherwise import nothing for it."""
    with suppress(DatabaseUnusable), _opened(settings.owner_url, failure=_UNUSABLE) as store:
        if store.revision() == newest_revision():
            return
    migrate(settings)


@contextmanager
def _opened(url: str, *, failure: str) -> Iterator[Store]:
    """Open the database for one task. failure: the message if that fails, with a place for the cause."""
    _parsed(url)
    store = Store(engine_for(url))
    try:
        yield store
    except (SQLAlchemyError, psycopg.Error) as error:
        raise DatabaseUnusable(failure.format(getattr(error, "orig", None) or error)) from error
    finally:
        store.close()


def _parsed(url: str) -> URL:
    """Parse a database's URL. The error shows none of it: without escaping, any part may be the password."""
    with suppress(ArgumentError, ValueError):
        parsed = make_url(url)
        is_file = parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:")
        is_server = parsed.get_backend_name() == "postgresql" and "@" not in (parsed.host or "")
        if is_file or is_server:
            return parsed
    raise Misconfigured(
        "LEDGER_DATABASE_URL or LEDGER_OWNER_DATABASE_URL is not a database URL. Write sqlite:///FILE or"
        " postgresql://USER:PASSWORD@HOST/NAME, with special characters in the password escaped (%40 for @)."
    )


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """Open one transaction, for one migrating process at a time."""
    with engine.execution_options(writing=True).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}"))
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK_ID})
        yield connection


def _let_server_in(connection: Connection, settings: Settings) -> None:
    """Create the server's role if it is missing, and grant it exactly what a server needs."""
    server = _parsed(settings.database_url.get_secret_value())
    owner = connection.execute(text("SELECT current_user")).scalar_one()
    if settings.owner_database_url is None or server.username in (None, owner):
        return
    role = sql.Identifier(str(server.username))
    driver = connection.connection.driver_connection
    if driver is None:
        raise DatabaseUnusable("The connection to the database was lost.")
    exists = text("SELECT 1 FROM pg_roles WHERE rolname = :name")
    if connection.execute(exists, {"name": server.username}).scalar() is None:
        if not server.password:
            raise Misconfigured(
                "LEDGER_DATABASE_URL names a role that does not exist. Add a password to the URL, to create the role."
            )
        # Hash the password here, so that PostgreSQL's log of statements never has it.
        verifier = driver.pgconn.encrypt_password(
            str(server.password).encode(), str(server.username).encode(), b"scram-sha-256"
        )
        driver.execute(
            sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD {}").format(
                role, sql.Literal(verifier.decode())
            )
        )
    driver.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(role))
    for table, privileges in GRANTS.items():
        name = sql.Identifier(table)
        driver.execute(sql.SQL("REVOKE ALL ON {} FROM {}").format(name, role))
        driver.execute(sql.SQL("GRANT " + privileges + " ON {} TO {}").format(name, role))
    for function in FUNCTION_GRANTS:
        driver.execute(sql.SQL("GRANT EXECUTE ON FUNCTION " + function + " TO {}").format(role))


# --- the first keys --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FirstKeys:
    """The keys that `init` prints once."""

    operator_key: str
    tenant: str
    admin_key: str


def initialise(
    settings: Settings, *, tenant: str, keep: Callable[[FirstKeys], object] = lambda _first: None
) -> FirstKeys | None:
    """Create the operator's key, the first tenant and its admin key. Return None if the ledger has an operator already.

    keep: called with the keys before they are committed, so that no keys are made that cannot be kept.
    """
    with writing_in(settings, uuid4()) as writing:
        if writing.connection.execute(select(operator_keys.c.id).limit(1)).scalar() is not None:
            return None
        now_us = writing.now_us()
        operator = keys.mint(keys.OPERATOR)
        writing.keys.add_operator(uuid4(), keys.digest_of(operator), now_us=now_us)
        _, admin = add_tenant(writing, tenant, by=AT_THE_DATABASE, now_us=now_us)
        first = FirstKeys(operator, tenant, admin)
        keep(first)
        return first


def reset_admin(settings: Settings, *, tenant: str) -> str:
    """Create an admin key for a tenant that lost its last one. Raises NotFound if the tenant does not exist."""
    with _opened(settings.owner_url, failure=_UNUSABLE) as store:
        tenant_id = {name: id_ for id_, name in tenants_of(store)}.get(tenant)
    if tenant_id is None:
        raise NotFound(f"There is no tenant named {tenant!r}.")
    with writing_in(settings, tenant_id) as writing:
        return add_admin(writing, by=AT_THE_DATABASE, now_us=writing.now_us())[1]


def sign_in_link(settings: Settings) -> str | None:
    """Return the secret of a link that signs in to the pages once, as the first admin of the only tenant; None if there
    are several tenants, or no such key is live."""
    with opened_by_owner(settings) as store:
        tenants = tenants_of(store)
        return make_link(store, tenants[0][0]) if len(tenants) == 1 else None


def tenants_of(store: Store) -> list[tuple[UUID, str]]:
    """Return the id and name of every tenant. Raises Misconfigured for a role that row-level security shows none."""
    if store.engine.dialect.name == "postgresql":
        with store.engine.begin() as connection:
            if not connection.execute(text(_IS_OWNER)).scalar_one():
                raise Misconfigured(
                    "Only the owner of the tables sees all tenants, and this is another role. Set"
                    " LEDGER_OWNER_DATABASE_URL."
                )
    return store.tenants()


# --- whether a server may use this database --------------------------------------------------------------------------

_IS_OWNER: Final = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'public.tenants'::regclass"
# A role can become any role that it is a member of, so the rights of those count too.
_ROLE: Final = """
    SELECT current_user, current_database(), bool_or(rolsuper), bool_or(rolbypassrls),
           bool_or(oid = (SELECT relowner FROM pg_class WHERE oid = 'public.tenants'::regclass))
    FROM pg_roles WHERE pg_has_role(oid, 'MEMBER')"""
_LAX: Final = """
    SELECT name, source FROM pg_settings
    WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes') AND setting = 'off' ORDER BY name"""
_TURN_ON: Final = {
    "user": "ALTER ROLE {role} RESET {name};",
    "database": "ALTER DATABASE {database} RESET {name};",
    "database user": "ALTER ROLE {role} IN DATABASE {database} RESET {name};",
}
"""The remedy by the source of a setting. Otherwise it is turned on for the whole server."""


_FINAL: Final = re.compile("FATAL: (?!.*(starting up|shutting down|recovery|too many|reserved|consistent))")
"""What PostgreSQL answers if no waiting helps: a wrong password, a missing database."""
WAIT_SECONDS_MAX: Final = 10.0


def wait_for(settings: Settings, *, sleep: Callable[[float], object] = time.sleep) -> None:
    """Wait for a PostgreSQL that does not answer, and log that. Raises DatabaseUnusable if it still does not after
    `database_wait_seconds`, or rejects the connection for good."""
    begun, seconds = time.monotonic(), 0.5
    while True:
        try:
            url = settings.database_url.get_secret_value()
            with _opened(url, failure=_UNUSABLE) as store, store.engine.connect():
                return
        except DatabaseUnusable as error:
            left = settings.database_wait_seconds - (time.monotonic() - begun)
            if left <= 0 or _FINAL.search(error.detail):
                raise
            log.warning("waiting for the database, for %.0f seconds at most: %s", left, error.detail.splitlines()[0])
        sleep(min(seconds, left))
        seconds = min(2 * seconds, WAIT_SECONDS_MAX)


def demand_servable(settings: Settings) -> None:
    """Raise Misconfigured unless a server can rely on this database: it is migrated, and on PostgreSQL row-level
    security applies to the role, and a commit is on disk."""
    with opened(settings) as store:
        if store.engine.dialect.name != "postgresql":
            return
        with store.engine.begin() as connection:
            role, database, is_super, is_bypassing, is_owner = connection.execute(text(_ROLE)).one()
            lax = connection.execute(text(_LAX)).all()
    if is_super or is_bypassing or is_owner:
        what = "is a superuser" if is_super else "bypasses row-level security" if is_bypassing else "owns the tables"
        raise Misconfigured(
            f"The role {role!r} {what}, so row-level security would not separate the tenants.\n"
            "Serve with a separate role: set LEDGER_OWNER_DATABASE_URL to this URL, set LEDGER_DATABASE_URL to one with"
            " another user and a password of your choice, and run `privacy-ledger migrate`, which creates that role."
        )
    if lax:
        remedies = [
            _TURN_ON.get(source, "ALTER SYSTEM SET {name} = on;").format(name=name, role=role, database=database)
            for name, source in lax
        ]
        off = " and ".join(f"{name} = off" for name, _ in lax)
        raise Misconfigured(
            f"PostgreSQL runs with {off}, so a crash could lose approvals that were already given.\n"
            f"Turn it on: {' '.join(remedies)} SELECT pg_reload_conf();"
        )


@contextmanager
def writing_in(settings: Settings, tenant_id: UUID) -> Iterator[Writing]:
    """Open a writing transaction as the owner. It commits when the block ends, and rolls back when it raises."""
    with _opened(settings.owner_url, failure=_UNUSABLE) as store, store.writing(tenant_id) as writing:
        yield writing


@contextmanager
def opened(settings: Settings) -> Iterator[Store]:
    """Open the database with the server's role. Raises Misconfigured unless it answers and has the schema that this
    code needs."""
    with _opened(settings.database_url.get_secret_value(), failure=_UNUSABLE) as store:
        _demand_newest(store.revision())
        yield store


@contextmanager
def opened_by_owner(settings: Settings) -> Iterator[Store]:
    """Open the migrated database as its owner, who may list the tenants. Raises Misconfigured as `opened` does."""
    with _opened(settings.owner_url, failure=_UNUSABLE) as store:
        _demand_newest(store.revision())
        yield store


def _demand_newest(revision: str | None) -> None:
    if revision != newest_revision():
        raise DatabaseUnusable(
            f"The schema is at revision {revision}, and this version needs {newest_revision()}."
            " Run: privacy-ledger migrate"
        )

"""Connections: how each database is opened, what its errors mean, and the transactions that begin there."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal
from uuid import UUID

import psycopg
from sqlalchemy import (
    BigInteger,
    Connection,
    Engine,
    LargeBinary,
    RootTransaction,
    create_engine,
    event,
    func,
    literal_column,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ledger.store.guards import FAMILIAR_BYTES, TENANT_SETTING
from ledger.store.overview import Leases, Overview
from ledger.store.tables import keys, operator_keys, tenants
from ledger.store.transactions import Reading, Writing

SQLITE_BUSY_SECONDS: Final = 10
_SQLITE_NOW_US: Final = literal_column("strftime('%s', 'now') * 1000000", BigInteger)
WAL_TRIES_MAX: Final = 20
TIMEOUTS: Final = (
    "SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = '30s';"
    " SET LOCAL idle_in_transaction_session_timeout = '60s'"
)
"""Set by every transaction on PostgreSQL: a pooler such as PgBouncer lends a connection for one transaction, so what is
set for longer would be lost, or be another's."""
_BEGIN_READING: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_BEGIN_WRITING: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"
RETRYABLE: Final = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected


def engine_for(url: str, *, pool_size: int = 20, is_read_only: bool = False, prepares: bool | None = None) -> Engine:
    """Return an engine for a database URL: `sqlite:///file` or `postgresql://…` (always through psycopg 3).

    is_read_only: the database itself rejects writes. prepares: whether statements are prepared on PostgreSQL; None:
    unless a pooler stands before it.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        engine = create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=10,
            connect_args={"connect_timeout": 5, "application_name": "privacy-ledger"},
            execution_options={"is_read_only": is_read_only},
        )
        if prepares is not True:
            event.listen(engine, "connect", _prepare_nothing if prepares is False else _prepare_nothing_if_pooled)
        event.listen(engine, "begin", _begin_postgresql)
        return engine
    engine = create_engine(
        parsed, pool_size=pool_size, max_overflow=0, pool_timeout=10, connect_args={"timeout": SQLITE_BUSY_SECONDS}
    )
    event.listen(engine, "connect", _prepare_sqlite)
    if is_read_only:
        event.listen(engine, "connect", _forbid_writing)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_nothing(connection: psycopg.Connection, _record: object) -> None:
    connection.prepare_threshold = None


def _prepare_nothing_if_pooled(connection: psycopg.Connection, record: object) -> None:
    """Prepare no statement if the process that answers is not the one that greeted: a pooler stands between, and the
    next transaction may be another process's, which does not know the statement."""
    answering = connection.execute("SELECT pg_backend_pid()").fetchone()
    connection.rollback()
    if answering != (connection.info.backend_pid,):
        _prepare_nothing(connection, record)


def _begin_postgresql(connection: Connection) -> None:
    """Set a transaction's timeouts. A `Store` does so with its own BEGIN."""
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        is_read_only = connection.get_execution_options().get("is_read_only", False)
        connection.exec_driver_sql(f"{'SET TRANSACTION READ ONLY; ' if is_read_only else ''}{TIMEOUTS}")


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # BEGIN is issued below, not by the driver
    _use_wal(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "recursive_triggers=ON"):
        connection.execute(f"PRAGMA {pragma}").close()
    connection.create_function("sha256", 1, _sha256, deterministic=True)


def _forbid_writing(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA query_only=ON").close()


def _sha256(text: bytes | None) -> bytes | None:
    """Return SHA-256, for which PostgreSQL has a function and SQLite has none."""
    return None if text is None else hashlib.sha256(text).digest()


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch the file to write-ahead logging, which it keeps. The switch fails at once if another process does the
    same, whatever the busy timeout; a transaction waits for that process, and then nothing is left to change."""
    for is_last in [False] * (WAL_TRIES_MAX - 1) + [True]:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if is_last or getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                raise
        connection.execute("BEGIN IMMEDIATE").close()
        connection.execute("COMMIT").close()


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that begins to write fails at once if another one writes, whatever the busy timeout.
    writing = connection.get_execution_options().get("writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def failure_kind(error: Exception) -> Literal["retry", "unavailable", "damaged", "other"]:
    """Return what a database error means for the caller: retry at once, come back later, never again before somebody
    has repaired the file, or none of these."""
    if isinstance(error, PoolTimeout):
        return "unavailable"
    if not isinstance(error, DBAPIError):
        return "other"
    if error.connection_invalidated:
        return "unavailable"
    primary = (getattr(error.orig, "sqlite_errorcode", 0) or 0) & 0xFF
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return "damaged"
    if isinstance(error.orig, sqlite3.OperationalError):
        busy = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
        return "unavailable" if primary in (*busy, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) else "other"
    state = getattr(error.orig, "sqlstate", None)
    if state in RETRYABLE:
        return "retry"
    # No state: the connection was never made. 08 connection, 53 resources, 57 shutdown or timeout, 55P03 lock timeout.
    if getattr(error.orig, "sqlstate", "") is None or str(state)[:2] in ("08", "53", "57") or state == "55P03":
        return "unavailable"
    return "other"


DAMAGED: Final = (
    "The database's file is damaged. The file and those that end in -wal and -shm are one database, and must be of one"
    " moment. The operator must stop the server and restore them: see `Back up and restore` in the guide."
)


class Store:
    """The database. `reading` and `writing` open a transaction for one tenant."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._is_postgresql = engine.dialect.name == "postgresql"
        self._is_read_only = bool(engine.get_execution_options().get("is_read_only"))
        # On PostgreSQL BEGIN is ours to say, in one statement with whose transaction it is.
        self._readers = engine.execution_options(isolation_level="AUTOCOMMIT") if self._is_postgresql else engine
        self._writers = self._readers if self._is_postgresql else engine.execution_options(writing=True)

    @contextmanager
    def reading(self, tenant_id: UUID) -> Iterator[Reading]:
        with self._begun(self._readers, tenant_id) as connection:
            yield Reading(connection, tenant_id)

    @contextmanager
    def writing(self, tenant_id: UUID) -> Iterator[Writing]:
        """Open a writing transaction. It commits when the block ends, and rolls back when it raises."""
        with self._begun(self._writers, tenant_id, is_writing=True) as connection:
            yield Writing(connection, tenant_id)

    @contextmanager
    def _begun(
        self, engine: Engine, tenant_id: UUID | None = None, *, is_writing: bool = False
    ) -> Iterator[Connection]:
        begin = _BEGIN_WRITING if is_writing and not self._is_read_only else _BEGIN_READING
        begin += f"; {TIMEOUTS}"
        if tenant_id is not None:
            if not isinstance(tenant_id, UUID):
                raise TypeError("a tenant's id is a UUID")
            # For this transaction alone: SET LOCAL ends with it, however it ends.
            begin += f"; SET LOCAL {TENANT_SETTING} = '{tenant_id}'"
        transaction = self._begin(engine, begin)
        with transaction.connection as connection, transaction:
            yield connection

    def _begin(self, engine: Engine, begin: str) -> RootTransaction:
        """Begin a transaction on a connection of its own.

        A connection that was lost while nobody used it is replaced, because nothing has happened on it yet. So no other
        statement needs to test the connection first.
        """
        try:
            return self._try_to_begin(engine, begin)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
        return self._try_to_begin(engine, begin)

    def _try_to_begin(self, engine: Engine, begin: str) -> RootTransaction:
        connection = engine.connect()
        try:
            transaction = connection.begin()
            if self._is_postgresql:
                connection.exec_driver_sql(begin)
        except BaseException:
            connection.close()
            raise
        return transaction

    def operator_key(self, digest: bytes) -> UUID | None:
        """Return the id of the operator's key with this digest, if it is live."""
        query = select(operator_keys.c.id).where(operator_keys.c.digest == digest, operator_keys.c.revoked_us.is_(None))
        with self._begun(self._readers) as connection:
            return connection.execute(query).scalar()

    def tenants(self) -> list[tuple[UUID, str]]:
        """Return every tenant's id and name, for operators with access to the database."""
        with self._begun(self._readers) as connection:
            rows = connection.execute(select(tenants.c.tenant_id, tenants.c.name).order_by(tenants.c.name))
            return [(row.tenant_id, row.name) for row in rows]

    @contextmanager
    def overview(self) -> Iterator[Overview]:
        """Open a reading of all tenants in one snapshot."""
        with self._begun(self._readers) as connection:
            yield Overview(connection)

    @contextmanager
    def leases(self) -> Iterator[Leases]:
        """Open a transaction for leases. It commits when the block ends, and rolls back when it raises."""
        with self._begun(self._writers, is_writing=True) as connection:
            yield Leases(connection)

    def familiar_keys(self, *, rows_max: int) -> set[bytes]:
        """Return the first `FAMILIAR_BYTES` of the digests of the live keys, of all tenants and the operator, that were
        used last; at most `rows_max`. On PostgreSQL a function of the owner's returns them, and nothing else."""
        if self._is_postgresql:
            query = select(func.public.familiar_keys(rows_max, type_=LargeBinary()))
        else:
            is_live = keys.c.revoked_us.is_(None) & func.coalesce(keys.c.expires_us > _SQLITE_NOW_US, True)
            used = select(keys.c.digest).where(keys.c.last_used_us.is_not(None), is_live)
            query = used.order_by(keys.c.last_used_us.desc()).limit(rows_max)
        of_operator = select(operator_keys.c.digest).where(operator_keys.c.revoked_us.is_(None)).limit(rows_max)
        with self._begun(self._readers) as connection:
            digests = [*connection.execute(query).scalars(), *connection.execute(of_operator).scalars()]
        return {digest[:FAMILIAR_BYTES] for digest in digests}

    def revision(self) -> str | None:
        """Return the schema's version in the database. Raises the driver's error if it cannot be reached."""
        with self._begun(self._readers) as connection:
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()

    def close(self) -> None:
        self.engine.dispose()

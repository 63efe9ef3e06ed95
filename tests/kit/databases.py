"""Databases of every kind, empty or with the declared schema, and what their owner asks of them."""

from __future__ import annotations

import contextlib
import sqlite3
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from ledger.errors import Misconfigured
from ledger.operate import deploy
from ledger.settings import Settings
from ledger.store import engine_for, guards, tables
from tests.conftest import SERVER_ROLE, Templates
from tests.kit import postgres

WAIT_SECONDS_MAX = 30


@dataclass(frozen=True, slots=True)
class Databases:
    """Where databases of one kind are made."""

    kind: str
    templates: Templates
    folder: Path

    @property
    def server(self) -> postgres.Server:
        return self.templates.prepared(self.kind)

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


SECRET = "s3cret-of-nobody"


def misconfigured(task: Callable[[], object], *hidden: str) -> str:
    """The message of the Misconfigured that a task raises; neither it nor its causes show what is hidden."""
    with pytest.raises(Misconfigured) as raised:
        task()
    shown = "".join(traceback.format_exception(raised.value, limit=0))
    assert not [secret for secret in hidden if secret in shown]
    return raised.value.detail


def try_to_open(settings: Settings) -> None:
    """Opens the database as whoever serves it does. Raises Misconfigured as `deploy.opened` does."""
    with deploy.opened(settings):
        pass


def at(url: str, owner_url: str | None = None) -> Settings:
    """Settings that lead to a database by its URLs."""
    return Settings(database_url=SecretStr(url), owner_database_url=SecretStr(owner_url) if owner_url else None)

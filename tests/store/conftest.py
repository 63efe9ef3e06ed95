"""Fixtures: doors into a database, and databases of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import (
    insert,
    text,
)

from ledger.store import engine_for
from tests.conftest import KINDS, Templates
from tests.kit import postgres
from tests.kit.databases import Databases
from tests.kit.doors import KINDS_OF_DOOR, ROWS, Door, engine_of


@pytest.fixture(params=KINDS_OF_DOOR, ids="-".join)
def door(request: pytest.FixtureRequest, templates: Templates, tmp_path: Path) -> Iterator[Door]:
    """Each door into a fresh database that the rows of `ROWS` are in."""
    kind, who = request.param
    with templates.clone(kind, tmp_path) as settings:
        owner = engine_for(settings.owner_url)
        engine = engine_of(kind, who, settings, templates)
        try:
            with owner.execution_options(writing=True).begin() as connection:
                # It stands before every constraint, and has tests of its own (test_row_security.py).
                for table in ROWS if kind != "sqlite" else ():
                    connection.execute(text(f"ALTER TABLE {table.name} DISABLE ROW LEVEL SECURITY"))
                for table, rows in ROWS.items():
                    connection.execute(insert(table), rows)
            yield Door(who, engine, owner)
        finally:
            engine.dispose()
            owner.dispose()


@pytest.fixture(params=KINDS)
def databases(request: pytest.FixtureRequest, templates: Templates, tmp_path: Path) -> Databases:
    """A place for databases of each kind."""
    return Databases(request.param, templates, tmp_path)


@pytest.fixture(params=postgres.chosen())
def cluster(request: pytest.FixtureRequest, templates: Templates, tmp_path: Path) -> Databases:
    """The same on PostgreSQL alone."""
    return Databases(request.param, templates, tmp_path)

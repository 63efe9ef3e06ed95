"""What every noun's reader and writer has: a connection, and the tenant whose rows it sees."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


class Repository:
    """One tenant's rows of one noun, in one transaction."""

    def __init__(self, connection: Connection, tenant_id: UUID) -> None:
        self.connection = connection
        self.tenant_id = tenant_id

    def _insert_new(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """Return INSERT … ON CONFLICT DO NOTHING."""
        return self._insert(table).on_conflict_do_nothing()

    def _insert(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """Return INSERT … ON CONFLICT, which both databases have and SQLAlchemy keeps apart."""
        is_postgresql = self.connection.dialect.name == "postgresql"
        return postgresql.insert(table) if is_postgresql else sqlite.insert(table)

    def _add_rows(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows with the same columns, in one statement or one call of the driver, whatever their number."""
        if not rows:
            return
        names = tuple(rows[0])
        if self.connection.dialect.name == "postgresql":
            arrays = tuple([row[name] for row in rows] for name in names)
            self.connection.exec_driver_sql(_from_arrays(table, names), arrays)
        else:
            values = [tuple(map(_as_text, row.values())) for row in rows]
            self.connection.exec_driver_sql(_of_values(table, names, 1), values)

    def _add_new_rows(self, table: Table, rows: Sequence[Mapping[str, Any]], *, returning: str) -> set[str]:
        """Insert those of the rows that break no key, in order. Return their ids, from one column, as text."""
        names = tuple(rows[0])
        end = f" ON CONFLICT DO NOTHING RETURNING {returning}"
        if self.connection.dialect.name == "postgresql":
            arrays = tuple([row[name] for row in rows] for name in names)
            return {str(id_) for (id_,) in self.connection.exec_driver_sql(_from_arrays(table, names) + end, arrays)}
        new: set[str] = set()
        for start in range(0, len(rows), _ROWS_OF_STATEMENT_MAX):
            some = rows[start : start + _ROWS_OF_STATEMENT_MAX]
            values = tuple(_as_text(value) for row in some for value in row.values())
            inserted = self.connection.exec_driver_sql(_of_values(table, names, len(some)) + end, values)
            new.update(id_ for (id_,) in inserted)
        return new


_ROWS_OF_STATEMENT_MAX = 1000
"""For SQLite, which takes about 32,000 values in one statement."""


def _as_text(value: Any) -> Any:
    """Return a value as SQLite stores it: its tables have no UUID type."""
    return str(value) if isinstance(value, UUID) else value


@functools.cache
def _from_arrays(table: Table, names: tuple[str, ...]) -> str:
    """Return an INSERT of rows that come as one array for each column. PostgreSQL takes them in order."""
    dialect = postgresql.dialect()
    types = [table.c[name].type.compile(dialect) for name in names]
    # As binary: text arrays would escape every quote of an entry.
    arrays = ", ".join(f"%b::{kind}[]" for kind in types)
    return f"{_into(table, names)} SELECT * FROM unnest({arrays})"  # noqa: S608 (names of the schema's own)


@functools.lru_cache(maxsize=64)
def _of_values(table: Table, names: tuple[str, ...], count: int) -> str:
    row = f"({', '.join('?' * len(names))})"
    return f"{_into(table, names)} VALUES {', '.join([row] * count)}"


def _into(table: Table, names: tuple[str, ...]) -> str:
    columns = ", ".join(f'"{name}"' for name in names)
    return f"INSERT INTO {table.name} ({columns})"

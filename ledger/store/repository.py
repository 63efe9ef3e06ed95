"""What every noun's reader and writer has: a connection, and the tenant whose rows it sees."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Table, and_, bindparam, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from ledger.store.arrays import packed
from ledger.store.columns import Uid


def among(column: ColumnElement[Any], name: str, *, is_one: bool) -> ColumnElement[bool]:
    """Return the condition that a column has one of the values of this parameter; is_one: of a parameter that is one
    value, which takes half as long to execute."""
    return column == bindparam(name) if is_one else column.in_(bindparam(name, expanding=True))


def pairs_among(
    connection: Connection, pair: tuple[ColumnElement[Any], ColumnElement[Any]], values: Iterable[tuple[Any, Any]]
) -> ColumnElement[bool]:
    """Return the condition that two columns, the last ones of a key, have one of these pairs of values.

    SQLite goes along the key for several pairs only if each column has a condition of its own.
    """
    pairs = list(dict.fromkeys(values))
    first, second = pair
    types = [first.type, second.type]
    is_one = tuple_(first, second).in_([tuple_(*one, types=types) for one in pairs])
    if connection.dialect.name == "postgresql":
        return is_one
    firsts, seconds = zip(*pairs, strict=True) if pairs else ((), ())
    return and_(first.in_(sorted(set(firsts))), second.in_(sorted(set(seconds))), is_one)


class Repository:
    """One tenant's rows of one noun, in one transaction."""

    def __init__(self, connection: Connection, tenant_id: UUID) -> None:
        self.connection = connection
        self.tenant_id = tenant_id

    def _ids_between(
        self, table: Table, first: UUID, last: UUID, *where: ColumnElement[bool], limit: int
    ) -> list[UUID]:
        """Return the tenant's ids in a table from the first to the last, in order, along its primary key."""
        query = select(table.c.id).where(table.c.tenant_id == self.tenant_id, table.c.id.between(first, last), *where)
        return list(self.connection.execute(query.order_by(table.c.id).limit(limit)).scalars())

    def _insert_new(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """Return INSERT … ON CONFLICT DO NOTHING."""
        return self._insert(table).on_conflict_do_nothing()

    def _insert(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """Return INSERT … ON CONFLICT, which both databases have and SQLAlchemy keeps apart."""
        is_postgresql = self.connection.dialect.name == "postgresql"
        return postgresql.insert(table) if is_postgresql else sqlite.insert(table)

    def _add_rows(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows of the tenant's that have the same columns, in one statement or one call of the driver, whatever
        their number."""
        if not rows:
            return
        names = tuple(rows[0])
        if self.connection.dialect.name == "postgresql":
            statement, kinds = _from_arrays(table, names)
            self.connection.exec_driver_sql(statement, self._arrays(rows, kinds))
        else:
            self.connection.exec_driver_sql(_of_values(table, names, 1), self._texts(table, rows))

    def _add_new_rows(self, table: Table, rows: Sequence[Mapping[str, Any]], *, returning: str) -> set[str]:
        """Insert those of the tenant's rows that break no key, in order. Return the ids of these, a column's."""
        names = tuple(rows[0])
        end = f" ON CONFLICT DO NOTHING RETURNING {returning}"
        if self.connection.dialect.name == "postgresql":
            statement, kinds = _from_arrays(table, names)
            inserted = self.connection.exec_driver_sql(statement + end, self._arrays(rows, kinds))
            return {str(id_) for (id_,) in inserted}
        new: set[str] = set()
        values = self._texts(table, rows)
        for start in range(0, len(rows), _ROWS_OF_STATEMENT_MAX):
            some = values[start : start + _ROWS_OF_STATEMENT_MAX]
            flat = tuple(itertools.chain.from_iterable(some))
            inserted = self.connection.exec_driver_sql(_of_values(table, names, len(some)) + end, flat)
            new.update(id_ for (id_,) in inserted)
        return new

    def _arrays(self, rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]) -> tuple[Any, ...]:
        return (self.tenant_id, *(packed(kind, [row[name] for row in rows]) for name, kind in kinds.items()))

    def _texts(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
        """Return rows as SQLite stores them, with the tenant first: its tables have no UUID type."""
        columns = [
            [None if row[name] is None else str(row[name]) for row in rows]
            if isinstance(table.c[name].type, Uid)
            else [row[name] for row in rows]
            for name in rows[0]
        ]
        return list(zip(itertools.repeat(str(self.tenant_id)), *columns, strict=False))


_ROWS_OF_STATEMENT_MAX = 1000
"""For SQLite, which takes about 32,000 values in one statement."""


@functools.cache
def _from_arrays(table: Table, names: tuple[str, ...]) -> tuple[str, Mapping[str, str]]:
    """Return an INSERT of rows that come as one array for each column but the tenant's, and the types of the arrays.

    PostgreSQL inserts the rows in order.
    """
    dialect = postgresql.dialect()
    kinds = {name: table.c[name].type.compile(dialect) for name in names}
    arrays = ", ".join(f"%b::{kind}[]" for kind in kinds.values())
    return f"{_into(table, names)} SELECT %b::uuid, * FROM unnest({arrays})", kinds  # noqa: S608 (the schema's names)


@functools.lru_cache(maxsize=64)
def _of_values(table: Table, names: tuple[str, ...], count: int) -> str:
    row = f"(?{', ?' * len(names)})"
    return f"{_into(table, names)} VALUES {', '.join([row] * count)}"


def _into(table: Table, names: tuple[str, ...]) -> str:
    columns = ", ".join(f'"{name}"' for name in ("tenant_id", *names))
    return f"INSERT INTO {table.name} ({columns})"

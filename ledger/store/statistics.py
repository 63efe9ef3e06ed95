"""Fixed statistics for SQLite's planner, so that no statement becomes slower as a journal grows.

Without statistics SQLite takes every column for equally selective, and prefers a walk along all rows of a tenant to an
index by run. PostgreSQL gathers statistics by itself. These are fixed, not gathered: plans then do not depend on when
they were gathered, and gathering takes no time. https://www.sqlite.org/lang_analyze.html allows for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sqlalchemy import Connection, insert, table
from sqlalchemy.sql import column

_ROWS: Final = 1_000_000
_DISTINCT: Final = {"tenant_id": 1, "dataset_id": 100, "kind": 5, "state": 5, "project": 20, "principal_id": 20}
"""How many values a column has among `_ROWS` rows; a column that is not listed distinguishes nearly every row."""
_TABLES: Final = "SELECT name, wr FROM pragma_table_list WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
_STATISTICS: Final = table("sqlite_stat1", column("tbl"), column("idx"), column("stat"))


def tell_planner(connection: Connection) -> None:
    """Replace SQLite's statistics, in the open transaction; connections that begin later read them."""
    connection.exec_driver_sql("PRAGMA analysis_limit = 1")
    connection.exec_driver_sql("ANALYZE")  # creates the table, and looks at a row of each index
    connection.exec_driver_sql("DELETE FROM sqlite_stat1")
    connection.execute(insert(_STATISTICS), list(_lines(connection)))


def _lines(connection: Connection) -> Iterator[dict[str, str]]:
    for name, has_no_rowid in connection.exec_driver_sql(_TABLES).all():
        indexes = connection.exec_driver_sql("SELECT * FROM pragma_index_list(?)", (name,)).all()
        for index in indexes:
            query = "SELECT name FROM pragma_index_info(?)"
            columns = connection.exec_driver_sql(query, (index.name,)).scalars().all()
            # The rows themselves, if they lie in the order of their key, are listed under the table's name.
            is_table = has_no_rowid and index.origin == "pk"
            stat = _selectivity(columns, is_unique=bool(index.unique))
            yield {"tbl": name, "idx": name if is_table else index.name, "stat": " ".join(map(str, stat))}


def _selectivity(columns: Sequence[str], *, is_unique: bool) -> list[int]:
    """Return the number of rows, and how many of them agree in the first column, in the first two, and so on."""
    counts = [_ROWS]
    for name in columns:
        counts.append(max(1, counts[-1] // _DISTINCT.get(name, _ROWS)))
    if is_unique:
        counts[-1] = 1
    return counts

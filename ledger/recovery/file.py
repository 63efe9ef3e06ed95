"""The file of kept heads: for each journal its newest head, in an SQLite file that is no part of the database.

It is small (one row for a journal), its size is bounded by the number of journals, and a write touches what moved. Its
rollback journal exists only during a write, so the file alone is the whole state, and a killed process leaves it whole.
Several processes may use one file.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final
from uuid import UUID

from ledger.recovery.known import End, Journal

BUSY_SECONDS: Final = 10.0
_OWN: Final = ""
"""In place of a dataset's id: the tenant's own journal."""
_SCHEMA: Final = """CREATE TABLE IF NOT EXISTS heads (
    tenant TEXT NOT NULL, dataset TEXT NOT NULL, name TEXT NOT NULL, seq INTEGER NOT NULL CHECK (seq > 0),
    hash BLOB NOT NULL CHECK (length(hash) = 32), PRIMARY KEY (tenant, dataset)) STRICT, WITHOUT ROWID"""
_KEEP: Final = """INSERT INTO heads VALUES (?, ?, ?, ?, ?) ON CONFLICT (tenant, dataset)
    DO UPDATE SET name = excluded.name, seq = excluded.seq, hash = excluded.hash WHERE excluded.seq > heads.seq"""
_REPLACE: Final = "INSERT OR REPLACE INTO heads VALUES (?, ?, ?, ?, ?)"


class HeadsFile:
    """Keeps the newest head of each journal. Every method raises `sqlite3.Error` or OSError if the file fails."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep(self, ends: Iterable[tuple[Journal, End]]) -> None:
        """Keep these heads, unless a later one of the same journal is kept. They are on disk when this returns."""
        self._write(_KEEP, ends)

    def replace(self, journal: Journal, end: End) -> None:
        """Keep this head in place of whatever was kept of the journal."""
        self._write(_REPLACE, [(journal, end)])

    def forget(self, journal: Journal) -> bool:
        """Keep no head of a journal any more. Return whether there was one."""
        with self._opened(is_writing=True) as connection:
            row = str(journal[0]), _text(journal[1])
            return connection.execute("DELETE FROM heads WHERE tenant = ? AND dataset = ?", row).rowcount > 0

    def all(self) -> Iterator[tuple[Journal, End]]:
        """Yield every kept head, by tenant and dataset; none if there is no file."""
        if not self.path.exists():
            return
        with self._opened() as connection:
            rows = connection.execute("SELECT tenant, dataset, name, seq, hash FROM heads ORDER BY tenant, dataset")
            for tenant, dataset, name, seq, hash_ in rows:
                yield (UUID(tenant), None if dataset == _OWN else UUID(dataset)), End(seq, hash_, name)

    def _write(self, statement: str, ends: Iterable[tuple[Journal, End]]) -> None:
        rows = [
            (str(tenant), _text(dataset), end.name, end.seq, end.hash) for (tenant, dataset), end in ends if end.seq > 0
        ]
        if rows:
            with self._opened(is_writing=True) as connection:
                connection.executemany(statement, rows)

    @contextlib.contextmanager
    def _opened(self, *, is_writing: bool = False) -> Iterator[sqlite3.Connection]:
        if is_writing and not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        with contextlib.closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous=EXTRA")  # the folder too, so that no old rollback journal comes back
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_SCHEMA)
            yield connection
            connection.execute("COMMIT")


def _text(dataset_id: UUID | None) -> str:
    return _OWN if dataset_id is None else str(dataset_id)

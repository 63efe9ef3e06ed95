"""The size of texts in bytes, computed by the database, so that texts that are too large are never read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, LargeBinary, cast, func

PAGE_BYTES_MAX: Final = 2 * 1024 * 1024
"""The most bytes of journal entries in one page, unless its first entry has more."""

T = TypeVar("T")


def byte_length(connection: Connection, column: Column[str]) -> ColumnElement[int]:
    """Return the length of a text in UTF-8. PostgreSQL stores it with the text, and does not decompress that."""
    if connection.dialect.name == "postgresql":
        return func.octet_length(column)
    return func.length(cast(column, LargeBinary))  # octet_length exists since SQLite 3.43


def fitting(sized: Iterable[tuple[T, int]], bytes_max: int) -> Iterator[T]:
    """Return the first of these, each given with its size, that together stay within the bytes; one at least."""
    total = 0
    for number, (item, size) in enumerate(sized):
        total += size
        if number and total > bytes_max:
            return
        yield item

"""How many bytes a text has, asked of the database, so that what is too much is never read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, LargeBinary, cast, func

PAGE_BYTES_MAX: Final = 2 * 1024 * 1024
"""How many bytes of journal entries one page has, unless its first alone has more."""

T = TypeVar("T")


def byte_length(connection: Connection, column: Column[str]) -> ColumnElement[int]:
    """The length of a text in UTF-8. PostgreSQL keeps it beside the text, and does not unpack that."""
    if connection.dialect.name == "postgresql":
        return func.octet_length(column)
    return func.length(cast(column, LargeBinary))  # octet_length came with SQLite 3.43


def fitting(sized: Iterable[tuple[T, int]], bytes_max: int) -> Iterator[T]:
    """The first of these, each given with its size, that have no more bytes together; one at least."""
    total = 0
    for number, (item, size) in enumerate(sized):
        total += size
        if number and total > bytes_max:
            return
        yield item

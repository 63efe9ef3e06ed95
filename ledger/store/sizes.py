"""How many bytes a text has, asked of the database, so that what is too much is never read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeVar

from sqlalchemy import Integer, LargeBinary, cast, func
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

PAGE_BYTES_MAX: Final = 2 * 1024 * 1024
"""How many bytes of journal entries one page has, unless its first alone has more."""

T = TypeVar("T")


class byte_length(FunctionElement[int]):  # noqa: N801 (a function of SQL)
    """The length of a text in UTF-8. PostgreSQL keeps it beside the text, and does not unpack that."""

    type = Integer()
    inherit_cache = True


@compiles(byte_length)
def _anywhere(element: byte_length, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(func.octet_length(*element.clauses), **options)


@compiles(byte_length, "sqlite")
def _on_sqlite(element: byte_length, compiler: SQLCompiler, **options: Any) -> str:
    # octet_length came with SQLite 3.43.
    return compiler.process(func.length(cast(next(iter(element.clauses)), LargeBinary)), **options)


def fitting(sized: Iterable[tuple[T, int]], bytes_max: int) -> Iterator[T]:
    """The first of these, each given with its size, that have no more bytes together; one at least."""
    total = 0
    for number, (item, size) in enumerate(sized):
        total += size
        if number and total > bytes_max:
            return
        yield item

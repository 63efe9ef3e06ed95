"""Columns of many rows as PostgreSQL's binary arrays: an INSERT takes one of each, whatever the number of rows.

The driver makes the same of a list, one element at a time, in ten times as long; as text, it would escape every quote
of an entry too.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEAD: Final = struct.Struct("!iiIii")
_NULL: Final = (-1).to_bytes(4, signed=True)


class PackedArray(bytes):
    """An array as the server takes it. The statement casts it, and so says of what type it is."""

    __slots__ = ()


class _PackedDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: PackedArray) -> Buffer:
        return obj


psycopg.adapters.register_dumper(PackedArray, _PackedDumper)


def packed(kind: str, values: Sequence[Any]) -> PackedArray:
    """Return the values of a column of this type, by its name in SQL, as an array. None is NULL."""
    oid, size, encode = _KINDS[kind]
    has_null = None in values
    head = _HEAD.pack(1, has_null, oid, len(values), 1)
    if size is not None and not has_null:
        prefix = size.to_bytes(4)
        return PackedArray(head + prefix + prefix.join(map(encode, values)))
    parts = [head]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            raw = encode(value)
            parts += (len(raw).to_bytes(4), raw)
    return PackedArray(b"".join(parts))


def _uuid(value: UUID) -> bytes:
    return value.int.to_bytes(16)


_KINDS: Final[dict[str, tuple[int, int | None, Callable[[Any], bytes]]]] = {
    "BIGINT": (20, 8, struct.Struct("!q").pack),
    "BYTEA": (17, None, bytes),
    "INTEGER": (23, 4, struct.Struct("!i").pack),
    "TEXT": (25, None, str.encode),
    "UUID": (2950, 16, _uuid),
}
"""Of each type its number in PostgreSQL's catalogue, how many bytes an element has if all have as many, and these."""

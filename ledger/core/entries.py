"""Entries of a journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from uuid import UUID

NO_HASH: Final = bytes(32)

Record = Mapping[str, Any]
"""An entry of a journal, or a part of one, as it is parsed."""


class Sealed(NamedTuple):
    """An entry for a reader: its canonical JSON and hash. request: the canonical JSON of the request that it names by
    its digest, if that is in another entry and available."""

    body: str
    hash: bytes
    request: str | None = None


@dataclass(frozen=True, slots=True)
class TenantEntry:
    """An entry of a tenant's own journal: of keys, roles and policies."""

    seq: int
    kind: str
    at_us: int
    body: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class Draft:
    """A journal entry before it is sealed: everything but the hash that ties it to the one before. texts: the canonical
    JSON of some of its facts, by name, where that was made before."""

    dataset_id: UUID
    dataset: str
    seq: int
    kind: str
    actor: Mapping[str, Any]
    facts: Mapping[str, Any]
    run_id: UUID | None = None
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """A sealed journal entry: `body` is its canonical JSON, `hash` the SHA-256 of that text's UTF-8 bytes. request: the
    canonical JSON of the request that it names by its digest, if the reader looked it up. record: what `body`
    says, where it was sealed here and needs no parsing."""

    dataset_id: UUID
    seq: int
    kind: str
    at_us: int
    run_id: UUID | None
    body: str
    hash: bytes
    request: str | None = None
    record: Record | None = field(default=None, compare=False, repr=False)

    @property
    def sealed(self) -> Sealed:
        """Return the entry for a reader of journals."""
        return Sealed(self.body, self.hash, self.request)

"""What a report is made of: a question, and the journals that answer it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from ledger.core.entries import Sealed

Scope = Literal["dataset", "project", "tenant"]


@dataclass(frozen=True, slots=True)
class Question:
    """What a report is asked about.

    since, until: the period, from the one and before the other, as `ledger.core.amounts.timestamp` writes times; None
    is the beginning, and all that there is. restricted_to: the datasets that the caller's key sees; None is
    all of them.
    """

    scope: Scope
    tenant_id: UUID
    tenant: str
    dataset: str | None = None
    project: str | None = None
    since: str | None = None
    until: str | None = None
    restricted_to: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset's journal, as it was when the report was asked for.

    entries: all of it, oldest first, from the beginning at every call; so a report is made in two passes and keeps
    nothing of the first but sums. of_runs: what became of some runs after they were decided, by their entries in this
    journal, oldest first.
    newest_at: the `at` of the newest entry. head: the newest `seq` and `hash`, with `root` and `signature` where heads
    are signed.
    """

    dataset_id: UUID
    name: str
    newest_at: str
    head: Mapping[str, Any]
    entries: Callable[[], Iterator[Sealed]]
    of_runs: Callable[[Sequence[UUID]], Mapping[UUID, Sequence[Sealed]]]


@dataclass(frozen=True, slots=True)
class TenantSource:
    """The tenant's own journal, of keys and policies. Empty where the tenant is older than it: newest_at is ""."""

    newest_at: str
    head: Mapping[str, Any]
    entries: Callable[[], Iterator[Sealed]]

"""The question of a report, and the journals that answer it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from ledger.core.entries import Sealed

Scope = Literal["dataset", "project", "tenant"]


@dataclass(frozen=True, slots=True)
class Question:
    """The question of a report.

    since, until: the period, including `since` and excluding `until`, as `ledger.core.amounts.timestamp` writes times;
    None for no bound. restricted_to: the datasets that the caller's key may read; None for all. made_on, contact: the
    date and the person to ask, as the report states them; the same question gives the same report.
    """

    scope: Scope
    tenant_id: UUID
    tenant: str
    dataset: str | None = None
    project: str | None = None
    since: str | None = None
    until: str | None = None
    restricted_to: tuple[str, ...] | None = None
    made_on: str | None = None
    contact: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset's journal, as of the request of the report.

    entries: returns all entries, oldest first, at every call; so a report is made in two passes and keeps only sums of
    the first. of_runs: returns the later entries of some runs in this journal, oldest first.
    newest_at: the `at` of the newest entry. head: the newest `seq` and `hash`, with `root` and `signature` if it is
    signed.
    """

    dataset_id: UUID
    name: str
    newest_at: str
    head: Mapping[str, Any]
    entries: Callable[[], Iterator[Sealed]]
    of_runs: Callable[[Sequence[UUID]], Mapping[UUID, Sequence[Sealed]]]


@dataclass(frozen=True, slots=True)
class TenantSource:
    """The tenant's own journal, of keys and policies. An older tenant may have none: then newest_at is ""."""

    newest_at: str
    head: Mapping[str, Any]
    entries: Callable[[], Iterator[Sealed]]

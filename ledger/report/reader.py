"""Read journals from the store, for a report.

Entries never change, so no transaction must stay open for a slow reader: the ends of all journals are read once, in one
snapshot, and every later page ends there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

from ledger.core.amounts import microseconds, timestamp
from ledger.core.datasets import Dataset
from ledger.core.entries import Sealed
from ledger.core.people import Actor
from ledger.errors import InvalidRequest, NotFound
from ledger.report.document import Report
from ledger.report.source import Question, Scope, Source, TenantSource
from ledger.service.catalogue import demand_sight, no_dataset
from ledger.store import Reading, Store

PAGE: Final = 500

SignedHead = Callable[[Reading, Dataset | None], Mapping[str, Any]]
"""The head of a dataset's journal or the tenant's own: `seq`, `hash`, and `root` and `signature` if it is signed."""


def question_of(
    store: Store,
    actor: Actor,
    *,
    scope: Scope,
    dataset: str | None = None,
    project: str | None = None,
    since: datetime | None,
    until: datetime | None,
) -> Question:
    """Return the question of an actor, limited to what its key may read. Raises NotFound and InvalidRequest."""
    if dataset is not None:
        demand_sight(actor, dataset)
        if "\x00" in dataset:
            raise no_dataset(dataset)
    begin, end = _at("from", since), _at("to", until)
    if begin is not None and end is not None and begin >= end:
        raise InvalidRequest("to: must be after from", field="to")
    with store.reading(actor.tenant_id) as reading:
        tenant = reading.tenants.current()
    return Question(
        scope=scope,
        tenant_id=actor.tenant_id,
        tenant="" if tenant is None else tenant.name,
        dataset=dataset,
        project=project,
        since=begin,
        until=end,
        restricted_to=None if actor.datasets is None else tuple(sorted(actor.datasets)),
    )


def _at(field: str, moment: datetime | None) -> str | None:
    try:
        return None if moment is None else timestamp(microseconds(moment))
    except OverflowError:
        raise InvalidRequest(f"{field}: is outside of the years 1 to 9999 in UTC", field=field) from None


def unsigned(reading: Reading, dataset: Dataset | None) -> Mapping[str, Any]:
    """Return a head without a signature. Raises NotFound if the tenant does not exist."""
    if dataset is not None:
        return {"seq": dataset.seq, "hash": dataset.head.hex(), "root": None, "signature": None}
    tenant = reading.tenants.current()
    if tenant is None:
        raise NotFound("The tenant does not exist.")
    return {"seq": tenant.seq, "hash": tenant.head.hex(), "root": None, "signature": None}


@dataclass(frozen=True, slots=True)
class JournalEnd:
    """The end of a journal when a report was requested. dataset_id: None for the tenant's own."""

    dataset_id: UUID | None
    name: str
    seq: int
    newest_at: str
    head: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Extent:
    """A question, and the ends of the journals that answer it. With it any process can make the report at any time,
    because entries never change. tenant: the tenant's own journal, if it is asked for."""

    question: Question
    datasets: tuple[JournalEnd, ...]
    tenant: JournalEnd | None


def extent(store: Store, question: Question, *, signed_head: SignedHead) -> Extent:
    """Return the extent of a question, as of now. Raises NotFound if the dataset or project does not exist."""
    with store.reading(question.tenant_id) as reading:
        datasets = list(_datasets(reading, question))
        if question.dataset is not None and not datasets:
            raise no_dataset(question.dataset)
        ends = tuple(_dataset_end(reading, dataset, signed_head) for dataset in datasets)
        is_whole = question.scope == "tenant" and question.restricted_to is None
        tenant = _tenant_end(reading, signed_head) if is_whole else None
    return Extent(question, ends, tenant)


def report(store: Store, extent: Extent) -> Report:
    """Return the report of an extent."""
    tenant_id = extent.question.tenant_id
    tenant = extent.tenant
    return Report(
        extent.question,
        [_source(store, tenant_id, end.dataset_id, end) for end in extent.datasets if end.dataset_id is not None],
        None
        if tenant is None
        else TenantSource(tenant.newest_at, tenant.head, partial(_entries, store, tenant_id, tenant)),
    )


def opened(store: Store, question: Question, *, signed_head: SignedHead) -> Report:
    """Return the report for a question, as of now. Raises NotFound."""
    return report(store, extent(store, question, signed_head=signed_head))


def _datasets(reading: Reading, question: Question) -> Iterator[Dataset]:
    only = None if question.restricted_to is None else frozenset(question.restricted_to)
    if question.dataset is not None:
        only = frozenset({question.dataset}) if only is None else only & {question.dataset}
    if question.project is not None:
        concerned = reading.datasets.names_in_project(question.project)
        only = concerned if only is None else only & concerned
    if question.scope == "project" and not only:
        raise NotFound("There is no project of that name.", project=question.project)
    after: str | None = None
    while page := reading.datasets.page(after=after, limit=PAGE, only=only):
        yield from page
        after = page[-1].definition.name


def _dataset_end(reading: Reading, dataset: Dataset, signed_head: SignedHead) -> JournalEnd:
    newest = reading.journals.at(dataset.id, dataset.seq)
    newest_at = timestamp(newest.at_us) if newest else ""
    return JournalEnd(dataset.id, dataset.definition.name, dataset.seq, newest_at, signed_head(reading, dataset))


def _tenant_end(reading: Reading, signed_head: SignedHead) -> JournalEnd:
    tenant = reading.tenants.current()
    if tenant is None:
        raise NotFound("The tenant does not exist.")
    newest = reading.journals.tenant_page(after=tenant.seq - 1, limit=1)
    return JournalEnd(None, "", tenant.seq, timestamp(newest[0].at_us) if newest else "", signed_head(reading, None))


def _source(store: Store, tenant_id: UUID, dataset_id: UUID, end: JournalEnd) -> Source:
    def of_runs(runs: Sequence[UUID]) -> Mapping[UUID, Sequence[Sealed]]:
        with store.reading(tenant_id) as reading:
            moves = reading.journals.moves(runs, dataset_id)
        return {run: [entry.sealed for entry in mine if entry.seq <= end.seq] for run, mine in moves.items()}

    return Source(dataset_id, end.name, end.newest_at, end.head, partial(_entries, store, tenant_id, end), of_runs)


def _entries(store: Store, tenant_id: UUID, end: JournalEnd) -> Iterator[Sealed]:
    """Yield a journal from its beginning to its recorded end, one page per transaction."""
    after = 0
    while after < end.seq:
        limit = min(PAGE, end.seq - after)
        with store.reading(tenant_id) as reading:
            page: Sequence[Sealed]
            if end.dataset_id is None:
                page = [
                    Sealed(entry.body, entry.hash) for entry in reading.journals.tenant_page(after=after, limit=limit)
                ]
            else:
                page = [entry.sealed for entry in reading.journals.page(end.dataset_id, after=after, limit=limit)]
        if not page:
            return
        yield from page
        after += len(page)

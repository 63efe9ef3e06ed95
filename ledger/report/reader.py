"""Journals out of the store, for a report.

Entries never change, so no transaction has to stay open for a slow reader: where each journal ends is read once, of all
of them in one snapshot, and every page after that ends there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from ledger.core.amounts import microseconds, timestamp
from ledger.core.datasets import Dataset
from ledger.core.entries import Sealed
from ledger.core.people import Actor, Tenant
from ledger.errors import InvalidRequest, NotFound
from ledger.report.document import Report
from ledger.report.source import Question, Scope, Source, TenantSource
from ledger.service.catalogue import demand_sight, no_dataset
from ledger.store import Reading, Store

PAGE: Final = 500

SignedHead = Callable[[Reading, Dataset | None], Mapping[str, Any]]
"""Where a dataset's journal ends, or the tenant's own: `seq`, `hash`, and `root` and `signature` where it is signed."""


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
    """The question of an actor, limited to what its key sees. Raises NotFound and InvalidRequest."""
    if dataset is not None:
        demand_sight(actor, dataset)
        if "\x00" in dataset:
            raise no_dataset(dataset)
    begin, end = _at("from", since), _at("to", until)
    if begin is not None and end is not None and begin >= end:
        raise InvalidRequest("to: is not after from", field="to")
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
        raise InvalidRequest(f"{field}: is beyond the years that can be said", field=field) from None


def unsigned(reading: Reading, dataset: Dataset | None) -> Mapping[str, Any]:
    """A head that nobody has signed."""
    if dataset is not None:
        return {"seq": dataset.seq, "hash": dataset.head.hex(), "root": None, "signature": None}
    tenant = reading.tenants.current()
    if tenant is None:
        raise NotFound("There is no such tenant.")
    return {"seq": tenant.seq, "hash": tenant.head.hex(), "root": None, "signature": None}


def opened(store: Store, question: Question, *, signed_head: SignedHead) -> Report:
    """What answers a question, as it is now. Raises NotFound where there is no such dataset or project."""
    with store.reading(question.tenant_id) as reading:
        datasets = list(_datasets(reading, question))
        if question.dataset is not None and not datasets:
            raise no_dataset(question.dataset)
        sources = [_source(store, reading, dataset, signed_head) for dataset in datasets]
        is_whole = question.scope == "tenant" and question.restricted_to is None
        tenant = _tenant_source(store, reading, signed_head) if is_whole else None
    return Report(question, sources, tenant)


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


def _source(store: Store, reading: Reading, dataset: Dataset, signed_head: SignedHead) -> Source:
    newest = reading.journals.at(dataset.id, dataset.seq)

    def entries() -> Iterator[Sealed]:
        after = 0
        while after < dataset.seq:
            with store.reading(reading.tenant_id) as again:
                page = again.journals.page(dataset.id, after=after, limit=min(PAGE, dataset.seq - after))
            if not page:
                return
            yield from (entry.sealed for entry in page)
            after = page[-1].seq

    def of_runs(runs: Sequence[UUID]) -> Mapping[UUID, Sequence[Sealed]]:
        with store.reading(reading.tenant_id) as again:
            moves = again.journals.moves(runs, dataset.id)
        return {run: [entry.sealed for entry in mine if entry.seq <= dataset.seq] for run, mine in moves.items()}

    return Source(
        dataset.id,
        dataset.definition.name,
        timestamp(newest.at_us) if newest else "",
        signed_head(reading, dataset),
        entries,
        of_runs,
    )


def _tenant_source(store: Store, reading: Reading, signed_head: SignedHead) -> TenantSource:
    tenant = reading.tenants.current()
    if tenant is None:
        raise NotFound("There is no such tenant.")
    newest = reading.journals.tenant_page(after=tenant.seq - 1, limit=1)
    newest_at = timestamp(newest[0].at_us) if newest else ""
    return TenantSource(newest_at, signed_head(reading, None), lambda: _tenant_entries(store, tenant))


def _tenant_entries(store: Store, tenant: Tenant) -> Iterator[Sealed]:
    after = 0
    while after < tenant.seq:
        with store.reading(tenant.id) as reading:
            page = reading.journals.tenant_page(after=after, limit=min(PAGE, tenant.seq - after))
        if not page:
            return
        yield from (Sealed(entry.body, entry.hash) for entry in page)
        after = page[-1].seq

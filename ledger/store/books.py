"""The books, as a decision reads and writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, bindparam, select

from ledger.core.books import Books, ReadSet
from ledger.core.datasets import Dataset, Project
from ledger.core.people import Tenant
from ledger.store.accounts import AccountReader, AccountWriter
from ledger.store.columns import NOBODY
from ledger.store.datasets import DatasetReader, DatasetWriter
from ledger.store.proposals import ProposalReader, ProposalWriter
from ledger.store.repository import Repository, among
from ledger.store.rows import alerting_of, dataset_of
from ledger.store.runs import RunReader, RunWriter
from ledger.store.tables import accounts, datasets, tenants
from ledger.store.tenants import TenantReader, TenantWriter

NAMES_MAX: Final = 500
"""The most partitions that are read by name. If a group names more, all are read."""


_Query = Select[Any]
_DECIDED_ON: Final[dict[bool, _Query]] = {
    is_one: select(
        datasets,
        select(tenants.c.alerting)
        .where(tenants.c.tenant_id == bindparam("tenant"))
        .scalar_subquery()
        .label("alerting"),
    )
    .where(datasets.c.tenant_id == bindparam("tenant"), among(datasets.c.id, "ids", is_one=is_one))
    .order_by(datasets.c.id)
    for is_one in (False, True)
}
"""The datasets, each next to the tenant's alerting, so that this takes no further statement; of many, and of one."""
_LOCKED: Final = {is_one: query.with_for_update(key_share=True) for is_one, query in _DECIDED_ON.items()}


class BookReader(Repository):
    """Reads what decisions about datasets need."""

    def read(self, read_sets: Mapping[UUID, ReadSet], *, run_ids: Sequence[UUID] = ()) -> Books:
        """Return the books of these datasets, as they are now. Their definitions here have no lineage, which was
        resolved before."""
        return self._fill(self._rows(_DECIDED_ON, read_sets), read_sets, run_ids)

    def _rows(self, queries: Mapping[bool, _Query], read_sets: Mapping[UUID, ReadSet]) -> Sequence[Row[Any]]:
        ids = list(read_sets)
        is_one = len(ids) == 1
        values = {"tenant": self.tenant_id, "ids": ids[0] if is_one else ids}
        return self.connection.execute(queries[is_one], values).all()

    def _fill(self, rows: Sequence[Row[Any]], read_sets: Mapping[UUID, ReadSet], run_ids: Sequence[UUID]) -> Books:
        loaded = [dataset_of(row, ()) for row in rows]
        books = Books(
            datasets={dataset.id: dataset for dataset in loaded},
            alerting=alerting_of(rows[0].alerting if rows else None),
        )
        self._fill_accounts(books, loaded, read_sets)
        books.projects.update(self._projects(read_sets))
        run_reader = RunReader(self.connection, self.tenant_id)
        if run_ids:
            books.runs.update(run_reader.by_id(run_ids))
        waiting = {dataset.id for dataset in loaded if dataset.fair_use.waits_above_percent is not None}
        guarded = [id_ for id_, read_set in read_sets.items() if read_set.is_guarded or id_ in waiting]
        books = self._with_policy(books, guarded)
        for dataset in loaded:
            read_set = read_sets[dataset.id]
            if most := max(dataset.fair_use.runs_per_hour or 0, read_set.runs_per_hour):
                for principal_id in read_set.principals:
                    newest = run_reader.newest_times(dataset.id, principal_id, limit=most)
                    books.recent[dataset.id, principal_id] = newest
        return books

    def _fill_accounts(self, books: Books, loaded: Sequence[Dataset], read_sets: Mapping[UUID, ReadSet]) -> None:
        account_reader = AccountReader(self.connection, self.tenant_id)
        if whole := [dataset.id for dataset in loaded if not dataset.definition.is_partitioned]:
            sets = [read_sets[id_] for id_ in whole]
            projects = {name for read_set in sets for name in read_set.projects}
            principals = {id_ for read_set in sets for id_ in read_set.principals}
            for account in account_reader.of_whole(whole, projects, principals):
                books.accounts[account.key] = account
        for condition in _account_conditions(loaded, read_sets):
            books.accounts.update((account.key, account) for account in account_reader.matching(condition))
        if every_held := [dataset.id for dataset in loaded if read_sets[dataset.id].is_every_held]:
            books.accounts.update((account.key, account) for account in account_reader.holding(every_held))
        for key in books.accounts:
            if key.is_base and key.partition is not None:
                books.partitions[key.dataset_id] = (*books.partitions.get(key.dataset_id, ()), key.partition)
        for dataset in loaded:
            if dataset.definition.is_partitioned:
                books.partitions.setdefault(dataset.id, ())

    def _projects(self, read_sets: Mapping[UUID, ReadSet]) -> dict[tuple[UUID, str], Project]:
        ids = [id_ for id_, read_set in read_sets.items() if read_set.projects or read_set.is_every_project]
        if not ids:
            return {}
        is_every = any(read_sets[id_].is_every_project for id_ in ids)
        names = None if is_every else {name for id_ in ids for name in read_sets[id_].projects}
        rows = DatasetReader(self.connection, self.tenant_id).projects(ids, names)
        return {(project.dataset_id, project.name): project for project in rows}

    def _with_policy(self, books: Books, guarded: Sequence[UUID]) -> Books:
        """Return the books with what decides whether a change to these datasets needs a second person."""
        if not guarded:
            return books
        tenant = self._tenant()
        overdrawn = AccountReader(self.connection, self.tenant_id).overdrawn(guarded)
        books.accounts.update((account.key, account) for account in overdrawn)
        frozen = [id_ for id_ in guarded if id_ in books.datasets and books.datasets[id_].state == "frozen"]
        books.reported.update(RunReader(self.connection, self.tenant_id).reported(frozen) if frozen else {})
        open_proposals = ProposalReader(self.connection, self.tenant_id).open_on(guarded)
        return replace(
            books,
            takes_two=tenant is not None and tenant.second_steward,
            proposals={proposal.id: proposal for proposal in open_proposals},
        )

    def _tenant(self) -> Tenant | None:
        """Return the tenant with its policy."""
        return TenantReader(self.connection, self.tenant_id).current()


class BookWriter(BookReader):
    """Locks the books for a decision, and saves the changes."""

    def __init__(self, connection: Connection, tenant_id: UUID) -> None:
        super().__init__(connection, tenant_id)
        self._datasets = DatasetWriter(connection, tenant_id)
        self._accounts = AccountWriter(connection, tenant_id)
        self._runs = RunWriter(connection, tenant_id)
        self._proposals = ProposalWriter(connection, tenant_id)

    def lock(self, read_sets: Mapping[UUID, ReadSet], run_ids: Sequence[UUID]) -> Books:
        """Lock these datasets, in the order of their ids, and read their rows.

        Accounts and runs are read by statements that begin after the locks are held: a join in the locking statement
        itself would show them as they were before the wait. The lock leaves the rows' keys free, so that a dataset that
        is being derived from one of them need not wait.
        """
        if not read_sets:
            return Books()
        return self._fill(self._rows(_LOCKED, read_sets), read_sets, run_ids)

    def _tenant(self) -> Tenant | None:
        """Return the tenant, locked against a change of its policy: what is decided now is recorded before the next
        policy."""
        return TenantWriter(self.connection, self.tenant_id).lock_policy()

    def save(self, before: Books, after: Books, heads: Mapping[UUID, bytes]) -> None:
        """Write the changed rows; `heads` are the journals' new hashes. Entries are appended before."""
        self._datasets.save(before, after, heads)
        self._accounts.save(before, after)
        self._runs.save(before, after)
        self._proposals.save(before, after)


def _account_conditions(loaded: Sequence[Dataset], read_sets: Mapping[UUID, ReadSet]) -> Iterator[ColumnElement[bool]]:
    """Return one condition for each dataset that has partitions."""
    for dataset in loaded:
        read_set = read_sets[dataset.id]
        if not dataset.definition.is_partitioned or read_set.partitions == set():
            continue
        conditions = [accounts.c.dataset_id == dataset.id, _is_held_by(read_set)]
        if read_set.partitions is not None and len(read_set.partitions) <= NAMES_MAX:
            conditions.append(accounts.c.partition.in_(sorted(read_set.partitions)))
        yield and_(*conditions)


def _is_held_by(read_set: ReadSet) -> ColumnElement[bool]:
    """Return the condition: nobody's, these projects', these principals'."""
    # At most one of the two columns names somebody.
    names, ids = ["", *sorted(read_set.projects)], [NOBODY, *sorted(read_set.principals)]
    return and_(accounts.c.project.in_(names), accounts.c.principal_id.in_(ids))

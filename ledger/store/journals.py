"""Journals: the entries of datasets and of the tenant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, and_, func, insert, select, update

from ledger.core.entries import Entry, TenantEntry
from ledger.core.journal import chain
from ledger.errors import NotFound
from ledger.store.repository import Repository
from ledger.store.rows import entry_of
from ledger.store.tables import (
    accounts,
    datasets,
    entries,
    lineage,
    places,
    projects,
    proposals,
    tenant_entries,
    tenants,
)
from ledger.store.tenants import TenantWriter

TAIL_MAX: Final = 200
"""How far back in a journal refusals in a row are counted, in entries."""


class JournalReader(Repository):
    """Reads entries."""

    def page(self, dataset_id: UUID, *, after: int, limit: int) -> list[Entry]:
        """A dataset's journal, oldest first."""
        query = (
            select(entries)
            .where(entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == dataset_id, entries.c.seq > after)
            .order_by(entries.c.seq)
            .limit(limit)
        )
        return [entry_of(row) for row in self.connection.execute(query)]

    def tenant_page(self, *, after: int, limit: int) -> list[TenantEntry]:
        """The tenant's own journal, oldest first."""
        query = (
            select(tenant_entries)
            .where(tenant_entries.c.tenant_id == self.tenant_id, tenant_entries.c.seq > after)
            .order_by(tenant_entries.c.seq)
            .limit(limit)
        )
        return [_tenant_entry_of(row) for row in self.connection.execute(query)]

    def hashes(self, dataset_id: UUID | None, *, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Numbers and hashes of a dataset's journal, or of the tenant's own if there is no id, oldest first."""
        table = tenant_entries if dataset_id is None else entries
        query = select(table.c.seq, table.c.hash).where(table.c.tenant_id == self.tenant_id, table.c.seq > after)
        if dataset_id is not None:
            query = query.where(entries.c.dataset_id == dataset_id)
        rows = self.connection.execute(query.order_by(table.c.seq).limit(limit))
        return [(row.seq, bytes(row.hash)) for row in rows]

    def newest(self, dataset_ids: Sequence[UUID]) -> dict[UUID, Entry]:
        """The newest entry of each of these journals, whatever the dataset's row names as its head."""
        newest_seq = (
            select(func.max(entries.c.seq))
            .where(entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == datasets.c.id)
            .correlate(datasets)
            .scalar_subquery()
        )
        query = (
            select(entries)
            .join(datasets, and_(datasets.c.tenant_id == entries.c.tenant_id, datasets.c.id == entries.c.dataset_id))
            .where(datasets.c.tenant_id == self.tenant_id, datasets.c.id.in_(dataset_ids), entries.c.seq == newest_seq)
        )
        return {row.dataset_id: entry_of(row) for row in self.connection.execute(query)}

    def newest_of_tenant(self) -> TenantEntry | None:
        """The newest entry of the tenant's own journal."""
        mine = select(tenant_entries).where(tenant_entries.c.tenant_id == self.tenant_id)
        row = self.connection.execute(mine.order_by(tenant_entries.c.seq.desc()).limit(1)).one_or_none()
        return None if row is None else _tenant_entry_of(row)

    def run_entries(self, run_ids: Sequence[UUID], *, dataset_id: UUID | None = None) -> dict[UUID, list[Entry]]:
        """Every entry of these runs, oldest first. dataset_id: those of its journal, or None for all."""
        query = select(entries).where(entries.c.tenant_id == self.tenant_id, entries.c.run_id.in_(run_ids))
        if dataset_id is not None:
            query = query.where(entries.c.dataset_id == dataset_id)
        by_run: dict[UUID, list[Entry]] = {run_id: [] for run_id in run_ids}
        # Sorted here: a database that was asked for this order would rather walk along the journals than seek the runs.
        rows = self.connection.execute(query).all() if run_ids else []
        for row in sorted(rows, key=lambda row: (str(row.dataset_id), row.seq)):
            by_run[row.run_id].append(entry_of(row))
        return by_run

    def settlements(self, dataset_id: UUID, run_ids: Sequence[UUID]) -> dict[UUID, Entry]:
        """The entries in a dataset's journal that settled these runs."""
        query = select(entries).where(
            entries.c.tenant_id == self.tenant_id,
            entries.c.run_id.in_(run_ids),
            entries.c.kind == "run-settled",
            entries.c.dataset_id == dataset_id,
        )
        return {row.run_id: entry_of(row) for row in self.connection.execute(query)}

    def has(self, entry: Entry) -> bool:
        """Whether exactly this entry is in the journal: how a commit is recognised whose answer was lost."""
        query = select(entries.c.hash).where(
            entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == entry.dataset_id, entries.c.seq == entry.seq
        )
        return self.connection.execute(query).scalar() == entry.hash

    def refusals_in_a_row(self, dataset_id: UUID, *, before: int, limit: int) -> int:
        """How many runs were refused on a dataset since it approved one, before this entry: counted up to `limit`, and
        no further back than `TAIL_MAX` entries."""
        newest = (
            select(entries.c.kind)
            .where(entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == dataset_id)
            .where(entries.c.seq < before, entries.c.seq >= before - TAIL_MAX)
            .where(entries.c.kind.in_(("run-approved", "run-refused")))
            .order_by(entries.c.seq.desc())
            .limit(limit)
        )
        kinds = self.connection.execute(newest).scalars().all()
        return next((count for count, kind in enumerate(kinds) if kind != "run-refused"), len(kinds))

    def dataset_ids(self) -> set[UUID]:
        """The datasets that have entries, or rows that decisions are made on, whether or not they are listed."""
        ids: set[UUID] = set()
        for table in (entries, accounts, places, projects, proposals, lineage):
            query = select(table.c.dataset_id).distinct().where(table.c.tenant_id == self.tenant_id)
            ids.update(self.connection.execute(query).scalars())
        return ids


class JournalWriter(JournalReader):
    """Appends entries."""

    def append(self, sealed: Sequence[Entry]) -> None:
        """Append entries to the journals of their datasets."""
        rows = [
            {
                "tenant_id": self.tenant_id,
                "dataset_id": entry.dataset_id,
                "seq": entry.seq,
                "kind": entry.kind,
                "at_us": entry.at_us,
                "run_id": entry.run_id,
                "body": entry.body,
                "hash": entry.hash,
            }
            for entry in sealed
        ]
        self._add_rows(entries, rows)

    def note(self, kind: str, actor: Mapping[str, Any], facts: Mapping[str, Any], *, now_us: int) -> TenantEntry:
        """Append an entry to the tenant's own journal, whose lock is the last that a transaction takes."""
        tenant = TenantWriter(self.connection, self.tenant_id).lock()
        if tenant is None:
            raise NotFound("There is no such tenant.")
        newest = self.newest_of_tenant()
        # A journal's times never go back, whatever is done to the clock, and whoever waited longer for the lock.
        at_us = now_us if newest is None else max(now_us, newest.at_us)
        entry = chain.seal_of_tenant(
            kind, actor, facts, tenant_id=self.tenant_id, seq=tenant.seq + 1, prev=tenant.head, at_us=at_us
        )
        row = {"seq": entry.seq, "kind": kind, "at_us": at_us, "body": entry.body, "hash": entry.hash}
        self.connection.execute(insert(tenant_entries), {"tenant_id": self.tenant_id, **row})
        self.connection.execute(
            update(tenants).where(tenants.c.tenant_id == self.tenant_id), {"seq": entry.seq, "head": entry.hash}
        )
        return entry


def _tenant_entry_of(row: Row[Any]) -> TenantEntry:
    return TenantEntry(row.seq, row.kind, row.at_us, row.body, row.hash)

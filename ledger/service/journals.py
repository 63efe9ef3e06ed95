"""Journals, a dataset's or the tenant's own: entries, head, proofs, export."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from ledger.access.roles import demand_raw, demand_whole
from ledger.core.datasets import Dataset
from ledger.core.entries import Entry, TenantEntry
from ledger.core.people import Actor, Tenant
from ledger.errors import JournalBroken
from ledger.service import pages
from ledger.service.catalogue import find_dataset
from ledger.service.shapes.journals import (
    Consistency,
    ConsistencyProof,
    Head,
    Inclusion,
    InclusionProof,
    TenantConsistencyProof,
    TenantHead,
    TenantInclusionProof,
)
from ledger.service.tenants import demand_tenant
from ledger.signer.heads import Heads
from ledger.signer.keyfile import Signer
from ledger.store import Reading, Store
from ledger.verifier import proofs
from ledger.verifier.export import entry_line, head_line, header, request_line
from ledger.verifier.merkle import CompactTree

EXPORT_PAGE: Final = 500

log = logging.getLogger(__name__)


class Journals:
    """Reads journals: a dataset's by its name, or without a name the tenant's own, which needs a key that sees
    everything."""

    def __init__(self, *, store: Store, heads: Heads, signer: Signer) -> None:
        self._store, self._heads, self._signer = store, heads, signer

    def entries(
        self, actor: Actor, dataset: str | None, *, limit: int, cursor: str | None
    ) -> tuple[Sequence[Entry | TenantEntry], str | None]:
        """Return a page of a journal, oldest first, and the cursor of the next one. Raises NotFound and Forbidden."""
        after = pages.after_seq(cursor)
        demand_raw(actor)
        with self._reading(actor, dataset) as (reading, tenant, named):
            rows = _entries(reading, named, after=after, limit=limit)
        end = tenant.seq if named is None else named.seq
        is_last = not rows or rows[-1].seq >= end
        return rows, None if is_last else pages.cursor_at(rows[-1].seq)

    def head(self, actor: Actor, dataset: str | None) -> Head | TenantHead:
        """Return the signed head of a journal. Raises NotFound and Forbidden."""
        with self._reading(actor, dataset) as (reading, tenant, named):
            signed = self._heads.signed(reading, named)
        if named is None:
            return TenantHead(tenant=tenant.name, **signed)
        return Head(dataset=named.definition.name, **signed)

    def inclusion(
        self, actor: Actor, dataset: str | None, *, seq: int, size: int | None
    ) -> InclusionProof | TenantInclusionProof:
        """Return the proof that an entry is in a journal. Raises NotFound, Forbidden, and InvalidRequest beyond its
        end."""
        with self._reading(actor, dataset) as (reading, tenant, named):
            proof = proofs.inclusion(self._heads.view(reading, named), seq=seq, size=size)
            head = self._heads.signed(reading, named)
        shared = Inclusion(
            kind="inclusion",
            seq=proof.seq,
            hash=proof.hash,
            size=proof.size,
            root=proof.root,
            path=proof.path,
            head=head,
        )
        if named is None:
            return TenantInclusionProof(tenant=tenant.name, **shared)
        return InclusionProof(dataset=named.definition.name, **shared)

    def consistency(
        self, actor: Actor, dataset: str | None, *, from_: int, to: int | None
    ) -> ConsistencyProof | TenantConsistencyProof:
        """Return the proof that a journal begins with a shorter one.

        Raises NotFound, Forbidden, and InvalidRequest beyond its end.
        """
        with self._reading(actor, dataset) as (reading, tenant, named):
            proof = proofs.consistency(self._heads.view(reading, named), from_=from_, to=to)
            head = self._heads.signed(reading, named)
        shared: Consistency = {
            "kind": "consistency",
            "from": proof.old_size,
            "from_root": proof.old_root,
            "to": proof.size,
            "root": proof.root,
            "path": proof.path,
            "head": head,
        }
        if named is None:
            return TenantConsistencyProof(tenant=tenant.name, **shared)
        return ConsistencyProof(dataset=named.definition.name, **shared)

    def export(self, actor: Actor, dataset: str | None) -> Iterator[str]:
        """Return the lines of a whole journal as it is now. Raises NotFound and Forbidden at once, not at the first
        line."""
        demand_raw(actor)
        with self._reading(actor, dataset) as (_, tenant, named):
            return self._lines(tenant, named)

    @contextmanager
    def _reading(self, actor: Actor, name: str | None) -> Iterator[tuple[Reading, Tenant, Dataset | None]]:
        """Open a reading, and return a tenant and the named dataset in the same snapshot as the journal."""
        if name is None:
            demand_whole(actor)
        with self._store.reading(actor.tenant_id) as reading:
            tenant = demand_tenant(reading)
            yield reading, tenant, None if name is None else find_dataset(reading, actor, name)

    def _lines(self, tenant: Tenant, dataset: Dataset | None) -> Iterator[str]:
        """Yield the lines, one page of the journal at a time. Entries never change, so no transaction stays open for a
        slow reader: the export ends at the head that the journal had when it began, and its head is that of its
        entries."""
        seq, newest = (tenant.seq, tenant.head) if dataset is None else (dataset.seq, dataset.head)
        id_, name = (None, "") if dataset is None else (dataset.id, dataset.definition.name)
        keys = self._signer.jwks()
        yield header(tenant_id=tenant.id, tenant=tenant.name, dataset_id=id_, dataset=name, keys=keys) + "\n"
        tree = CompactTree()
        after = 0
        while after < seq:
            with self._store.reading(tenant.id) as reading:
                entries = _entries(reading, dataset, after=after, limit=min(EXPORT_PAGE, seq - after))
            if not entries:
                break  # as far as there are any; the export of a broken journal may have fewer
            for entry in entries:
                tree.append(entry.hash)
            yield "".join(map(_line, entries))
            after = entries[-1].seq
        root = tree.root()
        yield head_line(seq=seq, hash_=newest, root=root, signature=self._signature(tenant, dataset, root)) + "\n"

    def _signature(self, tenant: Tenant, dataset: Dataset | None, root: bytes) -> str | None:
        """Return the head's signature; None if the journal is broken, which the export must show and not hide."""
        try:
            with self._store.reading(tenant.id) as reading:
                signed = self._heads.signed(reading, dataset, tenant=tenant)
        except JournalBroken:
            return None  # it was logged where it was detected
        if signed["root"] != root.hex():
            log.error("an export is not signed: its entries differ from those that this process has seen")
            return None
        return signed["signature"]


def _line(entry: Entry | TenantEntry) -> str:
    line = entry_line(seq=entry.seq, hash_=entry.hash, body=entry.body) + "\n"
    request = entry.request if isinstance(entry, Entry) else None
    return line if request is None else request_line(request) + "\n" + line


def _entries(reading: Reading, dataset: Dataset | None, *, after: int, limit: int) -> Sequence[Entry | TenantEntry]:
    if dataset is None:
        return reading.journals.tenant_page(after=after, limit=limit)
    return reading.journals.page(dataset.id, after=after, limit=limit)

"""Any journal's head, proofs and export: a dataset's, or the tenant's own.

`dataset` is None for the tenant's own journal.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from ledger.core.datasets import Dataset
from ledger.core.entries import Entry, TenantEntry
from ledger.core.people import Tenant
from ledger.errors import JournalBroken
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
from ledger.service.use_cases import UseCases
from ledger.store import Reading
from ledger.verifier import proofs
from ledger.verifier.export import entry_line, head_line, header
from ledger.verifier.merkle import Frontier

EXPORT_PAGE: Final = 500

log = logging.getLogger(__name__)


def head(served: UseCases, reading: Reading, tenant: Tenant, dataset: Dataset | None) -> Head | TenantHead:
    """The signed head. Raises JournalBroken."""
    signed = served.heads.signed(reading, dataset)
    if dataset is None:
        return TenantHead(tenant=tenant.name, **signed)
    return Head(dataset=dataset.definition.name, **signed)


def inclusion(
    served: UseCases, reading: Reading, tenant: Tenant, dataset: Dataset | None, *, seq: int, size: int | None
) -> InclusionProof | TenantInclusionProof:
    """The proof that an entry is in the journal. Raises InvalidRequest if the journal has fewer entries."""
    proof = proofs.inclusion(served.heads.branch(reading, dataset), seq=seq, size=size)
    shared = Inclusion(
        kind="inclusion",
        seq=proof.seq,
        hash=proof.hash,
        size=proof.size,
        root=proof.root,
        path=proof.path,
        head=served.heads.signed(reading, dataset),
    )
    if dataset is None:
        return TenantInclusionProof(tenant=tenant.name, **shared)
    return InclusionProof(dataset=dataset.definition.name, **shared)


def consistency(
    served: UseCases, reading: Reading, tenant: Tenant, dataset: Dataset | None, *, from_: int, to: int | None
) -> ConsistencyProof | TenantConsistencyProof:
    """The proof that the journal goes on from an earlier one. Raises InvalidRequest if it has fewer entries."""
    proof = proofs.consistency(served.heads.branch(reading, dataset), from_=from_, to=to)
    shared: Consistency = {
        "kind": "consistency",
        "from": proof.old_size,
        "from_root": proof.old_root,
        "to": proof.size,
        "root": proof.root,
        "path": proof.path,
        "head": served.heads.signed(reading, dataset),
    }
    if dataset is None:
        return TenantConsistencyProof(tenant=tenant.name, **shared)
    return ConsistencyProof(dataset=dataset.definition.name, **shared)


def export(served: UseCases, tenant: Tenant, dataset: Dataset | None) -> Iterator[str]:
    """The lines of the whole journal, as it was when `tenant` or `dataset` was read, a page of it at a time.

    Entries never change, so no transaction has to stay open for a slow reader: the export ends where the head was when
    it began, and its head is that of the entries that it has.
    """
    seq, newest = (tenant.seq, tenant.head) if dataset is None else (dataset.seq, dataset.head)
    id_, name = (None, "") if dataset is None else (dataset.id, dataset.definition.name)
    keys = served.signer.jwks()
    yield header(tenant_id=tenant.id, tenant=tenant.name, dataset_id=id_, dataset=name, keys=keys) + "\n"
    tree = Frontier()
    for after in range(0, seq, EXPORT_PAGE):
        with served.store.reading(tenant.id) as reading:
            page = _page(reading, dataset, after=after, limit=min(EXPORT_PAGE, seq - after))
        for entry in page:
            tree.append(entry.hash)
        yield "".join(entry_line(seq=e.seq, hash_=e.hash, body=e.body) + "\n" for e in page)
    root = tree.root()
    yield head_line(seq=seq, hash_=newest, root=root, signature=_signature(served, tenant, dataset, root)) + "\n"


def _page(reading: Reading, dataset: Dataset | None, *, after: int, limit: int) -> list[Entry] | list[TenantEntry]:
    if dataset is None:
        return reading.tenant_entry_page(after=after, limit=limit)
    return reading.entry_page(dataset.id, after=after, limit=limit)


def _signature(served: UseCases, tenant: Tenant, dataset: Dataset | None, root: bytes) -> str | None:
    """The head's signature; None if the journal is broken, which the export must show and not hide."""
    try:
        with served.store.reading(tenant.id) as reading:
            signed = served.heads.signed(reading, dataset, tenant=tenant)
    except JournalBroken:
        return None  # it was logged where it was found
    if signed["root"] != root.hex():
        log.error("an export gets no signature: its entries are others than those that this process knows")
        return None
    return signed["signature"]

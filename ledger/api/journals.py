"""Any journal's head, proofs and export: a dataset's, or the tenant's own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Annotated, Any, Final

from fastapi import Query, Response
from starlette.responses import StreamingResponse

from ledger.api.problems import Json
from ledger.api.services import Services
from ledger.core.datasets import Dataset
from ledger.core.entries import Entry, TenantEntry
from ledger.core.people import Tenant
from ledger.errors import JournalBroken
from ledger.store import Reading
from ledger.verifier import proofs
from ledger.verifier.export import entry_line, head_line, header
from ledger.verifier.merkle import CompactTree

EXPORT_PAGE: Final = 500
EXPORTED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"application/jsonl": {}}, "description": "JSON Lines: a header, the entries, the signed head."}
}

Seq = Annotated[int, Query(ge=1, le=2**63 - 1, description="The number of the entry.")]
Size = Annotated[
    int | None, Query(ge=1, le=2**63 - 1, description="Among how many entries it is, from the first on; all of them.")
]
From = Annotated[int, Query(alias="from", ge=1, le=2**63 - 1, description="How many entries there were.")]
To = Annotated[int | None, Query(ge=1, le=2**63 - 1, description="How many there were later; all there are now.")]

log = logging.getLogger(__name__)


def head(served: Services, reading: Reading, tenant: Tenant, dataset: Dataset | None) -> Response:
    """The signed head, as a call answers it."""
    return Json({**_about(tenant, dataset), **served.heads.signed(reading, dataset)})


def inclusion(
    served: Services, reading: Reading, tenant: Tenant, dataset: Dataset | None, *, seq: int, size: int | None
) -> Response:
    """The proof that an entry is in the journal. Raises InvalidRequest where there are not so many."""
    proof = proofs.inclusion(served.heads.view(reading, dataset), seq=seq, size=size)
    return Json({**_about(tenant, dataset), **proof, "head": served.heads.signed(reading, dataset)})


def consistency(
    served: Services, reading: Reading, tenant: Tenant, dataset: Dataset | None, *, from_: int, to: int | None
) -> Response:
    """The proof that the journal goes on from an earlier one. Raises InvalidRequest where there are not so many."""
    proof = proofs.consistency(served.heads.view(reading, dataset), from_=from_, to=to)
    return Json({**_about(tenant, dataset), **proof, "head": served.heads.signed(reading, dataset)})


def _about(tenant: Tenant, dataset: Dataset | None) -> dict[str, str]:
    return {"tenant": tenant.name} if dataset is None else {"dataset": dataset.definition.name}


def export(served: Services, tenant: Tenant, dataset: Dataset | None) -> Response:
    """The whole journal as it was when the dataset (or, without one, the tenant) was read."""
    return StreamingResponse(_lines(served, tenant, dataset), media_type="application/jsonl")


def _lines(served: Services, tenant: Tenant, dataset: Dataset | None) -> Iterator[str]:
    """The lines, a page of the journal at a time. Entries never change, so no transaction has to stay open for a slow
    reader: the export ends where the head was when it began, and its head is that of the entries that it has."""
    seq, newest = (tenant.seq, tenant.head) if dataset is None else (dataset.seq, dataset.head)
    id_, name = (None, "") if dataset is None else (dataset.id, dataset.definition.name)
    keys = served.signer.jwks()
    yield header(tenant_id=tenant.id, tenant=tenant.name, dataset_id=id_, dataset=name, keys=keys) + "\n"
    tree = CompactTree()
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


def _signature(served: Services, tenant: Tenant, dataset: Dataset | None, root: bytes) -> str | None:
    """The head's signature; None where the journal is broken, which the export is to show and not to hide."""
    try:
        with served.store.reading(tenant.id) as reading:
            signed = served.heads.signed(reading, dataset, tenant=tenant)
    except JournalBroken:
        return None  # it was logged where it was found
    if signed["root"] != root.hex():
        log.error("an export gets no signature: its entries are others than those that this process knows")
        return None
    return str(signed["signature"])

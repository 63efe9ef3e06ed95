"""What the calls about journals share, those of a dataset and the tenant's own: parameters and answers."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Query, Response
from starlette.responses import StreamingResponse

from ledger.api.problems import Json
from ledger.api.services import Services
from ledger.core.datasets import Dataset
from ledger.core.people import Tenant
from ledger.service import journals
from ledger.store import Reading

EXPORTED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"application/jsonl": {}}, "description": "JSON Lines: a header, the entries, the signed head."}
}

Seq = Annotated[int, Query(ge=1, le=2**63 - 1, description="The number of the entry.")]
Size = Annotated[
    int | None, Query(ge=1, le=2**63 - 1, description="Among how many entries it is, from the first on; all of them.")
]
From = Annotated[int, Query(alias="from", ge=1, le=2**63 - 1, description="How many entries there were.")]
To = Annotated[int | None, Query(ge=1, le=2**63 - 1, description="How many there were later; all there are now.")]


def head(served: Services, reading: Reading, tenant: Tenant, dataset: Dataset | None) -> Response:
    """The signed head."""
    return Json(journals.head(served, reading, tenant, dataset))


def inclusion(
    served: Services, reading: Reading, tenant: Tenant, dataset: Dataset | None, *, seq: int, size: int | None
) -> Response:
    """The proof that an entry is in the journal."""
    return Json(journals.inclusion(served, reading, tenant, dataset, seq=seq, size=size))


def consistency(
    served: Services, reading: Reading, tenant: Tenant, dataset: Dataset | None, *, from_: int, to: int | None
) -> Response:
    """The proof that the journal goes on from an earlier one."""
    return Json(journals.consistency(served, reading, tenant, dataset, from_=from_, to=to))


def export(served: Services, tenant: Tenant, dataset: Dataset | None) -> Response:
    """The whole journal as it was when the dataset, or the tenant, was read."""
    return StreamingResponse(journals.export(served, tenant, dataset), media_type="application/jsonl")

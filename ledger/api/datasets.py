"""Datasets, their budgets and their journals."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from ledger import journal, verify
from ledger.accounting import amounts
from ledger.accounting.budgets import limit_of, report_deltas
from ledger.api import pages
from ledger.api.gate import Auditor, Reader, Registrar, Route, Steward
from ledger.api.problems import Json
from ledger.api.schemas import DatasetChange, DatasetPage, DatasetShown, EntryPage, Head, NewBudget, NewDataset
from ledger.api.services import Services, services
from ledger.model import Account, Actor, Change, Command, Dataset, Definition, Entry, Register, SetBudget, timestamp
from ledger.runs import demand_sight, no_dataset, show_amount, show_epsilon

EXPORT_PAGE: Final = 500

router = APIRouter(prefix="/v1/datasets", route_class=Route, tags=["datasets"])


@router.post("", status_code=201, responses={201: {"model": DatasetShown}}, response_model=None)
async def register(body: NewDataset, caller: Registrar, request: Request) -> Response:
    """Register a dataset with its budget. Its privacy unit, adjacency and bound never change."""
    definition = Definition(uuid4(), body.name, body.privacy_unit, body.adjacency, body.bound, body.size)
    command = Register(
        actor=caller,
        definition=definition,
        account_id=uuid4(),
        title=body.title,
        description=body.description,
        budget=body.budget.model_dump(exclude_none=True),
        limit=limit_of(body.budget, bound=body.bound),
    )
    return await _carried_out(services(request), command, body.name, status=201)


@router.get("", responses={200: {"model": DatasetPage}}, response_model=None)
def list_datasets(caller: Reader, request: Request, limit: pages.Limit = 100, cursor: pages.Cursor = None) -> Response:
    """List the datasets that the key sees, by name."""
    after = pages.after_name(cursor)
    with services(request).store.reading(caller.tenant_id) as reading:
        found = reading.dataset_page(after=after, limit=limit + 1, only=caller.datasets)
    return Json(
        pages.page(found, limit=limit, show=lambda pair: shown(*pair), place=lambda pair: pair[0].definition.name)
    )


@router.get("/{name}", responses={200: {"model": DatasetShown}}, response_model=None)
def show_dataset(name: str, caller: Reader, request: Request) -> Response:
    """Show a dataset with its balance."""
    return Json(shown(*_found(services(request), caller, name)))


@router.patch("/{name}", responses={200: {"model": DatasetShown}}, response_model=None)
async def change_dataset(name: str, body: DatasetChange, caller: Steward, request: Request) -> Response:
    """Freeze, thaw or retire a dataset, or word its title and description anew. A retired dataset stays retired."""
    served = services(request)
    dataset, _ = await asyncio.to_thread(_found, served, caller, name)
    command = Change(caller, dataset.id, body.state, body.title, body.description, body.reason)
    return await _carried_out(served, command, name)


@router.put("/{name}/budget", responses={200: {"model": DatasetShown}}, response_model=None)
async def set_budget(name: str, body: NewBudget, caller: Steward, request: Request) -> Response:
    """Set a new limit, not below what is spent and held."""
    served = services(request)
    dataset, _ = await asyncio.to_thread(_found, served, caller, name)
    command = SetBudget(
        actor=caller,
        dataset_id=dataset.id,
        budget=body.budget.model_dump(exclude_none=True),
        limit=limit_of(body.budget, bound=dataset.definition.bound),
        reason=body.reason,
    )
    return await _carried_out(served, command, name)


@router.get("/{name}/entries", responses={200: {"model": EntryPage}}, response_model=None)
def list_entries(
    name: str, caller: Auditor, request: Request, limit: pages.Limit = 100, cursor: pages.Cursor = None
) -> Response:
    """List the dataset's journal, oldest first, every entry byte for byte as it was hashed."""
    after = pages.after_seq(cursor)
    served = services(request)
    dataset, _ = _found(served, caller, name)
    with served.store.reading(caller.tenant_id) as reading:
        found = reading.entry_page(dataset.id, after=after, limit=limit + 1)
    around = pages.page(found, limit=limit, show=_entry, place=lambda entry: entry.seq)
    items = ",".join(around["items"])
    text = f'{{"items":[{items}],"next":{journal.canonical(around["next"])}}}'
    return Response(text.encode(), media_type="application/json")


@router.get("/{name}/head", responses={200: {"model": Head}}, response_model=None)
def show_head(name: str, caller: Auditor, request: Request) -> Response:
    """Show the journal's newest number and hash."""
    dataset, _ = _found(services(request), caller, name)
    return Json({"dataset": name, "seq": dataset.seq, "hash": dataset.head.hex()})


@router.get(
    "/{name}/export",
    responses={
        200: {"content": {"application/jsonl": {}}, "description": "JSON Lines: a header, the entries, the head."}
    },
    response_class=StreamingResponse,
    response_model=None,
)
def export(name: str, caller: Auditor, request: Request) -> Response:
    """Export the dataset's whole journal as it is now, for `privacy-ledger verify`. docs/export.md has the format."""
    served = services(request)
    dataset, _ = _found(served, caller, name)
    with served.store.reading(caller.tenant_id) as reading:
        tenant = reading.tenant_name() or ""
    return StreamingResponse(_exported(served, caller, dataset, tenant), media_type="application/jsonl")


def _exported(served: Services, caller: Actor, dataset: Dataset, tenant: str) -> Iterator[str]:
    """The lines, a page of the journal at a time. Entries never change, so no transaction has to stay open for a slow
    reader: the export ends where the head was when it began."""
    name = dataset.definition.name
    yield verify.header(tenant_id=caller.tenant_id, tenant=tenant, dataset_id=dataset.id, dataset=name) + "\n"
    for after in range(0, dataset.seq, EXPORT_PAGE):
        with served.store.reading(caller.tenant_id) as reading:
            page = reading.entry_page(dataset.id, after=after, limit=min(EXPORT_PAGE, dataset.seq - after))
        yield "".join(verify.entry_line(seq=e.seq, hash_=e.hash, body=e.body) + "\n" for e in page)
    yield verify.head_line(seq=dataset.seq, hash_=dataset.head) + "\n"


def _found(served: Services, caller: Actor, name: str) -> tuple[Dataset, Account]:
    demand_sight(caller, name)
    with served.store.reading(caller.tenant_id) as reading:
        found = reading.dataset(name) if "\x00" not in name else None
    if found is None:
        raise no_dataset(name)
    return found


async def _carried_out(served: Services, command: Command, name: str, *, status: int = 200) -> Response:
    await asyncio.wrap_future(served.writer.submit(command.actor.tenant_id, command))
    return Json(shown(*await asyncio.to_thread(_found, served, command.actor, name)), status_code=status)


def _entry(entry: Entry) -> str:
    return f'{{"seq":{entry.seq},"hash":"{entry.hash.hex()}","entry":{entry.body}}}'


def shown(dataset: Dataset, account: Account) -> dict[str, Any]:
    """A dataset as GET shows it."""
    definition = dataset.definition
    parts = {"limit": account.limit, "spent": account.spent, "held": account.held, "remaining": account.remaining}
    return {
        "name": definition.name,
        "title": dataset.title,
        "description": dataset.description,
        "privacy_unit": definition.privacy_unit,
        "adjacency": definition.adjacency,
        "size": definition.size,
        "bound": definition.bound,
        "is_estimate": definition.bound == "clt",
        "budget": dict(dataset.budget),
        "derived_from": [],
        "partitions": None,
        "state": dataset.state,
        "balance": {name: show_amount(amount) for name, amount in parts.items()},
        "epsilon": [_epsilon(dataset, account, at_delta) for at_delta in report_deltas(dict(dataset.budget))],
        "seq": dataset.seq,
        "created_at": timestamp(dataset.created_us),
    }


def _epsilon(dataset: Dataset, account: Account, at_delta: float) -> dict[str, Any]:
    spent, limit = (
        show_epsilon(mu=amounts.mu_of(amount), delta=amounts.delta_of(amount), at_delta=at_delta)
        for amount in (account.spent, account.limit)
    )
    declared = dataset.budget.get("epsilon")
    if declared is not None and limit is not None:
        # The limit was rounded down from this very epsilon, so it is no more, whatever display rounds up.
        limit = min(limit, float(declared))
    return {"delta": at_delta, "spent": spent, "limit": limit}

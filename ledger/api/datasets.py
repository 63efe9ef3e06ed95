"""Datasets, their budgets and their journals."""

from __future__ import annotations

import asyncio
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Path, Request, Response
from starlette.responses import StreamingResponse

from ledger.accounting.budgets import limit_of
from ledger.api import journals, pages
from ledger.api.done import PROPOSED, carried_out
from ledger.api.gate import (
    Auditor,
    Reader,
    Registrar,
    Steward,
)
from ledger.api.problems import Json
from ledger.api.routing import Route
from ledger.api.schemas.datasets import (
    DatasetPage,
    DatasetShown,
    PartitionPage,
    ProjectShown,
)
from ledger.api.services import services
from ledger.core.commands import (
    AddPartitions,
    Change,
    Register,
    SetBudget,
    SetFairUse,
    SetProject,
)
from ledger.core.datasets import (
    Account,
    FairUse,
)
from ledger.core.journal import chain
from ledger.core.people import Consent
from ledger.errors import InvalidRequest
from ledger.service.datasets import Balanced, dataset_shape, declared_budget, defined, find_dataset, partition, read
from ledger.service.requests.datasets import (
    DatasetChange,
    NewBudget,
    NewDataset,
    NewFairUse,
    NewPartitions,
    ProjectShare,
)
from ledger.service.requests.fields import NAME_PATTERN
from ledger.service.shapes.journals import (
    ConsistencyProof,
    EntryPage,
    Head,
    InclusionProof,
)

router = APIRouter(prefix="/v1/datasets", route_class=Route, tags=["datasets"])
ProjectPath = Annotated[str, Path(pattern=NAME_PATTERN)]


@router.post("", status_code=201, responses={201: {"model": DatasetShown}}, response_model=None)
async def register(body: NewDataset, caller: Registrar, request: Request) -> Response:
    """Register a dataset with its budget. Its privacy unit, adjacency, bound and origin never change."""
    served = services(request)
    definition = await defined(served, caller, body)
    bound = definition.bound
    command = Register(
        actor=caller,
        definition=definition,
        title=body.title,
        description=body.description,
        budget=declared_budget(body.budget),
        limit=None if body.budget is None else limit_of(body.budget, bound=bound),
        ceiling=declared_budget(body.ceiling),
        partitions=tuple(body.partitions or ()),
    )
    if command.limit is not None and definition.ceiling is not None and command.limit.exceeds(definition.ceiling):
        raise InvalidRequest("budget: is above the ceiling", field="budget")
    return await carried_out(served, command, body.name, status=201)


@router.get("", responses={200: {"model": DatasetPage}}, response_model=None)
def list_datasets(caller: Reader, request: Request, limit: pages.Limit = 100, cursor: pages.Cursor = None) -> Response:
    """List the datasets that the key sees, by name."""
    after = pages.after_name(cursor)
    with services(request).store.reading(caller.tenant_id) as reading:
        found = reading.dataset_page(after=after, limit=limit + 1, only=caller.datasets)
        balanced = Balanced(reading, found)
    return Json(pages.page(found, limit=limit, show=balanced.shown, place=lambda dataset: dataset.definition.name))


@router.get("/{name}", responses={200: {"model": DatasetShown}}, response_model=None)
def show_dataset(name: str, caller: Reader, request: Request) -> Response:
    """Show a dataset with its balance."""
    return Json(dataset_shape(services(request), caller, name))


@router.patch("/{name}", responses={200: {"model": DatasetShown}, **PROPOSED}, response_model=None)
async def change_dataset(name: str, body: DatasetChange, caller: Steward, request: Request) -> Response:
    """Freeze, thaw or retire a dataset, or word its title and description anew. A retired dataset stays retired."""
    served = services(request)
    dataset = await asyncio.to_thread(find_dataset, served, caller, name)
    command = Change(caller, dataset.id, body.state, body.title, body.description, body.reason, Consent(uuid4()))
    return await carried_out(served, command, name)


@router.put("/{name}/budget", responses={200: {"model": DatasetShown}, **PROPOSED}, response_model=None)
async def set_budget(name: str, body: NewBudget, caller: Steward, request: Request) -> Response:
    """Set a new limit, of every partition too: not below what is spent and held, nor above the ceiling."""
    served = services(request)
    dataset = await asyncio.to_thread(find_dataset, served, caller, name)
    command = SetBudget(
        actor=caller,
        dataset_id=dataset.id,
        budget=body.budget.model_dump(exclude_none=True),
        limit=limit_of(body.budget, bound=dataset.definition.bound),
        reason=body.reason,
        consent=Consent(uuid4()),
    )
    return await carried_out(served, command, name)


@router.post("/{name}/partitions", status_code=201, responses={201: {"model": PartitionPage}}, response_model=None)
async def add_partitions(name: str, body: NewPartitions, caller: Steward, request: Request) -> Response:
    """Add partitions, each with the dataset's limit. That no privacy unit is in two of them is the steward's word."""
    served = services(request)
    dataset = await asyncio.to_thread(find_dataset, served, caller, name)
    command = AddPartitions(caller, dataset.id, tuple(body.names))
    entries = await asyncio.wrap_future(served.writer.submit(caller.tenant_id, command))
    if not isinstance(entries, tuple):
        raise TypeError("partitions are added once")
    made = chain.accounts_of(chain.parse(entries[0].body)).values()
    return Json({"items": [partition(dataset, account) for account in made], "next": None}, status_code=201)


@router.get("/{name}/partitions", responses={200: {"model": PartitionPage}}, response_model=None)
def list_partitions(
    name: str, caller: Reader, request: Request, limit: pages.Limit = 100, cursor: pages.Cursor = None
) -> Response:
    """List a dataset's partitions by name, each with its balance."""
    after = pages.after_name(cursor)
    served = services(request)
    dataset = find_dataset(served, caller, name)
    found: list[Account] = []
    if dataset.definition.is_partitioned:
        with served.store.reading(caller.tenant_id) as reading:
            found = reading.partition_page(dataset.id, after=after, limit=limit + 1)
    show = lambda account: partition(dataset, account)  # noqa: E731 (one of a pair with the next)
    return Json(pages.page(found, limit=limit, show=show, place=lambda account: account.key.partition))


@router.put("/{name}/projects/{project}", responses={200: {"model": ProjectShown}}, response_model=None)
async def set_project(
    name: str, project: ProjectPath, body: ProjectShare, caller: Steward, request: Request
) -> Response:
    """Set a project's share: runs that name it are charged to both, so that it can only tighten."""
    served = services(request)
    dataset = await asyncio.to_thread(find_dataset, served, caller, name)
    command = SetProject(
        actor=caller,
        dataset_id=dataset.id,
        project=project,
        budget=body.budget.model_dump(exclude_none=True),
        limit=limit_of(body.budget, bound=dataset.definition.bound),
        reason=body.reason,
    )
    await asyncio.wrap_future(served.writer.submit(caller.tenant_id, command))
    shown = await asyncio.to_thread(dataset_shape, served, caller, name)
    its = next(each for each in shown["projects"] if each["name"] == project)
    return Json({"dataset": name, **its})


@router.put("/{name}/fair-use", responses={200: {"model": DatasetShown}}, response_model=None)
async def set_fair_use(name: str, body: NewFairUse, caller: Steward, request: Request) -> Response:
    """Limit what one principal may hold of the dataset at once, and how many runs it may ask for in an hour."""
    served = services(request)
    dataset = await asyncio.to_thread(find_dataset, served, caller, name)
    held = None if body.held is None else limit_of(body.held, bound=dataset.definition.bound)
    command = SetFairUse(caller, dataset.id, FairUse(declared_budget(body.held), held, body.runs_per_hour), body.reason)
    return await carried_out(served, command, name)


@router.get("/{name}/entries", responses={200: {"model": EntryPage}}, response_model=None)
def list_entries(
    name: str, caller: Auditor, request: Request, limit: pages.Limit = 100, cursor: pages.Cursor = None
) -> Response:
    """List the dataset's journal, oldest first, every entry byte for byte as it was hashed."""
    after = pages.after_seq(cursor)
    served = services(request)
    dataset = find_dataset(served, caller, name)
    with served.store.reading(caller.tenant_id) as reading:
        found = reading.entry_page(dataset.id, after=after, limit=limit + 1)
    return pages.of_entries(found, limit=limit)


@router.get("/{name}/head", responses={200: {"model": Head}}, response_model=None)
def show_head(name: str, caller: Auditor, request: Request) -> Response:
    """Show the journal's newest number and hash, and the Merkle root over all of it, signed."""
    served = services(request)
    with read(served, caller, name) as (reading, tenant, dataset):
        return journals.head(served, reading, tenant, dataset)


@router.get("/{name}/proof", responses={200: {"model": InclusionProof}}, response_model=None)
def prove_inclusion(
    name: str, caller: Auditor, request: Request, seq: journals.Seq, size: journals.Size = None
) -> Response:
    """Prove that an entry is in the journal, with a few hashes. docs/export.md has how it is checked."""
    served = services(request)
    with read(served, caller, name) as (reading, tenant, dataset):
        return journals.inclusion(served, reading, tenant, dataset, seq=seq, size=size)


@router.get("/{name}/consistency", responses={200: {"model": ConsistencyProof}}, response_model=None)
def prove_consistency(
    name: str, caller: Auditor, request: Request, from_: journals.From, to: journals.To = None
) -> Response:
    """Prove that the journal begins with all that it had when it was shorter, with a few hashes."""
    served = services(request)
    with read(served, caller, name) as (reading, tenant, dataset):
        return journals.consistency(served, reading, tenant, dataset, from_=from_, to=to)


@router.get("/{name}/export", responses=journals.EXPORTED, response_class=StreamingResponse, response_model=None)
def export(name: str, caller: Auditor, request: Request) -> Response:
    """Export the dataset's whole journal as it is now, for `privacy-ledger verify`. docs/export.md has the format."""
    served = services(request)
    with read(served, caller, name) as (_, tenant, dataset):
        pass
    return journals.export(served, tenant, dataset)

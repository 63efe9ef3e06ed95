"""Datasets, their budgets and their journals."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final
from uuid import UUID, uuid4

from fastapi import APIRouter, Path, Request, Response
from starlette.responses import StreamingResponse

from ledger.accounting import amounts
from ledger.accounting.budgets import Budget, limit_of, report_deltas
from ledger.api import journals, pages
from ledger.api.gate import Auditor, Reader, Registrar, Route, Steward
from ledger.api.problems import Json
from ledger.api.schemas import (
    ConsistencyProof,
    DatasetChange,
    DatasetPage,
    DatasetShown,
    EntryPage,
    Head,
    InclusionProof,
    NewBudget,
    NewDataset,
    NewFairUse,
    NewPartitions,
    PartitionPage,
    ProjectShare,
    ProjectShown,
    Proposed,
)
from ledger.api.services import Services, services
from ledger.core.amounts import (
    Account,
    Actor,
    AddPartitions,
    Amount,
    Balance,
    Bound,
    Change,
    Consent,
    Dataset,
    Definition,
    FairUse,
    Parent,
    Register,
    SetBudget,
    SetFairUse,
    SetProject,
    Single,
    Tenant,
    timestamp,
)
from ledger.core.journal import chain
from ledger.errors import InvalidRequest, NotFound, UnitMismatch
from ledger.service import answers
from ledger.service.answers import show_amount, show_epsilon
from ledger.service.catalogue import demand_one_unit, demand_sight, no_dataset
from ledger.service.shapes import NAME_PATTERN
from ledger.store import Reading

ANCESTORS_MAX: Final = 100
"""Of one dataset: a run on it locks and charges all of them."""
PARTITIONS_SHOWN_MAX: Final = 1000

router = APIRouter(prefix="/v1/datasets", route_class=Route, tags=["datasets"])

PROPOSED: Final[dict[int | str, dict[str, Any]]] = {
    202: {"model": Proposed, "description": "It takes a second steward, who has a day to approve it."}
}

ProjectPath = Annotated[str, Path(pattern=NAME_PATTERN)]


@router.post("", status_code=201, responses={201: {"model": DatasetShown}}, response_model=None)
async def register(body: NewDataset, caller: Registrar, request: Request) -> Response:
    """Register a dataset with its budget. Its privacy unit, adjacency, bound and origin never change."""
    served = services(request)
    definition = await _defined(served, caller, body)
    bound = definition.bound
    command = Register(
        actor=caller,
        definition=definition,
        title=body.title,
        description=body.description,
        budget=_declared(body.budget),
        limit=None if body.budget is None else limit_of(body.budget, bound=bound),
        ceiling=_declared(body.ceiling),
        partitions=tuple(body.partitions or ()),
    )
    if command.limit is not None and definition.ceiling is not None and command.limit.exceeds(definition.ceiling):
        raise InvalidRequest("budget: is above the ceiling", field="budget")
    return await carried_out(served, command, body.name, status=201)


async def _defined(served: Services, caller: Actor, body: NewDataset) -> Definition:
    """What is to be registered. What is derived is of its roots' unit, adjacency and bound. Raises UnitMismatch."""
    unit, adjacency, bound = body.privacy_unit, body.adjacency, body.bound or "certified"
    parents: list[Definition] = []
    if body.derived_from:
        parents = await _parents(served, caller, [parent.name for parent in body.derived_from])
        bound, _ = demand_one_unit(parents)
        for what in ("privacy_unit", "adjacency", "bound"):
            said, theirs = getattr(body, what), getattr(parents[0], what)
            if said is not None and said != theirs:
                raise UnitMismatch(
                    f"{what} is {theirs} where it is derived from, and never another.",
                    what=what,
                    datasets=[{"name": body.name, what: said}, {"name": parents[0].name, what: theirs}],
                )
        unit, adjacency = parents[0].privacy_unit, parents[0].adjacency
    ancestors = {id_ for parent in parents for id_ in (parent.id, *parent.ancestors)}
    if len(ancestors) > ANCESTORS_MAX:
        raise InvalidRequest(
            f"derived_from: comes from {len(ancestors)} datasets, and {ANCESTORS_MAX} are the most",
            field="derived_from",
        )
    if unit is None or adjacency is None:
        raise InvalidRequest("privacy_unit: is required", field="privacy_unit")
    return Definition(
        uuid4(),
        body.name,
        unit,
        adjacency,
        bound,
        body.size,
        is_partitioned=body.partitions is not None,
        has_budget=body.budget is not None,
        ceiling=None if body.ceiling is None else _ceiling(body.ceiling, bound),
        derived_from=tuple(Parent(parent.id, parent.name) for parent in parents),
        ancestors=tuple(sorted(ancestors)),
    )


async def _parents(served: Services, caller: Actor, names: Sequence[str]) -> list[Definition]:
    try:
        for name in names:
            demand_sight(caller, name)
        return await served.catalogue.named(caller, names)
    except NotFound as error:
        raise InvalidRequest(f"derived_from: {error.detail}", field="derived_from", **error.facts) from None


def _ceiling(ceiling: Budget, bound: Bound) -> Amount:
    try:
        return limit_of(ceiling, bound=bound)
    except InvalidRequest as error:
        field = str(error.field).replace("budget", "ceiling", 1)
        raise InvalidRequest(error.detail.replace("budget", "ceiling", 1), field=field) from None


def _declared(budget: Budget | None) -> dict[str, Any] | None:
    return None if budget is None else budget.model_dump(exclude_none=True)


@router.get("", responses={200: {"model": DatasetPage}}, response_model=None)
def list_datasets(caller: Reader, request: Request, limit: pages.Limit = 100, cursor: pages.Cursor = None) -> Response:
    """List the datasets that the key sees, by name."""
    after = pages.after_name(cursor)
    with services(request).store.reading(caller.tenant_id) as reading:
        found = reading.dataset_page(after=after, limit=limit + 1, only=caller.datasets)
        balanced = _Balanced(reading, found)
    return Json(pages.page(found, limit=limit, show=balanced.shown, place=lambda dataset: dataset.definition.name))


@router.get("/{name}", responses={200: {"model": DatasetShown}}, response_model=None)
def show_dataset(name: str, caller: Reader, request: Request) -> Response:
    """Show a dataset with its balance."""
    return Json(_shown(services(request), caller, name))


@router.patch("/{name}", responses={200: {"model": DatasetShown}, **PROPOSED}, response_model=None)
async def change_dataset(name: str, body: DatasetChange, caller: Steward, request: Request) -> Response:
    """Freeze, thaw or retire a dataset, or word its title and description anew. A retired dataset stays retired."""
    served = services(request)
    dataset = await asyncio.to_thread(_found, served, caller, name)
    command = Change(caller, dataset.id, body.state, body.title, body.description, body.reason, Consent(uuid4()))
    return await carried_out(served, command, name)


@router.put("/{name}/budget", responses={200: {"model": DatasetShown}, **PROPOSED}, response_model=None)
async def set_budget(name: str, body: NewBudget, caller: Steward, request: Request) -> Response:
    """Set a new limit, of every partition too: not below what is spent and held, nor above the ceiling."""
    served = services(request)
    dataset = await asyncio.to_thread(_found, served, caller, name)
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
    dataset = await asyncio.to_thread(_found, served, caller, name)
    command = AddPartitions(caller, dataset.id, tuple(body.names))
    entries = await asyncio.wrap_future(served.writer.submit(caller.tenant_id, command))
    if not isinstance(entries, tuple):
        raise TypeError("partitions are added once")
    made = chain.accounts_of(chain.parse(entries[0].body)).values()
    return Json({"items": [_partition(dataset, account) for account in made], "next": None}, status_code=201)


@router.get("/{name}/partitions", responses={200: {"model": PartitionPage}}, response_model=None)
def list_partitions(
    name: str, caller: Reader, request: Request, limit: pages.Limit = 100, cursor: pages.Cursor = None
) -> Response:
    """List a dataset's partitions by name, each with its balance."""
    after = pages.after_name(cursor)
    served = services(request)
    dataset = _found(served, caller, name)
    found: list[Account] = []
    if dataset.definition.is_partitioned:
        with served.store.reading(caller.tenant_id) as reading:
            found = reading.partition_page(dataset.id, after=after, limit=limit + 1)
    show = lambda account: _partition(dataset, account)  # noqa: E731 (one of a pair with the next)
    return Json(pages.page(found, limit=limit, show=show, place=lambda account: account.key.partition))


@router.put("/{name}/projects/{project}", responses={200: {"model": ProjectShown}}, response_model=None)
async def set_project(
    name: str, project: ProjectPath, body: ProjectShare, caller: Steward, request: Request
) -> Response:
    """Set a project's share: runs that name it are charged to both, so that it can only tighten."""
    served = services(request)
    dataset = await asyncio.to_thread(_found, served, caller, name)
    command = SetProject(
        actor=caller,
        dataset_id=dataset.id,
        project=project,
        budget=body.budget.model_dump(exclude_none=True),
        limit=limit_of(body.budget, bound=dataset.definition.bound),
        reason=body.reason,
    )
    await asyncio.wrap_future(served.writer.submit(caller.tenant_id, command))
    shown = await asyncio.to_thread(_shown, served, caller, name)
    its = next(each for each in shown["projects"] if each["name"] == project)
    return Json({"dataset": name, **its})


@router.put("/{name}/fair-use", responses={200: {"model": DatasetShown}}, response_model=None)
async def set_fair_use(name: str, body: NewFairUse, caller: Steward, request: Request) -> Response:
    """Limit what one principal may hold of the dataset at once, and how many runs it may ask for in an hour."""
    served = services(request)
    dataset = await asyncio.to_thread(_found, served, caller, name)
    held = None if body.held is None else limit_of(body.held, bound=dataset.definition.bound)
    command = SetFairUse(caller, dataset.id, FairUse(_declared(body.held), held, body.runs_per_hour), body.reason)
    return await carried_out(served, command, name)


@router.get("/{name}/entries", responses={200: {"model": EntryPage}}, response_model=None)
def list_entries(
    name: str, caller: Auditor, request: Request, limit: pages.Limit = 100, cursor: pages.Cursor = None
) -> Response:
    """List the dataset's journal, oldest first, every entry byte for byte as it was hashed."""
    after = pages.after_seq(cursor)
    served = services(request)
    dataset = _found(served, caller, name)
    with served.store.reading(caller.tenant_id) as reading:
        found = reading.entry_page(dataset.id, after=after, limit=limit + 1)
    return pages.of_entries(found, limit=limit)


@router.get("/{name}/head", responses={200: {"model": Head}}, response_model=None)
def show_head(name: str, caller: Auditor, request: Request) -> Response:
    """Show the journal's newest number and hash, and the Merkle root over all of it, signed."""
    served = services(request)
    with _read(served, caller, name) as (reading, tenant, dataset):
        return journals.head(served, reading, tenant, dataset)


@router.get("/{name}/proof", responses={200: {"model": InclusionProof}}, response_model=None)
def prove_inclusion(
    name: str, caller: Auditor, request: Request, seq: journals.Seq, size: journals.Size = None
) -> Response:
    """Prove that an entry is in the journal, with a few hashes. docs/export.md has how it is checked."""
    served = services(request)
    with _read(served, caller, name) as (reading, tenant, dataset):
        return journals.inclusion(served, reading, tenant, dataset, seq=seq, size=size)


@router.get("/{name}/consistency", responses={200: {"model": ConsistencyProof}}, response_model=None)
def prove_consistency(
    name: str, caller: Auditor, request: Request, from_: journals.From, to: journals.To = None
) -> Response:
    """Prove that the journal begins with all that it had when it was shorter, with a few hashes."""
    served = services(request)
    with _read(served, caller, name) as (reading, tenant, dataset):
        return journals.consistency(served, reading, tenant, dataset, from_=from_, to=to)


@router.get("/{name}/export", responses=journals.EXPORTED, response_class=StreamingResponse, response_model=None)
def export(name: str, caller: Auditor, request: Request) -> Response:
    """Export the dataset's whole journal as it is now, for `privacy-ledger verify`. docs/export.md has the format."""
    served = services(request)
    with _read(served, caller, name) as (_, tenant, dataset):
        pass
    return journals.export(served, tenant, dataset)


@contextmanager
def _read(served: Services, caller: Actor, name: str) -> Iterator[tuple[Reading, Tenant, Dataset]]:
    """A dataset and its tenant, in one snapshot with what is read of its journal."""
    demand_sight(caller, name)
    with served.store.reading(caller.tenant_id) as reading:
        tenant = reading.tenant()
        dataset = reading.dataset(name) if "\x00" not in name else None
        if tenant is None or dataset is None:
            raise no_dataset(name)
        yield reading, tenant, dataset


def _found(served: Services, caller: Actor, name: str) -> Dataset:
    demand_sight(caller, name)
    with served.store.reading(caller.tenant_id) as reading:
        found = reading.dataset(name) if "\x00" not in name else None
    if found is None:
        raise no_dataset(name)
    return found


async def carried_out(served: Services, command: Single, name: str, *, status: int = 200) -> Response:
    """Does it and answers with the dataset; or with the proposal, where it takes a second person."""
    done = await asyncio.wrap_future(served.writer.submit(command.actor.tenant_id, command))
    if isinstance(done, tuple) and done[0].kind == "change-proposed":
        return Json(answers.proposed(chain.parse(done[0].body)), status_code=202)
    shown = await asyncio.to_thread(_shown, served, command.actor, name)
    return Json(shown, status_code=status)


# --- how a dataset is shown ------------------------------------------------------------------------------------------


def _shown(served: Services, caller: Actor, name: str) -> dict[str, Any]:
    """One dataset as GET shows it, with its partitions."""
    demand_sight(caller, name)
    with served.store.reading(caller.tenant_id) as reading:
        dataset = reading.dataset(name) if "\x00" not in name else None
        if dataset is None:
            raise no_dataset(name)
        balanced = _Balanced(reading, [dataset])
        partitions: list[Account] = []
        if dataset.definition.is_partitioned:
            partitions = reading.partition_page(dataset.id, after=None, limit=PARTITIONS_SHOWN_MAX)
    return balanced.shown(dataset, partitions)


class _Balanced:
    """All that is read to show several datasets, in as many statements as for one."""

    def __init__(self, reading: Reading, datasets: Collection[Dataset]) -> None:
        ids = [dataset.id for dataset in datasets]
        self._balances: Mapping[tuple[UUID, str | None], Balance] = reading.balances(ids)
        self._counts = reading.partition_counts(ids)
        self._projects = reading.projects_of(ids)
        ancestors = {id_ for dataset in datasets for id_ in dataset.definition.ancestors}
        self._origins = {each.id: each for each in reading.definitions(ids=ancestors)} if ancestors else {}

    def shown(self, dataset: Dataset, partitions: Sequence[Account] = ()) -> dict[str, Any]:
        definition = dataset.definition
        is_partitioned = definition.is_partitioned
        balance = self._balances.get((dataset.id, None))
        if balance is None and dataset.limit is not None:  # no partition yet
            balance = _untouched(dataset.limit)
        return {
            "name": definition.name,
            "title": dataset.title,
            "description": dataset.description,
            "privacy_unit": definition.privacy_unit,
            "adjacency": definition.adjacency,
            "size": definition.size,
            "bound": definition.bound,
            "is_estimate": definition.bound == "clt",
            "budget": dataset.budget,
            "ceiling": None if definition.ceiling is None else show_amount(definition.ceiling),
            "derived_from": [{"name": parent.name, "unit_preserving": True} for parent in definition.derived_from],
            "roots": self._roots(definition),
            "state": dataset.state,
            "balance": None if balance is None else _balance(balance),
            "epsilon": [] if balance is None else _epsilons(dataset.budget, balance),
            "partitions": [_partition(dataset, account) for account in partitions] if is_partitioned else None,
            "partition_count": self._counts.get(dataset.id, 0) if is_partitioned else None,
            "projects": [
                {
                    "name": project.name,
                    "budget": project.budget,
                    **_counted(
                        project.budget,
                        self._balances.get((dataset.id, project.name)) or _untouched(project.limit),
                    ),
                }
                for project in self._projects
                if project.dataset_id == dataset.id
            ],
            "fair_use": _fair_use(dataset.fair_use),
            "seq": dataset.seq,
            "created_at": timestamp(dataset.created_us),
        }

    def _roots(self, definition: Definition) -> list[str]:
        if not definition.ancestors:
            return [definition.name]
        origins = (self._origins[id_] for id_ in definition.ancestors)
        return sorted(origin.name for origin in origins if not origin.ancestors)


def _untouched(limit: Amount) -> Balance:
    return Balance(limit, Amount(0, 0), Amount(0, 0), limit)


def _fair_use(fair_use: FairUse) -> dict[str, Any] | None:
    if fair_use.held is None and fair_use.runs_per_hour is None:
        return None
    return {"held": fair_use.budget, "runs_per_hour": fair_use.runs_per_hour}


def _partition(dataset: Dataset, account: Account) -> dict[str, Any]:
    balance = Balance(account.limit, account.spent, account.held, account.remaining)
    return {"name": account.key.partition, **_counted(dataset.budget, balance)}


def _counted(budget: Mapping[str, Any] | None, balance: Balance) -> dict[str, Any]:
    return {"balance": _balance(balance), "epsilon": _epsilons(budget, balance)}


def _balance(balance: Balance) -> dict[str, Any]:
    parts = {"limit": balance.limit, "spent": balance.spent, "held": balance.held, "remaining": balance.remaining}
    return {name: show_amount(amount) for name, amount in parts.items()}


def _epsilons(budget: Mapping[str, Any] | None, balance: Balance) -> list[dict[str, Any]]:
    declared = dict(budget or {})
    return [_epsilon(declared, balance, at_delta) for at_delta in report_deltas(declared)]


def _epsilon(budget: Mapping[str, Any], balance: Balance, at_delta: float) -> dict[str, Any]:
    spent, limit = (
        show_epsilon(mu=amounts.mu_of(amount), delta=amounts.delta_of(amount), at_delta=at_delta)
        for amount in (balance.spent, balance.limit)
    )
    declared = budget.get("epsilon")
    if declared is not None and limit is not None:
        # The limit was rounded down from this very epsilon, so it is no more, whatever display rounds up.
        limit = min(limit, float(declared))
    return {"delta": at_delta, "spent": spent, "limit": limit}

"""Datasets, their budgets and their journals."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Path, Query, Request, Response
from starlette.responses import StreamingResponse

from ledger.api import journals, pages
from ledger.api.done import PROPOSED, answered
from ledger.api.gate import (
    Auditor,
    Reader,
    Registrar,
    Steward,
)
from ledger.api.problems import Json
from ledger.api.routing import Route, aside, sent
from ledger.api.services import served, services
from ledger.core.amounts import microseconds
from ledger.mistakes import NAME_PATTERN
from ledger.service.burndown import By as Step
from ledger.service.requests.datasets import (
    DatasetChange,
    NewBudget,
    NewDataset,
    NewFairUse,
    NewPartitions,
    ProjectShare,
)
from ledger.service.requests.fields import PartitionName, ProjectName, When
from ledger.service.requests.past import PastRuns
from ledger.service.shapes.datasets import (
    BalanceAt,
    BurndownShown,
    ChangePage,
    DatasetPage,
    DatasetShown,
    PartitionPage,
    ProjectShown,
    SpendingShown,
)
from ledger.service.shapes.journals import (
    ConsistencyProof,
    EntryPage,
    Head,
    InclusionProof,
)
from ledger.service.shapes.past import PastRunsShown
from ledger.service.spending import By

_PAST: Final[dict[str, Any]] = {
    "preview": {
        "summary": "Preview a training run and a release of before",
        "value": {
            "reason": "the team's notes of 2025",
            "idempotency_key": "notes-2025",
            "preview": True,
            "runs": [
                {
                    "purpose": "the first model",
                    "ran_at": "2025-03-01",
                    "library": "opacus",
                    "version": "1.5.3",
                    "mechanism": {
                        "type": "dpsgd",
                        "sampling": "poisson",
                        "noise_multiplier": 1.1,
                        "sample_rate": 0.004,
                        "steps": 1000,
                    },
                },
                {"purpose": "a count", "mechanism": {"type": "approximate_dp", "epsilon": 0.1, "delta": 1e-9}},
            ],
        },
    }
}
router = APIRouter(prefix="/v1/datasets", route_class=Route, tags=["datasets"])
ProjectPath = Annotated[str, Path(pattern=NAME_PATTERN)]


@router.post("", status_code=201, responses={201: {"model": DatasetShown}}, response_model=None)
async def register(body: NewDataset, caller: Registrar, request: Request) -> Response:
    """Register a dataset with its budget. Its privacy unit, adjacency, bound and origin never change."""
    return Json(await services(request).datasets.register(caller, body), status_code=201)


@router.get("", responses={200: {"model": DatasetPage}}, response_model=None)
def list_datasets(caller: Reader, request: Request, limit: pages.Limit = 100, cursor: pages.Cursor = None) -> Response:
    """List the datasets that the key sees, by name."""
    return Json(services(request).datasets.page(caller, limit=limit, cursor=cursor))


@router.get("/{name}", responses={200: {"model": DatasetShown}}, response_model=None)
async def show_dataset(name: str, caller: Reader, request: Request) -> Response:
    """Show a dataset with its balance."""
    return Json(await services(request).datasets.show(caller, name))


@router.patch("/{name}", responses={200: {"model": DatasetShown}, **PROPOSED}, response_model=None)
async def change_dataset(name: str, body: DatasetChange, caller: Steward, request: Request) -> Response:
    """Freeze, thaw or retire a dataset, or change its title and description. A retired dataset stays retired."""
    return answered(await services(request).datasets.change(caller, name, body))


@router.put("/{name}/budget", responses={200: {"model": DatasetShown}, **PROPOSED}, response_model=None)
async def set_budget(name: str, body: NewBudget, caller: Steward, request: Request) -> Response:
    """Set a new limit, for every partition too. It may not be below what is spent and held, nor above the ceiling."""
    return answered(await services(request).datasets.set_budget(caller, name, body))


@router.post(
    "/{name}/partitions", status_code=201, responses={201: {"model": PartitionPage}, **PROPOSED}, response_model=None
)
async def add_partitions(name: str, body: NewPartitions, caller: Steward, request: Request) -> Response:
    """Add partitions, each with the dataset's limit. The steward states that no privacy unit is in two of them."""
    return answered(await services(request).datasets.add_partitions(caller, name, body), done=201)


@router.get("/{name}/partitions", responses={200: {"model": PartitionPage}}, response_model=None)
def list_partitions(
    name: str, caller: Reader, request: Request, limit: pages.Limit = 100, cursor: pages.Cursor = None
) -> Response:
    """List a dataset's partitions by name, each with its balance."""
    return Json(services(request).datasets.partitions(caller, name, limit=limit, cursor=cursor))


@router.put("/{name}/projects/{project}", responses={200: {"model": ProjectShown}, **PROPOSED}, response_model=None)
async def set_project(
    name: str, project: ProjectPath, body: ProjectShare, caller: Steward, request: Request
) -> Response:
    """Set a project's share. A run that names the project is charged to both, so a share can only tighten."""
    return answered(await services(request).datasets.set_project(caller, name, project, body))


@router.put("/{name}/fair-use", responses={200: {"model": DatasetShown}, **PROPOSED}, response_model=None)
async def set_fair_use(name: str, body: NewFairUse, caller: Steward, request: Request) -> Response:
    """Limit what one principal may hold of the dataset at once, and how many runs it may ask for in an hour."""
    return answered(await services(request).datasets.set_fair_use(caller, name, body))


@router.post("/{name}/past-runs", responses={200: {"model": PastRunsShown}}, response_model=None)
async def enter_past_runs(
    name: str, body: Annotated[PastRuns, Body(openapi_examples=_PAST)], caller: Steward, request: Request
) -> Response:
    """Enter what was spent before there was a ledger: all of these past runs, or none; or preview what they cost.

    Each is declared, and was not observed. It is charged before all entries of the dataset and of its origins, in
    whatever state they are. If it does not fit there, they are frozen. `POST /v1/runs/{id}/correction` corrects it.
    """
    return Json(await services(request).past_runs.enter(caller, name, body, sent(request)["runs"]))


@router.get("/{name}/history", responses={200: {"model": ChangePage}}, response_model=None)
def list_changes(
    name: str, caller: Reader, request: Request, limit: pages.Limit = 100, cursor: pages.Cursor = None
) -> Response:
    """List what changed the dataset, newest first: states with the run or reason that caused them, budgets, proposals.

    A page looks at a bounded number of entries. It may have fewer items than `limit`, or none, and a `next`.
    """
    return Json(services(request).history.page(caller, name, limit=limit, cursor=cursor))


@router.get("/{name}/balance", responses={200: {"model": BalanceAt}}, response_model=None)
def show_balance(
    name: str,
    caller: Reader,
    request: Request,
    at: Annotated[
        When | None, Query(description="An RFC 3339 time, or a date: as it was at 00:00 UTC. Instead of `seq`.")
    ] = None,
    seq: Annotated[int | None, Query(ge=1, le=2**53, description="After this entry. Instead of `at`.")] = None,
) -> Response:
    """Show the dataset's balance as it was at a time, or after an entry, from the balances that entries state."""
    at_us = None if at is None else microseconds(at)
    return Json(services(request).history.balance(caller, name, at_us=at_us, seq=seq))


@router.get("/{name}/burndown", responses={200: {"model": BurndownShown}}, response_model=None)
def show_burndown(
    name: str,
    caller: Reader,
    request: Request,
    by: Annotated[Step, Query(description="What a point is; weeks begin on Mondays.")] = "day",
    partition: Annotated[PartitionName | None, Query(description="Of a partition's budget.")] = None,
    project: Annotated[ProjectName | None, Query(description="Of a project's share.")] = None,
    since: Annotated[
        When | None, Query(description="A time or date in the first point. Default: 90 points before the last.")
    ] = None,
    until: Annotated[When | None, Query(description="The last point begins before. Default: now.")] = None,
) -> Response:
    """Show the balance at the end of each day, week or month (UTC), beside the limits that were in force.

    With partitions, the fullest one counts, unless `partition` names one. At most 400 points.
    """
    since_us, until_us = (None if time is None else microseconds(time) for time in (since, until))
    return Json(
        services(request).history.burndown(
            *(caller, name),
            by=by,
            partition=partition,
            project=project,
            since_us=since_us,
            until_us=until_us,
        )
    )


@router.get("/{name}/spending", responses={200: {"model": SpendingShown}}, response_model=None)
async def show_spending(
    name: str,
    caller: Auditor,
    request: Request,
    by: Annotated[By, Query(description="What the groups are.")],
    label: Annotated[
        str | None, Query(min_length=1, max_length=63, description="With `by=label`: the label's name.")
    ] = None,
    partition: Annotated[PartitionName | None, Query(description="Required if the dataset has partitions.")] = None,
    since: Annotated[When | None, Query(description="Runs that were approved before count as `earlier`.")] = None,
) -> Response:
    """Show who or what the budget was spent on, in parts of it. The rows add up to the balance exactly.

    The newest five thousand entries are divided; what was spent before is one row.
    """
    since_us = None if since is None else microseconds(since)
    spending = services(request).history.spending
    divide = partial(spending, caller, name, by=by, label=label, partition=partition, since_us=since_us)
    return Json(await aside(served(request), caller, divide, size=None))


@router.get("/{name}/entries", responses={200: {"model": EntryPage}}, response_model=None)
def list_entries(
    name: str, caller: Auditor, request: Request, limit: pages.Limit = 100, cursor: pages.Cursor = None
) -> Response:
    """List the dataset's journal, oldest first; every entry is byte for byte as it was hashed."""
    return journals.entries(services(request).journals.entries(caller, name, limit=limit, cursor=cursor))


@router.get("/{name}/head", responses={200: {"model": Head}}, response_model=None)
def show_head(name: str, caller: Auditor, request: Request) -> Response:
    """Show the number and hash of the journal's newest entry, and the Merkle root over the whole journal, signed."""
    return Json(services(request).journals.head(caller, name))


@router.get("/{name}/proof", responses={200: {"model": InclusionProof}}, response_model=None)
def prove_inclusion(
    name: str, caller: Auditor, request: Request, seq: journals.Seq, size: journals.Size = None
) -> Response:
    """Prove with a few hashes that an entry is in the journal.

    docs/reference/export.md describes how to check the proof.
    """
    return Json(services(request).journals.inclusion(caller, name, seq=seq, size=size))


@router.get("/{name}/consistency", responses={200: {"model": ConsistencyProof}}, response_model=None)
def prove_consistency(
    name: str, caller: Auditor, request: Request, from_: journals.From, to: journals.To = None
) -> Response:
    """Prove with a few hashes that the journal still begins with an older version of it."""
    return Json(services(request).journals.consistency(caller, name, from_=from_, to=to))


@router.get("/{name}/export", responses=journals.EXPORTED, response_class=StreamingResponse, response_model=None)
def export(name: str, caller: Auditor, request: Request) -> Response:
    """Export the dataset's whole journal as it is now, for `privacy-ledger verify`.

    docs/reference/export.md has the format.
    """
    return journals.export(services(request).journals.export(caller, name), request, caller)

"""Tenants and keys."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Request, Response
from starlette.responses import StreamingResponse

from ledger.api import journals, pages
from ledger.api.gate import (
    Admin,
    Anyone,
    Auditor,
    Reader,
    TheOperator,
)
from ledger.api.paths import AnyId
from ledger.api.problems import Json
from ledger.api.routing import Route
from ledger.api.services import services
from ledger.service.requests.tenants import (
    NewKey,
    NewPolicy,
    NewTenant,
    Rotation,
)
from ledger.service.shapes.journals import (
    EntryPage,
    TenantConsistencyProof,
    TenantHead,
    TenantInclusionProof,
)
from ledger.service.shapes.tenants import (
    KeyPage,
    Me,
    NewTenantShown,
    PolicyShown,
    SecretShown,
)

router = APIRouter(prefix="/v1", route_class=Route, tags=["tenants and keys"])
_ROTATIONS: Final[dict[str, Any]] = {
    "hour": {"summary": "The old key works for one more hour", "value": {"overlap": "PT1H"}}
}


@router.post("/tenants", status_code=201, responses={201: {"model": NewTenantShown}}, response_model=None)
async def make_tenant(body: NewTenant, caller: TheOperator, request: Request) -> Response:
    """Make a tenant and its first admin key, whose secret is shown once."""
    return Json(await services(request).tenants.make(caller, body), status_code=201)


@router.get("/me", responses={200: {"model": Me}}, response_model=None)
def me(caller: Anyone, request: Request) -> Response:
    """Show who you are to the ledger: the principal, role and limits of the key."""
    return Json(services(request).tenants.me(caller))


# --- keys ------------------------------------------------------------------------------------------------------------


@router.post("/keys", status_code=201, responses={201: {"model": SecretShown}}, response_model=None)
async def make_key(body: NewKey, caller: Admin, request: Request) -> Response:
    """Make a key. Its secret is shown only this once."""
    return Json(await services(request).keys.make(caller, body), status_code=201)


@router.post("/keys/{id}/rotate", status_code=201, responses={201: {"model": SecretShown}}, response_model=None)
async def rotate_key(
    id: AnyId,  # noqa: A002 (the contract's name)
    caller: Admin,
    request: Request,
    body: Annotated[Rotation | None, Body(openapi_examples=_ROTATIONS)] = None,
) -> Response:
    """Make a new key for the same principal, with the same role and limits. The old one ends after the overlap."""
    keys = services(request).keys
    return Json(await keys.rotate(caller, await keys.found(caller, id), body or Rotation()), status_code=201)


@router.get("/keys", responses={200: {"model": KeyPage}}, response_model=None)
def list_keys(caller: Admin, request: Request, limit: pages.Limit = 100, cursor: pages.Cursor = None) -> Response:
    """List the tenant's keys, without their secrets."""
    return Json(services(request).keys.page(caller, limit=limit, cursor=cursor))


@router.delete("/keys/{id}", status_code=204, response_model=None)
async def revoke_key(id: AnyId, caller: Admin, request: Request) -> Response:  # noqa: A002 (the contract's name)
    """Revoke a key. This process rejects it at once, other processes within half a second."""
    keys = services(request).keys
    await keys.revoke(caller, await keys.found(caller, id))
    return Response(status_code=204)


# --- policy ----------------------------------------------------------------------------------------------------------


@router.get("/policy", responses={200: {"model": PolicyShown}}, response_model=None)
def show_policy(caller: Reader, request: Request) -> Response:
    """Show the tenant's policy."""
    return Json(services(request).tenants.policy(caller))


@router.put("/policy", responses={200: {"model": PolicyShown}}, response_model=None)
async def set_policy(body: NewPolicy, caller: Admin, request: Request) -> Response:
    """Set whether changes that loosen a budget need a second steward."""
    return Json(await services(request).tenants.set_policy(caller, body))


# --- the tenant's own journal ----------------------------------------------------------------------------------------


@router.get("/entries", responses={200: {"model": EntryPage}}, response_model=None)
def list_entries(caller: Auditor, request: Request, limit: pages.Limit = 100, cursor: pages.Cursor = None) -> Response:
    """List the tenant's own journal of keys, roles and policies, oldest first, every entry byte for byte."""
    return journals.entries(services(request).journals.entries(caller, None, limit=limit, cursor=cursor))


@router.get("/head", responses={200: {"model": TenantHead}}, response_model=None)
def show_head(caller: Auditor, request: Request) -> Response:
    """Show the number and hash of the newest entry of the tenant's own journal, and its Merkle root, signed."""
    return Json(services(request).journals.head(caller, None))


@router.get("/proof", responses={200: {"model": TenantInclusionProof}}, response_model=None)
def prove_inclusion(caller: Auditor, request: Request, seq: journals.Seq, size: journals.Size = None) -> Response:
    """Prove with a few hashes that an entry is in the tenant's own journal."""
    return Json(services(request).journals.inclusion(caller, None, seq=seq, size=size))


@router.get("/consistency", responses={200: {"model": TenantConsistencyProof}}, response_model=None)
def prove_consistency(caller: Auditor, request: Request, from_: journals.From, to: journals.To = None) -> Response:
    """Prove with a few hashes that the tenant's own journal still begins with an older version of it."""
    return Json(services(request).journals.consistency(caller, None, from_=from_, to=to))


@router.get("/export", responses=journals.EXPORTED, response_class=StreamingResponse, response_model=None)
def export(caller: Auditor, request: Request) -> Response:
    """Export the tenant's own journal, for `privacy-ledger verify`."""
    return journals.export(services(request).journals.export(caller, None), request, caller)

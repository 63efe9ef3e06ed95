"""Tenants and keys."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any, Final
from uuid import UUID, uuid4

from fastapi import APIRouter, Body, Request, Response
from starlette.responses import StreamingResponse

from ledger.access import keys, roles
from ledger.api import journals, pages
from ledger.api.gate import (
    Admin,
    Anyone,
    Auditor,
    Reader,
    TheOperator,
)
from ledger.api.problems import Json
from ledger.api.routing import Route
from ledger.api.schemas.tenants import (
    KeyPage,
    Me,
    NewTenantShown,
    PolicyShown,
    SecretShown,
)
from ledger.api.services import services
from ledger.core.amounts import microseconds, timestamp
from ledger.errors import InvalidRequest, NotFound, RunState
from ledger.service.keys import add_admin, me_shape, shown, tenant_shape, written
from ledger.service.requests.tenants import NewKey, NewPolicy, NewTenant, Rotation
from ledger.service.shapes.journals import (
    EntryPage,
    TenantConsistencyProof,
    TenantHead,
    TenantInclusionProof,
)
from ledger.store import Key, Writing

router = APIRouter(prefix="/v1", route_class=Route, tags=["tenants and keys"])
_ROTATIONS: Final[dict[str, Any]] = {
    "hour": {"summary": "The old key works for one hour more", "value": {"overlap": "PT1H"}}
}


@router.post("/tenants", status_code=201, responses={201: {"model": NewTenantShown}}, response_model=None)
async def make_tenant(body: NewTenant, caller: TheOperator, request: Request) -> Response:
    """Make a tenant and its first admin key, whose secret is shown once."""
    tenant_id = uuid4()

    def work(writing: Writing) -> dict[str, Any]:
        now_us = writing.now_us()
        writing.add_tenant(body.name, now_us=now_us)
        operator = {"key": str(caller.key_id), "name": "operator", "role": "operator"}
        writing.note("tenant-made", operator, {"name": body.name}, now_us=now_us)
        key, secret = add_admin(writing, by=operator, now_us=now_us)
        return {
            "tenant": {"id": str(tenant_id), "name": body.name},
            "key": {"id": str(key.id), "role": key.role, "secret": secret},
        }

    made = await asyncio.wrap_future(services(request).writer.run(tenant_id, work))
    return Json(made, status_code=201)


@router.get("/me", responses={200: {"model": Me}}, response_model=None)
def me(caller: Anyone, request: Request) -> Response:
    """Show whom the ledger takes you for."""
    return Json(me_shape(caller, services(request)))


# --- keys ------------------------------------------------------------------------------------------------------------


@router.post("/keys", status_code=201, responses={201: {"model": SecretShown}}, response_model=None)
async def make_key(body: NewKey, caller: Admin, request: Request) -> Response:
    """Make a key. Its secret is shown this once."""
    secret = keys.mint(caller.tenant_id)

    def work(writing: Writing, now_us: int) -> Key:
        names = None if body.datasets is None else tuple(sorted(set(body.datasets)))
        if names is not None and (unknown := set(names) - writing.dataset_names(names)):
            missing = min(unknown)
            raise InvalidRequest(f"datasets: there is no dataset named {missing!r}", field="datasets", dataset=missing)
        expires_us = None if body.expires_at is None else microseconds(body.expires_at)
        if expires_us is not None and expires_us <= now_us:
            raise InvalidRequest("expires_at: is in the past", field="expires_at")
        projects = None if body.projects is None else tuple(sorted(set(body.projects)))
        key = Key(uuid4(), uuid4(), body.name, body.role, names, now_us, expires_us, None, projects)
        writing.add_key(key, keys.digest_of(secret))
        writing.note("key-made", caller.facts(), keys.facts_of(key), now_us=now_us)
        return key

    key = await written(services(request), caller, work)
    return Json({**shown(key), "secret": secret}, status_code=201)


@router.post("/keys/{id}/rotate", status_code=201, responses={201: {"model": SecretShown}}, response_model=None)
async def rotate_key(
    id: UUID,  # noqa: A002 (the contract's name)
    caller: Admin,
    request: Request,
    body: Annotated[Rotation | None, Body(openapi_examples=_ROTATIONS)] = None,
) -> Response:
    """Make a new key for the same principal, with the same role and limits. The old one ends after the overlap."""
    secret = keys.mint(caller.tenant_id)
    overlap = (body or Rotation()).overlap // timedelta(microseconds=1)

    def work(writing: Writing, now_us: int) -> Key:
        old = writing.keys_by_id([id]).get(id)
        if old is None:
            raise NotFound("There is no such key.")
        if not old.is_live(now_us):
            raise RunState("The key was revoked or has expired: make a new one.", state="ended")
        key = replace(old, id=uuid4(), created_us=now_us, last_used_us=None)
        writing.add_key(key, keys.digest_of(secret))
        writing.end_key(old.id, at_us=now_us + overlap)
        facts = {**keys.facts_of(key), "rotates": str(old.id), "old_ends_at": timestamp(now_us + overlap)}
        writing.note("key-rotated", caller.facts(), facts, now_us=now_us)
        return key

    key = await written(services(request), caller, work)
    return Json({**shown(key), "secret": secret}, status_code=201)


@router.get("/keys", responses={200: {"model": KeyPage}}, response_model=None)
def list_keys(caller: Admin, request: Request, limit: pages.Limit = 100, cursor: pages.Cursor = None) -> Response:
    """List the tenant's keys, without their secrets."""
    with services(request).store.reading(caller.tenant_id) as reading:
        found = reading.keys(after=pages.after_id(cursor), limit=limit + 1)
    return Json(pages.page(found, limit=limit, show=shown, place=lambda key: str(key.id)))


@router.delete("/keys/{id}", status_code=204, response_model=None)
async def revoke_key(id: UUID, caller: Admin, request: Request) -> Response:  # noqa: A002 (the contract's name)
    """Revoke a key. It is refused from now on, in this process at once and in others within half a second."""
    served = services(request)

    def work(writing: Writing, now_us: int) -> None:
        key = writing.keys_by_id([id]).get(id)
        if key is None:
            raise NotFound("There is no such key.")
        if key.revoked_us is None:
            writing.revoke_key(id, now_us=now_us)
            writing.note("key-revoked", caller.facts(), {"revokes": str(id)}, now_us=now_us)

    await written(served, caller, work)
    served.keyring.forget()
    return Response(status_code=204)


# --- policy ----------------------------------------------------------------------------------------------------------


@router.get("/policy", responses={200: {"model": PolicyShown}}, response_model=None)
def show_policy(caller: Reader, request: Request) -> Response:
    """Show the tenant's policy."""
    with services(request).store.reading(caller.tenant_id) as reading:
        return Json({"second_steward": tenant_shape(reading).second_steward})


@router.put("/policy", responses={200: {"model": PolicyShown}}, response_model=None)
async def set_policy(body: NewPolicy, caller: Admin, request: Request) -> Response:
    """Set whether what loosens a budget takes a second steward."""

    def work(writing: Writing, now_us: int) -> None:
        facts = {"second_steward": body.second_steward, "reason": body.reason}
        writing.set_policy(second_steward=body.second_steward)
        writing.note("policy-set", caller.facts(), facts, now_us=now_us)

    await written(services(request), caller, work)
    return Json({"second_steward": body.second_steward})


# --- the tenant's own journal ----------------------------------------------------------------------------------------


@router.get("/entries", responses={200: {"model": EntryPage}}, response_model=None)
def list_entries(caller: Auditor, request: Request, limit: pages.Limit = 100, cursor: pages.Cursor = None) -> Response:
    """List the tenant's own journal, of keys, roles and policies, oldest first, every entry byte for byte."""
    roles.demand_whole(caller)
    with services(request).store.reading(caller.tenant_id) as reading:
        found = reading.tenant_entry_page(after=pages.after_seq(cursor), limit=limit + 1)
    return pages.of_entries(found, limit=limit)


@router.get("/head", responses={200: {"model": TenantHead}}, response_model=None)
def show_head(caller: Auditor, request: Request) -> Response:
    """Show the newest number and hash of the tenant's own journal, and the Merkle root over all of it, signed."""
    roles.demand_whole(caller)
    served = services(request)
    with served.store.reading(caller.tenant_id) as reading:
        return journals.head(served, reading, tenant_shape(reading), None)


@router.get("/proof", responses={200: {"model": TenantInclusionProof}}, response_model=None)
def prove_inclusion(caller: Auditor, request: Request, seq: journals.Seq, size: journals.Size = None) -> Response:
    """Prove that an entry is in the tenant's own journal, with a few hashes."""
    roles.demand_whole(caller)
    served = services(request)
    with served.store.reading(caller.tenant_id) as reading:
        return journals.inclusion(served, reading, tenant_shape(reading), None, seq=seq, size=size)


@router.get("/consistency", responses={200: {"model": TenantConsistencyProof}}, response_model=None)
def prove_consistency(caller: Auditor, request: Request, from_: journals.From, to: journals.To = None) -> Response:
    """Prove that the tenant's own journal begins with all that it had when it was shorter, with a few hashes."""
    roles.demand_whole(caller)
    served = services(request)
    with served.store.reading(caller.tenant_id) as reading:
        return journals.consistency(served, reading, tenant_shape(reading), None, from_=from_, to=to)


@router.get("/export", responses=journals.EXPORTED, response_class=StreamingResponse, response_model=None)
def export(caller: Auditor, request: Request) -> Response:
    """Export the tenant's own journal, for `privacy-ledger verify`."""
    roles.demand_whole(caller)
    served = services(request)
    with served.store.reading(caller.tenant_id) as reading:
        tenant = tenant_shape(reading)
    return journals.export(served, tenant, None)

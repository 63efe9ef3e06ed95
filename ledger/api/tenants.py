"""Tenants and keys."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Request, Response

from ledger import keys
from ledger.api import pages
from ledger.api.gate import Admin, Route, TheOperator
from ledger.api.problems import Json
from ledger.api.schemas import KeyPage, NewKey, NewTenant, NewTenantShown, SecretShown
from ledger.api.services import services
from ledger.deploy import add_admin
from ledger.errors import InvalidRequest, NotFound, Unauthenticated
from ledger.model import Actor, microseconds, timestamp
from ledger.store import Key, Writing

router = APIRouter(prefix="/v1", route_class=Route, tags=["tenants and keys"])


@router.post("/tenants", status_code=201, responses={201: {"model": NewTenantShown}}, response_model=None)
async def make_tenant(body: NewTenant, _caller: TheOperator, request: Request) -> Response:
    """Make a tenant and its first admin key, whose secret is shown once."""
    tenant_id = uuid4()

    def work(writing: Writing) -> dict[str, Any]:
        now_us = writing.now_us()
        writing.add_tenant(body.name, now_us=now_us)
        key, secret = add_admin(writing, now_us=now_us)
        return {
            "tenant": {"id": str(tenant_id), "name": body.name},
            "key": {"id": str(key.id), "role": key.role, "secret": secret},
        }

    made = await asyncio.wrap_future(services(request).writer.run(tenant_id, work))
    return Json(made, status_code=201)


@router.post("/keys", status_code=201, responses={201: {"model": SecretShown}}, response_model=None)
async def make_key(body: NewKey, caller: Admin, request: Request) -> Response:
    """Make a key. Its secret is shown this once."""
    secret = keys.mint(caller.tenant_id)

    def work(writing: Writing) -> Key:
        now_us = writing.now_us()
        _demand_live(writing, caller, now_us)
        names = None if body.datasets is None else tuple(sorted(set(body.datasets)))
        if names is not None and (unknown := set(names) - writing.dataset_names(names)):
            missing = min(unknown)
            raise InvalidRequest(f"datasets: there is no dataset named {missing!r}", field="datasets", dataset=missing)
        expires_us = None if body.expires_at is None else microseconds(body.expires_at)
        if expires_us is not None and expires_us <= now_us:
            raise InvalidRequest("expires_at: is in the past", field="expires_at")
        key = Key(uuid4(), uuid4(), body.name, body.role, names, now_us, expires_us, None)
        writing.add_key(key, keys.digest_of(secret))
        return key

    key = await asyncio.wrap_future(services(request).writer.run(caller.tenant_id, work))
    return Json({**_shown(key), "secret": secret}, status_code=201)


@router.get("/keys", responses={200: {"model": KeyPage}}, response_model=None)
def list_keys(caller: Admin, request: Request, limit: pages.Limit = 100, cursor: pages.Cursor = None) -> Response:
    """List the tenant's keys, without their secrets."""
    with services(request).store.reading(caller.tenant_id) as reading:
        found = reading.keys(after=pages.after_id(cursor), limit=limit + 1)
    return Json(pages.page(found, limit=limit, show=_shown, place=lambda key: str(key.id)))


@router.delete("/keys/{id}", status_code=204, response_model=None)
async def revoke_key(id: UUID, caller: Admin, request: Request) -> Response:  # noqa: A002 (the contract's name)
    """Revoke a key. It is refused from now on, in this process at once and in others within half a second."""
    served = services(request)

    def work(writing: Writing) -> None:
        now_us = writing.now_us()
        _demand_live(writing, caller, now_us)
        if not writing.revoke_key(id, now_us=now_us):
            raise NotFound("There is no such key.")

    await asyncio.wrap_future(served.writer.run(caller.tenant_id, work))
    served.keyring.forget()
    return Response(status_code=204)


def _demand_live(writing: Writing, caller: Actor, now_us: int) -> None:
    key = writing.keys_by_id([caller.key_id]).get(caller.key_id)
    if key is None or not key.is_live(now_us):
        raise Unauthenticated("This key was revoked or has expired.")


def _shown(key: Key) -> dict[str, Any]:
    return {
        "id": str(key.id),
        "name": key.name,
        "role": key.role,
        "datasets": None if key.datasets is None else list(key.datasets),
        "created_at": timestamp(key.created_us),
        "expires_at": None if key.expires_us is None else timestamp(key.expires_us),
        "revoked_at": None if key.revoked_us is None else timestamp(key.revoked_us),
    }

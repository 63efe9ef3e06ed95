"""Keys and tenants: make, rotate, revoke, show."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from uuid import uuid4

from ledger.access import keys
from ledger.access.roles import Caller, Operator
from ledger.core.amounts import timestamp
from ledger.core.people import Actor, Tenant
from ledger.errors import NotFound, Unauthenticated
from ledger.service.use_cases import UseCases
from ledger.store import Key, Reading, Writing


def add_admin(writing: Writing, *, by: Mapping[str, Any], now_us: int) -> tuple[Key, str]:
    """An admin's key for the tenant of this transaction, and its secret. by: who makes it, for the journal."""
    secret = keys.mint(writing.tenant_id)
    key = Key(uuid4(), uuid4(), "admin", "admin", None, now_us, None, None)
    writing.keys.add(key, keys.digest_of(secret))
    writing.journals.note("key-made", by, keys.facts_of(key), now_us=now_us)
    return key, secret


T = TypeVar("T")


def me_shape(caller: Caller, served: UseCases) -> dict[str, Any]:
    """The caller as the ledger knows them."""
    if isinstance(caller, Operator):
        return {"role": "operator"}
    with served.store.reading(caller.tenant_id) as reading:
        tenant = tenant_shape(reading)
    return {
        "role": caller.role,
        "tenant": {"id": str(tenant.id), "name": tenant.name},
        "principal": str(caller.principal_id),
        "name": caller.name,
        "datasets": None if caller.datasets is None else sorted(caller.datasets),
        "projects": None if caller.projects is None else sorted(caller.projects),
        "expires_at": None if caller.expires_us is None else timestamp(caller.expires_us),
    }


def tenant_shape(reading: Reading) -> Tenant:
    """The tenant of this reading. Raises NotFound."""
    tenant = reading.tenants.current()
    if tenant is None:
        raise NotFound("There is no such tenant.")
    return tenant


async def written(served: UseCases, caller: Actor, work: Callable[[Writing, int], T]) -> T:
    """Does some work in a transaction of its own, in which the caller's key is looked at once more."""

    def checked(writing: Writing) -> T:
        now_us = writing.now_us()
        if not writing.keys.is_live(caller, now_us=now_us):
            raise Unauthenticated("This key was revoked or has expired.")
        return work(writing, now_us)

    return await asyncio.wrap_future(served.writer.run(caller.tenant_id, checked))


def shown(key: Key) -> dict[str, Any]:
    """A key as it is answered, without its secret."""
    times = {
        "expires_at": key.expires_us,
        "revoked_at": key.revoked_us,
        "last_used_at": key.last_used_us,
    }
    return {
        "id": str(key.id),
        "principal": str(key.principal_id),
        "name": key.name,
        "role": key.role,
        "datasets": None if key.datasets is None else list(key.datasets),
        "projects": None if key.projects is None else list(key.projects),
        "created_at": timestamp(key.created_us),
        **{name: None if at_us is None else timestamp(at_us) for name, at_us in times.items()},
    }

"""Tenants: make one, show the caller, and the policy."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from ledger.access.roles import Caller, Operator
from ledger.core.amounts import timestamp
from ledger.core.people import GUARDED, Actor, Tenant
from ledger.errors import NotFound
from ledger.service.keys import add_admin
from ledger.service.requests.tenants import NewPolicy, NewTenant
from ledger.service.shapes.tenants import Me, NewTenantShown, PolicyShown, SecretShown, TenantShown
from ledger.service.transactions import change_as
from ledger.service.writer import Writer
from ledger.store import Key, Reading, Store, Writing


class Tenants:
    """Makes tenants, shows a caller, and sets the policy of a tenant."""

    def __init__(self, *, store: Store, writer: Writer) -> None:
        self._store, self._writer = store, writer

    async def make(self, operator: Operator, body: NewTenant) -> NewTenantShown:
        """Make a tenant and its first admin key. Raises NameTaken."""
        tenant_id = uuid4()
        by = {"key": str(operator.key_id), "name": "operator", "role": "operator"}

        def make(writing: Writing) -> tuple[Key, str]:
            return add_tenant(writing, body.name, by=by, now_us=writing.now_us())

        key, secret = await asyncio.wrap_future(self._writer.run(tenant_id, make))
        return NewTenantShown(
            tenant=TenantShown(id=str(tenant_id), name=body.name),
            key=SecretShown(id=str(key.id), role=key.role, secret=secret),
        )

    def me(self, caller: Caller) -> Me:
        """Return who the caller is to the ledger."""
        if isinstance(caller, Operator):
            return Me(role="operator")
        with self._store.reading(caller.tenant_id) as reading:
            tenant = demand_tenant(reading)
        return Me(
            role=caller.role,
            tenant=TenantShown(id=str(tenant.id), name=tenant.name),
            principal=str(caller.principal_id),
            name=caller.name,
            datasets=None if caller.datasets is None else sorted(caller.datasets),
            projects=None if caller.projects is None else sorted(caller.projects),
            expires_at=None if caller.expires_us is None else timestamp(caller.expires_us),
        )

    def policy(self, actor: Actor) -> PolicyShown:
        """Return the tenant's policy."""
        with self._store.reading(actor.tenant_id) as reading:
            return PolicyShown(second_steward=demand_tenant(reading).second_steward)

    async def set_policy(self, actor: Actor, body: NewPolicy) -> PolicyShown:
        """Set whether changes that loosen a budget need a second steward."""

        def set_policy(writing: Writing, now_us: int) -> None:
            facts = {
                "second_steward": body.second_steward,
                "reason": body.reason,
                **({"guards": sorted(GUARDED)} if body.second_steward else {}),
            }
            writing.tenants.set_policy(second_steward=body.second_steward)
            writing.journals.note("policy-set", actor.facts(), facts, now_us=now_us)

        await change_as(self._writer, actor, set_policy)
        return PolicyShown(second_steward=body.second_steward)


def add_tenant(writing: Writing, name: str, *, by: Mapping[str, Any], now_us: int) -> tuple[Key, str]:
    """Add the tenant of this transaction and its first admin key. Return both and the key's secret. by: who adds it."""
    writing.tenants.add(name, now_us=now_us)
    writing.journals.note("tenant-made", by, {"name": name}, now_us=now_us)
    return add_admin(writing, by=by, now_us=now_us)


def demand_tenant(reading: Reading) -> Tenant:
    """Return the tenant of this reading. Raises NotFound."""
    tenant = reading.tenants.current()
    if tenant is None:
        raise NotFound("This tenant does not exist any more.")
    return tenant

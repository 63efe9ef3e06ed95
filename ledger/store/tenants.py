"""The tenant's own row."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, select, update

from ledger.core.alerting import Alerting
from ledger.core.entries import NO_HASH
from ledger.core.journal import chain
from ledger.core.people import Tenant
from ledger.errors import NameTaken
from ledger.store.repository import Repository
from ledger.store.rows import tenant_of
from ledger.store.tables import alerts, tenants


class TenantReader(Repository):
    """Reads the tenant."""

    def current(self) -> Tenant | None:
        return self._one(select(tenants))

    def _one(self, query: Select[Any]) -> Tenant | None:
        row = self.connection.execute(query.where(tenants.c.tenant_id == self.tenant_id)).one_or_none()
        return None if row is None else tenant_of(row)


class TenantWriter(TenantReader):
    """Makes the tenant and changes its settings."""

    def lock(self) -> Tenant | None:
        """Return the tenant, locked, which protects its own journal: the last lock that a transaction takes."""
        return self._one(select(tenants).with_for_update(key_share=True))

    def lock_policy(self) -> Tenant | None:
        """Return the tenant, locked against changes, with a lock that several transactions can share."""
        return self._one(select(tenants).with_for_update(read=True))

    def add(self, name: str, *, now_us: int) -> None:
        row = {
            "tenant_id": self.tenant_id,
            "name": name,
            "second_steward": 0,
            "seq": 0,
            "head": NO_HASH,
            "created_us": now_us,
        }
        if not self.connection.execute(self._insert_new(tenants).returning(tenants.c.tenant_id), [row]).all():
            raise NameTaken(name=name)

    def set_policy(self, *, second_steward: bool) -> None:
        row = {"second_steward": int(second_steward)}
        self.connection.execute(update(tenants).where(tenants.c.tenant_id == self.tenant_id), row)

    def set_alerting(self, alerting: Alerting) -> None:
        """Set which alerts the tenant gets. Without a webhook, waiting alerts are not sent any more."""
        row = {"alerting": chain.canonical(alerting.facts())}
        self.connection.execute(update(tenants).where(tenants.c.tenant_id == self.tenant_id), row)
        if alerting.webhook is None:
            waiting = (alerts.c.tenant_id == self.tenant_id, alerts.c.state == "pending")
            self.connection.execute(update(alerts).where(*waiting), {"state": "none", "next_us": None})

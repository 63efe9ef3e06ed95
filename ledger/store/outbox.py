"""The outbox: alerts, stored to be delivered or listed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, select, tuple_, update

from ledger.core.alerting import Alert, AlertKind, DeliveryState, KeptAlert
from ledger.core.alerts import event as event_of
from ledger.core.alerts import id_of
from ledger.core.journal import chain
from ledger.errors import NotFound
from ledger.store.repository import Repository
from ledger.store.rows import alert_of
from ledger.store.tables import alerts, datasets
from ledger.store.tenants import TenantReader


class OutboxReader(Repository):
    """Reads alerts."""

    def page(
        self,
        *,
        after: tuple[int, UUID] | None,
        limit: int,
        kind: str | None = None,
        dataset_id: UUID | None = None,
        state: str | None = None,
        within: frozenset[str] | None = None,
    ) -> list[KeptAlert]:
        """Return alerts, newest first, that satisfy every given filter; `within` limits them to datasets of those
        names."""
        query = select(alerts).where(alerts.c.tenant_id == self.tenant_id)
        if after is not None:
            types = [alerts.c.at_us.type, alerts.c.id.type]
            query = query.where(tuple_(alerts.c.at_us, alerts.c.id) < tuple_(*after, types=types))
        for column, value in ((alerts.c.kind, kind), (alerts.c.dataset_id, dataset_id), (alerts.c.state, state)):
            if value is not None:
                query = query.where(column == value)
        if within is not None:
            dataset_ids = select(datasets.c.id).where(
                datasets.c.tenant_id == self.tenant_id, datasets.c.name.in_(sorted(within))
            )
            query = query.where(alerts.c.dataset_id.in_(dataset_ids))
        newest_first = query.order_by(alerts.c.at_us.desc(), alerts.c.id.desc()).limit(limit)
        return [alert_of(row) for row in self.connection.execute(newest_first)]

    def by_id(self, alert_id: UUID) -> KeptAlert | None:
        query = select(alerts).where(alerts.c.tenant_id == self.tenant_id, alerts.c.id == alert_id)
        row = self.connection.execute(query).one_or_none()
        return None if row is None else alert_of(row)

    def known_ids(self, ids: Collection[UUID]) -> set[UUID]:
        """Return which of these alerts exist."""
        query = select(alerts.c.id).where(alerts.c.tenant_id == self.tenant_id, alerts.c.id.in_(ids))
        return set(self.connection.execute(query).scalars())

    def has_due(self, now_us: int) -> bool:
        """Return whether an alert is due now."""
        query = select(alerts.c.id).where(
            alerts.c.tenant_id == self.tenant_id, alerts.c.state == "pending", alerts.c.next_us <= now_us
        )
        return self.connection.execute(query.limit(1)).scalar() is not None

    def has_more_than(self, rows_max: int) -> bool:
        """Return whether there are more alerts than that."""
        query = select(alerts.c.id).where(alerts.c.tenant_id == self.tenant_id)
        newest_first = query.order_by(alerts.c.at_us.desc(), alerts.c.id.desc())
        return self.connection.execute(newest_first.offset(rows_max).limit(1)).scalar() is not None


class OutboxWriter(OutboxReader):
    """Adds alerts, leases them for delivery, and records the outcome. added: the kinds that it added."""

    def __init__(self, connection: Connection, tenant_id: UUID) -> None:
        super().__init__(connection, tenant_id)
        self.added: list[AlertKind] = []

    def add(self, raised: Sequence[Alert], *, now_us: int) -> list[UUID]:
        """Add the alerts that the outbox does not have yet, and return the ids of all, in order.

        They are sent if the tenant has a webhook, otherwise only listed. Raises NotFound if the tenant does not exist
        any more.
        """
        tenant = TenantReader(self.connection, self.tenant_id).current()
        if tenant is None:
            raise NotFound("This tenant does not exist any more.")
        events = {id_of(tenant.id, alert): event_of(alert, tenant, at_us=now_us) for alert in raised}
        new = self._insert_events(list(events.values()), now_us=now_us, is_sent=tenant.alerting.webhook is not None)
        self.added += [events[id_]["kind"] for id_ in new]
        return list(events)

    def _insert_events(self, events: Sequence[Mapping[str, Any]], *, now_us: int, is_sent: bool) -> list[UUID]:
        """Insert events. Return the ids of the new ones."""
        rows = [
            {
                "tenant_id": self.tenant_id,
                "id": UUID(event["id"]),
                "kind": event["kind"],
                "dataset_id": UUID(event["dataset"]["id"]) if "dataset" in event else None,
                "run_id": UUID(event["run"]) if "run" in event else None,
                "seq": event.get("seq"),
                "at_us": now_us,
                "body": chain.canonical(event),
                "state": "pending" if is_sent else "none",
                "attempts": 0,
                "next_us": now_us if is_sent else None,
            }
            for event in events
        ]
        rows.sort(key=lambda row: row["id"])
        if not rows:
            return []
        return list(self.connection.execute(self._insert_new(alerts).returning(alerts.c.id), rows).scalars())

    def lease(self, *, now_us: int, until_us: int, limit: int) -> list[KeptAlert]:
        """Lease alerts that are due, the first due first, to deliver them now. Until `until_us` nobody else gets them;
        if no outcome is recorded by then, they are due again. Each counts as tried."""
        mine = alerts.c.tenant_id == self.tenant_id
        due = (
            select(alerts)
            .where(mine, alerts.c.state == "pending", alerts.c.next_us <= now_us)
            .order_by(alerts.c.next_us, alerts.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        leased = [alert_of(row) for row in self.connection.execute(due)]
        if leased:
            row = {"next_us": until_us, "attempts": alerts.c.attempts + 1}
            self.connection.execute(
                update(alerts).where(mine, alerts.c.id.in_([alert.id for alert in leased])).values(row)
            )
        return [replace(alert, attempts=alert.attempts + 1, next_us=until_us) for alert in leased]

    def record(
        self,
        leased: KeptAlert,
        *,
        state: DeliveryState,
        attempts: int,
        next_us: int | None = None,
        delivered_us: int | None = None,
        failure: str | None = None,
    ) -> bool:
        """Record the outcome of a leased alert. If somebody else has leased it since, do nothing and return False."""
        mine = (alerts.c.tenant_id == self.tenant_id, alerts.c.id == leased.id, alerts.c.state == "pending")
        row = {
            "state": state,
            "attempts": attempts,
            "next_us": next_us,
            "delivered_us": delivered_us,
            "failure": failure,
        }
        statement = update(alerts).where(*mine, alerts.c.attempts == leased.attempts).values(row)
        return self.connection.execute(statement).rowcount == 1

    def prune(self, *, rows_max: int) -> int:
        """Remove the tenant's oldest alerts beyond `rows_max`. Return how many were removed."""
        mine = alerts.c.tenant_id == self.tenant_id
        newest_first = (alerts.c.at_us.desc(), alerts.c.id.desc())
        too_old = select(alerts.c.id).where(mine).order_by(*newest_first).offset(rows_max).limit(rows_max)
        return self.connection.execute(delete(alerts).where(mine, alerts.c.id.in_(too_old))).rowcount

"""Alerts: list them, and set which ones a tenant gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

from ledger.core.alerting import Alerting, AlertKind, DeliveryState, KeptAlert
from ledger.core.alerts import id_of, trial
from ledger.core.amounts import timestamp
from ledger.core.journal import chain
from ledger.core.journal.tenant import alerting_facts
from ledger.core.people import Actor
from ledger.errors import InvalidRequest, NotFound
from ledger.service import pages
from ledger.service.catalogue import find_dataset, find_definition
from ledger.service.forecasts import forecast_shown, forecasts_shown
from ledger.service.requests.alerts import NewAlerting
from ledger.service.shapes.alerts import (
    AlertingShown,
    AlertPage,
    AlertShown,
    Delivery,
    ForecastPage,
    ForecastShown,
    WebhookShown,
)
from ledger.service.tenants import demand_tenant
from ledger.service.transactions import change_as
from ledger.service.writer import Writer
from ledger.store import Store, Writing


class Alerts:
    """Lists a tenant's alerts, sets which are raised and where they go, and forecasts how long a budget lasts."""

    def __init__(self, *, store: Store, writer: Writer, objection: Callable[[str], str | None]) -> None:
        """objection: returns what is wrong with a webhook's URL, or None."""
        self._store, self._writer, self._objection = store, writer, objection

    def page(
        self,
        actor: Actor,
        *,
        kind: AlertKind | None,
        dataset: str | None,
        state: DeliveryState | None,
        limit: int,
        cursor: str | None,
    ) -> AlertPage:
        """Return alerts, newest first; for a key that is limited to datasets, only those of its datasets. Raises
        NotFound."""
        with self._store.reading(actor.tenant_id) as reading:
            dataset_id = None if dataset is None else find_definition(reading, actor, dataset).id
            rows = reading.outbox.page(
                after=pages.after_moment(cursor),
                limit=limit + 1,
                kind=kind,
                dataset_id=dataset_id,
                state=state,
                within=actor.datasets,
            )
        alerts, following = pages.cut(rows, limit=limit, position=lambda alert: [alert.at_us, str(alert.id)])
        return AlertPage(items=[_alert_shown(alert) for alert in alerts], next=following)

    def alerting(self, actor: Actor) -> AlertingShown:
        """Return which alerts the tenant gets, and where they go."""
        with self._store.reading(actor.tenant_id) as reading:
            return _alerting_shown(demand_tenant(reading).alerting)

    async def set_alerting(self, actor: Actor, body: NewAlerting) -> AlertingShown:
        """Set which alerts the tenant gets. A field that is left out stays unchanged. Raises InvalidRequest."""
        if body.webhook is not None:
            # In a thread: what reads URLs is imported for the first one.
            objection = await asyncio.to_thread(self._objection, body.webhook)
            if objection is not None:
                raise InvalidRequest(f"webhook: {objection}", field="webhook")
        changes = _changes(body)

        def set_alerting(writing: Writing, now_us: int) -> Alerting:
            alerting = replace(demand_tenant(writing).alerting, **changes)
            writing.tenants.set_alerting(alerting)
            facts = {**alerting_facts(alerting), "reason": body.reason}
            writing.journals.note("alerting-set", actor.facts(), facts, now_us=now_us)
            return alerting

        return _alerting_shown(await change_as(self._writer, actor, set_alerting))

    async def test(self, actor: Actor) -> AlertShown:
        """Raise a test alert."""
        alert = trial(uuid4(), by=actor.facts())

        def test(writing: Writing, now_us: int) -> KeptAlert:
            writing.outbox.add([alert], now_us=now_us)
            kept = writing.outbox.by_id(id_of(writing.tenant_id, alert))
            if kept is None:
                raise NotFound("No alert has this id, or your key may not see it.")
            return kept

        return _alert_shown(await change_as(self._writer, actor, test))

    def forecasts(self, actor: Actor, *, limit: int, cursor: str | None) -> ForecastPage:
        """Return how long the datasets that the actor sees last, by name."""
        after = pages.after_name(cursor)
        with self._store.reading(actor.tenant_id) as reading:
            rows = reading.datasets.page(after=after, limit=limit + 1, only=actor.datasets)
            datasets, following = pages.cut(rows, limit=limit, position=lambda dataset: dataset.definition.name)
            items = forecasts_shown(reading, datasets, now_us=reading.now_us())
        return ForecastPage(items=items, next=following)

    def forecast(self, actor: Actor, name: str) -> ForecastShown:
        """Return how long a dataset's budget lasts if it is spent as in the last four weeks. Raises NotFound."""
        with self._store.reading(actor.tenant_id) as reading:
            return forecast_shown(reading, find_dataset(reading, actor, name), now_us=reading.now_us())


def _changes(body: NewAlerting) -> dict[str, Any]:
    changes = {name: getattr(body, name) for name in body.model_fields_set if name != "reason"}
    if "thresholds" in changes:
        changes["thresholds"] = tuple(changes["thresholds"])
    return changes


def _alert_shown(alert: KeptAlert) -> AlertShown:
    delivery = Delivery(
        state=alert.state,
        tries=alert.attempts,
        failure=alert.failure,
        next_try_at=None if alert.next_us is None else timestamp(alert.next_us),
        delivered_at=None if alert.delivered_us is None else timestamp(alert.delivered_us),
    )
    return AlertShown(
        id=str(alert.id),
        kind=alert.kind,
        at=timestamp(alert.at_us),
        event=chain.parse(alert.body),
        delivery=delivery,
    )


def _alerting_shown(alerting: Alerting) -> AlertingShown:
    webhook = alerting_facts(alerting)["webhook"]
    return AlertingShown(
        thresholds=list(alerting.thresholds),
        refusals_in_a_row=alerting.refusals_in_a_row,
        forecast_days=alerting.forecast_days,
        webhook=None if webhook is None else WebhookShown(host=webhook["host"], sha256=webhook["sha256"]),
        heads=alerting.heads,
    )

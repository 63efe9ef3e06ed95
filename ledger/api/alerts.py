"""Alerts: what a tenant was told of, what it wants to be told of, and how long a budget lasts."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Final
from uuid import uuid4

from fastapi import APIRouter, Query, Request, Response

from ledger.accounting.display import show_amount
from ledger.alerting import watch
from ledger.api import pages
from ledger.api.gate import Alarmist, Reader
from ledger.api.problems import Json
from ledger.api.routing import Route
from ledger.api.schemas.alerts import (
    AlertingShown,
    AlertPage,
    AlertShown,
    ForecastShown,
)
from ledger.api.services import services
from ledger.core.alerting import (
    Alert,
    Alerting,
    AlertKind,
    DeliveryState,
    KeptAlert,
)
from ledger.core.alerts import id_of, trial
from ledger.core.amounts import timestamp
from ledger.core.forecast import WINDOW_US
from ledger.core.journal.tenant import alerting_facts
from ledger.errors import InvalidRequest, NotFound
from ledger.service.alerts import alerting_shape, shown
from ledger.service.catalogue import demand_sight, find, no_dataset
from ledger.service.keys import written
from ledger.service.requests import NewAlerting
from ledger.service.shapes import DatasetName
from ledger.store import Writing

ACCOUNTS_MAX: Final = 100
"""How many accounts a forecast shows: those that end first."""

router = APIRouter(prefix="/v1", route_class=Route, tags=["alerts"])


@router.get("/alerts", responses={200: {"model": AlertPage}}, response_model=None)
def list_alerts(
    caller: Reader,
    request: Request,
    kind: Annotated[AlertKind | None, Query()] = None,
    dataset: Annotated[DatasetName | None, Query()] = None,
    state: Annotated[DeliveryState | None, Query(description="How far the delivery came.")] = None,
    limit: pages.Limit = 100,
    cursor: pages.Cursor = None,
) -> Response:
    """List alerts, newest first. A key that is limited to datasets sees those of its datasets."""
    served = services(request)
    served.courier.saw(caller.tenant_id)
    with served.store.reading(caller.tenant_id) as reading:
        dataset_id = None if dataset is None else find(reading, caller, dataset).id
        found = reading.alert_page(
            after=pages.after_run(cursor),
            limit=limit + 1,
            kind=kind,
            dataset_id=dataset_id,
            state=state,
            within=caller.datasets,
        )
    return Json(pages.page(found, limit=limit, show=shown, place=lambda alert: [alert.at_us, str(alert.id)]))


# --- what a tenant wants to be told of -------------------------------------------------------------------------------


@router.get("/alerting", responses={200: {"model": AlertingShown}}, response_model=None)
def show_alerting(caller: Reader, request: Request) -> Response:
    """Show what the tenant is told of. Of a webhook's URL, which may have a secret in it, the host and its SHA-256."""
    with services(request).store.reading(caller.tenant_id) as reading:
        return Json(alerting_facts(alerting_shape(reading)))


@router.put("/alerting", responses={200: {"model": AlertingShown}}, response_model=None)
async def set_alerting(body: NewAlerting, caller: Alarmist, request: Request) -> Response:
    """Set what the tenant is told of, and where to. What is left out stays as it is; null turns it off."""
    served = services(request)
    if body.webhook is not None and (objection := served.courier.objection(body.webhook)) is not None:
        raise InvalidRequest(f"webhook: {objection}", field="webhook")
    changes = {name: getattr(body, name) for name in body.model_fields_set if name != "reason"}
    if "thresholds" in changes:
        changes["thresholds"] = tuple(changes["thresholds"])

    def work(writing: Writing, now_us: int) -> Alerting:
        alerting = replace(alerting_shape(writing), **changes)
        writing.set_alerting(alerting)
        facts = {**alerting_facts(alerting), "reason": body.reason}
        writing.note("alerting-set", caller.facts(), facts, now_us=now_us)
        return alerting

    return Json(alerting_facts(await written(served, caller, work)))


@router.post("/alerting/test", status_code=201, responses={201: {"model": AlertShown}}, response_model=None)
async def test_alerting(caller: Alarmist, request: Request) -> Response:
    """Raise an alert that says nothing but that alerts arrive, by the way of all others."""
    alert: Alert = trial(uuid4(), by=caller.facts())

    def work(writing: Writing, now_us: int) -> KeptAlert:
        writing.tell([alert], now_us=now_us)
        found = writing.alert(id_of(writing.tenant_id, alert))
        if found is None:
            raise NotFound("There is no such alert.")
        return found

    return Json(shown(await written(services(request), caller, work)), status_code=201)


# --- how long a budget lasts -----------------------------------------------------------------------------------------


@router.get("/datasets/{name}/forecast", responses={200: {"model": ForecastShown}}, response_model=None)
def show_forecast(name: str, caller: Reader, request: Request) -> Response:
    """Estimate how long a dataset's budget lasts if it is spent as in the last four weeks. It decides nothing."""
    demand_sight(caller, name)
    served = services(request)
    served.courier.saw(caller.tenant_id)
    with served.store.reading(caller.tenant_id) as reading:
        dataset, now_us = reading.dataset(name) if "\x00" not in name else None, reading.now_us()
        if dataset is None:
            raise no_dataset(name)
        found = watch.outlooks(reading, dataset, now_us=now_us)
    return Json(
        {
            "dataset": name,
            "at": timestamp(now_us),
            "is_estimate": True,
            "window_days": WINDOW_US // 86_400_000_000,
            "accounts": [_forecast(outlook, now_us) for outlook in found[:ACCOUNTS_MAX]],
            "accounts_count": len(found),
        }
    )


def _forecast(outlook: watch.Outlook, now_us: int) -> dict[str, Any]:
    found, ends_us = outlook.forecast, outlook.forecast.lasts_until_us
    return {
        "partition": outlook.key.partition,
        "project": outlook.key.project,
        "since": timestamp(found.since_us),
        "runs": found.runs,
        "spent": show_amount(found.spent),
        "remaining": show_amount(found.remaining),
        "is_enough": found.is_enough,
        "lasts_until": None if ends_us is None else timestamp(ends_us),
        "days_left": found.days_left(now_us),
        "quantity": found.quantity,
    }

"""Alerts, the tenant's alert settings, and forecasts of how long a budget lasts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from ledger.api import pages
from ledger.api.gate import Alarmist, Reader
from ledger.api.problems import Json
from ledger.api.routing import Route
from ledger.api.services import services
from ledger.core.alerting import AlertKind, DeliveryState
from ledger.service.forecasts import DATASETS_MAX
from ledger.service.requests.alerts import NewAlerting
from ledger.service.requests.fields import DatasetName
from ledger.service.shapes.alerts import AlertingShown, AlertPage, AlertShown, ForecastPage, ForecastShown

router = APIRouter(prefix="/v1", route_class=Route, tags=["alerts"])


@router.get("/alerts", responses={200: {"model": AlertPage}}, response_model=None)
def list_alerts(
    caller: Reader,
    request: Request,
    kind: Annotated[AlertKind | None, Query()] = None,
    dataset: Annotated[DatasetName | None, Query()] = None,
    state: Annotated[DeliveryState | None, Query(description="The state of the delivery.")] = None,
    limit: pages.Limit = 100,
    cursor: pages.Cursor = None,
) -> Response:
    """List alerts, newest first. A key that is limited to datasets sees those of its datasets."""
    alerts = services(request).alerts
    return Json(alerts.page(caller, kind=kind, dataset=dataset, state=state, limit=limit, cursor=cursor))


@router.get("/alerting", responses={200: {"model": AlertingShown}}, response_model=None)
def show_alerting(caller: Reader, request: Request) -> Response:
    """Show which alerts the tenant gets. A webhook's URL may contain a secret: only its host and SHA-256 are shown."""
    return Json(services(request).alerts.alerting(caller))


@router.put("/alerting", responses={200: {"model": AlertingShown}}, response_model=None)
async def set_alerting(body: NewAlerting, caller: Alarmist, request: Request) -> Response:
    """Set which alerts the tenant gets, and where they go. A field left out stays unchanged; null turns it off."""
    return Json(await services(request).alerts.set_alerting(caller, body))


@router.post("/alerting/test", status_code=201, responses={201: {"model": AlertShown}}, response_model=None)
async def test_alerting(caller: Alarmist, request: Request) -> Response:
    """Raise a test alert, which is delivered like every other alert."""
    return Json(await services(request).alerts.test(caller), status_code=201)


@router.get("/datasets/{name}/forecast", responses={200: {"model": ForecastShown}}, response_model=None)
def show_forecast(name: str, caller: Reader, request: Request) -> Response:
    """Estimate how long a dataset's budget lasts if it is spent as in the last four weeks. Decisions do not depend on
    it."""
    return Json(services(request).alerts.forecast(caller, name))


@router.get("/forecasts", responses={200: {"model": ForecastPage}}, response_model=None)
def list_forecasts(
    caller: Reader,
    request: Request,
    limit: Annotated[
        int, Query(ge=1, le=DATASETS_MAX, description="The largest number of items in the answer.")
    ] = DATASETS_MAX,
    cursor: pages.Cursor = None,
) -> Response:
    """Estimate the same for every dataset that the key sees, by name."""
    return Json(services(request).alerts.forecasts(caller, limit=limit, cursor=cursor))

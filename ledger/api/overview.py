"""A tenant's datasets at a glance."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from ledger.api import pages
from ledger.api.gate import Reader
from ledger.api.problems import Json
from ledger.api.routing import Route
from ledger.api.services import services
from ledger.service.overview import DATASETS_MAX
from ledger.service.shapes.overview import OverviewShown

router = APIRouter(prefix="/v1", route_class=Route, tags=["datasets"])


@router.get("/overview", responses={200: {"model": OverviewShown}}, response_model=None)
def show_overview(
    caller: Reader,
    request: Request,
    limit: Annotated[
        int, Query(ge=1, le=DATASETS_MAX, description="The largest number of items in the answer.")
    ] = DATASETS_MAX,
    cursor: pages.Cursor = None,
) -> Response:
    """List the datasets that the key sees, the fullest first, with what waits for somebody.

    The order is prepared in the background: a dataset whose entries are not all counted has `behind` above zero.
    """
    return Json(services(request).overview.page(caller, limit=limit, cursor=cursor))

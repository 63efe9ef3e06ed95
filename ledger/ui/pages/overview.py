"""The overview: every dataset by how full it is, and what needs a look today."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Final

from starlette.responses import Response

from ledger.core.amounts import microseconds
from ledger.service.run_filters import Filters
from ledger.ui.view import View

DATASETS_SHOWN: Final = 50
ITEMS_SHOWN: Final = 5


async def show(view: View) -> Response:
    """Show the datasets that the actor sees, the fullest first, and what is new."""
    services, actor, cursor = view.services, view.actor, view.query("cursor")
    overview = await view.run(services.overview.page, actor, limit=DATASETS_SHOWN, cursor=cursor)
    since_us = microseconds(datetime.fromisoformat(overview["at"]) - timedelta(days=overview["days"]))
    runs = partial(services.runs.page, actor, limit=ITEMS_SHOWN, cursor=None)
    alerts = partial(services.alerts.page, actor, kind=None, dataset=None, state=None, limit=ITEMS_SHOWN, cursor=None)
    return await view.page(
        "overview.html",
        overview=overview,
        cursor=cursor,
        refused=await view.run(runs, Filters(state="refused", since_us=since_us)),
        late=await view.run(runs, Filters(is_overdue=True)),
        news=await view.run(alerts),
    )

"""The overview: every dataset by how full it is, and what needs a look today."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Final

from starlette.responses import Response

from ledger.core.amounts import microseconds
from ledger.service.run_filters import Filters
from ledger.service.shapes.overview import DatasetAtAGlance
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
        datasets=sorted(overview["items"], key=_fullness, reverse=True),
        cursor=cursor,
        refused=await view.run(runs, Filters(state="refused", since_us=since_us)),
        late=await view.run(runs, Filters(is_overdue=True)),
        news=await view.run(alerts),
    )


def _fullness(dataset: DatasetAtAGlance) -> tuple[float, str]:
    """Return what is spent and held of a dataset now, in percent of the quantity that is fuller. Pages are in the order
    of the last count, which new runs are not in yet."""
    percents = dataset["percent"]
    if percents is None:
        return -1.0, dataset["name"]
    left = [value for value in (percents["remaining"], percents["remaining_of_delta"]) if value is not None]
    return (100 - min(left) if left else 0.0), dataset["name"]

"""The overview: every dataset by how full it is, and what needs a look today."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from starlette.responses import Response

from ledger.core.amounts import microseconds, timestamp
from ledger.errors import Forbidden
from ledger.service.forecasts import DATASETS_MAX
from ledger.service.run_filters import Filters
from ledger.service.shapes.datasets import DatasetShown
from ledger.service.shapes.tenants import ProposalPage
from ledger.ui.view import View

DATASETS_SHOWN: Final = 50
ITEMS_SHOWN: Final = 5
DAYS: Final = 7


async def show(view: View) -> Response:
    """Show the datasets that the actor sees, and what is new."""
    services, actor, cursor = view.services, view.actor, view.query("cursor")
    now = datetime.now(UTC)  # for a heading and a window of days; nothing is decided by it
    runs = partial(services.runs.page, actor, limit=ITEMS_SHOWN, cursor=None)
    page = await view.run(services.datasets.page, actor, limit=DATASETS_SHOWN, cursor=cursor)
    since_us = microseconds(now - timedelta(days=DAYS))
    alerts = partial(services.alerts.page, actor, kind=None, dataset=None, state=None, limit=ITEMS_SHOWN, cursor=None)
    return await view.page(
        "overview.html",
        at=timestamp(microseconds(now)),
        days=DAYS,
        datasets=sorted(await view.run(_at_a_glance, view, page["items"]), key=_fullness, reverse=True),
        next=page["next"],
        cursor=cursor,
        refused=await view.run(runs, Filters(state="refused", since_us=since_us)),
        overdue=await view.run(runs, Filters(is_overdue=True)),
        proposals=await view.run(_open, view),
        alerts=await view.run(alerts),
    )


def _at_a_glance(view: View, datasets: list[DatasetShown]) -> list[dict[str, Any]]:
    """Return what the list shows of each dataset. Forecasts read many runs, so only the first have one."""
    forecasts = view.services.alerts.forecasts(view.actor, limit=DATASETS_MAX, cursor=None)["items"]
    ends = {one["dataset"]: one["accounts"][0]["lasts_until"] if one["accounts"] else None for one in forecasts}
    return [
        {
            "name": one["name"],
            "state": one["state"],
            "percent": one.get("percent"),
            "derived_from": [parent["name"] for parent in one["derived_from"]],
            "lasts_until": ends.get(one["name"]),
        }
        for one in datasets
    ]


def _open(view: View) -> ProposalPage | None:
    """Return the proposals that wait; None for a key that may not list them."""
    try:
        return view.services.proposals.page(view.actor, state="open", limit=ITEMS_SHOWN, cursor=None)
    except Forbidden:
        return None


def _fullness(dataset: dict[str, Any]) -> tuple[float, str]:
    """Return what is spent and held of a dataset, in percent of the quantity that is fuller."""
    percents = dataset["percent"]
    if percents is None:
        return -1.0, dataset["name"]
    left = [value for value in (percents["remaining"], percents["remaining_of_delta"]) if value is not None]
    return (100 - min(left) if left else 0.0), dataset["name"]

"""The overview: every dataset by how full it is, and what needs a look today."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from ledger.service.shapes.datasets import DatasetShown
from ledger.ui.view import View

DATASETS_SHOWN: Final = 50


async def show(view: View) -> Response:
    """Show the datasets that the actor sees."""
    cursor = view.query("cursor")
    page = await view.run(view.services.datasets.page, view.actor, limit=DATASETS_SHOWN, cursor=cursor)
    return await view.page(
        "overview.html", datasets=sorted(page["items"], key=_fullness, reverse=True), next=page["next"], cursor=cursor
    )


def _fullness(dataset: DatasetShown) -> tuple[float, str]:
    """Return what is spent and held of a dataset, in percent of the quantity that is fuller."""
    percents = dataset.get("percent")
    if percents is None:
        return -1.0, dataset["name"]
    left = [value for value in (percents["remaining"], percents["remaining_of_delta"]) if value is not None]
    return (100 - min(left) if left else 0.0), dataset["name"]

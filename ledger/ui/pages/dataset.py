"""A dataset: its budget over time, its parts, who spent it, its runs and changes, its lineage and its journal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

from starlette.responses import Response

from ledger.access import roles
from ledger.core.amounts import microseconds
from ledger.errors import Forbidden, InvalidRequest
from ledger.service import pages
from ledger.service.run_filters import Filters
from ledger.service.shapes.common import PercentsShown
from ledger.service.shapes.datasets import BalanceAt, DatasetShown, PartitionPage, SpendingShown
from ledger.ui.charts import Cell, Point
from ledger.ui.view import View

SAMPLES: Final = 24
"""How many points a budget over time has, in equal steps of the journal."""
PARTITIONS_SHOWN: Final = 200
RUNS_SHOWN: Final = 20
CHANGES_SHOWN: Final = 10
ENTRIES_SHOWN: Final = 10
DERIVED_SHOWN: Final = 100


async def listed(view: View) -> Response:
    """List datasets by name."""
    cursor = view.query("cursor")
    page = await view.run(view.services.datasets.page, view.actor, limit=50, cursor=cursor)
    return await view.page("datasets.html", datasets=page["items"], next=page["next"], cursor=cursor)


async def show(view: View) -> Response:
    """Show a dataset."""
    name, services, actor = view.params["name"], view.services, view.actor
    dataset = await services.datasets.show(actor, name)
    runs = partial(services.runs.page, actor, Filters(dataset=name), limit=RUNS_SHOWN, cursor=view.query("runs"))
    changes = partial(services.history.page, actor, name, limit=CHANGES_SHOWN, cursor=view.query("changes"))
    parts = None
    if dataset["partitions"] is not None:
        parts = await view.run(
            services.datasets.partitions, actor, name, limit=PARTITIONS_SHOWN, cursor=view.query("parts")
        )
    return await view.page(
        "dataset.html",
        dataset=dataset,
        points=await view.run(_over_time, view, dataset),
        parts=parts,
        cells=[] if parts is None else _cells(parts),
        spending=await _spending(view, dataset),
        forecast=await view.run(services.alerts.forecast, actor, name),
        derived=await view.run(services.datasets.derived, actor, name, limit=DERIVED_SHOWN),
        runs=await view.run(runs),
        changes=await view.run(changes),
        journal=await _journal(view, dataset),
    )


def _over_time(view: View, dataset: DatasetShown) -> list[Point]:
    """Return what was spent and held after some entries, in percent of the limit that was in force."""
    if dataset["balance"] is None:
        return []
    last = dataset["seq"]
    seqs = sorted({1 + round(index * (last - 1) / (SAMPLES - 1)) for index in range(SAMPLES)})
    balance = view.services.history.balance
    return [_point(balance(view.actor, dataset["name"], at_us=None, seq=seq)) for seq in seqs]


def _point(balance: BalanceAt) -> Point:
    percents = balance.get("percent")
    spent, held = _fuller(percents)
    at_us = microseconds(datetime.fromisoformat(balance["at"]))
    taken = None if spent is None else spent + (held or 0.0)
    return Point(at_us, balance["at"], spent, taken, None if percents is None else 100.0)


def _fuller(percents: PercentsShown | None) -> tuple[float | None, float | None]:
    """Return what is spent and held of the quantity that is fuller: mu² or delta."""
    if percents is None:
        return None, None
    pairs = [
        (spent, held or 0.0)
        for spent, held in (
            (percents["spent"], percents["held"]),
            (percents["spent_of_delta"], percents["held_of_delta"]),
        )
        if spent is not None
    ]
    return max(pairs, key=sum, default=(None, None))


def _cells(parts: PartitionPage) -> list[Cell]:
    cells = []
    for part in parts["items"]:
        spent, held = _fuller(part.get("percent"))
        cells.append(Cell(part["name"], (spent or 0.0) + (held or 0.0)))
    return cells


async def _spending(view: View, dataset: DatasetShown) -> dict[str, SpendingShown]:
    """Return who and what a budget was spent on, as far as the actor may know."""
    if dataset["balance"] is None or not roles.may(view.actor, "read the journal"):
        return {}
    partition = view.query("partition")
    if dataset["partitions"] is not None and partition is None:
        return {}
    found = {}
    for by in ("project", "person"):
        divide = partial(
            view.services.history.spending, view.actor, dataset["name"], by=by, label=None, partition=partition
        )
        try:
            found[by] = await view.aside(divide)
        except (Forbidden, InvalidRequest):
            return {}
    return found


async def _journal(view: View, dataset: DatasetShown) -> dict[str, Any] | None:
    """Return the signed head and the newest entries; None for who may not read journals."""
    if not roles.may(view.actor, "read the journal"):
        return None
    name, journals = dataset["name"], view.services.journals
    head = await view.run(journals.head, view.actor, name)
    entries: Sequence[Any] = []
    if view.actor.datasets is None:
        after = max(dataset["seq"] - ENTRIES_SHOWN, 0)
        cursor = pages.cursor_at(after) if after else None
        entries, _ = await view.run(journals.entries, view.actor, name, limit=ENTRIES_SHOWN, cursor=cursor)
    return {"head": head, "entries": entries[::-1]}

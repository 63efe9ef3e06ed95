"""A dataset: its budget over time, its parts, who spent it, its runs and changes, its lineage and its journal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple

from starlette.responses import Response

from ledger.access import roles
from ledger.core.amounts import microseconds, percent_of
from ledger.errors import Forbidden, InvalidRequest
from ledger.service import pages
from ledger.service.run_filters import Filters
from ledger.service.shapes.common import AmountShown, PercentsShown
from ledger.service.shapes.datasets import BalanceShown, BurndownPoint, DatasetShown, PartitionPage, SpendingShown
from ledger.service.spending import By
from ledger.ui.charts import Cell, Point
from ledger.ui.view import View

DAYS_MIN: Final = 3
"""From how many days on a budget is shown day by day."""
DAYS_OF_EPSILON_MIN: Final = 2
SAMPLES: Final = 24
"""How many points it has before, in equal steps of the journal."""
CEILING_DRAWN_MAX: Final = 250
"""In percent of the limit; a higher ceiling is stated in words, so that the figure shows what was spent."""
PARTITIONS_SHOWN: Final = 200
RUNS_SHOWN: Final = 20
CHANGES_SHOWN: Final = 10
ENTRIES_SHOWN: Final = 10
DERIVED_SHOWN: Final = 100


class EpsilonChart(NamedTuple):
    """Epsilon over time. delta: at which."""

    delta: float
    points: list[Point]


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
    ceiling = _ceiling(dataset)
    by_day = await view.run(_by_day, view, dataset)
    return await view.page(
        "dataset.html",
        dataset=dataset,
        points=await view.run(_over_time, view, dataset, by_day),
        epsilons=_epsilons(by_day),
        ceiling=ceiling if ceiling is not None and ceiling <= CEILING_DRAWN_MAX else None,
        ceiling_above=ceiling if ceiling is not None and ceiling > CEILING_DRAWN_MAX else None,
        parts=parts,
        cells=[] if parts is None else _cells(parts),
        spending=await _spending(view, dataset),
        forecast=await view.run(services.alerts.forecast, actor, name),
        derived=await view.run(services.datasets.derived, actor, name, limit=DERIVED_SHOWN),
        runs=await view.run(runs),
        changes=await view.run(changes),
        journal=await _journal(view, dataset),
    )


def _by_day(view: View, dataset: DatasetShown) -> list[BurndownPoint]:
    """Return a dataset day by day, as it was counted; nothing without a budget of its own."""
    if dataset["balance"] is None:
        return []
    shown = view.services.history.burndown(
        *(view.actor, dataset["name"]), by="day", partition=None, project=None, since_us=None, until_us=None
    )
    return shown["points"]


def _epsilons(by_day: Sequence[BurndownPoint]) -> EpsilonChart | None:
    """Return the epsilon of what was spent and held day by day, at the budget's first delta, as it was stored: with
    residual costs, of the least limit. None until it is known of two days."""
    known = [(day, day["epsilon"][0]) for day in by_day if day["epsilon"] and day["epsilon"][0]["taken"] is not None]
    if len(known) < DAYS_OF_EPSILON_MIN:
        return None
    points = [Point(_us(day["until"]), day["until"], one["taken"], one["taken"], one["limit"]) for day, one in known]
    return EpsilonChart(known[-1][1]["delta"], points)


def _over_time(view: View, dataset: DatasetShown, by_day: Sequence[BurndownPoint]) -> list[Point]:
    """Return what was spent and held day by day; of a young dataset after some of its entries."""
    if dataset["balance"] is None:
        return []
    name, limit, history = dataset["name"], dataset["balance"]["limit"], view.services.history
    if len(by_day) >= DAYS_MIN:
        days = [(point["until"], point["balance"]) for point in by_day]
        return [_point(at, balance, limit) for at, balance in days if balance is not None]
    last = dataset["seq"]
    seqs = sorted({1 + round(index * (last - 1) / (SAMPLES - 1)) for index in range(SAMPLES)})
    stated = [history.balance(view.actor, name, at_us=None, seq=seq) for seq in seqs]
    return [_point(one["at"], one["balance"], limit) for one in stated if one["balance"] is not None]


def _point(at: str, balance: BalanceShown, limit: AmountShown) -> Point:
    """Return a balance in percent of today's limit, so that earlier limits are steps beside it."""
    spent, held, then = (_percent(balance[part], limit) for part in ("spent", "held", "limit"))
    taken = None if spent is None or held is None else spent + held
    return Point(_us(at), at, spent, taken, then)


def _us(at: str) -> int:
    return microseconds(datetime.fromisoformat(at))


def _percent(amount: AmountShown, limit: AmountShown) -> float | None:
    parts = amount["mu_sq_pico"], limit["mu_sq_pico"]
    return None if None in parts else percent_of(int(parts[0] or 0), int(parts[1] or 0), up=True)


def _ceiling(dataset: DatasetShown) -> float | None:
    """Return the ceiling in percent of today's limit."""
    if dataset["ceiling"] is None or dataset["balance"] is None:
        return None
    return _percent(dataset["ceiling"], dataset["balance"]["limit"])


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
    bys: tuple[By, ...] = ("project", "person")
    divide = partial(view.services.history.spendings, view.actor, dataset["name"], bys=bys, partition=partition)
    try:
        return dict(zip(bys, await view.aside(divide), strict=True))
    except (Forbidden, InvalidRequest):
        return {}


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
    alerts = partial(view.services.alerts.page, view.actor, kind="mismatch", dataset=name, state=None)
    found = await view.run(partial(alerts, limit=1, cursor=None))
    return {"head": head, "entries": entries[::-1], "mismatch": found["items"][0] if found["items"] else None}

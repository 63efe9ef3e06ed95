"""A run: what was asked and decided, why it was refused and what would have fitted, and what happened to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from starlette.responses import Response

from ledger.errors import InvalidRequest, NotFound, Overloaded, TooLarge
from ledger.service.shapes.datasets import BalanceAt
from ledger.service.shapes.runs import RunInFull
from ledger.ui.view import View

DATASETS_SHOWN: Final = 5
"""Of how many datasets the balance before and after is shown."""
_EVENTS: Final = ("started", "reported", "settled", "voided")


async def show(view: View) -> Response:
    """Show a run, by its id or the beginning of it."""
    run_id = await view.services.runs.found(view.actor, view.params["id"])
    if str(run_id) != view.params["id"]:
        return view.redirect(f"/ui/runs/{run_id}")
    run = await view.services.runs.show(view.actor, run_id)
    return await view.page(
        "run.html",
        run=run,
        fits=await _fits(view, run),
        balances=await view.run(_balances, view, run),
        events=[(name, run[name]) for name in _EVENTS if run.get(name)],
        planner_href=planner(run, {}),
        has_receipt=run["state"] in ("held", "started") and not run.get("reported"),
        mechanism=list(_flat(run["request"]["mechanism"])),
    )


async def receipt(view: View) -> Response:
    """Return the receipt of a run as a file. Reading it renews it."""
    run_id = await view.services.runs.found(view.actor, view.params["id"])
    shown = await view.run(view.services.runs.receipt, view.actor, run_id)
    headers = {
        "Content-Disposition": f'attachment; filename="receipt-{run_id}.json"',
        "Cache-Control": "no-store",
    }
    return Response(json.dumps(shown, indent=2), media_type="application/json", headers=headers)


async def _fits(view: View, run: RunInFull) -> list[dict[str, Any]] | None:
    """Return each change that would have made a refused run fit, with the address of the planner for it; None if that
    is still computed."""
    if run["decision"] != "refused":
        return []
    try:
        found = await view.services.runs.fits(view.actor, UUID(run["id"]))
    except (TooLarge, Overloaded):
        return None
    return [{"name": name, "value": value, "href": planner(run, {name: value})} for name, value in found.items()]


def planner(run: RunInFull, changes: Mapping[str, Any]) -> str:
    """Return the address of the planner for a run with these changes of its mechanism."""
    request = run["request"]
    plain = {name: value for name, value in request["mechanism"].items() if not isinstance(value, dict | list)}
    first = request["datasets"][0]
    dataset = first if isinstance(first, str) else first["name"]
    query = {"dataset": dataset, "run": run["id"], **plain, **changes}
    return f"/ui/planner?{urlencode({name: value for name, value in query.items() if value is not None})}"


def _balances(view: View, run: RunInFull) -> list[tuple[str, BalanceAt | None, BalanceAt]]:
    """Return the balances of the run's datasets before and after its decision, of those that the actor sees."""
    found = []
    for place in run["datasets"][:DATASETS_SHOWN]:
        name, seq = place["name"], place.get("seq")
        if seq is None or not view.actor.sees(name):
            continue
        try:
            before, after = (
                view.services.history.balance(view.actor, name, at_us=None, seq=number) if number else None
                for number in (seq - 1, seq)
            )
        except (NotFound, InvalidRequest):
            continue
        if after is not None and after["balance"] is not None:
            found.append((name, before, after))
    return found


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what a mechanism has, by the names of its parts."""
    for name, part in value.items():
        if isinstance(part, dict):
            yield from _flat(part, f"{before}{name}.")
        else:
            is_plain = isinstance(part, int | float | Decimal | str)
            yield f"{before}{name}", part if is_plain else json.dumps(part, default=float)

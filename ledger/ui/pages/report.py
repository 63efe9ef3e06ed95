"""Audit reports of a period: what they say in short, and the whole as HTML, PDF, CSV or JSON."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from starlette.responses import Response

from ledger.access import roles
from ledger.errors import Forbidden, InvalidRequest, LedgerError
from ledger.service.shapes.datasets import BalanceAt
from ledger.ui import forms
from ledger.ui.view import View

DATASETS_LISTED: Final = 200
WITHIN: Final = "page"
"""The form of a report that is shown within the page: HTML that our own pages may frame."""
_NOWHERE: Final = "frame-ancestors 'none'"
TITLES: Final = {"html": "Page", "pdf": "PDF", "csv": "CSV", "json": "JSON"}


async def show(view: View) -> Response:
    """Show a period of a dataset in short, and where the whole report is."""
    name, since, until = view.query("dataset"), view.query("from"), view.query("to")
    facts: dict[str, Any] = {}
    error = None
    try:
        since_us, until_us = (forms.moment(text, field=field) for text, field in ((since, "from"), (until, "to")))
        if since_us is not None and until_us is not None and since_us >= until_us:
            raise InvalidRequest("to: the period ends before it begins", field="to")
        if name:
            facts = await view.run(_period, view, name, since_us, until_us)
    except LedgerError as problem:
        error = problem.detail
    names = await view.run(view.services.datasets.page, view.actor, limit=DATASETS_LISTED, cursor=None)
    period = {key: value for key, value in (("dataset", name), ("from", since), ("to", until)) if value}
    return await view.page(
        "report.html",
        names=[one["name"] for one in names["items"]],
        dataset=name or "",
        since=since or "",
        until=until or "",
        period=period,
        titles=TITLES,
        error=error,
        may_report=roles.may(view.actor, "read the journal"),
        facts=facts,
    )


def _period(view: View, name: str, since_us: int | None, until_us: int | None) -> dict[str, Any]:
    """Return the balances at both ends of a period, and its points, by month if it is long."""
    history = view.services.history
    points = partial(history.burndown, view.actor, name, partition=None, project=None)
    try:
        shown = points(by="day", since_us=since_us, until_us=until_us)
    except InvalidRequest:
        shown = points(by="month", since_us=since_us, until_us=until_us)
    counted = shown["points"]
    return {
        "by": shown["by"],
        "points": [one for one in counted if one in counted[-1:] or one["approvals"] or one["refusals"]],
        "before": None if since_us is None else _balance(view, name, since_us),
        "after": None if until_us is None else _balance(view, name, until_us),
        "last": counted[-1] if counted else None,
        "approvals": sum(point["approvals"] or 0 for point in counted),
        "refusals": sum(point["refusals"] or 0 for point in counted),
        "spending": _spending(view, name, since_us),
    }


def _balance(view: View, name: str, at_us: int) -> BalanceAt | None:
    try:
        return view.services.history.balance(view.actor, name, at_us=at_us, seq=None)
    except InvalidRequest:
        return None


def _spending(view: View, name: str, since_us: int | None) -> Any:
    try:
        return view.services.history.spending(
            view.actor, name, by="person", label=None, partition=None, since_us=since_us
        )
    except (Forbidden, InvalidRequest):
        return None


async def download(view: View) -> Response:
    """Return the whole report of a period. Another process makes it while it is sent."""
    moments = [forms.moment(view.query(field), field=field) for field in ("from", "to")]
    since, until = (None if at_us is None else forms.time_of(at_us) for at_us in moments)
    form = view.params["form"]
    answer = await view.report(
        "html" if form == WITHIN else form, dataset=view.query("dataset"), since=since, until=until
    )
    if form == WITHIN:
        policy = answer.headers["Content-Security-Policy"]
        answer.headers["Content-Security-Policy"] = policy.replace(_NOWHERE, "frame-ancestors 'self'")
        answer.headers["X-Frame-Options"] = "SAMEORIGIN"
    return answer

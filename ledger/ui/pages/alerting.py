"""Alerts, whether they were delivered, and which are raised; with a test delivery."""

from __future__ import annotations

from functools import partial
from typing import Any, Final, get_args

from starlette.responses import Response

from ledger.core.alerting import AlertKind
from ledger.errors import InvalidRequest
from ledger.service.requests.alerts import NewAlerting
from ledger.ui import forms
from ledger.ui.view import View

ALERTS_SHOWN: Final = 50
KINDS: Final[tuple[str, ...]] = get_args(AlertKind)


async def show(view: View) -> Response:
    """Show alerts, newest first, and the settings."""
    kind, dataset = view.query("kind"), view.query("dataset")
    if kind is not None and kind not in KINDS:
        raise InvalidRequest(f"kind: {kind[:40]!r} is none; choose one of {', '.join(KINDS)}", field="kind")
    alerts = view.services.alerts
    wanted: Any = {"kind": kind, "dataset": dataset, "state": None}
    page = await view.run(partial(alerts.page, view.actor, **wanted, limit=ALERTS_SHOWN, cursor=view.query("cursor")))
    return await view.page(
        "alerts.html",
        page=page,
        kinds=KINDS,
        kind=kind or "",
        dataset=dataset or "",
        settings=await view.run(alerts.alerting, view.actor),
    )


async def change(view: View) -> Response:
    """Set which alerts the tenant gets, and where they go. An empty webhook leaves it as it is."""
    form = view.form
    members: dict[str, Any] = {
        "thresholds": [_whole(text, "thresholds") for text in forms.listed(form.get("thresholds"))],
        "refusals_in_a_row": _whole_or_none(form.get("refusals_in_a_row"), "refusals_in_a_row"),
        "forecast_days": _whole_or_none(form.get("forecast_days"), "forecast_days"),
        "heads": form.get("heads") == "yes",
        "reason": form.get("reason", ""),
    }
    if form.get("webhook_change") == "remove":
        members["webhook"] = None
    elif form.get("webhook"):
        members["webhook"] = form["webhook"].strip()
    await view.services.alerts.set_alerting(view.actor, forms.read(NewAlerting, members))
    return view.redirect("/ui/alerts", done="set")


async def test(view: View) -> Response:
    """Raise a test alert, which is delivered like every other."""
    await view.services.alerts.test(view.actor)
    return view.redirect("/ui/alerts", done="tested")


def _whole(text: str, field: str) -> int:
    value = forms.value_of(text)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest(f"{field}: {text[:40]!r} is no whole number", field=field)
    return value


def _whole_or_none(text: str | None, field: str) -> int | None:
    return _whole(text, field) if text and text.strip() else None

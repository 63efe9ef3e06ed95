"""Search over runs: by purpose, label, person, project, mechanism, state, time and id."""

from __future__ import annotations

import re
from functools import partial
from typing import Final, get_args
from urllib.parse import urlencode

from starlette.responses import Response

from ledger.core.runs import RunStateName
from ledger.errors import InvalidRequest, NotFound
from ledger.service.run_filters import Filters, labels_of
from ledger.service.shapes.runs import RunPage
from ledger.ui import forms
from ledger.ui.view import View

RUNS_SHOWN: Final = 50
STATES: Final[tuple[str, ...]] = get_args(RunStateName)
_ID: Final = re.compile(r"[0-9a-fA-F]{8}[0-9a-fA-F-]{0,28}")
_NAMES: Final = ("q", "dataset", "state", "person", "project", "mechanism", "label", "since", "until", "overdue")


async def show(view: View) -> Response:
    """Show the runs that the address asks for; the newest if it asks for nothing."""
    asked = {name: view.query(name) or "" for name in _NAMES}
    if _ID.fullmatch(asked["q"].strip()):
        try:
            run_id = await view.services.runs.found(view.actor, asked["q"].strip().lower())
            return view.redirect(f"/ui/runs/{run_id}")
        except NotFound:
            pass  # it may be a part of a purpose
    error, page = None, RunPage(items=[], next=None)
    try:
        filters = _filters(asked)
        find = partial(view.services.runs.page, view.actor, filters, limit=RUNS_SHOWN, cursor=view.query("cursor"))
        page = await (view.aside(find) if filters.reads_texts else view.run(find))
    except (InvalidRequest, NotFound) as problem:
        error = problem.detail
    given = {name: value for name, value in asked.items() if value}
    return await view.page(
        "search.html",
        asked=asked,
        states=STATES,
        page=page,
        error=error,
        path=f"/ui/search?{urlencode(given)}" if given else "/ui/search",
        is_filtered=bool(given),
        cursor=view.query("cursor"),
    )


def _filters(asked: dict[str, str]) -> Filters:
    """Return the filters of the address. Raises InvalidRequest."""
    state = asked["state"]
    if state and state not in STATES:
        raise InvalidRequest(f"state: {state[:40]!r} is none; choose one of {', '.join(STATES)}", field="state")
    return Filters(
        dataset=asked["dataset"] or None,
        state=state or None,  # type: ignore[arg-type]
        project=asked["project"] or None,
        is_overdue=True if asked["overdue"] else None,
        labels=labels_of([asked["label"]] if asked["label"] else ()),
        purpose=asked["q"] or None,
        person=asked["person"] or None,
        mechanism=asked["mechanism"] or None,
        since_us=forms.moment(asked["since"], field="since"),
        until_us=forms.moment(asked["until"], field="until"),
    )

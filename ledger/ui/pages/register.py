"""A form that registers a dataset with its budget. What few datasets need is in the command line and the API alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, get_args

from starlette.responses import Response

from ledger.core.datasets import Adjacency
from ledger.errors import LedgerError
from ledger.service.requests.datasets import NewDataset
from ledger.ui import forms
from ledger.ui.view import View

ADJACENCIES: Final[tuple[str, ...]] = get_args(Adjacency)
DEFAULTS: Final[Mapping[str, str]] = {
    "name": "",
    "title": "",
    "epsilon": "3",
    "at_delta": "1e-5",
    "size": "",
    "privacy_unit": "record",
    "adjacency": "add_or_remove_one",
    "partitions": "",
    "accepts_weak_protection": "",
}
_UNPROCESSABLE: Final = 422


async def show(view: View) -> Response:
    """Show the form, with usual values."""
    return await _page(view, DEFAULTS)


async def register(view: View) -> Response:
    """Register a dataset; if it cannot be, show the form again with what was written and what is wrong."""
    try:
        body: NewDataset = forms.read(NewDataset, _members(view.form))
        await view.services.datasets.register(view.actor, body)
    except LedgerError as problem:
        written = {name: view.form.get(name, "") for name in DEFAULTS}
        return await _page(view, written, error=problem.detail)
    return view.redirect(f"/ui/datasets/{body.name}", done="registered")


def _members(form: Mapping[str, str]) -> dict[str, Any]:
    """Return a form as the API takes the same request."""
    texts = {name: form.get(name, "").strip() for name in DEFAULTS}
    return forms.given(
        [
            *((name, texts[name]) for name in ("name", "title", "privacy_unit", "adjacency")),
            ("size", forms.value_of(texts["size"])),
            ("budget", {name: forms.value_of(texts[name]) for name in ("epsilon", "at_delta")}),
            ("partitions", forms.listed(texts["partitions"])),
            ("accepts_weak_protection", True if texts["accepts_weak_protection"] == "yes" else None),
        ]
    )


async def _page(view: View, written: Mapping[str, str], *, error: str | None = None) -> Response:
    status = 200 if error is None else _UNPROCESSABLE
    return await view.page("register.html", status=status, written=written, error=error, adjacencies=ADJACENCIES)

"""Answers to changes that may need two people."""

from __future__ import annotations

from typing import Any, Final

from ledger.api.problems import Json
from ledger.service.shapes.tenants import Proposed
from ledger.service.two_people import Outcome

PROPOSED: Final[dict[int | str, dict[str, Any]]] = {
    202: {"model": Proposed, "description": "A second steward must approve the change within a day."}
}


def answered(outcome: Outcome[Any], *, done: int = 200) -> Json:
    """Return the answer: the status `done` if the change was made, 202 if it was only proposed."""
    return Json(outcome.answer, status_code=done if outcome.is_done else 202)

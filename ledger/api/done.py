"""Answers to changes that can take two people."""

from __future__ import annotations

from typing import Any, Final

from ledger.api.problems import Json
from ledger.service.shapes.tenants import Proposed
from ledger.service.two_people import Outcome

PROPOSED: Final[dict[int | str, dict[str, Any]]] = {
    202: {"model": Proposed, "description": "It takes a second steward, who has a day to approve it."}
}


def answered(outcome: Outcome[Any], *, done: int = 200) -> Json:
    """The answer: with the status `done` where the change is made, 202 where it is only proposed."""
    return Json(outcome.answer, status_code=done if outcome.is_done else 202)

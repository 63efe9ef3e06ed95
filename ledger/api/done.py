"""Answers to changes that may first be proposed."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import Response

from ledger.api.problems import Json
from ledger.api.schemas.tenants import Proposed
from ledger.api.services import Services
from ledger.core.commands import Single
from ledger.core.journal import chain
from ledger.service import answers
from ledger.service.datasets import dataset_shape

PROPOSED: Final[dict[int | str, dict[str, Any]]] = {
    202: {"model": Proposed, "description": "It takes a second steward, who has a day to approve it."}
}


async def carried_out(served: Services, command: Single, name: str, *, status: int = 200) -> Response:
    """Does it and answers with the dataset; or with the proposal, where it takes a second person."""
    done = await asyncio.wrap_future(served.writer.submit(command.actor.tenant_id, command))
    if isinstance(done, tuple) and done[0].kind == "change-proposed":
        return Json(answers.proposed(chain.parse(done[0].body)), status_code=202)
    shown = await asyncio.to_thread(dataset_shape, served, command.actor, name)
    return Json(shown, status_code=status)

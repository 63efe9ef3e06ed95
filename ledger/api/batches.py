"""Batches of runs: read them, ask for all, and answer each."""

from __future__ import annotations

import re
from functools import partial
from typing import Any, Final

from fastapi import Response
from pydantic import ValidationError

from ledger.api import observe
from ledger.api.problems import Json, of_error, of_validation, shape_of
from ledger.api.routing import aside, found_in
from ledger.api.schemas.problems import Batched, BatchResult
from ledger.api.services import Served
from ledger.core.people import Actor
from ledger.errors import BatchRefused, IdempotencyKeyMissing, InvalidMechanism, InvalidRequest, LedgerError
from ledger.service.asked import Item, canonical
from ledger.service.asking import Answer
from ledger.service.requests.runs import NewBatch, RunRequest, as_kept

KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
"""An idempotency key."""


async def ask_for_all(served: Served, caller: Actor, runs: list[dict[str, Any]], batch: NewBatch) -> Response:
    """Return the answer to a request for many runs. runs: as they were sent."""
    items = await aside(served, caller, partial(_items, runs), size=None)
    if batch.atomic or batch.as_many_as_fit:
        for item in items:
            if isinstance(item, LedgerError):
                raise item
    answers, is_refused = await served.services.runs.asking.ask_batch(
        caller, items, is_atomic=batch.atomic, takes_most=batch.as_many_as_fit
    )
    if not is_refused:
        recorded = [answer for answer in answers if isinstance(answer, Answer) and answer.is_recorded]
        observe.decided(served.metrics, recorded)
    return await aside(served, caller, partial(_batched, answers, is_refused=is_refused), size=None)


def _batched(answers: list[Answer | LedgerError], *, is_refused: bool) -> Response:
    results = [_result(answer) for answer in answers]
    if not is_refused:
        return Json(Batched(results=results, approved=sum(result["status"] == 201 for result in results)))
    counts = {answer.facts["fitting"] for answer in answers if isinstance(answer, BatchRefused) and answer.facts}
    return of_error(BatchRefused(results=results, fitting=max(counts, default=0)))


def _items(runs: list[dict[str, Any]]) -> list[Item | LedgerError]:
    """Return the runs of a batch, and the errors of those that are not valid. Raises InvalidRequest for a duplicate
    key."""
    items: list[Item | LedgerError] = []
    indexes: dict[str, int] = {}
    requests: dict[str, RunRequest] = {}
    for index, run in enumerate(runs):
        body = {name: value for name, value in run.items() if name != "idempotency_key"}
        key = run.get("idempotency_key")
        if not isinstance(key, str) or not KEY.fullmatch(key):
            items.append(IdempotencyKeyMissing(field=f"runs.{index}.idempotency_key"))
            continue
        if key in indexes:
            raise InvalidRequest(
                (
                    f"runs.{index}.idempotency_key: is the same as runs.{indexes[key]}.idempotency_key; give every"
                    " run its own key"
                ),
                field=f"runs.{index}.idempotency_key",
            )
        indexes[key] = index
        text = canonical(body)
        request = requests.get(text) or _validated(body, index)
        if isinstance(request, LedgerError):
            items.append(request)
        else:
            requests[text] = request
            kept = as_kept(body, request)
            items.append(Item(key, request, kept, text=text if kept is body else canonical(kept)))
    return items


def _validated(body: dict[str, Any], index: int) -> RunRequest | LedgerError:
    try:
        return RunRequest.model_validate(body)
    except ValidationError as error:
        return _within(of_validation(found_in(error, RunRequest)), index)


def _within(error: LedgerError, index: int) -> LedgerError:
    """Return the error of one run with fields named from the batch on."""
    kind = InvalidMechanism if isinstance(error, InvalidMechanism) else InvalidRequest
    errors = [{**item, "field": f"runs.{index}.{item['field']}"} for item in error.facts["errors"]]
    return kind(f"runs.{index}.{error.detail}", field=errors[0]["field"], errors=errors)


def _result(answer: Answer | LedgerError) -> BatchResult:
    outcome = answer.decision if isinstance(answer, Answer) else answer
    is_replayed = isinstance(answer, Answer) and answer.is_replayed
    if isinstance(outcome, LedgerError):
        problem = shape_of(outcome)
        return BatchResult(status=problem["status"], replayed=is_replayed, problem=problem)
    return BatchResult(status=201, replayed=is_replayed, run=outcome)

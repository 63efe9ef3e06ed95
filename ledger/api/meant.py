"""Add to the error for a dataset that does not exist the one that was probably meant, of those that the key sees."""

from __future__ import annotations

import logging
from typing import Any

from starlette.concurrency import run_in_threadpool

from ledger.core.people import Actor
from ledger.errors import InvalidRequest, LedgerError, NotFound
from ledger.service.catalogue import no_dataset
from ledger.service.use_cases import UseCases

log = logging.getLogger(__name__)


async def with_meant(error: LedgerError, services: UseCases, caller: Any) -> LedgerError:
    """Return the error, with `did_you_mean` if it is about a dataset and a name that the caller sees is like it.

    A caller gets the same text for a dataset that does not exist and for one that it may not see, with the same
    suggestion: only names that it sees are compared.
    """
    if not _is_about_dataset(error) or not isinstance(caller, Actor):
        return error
    name = error.facts["dataset"]
    try:
        meant = await run_in_threadpool(services.datasets.meant, caller, name)
    except Exception as failure:  # any error: the answer is right without a suggestion
        log.warning("the datasets to suggest could not be read: %s", type(failure).__name__)
        return error
    if meant is None or meant == name:  # of that name there is one: the error is about something else
        return error
    if isinstance(error, NotFound):
        return no_dataset(name, meant=meant)
    return InvalidRequest(f"{error.detail} Did you mean {meant}?", **error.facts, did_you_mean=meant)


def _is_about_dataset(error: LedgerError) -> bool:
    """Return whether an error is about the name of a dataset, in a path or among the fields of a request."""
    if isinstance(error, NotFound):
        return error.facts.keys() == {"dataset"}
    return type(error) is InvalidRequest and error.facts.keys() == {"dataset", "field"}

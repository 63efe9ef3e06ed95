"""Add to the error for a dataset that does not exist the one that was probably meant, of those that the key sees."""

from __future__ import annotations

import logging
from typing import Any

from starlette.concurrency import run_in_threadpool

from ledger.core.people import Actor
from ledger.errors import LedgerError, NotFound
from ledger.service.catalogue import no_dataset
from ledger.service.use_cases import UseCases

log = logging.getLogger(__name__)


async def with_meant(error: LedgerError, services: UseCases, caller: Any) -> LedgerError:
    """Return the error, with `did_you_mean` if it is about a dataset and a name that the caller sees is like it.

    A caller gets the same text for a dataset that does not exist and for one that it may not see, with the same
    suggestion: only names that it sees are compared.
    """
    if not isinstance(error, NotFound) or error.facts.keys() != {"dataset"} or not isinstance(caller, Actor):
        return error
    try:
        meant = await run_in_threadpool(services.datasets.meant, caller, error.facts["dataset"])
    except Exception as failure:  # any error: the answer is right without a suggestion
        log.warning("the datasets to suggest could not be read: %s", type(failure).__name__)
        return error
    return error if meant is None else no_dataset(error.facts["dataset"], meant=meant)

"""The least limits of datasets with residual costs, computed in the background, for information.

The lookout queues the tenants that changed. Each tick computes the limits of their datasets, the shortest journals
first, until it has begun journals of ENTRIES_AT_ONCE entries together; the others follow in the next ticks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final
from uuid import UUID

from ledger.core.datasets import Dataset, Least
from ledger.core.journal import chain
from ledger.core.least import KINDS, Charges
from ledger.service.writer import Writer
from ledger.store import Store, Writing

DATASETS_AT_ONCE: Final = 16
"""How many datasets of a tenant one statement reads."""
ENTRIES_AT_ONCE: Final = 200_000
"""After how many entries a tick begins no other journal."""
ENTRIES_MAX: Final = 200_000
"""The longest journal that has a least limit."""
PAGE: Final = 500
UNREADABLE: Final = (KeyError, TypeError, ValueError, AttributeError, RecursionError)
"""What is raised for an entry that the ledger cannot have written."""
WRITE_SECONDS_MAX: Final = 60.0

log = logging.getLogger(__name__)


class LeastLimits:
    """Computes and stores the least limits of the tenants in its queue."""

    def __init__(self, store: Store, writer: Writer) -> None:
        self._store, self._writer = store, writer
        self._queue: dict[UUID, None] = {}

    def want(self, tenant_id: UUID) -> None:
        """Queue a tenant that changed."""
        self._queue[tenant_id] = None

    def forget(self) -> None:
        """Empty the queue: another process looks now."""
        self._queue.clear()

    def tick(self, *, is_closing: Callable[[], bool]) -> None:
        """Compute as many limits as a tick may. Without a tenant in the queue this runs no statement."""
        left = ENTRIES_AT_ONCE
        while self._queue and left > 0 and not is_closing():
            tenant_id = next(iter(self._queue))
            try:
                left = self._update(tenant_id, left, is_closing)
            except Exception as error:  # an error of one tenant must not stop the others
                log.error("least limits of tenant %s could not be computed", tenant_id, exc_info=error)
                self._queue.pop(tenant_id, None)

    def _update(self, tenant_id: UUID, left: int, is_closing: Callable[[], bool]) -> int:
        """Compute limits of a tenant, which leaves the queue once all are up to date. Return how many entries the tick
        has left."""
        with self._store.reading(tenant_id) as reading:
            behind = reading.datasets.behind(seq_max=ENTRIES_MAX, limit=DATASETS_AT_ONCE)
        for dataset in behind:
            if left <= 0 or is_closing():
                return left
            self._keep(tenant_id, dataset.id, self._computed(tenant_id, dataset))
            left -= dataset.seq
        if len(behind) < DATASETS_AT_ONCE:
            self._queue.pop(tenant_id, None)
        return left

    def _computed(self, tenant_id: UUID, dataset: Dataset) -> Least:
        charges, after = Charges(), 0
        try:
            with self._store.reading(tenant_id) as reading:
                while page := reading.journals.of_kinds(dataset.id, KINDS, after=after, until=dataset.seq, limit=PAGE):
                    for entry in page:
                        charges.read(chain.parse(entry.body))
                    after = page[-1].seq
        except UNREADABLE as error:  # `check` shows what is wrong
            log.warning("entry after %s of dataset %s cannot be read: %r", after, dataset.id, error)
            return Least(dataset.seq, None)
        return Least(dataset.seq, charges.least_limit())

    def _keep(self, tenant_id: UUID, dataset_id: UUID, least: Least) -> None:
        def work(writing: Writing) -> None:
            writing.datasets.keep_least(dataset_id, least)
            writing.days.keep_least(dataset_id, least)

        self._writer.run(tenant_id, work).result(WRITE_SECONDS_MAX)

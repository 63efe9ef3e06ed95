"""Count the days of every dataset again from the journals (`ledger.store.days`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from uuid import UUID

from ledger.operate import deploy
from ledger.service.daily import counted
from ledger.settings import Settings
from ledger.store import Store
from ledger.store.days import Tally

_DATASETS_AT_ONCE: Final = 100
_ENTRIES_AT_ONCE: Final = 50_000


def recount(settings: Settings) -> Iterator[str]:
    """Remove all days and count them again. Yield the name of each dataset that was counted. A server may run
    meanwhile. Raises Misconfigured."""
    with deploy.opened_by_owner(settings) as store:
        for tenant_id, _ in deploy.tenants_of(store):
            with store.writing(tenant_id) as writing:
                writing.days.clear()
            after = UUID(int=0)
            while page := _behind(store, tenant_id, after):
                for tally in page:
                    _count(store, tenant_id, tally)
                    yield tally.name
                after = page[-1].dataset_id


def _behind(store: Store, tenant_id: UUID, after: UUID) -> list[Tally]:
    with store.reading(tenant_id) as reading:
        return reading.days.behind(after=after, limit=_DATASETS_AT_ONCE)


def _count(store: Store, tenant_id: UUID, tally: Tally) -> None:
    """Count a journal to its end, unless a server counts it meanwhile."""
    while True:
        with store.writing(tenant_id) as writing:
            (dataset,) = writing.datasets.by_names([tally.name])
            now = writing.days.tallies([dataset.id])[dataset.id]
            if now.seq >= dataset.seq:
                return
            found = counted(writing, dataset, now, entries_max=_ENTRIES_AT_ONCE)
            writing.days.advance(dataset.id, found.days, after=now.seq, seq=found.seq, left_ppm=found.left_ppm)

"""Days counted as the background counts them, a few entries at a time."""

from __future__ import annotations

import random
from uuid import UUID

from ledger.operate import deploy
from ledger.service.daily import counted
from ledger.settings import Settings


def count_some(settings: Settings, rng: random.Random, *, passes: int, entries_max: int) -> int:
    """Make passes over every dataset of every tenant, each of a random number of entries. Return how many there were
    that counted something."""
    made = 0
    with deploy.opened_by_owner(settings) as store:
        for tenant_id, _ in deploy.tenants_of(store):
            for _ in range(passes):
                with store.reading(tenant_id) as reading:
                    behind = reading.days.behind(after=UUID(int=0), limit=1_000)
                for tally in behind:
                    with store.writing(tenant_id) as writing:
                        (dataset,) = writing.datasets.by_names([tally.name])
                        found = counted(writing, dataset, tally, entries_max=rng.randint(1, entries_max))
                        assert writing.days.advance(
                            *(dataset.id, found.days), after=tally.seq, seq=found.seq, left_ppm=found.left_ppm
                        )
                        made += 1
    return made


def count_all(settings: Settings) -> None:
    """Count every entry that there is."""
    while count_some(settings, random.Random(1), passes=1, entries_max=10_000):
        pass

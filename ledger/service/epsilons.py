"""The epsilon of a run by itself, beside its decision: worked out once for equal runs, never on the event loop.

It is shown at the deltas of the budgets that the run charges. These are remembered for a minute, so after a budget got
another delta an answer may state the epsilon at the one before. It is true at the delta that is stated.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID

from cachetools import LRUCache, TTLCache

from ledger.core.amounts import Amount
from ledger.core.books import ReadSet
from ledger.service.portions import deltas_of, epsilons_of
from ledger.service.shapes.common import EpsilonShown
from ledger.store import Store

SECONDS: Final = 60
"""How long the deltas of budgets are remembered."""
RUNS_MAX: Final = 4_096
"""Of how many costs, and of how many sets of datasets, it is remembered."""
_Ids = tuple[UUID, ...]


class Epsilons:
    """Works out epsilons of runs, and remembers them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._deltas: TTLCache[tuple[UUID, _Ids], tuple[float, ...]] = TTLCache(RUNS_MAX, SECONDS)
        self._known = LRUCache[tuple[Amount, tuple[float, ...]], list[EpsilonShown]](RUNS_MAX)

    async def of_run(self, tenant_id: UUID, cost: Amount, dataset_ids: Iterable[UUID]) -> list[EpsilonShown]:
        """Return the epsilon of a run of this cost by itself, which charges these datasets."""
        ids = tuple(dataset_ids)
        with self._lock:
            deltas = self._deltas.get((tenant_id, ids))
            known = None if deltas is None else self._known.get((cost, deltas))
        if known is not None:
            return known
        return (await asyncio.to_thread(self.of_runs, tenant_id, [(cost, ids)]))[0]

    def of_runs(self, tenant_id: UUID, runs: Sequence[tuple[Amount, _Ids]]) -> list[list[EpsilonShown]]:
        """Return the same of several runs, in order: in one statement, and one computation for each set of deltas."""
        deltas = self._deltas_of(tenant_id, {ids for _, ids in runs})
        missing: dict[tuple[float, ...], set[Amount]] = {}
        with self._lock:
            known = {(cost, deltas[ids]): self._known.get((cost, deltas[ids])) for cost, ids in runs}
        for (cost, at), shown in known.items():
            if shown is None:
                missing.setdefault(at, set()).add(cost)
        found = {(cost, at): shown for at, costs in missing.items() for cost, shown in epsilons_of(costs, at).items()}
        with self._lock:
            self._known.update(found)
        return [found.get((cost, deltas[ids])) or known[cost, deltas[ids]] or [] for cost, ids in runs]

    def _deltas_of(self, tenant_id: UUID, sets: set[_Ids]) -> dict[_Ids, tuple[float, ...]]:
        with self._lock:
            deltas = {ids: self._deltas.get((tenant_id, ids)) for ids in sets}
        missing = [ids for ids, known in deltas.items() if known is None]
        if missing:
            with self._store.reading(tenant_id) as reading:
                books = reading.books.read({id_: ReadSet() for ids in missing for id_ in ids})
            budgets = {id_: dataset.budget for id_, dataset in books.datasets.items()}
            read = {ids: deltas_of(map(budgets.get, ids)) for ids in missing}
            with self._lock:
                self._deltas.update({(tenant_id, ids): found for ids, found in read.items()})
            deltas |= read
        return {ids: found for ids, found in deltas.items() if found is not None}

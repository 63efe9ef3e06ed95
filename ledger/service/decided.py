"""What this process decided lately, so that what happens next to a run needs no look-up before the writer's.

Only what never changes is remembered: who asked, the cost, and the entries that approved the run. Whether the run may
still start or settle is decided by the writer, on the row that it reads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from ledger.core.entries import Record
from ledger.core.runs import Run

RUNS_MAX: Final = 4_096
BYTES_MAX: Final = 8 * 1024 * 1024
"""Of the entries that are remembered, as they are written; in memory they take about three times as much."""


@dataclass(frozen=True, slots=True)
class Approved:
    """A run as it was approved, and the entries that approved it, in the order in which answers name its datasets."""

    run: Run
    decisions: Sequence[Record]
    size: int


class Decided:
    """Remembers approvals, those of the newest runs. Belongs to one event loop."""

    def __init__(self, *, runs_max: int = RUNS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._runs_max, self._bytes_max = runs_max, bytes_max
        self._known = OrderedDict[tuple[UUID, UUID], Approved]()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def add(self, tenant_id: UUID, approved: Approved) -> None:
        """Remember an approval; forget the oldest ones if there are too many."""
        if approved.size > self._bytes_max // 64:
            return  # one that is this large would push out too many others
        self._known[tenant_id, approved.run.id] = approved
        self._bytes += approved.size
        while len(self._known) > self._runs_max or self._bytes > self._bytes_max:
            _, oldest = self._known.popitem(last=False)
            self._bytes -= oldest.size

    def get(self, tenant_id: UUID, run_id: UUID) -> Approved | None:
        """Return what was approved, if it is remembered."""
        return self._known.get((tenant_id, run_id))

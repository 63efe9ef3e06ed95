"""Runs, and what they use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from ledger.core.amounts import Amount
from ledger.core.residual import Residual

BEGIN_WITHIN_US: Final = 3_600 * 1_000_000
"""How long a job may begin with a receipt by default; also for receipts of entries that do not record it."""
REFUSALS_PER_HOUR: Final = 600
"""How many refusals of one principal are recorded within an hour by default."""
RunStateName = Literal["held", "started", "settled", "voided", "refused"]
RunStateShown = Literal["held", "started", "settled", "voided", "refused", "waiting", "expired"]
"""The states of runs as answers name them: some wait for a steward, or did until their time was over, and are not
decided."""


class Place(NamedTuple):
    """Where in a dataset's journal a run was decided."""

    dataset_id: UUID
    seq: int


@dataclass(frozen=True, slots=True)
class Run:
    """The part of a run that can change, or decides what may happen to it. The rest is in its journal entries.

    places: one for each dataset that it touches; known when it is decided, and not read again. reported_us: when a
    number was reported that no budget could cover. r: how much mu² its approval left unspent, in units of 1e-12.
    corrections: how often its charge was corrected after it had ended.
    """

    id: UUID
    principal_id: UUID
    state: RunStateName
    cost: Amount | None
    created_us: int
    project: str | None = None
    started_us: int | None = None
    ended_us: int | None = None
    due_us: int | None = None
    places: tuple[Place, ...] = ()
    reported_us: int | None = None
    r: int = 0
    corrections: int = 0

    @property
    def is_reported(self) -> bool:
        """Return whether a reported number waits for a steward to confirm or correct it."""
        return self.state == "started" and self.reported_us is not None


@dataclass(frozen=True, slots=True)
class Use:
    """A dataset that a run touches.

    partitions: the names, or None for all that exist when it is decided; empty if the dataset has none. via: the named
    datasets by which it is reached; its own name if it is named itself.
    """

    dataset_id: UUID
    partitions: tuple[str, ...] | None
    via: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Excess:
    """What was executed beyond the plan, or repeated, costed as a run of its own.

    repeated: how many of its steps were repeated with the same units; None if that is not known. residual: its mu²
    beside what is left.
    """

    steps: int
    cost: Amount
    costing: Mapping[str, Any]
    repeated: int | None = 0
    residual: Residual | None = None

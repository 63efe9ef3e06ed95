"""What is alerted, and to whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

from ledger.core.datasets import Parent

AlertKind = Literal["threshold", "refusals", "overrun", "frozen", "overdue", "mismatch", "forecast", "head", "test"]
DeliveryState = Literal["pending", "delivered", "failed", "none"]


@dataclass(frozen=True, slots=True)
class Alerting:
    """What a tenant wants to be told of.

    thresholds: percent of a budget, rising. refusals_in_a_row: of one dataset; None is never. forecast_days: below how
    many days of budget left; None is never. webhook: where to; None is nowhere, and alerts are only listed. heads:
    whether the webhook is to keep the journals' heads too.
    """

    thresholds: tuple[int, ...] = (50, 80, 90, 95, 100)
    refusals_in_a_row: int | None = 3
    forecast_days: int | None = 30
    webhook: str | None = None
    heads: bool = False

    def facts(self) -> dict[str, Any]:
        """As it stands in its row."""
        return {
            "thresholds": list(self.thresholds),
            "refusals_in_a_row": self.refusals_in_a_row,
            "forecast_days": self.forecast_days,
            "webhook": self.webhook,
            "heads": self.heads,
        }


DEFAULT_ALERTING: Final = Alerting()


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that a tenant is told of, once under each `key`. `facts` are what its kind says besides.

    seq: of the entry that it tells of, in the dataset's journal.
    """

    kind: AlertKind
    key: tuple[str, ...]
    facts: Mapping[str, Any]
    dataset: Parent | None = None
    run_id: UUID | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class KeptAlert:
    """An alert as it is kept: the event, canonical JSON, and how far it came. next_us: when it is tried again."""

    id: UUID
    kind: AlertKind
    at_us: int
    body: str
    state: DeliveryState
    attempts: int
    next_us: int | None
    delivered_us: int | None
    failure: str | None

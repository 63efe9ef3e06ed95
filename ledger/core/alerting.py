"""Alerts: their settings, and their shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

from ledger.core.datasets import Parent

AlertKind = Literal[
    "threshold",
    "refusals",
    "overrun",
    "frozen",
    "overdue",
    "mismatch",
    "forecast",
    "head",
    "test",
    "proposal",
    "lapsing",
]
DeliveryState = Literal["pending", "delivered", "failed", "none"]


@dataclass(frozen=True, slots=True)
class Alerting:
    """Which alerts a tenant gets.

    thresholds: percent of a budget, rising. refusals_in_a_row: on one dataset; None: never. forecast_days: alert when
    fewer days of budget are left; None: never. webhook: where alerts go; None: they are only listed. heads: whether the
    webhook also gets the journals' heads.
    """

    thresholds: tuple[int, ...] = (50, 80, 90, 95, 100)
    refusals_in_a_row: int | None = 3
    forecast_days: int | None = 30
    webhook: str | None = None
    heads: bool = False

    def facts(self) -> dict[str, Any]:
        """Return the settings in the form of their row."""
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
    """An alert, raised once under each `key`. `facts` are further members of its kind.

    seq: the entry of the dataset's journal that it is about.
    """

    kind: AlertKind
    key: tuple[str, ...]
    facts: Mapping[str, Any]
    dataset: Parent | None = None
    run_id: UUID | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class KeptAlert:
    """A stored alert: the event, canonical JSON, and the state of its delivery. next_us: when it is tried again."""

    id: UUID
    kind: AlertKind
    at_us: int
    body: str
    state: DeliveryState
    attempts: int
    next_us: int | None
    delivered_us: int | None
    failure: str | None

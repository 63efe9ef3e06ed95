"""Alerting: set and show."""

from __future__ import annotations

from typing import Any

from ledger.core.alerting import Alerting, KeptAlert
from ledger.core.amounts import timestamp
from ledger.core.journal import chain
from ledger.errors import NotFound
from ledger.store import Reading


def shown(alert: KeptAlert) -> dict[str, Any]:
    """An alert as it is answered."""
    times = {"next_try_at": alert.next_us, "delivered_at": alert.delivered_us}
    return {
        "id": str(alert.id),
        "kind": alert.kind,
        "at": timestamp(alert.at_us),
        "event": chain.parse(alert.body),
        "delivery": {
            "state": alert.state,
            "tries": alert.attempts,
            "failure": alert.failure,
            **{name: None if at_us is None else timestamp(at_us) for name, at_us in times.items()},
        },
    }


def alerting_shape(reading: Reading) -> Alerting:
    """The alerting of the tenant."""
    tenant = reading.tenants.current()
    if tenant is None:
        raise NotFound("There is no such tenant.")
    return tenant.alerting

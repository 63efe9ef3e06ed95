"""The time as a test wants it, for the ledgers of its own process."""

from __future__ import annotations

from datetime import datetime

import pytest

from ledger.core.amounts import microseconds
from ledger.store import Reading


def set_clock(patched: pytest.MonkeyPatch, to: datetime) -> None:
    """The database's clock shows this time, and goes on from there."""
    real = Reading.now_us
    begun: dict[str, int] = {}

    def now_us(reading: Reading) -> int:
        now = real(reading)
        return microseconds(to) + now - begun.setdefault("at", now)

    patched.setattr(Reading, "now_us", now_us)

"""The time as a test wants it, for the ledgers of its own process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from uuid import UUID

import pytest

from ledger.core.amounts import microseconds
from ledger.core.people import Key
from ledger.store import Reading, Writing


def change_clock(patched: pytest.MonkeyPatch, shown: Callable[[int], int], *, to: type[Reading] = Reading) -> None:
    """The database's clock shows another time, in microseconds, to decisions and to these transactions."""
    clock, times = Reading.now_us, Writing.times_and_keys

    def both(writing: Writing, datasets: Iterable[UUID], keys: Iterable[UUID]) -> tuple[int, int, dict[UUID, Key]]:
        clock_us, newest_us, live = times(writing, datasets, keys)
        return shown(clock_us), newest_us, live

    patched.setattr(to, "now_us", lambda reading: shown(clock(reading)), raising=False)
    patched.setattr(Writing, "times_and_keys", both)


def set_clock(patched: pytest.MonkeyPatch, to: datetime) -> None:
    """The database's clock shows this time, and goes on from there."""
    begun: dict[str, int] = {}
    change_clock(patched, lambda now: microseconds(to) + now - begun.setdefault("at", now))

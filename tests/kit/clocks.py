"""The time as a test wants it, for the ledgers of its own process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from uuid import UUID

import pytest

from ledger.core.amounts import microseconds
from ledger.store import Reading, Writing


def change_clock(patched: pytest.MonkeyPatch, shown: Callable[[int], int]) -> None:
    """The database's clock shows another time, in microseconds, also to decisions."""
    clock, times = Reading.now_us, Writing.times

    def both(writing: Writing, dataset_ids: Iterable[UUID]) -> tuple[int, int]:
        clock_us, newest_us = times(writing, dataset_ids)
        return shown(clock_us), newest_us

    patched.setattr(Reading, "now_us", lambda reading: shown(clock(reading)))
    patched.setattr(Writing, "times", both)


def set_clock(patched: pytest.MonkeyPatch, to: datetime) -> None:
    """The database's clock shows this time, and goes on from there."""
    begun: dict[str, int] = {}
    change_clock(patched, lambda now: microseconds(to) + now - begun.setdefault("at", now))

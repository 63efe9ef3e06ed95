"""Clocks that jump: no time in a journal goes back, and it is shown."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta

import pytest

from ledger.service import health
from ledger.service.health import Health
from ledger.store.transactions import Writing
from tests.kit.driver import Ledger
from tests.kit.scene import ok

SECOND_US = 1_000_000


class Passing:
    """The time that passes, as a process measures it; a test sets it."""

    def __init__(self) -> None:
        self.us = 0

    def monotonic_ns(self) -> int:
        return self.us * 1000

    def monotonic(self) -> float:
        return self.us / SECOND_US


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Passing:
    """What `health` measures with."""
    made = Passing()
    monkeypatch.setattr(health, "time", made)
    return made


@pytest.mark.parametrize("jump_seconds", [3600, -3600, 86_400, 6, -6])
def test_a_clock_that_jumps_is_remarked_on_for_an_hour(passing: Passing, jump_seconds: int) -> None:
    """Goal: a jump is shown for an hour, and a clock that only drifts is not. Method: clocks beside the time that
    passes."""
    watched = Health()
    for passing.us in range(0, 100 * SECOND_US, SECOND_US):
        watched.saw(passing.us + passing.us // 1000, 0)  # a clock that gains a thousandth
    assert watched.remark is None
    watched.saw(passing.us + jump_seconds * SECOND_US, 0)
    assert f"jumped by {jump_seconds:+d} seconds" in str(watched.remark)
    passing.us += 3601 * SECOND_US
    assert str(watched.remark) == "None"


def test_a_journal_ahead_of_the_clock(passing: Passing) -> None:
    """Goal: that is shown as long as it is so. Method: a newest entry an hour ahead, and later none."""
    watched = Health()
    watched.saw(0, 3600 * SECOND_US)
    assert "3600 seconds ahead" in (watched.remark or "")
    passing.us += 3601 * SECOND_US
    watched.saw(passing.us, passing.us)
    assert watched.remark is None


def test_times_in_a_journal_never_go_back(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: after a clock that was a day ahead, entries keep their order in time, /readyz says why, and nobody waits
    for longer than the window of a limit. Method: the database's clock is moved, there and back, between decisions."""
    shift = {"us": 0}
    plain = Writing.times_and_keys

    def shifted(writing: Writing, *given: object) -> object:
        clock_us, newest_us, keys = plain(writing, *given)  # type: ignore[arg-type]
        return clock_us + shift["us"], newest_us, keys

    monkeypatch.setattr(Writing, "times_and_keys", shifted)
    ledger.register()
    ok(ledger.put("/v1/datasets/mnist/fair-use", {"runs_per_hour": 2, "reason": "share"}))
    waits = []
    for hours in (0, 24, 0, -1, 0):
        shift["us"] = hours * 3600 * SECOND_US
        answer = ledger.ask()
        if answer.status_code == 429:
            waits.append(int(answer.headers["retry-after"]))
        else:
            ok(answer)
    assert waits
    assert all(1 <= seconds <= 3601 for seconds in waits)
    remarks = ok(ledger.get("/readyz"))["warnings"]
    assert any("jumped" in remark or "ahead" in remark for remark in remarks)
    entries = ok(ledger.get("/v1/datasets/mnist/entries"))["items"]
    times = [datetime.fromisoformat(entry["entry"]["at"]) for entry in entries]
    assert len(times) >= 4
    assert all(before <= after for before, after in itertools.pairwise(times))
    assert times[-1] - times[0] > timedelta(hours=23)

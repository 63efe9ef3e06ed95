"""The loop that works beside the requests: when its turns come, that errors do not end it, and how it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from queue import SimpleQueue

import pytest

from ledger.background import Background

SECONDS = 30.0
NEVER_SECONDS = 3600.0


class Turns:
    """Records turns, by whether everything was due."""

    def __init__(self) -> None:
        self.taken: SimpleQueue[bool] = SimpleQueue()

    def __call__(self, is_due: bool) -> None:
        self.taken.put(is_due)

    def next(self) -> bool:
        return self.taken.get(timeout=SECONDS)


@contextmanager
def running(background: Background) -> Iterator[Background]:
    """Started, and closed at the end."""
    background.start()
    with closing(background):
        yield background


def test_turns_come_when_woken_and_when_due() -> None:
    """Goal: a turn knows why it comes. Method: one loop that is only woken, one that is due again and again, and one
    that is due at once."""
    turns = Turns()
    with running(Background("woken", turns, every_seconds=NEVER_SECONDS)) as background:
        for _ in range(3):
            background.wake()
            assert turns.next() is False
    with running(Background("due", turns, every_seconds=0.01)):
        assert [turns.next() for _ in range(3)] == [True] * 3
    turns = Turns()
    with running(Background("first", turns, every_seconds=NEVER_SECONDS, is_due_at_start=True)):
        assert turns.next() is True
    assert turns.taken.empty()


def test_being_woken_does_not_put_off_what_is_due() -> None:
    """Goal: what comes every so often comes in a busy process too. Method: woken at every turn, all the time."""
    turns = Turns()

    def turn(is_due: bool) -> None:
        turns(is_due)
        background.wake()

    background = Background("busy", turn, every_seconds=0.05)
    background.wake()
    with running(background):
        while not turns.next():
            pass


def test_one_turn_serves_what_woke_it_meanwhile() -> None:
    """Goal: many changes are one turn. Method: a turn is held while the loop is woken 100 times; one more comes."""
    taken, go_on = Turns(), threading.Event()

    def turn(is_due: bool) -> None:
        taken(is_due)
        assert go_on.wait(SECONDS)

    with running(Background("held", turn, every_seconds=NEVER_SECONDS)) as background:
        background.wake()
        taken.next()
        for _ in range(100):
            background.wake()
        go_on.set()
        taken.next()
    assert taken.taken.empty()


def test_an_error_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Goal: one bad turn is not the last. Method: a turn that raises, then one that does not."""
    turns = Turns()

    def turn(is_due: bool) -> None:
        turns(is_due)
        raise OSError("no space")

    with running(Background("clumsy", turn, every_seconds=NEVER_SECONDS)) as background:
        for _ in range(2):
            background.wake()
            turns.next()
    assert [record.getMessage() for record in caplog.records] == ["a turn of clumsy failed"] * 2


@pytest.mark.parametrize("started", [True, False])
def test_closing_is_at_once_where_nothing_is_under_way(started: bool) -> None:
    """Goal: a process ends soon. Method: closing a loop that waits an hour, for its next turn and to gather."""
    turns = Turns()
    background = Background("idle", turns, every_seconds=NEVER_SECONDS, gather_seconds=NEVER_SECONDS)
    if started:
        background.start()
        background.wake()
    begun = time.monotonic()
    assert background.close()
    assert time.monotonic() - begun < SECONDS
    assert background.is_closing
    assert turns.taken.empty()


def test_closing_waits_no_longer_than_it_may(caplog: pytest.LogCaptureFixture) -> None:
    """Goal: a turn that hangs does not keep a process alive. Method: a turn that is held beyond the time to close."""
    begun, go_on = threading.Event(), threading.Event()

    def turn(_is_due: bool) -> None:
        begun.set()
        assert go_on.wait(SECONDS)

    background = Background("slow", turn, every_seconds=NEVER_SECONDS, is_due_at_start=True)
    background.start()
    assert begun.wait(SECONDS)
    assert not background.close(seconds_max=0.01)
    assert [record.getMessage() for record in caplog.records] == ["slow did not end within 0.01 seconds"]
    go_on.set()
    assert background.close()
    assert len(caplog.records) == 1

"""A run around the training loop of another library: begun by one process, and settled once."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ledger.client import Gaussian
from ledger.client import Ledger as Client
from ledger.client.attached import Attached, Unfinished
from ledger.errors import RunState
from tests.client.test_starts import elsewhere
from tests.kit.clients import connect
from tests.kit.driver import Ledger

RELEASES = Gaussian(noise_multiplier=50, count=4)


class Loop(Attached):
    """A loop that releases four times."""

    name = "loop"

    def at_end(self) -> dict[str, Any]:
        return {"released": self.run.steps_here}


def attach(client: Client, **options: Any) -> Loop:
    """A loop whose run has begun."""
    loop = Loop("mnist", client, options)
    loop.begin(RELEASES, {"libraries": {"loop": "1"}})
    return loop


def test_a_training_is_settled_once(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: whether it is finished, left by `with`, or ended with its process, a training is settled once, with what
    was recorded at its beginning and end; an early end is one line of the log."""
    with caplog.at_level(logging.WARNING, "ledger.client"), attach(client) as loop:
        loop.run.step(3)
        loop.finish()
    loop._end()
    settled = client.run_info(loop.run.id)["settled"]
    recorded = {"libraries": {"loop": "1"}, "resumed": False, "released": 3}
    differences = ["3 of 4 approved steps were executed"]
    assert settled["evidence"]["loop"] == {**recorded, "differences": differences}
    assert [r.getMessage() for r in caplog.records].count(f"Run {loop.run.id}: {differences[0]}.") == 1
    died = attach(client)
    died.run.step(2)
    died._end()
    assert died.is_over
    assert client.run_info(died.run.id)["settled"]["steps"] == 3  # one may have begun that was not counted
    assert issubclass(Unfinished, Exception)


def test_a_run_that_another_host_started_is_not_trained(ledger: Ledger, client: Client) -> None:
    """Goal: an integration stops before any step if another process started its run, and settles nothing; one that is
    let go can be taken up here."""
    first = attach(client, idempotency_key="job")
    first.run.step(1)
    with elsewhere(), connect(ledger) as other, pytest.raises(RunState, match="by another process"):
        attach(other, idempotency_key="job")
    assert client.run_info(first.run.id)["state"] == "started"
    first.let_go()
    with attach(client, idempotency_key="job") as again:
        assert again.run.id == first.run.id
        again.run.step(again.steps_left)
    assert client.run_info(first.run.id)["settled"]["steps"] == 4

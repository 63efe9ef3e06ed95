"""What trackers log of a run, without any tracker: `make test-integrations` tests the real ones."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections.abc import Callable
from typing import Any

import pytest

from ledger.client import DPSGD, ApproximateDP, Gaussian, Run, receipt_digest
from ledger.client import Ledger as Client
from ledger.client.trackers import log_to_mlflow, log_to_trackio, log_to_wandb
from ledger.client.trackers.facts import facts_of
from ledger.client.trackers.linked import link
from ledger.errors import Misconfigured
from tests.kit.clients import connect, connect_async
from tests.kit.driver import Ledger

RELEASES = Gaussian(noise_multiplier=10, count=4)


def test_only_what_is_known_is_logged(client: Client) -> None:
    """Goal: while a run trains there is no charge, no epsilon of it and no 0 in place of them; once it is settled they
    are those of what it executed. Method: two of four releases; the closed form of composed Gaussians."""
    with client.run(datasets=["mnist"], mechanism=RELEASES) as run:
        before = facts_of(run, client)
        run.step(2)
    assert before.texts == {
        "privacy_ledger/run": run.id,
        "privacy_ledger/decision": "approved",
        "privacy_ledger/datasets": "mnist",
        "privacy_ledger/receipt_sha256": receipt_digest(str(run.receipt)),
        "privacy_ledger/state": "started",
    }
    planned = [f"privacy_ledger/planned_epsilon_at_delta_{delta}" for delta in ("1e-05", "1e-06")]
    names = ["cost_mu", "cost_delta", "planned_steps", "cost_percent"]
    assert set(before.numbers) == {*(f"privacy_ledger/{name}" for name in names), *planned}
    assert before.numbers["privacy_ledger/cost_percent"] == pytest.approx(4)  # of mu², whose limit is 1
    after = facts_of(run, client)
    assert after.texts["privacy_ledger/state"] == "settled"
    assert after.numbers["privacy_ledger/charged_mu"] == pytest.approx(0.1 * math.sqrt(2))
    assert after.numbers["privacy_ledger/charged_percent"] == pytest.approx(2)
    assert after.numbers["privacy_ledger/steps"] == 2
    answer = client.evaluate(mechanism=Gaussian(noise_multiplier=10, count=2), bound="clt", report_deltas=[1e-5])
    assert after.numbers["privacy_ledger/epsilon_at_delta_1e-05"] == pytest.approx(answer["epsilon"][0]["value"])
    assert after.receipt == run.receipt


def test_infinity_is_left_out(ledger: Ledger) -> None:
    """Goal: an epsilon that is infinite at a delta of the budget is not logged, at the others it is."""
    ledger.register(budget={"mu": 1, "delta": 1e-6})
    assert ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 1, "delta": 9e-6}, "reason": "r"}).is_success
    mechanism = ApproximateDP(epsilon=0.1, delta=5e-6)
    with connect(ledger) as client:
        with client.run(datasets=["mnist"], mechanism=mechanism) as run:
            run.step()
        numbers = facts_of(run, client).numbers
    assert {name for name in numbers if "epsilon" in name} == {
        "privacy_ledger/planned_epsilon_at_delta_1e-05",
        "privacy_ledger/epsilon_at_delta_1e-05",
    }


def test_an_overrun_beside_what_is_left_has_no_epsilon(ledger: Ledger) -> None:
    """Goal: what was executed beyond the plan is charged less than it costs alone, so no epsilon is claimed for all of
    it. Method: a run with residual costs that executes half as much again."""
    ledger.register(bound="certified", budget={"epsilon": 3, "at_delta": 1e-5})
    mechanism = DPSGD(noise_multiplier=4, sample_rate=0.01, steps=100)
    with connect(ledger) as client:
        with client.run(datasets=["mnist"], mechanism=mechanism, allow_overrun=True) as run:
            run.step(150)
        numbers = facts_of(run, client).numbers
    assert numbers["privacy_ledger/overrun_steps"] == 50
    assert numbers["privacy_ledger/planned_epsilon_at_delta_1e-05"] > 0
    assert not [name for name in numbers if name.startswith("privacy_ledger/epsilon")]


def test_it_is_logged_again_when_the_run_has_ended(
    client: Client, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: one call logs at the start and at the end, also after an exception of the training code; a tracker that
    fails at the end costs a warning, and one that fails at the start raises before data is used."""
    states: list[str] = []

    def log(facts: Any) -> None:
        states.append(facts.texts["privacy_ledger/state"])
        if len(states) % 2 == 0:
            raise OSError("the disk is full")

    with caplog.at_level(logging.WARNING), client.run(datasets=["mnist"], mechanism=RELEASES) as run:
        link(run, None, log)
        run.step(4)
    assert states == ["started", "settled"]
    assert f"Run {run.id} has ended. Afterwards a function in at_end failed: the disk is full" in caplog.text
    with pytest.raises(ZeroDivisionError):
        _failing(client, log)
    assert states[2:] == ["started", "settled"]
    link(run, None, log)
    assert (states[4:], len(run.at_end)) == (["settled"], 1)


def _failing(client: Client, log: Callable[[Any], object]) -> None:
    with client.run(datasets=["mnist"], mechanism=RELEASES) as run:
        link(run, None, log)
        raise ZeroDivisionError


async def _asynchronous(ledger: Ledger) -> list[str]:
    states = []
    async with connect_async(ledger) as client, client.run(datasets=["mnist"], mechanism=RELEASES) as run:
        link(run, None, lambda facts: states.append(facts.texts["privacy_ledger/state"]))
        run.step(4)
    return states


def test_the_asynchronous_client_logs_too(ledger: Ledger) -> None:
    """Goal: both clients call what waits for the end."""
    ledger.register()
    assert asyncio.run(_asynchronous(ledger)) == ["started", "settled"]


@pytest.mark.parametrize(
    ("package", "log"), [("mlflow", log_to_mlflow), ("wandb", log_to_wandb), ("trackio", log_to_trackio)]
)
def test_a_missing_library_is_named(
    client: Client, package: str, log: Callable[[Run], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: without the tracker's library there is one clear error, when it is used and not before."""
    monkeypatch.setitem(sys.modules, package, None)
    with client.run(datasets=["mnist"], mechanism=RELEASES) as run:
        with pytest.raises(Misconfigured, match=f"The package {package} is missing. Install it: pip install {package}"):
            log(run)
        run.step(4)

"""The life of a run around training code: how it begins, how it ends, and what it says when it is settled."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import numpy as np
import pytest

from ledger import errors
from ledger.client import (
    DPSGD,
    GDP,
    AsyncLedger,
    BudgetExceeded,
    Gaussian,
    Overrun,
    PartitionsClosed,
    PlanExceeded,
    RateLimited,
    Run,
    UnitMismatch,
)
from ledger.client import Ledger as Client
from ledger.client.mechanisms import planned_steps
from ledger.client.starts import is_over
from ledger.settings import Settings
from tests.kit.clients import (
    COST,
    RELEASE,
    SGD,
    URL,
    Bridge,
    Faults,
    connect,
    connect_async,
    copied,
    died,
    kinds,
    raise_after,
)
from tests.kit.driver import MNIST, Ledger, Served, first_keys


def test_a_run_is_settled_as_planned(ledger: Ledger, client: Client) -> None:
    """Goal: entering asks and starts, leaving settles with the evidence; the run knows its cost and what is left."""
    with client.run(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=5, count=3), purpose="counts") as run:
        assert client.run_info(run.id)["state"] == "started"
        assert (run.cost["mu_sq_pico"], run.planned_steps, run.is_resumed) == (str(3 * COST), 3, False)
        assert run.remaining == {"mnist": ledger.get("/v1/datasets/mnist").json()["balance"]["remaining"]}
        assert ledger.balance()["remaining"] == (10**12 - 3 * COST, 0)
        for _ in range(3):
            run.step()
        run.evidence["counts"] = [17, 4, 22]
        assert (run.steps, run.settled) == (3, None)
    shown = client.run_info(run.id)
    assert (shown["state"], shown["settled"]["steps"]) == ("settled", 3)
    assert shown["settled"]["evidence"] == {"counts": [17, 4, 22]}
    assert run.settled is not None
    assert run.settled["charged"]["mu_sq_pico"] == str(3 * COST)
    assert kinds(ledger) == ["dataset-registered", "run-approved", "run-started", "run-settled"]


PROVED = GDP(mu=0.2, evidence="Theorem 3")
CLICKS = {**MNIST, "name": "clicks", "privacy_unit": "user-month"}


@pytest.mark.parametrize(
    ("mechanism", "counted", "is_failure", "said"),
    [
        (RELEASE, 0, False, {}),
        (RELEASE, 1, False, {"steps": 1}),
        (RELEASE, 0, True, {"stop": "data_dependent"}),
        (RELEASE, 1, True, {"steps": 1}),
        (RELEASE, 2, False, {"steps": 2}),
        (RELEASE, 2, True, {"steps": 2}),
        (SGD, 0, False, {}),
        (SGD, 0, True, {"stop": "data_dependent"}),
        (SGD, 12, False, {"steps": 12}),
        (SGD, 13, False, {"steps": 13}),
        (SGD, 5, False, {"steps": 5}),
        (SGD, 5, True, {"steps": 6}),
        (SGD, 13, True, {"steps": 13}),
        (SGD, 14, True, {"steps": 14}),
        (PROVED, 0, False, {}),
        (PROVED, 7, False, {}),
        (PROVED, 7, True, {"stop": "data_dependent"}),
    ],
    ids=str,
)
def test_what_is_said_when_settling(mechanism: Any, counted: int, is_failure: bool, said: dict[str, Any]) -> None:
    """Goal: never less than was executed: all of it where nothing was counted; after an exception the step that was
    under way counts too."""
    sent = settled_with(mechanism, counted=counted, is_failure=is_failure)
    # One process began it and ends it, so that no step was repeated; where there are none there is nothing to say.
    assert sent == (said if mechanism is PROVED else said | {"restarts": []})


@pytest.mark.parametrize(
    ("is_resumed", "steps_done", "counted", "said"),
    [
        (True, None, 0, {}),
        (True, None, 5, {"steps": 18}),
        (True, None, 14, {"steps": 27}),
        (True, 8, 5, {"steps": 13}),
        (True, 8, 2, {"steps": 10}),
        (True, 8, 0, {}),
        (True, 20, 0, {"steps": 20}),
        (True, 0, 5, {"steps": 5}),
        (False, 8, 5, {"steps": 13}),
    ],
)
def test_what_a_restarted_job_says(
    is_resumed: bool, steps_done: int | None, counted: int, said: dict[str, Any]
) -> None:
    """Goal: the steps of earlier processes count as told; where they are unknown, the whole plan counts as executed."""
    resumed: dict[str, Any] = {"counted": counted, "is_resumed": is_resumed, "steps_done": steps_done}
    assert settled_with(SGD, **resumed) == said
    again = [{"from_step": 3, "to_step": 4, "new_batches": False}]
    assert settled_with(SGD, **resumed, restarts=again) == said | {"restarts": again}
    assert settled_with(SGD, **resumed, restarts=[]) == said | {"restarts": []}


def settled_with(
    mechanism: Any,
    *,
    counted: int,
    is_failure: bool = False,
    is_resumed: bool = False,
    steps_done: int | None = None,
    restarts: Any = None,
) -> dict[str, Any]:
    """What a run says when it is left."""
    run = Run(
        STARTED,
        planned=planned_steps(mechanism),
        steps_done=steps_done,
        is_resumed=is_resumed,
        restarts=restarts,
        allows_overrun=True,
    )
    for _ in range(counted):
        run.step()
    return run.settlement(is_failure=is_failure)


def test_a_step_beyond_the_plan_raises(ledger: Ledger, client: Client) -> None:
    """Goal: a run stops at its plan, before the data is touched, and is settled for the plan alone; several steps at
    once count all or none; what has no number of steps is never stopped; nor is a run that may go on."""
    planned: dict[str, Any] = {"datasets": ["mnist"], "mechanism": Gaussian(noise_multiplier=5, count=3)}
    executed: list[int] = []

    def train(run: Run) -> None:
        while True:
            run.step()
            executed.append(run.steps)

    with pytest.raises(PlanExceeded) as caught, client.run(**planned) as run:
        train(run)
    assert (executed, run.steps, caught.value.facts) == ([1, 2, 3], 3, {"step": 4, "planned": 3})
    for part in ("Step 4 is beyond the plan of 3.", "do not execute it", "allow_overrun=True"):
        assert part in str(caught.value)
    shown = client.run_info(run.id)
    assert (shown["settled"]["steps"], shown["settled"]["charged"], "overrun" in shown["settled"]) == (
        3,
        shown["cost"],
        False,
    )
    assert ledger.balance()["spent"] == (3 * COST, 0)
    with client.run(**planned) as run:
        run.step(2)
        with pytest.raises(PlanExceeded):
            run.step(2)
        assert run.steps == 2
        run.step()
    with client.run(**planned, segments=1, steps_done=2) as run:
        run.step()
        with pytest.raises(PlanExceeded):
            run.step()
    with client.run(datasets=["mnist"], mechanism=PROVED) as run:
        run.step(1_000_000)


def test_the_plan_leaves_room_for_steps_that_are_run_again() -> None:
    """Goal: steps that are stated to be run again are no steps beyond the plan, unless they draw new batches."""
    again = {"from_step": 3, "to_step": 5, "new_batches": False}
    for restarts, most in (([again], 12), ([again, again], 15), ([{**again, "new_batches": True}], 9), ([], 9)):
        run = Run(STARTED, planned=(9, 9), steps_done=5, is_resumed=True, restarts=restarts)
        run.step(most - 5)
        with pytest.raises(PlanExceeded):
            run.step()
        assert run.steps == most


class Sampler:
    """Batches without end, and how many were drawn."""

    drawn = 0

    def __iter__(self) -> Iterator[int]:
        while True:
            self.drawn += 1
            yield self.drawn

    async def __aiter__(self) -> AsyncIterator[int]:
        for batch in self:
            await asyncio.sleep(0)
            yield batch


def test_a_loop_over_batches_ends_with_the_plan(client: Client) -> None:
    """Goal: no batch beyond the plan is drawn, over as many epochs as there are; and each that was drawn counts, also
    the one that the loop was left at or that failed, once. Method: an endless sampler, and lists as epochs."""
    three = Gaussian(noise_multiplier=20, count=3)
    with client.run(datasets=["mnist"], mechanism=three) as run:
        sampler = Sampler()
        assert [*run.batches(sampler)] == [1, 2, 3]
        assert ([*run.batches(sampler)], sampler.drawn) == ([], 3)
    assert client.run_info(run.id)["settled"]["steps"] == 3
    with client.run(datasets=["mnist"], mechanism=three) as run:
        assert [batch for _ in range(5) for batch in run.batches("ab")] == ["a", "b", "a"]
    with client.run(datasets=["mnist"], mechanism=three) as run:
        for _ in run.batches(sampler):
            break
    assert client.run_info(run.id)["settled"]["steps"] == 1
    with pytest.raises(ZeroDivisionError), client.run(datasets=["mnist"], mechanism=three) as run:
        assert [batch / 0 for batch in run.batches(sampler)] == []
    assert client.run_info(run.id)["settled"]["steps"] == 1
    with client.run(datasets=["mnist"], mechanism=three, allow_overrun=True) as run:
        assert len([*run.batches(range(5))]) == 5
    assert run.settled is not None
    assert run.settled["overrun"]["steps"] == 2


def test_a_sampler_that_fails() -> None:
    """Goal: a step whose batch never came is not counted, and the error passes; what may have been under way is."""
    run = Run(STARTED, planned=(9, 9), steps_done=None, is_resumed=False)

    def sampler() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk"):
        for _ in run.batches(sampler()):
            pass
    assert (run.steps, run.settlement(is_failure=True)) == (1, {"steps": 2, "restarts": []})


def test_asynchronous_batches_end_with_the_plan(ledger: Ledger) -> None:
    """Goal: the same on an event loop, by `step()` and by `async for`."""
    ledger.register(size=100)

    async def work() -> None:
        async with connect_async(ledger) as client:
            sampler = Sampler()
            three = Gaussian(noise_multiplier=20, count=3)
            async with client.run(datasets=["mnist"], mechanism=three) as run:
                assert [batch async for batch in run.async_batches(sampler)] == [1, 2, 3]
                assert ([batch async for batch in run.async_batches(sampler)], sampler.drawn) == ([], 3)
            assert (await client.run_info(run.id))["settled"]["steps"] == 3
            with pytest.raises(PlanExceeded):
                async with client.run(datasets=["mnist"], mechanism=RELEASE) as run:
                    run.step(2)
            async with client.run(datasets=["mnist"], mechanism=RELEASE, allow_overrun=True) as run:
                run.step(2)
            assert run.settled is not None
            assert run.settled["overrun"]["steps"] == 1

    asyncio.run(work())


def test_when_a_receipt_is_over() -> None:
    """Goal: a start that is answered again long after is seen to be, by this machine's clock; an older server's has no
    such time."""
    for begin_by, is_past in ((datetime.now(UTC) - timedelta(seconds=1), True), (datetime(3000, 1, 1), False)):  # noqa: DTZ001
        assert is_over({"begin_by": begin_by.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}) == is_past
    assert not is_over({})


STARTED = {"id": "a", "cost": {}, "datasets": []}


def test_leaving_early_by_break(ledger: Ledger, client: Client) -> None:
    """Goal: a loop that ends early settles for the steps executed, and DP-SGD is charged in full all the same."""
    with client.run(datasets=["mnist"], mechanism=SGD) as run:
        for _ in range(12):
            run.step()
            if run.steps == 5:
                break
    shown = client.run_info(run.id)
    assert (shown["state"], shown["settled"]["steps"]) == ("settled", 5)
    assert shown["settled"]["charged"] == shown["cost"]
    assert ledger.balance()["held"] == (0, 0)


def test_leaving_early_by_an_exception(client: Client) -> None:
    """Goal: whatever ends the training code ends the run, and passes unchanged."""
    for error in (ValueError("not a number"), KeyboardInterrupt(), SystemExit(1)):
        with pytest.raises(type(error)) as caught, client.run(datasets=["mnist"], mechanism=SGD) as run:
            raise_after(run, 5, error)
        assert caught.value is error
        assert not hasattr(error, "__notes__")
        shown = client.run_info(run.id)
        assert (shown["state"], shown["settled"]["steps"]) == ("settled", 6)
        assert shown["settled"]["charged"] == shown["cost"]


def test_a_release_that_may_have_happened_is_charged(ledger: Ledger, client: Client) -> None:
    """Goal: an exception before the first step() settles in full: nobody knows whether noise was drawn."""
    with pytest.raises(OSError, match="disk"), client.run(datasets=["mnist"], mechanism=RELEASE):
        raise OSError("the disk is full")
    assert ledger.balance()["spent"] == (COST, 0)


def test_a_refused_run_touches_nothing(ledger: Ledger, client: Client) -> None:
    """Goal: BudgetExceeded comes before the block is entered, with its facts at hand and in one line of prose."""
    entered = False
    with (
        pytest.raises(BudgetExceeded) as caught,
        client.run(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=0.5, count=1)),
    ):
        entered = True
    refused = caught.value
    assert not entered
    assert isinstance(refused, errors.BudgetExceeded)
    percents = {"percent_requested": 400.0, "percent_remaining": 100.0}
    binding = {"name": "mnist", "quantity": "mu", "requested": 2.0, "remaining": 1.0, "limit": 1.0, **percents}
    assert refused.datasets == [binding]
    assert refused.fits == {"noise_multiplier": 1.0}
    assert client.run_info(refused.run)["state"] == "refused"
    assert str(refused) == (
        "The run does not fit. It exceeds the budget of mnist: it needs 400 % of the budget, and 100 % is left (it"
        " needs mu 2, and 1 of 1 is left). By itself it has epsilon 10 at delta 1e-05. This would fit:"
        " noise_multiplier=1.0. What is held comes back when runs are voided or end early; what is spent never does."
        " A steward can set a larger budget."
    )
    assert kinds(ledger) == ["dataset-registered", "run-refused"]


def test_more_steps_than_planned_are_charged_besides(
    ledger: Ledger, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: an overrun is never hidden and never free: where it fits, the answer and a warning say so; where it does
    not, Overrun is raised once that is recorded, or is a note on the training code's own exception."""
    allowed: dict[str, Any] = {"datasets": ["mnist"], "mechanism": RELEASE, "allow_overrun": True}
    with client.run(**allowed) as run:
        run.step(3)
    assert run.settled is not None
    assert (run.settled["overrun"]["steps"], run.settled["charged"]["mu_sq_pico"]) == (2, str(3 * COST))
    assert [record.levelname for record in caplog.records if run.id in record.message] == ["WARNING"]

    with pytest.raises(Overrun) as caught, client.run(**allowed) as run:
        run.step(26)
    overrun = caught.value
    assert (overrun.run, overrun.frozen, overrun.charged["mu_sq_pico"]) == (run.id, ["mnist"], str(26 * COST))
    (drawn,) = overrun.datasets
    assert (drawn["name"], drawn["quantity"], drawn["limit"], drawn["held"]) == ("mnist", "mu", 1, 0)
    assert str(overrun) == (
        "25 steps more than planned were executed. They are charged mu 1, as a run of their own. In all the run is"
        " charged 104 % of the budget. "
        "That does not fit. Frozen until a steward thaws it: mnist."
    )
    assert any("26 steps" in note and "settled" in note for note in overrun.__notes__)
    assert run.settled is not None
    assert (run.settled["state"], client.run_info(run.id)["state"]) == ("settled", "settled")
    assert ledger.balance()["spent"] == (29 * COST, 0)
    assert (str(copied(overrun)), copied(overrun).frozen) == (str(overrun), ["mnist"])
    with pytest.raises(Overrun) as again:
        client.settle(run.id, steps=26, restarts=[])
    assert again.value.facts == overrun.facts

    ledger.patch("/v1/datasets/mnist", {"state": "active", "reason": "a look was had"})
    ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 2.1}, "reason": "for what was done"})
    with pytest.raises(ValueError, match="mine") as mine, client.run(**allowed) as run:
        raise_after(run, 100, ValueError("mine"))
    assert any(run.id in note and "100 steps" in note for note in mine.value.__notes__)


def test_what_no_budget_could_cover_waits_for_a_steward(ledger: Ledger, client: Client) -> None:
    """Goal: whoever reports a number that ends a dataset is told that it is not charged yet, and a steward corrects or
    confirms it."""
    with connect(ledger.as_("requester")) as job:
        with (
            pytest.raises(Overrun, match="stays held in full") as caught,
            job.run(datasets=["mnist"], mechanism=RELEASE, allow_overrun=True) as run,
        ):
            run.step(1000)
        assert (caught.value.state, caught.value.charged, caught.value.frozen) == ("started", {}, ["mnist"])
        assert any("needs a steward's decision" in note for note in caught.value.__notes__)
        assert client.correct(run.id, steps=1, reason="a slip")["charged"]["mu_sq_pico"] == str(COST)
        client.change("mnist", state="active", reason="it was a slip")
        asked = job.ask(datasets=["mnist"], mechanism=RELEASE)["id"]
        job.start(asked)
        with pytest.raises(Overrun):
            job.settle(asked, steps=1000)
        assert client.confirm(asked, reason="the log has every step")["overrun"]["steps"] == 999


def test_leaving_between_segments_is_cheaper(ledger: Ledger, client: Client) -> None:
    """Goal: what segments are for: a run that stops because of what it saw pays for those it began. Method: shuffled
    epochs by the rule of full batches, whose cost is exact: 4 epochs in 2 segments, left in the second, the first and
    at the end of the last."""
    mechanism = DPSGD(noise_multiplier=20, sampling="shuffle", dataset_size=100, batch_size=10, epochs=Decimal("3.5"))
    spent = 0
    for steps, segments in ((7, 1), (20, 1), (21, 2), (35, 2), (40, 2)):
        with client.run(datasets=["mnist"], mechanism=mechanism, segments=2) as run:
            assert run.planned_steps == 40, "to the end of the last segment"
            run.step(steps)
        assert run.settled is not None
        spent += segments * 2 * 2_500_000_000
        # Epochs are complete releases of their own, so that even less than a segment is sound here.
        assert int(run.settled["charged"]["mu_sq_pico"]) <= segments * 2 * 2_500_000_000
    assert ledger.balance()["spent"][0] <= spent
    sgd = DPSGD(noise_multiplier=10, sample_rate=0.1, steps=90)
    with client.run(datasets=["mnist"], mechanism=sgd, segments=3) as run:
        run.step(31)
    assert run.settled is not None
    one = int(client.run_info(run.id)["segments"]["cost"]["mu_sq_pico"])
    assert 2 * one - 2 <= int(run.settled["charged"]["mu_sq_pico"]) <= 2 * one
    with client.run(datasets=["mnist"], mechanism=sgd, segments=1) as run:
        run.step(31)
    assert run.settled is not None
    assert run.settled["charged"] == run.cost


def test_a_run_over_partitions_and_what_is_derived(ledger: Ledger, client: Client) -> None:
    """Goal: partitions, projects and origins through the client: what is named is charged, nothing else is, and a
    derived dataset has nothing left to show."""
    client.register(**{**CLICKS, "partitions": ["2026-10"], "size": None})
    assert client.add_partitions("clicks", ["2026-11"], disjoint=True)["items"][0]["name"] == "2026-11"
    client.register(name="no-bots", derived_from=[{"name": "clicks", "unit_preserving": True}])
    client.set_project("clicks", "ranking", budget={"mu": 0.3})
    use = {"name": "no-bots", "partitions": ["2026-11"]}
    with client.run(datasets=[use], mechanism=RELEASE, project="ranking") as run:
        run.step()
    assert list(run.remaining) == ["no-bots", "clicks"]
    assert run.remaining["no-bots"] is None
    assert run.remaining["clicks"] is not None
    assert run.remaining["clicks"]["mu_sq_pico"] == str(9 * 10**10 - COST)
    spent = {part["name"]: part["balance"]["spent"]["mu_sq_pico"] for part in client.partitions("clicks")}
    assert spent == {"2026-10": "0", "2026-11": str(COST)}
    planned = client.plan(datasets=["clicks"], mechanism=Gaussian(noise_multiplier=5, count=2), project="ranking")
    assert (planned["fits"], planned["binding"][0]["partition"]) == (False, "2026-11")
    assert client.plan(datasets=["clicks"], mechanism=SGD, segments=3)["segments"]["count"] == 3
    with pytest.raises(BudgetExceeded) as caught:
        client.ask(datasets=[use], mechanism=Gaussian(noise_multiplier=4), project="ranking")
    assert [(item["partition"], item["project"]) for item in caught.value.datasets] == [("2026-11", "ranking")]
    assert "the share of project ranking in clicks, partition 2026-11" in str(caught.value)
    assert [run["project"] for run in client.runs(project="ranking")] == ["ranking"] * 2


def test_what_cannot_go_together_is_its_exception(ledger: Ledger, client: Client) -> None:
    """Goal: each new refusal of the server is the class that says it."""
    with pytest.raises(PartitionsClosed):
        client.add_partitions("mnist", ["a"], disjoint=True)
    client.register(**{**MNIST, "name": "people", "privacy_unit": "user"})
    with pytest.raises(UnitMismatch) as caught:
        client.ask(datasets=["mnist", "people"], mechanism=RELEASE)
    assert caught.value.facts["what"] == "privacy_unit"
    faults = Faults()
    with connect(ledger, faults) as busy:
        busy.set_fair_use("mnist", runs_per_hour=1, reason="so that others get a turn")
        busy.ask(datasets=["mnist"], mechanism=RELEASE)
        with pytest.raises(RateLimited) as limited:
            busy.ask(datasets=["mnist"], mechanism=RELEASE)
    assert 3500 < limited.value.retry_after_seconds <= 3601
    assert (limited.value.facts, faults.slept) == ({"dataset": "mnist", "runs_per_hour": 1}, [])


def test_a_failing_settle_masks_nothing(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: when the ledger is gone at the end, the training code's own exception passes, with a note and a warning;
    without one nothing is raised, and the settlement that was kept on disk is sent later."""
    ledger.register(size=100)
    faults = Faults()
    with connect(ledger, faults, retries=2) as client:
        with pytest.raises(ValueError, match="mine") as mine, client.run(datasets=["mnist"], mechanism=RELEASE) as run:
            raise_after(run, 1, ValueError("mine"), then=lambda: faults.script.extend(["refuse"] * 3))
        assert any(run.id in note for note in mine.value.__notes__)
        said = [record for record in caplog.records if "could not be settled" in record.message]
        assert [(record.levelname, run.id in record.message) for record in said] == [("WARNING", True)]
        assert run.is_pending

        with client.run(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=5, count=2)) as other:
            # The settlement that waited was sent before this run was asked for.
            assert client.run_info(run.id)["state"] == "settled"
            other.step()
            faults.script = ["refuse"] * 3
        assert (other.is_pending, other.settled) == (True, None)
        assert ledger.balance()["held"] == (2 * COST, 0)
        assert [sent["run"] for sent in client.settle_pending()["sent"]] == [other.id]
        assert client.run_info(other.id)["settled"]["steps"] == 1
        assert ledger.balance() == {**ledger.balance(), "held": (0, 0), "spent": (2 * COST, 0)}
        assert client.settle_pending()["sent"] == []


def test_an_approval_that_cannot_be_started(ledger: Ledger, client: Client) -> None:
    """Goal: where the dataset is frozen between asking and starting, the error says which run is held."""

    class Freezing(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/start"):
                ledger.patch("/v1/datasets/mnist", {"state": "frozen", "reason": "a look"})
            return Bridge(ledger).handle_request(request)

    with (
        Client(URL, ledger.key, transport=Freezing()) as freezing,
        pytest.raises(errors.DatasetFrozen) as caught,
        freezing.run(datasets=["mnist"], mechanism=RELEASE),
    ):
        pytest.fail("the run was never started")
    held = next(client.runs())
    assert held["state"] == "held"
    assert held["id"] in caught.value.__notes__[0]


def test_a_restarted_job_finds_its_run_again(ledger: Ledger, client: Client) -> None:
    """Goal: one key, one run, one charge, whichever process ends it. Method: the first client is dropped in the middle
    of its run; a second one goes on under the same key; a third comes too late."""
    arguments: dict[str, Any] = {"datasets": ["mnist"], "mechanism": SGD, "idempotency_key": "nightly-17"}
    with connect(ledger) as first:
        killed = first.run(**arguments).__enter__()
        killed.step(8)
        died(killed)
    assert client.run_info(killed.id)["state"] == "started"

    with connect(ledger) as second, second.run(**arguments, steps_done=8) as run:
        assert (run.id, run.is_resumed, run.steps) == (killed.id, True, 8)
        run.step(5)
    assert client.run_info(run.id)["settled"]["steps"] == 13
    assert kinds(ledger) == ["dataset-registered", "run-approved", "run-started", "run-settled"]

    with connect(ledger) as third, pytest.raises(errors.RunState, match=f"{run.id}, is already settled"):
        third.run(**arguments).__enter__()
    with pytest.raises(errors.IdempotencyKeyReused):
        client.run(**arguments, purpose="another").__enter__()


def test_a_voided_run_and_a_refused_one_stay_what_they_are(client: Client) -> None:
    """Goal: a key does not come back to life."""
    asked = client.ask(datasets=["mnist"], mechanism=RELEASE, idempotency_key="voided")
    client.void(asked["id"], reason="not needed")
    with pytest.raises(errors.RunState, match="is already voided"):
        client.run(datasets=["mnist"], mechanism=RELEASE, idempotency_key="voided").__enter__()
    for _ in range(2):
        with pytest.raises(BudgetExceeded):
            client.run(
                datasets=["mnist"], mechanism=Gaussian(noise_multiplier=0.1), idempotency_key="refused"
            ).__enter__()
    with pytest.raises(ValueError, match="steps_done"):
        client.run(datasets=["mnist"], mechanism=RELEASE, steps_done=-1)
    with pytest.raises(errors.IdempotencyKeyMissing):
        client.ask(datasets=["mnist"], mechanism=RELEASE, idempotency_key="not visible\n")


def test_steps_are_counted_from_any_thread() -> None:
    """Goal: no step is lost. Method: eight threads of 10,000 steps each, switching as often as they can."""
    run = Run({"id": "a", "cost": {}, "datasets": []}, planned=None, steps_done=None, is_resumed=False)

    def work() -> None:
        for _ in range(10_000):
            run.step()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert run.steps == 80_000
    with pytest.raises(ValueError, match="at least one"):
        run.step(0)


def test_the_asynchronous_client_does_the_same(ledger: Ledger) -> None:
    """Goal: run() on an event loop: as planned, by exception, refused, restarted, cancelled, through lost answers."""
    ledger.register(size=100)

    async def work() -> None:
        faults = Faults(["lose", "busy", "pass", "refuse", "pass", "pass", "lose"])
        async with connect_async(ledger, faults) as client:
            async with client.run(datasets=["mnist"], mechanism=SGD) as run:
                run.step(12)
            assert run.settled is not None
            assert len({request.headers["Idempotency-Key"] for request in faults.seen[:3]}) == 1
            assert max(faults.slept) >= 7
            with pytest.raises(ValueError, match="mine"):
                async with client.run(datasets=["mnist"], mechanism=RELEASE):
                    raise ValueError("mine")
            with pytest.raises(BudgetExceeded):
                async with client.run(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=0.1)):
                    pytest.fail("the run was refused")
            killed = await client.run(datasets=["mnist"], mechanism=RELEASE, idempotency_key="k").__aenter__()
            died(killed)
            async with client.run(datasets=["mnist"], mechanism=RELEASE, idempotency_key="k") as run:
                assert (run.id, run.is_resumed) == (killed.id, True)
            await cancelled(client)
            assert [item["state"] async for item in client.runs(state="settled")] == ["settled"] * 4

    async def cancelled(client: AsyncLedger) -> None:
        entered = asyncio.Event()

        async def train() -> None:
            async with client.run(datasets=["mnist"], mechanism=RELEASE):
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(train())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    assert ledger.balance()["held"] == (0, 0)


def test_training_under_the_ledger(database: Settings, start_server: Callable[[Settings], Served]) -> None:
    """Goal: what the client is for: DP-SGD that really trains, under a run, on a real server. Method: logistic
    regression in NumPy, Poisson sampling, clipped per-example gradients, noise on their sum, a fixed divisor."""
    key = first_keys(database).admin_key
    served = start_server(database)
    chance = np.random.default_rng(3)
    units, weights_true = 4_000, np.array([2.0, -1.0, 0.5, 0.0, 1.5])
    x = chance.normal(size=(units, 5))
    y = (chance.random(units) < 1 / (1 + np.exp(-3 * x @ weights_true))).astype(float)
    rate, steps, clip, noise_multiplier = 0.05, 80, 1.0, 1.0

    with Client(served.url, key) as ledger:
        ledger.register(**{**MNIST, "name": "synthetic", "size": units})
        mechanism = DPSGD(noise_multiplier=noise_multiplier, sample_rate=rate, steps=steps)
        weights = np.zeros(5)
        with ledger.run(datasets=["synthetic"], mechanism=mechanism, purpose="logistic regression") as run:
            while run.steps < steps:
                batch = chance.random(units) < rate
                residual = 1 / (1 + np.exp(-x[batch] @ weights)) - y[batch]
                gradients = residual[:, None] * x[batch]
                norms = np.linalg.norm(gradients, axis=1, keepdims=True)
                clipped = gradients / np.maximum(1, norms / clip)
                noisy = clipped.sum(axis=0) + chance.normal(scale=noise_multiplier * clip, size=5)
                weights -= 2.0 * noisy / (rate * units)
                run.step()
            run.evidence["weights"] = weights.round(6).tolist()

        accuracy = np.mean((x @ weights > 0) == (y > 0.5))
        assert accuracy > 0.85
        assert np.corrcoef(weights, weights_true)[0, 1] > 0.95
        shown = ledger.run_info(run.id)
        assert (shown["state"], shown["settled"]["steps"]) == ("settled", steps)
        assert shown["settled"]["evidence"]["weights"] == run.evidence["weights"]
        balance = ledger.dataset("synthetic")["balance"]
        assert balance["spent"] == shown["cost"]
        journal = io.BytesIO()
        assert ledger.export("synthetic", journal) == journal.tell()
        assert json.loads(journal.getvalue().splitlines()[-1])["head"]["seq"] == ledger.head("synthetic")["seq"]
        with (
            pytest.raises(BudgetExceeded),
            ledger.run(datasets=["synthetic"], mechanism=DPSGD(noise_multiplier=0.6, sample_rate=rate, steps=steps)),
        ):
            pytest.fail("there is nothing left for that")

"""A number that no budget could cover: nothing is charged, the datasets freeze, and a steward confirms or corrects."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.store import Store
from tests.kit.driver import Ledger
from tests.kit.parts import ONCE, demand_in_order, derive, error, gaussian, held, kinds, started
from tests.kit.scene import REASON, ok

HUGE = {"steps": 10**12}


def state(ledger: Ledger, name: str = "mnist") -> str:
    """Of a dataset."""
    return str(ok(ledger.get(f"/v1/datasets/{name}"))["state"])


def reported(ledger: Ledger, *datasets: Any, by: Ledger | None = None, **asked: Any) -> tuple[str, dict[str, Any]]:
    """A run that settles with far too many steps, and the answer."""
    run = started(by or ledger, *(datasets or ("mnist",)), **asked)
    answer = (by or ledger).post(f"/v1/runs/{run}/settle", HUGE)
    assert error(answer)[:2] == (409, "overrun"), answer.text
    told: dict[str, Any] = answer.json()
    return run, told


def test_nobody_ends_a_dataset_by_a_number(ledger: Ledger, store: Store) -> None:
    """Goal: a slip or a lie of a requester is no charge: the run stays started and held in full, its datasets are
    frozen at once, whatever room they have, and nobody opens them. Method: 10^12 steps on two datasets."""
    ledger.register()
    ledger.register(name="large", budget={"mu": 900})
    requester, steward = ledger.as_("requester"), ledger.as_("steward")
    run, told = reported(ledger, "mnist", "large", by=requester, mechanism=gaussian(count=2))
    assert (told["run"], told["state"], told["frozen"], told["datasets"]) == (run, "started", ["large", "mnist"], [])
    assert (told["overrun"]["steps"], told["overrun"]["fits"], "charged" in told) == (10**12 - 2, False, False)
    assert "a steward confirms or corrects" in told["detail"]
    for name in ("mnist", "large"):
        assert (held(ledger, name), ledger.balance(name)["spent"], state(ledger, name)) == (2 * ONCE, (0, 0), "frozen")
        assert kinds(ledger, name)[-1] == "run-reported"
    again = requester.post(f"/v1/runs/{run}/settle", HUGE)
    assert (again.status_code, again.json()) == (409, told)
    assert error(requester.post(f"/v1/runs/{run}/settle", {"steps": 2}))[:2] == (409, "run-state")
    assert error(requester.get(f"/v1/runs/{run}/receipt"))[:2] == (409, "run-state")
    thaw = steward.patch("/v1/datasets/mnist", {"state": "active", **REASON})
    assert (*error(thaw)[:2], thaw.json()["reported"]) == (409, "dataset-frozen", [run])
    shown = ok(ledger.get(f"/v1/runs/{run}"))
    assert (shown["state"], shown["reported"]["steps"], "settled" in shown) == ("started", 10**12, False)
    alerts = {
        (item["kind"], item["event"].get("dataset", {}).get("name")) for item in ok(ledger.get("/v1/alerts"))["items"]
    }
    assert {("overrun", "mnist"), ("frozen", "large")} <= alerts
    demand_in_order(ledger, store)


def test_a_steward_corrects_the_number(ledger: Ledger, store: Store) -> None:
    """Goal: the run is settled for what it really executed; the requester's call keeps its answer; a steward opens the
    dataset, which goes on."""
    ledger.register()
    requester, steward = ledger.as_("requester"), ledger.as_("steward")
    run, told = reported(ledger, by=requester, mechanism=gaussian(count=5))
    body = {"steps": 3, "evidence": {"log": "epochs"}, **REASON}
    assert error(requester.post(f"/v1/runs/{run}/correct", body))[:2] == (403, "forbidden")
    answer = ok(steward.post(f"/v1/runs/{run}/correct", body))
    assert (answer["state"], answer["charged"]["mu_sq_pico"]) == ("settled", str(3 * ONCE))
    assert ok(steward.post(f"/v1/runs/{run}/correct", body)) == answer
    assert error(steward.post(f"/v1/runs/{run}/correct", {**body, "steps": 2}))[:2] == (409, "run-state")
    assert requester.post(f"/v1/runs/{run}/settle", HUGE).json() == told
    assert error(requester.post(f"/v1/runs/{run}/settle", {"steps": 3}))[:2] == (409, "run-state")
    shown = ok(ledger.get(f"/v1/runs/{run}"))
    assert (shown["settled"]["report"], shown["settled"]["reason"]) == ("corrected", REASON["reason"])
    assert (ledger.balance()["spent"], held(ledger, "mnist"), state(ledger)) == ((3 * ONCE, 0), 0, "frozen")
    ok(steward.patch("/v1/datasets/mnist", {"state": "active", **REASON}))
    assert ledger.ask(key="next").status_code == 201
    demand_in_order(ledger, store)


def test_a_steward_confirms_the_number(ledger: Ledger, store: Store) -> None:
    """Goal: what was really executed is charged as an overrun, by a steward's name. Method: as the request had it."""
    ledger.register()
    requester, steward = ledger.as_("requester"), ledger.as_("steward")
    run, told = reported(ledger, by=requester)
    answer = ok(steward.post(f"/v1/runs/{run}/confirm", REASON))
    assert (answer["state"], answer["overrun"]) == ("settled", told["overrun"])
    assert answer["charged"]["mu_sq_pico"] == str(10**12 * ONCE)
    assert ok(steward.post(f"/v1/runs/{run}/confirm", REASON)) == answer
    assert requester.post(f"/v1/runs/{run}/settle", HUGE).json() == told
    entry = ledger.get("/v1/datasets/mnist/entries", limit=100).json()["items"][-1]["entry"]
    assert (entry["kind"], entry["report"], entry["actor"]["role"]) == ("run-settled", "confirmed", "steward")
    ok(steward.patch("/v1/datasets/mnist", {"state": "active", **REASON}))
    assert error(ledger.ask(key="next"))[:2] == (409, "budget-exceeded")
    demand_in_order(ledger, store)


def test_only_a_report_is_confirmed_or_corrected(ledger: Ledger) -> None:
    """Goal: a steward settles no run of anybody's but where a number waits."""
    ledger.register()
    for run in (str(ok(ledger.ask(key="held"))["id"]), started(ledger, "mnist", key="started")):
        for call, body in (("confirm", REASON), ("correct", {"steps": 1, **REASON})):
            assert error(ledger.post(f"/v1/runs/{run}/{call}", body))[:2] == (409, "run-state")


@pytest.mark.parametrize(("project", "room"), [(None, 25), ("p", 4)])
def test_a_number_that_a_budget_could_cover_is_charged(
    ledger: Ledger, store: Store, project: str | None, room: int
) -> None:
    """Goal: the line is the whole limit of any account that is charged. Method: just as much beyond the plan as the
    limit, and one release more; of a root's partition, and of a project's share there, which is smaller."""
    asked = {} if project is None else {"project": project}
    for name, more, outcome in (("exact", 0, "settled"), ("above", 1, "started")):
        ledger.register(name=name, partitions=["a", "b"])
        ok(ledger.put(f"/v1/datasets/{name}/projects/p", {"budget": {"mu": 0.4}}))
        derive(ledger, f"copy-of-{name}", name, budget={"mu": 900})
        run = started(ledger, f"copy-of-{name}", key=name, **asked)
        answer = ledger.post(f"/v1/runs/{run}/settle", {"steps": 1 + room + more}).json()
        assert (answer["code"], answer["state"]) == ("overrun", outcome), answer
    demand_in_order(ledger, store)


@pytest.mark.parametrize("answer", ["approve", "refuse"])
def test_under_the_policy_a_correction_takes_two(ledger: Ledger, store: Store, answer: str) -> None:
    """Goal: one steward does not make a large number a small one; confirming it takes one."""
    ledger.register()
    ok(ledger.put("/v1/policy", {"second_steward": True, **REASON}))
    one, two = ledger.as_("steward"), ledger.as_("steward")
    run, _ = reported(ledger)
    first = one.post(f"/v1/runs/{run}/correct", {"steps": 1, **REASON})
    assert (first.status_code, first.json()["proposal"]["what"]) == (202, "correction")
    again = two.post(f"/v1/runs/{run}/correct", {"steps": 1, **REASON})
    assert again.json() == first.json()
    proposal = first.json()["proposal"]["id"]
    assert error(one.post(f"/v1/proposals/{proposal}/approve"))[:2] == (403, "forbidden")
    assert (held(ledger, "mnist"), state(ledger)) == (ONCE, "frozen")
    if answer == "approve":
        assert ok(two.post(f"/v1/proposals/{proposal}/approve"))["state"] == "settled"
        assert ledger.balance()["spent"] == (ONCE, 0)
    else:
        assert ok(two.post(f"/v1/proposals/{proposal}/refuse", REASON))["state"] == "refused"
        assert ok(one.post(f"/v1/runs/{run}/confirm", REASON))["state"] == "settled"
    demand_in_order(ledger, store)


def test_voiding_answers_a_report_too(ledger: Ledger, store: Store) -> None:
    """Goal: where no output was ever seen, that is the end of it. Method: a steward voids; the dataset opens again."""
    ledger.register()
    run, _ = reported(ledger)
    assert ok(ledger.post(f"/v1/runs/{run}/void", REASON))["state"] == "voided"
    ok(ledger.patch("/v1/datasets/mnist", {"state": "active", **REASON}))
    assert ledger.balance()["spent"] == ledger.balance()["held"] == (0, 0)
    demand_in_order(ledger, store)

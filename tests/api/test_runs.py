"""The life of a run over HTTP: idempotency, start, settle, void, and what each of them leaves."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from tests.kit.driver import RELEASE, Ledger, past_the_ledger

COST = 40_000_000_000
"""mu² of one release with noise multiplier 5, in units of 1e-12."""


def approved(ledger: Ledger, **rest: Any) -> str:
    """The id of a run that was approved just now."""
    answer = ledger.ask(**rest)
    assert answer.status_code == 201, answer.text
    run: str = answer.json()["id"]
    return run


def kinds(ledger: Ledger) -> list[str]:
    """The kinds of entries in the journal, oldest first."""
    items = ledger.get("/v1/datasets/mnist/entries", limit=1000).json()["items"]
    return [item["entry"]["kind"] for item in items]


def test_a_run_from_asking_to_settling(ledger: Ledger) -> None:
    """Goal: held, started, settled; the balance moves from held to spent; GET tells all of it."""
    ledger.register()
    asked = ledger.ask(purpose="a count", labels={"team": "a"}, code={"repository": "r", "commit": "c"}).json()
    run = asked["id"]
    assert (asked["state"], asked["decision"]) == ("held", "approved")
    assert ledger.balance() == {
        "limit": (10**12, 0),
        "spent": (0, 0),
        "held": (COST, 0),
        "remaining": (10**12 - COST, 0),
    }

    started = ledger.post(f"/v1/runs/{run}/start")
    assert (started.status_code, started.json()["state"]) == (200, "started")
    assert ledger.balance()["held"] == (COST, 0)

    settled = ledger.post(f"/v1/runs/{run}/settle", {"steps": 1, "stop": "planned", "evidence": {"epochs": 1.50}})
    assert (settled.status_code, settled.json()["state"]) == (200, "settled")
    assert settled.json()["charged"]["mu_sq_pico"] == str(COST)
    assert ledger.balance() == {
        "limit": (10**12, 0),
        "spent": (COST, 0),
        "held": (0, 0),
        "remaining": (10**12 - COST, 0),
    }

    shown = ledger.get(f"/v1/runs/{run}").json()
    assert shown["state"] == "settled"
    assert shown["request"] == {
        **RELEASE,
        "purpose": "a count",
        "labels": {"team": "a"},
        "code": {"repository": "r", "commit": "c"},
    }
    assert shown["settled"]["evidence"] == {"epochs": 1.5}
    assert (shown["started"]["seq"], shown["settled"]["seq"], shown["settled"]["steps"]) == (3, 4, 1)
    assert kinds(ledger) == ["dataset-registered", "run-approved", "run-started", "run-settled"]


def test_voiding_gives_everything_back(ledger: Ledger) -> None:
    """Goal: nothing is charged for a run whose output nobody saw, before and (by a steward) after its start."""
    ledger.register()
    requester, steward = ledger.as_("requester"), ledger.as_("steward")
    first, second = approved(requester), approved(requester)
    assert requester.post(f"/v1/runs/{first}/void", {"reason": "not needed"}).status_code == 200
    requester.post(f"/v1/runs/{second}/start")
    refused = requester.post(f"/v1/runs/{second}/void", {"reason": "the node was lost"})
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    voided = steward.post(f"/v1/runs/{second}/void", {"reason": "the node was lost before any output"})
    assert (voided.status_code, voided.json()["returned"]["mu_sq_pico"]) == (200, str(COST))
    assert ledger.balance()["remaining"] == (10**12, 0)


@pytest.mark.parametrize(
    ("do", "body", "other"),
    [
        ("start", None, None),
        ("settle", {"steps": 1}, {"steps": 1, "evidence": {"seen": "more"}}),
        ("settle", None, {"stop": "planned"}),
        ("void", {"reason": "one"}, {"reason": "another"}),
    ],
    ids=["start", "settle", "settle-empty", "void"],
)
def test_what_is_said_again_is_answered_again(ledger: Ledger, do: str, body: Any, other: Any) -> None:
    """Goal: start, settle and void repeat their answer for the same body, and refuse another one."""
    ledger.register()
    run = approved(ledger)
    if do == "settle":
        ledger.post(f"/v1/runs/{run}/start")
    first = ledger.post(f"/v1/runs/{run}/{do}", body)
    assert first.status_code == 200, first.text
    entries = kinds(ledger)
    ledger.ask()  # the balance moves on, the answer does not
    again = ledger.post(f"/v1/runs/{run}/{do}", body)
    assert (again.status_code, again.json()) == (200, first.json())
    if other is not None:
        conflict = ledger.post(f"/v1/runs/{run}/{do}", other)
        assert (conflict.status_code, conflict.json()["code"]) == (409, "run-state")
    assert kinds(ledger) == [*entries, "run-approved"]


@pytest.mark.parametrize(
    ("done", "then"),
    [
        ([], "settle"),
        (["start", "settle"], "start"),
        (["start", "settle"], "void"),
        (["void"], "start"),
        (["void"], "settle"),
    ],
    ids=str,
)
def test_a_run_goes_one_way(ledger: Ledger, done: list[str], then: str) -> None:
    """Goal: held, started, settled or voided, and never back."""
    ledger.register()
    run = approved(ledger)
    bodies: dict[str, Any] = {"start": None, "settle": None, "void": {"reason": "r"}}
    for do in done:
        assert ledger.post(f"/v1/runs/{run}/{do}", bodies[do]).status_code == 200
    before = ledger.balance()
    refused = ledger.post(f"/v1/runs/{run}/{then}", bodies[then])
    assert (refused.status_code, refused.json()["code"]) == (409, "run-state")
    assert ledger.balance() == before


def test_a_refused_run_can_do_nothing(ledger: Ledger) -> None:
    """Goal: a refusal is recorded under its id, charges nothing, and stays what it is."""
    ledger.register(budget={"mu": 0.1})
    refused = ledger.ask()
    assert refused.status_code == 409
    run = refused.json()["run"]
    shown = ledger.get(f"/v1/runs/{run}").json()
    assert (shown["state"], shown["decision"], shown["cost"]["mu_sq_pico"]) == ("refused", "refused", str(COST))
    for do, body in [("start", None), ("settle", None), ("void", {"reason": "r"})]:
        assert ledger.post(f"/v1/runs/{run}/{do}", body).json()["code"] == "run-state"
    assert ledger.balance()["remaining"] == (10**10, 0)


def test_the_same_key_gets_the_same_answer_for_ever(ledger: Ledger) -> None:
    """Goal: approvals and refusals replay with status and body, whatever happened since."""
    ledger.register(budget={"mu": 0.25})
    first = ledger.ask(key="first")
    refused = ledger.ask({"type": "gaussian", "noise_multiplier": 2.5}, key="refused")
    assert (first.status_code, refused.status_code) == (201, 409)
    assert "idempotent-replayed" not in first.headers
    ledger.post(f"/v1/runs/{first.json()['id']}/start")
    ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 10}, "reason": "more", "accepts_weak_protection": True})
    for answer, body in [(first, RELEASE["mechanism"]), (refused, {"type": "gaussian", "noise_multiplier": 2.50})]:
        key = "first" if answer is first else "refused"
        again = ledger.ask(body, key=key)
        assert (again.status_code, again.json()) == (answer.status_code, answer.json())
        assert again.headers["idempotent-replayed"] == "true"
        assert again.headers["content-type"] == answer.headers["content-type"]
    assert kinds(ledger).count("run-approved") == 1


def test_a_key_stands_for_one_body_of_one_principal(ledger: Ledger) -> None:
    """Goal: another body is refused and changes nothing; another principal's key of the same name is another key, so
    that nobody takes somebody else's, nor learns of it."""
    ledger.register()
    assert ledger.ask(key="k").status_code == 201
    other_body = ledger.ask(key="k", purpose="another")
    assert (other_body.status_code, other_body.json()["code"]) == (422, "idempotency-key-reused")
    assert ledger.balance()["held"] == (COST, 0)
    other = ledger.as_("requester")
    theirs = other.ask(key="k", purpose="another")
    assert (theirs.status_code, "idempotent-replayed" in theirs.headers) == (201, False)
    assert other.ask(key="k", purpose="another").json() == theirs.json()
    assert other.ask(key="k").json()["code"] == "idempotency-key-reused"
    assert ledger.balance()["held"] == (2 * COST, 0)


def test_only_decisions_bind_a_key(ledger: Ledger) -> None:
    """Goal: after an invalid body, an unknown or a frozen dataset, the key is still free."""
    ledger.register()
    assert ledger.ask({"type": "gaussian", "noise_multiplier": 0}, key="k").status_code == 422
    assert ledger.ask(key="k", datasets=["unknown"]).status_code == 404
    ledger.patch("/v1/datasets/mnist", {"state": "frozen", "reason": "a look"})
    assert ledger.ask(key="k").json()["code"] == "dataset-frozen"
    ledger.patch("/v1/datasets/mnist", {"state": "active", "reason": "looked"})
    assert ledger.ask(key="k").status_code == 201


def test_an_approval_that_was_not_used_in_time(ledger: Ledger, database: Any) -> None:
    """Goal: after start_by a run cannot start, is listed as overdue, and goes on counting; a started one is overdue
    after settle_by and can still be settled. Method: the time of both is moved in the database."""
    ledger.register()
    held, started, in_time = approved(ledger), approved(ledger), approved(ledger)
    ledger.post(f"/v1/runs/{started}/start")
    owner = past_the_ledger(database)
    with owner.execution_options(writing=True).begin() as connection:
        connection.execute(text("UPDATE runs SET due_us = 1 WHERE id <> :id"), {"id": in_time})
    owner.dispose()
    late = ledger.post(f"/v1/runs/{held}/start")
    assert (late.status_code, late.json()["code"]) == (409, "run-state")
    overdue = {item["id"] for item in ledger.get("/v1/runs", overdue=True).json()["items"]}
    assert overdue == {held, started}
    assert {item["id"] for item in ledger.get("/v1/runs", overdue=False).json()["items"]} == {in_time}
    assert ledger.get(f"/v1/runs/{held}").json()["is_overdue"] is True
    assert ledger.balance()["held"] == (3 * COST, 0)
    assert ledger.post(f"/v1/runs/{started}/settle").status_code == 200
    assert ledger.get(f"/v1/runs/{started}").json()["is_overdue"] is False


def test_settling_for_floor_or_ceiling_counts_as_planned(ledger: Ledger) -> None:
    """Goal: 60 epochs of 60000/256 are 14062.5 steps; 14062 and 14063 are both "as planned"; fewer is an early stop,
    which is charged in full."""
    mechanism = {
        "type": "dpsgd",
        "noise_multiplier": 1.1,
        "sampling": "poisson",
        "dataset_size": 60_000,
        "batch_size": 256,
        "epochs": 60,
    }
    ledger.register(budget={"mu": 5})
    for steps, status, stop in [
        (14_062, 200, "planned"),
        (14_063, 200, "planned"),
        (14_061, 200, "data_dependent"),
        (0, 200, "data_dependent"),
    ]:
        run = approved(ledger, mechanism=mechanism)
        ledger.post(f"/v1/runs/{run}/start")
        answer = ledger.post(f"/v1/runs/{run}/settle", {"steps": steps})
        assert answer.status_code == status, answer.text
        assert answer.json()["charged"] == answer.json()["cost"]
        settled = ledger.get(f"/v1/runs/{run}").json()["settled"]
        assert (settled["steps"], settled["stop"]) == (steps, stop)


@pytest.mark.parametrize("do", ["start", "settle", "void"])
def test_a_run_that_is_not_there(ledger: Ledger, do: str) -> None:
    """Goal: an unknown id is not-found, and so is one that is no id at all."""
    body = {"reason": "r"} if do == "void" else None
    answer = ledger.post(f"/v1/runs/{uuid4()}/{do}", body)
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    answer = ledger.post(f"/v1/runs/nonsense/{do}", body)
    assert 400 <= answer.status_code < 500


def test_requesters_act_on_their_own_runs_alone(ledger: Ledger) -> None:
    """Goal: another requester's run can be read, and neither started nor settled nor voided."""
    ledger.register()
    mine, theirs = ledger.as_("requester"), ledger.as_("requester")
    run = approved(mine)
    for do, body in [("start", None), ("settle", None), ("void", {"reason": "r"})]:
        answer = theirs.post(f"/v1/runs/{run}/{do}", body)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert theirs.get(f"/v1/runs/{run}").status_code == 200
    assert mine.post(f"/v1/runs/{run}/start").status_code == 200

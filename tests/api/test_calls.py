"""The calls that are answered without the framework: by the same rules as by their routes, which answer them too."""

from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.types import Scope

from ledger.api import calls
from tests.kit.driver import RELEASE, Ledger

NOBODY = "00000000-0000-4000-8000-000000000000"
CALLS = (calls._ASK, calls._BATCH, *calls._MOVES.values(), calls._RUN_SHOWN, calls._DATASET_SHOWN)
SLOWLY = {"Content-Type": "application/json; charset=utf-8"}
"""A header that leaves a request to the framework."""
VARIES = frozenset({"id", "run", "receipt", "at", "start_by", "begin_by", "settle_by", "datasets", "seq", "created_at"})
VARIES |= {"runs_left"}  # each way asks for a run of its own


class Ways:
    """Which way requests went: whether by a call of `calls`, in order."""

    def __init__(self) -> None:
        self.taken: list[str | None] = []

    def last(self) -> str | None:
        return self.taken.pop()


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Ways:
    """Watches which way requests go."""
    made, real = Ways(), calls.Calls.of

    def of(self: calls.Calls, scope: Scope) -> Any:
        found = real(self, scope)
        made.taken.append(None if found is None else found[0].path)
        return found

    monkeypatch.setattr(calls.Calls, "of", of)
    return made


def _both(ledger: Ledger, ways: Ways, method: str, path: str, body: Any = None, **headers: str) -> tuple[Any, Any]:
    """The answers to a request by either way: status, the headers that matter, and the members that do not vary."""
    answers = []
    for way in ("quick", "slow"):
        given = {name.replace("_", "-"): value.replace("WAY", way) for name, value in headers.items()}
        if way == "slow":
            given |= SLOWLY
        answer = ledger.request(method, path, json=body, headers=given)
        assert (ways.last() is None) == (way == "slow"), (way, path)
        shown = answer.json()
        kept = {name: value for name, value in shown.items() if name not in VARIES}
        if "detail" in kept:
            kept["detail"] = re.sub(r"[0-9a-f-]{36}", "RUN", kept["detail"])
        heads = {
            name: value for name, value in answer.headers.items() if name not in ("x-request-id", "content-length")
        }
        answers.append((answer.status_code, heads, kept))
    return answers[0], answers[1]


def test_every_call_is_a_route(ledger: Ledger) -> None:
    """Goal: nothing is answered here that the document does not describe. Method: look each call's path up."""
    paths = ledger.client.get("/openapi.json").json()["paths"]
    assert {call.path for call in CALLS} <= set(paths)
    assert len(CALLS) == 7


def test_both_ways_answer_alike(ledger: Ledger, ways: Ways) -> None:
    """Goal: whichever way a request takes, it gets the same answer: approvals, refusals, mistakes, and what nobody may
    see or do. Method: each call by both ways, on fresh runs, with good and bad bodies, by several roles."""
    ledger.register(budget={"mu": 3})
    auditor, requester = ledger.as_("auditor"), ledger.as_("requester")
    big: Any = {"type": "gaussian", "noise_multiplier": 0.01}
    for who in (ledger, requester, auditor):
        bodies: tuple[Any, ...] = (
            *(RELEASE, {**RELEASE, "mechanism": big}, {**RELEASE, "segments": 0}),
            *({**RELEASE, "x": 1}, ["x"]),
        )
        for body in bodies:
            quick, slow = _both(who, ways, "POST", "/v1/runs", body, Idempotency_Key="WAY-1")
            assert quick == slow, body
        quick, slow = _both(who, ways, "POST", "/v1/runs", RELEASE)
        assert quick == slow
        assert quick[0] == (403 if who is auditor else 400)
        runs: list[Any] = [{**RELEASE, "idempotency_key": "k"}, {**RELEASE, "idempotency_key": ""}]
        batches: tuple[dict[str, Any], ...] = ({"runs": runs, "atomic": True}, {"runs": []}, {"runs": [runs[0]] * 2})
        for batch in batches:
            quick, slow = _both(who, ways, "POST", "/v1/runs/batch", batch)
            assert quick == slow, batch
        for path in (f"/v1/runs/{NOBODY}", "/v1/datasets/nothing", "/v1/datasets/mnist"):
            quick, slow = _both(who, ways, "GET", path)
            assert quick == slow
    for verb, body in (("settle", {"steps": -1}), ("settle", {}), ("void", {"reason": ""}), ("void", {"reason": "r"})):
        quick, slow = _both(ledger, ways, "POST", f"/v1/runs/{NOBODY}/{verb}", body)
        assert quick == slow, (verb, body)


def test_a_run_goes_either_way(ledger: Ledger, ways: Ways) -> None:
    """Goal: a run may change its way at each step, and everything repeated gets its first answer. Method: two runs, one
    quick and one slow, each step repeated the other way."""
    ledger.register(budget={"mu": 3})
    for key, slow in (("quick", False), ("slow", True)):
        headers = SLOWLY if slow else {}
        asked = ledger.request("POST", "/v1/runs", json=RELEASE, headers={"Idempotency-Key": key, **headers})
        again = ledger.request("POST", "/v1/runs", json=RELEASE, headers={"Idempotency-Key": key})
        assert (asked.status_code, again.json()) == (201, asked.json())
        assert again.headers["idempotent-replayed"] == "true"
        run = f"/v1/runs/{asked.json()['id']}"
        started = ledger.request("POST", f"{run}/start", headers=headers)
        assert ledger.request("POST", f"{run}/start").json() == started.json()
        settled = ledger.request("POST", f"{run}/settle", json={"stop": "planned"}, headers=headers)
        assert ledger.request("POST", f"{run}/settle", json={"stop": "planned"}).json() == settled.json()
        assert ledger.request("POST", f"{run}/void", json={"reason": "late"}, headers=headers).status_code == 409
        assert ledger.request("GET", run).json() == ledger.request("GET", run, headers=SLOWLY).json()
    assert None in ways.taken
    assert "/v1/runs/{id}/settle" in ways.taken


def test_what_is_remembered_is_bounded(ledger: Ledger) -> None:
    """Goal: neither bodies nor approvals fill the memory. Method: more of both than are remembered, by numbers and by
    bytes."""
    ledger.register(budget={"mu": 1000})
    app: Any = ledger.client.app
    bodies, decided = app.state.calls._bodies, app.state.services.runs._decided
    decided._runs_max, decided._bytes_max = 3, 64 * 3000
    for number in range(5):
        assert ledger.ask(key=str(number), purpose=f"p{number}").status_code == 201
    assert (len(bodies), len(decided)) == (5, 3)
    assert ledger.ask(key="long", purpose="x" * 3500).status_code == 201
    assert (len(bodies), len(decided)) == (5, 3)
    decided._bytes_max = 1
    assert ledger.ask(key="none", purpose="none").status_code == 201
    assert len(decided) == 3

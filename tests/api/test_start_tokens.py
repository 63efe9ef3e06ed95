"""The token of a start: which process may train."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from ledger.settings import Settings
from tests.kit import independent_verifier
from tests.kit.clients import kinds
from tests.kit.driver import Ledger, application
from tests.kit.inside import InsideClient
from tests.kit.scene import ok

MINE, OTHER = {"token": "mine"}, {"token": "0d5b2f0e-6a3c-4b57-9d0f-6a1a4d7f3c21"}


def held(ledger: Ledger, key: str = "k", **changes: Any) -> str:
    """A run that waits for its start."""
    return str(ok(ledger.ask(key=key, **changes))["id"])


@pytest.mark.parametrize("first", [None, {}, MINE, OTHER], ids=str)
def test_one_token_starts_a_run(ledger: Ledger, first: dict[str, str] | None) -> None:
    """Goal: the same token, or again none, gets the same answer and receipt; any other one, or none in place of one, is
    refused, with what to do; nothing of that is an entry. Method: each first start, then each other one."""
    ledger.register()
    run = held(ledger)
    started = ledger.post(f"/v1/runs/{run}/start", first)
    assert (started.status_code, "idempotent-replayed" in started.headers) == (200, False)
    entries = kinds(ledger)
    for then in (None, {}, MINE, OTHER):
        again = ledger.post(f"/v1/runs/{run}/start", then)
        if (then or {}) == (first or {}):
            assert (again.status_code, again.json()) == (200, started.json())
            assert again.headers["idempotent-replayed"] == "true"
            continue
        problem = again.json()
        assert (again.status_code, problem["code"], problem["state"]) == (409, "run-state", "started")
        assert (problem["run"], problem["at"]) == (run, started.json()["at"])
        assert "was started by another process" in problem["detail"]
        assert "`restarts`" in problem["detail"]
        assert "receipt" not in problem
    assert kinds(ledger) == entries
    ok(ledger.post(f"/v1/runs/{run}/settle"))
    over = ledger.post(f"/v1/runs/{run}/start", first)
    assert (over.status_code, over.json()["state"]) == (409, "settled")


def test_the_journal_has_the_digest_alone(ledger: Ledger) -> None:
    """Goal: each entry of the start has the token's SHA-256, GET shows it, and nothing has the token; whoever checks an
    export passes it. Method: a run on two datasets; hashlib; the verifier that shares no code."""
    for name in ("one", "two"):
        ledger.register(name=name)
    run = held(ledger, datasets=["one", "two"])
    ok(ledger.post(f"/v1/runs/{run}/start", OTHER))
    digest = sha256(OTHER["token"].encode()).hexdigest()
    shown = ledger.get(f"/v1/runs/{run}")
    assert shown.json()["started"]["token_sha256"] == digest
    for name in ("one", "two"):
        text = ledger.get(f"/v1/datasets/{name}/export").text
        assert (text.count(digest), text.count(OTHER["token"])) == (1, 0)
        assert independent_verifier.verify(text.splitlines())[0] == 3
    assert OTHER["token"] not in shown.text


def test_a_token_is_short_visible_text(ledger: Ledger) -> None:
    """Goal: a token is 1 to 64 visible ASCII characters, and a wrong body starts nothing."""
    ledger.register()
    run = held(ledger)
    for body in ({"token": ""}, {"token": "x" * 65}, {"token": "a b"}, {"token": "é"}, {"token": 7}, {"tokens": "x"}):
        refused = ledger.post(f"/v1/runs/{run}/start", body)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid-request"), body
    assert ok(ledger.get(f"/v1/runs/{run}"))["state"] == "held"
    assert ok(ledger.post(f"/v1/runs/{run}/start", {"token": "x" * 64}))["state"] == "started"


def test_the_token_outlives_the_server(database: Settings) -> None:
    """Goal: whose start it was is known after a restart of the server. Method: a second application on its database."""
    with Ledger.open(database) as ledger:
        ledger.register()
        run, key = held(ledger), ledger.key
        started = ok(ledger.post(f"/v1/runs/{run}/start", MINE))
    with InsideClient(application(database)) as client:
        again = Ledger(client, key)
        assert again.post(f"/v1/runs/{run}/start", OTHER).status_code == 409
        assert ok(again.post(f"/v1/runs/{run}/start", MINE)) == started

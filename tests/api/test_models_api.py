"""The digests of what a run produced: stated when it is settled, and kept by every journal that the run reached."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.store import Store
from tests.api.test_reported_overruns import HUGE
from tests.kit import independent_verifier
from tests.kit.driver import Ledger
from tests.kit.parts import demand_in_order, derive, error, gaussian, started
from tests.kit.scene import REASON, ok

MODELS: list[dict[str, Any]] = [
    {"name": "model.safetensors", "sha256": "ab" * 32, "size": 10**12},
    {"name": "checkpoint/konfiguration–ä.json", "sha256": "00" * 32, "size": 0},
]


def entries(ledger: Ledger, dataset: str) -> list[dict[str, Any]]:
    """The entries of a dataset's journal."""
    items = ok(ledger.get(f"/v1/datasets/{dataset}/entries", limit=100))["items"]
    return [item["entry"] for item in items]


def test_every_journal_of_the_run_keeps_the_digests(ledger: Ledger, store: Store) -> None:
    """Goal: the answer, the run, and both journals have the digests as they were sent, and every check of the exports
    holds. Method: a run on a derived dataset; the other implementation of the rules."""
    ledger.register()
    derive(ledger, "copy", "mnist")
    run = started(ledger, "copy", key="one")
    body = {"models": MODELS}
    answer = ok(ledger.post(f"/v1/runs/{run}/settle", body))
    assert answer["models"] == MODELS
    assert ok(ledger.post(f"/v1/runs/{run}/settle", body)) == answer
    assert error(ledger.post(f"/v1/runs/{run}/settle", {"models": MODELS[:1]}))[:2] == (409, "run-state")
    assert ok(ledger.get(f"/v1/runs/{run}"))["settled"]["models"] == MODELS
    for dataset in ("mnist", "copy"):
        assert entries(ledger, dataset)[-1]["models"] == MODELS
        lines = ledger.get(f"/v1/datasets/{dataset}/export").text.splitlines()
        count, _ = independent_verifier.verify(lines)
        assert count == len(entries(ledger, dataset))
    demand_in_order(ledger, store)


def test_a_run_without_files_says_nothing_of_them(ledger: Ledger) -> None:
    """Goal: nothing is recorded that was not stated; null is nothing."""
    ledger.register()
    for number, body in enumerate(({}, {"models": None})):
        run = started(ledger, "mnist", key=str(number))
        assert "models" not in ok(ledger.post(f"/v1/runs/{run}/settle", body))
        assert "models" not in ok(ledger.get(f"/v1/runs/{run}"))["settled"]
        assert "models" not in entries(ledger, "mnist")[-1]


def test_a_confirmed_number_keeps_the_digests(ledger: Ledger, store: Store) -> None:
    """Goal: what was reported with too large a number is recorded when a steward confirms it; a correction states its
    own files."""
    ledger.register()
    steward = ledger.as_("steward")
    for call, body, kept in (
        ("correct", {"steps": 1, "models": MODELS[:1], **REASON}, MODELS[:1]),
        ("confirm", REASON, MODELS),
    ):
        run = started(ledger, "mnist", key=call, mechanism=gaussian(count=5))
        told = ledger.post(f"/v1/runs/{run}/settle", {**HUGE, "models": MODELS})
        assert (told.status_code, told.json()["state"]) == (409, "started")
        assert ok(steward.post(f"/v1/runs/{run}/{call}", body))["models"] == kept
        assert entries(ledger, "mnist")[-1]["models"] == kept
        ok(steward.patch("/v1/datasets/mnist", {"state": "active", **REASON}))
    independent_verifier.verify(ledger.get("/v1/datasets/mnist/export").text.splitlines())
    demand_in_order(ledger, store)


@pytest.mark.parametrize(
    ("models", "field"),
    [
        ([], "models"),
        ([{**MODELS[0], "name": ""}], "models.0.name"),
        ([{**MODELS[0], "name": "x" * 256}], "models.0.name"),
        ([MODELS[0], {**MODELS[0], "sha256": "AB" * 32}], "models.1.sha256"),
        ([{**MODELS[0], "sha256": "ab" * 31}], "models.0.sha256"),
        ([{**MODELS[0], "size": -1}], "models.0.size"),
        ([{"name": "m", "sha256": "ab" * 32}], "models.0.size"),
        ([{**MODELS[0], "path": "/home"}], "models.0.path"),
        ([MODELS[1], MODELS[1]], "models"),
        ([{**MODELS[0], "name": str(number)} for number in range(101)], "models"),
    ],
)
def test_malformed_digests_are_rejected(ledger: Ledger, models: Any, field: str) -> None:
    """Goal: each mistake is answered with its field, and the run can still be settled."""
    ledger.register()
    run = started(ledger, "mnist", key="one")
    status, code, named = error(ledger.post(f"/v1/runs/{run}/settle", {"models": models}))
    assert (status, code, named) == (422, "invalid-request", field)
    assert ok(ledger.post(f"/v1/runs/{run}/settle", {"models": MODELS}))["state"] == "settled"

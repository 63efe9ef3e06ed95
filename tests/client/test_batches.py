"""Many runs asked for at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from ledger import errors
from ledger.client import BatchRefused, Gaussian, Unreachable
from ledger.client import Ledger as Client
from tests.kit.clients import RELEASE, Faults, connect, copied, kinds
from tests.kit.driver import Ledger


def test_a_batch_is_asked_for_once_whatever_is_lost(ledger: Ledger) -> None:
    """Goal: a run without a key gets one that all attempts share; one with a key is the same through either call."""
    ledger.register()
    faults = Faults(["lose", "busy", "gateway"])
    runs: list[dict[str, Any]] = [
        {"datasets": ["mnist"], "mechanism": RELEASE, "valid_for": timedelta(hours=1), "purpose": None},
        {"datasets": ["mnist"], "mechanism": RELEASE, "idempotency_key": "mine"},
        {"datasets": ["mnist"], "mechanism": Gaussian(noise_multiplier=0.1)},
        {"datasets": ["mnist"], "mechanism": {"type": "gaussian", "noise_multiplier": -1}},
    ]
    with connect(ledger, faults) as client:
        results = client.ask_batch(runs)["results"]
        assert [result["status"] for result in results] == [201, 201, 409, 422]
        assert len({request.content for request in faults.seen}) == 1
        same = client.ask(datasets=["mnist"], mechanism=RELEASE, idempotency_key="mine")
        assert same["id"] == results[1]["run"]["id"]
        assert "idempotency_key" not in runs[0], "what was given is left as it was"
        faults.script = ["lose"] * 20
        with pytest.raises(Unreachable, match="the same keys") as caught:
            client.ask_batch(runs)
        assert len(set(caught.value.facts["idempotency_keys"])) == 4
        assert "mine" in caught.value.facts["idempotency_keys"]


def test_all_or_none_of_a_batch(ledger: Ledger, client: Client) -> None:
    """Goal: an atomic batch that does not fit raises BatchRefused with what came of each, and leaves nothing."""
    runs = [
        {"datasets": ["mnist"], "mechanism": RELEASE, "idempotency_key": "one"},
        {"datasets": ["mnist"], "mechanism": Gaussian(noise_multiplier=0.1), "idempotency_key": "two"},
    ]
    with pytest.raises(BatchRefused) as caught:
        client.ask_batch(runs, atomic=True)
    codes = [result["problem"]["code"] for result in caught.value.results]
    assert codes == ["batch-refused", "budget-exceeded"]
    assert kinds(ledger) == ["dataset-registered"]
    assert copied(caught.value).results == caught.value.results
    assert [result["status"] for result in client.ask_batch(runs[:1], atomic=True)["results"]] == [201]
    for key in ("", "not visible\n", 5):
        with pytest.raises(errors.IdempotencyKeyMissing) as missing:
            client.ask_batch([{"datasets": ["mnist"], "mechanism": RELEASE, "idempotency_key": key}])
        assert missing.value.field == "runs.0.idempotency_key"
    with pytest.raises(errors.InvalidMechanism) as invalid:
        client.ask_batch([{"datasets": ["mnist"], "mechanism": Gaussian(noise_multiplier=float("nan"))}])
    assert invalid.value.field == "runs.0.mechanism.noise_multiplier"

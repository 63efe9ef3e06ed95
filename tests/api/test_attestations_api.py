"""The signed statement about what a run produced, held against the journals and the specifications of its formats."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.api.test_models_api import MODELS, entries
from tests.kit.driver import Ledger
from tests.kit.independent_auditor import merkle_root
from tests.kit.parts import derive, error, gaussian, started
from tests.kit.scene import REASON, ok

SGD: dict[str, Any] = {
    "type": "dpsgd",
    "noise_multiplier": 4,
    "sampling": "poisson",
    "sample_rate": 0.01,
    "steps": 100,
}


def signed(ledger: Ledger, envelope: dict[str, Any]) -> dict[str, Any]:
    """The statement in an envelope, once its signature holds. Method: the DSSE protocol by hand, no code of ours."""
    assert set(envelope) == {"payloadType", "payload", "signatures"}
    payload = base64.b64decode(envelope["payload"], validate=True)
    kind = b"application/vnd.in-toto+json"
    assert envelope["payloadType"] == kind.decode()
    (signature,) = envelope["signatures"]
    (key,) = [key for key in ok(ledger.get("/.well-known/jwks.json"))["keys"] if key["kid"] == signature["keyid"]]
    text = b" ".join((b"DSSEv1", str(len(kind)).encode(), kind, str(len(payload)).encode(), payload))
    public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "="))
    public.verify(base64.b64decode(signature["sig"], validate=True), text)
    found: dict[str, Any] = json.loads(payload)
    return found


def attested(ledger: Ledger, run: str) -> dict[str, Any]:
    """The statement about a run."""
    return signed(ledger, ok(ledger.get(f"/v1/runs/{run}/attestation")))


def test_every_fact_is_in_the_journals(ledger: Ledger) -> None:
    """Goal: subjects, run, costs, places, roots and the receipt's digest are those of the journals of both datasets,
    also after these have grown. Method: the entries, the root over their hashes by RFC 9162, and the receipt."""
    ledger.register(budget={"epsilon": 3, "at_delta": 3e-7})
    derive(ledger, "copy", "mnist")
    run = ok(ledger.ask(datasets=["copy"], mechanism=gaussian(count=3)))["id"]
    receipt = ok(ledger.post(f"/v1/runs/{run}/start"))["receipt"]
    body = {"steps": 2, "models": MODELS, "restarts": []}
    assert ok(ledger.post(f"/v1/runs/{run}/settle", body))["state"] == "settled"
    first = ok(ledger.get(f"/v1/runs/{run}/attestation"))
    assert ok(ledger.ask(datasets=["copy"], mechanism=gaussian(), key="later"))["decision"] == "approved"
    assert ok(ledger.get(f"/v1/runs/{run[:8]}/attestation")) == first
    statement = signed(ledger, first)
    assert (statement["_type"], statement["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "urn:privacy-ledger:attestation:1",
    )
    assert statement["subject"] == [
        {"name": model["name"], "digest": {"sha256": model["sha256"]}, "annotations": {"size": model["size"]}}
        for model in MODELS
    ]
    found = statement["predicate"]
    names = [one["name"] for one in found["datasets"]]
    assert sorted(names) == ["copy", "mnist"]
    for one in found["datasets"]:
        items = ok(ledger.get(f"/v1/datasets/{one['name']}/entries", limit=100))["items"]
        by_kind = {item["entry"]["kind"]: item for item in items if item["entry"].get("run") == run}
        for name in ("approved", "started", "settled"):
            item = by_kind[f"run-{name}"]
            assert (one[name]["seq"], one[name]["hash"]) == (item["seq"], item["hash"]), name
        leaves = [bytes.fromhex(item["hash"]) for item in items[: one["settled"]["seq"]]]
        assert one["settled"]["root"] == merkle_root(leaves).hex()
        shown = ok(ledger.get(f"/v1/datasets/{one['name']}"))
        assert (one["privacy_unit"], one["adjacency"]) == (shown["privacy_unit"], shown["adjacency"])
    own = {entry["kind"]: entry for entry in entries(ledger, "copy") if entry.get("run") == run}
    assert found["cost"] == {"approved": own["run-approved"]["cost"], "charged": own["run-settled"]["charged"]}
    assert found["run"] == {
        "id": run,
        "decision": "approved",
        "approved_at": own["run-approved"]["at"],
        "started_at": own["run-started"]["at"],
        "settled_at": own["run-settled"]["at"],
        "steps": 2,
        "stop": "data_dependent",
        "restarts": [],
    }
    assert found["mechanism"]["parameters"] == gaussian(count=3)
    middle = receipt.split(".")[1]
    assert found["receipt"]["payload_sha256"] == hashlib.sha256(base64.urlsafe_b64decode(middle + "==")).hexdigest()
    guarantee = found["guarantee"]
    assert (guarantee["mu"], guarantee["delta"]) == (pytest.approx(math.sqrt(2) * 0.2, rel=1e-9), 0)
    assert [at["delta"] for at in guarantee["epsilon"]] == [1e-5, 1e-6, 3e-7]
    evaluated = ledger.post("/v1/evaluate", {"mechanism": gaussian(count=2), "report_deltas": [3e-7]})
    assert guarantee["epsilon"][-1]["epsilon"] == pytest.approx(ok(evaluated)["epsilon"][0]["value"], rel=1e-9)


def test_the_guarantee_is_of_the_run_alone(ledger: Ledger) -> None:
    """Goal: beside what is left a run is charged less than it costs alone; the statement has what it costs alone, never
    less. Method: the cost that the same mechanism has without a dataset."""
    ledger.register(bound="certified", budget={"epsilon": 3, "at_delta": 1e-5})
    run = started(ledger, "mnist", key="one", mechanism=SGD)
    charged = ok(ledger.post(f"/v1/runs/{run}/settle", {"models": MODELS}))["charged"]
    shown = ok(ledger.get(f"/v1/runs/{run}"))
    found = attested(ledger, run)["predicate"]["guarantee"]
    assert int(charged["mu_sq_pico"]) < int(shown["alone"]["mu_sq_pico"])
    assert (found["mu_sq_pico"], found["delta_atto"]) == (shown["alone"]["mu_sq_pico"], shown["alone"]["delta_atto"])
    longer = started(ledger, "mnist", key="two", mechanism=SGD)
    overrun = ledger.post(f"/v1/runs/{longer}/settle", {"steps": 150, "models": MODELS, "restarts": []}).json()
    assert overrun["overrun"]["steps"] == 50
    more = attested(ledger, longer)["predicate"]
    assert int(more["guarantee"]["mu_sq_pico"]) > int(found["mu_sq_pico"])
    assert more["run"]["overrun"]["steps"] == 50


def test_an_infinite_epsilon_is_left_out(ledger: Ledger) -> None:
    """Goal: at a delta that the run's own exceeds there is no epsilon, and no number stands for it."""
    ledger.register(budget={"mu": 1, "delta": 1e-6})
    assert ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 1, "delta": 1e-5}, "reason": "r"}).is_success
    mechanism = {"type": "approximate_dp", "epsilon": 0.1, "delta": 5e-6, "count": 1}
    run = started(ledger, "mnist", key="one", mechanism=mechanism)
    ok(ledger.post(f"/v1/runs/{run}/settle", {"models": MODELS}))
    assert [at["delta"] for at in attested(ledger, run)["predicate"]["guarantee"]["epsilon"]] == [1e-5]


def test_what_has_no_attestation(ledger: Ledger) -> None:
    """Goal: only a settled run with stated files has one, for those who see the run; each refusal says what to do."""
    ledger.register()
    run = started(ledger, "mnist", key="one")
    early = ledger.get(f"/v1/runs/{run}/attestation")
    assert (error(early)[:2], "Only a settled run" in early.json()["detail"]) == ((409, "run-state"), True)
    ok(ledger.post(f"/v1/runs/{run}/settle"))
    bare = ledger.get(f"/v1/runs/{run}/attestation")
    assert (error(bare)[:2], "--model FILE" in bare.json()["detail"]) == ((409, "run-state"), True)
    voided = ok(ledger.ask(key="two"))["id"]
    ok(ledger.post(f"/v1/runs/{voided}/void", REASON))
    assert error(ledger.get(f"/v1/runs/{voided}/attestation"))[:2] == (409, "run-state")
    stranger = ledger.as_("requester", datasets=["mnist"])
    assert error(stranger.get(f"/v1/runs/{run}/attestation"))[:2] == (404, "not-found")

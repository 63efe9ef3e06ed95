"""Attestations without a server: what verifies, every reason why one does not, and the model card of one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from ledger.client import (
    Attestation,
    AttestationForged,
    AttestationOfAnother,
    AttestationRejected,
    Gaussian,
    OtherModel,
    model_card,
    receipt_digest,
    verify_attestation,
)
from ledger.client import Ledger as Client
from ledger.client.attestations import AttestedModel
from ledger.errors import InvalidRequest
from ledger.verifier import dsse
from tests.kit.clients import connect
from tests.kit.driver import Ledger, Terminal
from tests.kit.exports import KEY, OTHER_KEY, jwks_of

MECHANISM = Gaussian(noise_multiplier=20)
FILE: dict[str, Any] = {"name": "model.safetensors", "sha256": "ab" * 32, "size": 7}
TENANT = {"id": "00000000-0000-0000-0000-000000000007", "name": "acme"}
RUN = "018f3c6e-7d2a-4c41-9b0e-2f5d8a1c4e77"


def statement(**predicate: Any) -> dict[str, Any]:
    """A statement as a server signs it, with these parts of its predicate changed."""
    place = {"seq": 4, "hash": "00" * 32}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": FILE["name"], "digest": {"sha256": FILE["sha256"]}, "annotations": {"size": 7}}],
        "predicateType": "urn:privacy-ledger:attestation:1",
        "predicate": {
            "tenant": TENANT,
            "run": {"id": RUN, "settled_at": "2026-11-30T12:00:00.000000Z", "steps": 1, "stop": "planned"},
            "mechanism": {
                "type": "gaussian",
                "digest": "11" * 32,
                "parameters": {"type": "gaussian", "noise_multiplier": 20, "note": "a|b\n# <b>"},
            },
            "guarantee": {
                "bound": "certified",
                "mu": 0.05,
                "delta": 1e-07,
                "epsilon": [{"delta": 1e-05, "epsilon": 0.15999999}, {"delta": 1e-6, "epsilon": 1e22}],
            },
            "datasets": [
                {
                    "name": "mnist",
                    "id": "00000000-0000-0000-0000-000000000001",
                    "privacy_unit": 'a "user", or 1e-05 \u2028 😀',
                    "adjacency": "replace_one",
                    "settled": {**place, "root": "22" * 32},
                }
            ],
            "receipt": {"payload_sha256": "33" * 32},
            **predicate,
        },
    }


def envelope(content: Any) -> dsse.Envelope:
    """A statement in an envelope of the tests' key."""
    return dsse.sign(json.dumps(content), key=KEY)


@pytest.fixture
def offline(client: Client) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The attestation of a run, the keys, and the receipt of its start; then the server is gone."""
    with client.run(datasets=["mnist"], mechanism=MECHANISM) as run:
        run.step()
        run.models.append(FILE)
    found = client.attestation(run.id), client.jwks(), str(run.receipt)
    client.close()
    return found


def test_an_attestation_is_verified_without_a_server(offline: tuple[Any, Any, str], tmp_path: Path) -> None:
    """Goal: every check holds for the right thing, and fails for another with the reason. Method: one run's; a file of
    the same name with other bytes."""
    given, keys, receipt = offline
    found = verify_attestation(
        json.dumps(given), jwks=keys, models=[FILE], tenant="acme", datasets="mnist", mechanism=MECHANISM
    )
    assert found.models == (AttestedModel("model.safetensors", "ab" * 32, 7),)
    assert (found.mu, found.is_estimate, found.mechanism_type, found.steps) == (0.05, True, "gaussian", 1)
    assert found.receipt_sha256 == receipt_digest(receipt)
    assert verify_attestation(given, jwks=keys, run=found.run.upper(), tenant=found.tenant_id) == found
    (tmp_path / "model.safetensors").write_text("other bytes")
    for changes, kind, text in (
        ({"models": [tmp_path / "model.safetensors"]}, OtherModel, f"It names that file with {FILE['sha256']}"),
        ({"models": [{**FILE, "name": "x", "sha256": "cd" * 32}]}, OtherModel, "no such file, but: model.safetensors"),
        ({"tenant": "globex"}, AttestationOfAnother, "of the tenant acme, not of globex"),
        ({"run": RUN}, AttestationOfAnother, f"not of {RUN}"),
        ({"datasets": ["mnist", "cifar"]}, AttestationOfAnother, "of the dataset mnist, not of cifar"),
        ({"mechanism": Gaussian(noise_multiplier=21)}, AttestationOfAnother, "another mechanism, of type gaussian"),
        ({"jwks": jwks_of(KEY)}, AttestationForged, "None of these keys signed"),
    ):
        with pytest.raises(kind, match=text):
            verify_attestation(given, **{"jwks": keys, **changes})
    with pytest.raises(InvalidRequest, match="jwks"):
        verify_attestation(given, jwks={})


def test_an_attestation_is_of_the_run_that_began_with_a_receipt(client: Client) -> None:
    """Goal: the receipt with which a job began leads to what it produced, years later. Method: the receipts of the
    start, renewed, of the approval, of another run, a changed one, and no receipt."""
    asked = client.ask(datasets=["mnist"], mechanism=MECHANISM)
    started = client.start(asked["id"])
    renewed = client.receipt(asked["id"])["receipt"]
    client.settle(asked["id"], models=[FILE])
    other = client.start(client.ask(datasets=["mnist"], mechanism=MECHANISM)["id"])
    given, keys = client.attestation(asked["id"]), client.jwks()
    for receipt in (started["receipt"], renewed, f"{renewed}\n"):
        assert verify_attestation(given, jwks=keys, receipt=receipt).run == asked["id"]
    head, payload, signature = renewed.split(".")
    forged = ".".join([head, payload, ("A" if signature[0] != "A" else "B") + signature[1:]])
    for receipt, text in (
        (asked["receipt"], "did not start with this receipt. .*approval"),
        (other["receipt"], f"did not start with this receipt. .*{other['id']}"),
        (forged, "did not start with this receipt"),
    ):
        with pytest.raises(AttestationOfAnother, match=text):
            verify_attestation(given, jwks=keys, receipt=receipt)
    with pytest.raises(InvalidRequest, match="receipt: is not three parts"):
        verify_attestation(given, jwks=keys, receipt="x")


def flipped(text: str) -> str:
    """Other base64 of as many bytes."""
    raw = bytearray(base64.b64decode(text))
    raw[len(raw) // 2] ^= 1
    return base64.b64encode(raw).decode()


FORGED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another payload": (lambda it: {**it, "payload": flipped(it["payload"])}, "does not match the payload"),
    "another type": (lambda it: {**it, "payloadType": "application/json"}, "payloadType is not"),
    "no signature": (lambda it: {**it, "signatures": []}, "1 to 100 signatures"),
    "many signatures": (lambda it: {**it, "signatures": it["signatures"] * 101}, "1 to 100 signatures"),
    "an unknown key": (lambda it: {**it, "signatures": [{**it["signatures"][0], "keyid": "x"}]}, "None of these keys"),
    "another signature": (
        lambda it: {**it, "signatures": [{**it["signatures"][0], "sig": flipped(it["signatures"][0]["sig"])}]},
        "does not match",
    ),
    "a signature of another length": (
        lambda it: {**it, "signatures": [{**it["signatures"][0], "sig": "AAAA"}]},
        "does not match",
    ),
    "no base64": (lambda it: {**it, "payload": "*"}, "payload is not base64"),
    "a key that signed another text": (
        lambda it: {**it, "signatures": dsse.sign("{}", key=KEY)["signatures"]},
        "does not match",
    ),
    "no JSON": (lambda _: "{", "not JSON"),
    "a name twice": (lambda _: '{"payload":"","payload":""}', "duplicate name"),
    "too long": (lambda _: "{" + " " * (4 * 1024 * 1024) + "}", "more than"),
    "half a character": (lambda _: '{"a":"\ud800"}', "not JSON"),
}


@pytest.mark.parametrize("case", FORGED)
def test_forgeries_are_noticed(case: str) -> None:
    """Goal: whatever is changed, the attestation is rejected with the reason. Method: one change at a time."""
    change, text = FORGED[case]
    with pytest.raises(AttestationForged, match=text):
        verify_attestation(change(dict(envelope(statement()))), jwks=jwks_of(KEY))


def test_envelopes_that_other_tools_write() -> None:
    """Goal: as DSSE demands, both kinds of base64 are read, members that are not known are ignored, and one signature
    of a known key is enough. Method: an envelope made anew in these ways."""
    given = envelope(statement())
    other = dsse.sign(json.dumps(statement()), key=OTHER_KEY)["signatures"]
    url_safe = {**given["signatures"][0], "sig": given["signatures"][0]["sig"].replace("+", "-").replace("/", "_")}
    payload = given["payload"].replace("+", "-").replace("/", "_").rstrip("=")
    again = {**given, "payload": payload, "signatures": [*other, {**url_safe, "x": 1}], "more": {}}
    assert verify_attestation(again, jwks=jwks_of(KEY)).run == RUN


def test_statements_of_other_kinds() -> None:
    """Goal: what a key signed for something else is not taken for an attestation: another predicate, another version, a
    receipt's payload, a part that is missing. Method: each signed by the right key."""
    missing = statement()
    del missing["predicate"]["guarantee"]["mu"]
    for content, text in (
        ({**statement(), "predicateType": "https://slsa.dev/provenance/v1"}, "is not of type urn:privacy-ledger"),
        ({**statement(), "_type": "https://in-toto.io/Statement/v0.1"}, "is not of type"),
        ({"v": 2, "type": "receipt"}, "is not of type"),
        (missing, "Install a newer one"),
        ({**statement(), "subject": []}, "Install a newer one"),
        (statement(datasets="mnist"), "Install a newer one"),
        (statement(guarantee={"bound": "guess", "mu": 1, "delta": 0, "epsilon": []}), "Install a newer one"),
    ):
        with pytest.raises(AttestationRejected, match=text):
            verify_attestation(envelope(content), jwks=jwks_of(KEY))


# --- model cards -----------------------------------------------------------------------------------------------------


def read(**predicate: Any) -> Attestation:
    """The verified attestation of a statement with these changes."""
    return verify_attestation(envelope(statement(**predicate)), jwks=jwks_of(KEY))


def front_matter(card: str) -> Any:
    """The front matter of a card, as PyYAML reads it."""
    _, text, _ = card.split("---\n", 2)
    return yaml.safe_load(text)


def test_a_card_is_read_back_as_it_was_meant() -> None:
    """Goal: numbers of the front matter are read as these numbers, and texts as these texts, whatever they look like.
    Method: PyYAML, for which 1e-05 is a text; a unit with quotes, a line separator and an emoji."""
    found = read()
    facts = front_matter(model_card(found))
    assert facts["tags"] == ["differential-privacy"]
    stated = facts["differential_privacy"]
    assert stated["guarantees"] == [{"epsilon": 0.15999999, "delta": 1e-5}, {"epsilon": 1e22, "delta": 1e-6}]
    assert (stated["mu"], stated["delta_of_mu"], stated["run"]) == (0.05, 1e-7, RUN)
    assert stated["settled_at"] == found.settled_at.isoformat()
    assert stated["datasets"][0]["privacy_unit"] == found.datasets[0].privacy_unit
    assert stated["files"] == [FILE]
    assert yaml.safe_load("x: 1e-05")["x"] == "1e-05"


def test_a_card_states_what_holds() -> None:
    """Goal: an estimate is called one, numbers are rounded upward, an infinite epsilon is no number, and what others
    wrote is no markup. Method: the text."""
    card = model_card(read())
    assert "has this guarantee, by itself" in card
    assert "| 0.16 | 1e-05 |" in card
    assert r"note a\|b \# \<b\>" in card
    assert "<b>" not in card.split("---\n", 2)[2]
    none = {"bound": "clt", "mu": 0.123456, "delta": 0.5, "epsilon": []}
    estimate = model_card(read(guarantee=none))
    assert "estimate, which is not a guarantee" in estimate
    assert "| no finite epsilon | |" in estimate
    assert "mu 0.1235, delta 0.5" in estimate
    noise = {"type": "gaussian", "digest": "11" * 32, "parameters": {"noise_multiplier": 1.23411}}
    assert "noise\\_multiplier 1.23411." in model_card(read(mechanism=noise))
    assert "guarantees" not in front_matter(estimate)["differential_privacy"]


def test_the_commands(terminal: Terminal, tmp_path: Path) -> None:
    """Goal: attest writes what `receipt verify` accepts with the files and rejects with others; nothing is overwritten.
    Method: the commands as they are typed."""
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"weights")
    terminal("dataset create counts --mu 1 --delta 1e-6")
    run = terminal("request counts --type gaussian --noise-multiplier 20 --json").json["id"]
    terminal(f"start {run}")
    early = terminal(f"attest {run}")
    assert (early.status, "Only a settled run" in early.err) == (1, True)
    terminal(f"settle {run} --model {model}")
    terminal("jwks --output jwks.json")
    made = terminal(f"attest {run} --output attestation.json --card README.md")
    assert made.status == 0, made.err
    assert "model.safetensors, 7 bytes" in " ".join(made.out.split())
    assert front_matter(Path("README.md").read_text())["differential_privacy"]["mu"] == 0.05
    again = terminal(f"attest {run} --card README.md")
    assert (again.status, "README.md exists already" in again.err) == (2, True)
    assert terminal(f"attest {run} --json").json == json.loads(Path("attestation.json").read_text())
    check = "receipt verify attestation.json --jwks jwks.json"
    good = terminal(f"{check} --model {model} --run {run} --dataset counts")
    assert (good.status, "signed" in good.out) == (0, True)
    facts = terminal(f"{check} --json").json
    assert (facts["good"], facts["statement"]["predicate"]["guarantee"]["mu"]) == (True, 0.05)
    model.write_bytes(b"weightz")
    bad = terminal(f"{check} --model {model} --json")
    assert (bad.status, bad.json["code"]) == (1, "attestation-of-another-model")
    assert terminal(f"{check} --dataset other").status == 1
    held = terminal("request counts --type gaussian --noise-multiplier 30 --json").json["id"]
    terminal(f"receipt show {held} --output run.jwt")
    mixed = terminal(f"receipt verify run.jwt --jwks jwks.json --model {model}")
    assert (mixed.status, "is a receipt, which names no files" in mixed.err) == (2, True)


def test_exact_numbers_survive(ledger: Ledger) -> None:
    """Goal: what is shown as doubles has its exact integers beside it, and fractions are read as exact decimals."""
    ledger.register()
    with connect(ledger) as client, client.run(datasets=["mnist"], mechanism=MECHANISM) as run:
        run.step()
        run.models.append(FILE)
    with connect(ledger) as client:
        found = verify_attestation(client.attestation(run.id), jwks=client.jwks())
    guarantee = found.statement["predicate"]["guarantee"]
    assert guarantee["mu_sq_pico"] == "2500000000"
    assert guarantee["mu"] == Decimal("0.05")

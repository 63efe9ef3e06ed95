"""Attestations and model cards as other implementations read them: those of DSSE, of in-toto and of the Hub."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from google.protobuf import json_format
from huggingface_hub import ModelCard
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from ledger.client import Gaussian, Ledger, model_card, verify_attestation


@pytest.fixture
def attested(ledger: Ledger, dataset: str, tmp_path: Path) -> dict[str, object]:
    """The attestation of a run that produced two files."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "out" / "config.json").write_text("{}")
    with ledger.run(datasets=[dataset], mechanism=Gaussian(noise_multiplier=10)) as run:
        run.step()
        run.produced(tmp_path / "out")
    return ledger.attestation(run.id)


def key_of(ledger: Ledger) -> SSlibKey:
    """The ledger's public key, as securesystemslib takes it."""
    (jwk,) = ledger.jwks()["keys"]
    public = base64.urlsafe_b64decode(jwk["x"] + "=").hex()
    return SSlibKey(jwk["kid"], "ed25519", "ed25519", {"public": public})


def test_dsse_by_securesystemslib(ledger: Ledger, attested: dict[str, object]) -> None:
    """Goal: another implementation of DSSE verifies the signature, and rejects another payload."""
    envelope = Envelope.from_dict(json.loads(json.dumps(attested)))
    key = key_of(ledger)
    assert set(envelope.verify([key], 1)) == {key.keyid}
    envelope.payload += b" "
    with pytest.raises(VerificationError):
        envelope.verify([key], 1)


def test_the_statement_by_in_toto(ledger: Ledger, attested: dict[str, object]) -> None:
    """Goal: in-toto's own library reads every member of the statement and finds it valid. Method: strict parsing."""
    payload = base64.b64decode(str(attested["payload"]))
    parsed = json_format.Parse(payload, statement_pb2.Statement(), ignore_unknown_fields=False)
    Statement.copy_from_pb(parsed).validate()
    verified = verify_attestation(attested, jwks=ledger.jwks(), models=["out"])
    subjects = {subject.name: subject.digest["sha256"] for subject in parsed.subject}
    assert subjects == {model.name: model.sha256 for model in verified.models}
    assert sorted(subjects) == ["out/config.json", "out/model.safetensors"]


def test_the_card_by_the_hub(ledger: Ledger, attested: dict[str, object]) -> None:
    """Goal: the Hub's library reads the front matter as it was meant, and keeps it when the card is saved again."""
    verified = verify_attestation(attested, jwks=ledger.jwks())
    card = ModelCard(model_card(verified))
    again = ModelCard(str(card))
    for read in (card, again):
        facts = read.data.to_dict()
        assert facts["tags"] == ["differential-privacy"]
        stated = facts["differential_privacy"]
        assert stated["guarantees"] == [{"epsilon": epsilon, "delta": delta} for delta, epsilon in verified.epsilon]
        assert isinstance(stated["guarantees"][0]["delta"], float)
        assert (stated["mu"], stated["run"]) == (verified.mu, verified.run)
    assert "## Differential privacy" in card.text

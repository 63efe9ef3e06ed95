"""Signed statements about files: in-toto statements in DSSE envelopes, by the keys that sign receipts.

DSSE signs the payload's bytes with their type before them, not an encoding of them. What begins so is never the text of
a compact JWS, so neither signature passes for the other. A verifier reads the payload from exactly the bytes whose
signature holds, as the protocol asks: https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final, TypedDict

from cryptography.exceptions import InvalidSignature

from ledger.verifier.jws import PublicKeys, SignatureInvalid, SigningKey, parse_object

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
ENVELOPE_LENGTH_MAX: Final = 4 * 1024 * 1024
"""The longest envelope that is read, in characters."""
SIGNATURES_MAX: Final = 100


class EnvelopeSignature(TypedDict):
    """One signature of an envelope, in base64, and a hint at the key."""

    keyid: str
    sig: str


class Envelope(TypedDict):
    """A payload in base64, its type, and its signatures."""

    payloadType: str
    payload: str
    signatures: list[EnvelopeSignature]


def sign(payload: str, *, key: SigningKey) -> Envelope:
    """Return the envelope of an in-toto statement. The same payload and key give the same envelope."""
    signature = key.sign(_signed(payload.encode()))
    return Envelope(
        payloadType=PAYLOAD_TYPE,
        payload=base64.b64encode(payload.encode()).decode("ascii"),
        signatures=[EnvelopeSignature(keyid=key.kid, sig=base64.b64encode(signature).decode("ascii"))],
    )


def read(envelope: str | Mapping[str, Any], *, keys: PublicKeys) -> dict[str, Any]:
    """Return the statement in an envelope that one of the keys signed, given as JSON or parsed. Raises only
    SignatureInvalid."""
    members = _members(envelope)
    payload = _decoded(members.get("payload"), "payload")
    if members.get("payloadType") != PAYLOAD_TYPE:
        raise SignatureInvalid(f"The envelope's payloadType is not {PAYLOAD_TYPE}.")
    signatures = members.get("signatures")
    if not isinstance(signatures, list) or not 0 < len(signatures) <= SIGNATURES_MAX:
        raise SignatureInvalid(f"The envelope must have 1 to {SIGNATURES_MAX} signatures.")
    known = [signature for signature in signatures if _key_of(signature, keys) is not None]
    if not known:
        raise SignatureInvalid("None of these keys signed the envelope: no keyid is among them.")
    if not any(_holds(signature, payload, keys) for signature in known):
        raise SignatureInvalid("The signature does not match the payload.")
    return parse_object(payload, "payload")


def _signed(payload: bytes) -> bytes:
    """Return what is signed, PAE of the DSSE protocol."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _members(envelope: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(envelope, Mapping):
        return envelope
    if len(envelope) > ENVELOPE_LENGTH_MAX:
        raise SignatureInvalid(f"The envelope has more than {ENVELOPE_LENGTH_MAX} characters.")
    try:
        return parse_object(envelope.encode(), "envelope")
    except UnicodeEncodeError:
        raise SignatureInvalid("The envelope is not JSON.") from None


def _key_of(signature: Any, keys: PublicKeys) -> Any:
    return keys.get(signature.get("keyid")) if isinstance(signature, Mapping) else None


def _holds(signature: Mapping[str, Any], payload: bytes, keys: PublicKeys) -> bool:
    try:
        _key_of(signature, keys).verify(_decoded(signature.get("sig"), "signature"), _signed(payload))
    except InvalidSignature:
        return False
    return True


def _decoded(text: object, what: str) -> bytes:
    """Decode base64, the usual or the URL-safe one: a verifier must accept both."""
    if not isinstance(text, str) or len(text) > ENVELOPE_LENGTH_MAX:
        raise SignatureInvalid(f"The {what} is not base64.")
    usual = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(usual + "=" * (-len(usual) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise SignatureInvalid(f"The {what} is not base64.") from None

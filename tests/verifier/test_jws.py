"""Signed statements: the published vectors, and everything that must not pass for one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ledger.errors import Misconfigured
from ledger.verifier.jws import (
    HEAD,
    KEYS_MAX,
    RECEIPT,
    TOKEN_LENGTH_MAX,
    PublicKeys,
    SignatureInvalid,
    SigningKey,
    read,
    sign,
)

# RFC 8037, A.1 to A.5.
SECRET_D = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"
PUBLIC_X = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
THUMBPRINT = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
SIGNED = (
    "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
    "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
)


def b64(raw: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def un64(text: str) -> bytes:
    """And back."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def pem_of(private: Any) -> str:
    """A private key as PKCS #8 PEM text."""
    text: bytes = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return text.decode()


KEY = SigningKey.from_pem(pem_of(Ed25519PrivateKey.from_private_bytes(un64(SECRET_D))))
OTHER = SigningKey.generate()
KEYS = PublicKeys.of({"keys": [KEY.public_jwk()]})
PAYLOAD = '{"run":"r","v":1}'
TOKEN = sign(PAYLOAD, key=KEY, typ=RECEIPT)


def forged(header: str | dict[str, Any], payload: str = PAYLOAD, *, by: SigningKey = KEY) -> str:
    """A token whose signature is good, whatever its header says: by the private key itself, with no JWS library."""
    private = Ed25519PrivateKey.from_private_bytes(
        serialization.load_pem_private_key(by.pem().encode(), None).private_bytes_raw()  # type: ignore[union-attr]
    )
    text = header if isinstance(header, str) else json.dumps(header)
    signed = f"{b64(text.encode())}.{b64(payload.encode())}"
    return f"{signed}.{b64(private.sign(signed.encode()))}"


HEADER = {"alg": "EdDSA", "kid": KEY.kid, "typ": RECEIPT}


def test_the_key_of_the_rfc() -> None:
    """Goal: key and thumbprint are those of RFC 8037, A.1 to A.3, and the key comes back from its own text."""
    assert KEY.kid == THUMBPRINT
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": PUBLIC_X, "kid": THUMBPRINT, "use": "sig", "alg": "EdDSA"}
    assert KEY.public_jwk() == jwk
    assert SigningKey.from_pem(KEY.pem()).public_jwk() == jwk
    assert KEYS.kids == {THUMBPRINT}
    assert SECRET_D not in repr(KEY)
    assert repr(KEY) == f"SigningKey({THUMBPRINT})"


def test_the_signature_of_the_rfc() -> None:
    """Goal: what signs here makes the token of RFC 8037, A.4, and A.5's check takes it and no other."""
    jws = jwt.PyJWS(algorithms=["EdDSA"])
    private = serialization.load_pem_private_key(KEY.pem().encode(), None)
    assert isinstance(private, Ed25519PrivateKey)
    made = jws.encode(b"Example of Ed25519 signing", private, algorithm="EdDSA", headers={"typ": None})
    assert made == SIGNED
    key = KEYS.get(THUMBPRINT)
    assert key is not None
    assert jws.decode(SIGNED, key, algorithms=["EdDSA"]) == b"Example of Ed25519 signing"
    with pytest.raises(SignatureInvalid):
        read(SIGNED, keys=KEYS, typ=RECEIPT)  # it does not say what it is


def test_a_token_is_its_payload_signed() -> None:
    """Goal: the token is deterministic, and its parts are what RFC 7515 says, by `cryptography` and `json` alone."""
    assert (
        sign(PAYLOAD, key=KEY, typ=RECEIPT) == TOKEN == forged(f'{{"alg":"EdDSA","kid":"{KEY.kid}","typ":"{RECEIPT}"}}')
    )
    header, payload, signature = TOKEN.split(".")
    assert json.loads(un64(header)) == HEADER
    assert un64(payload).decode() == PAYLOAD
    Ed25519PublicKey.from_public_bytes(un64(PUBLIC_X)).verify(un64(signature), f"{header}.{payload}".encode())
    assert read(TOKEN, keys=KEYS, typ=RECEIPT) == {"run": "r", "v": 1}
    both = PublicKeys.of({"keys": [OTHER.public_jwk(), KEY.public_jwk()]})
    assert read(TOKEN, keys=both, typ=RECEIPT) == {"run": "r", "v": 1}


def by_hmac(alg: str, secret: bytes) -> str:
    """A token with a MAC in place of the signature."""
    signed = f"{b64(json.dumps({**HEADER, 'alg': alg}).encode())}.{b64(PAYLOAD.encode())}"
    return f"{signed}.{b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def none() -> str:
    """A token that says that it has no signature."""
    return f"{b64(json.dumps({**HEADER, 'alg': 'none'}).encode())}.{b64(PAYLOAD.encode())}."


def malleable() -> str:
    """The signature with the group's order added to its second half, which equals it modulo that order."""
    signed, _, signature = TOKEN.rpartition(".")
    raw = un64(signature)
    order = 2**252 + 27742317777372353535851937790883648493
    return f"{signed}.{b64(raw[:32] + (int.from_bytes(raw[32:], 'little') + order).to_bytes(32, 'little'))}"


HEAD_OF, PAYLOAD_OF, SIGNATURE_OF = TOKEN.split(".")
NOT_ONES: dict[str, Callable[[], Any]] = {
    "alg none": none,
    "alg none with the signature": lambda: forged({**HEADER, "alg": "none"}),
    "HS256 by the public key": lambda: by_hmac("HS256", un64(PUBLIC_X)),
    "HS256 by the public key's text": lambda: by_hmac("HS256", PUBLIC_X.encode()),
    "alg of another case": lambda: forged({**HEADER, "alg": "eddsa"}),
    "alg Ed25519": lambda: forged({**HEADER, "alg": "Ed25519"}),
    "no alg": lambda: forged({"kid": KEY.kid, "typ": RECEIPT}),
    "another kid": lambda: forged({**HEADER, "kid": OTHER.kid}),
    "another key": lambda: forged(HEADER, by=OTHER),
    "another key and its kid": lambda: sign(PAYLOAD, key=OTHER, typ=RECEIPT),
    "no kid": lambda: forged({"alg": "EdDSA", "typ": RECEIPT}),
    "a kid that is no text": lambda: forged({**HEADER, "kid": [KEY.kid]}),
    "another typ": lambda: sign(PAYLOAD, key=KEY, typ=HEAD),
    "no typ": lambda: forged({"alg": "EdDSA", "kid": KEY.kid}),
    "typ JWT": lambda: forged({**HEADER, "typ": "JWT"}),
    "crit": lambda: forged({**HEADER, "crit": ["exp"], "exp": 1}),
    "crit of what PyJWT knows": lambda: forged({**HEADER, "crit": ["b64"], "b64": True}),
    "b64": lambda: forged({**HEADER, "b64": False}),
    "its own key": lambda: forged({**HEADER, "jwk": OTHER.public_jwk()}, by=OTHER),
    "a name twice in the header": lambda: forged('{"alg":"none",' + json.dumps(HEADER)[1:]),
    "a name twice in the payload": lambda: forged(HEADER, '{"v":1,"v":1}'),
    "NaN": lambda: forged(HEADER, '{"v":NaN}'),
    "a payload that is a list": lambda: forged(HEADER, "[1]"),
    "a payload that is no JSON": lambda: forged(HEADER, "{"),
    "a payload too deep": lambda: forged(HEADER, '{"v":' + "[" * 100_000 + "]" * 100_000 + "}"),
    "a number too long": lambda: forged(HEADER, '{"v":' + "9" * 5000 + "}"),
    "a header that is a list": lambda: forged("[]"),
    "a changed payload": lambda: f"{HEAD_OF}.{b64(PAYLOAD.replace('r', 's').encode())}.{SIGNATURE_OF}",
    "truncated": lambda: TOKEN[:-1],
    "without its last bytes": lambda: f"{HEAD_OF}.{PAYLOAD_OF}.{SIGNATURE_OF[:-4]}",
    "with no signature": lambda: f"{HEAD_OF}.{PAYLOAD_OF}.",
    "with no payload": lambda: f"{HEAD_OF}..{SIGNATURE_OF}",
    "two parts": lambda: f"{HEAD_OF}.{PAYLOAD_OF}",
    "a dot at the end": lambda: TOKEN + ".",
    "a dot at the front": lambda: "." + TOKEN,
    "four parts": lambda: TOKEN + ".e30",
    "padded": lambda: TOKEN + "==",
    "a line end": lambda: TOKEN + "\n",
    "a byte order mark": lambda: "\ufeff" + TOKEN,
    "the signature's other text": lambda: TOKEN[:-1] + chr(ord(TOKEN[-1]) + 1),
    "the signature's other number": malleable,
    "nothing": lambda: "",
    "bytes": TOKEN.encode,
    "no text at all": lambda: None,
    "too long": lambda: "a" * TOKEN_LENGTH_MAX + TOKEN,
}


@pytest.mark.parametrize("case", NOT_ONES)
def test_what_is_not_signed_is_not_read(case: str) -> None:
    """Goal: no token passes but the one that the key signed, as that kind of statement. Method: each forgery alone."""
    with pytest.raises(SignatureInvalid) as caught:
        read(NOT_ONES[case](), keys=KEYS, typ=RECEIPT)
    assert caught.value.code == "signature-invalid"
    assert SIGNATURE_OF not in str(caught.value)


def test_no_bit_of_a_token_can_change() -> None:
    """Goal: each bit counts. Method: every character of a good token, replaced by its neighbour in the alphabet."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for place, letter in enumerate(TOKEN):
        other = "A" if letter == "." else letters[(letters.index(letter) + 1) % 64]
        with pytest.raises(SignatureInvalid):
            read(TOKEN[:place] + other + TOKEN[place + 1 :], keys=KEYS, typ=RECEIPT)


JWK = KEY.public_jwk()


@pytest.mark.parametrize(
    "jwks",
    [
        None,
        [],
        {},
        {"keys": {}},
        {"keys": []},
        {"keys": [None]},
        {"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]},
        {"keys": [JWK, {**JWK, "d": SECRET_D}]},
        {"keys": [{**JWK, "kid": OTHER.kid}]},
        {"keys": [{name: value for name, value in JWK.items() if name != "kid"}]},
        {"keys": [{**JWK, "x": PUBLIC_X + "="}]},
        {"keys": [{**JWK, "x": PUBLIC_X[:-1]}]},
        {"keys": [{**JWK, "x": PUBLIC_X[:-1] + "p"}]},  # bits after the last byte
        {"keys": [{**JWK, "x": 5}]},
        {"keys": [{**JWK, "alg": "HS256"}]},
        {"keys": [{**JWK, "use": "enc"}]},
        {"keys": [JWK] * (KEYS_MAX + 1)},
    ],
)
def test_key_sets_that_are_none(jwks: Any) -> None:
    """Goal: what is not a set of these keys is refused before any token is read by it."""
    with pytest.raises(SignatureInvalid):
        PublicKeys.of(jwks)


def test_keys_of_other_kinds_are_passed_over() -> None:
    """Goal: a set with keys that this version does not know still serves, as RFC 7517, 5 asks."""
    keys = PublicKeys.of({"keys": [{"kty": "AKP", "alg": "ML-DSA-44"}, {"kty": "OKP", "crv": "X25519"}, JWK]})
    assert keys.kids == {THUMBPRINT}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
        KEY.pem()[:-40],
        pem_of(rsa.generate_private_key(65537, 2048)),
        Ed25519PrivateKey.generate()
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
        .decode(),
    ],
    ids=["nothing", "empty", "cut", "RSA", "with a password"],
)
def test_texts_that_are_no_signing_key(text: str) -> None:
    """Goal: a key that cannot sign is refused at once, and nothing of it is repeated."""
    with pytest.raises(Misconfigured) as caught:
        SigningKey.from_pem(text)
    assert all(line not in str(caught.value) for line in text.splitlines() if line)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("number", ["1e401", "1e-401", "1e999999999", "0." + "1" * 1000])
def test_numbers_beyond_all_use_are_refused(number: str) -> None:
    """Goal: nothing that a statement says fills the memory, whoever signed it."""
    with pytest.raises(SignatureInvalid, match="not JSON"):
        read(sign(f'{{"x":{number}}}', key=KEY, typ=RECEIPT), keys=KEYS, typ=RECEIPT)
    assert read(sign('{"x":1e-400}', key=KEY, typ=RECEIPT), keys=KEYS, typ=RECEIPT)

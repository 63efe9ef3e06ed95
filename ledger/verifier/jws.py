"""Signed statements: compact JWS (RFC 7515) by EdDSA over Ed25519 (RFC 8037), and the keys for them as JWK (RFC 7517).

`cryptography` signs, PyJWT takes tokens apart and checks them. What is ours is how little is taken: one
algorithm, a header of exactly `alg`, `kid` and `typ`, a `typ` that names the kind of statement, keys that are known
before the token is looked at, and JSON in which no name is repeated. A statement of one kind can so never pass for one
of another, and nothing that a token says chooses how it is checked.

This imports only `ledger.errors`, because training jobs use it without the server's packages.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, NoReturn

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ledger.errors import LedgerError, Misconfigured

ALGORITHM: Final = "EdDSA"
RECEIPT: Final = "privacy-ledger-receipt+jws"
HEAD: Final = "privacy-ledger-head+jws"
ALERT: Final = "privacy-ledger-alert+jws"

TOKEN_LENGTH_MAX: Final = 4 * 1024 * 1024
"""The longest token that is read, in characters. The longest real one names many partitions."""
KEYS_MAX: Final = 1000
"""The most keys of a key set that is read."""
EXPONENT_MAX: Final = 400
NUMBER_LENGTH_MAX: Final = 802
"""The largest exponent of a number in a statement: the digits of 1e999999999 would fill the memory."""

_TOKEN: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_HEADER: Final = frozenset({"alg", "kid", "typ"})
_JWS: Final = jwt.PyJWS(algorithms=[ALGORITHM])


class SignatureInvalid(LedgerError):
    """None of these keys signed this, or it is another kind of statement."""

    code = "signature-invalid"


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _decoded(text: str) -> bytes:
    """Decode base64url. Raises SignatureInvalid unless it is the canonical text of its bytes."""
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise SignatureInvalid("The text is not base64url.") from None
    if _encoded(raw) != text:
        raise SignatureInvalid("The text is not base64url.")
    return raw


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name appears twice in one object")
    return members


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _number(text: str) -> Decimal:
    if len(text) > NUMBER_LENGTH_MAX or abs((number := Decimal(text)).adjusted()) > EXPONENT_MAX:
        raise ValueError("a number is beyond all use")
    return number


def parse_object(raw: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object, with fractions as exact decimals. Raises SignatureInvalid."""
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number, parse_float=_number)
    except (ValueError, RecursionError):
        raise SignatureInvalid(f"The {what} is not JSON, or has a duplicate name.") from None
    if not isinstance(value, dict):
        raise SignatureInvalid(f"The {what} is not a JSON object.")
    return value


def _thumbprint(x: str) -> str:
    # RFC 7638, 3, with the members that RFC 8037, 2 names for this kind of key, in the order of their names.
    return _encoded(hashlib.sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'.encode()).digest())


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """An Ed25519 private key. kid: its RFC 7638 thumbprint, base64url. It never prints the key."""

    kid: str
    _private: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> SigningKey:
        return cls._of(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, text: str) -> SigningKey:
        """Parse PKCS #8 PEM text without a password. Raises Misconfigured, which shows none of the text."""
        try:
            key = serialization.load_pem_private_key(text.encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise Misconfigured(
                "The signing key is not an Ed25519 private key in PEM without a password. Create one:"
                " privacy-ledger signing-key create"
            ) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise Misconfigured("The signing key is not an Ed25519 key. Create one: privacy-ledger signing-key create")
        return cls._of(key)

    @classmethod
    def _of(cls, private: Ed25519PrivateKey) -> SigningKey:
        return cls(_thumbprint(_encoded(private.public_key().public_bytes_raw())), private)

    def __repr__(self) -> str:
        return f"SigningKey({self.kid})"

    def sign(self, raw: bytes) -> bytes:
        """Return the Ed25519 signature of these bytes."""
        return self._private.sign(raw)

    def pem(self) -> str:
        """Return the private key as PKCS #8 PEM text: a secret."""
        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode("ascii")

    def public_jwk(self) -> dict[str, str]:
        """Return the public key, as a member of a key set."""
        x = _encoded(self._private.public_key().public_bytes_raw())
        return {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": self.kid, "use": "sig", "alg": ALGORITHM}


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """The trusted public keys, by their `kid`."""

    _known: Mapping[str, Ed25519PublicKey]

    @classmethod
    def of(cls, jwks: object) -> PublicKeys:
        """Return the keys of a JWK set. Keys of other kinds are skipped (RFC 7517, 5). Raises SignatureInvalid, also if
        there is no Ed25519 key."""
        listed = jwks.get("keys") if isinstance(jwks, Mapping) else None
        if not isinstance(listed, list) or len(listed) > KEYS_MAX:
            raise SignatureInvalid(f"The key set is not an object with a list `keys` of at most {KEYS_MAX} keys.")
        known = dict(pair for number, one in enumerate(listed) for pair in _public(one, f"keys.{number}"))
        if not known:
            raise SignatureInvalid("The key set has no Ed25519 key.")
        return cls(known)

    @property
    def kids(self) -> frozenset[str]:
        return frozenset(self._known)

    def get(self, kid: object) -> Ed25519PublicKey | None:
        return self._known.get(kid) if isinstance(kid, str) else None


def _public(jwk: object, where: str) -> Iterable[tuple[str, Ed25519PublicKey]]:
    """Return a member of a key set by its kid, or nothing if it is of another kind."""
    if not isinstance(jwk, Mapping):
        raise SignatureInvalid(f"{where}: is not an object")
    if (jwk.get("kty"), jwk.get("crv")) != ("OKP", "Ed25519"):
        return []
    if "d" in jwk:
        raise SignatureInvalid(
            f"{where}: is a private key. Never publish it: replace it, and put only its public part into the set"
        )
    if jwk.get("use", "sig") != "sig" or jwk.get("alg", ALGORITHM) != ALGORITHM:
        raise SignatureInvalid(f"{where}: is not a key for {ALGORITHM} signatures")
    x = jwk.get("x")
    if not isinstance(x, str) or len(x) != 43 or not re.fullmatch("[A-Za-z0-9_-]+", x):
        raise SignatureInvalid(f"{where}.x: is not a public key of 32 bytes as base64url")
    if jwk.get("kid") != _thumbprint(x):
        raise SignatureInvalid(f"{where}.kid: is not the key's thumbprint by RFC 7638")
    return [(_thumbprint(x), Ed25519PublicKey.from_public_bytes(_decoded(x)))]


def sign(payload: str, *, key: SigningKey, typ: str) -> str:
    """Return the compact JWS of a payload, the canonical text of a JSON object. The same payload gives the same
    token."""
    signed = f"{_header(key.kid, typ)}.{_encoded(payload.encode())}"
    return f"{signed}.{_encoded(key.sign(signed.encode()))}"


@functools.lru_cache(maxsize=64)
def _header(kid: str, typ: str) -> str:
    header = {"alg": ALGORITHM, "kid": kid, "typ": typ}
    return _encoded(json.dumps(header, separators=(",", ":")).encode())


def read(token: object, *, keys: PublicKeys, typ: str) -> dict[str, Any]:
    """Return the payload of a token of this `typ` that one of the keys signed. Raises only SignatureInvalid."""
    match = _TOKEN.fullmatch(token) if isinstance(token, str) and len(token) <= TOKEN_LENGTH_MAX else None
    if match is None:
        raise SignatureInvalid("The text is not a compact JWS: three parts of base64url, separated by dots.")
    header = parse_object(_decoded(match[1]), "header")
    if header.keys() != _HEADER or header["alg"] != ALGORITHM:
        raise SignatureInvalid(f"The header must have alg {ALGORITHM}, kid and typ, and nothing else.")
    if header["typ"] != typ:
        raise SignatureInvalid(f"The token is not a {typ}: its typ names another kind.")
    key = keys.get(header["kid"])
    if key is None:
        raise SignatureInvalid("None of these keys signed the token: its kid is not among them.")
    try:
        payload = _JWS.decode(match[0], key, algorithms=[ALGORITHM])
    except jwt.InvalidTokenError:
        raise SignatureInvalid("The signature does not match the text.") from None
    return parse_object(payload, "payload")

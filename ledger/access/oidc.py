"""Single sign-on and workload identity: recognise callers by tokens of OpenID Connect issuers.

A CI job or a Kubernetes service account sends a token of its own issuer instead of a stored key. A JSON file lists the
trusted issuers, and rules from claims to a tenant, a role and limits; the first rule that matches counts. PyJWT reads
tokens and keys and checks signatures and claims. This module adds what PyJWT's client of JWKS documents lacks for a
server: limits on what is fetched and how often (a stranger chooses a token's `kid`), keys that stay in use when an
issuer does not answer, and one answer for everything that can be wrong.

The checks of a token, in order: its form and length; its issuer, algorithm and type, before anything is fetched; the
issuer's key with its `kid`; signature, audience, times; the rules. Times are compared with this machine's clock; the
writer checks the end of a token again with the database's clock.
"""

from __future__ import annotations

import json
import logging
import math
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, NoReturn
from uuid import UUID

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import PydanticCustomError

from ledger import mistakes
from ledger.addresses import is_loopback
from ledger.core.people import Actor, Role
from ledger.errors import UNKNOWN_KEY, Misconfigured, Unauthenticated
from ledger.web import httpx

log = logging.getLogger(__name__)

TOKEN_LENGTH_MAX: Final = 8192
SUBJECT_LENGTH_MAX: Final = 1024
"""OpenID Connect allows 255; `system:serviceaccount:` with Kubernetes' longest names is longer."""
NAME_LENGTH_MAX: Final = 255
KID_LENGTH_MAX: Final = 255
END_SECONDS_MAX: Final = 32_503_680_000
"""The year 3000. A token that ends later is rejected: its end would not fit a time."""

DOCUMENT_BYTES_MAX: Final = 256 * 1024
FETCH_SECONDS_MAX: Final = 5.0
LIFETIME_SECONDS: Final = 300.0
"""How old keys may be before they are fetched again."""
STALE_SECONDS: Final = 3600.0
"""How old keys may be if fetching fails: a key that its issuer withdrew works at most this long."""
REFETCH_SECONDS: Final = 10.0
"""The least time between two fetches, successful or not, whatever tokens contain."""
WAITING_MAX: Final = 8
"""The largest number of threads that fetch or wait for a fetch. All requests share 40, which a slow issuer must not use
up."""

Reason = Literal[
    "too-long",
    "malformed",
    "issuer",
    "algorithm",
    "type",
    "kid",
    "no-keys",
    "signature",
    "audience",
    "expired",
    "not-yet-valid",
    "claims",
    "rules",
]
"""Why a token was rejected: for the log and a counter, never for the caller."""

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Asymmetric algorithms only, so that nobody else can make what the issuer signs. No `none`, no HMAC."""

_KEY_TYPES: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})
"""The allowed values of `typ`, if it is there: identity and access tokens. An issuer also signs others, such as
`logout+jwt`."""
_REQUIRED: Final = ["iss", "sub", "aud", "exp", "iat"]
_TOKEN: Final = re.compile(r"(?!pbl_)[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


def looks_like_token(secret: str) -> bool:
    """Return whether this has the form of a JWT and is no key: three parts of base64url, of which the last may be
    empty."""
    return _TOKEN.fullmatch(secret) is not None


# --- the configuration -----------------------------------------------------------------------------------------------


def _url(text: str) -> str:
    """Return the text of a URL that may be fetched from. Raises what Pydantic reports, which does not repeat it."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise PydanticCustomError("url", "is not a URL") from None
    if not url.host or url.userinfo or url.fragment:
        raise PydanticCustomError("url", "must have a host, and neither a user nor a fragment")
    if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.host)):
        raise PydanticCustomError("url", "must begin with https:// (http:// is allowed for loopback addresses only)")
    return text


def _issuer_url(text: str) -> str:
    if httpx.URL(text).query:
        raise PydanticCustomError("url", "must have no query")
    return text


def _claim_value(value: str | bool | int) -> str | bool | int:
    """Return the value that a rule requires of a claim. A `*` alone, or before the end, is rejected: it would be
    misread."""
    if isinstance(value, str) and (value == "*" or "*" in value[:-1]):
        raise PydanticCustomError(
            "wildcard", "may have one *, at its end, after the text that the claim must begin with"
        )
    return value


def _tenant(value: UUID) -> UUID:
    if value.int == 0:
        raise PydanticCustomError("tenant", "is not a tenant's id")
    return value


Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Url = Annotated[Text, AfterValidator(_url)]
Names = Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=63)]], Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Rule(_Strict):
    """A caller with these claims acts in this tenant, in this role, within these limits."""

    claims: Annotated[dict[Text, Annotated[Text | bool | int, AfterValidator(_claim_value)]], Field(min_length=1)]
    tenant: Annotated[UUID, AfterValidator(_tenant)]
    role: Role
    datasets: Names | None = None
    projects: Names | None = None

    def matches(self, claims: Mapping[str, Any]) -> bool:
        return all(_has(claims.get(name), expected) for name, expected in self.claims.items())


class IssuerConfig(_Strict):
    """An issuer in the configuration. Without `jwks_uri` its keys are found by discovery."""

    issuer: Annotated[Url, AfterValidator(_issuer_url)]
    audience: Text
    algorithms: Annotated[list[Algorithm], Field(min_length=1)]
    jwks_uri: Url | None = None
    leeway_seconds: Annotated[int, Field(ge=0, le=300)] = 60
    rules: Annotated[list[Rule], Field(min_length=1)]


def _distinct(issuers: list[IssuerConfig]) -> list[IssuerConfig]:
    if len({one.issuer for one in issuers}) < len(issuers):
        raise PydanticCustomError("distinct", "must not name an issuer twice: list all rules of an issuer in one place")
    return issuers


class Configuration(_Strict):
    """The contents of the file."""

    issuers: Annotated[list[IssuerConfig], Field(min_length=1, max_length=100), AfterValidator(_distinct)]


def _has(value: object, expected: str | bool | int) -> bool:
    """Return whether a claim is what a rule requires, or a list that contains it."""
    if isinstance(value, list):
        return any(not isinstance(item, list) and _has(item, expected) for item in value)
    if isinstance(value, str) and isinstance(expected, str) and expected.endswith("*"):
        return value.startswith(expected[:-1])
    return type(value) is type(expected) and value == expected  # in Python true is 1


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise Misconfigured("an object has the same member twice; remove one")
    return members


def configuration(path: Path) -> Configuration:
    """Return the contents of a file. Raises Misconfigured, which names the field and not its value."""
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text, object_pairs_hook=_no_duplicates)
        return Configuration.model_validate_json(text)
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read: {error.strerror}") from None
    except Misconfigured as error:
        raise Misconfigured(f"{path}: {error.detail}") from None
    except ValidationError as error:
        found = mistakes.described(error.errors(include_url=False, include_input=False), Configuration)
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {mistakes.message(item)}" for item in found)
        raise Misconfigured(f"{path}: {wrong}") from None
    except (ValueError, RecursionError):
        raise Misconfigured(f"{path} is not JSON") from None


# --- tokens ----------------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """A token is rejected. Has the reason, and the issuer if the configuration or a signature vouches for it."""

    def __init__(self, reason: Reason, *, issuer: str | None = None, detail: str = "") -> None:
        self.reason, self.issuer, self.detail = reason, issuer, detail
        super().__init__(reason)


class Issuers:
    """Recognises callers by tokens of the configured issuers.

    clock: seconds that never go back.
    """

    def __init__(
        self,
        configured: Configuration,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        slots = threading.BoundedSemaphore(WAITING_MAX)
        self._issuers = {one.issuer: _Issuer(one, _Keys(one, slots, clock)) for one in configured.issuers}

    @classmethod
    def load(cls, path: Path) -> Issuers:
        """Return the issuers that a file names. Raises Misconfigured. Nothing is fetched yet."""
        return cls(configuration(path))

    def recognise(self, token: str) -> Actor:
        """Return the actor that a token stands for. May fetch keys, so it blocks. Raises Unauthenticated."""
        try:
            return self._recognise(token)
        except _Refused as refused:
            log.info("a token of %s was refused: %s%s", refused.issuer or "nobody", refused.reason, refused.detail)
        raise Unauthenticated(UNKNOWN_KEY)

    def _recognise(self, token: str) -> Actor:
        if len(token) > TOKEN_LENGTH_MAX:
            raise _Refused("too-long")
        if not looks_like_token(token):
            raise _Refused("malformed")
        try:
            # Nothing here is trusted yet: it only selects the issuer and the key that must have signed the token.
            read = jwt.decode_complete(token, options={"verify_signature": False})
        except jwt.PyJWTError:
            raise _Refused("malformed") from None
        named = read["payload"].get("iss")
        issuer = self._issuers.get(named) if isinstance(named, str) else None
        if issuer is None:
            raise _Refused("issuer")
        return issuer.recognise(token, read["header"])


class _Issuer:
    """One issuer: what it must have signed, and the callers that its claims stand for."""

    def __init__(self, config: IssuerConfig, keys: _Keys) -> None:
        self._config, self._keys = config, keys
        self._host = httpx.URL(config.issuer).host

    def recognise(self, token: str, header: Mapping[str, Any]) -> Actor:
        algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "jwt")
        if algorithm not in self._config.algorithms:
            self._refuse("algorithm")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            self._refuse("type")
        if not isinstance(kid, str) or not 0 < len(kid) <= KID_LENGTH_MAX:
            self._refuse("kid")
        return self._actor(self._verified(token, self._keys.find(kid, algorithm)))

    def _verified(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                key,  # which is bound to its algorithm
                algorithms=self._config.algorithms,
                audience=self._config.audience,
                issuer=self._config.issuer,
                leeway=self._config.leeway_seconds,
                options={"require": _REQUIRED, "enforce_minimum_key_length": True},
            )
        except (jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            self._refuse(_reason(error))

    def _actor(self, claims: Mapping[str, Any]) -> Actor:
        subject, end = claims["sub"], claims["exp"]
        # Control characters and lone surrogates must not get into a journal, nor do they fit into a database.
        if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_LENGTH_MAX or not subject.isprintable():
            self._refuse("claims", ": sub")
        if not isinstance(end, int | float) or isinstance(end, bool) or end > END_SECONDS_MAX:
            self._refuse("claims", ": exp")
        rule = next((rule for rule in self._config.rules if rule.matches(claims)), None)
        if rule is None:
            self._refuse("rules", f": no rule matches the subject {subject!r}")
        principal_id = uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_URL, self._config.issuer), subject)
        return Actor(
            tenant_id=rule.tenant,
            key_id=principal_id,
            principal_id=principal_id,
            name=f"{self._host}:{subject}"[:NAME_LENGTH_MAX],
            role=rule.role,
            datasets=None if rule.datasets is None else frozenset(rule.datasets),
            projects=None if rule.projects is None else frozenset(rule.projects),
            expires_us=(int(end) + self._config.leeway_seconds) * 1_000_000,
        )

    def _refuse(self, reason: Reason, detail: str = "") -> NoReturn:
        raise _Refused(reason, issuer=self._config.issuer, detail=detail)


def _reason(error: Exception) -> Reason:
    match error:
        case jwt.ExpiredSignatureError():
            return "expired"
        case jwt.ImmatureSignatureError():
            return "not-yet-valid"
        case jwt.InvalidAudienceError():
            return "audience"
        case jwt.InvalidSignatureError() | jwt.InvalidKeyError() | UnsupportedAlgorithm():
            return "signature"
        case _:
            return "claims"


# --- the issuers' keys -----------------------------------------------------------------------------------------------


class _Held(NamedTuple):
    """Public keys by `kid` and algorithm, and when they were fetched."""

    keys: Mapping[tuple[str, str], jwt.PyJWK]
    fetched: float


class _Unusable(Exception):
    """An issuer's document cannot be fetched, or is not valid."""


class _Keys:
    """An issuer's keys, as it published them last. Any thread may ask; one at a time fetches."""

    def __init__(self, config: IssuerConfig, slots: threading.BoundedSemaphore, clock: Callable[[], float]) -> None:
        self._config, self._slots, self._clock = config, slots, clock
        self._fetching = threading.Lock()
        self._held = _Held({}, -math.inf)
        self._tried = -math.inf

    def find(self, kid: str, algorithm: str) -> jwt.PyJWK:
        """Return the key with which this issuer signs by this algorithm. Raises _Refused."""
        held = self._held
        key = held.keys.get((kid, algorithm))
        age = self._clock() - held.fetched
        if key is None or age >= LIFETIME_SECONDS:
            # A thread that can use an old key does not wait while another one fetches.
            self._refresh(held, may_wait=key is None or age >= STALE_SECONDS)
            held = self._held
            key = held.keys.get((kid, algorithm))
        if self._clock() - held.fetched >= STALE_SECONDS:
            raise _Refused("no-keys", issuer=self._config.issuer)
        if key is None:
            raise _Refused("kid", issuer=self._config.issuer)
        return key

    def _refresh(self, seen: _Held, *, may_wait: bool) -> None:
        """Fetch the keys, unless that was tried just now, or too many threads wait for it."""
        if self._is_too_soon() and not self._fetching.locked():
            return
        if not self._slots.acquire(blocking=False):
            return
        try:
            if not self._fetching.acquire(blocking=may_wait):
                return
            try:
                if self._held is seen and not self._is_too_soon():
                    self._fetch()
            finally:
                self._fetching.release()
        finally:
            self._slots.release()

    def _is_too_soon(self) -> bool:
        return self._clock() - self._tried < REFETCH_SECONDS

    def _fetch(self) -> None:
        try:
            keys = _usable(_document(self._where()), self._config.algorithms)
        except _Unusable as error:
            log.warning("the keys of %s could not be fetched: %s", self._config.issuer, error)
        else:
            if not keys:
                log.warning("%s publishes no key for the configured algorithms", self._config.issuer)
            self._held = _Held(keys, self._clock())
        finally:
            self._tried = self._clock()  # afterwards, so that the threads that waited do not each try again

    def _where(self) -> str:
        """Return the address of the keys. The discovery document must name exactly this issuer (OpenID Connect
        Discovery 1.0, 4)."""
        if self._config.jwks_uri is not None:
            return self._config.jwks_uri
        document = _document(self._config.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if document.get("issuer") != self._config.issuer:
            raise _Unusable("the discovery document names another issuer")
        where = document.get("jwks_uri")
        try:
            url = httpx.URL(_url(where)) if isinstance(where, str) else None
        except PydanticCustomError:
            url = None
        # An issuer elsewhere may not send requests to services on this machine.
        if url is None or (is_loopback(url.host) and not is_loopback(httpx.URL(self._config.issuer).host)):
            raise _Unusable("the discovery document has no jwks_uri that may be fetched")
        return str(url)


def _usable(document: Mapping[str, Any], algorithms: list[Algorithm]) -> dict[tuple[str, str], jwt.PyJWK]:
    """Return a JWKS document's keys that verify signatures by these algorithms. Raises _Unusable if it has none."""
    published = document.get("keys")
    if not isinstance(published, list):
        raise _Unusable("the JWKS document has no list of keys")
    usable: dict[tuple[str, str], jwt.PyJWK] = {}
    for jwk in published:
        if not isinstance(jwk, dict) or not isinstance(jwk.get("kid"), str) or jwk.get("use", "sig") != "sig":
            continue
        for algorithm in algorithms:
            key = _key(jwk, algorithm)
            if key is not None:
                usable.setdefault((jwk["kid"], algorithm), key)
    return usable


def _key(jwk: dict[str, Any], algorithm: Algorithm) -> jwt.PyJWK | None:
    """Return a published key, bound to one algorithm; None if it is for something else, weak, or no public key."""
    if jwk.get("alg", algorithm) != algorithm or jwk.get("kty") != _KEY_TYPES[algorithm[:2]] or "d" in jwk:
        return None
    try:
        key = jwt.PyJWK(jwk, algorithm)  # on its own it would accept an RSA key without `alg` for RS256
        weakness = key.Algorithm.check_key_length(key.Algorithm.prepare_key(key.key))
    except (jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return None if weakness else key


def _document(where: str) -> dict[str, Any]:
    """Return a JSON object from the network, bounded in size and time. Raises _Unusable. Follows no redirection."""
    deadline = time.monotonic() + FETCH_SECONDS_MAX
    body = bytearray()
    # Not compressed, so that the limit on what arrives also limits what is read. A proxy cannot reach this machine.
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    try:
        with (
            httpx.Client(timeout=FETCH_SECONDS_MAX, trust_env=not is_loopback(httpx.URL(where).host)) as client,
            client.stream("GET", where, headers=headers, follow_redirects=False) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise _Unusable(f"{where} answered {response.status_code}")
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > DOCUMENT_BYTES_MAX or time.monotonic() > deadline:
                    raise _Unusable(f"{where} is too large or too slow")
        document = json.loads(bytes(body))
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise _Unusable(f"{where} cannot be reached: {type(error).__name__}") from None
    except (ValueError, RecursionError):
        raise _Unusable(f"{where} is not JSON") from None
    if not isinstance(document, dict):
        raise _Unusable(f"{where} is not a JSON object")
    return document

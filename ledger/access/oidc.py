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
from typing import Any, Final, Literal, NamedTuple, NoReturn

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from pydantic_core import PydanticCustomError

from ledger.access.issuers import Algorithm, Configuration, IssuerConfig, checked_url, configuration, secret_of
from ledger.addresses import is_loopback
from ledger.core.people import Actor
from ledger.errors import UNKNOWN_KEY, Unauthenticated
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
"""Why a token was rejected: for the log and a counter. A caller learns it only of a token that its issuer signed."""

_TO_THE_HOLDER: Final[Mapping[str, str]] = {
    "audience": "its `aud` names another service. Ask its issuer for the audience that this ledger is configured with.",
    "expired": "it has expired. Get a new one from its issuer.",
    "not-yet-valid": "it is not valid yet, by its `nbf` or `iat`. Compare the clocks of this server and its issuer.",
    "claims": "a claim is missing or has a wrong form: {detail}.",
    "rules": "no rule of this ledger admits it: {detail}. Ask the operator of the ledger.",
}
"""What the holder of a signed token gets. Rules are named by the claims that differ, never by what they require."""
RULES_NAMED_MAX: Final = 10

_AT_SIGN_IN: Final[Mapping[str, str]] = {
    "too-long": f"it has more than {TOKEN_LENGTH_MAX} characters. Let the provider put less into it.",
    "malformed": "it is not a signed token.",
    "issuer": "its `iss` names another issuer.",
    "algorithm": "its algorithm is not among `algorithms` of LEDGER_OIDC_FILE.",
    "type": "its `typ` is not JWT.",
    "kid": "it has no `kid`, or the issuer publishes no key with that for its algorithm.",
    "no-keys": "the keys of the issuer cannot be fetched. Try again later.",
    "signature": "its signature is wrong.",
    "audience": "its `aud` is not the `client_id` of LEDGER_OIDC_FILE alone.",
    "expired": "it has expired. Sign in again, and compare the clocks of this server and its issuer.",
}
"""What a person gets whose sign-in failed, if it is not what the holder of a token gets."""

_KEY_TYPES: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})
"""The allowed values of `typ`, if it is there: identity and access tokens. An issuer also signs others, such as
`logout+jwt`."""
_ID_TYPES: Final = frozenset({"jwt"})
_REQUIRED: Final = ["iss", "sub", "aud", "exp", "iat"]
_TOKEN: Final = re.compile(r"(?!pbl_)[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


def looks_like_token(secret: str) -> bool:
    """Return whether this has the form of a JWT and is no key: three parts of base64url, of which the last may be
    empty."""
    return _TOKEN.fullmatch(secret) is not None


# --- tokens ----------------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """A token is rejected. Has the reason, and the issuer if the configuration or a signature vouches for it."""

    def __init__(
        self, reason: Reason, *, issuer: str | None = None, detail: str = "", to_holder: str | None = None
    ) -> None:
        """to_holder: what the caller may learn, since the issuer signed the token; None if that is not certain."""
        self.reason, self.issuer, self.detail, self.to_holder = reason, issuer, detail, to_holder
        super().__init__(reason)

    def answer(self) -> Unauthenticated:
        """Return the error for the caller: the reason for the holder of a signed token, and one text for all others."""
        if self.to_holder is None:
            return Unauthenticated(UNKNOWN_KEY)
        said = _TO_THE_HOLDER[self.reason].format(detail=self.to_holder)
        return Unauthenticated(f"The signature of this token is valid, but {said}", reason=self.reason)


class Identity(NamedTuple):
    """Who an ID token stands for, and its verified claims and header."""

    actor: Actor
    claims: dict[str, Any]
    header: dict[str, Any]


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
        self.of_people = tuple(one for one in configured.issuers if one.client_id is not None)

    @classmethod
    def load(cls, path: Path) -> Issuers:
        """Return the issuers that a file names. Raises Misconfigured. Nothing is fetched yet."""
        made = cls(configuration(path))
        for one in made.of_people:
            secret_of(one)  # fail at the start, and not at the first sign-in
        return made

    def recognise(self, token: str) -> Actor:
        """Return the actor that a token stands for. May fetch keys, so it blocks. Raises Unauthenticated."""
        try:
            return self._recognise(token)
        except _Refused as refused:
            log.info("a token of %s was refused: %s%s", refused.issuer or "nobody", refused.reason, refused.detail)
            answer = refused.answer()
        raise answer

    def identify(self, issuer: str, token: str) -> Identity:
        """Return whom an ID token stands for that this issuer has just sent for a sign-in: by the checks of every
        token, and made for the issuer's `client_id`. May fetch keys, so it blocks. Raises Unauthenticated."""
        try:
            header, claims = _unverified(token)
            if claims.get("iss") != issuer:
                raise _Refused("issuer", issuer=issuer)
            return self._issuers[issuer].identify(token, header)
        except _Refused as refused:
            log.info("an ID token of %s was refused: %s%s", issuer, refused.reason, refused.detail)
            words = _AT_SIGN_IN.get(refused.reason) or _TO_THE_HOLDER[refused.reason].format(detail=refused.to_holder)
            reason = refused.reason
        raise Unauthenticated(f"{issuer} sent an ID token that this ledger does not accept: {words}", reason=reason)

    def _recognise(self, token: str) -> Actor:
        header, claims = _unverified(token)
        named = claims.get("iss")
        issuer = self._issuers.get(named) if isinstance(named, str) else None
        if issuer is None:
            raise _Refused("issuer")
        return issuer.recognise(token, header)


def _unverified(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and claims, of which nothing is trusted yet: they only select the issuer and the key that must have
    signed the token. Raises _Refused."""
    if len(token) > TOKEN_LENGTH_MAX:
        raise _Refused("too-long")
    if not looks_like_token(token):
        raise _Refused("malformed")
    try:
        read = jwt.decode_complete(token, options={"verify_signature": False})
    except jwt.PyJWTError:
        raise _Refused("malformed") from None
    return read["header"], read["payload"]


class _Issuer:
    """One issuer: what it must have signed, and the callers that its claims stand for."""

    def __init__(self, config: IssuerConfig, keys: _Keys) -> None:
        self._config, self._keys = config, keys
        self._host = httpx.URL(config.issuer).host

    def recognise(self, token: str, header: Mapping[str, Any]) -> Actor:
        return self._actor(self._verified(token, header, types=_TYPES, audience=self._config.audience))

    def identify(self, token: str, header: dict[str, Any]) -> Identity:
        client_id, audience = self._config.client_id, self._config.audience
        if client_id is None:
            self._refuse("audience")
        claims = self._verified(token, header, types=_ID_TYPES, audience=client_id)
        named = claims["aud"]
        if isinstance(named, list) and not {*map(str, named)} <= {client_id, audience}:
            self._refuse("audience")  # OpenID Connect Core 1.0, 3.1.3.7: no audience that is not trusted
        return Identity(self._actor(claims), claims, header)

    def _verified(
        self, token: str, header: Mapping[str, Any], *, types: frozenset[str], audience: str
    ) -> dict[str, Any]:
        algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "jwt")
        if algorithm not in self._config.algorithms:
            self._refuse("algorithm")
        if not isinstance(kind, str) or kind.lower() not in types:
            self._refuse("type")
        if not isinstance(kid, str) or not 0 < len(kid) <= KID_LENGTH_MAX:
            self._refuse("kid")
        key = self._keys.find(kid, algorithm)
        try:
            return jwt.decode(
                token,
                key,  # which is bound to its algorithm
                algorithms=self._config.algorithms,
                audience=audience,
                issuer=self._config.issuer,
                leeway=self._config.leeway_seconds,
                options={"require": _REQUIRED, "enforce_minimum_key_length": True},
            )
        except (jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            self._refuse(_reason(error), to_holder=_claims_of(error))

    def _actor(self, claims: Mapping[str, Any]) -> Actor:
        subject, end = claims["sub"], claims["exp"]
        # Control characters and lone surrogates must not get into a journal, nor do they fit into a database.
        if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_LENGTH_MAX or not subject.isprintable():
            self._refuse("claims", ": sub", to_holder="sub")
        if not isinstance(end, int | float) or isinstance(end, bool) or end > END_SECONDS_MAX:
            self._refuse("claims", ": exp", to_holder="exp")
        rule = next((rule for rule in self._config.rules if rule.matches(claims)), None)
        if rule is None:
            self._refuse("rules", f": no rule matches the subject {subject!r}", to_holder=self._differing(claims))
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

    def _differing(self, claims: Mapping[str, Any]) -> str:
        """Return the names of the claims in which a token differs from each rule."""
        rules = self._config.rules
        parts = [
            f"rule {number} differs in {', '.join(rule.differing(claims))}"
            for number, rule in enumerate(rules[:RULES_NAMED_MAX], start=1)
        ]
        more = len(rules) - RULES_NAMED_MAX
        return "; ".join(parts) + (f"; and {more} more rules" if more > 0 else "")

    def _refuse(self, reason: Reason, detail: str = "", *, to_holder: str | None = None) -> NoReturn:
        raise _Refused(reason, issuer=self._config.issuer, detail=detail, to_holder=to_holder)


def _claims_of(error: Exception) -> str | None:
    """Return what is wrong with the claims of a token; None unless PyJWT finds this only after the signature."""
    match error:
        case jwt.MissingRequiredClaimError():
            return str(error.claim)
        case jwt.InvalidIssuedAtError():
            return "iat"
        case jwt.ExpiredSignatureError() | jwt.ImmatureSignatureError() | jwt.InvalidAudienceError():
            return ""
        case _:
            return None


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


class Unusable(Exception):
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
            keys = _usable(document(self._where()), self._config.algorithms)
        except Unusable as error:
            log.warning("the keys of %s could not be fetched: %s", self._config.issuer, error)
        else:
            if not keys:
                log.warning("%s publishes no key for the configured algorithms", self._config.issuer)
            self._held = _Held(keys, self._clock())
        finally:
            self._tried = self._clock()  # afterwards, so that the threads that waited do not each try again

    def _where(self) -> str:
        """Return the address of the keys. Raises Unusable."""
        if self._config.jwks_uri is not None:
            return self._config.jwks_uri
        return endpoint(discovered(self._config), "jwks_uri")


def discovered(config: IssuerConfig) -> dict[str, Any]:
    """Return the discovery document of an issuer, which must name exactly this issuer (OpenID Connect Discovery 1.0,
    4.3). Raises Unusable."""
    read = document(config.issuer.rstrip("/") + "/.well-known/openid-configuration")
    if read.get("issuer") != config.issuer:
        raise Unusable("the discovery document names another issuer")
    return read


def endpoint(discovery: Mapping[str, Any], name: str) -> str:
    """Return an address of a discovery document. Raises Unusable unless requests may be sent there."""
    where = discovery.get(name)
    try:
        url = httpx.URL(checked_url(where)) if isinstance(where, str) else None
    except PydanticCustomError:
        url = None
    # An issuer elsewhere may not send requests to services on this machine.
    if url is None or (is_loopback(url.host) and not is_loopback(httpx.URL(discovery["issuer"]).host)):
        raise Unusable(f"the discovery document has no {name} that may be fetched")
    return str(url)


def _usable(document: Mapping[str, Any], algorithms: list[Algorithm]) -> dict[tuple[str, str], jwt.PyJWK]:
    """Return a JWKS document's keys that verify signatures by these algorithms. Raises Unusable if it has none."""
    published = document.get("keys")
    if not isinstance(published, list):
        raise Unusable("the JWKS document has no list of keys")
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


def document(
    where: str,
    *,
    form: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    also: frozenset[int] = frozenset(),
) -> dict[str, Any]:
    """Return a JSON object from the network, bounded in size and time. Raises Unusable. Follows no redirection.

    form: what is sent there, with these headers. also: statuses of answers that are read beside 200.
    """
    deadline = time.monotonic() + FETCH_SECONDS_MAX
    body = bytearray()
    # Not compressed, so that the limit on what arrives also limits what is read. A proxy cannot reach this machine.
    given = {**(headers or {}), "Accept": "application/json", "Accept-Encoding": "identity"}
    method = "GET" if form is None else "POST"
    try:
        with (
            httpx.Client(timeout=FETCH_SECONDS_MAX, trust_env=not is_loopback(httpx.URL(where).host)) as client,
            client.stream(method, where, content=form, headers=given, follow_redirects=False) as response,
        ):
            if response.status_code != httpx.codes.OK and response.status_code not in also:
                raise Unusable(f"{where} answered {response.status_code}")
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > DOCUMENT_BYTES_MAX or time.monotonic() > deadline:
                    raise Unusable(f"{where} is too large or too slow")
        read = json.loads(bytes(body))
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise Unusable(f"{where} cannot be reached: {type(error).__name__}") from None
    except (ValueError, RecursionError):
        raise Unusable(f"{where} is not JSON") from None
    if not isinstance(read, dict):
        raise Unusable(f"{where} is not a JSON object")
    return read

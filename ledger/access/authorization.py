"""Sign-in of people by an OpenID Connect issuer: authorization code with PKCE (RFC 6749 and 7636, OpenID Connect Core).

`begin` returns where the browser goes, and what it keeps meanwhile: state, nonce and the verifier of PKCE, sealed by a
key that only this ledger's servers have, for ten minutes. `finish` compares what came back with it, exchanges the code,
and begins a session of the person whom the ID token names. The token passes the same checks and rules as a token of the
API (`ledger.access.oidc`), and is then forgotten: it is in no address, log or storage.

Every issuer has a redirect URI of its own, so the code of one is never sent to another (RFC 9700, 4.4). Authlib, which
knows the protocol, is imported when somebody signs in by an issuer, and not before. Requests go by our own function,
which bounds them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from ledger.access.issuers import IssuerConfig, secret_of
from ledger.access.keys import Keyring
from ledger.access.oidc import Identity, Issuers, Unusable, discovered, document, endpoint
from ledger.access.sessions import Once, Sessions, Subject
from ledger.errors import LedgerError, NotFound, Overloaded, Unauthenticated

if TYPE_CHECKING:
    from authlib.oauth2.auth import ClientAuth

log = logging.getLogger(__name__)

FLOW_SECONDS: Final = 600
NEXT_LENGTH_MAX: Final = 1000
"""A longer address to go to afterwards is dropped: browsers keep about 4 KB in a cookie."""
SEALED_LENGTH_MAX: Final = 4000
CODE_LENGTH_MAX: Final = 4096
DISCOVERY_SECONDS: Final = 300.0
RETRY_SECONDS: Final = 10.0
"""The least time between two attempts to fetch a discovery document."""
_READ: Final = frozenset({400, 401})
"""The statuses with which a token endpoint explains an error (RFC 6749, 5.2)."""
_STALE: Final = (
    "This sign-in was not begun in this browser, or it was begun more than 10 minutes ago, or used before. Begin it"
    " again on the sign-in page."
)
_ERRORS: Final[Mapping[str, str]] = {
    "access_denied": "it, or you, refused the sign-in",
    "invalid_client": "it does not know this ledger: compare client_id and client_secret of LEDGER_OIDC_FILE with it",
    "invalid_grant": "it refused the code, which was used before, has expired, or belongs to another sign-in",
    "invalid_request": "it does not take the request: compare the redirect URI with what is registered there",
    "invalid_scope": "it does not allow the scopes: allow them there, or set `scopes` in LEDGER_OIDC_FILE",
    "unauthorized_client": "this ledger may not use the authorization code there: allow it",
    "login_required": "you are not signed in there",
    "consent_required": "it needs your consent",
    "server_error": "it had an error of its own; try again later",
    "temporarily_unavailable": "it is busy; try again later",
}
"""What the errors of an issuer mean (RFC 6749, 4.1.2.1 and 5.2; OpenID Connect Core 1.0, 3.1.2.6)."""


class Choice(NamedTuple):
    """An issuer that people can sign in by: its part of addresses, and its host."""

    slug: str
    host: str


class Begun(NamedTuple):
    """Where the browser goes, and what it keeps until it comes back."""

    url: str
    sealed: str


class Finished(NamedTuple):
    """The secret of a session that began, and the page that was asked for."""

    secret: str
    next: str


class SignIns:
    """Sign-ins by the issuers that have a `client_id`. Its methods wait for issuers: none is for an event loop.

    seal: a secret that all processes of the ledger share, and nobody else. clock: seconds that never go back.
    """

    def __init__(
        self,
        issuers: Issuers | None,
        keyring: Keyring,
        sessions: Sessions,
        *,
        seal: Callable[[], bytes],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuers, self._keyring, self._sessions, self._seal = issuers, keyring, sessions, seal
        configured = () if issuers is None else issuers.of_people
        self._known = {one.slug: _Provider(one, clock) for one in configured}

    @property
    def choices(self) -> list[Choice]:
        """Return the issuers to choose from."""
        return [Choice(slug, one.host) for slug, one in self._known.items()]

    def begin(self, slug: str, *, redirect_uri: str, next_: str) -> Begun:
        """Begin a sign-in. Raises NotFound, and Overloaded if the issuer does not answer."""
        provider = self._provider(slug)
        flow = {
            "issuer": slug,
            "redirect_uri": redirect_uri,
            "state": secrets.token_urlsafe(32),
            "nonce": secrets.token_urlsafe(32),
            "verifier": secrets.token_urlsafe(48),
            "next": next_ if len(next_) <= NEXT_LENGTH_MAX else "/ui",
        }
        return Begun(provider.address(flow), self._fernet().encrypt(json.dumps(flow).encode()).decode())

    def finish(self, slug: str, *, sealed: str | None, answer: Mapping[str, str], redirect_uri: str) -> Finished:
        """Finish a sign-in, and begin a session. Raises NotFound, Unauthenticated and Overloaded.

        answer: what the issuer sent in the browser's address. redirect_uri: the address that it came to.
        """
        provider, flow = self._provider(slug), self._opened(sealed)
        state = answer.get("state", "")
        if flow is None or flow["issuer"] != slug or flow["redirect_uri"] != redirect_uri:
            raise Unauthenticated(_STALE)
        if not secrets.compare_digest(flow["state"].encode(), state.encode("utf-8", "surrogatepass")):
            raise Unauthenticated(f"The `state` of this answer is that of another sign-in. {_STALE}")
        code = provider.code_of(answer)
        tokens = provider.exchanged(code, flow)
        identity = self._identified(provider.config, tokens, nonce=flow["nonce"])
        self._keyring.demand_vouched(identity.actor)
        subject = Subject(identity.actor, provider.config.issuer, provider.config.digest())
        once = Once(hashlib.sha256(b"sign-in " + flow["state"].encode()).digest(), FLOW_SECONDS)
        return Finished(self._sessions.begin(identity.actor, subject, once=once), flow["next"])

    def _provider(self, slug: str) -> _Provider:
        provider = self._known.get(slug)
        if provider is None:
            raise NotFound("No issuer with this address signs people in here. Choose one on the sign-in page.")
        return provider

    def _fernet(self) -> Any:
        from base64 import urlsafe_b64encode

        from cryptography.fernet import Fernet

        return Fernet(urlsafe_b64encode(hashlib.sha256(self._seal()).digest()))

    def _opened(self, sealed: str | None) -> dict[str, str] | None:
        """Return what a browser kept; None if it is not ours, or too old."""
        from cryptography.fernet import InvalidToken

        if sealed is None or len(sealed) > SEALED_LENGTH_MAX:
            return None
        try:
            flow: dict[str, str] = json.loads(self._fernet().decrypt(sealed.encode("utf-8", "replace"), FLOW_SECONDS))
        except InvalidToken:
            return None
        return flow

    def _identified(self, config: IssuerConfig, tokens: Mapping[str, Any], *, nonce: str) -> Identity:
        """Return whom an ID token names, for this sign-in. Raises Unauthenticated."""
        from authlib.oidc.core import CodeIDToken
        from joserfc.errors import JoseError

        token = tokens.get("id_token")
        if self._issuers is None or not isinstance(token, str):
            raise Unauthenticated(f"{config.issuer} sent no ID token. Let the client have the scope `openid` there.")
        identity = self._issuers.identify(config.issuer, token)
        expected = {"nonce": nonce, "client_id": config.client_id, "access_token": tokens.get("access_token")}
        try:
            # The signature, the issuer, the audience and the times were verified before.
            CodeIDToken(identity.claims, identity.header, params=expected).validate(leeway=config.leeway_seconds)
        except (JoseError, ValueError, TypeError, AttributeError) as error:
            claim = getattr(error, "claim", None)
            log.info("an ID token of %s was refused: %s", config.issuer, claim or type(error).__name__)
            raise Unauthenticated(
                f"{config.issuer} sent an ID token of another sign-in or for another client: its `{claim or 'claims'}`"
                " differs from what was asked for. Begin again on the sign-in page."
            ) from None
        return identity


class _Provider:
    """An issuer's endpoints, as its discovery document names them. One thread at a time fetches it."""

    def __init__(self, config: IssuerConfig, clock: Callable[[], float]) -> None:
        self.config, self._clock, self._secret = config, clock, secret_of(config)
        self.host = config.issuer.partition("://")[2].rstrip("/")
        self._lock = threading.Lock()
        self._held: dict[str, Any] | None = None
        self._fetched = self._tried = float("-inf")

    def address(self, flow: Mapping[str, str]) -> str:
        """Return where the browser signs in. Raises Overloaded if the issuer does not answer."""
        from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
        from authlib.oauth2.rfc7636 import create_s256_code_challenge

        where = self._endpoint("authorization_endpoint")
        url: str = prepare_grant_uri(
            where,
            client_id=self.config.client_id,
            response_type="code",
            redirect_uri=flow["redirect_uri"],
            scope=" ".join(self.config.scopes),
            state=flow["state"],
            nonce=flow["nonce"],
            code_challenge=create_s256_code_challenge(flow["verifier"]),
            code_challenge_method="S256",
        )
        return url

    def code_of(self, answer: Mapping[str, str]) -> str:
        """Return the code that an issuer's answer has. Raises Unauthenticated."""
        named, expected = answer.get("iss"), self.config.issuer  # RFC 9207
        is_stated = self._discovery().get("authorization_response_iss_parameter_supported") is True
        if (named is not None or is_stated) and named != expected:
            raise Unauthenticated(f"The `iss` of this answer is not {expected}, by which this sign-in was begun.")
        if "error" in answer:
            raise self._refused(answer["error"])
        code = answer.get("code", "")
        if not 0 < len(code) <= CODE_LENGTH_MAX:
            raise Unauthenticated(f"{expected} sent no code. Begin again on the sign-in page.")
        return code

    def exchanged(self, code: str, flow: Mapping[str, str]) -> dict[str, Any]:
        """Return the tokens for a code. Raises Unauthenticated, and Overloaded if the issuer does not answer."""
        from authlib.oauth2.client import DEFAULT_HEADERS
        from authlib.oauth2.rfc6749.parameters import prepare_token_request

        body = prepare_token_request(
            "authorization_code", code=code, redirect_uri=flow["redirect_uri"], code_verifier=flow["verifier"]
        )
        where, headers, body = self._client().prepare(
            "POST", self._endpoint("token_endpoint"), dict(DEFAULT_HEADERS), body
        )
        try:
            tokens = document(where, form=body.encode(), headers=headers, also=_READ)
        except Unusable as error:
            raise self._silent(error) from None
        if "error" in tokens or "id_token" not in tokens:
            raise self._refused(tokens.get("error"))
        return tokens

    def _client(self) -> ClientAuth:
        """Return how this ledger shows who it is; basic is what an issuer takes that states nothing."""
        from authlib.oauth2.auth import ClientAuth

        client_id, secret = str(self.config.client_id), self._secret
        if secret is None:
            return ClientAuth(client_id, None, "none")
        stated = self._discovery().get("token_endpoint_auth_methods_supported")
        methods = stated if isinstance(stated, list) else ["client_secret_basic"]
        encoded = [quote(part, safe="") for part in (client_id, secret)]
        # Issuers differ in whether they decode what RFC 6749, 2.3.1, has a client encode. In a body it is clear.
        is_clear = encoded == [client_id, secret] and "client_secret_basic" in methods
        if "client_secret_post" in methods and not is_clear:
            return ClientAuth(client_id, secret, "client_secret_post")
        return ClientAuth(*encoded, "client_secret_basic")

    def _endpoint(self, name: str) -> str:
        try:
            return endpoint(self._discovery(), name)
        except Unusable as error:
            raise self._silent(error) from None

    def _discovery(self) -> dict[str, Any]:
        """Return the discovery document, at most five minutes old. Raises Overloaded."""
        with self._lock:
            now = self._clock()
            if self._held is not None and now - self._fetched < DISCOVERY_SECONDS:
                return self._held
            if now - self._tried < RETRY_SECONDS:
                raise self._silent(None)
            try:
                self._held = discovered(self.config)
            except Unusable as error:
                raise self._silent(error) from None
            finally:
                self._tried = self._clock()
            self._fetched = self._clock()
            return self._held

    def _silent(self, error: Unusable | None) -> Overloaded:
        if error is not None:
            log.warning("nobody can sign in by %s: %s", self.config.issuer, error)
        return Overloaded(
            f"{self.config.issuer} does not answer as an OpenID Connect provider does. Try again in ten seconds, or"
            " sign in with a key. The server's log has what is wrong."
        )

    def _refused(self, error: object) -> LedgerError:
        """Return what an issuer's error means. Only known codes are repeated: others may be anybody's text."""
        words = _ERRORS.get(error) if isinstance(error, str) else None
        log.info("%s refused a sign-in: %s", self.config.issuer, error if words is not None else "for another reason")
        reason = f"{words} ({error})" if words is not None else "it gave no reason that is known"
        return Unauthenticated(f"{self.config.issuer} did not sign you in: {reason}. Begin again on the sign-in page.")

"""An OpenID provider on the loopback that people sign in at: Authlib's server, which checks code, redirect URI, client
and PKCE by itself, over HTTP."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from authlib.common.security import generate_token
from authlib.oauth2 import OAuth2Request
from authlib.oauth2.rfc6749 import AuthorizationServer, ClientMixin, OAuth2Error
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import OpenIDCode
from authlib.oidc.core.models import AuthorizationCodeMixin
from cryptography.hazmat.primitives import serialization
from joserfc.jwk import RSAKey

from tests.kit.issuer import Answers, Issuer, private_key

CLIENT = "the-ledger"
SECRET = "100%41 of+the: client/"
"""A side that forgets to encode or decode it gets another one."""
PAGE = """<!doctype html><html lang="en"><title>Provider</title><main><h1>Sign in as {sub}?</h1>
<form method="post"><button>Continue</button></form></main></html>"""


@dataclass
class Code(AuthorizationCodeMixin):  # type: ignore[misc]
    """What a code stands for."""

    code: str
    user: dict[str, Any]
    asked: dict[str, str]
    code_challenge: str | None
    code_challenge_method: str | None

    def get_redirect_uri(self) -> str:
        return self.asked["redirect_uri"]

    def get_scope(self) -> str:
        return self.asked["scope"]

    def get_nonce(self) -> str | None:
        return self.asked.get("nonce")

    def get_auth_time(self) -> int:
        return int(time.time())


class Client(ClientMixin):  # type: ignore[misc]
    """The ledger, as it is registered."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def get_client_id(self) -> str:
        return CLIENT

    def get_default_redirect_uri(self) -> None:
        return None

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri in self._provider.redirect_uris

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == self._provider.secret

    def check_endpoint_auth_method(self, method: str, _endpoint: str) -> bool:
        return method == self._provider.method

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


class Request(OAuth2Request):  # type: ignore[misc]
    """A request, with the members of its query and its body."""

    def __init__(self, method: str, uri: str, headers: dict[str, str], body: dict[str, str]) -> None:
        super().__init__(method, uri, headers=headers)
        self._args, self._fields = dict(parse_qsl(urlsplit(uri).query)), body
        self.payload = BasicOAuth2Payload({**self._args, **body})

    @property
    def args(self) -> dict[str, str]:
        return self._args

    @property
    def form(self) -> dict[str, str]:
        return self._fields


class Server(AuthorizationServer):  # type: ignore[misc]
    """Authlib's server, without a framework."""

    def __init__(self, provider: Provider) -> None:
        super().__init__(scopes_supported=["openid", "profile", "email"])
        self._provider = provider

        class Grant(AuthorizationCodeGrant):  # type: ignore[misc]
            TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post", "none")

            def save_authorization_code(self, code: str, request: Request) -> None:
                asked = request.payload.data
                challenge = (asked.get("code_challenge"), asked.get("code_challenge_method"))
                provider.codes[code] = Code(code, request.user, asked, *challenge)

            def query_authorization_code(self, code: str, _client: Client) -> Code | None:
                return provider.codes.get(code)

            def delete_authorization_code(self, authorization_code: Code) -> None:
                del provider.codes[authorization_code.code]

            def authenticate_user(self, authorization_code: Code) -> dict[str, Any]:
                return authorization_code.user

        class Tokens(OpenIDCode):  # type: ignore[misc]
            def resolve_client_private_key(self, _client: Client) -> RSAKey:
                pem = private_key(provider.kid, "RS256").private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
                return RSAKey.import_key(pem)

            def get_client_claims(self, _client: Client) -> dict[str, Any]:
                return {"iss": provider.url, "aud": CLIENT, "exp": int(time.time()) + provider.seconds}

            def get_encode_header(self, _client: Client) -> dict[str, Any]:
                return {"alg": "RS256", "kid": provider.kid, "typ": provider.typ}

            def exists_nonce(self, _nonce: str, _request: Request) -> bool:
                return False

            def generate_user_info(self, user: dict[str, Any], _scope: str) -> dict[str, Any]:
                return {**user, **provider.changes}

        self.register_grant(Grant, [Tokens(require_nonce=True), CodeChallenge(required=True)])
        self.register_token_generator("default", BearerTokenGenerator(lambda **_: generate_token(40)))

    def query_client(self, client_id: str) -> Client | None:
        return Client(self._provider) if client_id == CLIENT else None

    def save_token(self, token: dict[str, Any], _request: Request) -> None:
        self._provider.tokens.append(token)

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        pass

    def create_oauth2_request(self, request: Request) -> Request:
        return request

    def handle_response(self, status: int, body: Any, headers: Any) -> tuple[int, dict[str, str], bytes]:
        text = json.dumps(body) if isinstance(body, dict) else body
        return status, dict(headers), text.encode()


class Provider(Issuer):
    """A provider with one client, and one person who says yes.

    user: the claims of that person. changes: claims that replace others in ID tokens. seconds: how long those last.
    redirect_uris: what is registered. secret: None for a public client. codes: those that were not used. tokens: what
    was answered. denies: the person says no.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, algorithm="RS256")
        self.discovery.update(authorization_endpoint=f"{url}/authorize", token_endpoint=f"{url}/token")
        self.user: dict[str, Any] = {"sub": "ada", "groups": ["steward"]}
        self.changes: dict[str, Any] = {}
        self.seconds, self.typ, self.denies = 3600, "JWT", False
        self.redirect_uris: set[str] = set()
        self.secret: str | None = SECRET
        self.method = "client_secret_basic"
        self.codes: dict[str, Code] = {}
        self.tokens: list[dict[str, Any]] = []
        self.host = urlsplit(url).netloc
        self.server = Server(self)

    def respond(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        """Answer what a person or a client asks."""
        path = urlsplit(request.uri).path
        if path == "/token":
            answer: tuple[int, dict[str, str], bytes] = self.server.create_token_response(request)
            return answer
        if path != "/authorize":
            return self.answer(path)
        try:
            grant = self.server.get_consent_grant(request, end_user=self.user)
        except OAuth2Error as error:
            refused: tuple[int, dict[str, str], bytes] = self.server.handle_error_response(request, error)
            return refused
        if request.method == "GET":
            return 200, {"Content-Type": "text/html"}, PAGE.format(sub=self.user["sub"]).encode()
        user = None if self.denies else self.user
        agreed: tuple[int, dict[str, str], bytes] = self.server.create_authorization_response(request, user, grant)
        return agreed


class Handler(Answers):
    """Answers over HTTP."""

    issuer: Provider

    def do_GET(self) -> None:
        self._respond({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self._respond(dict(parse_qsl(body)))

    def _respond(self, body: dict[str, str]) -> None:
        self.issuer.fetched.append(self.path)
        request = Request(self.command, f"{self.issuer.url}{self.path}", dict(self.headers), body)
        path = urlsplit(self.path).path
        instead = self.issuer.instead.get(path)
        status, headers, content = self.issuer.respond(request) if instead is None else instead
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def providing() -> Iterator[Provider]:
    """A provider that answers."""

    class Here(Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Here)
    Here.issuer = provider = Provider(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

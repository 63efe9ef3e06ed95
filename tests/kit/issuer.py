"""An issuer of OpenID Connect tokens that a test runs, and those who trust it."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ledger.access import oidc
from ledger.access.issuers import Configuration
from ledger.access.oidc import Issuers
from ledger.core.people import Actor
from ledger.errors import UNKNOWN_KEY, Unauthenticated
from tests.kit.driver import Ledger

AUDIENCE = "privacy-ledger"
TENANT = uuid.UUID(int=7)
HOUR_US = 3_600_000_000


@functools.cache
def private_key(kid: str, algorithm: str) -> Any:
    """A key pair, made once for all tests."""
    match algorithm[:2]:
        case "RS" | "PS":
            return rsa.generate_private_key(public_exponent=65537, key_size=1024 if kid == "weak" else 2048)
        case "ES":
            return ec.generate_private_key({"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1()}[algorithm])
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def jwk(kid: str, algorithm: str, **changes: Any) -> dict[str, Any]:
    """The public half, as an issuer publishes it."""
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(private_key(kid, algorithm).public_key(), as_dict=True)
    made.pop("key_ops", None)
    return {**made, "kid": kid, "alg": algorithm, "use": "sig", **changes}


def encoded(part: bytes | dict[str, Any]) -> str:
    """One part of a token: these bytes, or this as JSON."""
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(header: dict[str, Any], claims: bytes | dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    """A JWS of any header and payload, put together by hand, since libraries refuse to make bad ones."""
    text = f"{encoded(header)}.{encoded(claims)}"
    return f"{text}.{encoded(sign(text.encode()))}"


class Answers(BaseHTTPRequestHandler):
    """Answers as the issuer says, and notes what was asked for."""

    issuer: Issuer

    def do_GET(self) -> None:
        issuer = self.issuer
        issuer.fetched.append(self.path)
        issuer.asked.put(self.path)
        assert issuer.may_answer.wait(30)
        status, headers, body = issuer.answer(self.path)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):  # whoever asked has seen enough
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the parent's name)
        pass


class Issuer:
    """An OpenID Connect issuer on the loopback: publishes keys, signs tokens, and misbehaves when told to.

    published: the JWKS document. instead: answers that replace those of a path. asked: paths, as they are asked for.
    may_answer: cleared, it answers later.
    """

    def __init__(self, url: str, *, algorithm: str, kid: str = "one") -> None:
        self.url, self.algorithm, self.kid = url, algorithm, kid
        self.published: Any = {"keys": [jwk(kid, algorithm)]}
        self.discovery: Any = {"issuer": url, "jwks_uri": f"{url}/keys"}
        self.instead: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.fetched: list[str] = []
        self.asked: SimpleQueue[str] = SimpleQueue()
        self.may_answer = threading.Event()
        self.may_answer.set()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        known = {"/keys": self.published, "/.well-known/openid-configuration": self.discovery}
        if path in self.instead:
            return self.instead[path]
        return (200, {}, json.dumps(known[path]).encode()) if path in known else (404, {}, b"")

    @property
    def keys_fetched(self) -> int:
        return self.fetched.count("/keys")

    def rotate(self, kid: str) -> None:
        """A new key, and the old one withdrawn."""
        self.kid, self.published = kid, {"keys": [jwk(kid, self.algorithm)]}

    def sign(self, text: bytes) -> bytes:
        made: bytes = jwt.get_algorithm_by_name(self.algorithm).sign(text, private_key(self.kid, self.algorithm))
        return made

    def header(self, **changes: Any) -> dict[str, Any]:
        header = {"alg": self.algorithm, "kid": self.kid, "typ": "JWT", **changes}
        return {name: value for name, value in header.items() if value is not None}

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {"iss": self.url, "sub": "job", "aud": AUDIENCE, "exp": now + 600, "iat": now, "nbf": now, **changes}
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, header: dict[str, Any] | None = None, **changes: Any) -> str:
        return signed(self.header(**(header or {})), self.claims(**changes), self.sign)

    def said(self, *rules: dict[str, Any], **changes: Any) -> dict[str, Any]:
        """What a configuration says of it."""
        rule = {"claims": {"iss": self.url}, "tenant": str(TENANT), "role": "requester"}
        said = {
            "issuer": self.url,
            "audience": AUDIENCE,
            "algorithms": [self.algorithm],
            "rules": list(rules) or [rule],
        }
        return {**said, **changes}


@contextlib.contextmanager
def running(algorithm: str) -> Iterator[Issuer]:
    """An issuer that answers."""

    class Handler(Answers):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.issuer = issuer = Issuer(f"http://127.0.0.1:{server.server_port}", algorithm=algorithm)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        issuer.may_answer.set()
        server.shutdown()
        thread.join()
        server.server_close()


def now(seconds: float) -> float:
    """So many seconds from now."""
    return int(time.time() + seconds)


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Reasons(logging.Handler):
    """The reasons of refusals, as the log has them, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: list[str] = []
        self._log = logging.getLogger(oidc.__name__)

    def emit(self, record: logging.LogRecord) -> None:
        assert isinstance(record.args, tuple)
        if record.msg.startswith("a token of"):
            self.reasons.append(str(record.args[1]))

    def __enter__(self) -> list[str]:
        self._level = self._log.level
        self._log.setLevel(logging.INFO)
        self._log.addHandler(self)
        return self.reasons

    def __exit__(self, *error: object) -> None:
        self._log.removeHandler(self)
        self._log.setLevel(self._level)


TO_THE_HOLDER = {"audience", "expired", "not-yet-valid", "claims", "rules"}
"""What the holder of a token learns if its issuer signed it; of any other token nobody learns anything."""


class Trust:
    """Issuers in this process, with a clock of their own."""

    def __init__(self, *said: dict[str, Any]) -> None:
        self.clock = Clock()
        made = Configuration.model_validate_json(json.dumps({"issuers": said}))
        self.issuers = Issuers(made, clock=self.clock)

    def actor(self, token: str) -> Actor:
        return self.issuers.recognise(token)

    def reason(self, token: str) -> str:
        """Why a token is refused."""
        with Reasons() as reasons, pytest.raises(Unauthenticated) as refused:
            self.issuers.recognise(token)
        assert refused.value.__cause__ is None
        (reason,) = reasons
        if refused.value.detail == UNKNOWN_KEY:
            assert refused.value.facts == {}
        else:
            assert reason in TO_THE_HOLDER
            assert refused.value.facts == {"reason": reason}
        return reason


class House:
    """The application with two issuers that it trusts: a CI system and a cluster."""

    def __init__(self, ledger: Ledger, ci: Issuer, cluster: Issuer) -> None:
        self.ledger, self.ci, self.cluster = ledger, ci, cluster

    def by(self, token: str) -> Ledger:
        return self.ledger.with_key(token)

"""Tokens of OpenID Connect issuers: an issuer that the test runs, the real application, and every way to be wrong."""

from __future__ import annotations

import base64
import contextlib
import functools
import gzip
import hashlib
import hmac
import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from ledger.access import keys, oidc
from ledger.access.keys import Keyring, tenant_of
from ledger.access.oidc import Configuration, Issuers, looks_like_token
from ledger.api.app import create_app
from ledger.core.people import Actor
from ledger.errors import UNKNOWN_KEY, Misconfigured, Unauthenticated
from ledger.settings import Settings
from ledger.store import Reading, Store, Writing
from tests.kit.driver import MNIST, RELEASE, Ledger, first_keys

AUDIENCE = "privacy-ledger"
TENANT = uuid.UUID(int=7)
HOUR_US = 3_600_000_000


# --- an issuer -------------------------------------------------------------------------------------------------------


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


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """A CI system's issuer: RSA, found by discovery."""
    with running("RS256") as made:
        yield made


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
        assert (refused.value.detail, refused.value.facts) == (UNKNOWN_KEY, {})
        assert refused.value.__cause__ is None
        (reason,) = reasons
        return reason


# --- good tokens -----------------------------------------------------------------------------------------------------

REPOSITORY = {
    "repository": "acme/train",
    "repository_owner": "acme",
    "ref": "refs/heads/main",
    "runner_environment": "self-hosted",
}


def job(issuer: Issuer, branch: str = "main", **changes: Any) -> str:
    """A token as a CI system gives it to a job, another one each time."""
    subject = f"repo:acme/train:ref:refs/heads/{branch}"
    claims = {**REPOSITORY, "ref": f"refs/heads/{branch}", "jti": uuid.uuid4().hex, "sub": subject, **changes}
    return issuer.token(**claims)


def account(issuer: Issuer, name: str, **changes: Any) -> str:
    """A token as Kubernetes projects it into a pod: a list of audiences, nested claims, no `typ`."""
    where = {"namespace": "ml", "serviceaccount": {"name": name, "uid": str(uuid.uuid4())}}
    subject = f"system:serviceaccount:ml:{name}"
    claims = {"aud": ["other", AUDIENCE], "kubernetes.io": where, "sub": subject, **changes}
    return issuer.token({"typ": None}, **claims)


class House:
    """The application with two issuers that it trusts: a CI system and a cluster."""

    def __init__(self, ledger: Ledger, ci: Issuer, cluster: Issuer) -> None:
        self.ledger, self.ci, self.cluster = ledger, ci, cluster

    def by(self, token: str) -> Ledger:
        return self.ledger.with_key(token)


@pytest.fixture
def house(database: Settings, issuer: Issuer, tmp_path: Path) -> Iterator[House]:
    """The application as `LEDGER_OIDC_FILE` sets it up, on each database."""
    first = first_keys(database)
    tenant = str(tenant_of(first.admin_key))
    with running("ES256") as cluster:
        on_main = {"claims": {"repository": "acme/train", "ref": "refs/heads/*"}, "role": "requester"}
        trainers = {"claims": {"sub": "system:serviceaccount:ml:*"}, "role": "requester"}
        people = [{"claims": {"groups": role}, "tenant": tenant, "role": role} for role in ("admin", "steward")]
        lost = {"claims": {"sub": "nowhere"}, "tenant": str(TENANT), "role": "admin"}
        said = [
            issuer.said(*people, lost, {**on_main, "tenant": tenant, "datasets": ["mnist"]}, leeway_seconds=0),
            cluster.said({**trainers, "tenant": tenant}, jwks_uri=f"{cluster.url}/keys"),
        ]
        file = tmp_path / "oidc.json"
        file.write_text(json.dumps({"issuers": said}))
        app = create_app(database.model_copy(update={"oidc_file": file}))
        with TestClient(app, raise_server_exceptions=False) as client:
            yield House(Ledger(client, first.admin_key, operator_key=first.operator_key), issuer, cluster)


def test_a_ci_job_runs_without_a_stored_key(house: House) -> None:
    """Goal: the principal of a token is its issuer and subject, its limits are those of the rule.

    Method: a job asks, starts and settles by three tokens of one subject; other branches and datasets are not there.
    """
    house.ledger.register()
    house.ledger.register(name="adult")
    asked = house.by(job(house.ci)).ask(key="one")
    assert asked.status_code == 201, asked.text
    run = asked.json()["id"]
    assert house.by(job(house.ci)).ask(key="one").headers["idempotent-replayed"] == "true"
    other = house.by(job(house.ci, "dev"))
    assert other.post(f"/v1/runs/{run}/start").status_code == 404
    assert other.ask(key="one").json()["code"] == "idempotency-key-reused"
    assert house.by(job(house.ci)).post(f"/v1/runs/{run}/start").status_code == 200
    assert house.by(job(house.ci)).post(f"/v1/runs/{run}/settle", {}).json()["state"] == "settled"
    me = house.by(job(house.ci))
    assert [item["name"] for item in me.get("/v1/datasets").json()["items"]] == ["mnist"]
    assert me.ask(datasets=["adult"]).status_code == 404
    assert me.post("/v1/datasets", {**MNIST, "name": "more"}).status_code == 403
    entries = house.ledger.get("/v1/datasets/mnist/entries").json()["items"]
    subject = "repo:acme/train:ref:refs/heads/main"
    principal = str(uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_URL, house.ci.url), subject))
    actor = {"key": principal, "principal": principal, "name": f"127.0.0.1:{subject}", "role": "requester"}
    assert [entry["entry"]["actor"] for entry in entries[1:]] == [actor] * 3
    assert house.ci.fetched == ["/.well-known/openid-configuration", "/keys"]


def test_a_service_account_runs_without_a_stored_key(house: House) -> None:
    """Goal: a pod works with what Kubernetes gives it; another account of the rule is another principal."""
    house.ledger.register()
    run = house.by(account(house.cluster, "trainer")).ask().json()["id"]
    other = house.by(account(house.cluster, "other"))
    for verb, body in (("start", None), ("settle", {}), ("void", {"reason": "r"})):
        answer = other.post(f"/v1/runs/{run}/{verb}", body)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert house.by(account(house.cluster, "trainer")).post(f"/v1/runs/{run}/start").status_code == 200
    assert house.by(account(house.cluster, "trainer")).post(f"/v1/runs/{run}/settle", {}).status_code == 200
    assert house.by(account(house.cluster, "x", sub="system:serviceaccount:dev:x")).get("/v1/runs").status_code == 401
    assert house.cluster.fetched == ["/keys"]


def test_people_sign_in_by_their_groups(house: House) -> None:
    """Goal: a list claim stands for what it contains, and the first rule that matches counts."""
    steward = house.by(house.ci.token(sub="ann", groups=["staff", "steward"]))
    assert steward.post("/v1/datasets", MNIST).status_code == 201
    assert steward.post("/v1/keys", {"name": "k", "role": "auditor"}).status_code == 403
    admin = house.by(house.ci.token(sub="bob", groups=["steward", "admin"]))
    made = admin.post("/v1/keys", {"name": "k", "role": "auditor"})
    assert made.status_code == 201, made.text
    assert admin.delete(f"/v1/keys/{made.json()['id']}").status_code == 204
    assert house.by(house.ci.token(sub="eve", groups=["staff"])).get("/v1/datasets").status_code == 401


def test_tokens_that_end_while_a_request_waits(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: nothing is written for a token that is over when the writer comes to it.

    Method: good tokens; the writer's time, which is the database's, is an hour later.
    """
    house.ledger.register()
    admin = house.by(house.ci.token(sub="bob", groups=["admin"]))
    held, started = (admin.ask(key=key).json()["id"] for key in ("held", "started"))
    assert admin.post(f"/v1/runs/{started}/start").status_code == 200
    before = house.ledger.get("/v1/datasets/mnist").json()
    later = Reading.now_us
    with monkeypatch.context() as patched:
        patched.setattr(Writing, "now_us", lambda self: later(self) + HOUR_US, raising=False)
        for answer in (
            admin.ask(key="new"),
            admin.post("/v1/runs/batch", {"runs": [{**RELEASE, "idempotency_key": "b"}], "atomic": True}),
            admin.post(f"/v1/runs/{held}/start"),
            admin.post(f"/v1/runs/{held}/void", {"reason": "r"}),
            admin.post(f"/v1/runs/{started}/settle", {}),
            admin.post("/v1/datasets", {**MNIST, "name": "adult"}),
            admin.patch("/v1/datasets/mnist", {"title": "t"}),
            admin.put("/v1/datasets/mnist/budget", {"budget": {"mu": 2}, "reason": "more"}),
            admin.post("/v1/keys", {"name": "k", "role": "admin"}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), answer.text
        assert house.ledger.get("/v1/datasets/mnist").json() == before
        assert house.ledger.patch("/v1/datasets/mnist", {"title": "t"}).status_code == 200  # a key goes on
    assert admin.ask(key="new").status_code == 201  # the idempotency key was let go


def test_a_good_token_is_remembered_no_longer_than_it_is_good(
    store: Store, database: Settings, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: the cache of keys does not prolong a token. Method: a cache of an hour, a token of ten minutes."""
    tenant = str(tenant_of(first_keys(database).admin_key))
    rule = {"claims": {"sub": "job"}, "tenant": tenant, "role": "auditor"}
    clock = Clock()
    keyring = Keyring(store, Trust(issuer.said(rule, leeway_seconds=0)).issuers, clock=clock)
    monkeypatch.setattr(keys, "CACHE_SECONDS", 3600)
    token = issuer.token()
    actor = keyring.recognise(token)
    assert isinstance(actor, Actor)
    assert (str(actor.tenant_id), actor.is_key) == (tenant, False)
    start = clock.now
    for later, known in ((590, actor), (601, None)):
        clock.now = start + later
        assert keyring.remembered(token) == known


def test_the_databases_clock_counts_too(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a token that is over by the database's clock is refused when it is shown. Method: that clock, later."""
    admin = house.by(house.ci.token(sub="bob", groups=["admin"]))
    real = Reading.now_us
    monkeypatch.setattr(Reading, "now_us", lambda self: real(self) + HOUR_US)
    assert admin.get("/v1/datasets").status_code == 401


def test_tokens_mean_nothing_where_no_issuer_is_configured(ledger: Ledger, issuer: Issuer) -> None:
    """Goal: without LEDGER_OIDC_FILE nothing of a token is read."""
    answer = ledger.with_key(issuer.token()).get("/v1/datasets")
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert issuer.fetched == []


@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "PS256", "ES256", "ES384", "EdDSA"])
def test_algorithms(algorithm: str) -> None:
    """Goal: what can be configured works, whether or not the issuer says of a key which algorithm it is for.

    Method: an issuer of each algorithm; then its key without `alg`, as Microsoft's issuers publish theirs.
    """
    with running(algorithm) as issuer:
        token = issuer.token()
        actor = Trust(issuer.said()).actor(token)
        assert actor.role == "requester"
        del issuer.published["keys"][0]["alg"], issuer.published["keys"][0]["use"]
        assert Trust(issuer.said()).actor(token) == actor


def test_actors(issuer: Issuer) -> None:
    """Goal: everything of an actor comes from the rule and the token."""
    rule = {
        "claims": {"sub": "job"},
        "tenant": str(TENANT),
        "role": "auditor",
        "datasets": ["a", "b"],
        "projects": ["p"],
    }
    end = int(time.time()) + 100
    actor = Trust(issuer.said(rule, leeway_seconds=30)).actor(issuer.token(exp=end + 0.9))
    assert (actor.tenant_id, actor.role) == (TENANT, "auditor")
    assert (actor.datasets, actor.projects) == (frozenset({"a", "b"}), frozenset({"p"}))
    assert actor.expires_us == (end + 30) * 1_000_000
    long = Trust(issuer.said()).actor(issuer.token(sub="s" * 1024))
    assert len(long.name) == 255
    assert (long.datasets, long.projects, long.is_key) == (None, None, False)
    assert long.principal_id == long.key_id != actor.principal_id


def test_one_subject_of_two_issuers_is_two_principals(issuer: Issuer) -> None:
    """Goal: an issuer cannot speak for another's subjects. Method: the same subject of two issuers that are trusted."""
    with running("ES256") as other:
        trust = Trust(issuer.said(), other.said())
        assert trust.actor(issuer.token()).principal_id != trust.actor(other.token()).principal_id
        # The other's signature under this one's name, also where both use one algorithm and kid.
        assert trust.reason(other.token(iss=issuer.url)) == "algorithm"
    with running("RS256") as other:
        other.rotate("two")
        trust = Trust(issuer.said(), other.said())
        assert trust.reason(other.token({"kid": "one"}, iss=issuer.url)) == "signature"


MATCHING: list[tuple[Any, Any, bool]] = [
    ("main", "main", True),
    ("main", "mainline", False),
    ("main", "Main", False),
    ("main", None, False),
    ("acme/*", "acme/train", True),
    ("acme/*", "acme/", True),
    ("acme/*", "acme", False),
    ("acme/*", "evil/acme/train", False),
    ("acme/*", ["evil/x", "acme/y"], True),
    ("a", ["b", "a"], True),
    ("a", ["b", "ab"], False),
    ("a", [["a"]], False),
    ("a", [], False),
    ("a", {"a": "a"}, False),
    (True, True, True),
    (True, 1, False),
    (1, True, False),
    (1, 1.0, False),
    (7, 7, True),
    ("7", 7, False),
    ("true", True, False),
]


@pytest.mark.parametrize(("wanted", "value", "matches"), MATCHING)
def test_what_a_rule_matches(wanted: Any, value: Any, matches: bool) -> None:
    """Goal: equality with the same type, a prefix before a final *, an element of a list; nothing else."""
    rule = oidc.Rule.model_validate_json(
        json.dumps({"claims": {"claim": wanted}, "tenant": str(TENANT), "role": "auditor"})
    )
    assert rule.matches({"claim": value} if value is not None else {}) == matches


# --- every way to be wrong -------------------------------------------------------------------------------------------


def public_pem(issuer: Issuer) -> bytes:
    """What anyone can have of an issuer's key, in the form in which it was taken for a secret."""
    public: bytes = (
        private_key(issuer.kid, issuer.algorithm)
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return public


def hmac_with(key: bytes) -> Callable[[bytes], bytes]:
    """Signs as HS256 does."""
    return lambda text: hmac.new(key, text, hashlib.sha256).digest()


def by_another(issuer: Issuer, **header: Any) -> str:
    """Signed by a key that a stranger made."""
    stranger = private_key("stranger", "RS256")
    algorithm = jwt.get_algorithm_by_name("RS256")
    return signed(issuer.header(**header), issuer.claims(), lambda text: algorithm.sign(text, stranger))


def now(seconds: float) -> float:
    """So many seconds from now."""
    return int(time.time() + seconds)


WRONG: dict[str, tuple[Callable[[Issuer], str], str]] = {
    "another audience": (lambda i: i.token(aud="other"), "audience"),
    "several other audiences": (lambda i: i.token(aud=["other", "privacy-ledger-2"]), "audience"),
    "an audience that begins alike": (lambda i: i.token(aud=AUDIENCE + "/"), "audience"),
    "no audience": (lambda i: i.token(aud=None), "claims"),
    "empty audience": (lambda i: i.token(aud=[]), "claims"),
    "an audience that is no text": (lambda i: i.token(aud={"privacy-ledger": 1}), "audience"),
    "another issuer": (lambda i: i.token(iss="https://issuer.example"), "issuer"),
    "an issuer with a slash": (lambda i: i.token(iss=i.url + "/"), "issuer"),
    "an issuer in capitals": (lambda i: i.token(iss=i.url.upper()), "issuer"),
    "no issuer": (lambda i: i.token(iss=None), "issuer"),
    "a list of issuers": (lambda i: i.token(iss=[i.url]), "issuer"),
    "expired": (lambda i: i.token(exp=now(-61)), "expired"),
    "no end": (lambda i: i.token(exp=None), "claims"),
    "an end beyond any": (lambda i: i.token(exp=10**12), "claims"),
    "an end that is text": (lambda i: i.token(exp=str(now(600))), "claims"),
    "an end that is true": (lambda i: i.token(exp=True), "expired"),
    "an end that is infinite": (lambda i: i.token(exp=float("inf")), "claims"),
    "an end that is no number": (lambda i: i.token(exp=float("nan")), "claims"),
    "issued later": (lambda i: i.token(iat=now(120)), "not-yet-valid"),
    "no time of issue": (lambda i: i.token(iat=None), "claims"),
    "a time of issue that is text": (lambda i: i.token(iat="yesterday"), "claims"),
    "not yet valid": (lambda i: i.token(nbf=now(120)), "not-yet-valid"),
    "a beginning that is an object": (lambda i: i.token(nbf={}), "claims"),
    "alg none": (lambda i: signed(i.header(alg="none"), i.claims(), lambda _: b""), "algorithm"),
    "alg None": (lambda i: signed(i.header(alg="None"), i.claims(), lambda _: b""), "algorithm"),
    "alg none, signed": (lambda i: i.token({"alg": "none"}), "algorithm"),
    "no alg": (lambda i: i.token({"alg": None}), "algorithm"),
    "alg that is a list": (lambda i: i.token({"alg": ["RS256"]}), "algorithm"),
    "alg in small letters": (lambda i: i.token({"alg": "rs256"}), "algorithm"),
    "HS256 with the public key": (
        lambda i: signed(i.header(alg="HS256"), i.claims(), hmac_with(public_pem(i))),
        "algorithm",
    ),
    "HS256 named RS256": (lambda i: signed(i.header(), i.claims(), hmac_with(public_pem(i))), "signature"),
    "an algorithm that is not configured": (
        lambda i: signed(
            i.header(alg="RS512"),
            i.claims(),
            lambda text: jwt.get_algorithm_by_name("RS512").sign(text, private_key(i.kid, "RS256")),
        ),
        "algorithm",
    ),
    "a signature of another algorithm": (
        lambda i: signed(
            i.header(),
            i.claims(),
            lambda text: jwt.get_algorithm_by_name("PS256").sign(text, private_key(i.kid, "RS256")),
        ),
        "signature",
    ),
    "unknown kid": (lambda i: i.token({"kid": "nobody"}), "kid"),
    "no kid": (lambda i: i.token({"kid": None}), "kid"),
    "empty kid": (lambda i: i.token({"kid": ""}), "kid"),
    "kid that is a number": (lambda i: i.token({"kid": 1}), "malformed"),
    "kid that is a path": (lambda i: i.token({"kid": "../../../../dev/null"}), "kid"),
    "long kid": (lambda i: i.token({"kid": "k" * 256}), "kid"),
    "signed by a stranger": (by_another, "signature"),
    "no signature": (lambda i: i.token().rpartition(".")[0] + ".", "signature"),
    "cut signature": (lambda i: signed(i.header(), i.claims(), lambda text: i.sign(text)[:-1]), "signature"),
    "jwk of the stranger": (lambda i: by_another(i, jwk=jwk("stranger", "RS256")), "signature"),
    "jwk of the stranger and its kid": (
        lambda i: by_another(i, kid="stranger", jwk=jwk("stranger", "RS256")),
        "kid",
    ),
    "jku of the stranger": (lambda i: by_another(i, jku=f"{i.url}/stranger"), "signature"),
    "x5u of the stranger": (lambda i: by_another(i, x5u=f"{i.url}/stranger"), "signature"),
    "x5c of the stranger": (lambda i: by_another(i, x5c=["MIIB"]), "signature"),
    "an extension that is critical": (lambda i: i.token({"crit": ["exp"], "exp": 1}), "malformed"),
    "a payload that is elsewhere": (lambda i: i.token({"b64": False, "crit": ["b64"]}), "malformed"),
    "a logout token": (lambda i: i.token({"typ": "logout+jwt"}), "type"),
    "typ that is a number": (lambda i: i.token({"typ": 1}), "type"),
    "no subject": (lambda i: i.token(sub=None), "claims"),
    "empty subject": (lambda i: i.token(sub=""), "claims"),
    "a subject that is a number": (lambda i: i.token(sub=7), "claims"),
    "a subject of two lines": (lambda i: i.token(sub="job\nINFO all is well"), "claims"),
    "a subject with NUL": (lambda i: i.token(sub="job\0"), "claims"),
    "a subject that is no text": (lambda i: i.token(sub="\ud800"), "claims"),
    "long subject": (lambda i: i.token(sub="s" * 1025), "claims"),
    "jti that is a number": (lambda i: i.token(jti=7), "claims"),
    "claims of nobody": (lambda i: i.token(wanted=None), "rules"),
    "other claims": (lambda i: i.token(wanted="no"), "rules"),
    "huge": (lambda i: i.token(padding="x" * 8192), "too-long"),
    "a payload that is a list": (lambda i: signed(i.header(), b"[]", i.sign), "malformed"),
    "a payload that is no JSON": (lambda i: signed(i.header(), b"{", i.sign), "malformed"),
    "a payload that is deep": (lambda i: signed(i.header(), b"[" * 5000, i.sign), "malformed"),
    "a number of many digits": (
        lambda i: signed(i.header(), b'{"exp": ' + b"9" * 5000 + b"}", i.sign),
        "malformed",
    ),
    "a header that is no JSON": (lambda i: f"{encoded(b'{')}.{encoded(i.claims())}.{encoded(b'x')}", "malformed"),
    "a header that is a list": (lambda i: f"{encoded(b'[]')}.{encoded(i.claims())}.{encoded(b'x')}", "malformed"),
    "letters that stand for no bytes": (lambda _: "a.b.c", "malformed"),
}

BEFORE_FETCHING = {"too-long", "malformed", "issuer", "algorithm", "type"}


def wrong(issuer: Issuer, name: str) -> str:
    """A token that is wrong in one way; all else of it is good."""
    make, _ = WRONG[name]
    claims = issuer.claims
    issuer.claims = lambda **changes: claims(**{"wanted": "yes", **changes})  # type: ignore[method-assign]
    try:
        return make(issuer)
    finally:
        issuer.claims = claims  # type: ignore[method-assign]


@pytest.fixture
def trust(issuer: Issuer) -> Trust:
    """The issuer, trusted for tokens with one more claim."""
    return Trust(issuer.said({"claims": {"wanted": "yes"}, "tenant": str(TENANT), "role": "auditor"}))


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tokens(issuer: Issuer, trust: Trust, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: a token that is wrong in one way is refused for that, in the words of an unknown key, and counted.

    Method: make it; nothing is fetched for what names no configured issuer, and the log has the reason, not the token.
    """
    caplog.set_level(logging.DEBUG)
    token = wrong(issuer, name)
    reason = trust.reason(token)
    assert reason == WRONG[name][1]
    assert issuer.fetched in ([], ["/.well-known/openid-configuration", "/keys"])
    if reason in BEFORE_FETCHING:
        assert issuer.fetched == []
    (said,) = [record for record in caplog.records if record.name == "ledger.access.oidc"]
    assert (said.levelname, reason in said.getMessage(), "\n" in said.getMessage()) == ("INFO", True, False)
    assert not any(part and len(part) > 8 and part in caplog.text for part in token.split("."))
    assert trust.actor(issuer.token(wanted="yes")).role == "auditor"  # wrong tokens break nothing


def test_wrong_tokens_over_http(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: a stranger cannot tell one wrong token from another, nor from a key that nobody has.

    Method: each of them over HTTP, on each database; the answers are those for a key that was never given out.
    """
    caplog.set_level(logging.DEBUG)
    unknown = house.by(keys.mint(tenant_of(house.ledger.key))).get("/v1/datasets")
    assert (unknown.status_code, unknown.json()["detail"]) == (401, UNKNOWN_KEY)
    same = {"www-authenticate", "content-type", "content-length"}
    tried = {name: wrong(house.ci, name) for name in WRONG}
    # Beside them a rule for a tenant that there is not, and what the application has no rule for.
    tried["no such tenant"] = house.ci.token(sub="nowhere")
    for name, token in tried.items():
        answer = house.by(token).get("/v1/datasets")
        assert answer.status_code == 401, name
        if len(token) <= oidc.TOKEN_LENGTH_MAX:
            assert answer.json() == unknown.json(), name
            assert {key: answer.headers[key] for key in same} == {key: unknown.headers[key] for key in same}
        assert token not in caplog.text
    assert "names the tenant" in caplog.text


def test_every_letter_of_a_token_counts(issuer: Issuer) -> None:
    """Goal: no other text is taken for a token. Method: change each letter of a good one to the next of the alphabet,
    so that the bits that stand for nothing change too."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    trust = Trust(issuer.said())
    good = issuer.token()
    trust.actor(good)
    for place, letter in enumerate(good):
        other = "A" if letter == "." else letters[(letters.index(letter) + 1) % 64]
        trust.reason(good[:place] + other + good[place + 1 :])
    for other in (good + "=", good + ".", good + "\n", " " + good, good + "." + encoded(b"x"), "pbl_" + good):
        assert trust.reason(other) == "malformed"
    assert issuer.keys_fetched == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Issuer]:
    """An issuer for many examples."""
    with running("ES256") as made:
        yield made


@settings(max_examples=300, deadline=None)
@given(
    claims=st.dictionaries(st.sampled_from(["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "wanted"]), JSON),
    header=st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk"]), JSON),
)
def test_whatever_an_issuer_signs(shared: Issuer, claims: dict[str, Any], header: dict[str, Any]) -> None:
    """Goal: nothing that a token says is an error of the server's. Method: any JSON for each claim and header."""
    trust = Trust(shared.said())
    token = signed({**shared.header(), **header}, {**shared.claims(), **claims}, shared.sign)
    with contextlib.suppress(Unauthenticated):
        actor = trust.actor(token)
        assert actor.expires_us is not None
        assert actor.name.isprintable()


def test_looks_like_token(issuer: Issuer) -> None:
    """Goal: a key is never read as a token, nor a token as a key."""
    for text in (issuer.token(), "a.b.c", "a.b."):
        assert looks_like_token(text)
    for text in (keys.mint(TENANT), "pbl_a.b.c", "", "..", "a.b", "a.b.c.d", "a.b.c\n", "a.b.ç", "a b.c.d", "a.b.c="):
        assert not looks_like_token(text)


# --- an issuer's keys ------------------------------------------------------------------------------------------------


def test_leeway(issuer: Issuer) -> None:
    """Goal: clocks may differ by the leeway, in both directions, and no more."""
    exact, lenient = Trust(issuer.said(leeway_seconds=0)), Trust(issuer.said(leeway_seconds=60))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"exp": now(-30)}, "expired"),
        ({"iat": now(30)}, "not-yet-valid"),
        ({"nbf": now(30)}, "not-yet-valid"),
    ]
    for changes, reason in cases:
        lenient.actor(issuer.token(**changes))
        assert exact.reason(issuer.token(**changes)) == reason


def test_rotation(issuer: Issuer) -> None:
    """Goal: a new key is known when its first token comes, and an old one forgotten. Method: rotate, let time pass."""
    trust = Trust(issuer.said())
    old = issuer.token()
    trust.actor(old)
    issuer.rotate("two")
    trust.clock.now += oidc.REFETCH_SECONDS
    trust.actor(issuer.token())
    assert trust.reason(old) == "kid"
    assert issuer.keys_fetched == 2


def test_a_withdrawn_key_is_forgotten(issuer: Issuer) -> None:
    """Goal: keys are fetched again when they are old, though no token asks for another one."""
    trust = Trust(issuer.said())
    old = issuer.token()
    trust.actor(old)
    issuer.published = {"keys": []}
    trust.clock.now += oidc.LIFETIME_SECONDS - 1
    trust.actor(old)
    assert issuer.keys_fetched == 1
    trust.clock.now += 1
    assert trust.reason(old) == "kid"
    assert issuer.keys_fetched == 2


def test_a_key_that_is_used_otherwise_under_its_old_name(issuer: Issuer) -> None:
    """Goal: it is the key that counts, not its name. Method: another key is published under the same kid."""
    trust = Trust(issuer.said())
    old = issuer.token()
    trust.actor(old)
    issuer.published = {"keys": [{**jwk("two", "RS256"), "kid": "one"}]}
    trust.clock.now += oidc.LIFETIME_SECONDS
    assert trust.reason(old) == "signature"


def test_strangers_cannot_make_the_server_fetch(issuer: Issuer) -> None:
    """Goal: a flood of tokens with random kids is one fetch in ten seconds. Method: 500, thrice, by 16 threads."""
    trust = Trust(issuer.said())
    good = issuer.token()
    trust.actor(good)
    tokens = [issuer.token({"kid": uuid.uuid4().hex}) for _ in range(500)]
    for fetches in (1, 2, 3):
        with Reasons() as reasons, ThreadPoolExecutor(16) as pool:
            assert set(pool.map(lambda token: refusal(trust, token), tokens)) == {UNKNOWN_KEY}
        assert set(reasons) == {"kid"}
        assert issuer.keys_fetched == fetches
        trust.actor(good)
        trust.clock.now += oidc.REFETCH_SECONDS


def refusal(trust: Trust, token: str) -> str:
    """In what words a token is refused."""
    with pytest.raises(Unauthenticated) as refused:
        trust.actor(token)
    return refused.value.detail


def test_failures_are_not_repeated_at_once(issuer: Issuer) -> None:
    """Goal: an issuer that is down is not asked for each token; when it is back, its tokens are good again."""
    issuer.instead["/keys"] = (503, {}, b"")
    trust = Trust(issuer.said())
    for _ in range(100):
        assert trust.reason(issuer.token()) == "no-keys"
    assert issuer.keys_fetched == 1
    issuer.instead.clear()
    trust.clock.now += oidc.REFETCH_SECONDS
    trust.actor(issuer.token())


def test_an_issuer_that_is_down(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: known keys go on for an hour without their issuer, and end then. Method: errors from it, time passes."""
    trust = Trust(issuer.said())
    good = issuer.token()
    trust.actor(good)
    issuer.instead["/keys"] = (500, {}, b"oops")
    trust.clock.now += oidc.LIFETIME_SECONDS
    trust.actor(good)
    assert issuer.keys_fetched == 2
    assert "answered 500" in caplog.text
    trust.clock.now += oidc.STALE_SECONDS - oidc.LIFETIME_SECONDS - 1
    trust.actor(good)
    trust.clock.now += 1
    assert trust.reason(good) == "no-keys"
    issuer.instead.clear()
    trust.clock.now += oidc.REFETCH_SECONDS
    trust.actor(good)


def test_an_issuer_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    """Goal: a refused connection is like any failure. Method: an issuer whose server has ended."""
    with running("ES256") as gone:
        token, trust = gone.token(), Trust(gone.said())
    assert trust.reason(token) == "no-keys"
    assert "cannot be reached: ConnectError" in caplog.text


def test_an_issuer_that_does_not_answer(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: waiting for an issuer ends. Method: one that accepts the connection and is silent."""
    monkeypatch.setattr(oidc, "FETCH_SECONDS_MAX", 0.1)
    issuer.may_answer.clear()
    assert Trust(issuer.said()).reason(issuer.token()) == "no-keys"


def test_one_fetch_at_a_time(issuer: Issuer) -> None:
    """Goal: those who come together wait for one fetch, as many as may; who has a key does not wait at all.

    Method: an issuer that holds its answer until every thread has begun. No more than eight threads wait.
    """
    trust = Trust(issuer.said())
    issuer.may_answer.clear()
    token = issuer.token()
    with ThreadPoolExecutor(32) as pool:
        asked = [pool.submit(trust.actor, token) for _ in range(32)]
        refused = list(islice(as_completed(asked, timeout=30), 32 - oidc.WAITING_MAX))
        issuer.may_answer.set()
        good = [one.result() for one in asked if one not in refused]
    assert len(good) == oidc.WAITING_MAX
    assert {type(one.exception()) for one in refused} == {Unauthenticated}
    assert issuer.keys_fetched == 1

    trust.clock.now += oidc.LIFETIME_SECONDS
    issuer.asked = SimpleQueue()
    issuer.may_answer.clear()
    with ThreadPoolExecutor(2) as pool:
        fetching = pool.submit(trust.actor, token)
        issuer.asked.get(timeout=30)
        pool.submit(trust.actor, token).result(timeout=30)  # while the other one fetches
        assert not fetching.done()
        issuer.may_answer.set()
        fetching.result()
    assert issuer.keys_fetched == 2


def test_those_who_waited_do_not_try_one_after_another(issuer: Issuer) -> None:
    """Goal: a fetch that fails is one for all who waited for it. Method: an issuer that holds back its error."""
    trust = Trust(issuer.said())
    issuer.instead["/keys"] = (503, {}, b"")
    issuer.may_answer.clear()
    token = issuer.token()
    with ThreadPoolExecutor(oidc.WAITING_MAX + 1) as pool:
        asked = [pool.submit(refusal, trust, token) for _ in range(oidc.WAITING_MAX + 1)]
        next(as_completed(asked, timeout=30))  # there was no place left for one, so all others wait
        issuer.may_answer.set()
    assert {one.result() for one in asked} == {UNKNOWN_KEY}
    assert issuer.keys_fetched == 1


GARBAGE: dict[str, tuple[int, dict[str, str], bytes]] = {
    "no JSON": (200, {}, b"<html>"),
    "nothing": (200, {}, b""),
    "a list": (200, {}, b"[]"),
    "no keys": (200, {}, b"{}"),
    "keys that are an object": (200, {}, b'{"keys": {}}'),
    "deep": (200, {}, b"[" * 100_000),
    "too large": (200, {}, b'{"keys": [' + b" " * oidc.DOCUMENT_BYTES_MAX + b"]}"),
    "elsewhere": (302, {"Location": "/moved"}, b""),
    "not found": (404, {}, b""),
}


@pytest.mark.parametrize("path", ["/keys", "/.well-known/openid-configuration"])
@pytest.mark.parametrize("name", GARBAGE)
def test_garbage(issuer: Issuer, path: str, name: str) -> None:
    """Goal: what is no answer opens nothing, is not followed, and leaves the keys that are known."""
    issuer.instead["/moved"] = (200, {}, json.dumps(issuer.published).encode())
    trust, fresh = Trust(issuer.said()), Trust(issuer.said())
    good = issuer.token()
    trust.actor(good)
    issuer.instead[path] = GARBAGE[name]
    assert fresh.reason(good) == "no-keys"
    trust.clock.now += oidc.LIFETIME_SECONDS
    trust.actor(good)
    assert "/moved" not in issuer.fetched


def test_compressed_documents(issuer: Issuer) -> None:
    """Goal: no small answer becomes a large one. Method: a good document, compressed though nobody asked for that."""
    issuer.instead["/keys"] = (200, {"Content-Encoding": "gzip"}, gzip.compress(json.dumps(issuer.published).encode()))
    assert Trust(issuer.said()).reason(issuer.token()) == "no-keys"


def test_discovery_of_another_issuer(issuer: Issuer) -> None:
    """Goal: a discovery document counts only where it says the very same issuer, and a URL that may be fetched."""
    for found in (
        {**issuer.discovery, "issuer": issuer.url + "/"},
        {**issuer.discovery, "issuer": "https://issuer.example"},
        {"jwks_uri": f"{issuer.url}/keys"},
        {"issuer": issuer.url},
        {"issuer": issuer.url, "jwks_uri": ["x"]},
        {"issuer": issuer.url, "jwks_uri": "http://keys.example/keys"},
        {"issuer": issuer.url, "jwks_uri": "http://127.0.0.1.keys.example/keys"},
        {"issuer": issuer.url, "jwks_uri": "file:///etc/passwd"},
        {"issuer": issuer.url, "jwks_uri": "/keys"},
        {"issuer": issuer.url, "jwks_uri": "http://user@127.0.0.1/keys"},
    ):
        issuer.discovery = found
        assert Trust(issuer.said()).reason(issuer.token()) == "no-keys"
    assert issuer.keys_fetched == 0


def test_an_issuer_elsewhere_does_not_send_us_to_ourselves(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a discovery document from the network leads to no service of this machine. Method: one, as if fetched."""
    asked = []

    def document(where: str) -> dict[str, Any]:
        asked.append(where)
        return {"issuer": "https://issuer.example", "jwks_uri": f"{issuer.url}/keys"}

    monkeypatch.setattr(oidc, "_document", document)
    trust = Trust(issuer.said(issuer="https://issuer.example"))
    assert trust.reason(issuer.token(iss="https://issuer.example")) == "no-keys"
    assert asked == ["https://issuer.example/.well-known/openid-configuration"]


def test_keys_that_are_none(issuer: Issuer) -> None:
    """Goal: of a JWKS document only public keys that sign by the configured algorithms count, strong ones.

    Method: each kind of other key under its own kid, beside one that is good; tokens signed by each.
    """
    others = {
        "encrypts": jwk("encrypts", "RS256", use="enc"),
        "other": jwk("other", "RS256", alg="RS384"),
        "weak": jwk("weak", "RS256"),
        "curve": jwk("curve", "ES256"),
        "secret": {"kty": "oct", "kid": "secret", "alg": "RS256", "k": encoded(b"secret" * 8)},
        "private": jwt.get_algorithm_by_name("RS256").to_jwk(private_key("private", "RS256"), as_dict=True)
        | {"kid": "private"},
        "broken": jwk("broken", "RS256", n="!"),
        "numbers": jwk("numbers", "RS256", n=7, e=[]),
        "even": jwk("even", "RS256", e=encoded(b"\x02")),
        "surrogate": jwk("surrogate", "RS256", n="\ud800"),
    }
    odd: list[Any] = [None, 7, "key", [], {}, {"kid": 1, "kty": "RSA"}, {"kid": "x"}, {"kid": "x", "kty": ["RSA"]}]
    issuer.published = {"keys": [*odd, *others.values(), jwk("one", "RS256")]}
    trust = Trust(issuer.said())
    trust.actor(issuer.token())
    for kid in others:
        assert trust.reason(issuer.token({"kid": kid})) == "kid"
    assert issuer.keys_fetched == 1


def test_an_algorithm_of_the_wrong_curve() -> None:
    """Goal: ES256 is P-256. Method: a key of another curve, published without saying what it is for."""
    with running("ES256") as issuer:
        issuer.published = {"keys": [jwk("one", "ES384", alg="ES256")]}
        trust = Trust(issuer.said())
        signer = jwt.get_algorithm_by_name("ES384")
        token = signed(issuer.header(), issuer.claims(), lambda text: signer.sign(text, private_key("one", "ES384")))
        assert trust.reason(token) == "kid"


# --- the configuration -----------------------------------------------------------------------------------------------

SECRET = "hunter2"
RULE = {"claims": {"sub": "x"}, "tenant": str(TENANT), "role": "auditor"}
SAID = {"issuer": "https://issuer.example", "audience": "a", "algorithms": ["RS256"], "rules": [RULE]}


def with_rule(**changes: Any) -> dict[str, Any]:
    """A good rule, and one with something wrong."""
    return {"rules": [RULE, {**RULE, **changes}]}


MISCONFIGURED: list[tuple[dict[str, Any], str]] = [
    ({"issuer": "http://issuer.example"}, "issuers.0.issuer: must begin with https://"),
    ({"issuer": "http://127.0.0.1.issuer.example"}, "issuers.0.issuer: must begin with https://"),
    ({"issuer": "ftp://127.0.0.1"}, "issuers.0.issuer: must begin with https://"),
    ({"issuer": f"https://user:{SECRET}@issuer.example"}, "issuers.0.issuer: must have a host, and neither a user"),
    ({"issuer": "https://issuer.example#x"}, "issuers.0.issuer: must have a host, and neither a user"),
    ({"issuer": "https://issuer.example?x=1"}, "issuers.0.issuer: must have no query"),
    ({"issuer": "issuer.example"}, "issuers.0.issuer: must have a host"),
    ({"issuer": "https://[::1"}, "issuers.0.issuer: is not a URL"),
    ({"jwks_uri": "http://issuer.example/keys"}, "issuers.0.jwks_uri: must begin with https://"),
    ({"jwks_uri": 7}, "issuers.0.jwks_uri: "),
    ({"audience": ""}, "issuers.0.audience: "),
    ({"audience": None}, "issuers.0.audience: "),
    ({"algorithms": []}, "issuers.0.algorithms: "),
    ({"algorithms": ["none"]}, "issuers.0.algorithms.0: "),
    ({"algorithms": ["RS256", "HS256"]}, "issuers.0.algorithms.1: "),
    ({"algorithms": "RS256"}, "issuers.0.algorithms: "),
    ({"leeway_seconds": 301}, "issuers.0.leeway_seconds: "),
    ({"leeway_seconds": "60"}, "issuers.0.leeway_seconds: "),
    ({"rules": []}, "issuers.0.rules: "),
    ({"secret": SECRET}, "issuers.0.secret: Extra inputs"),
    (with_rule(claims={}), "issuers.0.rules.1.claims: "),
    (with_rule(claims={"sub": "*"}), "issuers.0.rules.1.claims.sub"),
    (with_rule(claims={"sub": "a*b*"}), "issuers.0.rules.1.claims.sub"),
    (with_rule(claims={"sub": [SECRET]}), "issuers.0.rules.1.claims.sub"),
    (with_rule(claims={"sub": None}), "issuers.0.rules.1.claims.sub"),
    (with_rule(tenant=SECRET), "issuers.0.rules.1.tenant: "),
    (with_rule(tenant=str(keys.OPERATOR)), "issuers.0.rules.1.tenant: is not a tenant's id"),
    (with_rule(role="operator"), "issuers.0.rules.1.role: "),
    (with_rule(datasets=[]), "issuers.0.rules.1.datasets: "),
    (with_rule(projects=[""]), "issuers.0.rules.1.projects.0: "),
    (with_rule(dataset=["mnist"]), "issuers.0.rules.1.dataset: Extra inputs"),
]


@pytest.mark.parametrize(("changes", "says"), MISCONFIGURED)
def test_misconfigured(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    """Goal: what cannot be meant is refused before the server starts, naming the field and showing nothing else."""
    file = tmp_path / "oidc.json"
    file.write_text(json.dumps({"issuers": [{**SAID, **changes}]}))
    with pytest.raises(Misconfigured, match=re.escape(f"{file}: {says}")) as raised:
        Issuers.load(file)
    assert SECRET not in str(raised.value)


def test_files_that_are_none(tmp_path: Path, database: Settings) -> None:
    """Goal: the same for the file itself, and the application does not start with it."""
    file = tmp_path / "oidc.json"
    said = json.dumps({"issuers": [SAID]})
    for text, says in (
        (None, "cannot be read: No such file"),
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[]", ": "),
        (b"{}", "issuers: Field required"),
        (b'{"issuers": []}', "issuers: "),
        (json.dumps({"issuers": [SAID, SAID]}).encode(), "issuers: an issuer stands there twice"),
        (said.replace('"role"', '"role": "admin", "role"').encode(), "a name stands twice"),
    ):
        if text is not None:
            file.write_bytes(text)
        with pytest.raises(Misconfigured, match=re.escape(says)):
            create_app(database.model_copy(update={"oidc_file": file}))
    file.write_text(said)
    Issuers.load(file)

"""The keys of an OpenID Connect issuer: fetched, kept, rotated, withdrawn, and not to be had."""

from __future__ import annotations

import gzip
import json
import uuid
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from queue import SimpleQueue
from typing import Any

import jwt
import pytest

from ledger.access import oidc
from ledger.errors import UNKNOWN_KEY, Unauthenticated
from tests.kit.issuer import Issuer, Reasons, Trust, encoded, jwk, now, private_key, running, signed


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

    monkeypatch.setattr(oidc, "document", document)
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

"""Every way in which a token of an OpenID Connect issuer can be wrong."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.access import keys, oidc
from ledger.access.keys import tenant_of
from ledger.access.oidc import looks_like_token
from ledger.errors import UNKNOWN_KEY, Unauthenticated
from tests.kit.issuer import (
    AUDIENCE,
    TENANT,
    TO_THE_HOLDER,
    House,
    Issuer,
    Trust,
    encoded,
    jwk,
    now,
    private_key,
    running,
    signed,
)
from tests.kit.trials import trials


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
    """Goal: a stranger cannot tell one wrong token from another, nor from a key that nobody has. The holder of a token
    that the issuer signed learns what is wrong with it, and of rules only which claims differ.

    Method: each of them over HTTP, on each database, and each again with a broken signature; the answers are those for
    a key that was never given out, unless the signature is valid and the reason is found after it.
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
        if WRONG.get(name, (None, ""))[1] in TO_THE_HOLDER - {"claims"}:
            told = answer.json()
            assert (told["code"], told["reason"]) == ("unauthenticated", WRONG[name][1]), name
            assert told["detail"].startswith("The signature of this token is valid, but ")
            broken = token.rpartition(".")[0] + "." + encoded(b"x" * 256)
            answer = house.by(broken).get("/v1/datasets")
            assert answer.json() == unknown.json(), name
        elif "reason" in answer.json():
            assert (answer.json()["reason"], WRONG[name][1]) == ("claims", "claims")
        elif len(token) <= oidc.TOKEN_LENGTH_MAX:
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


@settings(max_examples=trials(50, 300), deadline=None)
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

"""Signing in by an OpenID Connect issuer: a real provider on the loopback, through the HTTP client."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import httpx
import pytest

from ledger.access import authorization
from ledger.access.authorization import FLOW_SECONDS
from ledger.access.keys import tenant_of
from ledger.settings import Settings
from tests.kit.driver import Ledger, application, first_keys
from tests.kit.inside import InsideClient
from tests.kit.pages import ORIGIN, Visitor, behind, words_of
from tests.kit.provider import CLIENT, SECRET, Provider, providing
from tests.kit.scene import ok


@dataclass
class Home:
    """The application, with two providers that people sign in by; the second one is another company's."""

    database: Settings
    file: Path
    tenant: str
    ledger: Ledger
    provider: Provider
    other: Provider
    visitor: Visitor = field(init=False)

    def __post_init__(self) -> None:
        self.visitor = Visitor(self.ledger)

    def path(self, provider: Provider | None = None) -> str:
        """Where a sign-in by this provider begins."""
        return f"/ui/sign-in/oidc/{slug_of(provider or self.provider)}"

    def begin(self, visitor: Visitor | None = None, *, next_: str = "/ui") -> str:
        """Begin a sign-in: the address of the provider."""
        answer = (visitor or self.visitor).get(f"{self.path()}?{urlencode({'next': next_})}")
        assert answer.status_code == 303, words_of(answer.text)
        return str(answer.headers["location"])

    def agreed(self, address: str) -> dict[str, str]:
        """Say yes at the provider: what the browser takes back."""
        answer = httpx.post(address, trust_env=False)
        assert answer.status_code == 302, answer.text
        return dict(parse_qsl(urlsplit(answer.headers["location"]).query))

    def back(self, visitor: Visitor | None = None, /, **members: str) -> Any:
        """Come back to the ledger."""
        return (visitor or self.visitor).get(f"{self.path()}/back?{urlencode(members)}")

    def sign_in(self) -> Any:
        """All of it."""
        return self.back(**self.agreed(self.begin()))


def slug_of(provider: Provider) -> str:
    """What the addresses of a provider's sign-in have."""
    return provider.url.removeprefix("http://").replace(".", "-").replace(":", "-")


def configured(home_tenant: str, provider: Provider, **changes: Any) -> dict[str, Any]:
    """What the file says of a provider."""
    rules = [
        {"claims": {"groups": "limited"}, "tenant": home_tenant, "role": "requester", "datasets": ["mnist"]},
        {"claims": {"groups": "steward"}, "tenant": home_tenant, "role": "steward"},
        {"claims": {"groups": "lost"}, "tenant": "00000000-0000-4000-8000-000000000007", "role": "admin"},
    ]
    return {**provider.said(*rules), "client_id": CLIENT, **changes}


@pytest.fixture
def home(database: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """The application, as two providers and `LEDGER_OIDC_FILE` set it up, on each database."""
    first = first_keys(database)
    tenant = str(tenant_of(first.admin_key))
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    monkeypatch.setenv("OTHER_CLIENT_SECRET", SECRET)
    with providing() as provider, providing() as other:
        for one in (provider, other):
            one.redirect_uris = {f"{ORIGIN}/ui/sign-in/oidc/{slug_of(one)}/back"}
        issuers = [
            configured(tenant, provider, client_secret={"file": str(tmp_path / "secret")}, leeway_seconds=0),
            configured(tenant, other, client_secret={"variable": "OTHER_CLIENT_SECRET"}),
        ]
        file = tmp_path / "oidc.json"
        file.write_text(json.dumps({"issuers": issuers}))
        settings = database.model_copy(update={"oidc_file": file, "failed_sign_ins": 20})
        with InsideClient(application(settings)) as client:
            ledger = Ledger(client, first.admin_key, operator_key=first.operator_key)
            yield Home(database, file, tenant, ledger, provider, other)


def test_signing_in_and_out(home: Home) -> None:
    """Goal: a person signs in by the provider, in the role of their rule, comes to the page they wanted, and signs out.
    Method: the way of a browser; the provider checks client, redirect URI and PKCE; nothing of it stays anywhere."""
    page = home.visitor.page("/ui/sign-in?next=%2Fui%2Fdatasets")
    assert f"Sign in with {urlsplit(home.provider.url).netloc}" in words_of(page)
    assert f'href="{home.path()}?next=%2Fui%2Fdatasets"' in page
    address = home.begin(next_="/ui/datasets?cursor=x")
    asked = parse_qs(urlsplit(address).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert {"state", "nonce", "code_challenge"} <= asked.keys()
    assert set(home.visitor.cookies) == {"ledger-sign-in"}
    assert asked["state"][0] not in home.visitor.cookies["ledger-sign-in"]
    answer = home.back(**home.agreed(address))
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/datasets?cursor=x")
    assert set(home.visitor.cookies) == {"ledger-session"}
    page = home.visitor.page("/ui")
    assert "ada (steward)" in words_of(page)
    assert home.visitor.get("/ui/keys").status_code == 403
    token = home.provider.tokens[-1]["id_token"]
    assert token not in page
    with behind(home.database) as connection:
        kept = str(connection.exec_driver_sql("SELECT * FROM sessions").all())
    assert token not in kept
    csrf = home.visitor.token()
    cookie = home.visitor.cookies["ledger-session"]
    assert home.visitor.send("/ui/sign-in/out", csrf=csrf).headers["location"].endswith("done=signed-out")
    home.visitor.cookies["ledger-session"] = cookie
    assert home.visitor.get("/ui").status_code == 303


@pytest.mark.parametrize("method", ["client_secret_post", "client_secret_basic", "none"])
def test_clients_of_each_kind(home: Home, method: str) -> None:
    """Goal: providers that take the secret in the body, and clients without one, work too. Method: what discovery
    states, a secret that is the same encoded, and a configuration without a secret."""
    if method == "none":
        issuers = [configured(home.tenant, home.provider)]
        home.file.write_text(json.dumps({"issuers": issuers}))
        home.provider.secret = None
    if method == "client_secret_basic":
        (home.file.parent / "secret").write_text("plain-secret")
        home.provider.secret = "plain-secret"
    home.provider.method = method
    home.provider.discovery["token_endpoint_auth_methods_supported"] = [method]
    with InsideClient(application(home.database.model_copy(update={"oidc_file": home.file}))) as client:
        home.visitor = Visitor(Ledger(client, home.ledger.key))
        assert home.sign_in().headers["location"] == "/ui"
        home.visitor.page("/ui")


def test_limits_hold_in_pages(home: Home) -> None:
    """Goal: the limits of the rule are those of the session. Method: a rule with one dataset, and another dataset."""
    home.ledger.register(name="mnist")
    home.ledger.register(name="secret-set")
    home.provider.user = {"sub": "bob", "groups": ["limited"]}
    assert home.sign_in().status_code == 303
    assert "secret-set" not in home.visitor.page("/ui/datasets")
    home.visitor.page("/ui/datasets/mnist")
    assert home.visitor.get("/ui/datasets/secret-set").status_code == 404


def test_a_change_is_of_the_person(home: Home) -> None:
    """Goal: what a person changes in the pages is theirs, as with a token of the API. Method: a proposal that another
    steward approves by the page; the same `sub` by the API is the same principal."""
    home.ledger.register(name="mnist", budget={"epsilon": 1, "at_delta": 1e-5})
    ok(home.ledger.put("/v1/policy", {"second_steward": True, "reason": "two"}))
    raise_it = {"budget": {"epsilon": 2, "at_delta": 1e-5}, "reason": "more"}
    proposed = ok(home.ledger.put("/v1/datasets/mnist/budget", raise_it))["proposal"]["id"]
    home.sign_in()
    csrf = home.visitor.token(f"/ui/approvals/{proposed}")
    done = home.visitor.send(f"/ui/approvals/{proposed}/approve", csrf=csrf, reason="yes")
    assert done.status_code == 303, words_of(done.text)
    answered = ok(home.ledger.get(f"/v1/proposals/{proposed}"))
    by_token = home.ledger.with_key(home.provider.token(**home.provider.user))
    assert answered["answered_by"]["principal"] == ok(by_token.get("/v1/me"))["principal"]


CHANGES = {
    "nonce": ({"nonce": "x"}, "its `nonce` differs"),
    "other client": ({"aud": "another-client"}, "its `aud` is not the `client_id`"),
    "further audience": ({"aud": [CLIENT, "another-client"], "azp": CLIENT}, "its `aud` is not the `client_id`"),
    "other party": ({"azp": "another-client"}, "its `azp` differs"),
    "access token": ({"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}, "its `at_hash` differs"),
    "issuer": ({"iss": "https://evil.example"}, "its `iss` names another issuer"),
    "expired": ({"exp": 1_000_000_000}, "it has expired"),
    "not yet": ({"nbf": 32_000_000_000}, "it is not valid yet"),
    "rules": ({"groups": ["guests"]}, "no rule of this ledger admits it: rule 1 differs in groups"),
    "subject": ({"sub": ""}, "a claim is missing or has a wrong form: sub"),
    "tenant": ({"groups": ["lost"]}, "names a tenant that does not exist"),
}


@pytest.mark.parametrize(("changes", "words"), CHANGES.values(), ids=CHANGES)
def test_wrong_id_tokens(home: Home, changes: dict[str, Any], words: str) -> None:
    """Goal: an ID token that is not for this sign-in opens nothing, and the person reads which rule failed. Method: a
    token that the provider signs with one claim changed."""
    home.provider.changes = changes
    answer = home.sign_in()
    assert answer.status_code == 401
    assert words in words_of(answer.text), words_of(answer.text)
    assert not home.visitor.cookies


def test_keys_and_types(home: Home) -> None:
    """Goal: a token by another key, or of another kind, opens nothing. Method: an access token's `typ`; a key that the
    provider does not publish under that name."""
    home.provider.typ = "at+jwt"
    assert "`typ` is not JWT" in words_of(home.sign_in().text)
    home.provider.typ = "JWT"
    home.provider.kid = "hidden"
    answer = home.sign_in()
    assert answer.status_code == 401
    assert "it has no `kid`, or the issuer publishes no key" in words_of(answer.text)
    home.provider.kid = "one"
    home.provider.published["keys"][0]["n"] = home.other.published["keys"][0]["n"]
    assert home.sign_in().status_code == 303


def test_who_did_not_begin_here_is_not_signed_in(home: Home) -> None:
    """Goal: nobody is signed in as somebody else by a link (login CSRF), nor with an answer of another sign-in. Method:
    an attacker's answer in a browser that began nothing, that began another sign-in, and without a state."""
    mallory = Visitor(home.ledger)
    answer = home.agreed(home.begin(mallory))
    stranger = home.back(**answer)
    assert stranger.status_code == 401
    assert "not begun in this browser" in words_of(stranger.text)
    home.begin()
    wrong = home.back(**answer)
    assert wrong.status_code == 401
    assert "`state`" in words_of(wrong.text)
    assert not home.visitor.cookies
    home.begin()
    assert home.back(code=answer["code"]).status_code == 401
    assert len(home.provider.codes) == 1  # it was never sent on
    assert home.back(mallory, **answer).status_code == 303


def test_a_sign_in_is_used_once(home: Home) -> None:
    """Goal: neither an answer nor what the browser kept works twice. Method: both again; then a new code of the
    provider for the same sign-in, which would pass all its checks."""
    address = home.begin()
    kept = dict(home.visitor.cookies)
    answer = home.agreed(address)
    again = home.agreed(address)
    assert home.back(**answer).status_code == 303
    assert home.back(**answer).status_code == 401
    home.visitor.cookies = dict(kept)
    replayed = home.back(**answer)
    assert replayed.status_code == 401
    assert "invalid_grant" in words_of(replayed.text)
    home.visitor.cookies = dict(kept)
    second = home.back(**again)
    assert second.status_code == 401
    assert "used before" in words_of(second.text)


def test_several_processes(home: Home) -> None:
    """Goal: a sign-in that began at one process of a ledger ends at another, and is used up for all. Method: two
    applications with one database and one signing key; all answers of one sign-in at the same moment, to both."""
    settings = home.database.model_copy(update={"oidc_file": home.file})
    address = home.begin()
    answers = [home.agreed(address) for _ in range(6)]
    with InsideClient(application(settings)) as client:
        visitors = [Visitor(Ledger(client, home.ledger.key)), Visitor(home.ledger)]
        visitors = [visitors[number % 2] for number in range(len(answers))]
        cookie = f"ledger-sign-in={home.visitor.cookies['ledger-sign-in']}"

        def status(visitor: Visitor, answer: dict[str, str]) -> int:
            path = f"{home.path()}/back?{urlencode(answer)}"
            return int(visitor.get(path, cookie=cookie).status_code)

        with ThreadPoolExecutor(len(answers)) as pool:
            statuses = list(pool.map(status, visitors, answers))
    assert sorted(statuses) == [303, *[401] * (len(answers) - 1)]


def test_ten_minutes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a sign-in that began long ago has ended, whatever the browser keeps. Method: the clock of the seal."""
    answer = home.agreed(home.begin())
    now = time.time()
    with monkeypatch.context() as patched:
        patched.setattr("cryptography.fernet.time.time", lambda: now + FLOW_SECONDS + 2)
        late = home.back(**answer)
    assert late.status_code == 401
    assert "10 minutes" in words_of(late.text)
    assert home.provider.codes


@pytest.mark.parametrize("kept", ["", "x", "gAAAAA" + "A" * 100, "a" * 9000])
def test_a_broken_seal(home: Home, kept: str) -> None:
    """Goal: what a browser keeps cannot be made up. Method: texts that this ledger has not sealed."""
    answer = home.agreed(home.begin())
    home.visitor.cookies["ledger-sign-in"] = kept
    assert home.back(**answer).status_code == 401
    assert home.provider.codes


def test_issuers_are_not_mixed_up(home: Home) -> None:
    """Goal: the code of one provider is sent to no other. Method: a sign-in that began by one comes back to the address
    of the other; and an answer that names another issuer, or none although the provider announces that it does."""
    answer = home.agreed(home.begin())
    kept = dict(home.visitor.cookies)
    crossed = home.visitor.get(f"{home.path(home.other)}/back?{urlencode(answer)}")
    assert crossed.status_code == 401
    assert not any(path.startswith("/token") for path in home.other.fetched)
    home.visitor.cookies = dict(kept)
    named = home.back(**answer, iss=home.other.url)
    assert named.status_code == 401
    assert "`iss`" in words_of(named.text)
    home.visitor.cookies = dict(kept)
    assert home.back(**answer, iss=home.provider.url).status_code == 303
    home.other.discovery["authorization_response_iss_parameter_supported"] = True
    begun = home.visitor.get(home.path(home.other)).headers["location"]
    missing = home.visitor.get(f"{home.path(home.other)}/back?{urlencode(home.agreed(begun))}")
    assert missing.status_code == 401
    assert "`iss`" in words_of(missing.text)


@pytest.mark.parametrize("path", ["//evil.example/ui", "https://evil.example", "/ui/../v1", "/ui\\evil", "/ui/sign-in"])
def test_signing_in_leads_to_no_other_site(home: Home, path: str) -> None:
    """Goal: the page after signing in is one of ours. Method: addresses that lead elsewhere, at both ends."""
    answer = home.agreed(home.begin(next_=path))
    assert home.back(**answer, next=path).headers["location"] == "/ui"


def test_a_planted_session_is_not_used(home: Home) -> None:
    """Goal: whoever plants a cookie is not let in by the sign-in that follows (session fixation). Method: a secret that
    somebody else knows is in the browser before."""
    planted = "pbs_" + "A" * 64
    home.visitor.cookies["ledger-session"] = planted
    assert home.sign_in().status_code == 303
    assert home.visitor.cookies["ledger-session"] != planted
    mallory = Visitor(home.ledger)
    mallory.cookies["ledger-session"] = planted
    assert mallory.get("/ui").status_code == 303


def test_a_session_ends_with_its_token(home: Home) -> None:
    """Goal: a sign-in lasts no longer than the ID token. Method: its end in the database; ten minutes."""
    home.provider.seconds = 600
    before = time.time()
    home.sign_in()
    with behind(home.database) as connection:
        ends = connection.exec_driver_sql("SELECT expires_us FROM sessions WHERE kind = 'session'").scalar_one()
        assert before + 599 <= ends / 1e6 <= time.time() + 600
        connection.exec_driver_sql("UPDATE sessions SET expires_us = 1 WHERE kind = 'session'")
    assert home.visitor.get("/ui").status_code == 303


def test_a_session_ends_when_the_configuration_changes(home: Home) -> None:
    """Goal: who changes a rule or an issuer ends the sign-ins that rest on it. Method: a restart with the same file and
    with a rule less."""
    home.sign_in()
    settings = home.database.model_copy(update={"oidc_file": home.file})

    def status() -> int:
        with InsideClient(application(settings)) as client:
            again = Visitor(Ledger(client, home.ledger.key))
            again.cookies = dict(home.visitor.cookies)
            return int(again.get("/ui").status_code)

    assert status() == 200
    said = json.loads(home.file.read_text())
    said["issuers"][0]["rules"].pop()
    home.file.write_text(json.dumps(said))
    assert status() == 303


def test_errors_of_the_provider_are_explained(home: Home) -> None:
    """Goal: who is refused by the provider reads why, and no text of an address is repeated. Method: a person who says
    no; an unknown error; a member twice; a redirect URI that is not registered; a client secret that is wrong."""
    home.provider.denies = True
    denied = home.back(**home.agreed(home.begin()))
    assert denied.status_code == 401
    assert "access_denied" in words_of(denied.text)
    state = parse_qs(urlsplit(home.begin()).query)["state"][0]
    unknown = home.back(state=state, error="<b>call 555</b>", error_description="call 555")
    assert unknown.status_code == 401
    assert "555" not in unknown.text
    twice = home.visitor.get(f"{home.path()}/back?state=a&state=b")
    assert twice.status_code == 422
    home.provider.denies, home.provider.secret = False, "another"
    assert "invalid_client" in words_of(home.sign_in().text)
    home.provider.redirect_uris = set()
    assert httpx.post(home.begin(), trust_env=False).status_code == 400


def test_a_provider_that_does_not_answer(home: Home) -> None:
    """Goal: a provider that is down, or answers nonsense, is an error in words, and is not asked again at once. Method:
    each of its documents replaced; a discovery document of another issuer, or that leads elsewhere."""
    home.provider.instead["/.well-known/openid-configuration"] = (500, {}, b"")
    for _ in range(3):
        answer = home.visitor.get(home.path())
        assert answer.status_code == 503
        assert "sign in with a key" in words_of(answer.text)
    assert len(home.provider.fetched) == 1
    other = home.path(home.other)
    begun = home.visitor.get(other).headers["location"]
    for body in (b"[]", b"{", b" " * 300_000):
        home.other.instead["/token"] = (200, {}, body)
        kept = dict(home.visitor.cookies)
        answer = home.visitor.get(f"{other}/back?{urlencode(home.agreed(begun))}")
        assert answer.status_code == 503
        home.visitor.cookies = kept
    home.other.instead["/token"] = (200, {}, b'{"access_token": "x"}')
    answer = home.visitor.get(f"{other}/back?{urlencode(home.agreed(begun))}")
    assert answer.status_code == 401


def test_nothing_secret_is_logged(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: no code, token, state, nonce or client secret is in the log. Method: all lines of a sign-in that works and
    of one that does not."""
    # The provider, and the browser that this test is, are in the same process.
    of_others = ("httpcore", "httpx", "authlib.oauth2.rfc6749")
    with caplog.at_level(logging.DEBUG):
        address = home.begin()
        answer = home.agreed(address)
        home.back(**answer)
        home.back(**answer)
    lines = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith(of_others))
    tokens = home.provider.tokens[-1]
    for secret in (*answer.values(), tokens["id_token"], tokens["access_token"], SECRET, parse_qs(address)["nonce"][0]):
        assert secret not in lines


def test_guesses_are_slowed(home: Home) -> None:
    """Goal: an address whose sign-ins fail again and again makes the server ask no provider. Method: answers that were
    not begun, until they are turned away."""
    statuses = [home.back(state="x", code="y").status_code for _ in range(30)]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert home.visitor.get(home.path()).status_code == 429
    assert home.visitor.send("/ui/sign-in", key=home.ledger.key).status_code == 303


def test_plain_http_and_other_addresses(home: Home) -> None:
    """Goal: no sign-in begins where its cookie could be read, nor by an issuer that is not configured. Method: plain
    HTTP on another host; an unknown issuer; HEAD, which begins nothing."""
    assert Visitor(home.ledger, host="ledger.example").get(home.path()).status_code == 403
    assert home.visitor.get("/ui/sign-in/oidc/nobody").status_code == 404
    assert home.visitor.get("/ui/sign-in/oidc/nobody/back").status_code == 404
    assert home.visitor.get(home.path(), method="HEAD").status_code == 204
    assert not home.visitor.cookies
    assert home.visitor.send(home.path()).status_code == 404
    secure = Visitor(home.ledger, scheme="https", host="ledger.example").get(home.path())
    assert secure.headers["set-cookie"].startswith("__Host-ledger-sign-in=")
    assert {"HttpOnly", "SameSite=lax", "Path=/", "Secure"} <= set(secure.headers["set-cookie"].split("; "))
    expected = f"https://ledger.example{home.path()}/back"
    assert parse_qs(urlsplit(secure.headers["location"]).query)["redirect_uri"] == [expected]


def test_keys_sign_in_without_issuers(ledger: Ledger) -> None:
    """Goal: without a configured issuer the page offers a key alone. Method: the page of a server without the file."""
    assert "/ui/sign-in/oidc" not in Visitor(ledger).page("/ui/sign-in")
    assert Visitor(ledger).get("/ui/sign-in/oidc/x").status_code == 404
    assert authorization.FLOW_SECONDS == 600

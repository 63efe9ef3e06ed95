"""What everybody can reach: how often, from which page, under which settings, and that nobody pays for another."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import secrets
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from ledger.access import keys
from ledger.api.app import create_app
from ledger.api.headers import NOTHING
from ledger.api.limits import Buckets, neighbourhood
from ledger.settings import Settings
from tests.conftest import Templates
from tests.kit.driver import Ledger, Served, environment, first_keys, serve_forked


@pytest.fixture
def settings(templates: Templates, tmp_path: Path) -> Iterator[Settings]:
    """A database on SQLite alone, for what does not depend on the database."""
    with templates.clone("sqlite", tmp_path) as found:
        yield found


@pytest.fixture
def here(settings: Settings) -> Iterator[Ledger]:
    """A ledger on it."""
    with Ledger.open(settings) as opened:
        yield opened


def ones_own_key(ledger: Ledger) -> str:
    """A key with a right checksum, of a tenant that is known or not, that nobody was given."""
    tenant = keys.tenant_of(ledger.key) if secrets.randbelow(2) else uuid.uuid4()
    return keys.mint(tenant)


# --- how often -------------------------------------------------------------------------------------------------------


def test_buckets() -> None:
    """Goal: a burst, then a steady rate, for each alone, in bounded memory. Method: a clock that the test turns."""
    now = 1000.0
    buckets = Buckets(per_second=2, burst=3, size=2, clock=lambda: now)
    for _ in range(3):
        assert buckets.wait_of("a") == 0
        buckets.take("a")
    assert buckets.wait_of("a") == 0.5
    assert buckets.wait_of("b") == 0
    now += 0.5
    assert buckets.wait_of("a") == 0
    buckets.take("a")
    assert buckets.wait_of("a") == 0.5
    now += 1_000_000
    for _ in range(3):
        buckets.take("a")
    assert buckets.wait_of("a") == 0.5  # it never holds more than a burst
    for who in "bcd":
        buckets.take(who)
    assert len(buckets._buckets) == 2
    assert buckets.wait_of("a") == 0


def test_a_key_has_its_rate(database: Settings) -> None:
    """Goal: a key beyond its rate is told when to come again, loses nothing, and slows no other.

    Method: a burst of four; the fifth is refused, records nothing and binds no key; another key goes on.
    """
    limited = database.model_copy(update={"rate_per_second": 0.01, "rate_burst": 4})
    first = first_keys(database)
    with TestClient(create_app(limited)) as client:
        admin = Ledger(client, first.admin_key)
        admin.register()
        requester = admin.as_("requester")
        answers = [requester.ask(key=f"k{number}") for number in range(6)]
        assert [answer.status_code for answer in answers] == [201] * 4 + [429] * 2
        assert answers[-1].json()["code"] == "rate-limited"
        assert 50 <= int(answers[-1].headers["retry-after"]) <= 100
        assert admin.get("/v1/runs").json()["next"] is None
        assert len(admin.get("/v1/runs").json()["items"]) == 4
        assert admin.get("/v1/runs").status_code == 429  # register, as_, and two lists: its own rate, not theirs
        assert client.get("/healthz").status_code == 200
        assert "ledger_rate_limited_total 3.0" in client.get("/metrics").text


def test_no_rate_unless_said(here: Ledger) -> None:
    """Goal: nobody is limited who did not ask for it. Method: many requests under one key."""
    assert {here.get("/v1/datasets").status_code for _ in range(300)} == {200}


def test_guessing_gets_slow(database: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: wrong keys from one address soon cost nothing, and the keys known there go on.

    Method: five wrong keys a minute are looked up; the next is refused unread, a malformed one is as ever, a key that
    was recognised here before goes on, and so does any key from another address. What was right counts for nothing.
    No key is remembered, so that each is looked up.
    """
    monkeypatch.setattr(keys, "CACHE_SECONDS", 0)
    first = first_keys(database)
    strict = database.model_copy(update={"failed_sign_ins": 5})
    with TestClient(create_app(strict)) as client:
        admin = Ledger(client, first.admin_key)
        newcomers = [admin.as_("auditor") for _ in range(8)]
        assert {one.get("/v1/datasets").status_code for one in newcomers[:7]} == {200}
        guesses = [admin.with_key(ones_own_key(admin)).get("/v1/datasets") for _ in range(8)]
        assert [answer.status_code for answer in guesses] == [401] * 5 + [429] * 3
        assert guesses[-1].json()["code"] == "rate-limited"
        assert 1 <= int(guesses[-1].headers["retry-after"]) <= 12
        assert admin.with_key("pbl_x").get("/v1/datasets").status_code == 401
        assert {one.get("/v1/datasets").status_code for one in (admin, *newcomers[:7])} == {200}
        assert newcomers[7].get("/v1/datasets").status_code == 429
        assert 'reason="limited"} 4.0' in client.get("/metrics").text
        elsewhere = TestClient(client.app, client=("192.0.2.1", 1))
        assert Ledger(elsewhere, newcomers[7].key).get("/v1/datasets").status_code == 200
        assert Ledger(elsewhere, ones_own_key(admin)).get("/v1/datasets").status_code == 401


def test_a_revoked_key_becomes_a_stranger(here: Ledger) -> None:
    """Goal: who was known and no longer is gets no better treatment than a guess. Method: revoke, and use it on."""
    made = here.post("/v1/keys", {"name": "x", "role": "auditor"}).json()
    other = here.with_key(made["secret"])
    assert other.get("/v1/datasets").status_code == 200
    here.delete(f"/v1/keys/{made['id']}")
    assert {other.get("/v1/datasets").status_code for _ in range(3)} == {401}
    assert 'reason="unknown"} 3.0' in here.client.get("/metrics").text


def test_strangers_wait_apart(here: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: look-ups of unknown keys take neither all threads nor all connections, and their queue is bounded.

    Method: look-ups that hang; four are under way, the queue fills, one more is answered 503 at once, and whoever is
    known is answered all the while, though no key is remembered.
    """
    monkeypatch.setattr(keys, "CACHE_SECONDS", 0)
    assert here.get("/v1/datasets").status_code == 200
    keyring, release, under_way = here.client.app.state.services.keyring, threading.Event(), []
    arrived = threading.Semaphore(0)
    recognise = keyring.recognise

    def slowly(secret: str) -> Any:
        if secret != here.key:
            under_way.append(secret)
            arrived.release()
            release.wait(60)
        return recognise(secret)

    monkeypatch.setattr(keyring, "recognise", slowly)
    with ThreadPoolExecutor(100) as pool:
        asked = [pool.submit(here.with_key(ones_own_key(here)).get, "/v1/datasets") for _ in range(80)]
        answered = list(itertools.islice(as_completed(asked, timeout=30), 80 - 68))
        assert all(arrived.acquire(timeout=30) for _ in range(4))
        assert here.get("/v1/datasets").status_code == 200
        assert len(under_way) == 4
        turned_away = [each.result() for each in answered]
        release.set()
        rest = [each.result().status_code for each in asked]
    assert [answer.status_code for answer in turned_away] == [503] * 12
    assert all("retry-after" in answer.headers for answer in turned_away)
    assert sorted(rest) == [401] * 68 + [503] * 12


def test_addresses_of_one_network() -> None:
    """Goal: who may choose among 2^64 addresses is one. Method: both families, and what is no address."""
    assert neighbourhood("192.0.2.1") == "192.0.2.1"
    assert neighbourhood("2001:db8:1:2:3:4:5:6") == neighbourhood("2001:db8:1:2::") == "2001:db8:1:2::/64"
    assert neighbourhood("2001:db8:1:3::1") != neighbourhood("2001:db8:1:2::1")
    assert neighbourhood("testclient") == "testclient"
    assert len(neighbourhood("x" * 1000)) == 64


def test_guesses_slow_nobody(
    database: Settings, start_server: Callable[[Settings], Served], tries: Callable[[int, int], int]
) -> None:
    """Goal: guesses of a key neither succeed nor slow the service for others.

    Method: a real server, and the times of approvals that follow each other: alone, beside four connections that ask
    whether it lives, and beside as many guesses (one in four of them well-formed). All guesses fail, all approvals are
    given, and few guesses are looked up; the times are printed, for whoever has a quiet machine.
    """
    count = tries(400, 100_000)
    first = first_keys(database)
    served = start_server(database)
    with served.client() as client:
        ledger = Ledger(client, first.admin_key)
        ledger.register(budget={"mu": 1000})
        alone = _approvals(ledger, lambda made: made >= 100)
        beside: dict[str, float] = {}
        begun = time.monotonic()
        for what, key in (("harmless", None), ("guesses", ledger.key)):
            with ThreadPoolExecutor(4) as pool:
                asking = [pool.submit(_questions, served.url, count // 4, key) for _ in range(4)]
                beside[what] = _approvals(ledger, partial(_is_over, asking))
            answered = {status for each in asking for status in each.result()}
            assert answered <= ({200} if key is None else {401, 429, 503})
        minutes = (time.monotonic() - begun) / 60
        metrics = client.get("/metrics").text
    shown = ", ".join(f"{1000 * median:.1f} ms beside {count} {what}" for what, median in beside.items())
    print(f"an approval: {1000 * alone:.1f} ms alone, {shown}")
    looked_up = float(re.findall(r'sign_ins_total{reason="unknown"} (\S+)', metrics)[0])
    assert looked_up <= min(count / 4, database.failed_sign_ins + minutes * database.failed_sign_ins + 100)


def _is_over(asking: Sequence[Future[Any]], made: int) -> bool:
    return made >= 20 and all(each.done() for each in asking)


def _approvals(ledger: Ledger, until: Callable[[int], bool]) -> float:
    """The median time of approvals, in seconds."""
    found: list[float] = []
    while not until(len(found)):
        begun = time.perf_counter()
        assert ledger.ask({"type": "gaussian", "noise_multiplier": 500}).status_code == 201
        found.append(time.perf_counter() - begun)
    return statistics.median(found)


def _questions(url: str, count: int, real: str | None) -> list[int]:
    """The statuses of so many guesses of keys like this one, or of /healthz where there is none."""
    noise = secrets.SystemRandom()
    found: list[int] = []
    with httpx.Client(base_url=url, timeout=60) as client:
        for number in range(count):
            if real is None:
                found.append(client.get("/healthz").status_code)
                continue
            key = "pbl_" + "".join(noise.choices("abcdefgh234567", k=64))
            if number % 4 == 0:
                key = keys.mint(keys.tenant_of(real) if number % 8 else uuid.uuid4())
            found.append(client.get("/v1/datasets", headers={"Authorization": f"Bearer {key}"}).status_code)
    return found


# --- headers ---------------------------------------------------------------------------------------------------------

ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def test_security_headers_on_every_answer(here: Ledger) -> None:
    """Goal: no answer without them, whoever made it. Method: good and bad calls, faults, pages, files, exports."""
    here.register()
    answers = [
        here.get("/v1/datasets"),
        here.get("/v1/datasets/mnist/export"),
        here.get("/v1/datasets/nothing"),
        here.client.get("/v1/datasets"),
        here.request("POST", "/v1/evaluate", content=b"x" * 2_000_000),
        here.request("BREW", "/v1/runs"),
        here.post("/v1/evaluate", {}),
        *(here.client.get(path) for path in ("/healthz", "/metrics", "/openapi.json", "/docs", "/nothing")),
        here.client.get("/", follow_redirects=False),
        here.client.get("/docs/swagger-ui.css"),
    ]
    state = here.client.app.state
    before, state.services = state.services, None
    answers.append(here.get("/v1/datasets"))
    state.services = before
    assert {answer.status_code for answer in answers} == {200, 303, 401, 404, 405, 413, 422, 500}
    for answer in answers:
        assert ALWAYS.items() <= answer.headers.items(), answer.request.url
        assert answer.headers["permissions-policy"]
        assert "strict-transport-security" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers
        path = answer.request.url.path
        assert (answer.headers.get("cache-control") == "no-store") == path.startswith("/v1"), path
        assert (answer.headers["content-security-policy"] == NOTHING) == (path != "/docs"), path
        for name in set(answer.headers):
            assert len(answer.headers.get_list(name)) == 1, name


def test_transport_security_only_over_tls(settings: Settings) -> None:
    """Goal: a browser is told to keep to TLS where it came by it. Method: the scheme that a proxy reports."""
    with TestClient(create_app(settings), base_url="https://ledger.example") as client:
        assert client.get("/healthz").headers["strict-transport-security"].startswith("max-age=")


class _Page(HTMLParser):
    """What a page loads, and its inline scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.scripts: list[str] = []
        self._is_inline = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.loads += [str(given[name]) for name in ("src", "href") if name in given]
        self._is_inline = tag == "script" and "src" not in given

    def handle_data(self, data: str) -> None:
        if self._is_inline:
            self.scripts.append(data)
            self._is_inline = False


def test_the_documentation_keeps_its_policy(here: Ledger) -> None:
    """Goal: /docs works with no other host, under a policy that lets no script in. Method: all that the page loads is
    here, of the right type, and its one inline script has the hash that the policy names."""
    answer = here.client.get("/docs")
    policy = answer.headers["content-security-policy"]
    page = _Page()
    page.feed(answer.text)
    assert sorted(page.loads) == ["/docs/favicon.png", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"]
    types = {path: here.client.get(path).headers["content-type"].partition(";")[0] for path in page.loads}
    assert list(types.values()) == ["text/css", "image/png", "text/javascript"]
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'self' 'sha256-{digest}';" in policy
    assert "script-src" in policy
    assert "unsafe" not in policy.replace("style-src 'self' 'unsafe-inline'", "")
    assert "http" not in policy
    assert "SwaggerUIBundle" in here.client.get("/docs/swagger-ui-bundle.js").text
    for path in ("/docs/redoc.standalone.js", "/docs/../app.py", "/docs/%2e%2e%2fcore.py"):
        assert here.client.get(path).status_code == 404


# --- other origins ---------------------------------------------------------------------------------------------------

PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,idempotency-key"}


def test_no_other_origin_unless_said(here: Ledger) -> None:
    """Goal: no page of others reads anything. Method: a preflight, and a call, from another origin."""
    preflight = here.client.options("/v1/runs", headers={"Origin": "https://evil.example", **PREFLIGHT})
    assert preflight.status_code >= 400
    for answer in (preflight, here.request("GET", "/v1/datasets", headers={"Origin": "https://evil.example"})):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_named_origins_may_call(settings: Settings) -> None:
    """Goal: an origin that is named may call, and no other; never with a browser's own credentials."""
    first = first_keys(settings)
    named = settings.model_copy(update={"cors_origins": ("https://ledger.example", "http://localhost:3000")})
    with TestClient(create_app(named)) as client:
        ledger = Ledger(client, first.admin_key)
        for origin, is_named in (
            *(
                ("https://ledger.example", True),
                ("http://localhost:3000", True),
                ("https://ledger.example.evil", False),
            ),
            *(("http://ledger.example", False), ("null", False), ("*", False)),
        ):
            preflight = client.options("/v1/runs", headers={"Origin": origin, **PREFLIGHT})
            answer = ledger.request("GET", "/v1/datasets", headers={"Origin": origin})
            refused = client.get("/v1/datasets", headers={"Origin": origin})
            assert (preflight.status_code == 200) == is_named, origin
            for one in (preflight, answer, refused):
                assert one.headers.get("access-control-allow-origin") == (origin if is_named else None), origin
                assert "access-control-allow-credentials" not in one.headers
            assert (answer.status_code, refused.status_code) == (200, 401)
            assert "X-Request-ID" in answer.headers.get("access-control-expose-headers", "X-Request-ID")


def test_origins_are_named_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: nobody turns on all origins by a slip. Method: lists that are well-formed, and lists that are none."""
    for said, wanted in (
        ("", ()),
        ("https://a.example", ("https://a.example",)),
        ("https://a.example, http://localhost:3000", ("https://a.example", "http://localhost:3000")),
    ):
        monkeypatch.setenv("LEDGER_CORS_ORIGINS", said)
        assert Settings().cors_origins == wanted
    for said in ("*", "https://*.example", "https://a.example/", "a.example", "null", "https://a.example;https://b"):
        monkeypatch.setenv("LEDGER_CORS_ORIGINS", said)
        with pytest.raises(ValidationError):
            Settings()


# --- settings ---------------------------------------------------------------------------------------------------------


def test_proxies_are_trusted_by_name(settings: Settings, tmp_path: Path) -> None:
    """Goal: nobody chooses the address that their guesses are counted under, unless a proxy that is named says so.

    Method: X-Forwarded-For through a server that trusts the loopback, and one that trusts another host.
    """
    first_keys(settings)
    for proxies, wanted in (("127.0.0.1", "192.0.2.9"), ("192.0.2.1", "127.0.0.1")):
        env = {**environment(settings), "LEDGER_TRUSTED_PROXIES": proxies, "LEDGER_LOG_FORMAT": "json"}
        with serve_forked(["ledger", "serve"], tmp_path, env) as process:
            given = {"X-Forwarded-For": "192.0.2.9", "X-Forwarded-Proto": "https"}
            answer = httpx.get(f"{process.url}/v1/datasets", headers=given)
            assert ("strict-transport-security" in answer.headers) == (wanted == "192.0.2.9")
        assert [line for line in process.said if f'"client": "{wanted}"' in line]


def test_settings_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a limit that is none is refused at the start. Method: values out of range, for each."""
    for name, values in {
        "RATE_PER_SECOND": ("0", "-1", "nan", "inf", "x"),
        "RATE_BURST": ("0", "-1", "1.5"),
        "FAILED_SIGN_INS": ("0", "x"),
        "REQUESTS_MAX": ("0", "x"),
        "REQUESTS_PER_TENANT_MAX": ("0", "x"),
        "BODY_BYTES_MAX": ("0", "33554432", "x"),
        "BODY_BYTES_HELD_MAX": ("0", "2000", "x"),
        "BODY_BYTES_HELD_PER_TENANT_MAX": ("0", "2000", "x"),
        "STREAMS_MAX": ("0", "x"),
        "STREAMS_PER_TENANT_MAX": ("0", "x"),
        "STREAMS_PER_KEY_MAX": ("0", "x"),
        "CONNECTIONS_MAX": ("0", "x"),
        "HEAD_SECONDS_MAX": ("0", "x"),
        "BODY_SECONDS_MAX": ("0", "x"),
        "DISCARD_SECONDS_MAX": ("0", "x"),
        "DISCARD_BYTES_MAX": ("0", "x"),
        "SEND_SECONDS_MAX": ("0", "x"),
        "SEND_BYTES_PER_SECOND_MIN": ("0", "x"),
        "LOG_FORMAT": ("yaml", ""),
    }.items():
        for value in values:
            monkeypatch.setenv(f"LEDGER_{name}", value)
            with pytest.raises(ValidationError):
                Settings()
        monkeypatch.delenv(f"LEDGER_{name}")
    assert Settings().trusted_proxies == "127.0.0.1,::1"


# --- what it stands on -----------------------------------------------------------------------------------------------

PIP_AUDIT = """#!/bin/sh
for word; do case $word in --output=*) report=${word#--output=};; esac; done
[ -z '%s' ] || echo '%s' >"$report"
"""
SOUND: dict[str, Any] = {"name": "a", "version": "1", "vulns": []}
BAD: dict[str, Any] = {"name": "b", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}
UNKNOWN = {"name": "c", "skip_reason": "nobody knows it"}


@pytest.mark.parametrize(
    ("known", "status", "words"),
    [
        ([SOUND, UNKNOWN], 0, "no known vulnerability in 1 packages, 1 not known at all"),
        ([SOUND, BAD], 1, "b 1: PYSEC-1, mended in 2"),
        ([UNKNOWN], 0, "NOT CHECKED"),
        (None, 0, "NOT CHECKED"),
    ],
)
def test_the_audit_of_packages(tmp_path: Path, known: Any, status: int, words: str) -> None:
    """Goal: `make check` fails for a known vulnerability, and for nothing else. Method: a stand-in for pip-audit that
    knows one, none, no package, or reaches nobody."""
    ci, program = Path(__file__).parents[2] / ".ci", tmp_path / "bin" / "pip-audit"
    program.parent.mkdir()
    report = "" if known is None else json.dumps({"dependencies": known})
    program.write_text(PIP_AUDIT % (report, report))
    program.chmod(0o755)
    (tmp_path / "made").write_bytes((ci / "audit.lock").read_bytes())
    told = subprocess.run(
        [sys.executable, ci / "audit", tmp_path, "requirements.lock"], capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stderr) == (status, "")
    assert "requirements.lock: " in told.stdout
    assert words in told.stdout

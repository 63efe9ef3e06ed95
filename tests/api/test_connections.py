"""Connections to a real server: how slow, how large, how many, and that every answer arrives."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import re
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger.access import keys
from ledger.api import protocol
from ledger.api.middleware import KEY_LENGTH_MAX
from tests.conftest import Templates
from tests.kit.driver import RELEASE, Ledger, Served, environment, first_keys, serve_forked
from tests.kit.scene import another_tenant

MB = 1024 * 1024
SECONDS_MAX = 60
WHOLE = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


class Site:
    """A real server, what it can be asked with, and connections to it that end with the test."""

    def __init__(self, served: Served, client: httpx.Client, ledger: Ledger, stack: contextlib.ExitStack) -> None:
        self.served, self.client, self.ledger, self._stack = served, client, ledger, stack
        host, port = served.url.removeprefix("http://").split(":")
        self.address = (host, int(port))

    def connect(self, sent: bytes = b"", *, receive_bytes: int | None = None) -> socket.socket:
        """A connection over which this was sent. receive_bytes: what the system holds of what is not read."""
        connection = self._stack.enter_context(socket.socket())
        if receive_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(SECONDS_MAX)
        connection.connect(self.address)
        connection.sendall(sent)
        return connection

    def head(self, *lines: str, key: str | None = None, path: str = "/v1/evaluate", method: str = "POST") -> bytes:
        """The head of a request."""
        signed = [f"Authorization: Bearer {key}"] if key is not None else []
        given = [f"{method} {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *signed, *lines]
        return "".join(f"{line}\r\n" for line in [*given, ""]).encode()

    def value(self, name: str, **labels: str) -> float:
        """One sample of the server's metrics."""
        labelled = "{" + ",".join(f'{label}="{text}"' for label, text in labels.items()) + "}" if labels else ""
        (found,) = re.findall(rf"^{re.escape(name + labelled)} (\S+)$", self.client.get("/metrics").text, re.MULTILINE)
        return float(found)

    def wait(self, expected: float, name: str, **labels: str) -> None:
        """Waits until a sample of the metrics has this value."""
        last = time.monotonic() + SECONDS_MAX
        while (value := self.value(name, **labels)) != expected:
            assert time.monotonic() < last, (name, labels, value)


Start = Callable[..., Site]


@pytest.fixture
def start(templates: Templates, tmp_path: Path) -> Iterator[Start]:
    """Starts a server with these settings, on SQLite, since no database has a part in this."""
    with contextlib.ExitStack() as stack:

        def started(**bounds: float) -> Site:
            settings = stack.enter_context(templates.clone("sqlite", tmp_path))
            first = first_keys(settings)
            env = {**environment(settings), **{f"LEDGER_{name.upper()}": str(bound) for name, bound in bounds.items()}}
            served = stack.enter_context(serve_forked(["ledger", "serve"], tmp_path, env))
            client = stack.enter_context(served.client())
            ledger = Ledger(client, first.admin_key, operator_key=first.operator_key, tenant=first.tenant)
            return Site(served, client, ledger, stack)

        yield started


def send(url: str, raw: bytes, *, seconds: float = 30) -> bytes:
    """Sends bytes over a connection of its own, and reads all that comes until the other side is done."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        return rest(connection)


def rest(connection: socket.socket) -> bytes:
    """All that still comes, until the other side is done."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            found += piece
    return found


def status(connection: socket.socket) -> int:
    """The status of the next answer, which may follow a `100 Continue`."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


# --- how slow --------------------------------------------------------------------------------------------------------


def test_slow_requests_end(start: Start) -> None:
    """Goal: a connection that does not bring a whole request in time is closed, and nobody else notices.

    Method: connections that say nothing, half a head, a head and half a body, half of a second request on one that was
    kept, and a head byte by byte; each is cut, and a whole request beside them is answered. What strangers bring is
    never waited for as a body: theirs is thrown away.
    """
    site = start(head_seconds_max=1, body_seconds_max=1, discard_seconds_max=1)
    key = site.ledger.key
    stranger, known = site.head("Content-Length: 100"), site.head("Content-Length: 100", key=key)
    for begun in (b"", b"GET /healthz HT", known, WHOLE + known, WHOLE + known[:20], stranger, WHOLE + stranger):
        connection = site.connect(begun)
        assert site.client.get("/healthz").status_code == 200
        rest(connection)
    assert site.value("ledger_connections_cut_total", reason="body") == 2
    assert site.value("ledger_connections_cut_total", reason="rest") == 2
    assert site.value("ledger_connections_cut_total", reason="head") >= 2
    slow = site.connect()
    with contextlib.suppress(ConnectionError):
        for byte in itertools.cycle(site.head("X: " + "x" * 20_000)):
            slow.sendall(bytes([byte]))
            assert site.client.get("/healthz").status_code == 200
            if select.select([slow], [], [], 0)[0]:
                break
    assert rest(slow) == b""


def test_strangers_have_less_time(start: Start) -> None:
    """Goal: who is not recognised yet has the shorter deadline. Method: of two connections one has brought the head of
    a request with a good key, and one has brought nothing, half a head, or a whole one without a key; it ends first."""
    site = start(head_seconds_max=1, discard_seconds_max=1, body_seconds_max=3600)
    known = site.connect(site.head("Content-Length: 100", key=site.ledger.key))
    for begun in (b"", site.head()[:-2], site.head("Content-Length: 100")):
        rest(site.connect(begun))
    assert select.select([known], [], [], 0)[0] == []
    known.sendall(b"x" * 100)
    assert status(known) == 400


def test_quick_connections_are_kept(start: Start) -> None:
    """Goal: patience ends for requests, not for connections. Method: one connection for longer than a request may take,
    with bodies, and answers before a body was read."""
    site = start(head_seconds_max=1, body_seconds_max=1, discard_seconds_max=1)
    last, addresses = time.monotonic() + 3, set()
    while time.monotonic() < last:
        for answer in (
            site.client.get("/healthz"),
            site.client.post("/v1/evaluate", content=b"x" * 100_000),
            site.ledger.post("/v1/evaluate", {"mechanism": RELEASE["mechanism"]}),
        ):
            stream: Any = answer.extensions["network_stream"]
            addresses.add(stream.get_extra_info("client_addr"))
    assert len(addresses) == 1


# --- how large -------------------------------------------------------------------------------------------------------


def test_large_heads_are_refused(start: Start) -> None:
    """Goal: lines, headers and queries are bounded, and a long token still fits. Method: raw requests of many sizes."""
    site = start()
    for raw, wanted in (
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /" + b"a" * 80_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /" + b"a" * 8_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /healthz?" + b"a=b&" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 20_000 + b"\r\n", 400),
        (b"GET /v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + b"e" * 8_000 + b"\r\n\r\n", 401),
        (WHOLE, 200),
        (b"\x00\xff" * 100 + b"\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
    ):
        assert status(site.connect(raw)) == wanted, raw[:40]
    assert site.client.get("/healthz").status_code == 200
    assert protocol.HEAD_BYTES_MAX > 2 * KEY_LENGTH_MAX


@pytest.mark.parametrize("form", ["length", "chunked"])
@pytest.mark.parametrize("expect", [(), ("Expect: 100-continue",)])
def test_answers_to_large_bodies_arrive(
    start: Start, form: str, expect: tuple[str, ...], tries: Callable[[int, int], int]
) -> None:
    """Goal: an answer that is given before a body came whole is what the client gets, and not a reset.

    Method: 7 MB to a call that answers so with each status, up to eight times by each of three clients that send
    it all before they look: http.client, httpx, a plain socket.
    """
    site = start(rate_per_second=0.001, rate_burst=1000)
    limited = site.ledger.as_("auditor")
    while limited.get("/v1/datasets").status_code != 429:
        pass
    for key, path, kind, expected in (
        (site.ledger.key, "/v1/evaluate", "application/json", 413),
        (None, "/v1/evaluate", "application/json", 401),
        (limited.key, "/v1/evaluate", "application/json", 429),
        (site.ledger.key, "/nothing", "application/json", 404),
        (site.ledger.key, "/healthz", "application/json", 405),
        *([(site.ledger.key, "/v1/evaluate", "text/plain", 415)] if form == "chunked" else []),
    ):
        given = {"Content-Type": kind, **({"Authorization": f"Bearer {key}"} if key else {})}
        given |= dict(line.split(": ") for line in expect)
        for client in (_by_http_client, _by_httpx, _by_socket):
            count = 8 if expected == 413 and not expect else tries(1, 8)
            answers = [client(site, path, given, form) for _ in range(count)]
            assert answers == [expected] * count, (client.__name__, expected)
    assert not [line for line in site.served.said if "ERROR" in line or "Traceback" in line]


def _pieces(size: int = 7 * MB) -> Iterator[bytes]:
    return itertools.repeat(b"x" * 65536, size // 65536)


def _by_http_client(site: Site, path: str, given: Mapping[str, str], form: str) -> int:
    with contextlib.closing(http.client.HTTPConnection(*site.address, timeout=SECONDS_MAX)) as connection:
        body: Any = _pieces() if form == "chunked" else b"".join(_pieces())
        connection.request("POST", path, body=body, headers=dict(given), encode_chunked=form == "chunked")
        answer = connection.getresponse()
        answer.read()
        return answer.status


def _by_httpx(site: Site, path: str, given: Mapping[str, str], form: str) -> int:
    body: Any = _pieces() if form == "chunked" else b"".join(_pieces())
    return httpx.post(f"{site.served.url}{path}", content=body, headers=dict(given), timeout=SECONDS_MAX).status_code


def _by_socket(site: Site, path: str, given: Mapping[str, str], form: str) -> int:
    lines = [f"POST {path} HTTP/1.1", "Host: x", *(f"{name}: {text}" for name, text in given.items())]
    lines.append("Transfer-Encoding: chunked" if form == "chunked" else f"Content-Length: {7 * MB}")
    head = "".join(f"{line}\r\n" for line in [*lines, ""]).encode()
    pieces = (b"%x\r\n%s\r\n" % (len(piece), piece) for piece in _pieces()) if form == "chunked" else _pieces()
    with contextlib.closing(site.connect(head + b"".join(pieces) + (b"0\r\n\r\n" if form == "chunked" else b""))) as it:
        return status(it)


def test_what_is_left_is_read_for_a_while(start: Start) -> None:
    """Goal: a body that nobody reads is thrown away, up to so many bytes and seconds, and then the connection ends.

    Method: after an early answer a client that goes on sending without end, one that stops, and one that is done.
    """
    site = start(discard_seconds_max=1, discard_bytes_max=256 * 1024)
    for line in (f"Content-Length: {100 * MB}", "Transfer-Encoding: chunked"):
        endless = site.connect(site.head(line))
        assert status(endless) == 401
        with pytest.raises(ConnectionError):
            endless.sendall((b"10000\r\n" + b"x" * 65536 + b"\r\n") * 1000)
    assert site.value("ledger_connections_cut_total", reason="rest") == 2
    stopped = site.connect(site.head(f"Content-Length: {100 * MB}") + b"x")
    assert status(stopped) == 401
    assert stopped.recv(1) == b""  # it closes its side at once, so that the client knows that no more comes
    site.wait(1, "ledger_connections_cut_total", reason="closing")
    no_request = site.connect(b"\x00\xff\r\n\r\n")
    assert status(no_request) == 400
    site.wait(2, "ledger_connections_cut_total", reason="closing")
    done = site.connect(site.head("Content-Length: 200000") + b"x" * 200_000)
    assert status(done) == 401
    done.sendall(WHOLE)
    assert status(done) == 200


def test_a_client_that_waits_to_be_told_is_not_waited_for(start: Start) -> None:
    """Goal: whoever asks before it sends its body, and is answered, sends none; so the connection ends, or its next
    request would be taken for the body. Method: `Expect: 100-continue`, without a key and with one."""
    site = start()
    refused = site.connect(site.head("Content-Length: 100", "Expect: 100-continue"))
    answer = rest(refused).lower()
    assert answer.startswith(b"http/1.1 401 ")
    assert b"\r\nconnection: close\r\n" in answer
    taken = site.connect(site.head("Content-Length: 2", "Expect: 100-continue", key=site.ledger.key))
    assert taken.recv(4096).startswith(b"HTTP/1.1 100 ")
    taken.sendall(b"{}")
    assert status(taken) == 422


def test_upgrades_lead_nowhere(start: Start) -> None:
    """Goal: there is no other protocol to speak. Method: ask for a WebSocket, and for HTTP/2."""
    site = start()
    for upgrade in ("websocket", "h2c"):
        lines = ("Connection: Upgrade", f"Upgrade: {upgrade}", "Sec-WebSocket-Version: 13")
        raw = site.head(*lines, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", path="/healthz", method="GET")
        assert status(site.connect(raw)) == 200


def test_who_goes_away_is_no_fault(start: Start) -> None:
    """Goal: a client that hangs up, or sends what is no request, is no error of ours. Method: hang up in the middle of
    a body, break off the form of chunks before and after the answer; read the log."""
    site = start()
    for key in ("pbl_x", site.ledger.key):
        for _ in range(5):
            send(site.served.url, site.head("Content-Length: 100", key=key) + b'{"a')
        for broken in (b"zz\r\n", b"3\r\nabc\r\nzz\r\n"):
            connection = site.connect(site.head("Transfer-Encoding: chunked", key=key))
            if key == "pbl_x":
                assert status(connection) == 401
            connection.sendall(broken)
            assert rest(connection)[:12] in (b"", b"HTTP/1.1 400")
    assert site.client.get("/healthz").status_code == 200
    assert not [line for line in site.served.said if "ERROR" in line or "Traceback" in line]


# --- how many --------------------------------------------------------------------------------------------------------


def test_strangers_take_no_place(start: Start) -> None:
    """Goal: bodies without a key take no place from callers. Method: a hundred connections that begin a chunked body
    where a process serves two requests; each is answered from its head, while callers ask for runs."""
    site = start(requests_max=2, discard_seconds_max=3600, failed_sign_ins=1_000_000)
    site.ledger.register()
    unknown = keys.mint(keys.tenant_of(site.ledger.key))
    strangers = []
    for key in (None, "pbl_x", unknown, "a.b.c"):
        for _ in range(25):
            strangers.append(site.connect(site.head("Transfer-Encoding: chunked", key=key) + b"1\r\nx\r\n"))
            assert site.value("ledger_requests_serving") == 0
            assert site.ledger.ask({"type": "gaussian", "noise_multiplier": 500}).status_code == 201
    assert [status(connection) for connection in strangers] == [401] * 100
    assert site.value("ledger_body_bytes_held") == 0


def test_bytes_of_bodies_are_bounded(start: Start) -> None:
    """Goal: slow bodies of one tenant take neither the memory nor the room of others. Method: forty that stop a byte
    before their end where a tenant may have two; what is held is counted, the others are told to come again, and
    another tenant is served. When those two have ended, others fit."""
    size = 60_000
    site = start(
        body_bytes_max=65536,
        body_bytes_held_max=4 * 65536,
        body_bytes_held_per_tenant_max=2 * 65536,
        body_seconds_max=3600,
    )
    other = another_tenant(site.ledger, "globex")
    head = site.head(f"Content-Length: {size}", key=site.ledger.key)
    slow = []
    for number in range(2):
        slow.append(site.connect(head + b"x" * (size - 1)))
        site.wait((number + 1) * (size - 1), "ledger_body_bytes_held")
    for _ in range(38):
        answer = http.client.HTTPResponse(site.connect(head + b"x" * (size - 1)))
        answer.begin()
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert site.value("ledger_body_bytes_held") <= 2 * 65536
        assert other.post("/v1/evaluate", {"mechanism": RELEASE["mechanism"]}).status_code == 200
    assert site.ledger.get("/v1/datasets").status_code == 200
    for connection in slow:
        connection.sendall(b"x")
        assert status(connection) == 400
    site.wait(0, "ledger_body_bytes_held")
    assert site.ledger.post("/v1/evaluate", {"mechanism": RELEASE["mechanism"]}).status_code == 200


def test_strangers_connections_give_way(start: Start) -> None:
    """Goal: connections of strangers, however many, keep no caller out. Method: thirty that say nothing where there are
    ten; those that are open longest are cut, never one on which a caller was recognised, and callers get new ones."""
    site = start(connections_max=10, head_seconds_max=3600)
    site.ledger.register()
    oldest = site.client.get("/healthz").extensions["network_stream"].get_extra_info("client_addr")
    assert site.ledger.get("/v1/datasets").status_code == 200
    silent = []
    for _ in range(30):
        silent.append(site.connect())
        assert site.value("ledger_connections") <= 10
        assert site.ledger.ask({"type": "gaussian", "noise_multiplier": 500}).status_code == 201
        assert httpx.get(
            f"{site.served.url}/v1/datasets", headers={"Authorization": f"Bearer {site.ledger.key}"}
        ).is_success
    now = site.ledger.get("/v1/datasets").extensions["network_stream"].get_extra_info("client_addr")
    assert now == oldest
    ended = [bool(select.select([connection], [], [], 0)[0]) for connection in silent]
    assert ended == sorted(ended, reverse=True)
    assert ended.count(True) == site.value("ledger_connections_cut_total", reason="crowded") >= 20


# --- who does not read -----------------------------------------------------------------------------------------------


def test_slow_readers_are_cut(start: Start) -> None:
    """Goal: a client that does not read its answer holds neither a connection nor a place for reports, and until it is
    cut it takes nobody else's.

    Method: exports that nobody reads, as many as a key may have, and then as a tenant may; one more for that key or
    tenant is told to come again, and another tenant has its own. Then all are cut, and the places are free.
    """
    site = start(send_seconds_max=2, streams_max=6, streams_per_tenant_max=3, streams_per_key_max=2)
    _fill(site.ledger)
    second, other = site.ledger.as_("auditor"), another_tenant(site.ledger, "globex")
    _fill(other)
    unread = [_unread(site, site.ledger), _unread(site, site.ledger)]
    site.wait(2, "ledger_streams")
    refused = site.ledger.get("/v1/datasets/mnist/export")
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "overloaded", "5")
    assert "one key" in refused.json()["detail"]
    assert site.ledger.get("/v1/datasets/mnist/report").status_code == 503
    assert second.get("/v1/datasets/mnist/export").status_code == 200
    unread.append(_unread(site, second))
    site.wait(3, "ledger_streams")
    assert "one tenant" in second.get("/v1/datasets/mnist/report", format="csv").json()["detail"]
    assert other.get("/v1/datasets/mnist/export").status_code == 200
    assert other.get("/v1/datasets/mnist/report").status_code == 200
    site.wait(3, "ledger_connections_cut_total", reason="sending")
    site.wait(0, "ledger_streams")
    assert {ledger.get("/v1/datasets/mnist/export").status_code for ledger in (site.ledger, second)} == {200}
    assert all(b"\r\n0\r\n\r\n" not in rest(connection) for connection in unread)


def _fill(ledger: Ledger) -> None:
    """A dataset whose export does not fit into what systems hold for a connection."""
    ledger.register(budget={"mu": 1000})
    for batch in range(5):
        runs = [{**RELEASE, "purpose": "x" * 200, "idempotency_key": f"{batch}-{number}"} for number in range(100)]
        assert ledger.post("/v1/runs/batch", {"runs": runs}).status_code == 200


def _unread(site: Site, ledger: Ledger) -> socket.socket:
    head = site.head(key=ledger.key, path="/v1/datasets/mnist/export", method="GET")
    return site.connect(head, receive_bytes=4096)


def test_an_answer_is_served_until_it_is_taken(start: Start) -> None:
    """Goal: answers that are made whole and not read fill no memory beyond what may be served at once. Method: a tenant
    that does not read long lists of entries, as many as it may have requests; one more is told to come again, another
    tenant is served, and when they are cut, so is it."""
    site = start(requests_per_tenant_max=3, send_seconds_max=1)
    _fill(site.ledger)
    other = another_tenant(site.ledger, "globex")
    path = "/v1/datasets/mnist/entries?limit=1000"
    for number in range(3):
        site.connect(site.head(key=site.ledger.key, path=path, method="GET"), receive_bytes=4096)
        site.wait(number + 1, "ledger_requests_serving")
    assert site.ledger.get("/v1/datasets").status_code == 503
    assert other.get("/v1/datasets").status_code == 200
    site.wait(3, "ledger_connections_cut_total", reason="sending")
    site.wait(0, "ledger_requests_serving")
    assert site.ledger.get(path).json()["items"]


def test_steady_readers_are_not_cut(start: Start) -> None:
    """Goal: who takes an answer slowly, and takes it, gets all of it. Method: a file of a megabyte, spread over
    three seconds of questions whether the server lives: longer than a client may take nothing."""
    site = start(send_seconds_max=2)
    path = "/docs/swagger-ui-bundle.js"
    expected = site.client.get(path).content
    connection = site.connect(site.head("Connection: close", path=path, method="GET"), receive_bytes=4096)
    begun, found = time.monotonic(), b""
    while piece := connection.recv(max(1, len(expected) // 600)):
        found += piece
        while time.monotonic() - begun < 3 * len(found) / len(expected):
            assert site.client.get("/healthz").status_code == 200
    assert found.endswith(expected)
    assert site.value("ledger_connections_cut_total", reason="sending") == 0


def test_answers_that_nobody_takes_end(start: Start) -> None:
    """Goal: small answers, which never fill what is sent from, hold no connection for ever. Method: many requests on
    one connection, none of whose answers is read."""
    site = start(send_seconds_max=1, discard_seconds_max=1)
    unread = site.connect(receive_bytes=4096)
    unread.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            unread.send(site.head(path="/openapi.json", method="GET"))
    site.wait(1, "ledger_connections")
    assert site.client.get("/healthz").status_code == 200

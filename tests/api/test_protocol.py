"""The server's HTTP/1.1: what is a request, how many come at once, and what each is answered, byte for byte."""

from __future__ import annotations

import json
import re

import pytest

from ledger.api.cycle import Cycle
from ledger.api.protocol import HEAD_BYTES_MAX, PIECE_BYTES
from tests.api.test_connections import WHOLE, Site, Start, rest, send, start, status
from tests.kit.driver import RELEASE

__all__ = ["start"]

BAD = b"HTTP/1.1 400 "


def statuses(answers: bytes) -> list[int]:
    """The statuses of answers that follow each other."""
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


def test_what_two_servers_could_read_in_two_ways(start: Start) -> None:
    """Goal: a request that a proxy in front could take for another one is refused, and its connection ends. Method: raw
    requests with no host or two, with two lengths, codings and lengths, forms of chunks, lines that go on."""
    site = start()
    host = b"POST /v1/evaluate HTTP/1.1\r\nHost: x\r\n"
    for raw in (
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nhost: y\r\n\r\n",
        host + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        host + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        host + b"Content-Length: +1\r\n\r\nx",
        host + b"Content-Length: 1, 1\r\n\r\nx",
        host + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        host + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        host + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST /v1/evaluate HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX : a\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"BREW /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        host + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n",
    ):
        answer = send(site.served.url, raw + WHOLE)
        assert statuses(answer) == [400], (raw, answer)
    assert site.client.get("/healthz").status_code == 200


def test_requests_that_come_together(start: Start) -> None:
    """Goal: requests in one piece are answered in their order, each whole, and what is no request after them ends the
    connection without taking an answer away. Method: hundreds in one piece, approvals with bodies among them, and noise
    at the end; then an approval with noise behind it."""
    site = start()
    site.ledger.register(budget={"mu": 1000})
    raw = b""
    for number in range(40):
        raw += WHOLE * 5 + _asked(site, f"k-{number}")
    assert len(raw) > 4 * PIECE_BYTES
    assert statuses(rest(site.connect(raw + b"\x00\xff\r\n\r\n"))) == [*([200] * 5 + [201]) * 40, 400]
    assert statuses(rest(site.connect(_asked(site, "last") + b"GET /x HTTP/1.1\r\n\r\n" + WHOLE))) == [201, 400]
    runs = site.ledger.get("/v1/runs").json()["items"]
    assert len(runs) == 41


def _asked(site: Site, key: str) -> bytes:
    body = json.dumps(RELEASE).encode()
    lines = (f"Content-Length: {len(body)}", f"Idempotency-Key: {key}")
    return site.head(*lines, key=site.ledger.key, path="/v1/runs") + body


def test_what_stands_between_the_pieces_of_a_body(start: Start) -> None:
    """Goal: trailers and extensions of chunks are read by nobody, and bounded as a head is. Method: a few of them, and
    then more than a head may have; a body in pieces of a byte."""
    site = start()
    body = json.dumps({"mechanism": RELEASE["mechanism"]}).encode()
    head = site.head("Transfer-Encoding: chunked", key=site.ledger.key)
    pieces = b"".join(b"1;name=value\r\n%c\r\n" % byte for byte in body)
    assert status(site.connect(head + pieces + b"0\r\nIdempotency-Key: late\r\nAuthorization: x\r\n\r\n")) == 200
    whole = b"%x\r\n%s\r\n" % (len(body), body)
    for endless in (
        whole + b"0\r\n" + b"x: y\r\n" * HEAD_BYTES_MAX,
        whole + b"0\r\nx: " + b"y" * 4 * HEAD_BYTES_MAX,
        b"1;" + b"x" * 4 * HEAD_BYTES_MAX,
    ):
        assert rest(site.connect(head + endless))[:13] in (b"", BAD)
    assert site.client.get("/healthz").status_code == 200


def test_a_short_answer_is_one_piece(start: Start) -> None:
    """Goal: the head of an answer goes out with its body. Method: what one look at the socket finds, of a read."""
    site = start()
    connection = site.connect(WHOLE)
    found = connection.recv(65536)
    head, _, body = found.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert f"content-length: {len(body)}".encode() in head
    assert body


class _Sink:
    """Takes what is sent, in place of a transport and its flow."""

    write_paused = False

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.sent.append(bytes(data))


def _cycle(sink: _Sink, method: str = "GET") -> Cycle:
    made = Cycle.__new__(Cycle)
    made.scope = {"method": method}  # type: ignore[typeddict-item]
    made.transport = made.flow = sink  # type: ignore[assignment]
    made.default_headers, made.keep_alive, made.disconnected = [], True, False
    made.response_started = made.response_complete = False
    made.chunked_encoding, made.expected_content_length = None, 0
    return made


@pytest.mark.parametrize("name", [b"x\r\ny", b"x"])
def test_no_header_breaks_a_line(name: bytes) -> None:
    """Goal: whatever stands in a header, an answer has one head. Method: line breaks in names and values."""
    for value in (b"a\r\nb: c", b"a\nb", b"a\r\n\r\nbody", b"\n", b"a\r\n"):
        with pytest.raises(RuntimeError, match="line break"):
            _cycle(_Sink())._begin(200, [(name, value)])

"""What a client is made with, its URL and its key; and what it needs."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ledger import errors
from ledger.api.problems import STATUS
from ledger.client import AsyncLedger, LedgerError, Unreachable
from ledger.client import Ledger as Client
from tests.kit.clients import KEY, RELEASE, URL, answering, problem


def test_url_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: LEDGER_URL and LEDGER_KEY, what is given before what is set, and an error at once where there is no key."""
    for missing in (None, "", "  \n"):
        with pytest.raises(errors.Unauthenticated, match="LEDGER_KEY"):
            Client(key=missing)
        with pytest.raises(errors.Unauthenticated, match="LEDGER_KEY"):
            AsyncLedger(key=missing)
    monkeypatch.setenv("LEDGER_KEY", f"{KEY}\n")
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={"items": [], "next": None})

    with Client(transport=httpx.MockTransport(answer)) as client:
        assert repr(client) == "<Ledger at http://127.0.0.1:8000>"
        assert list(client.datasets()) == []
    monkeypatch.setenv("LEDGER_URL", "https://user:password@ledger.example:1/base/?a=b")
    with Client(transport=httpx.MockTransport(answer)) as client:
        assert repr(client) == "<Ledger at https://ledger.example:1/base/>"
        assert list(client.datasets()) == []
    assert [request.headers["Authorization"] for request in sent] == [f"Bearer {KEY}"] * 2
    assert sent[1].url == "https://ledger.example:1/base/v1/datasets?limit=1000"
    assert repr(AsyncLedger("https://a.example")) == "<AsyncLedger at https://a.example>"
    for url in ("localhost:8000", "ftp://a", "http://", "http://[", "http://a:b:c", "http://a b"):
        with pytest.raises(errors.Misconfigured, match="URL"):
            Client(url, KEY)


LOCAL = ("http://127.0.0.1:8000", "http://127.9.9.9", "http://[::1]:8000", "http://localhost", "https://ledger.example")
REMOTE = (
    "http://ledger.example",
    "http://10.0.0.1:8000",
    "http://[fe80::1]",
    "http://localhost.example",
    "HTTP://0.0.0.0",
)


def test_plain_http_leaves_the_machine_only_if_it_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a key goes over the wire in the clear only if somebody said that it may. Method: URLs of this machine and
    of others, with the argument and the variable, with both clients; what is refused is refused before a request."""
    for url in LOCAL:
        Client(url, KEY).close()
        AsyncLedger(url, KEY)
    for url in REMOTE:
        for make in (Client, AsyncLedger):
            with pytest.raises(errors.Misconfigured, match="LEDGER_ALLOW_HTTP=1") as caught:
                make(url, KEY)
            assert httpx.URL(url).host in str(caught.value)
            assert KEY not in repr(caught.value)
        Client(url, KEY, allow_http=True).close()
    monkeypatch.setenv("LEDGER_ALLOW_HTTP", "1")
    Client(REMOTE[0], KEY).close()
    with pytest.raises(errors.Misconfigured):
        Client(REMOTE[0], KEY, allow_http=False)
    monkeypatch.setenv("LEDGER_ALLOW_HTTP", "perhaps")
    with pytest.raises(errors.Misconfigured, match="perhaps"):
        Client(REMOTE[0], KEY)
    Client(REMOTE[-1], KEY, allow_http=True).close()


def test_no_proxy_between_this_machine_and_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: HTTP_PROXY does not see the key of a ledger on this machine. Method: a proxy that listens."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", "")
        with Client("http://127.0.0.1:9", KEY, retries=0) as client, pytest.raises(Unreachable):
            client.dataset("mnist")
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()


def related(error: BaseException) -> list[BaseException]:
    """An exception, and all that it came from."""
    found = [error]
    for one in found:
        found += [other for other in (one.__cause__, one.__context__) if other is not None and other not in found]
    return found


@pytest.mark.parametrize("call", ["dataset", "export"])
@pytest.mark.parametrize("when", ["connecting", "waiting", "reading"])
def test_no_exception_carries_the_key(call: str, when: str, tmp_path: Path) -> None:
    """Goal: nothing that an exception leads to has the key: its message, arguments, attributes, causes and contexts,
    and their requests. Method: the connection, the answer and the middle of an answer fail, as httpx has it."""

    class Breaking(httpx.SyncByteStream):
        def __init__(self, request: httpx.Request) -> None:
            self.request = request

        def __iter__(self) -> Iterator[bytes]:
            yield b"{"
            raise httpx.ReadError("broken", request=self.request)

    def fail(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        if when == "reading":
            return httpx.Response(200, stream=Breaking(request))
        try:
            raise OSError("no route")
        except OSError as error:
            kind = httpx.ConnectError if when == "connecting" else httpx.ReadTimeout
            raise kind("failed", request=request) from error

    with (
        Client(URL, KEY, transport=httpx.MockTransport(fail), retries=0) as client,
        (tmp_path / "export").open("wb") as file,
        pytest.raises(Unreachable) as caught,
    ):
        client.export("mnist", file) if call == "export" else client.dataset("mnist")
    chain = related(caught.value)
    assert any(isinstance(one, httpx.RequestError) for one in chain)
    for one in chain:
        request = one.request if isinstance(one, httpx.RequestError) else None
        held = (one, one.args, vars(one), getattr(one, "__notes__", None), request and request.headers.raw)
        assert KEY not in repr(held)
        assert KEY.encode() not in (b"" if request is None else b"".join(sum(request.headers.raw, ())))


def test_the_key_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """Goal: not in repr, not in an error, its notes, its causes or its traceback, not in a log of any library.
    Method: a real socket that refuses, answers that refuse, odd keys; everything at DEBUG."""
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []

    def fail(client: Client) -> None:
        with client, pytest.raises(LedgerError) as caught, client.run(datasets=["mnist"], mechanism=RELEASE):
            pytest.fail("there is no such run")
        shown.append("".join(traceback.format_exception(caught.value)))
        shown.append(repr((client, vars(client), caught.value, caught.value.facts, vars(caught.value))))

    fail(Client("http://127.0.0.1:9", KEY, retries=1, sleep=lambda _: None))
    for code, status in STATUS.items():
        fail(answering(lambda _, code=code, status=status: problem(code, status), retries=1))  # type: ignore[misc]
    for odd in ("pbl_a-secret\nX: y", "pbl_a-secret\x00", "pbl_a-secret-ü", "pbl_a-secret and more"):
        with pytest.raises(errors.Unauthenticated) as caught:
            Client(URL, odd)
        shown.append("".join(traceback.format_exception(caught.value)))
    shown += [record.getMessage() for record in caplog.records]
    assert any("Again in" in text for text in shown)
    assert not [text for text in shown if "a-secret" in text]


ALONE = """
import sys

HIDDEN = {"sqlalchemy", "fastapi", "numpy", "scipy", "pydantic", "pydantic_settings", "typer", "starlette", "psycopg",
          "alembic", "uvicorn", "httpx2"}

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"{name} is hidden", name=name)

sys.meta_path.insert(0, Hide())
import httpx
before = {name.partition(".")[0] for name in sys.modules}
import ledger.client
after = {name.partition(".")[0] for name in sys.modules}
print(sorted(after - before - set(sys.stdlib_module_names)))
print(sorted(name for name in sys.modules if name.startswith("ledger") and not name.startswith("ledger.client")))
print(repr(ledger.client.Ledger(key="pbl_x")))
"""


def test_it_needs_httpx_and_nothing_else(tmp_path: Path) -> None:
    """Goal: a training job can import the client without the server. Method: a fresh process in which the server's
    libraries cannot be found; what came in beside httpx is this package alone, and of it what both need."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "['ledger']",
        "['ledger', 'ledger.addresses', 'ledger.canonical', 'ledger.deferred', 'ledger.errors',"
        " 'ledger.limits_in_words', 'ledger.web']",
        "<Ledger at http://127.0.0.1:8000>",
    ]

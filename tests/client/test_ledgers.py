"""What a client is made with, its URL and its key; and what it needs."""

from __future__ import annotations

import logging
import subprocess
import sys
import traceback
from pathlib import Path

import httpx
import pytest

from ledger import errors
from ledger.api.problems import STATUS
from ledger.client import AsyncLedger, LedgerError
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
    monkeypatch.setenv("LEDGER_URL", "http://user:password@ledger.example:1/base/?a=b")
    with Client(transport=httpx.MockTransport(answer)) as client:
        assert repr(client) == "<Ledger at http://ledger.example:1/base/>"
        assert list(client.datasets()) == []
    assert [request.headers["Authorization"] for request in sent] == [f"Bearer {KEY}"] * 2
    assert sent[1].url == "http://ledger.example:1/base/v1/datasets?limit=1000"
    assert repr(AsyncLedger("https://a.example")) == "<AsyncLedger at https://a.example>"
    for url in ("localhost:8000", "ftp://a", "http://", "http://[", "http://a:b:c", "http://a b"):
        with pytest.raises(errors.Misconfigured, match="URL"):
            Client(url, KEY)


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
    libraries cannot be found; what came in beside httpx is this package alone, and of it `canonical` and `errors`."""
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
        "['ledger', 'ledger.canonical', 'ledger.errors']",
        "<Ledger at http://127.0.0.1:8000>",
    ]

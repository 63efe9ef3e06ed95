"""Driving the ledger in tests: the application in this process, or real server processes."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer.main
import uvicorn
from fastapi import FastAPI
from sqlalchemy import Engine
from starlette.routing import BaseRoute

from ledger import cli
from ledger.api.app import create_app
from ledger.operate import deploy
from ledger.operate.deploy import FirstKeys
from ledger.settings import Settings
from ledger.store import engine_for
from ledger.store.tables import metadata
from ledger.verifier.jws import SigningKey
from tests.kit import forked
from tests.kit.inside import InsideClient

END_SECONDS_MAX = 60
SIGNING_KEY = SigningKey.generate().pem()
"""What every ledger on PostgreSQL signs with here. On SQLite each makes its own."""

MNIST: dict[str, Any] = {
    "name": "mnist",
    "privacy_unit": "record",
    "adjacency": "add_or_remove_one",
    "size": 60_000,
    "bound": "clt",
    "budget": {"mu": 1},
}
"""A dataset that 25 Gaussian releases with noise multiplier 5 fill exactly."""

WEAK: dict[str, Any] = {"accepts_weak_protection": True}
"""What a budget of more than epsilon 20 needs."""

RELEASE: dict[str, Any] = {"datasets": ["mnist"], "mechanism": {"type": "gaussian", "noise_multiplier": 5}}


def application(settings: Settings) -> FastAPI:
    """The application for these settings, with the routes of the first one, which FastAPI has compiled by now. They are
    the same for all settings, and find what belongs to an application by way of the request."""
    app = create_app(settings)
    _routes.setdefault("all", app.router.routes)
    app.router.routes = _routes["all"]
    return app


_routes: dict[str, list[BaseRoute]] = {}


class Ledger:
    """A client of the application that holds a key; `as_` gives another client of the same application."""

    def __init__(self, client: Any, key: str, *, operator_key: str = "", tenant: str = "") -> None:
        self.client, self.key, self.operator_key, self.tenant = client, key, operator_key, tenant
        self._asked = 0

    @classmethod
    @contextlib.contextmanager
    def open(cls, settings: Settings) -> Iterator[Ledger]:
        first = first_keys(settings)
        with InsideClient(application(settings)) as client:
            yield cls(client, first.admin_key, operator_key=first.operator_key, tenant=first.tenant)

    def with_key(self, key: str) -> Ledger:
        return Ledger(self.client, key)

    def as_(self, role: str, **limits: Any) -> Ledger:
        """A new key of this tenant."""
        made = self.post("/v1/keys", {"name": f"a {role}", "role": role, **limits})
        assert made.status_code == 201, made.text
        return self.with_key(made.json()["secret"])

    def request(self, method: str, path: str, *, headers: dict[str, str] | None = None, **rest: Any) -> Any:
        return self.client.request(
            method, path, headers={"Authorization": f"Bearer {self.key}", **(headers or {})}, **rest
        )

    def get(self, path: str, **params: Any) -> Any:
        return self.request("GET", path, params=params)

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("POST", path, json=body, headers=given) if body is not None else self.request("POST", path)

    def put(self, path: str, body: Any) -> Any:
        return self.request("PUT", path, json=body)

    def patch(self, path: str, body: Any) -> Any:
        return self.request("PATCH", path, json=body)

    def delete(self, path: str) -> Any:
        return self.request("DELETE", path)

    def register(self, **changes: Any) -> dict[str, Any]:
        made = self.post("/v1/datasets", {**MNIST, **WEAK, **changes})
        assert made.status_code == 201, made.text
        shown: dict[str, Any] = made.json()
        return shown

    def ask(self, mechanism: dict[str, Any] | None = None, *, key: str | None = None, **changes: Any) -> Any:
        """Asks for a run under a new idempotency key, or under the one given."""
        self._asked += 1
        body = {**RELEASE, **({"mechanism": mechanism} if mechanism is not None else {}), **changes}
        return self.post("/v1/runs", body, Idempotency_Key=key or f"key-{id(self)}-{self._asked}")

    def balance(self, name: str = "mnist") -> dict[str, tuple[int, int]]:
        """The exact integers of a dataset's balance, by part."""
        shown = self.get(f"/v1/datasets/{name}").json()["balance"]
        return {part: (int(amount["mu_sq_pico"]), int(amount["delta_atto"])) for part, amount in shown.items()}


KNOWN: dict[str, FirstKeys] = {}
"""The first keys of the databases that were copied from one that had them, by URL."""


def first_keys(settings: Settings) -> FirstKeys:
    """The operator's key and the first admin's, of a new ledger; once for each."""
    first = KNOWN.pop(settings.database_url.get_secret_value(), None) or deploy.initialise(settings, tenant="acme")
    assert first is not None
    return first


def past_the_ledger(settings: Settings) -> Engine:
    """The database as its owner opens it, with row-level security no longer forced on the owner, for a test that looks
    at rows of every tenant or changes some behind the ledger's back. The server's role stays under it."""
    engine = engine_for(settings.owner_url)
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            for table in metadata.sorted_tables:
                connection.exec_driver_sql(f"ALTER TABLE {table.name} NO FORCE ROW LEVEL SECURITY")
    return engine


@dataclass(frozen=True, slots=True)
class Served:
    """A running server process."""

    url: str
    kill: Callable[[], None]
    said: list[str]
    pid: int

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)


def environment(settings: Settings) -> dict[str, str]:
    """The environment that leads a process of its own to the same database."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
    given["LEDGER_DATABASE_URL"] = settings.database_url.get_secret_value()
    if settings.owner_database_url is not None:
        given["LEDGER_OWNER_DATABASE_URL"] = settings.owner_database_url.get_secret_value()
    if settings.signing_key is not None:
        given["LEDGER_SIGNING_KEY"] = settings.signing_key.get_secret_value()
    for name in ("signing_key_file", "retired_keys_file", "kept_heads_file"):
        if (file := getattr(settings, name)) is not None:
            given[f"LEDGER_{name.upper()}"] = str(file)
    return given


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serve(settings: Settings, folder: Path) -> Iterator[Served]:
    """A real server process on a free port of the loopback, ready to answer; forked, since tests start so many.

    On PostgreSQL without `privacy-ledger serve`, which refuses a server whose durability is off, as it is in tests.
    """
    command = ["ledger", "serve"] if settings.is_sqlite else ["uvicorn", "ledger.api.app:create_app", "--factory"]
    with serve_forked(command, folder, environment(settings)) as served:
        yield served


@contextlib.contextmanager
def serve_forked(command: list[str], folder: Path, env: dict[str, str]) -> Iterator[Served]:
    """What `python -m` with this module and its arguments serves with uvicorn, ready to answer."""
    port = free_port()
    process, printed = forked.start([*command, "--port", str(port)], folder, env)
    said: list[str] = []
    with printed:
        try:
            _read_until_ready(printed, said)
            reader = threading.Thread(target=lambda: said.extend(printed), daemon=True)
            reader.start()
            yield Served(f"http://127.0.0.1:{port}", process.kill, said, process.pid or 0)
            process.terminate()
            process.join(END_SECONDS_MAX)
            reader.join()
        finally:
            process.kill()
            process.join()


@contextlib.contextmanager
def serve_command(command: list[str], folder: Path, env: dict[str, str]) -> Iterator[Served]:
    """A process that serves with uvicorn on the port that it is told, ready to answer."""
    port = free_port()
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said: list[str] = []
    try:
        _read_until_ready(process.stdout or (), said)
        reader = threading.Thread(target=lambda: said.extend(process.stdout or ()), daemon=True)
        reader.start()
        yield Served(f"http://127.0.0.1:{port}", process.kill, said, process.pid)
        process.terminate()
        process.wait(timeout=END_SECONDS_MAX)
        reader.join()
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _read_until_ready(printed: Iterable[str], said: list[str]) -> None:
    """Uvicorn says when it listens, which is after the application has started."""
    for line in printed:
        said.append(line)
        if "Uvicorn running on" in line:
            return
    raise RuntimeError("the server did not start:\n" + "".join(said))


class _Announced(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()


@contextlib.contextmanager
def serve_here(settings: Settings) -> Iterator[str]:
    """The application on a free port of the loopback, by a thread of this process, ready to answer: its URL. For what
    wants real HTTP, and does not care whose process it is."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = _Announced(uvicorn.Config(application(settings), log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        if not server.listens.wait(END_SECONDS_MAX):
            raise RuntimeError("the server did not start")
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@dataclass(frozen=True, slots=True)
class Said:
    """What a command came to."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


_command = functools.cache(typer.main.get_command)
"""The command line that a Typer stands for, made once: it would be made anew for each command that is typed."""


class Terminal:
    """Types commands: the very entry point of `privacy-ledger`, in this process, with its exit status and output."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd
        monkeypatch.setattr(typer.main, "get_command", _command)

    def __call__(self, line: str) -> Said:
        words = shlex.split(line)
        self._monkeypatch.setattr(sys, "argv", words if words[0] == "privacy-ledger" else ["privacy-ledger", *words])
        self._capfd.readouterr()
        try:
            cli.main()
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        printed = self._capfd.readouterr()
        return Said(status, printed.out, printed.err)

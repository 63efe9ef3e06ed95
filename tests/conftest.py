"""What every test stands on: a fresh, migrated database of each kind, and the application on top of it.

Whatever takes the fixture `database` (or `ledger`, which is built on it) runs on SQLite and on every PostgreSQL that
`tests.kit.postgres` finds. Databases are cloned from one that was migrated once, so that each test has its own.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from ledger.operate import deploy
from ledger.operate.deploy import FirstKeys
from ledger.report import pool, process
from ledger.settings import Settings
from ledger.store import Store, engine_for
from tests.kit import compiled, forked, postgres
from tests.kit.driver import KNOWN, SIGNING_KEY, Ledger, Served, Terminal, environment, first_keys, serve, serve_here
from tests.kit.trials import trials

KINDS = ["sqlite", *postgres.chosen()]
SERVER_ROLE = "ledger_server"


def pytest_configure() -> None:
    """Keep the folders of tests in memory where there is room: an SQLite ledger there writes through to no disk. And
    let each process compute in one thread, as those of the server do: its libraries' own threads mostly wait, and keep
    a processor busy with that."""
    for folder in postgres.in_memory():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", folder)
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the settings of the machine it runs on, nor a .env file. Applications in the test's own process
    compute certificates in threads, unless the test is about processes: starting some for each would take minutes."""
    for name in os.environ:
        if name.startswith("LEDGER_") and not name.startswith(("LEDGER_TEST_", "LEDGER_PROVE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LEDGER_COMPUTING_PROCESSES", "0")
    monkeypatch.setenv("LEDGER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session", autouse=True)
def _certificates_are_read_once() -> Iterator[None]:
    """Tests make clients by the thousand, nearly all for the loopback, and each would take 20 ms to read them anew."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("httpx._transports.default.create_ssl_context", functools.cache(httpx.create_ssl_context))
        yield


@pytest.fixture(scope="session", autouse=True)
def _statements_are_compiled_once() -> Iterator[None]:
    """A fifth of what most tests take, otherwise."""
    with compiled.once():
        yield


@pytest.fixture(autouse=True)
def _reports_are_made_by_forks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes that make reports start at once, unless the test is about how they start."""
    if "starts_report_processes" not in request.keywords:
        monkeypatch.setattr(pool, "start", _fork_that_reports)


def _fork_that_reports() -> forked.Piped:
    env = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
    return forked.Piped([process.__name__], env)


class Templates:
    """Databases of each kind to copy, migrated and with first keys or without, and the servers they live on."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._servers: dict[str, postgres.Server] = {}
        self._made: dict[tuple[str, bool], tuple[Settings, FirstKeys | None]] = {}

    def server(self, kind: str) -> postgres.Server:
        if kind not in self._servers:
            self._servers[kind] = self._stack.enter_context(postgres.start(kind, is_in_memory=True))
        return self._servers[kind]

    @staticmethod
    def settings(owner_url: str) -> Settings:
        url = make_url(owner_url)
        # Known to every process of a parallel run that shares a server, and to nobody without the owner's password.
        password = hashlib.sha256(f"{url.host}:{url.port}:{url.password}".encode()).hexdigest()
        server_url = url.set(username=SERVER_ROLE, password=password)
        return Settings(
            database_url=SecretStr(server_url.render_as_string(hide_password=False)),
            owner_database_url=SecretStr(owner_url),
            signing_key=SecretStr(SIGNING_KEY),
            # Whichever fixture is the first to ask for a template, also one that lives longer than `_no_environment`.
            computing_processes=0,
        )

    @contextlib.contextmanager
    def clone(self, kind: str, folder: Path, *, is_begun: bool = False) -> Iterator[Settings]:
        """Settings that lead to a fresh copy of the migrated database; `first_keys` knows the keys of one that was
        begun."""
        template, first = self._template(kind, is_begun=is_begun)
        with self._copied(kind, template, folder) as settings:
            if first is not None:
                KNOWN[settings.database_url.get_secret_value()] = first
            yield settings

    def prepared(self, kind: str) -> postgres.Server:
        """The server, with the role that serves: the first migration makes it."""
        self._template(kind, is_begun=False)
        return self.server(kind)

    def _template(self, kind: str, *, is_begun: bool) -> tuple[Settings, FirstKeys | None]:
        if (kind, is_begun) not in self._made:
            if is_begun:
                empty, _ = self._template(kind, is_begun=False)
                made = self._stack.enter_context(self._copied(kind, empty, self._folder))
                self._made[kind, is_begun] = made, first_keys(made)
            else:
                self._made[kind, is_begun] = self._migrated(kind), None
        return self._made[kind, is_begun]

    def _migrated(self, kind: str) -> Settings:
        if kind == "sqlite":
            settings = Settings(database_url=SecretStr(f"sqlite:///{self._folder / 'empty.db'}"), computing_processes=0)
            deploy.migrate(settings)
            return settings
        server, name = self.server(kind), f"template_{os.getpid()}"
        settings = self.settings(postgres.create_database(server, name))
        self._stack.callback(postgres.drop_database, server, name)
        deploy.migrate(settings)
        postgres.hash_lightly(server, SERVER_ROLE, str(make_url(settings.database_url.get_secret_value()).password))
        return settings

    @contextlib.contextmanager
    def _copied(self, kind: str, template: Settings, folder: Path) -> Iterator[Settings]:
        url = make_url(template.database_url.get_secret_value())
        if kind == "sqlite":
            shutil.copyfile(str(url.database), folder / "ledger.db")
            yield template.model_copy(update={"database_url": SecretStr(f"sqlite:///{folder / 'ledger.db'}")})
            return
        server, name = self.server(kind), f"test_{uuid.uuid4().hex}"
        owner_url = postgres.create_database(server, name, template=url.database)
        server_url = url.set(database=name).render_as_string(hide_password=False)
        try:
            yield template.model_copy(
                update={
                    "database_url": SecretStr(server_url),
                    "owner_database_url": SecretStr(owner_url),
                    "kept_heads_file": folder / f"kept-heads-of-{name}",
                }
            )
        finally:
            postgres.drop_database(server, name)


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Templates]:
    """What databases are cloned from, for the whole session."""
    with contextlib.ExitStack() as stack:
        yield Templates(tmp_path_factory.mktemp("templates"), stack)


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, templates: Templates, tmp_path: Path) -> Iterator[Settings]:
    """A fresh, migrated database, begun with `first_keys`: settings that lead to it."""
    with templates.clone(request.param, tmp_path, is_begun=True) as settings:
        yield settings


@pytest.fixture(params=postgres.chosen())
def postgresql(request: pytest.FixtureRequest, templates: Templates, tmp_path: Path) -> Iterator[Settings]:
    """A fresh, migrated, empty database on PostgreSQL, for what only several processes on one server can show."""
    with templates.clone(request.param, tmp_path) as settings:
        yield settings


@pytest.fixture
def store(database: Settings) -> Iterator[Store]:
    """The store as the server has it: with the server's own role."""
    opened = Store(engine_for(database.database_url.get_secret_value()))
    yield opened
    opened.close()


@pytest.fixture
def ledger(database: Settings) -> Iterator[Ledger]:
    """The application in this process, with a tenant and its admin's key."""
    with Ledger.open(database) as opened:
        yield opened


@pytest.fixture(scope="module", params=KINDS)
def kept_database(
    request: pytest.FixtureRequest, templates: Templates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """A database that the tests of a module share, for those that only read."""
    with templates.clone(request.param, tmp_path_factory.mktemp("kept"), is_begun=True) as settings:
        yield settings


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[[Settings], Served]]:
    """Starts real server processes, each on a port of its own, and ends them."""
    with contextlib.ExitStack() as stack:
        yield lambda settings: stack.enter_context(serve(settings, tmp_path))


@pytest.fixture
def terminal(
    database: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Terminal]:
    """A terminal whose environment leads to a running server, with the first admin's key. The server computes
    nothing in the background meanwhile, so that answers do not depend on how long a test takes."""
    key = first_keys(database).admin_key
    with serve_here(database.model_copy(update={"watch_seconds": 3600})) as url:
        monkeypatch.setenv("LEDGER_URL", url)
        monkeypatch.setenv("LEDGER_KEY", key)
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))  # no profile of who runs the tests
        for name, value in environment(database).items():
            if name.startswith("LEDGER_"):
                monkeypatch.setenv(name, value)
        yield Terminal(monkeypatch, capfd)


@pytest.fixture
def tries() -> Callable[[int, int], int]:
    """How many random trials to make: a sample, or the full count under `make prove`, which prints it."""

    def count(sample: int, full: int) -> int:
        chosen = trials(sample, full)
        print(f"{chosen} random trials")
        return chosen

    return count

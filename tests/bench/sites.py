"""The servers that are measured: the ledger, what it is compared with, and another build of it, each a process.

Their output goes to a file, so that reading it takes no time of the load generator's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
from pydantic import SecretStr
from sqlalchemy import make_url, text

from ledger.cli.load import Target
from ledger.settings import Settings
from tests.kit import postgres
from tests.kit.driver import SIGNING_KEY, WEAK, environment, free_port, past_the_ledger

ROOT: Final = Path(__file__).parents[2]
DATASET: Final = "hot"
RUN: Final[dict[str, Any]] = {
    "datasets": [DATASET],
    "mechanism": {"type": "gaussian", "noise_multiplier": 1_000_000},
}
BUDGET: Final = {"mu": 1000}
START_SECONDS_MAX: Final = 60
_HOT_ROW: Final = (
    "CREATE TABLE bench_budget (id integer PRIMARY KEY, left_over bigint NOT NULL)",
    "CREATE TABLE bench_run (id text PRIMARY KEY, cost bigint NOT NULL)",
    "INSERT INTO bench_budget VALUES (1, 1000000000000)",
)
_PGBENCH: Final = """\
BEGIN;
UPDATE bench_budget SET left_over = left_over - 1 WHERE id = 1 AND left_over >= 1;
INSERT INTO bench_run VALUES (gen_random_uuid()::text, 1);
COMMIT;
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A process that serves, and a key for it."""

    target: Target
    pid: int
    start_seconds: float

    def client(self) -> httpx.Client:
        """A client with the key."""
        headers = {"Authorization": f"Bearer {self.target.key}"}
        return httpx.Client(base_url=self.target.url, headers=headers, timeout=60)

    def post(self, path: str, body: Any, **headers: str) -> Any:
        """The answer to one request, which must succeed."""
        with self.client() as client:
            answer = client.post(path, json=body, headers=headers)
        if not answer.is_success:
            raise SystemExit(f"{path}: {answer.text}")
        return answer.json()

    def register(self, name: str, **changes: Any) -> None:
        """Make a dataset with room for every run."""
        body = {"privacy_unit": "record", "adjacency": "add_or_remove_one", "bound": "clt", "budget": BUDGET}
        self.post("/v1/datasets", {"name": name, **body, **self._confirmed(), **changes})

    def _confirmed(self) -> dict[str, Any]:
        """What a budget of this size needs, if the build that is measured knows it: older builds ask for nothing."""
        with self.client() as client:
            document = client.get("/openapi.json").text
        return {name: value for name, value in WEAK.items() if f'"{name}"' in document}


@contextlib.contextmanager
def durable(server: postgres.Server, name: str) -> Iterator[Settings]:
    """A database, with a role of its own to serve it, on a server whose durability and autovacuum are
    on; tests turn them off."""
    with psycopg.connect(make_url(server.admin_url).set(drivername="postgresql").render_as_string(False)) as admin:
        admin.autocommit = True
        for setting in ("fsync", "synchronous_commit", "full_page_writes", "autovacuum"):
            admin.execute(f"ALTER SYSTEM SET {setting} = on")
        admin.execute("SELECT pg_reload_conf()")
    owner = make_url(postgres.create_database(server, name))
    served = owner.set(username=f"{name}_server", password=secrets.token_hex(16))
    yield Settings(
        database_url=SecretStr(served.render_as_string(hide_password=False)),
        owner_database_url=SecretStr(owner.render_as_string(hide_password=False)),
        signing_key=SecretStr(SIGNING_KEY),
    )


@contextlib.contextmanager
def running(command: list[str], folder: Path, env: Mapping[str, str], *, key: str, path: str) -> Iterator[Server]:
    """Start a process that serves on a port, and wait until it answers a GET of the path."""
    port = free_port()
    begun = time.perf_counter()
    with (folder / f"server-{port}.log").open("wb") as log:
        words = [*command, "--port", str(port)]
        process = subprocess.Popen(words, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _await_answer(process, port, path, log.name)
        yield Server(Target(f"http://127.0.0.1:{port}", key), process.pid, time.perf_counter() - begun)
    finally:
        process.terminate()
        process.wait(timeout=60)


def _await_answer(process: subprocess.Popen[bytes], port: int, path: str, log: str) -> None:
    end = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            if connection.recv(16).startswith(b"HTTP/1.1"):
                return
        time.sleep(0.005)
    raise SystemExit(f"no answer from {process.args!r}:\n{Path(log).read_text()[-2000:]}")


@dataclass(frozen=True, slots=True)
class Build:
    """A build of the ledger: the Python that runs it, and where its source is."""

    python: str = sys.executable
    source: Path = ROOT

    def environment(self, settings: Settings) -> dict[str, str]:
        """The environment in which this build opens the database."""
        # Eight batches of a thousand fit, as by default; older builds rejected them.
        ours = {"PYTHONPATH": str(self.source), "PYTHONDONTWRITEBYTECODE": "", "LEDGER_QUEUE_MAX": "8000"}
        return environment(settings) | ours

    def set_up(self, settings: Settings, folder: Path) -> str:
        """Migrate an empty database by this build's own command line, and return the admin's key."""
        self._run(settings, folder, "migrate")
        shown: dict[str, str] = json.loads(self._run(settings, folder, "init", "--tenant", "bench", "--json"))
        return shown["admin_key"]

    def _run(self, settings: Settings, folder: Path, *words: str) -> str:
        command, env = [self.python, "-m", "ledger", *words], self.environment(settings)
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} of {self.source}:\n{done.stdout}{done.stderr}")
        return done.stdout

    @contextlib.contextmanager
    def serve(self, settings: Settings, folder: Path, key: str) -> Iterator[Server]:
        """One worker of this build."""
        command = [self.python, "-m", "ledger", "serve"]
        with running(command, folder, self.environment(settings), key=key, path="/healthz") as server:
            yield server

    @contextlib.contextmanager
    def open(self, settings: Settings, folder: Path) -> Iterator[Server]:
        """One worker of this build on an empty database, with the hot dataset."""
        key = self.set_up(settings, folder)
        with self.serve(settings, folder, key) as server:
            server.register(DATASET)
            yield server


@contextlib.contextmanager
def bare(settings: Settings, folder: Path, ledger: Server) -> Iterator[tuple[Target, Target]]:
    """The bare echo, and the same application with a transaction per request, with the ledger's own answers."""
    owner = past_the_ledger(settings)
    with owner.execution_options(writing=True).begin() as connection:
        for statement in _HOT_ROW:
            connection.execute(text(statement))
    owner.dispose()
    run = ledger.post("/v1/runs", RUN, **{"Idempotency-Key": "answers"})
    with ledger.client() as client:
        answers = {"/v1/runs": run, "/v1/datasets": client.get(f"/v1/datasets/{DATASET}").json()}
    env = {**Build().environment(settings), "BENCH_ANSWERS": json.dumps(answers)}
    app = [sys.executable, "-m", "uvicorn", "tests.bench.app:create_app", "--factory", "--no-access-log"]
    with running(app, folder, env, key="echo", path="/") as server:
        yield server.target, Target(server.target.url, "transaction")


@contextlib.contextmanager
def base_build(commit: str, folder: Path) -> Iterator[Build]:
    """Another commit in a worktree of its own; with an environment of its own if its packages are others."""
    source = folder / "base"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(source), commit], check=True)
    try:
        locks = [(root / "requirements.lock").read_bytes() for root in (source, ROOT)]
        python = sys.executable if locks[0] == locks[1] else _python_with(source / "requirements.lock")
        yield Build(python, source)
    finally:
        subprocess.run([*git, "remove", "--force", str(source)], check=True)


def _python_with(lock: Path) -> str:
    """The Python of an environment with these packages, which is kept for the next time."""
    venv = ROOT / "build" / "bench" / f"venv-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    made = venv / "made"
    if not made.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "--require-hashes", "--requirement", str(lock)], check=True)
        made.touch()
    return str(venv / "bin" / "python")


def pgbench(settings: Settings, connections: int, seconds: float) -> float | None:
    """Transactions a second of the same transaction without HTTP; None if pgbench is missing."""
    program = shutil.which("pgbench") or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/pgbench")), None)
    if program is None or settings.is_sqlite:
        return None
    url = make_url(settings.owner_url).set(drivername="postgresql").render_as_string(hide_password=False)
    words = [program, "-n", "-c", str(connections), "-j", "1", "-T", str(max(1, round(seconds))), "-f", "/dev/stdin"]
    done = subprocess.run([*words, url], input=_PGBENCH, capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("tps"))
    return float(line.split()[2])

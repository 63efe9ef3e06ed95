"""Single approvals over HTTP, beside what they are compared with, in one run: the second part of `make bench`.

Compared are the ledger; a bare FastAPI application that answers the same bytes (what HTTP alone costs); the same
application that commits one conditional UPDATE and one INSERT for each request, with no queue (what grouping brings);
and, where it is installed, `pgbench` with that same transaction and no HTTP at all. Rounds of all of them take turns,
so that a noisy machine disturbs them alike. Every database has its durability on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import SecretStr
from sqlalchemy import make_url, text

from ledger.operate import deploy
from ledger.settings import Settings
from tests.bench.__main__ import durable
from tests.kit import postgres
from tests.kit.driver import MNIST, RELEASE, Served, environment, first_keys, past_the_ledger, serve, serve_command

ROUNDS = int(os.environ.get("LEDGER_BENCH_ROUNDS", "5"))
SECONDS = 3.0
CONNECTIONS = (1, 64)
_HOT_ROW = (
    "CREATE TABLE bench_budget (id integer PRIMARY KEY, left_over bigint NOT NULL)",
    "CREATE TABLE bench_run (id text PRIMARY KEY, cost bigint NOT NULL)",
    "INSERT INTO bench_budget VALUES (1, 1000000000000)",
)
_PGBENCH = """\
BEGIN;
UPDATE bench_budget SET left_over = left_over - 1 WHERE id = 1 AND left_over >= 1;
INSERT INTO bench_run VALUES (gen_random_uuid()::text, 1);
COMMIT;
"""


async def _load(url: str, key: str, connections: int) -> tuple[float, list[float]]:
    """Requests a second, and every request's milliseconds, of connections that each wait for their answer.

    Bytes over bare streams: a client library would be the slowest part at 64 connections, and be measured in its place.
    """
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps(RELEASE).encode()
    head = (
        f"POST /v1/runs HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nIdempotency-Key: "
    ).encode()
    times: list[float] = []

    async def work(until: float) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while (start := time.perf_counter()) < until:
            writer.write(head + uuid4().hex.encode() + b"\r\n\r\n" + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in answer.lower().splitlines() if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            if not answer.startswith(b"HTTP/1.1 201"):
                raise SystemExit(f"not approved: {answer.decode()}")
            times.append(1000 * (time.perf_counter() - start))
        writer.close()
        await writer.wait_closed()

    begun = time.perf_counter()
    await asyncio.gather(*(work(begun + SECONDS) for _ in range(connections)))
    return len(times) / (time.perf_counter() - begun), times


def _pgbench(url: str, connections: int) -> float | None:
    """Transactions a second of the same transaction without HTTP; None where pgbench is missing."""
    program = shutil.which("pgbench") or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/pgbench")), None)
    if program is None:
        return None
    parsed = make_url(url).set(drivername="postgresql")
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(_PGBENCH)
        script.flush()
        words = [program, "-n", "-c", str(connections), "-j", "1", "-T", str(int(SECONDS)), "-f", script.name]
        told = subprocess.run(
            [*words, parsed.render_as_string(hide_password=False)], capture_output=True, text=True, check=True
        )
    line = next(line for line in told.stdout.splitlines() if line.startswith("tps"))
    return float(line.split()[2])


@contextlib.contextmanager
def _site(settings: Settings, folder: Path) -> Iterator[dict[str, tuple[Served, str]]]:
    """The ledger and what it is compared with, all serving."""
    deploy.migrate(settings)
    key = first_keys(settings).admin_key
    owner = past_the_ledger(settings)
    with owner.execution_options(writing=True).begin() as connection:
        for statement in _HOT_ROW:
            connection.execute(text(statement))
    owner.dispose()
    app = [sys.executable, "-m", "uvicorn", "tests.bench.app:create_app", "--factory", "--no-access-log"]
    env = {**environment(settings), "PYTHONPATH": str(Path(__file__).parents[2])}
    with serve(settings, folder) as ledger, serve_command(app, folder, env) as bare:
        with ledger.client() as client:
            made = client.post(
                "/v1/datasets", json={**MNIST, "budget": {"mu": 1000}}, headers={"Authorization": f"Bearer {key}"}
            )
            made.raise_for_status()
        yield {
            "the ledger": (ledger, key),
            "a bare FastAPI echo": (bare, "echo"),
            "a transaction per request": (bare, "transaction"),
        }


def compare(label: str, settings: Settings, folder: Path) -> None:
    """Prints the table for one database."""
    rates: dict[tuple[str, int], list[float]] = {}
    times: dict[tuple[str, int], list[float]] = {}
    with _site(settings, folder) as site:
        for _ in range(ROUNDS):
            for connections in CONNECTIONS:
                for name, (served, key) in site.items():
                    rate, took = asyncio.run(_load(served.url, key, connections))
                    rates.setdefault((name, connections), []).append(rate)
                    times.setdefault((name, connections), []).extend(took)
                if not settings.is_sqlite and (tps := _pgbench(settings.owner_url, connections)) is not None:
                    rates.setdefault(("pgbench, no HTTP", connections), []).append(tps)
    print(f"\n{label}: approvals a second over HTTP, median of {ROUNDS} rounds (least to most); p50 and p99 in ms")
    print(f"{'':28}" + "".join(f"{f'{connections} connections':>44}" for connections in CONNECTIONS))
    for name in dict.fromkeys(name for name, _ in rates):
        print(f"{name:28}" + "".join(f"{_shown(rates, times, name, c):>44}" for c in CONNECTIONS))


def _shown(rates: dict[Any, list[float]], times: dict[Any, list[float]], name: str, connections: int) -> str:
    found = rates[name, connections]
    shown = f"{statistics.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f})"
    if (name, connections) in times:
        cuts = statistics.quantiles(times[name, connections], n=100)
        shown += f"; {cuts[49]:.1f}, {cuts[98]:.1f}"
    return shown


def main() -> None:
    """Measures on SQLite and on every PostgreSQL that is found."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        compare("SQLite", Settings(database_url=SecretStr(f"sqlite:///{folder}/bench.db")), Path(folder))
        for kind in postgres.available():
            with postgres.start(kind) as server, durable(server, "bench_http") as settings:
                compare(server.label, settings, Path(folder))

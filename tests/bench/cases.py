"""The cases over HTTP of `make bench`. Of each case, the ledger and its peers take turns, so that a noisy machine
disturbs them alike."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, repeat
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import uvloop

from ledger.cli.load import Measured, Target, measure
from ledger.settings import Settings
from tests.bench.sites import DATASET, RUN, Build, Server, bare, pgbench
from tests.bench.table import Judgement, Row

ROUNDS: Final = int(os.environ.get("LEDGER_BENCH_ROUNDS", "3"))
SECONDS: Final = float(os.environ.get("LEDGER_BENCH_SECONDS", "2"))
RUNS: Final = int(os.environ.get("LEDGER_BENCH_RUNS", "1000"))
ENTRIES: Final = int(os.environ.get("LEDGER_BENCH_ENTRIES", "10000"))
FEW: Final = 10
SHORT_JOURNALS: Final = 10
"""In turns, so that each stays short."""
BULK_CONNECTIONS: Final = 8
LISTED: Final = 100
LISTS: Final = 20
BATCH_MAX: Final = 1000
_KEYS: Final = count()
_PREFIX: Final = uuid4().hex
_APPROVED: Final = re.compile(rb'"status": ?201')


def key() -> str:
    """An idempotency key that was never used."""
    return f"{_PREFIX}-{next(_KEYS)}"


def asks(target: Target, dataset: str = DATASET) -> Iterator[bytes]:
    """Single requests for approval, without end."""
    body = json.dumps({**RUN, "datasets": [dataset]}).encode()
    return (target.request("POST", "/v1/runs", body) for _ in repeat(None))


def batches(target: Target, runs: int, dataset: str = DATASET) -> Iterator[bytes]:
    """Bulk requests for approval, without end."""
    run = json.dumps({**RUN, "datasets": [dataset]})[:-1]
    while True:
        listed = ",".join(f'{run},"idempotency_key":"{key()}"}}' for _ in range(runs))
        yield target.request("POST", "/v1/runs/batch", f'{{"runs":[{listed}]}}'.encode())


def send(target: Target, requests: Iterator[bytes], connections: int, **rest: Any) -> Measured:
    """Send these requests for the time of a round, or until there are no more."""
    return uvloop.run(measure(target, requests, connections=connections, **rest))


def approved(server: Server, runs: int, dataset: str = DATASET) -> list[str]:
    """The ids of this many new runs, asked for in batches."""
    bodies: list[bytes] = []
    for size in (*([BATCH_MAX] * (runs // BATCH_MAX)), runs % BATCH_MAX):
        if size:
            batch = batches(server.target, size, dataset)
            send(server.target, iter([next(batch)]), 1, on_body=bodies.append)
    return [result["run"]["id"] for body in bodies for result in json.loads(body)["results"]]


def processor_ms(pid: int) -> float:
    """The processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return 1000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Site:
    """A database, the ledger on it, and its peers."""

    label: str
    settings: Settings
    folder: Path
    ledger: Server
    echo: Target
    transaction: Target
    base: Server | None

    @classmethod
    @contextlib.contextmanager
    def open(cls, label: str, settings: Settings, folder: Path, base: Server | None = None) -> Iterator[Site]:
        """Start all servers on an empty database."""
        with Build().open(settings, folder) as ledger, bare(settings, folder, ledger) as (echo, transaction):
            yield cls(label, settings, folder, ledger, echo, transaction, base)

    def singles(self, connections: int) -> tuple[Row, Row]:
        """Single approvals, and their 99th percentile."""
        row = Row(f"{self.label}: approvals, {connections} connection{'s' * (connections > 1)}", "/s")
        tail = Row(f"{self.label}: p99 of approvals, {connections} connection{'s' * (connections > 1)}", " ms")
        times: list[float] = []
        targets = {"": self.ledger.target, "echo": self.echo, "transaction": self.transaction}
        if self.base is not None:
            targets["BASE"] = self.base.target
        for _ in range(ROUNDS):
            for name, target in targets.items():
                took = send(target, asks(target), connections, seconds=SECONDS)
                _add(row, name, took.rate)
                _add(tail, name, took.percentile_ms(99))
                if not name:
                    times += took.times_ms
            if (rate := pgbench(self.settings, connections, SECONDS)) is not None:
                _add(row, "pgbench", rate)
        row.percentiles_ms = (statistics.median(times), Measured(1, times).percentile_ms(99))
        return row, tail

    def bulk(self, runs: int) -> Row:
        """Decisions each second by batches of this many runs."""
        row = Row(f"{self.label}: decisions, batches of {runs:,}, {BULK_CONNECTIONS} connections", "/s")

        def check(body: bytes) -> None:
            if len(_APPROVED.findall(body)) != runs:
                raise SystemExit(f"not all approved: {body[:500].decode()}")

        for _ in range(ROUNDS):
            for name, server in self._builds().items():
                requests = batches(server.target, runs)
                took = send(server.target, requests, BULK_CONNECTIONS, seconds=SECONDS, on_body=check)
                _add(row, name, runs * took.rate)
                if not name:
                    row.percentiles_ms = (took.percentile_ms(50), took.percentile_ms(99))
        return row

    def moves(self) -> tuple[Row, Row]:
        """Start and settle runs, at 64 connections."""
        rows = tuple(Row(f"{self.label}: {name}, 64 connections", "/s") for name in ("start", "settle"))
        for _ in range(ROUNDS):
            for name, server in self._builds().items():
                runs = approved(server, RUNS)
                for row, move in zip(rows, ("start", "settle"), strict=True):
                    requests = (server.target.request("POST", f"/v1/runs/{run}/{move}", b"{}") for run in runs)
                    took = send(server.target, requests, 64)
                    _add(row, name, took.rate)
                    if not name:
                        row.percentiles_ms = (took.percentile_ms(50), took.percentile_ms(99))
        return rows[0], rows[1]

    def reads(self, kind: str) -> Row:
        """Read one run or one dataset, at 64 connections."""
        row = Row(f"{self.label}: reads of a {kind}, 64 connections", "/s")
        servers = self._builds()
        paths = dict.fromkeys(servers, f"/v1/datasets/{DATASET}")
        if kind == "run":
            paths = {name: f"/v1/runs/{approved(server, 1)[0]}" for name, server in servers.items()}
        targets = {name: server.target for name, server in servers.items()} | {"echo": self.echo}
        for _ in range(ROUNDS):
            for name, target in targets.items():
                requests = repeat(target.request("GET", paths.get(name, paths[""])))
                took = send(target, requests, 64, seconds=SECONDS)
                _add(row, name, took.rate)
                if not name:
                    row.percentiles_ms = (took.percentile_ms(50), took.percentile_ms(99))
        row.beside("echo", 0.6, " of the echo")
        return row

    def listing(self) -> Row:
        """The processor time of a list of a hundred datasets."""
        row = Row(f"{self.label}: processor time of a list of {LISTED} datasets", " ms")
        for name, server in self._builds().items():
            for number in range(LISTED - 1):
                server.register(f"listed-{number:02}")
            request = server.target.request("GET", f"/v1/datasets?limit={LISTED}")
            for _ in range(ROUNDS):
                before = processor_ms(server.pid)
                send(server.target, repeat(request, LISTS), 1)
                _add(row, name, (processor_ms(server.pid) - before) / LISTS)
        row.judgements.append(Judgement.at_most(" ms", 10, row.median))
        return row

    def two_workers(self, one_worker: Row) -> Row:
        """Approvals by two workers on this database."""
        row = Row(f"{self.label}: approvals, two workers, 64 connections", "/s")
        with Build().serve(self.settings, self.folder, self.ledger.target.key) as second:
            for _ in range(ROUNDS):
                took = uvloop.run(_both(self.ledger.target, second.target))
                row.values.append(sum(part.rate for part in took))
                times = [ms for part in took for ms in part.times_ms]
                row.percentiles_ms = (statistics.median(times), Measured(1, times).percentile_ms(99))
        row.note = f"reported: {row.median / one_worker.median:.2f} of one worker"
        return row

    def growth(self) -> list[Row]:
        """Each operation with many entries behind it, beside the same with few, in turns."""
        short = [f"few-{number}" for number in range(SHORT_JOURNALS)]
        for name, entries in [*((name, FEW) for name in short), ("many", ENTRIES)]:
            self.ledger.register(name)
            approved(self.ledger, entries, name)
        times: dict[str, dict[str, list[float]]] = {}
        with self.ledger.client() as client:
            for turn in range(max(SHORT_JOURNALS, RUNS // 10)):
                for size, name in (("few", short[turn % SHORT_JOURNALS]), ("many", "many")):
                    for operation, took in _life(client, name):
                        times.setdefault(operation, {}).setdefault(size, []).append(took)
        return [self._grown(operation, found) for operation, found in times.items()]

    def _grown(self, operation: str, times: Mapping[str, list[float]]) -> Row:
        few, many = (statistics.median(times[name]) for name in ("few", "many"))
        row = Row(f"{self.label}: {operation}, {ENTRIES:,} entries behind it beside {FEW}", "", [many / few])
        row.percentiles_ms = (many, Measured(1, times["many"]).percentile_ms(99))
        row.judgements.append(Judgement.at_most("", 1.2, many / few))
        return row

    def _builds(self) -> dict[str, Server]:
        return {"": self.ledger} | ({} if self.base is None else {"BASE": self.base})


def _add(row: Row, name: str, value: float) -> None:
    (row.peers.setdefault(name, []) if name else row.values).append(value)


async def _both(*targets: Target) -> list[Measured]:
    parts = (measure(target, asks(target), connections=64 // len(targets), seconds=SECONDS) for target in targets)
    return list(await asyncio.gather(*parts))


def _life(client: Any, dataset: str) -> Iterator[tuple[str, float]]:
    """The milliseconds of each operation on a run, and on one that is voided."""

    def timed(call: Callable[[], Any]) -> tuple[float, Any]:
        start = time.perf_counter()
        answer = call()
        took = 1000 * (time.perf_counter() - start)
        if not answer.is_success:
            raise SystemExit(answer.text)
        return took, answer.json()

    def post(path: str, body: Any) -> tuple[float, Any]:
        return timed(lambda: client.post(path, json=body, headers={"Idempotency-Key": key()}))

    def get(path: str) -> tuple[float, Any]:
        return timed(lambda: client.get(path))

    took, run = post("/v1/runs", {**RUN, "datasets": [dataset]})
    yield "a decision", took
    path = f"/v1/runs/{run['id']}"
    yield "a start", post(f"{path}/start", {})[0]
    yield "a receipt", get(f"{path}/receipt")[0]
    yield "a read of a run", get(path)[0]
    yield f"a page of {FEW} runs", get(f"/v1/runs?dataset={dataset}&limit={FEW}")[0]
    yield "a settlement", post(f"{path}/settle", {})[0]
    _, other = post("/v1/runs", {**RUN, "datasets": [dataset]})
    yield "a void", post(f"/v1/runs/{other['id']}/void", {"reason": "a measurement"})[0]

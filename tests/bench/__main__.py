"""`make bench`: one table of what the ledger does, beside what it is compared with, in one run.

With BASE=COMMIT that build is measured too. LEDGER_BENCH_SECONDS (of each round), _ROUNDS, _RUNS and _ENTRIES make it
shorter. The table and a plot are written into docs. `make bench PARTS="certificates recipes guesses"` measures other
things instead. Figures are for reading, never a test.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from ledger.settings import Settings
from tests.bench import processes
from tests.bench.cases import ROUNDS, SECONDS, Site
from tests.bench.sites import ROOT, Server, base_build, durable
from tests.bench.table import Judgement, Row, text, write_page, write_plot
from tests.kit import postgres

DOCS: Final = ROOT / "docs"
PARTS: Final = ("table", "certificates", "recipes", "guesses")
LIBRARIES: Final = ("fastapi", "uvicorn", "uvloop", "httptools", "pydantic", "sqlalchemy", "psycopg")


def measured(folder: Path, commit: str) -> Iterator[Row]:
    """Every row of the table, as soon as it is measured."""
    kind = postgres.available()[0]
    with postgres.start(kind) as server, contextlib.ExitStack() as stack:
        base = stack.enter_context(_base(server, folder, commit)) if commit else None
        settings = stack.enter_context(durable(server, "bench"))
        site = stack.enter_context(Site.open(server.label, settings, folder, base))
        single, singly, bulks = yield from _on_postgres(site)
        yield from processes.start(settings, folder, site.ledger)
        yield from processes.commands(settings, folder)
        yield processes.client(site.ledger)
    settings = Settings(database_url=SecretStr(f"sqlite:///{folder / 'bench.db'}"))
    with Site.open("SQLite", settings, folder) as site:
        yield from _on_sqlite(site, {1: singly, 64: single}, bulks)


def _on_postgres(site: Site) -> Generator[Row, None, tuple[Row, Row, dict[int, Row]]]:
    """Return the rows that those of SQLite are compared with: single approvals at 64 and 1 connections, and batches."""
    single, tail = site.singles(64)
    single.beside("echo", 0.6, " of the echo")
    single.beside("transaction", 4, " of a transaction per request")
    echo_ms = tail.peer("echo") or 0.0
    tail.judgements.append(Judgement.at_most(" of the echo's", 3, tail.median / echo_ms))
    yield single
    yield tail
    singly, _ = site.singles(1)
    singly.beside("transaction", 0.6, " of a transaction per request")
    if singly.percentiles_ms is not None:
        singly.judgements.append(Judgement.at_most(" ms at the median", 3, singly.percentiles_ms[0]))
    yield singly
    bulks = {}
    for runs in (100, 1000):
        bulks[runs] = site.bulk(runs)
        bulks[runs].judgements.append(Judgement.at_least("/s", 10_000, bulks[runs].median))
        bulks[runs].beside("BASE", 20, " of BASE")
        yield bulks[runs]
    for row in site.moves():
        row.judgements.append(Judgement.at_least(" of approvals", 0.5, row.median / single.median))
        yield row
    yield site.reads("run")
    yield site.reads("dataset")
    yield site.listing()
    yield site.two_workers(single)
    yield from site.growth()
    return single, singly, bulks


def _on_sqlite(site: Site, singles: dict[int, Row], bulks: dict[int, Row]) -> Iterator[Row]:
    for connections, other in singles.items():
        row, _ = site.singles(connections)
        row.judgements.append(Judgement.at_least(" of PostgreSQL", 1, row.median / other.median))
        yield row
    for runs, other in bulks.items():
        row = site.bulk(runs)
        row.judgements.append(Judgement.at_least(" of PostgreSQL", 1, row.median / other.median))
        yield row
    yield from site.growth()


@contextlib.contextmanager
def _base(server: postgres.Server, folder: Path, commit: str) -> Iterator[Server]:
    place = folder / "of-base"
    place.mkdir()
    with (
        durable(server, "base") as settings,
        base_build(commit, folder) as build,
        build.open(settings, place) as opened,
    ):
        yield opened


def heading(commit: str, load: float) -> str:
    """What the figures depend on: build, machine, versions and load."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    build = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)
    return (
        f"Build {build}{f', BASE {commit}' if commit else ''}. {_processor()}, {os.cpu_count()} processors, "
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {versions}. "
        f"Load average before the run: {load:.1f}. {ROUNDS} rounds of {SECONDS:g} s each; "
        "the load generator and the database share the machine."
    )


def _processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or "unknown processor"


def table(commit: str) -> None:
    """Print the table, and write it and the plot into docs."""
    head = heading(commit, os.getloadavg()[0])
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=ROOT / "build") as folder:
        for row in measured(Path(folder), commit):
            print(f"  {row.case}", file=sys.stderr, flush=True)
            rows.append(row)
    print(f"{head}\n\n{text(rows)}")
    write_page(DOCS / "performance.md", head, rows)
    first = rows[0]
    bars = [(f"the ledger, {first.case.partition(':')[0]}", first.median)]
    bars += [(name, value) for name in first.peers if (value := first.peer(name)) is not None]
    bars += [("the ledger, SQLite", row.median) for row in rows if row.case == "SQLite: approvals, 64 connections"]
    write_plot(DOCS / "performance.svg", "Approvals each second at 64 connections", bars)


def main() -> None:
    """Measure the parts that are named on the command line; default: the table."""
    for part in sys.argv[1:] or PARTS[:1]:
        if part not in PARTS:
            raise SystemExit(f"no part {part!r}: choose from {', '.join(PARTS)}")
        if part == "table":
            (ROOT / "build").mkdir(exist_ok=True)
            table(os.environ.get("BASE", ""))
        else:
            importlib.import_module(f"tests.bench.{part}").main()


if __name__ == "__main__":
    main()

"""`make torture PARTS=hostile`: another tenant's approvals, quiet and beside a hostile tenant that does everything.

A real server with one worker, on SQLite and on PostgreSQL. Figures are for reading, never a test; what they should be
stands beside them. The hostile clients share the machine's processors with the server, at a lower priority. What that
alone costs is measured too: a phase beside processes of that priority that only burn time and never call the server.

    LEDGER_TORTURE_QUIET_SECONDS    of each database, and as long beside burners; 12 when left out
    LEDGER_TORTURE_HOSTILE_SECONDS  of each database; 40 when left out
    LEDGER_TORTURE_DATABASES        sqlite, or kinds of PostgreSQL as in tests/kit/postgres.py, separated by commas
    LEDGER_TORTURE_ATTACKS          names as they are printed, separated by commas; all of them when left out
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Generator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from ledger.settings import Settings
from tests.bench.sites import durable
from tests.conftest import Templates
from tests.kit import postgres
from tests.torture.hostile import NICE
from tests.torture.site import Site, open_site
from tests.torture.watch import APPROVALS_PER_SECOND, CONNECTIONS, Seen, Watch
from tests.torture.wire import CUT

QUIET_SECONDS: Final = float(os.environ.get("LEDGER_TORTURE_QUIET_SECONDS", "12"))
HOSTILE_SECONDS: Final = float(os.environ.get("LEDGER_TORTURE_HOSTILE_SECONDS", "40"))
DATABASES: Final = os.environ.get("LEDGER_TORTURE_DATABASES", "")
ATTACKS: Final = os.environ.get("LEDGER_TORTURE_ATTACKS", "")
RUNS: Final = 2000
RATIO_MAX: Final = 3
HEALTH_MS_MAX: Final = 100
LAG_MS_MAX: Final = 50
MEMORY_MB_MAX: Final = 512
SHOWN: Final = {"p50": 50, "p99": 99, "most": 100}

BURN: Final = f"import os; os.nice({NICE})\nwhile True: pass"
PHASES: Final = ("quiet", "burners", "hostile")

Came = dict[str, dict[int, int]]
"""What each attack was answered: statuses and how many."""


async def phases(site: Site, quiet_seconds: float) -> tuple[list[Seen], Came]:
    """What was seen quiet, beside burners and beside the hostile clients, and what these were answered."""
    watch = Watch(site.served, site.key)
    await watch.look(2)  # until connections, caches and a process that computes are there
    quiet = await watch.look(quiet_seconds)
    async with _burners():
        burnt = await watch.look(quiet_seconds)
    words = [sys.executable, "-m", "tests.torture.hostile"]
    hostile = await asyncio.create_subprocess_exec(*words, stdin=PIPE, stdout=PIPE, limit=2**20)
    if hostile.stdin is None or hostile.stdout is None:
        raise SystemExit("the hostile clients have no pipes")
    hostile.stdin.write(f"{site.plan.as_json()}\n".encode())
    await hostile.stdout.readline()
    hostile.stdin.write(b"begin\n")
    beside, (printed, _) = await watch.beside(hostile.communicate())
    if hostile.returncode:
        raise SystemExit(f"the hostile clients ended with {hostile.returncode}")
    came = {name: {int(status): n for status, n in counts.items()} for name, counts in json.loads(printed).items()}
    return [quiet, burnt, beside], came


@contextlib.asynccontextmanager
async def _burners() -> AsyncIterator[None]:
    """As many processes as processors, which burn time at the priority of the hostile clients."""
    burning = [await asyncio.create_subprocess_exec(sys.executable, "-c", BURN) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in burning:
            process.kill()
            await process.wait()


def show(label: str, seen: Sequence[Seen], came: Came) -> None:
    """Print the table of one database. seen: a phase each, as in `PHASES`."""
    lengths = ", ".join(f"{phase.seconds:.0f} s {name}" for name, phase in zip(PHASES, seen, strict=True))
    print(f"\n{label}: {lengths}")
    print(f"{'':46}" + "".join(f"{name:>10}" for name in PHASES) + "   wanted of the last")
    for name, percent in SHOWN.items():
        found = [one.approvals.percentile(percent) for one in seen]
        print(_row(f"approvals, {name}, ms", found, _ratios(found) if percent == 99 else ""))
    others = [sum(one.approvals.statuses.values()) - one.approvals.statuses[201] for one in seen]
    print(_row("approvals that were answered otherwise", others, _wanted("none", others[-1], 0, "")))
    for name, percent in SHOWN.items():
        print(_row(f"approvals with a certificate, {name}, ms", [one.certified.percentile(percent) for one in seen]))
    for name, percent in SHOWN.items():
        found = [one.health.percentile(percent) for one in seen]
        bound = f"below {HEALTH_MS_MAX}", found[-1], HEALTH_MS_MAX, "ms"
        print(_row(f"/healthz, {name}, ms", found, _wanted(*bound) if percent == 100 else ""))
    for name, percent in SHOWN.items():
        print(_row(f"/healthz, new connections, {name}, ms", [one.newcomers.percentile(percent) for one in seen]))
    lags = [max(one.lag_ms, default=0) for one in seen]
    print(_row("lag of the event loop, most, ms", lags, _wanted(f"below {LAG_MS_MAX}", lags[-1], LAG_MS_MAX, "ms")))
    print(_row("the loop waited for a processor, % of the time", [one.waited_percent for one in seen]))
    print(_row("memory of the server, most, MB", [one.own_mb for one in seen]))
    memory = f"below {MEMORY_MB_MAX}", seen[-1].all_mb, MEMORY_MB_MAX, "MB"
    print(_row("memory with its children, most, MB", [one.all_mb for one in seen], _wanted(*memory)))
    print(f"\n{'what the hostile ones were answered':46}")
    for name, counts in came.items():
        shown = ", ".join(f"{n:,} {_name(status)}" for status, n in sorted(counts.items()))
        print(f"  {name:44}{shown or 'nothing yet'}")


def _row(name: str, found: Sequence[float], wanted: str = "") -> str:
    """What was found in each phase."""
    return f"{name:46}" + "".join(f"{value:>10,.1f}" for value in found) + f"   {wanted}".rstrip()


def _ratios(found: Sequence[float]) -> str:
    """Whether the last is within so many times of the first; and how it compares with the others."""
    quiet, burnt, hostile = found
    of_quiet = _wanted(f"within {RATIO_MAX} times", hostile / quiet, RATIO_MAX, "times")
    return f"{of_quiet}; {hostile / burnt:,.1f} times that beside burners"


def _wanted(bound: str, found: float, most: float, unit: str) -> str:
    return f"{bound}: {'met' if found <= most else 'MISSED'} ({found:,.1f} {unit})".replace(" )", ")")


def _name(status: int) -> str:
    return "cut" if status == CUT else f"{status} {HTTPStatus(status).phrase}"


@contextlib.contextmanager
def databases(folder: Path) -> Generator[Generator[tuple[str, Settings]]]:
    """The databases that are chosen, each begun when its turn comes and ended before the next."""
    kinds = DATABASES.split(",") if DATABASES else ["sqlite", *postgres.chosen()]

    def each() -> Generator[tuple[str, Settings]]:
        for kind in kinds:
            if kind == "sqlite":
                yield "SQLite", Settings(database_url=SecretStr(f"sqlite:///{folder}/torture.db"))
            else:
                with postgres.start(kind) as server, durable(server, "torture") as owned:
                    yield server.label, Templates.settings(owned.owner_url)

    with contextlib.closing(each()) as chosen:
        yield chosen


def main() -> None:
    """Torture a server on each database."""
    print(
        f"Python {sys.version.split()[0]}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} before;"
        f" {APPROVALS_PER_SECOND} approvals/s over {CONNECTIONS} connections, timed from when each was due;\n"
        f"the hostile clients run on the same processors, at nice {NICE}"
    )
    attacks = tuple(filter(None, ATTACKS.split(",")))
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder, databases(Path(folder)) as chosen:
        for label, settings in chosen:
            with open_site(settings, Path(folder), seconds=HOSTILE_SECONDS, runs=RUNS, attacks=attacks) as site:
                show(label, *asyncio.run(phases(site, QUIET_SECONDS)))

"""`make torture PARTS=faults`: runs on each database, printed and counted.

LEDGER_TORTURE_SECONDS    of faults on each database; default: 60
LEDGER_TORTURE_SEED       of the first run; default: another each time, which is printed
LEDGER_TORTURE_RUNS       how many runs on each database; default: 1
LEDGER_TORTURE_DATABASES  `sqlite`, `postgresql`, or both separated by a comma, which is the default
LEDGER_TORTURE_PAUSE      of a client's session between two requests, in seconds; default: 0
LEDGER_TORTURE_RECORD     1: add the figures to tests/torture/RESULTS.md
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

from tests.kit import postgres
from tests.torture import results
from tests.torture.faults.replay import COUNTERS
from tests.torture.faults.run import Result, Setup, scratch, torture
from tests.torture.faults.servers import FAKETIME

DATABASES: Final = ("sqlite", "postgresql")


def main() -> bool:
    """Run, print and record; whether all counters are zero."""
    held = [_one(setup) for setup in _setups()]
    return all(held)


def _setups() -> Iterator[Setup]:
    seed = int(os.environ.get("LEDGER_TORTURE_SEED") or secrets.randbelow(1_000_000))
    chosen = [name for name in os.environ.get("LEDGER_TORTURE_DATABASES", "").split(",") if name] or DATABASES
    for number in range(int(os.environ.get("LEDGER_TORTURE_RUNS", "1"))):
        for database in DATABASES:
            if database in chosen or (database == "postgresql" and set(chosen) & set(postgres.KINDS)):
                yield Setup(
                    database,
                    seed + number,
                    float(os.environ.get("LEDGER_TORTURE_SECONDS", "60")),
                    Path(),
                    float(os.environ.get("LEDGER_TORTURE_PAUSE", "0")),
                )


def _one(setup: Setup) -> bool:
    print(f"\n{setup.database}, seed {setup.seed}: {setup.seconds:.0f} s of faults", flush=True)
    for text in missing(setup.database):
        print(f"NOT TESTED: {text}")
    with scratch() as folder:
        result = asyncio.run(torture(Setup(**{**asdict(setup), "folder": folder})))
    show(result)
    results.record("faults", recorded(result))
    return not (result.findings.counts or result.notes or result.figures["unresolved"])


def missing(database: str) -> Iterator[str]:
    """What cannot be done on this machine."""
    if not FAKETIME.exists():
        yield f"clocks that jump, because {FAKETIME} is missing: apt install faketime"
    if os.geteuid() != 0:
        yield "a full disk and a read-only volume, because only root may mount one"
    if database == "sqlite":
        yield "what is done to PostgreSQL itself, on SQLite"


def show(result: Result) -> None:
    """Print what came of a run."""
    for name in (*results.FAULTS, *results.COUNTED):
        print(f"{results.ABOUT.get(name, name):70}{result.figures.get(name, 0):>12,}")
    for name in COUNTERS:
        print(f"{name:70}{result.findings.counts[name]:>12,}")
    for text in (*result.findings.shown, *result.notes):
        print(f"    {text}")


def recorded(result: Result) -> dict[str, object]:
    """The figures of a run, as they are kept."""
    return {
        "database": result.database,
        "version": result.version,
        "seed": result.seed,
        "seconds": result.seconds,
        "figures": dict(result.figures),
        "counters": dict(result.findings.counts),
        "notes": [*result.findings.shown, *result.notes],
    }

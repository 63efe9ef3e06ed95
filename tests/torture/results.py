"""`RESULTS.md`, written from the figures in `results.json`, to which each recorded run adds its own.

LEDGER_TORTURE_RECORD=1 records.
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.torture.faults.replay import COUNTERS

FOLDER: Final = Path(__file__).parent
DATA: Final = FOLDER / "results.json"
PAGE: Final = FOLDER / "RESULTS.md"
WANTED: Final = {"SIGKILLs": 1000, "acknowledged decisions": 1_000_000}
KILLS: Final = ("kills of servers", "kills of PostgreSQL")
FAULTS: Final = (
    *KILLS,
    "kills of clients",
    "orderly ends of servers",
    "stops of servers",
    "stops of PostgreSQL",
    "sessions ended",
    "sessions ended in a COMMIT",
    "connections exhausted",
    "full disks",
    "ends of PostgreSQL by itself",
    "read-only volumes",
    "jumps of a clock",
    "backups",
    "dropped requests",
    "dropped answers",
    "delayed",
    "duplicated",
)
COUNTED: Final = ("acknowledged decisions", "acknowledged other", "resolved", "repeated", "unresolved", "entries")
ABOUT: Final = {
    "acknowledged other": "starts, settlements, voids, corrections and changes that were acknowledged",
    "acknowledged decisions": "decisions of runs that were acknowledged",
    "resolved": "requests without an answer, sent again under their keys at the end",
    "repeated": "acknowledged requests sent again at the end, and the answers compared",
    "unresolved": "requests that had no outcome even then",
    "entries": "entries replayed",
}


def machine() -> dict[str, str]:
    """Where and with what figures are measured."""
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        "processors": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
    }


def record(part: str, figures: Mapping[str, Any]) -> None:
    """Add figures to a part, and write the page, if runs are recorded."""
    if not os.environ.get("LEDGER_TORTURE_RECORD"):
        return
    data = json.loads(DATA.read_text()) if DATA.exists() else {}
    data.setdefault(part, []).append({**figures, "machine": machine()})
    DATA.write_text(json.dumps(data, indent=1) + "\n")
    PAGE.write_text("\n".join(page(data)) + "\n", encoding="utf-8")


def page(data: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterable[str]:
    """The lines of the page."""
    yield "# What `make torture` found"
    yield ""
    yield "Written by `make torture` with `LEDGER_TORTURE_RECORD=1`; the figures are in `results.json`."
    yield "[The promises](../../docs/explanation/promises.md) that this tries to break have their own page."
    yield from _faults(data.get("faults", ()))
    yield from _rolling(data.get("rolling", ()))
    yield from _soak(data.get("soak", ()))


def _faults(runs: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    figures: Counter[str] = Counter()
    for run in runs:
        figures.update(run["figures"])
    figures["SIGKILLs"] = sum(figures[name] for name in KILLS)
    yield from _titled("Faults", _HOW)
    yield from ("| of all runs | found | wanted |", "|---|---|---|")
    for name, least in WANTED.items():
        yield f"| {name} | {figures[name]:,} | at least {least:,} |"
    for name in COUNTERS:
        yield f"| {name} | {sum(run['counters'].get(name, 0) for run in runs):,} | 0 |"
    yield ""
    yield from ("| what was done | how often |", "|---|---|")
    for name in FAULTS:
        yield f"| {name} | {figures[name]:,} |"
    for name in COUNTED:
        yield f"| {ABOUT[name]} | {figures[name]:,} |"
    yield ""
    names = [*KILLS, "acknowledged decisions", "entries", *COUNTERS]
    heads = ["at", "database", "seed", "seconds", *names]
    yield from (f"| {' | '.join(heads)} |", "|---" * len(heads) + "|")
    for run in runs:
        found = {**run["figures"], **run["counters"]}
        cells = [run["machine"]["at"], run["version"], str(run["seed"]), f"{run['seconds']:.0f}"]
        yield f"| {' | '.join([*cells, *(f'{found.get(name, 0):,}' for name in names)])} |"
    yield ""
    yield from (note for run in runs for note in run["notes"])
    yield from _where(runs)


_HOW: Final = """\
Four servers on one database, two client processes with five sessions each, and a proxy between them.
`tests/torture/faults/__init__.py` defines the eight counters. To repeat a run, on a machine with PostgreSQL, and as
root (for volumes that can be full or read-only):

    make torture PARTS=faults LEDGER_TORTURE_DATABASES=postgresql LEDGER_TORTURE_SECONDS=400 LEDGER_TORTURE_SEED=102

A seed gives the same choices of requests and faults; when each comes depends on the machine.

**A process kill does not test a loss of power.** What a process wrote before it was killed is in the operating system,
which still writes it. Most servers are forks of a process that has imported what `privacy-ledger serve` imports; those
with another clock are started as commands."""


def _rolling(runs: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    if not runs:
        return
    yield from _titled(
        "A rolling restart",
        "Two servers behind a balancer that keeps connections and asks `/readyz` five times a second; one after the"
        " other gets SIGTERM and is started again. An answer is broken if the client's connection ended without one, or"
        " if its status is 500 or more.\n\n    make torture PARTS=rolling",
    )
    heads = ("at", "LEDGER_DRAIN_SECONDS", "answers", "restarts", "broken answers")
    yield from (f"| {' | '.join(heads)} |", "|---" * len(heads) + "|")
    for run in runs:
        cells = (run["drain_seconds"], f"{run['answers']:,}", run["restarts"], f"{run['broken']:,}")
        yield f"| {' | '.join([run['machine']['at'], *map(str, cells)])} |"
    yield ""
    yield from _where(runs)


def _soak(runs: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    if not runs:
        return
    yield from _titled(
        "A soak",
        "One server at half of what it can do, on PostgreSQL: approvals, starts and settlements at a fixed rate, timed"
        " from when each was due. Sampled every ten seconds: the mean of the first and of the last third of the time,"
        " and the slope over all of it.\n\n    make torture PARTS=soak LEDGER_SOAK_MINUTES=30\n\n![the soak](soak.svg)",
    )
    for run in runs:
        yield f"{run['minutes']:.0f} minutes at {run['rate']:.1f} requests a second ({run['machine']['at']})."
        yield ""
        yield from ("| | first third | last third | a minute |", "|---|---|---|---|")
        for name, (first, last, slope) in run["trends"].items():
            yield f"| {name} | {first:,.2f} | {last:,.2f} | {slope:+,.4f} |"
        yield ""
    yield from _where(runs)


def _titled(title: str, text: str) -> Iterable[str]:
    yield from ("", f"## {title}", "", *text.splitlines(), "")


def _where(runs: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """The machines, each once."""
    of = [{name: value for name, value in run["machine"].items() if name != "at"} for run in runs]
    for text in dict.fromkeys(", ".join(f"{name} {value}" for name, value in one.items()) for one in of):
        yield f"Measured with: {text}. Other work shared the processors."

"""That `make torture` does what it prints: some seconds of its faults on each database, and of a rolling restart."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.kit import postgres
from tests.torture import results, rolling, soak
from tests.torture.faults import report
from tests.torture.faults.replay import COUNTERS
from tests.torture.faults.run import Setup, scratch, torture

SECONDS = 3
NEEDS_BINARIES = pytest.mark.skipif("installed" not in postgres.available(), reason="no PostgreSQL to kill")


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=NEEDS_BINARIES)])
def test_some_seconds_of_faults(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Goal: killed servers, killed databases and lost answers break no promise, and every outcome is learned. Method: a
    seeded run of some seconds, without a file system of its own; the eight counters, and the table."""
    with scratch() as folder:
        setup = Setup(database, 26, SECONDS, folder, servers=2, clients=1, sessions=2, has_volume=False)
        result = asyncio.run(torture(setup))
    assert not result.findings.counts, result.findings.shown
    assert not result.notes
    assert result.figures["unresolved"] == 0
    assert result.figures["acknowledged decisions"] > 0
    assert result.figures["entries"] > result.figures["acknowledged decisions"]
    report.show(result)
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*results.FAULTS, *COUNTERS))


@pytest.mark.skipif("LEDGER_PROVE" not in os.environ, reason="takes long; run by `make prove`")
def test_a_rolling_restart() -> None:
    """Goal: behind a balancer that asks `/readyz`, servers that drain break no answer when they end. Method: some
    thousand requests while they are ended in turn; the statuses."""
    with scratch() as folder:
        statuses, restarts = asyncio.run(rolling.rolled(folder, 6000, drain_seconds=1, database="sqlite"))
    assert set(statuses) <= {200, 201}
    assert sum(statuses.values()) == 6000
    assert restarts > 0


def test_a_trend_is_the_slope_for_each_minute() -> None:
    """Goal: growth is found in noise-free samples. Method: a line by hand, six samples a minute."""
    assert soak.trend([1.0] * 9) == (1.0, 1.0, 0.0)
    first, last, slope = soak.trend([float(number) for number in range(9)])
    assert (first, last, round(slope, 9)) == (1.0, 7.0, 6.0)


def test_figures_add_up_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: runs add up, and nothing is written unless that is asked for. Method: two runs in a new folder."""
    monkeypatch.setattr(results, "DATA", tmp_path / "results.json")
    monkeypatch.setattr(results, "PAGE", tmp_path / "RESULTS.md")
    figures = {"kills of servers": 3, "kills of PostgreSQL": 2, "acknowledged decisions": 1000}
    counted = {"figures": figures, "counters": {"lost": 1}, "notes": ["a note"]}
    run = {"version": "SQLite", "seed": 1, "seconds": 9.0, **counted}
    monkeypatch.delenv("LEDGER_TORTURE_RECORD", raising=False)
    results.record("faults", run)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("LEDGER_TORTURE_RECORD", "1")
    for _ in range(2):
        results.record("faults", run)
    assert len(json.loads(results.DATA.read_text())["faults"]) == 2
    page = results.PAGE.read_text()
    assert all(
        line in page for line in ("| SIGKILLs | 10 | ", "| acknowledged decisions | 2,000 | ", "| lost | 2 | 0 |")
    )

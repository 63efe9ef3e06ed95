"""A report of as many runs as there are: made a part at a time, in memory that the text of the runs has no part in."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger.core.datasets import AccountKey
from ledger.core.journal import chain
from ledger.report import document, table, view
from ledger.report.document import Report
from ledger.report.source import Question
from ledger.report.standing import POINTS_MAX, Greatest, Point, Series
from tests.bench.report_journal import DATASET, TENANT, Journal

SAMPLE, FULL = 3000, 1_000_000
PIECE_CHARS_MAX = 256 * 1024
BYTES_OF_RUN_MAX = 700
"""What checking a journal keeps of each run: its id, state, cost and accounts. Its text has three times as many."""


def asked(made: Journal) -> Report:
    """The report of the journal."""
    return Report(Question("dataset", TENANT, "acme", dataset="events"), [made.source()])


def test_every_run_and_every_sum(tmp_path: Path, tries: Callable[[int, int], int]) -> None:
    """Goal: a long report has every run once, and its sums are those of the runs. Method: the JSON read back, against
    the entries added up here, one by one."""
    made = Journal(tries(SAMPLE // 4, SAMPLE), tmp_path)
    told = json.loads("".join(document.lines(asked(made))))
    entries = [chain.parse(sealed.body) for sealed in made.sealed()]
    decided = [entry for entry in entries if entry["kind"] in ("run-approved", "run-refused")]
    assert [(run["run"], run["seq"]) for run in told["runs"]] == [(entry["run"], entry["seq"]) for entry in decided]
    ended = {entry["run"]: entry for entry in entries if entry["kind"] in ("run-settled", "run-voided")}
    for run in told["runs"]:
        end = ended.get(run["run"])
        assert (run["ended"] is None) == (end is None)
        if end is not None:
            assert run["ended"]["seq"] == end["seq"]
            assert run["returned"]["mu_sq_pico"] == end["returned"]["mu_sq_pico"]
    (account,) = told["accounts"]
    spent = sum(int(entry["charged"]["mu_sq_pico"]) for entry in entries if entry["kind"] == "run-settled")
    held = sum(
        int(entry["cost"]["mu_sq_pico"])
        for entry in decided
        if entry["kind"] == "run-approved" and entry["run"] not in ended
    )
    assert (int(account["spent"]["mu_sq_pico"]), int(account["held"]["mu_sq_pico"])) == (spent, held)
    assert sum(int(project["spent"]["mu_sq_pico"]) for project in told["datasets"][0]["projects"]) == spent
    assert len(told["refusals"]) == sum(entry["kind"] == "run-refused" for entry in decided) > 0
    assert told["verdict"]["kept"]


def test_runs_go_out_while_they_are_read(tmp_path: Path) -> None:
    """Goal: a run is sent long before the last one is read, and no piece is large. Method: how far the journal was read
    when each piece came."""
    made = Journal(SAMPLE // 2, tmp_path)
    read_at: list[tuple[int, int]] = []
    size = 0
    for piece in document.lines(asked(made)):
        assert len(piece) <= PIECE_CHARS_MAX
        size += len(piece)
        read_at.append((size, made.given))
    of_runs = [(size_, given) for size_, given in read_at if 0 < given < made.entries]
    assert len(of_runs) > 10
    (first_size, first_given), (last_size, last_given) = of_runs[0], of_runs[-1]
    assert first_given < made.entries / 10
    # What was read and what was sent grow together: nothing is gathered.
    rate = (last_size - first_size) / (last_given - first_given)
    for size_, given in of_runs:
        assert abs(size_ - first_size - rate * (given - first_given)) < 4 * PIECE_CHARS_MAX


@pytest.mark.parametrize(("form", "sample"), [("json", SAMPLE), ("csv", SAMPLE // 6)])
def test_a_long_report_takes_little_memory(form: str, sample: int, tries: Callable[[int, int], int]) -> None:
    """Goal: a million runs stream. Method: a process of its own that makes the report and throws it away, and its peak
    of memory; what grows with the number of runs is what checking the journal has to know of each."""
    runs = tries(sample, FULL)
    command = [sys.executable, "-m", "tests.bench.report_journal", str(runs), form]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=3500, check=False
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    took: dict[str, Any] = json.loads(done.stdout)
    assert took["lines"] > runs
    assert took["piece_max"] <= PIECE_CHARS_MAX
    grown = (took["rss_peak_kib"] - took["rss_before_kib"]) * 1024
    assert grown < 32 * 2**20 + BYTES_OF_RUN_MAX * runs
    assert took["characters"] > (2000 if form == "json" else 700) * runs


def test_pages_list_the_newest_runs_and_say_so(tmp_path: Path) -> None:
    """Goal: what is to be read has the newest runs, and says how many there are. Method: a journal of more."""
    made = Journal(300, tmp_path)
    seen = view.view_of(document.parts(asked(made)))
    shown = seen.document["runs"]
    assert (len(shown), seen.totals["runs"]) == (view.RUNS_OF_DATASET_MAX, 300)
    everything = json.loads("".join(document.lines(asked(made))))["runs"]
    assert [run["run"] for run in shown] == [run["run"] for run in everything[-view.RUNS_OF_DATASET_MAX :]]
    rows = "".join(table.rows(document.parts(asked(made)))).split("\r\n")
    assert len(rows) == 300 + 2


def test_points_are_left_out_but_no_extreme(tries: Callable[[int, int], int]) -> None:
    """Goal: a figure over time has few points, and among them the first, the last, the most and the least that ever was
    counted, and every such limit. Method: random walks."""
    random_ = random.Random(1)
    for _ in range(tries(4, 200)):
        series = Series()
        spent, limit = 0, 1000
        added: list[Point] = []
        for seq in range(random_.choice((1, 10, POINTS_MAX, 5000, 12_000))):
            spent = max(0, spent + random_.randrange(-40, 60))
            limit += random_.choice((0, 0, 0, 0, 7, -5))
            added.append(Point(f"{seq:08}", seq, limit, spent, 0))
            series.add(added[-1])
        points = series.points()
        assert len(points) <= POINTS_MAX
        assert points[0] == added[0]
        assert points == sorted(points, key=lambda point: point.seq)
        assert (points[-1].spent, points[-1].limit) == (added[-1].spent, added[-1].limit)
        for choose in (min, max):
            assert choose(p.spent for p in points) == choose(p.spent for p in added)
            assert choose(p.limit for p in points) == choose(p.limit for p in added)


def test_the_greatest_of_what_changes() -> None:
    """Goal: the most that any partition has, after every change. Method: against the plain maximum."""
    random_ = random.Random(2)
    greatest, values = Greatest(), dict[AccountKey, int]()
    for _ in range(5000):
        key = AccountKey(DATASET, f"p{random_.randrange(30)}")
        values[key] = random_.randrange(100)
        greatest.put(key, values[key])
        assert greatest.top() == max(values.values())

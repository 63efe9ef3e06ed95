"""What somebody wrote takes so much room on a page and no more. Counted in characters that are set."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ledger.report import document, html, pdf, sections, view
from ledger.report.blocks import Cell, Column, Facts, Line, Paragraph, Table
from ledger.report.document import Report
from ledger.report.sections import bounds
from ledger.report.sections.bounds import CELL_CHARS_MAX, CELL_LINES_MAX, bounded, cut
from ledger.report.sections.runs import LABELS_SHOWN_MAX
from ledger.report.source import Question
from ledger.report.view import View
from tests.bench.report_journal import TENANT, Journal

LONG: dict[str, Any] = {
    "purpose": "w" * 4000,
    "labels": {f"{number:02}{'n' * 60}": "v" * 255 for number in range(64)},
    "settled_assuming": ["s" * 200] * 500,
}
"""As much as a request can say of itself, and more."""


def seen(tmp_path: Path, runs: int) -> View:
    """A report on so many runs."""
    question = Question("dataset", TENANT, "acme", dataset="events")
    return view.view_of(document.parts(Report(question, [Journal(runs, tmp_path).source()])))


def characters(page: View) -> int:
    """How many are set in tables and facts."""
    total = 0
    for block in sections.blocks(page):
        if isinstance(block, Table):
            total += sum(len(line.text) for row in block.rows for cell in row for line in cell)
        elif isinstance(block, Facts):
            total += sum(len(line.text) for _, cell in block.rows for line in cell)
    return total


def test_what_a_run_says_of_itself_takes_little_room(tmp_path: Path) -> None:
    """Goal: labels and purposes do not decide how long a report takes. Method: what is set for runs as they are, and
    for the same with all the text that they can bring; the page says that there is more, and where."""
    page = seen(tmp_path, 40)
    before = characters(page)
    for run in page.document["runs"]:
        run.update(LONG)
    brought = sum(len(json.dumps(LONG)) for _ in page.document["runs"])
    began = time.process_time()
    written = pdf.page(page)
    print(f"{time.process_time() - began:.2f} s of processor time for {len(page.document['runs'])} runs")
    assert characters(page) - before < 40 * 3 * CELL_CHARS_MAX < brought / 10
    assert len(written) < 2_000_000
    text = html.page(page)
    assert f"{64 - LABELS_SHOWN_MAX} more labels in the JSON" in text
    assert "(cut; the JSON has all of it)" in text
    assert "more lines in the JSON" in text


def test_a_cell_is_cut() -> None:
    """Goal: a cell has a bound, and says what is missing. Method: many lines, one long line, and neither."""
    lines: Cell = tuple(Line(f"line {number}") for number in range(CELL_LINES_MAX + 5))
    assert cut(lines)[:CELL_LINES_MAX] == lines[:CELL_LINES_MAX]
    assert cut(lines)[CELL_LINES_MAX].text == "… 5 more lines in the JSON"
    assert cut(lines[:CELL_LINES_MAX]) == lines[:CELL_LINES_MAX]
    (long,) = cut((Line("x" * (CELL_CHARS_MAX + 1), "mono"),))
    assert (long.text.count("x"), long.style) == (CELL_CHARS_MAX, "mono")
    assert long.text.endswith("… (cut; the JSON has all of it)")
    exact = (Line("x" * CELL_CHARS_MAX),)
    assert cut(exact) == exact


def test_tables_have_a_bound_together() -> None:
    """Goal: many long rows are left out and counted, and no table is empty. Method: more than there is room for."""
    row = (tuple(Line("y" * CELL_CHARS_MAX) for _ in range(1)),)
    count = bounds.TABLES_CHARS_MAX // CELL_CHARS_MAX
    table = Table("c", (Column("t", 1),), (row,) * (count + 10))
    first, note, second, other = bounded([table, table])
    assert isinstance(first, Table)
    assert isinstance(note, Paragraph)
    assert isinstance(second, Table)
    assert isinstance(other, Paragraph)
    assert len(first.rows) == count
    assert note.text.startswith("10 more rows")
    assert len(second.rows) == 1
    assert other.text.startswith(f"{count + 9:,} more rows")

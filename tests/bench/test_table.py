"""The table of `make bench` judges on the right side, and the page and the plot have what was measured."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.bench.table import BEGIN, END, Judgement, Row, text, write_page, write_plot


def row() -> Row:
    """A case with an odd number of rounds, and one peer."""
    return Row("approvals", "/s", [90.0, 300.0, 100.0], {"echo": [1000.0, 2000.0, 3000.0]}, (1.25, 30.0))


@pytest.mark.parametrize(
    ("judgement", "is_met"),
    [
        (Judgement.at_least(" of the echo", 0.6, 0.6), True),
        (Judgement.at_least(" of the echo", 0.6, 0.599), False),
        (Judgement.at_most(" ms", 10, 10), True),
        (Judgement.at_most(" ms", 10, 10.1), False),
    ],
)
def test_a_target_that_is_just_reached_is_met(judgement: Judgement, is_met: bool) -> None:
    """Goal: no target is judged on the wrong side. Method: each kind of target at its edge, and beyond."""
    assert judgement.is_met == is_met


def test_the_cells_of_a_row() -> None:
    """Goal: medians, spread, peers and a missed target are shown. Method: figures made by hand."""
    one = row()
    one.beside("echo", 0.6, " of the echo")
    one.beside("pgbench", 2, " of pgbench")
    one.judgements.append(Judgement.at_least("/s", 50, one.median))
    cells = one.cells()
    assert cells[:4] == ["approvals", "100/s (90 to 300)", "1.2, 30.0", "2,000"]
    assert cells[4:7] == ["", "", ""]
    assert cells[7:] == ["≥ 0.6 of the echo; ≥ 50/s", "MISSED: 0.05; met"]


def test_the_table_leaves_out_empty_columns() -> None:
    """Goal: without BASE there is no column of it. Method: a table with and without."""
    one, other = row(), row()
    assert "BASE" not in text([one])
    other.peers["BASE"] = [5.0]
    heads, rule, *lines = text([one, other]).splitlines()
    assert "BASE" in heads
    assert {len(line) for line in (heads, rule, *lines)} == {len(heads)}


def test_the_page_keeps_what_is_around_the_table(tmp_path: Path) -> None:
    """Goal: words written by hand stay, and a page without a place for the table is an error. Method: twice."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for head in ("first", r"second \1"):
        write_page(page, head, [row()])
        written = page.read_text()
        assert written.startswith(f"before\n{BEGIN}\n\n{head}\n\n| case")
        assert written.endswith(f"|\n\n{END}\nafter\n")
    page.write_text("before\n")
    with pytest.raises(SystemExit, match="0 blocks"):
        write_page(page, "third", [row()])


def test_the_plot_is_drawn_to_scale(tmp_path: Path) -> None:
    """Goal: the plot is SVG that shows each figure. Method: parse it, and compare bars."""
    file = tmp_path / "plot.svg"
    write_plot(file, "a <title>", [("half", 50.0), ("the ledger, all", 100.0), ("nothing", 0.0)])
    root = ET.fromstring(file.read_text())  # noqa: S314 (written just above)
    space = {"svg": "http://www.w3.org/2000/svg"}
    bars = [int(bar.attrib["width"]) for bar in root.findall("svg:rect", space)[1:]]
    assert bars == [420, 210, 1]
    texts = [element.text for element in root.findall("svg:text", space)]
    assert texts == ["a <title>", "the ledger, all", "100", "half", "50", "nothing", "0"]

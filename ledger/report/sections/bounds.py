"""How much of what somebody wrote is set on a page: the JSON has all of it.

Setting text takes some hundred times the processor time that sending it does, so that without bounds whoever asks for
runs decides how long a report takes. Every cell is bounded, and all of them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from ledger.report.blocks import Block, Cell, Facts, Line, Paragraph, Table

CELL_LINES_MAX: Final = 32
CELL_CHARS_MAX: Final = 2_000
"""Of a cell in a table or of a fact."""
TABLES_CHARS_MAX: Final = 1_000_000
"""Of all tables together, so long as each has a row."""
ELLIPSIS: Final = "…"


def bounded(blocks: Iterable[Block]) -> Iterator[Block]:
    """The blocks, with what is long cut, and a sentence where rows are left out."""
    left = TABLES_CHARS_MAX
    for block in blocks:
        match block:
            case Facts():
                yield replace(block, rows=tuple((name, cut(cell)) for name, cell in block.rows))
            case Table():
                rows, left = _rows(block, left)
                yield replace(block, rows=rows)
                if missing := len(block.rows) - len(rows):
                    text = f"{missing:,} more rows are left out, since the texts in them are long; the JSON has them."
                    yield Paragraph(text, "note")
            case _:
                yield block


def _rows(table: Table, left: int) -> tuple[tuple[tuple[Cell, ...], ...], int]:
    """As many rows as there is room for, one at least, and how much room is left."""
    rows: list[tuple[Cell, ...]] = []
    for row in table.rows:
        cells = tuple(map(cut, row))
        left -= sum(len(line.text) for cell in cells for line in cell)
        if left < 0 and rows:
            break
        rows.append(cells)
    return tuple(rows), max(left, 0)


def cut(cell: Cell) -> Cell:
    """A cell with as many lines and characters as are set, and how many lines more there are."""
    lines: list[Line] = []
    left = CELL_CHARS_MAX
    for number, line in enumerate(cell):
        if len(lines) == CELL_LINES_MAX or left <= 0:
            lines.append(Line(f"{ELLIPSIS} {len(cell) - number:,} lines more in the JSON", "dim"))
            break
        text = line.text if len(line.text) <= left else f"{line.text[:left]}{ELLIPSIS} (cut; the JSON has all of it)"
        lines.append(replace(line, text=text))
        left -= len(line.text)
    return tuple(lines)

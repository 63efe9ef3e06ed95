"""Bound the free text on a page. The JSON has all of it.

Typesetting a text takes some hundred times the processor time of sending it. Without bounds, the texts of requests
would decide how long a report takes. Each cell is bounded, and all of them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from ledger.report.blocks import Block, Cell, Details, Facts, Line, Paragraph, Table

CELL_LINES_MAX: Final = 32
CELL_CHARS_MAX: Final = 2_000
"""The bounds of a cell in a table or a fact."""
TABLES_CHARS_MAX: Final = 1_000_000
"""The bound of all tables together, although each has at least one row."""
ELLIPSIS: Final = "…"


def bounded(blocks: Iterable[Block]) -> Iterator[Block]:
    """Yield the blocks with long texts cut, and a sentence if rows are left out."""
    left = TABLES_CHARS_MAX
    for block in blocks:
        match block:
            case Facts():
                yield replace(block, rows=tuple((name, cut(cell)) for name, cell in block.rows))
            case Table():
                rows, left = _rows(block.rows, left)
                yield replace(block, rows=rows)
                yield from _missing(len(block.rows) - len(rows))
            case Details():
                rows, left = _rows([(cell,) for cell in block.rows], left)
                yield replace(block, rows=tuple(cell for (cell,) in rows))
                yield from _missing(len(block.rows) - len(rows))
            case _:
                yield block


def _missing(count: int) -> Iterator[Block]:
    if count:
        text = f"{count:,} more rows are left out, because their texts are long. The JSON has them."
        yield Paragraph(text, "note")


def _rows(all_rows: Sequence[tuple[Cell, ...]], left: int) -> tuple[tuple[tuple[Cell, ...], ...], int]:
    """Return as many rows as fit, at least one, and how much room is left."""
    rows: list[tuple[Cell, ...]] = []
    for row in all_rows:
        cells = tuple(map(cut, row))
        left -= sum(len(line.text) for cell in cells for line in cell)
        if left < 0 and rows:
            break
        rows.append(cells)
    return tuple(rows), max(left, 0)


def cut(cell: Cell) -> Cell:
    """Return a cell cut to its bounds, with the number of lines that were cut."""
    lines: list[Line] = []
    left = CELL_CHARS_MAX
    for number, line in enumerate(cell):
        if len(lines) == CELL_LINES_MAX or left <= 0:
            lines.append(Line(f"{ELLIPSIS} {len(cell) - number:,} more lines in the JSON", "dim"))
            break
        text = line.text if len(line.text) <= left else f"{line.text[:left]}{ELLIPSIS} (cut; the JSON has all of it)"
        lines.append(replace(line, text=text))
        left -= len(line.text)
    return tuple(lines)

"""Print rows in a table that fits its console: a number is never cut.

If a table is too wide, these happen in turn until it fits: on a terminal ids are shortened to their first eight
characters, which every command accepts; free texts are cut, with "…" at their end; and columns are left out, in the
order that the table states. `--json` always has all of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ledger.cli.show.console import out

ID_LENGTH: Final = 8
TEXT_LENGTH_MIN: Final = 16
_GAP: Final = 2
_NUMBER_AT_END: Final = re.compile(r"[-+]?[0-9][-+0-9.,e]*$")
Cell = str | Text


@dataclass(frozen=True, slots=True)
class Rows:
    """A table. Columns are named by their headers.

    right: aligned to the right. ids: can be shortened. texts: can be cut. drop: can be left out, the first first.
    """

    columns: Sequence[str]
    cells: Sequence[Sequence[Cell]]
    right: Sequence[str] = ()
    ids: Sequence[str] = ()
    texts: Sequence[str] = ()
    drop: Sequence[str] = ()


def show(rows: Rows, *, console: Console = out) -> None:
    """Print the rows, and which columns were left out."""
    table, left_out = fitted(rows, width=console.width, is_terminal=console.is_terminal)
    # If the columns that must stay are too wide, the terminal breaks the lines: Rich would cut their ends off.
    console.print(table, width=max(console.width, table.min_width or 0), crop=False)
    if left_out:
        console.print(Text(f"not shown here: {', '.join(left_out)}; a wider window or --json has them", style="dim"))


def fitted(rows: Rows, *, width: int, is_terminal: bool) -> tuple[Table, list[str]]:
    """Return the table that fits, and the columns that were left out."""
    columns = {name: [row[index] for row in rows.cells] for index, name in enumerate(rows.columns)}
    if is_terminal and _total(columns) > width:
        for name in rows.ids:
            columns[name] = [_first(cell, ID_LENGTH) for cell in columns[name]]
    left_out: list[str] = []
    cut = _cut(columns, rows.texts, width)
    for name in rows.drop:
        if _total(cut) <= width:
            break
        if name in columns:
            del columns[name]
            left_out.append(name)
            cut = _cut(columns, rows.texts, width)
    least = _total(cut) - _GAP  # none after the last column
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0), min_width=least)
    for name, cells in cut.items():
        table.add_column(
            name, justify="right" if name in rows.right else "left", no_wrap=True, min_width=_width(name, cells)
        )
    for row in zip(*cut.values(), strict=True):
        table.add_row(*row)
    return table, left_out


def _width(name: str, cells: Sequence[Cell]) -> int:
    return max([cell_len(name), *(cell_len(str(cell)) for cell in cells)])


def _total(columns: dict[str, list[Cell]]) -> int:
    return sum(_width(name, cells) for name, cells in columns.items()) + _GAP * len(columns)


def _first(cell: Cell, length: int) -> Cell:
    return str(cell)[:length]


def _cut(columns: dict[str, list[Cell]], texts: Sequence[str], width: int) -> dict[str, list[Cell]]:
    """Return the columns with the widest texts cut as far as needed and possible."""
    cut = dict(columns)
    there = [name for name in texts if name in columns]
    for name in sorted(there, key=lambda text: _width(text, columns[text]), reverse=True):
        beyond = _total(cut) - width
        if beyond <= 0:
            break
        length = max(_width(name, cut[name]) - beyond, TEXT_LENGTH_MIN)
        cut[name] = [cell if cell_len(str(cell)) <= length else _shortened(str(cell), length) for cell in cut[name]]
    return cut


def _shortened(text: str, length: int) -> str:
    """Return the beginning of a text, without a number that would be cut."""
    return f"{_NUMBER_AT_END.sub('', text[: length - 1])}…"

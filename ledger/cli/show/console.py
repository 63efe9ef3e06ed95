"""How things look to a person: tables, units, a bar of the budget. Scripts say --json and never see any of it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ledger.errors import InvalidRequest, LedgerError

BAR_WIDTH: Final = 40
ACCOUNTS_SHOWN_MAX: Final = 20
BUDGET: Final = ("epsilon", "at_delta", "slack", "mu", "delta")
"""The members of a budget, as they are read out."""
Advance = Callable[[], None]

WIDE: Final = 160
"""How wide a table may be where there is no terminal whose width counts."""

out: Final = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
err: Final = Console(stderr=True, highlight=False, soft_wrap=True, width=None if sys.stderr.isatty() else WIDE)


def number(value: float | None) -> str:
    """Four digits after the first, as a person reads them; infinity where there is no number."""
    if value is None:
        return "∞"
    if value == 0:
        return "0"
    return f"{value:.5g}"


def bar(balance: Mapping[str, Any], *, width: int = BAR_WIDTH) -> Text:
    """The budget as a bar. What adds up is mu², so the bar is divided by mu²."""
    limit, spent, held = balance["limit"], balance["spent"], balance["held"]
    whole = int(limit["mu_sq_pico"]) or 1
    filled = min(width, round(width * int(spent["mu_sq_pico"]) / whole))
    taken = min(width, round(width * (int(spent["mu_sq_pico"]) + int(held["mu_sq_pico"])) / whole))
    text = Text("█" * filled, style="red")
    text.append("▒" * (taken - filled), style="yellow")
    text.append("░" * (width - taken), style="green")
    text.append(f" {100 * int(spent['mu_sq_pico']) / whole:.1f} % spent")
    if int(held["mu_sq_pico"]):
        text.append(f", {100 * int(held['mu_sq_pico']) / whole:.1f} % held")
    return text


def new_grid() -> Table:
    """A grid of two columns: a dim name and its value."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", justify="right")
    grid.add_column()
    return grid


def new_table(*columns: str, right: Sequence[str] = ()) -> Table:
    """A table with these columns; those in `right` are aligned to the right."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        # What is to be copied must stand whole, in one line.
        whole = column in ("run", "id")
        table.add_column(column, justify="right" if column in right else "left", no_wrap=whole, min_width=36 * whole)
    return table


def remaining_text(remaining: Mapping[str, Any] | None) -> str:
    """What is left, as mu; overdrawn it is below zero, where only the digits say by how much."""
    if remaining is None:
        return "-"
    below = int(remaining["mu_sq_pico"])
    return f"-{number(math.sqrt(-below) / 1e6)}" if below < 0 else number(remaining["mu"])


def save(output: Path, text: str) -> None:
    """Writes a text to a file. Raises InvalidRequest, naming `output`."""
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{output}: {error.strerror}", field="output") from None


def counted(count: int, one: str, many: str | None = None) -> str:
    """So many of something, in words."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def error(failure: LedgerError) -> None:
    """An error in one line, its fields under it."""
    err.print(Text.assemble(("privacy-ledger: ", "red"), failure.detail))
    problems = failure.facts.get("errors", ())
    for problem in problems if isinstance(problems, list) and len(problems) > 1 else ():
        err.print(f"    {problem['field']}: {problem['message']}", markup=False)


@contextmanager
def progress(what: str, *, quiet: bool) -> Iterator[Advance]:
    """Shows that long work goes on, on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed:,}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as display:
        task = display.add_task(what, total=None)
        yield lambda: display.advance(task)

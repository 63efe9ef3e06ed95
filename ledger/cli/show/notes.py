"""Print what an answer assumes about batches, their expected size, and its warnings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from ledger.cli.show.console import number, out
from ledger.client.sampling import POISSON, is_poisson

COUNTED_FROM: Final = 1000
"""From here on, expected batch sizes are shown without decimals."""
_OTHERWISE: Final = "    If your loader shuffles, say --sampling shuffle; if its batches have one size, fixed_size."


def expected_batch(grid: Table, answer: Mapping[str, Any]) -> None:
    """Add how many units a batch has on average, if that is known."""
    batch = answer.get("expected_batch")
    if batch is None:
        return
    least = f"{_count(batch['least'])} to " if "least" in batch else ""
    grid.add_row("batch", f"{least}{_count(batch['size'])} of {batch['units']:,} units on average")


def _count(units: float) -> str:
    return f"{units:,.0f}" if units >= COUNTED_FROM else number(units)


def notes(answer: Mapping[str, Any], declared: Mapping[str, Any] | None = None) -> None:
    """Print the assumption about Poisson batches, if the mechanism declares them, and the warnings."""
    if declared is not None and is_poisson(declared):
        out.print(POISSON)
        out.print(_OTHERWISE)
    warnings(answer)


def warnings(answer: Mapping[str, Any]) -> None:
    """Print the warnings of an answer."""
    for text in answer.get("warnings", ()):
        out.print(Text.assemble(("warning", "bold yellow"), f": {text}"))

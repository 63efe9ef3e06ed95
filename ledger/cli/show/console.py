"""Print for a person: tables, units, a bar of the budget. With --json, scripts never see any of it."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import FileSizeColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ledger.core.amounts import percent_of
from ledger.errors import InvalidRequest, LedgerError

BAR_WIDTH: Final = 40
ACCOUNTS_SHOWN_MAX: Final = 20
BUDGET: Final = ("epsilon", "at_delta", "slack", "mu", "delta")
"""The members of a budget, in the order in which they are printed."""
Advance = Callable[[], None]

WIDE: Final = 160
"""The width of a table if the output is not a terminal."""

_INVISIBLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
"""Characters that a terminal obeys, hides or moves instead of showing: control characters, including those that begin
an escape sequence; marks that turn the direction of writing; characters without width; half a surrogate pair."""


def visible(text: str) -> str:
    """Return a text in which every character is visible. Others are escaped as in JSON, such as \\u001b. Lines stay."""
    return _INVISIBLE.sub(lambda found: _escaped(found.group()), text)


def _escaped(character: str) -> str:
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else json.dumps(character)[1:-1]


def in_one_line(value: Any) -> Any:
    """Return the value with every text in one line: a foreign text must not look like a line of this program."""
    match value:
        case str():
            return visible(value).replace("\n", "\\n").replace("\t", "\\t")
        case Mapping():
            return {in_one_line(name): in_one_line(item) for name, item in value.items()}
        case list() | tuple():
            return [in_one_line(item) for item in value]
        case _:
            return value


class _Console(Console):
    """A console without markup, which makes every character visible."""

    def __init__(self, *, is_terminal: bool, stderr: bool = False) -> None:
        width = None if is_terminal else WIDE
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


out: Final = _Console(is_terminal=sys.stdout.isatty())
err: Final = _Console(is_terminal=sys.stderr.isatty(), stderr=True)


def plain(text: str, *, end: str = "\n", file: TextIO | None = None) -> None:
    """Print a text with every character visible, without breaking its lines."""
    print(visible(text), end=end, file=file, flush=True)


def print_json(value: Any, *, default: Callable[[Any], Any] | None = None) -> None:
    """Print JSON in one line. Characters that must not reach a terminal are escaped; it is still the same JSON."""
    plain(json.dumps(value, ensure_ascii=False, default=default))


NO_EPSILON: Final = "none (its delta is not smaller)"
"""In place of an epsilon at a delta that is not above the delta of the amount."""


def number(value: float | None) -> str:
    """Return a number with five digits, as a person reads it; for None, which is an epsilon that does not hold, why."""
    if value is None:
        return NO_EPSILON
    if value == 0:
        return "0"
    return f"{value:.5g}"


def up(value: float | None) -> str:
    """Return a number with five digits, rounded up: what is spent or asked for is never shown as less."""
    return _rounded(value, ROUND_CEILING)


def down(value: float | None) -> str:
    """Return a number with five digits, rounded down: what is left is never shown as more."""
    return _rounded(value, ROUND_FLOOR)


def _rounded(value: float | None, rounding: str) -> str:
    if value is None or not math.isfinite(value) or math.isclose(value, float(number(value)), rel_tol=_EXACT):
        return number(value)
    return number(float(Context(prec=5, rounding=rounding).create_decimal(repr(value))))


def percent(value: float | None) -> str:
    """Return a percent, which the server rounded."""
    return "-" if value is None else f"{value:.4g} %"


def epsilons(shown: Sequence[Mapping[str, Any]], name: str = "value", *, rounded: Callable[[float], str] = up) -> str:
    """Return epsilons with their deltas in one line; none if there is nothing to show."""
    known = [(item[name], item["delta"]) for item in shown if name in item]
    return ", ".join(
        f"epsilon {'∞' if value is None else rounded(value)} at delta {number(delta)}" for value, delta in known
    )


_EXACT: Final = 1e-9
"""A number that is so close to five digits is those: an epsilon of 3 is kept as a limit in units of 1e-12 of mu²."""
ADD_UP: Final = "Percents add up; epsilon and mu do not."
"""What to know of the three, beside each of them."""


def bar(balance: Mapping[str, Any], *, width: int = BAR_WIDTH) -> Text:
    """Return the budget as a bar, divided by mu², which is what adds up."""
    limit, spent, held = balance["limit"], balance["spent"], balance["held"]
    whole = int(limit["mu_sq_pico"]) or 1
    filled = min(width, round(width * int(spent["mu_sq_pico"]) / whole))
    taken = min(width, round(width * (int(spent["mu_sq_pico"]) + int(held["mu_sq_pico"])) / whole))
    text = Text("█" * filled, style="red")
    text.append("▒" * (taken - filled), style="yellow")
    text.append("░" * (width - taken), style="green")
    text.append(f" {percent(percent_of(int(spent['mu_sq_pico']), whole, up=True))} spent")
    if int(held["mu_sq_pico"]):
        text.append(f", {percent(percent_of(int(held['mu_sq_pico']), whole, up=True))} held")
    return text


def new_grid() -> Table:
    """Return a grid of two columns: a dim name and its value."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", justify="right")
    grid.add_column(overflow="fold")
    return grid


def new_table(*columns: str, right: Sequence[str] = ()) -> Table:
    """Return a table with these columns; those in `right` are aligned to the right."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        # Ids are copied, so they must not be cut or broken. Numbers must not be either: texts are, instead.
        whole = column in ("run", "id")
        justify: Literal["left", "right"] = "right" if column in right else "left"
        table.add_column(column, justify=justify, no_wrap=whole or column in right, min_width=36 * whole)
    return table


def remaining_text(remaining: Mapping[str, Any] | None) -> str:
    """Return what remains, as mu, rounded down. If it is overdrawn, a minus sign and the root of the overdrawn mu²."""
    if remaining is None:
        return "-"
    below = int(remaining["mu_sq_pico"])
    return f"-{up(math.sqrt(-below) / 1e6)}" if below < 0 else down(remaining["mu"])


def save(output: Path, text: str) -> None:
    """Write a text to a file. Raises InvalidRequest for the field `output`."""
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{output}: {error.strerror}", field="output") from None


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun, such as "2 keys"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def error(failure: LedgerError) -> None:
    """Print an error, with its further lines and fields indented, so that none looks like a line of this program."""
    err.print(Text.assemble(("privacy-ledger: ", "red"), visible(failure.detail).replace("\n", "\n    ")))
    calls, run = failure.facts.get("next"), in_one_line(str(failure.facts.get("run", "")))
    for call in calls if isinstance(calls, list) else ():
        err.print(f"    privacy-ledger {in_one_line(str(call))} {run}")
    problems = in_one_line(failure.facts.get("errors", ()))
    for problem in problems if isinstance(problems, list) and len(problems) > 1 else ():
        err.print(f"    {problem['field']}: {problem['message']}")


@contextmanager
def progress(what: str, *, quiet: bool) -> Iterator[Advance]:
    """Show on a terminal that a long task is running. Call what it yields once for each item."""
    if quiet or not sys.stderr.isatty():
        yield lambda: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed:,}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as display:
        task = display.add_task(what, total=None)
        yield lambda: display.advance(task)


class Received:
    """A binary file that counts what is written to it, for `receiving`."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        self._file, self._advance = file, advance

    def write(self, data: bytes) -> int:
        """Write, and advance the progress by the bytes."""
        size = self._file.write(data)
        self._advance(len(data))
        return size


@contextmanager
def receiving(what: str, file: BinaryIO, *, quiet: bool) -> Iterator[Received]:
    """Show on a terminal that an answer is awaited, and then how much of it arrived. Write to what it yields.

    quiet: show nothing, because the answer itself goes to the terminal or a script reads it.
    """
    if quiet or not sys.stderr.isatty():
        yield Received(file, lambda _: None)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), FileSizeColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as display:
        task = display.add_task(what, total=None)
        yield Received(file, lambda size: display.advance(task, size))

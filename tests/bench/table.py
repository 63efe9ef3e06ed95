"""The table of `make bench`: its rows, how they are judged, and the page and the plot that are written from it."""

from __future__ import annotations

import html
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

BEGIN: Final = "<!-- the table of make bench -->"
END: Final = "<!-- the end of the table -->"
HEADS: Final = (
    *("case", "median (least to most)", "p50, p99, ms", "echo", "transaction", "pgbench", "BASE"),
    *("target", "result"),
)
PEERS: Final = ("echo", "transaction", "pgbench", "BASE")


@dataclass(frozen=True, slots=True)
class Judgement:
    """A target, the figure that it is about, and whether that reaches it."""

    target: str
    figure: str
    is_met: bool

    @classmethod
    def at_least(cls, what: str, least: float, value: float) -> Judgement:
        """A target that a value must reach, such as "0.6 of the echo"."""
        return cls(f"≥ {_number(least)}{what}", _number(value), value >= least)

    @classmethod
    def at_most(cls, what: str, most: float, value: float) -> Judgement:
        """A target that a value must not exceed."""
        return cls(f"≤ {_number(most)}{what}", _number(value), value <= most)


@dataclass(slots=True)
class Row:
    """One case: the figures of its rounds, of each peer, and the milliseconds of its requests."""

    case: str
    unit: str
    values: list[float] = field(default_factory=list)
    peers: dict[str, list[float]] = field(default_factory=dict)
    percentiles_ms: tuple[float, float] | None = None
    judgements: list[Judgement] = field(default_factory=list)
    note: str = "reported"

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.values)

    def peer(self, name: str) -> float | None:
        """The median of a peer's rounds."""
        return statistics.median(self.peers[name]) if self.peers.get(name) else None

    def beside(self, name: str, least: float, what: str) -> None:
        """Judge the ratio to a peer that was measured."""
        if (peer := self.peer(name)) is not None:
            self.judgements.append(Judgement.at_least(what, least, self.median / peer))

    def cells(self) -> list[str]:
        """The cells, in the order of the heads."""
        shown = f"{_number(self.median)}{self.unit}"
        if len(self.values) > 1:
            shown += f" ({_number(min(self.values))} to {_number(max(self.values))})"
        times = "" if self.percentiles_ms is None else ", ".join(f"{value:.1f}" for value in self.percentiles_ms)
        peers = [_number(value) if (value := self.peer(name)) is not None else "" for name in PEERS]
        targets = "; ".join(one.target for one in self.judgements)
        results = "; ".join("met" if one.is_met else f"MISSED: {one.figure}" for one in self.judgements)
        return [self.case, shown, times, *peers, targets, results or self.note]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def text(rows: Sequence[Row]) -> str:
    """The table in Markdown, aligned, so that a terminal shows it as well as a page. Columns without figures are left
    out."""
    lines = [list(HEADS), *(row.cells() for row in rows)]
    used = [column for column in range(len(HEADS)) if any(line[column] for line in lines[1:])]
    widths = {column: max(len(line[column]) for line in lines) for column in used}
    rule = "|".join(["", *("-" * (widths[column] + 2) for column in used), ""])
    shown = [f"| {' | '.join(line[column].ljust(widths[column]) for column in used)} |" for line in lines]
    return "\n".join([shown[0], rule, *shown[1:]])


def write_page(page: Path, head: str, rows: Sequence[Row]) -> None:
    """Replace the marked block of a page."""
    block = f"{BEGIN}\n\n{head}\n\n{text(rows)}\n\n{END}"
    written, count = re.subn(f"{BEGIN}.*{END}", lambda _: block, page.read_text(encoding="utf-8"), flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"{page} has {count} blocks between {BEGIN} and {END}")
    page.write_text(written, encoding="utf-8")


def write_plot(file: Path, title: str, bars: Sequence[tuple[str, float]]) -> None:
    """Write bars as SVG, the longest first."""
    most, height, left, width = max(value for _, value in bars), 26, 230, 420
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{height * (len(bars) + 2)}" '
        'font-family="sans-serif" font-size="14">',
        f"<title>{html.escape(title)}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20" font-weight="bold">{html.escape(title)}</text>',
    ]
    for place, (name, value) in enumerate(sorted(bars, key=lambda bar: -bar[1]), start=1):
        top, length = height * place + 10, max(1, round(width * value / most))
        fill = "#3f51b5" if name.startswith("the ledger") else "#b0b4c8"
        lines += [
            f'<text x="{left - 8}" y="{top + 15}" text-anchor="end">{html.escape(name)}</text>',
            f'<rect x="{left}" y="{top}" width="{length}" height="{height - 6}" fill="{fill}"/>',
            f'<text x="{left + length + 6}" y="{top + 15}">{value:,.0f}</text>',
        ]
    file.write_text("\n".join([*lines, "</svg>", ""]), encoding="utf-8")

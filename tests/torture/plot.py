"""Lines over time as SVG, one panel for each quantity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

WIDTH: Final = 760
PANEL: Final = 90
LEFT: Final = 60


def write_lines(file: Path, title: str, minutes_each: float, series: Mapping[str, Sequence[float]]) -> None:
    """Write the panels, each from zero to its largest value."""
    height = 40 + (PANEL + 30) * len(series) + 20
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="10" y="20" font-size="14">{escape(title)}</text>',
    ]
    for number, (name, values) in enumerate(series.items()):
        lines += _panel(name, values, 40 + number * (PANEL + 30))
    minutes = minutes_each * max(map(len, series.values()), default=0)
    lines.append(f'<text x="{WIDTH - 10}" y="{height - 6}" text-anchor="end">{minutes:.0f} minutes</text>')
    file.write_text("\n".join([*lines, "</svg>", ""]), encoding="utf-8")


def _panel(name: str, values: Sequence[float], top: int) -> list[str]:
    most = max(values, default=0.0) or 1.0
    step = (WIDTH - LEFT - 20) / max(1, len(values) - 1)
    base = top + 15 + PANEL
    points = " ".join(f"{LEFT + i * step:.1f},{base - value / most * PANEL:.1f}" for i, value in enumerate(values))
    return [
        f'<text x="{LEFT}" y="{top + 8}">{escape(name)}</text>',
        f'<text x="{LEFT - 5}" y="{top + 24}" text-anchor="end">{most:,.4g}</text>',
        f'<text x="{LEFT - 5}" y="{base}" text-anchor="end">0</text>',
        f'<line x1="{LEFT}" y1="{base}" x2="{WIDTH - 20}" y2="{base}" stroke="#999"/>',
        f'<polyline fill="none" stroke="#06c" points="{points}"/>',
    ]

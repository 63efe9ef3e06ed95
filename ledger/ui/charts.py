"""Figures as SVG, made from a few numbers, each with a text alternative. Colours are classes of the style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from markupsafe import Markup

_WIDTH: Final = 1000
_HEIGHT: Final = 260
_LEFT: Final = 56
_BOTTOM: Final = 28
_TOP: Final = 10
_STEPS: Final = (1, 2, 2.5, 5, 10)


class Point(NamedTuple):
    """A moment, in microseconds, its words, and the values of a budget then; None: not known."""

    at_us: int
    at: str
    spent: float | None
    taken: float | None
    limit: float | None


class Cell(NamedTuple):
    """A partition: its name, and what is spent and held of it in percent."""

    name: str
    taken: float


def bar(spent: float | None, held: float | None, label: str) -> Markup:
    """Return a bar of what is spent and held, in percent of a limit. label: the same in words."""
    first = _share(spent)
    second = min(_share(held), _WIDTH - first)
    return Markup(
        '<svg class="bar" viewBox="0 0 {0} 20" preserveAspectRatio="none" role="img" aria-label="{1}">'
        '<rect class="track" width="{0}" height="20"></rect>'
        '<rect class="spent" width="{2:.1f}" height="20"></rect>'
        '<rect class="held" x="{2:.1f}" width="{3:.1f}" height="20"></rect></svg>'
    ).format(_WIDTH, label, first, second)


def _share(value: float | None) -> float:
    return 0.0 if value is None else _WIDTH * min(max(value, 0.0), 100.0) / 100


def over_time(points: Sequence[Point], *, label: str, unit: str, ceiling: float | None = None) -> Markup:
    """Return what was spent and held over time against the limit, as steps. label: the same in words, shortly."""
    known = [point for point in points if point.taken is not None]
    if len(known) < 2:
        return Markup("")
    highest = max(value for point in known for value in (point.taken, point.limit, ceiling) if value is not None)
    scale = _Scale(known[0].at_us, known[-1].at_us, _top(highest))
    taken, spent = (
        _steps(scale, [(point.at_us, value) for point, value in pairs if value is not None])
        for pairs in ([(point, point.taken) for point in known], [(point, point.spent) for point in known])
    )
    limit = _steps(scale, [(point.at_us, point.limit) for point in known if point.limit is not None])
    base = f"L{scale.x(known[-1].at_us):.1f},{scale.y(0):.1f}L{scale.x(known[0].at_us):.1f},{scale.y(0):.1f}Z"
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, label),
        _grid(scale, unit),
        Markup('<path class="held-area" d="{}{}"></path>').format(taken, base),
        Markup('<path class="area" d="{}{}"></path>').format(spent, base),
        Markup('<path class="curve-held" d="{}"></path>').format(taken),
        Markup('<path class="curve" d="{}"></path>').format(spent),
        Markup('<path class="limit-line" d="{}"></path>').format(limit),
    ]
    if ceiling is not None:
        parts.append(
            Markup('<path class="ceiling-line" d="M{:.1f},{:.1f}H{}"></path>').format(
                float(_LEFT), scale.y(ceiling), _WIDTH
            )
        )
    parts.append(_dates(known))
    return Markup("").join([*parts, Markup("</svg>")])


class _Scale(NamedTuple):
    first_us: int
    last_us: int
    top: float

    def x(self, at_us: int) -> float:
        whole = max(self.last_us - self.first_us, 1)
        return _LEFT + (_WIDTH - _LEFT - 8) * (at_us - self.first_us) / whole

    def y(self, value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - min(max(value, 0.0), self.top) / self.top)


def _top(highest: float) -> float:
    """Return a round number that is not below the highest value."""
    if highest <= 0 or not math.isfinite(highest):
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    return next((power * step for step in _STEPS if power * step >= highest), 10 * power)


def _steps(scale: _Scale, values: Sequence[tuple[int, float]]) -> str:
    """Return a path that keeps each value until the next one."""
    if not values:
        return ""
    first_us, first = values[0]
    path = [f"M{scale.x(first_us):.1f},{scale.y(first):.1f}"]
    path += [f"H{scale.x(at_us):.1f}V{scale.y(value):.1f}" for at_us, value in values[1:]]
    return "".join(path)


def _grid(scale: _Scale, unit: str) -> Markup:
    lines = []
    for part in range(5):
        value = scale.top * part / 4
        y = scale.y(value)
        lines.append(
            Markup('<line class="axis" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"></line>').format(_LEFT, _WIDTH, y, y)
        )
        lines.append(
            Markup('<text x="{}" y="{:.1f}" text-anchor="end">{:g}{}</text>').format(_LEFT - 6, y + 4, value, unit)
        )
    return Markup("").join(lines)


def _dates(points: Sequence[Point]) -> Markup:
    y = _HEIGHT - 8
    first, last = points[0], points[-1]
    return Markup('<text x="{}" y="{}">{}</text><text x="{}" y="{}" text-anchor="end">{}</text>').format(
        _LEFT, y, first.at[:16].replace("T", " "), _WIDTH - 8, y, f"{last.at[:16].replace('T', ' ')} UTC"
    )


_COLUMNS: Final = 25
_CELL: Final = 40


def heat(cells: Sequence[Cell], *, label: str) -> Markup:
    """Return partitions as cells whose shade is how full each is. A table has the same in numbers."""
    rows = -(-len(cells) // _COLUMNS)
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            _COLUMNS * _CELL, rows * _CELL, label
        )
    ]
    for index, cell in enumerate(cells):
        row, column = divmod(index, _COLUMNS)
        shade = min(4, int(max(cell.taken, 0.0) // 20)) if cell.taken < 100 else 5
        parts.append(
            Markup(
                '<rect class="heat heat-{}" x="{}" y="{}" width="{}" height="{}" rx="4"><title>{}</title></rect>'
            ).format(shade, column * _CELL + 1, row * _CELL + 1, _CELL - 2, _CELL - 2, f"{cell.name}: {cell.taken:g} %")
        )
    return Markup("").join([*parts, Markup("</svg>")])

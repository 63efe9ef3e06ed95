"""Draw the figures of a report from the numbers in its JSON.

This uses Matplotlib's objects, without the state of pyplot. The same numbers give the same bytes: names inside an SVG
come from a fixed salt, and no file has a date. The colours are those of Okabe and Ito, which most colour-blind people
can distinguish; line styles and hatches repeat what they show.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, assert_never

import matplotlib
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator, NullLocator

from ledger.report.blocks import Figure

DPI: Final = 220
WIDTH_INCHES: Final = 6.7
HALF_INCHES: Final = 3.3
BARS_MAX: Final = 10
NAME_SHOWN_MAX: Final = 28
LEAST_DAYS: Final = 1 / 86_400_000
"""The shortest time axis, in days: a millisecond."""
SPENT, HELD, LIMIT, GUIDE = "#0072B2", "#E69F00", "#D55E00", "#666666"
_STYLE: Final[Any] = {
    "svg.hashsalt": "privacy-ledger",
    "svg.fonttype": "path",
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#444444",
    "axes.unicode_minus": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "timezone": "UTC",
}
# Matplotlib's styles and text caches are shared by all threads of the process.
_one_at_a_time: Final = threading.Lock()

Format = Literal["svg", "png"]


def draw(figure: Figure, form: Format) -> bytes:
    """Return a figure as an SVG, or as a PNG of DPI dots per inch."""
    with _one_at_a_time, matplotlib.rc_context(_STYLE):
        drawing = _drawn(figure)
        file = io.BytesIO()
        drawing.savefig(file, format=form, dpi=DPI, metadata=_NOTHING_SAID[form])
        return file.getvalue()


_NOTHING_SAID: Final[dict[Format, dict[str, None]]] = {
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "png": {"Software": None},
}


def _drawn(figure: Figure) -> Drawing:
    width = HALF_INCHES if figure.is_half else WIDTH_INCHES
    match figure.kind:
        case "burn_down":
            return _burn_down(_sheet(width, 2.5), figure)
        case "projects":
            bars = min(len(figure.data), BARS_MAX + 1)
            return _projects(_sheet(width, 0.85 + 0.27 * bars), figure)
        case "trade_off":
            return _trade_off(_sheet(width, 3.1), figure)
        case "epsilon":
            return _epsilon(_sheet(width, 3.1), figure)
        case _:
            assert_never(figure.kind)


def _sheet(width: float, height: float) -> Drawing:
    return Drawing(figsize=(width, height), dpi=DPI, layout="constrained")


def _mu_sq(digits: str) -> float:
    return int(digits) / 1e12


def _unit(figure: Figure, text: str) -> str:
    return f"{text}, estimated" if figure.is_estimate else text


def _burn_down(drawing: Drawing, figure: Figure) -> Drawing:
    """Draw a balance over time, as steps: it does not change between entries."""
    axes = drawing.add_subplot()
    points: Sequence[Mapping[str, Any]] = figure.data
    moments = [_moment(point["at"]) for point in points]
    end = moments[-1] if figure.as_of is None else _moment(figure.as_of)
    # If everything happened at one moment, widen the axis so that there is something to see.
    moments.append(max(end, moments[0] + LEAST_DAYS, moments[-1]))
    spent, held, limit = (
        [_mu_sq(point[f"{name}_mu_sq_pico"]) for point in (*points, points[-1])] for name in ("spent", "held", "limit")
    )
    both = [one + other for one, other in zip(spent, held, strict=True)]
    axes.fill_between(moments, spent, step="post", color=SPENT, alpha=0.85, linewidth=0, label="spent")
    axes.fill_between(
        moments, spent, both, step="post", facecolor=HELD, edgecolor="#7A5300", hatch="////", alpha=0.75, linewidth=0,
        label="held",
    )  # fmt: skip
    axes.step(moments, limit, where="post", color=LIMIT, linestyle=(0, (5, 2)), linewidth=1.4, label="limit")
    axes.set_ylim(0, max(*limit, *both) * 1.06 or 1)
    axes.set_ylabel(_unit(figure, "mu² (adds up over runs)"))
    axes.set_xlabel("time (UTC)")
    locator: Any = AutoDateLocator(minticks=3, maxticks=8)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.set_xlim(moments[0], moments[-1])
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    _legend_above(axes, columns=3)
    return drawing


def _moment(text: str) -> Any:
    """Return a time in days, as the axes count it."""
    when = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    return date2num(when)  # type: ignore[no-untyped-call]


def _projects(drawing: Drawing, figure: Figure) -> Drawing:
    """Draw the projects that used most, and the others together."""
    axes = drawing.add_subplot()
    sums = [
        (
            "no project" if item["project"] is None else _short(item["project"]),
            _mu_sq(item["spent"]["mu_sq_pico"]),
            _mu_sq(item["held"]["mu_sq_pico"]),
        )
        for item in figure.data
    ]
    sums.sort(key=lambda row: -(row[1] + row[2]))
    most, rest = sums[:BARS_MAX], sums[BARS_MAX:]
    if rest:
        most.append((f"{len(rest)} others", sum(row[1] for row in rest), sum(row[2] for row in rest)))
    places = list(range(len(most)))
    spent, held = [row[1] for row in most], [row[2] for row in most]
    axes.barh(places, spent, height=0.62, color=SPENT, label="spent")
    axes.barh(places, held, left=spent, height=0.62, color=HELD, hatch="////", edgecolor="#7A5300", linewidth=0,
              label="held")  # fmt: skip
    axes.set_yticks(places, [row[0] for row in most])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(_unit(figure, "mu² (adds up over runs)"))
    axes.set_xlim(0, max((one + other for one, other in zip(spent, held, strict=True)), default=0) * 1.05 or 1)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    _legend_above(axes, columns=2)
    return drawing


def _short(name: str) -> str:
    return name if len(name) <= NAME_SHOWN_MAX else f"{name[: NAME_SHOWN_MAX - 1]}…"


def _trade_off(drawing: Drawing, figure: Figure) -> Drawing:
    axes = drawing.add_subplot()
    errors = [float(number) for number in figure.data["type_i_error"]]
    axes.plot([0, 1], [1, 0], color=GUIDE, linestyle=":", linewidth=1.2, label="perfect privacy")
    axes.plot(errors, _floats(figure.data["spent"]), color=SPENT, linewidth=1.6, label="spent")
    axes.plot(errors, _floats(figure.data["limit"]), color=LIMIT, linestyle=(0, (5, 2)), linewidth=1.4, label="limit")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.set_xlabel("type I error (false positives)")
    axes.set_ylabel(_unit(figure, "least type II error (misses)"))
    axes.grid()
    axes.set_axisbelow(True)
    axes.legend(loc="upper right")
    return drawing


def _epsilon(drawing: Drawing, figure: Figure) -> Drawing:
    axes = drawing.add_subplot()
    deltas = [float(number) for number in figure.data["delta"]]
    axes.plot(deltas, _floats(figure.data["spent"]), color=SPENT, linewidth=1.6, label="spent")
    axes.plot(deltas, _floats(figure.data["limit"]), color=LIMIT, linestyle=(0, (5, 2)), linewidth=1.4, label="limit")
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(deltas[0], deltas[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("delta")
    axes.set_ylabel(_unit(figure, "epsilon"))
    axes.grid()
    axes.set_axisbelow(True)
    axes.legend(loc="upper right")
    return drawing


def _floats(values: Sequence[Any]) -> list[float]:
    """Return NaN, which is not drawn, if no epsilon holds."""
    return [math.nan if value is None else float(value) for value in values]


def _legend_above(axes: Axes, *, columns: int) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=columns, borderaxespad=0.2)

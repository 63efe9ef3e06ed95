"""How answers look in a notebook: as a table of their facts. Everything that a server sent is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

ROWS_MAX: Final = 50
"""How many rows a table shows."""
TEXT_MAX: Final = 500
_LEFT: Final = "style='text-align:left'"

Row = tuple[str, Any]


class Shown(dict[str, Any]):
    """The object of an answer: a dictionary that notebooks show as a table."""

    def to_html(self) -> str:
        """Return the table."""
        return table(_rows(self))

    _repr_html_ = to_html


def table(rows: Iterable[Row], *, title: str = "") -> str:
    """Return an HTML table of names and values, with an optional title."""
    shown = list(rows)
    lines = [
        f"<tr><th {_LEFT}>{escape(name)}</th><td {_LEFT}>{escape(text(value))}</td></tr>"
        for name, value in shown[:ROWS_MAX]
    ]
    if len(shown) > ROWS_MAX:
        lines.append(f"<tr><td colspan='2'>and {len(shown) - ROWS_MAX} more</td></tr>")
    caption = f"<caption {_LEFT}>{escape(title)}</caption>" if title else ""
    return f"<table>{caption}{''.join(lines)}</table>"


def text(value: Any) -> str:
    """Return a value as a person reads it, in one line."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case Mapping() if "mu" in value:
            delta = f", delta {text(value['delta'])}" if "delta" in value else ""
            return f"mu {text(value['mu'])}{delta}"
        case Mapping():
            whole = ", ".join(f"{name} {text(item)}" for name, item in value.items())
        case str():
            whole = value
        case Sequence():
            whole = "; ".join(text(item) for item in value)
        case _:
            whole = str(value)
    return whole if len(whole) <= TEXT_MAX else f"{whole[:TEXT_MAX]}…"


def _rows(answer: Mapping[str, Any], prefix: str = "") -> Iterable[Row]:
    """Yield the facts of an answer: those that it has, and those of its balance."""
    for name, value in answer.items():
        label = f"{prefix}{name}".replace("_", " ")
        if name == "receipt":
            continue  # a signed text of a thousand characters
        if name in ("balance", "request") and isinstance(value, Mapping):
            yield from _rows(value, "" if name == "request" else "balance ")
        else:
            yield label, value

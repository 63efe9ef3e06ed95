"""The blocks of a readable report: headings, tables, facts, figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Tone = Literal["plain", "good", "bad", "note"]
LineStyle = Literal["plain", "strong", "mono", "dim"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a cell."""

    text: str
    style: LineStyle = "plain"


Cell = tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading, of level 1 for a part and 2 within one. anchor: its name in the page."""

    level: Literal[1, 2]
    text: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, its relative width, and whether it has numbers."""

    title: str
    width: float
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table. is_listing: its first column names the row."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about one thing, as pairs of a name and a value."""

    rows: tuple[tuple[str, Cell], ...]


@dataclass(frozen=True, slots=True)
class Details:
    """Small print: a paragraph for each thing, its lines one after another."""

    rows: tuple[Cell, ...]


FigureKind = Literal["burn_down", "projects", "trade_off", "epsilon"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a dataset. data: the part of the document that it shows. is_half: it takes half the width."""

    kind: FigureKind
    caption: str
    data: Any
    is_estimate: bool
    as_of: str | None
    is_half: bool = False


Block = Heading | Paragraph | Table | Facts | Details | Figure


def line(text: str, style: LineStyle = "plain") -> Cell:
    """Return a cell of one line."""
    return (Line(text, style),)

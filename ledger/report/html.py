"""A report as one self-contained HTML file: it loads nothing, runs nothing, and shows all texts as plain text."""

from __future__ import annotations

from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from ledger.report import sections
from ledger.report.blocks import Block, Figure, Heading, Table
from ledger.report.figures import draw
from ledger.report.sections import verdict
from ledger.report.sections.plain import plain
from ledger.report.view import View

TEMPLATE: Final = "report.html.j2"


def page(view: View) -> str:
    """Return the whole file."""
    document = view.document
    blocks = list(sections.blocks(view))
    return _template().render(
        title=verdict.title(document),
        subject=verdict.subject(document),
        document=document,
        period=verdict.period(document),
        tone=verdict.tone(document),
        cover=verdict.cover(view),
        plain=plain(view),
        summary=verdict.summary(view),
        groups=_side_by_side(blocks),
        parts=[block for block in blocks if isinstance(block, Heading) and block.level == 1],
        drawn=_drawn,
        widths=_widths,
        kind=lambda block: type(block).__name__.lower(),
    )


@cache
def _template() -> Template:
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(TEMPLATE)


def _side_by_side(blocks: list[Block]) -> list[tuple[bool, list[Block]]]:
    """Group the blocks, in order: consecutive half figures together."""
    return [
        (is_half, list(group))
        for is_half, group in groupby(blocks, key=lambda block: isinstance(block, Figure) and block.is_half)
    ]


def _widths(table: Table) -> list[str]:
    """Return the widths of the columns in percent."""
    whole = sum(column.width for column in table.columns)
    return [f"{100 * column.width / whole:.2f}" for column in table.columns]


def _drawn(figure: Figure) -> Any:
    """Return the figure as an SVG element. It is drawn here, and Matplotlib escapes the names in it."""
    text = draw(figure, "svg").decode()
    element = text[text.index("<svg") :]
    return Markup(element)  # noqa: S704

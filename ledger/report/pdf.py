"""A report as a PDF: a title page with the verdict, bookmarks, page numbers, embedded fonts.

The file has no date, so the same document gives the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

import matplotlib
from reportlab.lib import colors
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    BaseDocTemplate,
    CondPageBreak,
    Flowable,
    Frame,
    Image,
    KeepTogether,
    PageBreak,
    PageTemplate,
    Paragraph,
    Spacer,
    Table,
    TableStyle,
)

from ledger.report import blocks, sections
from ledger.report.blocks import (
    Cell,
    Details,
    Facts,
    Figure,
    Heading,
)
from ledger.report.figures import DPI, draw
from ledger.report.sections import verdict
from ledger.report.sections.plain import plain
from ledger.report.view import View

MARGIN: Final = 18 * mm
WIDTH: Final = A4[0] - 2 * MARGIN
INK, DIM, RULE, SHADE = (colors.HexColor(code) for code in ("#1B1F24", "#57606A", "#D0D7DE", "#F6F8FA"))
_TONES: Final = {
    "plain": RULE,
    "good": colors.HexColor("#0B5D3B"),
    "bad": colors.HexColor("#9A1C1C"),
    "note": colors.HexColor("#7A4D00"),
}
_FONTS: Final = {"Ledger": "DejaVuSans", "Ledger-Bold": "DejaVuSans-Bold", "Ledger-Mono": "DejaVuSansMono"}
HEADER_SHOWN_MAX: Final = 90


def page(view: View) -> bytes:
    """Return the whole file."""
    _register_fonts()
    file = io.BytesIO()
    document = view.document
    about = f"{document['about']['tenant']['name']} · {verdict.subject(document)} · {verdict.period(document)}"
    template = _Template(file, title=verdict.title(document), about=about)
    template.build([*_cover(view), *_flowables(view)], canvasmaker=_Numbered)
    return file.getvalue()


@cache
def _register_fonts() -> None:
    """Register Matplotlib's fonts: they have most of the world's letters, and may be embedded."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for name, file in _FONTS.items():
        pdfmetrics.registerFont(TTFont(name, str(folder / f"{file}.ttf")))
    pdfmetrics.registerFontFamily(
        "Ledger", normal="Ledger", bold="Ledger-Bold", italic="Ledger", boldItalic="Ledger-Bold"
    )


# --- pages -----------------------------------------------------------------------------------------------------------


class _Numbered(Canvas):  # type: ignore[misc]  # reportlab has no types
    """Write "page x of y" on every page, when the number of pages is known."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pages: list[dict[str, Any]] = []

    def showPage(self) -> None:  # noqa: N802 (the name that is called)
        self._pages.append(dict(self.__dict__))
        self._startPage()

    def save(self) -> None:
        for number, page_ in enumerate(self._pages, start=1):
            self.__dict__.update(page_)
            self.setFont("Ledger", 7.5)
            self.setFillColor(DIM)
            self.drawRightString(A4[0] - MARGIN, 11 * mm, f"page {number} of {len(self._pages)}")
            super().showPage()
        super().save()


class _Template(BaseDocTemplate):  # type: ignore[misc]  # reportlab has no types
    """Pages with a header, and a bookmark for every heading."""

    def __init__(self, file: io.BytesIO, *, title: str, about: str) -> None:
        super().__init__(file, pagesize=A4, title=title, author="privacy-ledger", invariant=1, lang="en")
        self._about = about if len(about) <= HEADER_SHOWN_MAX else f"{about[: HEADER_SHOWN_MAX - 1]}…"
        frame = Frame(
            MARGIN, 18 * mm, WIDTH, A4[1] - 40 * mm, leftPadding=0, rightPadding=0, topPadding=0, bottomPadding=0
        )
        self.addPageTemplates(PageTemplate(frames=[frame], onPage=self._head))

    def _head(self, canvas: Canvas, _document: Any) -> None:
        canvas.saveState()
        canvas.setFont("Ledger", 7.5)
        canvas.setFillColor(DIM)
        canvas.drawString(MARGIN, A4[1] - 13 * mm, self._about)
        canvas.drawString(MARGIN, 11 * mm, "Privacy budget report")
        canvas.setStrokeColor(RULE)
        canvas.setLineWidth(0.5)
        canvas.line(MARGIN, A4[1] - 15 * mm, A4[0] - MARGIN, A4[1] - 15 * mm)
        canvas.line(MARGIN, 15 * mm, A4[0] - MARGIN, 15 * mm)
        canvas.restoreState()

    def afterFlowable(self, flowable: Flowable) -> None:  # noqa: N802 (the name that is called)
        heading = getattr(flowable, "ledger_heading", None)
        if heading is not None:
            anchor = f"{heading.anchor}-{self.seq.nextf('heading')}"
            self.canv.bookmarkPage(anchor)
            self.canv.addOutlineEntry(heading.text, anchor, level=heading.level - 1, closed=heading.level > 1)


# --- contents --------------------------------------------------------------------------------------------------------


def _style(name: str, size: float, **more: Any) -> ParagraphStyle:
    given = {"fontName": "Ledger", "leading": size * 1.35, "textColor": INK, "splitLongWords": 1, **more}
    return ParagraphStyle(name, fontSize=size, **given)


_TEXT: Final = _style("text", 9, spaceBefore=2, spaceAfter=4)
_CELL: Final = _style("cell", 7)
_NUMBER: Final = _style("number", 7, alignment=TA_RIGHT)
_HEAD: Final = _style("head", 7, fontName="Ledger-Bold")
_NUMBER_HEAD: Final = _style("number head", 7, fontName="Ledger-Bold", alignment=TA_RIGHT)
_CAPTION: Final = _style("caption", 8, fontName="Ledger-Bold", spaceBefore=6, spaceAfter=3)
_UNDER: Final = _style("under", 7.5, textColor=DIM, spaceAfter=6)
_DETAIL: Final = _style("detail", 5.4, leading=6.4, spaceAfter=2)
_TITLE: Final = _style("title", 24, fontName="Ledger-Bold", spaceAfter=6)
_SUBTITLE: Final = _style("subtitle", 13, textColor=DIM, spaceAfter=14)
_VERDICT: Final = _style("verdict", 12, fontName="Ledger-Bold")
_HEADINGS: Final = {
    1: _style("h1", 15, fontName="Ledger-Bold", spaceBefore=16, spaceAfter=6),
    2: _style("h2", 11.5, fontName="Ledger-Bold", spaceBefore=12, spaceAfter=4),
}


def _cover(view: View) -> Iterator[Flowable]:
    document = view.document
    yield Paragraph("Privacy budget report", _TITLE)
    yield Paragraph(escape(verdict.subject(document)), _SUBTITLE)
    yield _boxed(document["verdict"]["sentence"], verdict.tone(document), _VERDICT, padding=10)
    yield Spacer(1, 5 * mm)
    yield _facts(plain(view))
    yield Spacer(1, 5 * mm)
    yield _facts(verdict.cover(view))
    glance = verdict.summary(view)
    if glance is not None:
        yield Spacer(1, 6 * mm)
        yield from _table(glance)
    yield PageBreak()


def _flowables(view: View) -> Iterator[Flowable]:
    for is_half, group in groupby(sections.blocks(view), key=lambda block: isinstance(block, Figure) and block.is_half):
        if is_half:
            yield _pair([block for block in group if isinstance(block, Figure)])
        else:
            for block in group:
                yield from _flowable(block)


def _flowable(block: blocks.Block) -> Iterator[Flowable]:
    match block:
        case Heading():
            yield CondPageBreak(45 * mm)
            yield _heading(block)
        case blocks.Paragraph(text, "plain"):
            yield Paragraph(escape(text), _TEXT)
        case blocks.Paragraph(text, tone):
            yield _boxed(text, tone, _TEXT)
            yield Spacer(1, 2 * mm)
        case Facts():
            yield _facts(block)
            yield Spacer(1, 2 * mm)
        case blocks.Table():
            yield from _table(block)
        case Details():
            for lines in block.rows:
                yield Paragraph(" · ".join(_marked(text_line, mono_size=5) for text_line in lines), _DETAIL)
        case Figure():
            yield KeepTogether([_image(block, WIDTH), Paragraph(escape(block.caption), _UNDER)])


def _heading(block: Heading) -> Paragraph:
    heading = Paragraph(escape(block.text), _HEADINGS[block.level])
    heading.ledger_heading = block
    return heading


def _boxed(text: str, tone: blocks.Tone, style: ParagraphStyle, *, padding: float = 5) -> Table:
    """Return a paragraph with a coloured bar at its side."""
    table = Table([[Paragraph(escape(text), style)]], colWidths=[WIDTH])
    table.setStyle(
        TableStyle(
            [
                ("BACKGROUND", (0, 0), (-1, -1), SHADE),
                ("LINEBEFORE", (0, 0), (0, -1), 3, _TONES[tone]),
                ("LEFTPADDING", (0, 0), (-1, -1), padding + 4),
                *((side, (0, 0), (-1, -1), padding) for side in ("TOPPADDING", "BOTTOMPADDING", "RIGHTPADDING")),
            ]
        )
    )
    return table


def _facts(block: Facts) -> Table:
    rows = [[Paragraph(escape(name), _NAME), _cell(lines, _FACT)] for name, lines in block.rows]
    table = Table(rows, colWidths=[WIDTH * 0.22, WIDTH * 0.78])
    table.setStyle(
        TableStyle(
            [
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                *((side, (0, 0), (-1, -1), 1.2) for side in ("TOPPADDING", "BOTTOMPADDING")),
                ("LEFTPADDING", (0, 0), (0, -1), 0),
            ]
        )
    )
    return table


_NAME: Final = _style("name", 8, textColor=DIM)
_FACT: Final = _style("fact", 8)


def _table(block: blocks.Table) -> Iterator[Flowable]:
    """Return a table that continues over pages, with its header on each."""
    heads = [Paragraph(escape(column.title), _NUMBER_HEAD if column.is_number else _HEAD) for column in block.columns]
    rows = [
        [_cell(lines, _NUMBER if column.is_number else _CELL) for lines, column in zip(row, block.columns, strict=True)]
        for row in block.rows
    ]
    whole = sum(column.width for column in block.columns)
    widths = [WIDTH * column.width / whole for column in block.columns]
    table = Table([heads, *rows], colWidths=widths, repeatRows=1, splitInRow=int(_is_tall(block)))
    table.setStyle(_TABLE)
    yield CondPageBreak(_least_height(block))
    yield Paragraph(escape(block.caption), _CAPTION)
    yield table
    yield Spacer(1, 4 * mm)


def _least_height(block: blocks.Table) -> Any:
    """About the height of caption, header and first row, so that none of them is alone on a page."""
    lines = max((sum(1 + len(text_line.text) // LINE_CHARS for text_line in cell) for cell in block.rows[0]), default=1)
    return min(20 * mm + lines * _CELL.leading, 120 * mm)


LINE_CHARS: Final = 30


def _is_tall(block: blocks.Table) -> bool:
    """Return whether a row may be taller than a page, so that it must be split."""
    return any(
        sum(1 + len(text_line.text) // LINE_CHARS_MIN for text_line in lines) > LINES_OF_PAGE
        for row in block.rows
        for lines in row
    )


LINE_CHARS_MIN: Final = 12
"""How many characters certainly fit in a line of the narrowest column."""
LINES_OF_PAGE: Final = 60

_TABLE: Final = TableStyle(
    [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("BACKGROUND", (0, 0), (-1, 0), SHADE),
        ("LINEBELOW", (0, 0), (-1, 0), 0.9, INK),
        ("LINEBELOW", (0, 1), (-1, -1), 0.4, RULE),
        ("TOPPADDING", (0, 0), (-1, -1), 2.5),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 3),
        ("LEFTPADDING", (0, 0), (-1, -1), 3),
        ("RIGHTPADDING", (0, 0), (-1, -1), 3),
    ]
)


def _cell(lines: Cell, style: ParagraphStyle) -> Paragraph:
    """Return all lines of a cell in one paragraph, which breaks long words."""
    return Paragraph("<br/>".join(_marked(text_line) for text_line in lines), style)


def _marked(text_line: blocks.Line, *, mono_size: float = 6.1) -> str:
    text = escape(text_line.text)
    match text_line.style:
        case "strong":
            return f"<b>{text}</b>"
        case "mono":
            return f'<font name="Ledger-Mono" size="{mono_size}">{text}</font>'
        case "dim":
            return f'<font color="#57606A">{text}</font>'
        case "plain":
            return text


def _image(figure: Figure, width: float) -> Image:
    image = Image(io.BytesIO(draw(figure, "png")))
    pixels_wide, pixels_high = image.imageWidth, image.imageHeight
    width = min(width, pixels_wide / DPI * 72)
    image.drawWidth, image.drawHeight = width, width * pixels_high / pixels_wide
    image.hAlign = "LEFT"
    return image


def _pair(figures: Sequence[Figure]) -> Flowable:
    width = WIDTH / 2 - 2 * mm
    cells = [[_image(figure, width), Paragraph(escape(figure.caption), _UNDER)] for figure in figures]
    table = Table([cells], colWidths=[WIDTH / 2] * len(cells))
    table.setStyle(TableStyle([("VALIGN", (0, 0), (-1, -1), "TOP"), ("LEFTPADDING", (0, 0), (-1, -1), 0)]))
    return KeepTogether([table])

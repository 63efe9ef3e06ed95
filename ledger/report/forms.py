"""The formats of a report. The modules that draw and set pages are imported when one is needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from ledger.report import document, table
from ledger.report.document import Report

Form = Literal["json", "html", "pdf", "csv"]

HTML_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "sandbox"
)
"""The Content-Security-Policy for serving the HTML: inline styles, and nothing else."""


def pieces(report: Report, form: Form) -> Iterator[bytes]:
    """Yield the report in pieces: JSON and CSV while it is made, HTML and PDF when it is complete."""
    if form == "json":
        return (piece.encode() for piece in document.lines(report))
    if form == "csv":
        return (piece.encode() for piece in table.rows(document.parts(report)))
    return iter([_page(report, form)])


def _page(report: Report, form: Literal["html", "pdf"]) -> bytes:
    from ledger.report import view

    page = view.view_of(document.parts(report))
    if form == "pdf":
        from ledger.report import pdf

        return pdf.page(page)
    from ledger.report import html

    return html.page(page).encode()

"""Audit reports: of a dataset, of a project, of the tenant.

JSON and CSV are made while they are sent; what is kept is what replaying a journal keeps, some hundred bytes for each
run. HTML and PDF are made whole, and list the newest runs. Making a report takes processor time that decisions need
too, so that few are made at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ledger.api.gate import Auditor
from ledger.api.routing import Route
from ledger.api.services import Services, services
from ledger.core.datasets import Dataset
from ledger.errors import JournalBroken, Overloaded
from ledger.report import document, reader, table
from ledger.report.document import Report
from ledger.report.source import Question
from ledger.service.requests.fields import NAME_PATTERN, Moment
from ledger.signer.heads import Heads
from ledger.store import Reading

PAGES_AT_ONCE_MAX: Final = 2
STREAMS_AT_ONCE_MAX: Final = 4
RETRY_AFTER_SECONDS: Final = 5
_UTF8: Final = "; charset=utf-8"

Format = Literal["json", "html", "pdf", "csv"]
MEDIA: Final[dict[Format, str]] = {
    "json": "application/json",
    "html": f"text/html{_UTF8}",
    "pdf": "application/pdf",
    "csv": f"text/csv{_UTF8}; header=present",
}

router = APIRouter(prefix="/v1", route_class=Route, tags=["reports"])
Since = Annotated[
    Moment | None, Query(alias="from", description="The beginning of the period, RFC 3339; all when left out.")
]
Until = Annotated[
    Moment | None, Query(alias="to", description="The end of the period, which is not in it; now when left out.")
]
InFormat = Annotated[Format, Query(alias="format", description="`html` and `pdf` list the newest runs alone.")]
ProjectPath = Annotated[str, Path(pattern=NAME_PATTERN)]

_FORMATS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "content": {
            "application/json": {},
            "text/html": {},
            "application/pdf": {},
            "text/csv": {},
        },
        "description": "The report. docs/how-to/report.md explains it, ledger/report/schema.json has the JSON's shape.",
    }
}
_SHAPE: Final[dict[str, Any]] = {"responses": _FORMATS, "response_class": Response, "response_model": None}


@router.get("/datasets/{name}/report", **_SHAPE)
def report_dataset(
    name: str, caller: Auditor, request: Request, form: InFormat = "json", since: Since = None, until: Until = None
) -> Response:
    """Report on a dataset: whether its budget is kept, what is spent, every run, and how to work it out again."""
    served = services(request)
    question = reader.question_of(served.store, caller, scope="dataset", dataset=name, since=since, until=until)
    return _answer(served, question, form)


@router.get("/projects/{project}/report", **_SHAPE)
def report_project(
    project: ProjectPath,
    caller: Auditor,
    request: Request,
    form: InFormat = "json",
    since: Since = None,
    until: Until = None,
) -> Response:
    """Report on a project over all datasets in which it has a share or runs."""
    served = services(request)
    question = reader.question_of(served.store, caller, scope="project", project=project, since=since, until=until)
    return _answer(served, question, form)


@router.get("/report", **_SHAPE)
def report_tenant(
    caller: Auditor, request: Request, form: InFormat = "json", since: Since = None, until: Until = None
) -> Response:
    """Report on all datasets that the key sees, and on the tenant's own journal where it sees all."""
    served = services(request)
    question = reader.question_of(served.store, caller, scope="tenant", since=since, until=until)
    return _answer(served, question, form)


# --- answers ---------------------------------------------------------------------------------------------------------


def _answer(served: Services, question: Question, form: Format) -> Response:
    about = question.dataset or question.project or "tenant"
    how = "inline" if form in ("json", "html") else "attachment"
    headers = {"Content-Disposition": f'{how}; filename="privacy-report-{about}.{form}"'}
    report = reader.opened(served.store, question, signed_head=partial(_head, served.heads))
    if form == "json" or form == "csv":
        pieces = document.lines(report) if form == "json" else table.rows(document.parts(report))
        return _Streamed(pieces, media_type=MEDIA[form], headers=headers)
    with _turn(_pages):
        content, policy = _page(report, form)
    return Response(content, media_type=MEDIA[form], headers={**headers, **policy})


def _head(heads: Heads, reading: Reading, dataset: Dataset | None) -> Mapping[str, Any]:
    """A journal's head, signed; of one that contradicts itself nothing is signed, and the report says where it does."""
    try:
        return heads.signed(reading, dataset)
    except JournalBroken:
        return reader.unsigned(reading, dataset)


def _page(report: Report, form: Literal["html", "pdf"]) -> tuple[bytes, dict[str, str]]:
    # Here, since these load what draws and sets pages, which a server that is asked for none need not.
    from ledger.report import html, pdf, view

    page = view.view_of(document.parts(report))
    if form == "pdf":
        return pdf.page(page), {}
    return html.page(page).encode(), {"Content-Security-Policy": html.POLICY}


_pages = threading.BoundedSemaphore(PAGES_AT_ONCE_MAX)
_streams = threading.BoundedSemaphore(STREAMS_AT_ONCE_MAX)


@contextmanager
def _turn(turns: threading.BoundedSemaphore) -> Iterator[None]:
    """One of the few that are made at once. Raises Overloaded."""
    if not turns.acquire(blocking=False):
        raise Overloaded("Other reports are being made.", retry_after_seconds=RETRY_AFTER_SECONDS)
    try:
        yield
    finally:
        turns.release()


class _Streamed(StreamingResponse):
    """Sends a report while it is made, and gives its turn back however that ends."""

    def __init__(self, pieces: Iterator[str], **rest: Any) -> None:
        super().__init__(pieces, **rest)
        self._turn = _turn(_streams)
        self._turn.__enter__()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._turn.__exit__(None, None, None)

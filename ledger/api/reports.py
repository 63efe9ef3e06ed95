"""Audit reports: of a dataset, of a project, of the tenant.

Other processes make them (`ledger.report.pool`), so that decisions come first. This module only reads where the
journals end, and passes the report on at the reader's pace. JSON and CSV are sent while they are made; HTML and PDF are
made whole, and list the newest runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from ledger.api.gate import Auditor
from ledger.api.leaving import until_gone
from ledger.api.routing import Route
from ledger.api.services import Services, services
from ledger.api.streams import Making, Streams, streams
from ledger.core.datasets import Dataset
from ledger.core.people import Actor
from ledger.errors import InvalidRequest, JournalBroken
from ledger.mistakes import NAME_PATTERN
from ledger.report import forms, reader
from ledger.report.forms import Form
from ledger.report.source import Question
from ledger.service.requests.fields import Day, LineText, Moment
from ledger.signer.heads import Heads
from ledger.store import Reading

_UTF8: Final = "; charset=utf-8"

MEDIA: Final[dict[Form, str]] = {
    "json": "application/json",
    "html": f"text/html{_UTF8}",
    "pdf": "application/pdf",
    "csv": f"text/csv{_UTF8}; header=present",
}

router = APIRouter(prefix="/v1", route_class=Route, tags=["reports"])
Since = Annotated[
    Moment | None,
    Query(alias="from", description="Start of the period, an RFC 3339 time; default: the beginning of the journal."),
]
Until = Annotated[Moment | None, Query(alias="to", description="End of the period, exclusive; default: now.")]
MadeOn = Annotated[Day | None, Query(description="The date that the report states as the day it was made on.")]
Contact = Annotated[LineText | None, Query(description="Whom to ask about the report, as the report states it.")]
InFormat = Annotated[Form, Query(alias="format", description="`html` and `pdf` list only the newest runs.")]
ProjectPath = Annotated[str, Path(pattern=NAME_PATTERN)]

_FORMATS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "content": {
            "application/json": {},
            "text/html": {},
            "application/pdf": {},
            "text/csv": {},
        },
        "description": (
            "The report. docs/how-to/report.md describes its contents; ledger/report/schema.json is the schema of the"
            " JSON form."
        ),
    }
}
_SHAPE: Final[dict[str, Any]] = {"responses": _FORMATS, "response_class": Response, "response_model": None}


@router.get("/datasets/{name}/report", **_SHAPE)
def report_dataset(
    name: str,
    caller: Auditor,
    request: Request,
    form: InFormat = "json",
    since: Since = None,
    until: Until = None,
    made_on: MadeOn = None,
    contact: Contact = None,
) -> Response:
    """Report on a dataset: whether its budget is kept, what is spent, every run, and how to recompute it."""
    served = services(request)
    question = reader.question_of(served.store, caller, scope="dataset", dataset=name, since=since, until=until)
    return _answer(request, caller, replace(question, made_on=made_on, contact=contact), form)


@router.get("/projects/{project}/report", **_SHAPE)
def report_project(
    project: ProjectPath,
    caller: Auditor,
    request: Request,
    form: InFormat = "json",
    since: Since = None,
    until: Until = None,
    made_on: MadeOn = None,
    contact: Contact = None,
) -> Response:
    """Report on a project over all datasets in which it has a share or runs."""
    served = services(request)
    question = reader.question_of(served.store, caller, scope="project", project=project, since=since, until=until)
    return _answer(request, caller, replace(question, made_on=made_on, contact=contact), form)


@router.get("/report", **_SHAPE)
def report_tenant(
    caller: Auditor,
    request: Request,
    form: InFormat = "json",
    since: Since = None,
    until: Until = None,
    made_on: MadeOn = None,
    contact: Contact = None,
) -> Response:
    """Report on all datasets that the key sees, and on the tenant's own journal if the key sees everything."""
    served = services(request)
    question = reader.question_of(served.store, caller, scope="tenant", since=since, until=until)
    return _answer(request, caller, replace(question, made_on=made_on, contact=contact), form)


# --- answers ---------------------------------------------------------------------------------------------------------


def of_period(
    request: Request,
    caller: Actor,
    *,
    form: str,
    dataset: str | None,
    since: datetime | None,
    until: datetime | None,
) -> Response:
    """Return the report of a dataset, or of all that the caller sees. Raises InvalidRequest and NotFound."""
    known: Form | None = next((one for one in MEDIA if one == form), None)
    if known is None:
        raise InvalidRequest(f"form: {form[:20]!r} is none; choose one of {', '.join(MEDIA)}", field="form")
    scope: Literal["dataset", "tenant"] = "tenant" if dataset is None else "dataset"
    store = services(request).store
    question = reader.question_of(store, caller, scope=scope, dataset=dataset, since=since, until=until)
    return _answer(request, caller, question, known)


def _answer(request: Request, caller: Actor, question: Question, form: Form) -> Response:
    about = question.dataset or question.project or "tenant"
    how = "inline" if form in ("json", "html") else "attachment"
    headers = {"Content-Disposition": f'{how}; filename="privacy-report-{about}.{form}"'}
    if form == "html":
        headers["Content-Security-Policy"] = forms.HTML_POLICY
    return _Made(services(request), question, form, room=streams(request), caller=caller, headers=headers)


def _head(heads: Heads, reading: Reading, dataset: Dataset | None) -> Mapping[str, Any]:
    """Return a journal's signed head. The head of a journal that contradicts itself is not signed; the report names the
    place."""
    try:
        return heads.signed(reading, dataset)
    except JournalBroken:
        return reader.unsigned(reading, dataset)


class _Made(Response):
    """A report that another process makes while it is sent, and only as long as somebody reads it."""

    def __init__(
        self,
        served: Services,
        question: Question,
        form: Form,
        *,
        room: Streams,
        caller: Actor,
        headers: dict[str, str],
    ) -> None:
        super().__init__(media_type=MEDIA[form], headers=headers)
        del self.headers["content-length"]
        self._served, self._question, self._form = served, question, form
        self._room, self._caller = room, caller
        self._is_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI's)
        with self._room.report(self._caller) as making:
            await until_gone(receive, self._send(send, making))
        if not self._is_begun:
            raise ClientDisconnect()

    async def _send(self, send: Send, making: Making) -> None:
        served = self._served
        signed_head = partial(_head, served.heads)
        async with served.reports.place():
            extent = await run_in_threadpool(reader.extent, served.store, self._question, signed_head=signed_head)
            async with aclosing(served.reports.pieces(extent, self._form)) as pieces:
                making.is_under_way = True
                # The answer begins with the first piece; an error before that gets an answer of its own.
                first = await anext(pieces, b"")
                self._is_begun = True
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": first, "more_body": True})
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                making.is_under_way = False
        await send({"type": "http.response.body", "body": b""})

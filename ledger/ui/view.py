"""What a page works with: the services, who is signed in, the request, and how it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ledger.access.sessions import Session
from ledger.core.people import Actor
from ledger.service.use_cases import UseCases
from ledger.ui import render
from ledger.ui.ports import Ask, Report

P = ParamSpec("P")
T = TypeVar("T")

DONE: Final[Mapping[str, str]] = {
    "approved": "Approved. The change is made.",
    "asked": "Asked. The journal has the decision.",
    "registered": "Registered. Its journal has begun.",
    "refused": "Refused. Nothing was changed.",
    "revoked": "Revoked. The key opens nothing from now on.",
    "set": "Set. The journal has it, with your reason.",
    "tested": "A test alert was raised.",
    "signed-out": "You are signed out.",
    "ended": "Your session has ended. Sign in again to go on.",
}
"""What a page says after a change, by the word in its address."""


class View:
    """One request of somebody who is signed in."""

    def __init__(
        self,
        request: Request,
        *,
        services: UseCases,
        session: Session,
        params: Mapping[str, str],
        form: Mapping[str, str],
        page_of: str,
        report: Report,
        ask: Ask,
    ) -> None:
        self.request, self.services, self.session = request, services, session
        self.params, self.form = params, form
        self._page_of = page_of
        self._report, self._ask = report, ask

    @property
    def actor(self) -> Actor:
        """Return who is signed in."""
        return self.session.actor

    def query(self, name: str) -> str | None:
        """Return a parameter of the address, if it is there and not empty."""
        return self.request.query_params.get(name) or None

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of what blocks; it runs in a thread."""
        return await run_in_threadpool(partial(work, *args, **kwargs))

    async def aside(self, work: Callable[[], T]) -> T:
        """Return the result of work that takes long; tenants take turns. Raises Overloaded too."""
        return await self.services.aside.run(self.actor.tenant_id, work, size=None)

    async def page(self, template: str, *, status: int = 200, **facts: Any) -> Response:
        """Return a page. facts: what its template reads, beside what every template does."""
        done = DONE.get(self.query("done") or "")
        common = {"session": self.session, "here": self._page_of, "done": done, "csrf": self.session.csrf}
        return await run_in_threadpool(partial(render.page, template, status=status, **{**common, **facts}))

    async def report(
        self, form: str, *, dataset: str | None, since: datetime | None, until: datetime | None
    ) -> Response:
        """Return an audit report, which another process makes while it is sent."""
        make = partial(self._report, self.request, self.actor)
        answer = await run_in_threadpool(make, form=form, dataset=dataset, since=since, until=until)
        answer.headers["Cache-Control"] = "no-store"
        return answer

    async def ask(self, body: str, *, purpose: str | None, key: str) -> str:
        """Return the id of the run that was asked for, approved or refused."""
        return await self._ask(self.request, self.actor, body=body, purpose=purpose, key=key)

    @staticmethod
    def redirect(path: str, **query: str) -> Response:
        """Return an answer that leads to another page, which the browser asks for with GET."""
        return RedirectResponse(f"{path}?{urlencode(query)}" if query else path, status_code=303)

"""Where the pages of `ledger.ui` begin: /ui, to which / leads.

Nothing of theirs is imported until somebody asks for a page: a server of a training platform may never be asked. They
are not calls, so the OpenAPI document does not have them, and requests under /v1 pass nothing of theirs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ledger.api import body as bodies
from ledger.api import observe, reports
from ledger.api.limits import Shares
from ledger.api.middleware import Recogniser
from ledger.api.problems import of_exception, of_validation, shape_of
from ledger.api.routing import found_in
from ledger.api.services import Services, served
from ledger.core.people import Actor
from ledger.errors import BudgetExceeded, IdempotencyKeyMissing, Internal, LedgerError, Overloaded
from ledger.service.asked import Item
from ledger.service.requests.runs import RunRequest, as_kept

_KEY: Final = re.compile(r"page-[0-9a-f-]{36}")

if TYPE_CHECKING:
    from ledger.api.schemas.common import Problem
    from ledger.ui.app import Pages


class Dashboard:
    """The pages of an application, made when they are first asked for."""

    def __init__(self, services: Callable[[], Services], recogniser: Recogniser, requests: Shares) -> None:
        self._services, self._recogniser, self._requests = services, recogniser, requests
        self._pages: Pages | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._pages is None:
            self._pages = await run_in_threadpool(self._made)
        await self._pages(scope, receive, send)

    def _made(self) -> Pages:
        from ledger.ui.app import Pages
        from ledger.ui.ports import Ports

        ports = Ports(
            services=self._services,
            door=self._recogniser,
            requests=self._requests,
            explained=_explained,
            report=reports.of_period,
            ask=_asked_for,
        )
        return Pages(ports)


def _explained(error: Exception) -> Problem:
    """Return an error as the API answers it, and log one that nobody expected."""
    if isinstance(error, LedgerError):
        return shape_of(error)
    status = of_exception(error).status_code
    return shape_of(Overloaded("The database did not answer in time. Try again.") if status == 503 else Internal())


async def _asked_for(request: Request, caller: Actor, *, body: str, purpose: str | None, key: str) -> str:
    """Ask for a run that a page has as the API would get it. Return its id, approved or refused. Raises what the API
    answers with, and BudgetExceeded for a refusal that is not recorded."""
    sent = bodies.parse(body.encode())
    if purpose is not None and isinstance(sent, dict):
        sent["purpose"] = purpose
    run = _read(sent)
    if not _KEY.fullmatch(key):
        raise IdempotencyKeyMissing(field="key")
    here = served(request)
    answer = await here.services.runs.asking.ask(caller, Item(key, run, as_kept(sent, run), len(body)))
    if not answer.is_recorded and isinstance(answer.decision, BudgetExceeded):
        raise answer.decision
    observe.decided(here.metrics, [answer])
    return observe.run_of(answer)


def _read(sent: Any) -> RunRequest:
    try:
        return RunRequest.model_validate(sent)
    except ValidationError as error:
        raise of_validation(found_in(error, RunRequest)) from None


class _Started:
    """The pages of the application that gets a request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        dashboard: Dashboard = scope["app"].state.dashboard
        await dashboard(scope, receive, send)


ROUTES: Final = (
    Route("/ui", _Started(), include_in_schema=False),
    Route("/ui/{path:path}", _Started(), include_in_schema=False),
)
"""The routes of the pages. They take every method; the pages answer what they do not take."""

"""Where the pages of `ledger.ui` begin: /ui, to which / leads.

Nothing of theirs is imported until somebody asks for a page: a server of a training platform may never be asked. They
are not calls, so the OpenAPI document does not have them, and requests under /v1 pass nothing of theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from starlette.concurrency import run_in_threadpool
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ledger.api import reports
from ledger.api.limits import Shares
from ledger.api.middleware import Recogniser
from ledger.api.problems import of_exception, shape_of
from ledger.api.services import Services
from ledger.errors import Internal, LedgerError, Overloaded

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

        return Pages(Ports(self._services, self._recogniser, self._requests, _explained, reports.of_period))


def _explained(error: Exception) -> Problem:
    """Return an error as the API answers it, and log one that nobody expected."""
    if isinstance(error, LedgerError):
        return shape_of(error)
    status = of_exception(error).status_code
    return shape_of(Overloaded("The database did not answer in time. Try again.") if status == 503 else Internal())


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

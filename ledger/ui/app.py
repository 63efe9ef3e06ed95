"""Every request for a page: find it, recognise who is signed in, check a change's origin and token, answer.

Whatever goes wrong becomes a page in plain words, with the status that the API has for it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from ledger.access import roles
from ledger.access.sessions import Session
from ledger.errors import InvalidRequest, NotFound, TooLarge, Unauthenticated
from ledger.service.presence import CallerLeftError
from ledger.ui import csrf, render, sessions, signin, static
from ledger.ui.ports import Ports
from ledger.ui.routes import PAGES, Route
from ledger.ui.view import View

log = logging.getLogger(__name__)

FORM_BYTES_MAX: Final = 64 * 1024
FIELDS_MAX: Final = 100
_FORM: Final = "application/x-www-form-urlencoded"
_TITLES: Final = {
    401: "You are not signed in",
    403: "This is not allowed",
    404: "There is no such page",
    405: "This page takes no such request",
    409: "This is not possible now",
    429: "Too many requests",
    500: "Something went wrong in the server",
    503: "The server is busy",
}


@dataclass(frozen=True, slots=True)
class _Named:
    """What the log and the metrics call a request: the path of its page, without what a person wrote."""

    path: str


class Pages:
    """The pages of an application, as an ASGI application."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        scope["route"] = _Named("/ui/other")
        try:
            response = await self._answer(request)
        except (ClientDisconnect, CallerLeftError) as error:
            self._ports.explained(error)
            return
        except Exception as error:
            response = await self._error(request, error, None)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path = request.scope["path"]
        if (file := static.answer(path)) is not None:
            request.scope["route"] = _Named("/ui/static")
            return file
        if path.endswith("/"):
            return RedirectResponse(path.rstrip("/"), status_code=303)
        if path.startswith(signin.PATH):
            request.scope["route"] = _Named(signin.PATH)
            form = await _form(request) if request.method == "POST" else {}
            return await signin.answer(self._ports, request, form)
        session = await self._session(request)
        if session is None:
            return _to_sign_in(request)
        self._ports.door.enter(request.scope, session.actor)
        with self._ports.requests.one(session.actor):
            try:
                return await self._page(request, session)
            except (ClientDisconnect, CallerLeftError):
                raise
            except Exception as error:
                return await self._error(request, error, session)

    async def _session(self, request: Request) -> Session | None:
        """Return the session of the browser's cookie, if it has not ended."""
        secret = sessions.secret_of(request)
        if secret is None:
            return None
        try:
            return await run_in_threadpool(self._ports.services().sessions.recognise, secret)
        except Unauthenticated:
            return None

    async def _page(self, request: Request, session: Session) -> Response:
        route, params = _found(request)
        request.scope["route"] = _Named(route.path)
        roles.demand(session.actor, route.action)
        form: Mapping[str, str] = {}
        if route.method == "POST":
            csrf.demand_origin(request.headers)
            form = await _form(request)
            csrf.demand_token(session.csrf, form.get(csrf.FIELD, ""))
        show = await run_in_threadpool(route.load)
        return await show(
            View(
                request,
                services=self._ports.services(),
                session=session,
                params=params,
                form=form,
                page_of=route.path,
                report=self._ports.report,
                ask=self._ports.ask,
            )
        )

    async def _error(self, request: Request, error: Exception, session: Session | None) -> Response:
        """Return an error as a page."""
        problem: Mapping[str, Any] = self._ports.explained(error)
        status = problem["status"] if not isinstance(error, _NoMethodError) else 405
        title = _TITLES.get(status, "The request is not valid")
        facts = {"session": session, "here": "", "done": None, "csrf": "" if session is None else session.csrf}
        return await run_in_threadpool(
            render.page, "error.html", status=status, title=title, problem=problem, back=_back(request), **facts
        )


class _NoMethodError(InvalidRequest):
    """This page does not take this method."""


def _found(request: Request) -> tuple[Route, dict[str, str]]:
    """Return the page of a request, and the parameters of its path. Raises NotFound and InvalidRequest."""
    method = "GET" if request.method == "HEAD" else request.method
    is_other = False
    for route in PAGES:
        params = route.match(request.scope["path"])
        if params is not None:
            if route.method == method:
                return route, params
            is_other = True
    if is_other:
        raise _NoMethodError(f"This page does not take {method[:20]}. Open it from the menu.")
    raise NotFound("No page has this address. The menu leads to those that there are.")


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a form, each once. Raises InvalidRequest and TooLarge."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise InvalidRequest("The form was not sent by a page of this ledger. Open the page again.")
    raw = bytearray()
    async for piece in request.stream():
        raw += piece
        if len(raw) > FORM_BYTES_MAX:
            raise TooLarge(f"The form has more than {FORM_BYTES_MAX} bytes. Shorten its texts.")
    try:
        fields = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX)
    except ValueError:
        raise InvalidRequest("The form cannot be read: it is not valid UTF-8, or has too many fields.") from None
    if len({name for name, _ in fields}) < len(fields):
        raise InvalidRequest("The form has a field twice. Open the page again.")
    return dict(fields)


def _to_sign_in(request: Request) -> Response:
    """Return the answer for somebody who is not signed in. Raises Unauthenticated for a change, which is lost."""
    if request.method not in ("GET", "HEAD"):
        raise Unauthenticated(
            "You are not signed in any more, so nothing was changed. Sign in, and repeat the change there."
        )
    query = {"next": quote(request.scope["path"]) + (f"?{request.url.query}" if request.url.query else "")}
    if sessions.secret_of(request) is not None:
        query["done"] = "ended"
    response = RedirectResponse(f"{signin.PATH}?{urlencode(query)}", status_code=303)
    if sessions.secret_of(request) is not None:
        sessions.forget(request, response)
    return response


def _back(request: Request) -> str:
    return "/ui" if request.scope["path"] != "/ui" else signin.PATH

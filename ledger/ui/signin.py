"""Signing in: by a key in a form, by a link that works once, or by an issuer; and signing out.

A key is in the body of one request, and nowhere else: no address, no storage of the browser, no log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ledger.access.keys import PREFIX
from ledger.access.roles import Operator
from ledger.access.sessions import Session
from ledger.errors import Forbidden, InvalidRequest, LedgerError, NotFound, Overloaded, Unauthenticated
from ledger.ui import by_issuer, csrf, render, sessions
from ledger.ui.ports import Ports
from ledger.ui.view import DONE

PATH: Final = "/ui/sign-in"
OUT: Final = "/ui/sign-in/out"
_LINK: Final = re.compile(rf"{PATH}/once/(pbo_[A-Za-z0-9_-]{{64}})")
_NEXT: Final = re.compile(r"/ui(/[A-Za-z0-9._~%-]+)*(\?[A-Za-z0-9._~%&=+:,-]*)?")
_NEXT_LENGTH_MAX: Final = 2000


async def answer(ports: Ports, request: Request, form: Mapping[str, str]) -> Response:
    """Answer what is under PATH."""
    path, method = request.url.path, request.method
    if method == "POST":
        sessions.demand_safe(request)
        csrf.demand_origin(request.headers)
        if path == PATH:
            return await _by_key(ports, request, form)
        if path == OUT:
            return await _out(ports, request, form)
    elif method in ("GET", "HEAD"):
        if path == PATH:
            return await _page(ports, request)
        if path.startswith(by_issuer.PATH):
            return await _by_issuer(ports, request)
        link = _LINK.fullmatch(path)
        if link is not None:
            return await _by_link(ports, request, link[1])
    raise NotFound("No page has this address. Sign in, and use the menu.")


async def _page(ports: Ports, request: Request, *, status: int = 200, error: str | None = None) -> Response:
    facts: dict[str, Any] = {
        "session": None,
        "here": PATH,
        "csrf": "",
        "done": DONE.get(request.query_params.get("done", "")),
        "error": error,
        "is_wrong_key": error is not None and request.method == "POST",
        "next": safe_next(request.query_params.get("next", "")),
        "is_safe": sessions.is_safe(request),
        "issuers": ports.services().sign_ins.choices,
    }
    return await run_in_threadpool(render.page, "sign_in.html", status=status, **facts)


async def _by_key(ports: Ports, request: Request, form: Mapping[str, str]) -> Response:
    key = form.get("key", "").strip()
    try:
        if not key.startswith(PREFIX):
            raise Unauthenticated(
                f"This is not a key: a key begins with {PREFIX} and has 68 characters. Copy all of it."
            )
        caller = await ports.door.admit(request.scope, f"Bearer {key}")
        if isinstance(caller, Operator):
            raise Forbidden(
                "The operator's key only makes tenants, and sees nothing of theirs. Sign in with a key of a tenant."
            )
    except LedgerError as error:
        problem = ports.explained(error)
        return await _page(ports, request, status=problem["status"], error=problem["detail"])
    secret = await run_in_threadpool(ports.services().sessions.begin, caller)
    return _in(ports, request, secret, safe_next(form.get("next", "")))


async def _by_link(ports: Ports, request: Request, link: str) -> Response:
    sessions.demand_safe(request)
    if request.method == "HEAD":  # who only looks does not use it up
        return Response(status_code=204)
    try:
        secret = await run_in_threadpool(ports.services().sessions.redeem, link)
    except Unauthenticated as error:
        return await _page(ports, request, status=401, error=ports.explained(error)["detail"])
    return _in(ports, request, secret, "/ui")


async def _by_issuer(ports: Ports, request: Request) -> Response:
    sessions.demand_safe(request)
    if request.method == "HEAD":  # who only looks begins nothing and uses nothing up
        return Response(status_code=204)
    try:
        went = await by_issuer.answer(ports, request, safe_next(request.query_params.get("next", "")))
        if isinstance(went, Response):
            return went
        response = _in(ports, request, went.secret, safe_next(went.next))
    except (Unauthenticated, Overloaded, InvalidRequest) as error:
        problem = ports.explained(error)
        response = await _page(ports, request, status=problem["status"], error=problem["detail"])
    sessions.forget(request, response, name=sessions.BEGUN)
    return response


def _in(ports: Ports, request: Request, secret: str, path: str) -> Response:
    response = RedirectResponse(path, status_code=303, headers={"Cache-Control": "no-store"})
    sessions.keep(request, response, secret, seconds=ports.services().sessions.seconds_max)
    return response


async def _out(ports: Ports, request: Request, form: Mapping[str, str]) -> Response:
    secret = sessions.secret_of(request)
    if secret is not None:
        try:
            session: Session = await run_in_threadpool(ports.services().sessions.recognise, secret)
            csrf.demand_token(session.csrf, form.get(csrf.FIELD, ""))
            await run_in_threadpool(ports.services().sessions.end, session)
        except Unauthenticated:
            pass  # it has ended already
    response = RedirectResponse(f"{PATH}?done=signed-out", status_code=303, headers={"Cache-Control": "no-store"})
    sessions.forget(request, response)
    return response


def safe_next(path: str) -> str:
    """Return the page to go to after signing in: one of ours, else the overview."""
    is_ours = len(path) <= _NEXT_LENGTH_MAX and _NEXT.fullmatch(path) is not None
    goes_up = {".", ".."} & set(path.partition("?")[0].split("/"))
    return path if is_ours and not goes_up and not path.startswith(PATH) else "/ui"

"""Signing in by an OpenID Connect issuer: to it, and back. `ledger.access.authorization` has what is decided there.

Both are addresses that a browser opens with GET: the policy of the pages lets no form lead to another site, and the
issuer sends people back by an address. What the browser keeps meanwhile is in a cookie of ten minutes.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ledger.access.authorization import FLOW_SECONDS, Finished
from ledger.errors import InvalidRequest, NotFound
from ledger.ui import sessions
from ledger.ui.ports import Ports

PATH: Final = "/ui/sign-in/oidc/"
_PATH: Final = re.compile(rf"{PATH}([a-z0-9-]{{1,1024}})(/back)?")
_MEMBERS: Final = ("state", "iss", "error", "code")
_LENGTH_MAX: Final = 4096


async def answer(ports: Ports, request: Request, next_: str) -> Response | Finished:
    """Return the answer that leads to an issuer, or the session that began when it led back. Raises NotFound,
    InvalidRequest, Unauthenticated and Overloaded."""
    path = _PATH.fullmatch(request.url.path)
    if path is None:
        raise NotFound("No page has this address. Sign in, and use the menu.")
    slug, sign_ins = path[1], ports.services().sign_ins
    redirect_uri = f"{request.url.scheme}://{request.url.netloc}{PATH}{slug}/back"
    if path[2] is None:
        begin = partial(sign_ins.begin, slug, redirect_uri=redirect_uri, next_=next_)
        begun = await ports.door.turn(request.scope, begin)
        response = RedirectResponse(begun.url, status_code=303, headers={"Cache-Control": "no-store"})
        sessions.keep(request, response, begun.sealed, seconds=FLOW_SECONDS, name=sessions.BEGUN)
        return response
    finish = partial(
        sign_ins.finish,
        slug,
        sealed=sessions.secret_of(request, name=sessions.BEGUN),
        answer=_members(request),
        redirect_uri=redirect_uri,
    )
    return await ports.door.turn(request.scope, finish)


def _members(request: Request) -> dict[str, str]:
    """Return what the issuer sent in the address. Raises InvalidRequest if a member is there twice or too long."""
    members: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in _MEMBERS:
            continue
        if name in members or len(value) > _LENGTH_MAX:
            raise InvalidRequest(f"The answer of the issuer has `{name}` twice, or too long. Begin the sign-in again.")
        members[name] = value
    return members

"""The cookie of a sign-in. No page script can read it, and the browser sends it to this host alone.

Over HTTPS its name begins with `__Host-`, so no other host can set it. Plain HTTP is for the loopback alone, where
there is no network to listen on; browsers keep `Secure` and `__Host-` cookies from it.
"""

from __future__ import annotations

from typing import Final, Literal

from starlette.requests import Request
from starlette.responses import Response

from ledger.addresses import is_loopback
from ledger.errors import Forbidden

NAME: Final = "ledger-session"
BEGUN: Final = "ledger-sign-in"
"""The name of the cookie of a sign-in by an issuer that has begun."""


def is_safe(request: Request) -> bool:
    """Return whether a secret may be sent: over HTTPS, or to this machine itself."""
    return request.url.scheme == "https" or is_loopback(request.url.hostname or "")


def demand_safe(request: Request) -> None:
    """Raise Forbidden unless a secret may be sent."""
    if not is_safe(request):
        raise Forbidden(
            "You can sign in over HTTPS only, or on the machine that the server runs on. Put a proxy with TLS in front"
            " of it that sends X-Forwarded-Proto, and name it in LEDGER_TRUSTED_PROXIES."
        )


def secret_of(request: Request, *, name: str = NAME) -> str | None:
    """Return the secret that the browser sent, if it sent one."""
    return request.cookies.get(f"__Host-{name}" if request.url.scheme == "https" else name)


def keep(request: Request, response: Response, secret: str, *, seconds: int, name: str = NAME) -> None:
    """Let the browser keep a secret for this long."""
    is_https = request.url.scheme == "https"
    same: Literal["lax"] = "lax"
    response.set_cookie(
        f"__Host-{name}" if is_https else name,
        secret,
        max_age=seconds,
        path="/",
        secure=is_https,
        httponly=True,
        samesite=same,
    )


def forget(request: Request, response: Response, *, name: str = NAME) -> None:
    """Let the browser forget it."""
    keep(request, response, "", seconds=0, name=name)

"""Whether a change comes from a page of ours: by the browser's word, and by the token of the session.

A browser states the origin of the page that sends a form. It is compared with the host that the browser asked for, not
with the scheme, which a proxy may hide. The pages send `Referrer-Policy: same-origin`: under `no-referrer` a browser
states the origin `null` for every form (Fetch standard, "append a request `Origin` header").
"""

from __future__ import annotations

import secrets

from starlette.datastructures import Headers

from ledger.errors import Forbidden

FIELD = "csrf"


def demand_origin(headers: Headers) -> None:
    """Raise Forbidden unless a page of this host sent the request."""
    site = headers.get("sec-fetch-site", "same-origin")
    _, _, stated = headers.get("origin", "").partition("://")
    if site != "same-origin" or not stated or stated != headers.get("host", ""):
        raise Forbidden(
            "This form was not sent by a page of this ledger, so nothing was changed. Open the page again from the"
            " menu, and repeat it there. If a proxy is in between, it must pass on the header Host."
        )


def demand_token(expected: str, sent: str) -> None:
    """Raise Forbidden unless a form has the token of its session."""
    if not secrets.compare_digest(expected.encode(), sent.encode("utf-8", "surrogatepass")):
        raise Forbidden(
            "This form belongs to an earlier sign-in, so nothing was changed. Load the page again, and repeat it there."
        )

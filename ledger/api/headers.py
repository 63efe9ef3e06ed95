"""Headers that every answer has, so that no foreign page can use it and no browser runs it as a page."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Sequence
from typing import Final

from starlette.types import Scope

Headers = Sequence[tuple[bytes, bytes]]

NOTHING: Final = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The policy of answers that are not pages: whatever a browser takes them for, it loads and runs nothing."""
_ALWAYS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
_UNLESS_SAID: Final = (
    (b"content-security-policy", NOTHING.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
_PRIVATE: Final = (*_UNLESS_SAID, (b"cache-control", b"no-store"))
_DEFAULTS: Final = frozenset(name for name, _ in _PRIVATE)
# For this host only: other hosts under its domain are not ours to decide for.
_OVER_TLS: Final = ((b"strict-transport-security", b"max-age=31536000"),)


def script_hashes(page: bytes) -> str:
    """Return the inline scripts of one of our pages for a Content-Security-Policy: 'sha256-…', with spaces between.

    Data blocks, which have a type, are not run and need no hash. Source: Content Security Policy Level 3, 6.7.
    """
    digests = (hashlib.sha256(script).digest() for script in re.findall(rb"<script>(.*?)</script>", page, re.DOTALL))
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


@functools.cache
def _added(*, is_private: bool, is_tls: bool, names: tuple[bytes, ...]) -> Headers:
    defaults = _PRIVATE if is_private else _UNLESS_SAID
    always = _ALWAYS + _OVER_TLS if is_tls else _ALWAYS
    return (*always, *(pair for pair in defaults if pair[0] not in names))


def secured(scope: Scope, headers: Headers) -> Headers:
    """Return an answer's headers with those that every answer has. A page may set its own Content-Security-Policy,
    Referrer-Policy and X-Frame-Options, and an answer its own Cache-Control."""
    names = tuple([name for name, _ in headers if name in _DEFAULTS])
    is_private = scope["path"].startswith("/v1")
    return (*headers, *_added(is_private=is_private, is_tls=scope["scheme"] == "https", names=names))

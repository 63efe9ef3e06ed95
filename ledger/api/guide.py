"""The documentation site, which `make docs` builds from `docs/` and the code, and which the wheel and the image carry.

It loads nothing from another host, and each page runs only its own files and the inline scripts that it came with.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from ledger.api.headers import script_hashes
from ledger.errors import NotFound

router = APIRouter(include_in_schema=False)

SITE: Final = Path(str(files("ledger"))) / "site"
_KEPT: Final = {"Cache-Control": "max-age=3600"}
_ABSENT: Final = """<!doctype html>
<html lang="en"><title>Documentation</title>
<h1>The documentation is not built</h1>
<p>The wheel and the image carry it. In a clone, build it, and load this page again:</p>
<pre>make docs</pre>
<p>The calls are at <a href="/docs">/docs</a>.</p>
</html>
"""


@router.get("/docs/guide")
def front() -> Response:
    """Redirect to the front page: links of the site's pages are relative."""
    return RedirectResponse("/docs/guide/")


@router.get("/docs/guide/{path:path}")
def page(path: str) -> Response:
    """Return a page or another file of the site."""
    if not SITE.is_dir():
        return HTMLResponse(_ABSENT, status_code=404)
    file = (SITE / (path or "index.html")).resolve()
    if not file.is_relative_to(SITE.resolve()) or not file.is_file():
        raise NotFound("The documentation has no such page. Its front page is /docs/guide/.")
    if file.suffix != ".html":
        return FileResponse(file, headers=_KEPT)
    content = file.read_bytes()
    return HTMLResponse(content, headers={"Content-Security-Policy": policy(content)})


def policy(content: bytes) -> str:
    """Return the policy of a page: this server's files, and the page's inline scripts by their hashes.

    The search runs in a worker and reads its index; a table's columns are aligned by style attributes.
    """
    return (
        f"default-src 'none'; script-src 'self' {script_hashes(content)}; style-src 'self' 'unsafe-inline';"
        " img-src 'self' data:; font-src 'self'; connect-src 'self'; worker-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )

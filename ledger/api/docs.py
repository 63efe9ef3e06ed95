"""The interactive documentation: Swagger UI, served from a package and not from another host, under a strict policy."""

from __future__ import annotations

import mimetypes
from importlib.resources import files
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, Response

from ledger.api.headers import script_hashes
from ledger.api.limits import Together

router = APIRouter(include_in_schema=False)

_FOLDER: Final = Path(str(files("fastapi_offline"))) / "static"
_FILES: Final = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")
_PAGE: Final = bytes(
    get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Privacy budget ledger",
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon.png",
    ).body
)
POLICY: Final = (
    f"default-src 'none'; script-src 'self' {script_hashes(_PAGE)}; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Allows its own files, and its one inline script by hash. Swagger UI sets styles on elements: 'unsafe-inline'."""


@router.get("/openapi.json")
async def document(request: Request) -> Response:
    """Return the OpenAPI document."""
    described: Together[bytes] = request.app.state.described
    return Response(await described.ask(), media_type="application/json")


@router.get("/docs")
async def page() -> Response:
    """Return the page that lists the calls and lets a reader try them."""
    return HTMLResponse(_PAGE, headers={"Content-Security-Policy": POLICY})


def _add(file: str) -> None:
    # Read once, so that requests never make the server open files.
    content, (media_type, _) = (_FOLDER / file).read_bytes(), mimetypes.guess_type(file)

    @router.get(f"/docs/{file}", name=file)
    async def asset() -> Response:
        return Response(content, media_type=media_type, headers={"Cache-Control": "max-age=3600"})


for _file in _FILES:
    _add(_file)

"""The documentation to try calls in: Swagger UI, from a package and not from another host, under a strict policy."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import FileResponse, HTMLResponse, Response

from ledger.api.headers import script_hashes

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
"""Its own files, and its one inline script by its hash. Swagger UI sets styles on elements, which only this allows."""


@router.get("/docs")
def page() -> Response:
    """The calls, to read and to try."""
    return HTMLResponse(_PAGE, headers={"Content-Security-Policy": POLICY})


def _add(file: str) -> None:
    @router.get(f"/docs/{file}", name=file)
    def asset() -> Response:
        return FileResponse(_FOLDER / file, headers={"Cache-Control": "max-age=3600"})


for _file in _FILES:
    _add(_file)

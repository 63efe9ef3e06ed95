"""Whether the process lives, whether it can do its work, the keys it signs with, and the way to the documentation.

Anyone can ask for these, so none of them takes a thread of those that callers' requests have.
"""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from ledger.api.limits import Together
from ledger.api.metrics import MEDIA_TYPE
from ledger.api.problems import Json
from ledger.api.schemas.common import Health, KeySet
from ledger.api.services import Services, services
from ledger.errors import Overloaded

KEYS_SECONDS: Final = 300
"""How long a key set may be kept by whoever fetched it."""

router = APIRouter(tags=["system"])


@router.get("/healthz", responses={200: {"model": Health}}, response_model=None)
async def healthz() -> Response:
    """The process lives."""
    return Json(Health(status="ok"))


@router.get("/readyz", responses={200: {"model": Health}}, response_model=None)
async def readyz(request: Request) -> Response:
    """The process can do its work: the database answers, its schema is the one this code needs, the writer runs."""
    readiness: Together[None] = request.app.state.readiness
    await readiness.ask()
    return Json(Health(status="ok"))


def readiness(served: Services) -> None:
    """Raises Overloaded if the process cannot do its work. Asks the database."""
    if not served.writer.is_alive:
        raise Overloaded("A writer thread of this process died; it has to be started anew.")
    revision = served.store.revision()
    if revision != served.schema_revision:
        raise Overloaded(f"The schema is at {revision}, this code needs {served.schema_revision}: run migrate.")


@router.get(
    "/metrics",
    responses={200: {"content": {"text/plain": {}}, "description": "Counters of this process, for Prometheus."}},
    response_class=Response,
    response_model=None,
)
async def show_metrics(request: Request) -> Response:
    """Show what this process counted: requests, decisions, failed sign-ins, what waits. Of no tenant by name."""
    exposition: Together[bytes] = request.app.state.exposition
    return Response(await exposition.ask(), media_type=MEDIA_TYPE)


@router.get("/.well-known/jwks.json", responses={200: {"model": KeySet}}, response_model=None)
async def show_keys(request: Request) -> Response:
    """Show the public keys, as a JWK set, by which receipts can be checked: the current one, and those before it."""
    kept = {"Cache-Control": f"public, max-age={KEYS_SECONDS}"}
    return Json(services(request).signer.jwks(), headers=kept)


@router.get("/", include_in_schema=False, response_model=None)
async def root() -> Response:
    """There is no dashboard yet."""
    return RedirectResponse("/docs")

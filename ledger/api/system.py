"""Calls about the process: whether it lives and can work, its public keys, and the documentation.

Anyone may make them, so none of them uses a thread that callers' requests need.
"""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from ledger.api.draining import Draining
from ledger.api.limits import Together
from ledger.api.metrics import MEDIA_TYPE
from ledger.api.problems import Json
from ledger.api.schemas.common import Health, KeySet, Readiness
from ledger.api.services import Services, services
from ledger.errors import Overloaded
from ledger.recovery.known import SHOWN_MAX
from ledger.store import DAMAGED

KEYS_SECONDS: Final = 300
"""How long a key set may be cached."""

router = APIRouter(tags=["system"])


@router.get("/healthz", responses={200: {"model": Health}}, response_model=None)
async def healthz() -> Response:
    """Answer while the process lives."""
    return Json(Health(status="ok"))


@router.get("/readyz", responses={200: {"model": Readiness}}, response_model=None)
async def readyz(request: Request) -> Response:
    """Answer 200 if the process can work: the database answers, has the schema of this version, and the writer runs.
    `contradicted` has the journals on which nothing is decided, because the database lost entries of them."""
    readiness: Together[Readiness] = request.app.state.readiness
    return Json(await readiness.ask())


def readiness(served: Services, draining: Draining) -> Readiness:
    """Return what an operator should know. Raises Overloaded if the process cannot work. Asks the database."""
    if not served.writer.is_alive:
        raise Overloaded("A writer thread of this process has died. Restart the process.")
    if draining.has_begun:
        raise Overloaded("This process is about to end. Send requests to another one.", retry_after_seconds=5)
    health = served.writer.health
    if health.is_damaged:
        raise Overloaded(DAMAGED, retry_after_seconds=60)
    if health.is_failing:  # found out by a commit of no consequence, because a balancer sends no other any more
        with served.store.leases() as leases:
            leases.probe()
        health.committed()
    revision = served.store.revision()
    if revision != served.schema_revision:
        raise Overloaded(
            f"The database's schema is at {revision}, and this version needs {served.schema_revision}. Run"
            " `privacy-ledger migrate`."
        )
    shown = Readiness(status="ok")
    if contradicted := served.known.contradicted:
        shown["contradicted"] = [
            {"journal": "tenant" if journal[1] is None else str(journal[1]), "missing": found.missing}
            for journal, found in sorted(contradicted.items(), key=lambda item: str(item[0]))[:SHOWN_MAX]
        ]
    warnings = [] if health.remark is None else [health.remark]
    if served.keeper.failure is not None:
        warnings.append("the heads of journals cannot be kept outside the database; the log has the reason")
    if warnings:
        shown["warnings"] = warnings
    return shown


@router.get(
    "/metrics",
    responses={200: {"content": {"text/plain": {}}, "description": "Counters of this process, for Prometheus."}},
    response_class=Response,
    response_model=None,
)
async def show_metrics(request: Request) -> Response:
    """Show the counters of this process: requests, decisions, failed sign-ins, queues. No tenant is named."""
    exposition: Together[bytes] = request.app.state.exposition
    return Response(await exposition.ask(), media_type=MEDIA_TYPE)


@router.get("/.well-known/jwks.json", responses={200: {"model": KeySet}}, response_model=None)
async def show_keys(request: Request) -> Response:
    """Show the public keys that check receipts, as a JWK set: the current one, then the earlier ones."""
    kept = {"Cache-Control": f"public, max-age={KEYS_SECONDS}"}
    return Json(services(request).signer.jwks(), headers=kept)


@router.get("/", include_in_schema=False, response_model=None)
async def root() -> Response:
    """Redirect to the pages for people."""
    return RedirectResponse("/ui", status_code=303)

"""Put the application together. An ASGI server runs `create_app`."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cached_property
from typing import Any, Final

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from ledger import __version__
from ledger.api import (
    alerts,
    contract,
    dashboard,
    datasets,
    docs,
    evaluate,
    guide,
    overview,
    plan,
    problems,
    proposals,
    ready,
    reports,
    runs,
    system,
    tenants,
)
from ledger.api.build import Builder
from ledger.api.calls import Calls
from ledger.api.lag import undisturbed
from ledger.api.limits import Buckets, Crowd, Shares, Together
from ledger.api.metrics import Metrics
from ledger.api.middleware import Bodies, Recognise, Recogniser, Unread
from ledger.api.observe import Observe
from ledger.api.problems import Problem
from ledger.api.protocol import STATE, Connections
from ledger.api.schemas.common import Problem as ProblemShown
from ledger.api.services import Served
from ledger.api.streams import Streams
from ledger.settings import Settings, load

_DESCRIPTION = """
The system of record for differential-privacy budgets. A steward registers a dataset with a budget. A training run asks
the ledger before it touches the data. The ledger computes the cost of the run, adds it to everything spent before, and
approves or refuses the run. Every decision is recorded permanently. Errors are `application/problem+json` with a stable
`code`.
The [guide](/docs/guide) has a tutorial, how-to pages, explanations and the whole reference.
"""


_PARTS: Final = (runs, overview, datasets, reports, evaluate, plan, proposals, tenants, alerts, system, docs, guide)


def declared_routes() -> list[BaseRoute]:
    """Return the routes of every call, as they are in the OpenAPI document."""
    return [route for part in _PARTS for route in part.router.routes]


class Application(FastAPI):
    """FastAPI with `application/problem+json` as the media type of errors in the OpenAPI document."""

    def build_middleware_stack(self) -> ASGIApp:
        """Build the middleware stack. The outermost one must also see the answers to unexpected errors, which FastAPI
        makes outside of everything that `add_middleware` adds."""
        inner = Unread(super().build_middleware_stack(), bytes_max=self.state.unread_bytes_max)
        return Observe(inner, metrics=self.state.metrics, calls=self.state.calls)

    @cached_property
    def document(self) -> bytes:
        """Return the OpenAPI document as JSON, made once."""
        return json.dumps(self.openapi(), ensure_ascii=False, separators=(",", ":")).encode()

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, made once."""
        if self.openapi_schema is not None:
            return self.openapi_schema
        document = super().openapi()
        contract.describe(document, declared_routes())
        calls = [call for path in document["paths"].values() for call in path.values()]
        for status, answer in [pair for call in calls for pair in call["responses"].items()]:
            if status == "default" or int(status) >= 400:
                answer["content"] = {Problem.media_type: answer["content"]["application/json"]}
            elif links := _links(document, answer):
                answer["links"] = links
        return document


_LEADS_TO: Final = {
    "RunApproved": ("/v1/runs/{id}", "$response.body#/id"),
    "DatasetShown": ("/v1/datasets/{name}", "$response.body#/name"),
    "ProjectShown": ("/v1/projects/{project}", "$response.body#/name"),
    "SecretShown": ("/v1/keys/{id}", "$response.body#/id"),
    "Proposed": ("/v1/proposals/{id}", "$response.body#/proposal/id"),
}
"""For the shape of an answer: the calls that take a name from it, and where in the answer that name is."""


def _links(document: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """Return the calls that an answer leads to, in OpenAPI's form."""
    schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
    path, value = _LEADS_TO.get(schema.get("$ref", "").rpartition("/")[2], (None, ""))
    if path is None:
        return {}
    parameter = path.rpartition("{")[2].rstrip("}")
    return {
        call["operationId"]: {"operationId": call["operationId"], "parameters": {parameter: value}}
        for place, methods in document["paths"].items()
        if place.startswith(path)
        for call in methods.values()
    }


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application for these settings, or for those of the environment."""
    chosen = settings or load()
    metrics = Metrics()
    app = Application(
        title="Privacy budget ledger",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=_lifespan(Builder(chosen, metrics), Connections(chosen, metrics), metrics),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={"default": {"model": ProblemShown, "description": "A problem, with its `code`."}},
    )
    for part in _PARTS:
        app.include_router(part.router)
    app.router.routes.extend(dashboard.ROUTES)
    app.state.metrics = metrics
    app.state.unread_bytes_max = min(chosen.body_bytes_max, chosen.discard_bytes_max)
    app.state.streams = Streams(chosen)
    app.state.readiness = Together(lambda: system.readiness(app.state.services))
    app.state.described = Together(lambda: app.document)
    app.state.exposition = Together(metrics.exposition)
    problems.install(app)
    _add_middleware(app, chosen, metrics)
    return app


def _lifespan(
    builder: Builder, connections: Connections, metrics: Metrics
) -> Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """Run the server's services while the application runs, and give the server's protocol what connections share."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        server = builder.build()
        app.state.services = server.services
        await run_in_threadpool(ready.build, app.routes, declared_routes())
        server.start()
        try:
            with undisturbed(), metrics.lag.watched():
                yield {STATE: connections}
        finally:
            await server.close()

    return lifespan


def _add_middleware(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """Add what every request passes before its route: first the key, then the number of requests, then the body.

    The last one added is passed first.
    """
    requests = Shares("requests", total=settings.requests_max, per_tenant=settings.requests_per_tenant_max)
    held = Shares(
        "bytes of bodies",
        total=settings.body_bytes_held_max,
        per_tenant=settings.body_bytes_held_per_tenant_max,
    )
    metrics.watch_room(requests, held, app.state.streams.sent)
    recogniser = Recogniser(
        keyring=lambda: app.state.services.keyring,
        metrics=metrics,
        rate=_rate(settings),
        failures=Buckets(per_second=settings.failed_sign_ins / 60, burst=settings.failed_sign_ins),
        requests_max=settings.requests_max,
    )
    app.state.calls = Calls(
        lambda: Served(app.state.services, metrics),
        recogniser,
        requests=requests,
        held=held,
        bytes_max=app.state.unread_bytes_max,
        has_pages=bool(settings.cors_origins),
    )
    app.state.dashboard = dashboard.Dashboard(lambda: app.state.services, recogniser, requests)
    app.add_middleware(Bodies, bytes_max=settings.body_bytes_max, held=held)
    app.add_middleware(Crowd, requests=requests)
    app.add_middleware(Recognise, recogniser=recogniser)
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors_origins, **_CORS)


_CORS: Final[dict[str, Any]] = {
    "allow_methods": ["GET", "POST", "PUT", "PATCH", "DELETE"],
    "allow_headers": ["Authorization", "Content-Type", "Idempotency-Key", "X-Request-ID"],
    "expose_headers": ["Idempotent-Replayed", "Retry-After", "X-Request-ID"],
    # The holder of a key sends it; a browser never sends it on its own.
    "allow_credentials": False,
    "max_age": 600,
}


def _rate(settings: Settings) -> Buckets | None:
    if settings.rate_per_second is None:
        return None
    burst = settings.rate_burst or max(1, math.ceil(settings.rate_per_second))
    return Buckets(per_second=settings.rate_per_second, burst=burst)

"""Puts the application together. `create_app` is what an ASGI server runs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from ledger import __version__
from ledger.access.keys import Keyring
from ledger.access.oidc import Issuers
from ledger.alerting.courier import Courier, Hosts
from ledger.api import alerts, datasets, docs, evaluate, plan, problems, proposals, reports, runs, system, tenants
from ledger.api.headers import SecurityHeaders
from ledger.api.limits import Buckets, Crowd
from ledger.api.metrics import Metrics
from ledger.api.middleware import Recognise, SizeLimit
from ledger.api.observe import Observe
from ledger.api.problems import Problem
from ledger.api.schemas.common import Problem as ProblemShown
from ledger.api.services import Services
from ledger.core.alerting import Alert, AlertKind
from ledger.errors import Overloaded
from ledger.operate import deploy
from ledger.service.alerts import Alerts
from ledger.service.catalogue import Catalogue
from ledger.service.certificates import Certificates
from ledger.service.datasets import Datasets
from ledger.service.journals import Journals
from ledger.service.keys import Keys
from ledger.service.planner import Planner
from ledger.service.proposals import Proposals
from ledger.service.runs import Runs
from ledger.service.tenants import Tenants
from ledger.service.writer import Writer
from ledger.settings import Settings, load
from ledger.signer import keyfile
from ledger.signer.heads import Heads
from ledger.signer.publish import Publisher
from ledger.store import Store, Writing, engine_for

USES_NOTED_SECONDS: Final = 60

_DESCRIPTION = """
The system of record for differential-privacy budgets. A dataset is registered with a budget; a training run asks here
before it touches the data; the ledger works out what the run costs, composes it with all that was spent before, and
approves or refuses it, for ever on record. Errors are `application/problem+json` with a stable `code`.
"""


class Application(FastAPI):
    """FastAPI whose document says that errors are application/problem+json; its own has one media type for a route."""

    def build_middleware_stack(self) -> ASGIApp:
        """What every request passes. Outermost is what must see the answer to an unforeseen error too, which FastAPI
        makes outside of all that `add_middleware` adds."""
        return Observe(SecurityHeaders(super().build_middleware_stack()), metrics=self.state.metrics)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, made once."""
        if self.openapi_schema is not None:
            return self.openapi_schema
        document = super().openapi()
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
"""What an answer of this shape names, by the calls that take it, and where in the answer the name stands."""


def _links(document: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """The calls that an answer leads to, as OpenAPI says it."""
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
    """The application for these settings, or for those of the environment."""
    chosen = settings or load()
    signer = keyfile.signer_for(chosen)
    issuers = None if chosen.oidc_file is None else Issuers.load(chosen.oidc_file)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        def committed(tenant_id: UUID, told: Sequence[AlertKind]) -> None:
            metrics.alerts(told)
            courier.saw(tenant_id, has_news=bool(told))
            if publisher is not None:
                publisher.moved(tenant_id)

        store = Store(engine_for(chosen.database_url.get_secret_value()))
        threads = 1 if chosen.is_sqlite else chosen.writer_threads
        writer = Writer(
            store,
            threads=threads,
            queue_max=chosen.queue_max,
            group_max=chosen.group_max,
            on_group=metrics.group,
            on_commit=committed,
        )
        heads = Heads(store, signer)
        courier = Courier(
            store,
            writer,
            signer,
            hosts=Hosts(chosen.webhook_hosts),
            every_seconds=chosen.watch_seconds,
            signed_head=heads.signed,
            on_delivery=metrics.delivery,
        )
        publisher = None if chosen.heads_dir is None else _publisher(chosen.heads_dir, store, writer, heads)
        writer.start()
        courier.start()
        certificates = Certificates(store, seconds_max=chosen.certificate_seconds_max, on_computed=metrics.certificate)
        metrics.watch(writer, certificates, courier)
        catalogue = Catalogue(store)
        made = Runs(store, writer, catalogue, certificates, signer)
        registered = Datasets(store=store, writer=writer, catalogue=catalogue)
        keyring = Keyring(store, issuers)
        app.state.services = Services(
            store=store,
            writer=writer,
            keyring=keyring,
            catalogue=catalogue,
            certificates=certificates,
            datasets=registered,
            runs=made,
            planner=Planner(store, catalogue, certificates, made),
            proposals=Proposals(store=store, writer=writer, datasets=registered, runs=made),
            tenants=Tenants(store=store, writer=writer),
            keys=Keys(store=store, writer=writer, keyring=keyring),
            alerts=Alerts(store=store, writer=writer, objection=courier.objection, on_interest=courier.saw),
            journals=Journals(store=store, heads=heads, signer=signer),
            signer=signer,
            heads=heads,
            courier=courier,
            schema_revision=deploy.newest_revision(),
        )
        if publisher is not None:
            publisher.start()
        noting = asyncio.create_task(_note_uses(keyring, writer))
        try:
            yield
        finally:
            noting.cancel()
            _write_uses(keyring, writer)
            certificates.close()
            courier.close()
            writer.close()
            if publisher is not None:
                publisher.close()
            store.close()

    def _publisher(folder: Path, store: Store, writer: Writer, heads: Heads) -> Publisher:
        def tell(tenant_id: UUID, alert: Alert) -> None:
            with suppress(Overloaded):  # it is found again in the next round
                writer.tell(tenant_id, [alert])

        keys = signer.public_keys()
        return Publisher(store, heads, folder, keys=keys, on_outcome=metrics.head, on_contradiction=tell)

    metrics = Metrics()
    app = Application(
        title="Privacy budget ledger",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={"default": {"model": ProblemShown, "description": "A problem, with its `code`."}},
    )
    for part in (runs, datasets, reports, evaluate, plan, proposals, tenants, alerts, system, docs):
        app.include_router(part.router)
    app.state.metrics = metrics
    problems.install(app)
    # The last one added is passed first.
    app.add_middleware(
        Recognise,
        keyring=lambda: app.state.services.keyring,
        metrics=metrics,
        rate=_rate(chosen),
        failures=Buckets(per_second=chosen.failed_sign_ins / 60, burst=chosen.failed_sign_ins),
    )
    app.add_middleware(SizeLimit, bytes_max=chosen.body_bytes_max)
    app.add_middleware(Crowd, requests_max=chosen.requests_max)
    if chosen.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=chosen.cors_origins, **_CORS)
    return app


async def _note_uses(keyring: Keyring, writer: Writer) -> None:
    """Now and then, not at every request, writes down when each key was used last."""
    while True:
        await asyncio.sleep(USES_NOTED_SECONDS)
        _write_uses(keyring, writer)


def _write_uses(keyring: Keyring, writer: Writer) -> None:
    for tenant_id, used in keyring.uses().items():
        try:
            writer.run(tenant_id, partial(_noted, used))
        except Overloaded:
            continue  # decisions come first; it is noted at the next use


def _noted(used: Mapping[UUID, int], writing: Writing) -> None:
    writing.note_use(used)


_CORS: Final[dict[str, Any]] = {
    "allow_methods": ["GET", "POST", "PUT", "PATCH", "DELETE"],
    "allow_headers": ["Authorization", "Content-Type", "Idempotency-Key", "X-Request-ID"],
    "expose_headers": ["Idempotent-Replayed", "Retry-After", "X-Request-ID"],
    # A key is sent by whoever holds it, never by the browser of itself.
    "allow_credentials": False,
    "max_age": 600,
}


def _rate(settings: Settings) -> Buckets | None:
    if settings.rate_per_second is None:
        return None
    burst = settings.rate_burst or max(1, math.ceil(settings.rate_per_second))
    return Buckets(per_second=settings.rate_per_second, burst=burst)

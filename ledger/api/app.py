"""Puts the application together. `create_app` is what an ASGI server runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from ledger import __version__, deploy
from ledger.api import datasets, evaluate, plan, problems, runs, system, tenants
from ledger.api.gate import Recognise, SizeLimit
from ledger.api.problems import Problem
from ledger.api.schemas import Problem as ProblemShown
from ledger.api.services import Services
from ledger.catalogue import Catalogue
from ledger.certificates import Certificates
from ledger.keys import Keyring
from ledger.planner import Planner
from ledger.runs import Runs
from ledger.settings import Settings, load
from ledger.store import Store, engine_for
from ledger.writer import Writer

_DESCRIPTION = """
The system of record for differential-privacy budgets. A dataset is registered with a budget; a training run asks here
before it touches the data; the ledger works out what the run costs, composes it with all that was spent before, and
approves or refuses it, for ever on record. Errors are `application/problem+json` with a stable `code`.
"""


class Application(FastAPI):
    """FastAPI whose document says that errors are application/problem+json; its own has one media type for a route."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, made once."""
        if self.openapi_schema is not None:
            return self.openapi_schema
        document = super().openapi()
        calls = [call for path in document["paths"].values() for call in path.values()]
        for status, answer in [pair for call in calls for pair in call["responses"].items()]:
            if status == "default" or int(status) >= 400:
                answer["content"] = {Problem.media_type: answer["content"]["application/json"]}
        return document


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application for these settings, or for those of the environment."""
    chosen = settings or load()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = Store(engine_for(chosen.database_url.get_secret_value()))
        threads = 1 if chosen.is_sqlite else chosen.writer_threads
        writer = Writer(store, threads=threads, queue_max=chosen.queue_max, group_max=chosen.group_max)
        writer.start()
        certificates = Certificates(store, seconds_max=chosen.certificate_seconds_max)
        catalogue = Catalogue(store)
        made = Runs(store, writer, catalogue, certificates)
        app.state.services = Services(
            store,
            writer,
            Keyring(store),
            catalogue,
            certificates,
            made,
            Planner(store, catalogue, certificates, made),
            schema_revision=deploy.newest_revision(),
        )
        try:
            yield
        finally:
            certificates.close()
            writer.close()
            store.close()

    app = Application(
        title="Privacy budget ledger",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        responses={"default": {"model": ProblemShown, "description": "A problem, with its `code`."}},
    )
    for part in (runs, datasets, evaluate, plan, tenants, system):
        app.include_router(part.router)
    problems.install(app)
    app.add_middleware(Recognise, keyring=lambda: app.state.services.keyring)
    app.add_middleware(SizeLimit, bytes_max=chosen.body_bytes_max)
    return app

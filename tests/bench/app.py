"""What the ledger is compared with: the least that a FastAPI application can do, and a transaction per request."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import uuid4

from fastapi import Body, FastAPI, Header
from fastapi.responses import JSONResponse
from sqlalchemy import Engine, text
from starlette.concurrency import run_in_threadpool

from ledger.settings import load
from ledger.store import engine_for

ANSWER = {"id": "x" * 36, "state": "held", "decision": "approved", "assumptions": ["x" * 70] * 7}


def create_app() -> FastAPI:
    """`Authorization: Bearer echo` answers at once, anything else commits first."""
    app = FastAPI()
    engine = engine_for(load().owner_url).execution_options(writing=True)

    @app.post("/v1/runs")
    async def run(body: Annotated[dict[str, Any], Body()], authorization: Annotated[str, Header()]) -> JSONResponse:
        if authorization != "Bearer echo":
            await run_in_threadpool(_charge, engine)
        return JSONResponse({**ANSWER, "datasets": body["datasets"]}, status_code=201)

    return app


def _charge(engine: Engine) -> None:
    """One conditional UPDATE of the hot row and one INSERT, in a transaction of their own."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE bench_budget SET left_over = left_over - 1 WHERE id = 1 AND left_over >= 1"))
        connection.execute(text("INSERT INTO bench_run VALUES (:id, 1)"), {"id": str(uuid4())})

"""What the ledger is compared with: the least that a FastAPI application can do, and a transaction per request.

Both validate the same requests and answer with as many bytes: `BENCH_ANSWERS` has answers of the ledger, by path.
"""

from __future__ import annotations

import json
import os
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import FastAPI, Header
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy import Engine, text
from starlette.concurrency import run_in_threadpool

from ledger.settings import load
from ledger.store import engine_for


class Mechanism(BaseModel):
    """What a run does to the data."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["gaussian"]
    noise_multiplier: float


class Run(BaseModel):
    """What a run asks for."""

    model_config = ConfigDict(extra="forbid")
    datasets: list[str]
    mechanism: Mechanism


def create_app() -> FastAPI:
    """`Authorization: Bearer echo` answers at once, anything else commits first."""
    app = FastAPI()
    engine = engine_for(load().owner_url).execution_options(writing=True)
    answers: dict[str, Any] = json.loads(os.environ["BENCH_ANSWERS"])

    @app.post("/v1/runs")
    async def run(body: Run, authorization: Annotated[str, Header()]) -> JSONResponse:
        if authorization != "Bearer echo":
            await run_in_threadpool(_charge, engine)
        return JSONResponse({**answers["/v1/runs"], "uses": body.datasets}, status_code=201)

    @app.get("/v1/{kind}/{name}")
    async def read(kind: str, name: str, authorization: Annotated[str, Header()]) -> JSONResponse:
        return JSONResponse({**answers[f"/v1/{kind}"], "asked": name, "signed": bool(authorization)})

    return app


def _charge(engine: Engine) -> None:
    """One conditional UPDATE of the hot row and one INSERT, in a transaction of their own."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE bench_budget SET left_over = left_over - 1 WHERE id = 1 AND left_over >= 1"))
        connection.execute(text("INSERT INTO bench_run VALUES (:id, 1)"), {"id": str(uuid4())})

"""The route class of every call: its body is read once, by our own JSON rules."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from ledger.api import body
from ledger.api.problems import problem


class _Request(Request):
    """A request whose body is read as this ledger reads JSON."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            # In one piece: a list of pieces of a byte or two takes thirty times what they hold.
            whole = bytearray()
            async for piece in self.stream():
                whole += piece
            self._body = bytes(whole)
        return self._body

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = body.parse(await self.body())
        return self._json


class Route(APIRoute):
    """A route that takes JSON and nothing else."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        takes_body = self.body_field is not None

        async def checked(request: Request) -> Response:
            request = _Request(request.scope, request.receive)
            if takes_body:
                kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
                is_json = kind == "application/json"
                if (kind and not is_json) or (await request.body() and not is_json):
                    return problem("unsupported-media-type", "Send the body as application/json.", facts={"sent": kind})
                if await request.body():
                    await request.json()  # here, since FastAPI turns every error of its own reading into one
            elif "transfer-encoding" in request.headers:
                await request.body()  # which is not used, but may be too large
            return await handle(request)

        return checked

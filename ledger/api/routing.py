"""The route class of every call: its body is read once, by our own JSON rules, and what is long is read in a thread."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, Final, TypeVar
from uuid import UUID

from fastapi import Request, Response
from fastapi._compat import ModelField
from fastapi.routing import APIRoute

from ledger.access.roles import Operator
from ledger.api import body
from ledger.api.problems import problem
from ledger.api.services import services
from ledger.service import presence

T = TypeVar("T")
_NOBODY: Final = UUID(int=0)
_Outcome = tuple[Any, list[dict[str, Any]]]
_checked: ContextVar[tuple[Any, _Outcome] | None] = ContextVar("checked", default=None)
"""The JSON of the current request's body, and what came of validating it in a thread."""


class _Field(ModelField):
    """A body that is validated where FastAPI asks for it, unless that was done beforehand."""

    def validate(
        self,
        value: Any,
        values: dict[str, Any] | None = None,
        *,
        loc: tuple[int | str, ...] = (),
    ) -> _Outcome:
        before = _checked.get()
        if before is not None and before[0] is value:
            return before[1]
        return super().validate(value, values or {}, loc=loc)


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

    async def check(self, field: ModelField) -> tuple[Any, _Outcome]:
        """Reads and validates the body, in a thread where it is long. Raises as `body.parse`."""
        raw = await self.body()
        self._json, outcome = await aside(self, partial(_read, raw, field), size=len(raw))
        return self._json, outcome

    async def left(self) -> None:
        """Returns when the caller has gone away. To be called once the body was read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


def _read(raw: bytes, field: ModelField) -> tuple[Any, _Outcome]:
    value = body.parse(raw)
    return value, field.validate(value, {}, loc=("body",))


async def aside(request: Request, work: Callable[[], T], *, size: int | None) -> T:
    """What this work comes to, in a thread where it is on many bytes, or on an unknown number of them (None).

    A tenant's requests take turns there with those of others. Raises what the work does, and Overloaded.
    """
    caller = request.scope.get("state", {}).get("caller")
    tenant_id = _NOBODY if caller is None or isinstance(caller, Operator) else caller.tenant_id
    # In this context, where what is noted for the log belongs to the request.
    return await services(request).aside.run(tenant_id, partial(copy_context().run, work), size=size)


class Route(APIRoute):
    """A route that takes JSON and nothing else."""

    def __init__(self, *args: Any, **rest: Any) -> None:
        super().__init__(*args, **rest)
        fields = self.dependant.body_params
        fields[:] = [_Field(field.field_info, field.name, field.mode, field.config) for field in fields]

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            request = _Request(request.scope, request.receive)
            if self.body_field is not None:
                kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
                is_json = kind == "application/json"
                if (kind and not is_json) or (await request.body() and not is_json):
                    return problem("unsupported-media-type", "Send the body as application/json.", facts={"sent": kind})
                if await request.body():
                    # Here, since FastAPI turns every error of its own reading into one.
                    _checked.set(await request.check(self.dependant.body_params[0]))
            elif "transfer-encoding" in request.headers:
                await request.body()  # which is not used, but may be too large
            with presence.watched(request.left):
                return await handle(request)

        return checked

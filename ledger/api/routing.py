"""The route class of every call: it reads the body once, by our own JSON rules, and a long body in a thread."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable, Iterable, Iterator, Sequence
from contextvars import copy_context
from functools import cache, partial
from typing import Any, Final, TypeVar, cast
from uuid import UUID

from fastapi import Request, Response
from fastapi._compat import ModelField
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

from ledger import mistakes
from ledger.access.roles import Caller, Operator
from ledger.api import body
from ledger.api.limits import caller_of
from ledger.api.problems import ERRORS_SHOWN_MAX, Unfit, problem
from ledger.api.services import Served, served
from ledger.errors import InvalidRequest
from ledger.service import presence
from ledger.suggest import NAME_LENGTH_MAX, or_list

T = TypeVar("T")
_NOBODY: Final = UUID(int=0)
MISTAKES_MAX: Final = 1000
"""How many mistakes of one body are listed."""


class _Request(Request):
    """A request whose body is read by the ledger's JSON rules, and validated before FastAPI asks for it."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            # In one piece: a list of pieces of a byte or two takes thirty times their size.
            whole = bytearray()
            async for piece in self.stream():
                whole += piece
            self._body = bytes(whole)
        return self._body

    async def json(self) -> Any:
        """Return the validated model, or an `Unfit` with the errors (called by FastAPI)."""
        return self._json

    async def check(self, field: ModelField) -> None:
        """Read and validate the body, in a thread if it is long. Raises the same as `body.parse`."""
        raw = await self.body()
        read = partial(read_body, raw, cast("Hashable", field.field_info.annotation))
        self.scope["state"]["sent"], self._json = await aside(served(self), caller_of(self.scope), read, size=len(raw))

    async def left(self) -> None:
        """Return when the caller has gone. Call it only after the body was read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


def sent(request: Request) -> Any:
    """Return the JSON of the body, as it was sent."""
    return request.scope["state"]["sent"]


@cache
def adapter(annotation: Hashable) -> TypeAdapter[Any]:
    """Return what validates bodies of this type, made once."""
    return TypeAdapter(cast("Any", annotation))


def read_body(raw: bytes, annotation: Hashable) -> tuple[Any, Any]:
    """Return the JSON, and its model or its errors, an `Unfit`. Raises InvalidJson and InvalidRequest."""
    value = body.parse(raw)
    try:
        return value, adapter(annotation).validate_python(value, from_attributes=True)
    except ValidationError as error:
        return value, Unfit.of(found_in(error, annotation))


def found_in(error: ValidationError, annotation: Any) -> list[dict[str, Any]]:
    """Return the errors of a body as FastAPI names them, each with what its place takes. annotation: the body's type.

    Pydantic lists all or none, and no other thread runs meanwhile: of a hundred thousand errors, only the number is
    returned."""
    count = error.error_count()
    if count > MISTAKES_MAX:
        return [{"type": "mistakes", "loc": ("body",), "msg": f"has {count} errors, too many to list"}]
    found = error.errors(include_url=False)[: ERRORS_SHOWN_MAX + 1]
    return [{**item, "loc": ("body", *item["loc"])} for item in mistakes.described(found, annotation)]


async def aside(served: Served, caller: Caller | None, work: Callable[[], T], *, size: int | None) -> T:
    """Return the result of this work; it runs in a thread if its input is large or of unknown size (None).

    Tenants take turns in these threads. Raises what the work raises, and Overloaded.
    """
    tenant_id = _NOBODY if caller is None or isinstance(caller, Operator) else caller.tenant_id
    # In this context, where what is noted for the log belongs to the request.
    return await served.services.aside.run(tenant_id, partial(copy_context().run, work), size=size)


def demand_known(given: Iterable[str], known: Sequence[str]) -> None:
    """Raise InvalidRequest for a query parameter that a call does not have: it would have no effect, unnoticed."""
    for name in given:
        if name not in known:
            field = name.encode("utf-8", "backslashreplace").decode()[:NAME_LENGTH_MAX]
            end = or_list(name, known)
            hint = f"{end[0].upper()}{end[1:]}" if end else "This call has none. Remove it."
            raise InvalidRequest(f"{field}: is not a query parameter of this call. {hint}", field=field)


def _query_names(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for part in dependant.dependencies:
        yield from _query_names(part)


class Route(APIRoute):
    """A route that takes JSON and nothing else."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        known = sorted(_query_names(self.dependant))

        async def checked(request: Request) -> Response:
            request = _Request(request.scope, request.receive)
            demand_known(request.query_params, known)
            if self.body_field is not None:
                kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
                is_json = kind == "application/json"
                if (kind and not is_json) or (await request.body() and not is_json):
                    return problem(
                        "unsupported-media-type",
                        "The Content-Type of the body is not JSON. Send it as application/json.",
                        facts={"sent": kind},
                    )
                if await request.body():
                    # Here, because FastAPI turns every error of its own reading into one.
                    await request.check(self.body_field)
            elif "transfer-encoding" in request.headers:
                await request.body()  # which is not used, but may be too large
            with presence.watched(request.left):
                return await handle(request)

        return checked

"""The calls that programs make all the time, answered without the framework.

A training platform asks, starts and settles thousands of times in a row. For each of these FastAPI walks through its
routes and middleware and solves dependencies, which takes longer than the decision. `Calls` knows the seven of them,
and does the same in one function: recognise the caller, count the request and its body, read, validate, call the same
function as the route. A request that is in any way unusual (see `_plain`) goes to the routes, which describe these
calls in the OpenAPI document and answer them too.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from uuid import UUID, uuid4

from cachetools import LRUCache
from fastapi import Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from ledger.api import batches, runs
from ledger.api.done import answered
from ledger.api.gate import Allowed
from ledger.api.limits import Shares, in_pieces
from ledger.api.meant import with_meant
from ledger.api.middleware import Recogniser
from ledger.api.problems import Json, Unfit, of_error, of_exception, of_validation
from ledger.api.routing import aside, read_body
from ledger.api.services import Served
from ledger.core.people import Actor, Consent
from ledger.errors import LedgerError
from ledger.service import presence
from ledger.service.asked import canonical
from ledger.service.asking import kind_of
from ledger.service.requests.runs import NewBatch, RunRequest, SettleRequest, StartRequest, VoidRequest, as_kept

BODIES_MAX: Final = 1_024
BODY_BYTES_MAX: Final = 2_048
"""How many short bodies are remembered with what they say: a sweep asks the same again and again."""
_RUN: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
_RUNS: Final = "/v1/runs"
_DATASETS: Final = "/v1/datasets/"


@dataclass(frozen=True, slots=True)
class _Body:
    """A body that was read: its JSON, its model, and of a request for a run what `Item` has of texts."""

    sent: Any
    model: Any
    size: int
    text: str | None = None
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, as far as a call needs it. name: the run or dataset in its path."""

    served: Served
    caller: Actor
    name: str
    headers: dict[bytes, bytes]
    body: _Body | None

    @property
    def run(self) -> UUID:
        return UUID(self.name)


@dataclass(frozen=True, slots=True)
class Call:
    """A call: the path of its route, who may make it, what its body is, and its answer."""

    path: str
    allowed: Allowed
    answer: Callable[[_Asked], Awaitable[Response]]
    body: Hashable | None = None
    needs_body: bool = False


async def _ask(asked: _Asked) -> Response:
    body, key = _body(asked), asked.headers.get(b"idempotency-key")
    named = None if key is None else key.decode("latin-1")
    return await runs.ask_for(
        *(asked.served, asked.caller, body.model, body.sent),
        key=named,
        size=body.size,
        text=body.text,
        kind=body.kind,
    )


async def _ask_all(asked: _Asked) -> Response:
    body = _body(asked)
    return await batches.ask_for_all(asked.served, asked.caller, body.sent["runs"], body.model)


async def _start(asked: _Asked) -> Response:
    request = None if asked.body is None else asked.body.model
    return await runs.start_run(asked.served, asked.caller, asked.run, request)


async def _settle(asked: _Asked) -> Response:
    stated = asked.body is not None and asked.body.model is not None
    request, sent = (asked.body.model, asked.body.sent) if asked.body is not None and stated else (SettleRequest(), {})
    return Json(await asked.served.services.runs.settle(asked.caller, asked.run, request=request, body=sent))


async def _void(asked: _Asked) -> Response:
    body, consent = _body(asked).model.model_dump(exclude_none=True), Consent(uuid4())
    return answered(await asked.served.services.runs.void(asked.caller, asked.run, body=body, consent=consent))


async def _show_run(asked: _Asked) -> Response:
    return Json(await asked.served.services.runs.show(asked.caller, asked.run))


async def _show_dataset(asked: _Asked) -> Response:
    return Json(await asked.served.services.datasets.show(asked.caller, asked.name))


def _body(asked: _Asked) -> _Body:
    if asked.body is None:
        raise TypeError("a call without the body that it needs is the framework's")
    return asked.body


_MAY_ASK, _MAY_READ, _MAY_END = Allowed("ask for runs"), Allowed("read"), Allowed("end runs")
_ASK: Final = Call("/v1/runs", _MAY_ASK, _ask, RunRequest, needs_body=True)
_BATCH: Final = Call("/v1/runs/batch", _MAY_ASK, _ask_all, NewBatch, needs_body=True)
_MOVES: Final = {
    "start": Call("/v1/runs/{id}/start", _MAY_ASK, _start, StartRequest | None),
    "settle": Call("/v1/runs/{id}/settle", _MAY_ASK, _settle, SettleRequest | None),
    "void": Call("/v1/runs/{id}/void", _MAY_END, _void, VoidRequest, needs_body=True),
}
_RUN_SHOWN: Final = Call("/v1/runs/{id}", _MAY_READ, _show_run)
_DATASET_SHOWN: Final = Call("/v1/datasets/{name}", _MAY_READ, _show_dataset)


def _found(method: str, path: str) -> tuple[Call, str] | None:
    """Return the call of a path, and the name in it."""
    if method == "POST" and path.startswith(_RUNS):
        if path == _RUNS:
            return _ASK, ""
        name, _, verb = path[len(_RUNS) + 1 :].partition("/")
        if verb in _MOVES and _RUN.fullmatch(name):
            return _MOVES[verb], name
        return (_BATCH, "") if path == _BATCH.path else None
    if method == "GET":
        if path.startswith(_DATASETS) and _NAME.fullmatch(name := path[len(_DATASETS) :]):
            return _DATASET_SHOWN, name
        if path.startswith(_RUNS) and _RUN.fullmatch(name := path[len(_RUNS) + 1 :]):
            return _RUN_SHOWN, name
    return None


class Calls:
    """Answers the calls. Belongs to one event loop.

    requests, held: the room for requests and their bodies, which the routes share. bytes_max: the longest body that is
    not the framework's. has_pages: whether pages of other origins may call, whose requests are the framework's.
    """

    def __init__(
        self,
        served: Callable[[], Served],
        recogniser: Recogniser,
        *,
        requests: Shares,
        held: Shares,
        bytes_max: int,
        has_pages: bool,
    ) -> None:
        self._served, self._recogniser, self._requests, self._held = served, recogniser, requests, held
        self._bytes_max, self._has_pages = bytes_max, has_pages
        self._bodies = LRUCache[tuple[Hashable, bytes], _Body](BODIES_MAX)

    def of(self, scope: Scope) -> tuple[Call, str, dict[bytes, bytes]] | None:
        """Return the call that a request is, the name in its path, and its headers; None if it is the framework's."""
        found = _found(scope["method"], scope["path"])
        if found is None or scope["query_string"]:
            return None
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if len(headers) != len(scope["headers"]) or not self._is_plain(found[0], headers):
            return None
        return (*found, headers)

    def _is_plain(self, call: Call, headers: dict[bytes, bytes]) -> bool:
        """Return whether a request has nothing about it that needs the framework."""
        if b"transfer-encoding" in headers or b"expect" in headers or (self._has_pages and b"origin" in headers):
            return False
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 9 or int(length) > self._bytes_max:
            return False
        if length == b"0":
            return not call.needs_body and b"content-type" not in headers
        return call.body is not None and headers.get(b"content-type") == b"application/json"

    async def answer(
        self, call: tuple[Call, str, dict[bytes, bytes]], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer a request. It counts as served until most of the answer is sent."""
        what, name, headers = call
        scope["route"], scope["path_params"] = what, {"id": name}
        try:
            caller = await self._recogniser.admit(scope, headers.get(b"authorization", b"").decode("latin-1"))
            self._requests.take(caller)
        except LedgerError as error:
            await _send(of_error(error), send)
            return
        except Exception as error:
            await _send(of_exception(error), send)
            return
        try:
            await _send(await self._answer(what, name, headers, scope, receive), partial(in_pieces, send))
        finally:
            self._requests.give(caller)

    async def _answer(
        self, call: Call, name: str, headers: dict[bytes, bytes], scope: Scope, receive: Receive
    ) -> Response:
        caller, size, served = scope["state"]["caller"], 0, self._served()
        try:
            body = None
            if call.body is not None and b"content-length" in headers:
                raw = bytearray()
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    piece, more = message.get("body", b""), message.get("more_body", False)
                    self._held.take(caller, len(piece))
                    size += len(piece)
                    raw += piece
                body = await self._read(served, caller, bytes(raw), call.body) if raw else None
            actor = call.allowed.demand(caller)
            if body is not None and isinstance(body.model, Unfit):
                raise of_validation(body.model.errors)
            with presence.watched(partial(_left, receive)):
                return await call.answer(_Asked(served, actor, name, headers, body))
        except LedgerError as error:
            return of_error(await with_meant(error, served.services, caller))
        except Exception as error:
            return of_exception(error)
        finally:
            if size:
                self._held.give(caller, size)

    async def _read(self, served: Served, caller: Any, raw: bytes, annotation: Hashable) -> _Body:
        """Return what a body says, with the errors of its model if it does not fit. Raises InvalidJson and
        InvalidRequest."""
        known = self._bodies.get((annotation, raw))
        if known is not None:
            return known
        sent, model = await aside(served, caller, partial(read_body, raw, annotation), size=len(raw))
        kept = as_kept(sent, model) if isinstance(model, RunRequest) else sent
        # A start has a token of its own, so that its body does not come again.
        if len(raw) > BODY_BYTES_MAX or isinstance(model, Unfit | StartRequest):
            return _Body(kept, model, len(raw))
        is_run = annotation is RunRequest
        read = _Body(kept, model, len(raw), *((canonical(kept), kind_of(kept)) if is_run else ()))
        self._bodies[annotation, raw] = read
        return read


async def _left(receive: Receive) -> None:
    """Return when the caller has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(response: Response, send: Send) -> None:
    headers = response.raw_headers
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})

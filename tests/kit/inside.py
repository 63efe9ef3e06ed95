"""A client of the application in this process that hands over to its event loop once for each request.

Starlette's own does so eight times, so that an answer can be read while it is made. That takes longer than most answers
here, of which tests ask for tens of thousands, and nearly all are read whole. Whatever is streamed goes by its way.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import unquote

import anyio
import httpx2
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Scope

PORTS = {"http": 80, "https": 443}


class InsideClient(TestClient):
    """Starlette's client of one application. What that raises is answered with 500, as a server does."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app, raise_server_exceptions=False)
        self._transport = _Transport(self, self._transport)

    def stream(self, method: str, url: str, **rest: Any) -> AbstractContextManager[httpx2.Response]:  # type: ignore[override]
        return super().stream(method, url, extensions={"is_streamed": True}, **rest)


class _Transport(httpx2.BaseTransport):
    """Calls the application on the event loop of its client, which has to be entered."""

    def __init__(self, client: TestClient, streaming: httpx2.BaseTransport) -> None:
        self._client, self._streaming = client, streaming

    def close(self) -> None:
        self._streaming.close()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if "is_streamed" in request.extensions:
            return self._streaming.handle_request(request)
        if self._client.portal is None:
            raise RuntimeError("the application is not running: enter its client with `with`")
        exchange = _Exchange(request.read())
        self._client.portal.call(exchange.run, self._client.app, self._scope(request))
        content = b"" if request.method == "HEAD" else b"".join(exchange.pieces)
        start = exchange.start or {"status": 500}
        return httpx2.Response(
            start["status"],
            headers=list(start.get("headers", ())),
            stream=httpx2.ByteStream(content),
            request=request,
        )

    def _scope(self, request: httpx2.Request) -> Scope:
        url = request.url
        return {
            "type": "http",
            "http_version": "1.1",
            "method": request.method,
            "path": unquote(url.path),
            "raw_path": url.raw_path.partition(b"?")[0],
            "root_path": "",
            "scheme": url.scheme,
            "query_string": url.query,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "client": ("testclient", 50000),
            "server": [url.host, url.port or PORTS[url.scheme]],
            "extensions": {},
            "state": self._client.app_state.copy(),
        }


class _Exchange:
    """One request, and the answer to it."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._answered = anyio.Event()
        self.start: Message | None = None
        self.pieces: list[bytes] = []

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception:
            # It has answered what it did not foresee; what it raises beside that is for a server's log.
            return

    async def _receive(self) -> Message:
        if self._body is None:
            await self._answered.wait()
            return {"type": "http.disconnect"}
        body, self._body = self._body, None
        return {"type": "http.request", "body": body}

    async def _send(self, message: Message) -> None:
        assert not self._answered.is_set(), f"{message['type']} after the answer's end"
        if message["type"] == "http.response.start":
            assert self.start is None, "a second answer to one request"
            self.start = message
        else:
            assert self.start is not None, f"{message['type']} before its status"
            self.pieces.append(message.get("body", b""))
            if not message.get("more_body", False):
                self._answered.set()

"""Clients of the application: the ways to it, and what can happen on them.

The client speaks to the real application over a real database: in this process through a bridge or httpx's ASGI
transport, or through a real server process. Faults are put in between, in a transport around the real one.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from ledger.client import DPSGD, AsyncLedger, Gaussian, Run
from ledger.client import Ledger as Client
from tests.kit.driver import Ledger

URL = "http://127.0.0.1"
COST = 40_000_000_000
"""mu² of one release with noise multiplier 5, in units of 1e-12."""
RELEASE = Gaussian(noise_multiplier=5)
KEY = "pbl_a-secret-that-nobody-may-see"
SGD = DPSGD(noise_multiplier=5, dataset_size=100, batch_size=8, epochs=1)
"""12.5 steps."""


class Bridge(httpx.BaseTransport):
    """Leads a synchronous client to the application in this process."""

    def __init__(self, ledger: Ledger) -> None:
        self._client = ledger.client

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._client.request(
            request.method,
            request.url.raw_path.decode(),
            headers=[(name.decode(), value.decode()) for name, value in request.headers.raw],
            content=request.read(),
            follow_redirects=False,
        )
        return httpx.Response(answer.status_code, headers=list(answer.headers.items()), content=answer.content)


@dataclass
class Faults:
    """What happens to each request in turn, and what was seen of it.

    pass    nothing
    refuse  the connection is refused: the request never arrives
    lose    the server does what was asked, and its answer is lost
    busy    503 with Retry-After: 7, and nothing done
    limit   429, and nothing done
    gateway the server does what was asked, and a gateway in between says 504
    """

    script: list[str] = field(default_factory=list)
    seen: list[httpx.Request] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    def before(self, request: httpx.Request) -> httpx.Response | str:
        self.seen.append(request)
        fault = self.script.pop(0) if self.script else "pass"
        if fault == "refuse":
            raise httpx.ConnectError("[Errno 111] Connection refused", request=request)
        if fault == "busy":
            return problem("overloaded", 503, headers={"Retry-After": "7"})
        return problem("rate-limited", 429) if fault == "limit" else fault

    def after(self, request: httpx.Request, response: httpx.Response, fault: str) -> httpx.Response:
        if fault == "lose":
            raise httpx.ReadTimeout("timed out", request=request)
        return httpx.Response(504, text="<h1>Gateway Timeout</h1>") if fault == "gateway" else response

    def around(self, real: httpx.BaseTransport) -> httpx.BaseTransport:
        faults = self

        class Faulty(httpx.BaseTransport):
            def handle_request(self, request: httpx.Request) -> httpx.Response:
                fault = faults.before(request)
                if isinstance(fault, httpx.Response):
                    return fault
                return faults.after(request, real.handle_request(request), fault)

        return Faulty()

    def around_async(self, real: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        faults = self

        class Faulty(httpx.AsyncBaseTransport):
            async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                fault = faults.before(request)
                if isinstance(fault, httpx.Response):
                    return fault
                return faults.after(request, await real.handle_async_request(request), fault)

        return Faulty()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def problem(code: str, status: int, *, headers: dict[str, str] | None = None, **facts: Any) -> httpx.Response:
    """A problem as the server words it."""
    body = {"type": f"urn:problem:{code}", "title": "No", "status": status, "code": code, "detail": "It said no."}
    return httpx.Response(status, json={**body, **facts}, headers=headers)


def connect(ledger: Ledger, faults: Faults | None = None, **options: Any) -> Client:
    """A synchronous client of the application, through what may go wrong."""
    faults = faults or Faults()
    return Client(URL, ledger.key, transport=faults.around(Bridge(ledger)), sleep=faults.slept.append, **options)


def connect_async(ledger: Ledger, faults: Faults | None = None) -> AsyncLedger:
    """The same, asynchronous."""
    faults = faults or Faults()
    transport = faults.around_async(httpx.ASGITransport(app=ledger.client.app))
    return AsyncLedger(URL, ledger.key, transport=transport, sleep=faults.sleep)


def answering(handler: Callable[[httpx.Request], httpx.Response], **options: Any) -> Client:
    """A client of a server that is not there: `handler` says what it answers."""
    return Client(URL, KEY, transport=httpx.MockTransport(handler), sleep=lambda _: None, **options)


def kinds(ledger: Ledger) -> list[str]:
    """The kinds of entries in the journal, oldest first."""
    items = ledger.get("/v1/datasets/mnist/entries", limit=1000).json()["items"]
    return [item["entry"]["kind"] for item in items]


def raise_after(run: Run, steps: int, error: BaseException, *, then: Callable[[], None] = lambda: None) -> None:
    """Training code that fails after so many steps."""
    run.step(steps)
    then()
    raise error


def died(run: Run) -> None:
    """What the operating system does when a process is killed in its run: its locks are free."""
    assert run._record is not None
    run._record.close()


def copied(error: Any) -> Any:
    """An error as a process of a pool hands it on."""
    return pickle.loads(pickle.dumps(error))  # noqa: S301 (our own)

"""How a call is carried out, with its retries, and nothing of whether that is done by threads or by an event loop.

A flow is a generator: it yields the Call that is to be sent or the Pause that is to be made, is given the response (or
has what went wrong thrown into it), and returns its result. `Ledger` and `AsyncLedger` only do what a flow says.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from ledger.client.calls import Call
from ledger.client.errors import Unreachable, of_response, retry_after_seconds
from ledger.errors import LedgerError
from ledger.web import httpx

log: Final = logging.getLogger("ledger.client")

BACKOFF_SECONDS: Final = 0.5
PAUSE_SECONDS_MAX: Final = 30.0
"""Of our own making; a server may ask for more."""
PAUSES_SECONDS_MAX: Final = 120.0
"""Of one call together. A server that asks for more is not waited for."""

_NOTHING_DONE: Final = frozenset({429, 503})
"""What a server says that did nothing."""
_UNKNOWN: Final = frozenset({502, 504})
"""What a gateway says that does not know what the server did."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before going on."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Server:
    """Where the ledger is, and how often a call is tried again."""

    url: str
    retries: int


T = TypeVar("T")
Flow = Generator[Call | Pause, Any, T]


def carry_out(call: Call, server: Server) -> Flow[httpx.Response]:
    """The answer to a call that was carried out. Raises LedgerError.

    What may have reached the server is sent again only where that does no harm.
    """
    attempt, paused = 0, 0.0
    while True:
        attempt += 1
        try:
            response: httpx.Response = yield call
        except httpx.RequestError as error:
            failure = _no_answer(call, error, server)
        else:
            if response.is_success:
                return response
            failure = _refusal(call, response, server)
        pause = max(failure.wait_seconds, _backoff_seconds(attempt))
        paused += pause
        if not failure.may_repeat or attempt > server.retries or paused > PAUSES_SECONDS_MAX:
            raise failure.error
        log.info("%s %s: %s Again in %.1f s.", call.method, call.path, failure.error, pause)
        yield Pause(pause)


def answered(call: Call, server: Server) -> Flow[dict[str, Any]]:
    """The object that a call is answered with. Raises LedgerError."""
    return read((yield from carry_out(call, server)), server)


def done(call: Call, server: Server) -> Flow[None]:
    """Nothing, when a call that is answered with nothing was carried out. Raises LedgerError."""
    yield from carry_out(call, server)


def read(response: httpx.Response, server: Server) -> dict[str, Any]:
    """The object in an answer. Raises Unreachable for anything else."""
    try:
        answer = json.loads(response.content)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise Unreachable(
            f"What answers at {server.url} is not the ledger: its answer is no JSON object.", url=server.url
        )
    return answer


@dataclass(frozen=True, slots=True)
class _Failure:
    error: LedgerError
    may_repeat: bool
    wait_seconds: float = 0.0


def _refusal(call: Call, response: httpx.Response, server: Server) -> _Failure:
    repeated = _NOTHING_DONE | _UNKNOWN if call.is_repeatable else _NOTHING_DONE
    return _Failure(
        of_response(response, url=server.url),
        may_repeat=response.status_code in repeated,
        wait_seconds=retry_after_seconds(response) or 0.0,
    )


def _no_answer(call: Call, error: httpx.RequestError, server: Server) -> _Failure:
    detail = f"The ledger at {server.url} did not answer: {str(error) or type(error).__name__}."
    facts: dict[str, Any] = {"url": server.url}
    was_sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    if was_sent and not call.is_repeatable:
        detail += " It may have done what was asked: look before you ask again."
    if call.keys:
        again = f"idempotency_key={call.keys[0]!r}" if len(call.keys) == 1 else "the same keys, in `idempotency_keys`"
        detail += f" It may have decided: ask again with {again}." if was_sent else ""
        facts |= {"idempotency_key": call.keys[0]} if len(call.keys) == 1 else {"idempotency_keys": call.keys}
    failure = Unreachable(detail, **facts)
    failure.__cause__ = without_secrets(error)
    hopeless = httpx.UnsupportedProtocol | httpx.LocalProtocolError | httpx.ProxyError
    is_hopeless = isinstance(error, hopeless) or not isinstance(error, httpx.TransportError)
    return _Failure(failure, may_repeat=not was_sent or (call.is_repeatable and not is_hopeless))


def without_secrets(error: httpx.RequestError) -> httpx.RequestError:
    """The same error of httpx, about a request without its headers and body: the key stands in them, and whatever
    writes an exception down, with all that it came from, would write the key down."""
    chain: list[BaseException] = [error]
    for cause in chain:
        if isinstance(cause, httpx.RequestError):
            with suppress(RuntimeError):  # it is about no request
                cause.request = httpx.Request(cause.request.method, cause.request.url)
        chain += [one for one in (cause.__cause__, cause.__context__) if one is not None and one not in chain]
    return error


def _backoff_seconds(attempt: int) -> float:
    """Twice as long each time, less up to half by chance, so that those who failed together come back apart."""
    return min(BACKOFF_SECONDS * 2.0 ** (attempt - 1), PAUSE_SECONDS_MAX) * random.uniform(0.5, 1)  # noqa: S311

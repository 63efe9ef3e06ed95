"""Send a call, with its retries, independent of threads and event loops.

A flow is a generator. It yields the Call to send or the Pause to make, gets the response (or the exception, thrown into
it), and returns its result. `Ledger` and `AsyncLedger` execute flows.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from ledger.client.calls import Call
from ledger.client.errors import Unreachable, of_response, retry_after_seconds
from ledger.client.notebooks import Shown
from ledger.errors import LedgerError
from ledger.web import httpx

log: Final = logging.getLogger("ledger.client")

RETRIES: Final = 6
HURRIED_RETRIES: Final = 3
BACKOFF_SECONDS: Final = 0.5
PAUSE_SECONDS_MAX: Final = 30.0
"""The longest pause by our own backoff. A server may ask for more."""
PAUSES_SECONDS_MAX: Final = 120.0
"""The longest sum of the pauses of a call. If a server asks for more, the call fails."""

_NOTHING_DONE: Final = frozenset({429, 503})
"""Statuses of a server that did nothing."""
_UNKNOWN: Final = frozenset({502, 504})
"""Statuses of a gateway that does not know what the server did."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait, in seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Server:
    """The ledger's URL, and how often a call is retried.

    unreachable_retries: how often if there is no answer. is_aloud: whether each wait is logged as a warning, which
    Python prints to standard error. is_offline: nothing is sent.
    """

    url: str
    retries: int
    unreachable_retries: int | None = None
    is_aloud: bool = False
    is_offline: bool = False

    def in_a_hurry(self) -> Server:
        """Return the same server for a job that waits: a ledger that does not answer is given up in a few seconds,
        unless more retries than the default were asked for."""
        few = min(self.retries, HURRIED_RETRIES) if self.retries <= RETRIES else self.retries
        return replace(self, unreachable_retries=few, is_aloud=True)


T = TypeVar("T")
Flow = Generator[Call | Pause, Any, T]


def carry_out(call: Call, server: Server) -> Flow[httpx.Response]:
    """Send a call, and return the response. Raises LedgerError.

    A call that may have reached the server is sent again only if it is repeatable.
    """
    if server.is_offline:
        raise Unreachable(
            f"LEDGER_OFFLINE is set, so nothing is sent to {server.url}. No run is approved without the ledger.",
            url=server.url,
        )
    attempt, unreachable, paused = 0, 0, 0.0
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
        unreachable += isinstance(failure.error, Unreachable)
        is_given_up = server.unreachable_retries is not None and unreachable > server.unreachable_retries
        if not failure.may_repeat or attempt > server.retries or is_given_up or paused > PAUSES_SECONDS_MAX:
            raise failure.error
        level = logging.WARNING if server.is_aloud else logging.INFO
        log.log(level, "%s %s: %s Again in %.1f s.", call.method, call.path, failure.error, pause)
        yield Pause(pause)


def answered(call: Call, server: Server) -> Flow[dict[str, Any]]:
    """Send a call, and return the JSON object of its answer. Raises LedgerError."""
    return read((yield from carry_out(call, server)), server)


def done(call: Call, server: Server) -> Flow[None]:
    """Send a call whose answer has no body. Raises LedgerError."""
    yield from carry_out(call, server)


def read(response: httpx.Response, server: Server) -> dict[str, Any]:
    """Return the JSON object in an answer. Raises Unreachable if it has none."""
    try:
        answer = json.loads(response.content)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise Unreachable(
            f"The answer from {server.url} is not one of the ledger: it is not a JSON object. Check LEDGER_URL.",
            url=server.url,
        )
    return Shown(answer)


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
    detail = f"The ledger at {server.url} did not answer: {str(error) or type(error).__name__}. Check LEDGER_URL."
    facts: dict[str, Any] = {"url": server.url}
    was_sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    if was_sent and not call.is_repeatable:
        detail += " It may have done it. Check before you call again."
    if call.keys:
        again = f"idempotency_key={call.keys[0]!r}" if len(call.keys) == 1 else "the same keys, in `idempotency_keys`"
        detail += f" It may have decided. To get its decision, ask again with {again}." if was_sent else ""
        facts |= {"idempotency_key": call.keys[0]} if len(call.keys) == 1 else {"idempotency_keys": call.keys}
    failure = Unreachable(detail, **facts)
    failure.__cause__ = without_secrets(error)
    hopeless = httpx.UnsupportedProtocol | httpx.LocalProtocolError | httpx.ProxyError
    is_hopeless = isinstance(error, hopeless) or not isinstance(error, httpx.TransportError)
    return _Failure(failure, may_repeat=not was_sent or (call.is_repeatable and not is_hopeless))


def without_secrets(error: httpx.RequestError) -> httpx.RequestError:
    """Return the error of httpx without the request's headers and body: they contain the key, and a logged exception
    must not."""
    chain: list[BaseException] = [error]
    for cause in chain:
        if isinstance(cause, httpx.RequestError):
            with suppress(RuntimeError):  # the error has no request
                cause.request = httpx.Request(cause.request.method, cause.request.url)
        chain += [one for one in (cause.__cause__, cause.__context__) if one is not None and one not in chain]
    return error


def _backoff_seconds(attempt: int) -> float:
    """Return a pause that doubles each time, less a random part up to half, so that clients do not retry together."""
    return min(BACKOFF_SECONDS * 2.0 ** (attempt - 1), PAUSE_SECONDS_MAX) * random.uniform(0.5, 1)  # noqa: S311

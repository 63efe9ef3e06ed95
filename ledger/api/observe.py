"""One log line and one count for each request: who called what, the outcome, and the duration.

Neither contains anything that a caller wrote: a path appears as its route, a query never, a caller as ids.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Protocol
from uuid import UUID

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger import logs
from ledger.access.roles import Operator
from ledger.api.headers import secured
from ledger.api.metrics import Metrics
from ledger.api.problems import DISCONNECTED
from ledger.errors import BudgetExceeded
from ledger.service.asking import Answer

log = logging.getLogger(__name__)

_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Answers(Protocol):
    """Answers some requests, and without the framework."""

    def of(self, scope: Scope) -> Any:
        """Return which call a request is, if it answers it."""

    async def answer(self, call: Any, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer it."""


class Observe:
    """Gives every request an id, which the answer names, adds the headers that every answer has, and writes the log
    line when it is answered.

    It is the outermost middleware, so that it sees the answer to an unexpected error. That error was logged and
    answered before, so it ends here; otherwise the server would log it again.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, calls: Answers) -> None:
        self.app, self._metrics, self._calls = app, metrics, calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        request_id = _id_of(scope)
        header = (b"x-request-id", request_id.encode())
        facts = logs.begin(request_id)
        status, is_complete = DISCONNECTED, False

        async def answer(message: Message) -> None:
            nonlocal status, is_complete
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = (*secured(scope, message.get("headers", ())), header)
            elif message["type"] == "http.response.body":
                is_complete = not message.get("more_body", False)
            await send(message)

        try:
            call = self._calls.of(scope)
            if call is None:
                await self.app(scope, receive, answer)
            else:
                await self._calls.answer(call, scope, receive, answer)
        except Exception:
            if not is_complete:
                raise
        finally:
            self._tell(scope, facts, status, time.perf_counter() - begun)

    def _tell(self, scope: Scope, facts: dict[str, Any], status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "unknown"
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self._metrics.request(route=route, method=method, status=status, seconds=seconds)
        if not log.isEnabledFor(logging.INFO):
            return
        level = logging.ERROR if status == 500 else logging.WARNING if status in (401, 429, 503) else logging.INFO
        line = {
            "method": method,
            "route": route,
            "status": status,
            "ms": round(1000 * seconds, 1),
            **_caller(scope),
            "run": _run(scope, route),
            **facts,
        }
        log.log(level, "%s %s %s", method, route, status, extra={"facts": line})


def decided(metrics: Metrics, answers: Sequence[Answer]) -> None:
    """Report a decision to the log and the counters."""
    outcomes = ["replayed" if answer.is_replayed else _decision(answer) for answer in answers]
    metrics.decisions(outcomes)
    if len(answers) == 1:
        (answer,) = answers
        logs.note(run=run_of(answer), decision=_decision(answer), replayed=answer.is_replayed or None)
    else:
        logs.note(**Counter(outcomes))


def _decision(answer: Answer) -> str:
    return "refused" if answer.is_refused else "approved"


def run_of(answer: Answer) -> str:
    """Return the id of the run that an answer is about."""
    decision = answer.decision
    return str(decision.facts["run"]) if isinstance(decision, BudgetExceeded) else decision["id"]


def failed_sign_in(metrics: Metrics, scope: Scope, reason: str) -> None:
    """Report to the log and the counters that a caller was not recognised. Journals do not record this."""
    metrics.failed_sign_in(reason)
    logs.note(sign_in=reason, client=address_of(scope))


def address_of(scope: Scope) -> str:
    """Return the client's address: of the connection, or as a trusted proxy reported it."""
    return str((scope.get("client") or ("unknown",))[0])[:64]


def _id_of(scope: Scope) -> str:
    """Return the request id that the caller sent, or a new one. What could be a key or a token is not accepted."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _ID.fullmatch(given) and not logs.SECRET.search(given):
                return str(given)
            break
    # Not from the system's randomness: to ask for that lets every thread that works go first.
    return f"{random.getrandbits(128):032x}"


def _caller(scope: Scope) -> dict[str, str]:
    caller = scope.get("state", {}).get("caller")
    if caller is None:
        return {}
    if isinstance(caller, Operator):
        return {"key": str(caller.key_id), "role": "operator"}
    return {
        "tenant": str(caller.tenant_id),
        "key": str(caller.key_id),
        "principal": str(caller.principal_id),
        "role": caller.role,
    }


def _run(scope: Scope, route: str) -> str | None:
    """Return the run that a path names."""
    if not route.startswith("/v1/runs/{id}"):
        return None
    try:
        return str(UUID(scope["path_params"]["id"]))
    except (KeyError, ValueError, AttributeError, TypeError):
        return None

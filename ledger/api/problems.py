"""Errors as RFC 9457 problems, with a stable `code` and the facts as fields. The one table of HTTP statuses."""

from __future__ import annotations

import logging
from decimal import ROUND_CEILING, Context, Decimal
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match

from ledger import logs, mistakes
from ledger.accounting.display import PLAIN, show_amount
from ledger.accounting.mechanisms import ABOUT_TYPE, field_path, with_nearest
from ledger.api.meant import with_meant
from ledger.api.schemas.common import Problem as ProblemShown
from ledger.core.amounts import Amount
from ledger.encoding import rounding_encoder
from ledger.errors import BudgetBelowSpent, Internal, InvalidMechanism, InvalidRequest, LedgerError, Overloaded
from ledger.service.presence import CallerLeftError
from ledger.store import DAMAGED, failure_kind

log = logging.getLogger(__name__)

STATUS: Final[dict[str, int]] = {
    "unauthenticated": 401,
    "forbidden": 403,
    "not-found": 404,
    "method-not-allowed": 405,
    "budget-exceeded": 409,
    "budget-below-spent": 409,
    "dataset-frozen": 409,
    "run-state": 409,
    "run-waits": 409,
    "overrun": 409,
    "batch-refused": 409,
    "unit-mismatch": 409,
    "partitions-closed": 409,
    "proposal-state": 409,
    "name-taken": 409,
    "journal-contradicted": 409,
    "too-large": 413,
    "unsupported-media-type": 415,
    "invalid-request": 422,
    "invalid-mechanism": 422,
    "idempotency-key-reused": 422,
    "idempotency-key-missing": 400,
    "invalid-json": 400,
    "rate-limited": 429,
    "internal": 500,
    "journal-broken": 500,
    "overloaded": 503,
}
_FRAMEWORK: Final = {404: "not-found", 405: "method-not-allowed", 413: "too-large", 415: "unsupported-media-type"}
ERRORS_SHOWN_MAX: Final = 20
DISCONNECTED: Final = 499
"""The status, in log and metrics, of a request whose client left before the answer, as in nginx."""


def _convert(value: Any) -> Any:
    if isinstance(value, Amount):
        return show_amount(value)
    raise TypeError(f"{type(value).__name__} cannot be part of an answer")


_ENCODE: Final = rounding_encoder(_convert)


class Json(Response):
    """A JSON answer whose exact decimals become numbers. Raises ValueError for NaN and infinities, which JSON does not
    have."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return _ENCODE(content).encode()


class Problem(Json):
    """The answer for an error."""

    media_type = "application/problem+json"


def shape(code: str, detail: str, facts: Any = None) -> ProblemShown:
    """Return a problem: the members that all problems have, and its facts, a mapping."""
    status = STATUS[code]
    kind = f"urn:privacy-ledger:problem:{code}"
    problem = ProblemShown(type=kind, title=HTTPStatus(status).phrase, status=status, code=code, detail=detail)
    if facts is not None:
        problem.update(facts)
    return problem


def problem(
    code: str, detail: str, *, facts: dict[str, Any] | None = None, headers: dict[str, str] | None = None
) -> Problem:
    """Return the answer for a code, with its facts as further members.

    A fault of the server names the request, so that a report of it leads to the log lines.
    """
    status = STATUS[code]
    logs.note(code=code)
    request_id = logs.request_id() if status >= 500 else None
    named = {} if request_id is None else {"request_id": request_id}
    return Problem(shape(code, detail, {**(facts or {}), **named}), status_code=status, headers=headers)


def shape_of(error: LedgerError) -> ProblemShown:
    """Return an error of the ledger as a problem."""
    code = error.code if error.code in STATUS else "internal"
    return shape(code, _detail(error), error.facts)


def of_error(error: LedgerError, *, headers: dict[str, str] | None = None) -> Problem:
    """Return the answer for an error of the ledger."""
    headers = dict(headers or {})
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if error.code == "unauthenticated":
        headers["WWW-Authenticate"] = 'Bearer realm="privacy-ledger"'
    code = error.code if error.code in STATUS else "internal"
    return problem(code, _detail(error), facts=error.facts, headers=headers)


def _detail(error: LedgerError) -> str:
    """Return the message of an error, with the amounts among its facts in numbers."""
    if not isinstance(error, BudgetBelowSpent) or "least" not in error.facts:
        return error.detail
    facts = error.facts
    parts = [
        f"{quantity}: {_rounded_up(PLAIN[quantity](facts['least']))} is spent and held, and the new limit is"
        f" {PLAIN[quantity](facts['limit']):.6g}"
        for quantity in facts["quantities"]
    ]
    return f"{error.detail} {'; '.join(parts)}."


def _rounded_up(value: float) -> str:
    """Return a number with six digits that is not less than the value, so that a limit of it is enough."""
    return f"{Context(prec=6, rounding=ROUND_CEILING).create_decimal(value):g}"


def of_validation(errors: list[dict[str, Any]]) -> LedgerError:
    """Return Pydantic's findings about a request as one error that names every field."""
    # An unknown field first: it is often the required one under another name.
    errors = sorted(errors, key=lambda error: error["type"] != "extra_forbidden")
    items = [{"field": _field(error), "message": _message(error)} for error in errors[:ERRORS_SHOWN_MAX]]
    first = items[0]
    in_mechanism = all(item["field"].split(".")[0] == "mechanism" for item in items)
    kind = InvalidMechanism if in_mechanism else InvalidRequest
    return kind(f"{first['field']}: {first['message']}", field=first["field"], errors=items)


class Unfit(Decimal):
    """Replaces a body that failed validation before FastAPI asked for it, and carries the errors.

    It is a number because no model reads attributes of a number, see `Strict`.
    """

    errors: list[dict[str, Any]]

    @classmethod
    def of(cls, errors: list[dict[str, Any]]) -> Unfit:
        """Return the stand-in for a body with these errors."""
        made = cls()
        made.errors = errors
        return made


def _found(error: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the errors behind an error of the framework."""
    return error["input"].errors if isinstance(error.get("input"), Unfit) else [error]


def _field(error: dict[str, Any]) -> str:
    part, *rest = error["loc"]
    if error["type"] in ABOUT_TYPE:
        rest.append("type")
    path = field_path(tuple(rest)) if part == "body" else ".".join(map(str, rest))
    return path or str(part)


def _message(error: dict[str, Any]) -> str:
    text = mistakes.message(error)
    return with_nearest(text, error) if "mechanism" in error["loc"] else text


def _no_such_call(request: Request) -> Problem:
    """Answer a request that no route takes: its path is unknown, or its method is."""
    methods = [
        method
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]
    if not methods:
        return problem("not-found", "No call has this path. /docs lists all calls.")
    # All of them: Starlette itself names only the methods of the first route if one path has several.
    allow = ", ".join(methods)
    return problem("method-not-allowed", f"This path takes only {allow}.", headers={"Allow": allow})


def of_exception(error: Exception) -> Response:
    """Return the answer for whatever a call raised, and log what nobody expected."""
    if isinstance(error, LedgerError):
        return of_error(error)
    if isinstance(error, ClientDisconnect | CallerLeftError):
        return Response(status_code=DISCONNECTED)  # nobody reads it: the client has gone, or took too long
    if failure_kind(error) == "damaged":
        log.critical("the database is damaged: %s", error)
        return of_error(Overloaded(DAMAGED, retry_after_seconds=60))
    if failure_kind(error) in ("unavailable", "retry"):
        log.warning("the database did not answer: %s", error)
        return of_error(
            Overloaded("The database did not answer in time. Repeat the request with the same Idempotency-Key.")
        )
    log.error("a request failed", exc_info=error)
    return of_error(Internal())


def install(app: FastAPI) -> None:
    """Turn every error of the application, and of the framework under it, into a problem."""

    async def ledger_error(request: Request, error: Exception) -> Response:
        if not isinstance(error, LedgerError):
            return of_error(Internal())
        caller = request.scope.get("state", {}).get("caller")
        return of_error(await with_meant(error, request.app.state.services, caller))

    async def validation_error(_request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            return of_error(Internal())
        return of_error(of_validation([found for item in error.errors() for found in _found(item)]))

    async def framework_error(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        if status in (404, 405):
            return _no_such_call(request)
        if status in _FRAMEWORK:
            return problem(_FRAMEWORK[status], HTTPStatus(status).description or "")
        if 400 <= status < 500:
            return of_error(InvalidRequest(str(getattr(error, "detail", ""))))
        return of_error(Internal())

    async def any_error(_request: Request, error: Exception) -> Response:
        return of_exception(error)

    app.add_exception_handler(LedgerError, ledger_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, framework_error)
    app.add_exception_handler(ClientDisconnect, any_error)
    app.add_exception_handler(CallerLeftError, any_error)
    app.add_exception_handler(Exception, any_error)

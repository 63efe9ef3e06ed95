"""What the application gives the pages. The pages know nothing of the API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from ledger.access.roles import Caller
from ledger.core.people import Actor
from ledger.service.use_cases import UseCases

T = TypeVar("T")


class Door(Protocol):
    """Lets callers in."""

    async def admit(self, scope: Scope, header: str) -> Caller:
        """Return the caller of a header Authorization. Raises Unauthenticated, RateLimited and Overloaded."""

    def enter(self, scope: Scope, caller: Caller) -> None:
        """Let a caller of a session in. Raises RateLimited."""

    async def turn(self, scope: Scope, work: Callable[[], T]) -> T:
        """Return the result of a stranger's sign-in by an issuer, in a thread. Raises RateLimited, Overloaded, and what
        the work raises."""


class Room(Protocol):
    """The places for requests of recognised callers."""

    def one(self, caller: Caller) -> AbstractContextManager[None]:
        """Take a place for the duration of the block. Raises Overloaded."""


class Report(Protocol):
    """Makes audit reports."""

    def __call__(
        self,
        request: Request,
        caller: Actor,
        *,
        form: str,
        dataset: str | None,
        since: datetime | None,
        until: datetime | None,
    ) -> Response:
        """Return the report of a dataset, or of all, as an answer that is made while it is sent. Raises InvalidRequest
        and NotFound."""


class Ask(Protocol):
    """Asks for runs."""

    async def __call__(self, request: Request, caller: Actor, *, body: str, purpose: str | None, key: str) -> str:
        """Ask for the run of this body, as the API reads it, with this purpose and idempotency key. Return the id of
        the run, approved or refused. Raises what the API answers with, and BudgetExceeded for a refusal that is not
        recorded."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The services of the application that is running, its door, its room, how it explains an error (`status`, `code`,
    `title`, `detail` and the error's facts), how it makes reports, and how it asks for runs."""

    services: Callable[[], UseCases]
    door: Door
    requests: Room
    explained: Callable[[Exception], Mapping[str, Any]]
    report: Report
    ask: Ask

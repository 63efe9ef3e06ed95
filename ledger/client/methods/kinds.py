"""The kinds of calls by what they return. `Ledger` and `AsyncLedger` each execute a kind in their own way.

A class of methods inherits the kinds that it needs. The two clients fill in the types, so that editors show them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, Protocol, TypeVar

from ledger.client.calls import Call
from ledger.client.entering import Plan
from ledger.client.flows import Flow, Server, answered, done

Answer = TypeVar("Answer")  # dict[str, Any], or a coroutine of it
Answers = TypeVar("Answers")  # an iterator of those, or an asynchronous one
Done = TypeVar("Done")  # None, or a coroutine of it
Scope = TypeVar("Scope")  # a context manager around a run, or an asynchronous one
Size = TypeVar("Size")  # a number of bytes, or a coroutine of it


class BinaryFile(Protocol):
    """Something to write bytes to, such as a file opened with `"wb"`."""

    def write(self, data: bytes, /) -> object: ...


class _Kind(ABC):
    _server: Server

    @abstractmethod
    def _drive(self, flow: Flow[Any], /) -> Any:
        """Execute a flow."""


class Calls(_Kind, Generic[Answer]):
    """Calls that return an object of the HTTP API, as a plain dictionary."""

    def _send(self, call: Call) -> Answer:
        answer: Answer = self._drive(answered(call, self._server))
        return answer


class Completes(_Kind, Generic[Done]):
    """Calls that return nothing."""

    def _complete(self, call: Call) -> Done:
        nothing: Done = self._drive(done(call, self._server))
        return nothing


class Lists(_Kind, Generic[Answers]):
    """Calls that return a list, page by page."""

    @abstractmethod
    def _list(self, call: Call) -> Answers:
        """Iterate over the items of all pages."""


class Streams(_Kind, Generic[Size]):
    """Calls whose answer is written to a file, piece by piece."""

    @abstractmethod
    def _stream(self, call: Call, file: BinaryFile) -> Size:
        """Write the answer to the file, and return its size in bytes."""


class Scopes(_Kind, Generic[Scope]):
    """The context manager around a run."""

    @abstractmethod
    def _scope(self, plan: Plan) -> Scope:
        """Return the context manager around a run."""

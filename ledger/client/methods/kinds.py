"""The kinds of calls by what they return, each carried out in one way by `Ledger` and in another by `AsyncLedger`.

A class of methods inherits the kinds that it needs; the two clients fill in the types, so that editors show them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, Protocol, TypeVar

from ledger.client.calls import Call
from ledger.client.flows import Flow, Server, answered, done
from ledger.client.runs import Plan

Answer = TypeVar("Answer")  # dict[str, Any], or a coroutine of it
Answers = TypeVar("Answers")  # an iterator of those, or an asynchronous one
Done = TypeVar("Done")  # None, or a coroutine of it
Scope = TypeVar("Scope")  # a context manager around a run, or an asynchronous one
Size = TypeVar("Size")  # a number of bytes, or a coroutine of it


class BinaryFile(Protocol):
    """What can be written to, such as a file opened with `"wb"`."""

    def write(self, data: bytes, /) -> object: ...


class _Kind(ABC):
    _server: Server

    @abstractmethod
    def _drive(self, flow: Flow[Any], /) -> Any:
        """Do what a flow says."""


class Calls(_Kind, Generic[Answer]):
    """Calls that are answered with an object of the HTTP API, as a plain dictionary."""

    def _send(self, call: Call) -> Answer:
        answer: Answer = self._drive(answered(call, self._server))
        return answer


class Completes(_Kind, Generic[Done]):
    """Calls that are answered with nothing."""

    def _complete(self, call: Call) -> Done:
        nothing: Done = self._drive(done(call, self._server))
        return nothing


class Lists(_Kind, Generic[Answers]):
    """Calls that are answered with a list, a page at a time."""

    @abstractmethod
    def _list(self, call: Call) -> Answers:
        """Iterate over the items of all pages."""


class Streams(_Kind, Generic[Size]):
    """Calls whose answer goes to a file, a piece at a time."""

    @abstractmethod
    def _stream(self, call: Call, file: BinaryFile) -> Size:
        """Write the answer to the file, and return its size in bytes."""


class Scopes(_Kind, Generic[Scope]):
    """The run as a context manager."""

    @abstractmethod
    def _scope(self, plan: Plan) -> Scope:
        """Make the context manager around a run."""

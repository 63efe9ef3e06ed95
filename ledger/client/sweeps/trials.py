"""The context manager around one training of a sweep."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from ledger.client.runs import Run
from ledger.client.scopes import RunScope
from ledger.errors import RunState


class NotApproved(RunState):
    """No run is approved for this training. Do not train."""


class Training:
    """One training of a trial: it begins the run that was approved for it, and settles that at the end.

    begin: returns the scope of a run that was entered, and the run. ends: errors by which a training ends as it should,
    such as a pruned trial: every step was counted, and none more is charged.
    """

    def __init__(self, begin: Callable[[], tuple[RunScope, Run]], ends: tuple[type[BaseException], ...] = ()) -> None:
        self._begin, self._ends = begin, ends

    def __enter__(self) -> Run:
        self._scope, run = self._begin()
        return run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, self._ends):
            kind = error = traceback = None
        self._scope.__exit__(kind, error, traceback)

"""The context managers around a run: they ask for it and start it, and settle it at the end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import islice
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar

from ledger.client import calls, pending
from ledger.client.beats import Beats, Send
from ledger.client.entering import Entered, Plan, enter
from ledger.client.errors import Overrun, Unreachable
from ledger.client.flows import Flow, Server, answered, log
from ledger.client.runs import Run
from ledger.errors import Forbidden, Internal, Overloaded, Unauthenticated

T = TypeVar("T")
_LATER: Final = (Unreachable, Overloaded, Internal, Unauthenticated, Forbidden)
"""Errors after which the same settlement may be sent later."""
PARTS_SHOWN_MAX: Final = 10


def leave(entered: Entered, error: BaseException | None, server: Server) -> Flow[None]:
    """Settle the run. If it cannot be sent now, keep the settlement on disk: that is logged, and not raised.

    Raises Overrun after it is recorded, or another error that kept the run from being settled. An error of the
    training code comes first.
    """
    run = entered.run
    if run.rank:
        entered.close(is_over=False)
        return
    is_over = False
    call = None
    try:
        call = calls.settle(run.id, **run.settlement(is_failure=error is not None))
        run.settled = yield from answered(call, server.in_a_hurry())
        is_over = True
        _note(run)
    except Exception as failure:
        is_over = isinstance(failure, Overrun)
        if isinstance(failure, Overrun):
            run.settled = failure.facts
            is_waiting = failure.state == "started"
            outcome = "needs a steward's decision" if is_waiting else "is settled, for more than was approved"
            note = f"Run {run.id} {outcome}. {run.steps} steps were counted."
        elif call is not None and isinstance(failure, _LATER) and pending.keep(entered.files, server.url, run.id, call):
            run.is_pending = is_over = True
            note = (
                f"Run {run.id} could not be settled now, and its whole cost stays held. {run.steps} steps were counted."
                " The settlement is kept on disk, and sent with the next run that is begun here, or by: privacy-ledger"
                " settle --pending"
            )
        else:
            note = (
                f"Run {run.id} could not be settled, and its whole cost stays held. {run.steps} steps were counted."
                f" To settle it: privacy-ledger settle {run.id}"
            )
        if error is not None:
            error.add_note(f"{note} {failure}")
        if error is not None or isinstance(failure, _LATER):
            # The training is over: what follows it, such as saving the model, must run.
            log.warning("%s %s", note, failure)
            return
        failure.add_note(note)
        raise
    finally:
        entered.close(is_over=is_over)
        run.ended()


def _note(run: Run) -> None:
    """Log what a user may not expect of the charge."""
    settled = run.settled or {}
    if "overrun" in settled:
        beyond = settled["overrun"]["steps"]
        log.warning(
            "Run %s executed %d steps beyond its plan or repeated. They fit, and are charged too.", run.id, beyond
        )
    elif run.is_short and _digits(settled.get("charged")) == _digits(run.cost):
        log.warning(
            "Run %s stopped after %d of %d steps and is charged in full: its cost is proved for all of them%s. %s",
            run.id,
            run.steps,
            run.planned_steps,
            _in_parts(run),
            run.if_shorter,
        )


def _in_parts(run: Run) -> str:
    """Return how far each part of a composed run came."""
    if not run.phases:
        return ""
    counts = ", ".join(
        f"{done} of {most} of {name}" for name, (done, most) in islice(run.phases.items(), PARTS_SHOWN_MAX)
    )
    more = len(run.phases) - PARTS_SHOWN_MAX
    return f" together ({counts}{f', and {more} more parts' if more > 0 else ''})"


def _digits(amount: dict[str, Any] | None) -> tuple[Any, Any]:
    return ((amount or {}).get("mu_sq_pico"), (amount or {}).get("delta_atto"))


class Drive(Protocol):
    """Execute a flow."""

    def __call__(self, flow: Flow[T], /) -> T: ...


class AsyncDrive(Protocol):
    """Execute a flow on an event loop."""

    def __call__(self, flow: Flow[T], /) -> Awaitable[T]: ...


class _Scope:
    """What both context managers have: the run, and the heartbeats while it is entered."""

    def __init__(self, plan: Plan, server: Server, beat: Callable[[], Send | None]) -> None:
        self._plan, self._server, self._beat = plan, server, beat
        self._beats: Beats | None = None

    def _entered(self, entered: Entered) -> Run:
        self._entry = entered
        send = self._beat() if entered.run.rank == 0 else None
        if send is not None and entered.run.planned_steps is not None:
            run = entered.run
            self._beats = Beats(run.id, lambda: run.known_steps, send, reporter=entered.reporter)
        return entered.run

    def _over(self) -> None:
        if self._beats is not None:
            self._beats.close()


class RunScope(_Scope):
    """The context manager that `Ledger.run` returns."""

    def __init__(self, drive: Drive, plan: Plan, server: Server, beat: Callable[[], Send | None]) -> None:
        super().__init__(plan, server, beat)
        self._drive = drive

    def __enter__(self) -> Run:
        return self._entered(self._drive(enter(self._plan, self._server)))

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._over()
        self._drive(leave(self._entry, error, self._server))

    def let_go(self) -> None:
        """Leave the run to a later process, and settle nothing: for code that executed nothing of it."""
        self._over()
        self._entry.close(is_over=False)


class AsyncRunScope(_Scope):
    """The asynchronous context manager that `AsyncLedger.run` returns."""

    def __init__(self, drive: AsyncDrive, plan: Plan, server: Server, beat: Callable[[], Send | None]) -> None:
        super().__init__(plan, server, beat)
        self._drive = drive

    async def __aenter__(self) -> Run:
        return self._entered(await self._drive(enter(self._plan, self._server)))

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._over()
        await self._drive(leave(self._entry, error, self._server))

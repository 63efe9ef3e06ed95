"""The context manager around the code that trains: it asks for a run and starts it, and settles it at the end."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from os import PathLike
from types import TracebackType
from typing import Any, Protocol, TypeVar

from ledger.client import calls
from ledger.client.calls import Call
from ledger.client.errors import Overrun, PlanExceeded
from ledger.client.flows import Flow, Server, answered, carry_out, log, read
from ledger.client.models import joined
from ledger.errors import LedgerError, RunState

T = TypeVar("T")


class Run:
    """A run that is approved and started: it may use the data now.

    id: the run's id. cost: the charge if all steps are executed. remaining: what is left of each dataset after it, by
    name; None for a dataset without a budget of its own. started, settled: the ledger's whole answers; `settled` is
    None until the run is left, and has the facts of the error after an overrun that did not fit.
    planned_steps: the number of planned steps; None if the mechanism has none. is_resumed: another process started it.
    receipt: the signed statement that the run is started; begin_by: until when a job may begin with it.
    `Ledger.receipt(run.id)` returns a new one for jobs that wait longer. Both are None from an older server.
    evidence: a dict for you to fill, which is settled with the run. Put in nothing that is computed from protected
    data, unless it was charged for. models: the digests of what `produced` was given, which are settled with the run.
    at_end: functions to call with this run after it is left; what they raise is logged.
    """

    def __init__(
        self,
        started: dict[str, Any],
        *,
        planned: tuple[int, int] | None,
        steps_done: int | None,
        is_resumed: bool,
        restarts: Sequence[Mapping[str, Any]] | None = None,
        allows_overrun: bool = False,
    ) -> None:
        self.id: str = started["id"]
        self.cost: dict[str, Any] = started["cost"]
        self.remaining: dict[str, dict[str, Any] | None] = {
            item["name"]: item["remaining"] for item in started["datasets"]
        }
        self.started = started
        self.receipt: str | None = started.get("receipt")
        self.begin_by: str | None = started.get("begin_by")
        self.settled: dict[str, Any] | None = None
        self.is_resumed = is_resumed
        self.evidence: dict[str, Any] = {}
        self.models: list[dict[str, Any]] = []
        self.at_end: list[Callable[[Run], object]] = []
        self._planned = planned
        self._steps_before = steps_done
        self._restarts = restarts
        self._allows_overrun = allows_overrun
        self._steps_here = 0
        self._is_under_way = False
        self._lock = threading.Lock()

    def step(self, n: int = 1) -> None:
        """Count the next `n` steps (or releases), before they use the data. Cheap, and thread-safe.

        Raises PlanExceeded, and counts nothing, if they are beyond the plan. With `allow_overrun=True` it counts them:
        use that if your code can count a step only after it is executed.
        """
        if n < 1:
            raise ValueError(f"n: {n} is less than 1. Count at least one step.")
        with self._lock:
            if not self._is_allowed(n):
                raise _beyond(self._progress + n, self._planned_most)
            self._steps_here += n
            self._is_under_way = False

    def produced(self, *paths: str | PathLike[str]) -> None:
        """Compute the SHA-256 of these files, or of all files in these folders, as they are now, and settle the run
        with them. Raises InvalidRequest if one cannot be read, if two have one name, and for more than 100 files."""
        self.models = joined(self.models, paths)

    def ended(self) -> None:
        """Call the functions in `at_end`. What one raises is logged as a warning: the run has ended all the same."""
        for call in self.at_end:
            try:
                call(self)
            except Exception as error:
                log.warning("Run %s has ended. Afterwards a function in at_end failed: %s", self.id, error)

    def batches(self, loader: Iterable[T]) -> Iterator[T]:
        """Yield the batches, and count a step for each. End after the planned steps, without taking another batch.

        The loader may be endless, and may be used again for another epoch. With `allow_overrun=True` only the end of
        the loader ends it.
        """
        batches = iter(loader)
        while self._reserve_step():
            try:
                batch = next(batches)
            except BaseException as error:
                self._release_step()
                if isinstance(error, StopIteration):
                    return
                raise
            yield batch

    async def async_batches(self, loader: AsyncIterable[T]) -> AsyncIterator[T]:
        """Do the same as `batches`, for `async for`."""
        batches = aiter(loader)
        while self._reserve_step():
            try:
                batch = await anext(batches)
            except BaseException as error:
                self._release_step()
                if isinstance(error, StopAsyncIteration):
                    return
                raise
            yield batch

    def _is_allowed(self, n: int) -> bool:
        """Return whether this number of further steps may be executed."""
        return self._allows_overrun or self._planned is None or self._progress + n <= self._planned_most

    @property
    def _progress(self) -> int:
        """Return how far the run has come: the counted steps, less those that were repeated with the same batches."""
        again: int = sum(r["to_step"] - r["from_step"] + 1 for r in self._restarts or () if not r["new_batches"])
        return self.steps - again

    @property
    def _planned_most(self) -> int:
        return 0 if self._planned is None else self._planned[1]

    def _reserve_step(self) -> bool:
        """Count the next step if it may be executed, and return whether it may."""
        with self._lock:
            if not self._is_allowed(1):
                return False
            self._steps_here += 1
            self._is_under_way = True
            return True

    def _release_step(self) -> None:
        """Take back the last count, because the loader had no batch for it."""
        with self._lock:
            self._steps_here -= 1
            self._is_under_way = False

    @property
    def steps(self) -> int:
        """Return the number of steps counted so far, including those of `steps_done`."""
        return (self._steps_before or 0) + self._steps_here

    @property
    def planned_steps(self) -> int | None:
        """Return the number of approved steps: rounded up, and with segments up to the end of the last one.

        It is None if the mechanism has no number of steps.
        """
        return None if self._planned is None else self._planned[1]

    def settlement(self, *, is_failure: bool) -> dict[str, Any]:
        """Return what to settle the run for: never less than was executed, and in doubt the whole plan.

        is_failure: an exception ended the run, so a step may have begun that was not counted. `batches` counts a step
        before it begins.
        """
        given = {"evidence": self.evidence, "models": self.models}
        beside: dict[str, Any] = {name: value for name, value in given.items() if value}
        if self._planned is None:
            return {"stop": "data_dependent", **beside} if is_failure else beside
        beside |= self._stated_restarts()
        in_full = {"stop": "data_dependent", **beside} if is_failure else beside
        steps, planned = self.steps, self._planned[1]
        is_uncounted = self._steps_here == 0 or (self.is_resumed and self._steps_before is None)
        if is_uncounted and steps <= planned:
            return in_full
        if is_failure and self._progress < planned and not self._is_under_way:
            steps += 1
        return {"steps": steps, **beside}

    def _stated_restarts(self) -> dict[str, Any]:
        """Return the restarts: those that the caller gave; an empty list if one process began and ended the run; else
        None, for unknown."""
        if self._restarts is not None:
            return {"restarts": self._restarts}
        is_whole = not self.is_resumed and self._steps_before is None
        return {"restarts": []} if is_whole else {}

    def __repr__(self) -> str:
        return f"<Run {self.id}: {self.steps} of {self.planned_steps} steps>"


@dataclass(frozen=True, slots=True)
class Plan:
    """A run to ask for, and the range of steps that counts as its whole plan; None if the mechanism has no steps."""

    ask: Call
    planned: tuple[int, int] | None
    steps_done: int | None
    restarts: Sequence[Mapping[str, Any]] | None = None
    allows_overrun: bool = False

    def __post_init__(self) -> None:
        if self.steps_done is not None and self.steps_done < 0:
            raise ValueError("steps_done: must not be negative")


def enter(plan: Plan, server: Server) -> Flow[Run]:
    """Ask for the run and start it, or find it by its key. Raises BudgetExceeded, RunState, LedgerError."""
    response = yield from carry_out(plan.ask, server)
    run = read(response, server)["id"]
    is_resumed = False
    if "Idempotent-Replayed" in response.headers:
        state = (yield from answered(calls.run_info(run), server))["state"]
        if state in ("settled", "voided"):
            raise RunState(
                f"The run of this idempotency key, {run}, is already {state}. A new run needs a new key.",
                run=run,
                state=state,
            )
        is_resumed = state == "started"
    try:
        started = yield from answered(calls.start(run), server)
        if (is_resumed and "begin_by" in started) or is_over(started):
            renewed = yield from answered(calls.receipt(run), server)
            started |= {name: renewed[name] for name in ("receipt", "begin_by")}
    except LedgerError as error:
        error.add_note(
            f"Run {run} is approved, and its cost is held. Start it, or void it: privacy-ledger void {run} --reason …"
        )
        raise
    return Run(
        started,
        planned=plan.planned,
        steps_done=plan.steps_done,
        is_resumed=is_resumed,
        restarts=plan.restarts,
        allows_overrun=plan.allows_overrun,
    )


def _beyond(step: int, planned: int) -> PlanExceeded:
    return PlanExceeded(
        f"Step {step:,} is beyond the plan of {planned:,}. It is not approved and was not counted: do not execute"
        " it. End the loop there, or begin the run with allow_overrun=True to be charged for more.",
        step=step,
        planned=planned,
    )


def is_over(started: dict[str, Any]) -> bool:
    """Return whether the receipt has expired, by this machine's clock."""
    # The order of these times as text is their order in time.
    return bool(started.get("begin_by", "Z") < datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))


def leave(run: Run, error: BaseException | None, server: Server) -> Flow[None]:
    """Settle the run. Raises Overrun after it is recorded, or the error that kept the run from being settled. An error
    of the training code comes first."""
    try:
        settlement = run.settlement(is_failure=error is not None)
        run.settled = yield from answered(calls.settle(run.id, **settlement), server)
        if "overrun" in run.settled:
            beyond = run.settled["overrun"]["steps"]
            log.warning(
                "Run %s executed %d steps beyond its plan or repeated. They fit, and are charged too.", run.id, beyond
            )
    except Exception as failure:
        if isinstance(failure, Overrun):
            run.settled = failure.facts
            is_waiting = failure.state == "started"
            outcome = "needs a steward's decision" if is_waiting else "is settled, for more than was approved"
            note = f"Run {run.id} {outcome}. {run.steps} steps were counted."
        else:
            note = (
                f"Run {run.id} could not be settled, and its whole cost stays held. {run.steps} steps were counted."
                f" To settle it: privacy-ledger settle {run.id}"
            )
        if error is None:
            failure.add_note(note)
            raise
        error.add_note(f"{note} {failure}")
        log.warning("%s %s", note, failure)


class Drive(Protocol):
    """Execute a flow."""

    def __call__(self, flow: Flow[T], /) -> T: ...


class RunScope:
    """The context manager that `Ledger.run` returns."""

    def __init__(self, drive: Drive, plan: Plan, server: Server) -> None:
        self._drive, self._plan, self._server = drive, plan, server

    def __enter__(self) -> Run:
        self._run = self._drive(enter(self._plan, self._server))
        return self._run

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        try:
            self._drive(leave(self._run, error, self._server))
        finally:
            self._run.ended()


class AsyncDrive(Protocol):
    """Execute a flow on an event loop."""

    def __call__(self, flow: Flow[T], /) -> Awaitable[T]: ...


class AsyncRunScope:
    """The asynchronous context manager that `AsyncLedger.run` returns."""

    def __init__(self, drive: AsyncDrive, plan: Plan, server: Server) -> None:
        self._drive, self._plan, self._server = drive, plan, server

    async def __aenter__(self) -> Run:
        self._run = await self._drive(enter(self._plan, self._server))
        return self._run

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        try:
            await self._drive(leave(self._run, error, self._server))
        finally:
            self._run.ended()

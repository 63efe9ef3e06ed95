"""A run around the code that trains: it counts the steps before they use data, and stops before one not approved."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from types import MappingProxyType
from typing import Any, Final, TypeVar

from ledger.client import notebooks
from ledger.client.counting import UNLIMITED, Blocks, Part, whole
from ledger.client.errors import PlanExceeded
from ledger.client.files import Record
from ledger.client.flows import log
from ledger.client.models import joined
from ledger.client.sampling import is_poisson
from ledger.errors import InvalidRequest

RESTARTS_MAX: Final = 1_000
T = TypeVar("T")
_IF_SHORTER: Final = (
    "If a run may stop early, declare segments before the start, to be charged for those that were begun:"
    " ledger.run(…, segments=4)."
)
_IF_PARTS_ARE_SHORTER: Final = (
    "A part that was not begun is not given back: the parts were proved together. If you may stop between them, ask for"
    " a run for each part; each then costs what it does by itself."
)
_IF_EXCEEDED: Final = "End the loop there, or begin the run with allow_overrun=True to be charged for more."
_UNKNOWN: Final[Mapping[str, Any]] = MappingProxyType({})


class Run:
    """A run that is approved and started: it may use the data now.

    id: the run's id. cost: the charge if all steps are executed. percent: that in percent of the least budget, which
    adds up; None if that is not known. epsilon: of the run by itself, `[{"delta", "value"}]`. remaining: what is left
    of each dataset after it, by name; None for a dataset without a budget of its own. started, settled: the ledger's
    whole answers; `settled` is None until the run is left, and has the facts of the error after an overrun that did not
    fit.
    assumptions: what the cost assumes, how batches are drawn among it. expected_batch: how many units a Poisson batch
    has on average (`size`, of `units`); None if that is not known. warnings: what looks like a slip, or runs out soon.
    planned_steps: the number of planned steps; None if the mechanism has none. is_resumed: another process started it.
    receipt: the signed statement that the run is started; begin_by: until when a job may begin with it.
    `Ledger.receipt(run.id)` returns a new one for jobs that wait longer. Both are None from an older server.
    evidence: a dict for you to fill, which is settled with the run. Put in nothing that is computed from protected
    data, unless it was charged for. models: the digests of what `produced` was given, which are settled with the run.
    segments, segment_steps: how many segments were declared, and the steps of each. rank: which of the processes that
    train together this is; only 0 settles the run. is_pending: it is over, and its settlement waits on disk.
    at_end: functions to call with this run after it is left; what they raise is logged. if_shorter: what is logged as a
    way out if the run stopped early and is charged in full. if_exceeded: the way out of a step beyond the plan.
    """

    def __init__(
        self,
        started: dict[str, Any],
        *,
        approved: Mapping[str, Any] = _UNKNOWN,
        mechanism: Mapping[str, Any] = _UNKNOWN,
        planned: tuple[int, int] | None,
        steps_done: int | None,
        is_resumed: bool,
        restarts: Sequence[Mapping[str, Any]] | None = None,
        allows_overrun: bool = False,
        phases: Mapping[str, int] | None = None,
        segments: int = 1,
        record: Record | None = None,
        rank: int = 0,
    ) -> None:
        self.id: str = started["id"]
        self.cost: dict[str, Any] = started["cost"]
        self.percent: float | None = approved.get("percent")
        self.epsilon: list[dict[str, Any]] = list(approved.get("epsilon", ()))
        self.remaining: dict[str, dict[str, Any] | None] = {
            item["name"]: item["remaining"] for item in started["datasets"]
        }
        self.assumptions: list[str] = list(approved.get("assumptions", ()))
        self.expected_batch: dict[str, Any] | None = approved.get("expected_batch")
        self.warnings: list[str] = list(approved.get("warnings", ()))
        self.started = started
        self.is_poisson = is_poisson(mechanism)
        self.receipt: str | None = started.get("receipt")
        self.begin_by: str | None = started.get("begin_by")
        self.settled: dict[str, Any] | None = None
        self.is_pending = False
        self.is_resumed = is_resumed
        self.evidence: dict[str, Any] = {}
        self.segments, self.rank = segments, rank
        self.models: list[dict[str, Any]] = []
        self.at_end: list[Callable[[Run], object]] = []
        self.if_shorter = _IF_PARTS_ARE_SHORTER if phases else _IF_SHORTER
        self.if_exceeded = _IF_EXCEEDED
        self._planned = planned
        self._steps_before = steps_done
        self._restarts = restarts
        self._allows_overrun = allows_overrun
        self._again: int = sum(r["to_step"] - r["from_step"] + 1 for r in restarts or () if not r["new_batches"])
        self._record = record
        self._blocks = Blocks()
        self._is_under_way = False
        self._lock = threading.Lock()
        self.is_unknown = rank == 0 and is_resumed and steps_done is None and (record is None or not record.is_known)
        self._parts = self._made_parts(phases)
        self._only = next(iter(self._parts.values())) if not phases else None
        if record is not None:
            record.begin(self._written(), is_restart=is_resumed)

    def _made_parts(self, phases: Mapping[str, int] | None) -> dict[str, Part]:
        """Return the parts of the run, each with what earlier processes executed; in doubt all of it."""
        before: Mapping[str, int] = {}
        if self._record is not None and self._record.is_known:
            before = self._record.steps
        if phases:
            known = sum(before.get(name, 0) for name in phases)
            # Of what is stated beyond the file, or was written under other names, only the sum is known: any part may
            # have executed it.
            more = max(sum(before.values()), self._steps_before or 0) - known
            return {
                name: Part(name, most, most if self.is_unknown else min(most, before.get(name, 0) + more))
                for name, most in phases.items()
            }
        planned = 0 if self._planned is None else self._planned[1]
        done = self._steps_before
        if done is None:
            done = planned if self.is_unknown else sum(before.values())
        is_free = self._allows_overrun or self._planned is None
        return {"": Part("", None if is_free else planned + self._again, done)}

    def _written(self) -> dict[str, int]:
        return {name: part.before + part.granted for name, part in self._parts.items()}

    # --- counting

    def step(self, n: int | str = 1, *, phase: str | None = None) -> None:
        """Count the next `n` steps (or releases), before they use the data. Cheap, and thread-safe.

        phase: which part of a composed mechanism they belong to; `run.step("fine-tune")` counts one step of a part.
        Without it, the steps belong to the first part that is not complete.

        Raises PlanExceeded, and counts nothing, if they are beyond the plan. With `allow_overrun=True` it counts them:
        use that if your code can count a step only after it is executed.
        """
        with self._lock:
            part = self._only
            if part is not None and n.__class__ is int and 0 < n <= part.room and phase is None:
                part.room -= n
                self._is_under_way = False
                return
            self._count(n, phase)

    def _count(self, n: int | str, phase: str | None) -> None:
        if isinstance(n, str):
            number, phase = 1, n
        else:
            number = whole(n)
        part = self._part(phase, number)
        if part.room < number:
            if part.left() < number:
                raise self._beyond(part, number)
            self._grant(part, number)
        part.room -= number
        self._is_under_way = False

    def _part(self, phase: str | None, n: int = 1) -> Part:
        """Return the part that a phase names; without a name, the first that is not complete, or else the last."""
        if phase is None:
            return self._only or next((part for part in self._parts.values() if part.left() >= n), self._last)
        if self._only is not None or phase not in self._parts:
            names = "none" if self._only is not None else ", ".join(self._parts)
            raise InvalidRequest(
                f"phase: {phase!r} is no part of this run that has steps. It has {names}.", field="phase"
            )
        return self._parts[phase]

    @property
    def _last(self) -> Part:
        return next(reversed(self._parts.values()))

    def _grant(self, part: Part, n: int) -> None:
        """Write down that `n` further steps, and some more, may have been executed. Then they may be."""
        if self._record is None:
            more = min(part.left(), UNLIMITED)
        else:
            more = max(n - part.room, min(self._blocks.next_size(), part.left() - part.room))
        part.granted += more
        part.room += more
        if self._record is None:
            return
        try:
            self._record.reserve(self._written())
        except OSError as error:
            # Without a file nothing is known, which counts as the whole plan. An old number would be too small.
            self._record.forget()
            self._record = None
            log.warning(
                "The steps of run %s cannot be written down any more (%s). If this job is killed, its restart is"
                " refused until it is stated what was executed (steps_done).",
                self.id,
                error,
            )

    def _beyond(self, part: Part, n: int) -> PlanExceeded:
        planned = part.most if part.most is not None and not self._again else self._planned_most
        step = part.done + n - self._again
        named = f" of {part.name}" if part.name else ""
        text = (
            f"Step {step:,} is beyond the plan of {planned:,}{named}. It is not approved and was not counted: do not"
            " execute it."
        )
        if self.is_unknown:
            text += (
                f" Nothing here knows what earlier processes of run {self.id} executed, so the whole plan counts as"
                " executed. State it: steps_done=N, or steps_done=0 if no step was. Or ask for a new run."
            )
        elif part.before:
            text += (
                f" Earlier processes executed up to {part.before:,} of these steps. To train again, ask for a new run."
            )
        elif part.name:
            text += " End the loop there, or ask for a run for each part: a composed one is charged for its plan only."
        else:
            text += f" {self.if_exceeded}"
        return PlanExceeded(text, step=step, planned=planned)

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

    def batches(self, loader: Iterable[T], *, phase: str | None = None) -> Iterator[T]:
        """Yield the batches, and count a step for each. End after the planned steps, without taking another batch.

        The loader may be endless, and may be used again for another epoch. With `allow_overrun=True` only the end of
        the loader ends it. phase: as for `step`.
        """
        batches = iter(loader)
        while (part := self._reserve_step(phase)) is not None:
            try:
                batch = next(batches)
            except BaseException as error:
                self._release_step(part)
                if isinstance(error, StopIteration):
                    return
                raise
            yield batch

    async def async_batches(self, loader: AsyncIterable[T], *, phase: str | None = None) -> AsyncIterator[T]:
        """Do the same as `batches`, for `async for`."""
        batches = aiter(loader)
        while (part := self._reserve_step(phase)) is not None:
            try:
                batch = await anext(batches)
            except BaseException as error:
                self._release_step(part)
                if isinstance(error, StopAsyncIteration):
                    return
                raise
            yield batch

    def _reserve_step(self, phase: str | None) -> Part | None:
        """Count the next step if it may be executed, and return its part; None if it may not."""
        with self._lock:
            part = self._part(phase)
            if part.room < 1:
                if part.left() < 1:
                    return None
                self._grant(part, 1)
            part.room -= 1
            self._is_under_way = True
            return part

    def _release_step(self, part: Part) -> None:
        """Take back the last count, because the loader had no batch for it."""
        with self._lock:
            part.room += 1
            self._is_under_way = False

    def segment(self) -> bool:
        """End the segment that has begun, and return whether another one may begin.

            while run.segment():
                for batch in itertools.islice(loader, run.segment_steps):
                    run.step()
                    ...

        A segment that has begun is charged as a whole, so its steps that were not executed count as executed, and no
        later segment can have them. At the start and between two segments it ends none. Raises InvalidRequest if the
        run was not declared in segments.
        """
        if self.segments < 2 or self.segment_steps is None:
            raise InvalidRequest(
                "This run has no segments. Declare them before it starts: ledger.run(…, segments=4).", field="segments"
            )
        with self._lock:
            rest = -self._progress % self.segment_steps
            if rest:
                self._count(rest, None)
            return self._progress < self._planned_most

    @property
    def segment_steps(self) -> int | None:
        """Return the number of steps of each segment; None if the mechanism has no number of steps."""
        return None if self._planned is None else self._planned[1] // self.segments

    @property
    def steps(self) -> int:
        """Return the number of steps counted so far, including those of earlier processes."""
        return sum(part.done for part in self._parts.values())

    @property
    def known_steps(self) -> int:
        """Return the same number without the steps that count only because nothing is known of them."""
        return self.steps_here if self.is_unknown else self.steps

    @property
    def phases(self) -> dict[str, tuple[int, int | None]]:
        """Return the counted and the planned steps of each part of a composed run, by name."""
        return {name: (part.done, part.most) for name, part in self._parts.items() if name}

    @property
    def steps_here(self) -> int:
        """Return the number of steps that this process counted."""
        return sum(part.here for part in self._parts.values())

    @property
    def _progress(self) -> int:
        """Return how far the run has come: the counted steps, less those that were repeated with the same batches."""
        return self.steps - self._again

    @property
    def _planned_most(self) -> int:
        return 0 if self.planned_steps is None else self.planned_steps

    @property
    def planned_steps(self) -> int | None:
        """Return the number of approved steps: rounded up, and with segments up to the end of the last one.

        It is None if the mechanism has no number of steps.
        """
        if self._only is None:
            return sum(part.most or 0 for part in self._parts.values())
        return None if self._planned is None else self._planned[1]

    @property
    def is_short(self) -> bool:
        """Return whether fewer steps were counted than count as the whole plan."""
        fewest = self._planned_most if self._planned is None else self._planned[0]
        return self.steps_here > 0 and self._progress < fewest

    # --- settling

    def settlement(self, *, is_failure: bool) -> dict[str, Any]:
        """Return what to settle the run for: never less than was executed, and in doubt the whole plan.

        is_failure: an exception ended the run, so a step may have begun that was not counted. `batches` counts a step
        before it begins.
        """
        evidence = dict(self.evidence)
        if self._only is None:
            evidence |= {"steps": {name: done for name, (done, _) in self.phases.items()}}
        given = {"evidence": evidence, "models": self.models}
        beside: dict[str, Any] = {name: value for name, value in given.items() if value}
        if self._planned is None:
            return {"stop": "data_dependent", **beside} if is_failure else beside
        beside |= self._stated_restarts()
        in_full = {"stop": "data_dependent", **beside} if is_failure else beside
        steps, planned = self.steps, self._planned[1]
        if self.steps_here == 0 and steps <= planned:
            return in_full
        if is_failure and self._progress < planned and not self._is_under_way:
            steps += 1
        return {"steps": steps, **beside}

    def _stated_restarts(self) -> dict[str, Any]:
        """Return the restarts: those that the caller gave; those that this machine recorded, if steps go on alike after
        them; an empty list if one process began and ended the run; else nothing, for unknown."""
        if self._restarts is not None:
            return {"restarts": self._restarts}
        if not self.is_resumed and self._steps_before is None:
            return {"restarts": []}
        if self._record is None or self.is_unknown or self._steps_before is not None:
            return {}
        # From there on batches were drawn again, and no step was the same as one before: all steps count.
        ends = [end for end in self._record.ends if 0 < end <= self.steps][-RESTARTS_MAX:]
        return {"restarts": [{"from_step": end + 1, "to_step": end, "new_batches": True} for end in ends]}

    def end(self, *, is_over: bool) -> None:
        """Let go of the record. is_over: the run is settled, or its settlement is kept; so nothing needs the file."""
        record, self._record = self._record, None
        if record is not None:
            if is_over:
                record.forget()
            record.close()

    # --- showing

    def __repr__(self) -> str:
        part = "" if self.percent is None else f", {self.percent:.4g} % of the budget"
        assumed = ", assumes Poisson sampling" if self.is_poisson else ""
        return f"<Run {self.id}: {self.steps} of {self.planned_steps} steps{part}{assumed}>"

    def _repr_html_(self) -> str:
        planned = "" if self.planned_steps is None else f" of {self.planned_steps:,}"
        state = (
            "settled" if self.settled is not None else "over, its settlement waits" if self.is_pending else "started"
        )
        rows: list[notebooks.Row] = [("state", state), ("steps", f"{self.steps:,}{planned}"), ("cost", self.cost)]
        if self.percent is not None:
            rows.insert(2, ("percent of the budget", f"{self.percent:.4g}"))
        rows += [(name, f"{done} of {most}") for name, (done, most) in self.phases.items()]
        if self.segments > 1:
            rows.append(("segments", f"{self.segments} of {self.segment_steps} steps"))
        if self.settled is not None and "charged" in self.settled:
            rows.append(("charged", self.settled["charged"]))
        rows += [(f"left of {name}", left) for name, left in self.remaining.items()]
        return notebooks.table(rows, title=f"Run {self.id}")

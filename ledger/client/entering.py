"""Ask for a run and start it, or find the one that this job asked for before; one process for all that train together.

A run is found again by its idempotency key, which is derived from the job and the request unless it is given. It is
written to disk before it is sent, so that a run whose answer was lost is found by the next process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import uuid4

from ledger.client import calls, counting, jobs, notebooks, pending
from ledger.client.calls import Call
from ledger.client.errors import BudgetExceeded, DryRun
from ledger.client.files import Files, Record, open_files, open_record
from ledger.client.flows import Flow, Pause, Server, answered, carry_out, log, read
from ledger.client.mechanisms import AnyMechanism, declared, lacks_size, planned_steps
from ledger.client.runs import Run
from ledger.client.sampling import POISSON
from ledger.client.starts import REPLAYED, begun, is_anothers, started_elsewhere, taken_over
from ledger.errors import InvalidRequest, NotFound, ProposalState, RunState

WAIT_SECONDS_MAX: Final = 600.0
"""How long a process waits for the run that process 0 asks for."""
ENDED_SECONDS_MAX: Final = 60.0
"""How long it waits for a new run if it found one that has ended."""
GENERATIONS_MAX: Final = 1_000
SLOTS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Plan:
    """A run to ask for, or one that was approved before (`run`).

    ask: the request, with a key of its own if `is_key_given`. steps_done, restarts: what the caller states of earlier
    processes. phases: the names of the parts of a composed mechanism. processes: how those of this job train.
    """

    ask: Call | None = None
    mechanism: AnyMechanism = field(default_factory=dict)
    segments: int | None = None
    run: str | None = None
    is_key_given: bool = True
    steps_done: int | None = None
    restarts: Sequence[Mapping[str, Any]] | None = None
    allows_overrun: bool = False
    phases: tuple[str, ...] | None = None
    processes: str | None = None
    rehearsal: Call | None = None

    def __post_init__(self) -> None:
        if self.steps_done is not None and self.steps_done < 0:
            raise ValueError("steps_done: must not be negative")
        if counting.parts_of(self.mechanism, self.phases) and self.allows_overrun:
            raise InvalidRequest(
                "allow_overrun: the ledger cannot charge steps beyond the plan of a composed mechanism. Ask for a run"
                " for each part.",
                field="allow_overrun",
            )


@dataclass(slots=True)
class Entered:
    """A run that was begun, and what this machine keeps of it. key: the file of its idempotency key, if any."""

    run: Run
    files: Files | None = None
    key: _Key | None = None

    @property
    def reporter(self) -> str | None:
        """Return the name of this place."""
        return None if self.files is None else self.files.id

    def close(self, *, is_over: bool) -> None:
        """Let go of the files. is_over: the run needs no other process."""
        self.run.end(is_over=is_over)
        if self.key is not None:
            self.key.close(is_over=is_over)


class _Key:
    """The idempotency keys of a job's runs with the same request, one after another."""

    def __init__(self, digest: str, files: Files | None, *, slots: int) -> None:
        self.digest, self.files, self.slot, self.lock = digest, files, 0, None
        if files is not None:
            for self.slot in range(slots):
                self.lock = files.lock(f"keys/{digest}-{self.slot}")
                if self.lock is not None:
                    break
            else:
                raise RunState(
                    "Another process of this job trains with the same request. Give each an idempotency_key."
                )
        self.generation = first_generation(files, self._stem)

    @property
    def _stem(self) -> str:
        return f"keys/{self.digest}-{self.slot}"

    @property
    def text(self) -> str:
        return jobs.key_of(self.digest, self.slot, self.generation)

    def note(self, *, is_over: bool) -> None:
        """Write that this key is used, or that its run needs no other process."""
        if self.files is not None:
            self.files.write(f"{self._stem}.json", {"key": self.text, "generation": self.generation, "ended": is_over})

    def close(self, *, is_over: bool) -> None:
        """Let another process have it."""
        if self.lock is None:
            return
        try:
            if is_over:
                self.note(is_over=True)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._stem, error)
        self.lock.release()
        self.lock = None


def first_generation(files: Files | None, stem: str) -> int:
    """Return the number of the first key that may not belong to an ended run, as far as this machine knows."""
    kept = None if files is None else files.read(f"{stem}.json")
    generation = (kept or {}).get("generation")
    if not isinstance(generation, int) or kept is None:
        return 0
    return generation + 1 if kept.get("ended") else generation


def enter(plan: Plan, server: Server) -> Flow[Entered]:
    """Begin the run. Raises BudgetExceeded, RunState, InvalidRequest, DryRun, LedgerError."""
    server = server.in_a_hurry()
    if plan.rehearsal is not None:
        raise DryRun.of((yield from answered(plan.rehearsal, server)), plan.segments)
    files = open_files()
    yield from pending.send_kept(files, server)
    world = jobs.world_of(plan.processes)
    if world.rank:
        return (yield from _join(plan, server, files, world))
    key: _Key | None = None
    if plan.run is None and not plan.is_key_given:
        job = jobs.job_of(world, None if files is None else files.id)
        # Without a job or files a new process is a new run.
        if job is not None:
            key = _Key(_digest(plan, server, job), files, slots=1 if world.size > 1 else SLOTS_MAX)
    try:
        asked, is_known = yield from _found(plan, server, key)
        return (yield from _begin(plan, server, files, key, asked, is_known=is_known))
    except BaseException as error:
        if key is not None:
            key.close(is_over=_has_ended(error))
        raise


def _has_ended(error: BaseException) -> bool:
    """Return whether the run of a key needs no other process: it was refused, can be started no more, or no steward
    approved it. One that another process started goes on."""
    if isinstance(error, RunState) and error.facts.get("state") == "started":
        return False
    return isinstance(error, BudgetExceeded | RunState | ProposalState)


def _digest(plan: Plan, server: Server, job: tuple[str, ...]) -> str:
    return jobs.digest_of(job, server.url, b"" if plan.ask is None else plan.ask.content or b"")


# --- the process that asks -------------------------------------------------------------------------------------------


def _found(plan: Plan, server: Server, key: _Key | None) -> Flow[tuple[dict[str, Any], bool]]:
    """Return the answer about the run, and whether it was asked for before."""
    if plan.run is not None:
        info = yield from answered(calls.run_info(plan.run), server)
        _demand_open(info)
        return info, True
    ask = plan.ask
    if ask is None:
        raise InvalidRequest("A run needs a request or an id.", field="run")
    for _ in range(GENERATIONS_MAX):
        if key is not None:
            ask = calls.with_key(ask, key.text)
            _write_key(key)
        response = yield from carry_out(ask, server)
        approved = read(response, server)
        if REPLAYED not in response.headers:
            return approved, False
        info = yield from answered(calls.run_info(approved["id"]), server)
        if key is None:
            _demand_open(info, of_key=True)
        if info["state"] not in ("settled", "voided"):
            return info, True
        if key is not None:
            key.generation += 1
    raise RunState(f"{GENERATIONS_MAX} runs of this job with this request have ended. Give a new idempotency_key.")


def _write_key(key: _Key) -> None:
    try:
        key.note(is_over=False)
        if key.files is not None:
            key.files.bound_keys()
    except OSError as error:
        log.warning(
            "The idempotency key cannot be written down: %s. If its answer is lost, ask with %s", error, key.text
        )


def _demand_open(info: Mapping[str, Any], *, of_key: bool = False) -> None:
    state = info["state"]
    if state in ("held", "started"):
        return
    if of_key:
        raise RunState(
            f"The run of this idempotency key, {info['id']}, is already {state}. A new run needs a new key.",
            run=info["id"],
            state=state,
        )
    raise RunState(f"Run {info['id']} is {state}. Ask for a new run.", run=info["id"], state=state)


def _begin(
    plan: Plan, server: Server, files: Files | None, key: _Key | None, asked: dict[str, Any], *, is_known: bool
) -> Flow[Entered]:
    """Start the run, or continue it, with what is known of earlier processes."""
    run_id, info = str(asked["id"]), asked if is_known else None
    is_resumed = info is not None and info["state"] == "started"
    if pending.is_kept(files, run_id):
        raise RunState(f"Run {run_id} is over, and its settlement waits: privacy-ledger settle --pending", run=run_id)
    record = _record(files, run_id)
    try:
        shown = info
        if shown is None and _lacks_size(plan):
            shown = yield from answered(calls.run_info(run_id), server)
        plan = _with_declared(plan, shown)
        plan = _known(plan, record, files, info if is_resumed else None)
        if info is not None and is_resumed:
            started = yield from taken_over(info, record, server)
        else:
            started = yield from begun(run_id, record, server)
        run = _made(plan, asked, started, record, is_resumed=is_resumed)
        if is_resumed:
            yield from _announce(run, server, files)
        _log(run)
    except BaseException:
        if record is not None:
            record.close()
        raise
    return Entered(run, files, key)


def _record(files: Files | None, run_id: str) -> Record | None:
    if files is None:
        return None
    try:
        record = open_record(files, run_id)
    except OSError as error:
        log.warning("The steps of run %s cannot be written down: %s", run_id, error)
        return None
    if record is None:
        raise RunState(
            f"Another process on this machine trains under run {run_id}. Each needs its own run.", run=run_id
        )
    return record


def _with_declared(plan: Plan, info: dict[str, Any] | None) -> Plan:
    """Return the plan of a run that was asked for elsewhere as it was declared there, and of one whose number of units
    is the dataset's with that number. info: the run, if it is known."""
    if info is None or (plan.run is None and not _lacks_size(plan)):
        return plan
    request = info["request"]
    return replace(plan, mechanism=request["mechanism"], segments=request.get("segments"))


def _lacks_size(plan: Plan) -> bool:
    return lacks_size(declared(plan.mechanism))


def _known(plan: Plan, record: Record | None, files: Files | None, info: dict[str, Any] | None) -> Plan:
    """Check what is known of earlier processes, if the run was started before (`info`). Raises InvalidRequest."""
    if info is None:
        return plan
    run_id, progress = info["id"], info.get("progress") or {}
    reported = int(progress.get("steps", 0))
    if plan.steps_done is None and is_anothers(record, info):
        raise started_elsewhere(info)
    if plan.steps_done is not None and plan.steps_done < reported:
        raise InvalidRequest(
            f"steps_done: {plan.steps_done} is less than the {reported} steps that processes of run {run_id} reported.",
            field="steps_done",
        )
    if record is not None and record.is_known:
        reporter = progress.get("reporter")
        if reported > sum(record.steps.values()) or (reporter and files is not None and reporter != files.id):
            record.is_known = False  # it went on somewhere else
    if plan.steps_done is not None:
        return plan
    if record is None or not record.is_known:
        log.warning(
            "Run %s was begun by a process of which nothing is known here%s. The whole plan counts as executed, and no"
            " step is left. State what was executed: steps_done=N; 0 if no step was.",
            run_id,
            f", except that it executed {reported} steps at least" if reported else "",
        )
        return plan
    done = sum(record.steps.values())
    if not done:
        return plan
    if plan.restarts is None and not counting.goes_on_alike(plan.mechanism):
        raise InvalidRequest(
            f"restarts: an earlier process of run {run_id} executed up to {done} steps, and repeated steps of this"
            " mechanism cost more than new ones. State what this process does. It goes on where the other one ended,"
            f" with the same order: restarts=[]. It begins again: restarts=[{{'from_step': 1, 'to_step': {done},"
            " 'new_batches': True}]. Or ask for a new run.",
            field="restarts",
        )
    if plan.restarts is None:
        log.warning(
            "Run %s goes on: earlier processes executed up to %d steps, which count. If your batches are drawn with a"
            " fixed seed, so that they are the same again, state it: restarts=[{'from_step': 1, 'to_step': %d,"
            " 'new_batches': False}].",
            run_id,
            done,
            done,
        )
    return plan


def _made(
    plan: Plan,
    asked: Mapping[str, Any],
    started: dict[str, Any],
    record: Record | None,
    *,
    is_resumed: bool,
    rank: int = 0,
) -> Run:
    return Run(
        started,
        approved=asked,
        mechanism=declared(plan.mechanism),
        planned=planned_steps(plan.mechanism, plan.segments),
        steps_done=plan.steps_done,
        is_resumed=is_resumed,
        restarts=plan.restarts,
        allows_overrun=plan.allows_overrun,
        phases=counting.parts_of(plan.mechanism, plan.phases),
        segments=plan.segments or 1,
        record=record,
        rank=rank,
    )


def _log(run: Run) -> None:
    """Log what a run assumes about its batches, and the warnings about it."""
    if run.is_poisson:
        log.info(
            "Run %s %s. If your loader does something else, declare that: sampling='shuffle' or 'fixed_size'.",
            run.id,
            POISSON,
        )
    for text in run.warnings:
        log.warning("Run %s: %s", run.id, text)


def _announce(run: Run, server: Server, files: Files | None) -> Flow[None]:
    """Report that a later process goes on here, before it executes a step: no other place knows all steps any more."""
    if run.planned_steps is None:
        return
    place = None if files is None else files.id
    try:
        yield from answered(calls.report_progress(run.id, steps=run.known_steps, reporter=place), server)
    except NotFound:
        log.info("The ledger is older than reports of progress.")


# --- the others ------------------------------------------------------------------------------------------------------


def _join(plan: Plan, server: Server, files: Files | None, world: jobs.World) -> Flow[Entered]:
    """Wait until process 0 has started the run, and return it. Nothing is asked for here, and nothing settled."""
    info = yield from _awaited(plan, server, files, world)
    plan = replace(_with_declared(plan, info), restarts=plan.restarts)
    started = yield from taken_over(info, None, server)
    return Entered(_made(plan, info, started, None, is_resumed=True, rank=world.rank))


def _awaited(plan: Plan, server: Server, files: Files | None, world: jobs.World) -> Flow[dict[str, Any]]:
    digest, generation = None, 0
    if plan.run is None and not plan.is_key_given:
        job = jobs.job_of(world, None if files is None else files.id)
        if job is not None:
            digest = _digest(plan, server, job)
            generation = first_generation(files, f"keys/{digest}-0")
    waited, ended, pause = 0.0, None, 0.2
    while waited < (WAIT_SECONDS_MAX if ended is None else ENDED_SECONDS_MAX):
        info = yield from _looked_up(plan, server, None if digest is None else jobs.key_of(digest, 0, generation))
        if info is not None and info["state"] == "started":
            return info
        if info is not None and info["state"] != "held":
            if digest is None:
                _demand_open(info, of_key=plan.run is None)
            ended, generation = info, generation + 1
            continue
        if not waited:
            log.warning("Process %d of %d waits until process 0 has started the run.", world.rank, world.size)
        yield Pause(pause)
        waited, pause = waited + pause, min(2 * pause, 2.0)
    if ended is not None:
        _demand_open(ended)
    raise RunState(
        f"Process 0 started no run in {WAIT_SECONDS_MAX:.0f} s, so this process ({world.rank} of {world.size}) must not"
        " train. Check that process 0 runs, with the same script and arguments."
    )


def _looked_up(plan: Plan, server: Server, key: str | None) -> Flow[dict[str, Any] | None]:
    if plan.run is not None:
        return (yield from answered(calls.run_info(plan.run), server))
    given = key or (plan.ask.keys[0] if plan.ask is not None else uuid4().hex)
    page = yield from answered(calls.get("runs", key=given), server)
    return notebooks.Shown(page["items"][0]) if page["items"] else None

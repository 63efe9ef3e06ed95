"""Starts of runs, each with the token of the process that starts it, which is on the disk before it is sent: after an
answer that was lost, the same process or command gets it, and no other one does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from ledger.client import calls
from ledger.client.files import Files, Record
from ledger.client.flows import Flow, Server, answered, carry_out, log, read
from ledger.client.jobs import new_token, token_digest
from ledger.errors import LedgerError, NotFound, RunState

REPLAYED: Final = "Idempotent-Replayed"
LOCK_SECONDS: Final = 10.0
"""How long a command waits for another one on this machine that starts the same run."""


# --- a process that trains -------------------------------------------------------------------------------------------


def is_anothers(record: Record | None, info: Mapping[str, Any]) -> bool:
    """Return whether another process started a run, and none here took it over. Without a token of its start that is
    not known, except if this place was about to start it."""
    started = info.get("started") or {}
    if record is not None and record.is_of(started):
        return False
    return "token_sha256" in started or (record is not None and record.is_known)


def begun(run_id: str, record: Record | None, server: Server) -> Flow[dict[str, Any]]:
    """Start a run that was held, with a token of this place, and return the answer. Raises RunState if another process
    started it: no step may be executed here."""
    token = new_token() if record is None else record.intend()
    try:
        response = yield from carry_out(calls.start(run_id, token=token), server)
        started = read(response, server)
        if REPLAYED in response.headers:
            # The answer to this place's own start was lost; or the server is too old to know whose start it was.
            info = yield from answered(calls.run_info(run_id), server)
            if (info.get("started") or {}).get("token_sha256") != token_digest(token):
                raise started_elsewhere(info)
        if is_over(started):
            started |= yield from _renewed(run_id, server)
    except LedgerError as error:
        if error.facts.get("state") != "started":
            error.add_note(
                f"Run {run_id} is approved, and its cost is held. Start it, or void it: privacy-ledger void {run_id}"
                " --reason …"
            )
        raise
    return started


def taken_over(info: Mapping[str, Any], record: Record | None, server: Server) -> Flow[dict[str, Any]]:
    """Return the answer about a run that an earlier process started: that to its start if that is this place's own, or
    else what the ledger shows, without what was left then."""
    run_id, event = str(info["id"]), info.get("started") or {}
    token = None if record is None else record.token
    if token is not None and token_digest(token) == event.get("token_sha256"):
        started = yield from answered(calls.start(run_id, token=token), server)
    else:
        datasets = [{**on, "remaining": None} for on in info["datasets"]]
        shown = {name: event[name] for name in ("at", "settle_by") if name in event}
        started = {"id": run_id, "state": "started", "cost": info["cost"], "datasets": datasets, **shown}
    return {**started, **(yield from _renewed(run_id, server))}


def _renewed(run_id: str, server: Server) -> Flow[dict[str, Any]]:
    """Return a new receipt, with the time until which a job may begin with it. An older server has none."""
    try:
        renewed = yield from answered(calls.receipt(run_id), server)
    except NotFound:
        return {}
    return {name: renewed[name] for name in ("receipt", "begin_by")}


def started_elsewhere(info: Mapping[str, Any]) -> RunState:
    """Return the error for a run that another process started, of which nothing is known here."""
    run_id, at, steps = info["id"], (info.get("started") or {}).get("at"), (info.get("progress") or {}).get("steps")
    reported = f" It reported {steps:,} steps." if isinstance(steps, int) else ""
    when = f" at {at}" if at else ""
    return RunState(
        f"Run {run_id} was started{when} by another process, of which nothing is known here.{reported} It may train"
        " now, so this one must not, and executed no step. If that process has ended, go on from what it executed:"
        " steps_done=N, and restarts=… if steps come again. Otherwise ask for a run of your own, with a new"
        " idempotency_key.",
        run=run_id,
        state="started",
    )


def is_over(started: dict[str, Any]) -> bool:
    """Return whether the receipt has expired, by this machine's clock."""
    # The order of these times as text is their order in time.
    return bool(started.get("begin_by", "Z") < datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))


# --- a command that starts a run --------------------------------------------------------------------------------------


def is_unanswered(files: Files | None, run: str) -> bool:
    """Return whether a command on this machine sent a start of this run, and got no answer."""
    return _kept(files, run) is not None


@contextmanager
def own_start(files: Files | None, run: str) -> Iterator[str]:
    """Yield the token of a start, which is on the disk: that of an earlier command without an answer, or a new one. It
    is removed when the block ends without an error, or because the run was started by another process.

    run: the whole id. Raises RunState if another process on this machine is starting the run.
    """
    try:
        lock = None if files is None else files.lock(_name(run), wait_seconds=LOCK_SECONDS)
    except OSError as error:
        log.warning("The token of the start of run %s cannot be kept: %s", run, error)
        files, lock = None, None
    if files is None:
        yield new_token()
        return
    if lock is None:
        raise RunState(f"Another process on this machine is starting run {run}. Only that one may train.", run=run)
    try:
        token = _kept(files, run) or new_token()
        _keep(files, run, token)
        try:
            yield token
        except RunState:
            files.remove(f"{_name(run)}.json")
            raise
        files.remove(f"{_name(run)}.json")
    finally:
        lock.release()


def _keep(files: Files, run: str, token: str) -> None:
    try:
        files.write(f"{_name(run)}.json", {"run": run, "token": token})
        files.bound_starts()
    except OSError as error:
        log.warning("The token of the start of run %s cannot be kept: %s", run, error)


def _kept(files: Files | None, run: str) -> str | None:
    kept = None if files is None else files.read(f"{_name(run)}.json")
    token = (kept or {}).get("token")
    return token if isinstance(token, str) and token else None


def _name(run: str) -> str:
    return f"starts/{run}"

"""The trials of a sweep: asked for together, each training under a run of its own, and each settled.

The server knows which runs were begun: a run is started once, and only the process that started it trains. A process
that dies leaves a started run and, on its machine, a file with at least the steps that it executed. The next process
settles the run by that file, and never trains under it.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ledger.client.calls import Label
from ledger.client.errors import BatchRefused, Overrun
from ledger.client.files import Files, Record, open_files, open_record
from ledger.client.flows import log
from ledger.client.mechanisms import AnyMechanism, planned_steps
from ledger.client.pending import is_kept
from ledger.client.runs import Run
from ledger.client.scopes import RunScope
from ledger.client.sweeps import optuna, ray, sklearn
from ledger.client.sweeps.trials import NotApproved, Training
from ledger.errors import InvalidRequest, LedgerError, RunState

if TYPE_CHECKING:
    from types import TracebackType

    from ledger.client.ledgers import Ledger

RUNS_MAX: Final = 1_000
"""The most trainings of a sweep: trials times attempts."""
NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")
VALID_FOR: Final = "P30D"
"""How long a trial may wait for its start."""
LOCK_SECONDS: Final = 60.0


class Sweep:
    """The approved trials of a sweep. `Ledger.sweep` returns it.

    name: the sweep's name. approved: the numbers of the approved trials, from 0 on, in order. failures: how many
    trainings of a trial may fail, or be lost with their process, and be made again.

    As a context manager it calls `finish` at the end; after an error it leaves what was not begun, for a restart.
    """

    def __init__(self, ledger: Ledger, name: str, runs: Mapping[int, Sequence[str]], failures: int) -> None:
        self.name, self.failures = name, failures
        self._ledger, self._runs = ledger, {number: tuple(ids) for number, ids in runs.items()}
        self._gone = set[str]()
        self._lock = threading.Lock()

    @property
    def approved(self) -> list[int]:
        """Return the numbers of the approved trials, in order."""
        return sorted(self._runs)

    def runs_of(self, number: int) -> tuple[str, ...]:
        """Return the ids of the runs of a trial, one for each attempt; none if it is not approved."""
        return self._runs.get(number, ())

    def __len__(self) -> int:
        return len(self._runs)

    def __repr__(self) -> str:
        trainings = "training" if self.failures == 0 else "trainings"
        return f"<Sweep {self.name}: {len(self)} trials approved, up to {self.failures + 1} {trainings} of each>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what another process makes it of again: with its own LEDGER_URL and LEDGER_KEY, never this key."""
        return _again, (type(self._ledger), self.name, self._runs, self.failures)

    def __enter__(self) -> Sweep:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            self.settle_lost()

    # --- training

    def trial(self, number: int, *, attempt: int | None = None, ends: Sequence[type[BaseException]] = ()) -> Training:
        """Return a context manager around one training of a trial; `as` gives its `Run`, which counts the steps.

        number: of the trial, from 0 on. attempt: which of its trainings, from 0 on; default: the first that no process
        began. ends: errors by which the training ends as it should, such as `optuna.TrialPruned`.

        Entering it raises NotApproved if the trial was not approved, or if all its trainings were begun.
        """
        ids = self.runs_of(number)
        if attempt is not None:
            ids = ids[attempt : attempt + 1] if attempt >= 0 else ()
        what = f"trial {number}" if attempt is None else f"attempt {attempt} of trial {number}"
        return Training(lambda: self._begun(ids, what), tuple(ends))

    def next(self) -> Training:
        """Return a context manager around the next training of any trial that nobody began, for searches that do not
        number their trials."""
        ids = [run_id for number in self.approved for run_id in self._runs[number]]
        return Training(lambda: self._begun(ids, "any trial"))

    def objective(self, train: Callable[[Any, Run], Any], *, first: int = 0) -> Callable[[Any], Any]:
        """Return an objective for Optuna: `study.optimize(sweep.objective(train), n_trials=len(sweep))`.

        train: takes the trial and the run, counts each step with `run.step()` before it uses data, and returns the
        value. first: the number in the study of the sweep's first trial. A trial that was not approved does not train:
        it is pruned, and the study stops. A retry of Optuna's retry callback is an attempt of the trial that failed.
        """
        return optuna.objective(self, train, first=first)

    def trainable(self, train: Callable[[dict[str, Any], Run], Any]) -> Callable[[dict[str, Any]], Any]:
        """Return a trainable for Ray Tune: `tune.Tuner(sweep.trainable(train), …)`, with `max_failures` at most
        `failures`.

        train: takes Ray's configuration and the run. The workers take LEDGER_URL and LEDGER_KEY from their environment,
        and need the same LEDGER_STATE_DIR, in which the numbers of Ray's trials are kept.
        """
        return ray.trainable(self, train)

    def charged(self, estimator: Any) -> Any:
        """Return an estimator of scikit-learn whose every fit, of its clones too, is the next training of this sweep.

        Searches and cross validation take it in place of the estimator, with the same names of parameters. Before a fit
        that is not approved it raises NotApproved. `uncharged` returns a fitted estimator of the class it had.
        """
        return sklearn.charged(self, estimator)

    def _begun(self, ids: Sequence[str], what: str) -> tuple[RunScope, Run]:
        """Begin the first of these runs that no process began."""
        why: LedgerError | None = None
        for run_id in ids:
            if run_id in self._gone:
                continue
            state = self._ledger.run_info(run_id)["state"]
            if state == "started":
                self._settle_lost(open_files(), run_id)
            if state == "held":
                scope = self._ledger.resume(run_id)
                try:
                    run = scope.__enter__()
                except RunState as error:  # begun meanwhile, or too late
                    why = error
                    continue
                self._gone.add(run_id)
                if not run.is_resumed:
                    return scope, run
                scope.let_go()  # another place began it first
            self._gone.add(run_id)
        if not ids:
            raise NotApproved(f"{what} of the sweep {self.name} is not approved. Do not train.", sweep=self.name)
        late = "" if why is None else f" {why}"
        raise NotApproved(
            f"{what} of the sweep {self.name} has no training left: all {len(ids)} that were approved were begun. Do"
            f" not train. To train again, ask for a new sweep, or for one with more failures=.{late}",
            sweep=self.name,
        )

    # --- the end

    def settle_lost(self) -> list[str]:
        """Settle the runs whose processes on this machine died, by the steps that they may have executed; return their
        ids."""
        self._ledger.settle_pending()
        files, states = open_files(), self._states()
        started = [run_id for run_id in self._all() if states.get(run_id) == "started"]
        return [run_id for run_id in started if self._settle_lost(files, run_id)]

    def finish(self, *, elsewhere: bool = False) -> dict[str, list[str]]:
        """End the sweep: settle what dead processes began, and void what nobody began, which gives it back.

        elsewhere: whether runs that were begun on other machines, or of which nothing is known here, are settled too,
        for their whole plans; state that no process trains them any more. Without it they stay held.

        Return the ids of the runs that were `settled` and `voided` now, and that are still `started`.
        """
        settled, states = self.settle_lost(), self._states()
        voided, started = list[str](), list[str]()
        for run_id in self._all():
            state = states.get(run_id) or self._ledger.run_info(run_id)["state"]
            if state == "held" and _end(self._ledger.void, run_id, reason=f"not needed by the sweep {self.name}"):
                voided.append(run_id)
            elif state == "started" and elsewhere and _end(self._ledger.settle, run_id, stop="data_dependent"):
                settled.append(run_id)
            elif state == "started":
                started.append(run_id)
        if started:
            log.warning(
                "%d runs of the sweep %s are still started, on other machines or in other processes: %s … Their whole"
                " cost stays held. If none of them trains any more: sweep.finish(elsewhere=True)",
                len(started),
                self.name,
                started[0],
            )
        return {"settled": settled, "voided": voided, "started": started}

    def _all(self) -> Iterator[str]:
        return (run_id for number in self.approved for run_id in self._runs[number])

    def _states(self) -> dict[str, str]:
        """Return the states of the sweep's runs, by id."""
        return {run["id"]: run["state"] for run in self._ledger.runs(label=[f"sweep={self.name}"])}

    def _settle_lost(self, files: Files | None, run_id: str) -> bool:
        """Settle a started run if its process was on this machine and is dead. Return whether that was done."""
        try:
            record = None if files is None or is_kept(files, run_id) else open_record(files, run_id)
        except OSError as error:
            log.warning("Whether the process of run %s is alive is not known here: %s", run_id, error)
            return False
        if record is None:
            return False
        try:
            # A lock may not reach from one machine to another.
            if not record.is_known or record.host != socket.gethostname():
                return False
            info = self._ledger.run_info(run_id)
            if info["state"] != "started":
                record.forget()
                return False
            return record.is_of(info.get("started")) and self._settled(record, info)
        finally:
            record.close()

    def _settled(self, record: Record, info: Mapping[str, Any]) -> bool:
        request, steps = info["request"], sum(record.steps.values())
        planned = planned_steps(request["mechanism"], request.get("segments"))
        # Any step that was written down may have been executed, and none was repeated: nobody trained it again. If none
        # was, the code may not count: the whole plan.
        is_counted = planned is not None and steps > 0
        stated: dict[str, Any] = {"steps": steps, "restarts": []} if is_counted else {"stop": "data_dependent"}
        evidence = {"sweep": self.name, "lost": "the process died; it executed this at most"}
        if not _end(self._ledger.settle, info["id"], **stated, evidence=evidence):
            return False
        most = f"{steps} steps at most" if is_counted else "its whole plan: it counted no step"
        log.warning("Run %s of a process that died was settled for %s.", info["id"], most)
        record.forget()
        return True

    # --- numbers of trials that another library names

    def number_of(self, named: str) -> int:
        """Return the number of a trial that another library names, the same each time on this machine. Raises
        NotApproved if all numbers are taken."""
        files = open_files()
        if files is None:
            raise RunState(
                "The numbers of the trials cannot be kept, because no state directory can be written. Set"
                " LEDGER_STATE_DIR to a directory that all workers have."
            )
        name = f"sweeps/{self.name}"
        lock = files.lock(name, wait_seconds=LOCK_SECONDS)
        if lock is None:
            raise RunState(f"{files.folder / name}.lock is held by another process for more than {LOCK_SECONDS:g} s.")
        try:
            kept = files.read(f"{name}.json") or {}
            # A new sweep may have a name that an earlier one had, for another ledger.
            numbers = dict(kept.get("numbers", {})) if kept.get("first") == self._first else {}
            if named not in numbers:
                free = [number for number in self.approved if number not in set(numbers.values())]
                if not free:
                    raise NotApproved(
                        f"Trial {named} is not approved: all {len(self)} trials of the sweep {self.name} have begun.",
                        sweep=self.name,
                    )
                numbers[named] = free[0]
                files.write(f"{name}.json", {"first": self._first, "numbers": numbers})
            return int(numbers[named])
        finally:
            lock.release()

    @property
    def _first(self) -> str | None:
        return next(self._all(), None)


def _again(client: type[Ledger], name: str, runs: Mapping[int, Sequence[str]], failures: int) -> Sweep:
    return Sweep(client(), name, runs, failures)


def _end(call: Callable[..., object], run_id: str, **stated: Any) -> bool:
    """End a run, and return whether it has ended by that."""
    try:
        call(run_id, **stated)
    except Overrun as error:
        return bool(error.facts.get("state") == "settled")
    except RunState as error:
        log.info("Run %s: %s", run_id, error)
        return False
    return True


# --- asking ----------------------------------------------------------------------------------------------------------


def ask(
    ledger: Ledger,
    name: str,
    *,
    mechanism: AnyMechanism | Sequence[AnyMechanism],
    trials: int | None,
    failures: int,
    as_many_as_fit: bool,
    labels: Mapping[str, Label] | None,
    request: Mapping[str, Any],
) -> Sweep:
    """Ask for the trials of a sweep. Arguments and errors: `Ledger.sweep`."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(f"name: {name[:40]!r} must be 1 to 100 of A-Z, a-z, 0-9, '.', '_' and '-'", field="name")
    mechanisms = _mechanisms(mechanism, trials)
    attempts = failures + 1
    if failures < 0 or not 0 < len(mechanisms) * attempts <= RUNS_MAX:
        raise InvalidRequest(
            f"trials: {len(mechanisms)} trials with {attempts} trainings each are {len(mechanisms) * attempts} runs; a"
            f" sweep has 1 to {RUNS_MAX:,}. Ask for several sweeps.",
            field="trials",
        )
    runs = [
        {
            **request,
            "mechanism": one,
            "labels": {**(labels or {}), "sweep": name, "trial": str(number), "attempt": str(attempt)},
            "idempotency_key": f"sweep/{name}/{number}/{attempt}",
        }
        for number, one in enumerate(mechanisms)
        for attempt in range(attempts)
    ]
    try:
        answer = ledger.ask_batch(runs, atomic=not as_many_as_fit, as_many_as_fit=as_many_as_fit)
    except BatchRefused as error:
        _demand_same(name, error.results)
        fitting = int(error.facts.get("fitting", 0)) // attempts
        error.facts["trials_fitting"] = fitting
        error.add_note(
            f"Of {len(mechanisms)} trials {fitting} would fit: as_many_as_fit=True"
            if fitting
            else "Not one of the trials fits, or one of them cannot be asked for."
        )
        raise
    return _made(ledger, name, answer["results"], attempts)


def _mechanisms(mechanism: AnyMechanism | Sequence[AnyMechanism], trials: int | None) -> Sequence[AnyMechanism]:
    """Return the mechanism of each trial. Raises InvalidRequest."""
    if isinstance(mechanism, Sequence):
        if trials not in (None, len(mechanism)):
            raise InvalidRequest(f"trials: is {trials}, and {len(mechanism)} mechanisms are given", field="trials")
        return mechanism
    if trials is None:
        raise InvalidRequest("trials: state how many trials there are: trials=200", field="trials")
    return [mechanism] * trials


def _made(ledger: Ledger, name: str, results: Sequence[Mapping[str, Any]], attempts: int) -> Sweep:
    """Return the sweep of these answers. A trial is approved if all its attempts are; others are voided."""
    _demand_same(name, results)
    whole: dict[int, list[str]] = {}
    parts: list[str] = []
    for number in range(len(results) // attempts):
        own = results[number * attempts : (number + 1) * attempts]
        ids = [result["run"]["id"] for result in own if result["status"] == 201]
        if len(ids) == attempts:
            whole[number] = ids
        else:
            parts += ids
    for run_id in parts:
        _end(ledger.void, run_id, reason=f"a trial of the sweep {name} does not fit with all its attempts")
    if not whole:
        problem: Mapping[str, Any] = next((result["problem"] for result in results if "problem" in result), {})
        raise BatchRefused(f"No trial of the sweep {name} fits. {problem.get('detail', '')}", results=list(results))
    sweep = Sweep(ledger, name, whole, attempts - 1)
    if any(result.get("replayed") for result in results):
        sweep.settle_lost()
    return sweep


def _demand_same(name: str, results: Sequence[Mapping[str, Any]]) -> None:
    """Raise InvalidRequest if the name was used for other trials."""
    if any((result.get("problem") or {}).get("code") == "idempotency-key-reused" for result in results):
        raise InvalidRequest(
            f"name: a sweep {name!r} was asked for before, with other trials. Give a new sweep another name; to go on"
            " with that one, ask for the same.",
            field="name",
        )

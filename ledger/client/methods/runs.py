"""Calls about runs, their receipts, and the context manager around a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from ledger.client import calls
from ledger.client.calls import listed, send
from ledger.client.mechanisms import AnyMechanism, Number, planned_steps
from ledger.client.methods.kinds import Answer, Answers, Calls, Lists, Scope, Scopes
from ledger.client.runs import Plan


class Runs(Calls[Answer], Lists[Answers], Scopes[Scope]):
    """Ask for runs, start, settle and void them."""

    def run(
        self,
        *,
        datasets: Sequence[str | Mapping[str, Any]],
        mechanism: AnyMechanism,
        delta: Number | None = None,
        segments: int | None = None,
        project: str | None = None,
        purpose: str | None = None,
        labels: Mapping[str, str] | None = None,
        code: Mapping[str, str] | None = None,
        valid_for: str | timedelta | None = None,
        idempotency_key: str | None = None,
        steps_done: int | None = None,
        restarts: Sequence[Mapping[str, Any]] | None = None,
        allow_overrun: bool = False,
    ) -> Scope:
        """A run around the code that trains (`async with` on an AsyncLedger).

        Entering asks for the run and starts it; where it does not fit, BudgetExceeded is raised before any data is
        touched. Leaving settles it:

        - all planned steps counted, or `step()` never called: for all that was planned;
        - fewer, by `break` or by an exception: for the steps executed, under the rule that is always sound. Separate
          releases are charged one by one, and a run in `segments` for those that were begun; other DP-SGD is charged in
          full. An exception counts the step that was under way; one that comes before the first `step()` settles for
          all that was planned, since a release may have happened;
        - more than planned, which takes `allow_overrun=True`: what was beyond is charged besides, DP-SGD and correlated
          noise as whole runs or segments, since what was seen may have made it go on. If that fits, `run.settled` has
          it as `overrun`, and a warning is logged; if not, it is recorded all the same, the run is settled, the
          datasets are frozen, and then Overrun is raised.

        Steps are counted before they touch the data: `for batch in run.batches(loader)` counts each and ends with the
        plan; `run.step()` raises PlanExceeded beyond it. With `allow_overrun=True` neither stops the run.

        With `segments` the run is reserved as so many pieces, each restarted with fresh randomness; it may go on to the
        end of the last one, which `run.planned_steps` says.

        An exception of your code always passes unchanged; where settling fails besides, it gets a note that says so.
        A process that dies (or is killed by a signal that raises nothing) settles nothing: the run stays held in full.
        Started again by the same principal with the same `idempotency_key`, it finds its run and goes on, and says by
        `steps_done` how many steps the processes before it executed, those that are now repeated included; left out,
        the run settles for all that was planned. `restarts` says which of them were run again, as for `settle`. A run
        that one process begins and ends says by itself that none was; where nothing is said, the record has it as an
        assumption that none was, and beyond the plan the worst is charged. A key whose run was settled or voided raises
        RunState, and a refused one stays refused. One run is one execution: never let two processes work under one key
        at the same time.

        >>> with ledger.run(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=20, count=3)) as run:
        ...     for _ in range(3):
        ...         run.step()
        ...         # release something
        >>> run.settled["state"]
        'settled'
        """
        ask = calls.ask(
            datasets=datasets,
            mechanism=mechanism,
            delta=delta,
            segments=segments,
            project=project,
            purpose=purpose,
            labels=labels,
            code=code,
            valid_for=valid_for,
            idempotency_key=idempotency_key,
        )
        return self._scope(Plan(ask, planned_steps(mechanism, segments), steps_done, restarts, allow_overrun))

    def ask(
        self,
        *,
        datasets: Sequence[str | Mapping[str, Any]],
        mechanism: AnyMechanism,
        delta: Number | None = None,
        segments: int | None = None,
        project: str | None = None,
        purpose: str | None = None,
        labels: Mapping[str, str] | None = None,
        code: Mapping[str, str] | None = None,
        valid_for: str | timedelta | None = None,
        idempotency_key: str | None = None,
    ) -> Answer:
        """Ask for approval of a run, before it touches data. Raises BudgetExceeded.

        The same `idempotency_key` gets the same answer, for ever; left out, it is a new one, the same for all attempts
        of this call.

        >>> asked = ledger.ask(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=20), purpose="a count")
        >>> asked["decision"]
        'approved'
        """
        return self._send(
            calls.ask(
                datasets=datasets,
                mechanism=mechanism,
                delta=delta,
                segments=segments,
                project=project,
                purpose=purpose,
                labels=labels,
                code=code,
                valid_for=valid_for,
                idempotency_key=idempotency_key,
            )
        )

    def ask_batch(self, runs: Sequence[Mapping[str, Any]], *, atomic: bool = False) -> Answer:
        """Ask for up to 1000 runs at once, each a mapping of what `ask` takes, `mechanism` included.

        Answers what came of each, in order: `{"status": 201, "run": …}` or `{"status": 409, "problem": …}`; a refusal
        among them raises nothing. With `atomic` all are approved or BatchRefused is raised, and nothing is recorded. A
        run without an `idempotency_key` gets a new one, the same for all attempts of this call; a job that may be
        restarted gives its own.

        >>> trials = [Gaussian(noise_multiplier=40), Gaussian(noise_multiplier=50)]
        >>> runs = [{"datasets": ["mnist"], "mechanism": trial} for trial in trials]
        >>> results = ledger.ask_batch(runs, atomic=True)["results"]
        >>> [result["run"]["cost"]["mu"] for result in results]
        [0.025, 0.02]
        >>> for result in results:
        ...     _ = ledger.void(result["run"]["id"], reason="an example")
        """
        return self._send(calls.ask_batch(runs, atomic=atomic))

    def start(self, run: str) -> Answer:
        """Say that the run now touches the data. By the `receipt` in the answer a job may begin until `begin_by`.

        >>> ledger.start(asked["id"])["state"]
        'started'
        """
        return self._send(calls.start(run))

    def receipt(self, run: str) -> Answer:
        """The signed receipt of a run's start, or of its approval before that, and until when a job may begin by it:
        `{"run", "state", "begin_by", "receipt"}`. Each call renews it.

        Only one in state `started` lets a job train. Raises RunState if the run was refused, voided or settled.

        >>> ledger.receipt(asked["id"])["state"]
        'started'
        """
        return self._send(calls.receipt(run))

    def jwks(self) -> Answer:
        """The public keys by which receipts are verified, with no server at hand, by `verify_receipt`.

        >>> receipt = verify_receipt(ledger.receipt(asked["id"])["receipt"], jwks=ledger.jwks(), datasets="mnist")
        >>> receipt.run == asked["id"]
        True
        """
        return self._send(calls.jwks())

    def settle(
        self,
        run: str,
        *,
        steps: int | None = None,
        stop: str | None = None,
        restarts: Sequence[Mapping[str, Any]] | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Charge a started run for what it executed: all that was planned, where nothing else is said.

        With fewer `steps` the run is charged for what is sound whatever made it stop (`data_dependent`): separate
        releases one by one, segments begun, otherwise all. `stop="data_independent"` is your word that neither the data
        nor any output, also of a later run, had a say in where it stopped: it is charged as a run of so many steps.
        `restarts` lists the restarts from an earlier step, in their order, as `{"from_step", "to_step",
        "new_batches"}`: the steps that were run again, counted from 1 (`to_step` is `from_step` - 1 where none was),
        and whether batches were drawn, or the units put in order, anew from there on; `steps` counts them again. An
        empty list says that no step was run again. Left out, the worst is charged where there were more steps than the
        plan can give. Raises Overrun where more was executed than fits; it is charged all the same. Where no
        budget there could cover it, nothing is charged until a steward has called `confirm` or `correct`: `error.state`
        is `started`.

        >>> ledger.settle(asked["id"], evidence={"log": "s3://training/17"})["charged"]["mu"]
        0.05
        """
        return self._send(calls.settle(run, steps=steps, stop=stop, restarts=restarts, evidence=evidence))

    def confirm(self, run: str, *, reason: str) -> Answer:
        """Say, as a steward, that a run did execute what it reported and no budget there covers: it is charged.

        >>> try:
        ...     ledger.confirm(asked["id"], reason="the log has every step")
        ... except RunState as error:
        ...     print(error.detail)
        The run has no reported number that waits for a steward.
        """
        return self._send(send("POST", "runs", run, "confirm", is_repeatable=True, reason=reason))

    def correct(
        self,
        run: str,
        *,
        reason: str,
        steps: int | None = None,
        stop: str | None = None,
        restarts: Sequence[Mapping[str, Any]] | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Settle a run, as a steward, for what it really executed, in place of what it reported.

        The arguments are those of `settle`. Where the tenant's policy asks for a second steward, this answers
        `{"proposal": …}`: nothing is settled before another one has called `approve`.

        >>> try:
        ...     ledger.correct(asked["id"], steps=100, reason="samples were reported in place of steps")
        ... except RunState as error:
        ...     print(error.code)
        run-state
        """
        correct = calls.correct(run, reason=reason, steps=steps, stop=stop, restarts=restarts, evidence=evidence)
        return self._send(correct)

    def void(self, run: str, *, reason: str) -> Answer:
        """Say that no output of the run was ever seen: nothing is charged. Once started, that is a steward's word.

        Where the tenant's policy asks for a second steward, voiding a started run answers `{"proposal": …}`: nothing
        is voided before another one has called `approve`.

        >>> unused = ledger.ask(datasets=["mnist"], mechanism=PureDP(epsilon=0.01))
        >>> ledger.void(unused["id"], reason="the job was cancelled before it read the data")["state"]
        'voided'
        """
        return self._send(send("POST", "runs", run, "void", is_repeatable=True, reason=reason))

    def run_info(self, run: str) -> Answer:
        """What was asked, what was decided, and what became of it.

        >>> ledger.run_info(asked["id"])["settled"]["evidence"]
        {'log': 's3://training/17'}
        """
        return self._send(calls.run_info(run))

    def runs(
        self,
        *,
        dataset: str | None = None,
        state: str | None = None,
        project: str | None = None,
        overdue: bool | None = None,
    ) -> Answers:
        """Every run that the key sees, newest first.

        >>> [run["state"] for run in ledger.runs(dataset="mnist")]
        ['voided', 'voided', 'voided', 'settled', 'settled']
        """
        return self._list(listed("runs", dataset=dataset, state=state, project=project, overdue=overdue))

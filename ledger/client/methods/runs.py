"""Calls about runs, their receipts, and the context manager around a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from ledger.client import calls, pending
from ledger.client.calls import Label, listed, send
from ledger.client.dates import moment
from ledger.client.entering import Plan
from ledger.client.files import open_files
from ledger.client.flows import Flow, Server
from ledger.client.jobs import new_token
from ledger.client.mechanisms import AnyMechanism, Number
from ledger.client.methods.kinds import Answer, Answers, Calls, Lists, Scope, Scopes
from ledger.client.models import Model


class Runs(Calls[Answer], Lists[Answers], Scopes[Scope]):
    """Ask for runs; start, settle and void them."""

    def run(
        self,
        *,
        datasets: Sequence[str | Mapping[str, Any]],
        mechanism: AnyMechanism,
        delta: Number | None = None,
        segments: int | None = None,
        project: str | None = None,
        purpose: str | None = None,
        labels: Mapping[str, Label] | None = None,
        code: Mapping[str, str] | None = None,
        valid_for: str | timedelta | None = None,
        idempotency_key: str | None = None,
        steps_done: int | None = None,
        restarts: Sequence[Mapping[str, Any]] | None = None,
        allow_overrun: bool = False,
        phases: Sequence[str] | None = None,
        processes: str | None = None,
        dry_run: bool = False,
        size_differs: str | None = None,
    ) -> Scope:
        """Return a context manager around the code that trains (`async with` on an AsyncLedger).

        Entering it asks for the run and starts it, or raises BudgetExceeded before any data is used. With `dry_run` it
        raises DryRun, with the cost and what would fit, and nothing is approved. Leaving it settles the run:

        - All planned steps were counted, or `step()` was never called: it is charged for the whole plan.
        - Fewer steps, after `break` or an exception: it is charged for the executed steps, as if the data had caused
          the stop. Separate releases are charged one by one, and a run in `segments` for the segments that were begun;
          other DP-SGD is charged in full, with a warning. After an exception, the step that had begun counts. An
          exception before the first `step()` is charged for the whole plan, because a release may have happened.
        - More steps than planned, which needs `allow_overrun=True`: the steps beyond are charged too, for DP-SGD and
          correlated noise as whole runs or segments, because an output may have caused them. If that fits,
          `run.settled` has an `overrun`, and a warning is logged. If not, it is recorded anyway, the run is settled,
          the datasets are frozen, and Overrun is raised.

        If the ledger does not answer at the end, the settlement is kept on disk, a warning is logged, and your code
        goes on; the next run that is begun here sends it, or `settle_pending`.

        Steps are counted before they use the data: `for batch in run.batches(loader)` counts each, and ends after the
        planned steps; `run.step()` raises PlanExceeded beyond them. With `allow_overrun=True` neither stops the run.
        `phases` names the parts of a Composed mechanism, in order, for `run.step("fine-tune")`.

        `segments` splits the run into this many segments, each restarted with fresh randomness. It may go on to the end
        of the last one; `run.planned_steps` is that number. `run.segment()` ends one.

        An exception of your code passes unchanged. If settling fails too, the exception gets a note.

        A process that dies settles nothing: the run stays held in full. Start the job again, and it continues its run:
        the same job, script and request have the same idempotency key unless you give one. The steps that earlier
        processes may have executed are read from a file in LEDGER_STATE_DIR, count, and are stated as a restart. If
        they are not known here, the whole plan counts as executed: then state `steps_done`, the number of steps that
        earlier processes executed, including those that are now repeated. `restarts` lists repeated steps, as for
        `settle`. The key of a settled or voided run raises RunState; the key of a refused run raises BudgetExceeded
        again. No two processes on a machine can train under one run.

        Of processes that train together (torchrun, accelerate: RANK and WORLD_SIZE), process 0 asks, counts and
        settles; the others wait for its run. `processes` states it if it is not clear: "together", or "each".

        `size_differs` is the reason why the mechanism states another number of units than the dataset is registered
        with, by more than 5 %. Leave out `dataset_size`, and it is the registered one.

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
            size_differs=size_differs,
        )
        rehearsal = calls.plan(
            datasets=datasets,
            mechanism=mechanism,
            delta=delta,
            segments=segments,
            project=project,
            size_differs=size_differs,
        )
        return self._scope(
            Plan(
                ask,
                mechanism,
                segments,
                is_key_given=idempotency_key is not None,
                steps_done=steps_done,
                restarts=restarts,
                allows_overrun=allow_overrun,
                phases=None if phases is None else tuple(phases),
                processes=processes,
                rehearsal=rehearsal if dry_run else None,
            )
        )

    def resume(
        self,
        run: str,
        *,
        steps_done: int | None = None,
        restarts: Sequence[Mapping[str, Any]] | None = None,
        allow_overrun: bool = False,
        phases: Sequence[str] | None = None,
        processes: str | None = None,
    ) -> Scope:
        """Return a context manager around the code that trains under a run that was approved before, such as on the
        command line. The mechanism and the segments are those of its request.

        A held run is started; a started one goes on, with what was executed before, as for `run`. Raises RunState if it
        was refused, voided or settled.

        >>> approved = ledger.ask(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=50))
        >>> with ledger.resume(approved["id"]) as run:
        ...     run.step()
        >>> run.settled["charged"]["mu"]
        0.02
        """
        return self._scope(
            Plan(
                run=run,
                steps_done=steps_done,
                restarts=restarts,
                allows_overrun=allow_overrun,
                phases=None if phases is None else tuple(phases),
                processes=processes,
            )
        )

    def settle_pending(self) -> Answer:
        """Send the settlements that this machine kept because the ledger did not answer.

        Return `{"sent": [{"run", "outcome"}], "waiting": […]}`; what cannot be sent stays, with a warning.

        >>> ledger.settle_pending()["sent"]
        []
        """
        answer: Answer = self._drive(_pending_sent(self._server))
        return answer

    def ask(
        self,
        *,
        datasets: Sequence[str | Mapping[str, Any]],
        mechanism: AnyMechanism,
        delta: Number | None = None,
        segments: int | None = None,
        project: str | None = None,
        purpose: str | None = None,
        labels: Mapping[str, Label] | None = None,
        code: Mapping[str, str] | None = None,
        valid_for: str | timedelta | None = None,
        idempotency_key: str | None = None,
        size_differs: str | None = None,
    ) -> Answer:
        """Ask for approval of a run, before it uses data. Raises BudgetExceeded.

        The same `idempotency_key` always gets the same answer. Default: a new key for this call and its retries. The
        answer's `assumptions` has how batches must be drawn, `expected_batch` how large they are on average, and
        `warnings`, if there, what looks like a slip. `size_differs`: as for `run`.

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
                size_differs=size_differs,
            )
        )

    def ask_batch(
        self, runs: Sequence[Mapping[str, Any]], *, atomic: bool = False, as_many_as_fit: bool = False
    ) -> Answer:
        """Ask for approval of up to 1000 runs at once. Each is a mapping of the arguments of `ask`.

        Returns the outcome of each, in order: `{"status": 201, "run": …}` or `{"status": 409, "problem": …}`. A refused
        run raises nothing. With `atomic`, either all are approved, or BatchRefused is raised, nothing is recorded, and
        `error.facts["fitting"]` is how many would fit. With `as_many_as_fit`, as many are approved as fit together, in
        this order, and the others are not recorded; a repeated request approves no more. `approved` is their number.
        A run without an `idempotency_key` gets a new one, for this call and its retries. If your job may be restarted,
        give each run its own key.

        >>> trials = [Gaussian(noise_multiplier=40), Gaussian(noise_multiplier=50)]
        >>> runs = [{"datasets": ["mnist"], "mechanism": trial} for trial in trials]
        >>> results = ledger.ask_batch(runs, atomic=True)["results"]
        >>> [result["run"]["cost"]["mu"] for result in results]
        [0.025, 0.02]
        >>> for result in results:
        ...     _ = ledger.void(result["run"]["id"], reason="an example")
        """
        return self._send(calls.ask_batch(runs, atomic=atomic, as_many_as_fit=as_many_as_fit))

    def start(self, run: str, *, token: str | None = None) -> Answer:
        """Record that the run starts to use the data. A job may begin with the returned `receipt`, until `begin_by`.

        token: a text that no other process has, 1 to 64 visible characters; default: a new one for each call and its
        retries. Keep one of your own if a restarted job must get the same answer. Raises RunState if the run was
        started with another token: that process may train, and this one must not.

        >>> ledger.start(asked["id"])["state"]
        'started'
        """
        return self._send(calls.start(run, token=token or new_token()))

    def receipt(self, run: str) -> Answer:
        """Return a new signed receipt of a run, of its start or before that of its approval:
        `{"run", "state", "begin_by", "receipt"}`. A job may begin with it until `begin_by`.

        Only a receipt in state `started` allows training. Raises RunState if the run was refused, voided or settled.

        >>> ledger.receipt(asked["id"])["state"]
        'started'
        """
        return self._send(calls.receipt(run))

    def jwks(self) -> Answer:
        """Return the public keys with which `verify_receipt` verifies receipts, without a server.

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
        models: Sequence[Model] | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Charge a started run for what it executed.

        steps: how many steps were executed; default: all planned steps. stop: why there were fewer. `data_dependent`,
        the default, is charged so that it holds whatever caused the stop: separate releases one by one, segments that
        were begun, otherwise the whole plan. With `data_independent` you affirm that neither the data nor any output,
        even of a later run, influenced where it stopped; it is charged as a run of that many steps.
        restarts: the restarts from an earlier step, in order, each `{"from_step", "to_step", "new_batches"}`: the
        repeated steps, counted from 1 (`to_step` is `from_step` - 1 if none was repeated), and whether batches were
        drawn, or units ordered, again from there on. `steps` counts repeated steps again. An empty list means that no
        step was repeated. Without it, the worst case is charged if there were more steps than planned.
        models: what the run produced: paths of files or folders, whose SHA-256 are computed here, or mappings
        `{"name", "sha256", "size"}`. At most 100 files. `attestation` signs them.

        Raises InvalidRequest if a file cannot be read, and Overrun if more was executed than fits; it is charged
        anyway. If no budget could cover it, nothing is charged until a steward calls `confirm` or `correct`; then
        `error.state` is `started`.

        >>> model = {"name": "model.safetensors", "sha256": "ab" * 32, "size": 7}
        >>> ledger.settle(asked["id"], models=[model], evidence={"log": "s3://training/17"})["charged"]["mu"]
        0.05
        """
        settle = calls.settle(run, steps=steps, stop=stop, restarts=restarts, models=models, evidence=evidence)
        return self._send(settle)

    def attestation(self, run: str) -> Answer:
        """Return a signed statement about the files that a settled run produced, with its cost: an in-toto statement in
        a DSSE envelope, which `verify_attestation` verifies without a server, and `model_card` writes as a model card.

        Raises RunState if the run is not settled, or was settled without `models`.

        >>> envelope = ledger.attestation(asked["id"])
        >>> attestation = verify_attestation(envelope, jwks=ledger.jwks(), models=[model])
        >>> attestation.mu
        0.05
        """
        return self._send(calls.attestation(run))

    def report_progress(self, run: str, *, steps: int, reporter: str | None = None) -> Answer:
        """Report how many steps the job of a started run has executed. The newest report is kept, as evidence
        if the job dies; nothing is charged by it. `run` does this by itself, twice a minute.

        reporter: a text that no other place sends, such as a host's name; a later process knows by it who went on.

        >>> going = ledger.ask(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=100, count=4))
        >>> _ = ledger.start(going["id"])
        >>> ledger.report_progress(going["id"], steps=2)["steps"]
        2
        >>> ledger.settle(going["id"], steps=2)["charged"]["mu"] < going["cost"]["mu"]
        True
        """
        return self._send(calls.report_progress(run, steps=steps, reporter=reporter))

    def confirm(self, run: str, *, reason: str) -> Answer:
        """Confirm, as a steward, steps that a run reported and no budget covers. They are charged.

        >>> try:
        ...     ledger.confirm(asked["id"], reason="the log has every step")
        ... except RunState as error:
        ...     print(error.facts["state"], error.facts["next"])
        settled ['correction']
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
        models: Sequence[Model] | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Settle a run, as a steward, for what it really executed, instead of what it reported.

        The arguments are those of `settle`. If the tenant's policy asks for a second steward, this returns
        `{"proposal": …}`: nothing is settled until another steward calls `approve`.

        >>> try:
        ...     ledger.correct(asked["id"], steps=100, reason="samples were reported in place of steps")
        ... except RunState as error:
        ...     print(error.code)
        run-state
        """
        executed: dict[str, Any] = {"steps": steps, "stop": stop, "restarts": restarts, "models": models}
        return self._send(calls.correct(run, reason=reason, **executed, evidence=evidence))

    def correction(
        self,
        run: str,
        *,
        mechanism: AnyMechanism,
        reason: str,
        decided_by_output: bool,
        on_word_of: str | None = None,
        advisory: str | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Answer:
        """State, as a steward, which mechanism a settled run really was. It is charged for that.

        decided_by_output: whether an output of any run may have decided which mechanism ran. If not, the true mechanism
        takes the place of the declared one; otherwise it is charged in addition. If it does not fit, the answer has
        `fits` false, and its datasets are frozen. If the run was charged too much, state `on_word_of`: the answer is
        `{"proposal": …}`, and nothing is given back until another steward calls `approve`.

        >>> what = Gaussian(noise_multiplier=16)
        >>> ledger.correction(asked["id"], mechanism=what, reason="a slip", decided_by_output=False)["charged"]["mu"]
        0.0625
        """
        return self._send(
            calls.correction(
                run,
                mechanism=mechanism,
                reason=reason,
                decided_by_output=decided_by_output,
                on_word_of=on_word_of,
                advisory=advisory,
                evidence=evidence,
            )
        )

    def void(self, run: str, *, reason: str, data_independent: bool = False) -> Answer:
        """Cancel a run, because nobody has seen any output of it. A started run needs a steward's key.

        Its cost is given back, unless later runs rest on it: then the answer has `kept`, and the datasets `kept_for`
        have too little left. data_independent: your statement that neither the data nor any output, of this or of
        another run, decided the void, nor when the run began, and that it will not be resumed. A crash alone does not
        state that. With it all is given back.

        If the tenant's policy asks for a second steward, voiding a started run returns `{"proposal": …}`: nothing is
        voided until another steward calls `approve`.

        >>> unused = ledger.ask(datasets=["mnist"], mechanism=PureDP(epsilon=0.01))
        >>> ledger.void(unused["id"], reason="the job was cancelled before it read the data")["state"]
        'voided'
        """
        stated = data_independent or None
        return self._send(send("POST", "runs", run, "void", is_repeatable=True, reason=reason, data_independent=stated))

    def run_info(self, run: str) -> Answer:
        """Return a run: the request, the decision, its state, and why it was refused (`refused_by`).

        run: its id, or the first eight characters or more, if no other run that the key sees begins with them.

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
        label: Sequence[str] | None = None,
        purpose: str | None = None,
        person: str | None = None,
        mechanism: str | None = None,
        since: str | datetime | None = None,
        until: str | datetime | None = None,
        key: str | None = None,
    ) -> Answers:
        """Iterate over the runs that the key may read, newest first. Each filter that is given must hold.

        label: labels, each `"name=value"`, or `"name"` for any value. purpose: a part of the text, in any case.
        person: the id of the principal that asked, or its name at that time. mechanism: its type, such as `"dpsgd"`.
        since, until: when it was asked for; `until` is no longer in it. A time, or a text: `"2026-10-01"` (00:00 UTC),
        `"today"`, `"yesterday"`, or how long ago, such as `"12h"`, `"30d"` or `"2w"`. key: your own run with this
        idempotency key, without other filters.

        >>> [run["state"] for run in ledger.runs(dataset="mnist")]
        ['voided', 'settled', 'voided', 'voided', 'settled', 'settled', 'settled']
        >>> [run["request"]["purpose"] for run in ledger.runs(purpose="count", mechanism="gaussian", since="1h")]
        ['a count']
        """
        period = {"since": moment(since, field="since"), "until": moment(until, field="until")}
        return self._list(
            listed(
                "runs",
                dataset=dataset,
                state=state,
                project=project,
                overdue=overdue,
                label=label,
                purpose=purpose,
                person=person,
                mechanism=mechanism,
                key=key,
                **period,
            )
        )


def _pending_sent(server: Server) -> Flow[dict[str, Any]]:
    return (yield from pending.send_kept(open_files(), server, limit=None))

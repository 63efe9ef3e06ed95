"""What can be asked of a ledger: every call described once, for `Ledger` and `AsyncLedger` alike.

A method here makes a `Call`; the two classes in `ledgers` differ in how they carry it out, and so in what they return.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from ledger.client import calls
from ledger.client.calls import Call, get, listed, path, send
from ledger.client.flows import Flow, Server, answered, done
from ledger.client.mechanisms import AnyMechanism, Number, planned_steps
from ledger.client.runs import Plan

Answer = TypeVar("Answer")  # dict[str, Any], or a coroutine of it
Answers = TypeVar("Answers")  # an iterator of those, or an asynchronous one
Done = TypeVar("Done")  # None, or a coroutine of it
Scope = TypeVar("Scope")  # a context manager around a run, or an asynchronous one


class Methods(ABC, Generic[Answer, Answers, Done, Scope]):
    """The calls of the ledger. Answers are the objects of the HTTP API, as plain dictionaries."""

    _server: Server

    @abstractmethod
    def _drive(self, flow: Flow[Any], /) -> Any:
        """Does what a flow says."""

    @abstractmethod
    def _each(self, listing: Call) -> Answers:
        """The items of a list, page by page."""

    @abstractmethod
    def _scope(self, plan: Plan) -> Scope:
        """The context manager around a run."""

    def _send(self, call: Call) -> Answer:
        answer: Answer = self._drive(answered(call, self._server))
        return answer

    # --- runs

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
    ) -> Scope:
        """A run around the code that trains (`async with` on an AsyncLedger).

        Entering asks for the run and starts it; where it does not fit, BudgetExceeded is raised before any data is
        touched. Leaving settles it:

        - all planned steps counted, or `step()` never called: for all that was planned;
        - fewer, by `break` or by an exception: for the steps executed, under the rule that is always sound. An
          exception counts the step that was under way; one that comes before the first `step()` settles for all that
          was planned, since a release may have happened;
        - more than planned: the ledger's error is raised, and the run stays held.

        An exception of your code always passes unchanged; where settling fails besides, it gets a note that says so.
        A process that dies (or is killed by a signal that raises nothing) settles nothing: the run stays held in full.
        Started again with the same `idempotency_key`, it finds its run and goes on, and says by `steps_done` how many
        steps the processes before it executed, those that are now repeated included; left out, the run settles for all
        that was planned. A key whose run was settled or voided raises RunState, and a refused one stays refused. One
        run is one execution: never let two processes work under one key at the same time.

        >>> with ledger.run(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=20, count=3)) as run:
        ...     for _ in range(3):
        ...         # release something
        ...         run.step()
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
        return self._scope(Plan(ask, planned_steps(mechanism), steps_done))

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

    def start(self, run: str) -> Answer:
        """Say that the run now touches the data.

        >>> ledger.start(asked["id"])["state"]
        'started'
        """
        return self._send(calls.start(run))

    def settle(
        self, run: str, *, steps: int | None = None, stop: str | None = None, evidence: Mapping[str, Any] | None = None
    ) -> Answer:
        """Charge a started run for what it executed: all that was planned, where nothing else is said.

        >>> ledger.settle(asked["id"], evidence={"log": "s3://training/17"})["charged"]["mu"]
        0.05
        """
        return self._send(calls.settle(run, steps=steps, stop=stop, evidence=evidence))

    def void(self, run: str, *, reason: str) -> Answer:
        """Say that no output of the run was ever seen: nothing is charged. Once started, that is a steward's word.

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
        ['voided', 'settled', 'settled']
        """
        return self._each(listed("runs", dataset=dataset, state=state, project=project, overdue=overdue))

    def evaluate(
        self,
        *,
        mechanism: AnyMechanism,
        bound: str | None = None,
        adjacency: str | None = None,
        delta: Number | None = None,
        report_deltas: Sequence[Number] | None = None,
    ) -> Answer:
        """What a mechanism costs, and what epsilon that is: the accountant alone, nothing is recorded.

        >>> ledger.evaluate(mechanism=Gaussian(noise_multiplier=5, count=4))["cost"]["mu"]
        0.4
        """
        return self._send(
            send(
                "POST",
                "evaluate",
                is_repeatable=True,
                mechanism=mechanism,
                bound=bound,
                adjacency=adjacency,
                delta=delta,
                report_deltas=report_deltas,
            )
        )

    def plan(
        self,
        *,
        datasets: Sequence[str | Mapping[str, Any]],
        mechanism: AnyMechanism,
        delta: Number | None = None,
        solve_for: str | None = None,
    ) -> Answer:
        """Whether a run would fit now, what it would leave, and how much of it would fit: nothing is recorded.

        `solve_for` names a parameter of the mechanism, or `runs`, how many of exactly this run. An answer that says it
        does not fit is an answer, and raises nothing.

        >>> planned = ledger.plan(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=5), solve_for="runs")
        >>> planned["fits"], planned["solution"]["value"]
        (True, 24)
        """
        return self._send(
            send(
                "POST",
                "plan",
                is_repeatable=True,
                datasets=datasets,
                mechanism=mechanism,
                delta=delta,
                solve_for=solve_for,
            )
        )

    # --- datasets

    def register(
        self,
        *,
        name: str,
        privacy_unit: str,
        adjacency: str,
        budget: Mapping[str, Any],
        bound: str | None = None,
        size: int | None = None,
        title: str | None = None,
        description: str | None = None,
        derived_from: Sequence[Mapping[str, Any]] | None = None,
        partitions: Sequence[str] | None = None,
        ceiling: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Register a dataset with its budget. Its privacy unit, adjacency and bound never change.

        >>> clicks = ledger.register(
        ...     name="clicks",
        ...     privacy_unit="user",
        ...     adjacency="add_or_remove_one",
        ...     budget={"epsilon": 3, "at_delta": 1e-6},
        ... )
        >>> clicks["state"]
        'active'
        """
        return self._send(
            send(
                "POST",
                "datasets",
                name=name,
                privacy_unit=privacy_unit,
                adjacency=adjacency,
                budget=budget,
                bound=bound,
                size=size,
                title=title,
                description=description,
                derived_from=derived_from,
                partitions=partitions,
                ceiling=ceiling,
            )
        )

    def dataset(self, name: str) -> Answer:
        """A dataset with its balance.

        >>> sorted(ledger.dataset("mnist")["balance"])
        ['held', 'limit', 'remaining', 'spent']
        """
        return self._send(get("datasets", name))

    def datasets(self) -> Answers:
        """Every dataset that the key sees, by name.

        >>> [dataset["name"] for dataset in ledger.datasets()]
        ['clicks', 'mnist']
        """
        return self._each(listed("datasets"))

    def change(
        self,
        name: str,
        *,
        state: str | None = None,
        title: str | None = None,
        description: str | None = None,
        reason: str | None = None,
    ) -> Answer:
        """Freeze, thaw or retire a dataset, which takes a reason, or word its title and description anew.

        >>> ledger.change("clicks", state="frozen", reason="under review")["state"]
        'frozen'
        """
        return self._send(
            send("PATCH", "datasets", name, state=state, title=title, description=description, reason=reason)
        )

    def set_budget(self, name: str, *, budget: Mapping[str, Any], reason: str) -> Answer:
        """Set a new limit, not below what is spent and held.

        >>> ledger.set_budget("mnist", budget={"mu": 2}, reason="agreed in March")["balance"]["limit"]["mu"]
        2.0
        """
        return self._send(send("PUT", "datasets", name, "budget", budget=budget, reason=reason))

    def entries(self, name: str) -> Answers:
        """Every entry of a dataset's journal, oldest first. To verify them, `export`: it keeps every byte.

        >>> [item["entry"]["kind"] for item in ledger.entries("clicks")]
        ['dataset-registered', 'dataset-changed']
        """
        return self._each(listed("datasets", name, "entries"))

    def head(self, name: str) -> Answer:
        """The journal's newest number and hash.

        >>> ledger.head("clicks")["seq"]
        2
        """
        return self._send(get("datasets", name, "head"))

    # --- tenants and keys

    def make_tenant(self, *, name: str) -> Answer:
        """Make a tenant and its first admin key, whose secret is shown once. The operator's key does that.

        >>> operator.make_tenant(name="another")["key"]["role"]
        'admin'
        """
        return self._send(send("POST", "tenants", name=name))

    def make_key(
        self, *, name: str, role: str, datasets: Sequence[str] | None = None, expires_at: str | datetime | None = None
    ) -> Answer:
        """Make a key. Its secret is shown this once.

        >>> made = ledger.make_key(name="training-ci", role="requester", datasets=["mnist"])
        >>> made["secret"][:4]
        'pbl_'
        """
        return self._send(send("POST", "keys", name=name, role=role, datasets=datasets, expires_at=expires_at))

    def keys(self) -> Answers:
        """Every key of the tenant, without its secret.

        >>> any(key["name"] == "training-ci" for key in ledger.keys())
        True
        """
        return self._each(listed("keys"))

    def revoke_key(self, key: str) -> Done:
        """Revoke a key, by its id.

        >>> ledger.revoke_key(made["id"])
        """
        nothing: Done = self._drive(done(Call("DELETE", path("keys", key), is_repeatable=True), self._server))
        return nothing

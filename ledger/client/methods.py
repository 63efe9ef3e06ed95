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
from ledger.client.wire import encode

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
        - fewer, by `break` or by an exception: for the steps executed, under the rule that is always sound. Separate
          releases are charged one by one, and a run in `segments` for those that were begun; other DP-SGD is charged in
          full. An exception counts the step that was under way; one that comes before the first `step()` settles for
          all that was planned, since a release may have happened;
        - more than planned: what was beyond is charged besides, as a run of its own. Where that fits, `run.settled` has
          it as `overrun`, and a warning is logged; where it does not, it is recorded all the same, the run is settled,
          the datasets are frozen, and then Overrun is raised.

        With `segments` the run is reserved as so many pieces, each restarted with fresh randomness; it may go on to the
        end of the last one, which `run.planned_steps` says.

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
        return self._scope(Plan(ask, planned_steps(mechanism, segments), steps_done))

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
        """Say that the run now touches the data.

        >>> ledger.start(asked["id"])["state"]
        'started'
        """
        return self._send(calls.start(run))

    def settle(
        self, run: str, *, steps: int | None = None, stop: str | None = None, evidence: Mapping[str, Any] | None = None
    ) -> Answer:
        """Charge a started run for what it executed: all that was planned, where nothing else is said.

        With fewer `steps` the run is charged for what is sound whatever made it stop (`data_dependent`): separate
        releases one by one, segments begun, otherwise all. `stop="data_independent"` is your word that neither the data
        nor any output, also of a later run, had a say in where it stopped: it is charged as a run of so many steps.
        Raises Overrun where there were more than fit; they are charged all the same.

        >>> ledger.settle(asked["id"], evidence={"log": "s3://training/17"})["charged"]["mu"]
        0.05
        """
        return self._send(calls.settle(run, steps=steps, stop=stop, evidence=evidence))

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

    def receipt(self, run: str) -> Answer:
        """The signed receipt of a run's start, or of its approval before that: `{"run", "state", "receipt"}`.

        Only one in state `started` lets a job train. Raises RunState where the run was refused or voided.

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
        segments: int | None = None,
        project: str | None = None,
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
                segments=segments,
                project=project,
                solve_for=solve_for,
            )
        )

    # --- datasets

    def register(
        self,
        *,
        name: str,
        privacy_unit: str | None = None,
        adjacency: str | None = None,
        budget: Mapping[str, Any] | None = None,
        bound: str | None = None,
        size: int | None = None,
        title: str | None = None,
        description: str | None = None,
        derived_from: Sequence[Mapping[str, Any]] | None = None,
        partitions: Sequence[str] | None = None,
        ceiling: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Register a dataset with its budget. Its privacy unit, adjacency, bound and origin never change.

        derived_from: `[{"name": "clicks", "unit_preserving": True}]`, your word that one privacy unit of that dataset
        changes only its own rows here. Such a dataset is of the other's unit, adjacency and bound, and needs no budget:
        its runs charge what it comes from, and raise UnitMismatch where that does not go together.
        partitions: names of parts such that no privacy unit is in two, an empty list where they come later; left out,
        there can never be any. ceiling: a budget that no later one may pass.

        >>> clicks = ledger.register(
        ...     name="clicks",
        ...     privacy_unit="user",
        ...     adjacency="add_or_remove_one",
        ...     budget={"epsilon": 3, "at_delta": 1e-6},
        ... )
        >>> clicks["state"]
        'active'
        >>> bots = ledger.register(name="no-bots", derived_from=[{"name": "clicks", "unit_preserving": True}])
        >>> bots["balance"], bots["roots"]
        (None, ['clicks'])
        >>> events = ledger.register(
        ...     name="events",
        ...     privacy_unit="user-month",
        ...     adjacency="add_or_remove_one",
        ...     budget={"mu": 1, "delta": 1e-6},
        ...     partitions=["2026-10"],
        ...     ceiling={"mu": 2, "delta": 1e-6},
        ... )
        >>> events["partition_count"], events["ceiling"]["mu"]
        (1, 2.0)
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
        ['clicks', 'events', 'mnist', 'no-bots']
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

        Where the tenant's policy asks for a second steward, thawing an overdrawn dataset answers `{"proposal": …}`:
        nothing changes before another one has called `approve`.

        >>> ledger.change("clicks", state="frozen", reason="under review")["state"]
        'frozen'
        """
        return self._send(
            send("PATCH", "datasets", name, state=state, title=title, description=description, reason=reason)
        )

    def set_budget(self, name: str, *, budget: Mapping[str, Any], reason: str) -> Answer:
        """Set a new limit, of every partition too: not below what is spent and held, nor above the ceiling.

        Where the tenant's policy asks for a second steward, a higher limit in either quantity answers
        `{"proposal": …}`: the old one stays until another one has called `approve`.

        >>> ledger.set_budget("mnist", budget={"mu": 2}, reason="agreed in March")["balance"]["limit"]["mu"]
        2.0
        """
        return self._send(send("PUT", "datasets", name, "budget", budget=budget, reason=reason))

    def add_partitions(self, name: str, names: Sequence[str], *, disjoint: bool) -> Answer:
        """Add partitions, each with the dataset's limit. `disjoint` has to be True: your word, kept, that no privacy
        unit is in two. Raises PartitionsClosed where the dataset was registered without any.

        >>> [made["name"] for made in ledger.add_partitions("events", ["2026-11"], disjoint=True)["items"]]
        ['2026-11']
        """
        return self._send(send("POST", "datasets", name, "partitions", names=names, disjoint=disjoint))

    def partitions(self, name: str) -> Answers:
        """Every partition of a dataset with its balance, by name.

        >>> [(part["name"], part["balance"]["remaining"]["mu"]) for part in ledger.partitions("events")]
        [('2026-10', 1.0), ('2026-11', 1.0)]
        """
        return self._each(listed("datasets", name, "partitions"))

    def set_project(self, name: str, project: str, *, budget: Mapping[str, Any], reason: str | None = None) -> Answer:
        """Set a project's share of a dataset. Runs that name the project are charged to both: it can only tighten.

        >>> ledger.set_project("events", "ranking", budget={"mu": 0.5, "delta": 1e-7})["balance"]["limit"]["mu"]
        0.5
        """
        return self._send(send("PUT", "datasets", name, "projects", project, budget=budget, reason=reason))

    def set_fair_use(
        self, name: str, *, held: Mapping[str, Any] | None = None, runs_per_hour: int | None = None, reason: str
    ) -> Answer:
        """Limit what one principal may hold of a dataset at once, and how many runs it may ask for in an hour.

        What is left out is not limited any more. Who asks for more often meets RateLimited; what a principal may hold
        binds like a budget, and BudgetExceeded says so.

        >>> ledger.set_fair_use("events", runs_per_hour=100, reason="so that others get a turn")["fair_use"]
        {'held': None, 'runs_per_hour': 100}
        """
        return self._send(
            send("PUT", "datasets", name, "fair-use", held=held, runs_per_hour=runs_per_hour, reason=reason)
        )

    def entries(self, name: str) -> Answers:
        """Every entry of a dataset's journal, oldest first. To verify them, `export`: it keeps every byte.

        >>> [item["entry"]["kind"] for item in ledger.entries("clicks")]
        ['dataset-registered', 'dataset-changed']
        """
        return self._each(listed("datasets", name, "entries"))

    def head(self, name: str) -> Answer:
        """The journal's newest number and hash, and the Merkle root over all of it, signed. Keep it: with it you can
        show later that history was another.

        >>> ledger.head("clicks")["seq"]
        2
        """
        return self._send(get("datasets", name, "head"))

    def proof(self, name: str, seq: int, *, size: int | None = None) -> Answer:
        """That an entry is in the journal, among its first `size` entries or all, in a few hashes.

        >>> ledger.proof("clicks", 2)["size"]
        2
        """
        return self._send(get("datasets", name, "proof", seq=seq, size=size))

    def consistency(self, name: str, from_: int, to: int | None = None) -> Answer:
        """That the journal, or its first `to` entries, begins with its first `from_` as they were, in a few hashes.

        >>> len(ledger.consistency("clicks", 1)["path"])
        1
        """
        return self._send(get("datasets", name, "consistency", **{"from": from_, "to": to}))

    # --- tenants and keys

    def make_tenant(self, *, name: str) -> Answer:
        """Make a tenant and its first admin key, whose secret is shown once. The operator's key does that.

        >>> operator.make_tenant(name="another")["key"]["role"]
        'admin'
        """
        return self._send(send("POST", "tenants", name=name))

    def me(self) -> Answer:
        """Whom the ledger takes you for: tenant, role, the limits of the key, and when it ends.

        >>> ledger.me()["role"], operator.me()
        ('admin', {'role': 'operator'})
        """
        return self._send(get("me"))

    def make_key(
        self,
        *,
        name: str,
        role: str,
        datasets: Sequence[str] | None = None,
        projects: Sequence[str] | None = None,
        expires_at: str | datetime | None = None,
    ) -> Answer:
        """Make a key. Its secret is shown this once.

        datasets: those that it sees, all when left out. projects: those of which a requester's every run has to name
        one.

        >>> made = ledger.make_key(name="training-ci", role="requester", datasets=["mnist"], projects=["ranking"])
        >>> made["secret"][:4]
        'pbl_'
        """
        return self._send(
            send("POST", "keys", name=name, role=role, datasets=datasets, projects=projects, expires_at=expires_at)
        )

    def keys(self) -> Answers:
        """Every key of the tenant, without its secret.

        >>> any(key["name"] == "training-ci" for key in ledger.keys())
        True
        """
        return self._each(listed("keys"))

    def rotate_key(self, key: str, *, overlap: str | timedelta | None = None) -> Answer:
        """Make a new key for the same principal, with the same role and limits. Its secret is shown this once.

        The old one, given by its id, works beside it for the overlap, a day when left out, and then ends.

        >>> rotated = ledger.rotate_key(made["id"], overlap="PT1H")
        >>> rotated["principal"] == made["principal"], rotated["projects"]
        (True, ['ranking'])
        """
        return self._send(send("POST", "keys", key, "rotate", overlap=overlap))

    def revoke_key(self, key: str) -> Done:
        """Revoke a key, by its id.

        >>> ledger.revoke_key(made["id"])
        """
        nothing: Done = self._drive(done(Call("DELETE", path("keys", key), is_repeatable=True), self._server))
        return nothing

    # --- what takes two people

    def policy(self) -> Answer:
        """The tenant's policy.

        >>> ledger.policy()
        {'second_steward': False}
        """
        return self._send(get("policy"))

    def set_policy(self, *, second_steward: bool, reason: str) -> Answer:
        """Set whether raising a budget, thawing an overdrawn dataset and voiding a started run take a second steward.

        Such a call then answers `{"proposal": …}`, and nothing changes until somebody else, a steward or an admin, has
        approved it within a day. Who changes the policy is an admin, and needs no second one.

        >>> ledger.set_policy(second_steward=True, reason="agreed with the data protection officer")
        {'second_steward': True}
        """
        return self._send(send("PUT", "policy", second_steward=second_steward, reason=reason))

    def proposals(self, *, state: str | None = None) -> Answers:
        """Every proposal, newest first: open, approved, refused or expired.

        >>> proposed = ledger.set_budget("clicks", budget={"mu": 3, "delta": 1e-6}, reason="agreed in May")["proposal"]
        >>> [found["what"] for found in ledger.proposals(state="open")]
        ['budget']
        """
        return self._each(listed("proposals", state=state))

    def proposal(self, proposal: str) -> Answer:
        """What is proposed, by whom, and until when it can be approved.

        >>> ledger.proposal(proposed["id"])["proposes"]["budget"]["mu"]
        3
        """
        return self._send(get("proposals", proposal))

    def approve(self, proposal: str) -> Answer:
        """Do what another steward proposed, if it still can be done: the dataset or the run, as it is now.

        Raises ProposalState where the proposal was answered before or has expired, Forbidden where it is your own.

        >>> second.approve(proposed["id"])["balance"]["limit"]["mu"]
        3.0
        """
        return self._send(Call("POST", path("proposals", proposal, "approve"), is_repeatable=False))

    def refuse(self, proposal: str, *, reason: str) -> Answer:
        """Refuse what another steward proposed, for good. Raises ProposalState and Forbidden as `approve` does.

        >>> proposed = ledger.set_budget("clicks", budget={"mu": 4, "delta": 1e-6}, reason="more")["proposal"]
        >>> second.refuse(proposed["id"], reason="the board has not agreed")["state"]
        'refused'
        """
        return self._send(send("POST", "proposals", proposal, "refuse", reason=reason))

    # --- the tenant's own journal

    def tenant_entries(self) -> Answers:
        """Every entry of the tenant's own journal, of keys, roles and the policy, oldest first; `export_tenant` keeps
        every byte.

        >>> [item["entry"]["kind"] for item in ledger.tenant_entries()][-4:]
        ['key-made', 'key-rotated', 'key-revoked', 'policy-set']
        """
        return self._each(listed("entries"))

    def tenant_head(self) -> Answer:
        """Its newest number and hash, and the Merkle root over all of it, signed.

        >>> ledger.tenant_head()["seq"] == len(list(ledger.tenant_entries()))
        True
        """
        return self._send(get("head"))

    def tenant_proof(self, seq: int, *, size: int | None = None) -> Answer:
        """That an entry is in it, as `proof` shows of a dataset's.

        >>> ledger.tenant_proof(1)["head"]["seq"] == ledger.tenant_head()["seq"]
        True
        """
        return self._send(get("proof", seq=seq, size=size))

    def tenant_consistency(self, from_: int, to: int | None = None) -> Answer:
        """That it begins with what it was, as `consistency` shows of a dataset's.

        >>> ledger.tenant_consistency(1, 2)["to"]
        2
        """
        return self._send(get("consistency", **{"from": from_, "to": to}))

    # --- alerts

    def alerts(self, *, kind: str | None = None, dataset: str | None = None, state: str | None = None) -> Answers:
        """What the tenant was told of, newest first, and how far the delivery came: pending, delivered, failed, or none
        where there was no webhook.

        >>> sorted({alert["kind"] for alert in ledger.alerts(dataset="clicks")})
        ['frozen']
        """
        return self._each(listed("alerts", kind=kind, dataset=dataset, state=state))

    def alerting(self) -> Answer:
        """What the tenant is told of.

        >>> ledger.alerting()["thresholds"]
        [50, 80, 90, 95, 100]
        """
        return self._send(get("alerting"))

    def set_alerting(self, changes: Mapping[str, Any], *, reason: str) -> Answer:
        """Set what the tenant is told of: `thresholds`, `refusals_in_a_row`, `forecast_days`, `webhook`, `heads`. What
        is left out stays as it is; None turns it off.

        >>> ledger.set_alerting({"thresholds": [75], "forecast_days": None}, reason="less noise")["thresholds"]
        [75]
        """
        content = encode({**changes, "reason": reason}).encode()
        headers = {"Content-Type": "application/json"}
        return self._send(Call("PUT", path("alerting"), is_repeatable=True, headers=headers, content=content))

    def test_alerting(self) -> Answer:
        """Raise an alert that says nothing but that alerts arrive.

        >>> ledger.test_alerting()["delivery"]["state"]
        'none'
        """
        return self._send(Call("POST", path("alerting", "test"), is_repeatable=False))

    def forecast(self, name: str) -> Answer:
        """Estimate how long a dataset's budget lasts if it is spent as in the last four weeks.

        >>> ledger.forecast("clicks")["accounts"][0]["is_enough"]
        False
        """
        return self._send(get("datasets", name, "forecast"))

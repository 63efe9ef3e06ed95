"""The ledger of one tenant as its documentation has it: what is answered, what is written, what is left.

It shares no code with the ledger. An operation returns what must be answered, or raises `Refused` with every error that
may be, since the documentation does not say which of several faults comes first.
"""

from __future__ import annotations

import copy
import functools

from tests.model import views
from tests.model.books import (
    FORBIDDEN,
    FROZEN,
    INVALID,
    LIMITED,
    MECHANISM,
    MISMATCH,
    REUSED,
    RUN_STATE,
    UNKNOWN,
    Answer,
    Balance,
    Dataset,
    Key,
    Person,
    Problem,
    Proposal,
    Refused,
    Run,
    demand,
)
from tests.model.prices import (
    FULL,
    NOTHING,
    Amount,
    Bill,
    Json,
    limit_of,
    one_segment,
    planned,
    price,
    repeated,
    rests_on_size,
    segment_steps,
    settled,
)
from tests.model.stewards import Stewards


class Model(Stewards):
    """One tenant, with all that is done in it."""

    # --- asking for runs: docs/explanation/decision.md

    def ask(self, who: Person, key: str, body: Json) -> Answer:
        """Decides on a run: every account has to have room for it, in both quantities, or none is charged."""
        self.demand_role(who, "requester")
        claim = (who.id, key)
        bound = self.keys.get(claim)
        if bound is not None and bound[:2] == (who, body):
            return Answer(409 if bound[2].state == "refused" else 201, run=bound[2], first=bound[2].answers["ask"][1])
        run = self._requested(who, body, [(REUSED, bound is not None)])
        self.keys[claim] = who, body, run
        self.runs.append(run)
        charged = [(name, key, self.datasets[name].accounts[key]) for name in run.charges for key in run.charges[name]]
        binding = {
            (name, key, quantity, *(getattr(amount, quantity) for amount in (run.cost, own.remaining, own.limit)))
            for name, key, own in charged
            for quantity in run.cost.exceeds(own.remaining)
        }
        run.state = "refused" if binding else "held"
        left = functools.reduce(Amount.least, (own.remaining for *_, own in charged))
        for *_, own in charged if not binding else []:
            own.held += run.cost
        for name, keys in run.charges.items():
            refusal = self._binding(name, {(on, quantity) for on, _, quantity, *_ in binding})
            facts = self._decision(run, key, name) | refusal
            self.write(name, "run-refused" if binding else "run-approved", who, facts, keys)
        if binding:
            return Answer(409, {"code": "budget-exceeded"}, run, binding=binding, left=left)
        return Answer(201, {**views.moved(self.datasets, run), **self._segments(run), "decision": "approved"}, run)

    @staticmethod
    def _segments(run: Run) -> Json:
        """What is reserved of each segment, and what the run would have cost in one piece."""
        if run.segments == 1:
            return {}
        steps = segment_steps(run.mechanism, run.segments)
        one = one_segment(run.mechanism, run.adjacency, run.segments).rounded().json()
        whole = price(run.mechanism, run.adjacency).rounded().json()
        return {"segments": {"count": run.segments, "steps": steps, "cost": one, "unsegmented": whole}}

    def _decision(self, run: Run, key: str, name: str) -> Json:
        """What the entry of a decision says, beside balances."""
        facts: Json = {"run": run, "request": run.body, "cost": run.cost.json(), "idempotency_key": key}
        facts |= {"via": run.via[name], "adjacency": run.adjacency, "bound": self.datasets[name].terms[2]}
        facts |= {"project": run.body["project"]} if "project" in run.body else {}
        return facts | self._segments(run)

    def _has_no_public_size(self, name: str) -> bool:
        """Whether replacing a unit of what it is derived from can change how many units it has."""
        return self.datasets[name].terms[1] == "replace_one" and views.ancestry(self.datasets, name) != [name]

    @staticmethod
    def _binding(name: str, binding: set[tuple[str, str]]) -> Json:
        """What the entry of a refusal says besides."""
        own = [quantity for quantity in ("mu", "delta") if (name, quantity) in binding]
        elsewhere = sorted({other for other, _ in binding} - {name})
        return {"binding": own, "binding_elsewhere": elsewhere} if binding else {}

    def _requested(self, who: Person, body: Json, problems: list[tuple[Problem, object]]) -> Run:
        """The run that a request comes to, not decided yet. Raises whatever is wrong with it."""
        mechanism, project, count = body["mechanism"], body.get("project"), planned(body["mechanism"])
        uses = [use if isinstance(use, dict) else {"name": use} for use in body["datasets"]]
        names = [use["name"] for use in uses]
        segments = body.get("segments", 1)
        problems += [
            (FORBIDDEN, who.projects is not None and project not in who.projects),
            (MECHANISM, mechanism.get("noise_multiplier") == 0),
            (INVALID, segments > 1 and (count is None or segments > count[0])),
            (UNKNOWN, unknown := [name for name in names if name not in self.datasets or not who.sees(name)]),
        ]
        if unknown:
            demand(*problems)
        reached = {name: views.ancestry(self.datasets, name) for name in names}
        roots = [root for name in names for root in views.roots(self.datasets, name)]
        order = [*names, *sorted({other for others in reached.values() for other in others} - {*names})]
        shares = [any(project in self.datasets[other].projects for other in reached[name]) for name in names]
        scopes = {
            name: part for use in uses for name, part in self._scopes(use, reached[use["name"]], problems).items()
        }
        demand(
            *problems,
            (MISMATCH, len({self.datasets[name].terms for name in names}) > 1),
            (MECHANISM, any(self._has_no_public_size(name) for name in names) and rests_on_size(mechanism)),
            (INVALID, len({*roots}) < len(roots) or len({*names}) < len(names)),
            (UNKNOWN, project is not None and not all(shares)),
            (FROZEN, any(self.datasets[name].state != "active" for name in order)),
            (LIMITED, any(self._is_limited(who, name) for name in order)),
        )
        charges = {name: self._accounts(who, self.datasets[name], scopes[name], project) for name in order}
        via = {name: [other for other in names if name in reached[other]] for name in order}
        return Run(who, body, self.datasets[names[0]].terms[1], charges, via)

    def _scopes(
        self, use: Json, names: list[str], problems: list[tuple[Problem, object]]
    ) -> dict[str, list[str | None]]:
        """The partitions that a use takes, in all that it reaches: every one unless some are named."""
        chosen = use.get("partitions")
        parted = [name for name in names if self.datasets[name].is_partitioned]
        problems.append((INVALID, chosen is not None and not parted))
        scopes: dict[str, list[str | None]] = {name: [None] for name in names}
        for name in parted:
            there = self.datasets[name].scopes
            scopes[name] = sorted(chosen or there)
            problems += [(INVALID, not there), (UNKNOWN, {*scopes[name]} - {*there})]
        return scopes

    def _is_limited(self, who: Person, name: str) -> bool:
        """docs/how-to/projects.md; a test does not last an hour."""
        most = self.datasets[name].fair_use["runs_per_hour"]
        return most is not None and sum(run.owner == who and name in run.charges for run in self.runs) >= most

    @staticmethod
    def _accounts(who: Person, dataset: Dataset, scopes: list[str | None], project: str | None) -> list[Key]:
        """docs/reference/export.md, "Which accounts a run charges"."""
        keys: list[Key] = [(scope, None, None) for scope in scopes if dataset.budget is not None]
        if project in dataset.projects:
            limit = limit_of(dataset.projects[project])
            keys += [dataset.open((scope, project, None), limit) for scope in scopes]
        if dataset.fair_use["held"] is not None:
            limit = limit_of(dataset.fair_use["held"])
            own = [dataset.open((scope, None, who.id), limit) for scope in scopes]
            for key in own:
                dataset.accounts[key].limit = limit.most(dataset.accounts[key].held)
            keys += own
        return keys

    def batch(self, who: Person, items: list[Json], is_atomic: bool) -> Answer:
        """docs/how-to/batches.md: each for itself, or all or none."""
        self.demand_role(who, "requester")
        asked = {item["idempotency_key"]: {k: v for k, v in item.items() if k != "idempotency_key"} for item in items}
        invalid = [body for body in asked.values() if body["mechanism"].get("noise_multiplier") == 0]
        demand((INVALID, len(asked) < len(items)), (MECHANISM, is_atomic and invalid))
        before = {name: (copy.deepcopy(own.accounts), len(own.journal)) for name, own in self.datasets.items()}
        runs, bound = [*self.runs], dict(self.keys)
        results = [self._tried(who, key, body) for key, body in asked.items()]
        if not is_atomic or all(isinstance(result, Answer) and result.status == 201 for result in results):
            return Answer(200, results=results)
        self.runs, self.keys = runs, bound
        for name, (accounts, count) in before.items():
            self.datasets[name].accounts = accounts
            del self.datasets[name].journal[count:]
        return Answer(409, {"code": "batch-refused"}, results=[_unrecorded(result) for result in results])

    def _tried(self, who: Person, key: str, body: Json) -> Answer | Refused:
        try:
            return self.ask(who, key, body)
        except Refused as refused:
            return refused

    # --- what becomes of a run: docs/explanation/accounting.md, "Settling"

    def start(self, who: Person, run: Run) -> Answer:
        """From now on it touches the data."""
        problems = self._on_run(who, run)
        if run.state == "started" and not problems[0][1]:
            return self._again(run, "start")
        is_frozen = any(self.datasets[name].state != "active" for name in run.charges)
        demand(*problems, (RUN_STATE, run.state != "held"), (FROZEN, is_frozen))
        return self._advance(who, run, "started", {})

    def settle(self, who: Person, run: Run, body: Json) -> Answer:
        """Charges what was executed, and gives back the rest if that is sound."""
        problems, first = self._on_run(who, run), run.answers.get("settle")
        if (run.state == "settled" or run.waits) and first and first[0] == body and not problems[0][1]:
            return self._again(run, "settle")
        facts, bill = self._settlement(run, body, [*problems, (RUN_STATE, run.state != "started" or run.waits)])
        beyond = self._beyond_limits(run, bill)
        return self._report(who, run, facts, bill, beyond) if beyond else self._settled(who, run, facts, bill)

    def confirm(self, who: Person, run: Run, body: Json) -> Answer:
        """A steward's word that a run executed what it reported: docs/explanation/accounting.md, "Settling"."""
        self.demand_role(who, "steward")
        if run.state == "settled" and run.ended_by == {"report": "confirmed", **body}:
            return self._again(run, "confirm")
        demand((RUN_STATE, not run.waits))
        facts, bill = self._settlement(run, run.answers["settle"][0] or {}, [])
        ruling = {"report": "confirmed", **body}
        return self._ruled(self._settled(who, run, {**facts, "request": body, **ruling}, bill), run, ruling, "confirm")

    def correct(self, who: Person, run: Run, body: Json) -> Answer:
        """Another number in place of the one that was reported."""
        self.demand_role(who, "steward")
        ruling = {"report": "corrected", "reason": body["reason"]}
        if run.state == "settled" and run.ended_by == {**ruling, "request": body}:
            return self._again(run, "correct")
        facts, bill = self._settlement(run, body, [(RUN_STATE, not run.waits)])

        def do(actor: Person, consent: Json) -> Answer:
            answer = self._settled(actor, run, {**facts, **ruling, **consent}, bill)
            return self._ruled(answer, run, {**ruling, "request": body}, "correct")

        def check() -> None:
            demand((RUN_STATE, not run.waits))

        proposal = Proposal("correction", who, [*run.charges], check, do, run)
        return self.guarded(True, proposal, {"request": body, **ruling})

    @staticmethod
    def _ruled(answer: Answer, run: Run, ruling: Json, call: str) -> Answer:
        """A steward is answered the same, whether it fits or not."""
        run.ended_by, answer.call, answer.overdrawn = ruling, call, set()
        if answer.status == 409:
            answer.status, answer.body = 200, {"state": "settled", "overrun": answer.body["overrun"]}
        return answer

    @staticmethod
    def _settlement(run: Run, body: Json, problems: list[tuple[Problem, object]]) -> tuple[Json, Bill]:
        """What an entry says of what was executed, and what that comes to."""
        steps, count, restarts = body.get("steps"), planned(run.mechanism), body.get("restarts")
        reached = (count[1] if steps is None else steps - repeated(restarts)) if count is not None else 0
        is_short = count is not None and reached < count[0]
        is_wrong = count is None and (steps, restarts) != (None, None)
        is_wrong |= is_short and body.get("stop") == "planned"
        is_wrong |= any(restart["to_step"] > reached for restart in restarts or [])
        demand(*problems, (INVALID, is_wrong))
        stop, bill = body.get("stop") or ("data_dependent" if is_short else "planned"), Bill(run.cost)
        if count is not None:
            steps = count[1] + repeated(restarts) if steps is None else steps
            bill = settled((run.mechanism, run.adjacency, run.segments, run.cost), steps, stop, restarts)
        return {
            "request": body,
            "steps": steps,
            "stop": stop,
            **({} if restarts is None else {"restarts": restarts}),
        }, bill

    def _settled(self, who: Person, run: Run, facts: Json, bill: Bill) -> Answer:
        facts |= {"charged": bill.charged.json(), "returned": (run.cost - bill.charged).json()}
        self._release(run, bill.charged)
        if bill.excess is not None:
            return self._overrun(who, run, facts, bill, bill.excess)
        return self._advance(who, run, "settled", facts)

    def _lasting(self, run: Run) -> list[tuple[str, Balance]]:
        """The accounts that a run spends of: all but a principal's."""
        keys = [(name, key) for name, keys in run.charges.items() for key in keys if not key[2]]
        return [(name, self.datasets[name].accounts[key]) for name, key in keys]

    def _beyond_limits(self, run: Run, bill: Bill) -> list[str]:
        """The datasets that have an account whose whole limit is less than the excess."""
        excess = bill.excess or NOTHING
        return sorted({name for name, own in self._lasting(run) if excess.exceeds(own.limit)})

    def _report(self, who: Person, run: Run, facts: Json, bill: Bill, beyond: list[str]) -> Answer:
        """Charges nothing, and freezes every dataset of the run until a steward has looked."""
        run.reported, names = True, sorted(run.charges)
        over = {"steps": bill.steps, "repeated": bill.repeated, "cost": (bill.excess or NOTHING).json(), "fits": False}
        facts = {name: facts[name] for name in ("request", "steps", "stop")}
        facts["overrun"] = {**over, "frozen": names, "beyond_limits": beyond}
        for name, keys in run.charges.items():
            self._freeze(name)
            self.write(name, "run-reported", who, {"run": run, **facts, "state": self.datasets[name].state}, keys)
        body = {"code": "overrun", "overrun": over, "frozen": names, "state": "started"}
        return Answer(409, body, run, "settle", overdrawn=self._overdrawn(run))

    def _freeze(self, name: str) -> None:
        self.datasets[name].state = "retired" if self.datasets[name].state == "retired" else "frozen"

    def _overdrawn(self, run: Run) -> set[tuple[str, Key, str]]:
        return {
            (name, key, quantity)
            for name, keys in run.charges.items()
            for key in keys
            for quantity in self.datasets[name].accounts[key].overdrawn.exceeds(NOTHING)
        }

    def _release(self, run: Run, charged: Amount) -> None:
        """What was held is given back, and what is charged is spent, except a principal's."""
        run.charged = charged
        for name, key in [(name, key) for name, keys in run.charges.items() for key in keys]:
            own = self.datasets[name].accounts[key]
            own.held -= run.cost
            own.spent = (own.spent + (charged if key[2] is None else NOTHING)).least(FULL)

    def _overrun(self, who: Person, run: Run, facts: Json, bill: Bill, excess: Amount) -> Answer:
        """Charged all the same; a dataset is frozen if it did not fit there once the run itself was settled."""
        lasting = self._lasting(run)
        frozen = sorted({name for name, own in lasting if excess.exceeds(own.remaining)})
        for _, own in lasting:
            own.spent = (own.spent + excess).least(FULL)
        for name in frozen:
            self._freeze(name)
        run.charged = bill.charged + excess
        over = {"steps": bill.steps, "repeated": bill.repeated, "cost": excess.json(), "fits": not frozen}
        facts = {**facts, "charged": run.charged.json(), "overrun": {**over, "frozen": frozen}}
        answer = self._advance(who, run, "settled", facts)
        answer.body["overrun"] = over
        if frozen:
            answer.status, answer.body = 409, {"code": "overrun", "overrun": over, "frozen": frozen}
            answer.overdrawn = self._overdrawn(run)
        return answer

    def void(self, who: Person, run: Run, body: Json) -> Answer:
        """No output was ever seen: before the start that is the requester's word, afterwards a steward's."""
        problems = self._on_run(who, run, "steward")
        if run.state == "voided" and not problems[0][1] and run.answers["void"][0] == body:
            return self._again(run, "void")

        def check() -> None:
            demand(*problems, (RUN_STATE, not run.is_open))

        def do(actor: Person, consent: Json) -> Answer:
            self._release(run, NOTHING)
            run.answers["void"] = body, None
            return self._advance(actor, run, "voided", {"request": body, "returned": run.cost.json(), **consent})

        problems.append((FORBIDDEN, run.state == "started" and who.role == "requester"))
        proposal = Proposal("void", who, [*run.charges], check, do, run)
        return self.guarded(run.state == "started", proposal, {"request": body})

    def _on_run(self, who: Person, run: Run, *more: str) -> list[tuple[Problem, object]]:
        """Whose run it is. A key limited to datasets does not see the runs of others."""
        self.demand_role(who, "requester", *more)
        demand((UNKNOWN, who.datasets is not None and run.owner != who))
        return [(FORBIDDEN, who != run.owner and who.role not in ("admin", *more))]

    @staticmethod
    def _again(run: Run, call: str) -> Answer:
        """The same call with the same body has the same answer."""
        first = run.answers[call][1]
        return Answer(first.get("status", 200), run=run, first=first)

    def _advance(self, who: Person, run: Run, state: str, facts: Json) -> Answer:
        run.state = state
        frozen = facts["overrun"]["frozen"] if "overrun" in facts else []
        for name, keys in run.charges.items():
            own = {"state": self.datasets[name].state} if name in frozen else {}
            self.write(name, f"run-{state}", who, {"run": run, **facts, **own}, keys)
        body = views.moved(self.datasets, run)
        body |= {part: facts[part] for part in ("charged", "returned") if part in facts}
        return Answer(200, body, run)


def _unrecorded(result: Answer | Refused) -> Answer | Refused:
    """What came of a run in a batch that was refused as a whole."""
    if isinstance(result, Refused) or result.first is not None:
        return result
    return Answer(409, result.body, binding=result.binding) if result.binding else Refused((409, "batch-refused"))

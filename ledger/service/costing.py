"""From a request to its cost, and from an approval to the charge of its run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from ledger.accounting import ACCOUNTANT, amounts, costs, mechanisms, settling, shares
from ledger.accounting.beside import Offer
from ledger.accounting.cost import Cost
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.plan import Left
from ledger.accounting.restarts import Restart, repeated
from ledger.accounting.settling import Beside, Charge, Restarts, Stop
from ledger.accounting.shares import Chosen
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.books import ReadSet
from ledger.core.datasets import Adjacency
from ledger.core.decision.filter import guaranteed, is_residual
from ledger.core.decision.group import read_sets_of_uses
from ledger.core.decision.runs import charged_accounts
from ledger.core.entries import Record
from ledger.core.journal import chain
from ledger.core.people import Actor
from ledger.core.residual import Residual
from ledger.core.runs import Excess, Use
from ledger.errors import InvalidMechanism, InvalidRequest, Overloaded, TooLarge
from ledger.service import answers, as_one, inverting, portions, sizes
from ledger.service.as_one import Equals
from ledger.service.aside import Aside
from ledger.service.catalogue import Resolved
from ledger.service.certificates import INVERSION_SECONDS_MAX, Certificates, is_heavy
from ledger.service.requests.runs import SettleRequest
from ledger.service.shapes.runs import AsOne
from ledger.service.tables import Situation
from ledger.service.turns import Urgency
from ledger.store import Store

WEIGHT_MAX: Final = 500_000
"""The limit on the work for the costs of one request, in closed forms: about a minute of one core."""
RESTARTS_AT_ONCE_MAX: Final = 16
"""With at most this many restarts, a charge is computed on the event loop."""

T = TypeVar("T")


class Costable(Protocol):
    """The part of a request that decides what the run costs."""

    @property
    def mechanism(self) -> AnyMechanism: ...
    @property
    def delta(self) -> Decimal | None: ...
    @property
    def segments(self) -> int | None: ...
    @property
    def project(self) -> str | None: ...
    @property
    def size_differs(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Costed:
    """A run's cost, and the terms it was computed under. whole: its cost in one piece, if it has segments.

    delta: the run's share of delta, if the cost is a certificate that used it; else None. table: its mu² beside what is
    left, if its datasets cost runs so. question: what it was computed for.
    """

    mechanism: AnyMechanism
    terms: Terms
    cost: Cost
    whole: Cost | None
    delta: Decimal | None
    table: Residual | None = None
    question: Question | None = None

    def facts(self) -> dict[str, Any]:
        """Return how the cost was computed, for the record."""
        segments = self.segments()
        return {
            "bound": self.terms.bound,
            "adjacency": self.terms.adjacency,
            "method": self.cost.method,
            "assumptions": self.cost.assumptions,
            "accountant": ACCOUNTANT,
            **({} if self.delta is None else {"delta": self.delta}),
            **({} if segments is None else {"segments": segments}),
        }

    def segments(self) -> dict[str, Any] | None:
        """Return for a run in segments the length and cost of each, and the cost of the run in one piece."""
        if self.whole is None:
            return None
        count = self.terms.segments
        one = amounts.charge(mu_sq=self.cost.mu_sq / count, nats=self.cost.nats / count)
        steps = mechanisms.segment_steps(self.mechanism, count)
        return {"count": count, "steps": steps, "cost": one.facts(), "unsegmented": self.whole.amount.facts()}


@dataclass(frozen=True, slots=True)
class Question:
    """What a run's cost depends on. shares: of delta, if its cost is a certificate: the one that it names, or those of
    which the cheapest is taken. situation: that of a certified run."""

    mechanism: AnyMechanism
    terms: Terms
    shares: tuple[Decimal, ...] = ()
    situation: Situation | None = None


def demand_weight(questions: Iterable[Question]) -> None:
    """Raise TooLarge if the costs of these runs are predicted to take too much work. Equal ones count once."""
    distinct = {
        (question.mechanism.model_dump_json(exclude_none=True), question.terms.bound): question
        for question in questions
    }
    weight = sum(costs.weight(one.mechanism, bound=one.terms.bound) for one in distinct.values())
    if weight > WEIGHT_MAX:
        raise TooLarge(
            (
                f"runs: predicting their costs takes {weight} units of work, and one request may take {WEIGHT_MAX}"
                " (a closed form takes 1, zCDP 100, a certificate 300); ask for fewer different mechanisms at"
                " once"
            ),
            field="runs",
            predicted=weight,
            limit=WEIGHT_MAX,
        )


class Costing:
    """Computes what runs cost, are charged, and would have fitted. Its coroutines belong to one event loop."""

    def __init__(self, store: Store, certificates: Certificates, aside: Aside) -> None:
        self._store, self._certificates, self._aside = store, certificates, aside

    async def cost(
        self,
        actor: Actor,
        resolved: Resolved,
        request: Costable,
        *,
        urgency: Urgency = Urgency.DECISION,
        situation: Callable[[], Situation] | None = None,
    ) -> Costed:
        """Return what a run costs. situation: returns that of a certified run; default: that of now. Raises
        InvalidMechanism, InvalidRequest, and TooLarge and Overloaded as `Certificates`."""
        is_dear = costs.needs_certificate(request.mechanism, bound=resolved.bound)
        ask = partial(self.question, actor, resolved, request, situation=situation)
        question = await asyncio.to_thread(ask) if is_dear else ask()
        return await self.work_out(actor.tenant_id, question, urgency=urgency)

    def question(
        self,
        actor: Actor,
        resolved: Resolved,
        request: Costable,
        *,
        situation: Callable[[], Situation] | None = None,
    ) -> Question:
        """Return what a run's cost depends on, by the current limits if it is a certificate. situation: as for `cost`.
        Raises InvalidMechanism."""
        _demand_public_size(resolved, request.mechanism)
        sizes.demand_known_size(request.mechanism, resolved, is_explained=request.size_differs is not None)
        terms = Terms(bound=resolved.bound, adjacency=resolved.adjacency, segments=request.segments or 1)
        if not costs.needs_certificate(request.mechanism, bound=resolved.bound):
            return Question(request.mechanism, terms)
        now = self._situation(actor, resolved.uses, request.project) if situation is None else situation()
        offered = now.shares() if request.delta is None else (request.delta,)
        return Question(request.mechanism, replace(terms, delta=offered[0]), offered, now)

    async def work_out(self, tenant_id: UUID, question: Question, *, urgency: Urgency = Urgency.DECISION) -> Costed:
        """Return what a run of these terms costs. Raises the same as `Certificates.cost`."""
        mechanism, terms, delta, table = question.mechanism, question.terms, None, None
        if question.situation is None or question.situation.base is None:
            cost = await self._certificates.cost(tenant_id, mechanism, terms, urgency=urgency)
            delta = question.shares[0] if question.shares else None
        else:
            offer = await self._offer(tenant_id, question, question.situation, urgency)
            delta, cost, table = offer
            terms = replace(terms, delta=delta)
        whole = None
        if terms.segments > 1:
            one_piece = replace(terms, segments=1)
            whole = await self._certificates.cost(tenant_id, mechanism, one_piece, urgency=urgency)
        return Costed(mechanism, terms, cost, whole, delta, table, question)

    async def _offer(self, tenant_id: UUID, question: Question, situation: Situation, urgency: Urgency) -> Offer:
        """Return the cost beside what is left, at the share of delta that is cheapest now."""
        search = shares.choosing(len(question.shares), situation.room)
        index = next(search)
        while True:
            offer = await self._offer_at(tenant_id, question, index, situation.base or 0, urgency)
            try:
                index = search.send(offer)
            except StopIteration as done:
                chosen: Chosen = done.value
                return chosen.offer

    async def _offer_at(self, tenant_id: UUID, question: Question, index: int, base: int, urgency: Urgency) -> Offer:
        share = question.shares[index]
        return await self._certificates.offer(
            tenant_id, question.mechanism, question.terms, share, base, urgency=urgency
        )

    def _situation(self, actor: Actor, uses: Sequence[Use], project: str | None) -> Situation:
        """Return the limits and what is left."""
        read_sets = read_sets_of_uses(uses, project=project, principal_id=actor.principal_id)
        with self._store.reading(actor.tenant_id) as reading:
            books = reading.books.read(read_sets)
        who = actor.principal_id
        accounts = {use.dataset_id: charged_accounts(books, use, project=project, principal_id=who) for use in uses}
        charged = [dataset_id for dataset_id, of_dataset in accounts.items() if guaranteed(of_dataset)]
        every = [account for of_dataset in accounts.values() for account in of_dataset]
        return Situation.of(every, is_residual=is_residual(books, charged))

    async def charge(self, tenant_id: UUID, cost: Amount, decision: Record, execution: Execution) -> Charge:
        """Return the charge for a run that this decision approved at this cost."""
        mechanism, terms = mechanisms.recorded(decision["request"]["mechanism"]), Terms.of(decision)
        executed: dict[str, Any] = {"method": decision["method"], "steps": execution.steps, "stop": execution.stop}
        executed |= {"restarts": execution.restarts}
        is_short = len(execution.restarts or ()) <= RESTARTS_AT_ONCE_MAX
        is_dear = settling.is_dear(mechanism, terms, **executed)
        charge = partial(settling.charge, mechanism, terms, approved=cost, beside=beside_of(decision), **executed)
        if is_short and not is_dear:
            return charge()
        key = {"settle": decision["run"], "steps": execution.steps, "stop": execution.stop, **execution.facts()}
        return await self._certificates.beside(tenant_id, charge, key=key, urgency=Urgency.DECISION)

    async def fits(self, tenant_id: UUID, decisions: Sequence[Record]) -> dict[str, Any]:
        """Return what would have fitted instead of a refused run. It depends only on what is recorded, so it is
        repeatable."""
        first = decisions[0]
        mechanism, terms = mechanisms.recorded(first["request"]["mechanism"]), Terms.of(first)
        is_dear = "delta" in first
        left = await asyncio.to_thread(self._left_of, tenant_id, decisions) if is_dear else None
        fits = partial(inverting.fits, mechanism, terms, answers.remaining_of(decisions), is_dear=is_dear, left=left)
        is_long = is_dear or is_heavy(mechanism, terms)
        return await self.invert(tenant_id, fits, is_dear=is_long, key={"fits": first["run"]})

    async def as_one(self, tenant_id: UUID, decisions: Sequence[Record]) -> AsOne | None:
        """Return what one run would cost that is as long as a refused one and the equal ones before it together; None
        if there are fewer than two of these, or a run has no length."""
        refused = next((entry for entry in decisions if "request" in entry), None)
        if refused is None or "residual" not in refused or "segments" in refused:
            return None
        mechanism = mechanisms.recorded(refused["request"]["mechanism"])
        if as_one.length_of(mechanism) is None:
            return None
        before = await asyncio.to_thread(self._equals, tenant_id, refused)
        longer = as_one.longer(mechanism, before.runs + 1) if before.runs > 1 else None
        if longer is None:
            return None
        try:
            cost = await self._certificates.cost(tenant_id, longer, Terms.of(refused), urgency=Urgency.ADVICE)
        except (InvalidRequest, TooLarge, Overloaded):
            return None
        rooms = [room for entry in decisions for room in portions.rooms_in(entry)]
        return answers.as_one(longer, before.runs + 1, cost.amount, rooms=rooms, charged=before.charged)

    def _equals(self, tenant_id: UUID, refused: Record) -> Equals:
        dataset_id, until = UUID(refused["dataset_id"]), refused["seq"] - 1
        after = max(until - as_one.ENTRIES_MAX, 0)
        with self._store.reading(tenant_id) as reading:
            found = reading.journals.of_kinds(
                dataset_id, as_one.KINDS, after=after, until=until, limit=as_one.ENTRIES_MAX
            )
        return as_one.equals((chain.parse(entry.body) for entry in found), refused)

    def _left_of(self, tenant_id: UUID, decisions: Sequence[Record]) -> Left | None:
        """Return what was left for a run that was decided, and the shares that it could take. How its datasets cost
        runs is read as it is now: it changes once at most."""
        accounts = {UUID(entry["dataset_id"]): [*chain.accounts_of(entry).values()] for entry in decisions}
        charged = [dataset_id for dataset_id, of_dataset in accounts.items() if guaranteed(of_dataset)]
        with self._store.reading(tenant_id) as reading:
            books = reading.books.read({dataset_id: ReadSet() for dataset_id in charged})
        every = [account for of_dataset in accounts.values() for account in of_dataset]
        situation = Situation.of(every, is_residual=is_residual(books, charged))
        named = decisions[0]["request"].get("delta")
        return left_in(situation, situation.shares() if named is None else (Decimal(named),))

    async def invert(self, tenant_id: UUID, invert: Callable[[], T], *, is_dear: bool, key: Mapping[str, Any]) -> T:
        """Run a computation of many costs: as a certificate of this `key` if they are dear, else aside."""
        if is_dear:
            return await self._certificates.beside(tenant_id, invert, key=key, limit_seconds=INVERSION_SECONDS_MAX)
        return await self._aside.run(tenant_id, invert, size=None)


def left_in(situation: Situation | None, offered: Sequence[Decimal]) -> Left | None:
    """Return what a search for what fits needs; None if runs are costed by themselves."""
    if situation is None or situation.base is None:
        return None
    return Left(situation.base, situation.room.left, tuple(offered))


_CHANGES_SIZE: Final[Mapping[Adjacency, str]] = {
    "replace_one": "replacing a unit of the original dataset can change how many units it has",
    "zero_out": "what it was made by may drop a unit whose data was replaced by nothing, so that it has one less",
}


def _demand_public_size(resolved: Resolved, mechanism: AnyMechanism) -> None:
    """Raise InvalidMechanism if a mechanism relies on a number of units that the terms do not fix.

    Under add_or_remove_one no number is fixed, of the original dataset neither, and the costs are for that.
    """
    fields, changes = mechanism.resting_on_size("mechanism"), _CHANGES_SIZE.get(resolved.adjacency)
    if changes is None or not fields:
        return
    for use in resolved.uses:
        definition = resolved.definitions[use.dataset_id]
        if definition.ancestors and definition.name in use.via:
            raise InvalidMechanism(
                (
                    f"{fields[0]}: fixed_size, shuffle and truncated batches need a public number of units, and"
                    f" {definition.name} is derived: {changes}. Let the job draw its batches by poisson sampling, and"
                    " declare that; or name the original dataset, and train on it"
                ),
                field=fields[0],
            )


# --- from a settlement to its command --------------------------------------------------------------------------------


def excess(charged: Charge, decision: Record) -> Excess | None:
    """Return the part of a charge beyond what was approved, or None."""
    cost = charged.excess
    if cost is None:
        return None
    share = {name: decision[name] for name in ("delta",) if name in decision}
    costing = {"method": cost.method, "assumptions": cost.assumptions, "accountant": ACCOUNTANT, **share}
    return Excess(charged.excess_steps, cost.amount, costing, charged.repeated, charged.excess_table)


def beside_of(decision: Record) -> Beside | None:
    """Return the table that a decision was costed by, with its r; None if the run was costed by itself."""
    facts = decision.get("residual")
    if facts is None:
        return None
    table, index = Residual.from_facts(facts), facts.get("level", 0)
    return Beside(table, table.level(index))


@dataclass(frozen=True, slots=True)
class Execution:
    """What a run executed, as it is recorded. restarts: None if none were stated."""

    steps: int | None
    stop: Stop
    restarts: Restarts = None

    def facts(self) -> dict[str, Any]:
        """Return the restarts in the form of an entry."""
        return {} if self.restarts is None else {"restarts": [restart.facts() for restart in self.restarts]}


def settled_costing(charged: Charge, execution: Execution) -> dict[str, Any]:
    """Return how a charge was computed, for the record."""
    assumptions = {"assumptions": charged.assumptions} if charged.assumptions else {}
    return {"accountant": ACCOUNTANT, **execution.facts(), **assumptions}


def models_of(request: SettleRequest) -> dict[str, Any]:
    """Return the digests of the files that a run produced, in the form of an entry."""
    return {} if request.models is None else {"models": [model.model_dump() for model in request.models]}


def executed(mechanism: AnyMechanism, segments: int, request: SettleRequest) -> Execution:
    """Return the steps, the stop and the restarts to record. Raises InvalidRequest, which names the field."""
    planned = mechanisms.planned_steps(mechanism, segments)
    if planned is None:
        for field, value in (("steps", request.steps), ("restarts", request.restarts)):
            if value is not None:
                raise InvalidRequest(f"{field}: this mechanism has no steps; leave it out", field=field)
        return Execution(None, request.stop or "planned")
    restarts = _restarts(request)
    again = repeated(restarts or ())
    if request.steps is None:
        _, most = mechanisms.planned_steps(mechanism) or planned
        steps = most + again
    else:
        steps = request.steps
    progress = steps - again
    _demand_reached(restarts or (), progress)
    lowest, _ = planned
    stop: Stop = request.stop or ("planned" if progress >= lowest else "data_dependent")
    if stop == "planned" and progress < lowest:
        raise InvalidRequest(
            (
                f"stop: {lowest} were planned, so {progress} is not everything that was planned; send"
                " data_dependent, or data_independent if neither data nor outputs decided it"
            ),
            field="stop",
        )
    return Execution(steps, stop, restarts)


def _restarts(request: SettleRequest) -> Restarts:
    if request.restarts is None:
        return None
    return tuple(Restart(stated.from_step, stated.to_step, stated.new_batches) for stated in request.restarts)


def _demand_reached(restarts: Sequence[Restart], progress: int) -> None:
    for index, restart in enumerate(restarts):
        if restart.to_step > progress:
            field = f"restarts.{index}.to_step"
            raise InvalidRequest(
                (
                    f"{field}: the run reached step {max(progress, 0)} only, which is the executed steps less the"
                    " repeated ones"
                ),
                field=field,
            )

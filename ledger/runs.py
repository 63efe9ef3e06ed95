"""The way of a request for a run: resolve, cost, submit, and after the commit what would have fitted.

Every answer about a run is made from its journal entries, so that the same request under the same idempotency key gets
the same answer for ever, and what a user was told is what an auditor reads.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Final, Literal
from uuid import UUID, uuid4

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from ledger import journal
from ledger.accounting import ACCOUNTANT, amounts, gdp, mechanisms, plan
from ledger.accounting.mechanisms import AnyMechanism, Cost, Mechanism
from ledger.accounting.numbers import COUNT_MAX, Probability
from ledger.certificates import Certificates, share_of
from ledger.decide import Repeat
from ledger.errors import BudgetExceeded, Forbidden, InvalidRequest, NotFound, Overloaded, RunState, TooLarge
from ledger.model import (
    Actor,
    Adjacency,
    Amount,
    Ask,
    Bound,
    Claim,
    Definition,
    Entry,
    Run,
    Settle,
    Start,
    Void,
    timestamp,
)
from ledger.store import Reading, Store
from ledger.writer import Writer

DEFINITIONS_MAX: Final = 10_000
VALID_FOR_DAYS_MAX: Final = 366
FITS_COSTS_MAX: Final = 40
"""How many certificates are computed to say what would have fitted: a number, so that it comes out alike every time."""
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,62}$"

DatasetName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=255)]
LongText = Annotated[str, StringConstraints(min_length=1, max_length=4000)]


def _not_yet(what: str) -> PydanticCustomError:
    return PydanticCustomError("unsupported", f"{what} not supported by this version")


def _one_dataset(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    if len(value) > 1:
        raise _not_yet("several datasets in one run are")
    if any(isinstance(item, dict) and "partitions" in item for item in value):
        raise _not_yet("partitions are")
    return [item["name"] if isinstance(item, dict) and set(item) == {"name"} else item for item in value]


Datasets = Annotated[list[DatasetName], Field(min_length=1), BeforeValidator(_one_dataset)]
"""The datasets that a run uses: one, in this version."""


def absent(what: str, *, but: Any = None) -> BeforeValidator:
    """A field of the contract that this version knows and does not support yet."""

    def check(value: Any) -> Any:
        if value is not None and (value != but or isinstance(value, bool)):
            raise _not_yet(what)
        return value

    return BeforeValidator(check)


def _sound_stop(value: Any) -> Any:
    if value == "data_independent":
        raise _not_yet("returning the rest of a run that stopped early is")
    return value


# Years and months have no certain length.
_DURATION: Final = re.compile(
    r"P(?=[0-9T])(?:([0-9]{1,6})W|(?:([0-9]{1,6})D)?"
    r"(?:T(?=[0-9])(?:([0-9]{1,6})H)?(?:([0-9]{1,6})M)?(?:([0-9]{1,9}(?:\.[0-9]{1,6})?)S)?)?)"
)


def _duration(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise PydanticCustomError("duration", "must be an ISO 8601 duration such as P1D, P2W or PT12H")
    weeks, days, hours, minutes, seconds = (Decimal(number or 0) for number in found.groups())
    whole = timedelta(weeks=int(weeks), days=int(days), hours=int(hours), minutes=int(minutes))
    duration = whole + timedelta(microseconds=int(seconds * 1_000_000))
    if not timedelta(0) < duration <= timedelta(days=VALID_FOR_DAYS_MAX):
        raise PydanticCustomError("duration", "must be longer than nothing and at most 366 days")
    return duration


Duration = Annotated[
    timedelta, BeforeValidator(_duration), WithJsonSchema({"type": "string", "format": "duration", "default": "P1D"})
]


class Code(BaseModel):
    """Where the training code is to be found."""

    model_config = ConfigDict(extra="forbid", strict=True)
    repository: ShortText
    commit: ShortText


class RunRequest(BaseModel):
    """A training run, or any other release, as it is declared before it touches data."""

    model_config = ConfigDict(extra="forbid", strict=True)
    datasets: Datasets
    mechanism: Mechanism
    delta: Annotated[
        Probability | None,
        Field(
            description="The run's share of the delta budget, for a certificate; a hundredth of the limit when left "
            "out. Where the cost needs no certificate it makes no difference."
        ),
    ] = None
    segments: Annotated[Literal[1] | None, absent("segments are", but=1)] = None
    project: Annotated[None, absent("projects are")] = None
    purpose: LongText | None = None
    labels: (
        Annotated[dict[Annotated[str, StringConstraints(max_length=63)], ShortText], Field(max_length=64)] | None
    ) = None
    code: Code | None = None
    valid_for: Duration = timedelta(days=1)


class SettleRequest(BaseModel):
    """What was executed."""

    model_config = ConfigDict(extra="forbid", strict=True)
    steps: Annotated[
        int | None, Field(ge=0, le=COUNT_MAX, description="Every step executed, repeated ones included.")
    ] = None
    stop: Annotated[Literal["planned", "data_dependent"] | None, BeforeValidator(_sound_stop)] = None
    evidence: dict[str, Any] | None = None


class VoidRequest(BaseModel):
    """Why no output was ever seen."""

    model_config = ConfigDict(extra="forbid", strict=True)
    reason: LongText


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run's decision is answered with; `refusal` where it was refused."""

    body: dict[str, Any]
    is_replayed: bool
    refusal: BudgetExceeded | None = None


class Runs:
    """Asks for runs, starts, settles and voids them, and shows them."""

    def __init__(self, store: Store, writer: Writer, certificates: Certificates) -> None:
        self._store, self._writer, self._certificates = store, writer, certificates
        self._lock = threading.Lock()
        self._definitions: OrderedDict[tuple[UUID, str], Definition] = OrderedDict()

    # --- what changes a run

    async def ask(self, actor: Actor, *, key: str, request: RunRequest, body: Mapping[str, Any]) -> Answer:
        """Asks for approval of `request`, whose JSON was `body`. Raises LedgerError; a refusal is an Answer."""
        definition = await self._definition(actor, request.datasets[0])
        cost, share = await self._cost(actor, definition, request)
        command = Ask(
            actor=actor,
            dataset_id=definition.id,
            run_id=uuid4(),
            claim=Claim(key, journal.digest(journal.canonical(body))),
            cost=cost.amount,
            request=body,
            costing={
                "bound": definition.bound,
                "adjacency": definition.adjacency,
                "method": cost.method,
                "assumptions": cost.assumptions,
                "accountant": ACCOUNTANT,
                **({} if share is None else {"delta": share}),
            },
            valid_for_us=request.valid_for // timedelta(microseconds=1),
        )
        result = await asyncio.wrap_future(self._writer.submit(actor.tenant_id, command))
        if isinstance(result, Entry):
            return await self._answer(actor, journal.parse(result.body), is_replayed=False)
        entries = await asyncio.to_thread(self._entries, actor.tenant_id, result.run_id)
        return await self._answer(actor, journal.parse(entries[0].body), is_replayed=True)

    async def _cost(self, actor: Actor, definition: Definition, request: RunRequest) -> tuple[Cost, Decimal | None]:
        """What the run costs, and the share of the delta budget that its certificate uses; None where it has none."""
        share = None
        if mechanisms.needs_certificate(request.mechanism, bound=definition.bound):
            share = request.delta or await asyncio.to_thread(self._share, actor.tenant_id, definition.id)
        cost = await self._certificates.cost(
            actor.tenant_id,
            request.mechanism,
            bound=definition.bound,
            adjacency=definition.adjacency,
            delta=share or Decimal(0),
        )
        return cost, share

    def _share(self, tenant_id: UUID, dataset_id: UUID) -> Decimal:
        """The delta of a run that names none, by the limit as it now is."""
        with self._store.reading(tenant_id) as reading:
            return share_of(reading.accounts_of([dataset_id])[dataset_id].limit)

    async def start(self, actor: Actor, run_id: UUID) -> dict[str, Any]:
        """Says that the run now touches the data."""
        run, decision = await asyncio.to_thread(self._run, actor, run_id)
        return await self._advance(Start(actor, run.dataset_id, run_id), decision)

    async def settle(
        self, actor: Actor, run_id: UUID, *, request: SettleRequest, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Settles a run for what it executed. All of its cost is charged, which is sound however it came to stop."""
        run, decision = await asyncio.to_thread(self._run, actor, run_id)
        steps, stop = _executed(mechanisms.parse(decision["request"]["mechanism"]), request)
        command = Settle(actor, run.dataset_id, run_id, body=body, steps=steps, stop=stop)
        return await self._advance(command, decision)

    async def void(self, actor: Actor, run_id: UUID, *, body: Mapping[str, Any]) -> dict[str, Any]:
        """Says that no output of the run was ever seen."""
        run, decision = await asyncio.to_thread(self._run, actor, run_id)
        return await self._advance(Void(actor, run.dataset_id, run_id, body=body), decision)

    async def _advance(self, command: Start | Settle | Void, decision: Mapping[str, Any]) -> dict[str, Any]:
        result = await asyncio.wrap_future(self._writer.submit(command.actor.tenant_id, command))
        if isinstance(result, Entry):
            return _moved(decision, journal.parse(result.body))
        entries = await asyncio.to_thread(self._entries, command.actor.tenant_id, result.run_id)
        return _moved(decision, _repeated(entries, result))

    # --- what shows runs

    def show(self, actor: Actor, run_id: UUID) -> dict[str, Any]:
        """One run, in full."""
        with self._store.reading(actor.tenant_id) as reading:
            run = reading.runs_by_id([run_id]).get(run_id)
            if run is None:
                raise NotFound("There is no such run.")
            entries = [journal.parse(entry.body) for entry in reading.entries_of_runs([run_id])[run_id]]
            if not sees(actor, entries[0]["dataset"], run):
                raise NotFound("There is no such run.")
            return describe(run, entries, now_us=reading.now_us())

    def page(
        self,
        actor: Actor,
        *,
        after: tuple[int, UUID] | None,
        limit: int,
        dataset: str | None,
        state: str | None,
        is_overdue: bool | None,
    ) -> list[tuple[Run, dict[str, Any]]]:
        """Runs that the caller may see, newest first."""
        limited = actor.datasets is not None
        with self._store.reading(actor.tenant_id) as reading:
            now_us = reading.now_us()
            dataset_id = None if dataset is None else self._find(reading, actor, dataset).id
            found = reading.run_page(
                after=after,
                limit=limit,
                dataset_id=dataset_id,
                state=state,
                due_before_us=now_us if is_overdue else None,
                not_due_before_us=now_us if is_overdue is False else None,
                principal_id=actor.principal_id if limited else None,
                within=actor.datasets,
            )
            entries = reading.entries_of_runs([run.id for run in found])
        return [
            (run, describe(run, [journal.parse(entry.body) for entry in entries[run.id]], now_us=now_us))
            for run in found
        ]

    # --- looking things up

    async def _definition(self, actor: Actor, name: str) -> Definition:
        """A dataset's definition, from memory where it was seen before: it never changes, and is never removed."""
        with self._lock:
            known = self._definitions.get((actor.tenant_id, name))
        if known is None:
            known = await asyncio.to_thread(self._look_up, actor, name)
            with self._lock:
                self._definitions[actor.tenant_id, name] = known
                if len(self._definitions) > DEFINITIONS_MAX:
                    self._definitions.popitem(last=False)
        demand_sight(actor, name)
        return known

    def _look_up(self, actor: Actor, name: str) -> Definition:
        with self._store.reading(actor.tenant_id) as reading:
            return self._find(reading, actor, name)

    @staticmethod
    def _find(reading: Reading, actor: Actor, name: str) -> Definition:
        demand_sight(actor, name)
        definition = reading.definition(name)
        if definition is None:
            raise no_dataset(name)
        return definition

    def _run(self, actor: Actor, run_id: UUID) -> tuple[Run, dict[str, Any]]:
        """A run and the entry that decided it."""
        with self._store.reading(actor.tenant_id) as reading:
            run = reading.runs_by_id([run_id]).get(run_id)
            entries = reading.entries_of_runs([run_id])[run_id] if run is not None else []
        if run is None:
            raise NotFound("There is no such run.")
        decision: dict[str, Any] = journal.parse(entries[0].body)
        if not sees(actor, decision["dataset"], run):
            raise NotFound("There is no such run.")
        if actor.role == "requester" and run.principal_id != actor.principal_id:
            raise Forbidden("Only the principal that asked for a run may do that.")
        return run, decision

    def _entries(self, tenant_id: UUID, run_id: UUID) -> list[Entry]:
        with self._store.reading(tenant_id) as reading:
            return reading.entries_of_runs([run_id])[run_id]

    # --- answers

    async def _answer(self, actor: Actor, entry: Mapping[str, Any], *, is_replayed: bool) -> Answer:
        if entry["kind"] == "run-approved":
            return Answer(_approved(entry), is_replayed)
        return Answer({}, is_replayed, _refused(entry, fits=await self._fits(actor, entry)))

    async def _fits(self, actor: Actor, entry: Mapping[str, Any]) -> dict[str, Any]:
        """What would have fitted: a function of what is recorded, so worked out after the commit, and again alike."""
        if "delta" not in entry:
            return await asyncio.to_thread(_fitting, entry)
        try:
            work = partial(_fitting, entry)
            return await self._certificates.beside(actor.tenant_id, work, of={"fits": entry["run"]})
        except TooLarge as error:
            # The refusal is on record, and the work goes on: with the same key the whole answer can be had.
            raise Overloaded("The run was refused; what would fit is still being computed.") from error


# --- who sees what ---------------------------------------------------------------------------------------------------


def no_dataset(name: str) -> NotFound:
    """The one way to say so, whether it does not exist or is not for the caller's eyes."""
    return NotFound(f"There is no dataset named {name!r}.", dataset=name)


def demand_sight(actor: Actor, name: str) -> None:
    """Raises NotFound where the caller's key is limited to other datasets."""
    if actor.datasets is not None and name not in actor.datasets:
        raise no_dataset(name)


def sees(actor: Actor, dataset: str, run: Run) -> bool:
    """A key limited to datasets sees, of their runs, its own."""
    return actor.datasets is None or (dataset in actor.datasets and run.principal_id == actor.principal_id)


# --- entries to answers ----------------------------------------------------------------------------------------------


def show_amount(amount: Amount) -> dict[str, Any]:
    """An amount in an answer: mu and delta as doubles for reading, the exact integers beside them as strings."""
    return {"mu": amounts.mu_of(amount), "delta": amounts.delta_of(amount), **amount.facts()}


def show_epsilon(*, mu: float, delta: float, at_delta: float) -> float | None:
    """Epsilon for display, rounded up; None for infinity, which JSON does not have."""
    value = float(gdp.epsilon_upper(mu=mu, delta=delta, at_delta=at_delta))
    return value if math.isfinite(value) else None


def _balance(entry: Mapping[str, Any]) -> tuple[Amount, Amount]:
    """The limit and the remainder that an entry records."""
    balance = {name: Amount.of(facts) for name, facts in entry["balance"].items()}
    return balance["limit"], balance["limit"] - balance["spent"] - balance["held"]


_COSTED: Final = ("bound", "method", "assumptions", "accountant", "delta")
"""How a cost came about. `delta`, the run's share, is there where a certificate made use of it."""


def _approved(entry: Mapping[str, Any]) -> dict[str, Any]:
    _, remaining = _balance(entry)
    return {
        "id": entry["run"],
        "state": "held",
        "decision": "approved",
        "cost": show_amount(Amount.of(entry["cost"])),
        "datasets": [{"name": entry["dataset"], "seq": entry["seq"], "remaining": show_amount(remaining)}],
        "start_by": entry["start_by"],
        **{name: entry[name] for name in _COSTED if name in entry},
    }


def _refused(entry: Mapping[str, Any], *, fits: Mapping[str, Any]) -> BudgetExceeded:
    limit, remaining = _balance(entry)
    cost = Amount.of(entry["cost"])
    plain = {"mu": amounts.mu_of, "delta": amounts.delta_of}
    binding = [
        {
            "name": entry["dataset"],
            "quantity": quantity,
            "requested": plain[quantity](cost),
            "remaining": plain[quantity](remaining),
            "limit": plain[quantity](limit),
        }
        for quantity in entry["binding"]
    ]
    shown = {name: entry[name] for name in ("delta",) if name in entry}
    return BudgetExceeded(run=entry["run"], datasets=binding, fits=fits, seq=entry["seq"], **shown)


def _fitting(entry: Mapping[str, Any]) -> dict[str, Any]:
    bound: Bound = entry["bound"]
    adjacency: Adjacency = entry["adjacency"]
    mechanism = mechanisms.parse(entry["request"]["mechanism"])
    _, remaining = _balance(entry)
    if "delta" not in entry:
        return plan.fits(mechanism, bound=bound, adjacency=adjacency, remaining=remaining)
    costs = itertools.count(1)
    return plan.fits(
        mechanism,
        bound=bound,
        adjacency=adjacency,
        remaining=remaining,
        delta=entry["delta"],
        is_late=lambda: next(costs) > FITS_COSTS_MAX,
    )


def _moved(decision: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to start, settle and void."""
    _, remaining = _balance(entry)
    state = {"run-started": "started", "run-settled": "settled", "run-voided": "voided"}[entry["kind"]]
    shown = {
        "id": entry["run"],
        "state": state,
        "cost": show_amount(Amount.of(decision["cost"])),
        "datasets": [{"name": entry["dataset"], "seq": entry["seq"], "remaining": show_amount(remaining)}],
        "at": entry["at"],
    }
    for name in ("charged", "returned"):
        if name in entry:
            shown[name] = show_amount(Amount.of(entry[name]))
    if "settle_by" in entry:
        shown["settle_by"] = entry["settle_by"]
    return shown


def _repeated(entries: Sequence[Entry], repeat: Repeat) -> dict[str, Any]:
    """The entry that a repeated command already left, if it was the same command."""
    entry: dict[str, Any] = next(journal.parse(entry.body) for entry in entries if entry.kind == repeat.kind)
    if entry.get("request", {}) != repeat.body:
        state = repeat.kind.removeprefix("run-")
        raise RunState(f"The run is already {state}, with another body.", state=state)
    return entry


def describe(run: Run, entries: Sequence[Mapping[str, Any]], *, now_us: int) -> dict[str, Any]:
    """A run as GET shows it: what was asked and decided, and what came of it."""
    decision = entries[0]
    shown: dict[str, Any] = {
        "id": str(run.id),
        "state": run.state,
        "decision": "refused" if run.state == "refused" else "approved",
        "is_overdue": run.due_us is not None and run.due_us < now_us,
        "cost": show_amount(Amount.of(decision["cost"])),
        "datasets": [{"name": decision["dataset"], "seq": decision["seq"]}],
        "request": decision["request"],
        "idempotency_key": decision["idempotency_key"],
        "asked_by": decision["actor"],
        "adjacency": decision["adjacency"],
        **{name: decision[name] for name in _COSTED if name in decision},
        "created_at": timestamp(run.created_us),
        "start_by": decision.get("start_by"),
    }
    for entry in entries[1:]:
        shown[entry["kind"].removeprefix("run-")] = {
            "at": entry["at"],
            "by": entry["actor"],
            "seq": entry["seq"],
            **entry.get("request", {}),
            **{name: entry[name] for name in ("steps", "stop", "settle_by") if entry.get(name) is not None},
            **{name: show_amount(Amount.of(entry[name])) for name in ("charged", "returned") if name in entry},
        }
    return shown


def _executed(mechanism: AnyMechanism, request: SettleRequest) -> tuple[int | None, str]:
    """The steps and the stop to record. Raises InvalidRequest, naming the field."""
    planned = mechanisms.planned_steps(mechanism)
    if planned is None:
        if request.steps is not None:
            raise InvalidRequest("steps: this mechanism has none; leave it out", field="steps")
        return None, request.stop or "planned"
    lowest, highest = planned
    steps = highest if request.steps is None else request.steps
    if steps > highest:
        raise InvalidRequest(
            f"steps: planned were {highest}; settling for more is not supported by this version",
            field="steps",
            planned=highest,
        )
    stop = request.stop or ("planned" if steps >= lowest else "data_dependent")
    if stop == "planned" and steps < lowest:
        raise InvalidRequest(
            f"stop: {lowest} were planned, so {steps} is not all that was planned; say data_dependent", field="stop"
        )
    return steps, stop


def plain(value: Any) -> Any:
    """For an answer's encoder: an exact decimal as the double nearest to it."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Amount):
        return show_amount(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in an answer")

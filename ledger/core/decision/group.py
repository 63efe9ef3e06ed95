"""The decision: from locked books and a group of commands to new books and the outcome of each command. No I/O.

A run charges a set of accounts, all or none. It is approved when, in each of them and in both quantities, what is spent
and held and what it asks for stay within the limit. The limit is fixed in advance and the cost is fixed before the run
sees data, which makes this sum a privacy filter: it stays valid when later runs are chosen by what earlier ones showed
(Smith & Thakurta 2022; Koskela, Tobaben & Honkela 2023; for runs at the same time Haney et al. 2023). That the delta
part may be summed in the same way is this project's own argument; both are written out in docs/explanation/decision.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, assert_never
from uuid import UUID

from ledger.core.books import Books, ReadSet
from ledger.core.commands import (
    AddPartitions,
    Ask,
    Batch,
    Change,
    Command,
    Correct,
    OnDataset,
    OnRun,
    RefuseProposal,
    Register,
    SetBudget,
    SetFairUse,
    SetProject,
    Settle,
    Single,
    Start,
    Void,
)
from ledger.core.decision.datasets import add_partitions, change, register, set_budget, set_fair_use, set_project
from ledger.core.decision.past import enter
from ledger.core.decision.posting import Drafts, Repeat
from ledger.core.decision.runs import advance, ask_run, demand_askable, fitting, refusal_of, together
from ledger.core.decision.together import Place
from ledger.core.decision.two_people import refuse_proposal
from ledger.core.runs import Use
from ledger.errors import (
    BatchRefused,
    LedgerError,
    NotFound,
    RunState,
)


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """A refusal that leaves no entry, because its whole batch is refused."""

    drafts: Drafts


@dataclass(frozen=True, slots=True)
class Batched:
    """The outcomes of a batch's runs, in order."""

    outcomes: tuple[Drafts | Unrecorded | LedgerError, ...]


_SPOILT: Final = (
    "Other runs of this batch were decided before, or cannot be decided, so no more of it are approved. By itself this"
    " run fits now: ask for it with POST /v1/runs, or in a batch without them."
)
_NOT_AT_ONE_LEVEL: Final = (
    "This run does not fit at one level of costs with the runs of its batch that were approved ({:,}). By itself it"
    " fits now: ask for it with POST /v1/runs, or in a batch without them."
)

Outcome = Drafts | Repeat | Batched | LedgerError


def decide(books: Books, commands: Sequence[Command], *, now_us: int) -> tuple[Books, list[Outcome]]:
    """Decide the commands one after another, each on the books that the one before it left.

    `books` holds all that `read_sets` names, read under the datasets' locks; what is not in it does not exist. Returns
    the books afterwards and one outcome for each command, in order: the journal entries it leaves, the entries it
    repeats, the outcomes of a batch, or the error, which leaves nothing.
    """
    books = books.copy()
    outcomes: list[Outcome] = []
    for command in commands:
        try:
            if isinstance(command, Batch):
                books, batched = _batch(books, command, now_us)
                outcomes.append(batched)
            else:
                outcomes.append(_apply(books, command, now_us))
        except LedgerError as error:
            outcomes.append(error)
    return books, outcomes


def read_sets(commands: Iterable[Command]) -> dict[UUID, ReadSet]:
    """Return what the books must hold to decide these commands, by dataset."""
    sets: dict[UUID, ReadSet] = {}
    for command in commands:
        for dataset_id in command.dataset_ids:
            read_set = sets.setdefault(dataset_id, ReadSet())
            read_set.is_guarded |= _takes_two(command)
        match command:
            case SetBudget() | AddPartitions():
                # All: each gets the new limit; their number is bounded.
                sets[command.dataset_id].add_partitions(None)
            case SetProject():
                sets[command.dataset_id].add_partitions(None)
                sets[command.dataset_id].projects.add(command.project)
                sets[command.dataset_id].is_every_project = True
            case Ask():
                _add_uses(sets, command.uses, project=command.project, principal_id=command.actor.principal_id)
            case Batch():
                for ask in command.asks:
                    _add_uses(sets, ask.uses, project=ask.project, principal_id=ask.actor.principal_id)
            case Start() | Settle() | Void() | Correct():
                _add_charges(sets, command)
            case SetFairUse(fair_use=fair_use):
                read_set = sets[command.dataset_id]
                read_set.runs_per_hour = max(read_set.runs_per_hour, fair_use.runs_per_hour or 0)
            case Change(costing="residual"):
                sets[command.dataset_id].is_every_project = True
                sets[command.dataset_id].is_every_held = True
            case Register() | Change() | RefuseProposal():
                pass
            case _:
                assert_never(command)
    return sets


def askers(commands: Iterable[Command]) -> dict[UUID, int]:
    """Return whose refusals a decision needs, and how many of the newest."""
    most: dict[UUID, int] = {}
    for command in commands:
        asks = (command,) if isinstance(command, Ask) else command.asks if isinstance(command, Batch) else ()
        for ask in asks:
            who = ask.actor.principal_id
            most[who] = max(most.get(who, 0), ask.refusals_per_hour)
    return most


def read_sets_of_uses(uses: Iterable[Use], *, project: str | None, principal_id: UUID) -> dict[UUID, ReadSet]:
    """Return what `charged_accounts` must see of these datasets."""
    sets = {use.dataset_id: ReadSet() for use in uses}
    _add_uses(sets, uses, project=project, principal_id=principal_id)
    return sets


def _add_uses(sets: dict[UUID, ReadSet], uses: Iterable[Use], *, project: str | None, principal_id: UUID) -> None:
    for use in uses:
        sets[use.dataset_id].add_partitions(use.partitions)
        sets[use.dataset_id].principals.add(principal_id)
        if project is not None:
            sets[use.dataset_id].projects.add(project)


def _takes_two(command: Command) -> bool:
    if isinstance(command, OnDataset | Void | Correct | RefuseProposal):
        return True
    is_ruling = isinstance(command, Settle) and command.ruling is not None
    return is_ruling or (isinstance(command, Ask) and command.second is not None)


def _add_charges(sets: dict[UUID, ReadSet], command: OnRun) -> None:
    for dataset_id, keys in command.charges.items():
        for key in keys:
            if key.partition is not None:
                sets[dataset_id].add_partitions([key.partition])
            if key.project is not None:
                sets[dataset_id].projects.add(key.project)
            if key.principal_id is not None:
                sets[dataset_id].principals.add(key.principal_id)


def _apply(books: Books, command: Single, now_us: int, *, may_wait: bool = True) -> Drafts | Repeat:
    """Apply a command. It changes `books` only as its last act, so that an error leaves nothing behind. may_wait: as in
    `ask_run`."""
    _demand_datasets(books, command)
    match command:
        case Start() | Settle() | Void() | Correct():
            return advance(books, command, now_us)
        case Register():
            return register(books, command, now_us)
        case Change():
            return change(books, command, now_us)
        case SetBudget():
            return set_budget(books, command, now_us)
        case AddPartitions():
            return add_partitions(books, command, now_us)
        case SetProject():
            return set_project(books, command, now_us)
        case SetFairUse():
            return set_fair_use(books, command, now_us)
        case Ask(is_past=True):
            return enter(books, command, now_us)
        case Ask():
            return ask_run(books, command, now_us, may_wait=may_wait)
        case RefuseProposal():
            return refuse_proposal(books, command, now_us)
        case _:
            assert_never(command)


def _demand_datasets(books: Books, command: Single) -> None:
    if any(dataset_id not in books.datasets for dataset_id in command.dataset_ids):
        raise NotFound("No dataset has this name, or your key may not see it.")


def _batch(books: Books, batch: Batch, now_us: int) -> tuple[Books, Batched]:
    """Decide the runs of a batch one after another. All-or-none is decided on a copy, which is dropped if one does not
    fit, and at one level of their costs if they fit so."""
    if batch.takes_most:
        return _as_many_as_fit(books, batch, now_us)
    tried = books.copy() if batch.is_atomic else books
    places = _together(books, batch) if batch.is_atomic and not batch.is_spoilt else [None] * len(batch.asks)
    outcomes: list[Drafts | LedgerError] = []
    for ask, place in zip(batch.asks, places, strict=True):
        try:
            if place is None:
                decided = _apply(tried, ask, now_us, may_wait=False)
            else:
                decided = ask_run(tried, ask, now_us, place, may_wait=False)
            outcomes.append(decided if isinstance(decided, tuple) else RunState())
        except LedgerError as error:
            outcomes.append(error)
    if not batch.is_atomic or (not batch.is_spoilt and all(map(_is_approval, outcomes))):
        return tried, Batched(tuple(outcomes))
    count = _how_many_fit(books, batch)
    return books, Batched(tuple([_unrecorded(outcome, count) for outcome in outcomes]))


def _as_many_as_fit(books: Books, batch: Batch, now_us: int) -> tuple[Books, Batched]:
    """Approve as many runs of a batch as fit together, as a batch of their own. The others leave no entry. If a run
    cannot be decided, none is; nor if one was decided before: a repeated request approves no more than the first."""
    numbers = range(len(batch.asks))
    errors = {number: error for number in numbers if (error := _error_of(books, batch.asks[number], now_us))}
    if batch.is_spoilt or errors:
        return books, _none_of(books, batch, errors, now_us)
    taken = fitting(books, batch.asks)
    own = Batch(batch.actor, tuple([batch.asks[number] for number in taken]), is_atomic=True)
    after, approved = _batch(books, own, now_us)
    outcomes = dict(zip(taken, approved.outcomes, strict=True))
    errors = {number: one for number, one in outcomes.items() if isinstance(one, LedgerError)}
    if errors:
        # Such as too many runs an hour, with those of the batch.
        own_errors = {number: error for number, error in errors.items() if not isinstance(error, BatchRefused)}
        return books, _none_of(books, batch, own_errors, now_us)
    beyond, why = after.copy(), _NOT_AT_ONE_LEVEL.format(len(taken))
    for number in numbers:
        if number not in outcomes:
            outcomes[number] = _left_out(beyond, batch.asks[number], why, now_us)
    return after, Batched(tuple([outcomes[number] for number in numbers]))


def _none_of(books: Books, batch: Batch, errors: Mapping[int, LedgerError], now_us: int) -> Batched:
    """Return the outcomes of a batch of which none is approved: of each run, what it comes to by itself."""
    dropped = books.copy()
    asks = enumerate(batch.asks)
    return Batched(tuple([errors.get(number) or _left_out(dropped, ask, _SPOILT, now_us) for number, ask in asks]))


def _error_of(books: Books, ask: Ask, now_us: int) -> LedgerError | None:
    """Return why a run cannot be decided now, if it cannot."""
    try:
        _demand_datasets(books, ask)
        demand_askable(books, ask, now_us)
    except LedgerError as error:
        return error
    return None


def _left_out(books: Books, ask: Ask, why: str, now_us: int) -> Unrecorded | LedgerError:
    """Return the outcome of a run that is not approved. why: the reason if it fits by itself."""
    try:
        refused = refusal_of(books, ask, now_us)
    except LedgerError as error:  # such as too many runs an hour, after those that were approved
        return error
    return BatchRefused(why) if refused is None else Unrecorded(refused)


def _how_many_fit(books: Books, batch: Batch) -> int | None:
    """Return how many runs of a batch would be approved if as many as fit were; None if one cannot be decided."""
    if batch.is_spoilt or any(dataset_id not in books.datasets for dataset_id in batch.dataset_ids):
        return None
    try:
        return len(fitting(books, batch.asks))
    except LedgerError:
        return None


def _together(books: Books, batch: Batch) -> Sequence[Place | None]:
    one_by_one: Sequence[Place | None] = [None] * len(batch.asks)
    is_past = any(ask.is_past for ask in batch.asks)  # each is charged before all entries, not beside the others
    if is_past or any(dataset_id not in books.datasets for dataset_id in batch.dataset_ids):
        return one_by_one
    try:
        return together(books, batch.asks) or one_by_one
    except LedgerError:  # the run that raises it does so when it is decided
        return one_by_one


def _is_approval(outcome: Drafts | LedgerError) -> bool:
    return not isinstance(outcome, LedgerError) and outcome[0].kind in ("run-approved", "run-entered")


def _unrecorded(outcome: Drafts | LedgerError, count: int | None) -> Unrecorded | LedgerError:
    """Return the outcome of a run of a batch that is refused. count: how many runs of it fit together, if known."""
    if isinstance(outcome, LedgerError):
        return outcome
    if not _is_approval(outcome):
        return Unrecorded(outcome)
    return BatchRefused(
        "This run fits; other runs of its batch do not.", **({} if count is None else {"fitting": count})
    )

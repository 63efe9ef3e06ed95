"""The decision: from locked books and a group of commands to new books and the outcome of each command. No I/O.

A run charges a set of accounts, all or none. It is approved when, in each of them and in both quantities, what is spent
and held and what it asks for stay within the limit. The limit is fixed in advance and the cost is fixed before the run
sees data, which makes this sum a privacy filter: it stays valid when later runs are chosen by what earlier ones showed
(Smith & Thakurta 2022; Koskela, Tobaben & Honkela 2023; for runs at the same time Haney et al. 2023). That the delta
part may be summed in the same way is this project's own argument; both are written out in docs/explanation/decision.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never
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
from ledger.core.decision.posting import Drafts, Repeat
from ledger.core.decision.runs import advance, ask_run, together
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
    if any(dataset_id not in books.datasets for dataset_id in command.dataset_ids):
        raise NotFound("No dataset has this name, or your key may not see it.")
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
        case Ask():
            return ask_run(books, command, now_us, may_wait=may_wait)
        case RefuseProposal():
            return refuse_proposal(books, command, now_us)
        case _:
            assert_never(command)


def _batch(books: Books, batch: Batch, now_us: int) -> tuple[Books, Batched]:
    """Decide the runs of a batch one after another. All-or-none is decided on a copy, which is dropped if one does not
    fit, and at one level of their costs if they fit so."""
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
    return books, Batched(tuple(map(_unrecorded, outcomes)))


def _together(books: Books, batch: Batch) -> Sequence[Place | None]:
    one_by_one: Sequence[Place | None] = [None] * len(batch.asks)
    if any(dataset_id not in books.datasets for dataset_id in batch.dataset_ids):
        return one_by_one
    try:
        return together(books, batch.asks) or one_by_one
    except LedgerError:  # the run that raises it does so when it is decided
        return one_by_one


def _is_approval(outcome: Drafts | LedgerError) -> bool:
    return not isinstance(outcome, LedgerError) and outcome[0].kind == "run-approved"


def _unrecorded(outcome: Drafts | LedgerError) -> Unrecorded | LedgerError:
    if isinstance(outcome, LedgerError):
        return outcome
    return (
        BatchRefused("This run fits; other runs of its batch do not.") if _is_approval(outcome) else Unrecorded(outcome)
    )

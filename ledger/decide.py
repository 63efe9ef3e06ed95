"""The decision: locked books and a group of commands in, new books and what came of each command out. No I/O.

A run is approved when, in both quantities, what is spent and held and what it asks for stay within the limit. The limit
is fixed beforehand and the cost is fixed before the run sees data, which makes this sum a privacy filter: it stays
valid when later runs are chosen by what earlier ones showed (Smith & Thakurta 2022; Koskela, Tobaben & Honkela 2023;
for runs at the same time Haney et al. 2023). That the delta part may be summed in the same way is this project's own
argument; both are written out in docs/accounting.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, assert_never
from uuid import UUID

from ledger.errors import BudgetBelowSpent, DatasetFrozen, Forbidden, LedgerError, NotFound, RunState
from ledger.model import (
    ZERO,
    Account,
    Actor,
    Amount,
    Ask,
    Books,
    Change,
    Command,
    Dataset,
    Draft,
    Register,
    Run,
    SetBudget,
    Settle,
    Start,
    Void,
    timestamp,
)

SETTLE_WITHIN_US: Final = 30 * 86_400 * 1_000_000
"""How long after its start a run may go unsettled before it is listed as overdue. It goes on counting in full."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """The command was carried out before; the answer is the entry of this kind that the run already has."""

    run_id: UUID
    kind: str
    body: Mapping[str, Any]


Outcome = Draft | Repeat | LedgerError


def decide(books: Books, commands: Sequence[Command], *, now_us: int) -> tuple[Books, list[Outcome]]:
    """Decides the commands one after another, each on what those before it left.

    `books` holds every dataset, account and run that the commands name, read under the datasets' locks; what is not in
    it does not exist. Returns the books afterwards and one outcome for each command, in order: the journal entry it
    leaves, the entry it repeats, or the error, which leaves nothing.
    """
    books = Books(dict(books.datasets), dict(books.accounts), dict(books.runs))
    outcomes: list[Outcome] = []
    for command in commands:
        try:
            outcomes.append(_apply(books, command, now_us))
        except LedgerError as error:
            outcomes.append(error)
    return books, outcomes


def _apply(books: Books, command: Command, now_us: int) -> Draft | Repeat:
    """Changes `books` only as its last act, so that an error leaves nothing behind."""
    if command.dataset_id not in books.datasets:
        raise NotFound("There is no such dataset.")
    match command:
        case Register():
            return _register(books, command, now_us)
        case Change():
            return _change(books, command)
        case SetBudget():
            return _set_budget(books, command)
        case Ask():
            return _ask(books, command, now_us)
        case Start():
            return _start(books, command, now_us)
        case Settle():
            return _settle(books, command, now_us)
        case Void():
            return _void(books, command, now_us)
        case _:
            assert_never(command)


# --- datasets --------------------------------------------------------------------------------------------------------


def _register(books: Books, command: Register, now_us: int) -> Draft:
    dataset = replace(books.datasets[command.dataset_id], created_us=now_us)
    definition = command.definition
    account = Account(command.account_id, dataset.id, limit=command.limit)
    facts = {
        "title": command.title,
        "description": command.description,
        "privacy_unit": definition.privacy_unit,
        "adjacency": definition.adjacency,
        "bound": definition.bound,
        "size": definition.size,
        "budget": command.budget,
        "limit": command.limit.facts(),
        "account": str(account.id),
        "state": dataset.state,
    }
    return _write(books, dataset, account, command.actor, "dataset-registered", facts)


def _change(books: Books, command: Change) -> Draft:
    dataset = books.datasets[command.dataset_id]
    if dataset.state == "retired" and command.state not in (None, "retired"):
        raise DatasetFrozen("A retired dataset stays retired.", dataset=dataset.definition.name, state="retired")
    asked: dict[str, Any] = {"state": command.state, "title": command.title, "description": command.description}
    changed = {name: value for name, value in asked.items() if value is not None}
    facts = {**changed, **({"reason": command.reason} if command.reason is not None else {})}
    return _write(books, replace(dataset, **changed), _account(books, dataset), command.actor, "dataset-changed", facts)


def _set_budget(books: Books, command: SetBudget) -> Draft:
    dataset = books.datasets[command.dataset_id]
    account = _account(books, dataset)
    committed = account.spent + account.held
    if quantities := committed.exceeds(command.limit):
        raise BudgetBelowSpent(
            dataset=dataset.definition.name,
            quantities=quantities,
            limit=command.limit,
            spent=account.spent,
            held=account.held,
        )
    facts = {
        "budget": command.budget,
        "limit": command.limit.facts(),
        "limit_before": account.limit.facts(),
        "reason": command.reason,
    }
    account = replace(account, limit=command.limit)
    return _write(books, replace(dataset, budget=command.budget), account, command.actor, "budget-set", facts)


# --- runs ------------------------------------------------------------------------------------------------------------


def _ask(books: Books, command: Ask, now_us: int) -> Draft:
    dataset = books.datasets[command.dataset_id]
    _demand_active(dataset)
    account = _account(books, dataset)
    facts = {
        "request": command.request,
        "cost": command.cost.facts(),
        "idempotency_key": command.claim.key,
        **command.costing,
    }
    binding = command.cost.exceeds(account.remaining)
    run = Run(
        id=command.run_id,
        dataset_id=dataset.id,
        principal_id=command.actor.principal_id,
        state="refused" if binding else "held",
        seq=dataset.seq + 1,
        cost=None if binding else command.cost,
        created_us=now_us,
        ended_us=now_us if binding else None,
        due_us=None if binding else now_us + command.valid_for_us,
    )
    if binding:
        return _write(books, dataset, account, command.actor, "run-refused", {**facts, "binding": binding}, run)
    account = replace(account, held=account.held + command.cost)
    facts |= {"start_by": timestamp(now_us + command.valid_for_us)}
    return _write(books, dataset, account, command.actor, "run-approved", facts, run)


def _start(books: Books, command: Start, now_us: int) -> Draft | Repeat:
    dataset, run = _dataset_and_run(books, command.dataset_id, command.run_id)
    _demand_owner(command.actor, run)
    if run.state == "started":
        return Repeat(run.id, "run-started", {})
    _demand_state(run, "held")
    _demand_active(dataset)
    if run.due_us is not None and now_us > run.due_us:
        start_by = timestamp(run.due_us)
        raise RunState(
            "The approval was to be used by start_by; void it and ask again.", state="held", start_by=start_by
        )
    due_us = now_us + SETTLE_WITHIN_US
    run = replace(run, state="started", started_us=now_us, due_us=due_us)
    facts = {"settle_by": timestamp(due_us)}
    return _write(books, dataset, _account(books, dataset), command.actor, "run-started", facts, run)


def _settle(books: Books, command: Settle, now_us: int) -> Draft | Repeat:
    dataset, run = _dataset_and_run(books, command.dataset_id, command.run_id)
    _demand_owner(command.actor, run)
    if run.state == "settled":
        return Repeat(run.id, "run-settled", command.body)
    _demand_state(run, "started")
    cost = _cost(run)
    account = _account(books, dataset)
    account = replace(account, held=account.held - cost, spent=account.spent + cost)
    run = replace(run, state="settled", ended_us=now_us, due_us=None)
    facts = {
        "request": command.body,
        "steps": command.steps,
        "stop": command.stop,
        "charged": cost.facts(),
        "returned": ZERO.facts(),
    }
    return _write(books, dataset, account, command.actor, "run-settled", facts, run)


def _void(books: Books, command: Void, now_us: int) -> Draft | Repeat:
    dataset, run = _dataset_and_run(books, command.dataset_id, command.run_id)
    if run.state == "voided":
        return Repeat(run.id, "run-voided", command.body)
    if run.state == "started":
        if command.actor.role not in ("steward", "admin"):
            raise Forbidden("Once a run has started, only a steward can say that no output was ever seen.")
    else:
        _demand_state(run, "held")
        if command.actor.role != "steward":
            _demand_owner(command.actor, run)
    cost = _cost(run)
    account = _account(books, dataset)
    account = replace(account, held=account.held - cost)
    run = replace(run, state="voided", ended_us=now_us, due_us=None)
    facts = {"request": command.body, "returned": cost.facts()}
    return _write(books, dataset, account, command.actor, "run-voided", facts, run)


# --- shared ----------------------------------------------------------------------------------------------------------


def _write(
    books: Books,
    dataset: Dataset,
    account: Account,
    actor: Actor,
    kind: str,
    facts: Mapping[str, Any],
    run: Run | None = None,
) -> Draft:
    """Puts the new rows into the books and drafts the entry that says so. The one place where `seq` moves."""
    _check(account)
    dataset = replace(dataset, seq=dataset.seq + 1)
    books.datasets[dataset.id] = dataset
    books.accounts[dataset.id] = account
    if run is not None:
        books.runs[run.id] = run
    return Draft(
        dataset_id=dataset.id,
        dataset=dataset.definition.name,
        seq=dataset.seq,
        kind=kind,
        actor=actor.facts(),
        facts={**facts, "balance": account.facts()},
        run_id=None if run is None else run.id,
    )


def _check(account: Account) -> None:
    """The invariant, before anything is written; the database holds it once more in a constraint."""
    parts = (account.limit, account.spent, account.held, account.overdrawn)
    if not all(part.fits_int64 for part in parts):
        raise ArithmeticError(f"an amount is negative or past 2^63 - 1: {account}")
    if (account.spent + account.held).exceeds(account.limit + account.overdrawn):
        raise ArithmeticError(f"more spent and held than the limit allows: {account}")


def _account(books: Books, dataset: Dataset) -> Account:
    return books.accounts[dataset.id]


def _dataset_and_run(books: Books, dataset_id: UUID, run_id: UUID) -> tuple[Dataset, Run]:
    run = books.runs.get(run_id)
    if run is None or run.dataset_id != dataset_id:
        raise NotFound("There is no such run.")
    return books.datasets[dataset_id], run


def _cost(run: Run) -> Amount:
    if run.cost is None:
        raise ArithmeticError(f"run {run.id} is {run.state} and has no cost")
    return run.cost


def _demand_active(dataset: Dataset) -> None:
    if dataset.state != "active":
        raise DatasetFrozen(f"The dataset is {dataset.state}.", dataset=dataset.definition.name, state=dataset.state)


def _demand_state(run: Run, wanted: str) -> None:
    if run.state != wanted:
        raise RunState(f"The run is {run.state}; only a {wanted} run allows that.", state=run.state)


def _demand_owner(actor: Actor, run: Run) -> None:
    if actor.role != "admin" and actor.principal_id != run.principal_id:
        raise Forbidden("Only the principal that asked for a run may do that.")

"""Decisions about runs: asking, starting, settling, voiding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, assert_never
from uuid import UUID

from ledger.core.amounts import Quantity, timestamp
from ledger.core.books import Books
from ledger.core.commands import Ask, Correct, OnRun, Settle, Start, Void
from ledger.core.datasets import Account, AccountKey, Dataset
from ledger.core.decision.correcting import correct
from ledger.core.decision.ending import settle, void
from ledger.core.decision.filter import (
    ByDataset,
    Priced,
    decides_alone,
    deciding,
    held_at,
    price,
    price_at,
    table_facts,
)
from ledger.core.decision.of_run import charged_postings, demand_active, demand_owner, demand_state, run_of
from ledger.core.decision.posting import HOUR_US, Drafts, Posting, Repeat, write
from ledger.core.decision.together import Place as Together
from ledger.core.decision.together import most, places
from ledger.core.decision.waiting import approved_by, must_be_alone, propose_run, waits_for
from ledger.core.people import Actor
from ledger.core.runs import Place, Run, Use
from ledger.errors import InvalidRequest, NotFound, RateLimited, RunState

SETTLE_WITHIN_US: Final = 30 * 86_400 * 1_000_000
"""How long a started run may stay unsettled before it is listed as overdue. It counts in full all the same."""


def together(books: Books, asks: Sequence[Ask]) -> list[Together] | None:
    """Return where in their tables the runs of a batch are charged, so that they give back in any order; None if they
    are decided one after another. Raises what `ask_run` raises for what they charge."""
    if all(ask.residual is None for ask in asks):
        return None
    for ask in asks:
        demand_project_share(books, ask.uses, ask.project)
    return places(books, asks, [_charged(books, ask) for ask in asks])


def fitting(books: Books, asks: Sequence[Ask]) -> list[int]:
    """Return the numbers of as many runs of a batch as fit together, in order. Raises what `ask_run` raises for what
    they charge."""
    for ask in asks:
        demand_project_share(books, ask.uses, ask.project)
    return most(books, asks, [_charged(books, ask) for ask in asks])


def refusal_of(books: Books, command: Ask, now_us: int) -> Drafts | None:
    """Return the entries that would refuse a run by itself; None if it fits. Raises what `ask_run` raises."""
    charged = demand_askable(books, command, now_us)
    priced = price(books, charged, command.cost, command.residual)
    binding = _binding(priced, charged)
    return _refuse(books, command, charged, priced, binding, {}, now_us) if binding else None


def ask_run(
    books: Books, command: Ask, now_us: int, together: Together | None = None, *, may_wait: bool = True
) -> Drafts:
    """Approve or refuse a run on every account that it charges, or let it wait for a steward.

    together: where it is charged, as one of a batch. may_wait: whether it is asked for alone. Raises Forbidden for a
    run of a batch that would wait.
    """
    charged = demand_askable(books, command, now_us)
    if together is None or together.index is None or command.residual is None:
        priced = price(books, charged, command.cost, command.residual)
    else:
        priced = price_at(charged, command.cost, command.residual, together.index)
    binding = _binding(priced, charged)
    if not binding and command.second is None and (names := waits_for(books, charged, priced.cost)):
        if not may_wait:
            raise must_be_alone(names)
        return propose_run(books, command, priced.cost, names, now_us)
    stated = approved_by(books, command, now_us)
    _count(books, command, now_us)
    if binding:
        if command.second is None:
            _demand_refusals(books, command, now_us)
        return _refuse(books, command, charged, priced, binding, stated, now_us)
    return _approve(books, command, charged, priced, together, stated, now_us)


def demand_askable(books: Books, command: Ask, now_us: int) -> dict[UUID, list[Account]]:
    """Return the accounts that a run charges. Raises LedgerError if it cannot be asked for now."""
    for use in command.uses:
        dataset = books.datasets[use.dataset_id]
        demand_active(dataset)
        if command.second is None:
            _demand_rate(books, command.actor, dataset, now_us)
    demand_project_share(books, command.uses, command.project)
    return _charged(books, command)


def _binding(priced: Priced, charged: ByDataset) -> dict[UUID, list[Quantity]]:
    """Return the quantities in which a run does not fit, by dataset."""
    return {
        dataset_id: bound for dataset_id, accounts in charged.items() if (bound := binding_quantities(priced, accounts))
    }


def _charged(books: Books, command: Ask) -> dict[UUID, list[Account]]:
    who = command.actor.principal_id
    return {
        use.dataset_id: charged_accounts(books, use, project=command.project, principal_id=who) for use in command.uses
    }


def _approve(
    books: Books,
    command: Ask,
    charged: ByDataset,
    priced: Priced,
    together: Together | None,
    stated: Mapping[str, Any],
    now_us: int,
) -> Drafts:
    due_us = now_us + command.valid_for_us
    run = _new_run(books, command, priced, now_us, due_us=due_us)
    postings = [
        Posting(
            books.datasets[use.dataset_id],
            [held_at(account, priced, books.datasets[use.dataset_id].seq + 1) for account in charged[use.dataset_id]],
            {"via": list(use.via), **table},
        )
        for use, table in zip(command.uses, _tables(books, command, charged, priced, together), strict=True)
    ]
    begin_us = min(now_us + command.begin_within_us, due_us)
    times = {"start_by": timestamp(due_us), "begin_by": timestamp(begin_us)}
    facts = {**_request_facts(command, priced), **times, **stated}
    return write(books, postings, command.actor, "run-approved", facts, run, command.texts)


def _refuse(
    books: Books,
    command: Ask,
    charged: ByDataset,
    priced: Priced,
    binding: Mapping[UUID, list[Quantity]],
    stated: Mapping[str, Any],
    now_us: int,
) -> Drafts:
    run = _new_run(books, command, priced, now_us, due_us=None)
    postings: list[Posting] = []
    names = sorted(books.datasets[dataset_id].definition.name for dataset_id in binding)
    for use, table in zip(command.uses, _tables(books, command, charged, priced), strict=True):
        others = [name for name in names if name != books.datasets[use.dataset_id].definition.name]
        # All of them in the entry that has the request; in the others only enough to show that the run did not fit.
        needed = others if not postings else others[: 0 if use.dataset_id in binding else 1]
        own = {"via": list(use.via), "binding": binding.get(use.dataset_id, []), "binding_elsewhere": needed, **table}
        postings.append(Posting(books.datasets[use.dataset_id], charged[use.dataset_id], own))
    facts = {**_request_facts(command, priced), **stated}
    return write(books, postings, command.actor, "run-refused", facts, run, command.texts)


def _tables(
    books: Books, command: Ask, charged: ByDataset, priced: Priced, together: Together | None = None
) -> list[dict[str, Any]]:
    """Return for each dataset the table of costs, and the place in a batch, in the form of its entry."""
    if together is not None:
        stated = [(use.dataset_id, together.stated.get(use.dataset_id)) for use in command.uses]
        return [
            {**table_facts(priced, together.by.get(id_)), **({} if batch is None else {"together": batch})}
            for id_, batch in stated
        ]
    if priced.table is None:
        return [{}] * len(command.uses)
    decides = deciding(books, charged)
    return [
        table_facts(priced, None if decides_alone(priced, charged[use.dataset_id]) else decides) for use in command.uses
    ]


def _new_run(books: Books, command: Ask, priced: Priced, now_us: int, *, due_us: int | None) -> Run:
    """Return the run, in the next entry of each of its datasets. due_us: when it must have started; None if refused."""
    is_refused = due_us is None
    return Run(
        id=command.run_id,
        principal_id=command.actor.principal_id,
        state="refused" if is_refused else "held",
        cost=None if is_refused else priced.cost,
        created_us=now_us,
        project=command.project,
        ended_us=now_us if is_refused else None,
        due_us=due_us,
        places=tuple([Place(use.dataset_id, books.datasets[use.dataset_id].seq + 1) for use in command.uses]),
        r=0 if is_refused else priced.r,
    )


def _request_facts(command: Ask, priced: Priced) -> dict[str, Any]:
    return {
        "request": command.request,
        "cost": priced.cost.facts(),
        "idempotency_key": command.claim.key,
        **({"project": command.project} if command.project is not None else {}),
        **command.costing,
    }


def charged_accounts(books: Books, use: Use, *, project: str | None, principal_id: UUID) -> list[Account]:
    """Return the accounts of one dataset that a run charges. An account that nobody charged before is empty.

    Raises NotFound for a partition that does not exist, and InvalidRequest if there is none yet.
    """
    dataset = books.datasets[use.dataset_id]
    accounts: list[Account] = []
    for partition in _scopes(books, dataset, use):
        key = AccountKey(dataset.id, partition)
        if dataset.limit is not None:
            accounts.append(books.accounts[key])
        share = books.projects.get((dataset.id, project)) if project is not None else None
        if share is not None:
            key = AccountKey(dataset.id, partition, share.name)
            accounts.append(books.accounts.get(key, Account(key, share.limit)))
        if dataset.fair_use.held is not None:
            key = AccountKey(dataset.id, partition, None, principal_id)
            account = books.accounts.get(key, Account(key, dataset.fair_use.held))
            # A limit that was lowered below what somebody holds takes effect as the hold shrinks.
            accounts.append(replace(account, limit=dataset.fair_use.held.most(account.held)))
    return accounts


def _scopes(books: Books, dataset: Dataset, use: Use) -> Sequence[str | None]:
    if not dataset.definition.is_partitioned:
        return (None,)
    name = dataset.definition.name
    if use.partitions is None:
        if not books.partitions[dataset.id]:
            raise InvalidRequest(
                f"datasets: {name} has no partitions yet; a steward must add one first", field="datasets", dataset=name
            )
        return sorted(books.partitions[dataset.id])
    for partition in use.partitions:
        if AccountKey(dataset.id, partition) not in books.accounts:
            raise NotFound(
                f"{name} has no partition {partition!r}. GET /v1/datasets/{name}/partitions lists its partitions.",
                dataset=name,
                partition=partition,
            )
    return sorted(use.partitions)


def demand_project_share(books: Books, uses: Sequence[Use], project: str | None) -> None:
    """Raise NotFound if the project has no share of a named dataset, neither there nor in an ancestor."""
    if project is None:
        return
    limited = {name for use in uses if (use.dataset_id, project) in books.projects for name in use.via}
    for name in (name for use in uses for name in use.via):
        if name not in limited:
            raise NotFound(
                (
                    f"{name} has no project {project!r}. A steward can give it a share: PUT"
                    f" /v1/datasets/{name}/projects/{project}."
                ),
                project=project,
                dataset=name,
            )


def binding_quantities(priced: Priced, accounts: Sequence[Account]) -> list[Quantity]:
    """Return the quantities in which a run does not fit in one of these accounts."""
    exceeded = {quantity for account in accounts for quantity in priced.exceeds(account)}
    quantities: tuple[Quantity, ...] = ("mu", "delta")
    return [quantity for quantity in quantities if quantity in exceeded]


def advance(books: Books, command: OnRun, now_us: int) -> Drafts | Repeat:
    """Start, settle, void or correct a run, or repeat an earlier decision."""
    match command:
        case Start():
            return _start(books, command, now_us)
        case Settle():
            return settle(books, command, now_us)
        case Void():
            return void(books, command, now_us)
        case Correct():
            return correct(books, command, now_us)
        case _:
            assert_never(command)


def _start(books: Books, command: Start, now_us: int) -> Drafts | Repeat:
    run = run_of(books, command)
    demand_owner(command.actor, run)
    if run.state == "started":
        return Repeat(run.id, "run-started", {})
    demand_state(run, "held")
    for dataset_id in command.dataset_ids:
        demand_active(books.datasets[dataset_id])
    if run.due_us is not None and now_us > run.due_us:
        start_by = timestamp(run.due_us)
        raise RunState(
            (
                f"Run {run.id} was not started by {start_by}, so its approval has ended. POST /v1/runs/{run.id}/void"
                " gives its cost back; then ask for a new run: POST /v1/runs."
            ),
            run=str(run.id),
            state="held",
            start_by=start_by,
            next=["void"],
        )
    due_us = now_us + SETTLE_WITHIN_US
    run = replace(run, state="started", started_us=now_us, due_us=due_us)
    begin_us = min(now_us + command.begin_within_us, due_us)
    facts = {"settle_by": timestamp(due_us), "begin_by": timestamp(begin_us)}
    if command.token_sha256 is not None:
        facts["token_sha256"] = command.token_sha256
    return write(books, charged_postings(books, command), command.actor, "run-started", facts, run)


def _demand_rate(books: Books, actor: Actor, dataset: Dataset, now_us: int) -> None:
    most = dataset.fair_use.runs_per_hour
    if most is None:
        return
    recent = [at for at in books.recent.get((dataset.id, actor.principal_id), ()) if now_us - HOUR_US < at <= now_us]
    if len(recent) >= most:
        name = dataset.definition.name
        raise RateLimited(
            (
                f"One principal may ask for at most {most} runs an hour on {name}, by its fair use. You can ask again"
                f" at {timestamp(recent[-most] + HOUR_US)[:19]}Z."
            ),
            retry_after_seconds=1 + (recent[-most] + HOUR_US - now_us) // 1_000_000,
            dataset=name,
            runs_per_hour=most,
        )


def _demand_refusals(books: Books, command: Ask, now_us: int) -> None:
    """Limit the refusals of one principal: each is kept for good in the journal of every dataset that it reaches."""
    who, most = command.actor.principal_id, command.refusals_per_hour
    # A time that is ahead, from when a clock was, is no reason to wait for longer than the hour.
    recent = [at for at in books.refusals.get(who, ()) if now_us - HOUR_US < at <= now_us]
    if len(recent) >= most:
        raise RateLimited(
            (
                f"The run does not fit, and was not recorded: {most} runs of this principal were refused within"
                " the last hour, the most that are recorded. Find out what fits with POST /v1/plan, or ask again at"
                f" {timestamp(recent[-most] + HOUR_US)[:19]}Z."
            ),
            retry_after_seconds=1 + (recent[-most] + HOUR_US - now_us) // 1_000_000,
            refusals_per_hour=most,
        )
    books.refusals[who] = (*books.refusals.get(who, ()), now_us)


def _count(books: Books, command: Ask, now_us: int) -> None:
    # Even without a limit: a later command of the same group may set one.
    for dataset_id in command.dataset_ids:
        key = dataset_id, command.actor.principal_id
        books.recent[key] = (*books.recent.get(key, ()), now_us)

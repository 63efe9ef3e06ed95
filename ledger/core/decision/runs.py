"""Decisions about runs: asking, starting, settling, voiding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, assert_never
from uuid import UUID

from ledger.core.amounts import Amount, Quantity, timestamp
from ledger.core.books import Books
from ledger.core.commands import Ask, OnRun, Settle, Start, Void
from ledger.core.datasets import Account, AccountKey, Dataset
from ledger.core.decision.posting import HOUR_US, Drafts, Posting, Repeat, beyond, write
from ledger.core.decision.two_people import Guarded, propose_first, seconded
from ledger.core.people import Actor
from ledger.core.runs import Excess, Place, Run, Use
from ledger.errors import DatasetFrozen, Forbidden, InvalidRequest, NotFound, RateLimited, RunState

SETTLE_WITHIN_US: Final = 30 * 86_400 * 1_000_000
"""How long a started run may stay unsettled before it is listed as overdue. It counts in full all the same."""


def ask_run(books: Books, command: Ask, now_us: int) -> Drafts:
    """Approve or refuse a run on every account that it charges."""
    for use in command.uses:
        dataset = books.datasets[use.dataset_id]
        _demand_active(dataset)
        _demand_rate(books, command.actor, dataset, now_us)
    demand_project_share(books, command.uses, command.project)
    charged = {
        use.dataset_id: charged_accounts(books, use, project=command.project, principal_id=command.actor.principal_id)
        for use in command.uses
    }
    binding = {
        dataset_id: bound
        for dataset_id, accounts in charged.items()
        if (bound := binding_quantities(command.cost, accounts))
    }
    _count(books, command, now_us)
    return _refuse(books, command, charged, binding, now_us) if binding else _approve(books, command, charged, now_us)


_ByDataset = Mapping[UUID, Sequence[Account]]


def _approve(books: Books, command: Ask, charged: _ByDataset, now_us: int) -> Drafts:
    due_us = now_us + command.valid_for_us
    run = _new_run(books, command, now_us, due_us=due_us)
    postings = [
        Posting(
            books.datasets[use.dataset_id],
            [account.holding(command.cost) for account in charged[use.dataset_id]],
            {"via": list(use.via)},
        )
        for use in command.uses
    ]
    begin_us = min(now_us + command.begin_within_us, due_us)
    facts = {**_request_facts(command), "start_by": timestamp(due_us), "begin_by": timestamp(begin_us)}
    return write(books, postings, command.actor, "run-approved", facts, run, command.texts)


def _refuse(
    books: Books, command: Ask, charged: _ByDataset, binding: Mapping[UUID, list[Quantity]], now_us: int
) -> Drafts:
    _demand_refusals(books, command, now_us)
    run = _new_run(books, command, now_us, due_us=None)
    postings: list[Posting] = []
    names = sorted(books.datasets[dataset_id].definition.name for dataset_id in binding)
    for use in command.uses:
        others = [name for name in names if name != books.datasets[use.dataset_id].definition.name]
        # All of them in the entry that has the request; in the others only enough to show that the run did not fit.
        needed = others if not postings else others[: 0 if use.dataset_id in binding else 1]
        own = {"via": list(use.via), "binding": binding.get(use.dataset_id, []), "binding_elsewhere": needed}
        postings.append(Posting(books.datasets[use.dataset_id], charged[use.dataset_id], own))
    return write(books, postings, command.actor, "run-refused", _request_facts(command), run, command.texts)


def _new_run(books: Books, command: Ask, now_us: int, *, due_us: int | None) -> Run:
    """Return the run, in the next entry of each of its datasets. due_us: when it must have started; None if refused."""
    is_refused = due_us is None
    return Run(
        id=command.run_id,
        principal_id=command.actor.principal_id,
        state="refused" if is_refused else "held",
        cost=None if is_refused else command.cost,
        created_us=now_us,
        project=command.project,
        ended_us=now_us if is_refused else None,
        due_us=due_us,
        places=tuple([Place(use.dataset_id, books.datasets[use.dataset_id].seq + 1) for use in command.uses]),
    )


def _request_facts(command: Ask) -> dict[str, Any]:
    return {
        "request": command.request,
        "cost": command.cost.facts(),
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
                    f"{name} has no project {project!r}. A steward can give it a share: POST"
                    f" /v1/datasets/{name}/projects."
                ),
                project=project,
                dataset=name,
            )


def binding_quantities(cost: Amount, accounts: Sequence[Account]) -> list[Quantity]:
    """Return the quantities in which a cost is more than what remains in one of these accounts."""
    exceeded = {quantity for account in accounts for quantity in cost.exceeds(account.remaining)}
    quantities: tuple[Quantity, ...] = ("mu", "delta")
    return [quantity for quantity in quantities if quantity in exceeded]


def advance(books: Books, command: OnRun, now_us: int) -> Drafts | Repeat:
    """Start, settle or void a run, or repeat an earlier decision."""
    match command:
        case Start():
            return _start(books, command, now_us)
        case Settle():
            return _settle(books, command, now_us)
        case Void():
            return _void(books, command, now_us)
        case _:
            assert_never(command)


def _start(books: Books, command: Start, now_us: int) -> Drafts | Repeat:
    run = _run(books, command)
    _demand_owner(command.actor, run)
    if run.state == "started":
        return Repeat(run.id, "run-started", {})
    _demand_state(run, "held")
    for dataset_id in command.dataset_ids:
        _demand_active(books.datasets[dataset_id])
    if run.due_us is not None and now_us > run.due_us:
        start_by = timestamp(run.due_us)
        raise RunState(
            ("The run was not started by its `start_by`, so its approval has ended. Void it and ask for a new run."),
            state="held",
            start_by=start_by,
        )
    due_us = now_us + SETTLE_WITHIN_US
    run = replace(run, state="started", started_us=now_us, due_us=due_us)
    begin_us = min(now_us + command.begin_within_us, due_us)
    facts = {"settle_by": timestamp(due_us), "begin_by": timestamp(begin_us)}
    return write(books, _charged(books, command), command.actor, "run-started", facts, run)


def _settle(books: Books, command: Settle, now_us: int) -> Drafts | Repeat:
    run, ruling = _run(books, command), command.ruling
    if ruling is None:
        _demand_owner(command.actor, run)
    if run.state == "settled" and not (ruling is not None and ruling.consent.is_second):
        return Repeat(run.id, "run-settled", command.body)
    _demand_state(run, "started")
    if ruling is None and run.is_reported:
        return Repeat(run.id, "run-reported", command.body)
    if ruling is not None and not run.is_reported:
        raise RunState("The run has no reported number that waits for a steward.", state=run.state)
    cost = _cost(run)
    if command.charged.exceeds(cost):
        raise ArithmeticError(f"run {run.id} was approved for {cost} and is charged {command.charged}")
    if ruling is None and command.excess is not None and (beyond_limits := _beyond_limits(books, command)):
        return _report(books, command, command.excess, beyond_limits, now_us)
    guarded = _correction(books, command)
    if guarded is not None and (proposed := propose_first(books, guarded, now_us)) is not None:
        return proposed
    excess = command.excess
    whole = command.charged if excess is None else command.charged + excess.cost
    charged = _charged(books, command)
    postings = [
        Posting(posting.dataset, [_settled(account, cost, whole) for account in posting.accounts])
        for posting in charged
    ]
    facts: dict[str, Any] = {
        "request": command.body,
        "steps": command.steps,
        "stop": command.stop,
        "charged": whole.facts(),
        "returned": (cost - command.charged).facts(),
        **command.costing,
    }
    if excess is not None:
        postings = [
            _frozen(posting) if _is_beyond(before.accounts, cost, command.charged, excess.cost) else posting
            for before, posting in zip(charged, postings, strict=True)
        ]
        facts["overrun"] = _overrun_facts(excess, postings)
    if ruling is not None:
        facts |= {"report": ruling.says, "reason": ruling.reason}
    if guarded is not None:
        facts |= seconded(books, guarded, now_us)
    _forget_report(books, command)
    run = replace(run, state="settled", ended_us=now_us, due_us=None)
    return write(books, postings, command.actor, "run-settled", facts, run)


def _beyond_limits(books: Books, command: Settle) -> list[str]:
    """Return the datasets that have an account whose whole limit an overrun exceeds, so that no budget there could
    cover it."""
    excess = command.excess
    if excess is None:
        return []
    return sorted(
        posting.dataset.definition.name
        for posting in _charged(books, command)
        if any(excess.cost.exceeds(account.limit) for account in posting.accounts if account.key.principal_id is None)
    )


def _report(books: Books, command: Settle, excess: Excess, beyond_limits: list[str], now_us: int) -> Drafts:
    """Record a number that may be a mistake and would end a dataset for good. Nothing is charged or given back: every
    dataset of the run is frozen until a steward has confirmed or corrected the number."""
    postings = [_frozen(posting) for posting in _charged(books, command)]
    facts = {
        "request": command.body,
        "steps": command.steps,
        "stop": command.stop,
        "overrun": {**_overrun_facts(excess, postings), "beyond_limits": beyond_limits},
    }
    for dataset_id in command.dataset_ids:
        books.reported[dataset_id] = books.reported.get(dataset_id, frozenset()) | {command.run_id}
    run = replace(_run(books, command), reported_us=now_us)
    return write(books, postings, command.actor, "run-reported", facts, run)


def _correction(books: Books, command: Settle) -> Guarded | None:
    """Replace a reported number with another one, which needs two people."""
    if command.ruling is None or command.ruling.says != "corrected":
        return None
    facts = {"request": command.body, "report": "corrected", "reason": command.ruling.reason}
    unchanged = [Posting(posting.dataset) for posting in _charged(books, command)]
    return Guarded("correction", True, facts, command.actor, command.ruling.consent, unchanged, run_id=command.run_id)


def _forget_report(books: Books, command: OnRun) -> None:
    for dataset_id in command.dataset_ids:
        if dataset_id in books.reported:
            books.reported[dataset_id] -= {command.run_id}


def _overrun_facts(excess: Excess, postings: Sequence[Posting]) -> dict[str, Any]:
    overdrawn = sorted(posting.dataset.definition.name for posting in postings if "state" in posting.own)
    return {
        "steps": excess.steps,
        "repeated": excess.repeated,
        "cost": excess.cost.facts(),
        "fits": not overdrawn,
        "frozen": overdrawn,
        **excess.costing,
    }


def _settled(account: Account, cost: Amount, charged: Amount) -> Account:
    """Return the account after a run of this cost was charged this much. If that is more than fits, it is overdrawn."""
    account = replace(account, held=account.held - cost)
    if account.key.principal_id is not None:
        return account
    account = replace(account, spent=(account.spent + charged).saturated)
    return replace(account, overdrawn=account.overdrawn.most(beyond(account)))


def _is_beyond(accounts: Sequence[Account], cost: Amount, charged: Amount, excess: Amount) -> bool:
    """Return whether an overrun does not fit in one of these accounts, once the run itself is settled there: the same
    question as for a new run. A change of `overdrawn` would not show it if the balance is saturated."""
    settled = [_settled(account, cost, charged) for account in accounts if account.key.principal_id is None]
    return any(excess.exceeds(account.remaining) for account in settled)


def _frozen(posting: Posting) -> Posting:
    """Freeze the dataset for a steward if an overrun did not fit."""
    state = posting.dataset.state if posting.dataset.state == "retired" else "frozen"
    return Posting(replace(posting.dataset, state=state), posting.accounts, {**posting.own, "state": state})


def _void(books: Books, command: Void, now_us: int) -> Drafts | Repeat:
    run = _run(books, command)
    if run.state == "voided" and not command.consent.is_second:
        return Repeat(run.id, "run-voided", command.body)
    if run.state == "started":
        if command.actor.role not in ("steward", "admin"):
            raise Forbidden("The run has started. Only a steward can void it, by stating that nobody saw its output.")
    else:
        _demand_state(run, "held")
        if command.actor.role != "steward":
            _demand_owner(command.actor, run)
    cost = _cost(run)
    charged = _charged(books, command)
    unchanged = [Posting(posting.dataset) for posting in charged]
    is_started = run.state == "started"
    proposed_facts = {"request": command.body}
    guarded = Guarded("void", is_started, proposed_facts, command.actor, command.consent, unchanged, run_id=run.id)
    if (proposed := propose_first(books, guarded, now_us)) is not None:
        return proposed
    postings = [
        Posting(posting.dataset, [replace(account, held=account.held - cost) for account in posting.accounts])
        for posting in charged
    ]
    run = replace(run, state="voided", ended_us=now_us, due_us=None)
    facts = {"request": command.body, "returned": cost.facts(), **seconded(books, guarded, now_us)}
    _forget_report(books, command)
    return write(books, postings, command.actor, "run-voided", facts, run)


def _charged(books: Books, command: OnRun) -> list[Posting]:
    return [
        Posting(books.datasets[dataset_id], [books.accounts[key] for key in keys])
        for dataset_id, keys in command.charges.items()
    ]


def _run(books: Books, command: OnRun) -> Run:
    run = books.runs.get(command.run_id)
    if run is None:
        raise NotFound("No run has this id, or your key may not see it.")
    return run


def _cost(run: Run) -> Amount:
    if run.cost is None:
        raise ArithmeticError(f"run {run.id} is {run.state} and has no cost")
    return run.cost


def _demand_active(dataset: Dataset) -> None:
    if dataset.state != "active":
        raise DatasetFrozen(
            f"The dataset is {dataset.state}. Runs are approved and started only on an active dataset.",
            dataset=dataset.definition.name,
            state=dataset.state,
        )


def _demand_rate(books: Books, actor: Actor, dataset: Dataset, now_us: int) -> None:
    most = dataset.fair_use.runs_per_hour
    if most is None:
        return
    recent = [at for at in books.recent.get((dataset.id, actor.principal_id), ()) if at > now_us - HOUR_US]
    if len(recent) >= most:
        name = dataset.definition.name
        raise RateLimited(
            f"One principal may ask for at most {most} runs an hour on {name}. Try again after `retry_after_seconds`.",
            retry_after_seconds=1 + (recent[-most] + HOUR_US - now_us) // 1_000_000,
            dataset=name,
            runs_per_hour=most,
        )


def _demand_refusals(books: Books, command: Ask, now_us: int) -> None:
    """Limit the refusals of one principal: each is kept for good in the journal of every dataset that it reaches."""
    who, most = command.actor.principal_id, command.refusals_per_hour
    recent = [at for at in books.refusals.get(who, ()) if at > now_us - HOUR_US]
    if len(recent) >= most:
        raise RateLimited(
            (
                f"The run does not fit, and was not recorded: {most} runs of this principal were refused within"
                " the last hour, the most that are recorded. Find out what fits with POST /v1/evaluate, or ask"
                " again later."
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


def _demand_state(run: Run, needed: str) -> None:
    if run.state != needed:
        raise RunState(f"The run is {run.state}. Only a {needed} run allows this.", state=run.state)


def _demand_owner(actor: Actor, run: Run) -> None:
    if actor.role != "admin" and actor.principal_id != run.principal_id:
        raise Forbidden("Only the principal that asked for the run, or an admin, may do this.")

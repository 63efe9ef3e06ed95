"""The decision: locked books and a group of commands in, new books and what came of each command out. No I/O.

A run charges a set of accounts, all or none. It is approved when, in each of them and in both quantities, what is spent
and held and what it asks for stay within the limit. The limit is fixed beforehand and the cost is fixed before the run
sees data, which makes this sum a privacy filter: it stays valid when later runs are chosen by what earlier ones showed
(Smith & Thakurta 2022; Koskela, Tobaben & Honkela 2023; for runs at the same time Haney et al. 2023). That the delta
part may be summed in the same way is this project's own argument; both are written out in docs/accounting.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, assert_never
from uuid import UUID

from ledger.core.amounts import (
    ZERO,
    Account,
    AccountKey,
    Actor,
    AddPartitions,
    Amount,
    Ask,
    Batch,
    Books,
    Change,
    Command,
    Consent,
    Dataset,
    Draft,
    OnRun,
    Place,
    Project,
    Proposal,
    ProposalKind,
    Quantity,
    RefuseProposal,
    Register,
    Run,
    SetBudget,
    SetFairUse,
    SetProject,
    Settle,
    Single,
    Start,
    Use,
    Void,
    Wanted,
    timestamp,
)
from ledger.errors import (
    BatchRefused,
    BudgetBelowSpent,
    DatasetFrozen,
    Forbidden,
    InvalidRequest,
    LedgerError,
    NameTaken,
    NotFound,
    PartitionsClosed,
    ProposalState,
    RateLimited,
    RunState,
    TooLarge,
)

SETTLE_WITHIN_US: Final = 30 * 86_400 * 1_000_000
"""How long after its start a run may go unsettled before it is listed as overdue. It goes on counting in full."""
HOUR_US: Final = 3_600 * 1_000_000
PARTITIONS_MAX: Final = 4096
"""Of one dataset: a run may charge all of them, and its entry names them."""
PROJECTS_MAX: Final = 1000
DAY_US: Final = 24 * HOUR_US
"""How long a second person has to approve what takes two."""
PROPOSALS_MAX: Final = 100
"""Open at the same time, of one dataset."""
NAMED_MAX: Final = 20
"""How many accounts an error of a steward's names."""

Drafts = tuple[Draft, ...]
"""The entries that a command leaves: one in the journal of each dataset that it touches."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """The command was carried out before; the answer is the entries of this kind that the run already has."""

    run_id: UUID
    kind: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """A refusal that leaves nothing, because the batch that it belongs to is refused as a whole."""

    drafts: Drafts


@dataclass(frozen=True, slots=True)
class Batched:
    """What came of a batch's runs, in order."""

    outcomes: tuple[Drafts | Unrecorded | LedgerError, ...]


Outcome = Drafts | Repeat | Batched | LedgerError


def decide(books: Books, commands: Sequence[Command], *, now_us: int) -> tuple[Books, list[Outcome]]:
    """Decides the commands one after another, each on what those before it left.

    `books` holds all that `wanted` names, read under the datasets' locks; what is not in it does not exist. Returns the
    books afterwards and one outcome for each command, in order: the journal entries it leaves, the entries it repeats,
    what came of a batch, or the error, which leaves nothing.
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


def wanted(commands: Iterable[Command]) -> dict[UUID, Wanted]:
    """What the books have to hold to decide these commands, by dataset."""
    found: dict[UUID, Wanted] = {}
    for command in commands:
        for dataset_id in command.dataset_ids:
            of_it = found.setdefault(dataset_id, Wanted())
            of_it.is_guarded |= isinstance(command, SetBudget | Change | Void | RefuseProposal)
        match command:
            case SetBudget() | AddPartitions():
                # All: each gets the new limit; how many there are is bounded.
                found[command.dataset_id].add_partitions(None)
            case SetProject():
                found[command.dataset_id].add_partitions(None)
                found[command.dataset_id].projects.add(command.project)
                found[command.dataset_id].is_every_project = True
            case Ask():
                _want_uses(found, command.uses, project=command.project, principal_id=command.actor.principal_id)
            case Batch():
                for ask in command.asks:
                    _want_uses(found, ask.uses, project=ask.project, principal_id=ask.actor.principal_id)
            case Start() | Settle() | Void():
                _want_charges(found, command)
            case Register() | Change() | SetFairUse() | RefuseProposal():
                pass
            case _:
                assert_never(command)
    return found


def wanted_uses(uses: Iterable[Use], *, project: str | None, principal_id: UUID) -> dict[UUID, Wanted]:
    """What `charged_accounts` has to see of these datasets."""
    found = {use.dataset_id: Wanted() for use in uses}
    _want_uses(found, uses, project=project, principal_id=principal_id)
    return found


def _want_uses(found: dict[UUID, Wanted], uses: Iterable[Use], *, project: str | None, principal_id: UUID) -> None:
    for use in uses:
        found[use.dataset_id].add_partitions(use.partitions)
        found[use.dataset_id].principals.add(principal_id)
        if project is not None:
            found[use.dataset_id].projects.add(project)


def _want_charges(found: dict[UUID, Wanted], command: OnRun) -> None:
    for dataset_id, keys in command.charges.items():
        for key in keys:
            if key.partition is not None:
                found[dataset_id].add_partitions([key.partition])
            if key.project is not None:
                found[dataset_id].projects.add(key.project)
            if key.principal_id is not None:
                found[dataset_id].principals.add(key.principal_id)


def _apply(books: Books, command: Single, now_us: int) -> Drafts | Repeat:
    """Changes `books` only as its last act, so that an error leaves nothing behind."""
    if any(dataset_id not in books.datasets for dataset_id in command.dataset_ids):
        raise NotFound("There is no such dataset.")
    match command:
        case Start() | Settle() | Void():
            return _advance(books, command, now_us)
        case Register():
            return _register(books, command, now_us)
        case Change():
            return _change(books, command, now_us)
        case SetBudget():
            return _set_budget(books, command, now_us)
        case AddPartitions():
            return _add_partitions(books, command)
        case SetProject():
            return _set_project(books, command)
        case SetFairUse():
            return _set_fair_use(books, command)
        case Ask():
            return _ask(books, command, now_us)
        case RefuseProposal():
            return _refuse_proposal(books, command, now_us)
        case _:
            assert_never(command)


def _batch(books: Books, batch: Batch, now_us: int) -> tuple[Books, Batched]:
    """Its runs one after another. All or none is decided on a copy, which is thrown away where one does not fit."""
    tried = books.copy() if batch.is_atomic else books
    outcomes: list[Drafts | LedgerError] = []
    for ask in batch.asks:
        try:
            decided = _apply(tried, ask, now_us)
            outcomes.append(decided if isinstance(decided, tuple) else RunState())
        except LedgerError as error:
            outcomes.append(error)
    if not batch.is_atomic or (not batch.is_spoilt and all(map(_is_approval, outcomes))):
        return tried, Batched(tuple(outcomes))
    return books, Batched(tuple(map(_unrecorded, outcomes)))


def _is_approval(outcome: Drafts | LedgerError) -> bool:
    return not isinstance(outcome, LedgerError) and outcome[0].kind == "run-approved"


def _unrecorded(outcome: Drafts | LedgerError) -> Unrecorded | LedgerError:
    if isinstance(outcome, LedgerError):
        return outcome
    return BatchRefused("It fits; others of its batch do not.") if _is_approval(outcome) else Unrecorded(outcome)


# --- datasets --------------------------------------------------------------------------------------------------------


def _register(books: Books, command: Register, now_us: int) -> Drafts:
    definition = command.definition
    dataset = replace(books.datasets[definition.id], created_us=now_us)
    new: list[Account] = []
    if command.limit is not None:
        names = command.partitions if definition.is_partitioned else (None,)
        new = [Account(AccountKey(dataset.id, name), command.limit) for name in names]
    facts = {
        "title": command.title,
        "description": command.description,
        "privacy_unit": definition.privacy_unit,
        "adjacency": definition.adjacency,
        "bound": definition.bound,
        "size": definition.size,
        "budget": command.budget,
        "limit": None if command.limit is None else command.limit.facts(),
        "is_partitioned": definition.is_partitioned,
        "derived_from": [
            {"id": str(parent.id), "name": parent.name, "unit_preserving": True} for parent in definition.derived_from
        ],
        "state": dataset.state,
    }
    if definition.ceiling is not None:
        facts |= {"ceiling": command.ceiling, "ceiling_limit": definition.ceiling.facts()}
    books.partitions[dataset.id] = command.partitions
    return _write(books, [_Touched(dataset, new)], command.actor, "dataset-registered", facts)


def _change(books: Books, command: Change, now_us: int) -> Drafts:
    dataset = books.datasets[command.dataset_id]
    if dataset.state == "retired" and command.state not in (None, "retired"):
        raise DatasetFrozen("A retired dataset stays retired.", dataset=dataset.definition.name, state="retired")
    asked: dict[str, Any] = {"state": command.state, "title": command.title, "description": command.description}
    changed = {name: value for name, value in asked.items() if value is not None}
    facts = {**changed, **({"reason": command.reason} if command.reason is not None else {})}
    is_thaw = command.state == "active" and dataset.state != "active" and dataset.id in books.overdrawn
    asked_two = _Guarded("thaw", is_thaw, facts, command.actor, command.consent, [_Touched(dataset)])
    if (proposed := _proposed(books, asked_two, now_us)) is not None:
        return proposed
    facts |= _seconded(books, asked_two, now_us)
    return _write(books, [_Touched(replace(dataset, **changed))], command.actor, "dataset-changed", facts)


def _set_budget(books: Books, command: SetBudget, now_us: int) -> Drafts:
    dataset = books.datasets[command.dataset_id]
    definition, before = dataset.definition, dataset.limit
    if before is None:
        raise InvalidRequest(
            "budget: this dataset was registered without one of its own; its runs charge what it is derived from",
            field="budget",
        )
    if definition.ceiling is not None and (above := command.limit.exceeds(definition.ceiling)):
        raise InvalidRequest(
            "budget: is above the ceiling that was set when the dataset was registered",
            field="budget",
            quantities=above,
            limit=command.limit,
            ceiling=definition.ceiling,
        )
    changed = _with_limit(dataset, _base_accounts(books, dataset), command.limit)
    facts = {
        "budget": command.budget,
        "limit": command.limit.facts(),
        "limit_before": before.facts(),
        "reason": command.reason,
    }
    is_raise = bool(command.limit.exceeds(before))
    asked_two = _Guarded("budget", is_raise, facts, command.actor, command.consent, [_Touched(dataset)])
    if (proposed := _proposed(books, asked_two, now_us)) is not None:
        return proposed
    facts |= _seconded(books, asked_two, now_us)
    dataset = replace(dataset, budget=command.budget, limit=command.limit)
    return _write(books, [_Touched(dataset, changed)], command.actor, "budget-set", facts)


def _base_accounts(books: Books, dataset: Dataset) -> list[Account]:
    """The accounts that the dataset's own budget is counted in."""
    names = books.partitions.get(dataset.id, ()) if dataset.definition.is_partitioned else (None,)
    return [books.accounts[AccountKey(dataset.id, name)] for name in names]


def _with_limit(dataset: Dataset, accounts: Sequence[Account], limit: Amount) -> list[Account]:
    """These accounts with a new limit. Raises BudgetBelowSpent, naming those in which more is committed."""
    over = [account for account in accounts if (account.spent + account.held).exceeds(limit)]
    if not over:
        return [replace(account, limit=limit) for account in accounts]
    fullest = max(over, key=lambda account: (account.spent + account.held).mu_sq_pico)
    raise BudgetBelowSpent(
        dataset=dataset.definition.name,
        quantities=[
            quantity
            for quantity in ("mu", "delta")
            if any(quantity in (account.spent + account.held).exceeds(limit) for account in over)
        ],
        limit=limit,
        spent=fullest.spent,
        held=fullest.held,
        accounts=[account.key.facts() for account in over if account.key.facts()][:NAMED_MAX],
        accounts_over=len(over),
    )


def _add_partitions(books: Books, command: AddPartitions) -> Drafts:
    dataset = books.datasets[command.dataset_id]
    name = dataset.definition.name
    if not dataset.definition.is_partitioned or dataset.limit is None:
        raise PartitionsClosed(dataset=name)
    if dataset.state == "retired":
        raise DatasetFrozen("A retired dataset stays retired.", dataset=name, state="retired")
    there = books.partitions[dataset.id]
    taken = sorted(set(there).intersection(command.names))
    if taken:
        raise NameTaken(f"There is a partition {taken[0]!r} already.", dataset=name, partition=taken[0])
    if len(there) + len(command.names) > PARTITIONS_MAX:
        raise TooLarge(f"names: a dataset has at most {PARTITIONS_MAX} partitions", field="names", there=len(there))
    new = [Account(AccountKey(dataset.id, partition), dataset.limit) for partition in command.names]
    facts = {"names": list(command.names), "disjoint": True, "limit": dataset.limit.facts()}
    books.partitions[dataset.id] = (*there, *command.names)
    return _write(books, [_Touched(dataset, new)], command.actor, "partitions-added", facts)


def _set_project(books: Books, command: SetProject) -> Drafts:
    dataset = books.datasets[command.dataset_id]
    before = books.projects.get((dataset.id, command.project))
    if before is None and sum(of == dataset.id for of, _ in books.projects) >= PROJECTS_MAX:
        raise TooLarge(f"A dataset has at most {PROJECTS_MAX} projects.", projects_max=PROJECTS_MAX)
    accounts = [
        account
        for key, account in books.accounts.items()
        if key.dataset_id == dataset.id and key.project == command.project
    ]
    changed = _with_limit(dataset, accounts, command.limit)
    facts = {
        "project": command.project,
        "budget": command.budget,
        "limit": command.limit.facts(),
        "limit_before": None if before is None else before.limit.facts(),
        **({"reason": command.reason} if command.reason is not None else {}),
    }
    project = Project(dataset.id, command.project, command.budget, command.limit)
    books.projects[dataset.id, command.project] = project
    return _write(books, [_Touched(dataset, changed)], command.actor, "project-set", facts)


def _set_fair_use(books: Books, command: SetFairUse) -> Drafts:
    dataset = replace(books.datasets[command.dataset_id], fair_use=command.fair_use)
    facts = {"fair_use": command.fair_use.facts(), "reason": command.reason}
    return _write(books, [_Touched(dataset)], command.actor, "fair-use-set", facts)


# --- runs ------------------------------------------------------------------------------------------------------------


def _ask(books: Books, command: Ask, now_us: int) -> Drafts:
    for dataset_id in command.dataset_ids:
        _demand_active(books.datasets[dataset_id])
        _demand_rate(books, command.actor, dataset_id, now_us)
    demand_project(books, command.uses, command.project)
    charged = {
        use.dataset_id: charged_accounts(books, use, project=command.project, principal_id=command.actor.principal_id)
        for use in command.uses
    }
    binding = {
        dataset_id: bound
        for dataset_id, accounts in charged.items()
        if (bound := binding_quantities(command.cost, accounts))
    }
    run = Run(
        id=command.run_id,
        principal_id=command.actor.principal_id,
        state="refused" if binding else "held",
        cost=None if binding else command.cost,
        created_us=now_us,
        project=command.project,
        ended_us=now_us if binding else None,
        due_us=None if binding else now_us + command.valid_for_us,
        places=tuple(Place(dataset_id, books.datasets[dataset_id].seq + 1) for dataset_id in charged),
    )
    facts = {
        "request": command.request,
        "cost": command.cost.facts(),
        "idempotency_key": command.claim.key,
        **({"project": command.project} if command.project is not None else {}),
        **command.costing,
    }
    own: dict[UUID, dict[str, Any]] = {use.dataset_id: {"via": list(use.via)} for use in command.uses}
    if binding:
        kind = "run-refused"
        for dataset_id, said in own.items():
            others = [books.datasets[other].definition.name for other in binding if other != dataset_id]
            said |= {"binding": binding.get(dataset_id, []), "binding_elsewhere": sorted(others)}
    else:
        kind = "run-approved"
        facts |= {"start_by": timestamp(now_us + command.valid_for_us)}
        charged = {
            dataset_id: [replace(account, held=account.held + command.cost) for account in accounts]
            for dataset_id, accounts in charged.items()
        }
    touched = [_Touched(books.datasets[id_], accounts, own[id_]) for id_, accounts in charged.items()]
    _count(books, command, now_us)
    return _write(books, touched, command.actor, kind, facts, run)


def charged_accounts(books: Books, use: Use, *, project: str | None, principal_id: UUID) -> list[Account]:
    """The accounts of one dataset that a run charges. One that nobody charged before begins with nothing in it.

    Raises NotFound for a partition that there is not, and InvalidRequest where there is none yet.
    """
    dataset = books.datasets[use.dataset_id]
    found: list[Account] = []
    for partition in _scopes(books, dataset, use):
        key = AccountKey(dataset.id, partition)
        if dataset.limit is not None:
            found.append(books.accounts[key])
        share = books.projects.get((dataset.id, project)) if project is not None else None
        if share is not None:
            key = AccountKey(dataset.id, partition, share.name)
            found.append(books.accounts.get(key, Account(key, share.limit)))
        if dataset.fair_use.held is not None:
            key = AccountKey(dataset.id, partition, None, principal_id)
            account = books.accounts.get(key, Account(key, dataset.fair_use.held))
            # A limit that was lowered below what somebody holds takes effect as that shrinks.
            found.append(replace(account, limit=dataset.fair_use.held.most(account.held)))
    return found


def _scopes(books: Books, dataset: Dataset, use: Use) -> Sequence[str | None]:
    if not dataset.definition.is_partitioned:
        return (None,)
    name = dataset.definition.name
    if use.partitions is None:
        if not books.partitions[dataset.id]:
            raise InvalidRequest(f"datasets: {name} has no partitions yet", field="datasets", dataset=name)
        return sorted(books.partitions[dataset.id])
    for partition in use.partitions:
        if AccountKey(dataset.id, partition) not in books.accounts:
            raise NotFound(f"{name} has no partition {partition!r}.", dataset=name, partition=partition)
    return sorted(use.partitions)


def demand_project(books: Books, uses: Sequence[Use], project: str | None) -> None:
    """Raises NotFound where a dataset was named of which the project has no share, there or where it comes from."""
    if project is None:
        return
    limited = {name for use in uses if (use.dataset_id, project) in books.projects for name in use.via}
    for name in (name for use in uses for name in use.via):
        if name not in limited:
            raise NotFound(f"There is no project {project!r} of {name}.", project=project, dataset=name)


def binding_quantities(cost: Amount, accounts: Sequence[Account]) -> list[Quantity]:
    """The quantities in which a cost is more than what is left of one of these accounts."""
    exceeded = {quantity for account in accounts for quantity in cost.exceeds(account.remaining)}
    quantities: tuple[Quantity, ...] = ("mu", "delta")
    return [quantity for quantity in quantities if quantity in exceeded]


def _advance(books: Books, command: OnRun, now_us: int) -> Drafts | Repeat:
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
            "The approval was to be used by start_by; void it and ask again.", state="held", start_by=start_by
        )
    due_us = now_us + SETTLE_WITHIN_US
    run = replace(run, state="started", started_us=now_us, due_us=due_us)
    facts = {"settle_by": timestamp(due_us)}
    return _write(books, _charged(books, command), command.actor, "run-started", facts, run)


def _settle(books: Books, command: Settle, now_us: int) -> Drafts | Repeat:
    run = _run(books, command)
    _demand_owner(command.actor, run)
    if run.state == "settled":
        return Repeat(run.id, "run-settled", command.body)
    _demand_state(run, "started")
    cost = _cost(run)
    if command.charged.exceeds(cost):
        raise ArithmeticError(f"run {run.id} was approved for {cost} and is charged {command.charged}")
    whole = command.charged if command.excess is None else command.charged + command.excess.cost
    touched = [
        _Touched(each.dataset, [_settled(account, cost, whole) for account in each.accounts])
        for each in _charged(books, command)
    ]
    facts: dict[str, Any] = {
        "request": command.body,
        "steps": command.steps,
        "stop": command.stop,
        "charged": whole.facts(),
        "returned": (cost - command.charged).facts(),
    }
    if command.excess is not None:
        excess = command.excess
        touched = [
            _frozen(each) if _is_beyond(before.accounts, cost, command.charged, excess.cost) else each
            for before, each in zip(_charged(books, command), touched, strict=True)
        ]
        overdrawn = sorted(each.dataset.definition.name for each in touched if "state" in each.own)
        facts["overrun"] = {
            "steps": excess.steps,
            "cost": excess.cost.facts(),
            "fits": not overdrawn,
            "frozen": overdrawn,
            **excess.costing,
        }
    run = replace(run, state="settled", ended_us=now_us, due_us=None)
    return _write(books, touched, command.actor, "run-settled", facts, run)


def _settled(account: Account, cost: Amount, charged: Amount) -> Account:
    """The account after a run of this cost was charged this much. Where more was spent than fits, it is overdrawn."""
    account = replace(account, held=account.held - cost)
    if account.key.principal_id is not None:
        return account
    account = replace(account, spent=(account.spent + charged).saturated)
    return replace(account, overdrawn=account.overdrawn.most(_beyond(account)))


def _is_beyond(accounts: Sequence[Account], cost: Amount, charged: Amount, excess: Amount) -> bool:
    """Whether an overrun does not fit in one of these accounts, once the run itself is settled there: the same question
    as for a new run. That an account is overdrawn further would not tell, where its balance is saturated."""
    settled = [_settled(account, cost, charged) for account in accounts if account.key.principal_id is None]
    return any(excess.exceeds(account.remaining) for account in settled)


def _frozen(touched: _Touched) -> _Touched:
    """Where an overrun did not fit, the dataset waits for a steward."""
    state = touched.dataset.state if touched.dataset.state == "retired" else "frozen"
    return _Touched(replace(touched.dataset, state=state), touched.accounts, {**touched.own, "state": state})


def _void(books: Books, command: Void, now_us: int) -> Drafts | Repeat:
    run = _run(books, command)
    if run.state == "voided" and not command.consent.is_second:
        return Repeat(run.id, "run-voided", command.body)
    if run.state == "started":
        if command.actor.role not in ("steward", "admin"):
            raise Forbidden("Once a run has started, only a steward can say that no output was ever seen.")
    else:
        _demand_state(run, "held")
        if command.actor.role != "steward":
            _demand_owner(command.actor, run)
    cost = _cost(run)
    charged = _charged(books, command)
    untouched = [_Touched(each.dataset) for each in charged]
    is_started = run.state == "started"
    said = {"request": command.body}
    asked_two = _Guarded("void", is_started, said, command.actor, command.consent, untouched, run_id=run.id)
    if (proposed := _proposed(books, asked_two, now_us)) is not None:
        return proposed
    touched = [
        _Touched(each.dataset, [replace(account, held=account.held - cost) for account in each.accounts])
        for each in charged
    ]
    run = replace(run, state="voided", ended_us=now_us, due_us=None)
    facts = {"request": command.body, "returned": cost.facts(), **_seconded(books, asked_two, now_us)}
    return _write(books, touched, command.actor, "run-voided", facts, run)


def _charged(books: Books, command: OnRun) -> list[_Touched]:
    return [
        _Touched(books.datasets[dataset_id], [books.accounts[key] for key in keys])
        for dataset_id, keys in command.charges.items()
    ]


# --- what takes two people -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Guarded:
    """Something that a tenant's policy can ask a second person for.

    is_loosening: whether it is of that kind at all. body: what it would say. touched: whose journals tell of it.
    """

    kind: ProposalKind
    is_loosening: bool
    body: Mapping[str, Any]
    actor: Actor
    consent: Consent
    touched: Sequence[_Touched]
    run_id: UUID | None = None


def _proposed(books: Books, asked: _Guarded, now_us: int) -> Drafts | None:
    """The entries that propose it, where it takes a second person who has not spoken yet."""
    if asked.consent.is_second or not (asked.is_loosening and books.takes_two):
        return None
    first = asked.touched[0].dataset.id
    is_open = [each for each in books.proposals.values() if each.state == "open" and each.expires_us > now_us]
    if sum(each.dataset_id == first for each in is_open) >= PROPOSALS_MAX:
        raise TooLarge(f"At most {PROPOSALS_MAX} proposals of a dataset are open at once.", proposals_max=PROPOSALS_MAX)
    proposal = Proposal(
        id=asked.consent.proposal_id,
        kind=asked.kind,
        dataset_id=first,
        run_id=asked.run_id,
        principal_id=asked.actor.principal_id,
        body={"request": asked.body, "by": asked.actor.facts()},
        state="open",
        created_us=now_us,
        expires_us=now_us + DAY_US,
    )
    books.proposals[proposal.id] = proposal
    facts = {
        "proposal": str(proposal.id),
        "what": proposal.kind,
        "proposes": asked.body,
        "approve_by": timestamp(proposal.expires_us),
        **({"about_run": str(asked.run_id)} if asked.run_id is not None else {}),
    }
    return _write(books, asked.touched, asked.actor, "change-proposed", facts)


def _seconded(books: Books, asked: _Guarded, now_us: int) -> dict[str, Any]:
    """What the entry says of the one who proposed it, where it was. Raises Forbidden for one person as both."""
    if not asked.consent.is_second:
        return {}
    proposal = _open_proposal(books, asked.consent.proposal_id, asked.actor, now_us)
    if (proposal.kind, proposal.dataset_id, proposal.run_id) != (
        asked.kind,
        asked.touched[0].dataset.id,
        asked.run_id,
    ):
        raise ArithmeticError(f"proposal {proposal.id} is of something else")
    books.proposals[proposal.id] = replace(proposal, state="approved")
    return {
        "proposal": {
            "id": str(proposal.id),
            "by": proposal.body["by"],
            "at": timestamp(proposal.created_us),
        }
    }


def _open_proposal(books: Books, proposal_id: UUID, actor: Actor, now_us: int) -> Proposal:
    proposal = books.proposals.get(proposal_id)
    if proposal is None:  # only those are read that are open
        raise ProposalState()
    if proposal.state != "open" or proposal.expires_us <= now_us:
        state = proposal.state if proposal.state != "open" else "expired"
        raise ProposalState(f"The proposal is {state}.", state=state)
    if proposal.principal_id == actor.principal_id:
        raise Forbidden("A second person has to say yes or no to a proposal.")
    return proposal


def _refuse_proposal(books: Books, command: RefuseProposal, now_us: int) -> Drafts:
    proposal = _open_proposal(books, command.proposal_id, command.actor, now_us)
    books.proposals[proposal.id] = replace(proposal, state="refused")
    touched = [_Touched(books.datasets[dataset_id]) for dataset_id in command.dataset_ids]
    facts = {"proposal": str(proposal.id), "what": proposal.kind, "reason": command.reason}
    return _write(books, touched, command.actor, "proposal-refused", facts)


# --- shared ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Touched:
    """A dataset as it becomes, with the accounts that a command touches there, and what its entry alone says."""

    dataset: Dataset
    accounts: Sequence[Account] = ()
    own: Mapping[str, Any] = field(default_factory=dict)


def _write(
    books: Books,
    touched: Sequence[_Touched],
    actor: Actor,
    kind: str,
    facts: Mapping[str, Any],
    run: Run | None = None,
) -> Drafts:
    """Puts the new rows into the books and drafts the entries that say so. The one place where `seq` moves."""
    changed = [[_checked(account) for account in each.accounts] for each in touched]
    drafts: list[Draft] = []
    for each, accounts in zip(touched, changed, strict=True):
        dataset = replace(each.dataset, seq=each.dataset.seq + 1)
        books.datasets[dataset.id] = dataset
        books.accounts.update((account.key, account) for account in accounts)
        draft = Draft(
            dataset_id=dataset.id,
            dataset=dataset.definition.name,
            seq=dataset.seq,
            kind=kind,
            actor=actor.facts(),
            facts={**facts, **each.own, **_balances(books, dataset, accounts)},
            run_id=None if run is None else run.id,
        )
        drafts.append(draft)
    if run is not None:
        books.runs[run.id] = run
    return tuple(drafts)


def _balances(books: Books, dataset: Dataset, accounts: Sequence[Account]) -> dict[str, Any]:
    """What an entry says of balances: `balance`, of the dataset's own account, and `accounts`, of the others that it
    touches, together where they are alike, so that a thousand partitions with one balance are a list of names."""
    own = books.accounts.get(AccountKey(dataset.id))
    said: dict[str, Any] = {} if own is None else {"balance": own.facts()}
    groups: dict[Account, list[str]] = {}
    for account in accounts:
        if account.key != AccountKey(dataset.id):
            alike = replace(account, key=account.key._replace(partition=None))
            groups.setdefault(alike, []).extend([account.key.partition] if account.key.partition is not None else [])
    if groups:
        said["accounts"] = [
            {
                **({"partitions": sorted(names)} if names else {}),
                **alike.key.facts(),
                **alike.facts(),
            }
            for alike, names in groups.items()
        ]
    return said


def _beyond(account: Account) -> Amount:
    """How much more is spent and held than the limit."""
    return (account.spent + account.held - account.limit).most(ZERO)


def _checked(account: Account) -> Account:
    """The invariant, before anything is written; the database holds it once more in a constraint. What was overdrawn
    counts as that no longer than it is needed."""
    account = replace(account, overdrawn=account.overdrawn.least(_beyond(account)))
    parts = (account.limit, account.spent, account.held, account.overdrawn)
    if not all(part.fits_int64 for part in parts):
        raise ArithmeticError(f"an amount is negative or past 2^63 - 1: {account}")
    if (account.spent + account.held).exceeds(account.limit + account.overdrawn):
        raise ArithmeticError(f"more spent and held than the limit allows: {account}")
    return account


def _run(books: Books, command: OnRun) -> Run:
    run = books.runs.get(command.run_id)
    if run is None:
        raise NotFound("There is no such run.")
    return run


def _cost(run: Run) -> Amount:
    if run.cost is None:
        raise ArithmeticError(f"run {run.id} is {run.state} and has no cost")
    return run.cost


def _demand_active(dataset: Dataset) -> None:
    if dataset.state != "active":
        raise DatasetFrozen(f"The dataset is {dataset.state}.", dataset=dataset.definition.name, state=dataset.state)


def _demand_rate(books: Books, actor: Actor, dataset_id: UUID, now_us: int) -> None:
    most = books.datasets[dataset_id].fair_use.runs_per_hour
    if most is None:
        return
    recent = [at for at in books.recent.get((dataset_id, actor.principal_id), ()) if at > now_us - HOUR_US]
    if len(recent) >= most:
        name = books.datasets[dataset_id].definition.name
        raise RateLimited(
            f"One principal may ask for {most} runs an hour on {name}.",
            retry_after_seconds=1 + (recent[-most] + HOUR_US - now_us) // 1_000_000,
            dataset=name,
            runs_per_hour=most,
        )


def _count(books: Books, command: Ask, now_us: int) -> None:
    for dataset_id in command.dataset_ids:
        if books.datasets[dataset_id].fair_use.runs_per_hour is not None:
            key = dataset_id, command.actor.principal_id
            books.recent[key] = (*books.recent.get(key, ()), now_us)


def _demand_state(run: Run, needed: str) -> None:
    if run.state != needed:
        raise RunState(f"The run is {run.state}; only a {needed} run allows that.", state=run.state)


def _demand_owner(actor: Actor, run: Run) -> None:
    if actor.role != "admin" and actor.principal_id != run.principal_id:
        raise Forbidden("Only the principal that asked for a run may do that.")

"""Decisions about datasets: registering, budgets, partitions, projects, fair use."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from ledger.core.amounts import ZERO, Amount
from ledger.core.books import Books
from ledger.core.commands import AddPartitions, Change, Lost, OnDataset, Register, SetBudget, SetFairUse, SetProject
from ledger.core.datasets import Account, AccountKey, Dataset, FairUse, Project
from ledger.core.decision.posting import Drafts, Posting, Repeat, frozen, write
from ledger.core.decision.two_people import Guarded, propose_first, seconded
from ledger.core.people import Actor, Consent, Proposal
from ledger.errors import BudgetBelowSpent, DatasetFrozen, InvalidRequest, NameTaken, PartitionsClosed, TooLarge

PARTITIONS_MAX: Final = 4096
"""For one dataset: a run may charge all of them, and its entry names them."""
PROJECTS_MAX: Final = 1000
NAMED_MAX: Final = 20
"""The most accounts that an error names."""


def register(books: Books, command: Register, now_us: int) -> Drafts:
    """Register a dataset with its budget, partitions and parents."""
    definition = command.definition
    dataset = replace(books.datasets[definition.id], created_us=now_us, costing=command.costing)
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
        "costing": command.costing,
    }
    if definition.ceiling is not None:
        facts |= {"ceiling": command.ceiling, "ceiling_limit": definition.ceiling.facts()}
    if command.accepts_weak:
        facts["accepts_weak_protection"] = True
    books.partitions[dataset.id] = command.partitions
    return write(books, [Posting(dataset, new)], command.actor, "dataset-registered", facts)


def change(books: Books, command: Change, now_us: int) -> Drafts | Repeat:
    """Change the state, title or description of a dataset. Raises DatasetFrozen."""
    dataset = books.datasets[command.dataset_id]
    if dataset.state == "retired" and command.state not in (None, "retired"):
        raise DatasetFrozen(
            f"The dataset {dataset.definition.name} is retired, and stays retired. Register a new dataset.",
            dataset=dataset.definition.name,
            state="retired",
        )
    if command.state == "active" and (reported := books.reported.get(dataset.id)):
        raise DatasetFrozen(
            (
                f"A run of {dataset.definition.name} reported more than any budget here could cover. Confirm or correct"
                " its number first: privacy-ledger confirm RUN, or correct RUN."
            ),
            dataset=dataset.definition.name,
            state=dataset.state,
            reported=sorted(str(run_id) for run_id in reported)[:NAMED_MAX],
        )
    if command.costing is not None:
        _demand_standalone(books, dataset)
    fields: dict[str, Any] = {
        "state": command.state,
        "title": command.title,
        "description": command.description,
        "costing": command.costing,
    }
    changed = {name: value for name, value in fields.items() if value is not None}
    facts = {**changed, **({"reason": command.reason} if command.reason is not None else {})}
    is_thaw = command.state == "active" and dataset.state != "active" and books.is_overdrawn(dataset.id)
    guarded = Guarded("thaw", is_thaw, facts, command.actor, command.consent, [Posting(dataset)])
    if (proposed := propose_first(books, guarded, now_us)) is not None:
        return proposed
    facts |= seconded(books, guarded, now_us)
    return write(books, [Posting(replace(dataset, **changed))], command.actor, "dataset-changed", facts)


def _demand_standalone(books: Books, dataset: Dataset) -> None:
    if dataset.costing == "residual":
        raise InvalidRequest("costing: this dataset already costs runs beside what is left", field="costing")
    if dataset.limit is None and not any(dataset_id == dataset.id for dataset_id, _ in books.projects):
        raise InvalidRequest(
            (
                "costing: nothing is counted in this dataset, which has neither a budget nor a project's share; change"
                " the datasets that it is derived from"
            ),
            field="costing",
        )
    if dataset.definition.bound != "certified":
        raise InvalidRequest(
            "costing: residual costs need certificates, and this dataset's bound is an estimate (clt)", field="costing"
        )
    held = [account for key, account in books.accounts.items() if key.dataset_id == dataset.id and account.held != ZERO]
    if held:
        raise InvalidRequest(
            "costing: runs of this dataset are held or started; settle or void them, then switch",
            field="costing",
            accounts=[account.key.facts() for account in held if account.key.facts()][:NAMED_MAX],
        )


def set_budget(books: Books, command: SetBudget, now_us: int) -> Drafts | Repeat:
    """Set a new budget, of the dataset and of every partition. Raises InvalidRequest."""
    dataset = books.datasets[command.dataset_id]
    definition, before = dataset.definition, dataset.limit
    if before is None:
        raise InvalidRequest(
            (
                "budget: this dataset was registered without its own budget; its runs are charged to the datasets"
                " that it is derived from. Set the budget there"
            ),
            field="budget",
        )
    if definition.ceiling is not None and (above := command.limit.exceeds(definition.ceiling)):
        raise InvalidRequest(
            (
                "budget: is above the ceiling that was set when the dataset was registered; `limit` and `ceiling`"
                " have the amounts"
            ),
            field="budget",
            quantities=above,
            limit=command.limit,
            ceiling=definition.ceiling,
        )
    lost = command.lost
    if lost is not None:
        _demand_accounted(dataset, lost, before, command.limit)
    changed = _with_limit(dataset, _base_accounts(books, dataset), command.limit)
    facts = {
        "budget": command.budget,
        "limit": command.limit.facts(),
        "limit_before": before.facts(),
        "reason": command.reason,
        **({"accepts_weak_protection": True} if command.accepts_weak else {}),
        **({"lost": lost.facts()} if lost is not None else {}),
    }
    # To go on without entries that were lost is loosening, even with a lower limit.
    is_loosening = lost is not None or bool(command.limit.exceeds(before))
    guarded = Guarded("budget", is_loosening, facts, command.actor, command.consent, [Posting(dataset)])
    if (proposed := propose_first(books, guarded, now_us)) is not None:
        return proposed
    facts |= seconded(books, guarded, now_us)
    dataset = replace(dataset, budget=command.budget, limit=command.limit)
    posting = Posting(dataset, changed) if lost is None else frozen(Posting(dataset, changed))
    return write(books, [posting], command.actor, "budget-set", facts)


def _demand_accounted(dataset: Dataset, lost: Lost, before: Amount, limit: Amount) -> None:
    """Check that a limit leaves no more than before the lost runs. Raises InvalidRequest."""
    if not lost.first <= dataset.seq + 1 <= lost.seq + 1:
        raise InvalidRequest(
            f"lost.seq: entry {lost.seq} of this journal is not lost; it has {dataset.seq} entries", field="lost.seq"
        )
    highest = (before - lost.cost).most(ZERO)
    if limit.exceeds(highest):
        raise InvalidRequest(
            (
                "budget: leaves more than there was before the lost runs. The limit must be lower by their cost;"
                " `highest` has the highest one"
            ),
            field="budget",
            highest=highest,
            cost=lost.cost,
        )


def _base_accounts(books: Books, dataset: Dataset) -> list[Account]:
    """Return the accounts in which the dataset's own budget is counted."""
    names = books.partitions.get(dataset.id, ()) if dataset.definition.is_partitioned else (None,)
    return [books.accounts[AccountKey(dataset.id, name)] for name in names]


def _with_limit(dataset: Dataset, accounts: Sequence[Account], limit: Amount) -> list[Account]:
    """Return these accounts with a new limit. Raises BudgetBelowSpent, which names the accounts that exceed it."""
    over = [account for account in accounts if (account.spent + account.held).exceeds(limit)]
    if not over:
        return [_limited(dataset, account, limit) for account in accounts]
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
        least=functools.reduce(Amount.most, (account.spent + account.held for account in over)),
        accounts=[account.key.facts() for account in over if account.key.facts()][:NAMED_MAX],
        accounts_over=len(over),
    )


def _limited(dataset: Dataset, account: Account, limit: Amount) -> Account:
    """Return the account with a new limit. A charge that is recorded after a raise of it, for a run before, is costed
    by what was left before."""
    trail = account.trail
    if dataset.costing == "residual" and limit.exceeds(account.limit) and account.spent + account.held != ZERO:
        trail = trail.raised(dataset.seq + 1, account.remaining)
    return replace(account, limit=limit, trail=trail)


def add_partitions(books: Books, command: AddPartitions, now_us: int) -> Drafts | Repeat:
    """Add partitions, each with the limit of the dataset. They are fresh budget, so this may need a second person.

    Raises PartitionsClosed, DatasetFrozen, NameTaken or TooLarge.
    """
    dataset = books.datasets[command.dataset_id]
    name = dataset.definition.name
    if not dataset.definition.is_partitioned or dataset.limit is None:
        raise PartitionsClosed(
            (
                f"{name} was registered without partitions; new ones would be fresh budget for the same people."
                " Register a dataset with `partitions` for other people."
            ),
            dataset=name,
        )
    if dataset.state == "retired":
        raise DatasetFrozen(
            f"The dataset {name} is retired, and stays retired. Register a new dataset.", dataset=name, state="retired"
        )
    there = books.partitions[dataset.id]
    taken = sorted(set(there).intersection(command.names))
    if taken:
        raise NameTaken(
            f"The dataset already has a partition {taken[0]!r}. Choose another name.", dataset=name, partition=taken[0]
        )
    if len(there) + len(command.names) > PARTITIONS_MAX:
        raise TooLarge(
            f"names: a dataset has at most {PARTITIONS_MAX} partitions; this one has {len(there)}",
            field="names",
            there=len(there),
        )
    new = [Account(AccountKey(dataset.id, partition), dataset.limit) for partition in command.names]
    why = {"reason": command.reason} if command.reason is not None else {}
    facts = {"names": list(command.names), "disjoint": True, "limit": dataset.limit.facts(), **why}
    # Without the limit, which may be different when they are added.
    names = {name: value for name, value in facts.items() if name != "limit"}
    guarded = Guarded("partitions", True, names, command.actor, command.consent, [Posting(dataset)])
    if (proposed := propose_first(books, guarded, now_us)) is not None:
        return proposed
    facts |= seconded(books, guarded, now_us)
    books.partitions[dataset.id] = (*there, *command.names)
    return write(books, [Posting(dataset, new)], command.actor, "partitions-added", facts)


def set_project(books: Books, command: SetProject, now_us: int) -> Drafts | Repeat:
    """Set the share of a project. The first one lets other people spend, a larger one lets them spend more.

    Raises TooLarge if the dataset has too many projects.
    """
    dataset = books.datasets[command.dataset_id]
    before = books.projects.get((dataset.id, command.project))
    if before is None and sum(dataset_id == dataset.id for dataset_id, _ in books.projects) >= PROJECTS_MAX:
        raise TooLarge(
            f"A dataset has at most {PROJECTS_MAX} projects, and this one has as many.", projects_max=PROJECTS_MAX
        )
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
    is_more = before is None or bool(command.limit.exceeds(before.limit))
    guarded = Guarded("project", is_more, facts, command.actor, command.consent, [Posting(dataset)])
    if (proposed := propose_first(books, guarded, now_us)) is not None:
        return proposed
    facts |= seconded(books, guarded, now_us)
    project = Project(dataset.id, command.project, command.budget, command.limit)
    books.projects[dataset.id, command.project] = project
    return write(books, [Posting(dataset, changed)], command.actor, "project-set", facts)


def set_fair_use(books: Books, command: SetFairUse, now_us: int) -> Drafts | Repeat:
    """Limit what one principal may hold and ask for."""
    dataset = books.datasets[command.dataset_id]
    facts: dict[str, Any] = {"fair_use": command.fair_use.facts(), "reason": command.reason}
    is_more = command.fair_use.loosens(dataset.fair_use)
    guarded = Guarded("fair-use", is_more, facts, command.actor, command.consent, [Posting(dataset)])
    if (proposed := propose_first(books, guarded, now_us)) is not None:
        return proposed
    facts |= seconded(books, guarded, now_us)
    changed = replace(dataset, fair_use=command.fair_use)
    return write(books, [Posting(changed)], command.actor, "fair-use-set", facts)


def proposed_command(proposal: Proposal, actor: Actor, reason: str | None) -> OnDataset:
    """Return the command that a proposal about a dataset stands for, with the second person's consent and reason."""
    facts, consent = proposal.body["request"], Consent(proposal.id, is_second=True, reason=reason)
    if proposal.kind == "budget":
        limit = Amount.from_facts(facts["limit"])
        accepts_weak = facts.get("accepts_weak_protection", False)
        lost = Lost.from_facts(facts["lost"]) if "lost" in facts else None
        rest = facts["reason"], consent, accepts_weak, lost
        return SetBudget(actor, proposal.dataset_id, facts["budget"], limit, *rest)
    if proposal.kind == "partitions":
        return AddPartitions(actor, proposal.dataset_id, tuple(facts["names"]), consent, facts.get("reason"))
    if proposal.kind == "project":
        limit, name = Amount.from_facts(facts["limit"]), facts["project"]
        return SetProject(actor, proposal.dataset_id, name, facts["budget"], limit, facts.get("reason"), consent)
    if proposal.kind == "fair-use":
        stated = facts["fair_use"]
        held = None if stated["limit"] is None else Amount.from_facts(stated["limit"])
        fair_use = FairUse(stated["held"], held, stated["runs_per_hour"], stated.get("waits_above_percent"))
        return SetFairUse(actor, proposal.dataset_id, fair_use, facts["reason"], consent)
    return Change(
        actor,
        proposal.dataset_id,
        facts.get("state"),
        facts.get("title"),
        facts.get("description"),
        facts.get("reason"),
        consent,
        facts.get("costing"),
    )

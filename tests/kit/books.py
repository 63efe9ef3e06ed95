"""Books to decide on, made by hand: datasets by number, with partitions, projects and fair use where a test wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID, uuid4

from ledger.core.amounts import Amount
from ledger.core.books import Books
from ledger.core.commands import (
    Ask,
    Claim,
    Correct,
    Known,
    Ruling,
    Settle,
    Start,
    Void,
)
from ledger.core.datasets import (
    NO_FAIR_USE,
    Account,
    AccountKey,
    Bound,
    Dataset,
    Definition,
    FairUse,
    Project,
)
from ledger.core.decision.group import decide
from ledger.core.entries import NO_HASH
from ledger.core.people import Actor, Consent, Role
from ledger.core.residual import Costing, Residual
from ledger.core.runs import Excess, Use

CONFIRMED = Ruling("confirmed", "the log has every step", Consent(UUID(int=9)))
"""A steward says that a reported number is right."""
TENANT = UUID(int=7)
NOW_US = 1_800_000_000_000_000
DAY_US = 86_400_000_000
ALONE = Consent(UUID(int=9))
"""What is asked for by one person, whose tenant asks for no second one."""
COSTING: Final = {"method": "gaussian", "assumptions": [], "accountant": "gdp-2"}
TERMS: Final = {"bound": "clt", "adjacency": "add_or_remove_one"}
CERTIFIED: Final = {"bound": "certified", "adjacency": "add_or_remove_one"}


def actor(role: Role, number: int = 1) -> Actor:
    """One of several principals of a role."""
    return Actor(TENANT, UUID(int=100 + number), UUID(int=200 + number), f"{role} {number}", role)


def key(dataset: int, partition: str | None = None, **holder: Any) -> AccountKey:
    """An account of a dataset by its number."""
    return AccountKey(UUID(int=dataset), partition, holder.get("project"), holder.get("principal_id"))


def add_dataset(
    books: Books,
    number: int,
    limit: Amount | None,
    *,
    partitions: Sequence[str] | None = None,
    ceiling: Amount | None = None,
    costing: Costing = "standalone",
    bound: Bound = "clt",
) -> None:
    """An active dataset; `limit` None is one that is derived and has no budget."""
    definition = Definition(
        UUID(int=number),
        f"data-{number}",
        "record",
        "add_or_remove_one",
        bound,
        None,
        is_partitioned=partitions is not None,
        ceiling=ceiling,
    )
    budget = None if limit is None else {"mu": 1}
    books.datasets[definition.id] = Dataset(definition, "", "", budget, limit, "active", 1, NO_HASH, costing=costing)
    if partitions is not None:
        books.partitions[definition.id] = tuple(partitions)
    for name in (None,) if partitions is None else partitions:
        if limit is not None:
            books.accounts[key(number, name)] = Account(key(number, name), limit)


def opened(*limits: Amount, costing: Costing = "standalone", bound: Bound = "clt") -> Books:
    """Books with one active dataset for each limit."""
    books = Books()
    for number, limit in enumerate(limits, start=1):
        add_dataset(books, number, limit, costing=costing, bound=bound)
    return books


def set_fair_use(books: Books, number: int, *, held: Amount | None = None, runs_per_hour: int | None = None) -> None:
    """What one principal may have of a dataset."""
    budget = None if held is None else {"mu": 1}
    fair_use = NO_FAIR_USE if held is None and runs_per_hour is None else FairUse(budget, held, runs_per_hour)
    books.datasets[UUID(int=number)] = replace(books.datasets[UUID(int=number)], fair_use=fair_use)


def use(number: int, partitions: Sequence[str] | None = (), *, via: int | None = None) -> Use:
    """A dataset that a run touches, named itself or reached by another."""
    return Use(UUID(int=number), None if partitions is None else tuple(partitions), (f"data-{via or number}",))


def ask(*uses: Use | int, cost: Amount, run: UUID | None = None, who: Actor | None = None, **more: Any) -> Ask:
    """A run of this cost on datasets, whole ones by their numbers."""
    run = run or uuid4()
    all_uses = tuple(use(each) if isinstance(each, int) else each for each in uses)
    project = more.get("project")
    is_past = more.get("is_past", False)
    request = {"datasets": _named(all_uses), **({} if project is None else {"project": project})}
    request |= {"past": {}} if is_past else {}
    claim = Claim(str(run), bytes(32))
    return Ask(
        who or actor("requester"),
        run,
        claim,
        all_uses,
        project,
        cost,
        request,
        COSTING | more.get("terms", TERMS),
        valid_for_us=DAY_US,
        residual=more.get("residual"),
        is_past=is_past,
    )


def _named(uses: Sequence[Use]) -> list[Any]:
    """The datasets as a request names them by which these uses come about."""
    named: dict[str, Any] = {}
    for name, partitions in ((name, one.partitions) for one in uses for name in one.via):
        named[name] = {"name": name, "partitions": list(partitions)} if partitions else named.get(name, name)
    return list(named.values())


def charges(books: Books, command: Ask) -> dict[UUID, tuple[AccountKey, ...]]:
    """What an approved run charges, as its entries would say. Worked out from the request alone, of the accounts that
    there are."""
    found: dict[UUID, tuple[AccountKey, ...]] = {}
    for each in command.uses:
        is_partitioned = books.datasets[each.dataset_id].definition.is_partitioned
        scopes: Sequence[str | None] = (None,)
        if is_partitioned:
            scopes = books.partitions[each.dataset_id] if each.partitions is None else each.partitions
        keys = [
            AccountKey(each.dataset_id, scope, *holder)
            for scope in scopes
            for holder in ((None, None), (command.project, None), (None, command.actor.principal_id))
        ]
        found[each.dataset_id] = tuple(dict.fromkeys(each_key for each_key in keys if each_key in books.accounts))
    return found


def start(who: Actor, books: Books, command: Ask, *, token_sha256: str | None = None) -> Start:
    """Starts an approved run."""
    return Start(who, command.run_id, charges(books, command), token_sha256=token_sha256)


def settle(
    who: Actor,
    books: Books,
    command: Ask,
    *,
    charged: Amount | None = None,
    excess: Amount | None = None,
    ruling: Ruling | None = None,
    stop: str = "planned",
    residual: Residual | None = None,
) -> Settle:
    """Settles an approved run, for all of it unless something else is said.

    ruling: of a steward, on what it reported. residual: the table of the excess.
    """
    beyond = None if excess is None else Excess(7, excess, COSTING, residual=residual)
    return Settle(
        who,
        command.run_id,
        charges(books, command),
        body={},
        steps=None,
        stop=stop,
        charged=command.cost if charged is None else charged,
        excess=beyond,
        costing={"accountant": COSTING["accountant"]},
        ruling=ruling,
    )


def void(who: Actor, books: Books, command: Ask, *, is_independent: bool = False) -> Void:
    """Voids an approved run."""
    body = {"reason": "r", **({"data_independent": True} if is_independent else {})}
    return Void(who, command.run_id, charges(books, command), body, ALONE, is_independent)


def correct(
    who: Actor,
    books: Books,
    command: Ask,
    cost: Amount,
    *,
    known: Known,
    places: Mapping[UUID, int],
    residual: Residual | None = None,
    by_output: bool = False,
    consent: Consent = ALONE,
) -> Correct:
    """Corrects a settled run: it was a mechanism of this cost. by_output: an output decided which mechanism ran."""
    body = {"reason": "r", "decided_by_output": by_output, "on_word_of": "the team's log"}
    return Correct(
        who,
        command.run_id,
        charges(books, command),
        body,
        known,
        cost,
        COSTING,
        not by_output,
        consent,
        places,
        residual,
    )


def only(books: Books, command: Any, *, now_us: int = NOW_US) -> tuple[Books, Any]:
    """Decides one command. Of one that leaves one entry, that; otherwise what came of it."""
    books, (outcome,) = decide(books, [command], now_us=now_us)
    return books, outcome[0] if isinstance(outcome, tuple) and len(outcome) == 1 else outcome


def parted(limit: int = 100, names: tuple[str, ...] = ("a", "b", "c")) -> Books:
    """Dataset 1, whole, of this limit; dataset 2 with partitions of the same."""
    books = opened(Amount(limit, limit))
    add_dataset(books, 2, Amount(limit, limit), partitions=names)
    return books


def with_project(books: Books, number: int, limit: Amount, name: str = "p") -> None:
    """A project's share, put into the books."""
    books.projects[UUID(int=number), name] = Project(UUID(int=number), name, {}, limit)


def started(books: Books, command: Any) -> Books:
    """The books after a run was approved and started."""
    books, outcome = only(books, command)
    kinds = {draft.kind for draft in (outcome if isinstance(outcome, tuple) else (outcome,))}
    assert kinds == {"run-approved"}
    return only(books, start(command.actor, books, command))[0]

"""Journals made by deciding, without a database, and what a forger who knows the format does to them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from ledger.core.amounts import Amount
from ledger.core.books import Books
from ledger.core.commands import (
    AddPartitions,
    Ask,
    Change,
    Register,
    SetBudget,
    SetFairUse,
    SetProject,
)
from ledger.core.datasets import (
    Dataset,
    Definition,
    FairUse,
    Parent,
)
from ledger.core.decision.group import Batched, Outcome, decide
from ledger.core.entries import NO_HASH, Draft, Sealed
from ledger.core.journal import chain, requested
from ledger.core.journal.replay import Replayed, replay
from ledger.core.people import Actor
from ledger.errors import LedgerError
from tests.kit.books import ALONE, CONFIRMED, NOW_US, TENANT, actor, ask, settle, start, use, void

ONE = UUID(int=1)
STEWARD = actor("steward", 3)
ADMIN = actor("admin", 3)
WHO = actor("requester", 1)
TWO = UUID(int=2)


class Book:
    """Books, and the journals that deciding on them leaves, sealed one after another."""

    def __init__(self, *registered: Register) -> None:
        self.books = Books()
        self.now_us = NOW_US
        self.journals: dict[UUID, list[tuple[str, bytes]]] = {}
        self.requests: dict[str, str] = {}
        """By their digests."""
        for command in registered:
            blank = Dataset(command.definition, "", "", command.budget, command.limit, "active", 0, NO_HASH)
            self.books.datasets[command.definition.id] = blank
            self.do(command)

    @property
    def entries(self) -> list[tuple[str, bytes]]:
        """The journal of the first dataset."""
        return next(iter(self.journals.values()))

    @entries.setter
    def entries(self, value: list[tuple[str, bytes]]) -> None:
        self.journals[next(iter(self.journals))] = value

    def do(self, *commands: Any) -> list[Any]:
        self.books, outcomes = decide(self.books, commands, now_us=self.now_us)
        for outcome in outcomes:
            assert not isinstance(outcome, LedgerError), outcome
            for draft in drafts_of(outcome):
                mine = self.journals.setdefault(draft.dataset_id, [])
                prev = mine[-1][1] if mine else NO_HASH
                entry = chain.seal(draft, tenant_id=TENANT, prev=prev, at_us=self.now_us)
                mine.append((entry.body, entry.hash))
                if "request" in draft.facts:
                    request = chain.canonical(draft.facts["request"])
                    self.requests[chain.digest(request).hex()] = request
        return outcomes

    def ask(self, *uses: Any, **more: Any) -> Ask:
        command = ask(*uses, who=WHO, **more)
        self.do(command)
        return command

    def move(self, do: Callable[..., Any], command: Ask, who: Actor = ADMIN, **more: Any) -> None:
        self.do(self.moving(do, command, who, **more))

    def moving(self, do: Callable[..., Any], command: Ask, who: Actor = ADMIN, **more: Any) -> Any:
        """What is charged is what the approval's entries say, as `ledger.service.runs` reads it."""
        said = [chain.parse(body) for mine in self.journals.values() for body, _ in mine]
        approvals = [
            e for e in said if e["kind"] in ("run-approved", "run-entered") and e["run"] == str(command.run_id)
        ]
        charged = {UUID(entry["dataset_id"]): tuple(chain.accounts_of(entry)) for entry in approvals}
        return replace(do(who, self.books, command, **more), charges=charged)

    def replay(self, dataset_id: UUID | None = None) -> Replayed:
        dataset_id = dataset_id or next(iter(self.journals))
        return replay(self.sealed(dataset_id), tenant_id=TENANT, dataset_id=dataset_id)

    def sealed(self, dataset_id: UUID) -> list[Sealed]:
        """A journal with the requests that stand in others."""
        return [Sealed(*entry, requested_in(entry[0], self.requests)) for entry in self.journals[dataset_id]]


def drafts_of(outcome: Outcome) -> Sequence[Draft]:
    """The entries that a command leaves; a batch, those of its runs."""
    if isinstance(outcome, Batched):
        return [draft for run in outcome.outcomes if isinstance(run, tuple) for draft in run]
    return outcome if isinstance(outcome, tuple) else ()


def requested_in(body: str, requests: Mapping[str, str]) -> str | None:
    """The request that an entry names by its digest, among these by theirs. A forged entry may be no JSON."""
    named = re.search('"request_sha256":"([0-9a-f]{64})"', body)
    return None if named is None else requests.get(named[1])


def registered(number: int, limit: Amount | None, **more: Any) -> Register:
    """A dataset by its number. More: partitions, ceiling, derived_from, bound, costing."""
    costing = more.get("costing", "standalone")
    partitions, ceiling = more.get("partitions"), more.get("ceiling")
    definition = Definition(
        UUID(int=number),
        f"data-{number}",
        "record",
        "add_or_remove_one",
        more.get("bound", "clt"),
        60_000,
        is_partitioned=partitions is not None,
        ceiling=ceiling,
        derived_from=more.get("derived_from", ()),
        ancestors=tuple(parent.id for parent in more.get("derived_from", ())),
    )
    budget = None if limit is None else {"mu": 1}
    declared = None if ceiling is None else {"mu": 4}
    return Register(ADMIN, definition, "Title", "…", budget, limit, declared, tuple(partitions or ()), costing=costing)


def journal_of_a_whole() -> Book:
    """A journal of a dataset that is counted as a whole, with an entry of every kind that it can have."""
    made = Book(registered(1, Amount(1000, 1000), ceiling=Amount(4000, 4000)))
    settled, voided, voided_late = (made.ask(1, cost=cost) for cost in (Amount(300, 0), Amount(100, 7), Amount(50, 0)))
    made.ask(1, cost=Amount(900, 0))  # refused
    made.move(start, settled)
    made.move(start, voided_late)
    made.move(settle, settled)
    made.move(void, voided)
    made.do(SetBudget(ADMIN, ONE, {"mu": 2}, Amount(2000, 1000), "more people", ALONE))
    made.do(Change(ADMIN, ONE, "frozen", None, None, "a look", ALONE))
    made.move(void, voided_late)
    made.do(Change(ADMIN, ONE, "active", "New title", None, "looked", ALONE))
    made.ask(1, cost=Amount(1700, 0))
    return made


def journals_of_parts() -> Book:
    """Journals of a partitioned dataset, a whole one, and one that is derived from both: with a project, fair use, and
    runs that ended early, late, and far too late."""
    made = Book(
        registered(2, Amount(1000, 1000), partitions=["a", "b"], ceiling=Amount(4000, 4000)),
        registered(1, Amount(500, 500)),
        registered(3, None, derived_from=(Parent(TWO, "data-2"), Parent(ONE, "data-1"))),
    )
    all_three = (use(3), use(2, None, via=3), use(1, via=3))
    made.ask(use(2, ["b"]), cost=Amount(10, 0))
    made.do(AddPartitions(STEWARD, TWO, ("d", "c"), ALONE))
    made.do(SetProject(STEWARD, TWO, "p", {"mu": 1}, Amount(400, 400), "a share", ALONE))
    early = made.ask(use(2, ["a", "c"]), cost=Amount(300, 3), project="p")
    made.ask(use(2, ["c"]), cost=Amount(101, 0), project="p")  # refused by the project alone
    made.do(SetFairUse(STEWARD, TWO, FairUse({"mu": 1}, Amount(700, 700), 1000), "for all", ALONE))
    held = made.ask(*all_three, cost=Amount(200, 0))
    made.ask(*all_three, cost=Amount(301, 0))  # refused by data-1 alone
    made.ask(*all_three, cost=Amount(501, 0))  # refused by two of them
    made.move(start, early)
    made.move(settle, early, charged=Amount(100, 3))
    made.do(SetFairUse(STEWARD, TWO, FairUse({"mu": 1}, Amount(150, 150), None), "less", ALONE))
    small = made.ask(use(2, ["d"]), cost=Amount(0, 1))
    made.move(start, small)
    made.move(settle, small, excess=Amount(3, 0))  # fits
    made.move(start, held)
    made.move(settle, held, excess=Amount(350, 0))  # does not fit in data-1
    made.do(SetBudget(STEWARD, TWO, {"mu": 2}, Amount(1100, 1000), "more", ALONE))
    made.do(SetProject(STEWARD, TWO, "p", {"mu": 1}, Amount(450, 400), None, ALONE))
    late = made.ask(use(2, ["a", "d"]), cost=Amount(20, 0))
    made.move(start, late)
    gone = made.ask(use(2, None), cost=Amount(40, 0))
    made.move(settle, late, excess=Amount(5000, 0))  # more than any budget here could cover
    made.move(settle, late, excess=Amount(5000, 0), ruling=CONFIRMED)
    made.move(void, gone)
    return made


def reseal(entries: list[tuple[str, bytes]], index: int, change: Callable[[dict[str, Any]], object]) -> None:
    """What a forger who knows the format does: change an entry, then make every hash after it right again."""
    entry = chain.parse(entries[index][0])
    change(entry)
    for at in range(index, len(entries)):
        if at > index:
            entry = chain.parse(entries[at][0])
            entry["prev"] = entries[at - 1][1].hex()
        body = chain.canonical(entry)
        entries[at] = (body, chain.digest(body))


def kind_at(entries: Sequence[tuple[str, bytes]], kind: str) -> int:
    """The place of the first entry of this kind."""
    return next(index for index, (body, _) in enumerate(entries) if chain.parse(body)["kind"] == kind)


def less(part: str) -> Callable[[dict[str, Any]], object]:
    """A change of an entry: an amount is one unit smaller."""

    def change(entry: dict[str, Any]) -> None:
        entry[part]["mu_sq_pico"] = str(int(entry[part]["mu_sq_pico"]) - 1)

    return change


_OF_ALL = ("v", "tenant", "dataset", "dataset_id", "seq", "at", "prev", "actor", "balance", "accounts")


def become(entry: dict[str, Any], kind: str, **members: Any) -> None:
    """The entry turns into one of another kind, with its members alone."""
    kept = {name: entry[name] for name in _OF_ALL if name in entry}
    entry.clear()
    entry |= kept | {"kind": kind} | members


def become_approval(entry: dict[str, Any]) -> None:
    """A refusal turns into an approval, with balances as they would be."""
    del entry["binding"], entry["binding_elsewhere"]
    entry |= {
        "kind": "run-approved",
        "start_by": requested.after(entry["at"], timedelta(days=1)),
        "begin_by": entry["at"],
    }
    _move_held(entry, 1)


def become_refusal(entry: dict[str, Any]) -> None:
    """An approval turns into a refusal of what fits, with balances as they would be."""
    del entry["start_by"], entry["begin_by"]
    entry |= {"kind": "run-refused", "binding": [], "binding_elsewhere": []}
    _move_held(entry, -1)


def _move_held(entry: dict[str, Any], sign: int) -> None:
    for group in [*entry.get("accounts", ()), *([entry["balance"]] if "balance" in entry else [])]:
        held = {name: int(value) + sign * int(entry["cost"][name]) for name, value in group["held"].items()}
        group["held"] = {name: str(value) for name, value in held.items()}

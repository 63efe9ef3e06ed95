"""Commands of one group: whatever was true when the group began, each is decided on what those before it left."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final
from uuid import UUID, uuid4

import pytest

from ledger.core.amounts import Amount
from ledger.core.commands import (
    AddPartitions,
    Ask,
    Change,
    Claim,
    Command,
    OnDataset,
    RefuseProposal,
    Register,
    Ruling,
    SetBudget,
    SetFairUse,
    SetProject,
    Settle,
    Single,
    Start,
    Void,
)
from ledger.core.datasets import AccountKey, Definition, FairUse
from ledger.core.decision.posting import Repeat
from ledger.core.journal import chain
from ledger.core.journal.tenant import replay_tenant
from ledger.core.people import GUARDED, Actor, Consent, Key, Role
from ledger.core.runs import Excess, Use
from ledger.errors import LedgerError
from ledger.operate import check
from ledger.operate.deploy import AT_THE_DATABASE
from ledger.service.tenants import add_tenant
from ledger.service.writer import Writer
from ledger.store import Store
from ledger.verifier.witness import Witnesses
from tests.kit.books import ALONE, COSTING, DAY_US, TERMS

SECONDS: Final = 60
WHOLE, FAIR, PARTED = (UUID(int=number) for number in (1, 2, 3))
LIMIT: Final = Amount(100, 100)
OF_A_MOMENT: Final = {
    "at",
    "prev",
    "approve_by",
    "start_by",
    "settle_by",
    "begin_by",
    "tenant",
    "created_at",
    "retry_after_seconds",
}
"""What differs between two tenants that do the same."""


class Twin:
    """A tenant that takes two people, with three datasets, and people and things whose ids are those of its twin."""

    def __init__(self, store: Store, *, group_max: int) -> None:
        self.store, self.tenant_id, self.group_max = store, uuid4(), group_max
        self.admin, self.one = self._person(1, "admin"), self._person(2, "steward")
        self.two, self.asking = self._person(3, "steward"), self._person(4, "requester")
        with store.writing(self.tenant_id) as writing:
            now_us = writing.now_us()
            add_tenant(writing, str(self.tenant_id), by=AT_THE_DATABASE, now_us=now_us)
            for actor in (self.admin, self.one, self.two, self.asking):
                key = Key(actor.key_id, actor.principal_id, actor.name, actor.role, None, now_us, None, None)
                writing.keys.add(key, actor.key_id.bytes * 2)
            writing.tenants.set_policy(second_steward=True)
            policy = {"second_steward": True, "guards": sorted(GUARDED), "reason": "two look at it"}
            writing.journals.note("policy-set", self.admin.facts(), policy, now_us=now_us)
        self.charges: dict[UUID, dict[UUID, tuple[AccountKey, ...]]] = {}
        self.places: dict[UUID, dict[UUID, int]] = {}

    def _person(self, number: int, role: Role) -> Actor:
        return Actor(self.tenant_id, UUID(int=10 + number), UUID(int=20 + number), f"{role} {number}", role)

    def register(self) -> None:
        """The datasets, and six runs on them, of which four are started."""
        for dataset_id, partitions in ((WHOLE, ()), (FAIR, ()), (PARTED, ("a", "b"))):
            definition = Definition(
                *(dataset_id, f"data-{dataset_id.int}", "record", "add_or_remove_one", "clt", None),
                is_partitioned=bool(partitions),
            )
            self.decided(Register(self.admin, definition, "", "", {"mu": 1}, LIMIT, partitions=partitions))
        for number in range(100, 106):
            (answer,) = self.decided(self.ask(number, (WHOLE, FAIR, PARTED)[number % 3], cost=15))
            entries = [chain.parse(entry.body) for entry in answer]
            self.charges[UUID(int=number)] = {
                UUID(entry["dataset_id"]): tuple(chain.accounts_of(entry)) for entry in entries
            }
            self.places[UUID(int=number)] = {UUID(entry["dataset_id"]): entry["seq"] for entry in entries}
        self.decided(*(Start(self.asking, run_id, self.charges[run_id]) for run_id in list(self.charges)[:4]))

    def ask(self, number: int, dataset_id: UUID, *, cost: int) -> Ask:
        name, partitions = f"data-{dataset_id.int}", ("a",) if dataset_id == PARTED else ()
        use = Use(dataset_id, partitions, (name,))
        request = {"datasets": [{"name": name, "partitions": list(partitions)} if partitions else name]}
        claim = Claim(f"key {number}", bytes(32))
        return Ask(
            self.asking, UUID(int=number), claim, (use,), None, Amount(cost, cost), request, COSTING | TERMS, DAY_US
        )

    def settle(self, run_id: UUID, excess: int | None) -> Settle:
        more = None if excess is None else Excess(1, Amount(excess, excess), COSTING)
        charged = Amount(15, 15)
        costing = {"accountant": COSTING["accountant"]}
        places = self.places[run_id]
        return Settle(
            *(self.asking, run_id, self.charges[run_id], {}, None, "planned", charged, more, costing), places=places
        )

    def change(self, dataset_id: UUID, state: Any, consent: Consent, by: Actor | None = None) -> Change:
        return Change(by or self.one, dataset_id, state, None, None, "r", consent)

    def decided(self, *commands: Command) -> list[Any]:
        """What came of commands that all wait when the writer begins; group_max is how many it then takes at once."""
        groups: list[int] = []

        def note(size: int, _seconds: float) -> None:
            groups.append(size)

        writer = Writer(self.store, threads=1, queue_max=1000, group_max=self.group_max, on_group=note)
        # Alive before it has started, so that everything waits.
        threads, writer._threads = writer._threads, []
        futures = [writer.submit(self.tenant_id, command) for command in commands if isinstance(command, Single)]
        writer._threads = threads
        writer.start()
        answers = [future.exception(SECONDS) or future.result() for future in futures]
        writer.close()
        assert groups == ([len(commands)] if self.group_max > 1 else [1] * len(commands))
        return answers

    def demand_order(self) -> None:
        """Journals, rows and policy agree."""
        with self.store.reading(self.tenant_id) as reading:
            entries = [(entry.body, entry.hash) for entry in reading.journals.tenant_page(after=0, limit=100)]
            policies = replay_tenant(entries, tenant_id=self.tenant_id).policies
            for dataset in reading.datasets.page(after=None, limit=10, only=None):
                check.demand_holds(reading, dataset, Witnesses(), policies)


def lasting(value: Any) -> Any:
    """Without what is of the moment."""
    match value:
        case dict():
            return {name: lasting(part) for name, part in value.items() if name not in OF_A_MOMENT}
        case list():
            return [lasting(part) for part in value]
        case _:
            return value


def said(answer: Any) -> Any:
    """An answer as its twin's has to be."""
    if isinstance(answer, LedgerError):
        return answer.code, lasting(dict(answer.facts))
    if isinstance(answer, Repeat):
        return answer
    return [lasting(chain.parse(entry.body)) for entry in answer]


@pytest.fixture
def twins(store: Store) -> Callable[[], tuple[Twin, Twin]]:
    """Makes two tenants alike: one whose commands are decided in one group, one where each is a group of its own."""

    def make() -> tuple[Twin, Twin]:
        made = Twin(store, group_max=1000), Twin(store, group_max=1)
        for twin in made:
            twin.register()
        return made

    return make


def script(twin: Twin, rng: random.Random, length: int) -> Iterator[Command]:
    """Commands at random: the same ones for twins, from the same seed."""
    proposed: list[Command] = []
    for number in range(length):
        dataset_id = rng.choice((WHOLE, FAIR, PARTED))
        run_id = rng.choice(list(twin.charges))
        amount = Amount(rng.choice((60, 100, 150, 300)), 100)
        consent = Consent(UUID(int=1000 + number))
        command: Command
        match rng.choice(
            (
                *("settle", "settle", "rule", "void", "change", "change"),
                *("budget", "fair", "ask", "ask", "more", "two"),
            )
        ):
            case "settle":
                command = twin.settle(run_id, rng.choice((None, 5, 90, 1000)))
            case "rule":
                ruling = Ruling(rng.choice(("confirmed", "corrected")), "r", consent)
                command = replace(twin.settle(run_id, rng.choice((None, 1000))), actor=twin.one, ruling=ruling)
            case "void":
                command = Void(
                    rng.choice((twin.one, twin.asking)), run_id, twin.charges[run_id], {"reason": "r"}, consent
                )
            case "change":
                command = twin.change(dataset_id, rng.choice(("active", "active", "frozen")), consent)
            case "budget":
                command = SetBudget(twin.one, dataset_id, {}, amount, "r", consent)
            case "fair":
                held = rng.choice((None, amount))
                fair_use = FairUse(None if held is None else {}, held, rng.choice((None, 1, 2, 4)))
                command = SetFairUse(twin.one, dataset_id, fair_use, "r", consent)
            case "ask":
                command = twin.ask(200 + number, dataset_id, cost=1)
            case "more":
                more = AddPartitions(twin.one, PARTED, (rng.choice("bcd"),), consent)
                command = rng.choice((more, SetProject(twin.one, dataset_id, "p", {}, amount, None, consent)))
            case _:
                before = rng.choice(proposed) if proposed else twin.change(WHOLE, "active", consent)
                command = _answered(twin, before, rng)
        if isinstance(command, OnDataset | Void) and not command.consent.is_second:
            proposed.append(command)
        if isinstance(command, Settle) and command.ruling is not None and not command.ruling.consent.is_second:
            proposed.append(command)
        yield command


def _answered(twin: Twin, before: Any, rng: random.Random) -> Command:
    """A yes or a no to what may have been proposed, by somebody who may be the one who did."""
    by = rng.choice((twin.two, twin.two, twin.one))
    ruling = before.ruling if isinstance(before, Settle) else None
    consent = before.consent if ruling is None else ruling.consent
    if rng.random() < 0.3:
        return RefuseProposal(by, consent.proposal_id, before.dataset_ids, "r")
    second = consent._replace(is_second=True)
    changes: dict[str, Any] = {"consent": second} if ruling is None else {"ruling": replace(ruling, consent=second)}
    changed: Command = replace(before, actor=by, **changes)
    return changed


def test_a_group_is_decided_as_its_commands_one_by_one(
    twins: Callable[[], tuple[Twin, Twin]], tries: Callable[[int, int], int]
) -> None:
    """Goal: no guard is judged by the books as they were when a group began: neither the second person, nor fair use,
    nor anything else. Method: twins, of which one decides random commands in one group, and the other each in a
    transaction of its own, on books that it reads again; all answers are alike, entries word for word."""
    kinds: set[str] = set()
    for seed in range(tries(6, 200)):
        together, singly = twins()
        answers: list[list[Any]] = []
        for twin in (together, singly):
            commands = list(script(twin, random.Random(seed), 40))
            answers.append([said(answer) for answer in twin.decided(*commands)])
            twin.demand_order()
        assert answers[0] == answers[1], seed
        kinds |= {answer[0]["kind"] if isinstance(answer, list) else str(answer) for answer in answers[0]}
    assert {"change-proposed", "run-settled", "run-approved", "fair-use-set", "dataset-changed"} <= kinds
    assert {"run-reported", "partitions-added", "proposal-refused", "budget-set"} <= kinds


def test_an_overrun_and_a_thaw_in_one_group_take_two(twins: Callable[[], tuple[Twin, Twin]]) -> None:
    """Goal: one person does not overdraw a dataset and open it again. Method: both wait for the same group."""
    run_id = UUID(int=102)
    for twin in twins():
        settled, thawed = twin.decided(twin.settle(run_id, 90), twin.change(WHOLE, "active", Consent(uuid4())))
        assert [entry["kind"] for entry in said(settled)] == ["run-settled"]
        assert said(thawed)[0]["kind"] == "change-proposed"
        twin.demand_order()


def test_fair_use_counts_within_a_group(twins: Callable[[], tuple[Twin, Twin]]) -> None:
    """Goal: a limit of so many runs an hour holds from its own entry on, also for what was asked before it. Method:
    two runs were asked for before; in one group come another, a limit of four, two more, a limit of three, and one
    more."""
    for twin in twins():
        asks: list[Single] = [twin.ask(200 + number, FAIR, cost=1) for number in range(5)]
        limits = [SetFairUse(twin.one, FAIR, FairUse(None, None, limit), "r", ALONE) for limit in (4, 3)]
        answers = twin.decided(asks[0], limits[0], asks[1], asks[2], limits[1], asks[3])
        assert [_short(answer) for answer in answers] == [
            *("run-approved", "fair-use-set", "run-approved", "rate-limited", "fair-use-set", "rate-limited")
        ]


def _short(answer: Any) -> str:
    return answer.code if isinstance(answer, LedgerError) else str(answer[0].kind)

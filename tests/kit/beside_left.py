"""Journals of datasets that cost runs beside what is left, with everything that can happen to such a run: in a fixed
order, and at random."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import UUID

from ledger.core.amounts import ZERO, Amount
from ledger.core.commands import Ask, Batch, Change, Correct, Known, SetBudget, SetProject
from ledger.core.datasets import Parent
from ledger.core.decision.group import decide
from ledger.core.journal import chain
from ledger.core.people import Consent
from ledger.core.residual import LEVELS, Residual
from ledger.errors import LedgerError
from tests.kit.books import ALONE, CERTIFIED, CONFIRMED, actor, ask, correct, settle, start, use, void
from tests.kit.journals import ADMIN, ONE, STEWARD, TWO, WHO, Book, registered

THREE: Final = UUID(int=3)
ADMIN_2: Final = actor("admin", 4)
"""Another person than STEWARD."""
FALLING: Final = (1000, 900, 800, 700, 600, 500, 450, 400, 350, 300, 250, 200, 150, 120, 110, 100)
"""What a run costs at each level, in units of 1e-12 of mu²."""
BASE: Final = 6400


def table(base: int = BASE, costs: Sequence[int] = FALLING) -> Residual:
    """A table as a command carries it."""
    return Residual(base, tuple(costs))


def residual(number: int, limit: Amount | None, **more: Any) -> Any:
    """A dataset that costs its runs beside what is left."""
    return registered(number, limit, bound="certified", costing="residual", **more)


class Residuals(Book):
    """A book of such datasets, in which a minute passes with each command."""

    runs: int = 0

    def do(self, *commands: Any) -> list[Any]:
        self.now_us += 60_000_000
        return super().do(*commands)

    def run(self, *uses: Any, costs: Residual | None = None, cost: Amount | None = None, **more: Any) -> Ask:
        """A run is asked for, by its table or at a cost by itself."""
        command = self.asking(*uses, costs=costs, cost=cost, **more)
        self.do(command)
        run = self.books.runs[command.run_id]
        return replace(command, cost=run.cost or command.cost)

    def asking(self, *uses: Any, costs: Residual | None = None, cost: Amount | None = None, **more: Any) -> Ask:
        """What asks for such a run."""
        self.runs += 1
        cost = cost or Amount(FALLING[0] if costs is None else costs.costs[0], 1)
        number = UUID(int=1000 + self.runs)
        return ask(*uses, cost=cost, run=number, who=WHO, terms=CERTIFIED, residual=costs, **more)

    def past(self, *uses: Any, costs: Residual | None = None, cost: Amount | None = None) -> Ask:
        """A past run is entered."""
        command = self.asking(*uses, costs=costs, cost=cost, is_past=True)
        command = replace(command, actor=STEWARD)
        self.do(command)
        return replace(command, cost=self.books.runs[command.run_id].cost or command.cost)

    def batch(self, *asks: Ask, is_atomic: bool = True, takes_most: bool = False) -> list[Ask]:
        """Runs are asked for together; those that were approved."""
        self.do(Batch(WHO, asks, is_atomic, takes_most=takes_most))
        runs = [(command, self.books.runs.get(command.run_id)) for command in asks]
        return [
            replace(command, cost=run.cost)
            for command, run in runs
            if run is not None and run.state == "held" and run.cost is not None
        ]

    def known(self, command: Ask) -> tuple[Known, dict[UUID, int]]:
        """What a settled run is charged by its entries, and its place in each dataset."""
        charged, r, places = ZERO, 0, dict[UUID, int]()
        entries = [chain.parse(body) for journal in self.journals.values() for body, _ in journal]
        for entry in (entry for entry in entries if entry.get("run") == str(command.run_id)):
            if entry["kind"] == "run-approved":
                places[UUID(entry["dataset_id"])] = entry["seq"]
            if entry["kind"] == "run-entered":
                places[UUID(entry["dataset_id"])], charged = 0, Amount.from_facts(entry["cost"])
            charged = Amount.from_facts(entry["charged"]) if "charged" in entry else charged
            for facts in (entry.get("residual"), entry.get("overrun", {}).get("residual")):
                if facts is not None and facts.get("level"):
                    r = max(r, Residual.from_facts(facts).level(facts["level"]))
        return Known(charged, r, self.books.runs[command.run_id].corrections), places

    def correcting(self, command: Ask, cost: Amount, **more: Any) -> Correct:
        """What corrects a settled run."""
        known, places = self.known(command)
        made = self.moving(correct, command, STEWARD, cost=cost, known=known, places=places, **more)
        assert isinstance(made, Correct)
        return made

    def corrected(self, command: Ask, cost: Amount, **more: Any) -> bool:
        """Correct a run, by two people where one alone may not. Return whether it was done."""
        first = replace(self.correcting(command, cost, **more), consent=Consent(UUID(int=5000 + self._count())))
        _, (outcome,) = decide(self.books, [first], now_us=self.now_us)
        if isinstance(outcome, LedgerError):
            return False
        (drafts,) = self.do(first)
        if drafts[0].kind == "change-proposed":
            consent = Consent(UUID(drafts[0].facts["proposal"]), is_second=True)
            self.do(replace(self.correcting(command, cost, **more), actor=ADMIN_2, consent=consent))
        return True

    def _count(self) -> int:
        return sum(map(len, self.journals.values()))

    def begin(self, *uses: Any, **more: Any) -> Ask:
        """A run is approved, and starts."""
        command = self.run(*uses, **more)
        self.move(start, command)
        return command


def story() -> Residuals:
    """Two datasets, and one that is derived from both."""
    made = Residuals(
        residual(1, Amount(BASE, 1000)),
        residual(2, Amount(BASE // 2, 1000), partitions=["a", "b"]),
        residual(3, None, derived_from=(Parent(ONE, "data-1"), Parent(TWO, "data-2"))),
    )
    kept, early = made.run(use(1), costs=table()), made.begin(use(1), costs=table())
    late, later = (made.begin(use(1), cost=Amount(10, 1)) for _ in range(2))
    noise = made.begin(use(1), cost=Amount(5000, 0))
    made.move(void, kept)  # less is left than its r: kept
    made.move(settle, early, charged=Amount(55, 1), stop="data_dependent")  # kept too
    made.run(use(1), costs=table())  # fits at r = 0 alone
    made.move(settle, noise, charged=Amount(1000, 0), stop="data_dependent")  # given back: a cost by itself
    made.run(use(1), costs=table())
    made.move(settle, late, excess=Amount(300, 1), residual=table(costs=range(300, 140, -10)))  # fits
    given = made.begin(use(1), costs=table())
    made.move(settle, given, charged=Amount(given.cost.mu_sq_pico // 2, 0), stop="data_dependent")  # given back
    made.move(void, made.run(use(1), costs=table()))  # given back
    free = made.run(use(1), costs=table())
    made.run(use(1), costs=table(costs=(90_000, 80_000)))  # refused
    blocking = made.run(use(1), cost=Amount(1500, 0))
    made.move(void, free, is_independent=True)
    made.move(void, blocking)
    made.do(SetProject(STEWARD, TWO, "p", {"mu": 1}, Amount(BASE // 4, 500), "a share", ALONE))
    both = (use(3), use(1, via=3), use(2, None, via=3))
    of_both = made.begin(*both, costs=table(BASE // 4), project="p")
    made.run(*both, costs=table(BASE // 2, (3300, 3250)))  # refused by data-2 alone
    made.do(SetBudget(STEWARD, ONE, {"mu": 2}, Amount(2 * BASE, 1000), "more", ALONE))
    before = made.begin(use(2, ["a"]), cost=Amount(1, 0))
    made.run(use(2, ["a"]), costs=table(BASE // 2))
    made.move(settle, later, excess=Amount(130, 1), residual=table(costs=range(130, 114, -1)))  # behind a raise
    made.move(settle, of_both)
    made.move(settle, before, excess=Amount(700, 1), residual=table(BASE // 2, range(700, 540, -10)))  # overdrawn
    for dataset_id in (ONE, TWO):
        made.do(Change(ADMIN, dataset_id, "active", None, None, "looked at", ALONE))
    huge = made.begin(use(1), cost=Amount(1, 0))
    made.move(settle, huge, excess=Amount(90_000, 1), residual=table(costs=(90_000, 80_000)))  # reported
    confirmed = {"excess": Amount(90_000, 1), "residual": table(costs=(90_000, 80_000))}
    made.move(settle, huge, STEWARD, ruling=CONFIRMED, **confirmed)
    return made


def batches() -> Residuals:
    """Batches on two datasets and on one that is derived from both, and what is given back of them."""
    made = Residuals(
        residual(1, Amount(BASE, 1000)),
        residual(2, Amount(BASE // 2, 1000), partitions=["a", "b"]),
        residual(3, None, derived_from=(Parent(ONE, "data-1"), Parent(TWO, "data-2"))),
    )
    three = made.batch(*(made.asking(use(1), costs=table()) for _ in range(3)))
    made.move(void, three[0])
    both = (use(3), use(1, via=3), use(2, None, via=3))
    mixed = made.batch(
        made.asking(use(1), cost=Amount(700, 0)),
        made.asking(*both, costs=table(BASE // 2)),
        made.asking(use(1), costs=table()),
        made.asking(use(2, ["a"]), costs=table(BASE // 2, FALLING[:4])),
    )
    made.move(void, mixed[1])
    made.batch(*(made.asking(use(1), costs=table()) for _ in range(12)))  # fit at no level, and one after another
    return made


# --- at random -------------------------------------------------------------------------------------------------------


@dataclass
class Walk:
    """Random commands on the datasets of a book, and what they left."""

    rng: random.Random
    made: Residuals
    held: list[Ask] = field(default_factory=list)
    started: list[Ask] = field(default_factory=list)
    settled: list[Ask] = field(default_factory=list)

    def step(self) -> None:
        """One more command; one that is refused by a rule leaves nothing."""
        kind = self.rng.choice(
            (
                "ask",
                "ask",
                "ask",
                "batch",
                "start",
                "start",
                "settle",
                "settle",
                "void",
                "limit",
                "thaw",
                "correct",
                "past",
            )
        )
        getattr(self, f"_{kind}")()

    def _tried(self, do: Any, command: Ask, who: Any = ADMIN, **more: Any) -> bool:
        return self._done(self.made.moving(do, command, who, **more))

    def _done(self, command: Any) -> bool:
        _, (outcome,) = decide(self.made.books, [command], now_us=self.made.now_us)
        if isinstance(outcome, LedgerError):
            return False
        self.made.do(command)
        return True

    def _table(self, most: int) -> Residual | None:
        count = self.rng.choice((0, 1, 4, len(LEVELS), len(LEVELS)))
        costs = sorted((self.rng.randrange(1, most) for _ in range(count)), reverse=True)
        return table(self.rng.choice((BASE, BASE // 2, BASE // 4, 1000)), costs) if costs else None

    def _ask(self) -> None:
        command = self._asking()
        if command is not None:
            self.made.do(command)
            run = self.made.books.runs[command.run_id]
            if run.state == "held":
                self.held.append(replace(command, cost=run.cost or command.cost))

    def _batch(self) -> None:
        asks = [ask for ask in (self._asking() for _ in range(self.rng.randrange(1, 5))) if ask is not None]
        if asks:
            mode = self.rng.random()
            self.held += self.made.batch(*asks, is_atomic=mode < 0.4, takes_most=0.4 <= mode < 0.8)

    def _asking(self) -> Ask | None:
        three = (use(3), use(1, via=3), use(2, self.rng.choice((None, ["a"])), via=3))
        uses = self.rng.choice(((use(1),), (use(1),), (use(2, ["a"]),), (use(2, None), use(1)), three))
        costs = self._table(self.rng.choice((300, 1500, 7000)))
        names = {name for one in uses for name in one.via}
        more = {"project": "p"} if self.rng.random() < 0.3 and "data-1" not in names else {}
        cost = Amount(self.rng.randrange(1, 1500) if costs is None else costs.costs[0], self.rng.randrange(30))
        if any(self.made.books.datasets[one.dataset_id].state != "active" for one in uses):
            return None
        return self.made.asking(*uses, costs=costs, cost=cost, **more)

    def _start(self) -> None:
        if self.held:
            command = self.held.pop(self.rng.randrange(len(self.held)))
            (self.started if self._tried(start, command) else self.held).append(command)

    def _void(self) -> None:
        of = self.held if self.rng.random() < 0.7 else self.started
        if of:
            self._tried(void, of.pop(self.rng.randrange(len(of))), STEWARD, is_independent=self.rng.random() < 0.3)

    def _settle(self) -> None:
        if not self.started:
            return
        command = self.started.pop(self.rng.randrange(len(self.started)))
        stop = self.rng.choice(("planned", "data_independent", "data_dependent", "data_dependent"))
        part = self.rng.choice((0, 1, 2, 2))
        charged = Amount(command.cost.mu_sq_pico * part // 2, command.cost.delta_atto * part // 2)
        more: dict[str, Any] = {"charged": command.cost if stop == "planned" else charged, "stop": stop}
        if self.rng.random() < 0.6:
            costs = self._table(self.rng.choice((50, 400, 2500, 30_000)))
            cost = self.rng.randrange(1, 400) if costs is None else costs.costs[0]
            more |= {"excess": Amount(cost, self.rng.randrange(20)), "residual": costs}
        self._tried(settle, command, **more)
        if self.made.books.runs[command.run_id].is_reported:
            self._tried(settle, command, STEWARD, ruling=CONFIRMED, **more)
        if self.made.books.runs[command.run_id].state == "settled":
            self.settled.append(command)

    def _correct(self) -> None:
        if self.settled:
            command = self.rng.choice(self.settled)
            costs = self._table(self.rng.choice((50, 400, 2500, 9000)))
            cost = Amount(self.rng.randrange(1, 900) if costs is None else costs.costs[0], self.rng.randrange(40))
            self.made.corrected(command, cost, residual=costs, by_output=self.rng.random() < 0.3)

    def _past(self) -> None:
        three = (use(3), use(1, via=3), use(2, self.rng.choice((None, ["a"])), via=3))
        uses = self.rng.choice(((use(1),), (use(2, ["a"]),), three))
        costs = self._table(self.rng.choice((50, 300, 1500)))
        cost = Amount(self.rng.randrange(1, 900) if costs is None else costs.costs[0], self.rng.randrange(20))
        self.settled.append(self.made.past(*uses, costs=costs, cost=cost))

    def _limit(self) -> None:
        dataset_id = self.rng.choice((ONE, TWO))
        before = self.made.books.datasets[dataset_id].limit or ZERO
        new = Amount(before.mu_sq_pico * self.rng.choice((3, 5, 5)) // 4, before.delta_atto + self.rng.randrange(200))
        if self.rng.random() < 0.3 and dataset_id == TWO:
            share = Amount(new.mu_sq_pico // 2, 600)
            self._done(SetProject(STEWARD, TWO, "p", {"mu": 1}, share, "r", ALONE))
        else:
            self._done(SetBudget(STEWARD, dataset_id, {"mu": 2}, new, "r", ALONE))

    def _thaw(self) -> None:
        for dataset_id in (ONE, TWO, THREE):
            dataset = self.made.books.datasets[dataset_id]
            if dataset.state == "frozen":
                self.made.do(Change(STEWARD, dataset_id, "active", None, None, "r", ALONE))
            elif dataset.costing == "standalone" and self._is_idle(dataset_id):
                self.made.do(Change(STEWARD, dataset_id, None, None, None, "r", ALONE, "residual"))

    def _is_idle(self, dataset_id: UUID) -> bool:
        return all(
            account.held == ZERO for key, account in self.made.books.accounts.items() if key.dataset_id == dataset_id
        )


def walked(rng: random.Random, steps: int) -> Residuals:
    """A book after random commands. Now and then a dataset costs its runs by themselves at first."""
    costing = "standalone" if rng.random() < 0.3 else "residual"
    made = Residuals(
        registered(1, Amount(BASE, 2000), bound="certified", costing=costing),
        residual(2, Amount(BASE // 2, 2000), partitions=["a", "b"]),
        residual(3, None, derived_from=(Parent(ONE, "data-1"), Parent(TWO, "data-2"))),
    )
    made.do(SetProject(STEWARD, TWO, "p", {"mu": 1}, Amount(BASE // 4, 800), "a share", ALONE))
    walk = Walk(rng, made)
    for _ in range(steps):
        walk.step()
    return made

"""The least limit of a journal, beside a search through every limit by the rules as they are written."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest

from ledger.core import least as least_module
from ledger.core.amounts import INT64_MAX, Amount
from ledger.core.books import Books
from ledger.core.commands import Ask
from ledger.core.decision.group import decide
from ledger.core.least import Charges
from ledger.core.residual import LEVELS, PARTS, Residual
from tests.kit.books import NOW_US, actor, add_dataset, ask, opened, settle, start, use, void

WHO = actor("requester")
LIMIT = 150
Entry = Mapping[str, Any]


class Journal:
    """The entries that deciding leaves in the journal of one dataset, as far as a least limit needs them."""

    def __init__(self, books: Books, dataset: int) -> None:
        self.books, self.dataset = books, UUID(int=dataset)
        self.entries: list[Entry] = []

    def do(self, command: Any) -> Entry | None:
        """Decide. Return the entry, if there is one."""
        self.books, (outcome,) = decide(self.books, [command], now_us=NOW_US)
        for draft in outcome if isinstance(outcome, tuple) else ():
            if draft.dataset_id == self.dataset:
                self.entries.append({**draft.facts, "kind": draft.kind, "seq": draft.seq, "run": str(draft.run_id)})
                return self.entries[-1]
        return None


def table(rng: random.Random, base: int = LIMIT) -> Residual:
    """Costs that fall, some of them flat."""
    costs = sorted((rng.randrange(1, 40) for _ in LEVELS), reverse=True)
    return Residual(base, tuple(costs[: rng.choice((1, 4, len(LEVELS)))]))


def played(rng: random.Random, *, is_partitioned: bool) -> Journal:
    """A journal of every kind of entry that charges or gives back."""
    books = opened(Amount(LIMIT, 10**6), costing="residual")
    add_dataset(books, 2, Amount(LIMIT, 10**6), partitions=("a", "b", "c"), costing="residual")
    journal = Journal(books, 2 if is_partitioned else 1)
    running: list[tuple[Ask, Amount]] = []
    for _ in range(rng.randrange(1, 14)):
        if running and rng.random() < 0.45:
            end(journal, rng, *running.pop(rng.randrange(len(running))))
            continue
        names = sorted(rng.sample("abc", rng.randrange(1, 4)))
        costs = table(rng) if rng.random() < 0.8 else None
        cost = Amount(rng.randrange(1, 30) if costs is None else costs.costs[0], rng.randrange(5))
        command = ask(use(2, names) if is_partitioned else 1, cost=cost, residual=costs)
        approved = journal.do(command)
        if approved is not None and approved["kind"] == "run-approved":
            running.append((command, Amount.from_facts(approved["cost"])))
    return journal


def end(journal: Journal, rng: random.Random, command: Ask, cost: Amount) -> None:
    """Void a run, or settle it as planned, for a part, or for more."""
    if rng.random() < 0.3:
        journal.do(void(WHO, journal.books, command, is_independent=rng.random() < 0.5))
        return
    journal.do(start(WHO, journal.books, command))
    stop = rng.choice(("planned", "data_dependent", "data_independent"))
    charged = cost if stop == "planned" else Amount(rng.randrange(cost.mu_sq_pico + 1), cost.delta_atto)
    more = table(rng) if rng.random() < 0.5 else None
    excess = Amount(rng.randrange(1, 20) if more is None else more.costs[0], 2) if rng.random() < 0.3 else None
    journal.do(
        settle(
            WHO, journal.books, command, charged=charged, excess=excess, stop=stop, residual=more if excess else None
        )
    )


# --- the oracle ------------------------------------------------------------------------------------------------------


def searched(entries: Sequence[Entry]) -> int:
    """The first of all limits that fits each account, tried one after another."""
    names = {name for entry in entries if entry["kind"] == "run-approved" for name in names_of(entry)}
    return next(limit for limit in range(10**6) if all(fits(entries, name, limit) for name in names))


def names_of(entry: Entry) -> list[str | None]:
    """The accounts of an approval."""
    return [None] if "balance" in entry else [name for group in entry["accounts"] for name in group["partitions"]]


def positions(facts: Entry | None, cost: int, *, is_late: bool = False) -> Iterator[tuple[int, int]]:
    """What must be left at each position, and the cost there."""
    if facts is None:
        yield cost, cost
        return
    base = int(facts["base"])
    for at, one in enumerate(int(text) for text in facts["costs"].split()):
        r = math.ceil(Fraction(base * LEVELS[at], PARTS))
        yield r + one + (0 if is_late or at == 0 else base // 50), one


def fits(entries: Sequence[Entry], name: str | None, limit: int) -> bool:
    """Whether each entry is approved again in one account, with what is charged now and what was charged then."""
    charges: dict[str, int] = {}
    then: dict[str, int] = {}

    def take(label: str, options: Iterator[tuple[int, int]]) -> bool:
        left = limit - sum(charges.values())
        costs = [cost for needed, cost in options if needed <= left]
        charges[label] = min(costs, default=0)
        return bool(costs)

    for entry in entries:
        run, kind = entry["run"], entry["kind"]
        if kind == "run-approved" and name in names_of(entry):
            cost = int(entry["cost"]["mu_sq_pico"])
            then[run] = cost
            if not take(run, positions(entry.get("residual"), cost)):
                return False
        if kind == "run-voided" and run in then and "kept" not in entry:
            charges[run] = 0
        if kind == "run-settled" and run in then:
            approved = then[run]
            part = Fraction(approved - int(entry["returned"]["mu_sq_pico"]), approved)
            if entry["stop"] == "data_dependent":
                charges[run] = math.ceil(charges[run] * part)
            elif charges[run] <= approved:
                charges[run] = min(charges[run], math.ceil(approved * part))
            over = entry.get("overrun")
            if over is not None:
                cost = int(over["cost"]["mu_sq_pico"])
                if not take(f"{run} late", positions(over.get("residual"), cost, is_late=True)):
                    return False
    return True


# --- the tests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_partitioned", [False, True])
def test_a_least_limit_is_the_first_that_fits(is_partitioned: bool, tries: Callable[[int, int], int]) -> None:
    """Goal: the least limit is exact, whatever was voided, given back, kept or charged late. Method: random journals of
    the real decision; a search through all limits; and that it is no more than the limit unless that was overdrawn."""
    kinds: set[str] = set()
    for seed in range(tries(150, 3_000)):
        journal = played(random.Random(seed), is_partitioned=is_partitioned)
        charges, entries = Charges(), journal.entries
        for entry in entries:
            charges.read(entry)
        least = charges.least_limit()
        assert least is not None
        assert least.mu_sq_pico == searched(entries), f"seed {seed}"
        is_overdrawn = any(account.overdrawn.mu_sq_pico for account in journal.books.accounts.values())
        assert least.mu_sq_pico <= LIMIT or is_overdrawn, f"seed {seed}"
        kinds |= {f"{entry['kind']} {name}" for entry in entries for name in ("kept", "overrun") if name in entry}
    assert kinds >= {"run-voided kept", "run-settled kept", "run-settled overrun"}


def test_a_least_limit_up_to_an_entry_is_that_of_the_journal_then() -> None:
    """Goal: what was stored some time ago can be compared later. Method: at each entry, the charges of a whole journal
    and of its beginning."""
    for seed in range(40):
        entries = played(random.Random(seed), is_partitioned=seed % 2 == 0).entries
        whole, begun = Charges(), Charges()
        for entry in entries:
            whole.read(entry)
        for entry in entries:
            begun.read(entry)
            assert whole.least_limit(entry["seq"]) == begun.least_limit()


def test_delta_is_the_most_that_was_charged_at_once() -> None:
    """Goal: delta is a plain sum, of which the highest counts. Method: two runs, of which the first is voided before a
    third one."""
    journal = Journal(opened(Amount(LIMIT, 10**6), costing="residual"), 1)
    first, second, third = (ask(1, cost=Amount(1, delta)) for delta in (7, 20, 5))
    journal.do(first)
    journal.do(second)
    journal.do(void(WHO, journal.books, first))
    journal.do(third)
    charges = Charges()
    for entry in journal.entries:
        charges.read(entry)
    assert charges.least_limit() == Amount(2, 27)


def test_too_many_charges_have_no_least_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: memory and time are bounded. Method: as many charges as may be, and one more, by entries alone."""
    monkeypatch.setattr(least_module, "CHARGES_MAX", 50)
    charges = Charges()
    approved = {"kind": "run-approved", "run": "r", "cost": {"mu_sq_pico": "1", "delta_atto": "0"}, "balance": {}}
    for seq in range(50):
        charges.read({**approved, "seq": seq})
    assert charges.least_limit() == Amount(50, 0)
    charges.read({**approved, "seq": 50})
    assert charges.least_limit() is None


def test_a_sum_beyond_64_bits_is_cut_off() -> None:
    """Goal: a least limit can be stored, as a balance can. Method: two charges of the largest amount."""
    charges = Charges()
    for seq in (1, 2):
        cost = {"mu_sq_pico": str(INT64_MAX), "delta_atto": str(INT64_MAX)}
        charges.read({"kind": "run-approved", "run": f"{seq}", "cost": cost, "balance": {}, "seq": seq})
    assert charges.least_limit() == Amount(INT64_MAX, INT64_MAX)

"""Tables of costs beside what is left, and the trail that limits late charges."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from ledger.core import residual
from ledger.core.amounts import ZERO, Amount
from ledger.core.commands import Change, SetBudget, SetProject
from ledger.core.datasets import Parent
from ledger.core.journal import chain
from ledger.core.residual import LEVELS, NO_TRAIL, Residual, Trail, levels
from ledger.errors import InvalidRequest, LedgerError
from tests.kit import independent_verifier
from tests.kit.beside_left import BASE, FALLING, THREE, Residuals, table
from tests.kit.beside_left import residual as registered
from tests.kit.books import (
    ALONE,
    CERTIFIED,
    add_dataset,
    ask,
    key,
    only,
    opened,
    set_fair_use,
    settle,
    started,
    use,
    void,
    with_project,
)
from tests.kit.exports import exported
from tests.kit.journals import ONE, STEWARD
from tests.kit.journals import registered as standalone

FEW = (1000, 400, 100)
"""Costs at r = 0, 2/64 and 4/64 of a base."""


# --- tables ----------------------------------------------------------------------------------------------------------


def test_levels_are_parts_of_the_base_rounded_up() -> None:
    """Goal: no r is below its part of the base, by which it is costed. Method: bases that 64 does not divide."""
    assert levels(64) == LEVELS
    for base in (1, 63, 65, 6_317_004_112_331):
        assert [64 * r for r in levels(base)] >= [base * part for part in LEVELS]
        assert all(0 <= 64 * r - base * part < 64 for r, part in zip(levels(base), LEVELS, strict=True))
    assert len(LEVELS) == 16


@pytest.mark.parametrize(
    ("left", "index"),
    [
        (6238, 14),  # 60/64 of 6400, 110, and a fiftieth of 6400
        (6237, 13),
        (1227, 0),  # 2/64 of 6400, 900 and a fiftieth need one more
        (999, None),
    ],
)
def test_the_least_cost_that_fits(left: int, index: int | None) -> None:
    """Goal: the least cost for which r, the cost and the reserve are left. Method: by hand, at the limits."""
    assert table().best(left) == index
    assert table().least_needed == 1000


def test_of_equal_costs_the_lowest_level() -> None:
    """Goal: r is never larger than it must be."""
    assert Residual(BASE, (500, 500, 200, 200, 200)).best(BASE) == 2
    assert Residual(BASE, (500,) * 16).best(BASE) == 0
    assert Residual(BASE, (500, 500, 200, 200)).late(BASE, BASE) == 2


def test_a_late_charge_needs_no_reserve_and_fits_the_slack() -> None:
    """Goal: r and the cost are left, and the cost is at most the slack; no reserve. Method: at the limits."""
    of_few = Residual(BASE, FEW)
    assert [of_few.late(left, 100) for left in (500, 499)] == [2, None]
    assert [of_few.late(BASE, slack) for slack in (100, 99)] == [2, None]
    assert of_few.late(499, 400) is None
    assert of_few.late(600, 400) == 2
    assert of_few.late(1000, 1000) == 2


@pytest.mark.parametrize("costs", [(7,), FEW, FALLING])
def test_facts_are_read_again(costs: tuple[int, ...]) -> None:
    """Goal: an entry has the table as short text, and nothing is lost."""
    facts = Residual(BASE, costs).facts()
    assert facts == {"base": "6400", "costs": " ".join(map(str, costs))}
    assert Residual.from_facts(facts) == Residual(BASE, costs)
    assert Residual.from_facts(facts | {"level": 0, "by": "x"}) == Residual(BASE, costs)


@pytest.mark.parametrize(
    "facts",
    [
        {"base": "0", "costs": "1"},
        {"base": "-5", "costs": "1"},
        {"base": "05", "costs": "1"},
        {"base": " 5", "costs": "1"},
        {"base": 5, "costs": "1"},
        {"base": "5", "costs": ""},
        {"base": "5", "costs": "0"},
        {"base": "5", "costs": "1 2"},
        {"base": "5", "costs": "2  1"},
        {"base": "5", "costs": "2 1 "},
        {"base": "5", "costs": "1_0 1"},
        {"base": "5", "costs": "\u0661"},
        {"base": "5", "costs": ["1"]},
        {"base": "5", "costs": " ".join(["1"] * 17)},
        {"base": "5", "costs": "9" * 5000},
    ],
)
def test_no_other_text_is_a_table(facts: dict[str, Any]) -> None:
    """Goal: a table has one form. Method: what is nearly one."""
    with pytest.raises(ValueError):  # noqa: PT011 (Python's own, of a text that is no number, among them)
        Residual.from_facts(facts)


# --- the trail -------------------------------------------------------------------------------------------------------


@dataclass
class Naive:
    """All entries with what was left behind each, and all raises: nothing is merged or left out."""

    entries: list[list[int]] = field(default_factory=list)
    raises: list[list[int]] = field(default_factory=list)

    def slack(self, place: int, left: int) -> int:
        return min(self.left_at(place, left), *(room for seq, room in self.entries if seq > place), left)

    def left_at(self, place: int, left: int) -> int:
        """Every raise counts if the last one does."""
        is_behind = any(seq > place for seq, _ in self.raises)
        return min([left, *(then for _, then in self.raises)]) if is_behind else left

    def charge(self, place: int, amount: int, r: int) -> None:
        for entry in self.entries:
            entry[1] -= amount if entry[0] > place else 0
        if any(seq > place for seq, _ in self.raises):
            for raised in self.raises:
                raised[1] -= amount + r


@pytest.mark.parametrize("items_max", [10**6, 6, 3, 1])
def test_a_trail_is_its_entries(
    items_max: int, tries: Callable[[int, int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: a trail says what all entries would, and a short one allows no more than that. Method: random approvals,
    late charges and raises, beside a list that keeps everything; each trail also goes through its text."""
    monkeypatch.setattr(residual, "ITEMS_MAX", items_max)
    rng, equal, longest = random.Random(3), 0, 0
    compared = 0
    for _ in range(tries(40, 4000)):
        trail, naive, left = NO_TRAIL, Naive(), 1000
        for seq in range(1, 50):
            place, amount, r = rng.randrange(seq), rng.randrange(1, 40), rng.choice((0, rng.randrange(1, 300)))
            match rng.choice(("note", "note", "charge", "raise")):
                case "note":
                    trail = trail.noted(seq, left - r, 1000)
                    naive.entries.append([seq, left - r])
                case "charge":
                    trail = trail.charged(place, Amount(amount, 0), r)
                    naive.charge(place, amount, r)
                    left -= amount
                case _ if rng.random() < 0.3:
                    trail = trail.raised(seq, Amount(left, 0))
                    naive.raises.append([seq, left])
                    left += 200
            trail = Trail.from_text(trail.text())
            longest = max(longest, len(trail.items))
            assert len(trail.items) <= items_max
            for at in range(seq + 1):
                allowed, true = trail.slack(at, left), naive.slack(at, left)
                assert allowed <= true
                equal += allowed == true
                compared += 1
            assert trail.least is None or trail.least <= min(room for _, room in naive.entries)
    print(f"{equal} of {compared} alike; at most {longest} items")
    assert (equal == compared) == (longest < items_max)
    assert equal > compared / 4


def test_a_trail_by_hand() -> None:
    """Goal: what is dropped, merged and lowered. Method: each by hand."""
    trail = NO_TRAIL.noted(5, 30, 100).noted(7, 50, 100).noted(9, 90, 100)
    assert [trail.slack(place, 80) for place in (4, 5, 7, 9)] == [30, 50, 80, 80]
    assert trail.noted(10, 50, 100).items == ((5, 30), (10, 50))
    assert trail.charged(6, Amount(25, 0), 0).items == ((7, 25), (9, 65))
    assert trail.charged(8, Amount(65, 0), 0).items == ((9, 25),)
    raised = trail.raised(11, Amount(40, 9))
    assert (raised.left_at(10, 70), raised.left_at(11, 70)) == (40, 70)
    assert raised.raised(12, Amount(60, 7)).left_at(11, 70) == 40
    assert [raised.raised(12, Amount(60, 7)).delta_at(place, 20) for place in (11, 12)] == [7, 20]
    charged = raised.charged(10, Amount(15, 2), 20)
    assert (charged.items, charged.raised_left, charged.raised_atto) == (raised.items, 5, 7)
    assert raised.charged(11, Amount(15, 2), 20) == raised
    assert (NO_TRAIL.text(), Trail.from_text("")) == ("", NO_TRAIL)
    assert Trail.from_text(raised.text()) == raised
    assert {trail.highest, trail.noted(10, 95, 70).highest} == {100}


# --- decisions -------------------------------------------------------------------------------------------------------


def residual_ask(*uses: Any, costs: Residual, **more: Any) -> Any:
    """A run with a table, at its cost by itself."""
    return ask(*uses, cost=Amount(costs.costs[0], 1), terms=CERTIFIED, residual=costs, **more)


def test_a_refusal_names_mu_if_no_level_fits_and_delta_by_its_sum() -> None:
    """Goal: the binding quantity. Method: nothing fits; only delta does not; a principal's limit does not."""
    books = opened(Amount(BASE, 10), costing="residual")
    assert only(books, residual_ask(1, costs=table(costs=(9000, 8000))))[1].facts["binding"] == ["mu"]
    wide = replace(residual_ask(1, costs=table()), cost=Amount(1000, 11))
    refused = only(books, wide)[1]
    assert (refused.facts["binding"], refused.facts["residual"]["level"]) == (["delta"], 14)
    set_fair_use(books, 1, held=Amount(100, 10))
    assert only(books, residual_ask(1, costs=table()))[1].facts["binding"] == ["mu"]
    set_fair_use(books, 1, held=Amount(110, 10))
    _, approved = only(books, residual_ask(1, costs=table()))
    assert approved.facts["cost"] == Amount(110, 1).facts()


def test_one_cost_by_the_least_that_is_left_anywhere() -> None:
    """Goal: in every account the same cost, beside the least that is left in one that carries a guarantee. Method: a
    project with little; two datasets; the entries name the dataset that decided."""
    books = opened(Amount(BASE, 10), Amount(BASE, 10), costing="residual")
    with_project(books, 2, Amount(2000, 10))
    books, drafts = only(books, residual_ask(1, costs=table()))
    assert drafts.facts["residual"] == {**table().facts(), "level": 14}
    command = residual_ask(2, costs=table(), project="p")
    books, draft = only(books, command)
    assert draft.facts["residual"]["level"] == 5  # 1200, 500 and 128 of 2000
    books, (of_one, of_two) = only(books, residual_ask(1, 2, costs=table()))
    assert "by" not in of_two.facts["residual"]
    assert of_one.facts["residual"]["by"] == "data-2"
    assert of_one.facts["cost"] == of_two.facts["cost"]
    assert (of_one.facts["residual"]["level"], books.runs[command.run_id].r) == (13, 1200)
    assert books.accounts[key(2)].trail.least == 5900 - 120 - 5600
    assert books.accounts[key(2, project="p")].trail.least == 2000 - 500 - 1200


def test_a_dataset_that_costs_runs_by_themselves_makes_all_do_so() -> None:
    """Goal: one cost for all, and no r, if one of the datasets has today's rule."""
    books = opened(Amount(BASE, 10), costing="residual")
    add_dataset(books, 2, Amount(BASE, 10))
    command = residual_ask(1, 2, costs=table())
    books, drafts = only(books, command)
    assert [draft.facts["cost"]["mu_sq_pico"] for draft in drafts] == ["1000", "1000"]
    assert not any("residual" in draft.facts for draft in drafts)
    assert (books.runs[command.run_id].r, books.accounts[key(1)].trail) == (0, NO_TRAIL)


def test_what_an_ended_run_gives_back() -> None:
    """Goal: a run at r > 0 gives back if as much is left now, its own charge counted, or nothing decided its end; at
    r = 0 always. Method: r left and one less, for a void and for a stop."""
    for left, kept in ((6000, "0"), (5999, "110")):
        for how in ("void", "stop", "independent", "planned"):
            books = opened(Amount(BASE, 10), costing="residual")
            command = residual_ask(1, costs=table())
            books = started(books, command)
            books, _ = only(books, ask(1, cost=Amount(BASE - 110 - left, 1), terms=CERTIFIED))
            run = replace(command, cost=Amount(110, 1))
            end: Any = void(STEWARD, books, command, is_independent=how == "independent")
            if how in ("stop", "planned"):
                stop = "data_dependent" if how == "stop" else "data_independent"
                end = settle(command.actor, books, run, charged=Amount(0, 0), stop=stop)
            after, draft = only(books, end)
            expected = kept if how in ("void", "stop") else "0"
            assert draft.facts.get("kept", ZERO.facts())["mu_sq_pico"] == expected, (left, how)
            assert draft.facts.get("kept_for", []) == (["data-1"] if expected != "0" else [])
            account = after.accounts[key(1)]
            assert account.remaining.mu_sq_pico == left + 110 - int(expected)
            # What gave back by the rule left an entry of which nothing more may be taken.
            assert account.trail.least == (0 if (left, how) in ((6000, "void"), (6000, "stop")) else 6290 - 6000)


def test_a_late_charge_takes_no_more_than_later_entries_leave() -> None:
    """Goal: a charge before a later approval fits up to the slack, and beyond it the account is overdrawn though the
    sum fits. Method: the slack, and one more; a raise to what is missing heals it."""
    for excess, missing in ((290, 0), (291, 1)):
        books = opened(Amount(BASE, 10), costing="residual")
        late = ask(1, cost=Amount(0, 0), terms=CERTIFIED)
        books = started(books, late)
        books, _ = only(books, residual_ask(1, costs=table()))
        assert books.accounts[key(1)].slack == 290
        books, draft = only(books, settle(late.actor, books, late, excess=Amount(excess, 1)))
        account = books.accounts[key(1)]
        assert (draft.facts["overrun"]["fits"], account.overdrawn.mu_sq_pico) == (missing == 0, missing)
        assert (account.remaining.mu_sq_pico, account.slack) == (6290 - excess, -missing)
        healed, _ = only(books, SetBudget(STEWARD, ONE, {}, Amount(BASE + missing, 10), "r", ALONE))
        assert healed.accounts[key(1)].overdrawn == ZERO


def test_a_run_that_gives_back_eases_what_its_own_overrun_meets() -> None:
    """Goal: decide and replay agree on an account that is overdrawn until a run that ends gives back, and whose own
    overrun then fits. Method: an overrun before, and one that fits in what is given back; the journal replays."""
    made = Residuals(registered(1, Amount(1000, 10)))
    first, second = (made.begin(use(1), cost=Amount(400, 1)) for _ in range(2))
    made.move(settle, first, excess=Amount(300, 0))
    assert made.books.accounts[key(1)].overdrawn == Amount(100, 0)
    made.do(Change(STEWARD, ONE, "active", None, None, "r", ALONE))
    made.move(settle, second, charged=Amount(0, 0), excess=Amount(250, 0), stop="data_dependent")
    account = made.books.accounts[key(1)]
    assert (account.overdrawn, account.remaining.mu_sq_pico) == (ZERO, 50)
    assert made.replay().accounts == {account.key: account}
    assert made.books.datasets[ONE].state == "active"


def test_an_account_that_is_overdrawn_has_no_slack() -> None:
    """Goal: a late charge there is recorded at its cost by itself and overdraws, though a level would fit the sum."""
    made = Residuals(registered(1, Amount(BASE, 1000)))
    late, later = (made.begin(use(1), cost=Amount(1, 1)) for _ in range(2))
    made.run(use(1), costs=table())
    made.move(settle, late, excess=Amount(500, 1))
    made.move(settle, later, excess=Amount(5, 1), residual=table(costs=(5, 4, 3)))
    account = made.books.accounts[key(1)]
    assert account.overdrawn.mu_sq_pico == 500 + 5 - 288
    assert account.spent.mu_sq_pico == 1 + 500 + 1 + 5
    assert made.replay().accounts == {account.key: account}


def test_a_project_share_of_a_dataset_without_a_budget_is_switched() -> None:
    """Goal: what is counted in a share is costed beside what is left once a steward switches the dataset, as long as
    nothing is held there; a dataset in which nothing is counted is not switched. Method: a derived dataset before and
    after it has a share, with a run held in it, and after that; replay."""
    parents = (Parent(ONE, "data-1"),)
    made = Residuals(
        registered(1, Amount(BASE, 10)),
        standalone(3, None, bound="certified", derived_from=parents, costing="standalone"),
    )
    switch = Change(STEWARD, THREE, None, None, None, "r", ALONE, "residual")
    both = (use(3), use(1, via=3))
    _, error = only(made.books, switch)
    assert isinstance(error, InvalidRequest)
    assert "neither a budget nor a project's share" in error.detail
    made.do(SetProject(STEWARD, THREE, "p", {"mu": 1}, Amount(BASE, 10), "a share", ALONE))
    before = made.run(*both, costs=table(), project="p")
    assert before.cost.mu_sq_pico == 1000
    assert isinstance(only(made.books, switch)[1], InvalidRequest)
    made.move(void, before)
    made.do(switch)
    assert made.run(*both, costs=table(), project="p").cost.mu_sq_pico == 110
    for dataset_id in (ONE, THREE):
        replayed = made.replay(dataset_id)
        mine = {each: account for each, account in made.books.accounts.items() if each.dataset_id == dataset_id}
        assert replayed.accounts == mine
        independent_verifier.verify(exported(dataset_id, made.journals[dataset_id], requests=made.requests))


def test_a_dataset_is_switched_once() -> None:
    """Goal: a steward switches a certified dataset to costs beside what is left, on record, and once; runs before keep
    their meaning. Method: a run before and one after; again; a dataset without certificates."""
    made = Residuals(standalone(1, Amount(BASE, 10), bound="certified"))
    switch = Change(STEWARD, ONE, None, None, None, "r", ALONE, "residual")
    before = made.run(use(1), costs=table())
    assert isinstance(only(made.books, switch)[1], LedgerError)
    made.move(void, before)
    made.do(switch)
    made.run(use(1), costs=table())
    entries = [chain.parse(body) for body, _ in made.entries]
    assert [entry.get("costing") for entry in entries] == ["standalone", None, None, "residual", None]
    assert [entry["cost"]["mu_sq_pico"] for entry in entries if "cost" in entry] == ["1000", "110"]
    assert made.replay().accounts == made.books.accounts
    assert isinstance(only(made.books, switch)[1], LedgerError)
    assert isinstance(only(opened(Amount(BASE, 10)), switch)[1], LedgerError)

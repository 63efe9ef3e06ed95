"""Single rules of the decision about runs that were executed otherwise than planned."""

from __future__ import annotations

from uuid import UUID

from ledger.core.amounts import INT64_MAX, Amount
from ledger.core.commands import Change, SetBudget
from ledger.core.decision.posting import Repeat
from ledger.errors import BudgetBelowSpent
from tests.kit.books import (
    ALONE,
    CONFIRMED,
    actor,
    ask,
    key,
    only,
    opened,
    parted,
    settle,
    started,
    use,
    void,
    with_project,
)

ONE = UUID(int=1)


def test_what_was_not_executed_is_returned_everywhere() -> None:
    """Goal: a settled run leaves what it was charged in all its accounts, and no hold."""
    books = parted()
    with_project(books, 2, Amount(90, 90))
    command = ask(use(1), use(2, ["a"]), cost=Amount(60, 6), project="p")
    with_project(books, 1, Amount(90, 90))
    books = started(books, command)
    books, drafts = only(books, settle(command.actor, books, command, charged=Amount(20, 6)))
    assert {draft.facts["returned"]["mu_sq_pico"] for draft in drafts} == {"40"}
    charged = [account for account in books.accounts.values() if account.spent != Amount(0, 0)]
    assert len(charged) == 4
    assert {(account.spent, account.held) for account in charged} == {(Amount(20, 6), Amount(0, 0))}


def test_an_overrun_that_fits_freezes_nothing() -> None:
    """Goal: more than planned is charged, and where it fits nothing else happens."""
    command = ask(1, cost=Amount(60, 0))
    books = started(opened(Amount(100, 0)), command)
    books, draft = only(books, settle(command.actor, books, command, excess=Amount(40, 0)))
    assert draft.facts["charged"] == Amount(100, 0).facts()
    assert {name: draft.facts["overrun"][name] for name in ("steps", "fits", "frozen")} == {
        "steps": 7,
        "fits": True,
        "frozen": [],
    }
    account = books.accounts[key(1)]
    assert (account.spent, account.overdrawn, books.datasets[ONE].state) == (Amount(100, 0), Amount(0, 0), "active")


def test_an_overrun_that_does_not_fit_freezes_what_it_overdraws() -> None:
    """Goal: it is charged all the same; the datasets of overdrawn accounts are frozen, others are not, and nothing fits
    there, also once thawed; a new limit eases it."""
    books = opened(Amount(1000, 0), Amount(100, 0))
    command = ask(1, 2, cost=Amount(60, 0))
    books = started(books, command)
    books, (of_one, of_two) = only(books, settle(command.actor, books, command, excess=Amount(41, 0)))
    assert of_one.facts["overrun"] == of_two.facts["overrun"]
    assert (of_one.facts["overrun"]["fits"], of_one.facts["overrun"]["frozen"]) == (False, ["data-2"])
    assert ("state" in of_one.facts, of_two.facts["state"]) == (False, "frozen")
    assert books.accounts[key(2)].overdrawn == Amount(1, 0)
    assert books.accounts[key(2)].remaining == Amount(-1, 0)
    assert {dataset.id.int: dataset.state for dataset in books.datasets.values()} == {1: "active", 2: "frozen"}
    steward = actor("steward")
    thawed, _ = only(books, Change(steward, UUID(int=2), "active", None, None, "r", ALONE))
    assert only(thawed, ask(2, cost=Amount(0, 0)))[1].kind == "run-refused"
    assert isinstance(
        only(thawed, SetBudget(steward, UUID(int=2), {}, Amount(100, 0), "r", ALONE))[1], BudgetBelowSpent
    )
    eased, _ = only(thawed, SetBudget(steward, UUID(int=2), {}, Amount(101, 0), "r", ALONE))
    assert eased.accounts[key(2)].overdrawn == Amount(0, 0)
    assert only(eased, ask(2, cost=Amount(0, 0)))[1].kind == "run-approved"
    repeated = settle(command.actor, books, command, excess=Amount(41, 0))
    assert only(books, repeated)[1] == Repeat(command.run_id, "run-settled", {})


def test_an_overdraft_shrinks_with_what_is_given_back() -> None:
    """Goal: of an account that is overdrawn while others hold there, a hold that is given back counts first; it never
    grows again."""
    books = opened(Amount(100, 0))
    other, late = ask(1, cost=Amount(30, 0), who=actor("requester", 2)), ask(1, cost=Amount(50, 0))
    books, _ = only(books, other)
    books = started(books, late)
    books, _ = only(books, settle(late.actor, books, late, excess=Amount(60, 0)))
    assert books.accounts[key(1)].overdrawn == Amount(40, 0)
    books, _ = only(books, void(actor("steward"), books, other))
    assert books.accounts[key(1)].overdrawn == Amount(10, 0)
    assert books.accounts[key(1)].remaining == Amount(-10, 0)


def test_an_overrun_of_a_project_alone() -> None:
    """Goal: the share is overdrawn though the dataset has room; the dataset waits for a steward all the same."""
    books = opened(Amount(1000, 0))
    with_project(books, 1, Amount(10, 0))
    command = ask(1, cost=Amount(10, 0), project="p")
    books = started(books, command)
    books, draft = only(books, settle(command.actor, books, command, excess=Amount(5, 0)))
    assert draft.facts["overrun"]["frozen"] == ["data-1"]
    assert books.accounts[key(1)].overdrawn == Amount(0, 0)
    assert books.accounts[key(1, project="p")].overdrawn == Amount(5, 0)


def test_an_overrun_past_64_bits_saturates() -> None:
    """Goal: what was executed is recorded whatever it cost: a balance ends at 2^63 - 1, and can be settled on again."""
    books = opened(Amount(100, 100))
    command, more = ask(1, cost=Amount(50, 0)), ask(1, cost=Amount(50, 0))
    books = started(started(books, command), more)
    for each in (command, more):
        books, reported = only(books, settle(each.actor, books, each, excess=Amount(10**40, 1)))
        assert (reported.kind, books.accounts[key(1)].held.mu_sq_pico) == ("run-reported", 50 if each is more else 100)
        books, draft = only(books, settle(actor("steward"), books, each, excess=Amount(10**40, 1), ruling=CONFIRMED))
        assert draft.facts["charged"]["mu_sq_pico"] == str(10**40 + 50)
        assert (draft.facts["overrun"]["fits"], draft.facts["state"]) == (False, "frozen")
        books, _ = only(books, Change(actor("steward"), ONE, "active", None, None, "r", ALONE))
    account = books.accounts[key(1)]
    assert (account.spent, account.held) == (Amount(INT64_MAX, 2), Amount(0, 0))
    assert account.overdrawn == Amount(INT64_MAX - 100, 0)


def test_an_overrun_on_a_retired_dataset_leaves_it_retired() -> None:
    """Goal: retirement is final, also for an overrun, which is recorded as one that does not fit."""
    command = ask(1, cost=Amount(10, 0))
    books = started(opened(Amount(10, 0)), command)
    books, _ = only(books, Change(actor("steward"), ONE, "retired", None, None, "r", ALONE))
    books, draft = only(books, settle(command.actor, books, command, excess=Amount(1, 0)))
    assert (draft.facts["state"], books.datasets[ONE].state) == ("retired", "retired")
    assert draft.facts["overrun"]["frozen"] == ["data-1"]


def test_an_overrun_fits_nowhere_where_less_than_nothing_is_left() -> None:
    """Goal: an overrun is asked for like a new run: where it is overdrawn, not even one that costs nothing in
    that quantity fits, and the dataset is frozen again. Method: overrun, thaw, overrun in the other quantity alone."""
    books = opened(Amount(100, 100))
    first, second = ask(1, cost=Amount(50, 0)), ask(1, cost=Amount(50, 0))
    books = started(started(books, first), second)
    books, _ = only(books, settle(first.actor, books, first, excess=Amount(10, 0)))
    books, _ = only(books, Change(actor("steward"), ONE, "active", None, None, "r", ALONE))
    books, draft = only(books, settle(second.actor, books, second, excess=Amount(0, 5)))
    assert (draft.facts["overrun"]["fits"], draft.facts["state"]) == (False, "frozen")
    assert books.accounts[key(1)].overdrawn == Amount(10, 0)

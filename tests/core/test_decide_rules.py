"""Single rules of the decision, one test for each, and for each error."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from ledger.core.amounts import INT64_MAX, Amount
from ledger.core.books import Books
from ledger.core.commands import (
    AddPartitions,
    Batch,
    Change,
    Command,
    SetBudget,
    SetFairUse,
    SetProject,
)
from ledger.core.datasets import Account, FairUse
from ledger.core.decision.datasets import PARTITIONS_MAX, PROJECTS_MAX
from ledger.core.decision.group import Batched, Unrecorded, decide
from ledger.core.decision.posting import HOUR_US
from ledger.core.entries import Draft
from ledger.core.people import Role
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
    RateLimited,
    RunState,
    TooLarge,
)
from tests.kit.books import (
    ALONE,
    DAY_US,
    NOW_US,
    actor,
    add_dataset,
    ask,
    key,
    only,
    opened,
    parted,
    set_fair_use,
    settle,
    start,
    use,
    void,
    with_project,
)

ONE = UUID(int=1)


# --- one dataset -----------------------------------------------------------------------------------------------------


def test_a_unit_more_than_is_left_is_refused_in_either_quantity() -> None:
    """Goal: the limit is inclusive, and both quantities bind."""
    for cost, kind, binding in [
        (Amount(10, 5), "run-approved", None),
        (Amount(11, 5), "run-refused", ["mu"]),
        (Amount(10, 6), "run-refused", ["delta"]),
        (Amount(11, 6), "run-refused", ["mu", "delta"]),
    ]:
        _, outcome = only(opened(Amount(10, 5)), ask(1, cost=cost))
        assert outcome.kind == kind
        assert outcome.facts.get("binding") == binding


def test_a_cost_past_64_bits_is_refused_and_recorded_in_full() -> None:
    """Goal: nothing overflows: a cost that no balance could hold is an ordinary refusal with its true number."""
    cost = Amount(10**40, INT64_MAX + 1)
    books, outcome = only(opened(Amount(10**18, 10**17)), ask(1, cost=cost))
    assert outcome.kind == "run-refused"
    assert outcome.facts["cost"] == {"mu_sq_pico": str(10**40), "delta_atto": str(INT64_MAX + 1)}
    assert next(iter(books.runs.values())).cost is None


def test_a_failed_command_leaves_the_books_as_they_were() -> None:
    """Goal: an error in a group changes nothing, and those around it are decided as if it were not there."""
    books = opened(Amount(100, 0))
    good = [ask(1, cost=Amount(10, 0)), ask(1, cost=Amount(20, 0))]
    bad: list[Command] = [
        start(actor("admin"), books, ask(1, cost=Amount(1, 0))),
        SetBudget(actor("admin"), ONE, {}, Amount(5, 0), "r", ALONE),
    ]
    after, outcomes = decide(books, [good[0], *bad, good[1]], now_us=NOW_US)
    alone, _ = decide(books, good, now_us=NOW_US)
    assert after == alone
    assert [type(outcome) for outcome in outcomes] == [tuple, NotFound, BudgetBelowSpent, tuple]
    assert books == opened(Amount(100, 0)), "the books that were given are not changed"


def test_entries_of_a_group_are_numbered_without_gaps_in_each_journal() -> None:
    """Goal: seq is gapless for each dataset, errors between included, and a run leaves one entry in each."""
    books = opened(Amount(100, 0), Amount(25, 0))
    commands: list[Command] = [
        ask(1, cost=Amount(10, 0)),
        ask(2, 1, cost=Amount(20, 0)),
        ask(2, cost=Amount(10, 0)),
        start(actor("admin"), books, ask(1, cost=Amount(1, 0))),
        ask(1, 2, cost=Amount(10, 0)),
        ask(1, cost=Amount(10, 0)),
    ]
    _, outcomes = decide(books, commands, now_us=NOW_US)
    drafts = [
        (draft.dataset, draft.seq, draft.kind) for drafts in outcomes if isinstance(drafts, tuple) for draft in drafts
    ]
    assert drafts == [
        ("data-1", 2, "run-approved"),
        ("data-2", 2, "run-approved"),
        ("data-1", 3, "run-approved"),
        ("data-2", 3, "run-refused"),
        ("data-1", 4, "run-refused"),
        ("data-2", 4, "run-refused"),
        ("data-1", 5, "run-approved"),
    ]


def test_an_approval_cannot_be_started_after_its_time_and_goes_on_counting() -> None:
    """Goal: no way back into the budget by time."""
    command = ask(1, cost=Amount(10, 0))
    books, _ = only(opened(Amount(10, 0)), command)
    begin = start(actor("requester"), books, command)
    late, outcome = only(books, begin, now_us=NOW_US + DAY_US + 1)
    assert isinstance(outcome, RunState)
    assert late.accounts[key(1)].held == Amount(10, 0)
    _, outcome = only(books, begin, now_us=NOW_US + DAY_US)
    assert outcome.kind == "run-started"


def test_settling_late_is_possible_and_charges_all() -> None:
    """Goal: an overdue run can still tell the truth."""
    command = ask(1, cost=Amount(10, 0))
    books, _ = only(opened(Amount(10, 0)), command)
    books, _ = only(books, start(actor("requester"), books, command))
    books, outcome = only(books, settle(actor("requester"), books, command), now_us=NOW_US + 400 * DAY_US)
    assert outcome.kind == "run-settled"
    assert books.accounts[key(1)].spent == Amount(10, 0)


@pytest.mark.parametrize(
    ("role", "number", "state", "error"),
    [
        ("requester", 1, "held", None),
        ("requester", 2, "held", Forbidden),
        ("steward", 2, "held", None),
        ("admin", 2, "held", None),
        ("requester", 1, "started", Forbidden),
        ("steward", 2, "started", None),
        ("admin", 2, "started", None),
    ],
)
def test_who_may_void(role: Role, number: int, state: str, error: type[LedgerError] | None) -> None:
    """Goal: before the start it is the requester's word, afterwards a steward's."""
    command = ask(1, cost=Amount(10, 0))
    books, _ = only(opened(Amount(10, 0)), command)
    if state == "started":
        books, _ = only(books, start(actor("requester"), books, command))
    after, outcome = only(books, void(actor(role, number), books, command))
    assert isinstance(outcome, error or Draft)
    assert after.accounts[key(1)].held == (Amount(10, 0) if error else Amount(0, 0))


@pytest.mark.parametrize("do", [start, settle])
def test_only_its_principal_moves_a_run(do: Any) -> None:
    """Goal: another requester's run, and a steward's word for it, is not theirs to start or settle."""
    command = ask(1, cost=Amount(10, 0))
    books, _ = only(opened(Amount(10, 0)), command)
    for who in (actor("requester", 2), actor("steward", 2)):
        _, outcome = only(books, do(who, books, command))
        assert isinstance(outcome, Forbidden)


def test_a_retired_dataset_stays_retired() -> None:
    """Goal: retirement is final, and settling what runs is still possible."""
    command = ask(1, cost=Amount(10, 0))
    books, _ = only(opened(Amount(10, 0)), command)
    books, _ = only(books, start(actor("requester"), books, command))
    books, _ = only(books, Change(actor("steward"), ONE, "retired", None, None, "done", ALONE))
    for state in ("active", "frozen"):
        _, outcome = only(books, Change(actor("steward"), ONE, state, None, None, "again", ALONE))
        assert isinstance(outcome, DatasetFrozen)
    _, outcome = only(books, settle(actor("requester"), books, command))
    assert outcome.kind == "run-settled"


@pytest.mark.parametrize("part", ["spent", "held"])
def test_decide_refuses_to_write_a_broken_account(part: str) -> None:
    """Goal: the invariant is checked before anything is written. Method: books that were broken beforehand."""
    books = opened(Amount(10, 0))
    command = ask(1, cost=Amount(0, 0))
    books, _ = only(books, command)
    more: dict[str, Any] = {part: Amount(11, 0)}
    books.accounts[key(1)] = Account(key(1), Amount(10, 0), **more)
    with pytest.raises(ArithmeticError, match="more spent and held than the limit"):
        decide(books, [start(actor("requester"), books, command)], now_us=NOW_US)


def test_decide_charges_no_more_than_was_approved() -> None:
    """Goal: a cost worked out wrongly at the end cannot be written."""
    command = ask(1, cost=Amount(5, 0))
    books, _ = only(opened(Amount(10, 0)), command)
    books, _ = only(books, start(actor("requester"), books, command))
    with pytest.raises(ArithmeticError, match="was approved for"):
        decide(books, [settle(actor("requester"), books, command, charged=Amount(6, 0))], now_us=NOW_US)


# --- sets of accounts ------------------------------------------------------------------------------------------------


def test_a_run_charges_all_its_accounts_or_none() -> None:
    """Goal: where one account binds, nothing is held anywhere, and each journal says which quantity bound, or where."""
    books = parted()
    books, _ = only(books, ask(use(2, ["b"]), cost=Amount(50, 0)))
    before = dict(books.accounts)
    books, (of_one, of_two) = only(books, ask(use(1), use(2, ["a", "b"]), cost=Amount(60, 0)))
    assert (of_one.kind, of_one.facts["binding"], of_one.facts["binding_elsewhere"]) == ("run-refused", [], ["data-2"])
    assert (of_two.kind, of_two.facts["binding"], of_two.facts["binding_elsewhere"]) == ("run-refused", ["mu"], [])
    assert books.accounts == before
    books, drafts = only(books, ask(use(1), use(2, ["a", "b"]), cost=Amount(50, 0)))
    assert {draft.kind for draft in drafts} == {"run-approved"}
    held = {account.key.facts().get("partition", ""): account.held.mu_sq_pico for account in books.accounts.values()}
    assert held == {"": 50, "a": 50, "b": 100, "c": 0}


def test_an_entry_groups_accounts_that_are_alike() -> None:
    """Goal: a thousand partitions with one balance are a list of names, and those that differ stand apart."""
    names = tuple(f"p{number:03}" for number in range(1000))
    books = parted(names=names)
    books, _ = only(books, ask(use(2, ["p007"]), cost=Amount(5, 0)))
    _, draft = only(books, ask(use(2, None), cost=Amount(10, 0)))
    groups = draft.facts["accounts"]
    assert sorted(len(group["partitions"]) for group in groups) == [1, 999]
    assert {name for group in groups for name in group["partitions"]} == set(names)
    assert [group["held"]["mu_sq_pico"] for group in groups if group["partitions"] == ["p007"]] == ["15"]
    assert "balance" not in draft.facts


def test_all_partitions_are_those_of_the_decision() -> None:
    """Goal: one that is added between two runs counts for the second. Method: all three in one group."""
    first, second = (ask(use(2, None), cost=Amount(10, 0)) for _ in range(2))
    add = AddPartitions(actor("steward"), UUID(int=2), ("d",), ALONE)
    books, _ = decide(parted(), [first, add, second], now_us=NOW_US)
    assert {name: books.accounts[key(2, name)].held.mu_sq_pico for name in "abcd"} == {
        **dict.fromkeys("abc", 20),
        "d": 10,
    }


def test_errors_of_partitions() -> None:
    """Goal: each thing that is wrong with partitions has its error, which leaves nothing."""
    books = parted()
    add_dataset(books, 3, Amount(1, 1), partitions=())
    steward = actor("steward")
    retired, _ = only(books, Change(steward, UUID(int=2), "retired", None, None, "r", ALONE))
    frozen, _ = only(books, Change(steward, UUID(int=2), "frozen", None, None, "r", ALONE))
    full = parted(names=tuple(f"p{number}" for number in range(PARTITIONS_MAX - 1)))
    wrong: list[tuple[Books, Command, type[LedgerError], dict[str, Any]]] = [
        (books, ask(use(2, ["a", "z"]), cost=Amount(1, 0)), NotFound, {"partition": "z"}),
        (books, ask(use(3, None), cost=Amount(1, 0)), InvalidRequest, {"field": "datasets"}),
        (books, AddPartitions(steward, ONE, ("a",), ALONE), PartitionsClosed, {"dataset": "data-1"}),
        (books, AddPartitions(steward, UUID(int=2), ("d", "b"), ALONE), NameTaken, {"partition": "b"}),
        (retired, AddPartitions(steward, UUID(int=2), ("d",), ALONE), DatasetFrozen, {"state": "retired"}),
        (full, AddPartitions(steward, UUID(int=2), ("x", "y"), ALONE), TooLarge, {"there": PARTITIONS_MAX - 1}),
    ]
    for among, command, error, facts in wrong:
        after, outcome = only(among, command)
        assert type(outcome) is error
        assert facts.items() <= outcome.facts.items()
        assert after == among
    for among, command in [
        (frozen, AddPartitions(steward, UUID(int=2), ("d",), ALONE)),
        (full, AddPartitions(steward, UUID(int=2), ("x",), ALONE)),
    ]:
        assert only(among, command)[1].kind == "partitions-added"


def test_a_new_partition_has_the_limit_of_the_day_and_all_follow_a_new_one() -> None:
    """Goal: a budget is that of every partition, and binds on the fullest."""
    steward = actor("steward")
    books, _ = only(parted(), SetBudget(steward, UUID(int=2), {}, Amount(200, 100), "r", ALONE))
    books, _ = only(books, AddPartitions(steward, UUID(int=2), ("d",), ALONE))
    assert {books.accounts[key(2, name)].limit for name in "abcd"} == {Amount(200, 100)}
    books, _ = only(books, ask(use(2, ["b"]), cost=Amount(150, 10)))
    after, outcome = only(books, SetBudget(steward, UUID(int=2), {}, Amount(149, 9), "r", ALONE))
    assert isinstance(outcome, BudgetBelowSpent)
    assert (outcome.facts["accounts"], outcome.facts["accounts_over"]) == ([{"partition": "b"}], 1)
    assert (outcome.facts["quantities"], outcome.facts["held"]) == (["mu", "delta"], Amount(150, 10))
    assert after == books
    books, _ = only(books, SetBudget(steward, UUID(int=2), {}, Amount(150, 10), "r", ALONE))
    assert {books.accounts[key(2, name)].limit for name in "abcd"} == {Amount(150, 10)}


def test_a_budget_above_the_ceiling() -> None:
    """Goal: a ceiling is inclusive, holds in either quantity, and for ever."""
    books = Books()
    add_dataset(books, 1, Amount(5, 5), ceiling=Amount(10, 10))
    for limit, is_right in ((Amount(10, 10), True), (Amount(11, 1), False), (Amount(1, 11), False)):
        _, outcome = only(books, SetBudget(actor("steward"), ONE, {}, limit, "r", ALONE))
        assert isinstance(outcome, Draft if is_right else InvalidRequest)
        if isinstance(outcome, InvalidRequest):
            assert outcome.field == "budget"
            assert outcome.facts["ceiling"] == Amount(10, 10)


def test_a_dataset_without_a_budget_gets_none() -> None:
    """Goal: what is derived has its roots' accounts, and a later budget of its own would be a new rule for old runs."""
    books = opened(Amount(5, 5))
    add_dataset(books, 2, None)
    after, outcome = only(books, SetBudget(actor("steward"), UUID(int=2), {}, Amount(1, 1), "r", ALONE))
    assert (type(outcome), outcome.field, after) == (InvalidRequest, "budget", books)


# --- projects and principals -----------------------------------------------------------------------------------------


def test_a_project_tightens_and_never_loosens() -> None:
    """Goal: a run in a project needs room in both; without it, in the dataset alone."""
    for share, cost, kind in [(50, 50, "run-approved"), (50, 51, "run-refused"), (500, 101, "run-refused")]:
        books = opened(Amount(100, 0))
        with_project(books, 1, Amount(share, 0))
        books, outcome = only(books, ask(1, cost=Amount(cost, 0), project="p"))
        assert outcome.kind == kind
        held = 0 if kind == "run-refused" else cost
        assert {account.held.mu_sq_pico for account in books.accounts.values()} == {held}
        assert only(books, ask(1, cost=Amount(100 - held, 0)))[1].kind == "run-approved"


def test_a_project_is_counted_in_each_partition() -> None:
    """Goal: a share is of each partition, as the budget is: disjoint parts do not add up."""
    books = parted()
    with_project(books, 2, Amount(30, 0))
    for partition, cost, kind in [("a", 30, "approved"), ("b", 30, "approved"), ("a", 1, "refused")]:
        books, outcome = only(books, ask(use(2, [partition]), cost=Amount(cost, 0), project="p"))
        assert outcome.kind == f"run-{kind}"
    assert {name: books.accounts[key(2, name, project="p")].held.mu_sq_pico for name in "ab"} == {"a": 30, "b": 30}


def test_errors_of_projects() -> None:
    """Goal: a project that a named dataset does not have is not found, unless what it comes from has it; its share
    cannot go below what it has used, and there is an end to their number."""
    books = opened(Amount(100, 0), Amount(100, 0))
    add_dataset(books, 3, None)
    with_project(books, 1, Amount(50, 0))
    for uses, is_right in [
        ((use(1),), True),
        ((use(2),), False),
        ((use(1), use(2)), False),
        ((use(3), use(1, via=3)), True),
        ((use(3), use(2, via=3)), False),
    ]:
        after, outcome = only(books, ask(*uses, cost=Amount(1, 0), project="p"))
        assert (after == books) == (not is_right)
        if not is_right:
            assert (type(outcome), outcome.facts["project"]) == (NotFound, "p")
    books, _ = only(books, ask(1, cost=Amount(40, 0), project="p"))
    after, outcome = only(books, SetProject(actor("steward"), ONE, "p", {}, Amount(39, 0), "r", ALONE))
    assert (type(outcome), outcome.facts["accounts"], after) == (BudgetBelowSpent, [{"project": "p"}], books)
    books, draft = only(books, SetProject(actor("steward"), ONE, "p", {}, Amount(40, 0), "r", ALONE))
    assert draft.facts["limit_before"] == Amount(50, 0).facts()
    assert books.accounts[key(1, project="p")].limit == Amount(40, 0)
    for number in range(PROJECTS_MAX):
        with_project(books, 2, Amount(1, 0), f"p{number}")
    _, outcome = only(books, SetProject(actor("steward"), UUID(int=2), "one more", {}, Amount(1, 0), None, ALONE))
    assert isinstance(outcome, TooLarge)
    _, outcome = only(books, SetProject(actor("steward"), UUID(int=2), "p7", {}, Amount(2, 0), None, ALONE))
    assert outcome.kind == "project-set"


def test_fair_use_limits_what_one_principal_holds() -> None:
    """Goal: it binds on holds, of each principal for itself, and settling gives room again, though it spends."""
    books = opened(Amount(100, 0))
    set_fair_use(books, 1, held=Amount(30, 0))
    first, second = ask(1, cost=Amount(20, 0)), ask(1, cost=Amount(20, 0))
    books, _ = only(books, first)
    _, outcome = only(books, second)
    assert (outcome.kind, outcome.facts["binding"]) == ("run-refused", ["mu"])
    assert only(books, ask(1, cost=Amount(20, 0), who=actor("requester", 2)))[1].kind == "run-approved"
    assert only(books, ask(1, cost=Amount(20, 0), who=actor("admin")))[1].kind == "run-refused", "an admin's counts too"
    books, _ = only(books, start(first.actor, books, first))
    books, _ = only(books, settle(first.actor, books, first))
    mine = books.accounts[key(1, principal_id=first.actor.principal_id)]
    assert (mine.held, mine.spent) == (Amount(0, 0), Amount(0, 0))
    assert books.accounts[key(1)].spent == Amount(20, 0)
    assert only(books, second)[1].kind == "run-approved"


def test_lowered_fair_use_takes_nothing_back() -> None:
    """Goal: who holds more than a new limit keeps it, and gets no more until it has shrunk; null removes the limit."""
    books = opened(Amount(100, 0))
    set_fair_use(books, 1, held=Amount(50, 0))
    first, second = ask(1, cost=Amount(30, 0)), ask(1, cost=Amount(20, 0))
    books, _ = decide(books, [first, second], now_us=NOW_US)
    books, outcome = only(books, SetFairUse(actor("steward"), ONE, FairUse({"mu": 1}, Amount(25, 0), None), "r", ALONE))
    assert outcome.kind == "fair-use-set"
    assert only(books, ask(1, cost=Amount(1, 0)))[1].kind == "run-refused"
    books, _ = only(books, start(first.actor, books, first))
    books, _ = only(books, void(actor("steward"), books, first))
    assert only(books, ask(1, cost=Amount(6, 0)))[1].kind == "run-refused"
    assert only(books, ask(1, cost=Amount(5, 0)))[1].kind == "run-approved"
    books, _ = only(books, SetFairUse(actor("steward"), ONE, FairUse(None, None, None), "r", ALONE))
    assert only(books, ask(1, cost=Amount(80, 0)))[1].kind == "run-approved"


def test_runs_per_hour() -> None:
    """Goal: the limit counts a principal's decided runs, refused ones too, over a sliding hour, and says when there is
    room again. Method: three runs a minute apart, then the very microsecond at which the first one leaves the hour."""
    books = opened(Amount(10, 0))
    set_fair_use(books, 1, runs_per_hour=3)
    minute_us = 60_000_000
    for number, cost in enumerate((5, 50, 5)):
        books, outcome = only(books, ask(1, cost=Amount(cost, 0)), now_us=NOW_US + number * minute_us)
        assert outcome.kind == ("run-refused" if cost == 50 else "run-approved")
    after, outcome = only(books, ask(1, cost=Amount(0, 0)), now_us=NOW_US + 3 * minute_us)
    assert (type(outcome), after) == (RateLimited, books)
    assert outcome.facts == {"dataset": "data-1", "runs_per_hour": 3}
    again_us = NOW_US + 3 * minute_us + 1_000_000 * outcome.retry_after_seconds
    assert again_us - 1_000_000 <= NOW_US + HOUR_US <= again_us, "neither too early nor a second too late"
    assert isinstance(only(books, ask(1, cost=Amount(0, 0)), now_us=NOW_US + HOUR_US - 1)[1], RateLimited)
    assert only(books, ask(1, cost=Amount(0, 0)), now_us=NOW_US + HOUR_US)[1].kind == "run-approved"
    other = ask(1, cost=Amount(0, 0), who=actor("requester", 2))
    assert only(books, other, now_us=NOW_US + 3 * minute_us)[1].kind == "run-approved"


def test_runs_per_hour_within_a_group_and_a_batch() -> None:
    """Goal: runs decided together count one after another, reached datasets too; a batch that came to nothing does
    not count."""
    books = opened(Amount(10, 0))
    add_dataset(books, 2, None)
    set_fair_use(books, 1, runs_per_hour=2)
    asks = [ask(2, use(1, via=2), cost=Amount(1, 0)) for _ in range(3)]
    _, outcomes = decide(books, asks, now_us=NOW_US)
    assert [type(outcome) for outcome in outcomes] == [tuple, tuple, RateLimited]
    after, refused = only(books, Batch(actor("requester"), tuple(asks), is_atomic=True))
    assert [type(each) for each in refused.outcomes] == [BatchRefused, BatchRefused, RateLimited]
    assert after == books
    _, outcomes = decide(after, asks, now_us=NOW_US)
    assert [type(outcome) for outcome in outcomes] == [tuple, tuple, RateLimited]


# --- several datasets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["frozen", "retired"])
@pytest.mark.parametrize("number", [1, 2])
def test_any_dataset_that_is_not_active_blocks(state: Any, number: int) -> None:
    """Goal: one of several, its ancestor too, keeps a run from being approved and from being started."""
    books = opened(Amount(10, 0))
    add_dataset(books, 2, None)
    asked = ask(2, use(1, via=2), cost=Amount(1, 0))
    approved, _ = only(books, asked)
    change = Change(actor("steward"), UUID(int=number), state, None, None, "r", ALONE)
    for among, command in ((books, asked), (approved, start(asked.actor, approved, asked))):
        after, _ = only(among, change)
        _, outcome = only(after, command)
        assert (type(outcome), outcome.facts["dataset"]) == (DatasetFrozen, f"data-{number}")


def test_a_dataset_that_is_not_there() -> None:
    """Goal: a run on several, one of which is unknown, is not decided on the others."""
    books = opened(Amount(10, 0))
    after, outcome = only(books, ask(1, 9, cost=Amount(1, 0)))
    assert (type(outcome), after) == (NotFound, books)


# --- batches ---------------------------------------------------------------------------------------------------------


def test_a_batch_is_decided_one_after_another() -> None:
    """Goal: independent runs stand for themselves, a later smaller one fits after a larger one did not."""
    asks = (*(ask(1, cost=Amount(cost, 0)) for cost in (60, 50, 40, 1)), ask(9, cost=Amount(1, 0)))
    books, outcome = only(opened(Amount(100, 0)), Batch(actor("requester"), asks, is_atomic=False))
    assert isinstance(outcome, Batched)
    kinds = [each[0].kind if isinstance(each, tuple) else type(each) for each in outcome.outcomes]
    assert kinds == ["run-approved", "run-refused", "run-approved", "run-refused", NotFound]
    assert books.accounts[key(1)].held == Amount(100, 0)
    assert len(books.runs) == 4


def test_an_atomic_batch_is_all_or_none() -> None:
    """Goal: where all fit all are approved; where one does not nothing is left, and each run says how it stood."""
    fits = tuple(ask(1, cost=Amount(50, 0)) for _ in range(2))
    books, outcome = only(opened(Amount(100, 0)), Batch(actor("requester"), fits, is_atomic=True))
    assert [draft.kind for (draft,) in outcome.outcomes] == ["run-approved"] * 2
    assert books.accounts[key(1)].held == Amount(100, 0)
    too_many = (*(ask(1, cost=Amount(40, 0)) for _ in range(3)), ask(1, cost=Amount(20, 0)), ask(9, cost=Amount(1, 0)))
    before = opened(Amount(100, 0))
    after, outcome = only(before, Batch(actor("requester"), too_many, is_atomic=True))
    assert [type(each) for each in outcome.outcomes] == [BatchRefused, BatchRefused, Unrecorded, BatchRefused, NotFound]
    assert outcome.outcomes[2].drafts[0].facts["binding"] == ["mu"]
    assert after == before == opened(Amount(100, 0))


def test_a_spoilt_batch_records_nothing() -> None:
    """Goal: where a run that is not among them cannot be approved, those that fit are not either."""
    asks = (ask(1, cost=Amount(1, 0)),)
    for is_atomic in (True, False):
        books, outcome = only(
            opened(Amount(100, 0)), Batch(actor("requester"), asks, is_atomic=is_atomic, is_spoilt=True)
        )
        (each,) = outcome.outcomes
        assert isinstance(each, BatchRefused if is_atomic else tuple)
        assert len(books.runs) == (0 if is_atomic else 1)


def test_a_group_goes_on_after_a_refused_batch() -> None:
    """Goal: what follows in the group is decided as if the batch had not been there."""
    batch = Batch(actor("requester"), tuple(ask(1, cost=Amount(60, 0)) for _ in range(2)), is_atomic=True)
    after, outcomes = decide(opened(Amount(100, 0)), [batch, ask(1, cost=Amount(100, 0))], now_us=NOW_US)
    assert isinstance(outcomes[1], tuple)
    assert outcomes[1][0].seq == 2
    assert after.accounts[key(1)].held == Amount(100, 0)


def test_books_of_their_own() -> None:
    """Goal: a decision changes none of what it was given, whatever is in it."""
    books = parted()
    with_project(books, 2, Amount(9, 9))
    set_fair_use(books, 2, held=Amount(9, 9), runs_per_hour=5)
    before = books.copy()
    commands: list[Command] = [
        ask(use(2, None), cost=Amount(1, 0), project="p"),
        AddPartitions(actor("steward"), UUID(int=2), ("z",), ALONE),
        SetProject(actor("steward"), ONE, "q", {}, Amount(1, 0), None, ALONE),
        Batch(actor("requester"), (ask(1, cost=Amount(1, 0)),), is_atomic=False),
    ]
    after, _ = decide(books, commands, now_us=NOW_US)
    assert books == before
    assert after != before

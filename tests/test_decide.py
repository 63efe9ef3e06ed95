"""The decision, against a model written independently of it in exact fractions."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.decide import Repeat, decide
from ledger.errors import BudgetBelowSpent, DatasetFrozen, Forbidden, LedgerError, NotFound, RunState
from ledger.model import (
    INT64_MAX,
    NO_HASH,
    Account,
    Actor,
    Amount,
    Ask,
    Books,
    Change,
    Claim,
    Command,
    Dataset,
    Definition,
    Draft,
    Role,
    SetBudget,
    Settle,
    Start,
    Void,
)

TENANT = UUID(int=7)
NOW_US = 1_800_000_000_000_000
DAY_US = 86_400_000_000


def actor(role: Role, number: int = 1) -> Actor:
    """One of several principals of a role."""
    return Actor(TENANT, UUID(int=100 + number), UUID(int=200 + number), f"{role} {number}", role)


def opened(*limits: Amount) -> Books:
    """Books with one active dataset for each limit."""
    books = Books()
    for number, limit in enumerate(limits, start=1):
        definition = Definition(UUID(int=number), f"data-{number}", "record", "add_or_remove_one", "clt", None)
        books.datasets[definition.id] = Dataset(definition, "", "", {"mu": 1}, "active", 1, NO_HASH)
        books.accounts[definition.id] = Account(UUID(int=50 + number), definition.id, limit)
    return books


def ask(dataset: int, cost: Amount, *, run: UUID | None = None, who: Actor | None = None) -> Ask:
    """A run of this cost on a dataset by its number."""
    run = run or uuid4()
    who = who or actor("requester")
    return Ask(who, UUID(int=dataset), run, Claim(str(run), bytes(32)), cost, {}, {}, valid_for_us=DAY_US)


# --- a model in fractions --------------------------------------------------------------------------------------------


@dataclass
class Model:
    """What a ledger is, said once more: real numbers of mu² and nats, and a few rules."""

    limit: tuple[Fraction, Fraction]
    state: str = "active"
    runs: dict[UUID, tuple[str, tuple[Fraction, Fraction]]] = field(default_factory=dict)

    def committed(self) -> tuple[Fraction, Fraction]:
        counted = [cost for state, cost in self.runs.values() if state in ("held", "started", "settled")]
        return sum((c[0] for c in counted), Fraction(0)), sum((c[1] for c in counted), Fraction(0))

    def fits(self, cost: tuple[Fraction, Fraction]) -> bool:
        have = self.committed()
        return have[0] + cost[0] <= self.limit[0] and have[1] + cost[1] <= self.limit[1]


def real(amount: Amount) -> tuple[Fraction, Fraction]:
    """mu² and nats as real numbers."""
    return Fraction(amount.mu_sq_pico, 10**12), Fraction(amount.delta_atto, 10**18)


amounts = st.builds(Amount, st.integers(0, 400), st.integers(0, 400)) | st.builds(
    Amount, st.integers(0, 10**18), st.integers(0, 10**17)
)
steps = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "start", "settle", "void", "budget", "freeze", "thaw"]),
        amounts,
        st.integers(0, 30),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(amounts, steps, st.integers(1, 8))
def test_decisions_are_those_of_a_model_in_fractions(limit: Amount, script: list[Any], group: int) -> None:
    """Goal: approvals, refusals, balances and states are right whatever is asked in whatever order and grouping.
    Method: random scripts, cut into groups, against a model in exact real numbers that knows no integers."""
    books, model = opened(limit), Model(real(limit))
    asked: list[UUID] = []
    commands, expected = [], []
    admin = actor("admin")
    for what, amount, pick in script:
        run = asked[pick % len(asked)] if asked else uuid4()
        match what:
            case "ask":
                command: Any = ask(1, amount)
                asked.append(command.run_id)
            case "start":
                command = Start(admin, UUID(int=1), run)
            case "settle":
                command = Settle(admin, UUID(int=1), run, body={}, steps=None, stop="planned")
            case "void":
                command = Void(admin, UUID(int=1), run, body={"reason": "r"})
            case "budget":
                command = SetBudget(admin, UUID(int=1), {}, amount, "r")
            case _:
                command = Change(admin, UUID(int=1), "frozen" if what == "freeze" else "active", None, None, "r")
        commands.append(command)
        expected.append(_model_step(model, what, command, amount, run))
    for start in range(0, len(commands), group):
        chunk = commands[start : start + group]
        books, outcomes = decide(books, chunk, now_us=NOW_US)
        got = [outcome.kind if isinstance(outcome, Draft | Repeat) else outcome.code for outcome in outcomes]
        assert got == expected[start : start + group]
    account = books.accounts[UUID(int=1)]
    assert real(account.spent + account.held) == model.committed()
    assert real(account.limit) == model.limit
    assert {run.id: run.state for run in books.runs.values()} == {run: s for run, (s, _) in model.runs.items()}


def _model_step(model: Model, what: str, command: Any, amount: Amount, run: UUID) -> str:
    state, cost = model.runs.get(run, ("missing", (Fraction(0), Fraction(0))))
    if what == "ask":
        if model.state != "active":
            return "dataset-frozen"
        fits = model.fits(real(amount))
        model.runs[command.run_id] = ("held" if fits else "refused", real(amount))
        return "run-approved" if fits else "run-refused"
    if what == "budget":
        have = model.committed()
        if have[0] > real(amount)[0] or have[1] > real(amount)[1]:
            return "budget-below-spent"
        model.limit = real(amount)
        return "budget-set"
    if what in ("freeze", "thaw"):
        model.state = "frozen" if what == "freeze" else "active"
        return "dataset-changed"
    if state == "missing":
        return "not-found"
    done = {"start": "started", "settle": "settled", "void": "voided"}[what]
    if state == done:
        return f"run-{done}"
    allowed = {"start": ("held",), "settle": ("started",), "void": ("held", "started")}[what]
    if state not in allowed:
        return "run-state"
    if what == "start" and model.state != "active":
        return "dataset-frozen"
    model.runs[run] = (done, cost)
    return f"run-{done}"


# --- single rules ----------------------------------------------------------------------------------------------------


def only(books: Books, command: Any, *, now_us: int = NOW_US) -> tuple[Books, Any]:
    """Decides one command."""
    books, (outcome,) = decide(books, [command], now_us=now_us)
    return books, outcome


def test_a_unit_more_than_is_left_is_refused_in_either_quantity() -> None:
    """Goal: the limit is inclusive, and both quantities bind."""
    for cost, kind, binding in [
        (Amount(10, 5), "run-approved", None),
        (Amount(11, 5), "run-refused", ["mu"]),
        (Amount(10, 6), "run-refused", ["delta"]),
        (Amount(11, 6), "run-refused", ["mu", "delta"]),
    ]:
        _, outcome = only(opened(Amount(10, 5)), ask(1, cost))
        assert outcome.kind == kind
        assert outcome.facts.get("binding") == binding


def test_a_cost_past_64_bits_is_refused_and_recorded_in_full() -> None:
    """Goal: nothing overflows: a cost that no balance could hold is an ordinary refusal with its true number."""
    cost = Amount(10**40, INT64_MAX + 1)
    books, outcome = only(opened(Amount(10**18, 10**17)), ask(1, cost))
    assert outcome.kind == "run-refused"
    assert outcome.facts["cost"] == {"mu_sq_pico": str(10**40), "delta_atto": str(INT64_MAX + 1)}
    assert next(iter(books.runs.values())).cost is None


def test_a_failed_command_leaves_the_books_as_they_were() -> None:
    """Goal: an error in a group changes nothing, and those around it are decided as if it were not there."""
    books = opened(Amount(100, 0))
    good = [ask(1, Amount(10, 0)), ask(1, Amount(20, 0))]
    bad: list[Command] = [
        Start(actor("admin"), UUID(int=1), uuid4()),
        SetBudget(actor("admin"), UUID(int=1), {}, Amount(5, 0), "r"),
    ]
    after, outcomes = decide(books, [good[0], *bad, good[1]], now_us=NOW_US)
    alone, _ = decide(books, good, now_us=NOW_US)
    assert after == alone
    assert [type(outcome) for outcome in outcomes] == [Draft, NotFound, BudgetBelowSpent, Draft]
    assert books == opened(Amount(100, 0)), "the books that were given are not changed"


def test_entries_of_a_group_are_numbered_without_gaps_in_each_journal() -> None:
    """Goal: seq is gapless for each dataset, errors between included."""
    books = opened(Amount(100, 0), Amount(15, 0))
    commands: list[Command] = [
        ask(1, Amount(10, 0)),
        ask(2, Amount(10, 0)),
        ask(2, Amount(10, 0)),
        Start(actor("admin"), UUID(int=1), uuid4()),
        ask(1, Amount(10, 0)),
    ]
    _, outcomes = decide(books, commands, now_us=NOW_US)
    drafts = [outcome for outcome in outcomes if isinstance(outcome, Draft)]
    assert [(draft.dataset, draft.seq) for draft in drafts] == [
        ("data-1", 2),
        ("data-2", 2),
        ("data-2", 3),
        ("data-1", 3),
    ]


def test_an_approval_cannot_be_started_after_its_time_and_goes_on_counting() -> None:
    """Goal: no way back into the budget by time."""
    command = ask(1, Amount(10, 0))
    books, _ = only(opened(Amount(10, 0)), command)
    start = Start(actor("requester"), UUID(int=1), command.run_id)
    late, outcome = only(books, start, now_us=NOW_US + DAY_US + 1)
    assert isinstance(outcome, RunState)
    assert late.accounts[UUID(int=1)].held == Amount(10, 0)
    _, outcome = only(books, start, now_us=NOW_US + DAY_US)
    assert outcome.kind == "run-started"


def test_settling_late_is_possible_and_charges_all() -> None:
    """Goal: an overdue run can still tell the truth."""
    command = ask(1, Amount(10, 0))
    books, _ = only(opened(Amount(10, 0)), command)
    books, _ = only(books, Start(actor("requester"), UUID(int=1), command.run_id))
    settle = Settle(actor("requester"), UUID(int=1), command.run_id, body={}, steps=None, stop="planned")
    books, outcome = only(books, settle, now_us=NOW_US + 400 * DAY_US)
    assert outcome.kind == "run-settled"
    assert books.accounts[UUID(int=1)].spent == Amount(10, 0)


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
    command = ask(1, Amount(10, 0))
    books, _ = only(opened(Amount(10, 0)), command)
    if state == "started":
        books, _ = only(books, Start(actor("requester"), UUID(int=1), command.run_id))
    after, outcome = only(books, Void(actor(role, number), UUID(int=1), command.run_id, body={"reason": "r"}))
    assert isinstance(outcome, error or Draft)
    assert after.accounts[UUID(int=1)].held == (Amount(10, 0) if error else Amount(0, 0))


def test_a_retired_dataset_stays_retired() -> None:
    """Goal: retirement is final, and settling what runs is still possible."""
    command = ask(1, Amount(10, 0))
    books, _ = only(opened(Amount(10, 0)), command)
    books, _ = only(books, Start(actor("requester"), UUID(int=1), command.run_id))
    books, _ = only(books, Change(actor("steward"), UUID(int=1), "retired", None, None, "done"))
    for state in ("active", "frozen"):
        _, outcome = only(books, Change(actor("steward"), UUID(int=1), state, None, None, "again"))
        assert isinstance(outcome, DatasetFrozen)
    _, outcome = only(
        books, Settle(actor("requester"), UUID(int=1), command.run_id, body={}, steps=None, stop="planned")
    )
    assert outcome.kind == "run-settled"


def test_decide_refuses_to_write_a_broken_account() -> None:
    """Goal: the invariant is checked before anything is written. Method: books that were broken beforehand."""
    books = opened(Amount(10, 0))
    books.accounts[UUID(int=1)] = Account(uuid4(), UUID(int=1), Amount(10, 0), spent=Amount(11, 0))
    with pytest.raises(ArithmeticError, match="more spent and held than the limit"):
        decide(books, [Change(actor("steward"), UUID(int=1), None, "title", None, None)], now_us=NOW_US)

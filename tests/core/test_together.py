"""Runs of a batch at one level of their costs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from ledger.core.amounts import Amount
from ledger.core.commands import Ask, Batch
from ledger.core.datasets import Account, FairUse
from ledger.core.decision.group import Batched, Unrecorded, decide
from ledger.core.residual import LEVELS, Residual
from ledger.errors import BatchRefused, DatasetFrozen, LedgerError, NotFound, RateLimited
from tests.kit.beside_left import BASE, FALLING, Residuals, residual, table
from tests.kit.books import ask, key, set_fair_use, use, void
from tests.kit.journals import ONE, STEWARD, TWO, WHO, drafts_of
from tests.kit.journals import registered as standalone


def opened(limit: int = BASE, **more: Any) -> Residuals:
    """One dataset of this limit."""
    return Residuals(residual(1, Amount(limit, 1000), **more))


def levels_of(made: Residuals, asks: Sequence[Ask], *, is_atomic: bool = True) -> list[int | None]:
    """The level of each run of a batch, if all are approved."""
    made.books, (outcome,) = decide(made.books, [Batch(WHO, tuple(asks), is_atomic)], now_us=made.now_us)
    assert isinstance(outcome, Batched)
    assert [draft.kind for draft in drafts_of(outcome)] == ["run-approved"] * len(asks)
    return [draft.facts.get("residual", {}).get("level") for draft in drafts_of(outcome)]


def test_all_runs_are_at_the_highest_level_at_which_they_fit() -> None:
    """Goal: r and all costs at r and the reserve are left. Method: by hand, at the limit."""
    # Two at 60/64 of 6400: 6000 + 2 * 110 + 128.
    for limit, level in ((6348, 14), (6347, 13)):
        made = opened(limit)
        assert levels_of(made, [made.asking(use(1), costs=table()) for _ in range(2)]) == [level, level]


def highest(tables: Sequence[Residual], limit: int) -> list[int] | None:
    """Counted out: the levels of the highest position at which so much is enough for all of these."""
    for position in range(15, -1, -1):
        least = [
            next(at for at, cost in enumerate(each.costs) if cost == each.costs[min(position, len(each.costs) - 1)])
            for each in tables
        ]
        rests = [
            (each.base * LEVELS[at] + 63) // 64 + each.base // 50 if at else 0
            for each, at in zip(tables, least, strict=True)
        ]
        if sum(each.costs[at] for each, at in zip(tables, least, strict=True)) + max(rests) <= limit:
            return least
    return None


def test_random_batches(tries: Callable[[int, int], int]) -> None:
    """Goal: a batch is approved just if its runs are one after another; at the highest level at which all fit, if there
    is one; and then each gives all back, in any order. Method: the levels counted out; every order at random."""
    rng, together, alone, refused = random.Random(5), 0, 0, 0
    for _ in range(tries(300, 20_000)):
        made = opened(rng.randrange(500, 9000))
        tables = [
            table(
                rng.choice((BASE, BASE // 2, 777)),
                sorted((rng.randrange(1, 900) for _ in range(rng.choice((2, 7, 16)))), reverse=True),
            )
            for _ in range(rng.randrange(1, 9))
        ]
        asks = [made.asking(use(1), costs=each) for each in tables]
        _, one_by_one = decide(made.books, asks, now_us=made.now_us)
        do_fit = all(draft.kind == "run-approved" for outcome in one_by_one for draft in drafts_of(outcome))
        books, (outcome,) = decide(made.books, [Batch(WHO, tuple(asks), is_atomic=True)], now_us=made.now_us)
        drafts = drafts_of(outcome)
        assert bool(drafts) == do_fit
        right = highest(tables, books.accounts[key(1)].limit.mu_sq_pico)
        if right is None or not do_fit:
            alone, refused = alone + do_fit, refused + (not do_fit)
            assert not any("together" in draft.facts for draft in drafts)
            continue
        together += 1
        assert [draft.facts["residual"]["level"] for draft in drafts] == right
        rng.shuffle(asks)
        for command in asks:
            books, (ended,) = decide(books, [void(STEWARD, books, command)], now_us=made.now_us)
            assert drafts_of(ended)[0].facts["returned"] == books.runs[command.run_id].cost.facts()  # type: ignore[union-attr]
    print(f"{together} at one level, {alone} one after another, {refused} refused")
    assert min(together, alone, refused) > 0


def test_one_after_another_some_would_keep_their_charge() -> None:
    """Goal: that is what one level is for. Method: the same runs, each on its own: the first one keeps its charge."""
    made = opened()
    kept = made.batch(*(made.asking(use(1), costs=table()) for _ in range(20)), is_atomic=False)
    _, (ended,) = decide(made.books, [void(STEWARD, made.books, kept[0])], now_us=made.now_us)
    assert drafts_of(ended)[0].facts["kept_for"] == ["data-1"]


def test_a_run_without_a_table_counts_and_has_no_level() -> None:
    """Goal: a run that costs the same at every level is in the sum. Method: at the limit."""
    for limit, level in ((6100 + 110 + 128, 14), (6100 + 110 + 127, 13)):
        made = opened(limit)
        asks = [made.asking(use(1), cost=Amount(100, 0)), made.asking(use(1), costs=table())]
        assert levels_of(made, asks) == [None, level]


def test_what_one_principal_may_hold_is_a_plain_sum() -> None:
    """Goal: fair use limits the sum of costs, without r. Method: at the limit."""
    made = opened()
    set_fair_use(made.books, 1, held=Amount(220, 1000))
    assert levels_of(made, [made.asking(use(1), costs=table()) for _ in range(2)]) == [14, 14]
    made = opened()
    set_fair_use(made.books, 1, held=Amount(219, 1000))
    _, (outcome,) = decide(
        made.books, [Batch(WHO, tuple(made.asking(use(1), costs=table()) for _ in range(2)), True)], now_us=made.now_us
    )
    assert not drafts_of(outcome)


def test_a_standalone_dataset_makes_its_runs_cost_the_same_everywhere() -> None:
    """Goal: a run that also uses a dataset that costs each run by itself is charged so; others keep their level."""
    made = Residuals(residual(1, Amount(9000, 1000)), standalone(2, Amount(9000, 1000), bound="certified"))
    asks = [made.asking(use(1), use(2), costs=table()), made.asking(use(1), costs=table())]
    books, (outcome,) = decide(made.books, [Batch(WHO, tuple(asks), is_atomic=True)], now_us=made.now_us)
    assert [draft.facts["cost"]["mu_sq_pico"] for draft in drafts_of(outcome)] == ["1000", "1000", "100"]
    assert ["together" in draft.facts for draft in drafts_of(outcome)] == [True, False, True]
    assert books.accounts[key(2)].held == Amount(1000, 1)


@pytest.mark.parametrize("what", ["frozen", "too many an hour", "no dataset"])
def test_an_error_is_that_of_its_run(what: str) -> None:
    """Goal: a rule that one run breaks refuses the batch with that run's error, and leaves nothing."""
    made = Residuals(residual(1, Amount(BASE, 1000)), residual(2, Amount(BASE, 1000)))
    asks = [made.asking(use(1), costs=table()), made.asking(use(1), use(2), costs=table())]
    error: type[Exception] = DatasetFrozen
    if what == "frozen":
        made.books.datasets[TWO] = replace(made.books.datasets[TWO], state="frozen")
    elif what == "too many an hour":
        made.books.datasets[TWO] = replace(made.books.datasets[TWO], fair_use=FairUse(None, None, 1))
        made.books.recent[TWO, WHO.principal_id] = (made.now_us,)
        error = RateLimited
    else:
        del made.books.datasets[TWO]
        error = Exception
    books, (outcome,) = decide(made.books, [Batch(WHO, tuple(asks), is_atomic=True)], now_us=made.now_us)
    assert isinstance(outcome, Batched)
    first, second = outcome.outcomes
    assert isinstance(first, BatchRefused)
    assert isinstance(second, error)
    assert books.accounts[key(1)] == Account(key(1), Amount(BASE, 1000))


def test_a_refused_batch_says_what_a_run_would_say_by_itself() -> None:
    """Goal: a batch that does not fit is refused as its runs are, one after another. Method: the second is too much."""
    made = opened()
    asks = [made.asking(use(1), costs=table()), ask(use(1), cost=Amount(BASE, 0))]
    _, (outcome,) = decide(made.books, [Batch(WHO, tuple(asks), is_atomic=True)], now_us=made.now_us)
    assert isinstance(outcome, Batched)
    assert isinstance(outcome.outcomes[0], BatchRefused)
    (draft,) = outcome.outcomes[1].drafts  # type: ignore[union-attr]
    assert draft.facts["binding"] == ["mu"]


def test_the_least_limit_counts_a_batch_one_after_another() -> None:
    """Goal: a batch's one level raises what it is charged, and never the least limit above the limit. Method: a batch
    that needs all of its limit at its level."""
    made = opened(6000 + 220 + 128)
    made.batch(*(made.asking(use(1), costs=table()) for _ in range(2)))
    least = made.replay(ONE).charges.least_limit()
    assert least is not None
    assert least.mu_sq_pico <= 6348
    assert FALLING[14] * 2 == made.books.accounts[key(1)].held.mu_sq_pico


# --- as many as fit


def most_of(made: Residuals, asks: Sequence[Ask], **more: Any) -> tuple[Any, Batched]:
    """The books after as many of these as fit, and the outcomes."""
    batch = Batch(WHO, tuple(asks), is_atomic=False, takes_most=True, **more)
    books, (outcome,) = decide(made.books, [batch], now_us=made.now_us)
    assert isinstance(outcome, Batched)
    return books, outcome


def all_fit(tables: Sequence[Residual], limit: int, position: int) -> bool:
    """Counted out: whether these fit together at a position."""
    costs, rests = [], [0]
    for each in tables:
        at = each.costs.index(each.costs[min(position, len(each.costs) - 1)])
        costs.append(each.costs[at])
        rests.append((each.base * LEVELS[at] + 63) // 64 + each.base // 50 if at else 0)
    return sum(costs) + max(rests) <= limit


def in_turn(tables: Sequence[Residual], limit: int, position: int) -> list[int]:
    """Which runs are taken in order at a position, each if all taken so far fit with it."""
    taken: list[int] = []
    for number in range(len(tables)):
        if all_fit([tables[one] for one in [*taken, number]], limit, position):
            taken.append(number)
    return taken


def test_as_many_as_fit_at_one_level(tries: Callable[[int, int], int]) -> None:
    """Goal: as many runs are approved as the best position takes in order, at one level; none that was left out fits
    beside them there; each gives all back, in any order; the others leave nothing; all or none names the same number.
    Method: every position counted out; every order of voids at random."""
    rng, some, left_alone = random.Random(7), 0, 0
    for _ in range(tries(300, 20_000)):
        limit = rng.randrange(300, 9000)
        made = opened(limit)
        tables = [
            table(
                rng.choice((BASE, BASE // 2, 777)),
                sorted((rng.randrange(1, 2000) for _ in range(rng.choice((2, 7, 16)))), reverse=True),
            )
            for _ in range(rng.randrange(1, 12))
        ]
        asks = [made.asking(use(1), costs=each) for each in tables]
        books, outcome = most_of(made, asks)
        taken = [number for number, one in enumerate(outcome.outcomes) if isinstance(one, tuple)]
        by_count = max(len(in_turn(tables, limit, position)) for position in range(16))
        assert len(taken) >= by_count
        of_taken = [tables[number] for number in taken]
        best = max((position for position in range(16) if taken and all_fit(of_taken, limit, position)), default=-1)
        for number in set(range(len(asks))) - set(taken):
            if taken:
                assert not all_fit([tables[each] for each in [*taken, number]], limit, best)
            left_alone += isinstance(outcome.outcomes[number], BatchRefused)
        drafts = drafts_of(outcome)
        assert [draft.facts["residual"]["level"] for draft in drafts] == (highest(of_taken, limit) if taken else [])
        assert books.datasets[ONE].seq == made.books.datasets[ONE].seq + len(taken)
        _, (whole,) = decide(made.books, [Batch(WHO, tuple(asks), is_atomic=True)], now_us=made.now_us)
        assert isinstance(whole, Batched)
        said = {one.facts["fitting"] for one in whole.outcomes if isinstance(one, BatchRefused)}
        assert said in (set(), {len(taken)})
        held = [asks[number] for number in taken]
        rng.shuffle(held)
        for command in held:
            books, (ended,) = decide(books, [void(STEWARD, books, command)], now_us=made.now_us)
            assert drafts_of(ended)[0].facts["returned"] == books.runs[command.run_id].cost.facts()  # type: ignore[union-attr]
        some += 0 < len(taken) < len(asks)
    print(f"{some} times some of them, {left_alone} runs that fit by themselves alone")
    assert min(some, left_alone) > 0


def test_equal_runs_of_which_some_fit() -> None:
    """Goal: of 200 equal runs the first ones are approved, as many as one level takes, and the same request again
    approves none. Method: by hand: at 28/64, 2800 + 128 of 6400 stay unspent, and 300 goes into the rest 11 times."""
    costs = table(costs=(1000, *[300] * 15))
    made = opened()
    asks = [made.asking(use(1), costs=costs) for _ in range(200)]
    _, outcome = most_of(made, asks)
    # The cost is the same from 2/64 on, so that the lowest of these levels counts: 200 + 128 stay unspent.
    assert [isinstance(one, tuple) for one in outcome.outcomes] == [True] * 20 + [False] * 180
    made.do(Batch(WHO, tuple(asks), is_atomic=False, takes_most=True))
    before = made.books.datasets[ONE].seq
    made.do(Batch(WHO, tuple(made.asking(use(1), costs=costs) for _ in range(9)), False, True, True))
    assert made.books.datasets[ONE].seq == before


@pytest.mark.parametrize("what", ["frozen", "too many an hour", "no dataset"])
def test_as_many_as_fit_is_nothing_if_one_cannot_be_decided(what: str) -> None:
    """Goal: an error of one run leaves all undecided, so that the same request can be made again, corrected."""
    made = Residuals(residual(1, Amount(BASE, 1000)), residual(2, Amount(BASE, 1000)))
    asks = [made.asking(use(1), costs=table()), made.asking(use(1), use(2), costs=table()), made.asking(use(1))]
    if what == "frozen":
        made.books.datasets[TWO] = replace(made.books.datasets[TWO], state="frozen")
    elif what == "too many an hour":
        made.books.datasets[ONE] = replace(made.books.datasets[ONE], fair_use=FairUse(None, None, 2))
    else:
        del made.books.datasets[TWO]
    books, outcome = most_of(made, asks)
    assert books == made.books
    assert all(isinstance(one, LedgerError) for one in outcome.outcomes)
    own = {"frozen": (1, DatasetFrozen), "too many an hour": (2, RateLimited), "no dataset": (1, NotFound)}[what]
    assert isinstance(outcome.outcomes[own[0]], own[1])


def test_as_many_as_fit_on_several_datasets() -> None:
    """Goal: a run is left out if any of its accounts lacks room, and those behind it are taken all the same."""
    made = Residuals(residual(1, Amount(BASE, 1000)), residual(2, Amount(450, 1000)))
    both = [made.asking(use(1), use(2), costs=Residual(450, (400, 300))) for _ in range(2)]
    one = [made.asking(use(1), cost=Amount(100, 1)) for _ in range(2)]
    _, outcome = most_of(made, [both[0], both[1], *one])
    assert [isinstance(each, tuple) for each in outcome.outcomes] == [True, False, True, True]
    assert isinstance(outcome.outcomes[1], Unrecorded)

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
from ledger.core.decision.group import Batched, decide
from ledger.core.residual import LEVELS, Residual
from ledger.errors import BatchRefused, DatasetFrozen, RateLimited
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

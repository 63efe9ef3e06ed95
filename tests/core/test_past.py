"""Past runs: the promise of the filter with runs that were executed before, and are entered some time later, in any
order with all that else can be done; and the rules of entering one."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest

from ledger.core import residual
from ledger.core.amounts import ZERO, Amount
from ledger.core.commands import Batch, Change, SetProject
from ledger.core.datasets import AccountKey
from ledger.core.decision import past
from ledger.core.decision.group import Batched, decide
from ledger.core.journal import chain
from ledger.errors import BatchRefused, InvalidRequest
from tests.core.test_adversary import (
    TOLERANCE,
    any_game,
    any_pair,
    append_late_charges,
    forget_raises,
    noise,
    rare,
)
from tests.kit.adversary import Adversary, Game, Piece
from tests.kit.beside_left import BASE, Residuals, table
from tests.kit.beside_left import residual as dataset
from tests.kit.books import ALONE, NOW_US, actor, set_fair_use, settle, use
from tests.kit.journals import ONE, STEWARD, TWO
from tests.kit.pairs import gaussian

Patch = pytest.MonkeyPatch


def entered_noise(mu_sq: float) -> Piece:
    """Noise that was told before, and is entered."""
    return Piece(gaussian(mu_sq), is_flat=True, is_past=True)


def enter_at_the_end(patch: Patch) -> None:
    """Charge a past run as if it were executed now."""
    patch.setattr(past, "PLACE", 10**9)


CHOSEN_BY_THE_PAST: Final = Game(1, (entered_noise(0.9), rare(19, 5.93e-3, 1e-4)), delta=1e-4)
"""Noise of 0.9 was executed; by its output a run that costs 0.1 beside 0.9 is approved, or none; then it is entered."""
BEFORE_A_RAISE: Final = Game(
    1, (noise(0.9), replace(rare(30, 0.01, 1e-3), is_past=True)), delta=1e-3, limits=(2.0,), before=0
)
WITHOUT: Final[dict[str, tuple[Callable[[Patch], None], Game, float]]] = {
    "past runs are appended": (append_late_charges, CHOSEN_BY_THE_PAST, 1.4),
    "past runs have the newest place": (enter_at_the_end, CHOSEN_BY_THE_PAST, 1.4),
    "past runs are priced after a raise": (forget_raises, BEFORE_A_RAISE, 2.28),
}


@pytest.mark.parametrize("rule", WITHOUT)
def test_no_past_run_tells_more_than_was_promised(rule: str, monkeypatch: Patch) -> None:
    """Goal: the promise holds, and the place of past runs is needed. Method: as for the other rules."""
    without, game, broken = WITHOUT[rule]
    worst = Adversary(game).worst()
    without(monkeypatch)
    worst_without = Adversary(game).worst()
    print(f"{rule}: {worst:.6f} of the promise; without the rule {worst_without:.4f}")
    assert worst <= 1 + TOLERANCE
    assert worst_without > broken


def any_past_game(rng: random.Random) -> Game:
    """A game of which one piece or two were executed before, and are entered."""
    game = any_game(rng)
    count = 2 if len(game.pieces) > 2 and rng.random() < 0.4 else 1
    share = game.delta * 0.3
    before = [Piece(any_pair(rng), share, is_past=True, is_flat=rng.random() < 0.3) for _ in range(count)]
    pieces = [*before, *game.pieces[count:]]
    rng.shuffle(pieces)
    return replace(game, pieces=tuple(pieces))


def test_random_games_with_past_runs(tries: Callable[[int, int], int], monkeypatch: Patch) -> None:
    """Goal: no order of executing, entering and of all else tells more than was promised. Method: as for the games
    without past runs."""
    rng, done, worst = random.Random(43), Counter[str](), 0.0
    for _ in range(tries(20, 1500)):
        monkeypatch.setattr(residual, "ITEMS_MAX", rng.choice((1, 2, 16)))
        played = Adversary(any_past_game(rng))
        worst = max(worst, played.worst())
        done.update(played.played.done)
    print(f"at most {worst:.9f} of the promise; {dict(done)}")
    assert 0.99 < worst <= 1 + TOLERANCE
    assert done["enter"] > 100 < done["enter more than fits"]


# --- one at a time ---------------------------------------------------------------------------------------------------


def made() -> Residuals:
    """Two datasets, the second with partitions and a project."""
    book = Residuals(dataset(1, Amount(BASE, 1000)), dataset(2, Amount(BASE, 1000), partitions=["a", "b"]))
    book.do(SetProject(STEWARD, TWO, "p", {"mu": 1}, Amount(BASE // 4, 500), "a share", ALONE))
    return book


def test_a_past_run_is_a_settled_run_before_all_others() -> None:
    """Goal: it is charged to the datasets and partitions that it names, to nobody's share, and leaves what a later
    approval rests on. Method: the accounts, the row and the entry, by hand; replay."""
    book = made()
    set_fair_use(book.books, 1, held=Amount(1, 1))  # it holds nothing
    entered = book.past(use(1), use(2, ["a"]), cost=Amount(700, 3))
    run = book.books.runs[entered.run_id]
    assert (run.state, run.cost, run.r, run.project) == ("settled", Amount(700, 3), 0, None)
    assert run.started_us is None
    assert run.ended_us == run.created_us == book.now_us
    spent = {
        (key.dataset_id, key.partition, key.project, key.principal_id): account.spent
        for key, account in book.books.accounts.items()
        if account.spent != ZERO
    }
    assert spent == {(ONE, None, None, None): Amount(700, 3), (TWO, "a", None, None): Amount(700, 3)}
    entry = chain.parse(book.journals[ONE][-1][0])
    assert (entry["kind"], entry["fits"], entry["frozen"]) == ("run-entered", True, [])
    assert all(account.held == ZERO for account in book.books.accounts.values())


def test_it_costs_the_most_that_is_left_beside_and_takes_no_slack_of_others() -> None:
    """Goal: it costs c(r) at the largest r that the entries leave; more than that overdraws. Method: by hand: the
    second run leaves 62/64 of the limit less its cost, so the slack is little."""
    book = Residuals(dataset(1, Amount(BASE, 1000)))
    own = AccountKey(ONE)
    book.past(use(1), costs=table(costs=(400, 300, 200)))
    # Levels 0, 2 and 4 of 64: 400 with nothing, 200 with 4/64 of 6400 behind it.
    assert book.books.accounts[own].spent == Amount(200, 1)
    book.run(use(1), costs=table())  # at the largest r: little slack
    slack = book.books.accounts[own].slack
    assert slack is not None
    book.past(use(1), cost=Amount(slack, 0))
    assert (book.books.accounts[own].overdrawn, book.books.datasets[ONE].state) == (ZERO, "active")
    book.past(use(1), cost=Amount(1, 0))
    assert book.books.accounts[own].overdrawn == Amount(1, 0)
    assert book.books.datasets[ONE].state == "frozen"
    book.past(use(1), cost=Amount(5, 0))  # also while it is frozen
    assert book.books.accounts[own].overdrawn == Amount(6, 0)
    assert book.replay().accounts == book.books.accounts


def test_past_runs_of_a_batch_are_charged_one_after_another() -> None:
    """Goal: all or none of them, each before all entries. Method: a batch with tables costs what the same runs cost one
    after another, and one that is malformed keeps all out."""
    alone, together = made(), made()
    asks = [replace(together.asking(use(1), costs=table(), is_past=True), actor=STEWARD) for _ in range(3)]
    for _ in range(3):
        alone.past(use(1), costs=table())
    wrong = replace(together.asking(use(1), cost=Amount(1, 0), project="p"), is_past=True)
    books, (outcome,) = decide(together.books, [Batch(STEWARD, (*asks, wrong), is_atomic=True)], now_us=NOW_US)
    assert books.accounts == together.books.accounts
    assert isinstance(outcome, Batched)
    assert [isinstance(one, BatchRefused | InvalidRequest) for one in outcome.outcomes] == [True] * 4
    together.do(Batch(STEWARD, tuple(asks), is_atomic=True))
    kinds = [chain.parse(body)["kind"] for body, _ in together.journals[ONE]]
    assert kinds[1:] == ["run-entered"] * 3
    own = AccountKey(ONE)
    assert together.books.accounts[own] == alone.books.accounts[own] == together.replay().accounts[own]


@pytest.mark.parametrize("state", ["frozen", "retired"])
def test_it_is_entered_in_every_state(state: str) -> None:
    """Goal: what was spent is never refused; a retired dataset stays so. Method: more than fits, in each state."""
    book = made()
    book.do(Change(STEWARD, ONE, state, None, None, "r", ALONE))  # type: ignore[arg-type]
    book.past(use(1), cost=Amount(BASE + 1, 0))
    assert book.books.datasets[ONE].state == state
    assert book.replay().state == state


def test_a_correction_takes_its_place_and_needs_two_people_downwards() -> None:
    """Goal: a past run is corrected as any run, from the place before all entries. Method: downwards by one person is
    only a proposal; upwards within the slack and beyond it."""
    book = made()
    entered = book.past(use(1), cost=Amount(500, 3))
    assert book.corrected(entered, Amount(300, 3))
    kinds = [chain.parse(body)["kind"] for body, _ in book.journals[ONE]]
    assert kinds[-2:] == ["change-proposed", "run-corrected"]
    assert book.books.accounts[AccountKey(ONE)].spent == Amount(300, 3)
    behind = book.begin(use(1), costs=table())
    book.move(settle, behind)
    slack = book.books.accounts[AccountKey(ONE)].slack
    assert slack is not None
    assert book.corrected(entered, Amount(300 + slack + 1, 3))
    assert book.books.datasets[ONE].state == "frozen"
    own = {key: account for key, account in book.books.accounts.items() if key.dataset_id == ONE}
    assert book.replay().accounts == own


def test_a_past_run_is_charged_to_no_project() -> None:
    """Goal: what is asked for a project is refused as malformed. Method: the command by itself."""
    book = made()
    command = replace(book.asking(use(1), cost=Amount(1, 0), project="p"), is_past=True, actor=actor("steward", 2))
    books, (outcome,) = decide(book.books, [command], now_us=NOW_US)
    assert isinstance(outcome, InvalidRequest)
    assert books.datasets[ONE].seq == book.books.datasets[ONE].seq

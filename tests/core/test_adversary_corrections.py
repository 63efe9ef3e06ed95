"""The promise of the filter, tried with runs that were declared wrong: executed as something else, and corrected some
time later, in any order with all that else can be done. See `tests.core.test_adversary`."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest

from ledger.core import residual
from ledger.core.amounts import Amount
from ledger.core.decision import correcting
from ledger.core.decision import filter as filtering
from ledger.core.residual import Residual
from tests.core.test_adversary import TOLERANCE, any_game, any_pair, append_late_charges, noise, rare
from tests.kit import adversary, books
from tests.kit.adversary import Adversary, Game, Piece
from tests.kit.pairs import gaussian, three_points, uneven

Patch = pytest.MonkeyPatch


def replace_what_an_output_chose(patch: Patch) -> None:
    """Put the true mechanism in the place of the declared one, also if an output decided which of them ran."""
    right = books.correct
    patch.setattr(adversary, "correct", lambda *args, **more: right(*args, **{**more, "by_output": False}))


def no_more_than_before(patch: Patch) -> None:
    """Let a correction that costs no more than the old charge be free of order."""
    right = filtering.price_late

    def price(books: Any, charged: Any, cost: Amount, table: Residual | None, seqs: Any, *, old: int = 0) -> Any:
        if table is None or table.costs[-1] > old:
            return right(books, charged, cost, table, seqs, old=old)
        least = next(cost for cost in table.costs if cost <= old)
        return filtering.Priced(Amount(least, cost.delta_atto), 0, Residual(table.base, (least,)))

    patch.setattr(correcting, "price_late", price)


OTHERWISE: Final = Piece(gaussian(0.25), 3e-4, declared=three_points(28, 0.00583), is_chosen=True)
CHOSEN: Final = Game(1.4978, (noise(0.75), OTHERWISE), 1e-3)
"""By what noise shows, a run is executed as it was declared or otherwise."""
LOUDER: Final = Piece(gaussian(0.75), is_flat=True, declared=gaussian(0.05))
CHOSEN_BY_WHAT_WAS_WRONG: Final = Game(1, (LOUDER, rare(23, 4.79e-3, 1e-4)), 1e-4)
"""More noise is told than was declared; by its output a run is approved, or none; then that is corrected."""
CHEAPER_BEHIND_NOISE: Final = Game(0.7141, (Piece(uneven(34, 0.00239), 5e-4, declared=gaussian(0.5)), noise(0.7)), 1e-3)
"""A run was cheap only beside what was left then, and less is left now."""
WITHOUT: Final[dict[str, tuple[Callable[[Patch], None], Game, float]]] = {
    "an output decided, and it takes the place": (replace_what_an_output_chose, CHOSEN, 1.05),
    "corrections are appended": (append_late_charges, CHOSEN_BY_WHAT_WAS_WRONG, 1.4),
    "no more than before is free of order": (no_more_than_before, CHEAPER_BEHIND_NOISE, 1.18),
}


@pytest.mark.parametrize("rule", WITHOUT)
def test_no_correction_tells_more_than_was_promised(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the promise holds, and each rule of corrections is needed. Method: as for the other rules."""
    without, game, broken = WITHOUT[rule]
    worst = Adversary(game).worst()
    without(monkeypatch)
    worst_without = Adversary(game).worst()
    print(f"{rule}: {worst:.6f} of the promise; without the rule {worst_without:.4f}")
    assert worst <= 1 + TOLERANCE
    assert worst_without > broken


def any_wrong_game(rng: random.Random) -> Game:
    """A game of which one piece or two were declared wrong."""
    game = any_game(rng)
    count = 2 if len(game.pieces) > 2 and rng.random() < 0.4 else 1
    wrong = [
        Piece(
            any_pair(rng),
            game.delta * rng.choice((0.3, 0.5, 1)),
            declared=any_pair(rng),
            is_chosen=rng.random() < 0.3,
            is_flat=rng.random() < 0.2,
        )
        for _ in range(count)
    ]
    pieces = [*wrong, *game.pieces[count:]]
    rng.shuffle(pieces)
    return replace(game, pieces=tuple(pieces))


def test_random_games_with_corrections(tries: Callable[[int, int], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: no order of corrections, upwards and downwards, and of all else tells more than was promised. Method: as
    for the games without corrections."""
    rng, done, worst = random.Random(41), Counter[str](), 0.0
    for _ in range(tries(15, 1500)):
        monkeypatch.setattr(residual, "ITEMS_MAX", rng.choice((1, 2, 16)))
        played = Adversary(any_wrong_game(rng))
        worst = max(worst, played.worst())
        done.update(played.played.done)
    print(f"at most {worst:.9f} of the promise; {dict(done)}")
    assert 0.999 < worst <= 1 + TOLERANCE
    assert done["correct"] > 100 < done["correct downwards"]

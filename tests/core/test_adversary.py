"""The filter's guarantee itself, held by an adversary who may do whatever the ledger lets anybody do, in any order, and
decides each step by all outputs so far: see `tests.kit.adversary`.

Each rule of docs/explanation/residual.md that looks as if one could do without it is taken away in turn: then the
adversary tells more than was promised, which shows that it would find a hole.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest

from ledger.core import residual
from ledger.core.amounts import ZERO, Amount
from ledger.core.datasets import Account
from ledger.core.decision import ending, posting
from ledger.core.decision import filter as filtering
from ledger.core.residual import Residual, Trail
from tests.kit.adversary import Adversary, Game, Piece
from tests.kit.pairs import Pair, gaussian, randomized_response, three_points, uneven

TOLERANCE: Final = 1e-6
"""Of a ratio of deltas, each at least 1e-8: see `tests.kit.pairs`."""
Patch = pytest.MonkeyPatch


def noise(mu_sq: float, *, is_late: bool = False) -> Piece:
    """One release of Gaussian noise."""
    return Piece(gaussian(mu_sq), is_flat=True, is_late=is_late)


def rare(loss: int, often: float, delta: float, *, is_late: bool = False, parts: int = 1) -> Piece:
    """Three outputs, of which two are rare and tell much: cheap beside noise."""
    return Piece(three_points(loss, often), delta, is_late=is_late, parts=parts)


# --- one rule at a time ----------------------------------------------------------------------------------------------


def give_back_all(patch: Patch) -> None:
    """Give back whatever was not executed."""
    patch.setattr(ending, "short_of", lambda *_: [])


def spend_what_must_stay(patch: Patch) -> None:
    """Charge the least cost of a table if that alone fits."""
    patch.setattr(Residual, "needed", lambda self, index: self.costs[index])


def append_late_charges(patch: Patch) -> None:
    """Charge what was executed before as if it were executed now."""
    patch.setattr(filtering, "slack_of", lambda account, _: account.remaining.mu_sq_pico)


def forget_raises(patch: Patch) -> None:
    """Price what was executed before a raise by what is left after it."""
    patch.setattr(Trail, "left_at", lambda _self, _place, left: left)


def keep_what_was_left_at_a_raise(patch: Patch) -> None:
    """Price a second such charge as if there had not been the first."""
    right = Trail.charged

    def charged(self: Trail, place: int, cost: Amount, r: int) -> Trail:
        return replace(right(self, place, cost, r), raised_left=self.raised_left)

    patch.setattr(Trail, "charged", charged)


def forget_r_at_a_raise(patch: Patch) -> None:
    """Keep the r of a late charge behind its entry, and not behind a raise of the limit before that."""
    right = Trail.charged
    patch.setattr(Trail, "charged", lambda self, place, cost, _r: right(self, place, cost, 0))


def forget_late_charges(patch: Patch) -> None:
    """Leave every entry with what was left behind it when it was written."""
    patch.setattr(Trail, "charged", lambda self, _place, _cost, _r: self)


def forget_what_was_given_back(patch: Patch) -> None:
    """Give back as the last run, and let later charges take what that rests on."""
    patch.setattr(ending, "given_back", lambda account, **_: account)


def forget_the_r_of_late_charges(patch: Patch) -> None:
    """Let later charges take what a late charge rests on."""
    right = filtering.charged_late

    def charged(account: Account, priced: Any, **more: Any) -> Account:
        return right(account, replace(priced, table=None), **more)

    patch.setattr(ending, "charged_late", charged)


def overdraw_by_sums_alone(patch: Patch) -> None:
    """Call an account healthy as soon as the sum of all costs fits."""

    def beyond(account: Account) -> Amount:
        return (account.spent + account.held - account.limit).most(ZERO)

    patch.setattr(filtering, "beyond", beyond)
    patch.setattr(posting, "beyond", beyond)


HELD_BEHIND_NOISE: Final = Game(1.16, (rare(30, 0.01, 1e-3), noise(0.5), noise(0.3)), delta=1e-3)
"""A run is held, noise is executed, and by its output the run is executed, or voided and replaced by more noise."""
IN_PARTS: Final = Game(0.75814, (rare(12, 6.87e-3, 5e-5, parts=2), noise(0.7)), delta=1e-4)
"""The same with a run that may stop after its first half."""
CHOSEN_BY_WHAT_IS_LATE: Final = Game(1, (noise(0.9, is_late=True), rare(19, 5.93e-3, 1e-4)), delta=1e-4)
"""Noise is executed and not recorded; by its output a run is approved, or none; then the noise is recorded."""
OVERDRAWN: Final = Game(1, (noise(0.8, is_late=True), rare(23, 4.79e-3, 1e-4)), delta=1e-4)
"""The same, such that the sum of all costs fits."""
LATE_TWICE: Final = Game(0.9, (noise(0.3, is_late=True), noise(0.3, is_late=True), rare(20, 7.91e-3, 1e-3)), 1e-3)
LATE_BEHIND_A_VOID: Final = Game(1, (noise(0.5, is_late=True), rare(27, 0.0123, 1e-3), noise(0.3)), delta=1e-3)
LATE_BESIDE_LATE: Final = Game(
    1,
    (rare(31, 9.75e-3, 1.5e-3, is_late=True), rare(27, 0.0864, 1.5e-3, is_late=True), noise(0.3, is_late=True)),
    delta=3e-3,
)
BEFORE_A_RAISE: Final = Game(1, (noise(0.9), rare(30, 0.01, 1e-3, is_late=True)), delta=1e-3, limits=(2.0,), before=0)
TWICE_BEFORE_A_RAISE: Final = Game(1, (noise(0.6, is_late=True),) * 2, limits=(2.0,), before=0)
RESTING_BEFORE_A_RAISE: Final = Game(
    1.0452,
    (noise(0.593), Piece(randomized_response(6), 1e-4, is_late=True), noise(0.56, is_late=True)),
    delta=1e-4,
    limits=(2.09,),
    before=0,
)
WITHOUT: Final[dict[str, tuple[Callable[[Patch], None], Game, float]]] = {
    "every void is given back in full": (give_back_all, HELD_BEHIND_NOISE, 1.29),
    "every stop gives back in full": (give_back_all, IN_PARTS, 1.2),
    "r is larger than what is left": (spend_what_must_stay, HELD_BEHIND_NOISE, 1.69),
    "late charges are appended": (append_late_charges, CHOSEN_BY_WHAT_IS_LATE, 1.4),
    "late charges are priced after a raise": (forget_raises, BEFORE_A_RAISE, 2.28),
    "late charges do not count at a raise": (keep_what_was_left_at_a_raise, TWICE_BEFORE_A_RAISE, 16.0),
    "the r of a late charge is not kept at a raise": (forget_r_at_a_raise, RESTING_BEFORE_A_RAISE, 1.01),
    "entries do not know of charges recorded later": (forget_late_charges, LATE_TWICE, 1.12),
    "giving back is no entry": (forget_what_was_given_back, LATE_BEHIND_A_VOID, 1.38),
    "the r of a late charge is not kept": (forget_the_r_of_late_charges, LATE_BESIDE_LATE, 1.14),
    "an account is overdrawn only if the sum is": (overdraw_by_sums_alone, OVERDRAWN, 1.57),
}


@pytest.mark.parametrize("rule", WITHOUT)
def test_no_strategy_tells_more_than_was_promised(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the filter's promise holds, and each of its rules is needed. Method: a game in which a rule decides: with
    it the best strategy keeps the promise at every epsilon, in both orders; without it, it does not by far."""
    without, game, broken = WITHOUT[rule]
    worst = Adversary(game).worst()
    without(monkeypatch)
    worst_without = Adversary(game).worst()
    print(f"{rule}: {worst:.6f} of the promise; without the rule {worst_without:.4f}")
    assert worst <= 1 + TOLERANCE
    assert worst_without > broken


# --- at random -------------------------------------------------------------------------------------------------------


def any_pair(rng: random.Random) -> Pair:
    """A small mechanism."""
    often = 10 ** rng.uniform(-3.5, -0.7)
    match rng.randrange(4):
        case 0:
            return three_points(rng.randrange(5, 45), often)
        case 1:
            return randomized_response(rng.randrange(1, 9))
        case 2:
            return uneven(rng.randrange(5, 45), often / 2)
        case _:
            return gaussian(rng.randrange(1, 19) / 20)


def any_piece(rng: random.Random, delta: float) -> Piece:
    """A run, in one part or two, or one that is recorded late, or one that nobody will execute."""
    kind = rng.choice(("run", "run", "run", "late", "late", "noise", "late noise", "parts", "doomed"))
    if "noise" in kind:
        return noise(rng.randrange(1, 19) / 20, is_late="late" in kind)
    share = delta * rng.choice((0.3, 0.5, 1))
    parts = 2 if kind == "parts" else 1
    return Piece(any_pair(rng), share, parts, is_late=kind == "late", is_doomed=kind == "doomed")


def any_game(rng: random.Random) -> Game:
    """Two to four pieces, and a limit in which not all of them fit."""
    delta = rng.choice((1e-4, 1e-3, 1e-2))
    pieces = tuple(any_piece(rng, delta) for _ in range(rng.choice((2, 3, 3, 3, 4))))
    costs = sorted(piece.alone().mu_sq_pico / 10**12 for piece in pieces)
    limit = rng.choice((costs[-1], sum(costs) * rng.uniform(0.3, 1), sum(costs[-2:]))) * rng.choice((1, 1.021, 1.1))
    limit = max(0.05, min(limit, 4))
    if len(pieces) > 3 or rng.random() < 0.5:
        return Game(limit, pieces, delta, is_switched=rng.random() < 0.15)
    limits = tuple(limit * rng.choice((0.7, 1, 1.3, 2, 4)) for _ in range(rng.choice((1, 1, 2))))
    return Game(limit, pieces, delta, limits, rng.choice((None, *range(len(limits)))))


def test_random_games(tries: Callable[[int, int], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: no order of asking, executing, stopping, voiding, recording, setting limits, switching costs and thawing
    tells more than was promised. Method: random mechanisms and limits; the best strategy of each game; trails that are
    as short as one item, which may only be stricter."""
    rng, done, states, worst = random.Random(19), Counter[str](), 0, 0.0
    for _ in range(tries(40, 3000)):
        monkeypatch.setattr(residual, "ITEMS_MAX", rng.choice((1, 2, 16)))
        game = any_game(rng)
        adversary = Adversary(game)
        ratio = adversary.worst()
        assert ratio <= 1 + TOLERANCE, game
        worst, states = max(worst, ratio), states + adversary.played.states
        done.update(adversary.played.done)
    print(f"{states} states, at most {worst:.9f} of the promise; {dict(done)}")
    assert worst > 0.999
    kinds = {"ask", "execute", "void", "void and keep", "stop", "stop and keep", "record", "record more than fits"}
    assert set(done) == kinds | {"change the limit", "switch", "thaw"}

"""Somebody who does all that the ledger lets anybody do, each step chosen by all that was seen, to tell two datasets
that differ in one unit apart: solved by dynamic programming over `decide` itself.

A state is the books and what became of each piece of the game; only what is executed has outputs. What a state is worth
depends on the loss ln(P/Q) of the outputs so far, and is kept for every loss on the lattice of `tests.kit.pairs`. The
most over what can be done next is the best adaptive strategy, for every epsilon at once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import UUID

import numpy as np

from ledger.core.amounts import ZERO, Amount
from ledger.core.books import Books
from ledger.core.commands import Change, Known, SetBudget
from ledger.core.datasets import Account
from ledger.core.decision.group import decide
from ledger.core.people import Consent
from ledger.core.residual import LEVELS, Residual
from ledger.errors import LedgerError
from tests.kit.books import ALONE, CONFIRMED, NOW_US, actor, ask, correct, key, opened, settle, start, void
from tests.kit.pairs import PICO, STEP, Pair, Values, cost, executed, promised, told_by_gaussian

ONE: Final = UUID(int=1)
WHO: Final = actor("requester")
STEWARD: Final = actor("steward", 2)
LOSSES: Final = STEP * np.arange(-300, 301)
EPSILONS: Final = STEP * np.arange(0, 91, 5)
"""Where what can be told is held to the promise."""
ATTO: Final = 10**18
HARDLY: Final = Amount(1, 0)
"""What a run costs of which only more than was planned is executed."""
GRID: Final = PICO // 64
LEAST_DELTA: Final = 1e-8
"""A promise below this is not looked at: the lattice and the costs are no more exact than a ten-thousandth of it."""


@dataclass(frozen=True)
class Piece:
    """One thing that can be asked for once.

    delta: its share. parts: so many segments of it can be executed one after another, each a `pair`. is_late: it is
    executed as more than was planned of a run that costs nothing, and recorded some time later. is_flat: it is charged
    at r = 0. is_doomed: it is never executed, and voided as nothing decided it. declared: it is asked for and settled
    as this mechanism, which was wrong, and corrected some time later. is_chosen: an output can decide which of the two
    it is when it is executed, and then only the one that was not declared is corrected. is_past: it is not asked for,
    and entered as a past run some time after it was executed.
    """

    pair: Pair
    delta: float = 0.0
    parts: int = 1
    is_late: bool = False
    is_flat: bool = False
    is_doomed: bool = False
    declared: Pair | None = None
    is_chosen: bool = False
    is_past: bool = False

    @property
    def nats(self) -> int:
        """The share in units of 1e-18 of -ln(1 - delta), rounded up."""
        return math.ceil(-math.log1p(-self.delta) * ATTO)

    @property
    def asked(self) -> Piece:
        """What is asked for."""
        return self if self.declared is None else replace(self, pair=self.declared)

    def is_dearer(self, base: int) -> bool:
        """Whether it costs more than what was declared, at some level, so that a correction must not be left out."""
        if self.is_chosen or self.is_flat:
            return self.is_chosen or bool(self.alone().exceeds(self.asked.alone()))
        tables = self.table(base), self.asked.table(base)
        costs = [(0,) if table is None else table.costs for table in tables]
        return any(mine > theirs for mine, theirs in zip(*costs, strict=True))

    def alone(self) -> Amount:
        """What it costs at r = 0, all parts."""
        return Amount(self.parts * cost(self.pair, 0, self.delta), self.parts * self.nats)

    def table(self, base: int) -> Residual | None:
        """What it costs at each level."""
        if self.is_flat:
            return None
        costs: list[int] = []
        for level in range(len(LEVELS)):
            most = costs[-1] if costs else 10**30
            # A cost at less is one at more: so few values of r are computed.
            r = Residual(base, (1,)).level(level) // GRID * GRID
            costs.append(min(most, self.parts * cost(self.pair, r, self.delta)))
        return Residual(base, tuple(costs))


@dataclass(frozen=True)
class Game:
    """A limit and what can be asked for under it.

    limits: what it can be set to, one after another. before: which of these changes ends what may be executed, so that
    the limits until then must cover it, also what is recorded later; None if none does. is_switched: runs are
    costed by themselves until a steward changes that, which can be at any time.
    """

    limit: float
    pieces: tuple[Piece, ...]
    delta: float = 0.0
    limits: tuple[float, ...] = ()
    before: int | None = None
    is_switched: bool = False

    @property
    def promise(self) -> Values:
        """The most that the outputs may tell at each epsilon."""
        limits = self.limits if self.before is None else self.limits[: self.before]
        return promised(max(self.limit, *limits, 0), self.delta, EPSILONS)


@dataclass(frozen=True)
class State:
    """The books, and of each piece what became of it. changes: how often the limit was set. is_told: something was
    recorded that did not fit."""

    books: Books
    pieces: tuple[str, ...]
    changes: int = 0
    is_told: bool = False


@dataclass
class Played:
    """What was found: how many states there are, and how often each kind of thing was done."""

    states: int = 0
    done: Counter[str] = field(default_factory=Counter)


class Adversary:
    """All that can be done in a game."""

    def __init__(self, game: Game) -> None:
        self.game, self.played = game, Played()
        base = round(game.limit * PICO)
        self._tables = [piece.table(base) for piece in game.pieces]
        self._asks = [
            ask(1, cost=HARDLY, run=UUID(int=1000 + at), who=WHO)
            if piece.is_late
            else ask(1, cost=piece.asked.alone(), run=UUID(int=1000 + at), who=WHO, residual=piece.asked.table(base))
            for at, piece in enumerate(game.pieces)
        ]
        self._are_dearer = [piece.declared is not None and piece.is_dearer(base) for piece in game.pieces]
        self._next: dict[Any, tuple[bool, float, float, list[tuple[Pair | None, Any]]]] = {}
        limit = Amount(base, math.ceil(-math.log1p(-game.delta) * ATTO))
        books = opened(limit, costing="standalone" if game.is_switched else "residual", bound="certified")
        self._first = self._seen(State(books, ("new",) * len(game.pieces)))
        self.played.states = len(self._next)

    def worst(self) -> float:
        """By how much the best strategy tells more than was promised: the largest ratio of deltas."""
        return max(float(np.max(self.excess(is_swapped))) for is_swapped in (False, True))

    def excess(self, is_swapped: bool) -> Values:
        """The ratio at each epsilon, with the unit added or taken away."""
        worth: dict[Any, Values] = {}
        whole = self._worth(self._first, is_swapped, worth)
        # From p = 1 and exp(eps) q with q = 1: that many units of q, at a loss of -eps.
        at = np.rint((-EPSILONS - LOSSES[0]) / STEP).astype(int)
        delta = np.exp(EPSILONS) * whole[at]
        promise = self.game.promise
        return np.where(promise >= LEAST_DELTA, delta / np.maximum(promise, LEAST_DELTA), 0)

    def _worth(self, state: Any, is_swapped: bool, worth: dict[Any, Values]) -> Values:
        if state in worth:
            return worth[state]
        can_end, mu_sq, delta, steps = self._next[state]
        best = np.zeros(LOSSES.shape)
        if can_end:
            best = delta * np.exp(LOSSES) + (1 - delta) * told_by_gaussian(mu_sq, LOSSES)
        for pair, after in steps:
            value = self._worth(after, is_swapped, worth)
            if pair is not None:
                value = executed(pair.swapped if is_swapped else pair, value, LOSSES)
            best = np.maximum(best, value)
        worth[state] = best
        return best

    # --- what can be done

    def _seen(self, state: State) -> Any:
        """The state's name, with all that can follow it; two states are one if all that follows is the same."""
        name = _name(state)
        if name not in self._next:
            self._next[name] = (False, 0.0, 0.0, [])
            steps = [(pair, self._seen(after)) for pair, after in self._steps(state)]
            self._next[name] = (*self._end(state), steps)
        return name

    def _end(self, state: State) -> tuple[bool, float, float]:
        """Whether one may stop here, and what is left for a last release of noise, and to show everything."""
        account = state.books.accounts[key(1)]
        waits = any(
            ((piece.is_late or piece.is_past) and status == "executed") or (status == "wrong" and is_dearer)
            for piece, status, is_dearer in zip(self.game.pieces, state.pieces, self._are_dearer, strict=True)
        )
        is_over = waits or account.overdrawn != ZERO or (self.game.before is not None and state.is_told)
        if is_over or account.remaining.mu_sq_pico < 0:
            return False, 0.0, 0.0
        if not self._can_execute(state):
            return True, 0.0, 0.0
        return True, account.remaining.mu_sq_pico / PICO, -math.expm1(-account.remaining.delta_atto / ATTO)

    def _steps(self, state: State) -> Iterator[tuple[Pair | None, State]]:
        for at, piece in enumerate(self.game.pieces):
            follow = (
                self._of_past
                if piece.is_past
                else self._of_late
                if piece.is_late
                else self._of_run
                if piece.declared is None
                else self._of_wrong
            )
            for kind, pair, after in follow(state, at):
                self.played.done[kind] += 1
                yield pair, after
        if state.changes < len(self.game.limits):
            limit = Amount(round(self.game.limits[state.changes] * PICO), state.books.accounts[key(1)].limit.delta_atto)
            raised = self._decided(state, SetBudget(STEWARD, ONE, {}, limit, "r", ALONE))
            if raised is not None:
                self.played.done["change the limit"] += 1
                yield None, replace(raised, changes=state.changes + 1)
        if state.books.datasets[ONE].costing == "standalone":
            switched = self._decided(state, Change(STEWARD, ONE, None, None, None, "r", ALONE, "residual"))
            if switched is not None:
                self.played.done["switch"] += 1
                yield None, switched
        if state.books.datasets[ONE].state == "frozen":
            thawed = self._decided(state, Change(STEWARD, ONE, "active", None, None, "r", ALONE))
            if thawed is not None:
                self.played.done["thaw"] += 1
                yield None, thawed

    def _can_execute(self, state: State) -> bool:
        return self.game.before is None or state.changes <= self.game.before

    def _of_run(self, state: State, at: int) -> Iterator[tuple[str, Pair | None, State]]:
        piece, command, status = self.game.pieces[at], self._asks[at], state.pieces[at]
        if status == "new":
            asked = self._decided(state, command, start_too=piece.parts > 1)
            if asked is not None:
                yield "ask", None, _with(asked, at, "held")
        elif status == "held":
            if not piece.is_doomed and self._can_execute(state):
                yield "execute", piece.pair, _with(state, at, "done" if piece.parts == 1 else "executed 1")
            voided = self._decided(state, void(STEWARD, state.books, command, is_independent=piece.is_doomed))
            if voided is not None:
                yield _ended(state, voided, "void"), None, _with(voided, at, "gone")
        elif status.startswith("executed "):
            made = int(status.removeprefix("executed "))
            if self._can_execute(state):
                after = "done" if made + 1 == piece.parts else f"executed {made + 1}"
                yield "execute", piece.pair, _with(state, at, after)
            whole = state.books.runs[command.run_id].cost
            if whole is not None:
                charged = Amount(whole.mu_sq_pico // piece.parts * made, whole.delta_atto // piece.parts * made)
                ended = settle(WHO, state.books, command, charged=charged, stop="data_dependent")
                stopped = self._decided(state, ended)
                if stopped is not None:
                    yield _ended(state, stopped, "stop"), None, _with(stopped, at, "gone")

    def _of_wrong(self, state: State, at: int) -> Iterator[tuple[str, Pair | None, State]]:
        piece, command, status = self.game.pieces[at], self._asks[at], state.pieces[at]
        if status == "new":
            asked = self._decided(state, command, start_too=True)
            if asked is not None:
                yield "ask", None, _with(asked, at, "held")
        elif status == "held" and self._can_execute(state):
            cost = state.books.runs[command.run_id].cost
            settled = self._decided(state, settle(WHO, state.books, command, charged=cost))
            if settled is not None:
                yield "execute", piece.pair, _with(settled, at, "wrong")
                if piece.is_chosen:
                    yield "execute", piece.declared, _with(settled, at, "gone")
        elif status == "wrong" and (corrected := self._corrected(state, at)) is not None:
            before, after = (each.books.accounts[key(1)].remaining for each in (state, corrected))
            kind = "correct downwards" if after.mu_sq_pico > before.mu_sq_pico else "correct"
            yield kind, None, _with(corrected, at, "gone")

    def _corrected(self, state: State, at: int) -> State | None:
        piece, run = self.game.pieces[at], state.books.runs[self._asks[at].run_id]
        first = correct(
            STEWARD,
            state.books,
            self._asks[at],
            piece.alone(),
            known=Known(run.cost or ZERO, run.r, run.corrections),
            places={ONE: run.places[0].seq},
            residual=self._tables[at],
            by_output=piece.is_chosen,
        )
        proposed = self._decided(state, first)
        if proposed is None or proposed.books.runs[run.id].corrections:
            return proposed
        second = replace(first, actor=actor("steward", 3), consent=Consent(first.consent.proposal_id, is_second=True))
        approved = self._decided(proposed, second)
        # A proposal is of one id, and this one is over.
        return None if approved is None else replace(approved, books=replace(approved.books, proposals={}))

    def _of_late(self, state: State, at: int) -> Iterator[tuple[str, Pair | None, State]]:
        piece, command, status = self.game.pieces[at], self._asks[at], state.pieces[at]
        if status == "new":
            asked = self._decided(state, command, start_too=True)
            if asked is not None:
                yield "ask", None, _with(asked, at, "held")
        elif status == "held" and self._can_execute(state):
            yield "execute", piece.pair, _with(state, at, "executed")
        elif status == "executed":
            late = settle(WHO, state.books, command, excess=piece.alone(), residual=self._tables[at])
            recorded = self._decided(state, late)
            # More than a whole limit is charged only once a steward confirms it.
            if recorded is not None and recorded.books.runs[command.run_id].is_reported:
                recorded = self._decided(recorded, replace(late, actor=STEWARD, ruling=CONFIRMED))
            if recorded is not None:
                kind = "record more than fits" if recorded.is_told else "record"
                yield kind, None, _with(recorded, at, "gone")

    def _of_past(self, state: State, at: int) -> Iterator[tuple[str, Pair | None, State]]:
        piece, command, status = self.game.pieces[at], self._asks[at], state.pieces[at]
        if status == "new" and self._can_execute(state):
            yield "execute", piece.pair, _with(state, at, "executed")
        elif status == "executed":
            entered = self._decided(state, replace(command, actor=STEWARD, is_past=True))
            if entered is not None:
                kind = "enter more than fits" if entered.is_told else "enter"
                yield kind, None, _with(entered, at, "gone")

    def _decided(self, state: State, command: Any, *, start_too: bool = False) -> State | None:
        """The state after a command; None if it is no use."""
        books, (outcome,) = decide(state.books, [command], now_us=NOW_US)
        if isinstance(outcome, LedgerError):
            return None
        if not isinstance(outcome, tuple):
            raise TypeError("a command of the game is no repetition, and no batch")
        (draft,) = outcome
        if draft.kind == "run-refused":
            return None
        if start_too:
            books, (begun,) = decide(books, [start(WHO, books, command)], now_us=NOW_US)
            if isinstance(begun, LedgerError):
                return None
        is_told = state.is_told or not {"fits": True, **draft.facts, **draft.facts.get("overrun", {})}["fits"]
        return replace(state, books=books, is_told=is_told)


def _with(state: State, at: int, status: str) -> State:
    return replace(state, pieces=(*state.pieces[:at], status, *state.pieces[at + 1 :]))


def _ended(before: State, after: State, kind: str) -> str:
    """What was done, and whether anything was given back."""
    left = [state.books.accounts[key(1)].remaining for state in (before, after)]
    return f"{kind} and keep" if left[0] == left[1] else kind


def _name(state: State) -> Any:
    """All of a state that decides what can follow: numbers of entries count only by their order."""
    account: Account = state.books.accounts[key(1)]
    trail = account.trail
    open_runs = [
        (run.places[0].seq, run.id.int, run.r, run.cost)
        for run in state.books.runs.values()
        if _is_open(run.state) or state.pieces[run.id.int - 1000] == "wrong"
    ]
    seqs = sorted({item.seq for item in trail.items} | {seq for seq, *_ in open_runs} | {trail.raised_seq})
    rank = {seq: at for at, seq in enumerate(seqs)}
    runs = tuple(sorted((rank[seq], *rest) for seq, *rest in open_runs))
    items = tuple((rank[item.seq], item.room) for item in trail.items)
    of_trail = (items, trail.highest, rank[trail.raised_seq], trail.raised_left, trail.raised_atto)
    of_account = (account.limit, account.remaining, account.overdrawn, min(account.spent.mu_sq_pico, 1), of_trail)
    dataset = state.books.datasets[ONE]
    return (of_account, runs, state.pieces, dataset.state, dataset.costing, state.changes, state.is_told)


def _is_open(status: str) -> bool:
    return status in ("held", "started")

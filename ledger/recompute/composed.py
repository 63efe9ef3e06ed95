"""The spent budget of an account by the best non-adaptive accounting: for information, never for a decision."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from ledger.accounting import amounts, exact, gdp, pairs, settling
from ledger.accounting.pairs import Parts
from ledger.core.amounts import Amount
from ledger.core.datasets import AccountKey
from ledger.errors import LedgerError
from ledger.recompute.costing import AS_PLANNED, Accountant, Declaration, Ended
from ledger.recompute.replay import Outcome

COMPOSITIONS_MAX: Final = 24
"""How many different compositions are computed for an export: each takes up to a few seconds."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A run: its declaration, and how it ended."""

    declaration: Declaration
    ended: Ended = AS_PLANNED


@dataclass(frozen=True, slots=True)
class Epsilons:
    """Upper bounds of epsilon of some runs at each delta; infinity if there is none.

    gdp: from the sum that the ledger keeps. exact: from the composed runs; None if not resolved or too large.
    """

    gdp: tuple[float, ...]
    exact: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Composition:
    """The composition of accounts that were charged by the same runs.

    keys: these accounts. at_deltas: the deltas for epsilon. settled: spent; with_held: spent and held. envelopes: types
    of mechanisms that count with their charge, because no dominating pair is known. is_bound: false if the cost of a
    run is an estimate and nothing else is known.
    """

    keys: tuple[AccountKey, ...]
    at_deltas: tuple[float, ...]
    settled: Epsilons
    with_held: Epsilons
    envelopes: tuple[str, ...]
    is_bound: bool


class Tally:
    """The runs that each account was charged for, as counts of distinct runs."""

    def __init__(self, accountant: Accountant) -> None:
        self._accountant = accountant
        self.settled: dict[AccountKey, Counter[Ran]] = {}
        self.held: dict[AccountKey, Counter[Ran]] = {}
        self._parts = lru_cache(4096)(self._parts_of)

    def add(self, ran: Ran, keys: Iterable[AccountKey], *, is_held: bool = False) -> None:
        """Add a run that was settled, or still holds its cost."""
        for key in keys:
            if key.principal_id is None:
                (self.held if is_held else self.settled).setdefault(key, Counter())[ran] += 1

    def compositions(
        self, outcomes: Sequence[Outcome], at_deltas: Sequence[float]
    ) -> tuple[tuple[Composition, ...], int]:
        """Return the compositions, those charged most first, and how many were left out."""
        alike: dict[tuple[frozenset[tuple[Ran, int]], frozenset[tuple[Ran, int]]], list[Outcome]] = {}
        for outcome in outcomes:
            settled, held = (frozenset(runs.get(outcome.key, Counter()).items()) for runs in (self.settled, self.held))
            if settled or held:
                alike.setdefault((settled, held), []).append(outcome)
        most_first = sorted(alike.values(), key=lambda accounts: -(accounts[0].spent + accounts[0].held).mu_sq_pico)
        compositions = [self._composition(accounts, at_deltas) for accounts in most_first[:COMPOSITIONS_MAX]]
        return tuple(compositions), sum(map(len, most_first[COMPOSITIONS_MAX:]))

    def _composition(self, alike: Sequence[Outcome], at_deltas: Sequence[float]) -> Composition:
        first = alike[0]
        settled = self._together(self.settled.get(first.key, Counter()))
        held = self._together(self.held.get(first.key, Counter()))
        both = None if settled is None or held is None else pairs.together([settled, held])
        known = [parts for parts in (settled, held) if parts is not None]
        return Composition(
            tuple(outcome.key for outcome in alike),
            tuple(at_deltas),
            _epsilons(first.spent, settled, at_deltas),
            _epsilons(first.spent + first.held, both, at_deltas),
            tuple(sorted(frozenset[str]().union(*(parts.envelopes for parts in known)))),
            all(parts.is_bound for parts in known),
        )

    def _together(self, runs: Counter[Ran]) -> Parts | None:
        """Return the parts of these runs; None if they are not known for one of them."""
        known = []
        for ran, count in runs.items():
            parts = self._parts(ran)
            if parts is None:
                return None
            known.append(parts.times(count))
        return pairs.together(known)

    def _parts_of(self, ran: Ran) -> Parts | None:
        worked, terms, ended = self._accountant.cost(ran.declaration), ran.declaration.terms, ran.ended
        if isinstance(worked, str):
            return None
        executed, repeated_mu_sq = settling.executed(
            worked.mechanism,
            terms,
            method=worked.method,
            steps=ended.steps,
            stop=ended.stop,
            restarts=ended.restarts,
        )
        try:
            parts = [mechanism.exact_parts(terms).times(count) for mechanism, count in executed]
            return pairs.together([*parts, Parts(repeated_mu_sq)])
        except (LedgerError, ArithmeticError):
            return None


def _epsilons(amount: Amount, parts: Parts | None, at_deltas: Sequence[float]) -> Epsilons:
    composed = (None,) * len(at_deltas) if parts is None else exact.epsilons(parts, at_deltas).epsilons
    return Epsilons(tuple(gdp_epsilon(amount, at) for at in at_deltas), composed)


def gdp_epsilon(amount: Amount, at_delta: float) -> float:
    """Return an upper bound of the epsilon of an amount; infinity if there is none."""
    mu, delta = amounts.mu_of(amount) * (1 + 2.0**-50), amounts.delta_of(amount) * (1 + 2.0**-50)
    if not math.isfinite(mu) or delta >= 1:
        return math.inf
    return float(gdp.epsilon_upper(mu=mu, delta=delta, at_delta=at_delta))

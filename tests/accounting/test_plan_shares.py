"""What would fit if an approval takes the cheapest of several shares of delta."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from ledger.accounting import beside, mechanisms, plan
from ledger.accounting.beside import Offer
from ledger.accounting.cost import Cost
from ledger.accounting.plan import Left
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.residual import RESERVE, Residual, levels

TERMS = Terms(bound="certified", adjacency="add_or_remove_one")
TRAINING = {"type": "dpsgd", "noise_multiplier": 0.7, "sampling": "poisson", "sample_rate": 0.01, "steps": 60}
ATTO = 10**18


class Prices:
    """Costs that rise with the steps and as the share falls, made up, so that every value can be tried."""

    def __init__(self, rng: random.Random) -> None:
        self.base = rng.choice((640, 6400))
        self.shares = tuple(Decimal(1).scaleb(-power) for power in range(1, rng.randrange(2, 9)))
        self.of_step = rng.uniform(1, 40)
        self.of_share = rng.uniform(0, 200)
        self.falls = sorted((rng.uniform(0.05, 1) for _ in range(15)), reverse=True)
        self.is_flat = rng.random() < 0.1

    def offer(self, mechanism: Any, _terms: Terms, share: Decimal, base: int, *, left: int | None = None) -> Offer:
        """What so many steps cost at a share, at the levels that fit in what is left if that is given."""
        alone = 1 + int(self.of_step * mechanism.steps - self.of_share * math.log10(share))
        costs = (alone, *(max(1, int(alone * fall)) for fall in self.falls))
        if left is not None:
            costs = costs[: 1 + sum(level + base // RESERVE < left for level in levels(base)[1:])]
        cost = Cost(1.0, Fraction(alone, 10**12), Fraction(int(share * 1000), ATTO), "made up", ())
        return Offer(share, cost, None if self.is_flat else Residual(base, costs))

    def fits(self, steps: int, left: int, remaining: Amount) -> bool:
        """Whether an approval would find a share at which so many steps fit."""
        mechanism = mechanisms.parse({**TRAINING, "steps": steps})
        for share in self.shares:
            offer = self.offer(mechanism, TERMS, share, self.base)
            amount = offer.cost.amount
            if offer.table is not None:
                index = offer.table.best(left)
                if index is None:
                    continue
                amount = Amount(offer.table.costs[index], amount.delta_atto)
            if not amount.exceeds(remaining):
                return True
        return False


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Callable[[Prices], None]:
    """Costs that are made up take the place of certificates."""
    return lambda prices: monkeypatch.setattr(beside, "offer", prices.offer)


def test_the_most_steps_that_an_approval_admits(
    tries: Callable[[int, int], int], made_up: Callable[[Prices], None]
) -> None:
    """Goal: what is suggested is approved, at the share that an approval takes, and the next value is not; nothing is
    suggested only if nothing fits. Method: random costs, limits and shares; every number of steps tried."""
    rng, found, at_another_share = random.Random(11), 0, 0
    for _ in range(tries(300, 20_000)):
        prices = Prices(rng)
        made_up(prices)
        left = rng.randrange(1, prices.base)
        remaining = Amount(rng.choice((left, left, left // 2)), rng.choice((0, 1, 7, 20, 100, 500, 5000)))
        there = Left(prices.base, left, prices.shares)
        mechanism = mechanisms.parse(TRAINING)
        fits = plan.fits(mechanism, TERMS, remaining=remaining, left=there)
        tried = [steps for steps in range(1, 61) if prices.fits(steps, left, remaining)]
        assert fits.get("steps") == (tried[-1] if tried else None)
        solved = plan.solve(mechanism, TERMS, solve_for="steps", remaining=remaining, left=there)
        if solved is not None:
            found += 1
            assert isinstance(solved.value, int)
            assert prices.fits(solved.value, left, remaining)
            assert not prices.fits(solved.value + 1, left, remaining)
            at_another_share += not at_one_share(prices, left, remaining, solved.value)
        else:
            assert not tried
    print(f"{found} found, of which {at_another_share} do not fit at the share of the request")
    assert found > at_another_share > 0


def at_one_share(prices: Prices, left: int, remaining: Amount, steps: int) -> bool:
    """Whether so many steps fit at the share that 60 of them would take."""
    one = Prices.__new__(Prices)
    one.__dict__ |= prices.__dict__
    mechanism = mechanisms.parse(TRAINING)
    there = Left(prices.base, left, prices.shares)
    search = plan._Search(mechanism, TERMS, remaining=remaining, left=there, is_late=lambda: False)
    search._chosen("steps", 60)
    one.shares = (prices.shares[search._share],)
    return one.fits(steps, left, remaining)


def test_runs_each_at_its_own_share(tries: Callable[[int, int], int], made_up: Callable[[Prices], None]) -> None:
    """Goal: as many runs as an approval admits one after another, each at the share that is cheapest then. Method: the
    same, run by run: no share fits one more."""
    rng, most = random.Random(13), 0
    for _ in range(tries(200, 10_000)):
        prices = Prices(rng)
        made_up(prices)
        left, nats = prices.base, rng.choice((100, 3000, 10**6))
        there = Left(prices.base, left, prices.shares)
        mechanism = mechanisms.parse({**TRAINING, "steps": 1})
        solved = plan.solve(mechanism, TERMS, solve_for="runs", remaining=Amount(left, nats), left=there)
        count, charged = (0, Amount(0, 0)) if solved is None else (solved.value, solved.amount)
        rest = Amount(left, nats) - charged
        assert not prices.fits(1, rest.mu_sq_pico, rest)
        assert charged.mu_sq_pico >= count
        most = max(most, int(count))
    print(f"at most {most} runs")
    assert most > 10


def test_the_runs_that_are_counted_are_bounded(
    monkeypatch: pytest.MonkeyPatch, made_up: Callable[[Prices], None]
) -> None:
    """Goal: a plan ends, however many runs would fit."""
    monkeypatch.setattr(plan, "RUNS_CHOSEN_MAX", 5)
    prices = Prices(random.Random(1))
    made_up(prices)
    there = Left(prices.base, 10**9, prices.shares)
    solved = plan.solve(mechanisms.parse(TRAINING), TERMS, solve_for="runs", remaining=Amount(10**9, ATTO), left=there)
    assert solved is not None
    assert solved.value == 5

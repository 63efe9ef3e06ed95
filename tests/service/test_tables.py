"""The share of delta that a run takes if it names none: the one that takes the least part of what is left."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from ledger.accounting import beside, mechanisms, shares
from ledger.accounting.beside import Offer
from ledger.accounting.cost import Cost
from ledger.accounting.shares import Room
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.residual import Residual
from ledger.service.tables import Situation
from tests.kit.driver import Ledger

TERMS = Terms(bound="certified", adjacency="add_or_remove_one")
TRAINING = {"type": "dpsgd", "noise_multiplier": 0.7, "sampling": "poisson", "sample_rate": 0.0042667, "steps": 235}
LIMIT = 2_750_000_000_000
MILLIONTH = 1_000_000_500_000  # -log(1 - 1e-6), in units of 1e-18


def offer(delta: str, mu_sq_pico: int, atto: int, table: Residual | None = None) -> Offer:
    """What a run of this cost is offered at."""
    cost = Cost(1.0, Fraction(mu_sq_pico, 10**12), Fraction(atto, 10**18), "by hand", ())
    return Offer(Decimal(delta), cost, table)


def room(left: Amount) -> Room:
    """So much is left in every account."""
    return Room(left.mu_sq_pico, left)


def test_the_least_part_of_what_is_left_is_the_cheapest() -> None:
    """Goal: mu² or delta, whichever is more; beside what is left if there is a table. Method: by hand."""
    offers = [offer("1e-7", 10, 100), offer("1e-8", 20, 10), offer("1e-9", 50, 1)]
    for left, expected in ((Amount(1000, 1000), 1), (Amount(1000, 10), 2), (Amount(15, 1000), 0), (Amount(1000, 0), 2)):
        assert shares.cheapest(offers, room(left)) is offers[expected], left
    beside_it = [offer("1e-8", 20, 1, Residual(64, (20, 5))), offer("1e-9", 21, 1)]
    assert shares.cheapest(beside_it, room(Amount(64, 1000))) is beside_it[0]
    assert [shares.is_mu_dearer(one, room(Amount(1000, 1000))) for one in offers] == [False, True, True]


def test_a_share_fits_if_its_parts_are_at_most_one(tries: Callable[[int, int], int]) -> None:
    """Goal: if a run fits at any share, the cheapest one fits: so no refusal of a run that another share would admit.
    Method: random tables whose costs rise as the share falls; what a principal may hold is less than what is left; the
    decision's own rule of what fits."""
    rng, fitting = random.Random(3), 0
    for _ in range(tries(3000, 200_000)):
        offers, most, base = list[Offer](), rng.randrange(2, 50), rng.choice((64, 640))
        for power in range(rng.randrange(1, 9)):
            most += rng.randrange(0, 40)
            costs = (most, *sorted((rng.randrange(1, most + 1) for _ in range(3)), reverse=True))
            offers.append(offer(f"1e-{power + 1}", most, 10 ** (8 - power), rng.choice((None, Residual(base, costs)))))
        left = rng.randrange(-5, 200)
        there = Room(left, Amount(min(left, rng.randrange(-5, 200)), rng.choice((0, 5, 99, 10**5, 10**9))))
        fits = [fits_in(one, there) for one in offers]
        assert any(fits) == fits_in(shares.cheapest(offers, there), there)
        fitting += any(fits)
    print(f"{fitting} fit")
    assert fitting > 100


def test_wherever_the_choice_begins_it_is_the_same(tries: Callable[[int, int], int]) -> None:
    """Goal: the number that a choice begins with changes how many offers it asks for, and not what it chooses. Method:
    random costs that rise as the share falls; each beginning beside none; a right one asks for two offers at most."""
    rng, chosen_at = random.Random(7), set[int]()
    for _ in range(tries(300, 20_000)):
        count = rng.randrange(1, 9)
        rising = sorted(rng.randrange(1, 1000) for _ in range(count))
        offers = [offer(f"1e-{power + 1}", mu, 10 ** (8 - power)) for power, mu in enumerate(rising)]
        there = Room(rng.randrange(1, 2000), Amount(rng.randrange(1, 2000), rng.choice((5, 10**5, 10**9))))
        expected = shares.choose(offers.__getitem__, count, there)
        for first in range(count):
            assert shares.choose(offers.__getitem__, count, there, first=first) == expected
        asked = Counter[int]()

        def offer_at(index: int, offers: list[Offer] = offers, asked: Counter[int] = asked) -> Offer:
            asked[index] += 1
            return offers[index]

        assert shares.choose(offer_at, count, there, first=expected.number) == expected
        assert asked.total() <= 2
        chosen_at.add(expected.number)
    assert len(chosen_at) > 4


@pytest.mark.parametrize("segments", [1, 5])
@pytest.mark.parametrize("sixty_fourths", [0, 1, 5, 21, 63])
def test_a_table_of_what_is_left_decides_as_the_whole_one(sixty_fourths: int, segments: int) -> None:
    """Goal: a table that ends at what is left has the same costs as far as it goes, and the same best position for
    whatever fits in there. Method: both, at amounts below what is left and at its ends."""
    mechanism, left = mechanisms.parse(TRAINING), LIMIT * sixty_fourths // 64
    terms = replace(TERMS, segments=segments)
    share = Decimal("1e-7")
    whole = beside.offer(mechanism, terms, share, LIMIT)
    short = beside.offer(mechanism, terms, share, LIMIT, left=left)
    assert short.cost == whole.cost
    assert whole.table is not None
    table = short.table or Residual(LIMIT, whole.table.costs[:1])
    assert table.costs == whole.table.costs[: len(table.costs)]
    assert len(table.costs) < len(whole.table.costs)
    for there in {0, *(needed for index in range(16) for needed in near(whole.table.needed(index))), left}:
        if there <= left:
            assert table.best(there) == whole.table.best(there)


def near(amount: int) -> tuple[int, int, int]:
    """An amount and its neighbours."""
    return amount - 1, amount, amount + 1


def fits_in(one: Offer, there: Room) -> bool:
    """Whether an approval would find that it fits: by its level, and by what is left of everything."""
    amount = one.cost.amount
    if one.table is not None:
        index = one.table.best(there.left)
        if index is None:
            return False
        amount = Amount(one.table.costs[index], amount.delta_atto)
    return amount.mu_sq_pico <= there.remaining.mu_sq_pico and amount.delta_atto <= there.remaining.delta_atto


def test_shares_are_powers_of_ten_of_the_limit() -> None:
    """Goal: eight shares as long as a certificate can use them; a hundredth without residual costs, nothing of
    nothing."""
    left = room(Amount(LIMIT, MILLIONTH))
    assert Situation(LIMIT, MILLIONTH, left).shares()[:2] == (Decimal("1e-7"), Decimal("1e-8"))
    assert len(Situation(LIMIT, MILLIONTH, left).shares()) == 8
    assert Situation(None, MILLIONTH, left).shares() == (Decimal("1e-8"),)
    assert Situation(LIMIT, 0, left).shares() == (Decimal(0),)
    assert len(Situation(LIMIT, 1000, left).shares()) == 3


@pytest.mark.parametrize("steps", [235, 2000])
def test_a_run_takes_the_cheapest_of_all(ledger: Ledger, steps: int) -> None:
    """Goal: the few shares that are tried lead to the cheapest of all. Method: asked over HTTP, with more and more
    spent, beside every share's table."""
    budget = {"epsilon": 8, "at_delta": 1e-5}
    ledger.register(name="rounds", bound="certified", budget=budget)
    declared: dict[str, Any] = {**TRAINING, "steps": steps}
    mechanism = mechanisms.parse(declared)
    limit = Amount.from_facts(_facts(ledger, "limit"))
    offered = Situation(limit.mu_sq_pico, limit.delta_atto, room(limit)).shares()
    offers = [beside.offer(mechanism, TERMS, share, limit.mu_sq_pico) for share in offered]
    for _ in range(4):
        left = Amount.from_facts(_facts(ledger, "remaining"))
        answer = ledger.ask(declared, datasets=["rounds"])
        assert answer.status_code == 201, answer.text
        assert Decimal(str(answer.json()["delta"])) == shares.cheapest(offers, room(left)).delta
    columns = zip(*(one.table.costs for one in offers if one.table is not None), strict=True)
    assert all(list(column) == sorted(column) for column in columns)


def _facts(ledger: Ledger, part: str) -> dict[str, str]:
    shown = ledger.get("/v1/datasets/rounds").json()["balance"][part]
    return {name: shown[name] for name in ("mu_sq_pico", "delta_atto")}

"""The share of delta that a run takes if it names none: the one that takes the least part of what is left."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from ledger.accounting import beside, mechanisms
from ledger.accounting.beside import Offer
from ledger.accounting.cost import Cost
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.residual import Residual
from ledger.service import tables
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


def test_the_least_part_of_what_is_left_is_the_cheapest() -> None:
    """Goal: mu² or delta, whichever is more; beside what is left if there is a table. Method: by hand."""
    offers = [offer("1e-7", 10, 100), offer("1e-8", 20, 10), offer("1e-9", 50, 1)]
    for left, expected in ((Amount(1000, 1000), 1), (Amount(1000, 10), 2), (Amount(15, 1000), 0), (Amount(1000, 0), 2)):
        assert tables.cheapest(offers, left) is offers[expected], left
    beside_it = [offer("1e-8", 20, 1, Residual(64, (20, 5))), offer("1e-9", 21, 1)]
    assert tables.cheapest(beside_it, Amount(64, 1000)) is beside_it[0]
    assert [tables.is_mu_dearer(one, Amount(1000, 1000)) for one in offers] == [False, True, True]


def test_shares_are_powers_of_ten_of_the_limit() -> None:
    """Goal: eight shares as long as a certificate can use them; a hundredth without residual costs, nothing of
    nothing."""
    left = Amount(LIMIT, MILLIONTH)
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
    shares = Situation(limit.mu_sq_pico, limit.delta_atto, limit).shares()
    offers = [beside.offer(mechanism, TERMS, share, limit.mu_sq_pico) for share in shares]
    for _ in range(4):
        left = Amount.from_facts(_facts(ledger, "remaining"))
        answer = ledger.ask(declared, datasets=["rounds"])
        assert answer.status_code == 201, answer.text
        assert Decimal(str(answer.json()["delta"])) == tables.cheapest(offers, left).delta
    columns = zip(*(one.table.costs for one in offers if one.table is not None), strict=True)
    assert all(list(column) == sorted(column) for column in columns)


def _facts(ledger: Ledger, part: str) -> dict[str, str]:
    shown = ledger.get("/v1/datasets/rounds").json()["balance"][part]
    return {name: shown[name] for name in ("mu_sq_pico", "delta_atto")}

"""`ledger.accounting.amounts`: charges are never below, limits never above, and neither further off than need be."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from decimal import ROUND_UP, localcontext
from fractions import Fraction

import mpmath as mp
import pytest

from ledger.accounting import amounts
from ledger.core.amounts import Amount
from tests.accounting.samples import decimal, real

ONE = Fraction(1)


def test_a_charge_is_the_least_integer_above_and_a_limit_the_greatest_below(tries: Callable[[int, int], int]) -> None:
    """Goal: one unit of rounding and no more, in the right direction, at any size. Method: random fractions, whole
    numbers of units among them; the defining inequalities in exact arithmetic."""
    rng = random.Random(2)
    for _ in range(tries(2_500, 100_000)):
        top = 10 ** rng.choice([1, 3, 12, 30, 300])
        mu_sq = Fraction(rng.randrange(top), rng.choice([1, 10**12, 7, 10**30 + 1]))
        nats = Fraction(rng.randrange(top), rng.choice([1, 10**18, 3, 10**40 + 1]))
        charge, limit = amounts.charge(mu_sq=mu_sq, nats=nats), amounts.limit(mu_sq=mu_sq, nats=nats)
        for exact, up, down in (
            (mu_sq * 10**12, charge.mu_sq_pico, limit.mu_sq_pico),
            (nats * 10**18, charge.delta_atto, limit.delta_atto),
        ):
            assert up - 1 < exact <= up
            assert down <= exact < down + 1
            assert up - down == (exact.denominator != 1)


DELTAS_AT_THE_SEAMS = [
    *(f"1e-{n}" for n in (300, 299, 200, 80, 79, 41, 40, 39, 19, 18, 17, 1)),
    *("9.99999999999999999999999999999e-41", "1.00000000000000000000000000001e-40", "0.5", "0.9", "0.999"),
    *("0." + "9" * n for n in (15, 17, 30, 60)),
    *("1." + "0" * 58 + "1e-40", "9." + "9" * 59 + "e-41"),
]


def test_nats_bracket_the_logarithm(tries: Callable[[int, int], int]) -> None:
    """Goal: -log(1 - delta), from below and from above, within a relative 3e-40. Method: 2,000 random deltas from
    1e-300 to 1 - 1e-60 and the seams of the implementation, against mpmath with 700 digits, by the definition."""
    rng = random.Random(3)
    count = tries(1_000, 20_000)
    deltas = [Fraction(text) for text in DELTAS_AT_THE_SEAMS]
    deltas += [Fraction(decimal(rng, "1e-300", "0.999")) for _ in range(count // 2)]
    deltas += [Fraction(decimal(rng, "1e-42", "1e-38")) for _ in range(count // 4)]
    deltas += [1 - Fraction(decimal(rng, "1e-60", "0.5")) for _ in range(count // 4)]
    with mp.workdps(700):
        for delta in deltas:
            down, up = amounts.nats(delta, towards="down"), amounts.nats(delta, towards="up")
            exact = -mp.log(1 - real(delta))
            assert real(down) < exact < real(up), delta
            assert (real(up) - real(down)) / exact < mp.mpf("3e-40"), delta


def test_nats_do_not_depend_on_the_callers_decimal_context() -> None:
    """Goal: no ambient precision or rounding reaches an amount. Method: the same in a coarse context, rounding up."""
    deltas = [Fraction(text) for text in DELTAS_AT_THE_SEAMS]
    expected = [(amounts.nats(delta, towards="down"), amounts.nats(delta, towards="up")) for delta in deltas]
    with localcontext(prec=3, rounding=ROUND_UP):
        assert [
            (amounts.nats(delta, towards="down"), amounts.nats(delta, towards="up")) for delta in deltas
        ] == expected


def test_nothing_costs_nothing_and_certainty_has_no_cost() -> None:
    """Goal: delta 0 is exactly 0; there is no logarithm outside [0, 1). Method: the ends."""
    assert amounts.nats(Fraction(0), towards="up") == amounts.nats(Fraction(0), towards="down") == 0
    for delta in (ONE, Fraction(2), Fraction(-1, 10**400)):
        for towards in ("up", "down"):
            with pytest.raises(ValueError, match="at least 0 and less than 1"):
                amounts.nats(delta, towards=towards)


def test_sums_of_small_deltas_stay_cheap() -> None:
    """Goal: many exact summands do not grow a denominator without end. Method: that of a sum of a hundred of them."""
    rng = random.Random(4)
    deltas = [Fraction(decimal(rng, "1e-300", "1e-41")) for _ in range(100)]
    total = sum((amounts.nats(delta, towards="up") for delta in deltas), Fraction(0))
    assert total.denominator < 10**500
    assert total > sum(deltas)


def test_moving_outward_and_inward(tries: Callable[[int, int], int]) -> None:
    """Goal: a double that is off by its error bound at worst still bounds the true value, and by hardly more than that.
    Method: random doubles and errors; the true value at either end of what the bound allows, in exact fractions."""
    rng = random.Random(5)
    for _ in range(tries(2_500, 100_000)):
        value = math.ldexp(rng.uniform(1, 2), rng.randint(-1021, 1022))
        error = rng.uniform(1, 5_000) * 2.0**-53
        up, down = amounts.outward(value, error), amounts.inward(value, error)
        # |value - truth| <= error * truth
        highest, lowest = Fraction(value) / (1 - Fraction(error)), Fraction(value) / (1 + Fraction(error))
        assert down < lowest < highest < up
        assert up < Fraction(value) * (1 + Fraction(error) * Fraction(66, 64))
        assert down > Fraction(value) * (1 - Fraction(error) * Fraction(66, 64))


def test_mu_for_display(tries: Callable[[int, int], int]) -> None:
    """Goal: the root of any amount, to the last place or so; infinity where no double is. Method: random integers of
    up to 625 digits against integer roots with 40 digits to spare."""
    rng = random.Random(6)
    for _ in range(tries(1_000, 50_000)):
        pico = rng.randrange(10 ** rng.randint(1, 625))
        root = Fraction(math.isqrt(pico * 10**80), 10**46)
        assert abs(Fraction(amounts.mu_of(Amount(pico, 0))) - root) <= root * Fraction(3, 2**53)
    assert amounts.mu_of(Amount(0, 0)) == 0
    assert amounts.mu_of(Amount(10**12, 0)) == 1
    assert amounts.mu_of(Amount(2**63 - 1, 0)) == pytest.approx(3037.000499976, rel=1e-12)
    assert amounts.mu_of(Amount(10**628, 0)) == pytest.approx(1e308, rel=1e-15)
    assert amounts.mu_of(Amount(10**700, 0)) == math.inf


def test_delta_for_display(tries: Callable[[int, int], int]) -> None:
    """Goal: 1 - e^-x of any amount. Method: random integers against mpmath; beyond all doubles it is 1."""
    rng = random.Random(7)
    with mp.workdps(60):
        for _ in range(tries(1_000, 50_000)):
            atto = rng.randrange(10 ** rng.randint(1, 22))
            exact = -mp.expm1(-mp.mpf(atto) / 10**18)
            assert abs(amounts.delta_of(Amount(0, atto)) - exact) <= exact * mp.mpf(2) ** -50
    assert math.copysign(1, amounts.delta_of(Amount(0, 0))) == 1
    assert amounts.delta_of(Amount(0, 0)) == 0
    assert amounts.delta_of(Amount(0, 10**700)) == 1


def test_the_ledgers_currency_does_not_forget() -> None:
    """Goal: what ledgers of floats lose is kept: 1,000 charges of 1e-12 and of 1e-16 on 1.0, and 11 of 1/11. Method:
    add them as amounts."""
    one = amounts.charge(mu_sq=ONE, nats=ONE)
    tiny = amounts.charge(mu_sq=Fraction(1, 10**12), nats=Fraction(1, 10**16))
    total = one
    for _ in range(1_000):
        total += tiny
    assert total == Amount(10**12 + 1_000, 10**18 + 1_000 * 100)
    eleventh = amounts.charge(mu_sq=Fraction(1, 11), nats=Fraction(1, 11))
    assert eleventh == Amount(90_909_090_910, 90_909_090_909_090_910)
    assert amounts.charge(mu_sq=11 * Fraction(1, 11), nats=11 * Fraction(1, 11)) == one

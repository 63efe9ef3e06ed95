"""Certificates and budgets at deltas from 1e-12 to 1e-18, beside mpmath."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

import mpmath as mp
import pytest

from ledger.accounting import costs
from ledger.accounting.budgets import EpsilonBudget, limit_of
from ledger.accounting.mechanisms import parse
from ledger.accounting.terms import Terms
from tests.accounting import oracle

NOISE, RATE = Decimal(1), Decimal("0.01")
SMALL: Final = ("1e-12", "1e-15", "1e-18")


def losses_of_a_step(x: Any, noise: Any, rate: Any) -> Any:
    """log of the density of (1-q) N(0,1) + q N(1/s,1) by that of N(0,1), at x."""
    return mp.log(1 - rate + rate * mp.exp(x / noise - 1 / (2 * noise**2)))


def divergence_of_a_step(epsilon: Any, noise: Any, rate: Any) -> Any:
    """The divergence at epsilon of that pair: all of the mass above the point where the loss is epsilon."""
    gap = mp.exp(epsilon) - 1 + rate
    if gap <= 0:
        return 1 - mp.exp(epsilon)
    at = noise * (mp.log(gap / rate) + 1 / (2 * noise**2))
    above, moved = oracle.normal_cdf(-at), oracle.normal_cdf(1 / noise - at)
    return (1 - rate) * above + rate * moved - mp.exp(epsilon) * above


def divergence_of_two(epsilon: Any, noise: Any, rate: Any) -> Any:
    """That of two steps: the mean over the first step's output under P of the second's at what is left of epsilon."""

    def term(x: Any) -> Any:
        density = (1 - rate) * mp.npdf(x) + rate * mp.npdf(x, 1 / noise, 1)
        return density * divergence_of_a_step(epsilon - losses_of_a_step(x, noise, rate), noise, rate)

    # Beyond this output the second step cannot bring the loss back below epsilon.
    bend = noise * (mp.log((mp.exp(epsilon) / (1 - rate) - 1 + rate) / rate) + 1 / (2 * noise**2))
    return mp.quad(term, [-12, 0, bend, 15], maxdegree=5)


@pytest.mark.parametrize(("delta", "near"), [("1e-12", "2.125"), ("1e-15", "3.0625"), ("1e-18", "3.875")])
def test_a_certificate_of_two_steps_holds_at_a_small_delta(delta: str, near: str) -> None:
    """Goal: f_{0,delta} (x) G_mu is below the composition of two steps at every epsilon, and would not be with 2 % less
    mu. Method: the divergence of two steps by quadrature with 25 digits, at and beside the epsilon that binds."""
    mechanism = {"type": "dpsgd", "noise_multiplier": NOISE, "sampling": "poisson", "sample_rate": RATE, "steps": 2}
    terms = Terms(bound="certified", adjacency="add_or_remove_one", delta=Decimal(delta))
    cost = costs.cost(parse(mechanism), terms)
    assert cost.method == "pld-poisson"
    with mp.workdps(25):
        share, noise, rate, mu = mp.mpf(delta), mp.mpf(str(NOISE)), mp.mpf(str(RATE)), mp.mpf(cost.mu)
        is_exceeded = False
        for epsilon in (mp.mpf(near) + mp.mpf(step) / 8 for step in (-4, -1, 0, 1, 4)):
            asked = (divergence_of_two(epsilon, noise, rate) - share) / (1 - share)
            assert asked <= oracle.delta(mu, epsilon), epsilon
            is_exceeded |= asked > oracle.delta(mu * mp.mpf("0.98"), epsilon)
        assert is_exceeded


def test_a_smaller_share_never_costs_a_jump() -> None:
    """Goal: from 1e-12 to 1e-18 mu grows with each smaller share, by a little, and the delta that is charged is never
    less than the share. Method: the training of T2-34, at shares beside the units that are counted too."""
    mechanism = parse(
        {
            "type": "dpsgd",
            "noise_multiplier": Decimal(4),
            "sampling": "poisson",
            "sample_rate": Decimal("0.00033"),
            "steps": 1000,
        }
    )
    before = 0.0
    for share in ("1e-12", "1e-14", "9e-17", "1.1e-18", "1e-18", "9.99999e-19"):
        terms = Terms(bound="certified", adjacency="add_or_remove_one", delta=Decimal(share))
        cost = costs.cost(mechanism, terms)
        assert before * (1 - 1e-9) <= cost.mu < 0.0028
        assert Decimal(cost.amount.delta_atto) >= Decimal(share).scaleb(18)
        before = cost.mu


@pytest.mark.parametrize("at_delta", [*SMALL, "1e-16", "1e-17"])
def test_a_budget_at_a_small_delta_is_kept(at_delta: str) -> None:
    """Goal: the limit of (1, at_delta) is never above it, and not a thousandth below where delta is counted. Method:
    delta + (1 - delta) delta_mu(1) of the integers, in mpmath."""
    limit = limit_of(EpsilonBudget(epsilon=Decimal(1), at_delta=Decimal(at_delta)), bound="certified")
    with mp.workdps(50):
        mu = mp.sqrt(mp.mpf(limit.mu_sq_pico) / 10**12)
        delta = 1 - mp.exp(-mp.mpf(limit.delta_atto) / 10**18)
        kept = (delta + (1 - delta) * oracle.delta(mu, mp.mpf(1))) / mp.mpf(at_delta)
    assert 0.89 < kept <= 1
    assert limit.delta_atto == int(Decimal(at_delta).scaleb(17))

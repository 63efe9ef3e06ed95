"""`ledger.accounting.budgets`: a limit is never above what was declared, and hardly below it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from statistics import NormalDist
from typing import Any

import mpmath as mp
import pytest
from pydantic import ValidationError

from ledger.accounting.budgets import Budget, EpsilonBudget, MuBudget, epsilon_judged, limit_of, report_deltas
from ledger.core.amounts import Amount
from ledger.core.datasets import Bound
from ledger.errors import InvalidRequest
from tests.accounting.samples import decimal, normal_cdf, real

BOUNDS: tuple[Bound, ...] = ("certified", "clt")
DEFICIT = Fraction(1, 2**44)
"""How far mu² may be below its exact value: the double lies within e = 100 units of 2^-53 of mu (96 of the inversion, 4
of reading its arguments), and is moved down by 65/64 e: 1 - (1 - e)²(1 - 65/64 e)² < 4.1 e = 410, and 2^-44 is 512."""


def exact_delta_atto(delta: Fraction) -> int:
    """floor(-log(1 - delta) 10^18)."""
    with mp.workdps(420):
        return int(mp.floor(-mp.log(1 - real(delta)) * 10**18))


def delta_mu(mu: Any, epsilon: Any) -> Any:
    """Phi(-epsilon/mu + mu/2) - e^epsilon Phi(-epsilon/mu - mu/2)."""
    return normal_cdf(-epsilon / mu + mu / 2) - mp.exp(epsilon) * normal_cdf(-epsilon / mu - mu / 2)


def refused(budget: Budget, bound: Bound = "certified") -> InvalidRequest:
    """The error that a budget is refused with."""
    with pytest.raises(InvalidRequest) as raised:
        limit_of(budget, bound=bound)
    assert raised.value.facts["field"] == raised.value.field
    assert str(raised.value).startswith(f"{raised.value.field}: ")
    return raised.value


# --- mu and delta ----------------------------------------------------------------------------------------------------


def test_a_limit_in_mu_is_the_exact_floor(tries: Callable[[int, int], int]) -> None:
    """Goal: mu² and -log(1 - delta), rounded down, once. Method: random budgets of up to 60 digits, under both bounds,
    against fractions and mpmath at 420 digits."""
    rng = random.Random(30)
    for _ in range(tries(750, 30_000)):
        mu, delta = decimal(rng, "1e-6", "1000"), decimal(rng, rng.choice(["1e-300", "1e-20"]), "0.1")
        limit = limit_of(MuBudget(mu=mu, delta=delta), bound=rng.choice(BOUNDS))
        assert limit == Amount(math.floor(Fraction(mu) ** 2 * 10**12), exact_delta_atto(Fraction(delta)))


def test_limits_in_mu_at_their_ends() -> None:
    """Goal: what can be declared, and what is left out under clt. Method: values at the ends."""
    assert limit_of(MuBudget(mu=Decimal(1), delta=Decimal(0)), bound="certified") == Amount(10**12, 0)
    assert limit_of(MuBudget(mu=Decimal(3)), bound="clt") == Amount(9 * 10**12, 0)
    assert limit_of(MuBudget(mu=Decimal(1000), delta=Decimal("0.1")), bound="clt").mu_sq_pico == 10**18
    assert limit_of(MuBudget(mu=Decimal("1e-6")), bound="clt") == Amount(1, 0)
    # A double would make these 999999999999 or 1000000000001.
    assert limit_of(MuBudget(mu=Decimal("0.1")), bound="clt").mu_sq_pico == 10**10
    assert limit_of(MuBudget(mu=Decimal("1.1")), bound="clt").mu_sq_pico == 1_210_000_000_000


@pytest.mark.parametrize(
    ("budget", "bound", "field", "message"),
    [
        (MuBudget(mu=Decimal(1)), "certified", "budget.delta", "is required under bound certified"),
        (MuBudget(mu=Decimal("1000.0001"), delta=Decimal(0)), "certified", "budget.mu", "more than 1000"),
        (MuBudget(mu=Decimal("1e12")), "clt", "budget.mu", "more than 1000"),
        (MuBudget(mu=Decimal("9.99e-7")), "clt", "budget.mu", "rounds down to nothing"),
        (MuBudget(mu=Decimal("1e-12")), "clt", "budget.mu", "rounds down to nothing"),
        (MuBudget(mu=Decimal(1), delta=Decimal("0.10000001")), "clt", "budget.delta", "is above 0.1"),
        (MuBudget(mu=Decimal(1), delta=Decimal("0.99")), "certified", "budget.delta", "is above 0.1"),
    ],
)
def test_limits_in_mu_that_are_refused(budget: Budget, bound: Bound, field: str, message: str) -> None:
    """Goal: what is too large, too small or missing is named. Method: one value beyond each end."""
    error = refused(budget, bound)
    assert error.field == field
    assert message in str(error)


# --- epsilon ---------------------------------------------------------------------------------------------------------


def check_epsilon_limit(*, epsilon: Decimal, at_delta: Decimal, slack: Decimal | None, bound: Bound) -> bool:
    """The limit's mu keeps the target, and one larger by the deficit and a unit does not, by the definition: nothing is
    inverted. False where the budget is too small or too large to be had, which is checked as well."""
    budget = EpsilonBudget(epsilon=epsilon, at_delta=at_delta, slack=slack)
    share = Fraction({"certified": Decimal("0.1"), "clt": Decimal(0)}[bound] if slack is None else slack)
    delta = share * Fraction(at_delta)
    target, eps = real((Fraction(at_delta) - delta) / (1 - delta)), real(epsilon)
    try:
        limit = limit_of(budget, bound=bound)
    except InvalidRequest as error:
        if "rounds down to nothing" in str(error):
            assert delta_mu(mp.mpf("1.0000001e-6"), eps) > target
        else:
            assert delta_mu(mp.mpf("999.9999"), eps) < target
        return False
    assert limit.delta_atto == exact_delta_atto(delta)
    mu, mu_above = (mp.sqrt(real(Fraction(limit.mu_sq_pico + more, 10**12))) for more in (0, 1))
    assert delta_mu(mu, eps) <= target, budget
    assert delta_mu(mu_above * mp.sqrt(real(1 + DEFICIT)), eps) > target, budget
    return True


def test_a_limit_in_epsilon_keeps_its_target(tries: Callable[[int, int], int]) -> None:
    """Goal: with delta = slack at_delta, the limit's mu is the largest with delta + (1 - delta) delta_mu(epsilon) <=
    at_delta: never above, and below by less than a relative 2^-44 and one unit. Method: random budgets, slack said or
    by default, under both bounds; the curve at 130 digits on both sides of the limit."""
    rng = random.Random(31)
    taken = 0
    count = tries(600, 20_000)
    with mp.workdps(130):
        for _ in range(count):
            epsilon = decimal(rng, *rng.choice([("0.01", "50"), ("1e-12", "1e12")]))
            at_delta = decimal(rng, rng.choice(["1e-300", "1e-20"]), "0.5")
            if epsilon > 10**6:  # mu of more than 1000 for every at_delta
                assert refused(EpsilonBudget(epsilon=epsilon, at_delta=at_delta)).field == "budget.epsilon"
                continue
            kind = rng.choice(["default", "log", "near one"])
            slack = {
                "default": None,
                "log": decimal(rng, "1e-12", "0.9"),
                "near one": 1 - Decimal(f"1e-{rng.randint(1, 27)}"),
            }[kind]
            if slack and slack * at_delta > Decimal("0.1"):
                continue
            if slack and at_delta * (1 - slack) < Decimal("3e-308"):
                continue
            taken += check_epsilon_limit(epsilon=epsilon, at_delta=at_delta, slack=slack, bound=rng.choice(BOUNDS))
    assert taken > count // 3


@pytest.mark.parametrize("epsilon", ["0.001", "0.5", "3", "10", "709", "745", "100000", "400000"])
@pytest.mark.parametrize("at_delta", ["1e-300", "1e-100", "1e-18", "1e-5", "0.1", "0.5"])
@pytest.mark.parametrize("bound", BOUNDS)
def test_limits_in_epsilon_across_the_whole_range(epsilon: str, at_delta: str, bound: Bound) -> None:
    """Goal: the same wherever exp overflows, a tail underflows or a default applies. Method: a grid to the ends."""
    with mp.workdps(130):
        for slack in (None, Decimal(0), Decimal("0.19"), Decimal("1e-50")):
            taken = check_epsilon_limit(epsilon=Decimal(epsilon), at_delta=Decimal(at_delta), slack=slack, bound=bound)
            assert taken == (delta_mu(mp.mpf("1e-6"), mp.mpf(epsilon)) < mp.mpf(at_delta) * mp.mpf("0.8"))


def test_slack_is_a_tenth_when_certified_and_nothing_under_clt() -> None:
    """Goal: the defaults of the contract. Method: the same budget with the default said."""
    for bound, slack in (("certified", "0.1"), ("clt", "0")):
        silent = limit_of(EpsilonBudget(epsilon=Decimal(3), at_delta=Decimal("1e-5")), bound=bound)  # type: ignore[arg-type]
        said = EpsilonBudget(epsilon=Decimal(3), at_delta=Decimal("1e-5"), slack=Decimal(slack))
        assert silent == limit_of(said, bound="certified") == limit_of(said, bound="clt")
    certified = limit_of(EpsilonBudget(epsilon=Decimal(3), at_delta=Decimal("1e-5")), bound="certified")
    assert certified.delta_atto == 1_000_000_500_000  # -log(1 - 1e-6) is 1e-6 + 5e-13 + 3.3e-19


@pytest.mark.parametrize(
    ("epsilon", "at_delta", "slack", "field", "message"),
    [
        ("1e12", "1e-5", None, "budget.epsilon", "more than 1000"),
        ("1000001", "1e-300", None, "budget.epsilon", "more than 1000"),
        ("520000", "1e-5", None, "budget.epsilon", "more than 1000"),
        ("1", "0.51", None, "budget.at_delta", "is above 0.5"),
        ("1", "0.5", "0.21", "budget.at_delta", "is above 0.1"),
        ("1e-12", "1e-300", None, "budget.epsilon", "rounds down to nothing"),
        ("1e-6", "1e-9", None, "budget.epsilon", "rounds down to nothing"),
        ("1", "1e-300", "0." + "9" * 60, "budget.slack", "leaves next to nothing"),
        ("1", "1e-300", "0." + "9" * 8, "budget.slack", "leaves next to nothing"),
        ("1", "1e-290", "0." + "9" * 18, "budget.slack", "leaves next to nothing"),
    ],
)
def test_limits_in_epsilon_that_are_refused(
    epsilon: str, at_delta: str, slack: str | None, field: str, message: str
) -> None:
    """Goal: what is too large, too small, or beyond what doubles resolve is refused and named, never guessed at.
    Method: one value beyond each end."""
    share = None if slack is None else Decimal(slack)
    error = refused(EpsilonBudget(epsilon=Decimal(epsilon), at_delta=Decimal(at_delta), slack=share))
    assert error.field == field
    assert message in str(error)


def test_slack_can_leave_very_little() -> None:
    """Goal: no digits are lost where slack at_delta is almost at_delta. Method: slack at 1 - 1e-60, where any double
    would leave nothing."""
    with mp.workdps(130):
        for at_delta in ("1e-5", "1e-100", "1e-240"):
            for digits in (1, 16, 30, 60):
                slack = Decimal("0." + "9" * digits)
                assert check_epsilon_limit(epsilon=Decimal(2), at_delta=Decimal(at_delta), slack=slack, bound="clt")


def test_limits_grow_with_what_is_declared(tries: Callable[[int, int], int]) -> None:
    """Goal: a more generous budget never sets a lower limit. Method: random pairs that differ by a relative 1e-6."""
    rng = random.Random(32)
    for _ in range(tries(250, 5_000)):
        epsilon, at_delta = decimal(rng, "0.1", "1000"), decimal(rng, "1e-30", "0.4")
        slack = decimal(rng, "0.01", "0.2")
        little_more = Decimal("1.000001")
        limit, larger, wider = (
            limit_of(EpsilonBudget(epsilon=e, at_delta=d, slack=slack), bound="clt")
            for e, d in ((epsilon, at_delta), (epsilon * little_more, at_delta), (epsilon, at_delta * little_more))
        )
        assert larger.mu_sq_pico > limit.mu_sq_pico
        assert wider.mu_sq_pico > limit.mu_sq_pico
        assert wider.delta_atto >= limit.delta_atto == larger.delta_atto


# --- declarations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "declared", "field"),
    [
        *((MuBudget, {"mu": mu}, "mu") for mu in (0, -1, "1", True, None, 10**13, Decimal("1e-13"), Decimal("NaN"))),
        *((MuBudget, {"mu": 1, "delta": delta}, "delta") for delta in (-1, 1, "0", True, Decimal("1e-301"))),
        (MuBudget, {}, "mu"),
        (MuBudget, {"mu": 1, "epsilon": 1}, "epsilon"),
        *((EpsilonBudget, {"epsilon": e, "at_delta": 0.1}, "epsilon") for e in (0, -1, "1", True, None, 10**13)),
        *((EpsilonBudget, {"epsilon": 1, "at_delta": d}, "at_delta") for d in (0, 1, -1, "1", True, Decimal("1e-301"))),
        *((EpsilonBudget, {"epsilon": 1, "at_delta": 0.1, "slack": s}, "slack") for s in (-1, 1, 1.5, "0", True)),
        (EpsilonBudget, {"epsilon": 1}, "at_delta"),
        (EpsilonBudget, {"epsilon": 1, "at_delta": 0.1, "delta": 0.1}, "delta"),
    ],
)
def test_a_budget_is_declared_in_full_and_in_range(
    kind: type[MuBudget | EpsilonBudget], declared: dict[str, Any], field: str
) -> None:
    """Goal: each bad, missing or unknown field is found, alone. Method: values on the wrong side of each bound."""
    with pytest.raises(ValidationError) as raised:
        kind.model_validate(declared)
    assert [error["loc"] for error in raised.value.errors()] == [(field,)]


def test_where_epsilon_is_shown() -> None:
    """Goal: at the budget's own delta, else at two customary ones. Method: both forms."""
    assert report_deltas({"epsilon": 3, "at_delta": Decimal("1e-7")}) == [1e-7]
    assert report_deltas({"mu": 1}) == [1e-5, 1e-6]


def test_a_large_delta_hides_no_large_mu() -> None:
    """Goal: whatever delta a budget declares, an attacker who is wrong about 1 of 1,000 finds at most as many as under
    epsilon 20 at 1e-5 without a steward's statement, and what the delta of the limit gives. Method: budgets over the
    whole range, with the rates of Gaussians by the standard library."""

    def rate(mu_sq_pico: int, delta: float) -> float:
        normal = NormalDist()
        found = normal.cdf(normal.inv_cdf(0.001 / (1 - delta)) + math.sqrt(mu_sq_pico / 1e12))
        return found * (1 - delta) + delta

    budget = EpsilonBudget(epsilon=Decimal(20), at_delta=Decimal("1e-5"), slack=Decimal(0))
    most = rate(limit_of(budget, bound="certified").mu_sq_pico, 0.01)
    accepted, judged = 0, 0
    for epsilon in ("0.1", "1", "5", "10", "15", "20", "30"):
        for at_delta in ("1e-9", "1e-5", "1.01e-5", "1e-4", "1e-3", "0.01", "0.1", "0.3", "0.5"):
            for slack in ("0", "0.1", "0.9"):
                declared = EpsilonBudget(epsilon=Decimal(epsilon), at_delta=Decimal(at_delta), slack=Decimal(slack))
                try:
                    limit = limit_of(declared, bound="certified")
                except InvalidRequest:
                    continue
                judged += 1
                if not epsilon_judged(declared.model_dump(exclude_none=True), limit).is_weak:
                    accepted += 1
                    assert rate(limit.mu_sq_pico, limit.delta_atto / 1e18) <= most * 1.001, declared
    assert 0 < accepted < judged
    usual = EpsilonBudget(epsilon=Decimal(20), at_delta=Decimal("1e-5"), slack=Decimal(0))
    shown = epsilon_judged(usual.model_dump(exclude_none=True), limit_of(usual, bound="certified"))
    assert (shown.is_weak, shown.at_delta) == (False, 1e-5)

"""Residual costs: none too low beside what is left, and none much too high.

The oracle is `oracle_residual`, which shares no code with `ledger.accounting`: a test that tells P from Q beside
Gaussian noise is a proof that less than what it finds is not enough. `LEDGER_PROVE=1` tries 5,000 runs.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import pytest

from ledger.accounting import budgets, costs, mechanisms, residual
from ledger.accounting.terms import Terms
from ledger.core.datasets import Adjacency
from ledger.core.residual import LEVELS, PARTS
from ledger.core.residual import levels as grid
from tests.accounting.oracle_curves import Kind, Step
from tests.accounting.oracle_residual import Answer, Laplace, Run, Sampled, least_costs
from tests.bench import recipes
from tests.bench.recipes import Recipe
from tests.kit.trials import trials

SEED: Final = 19
PICO: Final = 10**12
TRAINING: Final = {
    "type": "dpsgd",
    "noise_multiplier": Decimal("0.7"),
    "sampling": "poisson",
    "sample_rate": Decimal("0.0042667"),
    "steps": 235,
}
MU_SQ_MAX: Final = 60
"""Of the runs that are drawn: nobody's budget is larger, and larger ones have no table."""
LIMIT: Final = 2_752_676_938_552
"""mu² of (8, 1e-5), with a tenth of delta set aside."""


def _terms(adjacency: Adjacency = "add_or_remove_one", **others: Any) -> Terms:
    return Terms(bound="certified", adjacency=adjacency, **{"delta": Decimal("1e-8"), **others})


# --- random runs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A declared run, and what it is for the oracle. delta: that its cost has; levels: of mu², rising."""

    declared: dict[str, Any]
    run: Run
    terms: Terms
    delta: float
    levels: tuple[float, ...]


def _digits(value: float) -> Decimal:
    return Decimal(f"{value:.3g}")


def _between(rng: random.Random, low: float, high: float) -> Decimal:
    return _digits(math.exp(rng.uniform(math.log(low), math.log(high))))


def _training(rng: random.Random, terms: Terms) -> tuple[dict[str, Any], Run]:
    adjacency = terms.adjacency
    noise, rate = _between(rng, 0.45, 8), _between(rng, 2e-4, 0.5)
    steps = rng.choice([1, rng.randint(2, 20), int(_between(rng, 20, 3000))])
    is_fixed = adjacency == "replace_one" and rng.random() < 0.5
    kind: Kind = "symmetrised" if is_fixed else ("antipodal" if adjacency == "replace_one" else "removal")
    declared = {"noise_multiplier": noise, "sample_rate": rate, "steps": steps}
    declared |= {"type": "dpsgd", "sampling": "fixed_size" if is_fixed else "poisson"}
    step = Step(kind, (2 if is_fixed else 1) / float(noise), float(rate))
    return declared, Run(((Sampled(step, 1e-3 * float(terms.delta) / steps), steps),))


def _released(rng: random.Random) -> tuple[dict[str, Any], Run]:
    epsilon, count = _between(rng, 0.02, 4), rng.choice([1, 1, rng.randint(2, 30)])
    match rng.choice(["laplace", "pure_dp", "randomized_response"]):
        case "laplace":
            noise = _between(rng, 0.25, 40)
            declared = {"type": "laplace", "noise_multiplier": noise, "count": count}
            return declared, Run(((Laplace(1 / float(noise)), count),))
        case "pure_dp":
            declared = {"type": "pure_dp", "epsilon": epsilon, "count": count}
            return declared, Run(((Answer(float(epsilon)), count),))
        case _:
            categories = rng.choice([2, 3, 10, 1000])
            declared = {"type": "randomized_response", "epsilon": epsilon, "categories": categories, "count": count}
            return declared, Run(((Answer(float(epsilon), categories), count),))


def _drawn(rng: random.Random) -> Case:
    adjacency: Adjacency = rng.choice(["add_or_remove_one", "replace_one"])
    terms = _terms(adjacency, delta=rng.choice([Decimal("1e-6"), Decimal("1e-8"), Decimal("1e-10")]))
    chosen = rng.random()
    if chosen < 0.75:
        declared, run = _training(rng, terms)
        delta = float(terms.delta)
    elif chosen < 0.9:
        declared, run = _released(rng)
        delta = 0.0
    else:
        (first, one), (second, two) = _training(rng, terms), _released(rng)
        noise = _between(rng, 1, 20)
        parts = [first, second, {"type": "gaussian", "noise_multiplier": noise}]
        declared = {"type": "composed", "parts": parts}
        run, delta = Run((*one.releases, *two.releases), 1 / float(noise) ** 2), float(terms.delta)
    levels = sorted(float(_between(rng, 0.01, 20)) for _ in range(2))
    return Case(declared, run, terms, delta, tuple(levels))


def _ratios(case: Case) -> list[tuple[float, float]]:
    """Of each level c, and c over the least that the oracle knows of."""
    mechanism = mechanisms.parse(case.declared)
    cost = costs.cost(mechanism, case.terms)
    table = residual.residual_costs(mechanism, case.terms, [round(level * PICO) for level in case.levels])
    delta = case.delta if cost.nats else 0.0
    found = least_costs(case.run, case.levels, delta)
    pairs = zip(table, found, strict=True)
    return [(c / PICO, c / PICO / least if least > 0 else math.inf) for c, least in pairs]


def test_no_residual_cost_is_too_low() -> None:
    """Goal: c is enough at every level, for whatever can be declared, and an error of a percent would be seen. Method:
    random runs beside a test that tells P from Q; the same with 0.99 c in the place of c."""
    rng = random.Random(SEED)
    count = trials(30, 5000)
    ratios: list[tuple[float, float, dict[str, Any]]] = []
    while len(ratios) < 2 * count:
        case = _drawn(rng)
        if costs.cost(mechanisms.parse(case.declared), case.terms).mu_sq > MU_SQ_MAX:
            continue
        ratios += [(ratio, c, case.declared) for c, ratio in _ratios(case)]
    finite = sorted((ratio, c, str(declared)) for ratio, c, declared in ratios if math.isfinite(ratio))
    low = [entry for entry in finite if entry[0] < 1]
    assert not low, low[:3]
    detected = sum(0.99 * ratio < 1 for ratio, _, _ in finite)
    print(
        f"{len(finite)} residual costs of {count} runs: {detected} within 1 %, the closest {finite[0][0] - 1:.1e} above"
    )
    assert detected >= len(finite) / 4


# --- known values and shapes -----------------------------------------------------------------------------------------


def _table(declared: dict[str, Any], terms: Terms | None = None, at: tuple[int, ...] | None = None) -> tuple[int, ...]:
    levels = grid(LIMIT) if at is None else at
    return residual.residual_costs(mechanisms.parse(declared), terms or _terms(), levels)


def test_known_values_of_a_round() -> None:
    """Goal: the values of two prototypes. Method: the costs of one round at five levels."""
    at = tuple(round(level * PICO) for level in (0, 0.52, 0.78, 1.2, 2.75))
    found = [cost / PICO for cost in _table(TRAINING, at=at)]
    expected = [(0.330, 0.332), (0.103, 0.105), (0.0575, 0.058), (0.0405, 0.042), (0.032, 0.033)]
    assert all(low <= cost <= high for cost, (low, high) in zip(found, expected, strict=True)), found


@pytest.mark.parametrize("limit", [1, 7, 10**6, LIMIT, 10**18])
def test_levels(limit: int) -> None:
    """Goal: 16 levels, from 0 on, rising, none above the limit. Method: limits of all sizes."""
    at = grid(limit)
    assert at[0] == 0
    assert len(at) == 16
    assert list(at) == sorted(at)
    assert at[-1] <= limit
    # Each is the part of the limit, rounded up.
    assert all(
        0 <= level - part * limit < 1
        for level, part in zip(at, (Fraction(part, PARTS) for part in LEVELS), strict=True)
    )


@pytest.mark.parametrize("limit", [10**3, 10**9, LIMIT, 40 * PICO, 10**6 * PICO])
@pytest.mark.parametrize(
    "declared",
    [
        TRAINING,
        {**TRAINING, "steps": 1},
        {"type": "laplace", "noise_multiplier": 3, "count": 5},
        {"type": "composed", "parts": [TRAINING, {"type": "gaussian", "noise_multiplier": 4}]},
    ],
)
def test_a_table_falls_from_the_certificate(declared: dict[str, Any], limit: int) -> None:
    """Goal: c(0) is at most the run's cost alone, c never rises with the level, and is at least one unit. Method:
    limits from a billionth of a usual one to a million times as much."""
    table = _table(declared, at=grid(limit))
    cost = costs.cost(mechanisms.parse(declared), _terms())
    assert 0.5 * cost.amount.mu_sq_pico <= table[0] <= cost.amount.mu_sq_pico
    assert list(table) == sorted(table, reverse=True)
    assert table[-1] >= 1
    # There is something to gain where a level is not small beside the cost.
    assert limit < table[0] or table[-1] < table[0]


@pytest.mark.parametrize(
    "declared",
    [
        {"type": "gaussian", "noise_multiplier": 3, "count": 2},
        {"type": "gdp", "mu": Decimal("0.3"), "delta": Decimal("1e-9"), "evidence": "a paper"},
        {"type": "zcdp", "rho": Decimal("0.1")},
        {**TRAINING, "sampling": "shuffle"},
        {"type": "matrix_factorization", "noise_multiplier": 4, "strategy": "sqrt", "steps": 20, "participations": 1},
        {**TRAINING, "noise_multiplier": Decimal("0.05")},
    ],
)
def test_what_is_known_by_its_mu_costs_the_same_at_every_level(declared: dict[str, Any]) -> None:
    """Goal: G_mu beside G_sqrt(r) is G_sqrt(r + mu²). Method: mechanisms that are Gaussian, or bounded by it."""
    cost = costs.cost(mechanisms.parse(declared), _terms())
    assert set(_table(declared)) == {cost.amount.mu_sq_pico}


@pytest.mark.parametrize("limit", [100, LIMIT, 10**18])
@pytest.mark.parametrize(
    "declared",
    [
        {**TRAINING, "noise_multiplier": Decimal("0.11"), "steps": 3},
        {**TRAINING, "noise_multiplier": 10**6},
        {**TRAINING, "sample_rate": Decimal("0.999"), "steps": 5},
        {"type": "laplace", "noise_multiplier": Decimal("1e-3")},
        {"type": "laplace", "noise_multiplier": 10**10},
        {"type": "laplace", "noise_multiplier": 10**6, "count": 10**12},
        {"type": "pure_dp", "epsilon": Decimal("1e-12"), "count": 10**12},
        {"type": "pure_dp", "epsilon": 50},
        {"type": "randomized_response", "epsilon": 10, "categories": 10**6},
    ],
)
@pytest.mark.filterwarnings("error")
def test_extremes(declared: dict[str, Any], limit: int) -> None:
    """Goal: a table for whatever may be declared. Method: the ends of ranges; c falls from the certificate on."""
    table = _table(declared, at=grid(limit))
    assert 1 <= table[-1] <= table[0] <= costs.cost(mechanisms.parse(declared), _terms()).amount.mu_sq_pico
    assert list(table) == sorted(table, reverse=True)


def test_an_estimate_has_no_table() -> None:
    """Goal: nothing is proved from an estimate. Method: a training under bound `clt`."""
    terms = Terms(bound="clt", adjacency="add_or_remove_one", delta=Fraction(0))
    cost = costs.cost(mechanisms.parse(TRAINING), terms)
    assert set(_table(TRAINING, terms)) == {cost.amount.mu_sq_pico}


def test_segments_have_the_table_of_one() -> None:
    """Goal: with segments, c is that of one of them, with its part of delta. Method: the table of a run of a fifth of
    the steps at a fifth of delta."""
    one = {**TRAINING, "steps": 47}
    assert _table(TRAINING, _terms(segments=5)) == _table(one, _terms(delta=Decimal("2e-9")))


def test_a_delta_of_its_own_is_not_used_twice() -> None:
    """Goal: what (epsilon, delta)-DP costs in mu is that of its epsilon. Method: the tables of both."""
    pure = {"type": "pure_dp", "epsilon": Decimal("0.5"), "count": 3}
    approximate = {**pure, "type": "approximate_dp", "delta": Decimal("1e-9")}
    assert _table(pure) == _table(approximate)


def test_releases_are_climbed() -> None:
    """Goal: many releases cost no more at a level than each by itself there, and no less than at the level that all of
    them reach. Method: the table of one release at these levels."""
    one = {"type": "laplace", "noise_multiplier": 5}
    many = _table({**one, "count": 20}, at=(0, PICO))
    alone = _table(one, at=(0, PICO, PICO + many[1]))
    assert 20 * alone[2] <= many[1] <= 20 * alone[1] + 1
    assert many[0] < 20 * alone[0]


# --- the filter ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epsilon", "recipe", "wanted"),
    [
        (8, Recipe("rounds", Decimal("0.7"), Decimal("0.004266666666666667"), 235), 45),
        (3, Recipe("daily", Decimal(6), Decimal("0.002"), 50), 101),
    ],
)
def test_many_small_runs_fit(epsilon: int, recipe: Recipe, wanted: int) -> None:
    """Goal: the runs of two reports fit, of which costs that add up admit 8, and a hundred. Method: approve equal runs
    at the largest level that fits, with the cheapest share of delta, and the reserve left alone."""
    budget = budgets.EpsilonBudget(epsilon=Decimal(epsilon), at_delta=Decimal("1e-5"))
    limit = budgets.limit_of(budget, bound="certified")
    levels = grid(limit.mu_sq_pico)
    tables = recipes.charges(recipe, levels, Fraction(1, 10**6))
    reserve = limit.mu_sq_pico // 50
    assert recipes.standalone(tables, limit) < wanted
    assert recipes.admitted(tables, levels, limit, reserve=reserve) >= wanted

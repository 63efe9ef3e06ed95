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

from ledger.accounting import costs, mechanisms, residual
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.datasets import Adjacency
from tests.accounting.oracle_curves import Kind, Step
from tests.accounting.oracle_residual import Answer, Laplace, Run, Sampled, least_costs
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
    count = trials(300, 5000)
    ratios = []
    while len(ratios) < 2 * count:
        case = _drawn(rng)
        if costs.cost(mechanisms.parse(case.declared), case.terms).mu_sq > MU_SQ_MAX:
            continue
        ratios += [(ratio, c, case.declared) for c, ratio in _ratios(case)]
    finite = sorted((ratio, c, str(declared)) for ratio, c, declared in ratios if math.isfinite(ratio))
    low = [entry for entry in finite if entry[0] < 1]
    assert not low, low[:3]
    detected = sum(0.99 * ratio < 1 for ratio, _, _ in finite)
    print(f"{len(finite)} residual costs of {count} runs: {detected} within 1 %, the closest {finite[0][0] - 1:.1e} above")
    assert detected >= len(finite) / 4

"""How many equal runs fit under one budget, by filter: a part of `make bench`.

Recipes are published trainings, as (noise multiplier, sample rate, steps of one run), under epsilon 8 at delta 1e-5. By
column: costs that add up, with a hundredth of delta each; residual costs, each run at the largest level of the grid
that fits, with the cheapest share of delta, without and with a fiftieth of the limit in reserve; the best Rényi order
chosen afterwards, which no filter could know; and all runs composed exactly, fixed in advance. Figures are for reading,
never a test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Final, NamedTuple

from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant

from ledger.accounting import amounts, budgets, certificate, certify, exact, mechanisms, residual
from ledger.accounting.pairs import Parts
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.residual import levels
from ledger.service import tables as tables_of_service

EPSILON: Final = Decimal(8)
AT_DELTA: Final = Decimal("1e-5")
LIMIT_DELTA: Final = Fraction(budgets.SLACK["certified"]) * Fraction(AT_DELTA)
RESERVE: Final = Fraction(1, 50)
RENYI_ORDERS: Final = (*(part / 4 for part in range(7, 40)), *range(10, 65))
_RUNS_MAX: Final = 10_000


class Recipe(NamedTuple):
    """A training: one run of it."""

    name: str
    noise_multiplier: Decimal
    sample_rate: Decimal
    steps: int


RECIPES: Final = tuple(
    Recipe(name, Decimal(noise), Decimal(rate), steps)
    for name, noise, rate, steps in (
        ("rounds", "0.7", "0.0042666667", 235),
        ("SST-2", "0.7", "0.0152", 20),
        ("QNLI", "0.8", "0.01955", 30),
        ("MIMIC", "0.8", "0.01219", 82),
        ("federated", "1", "0.001625", 2000),
        ("MNIST 1.3", "1.3", "0.0042666667", 352),
        ("CIFAR", "3", "0.08192", 247),
        ("MNIST 0.5", "0.5", "0.0042666667", 235),
        ("MNIST 0.7", "0.7", "0.0042666667", 1055),
        ("MNIST 1.1", "1.1", "0.0042666667", 1407),
        ("Adult", "0.55", "0.008736", 115),
        ("MovieLens", "0.6", "0.0125", 80),
        ("IMDb", "0.56", "0.02048", 25),
        ("LoRA", "0.65", "0.02435", 41),
        ("MNLI", "0.67", "0.01528", 130),
    )
)
WANTED: Final = {"rounds": 50, "SST-2": 20, "QNLI": 27, "MIMIC": 34, "federated": 285}
"""Runs that have to be admitted without the reserve, and nine tenths of them with it."""


def charges(recipe: Recipe, levels: Sequence[int], delta: Fraction) -> dict[int, tuple[tuple[int, ...], int]]:
    """By share of a limit's delta, the residual costs of a run and the delta that it is charged."""
    declared = {"type": "dpsgd", "sampling": "poisson", "noise_multiplier": recipe.noise_multiplier}
    mechanism = mechanisms.parse({**declared, "sample_rate": recipe.sample_rate, "steps": recipe.steps})
    found = {}
    with certificate.keeping_here():
        for k, share in shares(delta).items():
            terms = Terms(bound="certified", adjacency="add_or_remove_one", delta=share)
            table = residual.residual_costs(mechanism, terms, levels)
            found[k] = table, amounts.charge(mu_sq=Fraction(0), nats=amounts.nats(share, towards="up")).delta_atto
    return found


def shares(limit_delta: Fraction) -> dict[int, Fraction]:
    """The shares of a limit's delta that are offered, by k; those that are too small for a certificate not."""
    offered = {k: limit_delta / 10**k for k in tables_of_service.SHARE_POWERS}
    return {k: share for k, share in offered.items() if share >= certify.DELTA_MIN}


def cheapest_share(charges: Mapping[int, Amount], left: Amount) -> int | None:
    """Return the k whose charge, at the level that fits, has the least larger part of what is left; None if none fits.

    charges: what the run would be charged by k. Of equal ones the smallest share of delta is taken.
    """
    parts = {k: _part_of(charge, left) for k, charge in charges.items()}
    fitting = {k: part for k, part in parts.items() if part <= 1}
    return min(fitting, key=lambda k: (fitting[k], -k)) if fitting else None


def _part_of(charge: Amount, left: Amount) -> Fraction:
    """Return the larger part of mu² and of delta; 2 if nothing is left of a requested quantity."""
    pairs = ((charge.mu_sq_pico, left.mu_sq_pico), (charge.delta_atto, left.delta_atto))
    return max(Fraction(asked, has) if has > 0 else Fraction(2 * (asked > 0)) for asked, has in pairs)


def admitted(
    tables: Mapping[int, tuple[tuple[int, ...], int]], levels: Sequence[int], limit: Amount, *, reserve: int = 0
) -> int:
    """How many runs are approved before one is refused. reserve: what is left alone while that much is left, in 1e-12
    of mu²."""
    left, runs = limit, 0
    while runs < _RUNS_MAX:
        free = left.mu_sq_pico - reserve if left.mu_sq_pico >= reserve else left.mu_sq_pico
        offers = {}
        for k, (table, delta) in tables.items():
            fitting = [c for r, c in zip(levels, table, strict=True) if r + c <= free]
            if fitting and delta <= left.delta_atto:
                offers[k] = Amount(fitting[-1], delta)
        chosen = cheapest_share(offers, left)
        if chosen is None:
            break
        charge = offers[chosen]
        left = Amount(left.mu_sq_pico - charge.mu_sq_pico, left.delta_atto - charge.delta_atto)
        runs += 1
    return runs


def standalone(tables: Mapping[int, tuple[tuple[int, ...], int]], limit: Amount) -> int:
    """How many runs fit whose costs add up, each with a hundredth of delta."""
    table, delta = tables[2]
    return min(limit.mu_sq_pico // table[0], limit.delta_atto // delta)


def renyi(recipe: Recipe) -> int:
    """How many runs fit by the order of Rényi's divergence that is best for them."""
    accountant = RdpAccountant(orders=RENYI_ORDERS)
    step = dp_event.PoissonSampledDpEvent(
        float(recipe.sample_rate), dp_event.GaussianDpEvent(float(recipe.noise_multiplier))
    )
    runs = 0
    while runs < _RUNS_MAX:
        accountant.compose(step, recipe.steps)
        if accountant.get_epsilon(float(AT_DELTA)) > float(EPSILON):
            break
        runs += 1
    return runs


def composed(recipe: Recipe) -> int:
    """How many runs fit if all are fixed in advance and composed exactly."""
    pair = certify.pair_for(
        noise_multiplier=certify.at_most(Fraction(recipe.noise_multiplier)),
        sample_rate=certify.at_least(Fraction(recipe.sample_rate)),
        adjacency="add_or_remove_one",
        sampling="poisson",
    )

    def fits(runs: int) -> bool:
        parts = Parts(sources=Counter({pair: runs * recipe.steps}))
        (epsilon,) = exact.epsilons(parts, [float(AT_DELTA)]).epsilons
        return epsilon is not None and epsilon <= EPSILON

    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def main() -> None:
    """Prints the table, and where it falls short of what is wanted."""
    limit = budgets.limit_of(budgets.EpsilonBudget(epsilon=EPSILON, at_delta=AT_DELTA), bound="certified")
    grid = levels(limit.mu_sq_pico)
    reserve = int(RESERVE * limit.mu_sq_pico)
    print(f"\nequal runs that fit in epsilon {EPSILON} at {AT_DELTA} (wanted: {WANTED}, nine tenths with the reserve)")
    print(f"{'(noise, rate, steps)':42}{'added up':>10}{'residual':>10}{'reserve':>10}{'Rényi':>10}{'exact':>10}")
    for recipe in RECIPES:
        tables = charges(recipe, grid, LIMIT_DELTA)
        today, free = standalone(tables, limit), admitted(tables, grid, limit)
        kept = admitted(tables, grid, limit, reserve=reserve)
        best, most = renyi(recipe), composed(recipe)
        name = f"{recipe.name} ({recipe.noise_multiplier}, {recipe.sample_rate}, {recipe.steps})"
        wanted = max(WANTED.get(recipe.name, 0), today)
        if most >= 40 and recipe.noise_multiplier >= 1:
            wanted = max(wanted, -(-9 * most // 10))
        short = "" if free >= wanted and kept >= 0.9 * wanted else f"   short of {wanted}"
        print(f"{name:42}{today:>10}{free:>10}{kept:>10}{best:>10}{most:>10}{short}", flush=True)


if __name__ == "__main__":
    main()

"""Exact composition: an upper bound, close to what two other accountants say, and to closed forms."""

from __future__ import annotations

import math
import random
from decimal import Decimal
from fractions import Fraction
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as theirs
from dp_accounting.privacy_accountant import NeighboringRelation

from ledger.accounting import costs, exact, gdp, mechanisms, pairs, settling
from ledger.accounting.pairs import LaplaceNoise, Parts, Response, Source
from ledger.accounting.pld import Subsampled
from ledger.accounting.terms import Terms
from ledger.core.datasets import Adjacency
from tests.accounting import oracle, oracle_curves
from tests.kit.trials import trials

DELTAS = (1e-5, 1e-8)
Declared = dict[str, Any]


def dpsgd(noise: float, rate: float, steps: int, **more: Any) -> Declared:
    """DP-SGD with Poisson sampling, or another where it is said."""
    return {
        "type": "dpsgd",
        "noise_multiplier": noise,
        "sampling": "poisson",
        "sample_rate": rate,
        "steps": steps,
        **more,
    }


def parts(declared: list[Declared], adjacency: Adjacency = "add_or_remove_one") -> Parts:
    """What these mechanisms together are made of."""
    return pairs.together(
        mechanisms.parse(each).exact_parts(Terms(bound="certified", adjacency=adjacency)) for each in declared
    )


def epsilons(
    declared: list[Declared], at_deltas: tuple[float, ...] = DELTAS, adjacency: Adjacency = "add_or_remove_one"
) -> list[float]:
    """Ours; all of them resolved."""
    found = exact.epsilons(parts(declared, adjacency), at_deltas).epsilons
    assert None not in found
    return [value for value in found if value is not None]


def count_of(declared: Declared) -> int:
    """How many steps or releases there are."""
    return int(declared.get("steps") or declared.get("count", 1))


# --- other people's numbers ------------------------------------------------------------------------------------------


def _theirs(declared: list[Declared], at_deltas: tuple[float, ...], adjacency: Adjacency, *, is_upper: bool) -> Any:
    """Epsilon by dp-accounting's privacy loss distributions, from above by connecting the dots, or from below."""
    relation = NeighboringRelation.REPLACE_ONE if adjacency == "replace_one" else NeighboringRelation.ADD_OR_REMOVE_ONE
    total = sum(map(count_of, declared))
    interval = 2e-4 if is_upper else min(2e-4, 0.01 / total)
    how: dict[str, Any] = {"pessimistic_estimate": is_upper, "value_discretization_interval": interval}
    composed = None
    for each in declared:
        count = count_of(each)
        match each["type"]:
            case "dpsgd":
                one = theirs.from_gaussian_mechanism(
                    each["noise_multiplier"],
                    sampling_prob=each["sample_rate"],
                    neighboring_relation=relation,
                    use_connect_dots=is_upper,
                    **how,
                )
            case "gaussian":
                one = theirs.from_gaussian_mechanism(each["noise_multiplier"], use_connect_dots=is_upper, **how)
            case "laplace":
                one = theirs.from_laplace_mechanism(each["noise_multiplier"], use_connect_dots=is_upper, **how)
            case _:
                noise = 2 / (1 + math.exp(each["epsilon"]))
                one = theirs.from_randomized_response(noise, 2, **how)
        several = one.self_compose(count) if count > 1 else one
        composed = several if composed is None else composed.compose(several)
    assert composed is not None
    return [composed.get_epsilon_for_delta(delta) for delta in at_deltas]


MIXTURES: dict[str, tuple[list[Declared], Adjacency]] = {
    "poisson": ([dpsgd(1.1, 0.02, 200)], "add_or_remove_one"),
    "poisson, replaced": ([dpsgd(2.0, 0.05, 60)], "replace_one"),
    "two rates": ([dpsgd(1.0, 0.01, 50), dpsgd(0.8, 0.005, 30)], "add_or_remove_one"),
    "few large steps": (
        [dpsgd(1.0, 0.02, 3), {"type": "gaussian", "noise_multiplier": 1.5}],
        "add_or_remove_one",
    ),
    "laplace": ([{"type": "laplace", "noise_multiplier": 10, "count": 60}], "add_or_remove_one"),
    "one laplace": ([{"type": "laplace", "noise_multiplier": 1.5}], "add_or_remove_one"),
    "responses": ([{"type": "pure_dp", "epsilon": 0.1, "count": 50}], "add_or_remove_one"),
    "all of it": (
        [
            dpsgd(1.2, 0.02, 40),
            {"type": "gaussian", "noise_multiplier": 4, "count": 5},
            {"type": "laplace", "noise_multiplier": 5, "count": 8},
            {"type": "pure_dp", "epsilon": 0.05, "count": 6},
        ],
        "add_or_remove_one",
    ),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_lie_between_a_lower_bound_and_one_percent_above_an_upper(name: str) -> None:
    """Goal: never below dp-accounting's optimistic number, and within 1 % of its pessimistic one.

    Method: mixtures of every pair that there is, at two deltas, from both sides.
    """
    declared, adjacency = MIXTURES[name]
    ours = epsilons(declared, DELTAS, adjacency)
    total = sum(map(count_of, declared))
    slack = 4e-15 + 2e-15 * total
    lower = _theirs(declared, tuple(delta + slack for delta in DELTAS), adjacency, is_upper=False)
    upper = _theirs(declared, DELTAS, adjacency, is_upper=True)
    for value, low, high in zip(ours, lower, upper, strict=True):
        assert low * (1 - 1e-9) <= value <= high * 1.01


def test_each_order_of_the_pair_is_right_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: adding a unit is covered as well as removing one, though the latter is nearly always the larger. Method:
    each order against dp-accounting's distribution for it; then a stand-in in which adding is worse."""
    noise, rate, steps, delta = 0.9, 0.1, 30, 1e-5
    one = theirs.from_gaussian_mechanism(noise, sampling_prob=rate, value_discretization_interval=2e-4)
    composed = one.self_compose(steps)
    sources: dict[Source, int] = {Subsampled("removal", 1 / noise, rate): steps}
    found = [exact._one_order(sources, delta, is_reversed=order) for order in (False, True)]
    wanted = [order.get_epsilon_for_delta(delta) for order in (composed._pmf_remove, composed._pmf_add)]
    assert wanted[0] > 1.2 * wanted[1]
    assert found == pytest.approx(wanted, rel=2e-3)
    monkeypatch.setattr(exact, "_one_order", lambda _sources, _target, *, is_reversed: 1.0 + is_reversed)
    assert exact._epsilon(sources, delta, 0.0, 0.0) == 2.0
    assert exact._epsilon({Subsampled("antipodal", 1 / noise, rate): steps}, delta, 0.0, 0.0) == 1.0, (
        "it is its own mirror"
    )


def test_a_third_accountant_agrees_on_dp_sgd() -> None:
    """Goal: not below prv-accountant's lower bounds, which are another implementation's, and close to them."""
    for noise, rate, steps in ((1.1, 0.05, 200), (1.5, 0.1, 150))[: trials(1, 2)]:
        lower = oracle_curves.prv(oracle_curves.Step("removal", 1 / noise, rate), steps=steps, at_deltas=[1e-5])
        assert lower is not None
        (ours,) = epsilons([dpsgd(noise, rate, steps)], (1e-5,))
        assert lower[0] <= ours <= lower[0] * 1.02


# --- closed forms ----------------------------------------------------------------------------------------------------


def test_gaussian_parts_add_up_in_squares_exactly() -> None:
    """Goal: where all is Gaussian the answer is a closed form, at 50 digits. Method: releases, stated GDP, shuffled
    batches, correlated noise and unsampled steps, whose mu² are added as fractions here."""
    declared: list[Declared] = [
        {"type": "gaussian", "noise_multiplier": 4, "count": 3},
        dpsgd(5, 0.1, 20, sampling="shuffle"),
        dpsgd(9, 1, 2),
        {"type": "matrix_factorization", "noise_multiplier": 10, "sensitivity": 2, "evidence": "a proof"},
        {"type": "gdp", "mu": 0.25, "evidence": "a paper"},
    ]
    mu_sq = Fraction(3, 16) + Fraction(2, 25) + Fraction(2, 81) + Fraction(1, 25) + Fraction(1, 16)
    found = parts(declared)
    assert found == Parts(mu_sq, envelopes=frozenset({"gdp"}))
    composition = exact.epsilons(found, DELTAS)
    assert composition.method == "gaussian"
    for delta, value in zip(DELTAS, composition.epsilons, strict=True):
        truth = oracle.epsilon(math.sqrt(mu_sq), 0.0, delta)
        assert value is not None
        assert truth * (1 - mp.mpf(10) ** -14) <= value <= truth * (1 + mp.mpf(10) ** -12)


def test_a_gaussian_part_on_the_grid_is_as_good_as_its_closed_form() -> None:
    """Goal: mixing costs nothing. Method: a Gaussian beside a mechanism that does next to nothing."""
    little = {"type": "pure_dp", "epsilon": 1e-9}
    for mu in (0.1, 1.0, 6.0):
        mixed = epsilons([{"type": "gdp", "mu": mu, "evidence": "…"}, little])
        for delta, value in zip(DELTAS, mixed, strict=True):
            alone = float(gdp.epsilon(mu=mu, delta=0.0, at_delta=delta))
            assert alone <= value <= alone * 1.0005


def _responses_truth(epsilon: Any, count: int, target: Any) -> Any:
    """Epsilon of so many randomised responses, at 40 digits: the losses are (2k - n) epsilon, binomially."""
    with mp.workdps(40):
        heads = mp.exp(epsilon) / (1 + mp.exp(epsilon))
        losses = [(2 * k - count) * epsilon for k in range(count + 1)]
        masses = [mp.binomial(count, k) * heads**k * (1 - heads) ** (count - k) for k in range(count + 1)]
        for index in range(count + 1):
            tail, other = (
                mp.fsum(masses[index:]),
                mp.fsum(mass * mp.exp(-loss) for mass, loss in zip(masses[index:], losses[index:], strict=True)),
            )
            if tail <= target:
                return max(losses[index - 1], mp.mpf(0))
            found = mp.log((tail - target) / other)
            if found <= losses[index]:
                return max(found, mp.mpf(0))
        raise AssertionError


def test_randomised_response_against_its_binomial_and_the_delta_apart() -> None:
    """Goal: pure and approximate DP, composed, are Kairouz, Oh and Viswanath's optimum: from above, within 0.1 %.

    Method: the binomial sum at 40 digits, for random epsilons, counts, deltas; a delta of its own goes into 1 - delta.
    """
    rng = random.Random(20)
    for _ in range(trials(6, 60)):
        epsilon, count = Decimal(rng.randint(10, 900)) / 1000, rng.choice([1, 2, 5, 30, 80])
        own, at = rng.choice([0.0, 1e-9]), 10.0 ** rng.uniform(-7, -2)
        declared: Declared = {"type": "pure_dp", "epsilon": epsilon, "count": count}
        if own:
            declared = {**declared, "type": "approximate_dp", "delta": Decimal("1e-9")}
        (ours,) = epsilons([declared], (at,))
        with mp.workdps(40):
            shown = 1 - (1 - mp.mpf(own)) ** count
            truth = _responses_truth(mp.mpf(str(epsilon)), count, (mp.mpf(at) - shown) / (1 - shown))
        assert truth * (1 - mp.mpf(10) ** -12) <= ours <= truth * mp.mpf("1.001") + mp.mpf("1e-9"), (declared, at)


def test_one_laplace_release_against_its_own_curve() -> None:
    """Goal: the grid of Laplace losses is right on its own: delta(eps) = 1 - e^((eps - theta)/2), from above."""
    for scale in (0.5, 2.0, 10.0):
        for delta in (1e-6, 1e-3, 0.03):
            (ours,) = epsilons([{"type": "laplace", "noise_multiplier": scale}], (delta,))
            truth = max(1 / scale + 2 * math.log1p(-delta), 0.0)
            assert truth * (1 - 1e-12) <= ours <= truth + 2e-3 / scale


# --- soundness -------------------------------------------------------------------------------------------------------


def test_losses_dominate() -> None:
    """Goal: every grid is a pair of distributions, which keeps both masses and dominates. Method: P and Q sum to 1; the
    hockey-stick divergence of the grid is not below the exact one, at every point, for Laplace and response."""
    theta, epsilon = 0.7, 0.45
    points = np.linspace(0, 0.8, 33)
    truths: dict[Source, Any] = {
        LaplaceNoise(theta): -np.expm1((points - theta) / 2),
        Response(epsilon): (np.exp(epsilon) - np.exp(points)) / (1 + np.exp(epsilon)),
    }
    for width in (0.3, 0.01):
        for source, truth in truths.items():
            grid = source.on_grid(width, 1e-9)
            values, masses = grid.values, grid.masses
            assert masses.min() >= 0
            assert masses.sum() == pytest.approx(1, abs=1e-13)
            assert (masses * np.exp(-values)).sum() == pytest.approx(1, abs=1e-13)
            divergences = (masses * np.maximum(-np.expm1(points[:, np.newaxis] - values), 0)).sum(axis=1)
            assert np.all(divergences >= np.maximum(truth, 0) - 1e-14), (source, width)


def test_a_composition_is_no_more_than_what_the_ledger_charges() -> None:
    """Goal: for runs that have a pair, epsilon of the exact composition is below that of the sum of their costs, and
    the more so the more runs there are. Method: the same run, once and twenty times."""
    run = mechanisms.parse(dpsgd(0.9, 0.01, 300))
    cost = costs.cost(run, Terms(bound="certified", adjacency="add_or_remove_one", delta=Decimal("1e-8")))
    ratios = []
    for count in (1, 20):
        added = float(
            gdp.epsilon_upper(
                mu=cost.mu * math.sqrt(count), delta=-math.expm1(-count * float(cost.nats)), at_delta=1e-5
            )
        )
        of_one = run.exact_parts(Terms(bound="certified", adjacency="add_or_remove_one"))
        (composed,) = exact.epsilons(of_one.times(count), (1e-5,)).epsilons
        assert composed is not None
        ratios.append(composed / added)
    assert ratios[1] < ratios[0] < 1


def test_what_has_no_pair_counts_as_charged() -> None:
    """Goal: zCDP and a stated GDP come in by their envelope, and are named; an estimate is said to be one."""
    found = parts([{"type": "zcdp", "rho": 0.1}, {"type": "gdp", "mu": 1, "delta": 1e-7, "evidence": "…"}])
    zcdp = costs.cost(
        mechanisms.parse({"type": "zcdp", "rho": 0.1}), Terms(bound="certified", adjacency="add_or_remove_one")
    )
    assert found.mu_sq == zcdp.mu_sq + 1
    assert (found.envelopes, found.is_bound) == (frozenset({"zcdp", "gdp"}), True)
    assert float(found.nats) == pytest.approx(1e-7, rel=1e-6)
    fixed = mechanisms.parse(dpsgd(1, 0.1, 10, sampling="fixed_size"))
    estimate = fixed.exact_parts(Terms(bound="clt", adjacency="add_or_remove_one"))
    assert (estimate.envelopes, estimate.is_bound) == (frozenset({"dpsgd"}), False)
    paired = fixed.exact_parts(Terms(bound="certified", adjacency="replace_one"))
    assert [source.kind for source in paired.sources if isinstance(source, Subsampled)] == ["symmetrised"]


def test_what_a_delta_leaves_no_room_for_and_what_is_too_large() -> None:
    """Goal: infinity where no epsilon does, a polite None beyond the stated size, 0 where delta alone covers it."""
    shown = {"type": "approximate_dp", "epsilon": 0.1, "delta": Decimal("1e-5"), "count": 2}
    assert epsilons([shown], (1e-5, 0.5)) == [math.inf, 0.0]
    many = [{"type": "pure_dp", "epsilon": Decimal(number + 1) / 1000} for number in range(exact.SOURCES_MAX + 1)]
    assert exact.epsilons(parts(many), DELTAS) == exact.Composition((None, None), "too-large")
    assert epsilons(many[: exact.SOURCES_MAX], (1e-5,))[0] > 0
    enormous = parts([{"type": "pure_dp", "epsilon": 1}]).times(exact.COUNT_MAX + 1)
    assert exact.epsilons(enormous, DELTAS).method == "too-large"
    loud = parts([{"type": "gdp", "mu": 40, "evidence": "…"}, {"type": "pure_dp", "epsilon": 1}])
    assert exact.epsilons(loud, DELTAS).epsilons == (None, None)


# --- what was executed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "segments", "steps", "stop", "wanted"),
    [
        (dpsgd(1, 0.1, 40), 1, None, "planned", [(40, 1)]),
        (dpsgd(1, 0.1, 40), 1, 12, "data_dependent", [(40, 1)]),
        (dpsgd(1, 0.1, 40), 1, 12, "data_independent", [(12, 1)]),
        (dpsgd(1, 0.1, 40), 4, 12, "data_dependent", [(10, 2)]),
        (dpsgd(1, 0.1, 40), 4, 12, "data_independent", [(10, 1), (2, 1)]),
        (dpsgd(1, 0.1, 40), 4, None, "planned", [(10, 4)]),
        (dpsgd(1, 0.1, 40), 1, 47, "data_independent", [(40, 1), (7, 1)]),
        (dpsgd(1, 0.1, 40), 1, 47, "planned", [(40, 2)]),
        ({"type": "gaussian", "noise_multiplier": 1, "count": 9}, 1, 4, "data_dependent", [(4, 1)]),
        (
            {"type": "matrix_factorization", "noise_multiplier": 1, "strategy": "tree", "steps": 8}
            | {"participations": 1, "completion": "none"},
            1,
            11,
            "planned",
            [(8, 2)],
        ),
    ],
)
def test_what_a_settled_run_executed(declared: Declared, segments: int, steps: Any, stop: Any, wanted: Any) -> None:
    """Goal: what is composed is what was charged for. Method: every way to end, counted by hand."""
    terms = Terms(bound="certified", adjacency="add_or_remove_one", segments=segments)
    found, repeated = settling.executed(
        mechanisms.parse(declared), terms, method="pld-poisson", steps=steps, stop=stop, restarts=()
    )
    assert repeated == 0
    assert [(getattr(each, "steps", None) or getattr(each, "count", 0), count) for each, count in found] == wanted

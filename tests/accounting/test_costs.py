"""`ledger.accounting.costs`: what is declared is never charged below what it costs, and hardly above it.

Every cost is checked against its definition in exact fractions or in mpmath at 150 digits, from the decimals declared.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from itertools import product
from typing import Any, get_args

import mpmath as mp
import pytest

from ledger.accounting import costs, mechanisms, strategies
from ledger.accounting.cost import MU_MAX, Cost, root
from ledger.accounting.mechanisms import planned_steps
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.datasets import Adjacency, Bound
from ledger.errors import InvalidMechanism
from tests.accounting import oracle
from tests.accounting.samples import (
    POISSON,
    appearances,
    composed,
    decimal,
    declaration,
    gaussian,
    normal_cdf,
    one_step,
    random_count,
    random_training,
    rate_and_steps,
    real,
)

ADJACENCIES: tuple[Adjacency, ...] = get_args(Adjacency)
BOUNDS: tuple[Bound, ...] = get_args(Bound)
SETTINGS = list(product(BOUNDS, ADJACENCIES))
DOUBLE_MAX = Fraction(2**1024)
UNIT = 2.0**-53

CLOSED_FORM_EXCESS = Fraction(1, 2**45)
"""How far mu² may be above its exact value. The double lies within e = 34 units of mu (32 of the closed form, 2 of
reading its argument), and is moved up by 65/64 e: (1 + e)²(1 + 65/64 e)² - 1 < 4.1 e = 140 units, and 2^-45 is 256."""


def clt_excess(noise_multiplier: Decimal) -> Fraction:
    """The same for the estimates: e = (24 + 8/s²) + (3 + 4/s²) units at most, fixed size under replace_one."""
    return Fraction(41, 10) * (27 + 12 / Fraction(noise_multiplier) ** 2) / 2**53


def cost(declared: dict[str, Any], bound: Bound = "clt", adjacency: Adjacency = "add_or_remove_one") -> Cost:
    """The cost of a mechanism as it was declared."""
    return costs.cost(mechanisms.parse(declared), Terms(bound=bound, adjacency=adjacency))


# --- costs that are rational in what was declared --------------------------------------------------------------------


def exact_mu_sq(declared: dict[str, Any], adjacency: Adjacency) -> Fraction:
    """mu² of gaussian, gdp, shuffled DP-SGD, and of what is composed of them."""
    match declared["type"]:
        case "gaussian":
            return Fraction(declared["count"]) / Fraction(declared["noise_multiplier"]) ** 2
        case "gdp":
            return Fraction(declared["mu"]) ** 2
        case "dpsgd":
            rate, steps = rate_and_steps(declared)
            steps_of_an_epoch, whole_steps = (
                rate.denominator // rate.numerator,
                -(-steps.numerator // steps.denominator),
            )
            # As many as were declared, or as many as steps can touch.
            is_by_epochs = "epochs" in declared
            touched = math.ceil(declared["epochs"]) if is_by_epochs else -(-whole_steps // steps_of_an_epoch)
            sensitivity = 2 if adjacency == "replace_one" else 1
            return touched * (sensitivity / Fraction(declared["noise_multiplier"])) ** 2
        case "composed":
            return sum((exact_mu_sq(part, adjacency) for part in declared["parts"]), Fraction(0))
        case kind:
            raise AssertionError(kind)


def random_rational(rng: random.Random) -> dict[str, Any]:
    """One of the mechanisms whose mu² is rational."""
    match rng.choice(["gaussian", "gdp", "dpsgd"]):
        case "gaussian":
            return gaussian(decimal(rng, "1e-12", "1e12"), random_count(rng))
        case "gdp":
            return {"type": "gdp", "mu": decimal(rng, "1e-12", "1e12"), "evidence": "appendix B"}
        case _:
            return random_training(rng, "shuffle")


def check_exact(declared: dict[str, Any], bound: Bound, adjacency: Adjacency) -> None:
    """The integer is the ceiling of the exact value, the double the one next to the exact root."""
    found = cost(declared, bound, adjacency)
    exact = exact_mu_sq(declared, adjacency)
    assert found.mu_sq == exact
    assert found.amount == Amount(math.ceil(exact * 10**12), 0)
    # |mu² - exact| <= 2 u mu² means |mu - root| < 1.5 ulp; a sum of roots may be off by more.
    ulps = 4 if declared["type"] != "composed" else 2 * len(declared["parts"]) + 8
    assert abs(Fraction(found.mu) ** 2 - exact) <= ulps * Fraction(UNIT) * exact


def test_rational_costs_are_exact(tries: Callable[[int, int], int]) -> None:
    """Goal: gaussian, gdp and shuffle cost exactly what they cost, rounded up once, under both bounds and adjacencies.
    Method: random declarations of up to 60 digits, against fractions."""
    rng = random.Random(10)
    for _ in range(tries(2_000, 100_000)):
        bound, adjacency = rng.choice(SETTINGS)
        check_exact(random_rational(rng), bound, adjacency)


def test_compositions_of_rational_costs_are_exact(tries: Callable[[int, int], int]) -> None:
    """Goal: a composition is the sum, rounded up once. Method: random compositions of up to 100 parts, in fractions."""
    rng = random.Random(11)
    for _ in range(tries(75, 3_000)):
        bound, adjacency = rng.choice(SETTINGS)
        parts = [random_rational(rng) for _ in range(rng.choice([1, 2, 3, 10, 100]))]
        check_exact(composed(parts), bound, adjacency)


def test_runs_that_fill_a_budget_fill_it_exactly() -> None:
    """Goal: 25 runs of noise 5 are mu 1, in amounts and composed, and so are 11 releases of mu² = 1/11 in one run,
    while 11 separate runs are rounded up one by one. Method: integers."""
    one = Amount(10**12, 0)
    fifth = cost(gaussian(5)).amount
    assert fifth == Amount(40_000_000_000, 0)
    assert Amount(25 * fifth.mu_sq_pico, 0) == cost(gaussian(5, 25)).amount == cost(composed([gaussian(5)] * 25)).amount
    assert cost(composed([gaussian(5)] * 25)).amount == one
    eleventh = gaussian(11, 11)
    assert cost(eleventh).amount == Amount(90_909_090_910, 0)
    assert cost(composed([eleventh] * 11)).amount == one
    assert 11 * cost(eleventh).amount.mu_sq_pico == one.mu_sq_pico + 10


def test_a_number_is_read_as_it_was_written() -> None:
    """Goal: noise 0.1 is 1/10, in JSON and in Python. Method: a cost that the double 0.1 would make one unit larger."""
    assert cost(gaussian(Decimal("0.1"))).amount == cost(gaussian(0.1)).amount == Amount(100 * 10**12, 0)
    assert math.ceil(10**12 / Fraction(0.7) ** 2 * 49) != 100 * 10**12
    assert cost(gaussian(0.7, 49)).amount == Amount(100 * 10**12, 0)


# --- transcendental costs --------------------------------------------------------------------------------------------


def check_fixed_point(found: Cost, *, count: int, log_p: Any, excess: Fraction = CLOSED_FORM_EXCESS) -> None:
    """The charge is that of a mu with Phi(-mu/2) <= p, by the definition of the fixed point p, and of hardly more.

    Nothing is inverted: Phi is taken at the mu that was charged, and at one smaller by the excess and a unit.
    """
    charged = found.amount.mu_sq_pico
    assert log_phi_at(Fraction(charged, count * 10**12)) <= log_p
    smaller = (charged - 1) / (1 + excess)
    assert smaller <= 0 or log_phi_at(smaller / (count * 10**12)) > log_p
    assert abs(Fraction(found.mu) ** 2 / found.mu_sq - 1) <= excess


def log_phi_at(mu_sq: Fraction) -> Any:
    """log Phi(-mu/2)."""
    return mp.log(normal_cdf(-mp.sqrt(real(mu_sq)) / 2))


def test_pure_and_approximate_dp_and_laplace_are_not_undercharged(tries: Callable[[int, int], int]) -> None:
    """Goal: pure_dp, approximate_dp and laplace are charged their least mu, rounded up, and at most a relative 2^-45
    and one unit more. Method: 1e-12 to 1e12 in every parameter, against the trade-off functions' fixed points
    1/(1 + e^epsilon) and e^(-theta/2)/2 at 150 digits."""
    rng = random.Random(12)
    with mp.workdps(150):
        for _ in range(tries(750, 30_000)):
            low, high = rng.choice([("0.001", "30"), ("1e-12", "1e12")])
            parameter, count = decimal(rng, low, high), random_count(rng)
            bound, adjacency = rng.choice(SETTINGS)
            match rng.choice(["laplace", "pure_dp", "approximate_dp"]):
                case "laplace" as kind:
                    declared = {"type": kind, "noise_multiplier": parameter, "count": count}
                    log_p = -1 / real(parameter) / 2 - mp.log(2)
                case "pure_dp" as kind:
                    declared = {"type": kind, "epsilon": parameter, "count": count}
                    log_p = -mp.log(1 + mp.exp(real(parameter)))
                case kind:
                    declared = {
                        "type": kind,
                        "epsilon": parameter,
                        "count": count,
                        "delta": decimal(rng, "1e-30", "0.9"),
                    }
                    log_p = -mp.log(1 + mp.exp(real(parameter)))
            check_fixed_point(cost(declared, bound, adjacency), count=count, log_p=log_p)


def clt_mu_sq(declared: dict[str, Any], adjacency: Adjacency) -> Any:
    """mu² by the published formulas, as accounting.md has them."""
    rate, steps = map(real, rate_and_steps(declared))
    s = real(declared["noise_multiplier"])
    if declared["sampling"] == "poisson":
        growth = 4 * mp.sinh(1 / s**2) if adjacency == "replace_one" else mp.exp(1 / s**2) - 1
    else:
        # Without data a unit is a special case of one that is replaced.
        s = s if adjacency == "add_or_remove_one" else s / 2
        growth = 2 * (mp.exp(1 / s**2) * normal_cdf(mp.mpf(3) / 2 / s) + 3 * normal_cdf(-mp.mpf(1) / 2 / s) - 2)
    return rate**2 * steps * growth


@pytest.mark.parametrize("adjacency", ADJACENCIES)
@pytest.mark.parametrize("sampling", ["poisson", "fixed_size"])
def test_the_estimates_are_not_undercharged(
    sampling: str, adjacency: Adjacency, tries: Callable[[int, int], int]
) -> None:
    """Goal: under clt DP-SGD is charged the published formula's mu², rounded up, and at most 4.1 (27 + 12/s²) 2^-53
    and one unit more; where the value is beyond the doubles, and only there, it is refused, naming the noise. Method:
    random declarations in both forms, against the formulas at 150 digits."""
    rng = random.Random(f"13 {sampling} {adjacency}")
    refused = 0
    with mp.workdps(150):
        for _ in range(tries(300, 20_000)):
            declared = random_training(rng, sampling)
            # Below this noise the value is e^100000 and more.
            exact = clt_mu_sq(declared, adjacency) if declared["noise_multiplier"] > Decimal("0.003") else mp.inf
            if exact > real(DOUBLE_MAX) ** 2:
                refused += 1
                with pytest.raises(InvalidMechanism, match="use more noise") as raised:
                    cost(declared, "clt", adjacency)
                assert raised.value.field == "mechanism.noise_multiplier"
                continue
            found = cost(declared, "clt", adjacency)
            charged = found.amount.mu_sq_pico
            assert charged >= exact * 10**12, declared
            assert charged <= exact * 10**12 * real(1 + clt_excess(declared["noise_multiplier"])) + 1, declared
            assert abs(found.mu / mp.sqrt(exact) - 1) < mp.mpf("1e-12"), declared
            assert found.amount.delta_atto == 0
    assert refused > 0


def test_reading_parameters_as_doubles_is_paid_for() -> None:
    """Goal: the change of mu when s is rounded to a double is within what is added for it, 1.06 + 4/s² units for fixed
    size under replace_one. Method: d log mu / d log s of the three formulas at 40 digits, along s."""
    with mp.workdps(40):
        for tenths in range(-70, 35):
            x = mp.mpf(10) ** (mp.mpf(tenths) / 10)
            growths = (
                mp.expm1,
                mp.sinh,
                lambda x: mp.exp(x) * normal_cdf(1.5 * mp.sqrt(x)) + 3 * normal_cdf(-0.5 * mp.sqrt(x)) - 2,
            )
            for growth in growths:
                # mu is in proportion to sqrt(g(x)), x = s^-2, so that -d log mu / d log s = x g'(x) / g(x).
                assert x * mp.diff(growth, x) / growth(x) < mp.mpf("1.06") + x


def test_under_clt_other_mechanisms_cost_what_they_cost_when_certified(tries: Callable[[int, int], int]) -> None:
    """Goal: only sampled DP-SGD is estimated; the rest, shuffle included, costs the same under both bounds. Method:
    random mechanisms, compared."""
    rng = random.Random(14)
    for _ in range(tries(150, 5_000)):
        declared = random_rational(rng)
        if rng.random() < 0.5:
            declared = {"type": "pure_dp", "epsilon": decimal(rng, "1e-12", "1e12")}
        for adjacency in ADJACENCIES:
            assert cost(declared, "clt", adjacency) == cost(declared, "certified", adjacency)


def test_an_estimate_says_that_it_is_one() -> None:
    """Goal: an estimate can be told from a guarantee, also within a composition. Method: the assumptions' words."""
    training = {"type": "dpsgd", "noise_multiplier": 1, "sample_rate": Decimal("0.01"), "steps": 100}
    for sampling, estimated in (("poisson", True), ("fixed_size", True), ("shuffle", False)):
        declared = {**training, "sampling": sampling}
        for shown in (cost(declared), cost(composed([gaussian(1), declared]))):
            assert any("estimate" in text for text in shown.assumptions) == estimated
    assert (
        cost(composed([gaussian(1), {**training, "sampling": "poisson"}])).method == "composed: gaussian, clt-poisson"
    )


# --- delta -----------------------------------------------------------------------------------------------------------


def exact_delta_atto(delta: Decimal, count: int = 1) -> int:
    """ceil(-count log(1 - delta) 10^18), at 420 digits: 80 beyond the smallest delta's first."""
    return int(mp.ceil(-count * mp.log(1 - real(delta)) * 10**18))


def test_delta_is_charged_exactly(tries: Callable[[int, int], int]) -> None:
    """Goal: delta_atto is the ceiling of the exact value, from 1e-300 to nearly 1, count times. Method: mpmath at 420
    digits; random deltas, powers of ten, and those at and around whole units."""
    rng = random.Random(15)
    with mp.workdps(420):
        deltas = [Decimal(f"1e-{n}") for n in range(1, 301)]
        deltas += [Decimal(n).scaleb(-18) + change for n in (1, 2, 7, 10**9) for change in (0, Decimal("1e-25"))]
        deltas += [1 - Decimal(f"1e-{n}") for n in range(1, 28)]
        deltas += [decimal(rng, "1e-300", "0.999") for _ in range(tries(500, 20_000))]
        deltas += [decimal(rng, "1e-20", "0.999") for _ in range(tries(500, 20_000))]
        for delta in deltas:
            exact = exact_delta_atto(delta)
            stated = cost({"type": "gdp", "mu": 1, "delta": delta, "evidence": "page 3"})
            assert stated.amount == Amount(10**12, exact), delta
            assert stated.delta == pytest.approx(float(delta), rel=1e-14, abs=0)
            count = random_count(rng)
            released = cost({"type": "approximate_dp", "epsilon": 1, "delta": delta, "count": count})
            assert released.amount.delta_atto == exact_delta_atto(delta, count), (delta, count)
    assert cost({"type": "gdp", "mu": 1, "delta": 0, "evidence": "page 3"}).amount.delta_atto == 0


def test_composed_deltas_are_rounded_up_once(tries: Callable[[int, int], int]) -> None:
    """Goal: the delta of a composition is the ceiling of the sum. Method: parts from 1e-300 up, mpmath, 420 digits."""
    rng = random.Random(16)
    with mp.workdps(420):
        for _ in range(tries(60, 2_000)):
            deltas = [decimal(rng, rng.choice(["1e-300", "1e-20"]), "0.5") for _ in range(rng.choice([2, 5, 100]))]
            parts = [{"type": "approximate_dp", "epsilon": 1, "delta": delta} for delta in deltas]
            exact = int(mp.ceil(-sum(mp.log(1 - real(delta)) for delta in deltas) * 10**18))
            assert cost(composed(parts)).amount.delta_atto == exact
    tenth = {"type": "gdp", "mu": 1, "delta": Decimal("1e-19"), "evidence": "page 3"}
    assert cost(composed([tenth] * 9)).amount.delta_atto == cost(tenth).amount.delta_atto == 1


# --- compositions ----------------------------------------------------------------------------------------------------


def random_transcendental(rng: random.Random) -> dict[str, Any]:
    """One of the mechanisms whose mu² is not rational, of moderate cost."""
    match rng.choice(["laplace", "pure_dp", "approximate_dp", "dpsgd"]):
        case "laplace" as kind:
            return {"type": kind, "noise_multiplier": decimal(rng, "0.1", "10")}
        case "pure_dp" as kind:
            return {"type": kind, "epsilon": decimal(rng, "0.1", "10"), "count": random_count(rng)}
        case "approximate_dp" as kind:
            return {"type": kind, "epsilon": 1, "delta": decimal(rng, "1e-20", "0.1")}
        case _:
            training = random_training(rng, rng.choice(["poisson", "fixed_size"]))
            return {**training, "noise_multiplier": decimal(rng, "0.3", "10")}


def test_a_composition_is_the_sum_of_its_parts(tries: Callable[[int, int], int]) -> None:
    """Goal: mu² and nats of a composition are the sums of its parts', whatever they are; nothing is rounded on the way.
    Method: random parts of every type, added as fractions."""
    rng = random.Random(17)
    for _ in range(tries(75, 3_000)):
        parts = [random_rational(rng) for _ in range(rng.randint(1, 5))]
        parts += [random_transcendental(rng) for _ in range(rng.randint(0, 4))]
        rng.shuffle(parts)
        adjacency = rng.choice(ADJACENCIES)
        whole, apart = cost(composed(parts), "clt", adjacency), [cost(part, "clt", adjacency) for part in parts]
        assert whole.mu_sq == sum(part.mu_sq for part in apart)
        assert whole.nats == sum(part.nats for part in apart)
        assert whole.mu == pytest.approx(math.sqrt(sum(Fraction(part.mu) ** 2 for part in apart)), rel=1e-14)
        assert 0 <= sum(part.amount.mu_sq_pico for part in apart) - whole.amount.mu_sq_pico < len(parts)


# --- the reference ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", oracle.REFERENCE)
def test_the_reference(name: str) -> None:
    """Goal: every case of the reference costs its mu to a relative 1e-12, and its delta; the integer is the ceiling of
    mu² or, where that is not rational, a relative 1e-12 and one unit more at most; it can be held up to mu 3000.
    Method: declare the case and compare."""
    case = oracle.REFERENCE[name]
    found = cost(declaration(name))
    exact = Fraction(case["mu"])
    assert abs(Fraction(found.mu) - exact) <= exact / 10**12
    assert found.delta == pytest.approx(float(case.get("delta0", 0)), rel=1e-12, abs=0)
    # The reference has 25 digits.
    lowest, highest = exact**2 * 10**12 * (1 - Fraction(1, 10**23)), exact**2 * 10**12 * (1 + Fraction(1, 10**12)) + 1
    assert lowest <= found.amount.mu_sq_pico <= highest
    assert found.is_holdable == (exact <= MU_MAX)


def test_the_reference_is_all_there() -> None:
    """Goal: the cases above are of every kind, and some of them cannot be held. Method: count."""
    kinds = [case["kind"] for case in oracle.REFERENCE.values()]
    assert {kind: kinds.count(kind) for kind in sorted(set(kinds))} == {
        "clt_poisson": 32,
        "clt_uniform": 22,
        "composition": 7,
        "eps_delta_blackbox": 5,
        "gaussian": 7,
        "laplace": 7,
        "pure_dp": 11,
    }
    assert sum(Fraction(case["mu"]) > MU_MAX for case in oracle.REFERENCE.values()) == 6


def test_a_composition_counts_its_releases() -> None:
    """Goal: `count` is worth as many parts. Method: the reference's repeated members, once by count."""
    assert cost({"type": "pure_dp", "epsilon": Decimal("0.01"), "count": 50}).amount == cost(declaration("F04")).amount
    counted = cost({"type": "approximate_dp", "epsilon": 1, "delta": Decimal("1e-6"), "count": 20})
    assert counted.amount == cost(declaration("F06")).amount


def test_what_can_be_held_ends_at_3000() -> None:
    """Goal: a cost fits 64 bits or says that it does not. Method: mu at 3000 and just above; delta likewise."""
    assert cost({"type": "gdp", "mu": 3000, "evidence": "x"}).is_holdable
    assert not cost({"type": "gdp", "mu": Decimal("3000.000001"), "evidence": "x"}).is_holdable
    nearly = {"type": "gdp", "mu": 1, "evidence": "x", "delta": Decimal("0.999901294712")}
    assert cost(nearly).amount.delta_atto < 2**63
    assert cost(nearly).is_holdable
    assert not cost({**nearly, "delta": Decimal("0.999901294713")}).is_holdable
    assert not cost(gaussian(Decimal("1e-12"), 10**12)).is_holdable


# --- shuffle ---------------------------------------------------------------------------------------------------------


def epochs_charged(adjacency: Adjacency = "add_or_remove_one", **declared: Any) -> Fraction:
    """How many Gaussian releases at noise 1 a shuffled training is charged as."""
    training = {"type": "dpsgd", "sampling": "shuffle", "noise_multiplier": 1, **declared}
    return cost(training, "certified", adjacency).mu_sq


@pytest.mark.parametrize(
    ("declared", "epochs"),
    [
        ({"sample_rate": 1, "steps": 1}, 1),
        ({"sample_rate": 1, "steps": 7}, 7),
        ({"sample_rate": Decimal("0.25"), "steps": 1}, 1),
        ({"sample_rate": Decimal("0.25"), "steps": 4}, 1),
        ({"sample_rate": Decimal("0.25"), "steps": 5}, 2),
        # Just above 1/4 an epoch has 3 whole steps, just below it has 4.
        ({"sample_rate": Decimal("0.2500000000000000000001"), "steps": 4}, 2),
        ({"sample_rate": Decimal("0.2499999999999999999999"), "steps": 4}, 1),
        ({"sample_rate": Decimal("0.51"), "steps": 3}, 3),
        ({"sample_rate": Decimal("1e-12"), "steps": 10**12}, 1),
        ({"dataset_size": 1000, "batch_size": 250, "epochs": 3}, 3),
        ({"dataset_size": 1000, "batch_size": 250, "epochs": Decimal("2.25")}, 3),
        ({"dataset_size": 1000, "batch_size": 250, "epochs": Decimal("0.25")}, 1),
        ({"dataset_size": 1000, "batch_size": 1000, "epochs": Decimal("2.5")}, 3),
        # 1000/256 is 3.9: three whole steps; 12 steps can touch four epochs of three, but three were declared.
        ({"dataset_size": 1000, "batch_size": 256, "epochs": 3}, 3),
        ({"sample_rate": Decimal("0.256"), "steps": 12}, 4),
        ({"dataset_size": 1000, "batch_size": 256, "epochs": Decimal("2.304")}, 3),
        ({"dataset_size": 1000, "batch_size": 256, "epochs": Decimal("3.0001")}, 4),
        ({"dataset_size": 1000, "batch_size": 501, "epochs": 1}, 1),
        ({"dataset_size": 60000, "batch_size": 256, "epochs": 60}, 60),
        # Published: mu sqrt(3)/5, sqrt(10)/5 and 1 at noise 5, 5 and 1.
        ({"dataset_size": 67349, "batch_size": 1000, "epochs": 3}, 3),
        ({"dataset_size": 100, "batch_size": 60, "epochs": 10}, 10),
        ({"dataset_size": 150, "batch_size": 100, "epochs": 1}, 1),
        ({"dataset_size": 1, "batch_size": 1, "epochs": 10**12}, 10**12),
    ],
)
def test_shuffle_is_charged_for_every_epoch_it_touches(declared: dict[str, Any], epochs: int) -> None:
    """Goal: the epochs declared, or of steps ceil(steps / floor(N/B)); replacing a unit counts twice in mu.

    Method: cases worked out by hand.
    """
    assert epochs_charged(**declared) == epochs
    assert epochs_charged(adjacency="replace_one", **declared) == 4 * epochs
    assert epochs_charged(**{**declared, "noise_multiplier": 3}) == Fraction(epochs, 9)


def passed(rng: random.Random, *, size: int, batch: int, epochs: Decimal | int, drop_last: bool) -> int:
    """Trains so many epochs; the most batches that one unit was in."""
    steps = math.ceil(Fraction(epochs) * (size // batch if drop_last else -(-size // batch)))
    return appearances(rng, size=size, batch=batch, steps=steps, drop_last=drop_last)


def test_no_unit_is_seen_more_often_than_was_charged(tries: Callable[[int, int], int]) -> None:
    """Goal: the charge covers the worst loader, and no more than it. Method: simulate loaders that drop the last
    partial batch and that keep it, with the order worst for one unit, for random sizes, batches and steps."""
    rng = random.Random(18)
    for _ in range(tries(750, 30_000)):
        size = rng.randint(1, 30)
        batch = rng.randint(1, size)
        epochs = Decimal(rng.randint(1, 60)) / 10
        epochs = max(epochs, one_step(batch, size))
        worst = max(passed(rng, size=size, batch=batch, epochs=epochs, drop_last=drop) for drop in (True, False))
        assert epochs_charged(dataset_size=size, batch_size=batch, epochs=epochs) == worst
        steps = rng.randint(1, 60)
        worst = max(appearances(rng, size=size, batch=batch, steps=steps, drop_last=drop) for drop in (True, False))
        # The nearest decimals on both sides of B/N; from above an epoch has one step less where B divides N.
        below = Decimal(f"{batch * 10**30 // size}e-30")
        above = Decimal(f"{-(-batch * 10**30 // size)}e-30")
        assert epochs_charged(sample_rate=below, steps=steps) == worst
        assert epochs_charged(sample_rate=above, steps=steps) >= worst


# --- segments --------------------------------------------------------------------------------------------------------


def segmented(declared: dict[str, Any], segments: int, bound: Bound, adjacency: Adjacency) -> Cost:
    """The cost of so many segments."""
    return costs.cost(mechanisms.parse(declared), Terms(bound=bound, adjacency=adjacency, segments=segments))


def test_segments_are_runs_of_a_part_each(tries: Callable[[int, int], int]) -> None:
    """Goal: k segments cost k times ceil(T/k) steps, rounded up once, in mu² and in the mechanism's own delta. Method:
    random Gaussian mechanisms, approximate DP and trees in fractions; no segments are one."""
    rng = random.Random(23)
    for _ in range(tries(250, 10_000)):
        bound, adjacency = rng.choice(SETTINGS)
        noise, count = decimal(rng, "1e-6", "1e6"), rng.randint(1, 10 ** rng.randint(1, 12))
        segments = rng.randint(1, min(count, 1000))
        each = -(-count // segments)
        found = segmented(gaussian(noise, count), segments, bound, adjacency)
        exact = segments * each / Fraction(noise) ** 2
        assert found.mu_sq == exact
        assert found.amount == Amount(math.ceil(exact * 10**12), 0)
        assert abs(Fraction(found.mu) ** 2 - exact) <= 4 * Fraction(UNIT) * exact
        assert any("restarts with fresh randomness" in said for said in found.assumptions) == (segments > 1)
        released = {"type": "approximate_dp", "epsilon": 1, "delta": decimal(rng, "1e-20", "0.1"), "count": count}
        once = cost({**released, "count": 1})
        assert segmented(released, segments, bound, adjacency).mu_sq == segments * each * once.mu_sq
        assert segmented(released, segments, bound, adjacency).nats == segments * each * once.nats
    tree = {"type": "matrix_factorization", "noise_multiplier": 2, "strategy": "tree", "steps": 100}
    tree |= {"participations": 1, "completion": "none"}
    assert segmented(tree, 3, "certified", "replace_one").mu_sq == 3 * strategies.sensitivity_sq(
        strategies.Shape(strategy="tree"), steps=34
    )


@pytest.mark.parametrize("adjacency", ADJACENCIES)
@pytest.mark.parametrize("sampling", ["poisson", "fixed_size"])
def test_estimates_of_segments_follow_the_formula(
    sampling: str, adjacency: Adjacency, tries: Callable[[int, int], int]
) -> None:
    """Goal: under clt segments cost what the formula has for k ceil(T/k) whole steps, rounded up. Method: 150
    digits."""
    rng = random.Random(f"24 {sampling} {adjacency}")
    with mp.workdps(150):
        for _ in range(tries(75, 5_000)):
            declared = random_training(rng, sampling) | {"noise_multiplier": decimal(rng, "0.1", "100")}
            steps = rate_and_steps(declared)[1]
            segments = rng.randint(1, min(math.floor(steps), 1000))
            if segments == 1:
                continue
            whole = segments * math.ceil(Fraction(math.ceil(steps), segments))
            exact = clt_mu_sq(declared, adjacency) / real(steps) * whole
            found = segmented(declared, segments, "clt", adjacency).amount
            assert exact * 10**12 <= found.mu_sq_pico
            assert found.mu_sq_pico <= exact * 10**12 * real(1 + clt_excess(declared["noise_multiplier"])) + 1


def test_no_unit_is_in_more_epochs_than_segments_are_charged(tries: Callable[[int, int], int]) -> None:
    """Goal: segments of shuffle are whole epochs, each begun anew; the charge covers the worst loader, and no more.
    Method: simulate loaders that restart with each segment."""
    rng = random.Random(25)
    for _ in range(tries(250, 10_000)):
        size = rng.randint(1, 20)
        batch = rng.randint(1, size)
        epochs = max(Decimal(1), Decimal(rng.randint(1, 60)) / 10)
        declared = {"type": "dpsgd", "sampling": "shuffle", "noise_multiplier": 1}
        declared |= {"dataset_size": size, "batch_size": batch, "epochs": epochs}
        mechanism = mechanisms.parse(declared)
        planned = planned_steps(mechanism)
        assert planned is not None
        segments = rng.randint(1, min(planned[0], 6))
        each = -(-math.ceil(epochs) // segments)
        worst = max(passed(rng, size=size, batch=batch, epochs=each, drop_last=drop) for drop in (True, False))
        assert segmented(declared, segments, "certified", "add_or_remove_one").mu_sq == segments * worst


# --- what has no cost ------------------------------------------------------------------------------------------------


def test_what_no_certificate_is_known_of_is_said_to_be() -> None:
    """Goal: whoever asks for a certificate that nobody knows learns that, where, and what to do. Method: fixed-size
    sampling under add_or_remove_one without a least size, alone and as a part; zCDP beyond what is certified."""
    sampled = {**POISSON, "sampling": "fixed_size"}
    for declared, field in (
        (sampled, "mechanism.dataset_size_min"),
        (composed([gaussian(1), gaussian(1), sampled]), "mechanism.parts.2.dataset_size_min"),
    ):
        with pytest.raises(InvalidMechanism) as raised:
            cost(declared, "certified", "add_or_remove_one")
        assert raised.value.field == field
        for helpful in (
            "needs dataset_size_min",
            "public lower bound",
            "draw each batch uniformly without replacement",
        ):
            assert helpful in str(raised.value)
    with pytest.raises(InvalidMechanism, match="up to 1e") as raised:
        cost(composed([gaussian(1), {"type": "zcdp", "rho": Decimal(1000001)}]))
    assert raised.value.field == "mechanism.parts.1.rho"


def test_a_part_without_noise_is_named() -> None:
    """Goal: a cost beyond all doubles is refused at the part that has it, or at all of them together. Method: one such
    part; two that are just within alone."""
    noiseless = {**POISSON, "noise_multiplier": Decimal("1e-12")}
    with pytest.raises(InvalidMechanism, match="use more noise") as raised:
        cost(composed([gaussian(1), noiseless]))
    assert raised.value.field == "mechanism.parts.1.noise_multiplier"
    # q sqrt(T) e^(1/(2 s²)), with 1/(2 s²) = 709.5 and log 1.79e308 = 709.78
    brink = {**POISSON, "sample_rate": 1, "steps": 1, "noise_multiplier": Decimal("0.0265465")}
    assert 1e308 < cost(brink).mu < math.inf
    with pytest.raises(InvalidMechanism, match="too large to be represented") as raised:
        cost(composed([brink] * 4))
    assert raised.value.field == "mechanism.parts"


# --- extremes --------------------------------------------------------------------------------------------------------


def extremes() -> list[dict[str, Any]]:
    """Every mechanism at the corners of what may be declared, and in numbers of 60 digits near them."""
    ends: list[Any] = [Decimal("1e-12"), Decimal("1e12"), Decimal("1." + "3" * 59)]
    ends.append(Decimal("0." + "0" * 11 + "7" * 60))
    counts = [1, 10**12, 10**12 - 1]
    rates = [Decimal("1e-12"), Decimal(1), Decimal("0." + "9" * 60)]
    deltas = [Decimal("1e-300"), Decimal("0." + "9" * 60), Decimal("9." + "9" * 59 + "e-41"), Decimal("1e-5")]
    found: list[dict[str, Any]] = []
    for sampling, noise in product(("poisson", "fixed_size", "shuffle"), [*ends, Decimal("0.0267"), Decimal("0.125")]):
        training = {"type": "dpsgd", "sampling": sampling, "noise_multiplier": noise}
        found += [{**training, "sample_rate": rate, "steps": steps} for rate, steps in product(rates, counts)]
        found += [
            {**training, "dataset_size": size, "batch_size": batch, "epochs": epochs}
            for size, batch, epochs in product(counts, counts, ends)
            if batch <= min(size, size * epochs)
        ]
    for end, count in product(ends, counts):
        found += [gaussian(end, count), {"type": "laplace", "noise_multiplier": end, "count": count}]
        found.append({"type": "pure_dp", "epsilon": end, "count": count})
        found += [{"type": "approximate_dp", "epsilon": end, "delta": delta, "count": count} for delta in deltas]
    found += [{"type": "gdp", "mu": mu, "delta": delta, "evidence": "x"} for mu, delta in product(ends, [*deltas, 0])]
    return found


def milliseconds(action: Callable[[], Any]) -> float:
    """The least processor time of three goes, since other programs run too."""
    times = []
    for _ in range(3):
        start = time.process_time()
        action()
        times.append((time.process_time() - start) * 1e3)
    return min(times)


def test_extremes_have_a_cost_or_a_reason_and_no_delay() -> None:
    """Goal: whatever may be declared is costed within 50 ms, or refused with InvalidMechanism; costs can be shown.
    Method: all corners of every mechanism, under both bounds and adjacencies."""
    costed, refused, fields = 0, 0, set()
    for declared, (bound, adjacency) in product(extremes(), SETTINGS):
        mechanism = mechanisms.parse(declared)
        start = time.process_time()
        try:
            found = costs.cost(mechanism, Terms(bound=bound, adjacency=adjacency))
        except InvalidMechanism as error:
            fields.add(error.field)
            refused += 1
            continue
        amount = found.amount
        assert time.process_time() - start < 0.05
        assert amount.mu_sq_pico >= 1
        assert 0 < found.mu < math.inf
        assert 0 <= found.delta <= 1
        assert found.is_holdable == (found.mu_sq <= MU_MAX**2 and amount.delta_atto < 2**63)
        planned_steps(mechanism)
        costed += 1
    assert costed > 1_000
    assert refused > 300
    assert fields == {"mechanism.noise_multiplier", "mechanism.dataset_size_min"}


@pytest.mark.parametrize("kind", ["gaussian", "shuffle", "approximate_dp", "tiny deltas", "all"])
def test_a_large_composition_is_costed_without_delay(kind: str) -> None:
    """Goal: a hundred parts of sixty digits each take less than 50 ms. Method: parts whose fractions have nothing in
    common, so that the sum's denominator is as large as it gets."""
    rng = random.Random(f"20 {kind}")

    def number(exponent: int) -> Decimal:
        return Decimal(f"{rng.randrange(10**59, 10**60) | 1}e{exponent - 59}")

    def part(index: int) -> dict[str, Any]:
        match kind if kind != "all" else ("gaussian", "shuffle", "tiny deltas")[index % 3]:
            case "gaussian":
                return gaussian(number(0), 10**12 - index)
            case "shuffle":
                training = {"type": "dpsgd", "sampling": "shuffle", "noise_multiplier": number(0)}
                return {**training, "sample_rate": number(-3), "steps": 10**12 - index}
            case "approximate_dp":
                return {"type": "approximate_dp", "epsilon": number(0), "delta": number(-3), "count": 10**12 - index}
            case _:
                return {"type": "approximate_dp", "epsilon": number(0), "delta": number(-300)}

    mechanism = mechanisms.parse(composed(part(index) for index in range(100)))
    found = costs.cost(mechanism, Terms(bound="certified", adjacency="replace_one"))
    assert found.amount.mu_sq_pico > 0
    assert milliseconds(lambda: costs.cost(mechanism, Terms(bound="certified", adjacency="replace_one")).amount) < 50


def test_the_root_is_right_at_any_size(tries: Callable[[int, int], int]) -> None:
    """Goal: the double of mu is within an ulp of the root of mu². Method: random fractions of up to 600 digits, either
    way up, against integer roots; beyond the doubles it is infinity."""
    rng = random.Random(21)
    for _ in range(tries(1_500, 50_000)):
        square = Fraction(rng.randrange(1, 10 ** rng.randint(1, 600)), rng.randrange(1, 10 ** rng.randint(1, 600)))
        if not Fraction(1, 10**600) < square < 10**600:
            continue
        exact = Fraction(math.isqrt(square.numerator * 10**1400 // square.denominator), 10**700)
        assert abs(Fraction(root(square)) - exact) <= exact * Fraction(2, 2**53)
    assert root(Fraction(10**700)) == math.inf
    assert root(Fraction(9, 4)) == 1.5

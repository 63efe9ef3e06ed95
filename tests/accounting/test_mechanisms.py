"""`ledger.accounting.mechanisms`: what is declared is read exactly, and never charged below what it costs.

Every cost is checked against its definition in exact fractions or in mpmath at 150 digits, from the decimals declared.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from itertools import product
from typing import Any, get_args

import mpmath as mp
import pytest

from ledger.accounting import mechanisms
from ledger.accounting.mechanisms import MU_MAX, Cost, DpSgd, field_path, planned_steps
from ledger.errors import InvalidMechanism
from ledger.model import Adjacency, Amount, Bound
from tests.accounting import oracle
from tests.accounting.samples import decimal, normal_cdf, one_step, real

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
    return mechanisms.cost(mechanisms.parse(declared), bound=bound, adjacency=adjacency)


def gaussian(noise_multiplier: Any, count: int = 1) -> dict[str, Any]:
    """A Gaussian mechanism, declared."""
    return {"type": "gaussian", "noise_multiplier": noise_multiplier, "count": count}


def composed(parts: Iterable[Any]) -> dict[str, Any]:
    """A composition, declared."""
    return {"type": "composed", "parts": list(parts)}


def random_count(rng: random.Random) -> int:
    """A count from 1 to 10^12, small ones as often as large ones."""
    return rng.randint(1, 10 ** rng.randint(0, 12))


def random_training(rng: random.Random, sampling: str) -> dict[str, Any]:
    """DP-SGD in either form, with noise from where mu passes all doubles to 1e12."""
    low, high = rng.choice([("0.3", "30"), ("0.3", "30"), ("0.02", "1"), ("1e-12", "1e12")])
    declared = {"type": "dpsgd", "sampling": sampling, "noise_multiplier": decimal(rng, low, high)}
    if rng.random() < 0.5:
        return {**declared, "sample_rate": decimal(rng, "1e-12", "1"), "steps": random_count(rng)}
    size = random_count(rng)
    batch = rng.randint(1, size)
    epochs = max(decimal(rng, "1e-3", rng.choice(["1e3", "1e12"])), one_step(batch, size))
    return {**declared, "dataset_size": size, "batch_size": batch, "epochs": epochs}


def rate_and_steps(declared: dict[str, Any]) -> tuple[Fraction, Fraction]:
    """q and T, exactly."""
    if "steps" in declared:
        return Fraction(declared["sample_rate"]), Fraction(declared["steps"])
    rate = Fraction(declared["batch_size"], declared["dataset_size"])
    return rate, Fraction(declared["epochs"]) / rate


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
            touched = -(-whole_steps // steps_of_an_epoch)
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
    for _ in range(tries(4_000, 100_000)):
        bound, adjacency = rng.choice(SETTINGS)
        check_exact(random_rational(rng), bound, adjacency)


def test_compositions_of_rational_costs_are_exact(tries: Callable[[int, int], int]) -> None:
    """Goal: a composition is the sum, rounded up once. Method: random compositions of up to 100 parts, in fractions."""
    rng = random.Random(11)
    for _ in range(tries(150, 3_000)):
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
        for _ in range(tries(1_500, 30_000)):
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
        s = s / 2 if adjacency == "replace_one" else s
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
        for _ in range(tries(600, 20_000)):
            declared = random_training(rng, sampling)
            # Below this noise the value is e^100000 and more.
            exact = clt_mu_sq(declared, adjacency) if declared["noise_multiplier"] > Decimal("0.003") else mp.inf
            if exact > real(DOUBLE_MAX) ** 2:
                refused += 1
                with pytest.raises(InvalidMechanism, match="too little noise") as raised:
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
    for _ in range(tries(300, 5_000)):
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
        deltas += [decimal(rng, "1e-300", "0.999") for _ in range(tries(1_000, 20_000))]
        deltas += [decimal(rng, "1e-20", "0.999") for _ in range(tries(1_000, 20_000))]
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
    for _ in range(tries(150, 3_000)):
        parts = [random_rational(rng) for _ in range(rng.randint(1, 5))]
        parts += [random_transcendental(rng) for _ in range(rng.randint(0, 4))]
        rng.shuffle(parts)
        adjacency = rng.choice(ADJACENCIES)
        whole, costs = cost(composed(parts), "clt", adjacency), [cost(part, "clt", adjacency) for part in parts]
        assert whole.mu_sq == sum(part.mu_sq for part in costs)
        assert whole.nats == sum(part.nats for part in costs)
        assert whole.mu == pytest.approx(math.sqrt(sum(Fraction(part.mu) ** 2 for part in costs)), rel=1e-14)
        assert 0 <= sum(part.amount.mu_sq_pico for part in costs) - whole.amount.mu_sq_pico < len(parts)


# --- the reference ---------------------------------------------------------------------------------------------------

_SAMPLING = {"clt_poisson": "poisson", "clt_uniform": "fixed_size"}


def declaration(name: str) -> dict[str, Any]:
    """A case of the reference as a user would declare it."""
    case = oracle.REFERENCE[name]
    given = case["params"]
    match case["kind"]:
        case "clt_poisson" | "clt_uniform" as kind:
            declared = {
                "type": "dpsgd",
                "sampling": _SAMPLING[kind],
                "noise_multiplier": Decimal(given["noise_multiplier"]),
            }
            if "epochs" in given:
                sizes = {"dataset_size": given["N"], "batch_size": given["batch_size"], "epochs": given["epochs"]}
                return {**declared, **sizes}
            return {**declared, "sample_rate": Decimal(given["sample_rate"]), "steps": given["steps"]}
        case "gaussian":
            return gaussian(Decimal(given["sigma"]) / Decimal(given["sensitivity"]))
        case "laplace":
            noise = Decimal(given["scale"]) / Decimal(given["sensitivity"])
            return {"type": "laplace", "noise_multiplier": noise}
        case "pure_dp":
            return {"type": "pure_dp", "epsilon": Decimal(given["epsilon"])}
        case "eps_delta_blackbox":
            return {
                "type": "approximate_dp",
                "epsilon": Decimal(given["epsilon"]),
                "delta": Decimal(given["delta"]),
            }
        case "composition":
            return composed(declaration(part["id"]) for part in given["members"] for _ in range(part["count"]))
        case kind:
            raise AssertionError(kind)


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
        # 1000/256 is 3.9: three whole steps; 3 epochs are 11.7, so 12 steps, which can touch four epochs of three.
        ({"dataset_size": 1000, "batch_size": 256, "epochs": 3}, 4),
        ({"dataset_size": 1000, "batch_size": 256, "epochs": Decimal("2.304")}, 3),
        ({"dataset_size": 1000, "batch_size": 256, "epochs": Decimal("2.305")}, 4),
        ({"dataset_size": 1000, "batch_size": 501, "epochs": 1}, 2),
        ({"dataset_size": 60000, "batch_size": 256, "epochs": 60}, 61),
        ({"dataset_size": 1, "batch_size": 1, "epochs": 10**12}, 10**12),
    ],
)
def test_shuffle_is_charged_for_every_epoch_it_touches(declared: dict[str, Any], epochs: int) -> None:
    """Goal: ceil(steps / floor(N/B)) epochs; replacing a unit counts twice in mu. Method: cases worked out by hand."""
    assert epochs_charged(**declared) == epochs
    assert epochs_charged(adjacency="replace_one", **declared) == 4 * epochs
    assert epochs_charged(**{**declared, "noise_multiplier": 3}) == Fraction(epochs, 9)


def appearances(rng: random.Random, *, size: int, batch: int, steps: int, drop_last: bool) -> int:
    """Trains `steps` steps as a data loader does, from an epoch's start; the most batches that one unit was in."""
    seen = [0] * size
    taken = 0
    while taken < steps:
        order = rng.sample(range(size), size)
        # The adversary's order: unit 0 always comes first.
        order.remove(0)
        order.insert(0, 0)
        ends = size - size % batch if drop_last else size
        for start in range(0, ends, batch):
            if taken == steps:
                break
            for unit in order[start : min(start + batch, ends)]:
                seen[unit] += 1
            taken += 1
    return max(seen)


def test_no_unit_is_seen_more_often_than_was_charged(tries: Callable[[int, int], int]) -> None:
    """Goal: the charge covers the worst loader, and no more than it. Method: simulate loaders that drop the last
    partial batch and that keep it, with the order worst for one unit, for random sizes, batches and steps."""
    rng = random.Random(18)
    for _ in range(tries(1_500, 30_000)):
        size = rng.randint(1, 30)
        batch = rng.randint(1, size)
        epochs = Decimal(rng.randint(1, 60)) / 10
        epochs = max(epochs, one_step(batch, size))
        planned = math.ceil(Fraction(epochs) * size / batch)
        worst = max(appearances(rng, size=size, batch=batch, steps=planned, drop_last=drop) for drop in (True, False))
        assert epochs_charged(dataset_size=size, batch_size=batch, epochs=epochs) == worst
        steps = rng.randint(1, 60)
        worst = max(appearances(rng, size=size, batch=batch, steps=steps, drop_last=drop) for drop in (True, False))
        # The nearest decimals on both sides of B/N; from above an epoch has one step less where B divides N.
        below = Decimal(f"{batch * 10**30 // size}e-30")
        above = Decimal(f"{-(-batch * 10**30 // size)}e-30")
        assert epochs_charged(sample_rate=below, steps=steps) == worst
        assert epochs_charged(sample_rate=above, steps=steps) >= worst


def test_steps_that_count_as_planned(tries: Callable[[int, int], int]) -> None:
    """Goal: from the floor to the ceiling of epochs N/B, exactly; a count is itself; some mechanisms have no steps.
    Method: random declarations in fractions."""
    rng = random.Random(19)
    for _ in range(tries(1_000, 20_000)):
        declared = random_training(rng, rng.choice(["poisson", "fixed_size", "shuffle"]))
        _, steps = rate_and_steps(declared)
        expected = (steps.numerator // steps.denominator, -(-steps.numerator // steps.denominator))
        assert planned_steps(mechanisms.parse(declared)) == expected
    assert planned_steps(mechanisms.parse(declaration("A07P"))) == (2060, 2061)
    assert planned_steps(mechanisms.parse(gaussian(1, 7))) == (7, 7)
    for declared in (
        {"type": "laplace", "noise_multiplier": 1},
        {"type": "pure_dp", "epsilon": 1},
        {"type": "approximate_dp", "epsilon": 1, "delta": Decimal("0.1")},
    ):
        assert planned_steps(mechanisms.parse({**declared, "count": 3})) == (3, 3)
        assert planned_steps(mechanisms.parse(declared)) == (1, 1)
    assert planned_steps(mechanisms.parse({"type": "gdp", "mu": 1, "evidence": "x"})) is None
    assert planned_steps(mechanisms.parse(composed([gaussian(1)]))) is None


def test_either_form_gives_one_rate_and_number_of_steps() -> None:
    """Goal: both forms of DP-SGD mean the same. Method: one training in each."""
    by_epochs = mechanisms.parse(declaration("A05P"))
    by_rate = mechanisms.parse(
        {"type": "dpsgd", "sampling": "poisson", "noise_multiplier": 5, "sample_rate": 1, "steps": 50}
    )
    assert isinstance(by_epochs, DpSgd)
    assert isinstance(by_rate, DpSgd)
    assert by_epochs.rate == by_rate.rate == 1
    assert by_epochs.exact_steps == by_rate.exact_steps == 50
    costs = [mechanisms.cost(mechanism, bound="clt", adjacency="replace_one") for mechanism in (by_epochs, by_rate)]
    assert costs[0] == costs[1]


# --- what is not a mechanism -----------------------------------------------------------------------------------------

POISSON = {"type": "dpsgd", "noise_multiplier": 1, "sampling": "poisson", "sample_rate": Decimal("0.1"), "steps": 10}
EPOCHS = {
    "type": "dpsgd",
    "noise_multiplier": 1,
    "sampling": "shuffle",
    "dataset_size": 100,
    "batch_size": 10,
    "epochs": 3,
}
COMPLETE: dict[str, dict[str, Any]] = {
    "dpsgd by rate": POISSON,
    "dpsgd by epochs": EPOCHS,
    "gaussian": gaussian(1),
    "laplace": {"type": "laplace", "noise_multiplier": 1, "count": 1},
    "pure_dp": {"type": "pure_dp", "epsilon": 1, "count": 1},
    "approximate_dp": {"type": "approximate_dp", "epsilon": 1, "delta": Decimal("1e-5"), "count": 1},
    "gdp": {"type": "gdp", "mu": 1, "delta": Decimal("1e-5"), "evidence": "x"},
}
BAD: dict[str, list[Any]] = {
    **{
        field: [0, -1, "1", True, None, [], {}, Decimal("1e-13"), Decimal("1e13"), Decimal("NaN"), float("inf")]
        for field in ("noise_multiplier", "epsilon", "mu", "epochs")
    },
    "sample_rate": [0, -1, "1", True, Decimal("1.0001"), Decimal("NaN"), []],
    **{
        field: [0, -1, "1", True, Decimal("1.0"), 1.5, 10**13]
        for field in ("steps", "dataset_size", "batch_size", "count")
    },
    "delta": [-1, 1, Decimal("1.5"), "0.1", True, Decimal("1e-301")],
    "sampling": ["cyclic", 1, True, []],
    "evidence": ["", "x" * 2001, 1, True],
}
CASES = [
    (name, field, value)
    for name, declared in COMPLETE.items()
    for field in BAD
    if field in declared
    for value in BAD[field]
]


def refused(declared: Any) -> InvalidMechanism:
    """The error that a declaration is refused with."""
    with pytest.raises(InvalidMechanism) as raised:
        mechanisms.parse(declared)
    assert raised.value.facts["field"] == raised.value.field
    assert str(raised.value).startswith(f"{raised.value.field}: ")
    return raised.value


@pytest.mark.parametrize(("name", "field", "value"), CASES)
def test_a_bad_field_is_named(name: str, field: str, value: Any) -> None:
    """Goal: whatever is wrong with a field, the error names it, alone and in a composition. Method: every field of
    every mechanism, each with values of the wrong type, sign, range and size."""
    bad = {**COMPLETE[name], field: value}
    if value is None and field == "epochs":  # as if it were left out
        assert refused(bad).field == "mechanism"
        return
    assert refused(bad).field == f"mechanism.{field}"
    assert refused(composed([gaussian(1), bad])).field == f"mechanism.parts.1.{field}"


@pytest.mark.parametrize("name", COMPLETE)
def test_every_mechanism_is_taken_as_declared(name: str) -> None:
    """Goal: the declarations above are good ones, and so is a composition of each. Method: parse, and read back."""
    parsed = mechanisms.parse(COMPLETE[name])
    assert parsed.model_dump(exclude_none=True) == COMPLETE[name]
    assert mechanisms.parse(composed([COMPLETE[name]])).model_dump(exclude_none=True)["parts"] == [COMPLETE[name]]


@pytest.mark.parametrize("name", COMPLETE)
def test_unknown_and_missing_fields_are_named(name: str) -> None:
    """Goal: a misspelt or forgotten field is named, even one called as a mechanism is, or as the validator's own
    locations are. Method: add one; leave out each that has no default."""
    declared = COMPLETE[name]
    for extra in ("noise", "gaussian", "dpsgd", "function-x", "parts", "0", ""):
        assert refused({**declared, extra: 1}).field == f"mechanism.{extra}"
        assert refused(composed([gaussian(1), {**declared, extra: 1}])).field == f"mechanism.parts.1.{extra}"
    for field in declared.keys() & {"noise_multiplier", "sampling", "epsilon", "mu", "evidence"}:
        without = {key: value for key, value in declared.items() if key != field}
        assert refused(without).field == f"mechanism.{field}"
        assert refused(composed([without])).field == f"mechanism.parts.0.{field}"
    if name == "approximate_dp":
        assert refused({"type": "approximate_dp", "epsilon": 1}).field == "mechanism.delta"


def test_dpsgd_takes_one_form_whole() -> None:
    """Goal: by rate and steps, or by sizes and epochs: all of one, nothing of the other. Method: every other subset."""
    rate_fields, epoch_fields = ("sample_rate", "steps"), ("dataset_size", "batch_size", "epochs")
    values = {**EPOCHS, **POISSON}
    for chosen in product((False, True), repeat=5):
        fields = {name for name, taken in zip((*rate_fields, *epoch_fields), chosen, strict=True) if taken}
        declared = {name: values[name] for name in ("type", "noise_multiplier", "sampling", *fields)}
        if fields in (set(rate_fields), set(epoch_fields)):
            assert isinstance(mechanisms.parse(declared), DpSgd)
            continue
        assert "either sample_rate and steps, or dataset_size, batch_size and epochs" in str(refused(declared))
        assert refused(declared).field == "mechanism"
        assert refused(composed([gaussian(1), declared])).field == "mechanism.parts.1"


def test_a_batch_is_no_larger_than_the_dataset() -> None:
    """Goal: a sample rate above 1 is refused in both forms. Method: one unit more than there is."""
    assert cost({**EPOCHS, "batch_size": 100}).mu_sq == 3
    assert "batch_size must be at most dataset_size" in str(refused({**EPOCHS, "batch_size": 101}))
    assert refused({**POISSON, "sample_rate": Decimal("1.01")}).field == "mechanism.sample_rate"


def test_part_of_a_step_is_no_training() -> None:
    """Goal: what is charged for less than a step cannot be settled as a step. Method: one step exactly, a little more,
    and a little less, which is refused, in words that name epochs."""
    assert planned_steps(mechanisms.parse({**EPOCHS, "epochs": Decimal("0.1")})) == (1, 1)
    assert planned_steps(mechanisms.parse({**EPOCHS, "epochs": Decimal("0.1000001")})) == (1, 2)
    for epochs in ("0.09999999999999999999999999999999", "1e-12"):
        for declared, field in (
            ({**EPOCHS, "epochs": Decimal(epochs)}, "mechanism"),
            (composed([{**EPOCHS, "epochs": Decimal(epochs)}]), "mechanism.parts.0"),
        ):
            assert refused(declared).field == field
            assert "epochs must be at least batch_size/dataset_size" in str(refused(declared))


NO_TYPES: list[Any] = ["", "dp-sgd", "Gaussian", None, 1, True, [], {}, ["gaussian"]]
NO_MECHANISMS: list[Any] = [None, 1, "gaussian", [], [{"type": "gaussian"}], True]
NO_PARTS: list[Any] = [[], {}, None, "x", 1]


@pytest.mark.parametrize(
    ("declared", "field"),
    [
        ({}, "mechanism.type"),
        ({"noise_multiplier": 1}, "mechanism.type"),
        *(({"type": kind}, "mechanism.type") for kind in NO_TYPES),
        *((declared, "mechanism") for declared in NO_MECHANISMS),
        ({"type": "composed"}, "mechanism.parts"),
        *(({"type": "composed", "parts": parts}, "mechanism.parts") for parts in NO_PARTS),
        (composed([gaussian(1)] * 101), "mechanism.parts"),
        (composed([{}]), "mechanism.parts.0.type"),
        (composed([gaussian(1), None]), "mechanism.parts.1"),
        (composed([gaussian(1), composed([gaussian(1)])]), "mechanism.parts.1.type"),
        ({**composed([gaussian(1)]), "count": 2}, "mechanism.count"),
    ],
    ids=str,
)
def test_what_is_no_mechanism_is_refused(declared: Any, field: str) -> None:
    """Goal: any JSON at all is answered with InvalidMechanism and the place. Method: types missing, wrong, unhashable;
    parts that are none, too many or nested."""
    assert refused(declared).field == field


def test_what_no_certificate_is_known_of_is_said_to_be() -> None:
    """Goal: whoever asks for a certificate that nobody knows learns that, where, and what to do. Method: fixed-size
    sampling under add_or_remove_one, alone and as a part; zCDP beyond what is certified."""
    sampled = {**POISSON, "sampling": "fixed_size"}
    for declared, field in (
        (sampled, "mechanism.sampling"),
        (composed([gaussian(1), gaussian(1), sampled]), "mechanism.parts.2.sampling"),
    ):
        with pytest.raises(InvalidMechanism) as raised:
            cost(declared, "certified", "add_or_remove_one")
        assert raised.value.field == field
        for helpful in ("no certified cost is known", "replace_one", "shuffle"):
            assert helpful in str(raised.value)
    with pytest.raises(InvalidMechanism, match="up to 1e") as raised:
        cost(composed([gaussian(1), {"type": "zcdp", "rho": Decimal(1000001)}]))
    assert raised.value.field == "mechanism.parts.1.rho"


def test_a_part_without_noise_is_named() -> None:
    """Goal: a cost beyond all doubles is refused at the part that has it, or at all of them together. Method: one such
    part; two that are just within alone."""
    noiseless = {**POISSON, "noise_multiplier": Decimal("1e-12")}
    with pytest.raises(InvalidMechanism, match="too little noise") as raised:
        cost(composed([gaussian(1), noiseless]))
    assert raised.value.field == "mechanism.parts.1.noise_multiplier"
    # q sqrt(T) e^(1/(2 s²)), with 1/(2 s²) = 709.5 and log 1.79e308 = 709.78
    brink = {**POISSON, "sample_rate": 1, "steps": 1, "noise_multiplier": Decimal("0.0265465")}
    assert 1e308 < cost(brink).mu < math.inf
    with pytest.raises(InvalidMechanism, match="beyond any number") as raised:
        cost(composed([brink] * 4))
    assert raised.value.field == "mechanism.parts"


def test_locations_become_paths() -> None:
    """Goal: tags of unions and names of validators are no part of a path; fields of such names are. Method: a few."""
    for location, path in (
        (("mechanism", "dpsgd", "noise_multiplier"), "mechanism.noise_multiplier"),
        (("mechanism", "composed", "parts", 3, "gdp", "mu"), "mechanism.parts.3.mu"),
        (("mechanism", "gaussian", "gaussian"), "mechanism.gaussian"),
        (("labels", "dpsgd"), "labels.dpsgd"),
        (("budget", "function-after[check(), model]", "mu"), "budget.mu"),
        (("mechanism",), "mechanism"),
        ((), ""),
    ):
        assert field_path(location) == path


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
            found = mechanisms.cost(mechanism, bound=bound, adjacency=adjacency)
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
    assert fields == {"mechanism.noise_multiplier", "mechanism.sampling"}


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
    found = mechanisms.cost(mechanism, bound="certified", adjacency="replace_one")
    assert found.amount.mu_sq_pico > 0
    assert milliseconds(lambda: mechanisms.cost(mechanism, bound="certified", adjacency="replace_one").amount) < 50


def test_the_root_is_right_at_any_size(tries: Callable[[int, int], int]) -> None:
    """Goal: the double of mu is within an ulp of the root of mu². Method: random fractions of up to 600 digits, either
    way up, against integer roots; beyond the doubles it is infinity."""
    rng = random.Random(21)
    for _ in range(tries(3_000, 50_000)):
        square = Fraction(rng.randrange(1, 10 ** rng.randint(1, 600)), rng.randrange(1, 10 ** rng.randint(1, 600)))
        if not Fraction(1, 10**600) < square < 10**600:
            continue
        root = Fraction(math.isqrt(square.numerator * 10**1400 // square.denominator), 10**700)
        assert abs(Fraction(mechanisms.root(square)) - root) <= root * Fraction(2, 2**53)
    assert mechanisms.root(Fraction(10**700)) == math.inf
    assert mechanisms.root(Fraction(9, 4)) == 1.5

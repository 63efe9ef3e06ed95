"""`ledger.accounting.gdp` against 50 digits, against itself, and at its edges."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import mpmath as mp
import numpy as np
import pytest

from ledger.accounting import gdp
from tests.accounting import oracle
from tests.kit.trials import trials

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.accounting.numeric import FloatArray

U = gdp.UNIT_ROUNDOFF
LARGEST_BELOW_ONE = 1 - 2.0**-53


def random_targets(seed: int, count: int, *, mu_decades: tuple[float, float] = (-8, 3)) -> dict[str, FloatArray]:
    """mu, delta, at_delta: at_delta down to 1e-300, or usual, or anywhere below delta_mu(0); delta 0 half the time."""
    generator = np.random.default_rng(seed)
    mu = 10 ** generator.uniform(*mu_decades, count)
    highest = np.minimum(gdp.advantage(mu=mu, delta=0.0), LARGEST_BELOW_ONE)
    at_delta = np.choose(
        generator.integers(0, 4, count),
        [
            10 ** generator.uniform(-300, -0.001, count),
            10 ** generator.uniform(-20, -1, count),
            highest * generator.uniform(0, 1, count),
            highest * (1 - 10 ** generator.uniform(-12, 0, count)),
        ],
    )
    at_delta = np.maximum(at_delta, 1e-300)
    delta = np.where(generator.random(count) < 0.5, 0.0, at_delta * 10 ** generator.uniform(-8, -0.01, count))
    return {"mu": mu, "delta": delta, "at_delta": at_delta}


def epsilon_error_bound(*, epsilon: float, mu: float) -> float:
    """The bound that the docstring of `epsilon` states."""
    return gdp.EPSILON_ERROR_FACTOR * U * (epsilon + mu + mu * mu / 2)


def test_epsilon_and_compose_give_the_reference_values() -> None:
    """Goal: every (mu, delta, at_delta) -> epsilon of the reference file, to 1e-12. Method: read the file, all kinds.

    Compositions are composed from the members' reference values first.
    """
    seen = 0
    for name, case in oracle.REFERENCE.items():
        mu, delta = float(case["mu"]), float(case.get("delta0", 0))
        if case["kind"] == "composition":
            members = [(oracle.REFERENCE[member["id"]], member["count"]) for member in case["params"]["members"]]
            composed = gdp.compose(
                mu=np.repeat([float(one["mu"]) for one, _ in members], [count for _, count in members]),
                delta=np.repeat([float(one.get("delta0", 0)) for one, _ in members], [count for _, count in members]),
            )
            assert composed[0] == pytest.approx(mu, rel=1e-12, abs=0), name
            assert composed[1] == pytest.approx(delta, rel=1e-12, abs=0), name
        answers = [(mu, at_delta, epsilon) for at_delta, epsilon in case["eps_at_delta"].items()]
        if "eps_uniform" in case:
            answers.append((float(case["mu_uniform"]), "1e-5", case["eps_uniform"]))
        for mu_value, at_delta, epsilon in answers:
            nearest = gdp.epsilon(mu=mu_value, delta=delta, at_delta=float(at_delta))
            assert nearest == pytest.approx(float(epsilon), rel=1e-12, abs=0), (name, at_delta)
            seen += 1
    assert seen >= 90


def test_epsilon_is_within_its_bound_of_50_digits() -> None:
    """Goal: the error of `epsilon`, mu from 1e-8 to 1e3, at_delta from 1e-300 to 1. Method: bracketed roots.

    Everywhere the stated absolute bound; relative 1e-12 wherever epsilon is more than 0.02 of mu + mu^2/2.
    """
    targets = random_targets(20220101, trials(100, 20_000))
    nearest = gdp.epsilon(**targets)
    worst = worst_relative = 0.0
    for value, mu, delta, at_delta in zip(nearest, *targets.values(), strict=True):
        truth = oracle.epsilon(mu, delta, at_delta)
        error = float(abs(oracle.exact(value) - truth))
        worst = max(worst, error / epsilon_error_bound(epsilon=float(truth), mu=mu))
        if truth > 0.02 * (mu + mu * mu / 2):
            worst_relative = max(worst_relative, error / float(truth))
    print(f"epsilon: worst error {worst:.2f} of the bound; worst relative error {worst_relative:.1e}")
    assert worst < 1
    assert worst_relative < 1e-12


def test_epsilon_upper_is_never_below_the_true_value() -> None:
    """Goal: what is displayed is rounded up. Method: delta_mu at epsilon_upper, at 50 digits, is at most its target."""
    targets = random_targets(20220102, trials(300, 40_000))
    upper, nearest = gdp.epsilon_upper(**targets), gdp.epsilon(**targets)
    for value, mu, delta, at_delta in zip(upper, *targets.values(), strict=True):
        assert oracle.delta(oracle.exact(mu), oracle.exact(value)) <= oracle.room(delta, at_delta)
    assert np.all(upper >= nearest)
    assert np.all(upper - nearest <= 2 * gdp.EPSILON_ERROR_FACTOR * U * (nearest + targets["mu"] + targets["mu"] ** 2))


def test_epsilon_upper_stays_up_where_at_delta_is_an_ulp_from_the_edge() -> None:
    """Goal: sound where conditioning is worst. Method: at_delta a few ulps around the exact delta_mu(0)."""
    for mu in 10 ** np.random.default_rng(20220103).uniform(-8, 1.2, trials(15, 3_000)):
        at_zero = float(oracle.delta(oracle.exact(mu), mp.mpf(0)))
        for steps in range(-3, 4):
            at_delta = min(at_zero + steps * float(np.spacing(at_zero)), LARGEST_BELOW_ONE)
            upper = gdp.epsilon_upper(mu=mu, delta=0.0, at_delta=at_delta)
            assert oracle.delta(oracle.exact(mu), oracle.exact(upper)) <= oracle.exact(at_delta)
            # The absolute error is all that can be promised here, and it is still small.
            truth = oracle.epsilon(mu, 0.0, at_delta)
            assert float(abs(oracle.exact(upper) - truth)) <= 2 * epsilon_error_bound(epsilon=float(upper), mu=mu)


def test_epsilon_is_0_where_delta_holds_at_0_and_infinite_where_it_never_holds() -> None:
    """Goal: the two ends, the equality at mu = 0 among them. Method: the definition, case by case."""
    assert gdp.epsilon(mu=1e-4, delta=0.0, at_delta=1e-3) == 0
    assert gdp.epsilon_upper(mu=1e-4, delta=0.0, at_delta=1e-3) == 0
    assert gdp.epsilon(mu=0.0, delta=1e-6, at_delta=1e-6) == 0
    assert gdp.epsilon(mu=0.0, delta=0.0, at_delta=0.0) == 0
    assert gdp.epsilon_upper(mu=0.0, delta=0.0, at_delta=0.0) == 0
    assert gdp.epsilon(mu=0.0, delta=1e-5, at_delta=1e-6) == math.inf
    assert gdp.epsilon(mu=1.0, delta=1e-6, at_delta=1e-6) == math.inf
    assert gdp.epsilon(mu=1e-300, delta=0.0, at_delta=0.0) == math.inf
    assert gdp.epsilon(mu=math.inf, delta=0.0, at_delta=0.999) == math.inf
    assert gdp.epsilon_upper(mu=1.0, delta=1e-6, at_delta=1e-7) == math.inf


@pytest.mark.parametrize(
    ("mu", "at_delta"),
    [
        (1e-8, 1e-12),
        (1e-8, 1e-300),
        (1e-300, 1e-305),
        (38.0, 1e-5),
        (1000.0, 1e-300),
        (1400.0, 0.5),
        (1400.0, LARGEST_BELOW_ONE),
        (1e6, 1e-10),
        (30.0, 0.999999999),
        (1.0, 5e-324),
        (1e3, 5e-324),
    ],
)
def test_epsilon_at_the_ends_of_its_range(mu: float, at_delta: float) -> None:
    """Goal: epsilon from 1e-300 to 5e11, at_delta from the least double to the last below 1. Method: 50-digit roots."""
    assert (
        oracle.relative_error(gdp.epsilon(mu=mu, delta=0.0, at_delta=at_delta), oracle.epsilon(mu, 0.0, at_delta))
        < 1e-14
    )


def test_delta_is_right_for_every_real_epsilon() -> None:
    """Goal: the stated relative error of `delta`, both signs, into the far tail. Method: values at 50 digits.

    epsilon/mu runs to 38 + mu/2, where delta_mu is 1e-315; results below 1e-300 are left to the edge cases.
    """
    generator = np.random.default_rng(20220104)
    count = trials(600, 20_000)
    mu = 10 ** generator.uniform(-8, 3, count)
    epsilon = mu * np.maximum(generator.uniform(-8, 37, count) + mu / 2, 10 ** generator.uniform(-6, 0, count))
    epsilon *= np.where(generator.random(count) < 0.2, -1, 1)
    values = gdp.delta(mu=mu, epsilon=epsilon)
    worst = 0.0
    for value, one_mu, one_epsilon in zip(values, mu, epsilon, strict=True):
        truth = oracle.delta(oracle.exact(one_mu), oracle.exact(one_epsilon))
        if truth > 1e-300:
            centre = abs(one_epsilon) / one_mu
            bound = U * (32 + 16 * centre * (1 + abs(centre - one_mu / 2)))
            worst = max(worst, oracle.relative_error(value, truth) / bound)
    print(f"delta: worst error {worst:.2f} of the bound")
    assert worst < 1


def test_delta_at_its_limits() -> None:
    """Goal: mu = 0, infinite arguments, no overflow. Method: values known by hand."""
    assert gdp.delta(mu=0.0, epsilon=0.5) == 0
    assert gdp.delta(mu=0.0, epsilon=-1.0) == pytest.approx(-math.expm1(-1), rel=1e-15)
    assert gdp.delta(mu=1.0, epsilon=math.inf) == 0
    assert gdp.delta(mu=1.0, epsilon=-math.inf) == 1
    assert gdp.delta(mu=math.inf, epsilon=3.0) == 1
    assert gdp.delta(mu=1e3, epsilon=1e6) == 0
    assert gdp.delta(mu=1e3, epsilon=709.0) == 1
    assert gdp.delta(mu=1e-300, epsilon=1e300) == 0
    assert gdp.delta(mu=1e300, epsilon=1.0) == 1


def test_mu_for_epsilon_is_within_its_bound_of_50_digits() -> None:
    """Goal: the stated relative error of a budget's limit, epsilon from 0 to 1e6. Method: bracketed roots."""
    generator = np.random.default_rng(20220105)
    targets = random_targets(20220106, trials(60, 10_000), mu_decades=(-3, 3))
    count = targets["mu"].size
    epsilon = np.where(generator.random(count) < 0.05, 0.0, 10 ** generator.uniform(-8, 6, count))
    values = gdp.mu_for_epsilon(epsilon=epsilon, delta=targets["delta"], at_delta=targets["at_delta"])
    worst = 0.0
    for value, *arguments in zip(values, epsilon, targets["delta"], targets["at_delta"], strict=True):
        worst = max(worst, oracle.relative_error(value, oracle.mu_for_epsilon(*arguments)))
    print(f"mu_for_epsilon: worst relative error {worst / U:.1f} u")
    assert worst < gdp.MU_FOR_EPSILON_RELATIVE_ERROR < 1e-12


def test_mu_for_epsilon_less_its_error_is_never_above_the_true_value() -> None:
    """Goal: the stated error suffices for a limit. Method: delta_mu there, at 50 digits, is at most a target."""
    generator = np.random.default_rng(20220107)
    targets = random_targets(20220108, trials(300, 40_000))
    count = targets["mu"].size
    epsilon = np.where(generator.random(count) < 0.05, 0.0, 10 ** generator.uniform(-8, 6, count))
    nearest = gdp.mu_for_epsilon(epsilon=epsilon, delta=targets["delta"], at_delta=targets["at_delta"])
    lower = nearest * (1.0 - gdp.MU_FOR_EPSILON_RELATIVE_ERROR - 2 * U)
    for mu, one_epsilon, delta, at_delta in zip(lower, epsilon, targets["delta"], targets["at_delta"], strict=True):
        assert oracle.delta(oracle.exact(mu), oracle.exact(one_epsilon)) <= oracle.room(delta, at_delta)


def test_epsilon_and_mu_for_epsilon_are_inverse() -> None:
    """Goal: the two inverses agree, to what both promise. Method: there and back."""
    targets = random_targets(20220109, trials(5_000, 20_000))
    epsilon = gdp.epsilon(**targets)
    positive = epsilon > 0
    back = gdp.mu_for_epsilon(
        epsilon=epsilon[positive], delta=targets["delta"][positive], at_delta=targets["at_delta"][positive]
    )
    assert back == pytest.approx(targets["mu"][positive], rel=1e-13, abs=0)


def test_the_number_of_steps_is_small() -> None:
    """Goal: bounded work, and no element that falls back to bisection. Method: count evaluations through the jet."""
    evaluations: list[int] = []
    root = gdp._root

    def counting(jet: Callable[[Any], Any], **keywords: Any) -> Any:
        evaluations.append(0)

        def counted(x: Any) -> Any:
            evaluations[-1] += 1
            return jet(x)

        return root(counted, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gdp, "_root", counting)
        targets = random_targets(20220110, 20_000)
        gdp.epsilon(**targets)
        gdp.mu_for_epsilon(
            epsilon=10 ** np.random.default_rng(20220111).uniform(-9, 7, 20_000),
            delta=targets["delta"],
            at_delta=targets["at_delta"],
        )
    print(f"evaluations: {evaluations}")
    assert max(evaluations) <= 12


def test_vectorised_equals_scalar() -> None:
    """Goal: an element's result does not depend on its neighbours. Method: each function on arrays and one by one."""
    count = trials(80, 300)
    targets = random_targets(20220112, count)
    rates = np.random.default_rng(20220113).uniform(0, 1, count)
    calls: list[tuple[Callable[..., Any], dict[str, FloatArray]]] = [
        (gdp.epsilon, targets),
        (gdp.epsilon_upper, targets),
        (gdp.mu_for_epsilon, {"epsilon": targets["mu"], "delta": targets["delta"], "at_delta": targets["at_delta"]}),
        (gdp.delta, {"mu": targets["mu"], "epsilon": rates * targets["mu"]}),
        (gdp.trade_off, {"mu": targets["mu"], "delta": targets["delta"], "type_i_error": rates}),
        (gdp.true_positive_rate, {"mu": targets["mu"], "delta": targets["delta"], "false_positive_rate": rates}),
        (gdp.advantage, {"mu": targets["mu"], "delta": targets["delta"]}),
    ]
    for function, arguments in calls:
        together = function(**arguments)
        for index in range(count):
            alone = function(**{name: float(values[index]) for name, values in arguments.items()})
            assert isinstance(alone, np.float64)
            # Two kernels of one NumPy function, for one and for many, may differ in the last place.
            assert alone == pytest.approx(together[index], rel=4e-15, abs=1e-15 * float(targets["mu"][index]))


def test_shapes_broadcast() -> None:
    """Goal: NumPy's rules. Method: a column against a row, and an empty array."""
    mu, at_delta = np.array([[0.1], [1.0], [10.0]]), np.array([1e-10, 1e-5, 0.0, 0.9])
    result = gdp.epsilon(mu=mu, delta=0.0, at_delta=at_delta)
    assert result.shape == (3, 4)
    assert np.all(result[:, 2] == np.inf)
    assert gdp.mu_for_epsilon(epsilon=mu, delta=0.0, at_delta=at_delta[[0, 1, 3]]).shape == (3, 3)
    assert gdp.delta(mu=mu, epsilon=np.zeros(5)).shape == (3, 5)
    assert gdp.trade_off(mu=mu, delta=0.0, type_i_error=np.linspace(0, 1, 7)).shape == (3, 7)
    assert gdp.epsilon(mu=np.empty(0), delta=0.0, at_delta=1e-5).shape == (0,)


def test_trade_off_is_within_its_bound_of_50_digits() -> None:
    """Goal: the stated relative errors of `trade_off` and `true_positive_rate`. Method: the definition at 50 digits."""
    generator = np.random.default_rng(20220114)
    count = trials(150, 5_000)
    mu = 10 ** generator.uniform(-6, 1, count)
    delta = np.where(generator.random(count) < 0.5, 0.0, 10 ** generator.uniform(-12, -0.5, count))
    small = 10 ** generator.uniform(-200, -0.3, count)
    alpha = np.where(generator.random(count) < 0.3, (1 - delta) * (1 - 10 ** generator.uniform(-12, 0, count)), small)
    alpha = np.minimum(alpha, np.nextafter(1 - delta, 0))
    errors = gdp.trade_off(mu=mu, delta=delta, type_i_error=alpha)
    powers = gdp.true_positive_rate(mu=mu, delta=delta, false_positive_rate=alpha)
    worst = 0.0
    for error, power, one_mu, one_delta, one_alpha in zip(errors, powers, mu, delta, alpha, strict=True):
        type_ii_error, truth, quantile = oracle.trade_off(one_mu, one_delta, one_alpha)
        bound = U * (32 + 16 * (abs(quantile) + one_mu) ** 2)
        worst = max(
            worst, oracle.relative_error(error, type_ii_error) / bound, oracle.relative_error(power, truth) / bound
        )
    print(f"trade_off, true_positive_rate: worst error {worst:.2f} of the bound")
    assert worst < 1


@pytest.mark.parametrize("delta", [0.0, 1e-6, 0.3])
@pytest.mark.parametrize("mu", [0.0, 0.01, 1.0, 5.0])
def test_identities_of_the_trade_off_function(mu: float, delta: float) -> None:
    """Goal: it is one, and symmetric. Method: on a grid: convex, decreasing, below 1 - alpha, and its own inverse.

    Its largest 1 - alpha - f(alpha) is the advantage, reached at the fixed point; true_positive_rate is its complement.
    """
    alpha = np.linspace(0, 1, 4_001)
    errors = gdp.trade_off(mu=mu, delta=delta, type_i_error=alpha)
    assert errors[0] == pytest.approx(1 - delta, rel=1e-15)
    assert errors[-1] == 0
    assert np.all(np.diff(errors) <= 0)
    assert np.all(np.diff(errors, 2) >= -1e-15)
    assert np.all(errors <= 1 - alpha + 1e-15)
    inner = (errors > 1e-6) & (alpha > 0)
    assert gdp.trade_off(mu=mu, delta=delta, type_i_error=errors[inner]) == pytest.approx(alpha[inner], rel=1e-9)
    largest = np.max(1 - alpha - errors)
    advantage = gdp.advantage(mu=mu, delta=delta)
    assert largest <= advantage + 1e-15
    # On the grid the maximum is missed by at most half a step of a function of slope at most 2 near its top.
    assert largest == pytest.approx(advantage, abs=1e-5)
    best = (1 - advantage) / 2
    assert 1 - best - gdp.trade_off(mu=mu, delta=delta, type_i_error=best) == pytest.approx(advantage, abs=1e-15)
    powers = gdp.true_positive_rate(mu=mu, delta=delta, false_positive_rate=alpha)
    assert powers == pytest.approx(1 - errors, abs=1e-15)


@pytest.mark.parametrize("delta", [0.0, 1e-6, 0.3])
@pytest.mark.parametrize("mu", [0.01, 1.0, 5.0])
def test_delta_and_trade_off_are_dual(mu: float, delta: float) -> None:
    """Goal: the curve and the trade-off function are one object. Method: each is the envelope of the other.

    1 - delta(epsilon) is the least e^epsilon alpha + f(alpha), over a fine grid; and no line of the curve cuts f
    (Dong, Roth & Su 2022, Prop. 2.12).
    """
    alpha = np.concatenate([np.geomspace(1e-12, 1e-3, 20_000), np.linspace(1e-3, 1, 200_001)])
    errors = gdp.trade_off(mu=mu, delta=delta, type_i_error=alpha)
    for epsilon in (0.0, 0.3 * mu, mu, mu + mu * mu / 2, 4 * mu):
        curve = delta + (1 - delta) * gdp.delta(mu=mu, epsilon=epsilon)
        support = math.exp(epsilon) * alpha + errors
        assert np.all(support >= 1 - curve - 1e-14)
        assert np.min(support) == pytest.approx(1 - curve, abs=1e-8)


def test_advantage_keeps_its_digits() -> None:
    """Goal: the stated relative error for small mu too. Method: the definition at 50 digits."""
    for mu in 10 ** np.random.default_rng(20220115).uniform(-300, 2, 300):
        with mp.workdps(400):
            truth = 2 * oracle.normal_cdf(oracle.exact(mu) / 2) - 1
        assert oracle.relative_error(gdp.advantage(mu=mu, delta=0.0), truth) < 16 * U
    assert gdp.advantage(mu=0.0, delta=0.25) == 0.25
    assert gdp.advantage(mu=math.inf, delta=0.0) == 1


def test_compose_over_the_last_axis() -> None:
    """Goal: root of the sum of squares and 1 - prod(1 - delta), at any size. Method: values known by hand."""
    mu, delta = gdp.compose(mu=[3.0, 4.0], delta=[0.5, 0.5])
    assert (mu, delta) == (5.0, 0.75)
    assert gdp.compose(mu=[3e-300, 4e-300], delta=0.0)[0] == pytest.approx(5e-300, rel=1e-15)
    assert gdp.compose(mu=[3e300, 4e300], delta=0.0)[0] == pytest.approx(5e300, rel=1e-15)
    assert gdp.compose(mu=[1.0, math.inf], delta=0.0)[0] == math.inf
    assert gdp.compose(mu=[], delta=[]) == (0.0, 0.0)
    tiny = gdp.compose(mu=0.0, delta=np.full(1_000, 1e-20))[1]
    assert tiny == pytest.approx(1e-17, rel=1e-13)
    mu, delta = gdp.compose(mu=np.ones((2, 3, 4)), delta=np.full(4, 1e-6))
    assert np.shape(mu) == np.shape(delta) == (2, 3)
    assert np.all(mu == 2)


@pytest.mark.parametrize(
    ("function", "arguments", "wrong"),
    [
        (gdp.delta, {"mu": 1.0, "epsilon": 1.0}, {"mu": [-1e-9, math.nan], "epsilon": [math.nan]}),
        (
            gdp.epsilon,
            {"mu": 1.0, "delta": 0.0, "at_delta": 1e-5},
            {"mu": [-1.0, math.nan], "delta": [-1e-9, 1.0, math.nan], "at_delta": [-1e-9, 1.0, math.nan, "x", None]},
        ),
        (
            gdp.epsilon_upper,
            {"mu": 1.0, "delta": 0.0, "at_delta": 1e-5},
            {"mu": [-1.0, math.nan], "delta": [-1e-9, 1.0], "at_delta": [1.0, math.nan]},
        ),
        (
            gdp.mu_for_epsilon,
            {"epsilon": 1.0, "delta": 1e-6, "at_delta": 1e-5},
            {
                "epsilon": [-1.0, math.inf, math.nan],
                "delta": [-1e-9, 1.0],
                "at_delta": [0.0, 1e-6, 1e-7, 1.0, math.nan],
            },
        ),
        (
            gdp.trade_off,
            {"mu": 1.0, "delta": 0.0, "type_i_error": 0.1},
            {"mu": [-1.0], "delta": [1.0], "type_i_error": [-1e-9, 1.1, math.nan]},
        ),
        (
            gdp.true_positive_rate,
            {"mu": 1.0, "delta": 0.0, "false_positive_rate": 0.1},
            {"mu": [-1.0], "delta": [1.0], "false_positive_rate": [-1e-9, 1.1, math.nan]},
        ),
        (gdp.advantage, {"mu": 1.0, "delta": 0.0}, {"mu": [-1.0, 10**400], "delta": [1.0, math.nan]}),
        (gdp.compose, {"mu": [1.0], "delta": [0.0]}, {"mu": [[-1.0], [math.nan]], "delta": [[1.0]]}),
    ],
)
def test_bad_arguments_are_named(
    function: Callable[..., Any], arguments: dict[str, Any], wrong: dict[str, list[Any]]
) -> None:
    """Goal: a ValueError that names the argument. Method: one bad value at a time, alone and among good ones."""
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match=rf"\b{name} must be"):
                function(**{**arguments, name: value})
            if isinstance(value, float):
                with pytest.raises(ValueError, match=rf"\b{name} must be"):
                    function(**{**arguments, name: np.array([arguments[name], value], dtype=object)})


def test_compose_needs_an_axis() -> None:
    """Goal: two scalars are not a composition. Method: call it so."""
    with pytest.raises(ValueError, match="axis"):
        gdp.compose(mu=1.0, delta=0.0)

"""`ledger.accounting.closed_forms` against 50 digits, and against the trade-off functions they stand for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import mpmath as mp
import numpy as np
import pytest

from ledger.accounting import closed_forms, gdp
from tests.accounting import oracle

if TYPE_CHECKING:
    from collections.abc import Callable


def pure_dp_trade_off(epsilon: float, alpha: Any) -> Any:
    """f_{epsilon,0}."""
    return np.maximum(0.0, np.maximum(1 - math.exp(epsilon) * alpha, math.exp(-epsilon) * (1 - alpha)))


def laplace_trade_off(theta: float, alpha: Any) -> Any:
    """T(Lap(0, 1), Lap(theta, 1)), from the test that rejects above a threshold."""
    # Type I error e^-t/2 or 1 - e^t/2 at threshold t; type II error is the distribution function at t - theta.
    with np.errstate(divide="ignore"):
        threshold = np.where(alpha <= 0.5, -np.log(2 * alpha), np.log(2 * (1 - alpha)))
    shifted = threshold - theta
    return np.where(shifted <= 0, np.exp(np.minimum(shifted, 0)) / 2, 1 - np.exp(-np.maximum(shifted, 0)) / 2)


def test_the_reference_values() -> None:
    """Goal: mu of every pure_dp, laplace, eps_delta_blackbox and gaussian case, to 1e-12. Method: read the file."""
    seen = 0
    for name, case in oracle.REFERENCE.items():
        params, mu = case["params"], float(case["mu"])
        match case["kind"]:
            case "pure_dp" | "eps_delta_blackbox":
                value = closed_forms.mu_pure_dp(epsilon=float(params["epsilon"]))
            case "laplace":
                value = closed_forms.mu_laplace(theta=float(params["sensitivity"]) / float(params["scale"]))
                assert float(params["theta"]) == pytest.approx(float(params["sensitivity"]) / float(params["scale"]))
            case "gaussian":
                value = float(params["sensitivity"]) / float(params["sigma"])
            case _:
                continue
        assert value == pytest.approx(mu, rel=1e-12, abs=0), name
        seen += 1
    assert seen == 30


@pytest.mark.parametrize(
    ("function", "argument", "fixed_point", "decades"),
    [
        (closed_forms.mu_pure_dp, "epsilon", lambda epsilon: 1 / (1 + mp.exp(epsilon)), (-10, 6)),
        (closed_forms.mu_laplace, "theta", lambda theta: mp.exp(-theta / 2) / 2, (-10, 5)),
    ],
    ids=["pure_dp", "laplace"],
)
def test_the_error_is_within_its_bound(
    function: Callable[..., Any], argument: str, fixed_point: Callable[[Any], Any], decades: tuple[float, float]
) -> None:
    """Goal: the stated relative error over the whole range and at the crossover. Method: 2,000 bracketed roots."""
    generator = np.random.default_rng(20220301)
    count = 300 * oracle.PROOF
    points = np.concatenate([10 ** generator.uniform(*decades, count), generator.uniform(0.5, 3, count)])
    values = function(**{argument: points})
    worst = 0.0
    for value, point in zip(values, points, strict=True):
        truth = oracle.mu_at_fixed_point(lambda: fixed_point(oracle.exact(point)), value)  # noqa: B023
        worst = max(worst, oracle.relative_error(value, truth))
    print(f"{function.__name__}: worst relative error {worst / gdp.UNIT_ROUNDOFF:.1f} u")
    assert worst < closed_forms.RELATIVE_ERROR < 1e-12


@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 1.0, 5.0, 20.0])
def test_pure_dp_is_the_least_mu(epsilon: float) -> None:
    """Goal: G_mu lies under f_{epsilon,0} and touches it. Method: the whole curve on a grid, and the kink."""
    mu = closed_forms.mu_pure_dp(epsilon=epsilon)
    alpha = np.concatenate([np.geomspace(1e-15, 1e-3, 2_000), np.linspace(1e-3, 1, 20_001)])
    assert np.all(gdp.trade_off(mu=mu, delta=0.0, type_i_error=alpha) <= pure_dp_trade_off(epsilon, alpha) + 1e-15)
    kink = 1 / (1 + math.exp(epsilon))
    assert gdp.trade_off(mu=mu, delta=0.0, type_i_error=kink) == pytest.approx(kink, rel=1e-12)


@pytest.mark.parametrize("theta", [1e-3, 0.1, 1.0, 5.0, 20.0])
def test_laplace_is_the_least_mu(theta: float) -> None:
    """Goal: G_mu lies under the trade-off function of Laplace noise and touches it. Method: as for pure DP.

    And it is less than what pure DP with the same epsilon would be charged.
    """
    mu = closed_forms.mu_laplace(theta=theta)
    alpha = np.concatenate([np.geomspace(1e-15, 1e-3, 2_000), np.linspace(1e-3, 1, 20_001)])
    assert np.all(gdp.trade_off(mu=mu, delta=0.0, type_i_error=alpha) <= laplace_trade_off(theta, alpha) + 1e-15)
    fixed_point = math.exp(-theta / 2) / 2
    assert laplace_trade_off(theta, np.array(fixed_point)) == pytest.approx(fixed_point, rel=1e-12)
    assert gdp.trade_off(mu=mu, delta=0.0, type_i_error=fixed_point) == pytest.approx(fixed_point, rel=1e-12)
    assert mu < closed_forms.mu_pure_dp(epsilon=theta)


@pytest.mark.parametrize(
    ("function", "argument"), [(closed_forms.mu_pure_dp, "epsilon"), (closed_forms.mu_laplace, "theta")]
)
def test_shapes_ends_and_bad_arguments(function: Callable[..., Any], argument: str) -> None:
    """Goal: 0 at 0, no overflow at the largest double, shapes kept, bad values named. Method: call it so."""
    assert function(**{argument: 0.0}) == 0
    assert isinstance(function(**{argument: 1.0}), np.float64)
    assert math.isfinite(function(**{argument: 1.7e308}))
    values = np.array([[1e-10, 0.1, 1.0], [5.0, 700.0, 1e6]])
    result = function(**{argument: values})
    assert result.shape == (2, 3)
    assert np.all(np.diff(result.ravel()) > 0)
    for index in np.ndindex(2, 3):
        assert function(**{argument: float(values[index])}) == pytest.approx(result[index], rel=4e-15)
    for value in (-1e-9, math.inf, math.nan, "one"):
        with pytest.raises(ValueError, match=f"{argument} must be"):
            function(**{argument: value})

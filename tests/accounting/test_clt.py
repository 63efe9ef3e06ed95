"""`ledger.accounting.clt` against 50 digits, and the error bounds it states."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ledger.accounting import clt, gdp
from tests.accounting import oracle

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.accounting.numeric import FloatArray
    from ledger.core.datasets import Adjacency

LARGEST = np.finfo(np.float64).max
ADJACENCIES: tuple[Adjacency, ...] = ("add_or_remove_one", "replace_one")


def plan(params: dict[str, Any]) -> dict[str, float]:
    """Noise multiplier, sample rate and steps of a reference case; from N, batch size and epochs if it gives those."""
    noise_multiplier = float(params["noise_multiplier"])
    if "steps" in params:
        return {
            "noise_multiplier": noise_multiplier,
            "sample_rate": float(params["sample_rate"]),
            "steps": float(params["steps"]),
        }
    return {
        "noise_multiplier": noise_multiplier,
        "sample_rate": params["batch_size"] / params["N"],
        "steps": params["epochs"] * params["N"] / params["batch_size"],
    }


def test_the_reference_values() -> None:
    """Goal: mu, and epsilon through it, of every clt case of the reference file, to 1e-12. Method: read the file.

    The published numbers that stand beside some cases are met to the digits they were printed with.
    """
    functions: dict[str, Callable[..., Any]] = {"clt_poisson": clt.mu_poisson, "clt_uniform": clt.mu_fixed_size}
    seen = 0
    for name, case in oracle.REFERENCE.items():
        if case["kind"] not in functions:
            continue
        values = plan(case["params"])
        mu = functions[case["kind"]](**values)
        assert mu == pytest.approx(float(case["mu"]), rel=1e-12, abs=0), name
        for at_delta, epsilon in case["eps_at_delta"].items():
            assert gdp.epsilon(mu=mu, delta=0.0, at_delta=float(at_delta)) == pytest.approx(
                float(epsilon), rel=1e-12, abs=0
            ), name
        if "mu_uniform" in case:
            assert functions["clt_uniform"](**values) == pytest.approx(float(case["mu_uniform"]), rel=1e-12, abs=0), (
                name
            )
        seen += 1
    assert seen == 54


def poisson_bound(*, noise_multiplier: FloatArray, adjacency: Adjacency) -> FloatArray:
    """One bound serves both adjacencies."""
    del adjacency
    return clt.mu_poisson_relative_error(noise_multiplier=noise_multiplier)


@pytest.mark.parametrize("adjacency", ADJACENCIES)
@pytest.mark.parametrize(
    ("function", "bound", "truth"),
    [
        (clt.mu_poisson, poisson_bound, oracle.mu_poisson),
        (clt.mu_fixed_size, clt.mu_fixed_size_relative_error, oracle.mu_fixed_size),
    ],
    ids=["poisson", "fixed_size"],
)
def test_the_error_is_within_its_bound(
    function: Callable[..., Any], bound: Callable[..., Any], truth: Callable[..., Any], adjacency: Adjacency
) -> None:
    """Goal: the stated relative errors, s from 1e-3 to 1e12, and infinity only where it is due. Method: 3,000 values.

    A third each where s^-2 is large, of size 1, and small. In the last two the error is also below 1e-12 outright.
    """
    generator = np.random.default_rng(20220201)
    count = 300 * oracle.PROOF
    noise = 10 ** np.concatenate(
        [generator.uniform(-1.7, -0.5, count), generator.uniform(-0.5, 1, count), generator.uniform(1, 12, count)]
    )
    noise[:5] = [1e-3, 3e-3, 0.0275, 0.125, 0.25]
    rate, steps = 10 ** generator.uniform(-9, 0, 3 * count), 10 ** generator.uniform(0, 9, 3 * count)
    values = function(noise_multiplier=noise, sample_rate=rate, steps=steps, adjacency=adjacency)
    bounds = bound(noise_multiplier=noise, adjacency=adjacency)
    shares = np.zeros(3 * count)
    for index in range(3 * count):
        exact = truth(noise[index], rate[index], steps[index], replace_one=adjacency == "replace_one")
        if exact > LARGEST:
            assert values[index] == math.inf
        else:
            shares[index] = oracle.relative_error(values[index], exact) / bounds[index]
    print(f"{function.__name__}, {adjacency}: worst error {shares.max():.2f} of the bound")
    assert shares.max() < 1
    assert np.all(bounds[count:] < 1e-12)


def test_no_loss_where_the_originals_broke() -> None:
    """Goal: s = 1e8 is not 0 and s = 0.0375 not infinite. Method: limits known by hand: mu -> q sqrt(T)/s."""
    for adjacency, factor in zip(ADJACENCIES, (1.0, 2.0), strict=True):
        wide: dict[str, Any] = {"noise_multiplier": 1e8, "sample_rate": 0.02, "steps": 5e3, "adjacency": adjacency}
        assert clt.mu_poisson(**wide) == pytest.approx(factor * 0.02 * math.sqrt(5e3) / 1e8, rel=1e-15)
        assert clt.mu_fixed_size(**wide) == pytest.approx(factor * 0.02 * math.sqrt(5e3) / 1e8, rel=3e-8)
    assert clt.mu_poisson(noise_multiplier=1e200, sample_rate=1.0, steps=1.0) == pytest.approx(1e-200, rel=1e-15)
    assert math.isfinite(clt.mu_poisson(noise_multiplier=0.0375, sample_rate=0.01, steps=1e3))
    assert clt.mu_poisson(noise_multiplier=1e-3, sample_rate=0.01, steps=1e3) == math.inf
    assert clt.mu_poisson(noise_multiplier=1e-200, sample_rate=1e-9, steps=1.0) == math.inf


def test_replace_one_for_fixed_size_is_the_formula_at_half_the_noise() -> None:
    """Goal: the convention on the noise multiplier. Method: equality of the two calls."""
    noise = np.geomspace(0.1, 1e6, 50)
    assert np.all(
        clt.mu_fixed_size(noise_multiplier=noise, sample_rate=0.01, steps=100.0, adjacency="replace_one")
        == clt.mu_fixed_size(noise_multiplier=noise / 2, sample_rate=0.01, steps=100.0)
    )


def test_shapes_and_no_steps() -> None:
    """Goal: broadcasting, scalars out of scalars, and 0 for no steps whatever the noise. Method: call it so."""
    noise, steps = np.array([[1e-3], [0.5], [1e9]]), np.array([0.0, 1.0, 1e6, 1e7])
    for function in (clt.mu_poisson, clt.mu_fixed_size):
        result = function(noise_multiplier=noise, sample_rate=0.01, steps=steps)
        assert result.shape == (3, 4)
        assert np.all(result[:, 0] == 0)
        assert np.all(result[1:, 1:] > 0)
        assert isinstance(function(noise_multiplier=1.0, sample_rate=0.01, steps=10.5), np.float64)
        for i in range(3):
            alone = function(noise_multiplier=float(noise[i, 0]), sample_rate=0.01, steps=1e6)
            assert alone == pytest.approx(result[i, 2], rel=1e-15)
    assert clt.mu_poisson_relative_error(noise_multiplier=noise).shape == (3, 1)
    assert np.all(
        np.isfinite(clt.mu_fixed_size_relative_error(noise_multiplier=noise * 1e-200, adjacency="replace_one"))
    )


@pytest.mark.parametrize("function", [clt.mu_poisson, clt.mu_fixed_size])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("noise_multiplier", [0.0, -1.0, math.inf, math.nan]),
        ("sample_rate", [0.0, -0.1, 1.0001, math.nan]),
        ("steps", [-1.0, math.inf, math.nan]),
        ("adjacency", ["substitute_one", "", None]),
    ],
)
def test_bad_arguments_are_named(function: Callable[..., Any], name: str, values: list[Any]) -> None:
    """Goal: a ValueError that names the argument. Method: one bad value at a time."""
    good: dict[str, Any] = {"noise_multiplier": 1.0, "sample_rate": 0.1, "steps": 10.0}
    for value in values:
        with pytest.raises(ValueError, match=f"{name} must be"):
            function(**{**good, name: value})


def test_bad_arguments_of_the_bounds_are_named() -> None:
    """Goal: the same for the two error bounds. Method: one bad value at a time."""
    with pytest.raises(ValueError, match="noise_multiplier must be"):
        clt.mu_poisson_relative_error(noise_multiplier=0.0)
    with pytest.raises(ValueError, match="noise_multiplier must be"):
        clt.mu_fixed_size_relative_error(noise_multiplier=math.nan)
    unknown: Any = "both"
    with pytest.raises(ValueError, match="adjacency must be"):
        clt.mu_fixed_size_relative_error(noise_multiplier=1.0, adjacency=unknown)

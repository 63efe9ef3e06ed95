"""The central-limit estimate of DP-SGD's mu, with which published GDP numbers were computed. It is not a guarantee.

Source of the formulas: Bu, Dong, Long & Su, "Deep learning with Gaussian differential privacy", HDSR 2020, and their
accountant: noise multiplier s, sample rate q, T steps (T = epochs*N/B need not be whole). A limit theorem is no bound:
compared with rigorous bounds these numbers were usually too low, so every text that shows them calls them estimates.

With x = s^-2 every formula is q sqrt(T g(x)), and g(x)/e^x tends to a constant. Up to x = 64 g is evaluated in a form
without cancellation. Beyond, the constant equals g(x)/e^x to 27 digits, and e^(x/2) is multiplied in as two factors, so
that a result is infinite only if its value is larger than any double.

Error bounds are stated in u = 2^-53, for the doubles that were passed in. They presume exp, expm1, sinh and erf within
8 u (NumPy's own limit is 4 units in the last place; the worst in the tests is 3 u) and correctly rounded sqrt. x comes
out within 2 u, and log sqrt(g) moves by at most 0.6 (1 + x) times the relative change of x.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, cast

from ledger.accounting.gdp import UNIT_ROUNDOFF, checked
from ledger.accounting.numeric import FloatArray, Real, np, special

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.core.datasets import Adjacency

_EXPONENT_MAX: Final = 64.0
# Beyond this s^-2 mu is infinite for every q sqrt(T) that is a normal double, and needs no error bound.
_FINITE_EXPONENT_MAX: Final = 4096.0
# From this noise multiplier on g(x) = g'(0) x to rounding, and mu falls as 1/s; s^2 need never overflow.
_WIDE_NOISE: Final = 2.0**60
# 3 erf(p/3) - erf(p) = p^3 (k_1 + k_2 p^2 + ...): the Maclaurin series of erf, whose linear terms cancel.
_ERF_GAP_COEFFICIENTS: Final = tuple(
    2 / math.sqrt(math.pi) * (-1) ** (n + 1) * (1 - 9.0**-n) / (math.factorial(n) * (2 * n + 1)) for n in range(1, 19)
)


def _checked_noise_multiplier(value: Real | float) -> FloatArray:
    return checked(
        "noise_multiplier", value, domain="above 0, and finite", holds=lambda noise: (noise > 0) & np.isfinite(noise)
    )


def _is_replace_one(adjacency: Adjacency) -> bool:
    match adjacency:
        case "add_or_remove_one":
            return False
        case "replace_one":
            return True
        case _:
            raise ValueError(f"adjacency must be add_or_remove_one or replace_one, got {adjacency!r}")


def _central_limit_mu(
    *,
    noise_multiplier: FloatArray,
    sample_rate: Real | float,
    steps: Real | float,
    growth: Callable[[FloatArray], FloatArray],
    growth_limit: float,
) -> Any:
    """Return q sqrt(T g(s^-2)) with g = `growth` and `growth_limit` the limit of g(x)/e^x."""
    noise, rate, count = np.broadcast_arrays(
        noise_multiplier,
        checked("sample_rate", sample_rate, domain="above 0 and at most 1", holds=lambda q: (q > 0) & (q <= 1)),
        checked("steps", steps, domain="0 or more, and finite", holds=lambda t: (t >= 0) & np.isfinite(t)),
    )
    with np.errstate(all="ignore"):
        bounded = np.minimum(noise, _WIDE_NOISE)
        x = 1.0 / (bounded * bounded)
        scale = rate * np.sqrt(count)
        within = scale * np.sqrt(growth(np.minimum(x, _EXPONENT_MAX))) * (bounded / noise)
        half_factor = np.exp(np.where(x > _EXPONENT_MAX, x, 0.0) / 4)
        beyond = scale * math.sqrt(growth_limit) * half_factor * half_factor
        result: Any = np.where(count == 0, 0.0, np.where(x > _EXPONENT_MAX, beyond, within))
    return result[()]


def _relative_error(*, noise_multiplier: FloatArray, constant: float) -> Any:
    with np.errstate(all="ignore"):
        x = 1.0 / (noise_multiplier * noise_multiplier)
    return ((constant + 2 * np.minimum(x, _FINITE_EXPONENT_MAX)) * UNIT_ROUNDOFF)[()]


def _one_sided_growth(x: FloatArray) -> FloatArray:
    """Return the variance of the likelihood ratio of N(1, s^2) to N(0, s^2), x = s^-2."""
    # Bu, Dong, Long & Su 2020, section 3
    return np.expm1(x)


def _antipodal_growth(x: FloatArray) -> FloatArray:
    """Return the variance under N(0, s^2) of the likelihood ratio of N(1, s^2) less that of N(-1, s^2), x = s^-2."""
    # E r_1^2 = E r_-1^2 = e^x and E r_1 r_-1 = e^-x, so it is 2 e^x - 2 e^-x.
    return 4 * np.sinh(x)


def mu_poisson(
    *,
    noise_multiplier: Real | float,
    sample_rate: Real | float,
    steps: Real | float,
    adjacency: Adjacency = "add_or_remove_one",
) -> Real:
    """Return the central-limit mu of DP-SGD with Poisson sampling.

    q sqrt(T (e^(s^-2) - 1)) under add_or_remove_one, 2 q sqrt(T sinh(s^-2)) under replace_one. Shapes broadcast;
    noise_multiplier is over the clip norm, steps any real number. Infinite if the value is larger than any double.
    Relative error: `mu_poisson_relative_error`, for results that are normal doubles.
    Raises ValueError if noise_multiplier is not in (0, inf), sample_rate not in (0, 1], steps not in [0, inf), or the
    adjacency unknown.
    Source: Bu, Dong, Long & Su 2020, section 3; replace_one is the same limit for the antipodal pair, in which the unit
    moves the mean by +1 or by -1, each with probability q: our derivation, and an estimate too.
    """
    noise = _checked_noise_multiplier(noise_multiplier)
    growth, limit = (_antipodal_growth, 2.0) if _is_replace_one(adjacency) else (_one_sided_growth, 1.0)
    result: Any = _central_limit_mu(
        noise_multiplier=noise, sample_rate=sample_rate, steps=steps, growth=growth, growth_limit=limit
    )
    return cast("Real", result)


def mu_poisson_relative_error(*, noise_multiplier: Real | float) -> Real:
    """Return a bound on the relative error of `mu_poisson`, for either adjacency: (16 + 2 s^-2) u.

    With x = s^-2 <= 64: expm1 or sinh 8 u, halved by the root; the root 1 u; q sqrt(T) 2 u; products 2 u; x itself
    (1 + x) u: (10 + x) u in all. Beyond: two factors e^(x/4) 16 u, products 3 u, q sqrt(T) and a constant 3 u, x itself
    x u: (22 + x) u, which is less since x > 64. Shape of noise_multiplier.
    Raises ValueError if noise_multiplier is not in (0, inf).
    """
    return cast("Real", _relative_error(noise_multiplier=_checked_noise_multiplier(noise_multiplier), constant=16.0))


def _fixed_size_growth(x: FloatArray) -> FloatArray:
    """Return 2 (e^x Phi(1.5/s) + 3 Phi(-0.5/s) - 2), x = s^-2, without its cancellation.

    With p = 1.5/(s sqrt(2)) and Phi(z) = (1 + erf(z/sqrt(2)))/2 it is (e^x - 1)(1 + erf(p)) - (3 erf(p/3) - erf(p)).
    The last bracket is positive, of order p^3, and at most a ninth of what it is taken from.
    """
    p = np.sqrt(x * 1.125)
    near = np.minimum(p, 1.0)
    gap = np.zeros_like(p)
    for coefficient in reversed(_ERF_GAP_COEFFICIENTS):
        gap = gap * (near * near) + coefficient
    gap = np.where(p <= 1.0, gap * near**3, 3 * special.erf(p / 3) - special.erf(p))
    return np.expm1(x) * (1.0 + special.erf(p)) - gap


def mu_fixed_size(
    *,
    noise_multiplier: Real | float,
    sample_rate: Real | float,
    steps: Real | float,
    adjacency: Adjacency = "add_or_remove_one",
) -> Real:
    """Return the central-limit mu of DP-SGD with batches of fixed size, drawn uniformly.

    sqrt(2) q sqrt(T) sqrt(e^(s^-2) Phi(1.5/s) + 3 Phi(-0.5/s) - 2) presumes noise relative to the replacement
    sensitivity, which is twice the clip norm: with noise_multiplier over the clip norm, replace_one is the formula at
    s/2. For add_or_remove_one s is used unchanged: the published accountant's convention, with no proof.
    Shapes broadcast. Relative error: `mu_fixed_size_relative_error`, for results that are normal doubles.
    Raises ValueError if noise_multiplier is not in (0, inf), sample_rate not in (0, 1], steps not in [0, inf), or the
    adjacency unknown.
    Source: Dong, Roth & Su 2022, Cor. 5.4 (subsampled Gaussian); Bu, Dong, Long & Su 2020.
    """
    noise = _checked_noise_multiplier(noise_multiplier)
    # Dong, Roth & Su 2022, Cor. 5.4
    result: Any = _central_limit_mu(
        noise_multiplier=noise / 2 if _is_replace_one(adjacency) else noise,
        sample_rate=sample_rate,
        steps=steps,
        growth=_fixed_size_growth,
        growth_limit=2.0,
    )
    return cast("Real", result)


def mu_fixed_size_relative_error(*, noise_multiplier: Real | float, adjacency: Adjacency = "add_or_remove_one") -> Real:
    """Return a bound on the relative error of `mu_fixed_size`: (24 + 2 s^-2) u, with s/2 for s under replace_one.

    With x = s^-2 <= 64: g is A - K with A < 1.15 g; A = (e^x - 1)(1 + erf(p)) has 8 + 6.5 + 1 u, K adds at most 10 u
    of g, the difference 1 u: 29 u, halved by the root, whose own is 1 u; q sqrt(T) 2 u; products 2 u; x itself
    1.15 (1 + x) u: (22 + 1.15 x) u in all. Beyond as for Poisson sampling: (22 + x) u. Shape of noise_multiplier.
    Raises ValueError if noise_multiplier is not in (0, inf), or the adjacency unknown.
    """
    noise = _checked_noise_multiplier(noise_multiplier)
    return cast(
        "Real", _relative_error(noise_multiplier=noise / 2 if _is_replace_one(adjacency) else noise, constant=24.0)
    )

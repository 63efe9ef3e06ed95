"""The exact mu of mechanisms whose trade-off function touches a Gaussian one at the fixed point.

For a symmetric trade-off function f with fixed point f(p) = p, G_mu passes through that point for mu = -2 Phi^-1(p).
From the total variation z = 1 - 2 p, mu = 2 sqrt(2) erf^-1(z), which keeps its digits if z is small. From log p, mu is
the root of log Phi(-mu/2) = log p, which keeps its digits if p is small. Errors are stated in u = 2^-53.
"""

from __future__ import annotations

import math
from typing import Any, Final

from ledger.accounting.gdp import UNIT_ROUNDOFF, checked
from ledger.accounting.numeric import FloatArray, Real, np, special

# For both functions, with tanh, expm1, erf^-1, erfcx, log, log1p and exp within 8 u each. Up to z = 1/2: tanh or expm1
# 8 u, from which mu moves by less than 1.2 times that, erf^-1 8 u, products 4 u. Beyond: log p 10 u and log Phi(-mu/2)
# 16 u, from which mu moves by less than 0.9 times those (in the tail, half), and 4 u for the last step.
RELATIVE_ERROR: Final = 32 * UNIT_ROUNDOFF

_SQRT_HALF: Final = math.sqrt(0.5)
_SQRT_HALF_PI: Final = math.sqrt(math.pi / 2)
_LOG_SQRT_TWO_PI: Final = math.log(2 * math.pi) / 2


def _mu_at_fixed_point(*, total_variation: FloatArray, log_fixed_point: FloatArray) -> Any:
    """Return -2 Phi^-1(p), from z = 1 - 2 p or from log p, whichever keeps the digits."""
    near = 2 * math.sqrt(2) * special.erfinv(np.minimum(total_variation, 0.5))
    # Newton on log Phi(-x) = log p, x = mu/2, from SciPy's inverse, whose error is about 1e-12; the derivative of
    # log Phi(-x) is -1/R(x) with Mills' ratio R.
    log_p = np.minimum(log_fixed_point, math.log(0.25))
    half: Any = -special.ndtri_exp(log_p)  # which SciPy's stubs call float32 with some versions of NumPy
    mills = _SQRT_HALF_PI * special.erfcx(half * _SQRT_HALF)
    half = half + mills * (np.log(mills) - half * (half / 2) - _LOG_SQRT_TWO_PI - log_p)
    return np.where(total_variation <= 0.5, near, 2 * half)[()]


def mu_pure_dp(*, epsilon: Real | float) -> Real:
    """Return the least mu for which every epsilon-DP mechanism is mu-GDP: -2 Phi^-1(1/(1 + e^epsilon)).

    Shape of epsilon; relative error below RELATIVE_ERROR, for epsilon from 1e-300 up.
    Raises ValueError if epsilon is below 0, infinite or NaN.
    Source: f_{epsilon,0}(alpha) = max(0, 1 - e^epsilon alpha, e^-epsilon (1 - alpha)) (Wasserman & Zhou 2010; Dong,
    Roth & Su 2022, Prop. 2.5) has its kink at its fixed point p = 1/(1 + e^epsilon); G_mu through that point is convex,
    so it lies under the two chords from there to (0, 1) and (1, 0), which are f_{epsilon,0}.
    """
    value = checked("epsilon", epsilon, domain="0 or more, and finite", holds=lambda e: (e >= 0) & np.isfinite(e))
    with np.errstate(all="ignore"):
        # 1 - 2p = tanh(epsilon/2) and -log p = epsilon + log1p(e^-epsilon)
        result: Real = _mu_at_fixed_point(
            total_variation=np.tanh(value / 2), log_fixed_point=-(value + np.log1p(np.exp(-value)))
        )
    return result


def mu_laplace(*, theta: Real | float) -> Real:
    """Return the least mu for which the Laplace mechanism is mu-GDP: -2 Phi^-1(e^(-theta/2)/2).

    theta: sensitivity over scale, without unit. Shape of theta; relative error below RELATIVE_ERROR, for theta from
    1e-300 up.
    Raises ValueError if theta is below 0, infinite or NaN.
    Source: by Neyman and Pearson the trade-off function of Laplace noise is 1 - e^theta alpha up to e^-theta/2, then
    e^-theta/(4 alpha) to 1/2, then e^-theta (1 - alpha); its fixed point is p = e^(-theta/2)/2. That no larger mu is
    needed elsewhere follows from the log-concavity of Phi: our derivation, checked in the tests along the whole curve.
    """
    value = checked("theta", theta, domain="0 or more, and finite", holds=lambda t: (t >= 0) & np.isfinite(t))
    with np.errstate(all="ignore"):
        # 1 - 2p = -expm1(-theta/2) and -log p = theta/2 + log 2
        result: Real = _mu_at_fixed_point(
            total_variation=-np.expm1(-value / 2), log_fixed_point=-(value / 2 + math.log(2))
        )
    return result

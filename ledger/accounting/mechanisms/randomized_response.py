"""k-ary randomized response: each unit answers its own category with one probability, and each other one with another.

With q = 1/(e^epsilon + k - 1) these are p = e^epsilon q and q (Warner 1965 for k = 2; Kairouz, Oh & Viswanath,
*Extremal mechanisms for local differential privacy*, JMLR 17, 2016). Let P be the answer of a unit whose category is x,
and Q that of one whose is x'. They differ in these two answers alone: the loss is epsilon with mass p, 0 with mass
(k - 2) q, and -epsilon with mass q under P. It is the same for all x and x', and in the reversed order.

*The least mu.* By Neyman and Pearson the trade-off function f of P and Q is the polygon through (0, 1), (q, 1 - p),
(1 - p, q) and (1, 0). G_mu is convex (Dong, Roth & Su 2022), so that it lies below f where it does so at these corners.
At the first and the last it does for every mu. At the second, G_mu(q) = Phi(-Phi^-1(q) - mu) <= 1 - p requires

    mu >= Phi^-1(p) - Phi^-1(q),

and so does the third, since f and G_mu are their own inverses. For k = 2 every epsilon-DP mechanism needs this mu; for
more categories it is less, with k = 10 and epsilon = 1 about half.

*Computed.* With h = -Phi^-1(q) >= 0 and Mills' ratio R(h) = q/phi(h), Phi(mu - h) = p means for small epsilon

    integral from 0 to mu of exp(h t - t^2/2) dt = (e^epsilon - 1) R(h),

in which nothing cancels: mu <= 2 h, so that the integrand is 1 or more. For larger epsilon the difference itself is
taken, in which h <= 5 loses little. Errors are stated in u = 2^-53. log q has a relative error of u, so that a Newton
step from SciPy's inverse gives h within (4 + h/2) u, and the difference within about 20 u, absolutely; mu is at least
1/10 from epsilon = 1/2 up. In the integral, h counts with less than 1. The worst error seen is 55 u.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from ledger.accounting import amounts, certify
from ledger.accounting.cost import NOISE, RUN, Cost, Precision
from ledger.accounting.mechanisms.base import Releases
from ledger.accounting.numbers import Count, Positive
from ledger.accounting.numeric import FloatArray, np, special
from ledger.accounting.pairs import Parts, atoms_on_grid, spread_on_grid
from ledger.accounting.pld import Losses
from ledger.accounting.terms import Terms

CATEGORIES_MAX: Final = 1_000_000
RELATIVE_ERROR: Final = 2.0**-44
"""The bound on the relative error of `least_mu`: 512 u."""

_SMALL: Final = 0.5
_STEPS: Final = 8
_ANSWERS: Final = (
    "every answer is the unit's own category with probability e^epsilon/(e^epsilon + categories - 1), and each other "
    "one with equal probability, drawn anew"
)
_REMOVED: Final = "who answers is public: the answer of a unit that is removed is given as of some other category"
_EMPTY: Final = "who answers is public: a unit without data answers too, as of one of the categories"


class RandomizedResponse(Releases):
    """k-ary randomized response on `categories` categories, `count` times for each unit."""

    methods: ClassVar = {"randomized-response": Precision.CLOSED_FORM}
    solvable: ClassVar = ("count", "epsilon")

    type: Literal["randomized_response"]
    epsilon: Positive
    categories: Annotated[int, Field(strict=True, ge=2, le=CATEGORIES_MAX)]
    count: Count = 1

    def cost(self, terms: Terms, *, path: str) -> Cost:
        once = least_mu(epsilon=certify.at_least(Fraction(self.epsilon)), categories=self.categories)
        mu_sq = self.count * amounts.outward(once, RELATIVE_ERROR) ** 2
        mu = once * math.sqrt(self.count)
        # Both neighbours have an answer of the unit, so that P and Q are two rows of the table, whichever they are.
        absent = _EMPTY if terms.adjacency == "zero_out" else _REMOVED
        return Cost(mu, mu_sq, Fraction(0), "randomized-response", (*RUN, *NOISE, _ANSWERS, absent))

    def exact_parts(self, terms: Terms) -> Parts:
        answer = Answer(certify.at_least(Fraction(self.epsilon)), self.categories)
        return Parts(sources=Counter({answer: self.count}))


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, as a source of an exact composition."""

    epsilon: float
    categories: int

    @property
    def is_one_sided(self) -> bool:
        return False

    def on_grid(self, width: float, share: float) -> Losses:
        kept = 1 / (1 + (self.categories - 1) * math.exp(-self.epsilon))
        other = kept * math.exp(-self.epsilon)
        atoms = [(self.epsilon, kept), (0.0, (self.categories - 2) * other), (-self.epsilon, other)]
        return atoms_on_grid(atoms, width)

    @property
    def mu(self) -> float:
        return least_mu(epsilon=self.epsilon, categories=self.categories) * (1 + 2 * RELATIVE_ERROR)

    def spread(self, share: float) -> tuple[float, float]:
        return spread_on_grid(self, self.epsilon)


def least_mu(*, epsilon: float, categories: int) -> float:
    """Return the least mu for which one answer is mu-GDP; relative error below RELATIVE_ERROR.

    Source: this module's docstring; our derivation.
    """
    others = math.log(categories - 1)
    log_other = -float(np.logaddexp(epsilon, others))
    h = _tail_point(log_other)
    if epsilon < _SMALL:
        return _solved(h, math.expm1(epsilon) * _mills(h))
    log_kept = -float(np.logaddexp(0.0, others - epsilon))
    # From the tail that keeps the digits.
    kept = -_tail_point(log_kept) if log_kept < math.log(0.5) else _tail_point(others + log_other)
    return h + kept


def _tail_point(log_tail: float) -> float:
    """Return h with log Phi(-h) = log_tail, for tails of at most 1/2."""
    h = -float(special.ndtri_exp(log_tail))
    mills = _mills(h)
    return h + mills * (math.log(mills) - h * (h / 2) - math.log(2 * math.pi) / 2 - log_tail)


def _mills(h: float) -> float:
    return math.sqrt(math.pi / 2) * float(special.erfcx(h * math.sqrt(0.5)))


@functools.cache
def _quadrature() -> tuple[FloatArray, FloatArray]:
    """Return nodes and weights of a Gauss-Legendre rule on [0, 1]."""
    nodes, weights = special.roots_legendre(10)
    return (nodes + 1) / 2, weights / 2


def _solved(h: float, area: float) -> float:
    """Return mu with the integral of exp(h t - t^2/2) from 0 to mu equal to this area, which is at least mu."""
    mu = area
    nodes, weights = _quadrature()
    for _ in range(_STEPS):
        t: Any = mu * nodes
        integral = mu * float(weights @ np.exp(t * (h - t / 2)))
        mu -= (integral - area) * math.exp(-mu * (h - mu / 2))
    return mu

"""What a mechanism costs: an approximate GDP pair (mu, delta), carried as mu² and -log(1 - delta).

`cost` is the way from what was declared to a `Cost`. `bound` chooses between a guarantee (`certified`) and the
central-limit estimate of DP-SGD (`clt`). In the two coordinates composition is addition (Dong, Roth & Su 2022,
Cor. 3.3, and Thm. 3.2 for f_{0,delta}).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, assert_never

from ledger.accounting import amounts, certify, closed_forms, clt, strategies, zcdp
from ledger.accounting.mechanisms import (
    AnyMechanism,
    ApproximateDp,
    Composed,
    DpSgd,
    Gaussian,
    Gdp,
    Laplace,
    MatrixFactorization,
    PureDp,
    ZCdp,
    resized,
    segment_steps,
    unsupported,
)
from ledger.accounting.pld import Pair
from ledger.core.amounts import Amount
from ledger.core.datasets import Adjacency, Bound
from ledger.errors import InvalidMechanism, TooLarge

MU_MAX: Final = 3000
"""Beyond it mu² · 10¹² does not fit a signed 64-bit integer, and no budget comes near it."""

_ROUNDING: Final = 2.0**-53


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a run.

    mu: the double before rounding, for display.
    mu_sq, nats: upper bounds of mu² and -log(1 - delta); exact where they are rational in what was declared.
    method: which path gave the cost. assumptions: what has to hold for it, in words.
    """

    mu: float
    mu_sq: Fraction
    nats: Fraction
    method: str
    assumptions: tuple[str, ...]

    @property
    def delta(self) -> float:
        # Beyond 1000 nats delta is 1 in doubles, and the fraction may be too large for one.
        return abs(math.expm1(-float(min(self.nats, Fraction(1000)))))

    @property
    def amount(self) -> Amount:
        """In integers, rounded up. Where `is_holdable` is false it is true all the same, but past 64 bits."""
        return amounts.charge(mu_sq=self.mu_sq, nats=self.nats)

    @property
    def is_holdable(self) -> bool:
        return self.mu_sq <= MU_MAX**2 and self.amount.fits_int64


# --- costs -----------------------------------------------------------------------------------------------------------

_RUN: Final = ("the mechanism is applied to, and clipped by, the dataset's privacy unit",)
_NOISE: Final = (
    "noise is drawn from a secure generator with secret seeds, and counted as real arithmetic",
    "one receipt covers one execution; every step executed counts, repeated ones included",
)
_SGD: Final = (
    *_RUN,
    "noise_multiplier is the noise's standard deviation on the sum of clipped gradients, over the clip norm",
    "noise is added once per logical step; the divisor is a fixed public number, never the realised batch size",
    *_NOISE,
)
_FALLBACK: Final = "no amplification by sampling is claimed: each step counts as one release without sampling"
_RESTARTED: Final = (
    "each segment restarts with fresh randomness, noise and sampling alike, and shares none with another"
)
_ESTIMATE: Final = "an estimate by the central limit theorem, not a guarantee: the true cost can be higher"


def needs_certificate(mechanism: AnyMechanism, *, bound: Bound) -> bool:
    """Whether its cost is a certificate: dear to compute, and most of them dependent on the run's share of delta."""
    match mechanism:
        case DpSgd():
            return bound == "certified" and mechanism.sampling != "shuffle"
        case MatrixFactorization():
            return mechanism.strategy == "sqrt"
        case Composed():
            return any(needs_certificate(part, bound=bound) for part in mechanism.parts)
        case _:
            return False


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a cost is asked under. delta: what a certificate may spend of the run's share."""

    bound: Bound
    adjacency: Adjacency
    delta: Fraction


def cost(
    mechanism: AnyMechanism,
    *,
    bound: Bound,
    adjacency: Adjacency,
    delta: Fraction | Decimal = Fraction(0),
    segments: int = 1,
) -> Cost:
    """The cost of a mechanism under a dataset's bound and adjacency.

    delta: the run's share of the delta budget, at least 0 and below 1; only a certificate makes use of it.
    segments: where more than 1, what is costed are so many runs of a part of the steps each, see `segment_steps`.
    Raises InvalidMechanism where no cost is known, or where it is beyond what a double can hold, and InvalidRequest
    where the mechanism cannot be divided into so many segments.
    """
    # A clt run charges no delta of its own, so that what is certified there too has to do without.
    share = Fraction(delta) if bound == "certified" else Fraction(0)
    if segments == 1:
        return _cost(mechanism, _Terms(bound, adjacency, share), path="mechanism")
    segment = resized(mechanism, segment_steps(mechanism, segments))
    # -log(1 - x) is convex and 0 at 0, so that k of -log(1 - delta/k) are at most one of -log(1 - delta).
    return _restarted(_cost(segment, _Terms(bound, adjacency, share / segments), path="mechanism"), segments)


def _restarted(segment: Cost, count: int) -> Cost:
    """So many of it, each with fresh randomness, so that they compose: mu² and nats add up (Dong, Roth & Su 2022)."""
    mu_sq = count * segment.mu_sq
    mu = root(mu_sq)
    if not math.isfinite(mu):
        raise InvalidMechanism("mechanism: its segments' cost together is beyond any number", field="mechanism")
    return Cost(mu, mu_sq, count * segment.nats, segment.method, (*segment.assumptions, _RESTARTED))


def _cost(mechanism: AnyMechanism, terms: _Terms, *, path: str) -> Cost:
    match mechanism:
        case DpSgd():
            return _dpsgd(mechanism, terms, path=path)
        case Gaussian():
            # N(0, s²) against N(1, s²) is G_{1/s} (Dong, Roth & Su 2022, Thm. 2.7); n of them compose to sqrt(n)/s.
            return _rational(mechanism.count / Fraction(mechanism.noise_multiplier) ** 2, "gaussian", (*_RUN, *_NOISE))
        case Laplace():
            theta = 1 / Fraction(mechanism.noise_multiplier)
            return _repeated(closed_forms.mu_laplace, "theta", theta, mechanism.count, "laplace-fixed-point")
        case PureDp():
            epsilon = Fraction(mechanism.epsilon)
            return _repeated(closed_forms.mu_pure_dp, "epsilon", epsilon, mechanism.count, "pure-dp-fixed-point")
        case ApproximateDp():
            epsilon = Fraction(mechanism.epsilon)
            pure = _repeated(closed_forms.mu_pure_dp, "epsilon", epsilon, mechanism.count, "approximate-dp")
            # f_{eps,delta} = f_{0,delta} (x) f_{eps,0} (Dong, Roth & Su 2022, Prop. 2.5 and sec. 3).
            return replace(pure, nats=mechanism.count * amounts.nats(Fraction(mechanism.delta), towards="up"))
        case ZCdp():
            return _zcdp(mechanism, path=path)
        case Gdp():
            proved = (*_RUN, "the stated (mu, delta) was proved elsewhere, as the evidence says")
            found = _rational(Fraction(mechanism.mu) ** 2, "stated", proved)
            return replace(found, nats=amounts.nats(Fraction(mechanism.delta), towards="up"))
        case MatrixFactorization():
            return _matrix_factorization(mechanism, terms.adjacency, path=path)
        case Composed():
            return _composed(mechanism, terms, path=path)
        case _:
            assert_never(mechanism)


def _dpsgd(mechanism: DpSgd, terms: _Terms, *, path: str) -> Cost:
    if mechanism.sampling == "shuffle":
        return _shuffle(mechanism, terms.adjacency)
    if terms.bound == "certified":
        return _certified([(path, mechanism)], terms)
    return _estimated(mechanism, terms.adjacency, path=path)


def _sampled(mechanism: DpSgd, adjacency: Adjacency) -> str:
    if mechanism.sampling == "poisson":
        return "each unit is in a batch independently with probability sample_rate; no cap on the batch size"
    if adjacency == "replace_one":
        return (
            "batches of a fixed size are drawn uniformly without replacement, anew at each step; replacing a unit "
            "moves the sum of clipped gradients by up to 2C"
        )
    return (
        "batches of a fixed size are drawn uniformly without replacement; noise_multiplier is used as it stands, the "
        "published convention for add_or_remove_one"
    )


def _estimated(mechanism: DpSgd, adjacency: Adjacency, *, path: str) -> Cost:
    s, q, steps = float(mechanism.noise_multiplier), float(mechanism.rate), float(mechanism.exact_steps)
    # Reading s, q and T as doubles moves mu by less than (1.06 + 4/s²) + 1 + 1/2 units of 2^-53: d ln mu / d ln s is
    # above -(1.06 + s^-2), for fixed size under replace_one, which takes s/2 for s, above -(1.06 + 4/s²).
    reading = (3 + 4 / s**2) * _ROUNDING
    if mechanism.sampling == "poisson":
        mu = float(clt.mu_poisson(noise_multiplier=s, sample_rate=q, steps=steps, adjacency=adjacency))
        error = float(clt.mu_poisson_relative_error(noise_multiplier=s))
        method = "clt-poisson"
    else:
        mu = float(clt.mu_fixed_size(noise_multiplier=s, sample_rate=q, steps=steps, adjacency=adjacency))
        error = float(clt.mu_fixed_size_relative_error(noise_multiplier=s, adjacency=adjacency))
        method = "clt-fixed-size"
    if not math.isfinite(mu):
        field = f"{path}.noise_multiplier"
        raise InvalidMechanism(f"{field}: the cost is beyond any number; there is too little noise", field=field)
    mu_sq = amounts.outward(mu, error + reading) ** 2
    return Cost(mu, mu_sq, Fraction(0), method, (_ESTIMATE, *_SGD, _sampled(mechanism, adjacency)))


# --- certificates ----------------------------------------------------------------------------------------------------


def _pair(mechanism: DpSgd, adjacency: Adjacency, *, path: str) -> Pair | None:
    """The dominating pair of one step, read so that it costs no less; None where sampling hides nothing."""
    if mechanism.sampling == "fixed_size" and adjacency == "add_or_remove_one":
        raise unsupported(
            "no certified cost is known of fixed_size sampling under add_or_remove_one; declare poisson or shuffle "
            "sampling, or register the dataset with adjacency replace_one",
            field=f"{path}.sampling",
        )
    noise = certify.at_most(Fraction(mechanism.noise_multiplier))
    rate = certify.at_least(mechanism.rate)
    if rate >= 1 or noise < certify.NOISE_MULTIPLIER_MIN:
        return None
    sampling: certify.Sampling = "poisson" if mechanism.sampling == "poisson" else "fixed_size"
    return certify.pair_for(noise_multiplier=noise, sample_rate=rate, adjacency=adjacency, sampling=sampling)


def fallback(mechanism: DpSgd, *, adjacency: Adjacency) -> Cost:
    """DP-SGD with no use made of its sampling. It is exact, and additive by step: each is a release of its own."""
    return _fallback([("mechanism", mechanism)], adjacency)


def _fallback(runs: Sequence[tuple[str, DpSgd]], adjacency: Adjacency) -> Cost:
    # Without sampling a step is one Gaussian release, by joint convexity; replacing a unit moves the sum by up to 2C.
    factor = 4 if adjacency == "replace_one" else 1
    plain = sum((factor * _steps(run) / Fraction(run.noise_multiplier) ** 2 for _, run in runs), Fraction(0))
    return _rational(plain, "fallback", (*_said(runs, adjacency), _FALLBACK))


def _said(runs: Sequence[tuple[str, DpSgd]], adjacency: Adjacency) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*_SGD, *(_sampled(run, adjacency) for _, run in runs))))


def _certified(runs: Sequence[tuple[str, DpSgd]], terms: _Terms) -> Cost:
    """The certificate of several DP-SGD parts together, each with its path, or the fallback where that is less."""
    pairs = [_pair(run, terms.adjacency, path=path) for path, run in runs]
    plain = _fallback(runs, terms.adjacency)
    share = certify.at_most(terms.delta)
    counts: dict[Pair, int] = {}
    for (_, run), pair in zip(runs, pairs, strict=True):
        if pair is None or share < certify.DELTA_MIN:
            return plain
        counts[pair] = counts.get(pair, 0) + _steps(run)
    mu = certify.curve([certify.Steps(pair, count) for pair, count in counts.items()], delta_min=share).mu(share)
    if not math.isfinite(mu) or Fraction(mu) ** 2 >= plain.mu_sq:
        return plain
    method = "pld-" + "-".join(dict.fromkeys(run.sampling.replace("_", "-") for _, run in runs))
    return Cost(mu, Fraction(mu) ** 2, amounts.nats(terms.delta, towards="up"), method, _said(runs, terms.adjacency))


def _steps(mechanism: DpSgd) -> int:
    return math.ceil(mechanism.exact_steps)


def frontier(mechanism: AnyMechanism, *, bound: Bound, adjacency: Adjacency) -> list[tuple[float, float]]:
    """(delta, mu) for shares of delta from 1e-4 down to 1e-15: what a run could choose. Empty without a certificate.

    Raises as `cost` does.
    """
    if bound != "certified" or not needs_certificate(mechanism, bound=bound):
        return []
    deltas = [Fraction(1, 10**exponent) for exponent in range(4, 16)]
    if isinstance(mechanism, MatrixFactorization):
        return []
    if isinstance(mechanism, DpSgd):
        pair = _pair(mechanism, adjacency, path="mechanism")
        if pair is not None and _steps(mechanism) > 1:
            curve = certify.curve([certify.Steps(pair, _steps(mechanism))], delta_min=float(deltas[-1]))
            plain = cost(mechanism, bound=bound, adjacency=adjacency).mu
            return [(float(delta), min(curve.mu(float(delta)), plain)) for delta in deltas]
    return [(float(delta), cost(mechanism, bound=bound, adjacency=adjacency, delta=delta).mu) for delta in deltas]


def _zcdp(mechanism: ZCdp, *, path: str) -> Cost:
    rho = certify.at_least(Fraction(mechanism.rho))
    if rho > zcdp.RHO_RANGE[1]:
        field = f"{path}.rho"
        raise InvalidMechanism(f"{field}: is certified up to {zcdp.RHO_RANGE[1]:g}", field=field)
    # A share of delta that a budget could spare would lower mu by less than a thousandth.
    mu = zcdp.mu_zcdp(rho=rho, delta=0.0)
    said = (*_RUN, *_NOISE, "the mechanism satisfies rho-zCDP under the dataset's adjacency, in both directions")
    return Cost(mu, Fraction(mu) ** 2, Fraction(0), "zcdp-renyi", said)


def _matrix_factorization(mechanism: MatrixFactorization, adjacency: Adjacency, *, path: str) -> Cost:
    # The noise is Gaussian and the strategy lower triangular, so that choosing gradients by earlier outputs costs
    # nothing more (Denisov et al. 2022, Thm. 2.1; Choquette-Choo et al. 2023 for several participations).
    factor = 4 if adjacency == "replace_one" else 1
    if mechanism.sensitivity is not None:
        squared = Fraction(mechanism.sensitivity) ** 2
        said: tuple[str, ...] = ("the stated sensitivity was proved elsewhere, as the evidence says",)
    else:
        try:
            squared = strategies.sensitivity_sq(
                strategy=mechanism.strategy or "identity",
                steps=mechanism.steps or 1,
                participations=mechanism.participations,
                separation=mechanism.separation,
                bandwidth=mechanism.bandwidth,
            )
        except ValueError as error:
            raise TooLarge(f"{path}: {error}", field=f"{path}.steps") from error
        said = (
            f"a unit takes part in at most {mechanism.participations} steps, any two at least {mechanism.separation} "
            "apart, in an order fixed beforehand (batches reshuffled between epochs have a separation of 1)",
        )
    return _rational(
        factor * squared / Fraction(mechanism.noise_multiplier) ** 2, "matrix-factorization", (*_SGD, *said)
    )


def _shuffle(mechanism: DpSgd, adjacency: Adjacency) -> Cost:
    # Each unit is in one batch of an epoch, so an epoch is one Gaussian release of it, and a random order is a mixture
    # of fixed ones: (sqrt(k)/s, 0) for k epochs touched, by joint convexity; no amplification is claimed (Chua et al.
    # 2024 show how far shuffling can be from Poisson sampling). An epoch has at least floor(N/B) steps.
    epochs = math.ceil(Fraction(_steps(mechanism), mechanism.steps_of_epoch))
    # Replacing a unit moves its clipped gradient by up to 2C, twice what adding or removing one does.
    factor = 4 if adjacency == "replace_one" else 1
    said = (
        *_SGD,
        "every unit is in exactly one batch of each epoch, the first step begins one, and every step has full noise",
        "removing a unit leaves its place in the batch empty; no amplification by shuffling is claimed",
    )
    return _rational(factor * epochs / Fraction(mechanism.noise_multiplier) ** 2, "shuffle", said)


def _rational(mu_sq: Fraction, method: str, assumptions: tuple[str, ...]) -> Cost:
    """A cost whose mu² is rational in what was declared: it stays exact."""
    return Cost(root(mu_sq), mu_sq, Fraction(0), method, assumptions)


def _repeated(mu_of: Callable[..., Any], name: str, value: Fraction, count: int, method: str) -> Cost:
    """`count` releases of a mechanism whose mu is a transcendental function of one parameter."""
    once = float(mu_of(**{name: float(value)}))
    # mu grows at most in proportion to epsilon or theta, so reading the parameter as a double adds one unit of 2^-53.
    upper = amounts.outward(once, closed_forms.RELATIVE_ERROR + 2 * _ROUNDING)
    mu_sq = count * upper**2
    return Cost(once * math.sqrt(count), mu_sq, Fraction(0), method, (*_RUN, *_NOISE))


def _composed(mechanism: Composed, terms: _Terms, *, path: str) -> Cost:
    parts = [(f"{path}.parts.{index}", part) for index, part in enumerate(mechanism.parts)]
    sampled = [
        (at, part)
        for at, part in parts
        if isinstance(part, DpSgd) and part.sampling != "shuffle" and terms.bound == "certified"
    ]
    # Each has an equal share of delta; together these shares come to less than the whole.
    each = replace(terms, delta=terms.delta / max(len(sampled), 1))
    apart = _added([_cost(part, each, path=at) for at, part in parts])
    if len(sampled) < 2:
        return apart
    rest = [_cost(part, each, path=at) for at, part in parts if (at, part) not in sampled]
    together = _added([*rest, _certified(sampled, terms)])
    return min(together, apart, key=lambda found: (found.mu_sq, found.nats))


def _added(parts: list[Cost]) -> Cost:
    mu_sq = sum((part.mu_sq for part in parts), Fraction(0))
    mu = math.hypot(*(part.mu for part in parts))
    if not math.isfinite(mu):
        raise InvalidMechanism("mechanism.parts: their cost together is beyond any number", field="mechanism.parts")
    assumptions = tuple(dict.fromkeys(text for part in parts for text in part.assumptions))
    methods = ", ".join(dict.fromkeys(part.method for part in parts))
    return Cost(mu, mu_sq, sum((part.nats for part in parts), Fraction(0)), f"composed: {methods}", assumptions)


def root(square: Fraction) -> float:
    """The double nearest to a root, without overflow on the way; off by at most an ulp."""
    shift = (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    scaled = square / Fraction(4) ** shift
    try:
        return math.ldexp(math.sqrt(scaled), shift)
    except OverflowError:
        return math.inf

"""What a run declares, and what it costs.

A mechanism says what will be done to the data; it is described here once, as the contract has it, and costed by `cost`.
`bound` chooses between a guarantee (`certified`) and the central-limit estimate of DP-SGD (`clt`). Every cost is an
approximate GDP pair (mu, delta), carried as mu² and -log(1 - delta), in which composition is addition (Dong, Roth & Su
2022, Cor. 3.3, and Thm. 3.2 for f_{0,delta}).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Final, Literal, assert_never

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ledger.accounting import amounts, certify, closed_forms, clt, strategies, zcdp
from ledger.accounting.numbers import Count, Positive, Probability, Rate, Share
from ledger.accounting.pld import Pair
from ledger.errors import InvalidMechanism, TooLarge
from ledger.model import Adjacency, Amount, Bound

PARTS_MAX: Final = 100
MU_MAX: Final = 3000
"""Beyond it mu² · 10¹² does not fit a signed 64-bit integer, and no budget comes near it."""

_ROUNDING: Final = 2.0**-53


Evidence = Annotated[str, Field(min_length=1, max_length=2000)]


class _Mechanism(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DpSgd(_Mechanism):
    """DP-SGD: a sum of per-unit gradients clipped to norm C, with Gaussian noise of `noise_multiplier`·C on it."""

    type: Literal["dpsgd"]
    noise_multiplier: Positive
    sampling: Literal["poisson", "fixed_size", "shuffle"]
    sample_rate: Rate | None = None
    steps: Count | None = None
    dataset_size: Count | None = None
    batch_size: Count | None = None
    epochs: Positive | None = None

    @model_validator(mode="after")
    def _one_form(self) -> DpSgd:
        by_rate = (self.sample_rate, self.steps)
        by_epochs = (self.dataset_size, self.batch_size, self.epochs)
        if all(by_rate) == all(by_epochs) or (any(by_rate) and any(by_epochs)):
            raise PydanticCustomError(
                "form", "give either sample_rate and steps, or dataset_size, batch_size and epochs, and nothing of both"
            )
        if self.dataset_size and self.batch_size and self.batch_size > self.dataset_size:
            raise PydanticCustomError("form", "batch_size must be at most dataset_size")
        if self.exact_steps < 1:
            # As planned is up to the next whole step, which would go far beyond what was charged.
            raise PydanticCustomError("form", "epochs must be at least batch_size/dataset_size, which is one step")
        return self

    @property
    def rate(self) -> Fraction:
        """Expected share of the units in a batch: sample_rate, or batch_size/dataset_size."""
        if self.sample_rate is not None:
            return Fraction(self.sample_rate)
        return Fraction(self.batch_size or 1, self.dataset_size or 1)

    @property
    def exact_steps(self) -> Fraction:
        """Steps as the published formula has them: epochs·dataset_size/batch_size need not be an integer."""
        if self.steps is not None:
            return Fraction(self.steps)
        return Fraction(self.epochs or 1) / self.rate


class Gaussian(_Mechanism):
    """The Gaussian mechanism, `count` times; `noise_multiplier` is the standard deviation over the L2 sensitivity."""

    type: Literal["gaussian"]
    noise_multiplier: Positive
    count: Count = 1


class Laplace(_Mechanism):
    """The Laplace mechanism, `count` times; `noise_multiplier` is the scale over the L1 sensitivity."""

    type: Literal["laplace"]
    noise_multiplier: Positive
    count: Count = 1


class PureDp(_Mechanism):
    """Any epsilon-DP mechanism, `count` times."""

    type: Literal["pure_dp"]
    epsilon: Positive
    count: Count = 1


class ApproximateDp(_Mechanism):
    """Any (epsilon, delta)-DP mechanism, `count` times."""

    type: Literal["approximate_dp"]
    epsilon: Positive
    delta: Probability
    count: Count = 1


class Gdp(_Mechanism):
    """A cost in (mu, delta) that was proved elsewhere; `evidence` says where."""

    type: Literal["gdp"]
    mu: Positive
    delta: Share = Decimal(0)
    evidence: Evidence


class ZCdp(_Mechanism):
    """Any mechanism that satisfies rho-zero-concentrated DP."""

    type: Literal["zcdp"]
    rho: Positive


class MatrixFactorization(_Mechanism):
    """Training with correlated noise: the matrix mechanism, of which DP-FTRL is one.

    Its sensitivity, in clip norms, is that of a strategy by name, or stated with the evidence for it.
    """

    type: Literal["matrix_factorization"]
    noise_multiplier: Positive
    sensitivity: Positive | None = None
    evidence: Evidence | None = None
    strategy: Literal["identity", "tree", "sqrt"] | None = None
    steps: Count | None = None
    participations: Count = 1
    separation: Count = 1
    bandwidth: Count | None = None

    @model_validator(mode="after")
    def _one_form(self) -> MatrixFactorization:
        named = (self.strategy, self.steps)
        if all(named) == (self.sensitivity is not None) or (any(named) and not all(named)):
            raise PydanticCustomError("form", "give either sensitivity and evidence, or strategy and steps")
        if (self.sensitivity is None) != (self.evidence is None):
            raise PydanticCustomError("form", "a stated sensitivity needs evidence that says where it was proved")
        if self.strategy is None and (self.participations, self.separation) != (1, 1):
            raise PydanticCustomError("form", "participations and separation belong to a strategy")
        if self.bandwidth is not None and self.strategy != "sqrt":
            raise PydanticCustomError("form", "bandwidth belongs to the strategy sqrt")
        return self


Simple = Annotated[
    DpSgd | Gaussian | Laplace | PureDp | ApproximateDp | ZCdp | Gdp | MatrixFactorization,
    Field(discriminator="type"),
]


class Composed(_Mechanism):
    """Several mechanisms on the same data, all fixed at approval."""

    type: Literal["composed"]
    parts: Annotated[list[Simple], Field(min_length=1, max_length=PARTS_MAX)]


Mechanism = Annotated[
    DpSgd | Gaussian | Laplace | PureDp | ApproximateDp | ZCdp | Gdp | MatrixFactorization | Composed,
    Field(discriminator="type"),
]
AnyMechanism = DpSgd | Gaussian | Laplace | PureDp | ApproximateDp | ZCdp | Gdp | MatrixFactorization | Composed

_ADAPTER: Final[TypeAdapter[AnyMechanism]] = TypeAdapter(Mechanism)
ABOUT_TYPE: Final = frozenset({"union_tag_not_found", "union_tag_invalid"})
"""The kinds of Pydantic's errors that are about a mechanism's `type`, though they are located at the whole of it."""


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
        return abs(math.expm1(-float(self.nats)))

    @property
    def amount(self) -> Amount:
        """In integers, rounded up. Where `is_holdable` is false it is true all the same, but past 64 bits."""
        return amounts.charge(mu_sq=self.mu_sq, nats=self.nats)

    @property
    def is_holdable(self) -> bool:
        return self.mu_sq <= MU_MAX**2 and self.amount.fits_int64


def parse(declared: Any) -> AnyMechanism:
    """A mechanism from JSON (numbers as int or Decimal). Raises InvalidMechanism, naming the field."""
    try:
        return _ADAPTER.validate_python(declared)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = field_path(("mechanism", *first["loc"], *(("type",) if first["type"] in ABOUT_TYPE else ())))
        raise InvalidMechanism(f"{field}: {first['msg']}", field=field) from error


_TAGS: Final = frozenset(
    {"dpsgd", "gaussian", "laplace", "pure_dp", "approximate_dp", "zcdp", "gdp", "matrix_factorization", "composed"}
)


def field_path(location: tuple[str | int, ...]) -> str:
    """A Pydantic error's location as the path that a user would write, without the tags of discriminated unions."""
    path: list[str] = []
    for before, part in zip((None, *location), location, strict=False):
        is_tag = part in _TAGS and (before == "mechanism" or isinstance(before, int))
        if not is_tag and not re.match(r"function-(before|after|plain|wrap)\[", str(part)):
            path.append(str(part))
    return ".".join(path)


def unsupported(detail: str, *, field: str) -> InvalidMechanism:
    """The error for what the contract has and this version does not."""
    return InvalidMechanism(f"{field}: {detail}", field=field)


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
    mechanism: AnyMechanism, *, bound: Bound, adjacency: Adjacency, delta: Fraction | Decimal = Fraction(0)
) -> Cost:
    """The cost of a mechanism under a dataset's bound and adjacency.

    delta: the run's share of the delta budget, at least 0 and below 1; only a certificate makes use of it.
    Raises InvalidMechanism where no cost is known, or where it is beyond what a double can hold.
    """
    # A clt run charges no delta of its own, so that what is certified there too has to do without.
    share = Fraction(delta) if bound == "certified" else Fraction(0)
    return _cost(mechanism, _Terms(bound, adjacency, share), path="mechanism")


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


def _certified(runs: Sequence[tuple[str, DpSgd]], terms: _Terms) -> Cost:
    """The certificate of several DP-SGD parts together, each with its path, or the fallback where that is less."""
    pairs = [_pair(run, terms.adjacency, path=path) for path, run in runs]
    # Without sampling a step is one Gaussian release, by joint convexity; replacing a unit moves the sum by up to 2C.
    factor = 4 if terms.adjacency == "replace_one" else 1
    plain = sum((factor * _steps(run) / Fraction(run.noise_multiplier) ** 2 for _, run in runs), Fraction(0))
    said = tuple(dict.fromkeys((*_SGD, *(_sampled(run, terms.adjacency) for _, run in runs))))
    fallback = _rational(plain, "fallback", (*said, _FALLBACK))
    share = certify.at_most(terms.delta)
    counts: dict[Pair, int] = {}
    for (_, run), pair in zip(runs, pairs, strict=True):
        if pair is None or share < certify.DELTA_MIN:
            return fallback
        counts[pair] = counts.get(pair, 0) + _steps(run)
    mu = certify.curve([certify.Steps(pair, count) for pair, count in counts.items()], delta_min=share).mu(share)
    if not math.isfinite(mu) or Fraction(mu) ** 2 >= plain:
        return fallback
    method = "pld-" + "-".join(dict.fromkeys(run.sampling.replace("_", "-") for _, run in runs))
    return Cost(mu, Fraction(mu) ** 2, amounts.nats(terms.delta, towards="up"), method, said)


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
    epochs = math.ceil(Fraction(math.ceil(mechanism.exact_steps), math.floor(1 / mechanism.rate)))
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


def planned_steps(mechanism: AnyMechanism) -> tuple[int, int] | None:
    """The steps (or releases) that count as all that was planned: from the floor to the ceiling. None where no number
    of steps says how much was done."""
    match mechanism:
        case DpSgd():
            return math.floor(mechanism.exact_steps), math.ceil(mechanism.exact_steps)
        case MatrixFactorization():
            return None if mechanism.steps is None else (mechanism.steps, mechanism.steps)
        case Gaussian() | Laplace() | PureDp() | ApproximateDp():
            return mechanism.count, mechanism.count
        case Gdp() | ZCdp() | Composed():
            return None
        case _:
            assert_never(mechanism)

"""What a run declares, and what it costs.

A mechanism says what will be done to the data; it is described here once, as the contract has it, and costed by `cost`.
`bound` chooses between a guarantee (`certified`) and the central-limit estimate of DP-SGD (`clt`). Every cost is an
approximate GDP pair (mu, delta), carried as mu² and -log(1 - delta), in which composition is addition (Dong, Roth & Su
2022, Cor. 3.3, and Thm. 3.2 for f_{0,delta}).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Final, Literal, assert_never

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ledger.accounting import amounts, closed_forms, clt
from ledger.accounting.numbers import Count, Positive, Probability, Rate, Share
from ledger.errors import InvalidMechanism
from ledger.model import Adjacency, Amount, Bound

PARTS_MAX: Final = 100
MU_MAX: Final = 3000
"""Beyond it mu² · 10¹² does not fit a signed 64-bit integer, and no budget comes near it."""

_ROUNDING: Final = 2.0**-53


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
    evidence: Annotated[str, Field(min_length=1, max_length=2000)]


def _supported(declared: Any) -> Any:
    kind = declared.get("type") if isinstance(declared, dict) else None
    if kind in ("zcdp", "matrix_factorization"):
        raise PydanticCustomError("unsupported_type", f"{kind} is not supported by this version")
    return declared


Simple = Annotated[
    DpSgd | Gaussian | Laplace | PureDp | ApproximateDp | Gdp,
    Field(discriminator="type"),
    BeforeValidator(_supported),
]


class Composed(_Mechanism):
    """Several mechanisms on the same data, all fixed at approval."""

    type: Literal["composed"]
    parts: Annotated[list[Simple], Field(min_length=1, max_length=PARTS_MAX)]


Mechanism = Annotated[
    DpSgd | Gaussian | Laplace | PureDp | ApproximateDp | Gdp | Composed,
    Field(discriminator="type"),
    BeforeValidator(_supported),
]
AnyMechanism = DpSgd | Gaussian | Laplace | PureDp | ApproximateDp | Gdp | Composed

_ADAPTER: Final[TypeAdapter[AnyMechanism]] = TypeAdapter(Mechanism)
ABOUT_TYPE: Final = frozenset({"union_tag_not_found", "union_tag_invalid", "unsupported_type"})
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


_TAGS: Final = frozenset({"dpsgd", "gaussian", "laplace", "pure_dp", "approximate_dp", "gdp", "composed"})


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
_ESTIMATE: Final = "an estimate by the central limit theorem, not a guarantee: the true cost can be higher"


def cost(mechanism: AnyMechanism, *, bound: Bound, adjacency: Adjacency) -> Cost:
    """The cost of a mechanism under a dataset's bound and adjacency.

    Raises InvalidMechanism where no cost is known, or where it is beyond what a double can hold.
    """
    return _cost(mechanism, bound, adjacency, path="mechanism")


def _cost(mechanism: AnyMechanism, bound: Bound, adjacency: Adjacency, *, path: str) -> Cost:
    match mechanism:
        case DpSgd():
            return _dpsgd(mechanism, bound, adjacency, path=path)
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
            nats = mechanism.count * amounts.nats(Fraction(mechanism.delta), towards="up")
            return Cost(pure.mu, pure.mu_sq, nats, pure.method, pure.assumptions)
        case Gdp():
            nats = amounts.nats(Fraction(mechanism.delta), towards="up")
            proved = (*_RUN, "the stated (mu, delta) was proved elsewhere, as the evidence says")
            found = _rational(Fraction(mechanism.mu) ** 2, "stated", proved)
            return Cost(found.mu, found.mu_sq, nats, found.method, found.assumptions)
        case Composed():
            paths = (f"{path}.parts.{index}" for index in range(len(mechanism.parts)))
            return _composed(
                [_cost(part, bound, adjacency, path=at) for part, at in zip(mechanism.parts, paths, strict=True)]
            )
        case _:
            assert_never(mechanism)


def _dpsgd(mechanism: DpSgd, bound: Bound, adjacency: Adjacency, *, path: str) -> Cost:
    if mechanism.sampling == "shuffle":
        return _shuffle(mechanism, adjacency)
    if bound == "certified":
        raise unsupported(
            f"a certified cost of DP-SGD with {mechanism.sampling} sampling is not supported by this version; "
            "register the dataset with bound clt for the published estimate, or declare shuffle sampling",
            field=f"{path}.sampling",
        )
    s, q, steps = float(mechanism.noise_multiplier), float(mechanism.rate), float(mechanism.exact_steps)
    # Reading s, q and T as doubles moves mu by less than (1.06 + 4/s²) + 1 + 1/2 units of 2^-53: d ln mu / d ln s is
    # above -(1.06 + s^-2), for fixed size under replace_one, which takes s/2 for s, above -(1.06 + 4/s²).
    reading = (3 + 4 / s**2) * _ROUNDING
    if mechanism.sampling == "poisson":
        mu = float(clt.mu_poisson(noise_multiplier=s, sample_rate=q, steps=steps, adjacency=adjacency))
        error = float(clt.mu_poisson_relative_error(noise_multiplier=s))
        sampled = "each unit is in a batch independently with probability sample_rate; no cap on the batch size"
        method = "clt-poisson"
    else:
        mu = float(clt.mu_fixed_size(noise_multiplier=s, sample_rate=q, steps=steps, adjacency=adjacency))
        error = float(clt.mu_fixed_size_relative_error(noise_multiplier=s, adjacency=adjacency))
        method = "clt-fixed-size"
        sampled = "batches of a fixed size are drawn uniformly without replacement; " + (
            "noise_multiplier is taken relative to the replacement sensitivity 2C, as s/2"
            if adjacency == "replace_one"
            else "noise_multiplier is used as it stands, the published convention for add_or_remove_one"
        )
    if not math.isfinite(mu):
        field = f"{path}.noise_multiplier"
        raise InvalidMechanism(f"{field}: the cost is beyond any number; there is too little noise", field=field)
    mu_sq = amounts.outward(mu, error + reading) ** 2
    return Cost(mu, mu_sq, Fraction(0), method, (_ESTIMATE, *_SGD, sampled))


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


def _composed(parts: list[Cost]) -> Cost:
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
        case Gaussian() | Laplace() | PureDp() | ApproximateDp():
            return mechanism.count, mechanism.count
        case Gdp() | Composed():
            return None
        case _:
            assert_never(mechanism)

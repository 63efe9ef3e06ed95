"""What a run declares: what will be done to the data, described here once, as the contract has it.

`costs` says what a mechanism costs. Here stands how far one goes: its steps or releases, in how many segments, and the
same mechanism with another number of them.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Final, Literal, assert_never

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ledger.accounting.numbers import Count, Positive, Probability, Rate, Share
from ledger.errors import InvalidMechanism, InvalidRequest

PARTS_MAX: Final = 100

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

    @property
    def steps_of_epoch(self) -> int:
        """The least steps that an epoch of shuffled batches has: where the last one is partial, it may be dropped."""
        return math.floor(1 / self.rate)


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


# --- steps and segments ----------------------------------------------------------------------------------------------


def planned_steps(mechanism: AnyMechanism, segments: int = 1) -> tuple[int, int] | None:
    """The steps (or releases) that count as all that was planned: from the floor to the ceiling, with segments to the
    end of the last one. None where no number of steps says how much was done. Raises as `segment_steps` does."""
    planned = _declared_steps(mechanism)
    if planned is None or segments == 1:
        return planned
    return planned[0], segments * segment_steps(mechanism, segments)


def segment_steps(mechanism: AnyMechanism, segments: int) -> int:
    """The steps of each segment: an equal part of them, rounded up; of shuffled batches whole epochs, since each
    segment restarts with a new order.

    Raises InvalidRequest where the mechanism has no steps, or fewer than segments.
    """
    planned = _declared_steps(mechanism)
    if planned is None:
        raise InvalidRequest("segments: the mechanism has no steps or releases to be divided", field="segments")
    fewest, most = planned
    if not 1 <= segments <= fewest:
        raise InvalidRequest(f"segments: must be between 1 and the {fewest} steps of the mechanism", field="segments")
    steps = -(-most // segments)
    if segments > 1 and isinstance(mechanism, DpSgd) and mechanism.sampling == "shuffle":
        return -(-steps // mechanism.steps_of_epoch) * mechanism.steps_of_epoch
    return steps


def resized(mechanism: AnyMechanism, steps: int) -> AnyMechanism:
    """The same mechanism with exactly so many steps or releases, at the very same rate.

    Nobody can declare what this makes of epochs: sizes with steps, since batch_size/dataset_size is rarely a decimal.
    Raises ValueError where the mechanism has no steps.
    """
    match mechanism:
        case DpSgd():
            return mechanism.model_copy(update={"steps": steps, "epochs": None})
        case MatrixFactorization() if mechanism.steps is not None:
            return mechanism.model_copy(update={"steps": steps})
        case Gaussian() | Laplace() | PureDp() | ApproximateDp():
            return mechanism.model_copy(update={"count": steps})
        case MatrixFactorization() | Gdp() | ZCdp() | Composed():
            raise ValueError(f"{mechanism.type} has no steps here")
        case _:
            assert_never(mechanism)


def _declared_steps(mechanism: AnyMechanism) -> tuple[int, int] | None:
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

"""What a run declares that it will do to the data, in the contract's words.

The ledger judges and costs a mechanism; here it is only written down. A plain dict of the contract's fields can stand
wherever a mechanism is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Final, Literal

Number = float | Decimal
"""A Decimal is sent with all its digits, a float as the shortest decimal that reads back as it."""


@dataclass(frozen=True, kw_only=True)
class _Mechanism:
    """A field is described where it first occurs: the command line asks for it in these words."""

    type: ClassVar[str]

    @classmethod
    def exact_steps(cls, declared: Mapping[str, Any]) -> Fraction | None:
        """The steps or releases of one that is declared so; None where no number says how much was done."""
        return _exact(declared.get("count", 1)) if "count" in cls.__dataclass_fields__ else None

    @classmethod
    def planned_steps(cls, declared: Mapping[str, Any], segments: int) -> tuple[int, int] | None:
        """The steps that count as all that was planned by one that is declared so, see the function of this name."""
        exact = cls.exact_steps(declared)
        if exact is None:
            return None
        most = math.ceil(exact)
        return math.floor(exact), segments * -(-most // segments)

    def to_json(self) -> dict[str, Any]:
        """The mechanism as the contract writes it; what was left out stays out."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"type": self.type, **{name: value for name, value in given.items() if value is not None}}


@dataclass(frozen=True, kw_only=True)
class DPSGD(_Mechanism):
    """DP-SGD: noise of `noise_multiplier` times the clip norm on each step's sum of clipped gradients.

    Give `sample_rate` and `steps`, or `dataset_size`, `batch_size` and `epochs`:

        DPSGD(noise_multiplier=1.1, sample_rate=256 / 60_000, steps=14_062)
        DPSGD(noise_multiplier=1.1, dataset_size=60_000, batch_size=256, epochs=60, sampling="shuffle")
    """

    type: ClassVar[str] = "dpsgd"
    noise_multiplier: Annotated[Number, "Noise over the clip norm, or over the sensitivity."]
    sample_rate: Annotated[Number | None, "The share of the data in a batch; with --steps."] = None
    steps: Annotated[int | None, "How many steps."] = None
    dataset_size: Annotated[int | None, "With --batch-size and --epochs, instead of a rate."] = None
    batch_size: Annotated[int | None, "With --dataset-size and --epochs."] = None
    epochs: Annotated[Number | None, "With --dataset-size and --batch-size."] = None
    sampling: Annotated[
        Literal["poisson", "fixed_size", "shuffle"],
        "poisson (the default), fixed_size or shuffle.",
    ] = "poisson"

    @classmethod
    def exact_steps(cls, declared: Mapping[str, Any]) -> Fraction | None:
        if declared.get("steps") is not None:
            return _exact(declared["steps"])
        return _exact(declared["epochs"]) * _exact(declared["dataset_size"]) / _exact(declared["batch_size"])

    @classmethod
    def planned_steps(cls, declared: Mapping[str, Any], segments: int) -> tuple[int, int] | None:
        exact = cls.exact_steps(declared)
        if exact is None or declared.get("sampling") != "shuffle":
            return super().planned_steps(declared, segments)
        if declared.get("epochs") is None:
            # Segments are whole epochs, each as short as its whole batches.
            epoch, most = math.floor(1 / _exact(declared["sample_rate"])), math.ceil(exact)
            if segments > 1:
                epochs_each = math.ceil(Fraction(math.ceil(Fraction(most, segments)), epoch))
                most = segments * epochs_each * epoch
            return math.floor(exact), most
        # An epoch has its whole batches, and one more where the partial one is kept.
        epochs, batches = _exact(declared["epochs"]), _exact(declared["dataset_size"]) / _exact(declared["batch_size"])
        fewest = min(math.ceil(epochs * math.floor(batches)), math.floor(exact))
        if segments > 1:
            epochs = Fraction(segments * -(-math.ceil(epochs) // segments))
        return fewest, math.ceil(epochs * math.ceil(batches))


@dataclass(frozen=True, kw_only=True)
class Gaussian(_Mechanism):
    """The Gaussian mechanism, `count` times; `noise_multiplier` is the standard deviation over the L2 sensitivity.

    Gaussian(noise_multiplier=5, count=1)
    """

    type: ClassVar[str] = "gaussian"
    noise_multiplier: Number
    count: Annotated[int, "How many releases, where there are no steps."] = 1


@dataclass(frozen=True, kw_only=True)
class Laplace(_Mechanism):
    """The Laplace mechanism, `count` times; `noise_multiplier` is the scale over the L1 sensitivity.

    Laplace(noise_multiplier=10)
    """

    type: ClassVar[str] = "laplace"
    noise_multiplier: Number
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class PureDP(_Mechanism):
    """Any epsilon-DP mechanism, `count` times.

    PureDP(epsilon=0.1)
    """

    type: ClassVar[str] = "pure_dp"
    epsilon: Annotated[Number, "The epsilon of each release."]
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class ApproximateDP(_Mechanism):
    """Any (epsilon, delta)-DP mechanism, `count` times.

    ApproximateDP(epsilon=0.1, delta=1e-9)
    """

    type: ClassVar[str] = "approximate_dp"
    epsilon: Number
    delta: Annotated[Number, "The delta of each release, or the one that was proved."]
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class RandomizedResponse(_Mechanism):
    """k-ary randomized response on `categories` categories, `count` times for each unit.

    RandomizedResponse(epsilon=1, categories=10)
    """

    type: ClassVar[str] = "randomized_response"
    epsilon: Number
    categories: Annotated[int, "How many answers there are."]
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class ZCdp(_Mechanism):
    """Any mechanism that satisfies rho-zero-concentrated DP, in both directions.

    ZCdp(rho=0.05)
    """

    type: ClassVar[str] = "zcdp"
    rho: Annotated[Number, "The rho that it satisfies, in both directions."]


@dataclass(frozen=True, kw_only=True)
class GDP(_Mechanism):
    """A cost in (mu, delta) that was proved elsewhere; `evidence` says where.

    GDP(mu=0.5, evidence="Theorem 3 of the appendix")
    """

    type: ClassVar[str] = "gdp"
    mu: Annotated[Number, "The mu that was proved."]
    delta: Number = 0
    evidence: Annotated[str, "Where the cost or the sensitivity was proved."]


@dataclass(frozen=True, kw_only=True)
class MatrixFactorization(_Mechanism):
    """Training with correlated noise: the matrix mechanism, of which DP-FTRL is one.

    `noise_multiplier` is the standard deviation of the noise over the clip norm. Give a `strategy` with its `steps`, in
    how many of which a unit takes part and how far apart (left out where it is 1), for "tree" whether it is completed
    to the next power of two, and for "sqrt" the `bandwidth` if it is cut; or a `sensitivity`, in clip norms, and the
    `evidence` that says where it is proved:

        MatrixFactorization(noise_multiplier=8, strategy="tree", steps=2_000, participations=20, separation=100,
                            completion="power_of_two")
        MatrixFactorization(noise_multiplier=8, sensitivity=2.5, evidence="Table 3 of the appendix")
    """

    type: ClassVar[str] = "matrix_factorization"
    noise_multiplier: Number
    sensitivity: Annotated[Number | None, "In clip norms; with --evidence, instead of --strategy."] = None
    evidence: str | None = None
    strategy: Annotated[Literal["identity", "tree", "sqrt"] | None, "identity, tree or sqrt; with --steps."] = None
    steps: int | None = None
    participations: Annotated[int | None, "In how many steps, of each segment, a unit takes part."] = None
    separation: Annotated[int | None, "How far apart these are, at least; 1 if reshuffled between epochs."] = None
    completion: Annotated[
        Literal["none", "power_of_two"] | None,
        "none, or power_of_two where the tree is completed to that.",
    ] = None
    bandwidth: Annotated[int | None, "Where the strategy sqrt is cut."] = None

    @classmethod
    def exact_steps(cls, declared: Mapping[str, Any]) -> Fraction | None:
        return _exact(declared["steps"])


@dataclass(frozen=True, kw_only=True)
class Composed(_Mechanism):
    """Several mechanisms on the same data, all fixed before the first.

    Composed(parts=[Gaussian(noise_multiplier=20), Laplace(noise_multiplier=50)])
    """

    type: ClassVar[str] = "composed"
    parts: Sequence[AnyMechanism]

    def to_json(self) -> dict[str, Any]:
        return {"type": self.type, "parts": [declared(part) for part in self.parts]}


AnyMechanism = (
    DPSGD
    | Gaussian
    | Laplace
    | PureDP
    | ApproximateDP
    | RandomizedResponse
    | ZCdp
    | GDP
    | MatrixFactorization
    | Composed
    | Mapping[str, Any]
)


BY_TYPE: Final[Mapping[str, type[_Mechanism]]] = {
    mechanism.type: mechanism for mechanism in _Mechanism.__subclasses__()
}
"""Every mechanism by its `type`."""


def declared(mechanism: AnyMechanism) -> dict[str, Any]:
    """A mechanism as the contract writes it, whichever way it was given."""
    return dict(mechanism) if isinstance(mechanism, Mapping) else mechanism.to_json()


def planned_steps(mechanism: AnyMechanism, segments: int | None = None) -> tuple[int, int] | None:
    """The steps (or releases) that count as all that was planned, from the floor to the ceiling, with segments to the
    end of the last one.

    None where no number of steps says how much was done, and where the ledger is going to refuse the numbers anyway.
    """
    facts = declared(mechanism)
    try:
        at_least_one = 1 if segments is None else max(segments, 1)
        return BY_TYPE[facts["type"]].planned_steps(facts, at_least_one)
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None


def _exact(number: Any) -> Fraction:
    """The number as the ledger reads it: a float is the decimal that is sent for it."""
    return Fraction(float.__repr__(number) if isinstance(number, float) else number)

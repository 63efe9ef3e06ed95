"""The mechanisms: what a run declares that it will do to the data.

The ledger checks a mechanism and computes its cost; these classes only describe it. A plain dict of the same fields is
accepted wherever a mechanism is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Final, Literal

from ledger.client.wire import encode
from ledger.errors import InvalidRequest

Number = float | Decimal
"""A Decimal is sent with all its digits, a float as the shortest decimal that reads back as the same float."""


@dataclass(frozen=True, kw_only=True)
class _Mechanism:
    """The base class. A field is described at its first occurrence; `--help` shows that text."""

    type: ClassVar[str]

    @classmethod
    def exact_steps(cls, declared: Mapping[str, Any]) -> Fraction | None:
        """Return the exact number of steps or releases; None if the mechanism has none."""
        return _exact(declared.get("count", 1)) if "count" in cls.__dataclass_fields__ else None

    @classmethod
    def planned_steps(cls, declared: Mapping[str, Any], segments: int) -> tuple[int, int] | None:
        """Return the number of steps that counts as the whole plan; see the function `whole_steps`."""
        exact = cls.exact_steps(declared)
        if exact is None:
            return None
        most = math.ceil(exact)
        return math.floor(exact), segments * -(-most // segments)

    def to_json(self) -> dict[str, Any]:
        """Return the mechanism as the JSON object that is sent. Fields that were left out stay out."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"type": self.type, **{name: value for name, value in given.items() if value is not None}}


@dataclass(frozen=True, kw_only=True)
class DPSGD(_Mechanism):
    """DP-SGD: noise of `noise_multiplier` times the clip norm on each step's sum of clipped gradients.

    Give `sample_rate` and `steps`, or `dataset_size`, `batch_size` and `epochs`. Without `dataset_size` it is the size
    that the dataset is registered with:

        DPSGD(noise_multiplier=1.1, sample_rate=256 / 60_000, steps=14_062)
        DPSGD(noise_multiplier=1.1, batch_size=256, epochs=60)
        DPSGD(noise_multiplier=1.1, dataset_size=60_000, batch_size=256, epochs=60, sampling="shuffle")

    Declare what differs from plain Poisson batches: a cap on the batch (`truncated_batch_size`, with `dataset_size`),
    users with several records that are sampled apart (`max_examples_per_user`), or batches of a fixed size, which need
    `dataset_size_min` under add_or_remove_one:

        DPSGD(noise_multiplier=1.1, sample_rate=0.004, steps=14_000, dataset_size=60_000, truncated_batch_size=300)
        DPSGD(noise_multiplier=4, sample_rate=0.004, steps=1_000, max_examples_per_user=5)
        DPSGD(noise_multiplier=4, sample_rate=0.004, steps=1_000, sampling="fixed_size", dataset_size_min=60_000)
    """

    type: ClassVar[str] = "dpsgd"
    noise_multiplier: Annotated[
        Number, "The standard deviation or scale of the noise, divided by the clip norm or sensitivity."
    ]
    sample_rate: Annotated[Number | None, "The part of the data in a batch. Needs --steps."] = None
    steps: Annotated[int | None, "The number of steps."] = None
    dataset_size: Annotated[
        int | None,
        "The number of units, with --batch-size and --epochs instead of --sample-rate; or with --truncated-batch-size."
        " Default: that of the dataset.",
    ] = None
    batch_size: Annotated[int | None, "The size of a batch. Needs --epochs."] = None
    epochs: Annotated[Number | None, "The number of epochs. Needs --batch-size."] = None
    sampling: Annotated[
        Literal["poisson", "fixed_size", "shuffle"],
        "How batches are drawn: poisson (the default), fixed_size or shuffle; for matrix_factorization cyclic_poisson.",
    ] = "poisson"
    truncated_batch_size: Annotated[int | None, "The cap on a Poisson batch: larger ones are cut to a random part."] = (
        None
    )
    max_examples_per_user: Annotated[
        int | None, "The most records of a user, if each is sampled and clipped by itself."
    ] = None
    dataset_size_min: Annotated[
        int | None, "A public lower bound of the number of units, for fixed_size under add_or_remove_one."
    ] = None

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
            # Segments are whole epochs; the shortest has only whole batches.
            epoch, most = math.floor(1 / _exact(declared["sample_rate"])), math.ceil(exact)
            if segments > 1:
                epochs_each = math.ceil(Fraction(math.ceil(Fraction(most, segments)), epoch))
                most = segments * epochs_each * epoch
            return math.floor(exact), most
        # An epoch has its whole batches, and one more if the partial batch is kept.
        epochs, batches = _exact(declared["epochs"]), _exact(declared["dataset_size"]) / _exact(declared["batch_size"])
        fewest = min(math.ceil(epochs * math.floor(batches)), math.floor(exact))
        if segments > 1:
            epochs = Fraction(segments * -(-math.ceil(epochs) // segments))
        return fewest, math.ceil(epochs * math.ceil(batches))


@dataclass(frozen=True, kw_only=True)
class DPSGDSchedule(_Mechanism):
    """DP-SGD whose noise and sample rate change from step to step, by a schedule that is fixed before the run.

    `phases` are in the order of execution, each with its `noise_multiplier`, `sample_rate` and `steps`; or
    `from_steps` makes them from the values of every step:

        DPSGDSchedule(phases=[{"noise_multiplier": 1.5, "sample_rate": 0.004, "steps": 1_000},
                              {"noise_multiplier": 1.0, "sample_rate": 0.008, "steps": 500}])
        DPSGDSchedule.from_steps(noise_multipliers=[1.5, 1.4, 1.3], sample_rates=0.004)
    """

    type: ClassVar[str] = "dpsgd_schedule"
    phases: Annotated[
        Sequence[Mapping[str, Any]],
        "The phases as a JSON array, or @FILE.json or @FILE.csv; each has noise_multiplier, sample_rate and steps.",
    ]
    sampling: Literal["poisson", "fixed_size"] = "poisson"
    noise_scale: Annotated[Number, "A factor on the noise multipliers of all phases."] = 1

    @classmethod
    def from_steps(
        cls,
        *,
        noise_multipliers: Iterable[Number] | Number,
        sample_rates: Iterable[Number] | Number,
        sampling: Literal["poisson", "fixed_size"] = "poisson",
        noise_scale: Number = 1,
    ) -> DPSGDSchedule:
        """Return the schedule with these values at each step, at least one of them a list; a number holds at all steps.

        Raises ValueError if there are no steps, or two lists of different lengths.
        """
        noises, rates = (
            [values] if isinstance(values, int | float | Decimal) else [_plain(value) for value in values]
            for values in (noise_multipliers, sample_rates)
        )
        steps = max(len(noises), len(rates))
        if min(len(noises), len(rates)) not in {1, steps} or not steps:
            raise ValueError(
                f"noise_multipliers has {len(noises)} values and sample_rates {len(rates)}; give as many of each, or "
                "one number"
            )
        noises, rates = (values * steps if len(values) == 1 else values for values in (noises, rates))
        each = (
            {"noise_multiplier": noise, "sample_rate": rate, "steps": 1}
            for noise, rate in zip(noises, rates, strict=True)
        )
        return cls(phases=merged(each), sampling=sampling, noise_scale=noise_scale)

    @classmethod
    def exact_steps(cls, declared: Mapping[str, Any]) -> Fraction | None:
        return sum((_exact(phase["steps"]) for phase in declared["phases"]), Fraction(0))

    @classmethod
    def planned_steps(cls, declared: Mapping[str, Any], segments: int) -> tuple[int, int] | None:
        # The ledger rejects a schedule in segments.
        return super().planned_steps(declared, segments) if segments == 1 else None

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "phases": [dict(phase) for phase in self.phases]}


@dataclass(frozen=True, kw_only=True)
class Gaussian(_Mechanism):
    """The Gaussian mechanism, `count` times; `noise_multiplier` is the standard deviation over the L2 sensitivity.

    Gaussian(noise_multiplier=5, count=1)
    """

    type: ClassVar[str] = "gaussian"
    noise_multiplier: Number
    count: Annotated[int, "The number of releases, for a mechanism without steps."] = 1


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
    delta: Annotated[Number, "The delta of each release, or the proved delta."]
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class RandomizedResponse(_Mechanism):
    """k-ary randomized response on `categories` categories, `count` times for each unit.

    RandomizedResponse(epsilon=1, categories=10)
    """

    type: ClassVar[str] = "randomized_response"
    epsilon: Number
    categories: Annotated[int, "The number of possible answers."]
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class ZCdp(_Mechanism):
    """Any mechanism that satisfies rho-zero-concentrated DP, in both directions.

    ZCdp(rho=0.05)
    """

    type: ClassVar[str] = "zcdp"
    rho: Annotated[Number, "The rho of the mechanism, in both directions."]


@dataclass(frozen=True, kw_only=True)
class GDP(_Mechanism):
    """A cost in (mu, delta) that was proved elsewhere; `evidence` names the source.

    GDP(mu=0.5, evidence="Theorem 3 of the appendix")
    """

    type: ClassVar[str] = "gdp"
    mu: Annotated[Number, "The proved mu."]
    delta: Number = 0
    evidence: Annotated[str, "Where the cost or the sensitivity is proved."]


@dataclass(frozen=True, kw_only=True)
class MatrixFactorization(_Mechanism):
    """Training with correlated noise: the matrix mechanism, such as DP-FTRL.

    `noise_multiplier` is the standard deviation of the noise over the clip norm. Give either

    - a `strategy` with its `steps`, and what belongs to it: for "tree" the `completion` to the next power of two; for
      "sqrt" the `bandwidth`, if it is cut; for "banded_inverse_sqrt" the `bandwidth` of the inverse; for "toeplitz" the
      `coefficients`; for "blt" the `scales` and `decays`. Say how a unit takes part: by `participations` and their
      `separation` (default 1), or, if batches are drawn, by `sampling="cyclic_poisson"` and the `sample_rate`; or
    - a `sensitivity`, in clip norms, and the `evidence` that names its proof:

        MatrixFactorization(noise_multiplier=8, strategy="tree", steps=2_000, participations=20, separation=100,
                            completion="power_of_two")
        MatrixFactorization(noise_multiplier=2, strategy="sqrt", bandwidth=10, steps=2_000, sampling="cyclic_poisson",
                            sample_rate=0.1)
        MatrixFactorization(noise_multiplier=8, sensitivity=2.5, evidence="Table 3 of the appendix")
    """

    type: ClassVar[str] = "matrix_factorization"
    noise_multiplier: Number
    sensitivity: Annotated[Number | None, "The sensitivity in clip norms, with --evidence, instead of --strategy."] = (
        None
    )
    evidence: str | None = None
    strategy: Annotated[
        Literal["identity", "tree", "sqrt", "banded_inverse_sqrt", "blt", "toeplitz"] | None,
        "The strategy: identity, tree, sqrt, banded_inverse_sqrt, blt or toeplitz. Needs --steps.",
    ] = None
    steps: int | None = None
    participations: Annotated[int | None, "In how many steps of each segment a unit takes part."] = None
    separation: Annotated[
        int | None,
        "The least distance between these steps; 1 if you reshuffle between epochs. With cyclic_poisson, the number of"
        " groups, by default as many as the strategy has bands.",
    ] = None
    completion: Annotated[
        Literal["none", "power_of_two"] | None,
        "none, or power_of_two if the tree is completed to the next power of two.",
    ] = None
    bandwidth: Annotated[
        int | None, "How many coefficients of sqrt are kept, or of the inverse in banded_inverse_sqrt."
    ] = None
    coefficients: Annotated[
        Sequence[Number] | None,
        "The coefficients of the strategy toeplitz, from the diagonal down, such as 1,0.5,0.25.",
    ] = None
    scales: Annotated[Sequence[Number] | None, "The output scales of the buffers of blt, such as 0.3,0.1."] = None
    decays: Annotated[Sequence[Number] | None, "The decays of these buffers, such as 0.9,0.99."] = None
    sampling: Literal["cyclic_poisson"] | None = None
    sample_rate: Number | None = None

    @classmethod
    def exact_steps(cls, declared: Mapping[str, Any]) -> Fraction | None:
        return _exact(declared["steps"])


@dataclass(frozen=True, kw_only=True)
class Composed(_Mechanism):
    """Several mechanisms on the same data, all of them fixed before the first begins.

    Composed(parts=[Gaussian(noise_multiplier=20), Laplace(noise_multiplier=50)])
    """

    type: ClassVar[str] = "composed"
    parts: Sequence[AnyMechanism]

    def to_json(self) -> dict[str, Any]:
        return {"type": self.type, "parts": [declared(part) for part in self.parts]}


AnyMechanism = (
    DPSGD
    | DPSGDSchedule
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


def merged(phases: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the phases of a schedule, equal ones after one another as one with more steps."""
    kept: list[dict[str, Any]] = []
    for phase in phases:
        if kept and {**kept[-1], "steps": 0} == {**phase, "steps": 0}:
            kept[-1]["steps"] += phase["steps"]
        else:
            kept.append(dict(phase))
    return kept


def declared(mechanism: AnyMechanism) -> dict[str, Any]:
    """Return a mechanism, object or dict, as the JSON object that is sent."""
    return dict(mechanism) if isinstance(mechanism, Mapping) else mechanism.to_json()


def planned_steps(mechanism: AnyMechanism, segments: int | None = None) -> tuple[int, int] | None:
    """Return the range of steps (or releases) that counts as the whole plan: floor and ceiling of the exact number, or
    with segments up to the end of the last one.

    None if the mechanism has no number of steps, or if its numbers are invalid; then the ledger rejects the request.
    """
    facts = declared(mechanism)
    try:
        at_least_one = 1 if segments is None else max(segments, 1)
        return BY_TYPE[facts["type"]].planned_steps(facts, at_least_one)
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None


def lacks_size(declared: Mapping[str, Any]) -> bool:
    """Return whether the number of steps depends on the number of units, which is that of the dataset."""
    is_by_epochs = declared.get("type") == DPSGD.type and declared.get("epochs") is not None
    return is_by_epochs and declared.get("dataset_size") is None


def _plain(number: Any) -> Number:
    """Return a number of a list, such as an array of single precision, as one that can be sent."""
    return number if isinstance(number, int | float | Decimal) else float(number)


def _exact(number: Any) -> Fraction:
    """Return the number as the ledger reads it: a float becomes the decimal that is sent."""
    try:
        return Fraction(number) if isinstance(number, int | Fraction) else Fraction(encode(number))
    except InvalidRequest as error:
        raise ValueError(error.detail) from None

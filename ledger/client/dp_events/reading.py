"""From an event to the mechanism that the ledger costs.

An event has its noise over the bound of one value, C. Removing a value, or putting nothing in its place, moves the sum
by C; replacing one moves it by 2C. The ledger's `gaussian` and `laplace` have their noise over the sensitivity, so that
under replace_one theirs is half of the event's. `dpsgd` has its noise over C, as the event does.

Numbers are taken as they are. If one must be computed, it is rounded so that the cost cannot fall.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from typing import Any, Final

from ledger.client.dp_events.events import Event, read
from ledger.client.dp_events.relations import RELATIONS, Adjacency, adjacency_of
from ledger.client.mechanisms import (
    DPSGD,
    AnyMechanism,
    Composed,
    DPSGDSchedule,
    Gaussian,
    Laplace,
    MatrixFactorization,
    PureDP,
    RandomizedResponse,
    ZCdp,
)

COUNT_MAX: Final = 10**12
PARTS_MAX: Final = 10_000
"""How many different neighbouring parts a tree may have: as many phases as a schedule."""
COMPOSED_MAX: Final = 1_000
RECORDS_MAX: Final = 200
"""How many records of a user a mixture is compared with: exactly, with fractions."""
_UP: Final = Context(prec=30, rounding=ROUND_CEILING)
_DOWN: Final = Context(prec=30, rounding=ROUND_FLOOR)
_SUM_ERROR: Final = Fraction(1, 10**9)
_UPWARD: Final = 1 + 2.0**-50
"""More than the relative error of a logarithm and of the few operations around it."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A number of equal releases. fields: of the mechanism of one."""

    kind: type[Any]
    fields: tuple[tuple[str, Any], ...]
    count: int

    def mechanisms(self) -> list[Any]:
        """Return the mechanism of all releases, or if it has no count, one for each."""
        fields = dict(self.fields)
        if self.kind is DPSGD:
            return [DPSGD(**fields, steps=self.count)]
        if self.kind is ZCdp:
            return [ZCdp(rho=_decimal(_UP, Fraction(fields["rho"]) * self.count) if self.count > 1 else fields["rho"])]
        if self.kind is MatrixFactorization:
            return [MatrixFactorization(**fields)] * min(self.count, COMPOSED_MAX + 1)
        return [self.kind(**fields, count=self.count)]


def from_dp_event(event: Any, *, adjacency: Any) -> AnyMechanism:
    """Return the mechanism of a DpEvent of dp-accounting: an object, its `to_named_tuple()`, or its JSON (`to_json`).

    adjacency: the neighbouring relation for which the event was made, as the dataset is registered:
    "add_or_remove_one", "replace_one" or "zero_out" (REPLACE_SPECIAL), or a member of NeighboringRelation. The cost
    depends on it, and no event has it.

    Raises InvalidMechanism, with the path of the event, if the ledger has no sound cost for it, and InvalidRequest for
    another adjacency.

    >>> sampled = {"class_name": "PoissonSampledDpEvent", "sampling_probability": 0.01,
    ...            "event": {"class_name": "GaussianDpEvent", "noise_multiplier": 1.1}}
    >>> from_dp_event({"class_name": "SelfComposedDpEvent", "event": sampled, "count": 500}, adjacency="zero_out")
    DPSGD(noise_multiplier=1.1, sample_rate=0.01, steps=500, ...)
    """
    root = read(event)
    parts = _parts(root, adjacency_of(adjacency))
    if not parts:
        raise root.refused("nothing is released. There is nothing to ask for.")
    if len(parts) > 1 and (schedule := _schedule(parts)) is not None:
        return schedule
    mechanisms = [mechanism for part in parts for mechanism in part.mechanisms()]
    if len(mechanisms) > COMPOSED_MAX:
        raise root.refused(f"has more than {COMPOSED_MAX:,} parts of different kinds. Ask for several runs.")
    return mechanisms[0] if len(mechanisms) == 1 else Composed(parts=mechanisms)


def _schedule(parts: list[_Part]) -> DPSGDSchedule | None:
    """Return the schedule of steps that draw plain batches in one way; None if these are others."""
    phases = [dict(part.fields) | {"steps": part.count} for part in parts if part.kind is DPSGD]
    drawn = {phase.pop("sampling", "poisson") for phase in phases}
    plain = {"noise_multiplier", "sample_rate", "steps"}
    if len(phases) < len(parts) or len(drawn) > 1 or any(set(phase) != plain for phase in phases):
        return None
    return DPSGDSchedule(phases=phases, sampling=drawn.pop())


# --- the tree --------------------------------------------------------------------------------------------------------


def _parts(event: Event, adjacency: Adjacency) -> list[_Part]:
    """Return the releases of an event in their order, equal neighbours as one."""
    if event.name == "ComposedDpEvent":
        within = (part for inner in event.each() for part in _parts(inner, adjacency))
        return _merged(event, within)
    if event.name == "SelfComposedDpEvent":
        return _repeated(event, _parts(event.inner(), adjacency))
    part = _LEAVES[event.name](event, adjacency)
    return [] if part is None else [part]


def _repeated(event: Event, parts: list[_Part]) -> list[_Part]:
    count = _whole(event, "count", least=0)
    if count == 0:
        return []
    if len(parts) <= 1:
        return _merged(event, (_Part(part.kind, part.fields, part.count * count) for part in parts))
    if len(parts) * count > PARTS_MAX:
        raise event.refused(
            f"repeats {len(parts)} different parts {count:,} times, more than {PARTS_MAX:,}. The order does not "
            "change the cost: repeat each part by itself."
        )
    return _merged(event, (part for _ in range(count) for part in parts))


def _merged(event: Event, parts: Iterable[_Part]) -> list[_Part]:
    merged: list[_Part] = []
    for part in parts:
        if merged and (merged[-1].kind, merged[-1].fields) == (part.kind, part.fields):
            merged.append(_Part(part.kind, part.fields, merged.pop().count + part.count))
        else:
            merged.append(part)
        if merged[-1].count > COUNT_MAX:
            raise event.refused(f"is repeated more than {COUNT_MAX:,} times")
        if len(merged) > PARTS_MAX:
            raise event.refused(f"has more than {PARTS_MAX:,} different parts. Ask for several runs.")
    return merged


def _part(kind: type[Any], **fields: Any) -> _Part:
    return _Part(kind, tuple(fields.items()), 1)


# --- one event -------------------------------------------------------------------------------------------------------


def _nothing(_event: Event, _adjacency: Adjacency) -> None:
    """Return None: nothing is released."""


def _not_private(event: Event, _adjacency: Adjacency) -> _Part:
    raise event.refused("has no guarantee, so that no budget covers it.")


def _unsupported(event: Event, _adjacency: Adjacency) -> _Part:
    raise event.refused("is the library's name for what it cannot account. Declare the mechanism itself.")


def _gaussian(event: Event, adjacency: Adjacency) -> _Part | None:
    return _part(Gaussian, noise_multiplier=_over_sensitivity(_positive(event, "noise_multiplier"), adjacency))


def _laplace(event: Event, adjacency: Adjacency) -> _Part:
    return _part(Laplace, noise_multiplier=_over_sensitivity(_positive(event, "noise_multiplier"), adjacency))


def _over_sensitivity(noise: Any, adjacency: Adjacency) -> Any:
    """Return the noise over the sensitivity. Halving a float is exact."""
    if adjacency != "replace_one":
        return noise
    return _DOWN.divide(noise, Decimal(2)) if isinstance(noise, Decimal) else noise / 2


def _discrete_laplace(event: Event, adjacency: Adjacency) -> _Part:
    """Return the pure cost, which is tight for a sensitivity of 1: the loss is the worst of that epsilon."""
    moved = _whole(event, "sensitivity") * (2 if adjacency == "replace_one" else 1)
    noise = _positive(event, "noise_parameter")
    return _part(PureDP, epsilon=noise if moved == 1 else _decimal(_UP, Fraction(noise) * moved))


def _randomized_response(event: Event, adjacency: Adjacency) -> _Part | None:
    if adjacency == "add_or_remove_one":
        raise event.refused(
            "that somebody answers shows that they are there. It is private under replace_one and zero_out; what comes "
            "nearest under add_or_remove_one is randomized_response, if who answers is public."
        )
    buckets = _whole(event, "num_buckets")
    noise = Fraction(_number(event, "noise_parameter"))
    if not 0 <= noise <= 1:
        raise event.refused(f"noise_parameter must be between 0 and 1, not {float(noise)}")
    if buckets == 1 or noise == 1:
        return None
    if noise == 0:
        raise event.refused("a noise_parameter of 0 shows the answer. No budget covers it.")
    # With probability p any bucket is drawn, also the right one: e^epsilon = (1 - p + p/k) / (p/k).
    odds = buckets * (1 - noise) / noise
    return _part(RandomizedResponse, epsilon=math.log1p(float(odds) * _UPWARD) * _UPWARD, categories=buckets)


def _zcdp(event: Event, _adjacency: Adjacency) -> _Part | None:
    if _number(event, "xi") != 0:
        raise event.refused("an xi other than 0 has no cost here. What comes nearest is approximate_dp or gdp.")
    return None if _number(event, "rho") == 0 else _part(ZCdp, rho=_positive(event, "rho"))


def _tree(event: Event, adjacency: Adjacency) -> _Part:
    if adjacency != "zero_out":
        raise event.refused(
            "is defined under REPLACE_SPECIAL (zero_out) alone. What comes nearest is matrix_factorization with the "
            "strategy tree, whose noise is over the clip norm."
        )
    is_one = isinstance(event.members["step_counts"], int)
    counts = [event.members["step_counts"]] if is_one else _listed(event, "step_counts")
    steps = [_checked(event, count) for count in counts]
    if not steps:
        raise event.refused("step_counts must name at least one tree")
    # A record is in one of the trees, so that the deepest one bounds its cost.
    fields = {"strategy": "tree", "steps": max(steps), "participations": 1, "completion": "none"}
    return _part(MatrixFactorization, noise_multiplier=_positive(event, "noise_multiplier"), **fields)


def _poisson(event: Event, adjacency: Adjacency) -> _Part | None:
    rate = _rate(event, "sampling_probability")
    inner = event.inner()
    if rate == 0:
        return None
    noise = _effective(inner, event)
    if noise is None:
        return None
    if rate == 1:
        return _part(Gaussian, noise_multiplier=_over_sensitivity(noise, adjacency))
    return _part(DPSGD, noise_multiplier=noise, sample_rate=rate)


def _fixed_size(event: Event, adjacency: Adjacency) -> _Part | None:
    size, batch = _whole(event, "source_dataset_size"), _whole(event, "sample_size", least=0)
    noise = _effective(event.inner(), event)
    if batch > size:
        raise event.refused("sample_size must be at most source_dataset_size")
    if adjacency == "add_or_remove_one":
        raise event.refused(
            "needs a fixed and public number of records, as under REPLACE_ONE. What comes nearest is dpsgd with "
            "sampling fixed_size and dataset_size_min, a public lower bound of that number."
        )
    if noise is None or batch == 0:
        return None
    return _part(DPSGD, noise_multiplier=noise, sample_rate=_decimal(_UP, Fraction(batch, size)), sampling="fixed_size")


def _with_replacement(event: Event, _adjacency: Adjacency) -> _Part:
    raise event.refused(
        "draws with replacement have no known cost here, since a record can be in a batch several times. What comes "
        "nearest are draws without replacement, if the sampler can do that: dpsgd with sampling fixed_size."
    )


def _select(event: Event, _adjacency: Adjacency) -> _Part:
    raise event.refused(
        "selecting the best of a random number of trials has no cost here. What comes nearest is a run for each trial, "
        "which charges too much, never too little."
    )


def _truncated(event: Event, _adjacency: Adjacency) -> _Part | None:
    size, cap = _whole(event, "dataset_size", least=0), _whole(event, "truncated_batch_size", least=0)
    rate, noise = _rate(event, "sampling_probability"), _positive(event, "noise_multiplier")
    if 0 in (size, cap, rate):
        return None
    return _part(DPSGD, noise_multiplier=noise, sample_rate=rate, dataset_size=size, truncated_batch_size=cap)


def _mixture(event: Event, adjacency: Adjacency) -> _Part | None:
    deviation = _positive(event, "standard_deviation")
    moves, chances = (
        [Fraction(_checked_number(event, value)) for value in _listed(event, field)]
        for field in ("sensitivities", "sampling_probs")
    )
    if not moves or len(moves) != len(chances) or min([*moves, *chances]) < 0:
        raise event.refused("sensitivities and sampling_probs must be as many, and not negative")
    if abs(sum(chances, Fraction(0)) - 1) > _SUM_ERROR:
        raise event.refused("sampling_probs must add up to 1")
    if adjacency == "replace_one":
        raise event.refused(f"is defined under {RELATIONS['add_or_remove_one']} and {RELATIONS['zero_out']} alone")
    records, rate = len(moves) - 1, _binomial_rate(moves, chances)
    if records == 0 and moves[0] == 0:
        return None
    if rate is None:
        raise event.refused(
            "is known here if it is that of users with several records: sensitivities 0, 1, … k with binomial "
            "sampling_probs, which is dpsgd with max_examples_per_user. Any other can be stated as gdp, with evidence."
        )
    many = {} if records == 1 else {"max_examples_per_user": records}
    return _part(DPSGD, noise_multiplier=deviation, sample_rate=rate, **many)


def _binomial_rate(moves: list[Fraction], chances: list[Fraction]) -> Decimal | None:
    """Return a rate whose binomial distribution is at least these chances in every upper tail; None if none is near.

    Moving mass to a larger mean costs no less: the derivation is in ledger.accounting.mixtures.
    """
    records = len(moves) - 1
    if not 1 <= records <= RECORDS_MAX or moves != list(range(records + 1)):
        return None
    mean = sum((move * chance for move, chance in zip(moves, chances, strict=True)), Fraction(0)) / records
    rate = Fraction(_decimal(_UP, mean * (1 + Fraction(1, 10**11))))
    if not 0 < rate < 1:
        return None
    tails = zip(_tails(chances), _tails(_binomial(records, rate)), strict=True)
    # Weights of floats miss their sum by some 1e-16 of it.
    if all(ours >= theirs * (1 - Fraction(1, 10**13)) and ours - theirs < Fraction(1, 10**8) for theirs, ours in tails):
        return _decimal(_UP, rate)
    return None


def _binomial(count: int, rate: Fraction) -> list[Fraction]:
    return [math.comb(count, k) * rate**k * (1 - rate) ** (count - k) for k in range(count + 1)]


def _tails(chances: list[Fraction]) -> list[Fraction]:
    return [sum(chances[index:], Fraction(0)) for index in range(1, len(chances))]


# --- numbers ---------------------------------------------------------------------------------------------------------


def _effective(inner: Event, sampled: Event) -> Any:
    """Return the noise multiplier of Gaussian releases on one sample, as of a single one; None if there are none.

    n of them with s_1 … s_n on the same sample are one with s^-2 = s_1^-2 + … + s_n^-2.
    """
    noises = _gaussians(inner, sampled, 1)
    if len(noises) == 1 and noises[0][1] == 1:
        return noises[0][0]
    inverse = sum((count / Fraction(noise) ** 2 for noise, count in noises), Fraction(0))
    if inverse == 0:
        return None
    root = _DOWN.sqrt(_decimal(_DOWN, 1 / inverse))
    return _DOWN.multiply(root, Decimal(1) - Decimal("1e-28"))


def _gaussians(event: Event, sampled: Event, count: int) -> list[tuple[Any, int]]:
    if event.name == "NoOpDpEvent":
        return []
    if event.name == "GaussianDpEvent":
        return [(_positive(event, "noise_multiplier"), count)]
    if event.name == "SelfComposedDpEvent":
        return _gaussians(event.inner(), sampled, count * _whole(event, "count", least=0)) if count else []
    if event.name == "ComposedDpEvent":
        return [noise for inner in event.each() for noise in _gaussians(inner, sampled, count)]
    raise sampled.refused(
        f"a sample of {event.name} has no cost here, only one of Gaussian noise. What comes nearest is {event.name} "
        "without the sampling, which charges too much, never too little."
    )


def _listed(event: Event, field: str) -> Sequence[Any]:
    values = event.members[field]
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise event.refused(f"{field} must be a list of numbers")
    return values


def _number(event: Event, field: str) -> Any:
    return _checked_number(event, event.members[field], field)


def _checked_number(event: Event, value: Any, field: str = "each value") -> Any:
    """Return a finite number: an int, a float or a Decimal. Scalars of other libraries become floats."""
    try:
        number = value if isinstance(value, int | float | Decimal) and type(value) is not bool else float(value)
        if math.isfinite(number) and not isinstance(value, bool | str):
            return float(number) if isinstance(number, float) else number
    except (TypeError, ValueError, OverflowError):
        pass
    raise event.refused(f"{field} must be a finite number, not {str(value)[:40]!r}")


def _positive(event: Event, field: str) -> Any:
    number = _number(event, field)
    if number == 0:
        raise event.refused(f"a {field} of 0 is no noise. No budget covers it.")
    if number < 0:
        raise event.refused(f"{field} must be greater than 0, not {number}")
    return number


def _rate(event: Event, field: str) -> Any:
    number = _number(event, field)
    if not 0 <= number <= 1:
        raise event.refused(f"{field} must be between 0 and 1, not {number}")
    return number


def _whole(event: Event, field: str, *, least: int = 1) -> int:
    return _checked(event, event.members[field], field, least=least)


def _checked(event: Event, value: Any, field: str = "step_counts", *, least: int = 1) -> int:
    number = _checked_number(event, value, field)
    if number != int(number) or not least <= number <= COUNT_MAX:
        raise event.refused(f"{field} must be a whole number from {least} to {COUNT_MAX:,}, not {number}")
    return int(number)


def _decimal(context: Context, number: Fraction) -> Decimal:
    return context.divide(Decimal(number.numerator), Decimal(number.denominator))


_LEAVES: Final[Mapping[str, Callable[[Event, Adjacency], _Part | None]]] = {
    "NoOpDpEvent": _nothing,
    "NonPrivateDpEvent": _not_private,
    "UnsupportedDpEvent": _unsupported,
    "RandomizedResponseDpEvent": _randomized_response,
    "GaussianDpEvent": _gaussian,
    "LaplaceDpEvent": _laplace,
    "DiscreteLaplaceDpEvent": _discrete_laplace,
    "PoissonSampledDpEvent": _poisson,
    "SampledWithReplacementDpEvent": _with_replacement,
    "SampledWithoutReplacementDpEvent": _fixed_size,
    "SingleEpochTreeAggregationDpEvent": _tree,
    "RepeatAndSelectDpEvent": _select,
    "MixtureOfGaussiansDpEvent": _mixture,
    "ZCDpEvent": _zcdp,
    "TruncatedSubsampledGaussianDpEvent": _truncated,
}

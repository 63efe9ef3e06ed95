"""From a mechanism to the event of dp-accounting that describes it, for a second opinion by its accountants.

Under replace_one, take PLDAccountant: it counts that replacing a value moves a sum by twice the bound of one, and
RdpAccountant does not. A mechanism that no accountant of dp-accounting costs as the ledger does is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from importlib import import_module
from typing import Any, Final

from ledger.client.dp_events.relations import Adjacency, adjacency_of
from ledger.client.mechanisms import AnyMechanism, declared
from ledger.errors import InvalidMechanism

COPIES_MAX: Final = 1_000
"""How often an event is written one after another, where repeating it by count would be charged once."""
Facts = Mapping[str, Any]


def to_dp_event(mechanism: AnyMechanism, *, adjacency: Any) -> Any:
    """Return a mechanism as a DpEvent of dp-accounting, which must be installed.

    adjacency: of the dataset, as for `from_dp_event`; give the accountant the same relation. Numbers that must be
    computed are rounded to floats that cost no less.

    Raises InvalidMechanism, with the path of the part, if dp-accounting has no event that its accountants cost as the
    ledger does, and ImportError without the library.

    >>> to_dp_event(Gaussian(noise_multiplier=5), adjacency="replace_one")
    GaussianDpEvent(noise_multiplier=10.0)
    """
    return _event(declared(mechanism), adjacency_of(adjacency), "mechanism")


def _event(facts: Facts, adjacency: Adjacency, path: str) -> Any:
    write = _WRITERS.get(str(facts.get("type")))
    if write is None:
        raise _refused(path, facts, "no mechanism of the ledger has this type")
    try:
        return write(facts, adjacency, path)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise _refused(path, facts, f"is not a valid declaration ({type(error).__name__}: {error})") from None


def _new(name: str, *arguments: Any, **fields: Any) -> Any:
    return getattr(import_module("dp_accounting.dp_event"), name)(*arguments, **fields)


def _refused(path: str, facts: Facts, why: str) -> InvalidMechanism:
    return InvalidMechanism(f"{path}: {str(facts.get('type'))[:40]}: {why}", field=path)


def _repeated(event: Any, count: int) -> Any:
    return event if count == 1 else _new("SelfComposedDpEvent", event, count)


def _over_bound(noise: float, adjacency: Adjacency) -> float:
    """Return the noise over the bound of one value, of noise over the sensitivity."""
    return noise * 2 if adjacency == "replace_one" else noise


def _gaussian(facts: Facts, adjacency: Adjacency, _path: str) -> Any:
    noise = _over_bound(_down(facts["noise_multiplier"]), adjacency)
    return _repeated(_new("GaussianDpEvent", noise), int(facts.get("count", 1)))


def _laplace(facts: Facts, adjacency: Adjacency, path: str) -> Any:
    if adjacency == "replace_one":
        raise _refused(
            path,
            facts,
            "no accountant of dp-accounting counts its sensitivity under REPLACE_ONE; pure_dp has an event",
        )
    return _repeated(_new("LaplaceDpEvent", _down(facts["noise_multiplier"])), int(facts.get("count", 1)))


def _pure_dp(facts: Facts, adjacency: Adjacency, path: str) -> Any:
    """Return the event whose loss is the worst of this epsilon."""
    epsilon, count = _up(facts["epsilon"]), int(facts.get("count", 1))
    if adjacency == "replace_one":
        return _responses(facts, epsilon, 2, count, path)
    return _repeated(_new("DiscreteLaplaceDpEvent", epsilon, 1), count)


def _randomized_response(facts: Facts, adjacency: Adjacency, path: str) -> Any:
    if adjacency != "replace_one":
        raise _refused(
            path,
            facts,
            "dp-accounting has it under REPLACE_ONE. Under REPLACE_SPECIAL it takes the answer of a unit without data "
            "for uniform, which costs less than the ledger's assumption. What comes nearest is pure_dp.",
        )
    return _responses(facts, _up(facts["epsilon"]), int(facts["categories"]), int(facts.get("count", 1)), path)


def _responses(facts: Facts, epsilon: float, categories: int, count: int, path: str) -> Any:
    """Return the answers one after another: PLDAccountant charges a SelfComposedDpEvent of them once."""
    if count > COPIES_MAX:
        raise _refused(path, facts, f"has more than {COPIES_MAX:,} answers. PLDAccountant charges repeated ones once.")
    noise = math.nextafter(categories / (categories - 1 + math.exp(min(epsilon, 700.0))) * (1 - 2.0**-50), 0.0)
    event = _new("RandomizedResponseDpEvent", noise_parameter=noise, num_buckets=categories)
    return event if count == 1 else _new("ComposedDpEvent", [event] * count)


def _zcdp(facts: Facts, _adjacency: Adjacency, _path: str) -> Any:
    return _new("ZCDpEvent", _up(facts["rho"]))


def _gdp(facts: Facts, adjacency: Adjacency, path: str) -> Any:
    if Fraction(facts.get("delta", 0)) > 0:
        raise _refused(path, facts, "no event has a delta of its own.")
    return _new("GaussianDpEvent", _over_bound(_down(1 / _fraction(facts["mu"])), adjacency))


def _dpsgd(facts: Facts, adjacency: Adjacency, path: str) -> Any:
    sampling, noise = facts["sampling"], _down(facts["noise_multiplier"])
    if sampling == "fixed_size":
        return _fixed_size(facts, adjacency, path)
    if sampling != "poisson":
        raise _refused(path, facts, "no event describes shuffled epochs. A Gaussian for each epoch costs no less.")
    rate, steps = _rate(facts)
    if facts.get("truncated_batch_size") is not None:
        fields = {name: facts[name] for name in ("dataset_size", "truncated_batch_size")}
        event = _new("TruncatedSubsampledGaussianDpEvent", sampling_probability=rate, noise_multiplier=noise, **fields)
    elif (records := facts.get("max_examples_per_user")) is not None:
        if adjacency == "replace_one":
            raise _refused(path, facts, "max_examples_per_user has no cost under replace_one")
        event = _of_user(noise, rate, int(records))
    else:
        event = _sampled(noise, rate)
    return _repeated(event, steps)


def _sampled(noise: float, rate: float) -> Any:
    return _new("PoissonSampledDpEvent", rate, _new("GaussianDpEvent", noise))


def _of_user(noise: float, rate: float, records: int) -> Any:
    chances = [math.comb(records, k) * rate**k * (1 - rate) ** (records - k) for k in range(records + 1)]
    moves = [float(k) for k in range(records + 1)]
    return _new("MixtureOfGaussiansDpEvent", standard_deviation=noise, sensitivities=moves, sampling_probs=chances)


def _fixed_size(facts: Facts, adjacency: Adjacency, path: str) -> Any:
    if adjacency != "add_or_remove_one":
        raise _refused(
            path,
            facts,
            "RdpAccountant, the only one that takes SampledWithoutReplacementDpEvent, counts half of the sensitivity.",
        )
    # A unit takes the place of another one, which moves the sum twice as far: Poisson sampling at half the noise.
    rate, steps = _rate(facts)
    if facts.get("batch_size") is not None:
        rate = _up(Fraction(facts["batch_size"], facts["dataset_size_min"]))
    return _repeated(_sampled(_down(_fraction(facts["noise_multiplier"]) / 2), rate), steps)


def _dpsgd_schedule(facts: Facts, _adjacency: Adjacency, path: str) -> Any:
    if facts.get("sampling") != "poisson":
        raise _refused(path, facts, "dp-accounting has no event for batches of a fixed size that is costed right.")
    scale = _fraction(facts.get("noise_scale", 1))
    return _new(
        "ComposedDpEvent",
        [
            _repeated(
                _sampled(_scaled(phase["noise_multiplier"], scale), _up(phase["sample_rate"])),
                int(phase["steps"]),
            )
            for phase in facts["phases"]
        ],
    )


def _matrix_factorization(facts: Facts, adjacency: Adjacency, path: str) -> Any:
    noise = _fraction(facts["noise_multiplier"])
    if facts.get("sensitivity") is not None:
        return _new("GaussianDpEvent", _down(noise / _fraction(facts["sensitivity"])))
    is_one_epoch = (facts.get("participations"), facts.get("completion")) == (1, "none")
    if facts["strategy"] == "tree" and is_one_epoch and adjacency == "zero_out":
        return _new("SingleEpochTreeAggregationDpEvent", _down(noise), int(facts["steps"]))
    column = {"identity": [1], "toeplitz": facts.get("coefficients")}.get(facts["strategy"])
    if facts.get("sampling") == "cyclic_poisson" and column and adjacency != "replace_one":
        squares = sum(_fraction(value) ** 2 for value in column[: int(facts["steps"])])
        groups = int(facts.get("separation") or len(column))
        amplified = _sampled(_down(_down(noise) / math.sqrt(squares) * (1 - 2.0**-50)), _up(facts["sample_rate"]))
        return _repeated(amplified, -(-int(facts["steps"]) // groups))
    raise _refused(
        path,
        facts,
        "dp-accounting has no event for this strategy. `evaluate` returns its mu, and gdp with that mu has one.",
    )


def _composed(facts: Facts, adjacency: Adjacency, path: str) -> Any:
    parts = [_event(declared(part), adjacency, f"{path}.parts[{index}]") for index, part in enumerate(facts["parts"])]
    return _new("ComposedDpEvent", parts)


def _none(facts: Facts, _adjacency: Adjacency, path: str) -> Any:
    raise _refused(path, facts, "dp-accounting has no event with an epsilon and a delta of its own.")


_WRITERS: Final[Mapping[str, Callable[[Facts, Adjacency, str], Any]]] = {
    "dpsgd": _dpsgd,
    "dpsgd_schedule": _dpsgd_schedule,
    "gaussian": _gaussian,
    "laplace": _laplace,
    "pure_dp": _pure_dp,
    "approximate_dp": _none,
    "randomized_response": _randomized_response,
    "zcdp": _zcdp,
    "gdp": _gdp,
    "matrix_factorization": _matrix_factorization,
    "composed": _composed,
}


# --- numbers ---------------------------------------------------------------------------------------------------------


def _rate(facts: Facts) -> tuple[float, int]:
    """Return the sample rate, rounded up, and the number of steps of either form."""
    if facts.get("sample_rate") is not None:
        return _up(facts["sample_rate"]), int(facts["steps"])
    rate = Fraction(facts["batch_size"], facts["dataset_size"])
    return _up(rate), math.ceil(_fraction(facts["epochs"]) / rate)


def _scaled(noise: Any, scale: Fraction) -> float:
    return _down(noise if scale == 1 else _fraction(noise) * scale)


def _fraction(number: Any) -> Fraction:
    """Return a number as the ledger reads it: a float is the decimal that is sent."""
    return Fraction(float.__repr__(number) if isinstance(number, float) else number)


def _down(number: Any) -> float:
    """Return the largest float that is at most the number. A float stays as it is."""
    if isinstance(number, float):
        return number
    exact = _fraction(number)
    near = float(exact)
    return math.nextafter(near, 0.0) if Fraction(near) > exact else near


def _up(number: Any) -> float:
    """Return the least float that is at least the number. A float stays as it is."""
    if isinstance(number, float):
        return number
    exact = _fraction(number if isinstance(number, int | Decimal | Fraction) else float(number))
    near = float(exact)
    return math.nextafter(near, math.inf) if Fraction(near) < exact else near

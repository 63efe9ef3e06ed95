"""The number of units: of a run's datasets, as they were registered, beside what its mechanism states or needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Any, Final

from ledger.accounting import mechanisms
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.mechanisms.base import Drawn, StatedSize
from ledger.errors import InvalidMechanism
from ledger.service.catalogue import Resolved

TOLERANCE_PERCENT: Final = 5
"""A stated number of units may differ by so much from the registered ones."""
LARGE_RATE: Final = Fraction(1, 10)
"""From here on a rate is unusual: it may be a percentage that was not divided by 100. 1 is full-batch training."""
WARNINGS_MAX: Final = 4
NAMES_MAX: Final = 3
_DIGITS: Final = Context(prec=6, rounding=ROUND_HALF_EVEN)


@dataclass(frozen=True, slots=True)
class Units:
    """How many units the data of a run has, by what is registered. most: None if that is not known. exact: None if
    least and most differ. names: the datasets that the run names. is_part: whether it uses partitions of one."""

    least: int
    most: int | None
    exact: int | None
    names: tuple[str, ...]
    is_part: bool

    @property
    def named(self) -> str:
        """Return the datasets, in words."""
        more = len(self.names) - NAMES_MAX
        return ", ".join(self.names[:NAMES_MAX]) + (f" and {more} more" if more > 0 else "")


def units_of(resolved: Resolved) -> Units:
    """Return how many units the data of a run has.

    A unit can be in several of the datasets, so that these have together between the largest number and the sum. Of
    partitions, and of a dataset that is derived and has no size of its own, only the most is known.
    """
    first = resolved.definitions[resolved.uses[0].dataset_id]
    if len(resolved.uses) == 1 and first.size is not None and not resolved.uses[0].partitions:
        return Units(first.size, first.size, first.size, (first.name,), is_part=False)
    named, least, is_part = [], 0, False
    most: int | None = 0
    for use in resolved.uses:
        definition = resolved.definitions[use.dataset_id]
        if definition.name not in use.via:
            continue
        named.append(definition.name)
        is_partial = any(other.partitions for other in resolved.uses if definition.name in other.via)
        is_part = is_part or is_partial
        size = definition.size
        if size is None:
            origins = [resolved.definitions[id_] for id_ in definition.ancestors]
            sizes = [origin.size for origin in origins if not origin.ancestors]
            upper = sum(size or 0 for size in sizes) if sizes and None not in sizes else None
        else:
            upper = size
            least = least if is_partial else max(least, size)
        most = None if most is None or upper is None else most + upper
    exact = least if least == most else None
    return Units(least, most, exact, tuple(named), is_part)


# --- what a mechanism states -----------------------------------------------------------------------------------------


def completed(mechanism: AnyMechanism, declared: Mapping[str, Any], resolved: Resolved) -> tuple[AnyMechanism, Any]:
    """Return a mechanism with the number of units that it lacks, and the JSON of that. declared: its JSON.

    Raises InvalidMechanism if the number is not registered, or if the mechanism is not valid with it.
    """
    if not mechanism.lacks_size:
        return mechanism, declared
    field, units = mechanisms.lacking_sizes(mechanism, "mechanism")[0], units_of(resolved)
    if units.exact is None:
        raise InvalidMechanism(f"{field}: is missing, and {_why_unknown(units)}; {_GIVE}", field=field)
    written = mechanisms.sized(declared, mechanism, units.exact)
    whole = mechanisms.parse(written)
    for size in whole.stated_sizes("mechanism"):
        if size.each > 1 and size not in mechanism.stated_sizes("mechanism"):
            raise InvalidMechanism(
                f"{size.field}: is missing. With max_examples_per_user it is the number of records, which is not"
                f" registered; {_GIVE}",
                field=size.field,
            )
    return whole, written


_GIVE: Final = "give how many units the batches are drawn from"


def _why_unknown(units: Units) -> str:
    if units.is_part:
        return f"a run on partitions uses a part of {units.named}"
    if len(units.names) > 1:
        return f"{units.named} can have units in common"
    return f"{units.named} is registered without a size"


def demand_known_size(mechanism: AnyMechanism, resolved: Resolved, *, is_explained: bool) -> None:
    """Raise InvalidMechanism if a mechanism states another number of units than its datasets are registered with.

    is_explained: whether the request gives the reason for that.
    """
    stated = mechanism.stated_sizes("mechanism")
    if not stated or is_explained:
        return
    units = units_of(resolved)
    for size in stated:
        most = None if units.most is None else units.most * size.each
        is_larger = most is not None and 100 * size.value > (100 + TOLERANCE_PERCENT) * most
        is_smaller = not size.is_least and 100 * size.value < (100 - TOLERANCE_PERCENT) * units.least
        if is_larger or is_smaller:
            raise _differs(size, units, most if is_larger else units.least, is_larger=is_larger)


def _differs(size: StatedSize, units: Units, registered: int | None, *, is_larger: bool) -> InvalidMechanism:
    name = size.field.rpartition(".")[2]
    whole = f"the whole of {units.named}" if units.is_part else units.named
    each = "" if size.each == 1 else f" with up to {size.each} records of each unit"
    effect = (
        "With too large a number a run is charged too little."
        if is_larger
        else "With too small a number a run is charged too much."
    )
    return InvalidMechanism(
        f"{size.field}: {size.value} differs by more than {TOLERANCE_PERCENT} % from {registered}, the registered size"
        f" of {whole}{each}. {effect} Correct {name}, or leave it out. If it is right, give the reason in words as"
        " size_differs, which is recorded with the run",
        field=size.field,
        stated=size.value,
        registered=registered,
    )


# --- Poisson batches -------------------------------------------------------------------------------------------------


def facts_of(mechanism: AnyMechanism, resolved: Resolved) -> dict[str, Any]:
    """Return what is recorded of how a run draws its batches: `expected_batch`, where it is known, and `warnings`, if
    there are any."""
    drawn = mechanism.drawn("mechanism")
    return _facts(drawn, units_of(resolved).exact) if drawn else {}


def facts_alone(mechanism: AnyMechanism) -> dict[str, Any]:
    """Return the same of a mechanism without a dataset."""
    return _facts(mechanism.drawn("mechanism"), None)


def _facts(drawn: Sequence[Drawn], units: int | None) -> dict[str, Any]:
    batch = _expected(drawn, units)
    warnings = _warnings(drawn, batch)
    return {
        **({} if batch is None else {"expected_batch": batch}),
        **({"warnings": warnings} if warnings else {}),
    }


def _expected(drawn: Sequence[Drawn], registered: int | None) -> dict[str, Any] | None:
    """Return how many units a Poisson batch has on average; None if that is not known.

    size: the most of any step; least: the least, if they differ. units: of how many. A number has six digits.
    """
    counts = {registered if one.units is None and one.each == 1 else one.units for one in drawn}
    units = counts.pop() if len(counts) == 1 else None
    if units is None:
        return None
    most, least = max(one.most for one in drawn) * units, min(one.least for one in drawn) * units
    return {
        "size": _six_digits(most),
        **({"least": _six_digits(least)} if least < most else {}),
        "units": units,
    }


def _warnings(drawn: Sequence[Drawn], batch: Mapping[str, Any] | None) -> list[str]:
    """Return what looks like a slip in how batches are drawn, in words."""
    texts = [_of_large_rate(one, batch) if LARGE_RATE <= one.most < 1 else _of_small_batch(one, batch) for one in drawn]
    return list(dict.fromkeys(text for text in texts if text is not None))[:WARNINGS_MAX]


def _of_large_rate(drawn: Drawn, batch: Mapping[str, Any] | None) -> str:
    rate = _six_digits(drawn.most)
    of = "" if batch is None else f", {_plain(batch['size'])} of {batch['units']}"
    return (
        f"{drawn.field}: each batch has {_percent(rate)} of the units on average{of}. If {_percent(rate / 100)} was"
        f" meant, the sample rate is {_plain(_six_digits(drawn.most / 100))}."
    )


def _of_small_batch(drawn: Drawn, batch: Mapping[str, Any] | None) -> str | None:
    if batch is None or drawn.least * batch["units"] >= 1:
        return None
    return (
        f"{drawn.field}: a batch has {_plain(_six_digits(drawn.least * batch['units']))} of {batch['units']} units on"
        " average, so that most batches are empty. If the sample rate is higher, the run is charged too little."
    )


def _six_digits(value: Fraction) -> Decimal:
    return _DIGITS.divide(Decimal(value.numerator), Decimal(value.denominator)).normalize()


def _percent(rate: Decimal) -> str:
    return f"{_plain(rate * 100)} %"


def _plain(number: Decimal) -> str:
    """Return a number without an exponent, unless it has many zeros."""
    return f"{number.normalize():f}" if -8 <= number.adjusted() <= 15 else str(number.normalize())

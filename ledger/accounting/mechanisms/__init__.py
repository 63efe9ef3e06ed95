"""The mechanisms that a run can declare, one module for each.

A module has the mechanism's fields, its cost under each bound, its steps, how it settles, its parameters that can be
solved for, and its parts for exact composition; `base` describes each of these. `registry` lists the mechanisms. All
else that depends on that list is derived here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, get_args

from pydantic import Field, TypeAdapter, ValidationError

from ledger import mistakes
from ledger.accounting.mechanisms.approximate_dp import ApproximateDp
from ledger.accounting.mechanisms.base import BaseMechanism, unsupported
from ledger.accounting.mechanisms.composed import Composed
from ledger.accounting.mechanisms.dpsgd import DpSgd
from ledger.accounting.mechanisms.dpsgd_schedule import DpSgdSchedule
from ledger.accounting.mechanisms.gaussian import Gaussian
from ledger.accounting.mechanisms.gdp import Gdp
from ledger.accounting.mechanisms.laplace import Laplace
from ledger.accounting.mechanisms.matrix_factorization import MatrixFactorization
from ledger.accounting.mechanisms.nearest import with_nearest
from ledger.accounting.mechanisms.pure_dp import PureDp
from ledger.accounting.mechanisms.randomized_response import RandomizedResponse
from ledger.accounting.mechanisms.registry import Simple, SimpleMechanism
from ledger.accounting.mechanisms.zcdp import ZCdp
from ledger.errors import InvalidMechanism, InvalidRequest

__all__ = [
    "ABOUT_TYPE",
    "BY_TYPE",
    "SOLVABLE",
    "AnyMechanism",
    "ApproximateDp",
    "Composed",
    "DpSgd",
    "DpSgdSchedule",
    "Gaussian",
    "Gdp",
    "Laplace",
    "MatrixFactorization",
    "Mechanism",
    "PureDp",
    "RandomizedResponse",
    "Simple",
    "ZCdp",
    "demand_sized",
    "field_path",
    "lacking_sizes",
    "parse",
    "planned_steps",
    "recorded",
    "segment",
    "segment_steps",
    "sized",
    "unsupported",
    "with_nearest",
]

AnyMechanism = SimpleMechanism | Composed
Mechanism = Annotated[AnyMechanism, Field(discriminator="type")]

BY_TYPE: Final[Mapping[str, type[BaseMechanism]]] = {
    get_args(mechanism.model_fields["type"].annotation)[0]: mechanism for mechanism in get_args(AnyMechanism)
}
"""Every mechanism by its `type`, in the order of the contract."""
SOLVABLE: Final = tuple(dict.fromkeys(name for mechanism in BY_TYPE.values() for name in mechanism.solvable))
"""Every parameter of any mechanism that can be solved for."""

_SIZE_NEEDED: Final = (
    "is missing: the number of units, of which a batch is a part. Give it beside batch_size and epochs, and beside"
    " truncated_batch_size"
)
_ADAPTER: Final[TypeAdapter[AnyMechanism]] = TypeAdapter(Mechanism)
ABOUT_TYPE: Final = frozenset({"union_tag_not_found", "union_tag_invalid"})
"""The kinds of Pydantic errors about a mechanism's `type`, which have the location of the whole mechanism."""


def parse(declared: Any) -> AnyMechanism:
    """Return a mechanism from JSON (numbers as int or Decimal). Raises InvalidMechanism, naming the field."""
    try:
        parsed = _ADAPTER.validate_python(declared)
    except ValidationError as error:
        first = next(iter(mistakes.described(error.errors(include_url=False)[:1], Mechanism)))
        field = field_path(("mechanism", *first["loc"], *(("type",) if first["type"] in ABOUT_TYPE else ())))
        raise InvalidMechanism(f"{field}: {with_nearest(mistakes.message(first), first)}", field=field) from error
    demand_sized(parsed)
    return parsed


def demand_sized(mechanism: AnyMechanism) -> None:
    """Raise InvalidMechanism if a mechanism lacks the number of units, which no dataset can supply here."""
    for field in lacking_sizes(mechanism, "mechanism"):
        raise InvalidMechanism(f"{field}: {_SIZE_NEEDED}", field=field)


def lacking_sizes(mechanism: AnyMechanism, path: str) -> list[str]:
    """Return the fields in which a mechanism lacks the number of units. path: of the mechanism."""
    if isinstance(mechanism, Composed):
        return [at for n, part in enumerate(mechanism.parts) for at in lacking_sizes(part, f"{path}.parts.{n}")]
    return [f"{path}.dataset_size"] if mechanism.lacks_size else []


def sized(declared: Mapping[str, Any], mechanism: AnyMechanism, units: int) -> dict[str, Any]:
    """Return the JSON of a mechanism with this number of units where it lacks one. mechanism: what it declares."""
    if isinstance(mechanism, Composed):
        pairs = zip(declared["parts"], mechanism.parts, strict=True)
        return {**declared, "parts": [sized(part, parsed, units) for part, parsed in pairs]}
    return {**declared, "dataset_size": units} if mechanism.lacks_size else dict(declared)


def recorded(declared: Any) -> AnyMechanism:
    """Parse a mechanism from a record, adding fields that were not needed at the time. Raises as `parse`."""
    return parse(_as_then(declared))


def _as_then(declared: Any) -> Any:
    """Return what was declared with the former defaults of correlated noise, which are required fields now."""
    if not isinstance(declared, Mapping):
        return declared
    if declared.get("type") == "composed" and isinstance(declared.get("parts"), list):
        return {**declared, "parts": [_as_then(part) for part in declared["parts"]]}
    if declared.get("type") != "matrix_factorization" or declared.get("strategy") is None:
        return declared
    if declared.get("sampling") is not None:
        return declared  # its participations are drawn
    defaults: dict[str, Any] = {"participations": 1, "separation": 1}
    defaults |= {"completion": "none"} if declared["strategy"] == "tree" else {}
    given = {name: value for name, value in declared.items() if value is not None}
    return defaults | given


def field_path(location: tuple[str | int, ...]) -> str:
    """Return a Pydantic error's location as a user would write it, without the tags of discriminated unions."""
    path: list[str] = []
    for before, part in zip((None, *location), location, strict=False):
        is_tag = part in BY_TYPE and (before == "mechanism" or isinstance(before, int))
        if not is_tag and not re.match(r"function-(before|after|plain|wrap)\[", str(part)):
            path.append(str(part))
    return ".".join(path)


# --- steps and segments ----------------------------------------------------------------------------------------------


def planned_steps(mechanism: AnyMechanism, segments: int = 1) -> tuple[int, int] | None:
    """Return the range of steps (or releases) that counts as the whole plan, from the floor to the ceiling.

    With segments, it ends with the last one. None if the mechanism has no steps. Raises as `segment_steps` does.
    """
    planned = mechanism.declared_steps
    if planned is None or segments == 1:
        return planned
    return planned[0], segments * segment_steps(mechanism, segments)


def segment_steps(mechanism: AnyMechanism, segments: int) -> int:
    """Return the most steps of a segment. Raises as `segment`."""
    _, most = segment(mechanism, segments).declared_steps or (0, 0)
    return most


def segment(mechanism: AnyMechanism, segments: int) -> AnyMechanism:
    """Return one of `segments` equal segments, as a mechanism; the whole mechanism if there is only one.

    Raises InvalidRequest if the mechanism has no steps, or fewer than segments.
    """
    planned = mechanism.declared_steps
    if planned is None:
        raise InvalidRequest(
            "segments: the mechanism has no steps or releases to divide; leave segments out, and the run is charged as"
            " a whole",
            field="segments",
        )
    fewest, _ = planned
    if not 1 <= segments <= fewest:
        raise InvalidRequest(f"segments: must be between 1 and the {fewest} steps of the mechanism", field="segments")
    return mechanism.segment(segments) if segments > 1 else mechanism

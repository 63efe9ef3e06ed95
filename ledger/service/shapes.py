"""What may be said of a run: names, texts, and the requests to ask for one, to settle it, to void it."""

from __future__ import annotations

import re
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, PydanticCustomError

from ledger.accounting.mechanisms import Mechanism
from ledger.accounting.numbers import COUNT_MAX, Probability

VALID_FOR_DAYS_MAX: Final = 366
DATASETS_MAX: Final = 100
SEGMENTS_MAX: Final = 1000
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,62}$"
PARTITION_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"

DatasetName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
ProjectName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
PartitionName = Annotated[str, StringConstraints(pattern=PARTITION_PATTERN)]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=255)]
LongText = Annotated[str, StringConstraints(min_length=1, max_length=4000)]


class Strict(BaseModel):
    """Types as they are, and no field that is not known."""

    model_config = ConfigDict(extra="forbid", strict=True)


def distinct(names: list[str]) -> list[str]:
    """The names, each of which stands once. Raises what Pydantic reports otherwise."""
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise PydanticCustomError("distinct", "names {name} twice", {"name": twice})
    return names


class DatasetUse(Strict):
    """A dataset that a run uses, whole or some of its partitions."""

    name: DatasetName
    partitions: (
        Annotated[
            list[PartitionName],
            Field(min_length=1, max_length=4096, json_schema_extra={"uniqueItems": True}),
            AfterValidator(distinct),
        ]
        | None
    ) = None


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class _OrName:
    """Tells the document that a name alone stands for the whole dataset."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "pattern": NAME_PATTERN}, handler(schema)]}


Datasets = Annotated[
    list[Annotated[DatasetUse, BeforeValidator(_named), _OrName()]], Field(min_length=1, max_length=DATASETS_MAX)
]
"""The datasets that a run uses: names, or names with partitions."""


# Years and months have no certain length.
_DURATION: Final = re.compile(
    r"P(?=[0-9T])(?:([0-9]{1,6})W|(?:([0-9]{1,6})D)?"
    r"(?:T(?=[0-9])(?:([0-9]{1,6})H)?(?:([0-9]{1,6})M)?(?:([0-9]{1,9}(?:\.[0-9]{1,6})?)S)?)?)"
)


def _duration(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise PydanticCustomError("duration", "must be an ISO 8601 duration such as P1D, P2W or PT12H")
    weeks, days, hours, minutes, seconds = (Decimal(number or 0) for number in found.groups())
    whole = timedelta(weeks=int(weeks), days=int(days), hours=int(hours), minutes=int(minutes))
    duration = whole + timedelta(microseconds=int(seconds * 1_000_000))
    if duration > timedelta(days=VALID_FOR_DAYS_MAX):
        raise PydanticCustomError("duration", "must be longer than nothing and at most 366 days")
    return duration


def _some_time(value: Any) -> timedelta:
    duration = _duration(value)
    if not duration:
        raise PydanticCustomError("duration", "must be longer than nothing and at most 366 days")
    return duration


_DAY: Final = WithJsonSchema({"type": "string", "format": "duration", "default": "P1D"})
Duration = Annotated[timedelta, BeforeValidator(_some_time), _DAY]
Overlap = Annotated[timedelta, BeforeValidator(_duration), _DAY]
"""A duration that may be none at all."""


class Code(Strict):
    """Where the training code is to be found."""

    repository: ShortText
    commit: ShortText


class RunRequest(Strict):
    """A training run, or any other release, as it is declared before it touches data."""

    datasets: Datasets
    mechanism: Mechanism
    delta: Annotated[
        Probability | None,
        Field(
            description="The run's share of the delta budget, for a certificate; a hundredth of the least limit among "
            "the accounts charged when left out. Where the cost needs no certificate it makes no difference."
        ),
    ] = None
    segments: Annotated[
        int | None,
        Field(
            ge=1,
            le=SEGMENTS_MAX,
            description="Reserve the run as so many pieces, each restarted with fresh randomness, after any of which "
            "it may stop and be charged for those that were begun.",
        ),
    ] = None
    project: ProjectName | None = None
    purpose: LongText | None = None
    labels: (
        Annotated[dict[Annotated[str, StringConstraints(max_length=63)], ShortText], Field(max_length=64)] | None
    ) = None
    code: Code | None = None
    valid_for: Duration = timedelta(days=1)


class SettleRequest(Strict):
    """What was executed."""

    steps: Annotated[
        int | None, Field(ge=0, le=COUNT_MAX, description="Every step executed, repeated ones included.")
    ] = None
    stop: Annotated[
        Literal["planned", "data_independent", "data_dependent"] | None,
        Field(
            description="Why no more was executed: `data_independent` where neither the data nor any output, also of "
            "a later run, had a say in it; otherwise `data_dependent`, which is what fewer steps mean by themselves."
        ),
    ] = None
    evidence: dict[str, Any] | None = None


class VoidRequest(Strict):
    """Why no output was ever seen."""

    reason: LongText

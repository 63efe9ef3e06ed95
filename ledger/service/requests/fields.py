"""What fields of requests share: names, texts, times and budgets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from ledger.accounting.budgets import Budget, EpsilonBudget, MuBudget
from ledger.core.journal import chain
from ledger.mistakes import NAME_PATTERN, PARTITION_PATTERN

VALID_FOR_DAYS_MAX: Final = 366

DatasetName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
ProjectName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
PartitionName = Annotated[str, StringConstraints(pattern=PARTITION_PATTERN)]
ABOUT_ADJACENCY: Final = (
    "How neighbouring datasets differ. `add_or_remove_one`: one has a unit that the other does not. `replace_one`: one"
    " unit is another one. `zero_out`: one unit's data is replaced by nothing: it contributes zero, and the number of"
    " units is public and the same."
)
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=255)]
LongText = Annotated[str, StringConstraints(min_length=1, max_length=4000)]


class Strict(BaseModel):
    """A model with exact types and no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _is_no_number(cls, value: Any) -> Any:
        # FastAPI lets Pydantic read attributes: a decimal would count as an object without any of the members.
        if isinstance(value, Decimal):
            raise PydanticCustomError("dict_type", "must be an object")
        return value


def distinct(names: list[str]) -> list[str]:
    """Return the names if each appears once. Raises what Pydantic reports otherwise."""
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise PydanticCustomError("distinct", "must not name {name} twice", {"name": twice})
    return names


NOTES_BYTES_MAX: Final = 4096
"""The most bytes, as JSON, of the fields of one request that the ledger only stores."""


def demand_short(notes: Mapping[str, Any]) -> None:
    """Raise what Pydantic reports if these fields, which stay in a journal for good, are together longer than the
    limit. Fields that are None count nothing."""
    sizes = {name: len(chain.canonical(value).encode()) for name, value in notes.items() if value is not None}
    if sum(sizes.values()) > NOTES_BYTES_MAX:
        listed = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        message = (
            "{listed} bytes as JSON, together more than {most}: store them elsewhere, and send their address or digest"
        )
        raise PydanticCustomError("notes", message, {"listed": listed, "most": f"{NOTES_BYTES_MAX:,}"})


def field_error(field: str, message: str) -> ValidationError:
    """Return the error for a field that contradicts others."""
    error = PydanticCustomError("dataset", "{message}", {"message": message})
    return ValidationError.from_exception_data("dataset", [InitErrorDetails(type=error, loc=(field,), input=None)])


# --- times ------------------------------------------------------------------------------------------------------------

# The length of years and months varies.
_DURATION: Final = re.compile(
    r"P(?=[0-9T])(?:([0-9]{1,6})W|(?:([0-9]{1,6})D)?"
    r"(?:T(?=[0-9])(?:([0-9]{1,6})H)?(?:([0-9]{1,6})M)?(?:([0-9]{1,9}(?:\.[0-9]{1,6})?)S)?)?)"
)


def _duration(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise PydanticCustomError("duration", "must be an ISO 8601 duration such as P1D, P2W or PT12H")
    weeks, days, hours, minutes, seconds = (Decimal(number or 0) for number in match.groups())
    whole = timedelta(weeks=int(weeks), days=int(days), hours=int(hours), minutes=int(minutes))
    duration = whole + timedelta(microseconds=int(seconds * 1_000_000))
    if duration > timedelta(days=VALID_FOR_DAYS_MAX):
        raise PydanticCustomError("duration", "must be longer than zero and at most 366 days")
    return duration


def _some_time(value: Any) -> timedelta:
    duration = _duration(value)
    if not duration:
        raise PydanticCustomError("duration", "must be longer than zero and at most 366 days")
    return duration


_DAY: Final = WithJsonSchema({"type": "string", "format": "duration", "default": "P1D"})
Duration = Annotated[timedelta, BeforeValidator(_some_time), _DAY]
Overlap = Annotated[timedelta, BeforeValidator(_duration), _DAY]
"""A duration that may be zero."""


def _moment(value: Any) -> Any:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or "T" not in value.upper():
        raise PydanticCustomError("moment", "must be an RFC 3339 time with its offset, such as 2030-01-01T00:00:00Z")
    try:
        moment = datetime.fromisoformat(value.upper())
        return moment if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise PydanticCustomError("moment", "must be an RFC 3339 time, such as 2030-01-01T00:00:00Z") from None


Moment = Annotated[AwareDatetime, BeforeValidator(_moment)]
"""An RFC 3339 time with its offset."""


_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _when(value: Any) -> Any:
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        return _moment(value)
    try:
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    except ValueError:
        raise PydanticCustomError("moment", "must be a date that exists, such as 2030-01-31") from None


When = Annotated[
    AwareDatetime,
    BeforeValidator(_when),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "string", "format": "date"}]}),
]
"""A `Moment`, or a date, which stands for its beginning in UTC."""


def _day(value: Any) -> str:
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        raise PydanticCustomError("day", "must be a date, such as 2030-01-31")
    try:
        datetime.fromisoformat(value)
    except ValueError:
        raise PydanticCustomError("day", "must be a date that exists, such as 2030-01-31") from None
    return value


Day = Annotated[str, BeforeValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]
"""A date, as it is written."""


def _printable(value: str) -> str:
    if not value.isprintable() or not value.strip():
        raise PydanticCustomError(
            "printable", "must be one line of printable characters, such as a name and an address"
        )
    return value


LineText = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_printable)]
"""One line of text."""


# --- budgets ----------------------------------------------------------------------------------------------------------


def _budget(value: Any) -> Any:
    """Choose the form by its fields, so that an error is about the form that was meant."""
    if not isinstance(value, dict):
        raise PydanticCustomError("budget", 'must be an object: {"epsilon", "at_delta"} or {"mu", "delta"}')
    return (MuBudget if "mu" in value else EpsilonBudget).model_validate(value)


AnyBudget = Annotated[Budget, BeforeValidator(_budget)]

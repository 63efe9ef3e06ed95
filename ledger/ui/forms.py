"""What a person wrote into a form or an address, as the requests of services."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from ledger.core.amounts import microseconds
from ledger.errors import InvalidRequest
from ledger.mistakes import NAME_PATTERN

T = TypeVar("T")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER: Final = re.compile(r"[+-]?[0-9]{0,30}(\.[0-9]{0,30})?([eE][+-]?[0-9]{1,3})?")


def value_of(text: str) -> Any:
    """Return a number if the text is one, else the text."""
    stated = text.strip()
    if _INTEGER.fullmatch(stated):
        return int(stated)
    if stated and any(sign.isdigit() for sign in stated) and _NUMBER.fullmatch(stated):
        return Decimal(stated)
    return {"true": True, "false": False}.get(stated, stated)


def read(shape: Any, values: Mapping[str, Any]) -> Any:
    """Return a request from its members. Raises InvalidRequest with the first member that is wrong."""
    try:
        return TypeAdapter(shape).validate_python(dict(values), from_attributes=False)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"{field or 'form'}: {_message(first)}", field=field or "form") from None


def _message(error: Mapping[str, Any]) -> str:
    """Return what is wrong with a member, in words."""
    if error["type"] == "string_pattern_mismatch" and error["ctx"]["pattern"] == NAME_PATTERN:
        return f"{str(error['input'])[:63]!r} is no name: lower-case letters, digits, '.', '_' and '-' are allowed"
    return str(error["msg"])[:500]


def listed(text: str | None) -> list[str]:
    """Return the parts of a text between commas and white space."""
    return [part for part in re.split(r"[\s,]+", text or "") if part]


def given(values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members that have a value."""
    return {name: value for name, value in values if value not in (None, "", [])}


def moment(text: str | None, *, field: str) -> int | None:
    """Return a date, or a time in UTC, in microseconds; None if the text is empty. Raises InvalidRequest."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidRequest(f"{field}: {text[:40]!r} is no date. Write it as 2026-10-01.", field=field) from None
    return microseconds(at if at.tzinfo is not None else at.replace(tzinfo=UTC))


def time_of(us: int) -> datetime:
    """Return a time in UTC from its microseconds."""
    return datetime.fromtimestamp(us / 1_000_000, tz=UTC)

"""Times as a person writes them: one parser for the client and the command line. The API takes RFC 3339 times."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from ledger.errors import InvalidRequest

_AGO: Final = re.compile(r"([0-9]{1,5})([hdw])")
_UNITS: Final = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
FORMS: Final = "a date such as 2026-10-01, a time such as 2026-10-01T12:00:00Z, today, yesterday, 12h, 30d or 2w"


def _now() -> datetime:
    return datetime.now(UTC)


def moment(value: str | datetime | None, *, field: str, now: Callable[[], datetime] = _now) -> str | None:
    """Return a time as the API takes it; None as it is. Days begin at 00:00 UTC.

    value: a time with its offset, a date, `now`, `today`, `yesterday`, or how long ago in hours, days or weeks (`30d`).
    Raises InvalidRequest, which names the field.
    """
    if value is None:
        return None
    return (_of_datetime(value, field) if isinstance(value, datetime) else _of_text(value, field, now)).isoformat()


def _of_datetime(value: datetime, field: str) -> datetime:
    if value.tzinfo is None:
        raise InvalidRequest(f"{field}: {value.isoformat()} has no time zone. Give one: tzinfo=UTC", field=field)
    return value


def _of_text(text: str, field: str, now: Callable[[], datetime]) -> datetime:
    word = text.strip().lower()
    midnight = now().replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"now": now(), "today": midnight, "yesterday": midnight - timedelta(days=1)}
    if word in named:
        return named[word]
    try:
        if (ago := _AGO.fullmatch(word)) is not None:
            return now() - int(ago[1]) * _UNITS[ago[2]]
        if _DATE.fullmatch(word):
            return datetime.fromisoformat(word).replace(tzinfo=UTC)
        parsed = datetime.fromisoformat(word.upper())
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{field}: {text!r} is no time. Give {FORMS}.", field=field) from None
    if parsed.tzinfo is None:
        raise InvalidRequest(f"{field}: {text!r} has no offset. Add Z for UTC, such as {text}Z.", field=field)
    return parsed

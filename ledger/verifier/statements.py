"""Parse the contents of receipts and heads strictly."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from ledger.errors import InvalidRequest

JournalId = tuple[UUID, UUID | None]
"""Which journal: of a tenant, and one of its datasets; None for the tenant's own journal."""


@contextmanager
def shaped(source: str) -> Iterator[None]:
    """Turn the errors of a signed text with another shape into InvalidRequest."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InvalidRequest(f"{source}: is of an unknown version. Use a newer privacy-ledger", field=source) from None


def journal_of(
    tenant: Mapping[str, Any], dataset: Mapping[str, Any] | None
) -> tuple[JournalId, tuple[str, str | None]]:
    """Return which journal a signed text is about, and the names of tenant and dataset. This and the next two raise
    KeyError, TypeError, ValueError or AttributeError for another shape."""
    named = str(tenant["name"]), None if dataset is None else str(dataset["name"])
    return (UUID(tenant["id"]), None if dataset is None else UUID(dataset["id"])), named


def number_of(value: Any) -> int:
    """Return the number of an entry, or 0. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError("not a number of an entry")
    return value


def hash_of(value: Any) -> str:
    """Return a hash, in hexadecimal. Raises ValueError."""
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError("not a hash")
    return value


def kid_of(token: str) -> str:
    """Return the key that signed a verified token."""
    first = token.partition(".")[0]
    return str(json.loads(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)))["kid"])

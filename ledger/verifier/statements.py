"""What a receipt or a head states, read strictly."""

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
"""Whose journal: a tenant, and one of its datasets or, where that is None, itself."""


@contextmanager
def shaped(source: str) -> Iterator[None]:
    """What a signed text that has another shape raises, as InvalidRequest."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InvalidRequest(f"{source}: is of a version that is not known", field=source) from None


def journal_of(
    tenant: Mapping[str, Any], dataset: Mapping[str, Any] | None
) -> tuple[JournalId, tuple[str, str | None]]:
    """Whose journal a signed text speaks of, and what it calls the two. This and the next two raise KeyError,
    TypeError, ValueError or AttributeError where it is of another shape."""
    named = str(tenant["name"]), None if dataset is None else str(dataset["name"])
    return (UUID(tenant["id"]), None if dataset is None else UUID(dataset["id"])), named


def number_of(value: Any) -> int:
    """The number of an entry, or 0."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError("not a number of an entry")
    return value


def hash_of(value: Any) -> str:
    """A hash, in hexadecimal."""
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError("not a hash")
    return value


def kid_of(token: str) -> str:
    """Which key signed a token that was read before."""
    first = token.partition(".")[0]
    return str(json.loads(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)))["kid"])

"""What a run's request names, read from its entry: the partitions, the project, and how long the approval is valid."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from ledger.canonical import digest, parse, parse_canonical
from ledger.core.amounts import microseconds, timestamp
from ledger.core.entries import Sealed
from ledger.core.journal.chain import Demand

_DAY: Final = timedelta(days=1)
# The length of years and months varies.
_DURATION: Final = re.compile(
    r"P(?:([0-9]+)W|(?:([0-9]+)D)?(?:T(?:([0-9]+)H)?(?:([0-9]+)M)?(?:([0-9]+(?:\.[0-9]{1,6})?)S)?)?)", re.ASCII
)
_SECONDS: Final = (604_800, 86_400, 3_600, 60, 1)


def after(at: str, duration: timedelta) -> str:
    """Return the time this much later, in the form of an entry."""
    return timestamp(microseconds(datetime.fromisoformat(at)) + duration // timedelta(microseconds=1))


WITHHELD: Final[Mapping[str, Any]] = {}
"""Takes the place of a request that is in another journal and not available."""


def request_of(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the request, or WITHHELD."""
    request: Mapping[str, Any] = entry.get("request", WITHHELD)
    return request


def attach(entry: dict[str, Any], request: str | None, demand: Demand) -> None:
    """Attach the request to an entry that names it by its digest. Raises if it does not match, or the entry has its
    own."""
    if request is not None:
        demand("request_in" in entry, "contains its request, and names another entry that has it")
        demand(digest(request).hex() == entry["request_sha256"], "contains a request other than the one it names")
        entry["request"] = parse_canonical(request)


def parsed(sealed: Sealed) -> dict[str, Any]:
    """Return an entry that was checked before, with its request, even if that is in another journal and available."""
    entry: dict[str, Any] = parse(sealed.body)
    if sealed.request is not None:
        entry["request"] = parse(sealed.request)
    return entry


def start_by(entry: Mapping[str, Any]) -> str:
    """Return until when the run may be started: a day after the approval, unless the request has another duration."""
    stated = entry["request"].get("valid_for")
    return after(entry["at"], _DAY if stated is None else _duration(stated))


def _duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text) if len(text) <= 100 else None
    if match is None:
        raise ValueError("has a valid_for that is not a duration")
    seconds = sum(Decimal(number or 0) * unit for number, unit in zip(match.groups(), _SECONDS, strict=True))
    return timedelta(microseconds=int(seconds * 1_000_000))


def partitions(entry: Mapping[str, Any], demand: Demand) -> Sequence[str] | None:
    """Return the partitions of this dataset that the request names, by any dataset that reaches it; None for all."""
    named = dict(map(_use, entry["request"]["datasets"]))
    demand(len(named) == len(entry["request"]["datasets"]), "has a request that names a dataset twice")
    via = entry["via"]
    demand(
        bool(via) and len(set(via)) == len(via) and named.keys() >= set(via),
        "is charged through a dataset that the request does not name",
    )
    demand(
        entry["dataset"] not in named or via == [entry["dataset"]],
        "is named by the request, and charged through another dataset",
    )
    stated = named[via[0]] if len(via) == 1 else None
    demand(stated is None or 0 < len(stated) == len(set(stated)), "names no partition, or one twice")
    return stated


def _use(stated: str | Mapping[str, Any]) -> tuple[str, Sequence[str] | None]:
    return (stated, None) if isinstance(stated, str) else (stated["name"], stated.get("partitions"))

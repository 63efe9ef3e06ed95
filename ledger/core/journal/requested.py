"""What a run's request names, read from its entry: the partitions, the project, and how long the approval holds."""

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
# Years and months have no certain length.
_DURATION: Final = re.compile(
    r"P(?:([0-9]+)W|(?:([0-9]+)D)?(?:T(?:([0-9]+)H)?(?:([0-9]+)M)?(?:([0-9]+(?:\.[0-9]{1,6})?)S)?)?)", re.ASCII
)
_SECONDS: Final = (604_800, 86_400, 3_600, 60, 1)


def after(at: str, duration: timedelta) -> str:
    """The time so much later, as an entry states it."""
    return timestamp(microseconds(datetime.fromisoformat(at)) + duration // timedelta(microseconds=1))


WITHHELD: Final[Mapping[str, Any]] = {}
"""In place of a request that stands in another journal and is not at hand."""


def request_of(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was sent, or WITHHELD."""
    request: Mapping[str, Any] = entry.get("request", WITHHELD)
    return request


def attach(entry: dict[str, Any], request: str | None, demand: Demand) -> None:
    """Put the request beside an entry that names it by its digest, if it is that one. An entry with a request of its
    own has no other."""
    if request is not None:
        demand("request_in" in entry, "comes with a request, and names none that stands elsewhere")
        demand(digest(request).hex() == entry["request_sha256"], "comes with another request than it names")
        entry["request"] = parse_canonical(request)


def parsed(sealed: Sealed) -> dict[str, Any]:
    """An entry that was checked before, with its request, also where that stands elsewhere and is at hand."""
    entry: dict[str, Any] = parse(sealed.body)
    if sealed.request is not None:
        entry["request"] = parse(sealed.request)
    return entry


def start_by(entry: Mapping[str, Any]) -> str:
    """Until when the run may be started: a day after the approval, unless the request asks for another duration."""
    stated = entry["request"].get("valid_for")
    return after(entry["at"], _DAY if stated is None else _duration(stated))


def _duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text) if len(text) <= 100 else None
    if match is None:
        raise ValueError("valid_for is no duration")
    seconds = sum(Decimal(number or 0) * unit for number, unit in zip(match.groups(), _SECONDS, strict=True))
    return timedelta(microseconds=int(seconds * 1_000_000))


def partitions(entry: Mapping[str, Any], demand: Demand) -> Sequence[str] | None:
    """The partitions of this dataset that the request names, by whichever of its datasets reaches this one; None for
    all that there are."""
    named = dict(map(_use, entry["request"]["datasets"]))
    demand(len(named) == len(entry["request"]["datasets"]), "is of a request that names a dataset twice")
    via = entry["via"]
    demand(bool(via) and len(set(via)) == len(via) and named.keys() >= set(via), "is reached by what was not named")
    demand(entry["dataset"] not in named or via == [entry["dataset"]], "is named, and reached by something else")
    stated = named[via[0]] if len(via) == 1 else None
    demand(stated is None or 0 < len(stated) == len(set(stated)), "names no partitions, or one twice")
    return stated


def _use(stated: str | Mapping[str, Any]) -> tuple[str, Sequence[str] | None]:
    return (stated, None) if isinstance(stated, str) else (stated["name"], stated.get("partitions"))

"""What equal small runs would have cost as one run.

Runs that are costed beside what is left cost more and more as a budget ends, and one run of all their steps costs less
than all of them. Only the requester knows whether they can be declared as one. So a refusal has what was charged for
the equal runs before it, and what one run of all of them would cost; a plan has how many fit as one run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, Final, NamedTuple

from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.numbers import COUNT_MAX
from ledger.core.amounts import ZERO, Amount
from ledger.core.entries import Record

ENTRIES_MAX: Final = 400
"""Among how many entries before a refusal equal runs are looked for."""
KINDS: Final = ("run-approved", "run-voided")
"""The kinds of these entries."""
LENGTHS: Final = ("steps", "epochs")
"""The parameters by which a run is as long as several."""


class Equals(NamedTuple):
    """Equal runs of one principal: how many there are, and what they were charged at their approval."""

    runs: int
    charged: Amount


def length_of(mechanism: AnyMechanism) -> str | None:
    """Return the parameter that sets how long a run is; None if several of these are no run of this kind."""
    declared = mechanism.model_dump(exclude_none=True)
    return next((name for name in LENGTHS if name in declared and name in mechanism.solvable), None)


def longer(mechanism: AnyMechanism, times: int) -> AnyMechanism | None:
    """Return the mechanism that is this many times as long; None if there is none."""
    name = length_of(mechanism)
    if name is None:
        return None
    declared = mechanism.model_dump(exclude_none=True)
    if declared[name] * times > COUNT_MAX:
        return None
    return type(mechanism)(**{**declared, name: declared[name] * times})


def equals(entries: Iterable[Record], refused: Record) -> Equals:
    """Return the runs among these entries that asked for the same as a refused one, by the same principal, and were not
    voided."""
    approved: dict[str, Amount] = {}
    for entry in entries:
        if entry["kind"] == "run-voided":
            approved.pop(entry["run"], None)
        elif _is_equal(entry, refused):
            approved[entry["run"]] = Amount.from_facts(entry["cost"])
    return Equals(len(approved), reduce(Amount.__add__, approved.values(), ZERO))


def _is_equal(entry: Record, refused: Record) -> bool:
    if "request" not in entry or entry["actor"]["principal"] != refused["actor"]["principal"]:
        return False
    return _asked(entry["request"]) == _asked(refused["request"])


def _asked(request: Mapping[str, Any]) -> Sequence[Any]:
    return [request.get(name) for name in ("mechanism", "datasets", "project", "segments")]

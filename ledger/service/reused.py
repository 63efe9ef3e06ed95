"""Name the run that an idempotency key stands for, and what differs in another request with the same key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ledger.core.entries import Record
from ledger.core.journal.chain import canonical
from ledger.errors import IdempotencyKeyReused

FIELDS_MAX: Final = 10


def described(error: IdempotencyKeyReused, body: Mapping[str, Any], entries: Sequence[Record]) -> IdempotencyKeyReused:
    """Return the error with the run and the fields that differ.

    body: what is asked now. entries: those of the run that the key stands for; without a request among them, the error
    is returned unchanged.
    """
    asked = next((entry["request"] for entry in entries if "request" in entry), None)
    if asked is None:
        return error
    run, every = error.facts["run"], sorted(_differing(asked, body))
    fields = every[:FIELDS_MAX]
    more = f" and {len(every) - FIELDS_MAX} more" if len(every) > FIELDS_MAX else ""
    return IdempotencyKeyReused(
        (
            f"This Idempotency-Key stands for run {run}, whose request differs in {', '.join(fields)}{more}. Use a new"
            " key for a new run, or repeat exactly the same request."
        ),
        run=run,
        differs=fields,
    )


def _differing(one: Mapping[str, Any], other: Mapping[str, Any], *path: str) -> Iterator[str]:
    """Yield the paths of members that two objects do not have alike, two levels deep."""
    for name in one.keys() | other.keys():
        mine, yours = one.get(name), other.get(name)
        if isinstance(mine, Mapping) and isinstance(yours, Mapping) and not path:
            yield from _differing(mine, yours, name)
        elif (name in one) != (name in other) or canonical(mine) != canonical(yours):
            yield ".".join((*path, name))

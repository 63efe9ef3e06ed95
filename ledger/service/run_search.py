"""The search for a page of runs that satisfy a filter: by rows first, then by the texts of their entries."""

from __future__ import annotations

from typing import Final

from ledger.core.datasets import Definition
from ledger.core.entries import Record
from ledger.core.people import Actor
from ledger.core.runs import Run
from ledger.service.run_filters import Filters
from ledger.service.seen import parsed_of, sealed_of
from ledger.store import Reading
from ledger.store.runs import Position, Sought, position_of

TEXTS_AT_ONCE: Final = 100
TEXTS_MAX: Final = 800
READS_MAX: Final = 20
"""How many requests of runs one page reads for a filter of their texts, and in how many reads of 2 MiB at most. It ends
there, however few it found."""


def sought_by(reading: Reading, actor: Actor, filters: Filters, within: Definition | None) -> Sought | None:
    """Return the part of a filter that rows decide; None if no decided run can satisfy it. within: its dataset."""
    now_us = reading.now_us()
    named = filters.principal
    own = None if actor.datasets is None else actor.principal_id
    if (None not in (named, own) and named != own) or filters.state in ("waiting", "expired"):
        return None
    return Sought(
        dataset_id=None if within is None else within.id,
        state=filters.state,
        project=filters.project,
        due_before_us=now_us if filters.is_overdue else None,
        not_due_before_us=now_us if filters.is_overdue is False else None,
        principal_id=named or own,
        since_us=filters.since_us,
        until_us=filters.until_us,
        within=actor.datasets,
    )


def walk(
    reading: Reading, sought: Sought, filters: Filters, *, after: Position | None, limit: int
) -> tuple[list[tuple[Run, list[Record]]], Position | None]:
    """Return at most `limit` runs that satisfy a filter, and where the search ended if there may be more. It reads
    a bounded number of rows and entries, however few it finds."""
    found: list[tuple[Run, list[Record]]] = []
    looked = 0
    for _ in range(READS_MAX):
        count = TEXTS_AT_ONCE if filters.reads_texts else limit - len(found)
        rows, end = reading.runs.page(sought, after=after, limit=count + 1)
        sealed = sealed_of(reading, rows[:count])
        for run, entries in sealed:
            after, looked = position_of(run), looked + 1
            if filters.holds(entries):
                found.append(parsed_of(run, entries))
            if len(found) == limit:
                break
        looked_at_all = len(sealed) == len(rows) and after == (position_of(rows[-1]) if rows else after)
        if looked_at_all:
            return found, end
        if len(found) == limit or looked >= TEXTS_MAX or not filters.reads_texts:
            break
    return found, after

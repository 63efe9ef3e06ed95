"""What is worth telling of a tenant that no decision raises: found by looking, now and then.

A run that was not started or settled in time; a journal that does not end where its row says, or whose newest bytes are
not those that were hashed; a budget that will not last. All of it reads one snapshot and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple
from uuid import UUID

from ledger.core.alerting import Alert, Alerting
from ledger.core.alerts import (
    head,
    mismatch,
    overdue,
    short,
)
from ledger.core.datasets import Dataset, Parent
from ledger.core.entries import NO_HASH, Entry, TenantEntry
from ledger.core.journal import chain
from ledger.errors import JournalBroken
from ledger.service.forecasts import outlooks
from ledger.store import Reading

PAGE: Final = 500
ALERTS_MAX: Final = 100_000
"""How many alerts of a tenant are kept, the newest."""
NOTHING_DUE: Final = (0, UUID(int=0))
"""Where `late_runs` begins."""


# --- runs that are late ----------------------------------------------------------------------------------------------


class Late(NamedTuple):
    """A page of late runs, and the last of them, after which the next page begins."""

    alerts: list[Alert]
    last: tuple[int, UUID]


def late_runs(reading: Reading, *, after: tuple[int, UUID], now_us: int) -> Late:
    """The runs that were due after the one named and before now, the first due first, a page of them at most."""
    rows = reading.runs.due(after=after, until_us=now_us, limit=PAGE)
    alerts = [
        overdue(dataset, run_id=run.id, state=run.state, due_us=run.due_us or 0, seq=seq) for run, dataset, seq in rows
    ]
    last = max(((run.due_us or 0, run.id) for run, _, _ in rows), default=after)
    return Late(alerts, last)


# --- journals that do not hold ---------------------------------------------------------------------------------------


def broken_journals(reading: Reading) -> Iterator[Alert]:
    """The journals of which the newest entry is not where its row says, or not what was hashed. A whole journal is for
    `privacy-ledger check`; this sees, soon, what was cut off or written over at the end."""
    tenant = reading.tenants.current()
    if tenant is not None:
        yield from _broken(None, tenant.seq, tenant.head, reading.journals.newest_of_tenant())
    after: str | None = None
    while page := reading.datasets.page(after=after, limit=PAGE, only=None):
        newest = reading.journals.newest([dataset.id for dataset in page])
        for dataset in page:
            name = Parent(dataset.id, dataset.definition.name)
            yield from _broken(name, dataset.seq, dataset.head, newest.get(dataset.id))
        after = page[-1].definition.name


def _broken(dataset: Parent | None, seq: int, head: bytes, newest: Entry | TenantEntry | None) -> Iterator[Alert]:
    """At most one alert, that names the first number of which this can say that it is wrong."""
    end = (0, NO_HASH) if newest is None else (newest.seq, newest.hash)
    if newest is not None and chain.digest(newest.body) != newest.hash:
        yield mismatch(dataset, seq=newest.seq, reason="its bytes do not have its hash")
    elif end != (seq, head):
        first = seq if end[0] == seq else min(end[0], seq) + 1
        yield mismatch(dataset, seq=first, reason="the journal does not end where the row says")


# --- heads, for somebody else to keep --------------------------------------------------------------------------------

SignedHead = Callable[[Reading, Dataset | None], Mapping[str, Any]]
"""Says of a journal its `seq`, `hash`, and what else is said of a head; None is the tenant's own."""


def moved_heads(reading: Reading, sent: Mapping[UUID | None, int], signed_head: SignedHead) -> Iterator[Alert]:
    """The heads of the journals that are elsewhere than where they were `told` to be, or why there is none."""
    tenant = reading.tenants.current()
    if tenant is not None and tenant.seq not in (0, sent.get(None)):
        yield _head(reading, None, signed_head)
    after: str | None = None
    while page := reading.datasets.page(after=after, limit=PAGE, only=None):
        for dataset in page:
            if dataset.seq != sent.get(dataset.id):
                yield _head(reading, dataset, signed_head)
        after = page[-1].definition.name


def _head(reading: Reading, dataset: Dataset | None, signed_head: SignedHead) -> Alert:
    name = None if dataset is None else Parent(dataset.id, dataset.definition.name)
    try:
        signed = signed_head(reading, dataset)
    except JournalBroken as error:  # no head is said of a journal that does not hold
        return mismatch(name, seq=error.seq, reason=error.detail.removeprefix(f"entry {error.seq}: "))
    return head(name, seq=signed["seq"], facts={part: value for part, value in signed.items() if part != "seq"})


# --- budgets that will not last --------------------------------------------------------------------------------------


def short_budgets(reading: Reading, alerting: Alerting, *, now_us: int) -> Iterator[Alert]:
    """The accounts of active datasets that will not last as long as the tenant wants to know beforehand."""
    after: str | None = None
    while alerting.forecast_days is not None and (page := reading.datasets.page(after=after, limit=PAGE, only=None)):
        for dataset in page:
            name = Parent(dataset.id, dataset.definition.name)
            for key, limit, expected in outlooks(reading, dataset, now_us=now_us) if dataset.state == "active" else ():
                alert = short(alerting, name, key, limit, expected, now_us=now_us)
                if alert is not None:
                    yield alert
        after = page[-1].definition.name

"""What is worth telling of a tenant that no decision raises: found by looking, now and then.

A run that was not started or settled in time; a journal that does not end where its row says, or whose newest bytes are
not those that were hashed; a budget that will not last. All of it reads one snapshot and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from ledger.core.alerting import Alert, Alerting
from ledger.core.alerts import (
    REMIND_US,
    head,
    mismatch,
    overdue,
    short,
)
from ledger.core.datasets import Dataset, Parent
from ledger.core.entries import NO_HASH, Entry, TenantEntry
from ledger.core.forecast import HISTORY_US, Forecast
from ledger.core.journal import chain
from ledger.errors import JournalBroken
from ledger.service.forecasts import outlooks
from ledger.store import Reading

PAGE: Final = 500
FORECASTS_AT_ONCE: Final = 16
"""Of how many datasets the runs are read with one statement."""
ALERTS_MAX: Final = 100_000
"""How many alerts of a tenant are kept, the newest."""
NOTHING_DUE: Final = (0, UUID(int=0))
"""Where `late_runs` begins."""


# --- runs that are late ----------------------------------------------------------------------------------------------


def late_runs(reading: Reading, run_ids: Sequence[UUID], *, now_us: int) -> Iterator[Alert]:
    """Those of these runs that are due still, once for each dataset that they touch."""
    for start in range(0, len(run_ids), PAGE):
        for run, dataset, seq in reading.runs.due(run_ids[start : start + PAGE], until_us=now_us):
            yield overdue(dataset, run_id=run.id, state=run.state, due_us=run.due_us or 0, seq=seq)


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


Forecasts = dict[UUID, tuple[int, int]]
"""Of datasets how long their journals were when a forecast was made, and when it is to be made again though they do
not grow. A budget lasts the longer the more time passes without a run, so that there are two such times alone: when a
first run is old enough to count, and when a tenant is to be reminded."""
NEVER_US: Final = 2**63


def short_budgets(
    reading: Reading, alerting: Alerting, forecasts: Forecasts, *, now_us: int
) -> tuple[list[Alert], Forecasts]:
    """The accounts of active datasets that will not last as long as the tenant wants to know beforehand, and the
    forecasts as they are now. Of what neither grew nor is due the forecast stands."""
    alerts: list[Alert] = []
    made: Forecasts = {}
    after: str | None = None
    while alerting.forecast_days is not None and (
        page := reading.datasets.page(after=after, limit=FORECASTS_AT_ONCE, only=None)
    ):
        known = {dataset.id: forecasts.get(dataset.id, (-1, 0)) for dataset in page}
        stale = [dataset for dataset in page if known[dataset.id][0] != dataset.seq or known[dataset.id][1] <= now_us]
        made |= known
        made |= {dataset.id: (dataset.seq, NEVER_US) for dataset in stale}
        for dataset, accounts in outlooks(reading, [row for row in stale if row.state == "active"], now_us=now_us):
            name = Parent(dataset.id, dataset.definition.name)
            found = [(short(alerting, name, *outlook, now_us=now_us), outlook.forecast) for outlook in accounts]
            alerts += [alert for alert, _ in found if alert is not None]
            made[dataset.id] = (dataset.seq, min((_again_us(*each, now_us=now_us) for each in found), default=NEVER_US))
        after = page[-1].definition.name
    return alerts, made


def _again_us(alert: Alert | None, forecast: Forecast, *, now_us: int) -> int:
    """When a forecast can say something else though nothing was decided meanwhile."""
    if alert is not None:
        return (now_us // REMIND_US + 1) * REMIND_US
    if forecast.runs and not forecast.is_enough:
        return forecast.since_us + HISTORY_US
    return NEVER_US

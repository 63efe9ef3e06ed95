"""The alerts of a tenant that no decision raises.

They are: a run that was not started or settled in time; a proposal that lapses soon; a journal that does not end where
its row says, or whose newest entry does not have its hash; a budget that will not last. All of this reads one snapshot
and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from ledger.core.alerting import Alert, Alerting
from ledger.core.alerts import (
    REMIND_US,
    head,
    lapsing,
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
"""For how many datasets one statement reads the runs."""
ALERTS_MAX: Final = 100_000
"""How many alerts of a tenant are kept: the newest."""
NOTHING_DUE: Final = (0, UUID(int=0))
"""Where `late_runs` begins."""


# --- runs that are late ----------------------------------------------------------------------------------------------


def late_runs(reading: Reading, run_ids: Sequence[UUID], *, now_us: int) -> Iterator[Alert]:
    """Yield an alert for each of these runs that is still due, one for each of its datasets."""
    for start in range(0, len(run_ids), PAGE):
        for run, dataset, seq in reading.runs.due(run_ids[start : start + PAGE], until_us=now_us):
            yield overdue(dataset, run_id=run.id, state=run.state, due_us=run.due_us or 0, seq=seq)


def lapsing_proposals(reading: Reading, ids: Sequence[UUID]) -> Iterator[Alert]:
    """Yield an alert for each of these proposals that is still open."""
    for start in range(0, len(ids), PAGE):
        for proposal, dataset in reading.proposals.still_open(ids[start : start + PAGE]):
            yield lapsing(dataset, proposal)


# --- journals that do not hold ---------------------------------------------------------------------------------------


def broken_journals(reading: Reading) -> Iterator[Alert]:
    """Yield an alert for each journal whose newest entry is not where its row says, or does not have its hash. This
    soon finds entries that were removed or overwritten at the end; `privacy-ledger check` verifies whole journals."""
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
    """Yield at most one alert, which names the first number that is known to be wrong."""
    end = (0, NO_HASH) if newest is None else (newest.seq, newest.hash)
    if newest is not None and chain.digest(newest.body) != newest.hash:
        yield mismatch(dataset, seq=newest.seq, reason="its bytes do not have its hash")
    elif end != (seq, head):
        first = seq if end[0] == seq else min(end[0], seq) + 1
        yield mismatch(dataset, seq=first, reason="the journal does not end where the row says")


# --- heads -----------------------------------------------------------------------------------------------------------

SignedHead = Callable[[Reading, Dataset | None], Mapping[str, Any]]
"""Returns the `seq`, `hash` and other facts of a journal's head; None for the tenant's own."""


def moved_heads(reading: Reading, sent: Mapping[UUID | None, int], signed_head: SignedHead) -> Iterator[Alert]:
    """Yield the heads of the journals that changed since they were last sent, or the reason why there is no head."""
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
    except JournalBroken as error:  # a journal that does not verify gets no head
        return mismatch(name, seq=error.seq, reason=error.detail.removeprefix(f"entry {error.seq}: "))
    return head(name, seq=signed["seq"], facts={part: value for part, value in signed.items() if part != "seq"})


# --- budgets that will not last --------------------------------------------------------------------------------------


Forecasts = dict[UUID, tuple[int, int]]
"""For each dataset, the length of its journal at the last forecast, and when to make the next one if it does not grow.
A budget lasts longer the more time passes without a run, so there are only two such times: when a first run is old
enough to count, and when a tenant is reminded."""
NEVER_US: Final = 2**63


def short_budgets(
    reading: Reading, alerting: Alerting, forecasts: Forecasts, *, now_us: int
) -> tuple[list[Alert], Forecasts]:
    """Return alerts for the accounts of active datasets that will last for fewer days than the tenant asks for, and the
    new forecasts. The forecast of a dataset that neither grew nor is due is kept."""
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
    """Return when a forecast may change although nothing was decided."""
    if alert is not None:
        return (now_us // REMIND_US + 1) * REMIND_US
    if forecast.runs and not forecast.is_enough:
        return forecast.since_us + HISTORY_US
    return NEVER_US

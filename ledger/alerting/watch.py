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
from ledger.core.amounts import ZERO, Amount
from ledger.core.books import Wanted
from ledger.core.datasets import AccountKey, Dataset, Parent
from ledger.core.entries import NO_HASH, Entry, TenantEntry
from ledger.core.forecast import (
    WINDOW_US,
    Forecast,
    Spend,
    forecast,
)
from ledger.core.journal import chain
from ledger.core.runs import Run
from ledger.errors import JournalBroken
from ledger.store import Reading

PAGE: Final = 500
RUNS_MAX: Final = 2000
"""How many runs of a dataset a forecast looks at: where there were more, those since then are a shorter past."""
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
    rows = reading.due_runs(after=after, until_us=now_us, limit=PAGE)
    alerts = [
        overdue(dataset, run_id=run.id, state=run.state, due_us=run.due_us or 0, seq=seq) for run, dataset, seq in rows
    ]
    last = max(((run.due_us or 0, run.id) for run, _, _ in rows), default=after)
    return Late(alerts, last)


# --- journals that do not hold ---------------------------------------------------------------------------------------


def broken_journals(reading: Reading) -> Iterator[Alert]:
    """The journals of which the newest entry is not where its row says, or not what was hashed. A whole journal is for
    `privacy-ledger check`; this sees, soon, what was cut off or written over at the end."""
    tenant = reading.tenant()
    if tenant is not None:
        yield from _broken(None, tenant.seq, tenant.head, reading.newest_tenant_entry())
    after: str | None = None
    while page := reading.dataset_page(after=after, limit=PAGE, only=None):
        newest = reading.newest_entries([dataset.id for dataset in page])
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
    tenant = reading.tenant()
    if tenant is not None and tenant.seq not in (0, sent.get(None)):
        yield _head(reading, None, signed_head)
    after: str | None = None
    while page := reading.dataset_page(after=after, limit=PAGE, only=None):
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


class Outlook(NamedTuple):
    """An account with its limit, and how long it lasts."""

    key: AccountKey
    limit: Amount
    forecast: Forecast


def outlooks(reading: Reading, dataset: Dataset, *, now_us: int) -> list[Outlook]:
    """How long each account lasts that the dataset's runs charged lately, and its own; the first to end first.

    A run counts from when it was approved, with what it holds, or what it was charged once it is settled; one that was
    voided does not count. Accounts of principals have no end: what they limit is given back.
    """
    approvals = reading.approvals_since(dataset.id, since_us=now_us - WINDOW_US, limit=RUNS_MAX)
    since_us = max(now_us - WINDOW_US, dataset.created_us)
    if len(approvals) == RUNS_MAX:
        since_us = max(since_us, approvals[-1][0].created_us)
    spends: dict[AccountKey, list[Spend]] = {}
    charged = _charged(reading, dataset.id, [run for run, _ in approvals])
    for run, entry in approvals:
        if run.state != "voided":
            for key in chain.accounts_of(chain.parse(entry.body)):
                if key.principal_id is None:
                    spends.setdefault(key, []).append(Spend(run.created_us, charged[run.id]))
    accounts = reading.books({dataset.id: _charged_accounts(spends)}).accounts
    outlooks = [
        Outlook(key, account.limit, forecast(spends.get(key, ()), account.remaining, since_us=since_us, now_us=now_us))
        for key, account in accounts.items()
        if key in spends or key == AccountKey(dataset.id)
    ]
    return sorted(outlooks, key=_first_to_end)


def _first_to_end(outlook: Outlook) -> tuple[bool, int, str, str]:
    ends_us = outlook.forecast.lasts_until_us
    return ends_us is None, ends_us or 0, outlook.key.partition or "", outlook.key.project or ""


def _charged_accounts(spends: Mapping[AccountKey, object]) -> Wanted:
    partitions = {key.partition for key in spends if key.partition is not None}
    return Wanted(partitions=partitions, projects={key.project for key in spends if key.project is not None})


def _charged(reading: Reading, dataset_id: UUID, runs: list[Run]) -> dict[UUID, Amount]:
    """What each of these runs holds or was charged."""
    amounts = {run.id: run.cost or ZERO for run in runs}
    settled = [run.id for run in runs if run.state == "settled"]
    for start in range(0, len(settled), PAGE):
        for run_id, entry in reading.settlements(dataset_id, settled[start : start + PAGE]).items():
            amounts[run_id] = Amount.of(chain.parse(entry.body)["charged"])
    return amounts


def short_budgets(reading: Reading, alerting: Alerting, *, now_us: int) -> Iterator[Alert]:
    """The accounts of active datasets that will not last as long as the tenant wants to know beforehand."""
    after: str | None = None
    while alerting.forecast_days is not None and (page := reading.dataset_page(after=after, limit=PAGE, only=None)):
        for dataset in page:
            name = Parent(dataset.id, dataset.definition.name)
            for key, limit, expected in outlooks(reading, dataset, now_us=now_us) if dataset.state == "active" else ():
                alert = short(alerting, name, key, limit, expected, now_us=now_us)
                if alert is not None:
                    yield alert
        after = page[-1].definition.name

"""How long budgets last, by the rate of the last weeks. An estimate; it decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple
from uuid import UUID

from ledger.accounting.display import show_amount
from ledger.core.amounts import ZERO, Amount, timestamp
from ledger.core.books import Wanted
from ledger.core.datasets import AccountKey, Dataset
from ledger.core.forecast import DAY_US, WINDOW_US, Forecast, Spend
from ledger.core.forecast import forecast as estimate
from ledger.core.journal import chain
from ledger.core.runs import Run
from ledger.service.shapes.alerts import AccountForecast, ForecastShown
from ledger.store import Reading

ACCOUNTS_MAX: Final = 100
"""How many accounts a forecast shows: those that end first."""
RUNS_MAX: Final = 2000
"""How many runs of a dataset a forecast looks at: where there were more, those since then are a shorter past."""
SETTLEMENTS_AT_ONCE: Final = 500


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
    accounts = reading.books({dataset.id: _wanted(spends)}).accounts
    estimates = [
        Outlook(key, account.limit, estimate(spends.get(key, ()), account.remaining, since_us=since_us, now_us=now_us))
        for key, account in accounts.items()
        if key in spends or key == AccountKey(dataset.id)
    ]
    return sorted(estimates, key=_first_to_end)


def _first_to_end(outlook: Outlook) -> tuple[bool, int, str, str]:
    ends_us = outlook.forecast.lasts_until_us
    return ends_us is None, ends_us or 0, outlook.key.partition or "", outlook.key.project or ""


def _wanted(spends: Mapping[AccountKey, object]) -> Wanted:
    partitions = {key.partition for key in spends if key.partition is not None}
    return Wanted(partitions=partitions, projects={key.project for key in spends if key.project is not None})


def _charged(reading: Reading, dataset_id: UUID, runs: list[Run]) -> dict[UUID, Amount]:
    """What each of these runs holds or was charged."""
    amounts = {run.id: run.cost or ZERO for run in runs}
    settled = [run.id for run in runs if run.state == "settled"]
    for start in range(0, len(settled), SETTLEMENTS_AT_ONCE):
        for run_id, entry in reading.settlements(dataset_id, settled[start : start + SETTLEMENTS_AT_ONCE]).items():
            amounts[run_id] = Amount.of(chain.parse(entry.body)["charged"])
    return amounts


def forecast_shown(reading: Reading, dataset: Dataset, *, now_us: int) -> ForecastShown:
    """How long a dataset's accounts last, as it is answered."""
    accounts = outlooks(reading, dataset, now_us=now_us)
    return ForecastShown(
        dataset=dataset.definition.name,
        at=timestamp(now_us),
        is_estimate=True,
        window_days=WINDOW_US // DAY_US,
        accounts=[_account_forecast(outlook, now_us) for outlook in accounts[:ACCOUNTS_MAX]],
        accounts_count=len(accounts),
    )


def _account_forecast(outlook: Outlook, now_us: int) -> AccountForecast:
    forecast = outlook.forecast
    ends_us = forecast.lasts_until_us
    return AccountForecast(
        partition=outlook.key.partition,
        project=outlook.key.project,
        since=timestamp(forecast.since_us),
        runs=forecast.runs,
        spent=show_amount(forecast.spent),
        remaining=show_amount(forecast.remaining),
        is_enough=forecast.is_enough,
        lasts_until=None if ends_us is None else timestamp(ends_us),
        days_left=forecast.days_left(now_us),
        quantity=forecast.quantity,
    )

"""How long budgets last, by the rate of the last weeks. An estimate, on which no decision depends."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from ledger.accounting.display import show_amount
from ledger.core.amounts import ZERO, Amount, percent_of, timestamp
from ledger.core.books import ReadSet
from ledger.core.daily import stated
from ledger.core.datasets import Account, AccountKey, Dataset
from ledger.core.forecast import DAY_US, WINDOW_US, Forecast, Spend
from ledger.core.forecast import forecast as estimate
from ledger.service import delta_left
from ledger.service.shapes.alerts import AccountForecast, ForecastShown
from ledger.store import Reading
from ledger.store.runs import Approved

ACCOUNTS_MAX: Final = 100
"""The most accounts in a forecast: those that run out first."""
RUNS_MAX: Final = 2000
"""The most runs of a dataset in a forecast; if there were more, the window is shorter and begins with the oldest of
these."""
SETTLEMENTS_AT_ONCE: Final = 500


class Outlook(NamedTuple):
    """An account with its limit, and how long it lasts."""

    key: AccountKey
    limit: Amount
    forecast: Forecast


def outlooks(reading: Reading, datasets: Sequence[Dataset], *, now_us: int) -> list[tuple[Dataset, list[Outlook]]]:
    """Return how long the accounts last that recent runs of these datasets charged, and the datasets' own; for each
    dataset the first to run out comes first. Several datasets take as many statements as one.

    A run counts from its approval, with what it holds, or what it was charged once it is settled; a voided run does not
    count. Accounts of principals never run out: settling gives back what they limit.
    """
    if not datasets:
        return []
    ids = [dataset.id for dataset in datasets]
    approvals = reading.runs.approved_since(ids, since_us=now_us - WINDOW_US, limit=RUNS_MAX)
    charged = _charged(reading, approvals)
    spends = {id_: _spends(id_, approvals[id_], charged) for id_ in ids}
    accounts = reading.books.read({id_: _read_set(spends[id_]) for id_ in ids}).accounts
    return [
        (dataset, _outlooks(dataset, approvals[dataset.id], spends[dataset.id], accounts, now_us=now_us))
        for dataset in datasets
    ]


def _outlooks(
    dataset: Dataset,
    approvals: Sequence[Approved],
    spends: Mapping[AccountKey, Sequence[Spend]],
    accounts: Mapping[AccountKey, Account],
    *,
    now_us: int,
) -> list[Outlook]:
    since_us = max(now_us - WINDOW_US, dataset.created_us)
    if len(approvals) == RUNS_MAX:
        since_us = max(since_us, approvals[-1].created_us)
    estimates = [
        Outlook(key, account.limit, estimate(spends.get(key, ()), account.remaining, since_us=since_us, now_us=now_us))
        for key, account in accounts.items()
        if key in spends or key == AccountKey(dataset.id)
    ]
    return sorted(estimates, key=_first_to_end)


def _spends(
    dataset_id: UUID, approvals: Sequence[Approved], charged: Mapping[tuple[UUID, UUID], Amount]
) -> dict[AccountKey, list[Spend]]:
    """Return what was spent from each account that is not a principal's."""
    spends: dict[AccountKey, list[Spend]] = {}
    for run in approvals:
        if run.state != "voided":
            amount = charged.get((dataset_id, run.id), run.cost or ZERO)
            # Amounts are texts of digits. No other number is used, so none need be exact: a tenth of the time.
            for place, _ in stated(json.loads(run.body)):
                key = AccountKey(dataset_id, place.partition or None, place.project or None)
                spends.setdefault(key, []).append(Spend(run.created_us, amount))
    return spends


def _first_to_end(outlook: Outlook) -> tuple[bool, int, str, str]:
    ends_us = outlook.forecast.lasts_until_us
    return ends_us is None, ends_us or 0, outlook.key.partition or "", outlook.key.project or ""


def _read_set(spends: Mapping[AccountKey, object]) -> ReadSet:
    partitions = {key.partition for key in spends if key.partition is not None}
    return ReadSet(partitions=partitions, projects={key.project for key in spends if key.project is not None})


def _charged(reading: Reading, approvals: Mapping[UUID, Sequence[Approved]]) -> dict[tuple[UUID, UUID], Amount]:
    """Return what each settled run was charged, by dataset and run."""
    settled = [(id_, run.id) for id_, rows in approvals.items() for run in rows if run.state == "settled"]
    amounts: dict[tuple[UUID, UUID], Amount] = {}
    for start in range(0, len(settled), SETTLEMENTS_AT_ONCE):
        for key, entry in reading.journals.settlements(settled[start : start + SETTLEMENTS_AT_ONCE]).items():
            amounts[key] = Amount.from_facts(json.loads(entry.body)["charged"])
    return amounts


DATASETS_MAX: Final = 10
"""How many datasets one page of forecasts has: each reads up to RUNS_MAX runs."""


def forecasts_shown(reading: Reading, datasets: Sequence[Dataset], *, now_us: int) -> list[ForecastShown]:
    """Return the same for several datasets, in their order."""
    return [_shown(dataset, accounts, now_us) for dataset, accounts in outlooks(reading, datasets, now_us=now_us)]


def forecast_shown(reading: Reading, dataset: Dataset, *, now_us: int) -> ForecastShown:
    """Return how long a dataset's accounts last, as answers show it."""
    (shown,) = forecasts_shown(reading, [dataset], now_us=now_us)
    return shown


def _shown(dataset: Dataset, accounts: Sequence[Outlook], now_us: int) -> ForecastShown:
    shown = ForecastShown(
        dataset=dataset.definition.name,
        at=timestamp(now_us),
        is_estimate=True,
        window_days=WINDOW_US // DAY_US,
        accounts=[_account_forecast(outlook, now_us) for outlook in accounts[:ACCOUNTS_MAX]],
        accounts_count=len(accounts),
    )
    used = [(outlook.key, outlook.limit, outlook.limit - outlook.forecast.remaining) for outlook in accounts]
    if warnings := delta_left.of_accounts(dataset.definition.name, used):
        shown["warnings"] = warnings
    return shown


def _account_forecast(outlook: Outlook, now_us: int) -> AccountForecast:
    forecast = outlook.forecast
    ends_us = forecast.lasts_until_us
    return AccountForecast(
        partition=outlook.key.partition,
        project=outlook.key.project,
        since=timestamp(forecast.since_us),
        runs=forecast.runs,
        percent_spent=percent_of(forecast.spent.mu_sq_pico, outlook.limit.mu_sq_pico, up=True),
        percent_left=percent_of(forecast.remaining.mu_sq_pico, outlook.limit.mu_sq_pico, up=False),
        spent=show_amount(forecast.spent),
        remaining=show_amount(forecast.remaining),
        is_enough=forecast.is_enough,
        lasts_until=None if ends_us is None else timestamp(ends_us),
        days_left=forecast.days_left(now_us),
        quantity=forecast.quantity,
    )

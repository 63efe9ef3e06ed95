"""Alerts, the settings for them, and forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ledger.core.alerting import AlertKind, DeliveryState
from ledger.core.amounts import Quantity
from ledger.service.shapes.common import AmountShown, Id


class WebhookShown(TypedDict):
    """Where alerts go. The rest of the URL may be a secret, and is not shown."""

    host: str
    sha256: Annotated[str, Field(description="SHA-256 of the whole URL.")]


class AlertingShown(TypedDict):
    thresholds: Annotated[list[int], Field(description="Percent of an account's budget, spent and held together.")]
    refusals_in_a_row: Annotated[int | None, Field(description="On one dataset; null: never.")]
    forecast_days: Annotated[int | None, Field(description="Days left; null: never.")]
    webhook: WebhookShown | None
    heads: Annotated[
        bool, Field(description="Whether the webhook also gets the journals' heads, to be kept outside the ledger.")
    ]


class Delivery(TypedDict):
    state: Annotated[
        DeliveryState,
        Field(description="none: there was no webhook. failed: every attempt failed, and no more will be made."),
    ]
    tries: int
    failure: Annotated[str | None, Field(description="Why the last attempt failed.")]
    next_try_at: str | None
    delivered_at: str | None


class AlertShown(TypedDict):
    id: Id
    kind: AlertKind
    at: str
    event: Annotated[
        Mapping[str, Any], Field(description="As it is signed and sent; docs/how-to/alerts.md lists the members.")
    ]
    delivery: Delivery


class AlertPage(TypedDict):
    items: list[AlertShown]
    next: str | None


class AccountForecast(TypedDict):
    partition: str | None
    project: str | None
    since: Annotated[str, Field(description="Start of the time that the estimate is based on.")]
    runs: Annotated[int, Field(description="The number of runs approved since then.")]
    percent_spent: NotRequired[
        Annotated[float | None, Field(description="Of the limit, by mu², which adds up; rounded up.")]
    ]
    percent_left: NotRequired[Annotated[float | None, Field(description="Rounded down.")]]
    spent: Annotated[AmountShown, Field(description="What these runs hold and were charged.")]
    remaining: AmountShown
    is_enough: Annotated[bool, Field(description="Whether that is enough for an estimate.")]
    lasts_until: Annotated[
        str | None,
        Field(description="null if there is no estimate, or if the budget lasts for a hundred years or more."),
    ]
    days_left: int | None
    quantity: Annotated[Quantity | None, Field(description="The quantity that runs out first.")]


class ForecastShown(TypedDict):
    """An estimate, by the rate of the last weeks. No decision depends on it."""

    dataset: str
    at: str
    is_estimate: Literal[True]
    window_days: int
    accounts: Annotated[list[AccountForecast], Field(description="Those that run out first, at most 100.")]
    accounts_count: int
    warnings: NotRequired[
        Annotated[list[str], Field(description="Which delta runs out before mu does. Left out if none.")]
    ]


class ForecastPage(TypedDict):
    items: list[ForecastShown]
    next: str | None

"""Alerts, what a tenant is told of, and forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from ledger.core.alerting import AlertKind, DeliveryState
from ledger.core.amounts import Quantity
from ledger.service.shapes.common import AmountShown, Id


class WebhookShown(TypedDict):
    """Where alerts go. The rest of the URL may be a secret, and is not shown."""

    host: str
    sha256: Annotated[str, Field(description="Of the whole URL.")]


class AlertingShown(TypedDict):
    thresholds: Annotated[list[int], Field(description="Percent of an account's budget, spent and held together.")]
    refusals_in_a_row: Annotated[int | None, Field(description="Of one dataset; null is never.")]
    forecast_days: Annotated[int | None, Field(description="Below how many days left; null is never.")]
    webhook: WebhookShown | None
    heads: Annotated[bool, Field(description="Whether the webhook gets the journals' heads too, for keeping.")]


class Delivery(TypedDict):
    state: Annotated[
        DeliveryState,
        Field(description="none: there was no webhook. failed: it was tried as often as it is ever tried."),
    ]
    tries: int
    failure: Annotated[str | None, Field(description="Why the last try failed.")]
    next_try_at: str | None
    delivered_at: str | None


class AlertShown(TypedDict):
    id: Id
    kind: AlertKind
    at: str
    event: Annotated[
        Mapping[str, Any], Field(description="As it is signed and sent; docs/how-to/alerts.md has the members.")
    ]
    delivery: Delivery


class AlertPage(TypedDict):
    items: list[AlertShown]
    next: str | None


class AccountForecast(TypedDict):
    partition: str | None
    project: str | None
    since: Annotated[str, Field(description="Where the time begins that the estimate looks at.")]
    runs: Annotated[int, Field(description="How many runs were approved since.")]
    spent: Annotated[AmountShown, Field(description="What those runs hold and were charged.")]
    remaining: AmountShown
    is_enough: Annotated[bool, Field(description="Whether that is enough to say anything.")]
    lasts_until: Annotated[
        str | None, Field(description="Null where nothing can be said, or it lasts for a hundred years or more.")
    ]
    days_left: int | None
    quantity: Annotated[Quantity | None, Field(description="What is used up first.")]


class ForecastShown(TypedDict):
    """An estimate, by the rate of the last weeks. It decides nothing."""

    dataset: str
    at: str
    is_estimate: Literal[True]
    window_days: int
    accounts: Annotated[list[AccountForecast], Field(description="Those that end first, at most 100.")]
    accounts_count: int

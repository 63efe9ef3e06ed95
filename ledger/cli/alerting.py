"""What one is told of: alerts, what raises them and where they go, and how long a budget lasts."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ledger.cli import show
from ledger.cli.options import Json, Reason
from ledger.cli.server_call import print_answer, server
from ledger.errors import InvalidRequest

alerting_app = typer.Typer(no_args_is_help=True, help="What your tenant is told of, and where to.")


def add_to(app: typer.Typer) -> None:
    """Adds these commands to the command line."""
    app.command(rich_help_panel="Runs")(forecast)
    app.command(rich_help_panel="Stewards and admins")(alerts)
    app.add_typer(alerting_app, name="alerting", rich_help_panel="Stewards and admins")


def alerts(
    kind: Annotated[str | None, typer.Option(help="Of one kind, such as threshold or overdue.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Of one dataset.")] = None,
    state: Annotated[str | None, typer.Option(help="pending, delivered, failed or none.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List what your tenant was told of, and whether it was delivered."""
    with server() as ledger:
        listing = ledger.alerts(kind=kind, dataset=dataset, state=state)
        newest = [item for _, item in zip(range(limit), listing, strict=False)]
    print_answer(newest, as_json, show.alerts.alerts)


def forecast(
    dataset: Annotated[str, typer.Argument(help="The dataset's name.")],
    as_json: Json = False,
) -> None:
    """Estimate how long a dataset's budget lasts if it is spent as in the last four weeks."""
    with server() as ledger:
        print_answer(ledger.forecast(dataset), as_json, show.alerts.forecast)


@alerting_app.command("show")
def alerting_show(as_json: Json = False) -> None:
    """Show what your tenant is told of, and where to."""
    with server() as ledger:
        print_answer(ledger.alerting(), as_json, show.alerts.alerting)


@alerting_app.command("set")
def alerting_set(
    reason: Reason,
    threshold: Annotated[
        list[int] | None,
        typer.Option(min=0, max=100, help="Percent of a budget; say it once for each. A single 0 is never."),
    ] = None,
    refusals_in_a_row: Annotated[
        int | None, typer.Option(min=0, help="How many refusals of one dataset in a row; 0 is never.")
    ] = None,
    forecast_days: Annotated[
        int | None, typer.Option(min=0, help="Below how many days that a budget lasts; 0 is never.")
    ] = None,
    webhook: Annotated[
        str | None, typer.Option(metavar="URL", help="Where alerts are sent, signed. The operator allows the host.")
    ] = None,
    no_webhook: Annotated[bool, typer.Option("--no-webhook", help="Send alerts nowhere, and only list them.")] = False,
    heads: Annotated[
        bool | None, typer.Option("--heads/--no-heads", help="Send the journals' heads too, for keeping.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Set what your tenant is told of, and where to. What is not said stays as it is."""
    if webhook is not None and no_webhook:
        raise InvalidRequest("Say --webhook or --no-webhook, not both.", field="webhook")
    changes: dict[str, Any] = {}
    if threshold is not None:
        changes["thresholds"] = [] if threshold == [0] else sorted(set(threshold))
    for name, number in (("refusals_in_a_row", refusals_in_a_row), ("forecast_days", forecast_days)):
        if number is not None:
            changes[name] = number or None
    if heads is not None:
        changes["heads"] = heads
    if webhook is not None or no_webhook:
        changes["webhook"] = webhook
    with server() as ledger:
        print_answer(ledger.set_alerting(changes, reason=reason), as_json, show.alerts.alerting)


@alerting_app.command("test")
def alerting_test(as_json: Json = False) -> None:
    """Raise an alert that says nothing but that alerts arrive."""
    with server() as ledger:
        print_answer(ledger.test_alerting(), as_json, show.alerts.tested)

"""Commands about alerts: which are raised, where they are sent, and how long a budget lasts."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ledger.cli import show
from ledger.cli.options import Json, Reason
from ledger.cli.server_call import first, print_answer, server
from ledger.errors import InvalidRequest

alerting_app = typer.Typer(no_args_is_help=True, help="Which alerts your tenant raises, and where they are sent.")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(rich_help_panel="Runs", epilog="Example: privacy-ledger forecast mnist")(forecast)
    example = "Example: privacy-ledger alerts --kind threshold --dataset mnist"
    app.command(rich_help_panel="Stewards and admins", epilog=example)(alerts)
    app.add_typer(alerting_app, name="alerting", rich_help_panel="Stewards and admins")


def alerts(
    kind: Annotated[str | None, typer.Option(help="Only of this kind, such as threshold or overdue.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only of this dataset.")] = None,
    state: Annotated[str | None, typer.Option(help="Only in this state: pending, delivered, failed or none.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List your tenant's alerts, and whether they were delivered."""
    with server() as ledger:
        listing = ledger.alerts(kind=kind, dataset=dataset, state=state)
        newest = first(listing, limit)
    print_answer(newest, as_json, show.alerts.alerts)


def forecast(
    dataset: Annotated[str | None, typer.Argument(help="The dataset's name.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All datasets, the first to run out first.")] = False,
    as_json: Json = False,
) -> None:
    """Estimate how long a budget lasts at the rate of the last four weeks."""
    if every == (dataset is not None):
        raise InvalidRequest("Name one dataset, or give --all.", field="dataset")
    with server() as ledger:
        if dataset is not None:
            print_answer(ledger.forecast(dataset), as_json, show.alerts.forecast)
        else:
            print_answer(list(ledger.forecasts()), as_json, show.alerts.forecasts)


@alerting_app.command("show", epilog="Example: privacy-ledger alerting show")
def alerting_show(as_json: Json = False) -> None:
    """Show which alerts your tenant raises, and where they are sent."""
    with server() as ledger:
        print_answer(ledger.alerting(), as_json, show.alerts.alerting)


@alerting_app.command(
    "set",
    epilog='Example: privacy-ledger alerting set --threshold 80 --threshold 100 --reason "warn earlier"',
)
def alerting_set(
    reason: Reason,
    threshold: Annotated[
        list[int] | None,
        typer.Option(min=0, max=100, help="Percent of a budget. Can be repeated. A single 0 turns it off."),
    ] = None,
    refusals_in_a_row: Annotated[
        int | None, typer.Option(min=0, help="The number of refusals of one dataset in a row; 0 turns it off.")
    ] = None,
    forecast_days: Annotated[
        int | None, typer.Option(min=0, help="When a budget lasts for fewer days than this; 0 turns it off.")
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Send signed alerts to this URL. The operator must allow its host."),
    ] = None,
    no_webhook: Annotated[bool, typer.Option("--no-webhook", help="Send no alerts; only list them.")] = False,
    heads: Annotated[
        bool | None,
        typer.Option("--heads/--no-heads", help="Send the journals' heads too, so that the receiver can keep them."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Set which alerts your tenant raises, and where they are sent. Options that you leave out change nothing."""
    if webhook is not None and no_webhook:
        raise InvalidRequest("--webhook and --no-webhook exclude each other. Give one of them.", field="webhook")
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


@alerting_app.command("test", epilog="Example: privacy-ledger alerting test")
def alerting_test(as_json: Json = False) -> None:
    """Raise a test alert, to check that alerts arrive."""
    with server() as ledger:
        print_answer(ledger.test_alerting(), as_json, show.alerts.tested)

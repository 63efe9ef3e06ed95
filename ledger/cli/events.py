"""Commands about events of dp-accounting: dp-event read, dp-event write. They need no server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ledger.cli import held
from ledger.cli.mechanism import takes_mechanism
from ledger.cli.options import parsed
from ledger.cli.show import console
from ledger.client.wire import encode
from ledger.errors import InvalidRequest

event_app = typer.Typer(no_args_is_help=True, help="Events of dp-accounting, as mechanisms and the other way.")
LENGTH_MAX: Final = 10_000_000
Relation = Annotated[
    str,
    typer.Option(
        help="The neighbouring relation that the event was made for, as the dataset is registered: add_or_remove_one,"
        " replace_one or zero_out (REPLACE_SPECIAL). The cost depends on it, and no event has it."
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(event_app, name="dp-event", rich_help_panel="Runs")


@event_app.command("read", epilog="Example: privacy-ledger dp-event read plan.json --adjacency zero_out")
def event_read(
    file: Annotated[Path, typer.Argument(help="The event as JSON: what `ledger.client.dp_events.to_json` returns.")],
    adjacency: Relation,
) -> None:
    """Print the mechanism of a DpEvent as JSON, for `request --mechanism @FILE`.

    An event that has no sound cost here is refused by name, with what comes nearest.
    """
    from ledger.client.dp_events import from_dp_event

    event = parsed(held.text_of(file, "event", length_max=LENGTH_MAX), "event")
    console.plain(encode(from_dp_event(event, adjacency=adjacency)))


@event_app.command(
    "write",
    epilog="Example: privacy-ledger dp-event write --type gaussian --noise-multiplier 5 --adjacency replace_one",
)
@takes_mechanism
def event_write(declared: dict[str, Any], adjacency: Relation) -> None:
    """Print a mechanism as a DpEvent in JSON, for a second opinion by dp-accounting, which must be installed.

    Under replace_one, use its PLDAccountant: its RdpAccountant does not double the sensitivity.
    """
    from ledger.client.dp_events import to_dp_event, to_json

    try:
        event = to_dp_event(declared, adjacency=adjacency)
    except ImportError as error:
        raise InvalidRequest(
            "dp-accounting is not installed here. Install it: pip install 'dp-accounting>=0.6,<0.7'", field="mechanism"
        ) from error
    console.plain(encode(to_json(event)))

"""Call the server, and print its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ledger.cli import show
from ledger.cli.show import console

if TYPE_CHECKING:
    from ledger.client import Ledger


@contextmanager
def server() -> Iterator[Ledger]:
    """Open the ledger at LEDGER_URL with LEDGER_KEY."""
    from ledger.client import Ledger

    # A person waits, and can repeat the command; a training job has more patience.
    with Ledger(retries=2) as ledger:
        yield ledger


def print_answer(answer: Any, as_json: bool, show_answer: Callable[[Any], None]) -> None:
    """Print an answer as JSON for scripts, or as `shown` prints it for a person."""
    if as_json:
        console.print_json(answer)
    else:
        show_answer(console.in_one_line(answer))


def unless_proposed(show_answer: Callable[[Any], None]) -> Callable[[Any], None]:
    """Show what was done, or what was only proposed if the tenant's policy asks for a second steward."""
    return lambda answer: show.people.proposed(answer["proposal"]) if "proposal" in answer else show_answer(answer)

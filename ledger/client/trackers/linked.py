"""Log to a tracker now, and again when the run has ended."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Final

from ledger.client.runs import Run
from ledger.client.trackers.facts import Asked, Facts, facts_of
from ledger.errors import Misconfigured

RECEIPT_FILE: Final = "receipt.jwt"


def link(run: Run, ledger: Asked | None, log: Callable[[Facts], object]) -> None:
    """Log what is known of a run and, if it has not ended, again what is known when it has.

    The first call may raise what the tracker raises, before any data is used. What the second one raises is logged as a
    warning: training that is done is never lost for it.
    """
    log(facts_of(run, ledger))
    if run.settled is None:
        run.at_end.append(lambda ended: log(facts_of(ended, ledger)))


def loaded(load: Callable[[], ModuleType], *, package: str) -> ModuleType:
    """Import a tracker's library. Raises Misconfigured, with what to install, if it is missing."""
    try:
        return load()
    except ModuleNotFoundError as error:
        raise Misconfigured(f"The package {error.name} is missing. Install it: pip install {package}") from None

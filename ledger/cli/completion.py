"""Complete names in the shell: datasets and runs, which the server lists, and the values that options take.

A completion never prints an error and never waits for long: without a server, a key or an answer it has no suggestions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Final

import typer

from ledger.client.mechanisms import BY_TYPE
from ledger.profiles import TYPED, Typed, connection

if TYPE_CHECKING:
    from ledger.client import Ledger

WAIT_SECONDS: Final = 2.0
NAMES_MAX: Final = 100
"""How many names are offered at most."""
READ_MAX: Final = 1000
"""How many names are read at most to find those that fit: one page."""
RUN_STATES: Final = ("held", "started", "settled", "voided", "refused", "waiting", "expired")


@contextmanager
def _server(context: typer.Context) -> Iterator[Ledger]:
    from ledger.client import Ledger

    typed = context.find_root().params
    TYPED.set(Typed(typed.get("profile"), typed.get("url"), typed.get("key_file")))
    chosen = connection()
    with Ledger(chosen.url, chosen.key, retries=0, timeout=WAIT_SECONDS) as ledger:
        yield ledger


def _fitting(names: Iterable[str], incomplete: str) -> list[str]:
    return list(islice((name for name in islice(names, READ_MAX) if name.startswith(incomplete)), NAMES_MAX))


def dataset(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the datasets that begin so, among those that the key sees."""
    with suppress(Exception), _server(ctx) as ledger:
        return _fitting((str(item["name"]) for item in ledger.datasets()), incomplete)
    return []


def run(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the newest runs whose ids begin so, each with its state and datasets."""
    with suppress(Exception), _server(ctx) as ledger:
        newest = list(islice(ledger.runs(), READ_MAX))
        fitting = [item for item in newest if str(item["id"]).startswith(incomplete)]
        return [(str(item["id"]), _about(item)) for item in fitting[:NAMES_MAX]]
    return []


def _about(item: dict[str, object]) -> str:
    datasets = item.get("datasets")
    names = [str(one["name"]) for one in datasets if isinstance(one, dict)] if isinstance(datasets, list) else []
    return f"{item['state']} {', '.join(names)}".strip()


def mechanism_type(incomplete: str) -> list[str]:
    """Return the kinds of mechanisms that begin so."""
    return _fitting(BY_TYPE, incomplete)


def run_state(incomplete: str) -> list[str]:
    """Return the states of a run that begin so."""
    return _fitting(RUN_STATES, incomplete)

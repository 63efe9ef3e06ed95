"""How answers look in a terminal, by noun. Knows the shapes of answers, and neither a server nor a database."""

from ledger.cli.show import (
    advisories,
    alerts,
    bench,
    console,
    datasets,
    evidence,
    many,
    past,
    people,
    planned,
    run,
    runs,
)

__all__ = [
    "advisories",
    "alerts",
    "bench",
    "console",
    "datasets",
    "evidence",
    "many",
    "past",
    "people",
    "planned",
    "run",
    "runs",
]

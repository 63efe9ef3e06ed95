"""The command line: `privacy-ledger`.

    server   what opens the database: serve, init, migrate, check
    signing  the key that is signed with, in its file: signing-key
    people   what asks a server about people: whoami, tenant, key, policy, proposal
    datasets what asks a server about datasets: dataset
    runs     what asks a server about runs: request, batch, plan, start, settle, void, runs, evaluate
    audit    what asks a server for an auditor: export, report
    alerting what asks a server about alerts: alerts, alerting, forecast
    receipts the signed receipts of runs, with a server and without: receipt, jwks
    offline  what needs neither: verify
    proofs   proofs in a journal, from a server and without one: proof
    held     the receipts, heads and keys that an auditor brings along
    recomputing  what needs neither, and the accountant: recompute, registry
    mechanism  the options that declare a mechanism
    options, server_call   the options that commands share, and the call to a server
    show/    how answers look to a person, by noun

Exit status 0 is done (or proposed, where it takes two people), 1 refused (or an export, a database or a receipt that
does not hold), 2 bad usage or input, 3 cannot reach.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from ledger.cli import (
    alerting,
    audit,
    datasets,
    offline,
    people,
    proofs,
    receipts,
    recomputing,
    runs,
    server,
    signing,
)
from ledger.cli.show import console
from ledger.errors import Conflict, DatabaseUnusable, Internal, LedgerError, Overloaded

app = typer.Typer(
    name="privacy-ledger",
    help="The system of record for differential-privacy budgets.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for _part in (server, signing, runs, datasets, people, audit, receipts, alerting, offline, proofs, recomputing):
    _part.add_to(app)


def main() -> None:
    """The command line's entry point."""
    try:
        app()
    except LedgerError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "ledger":
            raise
        missing = f"{error.name} is missing: install the server with pip install 'privacy-ledger[server]'"
        console.plain(missing, file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # Whoever read the output has seen enough. Nothing is left to write, at exit either.
        sys.stdout = None
        sys.exit(0)


def _fail(error: LedgerError) -> NoReturn:
    if "--json" in sys.argv:
        facts = {"code": error.code, "detail": error.detail, **error.facts}
        console.print_json(facts, default=str)
    else:
        console.error(error)
    match error:
        case DatabaseUnusable() | Overloaded() | Internal() | LedgerError(code="unreachable"):
            sys.exit(3)
        case Conflict():
            sys.exit(1)
        case _:
            sys.exit(2)

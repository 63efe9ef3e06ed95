"""The command line: `privacy-ledger`.

    server       commands that open the database: serve, init, migrate, check
    signing      the signing key and its file: signing-key
    people       calls about people: whoami, tenant, key, policy, proposal
    datasets     calls about datasets: dataset
    runs         calls about runs: request, batch, plan, start, settle, void, runs, run, evaluate
    audit        calls for an auditor: export, report
    alerting     calls about alerts: alerts, alerting, forecast
    receipts     signed receipts of runs, fetched from a server and verified without one: receipt, jwks
    offline      without server and database: verify
    bench        measure a deployment: bench
    proofs       proofs about a journal, fetched from a server and verified without one: proof
    held         read the receipts, heads and keys that an auditor kept
    recomputing  without server and database, with the accountant: recompute, registry
    voiding      void many runs at once
    mechanism    the options that declare a mechanism
    load         many requests at once, each measured
    options, server_call   the options that commands share, and the call to a server
    show/        print answers for a person, by noun

Exit status: 0 done, or proposed if a second steward must approve; 1 refused, or an export, a database or a receipt does
not verify; 2 wrong usage or input; 3 the server or the database cannot be reached.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from ledger.cli import (
    alerting,
    audit,
    bench,
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
for _part in (server, signing, runs, datasets, people, audit, receipts, alerting, offline, proofs, recomputing, bench):
    _part.add_to(app)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except LedgerError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "ledger":
            raise
        missing = f"The package {error.name} is missing. Install the server: pip install 'privacy-ledger[server]'"
        console.plain(missing, file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # The reader closed the pipe, as `head` does. Python must not write to it at exit either.
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

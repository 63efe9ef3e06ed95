"""The command line: `privacy-ledger`.

    server       commands that open the database: serve, init, migrate, check
    signing      the signing key and its file: signing-key
    login        store a server and its key: login, logout
    profiles     where the server is, and with which key
    completion   complete names in the shell
    failing      errors: how they are printed, and their exit statuses
    people       calls about people: whoami, tenant, key, policy, proposal
    datasets     calls about datasets: dataset
    runs         calls about runs: request, batch, plan, start, settle, void, runs, run, evaluate
    audit        calls for an auditor: export, report
    alerting     calls about alerts: alerts, alerting, forecast
    receipts     signed receipts of runs, fetched from a server and verified without one: receipt, jwks
    offline      without server and database: verify
    advising     known faults of libraries, and the runs they touch: advisories
    events       events of dp-accounting, in and out: dp-event
    bench        measure a deployment: bench
    proofs       proofs about a journal, fetched from a server and verified without one: proof
    attesting    signed statements about what a run produced: attest
    held         read the receipts, heads and keys that an auditor kept
    recomputing  without server and database, with the accountant: recompute, registry
    correcting   correct a run
    voiding      void many runs at once
    mechanism    the options that declare a mechanism
    load         many requests at once, each measured
    options, server_call   the options that commands share, and the call to a server
    show/        print answers for a person, by noun

`failing.STATUSES` lists the exit statuses.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import typer.main

from ledger import __version__
from ledger.cli import (
    advising,
    alerting,
    attesting,
    audit,
    bench,
    datasets,
    events,
    failing,
    login,
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
from ledger.errors import LedgerError
from ledger.profiles import TYPED, Typed

_EPILOG: Final = "Exit status: " + "; ".join(f"{status} {text}" for status, text in failing.STATUSES.items()) + "."

app = typer.Typer(
    name="privacy-ledger",
    help="The system of record for differential-privacy budgets.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)
_PARTS: Final = (
    *(server, signing, login, runs, datasets, people, audit, receipts, attesting, alerting, offline, proofs),
    *(advising, events, recomputing, bench),
)
for _part in _PARTS:
    _part.add_to(app)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        console.plain(__version__)
        raise typer.Exit


@app.callback()
def _options(
    profile: Annotated[
        str | None,
        typer.Option(help="Use the server and key that `login` stored under this name, not the environment."),
    ] = None,
    url: Annotated[str | None, typer.Option(help="The server. Default: LEDGER_URL, else the profile's.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="A file with the key: alone, or as LEDGER_KEY=… Default: LEDGER_KEY.")
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    TYPED.set(Typed(profile, url, key_file))


def main() -> None:
    """Run the command line."""
    as_json = "--json" in sys.argv
    try:
        sys.exit(_run())
    except LedgerError as error:
        failing.fail(error, as_json=as_json)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "ledger":
            raise
        missing = f"The package {error.name} is missing. Install the server: pip install 'privacy-ledger[server]'"
        if as_json:
            failing.print_problem("package-missing", missing, {"package": error.name})
        else:
            console.plain(missing, file=sys.stderr)
        sys.exit(2)
    except typer.Abort:
        console.err.print("Stopped.")
        sys.exit(130)
    except BrokenPipeError:
        # The reader closed the pipe, as `head` does. Python must not write to it at exit either.
        sys.stdout = None
        sys.exit(0)
    except Exception as error:
        if not hasattr(error, "format_message"):  # an error of usage, whose class Typer does not publish
            raise
        failing.fail_usage(error, as_json=as_json)


def _run() -> int:
    """Run the command that was typed, and return its exit status."""
    command: Any = typer.main.get_command(app)
    result = command(standalone_mode=False)
    return result if isinstance(result, int) else 0

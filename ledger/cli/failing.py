"""Errors on the command line: how they are printed, and which exit status they have.

With --json, an error is a problem of RFC 9457 on standard output: errors of the server and of this program have the
same members.
"""

from __future__ import annotations

import sys
from typing import Any, Final, NoReturn

from ledger.cli.show import console
from ledger.errors import (
    Conflict,
    DatabaseUnusable,
    DatasetFrozen,
    Forbidden,
    Internal,
    LedgerError,
    NotFound,
    Overloaded,
    RunWaits,
    Unauthenticated,
)
from ledger.suggest import nearest

STATUSES: Final = {
    0: "done, or proposed if it takes two people",
    1: "refused, or an export, a database or a receipt that does not hold",
    2: "wrong usage or input; for `recompute`, a file that does not verify",
    3: "nobody answers, or the server or its database is overloaded",
    4: "no valid key, or a key that may not do this",
    5: "no such dataset, run, key, proposal or profile",
    6: "a dataset is frozen or retired",
    7: "the run waits for a steward; repeat the command later",
}
"""What every exit status means."""


def status_of(error: LedgerError) -> int:
    """Return the exit status for an error."""
    match error:
        case DatasetFrozen():
            return 6
        case RunWaits():
            return 7
        case NotFound():
            return 5
        case Unauthenticated() | Forbidden():
            return 4
        case DatabaseUnusable() | Overloaded() | Internal() | LedgerError(code="unreachable"):
            return 3
        case Conflict():
            return 1
        case _:
            return 2


def fail(error: LedgerError, *, as_json: bool) -> NoReturn:
    """Print an error, and exit with its status."""
    if as_json:
        print_problem(error.code, error.detail, error.facts)
    else:
        console.error(error)
    sys.exit(status_of(error))


def print_problem(code: str, detail: str, facts: dict[str, Any]) -> None:
    """Print a problem of RFC 9457 as JSON."""
    title = code.replace("-", " ").capitalize()
    problem = {"type": f"urn:privacy-ledger:problem:{code}", "title": title, "code": code, "detail": detail, **facts}
    console.print_json(problem, default=str)


def fail_usage(error: Any, *, as_json: bool) -> NoReturn:
    """Print an error of usage that Typer found, with the option that was probably meant, and exit with status 2."""
    detail = _usage(error)
    context = getattr(error, "ctx", None)
    if as_json:
        print_problem("usage", detail, {})
    else:
        if context is not None:
            console.plain(context.get_usage(), file=sys.stderr)
        console.err.print(f"privacy-ledger: {console.visible(detail)}")
        if context is not None:
            console.err.print(f"    {context.command_path} --help")
    sys.exit(2)


def _usage(error: Any) -> str:
    option = getattr(error, "option_name", None)
    context = getattr(error, "ctx", None)
    if context is None or not isinstance(option, str) or not hasattr(error, "possibilities"):
        return str(error.format_message())
    options = [name for parameter in context.command.params for name in parameter.opts if name.startswith("--")]
    meant = nearest(option, options)
    return f"There is no option {option}." + (f" Did you mean {meant}?" if meant else "")

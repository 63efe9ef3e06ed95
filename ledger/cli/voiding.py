"""Void many runs at once, such as a sweep."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import typer

from ledger.cli import show
from ledger.cli.server_call import print_answer, server
from ledger.cli.show import console
from ledger.errors import InvalidRequest, LedgerError

if TYPE_CHECKING:
    from ledger.client import Ledger

VOIDED_MAX: Final = 1000


def void_all(filters: dict[str, Any], reason: str, *, yes: bool, data_independent: bool, as_json: bool) -> None:
    """Show the runs that satisfy the filters, ask, and void each with the reason. Print the result of each.

    Exit status 1 if one could not be voided. Raises InvalidRequest if there are too many.
    """
    if filters["state"] not in ("held", "started"):
        raise InvalidRequest("state: only held and started runs can be voided", field="state")
    with server() as ledger:
        found = [item for _, item in zip(range(VOIDED_MAX + 1), ledger.runs(**filters), strict=False)]
        if len(found) > VOIDED_MAX:
            raise InvalidRequest(
                f"More than {VOIDED_MAX:,} runs match. Narrow them down, for example with --dataset.", field="run"
            )
        if not yes:
            _ask(found, as_json)
        results = [_voided(ledger, run["id"], reason, data_independent) for run in found]
    print_answer({"results": results}, as_json, lambda answer: show.many.voided(answer["results"]))
    if any("problem" in result for result in results):
        sys.exit(1)


def _ask(found: list[dict[str, Any]], as_json: bool) -> None:
    """Show what would be voided, and ask. Ends the program if the answer is no."""
    if as_json or not sys.stdin.isatty():
        raise InvalidRequest(
            f"yes: {console.counted(len(found), 'run')} would be voided. Add --yes to void them without being asked.",
            field="yes",
            runs=[run["id"] for run in found],
        )
    show.runs.runs(console.in_one_line(found))
    if not found or not typer.confirm(f"Void {console.counted(len(found), 'run')}?", err=True):
        console.err.print("Nothing was voided.")
        sys.exit(1)


def _voided(ledger: Ledger, run: str, reason: str, data_independent: bool) -> dict[str, Any]:
    """Return what became of one run: `voided`, `proposed`, or the problem. A run may have moved on meanwhile."""
    try:
        answer = ledger.void(run, reason=reason, data_independent=data_independent)
    except LedgerError as error:
        if error.code == "unreachable":
            raise
        return {"run": run, "problem": {"code": error.code, "detail": error.detail}}
    return {"run": run, **answer}

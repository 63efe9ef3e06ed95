"""Print what became of several runs at once in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from ledger.cli.show import rows
from ledger.cli.show.console import err, number, out, up
from ledger.cli.show.runs import plain_percent

if TYPE_CHECKING:
    from ledger.api.schemas.problems import BatchResult

WARNINGS_MAX: Final = 10
"""How many different warnings about the runs of a batch are printed."""


def batch(
    asked: Sequence[Mapping[str, Any]], results: Sequence[BatchResult], *, is_refused: bool, fitting: int | None = None
) -> None:
    """Print the outcome of each run of a batch, one per line, in order. fitting: how many fit together, if refused."""
    cells: list[tuple[str | Text, ...]] = []
    for index, (run, result) in enumerate(zip(asked, results, strict=True), start=1):
        uses = run.get("datasets", ())
        names = ", ".join(str(use.get("name") if isinstance(use, dict) else use) for use in uses)
        cells.append((str(index), names, *_outcome(result)))
    console = err if is_refused else out
    columns = ("", "datasets", "outcome", "run", "%", "mu")
    table = rows.Rows(columns, cells, right=("", "%", "mu"), ids=("run",), texts=("datasets",), drop=("datasets",))
    rows.show(table, console=console)
    for text in _warnings_of(results):
        console.print(Text.assemble(("warning", "bold yellow"), f": {text}"))
    if is_refused:
        console.print("Not every run can be approved. Nothing was recorded.")
        if fitting:
            console.print(f"{fitting:,} of {len(asked):,} fit together: --as-many-as-fit in place of --atomic.")


def _warnings_of(results: Sequence[BatchResult]) -> list[str]:
    """Return the different warnings about the runs of a batch, a few at most."""
    outcomes: list[Mapping[str, Any]] = [result.get("run") or result.get("problem") or {} for result in results]
    return list(dict.fromkeys(text for outcome in outcomes for text in outcome.get("warnings", ())))[:WARNINGS_MAX]


def _outcome(result: BatchResult) -> tuple[Text, str, str, str]:
    """Return the outcome of a run of a batch: the verdict, its id, its percent of the budget and its mu."""
    approval = result.get("run")
    if approval is not None:
        part = plain_percent(approval.get("percent"))
        return Text("approved", style="green"), approval["id"], part, up(approval["cost"]["mu"])
    problem: Mapping[str, object] = result.get("problem") or {}
    return Text(str(problem.get("code")), style="bold red"), str(problem.get("run", "")), "", ""


def voided(results: Sequence[Mapping[str, Any]]) -> None:
    """Print what became of each run that was to be voided."""
    if not results:
        err.print("No runs match.")
        return
    cells = [(result["run"], *_voided(result)) for result in results]
    rows.show(rows.Rows(("run", "", "mu returned", "note"), cells, right=("mu returned",), texts=("note",)))


def _voided(result: Mapping[str, Any]) -> tuple[str, str, str]:
    if "problem" in result:
        return "not voided", "", result["problem"]["detail"]
    if "proposal" in result:
        return "proposed", "", f"privacy-ledger proposal approve {result['proposal']['id']} --reason …"
    kept, returned = result.get("kept"), result.get("returned")
    note = "" if kept is None else f"kept mu {number(kept['mu'])} for {', '.join(result.get('kept_for', ()))}"
    return "voided", "" if returned is None else number(returned["mu"]), note


def sent_later(answer: Mapping[str, Any]) -> None:
    """Print the settlements that were sent, and the runs whose settlements still wait."""
    for item in answer["sent"]:
        out.print(f"{item['run']}  {item['outcome']}")
    for run in answer["waiting"]:
        out.print(f"{run}  still waits")
    if not answer["sent"] and not answer["waiting"]:
        err.print("No settlement waits on this machine.")

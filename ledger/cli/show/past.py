"""Print past runs in a terminal: what each costs, and what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from ledger.cli.show import rows
from ledger.cli.show.console import ADD_UP, down, out, up
from ledger.cli.show.runs import plain_percent

if TYPE_CHECKING:
    from ledger.service.shapes.past import PastRunShown, PastRunsShown


def runs(answer: PastRunsShown) -> None:
    """Print what past runs cost, or would cost."""
    title = "Preview: nothing is recorded" if answer["preview"] else "Entered"
    out.print(Text.assemble((title, "bold"), "  declared, not observed"))
    right = ("", "% of budget", "mu", "epsilon")
    columns = ("", "ran at", "purpose", "mechanism", "% of budget", "mu", "epsilon", "verdict")
    cells = [_cells(position, run) for position, run in enumerate(answer["runs"], start=1)]
    rows.show(rows.Rows(columns, cells, right=right, texts=("purpose",), drop=("ran at",)))
    out.print(f"together: {plain_percent(answer['percent'])} % of the budget, mu {up(answer['cost']['mu'])}. {ADD_UP}")
    for dataset in answer["datasets"]:
        if dataset["after"] is not None:
            left = f"{plain_percent(dataset['percent_left'])} % of the budget, mu {down(dataset['after']['mu'])}"
            out.print(f"left of {dataset['name']}: {left}")
    for name in answer["frozen"]:
        what = "would be overdrawn and frozen" if answer["preview"] else "is overdrawn and frozen"
        out.print(Text(f"{name} {what}: more was spent than its budget allows", style="bold red"))
    if answer["preview"]:
        out.print("Enter them with --enter. What is too much is given back only by a correction of two people.")


def _cells(position: int, run: PastRunShown) -> tuple[str, ...]:
    verdict = "entered before" if run["replayed"] else "fits" if run["fits"] else "does not fit"
    epsilon = run["epsilon"][0]["value"] if run["epsilon"] else None
    return (
        str(position),
        (run["ran_at"] or "")[:10],
        run["purpose"] or "",
        str(run["mechanism"].get("type")),
        plain_percent(run["percent"]),
        up(run["cost"]["mu"]),
        "-" if epsilon is None else up(epsilon),
        verdict,
    )

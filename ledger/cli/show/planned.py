"""Print a plan of several runs in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ledger.cli.show import rows
from ledger.cli.show.console import number, out
from ledger.cli.show.runs import use_text

if TYPE_CHECKING:
    from ledger.service.shapes.accountant import PlannedRun, PlannedRuns


def runs(asked: Sequence[Mapping[str, Any]], answer: PlannedRuns) -> None:
    """Print which of several runs fit, one after another, and what is left afterwards."""
    out.print(f"{answer['fitting']:,} of {len(answer['runs']):,} runs fit, in this order.")
    cells = [
        (
            str(position),
            ", ".join(map(use_text, run.get("datasets", ()))),
            str(run.get("mechanism", {}).get("type", "")),
            "-" if planned["cost"] is None else number(planned["cost"]["mu"]),
            _verdict(planned),
        )
        for position, (run, planned) in enumerate(zip(asked, answer["runs"], strict=True), start=1)
    ]
    columns = ("", "datasets", "mechanism", "mu", "verdict")
    rows.show(rows.Rows(columns, cells, right=("", "mu"), texts=("verdict", "datasets"), drop=("mechanism",)))
    for dataset in answer["datasets"]:
        if dataset["after"] is not None:
            left = f"{dataset['percent_left']:g} % of the budget, mu {number(dataset['after']['mu'])}"
            out.print(f"left of {dataset['name']} afterwards: {left}")
    if answer["order"] is not None:
        positions = ", ".join(str(position + 1) for position in answer["order"])
        out.print(f"{len(answer['order']):,} fit if the cheapest come first: {positions}")


def _verdict(planned: PlannedRun) -> str:
    if planned["waits"]:
        return "waits for a steward"
    if planned["fits"]:
        return "fits"
    return planned["detail"] or "does not fit"

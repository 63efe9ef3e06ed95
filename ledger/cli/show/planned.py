"""Print plans in a terminal: of one run, and of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from rich.table import Table
from rich.text import Text

from ledger.cli.show import notes, rows
from ledger.cli.show.console import ADD_UP, down, epsilons, new_grid, number, out, remaining_text, up
from ledger.cli.show.runs import (
    add_segments,
    bindings_of,
    cost,
    fitting,
    left_of,
    of_budget,
    runs_left,
    use_text,
)

if TYPE_CHECKING:
    from ledger.service.shapes.accountant import AttackShown, Planned, PlannedOn, PlannedRun, PlannedRuns, Solution

_OF_NOISE: Final = ("noise_multiplier", "noise_scale")
"""The parameters of which more costs less."""
_WAITS: Final = ", which waits for a steward"


def runs(asked: Sequence[Mapping[str, Any]], answer: PlannedRuns) -> None:
    """Print which of several runs fit, one after another, and what is left afterwards."""
    out.print(f"{answer['fitting']:,} of {len(answer['runs']):,} runs fit, in this order.")
    cells = [
        (
            str(position),
            ", ".join(map(use_text, run.get("datasets", ()))),
            str(run.get("mechanism", {}).get("type", "")),
            "-" if planned["cost"] is None else number(planned["cost"]["mu"]),
            _verdict_in_words(planned),
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


def _verdict_in_words(planned: PlannedRun) -> str:
    if planned["waits"]:
        return "waits for a steward"
    if planned["fits"]:
        return "fits"
    return planned["detail"] or "does not fit"


def one(
    answer: Planned,
    *,
    solve_for: str | None,
    suggest: Callable[[str, Any], str],
    declared: Mapping[str, Any] | None = None,
) -> None:
    """Print whether a run would fit, and otherwise what would fit, as a command to paste. declared: its mechanism."""
    datasets = answer["datasets"]
    stopped = [f", {dataset['name']} is {dataset['state']}" for dataset in datasets if dataset["state"] != "active"]
    names = ", ".join(dataset["name"] for dataset in datasets)
    out.print(Text.assemble(_verdict(answer), f"  {names}{''.join(stopped)}"))
    if answer["waits"]:
        asks = f"It fits, but asks for more of {', '.join(answer['waits_for'])} than one run may have"
        out.print(f"{asks} before a steward approves it.")
    grid = new_grid()
    cost(grid, answer)
    add_segments(grid, answer.get("segments"))
    _left(grid, "left", "remaining", datasets)
    if "at_most" in answer:
        most = answer["at_most"]
        may = f"mu {down(most['amount']['mu'])}, delta {down(most['amount']['delta'])}"
        grid.add_row("at most", f"{most['percent']:g} % of what is left: {may}")
    _left(grid, "after", "after", datasets)
    runs_left(grid, answer)
    grid.add_row("attacker finds", _found(answer["attack"]))
    grid.add_row("method", f"{answer['method']}{', an estimate' if answer['is_estimate'] else ''}")
    notes.expected_batch(grid, answer)
    out.print(grid)
    out.print(ADD_UP)
    notes.notes(answer, declared)
    if answer["binding"] and len(datasets) + len(answer["binding"]) > 2:
        rows.show(bindings_of(answer["binding"]))
    if solve_for is not None:
        _solved(answer["solution"], solve_for, suggest)
        one = answer.get("as_one")
        if one is not None:
            waits = _WAITS if one.get("waits") else ""
            part = of_budget(one.get("percent"), None, "the budget")
            which = (
                f"with {one['solve_for']} {one['value']}, for {f'{part}, ' if part else ''}mu {up(one['cost']['mu'])}"
            )
            out.print(f"as one run: {one['runs']:,} of them, {which}{waits}")
            out.print(f"    {suggest(one['solve_for'], one['value'])}")
    elif not answer["fits"]:
        fitting(out, answer["would_fit"], suggest)
        if answer["would_wait"]:
            options = ", ".join(name.replace("_", " ") for name in answer["would_wait"])
            out.print(f"With the change of {options} it would still wait for a steward.")


def unsolvable(answer: Planned, *, solve_for: str) -> None:
    """Print that no value of a parameter fits, which the command left out."""
    names = ", ".join(dataset["name"] for dataset in answer["datasets"])
    out.print(Text.assemble(("does not fit", "bold red"), f"  {names}: no value of {solve_for} fits in what is left"))


def _found(attack: AttackShown) -> str:
    wrong = f"{attack['wrong_percent']:g} % of the others"
    return f"at most {up(attack['found_percent'])} % of those in the data, if wrong about {wrong}"


def _verdict(answer: Planned) -> Text:
    if not answer["fits"]:
        return Text("does not fit", style="bold red")
    return Text("waits for a steward", style="bold yellow") if answer["waits"] else Text("fits", style="bold green")


def _left(grid: Table, label: str, name: Literal["remaining", "after"], datasets: Sequence[PlannedOn]) -> None:
    """Add what is left of each dataset before or after a run. A dataset without a budget of its own has no amount."""
    for dataset in datasets:
        amount = dataset[name]
        if amount is None:
            continue
        parts = (
            (dataset.get("percent_left"), dataset.get("percent_of_delta_left"))
            if name == "remaining"
            else (dataset.get("percent_after"), dataset.get("percent_of_delta_after"))
        )
        alone = epsilons(dataset.get("epsilon", ()), name, rounded=down)
        which = f" of {dataset['name']}" if len(datasets) > 1 else ""
        mu = f"mu {remaining_text(amount)}, delta {down(amount['delta'])}{which}"
        grid.add_row(label, f"{left_of(*parts)}{alone}{', ' if alone else ''}{mu}")
        label = ""


def _solved(solution: Solution | None, solve_for: str, suggest: Callable[[str, Any], str]) -> None:
    waits = _WAITS if solution is not None and solution["waits"] else ""
    if solution is None:
        out.print(f"{solve_for}: no value fits")
    elif solution["solve_for"] == "runs":
        out.print(f"runs: at most {solution['value']:,} exactly like this one{waits}")
    else:
        name = solution["solve_for"]
        out.print(f"{name}: at {'least' if name in _OF_NOISE else 'most'} {solution['value']}{waits}")
        out.print(f"    {suggest(name, solution['value'])}")
